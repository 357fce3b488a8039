//! The log in a SQLite file, for one process: standalone mode needs no service.
//!
//! # What is durable when
//!
//! One thread writes (`writer`); an append is answered after the COMMIT that holds it, which with a write-ahead log and
//! `synchronous = FULL` means after its fsync. Offsets and metadata of a group are rows of the same file and go the same way. So after a
//! crash between any two instructions, or a loss of power on a disk that keeps its promises, everything that was answered is there, and
//! nothing is there that a restart would number otherwise.
//!
//! Offsets of a partition begin at the time of its creation in microseconds: a daemon that starts with a fresh directory does not repeat the
//! positions, and with them the idempotency keys, of its earlier life, as long as a partition took fewer than 1,000 records a second on the
//! average of that life.
//!
//! # Reading
//!
//! The newest records are kept in memory, shared with whoever appended them (`partition`); who keeps up never touches the file. Who does
//! not reads ranges of it on a connection of his own, which a write-ahead log lets him do beside the writer.
//!
//! # Why SQLite
//!
//! It is the most tested embedded store there is, and `sqlite3 log.db` shows what is in it. A hand-written segment log was measured 1.4
//! times as fast, at more records per second than webhooks can be sent; that is not worth owning the code that loses records.

mod consumer;
mod groups;
mod partition;
mod store;
mod writer;

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt, fs,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use self::{
    consumer::{Follower, Member},
    groups::Groups,
    partition::{Catalogue, Partition, Topic},
    store::Fault,
    writer::{AppendJob, Checkpointer, Command, EnsureJob, Prepared, Queue, Writer},
};
use super::{Append, Consumer, From, Log, LogError, Reader, Subscription, TopicSpec, topics};
use crate::{
    model::{Clock, Position, SystemClock, Text, TopicPartition},
    telemetry::{Metrics, Trouble},
};

/// Partitions of one topic: each is a table, of which SQLite keeps the description in memory.
pub const MAX_PARTITIONS: u32 = 256;

/// The share of the queue that a record takes beside its bytes.
const OVERHEAD: usize = 256;

#[derive(Clone)]
pub struct SqliteOptions {
    /// Bytes of appends that wait for their commit.
    pub queue: usize,
    /// Bytes of records that are kept in memory for consumers.
    pub tail: usize,
    /// Bytes that the file may have; none: what the disk has.
    pub max_size: Option<u64>,
    /// How often retention looks for what can go.
    pub sweep_every: Duration,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
}

impl SqliteOptions {
    pub fn new(config: &super::Config, metrics: Arc<Metrics>) -> SqliteOptions {
        SqliteOptions {
            queue: usize::try_from(config.queue.0).unwrap_or(usize::MAX),
            tail: usize::try_from(config.tail.0).unwrap_or(usize::MAX),
            max_size: config.max_size.map(|size| size.0),
            sweep_every: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            metrics,
        }
    }
}

/// The log in a directory. Dropping it writes what was appended, and ends the writer.
pub struct SqliteLog {
    core: Arc<Core>,
}

/// What consumers and readers share with the log.
struct Core {
    path: Arc<PathBuf>,
    queue: Arc<Queue>,
    /// Permits are bytes of the queue.
    room: Arc<Semaphore>,
    room_limit: u32,
    catalogue: Arc<ArcSwap<Catalogue>>,
    groups: Arc<Groups>,
    metrics: Arc<Metrics>,
}

