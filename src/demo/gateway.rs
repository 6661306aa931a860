//! The demo's gateway: an HTTP proxy on loopback that follows the cluster's `HTTPRoute`s. It knows hostnames, matches by path, method, headers and
//! query, weights, and the modifiers of request and response headers, which is what A/B tests and session affinity need. Mirrors, rewrites,
//! redirects and timeouts are passed over.
//!
//! The table of routes and endpoints is made anew when the cluster's version has moved, so a change of a route holds from the next request on.

use super::cluster::Cluster;
use super::world::Instances;
use crate::object::{Object, kinds};
use crate::sim::store::Store;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest body of a request that is passed on.
const LARGEST_BODY: usize = 1 << 20;
/// How long an app may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// One way to a Service.
#[derive(Clone, Debug)]
struct Backend {
    weight: u64,
    endpoints: Arc<[SocketAddr]>,
    filters: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Rule {
    hosts: Vec<String>,
    matches: Vec<Value>,
    filters: Vec<Value>,
    backends: Vec<Backend>,
}

/// All routes of one moment.
#[derive(Debug, Default)]
struct Table {
    version: u64,
    rules: Vec<Rule>,
}

struct Gateway {
    cluster: Arc<Cluster>,
    instances: Arc<Instances>,
    table: Mutex<Arc<Table>>,
    client: reqwest::Client,
    turn: AtomicUsize,
}

/// The proxy.
///
/// # Errors
/// When no HTTP client can be made.
pub fn router(cluster: Arc<Cluster>, instances: Arc<Instances>) -> Result<Router, reqwest::Error> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .timeout(PATIENCE)
        .build()?;
    Ok(Router::new().fallback(pass).with_state(Arc::new(Gateway {
        cluster,
        instances,
        table: Mutex::new(Arc::new(Table {
            version: u64::MAX,
            ..Table::default()
        })),
        client,
        turn: AtomicUsize::new(0),
    })))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Table {
    fn of(store: &Store, instances: &Instances) -> Self {
        let mut endpoints: HashMap<(String, String), Vec<SocketAddr>> = HashMap::new();
        for (name, _, slice) in store.of_kind(&kinds::ENDPOINT_SLICE) {
            let service = slice.text("/metadata/labels/kubernetes.io~1service-name");
            let known = endpoints
                .entry((name.namespace.clone(), service.to_owned()))
                .or_default();
            let those = |condition: &'static str| -> Vec<SocketAddr> {
                list(slice.value(), "endpoints")
                    .filter(|endpoint| endpoint["conditions"][condition] == true)
                    .filter_map(|endpoint| instances.address_of(endpoint["addresses"][0].as_str()?))
                    .collect()
            };
            let ready = those("ready");
            // Where all are on their way out, they still serve, as with kube-proxy.
            known.extend(if ready.is_empty() {
                those("serving")
            } else {
                ready
            });
        }
        let mut rules = Vec::new();
        for (_, _, route) in store.of_kind(&kinds::HTTP_ROUTE) {
            for rule in list(route.at("/spec"), "rules") {
                rules.push(Self::rule(route, rule, &endpoints));
            }
        }
        Self {
            version: store.revision(),
            rules,
        }
    }

    fn rule(
        route: &Object,
        rule: &Value,
        endpoints: &HashMap<(String, String), Vec<SocketAddr>>,
    ) -> Rule {
        let backends = list(rule, "backendRefs")
            .map(|backend| {
                let namespace = backend["namespace"]
                    .as_str()
                    .unwrap_or_else(|| route.namespace());
                let service = (namespace.to_owned(), text(backend, "name").to_owned());
                Backend {
                    weight: backend["weight"].as_u64().unwrap_or(1),
                    endpoints: endpoints.get(&service).cloned().unwrap_or_default().into(),
                    filters: list(backend, "filters").cloned().collect(),
                }
            })
            .collect();
        Rule {
            hosts: list(route.at("/spec"), "hostnames")
                .filter_map(|host| host.as_str().map(str::to_ascii_lowercase))
                .collect(),
            matches: list(rule, "matches").cloned().collect(),
            filters: list(rule, "filters").cloned().collect(),
            backends,
        }
    }

