//! Stories behind Istio: istiod with an Envoy as its gateway carries out what Serin writes, and what the judge measures there is what
//! the built-in queries ask for.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::gates::Gates;
use super::planes::{self, Header, PLAIN, Plane, answer, enough, turned_over};
use super::shop::{self, Gateway, PATIENCE, Plan, RATE, Shop, flawless};
use super::stays::{ENOUGH, Stays};
use super::workloads;
use crate::bed::Bed;
use crate::bed::parts::ISTIO_TCP_PORT;
use crate::figures::{Figures, Share};
use crate::load::{HeaderGroup, Load, LoadPlan};

pub const ISTIO: Plane = Plane {
    provider: "istio",
    gateway: Gateway::Istio,
    object: ("networking.istio.io/v1beta1", "VirtualService", "app"),
    weights: |object| {
        let route = &object["spec"]["http"][0]["route"];
        let of = |name: &str| {
            let mut entries = route.as_array().into_iter().flatten();
            let found = entries.find(|entry| entry["destination"]["host"] == name);
            found.map_or(-1, |entry| entry["weight"].as_i64().unwrap_or(0))
        };
        (of("app-primary"), of("app-canary"))
    },
    edit: || turned_over("/spec/http/0/route"),
    // Fields of the object, of its spec, and inside the list of routes, which is Serin's as a whole.
    additions: || {
        json!([
            {"op": "add", "path": "/metadata/labels", "value": {"team": "night"}},
            {"op": "add", "path": "/spec/exportTo", "value": ["*"]},
            {"op": "add", "path": "/spec/http/0/name", "value": "main"},
            {"op": "add", "path": "/spec/http/0/fault", "value": {"delay": {"fixedDelay": "1ms", "percentage": {"value": 1}}}},
        ])
    },
    taken_over: true,
    counted: "istio_requests_total{destination_workload_namespace=\"${NAMESPACE}\", destination_workload=\"app\"}",
    ..PLAIN
};

async fn open<'a>(bed: &'a Bed, story: &str, plan: Plan) -> Result<Shop<'a>> {
    shop::serin(bed).await?;
    shop::istio(bed).await?;
    let plan = Plan {
        gateway: Gateway::Istio,
        ..plan
    };
    Shop::open(bed, story, plan).await
}

/// A `VirtualService` of the user is taken over with visitors in the shop, a good release is promoted in the steps that were asked for, a
/// bad one is found out by Istio's own series; and whatever people do to the route meanwhile, the split is that of the run.
pub async fn release(bed: &Bed) -> Result<()> {
    planes::release(bed, "istio-release", &ISTIO).await
}

/// A/B: by header, by a part of the cookies, by query parameter, also where the service takes only some paths.
pub async fn insiders(bed: &Bed) -> Result<()> {
    let gates = Gates::start().await?;
    gates.close("promotion");
    let plan = Plan {
        analysis: json!({
            "threshold": 2, "iterations": 2,
            "match": [
                {"headers": {"x-canary": {"exact": "insider"}}},
                {"headers": {"cookie": {"regex": "^(.*?; ?)?(beta=yes)(;.*)?$"}}},
                {"headers": {"x-build": {"suffix": "+beta"}}},
                {"queryParams": {"preview": {"exact": "1"}}},
            ],
            "webhooks": gates.hook("confirm-promotion", "promotion"),
        }),
        service: json!({"match": [{"uri": {"prefix": "/"}}]}),
        rate: 0.0,
        ..Plan::default()
    };
    let mut shop = open(bed, "istio-ab", plan).await?;
    bed.wait_served_at(shop.gateway.address(), &shop.host, Duration::from_secs(30))
        .await?;
    let mut visitors = LoadPlan::new(shop.gateway.address(), Some(&shop.host), RATE);
    visitors.users = 40;
    visitors.groups = vec![HeaderGroup {
        name: "insiders".to_owned(),
        share: 0.25,
        headers: vec![("cookie".to_owned(), "theme=dark; beta=yes".to_owned())],
    }];
    shop.load = Some(Load::start_plan(&visitors)?);
    shop.release("1.1.0").await?;
    shop.wait_phase("WaitingPromotion").await?;
    let judged = shop.load()?.mark();
    let cases: [(&[Header], &str, &str); 10] = [
        (&[("x-canary", "insider")], "", "1.1.0"),
        (&[("x-canary", "outsider")], "", "1.0.0"),
        (&[("cookie", "beta=yes")], "", "1.1.0"),
        (&[("cookie", "theme=dark; beta=yes; a=b")], "", "1.1.0"),
        (&[("cookie", "beta=no")], "", "1.0.0"),
        (&[("x-build", "7+beta")], "", "1.1.0"),
        (&[("x-build", "7-beta")], "", "1.0.0"),
        (&[], "?preview=1", "1.1.0"),
        (&[], "?preview=0", "1.0.0"),
        (&[], "", "1.0.0"),
    ];
    for (headers, query, expected) in cases {
        for _ in 0..5 {
            let found = answer(&shop, headers, query).await?;
            ensure!(
                found == expected,
                "{headers:?} {query:?} leads to {expected}, but {found} answered"
            );
        }
    }
    let report = enough(&shop, judged).await?;
    for (group, version) in [("insiders", "1.1.0"), ("plain", "1.0.0")] {
        let answers = report.groups.get(group).cloned().unwrap_or_default();
        ensure!(
            answers.keys().eq([version]),
            "{group} are answered by {version} alone: {answers:?}"
        );
    }
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    let whole = shop.close().await?;
    let found = format!(
        "by header, cookie and query: none of {} astray",
        report.answered() + 5 * cases.len() as u64
    );
    let figures = Figures::new(&ISTIO.route(), Gateway::Istio.name(), &whole, 0, found);
    bed.figures().note("istio-ab", figures);
    flawless(&whole)
}

