//! The three Services: what they say, whose they are, and what becomes of a Service that was there before.

use super::*;
use crate::object::{Expect, kinds};
use crate::workload::DiscoveredPort;
use crate::workload::services::{
    ORIGINAL_SERVICE, ServiceRole, desired_services, discover_ports, restore_apex,
};
use serde_json::json;

fn write(canary: &Canary, which: ServiceRole, live: &Reading) -> Option<Write> {
    let ports = discover_ports(deployment().at("/spec/template/spec"), canary);
    desired_services(canary, &app_podinfo(), &ports, which, live).unwrap()
}

fn created(canary: &Canary, which: ServiceRole) -> Object {
    carried_out(
        &write(canary, which, &Reading::Absent).unwrap(),
        &Reading::Absent,
    )
}

#[test]
fn the_three_services_select_their_side() {
    let canary = canary_with(
        "{name: shop, port: 80, targetPort: http, portName: web, appProtocol: http2, trafficDistribution: PreferClose}",
    );
    let rows = [
        (ServiceRole::Apex, "shop", "podinfo-primary"),
        (ServiceRole::Primary, "shop-primary", "podinfo-primary"),
        (ServiceRole::Canary, "shop-canary", "podinfo"),
    ];
    for (role, name, pods) in rows {
        let service = created(&canary, role);
        assert_eq!(service.name(), name);
        assert_eq!(service.at("/spec/selector"), &json!({"app": pods}));
        assert_eq!(
            service.at("/spec/ports"),
            &json!([{"name": "web", "protocol": "TCP", "port": 80, "targetPort": "http", "appProtocol": "http2"}])
        );
        assert_eq!(service.at("/spec/trafficDistribution"), "PreferClose");
        assert_eq!(service.at("/metadata/labels"), &json!({"app": name}));
        assert_eq!(
            service.annotation("kustomize.toolkit.fluxcd.io/reconcile"),
            Some("disabled")
        );
        assert_eq!(
            service.annotation("helm.toolkit.fluxcd.io/driftDetection"),
            Some("disabled")
        );
        assert_eq!(service.controller_owner().unwrap().name, "podinfo");
        assert_eq!(
            write(&canary, role, &present(&service)),
            None,
            "a second look writes nothing"
        );
    }
}

#[test]
fn custom_metadata_goes_to_its_service_and_unmanaged_keys_are_left_alone() {
    let canary = canary_with(
        "{port: 80, apex: {labels: {team: a, ci: x}, annotations: {note: text, ci/run: '1'}}, primary: {labels: {team: b}},
          unmanagedMetadata: {labels: [ci], annotations: [ci/run]}}",
    );
    let apex = created(&canary, ServiceRole::Apex);
    assert_eq!(
        apex.at("/metadata/labels"),
        &json!({"app": "podinfo", "team": "a"})
    );
    assert_eq!(apex.annotation("note"), Some("text"));
    assert_eq!(apex.annotation("ci/run"), None);
    assert_eq!(
        created(&canary, ServiceRole::Primary).at("/metadata/labels"),
        &json!({"app": "podinfo-primary", "team": "b"})
    );
    let mut live = apex;
    live.value_mut()["metadata"]["annotations"]["ci/run"] = json!("7");
    assert_eq!(write(&canary, ServiceRole::Apex, &present(&live)), None);
}

#[test]
fn drift_of_an_owned_service_is_undone() {
    let canary = canary();
    let service = created(&canary, ServiceRole::Canary);
    let mut bent = service.clone();
    bent.value_mut()["spec"]["selector"] = json!({"app": "other"});
    let repair = write(&canary, ServiceRole::Canary, &present(&bent)).unwrap();
    assert_eq!(
        carried_out(&repair, &present(&bent)).at("/spec/selector/app"),
        "podinfo"
    );
    assert!(matches!(
        repair,
        Write::Apply {
            expect: Expect::Version { .. },
            ..
        }
    ));

    let mut extra = service;
    extra.value_mut()["spec"]["ports"] = json!([{"name": "http", "port": 8080, "protocol": "TCP", "nodePort": 30_001}, {"name": "x", "port": 9}]);
    let repair = write(&canary, ServiceRole::Canary, &present(&extra));
    assert_eq!(
        merge_patch(repair)["spec"]["ports"],
        json!([{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 30_001}])
    );
}

#[test]
fn headless_counts_at_creation_only() {
    let headless = canary_with("{port: 80, headless: true}");
    let service = created(&headless, ServiceRole::Apex);
    assert_eq!(service.at("/spec/clusterIP"), "None");
    assert_eq!(
        write(&headless, ServiceRole::Apex, &present(&service)),
        None
    );

    let mut live = created(&canary(), ServiceRole::Apex);
    live.value_mut()["spec"]["clusterIP"] = json!("10.0.0.1");
    assert_eq!(write(&headless, ServiceRole::Apex, &present(&live)), None);
}