    /// The rule whose match is the most specific; of equals the first.
    fn find(&self, host: &str, request: &Asked) -> Option<&Rule> {
        let mut best: Option<(Specific, &Rule)> = None;
        for rule in &self.rules {
            let hosted = rule.hosts.is_empty() || rule.hosts.iter().any(|own| covers(own, host));
            if !hosted {
                continue;
            }
            let everything = Value::Null;
            let matches = if rule.matches.is_empty() {
                std::slice::from_ref(&everything)
            } else {
                &rule.matches
            };
            for one in matches {
                if let Some(specific) = request.fits(one)
                    && best.as_ref().is_none_or(|(known, _)| specific > *known)
                {
                    best = Some((specific, rule));
                }
            }
        }
        best.map(|(_, rule)| rule)
    }
}

/// Whether a hostname of a route, maybe with `*.` before it, means this host.
fn covers(own: &str, host: &str) -> bool {
    match own.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => own == host,
    }
}

/// How specific a match is, in the order of the Gateway API: exact path, length of the prefix, method, headers, query.
type Specific = (bool, usize, bool, usize, usize);

/// What a request is matched by.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    query: HashMap<String, String>,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    fn fits(&self, one: &Value) -> Option<Specific> {
        let wanted = one["path"]["value"].as_str().unwrap_or("/");
        let exact = one["path"]["type"] == "Exact";
        let path = match one["path"]["type"].as_str() {
            Some("Exact") => self.path == wanted,
            Some("RegularExpression") => whole(wanted, self.path),
            _ => {
                let prefix = wanted.trim_end_matches('/');
                self.path
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        let method = one["method"].as_str();
        let headers = list(one, "headers").all(|header| {
            self.headers
                .get(text(header, "name"))
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| says(header, value))
        });
        let query = list(one, "queryParams").all(|parameter| {
            self.query
                .get(text(parameter, "name"))
                .is_some_and(|value| says(parameter, value))
        });
        let fits =
            path && headers && query && method.is_none_or(|method| method == self.method.as_str());
        fits.then(|| {
            (
                exact,
                wanted.len(),
                method.is_some(),
                list(one, "headers").count(),
                list(one, "queryParams").count(),
            )
        })
    }
}

fn says(wanted: &Value, value: &str) -> bool {
    if wanted["type"] == "RegularExpression" {
        whole(text(wanted, "value"), value)
    } else {
        text(wanted, "value") == value
    }
}

fn whole(pattern: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(text))
}

/// Does what `filters` of this type say to these headers.
fn modify(headers: &mut HeaderMap, filters: &[Value], of_type: &str, field: &str) {
    for filter in filters.iter().filter(|filter| filter["type"] == of_type) {
        let pairs = |key: &str| -> Vec<(HeaderName, HeaderValue)> {
            list(&filter[field], key)
                .filter_map(|header| {
                    Some((
                        text(header, "name").parse().ok()?,
                        text(header, "value").parse().ok()?,
                    ))
                })
                .collect()
        };
        for (name, value) in pairs("set") {
            headers.insert(name, value);
        }
        for (name, value) in pairs("add") {
            headers.append(name, value);
        }
        for name in list(&filter[field], "remove").filter_map(Value::as_str) {
            headers.remove(name);
        }
    }
}

/// Headers that concern one connection and are not passed on.
fn without_hops(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

impl Gateway {
    fn table(&self) -> Arc<Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        self.cluster.with(|store| {
            if table.version != store.revision() {
                *table = Arc::new(Table::of(store, &self.instances));
            }
        });
        Arc::clone(&table)
    }

    /// One backend by its weight, and one of its endpoints in turn.
    fn choose<'a>(&self, rule: &'a Rule) -> Option<(&'a Backend, SocketAddr)> {
        let total: u64 = rule.backends.iter().map(|backend| backend.weight).sum();
        if total == 0 {
            return None;
        }
        let mut point = rand::random_range(0..total);
        let backend = rule.backends.iter().find(|backend| {
            let here = point < backend.weight;
            point = point.saturating_sub(backend.weight);
            here
        })?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let endpoint = backend
            .endpoints
            .get(turn.checked_rem(backend.endpoints.len())?)?;
        Some((backend, *endpoint))
    }
}

