//! Defects put in on purpose, as wrappers around what a replica reads, decides and writes, so that production code stays clean. Each must be
//! caught by an invariant within a few hundred histories; one that is not shows a blind spot of the simulation.

use super::NAMESPACE;
use super::workloads::CONFIG;
use super::world::World;
use crate::api::{Canary, CanaryStatus, Phase, RunWeights};
use crate::object::{Expect, Object, ObjectRef, Patch, Reading, Write, kinds};
use crate::rollout::Decision;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::sync::Arc;

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The drain before the scale-down is left out.
    NoDrain,
    /// Pods go before the route is changed.
    ScaleBeforeRoute,
    /// The live template is promoted, not the kept one (Flagger's A4).
    PromoteLive,
    /// A deleted primary is rebuilt from the target (Flagger's A14).
    RebuildFromTarget,
    /// The status is written after its effects (Flagger's A17).
    StatusLast,
    /// The status is written without its version.
    StatusUnguarded,
    /// Writes go without their guards.
    WritesUnguarded,
    /// A failed check counts twice.
    DoubleFailure,
    /// A step is taken twice as fast.
    ImpatientSteps,
    /// A step skips the next one.
    SkipStep,
    /// A failed run is promoted.
    PromoteFailed,
    /// A rollback leaves the route as it is.
    RollbackKeepsRoute,
    /// A rollback leaves the target's pods.
    RollbackKeepsPods,
    /// The weights sum to more than 100.
    WeightsOverflow,
    /// The route forgets one backend's Service name.
    WrongBackend,
    /// A failed promotion goes back to the broken primary (Flagger's A1).
    PromotionFailureToPrimary,
    /// The target is scaled to zero while the primary is not ready (Flagger's A2, A15).
    ScaleWithoutPrimary,
    /// A new revision is recorded as seen before it is acted upon (Flagger's A3).
    SeenTooEarly,
    /// A change of the target in mid-run is not noticed (Flagger's A9).
    IgnoreChange,
    /// The endpoints of the canary are taken for ready.
    BlindToEndpoints,
    /// A lost side is not diverted.
    NoDivert,
    /// Foreign annotations are wiped.
    WipeAnnotations,
    /// The target is written whole.
    WriteTargetWhole,
    /// A drift of weights is left.
    IgnoreDrift,
    /// A run says Succeeded when it begins to finalise.
    SucceededTooEarly,
    /// `canaryWeight` in the status is not what the route carries.
    WrongReport,
    /// The reason of a phase is not said.
    Silent,
    /// The same thing is told at every pass.
    Chatty,
    /// The canary is never woken by its own deadlines.
    NoAlarm,
    /// The primary is scaled down with the target.
    ScalePrimaryToo,
    /// The promoted revision is not recorded.
    ForgetPromoted,
    /// A failed run begins again at once.
    RestartFailed,
    /// The observed generation is not updated.
    StaleGeneration,
    /// A mirrored step is never followed by another one (Flagger's A5).
    MirrorForever,
    /// A promotion at weight 0 goes no further (Flagger's A6).
    StuckAtZero,
    /// A step goes straight to 100 % (Flagger's A7).
    JumpToTop,
    /// Nothing leads out of Waiting (Flagger's A11).
    StuckWaiting,
    /// A write that failed is not tried again (Flagger's A12).
    NoRetry,
    /// The primary gets a new template although its revision is the same (Flagger's A18).
    RestartPrimary,
    /// The route is written at every pass (Flagger's R1, R11).
    RewriteRoute,
    /// A split that somebody edited is set back to the start of the run (Flagger's R2).
    ResetOnDrift,
    /// The finalizer stays for ever (Flagger's R3).
    NeverReleased,
    /// The finalizer goes before the target is back (Flagger's R3).
    ReleasedAtOnce,
    /// The match of an A/B test is forgotten (Flagger's R4).
    OpenAb,
    /// A weight of 0 is left out, so that it is 1 (Flagger's R5).
    OmittedZero,
    /// A promotion leaves the primary with its old config (Flagger's C).
    ConfigNotCopied,
    /// The primary gets a copy of the config as it is, judged or not (Flagger's A4, C).
    ConfigLive,
    /// A change of a config is no new revision (Flagger's C).
    ConfigIgnored,
}

