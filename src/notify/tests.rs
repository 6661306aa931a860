//! What receivers get, held against `golden/`, and how they are treated: on loopback, as they behave on bad days.

use super::*;
use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap as Headers;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn message() -> Message {
    let cause = "2 failed checks reached the threshold; the last: success rate 94.50% < 99%";
    let check = "request-success-rate 94.50% (≥ 99%): Failed";
    Message {
        id: "8f1c/3-1700000000000/2/ThresholdReached".to_owned(),
        name: "podinfo".to_owned(),
        namespace: "test".to_owned(),
        target: "Deployment/podinfo".to_owned(),
        cluster: "europe".to_owned(),
        severity: AlertSeverity::Error,
        reason: "ThresholdReached".to_owned(),
        phase: "Progressing".to_owned(),
        at: "2026-05-04T08:00:00.25Z".parse().unwrap(),
        text: "Failed checks threshold reached 2".to_owned(),
        cause: cause.to_owned(),
        checks: vec![check.to_owned()],
        run: 3,
        revision: "s1:abc".to_owned(),
        fields: [("Cluster", "europe"), ("Cause", cause), ("Checks", check)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        link: Some("https://grafana.test/d/podinfo".to_owned()),
    }
}

fn receiver(kind: AlertProviderType, address: &str) -> Receiver {
    Receiver::of_flags(kind, address, "", "", "serin", "ops")
}

fn golden(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/notify/golden")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

#[test]
fn each_receiver_gets_what_its_makers_ask_for() {
    for kind in AlertProviderType::ALL {
        let sent = request(&message(), &receiver(*kind, "https://chat.test/hook")).unwrap();
        let expected = golden(&format!("{kind}.json"));
        assert_eq!(sent.body, expected, "{kind}: {:#}", sent.body);
    }
    let connector = Receiver {
        format: TeamsFormat::MessageCard,
        ..receiver(AlertProviderType::MsTeams, "https://chat.test/hook")
    };
    let sent = request(&message(), &connector).unwrap();
    assert_eq!(sent.body, golden("msteams-message-card.json"));
}

#[test]
fn nothing_is_sent_that_is_not_known() {
    let bare = Message {
        name: "podinfo".to_owned(),
        namespace: "test".to_owned(),
        text: "New Deployment detected, initialization completed.".to_owned(),
        severity: AlertSeverity::Info,
        ..Message::default()
    };
    let body = |kind| {
        request(&bare, &receiver(kind, "https://chat.test/hook"))
            .unwrap()
            .body
    };
    let slack = body(AlertProviderType::Slack);
    let attachment = &slack["attachments"][0];
    assert_eq!(attachment["color"], "good");
    assert!(attachment.get("author_link").is_none());
    assert_eq!(attachment["fields"], serde_json::json!([]));
    let card = body(AlertProviderType::MsTeams)["attachments"][0]["content"].clone();
    assert!(card.get("actions").is_none() && card["body"].as_array().unwrap().len() == 2);
    let alert = body(AlertProviderType::Alertmanager)[0].clone();
    assert_eq!(alert["labels"]["severity"], "info");
    assert!(alert["labels"].get("cluster").is_none() && alert.get("generatorURL").is_none());
}

/// Where Serin's payloads differ from Flagger's on purpose, each with why. Of what Flagger sends everything else is there and the same.
const DIFFERENT_FROM_FLAGGER: [(AlertProviderType, &str, &str); 2] = [
    (
        AlertProviderType::Slack,
        "/attachments/0/fields/1/value",
        "Slack's markup is escaped in words from outside",
    ),
    (
        AlertProviderType::GoogleChat,
        "/cards/0/sections/2/widgets/0/textParagraph/text",
        "HTML is escaped in words from outside",
    ),
];

/// What is in `flaggers` and not the same in `ours`: places below `place`.
fn differences(flaggers: &Value, ours: &Value, place: &str, into: &mut Vec<String>) {
    match (flaggers, ours) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in fields {
                let other = others.get(name).unwrap_or(&Value::Null);
                differences(value, other, &format!("{place}/{name}"), into);
            }
        }
        (Value::Array(items), Value::Array(others)) => {
            for (index, value) in items.iter().enumerate() {
                let other = others.get(index).unwrap_or(&Value::Null);
                differences(value, other, &format!("{place}/{index}"), into);
            }
        }
        _ if flaggers == ours => {}
        _ => into.push(place.to_owned()),
    }
}

