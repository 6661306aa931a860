//! Alerts on a live rollout: a receiver of the bed's own gets each one exactly once, whatever becomes of the controller meanwhile, and what
//! is secret about it stays secret.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

use super::economy::{settle, work};
use super::shop::{self, PATIENCE, Plan, Shop};
use crate::bed::Bed;

/// Part of the pager's address, and its token: nobody but the pager may learn them.
const SECRET_PATH: &str = "s3cret-path";
const TOKEN: &str = "s3cret-token";

/// One request that a receiver took.
#[derive(Clone)]
struct Taken {
    receiver: String,
    authorization: String,
    body: Value,
}

#[derive(Default)]
struct Desk {
    taken: Vec<Taken>,
    /// How many requests of the pager are still refused.
    refusals: usize,
}

/// Receivers by the first part of their path.
#[derive(Clone, Default)]
pub(super) struct Receivers {
    desk: Arc<Mutex<Desk>>,
    pub(super) address: String,
}

impl Receivers {
    pub(super) async fn start() -> Result<Self> {
        let desk = Arc::<Mutex<Desk>>::default();
        let router = Router::new()
            .route("/{receiver}", post(take))
            .route("/{receiver}/{*rest}", post(take_below))
            .with_state(Arc::clone(&desk));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .context("the receivers need a port")?;
        let address = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { desk, address })
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, receiver: &str) -> Vec<Taken> {
        let desk = self.desk();
        let mine = desk.taken.iter().filter(|one| one.receiver == receiver);
        mine.cloned().collect()
    }

    /// The texts that the chat got, oldest first.
    pub(super) fn chat(&self) -> Vec<String> {
        self.of("chat")
            .iter()
            .map(|one| text(&one.body["attachments"][0]["text"]))
            .collect()
    }

    /// The reasons that the pager got.
    fn pager(&self) -> Vec<String> {
        self.of("pager")
            .iter()
            .map(|one| text(&one.body["data"]["reason"]))
            .collect()
    }

    async fn wait(&self, bed: &Bed, receiver: &str, count: usize) -> Result<()> {
        bed.wait(
            &format!("{count} alerts for {receiver}"),
            PATIENCE,
            async || Ok((self.of(receiver).len() >= count).then_some(())),
        )
        .await
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn take(
    State(desk): State<Arc<Mutex<Desk>>>,
    Path(receiver): Path<String>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
    if receiver == "pager" && desk.refusals > 0 {
        desk.refusals -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let authorization = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    desk.taken.push(Taken {
        receiver,
        authorization: authorization.to_owned(),
        body: serde_json::from_str(&body).unwrap_or_default(),
    });
    StatusCode::OK
}

async fn take_below(
    state: State<Arc<Mutex<Desk>>>,
    Path((receiver, _)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    take(state, Path(receiver), headers, body).await
}

fn provider(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider", "metadata": {"name": name}, "spec": spec})
}

fn plan(receivers: &Receivers) -> Plan {
    let address = &receivers.address;
    Plan {
        analysis: json!({
            "threshold": 1, "stepWeight": 50, "maxWeight": 50,
            "alerts": [
                {"name": "all", "severity": "info", "providerRef": {"name": "chat"}},
                {"name": "bad", "severity": "error", "providerRef": {"name": "pager"}},
                {"name": "bad", "severity": "error", "providerRef": {"name": "alertmanager"}, "template": "{{ name }} on {{ .cluster }}: {{ .message }}"},
                {"name": "lost", "severity": "error", "providerRef": {"name": "nobody"}},
            ],
        }),
        environment: vec![("SHUTDOWN_DELAY_MS", "3000")],
        rate: 50.0,
        replicas: 1,
        beside: vec![
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pager"},
                "stringData": {"address": format!("{address}/pager/{SECRET_PATH}"), "token": TOKEN}}),
            provider(
                "chat",
                &json!({"type": "slack", "address": format!("{address}/chat"), "channel": "ops"}),
            ),
            provider(
                "pager",
                &json!({"type": "webhook", "secretRef": {"name": "pager"}}),
            ),
            provider(
                "alertmanager",
                &json!({"type": "alertmanager", "address": format!("{address}/alertmanager")}),
            ),
        ],
        ..Plan::default()
    }
}

/// Waits until the status says of every alert that nobody is to be told any more.
async fn wait_written_down(shop: &Shop<'_>) -> Result<Value> {
    shop.bed
        .wait(
            "the receipts of all alerts in the status",
            PATIENCE,
            async || {
                let status = shop.status().await?;
                let alerts = status["alerts"].as_array().cloned().unwrap_or_default();
                let all = alerts.iter().all(|alert| alert["pending"].is_null());
                Ok((!alerts.is_empty() && all).then_some(status))
            },
        )
        .await
}

/// A good and a bad release, the controller killed in the first and stopped after each: each alert arrives once, where it should.
pub async fn run(bed: &Bed) -> Result<()> {
    let receivers = Receivers::start().await?;
    let start = || shop::start_serin_with(bed, &["--cluster-name", "bed"]);
    let mut logs = Vec::new();
    let serin = start()?;
    logs.push(serin.log().to_owned());
    let shop = Shop::open(bed, "alerts", plan(&receivers)).await?;
    receivers.wait(bed, "chat", 1).await?;

    // Killed in mid-run: what it told is not told again, what was not yet told is.
    shop.release("1.1.0").await?;
    shop.wait_weight(50).await?;
    wait_written_down(&shop).await?;
    serin.kill9().await?;
    let serin = start()?;
    logs.push(serin.log().to_owned());
    shop.wait_phase("Succeeded").await?;
    receivers.wait(bed, "chat", 3).await?;

    // Stopped right after it told something: it writes that down before it ends.
    let status = serin.stop().await?;
    ensure!(status.success(), "the controller ended with {status}");
    let kept = shop.status().await?;
    ensure!(
        kept["alerts"]
            .as_array()
            .is_some_and(|alerts| alerts.iter().all(|alert| alert["pending"].is_null())),
        "a controller that stopped leaves no receipt behind: {:#}",
        kept["alerts"]
    );
    let serin = start()?;
    logs.push(serin.log().to_owned());

    receivers.desk().refusals = 1;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;
    receivers.wait(bed, "pager", 1).await?;
    let status = wait_written_down(&shop).await?;
    settle(bed).await?;
    let mark = bed.audit_mark()?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let idle = work(&bed.audit_since(mark)?);
    ensure!(
        idle.requests.is_empty(),
        "once everybody is told nothing is written:\n{idle}"
    );

    let chat = receivers.chat();
    ensure!(
        chat == [
            "New Deployment detected, initialization completed.",
            "New revision detected, progressing canary analysis.",
            "Canary analysis completed successfully, promotion finished.",
            "New revision detected, progressing canary analysis.",
            "Failed checks threshold reached 1",
        ],
        "each alert once and in order, but the chat got {chat:#?}"
    );
    let pager = receivers.pager();
    ensure!(
        pager == ["ThresholdReached"],
        "the pager is for errors, but got {pager:?}"
    );
    check_texts(&receivers)?;
    let end = &status["alerts"][4];
    ensure!(
        end["failed"].to_string().contains("nobody not found")
            || end["failed"]
                .to_string()
                .contains("nobody.alerts not found"),
        "who could not be told stands in the status: {end:#}"
    );
    let condition = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Alerting")
        .context("no condition Alerting")?;
    ensure!(
        condition["status"] == "False"
            && condition["message"]
                .to_string()
                .contains("alerts[3].providerRef"),
        "{condition:#}"
    );
    keep_secrets(&shop, &logs).await?;
    println!(
        "        {} alerts in all, each once, through a kill and a stop",
        receivers.desk().taken.len()
    );
    serin.stop().await?;
    shop.close().await.map(drop)
}

/// Cluster, channel, cause and numbers where each form has them.
fn check_texts(receivers: &Receivers) -> Result<()> {
    let chat = receivers.of("chat");
    let end = chat.last().context("no message")?;
    let attachment = &end.body["attachments"][0];
    let fields = attachment["fields"].to_string();
    ensure!(
        end.body["channel"] == "ops" && attachment["color"] == "danger",
        "{:#}",
        end.body
    );
    ensure!(
        fields.contains("\"bed\"")
            && fields.contains("request-success-rate")
            && fields.contains("≥ 99%"),
        "cluster and numbers: {fields}"
    );
    let pager = receivers.of("pager");
    let event = pager.last().context("no event")?;
    ensure!(
        event.authorization == format!("Bearer {TOKEN}")
            && event.body["specversion"] == "1.0"
            && event.body["data"]["canary"] == "app",
        "{:#}",
        event.body
    );
    let manager = receivers.of("alertmanager");
    let alert = &manager.last().context("no alert")?.body[0];
    ensure!(
        manager.len() == 1
            && alert["labels"]["alertname"] == "CanaryThresholdReached"
            && alert["annotations"]["summary"] == "app on bed: Failed checks threshold reached 1",
        "{alert:#}"
    );
    Ok(())
}

/// Neither log nor event nor status has what is secret.
async fn keep_secrets(shop: &Shop<'_>, logs: &[std::path::PathBuf]) -> Result<()> {
    let mut said = shop.events().await?.join("\n");
    said.push_str(&shop.status().await?.to_string());
    for log in logs {
        said.push_str(&std::fs::read_to_string(log)?);
    }
    for secret in [SECRET_PATH, TOKEN] {
        ensure!(!said.contains(secret), "{secret} was told");
    }
    Ok(())
}
