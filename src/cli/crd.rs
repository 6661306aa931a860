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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    /// `GOLDEN=write` brings `crds/` up to date, as `make crds` does.
    #[test]
    fn a_folder_gets_a_file_for_each_kind() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let write = std::env::var("GOLDEN").is_ok_and(|value| value == "write");
        let folder = if write {
            kept.clone()
        } else {
            let name = format!("serin-crds-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let arguments = CrdArguments {
            kind: None,
            output: Some(folder.clone()),
        };
        run(&arguments).unwrap();
        for (name, _) in crd::all() {
            let written = std::fs::read_to_string(folder.join(name)).unwrap();
            let kept = std::fs::read_to_string(kept.join(name)).unwrap();
            assert_eq!(written, kept, "{name}; make crds brings it up to date");
        }
        if !write {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
