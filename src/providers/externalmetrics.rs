//! The external metrics API of Kubernetes (Flagger chapter 4.5), served by an adapter such as KEDA's or Datadog's. The query is
//! `NAMESPACE/METRIC?labelSelector=…`; the first item counts.
//!
//! Without an address the cluster's own API server is asked with the controller's rights. With one, that server sees the `token` of the
//! template's own Secret and nothing else: Flagger sends it the controller's token, which opens every Secret of the cluster.

use super::exchange::{self, Point, Several, among, headers, measured, sensitive};
use super::http::Http;
use super::surroundings::{self, ClusterError, Surroundings, escaped, is_name};
use super::{Provider, QueryRequest};
use crate::analysis::{Measurement, external_metric};
use crate::object::Kind;
use futures::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use serde_json::Value;

/// Every metric is a resource of its own, so that the rights can't name them.
pub const METRICS: Kind = Kind::namespaced(
    "external.metrics.k8s.io",
    "v1beta1",
    "ExternalMetricValueList",
    "*",
);

const FORM: &str = "NAMESPACE/METRIC?labelSelector=KEY%3DVALUE";

/// The backend.
pub(super) struct ExternalMetrics {
    surroundings: Surroundings,
}

impl ExternalMetrics {
    pub fn new(surroundings: Surroundings) -> Self {
        Self { surroundings }
    }

    async fn read(&self, http: &Http, request: &QueryRequest, path: &str) -> Result<Value, String> {
        if request.config.address.is_none() {
            let cluster = self.surroundings.cluster()?;
            let found = surroundings::read(&**cluster, http, path).await;
            return found.map_err(|error| told(&error));
        }
        let mut url = exchange::url(request, "")?;
        let base = url.path().trim_end_matches('/').to_owned();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        url.set_path(&format!("{base}{path}"));
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let mut headers = headers(request)?;
        if request.credentials.is_some() {
            let text = format!("Bearer {}", exchange::key(request, "token")?);
            headers.insert(AUTHORIZATION, sensitive(request, &text)?);
        }
        exchange::json(http, &exchange::get(request, url, headers)).await
    }

    async fn ask(&self, http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
        let found = self.read(http, request, &path(&request.query)?).await?;
        if !found.is_object() {
            return Err("the answer is not a list of metrics".to_owned());
        }
        let items = exchange::list(&found, "/items")?;
        let Some(first) = items.first() else {
            return Ok(exchange::nothing());
        };
        let value = match &first["value"] {
            Value::Null => None,
            Value::String(text) => Some(
                quantity(text)
                    .ok_or_else(|| format!("{:?} is not a quantity", exchange::shortened(text)))?,
            ),
            other => exchange::number(other)?,
        };
        let at = first["timestamp"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
            .map(exchange::seconds);
        Ok(among(
            measured(request, value.map(|value| Point { value, at })),
            Several::First(items.len()),
        ))
    }
}

impl Provider for ExternalMetrics {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            self.ask(http, request)
                .await
                .unwrap_or_else(Measurement::Error)
        })
    }

    /// Asks for the metric itself: Flagger asks for one called `dummy-metric`, which an adapter may well refuse.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let path = path(&request.query)?;
            self.read(http, request, &path).await.map(|_| ())
        })
    }
}

fn told(error: &ClusterError) -> String {
    let hint = match error {
        ClusterError::Unserved(_) | ClusterError::Absent(_) => {
            " (is an adapter for external metrics installed, and does it know this metric?)"
        }
        ClusterError::Forbidden(_) => {
            " (grant it with `serin rbac --metrics-providers externalmetrics` or the chart's rbac.metricsProviders)"
        }
        ClusterError::Failed(_) => "",
    };
    format!(
        "the external metric can't be had{hint}: {}",
        exchange::shortened(&error.to_string())
    )
}

/// The path below the server's address, with the query's selector.
fn path(query: &str) -> Result<String, String> {
    let query = query.trim();
    let wrong = |what: &str| {
        format!(
            "the query is {:?}{what}; expected {FORM}",
            exchange::shortened(query)
        )
    };
    let (namespace, metric, rest) =
        external_metric(query).ok_or_else(|| wrong(", which has too many slashes"))?;
    if !is_name(namespace) {
        return Err(wrong(", whose namespace can't be one"));
    }
    if matches!(metric, "" | "." | "..") {
        return Err(wrong(", which names no metric"));
    }
    let selector = Url::parse(&format!("http://x/?{rest}"))
        .ok()
        .and_then(|url| {
            url.query_pairs()
                .find(|(name, _)| name == "labelSelector")
                .map(|(_, value)| value.into_owned())
        })
        .filter(|selector| !selector.is_empty());
    let path = format!(
        "/apis/{}/namespaces/{namespace}/{}",
        METRICS.api_version(),
        escaped(metric)
    );
    Ok(match selector {
        Some(selector) => format!("{path}?labelSelector={}", escaped(&selector)),
        None => path,
    })
}

/// A Kubernetes quantity as a number.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let is_number = |text: &str| text.ends_with(|c: char| c.is_ascii_digit() || c == '.');
    let parsed = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    if is_number(text) {
        return parsed(text);
    }
    SUFFIXES.iter().find_map(|(suffix, factor)| {
        let digits = text
            .strip_suffix(suffix)
            .filter(|digits| is_number(digits))?;
        // A milli is exact as a division, not as a factor.
        if *factor < 1.0 {
            parsed(digits).map(|value| value / (1.0 / factor).round())
        } else {
            parsed(digits).map(|value| value * factor)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_path_below_the_server() {
        let root = "/apis/external.metrics.k8s.io/v1beta1/namespaces";
        let cases = [
            ("queue", format!("{root}/default/queue")),
            ("/queue", format!("{root}/default/queue")),
            ("shop/s0-redis\n", format!("{root}/shop/s0-redis")),
            (
                "shop/queue?labelSelector=app%3Dweb%2Ctier%3Da",
                format!("{root}/shop/queue?labelSelector=app%3Dweb%2Ctier%3Da"),
            ),
            ("shop/a%2Fb", format!("{root}/shop/a%252Fb")),
        ];
        for (query, expected) in cases {
            assert_eq!(path(query), Ok(expected), "{query}");
        }
        for wrong in ["", "a/b/c", "shop/..", "../x", "Shop/x", "shop/"] {
            let why = path(wrong).err().unwrap_or_default();
            assert!(why.contains(FORM), "{wrong}: {why}");
        }
    }

    #[test]
    fn quantities_are_numbers() {
        let cases = [
            ("5", Some(5.0)),
            ("1500m", Some(1.5)),
            ("-2", Some(-2.0)),
            ("2k", Some(2000.0)),
            ("1Ki", Some(1024.0)),
            ("12e3", Some(12_000.0)),
            ("1.5E2", Some(150.0)),
            ("3E", Some(3e18)),
            ("100n", Some(1e-7)),
            ("", None),
            ("m", None),
            ("NaN", None),
            ("inf", None),
            ("5x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }
}
