//! What becomes of a record: an event fans out to the endpoints that want it, a delivery goes to its endpoint or waits, what cannot be read goes
//! to the dead letters, and what was dropped by a bug is read again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{Counts, Kind, Phase, Source};
use crate::{
    log::{
        From, Log, LogError, Record,
        record::{Unreadable, decode_delivery, decode_event, is_delivery, is_tombstone},
    },
    model::{Class, Delivery, Endpoint, Event, Purpose, Routed, Timestamp, TopicPartition, time::timestamp_from_ms},
    sources::{Closed, Doomed, DoomedThing, Resolved, partitions::Held, retry},
};

/// How soon to ask again for an endpoint that the registry does not know yet.
const BEHIND: Duration = Duration::from_millis(50);

/// A registry that is read to its end has every offset that a record can know long before: one that has not come by then never does.
const FUTURE: Duration = Duration::from_secs(30);

/// How often unreadable records are told at most: a producer may send nothing else. All of them are counted and kept.
const WARNING: Duration = Duration::from_secs(10);

/// How long a delivery whose acknowledgement was lost waits in a tier.
const RESPILL: Duration = Duration::from_secs(5);

/// How long an event may have waited in the log at the expense of its deliveries' `retry.max_age`.
const LATE: Duration = Duration::from_secs(3600);

/// What every further delivery of a record takes of the memory budget.
const DELIVERY_WEIGHT: usize = 256;

impl Source {
    /// Takes up what waited in the window's backlog and what is due.
    pub(super) fn let_go_on(&mut self, now: Instant) {
        self.late_ms = self.wiring.clock.now_ms() - LATE.as_millis() as i64;
        for index in 0..self.partitions.list.len() {
            while self.wiring.budget.room() > 0 {
                let owned = &mut self.partitions.list[index];
                let Some(record) = owned.backlog.pop_front_if(|record| owned.tracker.fits(record.position.offset)) else { break };
                self.admit(index, record, now);
            }
            while self.wiring.budget.room() > 0 {
                let Some((offset, held)) = self.partitions.list[index].release(now) else { break };
                self.go_on(index, offset, held, now);
            }
        }
        self.flush();
    }

    fn go_on(&mut self, index: usize, offset: i64, held: Held, now: Instant) {
        let remaining = held.delivery.due_at.map_or(0, |due_at| due_at.as_millisecond() - self.wiring.clock.now_ms());
        if held.moves_on && remaining > 0 {
            let permit = self.wiring.budget.take(held.delivery.event.weight());
            for ack in self.partitions.list[index].open_taken(offset, 1, permit, now) {
                (self.wiring.respill)(held.delivery.clone(), Duration::from_millis(remaining.unsigned_abs()), ack);
            }
            return;
        }
        self.place(index, offset, held.delivery, held.behind_since, now);
    }

    pub(super) fn take(&mut self, records: Vec<Record>, now: Instant) {
        if self.phase != Phase::Running {
            // Read before the pause took hold; never counted as read, so they come again.
            return;
        }
        self.shared.read.fetch_add(records.len() as u64, Ordering::Relaxed);
        let count = records.len().max(1);
        let bytes: usize = records.iter().map(|record| record.value.as_ref().map_or(0, |value| value.len()) + 512).sum();
        self.taken = 0;
        let mut admitted = 0;
        let is_halted = self.halted.is_some();
        for record in records {
            let Some(index) = self.partitions.find(&record.position) else { continue };
            let owned = &mut self.partitions.list[index];
            // Each record may become deliveries to thousands of endpoints, so the memory is looked at before each.
            let is_full = is_halted || self.wiring.budget.room() == 0;
            if is_full || !owned.backlog.is_empty() || !owned.tracker.fits(record.position.offset) {
                owned.backlog.push_back(record);
            } else {
                self.admit(index, record, now);
                admitted += 1;
            }
        }
        self.weight = (self.weight * 7 + (self.taken / admitted.max(1)).max(bytes / count)) / 8 + 1;
        self.flush();
    }

    /// A record enters the window.
    fn admit(&mut self, index: usize, record: Record, now: Instant) {
        let offset = record.position.offset;
        if !self.partitions.read(index, offset) {
            return;
        }
        if is_tombstone(&record) {
            self.counts.tombstone += 1;
            self.partitions.list[index].settle(offset);
            return;
        }
        match &self.kind {
            Kind::Events if !is_delivery(&record) => match decode_event(&record) {
                Ok(event) => self.fan_out(index, &record, event, now),
                Err(wrong) => self.refuse(index, record, wrong, now),
            },
            Kind::Events => match decode_delivery(&record) {
                Ok(delivery) => {
                    self.counts.matched += 1;
                    self.place(index, offset, delivery, None, now);
                }
                Err(wrong) => self.refuse(index, record, wrong, now),
            },
            Kind::Retry { prefix } => match decode_delivery(&record) {
                Ok(delivery) => {
                    let tier = retry::delay_of(&record.position.topic, prefix);
                    let wait = retry::wait(&delivery, record.appended_ms, self.wiring.clock.now_ms(), tier);
                    if wait.time.is_zero() {
                        self.place(index, offset, delivery, None, now);
                    } else {
                        let held = Held { delivery, moves_on: wait.moves_on, behind_since: None };
                        self.partitions.list[index].hold(now + wait.time, offset, held);
                    }
                }
                Err(wrong) => self.refuse(index, record, wrong, now),
            },
        }
        if self.out.len() >= self.config.batch {
            self.flush();
        }
    }

