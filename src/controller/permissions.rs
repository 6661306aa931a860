//! What the controller may do, as one table: every kind that it reads or writes, with the verbs that the code uses and no other. `serin
//! rbac` prints it as roles, the chart is generated from it, and the scenarios run with exactly this.
//!
//! A new router is one row of [`PROVIDERS`]; a kind that the engine comes to use is one row of [`CORE`].

use super::{announcer, lease};
use crate::object::{Kind, kinds};
use crate::providers::{externalmetrics, keptn};
use crate::routing::own_routes;
use serde_json::{Map, Value, json};

/// What may be done with one kind, or with a part of it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The resource.
    pub kind: Kind,
    /// Its subresource, `status` for example; empty for the resource itself.
    pub subresource: &'static str,
    /// Verbs as RBAC has them.
    pub verbs: &'static [&'static str],
}

const fn on(kind: Kind, verbs: &'static [&'static str]) -> Grant {
    Grant {
        kind,
        subresource: "",
        verbs,
    }
}

const fn part_of(kind: Kind, subresource: &'static str, verbs: &'static [&'static str]) -> Grant {
    Grant {
        kind,
        subresource,
        verbs,
    }
}

/// Watched, and read past the watch where it may be behind.
const READ: &[&str] = &["get", "list", "watch"];
/// Watched as a list only.
const FOLLOW: &[&str] = &["list", "watch"];
/// Read and applied; an apply that makes an object is authorised as a creation too.
const OWN: &[&str] = &["get", "list", "watch", "create", "patch"];

/// Read and patched: routes of the user, which Serin neither makes nor removes.
const SHIFT: &[&str] = &["get", "list", "watch", "patch"];

/// Needed in every installation, in each namespace that is watched.
pub static CORE: &[Grant] = &[
    // The finalizer of `revertOnDeletion` is patched on the object itself.
    on(kinds::CANARY, &["get", "list", "watch", "patch"]),
    part_of(kinds::CANARY, "status", &["patch"]),
    // Owner references with `blockOwnerDeletion`, where the API server enforces rights on them (OpenShift does).
    part_of(kinds::CANARY, "finalizers", &["update"]),
    on(kinds::METRIC_TEMPLATE, READ),
    on(kinds::ALERT_PROVIDER, READ),
    on(kinds::DEPLOYMENT, OWN),
    on(kinds::DAEMON_SET, OWN),
    // Promoted templates; those beyond `revisionHistoryLimit` are deleted.
    on(
        kinds::CONTROLLER_REVISION,
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    on(kinds::SERVICE, OWN),
    on(kinds::ENDPOINT_SLICE, FOLLOW),
    // Why pods of a failing run don't run: listed then, never watched.
    on(kinds::POD, &["list"]),
    on(kinds::HORIZONTAL_POD_AUTOSCALER, OWN),
    on(kinds::SCALED_OBJECT, OWN),
    // What targets use, and what metric templates and alert providers name as `secretRef`.
    on(kinds::CONFIG_MAP, READ),
    on(kinds::SECRET, READ),
    on(announcer::EVENT, &["create"]),
];

/// In addition with `-enable-config-tracking`: the primary's copies.
pub static CONFIG_TRACKING: &[Grant] = &[
    on(kinds::CONFIG_MAP, &["create", "patch", "delete"]),
    on(kinds::SECRET, &["create", "patch", "delete"]),
];

/// In addition with `-enable-leader-election`, in the namespace of the lease alone.
pub static LEADER_ELECTION: &[Grant] = &[on(
    lease::LEASE,
    &["get", "list", "watch", "create", "update"],
)];

/// The same, and taken away when the canary goes.
const OWN_AND_REMOVE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// In addition for each router, by the first part of its provider name: `gatewayapi` stands for `gatewayapi:v1` and all others that
/// begin so.
pub static PROVIDERS: &[(&str, &[Grant])] = &[
    ("apisix", &[on(kinds::APISIX_ROUTE, OWN_AND_REMOVE)]),
    ("contour", &[on(kinds::HTTP_PROXY, OWN)]),
    // Of both versions; `virtualrouters` are there in the second alone.
    (
        "appmesh",
        &[
            on(kinds::APPMESH_VIRTUAL_NODE, OWN),
            on(kinds::APPMESH_VIRTUAL_ROUTER, OWN),
            on(kinds::APPMESH_VIRTUAL_SERVICE, OWN),
        ],
    ),
    (
        "gatewayapi",
        &[on(kinds::HTTP_ROUTE, OWN), on(kinds::GRPC_ROUTE, OWN)],
    ),
    (
        "gloo",
        &[on(kinds::ROUTE_TABLE, OWN), on(kinds::UPSTREAM, OWN)],
    ),
    (
        "istio",
        &[
            on(kinds::VIRTUAL_SERVICE, OWN),
            on(kinds::DESTINATION_RULE, OWN),
        ],
    ),
    // The Service is the user's and its Revisions are Knative's.
    (
        "knative",
        &[
            on(kinds::KNATIVE_SERVICE, SHIFT),
            on(kinds::KNATIVE_REVISION, READ),
        ],
    ),
    ("kubernetes", &[]),
    ("kuma", &[on(kinds::TRAFFIC_ROUTE, OWN_AND_REMOVE)]),
    ("linkerd", &[on(kinds::TRAFFIC_SPLIT_V1ALPHA1, OWN)]),
    ("osm", &[on(kinds::TRAFFIC_SPLIT_V1ALPHA2, OWN)]),
    ("smi", &[on(kinds::TRAFFIC_SPLIT_V1ALPHA3, OWN)]),
    ("nginx", &[on(kinds::INGRESS, OWN_AND_REMOVE)]),
    ("skipper", &[on(kinds::INGRESS, OWN_AND_REMOVE)]),
    ("traefik", &[on(kinds::TRAEFIK_SERVICE, OWN)]),
    (OWN_ROUTE, OWN_ROUTES),
];

/// The row for routes of the user's own; no provider is called so.
pub const OWN_ROUTE: &str = "own-route";

/// Every kind that `spec.routeRef` may name without `weightPaths`. Rights for any other kind are the user's to give.
static OWN_ROUTES: &[Grant] = &[
    on(own_routes::HTTP_ROUTE, SHIFT),
    on(own_routes::GRPC_ROUTE, SHIFT),
    on(own_routes::TLS_ROUTE, SHIFT),
    on(own_routes::TCP_ROUTE, SHIFT),
    on(own_routes::VIRTUAL_SERVICE, SHIFT),
    on(own_routes::INGRESS_ROUTE, SHIFT),
    on(own_routes::INGRESS_ROUTE_TCP, SHIFT),
    on(own_routes::TRAEFIK_SERVICE, SHIFT),
    on(own_routes::HTTP_PROXY, SHIFT),
    on(own_routes::INGRESS, SHIFT),
];

/// What to add to the controller's role when it may not read or write a kind, as the end of a sentence.
#[must_use]
pub fn lacking(kind: &Kind) -> String {
    let same = |grant: &&Grant| {
        (&grant.kind.group, &grant.kind.plural) == (&kind.group, &kind.plural)
            && grant.subresource.is_empty()
    };
    let rows = PROVIDERS.iter().flat_map(|(_, grants)| *grants);
    let verbs = CORE
        .iter()
        .chain(rows)
        .find(same)
        .map_or(SHIFT, |grant| grant.verbs);
    let rule = json!({"apiGroups": [kind.group], "resources": [kind.plural], "verbs": verbs});
    format!("; the controller's role needs the rule {rule}")
}

/// In addition for each metrics backend that the API server answers for, where the installation asks for it. None is granted by default:
/// whoever may write a `MetricTemplate` reads by it what the controller may read.
pub static METRICS_PROVIDERS: &[(&str, &[Grant])] = &[
    // Every external metric is a resource of its own, so none can be named here.
    (
        "externalmetrics",
        &[on(externalmetrics::METRICS, &["list"])],
    ),
    // An Analysis is made, looked at and removed; the list is for the question whether Keptn is there.
    (
        "keptn",
        &[
            on(keptn::METRIC, &["get"]),
            on(keptn::ANALYSIS, &["get", "list", "create", "delete"]),
        ],
    ),
];

/// The row of a metrics backend, if it needs one.
#[must_use]
pub fn of_metrics_provider(name: &str) -> Option<&'static [Grant]> {
    METRICS_PROVIDERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, grants)| *grants)
}

