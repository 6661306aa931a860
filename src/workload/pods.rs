//! Why pods don't run or don't stay: read from the statuses of the pods while they are still there, since nothing says it once they
//! are gone.
//!
//! Pods are listed, not watched: a controller of hundreds of canaries would hold every pod of the cluster in memory for answers that only a
//! failing run needs. A list of one side by its selector (one request, bounded in length) is made when its readiness is overdue by half
//! of the progress deadline, and once more before a side that failed is scaled down or gets another template. A good release makes none.

use crate::api::PodFailure;
use crate::object::Object;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How many pods of a side are looked at.
pub const MOST_PODS: usize = 50;
/// How many different failures are kept.
const MOST_FAILURES: usize = 5;
/// How many characters of a message are kept.
const LONGEST_MESSAGE: usize = 200;

/// What is waited for in every start of a container.
const USUAL_WAITS: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];

/// What tells one failure from another.
type Kind = (String, Option<String>, Option<String>, Option<i64>);

/// The failures of these pods, those of most pods first. Pods that are being deleted say nothing, nor do those that are well or that have
/// not tried yet. A container that runs and is not ready counts where nothing worse is said of its pod.
#[must_use]
pub fn failures<'a>(pods: impl IntoIterator<Item = &'a Object>) -> Vec<PodFailure> {
    let mut found: BTreeMap<Kind, (i64, Option<String>)> = BTreeMap::new();
    for pod in pods.into_iter().filter(|pod| !pod.is_deleting()) {
        for failure in of_pod(pod) {
            let kind = (
                failure.reason,
                failure.container,
                failure.terminated,
                failure.exit_code,
            );
            let (count, message) = found.entry(kind).or_default();
            *count += 1;
            *message = message.take().or(failure.message);
        }
    }
    let mut failures: Vec<PodFailure> = found
        .into_iter()
        .map(
            |((reason, container, terminated, exit_code), (pods, message))| PodFailure {
                reason,
                container,
                pods,
                terminated,
                exit_code,
                message,
            },
        )
        .collect();
    failures.sort_by_key(|failure| -failure.pods);
    failures.truncate(MOST_FAILURES);
    failures
}

/// One sentence for people: `container app of 2 pods: CrashLoopBackOff, exit code 1 (cannot read config)`. Empty without failures.
#[must_use]
pub fn sentence(failures: &[PodFailure]) -> String {
    let parts: Vec<String> = failures.iter().map(part).collect();
    parts.join("; ")
}

fn part(failure: &PodFailure) -> String {
    let pods = match failure.pods {
        1 => "1 pod".to_owned(),
        pods => format!("{pods} pods"),
    };
    let mut text = match &failure.container {
        Some(container) => format!("container {container} of {pods}: {}", failure.reason),
        None => format!("{pods}: {}", failure.reason),
    };
    if let Some(terminated) = &failure.terminated {
        text.push_str(", ");
        text.push_str(terminated);
    }
    if let Some(code) = failure.exit_code {
        let _ = write!(text, ", exit code {code}");
    }
    if let Some(message) = &failure.message {
        let _ = write!(text, " ({message})");
    }
    text
}

fn of_pod(pod: &Object) -> Vec<PodFailure> {
    let mut found: Vec<PodFailure> = Vec::new();
    let whole = |reason: &str, message: &str| PodFailure {
        reason: reason.to_owned(),
        pods: 1,
        message: shortened(message),
        ..PodFailure::default()
    };
    if pod.text("/status/phase") == "Failed" {
        let reason = pod.text("/status/reason");
        // Without a reason of the pod's own its containers say why.
        if !reason.is_empty() {
            return vec![whole(reason, pod.text("/status/message"))];
        }
    }
    let conditions = pod.at("/status/conditions");
    if let Some(condition) = conditions.as_array().into_iter().flatten().find(|one| {
        one["type"] == "PodScheduled" && one["status"] == "False" && one["reason"].is_string()
    }) {
        return vec![whole(
            condition["reason"].as_str().unwrap_or_default(),
            condition["message"].as_str().unwrap_or_default(),
        )];
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        let statuses = pod.at("/status").get(list).and_then(Value::as_array);
        found.extend(statuses.into_iter().flatten().filter_map(of_container));
    }
    let not_ready = |failure: &PodFailure| failure.reason == NOT_READY;
    if !found.iter().all(not_ready) {
        found.retain(|failure| !not_ready(failure));
    }
    found
}

const NOT_READY: &str = "NotReady";

fn of_container(status: &Value) -> Option<PodFailure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state = &status["state"];
    let last = &status["lastState"]["terminated"];
    let (reason, said, ended) = if state["waiting"].is_object() {
        let reason = text(&state["waiting"]["reason"]);
        if USUAL_WAITS.contains(&reason.as_str()) {
            return None;
        }
        (reason, text(&state["waiting"]["message"]), last)
    } else if state["terminated"].is_object() {
        let ended = &state["terminated"];
        if ended["exitCode"] == 0 {
            return None;
        }
        let reason = text(&ended["reason"]);
        let reason = if reason.is_empty() {
            "Error".to_owned()
        } else {
            reason
        };
        (reason, String::new(), ended)
    } else if status["ready"] == true || !state["running"].is_object() {
        // It runs again; that it had to is worth a word.
        last["exitCode"].as_i64().filter(|code| *code != 0)?;
        ("Restarted".to_owned(), String::new(), last)
    } else {
        (NOT_READY.to_owned(), String::new(), last)
    };
    let terminated = text(&ended["reason"]);
    let own_words = text(&ended["message"]);
    // What the kubelet says of a back-off is how long it waits; what the container said last is why.
    let message = if !own_words.is_empty() {
        own_words
    } else if reason == "CrashLoopBackOff" {
        String::new()
    } else {
        said
    };
    Some(PodFailure {
        terminated: (!["", "Error", "Completed"].contains(&terminated.as_str())
            && terminated != reason)
            .then_some(terminated),
        reason,
        container: status["name"].as_str().map(str::to_owned),
        pods: 1,
        exit_code: ended["exitCode"].as_i64(),
        message: shortened(&message),
    })
}

/// The message on one line, without what a terminal would obey, at most [`LONGEST_MESSAGE`] characters. Of a long one the end is kept: that
/// is where logs say what went wrong.
fn shortened(message: &str) -> Option<String> {
    let line = message
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let length = line.chars().count();
    match length {
        0 => None,
        1..=LONGEST_MESSAGE => Some(line),
        _ => {
            let end: String = line.chars().skip(length - LONGEST_MESSAGE + 1).collect();
            Some(format!("…{end}"))
        }
    }
}
