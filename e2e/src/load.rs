//! Open-loop load with an account of every request: the judge of "no request lost". Requests are sent at their scheduled
//! times whatever became of the earlier ones, nothing is retried, and latency counts from the scheduled time, so a
//! stalled server shows up as what it is.
//!
//! Keep-alive. A client that writes on an idle connection just as the server closes it sees a reset that is nobody's
//! fault. Against the gateway this is kept out by freshness, not by retrying: an idle connection is taken again only if
//! the server has not closed it and it was used within [`FRESH`], far below the idle timeout of every gateway here (the
//! shortest is a minute). So whatever breaks after a request was handed to a connection counts as lost, always.
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{
    CONNECTION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, TE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::demo_app::{GRPC, GRPC_EMPTY, GRPC_STATUS, VERSION_HEADER};

/// How long an idle connection may wait for its next request.
pub const FRESH: Duration = Duration::from_secs(3);
/// How long a request may take, from its sending to the last byte of its answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A share of the users that sends extra headers: the B side of an A/B test.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderGroup {
    /// What the report calls these users.
    pub name: String,
    /// Share of all users, 0..=1.
    pub share: f64,
    /// Sent with each of their requests.
    pub headers: Vec<(String, String)>,
}

/// What to send.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Where to: `http[s]://address[:port]/path`.
    pub url: String,
    /// Whom to trust behind `https`, PEM.
    pub authority: Option<String>,
    /// Whether each request has a connection of its own, for what leads connections on and not requests.
    pub anew: bool,
    /// `Host` header; the URL's own authority if none.
    pub host: Option<String>,
    /// Requests per second.
    pub rate: f64,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Whether each request is a call of gRPC without content, over HTTP/2 without TLS; the path of the URL is its method.
    pub grpc: bool,
    /// Virtual users; they take turns, request by request.
    pub users: usize,
    /// Whether each user keeps the cookies it is given.
    pub cookies: bool,
    /// Which users send extra headers; the rest forms the group `plain`.
    pub groups: Vec<HeaderGroup>,
    /// Per request.
    pub timeout: Duration,
}

impl LoadPlan {
    /// One user without cookies, the usual timeout.
    #[must_use]
    pub fn new(url: &str, host: Option<&str>, rate: f64) -> Self {
        Self {
            url: url.to_owned(),
            authority: None,
            anew: false,
            host: host.map(str::to_owned),
            rate,
            headers: Vec::new(),
            grpc: false,
            users: 1,
            cookies: false,
            groups: Vec::new(),
            timeout: TIMEOUT,
        }
    }
}

/// Why a request got no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportError {
    /// Nobody listened.
    Refused,
    /// The connection broke before the answer was complete.
    Reset,
    /// No complete answer within the timeout.
    Timeout,
    /// Anything else: an answer that is not HTTP, no route, no file descriptor left on our side.
    Other,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timed out",
            Self::Other => "other transport error",
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The app answered.
    Version {
        version: Arc<str>,
        status: u16,
    },
    /// Something in front of the app answered for it.
    Gateway {
        status: u16,
    },
    Broken(TransportError),
}

#[derive(Debug, Clone)]
struct Record {
    /// Since the load began.
    scheduled: Duration,
    /// From the scheduled time to the outcome.
    latency: Duration,
    user: usize,
    outcome: Outcome,
}

/// A point in a load's time, to report from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(Duration);

impl Mark {
    /// Where a load begins.
    pub const BEGINNING: Self = Self(Duration::ZERO);
}

#[derive(Default)]
struct Account {
    scheduled: Vec<Duration>,
    finished: Vec<Record>,
    versions: Vec<Arc<str>>,
}

