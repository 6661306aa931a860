//! Routes that users bring themselves: an `HTTPRoute` and a second one beside it under a real gateway, every other kind that a gateway here
//! carries out, and a kind that nobody ever heard of.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::planes::{CROWD, Gone, PLAIN, Plane, by_name, told_once, turned_over};
use super::shop::{self, Gateway, PATIENCE, Plan, Shop, flawless, merge, only_failed, own_service};
use super::stays::Stays;
use crate::bed::parts::GATEWAY;
use crate::bed::{Bed, Namespace};
use crate::figures::{Figures, Share, in_words};
use crate::load::{Load, LoadPlan};

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
/// The version that has `TCPRoute`.
const TCP_ROUTES: &str = "gateway.networking.k8s.io/v1alpha2";
/// Requests per second on each of the two ways in beside the main one.
const BESIDE: f64 = 100.0;

/// The route of the shop's front: two rules that are shifted, a pin for testers, filters, a backend of somebody else, odd weights.
fn front() -> Value {
    json!({
        "apiVersion": GATEWAY_API, "kind": "HTTPRoute",
        "metadata": {"name": "front", "labels": {"team": "shop"}, "annotations": {"example.com/owner": "the shop"}},
        "spec": {
            "parentRefs": [{"name": "traefik", "namespace": "gateway"}],
            "hostnames": ["app.${NAMESPACE}.bed"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x-tester", "value": "1"}]}],
                    "backendRefs": [{"name": "app-canary", "port": 80}],
                },
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
                    "filters": [
                        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-way", "value": "api"}]}},
                        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-way", "value": "api"}], "remove": ["x-b"]}},
                    ],
                    "backendRefs": [
                        {"name": "app-canary", "port": 80, "weight": 0},
                        {"name": "old", "port": 80, "weight": 0},
                        {"name": "app", "port": 80, "weight": 1},
                    ],
                },
                {"backendRefs": [{"name": "app", "port": 80, "weight": 100}, {"name": "app-canary", "port": 80, "weight": 0}]},
            ],
        },
    })
}

/// A second route, for another host.
fn back() -> Value {
    json!({
        "apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": "back"},
        "spec": {
            "parentRefs": [{"name": "traefik", "namespace": "gateway"}],
            "hostnames": ["back.${NAMESPACE}.bed"],
            "rules": [{"backendRefs": [{"name": "app", "port": 80, "weight": 1000}, {"name": "app-canary", "port": 80, "weight": 0}]}],
        },
    })
}

/// A Service that the route names and that nobody shifts.
fn old() -> Value {
    let mut service = own_service();
    service["metadata"]["name"] = json!("old");
    service
}

/// Everything of a route that its user wrote, and who is down as owner of fields in it.
fn written(route: &DynamicObject) -> (Value, Value, Vec<String>) {
    let owners = route.metadata.managed_fields.iter().flatten();
    let owners = owners
        .filter(|entry| entry.subresource.is_none())
        .filter_map(|entry| entry.manager.clone());
    (
        route.data["spec"].clone(),
        json!([route.metadata.annotations, route.metadata.labels]),
        owners.collect(),
    )
}

async fn route(place: &Namespace<'_>, name: &str) -> Result<DynamicObject> {
    place.get(GATEWAY_API, "HTTPRoute", name).await
}

/// The weights of the canary in the three places.
async fn weights(place: &Namespace<'_>) -> Result<[i64; 3]> {
    let (front, back) = (route(place, "front").await?, route(place, "back").await?);
    let weight = |route: &DynamicObject, rule: usize, backend: usize| {
        route.data["spec"]["rules"][rule]["backendRefs"][backend]["weight"]
            .as_i64()
            .unwrap_or(-1)
    };
    Ok([
        weight(&front, 1, 0),
        weight(&front, 2, 1),
        weight(&back, 0, 1),
    ])
}

