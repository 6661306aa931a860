//! A Knative Service as the target. Knative makes a Revision of each template, never changes it again, scales it and keeps it; so there is
//! nothing to clone, to scale or to keep here. The two sides are Revisions of the one Service, and to promote is to name another.
//!
//! ```text
//! Service podinfo ──(its template)──▶ Revision podinfo-00002     the canary: what is judged, the latest while nothing is
//!                 ──(annotation)────▶ Revision podinfo-00001     the primary: what was promoted last
//! ```

use crate::api::Canary;
use crate::object::{Object, ObjectRef, Reading, Write, kinds};
use crate::routing::{Revisions, knative::primary_of};
use crate::workload::ownership::beside;
use crate::workload::{
    DiscoveredPort, PrimaryRequest, Readiness, ReadinessRule, SelectorLabel, Sides, Target,
    WorkloadError, WorkloadSettings,
};
use serde_json::{Value, json};

/// Knative Services.
pub(super) struct KnativeServices;

/// A Revision by Knative's own field: the one that it made last.
const LATEST: &str = "/status/latestCreatedRevisionName";

impl Target for KnativeServices {
    fn kind(&self) -> &'static str {
        "Service"
    }

    fn target(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::KNATIVE_SERVICE, canary.target_name())
    }

    /// It lives in the target.
    fn primary(&self, canary: &Canary) -> ObjectRef {
        self.target(canary)
    }

    fn sides(&self) -> Sides {
        Sides::Revisions
    }

    fn carriers(
        &self,
        canary: &Canary,
        target: &Object,
        revisions: Revisions<'_>,
    ) -> (ObjectRef, ObjectRef) {
        let latest = target.text(LATEST);
        let primary = revisions.primary.or_else(|| primary_of(target));
        let revision =
            |name: Option<&str>| beside(canary, &kinds::KNATIVE_REVISION, name.unwrap_or(latest));
        (revision(primary), revision(revisions.canary))
    }

    fn keeper(&self, _: &Canary, _: &str, template: &Value) -> String {
        template["revision"].as_str().unwrap_or_default().to_owned()
    }

    /// An empty label: the sides are told apart by their names. A Service of which Knative has made nothing yet has no sides.
    fn selector(
        &self,
        target: &Object,
        _: &WorkloadSettings,
    ) -> Result<SelectorLabel, WorkloadError> {
        if target.text(LATEST).is_empty() {
            let object = kinds::KNATIVE_SERVICE.named(target.namespace(), target.name());
            let problem = "status.latestCreatedRevisionName is empty; Knative makes a Revision of the template first";
            return Err(WorkloadError::unfit(object, problem));
        }
        Ok(SelectorLabel {
            key: String::new(),
            value: String::new(),
        })
    }

    fn ports(&self, _: &Object, _: &Canary) -> Vec<DiscoveredPort> {
        Vec::new()
    }

    /// The Revision by its name: Knative keeps what it says and lets nobody change it.
    fn template(&self, target: &Object) -> Value {
        revision_of(target.text(LATEST))
    }

    fn desired_primary(&self, request: &PrimaryRequest<'_>) -> Result<Object, WorkloadError> {
        let problem = "its Revisions are made by Knative; there is no primary to make";
        Err(WorkloadError::unfit(self.target(request.canary), problem))
    }

    /// By the Revision's condition `Ready`. What Knative calls failed may still come up, when a node joins or an image arrives, until the
    /// deadline of the canary; past Knative's own it does not.
    fn readiness(&self, revision: &Object, _: &ReadinessRule) -> Readiness {
        let name = revision.name();
        match ready(revision) {
            Some((true, ..)) => Readiness::Ready,
            Some((false, "ProgressDeadlineExceeded", message)) => Readiness::Failed {
                message: format!("revision {name}: {message}"),
            },
            Some((false, reason, message)) => Readiness::Waiting {
                message: format!("revision {name}: {reason}: {message}"),
            },
            None => Readiness::Waiting {
                message: format!("waiting for Knative to call the revision {name} ready"),
            },
        }
    }

    fn found_template(&self, primary: &Object, _: &SelectorLabel) -> Option<Value> {
        Some(revision_of(primary.name()))
    }

    fn runs(&self, primary: &Object, template: &Value, _: &str, _: &SelectorLabel) -> bool {
        template["revision"] == primary.name()
    }

    /// Knative scales.
    fn replicas(&self, _: &Object) -> i64 {
        0
    }

    fn rolls_dark(&self, _: &Object, _: &Object) -> bool {
        false
    }

    fn scale(&self, _: &Object, _: i64) -> Option<Write> {
        None
    }

    fn replicas_from_zero(
        &self,
        _: &Canary,
        _: &Object,
        _: Option<&Object>,
        _: Option<&Object>,
    ) -> i64 {
        0
    }
}

/// What is kept of a revision.
fn revision_of(name: &str) -> Value {
    json!({"revision": name})
}

/// What a Revision says of itself: whether it is ready, with reason and message; `None` where Knative has not made up its mind.
fn ready(revision: &Object) -> Option<(bool, &str, &str)> {
    let condition = revision
        .at("/status/conditions")
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == "Ready")?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    match text("status") {
        "True" => Some((true, "", "")),
        "False" => Some((false, text("reason"), text("message"))),
        _ => None,
    }
}

/// Whether a Revision answers requests. A ready one does with pods and without: a request to one without pods waits until there are some.
/// An error where that can't be known.
pub fn answers(name: &ObjectRef, revision: &Reading) -> Result<bool, String> {
    match revision {
        Reading::Unknown(why) => Err(format!("{name} can't be read: {why}")),
        Reading::Absent => Ok(false),
        Reading::Present(revision) => ready(revision)
            .map(|(ready, ..)| ready)
            .ok_or_else(|| format!("{name} is neither ready nor failed")),
    }
}
