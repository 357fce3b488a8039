//! What is said to Redis: records as text, and the scripts.

use redis::{RedisResult, Script, aio::ConnectionLike};

use crate::{
    health::score::Rules,
    model::{HealthRecord, HealthState, Observation, Text},
};

/// What one endpoint's record goes through in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub endpoint: Text,
    pub operation: Operation,
    /// When it was observed, milliseconds.
    pub now: i64,
    /// What this instance knows of the record.
    pub ours: HealthRecord,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Observe(Observation),
    /// `score::join` with what this instance has made of the record while the store was away.
    Join,
}

/// What became of an item: the record, and the state it came from if this call has caused a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub record: HealthRecord,
    pub from: Option<HealthState>,
}

pub(super) struct Scripts {
    score: Script,
    announce: Script,
    leave: Script,
    prefix: String,
}

/// Instances announce themselves by the clock of the store, so that theirs need not agree; one that was not heard of for this long is gone.
pub(super) const INSTANCE_LIVES_MS: u64 = 15_000;

impl Scripts {
    pub fn new(prefix: &str) -> Scripts {
        Scripts {
            score: Script::new(include_str!("score.lua")),
            announce: Script::new(
                "local time = redis.call('TIME')
                local now = time[1] * 1000 + math.floor(time[2] / 1000)
                redis.call('ZADD', KEYS[1], now, ARGV[1])
                redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
                redis.call('PEXPIRE', KEYS[1], ARGV[2])
                local count = redis.call('ZCARD', KEYS[1])
                redis.call('PUBLISH', ARGV[3], 'instances\\n' .. count)
                return count",
            ),
            leave: Script::new(
                "redis.call('ZREM', KEYS[1], ARGV[1])
                redis.call('PUBLISH', ARGV[2], 'instances\\n' .. redis.call('ZCARD', KEYS[1]))",
            ),
            prefix: prefix.to_owned(),
        }
    }

    pub fn channel(&self) -> String {
        format!("{}health", self.prefix)
    }

    pub fn record_key(&self, endpoint: &str) -> String {
        format!("{}health:{endpoint}", self.prefix)
    }

    /// The endpoint that a key belongs to.
    pub fn endpoint_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix("health:")
    }

    /// Applies the items, in order, in one atomic step.
    pub async fn apply(&self, to: &mut impl ConnectionLike, items: &[Item], rules: &Rules) -> RedisResult<Vec<Applied>> {
        let mut call = self.score.prepare_invoke();
        call.arg(self.channel()).arg(rules.expire_ms());
        call.arg(rules.timeout_weight).arg(rules.degraded_at).arg(rules.inactive_at).arg(rules.recovered_after);
        call.arg(rules.expire_ms()).arg(u8::from(rules.gone_is_final));
        for item in items {
            let (operation, argument) = item.operation.words();
            call.key(self.record_key(&item.endpoint));
            call.arg(&*item.endpoint).arg(operation).arg(argument).arg(item.now).arg(encode(&item.ours));
        }
        let answer: Vec<String> = call.invoke_async(to).await?;
        let applied = answer.as_chunks::<2>().0.iter().map(|[record, from]| Some(Applied { record: decode(record)?, from: state(from) }));
        let applied = applied.collect::<Option<Vec<Applied>>>().filter(|applied| applied.len() == items.len());
        applied.ok_or_else(|| unexpected("an answer that does not fit the call"))
    }

    /// Says that this instance is alive; returns how many are.
    pub async fn announce(&self, to: &mut impl ConnectionLike, instance: &str) -> RedisResult<u32> {
        let mut call = self.announce.key(format!("{}instances", self.prefix));
        call.arg(instance).arg(INSTANCE_LIVES_MS).arg(self.channel()).invoke_async(to).await
    }

    pub async fn leave(&self, to: &mut impl ConnectionLike, instance: &str) -> RedisResult<()> {
        self.leave.key(format!("{}instances", self.prefix)).arg(instance).arg(self.channel()).invoke_async(to).await
    }
}

fn unexpected(what: &str) -> redis::RedisError {
    redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "the health script answered", what.to_owned()))
}

impl Operation {
    fn words(self) -> (&'static str, String) {
        match self {
            Operation::Join => ("join", String::new()),
            Operation::Observe(Observation::Success { slow, first }) => ("success", format!("{}{}", u8::from(slow), u8::from(first))),
            Operation::Observe(Observation::Timeout { started }) => ("timeout", started.to_string()),
            Operation::Observe(Observation::Error { started }) => ("error", started.to_string()),
            Operation::Observe(Observation::Gone) => ("gone", String::new()),
            Operation::Observe(Observation::FilterTooSlow) => ("filter_too_slow", String::new()),
            Operation::Observe(Observation::UrlChanged) => ("url_changed", String::new()),
            Operation::Observe(Observation::Enabled) => ("enabled", String::new()),
        }
    }
}

pub(super) fn encode(record: &HealthRecord) -> String {
    let HealthRecord { state, score, successes, since, counted_since, last_timeout, version, reason } = record;
    let state = match state {
        HealthState::Active => 'a',
        HealthState::Degraded => 'd',
        HealthState::Inactive => 'i',
    };
    let reason = reason.as_deref().unwrap_or_default();
    format!("{state} {score} {successes} {since} {counted_since} {last_timeout} {version} {reason}")
}

/// None for what no posthaste wrote.
pub(super) fn decode(text: &str) -> Option<HealthRecord> {
    let mut parts = text.splitn(8, ' ');
    Some(HealthRecord {
        state: state(parts.next()?)?,
        score: parts.next()?.parse().ok()?,
        successes: parts.next()?.parse().ok()?,
        since: parts.next()?.parse().ok()?,
        counted_since: parts.next()?.parse().ok()?,
        last_timeout: parts.next()?.parse().ok()?,
        version: parts.next()?.parse().ok()?,
        reason: parts.next().filter(|reason| !reason.is_empty()).map(Text::from),
    })
}

fn state(letter: &str) -> Option<HealthState> {
    match letter {
        "a" => Some(HealthState::Active),
        "d" => Some(HealthState::Degraded),
        "i" => Some(HealthState::Inactive),
        _ => None,
    }
}