impl Account {
    fn version(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.versions.iter().find(|known| known.as_ref() == name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.versions.push(Arc::clone(&new));
        new
    }
}

/// The sending end of a connection, which carries one request at a time.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(to: &Shared) -> Result<Self, TransportError> {
        let stream = TcpStream::connect(&to.address)
            .await
            .map_err(|e| transport_error(&e))?;
        stream.set_nodelay(true).map_err(|e| transport_error(&e))?;
        match &to.tls {
            None => Self::over(stream, to.grpc).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await;
                Self::over(stream.map_err(|e| transport_error(&e))?, to.grpc).await
            }
        }
    }

    async fn over<S>(stream: S, grpc: bool) -> Result<Self, TransportError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        // A connection's errors reach the request that is on it; an idle connection's end is no error.
        Ok(if grpc {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(|e| broken(&e))?;
            tokio::spawn(async move { connection.await.ok() });
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(|e| broken(&e))?;
            tokio::spawn(async move { connection.await.ok() });
            Self::Http1(sender)
        })
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    /// The connection again, when it can carry the next request.
    async fn reusable(mut self) -> Option<Self> {
        let ready = match &mut self {
            Self::Http1(sender) => sender.ready().await.is_ok() && !sender.is_closed(),
            Self::Http2(sender) => sender.ready().await.is_ok() && !sender.is_closed(),
        };
        ready.then_some(self)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

struct IdleConnection {
    connection: Connection,
    since: Instant,
}

struct Shared {
    address: String,
    /// How connections are encrypted, and for whom.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    anew: bool,
    uri: Uri,
    host: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    grpc: bool,
    /// For each user, the group's place in `group_headers`; the last place is `plain`.
    group_of: Vec<usize>,
    group_names: Vec<String>,
    group_headers: Vec<Vec<(HeaderName, HeaderValue)>>,
    jars: Option<Vec<Mutex<Jar>>>,
    timeout: Duration,
    idle: Mutex<Vec<IdleConnection>>,
    account: Mutex<Account>,
}

/// A poisoned lock only means that a task panicked; the account itself is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running load. Dropping it ends the sending.
pub struct Load {
    shared: Arc<Shared>,
    begun: Instant,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Load {
    /// Starts sending `rate` requests per second to `url` (with `host` in the `Host` header, if not empty) from one user.
    pub fn start(url: &str, host: &str, rate: f64) -> anyhow::Result<Self> {
        Self::start_plan(&LoadPlan::new(
            url,
            (!host.is_empty()).then_some(host),
            rate,
        ))
    }

    /// Starts sending as planned. Must be called inside a tokio runtime.
    pub fn start_plan(plan: &LoadPlan) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::new(plan)?);
        let load = Self {
            shared,
            begun: Instant::now(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        load.tasks.spawn(send_on_schedule(
            Arc::clone(&load.shared),
            load.begun,
            plan.rate,
            load.stop.clone(),
            load.tasks.clone(),
        ));
        Ok(load)
    }

    /// Now, as a point to report from.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.begun.elapsed())
    }

    /// A point `back` before now, or the beginning.
    #[must_use]
    pub fn mark_ago(&self, back: Duration) -> Mark {
        Mark(self.begun.elapsed().saturating_sub(back))
    }

    /// What became of the requests scheduled since `mark`. Some of the last ones may be still open (`in_flight`).
    #[must_use]
    pub fn report_since(&self, mark: Mark) -> Report {
        self.report_between(mark, self.mark())
    }

    /// What became of the requests scheduled from `from` to `until`.
    #[must_use]
    pub fn report_between(&self, from: Mark, until: Mark) -> Report {
        Report::of(&self.shared, from.0, until.0)
    }

    /// Waits until every request scheduled from `mark` to now has its outcome, and reports them.
    pub async fn settled_since(&self, mark: Mark) -> Report {
        self.settled_between(mark, self.mark()).await
    }

    /// The same for what was scheduled in a stretch.
    pub async fn settled_between(&self, from: Mark, until: Mark) -> Report {
        loop {
            let report = self.report_between(from, until);
            if report.in_flight == 0 {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops sending, waits for the open requests (at most their timeout), and reports on everything.
    pub async fn stop(self) -> Report {
        let until = self.mark();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.report_between(Mark::BEGINNING, until)
    }
}

impl Shared {
    fn new(plan: &LoadPlan) -> anyhow::Result<Self> {
        let uri: Uri = plan
            .url
            .parse()
            .with_context(|| format!("{:?} is not a URL", plan.url))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!(
                "expected a URL like http://127.0.0.1:8080/, found {:?}",
                plan.url
            ),
        };
        let authority = uri
            .authority()
            .with_context(|| format!("{:?} names no host", plan.url))?;
        let tls = encrypted
            .then(|| tls(plan.authority.as_deref(), authority.host()))
            .transpose()?;
        ensure!(
            plan.rate > 0.0 && plan.rate <= 1e5,
            "expected a rate above 0 and at most 100000 requests/s, found {}",
            plan.rate
        );
        ensure!(plan.users > 0, "expected at least one user");
        let shares: f64 = plan.groups.iter().map(|group| group.share).sum();
        ensure!(
            shares <= 1.0 + 1e-9,
            "the groups' shares sum to {shares}, which is more than all users"
        );
        let host = plan.host.clone().unwrap_or_else(|| authority.to_string());
        let mut group_names: Vec<String> =
            plan.groups.iter().map(|group| group.name.clone()).collect();
        group_names.push("plain".to_owned());
        let mut group_headers = plan
            .groups
            .iter()
            .map(|group| headers(&group.headers))
            .collect::<anyhow::Result<Vec<_>>>()?;
        group_headers.push(Vec::new());
        Ok(Self {
            address: format!(
                "{}:{}",
                authority.host(),
                authority
                    .port_u16()
                    .unwrap_or(if encrypted { 443 } else { 80 })
            ),
            tls,
            anew: plan.anew,
            uri: target(&uri, plan.grpc.then_some(host.as_str()))?,
            host: HeaderValue::from_str(&host)
                .with_context(|| format!("{host:?} cannot be a Host header"))?,
            headers: headers(&plan.headers)?,
            grpc: plan.grpc,
            group_of: groups_of_users(
                plan.users,
                &plan
                    .groups
                    .iter()
                    .map(|group| group.share)
                    .collect::<Vec<_>>(),
            ),
            group_names,
            group_headers,
            jars: plan
                .cookies
                .then(|| (0..plan.users).map(|_| Mutex::default()).collect()),
            timeout: plan.timeout,
            idle: Mutex::default(),
            account: Mutex::default(),
        })
    }

    fn request(&self, user: usize) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.uri.clone();
        if self.grpc {
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::new(Bytes::from_static(GRPC_EMPTY));
        }
        let sent = request.headers_mut();
        if self.grpc {
            sent.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
            sent.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            sent.insert(HOST, self.host.clone());
        }
        if self.anew {
            sent.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self
            .headers
            .iter()
            .chain(&self.group_headers[self.group_of[user]])
        {
            sent.append(name, value.clone());
        }
        if let Some(jars) = &self.jars {
            let cookies = lock(&jars[user]).header(Instant::now());
            if let (false, Ok(value)) = (cookies.is_empty(), HeaderValue::from_str(&cookies)) {
                sent.insert(COOKIE, value);
            }
        }
        request
    }

    /// An idle connection that is fresh and open, or none.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        // The most recently used lies on top: when that one is stale, all are.
        while let Some(found) = idle.pop() {
            if found.since.elapsed() > FRESH {
                idle.clear();
            } else if found.connection.is_ready() {
                return Some(found.connection);
            }
        }
        None
    }

    async fn exchange(&self, user: usize) -> Result<Response<()>, TransportError> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(self).await?,
        };
        let response = connection
            .send(self.request(user))
            .await
            .map_err(|e| broken(&e))?;
        let (mut head, mut body) = response.into_parts();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            if let Ok(more) = frame.map_err(|e| broken(&e))?.into_trailers() {
                trailers = more;
            }
        }
        if self.grpc && head.status == StatusCode::OK && !is_ok(&head.headers, &trailers) {
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        // The connection's own task needs a moment to be ready for the next request, or to see that the server closes it.
        if !self.anew
            && let Some(connection) = connection.reusable().await
        {
            lock(&self.idle).push(IdleConnection {
                connection,
                since: Instant::now(),
            });
        }
        Ok(Response::from_parts(head, ()))
    }

    async fn send(self: Arc<Self>, begun: Instant, scheduled: Duration, user: usize) {
        let exchanged = tokio::time::timeout(self.timeout, self.exchange(user))
            .await
            .unwrap_or(Err(TransportError::Timeout));
        let latency = begun.elapsed().saturating_sub(scheduled);
        if let (Some(jars), Ok(response)) = (&self.jars, &exchanged) {
            lock(&jars[user]).keep(response, Instant::now());
        }
        let mut account = lock(&self.account);
        let outcome = match exchanged {
            Err(error) => Outcome::Broken(error),
            Ok(response) => {
                let status = response.status().as_u16();
                match response
                    .headers()
                    .get(VERSION_HEADER)
                    .and_then(|version| version.to_str().ok())
                {
                    Some(version) => Outcome::Version {
                        version: account.version(version),
                        status,
                    },
                    None => Outcome::Gateway { status },
                }
            }
        };
        account.finished.push(Record {
            scheduled,
            latency,
            user,
            outcome,
        });
    }
}

