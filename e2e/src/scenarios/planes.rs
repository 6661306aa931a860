//! The story that is told on every plane: a route that Serin writes, carried out by what really routes there, with visitors who account for
//! every request. What differs from plane to plane is a [`Plane`].
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::gates::Gates;
use super::shop::{Gateway, PATIENCE, Plan, RATE, Shop, flawless, last_cause, only_failed};
use super::stays::{ENOUGH, Stays};
use crate::bed::Bed;
use crate::figures::{Figures, Share, in_words};
use crate::load::{HeaderGroup, Load, Mark, Report};

/// Requests per second where splits are measured.
pub const CROWD: f64 = 300.0;
/// The name under which somebody edits by hand.
const NIGHT_SHIFT: &str = "night-shift";
/// A request is answered within so long.
const ON_THE_WAY: Duration = Duration::from_millis(500);
/// A plane has read an object that is back within so long: Traefik waits up to two seconds from one change to the next.
const READ_WITHIN: Duration = Duration::from_secs(4);

/// What differs from plane to plane.
pub struct Plane {
    pub provider: &'static str,
    pub gateway: Gateway,
    /// `apiVersion`, kind and name of the object that Serin steers with.
    pub object: (&'static str, &'static str, &'static str),
    /// Weights of the primary and the canary in it.
    pub weights: fn(&Value) -> (i64, i64),
    /// What somebody does to the weights by hand, as a JSON patch.
    pub edit: fn() -> Value,
    /// What somebody adds that is not Serin's, as a JSON patch; it must stay.
    pub additions: fn() -> Value,
    /// The user's own objects, and what of the canary's spec goes with them.
    pub own: fn() -> Vec<Value>,
    pub spec: fn() -> Value,
    /// Further fields of `spec.service`, where the plane takes hosts and parents from there.
    pub service: fn() -> Value,
    /// Whether a Service and a route of the user are taken over while visitors are there.
    pub taken_over: bool,
    /// Whether visitors call a method of gRPC.
    pub grpc: bool,
    /// Where an A/B test asks for a query parameter too: queries, and who answers them.
    pub queries: &'static [(&'static str, &'static str)],
    /// How the release is measured.
    pub metrics: fn() -> Value,
    /// The requests of the canary as the plane counts them, for the built-in queries; empty where the app is measured.
    pub counted: &'static str,
    /// Whether requests are lost while the object is away.
    pub needed: bool,
    /// Requests per second.
    pub rate: f64,
}

/// What most planes have in common; each says the rest.
pub const PLAIN: Plane = Plane {
    provider: "",
    gateway: Gateway::Traefik,
    object: ("", "", ""),
    weights: |_| (-1, -1),
    edit: || json!([]),
    additions: || json!([]),
    own: Vec::new,
    spec: || json!({}),
    service: || json!({}),
    taken_over: false,
    grpc: false,
    queries: &[],
    metrics: BUILT_IN,
    counted: "",
    needed: true,
    rate: CROWD,
};

/// The built-in checks.
pub const BUILT_IN: fn() -> Value = || {
    json!([
        {"name": "request-success-rate", "interval": "5s", "thresholdRange": {"min": 99}},
        {"name": "request-duration", "interval": "5s", "thresholdRange": {"max": 1000}},
    ])
};

/// The weight of the element of a list that has this name.
pub fn by_name(services: &Value, name: &str) -> i64 {
    services
        .as_array()
        .into_iter()
        .flatten()
        .find(|service| service["name"] == name)
        .map_or(0, |service| service["weight"].as_i64().unwrap_or(0))
}

/// A JSON patch that gives 95 % to the second element of a list.
pub fn turned_over(list: &str) -> Value {
    json!([
        {"op": "replace", "path": format!("{list}/0/weight"), "value": 5},
        {"op": "replace", "path": format!("{list}/1/weight"), "value": 95},
    ])
}

/// Whether a value has everything that another one says.
fn says(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).is_some_and(|live| says(live, value))),
        (live, wanted) => live == wanted,
    }
}

impl Plane {
    /// The canary's plan on this plane.
    pub fn plan(&self, analysis: Value) -> Plan {
        let mut spec = (self.spec)();
        if !self.provider.is_empty() {
            spec["provider"] = json!(self.provider);
        }
        let mut analysis = analysis;
        analysis["metrics"] = (self.metrics)();
        Plan {
            gateway: self.gateway,
            grpc: self.grpc,
            rate: self.rate,
            analysis,
            spec,
            service: (self.service)(),
            own_route: self.taken_over,
            beside: (self.own)(),
            ..Plan::default()
        }
    }

