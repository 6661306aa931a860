//! The right to write: until when this replica may, by its own clock alone. Whoever holds no lease has none, and each request that
//! changes something asks here first and ends before the right does. The clock goes on while the process is stopped and while the
//! machine sleeps, so that a replica that wakes up late knows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A moment on a clock of this machine that never goes back, in milliseconds since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
        Self(seconds.saturating_mul(1000) + nanoseconds / 1_000_000)
    }

    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds))
    }

    /// How long until then; zero once it is past.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(Self::now().0))
    }
}

/// Shared by whoever renews the right and all who need it.
#[derive(Clone, Debug)]
pub struct Tenure {
    until: Arc<AtomicU64>,
    gained: Arc<Notify>,
}

impl Tenure {
    /// The right of somebody who is alone.
    #[must_use]
    pub fn forever() -> Self {
        Self::ending(u64::MAX)
    }

    /// No right yet.
    #[must_use]
    pub fn none() -> Self {
        Self::ending(0)
    }

    fn ending(until: u64) -> Self {
        Self {
            until: Arc::new(AtomicU64::new(until)),
            gained: Arc::new(Notify::new()),
        }
    }

    /// From now on the right holds until `end`.
    pub fn extend(&self, end: Moment) {
        let before = Moment(self.until.swap(end.0, Ordering::SeqCst));
        if before.remaining().is_zero() {
            self.gained.notify_one();
        }
    }

    /// The right ends now.
    pub fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// How long it still holds; zero for not at all.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Moment(self.until.load(Ordering::SeqCst)).remaining()
    }

    /// Whether it holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Waits until the right is gained after it was not there. For one waiter.
    pub async fn gained(&self) {
        self.gained.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_ends_by_itself() {
        let tenure = Tenure::none();
        assert!(!tenure.holds());
        tenure.extend(Moment::now().after(Duration::from_mins(1)));
        assert!(tenure.holds() && tenure.remaining() <= Duration::from_mins(1));
        tenure.extend(Moment::now());
        assert!(!tenure.holds());
        tenure.extend(Moment::now().after(Duration::from_mins(1)));
        tenure.end();
        assert!(!tenure.holds());
        assert!(Tenure::forever().holds());
    }

    #[tokio::test]
    async fn gaining_is_noticed_and_renewing_is_not() {
        let tenure = Tenure::none();
        tenure.extend(Moment::now().after(Duration::from_mins(1)));
        tenure.gained().await;
        tenure.extend(Moment::now().after(Duration::from_mins(2)));
        let again = tokio::time::timeout(Duration::from_millis(1), tenure.gained()).await;
        assert!(again.is_err());
    }
}
