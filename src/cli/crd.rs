//! `serin crd`: prints the custom resource definitions that belong to this version.

use clap::{Args, ValueEnum};

/// Arguments of `serin crd`.
#[derive(Debug, Args)]
pub struct CrdArguments {
    /// The kind to print. Default: all.
    kind: Option<CrdKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CrdKind {
    Canary,
    #[value(name = "metrictemplate")]
    MetricTemplate,
    #[value(name = "alertprovider")]
    AlertProvider,
}

/// Prints them.
pub fn run(_arguments: &CrdArguments) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}
