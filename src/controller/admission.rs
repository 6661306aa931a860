//! The admission webhook: the API server asks it about objects of ours before it keeps them. What can never
//! work is denied, with field, value and what would be right; what is only doubtful is a warning. It knows no more than `serin lint` does
//! ([`super::review`]) and reads nothing of the cluster, so any replica can answer.

use super::review::{self, Remark, ReviewSettings};
use super::tls::{self, Certificate, TlsListener};
use super::{ControllerError, Options};
use crate::api::validation::ProblemSeverity;
use crate::api::{AlertProvider, Canary, DecodeError, MetricTemplate};
use crate::object::Reading;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Largest review that is read, in bytes: two objects of the greatest size that etcd keeps, and what is around them.
const LARGEST: usize = 8 * 1024 * 1024;
/// Longest text of a denial in characters.
const LONGEST: usize = 4000;
/// Most warnings of one answer, and the longest of each; the API server cuts what is longer than that in all.
const MOST_WARNINGS: usize = 10;
const LONGEST_WARNING: usize = 250;

/// Where and how the webhook is served.
#[derive(Clone, Debug)]
pub struct AdmissionOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Folder with `tls.crt` and `tls.key`, as a mounted Secret of type `kubernetes.io/tls` has them.
    pub certificates: PathBuf,
}

/// What it goes by.
#[derive(Debug)]
struct Rules {
    settings: ReviewSettings,
    /// Namespaces that are watched; empty for all.
    namespaces: Vec<String>,
}

/// Listens where that is asked for, and serves until `stop`.
pub(super) async fn start(
    options: &Options,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    let rules = Arc::new(Rules {
        settings: ReviewSettings {
            mesh_provider: options.settings.mesh_provider.clone(),
            no_cross_namespace_refs: options.settings.no_cross_namespace_refs,
            refuse_unsupported: options.settings.routing.refuse_unsupported,
        },
        namespaces: options.namespaces.clone(),
    });
    let Some(options) = &options.admission else {
        return Ok(());
    };
    let certificate = Certificate::follow(&options.certificates, stop.clone()).map_err(|why| {
        ControllerError::Certificate(options.certificates.display().to_string(), why)
    })?;
    let unheard = |error| ControllerError::Listen(options.listen, error);
    let settings = tls::settings(certificate)
        .map_err(io::Error::other)
        .map_err(unheard)?;
    let listener = TlsListener::bind(options.listen, settings)
        .await
        .map_err(unheard)?;
    let router = Router::new()
        .route("/validate", post(answer))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(rules);
    tracing::info!(listen = %options.listen, "the admission webhook is served");
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
        {
            tracing::error!(%error, "the admission webhook ended");
        }
    });
    Ok(())
}

async fn answer(
    State(rules): State<Arc<Rules>>,
    Json(review): Json<Value>,
) -> Result<Json<Value>, (StatusCode, &'static str)> {
    let request = &review["request"];
    let Some(uid) = request["uid"].as_str() else {
        return Err((
            StatusCode::BAD_REQUEST,
            "expected an AdmissionReview of admission.k8s.io/v1 with a request",
        ));
    };
    let remarks = rules.look(request);
    let response = respond(uid, &remarks);
    if response["allowed"] == false {
        tracing::info!(
            kind = request["kind"]["kind"].as_str(),
            namespace = request["namespace"].as_str(),
            name = request["name"].as_str(),
            why = response["status"]["message"].as_str(),
            "denied"
        );
    }
    Ok(Json(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    })))
}

impl Rules {
    /// What there is to say of the object in a request.
    fn look(&self, request: &Value) -> Vec<Remark> {
        let object = &request["object"];
        let namespace = request["namespace"].as_str().unwrap_or_default();
        let mine =
            self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace);
        // What is on its way out, or says nothing new, must get through whatever it says: finalizers, annotations, words of people.
        let leaving = !object["metadata"]["deletionTimestamp"].is_null();
        let unchanged =
            !request["oldObject"].is_null() && request["oldObject"]["spec"] == object["spec"];
        if !mine || leaving || unchanged || !object.is_object() {
            return Vec::new();
        }
        let mut object = object.clone();
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        // The API server has no name yet for one that it is to find a name for.
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = json!("name-to-come");
        }
        let found = match request["kind"]["kind"].as_str() {
            Some(Canary::KIND) => Canary::decode(&object).map(|canary| {
                // What it refers to may come later: it is not looked at.
                let unknown = |_: &_| Reading::Unknown("not looked at".to_owned());
                review::of_canary(&canary, &self.settings, &unknown)
            }),
            Some(MetricTemplate::KIND) => {
                MetricTemplate::decode(&object).map(|template| review::of_template(&template))
            }
            Some(AlertProvider::KIND) => {
                AlertProvider::decode(&object).map(|provider| review::of_provider(&provider))
            }
            _ => Ok(Vec::new()),
        };
        found.unwrap_or_else(|error| vec![undecodable(error)])
    }
}

fn undecodable(error: DecodeError) -> Remark {
    Remark {
        severity: ProblemSeverity::Error,
        rule: "schema",
        field: error.path,
        message: error.message,
        place: None,
    }
}