/// Encrypted connections to `host`, whose certificate is to be by this authority.
fn tls(authority: Option<&str>, host: &str) -> anyhow::Result<(TlsConnector, ServerName<'static>)> {
    let authority = authority.context("https needs an authority to trust")?;
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// What a request's first line names: the path, and for a call of gRPC, which has no `Host` header, scheme and host as well.
fn target(url: &Uri, grpc_host: Option<&str>) -> anyhow::Result<Uri> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let Some(host) = grpc_host else {
        return Ok(path.parse()?);
    };
    let whole = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query(path);
    whole
        .build()
        .with_context(|| format!("{host:?} can't be called"))
}

/// Whether a call of gRPC went well: its status comes behind the answer, or in its head where there is no answer.
fn is_ok(head: &HeaderMap, trailers: &HeaderMap) -> bool {
    trailers
        .get(GRPC_STATUS)
        .or_else(|| head.get(GRPC_STATUS))
        .is_some_and(|status| status == "0")
}

/// Puts each user into a group so that every share is met within one user and the groups are spread over the turns.
/// The place after the last share stands for the rest.
fn groups_of_users(users: usize, shares: &[f64]) -> Vec<usize> {
    // The fractional parts of multiples of the golden ratio spread evenly, so ranking by them shuffles without chance.
    let mut order: Vec<(f64, usize)> = (0..users)
        .map(|user| ((user as f64 * 0.618_033_988_749_895).fract(), user))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut group_of = vec![shares.len(); users];
    for (rank, (_, user)) in order.into_iter().enumerate() {
        let place = (rank as f64 + 0.5) / users as f64;
        let mut below = 0.0;
        for (group, share) in shares.iter().enumerate() {
            below += share;
            if place < below {
                group_of[user] = group;
                break;
            }
        }
    }
    group_of
}

fn headers(pairs: &[(String, String)]) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    pairs
        .iter()
        .map(|(name, value)| {
            Ok((
                name.parse()
                    .with_context(|| format!("{name:?} is no header name"))?,
                value
                    .parse()
                    .with_context(|| format!("{value:?} is no header value"))?,
            ))
        })
        .collect()
}

/// The cookies that a user was given: name to value, and until when. Paths and domains are not told apart: there is one URL.
#[derive(Debug, Default)]
struct Jar(BTreeMap<String, (String, Option<Instant>)>);

