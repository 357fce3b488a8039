//! The scheduler: decides which delivery goes next, so that no endpoint can take from another what that one would have used.
//!
//! # Contract
//!
//! 1. What is handed over comes out exactly once: as a [`Dispatch`] (a request is made), a [`Spill`] (back to the log without using up an
//!    attempt), a [`Doomed`] (its endpoint is gone or suspended), or handed back at the end, for its source reads it again. A delivery whose partition
//!    was lost meanwhile is let go of: its new owner sends it. A [`Dispatch`] that is dropped before its delivery was taken out becomes a spill.
//! 2. Requests in flight never exceed the slots; those of degraded endpoints never their share; and new requests to endpoints that have not
//!    shown that they answer are made only while such ones, degraded ones and those that wait for longer than a second hold less than half.
//! 3. An endpoint that cannot be served now (rate, concurrency, nothing waits) costs nothing per turn.
//! 4. Nothing here drops a delivery to save memory: what must not wait in memory is spilled, within a budget; beyond it the byte budget of
//!    all that is held fills up, and the sources stop polling.
//!
//! # Shape
//!
//! Endpoints are divided among [`Shards`] by the hash of their id. Each shard is one thread with its own runtime, and all state of an endpoint lives
//! there without a lock. [`Shard`] is the state machine: it takes the time as an argument and does no I/O. [`run()`] is the thin loop around it.
//! Inside a shard: [`queue`] (what waits, per endpoint), [`fair`] (whose turn it is), [`limits`] (rate, concurrency, spill budget), [`flight`] (what
//! is in flight). One global queue with priorities would have been simpler, and every engine that has one is stopped by a single dead endpoint.

pub mod endpoint;
pub mod fair;
pub mod flight;
pub mod limits;
pub mod queue;
pub mod ring;
pub mod run;
pub mod shard;
pub mod shards;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;
use tokio::time::Instant;

use crate::model::{Ack, Attempt, DeadReason, Delivery, Endpoint, HealthState, Outcome, Rate, Routed, Text};

pub use flight::{Dispatch, Slot};
pub use run::{Hooks, run};
pub use shard::Shard;
pub use shards::{Closed, Shards};

/// `[scheduler]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Requests in flight at once, over all endpoints. Each takes a file descriptor.
    pub slots: u32,
    /// Bytes that deliveries may hold in memory, queued and in flight; at the bound the sources stop polling.
    pub memory: ByteSize,
    /// Threads that endpoints are divided among; 0: one per core.
    pub shards: usize,
    /// Requests in flight at once to one endpoint that does not say otherwise.
    pub concurrency: u16,
    /// Share of the slots that degraded endpoints together get at most.
    pub degraded_share: f64,
    /// Share of the slots that degraded endpoints get at least while they have work.
    pub degraded_minimum: f64,
    /// Share of the slots that endpoints which are unproven, degraded, or have not answered for `old_after` together get at most.
    pub unproven_share: f64,
    /// How long an answer proves that an endpoint answers; without it one request is in flight at a time.
    #[serde(with = "humantime_serde")]
    pub proven_for: Duration,
    /// A request that waits for longer than this for its answer counts into `unproven_share`, and so do the next ones of its endpoint.
    #[serde(with = "humantime_serde")]
    pub old_after: Duration,
    /// Deliveries of one endpoint that may always wait in memory.
    pub queue_minimum: u32,
    /// Beyond that, the share of the memory that sources may still fill which the queue of one healthy endpoint may hold.
    pub queue_share: f64,
    /// The same for a degraded one.
    pub queue_share_degraded: f64,
    /// A delivery of a degraded endpoint that has waited for longer is spilled.
    #[serde(with = "humantime_serde")]
    pub degraded_wait: Duration,
    /// A delivery that has waited for longer while others of the same record are done is spilled, so that the record can be closed.
    #[serde(with = "humantime_serde")]
    pub fan_out_wait: Duration,
    /// Spills that are always allowed, so that a total outage cannot move the whole topic.
    pub spill_rate: Rate,
    /// Spills allowed in addition for each answer of an endpoint.
    pub spill_per_answer: u32,
    /// One of so many turns of an endpoint belongs to its retries while first attempts wait too.
    pub retry_turn: u32,
    /// How long requests in flight may go on when the daemon stops; what still runs then goes back to the log.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: 4096,
            // Some 40,000 small events. More would only be read further ahead: at 256 MiB fresh pages alone cost as much as the requests.
            memory: ByteSize::mib(64),
            shards: 0,
            concurrency: 64,
            degraded_share: 0.20,
            degraded_minimum: 0.05,
            unproven_share: 0.5,
            proven_for: Duration::from_secs(60),
            old_after: Duration::from_secs(1),
            queue_minimum: 64,
            queue_share: 1.0,
            queue_share_degraded: 1.0 / 16.0,
            degraded_wait: Duration::from_secs(10),
            fan_out_wait: Duration::from_secs(1),
            spill_rate: "500/s".parse().expect("a rate"),
            spill_per_answer: 1,
            retry_turn: 8,
            // A response deadline of 5 s, and a little.
            drain: Duration::from_secs(6),
        }
    }
}