async fn wait_weights(shop: &Shop<'_>, wanted: i64) -> Result<()> {
    let name = format!("all rules and routes at {wanted}");
    shop.bed
        .wait(&name, PATIENCE, async || {
            Ok((weights(&shop.namespace).await? == [wanted; 3]).then_some(()))
        })
        .await
}

/// Waits until both routes are again what their user wrote, with nobody else down as an owner.
async fn wait_given_back(shop: &Shop<'_>, before: &[(Value, Value, Vec<String>); 2]) -> Result<()> {
    let waited = shop
        .bed
        .wait("the routes to be given back", PATIENCE, async || {
            for (name, before) in ["front", "back"].into_iter().zip(before) {
                let now = written(&route(&shop.namespace, name).await?);
                let same = now.0 == before.0
                    && now.1 == before.1
                    && !now.2.iter().any(|owner| owner == "serin");
                if !same {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await;
    let now = [
        written(&route(&shop.namespace, "front").await?),
        written(&route(&shop.namespace, "back").await?),
    ];
    waited.with_context(|| format!("now they are\n{now:?}\nbut were\n{before:?}"))
}

/// Waits for an event that tells of a change by this hand.
async fn wait_told(shop: &Shop<'_>, hand: &str) -> Result<()> {
    let name = format!("an event that names {hand}");
    shop.bed
        .wait(&name, Duration::from_secs(10), async || {
            let events = shop.events().await?;
            let words = format!(
                "HTTPRoute front.{} had been changed by {hand}",
                shop.namespace.name()
            );
            Ok(events
                .iter()
                .any(|text| text.starts_with(&words))
                .then_some(()))
        })
        .await
}

fn visitors(host: &str, path: &str) -> Result<Load> {
    Load::start_plan(&LoadPlan::new(
        &format!("{GATEWAY}{path}"),
        Some(host),
        BESIDE,
    ))
}

/// A good and a bad release through two routes of the user's own.
pub async fn own_route(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let reference =
        |name: &str| json!({"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "name": name});
    let stays = Stays::start().await?;
    let plan = Plan {
        analysis: json!({
            "interval": "4s", "threshold": 1, "stepWeight": 25, "maxWeight": 50, "webhooks": stays.hooks(),
        }),
        rate: CROWD,
        spec: json!({
            "service": {"port": 80, "targetPort": 8080},
            "routeRef": reference("front"),
            "routeRefs": [reference("back")],
        }),
        beside: vec![own_service(), old(), front(), back()],
        ..Plan::default()
    };
    let shop = Shop::open(bed, "own-route", plan).await?;
    let before = [
        written(&route(&shop.namespace, "front").await?),
        written(&route(&shop.namespace, "back").await?),
    ];
    ensure!(
        !before
            .iter()
            .any(|(.., owners)| owners.iter().any(|owner| owner == "serin")),
        "a route at rest is not touched: {before:?}"
    );
    let back_host = shop.namespace.host("back");
    bed.wait_served_at(GATEWAY, &back_host, PATIENCE).await?;
    let api = visitors(&shop.host, "/api")?;
    let back = visitors(&back_host, "/")?;

    shop.release("1.1.0").await?;
    shop.wait_weight(25).await?;
    stays.hold();
    wait_weights(&shop, 25).await?;
    let loads = [shop.load()?, &api, &back];
    let shares = stays.measure_all(&shop, &loads, "1.1.0", 25).await?;
    shop.wait_weight(50).await?;
    stays.hold();
    wait_weights(&shop, 50).await?;
    put_back(bed, &shop).await?;
    stays.let_go();
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    wait_given_back(&shop, &before).await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary runs the release"
    );

    shop.release_with("1.2.0", &[("ERROR_RATE", "0.3")]).await?;
    shop.wait_weight(25).await?;
    shop.wait_phase("Failed").await?;
    wait_given_back(&shop, &before).await?;
    shop.wait_only("1.1.0").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary is what it was"
    );
    let events = shop.events().await?;
    ensure!(
        !events.iter().any(|text| text.contains("HTTP 422")),
        "a route that changed meanwhile is read again, and nobody is told: {events:#?}"
    );
    let mut reports = Vec::new();
    let loads = [
        ("front, the rule for all", shop.close().await?),
        ("front, the rule for /api", api.stop().await),
        ("back", back.stop().await),
    ];
    for ((way, load), share) in loads.into_iter().zip(&shares) {
        only_failed(&load, "1.2.0")?;
        reports.push((format!("own HTTPRoute {way}"), load, share.to_string()));
    }
    for (route, report, split) in reports {
        let figures = Figures::new(&route, Gateway::Traefik.name(), &report, 0, split);
        bed.figures().note("own-route", figures);
    }
    Ok(())
}

/// One rule edited by hand, then everything applied anew as a `GitOps` tool would: both are put back within a second and told.
async fn put_back(bed: &Bed, shop: &Shop<'_>) -> Result<()> {
    let routes = bed
        .api_of(GATEWAY_API, "HTTPRoute", shop.namespace.name())
        .await?;
    let patch =
        json!([{"op": "replace", "path": "/spec/rules/2/backendRefs/1/weight", "value": 900}]);
    let params = PatchParams {
        field_manager: Some("night-shift".to_owned()),
        ..PatchParams::default()
    };
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch)?);
    for hand in ["night-shift", "bed"] {
        // A step that is due in between would be told as one.
        let wanted = shop.status().await?["canaryWeight"].as_i64().unwrap_or(0);
        if hand == "bed" {
            shop.apply_json(&front()).await?;
        } else {
            routes.patch("front", &params, &patch).await?;
        }
        let edited = Instant::now();
        bed.wait(
            "the weights to be put back",
            Duration::from_secs(5),
            async || {
                let found = weights(&shop.namespace).await?;
                Ok(
                    (found[0] == found[1] && found[1] == found[2] && found[0] >= wanted)
                        .then_some(()),
                )
            },
        )
        .await?;
        println!("        put back after {hand} in {:?}", edited.elapsed());
        ensure!(
            edited.elapsed() < Duration::from_secs(1),
            "that took too long"
        );
        wait_told(shop, hand).await?;
    }
    Ok(())
}

/// Both Services of the app as backends of the user's, with weights as most kinds write them.
fn sides() -> Value {
    json!([
        {"name": "app", "port": 80, "weight": 100},
        {"name": "app-canary", "port": 80, "weight": 0},
    ])
}

/// `spec.routeRef` beside what every canary says.
fn with_reference(api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "service": {"port": 80, "targetPort": 8080},
        "routeRef": {"apiVersion": api_version, "kind": kind, "name": name},
    })
}

