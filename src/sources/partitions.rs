//! The partitions that a source owns: what was read of each, what is settled, what waits, and what to commit.
//!
//! Everything here is a plain structure that one thread turns; time and what was polled are arguments. A record that was read is in one of
//! four places: in the backlog (read, but outside of the window: not counted as read yet), held (until it is due or the registry has caught
//! up), outstanding (its acknowledgements are out), or settled. Only the last moves the position.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use crate::{
    log::{
        Assigned, Commit, CommitMode, Record,
        tracker::{Read, Tracker},
    },
    model::{Ack, Delivery, Lease, OpenRecord, Permit, Position, Text, TopicPartition, ack::Settled},
};

/// A delivery that waits until it is due, or until the registry has come to its endpoint.
#[derive(Debug)]
pub(super) struct Held {
    pub delivery: Delivery,
    /// It is due later than its tier waits: when this wait ends, it moves to another tier.
    pub moves_on: bool,
    /// Since when it waits for the registry.
    pub behind_since: Option<Instant>,
}

/// One partition, from assignment to revocation.
#[derive(Debug)]
pub(super) struct Owned {
    pub lease: Arc<Lease>,
    pub tracker: Tracker,
    /// Records that were read while there was no room in the window, in their order.
    pub backlog: VecDeque<Record>,
    /// By the time at which they may go on, then offset.
    held: BTreeMap<(Instant, i64), Held>,
    held_bytes: usize,
    /// Records whose acknowledgements are out, about in the order in which they were opened; those that were settled are removed lazily.
    opened: VecDeque<Opened>,
    pub outstanding: u64,
    /// Offsets of which an acknowledgement was dropped: to be read again.
    pub dropped: VecDeque<i64>,
    pub paused: bool,
    /// Settlements since the last commit.
    pub changes: u64,
    /// Something was committed, perhaps without having arrived.
    pub has_committed: bool,
}

#[derive(Debug)]
struct Opened {
    offset: i64,
    since: Instant,
    record: Weak<OpenRecord>,
}

impl Owned {
    fn new(lease: Arc<Lease>, tracker: Tracker) -> Owned {
        Owned {
            lease,
            tracker,
            backlog: VecDeque::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            opened: VecDeque::new(),
            outstanding: 0,
            dropped: VecDeque::new(),
            paused: false,
            changes: 0,
            has_committed: false,
        }
    }

    /// Makes one acknowledgement for each of the deliveries of a record that was read.
    pub fn open(&mut self, offset: i64, deliveries: usize, permit: Permit, now: Instant) -> impl Iterator<Item = Ack> + use<> {
        let deliveries = u32::try_from(deliveries).expect("there are fewer endpoints than 2^32");
        let (record, acks) = OpenRecord::open(&self.lease, offset, deliveries, permit);
        self.outstanding += 1;
        self.opened.push_back(Opened { offset, since: now, record: Arc::downgrade(&record) });
        acks
    }

    /// The same for deliveries that go straight to an append: they are taken up already.
    pub fn open_taken(&mut self, offset: i64, deliveries: usize, permit: Permit, now: Instant) -> impl Iterator<Item = Ack> + use<> {
        self.open(offset, deliveries, permit, now).map(|mut ack| {
            ack.take_out();
            ack
        })
    }

    /// A record that was read is settled without any delivery.
    pub fn settle(&mut self, offset: i64) {
        self.tracker.done(offset);
        self.changes += 1;
    }

    pub fn hold(&mut self, until: Instant, offset: i64, held: Held) {
        self.held_bytes += held.delivery.event.weight();
        self.held.insert((until, offset), held);
    }

