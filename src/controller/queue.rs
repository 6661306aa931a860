//! The work queue: which canary is looked at next. A canary stands in it once however often it is woken, is never worked on twice at
//! the same time, and can be put off until a moment. Errors put it off longer and longer.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First and longest wait after errors in a row.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_mins(1);

/// Names one Canary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanaryKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl CanaryKey {
    /// Names a canary.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for CanaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<CanaryKey>,
    queued: HashSet<CanaryKey>,
    running: HashSet<CanaryKey>,
    /// Woken while running: to be looked at again at once.
    dirty: HashSet<CanaryKey>,
    alarms: BTreeSet<(Instant, CanaryKey)>,
    alarm_of: HashMap<CanaryKey, Instant>,
    failures: HashMap<CanaryKey, u32>,
}

impl Inner {
    fn enqueue(&mut self, key: CanaryKey) {
        if self.running.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn set_alarm(&mut self, key: CanaryKey, at: Instant) {
        self.clear_alarm(&key);
        self.alarms.insert((at, key.clone()));
        self.alarm_of.insert(key, at);
    }

    fn clear_alarm(&mut self, key: &CanaryKey) {
        if let Some(at) = self.alarm_of.remove(key) {
            self.alarms.remove(&(at, key.clone()));
        }
    }

    fn ring(&mut self, now: Instant) {
        while let Some((at, key)) = self.alarms.first().cloned() {
            if at > now {
                break;
            }
            self.clear_alarm(&key);
            self.enqueue(key);
        }
    }
}

/// The queue. One consumer calls [`Queue::next`], anybody may wake.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a canary looked at as soon as there is a free hand.
    pub fn wake(&self, key: CanaryKey) {
        self.lock().enqueue(key);
        self.changed.notify_one();
    }

    /// The next canary; it counts as running until [`Queue::done`] or [`Queue::failed`].
    pub async fn next(&self) -> CanaryKey {
        loop {
            let alarm = {
                let mut inner = self.lock();
                inner.ring(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.queued.remove(&key);
                    inner.running.insert(key.clone());
                    return key;
                }
                inner.alarms.first().map(|(at, _)| *at)
            };
            match alarm {
                Some(at) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// The pass over a canary ended well: it sleeps for `delay`, or until it is woken where there is none.
    pub fn done(&self, key: CanaryKey, delay: Option<Duration>) {
        let mut inner = self.lock();
        inner.failures.remove(&key);
        inner.running.remove(&key);
        inner.clear_alarm(&key);
        if inner.dirty.remove(&key) || delay.is_some_and(|delay| delay.is_zero()) {
            inner.enqueue(key);
        } else if let Some(delay) = delay {
            inner.set_alarm(key, Instant::now() + delay);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// The pass failed: the canary is put off by its back-off (1 s, 2 s … 60 s with jitter), by no less than `least`. Returns the delay.
    pub fn failed(&self, key: CanaryKey, least: Duration) -> Duration {
        let mut inner = self.lock();
        let failures = inner.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let full = FIRST_BACK_OFF
            .saturating_mul(1 << (*failures - 1).min(6))
            .min(LONGEST_BACK_OFF);
        let delay = full.mul_f64(rand::random_range(0.75..=1.0)).max(least);
        inner.running.remove(&key);
        if inner.dirty.remove(&key) && *inner.failures.get(&key).unwrap_or(&1) == 1 {
            // Something changed meanwhile, which may well be the cure: the first failure does not wait.
            inner.enqueue(key);
        } else {
            inner.set_alarm(key, Instant::now() + delay);
        }
        drop(inner);
        self.changed.notify_one();
        delay
    }

    /// The canary is gone.
    pub fn forget(&self, key: &CanaryKey) {
        let mut inner = self.lock();
        inner.failures.remove(key);
        inner.running.remove(key);
        inner.clear_alarm(key);
        // One of the same name may have been created meanwhile.
        if inner.dirty.remove(key) {
            inner.enqueue(key.clone());
        }
        drop(inner);
        self.changed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    fn key(name: &str) -> CanaryKey {
        CanaryKey::new("test", name)
    }

    async fn nothing_within(queue: &Queue, time: Duration) -> bool {
        timeout(time, queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_stands_in_the_queue_once() {
        let queue = Queue::default();
        queue.wake(key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert!(nothing_within(&queue, Duration::from_hours(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_woken_while_it_is_worked_on_is_looked_at_again_afterwards() {
        let queue = Queue::default();
        queue.wake(key("a"));
        let first = queue.next().await;
        queue.wake(key("a"));
        assert!(nothing_within(&queue, Duration::from_mins(1)).await);
        queue.done(first, Some(Duration::from_hours(1)));
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_sleeps_until_its_deadline_or_until_it_is_woken() {
        let queue = Queue::default();
        queue.wake(key("a"));
        let first = queue.next().await;
        queue.done(first, Some(Duration::from_mins(1)));
        assert!(nothing_within(&queue, Duration::from_secs(59)).await);
        assert_eq!(
            timeout(Duration::from_secs(2), queue.next()).await.unwrap(),
            key("a")
        );
        queue.done(key("a"), Some(Duration::from_mins(1)));
        queue.wake(key("a"));
        assert_eq!(
            timeout(Duration::from_secs(1), queue.next()).await.unwrap(),
            key("a")
        );
        // The deadline of the pass before does not ring any more.
        queue.done(key("a"), None);
        assert!(nothing_within(&queue, Duration::from_hours(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_in_a_row_put_a_canary_off_longer_and_longer() {
        let queue = Queue::default();
        let mut delays = Vec::new();
        queue.wake(key("a"));
        for _ in 0..9 {
            let key = queue.next().await;
            delays.push(queue.failed(key, Duration::ZERO));
        }
        assert!(delays[0] <= Duration::from_secs(1) && delays[0] >= Duration::from_millis(750));
        assert!(delays[8] <= Duration::from_mins(1) && delays[8] >= Duration::from_secs(45));
        let key = queue.next().await;
        queue.done(key.clone(), Some(Duration::ZERO));
        let key = queue.next().await;
        assert!(
            queue.failed(key, Duration::ZERO) <= Duration::from_secs(1),
            "a good pass forgets the failures"
        );
    }
}
