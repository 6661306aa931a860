//! `serin demo`: the simulated cluster, the real controller as `serin controller` starts it, the clients and the story on the screen, and on
//! a terminal the keys. Here are the composition, the terminal and the signals; the parts are in [`crate::demo`].

use super::controller::{self, ControllerArguments};
use super::credentials::Credentials;
use crate::controller::Options;
use crate::demo::story::{self, HOST, RATE, Tempo, Wish};
use crate::demo::{Screen, Stage, Traffic};
use anyhow::{Context, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Arguments of `serin demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Lines with a time instead of a screen that is redrawn. So it is in a pipe anyhow.
    #[arg(long)]
    plain: bool,
    /// Go on after the two releases, until Ctrl-C. On a terminal it goes on anyhow, until q.
    #[arg(long)]
    keep: bool,
    /// Port of the simulated cluster's API server on 127.0.0.1. Default: a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// File for the controller's log. Default: it is not kept.
    #[arg(long, value_name = "FILE")]
    log: Option<std::path::PathBuf>,
}

/// What each key does.
const KEYS: [(u8, Wish); 5] = [
    (b'r', Wish::Release),
    (b'b', Wish::Break),
    (b'p', Wish::Promote),
    (b'a', Wish::Abort),
    (b'q', Wish::Quit),
];
const KEY_LINE: &str = "r release   b release a broken one   p promote   a abort   q quit";

/// Runs the demo. The exit code is 0 where the good release was promoted, the broken one taken back and no request was lost.
pub fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    if let Some(path) = &arguments.log {
        let file =
            std::fs::File::create(path).with_context(|| format!("--log {}", path.display()))?;
        tracing_subscriber::fmt()
            .with_writer(std::sync::Mutex::new(file))
            .with_ansi(false)
            .with_env_filter("warn,serin=info")
            .init();
    }
    controller::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("serin-demo")
        .build()
        .context("the runtime can't be started")?;
    let result = runtime.block_on(play(arguments));
    // Watches and open connections are not waited for.
    runtime.shutdown_background();
    result
}

async fn play(arguments: &DemoArguments) -> anyhow::Result<()> {
    let stage = Stage::start(arguments.port).await?;
    let kubeconfig = stage.kubeconfig().display().to_string();
    println!(
        "This cluster is simulated; controller and HTTP traffic are real. KUBECONFIG={kubeconfig}"
    );
    println!(
        "It listens on {} alone and ends with this program. Look into it from another terminal:",
        stage.api_url()
    );
    println!(
        "  serin get --kubeconfig {kubeconfig}     kubectl --kubeconfig {kubeconfig} get canaries,deployments,pods"
    );
    println!("  curl -H 'Host: {HOST}' {}/", stage.gateway_url());

    let screen = if arguments.plain {
        Screen::plain()
    } else {
        Screen::of_stdout()
    };
    let (sender, wishes) = mpsc::unbounded_channel();
    tokio::spawn(quit_on_signal(sender.clone()));
    let mut footer = Vec::new();
    let terminal = (screen.is_live() && std::io::stdin().is_terminal())
        .then(|| Keyboard::listen(sender))
        .transpose()?;
    if terminal.is_some() {
        footer = vec![
            KEY_LINE.to_owned(),
            format!("simulated cluster   KUBECONFIG={kubeconfig}"),
        ];
    }
    let mut screen = screen.with_footer(footer);

    let credentials = Credentials {
        kubeconfig,
        master: String::new(),
    };
    let client = kube::Client::try_from(credentials.load().await?)
        .context("no client for the simulated cluster")?;
    let mut traffic = Traffic::new(&format!("{}/", stage.gateway_url()), HOST, RATE)?;
    let by_hand = terminal.is_some();
    let keep = arguments.keep || by_hand;
    let stop = CancellationToken::new();
    let controller =
        crate::controller::run(credentials.follow().await?, options(&stage)?, stop.clone());
    let mut controller = std::pin::pin!(controller);
    let tale = tokio::select! {
        tale = story::tell(&client, &mut traffic, Tempo::simulated(keep), Some(wishes), &mut screen) => tale,
        ended = &mut controller => bail!("the controller ended early: {ended:?}"),
    };
    drop(screen);
    drop(terminal);
    stop.cancel();
    // It ends running passes and sends what waits; the story is over, so it gets no longer than a moment.
    let _ = tokio::time::timeout(Duration::from_secs(1), controller).await;
    let tale = tale?;
    if tale.lost_by_then > 0 {
        bail!("{}, which should not happen", tale.account.conclusion());
    }
    if !tale.told && !by_hand {
        bail!("ended before the two releases came to their end");
    }
    Ok(())
}

/// The controller's options as `serin controller` makes them of its flags.
fn options(stage: &Stage) -> anyhow::Result<Options> {
    ControllerArguments::for_options(&[
        "--mesh-provider=gatewayapi:v1",
        &format!("--metrics-server={}", stage.metrics_url()),
        "--bind-address=127.0.0.1",
        "--port=0",
    ])
}

/// SIGINT, SIGTERM and a terminal that goes end the demo in order.
async fn quit_on_signal(wishes: mpsc::UnboundedSender<Wish>) {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        if wishes.send(Wish::Quit).is_err() {
            return;
        }
    }
}

/// The terminal's keyboard, one key at a time and unseen; as before when this is dropped.
struct Keyboard {
    before: Termios,
}

impl Keyboard {
    fn listen(wishes: mpsc::UnboundedSender<Wish>) -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("the terminal's settings can't be read")?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent)
            .context("the terminal's settings can't be changed")?;
        // Reading can't be cancelled: the thread ends with the process.
        std::thread::spawn(move || {
            for byte in std::io::stdin().lock().bytes() {
                let Ok(byte) = byte else { return };
                let key = byte.to_ascii_lowercase();
                if let Some((_, wish)) = KEYS.iter().find(|(known, _)| *known == key)
                    && wishes.send(*wish).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { before })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_named_on_the_screen() {
        for (key, _) in KEYS {
            let named = KEY_LINE
                .split("   ")
                .any(|part| part.starts_with(&format!("{} ", char::from(key))));
            assert!(named, "{}", char::from(key));
        }
    }
}
