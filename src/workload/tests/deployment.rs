//! Deployments: the primary made from a target, readiness, scaling.

use super::*;
use crate::object::{Expect, apply_if_needed, canonical_json, kinds};
use crate::workload::{Readiness, ReadinessRule, flagger_id, runs_template};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

fn settings_with(prefixes: &[&str]) -> WorkloadSettings {
    WorkloadSettings {
        include_label_prefix: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
        ..WorkloadSettings::default()
    }
}

fn primary(replicas: Option<i64>) -> Object {
    let tracked = renames(&[("ConfigMap", "settings"), ("Secret", "login")]);
    primary_of(
        &canary(),
        &deployment(),
        &WorkloadSettings::default(),
        &tracked,
        replicas,
    )
    .unwrap()
}

#[test]
fn the_primary_takes_rollout_fields_from_the_target_and_is_owned_by_the_canary() {
    let primary = primary(Some(3));
    assert_eq!(primary.name(), "podinfo-primary");
    assert_eq!(primary.at("/metadata/ownerReferences/0/uid"), "canary-uid");
    assert_eq!(primary.at("/metadata/ownerReferences/0/controller"), true);
    let spec = primary.at("/spec");
    assert_eq!(spec["replicas"], 3);
    assert_eq!(spec["minReadySeconds"], 5);
    assert_eq!(spec["progressDeadlineSeconds"], 60);
    assert_eq!(spec["revisionHistoryLimit"], 5);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxSurge"], 1);
    assert_eq!(
        spec["selector"],
        json!({"matchLabels": {"app": "podinfo-primary"}})
    );
    assert!(spec.get("paused").is_none());
}

#[test]
fn replicas_are_left_alone_where_none_are_asked_for() {
    assert!(primary(None).at("/spec").get("replicas").is_none());
}

