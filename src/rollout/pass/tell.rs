//! What people are told, in Flagger's words where it has some.

use super::Pass;
use crate::rollout::converge;
use crate::rollout::decision::{Announcement, ROUTE_DRIFT, Severity};

impl Pass<'_> {
    pub(super) fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        debug_assert!(
            crate::rollout::reasons::is_of_event(reason),
            "{reason} is not listed in src/rollout/reasons.rs"
        );
        let phase = self.status.phase.as_str().to_owned();
        self.announcements.push(Announcement {
            severity,
            reason,
            message,
            phase,
            alert: None,
        });
    }

    pub(super) fn tell_and_alert(
        &mut self,
        severity: Severity,
        reason: &'static str,
        message: String,
        alert: String,
    ) {
        self.tell(severity, reason, message);
        if let Some(told) = self.announcements.last_mut() {
            told.alert = Some(alert);
        }
    }

    pub(super) fn tell_gate(&mut self, message: String, alert: &str, muted: bool) {
        self.tell(Severity::Warn, "GateClosed", message);
        if !muted {
            self.announcements
                .last_mut()
                .into_iter()
                .for_each(|told| told.alert = Some(alert.to_owned()));
        }
    }

    /// Something is in the way that was not there before. Of a canary that never worked whoever applies it learns from its conditions.
    pub(super) fn tell_of_trouble(&mut self, reason: &'static str, message: &str) {
        if self.status.promoted.is_some() {
            let alert = format!("Canary can't go on: {message}");
            self.tell_and_alert(Severity::Warn, reason, message.to_owned(), alert);
        } else {
            self.tell(Severity::Warn, reason, message.to_owned());
        }
    }

    pub(super) fn tell_passed(&mut self, label: &str, hooks: &[String]) {
        for hook in hooks {
            self.tell(
                Severity::Info,
                "HookPassed",
                format!("{label} check {hook} passed"),
            );
        }
    }

    pub(super) fn tell_drift(&mut self, foreign: &converge::Drift) {
        self.tell(
            Severity::Warn,
            ROUTE_DRIFT,
            format!(
                "{} had been changed by {} to {}; it is set back to {}",
                foreign.object,
                foreign.writer,
                foreign.found.map_or_else(
                    || "weights that don't agree".to_owned(),
                    |found| format!("canary weight {found}")
                ),
                foreign.wanted
            ),
        );
    }
}
