//! Is it us? When the name resolver or the uplink is gone, every endpoint seems to fail at once. Then nobody's score may rise and
//! no attempt may be used up: the sources all but stop reading, and what fails is put back.
//!
//! The rule: nothing was answered by anybody for [`QUIET`], and since the last answer connections could not be opened to at least [`LEAST`]
//! distinct endpoints that were well before, or requests to at least [`LEAST_LOCAL`] failed on our side. One answer, whatever its status, ends
//! it. Endpoints that were failing anyway are no evidence: a dozen dead ones in a quiet hour must not stop the rest.
//!
//! Of one kind of failure it is not known at first whose it is: a name that cannot be resolved, or an address that there is no way to. It is the
//! endpoint's if, within [`LATELY`], a new connection to somebody else stood: a pooled one proves nothing of resolver and routes, and one to
//! an address nothing of the resolver.
//!
//! The sources are not stopped altogether. If they were, only retries would probe, and those go to the endpoints that failed: when those are
//! dead indeed, the ones that would answer never got the request that ends the verdict. So every [`PROBE_EVERY`] a source may take a batch.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{Failure, Outcome, Text};

/// How long a verdict holds after the last failure.
pub const WINDOW: Duration = Duration::from_secs(30);

/// So many distinct endpoints that were well and cannot be connected to, and none that answers, are our uplink rather than their faults.
pub const LEAST: usize = 10;

/// So many distinct endpoints whose requests fail on our side. One alone can have a name server of its own that does not answer.
pub const LEAST_LOCAL: usize = 3;

/// While somebody has answered so lately, it is not us.
pub const QUIET: Duration = Duration::from_secs(3);

/// For so long it counts that somebody else was reached.
pub const LATELY: Duration = Duration::from_secs(30);

/// How often the sources may take a batch while it is us, and for how long.
pub const PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_millis(5);

/// Distinct endpoints that are remembered: more say nothing more.
const REMEMBERED: usize = 1024;

/// The detector; one for all shards. Its lock is taken for failures and for the first answer after one, not on the happy path.
#[derive(Debug)]
pub struct OwnFault {
    start: Instant,
    /// When somebody answered last: milliseconds since the start, and one; 0: nobody yet. As coarse as [`COARSE`], so that shards that deliver
    /// do not fight for it.
    answered: AtomicU64,
    suspicious: AtomicBool,
    failures: Mutex<Failures>,
    /// By name, and by name or address.
    reached: Mutex<[Reached; 2]>,
}

/// The last two endpoints to which a new connection stood: one of them is another than the one that is asked about.
#[derive(Debug, Default)]
struct Reached([Option<(Text, Instant)>; 2]);

impl Reached {
    fn note(&mut self, endpoint: &Text, now: Instant) {
        let [last, before] = &mut self.0;
        match last {
            Some((id, at)) if id == endpoint => *at = now,
            _ => *before = last.replace((Text::from(&**endpoint), now)),
        }
    }

    fn is_other_than(&self, endpoint: &Text, now: Instant) -> bool {
        self.0.iter().flatten().any(|(id, at)| id != endpoint && now.saturating_duration_since(*at) < LATELY)
    }
}

const COARSE: u64 = 250;

/// What failed since the last answer.
#[derive(Debug, Default)]
struct Failures {
    unreachable: HashSet<Text>,
    local: HashSet<Text>,
    last: Option<Instant>,
}

impl Default for OwnFault {
    fn default() -> OwnFault {
        OwnFault {
            start: Instant::now(),
            answered: AtomicU64::new(0),
            suspicious: AtomicBool::new(false),
            failures: Mutex::default(),
            reached: Mutex::default(),
        }
    }
}

impl OwnFault {
    /// Takes note of an answer over a new connection. `by_name`: the endpoint's URL names its host instead of giving its address.
    pub fn reached(&self, now: Instant, endpoint: &Text, by_name: bool) {
        let mut reached = self.lock_reached();
        let [names, all] = &mut *reached;
        all.note(endpoint, now);
        if by_name {
            names.note(endpoint, now);
        }
    }

