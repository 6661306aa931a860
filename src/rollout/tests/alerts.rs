//! Each transition that a person should know of becomes one alert for each of those who are to be told, stands in the status until they
//! were told, and costs no write of its own where another one comes anyway (I5).

use super::*;
use crate::api::{AlertRecord, AlertSeverity, Command, CommandWord};
use crate::rollout::AlertOutcome;

const CHAT: &str = "{apiVersion: flagger.app/v1beta1, kind: AlertProvider, metadata: {name: chat}, spec: {type: slack, address: 'http://chat.test/x'}}";
const PAGER: &str = "{apiVersion: flagger.app/v1beta1, kind: AlertProvider, metadata: {name: pager}, spec: {type: webhook, secretRef: {name: pager}}}";

/// An analysis of steps that is measured, with these alerts and hooks.
fn alerting(alerts: &str, more: &str) -> String {
    format!(
        "{{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40, alerts: [{alerts}]{more},
          metrics: [{{name: request-success-rate, interval: 1m, thresholdRange: {{min: 99}}}}]}}"
    )
}

const TO_CHAT: &str = "{name: all, providerRef: {name: chat}}";

fn with_chat_and(more: &str) -> Cluster {
    let mut cluster = Cluster::given_canary(&canary(&alerting(TO_CHAT, more)));
    cluster.given(CHAT).given_deployment("podinfo:1");
    cluster.run_until(Phase::Initialized);
    sent(&mut cluster);
    cluster.advance(5).forget_the_past();
    cluster
}

fn with_chat() -> Cluster {
    with_chat_and("")
}

/// Whoever sends has sent all that is pending at this moment.
fn sent(cluster: &mut Cluster) {
    let now = cluster.now;
    cluster.run_until_calm();
    for alert in cluster.status().alerts {
        for provider in alert.pending {
            cluster.alert_outcomes.push(AlertOutcome {
                key: alert.key.clone(),
                provider,
                failure: None,
                at: now,
            });
        }
    }
}

/// Reason and severity of the records since the initialisation, oldest first.
fn recorded(cluster: &Cluster) -> Vec<String> {
    let alerts = cluster.status().alerts;
    alerts
        .iter()
        .filter(|alert| alert.reason != "Initialized")
        .map(|alert| format!("{} {}", alert.severity, alert.reason))
        .collect()
}

fn last(cluster: &Cluster) -> AlertRecord {
    cluster.status().alerts.last().cloned().unwrap()
}

#[test]
fn a_good_release_is_told_when_it_begins_and_when_it_is_promoted() {
    let mut cluster = with_chat();
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(recorded(&cluster), ["info NewRevision", "info Succeeded"]);
    let end = last(&cluster);
    assert_eq!(
        end.message,
        "Canary analysis completed successfully, promotion finished."
    );
    assert_eq!((end.phase.as_str(), end.run), ("Succeeded", 1));
    assert_eq!(end.checks, ["request-success-rate 100.00% (≥ 99%): Passed"]);
    assert_eq!(end.pending, ["test/chat"]);
}

#[test]
fn a_bad_release_is_told_with_why_and_the_numbers() {
    let mut cluster = with_chat();
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(94.5));
    cluster.deploy("podinfo:2").run_until(Phase::Failed);
    assert_eq!(
        recorded(&cluster),
        ["info NewRevision", "error ThresholdReached"]
    );
    let end = last(&cluster);
    assert_eq!(end.message, "Failed checks threshold reached 2");
    assert!(
        end.cause.starts_with("2 failed checks reached the threshold; the last: Halt podinfo.test advancement success rate 94.50% < 99%"),
        "{}",
        end.cause
    );
    assert_eq!(end.checks, ["request-success-rate 94.50% (≥ 99%): Failed"]);
}

