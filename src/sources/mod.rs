//! Where work enters: events from the log ([`stream`]), retries when they are due ([`retry`]), events over HTTP into the log ([`ingest`]),
//! and events of the past for one endpoint ([`replay`]).
//!
//! Stream and retry are the same loop ([`turn`]) over the partitions ([`partitions`]) that a consumer owns, on a thread of its own. They
//! decide nothing about endpoints: what the records are owed to, and what happens to them, comes in as closures ([`Wiring`]).
//!
//! # What holds whatever happens
//!
//! - A position is committed only when every record below it is settled; what is done above it lies in the commit's metadata. A crash between any
//!   two lines re-sends what was open and loses nothing.
//! - When a partition is revoked its [`crate::model::Lease`] ends; what is settled later is counted and changes nothing.
//! - A source that may not or cannot take more does not poll; it never buffers without bound and never drops. It goes on serving the group: after
//!   [`Config::patience`] its partitions are paused and it polls for changes of the assignment alone.

pub mod ingest;
mod partitions;
pub mod replay;
pub mod retry;
pub mod stream;
mod turn;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::{
    log::{LogError, Record},
    model::{Ack, Budget, Clock, DeadReason, Delivery, Endpoint, Event, Position, Routed, Text},
    telemetry::metrics::Metrics,
};

/// `[source]`: how the log is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest span of unsettled offsets per partition. A partition whose oldest open record is further behind than this is not read on.
    pub window: u32,
    /// Records taken by one poll.
    pub batch: usize,
    /// How often positions are committed at most.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// How long a revoked partition may wait for what is in flight before it is given up.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long polling is only left out before partitions are paused, which costs what was prefetched.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// Retries that are held per partition until they are due; more stay in the log.
    pub hold: usize,
    /// Bytes that held retries may take over all partitions.
    pub hold_memory: ByteSize,
}

impl Config {
    /// The largest window: 128 KiB of bits per partition (DESIGN.md section 5).
    pub const WINDOW_LIMIT: u32 = 1_048_576;

    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut expect = |key, ok: bool, problem: String| {
            if !ok {
                problems.push((key, problem));
            }
        };
        let window = Config::WINDOW_LIMIT;
        expect("window", (1024..=window).contains(&self.window), format!("is {}: 1024 to {window} offsets are possible", self.window));
        expect("batch", (1..=65_536).contains(&self.batch), format!("is {}: 1 to 65536 records are possible", self.batch));
        expect(
            "batch",
            self.batch as u64 <= u64::from(self.window),
            format!("is {}, more than `source.window` ({}): a batch must fit into the window", self.batch, self.window),
        );
        let second = Duration::from_secs(1);
        expect("commit_interval", (second / 20..=second * 60).contains(&self.commit_interval), "must lie between 50ms and 1m".into());
        expect("drain", self.drain <= second * 30, "must be at most 30s: the whole group waits for it".into());
        expect("patience", self.patience <= second * 60, "must be at most 1m: the group waits for a member that does not poll".into());
        expect("hold", (1..=65_536).contains(&self.hold), format!("is {}: 1 to 65536 records are possible", self.hold));
        expect("hold_memory", self.hold_memory >= ByteSize::mib(1), "must be at least 1MiB".into());
        problems
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            window: Config::WINDOW_LIMIT,
            batch: 512,
            commit_interval: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            patience: Duration::from_secs(1),
            hold: 64,
            hold_memory: ByteSize::mib(16),
        }
    }
}

/// What an endpoint id of a delivery record stands for now.
#[derive(Debug, Clone)]
pub enum Resolved {
    Deliver(Arc<Endpoint>),
    /// There is nothing to deliver to, and why.
    Dead(DeadReason),
    /// The registry view has not come to the offset at which the endpoint was known: ask again.
    Behind,
}

/// Something that goes to the dead letters without having met an endpoint. Acknowledge it when that is durable.
#[derive(Debug)]
pub struct Doomed {
    pub what: DoomedThing,
    pub reason: DeadReason,
    pub detail: String,
    pub ack: Ack,
}

#[derive(Debug)]
pub enum DoomedThing {
    Record(Record),
    Delivery(Delivery),
}