#[test]
fn labels_and_annotations_travel_by_prefix() {
    type Row<'a> = (&'a [&'a str], Value, Value);
    let rows: [Row; 3] = [
        (&[], json!({"app": "podinfo-primary"}), json!({})),
        (
            &["team"],
            json!({"app": "podinfo-primary", "team": "checkout"}),
            json!({"team.example/pager": "1"}),
        ),
        (
            &["*"],
            json!({"app": "podinfo-primary", "team": "checkout", "app.kubernetes.io/part-of": "shop"}),
            json!({"team.example/pager": "1"}),
        ),
    ];
    for (prefixes, labels, annotations) in rows {
        let settings = settings_with(prefixes);
        let primary =
            primary_of(&canary(), &deployment(), &settings, &BTreeMap::new(), None).unwrap();
        assert_eq!(primary.at("/metadata/labels"), &labels, "{prefixes:?}");
        assert_eq!(
            primary.at("/metadata/annotations"),
            &annotations,
            "{prefixes:?}"
        );
    }
}

#[test]
fn pods_of_the_primary_differ_by_label_and_flagger_id_and_lose_what_flux_wrote() {
    let primary = primary(None);
    assert_eq!(
        primary.at("/spec/template/metadata"),
        &json!({
            "labels": {"app": "podinfo-primary", "tier": "web"},
            "annotations": {"prometheus.io/scrape": "true", "flagger-id": "id-1"},
        })
    );
}

#[test]
fn the_label_value_need_not_be_the_name_of_the_target() {
    let mut target = deployment();
    target.value_mut()["spec"]["selector"]["matchLabels"] = json!({"name": "web-frontend"});
    target.value_mut()["spec"]["template"]["metadata"]["labels"] = json!({"name": "web-frontend"});
    let primary = primary_of(
        &canary(),
        &target,
        &WorkloadSettings::default(),
        &BTreeMap::new(),
        None,
    )
    .unwrap();
    assert_eq!(
        primary.at("/spec/selector/matchLabels"),
        &json!({"name": "web-frontend-primary"})
    );
    assert_eq!(
        primary.at("/spec/template/metadata/labels/name"),
        "web-frontend-primary"
    );
    // `app` is not what tells the sides apart here, so terms about it stay.
    assert_eq!(
        primary.at("/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels/app"),
        "podinfo"
    );
}

#[test]
fn primaries_keep_away_from_primaries() {
    let primary = primary(None);
    let spec = primary.at("/spec/template/spec");
    let anti = &spec["affinity"]["podAntiAffinity"];
    assert_eq!(
        anti["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]["labelSelector"]
            ["matchLabels"],
        json!({"app": "podinfo-primary", "tier": "web"})
    );
    assert_eq!(
        anti["requiredDuringSchedulingIgnoredDuringExecution"][0]["labelSelector"]["matchExpressions"]
            [0]["values"],
        json!(["podinfo-primary", "cache"])
    );
    assert_eq!(
        spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["app"],
        "podinfo-primary"
    );
}

#[test]
fn tracked_configs_are_renamed_wherever_a_pod_can_name_them() {
    let primary = primary(None);
    let spec = primary.at("/spec/template/spec");
    for (pointer, name) in [
        ("/volumes/0/configMap/name", "settings-primary"),
        ("/volumes/1/secret/secretName", "login-primary"),
        (
            "/volumes/2/projected/sources/0/configMap/name",
            "settings-primary",
        ),
        (
            "/volumes/2/projected/sources/1/secret/name",
            "login-primary",
        ),
        ("/volumes/3/configMap/name", "untracked"),
        (
            "/containers/0/env/1/valueFrom/secretKeyRef/name",
            "login-primary",
        ),
        (
            "/containers/0/env/2/valueFrom/configMapKeyRef/name",
            "settings-primary",
        ),
        (
            "/containers/0/envFrom/0/configMapRef/name",
            "settings-primary",
        ),
        ("/containers/0/envFrom/1/secretRef/name", "login-primary"),
        (
            "/initContainers/0/envFrom/0/secretRef/name",
            "login-primary",
        ),
    ] {
        assert_eq!(spec.pointer(pointer).unwrap(), name, "{pointer}");
    }
    assert_eq!(
        spec["containers"][0]["env"][0],
        json!({"name": "COLOR", "value": "blue"})
    );
}

#[test]
fn a_variable_that_is_set_twice_is_applied_once_with_the_value_that_counts() {
    let mut target = deployment();
    target.value_mut()["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "A", "value": "3"}]);
    let settings = WorkloadSettings::default();
    let primary = primary_of(&canary(), &target, &settings, &BTreeMap::new(), None).unwrap();
    assert_eq!(
        primary.at("/spec/template/spec/containers/0/env"),
        &json!([{"name": "B", "value": "2"}, {"name": "A", "value": "3"}])
    );
}

#[test]
fn a_port_that_is_listed_twice_is_refused_by_name() {
    let mut target = deployment();
    target.value_mut()["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([
        {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns-tcp", "containerPort": 53},
        {"name": "again", "containerPort": 53, "protocol": "TCP"}]);
    let settings = WorkloadSettings::default();
    let error = primary_of(&canary(), &target, &settings, &BTreeMap::new(), None).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("container podinfod lists port 53/TCP twice"),
        "{error}"
    );
}

#[test]
fn a_target_without_a_known_label_is_refused_with_the_labels_looked_for() {
    let mut target = deployment();
    target.value_mut()["spec"]["selector"]["matchLabels"] = json!({"run": "podinfo"});
    let error = kind_of(&target)
        .selector(&target, &WorkloadSettings::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Deployment podinfo.shop: spec.selector.matchLabels has only run; one of the labels app, name, app.kubernetes.io/name \
         is needed there to tell primary and canary pods apart (add one, or name yours with -selector-labels)"
    );
}

#[test]
fn a_primary_that_is_as_desired_is_not_written_again() {
    let desired = primary(Some(2));
    let write = apply_if_needed(&kinds::DEPLOYMENT, desired.clone(), &Reading::Absent).unwrap();
    let mut stored = carried_out(&write, &Reading::Absent);
    stored.value_mut()["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
    assert_eq!(
        apply_if_needed(&kinds::DEPLOYMENT, desired, &present(&stored)),
        None
    );
}

#[test]
fn the_flagger_id_changes_exactly_with_revision_and_configs() {
    let id = flagger_id("s1:aa", "c1");
    assert_eq!(id, flagger_id("s1:aa", "c1"));
    assert_ne!(id, flagger_id("s1:ab", "c1"));
    assert_ne!(id, flagger_id("s1:aa", "c2"));
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
}

#[test]
fn a_primary_made_by_flagger_is_recognised_by_its_template() {
    let target = deployment();
    let template = kind_of(&target).template(&target);
    let mut made = primary(None);
    made.value_mut()["spec"]["template"]["metadata"]["annotations"]["flagger-id"] =
        json!("0a1b2c3d-0000-4000-8000-000000000000");
    let recognised = |primary: &Object| {
        runs_template(
            primary.at("/spec/template"),
            &template,
            "podinfo",
            &app_podinfo(),
        )
    };
    assert!(recognised(&made));
    let untracked = primary_of(
        &canary(),
        &target,
        &WorkloadSettings::default(),
        &BTreeMap::new(),
        None,
    )
    .unwrap();
    assert!(recognised(&untracked), "made with config tracking off");
    made.value_mut()["spec"]["template"]["spec"]["containers"][0]["image"] = json!("podinfo:5.9.0");
    assert!(!recognised(&made));
}

const BEGAN: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + seconds).unwrap()
}

/// A Deployment of three with this status.
fn with_status(status: &str, conditions: &[(&str, &str, &str, i64)]) -> Object {
    let mut live = deployment();
    live.value_mut()["spec"]["replicas"] = json!(3);
    live.value_mut()["status"] = value(status);
    live.value_mut()["status"]["conditions"] = conditions
        .iter()
        .map(|(kind, status, reason, updated)| {
            json!({"type": kind, "status": status, "reason": reason, "lastUpdateTime": at(*updated).to_string()})
        })
        .collect();
    live
}

const PROGRESSING: (&str, &str, &str, i64) = ("Progressing", "True", "ReplicaSetUpdated", 0);
const UNAVAILABLE: (&str, &str, &str, i64) =
    ("Available", "False", "MinimumReplicasUnavailable", 0);
const EXCEEDED: (&str, &str, &str, i64) = ("Progressing", "False", "ProgressDeadlineExceeded", 0);

#[test]
fn readiness_counts_updated_pods_against_the_threshold() {
    let waits = |text: &str| Readiness::Waiting {
        message: format!("waiting for rollout to finish: {text}"),
    };
    let rows = [
        (
            "{observedGeneration: 3}",
            100,
            waits("observed deployment generation less than desired generation"),
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 0}",
            100,
            waits("0 out of 3 new replicas have been updated"),
        ),
        (
            "{observedGeneration: 4, replicas: 4, updatedReplicas: 3}",
            100,
            waits("1 old replicas are pending termination"),
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 3, availableReplicas: 2}",
            100,
            waits("2 of 3 (readyThreshold 100%) updated replicas are available"),
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 3, availableReplicas: 2}",
            70,
            Readiness::Ready,
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 3}",
            50,
            waits("0 of 3 (readyThreshold 50%) updated replicas are available"),
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 3}",
            0,
            Readiness::Ready,
        ),
        (
            "{observedGeneration: 4, replicas: 3, updatedReplicas: 3, availableReplicas: 3}",
            100,
            Readiness::Ready,
        ),
    ];
    for (status, threshold, expected) in rows {
        let rule = ReadinessRule {
            threshold,
            progress_deadline: SignedDuration::from_secs(600),
            since: None,
            now: at(10),
        };
        let live = with_status(status, &[]);
        assert_eq!(
            kind_of(&live).readiness(&live, &rule),
            expected,
            "{status} {threshold}%"
        );
    }
}

