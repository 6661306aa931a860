//! Whole releases by the routers whose objects nobody answers for, and what such a router needs of the engine beside weights.

use super::*;
use crate::object::{ObjectRef, Write, kinds};
use crate::routing::{self, RoutingSettings, Split, asked, router};

const FINALIZER: &str = "finalizer.flagger.app";

/// A canary for this provider, with all that any of them needs.
fn canary_for(provider: &str) -> String {
    canary_with(STEPS, &format!(", provider: '{provider}'")).replace(
        "port: 9898, gatewayRefs: [{name: gateway, namespace: infra}]",
        "port: 9898, meshName: global",
    )
}

/// What the router reads of its objects.
fn split(cluster: &Cluster, provider: &str) -> Option<Split> {
    let canary = cluster.object(&cluster.canary_name()).unwrap().value();
    let canary = crate::api::Canary::decode(canary).unwrap();
    let settings = RoutingSettings::default();
    let lookup = |name: &crate::object::ObjectRef| match cluster.object(name) {
        Some(object) => crate::object::Reading::Present(std::sync::Arc::new(object.clone())),
        None => crate::object::Reading::Absent,
    };
    let router = router(provider).unwrap();
    router.observed(&canary, &settings, &lookup).unwrap().split
}

#[test]
fn a_release_goes_by_its_steps_to_the_end() {
    for provider in [
        "linkerd",
        "osm",
        "smi:v1alpha1",
        "smi:v1alpha2",
        "smi:v1alpha3",
        "kuma",
        "gloo",
        "appmesh",
        "appmesh:v1beta2",
    ] {
        let mut cluster = initialised_with(&canary_for(provider));
        assert_eq!(
            split(&cluster, provider),
            Some(Split::PRIMARY),
            "{provider}"
        );
        cluster.deploy("podinfo:2").run_until_calm();
        assert_eq!(
            split(&cluster, provider),
            Some(Split::canary(20)),
            "{provider}"
        );
        cluster.advance(10).run_until_calm();
        assert_eq!(
            split(&cluster, provider),
            Some(Split::canary(40)),
            "{provider}"
        );
        cluster.run_until(Phase::Succeeded);
        assert_eq!(
            split(&cluster, provider),
            Some(Split::PRIMARY),
            "{provider}"
        );
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:2", "{provider}");
    }
}

#[test]
fn a_route_without_namespace_holds_its_canary_until_it_is_deleted() {
    let mut cluster = initialised_with(&canary_for("kuma"));
    let route = kinds::TRAFFIC_ROUTE.named("", "podinfo.test");
    let finalizers = |cluster: &Cluster| {
        let canary = cluster.object(&cluster.canary_name()).unwrap();
        canary.at("/metadata/finalizers").to_string()
    };
    assert!(finalizers(&cluster).contains(FINALIZER));
    assert!(cluster.object(&route).is_some());
    cluster.delete_canary().run_until_calm();
    assert!(cluster.object(&route).is_none());
    assert!(cluster.is_gone());
    // Another router takes over, then the route goes; no word is needed before a deletion any more.
    let mut cluster = initialised_with(&canary_for("kuma"));
    cluster.edit_canary(|spec| spec["provider"] = json!("osm"));
    cluster.forget_the_past().run_until_calm();
    assert_eq!(split(&cluster, "osm"), Some(Split::PRIMARY));
    assert!(cluster.object(&route).is_none());
    assert!(!finalizers(&cluster).contains(FINALIZER));
    assert!(!cluster.status().observed.contains_key("formerRouter"));
    let position = |kind: &crate::object::Kind| {
        let mut writes = cluster.writes.iter();
        writes.position(|write| Write::target(write).kind == *kind)
    };
    assert!(position(&kinds::TRAFFIC_SPLIT_V1ALPHA2) < position(&kinds::TRAFFIC_ROUTE));
}

#[test]
fn a_route_that_a_former_router_left_and_that_could_not_be_read_goes_with_the_canary() {
    let mut cluster = initialised_with(&canary_for("kuma"));
    let route = kinds::TRAFFIC_ROUTE.named("", "podinfo.test");
    cluster.unreadable(route.clone(), "503");
    cluster.edit_canary(|spec| spec["provider"] = json!("osm"));
    cluster.run_until_calm();
    assert_eq!(cluster.status().observed["formerRouter"], "kuma");
    assert!(cluster.object(&route).is_some());
    cluster.readable_again().delete_canary().run_until_calm();
    assert!(cluster.object(&route).is_none());
    assert!(cluster.is_gone());
}

