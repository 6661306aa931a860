//! The demo's story: a shop is set up, 1.1.0 is promoted, 1.2.0 fails and is taken back, all under load. It acts and looks
//! through the API server and the gateway only, as a user would; what it shows is what these say. It is told on the simulated cluster
//! (`serin demo`) and on a real one (`make demo-cluster`).

use super::model::{DemoModel, EventLine, Verdict, VerdictLine, VersionLine, Weights};
use super::screen::Screen;
use crate::api::{COMMAND_ANNOTATION, Command, CommandWord};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const MANIFESTS: &str = include_str!("shop.yaml");
/// The namespace in which the story plays.
pub const NAMESPACE: &str = "demo";
/// The shop's Deployment, Canary and route.
pub const NAME: &str = "shop";
/// The shop's host name.
pub const HOST: &str = "shop.demo";
/// Requests per second: enough that 5 % of a fifth of them show within one interval.
pub const RATE: f64 = 200.0;
/// What the traffic lines average over.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Namespace and name of the simulated cluster's gateway.
pub const SIMULATED_GATEWAY: (&str, &str) = ("gateway", "shop-gateway");
const REDRAW: Duration = Duration::from_millis(250);
/// Longest wait for one part of the story.
const PATIENCE: Duration = Duration::from_mins(2);
/// What part of its requests a broken release fails.
const BROKEN: &str = "5%";

/// What the clients saw so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Requests that a version answered.
    pub served: u64,
    /// Requests that no version answered.
    pub lost: u64,
    /// Each version over the last [`WINDOW`].
    pub versions: Vec<VersionLine>,
}

impl Account {
    /// How it went, in one sentence.
    #[must_use]
    pub fn conclusion(&self) -> String {
        match self.lost {
            0 => format!("{} requests served, none was lost", self.served),
            lost => format!("{lost} of {} requests were lost", self.served + lost),
        }
    }
}

/// Clients who send requests to the shop, and account for each.
pub trait Crowd {
    /// Begins to send.
    ///
    /// # Errors
    /// When they can't.
    fn start(&mut self) -> Result<(), StoryError>;

    /// Whether the shop answers: one request or a few, which are not in the account.
    fn probe(&mut self) -> impl Future<Output = Result<bool, StoryError>> + Send;

    /// What became of the requests until now.
    fn account(&self) -> Account;

    /// Ends the sending and waits for what is open.
    fn stop(&mut self) -> impl Future<Output = Account> + Send;
}

/// What somebody who looks on wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A good release.
    Release,
    /// A release that fails a part of its requests.
    Break,
    Promote,
    Abort,
    Quit,
}

/// How quickly the story is told, and where the shop's route is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tempo {
    /// `spec.analysis.interval`, and the range of the metrics.
    pub interval: &'static str,
    pub range: &'static str,
    /// Namespace and name of the Gateway.
    pub gateway: (&'static str, &'static str),
    /// How long the story rests between its parts.
    pub rest: Duration,
    /// Whether it goes on after the two releases until somebody wants it to end.
    pub keep: bool,
}

impl Tempo {
    /// On the simulated cluster: both releases in half a minute.
    #[must_use]
    pub fn simulated(keep: bool) -> Self {
        Self {
            interval: "2s",
            range: "3s",
            gateway: SIMULATED_GATEWAY,
            rest: Duration::from_secs(2),
            keep,
        }
    }

    /// On the test bed, where Prometheus scrapes every second and the gateway is Traefik.
    #[must_use]
    pub fn on_the_bed() -> Self {
        Self {
            interval: "5s",
            range: "5s",
            gateway: ("gateway", "traefik"),
            rest: Duration::from_secs(4),
            keep: false,
        }
    }
}

/// Why the story can't go on.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// The API server refused something.
    #[error("{0}: {1}")]
    Api(String, #[source] Box<kube::Error>),
    /// A manifest of the story can't be read.
    #[error("the demo's manifests: {0}")]
    Manifest(String),
    /// The clients can't send.
    #[error("the load: {0}")]
    Crowd(String),
    /// Nothing can be shown any more.
    #[error("the screen: {0}")]
    Screen(#[from] std::io::Error),
    /// What should happen did not.
    #[error("waited {} s for {what}; the phase is {phase:?}, the last event {event:?}", PATIENCE.as_secs())]
    Late {
        what: String,
        phase: String,
        event: Option<String>,
    },
}

/// How the story went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tale {
    pub account: Account,
    /// Both releases came to their end: the good one promoted, the broken one taken back. False where somebody took over or left before.
    pub told: bool,
    /// How many requests were lost until then. What comes after is the doing of those who play.
    pub lost_by_then: u64,
}

