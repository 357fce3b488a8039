//! Health: the small record that attempts write about an endpoint, and what can be observed of it. The rules are in `health::score`.

use serde::{Deserialize, Serialize};

use super::{Text, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    #[default]
    Active,
    Degraded,
    /// Deliveries are suspended.
    Inactive,
}

impl HealthState {
    pub fn as_str(self) -> &'static str {
        match self {
            HealthState::Active => "active",
            HealthState::Degraded => "degraded",
            HealthState::Inactive => "inactive",
        }
    }
}

/// What is known of an endpoint's health. An endpoint without a record is Active with score 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthRecord {
    pub state: HealthState,
    /// Ordinary errors in a row; a timeout weighs `health.timeout_weight` of them.
    pub score: u32,
    /// Successes in a row while Degraded.
    pub successes: u32,
    /// When the state was entered, milliseconds since the epoch; 0 if it never changed.
    pub since: i64,
    /// When the first of the counted failures (or successes) came, milliseconds; 0 if none is counted. Counters expire from here.
    pub counted_since: i64,
    /// When the last counted timeout arrived, milliseconds: failures of attempts that were in flight then do not count again.
    pub last_timeout: i64,
    /// Grows by one with every transition.
    pub version: u64,
    /// The rule that put it into its state, such as `timeouts`, `errors`, `gone`.
    pub reason: Option<Text>,
}

/// What an attempt (or a person) tells about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    /// A 2xx. `slow`: later than `health.slow_after`; `first`: the delivery's first attempt.
    Success { slow: bool, first: bool },
    /// A connect, TLS, response or body timeout of an attempt that was started at `started` (milliseconds).
    Timeout { started: i64 },
    /// Any other failure that the endpoint or the network is to blame for.
    Error { started: i64 },
    /// 410 Gone.
    Gone,
    /// Its filter takes too many steps, again and again.
    FilterTooSlow,
    /// A person changed the URL: Degraded becomes Active, Inactive stays.
    UrlChanged,
    /// A person enabled it: Active with no score, whatever it was.
    Enabled,
}

/// A change of state, told once by the instance that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub endpoint: Text,
    pub from: HealthState,
    pub record: HealthRecord,
    pub at: Timestamp,
}
