//! Targets and what stands beside them, over whole runs: `DaemonSets`, autoscalers, rivals, cookies, and the bounds of what is remembered.

use super::*;
use crate::object::{Kind, ObjectRef, kinds};

fn object(kind: &Kind, name: &str) -> ObjectRef {
    kind.named(cluster::NAMESPACE, name)
}

const DAEMON_SET: &str = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo}
spec:
  targetRef: {apiVersion: apps/v1, kind: DaemonSet, name: podinfo}
  progressDeadlineSeconds: 60
  service: {port: 9898, gatewayRefs: [{name: gateway, namespace: infra}]}
  analysis: {interval: 10s, threshold: 2, stepWeight: 50}
";

#[test]
fn a_daemon_set_is_parked_judged_promoted_and_parked_again() {
    let target = object(&kinds::DAEMON_SET, "podinfo");
    let mut cluster = Cluster::given_canary(DAEMON_SET);
    cluster.given(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: podinfo}
spec:
  selector: {matchLabels: {app: podinfo}}
  template:
    metadata: {labels: {app: podinfo}}
    spec: {containers: [{name: app, image: 'podinfo:1'}]}
",
    );
    cluster.run_until(Phase::Initialized);
    let parked = |cluster: &Cluster| {
        let live = cluster.object(&target).unwrap();
        live.at("/spec/template/spec/nodeSelector")
            .as_object()
            .is_some_and(|labels| !labels.is_empty())
    };
    assert!(parked(&cluster));
    assert_eq!(cluster.apex(), "podinfo-primary");
    cluster.forget_the_past();
    let deploy = |cluster: &mut Cluster, image: &str| {
        cluster.edit(&target, |target| {
            target["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        });
        cluster.run_until_calm();
    };
    deploy(&mut cluster, "podinfo:2");
    assert!(!parked(&cluster));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (50, 50), (0, 100), (100, 0)]);
    let primary = cluster
        .object(&object(&kinds::DAEMON_SET, "podinfo-primary"))
        .unwrap();
    assert_eq!(
        primary.text("/spec/template/spec/containers/0/image"),
        "podinfo:2"
    );
    assert!(primary.at("/spec/template/spec/nodeSelector").is_null());
    assert!(parked(&cluster));

    cluster.pods("podinfo", Pods::Dead);
    deploy(&mut cluster, "podinfo:3");
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert!(parked(&cluster));
    assert_eq!(cluster.split(), Some((100, 0)));
}

const SCALED: &str = ", autoscalerRef: {apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: podinfo, \
     primaryScalerReplicas: {minReplicas: 3, maxReplicas: 9}}";

#[test]
fn a_scaled_object_rests_with_its_target_and_the_primarys_never_does() {
    let users = object(&kinds::SCALED_OBJECT, "podinfo");
    let primary = object(&kinds::SCALED_OBJECT, "podinfo-primary");
    let paused = |cluster: &Cluster, name: &ObjectRef| {
        let live = cluster.object(name).unwrap();
        live.annotation("autoscaling.keda.sh/paused-replicas")
            .map(str::to_owned)
    };
    let mut cluster = Cluster::given_canary(&canary_with(MEASURED, SCALED));
    cluster.given_deployment("podinfo:1").given(
        "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: podinfo}
spec:
  scaleTargetRef: {name: podinfo}
  minReplicaCount: 2
  maxReplicaCount: 5
  triggers: [{type: prometheus, metadata: {query: 'rate(requests{app=\"podinfo\"}[1m])', threshold: '10'}}]
",
    );
    cluster.run_until(Phase::Initialized);
    cluster.run_until_calm();
    assert_eq!(paused(&cluster, &users).as_deref(), Some("0"));
    assert_eq!(paused(&cluster, &primary), None);
    let spec = cluster.object(&primary).unwrap();
    assert_eq!(spec.number("/spec/minReplicaCount"), Some(3));
    assert_eq!(spec.number("/spec/maxReplicaCount"), Some(9));

    // A primary's autoscaler that is lost in the meantime is made anew, and never with the pause of the user's (9.2 A14).
    cluster.remove(&primary);
    cluster.run_until_calm();
    assert_eq!(paused(&cluster, &primary), None);

    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(paused(&cluster, &users), None);
    // The user's edit of triggers reaches the primary with the promotion and not before.
    cluster.edit(&users, |users| {
        users["spec"]["triggers"][0]["metadata"]["threshold"] = json!("20");
    });
    cluster.run_until_calm();
    let threshold = |cluster: &Cluster| {
        let primary = cluster.object(&primary).unwrap();
        primary
            .text("/spec/triggers/0/metadata/threshold")
            .to_owned()
    };
    assert_eq!(threshold(&cluster), "10");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(threshold(&cluster), "20");
    assert_eq!(paused(&cluster, &users).as_deref(), Some("0"));
    assert_eq!(paused(&cluster, &primary), None);

    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.deploy("podinfo:3").run_until(Phase::Failed);
    assert_eq!(paused(&cluster, &users).as_deref(), Some("0"));

    // One that somebody woke and led requests to is put to sleep only when the gateway has taken the way back. Found by simulation.
    cluster
        .gateway_is_silent()
        .steer(60, 40)
        .edit(&users, |users| users["metadata"]["annotations"] = json!({}))
        .run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(paused(&cluster, &users), None);
    cluster.gateway_applies().run_until_calm();
    assert_eq!(paused(&cluster, &users), None, "requests may still be open");
    cluster.advance(3);
    assert_eq!(paused(&cluster, &users).as_deref(), Some("0"));
}