/// Tells the story on the screen. Whoever has the other end of `wishes` can take over at any time.
///
/// # Errors
/// When the cluster does not do what the story says, or nothing can be shown.
pub async fn tell<C: Crowd>(
    client: &Client,
    crowd: &mut C,
    tempo: Tempo,
    wishes: Option<mpsc::UnboundedReceiver<Wish>>,
    screen: &mut Screen,
) -> Result<Tale, StoryError> {
    let mut teller = Teller::new(client, crowd, tempo, wishes, screen);
    let wish = match teller.script().await {
        Ok(()) => None,
        Err(Turn::Wish(wish)) => Some(wish),
        Err(Turn::Error(error)) => return Err(error),
    };
    let told = wish.is_none();
    let lost_by_then = teller.crowd.account().lost;
    if wish != Some(Wish::Quit) && (tempo.keep || wish.is_some()) {
        teller.improvise(wish).await?;
    }
    let account = teller.end().await?;
    Ok(Tale {
        lost_by_then: if told && !tempo.keep {
            account.lost
        } else {
            lost_by_then
        },
        account,
        told,
    })
}

/// Why the script is left.
enum Turn {
    Wish(Wish),
    Error(StoryError),
}

impl<E: Into<StoryError>> From<E> for Turn {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

struct Teller<'a, C> {
    client: &'a Client,
    crowd: &'a mut C,
    tempo: Tempo,
    wishes: Option<mpsc::UnboundedReceiver<Wish>>,
    screen: &'a mut Screen,
    begun: Instant,
    model: DemoModel,
    sending: bool,
    /// Minor number of the next release that somebody wishes.
    next: u32,
    /// The release that somebody wished last, and whether the controller has taken it up.
    wished: Option<(String, bool)>,
    canaries: Api<DynamicObject>,
    routes: Api<DynamicObject>,
    events: Api<Event>,
    /// An event's identity and how often it had happened when it was last told.
    told_events: BTreeMap<String, i32>,
    /// Metric and time of each check that was told.
    told_checks: BTreeSet<(String, String)>,
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// An error of the API with what was being done.
fn while_doing(what: impl Into<String>) -> impl FnOnce(kube::Error) -> StoryError {
    move |error| StoryError::Api(what.into(), Box::new(error))
}

impl<'a, C: Crowd> Teller<'a, C> {
    fn new(
        client: &'a Client,
        crowd: &'a mut C,
        tempo: Tempo,
        wishes: Option<mpsc::UnboundedReceiver<Wish>>,
        screen: &'a mut Screen,
    ) -> Self {
        let model = DemoModel {
            footer: screen.footer().to_vec(),
            ..DemoModel::default()
        };
        Self {
            client,
            crowd,
            tempo,
            wishes,
            screen,
            begun: Instant::now(),
            model,
            sending: false,
            next: 3,
            wished: None,
            canaries: Api::namespaced_with(
                client.clone(),
                NAMESPACE,
                &resource("flagger.app", "v1beta1", "Canary"),
            ),
            routes: Api::namespaced_with(
                client.clone(),
                NAMESPACE,
                &resource("gateway.networking.k8s.io", "v1", "HTTPRoute"),
            ),
            events: Api::namespaced(client.clone(), NAMESPACE),
            told_events: BTreeMap::new(),
            told_checks: BTreeSet::new(),
        }
    }

    fn headline(&mut self, text: &str) {
        text.clone_into(&mut self.model.headline);
    }

