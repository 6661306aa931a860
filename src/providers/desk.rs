//! The desk before the backends. Equal questions of many canaries are asked once, and a backend is asked by so many at a time and so often as
//! it bears:
//!
//! ```text
//!   canary ─┐                       ┌─ lane of canary a ─┐
//!   canary ─┼─▶ same question? ─no─▶├─ lane of canary b ─┼─▶ turnstile of the backend ─▶ backend
//!   canary ─┘        └─yes─▶ wait   └─ …                 ┘   so many inside, so many each second
//! ```
//!
//! An answer is shared while it is on its way and until [`FRESH`] after it was asked for, which is shorter than any interval, so that no canary is
//! given its own answer of the round before. Errors are shared with those who waited and with nobody later. Those who wait for a backend take
//! turns by canary, so one with many metrics does not hold up the others; a line that is too long turns newcomers away.

use super::{Credentials, Providers, QueryRequest};
use crate::analysis::{Measurement, ProviderConfig};
use crate::api::MetricProviderType;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

/// How old an answer may be that is given to somebody who asks the same, counted from when it was asked for.
pub const FRESH: Duration = Duration::from_secs(1);
/// Questions that wait for one backend.
const LONGEST_LINE: usize = 512;
/// How long a question waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long one question may keep its turn, tries and diagnosis included. Backends have shorter deadlines of their own.
const LONGEST_ANSWER: Duration = Duration::from_mins(1);
/// Questions that are under way at the same time, whatever the backend: each may hold an answer of [`super::http::MAX_ANSWER`].
const AT_ONCE: usize = 64;
/// Turnstiles that are kept before idle ones are cleared away.
const TURNSTILES: usize = 64;

/// Whoever answers questions.
pub trait Ask: Send + Sync {
    /// Asks the question.
    fn ask(&self, request: QueryRequest) -> BoxFuture<'_, Measurement>;
    /// Whether the backend can be reached and lets us in.
    fn probe(&self, request: QueryRequest) -> BoxFuture<'_, Result<(), String>>;
}

impl Ask for Providers {
    fn ask(&self, request: QueryRequest) -> BoxFuture<'_, Measurement> {
        Box::pin(async move { Providers::ask(self, &request).await })
    }

    fn probe(&self, request: QueryRequest) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { Providers::probe(self, &request).await })
    }
}

/// What a backend bears.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit {
    /// Questions at the same time.
    at_once: usize,
    /// Questions each second, in the long run.
    per_second: u32,
    /// Questions that may come at once after a quiet time.
    burst: u32,
}

/// Of servers that people run themselves.
const OWN: Limit = Limit {
    at_once: 8,
    per_second: 50,
    burst: 100,
};
/// Of services that count requests and refuse those beyond what was paid for.
const RENTED: Limit = Limit {
    at_once: 4,
    per_second: 5,
    burst: 20,
};

/// The types that have servers of one's own; all others are rented.
const SELF_HOSTED: [MetricProviderType; 5] = [
    MetricProviderType::Prometheus,
    MetricProviderType::Influxdb,
    MetricProviderType::Graphite,
    MetricProviderType::Keptn,
    MetricProviderType::ExternalMetrics,
];

fn limit_of(provider_type: MetricProviderType) -> Limit {
    if SELF_HOSTED.contains(&provider_type) {
        OWN
    } else {
        RENTED
    }
}

/// What makes two questions the same. Credentials stand in it as a digest, so that none is kept longer than its question.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    config: ProviderConfig,
    credentials: Option<[u8; 32]>,
    query: String,
    interval: Duration,
}

impl Question {
    fn of(request: &QueryRequest) -> Self {
        Self {
            config: request.config.clone(),
            credentials: request.credentials.as_ref().map(digest),
            query: request.query.clone(),
            interval: request.interval,
        }
    }
}