/// Found by simulation: after a failed promotion a newer revision came to a closed gate, and the pods went while requests still came.
#[test]
fn a_canary_that_had_the_traffic_keeps_its_pods_while_a_gate_waits() {
    let users = object(&kinds::SCALED_OBJECT, "podinfo");
    let analysis = with_hooks("stepWeight: 50", &["confirm-rollout gate"]);
    let mut cluster = Cluster::given_canary(&canary_with(&analysis, SCALED));
    cluster.given_deployment("podinfo:1").given(
        "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: podinfo}
spec: {scaleTargetRef: {name: podinfo}, minReplicaCount: 2, maxReplicaCount: 5, triggers: []}
",
    );
    cluster.run_until(Phase::Initialized);
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .deploy("podinfo:2")
        .run_until(Phase::Failed);
    assert_eq!(cluster.status().run.unwrap().stage, "Held");

    cluster
        .pods_ready("podinfo-primary")
        .answer_hook("gate", refused())
        .deploy("podinfo:3")
        .run_until(Phase::Waiting);
    cluster.run_until_calm();
    let live = cluster.object(&users).unwrap();
    assert_eq!(live.annotation("autoscaling.keda.sh/paused-replicas"), None);
}

/// Found by simulation: the run ended with both sides dark, and the autoscaler of the one that may still come up was put to sleep.
#[test]
fn an_autoscaler_is_not_put_to_sleep_while_the_primary_is_dark() {
    let users = object(&kinds::SCALED_OBJECT, "podinfo");
    let mut cluster = Cluster::given_canary(&canary_with(STEPS, SCALED));
    cluster.given_deployment("podinfo:1").given(
        "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: podinfo}
spec: {scaleTargetRef: {name: podinfo}, minReplicaCount: 2, maxReplicaCount: 5, triggers: []}
",
    );
    cluster.run_until(Phase::Initialized);
    let asleep = |cluster: &Cluster| {
        let live = cluster.object(&users).unwrap();
        live.annotation("autoscaling.keda.sh/paused-replicas")
            .is_some()
    };
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .pods("podinfo", Pods::Dead)
        .deploy("podinfo:2")
        .run_until(Phase::Failed);
    cluster.run_until_calm();
    assert!(!asleep(&cluster));
    cluster.pods_ready("podinfo-primary").run_until_calm();
    assert!(!asleep(&cluster), "the primary has only just got requests");
    cluster.advance(3);
    assert!(asleep(&cluster));
}

