//! The checks of one round: hooks and metrics asked at the same time, and what follows from their answers. A round has a slot in
//! time; its needs carry the slot in their keys, so a question is asked once per interval and an answer that comes late finds
//! nobody waiting.

use super::need::{Finding, HookAnswer, HookCall, HookPayload, Need, Request};
use super::view::View;
use crate::analysis::{self, Measurement, MetricQuery, QueryProblem, Sources};
use crate::api::{CanaryWebhook, HookType, MetricStatus, RunOutcome, Verdict};
use crate::object::{ObjectRef, short_digest};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeMap;

/// A round of checks: everything that shares one moment.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// The same for all needs of the round.
    pub key: String,
    /// When it began.
    pub began: Timestamp,
    /// When the next round begins if this one changes nothing.
    pub next: Timestamp,
}

impl Round {
    /// The round of `run` that `now` falls into, counted in intervals from when it was due. Without an answer that changes anything
    /// nothing needs to be written for the next round to begin.
    pub fn at(run: &str, due: Timestamp, interval: SignedDuration, now: Timestamp) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(60_000).max(1);
        let slot = (now.as_millisecond() - due.as_millisecond()).max(0) / interval_ms;
        let begin = |slot: i64| {
            let after = slot.saturating_mul(interval_ms);
            let begin = due.as_millisecond().saturating_add(after);
            Timestamp::from_millisecond(begin).unwrap_or(now)
        };
        Self {
            key: format!("{run}/{}/{slot}", due.as_millisecond()),
            began: begin(slot),
            next: begin(slot + 1),
        }
    }
}

/// What a set of hooks said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HookOutcome {
    /// Answers are missing; the needs were added.
    Pending,
    /// Each passed (or there is none); names in list order.
    Passed(Vec<String>),
    /// The first in list order that refused.
    Refused {
        /// Its name.
        hook: String,
        /// What it answered.
        answer: String,
        /// Whether its alert is muted.
        muted: bool,
    },
    /// The first in list order that could not be reached, where none refused.
    Unreachable {
        /// Its name.
        hook: String,
        /// Why.
        why: String,
        /// Whether its alert is muted.
        muted: bool,
    },
}

/// Asks all hooks of one kind, in the given phase.
pub(super) fn ask_hooks(
    view: &View<'_>,
    round: &Round,
    kind: HookType,
    phase: &str,
    needs: &mut Vec<Need>,
) -> HookOutcome {
    let mut answers: Vec<(&CanaryWebhook, HookAnswer)> = Vec::new();
    let mut pending = false;
    for (position, hook) in view.canary.spec.analysis.hooks(kind).enumerate() {
        let need = hook_need(view, round, hook, position, phase);
        if let Some(Finding::Hook(answer)) = view.snapshot.finding(&need) {
            answers.push((hook, answer.clone()));
        } else {
            pending = true;
            needs.push(need);
        }
    }
    let refused = answers.iter().find_map(|(hook, answer)| match answer {
        HookAnswer::Refused(body) => Some(HookOutcome::Refused {
            hook: hook.name.clone(),
            answer: body.clone(),
            muted: hook.mute_alert(),
        }),
        _ => None,
    });
    let unreachable = answers.iter().find_map(|(hook, answer)| match answer {
        HookAnswer::Unreachable(why) => Some(HookOutcome::Unreachable {
            hook: hook.name.clone(),
            why: why.clone(),
            muted: hook.mute_alert(),
        }),
        _ => None,
    });
    match (pending, refused, unreachable) {
        (true, ..) => HookOutcome::Pending,
        (false, Some(refused), _) => refused,
        (false, None, Some(unreachable)) => unreachable,
        (false, None, None) => {
            HookOutcome::Passed(answers.iter().map(|(hook, _)| hook.name.clone()).collect())
        }
    }
}

