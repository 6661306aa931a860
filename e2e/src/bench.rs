//! `serin-e2e bench`: what many canaries at rest cost, in time, memory, CPU and requests. It measures and prints; it judges nothing, since
//! the machine has its part in every number.
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};

use crate::bed::audit::Audit;
use crate::bed::parts::PROMETHEUS;
use crate::bed::process::Process;
use crate::bed::{Bed, BedOptions, beside, namespace, state_folder};
use crate::tools;

const BED: &str = "bench";
/// Canaries of one namespace.
const PER_NAMESPACE: usize = 20;
/// Objects that are applied side by side.
const SIDE_BY_SIDE: usize = 16;
/// How long the idle controller is watched.
const IDLE: Duration = Duration::from_mins(1);
/// Without a request for this long, the controller is at rest.
const REST: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(10);
/// Unit of the CPU times in `/proc`, per second: fixed by Linux' interface to programs.
const TICKS: f64 = 100.0;

#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Arguments {
    /// How many canaries
    #[arg(long, default_value_t = 200)]
    canaries: usize,
    /// Bring up the gateway too, and put half of the canaries on the Gateway API
    #[arg(long)]
    gateway: bool,
}

/// `serin-e2e bench`: outside the bed's namespace.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    tools::setup()?;
    let canaries = arguments.canaries.to_string();
    let mut inner: Vec<OsString> = ["bench-inside", "--canaries", &canaries]
        .map(Into::into)
        .into();
    if arguments.gateway {
        inner.push("--gateway".into());
    }
    measure_inside(&inner, BED).await
}

/// Runs this program in a namespace of its own, and says where the logs of that bed are when it fails.
pub(crate) async fn measure_inside(arguments: &[OsString], bed: &str) -> Result<ExitCode> {
    let inside = namespace::spawn_inside(arguments)?;
    let status = namespace::wait_or_interrupt(inside).await?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("logs are in {}", state_folder(bed)?.join("logs").display());
    Ok(ExitCode::FAILURE)
}

/// `serin-e2e bench-inside`: inside the bed's namespace, which ends with this process.
pub async fn run_inside(arguments: Arguments) -> Result<ExitCode> {
    let mut options = BedOptions::new(BED);
    options.traffic = arguments.gateway;
    let bed = Bed::start(&options, tools::setup()?)
        .await
        .context("the bed did not come up")?;
    let (program, build) = controller()?;
    eprintln!("{} canaries are set up", arguments.canaries);
    set_up(&bed, arguments).await?;

    let mark = bed.audit_mark()?;
    let started = Instant::now();
    let serin = bed.start_serin_from(
        &program,
        [
            "--mesh-provider",
            "kubernetes",
            "--metrics-server",
            PROMETHEUS,
        ],
    )?;
    let all = canaries(&bed);
    bed.wait("all canaries to be Initialized", PATIENCE, async || {
        let list = all.list(&ListParams::default()).await?;
        let done = list
            .iter()
            .filter(|canary| canary.data["status"]["phase"] == "Initialized")
            .count();
        Ok((done == arguments.canaries).then_some(()))
    })
    .await?;
    let initialized = started.elapsed();
    rest(&bed).await?;
    let initialising = bed.audit_since(mark)?.of_user("serin");

    eprintln!("at rest; watching it for {} s", IDLE.as_secs());
    let mark = bed.audit_mark()?;
    let before = Use::of(&serin)?;
    tokio::time::sleep(IDLE).await;
    let after = Use::of(&serin)?;
    let idle = bed.audit_since(mark)?.of_user("serin");
    serin.stop().await?;

    let work = initialising.work();
    let gateway = if arguments.gateway {
        arguments.canaries / 2
    } else {
        0
    };
    table(&[
        (
            "canaries",
            format!(
                "{}, of which {gateway} on the Gateway API",
                arguments.canaries
            ),
        ),
        ("controller", build.to_owned()),
        (
            "until all were Initialized",
            format!(
                "{:.1} s after the controller's start",
                initialized.as_secs_f64()
            ),
        ),
        (
            "requests until then",
            format!(
                "{}, {:.1} per canary; {} watches beside",
                work.requests.len(),
                work.requests.len() as f64 / arguments.canaries.max(1) as f64,
                initialising.count(|request| request.verb == "watch"),
            ),
        ),
        (
            "memory, idle",
            format!(
                "{:.1} MiB resident, {:.1} MiB at its height",
                after.resident, after.highest
            ),
        ),
        ("CPU until at rest", format!("{:.2} s", before.cpu)),
        (
            "CPU in an idle minute",
            format!(
                "{:.2} s, {:.2} % of one core",
                after.cpu - before.cpu,
                (after.cpu - before.cpu) / IDLE.as_secs_f64() * 100.0
            ),
        ),
        (
            "requests in an idle minute",
            format!(
                "{}; {} watches renewed, {} for the lease",
                idle.work().requests.len(),
                idle.count(|request| request.verb == "watch"),
                idle.count(|request| request.verb != "watch" && request.resource == "leases"),
            ),
        ),
    ]);
    println!("\nrequests for initialising:\n{work}");
    Ok(ExitCode::SUCCESS)
}

