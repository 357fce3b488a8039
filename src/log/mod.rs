//! The durable log: the only place that holds events, retries, dead letters, the registry and the journal.
//!
//! # Contract
//!
//! Both implementations ([`sqlite`], [`kafka`]) pass one suite (`tests/it/log_contract.rs`). It says:
//!
//! 1. **Topics** are named and partitioned; the partition of a record is that of its key (equal keys, equal partition), or the
//!    one it names. [`Log::ensure`] creates what is missing or says how.
//! 2. **Append** is answered after the record is durable, with its position. An error means: perhaps stored, perhaps not; append
//!    again. Records of one call keep their order within a partition.
//! 3. **Consumers** share the partitions of their topics within a group. Assignment and revocation are values that
//!    [`Consumer::poll`] returns, never callbacks: after [`Polled::Revoked`] the caller settles what it can, commits, and calls
//!    [`Consumer::release`]; only then may another member get the partitions. A record is read from the committed offset on, in
//!    offset order, with gaps where records were compacted away.
//! 4. **Commit** stores, for a group and partition, the offset to read next and a small text ([`METADATA_LIMIT`]). Both come back at
//!    the next assignment. Only the owner of a partition can commit it.
//! 5. **Readers** read a topic without a group, from its start, an offset or a time, and know where its end is.
//! 6. **Compacted topics** keep at least the last record of every key; a record without value is the tombstone of its key.
//!    Others are kept for their retention, and never less than to the lowest committed offset of a group (SQLite) or as the
//!    broker is told (Kafka).
//! 7. Consumers and readers are synchronous and belong to a thread of their own: the caller batches, so no call is made per record.
//!
//! # Why one port
//!
//! Retries, dead letters, endpoints and journal are all records of topics, so a backend has one thing to get right: append,
//! consume, commit. An own table for each would have been quicker to write for SQLite and impossible to keep alike on Kafka.

pub mod kafka;
pub mod record;
pub mod sqlite;
pub mod topics;
pub mod tracker;

use std::{borrow::Cow, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::model::{Position, Text, Timestamp, TopicPartition};

/// The longest text that may be committed with an offset: Kafka's default `offset.metadata.max.bytes` is 4,096, and some brokers count
/// differently than others, so a margin is kept (DESIGN.md section 5).
pub const METADATA_LIMIT: usize = 3_000;

/// Which log, how long it keeps what, and its bounds: section `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub backend: Backend,
    /// Where the SQLite log lies, and with either backend what belongs to this instance alone (key file, admin token). Made if it is missing.
    pub data_directory: PathBuf,
    /// Partitions of the event and retry topics that posthaste creates; those that exist keep their number.
    pub partitions: u32,
    /// How long events, and retries beyond their delay, are kept: as far back reaches a replay.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long dead letters can be listed and redriven.
    #[serde(with = "humantime_serde")]
    pub dead_retention: Duration,
    /// How long the journal of attempts is kept.
    #[serde(with = "humantime_serde")]
    pub attempts_retention: Duration,
    /// How long the histories of tickets are kept.
    #[serde(with = "humantime_serde")]
    pub history_retention: Duration,
    /// The largest event that is taken.
    pub max_record: ByteSize,
    /// SQLite: bytes of appends that wait for their commit; further ones wait before they are taken into memory.
    pub queue: ByteSize,
    /// SQLite: bytes of the newest records that are kept in memory, to spare consumers that keep up the way to the file.
    pub tail: ByteSize,
    /// SQLite: the file does not grow beyond this; then appends fail until retention has made room. Without it the disk is the limit.
    pub max_size: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Files in the data directory, for one process.
    #[default]
    Sqlite,
    Kafka,
}

impl Default for Config {
    fn default() -> Config {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Config {
            backend: Backend::Sqlite,
            data_directory: PathBuf::from("posthaste-data"),
            // Enough for a few instances to share; in SQLite they cost nothing.
            partitions: 8,
            retention: 7 * DAY,
            dead_retention: 30 * DAY,
            attempts_retention: 3 * DAY,
            history_retention: 90 * DAY,
            // Kafka's default for the largest message.
            max_record: ByteSize::mib(1),
            queue: ByteSize::mib(32),
            tail: ByteSize::mib(16),
            max_size: None,
        }
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.data_directory.as_os_str().is_empty() {
            problems.push(("data_directory", "name a directory, such as \"posthaste-data\"".to_owned()));
        }
        if !(1..=sqlite::MAX_PARTITIONS).contains(&self.partitions) {
            problems.push(("partitions", format!("{} is not between 1 and {}", self.partitions, sqlite::MAX_PARTITIONS)));
        }
        let hour = Duration::from_secs(60 * 60);
        let kept = [
            ("retention", self.retention),
            ("dead_retention", self.dead_retention),
            ("attempts_retention", self.attempts_retention),
            ("history_retention", self.history_retention),
        ];
        for (key, value) in kept {
            if value < hour {
                problems.push((key, format!("{} is too short: at least 1h", humantime::format_duration(value))));
            }
        }
        if !(ByteSize::kib(1)..=ByteSize::mib(64)).contains(&self.max_record) {
            problems.push(("max_record", format!("{} is not between 1 KiB and 64 MiB", self.max_record)));
        }
        if self.queue < ByteSize(self.max_record.0.saturating_mul(2)) || self.queue > ByteSize::gib(1) {
            problems.push(("queue", format!("{} is not between twice log.max_record and 1 GiB", self.queue)));
        }
        if self.max_size.is_some_and(|size| size < ByteSize::mib(16)) {
            problems.push(("max_size", "at least 16 MiB, or leave it out".to_owned()));
        }
        problems
    }