/// The first rollback hook that signals a rollback, if one does. Hooks that can't be reached signal nothing.
pub(super) fn ask_rollback_hooks(
    view: &View<'_>,
    round: &Round,
    phase: &str,
    needs: &mut Vec<Need>,
) -> Result<Option<String>, ()> {
    let mut signalled = None;
    let mut pending = false;
    for (position, hook) in view
        .canary
        .spec
        .analysis
        .hooks(HookType::Rollback)
        .enumerate()
    {
        let need = hook_need(view, round, hook, position, phase);
        match view.snapshot.finding(&need) {
            Some(Finding::Hook(HookAnswer::Passed)) => {
                signalled = signalled.or(Some(hook.name.clone()));
            }
            Some(_) => {}
            None => {
                pending = true;
                needs.push(need);
            }
        }
    }
    // A hook that says "roll back" need not wait for the others.
    if signalled.is_none() && pending {
        Err(())
    } else {
        Ok(signalled)
    }
}

fn hook_need(
    view: &View<'_>,
    round: &Round,
    hook: &CanaryWebhook,
    position: usize,
    phase: &str,
) -> Need {
    let canary = view.canary;
    Need {
        key: format!(
            "hook/{}/{position}/{}/{}",
            hook.kind(),
            hook.name,
            round.key
        ),
        request: Request::Hook(Box::new(HookCall {
            name: hook.name.clone(),
            url: hook.url.clone(),
            timeout: hook.timeout(),
            retries: hook.retries(),
            skip_tls_verification: hook.skip_verify(),
            payload: HookPayload {
                name: canary.metadata.name.clone(),
                namespace: canary.metadata.namespace.clone(),
                phase: phase.to_owned(),
                checksum: checksum(view),
                metadata: hook.metadata.clone(),
            },
        })),
    }
}

/// Changes when the revision or the tracked configs change; that is all that consumers may rely on.
fn checksum(view: &View<'_>) -> String {
    short_digest(&json!([view.identity.revision, view.identity.configs]))
}

/// What all metrics of a round said together.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MetricsOutcome {
    /// Answers are missing; the needs were added.
    Pending,
    /// All were judged.
    Judged {
        /// One for each metric.
        judged: Vec<Judged>,
        /// Whose series the built-in checks read.
        observers: Observers,
    },
}

/// Whose series the built-in checks of a run read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observers {
    /// The row of the table of built-in queries, by check.
    pub rows: BTreeMap<String, String>,
    /// The same for people, with the series; only of what was chosen in this round.
    pub told: BTreeMap<String, String>,
}

/// Whose series the built-in checks read: what the run chose before, else what has series now; the need is added where that is not known
/// yet. Where nothing has series the checks ask as Flagger does, and the next round looks again.
fn observers(view: &View<'_>, round: &Round, needs: &mut Vec<Need>) -> Option<Observers> {
    let snapshot = view.snapshot;
    let settings = &snapshot.settings;
    let lookup = |name: &ObjectRef| snapshot.object(name);
    let sources = analysis::sources(view.canary, settings.metrics(), &lookup);
    let status = view.canary.status.as_ref();
    let run = status.and_then(|status| status.run.as_ref());
    let kept = run.map(|run| run.observers.clone()).unwrap_or_default();
    let Some(sources) = sources.filter(|sources| !sources.are_all_in(&kept)) else {
        return Some(Observers {
            rows: kept,
            told: BTreeMap::new(),
        });
    };
    let need = Need {
        key: format!("sources/{}", round.key),
        request: Request::Sources(Box::new(sources.query.clone())),
    };
    let Some(Finding::Metric { measurement, .. }) = snapshot.finding(&need) else {
        needs.push(need);
        return None;
    };
    let before: BTreeMap<String, String> = status
        .into_iter()
        .flat_map(|status| &status.observed)
        .filter_map(|(check, told)| Some((check.clone(), Sources::parts(told)?.0.to_owned())))
        .collect();
    let mut rows = match measurement {
        Measurement::Value(answer) => sources.chosen(*answer, &before),
        _ => BTreeMap::new(),
    };
    rows.extend(kept);
    let told = rows
        .iter()
        .map(|(check, row)| (check.clone(), sources.told(check, row)))
        .collect();
    Some(Observers { rows, told })
}

