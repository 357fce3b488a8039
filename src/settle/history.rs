//! The history of tickets: what support expert agents sent, when, to whom, and what came of it (WIRE.md 0.15, 1.11).
//!
//! # Contract
//!
//! Each outcome that a sending is settled with (delivered, failed and to be tried again, dead) is a record of its own topic, keyed by tenant and
//! ticket, and durable **before** its delivery is acknowledged. So a crash in between can tell an outcome twice, never not at all. It is no
//! part of the journal of attempts, whose last batch a crash may lose: a product promises to remember this.
//!
//! A thread follows the topic, on every instance alike, and keeps the newest `INDEX` entries in memory; older ones stay in the topic.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    log::{Append, From, Log, LogError, Reader, Record},
    model::{Ack, Clock, Delivery, Settlement, Text, Timestamp, TopicPartition},
    telemetry::{Metrics, Trouble},
};

/// The newest so many entries are in memory: about 500 bytes each.
const INDEX: usize = 50_000;

/// Entries of one ticket that are kept.
const PER_TICKET: usize = 1_000;

/// Bytes of a detail that are kept.
const DETAIL: usize = 300;

const POLL: Duration = Duration::from_millis(100);
const BATCH: usize = 500;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What came of a sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendingOutcome {
    Delivered,
    /// It is tried again at `nextAttemptAt`.
    Failed,
    /// It is a dead letter, which can be redriven.
    Dead,
}

/// An entry of a ticket's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sending {
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    #[schema(value_type = String)]
    pub tenant: Text,
    #[schema(value_type = String)]
    pub ticket: Text,
    #[schema(value_type = String)]
    pub agent: Text,
    #[schema(value_type = String)]
    pub endpoint: Text,
    /// The id of the event that was sent.
    #[schema(value_type = String)]
    pub event: Text,
    pub outcome: SendingOutcome,
    /// Attempts made so far.
    pub attempts: u32,
    /// The class of the failure, or why it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Text>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
}