/// How something goes wrong, or right, and the alert that tells of it.
type Story = (&'static str, &'static str, fn(&mut Cluster), &'static str);

const STORIES: &[Story] = &[
    (
        "pods that never become ready",
        "",
        |cluster| {
            cluster.pods("podinfo", Pods::Stuck);
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "error CanaryNotReady",
    ),
    (
        "a primary that does not become ready",
        "",
        |cluster| {
            cluster.pods("podinfo-primary", Pods::Stuck);
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "error PromotionFailed",
    ),
    (
        "nothing can be measured",
        ", noDataDeadline: 60s",
        |cluster| {
            cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("nothing".to_owned()));
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "error NoDataDeadline",
    ),
    (
        "the gateway does not take the route",
        "",
        |cluster| {
            cluster.gateway_is_silent();
            cluster.deploy("podinfo:2").run_until_calm();
            cluster.advance(120);
        },
        "error RouteNotApplied",
    ),
    (
        "a primary that is lost in the run",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(1);
            cluster.endpoints("podinfo-primary", 0);
            cluster.advance(120);
        },
        "error PrimaryLost",
    ),
    (
        "a primary that is dark while the canary serves",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(1);
            cluster.endpoints("podinfo-primary", 0);
            cluster.advance(120);
        },
        "warn TrafficDiverted",
    ),
    (
        "a primary that does not come back",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(1);
            cluster.endpoints("podinfo-primary", 0);
            cluster.advance(300);
        },
        "error HeldOnCanary",
    ),
    (
        "a gate of the promotion that stays closed",
        ", gateTimeout: 60s, webhooks: [{name: gate, type: confirm-promotion, url: 'http://hooks.test/gate'}]",
        |cluster| {
            cluster.answer_hook("gate", refused());
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "error GateTimedOut",
    ),
    (
        "a gate of the rollout that stays closed",
        ", gateTimeout: 60s, webhooks: [{name: gate, type: confirm-rollout, url: 'http://hooks.test/gate'}]",
        |cluster| {
            cluster.answer_hook("gate", refused());
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "error GateTimedOut",
    ),
    (
        "a gate that waits for a person",
        ", webhooks: [{name: gate, type: confirm-traffic-increase, url: 'http://hooks.test/gate'}]",
        |cluster| {
            cluster.answer_hook("gate", refused());
            cluster.deploy("podinfo:2").advance(60);
        },
        "warn GateClosed",
    ),
    (
        "a rollback hook that says yes",
        ", webhooks: [{name: rollback, type: rollback, url: 'http://hooks.test/rollback'}]",
        |cluster| {
            cluster.answer_hook("rollback", HookAnswer::Passed);
            cluster.deploy("podinfo:2").run_until(Phase::Failed);
        },
        "warn RollbackRequested",
    ),
    (
        "a person who aborts",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(15);
            let word = Command {
                word: CommandWord::Abort,
                by: "alice".to_owned(),
                at: Some(cluster.now),
                reason: String::new(),
            };
            let name = cluster.canary_name();
            cluster.edit(&name, |canary| {
                canary["metadata"]["annotations"] = json!({"serin.dev/command": word.encode()});
            });
            cluster.run_until(Phase::Failed);
        },
        "warn Aborted",
    ),
    (
        "a target that is set back",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(15);
            cluster.deploy("podinfo:1").run_until(Phase::Succeeded);
        },
        "info Reverted",
    ),
    (
        "a newer revision in the run",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(15);
            cluster.deploy("podinfo:3").run_until_calm();
        },
        "info NewRevision",
    ),
    (
        "a spec that can't be carried out any more",
        "",
        |cluster| {
            cluster.deploy("podinfo:2").advance(15);
            cluster.edit_canary(|spec| spec["provider"] = json!("nonesuch"));
            cluster.advance(300);
        },
        "warn ProviderNotSupported",
    ),
];

#[test]
fn each_way_a_run_ends_or_stands_still_is_told_once() {
    for (what, analysis, happens, expected) in STORIES {
        let mut cluster = with_chat_and(analysis);
        happens(&mut cluster);
        cluster.advance(600);
        let told = recorded(&cluster);
        let times = told.iter().filter(|one| *one == expected).count();
        let wanted = if *expected == "info NewRevision" {
            2
        } else {
            1
        };
        assert_eq!(times, wanted, "{what}: {told:?}");
        let alert = cluster
            .status()
            .alerts
            .into_iter()
            .rfind(|alert| expected.ends_with(&alert.reason))
            .unwrap();
        assert!(!alert.message.is_empty() && !alert.key.is_empty(), "{what}");
    }
}

/// What the closed gates of the run were told by, oldest first.
fn told_of_gates(cluster: &Cluster) -> Vec<String> {
    let alerts = cluster.status().alerts;
    alerts
        .into_iter()
        .filter(|alert| alert.reason == "GateClosed")
        .map(|alert| alert.message)
        .collect()
}

const INCREASE: &str = "Canary traffic increase is waiting for approval.";
const PROMOTION: &str = "Canary promotion is waiting for approval.";