/// Kinds of routes beside the Gateway API's, each on what carries it out.
const PLANES: [Plane; 7] = [
    Plane {
        object: (GATEWAY_API, "HTTPRoute", "front"),
        weights: |object| of_both(&object["spec"]["rules"][0]["backendRefs"]),
        edit: || turned_over("/spec/rules/0/backendRefs"),
        additions: || labelled("/spec/rules/0/name", &json!("main")),
        own: || vec![own_service(), of_gateway_api("HTTPRoute")],
        spec: || with_reference(GATEWAY_API, "HTTPRoute", "front"),
        ..PLAIN
    },
    Plane {
        object: (GATEWAY_API, "GRPCRoute", "front"),
        weights: |object| of_both(&object["spec"]["rules"][0]["backendRefs"]),
        edit: || turned_over("/spec/rules/0/backendRefs"),
        additions: || labelled("/spec/rules/0/name", &json!("main")),
        own: || vec![own_service(), of_gateway_api("GRPCRoute")],
        spec: || with_reference(GATEWAY_API, "GRPCRoute", "front"),
        service: || json!({"portName": "grpc", "appProtocol": "kubernetes.io/h2c"}),
        grpc: true,
        ..PLAIN
    },
    Plane {
        gateway: Gateway::Istio,
        object: ("networking.istio.io/v1", "VirtualService", "front"),
        weights: |object| {
            let route = &object["spec"]["http"][0]["route"];
            let of = |side: usize| route[side]["weight"].as_i64().unwrap_or(0);
            (of(0), of(1))
        },
        edit: || turned_over("/spec/http/0/route"),
        additions: || labelled("/spec/http/0/name", &json!("main")),
        own: || {
            vec![
                own_service(),
                json!({
                    "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "front"},
                    "spec": {
                        "hosts": ["app.${NAMESPACE}.bed"], "gateways": ["istio-system/bed"],
                        "http": [{"route": [
                            {"destination": {"host": "app"}, "weight": 100},
                            {"destination": {"host": "app-canary"}, "weight": 0},
                        ]}],
                    },
                }),
            ]
        },
        spec: || with_reference("networking.istio.io/v1", "VirtualService", "front"),
        ..PLAIN
    },
    Plane {
        gateway: Gateway::Contour,
        object: ("projectcontour.io/v1", "HTTPProxy", "front"),
        weights: |object| of_both(&object["spec"]["routes"][0]["services"]),
        edit: || turned_over("/spec/routes/0/services"),
        additions: || {
            let policy = json!({"set": [{"name": "x-night", "value": "shift"}]});
            labelled("/spec/routes/0/responseHeadersPolicy", &policy)
        },
        own: || {
            vec![
                own_service(),
                json!({
                    "apiVersion": "projectcontour.io/v1", "kind": "HTTPProxy", "metadata": {"name": "front"},
                    "spec": {
                        "virtualhost": {"fqdn": "app.${NAMESPACE}.bed"},
                        "routes": [{"services": sides()}],
                    },
                }),
            ]
        },
        spec: || with_reference("projectcontour.io/v1", "HTTPProxy", "front"),
        ..PLAIN
    },
    Plane {
        gateway: Gateway::Lenient,
        object: ("traefik.io/v1alpha1", "IngressRoute", "front"),
        weights: |object| of_both(&object["spec"]["routes"][0]["services"]),
        edit: || turned_over("/spec/routes/0/services"),
        additions: || labelled("/spec/routes/0/priority", &json!(10)),
        own: || vec![own_service(), ingress_route(&sides())],
        spec: || with_reference("traefik.io/v1alpha1", "IngressRoute", "front"),
        ..PLAIN
    },
    Plane {
        gateway: Gateway::Lenient,
        object: ("traefik.io/v1alpha1", "TraefikService", "split"),
        weights: |object| of_both(&object["spec"]["weighted"]["services"]),
        edit: || turned_over("/spec/weighted/services"),
        additions: || labelled("/spec/weighted/services/0/passHostHeader", &json!(true)),
        own: || {
            let split = json!({
                "apiVersion": "traefik.io/v1alpha1", "kind": "TraefikService",
                // Without any field beside the list the API server would not keep who writes it once Serin has let go of that.
                "metadata": {"name": "split", "labels": {"team": "day"}},
                "spec": {"weighted": {"services": sides()}},
            });
            let to_it = json!([{"kind": "TraefikService", "name": "split"}]);
            vec![own_service(), split, ingress_route(&to_it)]
        },
        spec: || with_reference("traefik.io/v1alpha1", "TraefikService", "split"),
        ..PLAIN
    },
    Plane {
        gateway: Gateway::Ingress,
        object: ("networking.k8s.io/v1", "Ingress", "front-canary"),
        weights: |object| {
            let weight = &object["metadata"]["annotations"][CANARY_WEIGHT];
            let weight = weight.as_str().and_then(|text| text.parse().ok());
            weight.map_or((-1, -1), |weight: i64| (100 - weight, weight))
        },
        edit: || {
            let path = format!("/metadata/annotations/{}", CANARY_WEIGHT.replace('/', "~1"));
            json!([{"op": "replace", "path": path, "value": "95"}])
        },
        additions: || json!([{"op": "add", "path": "/metadata/annotations/example.com~1owner", "value": "night-shift"}]),
        needed: false,
        own: || {
            let of_nobody = json!({});
            let of_canary =
                json!({"nginx.ingress.kubernetes.io/canary": "true", CANARY_WEIGHT: "0"});
            vec![
                own_service(),
                ingress("front", "app", &of_nobody),
                ingress("front-canary", "app-canary", &of_canary),
            ]
        },
        spec: || with_reference("networking.k8s.io/v1", "Ingress", "front-canary"),
        ..PLAIN
    },
];

