//! What a decision says: the intent, the writes that bring the cluster to it, what people are told, what is needed to go on, and
//! when to look again.

use super::need::Need;
use super::snapshot::Want;
use crate::analysis::MetricQuery;
use crate::api::CanaryStatus;
use crate::object::Write;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Severity of an event or alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Info,
    /// Somebody may want to look.
    Warn,
    /// Something failed.
    Error,
}

/// Something that people are told, once: a Kubernetes event, and where `alert` is set an alert too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// `Normal` for info, `Warning` otherwise.
    pub severity: Severity,
    /// Stable reason in upper camel case (Flagger's was always `Synced`).
    pub reason: &'static str,
    /// Flagger's text where it has one.
    pub message: String,
    /// Phase that event webhooks are told.
    pub phase: String,
    /// The alert's text, if this is one to alert about.
    pub alert: Option<String>,
}

/// A route that somebody changed is set back.
pub(super) const ROUTE_DRIFT: &str = "RouteDrift";

impl Announcement {
    /// Whether it tells of a write and is true only once that is done. One that meets a conflict is decided anew, and told then.
    #[must_use]
    pub fn is_of_write(&self) -> bool {
        self.reason == ROUTE_DRIFT
    }
}

/// Something that the controller's metrics count.
#[derive(Clone, Debug, PartialEq)]
pub enum Tally {
    /// A run ended well; the flag says whether its analysis was skipped.
    Succeeded {
        /// `skipAnalysis` was set.
        skipped: bool,
    },
    /// A run ended in failure.
    Failed,
    /// A metric was measured.
    Measured {
        /// Its name.
        metric: String,
        /// Percent, seconds or raw, as in Flagger's `flagger_canary_metric_analysis`.
        value: f64,
    },
}

/// The outcome of one pass over one canary.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The new status, where it differs from the one that was read.
    pub status: Option<CanaryStatus>,
    /// What to write after the status, in this order.
    pub writes: Vec<Write>,
    /// What to tell once the status (where it changed) and the writes are done. A decision tells only of what it changes, so nothing is
    /// told twice.
    pub announcements: Vec<Announcement>,
    /// What to count once the status is written.
    pub tallies: Vec<Tally>,
    /// What to ask before deciding again.
    pub needs: Vec<Need>,
    /// Metrics of the canary's own pods that are to be sampled from now on, since a run will be judged by them; all others are not.
    pub sampled: Vec<MetricQuery>,
    /// What to read before deciding again; a decision that wants something must not be carried out.
    pub wants: BTreeSet<Want>,
    /// Why nothing was decided, where something could not be read; for the log.
    pub because: Option<String>,
    /// When to look again at the latest, whatever happens; `None` for a canary that sleeps until something changes.
    pub wake: Option<Timestamp>,
}