    async fn script(&mut self) -> Result<(), Turn> {
        let rest = self.tempo.rest;
        self.headline("1.0.0 is set up: its primary and its route come into being");
        self.apply("1.0.0", "0").await?;
        self.until_served().await?;
        self.crowd.start()?;
        self.sending = true;
        self.headline(&format!("1.0.0 serves {RATE} requests/s"));
        self.until("the canary to be Initialized", |model| {
            model.phase == "Initialized"
        })
        .await?;
        self.watch_for(rest).await?;

        self.headline("1.1.0 is released: a good one");
        self.apply("1.1.0", "0").await?;
        self.until("1.1.0 to be taken up", |model| model.phase != "Initialized")
            .await?;
        self.until("1.1.0 to be promoted", |model| model.phase == "Succeeded")
            .await?;
        self.headline("1.1.0 is promoted and serves everyone");
        self.watch_for(rest + Duration::from_secs(1)).await?;

        self.headline("1.2.0 is released: it fails 5 % of its requests");
        self.apply("1.2.0", BROKEN).await?;
        self.until("1.2.0 to be taken up", |model| model.phase != "Succeeded")
            .await?;
        self.until("1.2.0 to be taken back", |model| model.phase == "Failed")
            .await?;
        self.headline("1.2.0 is taken back, 1.1.0 serves everyone");
        self.watch_for(rest).await
    }

    /// Does what is wished until somebody wants it to end.
    async fn improvise(&mut self, first: Option<Wish>) -> Result<(), StoryError> {
        let mut wish = first;
        loop {
            match wish.take() {
                Some(Wish::Quit) => return Ok(()),
                Some(wish) => self.carry_out(wish).await?,
                None => {}
            }
            match self.watch_for(REDRAW).await {
                Ok(()) => self.follow(),
                Err(Turn::Wish(next)) => wish = Some(next),
                Err(Turn::Error(error)) => return Err(error),
            }
        }
    }

    /// Says what became of the release that was wished.
    fn follow(&mut self) {
        let Some((version, taken_up)) = &mut self.wished else {
            return;
        };
        let outcome = match self.model.phase.as_str() {
            "Succeeded" => "is promoted and serves everyone",
            "Failed" => "is taken back",
            "Initialized" => return,
            _ => {
                *taken_up = true;
                return;
            }
        };
        if *taken_up {
            let text = format!("{version} {outcome}");
            self.wished = None;
            self.headline(&text);
        }
    }

    async fn carry_out(&mut self, wish: Wish) -> Result<(), StoryError> {
        let word = match wish {
            Wish::Release | Wish::Break => {
                if !self.sending && self.crowd.probe().await? {
                    self.crowd.start()?;
                    self.sending = true;
                }
                let version = format!("1.{}.0", self.next);
                self.next += 1;
                let (rate, what) = if wish == Wish::Break {
                    (BROKEN, "it fails 5 % of its requests")
                } else {
                    ("0", "a good one")
                };
                self.headline(&format!("{version} is released: {what}"));
                self.apply(&version, rate).await?;
                self.wished = Some((version, false));
                return Ok(());
            }
            Wish::Promote => CommandWord::Promote,
            Wish::Abort => CommandWord::Abort,
            Wish::Quit => return Ok(()),
        };
        let command = Command {
            word,
            by: "demo".to_owned(),
            at: Some(Timestamp::now()),
            reason: String::new(),
        };
        let patch = json!({"metadata": {"annotations": {COMMAND_ANNOTATION: command.encode()}}});
        self.canaries
            .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(while_doing(format!("{word} {NAME}")))
    }

    /// Applies the manifests with the version and its error rate, as `kubectl apply --server-side` would.
    async fn apply(&self, version: &str, error_rate: &str) -> Result<(), StoryError> {
        for object in manifests(version, error_rate, self.tempo)? {
            let missing = |what: &str| StoryError::Manifest(format!("one without {what}"));
            let types = object.types.clone().ok_or_else(|| missing("kind"))?;
            let (group, api_version) = types
                .api_version
                .split_once('/')
                .unwrap_or(("", &types.api_version));
            let kind = resource(group, api_version, &types.kind);
            let name = object
                .metadata
                .name
                .clone()
                .ok_or_else(|| missing("name"))?;
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
                None => Api::all_with(self.client.clone(), &kind),
            };
            // By force: whoever played with the shop before must not keep it from its next release.
            let parameters = PatchParams::apply("demo").force();
            api.patch(&name, &parameters, &Patch::Apply(&object))
                .await
                .map_err(while_doing(format!("applying {} {name}", types.kind)))?;
        }
        Ok(())
    }

