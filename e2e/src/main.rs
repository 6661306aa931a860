//! `serin-e2e`: brings a bed up and down, and runs scenarios on it.
fn main() {}
