//! `serin crd`: prints the custom resource definitions that belong to this version.

use crate::api::crd;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `serin crd`.
#[derive(Debug, Args)]
pub struct CrdArguments {
    /// The kind to print. Default: all.
    kind: Option<CrdKind>,
    /// Writes one file for each kind into this folder instead of printing.
    #[arg(long, value_name = "FOLDER", conflicts_with = "kind")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CrdKind {
    Canary,
    #[value(name = "metrictemplate")]
    MetricTemplate,
    #[value(name = "alertprovider")]
    AlertProvider,
}

/// Prints or writes them.
pub fn run(arguments: &CrdArguments) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.output {
        for (name, definition) in crd::all() {
            let path = folder.join(name);
            std::fs::write(&path, crd::as_yaml(&definition))
                .with_context(|| format!("{} can't be written", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
        return Ok(());
    }
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
