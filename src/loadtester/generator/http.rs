//! HTTP/1.1 and HTTP/2: one connection for each worker and origin, kept between requests. Redirects are followed as `hey` follows them.

use super::connect::{Destinations, Stream, Tls, connect, of_hyper};
use super::{Answer, Code, Exchange, Failure};
use ::http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, HeaderValue, LOCATION};
use ::http::response::Parts;
use ::http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Url;
use std::collections::HashMap;
use std::sync::Arc;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2 where TLS agrees on it, else HTTP/1.1.
    Negotiated,
    /// HTTP/2 from the first byte, with TLS or without.
    Two,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "options are what they are")]
pub struct HttpPlan {
    /// Where to.
    pub url: Url,
    /// The method.
    pub method: Method,
    /// Sent with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The host to name, in place of the URL's.
    pub host: Option<HeaderValue>,
    /// Sent with each request.
    pub body: Bytes,
    /// The protocol.
    pub version: HttpVersion,
    /// Whether connections are kept.
    pub keep_alive: bool,
    /// How many redirects are followed.
    pub redirects: usize,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

impl HttpPlan {
    /// The URL without user, password and query.
    #[must_use]
    pub fn target(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        url.to_string()
    }

    fn tls(&self) -> Tls {
        Tls {
            verify: self.verify,
            server_name: None,
            protocols: match self.version {
                HttpVersion::One => &["http/1.1"],
                HttpVersion::Negotiated => &["h2", "http/1.1"],
                HttpVersion::Two => &["h2"],
            },
        }
    }
}

/// Scheme, host and port.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Option<Self> {
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        Some(Self {
            tls,
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }
}

/// An open connection.
enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(stream: Box<dyn Stream>, second: bool) -> Result<Self, Failure> {
        let stream = TokioIo::new(stream);
        if second {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(|error| of_hyper(&error))?;
            // Its errors reach the request that is on it; an idle connection's end is no error.
            tokio::spawn(async move { connection.await.ok() });
            return Ok(Self::Two(sender));
        }
        let (sender, connection) = http1::handshake(stream)
            .await
            .map_err(|error| of_hyper(&error))?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self::One(sender))
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<::http::Response<Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }

    async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }
}

/// A request that came to nothing.
struct Lost {
    failure: Failure,
    /// Whether the server can't have acted on it, so that it may be sent again.
    harmless: bool,
}

/// One of several redirected requests.
struct Hop {
    url: Url,
    method: Method,
    body: Bytes,
    /// Whether it goes where the user did not send it: secrets stay behind.
    elsewhere: bool,
}

/// One worker.
pub(super) struct Worker {
    plan: Arc<HttpPlan>,
    destinations: Arc<Destinations>,
    connections: HashMap<Origin, Connection>,
    /// How much of a body is kept, and that of the last answer.
    keeps: usize,
    body: Vec<u8>,
}

impl Worker {
    pub(super) fn new(plan: Arc<HttpPlan>, destinations: Arc<Destinations>) -> Self {
        Self {
            plan,
            destinations,
            connections: HashMap::new(),
            keeps: 0,
            body: Vec::new(),
        }
    }

    async fn send(&mut self, hop: &Hop) -> Result<(Parts, u64), Failure> {
        let origin = Origin::of(&hop.url).ok_or(Failure::Redirects)?;
        if let Some(connection) = self.connections.remove(&origin) {
            match self.on(connection, &origin, hop).await {
                // The server closed an idle connection just then: nobody's fault.
                Err(Lost { harmless: true, .. }) => {}
                Err(lost) => return Err(lost.failure),
                Ok(answer) => return Ok(answer),
            }
        }
        let tls = origin.tls.then(|| self.plan.tls());
        let (stream, agreed) =
            connect(&origin.host, origin.port, tls.as_ref(), &self.destinations).await?;
        let second = agreed || self.plan.version == HttpVersion::Two;
        let connection = Connection::open(stream, second).await?;
        self.on(connection, &origin, hop)
            .await
            .map_err(|lost| lost.failure)
    }

