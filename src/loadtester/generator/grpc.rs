//! Unary calls of gRPC over HTTP/2: one length-prefixed message each way, the status in the trailers. A message that is given as JSON is
//! written by what the server tells of itself (server reflection, `v1` or the older `v1alpha`).

use super::connect::{Destinations, Tls, connect, of_hyper};
use super::message::{MessageError, Types, all_bytes, bytes_field};
use super::{Answer, Code, Exchange, Failure};
use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use ::http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest answer of which the message is kept: descriptors are the longest.
const LONGEST_MESSAGE: usize = 4 * 1024 * 1024;
/// How often a server is asked for one more description.
const MOST_QUESTIONS: usize = 64;
/// `Unimplemented`.
const UNIMPLEMENTED: u32 = 12;

/// What is called.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcPlan {
    /// Where to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// None for plain text.
    pub tls: Option<Tls>,
    /// The authority to name, in place of host and port.
    pub authority: Option<String>,
    /// `/package.Service/Method`.
    pub path: String,
    /// The request, encoded.
    pub message: Bytes,
    /// The request as JSON, which [`super::prepared`] encodes into `message`.
    pub data: Option<Value>,
    /// Metadata.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl GrpcPlan {
    /// Host, port and method.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}:{}{}", self.host, self.port, self.path)
    }
}

/// The request of `grpc.health.v1.Health/Check`: field 1 is the service's name.
#[must_use]
pub fn health_message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    Bytes::from(message)
}

/// The status in the answer to a health check: 1 is `SERVING`.
pub(super) fn health_status(message: &[u8]) -> u8 {
    match message {
        [0x08, status, ..] => *status,
        _ => 0,
    }
}

/// One worker.
pub(super) struct Worker {
    plan: Arc<GrpcPlan>,
    destinations: Arc<Destinations>,
    connection: Option<http2::SendRequest<Full<Bytes>>>,
}

/// What came back.
pub(super) struct Reply {
    /// gRPC's status.
    pub(super) status: u32,
    /// The first message, if it was short.
    pub(super) message: Vec<u8>,
    pub(super) bytes: u64,
}

impl Worker {
    pub(super) fn new(plan: Arc<GrpcPlan>, destinations: Arc<Destinations>) -> Self {
        Self {
            plan,
            destinations,
            connection: None,
        }
    }

    async fn open(&self) -> Result<http2::SendRequest<Full<Bytes>>, Failure> {
        let (stream, _) = connect(
            &self.plan.host,
            self.plan.port,
            self.plan.tls.as_ref(),
            &self.destinations,
        )
        .await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| of_hyper(&error))?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let plan = &self.plan;
        let authority = match &plan.authority {
            Some(authority) => authority.clone(),
            None => format!("{}:{}", plan.host, plan.port),
        };
        let uri = Uri::builder()
            .scheme(if plan.tls.is_some() { "https" } else { "http" })
            .authority(authority)
            .path_and_query(plan.path.as_str())
            .build()
            .map_err(|_| Failure::Protocol)?;
        let length = u32::try_from(plan.message.len()).map_err(|_| Failure::Protocol)?;
        let mut framed = Vec::with_capacity(5 + plan.message.len());
        framed.push(0);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&plan.message);
        let mut request = Request::new(Full::new(Bytes::from(framed)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        for (name, value) in &plan.headers {
            headers.append(name.clone(), value.clone());
        }
        Ok(request)
    }

    /// One call on the worker's connection, a new one if there is none.
    pub(super) async fn call(&mut self) -> Result<Reply, Failure> {
        let request = self.request()?;
        let kept = self.connection.take().filter(|kept| !kept.is_closed());
        let (mut sender, new) = match kept {
            Some(sender) => (sender, false),
            None => (self.open().await?, true),
        };
        let response = match sender.send_request(request).await {
            // Closed while idle, before anything was sent on it.
            Err(error) if !new && error.is_canceled() => {
                sender = self.open().await?;
                sender.send_request(self.request()?).await
            }
            other => other,
        };
        let (head, mut body) = response.map_err(|error| of_hyper(&error))?.into_parts();
        let mut status = status_in(&head.headers);
        let (mut bytes, mut received) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| of_hyper(&error))?;
            if let Some(data) = frame.data_ref() {
                bytes += data.len() as u64;
                let room = (LONGEST_MESSAGE + 5).saturating_sub(received.len());
                received.extend_from_slice(&data[..data.len().min(room)]);
            } else if let Some(trailers) = frame.trailers_ref() {
                status = status.or_else(|| status_in(trailers));
            }
        }
        self.connection = Some(sender);
        Ok(Reply {
            status: status.unwrap_or_else(|| status_of_http(head.status)),
            message: first_message(&received),
            bytes,
        })
    }
}