/// All of them.
pub const MUTANTS: [Mutant; 48] = [
    Mutant::NoDrain,
    Mutant::ScaleBeforeRoute,
    Mutant::PromoteLive,
    Mutant::RebuildFromTarget,
    Mutant::StatusLast,
    Mutant::StatusUnguarded,
    Mutant::WritesUnguarded,
    Mutant::DoubleFailure,
    Mutant::ImpatientSteps,
    Mutant::SkipStep,
    Mutant::PromoteFailed,
    Mutant::RollbackKeepsRoute,
    Mutant::RollbackKeepsPods,
    Mutant::WeightsOverflow,
    Mutant::WrongBackend,
    Mutant::PromotionFailureToPrimary,
    Mutant::ScaleWithoutPrimary,
    Mutant::SeenTooEarly,
    Mutant::IgnoreChange,
    Mutant::BlindToEndpoints,
    Mutant::NoDivert,
    Mutant::WipeAnnotations,
    Mutant::WriteTargetWhole,
    Mutant::IgnoreDrift,
    Mutant::SucceededTooEarly,
    Mutant::WrongReport,
    Mutant::Silent,
    Mutant::Chatty,
    Mutant::NoAlarm,
    Mutant::ScalePrimaryToo,
    Mutant::ForgetPromoted,
    Mutant::RestartFailed,
    Mutant::StaleGeneration,
    Mutant::MirrorForever,
    Mutant::StuckAtZero,
    Mutant::JumpToTop,
    Mutant::StuckWaiting,
    Mutant::NoRetry,
    Mutant::RestartPrimary,
    Mutant::RewriteRoute,
    Mutant::ResetOnDrift,
    Mutant::NeverReleased,
    Mutant::ReleasedAtOnce,
    Mutant::OpenAb,
    Mutant::OmittedZero,
    Mutant::ConfigNotCopied,
    Mutant::ConfigLive,
    Mutant::ConfigIgnored,
];

