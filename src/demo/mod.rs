//! See Serin before you have a cluster: the real controller against a small Kubernetes API server in this process, and around it a world in
//! real time. Everything listens on loopback alone, on ports that are free, and ends with the process.
//!
//! ```text
//!   controller ──TLS, token──▶ apiserver ──▶ cluster (the simulation's store) ◀── world: pods, endpoints, routes, garbage
//!       │                          ▲                     │                               │ starts
//!       │                    serin get, kubectl          ▼                               ▼
//!       │                                traffic ──▶ gateway ──────────HTTP──────▶ app, one for each pod
//!       └──queries──▶ measure ◀───────────────────────────scrapes─────────────────────────┘
//!
//!   story ──▶ model ──▶ render ──▶ screen        shared with the demo on a real cluster
//! ```
//!
//! Room for one cluster and its users, not a library of parts: what is not needed to tell the story or to answer `serin` and `kubectl` is left
//! out, and the modules say what.

pub(crate) mod access;
mod apiserver;
pub mod app;
mod cluster;
mod gateway;
mod measure;
pub mod model;
pub mod render;
pub mod screen;
pub mod story;
mod traffic;
mod world;

pub use access::KubeconfigFile;
pub use model::{DemoModel, EventLine, Verdict, VerdictLine, VersionLine, Weights};
pub use render::{PlainLog, render};
pub use screen::Screen;
pub use traffic::Traffic;

use access::{CertificateError, Certificates};
use cluster::Cluster;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use world::{Instances, World};

/// The namespaces of the simulated cluster, the story's first.
const NAMESPACES: [&str; 4] = [story::NAMESPACE, "default", "gateway", "kube-system"];

/// Why the simulated cluster can't be brought up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("127.0.0.1:{0} can't be listened on: {1}")]
    Listen(u16, #[source] std::io::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the kubeconfig can't be written: {0}")]
    Kubeconfig(#[source] std::io::Error),
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// The simulated cluster, without a controller. It ends when this is dropped.
pub struct Stage {
    kubeconfig: KubeconfigFile,
    api: SocketAddr,
    gateway: SocketAddr,
    metrics: SocketAddr,
    stop: CancellationToken,
}

impl Stage {
    /// Brings it up; the API server takes `port`, or a free one for 0. Must be called inside of a tokio runtime, after a provider of
    /// cryptography was installed.
    ///
    /// # Errors
    /// When a port can't be had or the kubeconfig can't be written.
    pub async fn start(port: u16) -> Result<Self, StageError> {
        let stop = CancellationToken::new();
        let cluster = Arc::new(Cluster::default());
        let instances = Arc::new(Instances::default());
        world::furnish(&cluster, &NAMESPACES, story::SIMULATED_GATEWAY);

        let certificates = Certificates::make()?;
        let listener = certificates
            .listen(port)
            .await
            .map_err(|error| StageError::Listen(port, error))?;
        let api = listener.address();
        let token = access::secret();
        let kubeconfig =
            KubeconfigFile::write(api, &certificates.authority, &token, story::NAMESPACE)
                .map_err(StageError::Kubeconfig)?;
        let router = apiserver::router(Arc::clone(&cluster), token);
        spawn(&stop, async move { axum::serve(listener, router).await });

        let gateway = gateway::router(Arc::clone(&cluster), Arc::clone(&instances))?;
        let (listener, gateway_address) = loopback().await?;
        spawn(&stop, async move { axum::serve(listener, gateway).await });

        let samples = measure::Samples::new(Arc::clone(&instances));
        let scraper = reqwest::Client::builder()
            .no_proxy()
            .timeout(measure::SCRAPE_PERIOD * 2)
            .build()?;
        let metrics = measure::router(Arc::clone(&samples));
        let (listener, metrics_address) = loopback().await?;
        spawn(&stop, async move { axum::serve(listener, metrics).await });
        spawn(&stop, samples.scrape(scraper));

        let world = World::new(cluster, instances, stop.clone());
        tokio::spawn(world.run());
        Ok(Self {
            kubeconfig,
            api,
            gateway: gateway_address,
            metrics: metrics_address,
            stop,
        })
    }

    /// The kubeconfig by which clients find the API server and are let in.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.kubeconfig.path()
    }

    /// Where the API server is.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", self.api)
    }

    /// Where requests of clients go.
    #[must_use]
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// Where the controller asks for metrics.
    #[must_use]
    pub fn metrics_url(&self) -> String {
        format!("http://{}", self.metrics)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A listener on a free port.
async fn loopback() -> Result<(TcpListener, SocketAddr), StageError> {
    let failed = |error| StageError::Listen(0, error);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Runs something until the stage ends.
fn spawn<T>(stop: &CancellationToken, work: impl Future<Output = T> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! { () = stop.cancelled() => {}, _ = work => {} }
    });
}