    /// The object as it is now.
    pub async fn read(&self, shop: &Shop<'_>) -> Result<Value> {
        let (version, kind, name) = self.object;
        let object = shop.namespace.get(version, kind, name).await?;
        Ok(serde_json::to_value(object)?)
    }

    /// Waits until the object has these weights: primary, canary.
    pub async fn wait_weights(&self, shop: &Shop<'_>, weights: (i64, i64)) -> Result<()> {
        let what = format!("weights {weights:?} in {}", self.object.1);
        shop.bed
            .wait(&what, PATIENCE, async || {
                Ok(((self.weights)(&self.read(shop).await?) == weights).then_some(()))
            })
            .await
    }

    /// Changes the object as somebody called `night-shift`.
    async fn patch(&self, shop: &Shop<'_>, operations: Value) -> Result<()> {
        let (version, kind, name) = self.object;
        let api = shop
            .bed
            .api_of(version, kind, shop.namespace.name())
            .await?;
        let params = PatchParams {
            field_manager: Some(NIGHT_SHIFT.to_owned()),
            ..PatchParams::default()
        };
        let patch: Patch<Value> = Patch::Json(serde_json::from_value(operations)?);
        api.patch(name, &params, &patch).await?;
        shop.note(format!("{NIGHT_SHIFT} wrote {kind} {name}"));
        Ok(())
    }

    /// Weights edited by hand are put back within a second, and an event names the editor.
    async fn put_back(&self, shop: &Shop<'_>, weights: (i64, i64)) -> Result<Duration> {
        self.patch(shop, (self.edit)()).await?;
        let edited = Instant::now();
        self.wait_weights(shop, weights).await?;
        let back = edited.elapsed();
        ensure!(
            back < Duration::from_secs(1),
            "putting the weights back took {back:?}"
        );
        let named = async || {
            let events = shop.events().await?;
            let names = |text: &String| text.contains(NIGHT_SHIFT);
            Ok(events.iter().any(names).then_some(()))
        };
        shop.bed
            .wait("an event that names the editor", PATIENCE, named)
            .await?;
        Ok(back)
    }

    /// The plane's own series of the canary's requests are there.
    async fn counts(&self, shop: &Shop<'_>) -> Result<()> {
        if self.counted.is_empty() {
            return Ok(());
        }
        let counted = self.counted.replace("${NAMESPACE}", shop.namespace.name());
        let query = format!("sum(rate({counted}[5s]))");
        shop.bed
            .wait(
                "the plane to count the canary's requests",
                PATIENCE,
                async || {
                    let rate = shop.bed.query(&query).await?;
                    Ok(rate.filter(|rate| *rate > self.rate * 0.1))
                },
            )
            .await
            .map(drop)
    }

    /// A good release with a busy night shift.
    pub async fn good(&self, shop: &Shop<'_>, stays: &Stays) -> Result<(Vec<Share>, Duration)> {
        shop.release("1.1.0").await?;
        self.wait_weights(shop, (70, 30)).await?;
        stays.hold();
        self.patch(shop, (self.additions)()).await?;
        let first = stays.measure(shop, "1.1.0", 30).await?;
        self.wait_weights(shop, (40, 60)).await?;
        stays.hold();
        let back = self.put_back(shop, (40, 60)).await?;
        self.counts(shop).await?;
        let second = stays.measure(shop, "1.1.0", 60).await?;
        shop.wait_phase("Succeeded").await?;
        self.wait_weights(shop, (100, 0)).await?;
        let object = self.read(shop).await?;
        for addition in (self.additions)().as_array().into_iter().flatten() {
            let path = addition["path"].as_str().unwrap_or_default();
            let found = object.pointer(path).unwrap_or(&Value::Null);
            ensure!(
                says(found, &addition["value"]),
                "what was added at {path} in mid-run stays: {object}"
            );
        }
        shop.wait_only("1.1.0").await?;
        flawless(&shop.load()?.settled_since(Mark::BEGINNING).await)?;
        Ok((vec![first, second], back))
    }

    /// A release that fails one request of twenty.
    pub async fn bad(&self, shop: &Shop<'_>) -> Result<()> {
        let opened = shop.load()?.mark();
        shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
            .await?;
        shop.wait_phase("Progressing").await?;
        let failed = shop.wait_phase("Failed").await?;
        let cause = last_cause(&failed);
        ensure!(
            cause.contains("success"),
            "the cause names what was measured: {cause:?}"
        );
        self.wait_weights(shop, (100, 0)).await?;
        shop.wait_only("1.1.0").await?;
        let report = shop.load()?.settled_since(opened).await;
        ensure!(
            report.failed_of("1.2.0") > 0,
            "the bad release did fail requests"
        );
        only_failed(&report, "1.2.0")
    }

