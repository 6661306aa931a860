//! `serin-e2e crowd`: many canaries that are released at the same time, again and again while the load lasts, with visitors through two planes:
//! Traefik, and Contour with Envoy. Every request is accounted for. It fails when one is lost or a rollout does not end well; what it costs
//! it measures and prints.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::bed::audit::AuditMark;
use crate::bed::parts::PROMETHEUS;
use crate::bed::process::Process;
use crate::bed::{Bed, BedOptions};
use crate::bench::{Use, canaries, controller, measure_inside, table};
use crate::load::{Load, Report};
use crate::scenarios::shop::Gateway;
use crate::tools;

const BED: &str = "crowd";
/// The planes that the canaries, each with its visitors, are divided among.
const PLANES: [Gateway; 2] = [Gateway::Traefik, Gateway::Contour];
/// Objects that are applied side by side.
const SIDE_BY_SIDE: usize = 8;
/// Steps of each rollout.
const STEPS: usize = 5;
/// More than any single thing takes while everything rolls at once.
const PATIENCE: Duration = Duration::from_mins(10);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Arguments {
    /// How many canaries, half of them behind each plane
    #[arg(long, default_value_t = 50)]
    canaries: usize,
    /// How many requests in all, at least: rollouts that are under way then are waited for
    #[arg(long, default_value_t = 50_000)]
    requests: u64,
    /// Requests per second in all
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
}

/// `serin-e2e crowd`: outside the bed's namespace.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    tools::setup()?;
    tools::contour()?;
    let inner: Vec<OsString> = vec![
        "crowd-inside".into(),
        format!("--canaries={}", arguments.canaries).into(),
        format!("--requests={}", arguments.requests).into(),
        format!("--rate={}", arguments.rate).into(),
    ];
    measure_inside(&inner, BED).await
}

/// One canary and its visitors.
struct Stall {
    place: String,
    name: String,
    gateway: Gateway,
    host: String,
}

/// `serin-e2e crowd-inside`: inside the bed's namespace, which ends with this process.
pub async fn run_inside(arguments: Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.canaries > 0,
        "--canaries: expected 1 or more, found 0"
    );
    let bed = Bed::start(&BedOptions::new(BED), tools::setup()?)
        .await
        .context("the bed did not come up")?;
    bed.start_second_gateway().await?;
    let (program, build) = controller()?;
    let serin = bed.start_serin_from(
        &program,
        [
            "--mesh-provider",
            "gatewayapi:v1",
            "--metrics-server",
            PROMETHEUS,
        ],
    )?;
    eprintln!("{} canaries are set up", arguments.canaries);
    let stalls = open(&bed, arguments.canaries).await?;

    let each = arguments.rate / arguments.canaries as f64;
    let loads: Vec<Load> = stalls
        .iter()
        .map(|stall| Load::start(stall.gateway.address(), &stall.host, each))
        .collect::<Result<_>>()?;
    let started = Instant::now();
    let lasts = Duration::from_secs_f64(arguments.requests as f64 / arguments.rate);
    let before = Use::of(&serin)?;
    let mut costs = Costs::default();
    let mut wave = 0;
    while started.elapsed() < lasts {
        wave += 1;
        let begun = Instant::now();
        roll(&bed, &serin, &stalls, wave, &mut costs).await?;
        eprintln!(
            "  wave {wave}: {} rollouts in {:.0} s, {:.0} s since the first",
            stalls.len(),
            begun.elapsed().as_secs_f64(),
            started.elapsed().as_secs_f64(),
        );
    }
    let lasted = started.elapsed();
    let after = Use::of(&serin)?;
    let mut reports = Vec::with_capacity(loads.len());
    for load in loads {
        reports.push(load.stop().await);
    }
    serin.stop().await?;

    let mut rows = vec![("controller", build.to_owned())];
    rows.extend(costs.rows(stalls.len(), wave, lasted, [&before, &after]));
    for gateway in PLANES {
        let through: Vec<&Report> = stalls
            .iter()
            .zip(&reports)
            .filter(|(stall, _)| stall.gateway == gateway)
            .map(|(_, report)| report)
            .collect();
        rows.push((
            match gateway {
                Gateway::Traefik => "through Traefik",
                _ => "through Envoy",
            },
            account(&through),
        ));
    }
    rows.push(("through both", account(&reports.iter().collect::<Vec<_>>())));
    table(&rows);
    Ok(judged(&stalls, &reports))
}

