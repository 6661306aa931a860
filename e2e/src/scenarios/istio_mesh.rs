//! Istio where the ingress gateway is not the only one that reads the `VirtualService`: a workload's proxy in the mesh, by which visitors are
//! told apart by their own labels; and a root `VirtualService` of the user's that delegates to Serin's.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::gates::Gates;
use super::istio::ISTIO;
use super::planes::{self, Plane};
use super::shop::{self, Gateway, PATIENCE, Plan, RATE, Shop, flawless};
use crate::bed::Bed;
use crate::load::Load;

/// The label by which the bed's proxy in the mesh is known to Istio.
const VISITOR: (&str, &str) = ("istio", "visitor");

/// A/B by the labels of the workload that asks: the proxy beside the visitor leads to the new release, the gateway to the old one.
pub async fn by_source(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    Gateway::Mesh.start(bed).await?;
    let gates = Gates::start().await?;
    gates.close("promotion");
    let (label, value) = VISITOR;
    let plan = Plan {
        gateway: Gateway::Istio,
        analysis: json!({
            "threshold": 2, "iterations": 2,
            "match": [{"sourceLabels": {label: value}}],
            "webhooks": gates.hook("confirm-promotion", "promotion"),
        }),
        service: json!({"gateways": ["istio-system/bed", "mesh"], "hosts": ["app.${NAMESPACE}.bed", "app"]}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "istio-by-source", plan).await?;
    let inside = format!("app.{}.svc.cluster.local", shop.namespace.name());
    let proxy = Gateway::Mesh.address();
    bed.wait_served_at(proxy, &inside, PATIENCE).await?;
    let neighbours = Load::start(proxy, &inside, RATE / 2.0)?;
    shop.release("1.1.0").await?;
    shop.wait_phase("WaitingPromotion").await?;
    for (load, who, expected) in [
        (shop.load()?, "visitors by the gateway", "1.0.0"),
        (&neighbours, "neighbours in the mesh", "1.1.0"),
    ] {
        let mark = load.mark();
        let enough = async || Ok((load.report_since(mark).answered() >= 300).then_some(()));
        bed.wait("300 answers", PATIENCE, enough).await?;
        let report = load.settled_between(mark, load.mark()).await;
        ensure!(
            report.versions.keys().eq([expected]),
            "{who} are answered by {expected} alone:\n{report}"
        );
    }
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    flawless(&neighbours.stop().await)?;
    flawless(&shop.close().await?)
}

/// The root of the user's, which owns host and gateway and adds a header to the answers.
fn root() -> Vec<Value> {
    vec![json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "metadata": {"name": "root"},
        "spec": {
            "gateways": ["istio-system/bed"],
            "hosts": ["app.${NAMESPACE}.bed"],
            "http": [{"delegate": {"name": "app"}}],
        },
    })]
}

const DELEGATED: Plane = Plane {
    own: root,
    service: || {
        json!({
            // Host and gateway are the root's.
            "delegation": true, "hosts": [], "gateways": [],
            "headers": {"response": {"add": {"x-shop": "open"}}},
            "corsPolicy": {"allowOrigins": [{"exact": "https://shop.example"}], "allowMethods": ["GET"]},
            "retries": {"attempts": 2, "perTryTimeout": "2s", "retryOn": "connect-failure"},
        })
    },
    taken_over: false,
    ..ISTIO
};

/// The whole story of a plane behind a root that delegates; and what the canary's `service` says of answers is in them.
pub async fn delegated(bed: &Bed) -> Result<()> {
    planes::release(bed, "istio-delegated", &DELEGATED).await?;
    let host = bed.namespace("istio-delegated").await?.host("app");
    let answer = reqwest::Client::new()
        .get(Gateway::Istio.address())
        .header("host", host)
        .header("origin", "https://shop.example")
        .send()
        .await?;
    for (name, expected) in [
        ("x-shop", "open"),
        ("access-control-allow-origin", "https://shop.example"),
    ] {
        let found = answer.headers().get(name);
        let found = found
            .with_context(|| format!("the answer has no {name}"))?
            .to_str()?;
        ensure!(found == expected, "{name} is {found:?}, not {expected:?}");
    }
    Ok(())
}