    /// The next held delivery that may go on.
    pub fn release(&mut self, now: Instant) -> Option<(i64, Held)> {
        let first = self.held.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, offset), held) = first.remove_entry();
        self.held_bytes -= held.delivery.event.weight();
        Some((offset, held))
    }

    /// When the next held delivery may go on.
    pub fn next_release(&self) -> Option<Instant> {
        self.held.first_key_value().map(|((until, _), _)| *until)
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Lets go of what was read and nobody works on yet: it is read again by whoever owns the partition next.
    pub fn forget_waiting(&mut self) {
        self.backlog.clear();
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Whether a closing partition has come to rest: what is left of it waits untouched, and what is done can be told whole. What stands in the way
    /// of the latter is asked to leave.
    pub fn is_at_rest(&self, tag: &str) -> bool {
        let is_moving = |opened: &Opened| opened.record.upgrade().is_some_and(|record| record.is_moving());
        if self.opened.iter().any(is_moving) {
            return false;
        }
        // Where nobody is left to leave there is nothing to wait for.
        self.tracker.overflow(tag).is_none_or(|below| self.ask_to_leave(below) == 0)
    }

    /// Asks what waits of the records below `offset` to leave the window; returns of how many.
    pub fn ask_to_leave(&self, offset: i64) -> usize {
        let records = self.opened.iter().filter(|opened| opened.offset < offset).filter_map(|opened| opened.record.upgrade());
        records.map(|record| record.ask_to_leave()).count()
    }

    /// Since when the oldest outstanding record is open.
    pub fn oldest(&self) -> Option<Instant> {
        self.opened.front().map(|opened| opened.since)
    }

    /// Takes over what was settled; returns how many settlements came too late.
    fn collect(&mut self, scratch: &mut Settled) -> u64 {
        self.lease.take_settled(scratch);
        for offset in &scratch.done {
            self.tracker.done(*offset);
        }
        self.changes += scratch.done.len() as u64;
        self.dropped.extend(&scratch.dropped);
        self.outstanding = self.outstanding.saturating_sub((scratch.done.len() + scratch.dropped.len()) as u64);
        while self.opened.front().is_some_and(|opened| opened.record.strong_count() == 0) {
            self.opened.pop_front();
        }
        // One old record keeps the front: what was settled behind it is swept out when it is more than the rest.
        const FEW: usize = 1024;
        if self.opened.len() > FEW + 2 * usize::try_from(self.outstanding).unwrap_or(usize::MAX / 4) {
            self.opened.retain(|opened| opened.record.strong_count() > 0);
        }
        scratch.late
    }
}

/// What was found when settlements were collected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Collected {
    pub late: u64,
    pub dropped: u64,
}

/// All partitions of a source.
#[derive(Debug)]
pub(super) struct Partitions {
    pub list: Vec<Owned>,
    /// Partitions that were lost while records of them were out: looked at until those have come, to count them.
    former: VecDeque<Arc<Lease>>,
    epoch: u64,
    window: u32,
    registry_id: Text,
    /// Where the last record was found.
    last: usize,
    scratch: Settled,
}

impl Partitions {
    pub fn new(window: u32, registry_id: Text) -> Partitions {
        Partitions { list: Vec::new(), former: VecDeque::new(), epoch: 0, window, registry_id, last: 0, scratch: Settled::default() }
    }

    /// Takes partitions over. Fails if the group was served with another registry.
    pub fn assign(&mut self, assigned: Vec<Assigned>) -> Result<(), String> {
        for Assigned { partition, committed, start } in assigned {
            self.end(std::slice::from_ref(&partition));
            let (tracker, restored) = match &committed {
                None => (Tracker::new(start, self.window), Default::default()),
                Some((offset, metadata)) => Tracker::restore(*offset, metadata, start, self.window),
            };
            if !restored.tag.is_empty() && !self.registry_id.is_empty() && restored.tag != *self.registry_id {
                return Err(format!(
                    "the group has served `{}` of `{}` with the registry `{}`, but the registry here is `{}`: it may be a new or another topic, and its \
                     endpoints others; name the right one in `topics.registry`, or take a new group (`kafka.group`) to begin with this registry",
                    partition.partition, partition.topic, restored.tag, self.registry_id
                ));
            }
            tracing::debug!(
                topic = %partition.topic, partition = partition.partition, start, committed = committed.map(|(offset, _)| offset), done_above = restored.done,
                "partition assigned"
            );
            self.epoch += 1;
            self.list.push(Owned::new(Lease::new(partition, self.epoch), tracker));
        }
        Ok(())
    }

    /// Ends the ownership: what is settled from now on has no effect.
    pub fn end(&mut self, partitions: &[TopicPartition]) {
        const FORMER: usize = 1024;
        self.list.retain(|owned| {
            let ends = partitions.contains(&owned.lease.partition);
            if ends {
                owned.lease.end();
                if owned.outstanding > 0 {
                    self.former.push_back(Arc::clone(&owned.lease));
                }
            }
            !ends
        });
        while self.former.len() > FORMER {
            self.former.pop_front();
        }
    }

