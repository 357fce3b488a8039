//! Where filters run: on threads of their own, between the source and the scheduler.
//!
//! # Contract
//!
//! - A delivery that is handed over comes out exactly once: it is passed on, settled as not wanted, given up as undecided, or (there is no room,
//!   or its filter takes more than its share of a busy thread) handed back to be spilled. Nothing waits for a filter but what has one.
//! - An endpoint's filter is compiled when its first delivery comes, and once for each version of its text. The data of an event is read
//!   once for all filters of a thread.
//! - A filter that overran its steps `STRIKES` times within `MEMORY` evaluations is told: whoever knows endpoints switches it off.
//!
//! # Why threads of their own
//!
//! On the source's thread a filter of a millisecond would slow every event; on a shard's thread, every endpoint of the shard. Here it can only slow
//! other filtered endpoints of its thread, and those only until the thread is busy for more than a moment.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;

use super::filter::{Data, Filter, Undecided};
use crate::{
    model::{Agent, Endpoint, Event, Purpose, Routed, Text},
    telemetry::Metrics,
};

/// Batches that may wait for a thread; a batch is at most a poll of the source.
const ROOM: usize = 64;

/// Filters that a thread keeps compiled. Beyond that it begins anew.
const KEPT: usize = 20_000;

/// Overruns within so many evaluations that switch a filter off.
const STRIKES: u32 = 5;
const MEMORY: u32 = 100;

/// Of every second, a filter may take so much of a thread that others wait for; what it takes beyond that counts for the seconds after.
const SHARE: Duration = Duration::from_millis(250);

const PLACE: FixedState = FixedState::with_seed(0x7369_6576);

/// What becomes of deliveries; called on the sieve's threads.
pub struct Outlets {
    /// Those that are wanted; it may wait.
    pub pass: Box<dyn Fn(Vec<Routed>) + Send + Sync>,
    /// One whose filter cannot be evaluated, and why.
    pub undecided: Box<dyn Fn(Routed, String) + Send + Sync>,
    /// To be put back for a while.
    pub spill: Box<dyn Fn(Vec<Routed>) + Send + Sync>,
    /// A filter that is to be switched off.
    pub too_slow: Box<dyn Fn(&Endpoint) + Send + Sync>,
}

enum Message {
    Sift(Vec<Routed>),
    End,
}

/// A handle to the threads.
pub struct Sieve {
    lanes: Vec<SyncSender<Message>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    outlets: Arc<Outlets>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Sieve {
    pub fn start(threads: usize, outlets: Outlets, metrics: &Arc<Metrics>) -> std::io::Result<Sieve> {
        let mut sieve = Sieve {
            lanes: Vec::new(),
            threads: Mutex::default(),
            outlets: Arc::new(outlets),
            waiting: Arc::default(),
            metrics: Arc::clone(metrics),
        };
        for index in 0..threads.max(1) {
            let (lane, messages) = sync_channel(ROOM);
            let sifter = Sifter {
                outlets: Arc::clone(&sieve.outlets),
                waiting: Arc::clone(&sieve.waiting),
                metrics: Arc::clone(metrics),
                filters: HashMap::default(),
                last: None,
            };
            let thread = std::thread::Builder::new().name(format!("filter-{index}")).spawn(move || sifter.run(&messages))?;
            sieve.lanes.push(lane);
            sieve.threads.get_mut().expect("nobody else has it yet").push(thread);
        }
        Ok(sieve)
    }

    /// Takes deliveries of endpoints that have a filter. Waits for nothing.
    pub fn sift(&self, deliveries: Vec<Routed>) {
        let mut parts: Vec<Vec<Routed>> = Vec::new();
        parts.resize_with(self.lanes.len(), Vec::new);
        for routed in deliveries {
            let place = PLACE.hash_one(&*routed.endpoint.id) % self.lanes.len() as u64;
            parts[place as usize].push(routed);
        }
        for (lane, part) in self.lanes.iter().zip(parts) {
            if part.is_empty() {
                continue;
            }
            let count = part.len();
            self.note(self.waiting.fetch_add(count, Ordering::Relaxed) + count);
            match lane.try_send(Message::Sift(part)) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.waiting.fetch_sub(count, Ordering::Relaxed);
                    if let Message::Sift(part) = message {
                        (self.outlets.spill)(part);
                    }
                }
                // Only at the end: its source reads it again after the next start.
                Err(TrySendError::Disconnected(message)) => {
                    self.waiting.fetch_sub(count, Ordering::Relaxed);
                    if let Message::Sift(part) = message {
                        part.into_iter().for_each(|routed| routed.ack.abandon());
                    }
                }
            }
        }
    }

    /// Ends the threads when what they were given is done. Blocking. False if one of them has panicked.
    pub fn end(&self) -> bool {
        for lane in &self.lanes {
            // One that has ended already needs not be told.
            let _ = lane.send(Message::End);
        }
        let threads = std::mem::take(&mut *self.threads.lock().expect("nothing panics while it holds this lock"));
        threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count() == 0
    }

    /// Whether all threads still run.
    pub fn are_alive(&self) -> bool {
        self.threads.lock().expect("nothing panics while it holds this lock").iter().all(|thread| !thread.is_finished())
    }

    fn note(&self, waiting: usize) {
        self.metrics.filter_waiting.set(waiting as f64);
    }
}

/// A filter with what is known of it.
struct Kept {
    source: Text,
    filter: Result<Filter, String>,
    /// Overruns, and evaluations since the first of them.
    strikes: u32,
    since: u32,
    share: Share,
}

/// What a filter took of its thread.
struct Share {
    /// When the running second began.
    second: Instant,
    spent: Duration,
}

