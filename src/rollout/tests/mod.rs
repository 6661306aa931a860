//! What the decision core promises, as stories: a small cluster in memory, what people and pods do to it, and what Serin makes of it.
//! `docs/transitions.md` lists them by transition.

mod adoption;
mod alerts;
mod calm;
mod cluster;
mod commands;
mod configs;
mod deletion;
mod holds;
mod istio;
mod knative;
mod own_route;
mod reasons;
mod routers;
mod scheduler;
mod services;
mod targets;
mod texts;
mod transitions;
mod turns;

use crate::analysis::Measurement;
use crate::api::{ConditionStatus, Phase, condition_type};
use crate::rollout::HookAnswer;
use cluster::{Cluster, Pods, config_map, deployment, route, service};
use serde_json::json;

/// A canary of the Deployment `podinfo` with this `spec.analysis`, behind a Gateway API route.
fn canary(analysis: &str) -> String {
    canary_with(analysis, "")
}

/// The same with more fields of the spec, as flow YAML with a comma in front.
fn canary_with(analysis: &str, more: &str) -> String {
    format!(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: podinfo}}
spec: {{
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: podinfo}},
  progressDeadlineSeconds: 60,
  service: {{port: 9898, gatewayRefs: [{{name: gateway, namespace: infra}}]}},
  analysis: {analysis}{more}
}}
"
    )
}

/// An analysis with this strategy and these hooks, each `type name`.
fn with_hooks(strategy: &str, hooks: &[&str]) -> String {
    let hooks: Vec<String> = hooks
        .iter()
        .map(|hook| {
            let (kind, name) = hook.split_once(' ').unwrap();
            format!("{{name: {name}, type: {kind}, url: 'http://hooks.test/{name}'}}")
        })
        .collect();
    format!(
        "{{interval: 10s, threshold: 2, {strategy}, webhooks: [{}]}}",
        hooks.join(", ")
    )
}

/// Steps of 20 up to 40, every ten seconds, two failed checks.
const STEPS: &str = "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40}";
/// The same with a success rate that must be 99 % at least.
const MEASURED: &str = "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40, \
     metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]}";
const SUCCESS_RATE: &str = "request-success-rate";

/// A canary that is initialised and runs `podinfo:1`.
fn initialised(analysis: &str) -> Cluster {
    initialised_with(&canary(analysis))
}

fn initialised_with(canary: &str) -> Cluster {
    let mut cluster = Cluster::given_canary(canary);
    cluster.given_deployment("podinfo:1");
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
}

/// A canary that is initialised and sees `podinfo:2`, with the run under way.
fn progressing(analysis: &str) -> Cluster {
    let mut cluster = initialised(analysis);
    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    cluster
}

/// A run of `podinfo:2` that has been rolled back.
fn failed() -> Cluster {
    let mut cluster = progressing(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.run_until(Phase::Failed);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.run_until_calm();
    cluster
}

fn refused() -> HookAnswer {
    HookAnswer::Refused("not yet".to_owned())
}

fn unreachable() -> HookAnswer {
    HookAnswer::Unreachable("connection refused".to_owned())
}
