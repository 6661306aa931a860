//! What a metrics backend needs to be told, as one table: address, region, interval, credentials (Flagger chapter 4.5). `serin lint` and
//! the controller hold templates to it before they are asked, and the backends take their default addresses from it.

use super::query::ProviderConfig;
use crate::api::validation::{Problem, ProblemSeverity};
use crate::api::{CanaryMetric, MetricProvider, MetricProviderType};

/// Where a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The template must say it; an example.
    Needed(&'static str),
    /// The public one, or another that the template names.
    Public(&'static str),
    /// The controller's own metrics server where the template names none; an example.
    Controller(&'static str),
    /// The API server of the cluster where the template names none; an example of another.
    Cluster(&'static str),
    /// Not taken from the template, and why.
    Fixed(&'static str),
}

impl Address {
    /// The address that is used where the template names none.
    #[must_use]
    pub fn default(self) -> Option<&'static str> {
        match self {
            Self::Public(address) => Some(address),
            _ => None,
        }
    }

    /// What an address looks like.
    #[must_use]
    pub fn example(self) -> &'static str {
        match self {
            Self::Needed(example)
            | Self::Public(example)
            | Self::Controller(example)
            | Self::Cluster(example) => example,
            Self::Fixed(_) => "",
        }
    }
}

/// One row: what a backend needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The backend.
    pub provider_type: MetricProviderType,
    /// Its address.
    pub address: Address,
    /// Whether `region` must be there.
    pub region: bool,
    /// Whether the metric must name its `interval`, because the request is made of it.
    pub interval: bool,
    /// Keys of the Secret without which nothing can be asked; empty where a Secret is not needed.
    pub keys: &'static [&'static str],
}

const fn needs(provider_type: MetricProviderType, address: Address) -> Needs {
    Needs {
        provider_type,
        address,
        region: false,
        interval: false,
        keys: &[],
    }
}

const fn timed(
    provider_type: MetricProviderType,
    address: Address,
    keys: &'static [&'static str],
) -> Needs {
    Needs {
        interval: true,
        keys,
        ..needs(provider_type, address)
    }
}

/// The table.
pub static NEEDS: [Needs; 12] = [
    needs(
        MetricProviderType::Prometheus,
        Address::Controller("http://prometheus.monitoring:9090"),
    ),
    needs(
        MetricProviderType::Influxdb,
        Address::Needed("http://influxdb.monitoring:8086"),
    ),
    timed(
        MetricProviderType::Datadog,
        Address::Public("https://api.datadoghq.com"),
        &["datadog_api_key", "datadog_application_key"],
    ),
    needs(
        MetricProviderType::ExternalMetrics,
        Address::Cluster("https://metrics-adapter.monitoring"),
    ),
    Needs {
        keys: &["project"],
        ..needs(
            MetricProviderType::Stackdriver,
            Address::Fixed("Google's API is asked, and no other server sees its tokens"),
        )
    },
    Needs {
        region: true,
        ..timed(
            MetricProviderType::Cloudwatch,
            Address::Fixed(
                "the region's endpoint is asked with the controller's own identity, which no other server sees; the controller's environment can name another endpoint (AWS_ENDPOINT_URL_CLOUDWATCH)",
            ),
            &[],
        )
    },
    timed(
        MetricProviderType::Newrelic,
        Address::Public("https://insights-api.newrelic.com"),
        &["newrelic_account_id", "newrelic_query_key"],
    ),
    needs(
        MetricProviderType::Graphite,
        Address::Needed("http://graphite.monitoring:8080"),
    ),
    timed(
        MetricProviderType::Dynatrace,
        Address::Needed("https://ENVIRONMENT.live.dynatrace.com"),
        &["dynatrace_token"],
    ),
    needs(
        MetricProviderType::Keptn,
        Address::Fixed("Keptn's resources are read from the cluster's API server"),
    ),
    timed(
        MetricProviderType::Splunk,
        Address::Needed("https://api.REALM.signalfx.com"),
        &["sf_token_key"],
    ),
    needs(
        MetricProviderType::Scrape,
        Address::Fixed("the pods behind the canary's Service are read"),
    ),
];

