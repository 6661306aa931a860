//! Tests that another server runs: nGrinder, which clones a test that is defined there, and Concord, which starts a process. They are started,
//! asked for until they ended, and what they say is the outcome. Credentials go to the server that they were made for and to nobody else: no
//! redirect is followed, and a key of Concord lies in a folder that has the server's name.

use super::generator::{self, Destinations, HttpPlan, HttpVersion};
use super::payload::Payload;
use super::runner::Outcome;
use super::tasks::Refused;
use crate::api::{GoDuration, parse_go_duration};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::body::Bytes;
use reqwest::Url;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the word to stop may take.
const LAST_WORD: Duration = Duration::from_secs(3);
/// How much of an answer is read, in bytes.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// How much of one is shown, in characters.
const LONGEST_SHOWN: usize = 300;
/// How often in a row the state of a test may be missed.
const MISSES: usize = 3;
/// Longest key that is read, in bytes.
const LONGEST_KEY: u64 = 16 * 1024;

/// A test of another server.
#[derive(Clone, PartialEq)]
pub struct Test {
    server: Server,
    what: What,
    /// How often its state is asked for.
    period: Duration,
    /// The longest that it may take, where the hook says so.
    most: Option<Duration>,
}

#[derive(Clone, PartialEq)]
enum What {
    NGrinder {
        /// The test that is cloned.
        clone: u64,
    },
    Concord {
        /// Where in Concord the process is, for people.
        place: String,
        /// Fields of the form that starts it.
        fields: Vec<(String, String)>,
    },
}

/// Where the test runs, and what opens it.
#[derive(Clone, PartialEq)]
struct Server {
    url: Url,
    authorization: HeaderValue,
    /// What no text may show.
    secret: String,
}

/// Never with what opens the server.
impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

/// How far a test is.
enum State {
    UnderWay(String),
    Passed(String),
    Failed(String),
}

fn wrong(field: &str, expected: &str) -> Refused {
    Refused::Malformed(format!("metadata.{field}: expected {expected}"))
}

fn text<'a>(payload: &'a Payload, field: &str, expected: &str) -> Result<&'a str, Refused> {
    match payload.text(field).trim() {
        "" => Err(wrong(field, &format!("{expected}, found none"))),
        text => Ok(text),
    }
}

fn server(payload: &Payload) -> Result<Url, Refused> {
    const EXPECTED: &str = "the URL of the server, such as http://tests.example:8080";
    let given = text(payload, "server", EXPECTED)?;
    Url::parse(given)
        .ok()
        .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .ok_or_else(|| {
            wrong(
                "server",
                &format!("{EXPECTED}, without user and password, found something else"),
            )
        })
}

/// Seconds, or a duration as Go writes it.
fn time(payload: &Payload, field: &str) -> Result<Option<Duration>, Refused> {
    let given = payload.text(field).trim();
    if given.is_empty() {
        return Ok(None);
    }
    let read = match given.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => parse_go_duration(given).ok(),
    };
    read.filter(|time| !time.is_zero())
        .map(Some)
        .ok_or_else(|| {
            wrong(
                field,
                &format!("more than no time, as seconds or such as 5s, found {given:?}"),
            )
        })
}

