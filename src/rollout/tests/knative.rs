//! A Knative Service as the target: both sides are Revisions that Knative makes, and all that is written is the traffic list and the name
//! of the primary (chapters 2.10, 3.13, and 9.2 S4, A13 and R9).

use super::*;
use crate::object::{Expect, Object, ObjectRef, Write, kinds};
use cluster::knative_service;
use serde_json::Value;

const CANARY: &str = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo}
spec:
  provider: knative
  targetRef: {apiVersion: serving.knative.dev/v1, kind: Service, name: podinfo}
  progressDeadlineSeconds: 60
  analysis:
    interval: 10s
    threshold: 2
    stepWeight: 20
    maxWeight: 40
    metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]
";

pub fn given_service(cluster: &mut Cluster) {
    cluster.given(
        "
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: podinfo}
spec:
  template: {spec: {containers: [{image: 'podinfo:1'}], timeoutSeconds: 300}}
  traffic: [{latestRevision: true, percent: 100}]
  theirs: {kept: [1, 2]}
",
    );
}

/// A canary, and a Service that Knative has made a Revision of.
fn given(canary: &str) -> Cluster {
    let mut cluster = Cluster::given_canary(canary);
    given_service(&mut cluster);
    cluster.edit(&knative_service(), |_| ());
    cluster
}

fn initialised() -> Cluster {
    initialised_as(CANARY)
}

fn initialised_as(canary: &str) -> Cluster {
    let mut cluster = given(canary);
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
}

fn deploy(cluster: &mut Cluster, image: &str) {
    cluster.edit(&knative_service(), |service| {
        service["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
    cluster.run_until_calm();
}

fn live(cluster: &Cluster) -> &Object {
    cluster.object(&knative_service()).unwrap()
}

fn primary(cluster: &Cluster) -> String {
    let named = live(cluster).annotation("flagger.app/primary-revision");
    named.unwrap_or_default().to_owned()
}

/// The traffic list in short: who gets how much.
fn traffic(cluster: &Cluster) -> Vec<(String, i64)> {
    let entries = live(cluster).at("/spec/traffic").as_array().unwrap();
    let named = |entry: &Value| {
        let name = if entry["latestRevision"] == true {
            "latest"
        } else {
            entry["revisionName"].as_str().unwrap()
        };
        let tag = entry["tag"].as_str().map(|tag| format!("{tag}="));
        (
            format!("{}{name}", tag.unwrap_or_default()),
            entry["percent"].as_i64().unwrap_or(0),
        )
    };
    entries.iter().map(named).collect()
}

fn all_on(revision: &str) -> Vec<(String, i64)> {
    vec![(revision.to_owned(), 100)]
}

fn shared(primary: (&str, i64), canary: (&str, i64)) -> Vec<(String, i64)> {
    [primary, canary]
        .map(|(name, percent)| (name.to_owned(), percent))
        .to_vec()
}

fn revision(name: &str) -> ObjectRef {
    kinds::KNATIVE_REVISION.named(cluster::NAMESPACE, name)
}

#[test]
fn the_latest_revision_becomes_the_primary_and_nothing_is_made() {
    let cluster = initialised();
    assert_eq!(primary(&cluster), "podinfo-00001");
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    for kind in [
        kinds::DEPLOYMENT,
        kinds::SERVICE,
        kinds::CONTROLLER_REVISION,
    ] {
        assert_eq!(cluster.count(&kind), 0, "{}", kind.kind);
    }
    let promoted = cluster.status().promoted.unwrap();
    assert_eq!(promoted.template.as_deref(), Some("podinfo-00001"));
    assert!(promoted.revision.starts_with("s1:"), "{promoted:?}");
    assert_eq!(live(&cluster).at("/spec/theirs"), &json!({"kept": [1, 2]}));
}

#[test]
fn a_release_goes_by_its_steps_and_ends_with_the_name_of_the_judged_revision() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    assert_eq!(
        cluster.status().run.unwrap().template.as_deref(),
        Some("podinfo-00002")
    );
    assert_eq!(
        traffic(&cluster),
        shared(("podinfo-00001", 80), ("podinfo-00002", 20))
    );
    cluster.advance(10);
    assert_eq!(
        traffic(&cluster),
        shared(("podinfo-00001", 60), ("podinfo-00002", 40))
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(primary(&cluster), "podinfo-00002");
    assert_eq!(traffic(&cluster), all_on("podinfo-00002"));
    assert_eq!(cluster.splits, [(100, 0), (80, 20), (60, 40), (100, 0)]);
    assert_eq!(cluster.outcomes(), ["Promoted"]);
    assert_eq!(live(&cluster).at("/spec/theirs"), &json!({"kept": [1, 2]}));
    assert_eq!(
        live(&cluster).number("/spec/template/spec/timeoutSeconds"),
        Some(300)
    );
}

#[test]
fn each_write_expects_what_was_asked_of_the_service_and_not_its_status() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Succeeded);
    assert!(cluster.writes.len() >= 3);
    for write in &cluster.writes {
        let Write::Patch { target, expect, .. } = write else {
            panic!("only the Service is patched, found {write:?}");
        };
        assert_eq!(*target, knative_service());
        assert!(matches!(expect, Expect::Asked { .. }), "{expect:?}");
    }
}

#[test]
fn a_failed_verdict_leads_everything_back_to_the_promoted_revision() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    assert_eq!(primary(&cluster), "podinfo-00001");
    assert_eq!(cluster.outcomes(), ["RolledBack"]);
    // It was judged: nothing begins again until another comes.
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.advance(300);
    assert_eq!(cluster.phase(), Phase::Failed);
    deploy(&mut cluster, "podinfo:3");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(traffic(&cluster), all_on("podinfo-00003"));
}