impl Mutant {
    /// The defect in one sentence, and which of Flagger's (chapter 9.2 of the reference) it stands for, if for one.
    #[must_use]
    pub fn meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::NoDrain => ("The drain before the scale-down is left out", ""),
            Self::ScaleBeforeRoute => ("Pods go before the route is changed", ""),
            Self::PromoteLive => ("The live template is promoted, not the kept one", "A4"),
            Self::RebuildFromTarget => ("A deleted primary is rebuilt from the target", "A14"),
            Self::StatusLast => ("The status is written after its effects", "A17"),
            Self::StatusUnguarded => ("The status is written without its version", ""),
            Self::WritesUnguarded => ("Writes go without their guards", ""),
            Self::DoubleFailure => ("A failed check counts twice", ""),
            Self::ImpatientSteps => ("A step is taken twice as fast", ""),
            Self::SkipStep => ("A step skips the next one", ""),
            Self::PromoteFailed => ("A failed run is promoted", ""),
            Self::RollbackKeepsRoute => ("A rollback leaves the route as it is", ""),
            Self::RollbackKeepsPods => ("A rollback leaves the target's pods", ""),
            Self::WeightsOverflow => ("The weights sum to more than 100", ""),
            Self::WrongBackend => ("The route forgets one backend's Service name", ""),
            Self::PromotionFailureToPrimary => {
                ("A failed promotion goes back to the broken primary", "A1")
            }
            Self::ScaleWithoutPrimary => (
                "The target is scaled to zero while the primary is not ready",
                "A2, A15",
            ),
            Self::SeenTooEarly => (
                "A new revision is recorded as seen before it is acted upon",
                "A3",
            ),
            Self::IgnoreChange => ("A change of the target in mid-run is not noticed", "A9"),
            Self::BlindToEndpoints => ("The endpoints of the canary are taken for ready", ""),
            Self::NoDivert => ("A lost side is not diverted", ""),
            Self::WipeAnnotations => ("Foreign annotations are wiped", ""),
            Self::WriteTargetWhole => ("The target is written whole", ""),
            Self::IgnoreDrift => ("A drift of weights is left", ""),
            Self::SucceededTooEarly => ("A run says Succeeded when it begins to finalise", ""),
            Self::WrongReport => (
                "`canaryWeight` in the status is not what the route carries",
                "",
            ),
            Self::Silent => ("The reason of a phase is not said", ""),
            Self::Chatty => ("The same thing is told at every pass", ""),
            Self::NoAlarm => ("The canary is never woken by its own deadlines", ""),
            Self::ScalePrimaryToo => ("The primary is scaled down with the target", ""),
            Self::ForgetPromoted => ("The promoted revision is not recorded", ""),
            Self::RestartFailed => ("A failed run begins again at once", ""),
            Self::StaleGeneration => ("The observed generation is not updated", ""),
            Self::MirrorForever => ("A mirrored step is never followed by another one", "A5"),
            Self::StuckAtZero => ("A promotion at weight 0 goes no further", "A6"),
            Self::JumpToTop => ("A step goes straight to 100 %", "A7"),
            Self::StuckWaiting => ("Nothing leads out of Waiting", "A11"),
            Self::NoRetry => ("A write that failed is not tried again", "A12"),
            Self::RestartPrimary => (
                "The primary gets a new template although its revision is the same",
                "A18",
            ),
            Self::RewriteRoute => ("The route is written at every pass", "R1, R11"),
            Self::ResetOnDrift => (
                "A split that somebody edited is set back to the start of the run",
                "R2",
            ),
            Self::NeverReleased => ("The finalizer stays for ever", "R3"),
            Self::ReleasedAtOnce => ("The finalizer goes before the target is back", "R3"),
            Self::OpenAb => ("The match of an A/B test is forgotten", "R4"),
            Self::OmittedZero => ("A weight of 0 is left out, so that it is 1", "R5"),
            Self::ConfigNotCopied => ("A promotion leaves the primary with its old config", "C"),
            Self::ConfigLive => (
                "The primary gets a copy of the config as it is, judged or not",
                "A4, C",
            ),
            Self::ConfigIgnored => ("A change of a config is no new revision", "C"),
        }
    }
}

fn deployment(name: &str) -> ObjectRef {
    kinds::DEPLOYMENT.named(NAMESPACE, name)
}

fn scale_to(name: &str, replicas: i64) -> Write {
    Write::Patch {
        target: deployment(name),
        patch: Patch::Merge(json!({"spec": {"replicas": replicas}})),
        expect: Expect::Any,
    }
}

fn stage(status: &CanaryStatus) -> &str {
    status.run.as_ref().map_or("", |run| &run.stage)
}

impl Mutant {
    /// Writes the status after the effects.
    #[must_use]
    pub fn status_last(self) -> bool {
        self == Self::StatusLast
    }

    /// Writes the status whatever its version.
    #[must_use]
    pub fn status_unguarded(self) -> bool {
        self == Self::StatusUnguarded
    }

    /// Gives up after a write that failed.
    #[must_use]
    pub fn gives_up(self) -> bool {
        self == Self::NoRetry
    }

    /// Writes objects whatever their versions.
    #[must_use]
    pub fn writes_unguarded(self) -> bool {
        self == Self::WritesUnguarded
    }

