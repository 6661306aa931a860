//! Asking and telling: `serin get | explain | history | wait | watch` and the words of [`say`]. What is shown is made by pure functions from
//! objects ([`list`], [`detail`], [`explain`], [`history`]); this file and [`cluster`] do the talking.
//!
//! ```text
//!   flags ─▶ cluster ─▶ Canary (and what stands around it) ─▶ facts ─▶ list | detail | explain | history ─▶ text
//! ```

pub mod cluster;
mod detail;
mod explain;
mod facts;
mod history;
mod list;
mod say;
pub(in crate::cli) mod screen;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod wait;

use crate::api::{Canary, CommandWord};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use cluster::{Cluster, KubeFlags};
use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::watcher;
use screen::Style;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// Exit codes, the same for all commands; `docs/cli.md` lists them.
pub mod exit {
    /// Done; for `wait`: what was waited for is so.
    pub const OK: u8 = 0;
    /// It could not be done, or `lint` found errors.
    pub const ERROR: u8 = 1;
    /// `wait`: the revision was rolled back, or its promotion failed.
    pub const ROLLED_BACK: u8 = 3;
    /// The time was over first.
    pub const TIMED_OUT: u8 = 4;
    /// `wait`: a newer revision took its place before it was judged.
    pub const SUPERSEDED: u8 = 5;
    /// The controller refuses the word, or can't carry out the canary.
    pub const REFUSED: u8 = 6;
    /// `wait --for=failed`: the revision was promoted.
    pub const PROMOTED: u8 = 7;
}

/// The exit codes as `--help` tells them.
pub const EXIT_CODES: &str = "Exit codes:
  0  done; for wait: what was waited for is so
  1  it could not be done; for lint: errors were found
  2  the command line is not understood
  3  wait: the revision was rolled back, or its promotion failed
  4  the timeout was over first
  5  wait: a newer revision took its place
  6  the controller refuses the word, or can't carry out the canary
  7  wait --for=failed: the revision was promoted";

/// Which canaries are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct Selection {
    #[command(flatten)]
    pub kube: KubeFlags,
    /// Names of canaries.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Those with these labels, as kubectl understands them: app=shop,tier!=cache.
    #[arg(short = 'l', long, conflicts_with = "names")]
    pub selector: Option<String>,
    /// In all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["names", "namespace"])]
    pub all_namespaces: bool,
}

impl Selection {
    async fn find(&self, cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
        // kubectl's TYPE/NAME is understood too.
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect();
        cluster
            .find(&names, self.selector.as_deref(), self.all_namespaces)
            .await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// More columns, or the explanation below the screen.
    Wide,
    Json,
    Yaml,
    /// canary.flagger.app/NAME, one a line.
    Name,
}

/// Arguments of `serin get`.
#[derive(Clone, Debug, Args)]
pub struct GetArguments {
    #[command(flatten)]
    selection: Selection,
    /// How to print. Default: a table, or one screen for one name.
    #[arg(short = 'o', long, value_enum)]
    output: Option<Output>,
    /// Goes on and shows every change.
    #[arg(short = 'w', long)]
    watch: bool,
}

/// One canary.
#[derive(Clone, Debug, Args)]
pub struct One {
    #[command(flatten)]
    kube: KubeFlags,
    /// Name of the canary.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Arguments of `serin explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArguments {
    #[command(flatten)]
    one: One,
    /// A run of the past by its number, as `serin history` lists them.
    #[arg(long, value_name = "NUMBER")]
    run: Option<i64>,
}

/// Arguments of `serin wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArguments {
    #[command(flatten)]
    one: One,
    /// succeeded, failed, done (either), initialized, phase=PHASE or condition=TYPE[=STATUS].
    #[arg(long = "for", value_name = "WHAT", default_value = "succeeded")]
    goal: wait::Goal,
    /// How long to wait at most, such as 90s or 1h.
    #[arg(long, default_value = "30m", value_parser = duration)]
    timeout: Duration,
    /// Says nothing but the end.
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// The commands that ask and tell.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Show canaries: a table, or one screen for one name.
    Get(GetArguments),
    /// Show canaries live, a table that follows every change.
    Watch(GetArguments),
    /// Say why a canary is where it is, what it waits for and what happens next.
    Explain(ExplainArguments),
    /// List the last runs of a canary and how they ended.
    History(One),
    /// Wait until the revision that the target carries is promoted or rolled back.
    Wait(WaitArguments),
    /// Promote the revision of the present run, whatever checks and gates are still to come.
    Promote(say::SayArguments),
    /// End the present run: all traffic goes back to the primary.
    Abort(say::SayArguments),
    /// Judge the revision that failed once more, or try a failed promotion again.
    Retry(say::SayArguments),
    /// Take no further step and start no run; checks go on and may roll back.
    Pause(say::SayArguments),
    /// End a pause.
    Resume(say::SayArguments),
    /// Promote the revision of the present run without judging it.
    SkipAnalysis(say::SayArguments),
}

