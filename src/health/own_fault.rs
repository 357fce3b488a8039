//! Is it us? When the name resolver or the uplink is gone, every endpoint seems to fail at once. Then nobody's score may rise and
//! no attempt may be used up: the sources stop reading (the retry tiers go on and serve as probes), and what fails is put back.
//!
//! The rule: within [`WINDOW`] nothing was answered by anybody, and either one delivery failed with a fault that only our side
//! can have, or connections could not be opened to at least [`LEAST`] distinct endpoints. One answer, whatever its status, ends it.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::model::{Failure, Outcome, Text};

/// How far back failures count.
pub const WINDOW: Duration = Duration::from_secs(30);

/// So many distinct endpoints that cannot be connected to, and none that answers, are our uplink rather than their faults.
pub const LEAST: usize = 10;

/// The detector; one for all shards. Its lock is taken for failures and for the first answer after one, not on the happy path.
#[derive(Debug, Default)]
pub struct OwnFault {
    suspicious: std::sync::atomic::AtomicBool,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    /// Endpoints that could not be connected to, and when.
    unreachable: HashMap<Text, Instant>,
    /// The last fault that only we can have.
    ours: Option<Instant>,
}

impl OwnFault {
    /// Takes note of an outcome; true if the fault must be taken for ours.
    pub fn observe(&self, now: Instant, endpoint: &Text, outcome: &Outcome) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        match outcome {
            Outcome::Failed(Failure::Local(_)) => {
                self.suspicious.store(true, Relaxed);
                self.lock().ours = Some(now);
                true
            }
            Outcome::Failed(Failure::ConnectTimeout | Failure::Refused) => {
                self.suspicious.store(true, Relaxed);
                let mut failures = self.lock();
                failures.unreachable.insert(endpoint.clone(), now);
                failures.verdict(now)
            }
            Outcome::Failed(Failure::UnknownHost | Failure::AddressRefused(_) | Failure::Payload(_)) => self.is_ours(now),
            Outcome::Delivered | Outcome::Failed(_) => {
                if self.suspicious.swap(false, Relaxed) {
                    *self.lock() = Failures::default();
                }
                false
            }
        }
    }

    /// Whether the sources should stop for our own fault.
    pub fn is_ours(&self, now: Instant) -> bool {
        self.suspicious.load(std::sync::atomic::Ordering::Relaxed) && self.lock().verdict(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().expect("nothing panics while it holds this lock")
    }
}

impl Failures {
    fn verdict(&mut self, now: Instant) -> bool {
        self.unreachable.retain(|_, at| now.duration_since(*at) < WINDOW);
        self.unreachable.len() >= LEAST || self.ours.is_some_and(|at| now.duration_since(at) < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: usize) -> Text {
        format!("endpoint-{n}").into()
    }

    #[test]
    fn many_unreachable_endpoints_and_no_answer_are_our_fault() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        let refused = Outcome::Failed(Failure::Refused);
        for n in 0..LEAST - 1 {
            assert!(!fault.observe(now, &endpoint(n), &refused), "{n}");
            assert!(!fault.observe(now, &endpoint(n), &refused), "the same endpoint counts once");
        }
        assert!(fault.observe(now, &endpoint(LEAST), &refused));
        assert!(fault.is_ours(now));
        assert!(!fault.is_ours(now + WINDOW), "it is over when nothing fails any more");
    }

    #[test]
    fn one_answer_ends_it() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        assert!(fault.observe(now, &endpoint(0), &Outcome::Failed(Failure::Local("resolver".into()))));
        assert!(fault.is_ours(now));
        assert!(!fault.observe(now, &endpoint(1), &Outcome::Failed(Failure::Status(500))));
        assert!(!fault.is_ours(now));
    }

    #[test]
    fn a_dead_endpoint_among_living_ones_is_not_our_fault() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        for n in 0..100 {
            assert!(!fault.observe(now, &endpoint(n), &Outcome::Failed(Failure::ConnectTimeout)));
            assert!(!fault.observe(now, &endpoint(1000), &Outcome::Delivered));
        }
    }
}
