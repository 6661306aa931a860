//! Proof by simulation: a deterministic world in memory under the same [`crate::rollout::decide`] as production. One seed gives one
//! history; a history has people, a cluster, a gateway, providers, and faults at every effect; each invariant of the architecture is
//! checked after every write and at the end of time.
//!
//! ```text
//!   scenario ── what happens, from a seed         world ── clock, queue, people, gateway, answers
//!   store ── an API server      merge ── server-side apply and patches      workloads ── Deployments and their pods
//!   replica ── the controller's cache and work    invariants ── I1 … I12    mutant ── defects put in on purpose
//!   run ── many histories, shrinking, reports
//! ```
//!
//! `controller` can't be run here, since it needs a client and a runtime. [`replica`] and [`world`] mirror its rules: the status first,
//! guarded by its version; what is told after the status; the writes in order, each with its guard; stop at the first that fails;
//! answers to own writes go into the cache, the newer version wins.

pub mod invariants;
pub(crate) mod merge;
pub mod mutant;
pub(crate) mod random;
mod replica;
pub mod run;
pub mod scenario;
pub mod store;
#[cfg(test)]
mod tests;
pub mod workloads;
pub mod world;

/// The namespace in which everything lives.
pub const NAMESPACE: &str = "test";
/// Name of the canary.
pub const CANARY: &str = "web";
