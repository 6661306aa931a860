//! Tracked configs: which are found, copied, shared, and what a copy says.

use super::*;
use crate::workload::configs::{
    CONFIG_TRACKING, ConfigReference, Tracking, checksum, copy_if_needed, desired_copy, references,
    track,
};
use serde_json::json;

fn config_map() -> Object {
    object(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, labels: {team: a, other: b}, annotations: {x: y}}
immutable: true
data: {level: debug, page: '<b>&</b>'}
binaryData: {logo: AAEC}
",
    )
}

fn secret(kind: &str) -> Object {
    object(&format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: login, namespace: shop}}, type: '{kind}', data: {{user: Ym9i}}}}"
    ))
}

fn settings() -> WorkloadSettings {
    WorkloadSettings {
        include_label_prefix: vec!["team".into()],
        ..WorkloadSettings::default()
    }
}

fn reference(kind: &'static str, name: &str, optional: bool) -> ConfigReference {
    ConfigReference {
        kind,
        name: name.into(),
        optional,
    }
}

#[test]
fn every_way_to_use_a_config_is_found_once() {
    assert_eq!(
        references(deployment().at("/spec/template")),
        [
            reference("ConfigMap", "settings", false),
            reference("ConfigMap", "untracked", false),
            reference("Secret", "login", false),
        ]
    );
    for (spec, name) in [
        ("{volumes: [{configMap: {name: one}}]}", "configmap/one"),
        ("{volumes: [{secret: {secretName: one}}]}", "secret/one"),
        (
            "{volumes: [{projected: {sources: [{configMap: {name: one}}]}}]}",
            "configmap/one",
        ),
        (
            "{volumes: [{projected: {sources: [{secret: {name: one}}]}}]}",
            "secret/one",
        ),
        (
            "{containers: [{env: [{valueFrom: {configMapKeyRef: {name: one}}}]}]}",
            "configmap/one",
        ),
        (
            "{containers: [{env: [{valueFrom: {secretKeyRef: {name: one}}}]}]}",
            "secret/one",
        ),
        (
            "{containers: [{envFrom: [{configMapRef: {name: one}}]}]}",
            "configmap/one",
        ),
        (
            "{containers: [{envFrom: [{secretRef: {name: one}}]}]}",
            "secret/one",
        ),
        (
            "{initContainers: [{envFrom: [{configMapRef: {name: one}}]}]}",
            "configmap/one",
        ),
        (
            "{initContainers: [{env: [{valueFrom: {secretKeyRef: {name: one}}}]}]}",
            "secret/one",
        ),
    ] {
        let found: Vec<String> = references(&json!({"spec": value(spec)}))
            .iter()
            .map(ConfigReference::status_key)
            .collect();
        assert_eq!(found, [name], "{spec}");
    }
    let unseen = "{imagePullSecrets: [{name: one}], volumes: [{csi: {driver: d, nodePublishSecretRef: {name: one}}}]}";
    assert_eq!(references(&json!({"spec": value(unseen)})), []);
}

#[test]
fn a_reference_is_optional_only_if_every_mention_is() {
    let template = |first: bool, second: bool| {
        json!({"spec": {"containers": [{"envFrom": [
            {"configMapRef": {"name": "c", "optional": first}}, {"configMapRef": {"name": "c", "optional": second}}]}]}})
    };
    for (first, second, optional) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        assert_eq!(references(&template(first, second))[0].optional, optional);
    }
}

#[test]
fn what_becomes_of_a_reference() {
    let needed = reference("Secret", "login", false);
    let of = |source: &Object| track(&canary(), &needed, &present(source)).unwrap();
    for kind in [
        "",
        "Opaque",
        "kubernetes.io/basic-auth",
        "kubernetes.io/ssh-auth",
        "kubernetes.io/tls",
    ] {
        assert!(
            matches!(of(&secret(kind)), Tracking::Copied { .. }),
            "{kind}"
        );
    }
    assert_eq!(
        of(&secret("kubernetes.io/service-account-token")),
        Tracking::Shared(None)
    );
    let annotated = |value: &str| {
        let mut secret = secret("Opaque");
        secret.value_mut()["metadata"]["annotations"] = json!({CONFIG_TRACKING: value});
        secret
    };
    assert_eq!(of(&annotated("disabled")), Tracking::Shared(None));
    assert_eq!(of(&annotated("disable")), Tracking::Shared(None));

    let mut rotated = annotated("");
    rotated.value_mut()["metadata"]["ownerReferences"] =
        json!([{"kind": "ExternalSecret", "name": "db", "uid": "u", "controller": true}]);
    let Tracking::Shared(Some(event)) = of(&rotated) else {
        panic!("{:?}", of(&rotated))
    };
    assert!(
        event.starts_with("Secret login is kept by ExternalSecret db: primary and canary share it"),
        "{event}"
    );
    rotated.value_mut()["metadata"]["annotations"] = json!({CONFIG_TRACKING: "enabled"});
    assert!(matches!(of(&rotated), Tracking::Copied { .. }));
    let mut certificate = secret("kubernetes.io/tls");
    certificate.value_mut()["metadata"]["annotations"] =
        json!({"cert-manager.io/certificate-name": "web"});
    assert!(matches!(of(&certificate), Tracking::Shared(Some(_))));
}