/// At the last step, where the gate before the next raise is closed.
fn at_a_closed_gate(hooks: &str) -> Cluster {
    let mut cluster = with_chat_and(&format!(", webhooks: [{hooks}]"));
    cluster.deploy("podinfo:2");
    while cluster.status().run.is_none_or(|run| run.step < 2) {
        cluster.advance(1);
    }
    cluster.answer_hook("confirm-traffic-increase/gate", refused());
    cluster.answer_hook("confirm-promotion/gate", refused());
    cluster.advance(60);
    assert_eq!(told_of_gates(&cluster), [INCREASE]);
    cluster
}

#[test]
fn each_gate_of_a_step_is_told_once_whatever_it_is_called() {
    for (first, second) in [("gate", "gate"), ("gate", "other")] {
        let mut cluster = at_a_closed_gate(&format!(
            "{{name: {first}, type: confirm-traffic-increase, url: 'http://hooks.test/1'}},
             {{name: {second}, type: confirm-promotion, url: 'http://hooks.test/2'}}"
        ));
        let step = cluster.status().run.unwrap().step;
        cluster.answer_hook("confirm-promotion/other", refused());
        cluster.answer_hook("confirm-traffic-increase/gate", HookAnswer::Passed);
        cluster.run_until(Phase::WaitingPromotion);
        assert_eq!(cluster.status().run.unwrap().step, step, "the same step");
        assert_eq!(told_of_gates(&cluster), [INCREASE, PROMOTION], "{second}");
        // Nor is either told again, by whoever goes on from this status, however long the gate stays closed.
        cluster.alert_outcomes.clear();
        cluster.advance(600);
        assert_eq!(told_of_gates(&cluster), [INCREASE, PROMOTION], "{second}");
    }
}

/// A gate whose hook does not answer holds as a closed one does, and somebody must know; who then answers no is told of too. In Flagger both
/// look the same.
#[test]
fn a_gate_that_does_not_answer_is_told_once_and_its_first_no_once_more() {
    for (kind, what, waits) in [
        (
            "confirm-rollout",
            "approval",
            "Canary is waiting for approval",
        ),
        (
            "confirm-traffic-increase",
            "traffic increase approval",
            INCREASE.trim_end_matches('.'),
        ),
        (
            "confirm-promotion",
            "promotion approval",
            PROMOTION.trim_end_matches('.'),
        ),
    ] {
        let mut cluster = with_chat_and(&format!(
            ", webhooks: [{{name: gate, type: {kind}, url: 'http://hooks.test/1'}}]"
        ));
        cluster.answer_hook("gate", unreachable());
        cluster.deploy("podinfo:2").advance(300);
        let silent = format!("{waits}, but the gate gate does not answer: connection refused");
        assert_eq!(told_of_gates(&cluster), [silent.as_str()], "{kind}");
        let run = cluster.status().run.unwrap();
        let message = run.message.unwrap();
        assert!(
            message.contains("does not answer: connection refused"),
            "{kind}: {message}"
        );
        assert!(
            cluster.has_told(&format!(
                "advancement waiting for {what} gate, which does not answer: connection refused"
            )),
            "{kind}: {:?}",
            cluster.texts()
        );

        let no = format!("{waits}.");
        for answer in [refused(), unreachable(), refused()] {
            cluster.answer_hook("gate", answer);
            cluster.advance(60);
            assert_eq!(told_of_gates(&cluster), [silent.as_str(), &no], "{kind}");
            let after = cluster.status().run.unwrap();
            assert!(after.message.unwrap().contains("gate gate is closed;"));
            assert_eq!(
                after.waiting_since, run.waiting_since,
                "{kind}: it waits since it began"
            );
        }
        cluster.answer_hook("gate", HookAnswer::Passed);
        cluster.run_until(Phase::Succeeded);
    }
}

#[test]
fn a_closed_gate_is_told_once_whatever_its_hook_is_called() {
    let mut cluster = with_chat_and(
        ", webhooks: [{name: it does not answer, type: confirm-promotion, url: 'http://hooks.test/1'}]",
    );
    cluster.answer_hook("it does not answer", refused());
    cluster.deploy("podinfo:2").advance(3600);
    assert_eq!(cluster.phase(), Phase::WaitingPromotion);
    assert_eq!(cluster.times_told("waiting for promotion approval"), 1);
}

#[test]
fn a_muted_gate_that_does_not_answer_alerts_nobody() {
    let mut cluster = with_chat_and(
        ", webhooks: [{name: gate, type: confirm-promotion, url: 'http://hooks.test/1', muteAlert: true}]",
    );
    cluster.answer_hook("gate", unreachable());
    cluster.deploy("podinfo:2").advance(300);
    assert_eq!(cluster.phase(), Phase::WaitingPromotion);
    assert_eq!(told_of_gates(&cluster), Vec::<String>::new());
}

