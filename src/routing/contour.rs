//! Provider `contour`: one `HTTPProxy` without virtual host, named like the apex Service, that a root proxy of the user includes. Each path
//! of the service is a route with both Services; an A/B test adds, for each of its conditions, a route that asks for more than the plain
//! one, which Contour therefore tries first.

use super::session_cookie::literal;
use super::{
    Applied, Capabilities, Condition, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, ServiceField, Split, Weight, capabilities, refuse_errors,
    route_object::{self, Manner},
    weighted,
};
use crate::api::{
    AnalysisMatch, Canary, CanaryService, HeaderMatch, HttpMatch, StringMatch, parse_go_duration,
};
use crate::object::{Kind, Object, ObjectRef, Write, canonical_json, covers, kinds};
use serde_json::{Map, Value, json};

const KIND: Kind = kinds::HTTP_PROXY;

/// What `retryOn` may say by the definition of Contour 1.33; older ones know fewer.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Fields of a route that are the canary's whether it sets them or not; others are the user's and stay as they are. The last two would
/// answer requests in place of the two Services.
const OURS: [&str; 6] = [
    "conditions",
    "services",
    "timeoutPolicy",
    "retryPolicy",
    "requestRedirectPolicy",
    "directResponsePolicy",
];

/// The router for Contour's own resources.
pub struct Contour;

const MANNER: Manner = Manner {
    says,
    lead_back,
    keep,
};