    /// What the replica believes to have read.
    #[must_use]
    pub fn reading(self, name: &ObjectRef, reading: Reading, world: &World) -> Reading {
        let Some(object) = reading.object() else {
            return reading;
        };
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = object.value().clone();
            change(&mut value);
            Reading::Present(Arc::new(Object::new(value)))
        };
        match self {
            Self::IgnoreChange
                if *name == deployment("web") && world.status.phase == Phase::Progressing =>
            {
                let Some(run) = &world.status.run else {
                    return reading;
                };
                let Some(image) = world.witness.image_of(&run.revision).map(str::to_owned) else {
                    return reading;
                };
                changed(&|value| {
                    value["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
                })
            }
            // The config as it was when the run began, or when it was promoted.
            Self::ConfigIgnored if *name == kinds::CONFIG_MAP.named(NAMESPACE, CONFIG) => {
                changed(&|value| value["data"]["version"] = json!("0"))
            }
            Self::BlindToEndpoints if *name == deployment("web") => changed(&|value| {
                let replicas = value["spec"]["replicas"].clone();
                value["status"] = json!({"observedGeneration": value["metadata"]["generation"], "replicas": replicas,
                    "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas});
            }),
            _ => reading,
        }
    }

    /// Changes what was decided.
    #[allow(clippy::too_many_lines, reason = "a table: one arm for each defect")]
    pub fn decision(self, decision: &mut Decision, canary: &Canary, world: &World) {
        let before = canary.status_or_default();
        let live = &world.store;
        let target = live.get(&deployment("web")).cloned();
        let after = decision.status.clone().unwrap_or_else(|| before.clone());
        match self {
            Self::NoDrain => {
                if let Some(run) = decision
                    .status
                    .as_mut()
                    .and_then(|status| status.run.as_mut())
                    && let Some(from) = run.drain_from
                {
                    run.drain_from = from.checked_sub(SignedDuration::from_secs(3_600)).ok();
                }
                if ["RollingBack", "Cancelling", "ScalingDown"].contains(&stage(&after))
                    && target.is_some()
                {
                    decision.writes.push(scale_to("web", 0));
                }
            }
            Self::ScaleBeforeRoute => {
                if ["RollingBack", "Cancelling", "ScalingDown"].contains(&stage(&after))
                    && !["RollingBack", "Cancelling", "ScalingDown"].contains(&stage(&before))
                {
                    decision.writes.insert(0, scale_to("web", 0));
                }
            }
            Self::PromoteLive => {
                let promoting = after.phase == Phase::Promoting;
                Self::primary_template(decision, target.as_deref(), promoting);
                // The target is read again at each pass, so a newer template follows the first.
                if let Some(target) = target.filter(|_| promoting)
                    && let Some(primary) = live.get(&deployment("web-primary"))
                    && super::workloads::image_of(primary) != super::workloads::image_of(&target)
                {
                    let containers = target.at("/spec/template/spec/containers").clone();
                    let patch = Patch::Merge(
                        json!({"spec": {"template": {"spec": {"containers": containers}}}}),
                    );
                    decision.writes.push(Write::Patch {
                        target: deployment("web-primary"),
                        patch,
                        expect: Expect::Any,
                    });
                }
            }
            Self::RebuildFromTarget => {
                let gone = live.get(&deployment("web-primary")).is_none();
                Self::primary_template(decision, target.as_deref(), gone);
            }
            Self::DoubleFailure => {
                if let Some(status) = &mut decision.status
                    && status.failed_checks > before.failed_checks
                {
                    status.failed_checks += 1;
                }
            }
            Self::ImpatientSteps => {
                if let Some(run) = decision
                    .status
                    .as_mut()
                    .and_then(|status| status.run.as_mut())
                {
                    run.next_check_at = run.next_check_at.map(|_| world.stamp());
                }
            }
            Self::SkipStep => {
                if let Some(run) = decision
                    .status
                    .as_mut()
                    .and_then(|status| status.run.as_mut())
                    && before.run.as_ref().is_some_and(|old| run.step > old.step)
                {
                    run.step += 1;
                }
            }
            Self::PromoteFailed => {
                if stage(&after) == "RollingBack"
                    && stage(&before) == "Analysing"
                    && let Some(status) = &mut decision.status
                    && let Some(run) = &mut status.run
                {
                    "Promoting".clone_into(&mut run.stage);
                    run.weights = before.run.as_ref().and_then(|run| run.weights);
                    status.canary_weight = before.canary_weight;
                    status.phase = Phase::Promoting;
                }
            }
            Self::RollbackKeepsRoute => {
                if ["RollingBack", "Cancelling"].contains(&stage(&after))
                    || before.phase == Phase::Failed
                {
                    decision
                        .writes
                        .retain(|write| write.target().kind != kinds::HTTP_ROUTE);
                }
            }
            Self::RollbackKeepsPods => {
                if stage(&after) == "RollingBack" && target.is_some() {
                    let status = decision.status.get_or_insert_with(|| before.clone());
                    status.run = None;
                    status.phase = Phase::Failed;
                    status.canary_weight = 0;
                    decision
                        .writes
                        .retain(|write| write.target() != deployment("web"));
                }
            }
            Self::WeightsOverflow | Self::WrongBackend => {
                for write in &mut decision.writes {
                    if let Write::Apply { kind, object, .. } = write
                        && *kind == kinds::HTTP_ROUTE
                    {
                        let backend = &mut object.value_mut()["spec"]["rules"][0]["backendRefs"][1];
                        if self == Self::WrongBackend {
                            backend["name"] = json!("web-canari");
                        } else if backend["weight"] != 0 {
                            backend["weight"] = json!(backend["weight"].as_i64().unwrap_or(0) + 10);
                        }
                    }
                }
            }
            Self::PromotionFailureToPrimary => {
                if stage(&after) == "Held"
                    && stage(&before) != "Held"
                    && let Some(status) = &mut decision.status
                    && let Some(run) = &mut status.run
                {
                    "RollingBack".clone_into(&mut run.stage);
                    run.weights = Some(RunWeights {
                        primary: 100,
                        canary: 0,
                    });
                    run.drain_from = Some(world.stamp());
                    status.phase = Phase::Progressing;
                    status.canary_weight = 0;
                    for write in &mut decision.writes {
                        if let Write::Apply { kind, object, .. } = write
                            && *kind == kinds::HTTP_ROUTE
                        {
                            object.value_mut()["spec"]["rules"][0]["backendRefs"][0]["weight"] =
                                json!(100);
                            object.value_mut()["spec"]["rules"][0]["backendRefs"][1]["weight"] =
                                json!(0);
                        }
                    }
                    decision.writes.push(scale_to("web", 0));
                }
            }
            Self::ScaleWithoutPrimary => {
                if stage(&after) == "Initializing" || stage(&after) == "Promoting" {
                    decision.writes.push(scale_to("web", 0));
                }
            }
            Self::SeenTooEarly => {
                if let Some(status) = &mut decision.status
                    && before.run.is_none()
                    && status
                        .run
                        .as_ref()
                        .is_some_and(|run| run.stage == "ScalingUp")
                    && before.last_applied_spec != status.last_applied_spec
                {
                    let seen = status.last_applied_spec.clone();
                    *status = before.clone();
                    status.last_applied_spec = seen;
                    decision.writes.clear();
                }
            }
            Self::NoDivert => {
                if let Some(status) = &mut decision.status
                    && let Some(run) = &mut status.run
                    && run.diverted
                {
                    run.diverted = false;
                    status.canary_weight =
                        run.weights.map_or(0, |weights| i64::from(weights.canary));
                    decision
                        .writes
                        .retain(|write| write.target().kind != kinds::HTTP_ROUTE);
                }
            }
            Self::WipeAnnotations => {
                for write in &mut decision.writes {
                    if let Write::Apply { kind, object, .. } = write
                        && *kind != kinds::CONTROLLER_REVISION
                    {
                        let patch = json!({"metadata": {"annotations": {super::invariants::FOREIGN: null}}, "spec": object.at("/spec")});
                        *write = Write::Patch {
                            target: kind.named(object.namespace(), object.name()),
                            patch: Patch::Merge(patch),
                            expect: Expect::Any,
                        };
                    }
                }
            }
            Self::WriteTargetWhole => {
                if let Some(target) = &target {
                    for write in &mut decision.writes {
                        if write.target() == deployment("web")
                            && let Write::Patch {
                                patch: Patch::Json(operations),
                                ..
                            } = write
                        {
                            let mut template = target.at("/spec/template").clone();
                            template["metadata"]["labels"]["restarted"] = json!("yes");
                            operations.push(
                                json!({"op": "replace", "path": "/spec/template", "value": template}),
                            );
                        }
                    }
                }
            }
            Self::IgnoreDrift => {
                if decision.status.is_none() {
                    decision
                        .writes
                        .retain(|write| write.target().kind != kinds::HTTP_ROUTE);
                }
            }
            Self::SucceededTooEarly => {
                if let Some(status) = &mut decision.status
                    && status.phase == Phase::Promoting
                    && before.phase == Phase::Promoting
                {
                    status.phase = Phase::Succeeded;
                }
                if after.phase == Phase::Promoting
                    && before.phase == Phase::Progressing
                    && let Some(status) = &mut decision.status
                    && let Some(run) = status.run.take()
                {
                    status.phase = Phase::Succeeded;
                    status.canary_weight = 0;
                    status.last_promoted_spec = Some(run.revision.clone());
                    if let Some(promoted) = &mut status.promoted {
                        promoted.revision = run.revision;
                        promoted.template = run.template;
                    }
                }
            }
            Self::WrongReport => {
                if let Some(status) = &mut decision.status
                    && status.canary_weight > 0
                {
                    status.canary_weight -= 1;
                }
            }
            Self::Silent => {
                if let Some(status) = &mut decision.status {
                    for condition in &mut status.conditions {
                        condition.message = None;
                    }
                }
            }
            Self::Chatty => {
                if let Some(run) = &before.run
                    && let Some(status) = &decision.status
                    && status.run.as_ref().is_some_and(|now| now.id == run.id)
                    && let Some(announcement) = decision.announcements.first().cloned()
                {
                    decision.announcements.push(announcement);
                }
            }
            Self::NoAlarm => decision.wake = None,
            Self::ScalePrimaryToo => {
                if decision.writes.iter().any(|write| {
                    write.target() == deployment("web") && stage(&after) == "RollingBack"
                }) {
                    decision.writes.push(scale_to("web-primary", 0));
                }
            }
            Self::ForgetPromoted => {
                if let Some(status) = &mut decision.status
                    && before.promoted.is_some()
                {
                    status.promoted.clone_from(&before.promoted);
                    status
                        .last_promoted_spec
                        .clone_from(&before.last_promoted_spec);
                }
            }
            Self::RestartFailed => {
                if let Some(status) = &mut decision.status
                    && status.phase == Phase::Failed
                    && status.promoted.is_some()
                {
                    status.last_applied_spec = None;
                    status.history.clear();
                }
            }
            Self::StaleGeneration => {
                if let Some(status) = &mut decision.status {
                    status.observed_generation = Some(1);
                }
            }
            Self::MirrorForever => {
                if before.run.as_ref().is_some_and(|run| run.mirrored) {
                    Self::nothing(decision);
                }
            }
            Self::StuckAtZero => {
                let none = before
                    .run
                    .as_ref()
                    .is_some_and(|run| run.weights.is_none_or(|weights| weights.canary == 0));
                if before.phase == Phase::Promoting && none {
                    Self::nothing(decision);
                }
            }
            Self::JumpToTop => {
                if let Some(status) = &mut decision.status
                    && let Some(run) = &mut status.run
                    && before.run.as_ref().is_some_and(|old| run.step > old.step)
                    && status.canary_weight > 0
                {
                    status.canary_weight = 100;
                    run.weights = Some(RunWeights {
                        primary: 0,
                        canary: 100,
                    });
                }
            }
            Self::StuckWaiting => {
                if before.phase == Phase::Waiting {
                    Self::nothing(decision);
                }
            }
            Self::RestartPrimary => {
                let stamp = world.now.to_string();
                let idle = decision.status.is_none() && before.run.is_none();
                if idle
                    && decision.writes.is_empty()
                    && live.get(&deployment("web-primary")).is_some()
                    && world.witness.last_fault > 0
                {
                    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": stamp}}}}});
                    decision.writes.push(Write::Patch {
                        target: deployment("web-primary"),
                        patch: Patch::Merge(patch),
                        expect: Expect::Any,
                    });
                }
            }
            Self::RewriteRoute => {
                let name = kinds::HTTP_ROUTE.named(NAMESPACE, "web");
                if live.get(&name).is_some() {
                    let stamp = world.now.to_string();
                    decision.writes.push(Write::Patch {
                        target: name,
                        patch: Patch::Merge(json!({"metadata": {"annotations": {"seen": stamp}}})),
                        expect: Expect::Any,
                    });
                }
            }
            Self::ResetOnDrift => {
                let drift = decision
                    .announcements
                    .iter()
                    .any(|told| told.reason == "RouteDrift");
                if drift && before.run.is_some() {
                    let mut status = before.clone();
                    status.canary_weight = 0;
                    if let Some(run) = &mut status.run {
                        run.weights = Some(RunWeights {
                            primary: 100,
                            canary: 0,
                        });
                        run.step = 0;
                    }
                    decision.status = Some(status);
                    decision.writes.clear();
                }
            }
            Self::NeverReleased => {
                if canary.metadata.is_deleting() {
                    decision
                        .writes
                        .retain(|write| write.target().kind != kinds::CANARY);
                }
            }
            Self::ReleasedAtOnce => {
                if canary.metadata.is_deleting() {
                    decision.status = None;
                    decision.writes = vec![Write::Patch {
                        target: kinds::CANARY.named(NAMESPACE, super::CANARY),
                        patch: Patch::Merge(json!({"metadata": {"finalizers": []}})),
                        expect: Expect::Any,
                    }];
                }
            }
            Self::OpenAb => {
                for rule in Self::rules(decision) {
                    for entry in rule["matches"].as_array_mut().into_iter().flatten() {
                        if let Some(map) = entry.as_object_mut() {
                            map.remove("headers");
                        }
                    }
                }
            }
            Self::OmittedZero => {
                for rule in Self::rules(decision) {
                    for backend in rule["backendRefs"].as_array_mut().into_iter().flatten() {
                        if let Some(map) = backend.as_object_mut()
                            && map.get("weight") == Some(&json!(0))
                        {
                            map.remove("weight");
                        }
                    }
                }
            }
            Self::ConfigNotCopied => {
                let copy = kinds::CONFIG_MAP.named(NAMESPACE, &format!("{CONFIG}-primary"));
                if live.get(&copy).is_some() {
                    decision.writes.retain(|write| write.target() != copy);
                }
            }
            Self::ConfigLive => {
                let source = live.get(&kinds::CONFIG_MAP.named(NAMESPACE, CONFIG));
                let copy = kinds::CONFIG_MAP.named(NAMESPACE, &format!("{CONFIG}-primary"));
                if let (Some(source), Some(kept)) = (source, live.get(&copy))
                    && source.at("/data") != kept.at("/data")
                {
                    decision.writes.push(Write::Patch {
                        target: copy,
                        patch: Patch::Merge(json!({"data": source.at("/data")})),
                        expect: Expect::Any,
                    });
                }
            }
            Self::StatusLast
            | Self::NoRetry
            | Self::ConfigIgnored
            | Self::StatusUnguarded
            | Self::WritesUnguarded
            | Self::IgnoreChange
            | Self::BlindToEndpoints => {}
        }
    }

    fn nothing(decision: &mut Decision) {
        decision.status = None;
        decision.writes.clear();
        decision.needs.clear();
        decision.announcements.clear();
        decision.wake = None;
    }

    /// The rules of the routes that are applied.
    fn rules(decision: &mut Decision) -> impl Iterator<Item = &mut Value> {
        decision.writes.iter_mut().flat_map(|write| {
            let rules = match write {
                Write::Apply { kind, object, .. } if *kind == kinds::HTTP_ROUTE => {
                    object.value_mut()["spec"]["rules"].as_array_mut()
                }
                _ => None,
            };
            rules.into_iter().flatten()
        })
    }

    /// Puts the template of the live target, renamed, into what is applied to the primary.
    fn primary_template(decision: &mut Decision, target: Option<&Object>, when: bool) {
        let Some(target) = target.filter(|_| when) else {
            return;
        };
        for write in &mut decision.writes {
            if let Write::Apply { kind, object, .. } = write
                && *kind == kinds::DEPLOYMENT
            {
                let image = target.at("/spec/template/spec/containers/0/image").clone();
                object.value_mut()["spec"]["template"]["spec"]["containers"][0]["image"] = image;
            }
        }
    }
}
