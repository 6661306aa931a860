//! Serin: progressive delivery for Kubernetes that takes Flagger's manifests unchanged.

pub mod analysis;
pub mod api;
pub mod cli;
pub mod controller;
pub mod demo;
pub mod hooks;
pub mod loadtester;
pub mod notify;
pub mod object;
pub mod providers;
pub mod rollout;
pub mod routing;
pub mod sim;
pub mod workload;