    /// A good release during which somebody deletes the object: it comes back with the split of the run, and visitors are divided like that.
    async fn deleted(&self, shop: &Shop<'_>, stays: &Stays) -> Result<(Absence, Share)> {
        let opened = shop.load()?.mark();
        shop.release("1.3.0").await?;
        self.wait_weights(shop, (70, 30)).await?;
        stays.hold();
        flawless(&shop.load()?.settled_since(opened).await)?;
        let gone = Gone::now(self, shop).await?;
        let (version, kind, object) = self.object;
        let api = shop
            .bed
            .api_of(version, kind, shop.namespace.name())
            .await?;
        let there = async || Ok(api.get_opt(object).await?.map(drop));
        shop.bed
            .wait("the object to be back", Duration::from_secs(10), there)
            .await?;
        let away = gone.at.elapsed();
        ensure!(
            (self.weights)(&self.read(shop).await?) == (70, 30),
            "it comes back with the split of the run: {}",
            shop.status().await?
        );
        let absence = gone.until_served(shop, away).await?;
        ensure!(
            self.needed || absence.lost == 0,
            "{} requests were lost while the object was away, which nobody needed",
            absence.lost
        );
        let again = shop.load()?.mark();
        let share = stays.measure(shop, "1.3.0", 30).await?;
        shop.wait_phase("Succeeded").await?;
        shop.wait_only("1.3.0").await?;
        flawless(&shop.load()?.settled_since(again).await)?;
        Ok((absence, share))
    }

    /// `gatewayapi:v1, HTTPRoute`
    pub fn route(&self) -> String {
        format!("{}, {}", self.provider, self.object.1)
    }
}

/// What somebody has deleted, with visitors there.
pub struct Gone {
    mark: Mark,
    /// Requests per second.
    rate: f64,
    /// When.
    pub at: Instant,
}

/// What came of it.
pub struct Absence {
    /// Requests that nobody answered.
    pub lost: u64,
    /// How long the object was away.
    pub away: Duration,
    /// When the last request was lost, from the deletion on.
    pub served: Duration,
}

impl std::fmt::Display for Absence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the object was away for {:.2} s, {} requests were lost within {:.2} s",
            self.away.as_secs_f64(),
            self.lost,
            self.served.as_secs_f64()
        )
    }
}

impl Gone {
    /// Deletes the object that steers.
    pub async fn now(plane: &Plane, shop: &Shop<'_>) -> Result<Self> {
        let (version, kind, object) = plane.object;
        let api = shop
            .bed
            .api_of(version, kind, shop.namespace.name())
            .await?;
        // Those that are on their way meet it too.
        let mark = shop.load()?.mark_ago(ON_THE_WAY);
        api.delete(object, &DeleteParams::background()).await?;
        shop.note(format!("deleted {kind} {object}"));
        Ok(Self {
            mark,
            rate: plane.rate,
            at: Instant::now(),
        })
    }

    /// Waits until the plane has read that the object was gone and that it is back, which it was so long after the deletion. Fails where more
    /// requests were lost than came in between.
    pub async fn until_served(self, shop: &Shop<'_>, away: Duration) -> Result<Absence> {
        let (mut lost, mut served) = (0, Duration::ZERO);
        // So many answers after the last loss both are over.
        let mut calm = self.mark;
        shop.bed
            .wait("the plane to have it again", PATIENCE, async || {
                let load = shop.load()?;
                let lost_by_now = load.report_since(self.mark).lost();
                if lost_by_now > lost {
                    (lost, served, calm) = (lost_by_now, self.at.elapsed(), load.mark());
                }
                let settled = self.at.elapsed() > away + READ_WITHIN;
                let answered = load.report_since(calm).answered();
                Ok((settled && answered >= ENOUGH / 4).then_some(()))
            })
            .await?;
        let load = shop.load()?;
        let lost = load.settled_between(self.mark, load.mark()).await.lost();
        let absence = Absence { lost, away, served };
        ensure!(
            served <= away + READ_WITHIN,
            "a plane reads an object that is back within {READ_WITHIN:?}, but {absence}"
        );
        let sent = self.rate * served.as_secs_f64();
        ensure!(
            lost as f64 <= sent.ceil(),
            "no more requests are lost than the {sent:.0} that came meanwhile, but {absence}"
        );
        Ok(absence)
    }
}

