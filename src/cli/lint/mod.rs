//! `serin lint FILE…`: what the controller would refuse or warn of, and what only shows between manifests, before a cluster sees any of it.
//!
//! ```text
//!   files ─▶ source (YAML with places) ─▶ checks (the controller's own, and between objects) ─▶ text | json | github | azure
//! ```

mod checks;
mod source;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::ask::exit;
use super::ask::screen::{Style, Tone};
use crate::controller::review::ReviewSettings;
use anyhow::Context;
use checks::{Finding, Manifest, Severity};
use clap::{Args, ValueEnum};
use serde_json::json;
use source::{Content, Node};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `serin lint`.
#[derive(Clone, Debug, Args)]
pub struct LintArguments {
    /// Files or folders with YAML; - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How findings are told: github and azure are the words by which those services show them beside the code.
    #[arg(short = 'o', long, value_enum, default_value = "text")]
    output: Format,
    /// The namespace of objects that name none.
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// The controller's -mesh-provider, for canaries that name no provider.
    #[arg(long, default_value = "gatewayapi:v1")]
    mesh_provider: String,
    /// The controller's -no-cross-namespace-refs.
    #[arg(long)]
    no_cross_namespace_refs: bool,
    /// The controller's -refuse-unsupported.
    #[arg(long)]
    refuse_unsupported: bool,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Github,
    Azure,
}

/// Checks the files; the result is an exit code.
pub fn run(arguments: &LintArguments) -> anyhow::Result<u8> {
    let setting = ReviewSettings {
        mesh_provider: arguments.mesh_provider.clone(),
        no_cross_namespace_refs: arguments.no_cross_namespace_refs,
        refuse_unsupported: arguments.refuse_unsupported,
    };
    let mut texts = Vec::new();
    for path in &arguments.files {
        gather(path, &mut texts)?;
    }
    let found = lint(&texts, &arguments.namespace, &setting);
    let text = told(&found, texts.len(), arguments.output, Style::of_output());
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let bad = found.iter().any(|one| {
        one.severity == Severity::Error || arguments.strict && one.severity == Severity::Warning
    });
    Ok(if bad { exit::ERROR } else { exit::OK })
}

/// The files with their texts; of folders those that are YAML.
fn gather(path: &Path, texts: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input can't be read")?;
        texts.push(("-".to_owned(), text));
        return Ok(());
    }
    if path.is_dir() {
        let mut below: Vec<PathBuf> = std::fs::read_dir(path)
            .with_context(|| format!("{} can't be read", path.display()))?
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| {
                path.is_dir()
                    || path
                        .extension()
                        .is_some_and(|extension| extension == "yaml" || extension == "yml")
            })
            .collect();
        below.sort();
        for path in below {
            gather(&path, texts)?;
        }
        return Ok(());
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} can't be read", path.display()))?;
    texts.push((path.display().to_string(), text));
    Ok(())
}

/// All that is found in these texts.
fn lint(texts: &[(String, String)], namespace: &str, setting: &ReviewSettings) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut manifests = Vec::new();
    for (file, text) in texts {
        match source::read(text) {
            Ok(documents) => {
                let text: Arc<str> = Arc::from(text.as_str());
                for node in documents.into_iter().flat_map(items) {
                    manifests.push(Manifest::new(
                        file.clone(),
                        Arc::clone(&text),
                        node,
                        namespace,
                    ));
                }
            }
            Err((at, message)) => found.push(Finding {
                file: file.clone(),
                line: at.line,
                column: at.column,
                severity: Severity::Error,
                rule: "yaml",
                object: String::new(),
                field: String::new(),
                message,
            }),
        }
    }
    found.extend(checks::check(&manifests, setting));
    found
}

/// The objects of a List, or the one object.
fn items(node: Node) -> Vec<Node> {
    let is_list = node.get("kind").is_some_and(|kind| {
        kind.value()
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"))
    });
    match node.get("items").map(|items| &items.content) {
        Some(Content::List(items)) if is_list => items.clone(),
        _ => vec![node],
    }
}

fn told(found: &[Finding], files: usize, format: Format, style: Style) -> String {
    let mut text = String::new();
    for one in found {
        let what = match (one.field.as_str(), one.object.as_str()) {
            ("", _) => one.message.clone(),
            (field, "") => format!("{field}: {}", one.message),
            (field, object) => format!("{field}: {} ({object})", one.message),
        };
        let line = match format {
            Format::Json => continue,
            Format::Text => format!(
                "{} {} {what}",
                style.paint(
                    Tone::Faint,
                    &format!("{}:{}:{}:", one.file, one.line, one.column)
                ),
                style.paint(
                    tone(one.severity),
                    &format!("{}[{}]:", word(one.severity), one.rule)
                ),
            ),
            Format::Github => format!(
                "::{} file={},line={},col={},title=serin {}::{}",
                match one.severity {
                    Severity::Note => "notice",
                    other => word(other),
                },
                property(&one.file),
                one.line,
                one.column,
                one.rule,
                data(&what)
            ),
            Format::Azure => format!(
                "##vso[task.logissue type={};sourcepath={};linenumber={};columnnumber={};code={};]{}",
                if one.severity == Severity::Error {
                    "error"
                } else {
                    "warning"
                },
                one.file.replace([';', ']'], "_"),
                one.line,
                one.column,
                one.rule,
                what.replace(['\r', '\n'], " ")
            ),
        };
        text.push_str(&line);
        text.push('\n');
    }
    match format {
        Format::Json => format!("{:#}\n", json!(found)),
        Format::Text => {
            let some = |count: usize, what: &str| {
                format!("{count} {what}{}", if count == 1 { "" } else { "s" })
            };
            let count = |severity| {
                let count = found.iter().filter(|one| one.severity == severity).count();
                let tone = if count == 0 {
                    Tone::Plain
                } else {
                    tone(severity)
                };
                style.paint(tone, &some(count, word(severity)))
            };
            text + &format!(
                "{}: {}, {}, {}\n",
                some(files, "file"),
                count(Severity::Error),
                count(Severity::Warning),
                count(Severity::Note)
            )
        }
        _ => text,
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warning,
        Severity::Note => Tone::Strong,
    }
}

/// GitHub's escapes of a workflow command's message and of its properties.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