#[test]
fn waiting_fails_when_the_revision_at_hand_is_past_its_deadline() {
    let stuck = "{observedGeneration: 4, replicas: 3, updatedReplicas: 3, availableReplicas: 1}";
    let late_progress = ("Progressing", "True", "ReplicaSetUpdated", 550);
    // conditions, waiting since, now, failed
    let rows = [
        (vec![PROGRESSING, UNAVAILABLE], None, 600, false),
        (vec![PROGRESSING, UNAVAILABLE], None, 601, true),
        (vec![UNAVAILABLE], None, 10_000, false),
        (vec![PROGRESSING], None, 10_000, false),
        (vec![PROGRESSING, UNAVAILABLE], Some(500), 601, false),
        (vec![PROGRESSING, UNAVAILABLE], Some(500), 1101, true),
        (vec![PROGRESSING], Some(500), 1101, true),
        (vec![late_progress, UNAVAILABLE], Some(0), 1100, false),
        (vec![late_progress, UNAVAILABLE], Some(0), 1151, true),
        (vec![EXCEEDED], None, 1, true),
        (vec![EXCEEDED], Some(0), 1, true),
        (vec![EXCEEDED], Some(1), 2, false),
        (vec![EXCEEDED], Some(1), 602, true),
    ];
    for (conditions, since, now, failed) in rows {
        let rule = ReadinessRule {
            threshold: 100,
            progress_deadline: SignedDuration::from_secs(600),
            since: since.map(at),
            now: at(now),
        };
        let live = with_status(stuck, &conditions);
        let found = kind_of(&live).readiness(&live, &rule);
        assert_eq!(
            matches!(found, Readiness::Failed { .. }),
            failed,
            "{conditions:?} {since:?} {now}: {found:?}"
        );
    }
    let live = with_status(stuck, &[EXCEEDED]);
    let rule = ReadinessRule {
        threshold: 100,
        progress_deadline: SignedDuration::from_secs(600),
        since: None,
        now: at(1),
    };
    assert_eq!(
        kind_of(&live).readiness(&live, &rule).message(),
        "deployment \"podinfo\" exceeded its progress deadline"
    );
}

