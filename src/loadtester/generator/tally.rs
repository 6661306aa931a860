//! The account of one load: answers by status, failures by kind, latencies, and the report that people read. It grows with the number of
//! different statuses, not with the number of requests.

use super::Answer;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Of HTTP.
    Http(u16),
    /// Of gRPC.
    Grpc(u32),
}

/// The names of gRPC's statuses, by number.
const GRPC_STATUS: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "{status}"),
            Self::Grpc(status) => match usize::try_from(*status)
                .ok()
                .and_then(|index| GRPC_STATUS.get(index))
            {
                Some(name) => f.write_str(name),
                None => write!(f, "status {status}"),
            },
        }
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// The name has no address.
    Name,
    /// The address is one that may not be asked.
    NotAllowed,
    /// The connection broke before the answer was complete.
    Broken,
    /// No complete answer in time.
    Timeout,
    /// No TLS connection; mostly the certificate.
    Tls,
    /// What came was not the protocol.
    Protocol,
    /// More redirects than are followed, or one that leads nowhere.
    Redirects,
    /// No route, no file descriptor left, and the like.
    Other,
}

impl Failure {
    /// In words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Name => "the name has no address",
            Self::NotAllowed => "the address is not allowed",
            Self::Broken => "connection broken",
            Self::Timeout => "timed out",
            Self::Tls => "no TLS connection",
            Self::Protocol => "not the protocol",
            Self::Redirects => "redirected too often or to nowhere",
            Self::Other => "no connection",
        }
    }
}

/// Is told each outcome, for metrics.
pub type Observer = Box<dyn Fn(Option<Code>, Duration) + Send + Sync>;

/// The account.
pub struct Tally {
    begun: Instant,
    observer: Option<Observer>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    answers: BTreeMap<Code, u64>,
    failures: BTreeMap<Failure, u64>,
    latencies: Latencies,
    bytes: u64,
    left_out: u64,
    took: Option<Duration>,
}

impl Tally {
    /// An empty account that begins now.
    #[must_use]
    pub fn new(observer: Option<Observer>) -> Self {
        Self {
            begun: Instant::now(),
            observer,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, latency: Duration, outcome: Result<Answer, Failure>) {
        if let Some(observer) = &self.observer {
            observer(outcome.as_ref().ok().map(|answer| answer.code), latency);
        }
        let mut inner = self.inner();
        match outcome {
            Ok(answer) => {
                *inner.answers.entry(answer.code).or_default() += 1;
                inner.bytes += answer.bytes;
                inner.latencies.add(latency);
            }
            Err(failure) => *inner.failures.entry(failure).or_default() += 1,
        }
    }

    pub(super) fn finish(&self, left_out: u64) {
        let took = self.begun.elapsed();
        let mut inner = self.inner();
        inner.left_out = left_out;
        inner.took = Some(took);
    }

    /// Answers of any status.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.inner().answers.values().sum()
    }

    /// Answers with this status.
    #[must_use]
    pub fn answers_with(&self, code: Code) -> u64 {
        self.inner().answers.get(&code).copied().unwrap_or(0)
    }

    /// Requests without an answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.inner().failures.values().sum()
    }

    /// Turns that no worker was free for.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.inner().left_out
    }

    /// The kinds of failures, the most frequent first.
    #[must_use]
    pub fn failures(&self) -> Vec<(Failure, u64)> {
        let mut all: Vec<_> = self
            .inner()
            .failures
            .iter()
            .map(|(failure, count)| (failure.clone(), *count))
            .collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// One line: how far it is.
    #[must_use]
    pub fn progress(&self) -> String {
        let inner = self.inner();
        let answers: Vec<String> = inner
            .answers
            .iter()
            .map(|(code, count)| format!("{code} {count} times"))
            .chain(
                inner
                    .failures
                    .iter()
                    .map(|(failure, count)| format!("{} {count} times", failure.words())),
            )
            .collect();
        let answers = if answers.is_empty() {
            "no answer yet".to_owned()
        } else {
            answers.join(", ")
        };
        let took = inner.took.unwrap_or_else(|| self.begun.elapsed());
        format!("{:.1} s: {answers}", took.as_secs_f64())
    }

    /// The report; `what` says what was sent where.
    #[must_use]
    pub fn report(&self, what: &str) -> String {
        let inner = self.inner();
        let took = inner
            .took
            .unwrap_or_else(|| self.begun.elapsed())
            .as_secs_f64();
        let answered: u64 = inner.answers.values().sum();
        let unanswered: u64 = inner.failures.values().sum();
        let all = answered + unanswered;
        let mut text = format!(
            "{what}\n{all} requests in {took:.1} s, {:.1} a second\n",
            if took > 0.0 { all as f64 / took } else { 0.0 }
        );
        if inner.left_out > 0 {
            let _ = writeln!(
                text,
                "{} more were due while every worker was waiting for an answer, and were left out",
                inner.left_out
            );
        }
        let percent = |count: u64| 100.0 * count as f64 / all as f64;
        if answered > 0 {
            text.push_str("answers\n");
            for (code, count) in &inner.answers {
                let _ = writeln!(
                    text,
                    "  {:<20}{count:>10}{:>9.2} %",
                    code.to_string(),
                    percent(*count)
                );
            }
        }
        if unanswered > 0 {
            text.push_str("no answer\n");
            for (failure, count) in &inner.failures {
                let _ = writeln!(
                    text,
                    "  {:<20}{count:>10}{:>9.2} %",
                    failure.words(),
                    percent(*count)
                );
            }
        }
        if answered > 0 {
            text.push_str("latency of answers\n");
            let latencies = &inner.latencies;
            for (name, value) in [
                ("mean", latencies.mean()),
                ("p50", latencies.at(50.0)),
                ("p75", latencies.at(75.0)),
                ("p90", latencies.at(90.0)),
                ("p95", latencies.at(95.0)),
                ("p99", latencies.at(99.0)),
                ("longest", latencies.longest),
            ] {
                let _ = writeln!(text, "  {name:<20}{:>10}", shown(value));
            }
            let _ = writeln!(text, "received {} bytes", inner.bytes);
        }
        text
    }
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{:.2} ms", seconds * 1000.0)
    }
}