impl Sending {
    /// What is to be remembered of a delivery of an agent; `delivery.attempts` and `delivery.reason` tell of the last attempt already.
    pub fn of(delivery: &Delivery, settlement: &Settlement, detail: &str, now: Timestamp) -> Sending {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Told {
            ticket: Named,
            expert_agent: Named,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Named {
            id: String,
        }
        let sent: Told = serde_json::from_slice(&delivery.event.data).unwrap_or_default();
        let (outcome, reason, next_attempt_at) = match settlement {
            Settlement::Acknowledge => (SendingOutcome::Delivered, None, None),
            Settlement::Retry { due_at, .. } => (SendingOutcome::Failed, delivery.reason.clone(), Some(*due_at)),
            Settlement::DeadLetter(reason) => (SendingOutcome::Dead, Some(Text::from_static(reason.as_str())), None),
        };
        let detail: String = detail.chars().take(DETAIL).collect();
        Sending {
            time: now,
            tenant: delivery.event.tenant.clone(),
            ticket: sent.ticket.id.into(),
            agent: sent.expert_agent.id.into(),
            endpoint: delivery.endpoint.clone(),
            event: delivery.event.id.clone(),
            outcome,
            attempts: delivery.attempts,
            reason,
            detail: (!detail.is_empty()).then_some(detail),
            next_attempt_at,
        }
    }

    /// With texts of its own: those of a record or an event would keep all of it in memory.
    fn owned(self) -> Sending {
        let own = |text: Text| Text::from(&*text);
        Sending {
            tenant: own(self.tenant),
            ticket: own(self.ticket),
            agent: own(self.agent),
            endpoint: own(self.endpoint),
            event: own(self.event),
            ..self
        }
    }
}

/// Whose ticket. Tickets of two tenants may be called alike.
type Key = (Text, Text);

#[derive(Default)]
struct Index {
    tickets: HashMap<Key, VecDeque<Sending>, foldhash::fast::RandomState>,
    /// The ticket of every entry that is kept, oldest first.
    order: VecDeque<Key>,
}

impl Index {
    fn put(&mut self, entry: Sending, most: usize) {
        let key = (entry.tenant.clone(), entry.ticket.clone());
        let entries = self.tickets.entry(key.clone()).or_default();
        entries.push_back(entry);
        self.order.push_back(key);
        let crowded = entries.len() > PER_TICKET;
        if crowded || self.order.len() > most {
            // Of a crowded ticket the oldest goes in the place of the oldest of all: both come down by one.
            let key = if crowded { self.order.back().cloned() } else { self.order.front().cloned() };
            if let Some(key) = key {
                let place = self.order.iter().position(|known| *known == key);
                place.and_then(|place| self.order.remove(place));
                if let Some(entries) = self.tickets.get_mut(&key) {
                    entries.pop_front();
                    if entries.is_empty() {
                        self.tickets.remove(&key);
                    }
                }
            }
        }
    }
}

pub struct History {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Of appends.
    trouble: Trouble,
    index: Mutex<Index>,
    ready: AtomicBool,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl History {
    /// Writes to `topic`; nothing is read before [`History::follow`].
    pub fn new(log: Arc<dyn Log>, topic: Arc<str>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<History> {
        Arc::new(History {
            log,
            topic,
            clock,
            metrics,
            trouble: Trouble::default(),
            index: Mutex::default(),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: Mutex::default(),
        })
    }

    /// Begins to read the topic, from its start.
    pub fn follow(self: &Arc<Self>) -> std::io::Result<()> {
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || this.run())?;
        *self.thread.lock().expect("nothing panics while it holds this lock") = Some(thread);
        Ok(())
    }

    /// Keeps an outcome. Returns when it is durable, or when the delivery is not ours any more: then its new owner tells it.
    pub async fn keep(&self, delivery: &Delivery, settlement: &Settlement, detail: &str, ack: &Ack) {
        let entry = Sending::of(delivery, settlement, detail, self.clock.now());
        let append = Append {
            topic: Arc::clone(&self.topic),
            partition: None,
            key: Some(Bytes::from(format!("{}/{}", entry.tenant, entry.ticket))),
            value: Some(Bytes::from(serde_json::to_vec(&entry).expect("plain data is always JSON"))),
            headers: Vec::new(),
        };
        let mut pause = FIRST_PAUSE;
        while ack.is_live() {
            match self.log.append(vec![append.clone()]).await.pop() {
                Some(Err(error @ LogError::TooLarge { .. })) => {
                    tracing::error!(ticket = %entry.ticket, %error, "an outcome is not in the history of its ticket");
                    return;
                }
                Some(Err(error)) => {
                    self.metrics.append_errors_total.increment(1);
                    if self.trouble.begins(Instant::now()) {
                        tracing::warn!(topic = %self.topic, %error, "appends fail; each is tried again until it is stored");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Some(Ok(_)) | None => {
                    if self.trouble.ends(Instant::now()) {
                        tracing::info!(topic = %self.topic, "appends succeed again");
                    }
                    return;
                }
            }
        }
    }

    /// At most `limit` entries of a ticket, newest first, from behind the first `skip` on.
    pub fn of_ticket(&self, tenant: &str, ticket: &str, skip: usize, limit: usize) -> Vec<Sending> {
        let index = self.index();
        let entries = index.tickets.get(&(Text::from(tenant), Text::from(ticket)));
        entries.map(|entries| entries.iter().rev().skip(skip).take(limit).cloned().collect()).unwrap_or_default()
    }

    /// Waits until the topic was read to the end that it had at the start; false if it took longer.
    pub async fn until_ready(&self, limit: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(20);
        let wait = async {
            while !self.ready.load(Ordering::Acquire) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Stops following. Blocks until the thread has ended: a poll at most.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().expect("nothing panics while it holds this lock").take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows the history of tickets had panicked");
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("nothing panics while it holds this lock")
    }

    fn run(&self) {
        let mut readers: Vec<(i32, Box<dyn Reader>)> = Vec::new();
        let mut complained = false;
        while !self.stopping.load(Ordering::Acquire) {
            match self.turn(&mut readers) {
                Ok(()) => complained = false,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(topic = %self.topic, %error, "the history of tickets cannot be read, trying again");
                    }
                    self.pause(PAUSE_AFTER_ERROR);
                }
            }
        }
    }

    fn turn(&self, readers: &mut Vec<(i32, Box<dyn Reader>)>) -> Result<(), LogError> {
        if readers.is_empty() {
            for partition in self.log.partitions(&self.topic)? {
                let reader = self.log.reader(TopicPartition { topic: Arc::clone(&self.topic), partition }, From::Earliest)?;
                readers.push((partition, reader));
            }
            if readers.is_empty() {
                self.pause(PAUSE_AFTER_ERROR);
            }
        }
        let share = POLL / u32::try_from(readers.len().max(1)).unwrap_or(u32::MAX);
        let mut behind = false;
        for (_, reader) in readers.iter_mut() {
            let records = reader.poll(share, BATCH)?;
            self.take_in(records);
            if !self.ready.load(Ordering::Acquire) {
                behind |= reader.next() < reader.end()?;
            }
        }
        if !behind && !readers.is_empty() {
            self.ready.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn take_in(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let mut index = self.index();
        for record in &records {
            let entry = record.value.as_deref().map(serde_json::from_slice::<Sending>);
            match entry {
                Some(Ok(entry)) => index.put(entry.owned(), INDEX),
                Some(Err(error)) => tracing::warn!(position = %record.position, %error, "no entry of a history, passed over"),
                None => {}
            }
        }
        self.metrics.ticket_history.set(index.order.len() as f64);
    }

    /// Waits, but not long past the stop.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{DeadReason, Event, Purpose, time::ManualClock},
        settle::test_log::{TestLog, ack, delivery},
    };

    fn sending(ticket: &str) -> Delivery {
        let plain = delivery(Timestamp::UNIX_EPOCH);
        let data = serde_json::json!({ "ticket": { "id": ticket }, "expertAgent": { "id": "ag1", "externalId": "x" } });
        let event = Event { data: Bytes::from(data.to_string()), ..(*plain.event).clone() };
        Delivery { event: Arc::new(event), purpose: Purpose::Agent, attempts: 1, reason: Some("status_5xx".into()), ..plain }
    }

    fn history(log: &Arc<TestLog>) -> Arc<History> {
        History::new(log.clone(), "history".into(), Arc::new(ManualClock::at_ms(5_000)), Metrics::new())
    }

    #[tokio::test]
    async fn outcomes_are_read_newest_first_also_by_another_instance() {
        let log = TestLog::new();
        let (writing, reading) = (history(&log), history(&log));
        let (ack, _lease) = ack(1);
        let due_at = Timestamp::from_second(35).expect("a time");
        for (ticket, settlement) in [
            ("T1", Settlement::Retry { tier: Duration::from_secs(30), due_at }),
            ("T2", Settlement::Acknowledge),
            ("T1", Settlement::DeadLetter(DeadReason::Exhausted)),
            ("T1", Settlement::Acknowledge),
        ] {
            writing.keep(&sending(ticket), &settlement, "as it went", &ack).await;
        }
        ack.abandon();
        reading.follow().expect("a thread");
        assert!(reading.until_ready(Duration::from_secs(10)).await);
        let told = |entries: Vec<Sending>| entries.into_iter().map(|entry| (entry.outcome, entry.reason)).collect::<Vec<_>>();
        assert_eq!(
            told(reading.of_ticket("default", "T1", 0, 10)),
            [
                (SendingOutcome::Delivered, None),
                (SendingOutcome::Dead, Some("exhausted".into())),
                (SendingOutcome::Failed, Some("status_5xx".into()))
            ]
        );
        assert_eq!(reading.of_ticket("default", "T1", 2, 10)[0].next_attempt_at, Some(due_at));
        assert_eq!(reading.of_ticket("default", "T2", 0, 10)[0].agent, "ag1");
        assert!(reading.of_ticket("other", "T1", 0, 10).is_empty());
        reading.stop();
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_durable_before_it_returns_and_not_told_for_a_lost_partition() {
        let log = TestLog::new();
        let mut tries = 0;
        log.fail(move |_| {
            tries += 1;
            (tries < 4).then(|| LogError::Unavailable("away".into()))
        });
        let (first, _lease) = ack(1);
        history(&log).keep(&sending("T1"), &Settlement::Acknowledge, "", &first).await;
        assert_eq!(log.records("history").len(), 1);
        first.abandon();
        let (second, lease) = ack(2);
        lease.end();
        history(&log).keep(&sending("T1"), &Settlement::Acknowledge, "", &second).await;
        assert_eq!(log.records("history").len(), 1);
        second.abandon();
    }

    #[test]
    fn the_index_is_bounded_and_forgets_the_oldest() {
        let mut index = Index::default();
        let entry = |ticket: &str| Sending::of(&sending(ticket), &Settlement::Acknowledge, "", Timestamp::UNIX_EPOCH);
        for ticket in ["a", "b", "a", "c"] {
            index.put(entry(ticket), 3);
        }
        let kept = |index: &Index, ticket: &str| index.tickets.get(&("default".into(), ticket.into())).map_or(0, VecDeque::len);
        assert_eq!((kept(&index, "a"), kept(&index, "b"), kept(&index, "c"), index.order.len()), (1, 1, 1, 3));
        for _ in 0..PER_TICKET + 5 {
            index.put(entry("crowded"), 100_000);
        }
        assert_eq!(kept(&index, "crowded"), PER_TICKET);
        assert_eq!(index.order.len(), PER_TICKET + 3);
    }
}
