//! The gates within a run: confirm-traffic-increase and confirm-promotion. A closed gate holds the step; the checks go on.

use super::hold::waits_for_route;
use super::{Pass, clear_wait};
use crate::api::{FailureMode, HookType, Phase, Run};
use crate::rollout::checks;
use crate::rollout::checks::{HookOutcome, Judged, Round};
use crate::rollout::decision::Severity;
use crate::rollout::stage::Stage;
use crate::rollout::view::View;

/// How the status says that a gate is closed because nobody answers at it.
const NO_ANSWER: &str = "does not answer";

/// The hook that keeps a gate closed.
pub(super) struct Closed {
    hook: String,
    /// Whether its alert is muted.
    muted: bool,
    /// Why it gave no answer, where that keeps the gate closed.
    silent: Option<String>,
}

impl Closed {
    /// A hook that said no.
    pub(super) fn refused(hook: String, muted: bool) -> Self {
        Self {
            hook,
            muted,
            silent: None,
        }
    }

    /// A hook that did not answer, and why.
    pub(super) fn silent(hook: String, muted: bool, why: String) -> Self {
        Self {
            hook,
            muted,
            silent: Some(why),
        }
    }

    /// What the run waits for.
    pub(super) fn waiting_for(&self) -> String {
        format!("gate {}", self.hook)
    }

    /// What the status says: of which gate, and what that means.
    pub(super) fn text(&self, gate: &str, meaning: &str) -> String {
        let hook = &self.hook;
        match &self.silent {
            None => format!("The {gate} {hook} is closed; {meaning}"),
            Some(why) => format!("The {gate} {hook} {NO_ANSWER}: {why}; {meaning}"),
        }
    }

    /// Whether the hook says no now, while the status still says that it did not answer. Once it has said no it counts as closed, also while
    /// it does not answer: each is told once.
    pub(super) fn is_news(&self, run: Option<&Run>) -> bool {
        let said = run.and_then(|run| run.message.as_deref());
        self.silent.is_none()
            && said.is_some_and(|said| said.contains(&format!("{} {NO_ANSWER}: ", self.hook)))
    }
}

impl<'a> Pass<'a> {
    /// Tells that the canary waits at a gate: `what` for, in Flagger's words, and `waits`, the sentence of the alert.
    pub(super) fn tell_closed(&mut self, closed: &Closed, what: &str, waits: &str) {
        let name = self.full_name();
        let hook = &closed.hook;
        let mut event = format!("Halt {name} advancement waiting for {what} {hook}");
        let mut alert = format!("{waits}.");
        if let Some(why) = &closed.silent {
            event = format!("{event}, which {NO_ANSWER}: {why}");
            alert = format!("{waits}, but the gate {hook} {NO_ANSWER}: {why}");
        }
        self.tell_gate(event, &alert, closed.muted);
    }

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
        let closed = match checks::ask_hooks(
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
            HookOutcome::Refused { hook, muted, .. } => Closed::refused(hook, muted),
            HookOutcome::Unreachable { hook, why, muted } => Closed::silent(hook, muted, why),
        };
        let waiting_for = closed.waiting_for();
        let run = self.run_ref().cloned().unwrap_or_default();
        // Hooks of both gates may bear one name; at the gate of the promotion the phase says so.
        let at_this_gate = promotion == (self.status.phase == Phase::WaitingPromotion);
        if at_this_gate && run.waiting_for.as_deref() == Some(&waiting_for) {
            if run.deadline_at.is_some_and(|deadline| deadline <= self.now) {
                let hook = &closed.hook;
                let cause =
                    format!("The gate {hook} stayed closed beyond spec.analysis.gateTimeout.");
                self.tell_and_alert(
                    Severity::Error,
                    "GateTimedOut",
                    cause.clone(),
                    cause.clone(),
                );
                self.begin_rollback(view, Stage::RollingBack, cause);
                return false;
            }
            self.forgive_at_gate();
            self.refresh_metrics(judged);
            if closed.is_news(Some(&run)) {
                self.note_closed(&closed, promotion);
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
        });
        if promotion {
            self.status.phase = Phase::WaitingPromotion;
        }
        self.note_closed(&closed, promotion);
        false
    }

    /// Says in status, event and alert what keeps a gate within a run closed.
    fn note_closed(&mut self, closed: &Closed, promotion: bool) {
        self.with_run(|run| run.message = Some(closed.text("gate", AT_GATE)));
        let (what, waits) = if promotion {
            (
                "promotion approval",
                "Canary promotion is waiting for approval",
            )
        } else {
            (
                "traffic increase approval",
                "Canary traffic increase is waiting for approval",
            )
        };
        self.tell_closed(closed, what, waits);
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

/// What a closed gate means within a run.
const AT_GATE: &str = "the checks go on, the traffic stays as it is.";

/// What the status says of a gate whose hook said no.
pub(super) fn gate_text(hook: &str) -> String {
    Closed::refused(hook.to_owned(), false).text("gate", AT_GATE)
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
