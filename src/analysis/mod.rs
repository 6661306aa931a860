//! Judging.

pub mod template;
