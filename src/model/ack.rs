//! Acknowledgements: how a record learns that all of its deliveries are settled.
//!
//! A source makes one [`OpenRecord`] per record that it reads and one [`Ack`] per delivery that the record fans out to. The last
//! [`Ack::done`] puts the offset into the [`Lease`] of its partition, from where the source takes it on its next turn: no channel,
//! no wake-up, one uncontended lock per record. An `Ack` that is dropped unsettled is a bug: it is reported to the lease as
//! dropped, counted by the source, and the record is read again by its position and spilled. When a partition is revoked its
//! lease ends; whoever still holds an `Ack` of it must do nothing more ([`Ack::is_live`]), for the new owner sends again.
//!
//! Before it ends it closes ([`Lease::close`]): nothing of it is begun any more ([`Ack::take_up`]), while what was begun ends and is settled. So
//! the source can tell when nothing moves, and nobody sends what another instance is about to send.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{Permit, TopicPartition};

/// Something that has to be settled, and the handle to say so.
#[derive(Debug)]
pub struct Tracked<T> {
    pub item: T,
    pub ack: Ack,
}

/// The time during which this instance owns a partition: from assignment to revocation.
#[derive(Debug)]
pub struct Lease {
    pub partition: TopicPartition,
    /// Distinguishes this ownership from earlier and later ones of the same partition.
    pub epoch: u64,
    live: AtomicBool,
    closing: AtomicBool,
    settled: Mutex<Settled>,
}

/// What was settled since the source last looked.
#[derive(Debug, Default)]
pub struct Settled {
    /// Offsets whose deliveries are all done.
    pub done: Vec<i64>,
    /// Offsets of which an acknowledgement was dropped unsettled.
    pub dropped: Vec<i64>,
    /// Settlements that came after the lease had ended; counted, without effect.
    pub late: u64,
}

impl Lease {
    pub fn new(partition: TopicPartition, epoch: u64) -> Arc<Lease> {
        Arc::new(Lease { partition, epoch, live: AtomicBool::new(true), closing: AtomicBool::new(false), settled: Mutex::default() })
    }

    /// Nothing more is begun of what waits; what was begun can still be settled.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Ends the lease: from now on settlements are only counted.
    pub fn end(&self) {
        self.live.store(false, Ordering::Release);
    }

    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Takes what was settled since the last call; `into` is cleared and its buffers are reused.
    pub fn take_settled(&self, into: &mut Settled) {
        into.done.clear();
        into.dropped.clear();
        into.late = 0;
        std::mem::swap(&mut *self.lock(), into);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Settled> {
        self.settled.lock().expect("nothing panics while it holds this lock")
    }

    fn settle(&self, offset: i64, dropped: bool) {
        let mut settled = self.lock();
        if !self.is_live() {
            settled.late += 1;
        } else if dropped {
            settled.dropped.push(offset);
        } else {
            settled.done.push(offset);
        }
    }
}

/// A record with deliveries that are not all settled.
#[derive(Debug)]
pub struct OpenRecord {
    lease: Arc<Lease>,
    offset: i64,
    /// Deliveries not settled yet.
    open: AtomicU32,
    total: u32,
    /// Deliveries that somebody has taken up and not settled.
    taken_up: AtomicU32,
    dropped: AtomicBool,
    /// The source asks for the deliveries that wait to be spilled: this record holds the offset window.
    leave: AtomicBool,
    _permit: Permit,
}

impl OpenRecord {
    /// Opens a record with `deliveries` (at least one) deliveries and returns it with one [`Ack`] for each.
    pub fn open(lease: &Arc<Lease>, offset: i64, deliveries: u32, permit: Permit) -> (Arc<OpenRecord>, impl Iterator<Item = Ack> + use<>) {
        assert!(deliveries > 0, "a record without deliveries is done at once");
        let record = Arc::new(OpenRecord {
            lease: Arc::clone(lease),
            offset,
            open: AtomicU32::new(deliveries),
            total: deliveries,
            taken_up: AtomicU32::new(0),
            dropped: AtomicBool::new(false),
            leave: AtomicBool::new(false),
            _permit: permit,
        });
        let of = Arc::clone(&record);
        (record, (0..deliveries).map(move |_| Ack { record: Arc::clone(&of), settled: false, taken_up: false }))
    }

    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Asks that what waits of this record be spilled.
    pub fn ask_to_leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
    }

    /// While its lease is closing: whether something is still to come of it, because a delivery was taken up, or because those that wait are to be
    /// spilled. What is not moving then stays as it is.
    pub fn is_moving(&self) -> bool {
        // Of this and the closing of the lease one side sees the other: see `Ack::take_up`.
        self.taken_up.load(Ordering::SeqCst) > 0 || self.is_begun() || self.leave.load(Ordering::Relaxed)
    }

    fn is_begun(&self) -> bool {
        self.open.load(Ordering::Acquire) < self.total
    }
}

