//! Webhooks: a POST of the canary's name, phase and checksum, and what its answer means. 200, 201 and 202 pass, anything
//! else does not. Connection errors, 429 and server errors (501 excepted) are tried again as often as the hook asks for, with
//! back-off or as long as `Retry-After` says. Redirects are followed; this client has no credentials that could travel.

use crate::rollout::{HookAnswer, HookCall};
use reqwest::{Client, Response, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// How much of an answer is told to people, in bytes.
const LONGEST_BODY: usize = 4096;
/// First and longest wait between attempts.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Most redirects in one attempt.
const REDIRECTS: usize = 10;

/// Calls webhooks; clients, and with them connections, are shared by all calls.
#[derive(Clone, Debug)]
pub struct Hooks {
    verifying: Client,
    trusting: Client,
}

/// Outcome of one attempt.
enum Attempt {
    Over(HookAnswer),
    /// May be tried again; what to say if it isn't, and how long the server asks to wait.
    Again(HookAnswer, Option<Duration>),
}

impl Hooks {
    /// Fails only where no TLS roots can be loaded.
    pub fn new(user_agent: &str) -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .user_agent(user_agent)
                .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
                .referer(false)
        };
        Ok(Self {
            verifying: builder().build()?,
            trusting: builder().danger_accept_invalid_certs(true).build()?,
        })
    }

    /// Calls a hook of a canary, retries included.
    pub async fn call(&self, call: &HookCall) -> HookAnswer {
        self.post(
            &call.url,
            call.timeout,
            call.retries,
            call.skip_tls_verification,
            &call.payload,
        )
        .await
    }

    /// Posts `payload` to `url`, at most `retries` times more after the first.
    pub async fn post<T: Serialize + Sync>(
        &self,
        url: &str,
        timeout: Duration,
        retries: u32,
        skip_tls_verification: bool,
        payload: &T,
    ) -> HookAnswer {
        let client = if skip_tls_verification {
            &self.trusting
        } else {
            &self.verifying
        };
        let body = match serde_json::to_value(payload) {
            Ok(body) => body,
            Err(error) => {
                return HookAnswer::Unreachable(format!("the payload can't be written: {error}"));
            }
        };
        let mut wait = FIRST_WAIT;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (answer, retry_after) = match attempt(client, url, timeout, &body).await {
                Attempt::Over(answer) => return answer,
                Attempt::Again(answer, retry_after) => (answer, retry_after),
            };
            if attempts > retries {
                return match answer {
                    HookAnswer::Unreachable(why) if retries > 0 => HookAnswer::Unreachable(
                        format!("giving up after {attempts} attempts: {why}"),
                    ),
                    HookAnswer::Refused(why) if retries > 0 => {
                        HookAnswer::Refused(format!("giving up after {attempts} attempts: {why}"))
                    }
                    answer => answer,
                };
            }
            tokio::time::sleep(retry_after.unwrap_or(wait).min(LONGEST_WAIT)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

async fn attempt(client: &Client, url: &str, timeout: Duration, body: &Value) -> Attempt {
    let exchange = async {
        let response = client.post(url).json(body).send().await?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let text = if passes(status) {
            String::new()
        } else {
            bounded_body(response).await?
        };
        Ok::<_, reqwest::Error>((status, retry_after, text))
    };
    let (status, retry_after, text) = match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_builder() => {
            return Attempt::Over(HookAnswer::Unreachable(explain(error)));
        }
        Ok(Err(error)) => return Attempt::Again(HookAnswer::Unreachable(explain(error)), None),
        Err(_) => {
            return Attempt::Again(
                HookAnswer::Unreachable(format!("no answer within {}", shown(timeout))),
                None,
            );
        }
    };
    let answer = meaning(status, &text);
    if answer == HookAnswer::Passed {
        return Attempt::Over(answer);
    }
    let again = status == StatusCode::TOO_MANY_REQUESTS
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
    if again {
        Attempt::Again(answer, retry_after)
    } else {
        Attempt::Over(answer)
    }
}

/// What the answer of a hook means: its status, and of its body as much as is told to people.
#[must_use]
pub fn read_answer(status: u16, body: &[u8]) -> HookAnswer {
    match StatusCode::from_u16(status) {
        Ok(status) => meaning(status, &told(body)),
        Err(_) => HookAnswer::Unreachable(format!("{status} is not an HTTP status")),
    }
}

fn meaning(status: StatusCode, text: &str) -> HookAnswer {
    match text.trim() {
        _ if passes(status) => HookAnswer::Passed,
        "" => HookAnswer::Refused(format!("HTTP {status}")),
        text => HookAnswer::Refused(text.to_owned()),
    }
}

fn told(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(LONGEST_BODY)]).into_owned()
}

