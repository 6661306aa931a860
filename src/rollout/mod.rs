//! The decision core. [`decide`] looks at a [`Snapshot`] and says what shall be: the status (the intent), the writes that bring the
//! cluster to it, and what it needs to know next. It is a pure function: the same snapshot gives the same decision, so a
//! crash anywhere is repaired by deciding again.

mod decision;
mod need;
mod snapshot;

pub use decision::{Announcement, Decision, Severity, Tally};
pub use need::{Finding, HookAnswer, HookCall, HookPayload, Need, Request};
pub use snapshot::{ListRef, Listing, Settings, Sibling, Snapshot, Want};

/// One pass over one canary.
#[must_use]
pub fn decide(_snapshot: &Snapshot) -> Decision {
    Decision::default()
}