/// Kinds of routes that lead connections on, whatever is said on them.
const CONNECTIONS: [Plane; 3] = [
    Plane {
        gateway: Gateway::EnvoyTls,
        object: (GATEWAY_API, "TLSRoute", "front"),
        weights: |object| of_both(&object["spec"]["rules"][0]["backendRefs"]),
        edit: || turned_over("/spec/rules/0/backendRefs"),
        additions: || labelled("/spec/rules/0/name", &json!("main")),
        own: || {
            let name = json!({"hostnames": ["localhost"]});
            vec![
                own_service(),
                of_connections(GATEWAY_API, "TLSRoute", Gateway::EnvoyTls, &name),
            ]
        },
        spec: || with_reference(GATEWAY_API, "TLSRoute", "front"),
        // A handshake for each.
        rate: 200.0,
        ..PLAIN
    },
    Plane {
        gateway: Gateway::EnvoyTcp,
        object: (TCP_ROUTES, "TCPRoute", "front"),
        weights: |object| of_both(&object["spec"]["rules"][0]["backendRefs"]),
        edit: || turned_over("/spec/rules/0/backendRefs"),
        additions: || labelled("/spec/rules/0/name", &json!("main")),
        own: || {
            vec![
                own_service(),
                of_connections(TCP_ROUTES, "TCPRoute", Gateway::EnvoyTcp, &json!({})),
            ]
        },
        spec: || with_reference(TCP_ROUTES, "TCPRoute", "front"),
        ..PLAIN
    },
    Plane {
        gateway: Gateway::LenientTcp,
        object: ("traefik.io/v1alpha1", "IngressRouteTCP", "front"),
        weights: |object| of_both(&object["spec"]["routes"][0]["services"]),
        edit: || turned_over("/spec/routes/0/services"),
        additions: || labelled("/spec/routes/0/priority", &json!(10)),
        own: || {
            vec![
                own_service(),
                json!({
                    "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRouteTCP", "metadata": {"name": "front"},
                    "spec": {
                        "entryPoints": ["connections"],
                        "routes": [{"match": "HostSNI(`*`)", "services": sides()}],
                    },
                }),
            ]
        },
        spec: || with_reference("traefik.io/v1alpha1", "IngressRouteTCP", "front"),
        ..PLAIN
    },
];

