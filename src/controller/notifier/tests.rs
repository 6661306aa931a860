//! Each alert once and in order, a slow receiver in nobody's way, and what is left when the controller ends: with a receiver and an API
//! server on this machine.

use super::*;
use crate::api::AlertProviderType;
use crate::controller::client::KubeApi;
use crate::hooks::Hooks;
use crate::notify::Timing;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Whatever is asked on loopback is answered long before; only who waits for something that never comes sees this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Receivers, by the last part of their path, and an API server with the objects of one namespace.
#[derive(Clone)]
struct World {
    /// What came: receiver, alert, authorization.
    told: watch::Sender<Vec<(String, String, String)>>,
    /// Receivers that take a message and don't answer yet.
    closed: watch::Sender<BTreeSet<String>>,
    /// By path below the API server's root.
    objects: Arc<Mutex<HashMap<String, Value>>>,
}

async fn serve(
    Shared(world): Shared<World>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(receiver) = uri.path().strip_prefix("/receivers/") {
        let event: Value = serde_json::from_slice(&body).unwrap();
        // Chat services get no id; there the text says which it is.
        let id = event["id"].as_str();
        let id = id.or(event["attachments"][0]["text"].as_str());
        let id = id.unwrap().to_owned();
        let authorization = headers.get("authorization");
        let authorization = authorization.map_or("", |value| value.to_str().unwrap());
        world.told.send_modify(|told| {
            told.push((receiver.to_owned(), id, authorization.to_owned()));
        });
        let mut closed = world.closed.subscribe();
        let open = closed.wait_for(|closed| !closed.contains(receiver));
        return match open.await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
        .into_response();
    }
    if uri.query().unwrap_or_default().contains("watch=") {
        return Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>())
            .into_response();
    }
    let objects = world.objects.lock().unwrap();
    if let Some(object) = objects.get(uri.path()) {
        return axum::Json(object.clone()).into_response();
    }
    let is_list = !uri.path().contains("/namespaces/");
    if is_list {
        let plural = uri.path().rsplit('/').next().unwrap();
        let part = format!("/{plural}/");
        let items: Vec<&Value> = objects
            .iter()
            .filter(|(path, _)| path.contains(&part))
            .map(|(_, object)| object)
            .collect();
        return axum::Json(json!({"metadata": {"resourceVersion": "9"}, "items": items}))
            .into_response();
    }
    let name = uri.path().rsplit('/').next().unwrap();
    let missing = json!({"message": "not found", "details": {"name": name}});
    (StatusCode::NOT_FOUND, axum::Json(missing)).into_response()
}

/// A notifier and all that it needs.
struct Desk {
    world: World,
    address: String,
    notifier: Arc<Notifier>,
    queue: Arc<Queue>,
    telemetry: Arc<Telemetry>,
    tenure: Tenure,
    caches: Arc<Caches>,
    _configs: watch::Sender<kube::Config>,
}

const KEY: (&str, &str) = ("test", "podinfo");

fn key() -> CanaryKey {
    CanaryKey::new(KEY.0, KEY.1)
}

