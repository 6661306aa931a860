//! Promoting and Finalising: the primary takes over what was judged, gets the traffic back, and the canary goes. A promotion that fails
//! leaves the traffic where it is served.

use super::reasons::with_reasons;
use super::{Pass, clear_wait, split_of, weights};
use crate::api::{FailurePromotion, Phase, Run};
use crate::rollout::converge;
use crate::rollout::decision::{Severity, Tally};
use crate::rollout::stage::Stage;
use crate::rollout::view::{Identity, Side, View, signed};
use crate::routing::{Split, Weight};
use crate::workload::{Readiness, Sides};
use jiff::{SignedDuration, Timestamp};

/// What a run waits for whose promotion has failed.
const LAST_WORDS: &str = "the pods to say why they don't run";

pub(super) const HELD_TEXT: &str = "Promotion failed; the canary keeps the traffic and the primary gets back the revision that was promoted before. Release a fixed revision, or set the target back to the promoted one.";

/// Lets the drain begin now, with nothing left of one before it.
pub(super) fn drain_from(run: &mut Run, now: Timestamp) {
    run.drain_from = Some(now);
    run.next_check_at = None;
}

impl<'a> Pass<'a> {
    pub(super) fn start_promotion(&mut self, _view: &View<'a>) {
        let now = self.now;
        self.with_run(|run| {
            Stage::Promoting.as_str().clone_into(&mut run.stage);
            run.mirrored = false;
            run.step_started_at = Some(now);
            run.next_check_at = None;
            clear_wait(run);
            run.message = Some("The primary takes over the template that was judged.".to_owned());
        });
        self.status.phase = Phase::Promoting;
        let text = format!(
            "Copying {} template spec to {}.{}",
            self.target_name(),
            self.canary.primary_name(),
            self.canary.metadata.namespace
        );
        self.tell(Severity::Info, "Promoting", text);
    }

    /// The autoscaler's minimum was raised; what it makes of that is waited for, but not for ever.
    fn waits_for_capacity(&mut self, view: &View<'a>, run: &Run) -> bool {
        let Some((has, needed)) = converge::lacks_capacity(view, &self.status) else {
            return false;
        };
        let patience =
            signed(self.canary.spec.progress_deadline()).min(SignedDuration::from_mins(2));
        if self.is_past(run.step_started_at, patience) {
            return false;
        }
        self.with_run(|run| {
            run.message = Some(format!(
                "The primary has {has} pods and is given {needed} before it takes the traffic over."
            ));
        });
        self.wake_after(run.step_started_at, patience);
        true
    }

    pub(super) fn promote(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            return self.take_over_judged(view);
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let weighted = view.router.capabilities().weighted();
        let returning = run.stage == Stage::Returning.as_str();
        if !returning {
            if !converge::primary_carries(view, &self.status) {
                // The write is under way; it is repeated until the primary says so.
                let deadline = signed(self.canary.spec.progress_deadline());
                if self.is_past(run.step_started_at, deadline) {
                    return self.promotion_failed(
                        view,
                        "the template could not be written to the primary",
                    );
                }
                self.wake_after(run.step_started_at, deadline);
                return self.keep_served(view, &run);
            }
            match view.readiness(Side::Primary, run.step_started_at) {
                Readiness::Ready => {}
                Readiness::Failed { message } => {
                    return self.promotion_failed_after_last_words(view, &run, &message);
                }
                Readiness::Waiting { message } => {
                    let deadline = signed(self.canary.spec.progress_deadline());
                    if self.is_past(run.step_started_at, deadline) {
                        return self.promotion_failed_after_last_words(view, &run, &message);
                    }
                    self.wake_after(run.step_started_at, deadline);
                    self.explain_when_overdue(view, Side::Primary, run.step_started_at, deadline);
                    return self.keep_served(view, &run);
                }
            }
        }
        if !returning && self.waits_for_capacity(view, &run) {
            return self.keep_served(view, &run);
        }
        // A revision that becomes the primary by its name takes its traffic along.
        let step = match view.kind.sides() {
            Sides::Revisions => 0,
            Sides::Pods | Sides::Clones => self.canary.spec.analysis.step_weight_promotion(),
        };
        let present = if run.diverted {
            Weight::clamped(self.status.canary_weight)
        } else {
            split_of(&run).canary
        };
        if returning && run.next_check_at.is_some_and(|due| due > self.now) {
            self.wake_at(run.next_check_at);
            return self.keep_served(view, &run);
        }
        if returning && !view.serves(Side::Primary) {
            let deadline = signed(self.canary.spec.progress_deadline());
            if self.is_past(run.next_check_at, deadline) {
                return self.promotion_failed(view, "no ready endpoints");
            }
            self.wake_after(run.next_check_at, deadline);
            return self.keep_served(view, &run);
        }
        // A canary that does not answer, or that carries what was not judged, has nothing to hand over step by step.
        let fit = !view.is_dark(Side::Canary) && self.is_ours(&view.identity);
        if step > 0 && weighted && fit && i64::from(present.percent()) > step {
            let split = Split::canary(i64::from(present.percent()) - step);
            let next = self.after(self.interval());
            self.with_run(|run| {
                Stage::Returning.as_str().clone_into(&mut run.stage);
                run.weights = Some(weights(split));
                run.diverted = false;
                run.next_check_at = next;
            });
            self.status.canary_weight = i64::from(split.canary.percent());
            let text = format!(
                "Advance {} primary weight {}",
                self.full_name(),
                split.primary().percent()
            );
            return self.tell(Severity::Info, "Advanced", text);
        }
        let text = if step > 0 && weighted {
            format!("Advance {} primary weight 100", self.full_name())
        } else {
            "Routing all traffic to primary".to_owned()
        };
        let now = self.now;
        self.with_run(|run| {
            Stage::ScalingDown.as_str().clone_into(&mut run.stage);
            run.weights = Some(weights(Split::PRIMARY));
            run.diverted = false;
            drain_from(run, now);
            clear_wait(run);
            run.pod_failures.clear();
            run.message = Some("The primary serves all traffic; the canary drains.".to_owned());
        });
        self.status.canary_weight = 0;
        self.status.phase = Phase::Finalising;
        if weighted {
            self.tell(Severity::Info, "RoutingToPrimary", text);
        }
    }