const CANARY_WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";

fn of_both(backends: &Value) -> (i64, i64) {
    (by_name(backends, "app"), by_name(backends, "app-canary"))
}

/// What somebody adds beside and inside the list that has the weights.
fn labelled(path: &str, value: &Value) -> Value {
    json!([
        {"op": "add", "path": "/metadata/labels", "value": {"team": "night"}},
        {"op": "add", "path": path, "value": value},
    ])
}

fn of_gateway_api(kind: &str) -> Value {
    json!({
        "apiVersion": GATEWAY_API, "kind": kind, "metadata": {"name": "front"},
        "spec": {
            "parentRefs": [{"name": "traefik", "namespace": "gateway"}],
            "hostnames": ["app.${NAMESPACE}.bed"],
            "rules": [{"backendRefs": sides()}],
        },
    })
}

/// A route of connections, with what tells its own from others.
fn of_connections(api_version: &str, kind: &str, gateway: Gateway, which: &Value) -> Value {
    let mut route = json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": "front"},
        "spec": {"parentRefs": [gateway.parent()], "rules": [{"backendRefs": sides()}]},
    });
    merge(&mut route["spec"], which);
    route
}

fn ingress_route(services: &Value) -> Value {
    json!({
        "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": "front"},
        "spec": {
            "entryPoints": ["web"],
            "routes": [{"kind": "Rule", "match": "Host(`app.${NAMESPACE}.bed`)", "services": services}],
        },
    })
}