impl Desk {
    /// With a channel of the controller's own, or without.
    async fn open(own: bool) -> Self {
        crate::providers::http::install_crypto();
        let world = World {
            told: watch::channel(Vec::new()).0,
            closed: watch::channel(BTreeSet::new()).0,
            objects: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(serve).with_state(world.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (configs, config) = watch::channel(kube::Config::new(address.parse().unwrap()));
        let api = KubeApi::following(config).unwrap();
        let queue = Arc::new(Queue::default());
        let telemetry = Arc::new(Telemetry::new("kubernetes"));
        let tenure = Tenure::forever();
        let caches = Caches::new(
            api.clone(),
            Vec::new(),
            Arc::clone(&queue),
            Arc::clone(&telemetry),
        );
        let announcer = Announcer::start(
            api,
            Hooks::new("test").unwrap(),
            None,
            Arc::clone(&telemetry),
            TaskTracker::new(),
        );
        let receiver = Receiver {
            address: format!("{address}/receivers/own"),
            ..Receiver::of_flags(AlertProviderType::Webhook, "", "", "", "", "")
        };
        let notifier = Notifier::new(
            Setting {
                own: own.then_some(receiver),
                cluster: String::new(),
                no_cross_namespace_refs: true,
            },
            Sender::new("test", Timing::default()).unwrap(),
            Arc::clone(&caches),
            Arc::clone(&queue),
            Arc::new(announcer),
            Arc::clone(&telemetry),
            tenure.clone(),
        );
        Self {
            world,
            address,
            notifier,
            queue,
            telemetry,
            tenure,
            caches,
            _configs: configs,
        }
    }

    fn holds(&self, path: &str, object: Value) {
        self.world
            .objects
            .lock()
            .unwrap()
            .insert(path.to_owned(), object);
    }

    /// The API server has the canary, and the caches know it.
    async fn with_the_canary_known(self) -> Self {
        self.holds(
            "/apis/flagger.app/v1beta1/namespaces/test/canaries/podinfo",
            json!({"metadata": {"name": "podinfo", "namespace": "test", "uid": "uid", "resourceVersion": "3"}}),
        );
        self.caches.start();
        let known = tokio::time::timeout(PATIENCE, self.queue.next()).await;
        assert_eq!(known.unwrap(), key());
        self.queue.done(key(), None);
        self
    }

    /// An `AlertProvider` that names a Secret, and that Secret.
    fn with_a_provider(self, name: &str) -> Self {
        self.holds(
            &format!("/apis/flagger.app/v1beta1/namespaces/test/alertproviders/{name}"),
            json!({"metadata": {"name": name, "namespace": "test", "resourceVersion": "4"},
                "spec": {"type": "webhook", "secretRef": {"name": format!("{name}-secret")}}}),
        );
        let address = format!("{}/receivers/{name}", self.address);
        self.holds(
            &format!("/api/v1/namespaces/test/secrets/{name}-secret"),
            json!({"metadata": {"name": format!("{name}-secret"), "namespace": "test", "resourceVersion": "5"},
                "stringData": {"address": address, "token": "t0ken"}}),
        );
        self
    }

    fn close(&self, receiver: &str) {
        self.world.closed.send_modify(|closed| {
            closed.insert(receiver.to_owned());
        });
    }

    fn open_all(&self) {
        self.world.closed.send_modify(BTreeSet::clear);
    }

    fn look(&self, alerts: &[(&str, &[&str])]) {
        self.notifier.look(&key(), &canary(alerts));
    }

    /// Waits until so many messages have come; gives receiver and alert of all.
    async fn told(&self, number: usize) -> Vec<(String, String)> {
        let mut told = self.world.told.subscribe();
        let come = told.wait_for(|told| told.len() >= number);
        let come = tokio::time::timeout(PATIENCE, come).await;
        let come = come.unwrap_or_else(|_| panic!("told {:?}", self.world.told.borrow()));
        come.unwrap()
            .iter()
            .map(|(receiver, id, _)| (receiver.clone(), id.replace("uid/", "")))
            .collect()
    }

    /// Waits until the canary was woken and so many outcomes are known: key, receiver, why not.
    async fn outcomes(&self, number: usize) -> Vec<(String, String, Option<String>)> {
        loop {
            let mut outcomes: Vec<_> = self
                .notifier
                .outcomes("uid")
                .into_iter()
                .map(|outcome| (outcome.key, outcome.provider, outcome.failure))
                .collect();
            if outcomes.len() >= number {
                outcomes.sort();
                return outcomes;
            }
            let woken = tokio::time::timeout(PATIENCE, self.queue.next()).await;
            self.queue
                .done(woken.unwrap_or_else(|_| panic!("{outcomes:?}")), None);
        }
    }

    /// What became of one alert for this receiver.
    async fn failure(&self, provider: &str) -> String {
        self.look(&[("a", &[provider])]);
        self.outcomes(1).await.remove(0).2.unwrap()
    }
}

/// A canary whose status has these alerts, each with those who are still to be told.
fn canary(alerts: &[(&str, &[&str])]) -> Arc<Canary> {
    let alerts: Vec<Value> = alerts
        .iter()
        .map(|(key, pending)| json!({"key": key, "severity": "info", "reason": "Promoted", "message": key, "pending": pending}))
        .collect();
    let object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": KEY.1, "namespace": KEY.0, "uid": "uid"},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"}, "service": {"port": 80}, "analysis": {}},
        "status": {"alerts": alerts},
    });
    Arc::new(Canary::decode(&object).unwrap())
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(one, other)| ((*one).to_owned(), (*other).to_owned()))
        .collect()
}

