//! Stories behind Istio: istiod with an Envoy as its gateway carries out what Serin writes, and what the judge measures there is what
//! the built-in queries ask for.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::gates::Gates;
use super::shop::{self, Gateway, PATIENCE, Plan, RATE, Shop, flawless, only_failed};
use super::workloads;
use crate::bed::Bed;
use crate::bed::parts::ISTIO_TCP_PORT;
use crate::load::{HeaderGroup, Load, LoadPlan, Mark};

/// The name under which somebody edits by hand.
const NIGHT_SHIFT: &str = "night-shift";

async fn open<'a>(bed: &'a Bed, story: &str, plan: Plan) -> Result<Shop<'a>> {
    shop::serin(bed).await?;
    shop::istio(bed).await?;
    let plan = Plan {
        gateway: Gateway::Istio,
        ..plan
    };
    Shop::open(bed, story, plan).await
}

/// Somebody edits the route by hand.
async fn edit(shop: &Shop<'_>, operations: Value) -> Result<()> {
    let (api_version, kind) = shop.routes();
    let routes = shop
        .bed
        .api_of(api_version, kind, shop.namespace.name())
        .await?;
    let params = PatchParams {
        field_manager: Some(NIGHT_SHIFT.to_owned()),
        ..PatchParams::default()
    };
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(operations)?);
    routes.patch("app", &params, &patch).await?;
    Ok(())
}

/// Measures two seconds of a step whose weight the gateway is known to have.
async fn measure(shop: &Shop<'_>, version: &str, percent: i64) -> Result<f64> {
    let share = percent as f64 / 100.0;
    let name = shop.namespace.name();
    shop.bed
        .wait(
            &format!("the gateway to give {version} of {name} about {percent} %"),
            Duration::from_secs(20),
            async || {
                let recent = shop
                    .load()?
                    .report_since(shop.load()?.mark_ago(Duration::from_millis(500)));
                Ok(
                    (recent.answered() > 50 && recent.split_within(version, share, 3.0).is_ok())
                        .then_some(()),
                )
            },
        )
        .await?;
    let settled = shop.load()?.mark();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = shop.load()?.report_between(settled, shop.load()?.mark());
    report.split_within(version, share, 4.0)
}

/// A `VirtualService` of the user is taken over with visitors in the shop, a good release is promoted in the steps that were asked for, a
/// bad one is found out by Istio's own series; and whatever people do to the route meanwhile, the split is that of the run.
pub async fn release(bed: &Bed) -> Result<()> {
    let plan = Plan {
        analysis: json!({"interval": "6s", "threshold": 2, "stepWeight": 25, "maxWeight": 50}),
        own_route: true,
        ..Plan::default()
    };
    let shop = open(bed, "istio-release", plan).await?;
    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    shop.wait_weight(25).await?;
    let first = measure(&shop, "1.1.0", 25).await?;
    put_back(&shop).await?;
    add_what_is_not_ours(&shop).await?;

    shop.wait_weight(50).await?;
    shop.wait_route((50, 50)).await?;
    what_is_not_ours_is_there(&shop).await?;
    let second = measure(&shop, "1.1.0", 50).await?;
    let before = shop
        .load()?
        .settled_between(opened, shop.load()?.mark())
        .await;
    flawless(&before)?;
    let (lost, again) = rebuilt(&shop).await?;

    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0"
            && shop.route().await? == (100, 0),
        "the primary runs the release and has all traffic"
    );
    shop.wait_only("1.1.0").await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.2")]).await?;
    let failed = shop.wait_phase("Failed").await?;
    let cause = failed.data["status"]["history"]
        .as_array()
        .and_then(|runs| runs.last())
        .map(|run| run["cause"].to_string())
        .unwrap_or_default();
    ensure!(
        cause.contains("success rate"),
        "the cause names what was measured: {cause}"
    );
    shop.wait_only("1.1.0").await?;
    let after = shop.load()?.settled_since(again).await;
    ensure!(
        after.failed_of("1.2.0") > 0,
        "the bad release did fail requests"
    );
    println!(
        "        measured {:.1} % of 25 and {:.1} % of 50; {lost} requests met a gateway without a route while it was deleted",
        first * 100.0,
        second * 100.0
    );
    only_failed(&after, "1.2.0")
}