fn passes(status: StatusCode) -> bool {
    (200..=202).contains(&status.as_u16())
}

async fn bounded_body(mut response: Response) -> Result<String, reqwest::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST_BODY
        && let Some(chunk) = response.chunk().await?
    {
        bytes.extend_from_slice(&chunk);
    }
    Ok(told(&bytes))
}

/// The error with its causes and without the URL, which may carry a token.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn shown(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{:.3} s", time.as_secs_f64())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::demo::access::Certificates;
    use crate::rollout::HookPayload;
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn serve(router: Router) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn call(url: String, retries: u32) -> HookCall {
        let payload = HookPayload {
            name: "podinfo".into(),
            namespace: "test".into(),
            phase: "Progressing".into(),
            checksum: "1".into(),
            metadata: BTreeMap::new(),
        };
        HookCall {
            name: "gate".into(),
            url,
            timeout: Duration::from_secs(5),
            retries,
            skip_tls_verification: false,
            payload,
        }
    }

    #[tokio::test]
    async fn only_200_201_and_202_pass() {
        let router = Router::new().route(
            "/{status}",
            post(
                |axum::extract::Path(status): axum::extract::Path<u16>| async move {
                    (StatusCode::from_u16(status).unwrap(), "told")
                },
            ),
        );
        let base = serve(router).await;
        let hooks = Hooks::new("test").unwrap();
        for (status, expected) in [
            (200, HookAnswer::Passed),
            (202, HookAnswer::Passed),
            (204, HookAnswer::Refused("HTTP 204 No Content".into())),
            (403, HookAnswer::Refused("told".into())),
            (500, HookAnswer::Refused("told".into())),
        ] {
            assert_eq!(
                hooks.call(&call(format!("{base}/{status}"), 0)).await,
                expected,
                "status {status}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_error_is_tried_again_as_often_as_the_hook_asks_for() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let router = Router::new().route(
            "/",
            post(move || {
                let calls = seen.fetch_add(1, Ordering::SeqCst);
                async move {
                    let mut headers = HeaderMap::new();
                    headers.insert("retry-after", "0".parse().unwrap());
                    if calls < 2 {
                        (StatusCode::SERVICE_UNAVAILABLE, headers, "busy")
                    } else {
                        (StatusCode::OK, headers, "")
                    }
                }
            }),
        );
        let base = serve(router).await;
        let hooks = Hooks::new("test").unwrap();
        assert_eq!(hooks.call(&call(base.clone(), 2)).await, HookAnswer::Passed);
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable_and_the_url_is_not_told() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let hooks = Hooks::new("test").unwrap();
        let HookAnswer::Unreachable(why) = hooks
            .call(&call("http://127.0.0.1:1/token-in-path".into(), 0))
            .await
        else {
            panic!()
        };
        assert!(!why.contains("token-in-path"), "{why}");
    }

    /// A server with a certificate of its own making, as webhooks inside a cluster often have.
    async fn serve_with_own_certificate() -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = Certificates::make().unwrap();
        let listener = certificates.listen(0).await.unwrap();
        let port = listener.address().port();
        let router = Router::new().route("/", post(|| async { "" }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("https://localhost:{port}/")
    }

    #[tokio::test]
    async fn an_unknown_certificate_is_refused_unless_the_hook_says_so() {
        let url = serve_with_own_certificate().await;
        let hooks = Hooks::new("test").unwrap();
        let HookAnswer::Unreachable(why) = hooks.call(&call(url.clone(), 0)).await else {
            panic!("a certificate that nobody vouches for was believed")
        };
        assert!(why.contains("certificate"), "{why}");
        let trusting = HookCall {
            skip_tls_verification: true,
            ..call(url, 0)
        };
        assert_eq!(hooks.call(&trusting).await, HookAnswer::Passed);
    }
}
