//! One container with a program: started, probed, restarted when it ends, and stopped as the pod's grace allows.
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Image, Kubelet, environment};
use crate::bed::process::exit_code;

/// Until the first success a probe asks this often, so that a pod is ready soon after its program is.
const EAGER: Duration = Duration::from_millis(100);
/// First and longest wait before an ended program is started again; doubled each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A program that ran this long starts its back-off anew.
const HEALTHY_RUN: Duration = Duration::from_mins(1);

/// Shows folders where a pod mounts them, then becomes the program that follows: `$0` is a folder for what lies beneath, the arguments are
/// pairs of path and folder, `--`, and the program. Where the path is not there it is made in a place of its own, since nothing else tells
/// containers apart here: what the folder above had stays to be seen by links.
const MOUNT: &str = r#"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mount --bind "$2" "$1"
    else
        above=${1%/*}
        while [ -n "$above" ] && [ ! -d "$above" ]; do above=${above%/*}; done
        [ -n "$above" ] || { echo "$1 can't be mounted here: no folder above it is there" >&2; exit 1; }
        beneath=$0/$#
        mkdir -p "$beneath"
        mount --rbind "$above" "$beneath"
        mount -t tmpfs tmpfs "$above"
        for entry in "$beneath"/* "$beneath"/.[!.]*; do
            if [ -e "$entry" ]; then ln -s "$entry" "$above/"; fi
        done
        mkdir -p "${1%/*}"
        ln -s "$2" "$1"
    fi
    shift 2
done
shift
exec "$@"
"#;

/// The order to end, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub deadline: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        since: Timestamp,
        ready: bool,
    },
    /// For good.
    Ended {
        code: i32,
    },
}

/// What a container says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub state: State,
    pub restarts: u32,
    pub last_exit: Option<i32>,
}

impl Report {
    /// What is true before anything is started.
    pub fn first(image: &Image) -> Self {
        let waiting = |reason: &str, message: &str| State::Waiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let state = match image {
            Image::Missing => waiting(
                "ImagePullBackOff",
                "the tag says that this image is missing",
            ),
            Image::Nothing => State::Running {
                since: Timestamp::now(),
                ready: true,
            },
            Image::Program { .. } => waiting("ContainerCreating", ""),
        };
        Self {
            state,
            restarts: 0,
            last_exit: None,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Running { ready: true, .. })
    }
}

type Reports = mpsc::UnboundedSender<(usize, Report)>;
type Stopped = watch::Receiver<Option<Stop>>;

pub(super) struct Container {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    spec: Spec,
    image: Image,
    address: Ipv4Addr,
}

/// A started program and its process group.
struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
        }
    }
}

impl Container {
    pub fn new(
        kubelet: Arc<Kubelet>,
        pod: Pod,
        spec: Spec,
        image: Image,
        address: Ipv4Addr,
    ) -> Self {
        Self {
            kubelet,
            pod,
            spec,
            image,
            address,
        }
    }

    pub async fn run(self, index: usize, reports: Reports, mut stopped: Stopped) {
        let mut report = Report::first(&self.image);
        let mut back_off = BACK_OFF.0;
        loop {
            let mut running = match self.start().await {
                Ok(running) => running,
                Err(error) => {
                    report.state = State::Waiting {
                        reason: "CreateContainerConfigError".into(),
                        message: format!("{error:#}"),
                    };
                    let _ = reports.send((index, report.clone()));
                    if !pause(BACK_OFF.0, &mut stopped).await {
                        return;
                    }
                    continue;
                }
            };
            let began = Instant::now();
            let since = Timestamp::now();
            let ready = self.spec.readiness_probe.is_none();
            report.state = State::Running { since, ready };
            let _ = reports.send((index, report.clone()));

            let tell = |ready| {
                let report = Report {
                    state: State::Running { since, ready },
                    ..report.clone()
                };
                let _ = reports.send((index, report));
            };
            let status = tokio::select! {
                status = running.child.wait() => status,
                stop = ordered(&mut stopped) => {
                    // A pod that ends is probed to its end: gateways that serve from ending pods leave when it says so.
                    tokio::select! {
                        () = self.stop(running, stop) => {}
                        () = self.probe_ending(tell) => {}
                    }
                    return;
                }
                () = self.probe(tell) => unreachable_probe(),
                () = environment::refresh(&self.kubelet, &self.pod, &self.spec) => unreachable_probe(),
            };
            let code = status.map_or(-1, exit_code);
            if !self.restarts_after(code) {
                report.state = State::Ended { code };
                let _ = reports.send((index, report));
                return;
            }
            if began.elapsed() > HEALTHY_RUN {
                back_off = BACK_OFF.0;
            }
            report.last_exit = Some(code);
            report.state = State::Waiting {
                reason: "CrashLoopBackOff".into(),
                message: format!("back-off {back_off:?} restarting failed container"),
            };
            let _ = reports.send((index, report.clone()));
            if !pause(back_off, &mut stopped).await {
                return;
            }
            back_off = (back_off * 2).min(BACK_OFF.1);
            report.restarts += 1;
        }
    }

    fn restarts_after(&self, code: i32) -> bool {
        match self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
        {
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            _ => true,
        }
    }

    async fn start(&self) -> Result<Running> {
        let Image::Program {
            path,
            arguments,
            version,
            talks_to_api,
        } = &self.image
        else {
            anyhow::bail!("{} has no program", self.spec.name);
        };
        let mut variables = vec![
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("POD_IP".to_owned(), self.address.to_string()),
            ("POD_NAME".to_owned(), self.pod.name_any()),
            (
                "POD_NAMESPACE".to_owned(),
                self.pod.namespace().unwrap_or_default(),
            ),
            ("VERSION".to_owned(), version.clone()),
        ];
        let mut mounts = environment::volumes(&self.kubelet, &self.pod, &self.spec).await?;
        if *talks_to_api {
            variables.extend(environment::api_server());
            let account =
                environment::service_account(&self.kubelet, &self.pod, &self.spec).await?;
            mounts.extend(account.map(|folder| (environment::SERVICE_ACCOUNT.to_owned(), folder)));
        }
        environment::add(
            &self.kubelet,
            &self.pod,
            &self.spec,
            self.address,
            &mut variables,
        )
        .await?;

        let words = |words: &Option<Vec<String>>| -> Vec<String> {
            words
                .iter()
                .flatten()
                .map(|word| environment::expand(word, &variables))
                .collect()
        };
        let own = words(&self.spec.args);
        let own_command = words(&self.spec.command);
        let (program, first): (OsString, Vec<OsString>) = match own_command.split_first() {
            Some((program, rest)) => (program.into(), rest.iter().map(Into::into).collect()),
            None => (path.into(), arguments.clone()),
        };
        let mut command = if mounts.is_empty() {
            Command::new(program)
        } else {
            let beneath = self.kubelet.pod_folder(&self.pod).join("beneath");
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--", "sh", "-ec", MOUNT])
                .arg(beneath.join(&self.spec.name));
            for (path, folder) in &mounts {
                command.arg(path).arg(folder);
            }
            command.arg("--").arg(program);
            command
        };
        command.args(first);
        let log = self.kubelet.state.join(format!(
            "logs/pods/{}_{}_{}.log",
            self.pod.namespace().unwrap_or_default(),
            self.pod.name_any(),
            self.spec.name
        ));
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .args(own)
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the program of image {:?}", self.spec.image))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .context("the program ended while it was started")?;
        Ok(Running { child, group })
    }

    /// What preStop says, SIGTERM, and SIGKILL when the grace is used up.
    async fn stop(&self, mut running: Running, stop: Stop) {
        let ending = async {
            tokio::select! {
                () = self.before_stop() => {}
                _ = running.child.wait() => return,
            }
            running.signal(Signal::TERM);
            let _ = running.child.wait().await;
        };
        if tokio::time::timeout_at(stop.deadline, ending)
            .await
            .is_err()
        {
            running.signal(Signal::KILL);
            let _ = running.child.wait().await;
        }
    }

    /// `preStop.sleep`, or `preStop.exec` of `sleep N`; other hooks have no container to run in.
    async fn before_stop(&self) {
        let Some(hook) = self
            .spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
        else {
            return;
        };
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(
                u64::try_from(sleep.seconds).unwrap_or(0),
            ))
            .await;
        }
        if let Some(command) = hook.exec.as_ref().and_then(|exec| exec.command.as_ref())
            && let Some((program, rest)) = command.split_first()
        {
            let _ = Command::new(program)
                .args(rest)
                .kill_on_drop(true)
                .stdin(Stdio::null())
                .status()
                .await;
        }
    }

    /// Probes the readiness of a container that was told to end, for ever; tells when it is over.
    async fn probe_ending(&self, tell: impl Fn(bool)) {
        let Some(probe) = &self.spec.readiness_probe else {
            return std::future::pending().await;
        };
        let allowed = probe.failure_threshold.unwrap_or(3).max(1);
        let period = Duration::from_secs(
            probe
                .period_seconds
                .unwrap_or(10)
                .max(1)
                .unsigned_abs()
                .into(),
        );
        let timeout = Duration::from_secs(
            probe
                .timeout_seconds
                .unwrap_or(1)
                .max(1)
                .unsigned_abs()
                .into(),
        );
        let mut failures = 0;
        loop {
            let answered = tokio::time::timeout(timeout, self.ask(probe))
                .await
                .unwrap_or(false);
            failures = if answered { 0 } else { failures + 1 };
            if failures == allowed {
                tell(false);
            }
            // The first answers after SIGTERM are the ones that matter; a kubelet's own timing is anywhere within the period.
            tokio::time::sleep(period.min(EAGER)).await;
        }
    }

    /// Probes readiness for ever and tells each change.
    async fn probe(&self, tell: impl Fn(bool)) {
        let Some(probe) = &self.spec.readiness_probe else {
            return std::future::pending().await;
        };
        let number = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let period = Duration::from_secs(number(probe.period_seconds, 10).into());
        let timeout = Duration::from_secs(number(probe.timeout_seconds, 1).into());
        let failures_allowed = number(probe.failure_threshold, 3);
        let successes_needed = number(probe.success_threshold, 1);
        tokio::time::sleep(Duration::from_secs(
            number(probe.initial_delay_seconds, 0).into(),
        ))
        .await;
        let (mut ready, mut failures, mut successes) = (false, 0, 0);
        loop {
            if tokio::time::timeout(timeout, self.ask(probe))
                .await
                .unwrap_or(false)
            {
                (failures, successes) = (0, successes + 1);
                if !ready && successes >= successes_needed {
                    ready = true;
                    tell(true);
                }
            } else {
                (failures, successes) = (failures + 1, 0);
                if ready && failures >= failures_allowed {
                    ready = false;
                    tell(false);
                }
            }
            let eager = !ready && failures < 100 && successes == 0;
            tokio::time::sleep(if eager { period.min(EAGER) } else { period }).await;
        }
    }

    async fn ask(&self, probe: &Probe) -> bool {
        if let Some(get) = &probe.http_get {
            let Some(port) = self.port(&get.port) else {
                return false;
            };
            let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
            let url = format!(
                "{scheme}://{}:{port}{}",
                self.address,
                get.path.as_deref().unwrap_or("/")
            );
            let answer = self.kubelet.http.get(url).send().await;
            return answer.is_ok_and(|answer| (200..400).contains(&answer.status().as_u16()));
        }
        if let Some(socket) = &probe.tcp_socket {
            let Some(port) = self.port(&socket.port) else {
                return false;
            };
            return tokio::net::TcpStream::connect((self.address, port))
                .await
                .is_ok();
        }
        // exec and grpc probes have nothing to ask here.
        true
    }

    fn port(&self, port: &IntOrString) -> Option<u16> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => {
                let ports = self.spec.ports.iter().flatten();
                ports
                    .into_iter()
                    .find(|port| port.name.as_ref() == Some(name))
                    .and_then(|port| u16::try_from(port.container_port).ok())
            }
        }
    }
}

/// Neither probing nor refreshing ever returns; if one did, the container would count as ended abnormally.
fn unreachable_probe() -> std::io::Result<std::process::ExitStatus> {
    Err(std::io::Error::other("what never ends stopped"))
}

/// Waits for the order to stop; a pod that is gone altogether stops at once.
async fn ordered(stopped: &mut Stopped) -> Stop {
    let order = stopped
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|order| *order);
    order.unwrap_or(Stop {
        deadline: Instant::now(),
    })
}

/// Waits; false when the order to stop came first.
async fn pause(time: Duration, stopped: &mut Stopped) -> bool {
    tokio::time::timeout(time, ordered(stopped)).await.is_err()
}