#[test]
fn two_hooks_of_one_gate_that_close_one_after_the_other_are_both_told() {
    for (kind, text) in [
        ("confirm-rollout", "Canary is waiting for approval."),
        ("confirm-traffic-increase", INCREASE),
        ("confirm-promotion", PROMOTION),
    ] {
        let mut cluster = with_chat_and(&format!(
            ", webhooks: [{{name: first, type: {kind}, url: 'http://hooks.test/1'}},
               {{name: second, type: {kind}, url: 'http://hooks.test/2'}}]"
        ));
        cluster.answer_hook("first", refused());
        cluster.answer_hook("second", refused());
        cluster.deploy("podinfo:2").advance(60);
        assert_eq!(told_of_gates(&cluster), [text], "{kind}");
        cluster.answer_hook("first", HookAnswer::Passed);
        cluster.advance(60);
        let run = cluster.status().run.unwrap();
        assert_eq!(run.waiting_for.as_deref(), Some("gate second"), "{kind}");
        assert_eq!(told_of_gates(&cluster), [text, text], "{kind}");
        // One that closes again while the other is waited for was told.
        cluster.answer_hook("first", refused());
        cluster.advance(60);
        assert_eq!(told_of_gates(&cluster), [text, text], "{kind}");
        cluster.answer_hook("first", HookAnswer::Passed);
        cluster.answer_hook("second", HookAnswer::Passed);
        cluster.run_until(Phase::Succeeded);
        let keys: std::collections::BTreeSet<String> = cluster
            .status()
            .alerts
            .into_iter()
            .map(|alert| alert.key)
            .collect();
        assert_eq!(keys.len(), cluster.status().alerts.len(), "{kind}");
    }
}

#[test]
fn a_primary_that_goes_dark_again_after_it_stood_is_told_again_but_not_each_flicker() {
    let mut cluster = with_chat();
    let told = |cluster: &Cluster| {
        let alerts = cluster.status().alerts;
        let diverted = alerts
            .iter()
            .filter(|alert| alert.reason == "TrafficDiverted");
        diverted.count()
    };
    // Held at this step by a check without data, so that the run does not go on meanwhile.
    cluster.deploy("podinfo:2").advance(5);
    cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("nothing".to_owned()));
    let step = cluster.status().run.unwrap().step;
    cluster.endpoints("podinfo-primary", 0).advance(5);
    assert_eq!(told(&cluster), 1);
    for _ in 0..5 {
        cluster.endpoints("podinfo-primary", 2).advance(3);
        assert!(!cluster.status().run.unwrap().diverted);
        cluster.endpoints("podinfo-primary", 0).advance(3);
        assert!(cluster.status().run.unwrap().diverted);
    }
    assert_eq!(told(&cluster), 1, "flicker");
    cluster.endpoints("podinfo-primary", 2).advance(60);
    cluster.endpoints("podinfo-primary", 0).advance(5);
    assert_eq!(told(&cluster), 2);
    assert_eq!(cluster.status().run.unwrap().step, step, "the same step");
}

#[test]
fn what_was_told_before_an_update_is_not_told_again_after_it() {
    let mut cluster = at_a_closed_gate(
        "{name: gate, type: confirm-traffic-increase, url: 'http://hooks.test/1'}",
    );
    let name = cluster.canary_name();
    // As versions before this one wrote it.
    cluster.edit(&name, |canary| {
        let run = canary["status"]["run"]["id"].as_str().unwrap().to_owned();
        let alerts = canary["status"]["alerts"].as_array_mut().unwrap();
        alerts.last_mut().unwrap()["key"] = json!(format!("{run}/2/GateClosed"));
    });
    cluster.alert_outcomes.clear();
    cluster.advance(600);
    assert_eq!(told_of_gates(&cluster), [INCREASE]);
    sent(&mut cluster);
    cluster.advance(10);
    assert_eq!(last(&cluster).sent, ["test/chat"]);
}

#[test]
fn a_muted_hook_is_told_by_no_alert() {
    let hook = ", webhooks: [{name: gate, type: confirm-promotion, muteAlert: true, url: 'http://hooks.test/gate'}]";
    let mut cluster = with_chat_and(hook);
    cluster.answer_hook("gate", refused());
    cluster
        .deploy("podinfo:2")
        .run_until(Phase::WaitingPromotion);
    assert_eq!(recorded(&cluster), ["info NewRevision"]);
}