/// The release build of the controller where there is one, and what to call the one that is taken.
pub(crate) fn controller() -> Result<(PathBuf, &'static str)> {
    let own = beside("serin")?;
    let release = own
        .parent()
        .and_then(|profile| profile.parent())
        .map(|target| target.join("release/serin"))
        .filter(|path| path.is_file());
    Ok(match release {
        Some(release) => (release, "release build"),
        None => (own, "dev build (`cargo build --release` makes the other)"),
    })
}

pub(crate) fn table(rows: &[(&str, String)]) {
    println!();
    for (name, value) in rows {
        println!("{name:<28}{value}");
    }
}

/// Every Canary of the cluster.
pub(crate) fn canaries(bed: &Bed) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("flagger.app", "v1beta1", "Canary");
    let resource = ApiResource::from_gvk_with_plural(&kind, "canaries");
    Api::all_with(bed.client(), &resource)
}

/// Applies apps and canaries and waits until the apps' pods are ready, so that what follows is the controller's time alone.
async fn set_up(bed: &Bed, arguments: Arguments) -> Result<()> {
    let place = |number: usize| format!("bench-{}", number / PER_NAMESPACE);
    for number in (0..arguments.canaries).step_by(PER_NAMESPACE) {
        bed.namespace(&place(number)).await?;
    }
    stream::iter(0..arguments.canaries)
        .map(|number| {
            let gateway = arguments.gateway && number % 2 == 1;
            let app = idle_app(&format!("app-{number}"));
            let yaml = format!("{app}\n---\n{}", canary(number, gateway));
            let place = place(number);
            async move { bed.apply_in(&place, &yaml).await }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<()>()
        .await?;
    let deployments = Api::<Deployment>::all(bed.client());
    bed.wait("the apps to be ready", PATIENCE, async || {
        let ready = deployments
            .list(&ListParams::default())
            .await?
            .iter()
            .filter(|one| {
                let status = one.status.as_ref();
                status.and_then(|status| status.available_replicas) == Some(1)
            })
            .count();
        Ok((ready == arguments.canaries).then_some(()))
    })
    .await
}

/// A Deployment with one pod. Its image stands for no program: the pods are marked ready and cost nothing.
pub(crate) fn idle_app(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "serin-bench:1.0.0", "ports": [{"containerPort": 8080}]}]},
            },
        },
    })
}

fn canary(number: usize, gateway: bool) -> Value {
    let name = format!("app-{number}");
    let metrics = json!([
        {"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}},
        {"name": "request-duration", "interval": "1m", "thresholdRange": {"max": 500}},
    ]);
    let (provider, service, analysis) = if gateway {
        (
            "gatewayapi:v1",
            json!({
                "port": 80, "targetPort": 8080,
                "gatewayRefs": [{"name": "traefik", "namespace": "gateway"}], "hosts": [format!("{name}.bench.bed")],
            }),
            json!({"interval": "30s", "threshold": 5, "stepWeight": 10, "maxWeight": 50, "metrics": metrics}),
        )
    } else {
        (
            "kubernetes",
            json!({"port": 80, "targetPort": 8080}),
            json!({"interval": "30s", "threshold": 5, "iterations": 5, "metrics": metrics}),
        )
    };
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": name},
        "spec": {
            "provider": provider,
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": service,
            "analysis": analysis,
        },
    })
}

/// Waits until the controller makes no request for a while; a controller that never rests is measured as it is.
async fn rest(bed: &Bed) -> Result<()> {
    let begun = Instant::now();
    let mut mark = bed.audit_mark()?;
    let mut quiet = Instant::now();
    while quiet.elapsed() < REST && begun.elapsed() < PATIENCE / 5 {
        tokio::time::sleep(REST / 10).await;
        let audit: Audit = bed.audit_since(mark)?.of_user("serin").work();
        if !audit.requests.is_empty() {
            mark = bed.audit_mark()?;
            quiet = Instant::now();
        }
    }
    Ok(())
}

/// What a process has used so far.
pub(crate) struct Use {
    /// MiB in memory now.
    pub resident: f64,
    /// MiB in memory at most.
    pub highest: f64,
    /// Seconds of CPU time.
    pub cpu: f64,
}

impl Use {
    pub fn of(process: &Process) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{}", process.id()));
        let status = std::fs::read_to_string(folder.join("status"))?;
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        Ok(Self {
            resident: mebibytes(&status, "VmRSS:").context("/proc/…/status has no VmRSS")?,
            highest: mebibytes(&status, "VmHWM:").context("/proc/…/status has no VmHWM")?,
            cpu: cpu_seconds(&stat).context("/proc/…/stat is not as proc(5) says")?,
        })
    }
}

fn mebibytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// User and system time: fields 14 and 15, counted from behind the program's name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_program_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn memory_is_read_in_mebibytes() {
        let status = "Name:\tserin\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(mebibytes(status, "VmRSS:"), Some(10.0));
        assert_eq!(mebibytes(status, "VmPeak:"), None);
    }
}
