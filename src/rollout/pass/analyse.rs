//! Progressing: readiness of both sides first, then a round of checks when it is due, then the next step of the strategy.

use super::gates::end_wait;
use super::hold::{WAIT_CANARY, WAIT_PRIMARY, waits_for_route};
use super::reasons::with_reasons;
use super::{Pass, clear_wait, split_of, weights};
use crate::api::{FailureMode, HookType, Phase, Run, Strategy, Verdict};
use crate::rollout::checks;
use crate::rollout::checks::{HookOutcome, Judged, MetricsOutcome, Observers, Round};
use crate::rollout::decision::Severity;
use crate::rollout::ladder::{NextStep, next_step};
use crate::rollout::stage::Stage;
use crate::rollout::view::{Side, View};
use crate::routing::{Split, Weight};
use crate::workload::Readiness;

/// What a round of checks came to.
struct Measured {
    hooks: HookOutcome,
    judged: Vec<Judged>,
    observers: Observers,
    /// Of those that failed, what each says.
    failures: Vec<String>,
}

impl<'a> Pass<'a> {
    pub(super) fn progress(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            // A run of Flagger's: what it had reached is on the route, the rest is judged anew from there.
            return self.take_over_run(view);
        }
        if self.is_ours(&view.identity) {
            match self.stage() {
                Some(Stage::RollingBack | Stage::Cancelling) => self.roll_back_further(view),
                _ => self.judge(view),
            }
            return;
        }
        if self.is_promoted(&view.identity) {
            if self.stage() == Some(Stage::RollingBack) || self.stage() == Some(Stage::Cancelling) {
                return self.roll_back_further(view);
            }
            self.record_applied(&view.identity);
            let cause =
                "The target was set back to the promoted revision; the run is over.".to_owned();
            self.tell_and_alert(
                Severity::Info,
                "Reverted",
                format!(
                    "{} was set back to the promoted revision, the analysis is cancelled",
                    self.target_name()
                ),
                "Target was set back to the promoted revision, canary analysis cancelled."
                    .to_owned(),
            );
            return self.begin_rollback(view, Stage::Cancelling, cause);
        }
        self.restart(view);
    }

    pub(super) fn restart(&mut self, view: &View<'a>) {
        if let Some(old) = self.status.run.clone() {
            let outcome = if self.stage() == Some(Stage::RollingBack) {
                "RolledBack"
            } else {
                "Superseded"
            };
            let cause = old
                .message
                .as_ref()
                .filter(|_| outcome == "RolledBack")
                .map(|cause| with_reasons(Some(&old), cause));
            let cause = cause.unwrap_or_else(|| {
                "A newer revision came before this one was judged to the end.".to_owned()
            });
            self.status
                .remember(checks::past_run(&old, outcome, &cause, self.now));
            self.leave_configs(&old);
        }
        let told = self.announcements.len();
        self.start_run(view);
        self.announcements.truncate(told);
        self.tell_and_alert(
            Severity::Info,
            "NewRevision",
            format!(
                "New revision detected! Restarting analysis for {}",
                self.target_name()
            ),
            "New revision detected, restarting canary analysis.".to_owned(),
        );
    }

    /// Readiness of both sides first, then the round of checks when it is due, then the next step.
    pub(super) fn judge(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        if run.stage == Stage::ScalingUp.as_str()
            && split_of(&run).canary > Weight::NONE
            && view.serves(Side::Primary)
        {
            // The run began after a failed promotion; what was promoted before serves again, and nothing of this revision is judged yet.
            self.status.canary_weight = 0;
            return self.with_run(|run| {
                run.diverted = false;
                run.weights = Some(weights(Split::PRIMARY));
            });
        }
        match view.readiness(Side::Canary, run.started_at) {
            Readiness::Ready => {}
            Readiness::Failed { message } => return self.fail_unready(view, &message),
            Readiness::Waiting { message } => return self.hold_for_canary(view, &run, &message),
        }
        if !view.serves(Side::Primary) && split_of(&run).canary < Weight::ALL {
            return self.hold_for_primary(view);
        }
        if run.diverted {
            return self.restore(view);
        }
        if let Some(waiting) = &run.waiting_for
            && (waiting == WAIT_CANARY || waiting == WAIT_PRIMARY)
        {
            self.with_run(clear_wait);
        }
        self.with_run(|run| run.pod_failures.clear());
        if self.canary.spec.skip_analysis() || run.skip_analysis {
            return self.start_promotion(view);
        }
        if run.step == 0
            && run.stage == Stage::ScalingUp.as_str()
            && view.router.capabilities().weighted()
            && !view.serves(Side::Canary)
        {
            return self.hold_for_canary(view, &run, "no ready endpoints");
        }
        if self.status.failed_checks >= self.canary.spec.analysis.threshold() {
            return self.threshold_reached(view, "spec.analysis.threshold was lowered");
        }
        let due = run.next_check_at.or(run.started_at).unwrap_or(self.now);
        if due > self.now {
            return self.wake_at(Some(due));
        }
        let round = self.round(due, &run.id);
        if run.step > 0 {
            match view.carries(split_of(&run)).and_then(|()| view.applied()) {
                Err(why) => return self.check_unapplied(view, &run, &round, &why),
                Ok(()) if waits_for_route(&run) => return self.begin_step_anew(),
                Ok(()) => {}
            }
        }
        self.wake_at(Some(round.next));
        self.check(view, &run, &round);
    }

    /// A step whose route not everybody follows that should: some may. It goes no further, but whoever asks for the way back gets it, and
    /// when the wait is more than a moment what goes wrong counts as in any other step.
    fn check_unapplied(&mut self, view: &View<'a>, run: &Run, round: &Round, why: &str) {
        self.wake_at(Some(round.next));
        if self.asked_to_roll_back(view, round) || !self.needs.is_empty() {
            return;
        }
        if waits_for_route(run) && run.pre_rollout_passed && view.carries(split_of(run)).is_ok() {
            let Some(measured) = self.measure(view, round) else {
                return;
            };
            if !measured.failures.is_empty() {
                self.keep_observers(&measured.observers);
                self.failed_check(view, measured.failures, &measured.judged);
                if self.stage() == Some(Stage::RollingBack) {
                    return;
                }
            }
        }
        self.hold_for_route(view, run, why);
    }

    /// Asks the rollback hooks; true when one of them wants the way back, which is begun.
    fn asked_to_roll_back(&mut self, view: &View<'a>, round: &Round) -> bool {
        let phase = self.status.phase;
        let asked = checks::ask_rollback_hooks(view, round, phase.as_str(), &mut self.needs);
        let Ok(Some(hook)) = asked else {
            return false;
        };
        self.tell(
            Severity::Warn,
            "RollbackHook",
            format!("Rollback check {hook} passed"),
        );
        let text = format!("Rolling back {} manual webhook invoked", self.full_name());
        self.tell_and_alert(
            Severity::Warn,
            "RollbackRequested",
            text,
            "Rolling back manual webhook invoked".to_owned(),
        );
        self.begin_rollback(
            view,
            Stage::RollingBack,
            format!("The rollback hook {hook} asked for it."),
        );
        true
    }

    pub(super) fn check(&mut self, view: &View<'a>, run: &Run, round: &Round) {
        if self.asked_to_roll_back(view, round) {
            return;
        }
        let untouched = run.step == 0 && split_of(run) == Split::PRIMARY;
        match (run.pre_rollout_passed, untouched) {
            (false, _) => self.check_pre_rollout(view, round),
            // Held by a gate before the first traffic: there is nothing to measure yet.
            (true, true) => self.advance(view, round, &[]),
            (true, false) => self.check_analysis(view, run, round),
        }
    }

    pub(super) fn check_pre_rollout(&mut self, view: &View<'a>, round: &Round) {
        match checks::ask_hooks(
            view,
            round,
            HookType::PreRollout,
            Phase::Progressing.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => {}
            HookOutcome::Unreachable { hook, why, .. } => {
                self.hold_for_data(view, &format!("pre-rollout hook {hook}"), &why);
            }
            HookOutcome::Refused { hook, answer, .. } => {
                let text = format!(
                    "Halt {} advancement pre-rollout check {hook} failed {answer}",
                    self.full_name()
                );
                self.failed_check(view, vec![text], &[]);
            }
            HookOutcome::Passed(hooks) => {
                if !self.needs.is_empty() {
                    return;
                }
                let started = self.run_ref().is_some_and(|run| run.checks > 0);
                if !started {
                    self.tell(
                        Severity::Info,
                        "AnalysisStarted",
                        format!("Starting canary analysis for {}", self.target_name()),
                    );
                }
                self.tell_passed("Pre-rollout", &hooks);
                self.with_run(|run| run.pre_rollout_passed = true);
                if self
                    .run_ref()
                    .is_some_and(|run| split_of(run) != Split::PRIMARY)
                {
                    // The canary has traffic from the start: it is measured before anything else.
                    return self.measure_first();
                }
                self.advance(view, round, &[]);
            }
        }
    }

    /// Gives the step its whole interval from now on: until now its traffic was not what is to be judged.
    fn begin_step_anew(&mut self) {
        let (now, next) = (self.now, self.after(self.interval()));
        self.with_run(|run| {
            run.step_started_at = Some(now);
            run.next_check_at = next;
            clear_wait(run);
        });
        self.wake_at(next);
    }

    /// Begins the analysis with the traffic that the canary has.
    pub(super) fn measure_first(&mut self) {
        let (now, next) = (self.now, self.after(self.interval()));
        self.with_run(|run| {
            Stage::Analysing.as_str().clone_into(&mut run.stage);
            run.checks += 1;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            run.no_data_since = None;
            clear_wait(run);
            run.message = Some(
                "The primary can't serve, so the canary is judged with all of the traffic."
                    .to_owned(),
            );
        });
    }

    /// Asks rollout hooks and metrics; nothing as long as an answer is missing.
    fn measure(&mut self, view: &View<'a>, round: &Round) -> Option<Measured> {
        let hooks = checks::ask_hooks(
            view,
            round,
            HookType::Rollout,
            Phase::Progressing.as_str(),
            &mut self.needs,
        );
        let metrics = checks::ask_metrics(view, round, &mut self.needs);
        let MetricsOutcome::Judged { judged, observers } = metrics else {
            return None;
        };
        if hooks == HookOutcome::Pending || !self.needs.is_empty() {
            return None;
        }
        let mut failures = Vec::new();
        if let HookOutcome::Refused { hook, answer, .. } = &hooks {
            failures.push(format!(
                "Halt {} advancement external check {hook} failed {answer}",
                self.full_name()
            ));
        }
        failures.extend(
            judged
                .iter()
                .filter(|one| one.status.verdict == Verdict::Failed)
                .filter_map(|one| one.message.clone()),
        );
        Some(Measured {
            hooks,
            judged,
            observers,
            failures,
        })
    }

    pub(super) fn check_analysis(&mut self, view: &View<'a>, run: &Run, round: &Round) {
        let Some(Measured {
            hooks,
            judged,
            observers,
            failures,
        }) = self.measure(view, round)
        else {
            return;
        };
        if !failures.is_empty() {
            self.keep_observers(&observers);
            return self.failed_check(view, failures, &judged);
        }
        let silent = judged
            .iter()
            .find(|one| matches!(one.status.verdict, Verdict::NoData | Verdict::Error));
        let silent = match (&hooks, silent) {
            (HookOutcome::Unreachable { hook, why, .. }, _) => {
                Some((format!("rollout hook {hook}"), why.clone()))
            }
            (_, Some(one)) => Some((
                format!("metric {}", one.status.name),
                one.message.clone().unwrap_or_default(),
            )),
            _ => None,
        };
        if let Some((what, why)) = silent {
            self.hold_for_data(view, &what, &why);
            if run.no_data_since.is_none() {
                self.record_metrics(&judged);
            }
            return;
        }
        self.keep_observers(&observers);
        self.advance(view, round, &judged);
    }

    /// What gave values in this round is asked until the run is over.
    fn keep_observers(&mut self, observers: &Observers) {
        if observers.told.is_empty() {
            return;
        }
        self.with_run(|run| run.observers.clone_from(&observers.rows));
        self.status.observed.extend(observers.told.clone());
    }

    /// All checks of the round passed: go through the gates and take the next step of the strategy.
    pub(super) fn advance(&mut self, view: &View<'a>, round: &Round, judged: &[Judged]) {
        self.end_silence();
        if self.held_by_pause() {
            return self.forgive_at_gate();
        }
        self.next_by_strategy(view, round, judged);
    }

    fn next_by_strategy(&mut self, view: &View<'a>, round: &Round, judged: &[Judged]) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let analysis = &self.canary.spec.analysis;
        let weighted = view.router.capabilities().weighted();
        match self.strategy(view) {
            Strategy::Canary => self.advance_weight(view, round, judged, &run),
            Strategy::AbTesting => {
                let (done, all) = (self.status.iterations, self.iterations());
                if done < all {
                    let text = format!(
                        "Advance {} canary iteration {}/{all}",
                        self.full_name(),
                        done + 1
                    );
                    self.status.iterations = done + 1;
                    self.take_step(view, Split::CANARY, judged, text);
                } else {
                    self.confirm_and_promote(view, round, judged);
                }
            }
            Strategy::BlueGreen => {
                let (done, all) = (self.status.iterations, self.iterations());
                let mirror = analysis.mirror() && view.router.capabilities().mirror.blue_green;
                if done < all {
                    let text = format!(
                        "Advance {} canary iteration {}/{all}",
                        self.full_name(),
                        done + 1
                    );
                    self.status.iterations = done + 1;
                    let split = if view.is_dark(Side::Primary) {
                        Split::CANARY
                    } else {
                        Split {
                            canary: Weight::NONE,
                            mirrored: mirror,
                        }
                    };
                    self.take_step(view, split, judged, text);
                } else if done == all && weighted {
                    if !self.gate_passed(view, round, HookType::ConfirmPromotion, judged) {
                        return;
                    }
                    let text = if mirror {
                        "Stop traffic mirroring and route all traffic to canary"
                    } else {
                        "Routing all traffic to canary"
                    };
                    self.status.iterations = all + 1;
                    self.take_step(view, Split::CANARY, judged, text.to_owned());
                } else {
                    self.confirm_and_promote(view, round, judged);
                }
            }
        }
    }

    /// The next step of a canary by weights: mirroring first where it is asked for, then the ladder, then the promotion.
    fn advance_weight(&mut self, view: &View<'a>, round: &Round, judged: &[Judged], run: &Run) {
        let analysis = &self.canary.spec.analysis;
        // A run that waits for its promotion has had its last increase.
        let increases = self.status.phase != Phase::WaitingPromotion;
        let kind = HookType::ConfirmTrafficIncrease;
        if increases && !self.gate_passed(view, round, kind, judged) {
            return;
        }
        let present = split_of(run).canary;
        let mirror = analysis.mirror() && view.router.capabilities().mirror.canary_step;
        if mirror && present == Weight::NONE && !run.mirrored {
            let split = Split {
                canary: Weight::NONE,
                mirrored: true,
            };
            let text = format!("Advance {} canary weight 0", self.full_name());
            return self.take_step(view, split, judged, text);
        }
        match next_step(analysis, present) {
            NextStep::Raise(weight) => {
                let text = format!(
                    "Advance {} canary weight {}",
                    self.full_name(),
                    weight.percent()
                );
                self.take_step(
                    view,
                    Split {
                        canary: weight,
                        mirrored: false,
                    },
                    judged,
                    text,
                );
            }
            NextStep::Top if present < Weight::ALL && view.primary_rolls_dark() => {
                if self.gate_passed(view, round, HookType::ConfirmPromotion, judged) {
                    let text = "Routing all traffic to canary".to_owned();
                    self.take_step(view, Split::CANARY, judged, text);
                }
            }
            NextStep::Top => self.confirm_and_promote(view, round, judged),
        }
    }

    pub(super) fn take_step(
        &mut self,
        view: &View<'a>,
        split: Split,
        judged: &[Judged],
        text: String,
    ) {
        // I2: no weight is raised on a side that could not answer.
        if split.canary > Weight::NONE && !view.serves(Side::Canary) {
            return;
        }
        if split.canary < Weight::ALL && !view.serves(Side::Primary) {
            return self.hold_for_primary(view);
        }
        self.record_metrics(judged);
        let (now, next) = (self.now, self.after(self.interval()));
        let then = self.what_follows(view, split);
        self.with_run(|run| {
            Stage::Analysing.as_str().clone_into(&mut run.stage);
            run.weights = Some(weights(split));
            run.mirrored = split.mirrored;
            run.step += 1;
            run.checks += 1;
            run.pre_rollout_passed = true;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            run.no_data_since = None;
            clear_wait(run);
            let what = if split.mirrored {
                "requests are mirrored to the canary".to_owned()
            } else {
                format!(
                    "{} % of the traffic goes to the canary",
                    split.canary.percent()
                )
            };
            run.message = Some(format!(
                "Step {}: {what}; once the checks pass, {then}.",
                run.step
            ));
        });
        self.passed_round();
        self.status.phase = Phase::Progressing;
        self.status.canary_weight = i64::from(split.canary.percent());
        self.keep_cookies();
        if !text.is_empty() {
            self.tell(Severity::Info, "Advanced", text);
        }
    }

    /// What comes after a step.
    fn what_follows(&self, view: &View<'a>, split: Split) -> String {
        let (done, all) = (self.status.iterations, self.iterations());
        match self.strategy(view) {
            Strategy::Canary => match next_step(&self.canary.spec.analysis, split.canary) {
                NextStep::Raise(weight) => format!("{} %", weight.percent()),
                NextStep::Top => "the promotion".to_owned(),
            },
            _ if done < all => format!("round {} of {all}", done + 1),
            Strategy::BlueGreen
                if split.canary < Weight::ALL && view.router.capabilities().weighted() =>
            {
                "all of the traffic".to_owned()
            }
            _ => "the promotion".to_owned(),
        }
    }

    pub(super) fn failed_check(&mut self, view: &View<'a>, texts: Vec<String>, judged: &[Judged]) {
        let analysis = &self.canary.spec.analysis;
        self.record_metrics(judged);
        let next = self.after(self.interval());
        let window = analysis.failure_window();
        let mut failed_in_window = 0;
        self.with_run(|run| {
            run.checks += 1;
            run.next_check_at = next;
            run.no_data_since = None;
            end_wait(run);
            run.recent_checks.push(false);
            let surplus = run.recent_checks.len().saturating_sub(window.max(1));
            run.recent_checks.drain(..surplus);
            failed_in_window = run.recent_checks.iter().filter(|passed| !**passed).count();
            run.message = texts.first().cloned();
        });
        self.status.failed_checks = match analysis.failure_mode() {
            FailureMode::Window => i64::try_from(failed_in_window).unwrap_or(i64::MAX),
            _ => self.status.failed_checks + 1,
        };
        let cause = texts.first().cloned().unwrap_or_default();
        for text in texts {
            self.tell(Severity::Warn, "CheckFailed", text);
        }
        if self.status.failed_checks >= analysis.threshold() {
            self.threshold_reached(view, &cause);
        }
    }

    pub(super) fn threshold_reached(&mut self, view: &View<'a>, last: &str) {
        let failed = self.status.failed_checks;
        let text = format!(
            "Rolling back {} failed checks threshold reached {failed}",
            self.full_name()
        );
        self.tell_and_alert(
            Severity::Error,
            "ThresholdReached",
            text,
            format!("Failed checks threshold reached {failed}"),
        );
        let cause = format!("{failed} failed checks reached the threshold; the last: {last}");
        self.begin_rollback(view, Stage::RollingBack, cause);
    }

    /// A passed round forgives, where the user asked for that.
    pub(super) fn passed_round(&mut self) {
        let analysis = &self.canary.spec.analysis;
        let window = analysis.failure_window().max(1);
        match analysis.failure_mode() {
            FailureMode::Cumulative => {}
            FailureMode::Consecutive => self.status.failed_checks = 0,
            FailureMode::Window => {
                let mut failed = 0;
                self.with_run(|run| {
                    run.recent_checks.push(true);
                    let surplus = run.recent_checks.len().saturating_sub(window);
                    run.recent_checks.drain(..surplus);
                    failed = run.recent_checks.iter().filter(|passed| !**passed).count();
                });
                self.status.failed_checks = i64::try_from(failed).unwrap_or(i64::MAX);
            }
        }
    }
}
