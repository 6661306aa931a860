//! The other strategies with visitors in the shop, and what becomes of a shop whose canary goes.
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use super::gates::Gates;
use super::planes::enough;
use super::shop::{self, Gateway, PATIENCE, Plan, RATE, Shop, flawless};
use crate::bed::Bed;
use crate::bed::parts::GATEWAY;
use crate::figures::Figures;
use crate::load::{HeaderGroup, Load, LoadPlan};

/// What the shops here are routed by.
const ROUTE: &str = "gatewayapi:v1, HTTPRoute";

/// A/B: those who carry the header get the new release, everybody else the old one, until it is promoted.
pub async fn insiders_first(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let gates = Gates::start().await?;
    gates.close("promotion");
    let plan = Plan {
        analysis: json!({
            "threshold": 2, "iterations": 3, "match": [{"headers": {"x-canary": {"exact": "insider"}}}],
            "webhooks": gates.hook("confirm-promotion", "promotion"),
        }),
        rate: 0.0,
        ..Plan::default()
    };
    let mut shop = Shop::open(bed, "insiders-first", plan).await?;
    bed.wait_served(&shop.host, Duration::from_secs(30)).await?;
    let mut visitors = LoadPlan::new(GATEWAY, Some(&shop.host), RATE);
    visitors.users = 40;
    let group = |name: &str, value: &str| HeaderGroup {
        name: name.to_owned(),
        share: 0.25,
        headers: vec![("x-canary".to_owned(), value.to_owned())],
    };
    visitors.groups = vec![group("insiders", "insider"), group("outsiders", "outsider")];
    shop.load = Some(Load::start_plan(&visitors)?);
    shop.release("1.1.0").await?;
    shop.wait_weight(100).await?;
    bed.wait(
        "a quarter of the answers from 1.1.0",
        PATIENCE,
        async || {
            let recent = shop
                .load()?
                .report_since(shop.load()?.mark_ago(Duration::from_secs(1)));
            Ok(
                (recent.answered() > 100 && recent.split_within("1.1.0", 0.25, 4.0).is_ok())
                    .then_some(()),
            )
        },
    )
    .await?;
    let report = enough(&shop, shop.load()?.mark()).await?;
    for (group, versions) in &report.groups {
        let expected = if group == "insiders" {
            "1.1.0"
        } else {
            "1.0.0"
        };
        ensure!(
            versions.keys().eq([expected]),
            "{group} are answered by {expected} alone: {versions:?}"
        );
    }
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    let whole = shop.close().await?;
    let found = format!("by header: none of {} astray", report.answered());
    let figures = Figures::new(ROUTE, Gateway::Traefik.name(), &whole, 0, found);
    bed.figures().note("insiders-first", figures);
    flawless(&whole)
}

/// Blue/Green: the new release is tested without visitors, gets all of them at once, and is promoted.
pub async fn all_at_once(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        // Nobody visits before the switch, so nothing is measured that only visitors could show.
        analysis: json!({"threshold": 2, "iterations": 2, "metrics": []}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "all-at-once", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(100).await?;
    shop.wait_only("1.1.0").await?;
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.route().await? == (100, 0),
        "all traffic is on the primary"
    );
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary runs the release"
    );
    flawless(&shop.close().await?)
}

/// `skipAnalysis`: promoted without being judged, and still nothing is lost on the way.
pub async fn unjudged(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"skipAnalysis": true}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "unjudged", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    ensure!(
        shop.events()
            .await?
            .iter()
            .any(|text| text.starts_with("Promotion completed! Canary analysis was skipped")),
        "an event says that nothing was judged"
    );
    flawless(&shop.close().await?)
}

/// A canary with `revertOnDeletion` that goes gives the target its replicas and the Service its pods back.
pub async fn given_back(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"revertOnDeletion": true}),
        rate: 0.0,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "given-back", plan).await?;
    bed.wait("the finalizer", PATIENCE, async || {
        let canary = shop.namespace.canary("app").await?;
        Ok(canary
            .metadata
            .finalizers
            .is_some_and(|names| names.iter().any(|name| name == "finalizer.flagger.app"))
            .then_some(()))
    })
    .await?;
    ensure!(shop.replicas("app").await? == 0, "the target sleeps");
    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    canaries.delete("app", &DeleteParams::background()).await?;
    bed.wait("the canary to be gone", PATIENCE, async || {
        Ok(canaries.get_opt("app").await?.is_none().then_some(()))
    })
    .await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the target has its replicas back"
    );
    shop.namespace.wait_ready("app", PATIENCE).await
}