fn ingress(name: &str, service: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "ingressClassName": "nginx",
            "rules": [{
                "host": "app.${NAMESPACE}.bed",
                "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": service, "port": {"number": 80}}},
                }]},
            }],
        },
    })
}

/// Releases through each kind whose requests are split.
pub async fn planes(bed: &Bed) -> Result<()> {
    all_through(bed, "own-routes", &PLANES).await
}

/// Releases through each kind whose connections are split.
pub async fn connections(bed: &Bed) -> Result<()> {
    all_through(bed, "own-connections", &CONNECTIONS).await
}

/// One after the other.
async fn all_through(bed: &Bed, scenario: &str, planes: &[Plane]) -> Result<()> {
    shop::serin(bed).await?;
    for plane in planes {
        through(bed, scenario, plane)
            .await
            .with_context(|| format!("through {} of the user's own", plane.object.1))?;
    }
    Ok(())
}

/// Releases through one kind: split as asked whatever a night shift does, a bad one taken back, one during which the route itself is deleted.
/// At rest it is what its user wrote, with what others added.
async fn through(bed: &Bed, scenario: &str, plane: &Plane) -> Result<()> {
    plane.gateway.start(bed).await?;
    let stays = Stays::start().await?;
    let analysis =
        json!({"threshold": 2, "stepWeight": 30, "maxWeight": 60, "webhooks": stays.hooks()});
    let shop = Shop::open(bed, scenario, plane.plan(analysis)).await?;
    let before = plane.read(&shop).await?;
    let mut expected = before.clone();
    let (mut shares, back) = plane.good(&shop, &stays).await?;
    add(&mut expected, &(plane.additions)());
    wait_as_before(&shop, plane, &expected).await?;
    plane.bad(&shop).await?;
    wait_as_before(&shop, plane, &expected).await?;
    let lost = waited_for(&shop, plane, &stays, &mut shares).await?;
    // Whoever applied it anew left out what others had added.
    wait_as_before(&shop, plane, &before).await?;
    println!("        weights put back after {back:?}");
    told_once(&shop).await?;
    let whole = shop.close().await?;
    let figures = Figures::new(
        &format!("own {}", plane.object.1),
        plane.gateway.name(),
        &whole,
        lost,
        in_words(&shares),
    );
    bed.figures().note(scenario, figures);
    Ok(())
}

/// The `add` operations of a JSON patch on maps.
fn add(object: &mut Value, operations: &Value) {
    for operation in operations.as_array().into_iter().flatten() {
        let path = operation["path"].as_str().unwrap_or_default();
        let (parent, key) = path.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = object.pointer_mut(parent) {
            parent[key.replace("~1", "/")] = operation["value"].clone();
        }
    }
}

/// Waits until the route is what its user and others wrote, with Serin down as owner of nothing.
async fn wait_as_before(shop: &Shop<'_>, plane: &Plane, expected: &Value) -> Result<()> {
    let parts = ["/spec", "/metadata/labels", "/metadata/annotations"];
    let waited = shop
        .bed
        .wait("the route to be given back", PATIENCE, async || {
            let now = plane.read(shop).await?;
            let mut owners = now["metadata"]["managedFields"]
                .as_array()
                .into_iter()
                .flatten();
            let same = parts
                .iter()
                .all(|part| now.pointer(part) == expected.pointer(part))
                && !owners
                    .any(|entry| entry["manager"] == "serin" && entry["subresource"].is_null());
            Ok(same.then_some(()))
        })
        .await;
    waited.with_context(|| format!("expected it to be {expected}"))
}

