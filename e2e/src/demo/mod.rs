//! `make demo-cluster`: the story of [`serin::demo::story`] on a real cluster under real load. Story, model and screen are those of `serin demo`;
//! here are the bed and the clients.
mod crowd;
mod stage;

pub use stage::{run, run_inside, tell};