/// Whoever took deliveries takes no more: the program stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// What a source needs from the rest of the program. Every closure is called on the source's thread and must not wait, but for `deliver`.
pub struct Wiring {
    /// Puts the endpoints that want the event into the (empty) list.
    pub route: Box<dyn FnMut(&Event, &mut Vec<Arc<Endpoint>>) + Send>,
    /// The endpoint of a delivery record, known at that offset of the registry.
    pub resolve: Arc<dyn Fn(&Text, i64) -> Resolved + Send + Sync>,
    /// Takes deliveries to the scheduler; waits while there is no room.
    pub deliver: Box<dyn FnMut(Vec<Routed>) -> Result<(), Closed> + Send>,
    /// Appends to the dead letters and acknowledges then.
    pub doom: Arc<dyn Fn(Doomed) + Send + Sync>,
    /// Appends the delivery to a retry tier, to come back after the wait, and acknowledges then. For records whose acknowledgement was lost, and
    /// for retries that are due later than their tier waits.
    pub respill: Arc<dyn Fn(Delivery, Duration, Ack) + Send + Sync>,
    /// Why nothing may be read now (`registry_behind`, `own_fault`), or none.
    pub gate: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>,
    /// The id of the registry topic (one word, at most 64 ASCII characters). It is kept with every commit: a group that was served with another registry
    /// is not served with this one.
    pub registry_id: Text,
    /// Told once, when the source cannot go on; the text names the thing and the cure. Its thread has ended then.
    pub failed: Box<dyn FnOnce(String) + Send>,
    pub budget: Arc<Budget>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
}

/// What a source is doing, as of its last turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Partitions owned.
    pub partitions: u64,
    /// Records that are read and not settled, held retries not counted.
    pub open: u64,
    /// Retries held until they are due.
    pub held: u64,
    /// Records read since the start.
    pub read: u64,
}

/// A running source. Dropping it does not stop it.
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::SyncSender<Command>,
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    join: JoinHandle<()>,
    /// Closed when it has ended, also by a panic.
    ended: mpsc::Receiver<()>,
}

impl Handle {
    /// Stops taking records; what was taken is still settled and committed, and the group is served.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    /// Waits until what was taken is settled or the deadline has passed, commits for the last time and leaves the group. Blocking, little
    /// longer than the deadline.
    pub fn finish(&self, deadline: Duration) {
        const GRACE: Duration = Duration::from_secs(2);
        self.send(Command::Finish(Instant::now() + deadline));
        let Some(thread) = self.thread.lock().expect("nothing panics while it holds this lock").take() else { return };
        let Thread { join, ended } = thread;
        if ended.recv_timeout(deadline + GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("source thread did not end in time; what it had not committed is read again");
        } else if join.join().is_err() {
            tracing::error!("source thread panicked; what it had not committed is read again");
        }
    }

    /// The lowest offset not settled, of each partition that is owned; what was settled above it is not told.
    pub fn positions(&self) -> Vec<Position> {
        self.shared.positions.lock().expect("nothing panics while it holds this lock").clone()
    }

    pub fn stats(&self) -> Stats {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Stats {
            partitions: get(&self.shared.partitions),
            open: get(&self.shared.open),
            held: get(&self.shared.held),
            read: get(&self.shared.read),
        }
    }

    /// Whether its thread still runs.
    pub fn is_running(&self) -> bool {
        let thread = self.thread.lock().expect("nothing panics while it holds this lock");
        thread.as_ref().is_some_and(|thread| !thread.join.is_finished())
    }

    fn send(&self, command: Command) {
        // It fails when the thread has ended, which is what was wanted.
        let _ = self.commands.send(command);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Handle({:?})", self.stats())
    }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Stop,
    Finish(Instant),
}

/// What a handle can see of its thread.
#[derive(Debug, Default)]
struct Shared {
    partitions: AtomicU64,
    open: AtomicU64,
    held: AtomicU64,
    read: AtomicU64,
    positions: Mutex<Vec<Position>>,
}

/// Starts the thread of a source.
fn start(name: &'static str, make: impl FnOnce(Arc<Shared>) -> turn::Source) -> Result<Handle, LogError> {
    const COMMANDS: usize = 8;
    let shared = Arc::new(Shared::default());
    let (commands, inbox) = mpsc::sync_channel(COMMANDS);
    let (alive, ended) = mpsc::sync_channel(0);
    let source = make(Arc::clone(&shared));
    let join = std::thread::Builder::new()
        .name(format!("source-{name}"))
        .spawn(move || {
            let _alive = alive;
            source.run(&inbox);
        })
        .map_err(|error| LogError::Fatal(format!("the thread of the source `{name}` cannot be started: {error}")))?;
    Ok(Handle { shared, commands, thread: Mutex::new(Some(Thread { join, ended })) })
}

#[cfg(test)]
mod tests;
