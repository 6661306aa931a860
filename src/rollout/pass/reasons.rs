//! Why pods don't run. It is asked while they are there, since nothing says it once they are gone: when readiness is overdue by half of the
//! progress deadline, and before a side that failed is scaled down or gets another template. No verdict follows from it.

use super::Pass;
use crate::api::Run;
use crate::rollout::decision::Severity;
use crate::rollout::need::{Finding, Need, Request};
use crate::rollout::view::{Side, View};
use crate::workload::pods;
use jiff::{SignedDuration, Timestamp};

/// How long pods that shall go are kept for the answer.
const PATIENCE: SignedDuration = SignedDuration::from_secs(15);

/// When it is asked; each is one request in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Half of the deadline is past.
    Overdue,
    /// The pods are about to go.
    Last,
}

impl<'a> Pass<'a> {
    /// Asks why the pods of a side don't run, and notes the answer in the run. True once nothing more is to be learned.
    pub(super) fn pods_explained(&mut self, view: &View<'a>, side: Side, moment: Moment) -> bool {
        let (Some(list), Some(run)) = (view.pods(side), self.run_ref()) else {
            return true;
        };
        let need = Need {
            key: format!("pods/{side:?}/{moment:?}/{}", run.id),
            request: Request::Pods(Box::new(list)),
        };
        match self.snapshot.finding(&need) {
            Some(Finding::Pods(Ok(failures))) if !failures.is_empty() => {
                let news = run.pod_failures.is_empty();
                let failures = failures.clone();
                let told = pods::sentence(&failures);
                self.with_run(|run| run.pod_failures = failures);
                if news {
                    let name = match side {
                        Side::Canary => self.target_name(),
                        Side::Primary => self.primary_name(),
                    };
                    self.tell(
                        Severity::Warn,
                        "PodsFailing",
                        format!("Pods of {name} don't run: {told}"),
                    );
                }
                true
            }
            Some(_) => true,
            None => {
                self.needs.push(need);
                false
            }
        }
    }

    /// The same once half of a wait is past.
    pub(super) fn explain_when_overdue(
        &mut self,
        view: &View<'a>,
        side: Side,
        since: Option<Timestamp>,
        deadline: SignedDuration,
    ) {
        let half = deadline / 2;
        if self.is_past(since, half) {
            self.pods_explained(view, side, Moment::Overdue);
        } else {
            self.wake_after(since, half);
        }
    }

    /// Whether pods that are about to go have said why, or have been waited for long enough.
    pub(super) fn last_words(
        &mut self,
        view: &View<'a>,
        side: Side,
        since: Option<Timestamp>,
    ) -> bool {
        if self.pods_explained(view, side, Moment::Last) || self.is_past(since, PATIENCE) {
            return true;
        }
        self.wake_after(since, PATIENCE);
        false
    }

    pub(super) fn primary_name(&self) -> String {
        format!(
            "{}.{}",
            self.canary.primary_name(),
            self.canary.metadata.namespace
        )
    }
}

/// A cause with what the run knows of its pods.
pub(super) fn with_reasons(run: Option<&Run>, cause: &str) -> String {
    match run.map(|run| pods::sentence(&run.pod_failures)) {
        Some(reasons) if !reasons.is_empty() && !cause.contains(&reasons) => {
            format!("{cause}; {reasons}")
        }
        _ => cause.to_owned(),
    }
}
