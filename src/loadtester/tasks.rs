//! Tasks: what a hook asks to be run. Loads run in the background and are started once however often the hook asks; tests are waited for.

use super::commands::{self, Step, Token, tokens};
use super::elsewhere;
use super::generator::Destinations;
use super::metrics::Telemetry;
use super::payload::Payload;
use super::process::{self, Program};
use super::runner::{self, Outcome, Progress};
use crate::api::GoDuration;
use crate::object::digest;
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many results of tasks are remembered, for whoever asks for the same again.
const MOST_RESULTS: usize = 1000;

/// What tasks may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest that a task may take.
    pub timeout: Duration,
    /// Whether shells and other programs may be run.
    pub allow_shell: bool,
    /// Hosts that may be asked.
    pub allowed_hosts: Vec<String>,
    /// Requests under way at the same time, of all tasks together.
    pub max_workers: usize,
    /// Folder with the keys of servers that run tests, below the names of their hosts.
    pub api_keys: Option<PathBuf>,
}

/// The types of tasks, and whether they are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// In the background.
    Cmd,
    /// Waited for.
    Bash,
    /// `helm` with these arguments; `helmv3` is another name of its program.
    Helm(&'static str),
    /// `kubectl` with these arguments.
    Kubectl,
    /// A test of an nGrinder, in the background.
    NGrinder,
    /// A process of a Concord, waited for.
    Concord,
}

/// Why a task is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// It is not allowed here.
    #[error("{0}")]
    NotAllowed(String),
    /// Not now.
    #[error("{0}")]
    Busy(String),
}

/// What is to be run.
#[derive(Clone, Debug)]
enum Job {
    BuiltIn(Vec<Step>),
    Program(Program),
    Elsewhere(Box<elsewhere::Test>),
}

impl Job {
    /// What a log may say of it.
    fn shown(&self) -> String {
        match self {
            Self::BuiltIn(steps) => steps
                .iter()
                .map(Step::shown)
                .collect::<Vec<_>>()
                .join(", then "),
            Self::Program(program) => program.name.clone(),
            Self::Elsewhere(test) => test.shown(),
        }
    }

    /// Requests under way at the same time.
    fn workers(&self) -> usize {
        match self {
            Self::BuiltIn(steps) => steps.iter().map(Step::workers).max().unwrap_or(1),
            Self::Program(_) | Self::Elsewhere(_) => 1,
        }
    }
}

/// A task that may be run.
pub struct Task {
    kind: TaskKind,
    job: Job,
    key: String,
    name: String,
    namespace: String,
    logged: bool,
}

/// What became of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It runs in the background, from now on or before; the text says how far it is.
    Accepted(String),
    /// It ended.
    Ended(Outcome),
}

struct Last {
    ended: Instant,
    outcome: Outcome,
}

struct Running {
    began: Instant,
    progress: Progress,
}

/// All tasks.
pub struct Tasks {
    limits: Limits,
    destinations: Arc<Destinations>,
    telemetry: Arc<Telemetry>,
    workers: Arc<Semaphore>,
    running: Mutex<HashMap<String, Arc<Running>>>,
    results: Mutex<HashMap<String, Last>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Takes a task from those that run, however it ends.
struct Entry {
    tasks: Arc<Tasks>,
    key: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tasks.running().remove(&self.key);
    }
}

/// Counts a task among those that run.
struct Counted(Arc<Telemetry>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl TaskKind {
    /// The word for it in series.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cmd => "cmd",
            Self::Bash => "bash",
            Self::Helm(_) => "helm",
            Self::Kubectl => "kubectl",
            Self::NGrinder => "ngrinder",
            Self::Concord => "concord",
        }
    }

    /// Whether whoever asks waits for nothing but the start.
    fn in_background(self) -> bool {
        matches!(self, Self::Cmd | Self::NGrinder)
    }

    fn of(word: &str) -> Result<Self, Refused> {
        Ok(match word {
            "" | "cmd" => Self::Cmd,
            "bash" => Self::Bash,
            "helm" => Self::Helm("helm"),
            "helmv3" => Self::Helm("helmv3"),
            "kubectl" => Self::Kubectl,
            "ngrinder" => Self::NGrinder,
            "concord" => Self::Concord,
            other => {
                return Err(Refused::Malformed(format!(
                    "metadata.type: expected cmd, bash, helm, helmv3, kubectl, ngrinder or concord, found {other:?}"
                )));
            }
        })
    }
}

