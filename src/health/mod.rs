//! The health of endpoints: failure scores, shared by the fleet and allowed to be lost.
//!
//! The rules are a pure function in [`score`]. Two implementations of [`Health`] keep the records: [`memory`] for one machine,
//! [`redis`] for a fleet. Both answer at once: what needs the network goes on in the background, so no delivery ever waits for it.
//!
//! **The happy path costs nothing**: a success of an endpoint without a score is dropped before it reaches any shared state. That an
//! endpoint has a score is told to all instances, and from then on its successes are reported too, wherever they happen, so
//! "consecutive" holds over the fleet.

pub mod memory;
mod mirror;
pub mod own_fault;
pub mod redis;
pub mod score;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Attempt, Blame, Failure, HealthRecord, Observation, Outcome, Text, Transition};

/// Keeps health records.
///
/// Every change of state is sent once, by the instance that caused it, as a [`Transition`] into the channel given at construction. Each
/// instance also hears of every change of a record's state through [`Update`]s, whoever caused it.
pub trait Health: Send + Sync + 'static {
    /// Takes note of an observation. Returns at once.
    fn report(&self, endpoint: &Text, observation: Observation);

    /// The record as this instance knows it; none: Active without a score.
    fn get(&self, endpoint: &Text) -> Option<HealthRecord>;

    /// Puts back what the registry knows (at start, and when the registry is ahead). Older versions change nothing.
    fn restore(&self, endpoint: &Text, record: HealthRecord);

    /// Forgets a deleted endpoint.
    fn forget(&self, endpoint: &Text);

    /// Live instances of the fleet, as last known; 1 where there is no fleet.
    fn instances(&self) -> u32;

    /// Whether the shared store answers; always true for memory.
    fn is_connected(&self) -> bool;
}

/// What an implementation tells the instance it runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// This instance caused it: append it to the registry and tell the event.
    Transition(Transition),
    /// An endpoint's record has changed its state, here or elsewhere: schedule it accordingly.
    State { endpoint: Text, record: HealthRecord },
    /// The number of live instances has changed.
    Instances(u32),
}

/// A success that changes nothing where there is no score. A slow first answer is none: it counts.
fn is_happy(observation: Observation) -> bool {
    matches!(observation, Observation::Success { slow, first } if !(slow && first))
}

/// `[health]`: where the records are kept, and the numbers of the rules (DESIGN.md section 8).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub backend: Backend,
    /// What a timeout weighs in ordinary errors.
    pub timeout_weight: u32,
    /// A 2xx that takes longer is slow: a first attempt counts as an error while Active, and no slow one counts towards recovery.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    pub degraded_at: u32,
    pub inactive_at: u32,
    /// Consecutive successes after which a Degraded endpoint is Active.
    pub recovered_after: u32,
    /// Counters expire so long after their first increment.
    #[serde(with = "humantime_serde")]
    pub counters_expire: Duration,
    /// Whether 410 Gone makes an endpoint Inactive at once.
    pub gone_is_final: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    #[default]
    Memory,
    Redis,
}

impl Default for Config {
    fn default() -> Config {
        let score::Rules { timeout_weight, degraded_at, inactive_at, recovered_after, counters_expire, gone_is_final } =
            score::Rules::default();
        Config {
            backend: Backend::Memory,
            timeout_weight,
            slow_after: Duration::from_secs(1),
            degraded_at,
            inactive_at,
            recovered_after,
            counters_expire,
            gone_is_final,
        }
    }
}

impl Config {
    /// The largest count a rule may name; far above any use, and exact in every number type involved.
    const MAX_COUNT: u32 = 1_000_000_000;