impl SqliteLog {
    /// Opens the log in `directory`, which is made if it is missing. Blocking.
    pub fn open(directory: &Path, options: SqliteOptions) -> Result<Arc<SqliteLog>, LogError> {
        let lock = lock(directory)?;
        let path = directory.join("log.db");
        let db = store::open_writer(&path, options.max_size)?;

        let mut catalogue = Catalogue::new();
        let mut last_ms = i64::MIN;
        for stored in store::topics(&db)? {
            let name: Arc<str> = stored.name.into();
            let mut partitions = Vec::new();
            for number in 0..stored.partitions as i32 {
                let name = TopicPartition { topic: name.clone(), partition: number };
                let unread = Partition::new(name.clone(), stored.first_offset, stored.first_offset);
                let end = store::last(&db, &unread)?.map_or(stored.first_offset, |(offset, appended)| {
                    last_ms = last_ms.max(appended);
                    offset + 1
                });
                let start = store::first_from(&db, &unread, 0)?.map_or(end, |(offset, _)| offset);
                partitions.push(Partition::new(name, start, end));
            }
            let (cleanup, max_record, first_offset) = (stored.cleanup, stored.max_record, stored.first_offset);
            let topic = Topic { name: name.clone(), cleanup, max_record, first_offset, partitions, turn: Default::default() };
            catalogue.insert(name, Arc::new(topic));
        }

        // Permits are counted in 32 bits; the configuration ends at 1 GiB.
        let room_limit = u32::try_from(options.queue.max(1 << 20)).unwrap_or(u32::MAX);
        let core = Arc::new(Core {
            path: Arc::new(path),
            queue: Arc::default(),
            room: Arc::new(Semaphore::new(room_limit as usize)),
            room_limit,
            catalogue: Arc::new(ArcSwap::from_pointee(catalogue)),
            groups: Arc::new(Groups::new(store::commits(&db)?)),
            metrics: Arc::clone(&options.metrics),
        });
        let no_thread = |error| LogError::Unavailable(format!("no thread for the log: {error}"));
        let writer = Writer {
            checkpointer: Checkpointer::start(store::open_checkpointer(&core.path)?).map_err(no_thread)?,
            db,
            lock,
            queue: Arc::clone(&core.queue),
            catalogue: Arc::clone(&core.catalogue),
            groups: Arc::clone(&core.groups),
            clock: options.clock,
            metrics: options.metrics,
            trouble: Trouble::default(),
            last_ms,
            tail_limit: options.tail,
            sweep_every: options.sweep_every,
            tails: VecDeque::new(),
            tail_bytes: 0,
        };
        writer.metrics.log_connected.set(1.0);
        std::thread::Builder::new().name("log-writer".into()).spawn(|| writer.run()).map_err(no_thread)?;
        Ok(Arc::new(SqliteLog { core }))
    }
}

/// Takes the directory for this process, until the file that is returned is closed.
fn lock(directory: &Path) -> Result<fs::File, LogError> {
    let shown = directory.display();
    let cannot = |error: std::io::Error| {
        LogError::Fatal(format!(
            "the data directory {shown} can not be used: {error}; choose another by log.data_directory, or allow writing to it"
        ))
    };
    if !directory.exists() {
        // Events and tokens lie in it: nobody else's business.
        std::os::unix::fs::DirBuilderExt::mode(fs::DirBuilder::new().recursive(true), 0o700).create(directory).map_err(cannot)?;
        // That it is there must survive as well as what will be in it.
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(cannot)?;
    }
    let path = directory.join("lock");
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // For the message alone.
            let _ = file.read_to_string(&mut owner);
            let owner = if owner.trim().is_empty() { "unknown" } else { owner.trim() };
            return Err(LogError::Fatal(format!(
                "data directory in use by another process: {shown} belongs to process {owner}; stop it, or choose another by log.data_directory"
            )));
        }
        Err(fs::TryLockError::Error(error)) => return Err(cannot(error)),
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(file)
}

impl Core {
    fn topic(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        self.catalogue.load().get(name).cloned().ok_or_else(|| no_topic(name))
    }

    /// Checks a record and finds its partition; `any` is the one for records of this call without a key.
    fn prepare(&self, append: Append, catalogue: &Catalogue, any: &mut Vec<(Arc<str>, usize)>) -> Result<Prepared, LogError> {
        let topic = catalogue.get(&append.topic).ok_or_else(|| no_topic(&append.topic))?;
        let partition = match (append.partition, &append.key) {
            (Some(partition), _) => {
                let known = usize::try_from(partition).ok().filter(|partition| *partition < topic.partitions.len());
                known.ok_or_else(|| no_partition(&topic.name, partition))?
            }
            (None, Some(key)) => topic.of_key(key),
            // One for the whole call: a transaction that touches fewer tables is cheaper.
            (None, None) => match any.iter().find(|(name, _)| *name == topic.name) {
                Some((_, partition)) => *partition,
                None => {
                    any.push((topic.name.clone(), topic.any()));
                    any[any.len() - 1].1
                }
            },
        };
        let headers = append.headers.into_iter().map(|(name, value)| {
            let name = match name {
                Cow::Borrowed(name) => Text::from_static(name),
                Cow::Owned(name) => Text::from(name),
            };
            (name, value)
        });
        let headers: Vec<(Text, bytes::Bytes)> = headers.collect();
        let encoded_headers = store::encode_headers(&headers).ok_or_else(|| LogError::TooLarge {
            topic: topic.name.clone(),
            size: headers.iter().map(|(name, value)| name.len() + value.len()).sum(),
            limit: topic.max_record,
        })?;
        let prepared = Prepared { topic: Arc::clone(topic), partition, key: append.key, value: append.value, headers, encoded_headers };
        if prepared.size() > topic.max_record {
            return Err(LogError::TooLarge { topic: topic.name.clone(), size: prepared.size(), limit: topic.max_record });
        }
        Ok(prepared)
    }