#[test]
fn a_revision_that_comes_in_the_middle_gets_no_request_before_its_own_run() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((60, 40)));
    cluster.pods("podinfo-00003", Pods::Stuck);
    deploy(&mut cluster, "podinfo:3");
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(
        cluster.status().run.unwrap().template.as_deref(),
        Some("podinfo-00003")
    );
    assert_eq!(cluster.outcomes(), ["Superseded"]);
    cluster
        .pods_ready("podinfo-00003")
        .run_until(Phase::Succeeded);
    assert_eq!(traffic(&cluster), all_on("podinfo-00003"));
}

#[test]
fn a_template_that_is_set_back_leads_the_traffic_back_at_once() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((60, 40)));
    // Knative makes a third Revision of it, and it is judged like any other.
    cluster.pods("podinfo-00003", Pods::Stuck);
    deploy(&mut cluster, "podinfo:1");
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    assert_eq!(cluster.phase(), Phase::Progressing);

    // A name of the user's own can be set back to.
    let name = |cluster: &mut Cluster, name: &str| {
        cluster.edit(&knative_service(), |service| {
            service["spec"]["template"]["metadata"]["name"] = json!(name);
            service["spec"]["template"]["spec"]["containers"][0]["image"] = json!(name);
        });
        cluster.run_until_calm();
    };
    let mut cluster = Cluster::given_canary(CANARY);
    given_service(&mut cluster);
    name(&mut cluster, "podinfo-blue");
    cluster.run_until(Phase::Initialized);
    name(&mut cluster, "podinfo-green");
    assert_eq!(
        traffic(&cluster),
        shared(("podinfo-blue", 80), ("podinfo-green", 20))
    );
    name(&mut cluster, "podinfo-blue");
    assert_eq!(traffic(&cluster), all_on("podinfo-blue"));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.outcomes(), ["Reverted"]);
}

