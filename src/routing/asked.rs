//! Everything that a canary may ask of a router, once for every router, with what becomes of it by the table of what they can. The
//! routers, the controller and `serin lint` are held to it.

use super::*;
use serde_json::{Value, json};

/// One canary that asks one router for one thing.
pub struct Asked {
    pub provider: &'static str,
    /// For messages.
    pub what: String,
    pub canary: Value,
    /// The field that asks, or one above it.
    pub field: &'static str,
    /// How it is refused; `None` where the router can do it.
    pub refused: Option<Severity>,
}

/// A canary that names whatever any router needs.
pub fn canary(provider: &str, service: &Value, analysis: &Value) -> Value {
    let target = if provider == "knative" {
        json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "podinfo"})
    } else {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"})
    };
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "podinfo", "namespace": "test", "uid": "1"},
        "spec": {
            "provider": provider,
            "targetRef": target,
            "ingressRef": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"},
            "service": {"port": 9898, "gatewayRefs": [{"name": "gateway"}], "meshName": "global"},
            "analysis": {"interval": "1m", "threshold": 1},
        },
    });
    // Elsewhere a route of the user's own takes the place of the router.
    if provider == "apisix" {
        object["spec"]["routeRef"] =
            json!({"apiVersion": "apisix.apache.org/v2", "kind": "ApisixRoute", "name": "web"});
    }
    for (part, more) in [("service", service), ("analysis", analysis)] {
        for (key, value) in more.as_object().unwrap() {
            object["spec"][part][key] = value.clone();
        }
    }
    object
}

/// An analysis match that asks for exactly one condition.
fn asking(condition: Condition) -> Value {
    match condition {
        Condition::HeaderExact => json!({"headers": {"x-who": {"exact": "a"}}}),
        Condition::HeaderPrefix => json!({"headers": {"x-who": {"prefix": "a"}}}),
        Condition::HeaderSuffix => json!({"headers": {"x-who": {"suffix": "a"}}}),
        Condition::HeaderRegex => json!({"headers": {"x-who": {"regex": "a.*"}}}),
        Condition::HeaderPresent => json!({"headers": {"x-who": {}}}),
        Condition::Cookie => json!({"headers": {"cookie": {"exact": "canary"}}}),
        Condition::QueryExact => json!({"queryParams": {"who": {"exact": "a"}}}),
        Condition::QueryPrefix => json!({"queryParams": {"who": {"prefix": "a"}}}),
        Condition::QueryRegex => json!({"queryParams": {"who": {"regex": "a.*"}}}),
        Condition::QueryPresent => json!({"queryParams": {"who": {}}}),
        Condition::SourceLabels => json!({"sourceLabels": {"app": "a"}}),
    }
}

