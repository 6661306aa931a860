//! Other programs, where they are allowed: started in a process group of their own, with their output bounded, and ended as a whole when
//! time is up or nobody waits for them any more.

use super::runner::Outcome;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// How much of the output is kept: its end, which mostly says why.
const LONGEST_OUTPUT: usize = 64 * 1024;
/// How long a program that was told to end may take.
const LAST_MOMENTS: Duration = Duration::from_secs(3);
/// How long output is still read when the program is gone; a child of its own may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name or path.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Whether there is such a program here.
#[must_use]
pub fn is_there(name: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return runs(Path::new(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| runs(&folder.join(name)))
}

/// The end of what was written.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<(VecDeque<u8>, bool)>>);

impl Output {
    fn add(&self, bytes: &[u8]) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, cut) = &mut *output;
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(LONGEST_OUTPUT);
        if surplus > 0 {
            kept.drain(..surplus);
            *cut = true;
        }
    }

    fn text(&self) -> String {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, cut) = &mut *output;
        let text = String::from_utf8_lossy(kept.make_contiguous());
        if *cut {
            format!("…\n{text}")
        } else {
            text.into_owned()
        }
    }

    async fn read(self, mut from: impl AsyncRead + Unpin) {
        let mut piece = [0; 4096];
        while let Ok(length) = from.read(&mut piece).await
            && length > 0
        {
            self.add(&piece[..length]);
        }
    }
}

/// A running program; whatever is left of its group goes with it.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a program to its end or until `stop`.
pub async fn run(program: &Program, stop: &CancellationToken) -> Outcome {
    let failed = |output: String| Outcome {
        passed: false,
        output,
    };
    let started = Command::new(&program.name)
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return failed(format!("{} can't be started: {error}\n", program.name)),
    };
    let output = Output::default();
    let mut readers = tokio::task::JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(output.clone().read(stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(output.clone().read(stderr));
    }
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let mut running = Running { child, group };
    let ended = tokio::select! {
        ended = running.child.wait() => Some(ended),
        () = stop.cancelled() => None,
    };
    if ended.is_none() {
        running.signal(Signal::TERM);
        let _ = tokio::time::timeout(LAST_MOMENTS, running.child.wait()).await;
    }
    let all = async { while readers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    let text = output.text();
    match ended {
        None => failed(format!("{text}stopped before the end\n")),
        Some(Err(error)) => failed(format!("{text}{error}\n")),
        Some(Ok(status)) if status.success() => Outcome {
            passed: true,
            output: text,
        },
        Some(Ok(status)) => failed(format!("{text}{status}\n")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Program {
        Program {
            name: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    #[tokio::test]
    async fn output_and_end_of_a_program() {
        let never = CancellationToken::new();
        let fine = run(&shell("echo one; echo two >&2"), &never).await;
        assert!(
            fine.passed && fine.output.contains("one\n") && fine.output.contains("two\n"),
            "{fine:?}"
        );
        let bad = run(&shell("echo why; exit 3"), &never).await;
        assert_eq!(
            (bad.passed, bad.output.as_str()),
            (false, "why\nexit status: 3\n")
        );
        let missing = run(
            &Program {
                name: "no-such-program".into(),
                arguments: vec![],
            },
            &never,
        )
        .await;
        assert!(
            !missing.passed && missing.output.contains("can't be started"),
            "{missing:?}"
        );
        let long = run(
            &shell("head -c 200000 /dev/zero | tr '\\0' x; echo; echo the end"),
            &never,
        )
        .await;
        assert!(long.output.len() < LONGEST_OUTPUT + 10 && long.output.ends_with("the end\n"));
        assert!(
            is_there("sh")
                && is_there("/bin/sh")
                && !is_there("no-such-program")
                && !is_there("/tmp")
        );
    }

    #[tokio::test]
    async fn what_a_program_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let stop = CancellationToken::new();
        let script = format!("(sleep 2; touch {}) & sleep 60", mark.display());
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stopping.cancel();
        });
        let begun = Instant::now();
        let outcome = run(&shell(&script), &stop).await;
        assert!(
            !outcome.passed && outcome.output.ends_with("stopped before the end\n"),
            "{outcome:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(!mark.exists(), "the program's own child was left behind");
    }
}
