//! The screens as golden files in `tests/fixtures/ask/`: one canary in each state that matters, and what every command shows of it.
//! `GOLDEN=write cargo test cli::ask` writes them anew; read the difference before you keep it.

use super::detail::{Surroundings, Workload};
use super::wait::{Goal, Look, look};
use super::*;
use crate::object::Object;
use std::fmt::Write as _;
use std::path::Path;

const NOW: &str = "2026-05-04T08:00:37Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The canary of a shop, with this status.
fn canary(status: &str) -> Canary {
    let mut object = yaml(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo, namespace: shop, creationTimestamp: '2026-05-01T08:00:00Z'}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  service: {port: 9898, gatewayRefs: [{name: gateway, namespace: infra}]}
  analysis:
    interval: 10s
    threshold: 2
    stepWeights: [10, 20, 40, 60]
    metrics:
      - {name: request-success-rate, thresholdRange: {min: 99}}
      - {name: request-duration, thresholdRange: {max: 500}}
    webhooks:
      - {name: approve, type: confirm-promotion, url: 'http://gate.shop/approve'}
",
    );
    object["status"] = yaml(status);
    Canary::decode(&object).unwrap()
}

const PROMOTED: &str =
    "promoted: {revision: 's1:aaaaaaaabbbb', promotedAt: '2026-05-03T08:00:00Z'}";
const HISTORY: &str = "history: [
  {number: 1, revision: 's1:aaaaaaaabbbb', outcome: Promoted, cause: 'All checks passed.', startedAt: '2026-05-03T07:59:00Z', endedAt: '2026-05-03T08:00:00Z'},
  {number: 2, revision: 's1:ccccccccdddd', outcome: RolledBack, cause: 'Aborted by alice: checkout is broken',
   startedAt: '2026-05-04T07:00:00Z', endedAt: '2026-05-04T07:00:31Z', commands: ['2026-05-04T07:00:20Z abort by alice: checkout is broken']}]";
const METRICS: &str = "metrics: [
  {name: request-success-rate, provider: prometheus, value: '99.50%', limit: '≥ 99%', verdict: Passed, at: '2026-05-04T08:00:30Z', recent: ['100.00%', '99.20%', '99.50%']},
  {name: request-duration, provider: prometheus, value: '612ms', limit: '≤ 500ms', verdict: Failed, at: '2026-05-04T08:00:30Z', recent: ['210ms', '240ms', '612ms']}]";