    async fn on(
        &mut self,
        mut connection: Connection,
        origin: &Origin,
        hop: &Hop,
    ) -> Result<(Parts, u64), Lost> {
        let second = matches!(connection, Connection::Two(_));
        let request = self.request(hop, second).map_err(|()| Lost {
            failure: Failure::Redirects,
            harmless: false,
        })?;
        let response = connection.send(request).await.map_err(|error| {
            let failure = of_hyper(&error);
            Lost {
                harmless: error.is_canceled()
                    || (failure == Failure::Broken && hop.method.is_idempotent()),
                failure,
            }
        })?;
        let (head, mut body) = response.into_parts();
        let mut bytes = 0;
        self.body.clear();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Lost {
                failure: of_hyper(&error),
                harmless: false,
            })?;
            if let Some(data) = frame.data_ref() {
                bytes += data.len() as u64;
                let room = self.keeps.saturating_sub(self.body.len());
                self.body.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
        // The connection's own task needs a moment to be ready again, or to see that the server closes it.
        if self.plan.keep_alive && connection.is_ready().await {
            self.connections.insert(origin.clone(), connection);
        }
        Ok((head, bytes))
    }

    fn request(&self, hop: &Hop, second: bool) -> Result<Request<Full<Bytes>>, ()> {
        let mut authority = hop.url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = hop.url.port() {
            authority.push(':');
            authority.push_str(&port.to_string());
        }
        let host = match &self.plan.host {
            Some(host) if !hop.elsewhere => host.clone(),
            _ => HeaderValue::from_str(&authority).map_err(drop)?,
        };
        let path = match hop.url.query() {
            Some(query) => format!("{}?{query}", hop.url.path()),
            None => hop.url.path().to_owned(),
        };
        let uri = if second {
            Uri::builder()
                .scheme(hop.url.scheme())
                .authority(host.as_bytes())
                .path_and_query(path)
                .build()
                .map_err(drop)?
        } else {
            Uri::try_from(path).map_err(drop)?
        };
        let mut request = Request::new(Full::new(hop.body.clone()));
        *request.method_mut() = hop.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        if !second {
            headers.insert(HOST, host);
            if !self.plan.keep_alive {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        for (name, value) in &self.plan.headers {
            if !(hop.elsewhere && (*name == AUTHORIZATION || *name == COOKIE)) {
                headers.append(name.clone(), value.clone());
            }
        }
        Ok(request)
    }

    /// Where an answer leads; none if it is the last one.
    fn next(&self, hop: &Hop, head: &Parts) -> Option<Result<Hop, Failure>> {
        let status = head.status.as_u16();
        if self.plan.redirects == 0 || !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = head.headers.get(LOCATION)?;
        let url = location.to_str().ok().and_then(|to| hop.url.join(to).ok());
        let Some(url) = url else {
            return Some(Err(Failure::Redirects));
        };
        let keeps = matches!(status, 307 | 308);
        Some(Ok(Hop {
            elsewhere: hop.elsewhere || url.origin() != hop.url.origin(),
            method: match &hop.method {
                method if keeps || *method == Method::HEAD => method.clone(),
                _ => Method::GET,
            },
            body: if keeps {
                hop.body.clone()
            } else {
                Bytes::new()
            },
            url,
        }))
    }
}

impl Exchange for Worker {
    async fn exchange(&mut self) -> Result<Answer, Failure> {
        let mut hop = Hop {
            url: self.plan.url.clone(),
            method: self.plan.method.clone(),
            body: self.plan.body.clone(),
            elsewhere: false,
        };
        for _ in 0..=self.plan.redirects {
            let (head, bytes) = self.send(&hop).await?;
            match self.next(&hop, &head) {
                None => {
                    return Ok(Answer {
                        code: Code::Http(head.status.as_u16()),
                        bytes,
                    });
                }
                Some(next) => hop = next?,
            }
        }
        Err(Failure::Redirects)
    }
}

/// Asks once. Returns the status and the body, of which no more than `most` bytes are kept.
pub(super) async fn fetch(
    plan: HttpPlan,
    destinations: Arc<Destinations>,
    most: usize,
) -> Result<(u16, Vec<u8>), Failure> {
    let mut worker = Worker::new(Arc::new(plan), destinations);
    worker.keeps = most;
    let answer = worker.exchange().await?;
    let status = match answer.code {
        Code::Http(status) => status,
        Code::Grpc(_) => 0,
    };
    Ok((status, worker.body))
}