impl Router for Contour {
    fn provider(&self) -> &'static str {
        "contour"
    }

    fn capabilities(&self) -> Capabilities {
        use Condition::{
            HeaderExact, HeaderPrefix, HeaderPresent, HeaderRegex, HeaderSuffix, QueryExact,
            QueryPrefix, QueryPresent, QueryRegex,
        };
        Capabilities {
            conditions: &[
                HeaderExact,
                HeaderPrefix,
                HeaderSuffix,
                HeaderRegex,
                HeaderPresent,
                QueryExact,
                QueryPrefix,
                QueryRegex,
                QueryPresent,
            ],
            fields: &[
                ServiceField::Match,
                ServiceField::Timeout,
                ServiceField::Retries,
            ],
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = capabilities::refusals(self.provider(), &self.capabilities(), canary);
        match &canary.spec.service {
            Some(service) => {
                found.extend(of_paths(service));
                found.extend(of_policies(service));
            }
            None => found.push(Refusal::error(
                "spec.service",
                "missing; an HTTPProxy needs at least spec.service.port",
            )),
        }
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        vec![route_object::route_of(canary, &KIND)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        refuse_errors(self.refusals(request.canary))?;
        let target = route_object::route_of(request.canary, &KIND);
        let spec = spec(request);
        let write = route_object::apply_to(request, &target, &spec, &live(&target), &MANNER)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = route_object::route_of(canary, &KIND);
        let split = |object: &Object| split(canary, object);
        weighted::observed(&target, &live(&target), split, applied)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let reading = live(&route_object::route_of(canary, &KIND));
        route_object::give_back(canary, &KIND, &reading)
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// The path that an entry of `spec.service.match` asks for.
fn path(entry: &HttpMatch) -> Value {
    let Some(uri) = &entry.uri else {
        return json!({"prefix": "/"});
    };
    [
        ("exact", &uri.exact),
        ("prefix", &uri.prefix),
        ("regex", &uri.regex),
    ]
    .into_iter()
    .find_map(|(kind, text)| Some(json!({kind: filled(text.as_ref())?})))
    .unwrap_or_else(|| json!({"prefix": "/"}))
}

/// The paths of a service, each once.
fn paths(service: &CanaryService) -> Vec<Value> {
    let mut paths = Vec::new();
    for path in service.matches.iter().map(path) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        paths.push(json!({"prefix": "/"}));
    }
    paths
}

fn of_paths(service: &CanaryService) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (index, entry) in service.matches.iter().enumerate() {
        let field = format!("spec.service.match[{index}]");
        let path = path(entry);
        for text in path.as_object().into_iter().flat_map(Map::values) {
            if !text.as_str().is_some_and(|text| text.starts_with('/')) {
                refusals.push(Refusal::error(
                    format!("{field}.uri"),
                    format!(
                        "{text}; Contour wants a path, or an expression for one, that begins with /"
                    ),
                ));
            }
        }
        let entry = serde_json::to_value(entry).unwrap_or_default();
        let others = entry.as_object().into_iter().flat_map(Map::iter);
        for (key, found) in others.filter(|(key, _)| !["uri", "name"].contains(&key.as_str())) {
            refusals.push(Refusal::warning(
                format!("{field}.{key}"),
                format!("{found}; of a match of the service only the path comes to an HTTPProxy; the condition is left out and the route takes more requests"),
            ));
        }
    }
    refusals
}

fn of_policies(service: &CanaryService) -> Vec<Refusal> {
    let retries = service.retries.as_ref();
    let per_try = retries.and_then(|retries| retries.per_try_timeout.as_ref());
    let durations = [
        ("spec.service.timeout", service.timeout.as_ref()),
        ("spec.service.retries.perTryTimeout", per_try),
    ];
    let mut refusals: Vec<Refusal> = durations
        .into_iter()
        .filter_map(|(field, value)| Some((field, filled(value)?)))
        .filter(|(_, value)| parse_go_duration(value).is_err())
        .map(|(field, value)| {
            Refusal::error(field, format!("{value}; expected a duration such as 15s"))
        })
        .collect();
    refusals.extend(
        retries
            .into_iter()
            .flat_map(retry_on)
            .filter(|word| !RETRY_ON.contains(word))
            .map(|word| {
                Refusal::error(
                    "spec.service.retries.retryOn",
                    format!("{word:?}; an HTTPProxy knows {}", RETRY_ON.join(", ")),
                )
            }),
    );
    refusals
}

fn retry_on(retries: &crate::api::Retries) -> Vec<&str> {
    retries
        .retry_on
        .iter()
        .flat_map(|words| words.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect()
}

fn spec(request: &RouteRequest<'_>) -> Value {
    let canary = request.canary;
    let Some(service) = &canary.spec.service else {
        return Value::Null;
    };
    let tests: Vec<Vec<Value>> = canary
        .spec
        .analysis
        .matches
        .iter()
        .map(conditions)
        .collect();
    let both = [
        (canary.primary_service_name(), request.split.primary()),
        (canary.canary_service_name(), request.split.canary),
    ];
    let primary = [(canary.primary_service_name(), Weight::ALL)];
    let mut routes = Vec::new();
    for path in &paths(service) {
        for test in &tests {
            let all: Vec<Value> = std::iter::once(path).chain(test).cloned().collect();
            routes.push(route(canary, service, &all, &both));
        }
    }
    for path in paths(service) {
        let sides: &[_] = if tests.is_empty() { &both } else { &primary };
        routes.push(route(canary, service, &[path], sides));
    }
    let mut spec = json!({"routes": routes});
    if !request.settings.ingress_class.is_empty() {
        spec["ingressClassName"] = json!(request.settings.ingress_class);
    }
    spec
}

fn route(
    canary: &Canary,
    service: &CanaryService,
    conditions: &[Value],
    sides: &[(String, Weight)],
) -> Value {
    let namespace = &canary.metadata.namespace;
    let services: Vec<Value> = sides
        .iter()
        .map(|(name, weight)| {
            let host = format!("{name}.{namespace}.svc.cluster.local:{}", service.port);
            json!({
                "name": name,
                "port": service.port,
                "weight": weight.percent(),
                // Linkerd behind Contour tells by it where a request goes.
                "requestHeadersPolicy": {"set": [{"name": "l5d-dst-override", "value": host}]},
            })
        })
        .collect();
    let mut route = json!({"conditions": conditions, "services": services});
    if let Some(timeout) = filled(service.timeout.as_ref()) {
        route["timeoutPolicy"] = json!({"response": timeout, "idle": "5m"});
    }
    if let Some(retries) = &service.retries {
        let mut policy = Map::new();
        if let Some(attempts) = retries.attempts {
            policy.insert("count".to_owned(), json!(attempts));
        }
        if let Some(timeout) = filled(retries.per_try_timeout.as_ref()) {
            policy.insert("perTryTimeout".to_owned(), json!(timeout));
        }
        let words = retry_on(retries);
        if !words.is_empty() {
            policy.insert("retryOn".to_owned(), json!(words));
        }
        if !policy.is_empty() {
            route["retryPolicy"] = policy.into();
        }
    }
    route
}

/// What one entry of `spec.analysis.match` asks for, sorted by name: a request must meet all of it.
fn conditions(entry: &AnalysisMatch) -> Vec<Value> {
    let headers = entry
        .headers
        .iter()
        .map(|(name, value)| json!({"header": header(name, value)}));
    let query = entry
        .query_params
        .iter()
        .map(|(name, value)| json!({"queryParameter": query_parameter(name, value)}));
    headers.chain(query).collect()
}

/// Contour has no prefix and suffix of a header; its `contains`, which Flagger writes for both, would let more users in. Expressions
/// match the whole value.
fn header(name: &str, value: &HeaderMatch) -> Value {
    let said = [
        ("exact", filled(value.exact.as_ref()).map(str::to_owned)),
        (
            "regex",
            filled(value.prefix.as_ref()).map(|prefix| format!("{}.*", literal(prefix))),
        ),
        (
            "regex",
            filled(value.suffix.as_ref()).map(|suffix| format!(".*{}", literal(suffix))),
        ),
        ("regex", filled(value.regex.as_ref()).map(str::to_owned)),
    ];
    match said.into_iter().find_map(|(key, text)| Some((key, text?))) {
        Some((key, text)) => json!({"name": name, key: text}),
        None => json!({"name": name, "present": true}),
    }
}

fn query_parameter(name: &str, value: &StringMatch) -> Value {
    let said = [
        ("exact", &value.exact),
        ("prefix", &value.prefix),
        ("regex", &value.regex),
    ];
    match said
        .into_iter()
        .find_map(|(key, text)| Some((key, filled(text.as_ref())?)))
    {
        Some((key, text)) => json!({"name": name, key: text}),
        None => json!({"name": name, "present": true}),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Whether the routes ask for the same and send to the same; [`covers`] tolerates what somebody added to them.
fn says(live: &Value, desired: &Value) -> bool {
    let same = |live: &Value, desired: &Value| {
        let added = OURS
            .iter()
            .any(|key| desired.get(key).is_none() && !covers(&Value::Null, &live[key]));
        let mirrors = list(live, "services")
            .iter()
            .any(|service| service["mirror"] == true);
        !added
            && !mirrors
            && canonical_json(&live["conditions"]) == canonical_json(&desired["conditions"])
    };
    let (live, desired) = (list(live, "routes"), list(desired, "routes"));
    live.len() == desired.len()
        && live
            .iter()
            .zip(desired)
            .all(|(live, desired)| same(live, desired))
}

/// What else a route and its Services say (load balancing, header policies, rate limits and so on) is the user's. A route that comes
/// anew takes it over from one with the same path.
fn keep(_: &Canary, desired: &mut Value, live: &Value) {
    let live = list(live, "routes");
    for route in desired["routes"].as_array_mut().into_iter().flatten() {
        let model = live
            .iter()
            .find(|found| found["conditions"] == route["conditions"])
            .or_else(|| {
                live.iter()
                    .find(|found| found["conditions"][0] == route["conditions"][0])
            });
        let Some(model) = model else { continue };
        adopt(route, model, &OURS);
        let models = list(model, "services");
        for service in route["services"].as_array_mut().into_iter().flatten() {
            let own = models.iter().find(|found| found["name"] == service["name"]);
            if let Some(found) = own.or_else(|| models.first()) {
                adopt(service, found, &["mirror"]);
            }
        }
    }
}

/// Adds the members that only `from` has, apart from some.
fn adopt(into: &mut Value, from: &Value, apart: &[&str]) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            if !apart.contains(&key.as_str()) {
                into.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The apex Service in place of the canary's two.
fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let (primary, other) = (canary.primary_service_name(), canary.canary_service_name());
    let ours = |service: &Value| service["name"] == *primary || service["name"] == *other;
    let mut spec = spec.clone();
    for route in spec["routes"].as_array_mut().into_iter().flatten() {
        if let Some(services) = route["services"].as_array_mut()
            && let Some(first) = services.iter().position(ours)
        {
            let apex = json!({"name": canary.apex_name(), "port": services[first]["port"]});
            services.retain(|service| !ours(service));
            services.insert(0, apex);
        }
    }
    spec
}

/// The weights of the routes that send to both sides, in an A/B test of those that ask for more than a path. They must say the same.
fn split(canary: &Canary, proxy: &Object) -> Option<Split> {
    let testing = !canary.spec.analysis.matches.is_empty();
    let mut found = list(proxy.at("/spec"), "routes")
        .iter()
        .filter(|route| !testing || list(route, "conditions").len() > 1)
        .map(|route| split_of(canary, route));
    let first = found.next()??;
    found.all(|other| other == Some(first)).then_some(first)
}

fn split_of(canary: &Canary, route: &Value) -> Option<Split> {
    let (mut primary, mut other) = (0, 0);
    for service in list(route, "services") {
        let weight = match &service["weight"] {
            Value::Null => 0,
            weight => weight.as_u64()?,
        };
        if service["mirror"] == true {
            return None;
        } else if service["name"] == canary.primary_service_name() {
            primary += weight;
        } else if service["name"] == canary.canary_service_name() {
            other += weight;
        } else {
            return None;
        }
    }
    Some(Split {
        canary: Weight::proportion(primary, other)?,
        mirrored: false,
    })
}

/// Whether Contour found the proxy valid as it is now.
fn applied(proxy: &Object) -> Applied {
    let Some(valid) = list(proxy.at("/status"), "conditions")
        .iter()
        .find(|condition| condition["type"] == "Valid")
    else {
        return Applied::Pending(
            "Contour has not looked at the HTTPProxy yet; it looks only at those of its own ingress class".to_owned(),
        );
    };
    let generation = proxy.generation();
    let seen = valid["observedGeneration"].as_i64().unwrap_or(generation);
    if seen < generation {
        return Applied::Pending(format!(
            "Contour has seen generation {seen} of the HTTPProxy, not yet {generation}"
        ));
    }
    if valid["status"] == "True" {
        return Applied::Yes;
    }
    let error = &valid["errors"][0];
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let message = if error.is_null() {
        text(valid, "message")
    } else {
        format!("{}: {}", text(error, "reason"), text(error, "message"))
    };
    Applied::Pending(format!(
        "Contour says that the HTTPProxy is not valid: {message}"
    ))
}