    /// An event becomes a delivery to each endpoint that wants it.
    fn fan_out(&mut self, index: usize, record: &Record, event: Event, now: Instant) {
        let offset = record.position.offset;
        self.matches.clear();
        (self.wiring.route)(&event, &mut self.matches);
        let owned = &mut self.partitions.list[index];
        if self.matches.is_empty() {
            self.counts.unmatched += 1;
            owned.settle(offset);
            return;
        }
        self.counts.matched += 1;
        self.counts.routed += self.matches.len() as u64;
        let weight = event.weight() + (self.matches.len() - 1) * DELIVERY_WEIGHT;
        self.taken += weight;
        let permit = self.wiring.budget.take(weight);
        let acks = owned.open(offset, self.matches.len(), permit, now);
        let event = Arc::new(event);
        let accepted_at = accepted_at(record, self.late_ms);
        self.out.extend(self.matches.drain(..).zip(acks).map(|(endpoint, ack)| Routed {
            delivery: Box::new(first_delivery(&event, &endpoint, record, accepted_at)),
            endpoint,
            ack,
            class: Class::First,
        }));
    }

    /// A delivery goes to its endpoint, if there is one.
    fn place(&mut self, index: usize, offset: i64, delivery: Delivery, behind_since: Option<Instant>, now: Instant) {
        let mut resolved = (self.wiring.resolve)(&delivery.endpoint, delivery.registry_offset);
        if matches!(resolved, Resolved::Behind) && behind_since.is_some_and(|since| now.duration_since(since) >= FUTURE) {
            tracing::warn!(
                endpoint = %delivery.endpoint, registry_offset = delivery.registry_offset,
                "a delivery refers to a registry offset that does not come (from another registry?): its endpoint is taken as it is known here"
            );
            resolved = (self.wiring.resolve)(&delivery.endpoint, i64::MIN);
        }
        // While nothing is taken, the registry may be what is being waited for.
        let since = behind_since.filter(|_| self.halted.is_none()).unwrap_or(now);
        let owned = &mut self.partitions.list[index];
        match resolved {
            Resolved::Behind => owned.hold(now + BEHIND, offset, Held { delivery, moves_on: false, behind_since: Some(since) }),
            Resolved::Deliver(endpoint) => {
                let permit = self.wiring.budget.take(delivery.event.weight());
                let class = if delivery.attempts == 0 { Class::First } else { Class::Retry };
                let acks = owned.open(offset, 1, permit, now);
                self.out.extend(acks.map(|ack| Routed {
                    delivery: Box::new(delivery.clone()),
                    endpoint: Arc::clone(&endpoint),
                    ack,
                    class,
                }));
            }
            Resolved::Dead(reason) => {
                let permit = self.wiring.budget.take(delivery.event.weight());
                let detail = format!("its endpoint `{}` takes no deliveries: {}", delivery.endpoint, reason.as_str());
                for ack in owned.open_taken(offset, 1, permit, now) {
                    (self.wiring.doom)(Doomed { what: DoomedThing::Delivery(delivery.clone()), reason, detail: detail.clone(), ack });
                }
            }
        }
    }

    /// A record that cannot be read goes to the dead letters.
    fn refuse(&mut self, index: usize, record: Record, wrong: Unreadable, now: Instant) {
        self.counts.unparsable += 1;
        if now >= self.next_warning {
            self.next_warning = now + WARNING;
            tracing::warn!(position = %record.position, detail = wrong.detail, "record is no event: it goes to the dead letters");
        } else {
            tracing::debug!(position = %record.position, detail = wrong.detail, "record is no event: it goes to the dead letters");
        }
        let permit = self.wiring.budget.take(record.value.as_ref().map_or(0, |value| value.len()) + 512);
        for ack in self.partitions.list[index].open_taken(record.position.offset, 1, permit, now) {
            let Unreadable { reason, detail } = wrong.clone();
            (self.wiring.doom)(Doomed { what: DoomedThing::Record(record.clone()), reason, detail, ack });
        }
    }

