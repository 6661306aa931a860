//! The bed's own small world: user, network, process and mount namespaces made by `unshare`, without root.
//!
//! `serin-e2e` starts itself again inside; the process inside is number 1 of its own process namespace, so the kernel
//! ends everything in it when that process ends. `unshare --kill-child` ends that process when `unshare` ends, and
//! `setpriv --pdeathsig` ends `unshare` when the outer process ends: no way of dying, not even SIGKILL, leaves anything behind.
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Set for processes inside a bed's namespace.
pub const INSIDE: &str = "SERIN_BED_INSIDE";
/// Pods get their addresses from this range.
pub const POD_RANGE: &str = "10.244.0.0/16";

/// Whether this process lives inside a bed's namespace.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn unshare() -> [&'static str; 9] {
    [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]
}

/// Starts this program again with other arguments inside a fresh namespace: see [`spawn_command_inside`].
pub fn spawn_inside(arguments: &[OsString]) -> Result<Child> {
    spawn_command_inside(std::env::current_exe()?.as_os_str(), arguments)
}

/// Starts a program inside a fresh namespace, tied to the life of the calling process: call it from the main thread,
/// which must live on. Output goes where this process' output goes.
pub fn spawn_command_inside(program: &OsStr, arguments: &[OsString]) -> Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(unshare())
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start setpriv and unshare (util-linux)")
}

/// Like [`spawn_inside`], but the bed stays up when the caller and its terminal are gone; output goes to a log file.
pub fn spawn_daemon(arguments: &[OsString], log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    Command::new("setsid")
        .args(unshare())
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start setsid and unshare (util-linux)")
}

/// Waits for a child from [`spawn_inside`]; Ctrl-C and SIGTERM end it at once, with all that runs inside.
pub async fn wait_or_interrupt(mut child: Child) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        status = child.wait() => Ok(status?),
        _ = interrupt.recv() => end(child).await,
        _ = terminate.recv() => end(child).await,
    }
}

async fn end(mut child: Child) -> Result<ExitStatus> {
    child.start_kill()?;
    Ok(child.wait().await?)
}

/// Brings up the network of the namespace that this process is alone in.
pub fn prepare_network() -> Result<()> {
    ensure!(
        is_inside(),
        "a bed starts inside its own namespace: use `serin-e2e up` or `serin-e2e run`"
    );
    for arguments in [
        "link set lo up",
        &format!("route add local {POD_RANGE} dev lo"),
    ] {
        let output = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .output()
            .context("cannot start ip (iproute2)")?;
        ensure!(
            output.status.success(),
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The process number, seen from outside, of the first process inside the namespace that this `unshare` made.
#[must_use]
pub fn inner_pid(unshare: u32) -> Option<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The command that enters the namespace of a bed that is up.
#[must_use]
pub fn enter(inner: u32) -> std::process::Command {
    let mut folder = OsString::from("--wdns=");
    folder.push(std::env::current_dir().unwrap_or_else(|_| "/".into()));
    let mut command = std::process::Command::new("nsenter");
    command
        .arg("--target")
        .arg(inner.to_string())
        .args([
            "--user",
            "--preserve-credentials",
            "--net",
            "--pid",
            "--mount",
        ])
        .arg(folder)
        .arg("--")
        .env(INSIDE, "1");
    command
}

/// Whether a process of this number exists.
#[must_use]
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Ends a bed left up: SIGKILL to its `unshare`, which takes everything inside along.
pub fn kill(unshare: u32) -> Result<()> {
    let pid = i32::try_from(unshare)
        .ok()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{unshare} is no process number"))?;
    kill_process(pid, Signal::KILL).with_context(|| format!("cannot end process {unshare}"))
}