    async fn append(self: Arc<Self>, records: Vec<Append>) -> Vec<Result<Position, LogError>> {
        let begun = Instant::now();
        let catalogue = self.catalogue.load_full();
        let mut any = Vec::new();
        let mut results = Vec::with_capacity(records.len());
        let mut prepared = Vec::with_capacity(records.len());
        for append in records {
            match self.prepare(append, &catalogue, &mut any) {
                Ok(record) => {
                    let name = &record.topic.partitions[record.partition].name;
                    results.push(Ok(Position { topic: name.topic.clone(), partition: name.partition, offset: 0 }));
                    prepared.push(record);
                }
                Err(wrong) => results.push(Err(wrong)),
            }
        }
        if prepared.is_empty() {
            return results;
        }
        match self.store(prepared).await {
            Ok(offsets) => {
                let stored = results.iter_mut().filter_map(|result| result.as_mut().ok());
                stored.zip(offsets).for_each(|(position, offset)| position.offset = offset);
                self.metrics.append_seconds.record(begun.elapsed());
            }
            Err(fault) => results.iter_mut().filter(|result| result.is_ok()).for_each(|result| *result = Err(fault.clone().into())),
        }
        results
    }

    async fn store(&self, records: Vec<Prepared>) -> Result<Vec<i64>, Fault> {
        let closed = || Fault::unavailable("the log is closed: the daemon is stopping");
        // A call that is larger than the whole queue waits until it has it for itself.
        let size = records.iter().map(|record| record.size() + OVERHEAD).sum::<usize>();
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(self.room_limit);
        let permit = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| closed())?;
        let (reply, result) = oneshot::channel();
        self.queue.push(Command::Append(AppendJob { records, reply, permit }))?;
        result.await.unwrap_or_else(|_| Err(closed()))
    }

    fn close(&self, deadline: Duration) -> bool {
        self.room.close();
        self.queue.close();
        self.queue.wait_ended(deadline)
    }
}

fn no_topic(name: &str) -> LogError {
    LogError::Fatal(format!("the log has no topic `{name}`: the names are in [topics], and it is made at start"))
}

fn no_partition(topic: &str, partition: i32) -> LogError {
    LogError::Fatal(format!("topic `{topic}` has no partition {partition}"))
}

impl Log for SqliteLog {
    fn ensure<'a>(&'a self, specs: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            for spec in specs {
                topics::check_name(&spec.name).map_err(LogError::Fatal)?;
                if !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
                    let (name, count) = (&spec.name, spec.partitions);
                    return Err(LogError::Fatal(format!(
                        "topic `{name}` can have 1 to {MAX_PARTITIONS} partitions, not {count}: log.partitions"
                    )));
                }
            }
            let (reply, result) = oneshot::channel();
            self.core.queue.push(Command::Ensure(EnsureJob { specs: specs.to_vec(), reply }))?;
            let closed = |_| Err(Fault::unavailable("the log was closed before it could make the topics"));
            Ok(result.await.unwrap_or_else(closed)?)
        })
    }

    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>> {
        Box::pin(Arc::clone(&self.core).append(records))
    }

    fn consumer(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Member::join(Arc::clone(&self.core), subscription)))
    }

    fn reader(&self, partition: TopicPartition, from: From) -> Result<Box<dyn Reader>, LogError> {
        let topic = self.core.topic(&partition.topic)?;
        let known = usize::try_from(partition.partition).ok().and_then(|number| topic.partitions.get(number));
        let known = known.ok_or_else(|| no_partition(&topic.name, partition.partition))?;
        Ok(Box::new(Follower::new(&self.core, Arc::clone(known), from)?))
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, LogError> {
        Ok(self.core.topic(topic)?.partitions.iter().map(|partition| partition.name.partition).collect())
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        Ok(self.core.groups.committed(group, topic))
    }

    fn close(&self, deadline: Duration) {
        if !self.core.close(deadline) {
            tracing::warn!("the log was not done writing at its deadline; it goes on as long as the process lives");
        }
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        // What is queued is bounded, and so is this; a disk that hangs is waited for by nobody for ever.
        self.core.close(Duration::from_secs(10));
    }
}

impl fmt::Debug for SqliteLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SqliteLog({})", self.core.path.display())
    }
}

#[cfg(test)]
mod tests;