/// Waits until enough answers came since a mark, and reports on them.
pub async fn enough(shop: &Shop<'_>, from: Mark) -> Result<Report> {
    shop.bed
        .wait("enough answers", PATIENCE, async || {
            let answered = shop.load()?.report_since(from).answered();
            Ok((answered >= ENOUGH).then_some(()))
        })
        .await?;
    let load = shop.load()?;
    Ok(load.settled_between(from, load.mark()).await)
}

/// Each change of the route by another hand is told of once, also where the gateway writes its status into the route at the same time.
pub async fn told_once(shop: &Shop<'_>) -> Result<()> {
    let mut told = shop.events().await?;
    told.retain(|text| text.contains("; it is set back to "));
    told.sort();
    let twice = told.windows(2).find(|pair| pair[0] == pair[1]);
    ensure!(twice.is_none(), "told twice: {twice:?}");
    Ok(())
}

/// A good release with a busy night shift, a bad one, and one during which the object that steers is deleted.
pub async fn release(bed: &Bed, name: &str, plane: &Plane) -> Result<()> {
    super::shop::serin(bed).await?;
    plane.gateway.start(bed).await?;
    let stays = Stays::start().await?;
    let plan = plane.plan(json!({
        "threshold": 2, "stepWeight": 30, "maxWeight": 60, "webhooks": stays.hooks(),
    }));
    let shop = Shop::open(bed, name, plan).await?;
    plane.wait_weights(&shop, (100, 0)).await?;
    let (mut shares, back) = plane.good(&shop, &stays).await?;
    plane.bad(&shop).await?;
    let (absence, share) = plane.deleted(&shop, &stays).await?;
    shares.push(share);
    println!("        weights put back after {back:?}; {absence}");
    told_once(&shop).await?;
    let whole = shop.close().await?;
    let figures = Figures::new(
        &plane.route(),
        plane.gateway.name(),
        &whole,
        absence.lost,
        in_words(&shares),
    );
    bed.figures().note(name, figures);
    Ok(())
}

pub type Carried = Vec<(&'static str, &'static str)>;

/// Of ten visitors two or more are in the test; they get the new release, all others the old one, until it is promoted.
pub async fn by_header(
    bed: &Bed,
    name: &str,
    plane: &Plane,
    matches: Value,
    insiders: &[Carried],
    outsiders: &[Carried],
) -> Result<()> {
    super::shop::serin(bed).await?;
    plane.gateway.start(bed).await?;
    let gates = Gates::start().await?;
    gates.close("promotion");
    let mut plan = plane.plan(json!({
        "threshold": 2, "iterations": 2, "match": matches,
        "webhooks": gates.hook("confirm-promotion", "promotion"),
    }));
    plan.rate = 0.0;
    let mut shop = Shop::open(bed, name, plan).await?;
    bed.wait_served_at(plane.gateway.address(), &shop.host, Duration::from_secs(30))
        .await?;
    let mut visitors = shop.visitors(RATE);
    visitors.users = 40;
    let groups = [("in", insiders), ("out", outsiders)];
    visitors.groups = groups
        .into_iter()
        .flat_map(|(side, all)| {
            all.iter()
                .enumerate()
                .map(move |(index, headers)| (side, index, headers))
        })
        .map(|(side, index, headers)| HeaderGroup {
            name: format!("{side}-{index}"),
            share: 0.15,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        })
        .collect();
    let share = 0.15 * insiders.len() as f64;
    shop.load = Some(Load::start_plan(&visitors)?);
    shop.release("1.1.0").await?;
    shop.wait_weight(100).await?;
    bed.wait("the insiders' answers from 1.1.0", PATIENCE, async || {
        let load = shop.load()?;
        let recent = load.report_since(load.mark_ago(Duration::from_secs(1)));
        Ok(
            (recent.answered() > 100 && recent.split_within("1.1.0", share, 4.0).is_ok())
                .then_some(()),
        )
    })
    .await?;
    let report = enough(&shop, shop.load()?.mark()).await?;
    told_apart(&report, insiders.len(), outsiders.len())?;
    for (query, expected) in plane.queries {
        for _ in 0..5 {
            let found = answer(&shop, &[], query).await?;
            ensure!(
                found == *expected,
                "{query} leads to {expected}, but {found} answered"
            );
        }
    }
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    met_by_insiders_alone(&shop).await?;
    let whole = shop.close().await?;
    let figures = Figures::new(
        &plane.route(),
        plane.gateway.name(),
        &whole,
        0,
        format!("by header: none of {} astray", report.answered()),
    );
    bed.figures().note(name, figures);
    only_failed(&whole, "1.2.0")
}

