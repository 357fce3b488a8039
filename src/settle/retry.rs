//! Does what was decided: acknowledge, hand to a retry tier, write a dead letter.
//!
//! The acknowledgement is given after the append is durable, never before. An append that fails is tried again, with a growing pause of a second at
//! most, for as long as the lease of the partition lives; when it has ended, the delivery is let go unsettled. What the log finds too large becomes
//! a dead letter that refers to the position of the event.
//!
//! There is no queue in here: whoever settles waits, holding its delivery, so a log that does not take appends stops the sources by itself. A
//! record holds a copy of its event, and an event to a thousand endpoints that fail becomes a thousand copies: no more of them are made at
//! once than there is room for ([`Settler::with_room`]). Both logs put appends that come together into one durable write.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ::metrics::Counter;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    history::History,
    policy::{Policy, uses_up_an_attempt},
};
use crate::{
    log::{
        Append, Log, LogError, Record,
        record::{encode_dead_delivery, encode_dead_record, encode_delivery},
    },
    model::{Ack, Attempt, Clock, DeadReason, Delivery, Endpoint, Event, Outcome, Position, Purpose, Settlement, Text},
    telemetry::{Metrics, Trouble},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Short, so that the end of a lease is seen soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How much of an answer's body is put into the detail of a dead letter, bytes.
const ANSWER_EXCERPT: usize = 200;

/// Bytes of events that are copied into records and not durable yet, if nobody says otherwise.
const ROOM: usize = 32 << 20;

/// Deliveries that leave without an attempt are appended by so many bytes at most, and one more.
const AT_ONCE: usize = 1 << 20;

/// The topics that deliveries are moved to.
#[derive(Debug, Clone)]
pub struct Destinations {
    /// The topic of each tier of [`Policy::tiers`].
    pub retry: HashMap<Duration, Arc<str>>,
    pub dead: Arc<str>,
}

pub struct Settler {
    log: Arc<dyn Log>,
    destinations: Destinations,
    policy: Policy,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// What may still be copied into records, KiB.
    room: Semaphore,
    /// All of it.
    rooms: u32,
    /// `posthaste_deliveries_total{result="delivered"}`, so that nothing is looked up where most deliveries end.
    delivered: Counter,
    trouble: Trouble,
    /// Where outcomes of what agents send are kept.
    history: Option<Arc<History>>,
}

/// A delivery that leaves the memory without an attempt.
#[derive(Debug)]
pub struct Spill {
    pub delivery: Delivery,
    /// About what its endpoint needs for what waits already.
    pub wait: Duration,
    pub ack: Ack,
    /// A label of `posthaste_spilled_total`.
    pub reason: &'static str,
}

/// A delivery that ends without an attempt.
#[derive(Debug)]
pub struct Dead {
    pub delivery: Delivery,
    pub reason: DeadReason,
    /// For a person who looks at the dead letter.
    pub detail: &'static str,
    pub ack: Ack,
}

/// An append, and who waits for it.
struct Owed {
    append: Append,
    ack: Ack,
    origin: Position,
    /// Of a delivery for its metrics; none for a record that never became one.
    purpose: Option<Purpose>,
    becomes: Becomes,
}

#[derive(Clone, Copy)]
enum Becomes {
    /// What is no delivery any more.
    Other,
    Retry,
    Spilled(&'static str),
    Dead(DeadReason),
}

impl Settler {
    /// Fails if a tier of the policy has no topic.
    pub fn new(
        log: Arc<dyn Log>,
        destinations: Destinations,
        policy: Policy,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Settler, String> {
        match policy.tiers().iter().find(|tier| !destinations.retry.contains_key(tier)) {
            Some(tier) => Err(format!("the retry tier {} has no topic", humantime::format_duration(*tier))),
            None => {
                let delivered = metrics.deliveries_total.with("delivered").clone();
                let settler = Settler {
                    log,
                    destinations,
                    policy,
                    clock,
                    metrics,
                    room: Semaphore::new(0),
                    rooms: 0,
                    delivered,
                    trouble: Trouble::default(),
                    history: None,
                };
                Ok(settler.with_room(ROOM))
            }
        }
    }

    /// Bounds the bytes of events that are copied into records and not durable yet.
    pub fn with_room(self, bytes: usize) -> Settler {
        let rooms = u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        Settler { room: Semaphore::new(rooms as usize), rooms, ..self }
    }

    /// Keeps the outcomes of what agents send in the histories of tickets, before anything is acknowledged.
    pub fn with_history(self, history: Arc<History>) -> Settler {
        Settler { history: Some(history), ..self }
    }

    /// Waits for room for so many bytes; more than there is in all takes all of it.
    async fn room(&self, bytes: usize) -> SemaphorePermit<'_> {
        let rooms = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1).min(self.rooms);
        self.room.acquire_many(rooms).await.expect("nobody closes it")
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides by the policy what an attempt asks for, and does it. Returns what was decided when it is done.
    pub async fn settle(&self, attempt: &Attempt, mut delivery: Delivery, endpoint: &Endpoint, ack: Ack) -> Settlement {
        let failure = match &attempt.outcome {
            Outcome::Delivered => {
                delivery.attempts = attempt.number;
                self.remember(&delivery, &Settlement::Acknowledge, &describe(attempt), &ack).await;
                self.acknowledge(&delivery, attempt.seconds_since(delivery.accepted_at), ack);
                return Settlement::Acknowledge;
            }
            Outcome::Failed(failure) => failure,
        };
        let settlement = self.policy.decide(attempt, &delivery, endpoint, self.clock.now(), random());
        if uses_up_an_attempt(failure) {
            delivery.attempts = attempt.number;
        }
        delivery.reason = Some(Text::from_static(failure.class()));
        self.apply(settlement.clone(), delivery, ack, &describe(attempt)).await;
        settlement
    }

    /// Does what was decided; `delivery.attempts` and `delivery.reason` tell of the last attempt already. `detail` is for a person who looks at
    /// the dead letter.
    pub async fn apply(&self, settlement: Settlement, delivery: Delivery, ack: Ack, detail: &str) {
        let _room = self.room(delivery.event.weight()).await;
        self.remember(&delivery, &settlement, detail, &ack).await;
        let owed = self.owe(settlement, delivery, ack, Becomes::Retry, detail);
        self.append(vec![owed]).await;
    }

    async fn remember(&self, delivery: &Delivery, settlement: &Settlement, detail: &str, ack: &Ack) {
        if let Some(history) = self.history.as_ref().filter(|_| delivery.purpose == Purpose::Agent) {
            history.keep(delivery, settlement, detail, ack).await;
        }
    }

    /// Appends what an event has become instead of deliveries of its own, and acknowledges it when that is durable.
    pub async fn become_of(&self, append: Append, origin: Position, ack: Ack) {
        let _room = self.room(append.value.as_ref().map_or(0, Bytes::len)).await;
        self.append(vec![Owed { append, ack, origin, purpose: None, becomes: Becomes::Other }]).await;
    }

    /// Moves one delivery out of memory without using up an attempt.
    pub async fn spill(&self, delivery: Delivery, wait: Duration, ack: Ack, reason: &'static str) {
        self.spill_all(vec![Spill { delivery, wait, ack, reason }]).await;
    }

    /// Moves many deliveries out of memory in few appends.
    pub async fn spill_all(&self, spills: Vec<Spill>) {
        for (part, bytes) in parts(spills, |spill| spill.delivery.event.weight()) {
            let _room = self.room(bytes).await;
            self.spill_part(part).await;
        }
    }

    /// Ends many deliveries in few appends.
    pub async fn dead_letter_all(&self, dead: Vec<Dead>) {
        for (part, bytes) in parts(dead, |dead| dead.delivery.event.weight()) {
            let _room = self.room(bytes).await;
            let mut owed = Vec::with_capacity(part.len());
            for Dead { delivery, reason, detail, ack } in part {
                let settlement = Settlement::DeadLetter(reason);
                self.remember(&delivery, &settlement, detail, &ack).await;
                owed.push(self.owe(settlement, delivery, ack, Becomes::Dead(reason), detail));
            }
            self.append(owed).await;
        }
    }

    async fn spill_part(&self, spills: Vec<Spill>) {
        let now = self.clock.now();
        const TOO_OLD: &str = "it has waited for longer than retry.max_age";
        let mut owed = Vec::with_capacity(spills.len());
        for Spill { mut delivery, wait, ack, reason } in spills {
            let settlement = self.policy.spill(wait, &delivery, now);
            if matches!(settlement, Settlement::DeadLetter(_)) {
                self.remember(&delivery, &settlement, TOO_OLD, &ack).await;
            }
            delivery.reason.get_or_insert(Text::from_static(reason));
            owed.push(self.owe(settlement, delivery, ack, Becomes::Spilled(reason), TOO_OLD));
        }
        self.append(owed).await;
    }

    /// Ends a delivery that is not attempted (any more): its endpoint is inactive, disabled or deleted, or it has expired.
    pub async fn dead_letter(&self, delivery: Delivery, reason: DeadReason, detail: &str, ack: Ack) {
        self.apply(Settlement::DeadLetter(reason), delivery, ack, detail).await;
    }

    /// Keeps a record that never became a delivery.
    pub async fn dead_letter_record(&self, record: &Record, reason: DeadReason, detail: &str, ack: Ack) {
        let _room = self.room(record.value.as_ref().map_or(0, Bytes::len)).await;
        let append = encode_dead_record(record, reason, detail, self.clock.now()).to(self.destinations.dead.clone());
        let origin = record.position.clone();
        self.append(vec![Owed { append, ack, origin, purpose: None, becomes: Becomes::Dead(reason) }]).await;
    }

    /// Ends a delivery that got its 2xx, so many seconds after it was accepted. Waits for nothing.
    pub fn acknowledge(&self, delivery: &Delivery, seconds: f64, ack: Ack) {
        if delivery.purpose == Purpose::Event && ack.is_live() {
            self.metrics.delivery_seconds.record(seconds.max(0.0));
            self.delivered.increment(1);
        }
        ack.done();
    }

    fn owe(&self, settlement: Settlement, mut delivery: Delivery, ack: Ack, retried: Becomes, detail: &str) -> Owed {
        let origin = delivery.origin.clone();
        let purpose = Some(delivery.purpose);
        match settlement {
            Settlement::Retry { tier, due_at } => {
                delivery.due_at = Some(due_at);
                let topic = self.destinations.retry.get(&tier).unwrap_or(&self.destinations.dead).clone();
                Owed { append: encode_delivery(&delivery).to(topic), ack, origin, purpose, becomes: retried }
            }
            Settlement::DeadLetter(reason) => {
                let append = encode_dead_delivery(&delivery, reason, detail, self.clock.now()).to(self.destinations.dead.clone());
                Owed { append, ack, origin, purpose, becomes: Becomes::Dead(reason) }
            }
            Settlement::Acknowledge => unreachable!("an acknowledgement is appended nowhere"),
        }
    }

    /// Returns when each append is durable and acknowledged, or its lease has ended.
    async fn append(&self, mut owed: Vec<Owed>) {
        let mut pause = FIRST_PAUSE;
        loop {
            owed = self.still_ours(owed);
            if owed.is_empty() {
                return;
            }
            let results = self.log.append(owed.iter().map(|owed| owed.append.clone()).collect()).await;
            let mut failed = Vec::new();
            for (mut owed, result) in owed.into_iter().zip(results) {
                match result {
                    Ok(_) => {
                        if self.trouble.ends(Instant::now()) {
                            tracing::info!("appends succeed again");
                        }
                        self.done(owed);
                    }
                    Err(LogError::TooLarge { .. }) if !matches!(owed.becomes, Becomes::Dead(DeadReason::TooLarge)) => {
                        self.refer(&mut owed);
                        failed.push(owed);
                    }
                    Err(error) => {
                        self.metrics.append_errors_total.increment(1);
                        if self.trouble.begins(Instant::now()) {
                            tracing::warn!(topic = %owed.append.topic, %error, "appends fail; each is tried again until it is stored");
                        }
                        failed.push(owed);
                    }
                }
            }
            owed = failed;
            if !owed.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Lets go of what belongs to another instance by now.
    fn still_ours(&self, owed: Vec<Owed>) -> Vec<Owed> {
        let (ours, lost): (Vec<Owed>, Vec<Owed>) = owed.into_iter().partition(|owed| owed.ack.is_live());
        self.metrics.late_settlements_total.increment(lost.len() as u64);
        lost.into_iter().for_each(|owed| owed.ack.abandon());
        ours
    }

    fn done(&self, owed: Owed) {
        let result = match owed.becomes {
            Becomes::Other => "other",
            Becomes::Retry => {
                self.metrics.retries_total.increment(1);
                "retried"
            }
            Becomes::Spilled(reason) => {
                self.metrics.spilled_total.with(reason).increment(1);
                "spilled"
            }
            Becomes::Dead(reason) => {
                self.metrics.dead_letters_total.with(reason.as_str()).increment(1);
                reason.as_str()
            }
        };
        if owed.purpose == Some(Purpose::Event) {
            self.metrics.deliveries_total.with(result).increment(1);
        }
        owed.ack.done();
    }

    /// Turns what is too large to be moved into a reference to where it lies.
    fn refer(&self, owed: &mut Owed) {
        let key = owed.append.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let detail = format!("too large to be moved to `{}` for `{key}`; the event lies at {}", owed.append.topic, owed.origin);
        let nothing = Record { position: owed.origin.clone(), key: None, value: None, headers: Vec::new(), appended_ms: 0 };
        let reference = encode_dead_record(&nothing, DeadReason::TooLarge, &detail, self.clock.now());
        // The key of the endpoint stays, if it is not the key that was too large.
        let key = owed.append.key.take().filter(|key| key.len() <= Event::NAME_LIMIT);
        owed.append = Append { key, ..reference.to(self.destinations.dead.clone()) };
        owed.becomes = Becomes::Dead(DeadReason::TooLarge);
    }
}

/// Parts of [`AT_ONCE`] bytes each, with their bytes.
fn parts<T>(all: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> impl Iterator<Item = (Vec<T>, usize)> {
    let mut all = all.into_iter().peekable();
    std::iter::from_fn(move || {
        all.peek()?;
        let (mut part, mut bytes) = (Vec::new(), 0);
        while let Some(one) = all.next_if(|_| bytes < AT_ONCE) {
            bytes += bytes_of(&one);
            part.push(one);
        }
        Some((part, bytes))
    })
}

/// What a person wants to know of a failed attempt: its class, what was said, and how long it took.
pub fn describe(attempt: &Attempt) -> String {
    use crate::model::Failure;
    let elapsed = attempt.elapsed.as_secs_f64();
    match &attempt.outcome {
        Outcome::Delivered => format!("delivered after {elapsed:.3} s"),
        Outcome::Failed(Failure::Status(status) | Failure::Redirect(status)) => {
            let answer = excerpt(&attempt.answer);
            format!("status {status} after {elapsed:.3} s{}{answer}", if answer.is_empty() { "" } else { ": " })
        }
        Outcome::Failed(
            failure @ (Failure::AddressRefused(text)
            | Failure::Tls(text)
            | Failure::Protocol(text)
            | Failure::Payload(text)
            | Failure::Unreachable { text, .. }
            | Failure::Local(text)),
        ) => format!("{}: {text}", failure.class()),
        Outcome::Failed(Failure::Token { text, .. }) => format!("{text} after {elapsed:.3} s"),
        Outcome::Failed(
            failure @ (Failure::UnknownHost
            | Failure::Refused
            | Failure::Reset
            | Failure::ConnectTimeout
            | Failure::TlsTimeout
            | Failure::ResponseTimeout
            | Failure::BodyTimeout),
        ) => format!("{} after {elapsed:.3} s", failure.class()),
    }
}

/// The beginning of an answer as harmless text.
fn excerpt(answer: &Bytes) -> String {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(ANSWER_EXCERPT)]);
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect::<String>().trim().to_owned()
}

/// 0 to 1. Without a source of chance there is no jitter, which is no harm.
fn random() -> f64 {
    getrandom::u32().map_or(0.0, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