/// The row of a provider name such as `gatewayapi:v1`.
#[must_use]
pub fn of_provider(provider: &str) -> Option<&'static [Grant]> {
    let name = provider.split(':').next().unwrap_or_default();
    PROVIDERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, grants)| *grants)
}

/// Grants as the `rules` of a role: those of one group with the same verbs become one rule.
#[must_use]
pub fn rules<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Vec<Value> {
    let mut resources: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for grant in grants {
        let plural = &grant.kind.plural;
        let resource = match grant.subresource {
            "" => plural.to_string(),
            part => format!("{plural}/{part}"),
        };
        let group = grant.kind.group.as_ref();
        let verbs = grant.verbs.iter().copied();
        match resources
            .iter_mut()
            .find(|(other, name, _)| *other == group && *name == resource)
        {
            Some((.., known)) => {
                let more: Vec<&str> = verbs.filter(|verb| !known.contains(verb)).collect();
                known.extend(more);
            }
            None => resources.push((group, resource, verbs.collect())),
        }
    }
    let mut rules: Vec<(&str, Vec<String>, Vec<&str>)> = Vec::new();
    for (group, resource, verbs) in resources {
        match rules
            .iter_mut()
            .find(|(other, _, same)| *other == group && *same == verbs)
        {
            Some((_, names, _)) => names.push(resource),
            None => rules.push((group, vec![resource], verbs)),
        }
    }
    rules
        .into_iter()
        .map(|(group, resources, verbs)| {
            json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
        })
        .collect()
}

