//! Keptn (Flagger chapter 4.5): the value of a `KeptnMetric`, or an `Analysis` that is made, waited for and removed: 1 where it passes, else 0.
//!
//! The query is `keptnmetric/NAMESPACE/NAME` or `analysis/NAMESPACE/DEFINITION/SPAN/KEY=VALUE;…`, in lower case whatever its case.

use super::exchange::{self, Point, measured};
use super::http::Http;
use super::surroundings::{self, ApiServer, ClusterError, Surroundings, is_name};
use super::{Provider, QueryRequest};
use crate::analysis::{Measurement, keptn_parts};
use crate::object::Kind;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What Keptn measures.
pub const METRIC: Kind =
    Kind::namespaced("metrics.keptn.sh", "v1beta1", "KeptnMetric", "keptnmetrics");
/// A judgement of several metrics.
pub const ANALYSIS: Kind = Kind::namespaced("metrics.keptn.sh", "v1beta1", "Analysis", "analyses");

const FORM: &str = "keptnmetric/NAMESPACE/NAME or analysis/NAMESPACE/DEFINITION/SPAN/KEY=VALUE;…";
/// The span of an analysis where the query names none.
const SPAN: &str = "1m";

/// The backend.
pub(super) struct Keptn {
    surroundings: Surroundings,
    /// How often an analysis is looked at.
    period: Duration,
    /// How long it may take.
    patience: Duration,
}

impl Keptn {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            period: Duration::from_secs(1),
            patience: Duration::from_secs(10),
        }
    }

    #[cfg(test)]
    pub fn hurried(mut self) -> Self {
        self.period = Duration::from_millis(20);
        self.patience = Duration::from_millis(200);
        self
    }

    async fn ask(&self, http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
        match Question::of(&request.query)? {
            Question::Metric { namespace, name } => {
                self.metric(http, request, &namespace, &name).await
            }
            Question::Analysis(question) => {
                let cluster = Arc::clone(self.surroundings.cluster()?);
                let (period, patience) = (self.period, self.patience);
                // A task of its own: whoever asked may stop waiting, and what was made must go all the same.
                tokio::spawn(async move { analyse(&*cluster, &question, period, patience).await })
                    .await
                    .map_err(|error| format!("the analysis could not be carried out: {error}"))?
            }
        }
    }

    async fn metric(
        &self,
        http: &Http,
        request: &QueryRequest,
        namespace: &str,
        name: &str,
    ) -> Result<Measurement, String> {
        let path = format!("{}/{name}", collection(&METRIC, namespace));
        let cluster = self.surroundings.cluster()?;
        let found = surroundings::read(&**cluster, http, &path)
            .await
            .map_err(|error| told(&format!("KeptnMetric {name}.{namespace}"), &error))?;
        let status = &found["status"];
        let value = match &status["value"] {
            Value::String(text) if text.is_empty() => None,
            value => exchange::number(value)
                .map_err(|why| format!("status.value of KeptnMetric {name}.{namespace}: {why}"))?,
        };
        let Some(value) = value else {
            let why = status["errMsg"].as_str().unwrap_or_default();
            let why = if why.is_empty() {
                String::new()
            } else {
                format!(": {}", exchange::shortened(why))
            };
            return Ok(Measurement::NoData(format!(
                "no values found in the status of KeptnMetric {name}.{namespace}{why}"
            )));
        };
        let at = status["lastUpdated"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
            .map(exchange::seconds);
        Ok(measured(request, Some(Point { value, at })))
    }
}

impl Provider for Keptn {
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

    /// Whether the object that the query names can be read. Flagger takes Keptn for always there.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let (what, path) = match Question::of(&request.query)? {
                Question::Metric { namespace, name } => (
                    format!("KeptnMetric {name}.{namespace}"),
                    format!("{}/{name}", collection(&METRIC, &namespace)),
                ),
                Question::Analysis(question) => (
                    format!("the analyses of {}", question.namespace),
                    format!("{}?limit=1", collection(&ANALYSIS, &question.namespace)),
                ),
            };
            let cluster = self.surroundings.cluster()?;
            let answer = surroundings::read(&**cluster, http, &path).await;
            answer.map(|_| ()).map_err(|error| told(&what, &error))
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
struct AnalysisQuestion {
    namespace: String,
    definition: String,
    span: String,
    arguments: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Question {
    Metric { namespace: String, name: String },
    Analysis(AnalysisQuestion),
}

impl Question {
    fn of(query: &str) -> Result<Self, String> {
        let parts = keptn_parts(query);
        let [kind, namespace, name, rest @ ..] = parts.as_slice() else {
            return Err(format!(
                "the query is {:?}; expected {FORM}",
                exchange::shortened(query)
            ));
        };
        for part in [namespace, name] {
            if !is_name(part) {
                return Err(format!(
                    "the query names {:?}, which can't be the name of an object; expected {FORM}",
                    exchange::shortened(part)
                ));
            }
        }
        let (namespace, name) = (namespace.clone(), name.clone());
        match kind.as_str() {
            "keptnmetric" | "keptnmetrics" => Ok(Self::Metric { namespace, name }),
            "analysis" | "analyses" => {
                let pairs = rest.get(1).map_or("", String::as_str).split(';');
                let arguments = pairs
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(key, value)| (key.to_owned(), Value::from(value)))
                    .collect();
                Ok(Self::Analysis(AnalysisQuestion {
                    namespace,
                    definition: name,
                    span: rest
                        .first()
                        .filter(|span| !span.is_empty())
                        .map_or_else(|| SPAN.to_owned(), Clone::clone),
                    arguments,
                }))
            }
            other => Err(format!(
                "the query begins with {:?}; expected {FORM}",
                exchange::shortened(other)
            )),
        }
    }
}

