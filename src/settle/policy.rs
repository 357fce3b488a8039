//! What to do about a delivery after an attempt, or instead of one: a pure function of the attempt, the delivery, its endpoint and the time.
//!
//! # Delays and tiers
//!
//! A retry waits in the topic of a tier, which hands out its records in their order: it is exact if all of them wait equally long. A delay of the
//! schedule has a tier of its own. Any other delay (a `Retry-After`, the schedule of one endpoint) goes into the shortest tier that is **not
//! shorter**: it carries the time at which it is due, so it is never early, and behind a record that waits the whole delay of the tier it is
//! late by the difference of the two delays at most. The other way round, in a shorter tier, it would hold up everybody behind it.
//! So that there always is such a tier, the longest wait that an endpoint may ask for (24 h) is one.
//!
//! Jitter only lengthens, by [`Config::jitter`] of the delay at most, and does not move a retry to another tier: the readers of a tier
//! have to allow for it.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::model::{Attempt, DeadReason, Delivery, Endpoint, Failure, Outcome, RetrySchedule, Settlement, Timestamp, units::durations};

/// The tiers of what is spilled (DESIGN.md section 7).
pub const SPILL_TIERS: [Duration; 4] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(300)];

/// The longest `Retry-After` that is honoured, and the longest delay of any schedule.
pub const LONGEST_DELAY: Duration = Duration::from_secs(86_400);

/// Our own fault uses up no attempt; it is tried again after this time.
const LOCAL_DELAY: Duration = Duration::from_secs(30);

/// `[retry]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// For endpoints without a schedule of their own: a list of delays, or the name of a preset.
    pub schedule: Schedule,
    /// More delays that shall have a tier of their own, because endpoints use them in their schedules. The delays of `schedule`, those for spilled
    /// deliveries (5s, 30s, 1m, 5m) and 24h always have one.
    #[serde(with = "durations")]
    pub tiers: Vec<Duration>,
    /// A delivery that is older than this is not tried again: dead letter `expired`.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// By how much a delay may be lengthened at random: a share of it, 0 to 0.5.
    pub jitter: f64,
    /// Answers that end a delivery (dead letter `final`): statuses such as `400`, or classes: `3xx`, `4xx`. Never 408, 425 and 429.
    #[serde(rename = "final")]
    pub final_answers: Vec<Answer>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            schedule: Schedule::default(),
            tiers: Vec::new(),
            max_age: Duration::from_secs(3 * 86_400),
            jitter: 0.1,
            final_answers: Vec::new(),
        }
    }
}

impl Config {
    /// What is wrong with ranges and relations: key and problem.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, delays) in [("schedule", self.schedule.delays().0), ("tiers", self.tiers.clone())] {
            for delay in delays.iter().filter(|delay| !(Duration::from_secs(1)..=LONGEST_DELAY).contains(*delay)) {
                let delay = humantime::format_duration(*delay);
                problems.push((key, format!("names the delay \"{delay}\": delays are \"1s\" to \"24h\"")));
            }
            if let Some(delay) = delays.iter().find(|delay| delay.subsec_nanos() != 0) {
                let delay = humantime::format_duration(*delay);
                problems.push((key, format!("names the delay \"{delay}\": delays are whole seconds, because topics are named after them")));
            }
        }
        if self.tiers().len() > Config::MAX_TIERS {
            problems.push((
                "tiers",
                format!(
                    "come to {} together with those of `schedule`: each is a topic, {} are allowed",
                    self.tiers().len(),
                    Config::MAX_TIERS
                ),
            ));
        }
        let longest = self.schedule.delays().0.iter().max().copied().unwrap_or_default();
        if self.max_age <= longest {
            let (age, longest) = (humantime::format_duration(self.max_age), humantime::format_duration(longest));
            problems
                .push(("max_age", format!("is \"{age}\": it must be longer than the longest delay of `schedule`, which is \"{longest}\"")));
        }
        // Readers of tiers take what is due later than one and a half times their delay for something that belongs elsewhere.
        if !(0.0..=0.5).contains(&self.jitter) {
            problems.push(("jitter", format!("is {}: it is a share of the delay, 0 to 0.5", self.jitter)));
        }
        problems
    }

    /// Each tier is a topic with partitions and readers of its own.
    const MAX_TIERS: usize = 32;

    /// All tiers: sorted, each once.
    pub fn tiers(&self) -> Vec<Duration> {
        let mut tiers = self.schedule.delays().0;
        tiers.extend(&self.tiers);
        tiers.extend(SPILL_TIERS);
        tiers.extend([LOCAL_DELAY, LONGEST_DELAY]);
        tiers.sort_unstable();
        tiers.dedup();
        tiers
    }
}