#[test]
fn what_comes_while_its_predecessor_is_promoted_is_judged_afterwards() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Finalising);
    assert_eq!(traffic(&cluster), all_on("podinfo-00002"));
    deploy(&mut cluster, "podinfo:3");
    assert_eq!(traffic(&cluster), all_on("podinfo-00002"));
    cluster.run_until(Phase::Progressing);
    assert_eq!(
        cluster.status().promoted.unwrap().template.as_deref(),
        Some("podinfo-00002")
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(primary(&cluster), "podinfo-00003");
}

/// Flagger waits for ever (9.2 A13).
#[test]
fn a_revision_that_does_not_become_ready_fails_at_the_deadline() {
    for (pods, why) in [
        (
            Pods::Stuck,
            "waiting for Knative to call the revision podinfo-00002 ready",
        ),
        (
            Pods::Dead,
            "revision podinfo-00002: ExitCode1: the container exited",
        ),
    ] {
        let mut cluster = initialised();
        cluster.pods("podinfo-00002", pods);
        deploy(&mut cluster, "podinfo:2");
        cluster.advance(50);
        assert_eq!(cluster.phase(), Phase::Progressing);
        cluster.run_until(Phase::Failed);
        assert_eq!(cluster.splits, [(100, 0)], "it never had traffic");
        assert!(cluster.has_told(why), "{:#?}", cluster.texts());
    }
}

#[test]
fn a_canary_that_fails_under_traffic_loses_it_at_once() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.pods("podinfo-00002", Pods::Dead).run_until_calm();
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    cluster.run_until(Phase::Failed);
}

#[test]
fn what_others_write_into_the_traffic_list_is_put_back_and_they_are_named() {
    let mut cluster = initialised();
    cluster.edit(&knative_service(), |service| {
        service["spec"]["traffic"] = json!([{"latestRevision": true, "percent": 100}]);
        service["metadata"]["managedFields"] =
            json!([{"manager": "kn", "operation": "Update", "time": "2026-05-04T08:00:00Z"}]);
    });
    deploy(&mut cluster, "podinfo:1");
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    assert!(
        cluster.has_told("changed by kn to canary weight 100; it is set back to 0"),
        "{:#?}",
        cluster.texts()
    );
    // The name of the primary is no less ours.
    cluster.edit(&knative_service(), |service| {
        service["metadata"]["annotations"]["flagger.app/primary-revision"] = json!("podinfo-00000");
    });
    cluster.run_until_calm();
    assert_eq!(primary(&cluster), "podinfo-00001");
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
}

