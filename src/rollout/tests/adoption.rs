//! Taking over from Flagger 1.4x in each phase: its objects and its status, with hashes that can't be made anew, are what is there.

use super::*;
use crate::object::kinds;

/// What Flagger leaves behind: objects with its marks, the route, and a status with this phase.
struct Left {
    phase: &'static str,
    target: (&'static str, i64),
    primary: &'static str,
    /// Canary's weight on the route.
    weight: i64,
    more: &'static str,
}

fn left(left: &Left) -> Cluster {
    left_with(left, &canary(STEPS))
}

fn left_with(left: &Left, canary: &str) -> Cluster {
    let mut cluster = Cluster::given_canary(canary);
    let uid = cluster
        .object(&cluster.canary_name())
        .unwrap()
        .uid()
        .to_owned();
    let owner = format!(
        "ownerReferences: [{{apiVersion: flagger.app/v1beta1, kind: Canary, name: podinfo, uid: {uid}, controller: true, blockOwnerDeletion: true}}]"
    );
    cluster.given_deployment(left.target.0);
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["replicas"] = json!(left.target.1);
    });
    cluster.given(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: podinfo-primary, labels: {{app: podinfo-primary}}, {owner}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: podinfo-primary}}}}
  template:
    metadata: {{labels: {{app: podinfo-primary}}, annotations: {{flagger-id: 8d4e7c1e-0d0c-4b6e-9c4c-2f1f6c1d3a55}}}}
    spec: {{containers: [{{name: app, image: '{}', ports: [{{containerPort: 9898, protocol: TCP}}]}}]}}
",
        left.primary
    ));
    for (name, pods) in [
        ("podinfo", "podinfo-primary"),
        ("podinfo-primary", "podinfo-primary"),
        ("podinfo-canary", "podinfo"),
    ] {
        cluster.given(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{app: {name}}}, {owner}}}
spec: {{type: ClusterIP, selector: {{app: {pods}}}, ports: [{{name: http, port: 9898, protocol: TCP, targetPort: 9898}}]}}
"
        ));
    }
    cluster.given(&format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: podinfo, {owner}}}
spec:
  parentRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gateway, namespace: infra}}]
  rules:
    - matches: [{{path: {{type: PathPrefix, value: /}}}}]
      backendRefs:
        - {{group: '', kind: Service, name: podinfo-primary, port: 9898, weight: {}}}
        - {{group: '', kind: Service, name: podinfo-canary, port: 9898, weight: {}}}
",
        100 - left.weight,
        left.weight
    ));
    cluster.given_status(&format!(
        "
phase: {phase}
canaryWeight: {weight}
failedChecks: 0
iterations: 0
lastAppliedSpec: '5978589476'
lastPromotedSpec: '76b8cbfd6'
lastTransitionTime: '2026-05-04T07:59:30Z'
trackedConfigs: {{}}
conditions: [{{type: Promoted, status: Unknown, reason: {phase}, message: written by Flagger, lastUpdateTime: '2026-05-04T07:59:30Z', lastTransitionTime: '2026-05-04T07:59:30Z'}}]
{more}
",
        phase = left.phase,
        weight = left.weight,
        more = left.more,
    ));
    cluster
}

const FLAGGERS_ID: &str = "8d4e7c1e-0d0c-4b6e-9c4c-2f1f6c1d3a55";

fn flagger_id(cluster: &Cluster) -> String {
    cluster
        .object(&deployment("podinfo-primary"))
        .unwrap()
        .text("/spec/template/metadata/annotations/flagger-id")
        .to_owned()
}

/// As [`left`], with a `ConfigMap` that the target reads and the primary's copy of it.
fn left_with_settings(phase: &'static str, weight: i64, color: &str, copied: &str) -> Cluster {
    let replicas = if weight > 0 { 2 } else { 0 };
    let mut cluster = left(&Left {
        phase,
        target: ("podinfo:1", replicas),
        primary: "podinfo:1",
        weight,
        more: "",
    });
    for (workload, name, color) in [
        ("podinfo", "settings", color),
        ("podinfo-primary", "settings-primary", copied),
    ] {
        cluster.given(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{color: {color}}}}}"
        ));
        cluster.edit(&deployment(workload), |object| {
            object["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
                json!([{"configMapRef": {"name": name}}]);
        });
    }
    cluster
}