#[test]
fn what_cannot_be_read_or_is_going_away_is_not_written() {
    let canary = canary();
    assert_eq!(
        write(
            &canary,
            ServiceRole::Apex,
            &Reading::Unknown("timeout".into())
        ),
        None
    );
    let mut going = users_service();
    going.value_mut()["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(write(&canary, ServiceRole::Apex, &present(&going)), None);
}

fn users_service() -> Object {
    object(
        "
apiVersion: v1
kind: Service
metadata: {name: podinfo, namespace: shop, uid: svc-uid, resourceVersion: '5', labels: {owner: me}, annotations: {mine: 'yes'}}
spec:
  type: NodePort
  clusterIP: 10.0.0.7
  selector: {app: podinfo, tier: web}
  ports:
    - {name: http, port: 8080, targetPort: 9898, protocol: TCP, nodePort: 30080}
    - {name: metrics, port: 9797, targetPort: 9797, protocol: TCP, nodePort: 30097}
",
    )
}

#[test]
fn a_users_apex_service_is_taken_over_and_given_back() {
    let canary = canary_with("{port: 80, targetPort: 9898, apex: {labels: {team: a}}}");
    let before = users_service();
    let take = write(&canary, ServiceRole::Apex, &present(&before)).unwrap();
    let taken = carried_out(&take, &present(&before));
    assert_eq!(
        taken.at("/spec/selector"),
        &json!({"app": "podinfo-primary"})
    );
    assert_eq!(
        taken.at("/spec/ports"),
        &json!([{"name": "http", "port": 80, "targetPort": 9898, "protocol": "TCP", "nodePort": 30080}])
    );
    assert_eq!(taken.at("/spec/type"), "NodePort");
    assert_eq!(taken.at("/spec/clusterIP"), "10.0.0.7");
    assert_eq!(taken.at("/metadata/labels"), &json!({"owner": "me"}));
    assert_eq!(taken.annotation("mine"), Some("yes"));
    assert_eq!(
        taken.annotation("kustomize.toolkit.fluxcd.io/reconcile"),
        Some("disabled")
    );
    assert!(taken.controller_owner().is_none());
    assert_eq!(
        write(&canary, ServiceRole::Apex, &present(&taken)),
        None,
        "a second look writes nothing"
    );

    let give = restore_apex(&canary, &app_podinfo(), &present(&taken)).unwrap();
    let mut given = carried_out(&give, &present(&taken));
    given.value_mut()["metadata"]["resourceVersion"] = json!("5");
    assert_eq!(given.at("/spec/selector"), before.at("/spec/selector"));
    assert_eq!(given.at("/metadata"), before.at("/metadata"));
    assert_eq!(given.at("/spec/ports/1/port"), 9797);
    assert_eq!(given.at("/spec/ports/0/nodePort"), 30080);
    assert_eq!(
        restore_apex(&canary, &app_podinfo(), &present(&given)),
        None,
        "a second look writes nothing"
    );
}

#[test]
fn an_apex_is_led_back_to_the_target_and_to_the_primary_again_and_the_users_wish_is_remembered() {
    let canary = canary_with("{port: 80}");
    let taken = carried_out(
        &write(&canary, ServiceRole::Apex, &present(&users_service())).unwrap(),
        &present(&users_service()),
    );
    let back = carried_out(
        &write(&canary, ServiceRole::ApexOfTarget, &present(&taken)).unwrap(),
        &present(&taken),
    );
    assert_eq!(
        back.at("/spec/selector"),
        users_service().at("/spec/selector")
    );
    let again = carried_out(
        &write(&canary, ServiceRole::Apex, &present(&back)).unwrap(),
        &present(&back),
    );
    assert_eq!(again.at("/spec/selector"), taken.at("/spec/selector"));
    assert_eq!(
        again.annotation(ORIGINAL_SERVICE),
        taken.annotation(ORIGINAL_SERVICE)
    );

    let ours = created(&canary, ServiceRole::Apex);
    let back = carried_out(
        &write(&canary, ServiceRole::ApexOfTarget, &present(&ours)).unwrap(),
        &present(&ours),
    );
    assert_eq!(back.at("/spec/selector"), &json!({"app": "podinfo"}));
}

#[test]
fn a_service_that_its_user_applies_again_is_taken_over_again_and_the_new_wish_is_kept() {
    let canary = canary();
    let live = users_service();
    let mut taken = carried_out(
        &write(&canary, ServiceRole::Apex, &present(&live)).unwrap(),
        &present(&live),
    );
    taken.value_mut()["spec"]["selector"] = json!({"app": "podinfo"});
    let again = carried_out(
        &write(&canary, ServiceRole::Apex, &present(&taken)).unwrap(),
        &present(&taken),
    );
    let record: Value = serde_json::from_str(again.annotation(ORIGINAL_SERVICE).unwrap()).unwrap();
    assert_eq!(record["selector"], json!({"app": "podinfo"}));
    assert!(
        record.get("annotations").is_none(),
        "the Flux annotations are not the user's"
    );
}

#[test]
fn without_our_record_the_origin_is_what_kubectl_applied_else_the_targets_label() {
    let canary = canary();
    let mut taken = users_service();
    taken.value_mut()["spec"]["selector"] = json!({"app": "podinfo-primary"});
    let restored = |live: &Object| {
        let write = restore_apex(&canary, &app_podinfo(), &present(live)).unwrap();
        carried_out(&write, &present(live))
            .at("/spec/selector")
            .clone()
    };
    assert_eq!(restored(&taken), json!({"app": "podinfo"}));
    taken.value_mut()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        json!(r#"{"spec":{"selector":{"app":"podinfo","tier":"web"}}}"#);
    assert_eq!(restored(&taken), json!({"app": "podinfo", "tier": "web"}));
    assert_eq!(
        restore_apex(&canary, &app_podinfo(), &present(&users_service())),
        None,
        "never taken over"
    );
    let ours = created(&canary, ServiceRole::Apex);
    assert_eq!(
        restore_apex(&canary, &app_podinfo(), &present(&ours)),
        None,
        "goes with its canary"
    );
}

#[test]
fn services_of_strangers_are_refused() {
    let refusal = |which: ServiceRole, owner: &str| {
        let mut live = users_service();
        live.value_mut()["metadata"]["ownerReferences"] =
            json!([{"kind": owner, "name": "stranger", "uid": "u2", "controller": true}]);
        desired_services(&canary(), &app_podinfo(), &[], which, &present(&live)).map(|_| ())
    };
    assert!(refusal(ServiceRole::Primary, "Canary").is_err());
    assert!(refusal(ServiceRole::Canary, "Operator").is_err());
    assert!(refusal(ServiceRole::Apex, "Canary").is_err());
    assert!(
        refusal(ServiceRole::Apex, "Operator").is_ok(),
        "an operator's apex is taken over like a user's"
    );

    let mut external = users_service();
    external.value_mut()["spec"] = json!({"type": "ExternalName", "externalName": "a.example"});
    let error = desired_services(
        &canary(),
        &app_podinfo(),
        &[],
        ServiceRole::Apex,
        &present(&external),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("ExternalName (a.example)"),
        "{error}"
    );
}

#[test]
fn port_discovery_finds_what_the_canary_does_not_name() {
    let port = |name: &str, port: i64| DiscoveredPort {
        name: name.into(),
        port,
    };
    let metrics = || port("http-metrics", 9797);
    let unnamed = || port("tcp-podinfod-2", 8888);
    let rows = [
        ("{port: 80, portDiscovery: false}", vec![]),
        (
            "{port: 80, portDiscovery: true, targetPort: 9898}",
            vec![metrics(), unnamed()],
        ),
        (
            "{port: 80, portDiscovery: true, targetPort: http}",
            vec![metrics(), unnamed()],
        ),
        (
            "{port: 9898, portDiscovery: true}",
            vec![metrics(), unnamed()],
        ),
        (
            "{port: 9898, portDiscovery: true, targetPort: '0'}",
            vec![metrics(), unnamed()],
        ),
        // The name http is the main port's, so the container's http port gets a made-up one.
        (
            "{port: 80, portDiscovery: true}",
            vec![port("tcp-podinfod-0", 9898), metrics(), unnamed()],
        ),
        (
            "{port: 80, portName: web, portDiscovery: true}",
            vec![port("http", 9898), metrics(), unnamed()],
        ),
    ];
    for (service, expected) in rows {
        assert_eq!(
            discover_ports(
                deployment().at("/spec/template/spec"),
                &canary_with(service)
            ),
            expected,
            "{service}"
        );
    }
    let canary = canary_with("{port: 80, targetPort: 9898, portDiscovery: true}");
    let service = created(&canary, ServiceRole::Canary);
    assert_eq!(
        service.at("/spec/ports/1"),
        &json!({"name": "http-metrics", "protocol": "TCP", "port": 9797, "targetPort": 9797})
    );
    assert_eq!(service.kind(), kinds::SERVICE.kind);
}