/// Lengths stand before the texts, so that different entries never give the same bytes.
fn digest(credentials: &Credentials) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (key, text) in credentials.entries() {
        for part in [key, text] {
            digest.update(part.len().to_le_bytes());
            digest.update(part.as_bytes());
        }
    }
    digest.finalize().into()
}

struct Flight {
    asked: Instant,
    answer: Shared<BoxFuture<'static, Measurement>>,
}

impl Flight {
    fn is_shared_at(&self, now: Instant) -> bool {
        match self.answer.peek() {
            None => true,
            Some(Measurement::Error(_)) => false,
            Some(_) => now.duration_since(self.asked) < FRESH,
        }
    }
}

/// One backend: what is asked of the same address.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Backend {
    provider_type: MetricProviderType,
    address: Option<String>,
    region: Option<String>,
}

impl Backend {
    fn of(config: &ProviderConfig) -> Self {
        Self {
            provider_type: config.provider_type,
            address: config.address.clone(),
            region: config.region.clone(),
        }
    }
}

/// The desk.
pub struct Desk {
    asks: Arc<dyn Ask>,
    flights: Mutex<HashMap<Question, Flight>>,
    turnstiles: Mutex<HashMap<Backend, Arc<Turnstile>>>,
    everywhere: Arc<Semaphore>,
}

impl Desk {
    /// A desk before these backends.
    #[must_use]
    pub fn new(asks: Arc<dyn Ask>) -> Self {
        Self {
            asks,
            flights: Mutex::default(),
            turnstiles: Mutex::default(),
            everywhere: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Asks, or shares the answer of somebody who asks the same. Those with the same `lane` stand in one line.
    pub async fn ask(&self, lane: &str, request: QueryRequest) -> Measurement {
        let answer = {
            let now = Instant::now();
            let mut flights = locked(&self.flights);
            flights.retain(|_, flight| flight.is_shared_at(now));
            let flight = flights
                .entry(Question::of(&request))
                .or_insert_with(|| Flight {
                    asked: now,
                    answer: self.flight(lane, request),
                });
            flight.answer.clone()
        };
        answer.await
    }

    /// Whether the backend can be reached and lets us in.
    pub async fn probe(&self, lane: &str, request: QueryRequest) -> Result<(), String> {
        let turnstile = self.turnstile(&request.config);
        let _turn = turnstile.enter(lane).await?;
        self.asks.probe(request).await
    }

    fn flight(&self, lane: &str, request: QueryRequest) -> Shared<BoxFuture<'static, Measurement>> {
        let turnstile = self.turnstile(&request.config);
        let (asks, everywhere) = (Arc::clone(&self.asks), Arc::clone(&self.everywhere));
        let lane = lane.to_owned();
        async move {
            let _turn = match turnstile.enter(&lane).await {
                Ok(turn) => turn,
                Err(why) => return Measurement::Error(why),
            };
            let _place = everywhere.acquire().await;
            let backend = request.config.provider_type;
            tokio::time::timeout(LONGEST_ANSWER, asks.ask(request))
                .await
                .unwrap_or_else(|_| {
                    Measurement::Error(format!(
                        "the metrics backend ({backend}) gave no answer within {LONGEST_ANSWER:?}"
                    ))
                })
        }
        .boxed()
        .shared()
    }

    fn turnstile(&self, config: &ProviderConfig) -> Arc<Turnstile> {
        let mut turnstiles = locked(&self.turnstiles);
        if turnstiles.len() >= TURNSTILES {
            turnstiles.retain(|_, turnstile| Arc::strong_count(turnstile) > 1);
        }
        let turnstile = turnstiles
            .entry(Backend::of(config))
            .or_insert_with(|| Arc::new(Turnstile::new(config.provider_type)));
        Arc::clone(turnstile)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets so many in at a time, and so many each second, by turns of their lanes.
struct Turnstile {
    provider_type: MetricProviderType,
    limit: Limit,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    inside: usize,
    waiting: usize,
    /// The lanes that somebody waits in, the next one first.
    order: VecDeque<String>,
    lanes: HashMap<String, VecDeque<oneshot::Sender<Turn>>>,
    /// When the next one may go if all go at the even pace of the limit.
    pace: Option<Instant>,
}

impl Line {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let lane = self.order.pop_front()?;
        let waiting = self.lanes.get_mut(&lane)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.order.push_back(lane);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }
}

/// The right to ask, until it is dropped.
struct Turn(Arc<Turnstile>);

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut line = locked(&self.0.line);
            line.inside -= 1;
            let next = line.next();
            line.inside += usize::from(next.is_some());
            next
        };
        if let Some(next) = next {
            // One that went away gives the turn back, and its drop hands it on.
            drop(next.send(Turn(Arc::clone(&self.0))));
        }
    }
}