/// Namespace, metric and the rest of a query for the external metrics API, `NAMESPACE/METRIC?labelSelector=…`; `None` where it has too many
/// slashes. Without a namespace it is `default`, as with Flagger.
#[must_use]
pub fn external_metric(query: &str) -> Option<(&str, &str, &str)> {
    let (names, rest) = query.trim().split_once('?').unwrap_or((query.trim(), ""));
    match names.split('/').collect::<Vec<_>>()[..] {
        [metric] | ["", metric] => Some(("default", metric, rest)),
        [namespace, metric] => Some((namespace, metric, rest)),
        _ => None,
    }
}

/// The parts of a query for Keptn, which knows names in lower case alone: `keptnmetric/NAMESPACE/NAME`.
#[must_use]
pub fn keptn_parts(query: &str) -> Vec<String> {
    let query = query.trim().to_lowercase();
    query.split('/').map(str::to_owned).collect()
}

/// Which namespace of the cluster a rendered query asks the API server for; `None` where it asks somebody else.
#[must_use]
pub fn namespace_asked(provider: &ProviderConfig, query: &str) -> Option<String> {
    match provider.provider_type {
        MetricProviderType::Keptn => keptn_parts(query).into_iter().nth(1),
        MetricProviderType::ExternalMetrics if provider.address.is_none() => {
            external_metric(query).map(|(namespace, ..)| namespace.to_owned())
        }
        _ => None,
    }
}

const NOTHING: Needs = needs(
    MetricProviderType::Prometheus,
    Address::Controller("http://prometheus.monitoring:9090"),
);

/// The row of a backend.
#[must_use]
pub fn needs_of(provider_type: MetricProviderType) -> &'static Needs {
    NEEDS
        .iter()
        .find(|needs| needs.provider_type == provider_type)
        .unwrap_or(&NOTHING)
}

fn problem(
    severity: ProblemSeverity,
    field: &str,
    value: &str,
    message: impl Into<String>,
) -> Problem {
    Problem {
        field: format!("spec.provider.{field}"),
        value: value.to_owned(),
        message: message.into(),
        severity,
    }
}

/// What is wrong with the provider of a template.
#[must_use]
pub fn provider_problems(provider: &MetricProvider) -> Vec<Problem> {
    let kind = provider.provider_type;
    let needs = needs_of(kind);
    let mut found = Vec::new();
    let error = |field: &str, value: &str, message: String| {
        problem(ProblemSeverity::Error, field, value, message)
    };
    let address = provider
        .address
        .as_deref()
        .filter(|address| !address.is_empty());
    match (address, needs.address) {
        (None, Address::Needed(example)) => found.push(error(
            "address",
            "",
            format!("is required for {kind}; expected for example {example}"),
        )),
        (Some(address), Address::Fixed(why)) => found.push(problem(
            ProblemSeverity::Warning,
            "address",
            &without_user(address),
            format!("is not used: {why}"),
        )),
        (Some(address), place) if !is_url(kind, address) => found.push(error(
            "address",
            &without_user(address),
            format!("is not a URL; expected for example {}", place.example()),
        )),
        _ => {}
    }
    let region = provider
        .region
        .as_deref()
        .filter(|region| !region.is_empty());
    match region {
        None if needs.region => found.push(error(
            "region",
            "",
            format!("is required for {kind}; expected for example eu-central-1"),
        )),
        Some(region) if needs.region && !is_region(region) => found.push(error(
            "region",
            region,
            "is not a region's name; expected for example eu-central-1".to_owned(),
        )),
        _ => {}
    }
    if provider.secret_ref.is_none() && !needs.keys.is_empty() {
        found.push(error(
            "secretRef",
            "",
            format!(
                "is required for {kind}; name a Secret in the template's namespace with {}",
                needs.keys.join(" and ")
            ),
        ));
    }
    found
}

/// What a metric must say, besides, that is asked of this backend. `field` is the metric's own.
#[must_use]
pub fn interval_problem(
    metric: &CanaryMetric,
    provider_type: MetricProviderType,
    field: &str,
) -> Option<Problem> {
    let named = metric
        .interval
        .as_deref()
        .is_some_and(|interval| !interval.is_empty());
    (needs_of(provider_type).interval && !named).then(|| Problem {
        field: format!("{field}.interval"),
        value: String::new(),
        message: format!(
            "is required for metrics from {provider_type}: it says how far back to look; expected for example 1m"
        ),
        severity: ProblemSeverity::Error,
    })
}

/// Letters, digits and hyphens: a region becomes part of a host's name, so nothing else may be in it.
#[must_use]
pub fn is_region(region: &str) -> bool {
    !region.is_empty()
        && region.len() <= 63
        && region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !region.starts_with('-')
        && !region.ends_with('-')
}