impl Test {
    /// A test that nGrinder clones and starts.
    ///
    /// # Errors
    /// If the metadata lack something.
    pub fn of_ngrinder(payload: &Payload) -> Result<Self, Refused> {
        let url = server(payload)?;
        let clone = text(payload, "clone", "the number of the test to clone")?;
        let clone = clone.parse().map_err(|_| {
            let expected = format!("the number of the test to clone, found {clone:?}");
            wrong("clone", &expected)
        })?;
        let user = text(payload, "username", "the user's name")?;
        let password = text(payload, "passwd", "the password in base64")?;
        let password = STANDARD
            .decode(password)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| wrong("passwd", "the password in base64, found something else"))?;
        let shown = STANDARD.encode(format!("{user}:{password}"));
        Ok(Self {
            server: Server {
                url,
                authorization: sensitive("passwd", &format!("Basic {shown}"))?,
                secret: password,
            },
            what: What::NGrinder { clone },
            period: time(payload, "pollInterval")?.unwrap_or(Duration::from_secs(1)),
            most: None,
        })
    }

    /// A process that Concord starts. `keys` is the folder with the keys of servers, if there is one.
    ///
    /// # Errors
    /// If the metadata lack something, or name a key that is not this server's.
    pub fn of_concord(payload: &Payload, keys: Option<&Path>) -> Result<Self, Refused> {
        let url = server(payload)?;
        let mut fields = Vec::new();
        for (field, name, expected) in [
            ("org", "org", "the organisation"),
            ("project", "project", "the project"),
            ("repo", "repo", "the repository"),
            ("entrypoint", "entryPoint", "the entry point"),
            (
                "endpoint",
                "arguments.endpoint",
                "the URL of what is tested",
            ),
        ] {
            let given = text(payload, field, expected)?;
            fields.push((name.to_owned(), given.to_owned()));
        }
        let place: Vec<&str> = fields[..4]
            .iter()
            .map(|(_, given)| given.as_str())
            .collect();
        let place = place.join("/");
        for (field, given) in payload.metadata.iter().flatten() {
            if field == "arguments.endpoint" {
                return Err(wrong(
                    field,
                    "the URL of what is tested in metadata.endpoint",
                ));
            }
            if field.starts_with("arguments.") {
                fields.push((field.clone(), given.clone()));
            }
        }
        let path = text(
            payload,
            "apiKeyPath",
            "the path of a file with the key of the server",
        )?;
        let secret = key(&url, Path::new(path), keys)?;
        Ok(Self {
            server: Server {
                url,
                authorization: sensitive("apiKeyPath", &secret)?,
                secret,
            },
            what: What::Concord { place, fields },
            period: time(payload, "pollInterval")?.unwrap_or(Duration::from_secs(5)),
            most: time(payload, "pollTimeout")?,
        })
    }

    /// The server's host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.server.url.host_str().unwrap_or_default()
    }

    /// What a log may say of it.
    #[must_use]
    pub fn shown(&self) -> String {
        let origin = self.server.url.origin().ascii_serialization();
        match &self.what {
            What::NGrinder { clone } => format!("ngrinder {origin}, a clone of test {clone}"),
            What::Concord { place, .. } => format!("concord {origin}, {place}"),
        }
    }

    /// Starts it and waits for its end, or until `stop`.
    pub async fn run(&self, destinations: &Arc<Destinations>, stop: &CancellationToken) -> Outcome {
        let shown = self.shown();
        let outcome = |passed: bool, text: &str| Outcome {
            passed,
            output: format!("{shown}: {text}\n"),
        };
        let begun = Instant::now();
        let started = tokio::select! {
            started = self.start(destinations) => started,
            () = stop.cancelled() => Err("stopped before it was started".to_owned()),
        };
        let id = match started {
            Ok(id) => id,
            Err(why) => return outcome(false, &format!("not started: {why}")),
        };
        let mut misses = 0;
        loop {
            if let Some(most) = self.most
                && begun.elapsed() >= most
            {
                let most = GoDuration(most);
                return outcome(false, &format!("{id} was not done within {most}"));
            }
            let state = tokio::select! {
                state = self.look(destinations, &id) => state,
                () = stop.cancelled() => {
                    return outcome(false, &self.stopped(destinations, &id).await);
                }
            };
            match state {
                Ok(State::Passed(word)) => return outcome(true, &format!("{id} {word}")),
                Ok(State::Failed(word)) => return outcome(false, &format!("{id} {word}")),
                Ok(State::UnderWay(word)) => {
                    tracing::debug!(task = shown, "{id} {word}");
                    misses = 0;
                }
                Err(why) => {
                    misses += 1;
                    if misses >= MISSES {
                        let text = format!("the state of {id} can't be had: {why}");
                        return outcome(false, &text);
                    }
                }
            }
        }
    }

    /// Starts it; its name there.
    async fn start(&self, destinations: &Arc<Destinations>) -> Result<String, String> {
        match &self.what {
            What::NGrinder { clone } => {
                let path = format!("perftest/api/{clone}/clone_and_start");
                let empty = (None, Bytes::new());
                let answer = self.ask(destinations, Method::POST, &path, empty).await?;
                let id = answer["id"].as_f64().filter(|id| *id >= 0.0);
                id.map(|id| format!("{id:.0}"))
                    .ok_or_else(|| "the answer names no id of a test".to_owned())
            }
            What::Concord { fields, .. } => {
                let boundary = format!("serin-{:032x}", rand::random::<u128>());
                let form = (
                    HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))
                        .ok(),
                    form(&boundary, fields).into(),
                );
                let answer = self
                    .ask(destinations, Method::POST, "/api/v1/process", form)
                    .await?;
                // It becomes part of a path.
                let id = answer["instanceId"].as_str().filter(|id| {
                    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
                    !id.is_empty() && id.chars().all(fine)
                });
                id.map(str::to_owned)
                    .ok_or_else(|| "the answer names no instanceId of a process".to_owned())
            }
        }
    }

    /// Waits for a period, then asks for its state.
    async fn look(&self, destinations: &Arc<Destinations>, id: &str) -> Result<State, String> {
        tokio::time::sleep(self.period).await;
        let path = match &self.what {
            What::NGrinder { .. } => format!("perftest/api/{id}/status"),
            What::Concord { .. } => format!("/api/v1/process/{id}"),
        };
        let empty = (None, Bytes::new());
        let answer = self.ask(destinations, Method::GET, &path, empty).await?;
        let (state, failures): (&Value, &[&str]) = match &self.what {
            What::NGrinder { .. } => (
                &answer["status"][0]["status_id"],
                &["STOP_BY_ERROR", "CANCELED", "UNKNOWN"],
            ),
            What::Concord { .. } => (&answer["status"], &["FAILED", "CANCELLED", "TIMED_OUT"]),
        };
        let state = state.as_str().ok_or("the answer has no state")?;
        let shown = self.server.bare(state);
        Ok(match state {
            "FINISHED" => State::Passed(shown),
            failure if failures.contains(&failure) => State::Failed(shown),
            _ => State::UnderWay(shown),
        })
    }

    /// Nobody waits any more: nGrinder is told to stop, Concord's process goes on, as with Flagger.
    async fn stopped(&self, destinations: &Arc<Destinations>, id: &str) -> String {
        match &self.what {
            What::NGrinder { .. } => {
                let path = format!("perftest/api/{id}?action=stop");
                let empty = (None, Bytes::new());
                let told = self.ask(destinations, Method::PUT, &path, empty);
                match tokio::time::timeout(LAST_WORD, told).await {
                    Ok(Ok(_)) => format!("{id} was told to stop"),
                    Ok(Err(why)) => format!("{id} could not be told to stop: {why}"),
                    Err(_) => format!("{id} was told to stop and did not answer"),
                }
            }
            What::Concord { .. } => format!("{id} is no longer waited for"),
        }
    }

    /// One request; the answer, if it is a success in JSON.
    async fn ask(
        &self,
        destinations: &Arc<Destinations>,
        method: Method,
        path: &str,
        (kind, body): (Option<HeaderValue>, Bytes),
    ) -> Result<Value, String> {
        let server = &self.server;
        let url = server.url.join(path).map_err(|error| error.to_string())?;
        let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
            (AUTHORIZATION, server.authorization.clone()),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ];
        headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
        let plan = HttpPlan {
            url,
            method,
            headers,
            host: None,
            body,
            version: HttpVersion::Negotiated,
            keep_alive: false,
            redirects: 0,
            verify: true,
        };
        let about = format!("{} {}", plan.method, plan.target());
        let (status, body) = generator::fetch(&plan, destinations, Some(ANSWER), LONGEST_ANSWER)
            .await
            .map_err(|failure| format!("{about}: {}", failure.words()))?;
        let told = String::from_utf8_lossy(&body);
        let answer = serde_json::from_slice::<Value>(&body).ok();
        match answer.filter(Value::is_object) {
            Some(answer) if (200..300).contains(&status) && answer["success"] != false => {
                Ok(answer)
            }
            _ => Err(format!("{about}: {status} {}", server.bare(&told))),
        }
    }
}