impl Turnstile {
    fn new(provider_type: MetricProviderType) -> Self {
        Self {
            provider_type,
            limit: limit_of(provider_type),
            line: Mutex::default(),
        }
    }

    async fn enter(self: &Arc<Self>, lane: &str) -> Result<Turn, String> {
        let place = self.stand_in_line(lane)?;
        let turn = match place {
            Ok(turn) => turn,
            Err(place) => tokio::time::timeout(LONGEST_WAIT, place)
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or_else(|| {
                    format!(
                        "the metrics backend ({}) has so many questions that this one had no turn within {LONGEST_WAIT:?}",
                        self.provider_type
                    )
                })?,
        };
        tokio::time::sleep(self.pause()).await;
        Ok(turn)
    }

    /// A turn at once, or the place where it will be handed over.
    fn stand_in_line(
        self: &Arc<Self>,
        lane: &str,
    ) -> Result<Result<Turn, oneshot::Receiver<Turn>>, String> {
        let mut standing = locked(&self.line);
        if standing.inside < self.limit.at_once {
            standing.inside += 1;
            return Ok(Ok(Turn(Arc::clone(self))));
        }
        if standing.waiting >= LONGEST_LINE {
            return Err(format!(
                "the metrics backend ({}) has {} questions waiting already; more are not taken",
                self.provider_type, standing.waiting
            ));
        }
        let (sender, receiver) = oneshot::channel();
        standing.waiting += 1;
        if !standing.lanes.contains_key(lane) {
            standing.order.push_back(lane.to_owned());
        }
        standing
            .lanes
            .entry(lane.to_owned())
            .or_default()
            .push_back(sender);
        Ok(Err(receiver))
    }

