//! Why pods don't run, from their statuses.

use super::object;
use crate::object::Object;
use crate::workload::pods::{failures, sentence};

/// A pod with this status, as flow YAML.
fn pod(name: &str, status: &str) -> Object {
    object(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, status: {status}}}"
    ))
}

fn told(statuses: &[&str]) -> String {
    let pods: Vec<Object> = statuses
        .iter()
        .enumerate()
        .map(|(position, status)| pod(&format!("podinfo-{position}"), status))
        .collect();
    sentence(&failures(&pods))
}

const CRASHES: &str = "{phase: Running, containerStatuses: [{name: app, ready: false, restartCount: 4, \
    state: {waiting: {reason: CrashLoopBackOff, message: back-off 40s restarting failed container}}, \
    lastState: {terminated: {exitCode: 1, reason: Error}}}]}";

#[test]
fn each_way_of_failing_has_its_words() {
    let table = [
        (
            "{phase: Running, containerStatuses: [{name: app, ready: true, state: {running: {}}, lastState: {}}]}",
            "",
        ),
        (
            "{phase: Pending, containerStatuses: [{name: app, ready: false, state: {waiting: {reason: ContainerCreating}}}]}",
            "",
        ),
        (
            "{phase: Succeeded, containerStatuses: [{name: app, ready: false, state: {terminated: {exitCode: 0, reason: Completed}}}]}",
            "",
        ),
        (
            CRASHES,
            "container app of 1 pod: CrashLoopBackOff, exit code 1",
        ),
        (
            "{phase: Running, containerStatuses: [{name: app, ready: false, state: {waiting: {reason: CrashLoopBackOff}}, \
             lastState: {terminated: {exitCode: 137, reason: OOMKilled}}}]}",
            "container app of 1 pod: CrashLoopBackOff, OOMKilled, exit code 137",
        ),
        (
            "{phase: Running, containerStatuses: [{name: app, ready: true, state: {running: {}}, \
             lastState: {terminated: {exitCode: 137, reason: OOMKilled}}}]}",
            "container app of 1 pod: Restarted, OOMKilled, exit code 137",
        ),
        (
            "{phase: Running, containerStatuses: [{name: app, ready: false, \
             state: {terminated: {exitCode: 2, reason: Error, message: 'panic: no config'}}}]}",
            "container app of 1 pod: Error, exit code 2 (panic: no config)",
        ),
        (
            "{phase: Pending, containerStatuses: [{name: app, ready: false, \
             state: {waiting: {reason: ImagePullBackOff, message: Back-off pulling image shop/app:9}}}]}",
            "container app of 1 pod: ImagePullBackOff (Back-off pulling image shop/app:9)",
        ),
        (
            "{phase: Pending, initContainerStatuses: [{name: migrate, ready: false, state: {waiting: {reason: CrashLoopBackOff}}, \
             lastState: {terminated: {exitCode: 3, reason: Error, message: no database}}}], \
             containerStatuses: [{name: app, ready: false, state: {waiting: {reason: PodInitializing}}}]}",
            "container migrate of 1 pod: CrashLoopBackOff, exit code 3 (no database)",
        ),
        (
            "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 0/3 nodes are available}]}",
            "1 pod: Unschedulable (0/3 nodes are available)",
        ),
        (
            "{phase: Failed, reason: Evicted, message: The node was low on memory}",
            "1 pod: Evicted (The node was low on memory)",
        ),
        (
            "{phase: Running, containerStatuses: [{name: app, ready: false, state: {running: {}}, lastState: {}}]}",
            "container app of 1 pod: NotReady",
        ),
        // What is worse is said alone.
        (
            "{phase: Running, containerStatuses: [{name: app, ready: false, state: {running: {}}, lastState: {}}, \
             {name: proxy, ready: false, state: {waiting: {reason: CreateContainerConfigError, message: secret tls not found}}}]}",
            "container proxy of 1 pod: CreateContainerConfigError (secret tls not found)",
        ),
        ("{}", ""),
        ("{containerStatuses: 7, conditions: [7, {}]}", ""),
    ];
    for (status, expected) in table {
        assert_eq!(told(&[status]), expected, "{status}");
    }
}

#[test]
fn pods_that_fail_alike_are_counted_together_the_most_frequent_first() {
    let unschedulable = "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no node}]}";
    assert_eq!(
        told(&[unschedulable, CRASHES, CRASHES]),
        "container app of 2 pods: CrashLoopBackOff, exit code 1; 1 pod: Unschedulable (no node)"
    );
}

#[test]
fn a_pod_that_is_being_deleted_says_nothing() {
    let mut gone = pod("podinfo-0", CRASHES);
    gone.value_mut()["metadata"]["deletionTimestamp"] = serde_json::json!("2026-01-01T00:00:00Z");
    assert_eq!(failures([&gone]), []);
}

#[test]
fn what_is_kept_is_bounded() {
    let pods: Vec<Object> = (0..40)
        .map(|code| {
            pod(
                "podinfo",
                &format!(
                    "{{containerStatuses: [{{name: app, state: {{terminated: {{exitCode: {}, reason: Error, message: \"a\\e[31m\\n{}\"}}}}}}]}}",
                    code + 1,
                    "ä".repeat(9000)
                ),
            )
        })
        .collect();
    let found = failures(&pods);
    assert_eq!(found.len(), 5);
    for failure in found {
        let message = failure.message.unwrap();
        assert_eq!(message.chars().count(), 200);
        assert!(message.starts_with('…') && message.ends_with('ä'));
    }
}