#[test]
fn a_primary_that_was_scaled_down_gets_its_pods_before_the_traffic() {
    let primary = object(&kinds::HORIZONTAL_POD_AUTOSCALER, "podinfo-primary");
    let least = |cluster: &Cluster| {
        let live = cluster.object(&primary).unwrap();
        live.number("/spec/minReplicas")
    };
    let mut cluster = Cluster::given_canary(&canary_with(
        "{interval: 10s, threshold: 2, stepWeight: 50}",
        ", autoscalerRef: {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, name: podinfo}",
    ));
    cluster.given_deployment("podinfo:1").given(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: podinfo}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  minReplicas: 1
  maxReplicas: 6
",
    );
    cluster.run_until(Phase::Initialized);
    assert_eq!(least(&cluster), Some(1));
    let scale = |cluster: &mut Cluster, name: &str, replicas: i64| {
        cluster.edit(&deployment(name), |one| {
            one["spec"]["replicas"] = json!(replicas);
        });
        cluster.run_until_calm();
    };
    cluster.deploy("podinfo:2").advance(12);
    assert_eq!(cluster.split(), Some((0, 100)));
    // The canary's autoscaler follows the load, and so does the primary's, which sees none.
    scale(&mut cluster, "podinfo", 8);
    scale(&mut cluster, "podinfo-primary", 1);
    cluster.run_until(Phase::Promoting);
    cluster.advance(5);
    assert_eq!(
        least(&cluster),
        Some(6),
        "as many as the canary has, and no more than the maximum"
    );
    assert_eq!(
        cluster.split(),
        Some((0, 100)),
        "the traffic waits for them"
    );
    scale(&mut cluster, "podinfo-primary", 6);
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(least(&cluster), Some(6), "load has to be seen first");
    cluster.advance(301);
    assert_eq!(least(&cluster), Some(1));
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert_eq!(cluster.wake(), None);

    // An autoscaler that does nothing keeps a promotion waiting for two minutes at most.
    cluster.deploy("podinfo:3").advance(12);
    scale(&mut cluster, "podinfo", 4);
    scale(&mut cluster, "podinfo-primary", 1);
    cluster.advance(180);
    assert_eq!(cluster.phase(), Phase::Succeeded);
}

#[test]
fn what_another_canary_has_already_is_refused_and_not_touched() {
    for (target, apex, reason) in [
        ("Deployment/podinfo", "other", "TargetClaimed"),
        ("Deployment/other", "podinfo", "ApexClaimed"),
    ] {
        let mut cluster = Cluster::given_canary(&canary(STEPS));
        cluster
            .given_deployment("podinfo:1")
            .given_rival(target, apex)
            .advance(300);
        assert_eq!(cluster.writes, [], "{reason}");
        let (status, found, message) = cluster.condition(condition_type::ACCEPTED);
        assert_eq!((status, found.as_str()), (ConditionStatus::False, reason));
        assert!(message.contains("rival"), "{message}");
        assert_eq!(cluster.told.len(), 1);
        cluster.rival_goes().run_until(Phase::Initialized);
        let accepted = cluster.condition(condition_type::ACCEPTED).0;
        assert_eq!(accepted, ConditionStatus::True);
    }
}

#[test]
fn a_primary_of_somebody_else_is_not_touched() {
    let owned =
        ", ownerReferences: [{apiVersion: v1, kind: App, name: shop, uid: a, controller: true}]";
    for owner in ["", owned] {
        let mut cluster = Cluster::given_canary(&canary(STEPS));
        cluster.given_deployment("podinfo:1").given(&format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: podinfo-primary{owner}}}
spec:
  selector: {{matchLabels: {{app: own}}}}
  template: {{metadata: {{labels: {{app: own}}}}, spec: {{containers: [{{name: app, image: 'own:1'}}]}}}}
"
        ));
        cluster.advance(300);
        assert_eq!(cluster.writes, []);
        let reason = cluster.condition(condition_type::ACCEPTED).1;
        assert_eq!(reason, "PrimaryNotOurs");
        assert_eq!(cluster.image("podinfo-primary"), "own:1");
    }
}