#[test]
fn a_workload_scaled_to_zero_is_not_ready_at_any_threshold() {
    let mut live = with_status("{observedGeneration: 4}", &[]);
    live.value_mut()["spec"]["replicas"] = json!(0);
    let rule = ReadinessRule {
        threshold: 0,
        progress_deadline: SignedDuration::from_secs(1),
        since: None,
        now: at(1),
    };
    assert_eq!(
        kind_of(&live).readiness(&live, &rule).message(),
        "deployment \"podinfo\" is scaled to zero"
    );
}

#[test]
fn scaling_is_a_guarded_patch_of_one_field_and_nothing_where_the_scale_holds() {
    let live = deployment();
    let kind = kind_of(&live);
    assert_eq!(kind.scale(&live, 2), None);
    let write = kind.scale(&live, 0).unwrap();
    let Write::Patch {
        target,
        patch,
        expect,
    } = &write
    else {
        panic!("{write:?}")
    };
    assert_eq!(target.to_string(), "Deployment podinfo.shop");
    assert_eq!(patch, &Patch::Merge(json!({"spec": {"replicas": 0}})));
    assert_eq!(
        expect,
        &Expect::Version {
            uid: "target-uid".into(),
            resource_version: "100".into()
        }
    );
}

#[test]
fn scaling_up_from_zero_takes_the_first_count_that_is_known() {
    let scaled = |replicas: i64| {
        let mut object = deployment();
        object.value_mut()["spec"]["replicas"] = json!(replicas);
        object
    };
    let hpa = |least: i64| {
        object(&format!(
            "{{kind: HorizontalPodAutoscaler, spec: {{minReplicas: {least}}}}}"
        ))
    };
    let keda = object("{kind: ScaledObject, spec: {minReplicaCount: 4}}");
    let bare = canary();
    let mut scaling = canary();
    scaling.spec.autoscaler_ref = Some(crate::api::AutoscalerRef::default());
    // canary, target, primary, autoscaler, expected
    let rows = [
        (&bare, 5, Some(2), None, 5),
        (&bare, 0, Some(3), None, 3),
        (&bare, 0, Some(0), None, 1),
        (&bare, 0, None, None, 1),
        (&scaling, 0, Some(3), Some(hpa(2)), 2),
        (&scaling, 0, Some(3), Some(hpa(1)), 1),
        (&scaling, 0, Some(3), Some(keda), 4),
        (&scaling, 0, Some(3), None, 1),
    ];
    for (canary, target, primary, autoscaler, expected) in rows {
        let target = scaled(target);
        let primary = primary.map(scaled);
        let found = kind_of(&target).replicas_from_zero(
            canary,
            &target,
            primary.as_ref(),
            autoscaler.as_ref(),
        );
        assert_eq!(found, expected, "{target:?} {primary:?} {autoscaler:?}");
    }
}

