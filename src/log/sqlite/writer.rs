//! The one writer: appends, commits of groups and new topics, many of them in one transaction.
//!
//! Whatever has come in while the last transaction was written makes up the next one, so a lone append waits for nobody and a thousand of
//! them share one fsync. Nothing is answered, and no reader sees anything, before the COMMIT that holds it has returned; with
//! `synchronous = FULL` it is then on the disk.
//!
//! After a failed COMMIT the transaction is rolled back and its offsets are given out again: nobody has seen them, and SQLite writes the next
//! transaction over the frames of the failed one. Should a crash come first and its frames prove whole, the records are there: an append
//! that was answered with an error is perhaps stored.

use std::{
    collections::VecDeque,
    fs,
    sync::{Arc, Condvar, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    groups::Groups,
    partition::{Catalogue, Partition, Topic},
    store::{self, Fault, StoredTopic},
};
use crate::{
    log::{Cleanup, Record, TopicSpec},
    model::{Clock, Position, Text, TopicPartition},
    telemetry::{Metrics, Trouble},
};

/// Bytes of appends in one transaction: more does not make it cheaper per record, only later.
const TRANSACTION: usize = 4 << 20;

/// Records that retention deletes in one transaction; appends wait meanwhile.
const CHUNK: i64 = 2_000;

/// How long a tombstone stays, so that a follower who was away may still read it.
const TOMBSTONES: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) enum Command {
    Append(AppendJob),
    Commit(CommitJob),
    Ensure(EnsureJob),
}

pub(super) struct AppendJob {
    pub records: Vec<Prepared>,
    /// The offset of each record.
    pub reply: oneshot::Sender<Result<Vec<i64>, Fault>>,
    /// Its share of the queue, given back when it is written.
    pub permit: OwnedSemaphorePermit,
}

/// A record that was checked and has its partition.
pub(super) struct Prepared {
    pub topic: Arc<Topic>,
    pub partition: usize,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Text, Bytes)>,
    pub encoded_headers: Vec<u8>,
}

impl Prepared {
    fn partition(&self) -> &Arc<Partition> {
        &self.topic.partitions[self.partition]
    }

    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + self.encoded_headers.len()
    }
}

pub(super) struct CommitJob {
    pub group: Arc<str>,
    pub commits: Vec<(Arc<Partition>, i64, String)>,
    pub reply: mpsc::SyncSender<Result<(), Fault>>,
}

pub(super) struct EnsureJob {
    pub specs: Vec<TopicSpec>,
    pub reply: oneshot::Sender<Result<(), Fault>>,
}

/// What waits for the writer. Bounded by the permits of its appends; every other command is one per consumer or caller.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    /// No more is taken.
    closed: bool,
    /// The writer has ended.
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    pub fn push(&self, command: Command) -> Result<(), Fault> {
        let mut state = self.lock();
        if state.closed {
            return Err(Fault::unavailable("the log is closed: the daemon is stopping"));
        }
        state.commands.push_back(command);
        self.changed.notify_all();
        Ok(())
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until the writer has ended; false at the deadline.
    pub fn wait_ended(&self, deadline: Duration) -> bool {
        let (state, _) =
            self.changed.wait_timeout_while(self.lock(), deadline, |state| !state.ended).expect("nothing panics while it holds this lock");
        state.ended
    }

    /// Takes what fits into one transaction; waits for it until `deadline`. None: closed and empty.
    fn take(&self, deadline: Instant) -> Option<Vec<Command>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), left, |state| state.commands.is_empty() && !state.closed)
            .expect("nothing panics while it holds this lock");
        if state.closed && state.commands.is_empty() {
            return None;
        }
        let mut room = TRANSACTION;
        let count = state
            .commands
            .iter()
            .take_while(|command| {
                let fits = room > 0;
                if let Command::Append(job) = command {
                    room = room.saturating_sub(job.records.iter().map(Prepared::size).sum());
                }
                fits
            })
            .count();
        Some(state.commands.drain(..count).collect())
    }
}