#[test]
fn users_stay_on_their_side_and_no_cookie_is_told() {
    let mut cluster = initialised(
        "{interval: 10s, threshold: 2, stepWeight: 50, sessionAffinity: {cookieName: canary, primaryCookieName: primary}}",
    );
    cluster.deploy("podinfo:2").advance(1);
    let status = cluster.status();
    let cookies = [
        status.session_affinity_cookie.unwrap(),
        status.primary_session_affinity_cookie.unwrap(),
    ];
    let route_says = |cluster: &Cluster, text: &str| {
        let live = cluster.object(&route()).unwrap();
        live.at("/spec").to_string().contains(text)
    };
    for cookie in &cookies {
        assert!(route_says(&cluster, cookie), "{cookie}");
    }
    cluster.run_until(Phase::Succeeded);
    cluster.run_until_calm();
    let status = cluster.status();
    assert_eq!(status.session_affinity_cookie, None);
    assert_eq!(status.primary_session_affinity_cookie, None);
    let previous = status.previous_session_affinity_cookie;
    assert_eq!(previous.as_ref(), Some(&cookies[0]));
    assert!(
        !route_says(&cluster, &cookies[1]),
        "nobody is pinned any more"
    );
    for told in cluster.texts() {
        for cookie in &cookies {
            let (_, value) = cookie.split_once('=').unwrap();
            assert!(!told.contains(value), "{told}");
        }
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, stepWeight: 100}");
    for revision in 2..15 {
        cluster
            .deploy(&format!("podinfo:{revision}"))
            .run_until(Phase::Progressing)
            .run_until(Phase::Succeeded);
        cluster.run_until_calm();
    }
    let history = cluster.status().history;
    assert_eq!(history.len(), 10);
    assert_eq!(history.last().unwrap().number, 13);
    assert!(
        history
            .iter()
            .all(|run| run.outcome == "Promoted" && !run.cause.is_empty())
    );

    let steps = MEASURED.replace("stepWeight: 20, maxWeight: 40", "stepWeight: 5");
    let mut long = initialised(&steps);
    long.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(long.status().metrics[0].recent.len(), 10);
}

#[test]
fn a_mirror_that_the_router_can_not_make_is_left_out() {
    // In Flagger this loops at weight 0 for ever (9.2 A5).
    let mut cluster = initialised("{interval: 10s, threshold: 2, stepWeight: 50, mirror: true}");
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (50, 50), (0, 100), (100, 0)]);
}

#[test]
fn a_primary_that_never_comes_back_ends_the_run() {
    // In Flagger such a run hangs with its traffic split (9.2 A13).
    let mut cluster = progressing(STEPS);
    cluster.advance(1);
    cluster.pods("podinfo-primary", Pods::Dead).advance(600);
    assert_eq!(cluster.phase(), Phase::Failed, "{:?}", cluster.texts());
    assert_eq!(
        cluster.split(),
        Some((0, 100)),
        "the canary is all that serves"
    );
    assert_eq!(cluster.replicas("podinfo"), 2);
}

#[test]
fn a_closed_gate_never_keeps_a_bad_canary() {
    let gates = [
        ("confirm-traffic-increase gate", Phase::Progressing),
        ("confirm-promotion gate", Phase::WaitingPromotion),
    ];
    for (gate, phase) in gates {
        let analysis = with_hooks(
            "stepWeight: 50, metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]",
            &[gate, "rollback rollback"],
        );
        for by_hook in [false, true] {
            let mut cluster = initialised(&analysis);
            cluster.deploy("podinfo:2").advance(1);
            cluster.answer_hook("gate", refused()).advance(60);
            assert_eq!(cluster.phase(), phase, "{gate}");
            assert!(cluster.status().run.unwrap().waiting_since.is_some());
            if by_hook {
                cluster.answer_hook("rollback", HookAnswer::Passed);
            } else {
                cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
            }
            cluster.run_until(Phase::Failed);
            cluster.run_until_calm();
            assert_eq!(cluster.split(), Some((100, 0)), "{gate}");
            assert_eq!(cluster.replicas("podinfo"), 0, "{gate}");
        }
    }
}