impl Exchange for Worker {
    async fn exchange(&mut self) -> Result<Answer, Failure> {
        let reply = self.call().await?;
        Ok(Answer {
            code: Code::Grpc(reply.status),
            bytes: reply.bytes,
        })
    }
}

fn status_in(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// What an answer without a status of gRPC means, as gRPC's own table has it.
fn status_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The first message of a body; empty if it is compressed, cut off or not there.
fn first_message(body: &[u8]) -> Vec<u8> {
    let [0, a, b, c, d, rest @ ..] = body else {
        return Vec::new();
    };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    rest.get(..length).unwrap_or_default().to_vec()
}

/// Asks once whether a service is there.
///
/// # Errors
/// If there is no answer, or another one than `SERVING`, in words.
pub(super) async fn check_health(
    plan: GrpcPlan,
    destinations: Arc<Destinations>,
) -> Result<(), String> {
    let reply = Worker::new(Arc::new(plan), destinations)
        .call()
        .await
        .map_err(|failure| failure.words().to_owned())?;
    if reply.status != 0 {
        return Err(format!("the answer is {}", Code::Grpc(reply.status)));
    }
    match health_status(&reply.message) {
        1 => Ok(()),
        2 => Err("the service says NOT_SERVING".to_owned()),
        3 => Err("the service says SERVICE_UNKNOWN".to_owned()),
        _ => Err("the service says UNKNOWN".to_owned()),
    }
}

/// The plan with its JSON encoded.
///
/// # Errors
/// If the server does not say how, or the JSON does not fit, in words.
pub(super) async fn prepared(
    plan: &GrpcPlan,
    destinations: &Arc<Destinations>,
) -> Result<GrpcPlan, String> {
    let Some(data) = &plan.data else {
        return Ok(plan.clone());
    };
    let method = plan.path.trim_start_matches('/');
    let mut missing = method
        .split_once('/')
        .map_or(method, |(service, _)| service)
        .to_owned();
    let mut types = Types::default();
    let mut asked = BTreeSet::new();
    while asked.insert(missing.clone()) && asked.len() <= MOST_QUESTIONS {
        for file in describe(plan, destinations, &missing).await? {
            types.add(&file).map_err(|error| error.to_string())?;
        }
        match types.request(method, data) {
            Ok(message) => {
                return Ok(GrpcPlan {
                    message: message.into(),
                    data: None,
                    ..plan.clone()
                });
            }
            Err(MessageError::Unknown(what)) if what != method => missing = what,
            Err(MessageError::Unknown(_)) => return Err(format!("there is no method {method}")),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("the server does not describe {missing}"))
}

/// Asks a server for the files that describe a service or a type.
async fn describe(
    plan: &GrpcPlan,
    destinations: &Arc<Destinations>,
    symbol: &str,
) -> Result<Vec<Vec<u8>>, String> {
    let mut message = Vec::new();
    bytes_field(4, symbol.as_bytes(), &mut message);
    for version in ["v1", "v1alpha"] {
        let question = GrpcPlan {
            path: format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"),
            message: message.clone().into(),
            ..plan.clone()
        };
        let reply = Worker::new(Arc::new(question), Arc::clone(destinations))
            .call()
            .await
            .map_err(|failure| failure.words().to_owned())?;
        if reply.status == UNIMPLEMENTED {
            continue;
        }
        if reply.status != 0 {
            return Err(format!(
                "the answer to server reflection is {}",
                Code::Grpc(reply.status)
            ));
        }
        let answers = all_bytes(&reply.message, 4).unwrap_or_default();
        let files: Vec<Vec<u8>> = answers
            .into_iter()
            .flat_map(|answer| all_bytes(answer, 1).unwrap_or_default())
            .map(<[u8]>::to_vec)
            .collect();
        if files.is_empty() {
            return Err(format!("the server does not describe {symbol}"));
        }
        return Ok(files);
    }
    Err("the server has no reflection, by which a message with data would be written; without --data it would be empty".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_health_check() {
        assert_eq!(health_message("").as_ref(), b"");
        assert_eq!(health_message("app").as_ref(), b"\x0a\x03app");
        let long = "x".repeat(200);
        assert_eq!(&health_message(&long)[..3], b"\x0a\xc8\x01");
        assert_eq!(health_status(&first_message(b"\0\0\0\0\x02\x08\x01")), 1);
        assert_eq!(health_status(&first_message(b"\0\0\0\0\x09\x08\x01")), 0);
        assert_eq!(health_status(&first_message(b"")), 0);
    }
}
