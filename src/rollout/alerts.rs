//! Alerts: each transition that a person should know of becomes a record in the status, in the same write as the transition, and stays
//! there as pending until those who are to be told were told. So a restart or a hand-over neither forgets an alert nor tells it twice. Who
//! was told is written along with the next change; a write of its own follows only where none comes soon.
//!
//! ```text
//!   pass ─▶ record (pending) ─▶ status ─▶ sender ─▶ outcome ─▶ next pass: record (sent | failed) ─▶ status
//! ```

use super::decision::{Announcement, Severity};
use super::reasons;
use super::snapshot::{Settings, Snapshot};
use super::view::signed;
use crate::analysis::alert as texts;
use crate::api::alert_provider::ADDRESS_KEY;
use crate::api::{
    AlertProvider, AlertRecord, AlertSeverity, Canary, CanaryStatus, MetricStatus, Phase,
    ProblemSeverity, Run, Verdict, validate_alert_provider,
};
use crate::object::{Object, ObjectRef, Reading, kinds, short_digest};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;

/// How many records are kept; those that nobody waits for go first.
pub const KEPT: usize = 10;
/// How many at the very most, with those that are still pending.
const MOST: usize = 20;
/// Longest sentence of a record in characters.
const LONGEST: usize = 600;
/// How many measurements a record keeps.
const MOST_CHECKS: usize = 8;
/// How the controller's own channel is called among those who are told.
pub const CONTROLLER: &str = "controller";
/// How long after an alert was sent that is written down by itself, while a run will write something anyway …
const WITH_A_RUN: SignedDuration = SignedDuration::from_secs(30);
/// … and where nothing may be written for long.
const AT_REST: SignedDuration = SignedDuration::from_secs(2);
/// How often a canary with pending alerts is looked at, for senders that were too busy to take one.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// What became of telling somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertOutcome {
    /// The record's key.
    pub key: String,
    /// Who was to be told, as in `pending`.
    pub provider: String,
    /// Why that was given up; `None` where it was told.
    pub failure: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The names of an `AlertProvider` as it stands in `pending`.
#[must_use]
pub fn provider_of(pending: &str) -> Option<ObjectRef> {
    let (namespace, name) = pending.split_once('/')?;
    Some(kinds::ALERT_PROVIDER.named(namespace, name))
}

fn as_api(severity: Severity) -> AlertSeverity {
    match severity {
        Severity::Info => AlertSeverity::Info,
        Severity::Warn => AlertSeverity::Warn,
        Severity::Error => AlertSeverity::Error,
    }
}