/// Whatever ends the writer, also a panic: what waits is answered, what comes is refused.
struct Ended {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        (state.closed, state.ended) = (true, true);
        // Dropping a command drops its reply, which its caller reads as "the log is closed".
        let commands = std::mem::take(&mut state.commands);
        drop(state);
        drop(commands);
        self.metrics.log_connected.set(0.0);
        self.queue.changed.notify_all();
    }
}

/// Copies the write-ahead log into the main file while the writer goes on: an append would else wait for the fsync of many megabytes every
/// now and then (measured: 100 ms).
pub(super) struct Checkpointer {
    /// One request is remembered while one is worked on.
    wake: mpsc::SyncSender<()>,
    thread: thread::JoinHandle<()>,
    written: usize,
}

impl Checkpointer {
    pub fn start(db: Connection) -> std::io::Result<Checkpointer> {
        let (wake, requests) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("log-checkpoint".into()).spawn(move || {
            while requests.recv().is_ok() {
                if let Err(fault) = store::checkpoint(&db) {
                    tracing::warn!(error = fault.text, "the write-ahead log could not be copied; it is tried again");
                }
            }
        })?;
        Ok(Checkpointer { wake, thread, written: 0 })
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= store::CHECKPOINT {
            self.written = 0;
            // Full: it will begin anew after what it is at.
            let _ = self.wake.try_send(());
        }
    }

    fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the thread that copies the write-ahead log has panicked");
        }
    }
}

pub(super) struct Writer {
    pub db: Connection,
    pub checkpointer: Checkpointer,
    /// Held as long as we write.
    pub lock: fs::File,
    pub queue: Arc<Queue>,
    pub catalogue: Arc<ArcSwap<Catalogue>>,
    pub groups: Arc<Groups>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub trouble: Trouble,
    /// No record is older than one before it, whatever the clock does: times are searched by bisection.
    pub last_ms: i64,
    pub tail_limit: usize,
    pub sweep_every: Duration,
    /// What the tails hold, oldest first: partition, records, bytes.
    pub tails: VecDeque<(Arc<Partition>, usize, usize)>,
    pub tail_bytes: usize,
}

/// The records of one transaction for one partition.
struct Run<'a> {
    topic: &'a Arc<Topic>,
    partition: &'a Arc<Partition>,
    first: i64,
    records: Vec<&'a Prepared>,
}

impl Writer {
    pub fn run(mut self) {
        let ended = Ended { queue: Arc::clone(&self.queue), metrics: Arc::clone(&self.metrics) };
        let mut sweep_at = Instant::now() + self.sweep_every;
        while let Some(commands) = self.queue.take(sweep_at) {
            let mut jobs = (Vec::new(), Vec::new());
            for command in commands {
                match command {
                    Command::Ensure(job) => {
                        let result = self.ensure(&job.specs);
                        // Whoever asked may be gone.
                        let _ = job.reply.send(result);
                    }
                    Command::Append(job) => jobs.0.push(job),
                    Command::Commit(job) => jobs.1.push(job),
                }
            }
            if !jobs.0.is_empty() || !jobs.1.is_empty() {
                self.write(jobs.0, jobs.1);
            }
            if Instant::now() >= sweep_at {
                let more = match self.sweep() {
                    Ok(more) => more,
                    Err(fault) => {
                        self.roll_back();
                        tracing::warn!(error = fault.text, "retention could not delete; it tries again");
                        false
                    }
                };
                sweep_at = Instant::now() + if more { Duration::ZERO } else { self.sweep_every };
            }
        }
        self.checkpointer.stop();
        // Closing the last connection copies the write-ahead log into the main file.
        if let Err((_, error)) = self.db.close() {
            tracing::warn!(%error, "the log's file could not be closed; the next start brings it in order");
        }
        drop(self.lock);
        drop(ended);
    }