    /// While the primary rolls, or takes the traffic over step by step, neither a canary that went dark nor one that carries a newer, unjudged template may keep the traffic.
    pub(super) fn keep_served(&mut self, view: &View<'a>, run: &Run) {
        let carried = if run.diverted {
            Weight::clamped(self.status.canary_weight)
        } else {
            split_of(run).canary
        };
        let unjudged = !self.is_ours(&view.identity);
        if carried > Weight::NONE
            && view.serves(Side::Primary)
            && (unjudged || view.is_dark(Side::Canary))
        {
            let why = if view.is_dark(Side::Canary) {
                "has no ready endpoints"
            } else {
                "has a newer revision that was not judged"
            };
            self.divert_because(Side::Canary, why);
        } else if carried < Weight::ALL
            && !unjudged
            && view.is_dark(Side::Primary)
            && view.serves(Side::Canary)
        {
            self.divert(view, Side::Primary);
        }
    }

    /// The primary gets its former template back when its promotion fails, and its pods go with what they could say.
    fn promotion_failed_after_last_words(&mut self, view: &View<'a>, run: &Run, message: &str) {
        let since = run
            .waiting_since
            .filter(|_| run.waiting_for.as_deref() == Some(LAST_WORDS));
        let known = !run.pod_failures.is_empty();
        if known || self.last_words(view, Side::Primary, since) {
            return self.promotion_failed(view, message);
        }
        if since.is_none() {
            let now = self.now;
            self.with_run(|run| {
                run.waiting_for = Some(LAST_WORDS.to_owned());
                run.waiting_since = Some(now);
            });
        }
        self.keep_served(view, run);
    }

    pub(super) fn promotion_failed(&mut self, view: &View<'a>, message: &str) {
        let text = format!(
            "Promotion of {} failed, primary not ready: {message}",
            self.target_name()
        );
        let alert = format!("Promotion failed, primary not ready: {message}");
        let text = with_reasons(self.run_ref(), &text);
        self.tell_and_alert(Severity::Error, "PromotionFailed", text.clone(), alert);
        if view.serves(Side::Canary)
            && self.is_ours(&view.identity)
            && view.router.capabilities().weighted()
        {
            self.remarks.promoted = Some(HELD_TEXT.to_owned());
            return self.hold_on_canary(&text);
        }
        // No healthy canary to hold on to: the primary gets its last promoted template back and keeps the traffic.
        self.begin_rollback(view, Stage::RollingBack, text);
        self.status.phase = Phase::Progressing;
    }

    /// After a failed promotion: the canary, which was judged good, keeps the traffic, and the primary gets the template back that it
    /// had. From here a new revision can always follow.
    pub(super) fn held(&mut self, view: &View<'a>) {
        self.remarks.promoted = Some(HELD_TEXT.to_owned());
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let restored = converge::primary_carries(view, &self.status)
            && view.readiness(Side::Primary, None).is_ready();
        if self.is_promoted(&view.identity)
            || (restored && self.canary.spec.on_promotion_failure() == FailurePromotion::Rollback)
        {
            if restored {
                let (stage, cause) = if self.is_promoted(&view.identity) {
                    (
                        Stage::Cancelling,
                        "The target was set back to the promoted revision.".to_owned(),
                    )
                } else {
                    (Stage::RollingBack, run.message.clone().unwrap_or_default())
                };
                self.record_applied(&view.identity);
                self.status.phase = Phase::Progressing;
                return self.begin_rollback(view, stage, cause);
            }
            return;
        }
        if self.is_ours(&view.identity) {
            if split_of(&run).canary == Weight::ALL
                && !run.diverted
                && view.is_dark(Side::Canary)
                && view.serves(Side::Primary)
            {
                self.divert(view, Side::Canary);
            } else if run.diverted && view.serves(Side::Canary) && view.is_dark(Side::Primary) {
                self.restore(view);
            }
            return;
        }
        self.open_gate(view);
    }