impl Jar {
    /// Takes what an answer gives; an empty value, or a `Max-Age` of zero or less, takes a cookie away.
    fn keep(&mut self, response: &Response<()>, now: Instant) {
        for cookie in response
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            let mut parts = cookie.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
                continue;
            };
            let max_age: Option<i64> = parts.find_map(|attribute| {
                let (name, seconds) = attribute.split_once('=')?;
                name.eq_ignore_ascii_case("max-age")
                    .then(|| seconds.parse().ok())?
            });
            if value.is_empty() || max_age.is_some_and(|seconds| seconds <= 0) {
                self.0.remove(name);
            } else {
                let until =
                    max_age.map(|seconds| now + Duration::from_secs(seconds.unsigned_abs()));
                self.0.insert(name.to_owned(), (value.to_owned(), until));
            }
        }
    }

    /// What a request at this moment carries; empty without cookies.
    fn header(&mut self, now: Instant) -> String {
        self.0
            .retain(|_, (_, until)| until.is_none_or(|until| now < until));
        let cookies: Vec<String> = self
            .0
            .iter()
            .map(|(name, (value, _))| format!("{name}={value}"))
            .collect();
        cookies.join("; ")
    }
}

fn transport_error(error: &std::io::Error) -> TransportError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => TransportError::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::NotConnected => TransportError::Reset,
        ErrorKind::TimedOut => TransportError::Timeout,
        _ => TransportError::Other,
    }
}

/// Every way in which a connection ends under a request is a reset to us.
fn broken(error: &hyper::Error) -> TransportError {
    let io =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match io {
        Some(io) => transport_error(io),
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            TransportError::Reset
        }
        None => TransportError::Other,
    }
}

async fn send_on_schedule(
    shared: Arc<Shared>,
    begun: Instant,
    rate: f64,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let users = shared.group_of.len();
    for number in 0_u64.. {
        let scheduled = Duration::from_secs_f64(number as f64 / rate);
        let due = begun + scheduled;
        if due > Instant::now() {
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep_until(due) => () }
        } else if stop.is_cancelled() {
            return;
        }
        lock(&shared.account).scheduled.push(scheduled);
        let user = usize::try_from(number).unwrap_or(usize::MAX) % users;
        tasks.spawn(Arc::clone(&shared).send(begun, scheduled, user));
    }
}

/// Latencies in the order of their size, from the scheduled time to the end of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Latency {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        // Nearest rank: the smallest latency that at least so many percent of the requests did not exceed.
        let at = |percent: usize| {
            all.get((all.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
                .unwrap_or_default()
        };
        Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// What one version answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionReport {
    /// Answers of any status.
    pub requests: u64,
    /// Answers below 500.
    pub ok: u64,
    /// Answers of 500 and above, by status; a call of gRPC that went wrong counts as 500.
    pub failed: BTreeMap<u16, u64>,
    /// Part of all versions' answers, 0..=1.
    pub share: f64,
    pub latency: Latency,
}

impl VersionReport {
    /// Failed answers over all answers, 0..=1; 0 without answers.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            (self.requests - self.ok) as f64 / self.requests as f64
        }
    }
}

/// The requests scheduled within one second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Second {
    /// Since the load began.
    pub second: u64,
    /// Answers and failures by version.
    pub versions: BTreeMap<String, (u64, u64)>,
    pub lost: u64,
}

impl Second {
    /// The version's part of this second's answers, 0..=1; none without answers.
    #[must_use]
    pub fn share(&self, version: &str) -> Option<f64> {
        let all: u64 = self.versions.values().map(|(requests, _)| requests).sum();
        (all > 0).then(|| {
            self.versions
                .get(version)
                .map_or(0, |(requests, _)| *requests) as f64
                / all as f64
        })
    }
}

/// What became of the requests that were scheduled within a stretch of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The stretch, since the load began.
    pub from: Duration,
    pub until: Duration,
    /// Requests scheduled; each is in exactly one of `versions`, `gateway`, `transport` or `in_flight`.
    pub requests: u64,
    /// Not finished when the report was made.
    pub in_flight: u64,
    pub versions: BTreeMap<String, VersionReport>,
    /// Answers without a version, by status: the gateway's own, since the demo app signs each of its answers.
    pub gateway: BTreeMap<u16, u64>,
    /// Requests without a complete answer.
    pub transport: BTreeMap<TransportError, u64>,
    /// Of all finished requests.
    pub latency: Latency,
    /// Answers by header group, then by version.
    pub groups: BTreeMap<String, BTreeMap<String, u64>>,
    /// How often a user's next answer came from another version: (from, to) → times.
    pub switches: BTreeMap<(String, String), u64>,
    /// One entry for each second in which something was scheduled and finished.
    pub seconds: Vec<Second>,
}

impl Report {
    fn of(shared: &Shared, from: Duration, until: Duration) -> Self {
        let account = lock(&shared.account);
        let within = |at: Duration| at >= from && at < until;
        let first = account.scheduled.partition_point(|&at| at < from);
        let requests = account.scheduled[first..].partition_point(|&at| at < until);
        let mut records: Vec<Record> = account
            .finished
            .iter()
            .filter(|record| within(record.scheduled))
            .cloned()
            .collect();
        drop(account);
        records.sort_by_key(|record| record.scheduled);
        let mut report = Self::from_records(&records, |user| {
            shared.group_names[shared.group_of[user]].as_str()
        });
        report.from = from;
        report.until = until;
        report.requests = requests as u64;
        report.in_flight = (requests - records.len()) as u64;
        report
    }