#[test]
fn a_config_that_changed_is_judged_whatever_phase_flagger_left() {
    // Config that the target reads and that of the primary; the phase right after the take-over.
    let table = [
        ("Succeeded", 0, "blue", Phase::Succeeded),
        ("Succeeded", 0, "red", Phase::Progressing),
        ("Initialized", 0, "red", Phase::Progressing),
        ("Waiting", 0, "red", Phase::Progressing),
        ("Progressing", 20, "red", Phase::Progressing),
    ];
    for (phase, weight, color, expected) in table {
        let what = format!("{phase} {weight} {color}");
        let mut cluster = left_with_settings(phase, weight, color, "blue");
        cluster.run_until_calm();
        assert_eq!(cluster.phase(), expected, "{what}: {:?}", cluster.texts());
        let copy = |cluster: &Cluster| {
            let copy = cluster.object(&config_map("settings-primary")).unwrap();
            copy.text("/data/color").to_owned()
        };
        assert_eq!(copy(&cluster), "blue", "{what}: until it is judged");
        cluster.run_until(Phase::Succeeded);
        assert_eq!(copy(&cluster), color, "{what}");
        assert_eq!(
            flagger_id(&cluster) == FLAGGERS_ID,
            color == "blue",
            "{what}: pods read a new config when they start"
        );
    }
}

#[test]
fn an_initialisation_that_was_under_way_goes_on() {
    let mut cluster = left(&Left {
        phase: "Initializing",
        target: ("podinfo:1", 2),
        primary: "podinfo:1",
        weight: 0,
        more: "",
    });
    let name = cluster.canary_name();
    cluster.edit(&name, |canary| {
        for hash in ["lastAppliedSpec", "lastPromotedSpec", "trackedConfigs"] {
            canary["status"].as_object_mut().unwrap().remove(hash);
        }
    });
    cluster.run_until(Phase::Initialized);
    cluster.run_until_calm();
    assert_eq!(flagger_id(&cluster), FLAGGERS_ID);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.replicas("podinfo"), 0);
}

/// Phase left behind, images and weight; the phase right after the take-over, the split then, and what the primary runs in the end.
#[test]
fn each_phase_is_taken_over_where_it_stands() {
    let old = "podinfo:1";
    let new = "podinfo:2";
    let table = [
        // phase, target, replicas, primary, weight ▶ phase, split, primary in the end
        (
            "Initialized",
            old,
            0,
            old,
            0,
            Phase::Initialized,
            (100, 0),
            old,
        ),
        ("Succeeded", old, 0, old, 0, Phase::Succeeded, (100, 0), old),
        ("Failed", new, 0, old, 0, Phase::Failed, (100, 0), old),
        // The target was changed while no controller was there.
        (
            "Succeeded",
            new,
            0,
            old,
            0,
            Phase::Progressing,
            (80, 20),
            new,
        ),
        (
            "Initialized",
            new,
            0,
            old,
            0,
            Phase::Progressing,
            (80, 20),
            new,
        ),
        ("Waiting", new, 0, old, 0, Phase::Progressing, (80, 20), new),
        (
            "Progressing",
            new,
            2,
            old,
            20,
            Phase::Progressing,
            (80, 20),
            new,
        ),
        (
            "Progressing",
            new,
            2,
            old,
            0,
            Phase::Progressing,
            (100, 0),
            new,
        ),
        (
            "WaitingPromotion",
            new,
            2,
            old,
            40,
            Phase::WaitingPromotion,
            (60, 40),
            new,
        ),
    ];
    for (phase, target, replicas, primary, weight, expected, split, in_the_end) in table {
        let mut cluster = left(&Left {
            phase,
            target: (target, replicas),
            primary,
            weight,
            more: "",
        });
        cluster.run_until_calm();
        let what = format!("{phase} {target} {weight}");
        assert_eq!(cluster.phase(), expected, "{what}: {:?}", cluster.texts());
        assert_eq!(cluster.split(), Some(split), "{what}");
        assert_eq!(cluster.times_told("is taken over in phase"), 1, "{what}");
        cluster.advance(300);
        assert_eq!(cluster.image("podinfo-primary"), in_the_end, "{what}");
        assert_eq!(cluster.split(), Some((100, 0)), "{what}");
        let settled = if in_the_end == new {
            Phase::Succeeded
        } else {
            expected
        };
        assert_eq!(cluster.phase(), settled, "{what}");
        assert_eq!(cluster.replicas("podinfo"), 0, "{what}");
    }
}