/// Runs a command; the result is an exit code.
pub fn run(command: &Ask) -> anyhow::Result<u8> {
    crate::providers::http::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    let result = runtime.block_on(async {
        match command {
            Ask::Get(arguments) => get(arguments).await,
            Ask::Watch(arguments) => {
                let mut arguments = arguments.clone();
                arguments.watch = true;
                get(&arguments).await
            }
            Ask::Explain(arguments) => explain(arguments).await,
            Ask::History(one) => {
                let canary = one.read().await?;
                print(&history::render(
                    &canary,
                    Timestamp::now(),
                    Style::of_output(),
                ))
            }
            Ask::Wait(arguments) => wait(arguments).await,
            Ask::Promote(arguments) => say::run(CommandWord::Promote, arguments).await,
            Ask::Abort(arguments) => say::run(CommandWord::Abort, arguments).await,
            Ask::Retry(arguments) => say::run(CommandWord::Retry, arguments).await,
            Ask::Pause(arguments) => say::run(CommandWord::Pause, arguments).await,
            Ask::Resume(arguments) => say::run(CommandWord::Resume, arguments).await,
            Ask::SkipAnalysis(arguments) => say::run(CommandWord::SkipAnalysis, arguments).await,
        }
    });
    runtime.shutdown_background();
    result
}

impl One {
    async fn cluster(&self) -> anyhow::Result<Cluster> {
        Cluster::connect(&self.kube).await
    }

    fn name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    async fn read(&self) -> anyhow::Result<Canary> {
        decoded(&self.cluster().await?.canary(self.name()).await?)
    }
}

fn decoded(value: &Value) -> anyhow::Result<Canary> {
    let name = crate::api::Metadata::of(value).namespaced_name();
    Canary::decode(value).with_context(|| format!("canary {name} is not understood"))
}

/// Prints; a reader that had enough, such as head, is no error.
fn print(text: &str) -> anyhow::Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit::OK),
    }
}

/// A time span of the command line, in Go's words.
fn duration(text: &str) -> Result<Duration, String> {
    crate::api::parse_go_duration(text).map_err(|error| error.to_string())
}

async fn get(arguments: &GetArguments) -> anyhow::Result<u8> {
    let cluster = Cluster::connect(&arguments.selection.kube).await?;
    if arguments.watch {
        return follow(&cluster, arguments).await;
    }
    let text = picture(&cluster, arguments).await?;
    print(&text)
}

