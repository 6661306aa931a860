//! `docs/tutorial.md` as a newcomer follows it: every command of its `console` blocks is typed into one shell, in order, and what it says
//! is compared with what the page says. On the page `…` stands for any text, and a line of `…` alone for any lines.
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bed::{Bed, beside};
use crate::tools::project_root;

/// More than any command of the page takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(6);
/// What the shell says when a command is over, followed by its exit code.
const OVER: &str = "--over-";

/// A command of the page, and the lines that it shows for it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
}

/// The steps of a page's `console` blocks.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                shown: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.shown.push(line.to_owned());
        }
    }
    steps
}

/// Whether a line is as the page has it; runs of spaces count as one, since columns are as wide as names are long.
fn fits(shown: &str, said: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = squeeze(said);
    let shown = squeeze(shown);
    let mut parts = shown.split('…').map(str::trim);
    let mut rest = said.as_str();
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    let mut open = false;
    for part in parts {
        open = part.is_empty();
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    open || rest.is_empty()
}

/// Compares all that was said with all that is shown; the error is what is missing.
fn compare<'a>(shown: &'a [String], said: &[String]) -> Result<(), &'a str> {
    let mut said = said.iter();
    let mut skip = false;
    for line in shown {
        if line.trim() == "…" {
            skip = true;
            continue;
        }
        let found = if skip {
            said.any(|other| fits(line, other))
        } else {
            said.next().is_some_and(|other| fits(line, other))
        };
        if !found {
            return Err(line);
        }
        skip = false;
    }
    let rest = said.next().is_none();
    if skip || rest {
        Ok(())
    } else {
        Err("the end of the output")
    }
}

/// One shell, as a person has it open.
struct Shell {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn open(bed: &Bed) -> Result<Self> {
        let mut folders = vec![
            bed.tools()
                .kubectl
                .parent()
                .map(Path::to_path_buf)
                .context("kubectl has no folder")?,
            beside("serin")?
                .parent()
                .map(Path::to_path_buf)
                .context("serin has no folder")?,
        ];
        let own = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&own));
        let home = bed.state().join("helm");
        let mut process = Command::new("bash")
            .args(["-c", "exec bash 2>&1"])
            .current_dir(project_root()?)
            .env("PATH", std::env::join_paths(folders)?)
            .env("KUBECONFIG", bed.kubeconfig("admin"))
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("bash can't be started")?;
        let input = process.stdin.take().context("the shell has no input")?;
        let output = process.stdout.take().context("the shell has no output")?;
        Ok(Self {
            _process: process,
            input,
            output: BufReader::new(output).lines(),
        })
    }

    /// Types a command; what it said, and its exit code.
    async fn run(&mut self, command: &str) -> Result<(Vec<String>, i32)> {
        // Commands that read would otherwise read the next command.
        let typed = format!("{{ {command}\n}} </dev/null; echo \"{OVER}$?\"\n");
        // A command in the background, and a variable, must belong to this shell: braces see to that.
        self.input.write_all(typed.as_bytes()).await?;
        let mut said = Vec::new();
        while let Some(line) = self.output.next_line().await? {
            if let Some((before, code)) = line.split_once(OVER) {
                if !before.is_empty() {
                    said.push(before.to_owned());
                }
                return Ok((said, code.trim().parse()?));
            }
            said.push(line);
        }
        bail!("the shell ended:\n{}", said.join("\n"))
    }
}

pub async fn run(bed: &Bed) -> Result<()> {
    let page = std::fs::read_to_string(project_root()?.join("docs/tutorial.md"))?;
    let steps = steps(&page);
    ensure!(steps.len() > 20, "the tutorial has {} steps", steps.len());
    let mut shell = Shell::open(bed)?;
    let mut transcript = String::new();
    for step in &steps {
        bed.timeline().note("", format!("$ {}", step.command));
        let (said, code) = tokio::time::timeout(PATIENCE, shell.run(&step.command))
            .await
            .with_context(|| {
                format!(
                    "tutorial.md:{}: no end of `{}`\n{transcript}",
                    step.line, step.command
                )
            })??;
        let said_text = said.join("\n");
        writeln!(transcript, "$ {}\n{said_text}", step.command)?;
        std::fs::write(bed.state().join("tutorial.txt"), &transcript)?;
        ensure!(
            code == 0,
            "tutorial.md:{}: `{}` ended with {code}:\n{said_text}",
            step.line,
            step.command
        );
        if let Err(missing) = compare(&step.shown, &said) {
            bail!(
                "tutorial.md:{}: `{}` does not say {missing:?}, but:\n{said_text}",
                step.line,
                step.command
            );
        }
    }
    println!("        {} commands of docs/tutorial.md", steps.len());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_console_blocks_are_steps() {
        let page = "text\n```console\n$ one\nsays\n$ two\n```\n```sh\n$ three\n```\n";
        let found = steps(page);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].line, found[0].command.as_str(), &found[0].shown),
            (3, "one", &vec!["says".to_owned()])
        );
        assert_eq!(found[1].command, "two");
    }

    #[test]
    fn dots_stand_for_any_text() {
        assert!(fits("web …0/0…", "web   0/0     0   2m"));
        assert!(fits("is …", "is  promoted"));
        assert!(fits("…kept…", "these were kept"));
        assert!(!fits("web", "webs"));
        assert!(!fits("a … b", "a c"));
        assert!(fits("", ""));
    }

    #[test]
    fn a_line_of_dots_stands_for_any_lines() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(compare(&lines("…\nb\n…"), &lines("a\nb\nc")), Ok(()));
        assert_eq!(
            compare(&lines("…\nb"), &lines("a\nb\nc")),
            Err("the end of the output")
        );
        assert_eq!(compare(&lines("a\nc"), &lines("a\nb")), Err("c"));
        assert_eq!(compare(&[], &[]), Ok(()));
    }
}