#[test]
fn a_promotion_that_was_under_way_is_carried_to_its_end() {
    for (phase, weight) in [("Promoting", 40), ("Promoting", 0), ("Finalising", 0)] {
        for primary in ["podinfo:1", "podinfo:2"] {
            let mut cluster = left(&Left {
                phase,
                target: ("podinfo:2", 2),
                primary,
                weight,
                more: "",
            });
            cluster.run_until(Phase::Succeeded);
            cluster.run_until_calm();
            assert_eq!(
                cluster.image("podinfo-primary"),
                "podinfo:2",
                "{phase} {primary}"
            );
            assert_eq!(
                flagger_id(&cluster) == FLAGGERS_ID,
                primary == "podinfo:2",
                "{phase} {primary}: pods that run what they should are not restarted"
            );
            assert_eq!(cluster.split(), Some((100, 0)), "{phase} {primary}");
            assert_eq!(cluster.replicas("podinfo"), 0, "{phase} {primary}");
        }
    }
}

/// Found by simulation: which revision Flagger had judged can't be known, and the target's present one was promoted unseen.
#[test]
fn a_revision_that_came_while_no_controller_ran_is_judged_before_its_promotion() {
    for (phase, weight) in [("Promoting", 40), ("Promoting", 0), ("Finalising", 0)] {
        let left = Left {
            phase,
            target: ("podinfo:bad", 2),
            primary: "podinfo:1",
            weight,
            more: "",
        };
        let mut cluster = left_with(&left, &canary(MEASURED));
        cluster
            .answer_metric(SUCCESS_RATE, Measurement::Value(90.0))
            .run_until(Phase::Failed);
        cluster.run_until_calm();
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:1", "{phase}");
        assert_eq!(cluster.split(), Some((100, 0)), "{phase}");
        assert_eq!(cluster.outcomes(), ["RolledBack"], "{phase}");
    }
}

/// Found by simulation: the write that kept it timed out, the target changed, and a failed promotion had no way back.
#[test]
fn what_is_taken_over_is_kept_before_the_status_speaks_of_it() {
    let mut cluster = left(&Left {
        phase: "Promoting",
        target: ("podinfo:1", 2),
        primary: "podinfo:1",
        weight: 40,
        more: "",
    });
    cluster.run_once();
    assert_eq!(cluster.count(&kinds::CONTROLLER_REVISION), 1);
    assert_eq!(cluster.status().promoted, None);
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

/// Found by simulation: the run of the target's revision had no primary to come back to, and nobody answered.
#[test]
fn a_primary_that_went_while_no_controller_ran_is_made_from_the_target() {
    for phase in ["Initialized", "Succeeded", "Failed", "Progressing"] {
        let mut cluster = left(&Left {
            phase,
            target: ("podinfo:2", 2),
            primary: "podinfo:1",
            weight: if phase == "Progressing" { 40 } else { 0 },
            more: "",
        });
        cluster
            .remove(&deployment("podinfo-primary"))
            .gateway_is_silent()
            .run_until_calm();
        assert_eq!(cluster.status().canary_weight, 0, "{phase}: the switch");
        cluster.gateway_applies().run_until(Phase::Initialized);
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:2", "{phase}");
        assert_eq!(cluster.split(), Some((100, 0)), "{phase}");
    }
}

/// Found by simulation: the first promotion after a take-over failed, and nobody had kept what the primary ran before.
#[test]
fn what_flaggers_primary_ran_comes_back_after_a_failed_promotion_and_after_a_deletion() {
    for deleted in [false, true] {
        let mut cluster = left(&Left {
            phase: "Succeeded",
            target: ("podinfo:2", 0),
            primary: "podinfo:1",
            weight: 0,
            more: "",
        });
        cluster.run_until(Phase::Progressing);
        if deleted {
            cluster
                .remove(&deployment("podinfo-primary"))
                .run_until_calm();
            assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
            continue;
        }
        cluster
            .pods("podinfo-primary", Pods::Stuck)
            .run_until(Phase::Failed);
        cluster.run_until_calm();
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
        cluster.pods_ready("podinfo-primary").deploy("podinfo:1");
        cluster.run_until(Phase::Succeeded);
        cluster.run_until_calm();
        assert_eq!(cluster.split(), Some((100, 0)));
        assert_eq!(cluster.outcomes().last().unwrap(), "Held");
    }
}

#[test]
fn a_run_that_stood_at_its_last_step_counts_the_check_that_lets_it_pass() {
    let left = Left {
        phase: "Progressing",
        target: ("podinfo:2", 2),
        primary: "podinfo:1",
        weight: 40,
        more: "",
    };
    let mut cluster = left_with(&left, &canary(MEASURED));
    cluster.run_until_calm();
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .run_until(Phase::Promoting);
    assert_eq!(cluster.status().run.unwrap().checks, 1);
}

#[test]
fn an_idle_canary_keeps_its_pods() {
    let mut cluster = left(&Left {
        phase: "Succeeded",
        target: ("podinfo:1", 0),
        primary: "podinfo:1",
        weight: 0,
        more: "",
    });
    cluster.run_until_calm();
    assert_eq!(
        flagger_id(&cluster),
        FLAGGERS_ID,
        "a new one would restart every pod"
    );
    assert!(
        cluster
            .status()
            .last_applied_spec
            .unwrap()
            .starts_with("s1:")
    );
}

/// Found by simulation: the wait ended without a word in the history.
#[test]
fn a_wait_that_flagger_left_is_over_when_its_revision_is_taken_back() {
    let gated = canary(&with_hooks("stepWeight: 20", &["confirm-rollout gate"]));
    let waiting = Left {
        phase: "Waiting",
        target: ("podinfo:2", 0),
        primary: "podinfo:1",
        weight: 0,
        more: "",
    };
    let mut cluster = left_with(&waiting, &gated);
    cluster
        .answer_hook("gate", HookAnswer::Refused("not yet".to_owned()))
        .run_once()
        .run_once();
    assert_eq!(cluster.phase(), Phase::Waiting);
    cluster.deploy("podinfo:1").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert_eq!(cluster.outcomes(), ["Reverted"]);
}

#[test]
fn after_a_failed_promotion_the_canary_keeps_the_traffic() {
    let mut cluster = left(&Left {
        phase: "Failed",
        target: ("podinfo:2", 2),
        primary: "podinfo:2",
        weight: 100,
        more: "",
    });
    cluster.pods("podinfo-primary", Pods::Dead).run_until_calm();
    cluster.advance(120);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(cluster.replicas("podinfo"), 2);

    cluster.pods_ready("podinfo-primary");
    cluster.deploy("podinfo:3").run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
    assert_eq!(cluster.split(), Some((100, 0)));
}

#[test]
fn after_a_failed_promotion_a_primary_that_is_another_revision_changes_nothing() {
    let mut cluster = left(&Left {
        phase: "Failed",
        target: ("podinfo:2", 2),
        primary: "podinfo:1",
        weight: 100,
        more: "",
    });
    cluster.pods("podinfo-primary", Pods::Dead).advance(120);
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(cluster.replicas("podinfo"), 2);
}

#[test]
fn a_run_goes_on_from_the_split_on_the_route() {
    let mut cluster = left(&Left {
        phase: "Progressing",
        target: ("podinfo:2", 2),
        primary: "podinfo:1",
        weight: 20,
        more: "",
    });
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(80, 20), (60, 40), (100, 0)]);
}