/// Who is told of something so grave, each once.
fn told(canary: &Canary, settings: &Settings, severity: AlertSeverity) -> Vec<String> {
    let alerts = &canary.spec.analysis.alerts;
    if alerts.is_empty() {
        return if settings.alerts {
            vec![CONTROLLER.to_owned()]
        } else {
            Vec::new()
        };
    }
    let mut seen = BTreeSet::new();
    alerts
        .iter()
        .filter(|alert| severity >= alert.severity())
        .map(|alert| {
            let reference = &alert.provider_ref;
            let namespace = reference.namespace_or(&canary.metadata.namespace);
            format!("{namespace}/{}", reference.name)
        })
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

/// Records what of `announcements` is to be told by alerts, in a status that is about to be written.
pub(super) fn record(
    snapshot: &Snapshot,
    status: &mut CanaryStatus,
    announcements: &[Announcement],
) {
    let canary = &snapshot.canary;
    for one in announcements {
        let Some(message) = &one.alert else { continue };
        let severity = as_api(one.severity);
        let pending = told(canary, &snapshot.settings, severity);
        if pending.is_empty() {
            continue;
        }
        let before = canary
            .status
            .as_ref()
            .and_then(|status| status.run.as_ref());
        let run = status.run.as_ref().or(before);
        let key = key(one, message, run, canary, snapshot.now);
        if status.alerts.iter().any(|known| known.key == key) {
            continue;
        }
        let cause = cause(status, severity, message);
        status.alerts.push(AlertRecord {
            key,
            at: Some(snapshot.now),
            severity,
            reason: one.reason.to_owned(),
            message: shortened(message),
            phase: status.phase.as_str().to_owned(),
            cause,
            checks: status.metrics.iter().take(MOST_CHECKS).map(check).collect(),
            run: run.map_or(0, |run| run.number),
            revision: run.map(|run| run.revision.clone()).unwrap_or_default(),
            pending,
            ..AlertRecord::default()
        });
    }
    forget(status);
}

/// What is said in a run is said once at each step, for each [`occasion`] of it; what is said of the canary itself, once for each wording.
fn key(
    one: &Announcement,
    message: &str,
    run: Option<&Run>,
    canary: &Canary,
    now: Timestamp,
) -> String {
    let of_canary = reasons::OF_CONDITIONS
        .iter()
        .any(|(reason, _)| *reason == one.reason && one.severity == Severity::Warn);
    match run {
        Some(run) if !of_canary => {
            let key = format!("{}/{}/{}", run.id, run.step, one.reason);
            match occasion(one, run, canary, now) {
                Some(occasion) => format!("{key}/{occasion}"),
                None => key,
            }
        }
        _ => format!(
            "{}/{}/{}",
            canary.metadata.generation.unwrap_or_default(),
            short_digest(&json!(message)),
            one.reason
        ),
    }
}

/// What tells those alerts of a step apart that may be due more than once in it: each gate that closes, whichever hook it is, and each
/// time that the traffic leaves a primary. A primary that flickers is told of once more, not each time.
fn occasion(one: &Announcement, run: &Run, canary: &Canary, now: Timestamp) -> Option<String> {
    match one.reason {
        // The event's text names the gate and the hook.
        "GateClosed" => Some(short_digest(&json!(one.message))),
        "TrafficDiverted" => {
            let since = run.step_started_at?;
            let stood = now.duration_since(since) >= signed(canary.spec.analysis.interval());
            stood.then(|| since.as_millisecond().to_string())
        }
        _ => None,
    }
}

/// Why, where it is not the message over again.
fn cause(status: &CanaryStatus, severity: AlertSeverity, message: &str) -> String {
    if severity == AlertSeverity::Info {
        return String::new();
    }
    let cause = match &status.run {
        Some(run) => run.message.clone().unwrap_or_default(),
        None if status.phase == Phase::Failed => status
            .history
            .last()
            .map(|last| last.cause.clone())
            .unwrap_or_default(),
        None => String::new(),
    };
    if cause == message {
        String::new()
    } else {
        shortened(&cause)
    }
}

/// A measurement with its limit and its verdict.
fn check(metric: &MetricStatus) -> String {
    let value = metric.value.as_deref().unwrap_or("no value");
    let limit = metric
        .limit
        .as_ref()
        .map_or_else(String::new, |limit| format!(" ({limit})"));
    let verdict = match metric.verdict {
        Verdict::Unset => String::new(),
        verdict => format!(": {}", verdict.as_str()),
    };
    format!("{} {value}{limit}{verdict}", metric.name)
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn forget(status: &mut CanaryStatus) {
    while status.alerts.len() > KEPT {
        let settled = status
            .alerts
            .iter()
            .position(|alert| alert.pending.is_empty());
        match settled {
            Some(settled) => drop(status.alerts.remove(settled)),
            None if status.alerts.len() > MOST => drop(status.alerts.remove(0)),
            None => return,
        }
    }
}

/// Writes into `status` who was told. True if that changed it.
pub fn acknowledge(status: &mut CanaryStatus, outcomes: &[AlertOutcome]) -> bool {
    let mut changed = false;
    for outcome in outcomes {
        let Some(alert) = status
            .alerts
            .iter_mut()
            .find(|alert| alert.key == outcome.key)
        else {
            continue;
        };
        let Some(waiting) = alert
            .pending
            .iter()
            .position(|name| *name == outcome.provider)
        else {
            continue;
        };
        let name = alert.pending.remove(waiting);
        match &outcome.failure {
            None => alert.sent.push(name),
            Some(why) => alert.failed.push(format!("{name}: {}", shortened(why))),
        }
        changed = true;
    }
    if changed {
        forget(status);
    }
    changed
}

/// When it must be written down who was told, if nothing else is written before; `None` where there is nothing to write.
pub(super) fn due(status: &CanaryStatus, outcomes: &[AlertOutcome]) -> Option<Timestamp> {
    let first = outcomes
        .iter()
        .filter(|outcome| {
            status
                .alerts
                .iter()
                .any(|alert| alert.key == outcome.key && alert.pending.contains(&outcome.provider))
        })
        .map(|outcome| outcome.at)
        .min()?;
    let at_rest = status.run.as_ref().is_none_or(|run| {
        run.waiting_for.is_some()
            || !matches!(
                status.phase,
                Phase::Initializing | Phase::Progressing | Phase::Promoting | Phase::Finalising
            )
    });
    let patience = if at_rest { AT_REST } else { WITH_A_RUN };
    first.checked_add(patience).ok()
}

/// When a canary whose alerts are not all told is looked at again.
pub(super) fn look_again(status: &CanaryStatus, now: Timestamp) -> Option<Timestamp> {
    status
        .alerts
        .iter()
        .any(|alert| !alert.pending.is_empty())
        .then(|| now.checked_add(LOOK_AGAIN).ok())
        .flatten()
}

/// Whether those whom the canary names can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It names nobody.
    Nobody,
    /// All of them.
    All(String),
    /// Not all; the text says who and why.
    NotAll(String),
    /// Something could not be read.
    Unknown,
}

/// Looks at each provider that the canary names, and at its Secret.
pub(super) fn reach(snapshot: &Snapshot) -> Reach {
    let canary = &snapshot.canary;
    let alerts = &canary.spec.analysis.alerts;
    if alerts.is_empty() {
        return Reach::Nobody;
    }
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    for (index, alert) in alerts.iter().enumerate() {
        let field = format!("spec.analysis.alerts[{index}]");
        let namespace = alert.provider_ref.namespace_or(&canary.metadata.namespace);
        let name = kinds::ALERT_PROVIDER.named(namespace, &alert.provider_ref.name);
        if let Some(template) = &alert.template
            && let Err(error) = texts::check(template)
        {
            problems.push(format!("{field}.template: {error}"));
        }
        match snapshot.object(&name) {
            Reading::Unknown(_) => return Reach::Unknown,
            Reading::Absent => {
                problems.push(format!("{field}.providerRef: {name} not found"));
            }
            Reading::Present(provider) => match unfit(snapshot, &provider) {
                Ok(None) => {}
                Ok(Some(why)) => problems.push(format!("{field}.providerRef: {name}: {why}")),
                Err(()) => return Reach::Unknown,
            },
        }
        names.insert(format!("{namespace}/{}", alert.provider_ref.name));
    }
    if problems.is_empty() {
        let names: Vec<String> = names.into_iter().collect();
        Reach::All(format!("Alerts go to {}.", names.join(", ")))
    } else {
        Reach::NotAll(problems.join("; "))
    }
}

/// Why nothing can be sent by this provider, if so; an error where its Secret could not be read.
fn unfit(snapshot: &Snapshot, object: &Object) -> Result<Option<String>, ()> {
    let provider = match AlertProvider::decode(object.value()) {
        Ok(provider) => provider,
        Err(error) => return Ok(Some(error.to_string())),
    };
    if let Some(problem) = problems(&provider).into_iter().next() {
        return Ok(Some(problem));
    }
    let (None, Some(secret)) = (provider.spec.address(), &provider.spec.secret_ref) else {
        return Ok(None);
    };
    let name = kinds::SECRET.named(object.namespace(), &secret.name);
    match snapshot.object(&name) {
        Reading::Unknown(_) => Err(()),
        Reading::Absent => Ok(Some(format!(
            "{name} not found, expected it with the key {ADDRESS_KEY}"
        ))),
        Reading::Present(secret) => {
            let there = ["data", "stringData"].iter().any(|part| {
                let value = secret.text(&format!("/{part}/{ADDRESS_KEY}"));
                !value.trim().is_empty()
            });
            Ok((!there).then(|| {
                let keys: Vec<String> = secret.string_map("/data").into_keys().collect();
                format!(
                    "{name} lacks the key {ADDRESS_KEY}; it has {}",
                    if keys.is_empty() {
                        "none".to_owned()
                    } else {
                        keys.join(", ")
                    }
                )
            }))
        }
    }
}

/// What is wrong with a provider by itself, each with its field.
#[must_use]
pub fn problems(provider: &AlertProvider) -> Vec<String> {
    let spec = &provider.spec;
    let mut found: Vec<String> = validate_alert_provider(spec)
        .into_iter()
        .filter(|problem| problem.severity == ProblemSeverity::Error)
        .map(|problem| problem.to_string())
        .collect();
    for (field, template) in [("spec.template", &spec.template), ("spec.link", &spec.link)] {
        if let Some(template) = template
            && let Err(error) = texts::check(template)
        {
            found.push(format!("{field}: {error}"));
        }
    }
    found
}
