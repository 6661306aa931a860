//! The phases before the first promotion: the primary is made, and only when it is ready do Service and route lead to it. Until then
//! the user's own workload serves, whatever happens.

use super::hold::{WAIT_ROUTE, not_applied, waits_for_route};
use super::promote::drain_from;
use super::reasons::{Moment, with_reasons};
use super::{Pass, clear_wait, split_of, weights};
use crate::api::Phase;
use crate::rollout::converge;
use crate::rollout::decision::Severity;
use crate::rollout::stage::Stage;
use crate::rollout::view::{Identity, Side, View, signed};
use crate::routing::{Split, Weight};
use crate::workload::Readiness;
use jiff::Timestamp;

impl<'a> Pass<'a> {
    pub(super) fn initialise(&mut self, view: &View<'a>) {
        let seed = view.identity.clone();
        let fresh = self.status.run.is_none();
        let switching = self.run_ref().is_some_and(|run| run.drain_from.is_some());
        let seed_changed = !self.is_ours(&seed);
        // A primary that died after the switch does not serve either, and one that does not become ready serves with what it had: a fix
        // must be able to follow. Nor can a seed be waited for that nobody has any more, neither the primary nor the target.
        let lost = switching
            && seed_changed
            && !self.seeded(view)
            && self
                .run_ref()
                .is_some_and(|run| !converge::is_kept(view, &run.revision));
        let stuck =
            !switching || lost || view.is_dark(Side::Primary) || self.status.phase == Phase::Failed;
        if fresh || (seed_changed && stuck) {
            return self.begin_initialisation(view, switching);
        }
        self.probe_backends(view);
        let since = self.run_ref().and_then(|run| run.started_at);
        if !switching
            && view.leads_to_primary()
            && view.is_dark(Side::Primary)
            && view.serves(Side::Canary)
        {
            // Flagger led requests to a primary that is gone: the target answers until there is one again.
            let now = self.now;
            self.with_run(|run| {
                drain_from(run, now);
                run.weights = Some(weights(Split::PRIMARY));
            });
            return self.divert(view, Side::Primary);
        }
        if !switching {
            return self.await_primary(view, since);
        }
        let diverted = self.run_ref().is_some_and(|run| run.diverted);
        if view.is_dark(Side::Primary) && (diverted || !view.serves(Side::Canary)) {
            // The primary was ready and is not any more; what serves goes on serving.
            let since = self.run_ref().and_then(|run| run.drain_from);
            return self.hold_initialisation(view, since, "no ready endpoints", false);
        }
        if !diverted && view.serves(Side::Primary) {
            // Pods of a revision before the seed may answer; the user's workload goes only when the seed itself is ready.
            let readiness = view.readiness(Side::Primary, since);
            if !readiness.is_ready() {
                let since = self.run_ref().and_then(|run| run.drain_from);
                return self.hold_initialisation(view, since, readiness.message(), false);
            }
        }
        self.status.phase = Phase::Initializing;
        if !diverted && view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            return self.divert(view, Side::Primary);
        }
        if diverted && view.serves(Side::Primary) {
            let now = self.now;
            self.status.canary_weight = 0;
            return self.with_run(|run| {
                run.diverted = false;
                drain_from(run, now);
            });
        }
        if !self.seeded(view) {
            let since = self.run_ref().and_then(|run| run.drain_from);
            let why = "its template could not be written";
            return self.hold_initialisation(view, since, why, false);
        }
        if !self.settled(view, Side::Primary) {
            return self.tell_of_route(view);
        }
        self.drained = true;
        if view.target_is_up() {
            return;
        }
        let Some(run) = self.status.run.take() else {
            return;
        };
        let identity = Identity {
            revision: run.revision.clone(),
            configs: run.tracked_configs.clone(),
        };
        self.record_applied(&identity);
        self.record_promoted(view, &identity, run.template);
        self.status.phase = Phase::Initialized;
        self.forget_backends();
        self.status.canary_weight = 0;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        let name = self.full_name();
        self.tell_and_alert(
            Severity::Info,
            "Initialized",
            format!("Initialization done! {name}"),
            format!(
                "New {} detected, initialization completed.",
                self.canary.spec.target_ref.kind
            ),
        );
    }

    /// Says why the route is waited for when that is more than a moment: nothing else is to be seen of a gateway that never takes it on.
    fn tell_of_route(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref() else { return };
        let (since, waits) = (run.drain_from, waits_for_route(run));
        match view.carries(Split::PRIMARY).and_then(|()| view.applied()) {
            Ok(()) if waits => self.with_run(clear_wait),
            Err(why) if !waits && self.is_past(since, self.interval()) => {
                let deadline = signed(self.canary.spec.progress_deadline());
                self.wait_for(WAIT_ROUTE, &not_applied(&why), Some(deadline), since);
            }
            Err(_) if !waits => self.wake_after(since, self.interval()),
            _ => {}
        }
    }

    /// Whether the primary carries what it is to run first, or what Flagger gave it.
    fn seeded(&self, view: &View<'a>) -> bool {
        converge::is_flaggers(view) || converge::primary_carries(view, &self.status)
    }

    /// Service and route lead to the primary once it is ready with what it is to run.
    fn await_primary(&mut self, view: &View<'a>, since: Option<Timestamp>) {
        match view.readiness(Side::Primary, since) {
            Readiness::Ready if !self.seeded(view) => {
                // It is ready with what it had before; the write is under way, and is repeated until the primary says so.
                let deadline = signed(self.canary.spec.progress_deadline());
                if self.is_past(since, deadline) {
                    let why = "its template could not be written";
                    return self.hold_initialisation(view, since, why, false);
                }
                self.wake_after(since, deadline);
            }
            Readiness::Ready => {
                let now = self.now;
                // A split that Flagger left on the route ends here.
                self.status.canary_weight = 0;
                self.with_run(|run| {
                    run.pod_failures.clear();
                    drain_from(run, now);
                    run.weights = Some(weights(Split::PRIMARY));
                });
            }
            Readiness::Waiting { message } => {
                self.hold_initialisation(view, since, &message, false);
            }
            Readiness::Failed { message } => {
                self.hold_initialisation(view, since, &message, true);
            }
        }
    }

    /// Until the primary serves, the user's own workload does; so the primary follows it.
    fn begin_initialisation(&mut self, view: &View<'a>, switching: bool) {
        self.status.phase = Phase::Initializing;
        let mut run = self.new_run(view, Stage::Initializing, 0);
        run.weights = None;
        if switching {
            // The route is ours already and goes on keeping requests served.
            run.weights = Some(weights(Split::PRIMARY));
            run.drain_from = Some(self.now);
            run.diverted = self
                .run_ref()
                .is_some_and(|old| old.diverted || split_of(old).canary > Weight::NONE);
            if !run.diverted {
                self.status.canary_weight = 0;
            }
        }
        let diverted = run.diverted;
        self.status.run = Some(run);
        self.status.last_applied_spec = None;
        if switching && !diverted && view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            self.divert(view, Side::Primary);
        }
    }

    /// The primary does not become ready. The user's workload goes on serving, so nothing is undone; it is only said.
    pub(super) fn hold_initialisation(
        &mut self,
        view: &View<'a>,
        since: Option<Timestamp>,
        message: &str,
        failed: bool,
    ) {
        let late = self.is_past(since, signed(self.canary.spec.progress_deadline()));
        if !failed && !late {
            let deadline = signed(self.canary.spec.progress_deadline());
            self.wake_after(since, deadline);
            self.explain_when_overdue(view, Side::Primary, since, deadline);
            return;
        }
        if self
            .run_ref()
            .is_some_and(|run| run.pod_failures.is_empty())
        {
            self.pods_explained(view, Side::Primary, Moment::Last);
        }
        let text = format!(
            "{}.{} not ready: {message}",
            view.canary.primary_name(),
            view.canary.metadata.namespace
        );
        let text = with_reasons(self.run_ref(), &text);
        if self.status.phase != Phase::Failed {
            self.status.phase = Phase::Failed;
            self.tell_and_alert(
                Severity::Error,
                "InitializationFailed",
                text.clone(),
                text.clone(),
            );
        }
        self.remarks.promoted = Some(format!(
            "The primary did not become ready, so {} still serves all traffic and nothing was changed about it.",
            view.canary.target_name()
        ));
        self.remarks.stalled = Some(("PrimaryNotReady", text));
    }
}
