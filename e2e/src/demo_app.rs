//! The program behind the demo pods: [`serin::demo::app`] as a process that starts late, dies or shuts down exactly as its environment asks.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serin::demo::app::{self, App, Behaviour, parse_rate};
pub use serin::demo::app::{GRPC, GRPC_EMPTY, GRPC_STATUS, VERSION_HEADER};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How the demo app behaves. Every setting comes from the environment, as it would in a pod template.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub address: String,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// What the `x-version` header says
    #[arg(long, env = "VERSION", default_value = "0.0.0")]
    pub version: String,
    /// What the `x-pod` header says
    #[arg(long, env = "POD_NAME", default_value = "local")]
    pub pod: String,
    /// Share of requests answered with 500: a fraction (`0.05`) or percent (`5%`, `5`)
    #[arg(long, env = "ERROR_RATE", default_value = "0", value_parser = parse_rate)]
    pub error_rate: f64,
    /// Added to every answer, in milliseconds
    #[arg(long, env = "DELAY_MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// Time before the port opens, in milliseconds
    #[arg(long, env = "START_DELAY_MS", default_value_t = 0)]
    pub start_delay_ms: u64,
    /// `1`: `/readyz` answers 503 for ever
    #[arg(long, env = "NEVER_READY", default_value = "", value_parser = parse_flag)]
    pub never_ready: bool,
    /// Exits with code 1 after so many milliseconds
    #[arg(long, env = "CRASH_AFTER_MS")]
    pub crash_after_ms: Option<u64>,
    /// After SIGTERM: time in milliseconds that requests are still served, while gateways learn that the pod goes
    #[arg(long, env = "SHUTDOWN_DELAY_MS", default_value_t = 2000)]
    pub shutdown_delay_ms: u64,
    /// `1`: exits at once on SIGTERM, with requests open
    #[arg(long, env = "DIE_AT_ONCE", default_value = "", value_parser = parse_flag)]
    pub die_at_once: bool,
}

fn parse_flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        other => Err(format!("expected 1 or 0, found {other:?}")),
    }
}

/// Serves until `leave` changes to true, then goes on for the shutdown delay, then lets open requests end.
async fn serve(
    arguments: &Arguments,
    listener: TcpListener,
    mut leave: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let app = Arc::new(App::new(&Behaviour {
        version: arguments.version.clone(),
        pod: arguments.pod.clone(),
        error_rate: arguments.error_rate,
        delay: Duration::from_millis(arguments.delay_ms),
        never_ready: arguments.never_ready,
    })?);
    let asked = async move {
        // A dropped sender means that nobody can ask any more: then serve on for ever.
        if leave.wait_for(|&leave| leave).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let delay = Duration::from_millis(arguments.shutdown_delay_ms);
    app::serve(app, listener, asked, delay)
        .await
        .context("serving")
}

/// Runs the demo app until SIGTERM (exit 0) or until it crashes as asked (exit 1).
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (leave, leave_asked) = watch::channel(false);
    let asked = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        if arguments.die_at_once {
            std::process::exit(0);
        }
        leave.send(true).ok();
        std::future::pending::<anyhow::Result<()>>().await
    };
    let crash = async {
        match arguments.crash_after_ms {
            Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
            None => std::future::pending().await,
        }
        bail!(
            "crashing after {} ms, as CRASH_AFTER_MS asks",
            arguments.crash_after_ms.unwrap_or_default()
        )
    };
    let life = async {
        tokio::time::sleep(Duration::from_millis(arguments.start_delay_ms)).await;
        let address = format!("{}:{}", arguments.address, arguments.port);
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("listening on {address} ($POD_IP:$PORT)"))?;
        serve(arguments, listener, leave_asked).await
    };
    tokio::select! { ended = life => ended, crashed = crash => crashed, never = asked => never }
}

/// Starts a demo app on a free loopback port, for tests; it ends with the returned sender's `true`.
#[cfg(test)]
pub(crate) async fn start_for_test(
    set: impl FnOnce(&mut Arguments),
) -> (
    std::net::SocketAddr,
    watch::Sender<bool>,
    tokio::task::JoinHandle<anyhow::Result<()>>,
) {
    let mut arguments = Arguments {
        address: "127.0.0.1".into(),
        port: 0,
        version: "1.0.0".into(),
        pod: "pod-a".into(),
        error_rate: 0.0,
        delay_ms: 0,
        start_delay_ms: 0,
        never_ready: false,
        crash_after_ms: None,
        shutdown_delay_ms: 0,
        die_at_once: false,
    };
    set(&mut arguments);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (leave, asked) = watch::channel(false);
    let task = tokio::spawn(async move { serve(&arguments, listener, asked).await });
    (address, leave, task)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    async fn get(url: &str) -> reqwest::Response {
        crate::load::tests::plain_client()
            .get(url)
            .send()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn answers_carry_version_and_pod_and_are_measured_but_probes_are_not() {
        let (address, _leave, _task) = start_for_test(|a| a.error_rate = 0.5).await;
        let url = format!("http://{address}");
        for status in [200, 500, 200, 500] {
            let response = get(&format!("{url}/shop")).await;
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[VERSION_HEADER], "1.0.0");
            assert_eq!(response.text().await.unwrap(), "version 1.0.0 pod pod-a\n");
        }
        assert_eq!(get(&format!("{url}/readyz")).await.status(), 200);
        assert_eq!(get(&format!("{url}/healthz")).await.status(), 200);
        let metrics = get(&format!("{url}/metrics")).await.text().await.unwrap();
        for line in [
            r#"http_request_duration_seconds_count{method="GET",path="/shop",status="200"} 2"#,
            r#"http_request_duration_seconds_count{method="GET",path="/shop",status="500"} 2"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
        assert!(
            !metrics.contains("healthz")
                && !metrics.contains("readyz")
                && !metrics.contains(r#"path="/metrics""#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn the_headers_page_shows_what_arrived() {
        let (address, _leave, _task) = start_for_test(|_| ()).await;
        let client = crate::load::tests::plain_client();
        let response = client
            .get(format!("http://{address}/headers"))
            .header("x-added", "yes")
            .send()
            .await
            .unwrap();
        assert_eq!(
            response.json::<BTreeMap<String, String>>().await.unwrap()["x-added"],
            "yes"
        );
    }

    #[tokio::test]
    async fn given_never_ready_when_probed_then_503_while_traffic_is_still_answered() {
        let (address, _leave, _task) = start_for_test(|a| a.never_ready = true).await;
        assert_eq!(get(&format!("http://{address}/readyz")).await.status(), 503);
        assert_eq!(get(&format!("http://{address}/")).await.status(), 200);
    }

    #[tokio::test]
    async fn when_asked_to_leave_then_readiness_falls_at_once_and_requests_are_served_to_the_end() {
        let (address, leave, task) = start_for_test(|a| {
            a.shutdown_delay_ms = 300;
            a.delay_ms = 400;
        })
        .await;
        let open = tokio::spawn(async move { get(&format!("http://{address}/")).await.status() });
        while get(&format!("http://{address}/readyz")).await.status() == 200 {
            leave.send(true).unwrap();
        }
        let late = get(&format!("http://{address}/")).await;
        assert_eq!(
            (
                late.status().as_u16(),
                late.headers()["connection"].to_str().unwrap()
            ),
            (200, "close")
        );
        assert_eq!(open.await.unwrap(), 200);
        task.await.unwrap().unwrap();
        assert!(
            tokio::net::TcpStream::connect(address).await.is_err(),
            "the port is closed"
        );
    }
}