#[test]
fn nodes_of_app_mesh_are_there_before_pods_of_the_primary_and_routes_come_after() {
    let mut cluster = Cluster::given_canary(&canary_for("appmesh:v1beta2"));
    cluster.given_deployment("podinfo:1");
    cluster.run_until(Phase::Initialized);
    let position = |kind: &str, name: &str| {
        let found = cluster.writes.iter().position(|write| {
            let target = Write::target(write);
            (&*target.kind.kind, target.name.as_str()) == (kind, name)
        });
        found.unwrap_or_else(|| panic!("{kind} {name} was not written"))
    };
    let primary = position("Deployment", "podinfo-primary");
    assert!(position("VirtualNode", "podinfo-primary") < primary);
    assert!(position("VirtualNode", "podinfo-canary") < primary);
    assert!(position("VirtualRouter", "podinfo") > primary);
}

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: app.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: podinfo, port: {number: 9898}}}}]}
";
const APISIX_ROUTE: &str = "
apiVersion: apisix.apache.org/v2
kind: ApisixRoute
metadata: {name: web}
spec: {http: [{name: main, match: {paths: ['/*']}, backends: [{serviceName: podinfo, servicePort: 9898}]}]}
";

/// The routers that build on an object of the user, with that object.
fn companions() -> [(&'static str, &'static str, ObjectRef); 3] {
    [
        ("nginx", INGRESS, kinds::INGRESS.named("test", "web")),
        ("skipper", INGRESS, kinds::INGRESS.named("test", "web")),
        (
            "apisix",
            APISIX_ROUTE,
            kinds::APISIX_ROUTE.named("test", "web"),
        ),
    ]
}

/// A canary that builds on it, not initialised yet.
fn beside(provider: &str) -> Cluster {
    let references = "ingressRef: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: web}, \
         routeRef: {apiVersion: apisix.apache.org/v2, kind: ApisixRoute, name: web}";
    let canary = canary_with(MEASURED, &format!(", provider: {provider}, {references}")).replace(
        "port: 9898, gatewayRefs: [{name: gateway, namespace: infra}]",
        "port: 9898",
    );
    let mut cluster = Cluster::given_canary(&canary);
    cluster.given_deployment("podinfo:1");
    cluster
}

#[test]
fn given_no_object_of_the_user_then_nothing_is_changed_until_it_is_there() {
    for (provider, object, _) in companions() {
        let mut cluster = beside(provider);
        cluster.run_until_calm();
        let (_, reason, message) = cluster.condition(condition_type::ACCEPTED);
        assert_eq!(reason, "RouteNotFound", "{provider}");
        assert!(message.contains("web.test not found"), "{message}");
        assert!(cluster.object(&deployment("podinfo-primary")).is_none());
        cluster.given(object).run_until(Phase::Initialized);
        assert_eq!(split(&cluster, provider), Some(Split::PRIMARY));
    }
}

#[test]
fn given_the_users_object_gone_then_a_bad_release_still_ends_on_the_primary() {
    for (provider, object, name) in companions() {
        for companion_too in [false, true] {
            let mut cluster = beside(provider);
            cluster.given(object).run_until(Phase::Initialized);
            cluster.deploy("podinfo:2").run_until_calm();
            assert_eq!(split(&cluster, provider), Some(Split::canary(20)));
            let companion = cluster
                .writes
                .iter()
                .map(Write::target)
                .find(|target| target.kind == name.kind)
                .unwrap();
            cluster.remove(&name);
            if companion_too {
                cluster.remove(&companion);
            }
            cluster.answer_metric(SUCCESS_RATE, Measurement::Value(50.0));
            cluster.run_until(Phase::Failed);
            cluster.advance(30);
            assert_eq!(split(&cluster, provider), Some(Split::PRIMARY));
            assert_eq!(cluster.replicas("podinfo"), 0, "{provider}");
            let (_, reason, message) = cluster.condition(condition_type::READY);
            assert_eq!(reason, "RouteNotWritable", "{provider}: {message}");
            // It is back, and the next release goes to its end.
            cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
            cluster.given(object).run_until_calm();
            cluster.deploy("podinfo:3").run_until(Phase::Succeeded);
            assert_eq!(cluster.image("podinfo-primary"), "podinfo:3", "{provider}");
            assert_eq!(split(&cluster, provider), Some(Split::PRIMARY));
        }
    }
}

