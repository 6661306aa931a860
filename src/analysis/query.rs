//! What to ask: one query for each metric of the canary, in Flagger's order, or the reason why it can't be asked.

use super::backend::{interval_problem, namespace_asked, provider_problems};
use super::builtin::{
    DurationUnit, Names, Observer, candidates, choose, metrics_provider, observer_for,
    observer_named, presence_query,
};
use super::sampling::{SCRAPE, ScrapeQuery, scrape_options};
use super::template::{TemplateContext, render};
use crate::api::{
    Canary, CanaryMetric, CrossNamespaceRef, MetricProviderType, MetricTemplate, ProblemSeverity,
    RouteKind, TargetKind,
};
use crate::object::{Object, ObjectRef, Reading, kinds};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The name of the built-in success rate.
pub const REQUEST_SUCCESS_RATE: &str = "request-success-rate";
/// The name of the built-in duration.
pub const REQUEST_DURATION: &str = "request-duration";

/// What a measured number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Percent of requests that went well.
    SuccessRate,
    /// Time that requests take, in the unit of the query; limits are in milliseconds.
    Duration(DurationUnit),
    /// Any other number.
    Value,
}

/// Where a query comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of built-in queries.
    BuiltIn {
        /// The name by which the row was chosen, as messages show it.
        metrics_provider: String,
    },
    /// `query` of the metric.
    Inline,
    /// A `MetricTemplate`.
    Template {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Limits of a value, both inclusive, in the unit of the manifest: percent, milliseconds, or the metric's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Least value that passes.
    pub min: Option<f64>,
    /// Greatest value that passes.
    pub max: Option<f64>,
}

/// The name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Which backend to ask, and how.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ProviderConfig {
    /// The backend.
    pub provider_type: MetricProviderType,
    /// Base URL; `None` is the backend's public one, where it has one.
    pub address: Option<String>,
    /// Where the credentials are.
    pub secret: Option<SecretName>,
    /// Headers of each request.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Region, for backends that have some.
    pub region: Option<String>,
    /// The backend's certificate is not verified.
    pub insecure_skip_verify: bool,
}

/// Without what may be a credential: the values of headers, and whoever is named in the address.
impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_deref().map(|address| {
            let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => format!("{scheme}://…{}", &rest[at..]),
                None => address.to_owned(),
            }
        });
        f.debug_struct("ProviderConfig")
            .field("provider_type", &self.provider_type)
            .field("address", &address)
            .field("secret", &self.secret)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("region", &self.region)
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .finish()
    }
}

/// One question to a metrics backend.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricQuery {
    /// Name of the metric in `spec.analysis.metrics`.
    pub name: String,
    /// What the number means.
    pub kind: MetricKind,
    /// Where the query comes from.
    pub origin: Origin,
    /// Whom to ask.
    pub provider: ProviderConfig,
    /// What to ask, rendered, in the backend's language.
    pub query: String,
    /// The span that the metric looks back over; 1 m when the manifest does not say.
    pub interval: Duration,
    /// The limits of the value.
    pub limits: Limits,
}

impl MetricQuery {
    /// Kind of the backend, such as `prometheus`.
    #[must_use]
    pub fn provider_name(&self) -> &'static str {
        self.provider.provider_type.as_str()
    }
}

/// Why a metric of the canary can't be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryProblem {
    /// It is wrong in itself, or its template is missing: a person must change something.
    Invalid {
        /// Name of the metric.
        metric: String,
        /// Flagger's sentence where it has one.
        message: String,
    },
    /// An object that it needs could not be read just now; the text says which and why.
    Unknown(String),
}

/// What the controller was started with, as far as questions depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricFlags<'a> {
    /// `-mesh-provider`.
    pub mesh_provider: &'a str,
    /// `-metrics-server`: a URL or `scrape`, perhaps with options.
    pub metrics_server: &'a str,
    /// `-no-cross-namespace-refs`: of what the API server answers for, only the canary's own namespace may be asked about.
    pub no_cross_namespace_refs: bool,
}