    pub(super) fn finalise(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            return self.take_over_judged(view);
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        if view.router.capabilities().weighted()
            && view.is_dark(Side::Primary)
            && view.serves(Side::Canary)
            && !run.diverted
        {
            return self.divert(view, Side::Primary);
        }
        if run.diverted {
            let deadline = signed(self.canary.spec.progress_deadline());
            if view.serves(Side::Primary) {
                let now = self.now;
                self.status.canary_weight = 0;
                return self.with_run(|run| {
                    run.diverted = false;
                    drain_from(run, now);
                });
            }
            if self.is_past(run.drain_from, deadline) {
                return self.promotion_failed(view, "no ready endpoints");
            }
            return self.wake_after(run.drain_from, deadline);
        }
        if view.is_dark(Side::Primary) {
            // No side answers. Waiting for the new primary has an end, then it gets back what it had.
            let deadline = signed(self.canary.spec.progress_deadline());
            if self.is_past(run.drain_from, deadline) {
                return self.promotion_failed(view, "no ready endpoints");
            }
            return self.wake_after(run.drain_from, deadline);
        }
        if !self.settled(view, Side::Primary) {
            return;
        }
        let superseded = self
            .run_ref()
            .is_some_and(|run| run.revision != view.identity.revision);
        self.drained = !superseded;
        if !superseded && view.target_is_up() {
            return;
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let identity = Identity {
            revision: run.revision.clone(),
            configs: run.tracked_configs.clone(),
        };
        self.record_promoted(view, &identity, run.template.clone());
        self.leave_pods(view);
        let by_word = run.skip_analysis;
        let skipped = self.canary.spec.skip_analysis() || by_word;
        self.tallies.push(Tally::Succeeded { skipped });
        self.end_run(
            Phase::Succeeded,
            "Promoted",
            if by_word {
                "Promoted by a person's word, before the checks were done; the primary runs the revision."
            } else {
                "All checks passed; the primary runs the revision."
            },
        );
        let (text, alert) = if skipped {
            (
                format!(
                    "Promotion completed! Canary analysis was skipped for {}",
                    self.target_name()
                ),
                "Canary analysis was skipped, promotion finished.",
            )
        } else {
            (
                format!("Promotion completed! Scaling down {}", self.target_name()),
                "Canary analysis completed successfully, promotion finished.",
            )
        };
        self.tell_and_alert(Severity::Info, "Succeeded", text, alert.to_owned());
    }

    /// Somebody led requests back to a side that was draining, whether or not this pass looked at the drain.
    pub(super) fn drain_anew(&mut self) {
        let draining = matches!(
            self.stage(),
            Some(Stage::Initializing | Stage::ScalingDown | Stage::RollingBack | Stage::Cancelling)
        );
        if draining {
            self.with_run(|run| {
                if run.drain_from.is_some() {
                    run.next_check_at = None;
                }
            });
        }
    }

    /// Weights first, then the route is seen to be applied, then a drain time, only then pods go. Once the route is seen to be applied,
    /// `next_check_at` says when the drain is over; until then it is empty.
    pub(super) fn settled(&mut self, view: &View<'a>, to: Side) -> bool {
        let Some(run) = self.run_ref() else {
            return false;
        };
        let (Some(from), drained_at) = (run.drain_from, run.next_check_at) else {
            return false;
        };
        if !view.serves(to) {
            return false;
        }
        let deadline = signed(self.canary.spec.progress_deadline());
        let drain = signed(self.canary.spec.analysis.drain());
        if !view.router.capabilities().weighted() {
            self.wake_after(Some(from), drain);
            return self.is_past(Some(from), drain);
        }
        let carried = view.carries(Split::PRIMARY).is_ok();
        let applied = carried && (view.applied().is_ok() || self.is_past(Some(from), deadline));
        match drained_at {
            Some(at) if carried => {
                self.wake_at(Some(at));
                at <= self.now
            }
            None if applied => {
                let (now, at) = (self.now, self.after(drain));
                self.with_run(|run| {
                    run.drain_from = Some(now);
                    run.next_check_at = at;
                });
                false
            }
            _ => {
                // Somebody took the route back: the drain begins anew when it is put right.
                self.with_run(|run| run.next_check_at = None);
                self.wake_after(Some(from), deadline);
                false
            }
        }
    }
}
