//! Trouble that lasts, told when it begins and when it is over.
//!
//! A full disk or an absent broker fails every append, thousands of them in a second. A line for each would bury what else there is to read, and on a
//! full disk the log of the daemon itself is what fills it further. Where some calls fail and others succeed in turn (one partition of many, reads
//! beside writes), it is over only after none has failed for a minute; a failure after such a minute is another trouble, whether or not something
//! succeeded in between.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// No failure for so long: what succeeds now is more than a gap in the trouble. Longer than a broker takes to fail an append (20 s) that is tried
/// again and again.
const QUIET: Duration = Duration::from_secs(60);

/// One kind of trouble of one part.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Whether the time of the last failure is there: a success without trouble before it takes no lock.
    is_on: AtomicBool,
    failed_at: Mutex<Option<Instant>>,
}

impl Trouble {
    /// Notes a failure. Whether it is the first, which is to be told.
    pub fn begins(&self, now: Instant) -> bool {
        let before = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        self.is_on.store(true, Ordering::Relaxed);
        before.is_none_or(|at| now.saturating_duration_since(at) >= QUIET)
    }

    /// Notes a success. Whether the trouble is over with it, which is to be told.
    pub fn ends(&self, now: Instant) -> bool {
        if !self.is_on.load(Ordering::Relaxed) {
            return false;
        }
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if failed_at.take_if(|at| now.saturating_duration_since(*at) >= QUIET).is_none() {
            return false;
        }
        self.is_on.store(false, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_when_it_begins_and_when_nothing_failed_for_a_while() {
        let (trouble, began) = (Trouble::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(!trouble.ends(at(0)), "there was none");
        assert!(trouble.begins(at(1)));
        assert!(!trouble.begins(at(2)));
        assert!(!trouble.ends(at(5)), "a gap");
        assert!(!trouble.begins(at(27)), "it was told");
        assert!(!trouble.ends(at(86)));
        assert!(trouble.ends(at(87)));
        assert!(!trouble.ends(at(88)), "it was told");
        assert!(trouble.begins(at(89)), "another one");
        assert!(!trouble.ends(at(90)), "a gap");
        assert!(trouble.begins(at(86_400)), "nothing was written for a day, and then that failed");
    }
}
