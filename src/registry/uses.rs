//! When a token was used last.
//!
//! A use is noted in memory, which costs a request two atomic operations, and stored at most once an hour, beside the request and not on its
//! path. So what a restart or another instance knows of it is up to an hour old, and never nothing.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::model::{Timestamp, time::timestamp_from_ms};

/// Between two records of one token (milliseconds).
const EVERY: i64 = 3_600_000;

/// The uses of one token; times in milliseconds since the epoch, 0 for never.
#[derive(Debug, Default)]
pub struct Use {
    last: AtomicI64,
    /// When it was stored last, or is being stored.
    stored: AtomicI64,
}

impl Use {
    /// Notes a use. True for one caller an hour, who then has to store it.
    pub fn note(&self, now: Timestamp) -> bool {
        let now = now.as_millisecond();
        self.last.fetch_max(now, Ordering::Relaxed);
        let stored = self.stored.load(Ordering::Relaxed);
        let is_due = stored == 0 || now.saturating_sub(stored) >= EVERY;
        is_due && self.stored.compare_exchange(stored, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes in what was stored, here or by another instance.
    pub fn stored(&self, at: Timestamp) {
        self.last.fetch_max(at.as_millisecond(), Ordering::Relaxed);
        self.stored.fetch_max(at.as_millisecond(), Ordering::Relaxed);
    }

    pub fn last(&self) -> Option<Timestamp> {
        let last = self.last.load(Ordering::Relaxed);
        (last > 0).then(|| timestamp_from_ms(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_due_to_be_stored_once_an_hour_and_the_last_one_is_known() {
        let at = |ms| timestamp_from_ms(ms);
        let uses = Use::default();
        assert_eq!(uses.last(), None);
        for (now, is_due) in [(1_000, true), (2_000, false), (EVERY, false), (EVERY + 1_000, true), (EVERY + 1_001, false)] {
            assert_eq!((uses.note(at(now)), uses.last()), (is_due, Some(at(now))), "{now}");
        }
        uses.stored(at(3 * EVERY));
        assert_eq!((uses.note(at(3 * EVERY + 1)), uses.last()), (false, Some(at(3 * EVERY + 1))), "another instance has stored it");
        uses.stored(at(5));
        assert_eq!(uses.last(), Some(at(3 * EVERY + 1)), "an older one changes nothing");
    }
}
