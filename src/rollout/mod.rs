//! The decision core. [`decide`] looks at a [`Snapshot`] and says what shall be: the status (the intent), the writes that bring the
//! cluster to it, and what it needs to know next. It is a pure function: the same snapshot gives the same decision, so a
//! crash anywhere is repaired by deciding again.

mod alerts;
mod checks;
mod conditions;
mod converge;
mod decision;
mod ladder;
mod need;
mod pass;
pub mod reasons;
mod snapshot;
mod stage;
mod turn;
mod view;

pub use alerts::{AlertOutcome, CONTROLLER, acknowledge, problems as alert_problems, provider_of};
pub use decision::{Announcement, Decision, Severity, Tally};
pub use ladder::{NextStep, ladder, next_step};
pub use need::{Finding, HookAnswer, HookCall, HookPayload, Need, Request};
pub use snapshot::{ListRef, Listing, Memory, Refusal, Settings, Sibling, Snapshot, Want};
pub use stage::Stage;
pub use turn::{Competitor, Limits, Stands, Turn, WAIT_TURN, turn};

/// One pass over one canary.
#[must_use]
pub fn decide(snapshot: &Snapshot) -> Decision {
    pass::decide(snapshot)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
