//! The rooms of Serin that do no I/O, and the simulation over them, without client, runtime and HTTP library: the same files as in
//! `serin`, built a second time so that millions of histories can run in an optimised build that takes seconds and not minutes.
// The rooms are tested where they live.
#![cfg(not(test))]
#![allow(
    dead_code,
    reason = "what only the rooms with I/O use is used nowhere here"
)]

#[path = "../../src/analysis/mod.rs"]
pub mod analysis;
#[path = "../../src/api/mod.rs"]
pub mod api;
#[path = "../../src/object/mod.rs"]
pub mod object;
#[path = "../../src/rollout/mod.rs"]
pub mod rollout;
#[path = "../../src/routing/mod.rs"]
pub mod routing;
#[path = "../../src/sim/mod.rs"]
pub mod sim;
#[path = "../../src/workload/mod.rs"]
pub mod workload;