/// A schedule in the configuration: a preset or a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Schedule {
    #[default]
    Standard,
    /// WIRE.md section 1.5.
    Zenvia,
    Delays(RetrySchedule),
}

impl Schedule {
    pub fn delays(&self) -> RetrySchedule {
        match self {
            Schedule::Standard => RetrySchedule::standard(),
            Schedule::Zenvia => RetrySchedule::zenvia(),
            Schedule::Delays(delays) => delays.clone(),
        }
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Schedule::Standard => to.serialize_str("standard"),
            Schedule::Zenvia => to.serialize_str("zenvia"),
            Schedule::Delays(delays) => delays.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Schedule, D::Error> {
        struct PresetOrList;

        impl<'de> Visitor<'de> for PresetOrList {
            type Value = Schedule;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a preset (\"standard\", \"zenvia\") or a list of delays such as [\"30s\", \"5m\"]")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Schedule, E> {
                match name {
                    "standard" => Ok(Schedule::Standard),
                    "zenvia" => Ok(Schedule::Zenvia),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Schedule, A::Error> {
                durations::deserialize(SeqAccessDeserializer::new(list)).map(|delays| Schedule::Delays(RetrySchedule(delays)))
            }
        }

        from.deserialize_any(PresetOrList)
    }
}

/// A status, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// The first digit: 3, 4 or 5.
    Class(u16),
}

impl Answer {
    /// Statuses by which an endpoint asks to be called again: no policy makes them final.
    const ASK_AGAIN: [u16; 3] = [408, 425, 429];

    fn covers(self, status: u16) -> bool {
        !Answer::ASK_AGAIN.contains(&status)
            && match self {
                Answer::Status(this) => this == status,
                Answer::Class(class) => status / 100 == class,
            }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status(status) => write!(out, "{status}"),
            Answer::Class(class) => write!(out, "{class}xx"),
        }
    }
}

impl std::str::FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Answer, String> {
        let class = text.strip_suffix("xx").and_then(|digit| digit.parse().ok()).filter(|class| (3..=5).contains(class));
        let status = text.parse().ok().filter(|status| (300..=599).contains(status) && !Answer::ASK_AGAIN.contains(status));
        class.map(Answer::Class).or(status.map(Answer::Status)).ok_or_else(|| {
            format!("`{text}` cannot be final: write a status from \"300\" to \"599\" (not 408, 425, 429) or \"3xx\", \"4xx\", \"5xx\"")
        })
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Answer, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The policy, ready for use.
#[derive(Debug, Clone)]
pub struct Policy {
    schedule: RetrySchedule,
    tiers: Vec<Duration>,
    max_age: Duration,
    jitter: f64,
    final_answers: Vec<Answer>,
}

impl Policy {
    /// Of a configuration that [`Config::check`] has nothing against.
    pub fn new(config: &Config) -> Policy {
        Policy {
            schedule: config.schedule.delays(),
            tiers: config.tiers(),
            max_age: config.max_age,
            jitter: config.jitter,
            final_answers: config.final_answers.clone(),
        }
    }

    /// All tiers: sorted, each once.
    pub fn tiers(&self) -> &[Duration] {
        &self.tiers
    }