#[test]
fn hooks_of_one_kind_are_asked_together_and_each_must_pass() {
    let mut cluster = initialised(&with_hooks(
        "stepWeight: 50",
        &[
            "confirm-rollout one",
            "confirm-rollout two",
            "confirm-rollout three",
        ],
    ));
    cluster.answer_hook("two", refused());
    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Waiting);
    let asked: Vec<String> = cluster
        .called
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        asked[..3],
        ["one", "two", "three"],
        "all at once, though the second refuses"
    );
    let waits_for = cluster.status().run.unwrap().waiting_for;
    assert_eq!(waits_for.as_deref(), Some("gate two"));
    cluster
        .answer_hook("two", HookAnswer::Passed)
        .run_until(Phase::Progressing);
    for hook in ["one", "two", "three"] {
        assert!(cluster.has_told(&format!("Confirm-rollout check {hook} passed")));
    }
}

#[test]
fn a_hook_is_called_as_the_manifest_says_with_flaggers_payload() {
    let mut cluster = initialised(
        "{interval: 10s, threshold: 2, stepWeight: 50, webhooks: [ \
         {name: check, url: 'https://hooks.test/', timeout: 3s, retries: 2, disableTLS: true, metadata: {cmd: test}}, \
         {name: plain, type: rollout, url: 'http://hooks.test/'}]}",
    );
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    let calls = |cluster: &Cluster, name: &str| -> Vec<crate::rollout::HookCall> {
        let found = cluster.calls.iter().filter(|call| call.name == name);
        found.cloned().collect()
    };
    let first = calls(&cluster, "check").remove(0);
    assert_eq!(first.timeout.as_secs(), 3);
    assert_eq!(first.retries, 2);
    assert!(first.skip_tls_verification);
    let payload = json!(first.payload);
    assert_eq!(
        payload,
        json!({
            "name": "podinfo", "namespace": "test", "phase": "Progressing",
            "checksum": payload["checksum"], "metadata": {"cmd": "test"},
        })
    );
    let plain = calls(&cluster, "plain").remove(0);
    assert_eq!(plain.timeout.as_secs(), 10, "Flagger's default");
    assert!(!plain.skip_tls_verification);
    assert!(json!(plain.payload).get("metadata").is_none());

    // The checksum is the same through a run and another one in the next.
    let checksums = |cluster: &Cluster| -> std::collections::BTreeSet<String> {
        let found = calls(cluster, "check");
        found
            .into_iter()
            .map(|call| call.payload.checksum)
            .collect()
    };
    let of_first_run = checksums(&cluster);
    assert_eq!(of_first_run.len(), 1);
    cluster.forget_the_past();
    cluster.deploy("podinfo:3").run_until(Phase::Succeeded);
    assert!(checksums(&cluster).is_disjoint(&of_first_run));
}

#[test]
fn the_status_of_a_run_says_what_it_does_and_what_comes_next() {
    let message = |cluster: &Cluster| cluster.status().run.unwrap().message.unwrap();
    let mut cluster = progressing(STEPS);
    cluster.advance(1);
    assert_eq!(
        message(&cluster),
        "Step 1: 20 % of the traffic goes to the canary; once the checks pass, 40 %."
    );
    let run = cluster.status().run.unwrap();
    assert_eq!(
        run.next_check_at
            .unwrap()
            .duration_since(run.step_started_at.unwrap())
            .as_secs(),
        10
    );
    cluster.advance(10);
    assert!(message(&cluster).ends_with("once the checks pass, the promotion."));

    let mut rounds = progressing("{interval: 10s, threshold: 2, iterations: 2}");
    rounds.advance(1);
    assert!(
        message(&rounds).ends_with("once the checks pass, round 2 of 2."),
        "{}",
        message(&rounds)
    );
    rounds.advance(10);
    assert!(message(&rounds).ends_with("once the checks pass, all of the traffic."));
    rounds.advance(10);
    assert!(message(&rounds).ends_with("once the checks pass, the promotion."));
}

#[test]
fn a_stepped_return_of_a_canary_without_traffic_does_not_hang() {
    // In Flagger it hangs in Promoting for ever (9.2 A6).
    let mut cluster =
        progressing("{interval: 10s, threshold: 2, stepWeight: 100, stepWeightPromotion: 50}");
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Promoting);
    cluster.pods("podinfo", Pods::Dead).advance(5);
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Succeeded);
}
