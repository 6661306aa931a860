//! The demo's clients: so many requests a second to the gateway, sent at their times whatever became of the earlier ones, none repeated, each
//! accounted for.

use super::app::VERSION_HEADER;
use super::model::VersionLine;
use super::story::{Account, Crowd, StoryError, WINDOW};
use axum::http::header;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One answer of the app.
struct Answer {
    at: Instant,
    version: Arc<str>,
    failed: bool,
    latency: Duration,
}

#[derive(Default)]
struct Book {
    served: u64,
    lost: u64,
    recent: VecDeque<Answer>,
    versions: Vec<Arc<str>>,
}

/// The clients.
pub struct Traffic {
    url: String,
    host: String,
    rate: f64,
    client: reqwest::Client,
    book: Arc<Mutex<Book>>,
    stop: CancellationToken,
    requests: TaskTracker,
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Clients who will send `rate` requests a second to `url`, for `host`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(url: &str, host: &str, rate: f64) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .timeout(PATIENCE)
            .build()?;
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            rate,
            client,
            book: Arc::default(),
            stop: CancellationToken::new(),
            requests: TaskTracker::new(),
        })
    }

    /// One request: the version that answered and whether it failed; nothing where no version answered whole.
    async fn ask(client: &reqwest::Client, url: &str, host: &str) -> Option<(String, bool)> {
        let answer = client
            .get(url)
            .header(header::HOST, host)
            .send()
            .await
            .ok()?;
        let failed = answer.status().is_server_error();
        let version = answer
            .headers()
            .get(VERSION_HEADER)?
            .to_str()
            .ok()?
            .to_owned();
        answer.bytes().await.ok()?;
        Some((version, failed))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Crowd for Traffic {
    fn start(&mut self) -> Result<(), StoryError> {
        let (client, url, host) = (self.client.clone(), self.url.clone(), self.host.clone());
        let (book, requests, stop) = (
            Arc::clone(&self.book),
            self.requests.clone(),
            self.stop.clone(),
        );
        let gap = Duration::from_secs_f64(1.0 / self.rate);
        self.requests.spawn(async move {
            let mut due = Instant::now();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep_until(due) => {}
                }
                let (client, url, host) = (client.clone(), url.clone(), host.clone());
                let book = Arc::clone(&book);
                let scheduled = due;
                requests.spawn(async move {
                    let answer = Self::ask(&client, &url, &host).await;
                    lock(&book).note(scheduled, answer);
                });
                due += gap;
            }
        });
        Ok(())
    }

    async fn probe(&mut self) -> Result<bool, StoryError> {
        Ok(Self::ask(&self.client, &self.url, &self.host)
            .await
            .is_some())
    }

    fn account(&self) -> Account {
        lock(&self.book).account()
    }

    async fn stop(&mut self) -> Account {
        self.stop.cancel();
        self.requests.close();
        self.requests.wait().await;
        self.account()
    }
}

impl Book {
    fn note(&mut self, scheduled: Instant, answer: Option<(String, bool)>) {
        let Some((version, failed)) = answer else {
            self.lost += 1;
            return;
        };
        self.served += 1;
        let known = self
            .versions
            .iter()
            .find(|known| known.as_ref() == version)
            .cloned();
        let version = known.unwrap_or_else(|| {
            let new: Arc<str> = version.into();
            self.versions.push(Arc::clone(&new));
            new
        });
        let now = Instant::now();
        self.recent.push_back(Answer {
            at: now,
            version,
            failed,
            latency: now.duration_since(scheduled),
        });
        while self
            .recent
            .front()
            .is_some_and(|old| now.duration_since(old.at) > WINDOW)
        {
            self.recent.pop_front();
        }
    }

    fn account(&self) -> Account {
        let now = Instant::now();
        let mut versions: BTreeMap<&str, (u64, Vec<Duration>)> = BTreeMap::new();
        for answer in &self.recent {
            if now.duration_since(answer.at) <= WINDOW {
                let (failed, latencies) = versions.entry(&answer.version).or_default();
                *failed += u64::from(answer.failed);
                latencies.push(answer.latency);
            }
        }
        let lines = versions
            .into_iter()
            .map(|(version, (failed, mut latencies))| {
                latencies.sort_unstable();
                let all = latencies.len();
                VersionLine {
                    version: version.to_owned(),
                    rate: all as f64 / WINDOW.as_secs_f64(),
                    error_rate: failed as f64 / all as f64,
                    p99: latencies
                        .get((all * 99).div_ceil(100).saturating_sub(1))
                        .copied()
                        .unwrap_or_default(),
                }
            });
        Account {
            served: self.served,
            lost: self.lost,
            versions: lines.collect(),
        }
    }
}