    /// What is in the way of the data directory, by key.
    pub fn try_out(&self) -> Vec<(&'static str, String)> {
        let there = self.data_directory.ancestors().find(|path| path.exists());
        match there.filter(|there| self.backend == Backend::Sqlite && !there.is_dir()) {
            Some(file) => vec![("data_directory", format!("{} is no directory: name one, or one that can be made", file.display()))],
            None => Vec::new(),
        }
    }
}

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub position: Position,
    pub key: Option<Bytes>,
    /// None: a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(Text, Bytes)>,
    /// When the log took it, milliseconds since the epoch.
    pub appended_ms: i64,
}

impl Record {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// A record to append.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    pub topic: Arc<str>,
    /// None: that of the key; without a key, any.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Cow<'static, str>, Bytes)>,
}

/// A topic as posthaste wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: Arc<str>,
    pub partitions: u32,
    pub cleanup: Cleanup,
    /// Largest record (bytes) the topic must take.
    pub max_record: usize,
    /// Whether posthaste owns it (and creates it) or it belongs to the producers (created only if `kafka.create_topics` says so).
    pub internal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Keep the last record of each key.
    Compact,
    /// Keep records for this long.
    Retain(Duration),
}

/// What a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub group: String,
    pub topics: Topics,
    /// Where a group begins on a partition for which it has committed nothing.
    pub start: Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    Named(Vec<Arc<str>>),
    /// All topics whose name begins with this text; one that is created later is found within a minute.
    Prefixed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    #[default]
    Earliest,
    Latest,
    /// At the first record that was appended at or after this time.
    At(Timestamp),
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Earliest,
    Offset(i64),
    Time(Timestamp),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub partition: TopicPartition,
    /// The offset to read next.
    pub offset: i64,
    pub metadata: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitMode {
    /// Begin to commit and go on; the result is counted and seen by the next call.
    Async,
    /// Return when it is stored.
    Sync,
}

/// What a poll of a consumer brought.
#[derive(Debug)]
pub enum Polled {
    /// Nothing within the time given: an empty list.
    Records(Vec<Record>),
    Assigned(Vec<Assigned>),
    /// The caller settles, commits and calls [`Consumer::release`]. With `lost` the partitions are gone already: commits are useless.
    Revoked {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    pub partition: TopicPartition,
    /// What the group committed last, if anything: offset to read next, and the text beside it.
    pub committed: Option<(i64, String)>,
    /// The offset at which reading begins.
    pub start: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Trying again later may help: broker away, disk full, time-out.
    #[error("{0}")]
    Unavailable(String),
    /// Trying again cannot help: the text names the thing and the cure.
    #[error("{0}")]
    Fatal(String),
    /// The record is larger than the log takes.
    #[error("the record of {size} bytes is larger than the {limit} that `{topic}` takes")]
    TooLarge { topic: Arc<str>, size: usize, limit: usize },
}

impl LogError {
    pub fn is_fatal(&self) -> bool {
        matches!(self, LogError::Fatal(_))
    }
}

/// The durable log. See the module's contract.
pub trait Log: Send + Sync + 'static {
    /// Creates the topics that are missing. Blocking for as long as the backend needs to be reached is the caller's choice by retrying.
    fn ensure<'a>(&'a self, topics: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>>;

    /// Appends `records` and returns one result for each, in their order, once those that succeeded are durable. Dropping the future
    /// does not undo the append.
    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>>;

    fn consumer(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, LogError>;

    /// A reader of one partition.
    fn reader(&self, partition: TopicPartition, from: From) -> Result<Box<dyn Reader>, LogError>;

    /// The partitions of a topic. Blocking.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, LogError>;

    /// The committed offset of a group on each partition of a topic for which it has committed. Blocking.
    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(TopicPartition, i64)>, LogError>;

    /// Writes everything that was appended and stops; appends after this fail. Blocking, at most `deadline`.
    fn close(&self, deadline: Duration);
}

/// A member of a consumer group; owned by one thread.
pub trait Consumer: Send {
    /// Waits at most `timeout` for what comes first: an assignment, a revocation, or at most `max` records.
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Polled, LogError>;

    fn commit(&mut self, commits: &[Commit], mode: CommitMode) -> Result<(), LogError>;

    /// No records of these partitions until they are resumed. May cost what was prefetched: for waits of seconds, not as back-pressure.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Ends a revocation that [`Consumer::poll`] returned.
    fn release(&mut self) -> Result<(), LogError>;

    /// Records that are in the log and were not read yet, over the assigned partitions; none if it is not known.
    fn lag(&mut self) -> Option<u64>;

    /// Leaves the group. Nothing is committed by it. Blocking, at most `deadline`.
    fn close(self: Box<Self>, deadline: Duration);
}

/// Reads one partition without a group; owned by one thread.
pub trait Reader: Send {
    /// At most `max` records from where the last call ended; waits at most `timeout` while there is none.
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Vec<Record>, LogError>;

    /// The offset behind the last record that is durable now: all records below it were read when [`Reader::next`] has reached it.
    fn end(&mut self) -> Result<i64, LogError>;

    /// The offset to be read next. It passes over what was compacted away, also at the end of the partition.
    fn next(&self) -> i64;
}
