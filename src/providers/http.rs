//! The HTTP client of the metrics backends: deadlines, retries, bounded answers, and redirects that never carry credentials to another
//! host. A failed call is an error to be told, never a verdict.

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use std::error::Error as _;
use std::time::Duration;

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Installs ring as the TLS implementation of the process; further calls change nothing.
pub fn install_crypto() {
    // The only error is "already installed".
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One attempt, from the first byte sent to the last byte read.
    pub attempt: Duration,
    /// All attempts together with the waits between them.
    pub overall: Duration,
    /// First wait before a retry; the second is twice as long.
    pub first_wait: Duration,
    /// Attempts after the first one.
    pub retries: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            overall: Duration::from_secs(10),
            first_wait: Duration::from_millis(250),
            retries: 2,
        }
    }
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The client could not be made.
    #[error("the HTTP client can't be made: {0}")]
    Client(String),
    /// No connection, or it broke.
    #[error("{host} can't be reached: {why}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The innermost cause.
        why: String,
    },
    /// The backend took too long.
    #[error("{host} did not answer within {after:?}")]
    Late {
        /// Host and port.
        host: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer is larger than [`MAX_ANSWER`].
    #[error("the answer of {host} is larger than {MAX_ANSWER} bytes; aggregate in the query")]
    TooLarge {
        /// Host and port.
        host: String,
    },
    /// A redirect that would carry credentials elsewhere.
    #[error(
        "{host} redirects to {to}, and credentials are not sent to another host; set the provider's address to where the answer is"
    )]
    Elsewhere {
        /// Host and port.
        host: String,
        /// Host and port of the redirect.
        to: String,
    },
}

/// A request.
#[derive(Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers, credentials included.
    pub headers: HeaderMap,
    /// Body; empty for none.
    pub body: Vec<u8>,
    /// Whether the headers or the URL hold something that only this host may see.
    pub confidential: bool,
    /// The server's certificate is not verified.
    pub insecure_skip_verify: bool,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Body, at most [`MAX_ANSWER`] bytes.
    pub body: Vec<u8>,
}

/// One client for each way to verify and to follow; they pool their connections.
#[derive(Clone, Debug)]
pub struct Http {
    /// Indexed by `insecure_skip_verify` and `confidential`.
    clients: [[Client; 2]; 2],
    timing: Timing,
}

impl Http {
    /// Makes the clients. Certificates are verified by the platform's trust store, or by the bundle in `SSL_CERT_FILE`; where there is
    /// neither, HTTPS fails and HTTP works.
    pub fn new(timing: Timing) -> Result<Self, HttpError> {
        install_crypto();
        let pair = |insecure| -> Result<[Client; 2], HttpError> {
            Ok([
                client(insecure, false, timing)?,
                client(insecure, true, timing)?,
            ])
        };
        Ok(Self {
            clients: [pair(false)?, pair(true)?],
            timing,
        })
    }

    /// The deadlines.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Sends a call and reads the answer. Broken connections, late answers, 429 and 5xx are tried again within the overall
    /// deadline; `Retry-After` is kept where the deadline allows it.
    pub async fn send(&self, call: &Call) -> Result<Answer, HttpError> {
        let host = host_of(&call.url);
        let client =
            &self.clients[usize::from(call.insecure_skip_verify)][usize::from(call.confidential)];
        let waits = ExponentialBuilder::default()
            .with_min_delay(self.timing.first_wait)
            .with_max_times(self.timing.retries)
            .with_jitter();
        let attempts = (|| attempt(client, call, &host, self.timing.attempt))
            .retry(waits)
            .when(Failure::may_pass)
            .adjust(|failure, wait| {
                wait.map(|wait| failure.asked_wait().map_or(wait, |asked| asked.max(wait)))
            });
        match tokio::time::timeout(self.timing.overall, attempts).await {
            Ok(Ok(answer) | Err(Failure::Status { answer, .. })) => Ok(answer),
            Ok(Err(Failure::Broken(error))) => Err(error),
            Err(_) => Err(HttpError::Late {
                host,
                after: self.timing.overall,
            }),
        }
    }
}

/// Why an attempt is perhaps made again.
enum Failure {
    Status {
        answer: Answer,
        retry_after: Option<Duration>,
    },
    Broken(HttpError),
}

impl Failure {
    fn may_pass(&self) -> bool {
        match self {
            // A wait that no metric query can afford.
            Self::Status { retry_after, .. } => {
                retry_after.is_none_or(|wait| wait <= Duration::from_secs(5))
            }
            Self::Broken(error) => {
                matches!(
                    error,
                    HttpError::Unreachable { .. } | HttpError::Late { .. }
                )
            }
        }
    }

    fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Broken(_) => None,
        }
    }
}

/// Host and port for messages; never the user, password or query of the URL.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

fn client(insecure: bool, confidential: bool, timing: Timing) -> Result<Client, HttpError> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("serin/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timing.attempt)
            .referer(false)
            .tls_danger_accept_invalid_certs(insecure)
            .redirect(redirect::Policy::custom(move |attempt| {
                let elsewhere = attempt
                    .previous()
                    .first()
                    .is_some_and(|first| !same_origin(first, attempt.url()));
                if attempt.previous().len() > MAX_REDIRECTS || confidential && elsewhere {
                    attempt.stop()
                } else {
                    attempt.follow()
                }
            }))
    };
    // Images without any trust store are common; plain HTTP must work there.
    builder()
        .build()
        .or_else(|_| builder().tls_certs_only([]).build())
        .map_err(|error| HttpError::Client(innermost(&error)))
}

async fn attempt(
    client: &Client,
    call: &Call,
    host: &str,
    deadline: Duration,
) -> Result<Answer, Failure> {
    let broken = |error: &reqwest::Error| {
        Failure::Broken(if error.is_timeout() {
            HttpError::Late {
                host: host.to_owned(),
                after: deadline,
            }
        } else {
            HttpError::Unreachable {
                host: host.to_owned(),
                why: innermost(error),
            }
        })
    };
    let mut response = client
        .request(call.method.clone(), call.url.clone())
        .headers(call.headers.clone())
        .body(call.body.clone())
        .timeout(deadline)
        .send()
        .await
        .map_err(|error| broken(&error))?;
    let status = response.status();
    if status.is_redirection() {
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| response.url().join(location).ok());
        if let Some(target) = target
            && !same_origin(&target, &call.url)
        {
            return Err(Failure::Broken(HttpError::Elsewhere {
                host: host.to_owned(),
                to: host_of(&target),
            }));
        }
    }
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Failure::Broken(HttpError::TooLarge {
                host: host.to_owned(),
            }));
        }
        body.extend_from_slice(&chunk);
    }
    let answer = Answer { status, body };
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Err(Failure::Status {
            answer,
            retry_after,
        });
    }
    Ok(answer)
}

/// What `Retry-After` asks for: seconds, or a date that is still to come (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(date.duration_since(Timestamp::now())).ok()
}

/// The innermost cause of an error, without the URL, which may hold secrets.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    let mut text = None;
    while let Some(inner) = cause {
        text = Some(inner.to_string());
        cause = inner.source();
    }
    text.unwrap_or_else(|| {
        if error.is_connect() {
            "no connection".to_owned()
        } else {
            "the request failed".to_owned()
        }
    })
}