    fn from_records<'a>(records: &[Record], group_of: impl Fn(usize) -> &'a str) -> Self {
        let mut report = Self {
            latency: Latency::of(records.iter().map(|record| record.latency).collect()),
            ..Self::default()
        };
        let mut latencies: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let mut last: BTreeMap<usize, &str> = BTreeMap::new();
        for record in records {
            if report
                .seconds
                .last()
                .is_none_or(|second| second.second != record.scheduled.as_secs())
            {
                report.seconds.push(Second {
                    second: record.scheduled.as_secs(),
                    ..Second::default()
                });
            }
            let second = report.seconds.len() - 1;
            match &record.outcome {
                Outcome::Version { version, status } => {
                    let of_second = report.seconds[second]
                        .versions
                        .entry(version.to_string())
                        .or_default();
                    let of_version = report.versions.entry(version.to_string()).or_default();
                    of_version.requests += 1;
                    of_second.0 += 1;
                    if *status < 500 {
                        of_version.ok += 1;
                    } else {
                        *of_version.failed.entry(*status).or_default() += 1;
                        of_second.1 += 1;
                    }
                    latencies.entry(version).or_default().push(record.latency);
                    *report
                        .groups
                        .entry(group_of(record.user).to_owned())
                        .or_default()
                        .entry(version.to_string())
                        .or_default() += 1;
                    if let Some(before) = last
                        .insert(record.user, version)
                        .filter(|before| *before != version.as_ref())
                    {
                        *report
                            .switches
                            .entry((before.to_owned(), version.to_string()))
                            .or_default() += 1;
                    }
                }
                Outcome::Gateway { status } => {
                    *report.gateway.entry(*status).or_default() += 1;
                    report.seconds[second].lost += 1;
                }
                Outcome::Broken(error) => {
                    *report.transport.entry(*error).or_default() += 1;
                    report.seconds[second].lost += 1;
                }
            }
        }
        let answers: u64 = report
            .versions
            .values()
            .map(|version| version.requests)
            .sum();
        for (name, version) in &mut report.versions {
            version.share = version.requests as f64 / answers as f64;
            version.latency = Latency::of(latencies.remove(name.as_str()).unwrap_or_default());
        }
        report
    }

    /// Requests that no version answered: refused, broken, timed out, or answered by the gateway itself. The gateway's
    /// 404 counts as its 503 does: a user saw no page.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.transport.values().chain(self.gateway.values()).sum()
    }

    /// Answers of any version.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.versions.values().map(|version| version.requests).sum()
    }

    /// Answers of 500 and above that the version gave.
    #[must_use]
    pub fn failed_of(&self, version: &str) -> u64 {
        self.versions
            .get(version)
            .map_or(0, |version| version.requests - version.ok)
    }

    /// The version's part of all versions' answers, 0..=1.
    #[must_use]
    pub fn share_of(&self, version: &str) -> f64 {
        self.versions
            .get(version)
            .map_or(0.0, |version| version.share)
    }

    /// Checks that the version's share is the expected one (0..=1), give or take `sigmas` standard deviations of a random
    /// split with as many requests, and one request for rounding. Returns the share.
    pub fn split_within(&self, version: &str, expected: f64, sigmas: f64) -> anyhow::Result<f64> {
        let answers = self.answered() as f64;
        let share = self.share_of(version);
        let allowed = sigmas * (expected * (1.0 - expected) / answers).sqrt() + 1.0 / answers;
        if answers > 0.0 && (share - expected).abs() <= allowed {
            return Ok(share);
        }
        bail!(
            "expected {version} to answer {:.1} % ± {:.1} of the requests, found {:.1} % of {answers}:\n{self}",
            expected * 100.0,
            allowed * 100.0,
            share * 100.0
        )
    }

    /// Checks that every request was answered by a version; otherwise says what happened and when.
    pub fn none_lost(&self) -> anyhow::Result<()> {
        if self.lost() == 0 {
            return Ok(());
        }
        let when: Vec<String> = self
            .seconds
            .iter()
            .filter(|second| second.lost > 0)
            .take(10)
            .map(|second| format!("{} s: {}", second.second, second.lost))
            .collect();
        bail!(
            "expected no request to be lost, found {} of {} (at second: lost; {}):\n{self}",
            self.lost(),
            self.requests,
            when.join(", ")
        )
    }
}

/// One line of a report's table: name, then requests, share, failed, p50, p90, p99, max.
fn table_line(name: &str, cells: [&str; 7]) -> String {
    let mut line = format!("{name:<22} {:>9}", cells[0]);
    for cell in &cells[1..] {
        // Writing to a string cannot fail.
        let _ = write!(line, " {cell:>8}");
    }
    line.truncate(line.trim_end().len());
    line
}

fn measured_line(name: &str, requests: u64, share: &str, failed: u64, latency: &Latency) -> String {
    let ms = |latency: Duration| format!("{:.1}", latency.as_secs_f64() * 1e3);
    let Latency { p50, p90, p99, max } = *latency;
    table_line(
        name,
        [
            &requests.to_string(),
            share,
            &failed.to_string(),
            &ms(p50),
            &ms(p90),
            &ms(p99),
            &ms(max),
        ],
    )
}

