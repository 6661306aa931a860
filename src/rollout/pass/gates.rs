//! The gates within a run: confirm-traffic-increase and confirm-promotion. A closed gate holds the step; the checks go on.

use super::hold::waits_for_route;
use super::{Pass, clear_wait};
use crate::api::{FailureMode, HookType, Phase, Run};
use crate::rollout::checks;
use crate::rollout::checks::{HookOutcome, Judged, Round};
use crate::rollout::decision::Severity;
use crate::rollout::stage::Stage;
use crate::rollout::view::View;

impl<'a> Pass<'a> {
    /// A round that passed forgives also while a gate holds the next step; the next round is then a new one. Where there is nothing to
    /// forgive nothing is written, however long the gate stays closed.
    pub(super) fn forgive_at_gate(&mut self) {
        let forgives = self.canary.spec.analysis.failure_mode() != FailureMode::Cumulative;
        if !forgives || self.status.failed_checks == 0 {
            return;
        }
        self.passed_round();
        let next = self.after(self.interval());
        self.with_run(|run| run.next_check_at = next);
    }

    pub(super) fn gate_passed(
        &mut self,
        view: &View<'a>,
        round: &Round,
        kind: HookType,
        judged: &[Judged],
    ) -> bool {
        let promotion = kind == HookType::ConfirmPromotion;
        let label = if promotion {
            "Confirm-promotion"
        } else {
            "Confirm-traffic-increase"
        };
        let (hook, muted) = match checks::ask_hooks(
            view,
            round,
            kind,
            Phase::Progressing.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => return false,
            HookOutcome::Passed(hooks) => {
                self.tell_passed(label, &hooks);
                return true;
            }
            HookOutcome::Refused { hook, muted, .. } => (hook, muted),
            HookOutcome::Unreachable { hook, .. } => (hook, true),
        };
        let waiting_for = format!("gate {hook}");
        let run = self.run_ref().cloned().unwrap_or_default();
        // Hooks of both gates may bear one name; at the gate of the promotion the phase says so.
        let at_this_gate = promotion == (self.status.phase == Phase::WaitingPromotion);
        if at_this_gate && run.waiting_for.as_deref() == Some(&waiting_for) {
            if run.deadline_at.is_some_and(|deadline| deadline <= self.now) {
                let cause =
                    format!("The gate {hook} stayed closed beyond spec.analysis.gateTimeout.");
                self.tell_and_alert(
                    Severity::Error,
                    "GateTimedOut",
                    cause.clone(),
                    cause.clone(),
                );
                self.begin_rollback(view, Stage::RollingBack, cause);
            } else {
                self.forgive_at_gate();
                self.refresh_metrics(judged);
            }
            return false;
        }
        self.forgive_at_gate();
        self.record_metrics(judged);
        let (now, deadline) = (self.now, self.gate_deadline(self.now));
        self.with_run(|run| {
            run.waiting_since = Some(now);
            run.waiting_for = Some(waiting_for);
            run.deadline_at = deadline;
            run.message = Some(gate_text(&hook));
        });
        if promotion {
            self.status.phase = Phase::WaitingPromotion;
            let text = format!(
                "Halt {} advancement waiting for promotion approval {hook}",
                self.full_name()
            );
            self.tell_gate(text, "Canary promotion is waiting for approval.", muted);
        } else {
            let text = format!(
                "Halt {} advancement waiting for traffic increase approval {hook}",
                self.full_name()
            );
            self.tell_gate(
                text,
                "Canary traffic increase is waiting for approval.",
                muted,
            );
        }
        false
    }

    pub(super) fn confirm_and_promote(
        &mut self,
        view: &View<'a>,
        round: &Round,
        judged: &[Judged],
    ) {
        if self.gate_passed(view, round, HookType::ConfirmPromotion, judged) {
            self.record_metrics(judged);
            self.with_run(|run| run.checks += 1);
            self.start_promotion(view);
        }
    }
}

pub(super) fn gate_text(hook: &str) -> String {
    format!("The gate {hook} is closed; the checks go on, the traffic stays as it is.")
}

/// The closed gate that a run stands at.
pub(super) fn gate_of(run: &Run) -> Option<&str> {
    run.waiting_for.as_deref()?.strip_prefix("gate ")
}

/// Ends a wait that a check has answered; a gate stays closed and a route unapplied whatever checks say, and their time runs on.
pub(super) fn end_wait(run: &mut Run) {
    if gate_of(run).is_none() && !waits_for_route(run) {
        clear_wait(run);
    }
}
