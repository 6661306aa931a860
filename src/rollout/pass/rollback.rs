//! The way back: all traffic to the side that is healthy and was promoted last, then a drain time, then the canary's pods go.

use super::promote::drain_from;
use super::reasons::with_reasons;
use super::{Pass, clear_wait, weights};
use crate::api::Phase;
use crate::rollout::checks;
use crate::rollout::decision::{Severity, Tally};
use crate::rollout::stage::Stage;
use crate::rollout::view::{Side, View, signed};
use crate::routing::{Split, Weight};

impl<'a> Pass<'a> {
    pub(super) fn begin_rollback(&mut self, view: &View<'a>, stage: Stage, cause: String) {
        let to_primary = !view.is_dark(Side::Primary) || view.is_dark(Side::Canary);
        let now = self.now;
        if self.status.phase == Phase::WaitingPromotion {
            self.status.phase = Phase::Progressing;
        }
        self.with_run(|run| {
            stage.as_str().clone_into(&mut run.stage);
            run.mirrored = false;
            clear_wait(run);
            run.no_data_since = None;
            run.next_check_at = None;
            run.waiting_since = Some(now);
            run.message = Some(cause);
            // Where the canary alone answers, traffic stays where it is now, diverted or not.
            if to_primary {
                run.diverted = false;
                run.weights = Some(weights(Split::PRIMARY));
                drain_from(run, now);
            }
        });
        if to_primary {
            self.status.canary_weight = 0;
        }
    }

    pub(super) fn roll_back_further(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let deadline = signed(self.canary.spec.progress_deadline());
        let failed = run.stage == Stage::RollingBack.as_str();
        let heard = !failed
            || !view.target_is_up()
            || self.last_words(view, Side::Canary, run.waiting_since);
        // What the way back asked for may not have reached the route before the primary went dark: what answers goes on answering.
        let carried = view.route.as_ref().ok().and_then(|route| route.split);
        if let Some(carried) = carried
            && run.drain_from.is_some()
            && carried.canary > Weight::NONE
            && view.is_dark(Side::Primary)
            && view.serves(Side::Canary)
        {
            let now = self.now;
            self.with_run(|run| {
                run.weights = Some(weights(carried));
                run.drain_from = None;
                run.next_check_at = None;
                run.waiting_since = Some(now);
            });
            self.status.canary_weight = i64::from(carried.canary.percent());
            return;
        }
        let Some(_) = run.drain_from else {
            if view.serves(Side::Primary) {
                let now = self.now;
                self.with_run(|run| {
                    run.weights = Some(weights(Split::PRIMARY));
                    run.diverted = false;
                    drain_from(run, now);
                });
                self.status.canary_weight = 0;
            } else if self.is_past(run.waiting_since, deadline) {
                // The canary is the only side that serves. It stays, and a person or a new revision decides.
                let cause = "The primary did not come back, so the canary keeps the traffic.";
                self.hold_on_canary(cause);
                self.tell_and_alert(
                    Severity::Error,
                    "HeldOnCanary",
                    format!("{}: {cause}", self.full_name()),
                    cause.to_owned(),
                );
            } else {
                self.wake_after(run.waiting_since, deadline);
            }
            return;
        };
        let given_up = view.is_dark(Side::Primary) && self.is_past(run.drain_from, deadline);
        if !self.settled(view, Side::Primary) && !given_up {
            return self.wake_after(run.drain_from, deadline);
        }
        if !heard {
            return;
        }
        // A canary that is not needed any more goes; the only copy that may still serve stays.
        self.drained = !given_up;
        if self.drained && view.target_is_up() {
            return;
        }
        self.leave_pods(view);
        let cause = run.message.clone().unwrap_or_default();
        let cause = with_reasons(self.run_ref(), &cause);
        if run.stage == Stage::Cancelling.as_str() {
            self.remarks.promoted =
                Some("The target was set back to the promoted revision.".to_owned());
            return self.end_run(Phase::Succeeded, "Reverted", &cause);
        }
        let text = format!("Canary failed! Scaling down {}", self.full_name());
        self.tell(Severity::Warn, "RolledBack", text);
        if let Some(told) = self.announcements.last_mut() {
            Phase::Failed.as_str().clone_into(&mut told.phase);
        }
        self.tallies.push(Tally::Failed);
        self.end_run(Phase::Failed, "RolledBack", &cause);
    }

    pub(super) fn hold_on_canary(&mut self, cause: &str) {
        self.with_run(|run| {
            Stage::Held.as_str().clone_into(&mut run.stage);
            run.weights = Some(weights(Split::CANARY));
            run.diverted = false;
            run.message = Some(cause.to_owned());
            clear_wait(run);
        });
        self.status.phase = Phase::Failed;
        self.status.canary_weight = 100;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        self.tallies.push(Tally::Failed);
        if let Some(run) = self.status.run.clone() {
            self.status
                .remember(checks::past_run(&run, "Held", cause, self.now));
        }
    }
}