    /// Looks at the cluster and the load, and redraws.
    async fn look(&mut self) -> Result<(), StoryError> {
        let now = self.begun.elapsed();
        self.model.elapsed = now;
        let status = self
            .canaries
            .get_opt(NAME)
            .await
            .map_err(while_doing("reading the canary"))?
            .map(|canary| canary.data["status"].clone())
            .unwrap_or_default();
        status["phase"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.model.phase);
        for (key, mut check) in checks(&status) {
            if self.told_checks.insert(key) {
                check.at = now;
                self.model.add_verdict(check);
            }
        }
        self.model.weights = self
            .routes
            .get_opt(NAME)
            .await
            .map_err(while_doing("reading the route"))?
            .and_then(|route| weights(&route.data));
        let events = self
            .events
            .list(&ListParams::default().fields("involvedObject.kind=Canary"))
            .await
            .map_err(while_doing("reading the events"))?;
        for event in in_order(events.items) {
            let id = event.metadata.name.clone().unwrap_or_default();
            let times = event
                .count
                .or(event.series.as_ref().and_then(|series| series.count))
                .unwrap_or(1);
            if self.told_events.insert(id, times) != Some(times) {
                let text = event.message.unwrap_or_default();
                self.model.add_event(EventLine {
                    at: now,
                    warning: event.type_.as_deref() == Some("Warning"),
                    text,
                });
            }
        }
        let account = self.crowd.account();
        self.model.served = account.served;
        self.model.lost = account.lost;
        self.model.versions = account.versions;
        self.screen.show(&self.model)?;
        Ok(())
    }

    /// A short wait, which a wish ends.
    async fn pause(&mut self) -> Result<(), Turn> {
        let wished = async {
            match &mut self.wishes {
                Some(wishes) => match wishes.recv().await {
                    Some(wish) => wish,
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(REDRAW) => Ok(()),
            wish = wished => Err(Turn::Wish(wish)),
        }
    }

    /// Looks on until the model fits; `what` is said if that takes too long.
    async fn until(&mut self, what: &str, fits: impl Fn(&DemoModel) -> bool) -> Result<(), Turn> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look().await?;
            if fits(&self.model) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.late(what).into());
            }
            self.pause().await?;
        }
    }

    fn late(&self, what: &str) -> StoryError {
        StoryError::Late {
            what: what.to_owned(),
            phase: self.model.phase.clone(),
            event: self.model.events.last().map(|event| event.text.clone()),
        }
    }

    async fn watch_for(&mut self, time: Duration) -> Result<(), Turn> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look().await?;
            self.pause().await?;
        }
        Ok(())
    }

    /// Waits until the gateway knows the new route: requests before that would count as lost by nobody's fault.
    async fn until_served(&mut self) -> Result<(), Turn> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look().await?;
            if self.crowd.probe().await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.late(&format!("the gateway to serve {HOST}")).into());
            }
            self.pause().await?;
        }
    }

    async fn end(mut self) -> Result<Account, StoryError> {
        let account = self.crowd.stop().await;
        self.model.elapsed = self.begun.elapsed();
        self.model.served = account.served;
        self.model.lost = account.lost;
        self.model.headline = account.conclusion();
        self.screen.show(&self.model)?;
        Ok(account)
    }
}

/// Events as they happened; a list has them by name.
fn in_order(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|event| {
        let version = event.metadata.resource_version.as_deref().unwrap_or("0");
        version.parse::<u64>().unwrap_or(0)
    });
    events
}

fn manifests(
    version: &str,
    error_rate: &str,
    tempo: Tempo,
) -> Result<Vec<DynamicObject>, StoryError> {
    let text = MANIFESTS
        .replace("${VERSION}", version)
        .replace("${ERROR_RATE}", error_rate)
        .replace("${INTERVAL}", tempo.interval)
        .replace("${RANGE}", tempo.range)
        .replace("${GATEWAY_NAMESPACE}", tempo.gateway.0)
        .replace("${GATEWAY}", tempo.gateway.1);
    text.split("\n---\n")
        .map(|document| {
            serde_saphyr::from_str(document)
                .map_err(|error| StoryError::Manifest(error.to_string()))
        })
        .collect()
}

