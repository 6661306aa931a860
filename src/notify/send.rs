//! Posts a request until it is taken, within bounds: each attempt has its time, the waits between attempts grow with jitter or are as long as
//! the receiver asks for, and after the deadline it is given up. No redirect leads to another host.

use super::Request;
use crate::providers::http::retry_after;
use reqwest::{Client, Proxy, StatusCode, redirect};
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much of an answer is read, in bytes.
const LONGEST_ANSWER: usize = 4096;
/// Most redirects of one attempt.
const REDIRECTS: usize = 3;
/// How many proxies have a client at the same time; beyond that all are made anew.
const PROXIES: usize = 32;

/// How long telling somebody may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One attempt.
    pub attempt: Duration,
    /// All of them, with the waits.
    pub overall: Duration,
    /// Wait after the first attempt; it doubles with each.
    pub first_wait: Duration,
    /// Longest wait that is not asked for by the receiver.
    pub longest_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(10),
            overall: Duration::from_mins(15),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(1),
        }
    }
}

/// Why somebody was not told. The texts hold neither address nor token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may go well later.
    Passing {
        /// What happened.
        why: String,
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
    /// It would not.
    Lasting(String),
}

/// Tells receivers. Clients, and with them connections, are shared.
#[derive(Clone, Debug)]
pub struct Sender {
    user_agent: &'static str,
    timing: Timing,
    direct: Client,
    proxied: Arc<Mutex<HashMap<String, Client>>>,
}

impl Sender {
    /// Fails only where no TLS roots can be loaded.
    pub fn new(user_agent: &'static str, timing: Timing) -> Result<Self, reqwest::Error> {
        Ok(Self {
            user_agent,
            timing,
            direct: client(user_agent, None)?,
            proxied: Arc::default(),
        })
    }

    fn client(&self, proxy: Option<&str>) -> Result<Client, String> {
        let Some(proxy) = proxy else {
            return Ok(self.direct.clone());
        };
        let mut known = self.proxied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(proxy) {
            return Ok(client.clone());
        }
        // The URL of a proxy may hold a password.
        let made = Proxy::all(proxy)
            .and_then(|proxy| client(self.user_agent, Some(proxy)))
            .map_err(|_| "its proxy is no address of a proxy".to_owned())?;
        if known.len() >= PROXIES {
            known.clear();
        }
        known.insert(proxy.to_owned(), made.clone());
        Ok(made)
    }

    /// Posts `request` through `proxy` until it is taken. Asks `may_go_on` before each attempt, and waits no longer once `stop` is
    /// cancelled; an attempt that is under way then is waited for. `None`: not told, and not given up either.
    pub async fn send(
        &self,
        request: &Request,
        proxy: Option<&str>,
        may_go_on: impl Fn() -> bool,
        stop: &CancellationToken,
    ) -> Option<Result<(), String>> {
        let client = match self.client(proxy) {
            Ok(client) => client,
            Err(why) => return Some(Err(why)),
        };
        let end = Instant::now() + self.timing.overall;
        let mut wait = self.timing.first_wait;
        let mut attempts = 0;
        loop {
            if stop.is_cancelled() || !may_go_on() {
                return None;
            }
            attempts += 1;
            let (why, asked) = match attempt(&client, request, self.timing.attempt).await {
                Ok(()) => return Some(Ok(())),
                Err(Failure::Lasting(why)) => return Some(Err(why)),
                Err(Failure::Passing { why, retry_after }) => (why, retry_after),
            };
            let own = wait.mul_f64(rand::random_range(0.5..=1.0));
            let pause = asked.map_or(own, |asked| asked.max(own));
            wait = (wait * 2).min(self.timing.longest_wait);
            if Instant::now() + pause >= end {
                return Some(Err(format!("given up after {attempts} attempts: {why}")));
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

fn client(user_agent: &str, proxy: Option<Proxy>) -> Result<Client, reqwest::Error> {
    let mut builder = Client::builder()
        .user_agent(user_agent)
        .referer(false)
        .redirect(redirect::Policy::custom(|attempt| {
            let here = attempt.previous().first();
            let same = here.is_some_and(|first| {
                let next = attempt.url();
                (
                    first.scheme(),
                    first.host_str(),
                    first.port_or_known_default(),
                ) == (next.scheme(), next.host_str(), next.port_or_known_default())
            });
            // 307 and 308 keep the message; the others would make a GET of it.
            let keeps = [
                StatusCode::TEMPORARY_REDIRECT,
                StatusCode::PERMANENT_REDIRECT,
            ]
            .contains(&attempt.status());
            if same && keeps && attempt.previous().len() <= REDIRECTS {
                attempt.follow()
            } else {
                attempt.stop()
            }
        }));
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy);
    }
    builder.build()
}

async fn attempt(client: &Client, request: &Request, time: Duration) -> Result<(), Failure> {
    let exchange = async {
        let mut response = client
            .post(request.url.clone())
            .headers(request.headers.clone())
            .body(request.body.to_string())
            .send()
            .await?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let mut answer = Vec::new();
        while answer.len() < LONGEST_ANSWER
            && let Some(chunk) = response.chunk().await?
        {
            answer.extend_from_slice(&chunk);
        }
        Ok::<_, reqwest::Error>((status, wait, answer))
    };
    let passing = |why: String, retry_after| Failure::Passing { why, retry_after };
    let (status, wait, answer) = match tokio::time::timeout(time, exchange).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => return Err(passing(innermost(&error), None)),
        Err(_) => {
            return Err(passing(
                format!("no answer within {} s", time.as_secs_f32()),
                None,
            ));
        }
    };
    if status.is_success() {
        return request.read.map_or(Ok(()), |read| read(&answer));
    }
    // What receivers say in their answers may repeat what they were sent, so only the status is told.
    let why = format!("the answer is HTTP {status}");
    let again = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
        ]
        .contains(&status);
    if again {
        Err(passing(why, wait))
    } else if status.is_redirection() {
        Err(Failure::Lasting(format!(
            "{why}, a redirect that is not followed; the address must be the one that it leads to"
        )))
    } else {
        Err(Failure::Lasting(why))
    }
}

/// The innermost cause, which does not know the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut text = None;
    while let Some(inner) = cause {
        text = Some(inner.to_string());
        cause = inner.source();
    }
    text.unwrap_or_else(|| "the request failed".to_owned())
}