    /// Whether an endpoint that cannot be reached is so by its own fault.
    pub fn is_theirs(&self, now: Instant, endpoint: &Text, by_name: bool) -> bool {
        let reached = self.lock_reached();
        let [names, all] = &*reached;
        if by_name { names } else { all }.is_other_than(endpoint, now)
    }

    fn lock_reached(&self) -> std::sync::MutexGuard<'_, [Reached; 2]> {
        self.reached.lock().expect("nothing panics while it holds this lock")
    }

    /// Takes note of an outcome; true if the endpoint's fault must be taken for ours. `was_well`: the endpoint had no failures on its record.
    pub fn observe(&self, now: Instant, endpoint: &Text, was_well: bool, outcome: &Outcome) -> bool {
        let failure = match outcome {
            Outcome::Delivered => None,
            // What keeps us from a token endpoint is like what keeps us from a receiver.
            Outcome::Failed(Failure::Token { cause, .. }) => Some(&**cause),
            Outcome::Failed(failure) => Some(failure),
        };
        match failure {
            Some(Failure::Local(_) | Failure::Unreachable { ours: true, .. }) => {
                self.fail(now, |failures| remember(&mut failures.local, endpoint));
                // It is called ours already.
                false
            }
            Some(Failure::ConnectTimeout | Failure::Refused) => {
                if was_well {
                    self.fail(now, |failures| remember(&mut failures.unreachable, endpoint));
                }
                self.is_ours(now)
            }
            Some(Failure::UnknownHost | Failure::AddressRefused(_) | Failure::Payload(_) | Failure::Unreachable { ours: false, .. }) => {
                self.is_ours(now)
            }
            None | Some(_) => {
                let millis = self.millis(now);
                if millis.saturating_sub(self.answered.load(Relaxed)) >= COARSE || self.answered.load(Relaxed) == 0 {
                    self.answered.store(millis, Relaxed);
                }
                if self.suspicious.swap(false, Relaxed) {
                    *self.lock() = Failures::default();
                }
                false
            }
        }
    }

    /// Whether what fails now is our own fault.
    pub fn is_ours(&self, now: Instant) -> bool {
        let answered = self.answered.load(Relaxed);
        let is_quiet = answered == 0 || self.millis(now).saturating_sub(answered) >= QUIET.as_millis() as u64;
        self.suspicious.load(Relaxed) && is_quiet && self.lock().verdict(now)
    }

    /// Whether the sources should not read just now: it is our own fault, and not the moment of a probe.
    pub fn stops_sources(&self, now: Instant) -> bool {
        let in_turn = now.saturating_duration_since(self.start).as_millis() % PROBE_EVERY.as_millis();
        self.is_ours(now) && in_turn >= PROBE.as_millis()
    }

    fn fail(&self, now: Instant, note: impl FnOnce(&mut Failures)) {
        let mut failures = self.lock();
        note(&mut failures);
        failures.last = Some(now);
        self.suspicious.store(true, Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().expect("nothing panics while it holds this lock")
    }
}

fn remember(endpoints: &mut HashSet<Text>, endpoint: &Text) {
    if endpoints.len() < REMEMBERED && !endpoints.contains(endpoint) {
        // A text of its own: the one we were given may be a slice of a whole record.
        endpoints.insert(Text::from(&**endpoint));
    }
}

impl Failures {
    fn verdict(&self, now: Instant) -> bool {
        self.last.is_some_and(|at| now.saturating_duration_since(at) < WINDOW)
            && (self.unreachable.len() >= LEAST || self.local.len() >= LEAST_LOCAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: usize) -> Text {
        format!("endpoint-{n}").into()
    }

    const REFUSED: Outcome = Outcome::Failed(Failure::Refused);

    #[test]
    fn many_unreachable_endpoints_and_no_answer_are_our_fault() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        for n in 0..LEAST - 1 {
            assert!(!fault.observe(now, &endpoint(n), true, &REFUSED), "{n}");
            assert!(!fault.observe(now, &endpoint(n), true, &REFUSED), "the same endpoint counts once");
        }
        assert!(fault.observe(now, &endpoint(LEAST), true, &REFUSED));
        assert!(fault.is_ours(now));
        assert!(!fault.is_ours(now + WINDOW), "it is over when nothing fails any more");
    }

