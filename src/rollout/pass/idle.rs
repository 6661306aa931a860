//! Between runs: the target is watched, a change goes through the confirm-rollout gate and starts a run; hooks of the run before are
//! told of its end.

use super::gates::Closed;
use super::{Pass, split_of, weights};
use crate::api::{HookType, Phase, Rest};
use crate::rollout::checks;
use crate::rollout::checks::HookOutcome;
use crate::rollout::converge;
use crate::rollout::decision::{Severity, Tally};
use crate::rollout::stage::Stage;
use crate::rollout::turn::{Turn, WAIT_TURN, place_told};
use crate::rollout::view::{Identity, Side, View, signed};
use crate::routing::{Split, Weight};
use jiff::{SignedDuration, Timestamp};

impl<'a> Pass<'a> {
    pub(super) fn idle(&mut self, view: &View<'a>) {
        if self.stage() == Some(Stage::Held) {
            return self.held(view);
        }
        if self.stage() == Some(Stage::PostRollout) {
            self.call_post_rollout(view);
        }
        if self.run_ref().is_none() {
            self.forget_configs();
        }
        self.rest(view);
        self.follow_target(view);
    }

    /// The target's pods that the run before had to leave, since nobody else answered when it ended, and those that a woken autoscaler
    /// would start: they go once the primary has had all traffic for the drain time.
    fn rest(&mut self, view: &View<'a>) {
        let known = self.is_promoted(&view.identity) || self.is_applied(&view.identity);
        let left = self.status.rest.is_some() && view.target_is_up();
        if known && !left && !converge::is_awake(view) {
            self.status.rest = None;
            return;
        }
        if !known && self.status.rest.is_none() {
            return;
        }
        // What is newer than the last run may be taken back before its own run begins.
        let from = (known && converge::leads_to_primary_alone(view)).then(|| {
            let began = self.status.rest.as_ref().and_then(|rest| rest.drain_from);
            began.unwrap_or(self.now)
        });
        self.status.rest = Some(Rest { drain_from: from });
        let drain = signed(self.canary.spec.analysis.drain());
        self.wake_after(from, drain);
        self.drained = self.is_past(from, drain);
    }

    /// The run is over, and the target has pods: they are looked after when the primary answers, or are the next run's.
    pub(super) fn leave_pods(&mut self, view: &View<'a>) {
        self.status.rest = view.target_is_up().then(Rest::default);
    }

    /// The post-rollout hooks of the run that has just ended. They are told, not asked: nothing depends on their answers.
    pub(super) fn call_post_rollout(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let phase = self.status.phase;
        let round = self.round(run.step_started_at.unwrap_or(self.now), &run.id);
        let late = self.is_past(
            run.step_started_at,
            self.interval().max(SignedDuration::from_secs(60)),
        );
        match checks::ask_hooks(
            view,
            &round,
            HookType::PostRollout,
            phase.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending if !late => return self.wake_at(Some(round.next)),
            HookOutcome::Pending => {}
            HookOutcome::Passed(hooks) => self.tell_passed("Post-rollout", &hooks),
            HookOutcome::Refused {
                hook, answer: why, ..
            }
            | HookOutcome::Unreachable { hook, why, .. } => {
                self.tell(
                    Severity::Warn,
                    "PostRolloutFailed",
                    format!("Post-rollout hook {hook} failed {why}"),
                );
            }
        }
        self.needs.clear();
        self.status.run = None;
    }

    /// Starts a run where the target carries something that was neither promoted nor judged.
    pub(super) fn follow_target(&mut self, view: &View<'a>) {
        if self.is_promoted(&view.identity) {
            self.record_applied(&view.identity);
            return;
        }
        if self.is_applied(&view.identity) {
            return;
        }
        self.open_gate(view);
    }

    /// The confirm-rollout gate, and the start of the run behind it.
    pub(super) fn open_gate(&mut self, view: &View<'a>) {
        if self.held_by_pause() {
            return;
        }
        let phase = self.status.phase;
        // While idle nothing is written, so the rounds are counted from the last thing that was.
        let since = self
            .run_ref()
            .and_then(|run| run.waiting_since)
            .or(self.status.last_transition_time);
        let due = since.unwrap_or(Timestamp::UNIX_EPOCH);
        let round = self.round(due, &format!("confirm/{}", view.identity.revision));
        match checks::ask_hooks(
            view,
            &round,
            HookType::ConfirmRollout,
            phase.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => {}
            HookOutcome::Passed(hooks) => {
                if let Turn::Waits { place, limit } = &self.snapshot.turn {
                    return self.wait_for_turn(view, *place, limit, round.next);
                }
                self.tell_passed("Confirm-rollout", &hooks);
                self.start_run(view);
            }
            HookOutcome::Refused { hook, muted, .. } => {
                self.wait_for_approval(view, &Closed::refused(hook, muted), round.next);
            }
            HookOutcome::Unreachable { hook, why, muted } => {
                self.wait_for_approval(view, &Closed::silent(hook, muted, why), round.next);
            }
        }
    }