#[test]
fn given_the_users_object_gone_then_a_good_release_is_not_raised_and_goes_on_when_it_is_back() {
    for (provider, object, name) in companions() {
        let mut cluster = beside(provider);
        cluster.given(object).run_until(Phase::Initialized);
        cluster.deploy("podinfo:2").run_until_calm();
        cluster.remove(&name).advance(15);
        assert_eq!(split(&cluster, provider), Some(Split::canary(20)));
        let (_, reason, message) = cluster.condition(condition_type::READY);
        assert_eq!(reason, "RouteNotWritable", "{provider}: {message}");
        assert!(message.contains("web.test not found"), "{message}");
        cluster.given(object).run_until(Phase::Succeeded);
        assert_eq!(split(&cluster, provider), Some(Split::PRIMARY));
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:2", "{provider}");
    }
}

/// A canary that asks a router for something, with whatever any router builds on.
fn asking(asked: &asked::Asked, refuse_unsupported: bool) -> Cluster {
    let mut cluster = Cluster::given_canary(&asked.canary.to_string());
    cluster.settings.routing.refuse_unsupported = refuse_unsupported;
    if asked.provider == "knative" {
        super::knative::given_service(&mut cluster);
        cluster.edit(&cluster::knative_service(), |_| ());
    } else {
        cluster.given_deployment("podinfo:1");
    }
    cluster.given(INGRESS).given(APISIX_ROUTE);
    cluster.run_until_calm();
    cluster
}

/// Refused before anything of it is written.
fn is_refused(asked: &asked::Asked, cluster: &Cluster) {
    let what = &asked.what;
    let (status, reason, message) = cluster.condition(condition_type::ACCEPTED);
    assert_eq!(status, ConditionStatus::False, "{what}");
    assert_eq!(reason, "RouterCannotExpress", "{what}");
    assert!(message.contains(asked.field), "{what}: {message}");
    let primary = cluster.object(&deployment("podinfo-primary"));
    assert!(primary.is_none(), "{what}");
    assert!(
        cluster
            .writes
            .iter()
            .all(|write| write.target().kind == kinds::CANARY),
        "{what}"
    );
}

#[test]
fn what_a_router_lacks_is_refused_at_once_or_told_while_the_canary_goes_on() {
    for asked in asked::all() {
        let Some(severity) = asked.refused else {
            continue;
        };
        let what = &asked.what;
        let cluster = asking(&asked, false);
        if severity == routing::Severity::Error {
            is_refused(&asked, &cluster);
        } else {
            let (status, _, message) = cluster.condition(condition_type::ACCEPTED);
            assert_eq!(status, ConditionStatus::True, "{what}: {message}");
            assert!(
                cluster
                    .status()
                    .observed
                    .keys()
                    .any(|field| asked.is_at(field)),
                "{what}: {:?}",
                cluster.status().observed
            );
            let told = cluster.told.iter().any(|one| one.reason == "NotSupported");
            assert!(told, "{what}: {:?}", cluster.texts());
        }
    }
}

#[test]
fn a_controller_may_refuse_all_that_a_router_lacks() {
    let all = asked::all();
    for asked in all.iter().filter(|asked| asked.refused.is_some()) {
        is_refused(asked, &asking(asked, true));
    }
    // What a router has is as welcome as ever, and a mesh that has come to its end is still one that works.
    for provider in ["gatewayapi:v1", "smi:v1alpha2", "appmesh:v1beta2"] {
        let plain = all
            .iter()
            .find(|asked| asked.provider == provider && asked.refused.is_none())
            .unwrap();
        let cluster = asking(plain, true);
        let (status, _, message) = cluster.condition(condition_type::ACCEPTED);
        assert_eq!(status, ConditionStatus::True, "{}: {message}", plain.what);
    }
}
