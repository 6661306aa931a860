//! The test bed: a real cluster on one machine without containers, and the scenarios that judge Serin on it.
pub mod bed;
pub mod bench;
pub mod crowd;
pub mod demo;
pub mod demo_app;
pub mod figures;
pub mod kubelet;
pub mod load;
pub mod runner;
pub mod scenarios;
pub mod standing;
pub mod tools;