/// The kind of everything in a value, and nothing of what it says.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => Value::from("text"),
        Value::Number(_) => Value::from("number"),
        Value::Bool(_) => Value::from("flag"),
        Value::Null => Value::Null,
    }
}

#[test]
fn whatever_flagger_sends_is_sent() {
    let recorded = golden("flagger.json");
    let recorded = recorded.as_object().unwrap();
    assert_eq!(recorded.len(), 5, "{:?}", recorded.keys());
    for (name, severities) in recorded {
        let kind: AlertProviderType = name.parse().unwrap();
        let severities = severities.as_object().unwrap();
        assert_eq!(severities.len(), 3, "{name}");
        for (severity, flaggers) in severities {
            let told = Message {
                severity: severity.parse().unwrap(),
                ..message()
            };
            let receiver = Receiver {
                // Flagger knows the form of the old connector only.
                format: TeamsFormat::MessageCard,
                ..receiver(kind, "https://chat.test/hook")
            };
            let sent = request(&told, &receiver).unwrap();
            assert_eq!(
                (flaggers["method"].as_str(), flaggers["path"].as_str()),
                (Some("POST"), Some(sent.url.path())),
                "{name}"
            );
            assert_eq!(
                flaggers["contentType"].as_str(),
                sent.headers["content-type"].to_str().ok(),
                "{name}"
            );
            let mut different = Vec::new();
            differences(&flaggers["body"], &sent.body, "", &mut different);
            let on_purpose: Vec<&str> = DIFFERENT_FROM_FLAGGER
                .iter()
                .filter(|(whose, ..)| *whose == kind)
                .map(|(_, place, _)| *place)
                .collect();
            assert_eq!(
                different, on_purpose,
                "{name}, {severity}: {:#}\nFlagger: {flaggers:#}",
                sent.body
            );
            // What differs on purpose differs in its words alone.
            let (theirs, ours) = (shape(&flaggers["body"]), shape(&sent.body));
            let mut different = Vec::new();
            differences(&theirs, &ours, "", &mut different);
            assert!(different.is_empty(), "{name}, {severity}: {different:?}");
        }
    }
}

/// What a pod may have said last, and an address in it that is none of anybody's.
const LAST_WORDS: &str =
    "<!channel> @Here @everyone: a < b && c@all.test <https://evil.test|ok> x@sha256:1 @hereby";

#[test]
fn words_from_outside_are_no_markup_and_call_nobody() {
    let calm = "<!channel> @\u{200b}Here @\u{200b}everyone: a < b && c@\u{200b}all.test <https://evil.test|ok> x@sha256:1 @hereby";
    let escaped = calm
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let mut told = message();
    told.fields = vec![("Cause".to_owned(), LAST_WORDS.to_owned())];
    for (kind, place, expected) in [
        (
            AlertProviderType::Slack,
            "/attachments/0/fields/0/value",
            escaped.as_str(),
        ),
        (
            AlertProviderType::Discord,
            "/attachments/0/fields/0/value",
            calm,
        ),
        (
            AlertProviderType::Rocket,
            "/attachments/0/fields/0/value",
            calm,
        ),
        (
            AlertProviderType::MsTeams,
            "/attachments/0/content/body/2/facts/0/value",
            LAST_WORDS,
        ),
    ] {
        let sent = request(&told, &receiver(kind, "https://chat.test/hook")).unwrap();
        let found = sent.body.pointer(place).and_then(Value::as_str);
        assert_eq!(found, Some(expected), "{kind}: {:#}", sent.body);
    }
    // Whatever a text has come to, Discord calls nobody for it.
    let sent = request(
        &told,
        &receiver(AlertProviderType::Discord, "https://chat.test/hook"),
    );
    assert_eq!(
        sent.unwrap().body["allowed_mentions"],
        serde_json::json!({"parse": []})
    );
}

