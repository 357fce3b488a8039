//! What both implementations share: the records that this instance knows, and the telling of their changes.
//!
//! Telling never waits: if the channel of updates is full, what is to be told is kept per endpoint (the latest only, so it is bounded by
//! the number of endpoints) and told with the next report.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{Update, score};
use crate::{
    model::{HealthRecord, Text, Transition, time::timestamp_from_ms},
    telemetry::Metrics,
};

type Map<V> = HashMap<Text, V, foldhash::fast::RandomState>;

/// Shards report at the same time; sixteen locks keep them apart.
const SHARDS: usize = 16;

/// The records that this instance knows.
pub(super) struct Mirror {
    shards: [RwLock<Map<Entry>>; SHARDS],
    hasher: foldhash::fast::FixedState,
    /// Entries whose successes matter. While it is zero, which it is on most days, a success costs one load.
    noted: AtomicUsize,
    outlet: Outlet,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub record: HealthRecord,
    /// The highest version that the registry is known to hold.
    pub registered: u64,
    /// The version that was told again because the registry had missed it.
    pub repeated: u64,
    /// Changed here while the shared store could not be told; counts the changes.
    pub unshared: u64,
}

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// An observation that was applied here: a new version is a transition to tell.
    Here,
    /// An observation of ours that the shared store applied, with this transition. It is told even if the mirror has heard of it, or of a
    /// later one, by broadcast already.
    Store(Transition),
    /// Another instance, or the registry.
    Elsewhere,
}

impl Mirror {
    pub fn new(updates: Sender<Update>, metrics: Arc<Metrics>) -> Mirror {
        Mirror {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: foldhash::fast::FixedState::default(),
            noted: AtomicUsize::new(0),
            outlet: Outlet { updates, untold: Mutex::default(), waiting: AtomicUsize::new(0), metrics },
        }
    }

    fn shard(&self, endpoint: &Text) -> &RwLock<Map<Entry>> {
        &self.shards[self.hasher.hash_one(endpoint) as usize % SHARDS]
    }

    /// Whether successes of this endpoint matter.
    pub fn is_noted(&self, endpoint: &Text) -> bool {
        self.noted.load(Ordering::Relaxed) > 0 && self.read(endpoint, |entry| entry.is_some_and(|entry| score::is_noted(&entry.record)))
    }

    pub fn get(&self, endpoint: &Text) -> Option<HealthRecord> {
        self.read(endpoint, |entry| entry.map(|entry| entry.record.clone()))
    }

    pub fn read<T>(&self, endpoint: &Text, look: impl FnOnce(Option<&Entry>) -> T) -> T {
        look(self.shard(endpoint).read().expect("nothing panics while it holds this lock").get(endpoint))
    }

    /// Changes the entry of an endpoint (a new one if there was none) and tells what has become of it.
    pub fn change(&self, endpoint: &Text, now: i64, cause: Cause, change: impl FnOnce(&mut Entry)) {
        let (before, after) = {
            let mut shard = self.shard(endpoint).write().expect("nothing panics while it holds this lock");
            let entry = shard.entry(endpoint.clone()).or_default();
            let before = entry.record.clone();
            change(entry);
            self.count(score::is_noted(&before), score::is_noted(&entry.record));
            (before, entry.record.clone())
        };
        let transition = match cause {
            Cause::Here if after.version != before.version => {
                Some(Transition { endpoint: endpoint.clone(), from: before.state, record: after.clone(), at: timestamp_from_ms(now) })
            }
            Cause::Here | Cause::Elsewhere => None,
            Cause::Store(transition) => Some(transition),
        };
        if transition.is_some() || before.state != after.state || before.version != after.version {
            if let Some(transition) = &transition {
                self.outlet.metrics.health_transitions_total.with(transition.record.state.as_str()).increment(1);
            }
            self.outlet.tell(endpoint, after, transition);
        }
        self.outlet.retry();
    }

    pub fn forget(&self, endpoint: &Text) -> bool {
        let entry = self.shard(endpoint).write().expect("nothing panics while it holds this lock").remove(endpoint);
        if let Some(entry) = &entry {
            self.count(score::is_noted(&entry.record), false);
        }
        entry.is_some()
    }

    /// The endpoints whose entries `pick` chooses.
    pub fn select(&self, pick: impl Fn(&Entry) -> bool) -> Vec<(Text, Entry)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().expect("nothing panics while it holds this lock");
            found.extend(shard.iter().filter(|(_, entry)| pick(entry)).map(|(id, entry)| (id.clone(), entry.clone())));
        }
        found
    }

    pub fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    fn count(&self, before: bool, after: bool) {
        if after && !before {
            self.noted.fetch_add(1, Ordering::Relaxed);
        } else if before && !after {
            self.noted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Tells updates without ever waiting.
pub(super) struct Outlet {
    updates: Sender<Update>,
    untold: Mutex<Map<Untold>>,
    /// Length of `untold`, so that nothing is locked while there is nothing.
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

struct Untold {
    record: HealthRecord,
    transition: Option<Transition>,
}

impl Outlet {
    /// Tells again of a transition that the registry has missed.
    pub fn repeat(&self, transition: Transition) {
        let (endpoint, record) = (transition.endpoint.clone(), transition.record.clone());
        self.tell(&endpoint, record, Some(transition));
    }

    /// Only the last number matters, and it is announced again every few seconds: a full channel may swallow one.
    pub fn instances(&self, count: u32) -> bool {
        self.updates.try_send(Update::Instances(count)).is_ok()
    }

    fn tell(&self, endpoint: &Text, record: HealthRecord, transition: Option<Transition>) {
        let mut untold = self.untold.lock().expect("nothing panics while it holds this lock");
        match untold.get_mut(endpoint) {
            // Order within an endpoint: what could not be told before is overtaken by nothing.
            Some(waiting) => {
                if let Some(mut transition) = transition {
                    if let Some(earlier) = &waiting.transition {
                        transition.from = earlier.from;
                    }
                    waiting.transition = Some(transition);
                }
                waiting.record = record;
            }
            None => {
                untold.insert(endpoint.clone(), Untold { record, transition });
            }
        }
        self.drain(&mut untold);
    }

    /// Tells what could not be told before.
    pub fn retry(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.drain(&mut self.untold.lock().expect("nothing panics while it holds this lock"));
        }
    }

    fn drain(&self, untold: &mut Map<Untold>) {
        untold.retain(|endpoint, what| {
            if let Some(transition) = what.transition.take()
                && let Err(TrySendError::Full(Update::Transition(back))) = self.updates.try_send(Update::Transition(transition))
            {
                what.transition = Some(back);
                return true;
            }
            let state = Update::State { endpoint: endpoint.clone(), record: what.record.clone() };
            // A closed channel means that the daemon is going down: nobody schedules any more.
            matches!(self.updates.try_send(state), Err(TrySendError::Full(_)))
        });
        self.waiting.store(untold.len(), Ordering::Relaxed);
    }
}
