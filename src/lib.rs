//! Serin: progressive delivery for Kubernetes that takes Flagger's manifests unchanged.

pub mod api;
pub mod object;
pub mod routing;
pub mod workload;
