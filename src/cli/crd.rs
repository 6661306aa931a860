//! `serin crd`: prints the custom resource definitions that belong to this version.

use crate::api::crd;
use clap::{Args, ValueEnum};
use std::io::Write;

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
pub fn run(arguments: &CrdArguments) -> anyhow::Result<()> {
    let text = match arguments.kind {
        None => crd::all_as_yaml(),
        Some(CrdKind::Canary) => crd::as_yaml(&crd::canary()),
        Some(CrdKind::MetricTemplate) => crd::as_yaml(&crd::metric_template()),
        Some(CrdKind::AlertProvider) => crd::as_yaml(&crd::alert_provider()),
    };
    // A reader that had enough, such as head, is no error.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