fn is_url(kind: MetricProviderType, address: &str) -> bool {
    let schemes: &[&str] = match kind {
        // Flagger calls the stream by these.
        MetricProviderType::Splunk => &["http://", "https://", "ws://", "wss://"],
        _ => &["http://", "https://"],
    };
    schemes.iter().any(|scheme| {
        address.strip_prefix(scheme).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_alphanumeric() || c == '[')
                && !rest.contains(char::is_whitespace)
        })
    })
}

/// An address for messages: a password in it is not told.
fn without_user(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() {
        host.to_owned()
    } else {
        format!("{scheme}://{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SecretRef;

    fn provider(kind: MetricProviderType) -> MetricProvider {
        MetricProvider {
            provider_type: kind,
            ..MetricProvider::default()
        }
    }

    fn told(provider: &MetricProvider) -> Vec<String> {
        provider_problems(provider)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn each_backend_has_a_row() {
        for kind in MetricProviderType::ALL {
            assert_eq!(needs_of(*kind).provider_type, *kind, "{kind}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_would_be_right() {
        let cases: [(MetricProviderType, &[&str]); 11] = [
            (MetricProviderType::Prometheus, &[]),
            (
                MetricProviderType::Influxdb,
                &[
                    "spec.provider.address: is required for influxdb; expected for example http://influxdb.monitoring:8086",
                ],
            ),
            (
                MetricProviderType::Datadog,
                &[
                    "spec.provider.secretRef: is required for datadog; name a Secret in the template's namespace with datadog_api_key and datadog_application_key",
                ],
            ),
            (MetricProviderType::ExternalMetrics, &[]),
            (
                MetricProviderType::Stackdriver,
                &[
                    "spec.provider.secretRef: is required for stackdriver; name a Secret in the template's namespace with project",
                ],
            ),
            (
                MetricProviderType::Cloudwatch,
                &[
                    "spec.provider.region: is required for cloudwatch; expected for example eu-central-1",
                ],
            ),
            (
                MetricProviderType::Newrelic,
                &[
                    "spec.provider.secretRef: is required for newrelic; name a Secret in the template's namespace with newrelic_account_id and newrelic_query_key",
                ],
            ),
            (
                MetricProviderType::Graphite,
                &[
                    "spec.provider.address: is required for graphite; expected for example http://graphite.monitoring:8080",
                ],
            ),
            (
                MetricProviderType::Dynatrace,
                &[
                    "spec.provider.address: is required for dynatrace; expected for example https://ENVIRONMENT.live.dynatrace.com",
                    "spec.provider.secretRef: is required for dynatrace; name a Secret in the template's namespace with dynatrace_token",
                ],
            ),
            (MetricProviderType::Keptn, &[]),
            (
                MetricProviderType::Splunk,
                &[
                    "spec.provider.address: is required for splunk; expected for example https://api.REALM.signalfx.com",
                    "spec.provider.secretRef: is required for splunk; name a Secret in the template's namespace with sf_token_key",
                ],
            ),
        ];
        for (kind, expected) in cases {
            assert_eq!(told(&provider(kind)), expected, "{kind}");
        }
    }

    #[test]
    fn what_is_there_must_be_usable() {
        let address = |kind, address: &str| MetricProvider {
            address: Some(address.to_owned()),
            secret_ref: Some(SecretRef {
                name: "keys".to_owned(),
            }),
            ..provider(kind)
        };
        let wrong = address(MetricProviderType::Graphite, "me:secret@graphite:8080");
        assert_eq!(
            told(&wrong),
            [
                "spec.provider.address: graphite:8080: is not a URL; expected for example http://graphite.monitoring:8080"
            ]
        );
        let stream = address(MetricProviderType::Splunk, "wss://stream.us1.signalfx.com");
        assert_eq!(told(&stream), Vec::<String>::new());
        let mut cloudwatch = address(MetricProviderType::Cloudwatch, "https://elsewhere.example");
        cloudwatch.region = Some("evil.example/#".to_owned());
        let found = provider_problems(&cloudwatch);
        assert_eq!(found[0].severity, ProblemSeverity::Warning);
        assert!(found[0].message.starts_with("is not used: "));
        assert_eq!(
            found[1].to_string(),
            "spec.provider.region: evil.example/#: is not a region's name; expected for example eu-central-1"
        );
    }
}