#[test]
fn a_missing_config_is_an_error_only_where_pods_need_it_and_an_unread_one_says_nothing() {
    let optional = reference("ConfigMap", "settings", true);
    let needed = reference("ConfigMap", "settings", false);
    assert_eq!(
        track(&canary(), &optional, &Reading::Absent),
        Ok(Tracking::Missing)
    );
    let error = track(&canary(), &needed, &Reading::Absent).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("ConfigMap settings.shop: not found, but the pods of podinfo need it"),
        "{error}"
    );
    let timeout = Reading::Unknown("timeout".into());
    assert_eq!(
        track(&canary(), &needed, &timeout),
        Ok(Tracking::Unknown("timeout".into()))
    );
}

#[test]
fn the_checksum_is_flaggers_and_covers_binary_data() {
    // echo -n '{"user":"Ym9i"}' | sha256sum | cut -c1-16, and so on.
    let rows = [
        (json!({"data": {"user": "Ym9i"}}), "8d0fce5ac4721ae6"),
        (json!({}), "74234e98afe7498f"),
        (
            json!({"data": {"page": "<b>&</b>", "a": "\u{2028}\n"}}),
            "693d868e8bc733ae",
        ),
    ];
    for (source, expected) in rows {
        assert_eq!(checksum(&Object::new(source.clone())), expected, "{source}");
    }
    let mut changed = config_map();
    changed.value_mut()["binaryData"]["logo"] = json!("AAED");
    assert_ne!(checksum(&changed), checksum(&config_map()));
}

#[test]
fn a_copy_says_what_the_source_says_and_nothing_of_its_metadata() {
    let copy = desired_copy(&canary(), &config_map(), &Reading::Absent, &settings());
    assert_eq!(copy.name(), "settings-primary");
    assert_eq!(copy.at("/data"), config_map().at("/data"));
    assert_eq!(copy.at("/binaryData"), config_map().at("/binaryData"));
    assert_eq!(copy.at("/metadata/labels"), &json!({"team": "a"}));
    assert!(copy.at("").get("immutable").is_none());
    let copy = desired_copy(
        &canary(),
        &secret("kubernetes.io/tls"),
        &Reading::Absent,
        &settings(),
    );
    assert_eq!(copy.text("/type"), "kubernetes.io/tls");
}

#[test]
fn a_copy_is_written_once_then_only_after_a_change_and_loses_what_the_source_lost() {
    let write = |source: &Object, live: &Reading| {
        copy_if_needed(&canary(), source, live, &settings()).unwrap()
    };
    let source = config_map();
    let stored = carried_out(&write(&source, &Reading::Absent).unwrap(), &Reading::Absent);
    assert_eq!(write(&source, &present(&stored)), None);
    let mut next = source;
    next.value_mut()["data"] = json!({"level": "info"});
    let removed = carried_out(&write(&next, &present(&stored)).unwrap(), &present(&stored));
    assert_eq!(removed.at("/data"), &json!({"level": "debug"}));
    let changed = carried_out(
        &write(&next, &present(&removed)).unwrap(),
        &present(&removed),
    );
    assert_eq!(changed.at("/data"), &json!({"level": "info"}));
    assert_eq!(write(&next, &present(&changed)), None);
}

#[test]
fn two_canaries_share_a_copy_without_a_quarrel() {
    let mut second = canary();
    second.metadata.name = "other".into();
    second.metadata.uid = Some("other-uid".into());
    let first = canary();
    let write = |canary: &Canary, live: &Reading| {
        copy_if_needed(canary, &config_map(), live, &settings()).unwrap()
    };
    let by_first = carried_out(&write(&first, &Reading::Absent).unwrap(), &Reading::Absent);
    let by_second = carried_out(
        &write(&second, &present(&by_first)).unwrap(),
        &present(&by_first),
    );
    let owners = by_second
        .at("/metadata/ownerReferences")
        .as_array()
        .unwrap();
    let controlled: Vec<(&str, bool)> = owners
        .iter()
        .map(|owner| (owner["uid"].as_str().unwrap(), owner["controller"] == true))
        .collect();
    assert_eq!(controlled, [("canary-uid", true), ("other-uid", false)]);
    for canary in [&first, &second] {
        assert_eq!(
            write(canary, &present(&by_second)),
            None,
            "both are content"
        );
    }
}

#[test]
fn a_copy_that_somebody_else_controls_is_refused() {
    let mut live = config_map();
    live.value_mut()["metadata"]["ownerReferences"] =
        json!([{"kind": "Operator", "name": "o", "uid": "u", "controller": true}]);
    assert!(copy_if_needed(&canary(), &config_map(), &present(&live), &settings()).is_err());
}