/// What `serin get` shows now.
async fn picture(cluster: &Cluster, arguments: &GetArguments) -> anyhow::Result<String> {
    let selection = &arguments.selection;
    let found = selection.find(cluster).await?;
    let style = Style::of_output();
    let now = Timestamp::now();
    match arguments.output {
        Some(Output::Json) => Ok(format!("{:#}\n", together(found, selection))),
        Some(Output::Yaml) => serde_saphyr::to_string(&together(found, selection))
            .context("no YAML can be made of it"),
        Some(Output::Name) => {
            let name = |value| crate::api::Metadata::of(value).name;
            let names: Vec<String> = found.iter().map(name).collect();
            Ok(names.iter().fold(String::new(), |text, name| {
                text + "canary.flagger.app/" + name + "\n"
            }))
        }
        output => {
            if found.is_empty() {
                let place = if selection.all_namespaces {
                    "any namespace".to_owned()
                } else {
                    format!("namespace {}", cluster.namespace)
                };
                eprintln!("No canaries found in {place}.");
                return Ok(String::new());
            }
            if let ([one], 1) = (found.as_slice(), selection.names.len()) {
                let canary = decoded(one)?;
                let around = cluster.surroundings(&canary).await;
                return Ok(match output {
                    Some(_) => detail::render_wide(&canary, &around, now, style),
                    None => detail::render(&canary, &around, now, style),
                });
            }
            let columns = list::Columns {
                namespace: selection.all_namespaces,
                wide: output.is_some(),
            };
            let lines: Vec<list::Line> = found.iter().map(list::Line::of).collect();
            Ok(list::render(&lines, columns, now, style))
        }
    }
}

/// One object as it is, several as a List.
fn together(mut found: Vec<Value>, selection: &Selection) -> Value {
    if selection.names.len() == 1 && found.len() == 1 {
        return found.remove(0);
    }
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": found})
}

/// Shows the picture anew at every change and each second; on a terminal in place, else one after the other at changes only.
async fn follow(cluster: &Cluster, arguments: &GetArguments) -> anyhow::Result<u8> {
    use std::io::IsTerminal;
    let live = std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let text = picture(cluster, arguments).await?;
        if live {
            // To the top left, each line cleared to its end, then all below.
            let text = text.replace('\n', "\u{1b}[K\n");
            print(&format!("\u{1b}[H{text}\u{1b}[J"))?;
        } else if text != last {
            print(&text)?;
            last = text;
        }
        std::io::stdout().flush()?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn explain(arguments: &ExplainArguments) -> anyhow::Result<u8> {
    let canary = arguments.one.read().await?;
    let (now, style) = (Timestamp::now(), Style::of_output());
    let text = match arguments.run {
        None => explain::render(&canary, now, style),
        Some(number) => match explain::render_run(&canary, number, now, style) {
            Ok(text) => text,
            Err(why) => bail!(why),
        },
    };
    print(&text)
}

async fn wait(arguments: &WaitArguments) -> anyhow::Result<u8> {
    let cluster = arguments.one.cluster().await?;
    let name = arguments.one.name();
    // The revision that the pipeline has just brought is what it waits for, whatever the controller has seen so far.
    let first = decoded(&cluster.canary(name).await?)?;
    let target = cluster.target(&first).await;
    let revision = target
        .as_ref()
        .map(|target| cluster::revision_of(&first, target));
    let end = tokio::time::sleep(arguments.timeout);
    tokio::pin!(end);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher::watcher(cluster.canaries(), only);
    tokio::pin!(changes);
    let mut told = String::new();
    loop {
        let event = tokio::select! {
            () = &mut end => {
                eprintln!("{}/{name}: not within {:?}; {told}", cluster.namespace, arguments.timeout);
                return Ok(exit::TIMED_OUT);
            }
            event = changes.next() => event,
        };
        let object = match event {
            Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => object,
            Some(Ok(watcher::Event::Delete(_))) => bail!("canary {name} was deleted"),
            Some(Ok(_)) => continue,
            // The watch begins anew by itself; a pipeline must not fail because an API server was restarted.
            Some(Err(error)) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                tracing::debug!(%error, "the watch broke");
                continue;
            }
            None => bail!("the watch ended"),
        };
        let value = cluster::whole(&object, &crate::object::kinds::CANARY).into_value();
        match wait::look(&decoded(&value)?, &arguments.goal, revision.as_deref()) {
            wait::Look::Over(code, sentence) => {
                println!("{sentence}");
                return Ok(code);
            }
            wait::Look::GoesOn(progress) => {
                if progress != told && !arguments.quiet {
                    println!("{progress}");
                }
                told = progress;
            }
        }
    }
}
