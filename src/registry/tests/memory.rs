//! A log of one partition in memory, with a hand in it: tests decide what happens between a writer's look and its append, and when the log
//! is away. What real logs do is tested with them, in `tests/it`.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    log::{Append, Consumer, From, Log, LogError, Reader, Record, Subscription, TopicSpec},
    model::{Position, TopicPartition},
};

#[derive(Clone, Default)]
pub struct MemoryLog(Arc<Inner>);

#[derive(Default)]
struct Inner {
    records: Mutex<Vec<Record>>,
    came: Condvar,
    before_append: Mutex<Option<Hook>>,
    away: AtomicBool,
}

type Hook = Box<dyn FnOnce(&MemoryLog) + Send>;

impl MemoryLog {
    /// Run once, before the next append.
    pub fn before_append(&self, hook: impl FnOnce(&MemoryLog) + Send + 'static) {
        *self.0.before_append.lock().expect("no panics") = Some(Box::new(hook));
    }

    pub fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    pub fn put(&self, append: Append) -> Position {
        let mut records = self.0.records.lock().expect("no panics");
        let position = Position { topic: append.topic, partition: 0, offset: records.len() as i64 };
        let headers = append.headers.into_iter().map(|(name, value)| ((&*name).into(), value)).collect();
        records.push(Record { position: position.clone(), key: append.key, value: append.value, headers, appended_ms: 0 });
        self.0.came.notify_all();
        position
    }

    /// Everything, as text: to look for what must not be there.
    pub fn text(&self) -> String {
        format!("{:?}", self.0.records.lock().expect("no panics"))
    }

    /// What compaction leaves: the last record of each key.
    pub fn compact(&self) {
        let mut records = self.0.records.lock().expect("no panics");
        let all = std::mem::take(&mut *records);
        let last =
            |record: &Record| all.iter().rfind(|other| other.key == record.key).expect("itself").position.offset == record.position.offset;
        *records = all
            .iter()
            .map(|record| if last(record) { record.clone() } else { Record { key: None, value: None, ..record.clone() } })
            .collect();
    }

    fn check(&self) -> Result<(), LogError> {
        if self.0.away.load(Ordering::Relaxed) { Err(LogError::Unavailable("away".into())) } else { Ok(()) }
    }
}

impl Log for MemoryLog {
    fn ensure<'a>(&'a self, _: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>> {
        let hook = self.0.before_append.lock().expect("no panics").take();
        if let Some(hook) = hook {
            hook(self);
        }
        let results = records.into_iter().map(|record| self.check().map(|()| self.put(record))).collect();
        std::future::ready(results).boxed()
    }

    fn consumer(&self, _: Subscription) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal("the registry has no group".into()))
    }

    fn reader(&self, _: TopicPartition, _: From) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(MemoryReader { log: self.clone(), next: 0 }))
    }

    fn partitions(&self, _: &str) -> Result<Vec<i32>, LogError> {
        Ok(vec![0])
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        Ok(Vec::new())
    }

    fn close(&self, _: Duration) {}
}

struct MemoryReader {
    log: MemoryLog,
    next: i64,
}

impl Reader for MemoryReader {
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Vec<Record>, LogError> {
        self.log.check()?;
        let until = Instant::now() + timeout;
        let mut records = self.log.0.records.lock().expect("no panics");
        while records.len() as i64 <= self.next {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return Ok(Vec::new()) };
            records = self.log.0.came.wait_timeout(records, left).expect("no panics").0;
        }
        let batch: Vec<Record> = records.iter().skip(self.next as usize).take(max).cloned().collect();
        self.next += batch.len() as i64;
        Ok(batch.into_iter().filter(|record| record.key.is_some()).collect())
    }

    fn end(&mut self) -> Result<i64, LogError> {
        self.log.check()?;
        Ok(self.log.0.records.lock().expect("no panics").len() as i64)
    }

    fn next(&self) -> i64 {
        self.next
    }
}