#[test]
fn an_address_that_the_user_gave_a_revision_stays_and_takes_no_share() {
    let mut cluster = given(CANARY);
    cluster.edit(&knative_service(), |service| {
        service["spec"]["traffic"] = json!([
            {"latestRevision": true, "percent": 100, "tag": "next"},
            {"revisionName": "podinfo-00001", "tag": "first"},
        ]);
    });
    cluster.run_until(Phase::Initialized);
    let tags = [
        ("next=latest".to_owned(), 0),
        ("first=podinfo-00001".to_owned(), 0),
    ];
    let with_tags = |list: Vec<(String, i64)>| [list, tags.to_vec()].concat();
    assert_eq!(traffic(&cluster), with_tags(all_on("podinfo-00001")));
    deploy(&mut cluster, "podinfo:2");
    assert_eq!(
        traffic(&cluster),
        with_tags(shared(("podinfo-00001", 80), ("podinfo-00002", 20)))
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(traffic(&cluster), with_tags(all_on("podinfo-00002")));
}

#[test]
fn a_traffic_list_that_leads_elsewhere_than_to_the_latest_is_not_taken_over() {
    let mut cluster = given(CANARY);
    deploy_without_canary(&mut cluster, "podinfo:2");
    cluster.edit(&knative_service(), |service| {
        service["spec"]["traffic"] = json!([{"revisionName": "podinfo-00001", "percent": 100}]);
    });
    cluster.run_until_calm();
    let (status, reason, message) = cluster.condition(condition_type::ACCEPTED);
    assert_eq!(
        (status, reason.as_str()),
        (ConditionStatus::False, "RouteUnfit")
    );
    assert!(
        message.contains("100 % to the revision podinfo-00001, and the latest is podinfo-00002"),
        "{message}"
    );
    assert_eq!(cluster.writes.len(), 0);
    cluster.edit(&knative_service(), |service| {
        service["spec"]["traffic"] = json!([{"latestRevision": true, "percent": 100}]);
    });
    cluster.run_until(Phase::Initialized);
    assert_eq!(primary(&cluster), "podinfo-00002");
}

/// Nobody decides yet; Knative alone looks at it.
fn deploy_without_canary(cluster: &mut Cluster, image: &str) {
    cluster.edit(&knative_service(), |service| {
        service["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

#[test]
fn a_route_that_knative_has_not_taken_over_holds_the_next_step() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.gateway_is_silent();
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((60, 40)));
    cluster.advance(20);
    assert_eq!(cluster.split(), Some((60, 40)));
    assert_eq!(cluster.phase(), Phase::Progressing);
    cluster.gateway_applies().run_until(Phase::Succeeded);
}

#[test]
fn blue_green_leads_all_traffic_over_at_the_end() {
    let canary = CANARY.replace("stepWeight: 20\n    maxWeight: 40", "iterations: 2");
    let mut cluster = initialised_as(&canary);
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (0, 100), (100, 0)]);
    assert_eq!(primary(&cluster), "podinfo-00002");
}

#[test]
fn what_knative_cannot_do_is_refused_or_told() {
    let ab = CANARY.replace(
        "stepWeight: 20\n    maxWeight: 40",
        "iterations: 2\n    match: [{headers: {x-user: {exact: insider}}}]",
    );
    let mut cluster = given(&ab);
    cluster.run_until_calm();
    let (status, reason, message) = cluster.condition(condition_type::ACCEPTED);
    assert_eq!(
        (status, reason.as_str()),
        (ConditionStatus::False, "RouterCannotExpress")
    );
    assert!(
        message.contains("spec.analysis.match: set; knative can't tell requests apart"),
        "{message}"
    );

    let more = CANARY.replace(
        "maxWeight: 40",
        "maxWeight: 40\n    mirror: true\n    stepWeightPromotion: 10\n    sessionAffinity: {cookieName: c}",
    );
    let mut cluster = initialised_as(&more);
    for field in ["mirror", "stepWeightPromotion", "sessionAffinity"] {
        let key = format!("spec.analysis.{field}");
        assert!(cluster.status().observed.contains_key(&key), "{key}");
    }
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (80, 20), (60, 40), (100, 0)]);
}

#[test]
fn a_service_without_a_revision_is_waited_for() {
    let mut cluster = Cluster::given_canary(CANARY);
    cluster.run_until_calm();
    assert_eq!(
        cluster.condition(condition_type::ACCEPTED).1,
        "TargetNotFound"
    );
    given_service(&mut cluster);
    cluster.pods("podinfo-00001", Pods::Stuck).run_until_calm();
    assert_eq!(cluster.phase(), Phase::Initializing);
    assert_eq!(traffic(&cluster), all_on("latest"));
    cluster
        .pods_ready("podinfo-00001")
        .run_until(Phase::Initialized);
}

#[test]
fn flaggers_service_is_taken_over_at_rest_without_a_run() {
    let mut cluster = given(CANARY);
    cluster.edit(&knative_service(), |service| {
        service["metadata"]["annotations"] = json!({"flagger.app/primary-revision": "podinfo-00001"});
        service["spec"]["traffic"] = json!([
            {"latestRevision": true, "percent": 0}, {"revisionName": "podinfo-00001", "percent": 100},
        ]);
    });
    cluster.given_status(
        "{phase: Succeeded, lastAppliedSpec: 7c9dbd4f5, lastPromotedSpec: 7c9dbd4f5}",
    );
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert_eq!(
        cluster.status().promoted.unwrap().template.as_deref(),
        Some("podinfo-00001")
    );
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(primary(&cluster), "podinfo-00002");
}