fn respond(uid: &str, remarks: &[Remark]) -> Value {
    let line = |remark: &Remark| format!("{}: {}", remark.field, remark.message);
    let (errors, warnings): (Vec<&Remark>, Vec<&Remark>) = remarks
        .iter()
        .partition(|remark| remark.severity == ProblemSeverity::Error);
    let warnings: Vec<String> = warnings
        .into_iter()
        .take(MOST_WARNINGS)
        .map(|remark| shortened(&line(remark), LONGEST_WARNING))
        .collect();
    let mut response = json!({"uid": uid, "allowed": errors.is_empty()});
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    if !errors.is_empty() {
        let lines: Vec<String> = errors.into_iter().map(line).collect();
        response["status"] = json!({
            "code": 422,
            "reason": "Invalid",
            "message": shortened(&lines.join("; "), LONGEST),
        });
    }
    response
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let head: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{head}…")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rules(namespaces: &[&str]) -> Rules {
        Rules {
            settings: ReviewSettings {
                mesh_provider: "gatewayapi:v1".to_owned(),
                no_cross_namespace_refs: true,
                refuse_unsupported: false,
            },
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn canary(change: impl FnOnce(&mut Value)) -> Value {
        let mut canary = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "service": {"port": 80, "gatewayRefs": [{"name": "gateway"}]},
                "analysis": {
                    "interval": "1m", "threshold": 5, "stepWeight": 10,
                    "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}],
                },
            },
        });
        change(&mut canary);
        canary
    }

    fn request(kind: &str, object: &Value) -> Value {
        json!({"uid": "u", "kind": {"kind": kind}, "namespace": "shop", "operation": "CREATE", "object": object})
    }

    fn said(object: &Value) -> Value {
        respond("u", &rules(&[]).look(&request("Canary", object)))
    }

    #[test]
    fn a_good_canary_passes_without_a_word() {
        assert_eq!(said(&canary(|_| ())), json!({"uid": "u", "allowed": true}));
    }

    #[test]
    fn what_can_never_work_is_denied_with_field_value_and_what_would_be_right() {
        for (pointer, value, words) in [
            (
                "/spec/analysis/stepWeight",
                json!(10.5),
                "spec.analysis.stepWeight",
            ),
            (
                "/spec/provider",
                json!("nonesuch"),
                "spec.provider: nonesuch",
            ),
            (
                "/spec/analysis/metrics/0/thresholdRange/min",
                json!(999),
                "thresholdRange.min: 999: a success rate is a percentage",
            ),
            (
                "/spec/analysis/alerts",
                json!([{"name": "a", "providerRef": {"name": "x", "namespace": "else"}}]),
                "spec.analysis.alerts[0].providerRef.namespace",
            ),
        ] {
            let bad = canary(|canary| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                canary.pointer_mut(parent).unwrap()[key] = value;
            });
            let response = said(&bad);
            assert_eq!(response["allowed"], false, "{pointer}: {response}");
            assert_eq!(response["status"]["code"], 422);
            let message = response["status"]["message"].as_str().unwrap();
            assert!(message.contains(words), "{pointer}: {message}");
        }
    }

    #[test]
    fn what_is_doubtful_is_a_warning() {
        let doubtful = canary(|canary| {
            canary["spec"]["analysis"]["metrics"][0]["thresholdRange"]["min"] = json!(0.99);
        });
        let response = said(&doubtful);
        assert_eq!(response["allowed"], true);
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(warning.contains("did you mean 99?"), "{warning}");
    }

    #[test]
    fn a_template_that_is_not_there_yet_may_come_later() {
        let early = canary(|canary| {
            canary["spec"]["analysis"]["metrics"] = json!([{"name": "errors", "templateRef": {"name": "errors"}, "thresholdRange": {"max": 1}}]);
        });
        assert_eq!(said(&early)["allowed"], true);
    }

    #[test]
    fn what_leaves_says_nothing_new_or_is_not_ours_gets_through() {
        let bad = canary(|canary| canary["spec"]["provider"] = json!("nonesuch"));
        let mut update = request("Canary", &bad);
        update["operation"] = json!("UPDATE");
        update["oldObject"] = canary(|_| ());
        assert!(!rules(&[]).look(&update).is_empty());
        // A word by annotation on a canary that was bad before.
        update["oldObject"] = bad.clone();
        assert_eq!(rules(&[]).look(&update), []);
        // The finalizer of one that goes.
        let mut leaving = request("Canary", &bad);
        leaving["object"]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(rules(&[]).look(&leaving), []);
        // Another controller's namespace.
        assert_eq!(rules(&["other"]).look(&request("Canary", &bad)), []);
        assert!(!rules(&["shop"]).look(&request("Canary", &bad)).is_empty());
        // A deletion has no object.
        let mut deletion = request("Canary", &bad);
        deletion["object"] = Value::Null;
        assert_eq!(rules(&[]).look(&deletion), []);
    }

    #[test]
    fn templates_and_alert_providers_are_looked_at_too() {
        let template = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": "a"},
            "spec": {"provider": {"type": "prometheus", "address": "http://p:9090"}, "query": "sum({{ target }"},
        });
        let response = respond("u", &rules(&[]).look(&request("MetricTemplate", &template)));
        assert_eq!(response["allowed"], false, "{response}");
        let provider = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider", "metadata": {"name": "a"},
            "spec": {"type": "slack", "address": "hooks.slack.com/s3cret"},
        });
        let response = respond("u", &rules(&[]).look(&request("AlertProvider", &provider)));
        assert_eq!(response["allowed"], false);
        assert!(!response.to_string().contains("s3cret"), "{response}");
    }

    #[tokio::test]
    async fn what_is_no_review_is_refused() {
        let state = State(Arc::new(rules(&[])));
        let wrong = answer(state, Json(json!({"kind": "Pod"}))).await;
        assert_eq!(wrong.unwrap_err().0, StatusCode::BAD_REQUEST);
    }
}