impl Config {
    /// What is out of its range or contradicts another key: the key and what would be right.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        const MOST_SHARDS: usize = 256;
        let mut problems = Vec::new();
        let mut must = |holds: bool, key: &'static str, problem: &str| {
            if !holds {
                problems.push((key, problem.to_owned()));
            }
        };
        let shards = u32::try_from(self.shard_count()).unwrap_or(u32::MAX);
        must((64..=1_000_000).contains(&self.slots), "slots", "must be between 64 and 1000000");
        must(self.shards <= MOST_SHARDS, "shards", "must be at most 256 (0: one per core)");
        must(self.slots / shards >= 16, "slots", "must be at least 16 for each of the shards");
        must(self.memory >= ByteSize::mib(1), "memory", "must be at least 1MiB");
        must((1..=1024).contains(&self.concurrency), "concurrency", "must be between 1 and 1024");
        let share = |value: f64| value > 0.0 && value <= 1.0;
        must(share(self.degraded_share), "degraded_share", "must be above 0 and at most 1");
        must(share(self.degraded_minimum), "degraded_minimum", "must be above 0 and at most 1");
        must(self.degraded_minimum <= self.degraded_share, "degraded_minimum", "must be at most degraded_share");
        must(share(self.unproven_share), "unproven_share", "must be above 0 and at most 1");
        must(
            self.degraded_share <= self.unproven_share,
            "degraded_share",
            "must be at most unproven_share, into which degraded ones count",
        );
        must(share(self.queue_share), "queue_share", "must be above 0 and at most 1");
        must(share(self.queue_share_degraded), "queue_share_degraded", "must be above 0 and at most 1");
        must(self.queue_minimum >= 1, "queue_minimum", "must be at least 1");
        must(self.retry_turn >= 2, "retry_turn", "must be at least 2: first attempts need turns as well");
        must(self.spill_per_answer <= 1000, "spill_per_answer", "must be at most 1000");
        must(self.drain <= Duration::from_secs(300), "drain", "must be at most 5m: whoever stops the daemon waits for it");
        for (key, value) in [
            ("proven_for", self.proven_for),
            ("old_after", self.old_after),
            ("degraded_wait", self.degraded_wait),
            ("fan_out_wait", self.fan_out_wait),
        ] {
            let range = Duration::from_millis(100)..=Duration::from_secs(3600);
            must(range.contains(&value), key, "must be between 100ms and 1h");
        }
        problems
    }

    /// Shards as they will be: those named, or one per core.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            named => named,
        }
    }
}

/// What a shard is told.
#[derive(Debug)]
pub enum Message {
    Deliver(Vec<Routed>),
    Control(Control),
}

#[derive(Debug, Clone)]
pub enum Control {
    /// The endpoint was changed. What waits for it goes to the new version; what waits for one that is disabled now is doomed.
    Endpoint(Arc<Endpoint>),
    /// The endpoint is gone, of which `version` was the last registry offset: what waits for it is doomed for this reason, and so is what was
    /// routed to it and has not come yet.
    Removed { endpoint: Text, version: i64, reason: DeadReason },
    /// Its health has changed, here or elsewhere. What waits for one that is Inactive now is doomed.
    Health { endpoint: Text, state: HealthState },
    /// Live instances of the fleet, among which the rates are divided.
    Instances(NonZeroU32),
    /// The share of a tenant in the turns, as a multiple of that of others (1).
    Weight { tenant: Text, weight: NonZeroU32 },
    /// Make no more requests. What is in flight may end until the deadline; what still runs then is cut off and spilled.
    Drain { waiting: Waiting, deadline: Instant },
    /// The sources have ended: what still waits after a drain is handed back.
    End,
}