/// Latencies in classes that are at most one part in 64 wide: exact enough to read, and of one size whatever is counted.
#[derive(Default)]
struct Latencies {
    classes: Vec<u64>,
    count: u64,
    sum: Duration,
    longest: Duration,
}

/// Classes of a microsecond each, before they grow.
const EXACT: u64 = 128;
/// Classes to each doubling from there on.
const TO_A_DOUBLING: usize = 64;

impl Latencies {
    fn class(micros: u64) -> usize {
        if micros < EXACT {
            return usize::try_from(micros).unwrap_or(0);
        }
        let doublings = micros.ilog2() - 6;
        let place = usize::try_from(micros >> doublings).unwrap_or(0) - TO_A_DOUBLING;
        (doublings as usize + 1) * TO_A_DOUBLING + place
    }

    /// The largest value of a class, in microseconds.
    fn upper(class: usize) -> u64 {
        if class < 2 * TO_A_DOUBLING {
            return class as u64;
        }
        let doublings = class / TO_A_DOUBLING - 1;
        let place = (class % TO_A_DOUBLING + TO_A_DOUBLING) as u64;
        ((place + 1) << doublings) - 1
    }

    fn add(&mut self, latency: Duration) {
        let class = Self::class(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.sum += latency;
        self.longest = self.longest.max(latency);
    }

    fn mean(&self) -> Duration {
        if self.count == 0 {
            return Duration::ZERO;
        }
        self.sum.div_f64(self.count as f64)
    }

    /// By nearest rank: the smallest latency that so many percent did not exceed.
    fn at(&self, percent: f64) -> Duration {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = ((self.count as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(Self::upper(class)).min(self.longest);
            }
        }
        self.longest
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_sixtieth_of_the_truth() {
        let mut latencies = Latencies::default();
        for micros in 1..=100_000_u64 {
            latencies.add(Duration::from_micros(micros));
        }
        for percent in [1.0_f64, 50.0, 90.0, 99.0, 99.9] {
            let truth = percent * 1000.0;
            let found = latencies.at(percent).as_secs_f64() * 1e6;
            assert!(
                found >= truth && found <= truth * (1.0 + 1.0 / 60.0),
                "p{percent}: {found}"
            );
        }
        assert_eq!(latencies.at(100.0), Duration::from_millis(100));
        for micros in [0, 1, 127, 128, 129, 255, 256, 1_000_003, 3_600_000_000] {
            let class = Latencies::class(micros);
            assert!(
                Latencies::upper(class) >= micros
                    && (class == 0 || Latencies::upper(class - 1) < micros),
                "{micros}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_says_what_came_back() {
        let tally = Tally::new(None);
        for (milliseconds, code) in [(1, 200), (2, 200), (40, 503)] {
            let answer = Answer {
                code: Code::Http(code),
                bytes: 10,
            };
            tally.record(Duration::from_millis(milliseconds), Ok(answer));
        }
        tally.record(Duration::from_millis(1), Err(Failure::Refused));
        tokio::time::advance(Duration::from_secs(2)).await;
        tally.finish(5);
        assert_eq!(
            tally.report("hey http://app/"),
            "hey http://app/
4 requests in 2.0 s, 2.0 a second
5 more were due while every worker was waiting for an answer, and were left out
answers
  200                          2    50.00 %
  503                          1    25.00 %
no answer
  connection refused           1    25.00 %
latency of answers
  mean                  14.33 ms
  p50                    2.01 ms
  p75                   40.00 ms
  p90                   40.00 ms
  p95                   40.00 ms
  p99                   40.00 ms
  longest               40.00 ms
received 30 bytes
"
        );
        assert_eq!(
            tally.progress(),
            "2.0 s: 200 2 times, 503 1 times, connection refused 1 times"
        );
        assert_eq!(Code::Grpc(14).to_string(), "Unavailable");
        assert_eq!(Code::Grpc(99).to_string(), "status 99");
    }
}
