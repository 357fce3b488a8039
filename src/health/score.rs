//! The rules of health (DESIGN.md section 8, WIRE.md section 1.5) as one pure function: a record and an observation in, the new record out.
//!
//! What the table of rules leaves open is decided here, for memory and for the Redis script alike:
//!
//! - Only one of the two counters runs at a time: a failure ends the row of successes, a success ends the row of failures. So one
//!   `counted_since` serves both.
//! - A counter that expires takes its count with it and leaves the state alone: nobody has shown yet that the endpoint is well.
//! - A slow success while Degraded is no step towards Active and no error, but it is an answer: the row of failures ends.
//! - Inactive takes in nothing but [`Observation::Enabled`]: requests that were in flight when it was suspended cannot wake it.
//! - A changed URL or an enabling begins anew: attempts that were in flight at that moment were meant for what was before, so their failures
//!   do not count. That is what `last_timeout` does, therefore it is set then, too.
//! - The wall clocks of instances differ a little, and one may have been wrong altogether. A `last_timeout` that lies in the future shields
//!   nothing, and a counted timeout overwrites it even with an earlier time: a skew costs at most one more count per instance.

use std::time::Duration;

use crate::model::{HealthRecord, HealthState, Observation};

/// The numbers of the rules, as [`super::Config::rules`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What a timeout weighs in ordinary errors.
    pub timeout_weight: u32,
    /// Score at which an endpoint is Degraded.
    pub degraded_at: u32,
    /// Score at which it is Inactive.
    pub inactive_at: u32,
    /// Consecutive successes that lead from Degraded to Active.
    pub recovered_after: u32,
    /// Counters live this long from their first increment.
    pub counters_expire: Duration,
    /// Whether 410 Gone suspends at once; otherwise it is an ordinary error.
    pub gone_is_final: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            timeout_weight: 10,
            degraded_at: 10,
            inactive_at: 500,
            recovered_after: 50,
            counters_expire: Duration::from_secs(8 * 3600),
            gone_is_final: true,
        }
    }
}