/// The whole table for the chart, which takes from it what its values ask for.
#[must_use]
pub fn for_chart() -> Value {
    let named = |table: &[(&str, &'static [Grant])]| -> Map<String, Value> {
        table
            .iter()
            .map(|(name, grants)| ((*name).to_owned(), Value::Array(rules(*grants))))
            .collect()
    };
    json!({
        "core": rules(CORE),
        "configTracking": rules(CONFIG_TRACKING),
        "leaderElection": rules(LEADER_ELECTION),
        "providers": named(PROVIDERS),
        "metricsProviders": named(METRICS_PROVIDERS),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::Canary;
    use crate::routing;

    fn canary(provider: &str) -> Canary {
        Canary::decode(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "web", "namespace": "test", "uid": "1"},
            "spec": {
                "provider": provider,
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "service": {"port": 80, "gatewayRefs": [{"name": "gateway"}]},
                "analysis": {"interval": "1m", "threshold": 1, "stepWeight": 10},
            },
        }))
        .unwrap()
    }

    #[test]
    fn each_router_may_read_and_apply_what_it_steers_with() {
        for (provider, _) in routing::table() {
            let grants = of_provider(provider)
                .unwrap_or_else(|| panic!("PROVIDERS has no row for {provider}"));
            let router = routing::router(provider).unwrap();
            for object in router.objects(&canary(provider)) {
                // A Knative Service is the user's, like a route of their own.
                let wanted = if object.kind == kinds::KNATIVE_SERVICE {
                    SHIFT
                } else {
                    OWN
                };
                let granted = grants.iter().chain(CORE).any(|grant| {
                    (&grant.kind.group, &grant.kind.plural)
                        == (&object.kind.group, &object.kind.plural)
                        && wanted.iter().all(|verb| grant.verbs.contains(verb))
                });
                assert!(
                    granted,
                    "{provider} steers with {object}, which its row lacks"
                );
            }
        }
    }

    #[test]
    fn each_row_belongs_to_a_router() {
        for (name, _) in PROVIDERS.iter().filter(|(name, _)| *name != OWN_ROUTE) {
            assert!(
                routing::table()
                    .iter()
                    .any(|(provider, _)| provider.split(':').next() == Some(name)),
                "no router answers to {name}"
            );
        }
        assert!(of_provider("gatewayapi:v1beta1").is_some() && of_provider("none").is_none());
    }

    #[test]
    fn each_row_of_a_metrics_provider_belongs_to_one_that_the_cluster_answers_for() {
        use crate::analysis::{Address, NEEDS};
        for needs in &NEEDS {
            let name = needs.provider_type.as_str();
            let asks_the_cluster = matches!(needs.address, Address::Cluster(_)) || name == "keptn";
            assert_eq!(
                of_metrics_provider(name).is_some(),
                asks_the_cluster,
                "{name}"
            );
        }
        // The one wildcard: the names of external metrics are anybody's.
        let wild: Vec<&Grant> = METRICS_PROVIDERS
            .iter()
            .flat_map(|(_, grants)| *grants)
            .filter(|grant| grant.kind.plural.contains('*'))
            .collect();
        assert_eq!(wild.len(), 1);
        assert_eq!(wild[0].kind.group, "external.metrics.k8s.io");
        assert_eq!(wild[0].verbs, ["list"]);
    }

    #[test]
    fn grants_of_one_group_with_the_same_verbs_are_one_rule() {
        let grants = [
            on(kinds::SECRET, READ),
            on(kinds::CONFIG_MAP, READ),
            on(kinds::DEPLOYMENT, READ),
            on(kinds::SECRET, &["patch"]),
            part_of(kinds::CANARY, "status", &["patch"]),
        ];
        assert_eq!(
            Value::Array(rules(&grants)),
            json!([
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "patch"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["flagger.app"], "resources": ["canaries/status"], "verbs": ["patch"]},
            ])
        );
    }

    #[test]
    fn what_a_role_lacks_is_said_as_a_rule() {
        let any = Kind::namespaced("demo.example", "v1", "Split", "splits");
        assert_eq!(
            lacking(&any),
            "; the controller's role needs the rule \
             {\"apiGroups\":[\"demo.example\"],\"resources\":[\"splits\"],\"verbs\":[\"get\",\"list\",\"watch\",\"patch\"]}"
        );
        assert!(lacking(&kinds::SERVICE).contains("\"create\""));
    }

    #[test]
    fn every_kind_of_an_own_route_may_be_read_and_patched_and_no_more() {
        for shape in &own_routes::SHAPES {
            let grant = OWN_ROUTES.iter().find(|grant| grant.kind == shape.kind);
            assert_eq!(grant.unwrap().verbs, SHIFT, "{}", shape.kind.kind);
        }
        assert_eq!(OWN_ROUTES.len(), own_routes::SHAPES.len());
    }

    #[test]
    fn nothing_is_granted_by_a_wildcard_or_twice() {
        // Two routers may steer with one kind.
        for (provider, grants) in PROVIDERS {
            let others = CORE.iter().chain(CONFIG_TRACKING).chain(LEADER_ELECTION);
            let mut seen = std::collections::BTreeSet::new();
            for grant in grants.iter().chain(others) {
                for verb in grant.verbs {
                    assert!(!verb.contains('*') && !grant.kind.plural.contains('*'));
                    assert!(
                        seen.insert((
                            &grant.kind.group,
                            &grant.kind.plural,
                            grant.subresource,
                            *verb
                        )),
                        "{provider}: {} {} twice: {verb}",
                        grant.kind.kind,
                        grant.subresource
                    );
                }
            }
        }
        let both = [of_provider("linkerd").unwrap(), of_provider("smi").unwrap()].concat();
        assert_eq!(rules(&both).len(), 1);
        assert_eq!(rules(&both)[0]["verbs"], json!(OWN));
    }

    /// Rust files below a folder.
    fn sources(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .flat_map(|path| {
                if path.is_dir() {
                    sources(&path)
                } else {
                    vec![path]
                }
            })
            .collect()
    }

    #[test]
    fn every_kind_that_the_code_names_has_a_row() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let table = std::fs::read_to_string(source.join("object/kind.rs")).unwrap();
        let known = regex::Regex::new(
            r#"pub const (\w+): Kind\s*=\s*Kind::\w+\(\s*"([^"]*)",\s*"[^"]*",\s*"[^"]*",\s*"([^"]*)""#,
        )
        .unwrap();
        let granted = |group: &str, plural: &str| {
            let rows = PROVIDERS.iter().flat_map(|(_, grants)| *grants);
            rows.chain(CORE)
                .any(|grant| grant.kind.group == group && grant.kind.plural == plural)
        };
        // The simulation, the demo's API server and tests name kinds that no cluster is asked for.
        let files: Vec<String> = sources(&source)
            .iter()
            .filter(|path| {
                let path = path.to_string_lossy();
                let elsewhere = ["/sim/", "/demo/", "tests"];
                !elsewhere.iter().any(|part| path.contains(part)) && !path.ends_with("kind.rs")
            })
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        let mut looked_at = 0;
        for kind in known.captures_iter(&table) {
            let name = format!("kinds::{}", &kind[1]);
            let word = regex::Regex::new(&format!(r"\b{name}\b")).unwrap();
            if files.iter().any(|text| word.is_match(text)) {
                looked_at += 1;
                assert!(
                    granted(&kind[2], &kind[3]),
                    "the code uses {name}, but CORE and PROVIDERS have no row for {}",
                    &kind[3]
                );
            }
        }
        assert!(
            looked_at >= 10,
            "only {looked_at} kinds were found in the code"
        );
    }
}
