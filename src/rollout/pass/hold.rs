//! What a run waits for (pods, the route, data), how long, and what becomes of the traffic meanwhile. Each wait ends.

use super::gates::{gate_of, gate_text};
use super::reasons::with_reasons;
use super::{Pass, clear_wait, split_of};
use crate::api::Run;
use crate::rollout::decision::Severity;
use crate::rollout::stage::Stage;
use crate::rollout::view::{Side, View, signed};
use crate::routing::{Split, Weight};
use jiff::{SignedDuration, Timestamp};

pub(super) const WAIT_CANARY: &str = "the canary to become ready";
pub(super) const WAIT_PRIMARY: &str = "the primary to become ready";
pub(super) const WAIT_ROUTE: &str = "the route to be applied";

/// Whether a run waits for that.
pub(super) fn waits_for_route(run: &Run) -> bool {
    run.waiting_for.as_deref() == Some(WAIT_ROUTE)
}

/// What is said of it.
pub(super) fn not_applied(why: &str) -> String {
    format!("The route is not applied yet: {why}")
}

impl<'a> Pass<'a> {
    /// Data came back.
    pub(super) fn end_silence(&mut self) {
        self.with_run(|run| {
            if run.no_data_since.take().is_none() {
                return;
            }
            match gate_of(run).map(gate_text) {
                Some(text) => run.message = Some(text),
                None => clear_wait(run),
            }
        });
    }

    pub(super) fn fail_unready(&mut self, view: &View<'a>, message: &str) {
        let kind = self.canary.spec.target_ref.kind.to_lowercase();
        let text = format!("canary {kind} {} not ready: {message}", self.target_name());
        let text = with_reasons(self.run_ref(), &text);
        let alert = format!("Progress deadline exceeded {message}");
        self.tell_and_alert(Severity::Error, "CanaryNotReady", text.clone(), alert);
        self.begin_rollback(view, Stage::RollingBack, text);
    }

    pub(super) fn hold_for_canary(&mut self, view: &View<'a>, run: &Run, message: &str) {
        let kind = self.canary.spec.target_ref.kind.to_lowercase();
        let text = format!("canary {kind} {} not ready: {message}", self.target_name());
        let deadline = signed(self.canary.spec.progress_deadline());
        self.follow_light(view);
        if run.stage == Stage::ScalingUp.as_str() {
            // Scaling up takes a moment; it is worth a word only when it takes longer than a step would.
            if self.is_past(run.started_at, deadline) {
                return self.fail_unready(view, message);
            }
            self.wake_after(run.started_at, deadline);
            self.explain_when_overdue(view, Side::Canary, run.started_at, deadline);
            if self.is_past(
                run.started_at,
                self.interval().max(SignedDuration::from_secs(10)),
            ) {
                self.wait_for(WAIT_CANARY, &text, Some(deadline), run.started_at);
            } else {
                self.wake_after(
                    run.started_at,
                    self.interval().max(SignedDuration::from_secs(10)),
                );
            }
            return;
        }
        if self.wait_for(WAIT_CANARY, &text, Some(deadline), None) {
            return self.fail_unready(view, message);
        }
        let since = self.run_ref().and_then(|run| run.waiting_since);
        self.explain_when_overdue(view, Side::Canary, since, deadline);
    }

    pub(super) fn hold_for_primary(&mut self, view: &View<'a>) {
        self.follow_light(view);
        let text = format!(
            "{}.{} not ready: no ready endpoints",
            self.canary.primary_name(),
            self.canary.metadata.namespace
        );
        let deadline = signed(self.canary.spec.progress_deadline());
        if self.wait_for(WAIT_PRIMARY, &text, Some(deadline), None) {
            let cause = format!("{text} for longer than the progress deadline");
            let told = format!("Rolling back {} {cause}", self.full_name());
            let alert = format!("Rolling back, {cause}");
            self.tell_and_alert(Severity::Error, "PrimaryLost", told, alert);
            return self.begin_rollback(view, Stage::RollingBack, cause);
        }
        let since = self.run_ref().and_then(|run| run.waiting_since);
        self.explain_when_overdue(view, Side::Primary, since, deadline);
    }

    pub(super) fn hold_for_route(&mut self, view: &View<'a>, run: &Run, why: &str) {
        let text = not_applied(why);
        let deadline = signed(self.canary.spec.progress_deadline());
        let grace = self.interval();
        if !waits_for_route(run) && !self.is_past(run.next_check_at, grace) {
            return self.wake_after(run.next_check_at, grace);
        }
        if self.wait_for(WAIT_ROUTE, &text, Some(deadline), None) {
            let told = format!("Rolling back {} route not applied: {why}", self.full_name());
            let alert = format!("Rolling back, the route is not applied: {why}");
            self.tell_and_alert(Severity::Error, "RouteNotApplied", told, alert);
            self.begin_rollback(view, Stage::RollingBack, text);
        }
    }