impl Server {
    /// What a server said, short and without what opens it.
    fn bare(&self, said: &str) -> String {
        let said = said.replace(&self.secret, "…");
        let words: Vec<&str> = said.split_whitespace().collect();
        words.join(" ").chars().take(LONGEST_SHOWN).collect()
    }
}

fn sensitive(field: &str, text: &str) -> Result<HeaderValue, Refused> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| wrong(field, "what a header can carry, found other characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The key in a file below the folder of this server's host. Whoever may ask names both, and must get neither other files of this pod nor a
/// key to another server.
fn key(url: &Url, path: &Path, keys: Option<&Path>) -> Result<String, Refused> {
    let Some(keys) = keys else {
        return Err(Refused::NotAllowed(
            "metadata.apiKeyPath: no keys are read here: the load tester was started without --api-key-dir".to_owned(),
        ));
    };
    let host = url.host_str().unwrap_or_default();
    let folder = keys.join(host);
    let refused = || {
        Refused::NotAllowed(format!(
            "metadata.apiKeyPath: expected a file in {}, the folder of the keys of {host}, found {}",
            folder.display(),
            path.display()
        ))
    };
    let real = |path: &Path| -> Option<PathBuf> { path.canonicalize().ok() };
    let inside = || {
        let named = host.chars().any(|c| c.is_ascii_alphanumeric());
        let (all, own, key) = (real(keys)?, real(&folder)?, real(path)?);
        let fits = named && own != all && own.starts_with(&all) && key.starts_with(&own);
        let fits = fits
            && key
                .metadata()
                .is_ok_and(|it| it.is_file() && it.len() <= LONGEST_KEY);
        fits.then(|| std::fs::read_to_string(&key).ok())?
    };
    match inside() {
        Some(key) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
        _ => Err(refused()),
    }
}

/// A form of several parts.
fn form(boundary: &str, fields: &[(String, String)]) -> String {
    let mut form = String::new();
    for (name, given) in fields {
        let name = name
            .replace('"', "%22")
            .replace('\r', "%0D")
            .replace('\n', "%0A");
        // Writing to a string can't fail.
        let _ = write!(
            form,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{given}\r\n"
        );
    }
    let _ = write!(form, "--{boundary}--\r\n");
    form
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