fn count_line(name: &str, requests: u64) -> String {
    table_line(name, [&requests.to_string(), "", "", "", "", "", ""])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = [
            "requests", "share %", "failed", "p50 ms", "p90 ms", "p99 ms", "max ms",
        ];
        writeln!(f, "{}", table_line("", titles))?;
        for (name, version) in &self.versions {
            let share = format!("{:.1}", version.share * 100.0);
            let failed = self.failed_of(name);
            writeln!(
                f,
                "{}",
                measured_line(name, version.requests, &share, failed, &version.latency)
            )?;
            for (status, count) in &version.failed {
                writeln!(f, "{}", count_line(&format!("  status {status}"), *count))?;
            }
        }
        for (status, count) in &self.gateway {
            writeln!(
                f,
                "{}",
                count_line(&format!("gateway's own {status}"), *count)
            )?;
        }
        for (error, count) in &self.transport {
            writeln!(f, "{}", count_line(&error.to_string(), *count))?;
        }
        if self.in_flight > 0 {
            writeln!(f, "{}", count_line("in flight", self.in_flight))?;
        }
        let failed = self.versions.keys().map(|name| self.failed_of(name)).sum();
        writeln!(
            f,
            "{}",
            measured_line("all", self.requests, "", failed, &self.latency)
        )?;
        let seconds = self.until.saturating_sub(self.from).as_secs_f64();
        let rate = if seconds > 0.0 {
            self.requests as f64 / seconds
        } else {
            0.0
        };
        let (lost, requests) = (self.lost(), self.requests);
        write!(
            f,
            "{lost} lost of {requests} in {seconds:.1} s ({rate:.0} requests/s)"
        )
    }
}