/// Undoes what tells a primary's template from the kept one.
fn undone(primary: &Object) -> Value {
    let text = primary
        .at("/spec/template")
        .to_string()
        .replace("-primary", "");
    let mut template: Value = serde_json::from_str(&text).unwrap();
    template["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .remove("flagger-id");
    template
}

prop_compose! {
    fn container()(
        name in "[a-z]{1,8}",
        image in "[a-z]{1,8}:[0-9]{1,3}",
        config in proptest::option::of("[a-z]{1,6}"),
        secret in proptest::option::of("[a-z]{1,6}"),
        port in proptest::option::of(1..65535_i64),
        unknown in any::<bool>(),
    ) -> Value {
        let mut container = json!({"name": name, "image": image});
        if let Some(config) = config {
            container["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": config, "key": "k"}}}, {"name": "B", "value": config}]);
        }
        if let Some(secret) = secret {
            container["envFrom"] = json!([{"prefix": "X", "secretRef": {"name": secret}}]);
        }
        if let Some(port) = port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if unknown {
            container["fieldOfTheFuture"] = json!({"deep": [1, {"x": null}, "y"]});
        }
        container
    }
}

proptest! {
    #[test]
    fn the_primary_runs_the_kept_template_and_nothing_else(
        containers in proptest::collection::vec(container(), 1..4),
        init in proptest::collection::vec(container(), 0..2),
        volume in "[a-z]{1,6}",
        tracked in any::<bool>(),
        live_image in "[a-z]{1,8}",
    ) {
        let kept = json!({
            "metadata": {"labels": {"app": "podinfo", "x": volume}, "annotations": {"a": "b"}},
            "spec": {"containers": containers, "initContainers": init, "volumes": [{"name": "v", "secret": {"secretName": volume}}]},
        });
        let mut target = deployment();
        target.value_mut()["spec"]["template"]["spec"]["containers"][0]["image"] = json!(live_image);
        let configs = if tracked {
            crate::workload::pod_template::config_references(&kept["spec"])
                .into_iter()
                .map(|found| ((found.kind.to_owned(), found.name.clone()), format!("{}-primary", found.name)))
                .collect()
        } else {
            BTreeMap::new()
        };
        let primary = kind_of(&target).desired_primary(&PrimaryRequest {
            canary: &canary(),
            target: &target,
            template: &kept,
            replicas: None,
            renamed_configs: &configs,
            flagger_id: "id",
            selector: &app_podinfo(),
            settings: &WorkloadSettings::default(),
        }).unwrap();
        prop_assert_eq!(canonical_json(&undone(&primary)), canonical_json(&kept));
        prop_assert!(runs_template(primary.at("/spec/template"), &kept, "podinfo", &app_podinfo()));
    }
}
