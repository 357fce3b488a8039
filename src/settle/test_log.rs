//! What the tests of this stage share: plain values, and a log in memory whose appends can be made to fail.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    log::{Append, Commit, CommitMode, Consumer, From, Log, LogError, Polled, Reader, Record, Subscription, TopicSpec},
    model::{
        Ack, Attempt, Budget, Delivery, Endpoint, Event, Lease, OpenRecord, Outcome, Position, Priority, Purpose, Timestamp,
        TopicPartition, testing,
    },
};

pub fn endpoint() -> Endpoint {
    Endpoint { registry_offset: Endpoint::DECLARED, ..testing::endpoint("ep_1") }
}

pub fn delivery(accepted_at: Timestamp) -> Delivery {
    let event = Event {
        id: "e1".into(),
        kind: "lead.created".into(),
        channel: "whatsapp".into(),
        direction: None,
        time: accepted_at,
        tenant: "default".into(),
        subject: None,
        priority: Priority::Normal,
        traceparent: None,
        data: Bytes::from_static(b"{}"),
    };
    Delivery {
        event: Arc::new(event),
        endpoint: "ep_1".into(),
        origin: Position { topic: "events".into(), partition: 2, offset: 77 },
        attempts: 0,
        accepted_at,
        due_at: None,
        registry_offset: -1,
        purpose: Purpose::Event,
        reason: None,
    }
}

pub fn attempt(number: u32, outcome: Outcome) -> Attempt {
    Attempt {
        started_at: Timestamp::UNIX_EPOCH,
        elapsed: Duration::from_millis(12),
        ended: tokio::time::Instant::now(),
        connecting: Duration::ZERO,
        number,
        outcome,
        status: None,
        answer: Bytes::new(),
        retry_after: None,
        reused: false,
    }
}

/// An acknowledgement, and the lease that learns of it.
pub fn ack(offset: i64) -> (Ack, Arc<Lease>) {
    let lease = Lease::new(TopicPartition { topic: "events".into(), partition: 2 }, 1);
    let (_, mut acks) = OpenRecord::open(&lease, offset, 1, Budget::new(1).take(1));
    (acks.next().expect("one delivery"), lease)
}

/// Offsets done and dropped on a lease.
pub fn settled(lease: &Lease) -> (Vec<i64>, Vec<i64>) {
    let mut settled = Default::default();
    lease.take_settled(&mut settled);
    (settled.done, settled.dropped)
}

type Fault = Box<dyn FnMut(&Append) -> Option<LogError> + Send>;

#[derive(Default)]
pub struct TestLog(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    partitions: HashMap<(Arc<str>, i32), Vec<Record>>,
    fault: Option<Fault>,
}

impl TestLog {
    pub fn new() -> Arc<TestLog> {
        Arc::new(TestLog::default())
    }

    /// Asked for every append: an error is what it gets.
    pub fn fail(&self, fault: impl FnMut(&Append) -> Option<LogError> + Send + 'static) {
        self.0.state.lock().expect("a test lock").fault = Some(Box::new(fault));
    }

    pub fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.0.state.lock().expect("a test lock");
        let mut keys: Vec<_> = state.partitions.keys().filter(|(name, _)| **name == *topic).collect();
        keys.sort();
        keys.into_iter().flat_map(|key| state.partitions[key].clone()).collect()
    }
}

impl Log for TestLog {
    fn ensure<'a>(&'a self, _: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async { Ok(()) })
    }

    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let mut state = inner.state.lock().expect("a test lock");
            let results = records
                .into_iter()
                .map(|append| {
                    if let Some(error) = state.fault.as_mut().and_then(|fault| fault(&append)) {
                        return Err(error);
                    }
                    let first = append.key.as_ref().and_then(|key| key.last()).map_or(0, |byte| i32::from(byte % 2));
                    let partition = append.partition.unwrap_or(first);
                    let records = state.partitions.entry((append.topic.clone(), partition)).or_default();
                    let position = Position { topic: append.topic, partition, offset: records.len() as i64 };
                    records.push(Record {
                        position: position.clone(),
                        key: append.key,
                        value: append.value,
                        headers: append.headers.into_iter().map(|(name, value)| (name.into_owned().into(), value)).collect(),
                        appended_ms: 0,
                    });
                    Ok(position)
                })
                .collect();
            inner.grown.notify_all();
            results
        })
    }

    fn consumer(&self, _: Subscription) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(NoConsumer))
    }

    fn reader(&self, partition: TopicPartition, from: From) -> Result<Box<dyn Reader>, LogError> {
        let next = match from {
            From::Offset(offset) => offset,
            From::Earliest | From::Time(_) => 0,
        };
        Ok(Box::new(TestReader { inner: Arc::clone(&self.0), key: (partition.topic, partition.partition), next }))
    }

    fn partitions(&self, _: &str) -> Result<Vec<i32>, LogError> {
        Ok(vec![0, 1])
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        Ok(vec![])
    }

    fn close(&self, _: Duration) {}
}

struct TestReader {
    inner: Arc<Inner>,
    key: (Arc<str>, i32),
    next: i64,
}

impl Reader for TestReader {
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Vec<Record>, LogError> {
        let until = Instant::now() + timeout;
        let mut state = self.inner.state.lock().expect("a test lock");
        loop {
            let records = state.partitions.get(&self.key).map_or(&[][..], Vec::as_slice);
            let found: Vec<Record> = records.iter().skip(self.next as usize).take(max).cloned().collect();
            let left = until.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                self.next += found.len() as i64;
                return Ok(found);
            }
            state = self.inner.grown.wait_timeout(state, left).expect("a test lock").0;
        }
    }

    fn end(&mut self) -> Result<i64, LogError> {
        Ok(self.inner.state.lock().expect("a test lock").partitions.get(&self.key).map_or(0, Vec::len) as i64)
    }

    fn next(&self) -> i64 {
        self.next
    }
}

/// This stage consumes nothing as a member of a group.
struct NoConsumer;

impl Consumer for NoConsumer {
    fn poll(&mut self, _: Duration, _: usize) -> Result<Polled, LogError> {
        Ok(Polled::Records(vec![]))
    }

    fn commit(&mut self, _: &[Commit], _: CommitMode) -> Result<(), LogError> {
        Ok(())
    }

    fn pause(&mut self, _: &[TopicPartition]) -> Result<(), LogError> {
        Ok(())
    }

    fn resume(&mut self, _: &[TopicPartition]) -> Result<(), LogError> {
        Ok(())
    }

    fn release(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn lag(&mut self) -> Option<u64> {
        None
    }

    fn close(self: Box<Self>, _: Duration) {}
}
