//! The status of a pod, made from what its containers report.
use std::collections::HashMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::container::{Report, State};
use crate::bed::parts::NODE_ADDRESS;

/// Since when each condition is what it is.
#[derive(Default)]
pub(super) struct Transitions(HashMap<&'static str, (bool, Timestamp)>);

impl Transitions {
    fn condition(&mut self, kind: &'static str, holds: bool) -> Value {
        let now = Timestamp::now();
        let entry = self.0.entry(kind).or_insert((holds, now));
        if entry.0 != holds {
            *entry = (holds, now);
        }
        let mut condition = json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": seconds(entry.1)});
        if !holds {
            condition["reason"] = json!("ContainersNotReady");
        }
        condition
    }
}

/// Kubernetes' times have whole seconds.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn of(
    spec: &PodSpec,
    reports: &[Report],
    address: Ipv4Addr,
    started: Timestamp,
    transitions: &mut Transitions,
) -> Value {
    let ready = reports.iter().all(Report::is_ready);
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .zip(reports)
        .map(|(container, report)| {
            container_status(&container.name, container.image.as_deref(), report)
        })
        .collect();
    json!({
        "phase": phase(reports),
        "podIP": address.to_string(),
        "podIPs": [{"ip": address.to_string()}],
        "hostIP": NODE_ADDRESS,
        "startTime": seconds(started),
        "containerStatuses": containers,
        "conditions": [
            transitions.condition("PodScheduled", true),
            transitions.condition("Initialized", true),
            transitions.condition("ContainersReady", ready),
            transitions.condition("Ready", ready),
        ],
    })
}

fn phase(reports: &[Report]) -> &'static str {
    if reports
        .iter()
        .all(|report| matches!(report.state, State::Ended { .. }))
    {
        let failed = reports
            .iter()
            .any(|report| matches!(report.state, State::Ended { code } if code != 0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    // A container that never ran keeps its pod pending; one that waits to be restarted does not.
    let never_ran = |report: &Report| {
        matches!(report.state, State::Waiting { .. }) && report.last_exit.is_none()
    };
    if reports.iter().any(never_ran) {
        "Pending"
    } else {
        "Running"
    }
}

fn container_status(name: &str, image: Option<&str>, report: &Report) -> Value {
    let state = match &report.state {
        State::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        State::Running { since, .. } => json!({"running": {"startedAt": seconds(*since)}}),
        State::Ended { code } => terminated(*code),
    };
    let last = report.last_exit.map_or(json!({}), terminated);
    let running = matches!(report.state, State::Running { .. });
    json!({
        "name": name, "image": image.unwrap_or_default(), "imageID": "", "containerID": "",
        "ready": report.is_ready(), "started": running, "restartCount": report.restarts, "state": state, "lastState": last,
    })
}

fn terminated(code: i32) -> Value {
    json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State, last_exit: Option<i32>) -> Report {
        Report {
            state,
            restarts: 0,
            last_exit,
        }
    }

    #[test]
    fn the_phase_follows_the_containers() {
        let running = report(
            State::Running {
                since: Timestamp::UNIX_EPOCH,
                ready: false,
            },
            None,
        );
        let pulling = report(
            State::Waiting {
                reason: "ImagePullBackOff".into(),
                message: String::new(),
            },
            None,
        );
        let crashing = report(
            State::Waiting {
                reason: "CrashLoopBackOff".into(),
                message: String::new(),
            },
            Some(1),
        );
        assert_eq!(phase(std::slice::from_ref(&running)), "Running");
        assert_eq!(phase(&[running.clone(), pulling]), "Pending");
        assert_eq!(phase(&[running, crashing]), "Running");
        assert_eq!(
            phase(&[report(State::Ended { code: 0 }, None)]),
            "Succeeded"
        );
        assert_eq!(phase(&[report(State::Ended { code: 2 }, None)]), "Failed");
    }
}