/// Weights edited by hand are put back, and an event names the editor.
async fn put_back(shop: &Shop<'_>) -> Result<()> {
    edit(
        shop,
        json!([
            {"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 5},
            {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": 95},
        ]),
    )
    .await?;
    let edited = Instant::now();
    shop.wait_route((75, 25)).await?;
    let took = edited.elapsed();
    ensure!(
        took < Duration::from_secs(1),
        "putting the weights back took {took:?}"
    );
    shop.bed
        .wait("an event that names the editor", PATIENCE, async || {
            let events = shop.events().await?;
            Ok(events
                .iter()
                .any(|text| text.contains(NIGHT_SHIFT))
                .then_some(()))
        })
        .await
}

/// Fields of others: of the object, of its spec, and inside the list of routes, which is Serin's as a whole.
async fn add_what_is_not_ours(shop: &Shop<'_>) -> Result<()> {
    let delay = json!({"delay": {"fixedDelay": "1ms", "percentage": {"value": 1}}});
    edit(
        shop,
        json!([
            {"op": "add", "path": "/metadata/labels", "value": {"team": "night"}},
            {"op": "add", "path": "/spec/exportTo", "value": ["*"]},
            {"op": "add", "path": "/spec/http/0/name", "value": "main"},
            {"op": "add", "path": "/spec/http/0/fault", "value": delay},
        ]),
    )
    .await
}

async fn what_is_not_ours_is_there(shop: &Shop<'_>) -> Result<()> {
    let (api_version, kind) = shop.routes();
    let route = shop.namespace.get(api_version, kind, "app").await?;
    let spec = &route.data["spec"];
    let labels = route.metadata.labels.unwrap_or_default();
    ensure!(
        labels.get("team").is_some_and(|team| team == "night")
            && spec["exportTo"] == json!(["*"])
            && spec["http"][0]["name"] == "main"
            && spec["http"][0]["fault"]["delay"]["fixedDelay"] == "1ms",
        "what others wrote outlives a step: {labels:?} {spec}"
    );
    Ok(())
}

/// The route is deleted and made again with the split of the run. Says how many requests were lost meanwhile, and since when none was.
async fn rebuilt(shop: &Shop<'_>) -> Result<(u64, Mark)> {
    let (api_version, kind) = shop.routes();
    let routes = shop
        .bed
        .api_of(api_version, kind, shop.namespace.name())
        .await?;
    let gone = shop.load()?.mark();
    routes.delete("app", &DeleteParams::background()).await?;
    shop.note("deleted the route".to_owned());
    shop.bed
        .wait(
            "the route to be there again",
            Duration::from_secs(5),
            async || Ok((shop.route().await? == (50, 50)).then_some(())),
        )
        .await?;
    shop.bed
        .wait("the gateway to have it again", PATIENCE, async || {
            let recent = shop
                .load()?
                .report_since(shop.load()?.mark_ago(Duration::from_millis(500)));
            Ok((recent.answered() > 50 && recent.none_lost().is_ok()).then_some(()))
        })
        .await?;
    let again = shop.load()?.mark();
    let meanwhile = shop.load()?.settled_between(gone, again).await;
    Ok((meanwhile.lost(), again))
}

/// Name and value.
type Header = (&'static str, &'static str);

/// Who answers a request with these headers and this query.
async fn answer(shop: &Shop<'_>, headers: &[Header], query: &str) -> Result<String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_str(value)?,
        );
    }
    let answer = reqwest::Client::new()
        .get(format!("{}/{query}", shop.gateway.address()))
        .header("host", &shop.host)
        .headers(map)
        .send()
        .await?;
    let version = answer
        .headers()
        .get(crate::demo_app::VERSION_HEADER)
        .and_then(|version| version.to_str().ok())
        .with_context(|| format!("an answer of {} without a version", answer.status()))?;
    Ok(version.to_owned())
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
    let report = shop
        .load()?
        .settled_between(judged, shop.load()?.mark())
        .await;
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
    flawless(&shop.close().await?)
}

/// A canary by weights whose first step is copies: enough to find out a release that fails every request before anybody has met it.
pub async fn mirrored(bed: &Bed) -> Result<()> {
    let plan = Plan {
        analysis: json!({"interval": "5s", "threshold": 2, "stepWeight": 50, "maxWeight": 50, "mirror": true, "mirrorWeight": 50}),
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
    let share = measure(&shop, "1.1.0", 50).await?;
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
    println!(
        "        {rate:.0} copies a second of {RATE:.0} requests, then {:.1} % of them",
        share * 100.0
    );
    flawless(&shop.close().await?)
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
    let connect = async || -> Result<String> {
        let answer = reqwest::Client::new()
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
    let (all, mut new) = (300_u32, 0_u32);
    for _ in 0..all {
        match connect().await?.as_str() {
            "1.1.0" => new += 1,
            "1.0.0" => {}
            other => anyhow::bail!("nobody expected an answer of {other:?}"),
        }
    }
    let (share, expected) = (f64::from(new) / f64::from(all), 0.3_f64);
    let allowed = 4.0 * (expected * (1.0 - expected) / f64::from(all)).sqrt();
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
    println!("        {new} of {all} connections at 30 %");
    Ok(())
}