/// A good release during which the user's own route is deleted. Serin can't make it: the run holds and says so, and goes on with its split
/// once somebody has applied the route anew. Says how many requests were lost meanwhile.
async fn waited_for(
    shop: &Shop<'_>,
    plane: &Plane,
    stays: &Stays,
    shares: &mut Vec<Share>,
) -> Result<u64> {
    let opened = shop.load()?.mark();
    shop.release("1.3.0").await?;
    plane.wait_weights(shop, (70, 30)).await?;
    stays.hold();
    flawless(&shop.load()?.settled_since(opened).await)?;
    let gone = Gone::now(plane, shop).await?;
    let (_, kind, name) = plane.object;
    let missing = format!("{kind} {name}.{} not found", shop.namespace.name());
    shop.bed
        .wait("the status to say what is missing", PATIENCE, async || {
            let status = shop.status().await?;
            ensure!(
                status["phase"] != "Failed",
                "the run waits for the route: {status}"
            );
            Ok(status["conditions"]
                .to_string()
                .contains(&missing)
                .then_some(()))
        })
        .await?;
    let route = (plane.own)()
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .context("the plane has its own route")?;
    shop.apply_json(&route).await?;
    let away = gone.at.elapsed();
    plane.wait_weights(shop, (70, 30)).await?;
    let absence = gone.until_served(shop, away).await?;
    println!("        {absence}");
    let again = shop.load()?.mark();
    shares.push(stays.measure(shop, "1.3.0", 30).await?);
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.3.0").await?;
    plane.wait_weights(shop, (100, 0)).await?;
    flawless(&shop.load()?.settled_since(again).await)?;
    Ok(absence.lost)
}

/// The definition of a kind that nobody ever heard of.
pub const OTHER_KIND: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: splits.routes.example}
spec:
  group: routes.example
  scope: Namespaced
  names: {kind: Split, plural: splits, singular: split, listKind: SplitList}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              sides:
                type: array
                items:
                  type: object
                  properties: {service: {type: string}, share: {type: integer, minimum: 0, maximum: 1000}}
              percent: {type: object, additionalProperties: {type: string}}
              capped: {type: integer, maximum: 40}
              note: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

const SPLIT: &str = r#"
apiVersion: routes.example/v1alpha1
kind: Split
metadata: {name: app}
spec:
  sides: [{service: app, share: 1000}, {service: app-canary, share: 0}]
  percent: {"to/canary": "0"}
  note: {kept: [1, 2.5, "x", {deep: true}]}
"#;

/// A kind that was written for this story, shifted by paths once the controller may touch it; till then the condition says which rule
/// is missing, and a neighbour is not disturbed.
pub async fn own_kind(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    bed.apply(OTHER_KIND).await?;
    let place = bed.scenario_namespace("own-kind").await?;
    place.apply(SPLIT).await?;
    place.apply(&canary_of_a_split()).await?;
    let neighbour = Plan {
        rate: 0.0,
        analysis: json!({"interval": "2s", "threshold": 1, "iterations": 1, "metrics": []}),
        spec: json!({"provider": "kubernetes"}),
        ..Plan::default()
    };
    let neighbour = Shop::open(bed, "own-kind-neighbour", neighbour).await?;
    let said = bed
        .wait("what is missing to be said", PATIENCE, async || {
            let canary = place.canary("app").await?;
            let conditions = canary.data["status"]["conditions"].as_array().cloned();
            Ok(conditions.into_iter().flatten().find(|condition| {
                condition["type"] == "Accepted" && condition["reason"] == "RouteNotReadable"
            }))
        })
        .await?;
    let message = said["message"].as_str().unwrap_or_default().to_owned();
    let (_, rule) = message
        .split_once("needs the rule ")
        .with_context(|| format!("the condition says the rule: {message}"))?;
    neighbour.release("1.1.0").await?;
    neighbour.wait_phase("Succeeded").await?;

    // Exactly what the condition says, and no more.
    let rights: Value = serde_json::from_str(rule).context(message.clone())?;
    let cluster_role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "own-kind"}, "rules": [rights],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "own-kind"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "own-kind"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "serin"}],
    });
    bed.apply(&cluster_role.to_string()).await?;
    bed.apply(&binding.to_string()).await?;
    place.wait_phase("app", "Initialized", PATIENCE).await?;

    let split = async || place.get("routes.example/v1alpha1", "Split", "app").await;
    let before = written(&split().await?);
    place.release("app", "1.1.0").await?;
    for percent in [30, 60] {
        let (name, text) = (format!("both places at {percent} %"), percent.to_string());
        let now = bed
            .wait(&name, PATIENCE, async || {
                let spec = split().await?.data["spec"].clone();
                Ok((spec["percent"]["to/canary"] == text.as_str()).then_some(spec))
            })
            .await?;
        ensure!(
            now["sides"][1]["share"] == percent * 10
                && now["sides"][0]["share"] == 1000 - percent * 10
                && now["note"] == before.0["note"],
            "expected {percent} % everywhere and nothing else changed, found {now}"
        );
    }
    place.wait_phase("app", "Succeeded", PATIENCE).await?;
    bed.wait("the object to be given back", PATIENCE, async || {
        let now = written(&split().await?);
        let same = now.0 == before.0 && now.1 == before.1;
        Ok((same && !now.2.iter().any(|owner| owner == "serin")).then_some(()))
    })
    .await?;
    both_or_none(bed, &place).await
}