    /// How long one who was let in waits, so that the backend is asked no more often than it bears.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let step = Duration::from_secs(1) / self.limit.per_second;
        let credit = step * self.limit.burst.saturating_sub(1);
        let mut line = locked(&self.line);
        let at = line.pace.map_or(now, |pace| pace.max(now));
        line.pace = Some(at + step);
        at.duration_since(now).saturating_sub(credit)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A backend that takes a second for each answer, and counts.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
        inside: AtomicUsize,
        most_inside: AtomicUsize,
        fails: bool,
    }

    impl Ask for Slow {
        fn ask(&self, _: QueryRequest) -> BoxFuture<'_, Measurement> {
            Box::pin(async {
                let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
                let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_inside.fetch_max(inside, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.inside.fetch_sub(1, Ordering::SeqCst);
                if self.fails {
                    Measurement::Error("down".to_owned())
                } else {
                    Measurement::Value(number as f64)
                }
            })
        }

        fn probe(&self, _: QueryRequest) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn request(query: &str) -> QueryRequest {
        QueryRequest {
            config: ProviderConfig {
                address: Some("http://prometheus:9090".to_owned()),
                ..ProviderConfig::default()
            },
            credentials: None,
            query: query.to_owned(),
            interval: Duration::from_mins(1),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn desk() -> (Arc<Slow>, Arc<Desk>) {
        let slow = Arc::new(Slow::default());
        let asks: Arc<dyn Ask> = Arc::<Slow>::clone(&slow);
        (slow, Arc::new(Desk::new(asks)))
    }

    async fn ask_all(
        desk: &Desk,
        questions: impl IntoIterator<Item = (String, QueryRequest)>,
    ) -> Vec<(Measurement, Duration)> {
        let begun = Instant::now();
        futures::future::join_all(questions.into_iter().map(|(lane, request)| async move {
            let answer = desk.ask(&lane, request).await;
            (answer, begun.elapsed())
        }))
        .await
    }

    fn seconds(elapsed: Duration) -> u64 {
        // The clock of tokio goes by whole milliseconds.
        (elapsed + Duration::from_millis(10)).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_question_of_fifty_canaries_is_asked_once() {
        let (slow, desk) = desk();
        let answers = ask_all(
            &desk,
            (0..50).map(|canary| (format!("canary-{canary}"), request("up"))),
        )
        .await;
        assert!(
            answers
                .iter()
                .all(|(answer, _)| *answer == Measurement::Value(1.0))
        );
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_again_for_a_second_after_it_was_asked_for_and_no_longer() {
        struct Quick(AtomicUsize);
        impl Ask for Quick {
            fn ask(&self, _: QueryRequest) -> BoxFuture<'_, Measurement> {
                let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
                Box::pin(async move { Measurement::NoData(number.to_string()) })
            }
            fn probe(&self, _: QueryRequest) -> BoxFuture<'_, Result<(), String>> {
                Box::pin(async { Ok(()) })
            }
        }
        let desk = Desk::new(Arc::new(Quick(AtomicUsize::new(0))));
        for (wait, expected) in [(0, "1"), (900, "1"), (100, "2"), (999, "2"), (1, "3")] {
            tokio::time::advance(Duration::from_millis(wait)).await;
            assert_eq!(
                desk.ask("a", request("up")).await,
                Measurement::NoData(expected.to_owned()),
                "{wait}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_queries_backends_spans_and_credentials_are_other_questions() {
        let (slow, desk) = desk();
        let mut elsewhere = request("up");
        elsewhere.config.address = Some("http://thanos:9090".to_owned());
        let mut longer = request("up");
        longer.interval = Duration::from_mins(2);
        let secret = |token: &str| QueryRequest {
            credentials: Some(Credentials::from_entries([("token", token)])),
            ..request("up")
        };
        let questions = [
            request("up"),
            request("down"),
            elsewhere,
            longer,
            secret("a"),
            secret("b"),
        ];
        let lanes = questions
            .into_iter()
            .map(|request| ("a".to_owned(), request));
        ask_all(&desk, lanes).await;
        assert_eq!(slow.asked.load(Ordering::SeqCst), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_shared_with_those_who_waited_and_asked_again_by_those_who_come_later() {
        let slow = Arc::new(Slow {
            fails: true,
            ..Slow::default()
        });
        let desk = Desk::new(Arc::<Slow>::clone(&slow));
        let both = || (0..2).map(|canary| (canary.to_string(), request("up")));
        let answers = ask_all(&desk, both()).await;
        assert!(
            answers
                .iter()
                .all(|(answer, _)| matches!(answer, Measurement::Error(_)))
        );
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
        ask_all(&desk, both()).await;
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_asked_by_so_many_at_a_time_as_it_bears_and_the_queries_of_one_step_at_once()
     {
        let (slow, desk) = desk();
        let metrics = |count: usize| {
            (0..count).map(|metric| ("a".to_owned(), request(&format!("metric_{metric}"))))
        };
        // Five metrics of one canary take as long as one.
        let answers = ask_all(&desk, metrics(5)).await;
        assert!(answers.iter().all(|(_, took)| seconds(*took) == 1));
        assert_eq!(slow.most_inside.load(Ordering::SeqCst), 5);
        tokio::time::advance(Duration::from_mins(1)).await;
        let answers = ask_all(&desk, metrics(20)).await;
        let took: Vec<u64> = answers.iter().map(|(_, took)| seconds(*took)).collect();
        assert_eq!(took.iter().max(), Some(&3));
        assert_eq!(slow.most_inside.load(Ordering::SeqCst), OWN.at_once);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_slow_holds_up_no_other() {
        let (_, desk) = desk();
        let many = (0..100).map(|metric| ("a".to_owned(), request(&format!("metric_{metric}"))));
        let mut other = request("up");
        other.config.address = Some("http://thanos:9090".to_owned());
        let answers = ask_all(&desk, many.chain([("b".to_owned(), other)])).await;
        assert_eq!(seconds(answers.last().unwrap().1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn canaries_take_turns_whatever_the_number_of_their_metrics() {
        let (_, desk) = desk();
        let greedy =
            (0..40).map(|metric| ("greedy".to_owned(), request(&format!("metric_{metric}"))));
        let modest = [("modest".to_owned(), request("up"))];
        let answers = ask_all(&desk, greedy.chain(modest)).await;
        assert_eq!(
            seconds(answers.last().unwrap().1),
            2,
            "the second turn is the modest one's"
        );
        assert_eq!(seconds(answers[39].1), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rented_service_is_asked_no_more_often_than_it_allows() {
        struct Times(Mutex<Vec<Instant>>);
        impl Ask for Times {
            fn ask(&self, _: QueryRequest) -> BoxFuture<'_, Measurement> {
                locked(&self.0).push(Instant::now());
                Box::pin(async { Measurement::Value(1.0) })
            }
            fn probe(&self, _: QueryRequest) -> BoxFuture<'_, Result<(), String>> {
                Box::pin(async { Ok(()) })
            }
        }
        let times = Arc::new(Times(Mutex::default()));
        let desk = Desk::new(Arc::<Times>::clone(&times));
        let begun = Instant::now();
        let questions = (0..30).map(|metric| {
            let mut request = request(&format!("metric_{metric}"));
            request.config.provider_type = MetricProviderType::Datadog;
            (metric.to_string(), request)
        });
        ask_all(&desk, questions).await;
        let times = locked(&times.0);
        let within = |limit: Duration| {
            times
                .iter()
                .filter(|at| at.duration_since(begun) <= limit)
                .count()
        };
        assert_eq!(within(Duration::from_millis(100)), RENTED.burst as usize);
        assert_eq!(
            within(Duration::from_millis(1050)),
            RENTED.burst as usize + 5
        );
        assert_eq!(within(Duration::from_millis(2050)), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_too_long_turns_newcomers_away_and_a_wait_that_is_too_long_ends() {
        let (slow, desk) = desk();
        let count = OWN.at_once + LONGEST_LINE + 1;
        let questions =
            (0..count).map(|metric| ("a".to_owned(), request(&format!("metric_{metric}"))));
        let answers = ask_all(&desk, questions).await;
        assert_eq!(
            answers.last().unwrap().0,
            Measurement::Error("the metrics backend (prometheus) has 512 questions waiting already; more are not taken".to_owned())
        );
        let late = answers
            .iter()
            .filter(|(answer, _)| matches!(answer, Measurement::Error(why) if why.contains("no turn within 30s")))
            .count();
        assert!(late > 0);
        assert!(
            answers
                .iter()
                .all(|(_, took)| *took <= LONGEST_WAIT + Duration::from_secs(1))
        );
        assert_eq!(slow.inside.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_turn_of_one_who_went_away_is_given_to_the_next() {
        let turnstile = Arc::new(Turnstile::new(MetricProviderType::Datadog));
        let mut inside = Vec::new();
        for _ in 0..RENTED.at_once {
            inside.push(turnstile.enter("a").await.unwrap());
        }
        let impatient = Box::pin(turnstile.enter("a"));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), impatient)
                .await
                .is_err()
        );
        let patient = turnstile.enter("a");
        inside.clear();
        let turn = tokio::time::timeout(Duration::from_secs(1), patient).await;
        drop(turn.unwrap().unwrap());
        let line = locked(&turnstile.line);
        assert_eq!((line.inside, line.waiting), (0, 0));
    }
}
