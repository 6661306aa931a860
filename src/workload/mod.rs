//! Workloads: what the primary looks like when it is made from the target, when a workload is ready, how it is scaled, and the
//! Services, autoscalers and tracked configs beside it. One file for each target kind. Everything is pure: objects in,
//! objects or writes out.
//!
//! ```text
//!   target ──(template, labels, rollout fields)──▶ <target>-primary      Services: apex, -primary, -canary
//!     │                                                                  autoscaler: <name>-primary
//!     └─(template) ──▶ revision hash ──▶ ControllerRevision              configs: <name>-primary
//! ```

use crate::api::{Canary, TargetKind};
use crate::object::{Object, ObjectRef, Write};
use crate::routing::Revisions;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// The settings of the controller that concern workloads (Flagger's flags of the same names).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSettings {
    /// `-selector-labels`, in order.
    pub selector_labels: Vec<String>,
    /// `-include-label-prefix`; `*` stands for all.
    pub include_label_prefix: Vec<String>,
    /// `-enable-config-tracking`.
    pub config_tracking: bool,
}

impl Default for WorkloadSettings {
    fn default() -> Self {
        Self {
            selector_labels: ["app", "name", "app.kubernetes.io/name"]
                .map(str::to_owned)
                .to_vec(),
            include_label_prefix: Vec::new(),
            config_tracking: true,
        }
    }
}

/// The label that tells the pods of the two sides apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SelectorLabel {
    /// Its key, one of `selector_labels`.
    pub key: String,
    /// Its value on the target's pods; the primary's pods carry it with `-primary` appended.
    pub value: String,
}

impl SelectorLabel {
    /// The value on the primary's pods.
    #[must_use]
    pub fn primary_value(&self) -> String {
        format!("{}-primary", self.value)
    }
}

/// One port of the generated Services.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DiscoveredPort {
    /// Port name.
    pub name: String,
    /// Port and target port.
    pub port: i64,
}

/// Whether a workload carries its pods as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Enough updated pods are available.
    Ready,
    /// Not yet. `deadline` is the moment at which waiting becomes failing, where the workload's own conditions tell.
    Waiting {
        /// Flagger's text, for example `waiting for rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available`.
        message: String,
    },
    /// It will not become ready by itself any more: past its progress deadline.
    Failed {
        /// Flagger's text.
        message: String,
    },
}

impl Readiness {
    /// Whether enough pods are available.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// What is missing; empty when ready.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Ready => "",
            Self::Waiting { message } | Self::Failed { message } => message,
        }
    }
}

/// What readiness is judged by.
#[derive(Clone, Copy, Debug)]
pub struct ReadinessRule {
    /// Percent of the updated pods that must be available (`primaryReadyThreshold`, `canaryReadyThreshold`).
    pub threshold: i64,
    /// `progressDeadlineSeconds` of the canary.
    pub progress_deadline: SignedDuration,
    /// Since when the revision at hand is being waited for: the deadline runs from the later of this and the workload's own clock.
    pub since: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// Why a workload can't be worked with. The texts name the object, the field and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// The target lacks something or has a shape that can't be cloned.
    #[error("{object}: {problem}")]
    Unfit {
        /// Which object.
        object: Box<ObjectRef>,
        /// What was found and what would be right.
        problem: String,
    },
    /// A primary or copy of that name exists and belongs to somebody else.
    #[error(
        "{object} is controlled by {owner}; Serin does not touch it. Rename the target or remove the object"
    )]
    Foreign {
        /// Which object.
        object: Box<ObjectRef>,
        /// Its controller.
        owner: String,
    },
}

impl WorkloadError {
    pub(crate) fn unfit(object: ObjectRef, problem: impl Into<String>) -> Self {
        Self::Unfit {
            object: Box::new(object),
            problem: problem.into(),
        }
    }
}

/// What a primary is made from.
#[derive(Clone, Debug)]
pub struct PrimaryRequest<'a> {
    /// The canary.
    pub canary: &'a Canary,
    /// The live target: rollout fields, labels and annotations come from it.
    pub target: &'a Object,
    /// The pod template that the primary shall run: the one kept in the `ControllerRevision`, not necessarily the target's.
    pub template: &'a Value,
    /// Replicas of the primary; `None` leaves them to an autoscaler or as they are.
    pub replicas: Option<i64>,
    /// Renames of tracked configs: (`ConfigMap` or `Secret`, name) to the copy's name.
    pub renamed_configs: &'a BTreeMap<(String, String), String>,
    /// Value of the annotation `flagger-id` on the primary's pods, see [`flagger_id`].
    pub flagger_id: &'a str,
    /// The selector label of the target.
    pub selector: &'a SelectorLabel,
    /// Settings.
    pub settings: &'a WorkloadSettings,
}

/// What stands on the two sides, and who makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Workloads with pods: the target, which is scaled, and a primary that is made from it; Services select their pods.
    Pods,
    /// Clones of a Service. The pods behind it are somebody else's.
    Clones,
    /// Revisions that the target's own controller makes, scales and keeps. They are there already; routes name them.
    Revisions,
}