    /// What to do after an attempt. `random` is 0 to 1.
    pub fn decide(&self, attempt: &Attempt, delivery: &Delivery, endpoint: &Endpoint, now: Timestamp, random: f64) -> Settlement {
        let failure = match &attempt.outcome {
            Outcome::Delivered => return Settlement::Acknowledge,
            Outcome::Failed(failure) => failure,
        };
        if self.is_final(failure) {
            return Settlement::DeadLetter(DeadReason::Final);
        }
        let schedule = endpoint.retry.as_ref().unwrap_or(&self.schedule);
        let delay = if uses_up_an_attempt(failure) { schedule.delay_after(attempt.number) } else { Some(LOCAL_DELAY) };
        let Some(delay) = delay else {
            return Settlement::DeadLetter(DeadReason::Exhausted);
        };
        let delay = attempt.retry_after.map_or(delay, |asked| asked.max(delay)).min(LONGEST_DELAY);
        self.retry(self.tier_for(delay), delay.mul_f64(1.0 + self.jitter * random.clamp(0.0, 1.0)), delivery, now)
    }

    /// Where a delivery goes that leaves the memory without an attempt, because its endpoint needs about `wait` for what waits already: the nearest
    /// of [`SPILL_TIERS`]. Only age ends it.
    pub fn spill(&self, wait: Duration, delivery: &Delivery, now: Timestamp) -> Settlement {
        let [mut nearest, others @ ..] = SPILL_TIERS;
        for tier in others {
            if tier.abs_diff(wait) < nearest.abs_diff(wait) {
                nearest = tier;
            }
        }
        self.retry(nearest, nearest, delivery, now)
    }

    /// Whether a failure ends the delivery at once.
    fn is_final(&self, failure: &Failure) -> bool {
        match failure {
            // The payload will not be built any better next time.
            Failure::Payload(_) => true,
            Failure::Status(status) | Failure::Redirect(status) => self.final_answers.iter().any(|answer| answer.covers(*status)),
            Failure::UnknownHost
            | Failure::AddressRefused(_)
            | Failure::Refused
            | Failure::Reset
            | Failure::ConnectTimeout
            | Failure::TlsTimeout
            | Failure::Tls(_)
            | Failure::ResponseTimeout
            | Failure::BodyTimeout
            | Failure::Protocol(_)
            // The receiver has said nothing yet.
            | Failure::Token { .. }
            | Failure::Unreachable { .. }
            | Failure::Local(_) => false,
        }
    }

    fn tier_for(&self, delay: Duration) -> Duration {
        let longest = self.tiers.last().copied().unwrap_or(LONGEST_DELAY);
        self.tiers.iter().copied().find(|tier| *tier >= delay).unwrap_or(longest)
    }

    /// A retry that would come after the delivery's time has run out is none: nobody gains by waiting for the end.
    fn retry(&self, tier: Duration, delay: Duration, delivery: &Delivery, now: Timestamp) -> Settlement {
        let age_at = |time: Timestamp| Duration::try_from(time.duration_since(delivery.accepted_at)).unwrap_or_default();
        match now.checked_add(delay) {
            Ok(due_at) if age_at(due_at) <= self.max_age => Settlement::Retry { tier, due_at },
            Ok(_) | Err(_) => Settlement::DeadLetter(DeadReason::Expired),
        }
    }
}

/// Our own fault uses up no attempt of the delivery.
pub fn uses_up_an_attempt(failure: &Failure) -> bool {
    !matches!(failure, Failure::Local(_) | Failure::Unreachable { ours: true, .. })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settle::test_log::{attempt, delivery, endpoint};

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn now() -> Timestamp {
        "2026-01-15T12:00:00Z".parse().expect("a time")
    }

    fn policy(change: impl FnOnce(&mut Config)) -> Policy {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.check(), []);
        Policy::new(&config)
    }

    fn retry(tier: u64, delay: u64) -> Settlement {
        Settlement::Retry { tier: seconds(tier), due_at: now() + seconds(delay) }
    }