    pub(super) fn wait_for_approval(&mut self, view: &View<'a>, closed: &Closed, next: Timestamp) {
        let at_gate = self.status.phase == Phase::Waiting
            && self
                .run_ref()
                .is_some_and(|run| run.waiting_for.as_deref() != Some(WAIT_TURN));
        let waiting_for = closed.waiting_for();
        let same = self
            .run_ref()
            .is_some_and(|run| run.waiting_for.as_ref() == Some(&waiting_for));
        if !(at_gate && same) || closed.is_news(self.run_ref()) {
            let told = self.status.phase == Phase::Waiting && self.run_ref().is_none();
            if !at_gate {
                self.begin_wait(view, waiting_for.clone());
                let deadline = self.gate_deadline(self.now);
                self.with_run(|run| run.deadline_at = deadline);
            }
            // Of several hooks another one may hold the gate after the first; the wait is the same, with its time.
            self.with_run(|run| {
                run.waiting_for = Some(waiting_for);
                run.message =
                    Some(closed.text("confirm-rollout gate", "nothing is started until it opens."));
            });
            if !told {
                self.tell_closed(closed, "approval", "Canary is waiting for approval");
            }
        }
        self.wake_at(Some(next));
    }

    /// A wait before a run, in which nothing is started yet.
    fn begin_wait(&mut self, view: &View<'a>, what: String) {
        let only_canary = view.is_dark(Side::Primary) && view.serves(Side::Canary);
        let split = if only_canary {
            Split::CANARY
        } else {
            Split::PRIMARY
        };
        let mut run = self.new_run(view, Stage::Waiting, self.next_number());
        run.weights = Some(weights(split));
        run.waiting_since = Some(self.now);
        run.waiting_for = Some(what);
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.run = Some(run);
        self.status.phase = Phase::Waiting;
    }

    /// As many runs as are allowed are under way. The place in the queue is kept while the revision waits, whatever its gates say meanwhile.
    fn wait_for_turn(&mut self, view: &View<'a>, place: usize, limit: &str, next: Timestamp) {
        let queued = self.status.phase == Phase::Waiting
            && self
                .run_ref()
                .is_some_and(|run| run.waiting_for.as_deref() == Some(WAIT_TURN));
        let text = format!("{}: {limit}.", place_told(place));
        if !queued {
            self.begin_wait(view, WAIT_TURN.to_owned());
            let name = self.full_name();
            self.tell(
                Severity::Info,
                "Queued",
                format!("{name} waits for its turn, place {place}: {limit}"),
            );
        }
        self.with_run(|run| run.message = Some(text));
        self.wake_at(Some(next));
    }

    pub(super) fn waiting(&mut self, view: &View<'a>) {
        if self.is_promoted(&view.identity) {
            self.record_applied(&view.identity);
            let cause = "The target was set back to the promoted revision.";
            if self.run_ref().is_none() {
                // Flagger's wait, which keeps no run.
                self.status.run = Some(self.new_run(view, Stage::Waiting, self.next_number()));
            }
            if view.target_is_up() {
                return self.leave_the_gate(view, Stage::Cancelling, cause);
            }
            return self.end_run(Phase::Succeeded, "Reverted", cause);
        }
        if self
            .run_ref()
            .and_then(|run| run.deadline_at)
            .is_some_and(|deadline| deadline <= self.now)
        {
            // What waited is judged; a newer revision that came meanwhile is not, and waits in its turn.
            if let Some(identity) = self.run_ref().map(|run| Identity {
                revision: run.revision.clone(),
                configs: run.tracked_configs.clone(),
            }) {
                self.record_applied(&identity);
            }
            let cause = "The confirm-rollout gate stayed closed beyond spec.analysis.gateTimeout.";
            self.tell_and_alert(
                Severity::Error,
                "GateTimedOut",
                cause.to_owned(),
                cause.to_owned(),
            );
            if view.target_is_up() {
                return self.leave_the_gate(view, Stage::RollingBack, cause);
            }
            self.tallies.push(Tally::Failed);
            return self.end_run(Phase::Failed, "TimedOut", cause);
        }
        let deadline = self.run_ref().and_then(|run| run.deadline_at);
        self.wake_at(deadline);
        let on_canary = self
            .run_ref()
            .is_some_and(|run| split_of(run).canary > Weight::NONE);
        if on_canary && view.serves(Side::Primary) {
            // The gate was reached after a failed promotion; the primary is back, and the canary's next revision is not judged.
            self.with_run(|run| run.weights = Some(weights(Split::PRIMARY)));
            self.status.canary_weight = 0;
            return;
        }
        self.open_gate(view);
    }

    /// The wait is over and there will be no run. The target's pods, which the run before left or somebody asked for, go as after any run.
    fn leave_the_gate(&mut self, view: &View<'a>, stage: Stage, cause: &str) {
        self.status.phase = Phase::Progressing;
        self.begin_rollback(view, stage, cause.to_owned());
    }

    pub(super) fn start_run(&mut self, view: &View<'a>) {
        let mut run = self.new_run(view, Stage::ScalingUp, self.next_number());
        // Right after a failed promotion the canary may be the only side that serves: then the new run starts from there.
        let split = if view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            Split::CANARY
        } else {
            Split::PRIMARY
        };
        run.weights = Some(weights(split));
        run.message = Some(format!("Scaling up {}.", self.target_name()));
        if let Some(waited) = self.run_ref().filter(|waited| {
            waited.stage == Stage::Waiting.as_str()
                && waited.revision == run.revision
                && waited.tracked_configs == run.tracked_configs
        }) {
            run.skip_analysis = waited.skip_analysis;
            run.commands.clone_from(&waited.commands);
        }
        self.status.run = Some(run);
        self.status.rest = None;
        self.status.phase = Phase::Progressing;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.metrics.clear();
        self.record_applied(&view.identity);
        let text = format!("New revision detected! Scaling up {}", self.target_name());
        let alert = "New revision detected, progressing canary analysis.".to_owned();
        self.tell_and_alert(Severity::Info, "NewRevision", text, alert);
    }
}
