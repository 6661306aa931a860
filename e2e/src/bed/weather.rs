//! Bad weather between one controller and the API server: a proxy on loopback that passes requests on with Serin's own certificate, and
//! that can refuse, delay, break off or swallow them, and the answers that are on their way.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a forgetful API server remembers.
const MEMORY: Duration = Duration::from_secs(3);
/// What it says then, within the watch.
const GONE: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Expired","message":"made by the bed","code":410}}"#,
    "\n"
);

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sky {
    /// Nothing.
    Clear,
    /// Nothing arrives in either direction, and nobody is told: a cable that was pulled.
    Silent,
    /// Every request, and every watch that is open, is broken off.
    Broken,
    /// Every third request is answered with 429 and `Retry-After: 1`.
    Crowded,
    /// Every watch is told after three seconds that its history is gone (410), and has to list again.
    Forgetful,
    /// Every answer takes this long.
    Slow(Duration),
}

struct Inner {
    client: kube::Client,
    sky: watch::Receiver<Sky>,
    /// How often all watches fell silent.
    hushes: watch::Receiver<u32>,
    requests: std::sync::atomic::AtomicU64,
}

/// The proxy; ends with this value.
pub struct Weather {
    address: SocketAddr,
    sky: watch::Sender<Sky>,
    hushes: watch::Sender<u32>,
    serving: JoinHandle<()>,
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Weather {
    /// Clear at first. `client` says who the requests come from.
    pub async fn start(client: kube::Client) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sky, receiver) = watch::channel(Sky::Clear);
        let (hushes, silence) = watch::channel(0);
        let inner = Arc::new(Inner {
            client,
            sky: receiver,
            hushes: silence,
            requests: std::sync::atomic::AtomicU64::new(0),
        });
        let router = Router::new().fallback(pass).with_state(inner);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the proxy before the API server ended: {error}");
            }
        });
        Ok(Self {
            address,
            sky,
            hushes,
            serving,
        })
    }

    /// For `--master`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, sky: Sky) {
        self.sky.send_replace(sky);
    }

    /// Every watch that is open now never says a word any more, and stays open; all else goes on. So it is when something on the way forgets
    /// a connection.
    pub fn hush_watches(&self) {
        self.hushes.send_modify(|times| *times += 1);
    }
}

/// Waits until the sky is none of those that let nothing through; an error where the connection is to be broken.
async fn passable(sky: &mut watch::Receiver<Sky>) -> Result<()> {
    loop {
        match *sky.borrow_and_update() {
            Sky::Silent => {}
            Sky::Broken => anyhow::bail!("the connection is broken"),
            _ => return Ok(()),
        }
        sky.changed().await.context("the proxy ends")?;
    }
}

async fn pass(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, StatusCode> {
    let mut sky = inner.sky.clone();
    passable(&mut sky)
        .await
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    let number = inner
        .requests
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let is_watch = uri
        .query()
        .is_some_and(|query| query.contains("watch=true") || query.contains("watch=1"));
    let now = *sky.borrow();
    match now {
        Sky::Crowded if number % 3 == 0 => return too_many(),
        Sky::Slow(delay) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in &headers {
        if ![header::HOST, header::CONNECTION, header::TRANSFER_ENCODING].contains(name) {
            request = request.header(name, value);
        }
    }
    let bytes = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    let request = request
        .body(kube::client::Body::from(bytes.to_vec()))
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    let answer = inner
        .client
        .send(request)
        .await
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    passable(&mut sky)
        .await
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (parts, body) = answer.into_parts();
    let mut hushes = inner.hushes.clone();
    hushes.mark_unchanged();
    let chunks = Box::pin(Body::new(body).into_data_stream());
    let stream = futures::stream::unfold(Some((chunks, sky, hushes)), move |state| async move {
        let (mut chunks, mut sky, mut hushes) = state?;
        loop {
            let now = *sky.borrow_and_update();
            let patience = if now == Sky::Forgetful && is_watch {
                MEMORY
            } else {
                Duration::MAX
            };
            tokio::select! {
                biased;
                Ok(()) = hushes.changed(), if is_watch => return std::future::pending().await,
                Ok(()) = sky.changed() => {
                    if *sky.borrow() == Sky::Broken {
                        return Some((Err(anyhow::anyhow!("broken off")), None));
                    }
                }
                chunk = chunks.next(), if now != Sky::Silent => {
                    let chunk = chunk?.map_err(anyhow::Error::from);
                    return Some((chunk, Some((chunks, sky, hushes))));
                }
                () = tokio::time::sleep(patience) => return Some((Ok(GONE.into()), None)),
            }
        }
    });
    let mut response = Response::builder().status(parts.status);
    for (name, value) in &parts.headers {
        if ![
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ]
        .contains(name)
        {
            response = response.header(name, value);
        }
    }
    response
        .body(Body::from_stream(stream))
        .map_err(|_| StatusCode::BAD_GATEWAY)
}

fn too_many() -> Result<Response<Body>, StatusCode> {
    let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","message":"made by the bed","code":429}"#;
    Response::builder()
        .status(StatusCode::TOO_MANY_REQUESTS)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::RETRY_AFTER, "1")
        .body(Body::from(body))
        .map_err(|_| StatusCode::BAD_GATEWAY)
}