#[test]
fn discord_and_alertmanager_have_paths_of_their_own() {
    for (kind, address, expected) in [
        (
            AlertProviderType::Discord,
            "https://discord.test/api/webhooks/1/x",
            "https://discord.test/api/webhooks/1/x/slack",
        ),
        (
            AlertProviderType::Discord,
            "https://discord.test/api/webhooks/1/x/slack",
            "https://discord.test/api/webhooks/1/x/slack",
        ),
        (
            AlertProviderType::Alertmanager,
            "http://alertmanager.monitoring:9093/",
            "http://alertmanager.monitoring:9093/api/v2/alerts",
        ),
        (
            AlertProviderType::Alertmanager,
            "http://a.test/prefix/api/v2/alerts",
            "http://a.test/prefix/api/v2/alerts",
        ),
        (
            AlertProviderType::Slack,
            "https://hooks.slack.test/services/T/B/x",
            "https://hooks.slack.test/services/T/B/x",
        ),
    ] {
        let sent = request(&message(), &receiver(kind, address)).unwrap();
        assert_eq!(sent.url.as_str(), expected);
    }
}

#[test]
fn a_token_goes_to_the_address_beside_it_and_to_no_other() {
    let secret =
        Credentials::from_entries([("address", "https://chat.test/x\n"), ("token", "t0ken\n")]);
    let named = AlertProviderSpec {
        provider_type: AlertProviderType::Slack,
        secret_ref: Some(crate::api::SecretRef { name: "s".into() }),
        ..AlertProviderSpec::default()
    };
    let told = Receiver::of(&named, Some(&secret)).unwrap();
    assert_eq!(
        (
            told.address.as_str(),
            told.token.as_deref(),
            told.channel.as_str()
        ),
        ("https://chat.test/x", Some("t0ken"), "general")
    );
    let sent = request(&message(), &told).unwrap();
    assert_eq!(sent.headers["authorization"], "Bearer t0ken");
    assert!(sent.headers["authorization"].is_sensitive());
    assert!(!format!("{told:?}").contains("t0ken") && !format!("{told:?}").contains("chat.test"));
    // An address in the object is somebody else's word: the Secret's token is not for it.
    let both = AlertProviderSpec {
        address: Some("https://elsewhere.test/".to_owned()),
        ..named.clone()
    };
    let told = Receiver::of(&both, Some(&secret)).unwrap();
    assert_eq!(told.token, None);
    let none = Credentials::from_entries([("token", "t0ken")]);
    let error = Receiver::of(&named, Some(&none)).unwrap_err();
    assert!(
        error.contains("lacks the key address") && !error.contains("t0ken"),
        "{error}"
    );
    // Discord's messages know no token.
    let discord = Receiver {
        kind: AlertProviderType::Discord,
        ..Receiver::of(&named, Some(&secret)).unwrap()
    };
    assert!(
        !request(&message(), &discord)
            .unwrap()
            .headers
            .contains_key("authorization")
    );
}

#[test]
fn an_address_that_is_none_is_not_repeated() {
    for address in [
        "hooks.slack.com/s3cret",
        "file:///s3cret",
        "http://",
        "s3cret",
    ] {
        let told = receiver(AlertProviderType::Slack, address);
        let error = request(&message(), &told).err().unwrap();
        assert!(
            error.contains("no URL") && !error.contains("s3cret"),
            "{error}"
        );
    }
}

// ---- on the wire

/// What a receiver on loopback has seen.
#[derive(Clone, Default)]
struct Seen {
    requests: Arc<Mutex<Vec<(Headers, Value)>>>,
}

