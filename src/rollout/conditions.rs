//! The conditions that follow from a status: Flagger's `Promoted` with its texts, and `Ready`, `Reconciling`, `Stalled` and
//! `Accepted` as other tools understand them.

use super::alerts::Reach;
use crate::api::{CanaryStatus, Condition, ConditionStatus, Phase, condition_type};
use jiff::Timestamp;

/// Flagger's sentence for a phase; `kind` is the target's kind.
fn promoted_text(phase: Phase, kind: &str) -> String {
    match phase {
        Phase::Initialized => format!("{kind} initialization completed."),
        Phase::Waiting | Phase::WaitingPromotion => "Waiting for approval.".to_owned(),
        Phase::Progressing => "New revision detected, progressing canary analysis.".to_owned(),
        Phase::Promoting => {
            "Canary analysis completed, starting primary rolling update.".to_owned()
        }
        Phase::Finalising => {
            "Canary analysis completed, routing all traffic to primary.".to_owned()
        }
        Phase::Succeeded => {
            "Canary analysis completed successfully, promotion finished.".to_owned()
        }
        Phase::Failed => format!("Canary analysis failed, {kind} scaled to zero."),
        _ => format!("New {kind} detected, starting initialization."),
    }
}

/// What a pass has to say beside the phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Remarks {
    /// Reason and sentence where the canary can't be carried out.
    pub refused: Option<(&'static str, String)>,
    /// Reason and sentence where work can't go on without help.
    pub stalled: Option<(&'static str, String)>,
    /// Sentence that says more than Flagger's for the `Promoted` condition.
    pub promoted: Option<String>,
    /// Whether those who are to be told can be; `None` where that was not looked at.
    pub alerts: Option<Reach>,
}

/// Sets all conditions of `status`. Times move only with what they are about.
pub(super) fn set(
    status: &mut CanaryStatus,
    kind: &str,
    generation: Option<i64>,
    remarks: &Remarks,
    now: Timestamp,
) {
    let phase = status.phase;
    let promoted = match phase {
        Phase::Initialized | Phase::Succeeded => ConditionStatus::True,
        Phase::Failed => ConditionStatus::False,
        _ => ConditionStatus::Unknown,
    };
    let reason = if phase == Phase::Unset {
        Phase::Initializing.as_str()
    } else {
        phase.as_str()
    };
    let text = remarks
        .promoted
        .clone()
        .unwrap_or_else(|| promoted_text(phase, kind));
    put(
        status,
        condition_type::PROMOTED,
        promoted,
        reason,
        &text,
        None,
        now,
    );

    let yes_no = |yes: bool| {
        if yes {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        }
    };
    let (reason, text) = match &remarks.refused {
        Some((reason, text)) => (*reason, text.as_str()),
        None => ("Accepted", "The spec can be carried out."),
    };
    put(
        status,
        condition_type::ACCEPTED,
        yes_no(remarks.refused.is_none()),
        reason,
        text,
        generation,
        now,
    );

    let blocked = remarks.refused.as_ref().or(remarks.stalled.as_ref());
    let busy = !matches!(phase, Phase::Initialized | Phase::Succeeded | Phase::Failed);
    let ready = blocked.is_none() && matches!(phase, Phase::Initialized | Phase::Succeeded);
    let story = status
        .run
        .as_ref()
        .and_then(|run| run.message.clone())
        .unwrap_or_else(|| text_of(status));
    let (reason, text) = match blocked {
        Some((reason, text)) => (*reason, text.clone()),
        None => (phase_reason(phase), story.clone()),
    };
    put(
        status,
        condition_type::READY,
        yes_no(ready),
        reason,
        &text,
        generation,
        now,
    );
    put(
        status,
        condition_type::RECONCILING,
        yes_no(busy && blocked.is_none()),
        phase_reason(phase),
        if busy { &story } else { "Nothing to do." },
        generation,
        now,
    );
    let (reason, text) = match blocked {
        Some((reason, text)) => (*reason, text.as_str()),
        None if phase == Phase::Failed => ("Failed", story.as_str()),
        None => ("NotStalled", "Work goes on by itself."),
    };
    set_alerting(status, remarks.alerts.as_ref(), generation, now);
    let stalled = blocked.is_some() || phase == Phase::Failed;
    put(
        status,
        condition_type::STALLED,
        yes_no(stalled),
        reason,
        text,
        generation,
        now,
    );
}

/// The condition of those who are to be told. It is there only where somebody is named, and stays as it is while that can't be known.
fn set_alerting(
    status: &mut CanaryStatus,
    reach: Option<&Reach>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let kind = condition_type::ALERTING;
    let (value, reason, text) = match reach {
        None | Some(Reach::Unknown) => return,
        Some(Reach::Nobody) => {
            return status
                .conditions
                .retain(|condition| condition.condition_type != kind);
        }
        Some(Reach::All(text)) => (ConditionStatus::True, "AlertsReady", text),
        Some(Reach::NotAll(text)) => (ConditionStatus::False, "AlertProviderUnfit", text),
    };
    put(status, kind, value, reason, text, generation, now);
}

fn phase_reason(phase: Phase) -> &'static str {
    if phase == Phase::Unset {
        "Initializing"
    } else {
        phase.as_str()
    }
}

fn text_of(status: &CanaryStatus) -> String {
    if status.phase == Phase::Failed
        && let Some(last) = status.history.last()
    {
        return last.cause.clone();
    }
    status
        .condition(condition_type::PROMOTED)
        .and_then(|condition| condition.message.clone())
        .unwrap_or_default()
}

fn put(
    status: &mut CanaryStatus,
    kind: &str,
    value: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    debug_assert!(
        super::reasons::is_of_condition(reason),
        "{reason} is not listed in src/rollout/reasons.rs"
    );
    let fresh = Condition {
        condition_type: kind.to_owned(),
        status: value,
        reason: reason.to_owned(),
        message: (!message.is_empty()).then(|| message.to_owned()),
        last_update_time: Some(now),
        last_transition_time: Some(now),
        observed_generation: generation,
    };
    let Some(present) = status
        .conditions
        .iter_mut()
        .find(|condition| condition.condition_type == kind)
    else {
        status.conditions.push(fresh);
        return;
    };
    let same = present.status == fresh.status
        && present.reason == fresh.reason
        && present.message == fresh.message
        && present.observed_generation == fresh.observed_generation;
    if same {
        return;
    }
    let since = if present.status == fresh.status {
        present.last_transition_time
    } else {
        Some(now)
    };
    *present = Condition {
        last_transition_time: since,
        ..fresh
    };
}