/// A release that fails every second request is found out by those in the test, and nobody else meets it.
async fn met_by_insiders_alone(shop: &Shop<'_>) -> Result<()> {
    let opened = shop.load()?.mark();
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Failed").await?;
    shop.wait_only("1.1.0").await?;
    let report = shop.load()?.settled_since(opened).await;
    ensure!(
        report.failed_of("1.2.0") > 0,
        "the bad release did fail requests"
    );
    for (group, versions) in &report.groups {
        ensure!(
            group.starts_with("in-") || versions.keys().eq(["1.1.0"]),
            "group {group} gets 1.1.0 alone: {versions:?}"
        );
    }
    Ok(())
}

/// Name and value.
pub type Header = (&'static str, &'static str);

/// Who answers a request with these headers and this query.
pub async fn answer(shop: &Shop<'_>, headers: &[Header], query: &str) -> Result<String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_str(value)?,
        );
    }
    let answer = reqwest::Client::new()
        .get(format!("{}/{query}", shop.gateway.address()))
        .header("host", &shop.host)
        .headers(map)
        .send()
        .await?;
    let version = answer
        .headers()
        .get(crate::demo_app::VERSION_HEADER)
        .and_then(|version| version.to_str().ok())
        .with_context(|| format!("an answer of {} without a version", answer.status()))?;
    Ok(version.to_owned())
}

/// Those in the test got the new release and nothing else, all others the old one.
fn told_apart(report: &Report, insiders: usize, outsiders: usize) -> Result<()> {
    ensure!(
        report.groups.len() > insiders + outsiders,
        "every group and those without header were answered: {:?}",
        report.groups
    );
    for (group, versions) in &report.groups {
        let expected = if group.starts_with("in-") {
            "1.1.0"
        } else {
            "1.0.0"
        };
        ensure!(
            versions.keys().all(|version| version == expected),
            "group {group} gets {expected} alone: {versions:?}"
        );
    }
    Ok(())
}

/// Blue/Green with mirroring: copies of all requests go to the new release, whose answers nobody sees. They are enough to promote a good
/// one, and to find out one that fails every request before any visitor has met it.
pub async fn mirrored(bed: &Bed, name: &'static str, plane: &Plane) -> Result<()> {
    super::shop::serin(bed).await?;
    plane.gateway.start(bed).await?;
    let plan = plane.plan(json!({"threshold": 2, "iterations": 3, "mirror": true}));
    let shop = Shop::open(bed, name, plan).await?;
    let copies = format!(
        "sum(rate(http_request_duration_seconds_count{{namespace=\"{}\", pod!~\"app-primary-.*\"}}[5s]))",
        shop.namespace.name()
    );
    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    let rate = bed
        .wait("copies to reach the new release", PATIENCE, async || {
            let rate = bed.query(&copies).await?;
            Ok(rate.filter(|rate| *rate > plane.rate / 2.0))
        })
        .await?;
    ensure!(
        shop.load()?.report_since(opened).share_of("1.0.0") > 0.999,
        "while copies are judged, all visitors are answered by 1.0.0"
    );
    shop.wait_weight(100).await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    let good = shop.load()?.report_since(opened);
    flawless(&good)?;

    let mark = shop.load()?.mark();
    shop.release_with("1.2.0", &[("ERROR_RATE", "1")]).await?;
    let failed = shop.wait_phase("Failed").await?;
    let cause = last_cause(&failed);
    ensure!(
        cause.contains("success rate"),
        "the copies' answers were judged: {cause}"
    );
    let bad = shop.load()?.settled_since(mark).await;
    ensure!(
        bad.failed_of("1.2.0") == 0 && (bad.share_of("1.1.0") - 1.0).abs() < f64::EPSILON,
        "no visitor may meet a release that is only sent copies:\n{bad}"
    );
    let whole = shop.close().await?;
    println!(
        "        {rate:.0} copies a second and more of {:.0} requests",
        plane.rate
    );
    let figures = Figures::new(
        &plane.route(),
        plane.gateway.name(),
        &whole,
        0,
        format!("copies alone: a bad release met none of {}", bad.answered()),
    );
    bed.figures().note(name, figures);
    flawless(&whole)
}