fn collection(kind: &Kind, namespace: &str) -> String {
    format!(
        "/apis/{}/namespaces/{namespace}/{}",
        kind.api_version(),
        kind.plural
    )
}

fn told(what: &str, error: &ClusterError) -> String {
    let hint = match error {
        ClusterError::Unserved(_) => " (is Keptn installed?)",
        ClusterError::Forbidden(_) => {
            " (grant it with `serin rbac --metrics-providers keptn` or the chart's rbac.metricsProviders)"
        }
        _ => "",
    };
    format!(
        "{what} can't be had{hint}: {}",
        exchange::shortened(&error.to_string())
    )
}

/// Makes an Analysis, waits for its end and removes it.
async fn analyse(
    cluster: &dyn ApiServer,
    question: &AnalysisQuestion,
    period: Duration,
    patience: Duration,
) -> Result<Measurement, String> {
    let collection = collection(&ANALYSIS, &question.namespace);
    // Names are at most 253 characters long.
    let start: String = question.definition.chars().take(240).collect();
    let name = format!(
        "{}-{:06x}",
        start.trim_end_matches(['.', '-']),
        rand::random_range(0..0x0100_0000)
    );
    let what = format!("Analysis {name}.{}", question.namespace);
    let body = json!({
        "apiVersion": ANALYSIS.api_version(),
        "kind": ANALYSIS.kind,
        "metadata": {
            "name": name,
            "namespace": question.namespace,
            "labels": {"app.kubernetes.io/managed-by": "serin"},
        },
        "spec": {
            "analysisDefinition": {"name": question.definition},
            "timeframe": {"recent": question.span},
            "args": question.arguments,
        },
    });
    cluster
        .create(&collection, &body)
        .await
        .map_err(|error| told(&what, &error))?;
    let path = format!("{collection}/{name}");
    let outcome = tokio::time::timeout(patience, outcome(cluster, &path, &what, period)).await;
    if let Err(error) = cluster.delete(&path).await
        && !matches!(error, ClusterError::Absent(_))
    {
        tracing::warn!(%error, "{what} could not be removed; remove it by hand");
    }
    outcome.unwrap_or_else(|_| Err(format!("{what} was not done within {patience:?}")))
}

async fn outcome(
    cluster: &dyn ApiServer,
    path: &str,
    what: &str,
    period: Duration,
) -> Result<Measurement, String> {
    loop {
        tokio::time::sleep(period).await;
        let found = cluster
            .get(path)
            .await
            .map_err(|error| told(what, &error))?;
        let status = &found["status"];
        if status["state"] == "Completed"
            && let Some(passed) = status["pass"].as_bool()
        {
            return Ok(Measurement::Value(if passed { 1.0 } else { 0.0 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_metric_or_an_analysis() {
        assert_eq!(
            Question::of(" KeptnMetric/Shop/latency\n"),
            Ok(Question::Metric {
                namespace: "shop".to_owned(),
                name: "latency".to_owned(),
            })
        );
        let analysis = Question::of("analysis/shop/web/5m/project=a;stage=b;odd")
            .unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            analysis,
            Question::Analysis(AnalysisQuestion {
                namespace: "shop".to_owned(),
                definition: "web".to_owned(),
                span: "5m".to_owned(),
                arguments: [("project", "a"), ("stage", "b")]
                    .map(|(key, value)| (key.to_owned(), Value::from(value)))
                    .into_iter()
                    .collect(),
            })
        );
        assert!(matches!(
            Question::of("analyses/shop/web"),
            Ok(Question::Analysis(AnalysisQuestion { span, .. })) if span == "1m"
        ));
        for wrong in [
            "",
            "keptnmetric/shop",
            "secret/shop/x",
            "keptnmetric/shop/..",
            "keptnmetric/a b/c",
        ] {
            let why = Question::of(wrong).err().unwrap_or_default();
            assert!(why.contains(FORM), "{wrong}: {why}");
        }
    }
}