/// A value for each field of the service.
fn with(field: ServiceField) -> Value {
    match field {
        ServiceField::Match => json!({"match": [{"uri": {"prefix": "/"}}]}),
        ServiceField::Hosts => json!({"hosts": ["app.example.com"]}),
        ServiceField::Headers => json!({"headers": {"request": {"add": {"a": "b"}}}}),
        ServiceField::Rewrite => json!({"rewrite": {"uri": "/"}}),
        ServiceField::Timeout => json!({"timeout": "15s"}),
        ServiceField::BackendTimeout => json!({"backendTimeout": "5s"}),
        ServiceField::Retries => json!({"retries": {"attempts": 3}}),
        ServiceField::CorsPolicy => json!({"corsPolicy": {"allowOrigin": ["example.com"]}}),
        ServiceField::Mirror => json!({"mirror": [{"backendRef": {"name": "shadow", "port": 80}}]}),
        ServiceField::TrafficPolicy => {
            json!({"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}})
        }
    }
}

fn name_of(field: ServiceField) -> &'static str {
    match field {
        ServiceField::Match => "spec.service.match",
        ServiceField::Hosts => "spec.service.hosts",
        ServiceField::Headers => "spec.service.headers",
        ServiceField::Rewrite => "spec.service.rewrite",
        ServiceField::Timeout => "spec.service.timeout",
        ServiceField::BackendTimeout => "spec.service.backendTimeout",
        ServiceField::Retries => "spec.service.retries",
        ServiceField::CorsPolicy => "spec.service.corsPolicy",
        ServiceField::Mirror => "spec.service.mirror",
        ServiceField::TrafficPolicy => "spec.service.trafficPolicy",
    }
}

/// What asks for a feature: what is asked for in words, the service, the analysis, the field, whether a router can do it.
type Ask = (String, Value, Value, &'static str, bool);

fn asks(feature: Feature, can: &Capabilities) -> Vec<Ask> {
    let none = json!({});
    let one = |analysis: Value, field: &'static str, met: bool| {
        vec![(String::new(), json!({}), analysis, field, met)]
    };
    // Without weights every rollout is Blue/Green.
    let stepwise = can.weighted();
    match feature {
        Feature::Condition => Condition::ALL
            .into_iter()
            .map(|condition| {
                // Without a way to name a cookie the condition is one on the whole header.
                let as_header = condition == Condition::Cookie
                    && can.conditions.contains(&Condition::HeaderExact);
                let analysis = json!({"iterations": 10, "match": [asking(condition)]});
                let met = can.conditions.contains(&condition) || as_header;
                let what = format!("{condition:?}");
                (what, none.clone(), analysis, "spec.analysis.match", met)
            })
            .collect(),
        Feature::Tcp => vec![(
            String::new(),
            json!({"appProtocol": "TCP"}),
            json!({"stepWeight": 10}),
            "spec.service.appProtocol",
            can.tcp || !stepwise,
        )],
        Feature::Weight => one(
            json!({"stepWeights": [1, 7]}),
            "spec.analysis.stepWeights",
            match can.weights {
                Weights::None => true,
                Weights::Steps(step) => 7 % step == 0,
            },
        ),
        Feature::Mirror => one(
            json!({"iterations": 10, "mirror": true}),
            "spec.analysis.mirror",
            can.mirror.blue_green,
        ),
        Feature::MirrorStep => one(
            json!({"stepWeight": 10, "mirror": true}),
            "spec.analysis.mirror",
            if stepwise {
                can.mirror.canary_step
            } else {
                can.mirror.blue_green
            },
        ),
        Feature::MirrorPart => one(
            json!({"iterations": 10, "mirror": true, "mirrorWeight": 40}),
            "spec.analysis.mirror",
            can.mirror.percentage,
        ),
        Feature::Affinity => one(
            json!({"stepWeight": 10, "sessionAffinity": {"cookieName": "side"}}),
            "spec.analysis.sessionAffinity",
            can.affinity,
        ),
        Feature::PrimaryAffinity => one(
            json!({"stepWeight": 10, "sessionAffinity": {"cookieName": "side", "primaryCookieName": "home"}}),
            "spec.analysis.sessionAffinity",
            can.primary_affinity,
        ),
        Feature::Field => ServiceField::ALL
            .into_iter()
            .map(|field| {
                let met = can.fields.contains(&field);
                let analysis = json!({"iterations": 10});
                (
                    format!("{field:?}"),
                    with(field),
                    analysis,
                    name_of(field),
                    met,
                )
            })
            .collect(),
    }
}

/// Every router with everything.
pub fn all() -> Vec<Asked> {
    let mut all = Vec::new();
    for (provider, can) in table() {
        for feature in Feature::ALL {
            for (what, service, analysis, field, met) in asks(feature, &can) {
                // Where the canary has no traffic of its own, nobody gets by an A/B test what they should not.
                let harmless = feature == Feature::Condition && !can.weighted();
                let severity = if harmless {
                    Severity::Warning
                } else {
                    feature.severity()
                };
                all.push(Asked {
                    provider,
                    what: format!("{provider}: {feature:?} {what}"),
                    canary: canary(provider, &service, &analysis),
                    field,
                    refused: (!met).then_some(severity),
                });
            }
        }
    }
    all
}

impl Asked {
    /// Whether a refusal of this field answers what was asked.
    pub fn is_at(&self, field: &str) -> bool {
        field.strip_prefix(self.field).is_some_and(|rest| {
            // Beside `mirror` stands `mirrorWeight`.
            rest.is_empty() || rest.starts_with(['.', '[']) || rest == "Weight"
        })
    }
}