/// The duty to settle one delivery. Consumed by [`Ack::done`]; dropping it otherwise is counted as a bug and never committed.
#[must_use = "an acknowledgement that is dropped is counted as a bug"]
#[derive(Debug)]
pub struct Ack {
    record: Arc<OpenRecord>,
    settled: bool,
    taken_up: bool,
}

impl Ack {
    /// The delivery is settled: answered with a 2xx, judged final and durably dead-lettered, or durably handed to a retry tier.
    pub fn done(mut self) {
        self.settle(false);
    }

    /// Whoever begins a request or an append for the delivery asks first. False while the lease is closing: then leave it as it is, until it
    /// has to leave ([`Ack::should_leave`], [`Ack::siblings_done`]) or the lease has ended.
    pub fn take_up(&mut self) -> bool {
        if self.taken_up {
            return true;
        }
        self.take_out();
        // Looked at behind the count: either whoever closes the lease sees that this was taken up, or we see that it closes.
        if self.record.lease.closing.load(Ordering::SeqCst) {
            self.put_down();
        }
        self.taken_up
    }

    /// The same for those that must leave: whoever closes the lease waits for them.
    pub fn take_out(&mut self) {
        if !std::mem::replace(&mut self.taken_up, true) {
            self.record.taken_up.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn put_down(&mut self) {
        if std::mem::take(&mut self.taken_up) {
            self.record.taken_up.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Nothing more of its partition is to be begun.
    pub fn is_closing(&self) -> bool {
        self.record.lease.closing.load(Ordering::Relaxed)
    }

    /// False once the partition was lost: then neither acknowledge nor append anything for this delivery.
    pub fn is_live(&self) -> bool {
        self.record.lease.is_live()
    }

    /// Lets go of a delivery of a lost partition, or of one that its source will read again after a restart.
    pub fn abandon(mut self) {
        self.settled = true;
    }

    /// The source wants this delivery out of its offset window, or out of the way of what it has to commit.
    pub fn should_leave(&self) -> bool {
        self.record.leave.load(Ordering::Relaxed)
    }

    /// Other deliveries of the same record are done while this one is not.
    pub fn siblings_done(&self) -> bool {
        self.record.is_begun()
    }

    fn settle(&mut self, dropped: bool) {
        self.settled = true;
        if dropped {
            self.record.dropped.store(true, Ordering::Relaxed);
        }
        if self.record.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.record.lease.settle(self.record.offset, self.record.dropped.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(true);
        }
        // After the settlement: who sees that nothing is taken up finds it settled.
        self.put_down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Budget;

    fn lease() -> Arc<Lease> {
        Lease::new(TopicPartition { topic: "t".into(), partition: 0 }, 1)
    }

    fn settled(lease: &Lease) -> Settled {
        let mut settled = Settled::default();
        lease.take_settled(&mut settled);
        settled
    }

    #[test]
    fn a_record_is_done_when_its_last_delivery_is() {
        let (lease, budget) = (lease(), Budget::new(100));
        let (record, acks) = OpenRecord::open(&lease, 7, 3, budget.take(10));
        drop(record);
        for ack in acks {
            assert!(settled(&lease).done.is_empty());
            assert_eq!(budget.used(), 10);
            ack.done();
        }
        assert_eq!(settled(&lease).done, [7]);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_dropped_acknowledgement_is_never_a_done_record() {
        let (lease, budget) = (lease(), Budget::new(100));
        let (_, mut acks) = OpenRecord::open(&lease, 7, 2, budget.take(10));
        drop(acks.next());
        acks.next().expect("two deliveries").done();
        let settled = settled(&lease);
        assert!(settled.done.is_empty());
        assert_eq!(settled.dropped, [7]);
    }

    #[test]
    fn of_a_closing_lease_nothing_is_begun_and_what_was_begun_moves_until_it_is_settled() {
        let (lease, budget) = (lease(), Budget::new(100));
        let (record, mut acks) = OpenRecord::open(&lease, 7, 2, budget.take(10));
        let (mut first, mut second) = (acks.next().expect("two deliveries"), acks.next().expect("two deliveries"));
        assert!(first.take_up());
        lease.close();
        assert!(first.take_up(), "it was begun before");
        assert!(!second.take_up());
        assert!(record.is_moving());
        first.done();
        assert!(record.is_moving() && second.siblings_done(), "the other one has to be spilled");
        second.take_out();
        second.done();
        assert_eq!(settled(&lease).done, [7]);

        let (record, mut acks) = OpenRecord::open(&lease, 8, 1, budget.take(10));
        let mut ack = acks.next().expect("one delivery");
        assert!(!ack.take_up() && !record.is_moving(), "what waits stays");
        ack.abandon();
    }

    #[test]
    fn a_settlement_after_the_lease_is_counted_and_changes_nothing() {
        let (lease, budget) = (lease(), Budget::new(100));
        let (_, mut acks) = OpenRecord::open(&lease, 7, 1, budget.take(10));
        let ack = acks.next().expect("one delivery");
        lease.end();
        assert!(!ack.is_live());
        ack.done();
        let settled = settled(&lease);
        assert!(settled.done.is_empty() && settled.dropped.is_empty());
        assert_eq!(settled.late, 1);
    }
}
