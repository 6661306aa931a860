//! Beds that stay up: `serin-e2e up`, `down`, `exec`, `kubectl`, `logs`.
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::bed::process::{exit_code, tail};
use crate::bed::{Bed, BedOptions, beside, namespace, pki, state_folder};
use crate::tools;

/// How long a bed may take to come up.
const PATIENCE: Duration = Duration::from_mins(5);

#[derive(clap::Args, Debug)]
pub struct Name {
    /// Which bed
    #[arg(long, default_value = "default", env = "SERIN_BED")]
    name: String,
}

#[derive(clap::Args, Debug)]
pub struct ExecArguments {
    #[command(flatten)]
    bed: Name,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

#[derive(clap::Args, Debug)]
pub struct KubectlArguments {
    #[command(flatten)]
    bed: Name,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(clap::Args, Debug)]
pub struct InsideArguments {
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

#[derive(clap::Args, Debug)]
pub struct LogsArguments {
    #[command(flatten)]
    bed: Name,
    /// A part (`kube-apiserver`, `traefik`, `serin-1`, …); lists the logs if none is named
    part: Option<String>,
}

fn unshare_file(state: &Path) -> PathBuf {
    state.join("unshare.pid")
}

fn ready_file(state: &Path) -> PathBuf {
    state.join("ready")
}

/// The number of the bed's `unshare`, if the bed is up.
fn standing(state: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(unshare_file(state))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    // The number may belong to another program by now.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    command.starts_with(b"unshare\0").then_some(pid)
}

/// Brings a bed up in the background and waits until it is.
pub async fn up(arguments: Name) -> Result<ExitCode> {
    tools::setup()?;
    let name = &arguments.name;
    let state = state_folder(name)?;
    if standing(&state).is_some() {
        println!("bed {name} is up already");
        print_how_to_enter(name, &state);
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&state)?;
    let _ = std::fs::remove_file(ready_file(&state));
    let log = state.join("bed.log");
    let started = Instant::now();
    let mut child = namespace::spawn_daemon(&["stand".into(), "--name".into(), name.into()], &log)?;
    let pid = child.id().context("unshare ended while it was started")?;
    std::fs::write(unshare_file(&state), pid.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    while !ready_file(&state).exists() {
        if let Some(status) = child.try_wait()? {
            bail!("bed {name} did not come up ({status}):\n{}", tail(&log));
        }
        if started.elapsed() > PATIENCE {
            namespace::kill(pid)?;
            bail!("bed {name} is not up after {PATIENCE:?}:\n{}", tail(&log));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            _ = interrupt.recv() => {
                namespace::kill(pid)?;
                bail!("interrupted");
            }
        }
    }
    println!(
        "bed {name} is up after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    print_how_to_enter(name, &state);
    Ok(ExitCode::SUCCESS)
}

fn print_how_to_enter(name: &str, state: &Path) {
    let option = if name == "default" {
        String::new()
    } else {
        format!(" --name {name}")
    };
    println!("KUBECONFIG={}", pki::kubeconfig(state, "admin").display());
    println!(
        "enter it:  serin-e2e exec{option} -- bash        (its network is its own: 127.0.0.1:6443 is only there)"
    );
    println!("ask it:    serin-e2e kubectl{option} get pods -A");
    println!("end it:    serin-e2e down{option}");
}

/// What runs inside: the bed, until it is told to end.
pub async fn stand(arguments: Name) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let bed = Bed::start(&BedOptions::new(&arguments.name), tools::setup()?).await?;
    std::fs::write(ready_file(bed.state()), "")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(Duration::from_secs(5)) => bed.expect_parts_running().await?,
        }
    }
}

/// Ends a bed and everything in it.
pub async fn down(arguments: Name) -> Result<ExitCode> {
    let state = state_folder(&arguments.name)?;
    let Some(pid) = standing(&state) else {
        println!("bed {} is not up", arguments.name);
        return Ok(ExitCode::SUCCESS);
    };
    let inner = namespace::inner_pid(pid);
    namespace::kill(pid)?;
    let started = Instant::now();
    while namespace::exists(pid) || inner.is_some_and(namespace::exists) {
        if started.elapsed() > Duration::from_secs(30) {
            bail!("process {pid} of bed {} does not end", arguments.name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(unshare_file(&state))?;
    println!("bed {} is down", arguments.name);
    Ok(ExitCode::SUCCESS)
}

/// Runs a command inside a bed, with its kubeconfig, kubectl, helm and serin at hand.
pub fn exec(arguments: &ExecArguments) -> Result<ExitCode> {
    let name = &arguments.bed.name;
    let state = state_folder(name)?;
    let unshare = standing(&state)
        .with_context(|| format!("bed {name} is not up: `serin-e2e up --name {name}`"))?;
    let inner = namespace::inner_pid(unshare).with_context(|| format!("bed {name} is ending"))?;
    let tools = tools::setup()?;
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = tools
        .kubectl
        .parent()
        .map(Path::to_path_buf)
        .into_iter()
        .collect();
    folders.extend(beside("serin")?.parent().map(Path::to_path_buf));
    folders.extend(std::env::split_paths(&own));
    let status = namespace::enter(inner)
        .args(&arguments.command)
        .env("PATH", std::env::join_paths(folders)?)
        .env("KUBECONFIG", pki::kubeconfig(&state, "admin"))
        .status()
        .context("cannot start nsenter (util-linux)")?;
    Ok(ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(1)))
}

/// Runs a command in a fresh namespace.
pub async fn inside(arguments: InsideArguments) -> Result<ExitCode> {
    let (program, rest) = arguments
        .command
        .split_first()
        .context("expected a command")?;
    let child = namespace::spawn_command_inside(program, rest)?;
    let status = namespace::wait_or_interrupt(child).await?;
    Ok(ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(1)))
}

pub fn kubectl(arguments: KubectlArguments) -> Result<ExitCode> {
    let mut command = vec![OsString::from("kubectl")];
    command.extend(arguments.arguments);
    exec(&ExecArguments {
        bed: arguments.bed,
        command,
    })
}

/// Prints a part's log.
pub fn logs(arguments: &LogsArguments) -> Result<ExitCode> {
    let folder = state_folder(&arguments.bed.name)?.join("logs");
    if let Some(part) = &arguments.part {
        let path = folder.join(format!("{part}.log"));
        let text = std::fs::read(&path)
            .with_context(|| format!("no log of {part} at {}", path.display()))?;
        print!("{}", String::from_utf8_lossy(&text));
    } else {
        for folder in [folder.clone(), folder.join("pods")] {
            for entry in std::fs::read_dir(&folder)
                .with_context(|| format!("no logs in {}", folder.display()))?
            {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    println!("{}", path.display());
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