#[test]
fn each_is_told_what_is_grave_enough_and_an_empty_severity_means_all() {
    // Flagger documents info as the default and tells such an entry nothing.
    let alerts = "{name: all, severity: '', providerRef: {name: chat}}, {name: bad, severity: error, providerRef: {name: pager, namespace: ops}}, {name: twice, severity: warn, providerRef: {name: chat, namespace: test}}";
    let mut cluster = initialised(&alerting(alerts, ""));
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(94.5));
    cluster.deploy("podinfo:2").run_until(Phase::Failed);
    let pending: Vec<Vec<String>> = cluster
        .status()
        .alerts
        .into_iter()
        .filter(|alert| alert.reason != "Initialized")
        .map(|alert| alert.pending)
        .collect();
    assert_eq!(pending, [vec!["test/chat"], vec!["test/chat", "ops/pager"]]);
}

#[test]
fn where_the_canary_names_nobody_the_controllers_channel_is_told_if_there_is_one() {
    let mut cluster = initialised(MEASURED);
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.status().alerts, []);
    let mut cluster = initialised(MEASURED);
    cluster.settings.alerts = true;
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(recorded(&cluster), ["info NewRevision", "info Succeeded"]);
    assert_eq!(last(&cluster).pending, ["controller"]);
    // The canary's own word goes before it.
    let mut cluster = with_chat();
    cluster.settings.alerts = true;
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(last(&cluster).pending, ["test/chat"]);
}

#[test]
fn who_was_told_is_written_along_with_the_next_change() {
    let mut plain = initialised(MEASURED);
    plain.status_writes = 0;
    plain.deploy("podinfo:2").run_until(Phase::Succeeded);
    plain.advance(600);

    let mut cluster = with_chat();
    cluster.status_writes = 0;
    cluster.deploy("podinfo:2").run_until_calm();
    sent(&mut cluster);
    cluster.run_until(Phase::Succeeded);
    let first = cluster
        .status()
        .alerts
        .into_iter()
        .find(|alert| alert.reason == "NewRevision")
        .unwrap();
    assert_eq!(
        (first.pending.len(), first.sent),
        (0, vec!["test/chat".to_owned()])
    );
    sent(&mut cluster);
    cluster.advance(600);
    assert_eq!(last(&cluster).sent, ["test/chat"]);
    assert_eq!(
        cluster.status_writes,
        plain.status_writes + 1,
        "only the last alert's receipt has a write of its own"
    );
}

#[test]
fn at_rest_nothing_is_written_once_everybody_is_told() {
    let mut cluster = with_chat();
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    let transition = cluster.status().last_transition_time;
    sent(&mut cluster);
    cluster.advance(10);
    assert!(
        cluster
            .status()
            .alerts
            .iter()
            .all(|alert| alert.pending.is_empty())
    );
    assert_eq!(
        cluster.status().last_transition_time,
        transition,
        "a receipt is no transition"
    );
    cluster.status_writes = 0;
    cluster.forget_the_past();
    cluster.advance(3600);
    assert_eq!(cluster.status_writes, 0);
    assert_eq!(cluster.wake(), None);
}

#[test]
fn a_gate_that_may_stay_closed_for_days_does_not_keep_a_receipt_waiting() {
    let hook = ", webhooks: [{name: gate, type: confirm-promotion, url: 'http://hooks.test/gate'}]";
    let mut cluster = with_chat_and(hook);
    cluster.answer_hook("gate", refused());
    cluster
        .deploy("podinfo:2")
        .run_until(Phase::WaitingPromotion);
    sent(&mut cluster);
    cluster.advance(3);
    assert_eq!(last(&cluster).sent, ["test/chat"]);
}

#[test]
fn a_controller_that_starts_finds_what_was_not_sent_and_tells_nothing_twice() {
    let mut cluster = with_chat();
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(94.5));
    cluster.deploy("podinfo:2").run_until(Phase::Failed);
    let before = cluster.status().alerts;
    // Nobody sent anything; whoever comes next knows nothing but the status.
    cluster.alert_outcomes.clear();
    cluster.advance(300);
    assert_eq!(cluster.status().alerts, before);
    assert_eq!(last(&cluster).pending, ["test/chat"]);
    assert!(
        cluster.wake().is_some(),
        "what is pending is looked at again"
    );
}