async fn pass(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let host = head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(|host| {
            host.split(':')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
        })
        .unwrap_or_default();
    let query = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let asked = Asked {
        method: &head.method,
        path: head.uri.path(),
        query,
        headers: &head.headers,
    };
    let table = gateway.table();
    let Some(rule) = table.find(&host, &asked) else {
        return (StatusCode::NOT_FOUND, "no route\n").into_response();
    };
    let Some((backend, endpoint)) = gateway.choose(rule) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no endpoint\n").into_response();
    };
    let mut headers = head.headers.clone();
    without_hops(&mut headers);
    for filters in [&rule.filters, &backend.filters] {
        modify(
            &mut headers,
            filters,
            "RequestHeaderModifier",
            "requestHeaderModifier",
        );
    }
    let path = head
        .uri
        .path_and_query()
        .map_or("/", axum::http::uri::PathAndQuery::as_str);
    let sent = forward(&gateway.client, &head.method, endpoint, path, headers, body);
    let Ok(mut answer) = sent.await else {
        return (StatusCode::BAD_GATEWAY, "no answer\n").into_response();
    };
    for filters in [&rule.filters, &backend.filters] {
        modify(
            answer.headers_mut(),
            filters,
            "ResponseHeaderModifier",
            "responseHeaderModifier",
        );
    }
    answer
}

async fn forward(
    client: &reqwest::Client,
    method: &Method,
    endpoint: SocketAddr,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, reqwest::Error> {
    let answer = client
        .request(method.clone(), format!("http://{endpoint}{path}"))
        .headers(headers)
        .body(body)
        .send()
        .await?;
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await?;
    without_hops(&mut headers);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(one: &Value, headers: &[(&'static str, &str)]) -> Option<Specific> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Asked {
            method: &Method::GET,
            path: "/shop/cart",
            query: HashMap::from([("a".to_owned(), "1".to_owned())]),
            headers: &map,
        }
        .fits(one)
    }

    #[test]
    fn a_request_fits_what_the_gateway_api_says_it_does() {
        let path = |of_type: &str, value: &str| json!({"path": {"type": of_type, "value": value}});
        assert!(fits(&Value::Null, &[]).is_some());
        assert!(fits(&path("PathPrefix", "/shop"), &[]).is_some());
        assert!(
            fits(&path("PathPrefix", "/sh"), &[]).is_none(),
            "whole elements only"
        );
        assert!(fits(&path("Exact", "/shop"), &[]).is_none());
        assert!(fits(&json!({"method": "POST"}), &[]).is_none());
        assert!(fits(&json!({"queryParams": [{"name": "a", "value": "1"}]}), &[]).is_some());
        let user =
            json!({"headers": [{"name": "X-User", "type": "RegularExpression", "value": "b.*"}]});
        assert!(fits(&user, &[("x-user", "bob")]).is_some());
        assert!(fits(&user, &[("x-user", "alice")]).is_none() && fits(&user, &[]).is_none());
        assert!(
            fits(&user, &[("x-user", "bob")]) > fits(&Value::Null, &[]),
            "A/B before the rest"
        );
    }

    #[test]
    fn hosts_may_begin_with_a_star() {
        assert!(covers("shop.demo", "shop.demo") && covers("*.demo", "shop.demo"));
        assert!(!covers("*.demo", ".demo") && !covers("shop.demo", "demo"));
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let mut headers = HeaderMap::new();
        headers.insert("a", "1".parse().unwrap());
        headers.insert("b", "1".parse().unwrap());
        let filters = [
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "set": [{"name": "a", "value": "2"}], "add": [{"name": "Set-Cookie", "value": "c=1"}], "remove": ["b"]}}),
        ];
        modify(
            &mut headers,
            &filters,
            "ResponseHeaderModifier",
            "responseHeaderModifier",
        );
        modify(
            &mut headers,
            &filters,
            "RequestHeaderModifier",
            "requestHeaderModifier",
        );
        assert_eq!(headers["a"], "2");
        assert_eq!(headers["set-cookie"], "c=1");
        assert!(!headers.contains_key("b"));
    }
}
