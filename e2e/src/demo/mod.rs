//! `make demo`: one good and one bad release on a real cluster under real load, told live on one screen.
//!
//! ```text
//!  story ──▶ DemoModel ──▶ render ──▶ terminal (redrawn) or pipe (lines with a time)
//! ```
//!
//! The story watches the cluster and the load; the model is plain data; rendering is pure and has golden tests.
mod model;
mod render;
mod screen;
mod stage;
mod story;

pub use model::{DemoModel, EventLine, Verdict, VerdictLine, VersionLine, Weights};
pub use render::{PlainLog, render};
pub use screen::Screen;
pub use stage::{run, run_inside};
pub use story::{Stage, tell};