/// One metric, measured and judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    pub status: MetricStatus,
    /// Flagger's sentence where it did not pass.
    pub message: Option<String>,
    /// The value for `flagger_canary_metric_analysis`.
    pub value: Option<f64>,
}

/// Asks all metrics at once and judges them.
pub(super) fn ask_metrics(view: &View<'_>, round: &Round, needs: &mut Vec<Need>) -> MetricsOutcome {
    let snapshot = view.snapshot;
    let settings = &snapshot.settings;
    let lookup = |name: &ObjectRef| snapshot.object(name);
    let Some(observers) = observers(view, round, needs) else {
        return MetricsOutcome::Pending;
    };
    let queries = analysis::queries_over(view.canary, settings.metrics(), &observers.rows, &lookup);
    if queries
        .iter()
        .any(|query| matches!(query, Err(QueryProblem::Unknown(_))))
    {
        return MetricsOutcome::Pending;
    }
    let mut judged = Vec::new();
    let mut pending = false;
    for (position, query) in queries.into_iter().enumerate() {
        let query = match query {
            Ok(query) => query,
            Err(problem) => {
                judged.push(misconfigured(&problem, round.began));
                continue;
            }
        };
        let need = metric_need(round, position, &query);
        if let Some(Finding::Metric { measurement, at }) = snapshot.finding(&need) {
            judged.push(judge(view, &query, measurement, *at));
        } else {
            pending = true;
            needs.push(need);
        }
    }
    if pending {
        MetricsOutcome::Pending
    } else {
        MetricsOutcome::Judged { judged, observers }
    }
}

fn metric_need(round: &Round, position: usize, query: &MetricQuery) -> Need {
    Need {
        key: format!("metric/{position}/{}/{}", query.name, round.key),
        request: Request::Metric(Box::new(query.clone())),
    }
}

fn judge(view: &View<'_>, query: &MetricQuery, measurement: &Measurement, at: Timestamp) -> Judged {
    let judgement = analysis::judge(view.canary, query, measurement);
    Judged {
        status: MetricStatus {
            name: query.name.clone(),
            provider: query.provider_name().to_owned(),
            value: judgement.value_text.clone(),
            limit: judgement.limit_text.clone(),
            verdict: judgement.verdict,
            reason: judgement.message.clone().or_else(|| judgement.note.clone()),
            // As fine as the status keeps it: what was measured once must not look like two measurements.
            at: Timestamp::from_millisecond(at.as_millisecond()).ok(),
            recent: Vec::new(),
        },
        message: judgement.message,
        value: judgement.recorded,
    }
}

fn misconfigured(problem: &QueryProblem, at: Timestamp) -> Judged {
    let (name, message) = match problem {
        QueryProblem::Invalid { metric, message } => (metric.clone(), message.clone()),
        QueryProblem::Unknown(why) => (String::new(), why.clone()),
    };
    Judged {
        status: MetricStatus {
            name,
            verdict: Verdict::Error,
            reason: Some(message.clone()),
            at: Some(at),
            ..MetricStatus::default()
        },
        message: Some(message),
        value: None,
    }
}

/// A finished run for the history.
pub(super) fn past_run(
    run: &crate::api::Run,
    outcome: &str,
    cause: &str,
    now: Timestamp,
) -> RunOutcome {
    RunOutcome {
        number: run.number,
        revision: run.revision.clone(),
        outcome: outcome.to_owned(),
        cause: cause.to_owned(),
        started_at: run.started_at,
        ended_at: Some(now),
        commands: run.commands.clone(),
    }
}