struct Sifter {
    outlets: Arc<Outlets>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    filters: HashMap<Text, Kept, foldhash::fast::RandomState>,
    /// The event that was read last; its deliveries come one behind the other.
    last: Option<(Arc<Event>, Data)>,
}

enum Verdict {
    Wanted,
    NotWanted,
    Undecided(String),
    /// Its filter has had its share for now.
    Later,
}

impl Sifter {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(Message::Sift(batch)) = messages.recv() {
            let (mut count, size) = (self.waiting.load(Ordering::Relaxed), batch.len());
            // More than this batch waits: then nobody takes more than a share.
            let busy = count > size * 2;
            self.sift(batch, busy);
            count = self.waiting.fetch_sub(size, Ordering::Relaxed) - size;
            self.metrics.filter_waiting.set(count as f64);
            if count == 0 {
                // An idle thread keeps no event in memory.
                self.last = None;
            }
        }
    }

    fn sift(&mut self, batch: Vec<Routed>, busy: bool) {
        let (mut wanted, mut later) = (Vec::with_capacity(batch.len()), Vec::new());
        for mut routed in batch {
            if !routed.ack.is_live() {
                self.metrics.late_settlements_total.increment(1);
                routed.ack.abandon();
                continue;
            }
            match self.decide(&routed, busy) {
                Verdict::Wanted => {
                    // From here on it is a delivery like others, and not filtered again.
                    routed.delivery.reason = None;
                    wanted.push(routed);
                }
                Verdict::NotWanted => routed.ack.done(),
                // Redriven: a person has asked for it.
                Verdict::Undecided(_) if is_asked_for(&routed) => wanted.push(routed),
                Verdict::Undecided(why) => (self.outlets.undecided)(routed, why),
                Verdict::Later => later.push(routed),
            }
        }
        if !wanted.is_empty() {
            (self.outlets.pass)(wanted);
        }
        if !later.is_empty() {
            (self.outlets.spill)(later);
        }
    }

    fn decide(&mut self, routed: &Routed, busy: bool) -> Verdict {
        let Some(source) = &routed.endpoint.filter else { return Verdict::Wanted };
        if self.filters.len() >= KEPT && !self.filters.contains_key(&routed.endpoint.id) {
            self.filters.clear();
        }
        let now = Instant::now();
        let kept = self.filters.entry(routed.endpoint.id.clone()).or_insert_with(|| Kept::new(source, now));
        if kept.source != *source {
            *kept = Kept::new(source, now);
        }
        if kept.share.is_used_up(now, busy) {
            return Verdict::Later;
        }
        let filter = match &kept.filter {
            Ok(filter) => filter,
            Err(wrong) => {
                self.metrics.filtered_total.with("undecided").increment(1);
                return Verdict::Undecided(format!("its filter {wrong}"));
            }
        };
        let event = &routed.delivery.event;
        let nothing = Data::Unread("is not looked at");
        let data = if filter.uses_data() {
            if self.last.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, event)) {
                self.last = Some((Arc::clone(event), Data::of(event)));
            }
            self.last.as_ref().map_or(&nothing, |(_, data)| data)
        } else {
            &nothing
        };
        let decided = filter.matches(event, data);
        kept.share.spent += now.elapsed();
        kept.since = kept.since.saturating_add(1);
        if kept.since > MEMORY {
            kept.strikes = 0;
        }
        let (result, verdict) = match decided {
            Ok(true) => ("matched", Verdict::Wanted),
            Ok(false) => ("unmatched", Verdict::NotWanted),
            Err(Undecided::Failed(why)) => {
                tracing::debug!(endpoint = %routed.endpoint.id, event = %event.id, why, "filter failed: no match");
                ("failed", Verdict::NotWanted)
            }
            Err(cannot @ Undecided::Unread(_)) => ("undecided", Verdict::Undecided(format!("its filter could not decide: {cannot}"))),
            Err(cannot @ Undecided::TooSlow) => {
                if kept.strikes == 0 {
                    kept.since = 0;
                }
                kept.strikes += 1;
                if kept.strikes >= STRIKES {
                    kept.strikes = 0;
                    (self.outlets.too_slow)(&routed.endpoint);
                }
                ("undecided", Verdict::Undecided(format!("its filter could not decide: {cannot}")))
            }
        };
        self.metrics.filtered_total.with(result).increment(1);
        verdict
    }
}

fn is_asked_for(routed: &Routed) -> bool {
    routed.delivery.purpose == Purpose::Redrive && Agent::of_listener(&routed.endpoint.id).is_none()
}

impl Kept {
    fn new(source: &Text, now: Instant) -> Kept {
        let filter = Filter::compile(source).map_err(|wrong| wrong.to_string());
        Kept { source: source.clone(), filter, strikes: 0, since: 0, share: Share::new(now) }
    }
}

impl Share {
    fn new(now: Instant) -> Share {
        Share { second: now, spent: Duration::ZERO }
    }

    /// Whether it has to wait while others do. What it took beyond its share of a second it owes to the following ones; nothing is owed where
    /// nobody waited.
    fn is_used_up(&mut self, now: Instant, busy: bool) -> bool {
        let seconds = now.saturating_duration_since(self.second).as_secs();
        if seconds > 0 {
            let allowed = SHARE.saturating_mul(u32::try_from(seconds).unwrap_or(u32::MAX));
            self.spent = if busy { self.spent.saturating_sub(allowed) } else { Duration::ZERO };
            self.second = now;
        }
        busy && self.spent >= SHARE
    }
}

#[cfg(test)]
mod tests;