/// Nothing is lost, and nobody answers with an error: no release is a bad one.
fn judged(stalls: &[Stall], reports: &[Report]) -> ExitCode {
    let mut verdict = ExitCode::SUCCESS;
    for (stall, report) in stalls.iter().zip(reports) {
        if let Err(error) = crate::scenarios::shop::flawless(report) {
            println!("{}/{}: {error:#}", stall.place, stall.name);
            verdict = ExitCode::FAILURE;
        }
    }
    verdict
}

/// What became of the requests of several loads.
fn account(reports: &[&Report]) -> String {
    let sum = |count: fn(&Report) -> u64| reports.iter().map(|report| count(report)).sum::<u64>();
    let failed = sum(|report| {
        report
            .versions
            .values()
            .map(|one| one.requests - one.ok)
            .sum()
    });
    let worst = |of: fn(&Report) -> Duration| {
        let worst = reports.iter().map(|report| of(report)).max();
        worst.unwrap_or_default().as_secs_f64() * 1e3
    };
    format!(
        "{} requests, {} lost, {failed} answered with an error; of the slowest canary: p50 {:.0} ms, p99 {:.0} ms, at most {:.0} ms",
        sum(|report| report.requests),
        sum(Report::lost),
        worst(|report| report.latency.p50),
        worst(|report| report.latency.p99),
        worst(|report| report.latency.max),
    )
}

/// The controller's requests.
#[derive(Default)]
struct Costs {
    all: usize,
    /// From the first step of each rollout to the last.
    of_steps: usize,
    /// The same by what they are about.
    by_resource: BTreeMap<String, usize>,
    conflicts: usize,
}

