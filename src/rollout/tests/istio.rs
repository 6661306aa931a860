//! Stories with Istio's router, which the Gateway API's could not tell: a mirrored step before the first weight, and that the split of
//! a run outlives whatever becomes of its route.
use super::cluster::{Cluster, NAMESPACE};
use super::{canary_with, initialised_with};
use crate::api::Phase;
use crate::object::{ObjectRef, kinds};
use serde_json::json;

const MIRRORED: &str =
    "{interval: 10s, threshold: 2, stepWeight: 50, mirror: true, mirrorWeight: 40}";
const STEPS: &str = "{interval: 10s, threshold: 2, stepWeight: 30}";

fn given(analysis: &str) -> Cluster {
    let mut cluster = initialised_with(&canary_with(analysis, ", provider: istio"));
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.advance(1);
    cluster
}

fn route() -> ObjectRef {
    kinds::VIRTUAL_SERVICE.named(NAMESPACE, "podinfo")
}

/// How much is mirrored, in percent.
fn mirrored(cluster: &Cluster) -> Option<i64> {
    let route = cluster.object(&route())?;
    assert_eq!(route.at("/spec/http").as_array().map(Vec::len), Some(1));
    route.at("/spec/http/0/mirror/host").is_string().then(|| {
        route
            .number("/spec/http/0/mirrorPercentage/value")
            .unwrap_or(100)
    })
}

#[test]
fn one_mirrored_step_comes_before_the_first_weight_of_a_canary() {
    let mut cluster = given(MIRRORED);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(mirrored(&cluster), Some(40));
    let message = cluster.status().run.and_then(|run| run.message);
    assert_eq!(
        message.as_deref(),
        Some("Step 1: requests are mirrored to the canary; once the checks pass, 50 %.")
    );
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((50, 50)));
    assert_eq!(mirrored(&cluster), None);
    cluster.run_until(Phase::Succeeded);
    // The last split is that of the idle canary.
    assert_eq!(cluster.splits, [(100, 0), (50, 50), (0, 100), (100, 0)]);
    assert_eq!(
        cluster.times_told("Advance podinfo.test canary weight 0"),
        1
    );
}

#[test]
fn a_mirror_taken_away_by_hand_comes_back_and_the_step_is_not_repeated() {
    let mut cluster = given(MIRRORED);
    cluster.edit(&route(), |route| {
        let rule = route["spec"]["http"][0].as_object_mut().unwrap();
        rule.remove("mirror");
        rule.remove("mirrorPercentage");
    });
    cluster.run_until_calm();
    assert_eq!(mirrored(&cluster), Some(40));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(
        cluster.times_told("Advance podinfo.test canary weight 0"),
        1
    );
}

#[test]
fn a_failed_check_of_copies_ends_the_run_before_anybody_met_the_canary() {
    let measured = MIRRORED.replace(
        "stepWeight: 50",
        "stepWeight: 50, metrics: [{name: request-success-rate, thresholdRange: {min: 99}}]",
    );
    let mut cluster = given(&measured);
    assert_eq!(mirrored(&cluster), Some(40));
    cluster.answer_metric(
        "request-success-rate",
        crate::analysis::Measurement::Value(50.0),
    );
    cluster.run_until(Phase::Failed);
    assert_eq!(cluster.splits, [(100, 0)]);
    assert_eq!(mirrored(&cluster), None);
}

#[test]
fn a_route_edited_or_deleted_in_mid_run_comes_back_with_the_split_of_the_run() {
    let mut cluster = given(STEPS);
    assert_eq!(cluster.split(), Some((70, 30)));
    cluster.edit(&route(), |route| {
        route["spec"]["http"][0]["route"][1]["weight"] = json!(100);
        route["spec"]["http"][0]["timeout"] = json!("1s");
        route["spec"]["exportTo"] = json!(["."]);
    });
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((70, 30)));
    let spec = cluster.object(&route()).unwrap().at("/spec");
    assert_eq!(spec["http"][0]["timeout"], json!(null));
    assert_eq!(spec["exportTo"], json!(["."]));
    cluster.remove(&route());
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((70, 30)));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.split(), Some((100, 0)));
}