    fn transaction(&self, change: impl FnOnce(&Connection) -> Result<(), Fault>) -> Result<(), Fault> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let result = change(&self.db).and_then(|()| Ok(self.db.execute_batch("COMMIT")?));
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    fn roll_back(&self) {
        // Some errors have rolled back already.
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the log could not roll back");
        }
    }

    fn write(&mut self, appends: Vec<AppendJob>, commits: Vec<CommitJob>) {
        self.last_ms = self.last_ms.max(self.clock.now_ms());
        let appended_ms = self.last_ms;

        // The records of each partition, in the order in which they came.
        let mut runs: Vec<Run<'_>> = Vec::new();
        let mut offsets: Vec<Vec<i64>> = Vec::with_capacity(appends.len());
        for job in &appends {
            let mut own = Vec::with_capacity(job.records.len());
            for record in &job.records {
                let partition = record.partition();
                let index = runs.iter().rposition(|run| Arc::ptr_eq(run.partition, partition)).unwrap_or_else(|| {
                    runs.push(Run { topic: &record.topic, partition, first: partition.end(), records: Vec::new() });
                    runs.len() - 1
                });
                let run = &mut runs[index];
                own.push(run.first + run.records.len() as i64);
                run.records.push(record);
            }
            offsets.push(own);
        }

        let result = self.transaction(|db| {
            for run in &runs {
                let records = run.records.iter().map(|record| (record.key.as_ref(), &*record.encoded_headers, record.value.as_ref()));
                store::insert(db, run.partition, run.first, appended_ms, run.topic.cleanup == Cleanup::Compact, records)?;
            }
            for job in &commits {
                for (partition, offset, metadata) in &job.commits {
                    store::put_commit(db, &job.group, partition, *offset, metadata)?;
                }
            }
            Ok(())
        });

        self.metrics.log_connected.set(if result.is_ok() { 1.0 } else { 0.0 });
        if let Err(fault) = &result {
            if self.trouble.begins(Instant::now()) {
                tracing::warn!(error = fault.text, "the log cannot write");
            }
            for run in &runs {
                self.recover(run);
            }
        } else {
            if self.trouble.ends(Instant::now()) {
                tracing::info!("the log writes again");
            }
            let published: Vec<_> = runs.iter().map(|run| (Arc::clone(run.partition), run.records(appended_ms))).collect();
            for (partition, records) in published {
                let bytes = records.iter().map(store::weight).sum();
                self.tails.push_back((Arc::clone(&partition), records.len(), bytes));
                self.tail_bytes += bytes;
                self.checkpointer.wrote(bytes);
                partition.publish(records);
            }
        }
        drop(runs);
        for (job, offsets) in appends.into_iter().zip(offsets) {
            drop(job.permit);
            let _ = job.reply.send(result.clone().map(|()| offsets));
        }
        for job in commits {
            if result.is_ok() {
                for (partition, offset, metadata) in job.commits {
                    self.groups.put_commit(&job.group, &partition.name, offset, metadata);
                }
            }
            self.metrics.commits_total.with(if result.is_ok() { "ok" } else { "failed" }).increment(1);
            let _ = job.reply.send(result.clone());
        }
        while self.tail_bytes > self.tail_limit
            && let Some((partition, count, bytes)) = self.tails.pop_front()
        {
            partition.forget(count);
            self.tail_bytes -= bytes;
        }
    }

    /// After a failed transaction: looks what is in the file, so that an offset is only given out again if nothing is there.
    fn recover(&self, run: &Run<'_>) {
        match store::last(&self.db, run.partition) {
            Ok(Some((offset, _))) if offset >= run.first => run.partition.publish_stored(offset + 1),
            Ok(_) => {}
            // An insert at an offset that is there fails as a whole, so nothing can be overwritten even then.
            Err(fault) => tracing::error!(error = fault.text, "the log can not be read after a failed write"),
        }
    }

    fn ensure(&self, specs: &[TopicSpec]) -> Result<(), Fault> {
        let mut catalogue = Catalogue::clone(&self.catalogue.load());
        let mut changed = Vec::new();
        // Microseconds: no partition takes a million records a second over its whole life, so a fresh directory begins above all positions of
        // the one before; and they stay exact where a receiver reads numbers as 64-bit floats.
        let first = self.clock.now().as_microsecond();
        for spec in specs {
            let known = catalogue.get(&spec.name);
            if known.is_some_and(|topic| topic.cleanup == spec.cleanup && topic.max_record == spec.max_record) {
                continue;
            }
            // The number of partitions is fixed when the topic is made: another one would give keys another partition.
            let first_offset = known.map_or(first, |topic| topic.first_offset);
            let partitions = match known {
                Some(topic) => topic.partitions.clone(),
                None => (0..spec.partitions as i32)
                    .map(|partition| Partition::new(TopicPartition { topic: spec.name.clone(), partition }, first, first))
                    .collect(),
            };
            changed.push(StoredTopic {
                name: spec.name.to_string(),
                partitions: partitions.len() as u32,
                cleanup: spec.cleanup,
                max_record: spec.max_record,
                first_offset,
            });
            let (name, cleanup, max_record) = (spec.name.clone(), spec.cleanup, spec.max_record);
            let topic = Topic { name: name.clone(), cleanup, max_record, first_offset, partitions, turn: Default::default() };
            catalogue.insert(name, Arc::new(topic));
        }
        if !changed.is_empty() {
            self.transaction(|db| changed.iter().try_for_each(|topic| store::put_topic(db, topic)))?;
            let catalogue = Arc::new(catalogue);
            self.catalogue.store(Arc::clone(&catalogue));
            self.groups.topics_changed(&catalogue);
        }
        Ok(())
    }

    /// Deletes a chunk of what need not be kept of each partition; true if there is more.
    fn sweep(&mut self) -> Result<bool, Fault> {
        let now = self.clock.now_ms();
        let ago = |duration: Duration| now.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let mut more = false;
        store::bound_wal(&self.db)?;
        for topic in self.catalogue.load().values() {
            for partition in &topic.partitions {
                // The last record stays: it tells the next offset.
                let last = partition.end() - 1;
                match topic.cleanup {
                    Cleanup::Retain(duration) => more |= self.sweep_range(partition, last, ago(duration))?,
                    Cleanup::Compact => {
                        more |= store::delete_tombstones(&self.db, partition, last, ago(TOMBSTONES), CHUNK)? as i64 == CHUNK;
                    }
                }
            }
        }
        Ok(more)
    }

    fn sweep_range(&self, partition: &Partition, last: i64, before_ms: i64) -> Result<bool, Fault> {
        let Some((first, appended)) = store::first_from(&self.db, partition, partition.start())? else { return Ok(false) };
        let end = self.groups.lowest(&partition.name).unwrap_or(last).min(last);
        if appended >= before_ms || first >= end {
            return Ok(false);
        }
        let keep_from = store::offset_at(&self.db, partition, first, end, before_ms)?;
        let to = keep_from.min(first + CHUNK);
        store::delete_range(&self.db, partition, first, to)?;
        partition.set_start(to);
        Ok(to < keep_from)
    }
}

impl Run<'_> {
    /// The records as a reader sees them, sharing the bytes that were appended.
    fn records(&self, appended_ms: i64) -> Vec<Record> {
        let name = &self.partition.name;
        let position = |index: usize| Position { topic: name.topic.clone(), partition: name.partition, offset: self.first + index as i64 };
        let records = self.records.iter().enumerate();
        records
            .map(|(index, record)| Record {
                position: position(index),
                key: record.key.clone(),
                value: record.value.clone(),
                headers: record.headers.clone(),
                appended_ms,
            })
            .collect()
    }
}
