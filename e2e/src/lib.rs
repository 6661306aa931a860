//! The test bed: a real cluster on one machine without containers.
pub mod demo;
pub mod demo_app;
pub mod load;
