//! The load tester: what canaries' webhooks ask for so that a release has visitors, tests and gates.
//!
//! ```text
//! POST /            ─▶ access ─▶ tasks ─▶ commands ─▶ generator ─▶ the canary
//!                                  └────▶ elsewhere ─▶ a server that runs tests
//! POST /gate/…      ─▶ access ─▶ gates ─▶ a ConfigMap
//! ```
//!
//! Paths, payloads and answers are those of Flagger's load tester. Its own generator stands in for the programs that people name in
//! their canaries; a shell or another program runs only if whoever installs it says so.

mod access;
pub mod commands;
mod elsewhere;
mod gates;
pub mod generator;
pub mod metrics;
mod payload;
mod process;
mod runner;
mod server;
mod tasks;

pub use access::Access;
pub use gates::Gates;
pub use tasks::Limits;

use metrics::Telemetry;
use server::Office;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tasks::Tasks;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long running tasks, and answers that somebody waits for, are given at the end.
const LAST_MOMENTS: Duration = Duration::from_secs(8);

/// What the load tester is started with.
pub struct Options {
    /// Where it is asked.
    pub listen: SocketAddr,
    /// Who may ask.
    pub access: Access,
    /// Where gates are kept.
    pub gates: Gates,
    /// What tasks may do.
    pub limits: Limits,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadTesterError {
    /// The port is taken, or the address is not ours.
    #[error("can't listen on {0}: {1}; choose another -port or --bind-address")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Serves until `stop`, then stops what runs and waits for its end.
///
/// # Errors
/// If the port can't be had.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), LoadTesterError> {
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|error| LoadTesterError::Listen(options.listen, error))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %options.listen, "load tester starts");
    if options.limits.allow_shell {
        tracing::warn!(
            "--allow-shell: whoever may ask can run programs with the rights of this pod"
        );
    }
    let telemetry = Arc::new(Telemetry::new());
    let tasks = Tasks::new(options.limits, Arc::clone(&telemetry));
    let office = Arc::new(Office {
        access: options.access,
        gates: options.gates,
        tasks: Arc::clone(&tasks),
        telemetry,
    });
    let closed = stop.clone();
    let serving = async {
        let served = axum::serve(listener, server::router(office))
            .with_graceful_shutdown(closed.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server ended");
        }
    };
    let ending = async {
        stop.cancelled().await;
        tracing::info!("stopping: no new tasks, running ones end");
        tasks.finish(LAST_MOMENTS).await;
    };
    let all = async {
        tokio::join!(serving, ending);
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_MOMENTS + Duration::from_secs(1)).await;
        tracing::warn!("some connections did not end in time");
    };
    tokio::select! {
        () = all => {}
        () = late => {}
    }
    Ok(())
}