    /// Hands over what was routed, and counts.
    fn flush(&mut self) {
        if self.kind == Kind::Events {
            let total = &self.wiring.metrics.events_total;
            let Counts { matched, routed, unmatched, unparsable, tombstone } = std::mem::take(&mut self.counts);
            for (result, count) in [("matched", matched), ("unmatched", unmatched), ("unparsable", unparsable), ("tombstone", tombstone)] {
                if count > 0 {
                    total.with(result).increment(count);
                }
            }
            if routed > 0 {
                self.wiring.metrics.routed_total.increment(routed);
            }
        }
        if self.out.is_empty() {
            return;
        }
        let room = self.out.len();
        let batch = std::mem::replace(&mut self.out, Vec::with_capacity(room));
        if let Err(Closed) = (self.wiring.deliver)(batch)
            && self.phase == Phase::Running
        {
            // What is settled is still committed.
            self.phase = Phase::Stopping;
        }
    }

    /// Reads a record again of which an acknowledgement was dropped, one at a time and seldom, and has its deliveries spilled. Which of them were
    /// done is not known any more: all are owed.
    pub(super) fn read_dropped_again(&mut self, now: Instant) {
        const SELDOM: Duration = Duration::from_millis(200);
        if now < self.next_reread {
            return;
        }
        let Some(index) = self.partitions.list.iter().position(|owned| !owned.dropped.is_empty()) else { return };
        self.next_reread = now + SELDOM;
        let owned = &mut self.partitions.list[index];
        let Some(offset) = owned.dropped.pop_front() else { return };
        match read_one(&*self.log, owned.lease.partition.clone(), offset) {
            Ok(Found::Record(record)) => self.respill(index, *record, now),
            Ok(Found::Gone) => {
                tracing::error!(topic = %owned.lease.partition.topic, partition = owned.lease.partition.partition, offset,
                    "a record whose acknowledgement was dropped is no longer in the log: it cannot be sent again");
                owned.settle(offset);
            }
            Ok(Found::NotYet) => owned.dropped.push_back(offset),
            Err(error) => {
                tracing::warn!(%error, offset, "a record whose acknowledgement was dropped cannot be read now");
                owned.dropped.push_back(offset);
            }
        }
    }

    fn respill(&mut self, index: usize, record: Record, now: Instant) {
        let offset = record.position.offset;
        let deliveries = if self.kind != Kind::Events || is_delivery(&record) {
            decode_delivery(&record).map(|delivery| vec![delivery])
        } else {
            decode_event(&record).map(|event| {
                self.matches.clear();
                (self.wiring.route)(&event, &mut self.matches);
                let (event, accepted_at) = (Arc::new(event), accepted_at(&record, self.late_ms));
                self.matches.drain(..).map(|endpoint| first_delivery(&event, &endpoint, &record, accepted_at)).collect()
            })
        };
        match deliveries {
            Err(wrong) => self.refuse(index, record, wrong, now),
            Ok(deliveries) if deliveries.is_empty() => self.partitions.list[index].settle(offset),
            Ok(deliveries) => {
                let permit = self.wiring.budget.take(deliveries[0].event.weight());
                let acks = self.partitions.list[index].open_taken(offset, deliveries.len(), permit, now);
                for (delivery, ack) in deliveries.into_iter().zip(acks) {
                    (self.wiring.respill)(delivery, RESPILL, ack);
                }
            }
        }
    }
}

enum Found {
    Record(Box<Record>),
    Gone,
    /// The log has not brought it within the time given.
    NotYet,
}

fn read_one(log: &dyn Log, partition: TopicPartition, offset: i64) -> Result<Found, LogError> {
    const PATIENCE: Duration = Duration::from_millis(200);
    let mut reader = log.reader(partition, From::Offset(offset))?;
    let first = reader.poll(PATIENCE, 1)?.into_iter().next();
    Ok(match first {
        Some(record) if record.position.offset == offset => Found::Record(Box::new(record)),
        Some(_) => Found::Gone,
        None if reader.next() > offset => Found::Gone,
        None => Found::NotYet,
    })
}

/// The delivery of an event that was just read to one of the endpoints that want it.
/// From when on the age of an event's deliveries counts: when it was appended, but not before `late_ms`. Producers may say any time, and what
/// waited in the log, for us or for its producer, has not been tried yet.
fn accepted_at(record: &Record, late_ms: i64) -> Timestamp {
    timestamp_from_ms(record.appended_ms.max(late_ms))
}

fn first_delivery(event: &Arc<Event>, endpoint: &Endpoint, record: &Record, accepted_at: Timestamp) -> Delivery {
    Delivery {
        event: Arc::clone(event),
        endpoint: endpoint.id.clone(),
        origin: record.position.clone(),
        attempts: 0,
        accepted_at,
        due_at: None,
        registry_offset: endpoint.registry_offset,
        purpose: Purpose::Event,
        reason: None,
    }
}