impl Tasks {
    /// None runs yet.
    #[must_use]
    pub fn new(limits: Limits, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self {
            destinations: Arc::new(Destinations::new(&limits.allowed_hosts)),
            workers: Arc::new(Semaphore::new(
                limits.max_workers.min(Semaphore::MAX_PERMITS),
            )),
            limits,
            telemetry,
            running: Mutex::default(),
            results: Mutex::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request asks for, if it may be run.
    ///
    /// # Errors
    /// If it makes no sense or is not allowed.
    pub fn plan(&self, payload: &Payload) -> Result<Task, Refused> {
        if payload.metadata.is_none() {
            return Err(Refused::Malformed(
                "metadata: expected the task's type and cmd, found none".to_owned(),
            ));
        }
        let kind = TaskKind::of(payload.text("type"))?;
        let cmd = || match payload.text("cmd") {
            cmd if cmd.trim().is_empty() => Err(Refused::Malformed(
                "metadata.cmd: expected a command, found none".to_owned(),
            )),
            cmd => Ok(cmd),
        };
        let job = match kind {
            TaskKind::Cmd => self.line(cmd()?, "sh")?,
            TaskKind::Bash => self.line(cmd()?, "bash")?,
            TaskKind::Helm(name) => {
                let named = if process::is_there(name) {
                    name
                } else {
                    "helm"
                };
                self.program(named, cmd()?)?
            }
            TaskKind::Kubectl => self.program("kubectl", cmd()?)?,
            TaskKind::NGrinder => self.elsewhere(elsewhere::Test::of_ngrinder(payload)?)?,
            TaskKind::Concord => {
                let keys = self.limits.api_keys.as_deref();
                self.elsewhere(elsewhere::Test::of_concord(payload, keys)?)?
            }
        };
        let what = match &job {
            Job::Elsewhere(test) => test.shown(),
            _ => payload.text("cmd").to_owned(),
        };
        let key = digest(&json!([payload.namespace, payload.name, kind.word(), what]));
        Ok(Task {
            kind,
            job,
            key,
            name: payload.name.clone(),
            namespace: payload.namespace.clone(),
            logged: payload.says("logCmdOutput"),
        })
    }

    /// A command line: ours, or one for a shell.
    fn line(&self, line: &str, shell: &str) -> Result<Job, Refused> {
        let error = match commands::parse(line) {
            Ok(steps) => {
                for step in &steps {
                    self.destinations
                        .check(step.host())
                        .map_err(|error| Refused::NotAllowed(error.to_string()))?;
                }
                return Ok(Job::BuiltIn(steps));
            }
            Err(error) => error,
        };
        if let commands::CommandError::Wrong { program, .. } = &error {
            // The program itself may know more.
            if !(self.limits.allow_shell && process::is_there(program)) {
                return Err(Refused::Malformed(error.to_string()));
            }
        } else if !error.needs_shell() {
            return Err(Refused::Malformed(error.to_string()));
        }
        self.allowed(&error.to_string(), shell)?;
        Ok(Job::Program(Program {
            name: shell.to_owned(),
            arguments: vec!["-c".to_owned(), line.to_owned()],
        }))
    }

    fn elsewhere(&self, test: elsewhere::Test) -> Result<Job, Refused> {
        self.destinations
            .check(test.host())
            .map_err(|error| Refused::NotAllowed(error.to_string()))?;
        Ok(Job::Elsewhere(Box::new(test)))
    }

    fn program(&self, name: &str, arguments: &str) -> Result<Job, Refused> {
        self.allowed(&format!("{name} is not built in"), name)?;
        let arguments = tokens(arguments)
            .map_err(|error| Refused::Malformed(format!("metadata.cmd: {error}")))?
            .into_iter()
            .map(|token| match token {
                Token::Word(word) => Ok(word),
                _ => Err(Refused::Malformed(
                    "metadata.cmd: expected arguments of one program, found several commands"
                        .to_owned(),
                )),
            })
            .collect::<Result<_, _>>()?;
        Ok(Job::Program(Program {
            name: name.to_owned(),
            arguments,
        }))
    }

    /// Whether a program may be run and is there.
    fn allowed(&self, why: &str, program: &str) -> Result<(), Refused> {
        if !self.limits.allow_shell {
            return Err(Refused::NotAllowed(format!(
                "{why}, and other programs are not run here: the load tester was started without --allow-shell"
            )));
        }
        if !process::is_there(program) {
            return Err(Refused::NotAllowed(format!(
                "{why}, and the image of the load tester has no {program}"
            )));
        }
        Ok(())
    }

    /// Runs a task: to its end, or in the background if that is its kind.
    ///
    /// # Errors
    /// If too much is under way.
    pub async fn run(self: &Arc<Self>, task: Task) -> Result<Answer, Refused> {
        if task.kind.in_background() {
            return self.start(task);
        }
        let permit = self.permit(task.job.workers())?;
        let outcome = self.work(&task, &Progress::default()).await;
        drop(permit);
        Ok(Answer::Ended(outcome))
    }

    fn start(self: &Arc<Self>, task: Task) -> Result<Answer, Refused> {
        let mut all = self.running();
        // One look under one lock: of two that ask at the same time one starts it.
        if let Some(running) = all.get(&task.key) {
            let so_far = running.progress.shown();
            let began = GoDuration(whole(running.began.elapsed()));
            return Ok(Answer::Accepted(format!("running for {began}\n{so_far}\n")));
        }
        let permit = self.permit(task.job.workers())?;
        let running = Arc::new(Running {
            began: Instant::now(),
            progress: Progress::default(),
        });
        all.insert(task.key.clone(), Arc::clone(&running));
        drop(all);
        let mut text = format!("started {}\n", task.job.shown());
        if let Some(last) = self.results().get(&task.key) {
            let ago = GoDuration(whole(last.ended.elapsed()));
            let _ = write!(
                text,
                "the last one ended {ago} ago:\n{}",
                last.outcome.output
            );
        }
        let entry = Entry {
            tasks: Arc::clone(self),
            key: task.key.clone(),
        };
        let tasks = Arc::clone(self);
        self.tracker.spawn(async move {
            let outcome = tasks.work(&task, &running.progress).await;
            tasks.remember(&task.key, outcome);
            drop((entry, permit));
        });
        Ok(Answer::Accepted(text))
    }

    fn permit(&self, workers: usize) -> Result<OwnedSemaphorePermit, Refused> {
        if self.stop.is_cancelled() {
            return Err(Refused::Busy("the load tester is stopping".to_owned()));
        }
        let most = self.limits.max_workers;
        if workers > most {
            return Err(Refused::Malformed(format!(
                "{workers} workers are more than the {most} that --max-workers allows"
            )));
        }
        let number = u32::try_from(workers).unwrap_or(u32::MAX);
        Arc::clone(&self.workers)
            .try_acquire_many_owned(number)
            .map_err(|_| {
                Refused::Busy(format!(
                    "{workers} workers are asked for and {} of {most} are free",
                    self.workers.available_permits()
                ))
            })
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, Last>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &str, outcome: Outcome) {
        let mut results = self.results();
        if results.len() >= MOST_RESULTS && !results.contains_key(key) {
            let oldest = results
                .iter()
                .min_by_key(|(_, last)| last.ended)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                results.remove(&oldest);
            }
        }
        let ended = Instant::now();
        results.insert(key.to_owned(), Last { ended, outcome });
    }

    /// Does it, within the time that tasks have.
    async fn work(&self, task: &Task, progress: &Progress) -> Outcome {
        self.telemetry.began();
        let _counted = Counted(Arc::clone(&self.telemetry));
        let began = Instant::now();
        let canary = format!("{}/{}", task.namespace, task.name);
        let what = task.job.shown();
        tracing::info!(canary, task = what, "task begins");
        let stop = self.stop.child_token();
        let job = async {
            match &task.job {
                Job::BuiltIn(steps) => {
                    let observer = || self.telemetry.observer(&task.namespace, &task.name);
                    runner::run(steps, &self.destinations, &observer, progress, &stop).await
                }
                Job::Program(program) => process::run(program, &stop).await,
                Job::Elsewhere(test) => test.run(&self.destinations, &stop).await,
            }
        };
        let mut job = std::pin::pin!(job);
        let mut outcome = tokio::select! {
            outcome = &mut job => outcome,
            () = tokio::time::sleep(self.limits.timeout) => {
                stop.cancel();
                job.await
            }
        };
        let stopped = stop.is_cancelled();
        if stopped && !self.stop.is_cancelled() {
            outcome.passed = false;
            let _ = writeln!(
                outcome.output,
                "stopped after {}, the longest that a task may take",
                GoDuration(self.limits.timeout)
            );
        }
        let result = match (stopped, outcome.passed) {
            (true, _) => "stopped",
            (false, true) => "passed",
            (false, false) => "failed",
        };
        self.telemetry.ended(task.kind.word(), result);
        let took = GoDuration(whole(began.elapsed())).to_string();
        if outcome.passed {
            tracing::info!(canary, task = what, took, "task {result}");
        } else {
            tracing::warn!(canary, task = what, took, "task {result}");
        }
        if task.logged {
            for line in outcome.output.lines() {
                tracing::info!(canary, "{line}");
            }
        }
        outcome
    }

    /// Whether no task runs in the background.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.running().is_empty()
    }

    /// Takes no new tasks, stops those that run, and waits for their ends.
    pub async fn finish(&self, patience: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = self.tracker.len(), "tasks did not end in time");
        }
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