/// A canary in each state that a person may ask about.
fn states() -> Vec<(&'static str, Canary)> {
    let observed = "observed: {router: 'gatewayapi:v1'}";
    let found = "observed: {router: 'gatewayapi:v1',
      request-success-rate: 'traefik-gateway: traefik_service_request_duration_seconds_count{service=~\"shop-podinfo-canary-.+\"}',
      request-duration: 'traefik-gateway: traefik_service_request_duration_seconds_bucket{service=~\"shop-podinfo-canary-.+\"}'}";
    let run = |more: &str| {
        format!(
            "run: {{id: r, number: 3, revision: 's1:1234567890ab', startedAt: '2026-05-04T08:00:03Z', {more}}}"
        )
    };
    let table = [
        ("new", "{}".to_owned()),
        (
            "resting",
            format!("{{phase: Succeeded, {observed}, {PROMOTED}, {HISTORY}}}"),
        ),
        (
            "progressing",
            format!(
                "{{phase: Progressing, canaryWeight: 20, failedChecks: 1, {found}, {PROMOTED}, {HISTORY}, {METRICS}, {}}}",
                run("stage: Analysing, step: 2, checks: 3, weights: {primary: 80, canary: 20}, stepStartedAt: '2026-05-04T08:00:20Z',
                     nextCheckAt: '2026-05-04T08:00:40Z', message: 'Halt podinfo.shop advancement request duration 612ms > 500ms'")
            ),
        ),
        (
            "gate",
            format!(
                "{{phase: WaitingPromotion, canaryWeight: 60, {observed}, {PROMOTED}, {}}}",
                run("stage: Analysing, step: 4, weights: {primary: 40, canary: 60}, stepStartedAt: '2026-05-04T08:00:20Z',
                     nextCheckAt: '2026-05-04T08:00:30Z', waitingFor: gate approve, waitingSince: '2026-05-04T08:00:30Z',
                     message: 'The gate approve is closed; the checks go on, the traffic stays as it is.'")
            ),
        ),
        (
            "paused",
            format!(
                "{{phase: Progressing, canaryWeight: 10, {observed}, {PROMOTED}, paused: {{since: '2026-05-04T08:00:15Z', by: alice, reason: lunch}}, {}}}",
                run("stage: Analysing, step: 1, weights: {primary: 90, canary: 10}, stepStartedAt: '2026-05-04T08:00:10Z',
                     waitingFor: a person to resume, waitingSince: '2026-05-04T08:00:15Z', message: 'Paused by alice: lunch',
                     commands: ['2026-05-04T08:00:15Z pause by alice: lunch']")
            ),
        ),
        (
            "failed",
            format!("{{phase: Failed, lastAppliedSpec: 's1:ccccccccdddd', {observed}, {PROMOTED}, {HISTORY}, {METRICS}}}"),
        ),
        (
            "held",
            format!(
                "{{phase: Failed, canaryWeight: 100, {observed}, {PROMOTED}, {HISTORY}, {}}}",
                run("stage: Held, step: 4, weights: {primary: 0, canary: 100}, message: 'Promotion of podinfo.shop failed, primary not ready: ImagePullBackOff'")
            ),
        ),
        (
            "refused",
            "{conditions: [{type: Accepted, status: 'False', reason: TargetNotFound, message: 'Deployment podinfo.shop not found; spec.targetRef must name a workload'}]}"
                .to_owned(),
        ),
    ];
    table
        .into_iter()
        .map(|(name, status)| (name, canary(&status)))
        .collect()
}

fn surroundings() -> Surroundings {
    let workload = |name: &str, replicas: i64, ready: i64| {
        Some(Object::new(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas}, "status": {"readyReplicas": ready},
        })))
    };
    let pod = |name: &str, ready: bool, waiting: Option<&str>| {
        let state = waiting.map_or(
            json!({"running": {}}),
            |reason| json!({"waiting": {"reason": reason}}),
        );
        Object::new(json!({
            "metadata": {"name": name, "creationTimestamp": "2026-05-04T07:59:00Z"},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{"restartCount": i64::from(!ready) * 3, "state": state}],
            },
        }))
    };
    let event = |kind: &str, reason: &str, message: &str, at: &str| {
        Object::new(
            json!({"type": kind, "reason": reason, "message": message, "lastTimestamp": at}),
        )
    };
    Surroundings {
        primary: Workload {
            object: workload("podinfo-primary", 2, 2),
            pods: vec![
                pod("podinfo-primary-a", true, None),
                pod("podinfo-primary-b", true, None),
            ],
        },
        canary: Workload {
            object: workload("podinfo", 2, 1),
            pods: vec![
                pod("podinfo-c", true, None),
                pod("podinfo-d", false, Some("CrashLoopBackOff")),
            ],
        },
        events: vec![
            event(
                "Normal",
                "Advanced",
                "Advance podinfo.shop canary weight 20",
                "2026-05-04T08:00:20Z",
            ),
            event(
                "Warning",
                "CheckFailed",
                "Halt podinfo.shop advancement request duration 612ms > 500ms",
                "2026-05-04T08:00:30Z",
            ),
        ],
    }
}

/// Holds a text to its golden file.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/ask")
        .join(name);
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "{} differs; GOLDEN=write writes it anew",
        path.display()
    );
}

#[test]
fn the_table_lists_every_state() {
    let mut lines: Vec<list::Line> = states()
        .into_iter()
        .map(|(name, mut canary)| {
            name.clone_into(&mut canary.metadata.name);
            list::Line::Canary(Box::new(canary))
        })
        .collect();
    // One that nobody can read hides no other.
    lines.push(list::Line::of(&json!({
        "metadata": {"name": "odd", "namespace": "shop", "creationTimestamp": "2026-05-01T08:00:00Z"},
        "spec": {"targetRef": {"kind": "Deployment", "name": "odd"}, "analysis": {"interval": "1m", "stepWeight": 2.5}},
    })));
    let mut text = list::render(&lines, list::Columns::default(), now(), Style::PLAIN);
    text.push('\n');
    let wide = list::Columns {
        namespace: true,
        wide: true,
    };
    text.push_str(&list::render(&lines, wide, now(), Style::PLAIN));
    golden("table.txt", &text);
}

#[test]
fn one_screen_says_all_about_one_canary() {
    let mut text = String::new();
    for (name, canary) in states() {
        let around = surroundings();
        let screen = detail::render(&canary, &around, now(), Style::PLAIN);
        writeln!(text, "==== {name}\n{screen}").unwrap();
    }
    golden("screen.txt", &text);
}