#[test]
fn flaggers_failed_revision_is_not_judged_again_and_gets_nothing() {
    for named in [true, false] {
        let mut cluster = given(CANARY);
        deploy_without_canary(&mut cluster, "podinfo:2");
        cluster.edit(&knative_service(), |service| {
            if named {
                service["metadata"]["annotations"] = json!({"flagger.app/primary-revision": "podinfo-00001"});
            }
            service["spec"]["traffic"] = json!([
                {"latestRevision": true, "percent": 0}, {"revisionName": "podinfo-00001", "percent": 100},
            ]);
        });
        cluster.given_status(
            "{phase: Failed, lastAppliedSpec: 7c9dbd4f5, lastPromotedSpec: 6b8cac3e4}",
        );
        cluster.advance(60);
        assert_eq!(cluster.phase(), Phase::Failed, "annotation: {named}");
        assert_eq!(
            traffic(&cluster),
            all_on("podinfo-00001"),
            "annotation: {named}"
        );
        assert_eq!(
            cluster.status().promoted.unwrap().template.as_deref(),
            Some("podinfo-00001")
        );
    }
}

#[test]
fn a_run_of_flaggers_goes_on_with_the_traffic_that_it_has() {
    let mut cluster = given(CANARY);
    deploy_without_canary(&mut cluster, "podinfo:2");
    cluster.edit(&knative_service(), |service| {
        service["metadata"]["annotations"] = json!({"flagger.app/primary-revision": "podinfo-00001"});
        service["spec"]["traffic"] = json!([
            {"latestRevision": true, "percent": 20}, {"revisionName": "podinfo-00001", "percent": 80},
        ]);
    });
    cluster.given_status("{phase: Progressing, canaryWeight: 20, lastAppliedSpec: 7c9dbd4f5, lastPromotedSpec: 6b8cac3e4}");
    cluster.run_until_calm();
    assert_eq!(
        traffic(&cluster),
        shared(("podinfo-00001", 80), ("podinfo-00002", 20))
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(80, 20), (60, 40), (100, 0)]);
    assert_eq!(primary(&cluster), "podinfo-00002");
}

#[test]
fn with_the_canary_its_marks_go_and_nobodys_request_changes_its_revision() {
    let reverting = CANARY.replace(
        "provider: knative",
        "provider: knative\n  revertOnDeletion: true",
    );
    let mut cluster = initialised_as(&reverting);
    cluster.delete_canary().advance(120);
    assert!(cluster.is_gone());
    assert_eq!(primary(&cluster), "");
    assert_eq!(
        traffic(&cluster),
        all_on("latest"),
        "the latest is the promoted one"
    );

    let mut cluster = initialised_as(&reverting);
    deploy(&mut cluster, "podinfo:2");
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.delete_canary().advance(120);
    assert!(cluster.is_gone());
    assert_eq!(
        traffic(&cluster),
        all_on("podinfo-00001"),
        "the latest was not judged"
    );
}

/// The promoted Revision is gone with its Service; what there is now is all that can answer.
#[test]
fn a_service_that_is_made_anew_is_judged_with_all_the_traffic() {
    let mut cluster = initialised();
    deploy(&mut cluster, "podinfo:2");
    cluster.run_until(Phase::Succeeded);
    cluster.remove(&knative_service());
    for name in ["podinfo-00001", "podinfo-00002"] {
        cluster.remove(&revision(name));
    }
    cluster.run_until_calm();
    given_service(&mut cluster);
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(traffic(&cluster), all_on("podinfo-00001"));
    assert_eq!(cluster.status().canary_weight, 100);
    cluster.run_until(Phase::Succeeded);
    assert_eq!(primary(&cluster), "podinfo-00001");
}