impl Costs {
    /// What so many canaries, released so many times, cost in that time, with the controller before and after.
    fn rows(
        &self,
        canaries: usize,
        waves: usize,
        lasted: Duration,
        [before, after]: [&Use; 2],
    ) -> [(&'static str, String); 5] {
        let rollouts = (canaries * waves).max(1);
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let cpu = after.cpu - before.cpu;
        [
            (
                "canaries",
                format!(
                    "{canaries}, all released at once, {waves} times: {rollouts} rollouts of {STEPS} steps"
                ),
            ),
            (
                "API requests",
                format!(
                    "{} of the controller's, {:.1} per rollout, {:.2} per step; {} refused as outdated",
                    self.all,
                    share(self.all, rollouts),
                    share(self.of_steps, rollouts * (STEPS - 1)),
                    self.conflicts,
                ),
            ),
            (
                "of a step",
                self.by_resource
                    .iter()
                    .map(|(resource, count)| {
                        let each = share(*count, rollouts * (STEPS - 1));
                        format!("{resource} {each:.2}")
                    })
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            (
                "the controller's CPU",
                format!(
                    "{cpu:.1} s in {:.0} s: {:.1} % of one core, {:.0} ms per rollout",
                    lasted.as_secs_f64(),
                    cpu / lasted.as_secs_f64() * 100.0,
                    cpu * 1e3 / rollouts as f64,
                ),
            ),
            (
                "its memory",
                format!(
                    "{:.1} MiB resident before, {:.1} MiB after, {:.1} MiB at its height",
                    before.resident, after.resident, after.highest
                ),
            ),
        ]
    }

    /// Adds those of one wave.
    fn add(&mut self, bed: &Bed, mark: AuditMark) -> Result<()> {
        let wave = bed.audit_since(mark)?.of_user("serin").work();
        self.all += wave.requests.len();
        self.conflicts += wave.count(|request| request.code == 409);
        let mut rollouts: BTreeMap<(&str, &str), Vec<jiff::Timestamp>> = BTreeMap::new();
        for request in &wave.requests {
            if request.resource == "httproutes" && request.code == 200 {
                let rollout = (request.namespace.as_str(), request.name.as_str());
                rollouts.entry(rollout).or_default().push(request.at);
            }
        }
        for ((place, name), mut routes) in rollouts {
            routes.sort_unstable();
            // One for each step, and one for the way back to the primary.
            let (Some(first), Some(last)) = (routes.first(), routes.get(STEPS - 1)) else {
                bail!(
                    "{place}/{name}: its route was written at {routes:?}, less often than it has steps"
                );
            };
            let of_steps = wave.requests.iter().filter(|request| {
                request.namespace == place
                    && is_about(&request.name, name)
                    && request.at > *first
                    && request.at <= *last
            });
            for request in of_steps {
                self.of_steps += 1;
                *self
                    .by_resource
                    .entry(request.resource.clone())
                    .or_default() += 1;
            }
        }
        Ok(())
    }
}

/// Whether an object of this name belongs to a canary: its own name, or one made from it.
fn is_about(object: &str, canary: &str) -> bool {
    object
        .strip_prefix(canary)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
}

/// Releases a version of all apps at once, and waits until all are promoted.
async fn roll(
    bed: &Bed,
    serin: &Process,
    stalls: &[Stall],
    wave: usize,
    costs: &mut Costs,
) -> Result<()> {
    let mark = bed.audit_mark()?;
    stream::iter(stalls)
        .map(async |stall| {
            let place = bed.namespace(&stall.place).await?;
            place.release(&stall.name, &format!("1.{wave}.0")).await
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<()>()
        .await?;
    let begun = Instant::now();
    loop {
        let statuses = canaries(bed).list(&ListParams::default()).await?;
        let mut done = 0;
        for canary in &statuses {
            let status = &canary.data["status"];
            let runs = status["history"].as_array();
            let last = runs.and_then(|runs| runs.last()).unwrap_or(&Value::Null);
            if last["number"].as_u64() != Some(wave as u64) {
                continue;
            }
            ensure!(
                last["outcome"] == "Promoted",
                "{} of wave {wave} was not promoted: {last}",
                canary.name_any()
            );
            done += usize::from(status["phase"] == "Succeeded");
        }
        if done == stalls.len() {
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "only {done} of {} were promoted in time; {} says why",
            stalls.len(),
            serin.log().display()
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // Events are sent behind the passes.
    tokio::time::sleep(LOOK_AGAIN).await;
    costs.add(bed, mark)
}

/// Applies apps and canaries and waits until all are initialised and served.
async fn open(bed: &Bed, count: usize) -> Result<Vec<Stall>> {
    let mut stalls = Vec::with_capacity(count);
    for number in 0..count {
        let side = number % PLANES.len();
        let gateway = PLANES[side];
        let place = bed.namespace(&format!("crowd-{side}")).await?;
        let name = format!("app-{number}");
        stalls.push(Stall {
            host: place.host(&name),
            place: place.name().to_owned(),
            name,
            gateway,
        });
    }
    stream::iter(&stalls)
        .map(async |stall| {
            let place = bed.namespace(&stall.place).await?;
            place.apply(&app(&stall.name).to_string()).await?;
            place.wait_ready(&stall.name, PATIENCE).await?;
            place.apply(&canary(stall).to_string()).await?;
            place
                .wait_phase(&stall.name, "Initialized", PATIENCE)
                .await?;
            bed.wait_served_at(stall.gateway.address(), &stall.host, PATIENCE)
                .await
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<()>()
        .await?;
    Ok(stalls)
}

fn app(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {
                    "labels": {"app": name},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
                },
                "spec": {
                    // Gateways that share two cores with all of this are late to learn which pods go.
                    "terminationGracePeriodSeconds": 60,
                    "containers": [{
                        "name": "app",
                        "image": "serin-demo-app:1.0.0",
                        "env": [{"name": "SHUTDOWN_DELAY_MS", "value": "20000"}],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 5},
                    }],
                },
            },
        },
    })
}

fn canary(stall: &Stall) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": stall.name},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": stall.name},
            "progressDeadlineSeconds": 300,
            "service": {
                "port": 80, "targetPort": 8080, "hosts": [stall.host],
                "gatewayRefs": [stall.gateway.parent()],
            },
            "analysis": {
                "interval": "5s", "threshold": 2, "stepWeight": 100 / STEPS, "maxWeight": 100,
                "metrics": [
                    {"name": "request-success-rate", "interval": "20s", "thresholdRange": {"min": 99}},
                    {"name": "request-duration", "interval": "20s", "thresholdRange": {"max": 2000}},
                ],
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_apart_by_the_canary_that_they_are_made_from() {
        for (object, canary, expected) in [
            ("app-1", "app-1", true),
            ("app-1-primary", "app-1", true),
            ("app-1.0123456789abcdef", "app-1", true),
            ("app-10", "app-1", false),
            ("", "app-1", false),
        ] {
            assert_eq!(is_about(object, canary), expected, "{object}");
        }
    }
}