    /// The log of a partition begins again at `offset`: so does everything we know of it.
    pub fn renew(&mut self, index: usize, offset: i64) {
        let owned = &mut self.list[index];
        let partition = owned.lease.partition.clone();
        tracing::warn!(
            topic = %partition.topic, partition = partition.partition, offset, expected = owned.tracker.next(),
            "the log went back: its topic was made anew or its end was cut off; reading on from there"
        );
        owned.lease.end();
        self.former.push_back(Arc::clone(&owned.lease));
        self.epoch += 1;
        // What waits in the backlog was read behind this offset and will not come again.
        let (paused, backlog) = (owned.paused, std::mem::take(&mut owned.backlog));
        *owned = Owned { paused, backlog, ..Owned::new(Lease::new(partition, self.epoch), Tracker::new(offset, self.window)) };
    }

    /// The place of the partition of that record; none if it is not owned (any more).
    pub fn find(&mut self, position: &Position) -> Option<usize> {
        let is_it = |owned: &Owned| {
            let partition = &owned.lease.partition;
            partition.partition == position.partition
                && (Arc::ptr_eq(&partition.topic, &position.topic) || partition.topic == position.topic)
        };
        if !self.list.get(self.last).is_some_and(is_it) {
            self.last = self.list.iter().position(is_it)?;
        }
        Some(self.last)
    }

    /// Takes note of a record that was read; false if nothing is owed for it.
    pub fn read(&mut self, index: usize, offset: i64) -> bool {
        loop {
            match self.list[index].tracker.read(offset) {
                Read::Open => return true,
                Read::Done => {
                    self.list[index].changes += 1;
                    return false;
                }
                Read::Back => self.renew(index, offset),
            }
        }
    }

    /// Takes over what was settled since the last call.
    pub fn collect(&mut self) -> Collected {
        let mut collected = Collected::default();
        for owned in &mut self.list {
            collected.late += owned.collect(&mut self.scratch);
            collected.dropped += self.scratch.dropped.len() as u64;
        }
        self.former.retain(|lease| {
            lease.take_settled(&mut self.scratch);
            collected.late += self.scratch.late;
            Arc::strong_count(lease) > 1
        });
        collected
    }

    /// What to commit, of all partitions or of those named: what has changed since the last commit; for a synchronous one, which is the last,
    /// whatever was ever committed, because the result of the asynchronous one before it is not known.
    pub fn commits(&self, only: Option<&[TopicPartition]>, mode: CommitMode) -> Vec<(usize, Commit)> {
        let is_last = mode == CommitMode::Sync;
        let wanted = |owned: &Owned| {
            (owned.changes > 0 || is_last && owned.has_committed) && only.is_none_or(|only| only.contains(&owned.lease.partition))
        };
        let commit = |(index, owned): (usize, &Owned)| {
            let position = owned.tracker.position(&self.registry_id);
            (index, Commit { partition: owned.lease.partition.clone(), offset: position.offset, metadata: position.metadata })
        };
        self.list.iter().enumerate().filter(|(_, owned)| wanted(owned)).map(commit).collect()
    }

    /// Whether the closing partitions of which this holds have come to rest.
    pub fn are_at_rest(&self, of: impl Fn(&TopicPartition) -> bool) -> bool {
        // All are looked at, so that all leave at once.
        let closing = self.list.iter().filter(|owned| of(&owned.lease.partition));
        closing.filter(|owned| !owned.is_at_rest(&self.registry_id)).count() == 0
    }

    pub fn outstanding(&self) -> u64 {
        self.list.iter().map(|owned| owned.outstanding).sum()
    }

    pub fn held(&self) -> u64 {
        self.list.iter().map(|owned| owned.held() as u64).sum()
    }

    pub fn held_bytes(&self) -> usize {
        self.list.iter().map(Owned::held_bytes).sum()
    }

    /// When the next held delivery may go on.
    pub fn next_release(&self) -> Option<Instant> {
        self.list.iter().filter_map(Owned::next_release).min()
    }

    pub fn widest(&self) -> u64 {
        self.list.iter().map(|owned| owned.tracker.span()).max().unwrap_or(0)
    }

    /// Age of the oldest record that is out.
    pub fn oldest_age(&self, now: Instant) -> Duration {
        self.list.iter().filter_map(Owned::oldest).min().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The lowest open offset of each partition.
    pub fn positions(&self) -> Vec<Position> {
        let position = |owned: &Owned| {
            let TopicPartition { topic, partition } = owned.lease.partition.clone();
            Position { topic, partition, offset: owned.tracker.low() }
        };
        self.list.iter().map(position).collect()
    }
}