    #[test]
    fn one_answer_ends_it() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        let local = Outcome::Failed(Failure::Local("resolver".into()));
        (0..LEAST_LOCAL).for_each(|n| assert!(!fault.observe(now, &endpoint(n), true, &local)));
        assert!(fault.is_ours(now));
        assert!(!fault.observe(now, &endpoint(1), true, &Outcome::Failed(Failure::Status(500))));
        assert!(!fault.is_ours(now));
    }

    #[test]
    fn a_dead_endpoint_among_living_ones_is_not_our_fault() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        for n in 0..100 {
            assert!(!fault.observe(now, &endpoint(n), true, &Outcome::Failed(Failure::ConnectTimeout)));
            assert!(!fault.observe(now, &endpoint(1000), true, &Outcome::Delivered));
        }
    }

    #[test]
    fn thousands_that_fail_between_two_answers_are_not_our_fault() {
        let (fault, mut now) = (OwnFault::default(), Instant::now());
        for _ in 0..10 {
            assert!(!fault.observe(now, &endpoint(0), true, &Outcome::Delivered));
            now += QUIET / 2;
            (1..2_000).for_each(|n| assert!(!fault.observe(now, &endpoint(n), true, &REFUSED), "{n}"));
            now += QUIET / 4;
        }
    }

    #[test]
    fn endpoints_that_were_failing_anyway_are_no_evidence_however_quiet_it_is() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        (0..1_000).for_each(|n| assert!(!fault.observe(now, &endpoint(n), false, &REFUSED)));
        assert!(!fault.is_ours(now));
    }

    #[test]
    fn one_endpoint_that_makes_us_fail_stops_nobody() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        let lame = Outcome::Failed(Failure::Local("`lame.example` cannot be resolved".into()));
        (0..100).for_each(|_| assert!(!fault.observe(now, &endpoint(7), true, &lame)));
        assert!(!fault.is_ours(now));
    }

    #[test]
    fn who_cannot_be_reached_while_others_are_is_to_blame_himself() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        let (lame, one, other) = (endpoint(0), endpoint(1), endpoint(2));
        assert!(!fault.is_theirs(now, &lame, true), "nobody was reached");
        fault.reached(now, &lame, true);
        assert!(!fault.is_theirs(now, &lame, true), "that it was reached itself is no proof");
        fault.reached(now, &one, false);
        assert!(fault.is_theirs(now, &lame, false));
        assert!(!fault.is_theirs(now, &lame, true), "an address says nothing of the resolver");
        fault.reached(now, &other, true);
        fault.reached(now, &lame, true);
        fault.reached(now, &lame, true);
        assert!(fault.is_theirs(now, &lame, true) && fault.is_theirs(now + LATELY / 2, &lame, true));
        assert!(!fault.is_theirs(now + LATELY, &lame, true), "that was long ago");
    }

    #[test]
    fn those_who_are_to_blame_themselves_are_no_evidence_against_us() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        let theirs = Outcome::Failed(Failure::Unreachable { text: "SERVFAIL".into(), ours: false });
        (0..1_000).for_each(|n| assert!(!fault.observe(now, &endpoint(n), true, &theirs)));
        assert!(!fault.is_ours(now));
        let doubtful = Outcome::Failed(Failure::Unreachable { text: "SERVFAIL".into(), ours: true });
        (0..LEAST_LOCAL).for_each(|n| assert!(!fault.observe(now, &endpoint(n), true, &doubtful)));
        assert!(fault.is_ours(now));
    }

    #[test]
    fn the_sources_probe_while_it_is_our_fault() {
        let (fault, now) = (OwnFault::default(), Instant::now());
        (0..LEAST).for_each(|n| assert_eq!(fault.observe(now, &endpoint(n), true, &REFUSED), n + 1 == LEAST));
        let stopped = (0..2_000).filter(|ms| fault.stops_sources(now + Duration::from_millis(*ms))).count();
        assert!((1_900..2_000).contains(&stopped), "{stopped}");
    }
}