/// Sends load from the command line and prints the account; exits 1 if a request was lost.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Where to: http://address:port/path
    #[arg(long)]
    url: String,
    /// Host header, if not the URL's own
    #[arg(long)]
    host: Option<String>,
    /// Requests per second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long, like 30s or 2m
    #[arg(long, default_value = "30s")]
    duration: jiff::SignedDuration,
    /// Sent with every request, as `name: value`
    #[arg(long = "header", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Each request is a call of gRPC, whose method is the path of the URL
    #[arg(long)]
    grpc: bool,
    /// Virtual users that take turns
    #[arg(long, default_value_t = 1)]
    users: usize,
    /// Each user keeps its cookies
    #[arg(long)]
    cookies: bool,
    /// A share of the users sends a header, as `0.3/name: value`
    #[arg(long = "group", value_parser = parse_group)]
    groups: Vec<HeaderGroup>,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("expected `name: value`, found {text:?}"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_group(text: &str) -> Result<HeaderGroup, String> {
    let (share, header) = text
        .split_once('/')
        .ok_or_else(|| format!("expected `share/name: value`, found {text:?}"))?;
    let share = share
        .trim()
        .parse()
        .map_err(|_| format!("expected a share like 0.3, found {share:?}"))?;
    Ok(HeaderGroup {
        name: header.trim().to_owned(),
        share,
        headers: vec![parse_header(header)?],
    })
}

/// Runs the `load` subcommand.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let duration =
        Duration::try_from(arguments.duration).context("the duration must not be negative")?;
    let plan = LoadPlan {
        headers: arguments.headers,
        grpc: arguments.grpc,
        users: arguments.users,
        cookies: arguments.cookies,
        groups: arguments.groups,
        ..LoadPlan::new(&arguments.url, arguments.host.as_deref(), arguments.rate)
    };
    let load = Load::start_plan(&plan)?;
    tokio::select! { () = tokio::time::sleep(duration) => (), _ = tokio::signal::ctrl_c() => () }
    let report = load.stop().await;
    println!("{report}");
    ensure!(report.lost() == 0, "{} requests were lost", report.lost());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::demo_app::start_for_test;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// reqwest wants a TLS provider chosen even for plain HTTP.
    pub(crate) fn plain_client() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    }

    async fn until(load: &Load, requests: u64) {
        while load.report_since(Mark::BEGINNING).requests < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Answers every request on a connection with `answer`, byte for byte; an empty answer closes the connection.
    async fn raw_server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) && !answer.is_empty()
                    {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        url
    }

    /// Answers over TLS with the number of the connection as its version. Returns the URL and whom to trust.
    async fn encrypting_server() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private =
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private.unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}/",
            listener.local_addr().unwrap().port()
        );
        tokio::spawn(async move {
            for number in 0_u32.. {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nx-version: {number}\r\ncontent-length: 0\r\n\r\n"
                    );
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (url, certificate.pem())
    }

    #[tokio::test]
    async fn each_request_has_a_connection_of_its_own_where_that_is_asked() {
        let (url, authority) = encrypting_server().await;
        let plan = LoadPlan {
            authority: Some(authority),
            anew: true,
            ..LoadPlan::new(&url, None, 100.0)
        };
        let load = Load::start_plan(&plan).unwrap();
        until(&load, 30).await;
        let report = load.stop().await;
        report.none_lost().unwrap();
        assert_eq!(report.versions.len() as u64, report.requests);

        // Else one is taken again, sooner or later.
        let load = Load::start_plan(&LoadPlan {
            anew: false,
            ..plan
        })
        .unwrap();
        until(&load, 1).await;
        loop {
            let report = load.settled_since(Mark::BEGINNING).await;
            if (report.versions.len() as u64) < report.requests {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_authority_that_nobody_trusts_is_no_answer() {
        let ((url, _), (_, other)) = (encrypting_server().await, encrypting_server().await);
        let plan = LoadPlan {
            authority: Some(other),
            ..LoadPlan::new(&url, None, 100.0)
        };
        let load = Load::start_plan(&plan).unwrap();
        until(&load, 3).await;
        let report = load.stop().await;
        assert_eq!(report.lost(), report.requests);
        let plan = LoadPlan::new(&url, None, 100.0);
        let error = Load::start_plan(&plan).err().unwrap();
        assert!(error.to_string().contains("authority"), "{error}");
    }

    #[tokio::test]
    async fn given_an_app_that_fails_every_twentieth_request_then_the_account_is_exact() {
        let (address, _leave, _app) = start_for_test(|a| a.error_rate = 0.05).await;
        let load = Load::start(&format!("http://{address}/"), "app.test", 1000.0).unwrap();
        until(&load, 400).await;
        let report = load.stop().await;
        let version = &report.versions["1.0.0"];
        assert_eq!(version.requests, report.requests);
        assert_eq!(report.failed_of("1.0.0"), report.requests / 20);
        assert_eq!(
            version.failed,
            BTreeMap::from([(500, report.requests / 20)])
        );
        assert_eq!(
            (report.lost(), report.in_flight),
            (0, 0),
            "an error of the app is not a lost request"
        );
        assert!((version.share - 1.0).abs() < f64::EPSILON);
        assert_eq!(
            report
                .seconds
                .iter()
                .map(|s| s.versions["1.0.0"].0)
                .sum::<u64>(),
            report.requests
        );
        report.none_lost().unwrap();
    }

    #[tokio::test]
    async fn calls_of_grpc_are_judged_by_their_own_status() {
        let (address, _leave, _app) = start_for_test(|a| a.error_rate = 0.05).await;
        let url = format!("http://{address}/shop.v1.Orders/Place");
        let plan = LoadPlan {
            grpc: true,
            ..LoadPlan::new(&url, Some("app.test"), 200.0)
        };
        let load = Load::start_plan(&plan).unwrap();
        until(&load, 400).await;
        let report = load.stop().await;
        assert_eq!(report.versions["1.0.0"].requests, report.requests);
        assert_eq!(report.failed_of("1.0.0"), report.requests / 20);
        report.none_lost().unwrap();
        let page = plain_client().get(format!("http://{address}/metrics"));
        let page = page.send().await.unwrap().text().await.unwrap();
        let series = |status: u16| {
            format!(
                r#"http_request_duration_seconds_count{{method="POST",path="/shop.v1.Orders/Place",status="{status}"}}"#
            )
        };
        assert!(
            page.contains(&series(200)) && page.contains(&series(500)),
            "{page}"
        );
    }

    #[tokio::test]
    async fn given_nobody_listens_then_every_request_is_lost_as_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let load = Load::start(&format!("http://{address}/"), "", 500.0).unwrap();
        until(&load, 50).await;
        let report = load.stop().await;
        assert_eq!(
            report.transport,
            BTreeMap::from([(TransportError::Refused, report.requests)])
        );
        assert_eq!(report.lost(), report.requests);
        assert!(
            report
                .none_lost()
                .unwrap_err()
                .to_string()
                .contains("refused")
        );
    }

    #[tokio::test]
    async fn given_a_server_that_hangs_up_then_every_request_is_lost_as_reset() {
        let load = Load::start(&raw_server("").await, "", 500.0).unwrap();
        until(&load, 50).await;
        let report = load.stop().await;
        assert_eq!(
            report.transport,
            BTreeMap::from([(TransportError::Reset, report.requests)])
        );
    }

    #[tokio::test]
    async fn given_a_server_that_never_answers_then_the_rate_is_kept_and_every_request_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let plan = LoadPlan {
            timeout: Duration::from_secs(1),
            ..LoadPlan::new(&url, None, 100.0)
        };
        let begun = Instant::now();
        let load = Load::start_plan(&plan).unwrap();
        until(&load, 50).await;
        let sent_in = begun.elapsed();
        let open = load.report_since(Mark::BEGINNING);
        assert!(
            open.in_flight >= 40,
            "the requests went out while none was answered: {open}"
        );
        assert!(
            sent_in < Duration::from_millis(900),
            "{sent_in:?} for 50 requests at 100/s"
        );
        let report = load.stop().await;
        assert_eq!(
            report.transport,
            BTreeMap::from([(TransportError::Timeout, report.requests)])
        );
    }

    #[tokio::test]
    async fn an_answer_of_the_gateway_itself_is_lost() {
        let load = Load::start(
            &raw_server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await,
            "",
            500.0,
        )
        .unwrap();
        until(&load, 20).await;
        let report = load.stop().await;
        assert_eq!(report.gateway, BTreeMap::from([(503, report.requests)]));
        assert_eq!(report.lost(), report.requests);
    }

    #[tokio::test]
    async fn given_an_app_that_leaves_gracefully_then_connections_are_given_up_without_loss() {
        let (address, leave, _app) = start_for_test(|a| a.shutdown_delay_ms = 10_000).await;
        let load = Load::start(&format!("http://{address}/"), "", 500.0).unwrap();
        until(&load, 50).await;
        leave.send(true).unwrap();
        until(&load, 150).await;
        load.stop().await.none_lost().unwrap();
    }

    #[tokio::test]
    async fn users_keep_their_cookies() {
        let url = raw_server("HTTP/1.1 200 OK\r\nset-cookie: side=canary; Path=/\r\nx-version: 2\r\ncontent-length: 0\r\n\r\n").await;
        let plan = LoadPlan {
            users: 3,
            cookies: true,
            ..LoadPlan::new(&url, None, 500.0)
        };
        let load = Load::start_plan(&plan).unwrap();
        until(&load, 30).await;
        let shared = Arc::clone(&load.shared);
        load.stop().await;
        for user in 0..3 {
            assert_eq!(shared.request(user).headers()[COOKIE], "side=canary");
        }
    }

    #[test]
    fn a_cookie_lasts_until_it_is_taken_back_or_too_old() {
        let answer = |cookie: &str| {
            Response::builder()
                .header(SET_COOKIE, cookie)
                .body(())
                .unwrap()
        };
        let now = Instant::now();
        let mut jar = Jar::default();
        jar.keep(&answer("side=canary; Max-Age=3; Path=/"), now);
        assert_eq!(jar.header(now + Duration::from_secs(2)), "side=canary");
        assert_eq!(jar.header(now + Duration::from_secs(3)), "");
        for taken in ["side=x; Max-Age=0", "side=x; Max-Age=-1", "side="] {
            jar.keep(&answer("side=canary"), now);
            jar.keep(&answer(taken), now);
            assert_eq!(jar.header(now), "", "{taken}");
        }
    }

    #[test]
    fn header_groups_meet_their_shares() {
        let groups = groups_of_users(100, &[0.3, 0.05]);
        let of = |group| groups.iter().filter(|&&g| g == group).count();
        assert_eq!((of(0), of(1), of(2)), (30, 5, 65));
        let in_first_ten = groups[..10].iter().filter(|&&g| g == 0).count();
        assert!(
            (2..=4).contains(&in_first_ten),
            "the groups take turns, found {in_first_ten} of 3 among the first ten"
        );
    }

    fn record(ms: u64, user: usize, outcome: Outcome) -> Record {
        Record {
            scheduled: Duration::from_millis(ms),
            latency: Duration::from_millis(1 + ms % 100),
            user,
            outcome,
        }
    }

    fn answer(version: &str, status: u16) -> Outcome {
        Outcome::Version {
            version: version.into(),
            status,
        }
    }

    #[test]
    fn a_user_that_changes_sides_is_seen() {
        let records = [
            record(0, 0, answer("1", 200)),
            record(1, 1, answer("1", 200)),
            record(2, 0, answer("2", 200)),
            record(3, 1, answer("1", 200)),
            record(4, 0, answer("1", 200)),
        ];
        let report = Report::from_records(&records, |_| "plain");
        assert_eq!(
            report.switches,
            BTreeMap::from([(("1".into(), "2".into()), 1), (("2".into(), "1".into()), 1)])
        );
        assert_eq!(
            report.groups["plain"],
            BTreeMap::from([("1".into(), 4), ("2".into(), 1)])
        );
    }

    #[test]
    fn a_split_is_accepted_within_its_standard_deviations_only() {
        let records: Vec<Record> = (0..1000)
            .map(|n| {
                record(
                    n,
                    0,
                    answer(if n % 5 == 0 { "canary" } else { "primary" }, 200),
                )
            })
            .collect();
        let report = Report::from_records(&records, |_| "plain");
        assert!((report.split_within("canary", 0.20, 0.0).unwrap() - 0.2).abs() < 1e-9);
        assert!(report.split_within("canary", 0.23, 3.0).is_ok());
        let refusal = report
            .split_within("canary", 0.30, 4.0)
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("expected canary to answer 30.0 %")
                && refusal.contains("found 20.0 %"),
            "{refusal}"
        );
        assert!(
            Report::default().split_within("canary", 0.2, 4.0).is_err(),
            "no answers prove nothing"
        );
    }

    #[test]
    fn the_table_is_aligned() {
        let mut records: Vec<Record> = (0..100)
            .map(|n| {
                record(
                    n * 10,
                    0,
                    answer(
                        if n % 4 == 0 { "1.1.0" } else { "1.0.0" },
                        if n == 8 { 500 } else { 200 },
                    ),
                )
            })
            .collect();
        records.push(record(1000, 0, Outcome::Gateway { status: 503 }));
        records.push(record(1001, 0, Outcome::Broken(TransportError::Reset)));
        let mut report = Report::from_records(&records, |_| "plain");
        report.until = Duration::from_secs(2);
        report.requests = 102;
        let expected =
            "                        requests  share %   failed   p50 ms   p90 ms   p99 ms   max ms
1.0.0                         75     75.0        0     51.0     91.0     91.0     91.0
1.1.0                         25     25.0        1     41.0     81.0     81.0     81.0
  status 500                   1
gateway's own 503              1
reset                          1
all                          102                 1     41.0     81.0     91.0     91.0
2 lost of 102 in 2.0 s (51 requests/s)";
        assert_eq!(report.to_string(), expected);
    }
}