    /// What is wrong with ranges and relations: key and problem.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("timeout_weight", self.timeout_weight),
            ("degraded_at", self.degraded_at),
            ("inactive_at", self.inactive_at),
            ("recovered_after", self.recovered_after),
        ] {
            if !(1..=Config::MAX_COUNT).contains(&value) {
                problems.push((key, format!("is {value}: it must be 1 to {}", Config::MAX_COUNT)));
            }
        }
        if self.inactive_at <= self.degraded_at {
            problems.push(("inactive_at", format!("is {}: it must be above degraded_at, which is {}", self.inactive_at, self.degraded_at)));
        }
        let (shortest, longest) = (Duration::from_secs(60), Duration::from_secs(30 * 86_400));
        if !(shortest..=longest).contains(&self.counters_expire) {
            let is = humantime::format_duration(self.counters_expire);
            problems.push(("counters_expire", format!("is {is}: it must be \"1m\" to \"30d\"")));
        }
        if self.slow_after.is_zero() {
            problems.push(("slow_after", "is zero: then every answer would be slow; the default is \"1s\"".to_owned()));
        }
        problems
    }

    pub fn rules(&self) -> score::Rules {
        score::Rules {
            timeout_weight: self.timeout_weight,
            degraded_at: self.degraded_at,
            inactive_at: self.inactive_at,
            recovered_after: self.recovered_after,
            counters_expire: self.counters_expire,
            gone_is_final: self.gone_is_final,
        }
    }

    /// What an attempt tells about its endpoint; none if it tells nothing, because the fault is ours.
    pub fn observation(&self, attempt: &Attempt) -> Option<Observation> {
        let started = attempt.started_at.as_millisecond();
        match &attempt.outcome {
            Outcome::Delivered => Some(Observation::Success { slow: attempt.elapsed > self.slow_after, first: attempt.number == 1 }),
            Outcome::Failed(Failure::Status(410)) => Some(Observation::Gone),
            Outcome::Failed(failure) if failure.is_timeout() => Some(Observation::Timeout { started }),
            Outcome::Failed(failure) => match failure.blame() {
                Blame::Us => None,
                Blame::Endpoint | Blame::Network => Some(Observation::Error { started }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::time::timestamp_from_ms;

    #[test]
    fn the_defaults_are_right_and_what_contradicts_is_named() {
        assert!(Config::default().check().is_empty());
        assert_eq!(Config::default().rules(), score::Rules::default());
        let wrong =
            Config { timeout_weight: 0, inactive_at: 10, counters_expire: Duration::ZERO, slow_after: Duration::ZERO, ..Config::default() };
        let keys: Vec<&str> = wrong.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["timeout_weight", "inactive_at", "counters_expire", "slow_after"]);
    }

    #[test]
    fn an_attempt_tells_of_its_endpoint_and_never_of_our_faults() {
        let config = Config::default();
        let attempt = |number, seconds, outcome| Attempt {
            started_at: timestamp_from_ms(1_000),
            elapsed: Duration::from_secs(seconds),
            ended: tokio::time::Instant::now(),
            connecting: Duration::ZERO,
            number,
            outcome,
            status: None,
            answer: Bytes::new(),
            retry_after: None,
            reused: false,
        };
        let no_token = |cause| Outcome::Failed(Failure::Token { cause: Box::new(cause), text: String::new() });
        for (attempt, expected) in [
            (attempt(1, 0, Outcome::Delivered), Some(Observation::Success { slow: false, first: true })),
            (attempt(2, 3, Outcome::Delivered), Some(Observation::Success { slow: true, first: false })),
            (attempt(1, 5, Outcome::Failed(Failure::ResponseTimeout)), Some(Observation::Timeout { started: 1_000 })),
            (attempt(1, 5, Outcome::Failed(Failure::ConnectTimeout)), Some(Observation::Timeout { started: 1_000 })),
            (attempt(1, 0, Outcome::Failed(Failure::Refused)), Some(Observation::Error { started: 1_000 })),
            (attempt(1, 0, Outcome::Failed(Failure::Status(500))), Some(Observation::Error { started: 1_000 })),
            (attempt(1, 0, Outcome::Failed(Failure::Status(410))), Some(Observation::Gone)),
            (attempt(1, 5, no_token(Failure::ResponseTimeout)), Some(Observation::Timeout { started: 1_000 })),
            (attempt(1, 0, no_token(Failure::Status(500))), Some(Observation::Error { started: 1_000 })),
            (attempt(1, 0, no_token(Failure::Status(410))), Some(Observation::Error { started: 1_000 })),
            (attempt(1, 0, Outcome::Failed(Failure::Local("resolver down".into()))), None),
            (attempt(1, 0, Outcome::Failed(Failure::Payload("no body".into()))), None),
        ] {
            assert_eq!(config.observation(&attempt), expected, "{:?}", attempt.outcome);
        }
    }
}