#[test]
fn blue_green_goes_on_with_the_iterations_that_are_left() {
    let mut cluster = left_with(
        &Left {
            phase: "Progressing",
            target: ("podinfo:2", 2),
            primary: "podinfo:1",
            weight: 0,
            more: "",
        },
        &canary("{interval: 10s, threshold: 2, iterations: 5}"),
    );
    let name = cluster.canary_name();
    cluster.edit(&name, |canary| canary["status"]["iterations"] = json!(3));
    cluster.run_until(Phase::Succeeded);
    assert!(!cluster.has_told("canary iteration 3/5"));
    assert!(cluster.has_told("canary iteration 4/5"));
}

#[test]
fn cookies_of_a_run_that_is_under_way_are_kept() {
    let mut cluster = left_with(
        &Left {
            phase: "Progressing",
            target: ("podinfo:2", 2),
            primary: "podinfo:1",
            weight: 20,
            more: "sessionAffinityCookie: flagger-cookie=abcdefghij",
        },
        &canary(
            "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40, sessionAffinity: {cookieName: flagger-cookie}}",
        ),
    );
    cluster.run_until_calm();
    assert_eq!(
        cluster.status().session_affinity_cookie.as_deref(),
        Some("flagger-cookie=abcdefghij")
    );
}

#[test]
fn failed_checks_of_a_run_that_is_under_way_count_on() {
    let mut cluster = left_with(
        &Left {
            phase: "Progressing",
            target: ("podinfo:2", 2),
            primary: "podinfo:1",
            weight: 20,
            more: "",
        },
        &canary(MEASURED),
    );
    let name = cluster.canary_name();
    cluster.edit(&name, |canary| canary["status"]["failedChecks"] = json!(1));
    cluster
        .answer_metric(SUCCESS_RATE, Measurement::Value(90.0))
        .advance(15);
    assert_eq!(cluster.phase(), Phase::Failed, "{:?}", cluster.texts());
}