    #[test]
    fn an_outcome_is_settled_as_the_table_says() {
        use DeadReason::*;
        let failed = |number, failure| attempt(number, Outcome::Failed(failure));
        let asked = |seconds, attempt: Attempt| Attempt { retry_after: Some(Duration::from_secs(seconds)), ..attempt };
        let standard = policy(|_| ());
        let strict = policy(|config| config.final_answers = vec!["4xx".parse().expect("a class"), "308".parse().expect("a status")]);
        let unreachable = |ours| Failure::Unreachable { text: "x".into(), ours };
        let no_token = Failure::Token { cause: Box::new(Failure::Status(401)), text: "token endpoint: status 401".into() };
        for (name, policy, attempt, expected) in [
            ("delivered", &standard, attempt(3, Outcome::Delivered), Settlement::Acknowledge),
            ("first failure", &standard, failed(1, Failure::Refused), retry(30, 30)),
            ("a timeout like any other", &standard, failed(2, Failure::ResponseTimeout), retry(60, 60)),
            ("eighth failure", &standard, failed(8, Failure::Status(500)), retry(43_200, 43_200)),
            ("ninth failure", &standard, failed(9, Failure::Status(500)), Settlement::DeadLetter(Exhausted)),
            ("a 404 is retried", &standard, failed(1, Failure::Status(404)), retry(30, 30)),
            ("unless the policy is strict", &strict, failed(1, Failure::Status(404)), Settlement::DeadLetter(Final)),
            ("but never a 429", &strict, failed(1, Failure::Status(429)), retry(30, 30)),
            ("nor a 408", &strict, failed(1, Failure::Status(408)), retry(30, 30)),
            ("a redirect that is named", &strict, failed(1, Failure::Redirect(308)), Settlement::DeadLetter(Final)),
            ("and one that is not", &strict, failed(1, Failure::Redirect(301)), retry(30, 30)),
            ("a 500 that is not", &strict, failed(1, Failure::Status(500)), retry(30, 30)),
            ("no way to it, and it may be ours", &standard, failed(9, unreachable(true)), retry(30, 30)),
            ("no way to it alone", &standard, failed(9, unreachable(false)), Settlement::DeadLetter(Exhausted)),
            ("no token is no answer of the receiver", &strict, failed(1, no_token.clone()), retry(30, 30)),
            ("no payload", &standard, failed(1, Failure::Payload("x".into())), Settlement::DeadLetter(Final)),
            ("our own fault", &standard, failed(1, Failure::Local("x".into())), retry(30, 30)),
            ("never exhausts", &standard, failed(9, Failure::Local("x".into())), retry(30, 30)),
            ("asked to wait less", &standard, asked(5, failed(1, Failure::Status(503))), retry(30, 30)),
            ("asked to wait 90 s", &standard, asked(90, failed(1, Failure::Status(503))), retry(300, 90)),
            ("asked for a day", &standard, asked(86_400, failed(1, Failure::Status(429))), retry(86_400, 86_400)),
            ("asked for a week", &standard, asked(604_800, failed(1, Failure::Status(429))), retry(86_400, 86_400)),
        ] {
            assert_eq!(policy.decide(&attempt, &delivery(now()), &endpoint(), now(), 0.0), expected, "{name}");
        }
    }

    #[test]
    fn an_endpoint_may_have_its_own_schedule() {
        let mut endpoint = endpoint();
        endpoint.retry = Some(RetrySchedule(vec![seconds(45)]));
        let attempt = |number| attempt(number, Outcome::Failed(Failure::Refused));
        let policy = policy(|_| ());
        assert_eq!(policy.decide(&attempt(1), &delivery(now()), &endpoint, now(), 0.0), retry(60, 45));
        assert_eq!(policy.decide(&attempt(2), &delivery(now()), &endpoint, now(), 0.0), Settlement::DeadLetter(DeadReason::Exhausted));
        endpoint.retry = Some(RetrySchedule(vec![]));
        assert_eq!(policy.decide(&attempt(1), &delivery(now()), &endpoint, now(), 0.0), Settlement::DeadLetter(DeadReason::Exhausted));
    }