#[test]
fn every_state_is_explained() {
    let mut text = String::new();
    for (name, canary) in states() {
        let explained = explain::render(&canary, now(), Style::PLAIN);
        writeln!(text, "==== {name}\n{explained}").unwrap();
    }
    let (_, failed) = states().swap_remove(5);
    for run in [1, 2] {
        let explained = explain::render_run(&failed, run, now(), Style::PLAIN).unwrap();
        writeln!(text, "==== run {run}\n{explained}").unwrap();
    }
    golden("explain.txt", &text);
    let error = explain::render_run(&failed, 9, now(), Style::PLAIN).unwrap_err();
    assert!(error.contains("it remembers 1, 2"), "{error}");
}

#[test]
fn the_history_has_the_newest_run_on_top() {
    let mut text = String::new();
    for (name, canary) in states() {
        let rendered = history::render(&canary, now(), Style::PLAIN);
        writeln!(text, "==== {name}\n{rendered}").unwrap();
    }
    golden("history.txt", &text);
}

#[test]
fn colours_change_nothing_but_colours() {
    for (name, canary) in states() {
        let style = Style { colour: true };
        let painted = detail::render(&canary, &surroundings(), now(), style);
        let plain = detail::render(&canary, &surroundings(), now(), Style::PLAIN);
        let mut bare = String::new();
        let mut rest = painted.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            bare.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        bare.push_str(rest);
        assert_eq!(bare, plain, "{name}");
        assert!(painted.contains('\u{1b}'));
    }
}

/// `serin wait` on each state, for a revision: the exit code, or `None` while it goes on.
fn waited(name: &str, goal: &str, revision: Option<&str>) -> Option<u8> {
    let (_, canary) = states()
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    match look(&canary, &goal.parse::<Goal>().unwrap(), revision) {
        Look::GoesOn(_) => None,
        Look::Over(code, _) => Some(code),
    }
}

#[test]
fn wait_tells_promoted_rolled_back_and_not_yet_apart() {
    let old = Some("s1:aaaaaaaabbbb");
    let bad = Some("s1:ccccccccdddd");
    let new = Some("s1:1234567890ab");
    for (state, goal, revision, expected) in [
        ("resting", "succeeded", old, Some(exit::OK)),
        // The revision that the pipeline brought was not looked at yet: the success is that of the one before.
        ("resting", "succeeded", new, None),
        ("progressing", "succeeded", new, None),
        ("failed", "succeeded", bad, Some(exit::ROLLED_BACK)),
        ("failed", "succeeded", new, None),
        ("failed", "failed", bad, Some(exit::OK)),
        ("failed", "done", bad, Some(exit::ROLLED_BACK)),
        ("held", "succeeded", None, Some(exit::ROLLED_BACK)),
        ("resting", "failed", old, Some(exit::PROMOTED)),
        ("refused", "succeeded", new, Some(exit::REFUSED)),
        ("refused", "condition=Accepted=False", None, Some(exit::OK)),
        ("gate", "phase=waitingpromotion", new, Some(exit::OK)),
        ("resting", "initialized", None, Some(exit::OK)),
        ("new", "initialized", None, None),
    ] {
        assert_eq!(
            waited(state, goal, revision),
            expected,
            "{state} {goal} {revision:?}"
        );
    }
    assert!("better".parse::<Goal>().is_err());
}

#[test]
fn a_superseded_revision_is_told_apart() {
    let canary = canary(&format!(
        "{{phase: Progressing, lastAppliedSpec: 's1:new', {PROMOTED}, run: {{number: 4, revision: 's1:new', stage: Analysing}},
          history: [{{number: 3, revision: 's1:mine', outcome: Superseded, cause: 'A newer revision came.'}}]}}"
    ));
    let found = look(&canary, &Goal::Succeeded, Some("s1:mine"));
    assert!(
        matches!(found, Look::Over(exit::SUPERSEDED, _)),
        "{found:?}"
    );
}

#[test]
fn the_controllers_answer_becomes_an_exit_code() {
    let answer = |outcome: &str| crate::api::CommandAnswer {
        word: "abort".to_owned(),
        outcome: outcome.to_owned(),
        message: "no run is under way".to_owned(),
        ..crate::api::CommandAnswer::default()
    };
    assert_eq!(
        say::tell("shop", "podinfo", &answer("Refused"), Style::PLAIN),
        (
            "shop/podinfo: abort refused: no run is under way\n".to_owned(),
            exit::REFUSED
        )
    );
    assert_eq!(
        say::tell("shop", "podinfo", &answer("Honoured"), Style::PLAIN).1,
        exit::OK
    );
}
