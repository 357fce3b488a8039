//! The registry: endpoints, tokens and tenants, as the materialised view of a compacted topic.
//!
//! # Contract
//!
//! 1. A started registry has read its topic to the end ([`Registry::start`] returns then) and follows it. [`Registry::behind_for`] says how
//!    long it has not been at the end; the sources stop while that is too long.
//! 2. A write is answered after this instance has applied it, its stages included: `on_change` was called before.
//! 3. Later offset wins, for everybody alike. Writers that meet find out and put it right (see `write`).
//! 4. What a person configures and what health decides have keys of their own and never overwrite each other.
//! 5. The topic has an id, made with it. A registry that is empty, though deliveries were committed before, or that belongs to another
//!    key stops the daemon: the alternative would be to acknowledge every event as "matches nothing".
//! 6. Secrets are sealed before they leave this module ([`seal`]); of API keys only hashes are stored.
//!
//! # Why a topic
//!
//! The log is there already, durable and shared, and every instance needs every endpoint in memory anyhow: a database beside it would be one
//! more thing to run, to keep, and to be out of step with. There is no cache with a time-to-live: a change is everywhere in milliseconds.
//!
//! Endpoints and tenants that the configuration declares lie beside those of the topic: the same on every instance, read-only in the API.

mod grant;
pub mod private_file;
pub mod seal;
pub mod spec;
mod view;
mod write;

mod criteria;
mod follow;
mod record;
mod uses;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use follow::OnChange;
pub use grant::Grant;
pub use record::{StoredHealth, Suspension};
pub use seal::Key;
pub use spec::EndpointSpec;
pub use view::{Change, Entry};
pub use write::{Draft, WriteError, hash_of_key};

use self::{
    follow::Follower,
    record::{Identity, RecordKey},
    seal::SealError,
    view::{States, View},
    write::Pending,
};
use crate::{
    log::{From as ReadFrom, Log, LogError},
    model::{Agent, Clock, Endpoint, Rate, Secret, Text, Timestamp, TopicPartition, token::Token},
    telemetry::Metrics,
};

/// The registry has one partition: its order is what decides between writers.
const PARTITION: i32 = 0;

/// `[registry]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Base64 of 32 bytes, the same on every instance. Standalone makes one in its data directory when it is absent.
    #[serde(deserialize_with = "secret")]
    pub key: Option<Secret>,
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Some(Secret::new(String::deserialize(from)?)))
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let text = self.key.as_ref().map(|key| key.expose_str().unwrap_or_default());
        text.and_then(|text| Key::parse(text).err()).map(|wrong| ("key", wrong)).into_iter().collect()
    }

    /// The configured key, or the one of the data directory. See [`Key::load`]. Blocking.
    pub fn load_key(&self, data_directory: Option<&Path>, log: &dyn Log, topic: &Arc<str>) -> Result<Key, String> {
        let is_new = || {
            let mut reader = log.reader(TopicPartition { topic: Arc::clone(topic), partition: PARTITION }, ReadFrom::Earliest)?;
            Ok(reader.next() >= reader.end()?)
        };
        Key::load(self.key.as_ref(), data_directory, is_new)
    }
}

/// A customer of the installation. One that nobody declared exists with the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tenant {
    pub id: Text,
    /// What it has booked, such as `ENTERPRISE`.
    pub account_roles: Vec<String>,
    /// Its share of the scheduler's turns beside other tenants, 1 to 1,000.
    pub weight: u32,
    /// Events that its tokens may hand in over HTTP, per instance; none: unlimited.
    pub rate: Option<Rate>,
    /// From the configuration file: read-only in the API.
    #[serde(skip)]
    pub declared: bool,
}

impl Default for Tenant {
    fn default() -> Tenant {
        Tenant { id: Text::new(), account_roles: Vec::new(), weight: 1, rate: None, declared: false }
    }
}

/// What a registry is made of.
pub struct Options {
    pub topic: Arc<str>,
    pub key: Key,
    /// Checked endpoints of the configuration file.
    pub declared: Vec<Endpoint>,
    pub tenants: Vec<Tenant>,
    /// Whether an empty topic may become a new registry: only while no position of a source was ever committed.
    pub may_be_new: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(
        "the endpoint `{0}` is declared in the configuration and is in the registry too: rename the declared one, \
         or take it out, start, and delete the other by the API"
    )]
    Declared(Text),
    #[error(
        "the registry topic `{0}` is empty, though deliveries were made with a registry before: every event would match nothing. \
         Restore the topic, name the right one in `topics.registry`, or begin with a new consumer group"
    )]
    Lost(Arc<str>),
    #[error("the topic `{0}` holds records but no registry: name another one in `topics.registry`")]
    Foreign(Arc<str>),
    #[error("the registry could not be made: {0}")]
    Make(WriteError),
    #[error("the registry was stopped while it was being read")]
    Stopped,
}