/// A canary by weights whose first step is copies: enough to find out a release that fails every request before anybody has met it.
pub async fn mirrored(bed: &Bed) -> Result<()> {
    let stays = Stays::start().await?;
    let plan = Plan {
        analysis: json!({
            "interval": "5s", "threshold": 2, "stepWeight": 50, "maxWeight": 50, "mirror": true, "mirrorWeight": 50,
            "webhooks": stays.hooks(),
        }),
        ..Plan::default()
    };
    let shop = open(bed, "istio-mirrored", plan).await?;
    let copies = format!(
        "sum(rate(istio_requests_total{{destination_workload_namespace=\"{}\", destination_workload=\"app\"}}[3s]))",
        shop.namespace.name()
    );
    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    let rate = bed
        .wait("copies of half the requests", PATIENCE, async || {
            let near = |rate: &f64| (*rate - RATE / 2.0).abs() < RATE / 16.0;
            Ok(bed.query(&copies).await?.filter(near))
        })
        .await?;
    ensure!(
        (shop.load()?.report_since(opened).share_of("1.0.0") - 1.0).abs() < f64::EPSILON,
        "while copies are judged, all visitors are answered by 1.0.0"
    );
    shop.wait_weight(50).await?;
    stays.hold();
    let share = stays.measure(&shop, "1.1.0", 50).await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;

    let mark = shop.load()?.mark();
    shop.release_with("1.2.0", &[("ERROR_RATE", "1")]).await?;
    shop.wait_phase("Failed").await?;
    let bad = shop.load()?.settled_since(mark).await;
    ensure!(
        (bad.share_of("1.1.0") - 1.0).abs() < f64::EPSILON,
        "no visitor may meet a release that is only sent copies:\n{bad}"
    );
    println!("        {rate:.0} copies a second of {RATE:.0} requests");
    let whole = shop.close().await?;
    let found = format!("copies of half first; {share}");
    let figures = Figures::new(&ISTIO.route(), Gateway::Istio.name(), &whole, 0, found);
    bed.figures().note("istio-mirrored", figures);
    flawless(&whole)
}

/// Session affinity by both cookies.
pub async fn regulars(bed: &Bed) -> Result<()> {
    shop::istio(bed).await?;
    workloads::stay(bed, "istio-regulars", Gateway::Istio).await
}

/// Connections instead of requests: whoever connects anew is on the other side as often as was asked for.
pub async fn connections(bed: &Bed) -> Result<()> {
    // While it is promoted, the primary answers with the new version too: what is counted ends before that.
    let gates = Gates::start().await?;
    gates.close("promotion");
    let plan = Plan {
        analysis: json!({
            "threshold": 2, "stepWeight": 30, "maxWeight": 30, "metrics": [],
            "webhooks": gates.hook("confirm-promotion", "promotion"),
        }),
        service: json!({"appProtocol": "tcp", "hosts": ["*"], "gateways": ["istio-system/bed-tcp"]}),
        rate: 0.0,
        ..Plan::default()
    };
    let shop = open(bed, "istio-tcp", plan).await?;
    // None is kept for the next request.
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()?;
    let connect = async || -> Result<String> {
        let answer = client
            .get(format!("http://127.0.0.1:{ISTIO_TCP_PORT}"))
            .send()
            .await?;
        let version = answer.headers().get(crate::demo_app::VERSION_HEADER);
        let version = version.and_then(|version| version.to_str().ok());
        Ok(version.unwrap_or_default().to_owned())
    };
    bed.wait("connections to the primary", PATIENCE, async || {
        Ok((connect().await? == "1.0.0").then_some(()))
    })
    .await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(30).await?;
    bed.wait("a connection to the new release", PATIENCE, async || {
        Ok((connect().await? == "1.1.0").then_some(()))
    })
    .await?;
    let (all, mut new) = (ENOUGH, 0_u32);
    for _ in 0..all {
        match connect().await?.as_str() {
            "1.1.0" => new += 1,
            "1.0.0" => {}
            other => anyhow::bail!("nobody expected an answer of {other:?}"),
        }
    }
    let (share, expected) = (f64::from(new) / all as f64, 0.3_f64);
    let allowed = 4.0 * (expected * (1.0 - expected) / all as f64).sqrt();
    ensure!(
        (share - expected).abs() < allowed,
        "{new} of {all} connections led to the new release, expected {expected} ± {allowed:.2}"
    );
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    bed.wait(
        "all connections to lead to the primary",
        PATIENCE,
        async || Ok((connect().await? == "1.1.0").then_some(())),
    )
    .await?;
    let share = Share {
        asked: 30,
        measured: share,
        answers: all,
    };
    let figures = Figures {
        route: "istio, VirtualService of connections".to_owned(),
        plane: Gateway::Istio.name().to_owned(),
        sent: all,
        lost: 0,
        away: 0,
        split: share.to_string(),
    };
    bed.figures().note("istio-tcp", figures);
    Ok(())
}
