//! `serin promote | abort | retry | pause | resume | skip-analysis`: leaves the word on the Canary and waits for the controller's answer.

use super::cluster::Cluster;
use super::screen::{Style, Tone};
use super::{Selection, exit};
use crate::api::{COMMAND_ANNOTATION, Canary, Command, CommandAnswer, CommandWord};
use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use std::time::Duration;

/// Arguments of every word.
#[derive(Clone, Debug, Args)]
pub struct SayArguments {
    #[command(flatten)]
    pub selection: Selection,
    /// Why; it stands in the history and in the event.
    #[arg(short = 'm', long, default_value = "")]
    pub reason: String,
    /// How long to wait for the controller's answer, such as 10s; 0s leaves the word and goes.
    #[arg(long, default_value = "15s", value_parser = super::duration)]
    pub timeout: Duration,
}

/// Leaves the word on every canary that is meant, then waits for the answers.
pub async fn run(word: CommandWord, arguments: &SayArguments) -> anyhow::Result<u8> {
    let selection = &arguments.selection;
    if selection.names.is_empty() && selection.selector.is_none() {
        bail!("name a canary, or choose some with -l");
    }
    let cluster = Cluster::connect(&selection.kube).await?;
    let found = selection.find(&cluster).await?;
    if found.is_empty() {
        bail!(
            "no canary has the labels {}",
            selection.selector.as_deref().unwrap_or_default()
        );
    }
    let command = Command {
        word,
        by: cluster.whoami().await,
        at: Some(Timestamp::now()),
        reason: arguments.reason.clone(),
    };
    let text = command.encode();
    let mut asked = Vec::new();
    for value in &found {
        let metadata = crate::api::Metadata::of(value);
        cluster
            .annotate(
                &metadata.namespace,
                &metadata.name,
                COMMAND_ANNOTATION,
                &text,
            )
            .await?;
        asked.push((metadata.namespace, metadata.name));
    }
    if arguments.timeout.is_zero() {
        return Ok(exit::OK);
    }
    let id = Command::id(&text);
    let end = tokio::time::Instant::now() + arguments.timeout;
    let mut code = exit::OK;
    for (namespace, name) in asked {
        let there = cluster.in_namespace(&namespace);
        loop {
            let canary = Canary::decode(&there.canary(&name).await?)
                .with_context(|| format!("canary {name} can't be read"))?;
            let answer = canary.status_or_default().command;
            if let Some(answer) = answer.filter(|answer| answer.id == id) {
                let (line, own) = tell(&namespace, &name, &answer, Style::of_output());
                print!("{line}");
                code = code.max(own);
                break;
            }
            if tokio::time::Instant::now() >= end {
                println!(
                    "{namespace}/{name}: {word} is left on the canary; no controller has answered within {:?}",
                    arguments.timeout
                );
                code = code.max(exit::TIMED_OUT);
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(code)
}

/// The controller's answer in a line, and the exit code for it.
pub fn tell(namespace: &str, name: &str, answer: &CommandAnswer, style: Style) -> (String, u8) {
    let (tone, code) = match answer.outcome.as_str() {
        "Honoured" => (Tone::Good, exit::OK),
        _ => (Tone::Bad, exit::REFUSED),
    };
    let outcome = style.paint(tone, &answer.outcome.to_lowercase());
    let line = format!(
        "{namespace}/{name}: {} {outcome}: {}\n",
        answer.word, answer.message
    );
    (line, code)
}