/// The checks that a canary's status tells, each with what makes it one check: the metric and its time.
fn checks(status: &Value) -> Vec<((String, String), VerdictLine)> {
    let mut found = Vec::new();
    for metric in status["metrics"].as_array().into_iter().flatten() {
        let text = |field: &str| metric[field].as_str().unwrap_or_default();
        let verdict = match text("verdict") {
            "Passed" => Verdict::Passed,
            "Failed" => Verdict::Failed,
            "" => continue,
            _ => Verdict::Open,
        };
        let mut line = text("name").to_owned();
        if metric["value"].is_string() {
            line = format!("{line} {}", text("value"));
        }
        if metric["limit"].is_string() {
            line = format!("{line}, limit {}", text("limit"));
        }
        if verdict == Verdict::Open {
            // The whole reason is in the event; here its core says what was found.
            let reason = text("reason").rsplit(": ").next().unwrap_or_default();
            line = format!("{line}: {}", reason.split(';').next().unwrap_or_default());
        }
        found.push((
            (text("name").to_owned(), text("at").to_owned()),
            VerdictLine {
                at: Duration::ZERO,
                verdict,
                text: line,
            },
        ));
    }
    found
}

/// The split that an `HTTPRoute` carries, in percent of its first rule's weights.
fn weights(route: &Value) -> Option<Weights> {
    let backends = route["spec"]["rules"][0]["backendRefs"].as_array()?;
    let of = |suffix: &str| -> u64 {
        let fits = backends.iter().filter(|backend| {
            backend["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(suffix))
        });
        fits.map(|backend| backend["weight"].as_u64().unwrap_or(1))
            .sum()
    };
    let (primary, canary) = (of("-primary"), of("-canary"));
    let percent = u32::try_from((canary * 100).checked_div(primary + canary)?).ok()?;
    Some(Weights {
        primary: 100 - percent,
        canary: percent,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_release_differs_in_version_and_error_rate_only() {
        let objects = manifests("1.2.0", "5%", Tempo::on_the_bed()).unwrap();
        let kinds: Vec<String> = objects
            .iter()
            .map(|object| object.types.clone().unwrap().kind)
            .collect();
        assert_eq!(kinds, ["Namespace", "Deployment", "Canary"]);
        let container = &objects[1].data["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "serin-demo-app:1.2.0");
        assert_eq!(
            container["env"],
            json!([{"name": "VERSION", "value": "1.2.0"}, {"name": "ERROR_RATE", "value": "5%"}, {"name": "DELAY_MS", "value": "5"}])
        );
        assert_eq!(
            objects[2].data,
            manifests("1.0.0", "0", Tempo::on_the_bed()).unwrap()[2].data
        );
    }

    #[test]
    fn a_route_without_a_canary_backend_sends_all_to_the_primary() {
        let route = |backends: Value| json!({"spec": {"rules": [{"backendRefs": backends}]}});
        let split = route(
            json!([{"name": "shop-primary", "weight": 60}, {"name": "shop-canary", "weight": 40}]),
        );
        assert_eq!(
            weights(&split),
            Some(Weights {
                primary: 60,
                canary: 40
            })
        );
        assert_eq!(
            weights(&route(json!([{"name": "shop-primary"}]))),
            Some(Weights {
                primary: 100,
                canary: 0
            })
        );
        assert_eq!(weights(&route(json!([]))), None);
    }

    #[test]
    fn checks_say_value_and_limit_and_why_there_is_none() {
        let status = json!({"metrics": [
            {"name": "request-success-rate", "value": "95.2", "limit": "≥ 99", "verdict": "Failed", "at": "2026-01-01T00:00:00Z"},
            {"name": "latency", "verdict": "NoData", "reason": "Halt advancement no values found: no traffic yet; 1 series", "at": "2026-01-01T00:00:00Z"},
            {"name": "later", "verdict": ""},
        ]});
        let told: Vec<(Verdict, String)> = checks(&status)
            .into_iter()
            .map(|(_, line)| (line.verdict, line.text))
            .collect();
        assert_eq!(
            told,
            [
                (
                    Verdict::Failed,
                    "request-success-rate 95.2, limit ≥ 99".to_owned()
                ),
                (Verdict::Open, "latency: no traffic yet".to_owned())
            ]
        );
    }

    #[test]
    fn the_conclusion_admits_a_loss() {
        assert_eq!(
            Account::default().conclusion(),
            "0 requests served, none was lost"
        );
        let lossy = Account {
            lost: 3,
            ..Account::default()
        };
        assert_eq!(lossy.conclusion(), "3 of 3 requests were lost");
    }
}
