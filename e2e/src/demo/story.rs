//! The demo's story: a shop is set up, 1.1.0 is promoted, 1.2.0 fails and is taken back, all under load. It acts and looks
//! through the API server and the gateway only, as a user would; what it shows is what these say.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use tokio::time::Instant;

use super::model::{DemoModel, EventLine, Verdict, VerdictLine, VersionLine, Weights};
use super::screen::Screen;
use crate::load::{Load, Mark, Report};

const MANIFESTS: &str = include_str!("../../manifests/demo.yaml");
const NAMESPACE: &str = "demo";
const NAME: &str = "shop";
const HOST: &str = "shop.demo";
/// Requests per second: enough that 5 % of a fifth of them show within one interval.
const RATE: f64 = 200.0;
/// What the traffic lines average over.
const WINDOW: Duration = Duration::from_secs(5);
const REDRAW: Duration = Duration::from_millis(250);
/// Longest wait for one part of the story.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where the story plays: a cluster in which Serin runs, and the gateway's address.
pub struct Stage {
    pub client: Client,
    /// `http://address:port`
    pub gateway: String,
}

/// Tells the whole story on the screen and returns the account of every request.
pub async fn tell(stage: &Stage, screen: &mut Screen) -> Result<Report> {
    let mut teller = Teller::new(stage, screen);
    teller.headline("1.0.0 is set up: its primary and its route come into being");
    teller.apply("1.0.0", "0").await?;
    teller
        .until("the canary to be Initialized", |model| {
            model.phase == "Initialized"
        })
        .await?;
    teller.until_served().await?;
    let load = Load::start(&format!("{}/", stage.gateway), HOST, RATE)?;
    teller.load = Some(load);
    teller.headline(&format!("1.0.0 serves {RATE} requests/s"));
    teller.watch_for(Duration::from_secs(4)).await?;

    teller.headline("1.1.0 is released: a good one");
    teller.apply("1.1.0", "0").await?;
    teller
        .until("1.1.0 to be taken up", |model| model.phase != "Initialized")
        .await?;
    teller
        .until("1.1.0 to be promoted", |model| model.phase == "Succeeded")
        .await?;
    teller.headline("1.1.0 is promoted and serves everyone");
    teller.watch_for(Duration::from_secs(5)).await?;

    teller.headline("1.2.0 is released: it fails 5 % of its requests");
    teller.apply("1.2.0", "5%").await?;
    teller
        .until("1.2.0 to be taken up", |model| model.phase != "Succeeded")
        .await?;
    teller
        .until("1.2.0 to be taken back", |model| model.phase == "Failed")
        .await?;
    teller.headline("1.2.0 is taken back, 1.1.0 serves everyone");
    teller.watch_for(Duration::from_secs(4)).await?;
    teller.end().await
}

/// How a story ends, in one sentence.
fn conclusion(report: &Report) -> String {
    match report.lost() {
        0 => format!("{} requests served, none was lost", report.answered()),
        lost => format!("{lost} of {} requests were lost", report.requests),
    }
}

struct Teller<'a> {
    stage: &'a Stage,
    screen: &'a mut Screen,
    begun: Instant,
    model: DemoModel,
    load: Option<Load>,
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