    /// Nothing could be measured. That says nothing about the canary: the step holds, and after a finite time the run ends on the safe
    /// side.
    pub(super) fn hold_for_data(&mut self, view: &View<'a>, what: &str, why: &str) {
        let deadline = signed(self.canary.spec.no_data_deadline());
        let (known_since, due) = self.run_ref().map_or((None, None), |run| {
            (run.no_data_since, run.next_check_at.or(run.started_at))
        });
        // Time in which nobody looked, because the controller was away, says nothing about the data.
        let seen = due.filter(|due| !self.is_past(Some(*due), self.interval() * 2));
        let since = known_since.or(seen).unwrap_or(self.now);
        if known_since.is_none() && !self.is_past(due, self.interval()) {
            // Pods that have just got their first requests may not have been scraped yet: one silent round is nothing to tell of.
            return;
        }
        let (end, next) = (since.checked_add(deadline).ok(), self.wake);
        if end.is_some_and(|end| end <= self.now) {
            let cause = format!(
                "Nothing could be measured for {}: {what}: {why}",
                crate::api::GoDuration(self.canary.spec.no_data_deadline())
            );
            let text = format!("Rolling back {} {cause}", self.full_name());
            self.tell_and_alert(Severity::Error, "NoDataDeadline", text, cause.clone());
            return self.begin_rollback(view, Stage::RollingBack, cause);
        }
        let message = format!("Waiting for {what}: {why}");
        let at_gate = self.run_ref().is_some_and(|run| gate_of(run).is_some());
        let known = self.run_ref().is_some_and(|run| {
            run.no_data_since.is_some() && (at_gate || run.waiting_for.as_deref() == Some(what))
        });
        if !known {
            self.with_run(|run| {
                run.no_data_since = Some(since);
                run.message = Some(message);
                if !at_gate {
                    run.waiting_since = Some(since);
                    run.waiting_for = Some(what.to_owned());
                    run.deadline_at = end;
                }
            });
            self.tell(Severity::Warn, "NoData", why.to_owned());
        }
        self.wake_at(next);
        self.wake_at(end);
    }

    /// Notes a wait in the status, once. True when its time is over.
    pub(super) fn wait_for(
        &mut self,
        what: &str,
        text: &str,
        limit: Option<SignedDuration>,
        since: Option<Timestamp>,
    ) -> bool {
        let now = self.now;
        let present = self.run_ref().and_then(|run| {
            (run.waiting_for.as_deref() == Some(what)).then_some(run.waiting_since)
        });
        if let Some(started) = present {
            let started = started.unwrap_or(now);
            let Some(limit) = limit else { return false };
            self.wake_after(Some(started), limit);
            return self.is_past(Some(started), limit);
        }
        let started = since.unwrap_or(now);
        let deadline = limit.and_then(|limit| started.checked_add(limit).ok());
        self.with_run(|run| {
            run.waiting_for = Some(what.to_owned());
            run.waiting_since = Some(started);
            run.deadline_at = deadline;
            run.message = Some(text.to_owned());
        });
        self.tell(Severity::Warn, "Waiting", text.to_owned());
        self.wake_at(deadline);
        false
    }

    /// Traffic goes where somebody answers: away from a side that has weight and lost its last ready endpoint, if the other side has
    /// some. That may change sides more than once.
    pub(super) fn follow_light(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref() else { return };
        if !view.router.capabilities().weighted() {
            return;
        }
        let carried = if run.diverted {
            Weight::clamped(self.status.canary_weight)
        } else {
            split_of(run).canary
        };
        if carried > Weight::NONE && view.is_dark(Side::Canary) && view.serves(Side::Primary) {
            self.divert(view, Side::Canary);
        } else if carried < Weight::ALL && view.is_dark(Side::Primary) && view.serves(Side::Canary)
        {
            self.divert(view, Side::Primary);
        }
    }

    /// A side that has weight lost its last ready endpoint, and the other one has some: traffic moves at once.
    pub(super) fn divert(&mut self, _view: &View<'a>, dark: Side) {
        self.divert_because(dark, "has no ready endpoints");
    }

    /// All traffic away from a side, with why.
    pub(super) fn divert_because(&mut self, from: Side, why: &str) {
        let (split, name) = match from {
            Side::Canary => (Split::PRIMARY, "canary"),
            Side::Primary => (Split::CANARY, "primary"),
        };
        self.with_run(|run| run.diverted = true);
        self.status.canary_weight = i64::from(split.canary.percent());
        let text = format!(
            "The {name} of {} {why}, all traffic goes to the other side",
            self.full_name()
        );
        if from == Side::Primary {
            // What visitors were meant to have is gone: nobody should learn of that from them.
            let alert = format!("Primary {why}, all traffic goes to the canary.");
            self.tell_and_alert(Severity::Warn, "TrafficDiverted", text, alert);
        } else {
            self.tell(Severity::Warn, "TrafficDiverted", text);
        }
    }

    pub(super) fn restore(&mut self, _view: &View<'a>) {
        let (now, next) = (self.now, self.after(self.interval()));
        let mut percent = 0;
        self.with_run(|run| {
            run.diverted = false;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            clear_wait(run);
            percent = run.weights.map_or(0, |weights| weights.canary);
            run.message = Some(format!(
                "Both sides are ready again: {percent} % of the traffic goes to the canary."
            ));
        });
        self.status.canary_weight = i64::from(percent);
        self.tell(
            Severity::Info,
            "TrafficRestored",
            format!(
                "Both sides of {} are ready again, canary weight {percent}",
                self.full_name()
            ),
        );
    }
}