impl Seen {
    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// A receiver that answers the n-th request, from 0, by `answer`.
async fn serve(
    answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static,
) -> (String, Seen) {
    crate::providers::http::install_crypto();
    let seen = Seen::default();
    let count = Arc::new(AtomicUsize::new(0));
    let told = seen.clone();
    let handler = move |headers: Headers, body: Bytes| {
        let (count, told, answer) = (Arc::clone(&count), told.clone(), answer.clone());
        async move {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            told.requests.lock().unwrap().push((headers, body));
            answer(count.fetch_add(1, Ordering::SeqCst))
        }
    };
    let router = Router::new().fallback(post(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/s3cret"), seen)
}

const QUICK: Timing = Timing {
    attempt: Duration::from_millis(500),
    overall: Duration::from_secs(4),
    first_wait: Duration::from_millis(20),
    longest_wait: Duration::from_millis(100),
};

async fn send_with(receiver: &Receiver, timing: Timing) -> Result<(), String> {
    crate::providers::http::install_crypto();
    let sender = Sender::new("test", timing).unwrap();
    let request = request(&message(), receiver).unwrap();
    let stop = CancellationToken::new();
    sender
        .send(&request, receiver.proxy.as_deref(), || true, &stop)
        .await
        .unwrap()
}

fn status(code: u16) -> Response {
    axum::http::StatusCode::from_u16(code)
        .unwrap()
        .into_response()
}

#[tokio::test]
async fn any_success_is_told() {
    for code in [200, 201, 202, 204] {
        let (address, seen) = serve(move |_| status(code)).await;
        let told = receiver(AlertProviderType::Webhook, &address);
        assert_eq!(send_with(&told, QUICK).await, Ok(()));
        let (headers, body) = seen.requests.lock().unwrap()[0].clone();
        assert_eq!(
            headers["content-type"],
            "application/cloudevents+json; charset=utf-8"
        );
        assert_eq!(body, golden("webhook.json"));
    }
}

#[tokio::test]
async fn trouble_that_passes_is_tried_again_and_told_once() {
    for code in [429, 500, 502, 503, 408] {
        let (address, seen) = serve(move |n| status(if n < 2 { code } else { 200 })).await;
        let told = receiver(AlertProviderType::Slack, &address);
        assert_eq!(send_with(&told, QUICK).await, Ok(()), "{code}");
        assert_eq!(seen.count(), 3);
    }
}

#[tokio::test]
async fn trouble_that_lasts_is_given_up_at_once_and_says_nothing_secret() {
    for code in [400, 401, 403, 404, 410, 501] {
        let (address, seen) = serve(move |_| {
            (
                axum::http::StatusCode::from_u16(code).unwrap(),
                "token s3cret is wrong",
            )
                .into_response()
        })
        .await;
        let told = receiver(AlertProviderType::Slack, &address);
        let error = send_with(&told, QUICK).await.unwrap_err();
        assert!(
            error.contains(&code.to_string()) && !error.contains("s3cret"),
            "{error}"
        );
        assert_eq!(seen.count(), 1);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let (address, seen) = serve(|n| {
        if n == 0 {
            (
                axum::http::StatusCode::TOO_MANY_REQUESTS,
                [("retry-after", "1")],
            )
                .into_response()
        } else {
            status(200)
        }
    })
    .await;
    let began = Instant::now();
    let told = receiver(AlertProviderType::Slack, &address);
    assert_eq!(send_with(&told, QUICK).await, Ok(()));
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(seen.count(), 2);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let (address, seen) = serve(|_| {
        (
            axum::http::StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", "3600")],
        )
            .into_response()
    })
    .await;
    let began = Instant::now();
    let told = receiver(AlertProviderType::Slack, &address);
    let error = send_with(&told, QUICK).await.unwrap_err();
    assert!(
        error.contains("given up after 1 attempts") && error.contains("503"),
        "{error}"
    );
    assert!(began.elapsed() < QUICK.overall);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_slow_or_dead_is_given_up_in_time() {
    // One that takes the connection and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/s3cret", listener.local_addr().unwrap());
    let timing = Timing {
        attempt: Duration::from_millis(100),
        overall: Duration::from_millis(600),
        ..QUICK
    };
    for (address, why) in [
        (silent.as_str(), "no answer within 0.1 s"),
        ("http://127.0.0.1:1/s3cret", "refused"),
    ] {
        let began = Instant::now();
        let told = receiver(AlertProviderType::Slack, address);
        let error = send_with(&told, timing).await.unwrap_err();
        assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn no_redirect_leads_to_another_host() {
    let (elsewhere, seen_elsewhere) = serve(|_| status(200)).await;
    for code in [301, 302, 303, 307, 308] {
        let target = elsewhere.clone();
        let (address, seen) = serve(move |_| {
            (
                axum::http::StatusCode::from_u16(code).unwrap(),
                [("location", target.clone())],
            )
                .into_response()
        })
        .await;
        let told = Receiver {
            token: Some("t0ken".to_owned()),
            ..receiver(AlertProviderType::Webhook, &address)
        };
        let error = send_with(&told, QUICK).await.unwrap_err();
        assert!(
            error.contains("redirect") && !error.contains("t0ken"),
            "{error}"
        );
        assert_eq!(seen.count(), 1);
    }
    assert_eq!(
        seen_elsewhere.count(),
        0,
        "neither message nor token got there"
    );
}

#[tokio::test]
async fn a_redirect_within_the_host_keeps_the_message() {
    let (address, seen) = serve(|n| {
        if n == 0 {
            (
                axum::http::StatusCode::PERMANENT_REDIRECT,
                [("location", "/moved")],
            )
                .into_response()
        } else {
            status(202)
        }
    })
    .await;
    let told = Receiver {
        token: Some("t0ken".to_owned()),
        ..receiver(AlertProviderType::Webhook, &address)
    };
    assert_eq!(send_with(&told, QUICK).await, Ok(()));
    let requests = seen.requests.lock().unwrap();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].0["authorization"], "Bearer t0ken");
    assert_eq!(requests[1].1, golden("webhook.json"));
}

#[tokio::test]
async fn slacks_api_says_no_with_a_success() {
    for (answer, expected) in [
        (
            r#"{"ok":false,"error":"invalid_auth"}"#,
            Err("Slack answers invalid_auth".to_owned()),
        ),
        (
            r#"{"ok":false,"error":"Token s3cret!"}"#,
            Err("Slack answers an error".to_owned()),
        ),
        (r#"{"ok":true}"#, Ok(())),
        ("ok", Ok(())),
    ] {
        let (address, _) = serve(move |_| answer.into_response()).await;
        let told = receiver(AlertProviderType::Slack, &address);
        assert_eq!(send_with(&told, QUICK).await, expected);
    }
}

#[tokio::test]
async fn each_provider_has_its_proxy() {
    let (proxy, seen) = serve(|_| status(200)).await;
    let told = Receiver {
        proxy: Some(proxy),
        ..receiver(AlertProviderType::Slack, "http://nowhere.invalid/hook")
    };
    assert_eq!(send_with(&told, QUICK).await, Ok(()));
    let requests = seen.requests.lock().unwrap();
    assert_eq!(requests[0].0["host"], "nowhere.invalid");
    assert_eq!(requests[0].1, golden("slack.json"));
}

#[tokio::test]
async fn who_stops_waits_for_no_one_and_gives_nothing_up() {
    let (address, seen) = serve(|_| status(503)).await;
    crate::providers::http::install_crypto();
    let timing = Timing {
        first_wait: Duration::from_mins(1),
        overall: Duration::from_mins(10),
        ..QUICK
    };
    let sender = Sender::new("test", timing).unwrap();
    let request = request(&message(), &receiver(AlertProviderType::Slack, &address)).unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let watching = seen.clone();
    tokio::spawn(async move {
        while watching.count() == 0 {
            tokio::task::yield_now().await;
        }
        stopping.cancel();
    });
    let began = Instant::now();
    assert_eq!(sender.send(&request, None, || true, &stop).await, None);
    assert!(began.elapsed() < Duration::from_secs(10));
    // Nor does one begin who may not write any more.
    let stop = CancellationToken::new();
    assert_eq!(sender.send(&request, None, || false, &stop).await, None);
    assert_eq!(seen.count(), 1);
}
