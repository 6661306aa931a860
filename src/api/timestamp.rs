//! How points in time are written into status: RFC 3339, in whole seconds where Flagger's field is read by others, in
//! whole milliseconds in fields of our own.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// Writes whole seconds, as `metav1.Time` does.
#[allow(clippy::ref_option)] // the signature that serde asks for
pub(crate) fn whole_seconds<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok())
        .serialize(serializer)
}

/// Writes whole milliseconds.
#[allow(clippy::ref_option)] // the signature that serde asks for
pub(crate) fn whole_millis<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.and_then(|time| Timestamp::from_millisecond(time.as_millisecond()).ok())
        .serialize(serializer)
}
