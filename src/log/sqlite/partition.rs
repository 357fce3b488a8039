//! Partitions: what is durable, the newest records in memory, and who is to be woken when there are more.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use rusqlite::Connection;

use super::store::{self, Fault};
use crate::{
    log::{Cleanup, Record},
    model::TopicPartition,
};

/// All topics, by name; replaced as a whole when one is made.
pub(super) type Catalogue = BTreeMap<Arc<str>, Arc<Topic>>;

#[derive(Debug)]
pub(super) struct Topic {
    pub name: Arc<str>,
    pub cleanup: Cleanup,
    pub max_record: usize,
    pub first_offset: i64,
    pub partitions: Vec<Arc<Partition>>,
    /// Turns the partitions for records without a key.
    pub turn: AtomicU32,
}

impl Topic {
    /// The partition of a key: FNV-1a (64 bits, public domain), the same for as long as the topic lives, since its number of partitions is fixed.
    pub fn of_key(&self, key: &[u8]) -> usize {
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        // The low bits of FNV depend on the low bits of the input alone; fold the high ones in.
        ((hash ^ (hash >> 32)) % self.partitions.len() as u64) as usize
    }

    /// The partition whose turn it is.
    pub fn any(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) as usize % self.partitions.len()
    }
}

#[derive(Debug)]
pub(super) struct Partition {
    pub name: TopicPartition,
    /// The name of its table, quoted.
    pub table: String,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The offset of the first record that may be there.
    start: i64,
    /// All records from here to `end` are in `records`.
    tail: i64,
    /// The offset behind the last durable record.
    end: i64,
    records: VecDeque<Record>,
    bells: Vec<Arc<Bell>>,
}

impl Partition {
    pub fn new(name: TopicPartition, start: i64, end: i64) -> Arc<Partition> {
        let table = format!("\"{}:{}\"", name.topic, name.partition);
        let shared = Shared { start, tail: end, end, records: VecDeque::new(), bells: Vec::new() };
        Arc::new(Partition { name, table, shared: Mutex::new(shared) })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds this lock")
    }

    /// The offset behind the last durable record.
    pub fn end(&self) -> i64 {
        self.lock().end
    }

    pub fn start(&self) -> i64 {
        self.lock().start
    }

    pub fn set_start(&self, start: i64) {
        self.lock().start = start;
    }

    /// Makes durable records known; they follow each other without a gap.
    pub fn publish(&self, records: Vec<Record>) {
        let mut shared = self.lock();
        if let Some(last) = records.last() {
            shared.end = last.position.offset + 1;
        }
        shared.records.extend(records);
        shared.bells.iter().for_each(|bell| bell.ring());
    }

    /// Makes known that there are durable records up to `end`, which are in the file alone.
    pub fn publish_stored(&self, end: i64) {
        let mut shared = self.lock();
        (shared.end, shared.tail) = (end, end);
        shared.records.clear();
        shared.bells.iter().for_each(|bell| bell.ring());
    }

    /// Lets go of at most `count` records of the tail, the oldest ones.
    pub fn forget(&self, count: usize) {
        let mut shared = self.lock();
        let count = count.min(shared.records.len());
        shared.records.drain(..count);
        shared.tail = shared.records.front().map_or(shared.end, |record| record.position.offset);
        if shared.records.is_empty() {
            // What a burst needed is not kept.
            shared.records.shrink_to_fit();
        }
    }

    pub fn listen(&self, bell: &Arc<Bell>) {
        self.lock().bells.push(Arc::clone(bell));
    }

    pub fn ignore(&self, bell: &Arc<Bell>) {
        self.lock().bells.retain(|other| !Arc::ptr_eq(other, bell));
    }

    /// Reads from the tail. Err: the offset up to which the file has to be read first.
    fn read_tail(&self, from: i64, max: usize, bytes: &mut usize, into: &mut Vec<Record>) -> Result<i64, i64> {
        let shared = self.lock();
        if from >= shared.end {
            return Ok(from);
        }
        if from < shared.tail {
            return Err(shared.tail);
        }
        let first = shared.records.partition_point(|record| record.position.offset < from);
        let mut next = from;
        for record in shared.records.range(first..) {
            if into.len() >= max || *bytes == 0 {
                return Ok(next);
            }
            next = record.position.offset + 1;
            *bytes = bytes.saturating_sub(store::weight(record));
            into.push(record.clone());
        }
        Ok(next)
    }
}

/// Where somebody reads a partition.
#[derive(Debug)]
pub(super) struct Cursor {
    pub partition: Arc<Partition>,
    pub next: i64,
    pub paused: bool,
}

impl Cursor {
    /// Reads from memory what is there, and from the file what is not, until `into` has `max` records or `bytes` are used up.
    pub fn read(&mut self, file: &mut File, max: usize, bytes: &mut usize, into: &mut Vec<Record>) -> Result<(), Fault> {
        while into.len() < max && *bytes > 0 {
            match self.partition.read_tail(self.next, max, bytes, into) {
                Ok(next) => {
                    self.next = next;
                    return Ok(());
                }
                Err(tail) => self.next = store::read(file.connection()?, &self.partition, self.next, tail, max, bytes, into)?,
            }
        }
        Ok(())
    }
}

/// The file, opened by whoever has to read it when he first has to: most consumers keep up and never do.
#[derive(Debug)]
pub(super) struct File {
    path: Arc<PathBuf>,
    connection: Option<Connection>,
}

impl File {
    pub fn new(path: Arc<PathBuf>) -> File {
        File { path, connection: None }
    }

    pub fn connection(&mut self) -> Result<&Connection, Fault> {
        let connection = match self.connection.take() {
            Some(open) => open,
            None => store::open_reader(&self.path)?,
        };
        Ok(self.connection.insert(connection))
    }
}

/// Wakes the thread that waits for records or for news of its group. Rings that come while nobody waits are remembered as one.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    sleeper: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        // Whoever is busy reading has rung unanswered: then this is one atomic operation.
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _sleeper = self.lock();
            self.wake.notify_all();
        }
    }

    /// Returns when it was rung since the last call, or at `deadline`.
    pub fn wait_until(&self, deadline: Instant) {
        let mut sleeper = self.lock();
        while !self.rung.swap(false, Ordering::AcqRel) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleeper = self.wake.wait_timeout(sleeper, left).expect("nothing panics while it holds this lock").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.sleeper.lock().expect("nothing panics while it holds this lock")
    }
}