/// The questions of one round, in Flagger's order: built-in and inline metrics first, then templates.
///
/// An entry with `templateRef` is asked once, by its template; Flagger asks twice when such an entry also has the name of a built-in metric or an inline query.
#[must_use]
pub fn queries(
    canary: &Canary,
    flags: MetricFlags<'_>,
    lookup: &dyn Fn(&ObjectRef) -> Reading,
) -> Vec<Result<MetricQuery, QueryProblem>> {
    queries_over(canary, flags, &BTreeMap::new(), lookup)
}

/// The same with the rows of the table of built-in queries that were chosen, by check; see [`sources`].
#[must_use]
pub fn queries_over(
    canary: &Canary,
    flags: MetricFlags<'_>,
    observers: &BTreeMap<String, String>,
    lookup: &dyn Fn(&ObjectRef) -> Reading,
) -> Vec<Result<MetricQuery, QueryProblem>> {
    let metrics = &canary.spec.analysis.metrics;
    if metrics.is_empty() {
        return Vec::new();
    }
    let route = match route(canary, lookup) {
        Ok(route) => route,
        Err(why) => return vec![Err(QueryProblem::Unknown(why))],
    };
    let asker = Asker {
        canary,
        flags,
        observers,
        lookup,
        route,
    };
    let (templated, direct): (Vec<_>, Vec<_>) = metrics
        .iter()
        .partition(|metric| metric.template_ref.is_some());
    direct
        .into_iter()
        .chain(templated)
        .map(|metric| asker.ask(metric))
        .collect()
}

/// Which rows of the table of built-in queries may have the series of a canary, and the question that finds out.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The question; its answer goes to [`Sources::chosen`].
    pub query: MetricQuery,
    checks: Vec<&'static str>,
    rows: Vec<&'static Observer>,
    /// What each row reads for each check, for people.
    series: BTreeMap<(&'static str, &'static str), String>,
}

impl Sources {
    /// The rows that are asked from now on, by check. `before` has those of the run before.
    #[must_use]
    pub fn chosen(
        &self,
        answer: f64,
        before: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        choose(&self.checks, &self.rows, answer, before)
    }

    /// Whether each check has its row already.
    #[must_use]
    pub fn are_all_in(&self, chosen: &BTreeMap<String, String>) -> bool {
        self.checks.iter().all(|check| chosen.contains_key(*check))
    }

    /// What is read for a check, as `row: series`.
    #[must_use]
    pub fn told(&self, check: &str, row: &str) -> String {
        let series = self
            .series
            .iter()
            .find(|((known, name), _)| *known == check && *name == row)
            .map(|(_, series)| series.as_str());
        format!("{row}: {}", series.unwrap_or_default())
    }

    /// Row and series in a text of [`Sources::told`].
    #[must_use]
    pub fn parts(told: &str) -> Option<(&str, &str)> {
        told.split_once(": ")
    }
}

/// Where the series of the built-in checks may be; `None` for a canary that has no such check, or asks its pods for them.
#[must_use]
pub fn sources(
    canary: &Canary,
    flags: MetricFlags<'_>,
    lookup: &dyn Fn(&ObjectRef) -> Reading,
) -> Option<Sources> {
    let server = canary.spec.metrics_server_or(flags.metrics_server);
    let checks: Vec<&'static str> = [REQUEST_SUCCESS_RATE, REQUEST_DURATION]
        .into_iter()
        .filter(|check| {
            canary.spec.analysis.metrics.iter().any(|metric| {
                let inline = metric
                    .query
                    .as_deref()
                    .is_some_and(|query| !query.is_empty());
                metric.name == *check && metric.template_ref.is_none() && !inline
            })
        })
        .collect();
    if checks.is_empty() || scrape_options(server).is_some() {
        return None;
    }
    let no_observers = BTreeMap::new();
    let asker = Asker {
        canary,
        flags,
        observers: &no_observers,
        lookup,
        route: route(canary, lookup).ok()?,
    };
    let mut rows = candidates(&metrics_provider(canary, flags.mesh_provider));
    if routes_grpc(canary) {
        rows.retain(|row| row.sees_grpc());
    }
    let names = asker.names();
    let query = presence_query(&checks, &rows, names);
    let metric = CanaryMetric {
        name: "metrics sources".to_owned(),
        ..CanaryMetric::default()
    };
    let series = checks
        .iter()
        .flat_map(|check| {
            rows.iter()
                .map(|row| ((*check, row.name), row.series(check, names)))
        })
        .collect();
    Some(Sources {
        query: asker.prometheus(&metric, MetricKind::Value, Origin::Inline, query),
        series,
        checks,
        rows,
    })
}

