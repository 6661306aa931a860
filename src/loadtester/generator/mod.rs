//! The load generator. Workers take their turns from one schedule: with a rate, each turn has its time, and turns that nobody could
//! take in time are left out and counted, never made up for in a burst; without one, a worker sends as soon as it has its answer. Each
//! worker keeps a connection of its own, so that load spreads over pods also where connections, not requests, are balanced.

mod connect;
mod grpc;
mod http;
mod message;
mod tally;

pub use connect::{Destinations, NotAllowed, Tls};
pub use grpc::{GrpcPlan, health_message};
pub use http::{HttpPlan, HttpVersion};
pub use tally::{Code, Failure, Observer, Tally};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long requests that are under way may still take when a load is stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Without a rate, a worker that gets no answer at all waits so long before it tries again.
const BREATH: Duration = Duration::from_millis(50);

/// How many requests, how fast, and when it is enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Requests at the same time, at most.
    pub workers: usize,
    /// Requests per second of all workers together; none for as fast as answers come.
    pub rate: Option<f64>,
    /// Requests in all.
    pub requests: Option<u64>,
    /// How long.
    pub time: Option<Duration>,
    /// How long one request may take; none for no limit.
    pub timeout: Option<Duration>,
}

/// What came back for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub code: Code,
    /// Its length, without headers.
    pub bytes: u64,
}

/// One worker's side of a protocol: a connection that is kept, and requests one after the other on it.
trait Exchange: Send {
    /// Sends one request and reads its whole answer.
    fn exchange(&mut self) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// What a load sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// HTTP requests.
    Http(HttpPlan),
    /// Unary calls of a gRPC method.
    Grpc(GrpcPlan),
}

impl Plan {
    /// Where to, without what could be a secret in it.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Http(plan) => plan.target(),
            Self::Grpc(plan) => plan.target(),
        }
    }

    /// The host that is connected to.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Http(plan) => plan.url.host_str().unwrap_or_default(),
            Self::Grpc(plan) => &plan.host,
        }
    }
}

/// A plan that can be run: what the server has to be asked for first is in it.
///
/// # Errors
/// If the server does not say it, in words.
pub async fn prepared(
    plan: &Plan,
    destinations: &Arc<Destinations>,
    timeout: Option<Duration>,
) -> Result<Plan, String> {
    let Plan::Grpc(grpc) = plan else {
        return Ok(plan.clone());
    };
    let prepared = grpc::prepared(grpc, destinations);
    match timeout {
        None => prepared.await,
        Some(timeout) => tokio::time::timeout(timeout, prepared)
            .await
            .unwrap_or_else(|_| Err(Failure::Timeout.words().to_owned())),
    }
    .map(Plan::Grpc)
}

/// Sends one load to its end: enough requests, enough time, or `stop`.
pub async fn run(
    plan: &Plan,
    pace: &Pace,
    destinations: &Arc<Destinations>,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) {
    match plan {
        Plan::Http(plan) => {
            let plan = Arc::new(plan.clone());
            let worker = || http::Worker::new(Arc::clone(&plan), Arc::clone(destinations));
            work(pace, worker, tally, stop).await;
        }
        Plan::Grpc(plan) => {
            let plan = Arc::new(plan.clone());
            let worker = || grpc::Worker::new(Arc::clone(&plan), Arc::clone(destinations));
            work(pace, worker, tally, stop).await;
        }
    }
}

/// Asks a gRPC service once, within this time, for its health.
///
/// # Errors
/// If there is no answer, or another one than `SERVING`, in words.
pub async fn check_health(
    plan: &GrpcPlan,
    destinations: &Arc<Destinations>,
    timeout: Duration,
) -> Result<(), String> {
    let check = grpc::check_health(plan.clone(), Arc::clone(destinations));
    tokio::time::timeout(timeout, check)
        .await
        .unwrap_or_else(|_| Err(Failure::Timeout.words().to_owned()))
}

/// Asks once over HTTP. Returns the status and the body, of which no more than `most` bytes are kept.
///
/// # Errors
/// If there is no complete answer.
pub async fn fetch(
    plan: &HttpPlan,
    destinations: &Arc<Destinations>,
    timeout: Option<Duration>,
    most: usize,
) -> Result<(u16, Vec<u8>), Failure> {
    let fetch = http::fetch(plan.clone(), Arc::clone(destinations), most);
    match timeout {
        None => fetch.await,
        Some(timeout) => tokio::time::timeout(timeout, fetch)
            .await
            .unwrap_or(Err(Failure::Timeout)),
    }
}

async fn work<E: Exchange + 'static>(
    pace: &Pace,
    worker: impl Fn() -> E,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) {
    let schedule = Arc::new(Schedule::new(pace));
    let most = pace
        .requests
        .and_then(|requests| usize::try_from(requests).ok());
    let mut workers = JoinSet::new();
    for _ in 0..pace.workers.min(most.unwrap_or(usize::MAX)).max(1) {
        workers.spawn(turns(
            worker(),
            Arc::clone(&schedule),
            pace.timeout,
            Arc::clone(tally),
            stop.clone(),
        ));
    }
    let all = async { while workers.join_next().await.is_some() {} };
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        () = all => {}
        () = given_up => {}
    }
    workers.shutdown().await;
    tally.finish(schedule.left_out());
}

async fn turns<E: Exchange>(
    mut worker: E,
    schedule: Arc<Schedule>,
    timeout: Option<Duration>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    while let Some(turn) = schedule.take(Instant::now()) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(turn) => {}
        }
        let begun = Instant::now();
        let outcome = match timeout {
            None => worker.exchange().await,
            Some(timeout) => tokio::time::timeout(timeout, worker.exchange())
                .await
                .unwrap_or(Err(Failure::Timeout)),
        };
        let failed = outcome.is_err();
        tally.record(begun.elapsed(), outcome);
        if failed && schedule.period.is_none() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BREATH) => {}
            }
        }
    }
}

/// Hands out turns.
struct Schedule {
    /// From one turn to the next, where there is a rate.
    period: Option<Duration>,
    end: Option<Instant>,
    turns: Mutex<Turns>,
}

struct Turns {
    /// When the next one is due.
    next: Instant,
    left: Option<u64>,
    left_out: u64,
}

impl Schedule {
    fn new(pace: &Pace) -> Self {
        let now = Instant::now();
        Self {
            period: pace.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            end: pace.time.and_then(|time| now.checked_add(time)),
            turns: Mutex::new(Turns {
                next: now,
                left: pace.requests,
                left_out: 0,
            }),
        }
    }

    /// When the next request is to be sent; none when it was enough.
    fn take(&self, now: Instant) -> Option<Instant> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = now;
        if let Some(period) = self.period {
            due = turns.next;
            let late = now.saturating_duration_since(due);
            // Up to one period late is in time: timers are not exact.
            let missed = (late.as_secs_f64() / period.as_secs_f64()).floor() - 1.0;
            if missed >= 1.0 {
                due += period.mul_f64(missed);
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let missed = missed as u64;
                turns.left_out += missed;
            }
        }
        if self.end.is_some_and(|end| due >= end) || turns.left == Some(0) {
            return None;
        }
        turns.left = turns.left.map(|left| left - 1);
        if let Some(period) = self.period {
            turns.next = due + period;
        }
        Some(due)
    }

    fn left_out(&self) -> u64 {
        self.turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .left_out
    }
}

#[cfg(test)]
mod tests;