    /// WIRE.md 1.5, rows "Retry spacing" and "Retry count".
    #[test]
    fn the_preset_of_zenvia_is_thirty_retries_at_least_thirty_seconds_apart() {
        let mut endpoint = endpoint();
        endpoint.retry = Some(RetrySchedule::zenvia());
        let policy = policy(|_| ());
        let decide = |number, random| {
            let attempt = attempt(number, Outcome::Failed(Failure::ResponseTimeout));
            policy.decide(&attempt, &delivery(now()), &endpoint, now(), random)
        };
        for number in 1..=30 {
            assert_eq!(decide(number, 0.0), retry(30, 30), "after attempt {number}");
            for random in [0.5, 1.0] {
                let Settlement::Retry { tier, due_at } = decide(number, random) else { panic!("after attempt {number}") };
                assert!(tier == seconds(30) && due_at > now() + seconds(30), "jitter only lengthens");
            }
        }
        assert_eq!(decide(31, 0.0), Settlement::DeadLetter(DeadReason::Exhausted), "the first attempt and thirty retries");
    }

    #[test]
    fn what_would_come_too_late_has_expired() {
        let policy = policy(|_| ());
        let old = delivery(now() - seconds(3 * 86_400 - 60));
        let attempt = |number| attempt(number, Outcome::Failed(Failure::Refused));
        assert_eq!(policy.decide(&attempt(1), &old, &endpoint(), now(), 0.0), retry(30, 30));
        assert_eq!(policy.decide(&attempt(3), &old, &endpoint(), now(), 0.0), Settlement::DeadLetter(DeadReason::Expired));
        assert_eq!(policy.spill(seconds(1), &old, now()), retry(5, 5));
        assert_eq!(policy.spill(seconds(900), &old, now()), Settlement::DeadLetter(DeadReason::Expired));
    }

    #[test]
    fn what_is_spilled_goes_to_the_nearest_tier() {
        let policy = policy(|_| ());
        for (wait, tier) in [(0, 5), (10, 5), (18, 30), (40, 30), (50, 60), (170, 60), (200, 300), (9_999, 300)] {
            assert_eq!(policy.spill(seconds(wait), &delivery(now()), now()), retry(tier, tier), "{wait} s");
        }
    }

    #[test]
    fn the_configuration_names_what_is_wrong() {
        let config: Config = toml::from_str(
            r#"schedule = ["10s", "2h"]
            tiers = ["45s"]
            final = ["3xx", "422"]"#,
        )
        .expect("a configuration");
        assert_eq!(config.tiers().iter().map(Duration::as_secs).collect::<Vec<_>>(), [5, 10, 30, 45, 60, 300, 7_200, 86_400]);
        assert_eq!(config.final_answers, [Answer::Class(3), Answer::Status(422)]);
        assert_eq!(toml::from_str::<Config>("schedule = \"zenvia\"").expect("a preset").schedule.delays().0.len(), 30);
        for wrong in ["schedule = \"fast\"", "schedule = [\"soon\"]", "final = [\"429\"]", "final = [\"2xx\"]", "tries = 3"] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
        let wrong: Config = toml::from_str(
            r#"schedule = ["0s", "25h", "1500ms"]
            max_age = "1h"
            jitter = 2.0"#,
        )
        .expect("a configuration");
        let keys: Vec<&str> = wrong.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["schedule", "schedule", "schedule", "max_age", "jitter"]);
        let written = toml::to_string(&Config::default()).expect("it can be written");
        assert_eq!(toml::from_str::<Config>(&written).expect("and read"), Config::default());
    }

    proptest! {
        #[test]
        fn a_retry_is_never_early_and_its_tier_never_shorter_than_its_delay(
            number in 1_u32..9, asked in proptest::option::of(0_u64..200_000), random in 0.0..1.0,
        ) {
            let policy = policy(|_| ());
            let attempt = Attempt { retry_after: asked.map(seconds), ..attempt(number, Outcome::Failed(Failure::Status(503))) };
            let delay = RetrySchedule::standard().delay_after(number).expect("there are eight").max(seconds(asked.unwrap_or(0))).min(LONGEST_DELAY);
            match policy.decide(&attempt, &delivery(now()), &endpoint(), now(), random) {
                Settlement::Retry { tier, due_at } => {
                    let waits = Duration::try_from(due_at.duration_since(now())).expect("not in the past");
                    prop_assert!(waits >= delay && waits <= delay.mul_f64(1.1));
                    prop_assert!(tier >= delay && policy.tiers().contains(&tier));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