/// Whether what is routed is calls of gRPC, of which HTTP's status says nothing.
fn routes_grpc(canary: &Canary) -> bool {
    let service = canary.spec.service.as_ref();
    service.is_some_and(|service| service.route_kind == Some(RouteKind::Grpc))
        || canary
            .spec
            .route_ref
            .iter()
            .chain(&canary.spec.route_refs)
            .any(|route| route.kind == "GRPCRoute")
}

/// The route's name: `routeRef`, for Knative the latest revision that was created, else the target.
fn route(canary: &Canary, lookup: &dyn Fn(&ObjectRef) -> Reading) -> Result<String, String> {
    let spec = &canary.spec;
    if let Some(route) = &spec.route_ref {
        return Ok(route.name.clone());
    }
    if spec.target_ref.target_kind() == TargetKind::Knative {
        let service =
            kinds::KNATIVE_SERVICE.named(&canary.metadata.namespace, &spec.target_ref.name);
        let reading = lookup(&service);
        if let Some(why) = reading.unknown() {
            return Err(format!("{service}: {why}"));
        }
        let latest = reading.object().map_or("", |object| {
            object.text("/status/latestCreatedRevisionName")
        });
        if !latest.is_empty() {
            return Ok(latest.to_owned());
        }
    }
    Ok(spec.target_ref.name.clone())
}

struct Asker<'a> {
    canary: &'a Canary,
    flags: MetricFlags<'a>,
    /// Rows that were chosen, by check.
    observers: &'a BTreeMap<String, String>,
    lookup: &'a dyn Fn(&ObjectRef) -> Reading,
    route: String,
}