/// One kind of target. Implementations have no state.
pub trait Target: Send + Sync {
    /// `Deployment`, `DaemonSet`, `Service`.
    fn kind(&self) -> &'static str;
    /// The target of this canary.
    fn target(&self, canary: &Canary) -> ObjectRef;
    /// The primary of this canary.
    fn primary(&self, canary: &Canary) -> ObjectRef;
    /// What stands on the two sides.
    fn sides(&self) -> Sides {
        Sides::Pods
    }
    /// Whether the sides are workloads with pods.
    fn has_pods(&self) -> bool {
        self.sides() == Sides::Pods
    }
    /// The objects whose readiness speaks for the primary and for the canary, where the status names these revisions.
    fn carriers(
        &self,
        canary: &Canary,
        _target: &Object,
        _revisions: Revisions<'_>,
    ) -> (ObjectRef, ObjectRef) {
        (self.primary(canary), self.target(canary))
    }
    /// Name of the object that keeps a revision, by its hash or by what is kept of it.
    fn keeper(&self, canary: &Canary, hash: &str, _template: &Value) -> String {
        revision::object_ref(canary, hash).name
    }
    /// The label by which the two sides are told apart; an error names the labels that were looked for.
    fn selector(
        &self,
        target: &Object,
        settings: &WorkloadSettings,
    ) -> Result<SelectorLabel, WorkloadError>;
    /// Ports that `portDiscovery` finds (chapter 2.3 of Flagger's behaviour).
    fn ports(&self, target: &Object, canary: &Canary) -> Vec<DiscoveredPort>;
    /// What is kept of a revision: the raw pod template without what Serin itself writes into it (scale-to-zero selector).
    fn template(&self, target: &Object) -> Value;
    /// The primary as Serin wants it: exactly the fields that Serin owns, ready for server-side apply.
    fn desired_primary(&self, request: &PrimaryRequest<'_>) -> Result<Object, WorkloadError>;
    /// Whether `workload` (target or primary) is ready.
    fn readiness(&self, workload: &Object, rule: &ReadinessRule) -> Readiness;
    /// Whether `primary` runs what is kept of the target: by this a canary that comes over from Flagger is adopted without a run.
    fn runs(
        &self,
        primary: &Object,
        template: &Value,
        target: &str,
        selector: &SelectorLabel,
    ) -> bool {
        runs_template(primary.at("/spec/template"), template, target, selector)
    }
    /// What is kept of the revision that `primary` was found to run; `None` where that can't be told.
    fn found_template(&self, primary: &Object, selector: &SelectorLabel) -> Option<Value> {
        Some(found_template(self.template(primary), selector))
    }
    /// How many replicas `workload` asks for now.
    fn replicas(&self, workload: &Object) -> i64;
    /// Whether a primary that takes over the target's rollout fields and a new template may be without a single old or new pod for a
    /// while: all its pods are replaced at once.
    fn rolls_dark(&self, target: &Object, primary: &Object) -> bool;
    /// The write that scales `workload`, or nothing where it has that scale. For a `DaemonSet` 0 is the scale-to-zero node
    /// selector and anything else removes it.
    fn scale(&self, workload: &Object, replicas: i64) -> Option<Write>;
    /// How many replicas the target gets when it is scaled up from zero (chapter 2.10).
    fn replicas_from_zero(
        &self,
        canary: &Canary,
        target: &Object,
        primary: Option<&Object>,
        autoscaler: Option<&Object>,
    ) -> i64;
}

/// Which way a percentage of pods is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// As for pods that may be missing from a Deployment.
    Down,
    /// As for pods that may be there beside.
    Up,
}

/// A number of pods that is given as such or in percent; `None` where it is not given.
pub(crate) fn share_of(given: &Value, pods: i64, rounding: Rounding) -> Option<i64> {
    if let Some(number) = given.as_i64() {
        return Some(number);
    }
    let percent: i64 = given.as_str()?.strip_suffix('%')?.parse().ok()?;
    let hundredths = percent.saturating_mul(pods);
    Some(match rounding {
        Rounding::Down => hundredths / 100,
        Rounding::Up => hundredths.saturating_add(99) / 100,
    })
}

/// The hash of a revision: `s1:` and the SHA-256 of the canonical JSON of the template, by which Serin tells revisions apart.
#[must_use]
pub fn revision_hash(template: &Value) -> String {
    format!("s1:{}", &crate::object::digest(template)[..32])
}

pub mod autoscaler;
pub mod configs;
mod daemon_set;
mod deployment;
pub mod knative;
mod metadata;
mod ownership;
mod pod_template;
pub mod pods;
pub mod revision;
pub mod service_target;
pub mod services;

pub use ownership::refuse_foreign;
pub use pod_template::flagger_id;
use pod_template::{found_template, runs_template};

/// The target kind of a canary, by `spec.targetRef.kind` of a workload that has pods.
#[must_use]
pub fn target_kind(kind: &str) -> Option<&'static dyn Target> {
    match kind {
        "Deployment" => Some(&deployment::Deployments),
        "DaemonSet" => Some(&daemon_set::DaemonSets),
        _ => None,
    }
}

/// The target kind of a canary. Unlike [`target_kind`] it knows Services, and tells core ones from Knative's by the API group.
#[must_use]
pub fn target_of(canary: &Canary) -> &'static dyn Target {
    match canary.spec.target_ref.target_kind() {
        TargetKind::Deployment => &deployment::Deployments,
        TargetKind::DaemonSet => &daemon_set::DaemonSets,
        TargetKind::Service => &service_target::ServiceTargets,
        TargetKind::Knative => &knative::KnativeServices,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
