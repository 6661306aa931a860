//! A core Service as the target: no pods are scaled, two clones of the Service are led to by routes, and a revision is what the Service
//! says (chapters 2.10 and 9.2 R11).

use super::*;
use crate::object::Write;

const CANARY: &str = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo}
spec:
  targetRef: {apiVersion: v1, kind: Service, name: podinfo}
  progressDeadlineSeconds: 60
  service: {port: 80, gatewayRefs: [{name: gateway, namespace: infra}]}
  analysis:
    interval: 10s
    threshold: 2
    stepWeight: 20
    maxWeight: 40
    metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]
";

/// A Service that selects one version of an application, of which two run.
fn given() -> Cluster {
    let mut cluster = Cluster::given_canary(CANARY);
    for version in ["v1", "v2", "v3"] {
        cluster.given(&format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app-{version}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: podinfo, version: {version}}}}}
  template:
    metadata: {{labels: {{app: podinfo, version: {version}}}}}
    spec: {{containers: [{{name: app, image: 'podinfo:{version}'}}]}}
"
        ));
    }
    cluster.given(
        "
apiVersion: v1
kind: Service
metadata: {name: podinfo, labels: {team: shop}}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1]
  selector: {app: podinfo, version: v1}
  ports: [{name: http, port: 80, targetPort: 9898, protocol: TCP, nodePort: 30080}]
",
    );
    cluster
}

fn initialised() -> Cluster {
    let mut cluster = given();
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
}

fn leads_to(cluster: &Cluster, name: &str) -> String {
    cluster
        .object(&service(name))
        .map(|service| service.text("/spec/selector/version").to_owned())
        .unwrap_or_default()
}

fn select(cluster: &mut Cluster, version: &str) {
    cluster.edit(&service("podinfo"), |target| {
        target["spec"]["selector"]["version"] = json!(version);
    });
}

#[test]
fn both_clones_are_made_and_the_target_is_not_touched() {
    let mut cluster = given();
    cluster.run_until(Phase::Initialized);
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v1");
    assert_eq!(leads_to(&cluster, "podinfo-canary"), "v1");
    let primary = cluster.object(&service("podinfo-primary")).unwrap();
    // Flagger's copy keeps clusterIPs, which the API server refuses.
    assert!(primary.at("/spec/clusterIPs").is_null());
    assert_eq!(primary.text("/spec/type"), "ClusterIP");
    assert_eq!(cluster.split(), Some((100, 0)));
    let touched: Vec<String> = cluster
        .writes
        .iter()
        .map(Write::target)
        .filter(|name| *name == service("podinfo") || name.kind == crate::object::kinds::DEPLOYMENT)
        .map(|name| name.to_string())
        .collect();
    assert_eq!(touched, Vec::<String>::new());
    assert!(cluster.has_told("Initialization done! podinfo.test"));
}

#[test]
fn a_new_selector_is_judged_step_by_step_and_promoted() {
    let mut cluster = initialised();
    select(&mut cluster, "v2");
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(leads_to(&cluster, "podinfo-canary"), "v2");
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v1");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v2");
    assert_eq!(cluster.splits, [(100, 0), (80, 20), (60, 40), (100, 0)]);
    assert_eq!(cluster.outcomes(), ["Promoted"]);
}

#[test]
fn a_bad_selector_is_rolled_back_and_the_primary_keeps_what_was_promoted() {
    let mut cluster = initialised();
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    select(&mut cluster, "v2");
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v1");
}

#[test]
fn a_selector_that_finds_no_pods_gets_no_traffic() {
    let mut cluster = initialised();
    select(&mut cluster, "nonesuch");
    cluster.run_until(Phase::Failed);
    assert_eq!(cluster.splits, [(100, 0)]);
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v1");
}

#[test]
fn a_selector_that_changes_in_mid_run_gets_its_traffic_from_the_first_step() {
    let mut cluster = initialised();
    select(&mut cluster, "v2");
    cluster.advance(15);
    assert_eq!(cluster.split(), Some((60, 40)));
    cluster.forget_the_past();
    select(&mut cluster, "v3");
    cluster.run_until_calm();
    // The routes are told before the clone leads elsewhere.
    let order: Vec<String> = cluster
        .writes
        .iter()
        .map(|write| write.target().kind.kind.to_string())
        .filter(|kind| kind == "HTTPRoute" || kind == "Service")
        .collect();
    assert_eq!(order[..2], ["HTTPRoute", "Service"], "{order:?}");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v3");
    assert_eq!(cluster.outcomes(), ["Superseded", "Promoted"]);
}

#[test]
fn a_lost_primary_is_made_again_from_what_was_promoted() {
    let mut cluster = initialised();
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    select(&mut cluster, "v2");
    cluster.run_until(Phase::Failed);
    cluster.remove(&service("podinfo-primary"));
    cluster.run_until_calm();
    assert_eq!(leads_to(&cluster, "podinfo-primary"), "v1");
}

#[test]
fn a_cluster_that_flagger_ran_is_taken_over_without_a_run() {
    let mut cluster = initialised();
    let canary = cluster.canary_name();
    cluster.edit(&canary, |canary| {
        canary["status"] = json!({"phase": "Succeeded", "lastAppliedSpec": "5d8f", "lastPromotedSpec": "5d8f"});
    });
    cluster.forget_the_past();
    cluster.advance(60);
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert!(cluster.status().run.is_none());
    assert!(
        cluster
            .status()
            .last_applied_spec
            .unwrap()
            .starts_with("s1:")
    );
    assert_eq!(cluster.splits, [(100, 0)]);
}

#[test]
fn a_deleted_canary_leaves_the_service_as_it_is() {
    let mut cluster = initialised();
    cluster.edit_canary(|spec| spec["revertOnDeletion"] = json!(true));
    cluster.run_until_calm();
    cluster.delete_canary().advance(100);
    assert!(cluster.is_gone());
    assert_eq!(leads_to(&cluster, "podinfo"), "v1");
}