impl Rules {
    pub(crate) fn expire_ms(&self) -> i64 {
        i64::try_from(self.counters_expire.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Words for the rule that put an endpoint into its state.
pub mod reason {
    pub const TIMEOUTS: &str = "timeouts";
    pub const ERRORS: &str = "errors";
    pub const SLOW: &str = "slow";
    pub const GONE: &str = "gone";
    pub const FILTER_TOO_SLOW: &str = "filter_too_slow";
    pub const RECOVERED: &str = "recovered";
    pub const URL_CHANGED: &str = "url_changed";
    pub const ENABLED: &str = "enabled";
    /// Two instances had decided differently while the shared store was away; the worse state was taken.
    pub const MERGED: &str = "merged";
}

/// Whether successes of this endpoint matter: it has a score, or it is not Active.
pub fn is_noted(record: &HealthRecord) -> bool {
    record.state != HealthState::Active || record.score > 0
}

/// The record after an observation that was made at `now` (milliseconds since the epoch). A transition has happened if the version has grown.
pub fn apply(mut record: HealthRecord, observation: Observation, now: i64, rules: &Rules) -> HealthRecord {
    if record.counted_since != 0 && now.saturating_sub(record.counted_since) >= rules.expire_ms() {
        record.score = 0;
        record.successes = 0;
        record.counted_since = 0;
    }
    match observation {
        Observation::Enabled => begin_anew(record, reason::ENABLED, now),
        _ if record.state == HealthState::Inactive => record,
        Observation::UrlChanged => begin_anew(record, reason::URL_CHANGED, now),
        Observation::Gone if rules.gone_is_final => enter(record, HealthState::Inactive, reason::GONE, now),
        Observation::FilterTooSlow => enter(record, HealthState::Inactive, reason::FILTER_TOO_SLOW, now),
        Observation::Gone => fail(record, 1, reason::ERRORS, now, rules),
        Observation::Timeout { started } | Observation::Error { started } if shielded(&record, started, now) => record,
        Observation::Timeout { .. } => {
            record.last_timeout = now;
            fail(record, rules.timeout_weight, reason::TIMEOUTS, now, rules)
        }
        Observation::Error { .. } => fail(record, 1, reason::ERRORS, now, rules),
        Observation::Success { slow, first } => match record.state {
            HealthState::Active if slow && first => slow_first(record, now, rules),
            HealthState::Active => clear(record),
            HealthState::Degraded if slow && record.successes > 0 => record,
            HealthState::Degraded if slow => clear(record),
            HealthState::Degraded | HealthState::Inactive => succeed(record, now, rules),
        },
    }
}

/// One record out of two of the same endpoint that went their own ways: ours, made while the shared store was away, and that of the store.
/// The later version wins. Of the same version the more cautious of each count is taken, so that joining twice is joining once, in any
/// order; if the states differ the worse one is entered anew, as a transition that all can agree on.
pub fn join(stored: HealthRecord, ours: HealthRecord, now: i64) -> HealthRecord {
    if stored.version != ours.version {
        return if stored.version > ours.version { stored } else { ours };
    }
    let state = if severity(stored.state) >= severity(ours.state) { stored.state } else { ours.state };
    if stored.state != ours.state {
        let worse = if state == stored.state { stored } else { ours };
        return enter(worse, state, reason::MERGED, now);
    }
    let score = stored.score.max(ours.score);
    let successes = if score > 0 { 0 } else { stored.successes.min(ours.successes) };
    let counted_since = match (stored.counted_since, ours.counted_since) {
        _ if score == 0 && successes == 0 => 0,
        (0, one) | (one, 0) => one,
        (one, other) => one.min(other),
    };
    let last_timeout = stored.last_timeout.max(ours.last_timeout);
    HealthRecord { score, successes, counted_since, last_timeout, ..stored }
}

fn severity(state: HealthState) -> u8 {
    match state {
        HealthState::Active => 0,
        HealthState::Degraded => 1,
        HealthState::Inactive => 2,
    }
}

/// Failures of attempts that were in flight when the last counted timeout arrived count once together, with that timeout. An attempt started
/// in the very millisecond of the timeout is the next one: with one request in flight it starts when its predecessor ends.
fn shielded(record: &HealthRecord, started: i64, now: i64) -> bool {
    started < record.last_timeout && record.last_timeout <= now
}

fn fail(mut record: HealthRecord, weight: u32, reason: &'static str, now: i64, rules: &Rules) -> HealthRecord {
    if record.score == 0 {
        record.counted_since = now;
    }
    record.successes = 0;
    record.score = record.score.saturating_add(weight);
    if record.score >= rules.inactive_at {
        enter(record, HealthState::Inactive, reason, now)
    } else if record.score >= rules.degraded_at && record.state == HealthState::Active {
        enter(record, HealthState::Degraded, reason, now)
    } else {
        record
    }
}

/// Counts one error, but never leads to Inactive.
fn slow_first(mut record: HealthRecord, now: i64, rules: &Rules) -> HealthRecord {
    if record.score == 0 {
        record.counted_since = now;
    }
    record.score = record.score.saturating_add(1);
    if record.score >= rules.degraded_at { enter(record, HealthState::Degraded, reason::SLOW, now) } else { record }
}

fn succeed(mut record: HealthRecord, now: i64, rules: &Rules) -> HealthRecord {
    record.score = 0;
    if record.successes == 0 {
        record.counted_since = now;
    }
    record.successes = record.successes.saturating_add(1);
    if record.successes >= rules.recovered_after { enter(clear(record), HealthState::Active, reason::RECOVERED, now) } else { record }
}

fn clear(mut record: HealthRecord) -> HealthRecord {
    record.score = 0;
    record.successes = 0;
    record.counted_since = 0;
    record
}

fn begin_anew(record: HealthRecord, reason: &'static str, now: i64) -> HealthRecord {
    let mut record = clear(record);
    record.last_timeout = now;
    if record.state == HealthState::Active { record } else { enter(record, HealthState::Active, reason, now) }
}

fn enter(mut record: HealthRecord, state: HealthState, reason: &'static str, now: i64) -> HealthRecord {
    record.state = state;
    record.since = now;
    record.version += 1;
    record.reason = Some(reason.into());
    record
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: Observation = Observation::Success { slow: false, first: true };
    const SLOW: Observation = Observation::Success { slow: true, first: true };
    const SLOW_RETRY: Observation = Observation::Success { slow: true, first: false };

    /// A case: what is observed, how often, and one second apart unless said otherwise; then state, score, successes, version, reason.
    struct Case {
        name: &'static str,
        seen: &'static [(Seen, u32)],
        state: HealthState,
        score: u32,
        successes: u32,
        version: u64,
        reason: &'static str,
    }

    #[derive(Clone, Copy)]
    enum Seen {
        Ok,
        Slow,
        SlowRetry,
        /// Of an attempt that started just before.
        Timeout,
        /// Of an attempt that started five seconds ago.
        OldTimeout,
        OldError,
        Error,
        Gone,
        FilterTooSlow,
        UrlChanged,
        Enabled,
        /// Nothing for so many hours.
        Hours,
    }

    use HealthState::*;
    use Seen::*;

    fn run(seen: &[(Seen, u32)], rules: &Rules) -> HealthRecord {
        let (mut record, mut now) = (HealthRecord::default(), 1_000_000_000_000);
        for (what, times) in seen {
            for _ in 0..*times {
                now += 1_000;
                let observation = match what {
                    Ok => OK,
                    Slow => SLOW,
                    SlowRetry => SLOW_RETRY,
                    Timeout => Observation::Timeout { started: now - 1 },
                    OldTimeout => Observation::Timeout { started: now - 5_000 },
                    OldError => Observation::Error { started: now - 5_000 },
                    Error => Observation::Error { started: now - 1 },
                    Gone => Observation::Gone,
                    FilterTooSlow => Observation::FilterTooSlow,
                    UrlChanged => Observation::UrlChanged,
                    Enabled => Observation::Enabled,
                    Hours => {
                        now += 3_599_000;
                        continue;
                    }
                };
                record = apply(record, observation, now, rules);
            }
        }
        record
    }

    #[test]
    fn the_rules_are_those_of_the_table() {
        #[rustfmt::skip]
        let cases = [
            Case { name: "nothing but successes", seen: &[(Ok, 100)], state: Active, score: 0, successes: 0, version: 0, reason: "" },
            Case { name: "one timeout degrades", seen: &[(Timeout, 1)], state: Degraded, score: 10, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "nine errors do not", seen: &[(Error, 9)], state: Active, score: 9, successes: 0, version: 0, reason: "" },
            Case { name: "ten errors degrade", seen: &[(Error, 10)], state: Degraded, score: 10, successes: 0, version: 1, reason: "errors" },
            Case { name: "a success ends the row", seen: &[(Error, 9), (Ok, 1), (Error, 9)], state: Active, score: 9, successes: 0, version: 0, reason: "" },
            Case { name: "49 timeouts degrade", seen: &[(Timeout, 49)], state: Degraded, score: 490, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "50 timeouts suspend", seen: &[(Timeout, 50)], state: Inactive, score: 500, successes: 0, version: 2, reason: "timeouts" },
            Case { name: "500 errors suspend", seen: &[(Error, 500)], state: Inactive, score: 500, successes: 0, version: 2, reason: "errors" },
            Case { name: "a success in between saves it", seen: &[(Timeout, 49), (Ok, 1), (Timeout, 49)], state: Degraded, score: 490, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "49 successes are not enough", seen: &[(Timeout, 1), (Ok, 49)], state: Degraded, score: 0, successes: 49, version: 1, reason: "timeouts" },
            Case { name: "50 recover", seen: &[(Timeout, 1), (Ok, 50)], state: Active, score: 0, successes: 0, version: 2, reason: "recovered" },
            Case { name: "an error begins the row anew", seen: &[(Timeout, 1), (Ok, 49), (Error, 1), (Ok, 49)], state: Degraded, score: 0, successes: 49, version: 1, reason: "timeouts" },
            Case { name: "slow counts neither way while degraded", seen: &[(Timeout, 1), (Ok, 25), (Slow, 9), (Ok, 25)], state: Active, score: 0, successes: 0, version: 2, reason: "recovered" },
            Case { name: "slow alone never recovers", seen: &[(Timeout, 1), (Slow, 100)], state: Degraded, score: 0, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "ten slow first attempts degrade", seen: &[(Slow, 10)], state: Degraded, score: 10, successes: 0, version: 1, reason: "slow" },
            Case { name: "slow never suspends", seen: &[(Slow, 1000)], state: Degraded, score: 0, successes: 0, version: 1, reason: "slow" },
            Case { name: "slow retries are successes", seen: &[(Error, 9), (SlowRetry, 1)], state: Active, score: 0, successes: 0, version: 0, reason: "" },
            Case { name: "slow does not reset", seen: &[(Error, 5), (Slow, 4)], state: Active, score: 9, successes: 0, version: 0, reason: "" },
            Case { name: "in flight counts once", seen: &[(Timeout, 1), (OldTimeout, 4)], state: Degraded, score: 10, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "also as errors", seen: &[(Timeout, 1), (OldError, 4)], state: Degraded, score: 10, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "until they began after it", seen: &[(Timeout, 1), (OldTimeout, 6)], state: Degraded, score: 20, successes: 0, version: 1, reason: "timeouts" },
            Case { name: "gone", seen: &[(Gone, 1)], state: Inactive, score: 0, successes: 0, version: 1, reason: "gone" },
            Case { name: "inactive stays whatever comes", seen: &[(Gone, 1), (Ok, 100), (UrlChanged, 1), (Timeout, 5), (Gone, 1)], state: Inactive, score: 0, successes: 0, version: 1, reason: "gone" },
            Case { name: "a filter that is too slow", seen: &[(Error, 3), (FilterTooSlow, 2)], state: Inactive, score: 3, successes: 0, version: 1, reason: "filter_too_slow" },
            Case { name: "enabled by a person", seen: &[(Gone, 1), (Enabled, 1)], state: Active, score: 0, successes: 0, version: 2, reason: "enabled" },
            Case { name: "what was in flight then does not count", seen: &[(Timeout, 50), (Enabled, 1), (OldTimeout, 4)], state: Active, score: 0, successes: 0, version: 3, reason: "enabled" },
            Case { name: "a changed URL revives the degraded", seen: &[(Timeout, 1), (UrlChanged, 1)], state: Active, score: 0, successes: 0, version: 2, reason: "url_changed" },
            Case { name: "and clears the score of the active", seen: &[(Error, 9), (UrlChanged, 1), (Error, 9)], state: Active, score: 9, successes: 0, version: 0, reason: "" },
            Case { name: "failures expire", seen: &[(Error, 9), (Hours, 8), (Error, 9)], state: Active, score: 9, successes: 0, version: 0, reason: "" },
            Case { name: "from the first increment", seen: &[(Error, 1), (Hours, 7), (Error, 8), (Hours, 1), (Error, 1)], state: Active, score: 1, successes: 0, version: 0, reason: "" },
            Case { name: "not before", seen: &[(Error, 9), (Hours, 7), (Error, 1)], state: Degraded, score: 10, successes: 0, version: 1, reason: "errors" },
            Case { name: "successes expire", seen: &[(Timeout, 1), (Ok, 49), (Hours, 8), (Ok, 49)], state: Degraded, score: 0, successes: 49, version: 1, reason: "timeouts" },
            Case { name: "a new row of failures has its own time", seen: &[(Error, 9), (Hours, 7), (Ok, 1), (Error, 5), (Hours, 7), (Error, 5)], state: Degraded, score: 10, successes: 0, version: 1, reason: "errors" },
        ];
        for case in cases {
            let record = run(case.seen, &Rules::default());
            let found =
                (record.state, record.score, record.successes, record.version, record.reason.as_deref().unwrap_or_default().to_owned());
            assert_eq!(found, (case.state, case.score, case.successes, case.version, case.reason.to_owned()), "{}", case.name);
        }
    }

    /// The rows of WIRE.md 1.5, under their names, for the rules as they are by default.
    #[test]
    fn the_rows_of_the_products_contract_hold() {
        let rules = Rules::default();
        type Row = (&'static str, &'static [(Seen, u32)], HealthState);
        let rows: &[Row] = &[
            ("slow answer: counts on the first attempt while ACTIVE", &[(Slow, 10)], Degraded),
            ("slow answer: not on a retry", &[(SlowRetry, 100)], Active),
            ("slow answer: never leads to INACTIVE", &[(Slow, 1_000)], Degraded),
            ("weight of a timeout: 10 ordinary failures", &[(Error, 490), (Timeout, 1)], Inactive),
            ("ACTIVE to DEGRADED: not by 9 ordinary failures", &[(Error, 9)], Active),
            ("ACTIVE to DEGRADED: 10 consecutive ordinary failures", &[(Error, 10)], Degraded),
            ("ACTIVE to DEGRADED: 1 timeout is enough", &[(Timeout, 1)], Degraded),
            ("consecutive: a success ends the row", &[(Error, 9), (Ok, 1), (Error, 9)], Active),
            ("to INACTIVE: not by 499 ordinary failures", &[(Error, 499)], Degraded),
            ("to INACTIVE: 500 consecutive ordinary failures", &[(Error, 500)], Inactive),
            ("to INACTIVE: not by 49 timeouts", &[(Timeout, 49)], Degraded),
            ("to INACTIVE: 50 consecutive timeouts", &[(Timeout, 50)], Inactive),
            ("DEGRADED to ACTIVE: not by 49 successes", &[(Timeout, 1), (Ok, 49)], Degraded),
            ("DEGRADED to ACTIVE: 50 consecutive successes", &[(Timeout, 1), (Ok, 50)], Active),
            ("DEGRADED to ACTIVE: a slow answer counts neither way", &[(Timeout, 1), (Ok, 49), (Slow, 5), (SlowRetry, 5), (Ok, 1)], Active),
            ("DEGRADED to ACTIVE: a change of the URL", &[(Timeout, 1), (UrlChanged, 1)], Active),
            ("a change of the URL no longer revives INACTIVE", &[(Timeout, 50), (UrlChanged, 1)], Inactive),
            ("counter expiry: failures, 8 hours after the first", &[(Error, 9), (Hours, 8), (Error, 1)], Active),
            ("counter expiry: not before", &[(Error, 9), (Hours, 7), (Error, 1)], Degraded),
            ("counter expiry: successes, 8 hours after the first", &[(Timeout, 1), (Ok, 49), (Hours, 8), (Ok, 1)], Degraded),
        ];
        for (row, seen, state) in rows {
            assert_eq!(run(seen, &rules).state, *state, "{row}");
        }
    }

    #[test]
    fn the_next_attempt_of_a_lone_request_counts_though_it_began_in_the_same_millisecond() {
        let rules = Rules::default();
        let first = apply(HealthRecord::default(), Observation::Timeout { started: 0 }, 5_000, &rules);
        let second = apply(first, Observation::Timeout { started: 5_000 }, 10_000, &rules);
        assert_eq!(second.score, 20);
    }

    #[test]
    fn a_timeout_from_a_wrong_clock_shields_nothing() {
        let rules = Rules::default();
        let ahead = apply(HealthRecord::default(), Observation::Timeout { started: 0 }, 86_400_000, &rules);
        let now = apply(ahead, Observation::Timeout { started: 1_000 }, 6_000, &rules);
        assert_eq!((now.score, now.last_timeout), (20, 6_000));
        assert_eq!(apply(now, Observation::Timeout { started: 1_000 }, 6_001, &rules).score, 20);
    }

    #[test]
    fn gone_can_be_switched_off() {
        let rules = Rules { gone_is_final: false, ..Rules::default() };
        assert_eq!(run(&[(Gone, 9)], &rules).score, 9);
        assert_eq!(run(&[(Gone, 10)], &rules).state, Degraded);
    }

    #[test]
    fn states_that_differ_are_joined_in_the_worse_one_as_a_transition() {
        let degraded = run(&[(Timeout, 1)], &Rules::default());
        let gone = run(&[(Gone, 1)], &Rules::default());
        let joined = join(degraded.clone(), gone, 7);
        assert_eq!((joined.state, joined.version, joined.since), (Inactive, 2, 7));
        assert_eq!(join(joined.clone(), degraded, 9), joined);
    }

    pub fn observation() -> impl Strategy<Value = Observation> {
        prop_oneof![
            6 => Just(OK),
            1 => any::<(bool, bool)>().prop_map(|(slow, first)| Observation::Success { slow, first }),
            3 => (0i64..20_000).prop_map(|started| Observation::Timeout { started }),
            4 => (0i64..20_000).prop_map(|started| Observation::Error { started }),
            1 => Just(Observation::Gone),
            1 => Just(Observation::FilterTooSlow),
            1 => Just(Observation::UrlChanged),
            1 => Just(Observation::Enabled),
        ]
    }

    pub fn small() -> Rules {
        Rules { timeout_weight: 3, degraded_at: 4, inactive_at: 12, recovered_after: 3, ..Rules::default() }
    }

    pub fn history() -> impl Strategy<Value = HealthRecord> {
        proptest::collection::vec(observation(), 0..60).prop_map(|seen| {
            seen.into_iter().zip(1..).fold(HealthRecord::default(), |record, (what, at)| apply(record, what, at * 500, &small()))
        })
    }

    proptest! {
        #[test]
        fn a_record_always_makes_sense(record in history()) {
            let rules = small();
            prop_assert!(record.score == 0 || record.successes == 0, "only one counter runs");
            prop_assert_eq!(record.counted_since == 0, record.score == 0 && record.successes == 0);
            prop_assert!(record.state != Active || record.score < rules.degraded_at);
            prop_assert!(record.state == Inactive || record.score < rules.inactive_at);
            prop_assert!(record.successes < rules.recovered_after);
            prop_assert_eq!(record.version == 0, record.reason.is_none());
        }

        #[test]
        fn joining_twice_is_joining_once(one in history(), other in history()) {
            let joined = join(one, other.clone(), 100_000);
            prop_assert_eq!(join(joined.clone(), other, 200_000), joined.clone());
            prop_assert_eq!(join(joined.clone(), joined.clone(), 300_000), joined);
        }
    }
}