#[test]
fn who_could_not_be_told_stands_in_the_record() {
    let mut cluster = with_chat();
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    sent(&mut cluster);
    for outcome in &mut cluster.alert_outcomes {
        outcome.failure = Some("the answer is HTTP 404 Not Found".to_owned());
    }
    cluster.advance(10);
    let end = last(&cluster);
    assert!(end.pending.is_empty() && end.sent.is_empty());
    assert_eq!(end.failed, ["test/chat: the answer is HTTP 404 Not Found"]);
}

#[test]
fn only_the_last_alerts_are_kept() {
    let mut cluster = with_chat();
    for version in 2..14 {
        cluster
            .deploy(&format!("podinfo:{version}"))
            .run_until(Phase::Progressing)
            .run_until(Phase::Succeeded);
        sent(&mut cluster);
        cluster.advance(10);
    }
    let alerts = cluster.status().alerts;
    assert_eq!(alerts.len(), 10);
    assert_eq!(alerts.last().unwrap().run, 12);
    // Pending ones stay longer, but not without end.
    let mut cluster = with_chat();
    for version in 2..20 {
        cluster
            .deploy(&format!("podinfo:{version}"))
            .run_until(Phase::Progressing)
            .run_until(Phase::Succeeded);
    }
    assert_eq!(cluster.status().alerts.len(), 20);
}

// ---- the condition

fn alerting_condition(cluster: &Cluster) -> (ConditionStatus, String, String) {
    cluster.condition(condition_type::ALERTING)
}

#[test]
fn a_provider_that_is_missing_is_said_and_holds_no_rollout() {
    let mut cluster = initialised(&alerting(TO_CHAT, ""));
    let (status, reason, text) = alerting_condition(&cluster);
    assert_eq!(
        (status, reason.as_str()),
        (ConditionStatus::False, "AlertProviderUnfit")
    );
    assert_eq!(
        text,
        "spec.analysis.alerts[0].providerRef: AlertProvider chat.test not found"
    );
    assert_eq!(
        cluster.condition(condition_type::READY).0,
        ConditionStatus::True
    );
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    cluster.given(CHAT).run_until_calm();
    let (status, reason, text) = alerting_condition(&cluster);
    assert_eq!(
        (status, reason.as_str()),
        (ConditionStatus::True, "AlertsReady")
    );
    assert_eq!(text, "Alerts go to test/chat.");
    // Whoever names nobody needs no word about it.
    cluster.edit_canary(|spec| spec["analysis"]["alerts"] = json!([]));
    cluster.run_until_calm();
    assert!(
        cluster
            .status()
            .condition(condition_type::ALERTING)
            .is_none()
    );
}

#[test]
fn a_secret_without_an_address_and_a_template_that_asks_for_nothing_are_said() {
    let alerts = "{name: all, providerRef: {name: pager}, template: '{{ .mesage }}'}";
    let mut cluster = initialised(&alerting(alerts, ""));
    cluster.given(PAGER).run_until_calm();
    let (.., text) = alerting_condition(&cluster);
    assert!(
        text.contains("alerts[0].template: template line 1, column 4: there is no .mesage here"),
        "{text}"
    );
    assert!(text.contains("AlertProvider pager.test: Secret pager.test not found, expected it with the key address"), "{text}");
    cluster
        .given("{apiVersion: v1, kind: Secret, metadata: {name: pager}, data: {token: c2VjcmV0}}");
    cluster.run_until_calm();
    let (.., text) = alerting_condition(&cluster);
    assert!(
        text.contains("Secret pager.test lacks the key address; it has token"),
        "{text}"
    );
    assert!(!text.contains("c2VjcmV0"));
    cluster.given(
        "{apiVersion: v1, kind: Secret, metadata: {name: pager}, data: {address: aHR0cDovL3g=}}",
    );
    cluster.edit_canary(|spec| spec["analysis"]["alerts"][0]["template"] = json!("{{ .message }}"));
    cluster.run_until_calm();
    assert_eq!(alerting_condition(&cluster).0, ConditionStatus::True);
}

#[test]
fn what_can_not_be_read_changes_no_condition() {
    let mut cluster = with_chat();
    let before = alerting_condition(&cluster);
    let chat = crate::object::kinds::ALERT_PROVIDER.named("test", "chat");
    cluster.unreadable(chat, "forbidden");
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(alerting_condition(&cluster), before);
    assert_eq!(last(&cluster).severity, AlertSeverity::Info);
}