#[tokio::test]
async fn each_alert_is_sent_once_and_in_order_however_often_its_status_is_seen() {
    let desk = Desk::open(true).await;
    let pending: &[(&str, &[&str])] = &[
        ("a", &["controller"]),
        ("b", &["controller"]),
        ("c", &["controller"]),
    ];
    desk.look(pending);
    desk.look(pending);
    let outcomes = desk.outcomes(3).await;
    // The status does not say it yet.
    desk.look(pending);
    // A later one tells that nothing else came in between.
    desk.look(&[("c", &["controller"]), ("d", &["controller"])]);
    assert_eq!(
        desk.told(4).await,
        named(&[("own", "a"), ("own", "b"), ("own", "c"), ("own", "d")])
    );
    let sent = |name: &str| (name.to_owned(), CONTROLLER.to_owned(), None);
    assert_eq!(outcomes, ["a", "b", "c"].map(sent));
    desk.outcomes(4).await;
    let counted = desk.telemetry.render();
    assert!(
        counted.contains(r#"serin_alerts_total{result="sent"} 4"#),
        "{counted}"
    );
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_up_only_itself() {
    let desk = Desk::open(true).await.with_the_canary_known().await;
    let desk = desk.with_a_provider("slow").with_a_provider("quick");
    desk.close("slow");
    let all: &[&str] = &["test/slow", "test/quick"];
    desk.look(&[("a", all), ("b", all)]);
    assert_eq!(
        desk.outcomes(2).await,
        ["a", "b"].map(|name| (name.to_owned(), "test/quick".to_owned(), None))
    );
    let slow = |told: &[(String, String)]| told.iter().filter(|(to, _)| to == "slow").count();
    assert_eq!(
        slow(&desk.told(3).await),
        1,
        "the second waits for the first"
    );
    desk.open_all();
    assert_eq!(desk.outcomes(4).await.len(), 4);
    assert_eq!(slow(&desk.told(4).await), 2);
    // The token of the Secret went along with the address beside it.
    let told = desk.world.told.borrow();
    assert!(told.iter().all(|(.., token)| token == "Bearer t0ken"));
}

#[tokio::test]
async fn what_is_too_much_waits_in_its_status() {
    let desk = Desk::open(true).await;
    desk.close("own");
    let names: Vec<String> = (0..WAITING + 10).map(|number| number.to_string()).collect();
    let pending: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &["controller"] as &[&str]))
        .collect();
    desk.look(&pending);
    desk.told(1).await;
    let dropped = desk.telemetry.render();
    assert!(
        dropped.contains(r#"serin_notices_dropped_total{what="alert"} 10"#),
        "{dropped}"
    );
    // Once there is room, the next look takes what was left.
    desk.open_all();
    desk.outcomes(WAITING).await;
    desk.look(&pending);
    let told: BTreeSet<String> = desk
        .told(names.len())
        .await
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert_eq!(told, names.into_iter().collect());
}

#[tokio::test]
async fn at_the_end_what_is_being_said_is_said_and_the_rest_stays_pending() {
    let desk = Desk::open(true).await;
    desk.look(&[("a", &["controller"])]);
    desk.outcomes(1).await;
    desk.close("own");
    desk.look(&[("b", &["controller"]), ("c", &["controller"])]);
    desk.told(2).await;
    let notifier = Arc::clone(&desk.notifier);
    let end = tokio::spawn(async move { notifier.finish(PATIENCE).await });
    desk.notifier.stop.cancelled().await;
    desk.open_all();
    let left = end.await.unwrap();
    let [(whose, outcomes)] = left.as_slice() else {
        panic!("{left:?}")
    };
    assert_eq!(*whose, key());
    let mut said: Vec<&str> = outcomes.iter().map(|one| one.key.as_str()).collect();
    said.sort_unstable();
    assert_eq!(said, ["a", "b"]);
    assert_eq!(desk.told(2).await, named(&[("own", "a"), ("own", "b")]));
}

#[tokio::test]
async fn a_replica_that_lost_its_lease_tells_nobody_and_gives_nothing_up() {
    let desk = Desk::open(true).await;
    desk.tenure.end();
    desk.look(&[("a", &["controller"])]);
    while !desk.notifier.lock().lanes.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(desk.world.told.borrow().is_empty());
    assert!(desk.notifier.outcomes("uid").is_empty());
    let state = desk.notifier.lock();
    assert!(state.known["uid"].1.is_empty(), "a later look takes it");
    assert_eq!(state.waiting, 0);
}

#[tokio::test]
async fn a_canary_that_is_gone_is_forgotten_and_what_is_under_way_is_said() {
    let desk = Desk::open(true).await;
    desk.close("own");
    desk.look(&[("a", &["controller"]), ("b", &["controller"])]);
    desk.told(1).await;
    desk.notifier.forget("uid");
    desk.open_all();
    assert_eq!(desk.told(2).await, named(&[("own", "a"), ("own", "b")]));
    while !desk.notifier.lock().lanes.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(desk.notifier.outcomes("uid").is_empty());
    assert!(!desk.notifier.lock().known.contains_key("uid"));
}

#[tokio::test]
async fn an_outcome_is_remembered_while_it_is_pending_and_for_a_while_after() {
    let desk = Desk::open(true).await;
    let over = |name: &str, minutes: i64| {
        let outcome = AlertOutcome {
            key: name.to_owned(),
            provider: CONTROLLER.to_owned(),
            failure: None,
            at: Timestamp::now() - SignedDuration::from_mins(minutes),
        };
        (
            (name.to_owned(), CONTROLLER.to_owned()),
            Progress::Over(outcome),
        )
    };
    let known = [over("pending", 60), over("fresh", 1), over("old", 60)];
    desk.notifier
        .lock()
        .known
        .insert("uid".to_owned(), (key(), known.into()));
    desk.look(&[("pending", &["controller"])]);
    let kept: Vec<String> = desk
        .outcomes(2)
        .await
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(kept, ["fresh", "pending"]);
}

#[tokio::test]
async fn whoever_cannot_be_told_is_named_with_the_reason() {
    let desk = Desk::open(false).await.with_the_canary_known().await;
    assert_eq!(
        desk.failure("controller").await,
        "the controller has no channel of its own any more"
    );
    let desk = Desk::open(true).await.with_the_canary_known().await;
    assert_eq!(
        desk.failure("other/chat").await,
        "it is in another namespace, which -no-cross-namespace-refs forbids"
    );
    let desk = Desk::open(true).await.with_the_canary_known().await;
    let why = desk.failure("test/nobody").await;
    assert!(
        why.contains("nobody") && why.ends_with("not found"),
        "{why}"
    );
    let desk = Desk::open(true).await.with_the_canary_known().await;
    let desk = desk.with_a_provider("chat");
    desk.holds(
        "/api/v1/namespaces/test/secrets/chat-secret",
        json!({"metadata": {"name": "chat-secret", "namespace": "test", "resourceVersion": "5"}, "data": {}}),
    );
    assert_eq!(
        desk.failure("test/chat").await,
        "its Secret lacks the key address"
    );
    let counted = desk.telemetry.render();
    assert!(
        counted.contains(r#"serin_alerts_total{result="failed"} 1"#),
        "{counted}"
    );
    // A canary that nobody knows any more has nobody to be told for.
    let desk = Desk::open(true).await;
    assert_eq!(desk.failure("test/chat").await, "the canary is gone");
}

#[tokio::test]
async fn a_template_is_used_for_the_alerts_that_its_entry_wants_and_for_no_others() {
    let desk = Desk::open(false).await;
    let with = |entries: Value, severity: &str| {
        let object = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": KEY.1, "namespace": KEY.0, "uid": "uid"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": {"port": 80}, "analysis": {"alerts": entries}},
            "status": {"alerts": [{"key": "a", "severity": severity, "message": "hello", "pending": ["test/chat"]}]},
        });
        let canary = Arc::new(Canary::decode(&object).unwrap());
        let alert = canary.status_or_default().alerts.remove(0);
        let job = Job {
            canary,
            alert,
            provider: "test/chat".to_owned(),
        };
        desk.notifier
            .message(&job, str::to_owned, Some("provider: {{ .message }}"), None)
            .text
    };
    let chat = |severity: &str, template: Option<&str>| {
        let mut entry =
            json!({"name": "chat", "severity": severity, "providerRef": {"name": "chat"}});
        if let Some(template) = template {
            entry["template"] = json!(template);
        }
        entry
    };
    let page = || chat("error", Some("PAGE {{ .message }}"));
    let all = || chat("info", None);
    let elsewhere = json!({"name": "x", "severity": "info", "providerRef": {"name": "pager"}, "template": "no"});
    for (entries, severity, text) in [
        (json!([page(), all()]), "info", "provider: hello"),
        (json!([page(), all()]), "warn", "provider: hello"),
        (json!([page(), all()]), "error", "PAGE hello"),
        (json!([all(), page()]), "error", "PAGE hello"),
        (json!([all(), page()]), "info", "provider: hello"),
        (
            json!([chat("", Some("all {{ .message }}")), page()]),
            "info",
            "all hello",
        ),
        (
            json!([elsewhere, page(), chat("warn", Some("warn"))]),
            "warn",
            "warn",
        ),
    ] {
        assert_eq!(
            with(entries.clone(), severity),
            text,
            "{severity}: {entries}"
        );
    }
}

#[tokio::test]
async fn what_a_chat_is_told_is_written_in_its_markup() {
    let desk = Desk::open(true).await.with_the_canary_known().await;
    let desk = desk.with_a_provider("chat");
    desk.holds(
        "/apis/flagger.app/v1beta1/namespaces/test/alertproviders/chat",
        json!({"metadata": {"name": "chat", "namespace": "test", "resourceVersion": "4"},
            "spec": {"type": "slack", "secretRef": {"name": "chat-secret"}, "template": "<!here> {{ .message }}"}}),
    );
    desk.look(&[("<!channel>", &["test/chat"])]);
    assert_eq!(
        desk.told(1).await,
        named(&[("chat", "<!here> &lt;!channel&gt;")])
    );
}