/// What the follower and the registry share.
struct Shared {
    view: RwLock<View>,
    key: Key,
    pending: Pending,
    /// The offset up to which the view is applied.
    applied: AtomicI64,
    /// Grows with every batch of changes, for those who wait for one.
    changed: tokio::sync::watch::Sender<u64>,
    /// See [`View::tenants_version`].
    tenants_version: tokio::sync::watch::Sender<u64>,
    /// What the configuration declares, if it was read again and the follower has not taken it over.
    declaration: Mutex<Option<(Vec<Endpoint>, Vec<Tenant>)>>,
    /// When the view was last known to be at the end.
    caught_up: Mutex<Option<Instant>>,
    stopped: AtomicBool,
    /// The follower's thread is over, well or by a panic.
    ended: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn behind_for(&self) -> Duration {
        self.caught_up.lock().expect("nothing panics while it holds the time").map_or(Duration::MAX, |at| at.elapsed())
    }
}

/// Says that the follower's thread is over, also when it unwinds.
struct Followed(Arc<Shared>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// See the module. Stops following when it is dropped.
pub struct Registry {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    shared: Arc<Shared>,
    locks: Vec<tokio::sync::Mutex<()>>,
    locks_by: foldhash::fast::RandomState,
}

impl Registry {
    /// Reads the registry to its end and follows it from then on. `on_change` is called on the follower's thread, first with all
    /// endpoints at once, then with batches of changes. While the log cannot be read it is waited for.
    pub async fn start(
        log: Arc<dyn Log>,
        options: Options,
        on_change: OnChange,
        metrics: Arc<Metrics>,
        clock: &dyn Clock,
    ) -> Result<Arc<Registry>, RegistryError> {
        let Options { topic, key, declared, tenants, may_be_new } = options;
        let shared = Arc::new(Shared {
            view: RwLock::new(View::with(declared, tenants)),
            key,
            pending: Pending::new(),
            applied: AtomicI64::new(-1),
            changed: tokio::sync::watch::Sender::new(0),
            tenants_version: tokio::sync::watch::Sender::new(0),
            declaration: Mutex::new(None),
            caught_up: Mutex::new(None),
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            metrics,
        });
        let registry = Registry {
            log: Arc::clone(&log),
            topic: Arc::clone(&topic),
            shared: Arc::clone(&shared),
            locks: std::iter::repeat_with(Default::default).take(write::LOCKS).collect(),
            locks_by: foldhash::fast::RandomState::default(),
        };
        let (loaded, read) = oneshot::channel();
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                let _followed = Followed(Arc::clone(&shared));
                let partition = TopicPartition { topic, partition: PARTITION };
                match log.reader(partition, ReadFrom::Earliest) {
                    Ok(reader) => Follower { shared, reader, on_change, states: States::default() }.run(loaded),
                    Err(error) => drop(loaded.send(Err(error.into()))),
                }
            })
            .expect("a thread can be made at start");
        let started = Instant::now();
        let records = read.await.unwrap_or(Err(RegistryError::Stopped))?;
        registry.identify(records, may_be_new, clock).await?;
        let endpoints = registry.view().len();
        tracing::info!(id = %registry.id(), records, endpoints, elapsed = ?started.elapsed(), "the registry is read");
        Ok(Arc::new(registry))
    }

    /// Whether the thread that applies the topic still runs.
    pub fn is_followed(&self) -> bool {
        !self.shared.ended.load(Ordering::Acquire)
    }

    /// Makes sure that the topic has an id and is sealed with our key; makes the id of a new topic.
    async fn identify(&self, records: u64, may_be_new: bool, clock: &dyn Clock) -> Result<(), RegistryError> {
        if self.view().identity.is_none() {
            if records > 0 {
                return Err(RegistryError::Foreign(Arc::clone(&self.topic)));
            }
            if !may_be_new {
                return Err(RegistryError::Lost(Arc::clone(&self.topic)));
            }
            let id = Text::from(uuid::Uuid::new_v4().to_string());
            let identity = Identity { id, key: self.shared.key.id().to_owned(), created_at: clock.now() };
            // If two instances make it at once, the later one is the id for both.
            self.append(RecordKey::Registry, Some(record::encode(&identity))).await.map_err(RegistryError::Make)?;
        }
        let view = self.view();
        let identity = view.identity.as_ref().ok_or_else(|| RegistryError::Foreign(Arc::clone(&self.topic)))?;
        Ok(self.shared.key.check_id(&identity.key)?)
    }

    /// The id of the registry topic, made with it.
    pub fn id(&self) -> Text {
        self.view().identity.as_ref().map(|identity| identity.id.clone()).unwrap_or_default()
    }

    /// The offset up to which the registry is applied here; -1 while there is none.
    pub fn offset(&self) -> i64 {
        self.shared.applied.load(Ordering::Acquire)
    }

    /// The offset of the last record in the view: what was read of it just now was known there. The stages may not have come to it yet, see
    /// [`Registry::offset`].
    pub fn known_at(&self) -> i64 {
        self.view().offset.unwrap_or(Endpoint::DECLARED)
    }

    /// How long the view has not been known to be at the end of its topic. Up to about a second is normal: the end is asked for that often.
    pub fn behind_for(&self) -> Duration {
        self.shared.behind_for()
    }

    /// Takes over another declaration of endpoints and tenants, within about 200 ms. What is registered in the topic stays.
    pub fn declare(&self, endpoints: Vec<Endpoint>, tenants: Vec<Tenant>) {
        *self.shared.declaration.lock().expect("nothing panics while it holds this lock") = Some((endpoints, tenants));
    }

    pub fn get(&self, id: &str) -> Option<Entry> {
        self.view().entry(id)
    }

    /// Waits until the endpoint is as wanted; none if it is not within `deadline`, or is gone.
    pub async fn wait_for(&self, id: &str, deadline: Duration, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            loop {
                let entry = self.get(id)?;
                if wanted(&entry) {
                    return Some(entry);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(deadline, wait).await.ok().flatten()
    }

    /// At most `limit` endpoints of a tenant (none: of all) in the order of their ids, from behind `after` on.
    pub fn endpoints(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Entry> {
        self.view().page(tenant, after, limit)
    }

    pub fn token(&self, id: &str) -> Option<Arc<Token>> {
        self.view().token(id)
    }

    /// When a token was used last, as far as this instance knows: other instances tell it at most once an hour.
    pub fn last_used(&self, id: &str) -> Option<Timestamp> {
        self.view().uses(id)?.last()
    }

    /// Notes that a token is used. True: it is time to store that, by [`Registry::record_use`], which is nothing to wait for.
    pub fn note_use(&self, id: &str, now: Timestamp) -> bool {
        let uses = self.view().uses(id);
        uses.is_some_and(|uses| uses.note(now))
    }

    /// Like [`Registry::endpoints`].
    pub fn tokens(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Token>> {
        self.view().tokens(tenant, after, limit)
    }

    /// The token that a key belongs to. Keys are found by their hash, so the time it takes tells nothing about other keys.
    pub fn authenticate(&self, key: &str) -> Option<Arc<Token>> {
        self.view().token_by_key_hash(&hash_of_key(key))
    }

    /// A tenant; one that nobody declared has the defaults.
    pub fn tenant(&self, id: &str) -> Arc<Tenant> {
        self.view().tenant(id).unwrap_or_else(|| Arc::new(Tenant { id: id.into(), ..Tenant::default() }))
    }

    pub fn agent(&self, id: &str) -> Option<Arc<Agent>> {
        self.view().agent(id).map(|(agent, _)| agent)
    }

    /// Like [`Registry::endpoints`].
    pub fn agents(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Agent>> {
        self.view().agents(tenant, after, limit)
    }

    /// An agent that tells this endpoint.
    pub fn agent_of(&self, endpoint: &str) -> Option<Arc<Agent>> {
        self.view().agent_of(endpoint)
    }

    /// What stands for an agent in the route table; none if it is suspended or gone.
    pub fn listener(&self, agent: &str) -> Option<Arc<Endpoint>> {
        self.view().listener(agent)
    }

    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.view().tenants()
    }

    /// Wakes when a tenant was changed: by the API of any instance, or by another declaration.
    pub fn tenants_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.tenants_version.subscribe()
    }

    /// Stops following. Writes fail from then on.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.shared.view.read().expect("nothing panics while it holds the view")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
