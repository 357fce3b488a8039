//! Retries: deliveries that wait in tier topics until they are due.
//!
//! All topics under the prefix are read, also tiers that are no longer configured. A tier has one delay, so the head of a partition is about
//! the next to be due: a few are held in memory ([`super::Config::hold`]), the rest stay in the log, and waiting costs nothing.
//!
//! # How long
//!
//! Until `due − now` has passed, measured on the monotonic clock from the reading of the record, but not longer than the delay of its tier, or what
//! the writer meant (`due − append`) if that is longer: clocks that differ by an hour must not make a 30 s retry wait an hour, and the time of an
//! append is the broker's, which must not make it early. A delivery that is due
//! much later than its tier waits (`Retry-After: 86400` in the 12 h tier) would stand in the way of those behind it; it is held for
//! the delay of the tier and appended again to a tier nearer to what remains.

use std::{sync::Arc, time::Duration};

use super::{Config, Handle, Wiring, start, turn};
use crate::{
    log::{Log, LogError, Start, Subscription, Topics},
    model::Delivery,
};

/// Starts to read the retry topics: those whose name begins with `prefix` and ends with their delay (`posthaste.retry.30s`).
pub fn spawn(log: Arc<dyn Log>, group: String, prefix: String, config: Config, wiring: Wiring) -> Result<Handle, LogError> {
    let subscription = Subscription { group, topics: Topics::Prefixed(prefix.clone()), start: Start::Earliest };
    let consumer = log.consumer(subscription)?;
    start("retry", |shared| turn::Source::new(turn::Kind::Retry { prefix }, log, consumer, config, wiring, shared))
}

/// What to do with a delivery that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub time: Duration,
    /// It is not due yet when the time has passed: another tier has it then.
    pub moves_on: bool,
}

/// How long a delivery that was appended at `appended_ms` to the tier of that name waits from `now_ms` on.
pub(super) fn wait(delivery: &Delivery, appended_ms: i64, now_ms: i64, tier: Option<Duration>) -> Wait {
    /// Longest wait in a topic whose name does not tell its delay.
    const NAMELESS: Duration = Duration::from_secs(24 * 3600);
    /// What jitter and the way into the log may add to the delay of a tier.
    const SLACK: Duration = Duration::from_secs(5);

    let until = |from_ms: i64| {
        // Part of a millisecond counts as a whole one: late by that much, but never early.
        let due_ms =
            delivery.due_at.map_or(i64::MIN, |due_at| due_at.as_millisecond() + i64::from(due_at.subsec_nanosecond() % 1_000_000 > 0));
        Duration::from_millis(due_ms.saturating_sub(from_ms).try_into().unwrap_or(0))
    };
    let (remaining, meant) = (until(now_ms), until(appended_ms));
    match tier {
        Some(tier) if meant > tier + tier / 2 + SLACK => Wait { time: remaining.min(tier), moves_on: remaining > tier },
        Some(tier) => Wait { time: remaining.min(meant.max(tier)), moves_on: false },
        None => Wait { time: remaining.min(meant).min(NAMELESS), moves_on: false },
    }
}

/// The delay that a topic's name tells.
pub(super) fn delay_of(topic: &str, prefix: &str) -> Option<Duration> {
    humantime::parse_duration(topic.strip_prefix(prefix)?).ok()
}