impl<'a> Teller<'a> {
    fn new(stage: &'a Stage, screen: &'a mut Screen) -> Self {
        let client = &stage.client;
        Self {
            stage,
            screen,
            begun: Instant::now(),
            model: DemoModel::default(),
            load: None,
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

    /// Applies the manifests with the version and its error rate, as `kubectl apply --server-side` would.
    async fn apply(&self, version: &str, error_rate: &str) -> Result<()> {
        for object in manifests(version, error_rate)? {
            let types = object.types.clone().context("a manifest without kind")?;
            let (group, api_version) = types
                .api_version
                .split_once('/')
                .unwrap_or(("", &types.api_version));
            let kind = resource(group, api_version, &types.kind);
            let name = object
                .metadata
                .name
                .clone()
                .context("a manifest without name")?;
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => {
                    Api::namespaced_with(self.stage.client.clone(), namespace, &kind)
                }
                None => Api::all_with(self.stage.client.clone(), &kind),
            };
            api.patch(&name, &PatchParams::apply("demo"), &Patch::Apply(&object))
                .await
                .with_context(|| format!("applying {} {name}", types.kind))?;
        }
        Ok(())
    }

    /// Looks at the cluster and the load, and redraws.
    async fn look(&mut self) -> Result<()> {
        let now = self.begun.elapsed();
        self.model.elapsed = now;
        let status = self
            .canaries
            .get_opt(NAME)
            .await?
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
            .await?
            .and_then(|route| weights(&route.data));
        let events = self
            .events
            .list(&ListParams::default().fields("involvedObject.kind=Canary"))
            .await?;
        for event in events.items {
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
        if let Some(load) = &self.load {
            let all = load.report_since(Mark::BEGINNING);
            self.model.served = all.answered();
            self.model.lost = all.lost();
            self.model.versions = traffic(&load.report_since(load.mark_ago(WINDOW)));
        }
        self.screen.show(&self.model)?;
        Ok(())
    }

    /// Looks on until the model fits; `what` is said if that takes too long.
    async fn until(&mut self, what: &str, fits: impl Fn(&DemoModel) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look().await?;
            if fits(&self.model) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {} s for {what}; the phase is {:?}, the last event {:?}",
                    PATIENCE.as_secs(),
                    self.model.phase,
                    self.model.events.last().map(|event| &event.text)
                );
            }
            tokio::time::sleep(REDRAW).await;
        }
    }

    async fn watch_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look().await?;
            tokio::time::sleep(REDRAW).await;
        }
        Ok(())
    }

    /// Waits until the gateway knows the new route: requests before that would count as lost by nobody's fault.
    async fn until_served(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look().await?;
            let probe = Load::start(&format!("{}/", self.stage.gateway), HOST, 10.0)?;
            tokio::time::sleep(REDRAW).await;
            let report = probe.stop().await;
            if report.answered() > 0 && report.lost() == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {} s for the gateway to serve {HOST}:\n{report}",
                    PATIENCE.as_secs()
                );
            }
        }
    }

    async fn end(mut self) -> Result<Report> {
        let load = self.load.take().context("the load was never started")?;
        let report = load.stop().await;
        self.model.elapsed = self.begun.elapsed();
        self.model.served = report.answered();
        self.model.lost = report.lost();
        self.model.headline = conclusion(&report);
        self.screen.show(&self.model)?;
        Ok(report)
    }
}

fn manifests(version: &str, error_rate: &str) -> Result<Vec<DynamicObject>> {
    let text = MANIFESTS
        .replace("${VERSION}", version)
        .replace("${ERROR_RATE}", error_rate);
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).context("e2e/manifests/demo.yaml"))
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

fn traffic(report: &Report) -> Vec<VersionLine> {
    let seconds = report
        .until
        .saturating_sub(report.from)
        .as_secs_f64()
        .max(0.001);
    let line = |(name, version): (&String, &crate::load::VersionReport)| VersionLine {
        version: name.clone(),
        rate: version.requests as f64 / seconds,
        error_rate: version.error_rate(),
        p99: version.latency.p99,
    };
    report.versions.iter().map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_release_differs_in_version_and_error_rate_only() {
        let objects = manifests("1.2.0", "5%").unwrap();
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
        assert_eq!(objects[2].data, manifests("1.0.0", "0").unwrap()[2].data);
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
            conclusion(&Report::default()),
            "0 requests served, none was lost"
        );
        let lossy = Report {
            requests: 3,
            gateway: BTreeMap::from([(503, 3)]),
            ..Report::default()
        };
        assert_eq!(conclusion(&lossy), "3 of 3 requests were lost");
    }
}
