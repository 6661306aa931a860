//! What a run is doing, finer than the phase; the words stand in `status.run.stage`. And which revisions the two sides are meanwhile.

use crate::api::CanaryStatus;
use crate::routing::Revisions;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The primary is being made; the user's workload still serves.
    Initializing,
    /// The confirm-rollout gate is closed.
    Waiting,
    /// The canary's pods are coming up.
    ScalingUp,
    /// Steps are taken and judged.
    Analysing,
    /// The verdict was bad: traffic goes back, the canary drains and is scaled down.
    RollingBack,
    /// The target was set back to what is promoted: as `RollingBack`, without a failure.
    Cancelling,
    /// The primary takes over the judged template.
    Promoting,
    /// Traffic goes back to the primary step by step.
    Returning,
    /// The primary has all traffic, the canary drains and is scaled down.
    ScalingDown,
    /// The promotion failed; the canary keeps the traffic.
    Held,
    /// The run is over; its post-rollout hooks are being told.
    PostRollout,
}

/// Every stage with its word.
const WORDS: [(Stage, &str); 11] = [
    (Stage::Initializing, "Initializing"),
    (Stage::Waiting, "Waiting"),
    (Stage::ScalingUp, "ScalingUp"),
    (Stage::Analysing, "Analysing"),
    (Stage::RollingBack, "RollingBack"),
    (Stage::Cancelling, "Cancelling"),
    (Stage::Promoting, "Promoting"),
    (Stage::Returning, "Returning"),
    (Stage::ScalingDown, "ScalingDown"),
    (Stage::Held, "Held"),
    (Stage::PostRollout, "PostRollout"),
];

impl Stage {
    /// The word in status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        WORDS
            .iter()
            .find(|(stage, _)| *stage == self)
            .map_or("", |(_, word)| word)
    }

    /// Whether a run in this stage counts as under way where only so many may be at once: pods of the canary run beside the primary's.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        !matches!(
            self,
            Self::Initializing | Self::Waiting | Self::Held | Self::PostRollout
        )
    }

    /// Whether the primary runs what is judged, or is about to.
    #[must_use]
    pub fn hands_over(self) -> bool {
        matches!(
            self,
            Self::Initializing | Self::Promoting | Self::Returning | Self::ScalingDown
        )
    }

    /// The stage of a word; `None` for one that this version doesn't know.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        WORDS
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(stage, _)| *stage)
    }
}

/// The objects that keep the revisions of the two sides, by what a status says.
pub(super) fn revisions(status: &CanaryStatus) -> Revisions<'_> {
    let judged = status.run.as_ref().and_then(|run| {
        let stage = Stage::parse(&run.stage)?;
        Some((stage, run.template.as_deref()?))
    });
    let promoted = status
        .promoted
        .as_ref()
        .and_then(|promoted| promoted.template.as_deref());
    Revisions {
        primary: match judged {
            Some((stage, judged)) if stage.hands_over() => Some(judged),
            _ => promoted,
        },
        canary: judged.map(|(_, judged)| judged),
    }
}