impl Asker<'_> {
    fn ask(&self, metric: &CanaryMetric) -> Result<MetricQuery, QueryProblem> {
        if let Some(reference) = &metric.template_ref {
            return self.templated(metric, reference);
        }
        let server = self
            .canary
            .spec
            .metrics_server_or(self.flags.metrics_server);
        if let Some(options) = scrape_options(server) {
            return self.scraped(metric, options);
        }
        let inline = metric.query.as_deref().filter(|query| !query.is_empty());
        if let Some(query) = inline {
            // Flagger sends an empty query when an inline one can't be rendered; the reason helps more.
            let query =
                render(query, &self.context(metric, metric.interval_text())).map_err(|error| {
                    invalid(
                        metric,
                        format!("Prometheus query failed for {}: {error}", metric.name),
                    )
                })?;
            return Ok(self.prometheus(metric, MetricKind::Value, Origin::Inline, query));
        }
        let metrics_provider = metrics_provider(self.canary, self.flags.mesh_provider);
        let observer = self
            .observers
            .get(&metric.name)
            .and_then(|row| observer_named(row))
            .unwrap_or_else(|| observer_for(&metrics_provider));
        let names = self.names();
        let interval = metric.interval_text();
        let (kind, query) = match metric.name.as_str() {
            REQUEST_SUCCESS_RATE => (
                MetricKind::SuccessRate,
                observer.success_rate(names, interval),
            ),
            REQUEST_DURATION => (
                MetricKind::Duration(observer.duration_unit),
                observer.duration(names, interval),
            ),
            name => {
                return Err(not_built_in(metric, name));
            }
        };
        Ok(self.prometheus(metric, kind, Origin::BuiltIn { metrics_provider }, query))
    }

    fn names(&self) -> Names<'_> {
        Names {
            namespace: &self.canary.metadata.namespace,
            target: self.canary.target_name(),
            service: self.canary.apex_name(),
            ingress: self.ingress(),
            route: &self.route,
            kind: self.canary.spec.target_ref.target_kind(),
        }
    }

    /// The metric where there is no Prometheus: a built-in check, or an inline query that asks for one.
    fn scraped(&self, metric: &CanaryMetric, options: &str) -> Result<MetricQuery, QueryProblem> {
        let inline = metric.query.as_deref().filter(|query| !query.is_empty());
        let (kind, origin, query) = match (inline, metric.name.as_str()) {
            (Some(query), _) => (MetricKind::Value, Origin::Inline, query.to_owned()),
            (None, name @ (REQUEST_SUCCESS_RATE | REQUEST_DURATION)) => (
                if name == REQUEST_DURATION {
                    MetricKind::Duration(DurationUnit::Milliseconds)
                } else {
                    MetricKind::SuccessRate
                },
                Origin::BuiltIn {
                    metrics_provider: SCRAPE.to_owned(),
                },
                format!("{name}?{options}"),
            ),
            (None, name) => return Err(not_built_in(metric, name)),
        };
        let query = self.scrape_query(&query)?.map_err(|why| {
            invalid(
                metric,
                match origin {
                    Origin::Inline => format!(
                        "Metric query failed for {}: metricsServer is {SCRAPE}, where no Prometheus answers: {why}",
                        metric.name
                    ),
                    _ => format!("Metric query failed for {}: {why}", metric.name),
                },
            )
        })?;
        Ok(MetricQuery {
            name: metric.name.clone(),
            kind,
            origin,
            provider: self.pods(ProviderConfig::default()),
            query,
            interval: metric.interval(),
            limits: Limits::of(metric, kind),
        })
    }

    /// Asks the canary's own pods, which its Service leads to.
    fn pods(&self, provider: ProviderConfig) -> ProviderConfig {
        ProviderConfig {
            provider_type: MetricProviderType::Scrape,
            address: Some(format!(
                "{}.{}",
                self.canary.canary_service_name(),
                self.canary.metadata.namespace
            )),
            ..provider
        }
    }

    /// The question with what the pods' annotations say of their page, or why it is none.
    fn scrape_query(&self, query: &str) -> Result<Result<String, String>, QueryProblem> {
        let mut query = query.trim().to_owned();
        let target = &self.canary.spec.target_ref;
        let kind = match target.target_kind() {
            TargetKind::Deployment => kinds::DEPLOYMENT,
            TargetKind::DaemonSet => kinds::DAEMON_SET,
            _ => return Ok(ScrapeQuery::parse(&query).map(|_| query)),
        };
        let name = kind.named(&self.canary.metadata.namespace, &target.name);
        let reading = (self.lookup)(&name);
        if let Some(why) = reading.unknown() {
            return Err(QueryProblem::Unknown(format!("{name}: {why}")));
        }
        let annotations = reading
            .object()
            .map(|target| target.string_map("/spec/template/metadata/annotations"))
            .unwrap_or_default();
        for option in ["port", "path", "scheme"] {
            let given = query
                .split(['?', '&'])
                .any(|part| part.trim().split('=').next() == Some(option));
            if let Some(value) = annotations.get(&format!("prometheus.io/{option}"))
                && !given
            {
                let mark = if query.contains('?') { '&' } else { '?' };
                query = format!("{query}{mark}{option}={value}");
            }
        }
        Ok(ScrapeQuery::parse(&query).map(|_| query))
    }

    fn prometheus(
        &self,
        metric: &CanaryMetric,
        kind: MetricKind,
        origin: Origin,
        query: String,
    ) -> MetricQuery {
        MetricQuery {
            name: metric.name.clone(),
            kind,
            origin,
            provider: ProviderConfig {
                address: Some(
                    self.canary
                        .spec
                        .metrics_server_or(self.flags.metrics_server)
                        .to_owned(),
                ),
                ..ProviderConfig::default()
            },
            query,
            interval: metric.interval(),
            limits: Limits::of(metric, kind),
        }
    }

    fn templated(
        &self,
        metric: &CanaryMetric,
        reference: &CrossNamespaceRef,
    ) -> Result<MetricQuery, QueryProblem> {
        let namespace = reference
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(&self.canary.metadata.namespace);
        let name = kinds::METRIC_TEMPLATE.named(namespace, &reference.name);
        let failed = |why: String| {
            invalid(
                metric,
                format!(
                    "Metric template {}.{namespace} error: {why}",
                    reference.name
                ),
            )
        };
        let object: &Object = match &(self.lookup)(&name) {
            Reading::Present(object) => &object.clone(),
            Reading::Absent => {
                return Err(failed(format!(
                    "there is no MetricTemplate {} in namespace {namespace}; create it or correct spec.analysis.metrics[name={}].templateRef",
                    reference.name, metric.name
                )));
            }
            Reading::Unknown(why) => return Err(QueryProblem::Unknown(format!("{name}: {why}"))),
        };
        let template =
            MetricTemplate::decode(object.value()).map_err(|error| failed(error.to_string()))?;
        let provider = template.spec.provider;
        let wrong: Vec<String> = provider_problems(&provider)
            .into_iter()
            .filter(|problem| problem.severity == ProblemSeverity::Error)
            .map(|problem| problem.to_string())
            .collect();
        if !wrong.is_empty() {
            return Err(failed(wrong.join("; ")));
        }
        let field = format!("spec.analysis.metrics[name={}]", metric.name);
        if let Some(problem) = interval_problem(metric, provider.provider_type, &field) {
            return Err(invalid(metric, problem.to_string()));
        }
        let interval = metric.interval.as_deref().unwrap_or_default();
        let query = render(&template.spec.query, &self.context(metric, interval))
            .map_err(|error| failed(error.to_string()))?;
        let mut address = provider.address.filter(|address| !address.is_empty());
        if address.is_none() && provider.provider_type == MetricProviderType::Prometheus {
            let server = self
                .canary
                .spec
                .metrics_server_or(self.flags.metrics_server);
            if scrape_options(server).is_some() {
                return Err(failed(format!(
                    "spec.provider.address is missing, and the metrics server is {SCRAPE}; name a Prometheus there, such as http://prometheus.monitoring:9090"
                )));
            }
            address = Some(server.to_owned());
        }
        let mut config = ProviderConfig {
            provider_type: provider.provider_type,
            address,
            secret: provider.secret_ref.map(|secret| SecretName {
                namespace: namespace.to_owned(),
                name: secret.name,
            }),
            headers: provider.headers,
            region: provider.region,
            insecure_skip_verify: provider.insecure_skip_verify.unwrap_or(false),
        };
        let home = &self.canary.metadata.namespace;
        if self.flags.no_cross_namespace_refs
            && let Some(other) = namespace_asked(&config, &query)
            && other != *home
        {
            return Err(failed(format!(
                "the query asks for namespace {other} of the cluster, which -no-cross-namespace-refs forbids; name {home} in it, for instance as {{{{ namespace }}}}"
            )));
        }
        let mut query = query;
        if config.provider_type == MetricProviderType::Scrape {
            query = self.scrape_query(&query)?.map_err(failed)?;
            config = self.pods(ProviderConfig {
                insecure_skip_verify: config.insecure_skip_verify,
                ..ProviderConfig::default()
            });
        }
        Ok(MetricQuery {
            name: metric.name.clone(),
            kind: MetricKind::Value,
            origin: Origin::Template {
                namespace: namespace.to_owned(),
                name: reference.name.clone(),
            },
            provider: config,
            query,
            interval: metric.interval(),
            limits: Limits::of(metric, MetricKind::Value),
        })
    }

    fn ingress(&self) -> &str {
        self.canary
            .spec
            .ingress_ref
            .as_ref()
            .map_or(self.canary.target_name(), |ingress| &ingress.name)
    }

    fn context(&self, metric: &CanaryMetric, interval: &str) -> TemplateContext {
        TemplateContext {
            name: self.canary.metadata.name.clone(),
            namespace: self.canary.metadata.namespace.clone(),
            target: self.canary.target_name().to_owned(),
            service: self.canary.apex_name().to_owned(),
            ingress: self.ingress().to_owned(),
            route: self.route.clone(),
            interval: interval.to_owned(),
            variables: metric.template_variables.clone(),
        }
    }
}

fn not_built_in(metric: &CanaryMetric, name: &str) -> QueryProblem {
    invalid(
        metric,
        format!(
            "Metric query failed for no usable metrics template and query were configured: metric {name:?} is not built in ({REQUEST_SUCCESS_RATE}, {REQUEST_DURATION}) and has no templateRef"
        ),
    )
}

fn invalid(metric: &CanaryMetric, message: String) -> QueryProblem {
    QueryProblem::Invalid {
        metric: metric.name.clone(),
        message,
    }
}