/// What becomes of deliveries that wait when the scheduler drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// They go back to the log, at once and without regard to the budget.
    Spill,
    /// They are let go of at [`Control::End`], because their source reads them again after a restart. Those that must leave (because a sibling
    /// is done, or the source asks for it) are spilled all the same, until then.
    HandBack,
}

/// A delivery that goes back to the log without having used up an attempt.
#[derive(Debug)]
pub struct Spill {
    pub delivery: Box<Delivery>,
    pub endpoint: Arc<Endpoint>,
    pub ack: Ack,
    /// When there will be room for it, as far as can be told; between [`Spill::SHORTEST`] and [`Spill::LONGEST`].
    pub wait: Duration,
    pub reason: SpillReason,
}

impl Spill {
    /// The delay of the shortest tier that spilled deliveries go to.
    pub const SHORTEST: Duration = Duration::from_secs(5);
    /// That of the longest.
    pub const LONGEST: Duration = Duration::from_secs(300);
}

/// Why a delivery was spilled: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpillReason {
    /// The queue of its endpoint is over its bound.
    QueueFull,
    /// Its endpoint is degraded, and it has waited for `degraded_wait`.
    DegradedWait,
    /// It holds the offset window of its source.
    Window,
    /// Other deliveries of its record are done.
    FanOut,
    /// The daemon stops.
    Drain,
    /// Its request was cut off, by the end of the drain or by a bug: perhaps it arrived, perhaps not.
    CutOff,
}

impl SpillReason {
    pub fn as_str(self) -> &'static str {
        match self {
            SpillReason::QueueFull => "queue_full",
            SpillReason::DegradedWait => "degraded_wait",
            SpillReason::Window => "window",
            SpillReason::FanOut => "fan_out",
            SpillReason::Drain => "drain",
            SpillReason::CutOff => "cut_off",
        }
    }
}

/// A delivery that cannot be made any more.
#[derive(Debug)]
pub struct Doomed {
    pub delivery: Box<Delivery>,
    pub endpoint: Arc<Endpoint>,
    pub ack: Ack,
    pub reason: DeadReason,
}

/// That a dispatched request has ended, and how.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    pub slot: Slot,
    pub at: Instant,
    /// How long the request held its connection.
    pub held: Duration,
    pub ended: Ended,
}

/// What the end of a request says of its endpoint, as far as scheduling goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Success,
    /// An answer that is no success, but an answer.
    Answered,
    /// The endpoint asks for less: 429, 502, 503, 504.
    Backpressure,
    Timeout,
    /// No answer, but no waiting either: refused, reset, unknown host.
    Failure,
    /// Nothing was learned: no request was made, or it failed on our side.
    Nothing,
}

impl Finished {
    pub fn of(slot: Slot, attempt: &Attempt) -> Finished {
        let ended = match &attempt.outcome {
            Outcome::Delivered => Ended::Success,
            Outcome::Failed(failure) if failure.is_timeout() => Ended::Timeout,
            Outcome::Failed(failure) => match (attempt.status, failure.blame()) {
                (Some(429 | 502 | 503 | 504), _) => Ended::Backpressure,
                (Some(_), _) => Ended::Answered,
                (None, crate::model::Blame::Us) => Ended::Nothing,
                (None, crate::model::Blame::Endpoint | crate::model::Blame::Network) => Ended::Failure,
            },
        };
        Finished { slot, at: attempt.ended, held: attempt.elapsed, ended }
    }

    /// For a dispatch that was settled without a request, such as one that is too old.
    pub fn without_request(slot: Slot, at: Instant) -> Finished {
        Finished { slot, at, held: Duration::ZERO, ended: Ended::Nothing }
    }
}

/// The priority class in which a delivery is scheduled: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Healthy,
    Degraded,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Healthy, Lane::Degraded];

    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Healthy => "healthy",
            Lane::Degraded => "degraded",
        }
    }
}

#[cfg(test)]
mod tests;