/// A second object takes no more than 40: at 60 the API server refuses it, and the first one stays at 30 with it. Back they go both.
async fn both_or_none(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    place
        .apply("{apiVersion: routes.example/v1alpha1, kind: Split, metadata: {name: capped}, spec: {capped: 0}}")
        .await?;
    let mut references = place.canary("app").await?.data["spec"]["routeRefs"].clone();
    references.as_array_mut().context("routeRefs is a list")?.push(json!({
        "apiVersion": "routes.example/v1alpha1", "kind": "Split", "name": "capped", "weightPaths": {"canary": ".spec.capped"},
    }));
    let patch = json!({"spec": {"routeRefs": references}});
    place
        .patch("flagger.app/v1beta1", "Canary", "app", &patch)
        .await?;
    place.release("app", "1.2.0").await?;
    let percents = async || -> Result<(Value, Value)> {
        let read = async |name| place.get("routes.example/v1alpha1", "Split", name).await;
        Ok((
            read("app").await?.data["spec"]["percent"]["to/canary"].clone(),
            read("capped").await?.data["spec"]["capped"].clone(),
        ))
    };
    let wait = async |name: &str, wanted: (Value, Value)| {
        bed.wait(name, PATIENCE, async || {
            Ok((percents().await? == wanted).then_some(()))
        })
        .await
    };
    wait("both objects at 30 %", (json!("30"), json!(30))).await?;
    bed.wait("the refusal to be said", PATIENCE, async || {
        let canary = place.canary("app").await?;
        let conditions = canary.data["status"]["conditions"].as_array().cloned();
        let refused = conditions.into_iter().flatten().any(|condition| {
            condition["reason"] == "WriteRefused"
                && condition["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("capped"))
        });
        Ok(refused.then_some(()))
    })
    .await?;
    let found = percents().await?;
    ensure!(
        found == (json!("30"), json!(30)),
        "one refuses 60, so neither gets it, but they are at {found:?}"
    );
    place.release("app", "1.1.0").await?;
    wait("both objects to be given back", (json!("0"), json!(0))).await
}

fn canary_of_a_split() -> String {
    r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - name: app
        image: serin-demo-app:1.0.0
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1}
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: app}
spec:
  provider: kubernetes
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: app}
  service: {port: 80, targetPort: 8080}
  routeRefs:
  - apiVersion: routes.example/v1alpha1
    kind: Split
    name: app
    weightPaths: {canary: ".spec.sides[1].share", primary: ".spec.sides[0].share", total: 1000}
  - apiVersion: routes.example/v1alpha1
    kind: Split
    name: app
    weightPaths: {canary: ".spec.percent['to/canary']"}
  analysis: {interval: 2s, threshold: 1, stepWeight: 30, maxWeight: 60}
"#
    .to_owned()
}
