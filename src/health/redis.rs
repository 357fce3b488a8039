//! Health shared by a fleet, in Redis.
//!
//! `report` puts the observation into a bounded queue and returns. One task takes observations from there, many at a time, and applies
//! them by one atomic script that follows the rules of [`score`]; its answer goes into the mirror. That an endpoint has begun or
//! ceased to have a score, and every transition, is broadcast to all instances.
//!
//! # Redis away
//!
//! While Redis is away (unreachable, frozen, at start or later) or the queue is full, observations are applied to the mirror by this instance alone.
//! Nothing waits: commands have a deadline (500 ms), and only the task waits for them.
//!
//! **A command that failed is never sent again**, for nobody knows whether it was carried out. Its observations are applied to the mirror
//! instead, and as soon as Redis answers the mirror's record is joined with that of Redis (`score::join`): the later version wins, and of the same
//! version the more cautious counts. Joining twice is joining once, and joining with a record that has the observation already changes nothing,
//! so repeats are harmless without any ids of observations. A transition is told by whoever knows that it caused it; if the answer
//! was lost, the mirror has made the same transition with the same version, and that is told.
//!
//! # What is kept
//!
//! `<prefix>health:<endpoint>`: a record as text, expiring with its counters; what is lost by that is in the registry. `<prefix>instances`: who is
//! alive. Channel `<prefix>health`. If Redis is ahead of the registry for longer than [`REPEAT_AFTER`], the transition is told again, once
//! per instance: its causer may have died before it was appended.

mod config;
mod script;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use redis::{
    AsyncConnectionConfig, Client,
    aio::{MultiplexedConnection, PubSubStream},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::script::{Applied, INSTANCE_LIVES_MS, Item, Operation, Scripts};
use super::{
    Health, Update,
    mirror::{Cause, Entry, Mirror},
    score::{self, Rules},
};
use crate::{
    model::{Clock, HealthRecord, HealthState, Observation, Text, Transition, time::timestamp_from_ms},
    telemetry::Metrics,
};

/// Observations that may wait for the task; beyond that they are applied here and joined later.
const QUEUE: usize = 8_192;
/// Observations in one call of the script: about a millisecond of Redis' one thread.
const BATCH: usize = 128;
const CONNECT: Duration = Duration::from_secs(1);
const RESPONSE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an instance says that it is alive. Each hears its own voice by the broadcast; if it does not three times, the connection is dead.
const HEARTBEAT: Duration = Duration::from_millis(INSTANCE_LIVES_MS / 5);
const DEAF_AFTER: Duration = Duration::from_millis(INSTANCE_LIVES_MS * 3 / 5 + 1_000);
/// How long a transition may be missing in the registry.
pub const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Keys per step when all records are read at the beginning of a connection.
const SCAN: usize = 500;

/// Health in Redis.
pub struct RedisHealth {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mirror: Mirror,
    rules: Rules,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Report>,
    connected: AtomicBool,
    instances: AtomicU32,
    stop: CancellationToken,
    scripts: Scripts,
    /// Random, new with every start.
    instance: String,
    place: String,
}

struct Report {
    endpoint: Text,
    what: What,
    now: i64,
}

enum What {
    Observed(Observation),
    Forget,
}

impl RedisHealth {
    /// Starts the task on `runtime` and returns at once, whether Redis is there or not. Fails only if the URL is none.
    pub fn start(
        config: &Config,
        rules: Rules,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        updates: mpsc::Sender<Update>,
        runtime: &Handle,
    ) -> Result<Arc<RedisHealth>, String> {
        let client = config.client().map_err(|error| format!("redis.url {error}"))?;
        let (queue, reports) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            mirror: Mirror::new(updates, metrics.clone()),
            rules,
            clock,
            metrics,
            queue,
            connected: AtomicBool::new(false),
            instances: AtomicU32::new(1),
            stop: CancellationToken::new(),
            scripts: Scripts::new(&config.prefix),
            instance: uuid::Uuid::now_v7().to_string(),
            place: config.place(),
        });
        let task = runtime.spawn(Arc::clone(&shared).run(client, reports));
        Ok(Arc::new(RedisHealth { shared, task: Mutex::new(Some(task)) }))
    }

    /// Sends what is queued, leaves the fleet and ends the task; at most about two seconds, whatever Redis does.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        let task = self.task.lock().expect("nothing panics while it holds this lock").take();
        if let Some(task) = task
            && timeout(RESPONSE * 4, task).await.is_err()
        {
            tracing::warn!("redis did not answer while stopping: the last failure scores of this instance are lost");
        }
    }
}

impl Health for RedisHealth {
    fn report(&self, endpoint: &Text, observation: Observation) {
        let shared = &self.shared;
        if super::is_happy(observation) && !shared.mirror.is_noted(endpoint) {
            return;
        }
        let now = shared.clock.now_ms();
        let queued = self.is_connected() && {
            let report = Report { endpoint: endpoint.clone(), what: What::Observed(observation), now };
            shared.queue.try_send(report).is_ok()
        };
        if !queued {
            shared.apply_here(endpoint, observation, now);
        }
    }

    fn get(&self, endpoint: &Text) -> Option<HealthRecord> {
        self.shared.mirror.get(endpoint)
    }

    /// To be called for every health record that the registry's follower applies, also live: that is how this knows what the registry has.
    fn restore(&self, endpoint: &Text, record: HealthRecord) {
        self.shared.mirror.change(endpoint, self.shared.clock.now_ms(), Cause::Elsewhere, |entry| {
            entry.registered = entry.registered.max(record.version);
            if record.version > entry.record.version {
                entry.record = record;
                entry.unshared += 1;
            }
        });
    }

    fn forget(&self, endpoint: &Text) {
        if self.shared.mirror.forget(endpoint) && self.is_connected() {
            let report = Report { endpoint: endpoint.clone(), what: What::Forget, now: 0 };
            // A key that stays expires by itself.
            let _ = self.shared.queue.try_send(report);
        }
    }

    fn instances(&self) -> u32 {
        self.shared.instances.load(Ordering::Relaxed)
    }

    fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }
}

/// A connection for commands and one for broadcasts.
struct Link {
    commands: MultiplexedConnection,
    broadcasts: PubSubStream,
    heard: Instant,
}

/// Why a link ended.
enum End {
    Stopped,
    Failed(String),
}

impl From<redis::RedisError> for End {
    fn from(error: redis::RedisError) -> End {
        End::Failed(error.to_string())
    }
}

impl Shared {
    async fn run(self: Arc<Self>, client: Client, mut reports: mpsc::Receiver<Report>) {
        let mut pause = FIRST_PAUSE;
        let mut complained = false;
        while !self.stop.is_cancelled() {
            let end = match self.connect(&client).await {
                Err(end) => end,
                Ok(mut link) => {
                    tracing::info!(redis = %self.place, "redis answers: failure scores are shared");
                    (pause, complained) = (FIRST_PAUSE, false);
                    self.set_connected(true);
                    let end = self.serve(&mut link, &mut reports).await;
                    self.set_connected(false);
                    end
                }
            };
            if let End::Failed(error) = end {
                self.metrics.health_errors_total.increment(1);
                if !complained {
                    tracing::warn!(redis = %self.place, %error, "redis is away: going on with this instance's own counters until it answers");
                    complained = true;
                }
            }
            while let Ok(report) = reports.try_recv() {
                if let What::Observed(observation) = report.what {
                    self.apply_here(&report.endpoint, observation, report.now);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.stop.cancelled() => {}
            }
        }
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }

    async fn connect(&self, client: &Client) -> Result<Link, End> {
        let late = |_| End::Failed("no answer in time".to_owned());
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(RESPONSE));
        let commands = timeout(CONNECT * 2, client.get_multiplexed_async_connection_with_config(&config)).await.map_err(late)??;
        let mut broadcasts = timeout(CONNECT * 2, client.get_async_pubsub()).await.map_err(late)??;
        timeout(RESPONSE, broadcasts.subscribe(self.scripts.channel())).await.map_err(late)??;
        let mut link = Link { commands, broadcasts: broadcasts.into_on_message(), heard: Instant::now() };
        // After the subscription, so that nothing is missed in between.
        self.read_all(&mut link).await?;
        self.share(&mut link).await?;
        let count = self.scripts.announce(&mut link.commands, &self.instance).await?;
        self.set_instances(count);
        Ok(link)
    }

    async fn serve(&self, link: &mut Link, reports: &mut mpsc::Receiver<Report>) -> End {
        let mut beats = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let done = tokio::select! {
                _ = reports.recv_many(&mut batch, BATCH) => self.send(link, &mut batch).await,
                message = link.broadcasts.next() => match message {
                    Some(message) => {
                        link.heard = Instant::now();
                        self.hear(message.get_payload_bytes());
                        Ok(())
                    }
                    None => Err(End::Failed("the broadcast connection was closed".to_owned())),
                },
                _ = beats.tick() => self.beat(link).await,
                () = self.stop.cancelled() => return self.leave(link, reports).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn leave(&self, link: &mut Link, reports: &mut mpsc::Receiver<Report>) -> End {
        reports.close();
        let mut batch = Vec::new();
        while reports.recv_many(&mut batch, BATCH).await > 0 {
            if let Err(end) = self.send(link, &mut batch).await {
                return end;
            }
        }
        match self.scripts.leave(&mut link.commands, &self.instance).await {
            Ok(()) => End::Stopped,
            Err(error) => error.into(),
        }
    }

    /// Applies the observations of a batch by the script. If that fails they are applied here.
    async fn send(&self, link: &mut Link, batch: &mut Vec<Report>) -> Result<(), End> {
        let (mut items, mut forgotten) = (Vec::with_capacity(batch.len()), Vec::new());
        for Report { endpoint, what, now } in batch.drain(..) {
            match what {
                What::Observed(observation) => {
                    let ours = self.mirror.get(&endpoint).unwrap_or_default();
                    items.push(Item { endpoint, operation: Operation::Observe(observation), now, ours });
                }
                What::Forget => forgotten.push(self.scripts.record_key(&endpoint)),
            }
        }
        let mut result = Ok(());
        if !items.is_empty() {
            match self.scripts.apply(&mut link.commands, &items, &self.rules).await {
                Ok(applied) => items.iter().zip(applied).for_each(|(item, applied)| self.take(item, applied)),
                Err(error) => {
                    for Item { endpoint, operation, now, .. } in &items {
                        if let Operation::Observe(observation) = operation {
                            self.apply_here(endpoint, *observation, *now);
                        }
                    }
                    result = Err(error.into());
                }
            }
        }
        if result.is_ok() && !forgotten.is_empty() {
            redis::cmd("DEL").arg(&forgotten).exec_async(&mut link.commands).await?;
        }
        result
    }

    fn apply_here(&self, endpoint: &Text, observation: Observation, now: i64) {
        self.mirror.change(endpoint, now, Cause::Here, |entry| {
            entry.record = score::apply(std::mem::take(&mut entry.record), observation, now, &self.rules);
            entry.unshared += 1;
        });
    }

    /// Takes over what the store made of an observation of ours.
    fn take(&self, item: &Item, applied: Applied) {
        let Applied { record, from } = applied;
        let cause = self.cause(&item.endpoint, from, &record, item.now);
        self.mirror.change(&item.endpoint, item.now, cause, |entry| {
            // What was changed here meanwhile is joined soon, and by the store.
            if entry.unshared == 0 && record.version >= entry.record.version {
                entry.record = record;
            }
        });
    }

    fn cause(&self, endpoint: &Text, from: Option<HealthState>, record: &HealthRecord, now: i64) -> Cause {
        from.map_or(Cause::Elsewhere, |from| {
            Cause::Store(Transition { endpoint: endpoint.clone(), from, record: record.clone(), at: timestamp_from_ms(now) })
        })
    }

    /// Joins what was changed here alone with what the store has.
    async fn share(&self, link: &mut Link) -> Result<(), End> {
        let unshared = self.mirror.select(|entry| entry.unshared > 0);
        for batch in unshared.chunks(BATCH) {
            let now = self.clock.now_ms();
            let item = |(endpoint, entry): &(Text, Entry)| Item {
                endpoint: endpoint.clone(),
                operation: Operation::Join,
                now,
                ours: entry.record.clone(),
            };
            let items: Vec<Item> = batch.iter().map(item).collect();
            let applied = self.scripts.apply(&mut link.commands, &items, &self.rules).await?;
            for ((endpoint, sent), Applied { record, from }) in batch.iter().zip(applied) {
                let cause = self.cause(endpoint, from, &record, now);
                self.mirror.change(endpoint, now, cause, |entry| {
                    if entry.unshared == sent.unshared {
                        entry.unshared = 0;
                        entry.record = record;
                    }
                });
            }
        }
        Ok(())
    }

    /// Reads all records, at the beginning of a connection: broadcasts may have been missed.
    async fn read_all(&self, link: &mut Link) -> Result<(), End> {
        let pattern = self.scripts.record_key("*");
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN);
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut link.commands).await?;
            if !keys.is_empty() {
                let records: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query_async(&mut link.commands).await?;
                for (key, record) in keys.iter().zip(records) {
                    if let (Some(endpoint), Some(record)) = (self.scripts.endpoint_of(key), record.as_deref().and_then(script::decode)) {
                        self.learn(&endpoint.into(), record);
                    }
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn hear(&self, message: &[u8]) {
        let text = String::from_utf8_lossy(message);
        let mut parts = text.splitn(3, '\n');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("record"), Some(endpoint), Some(record)) => {
                if let Some(record) = script::decode(record) {
                    self.learn(&endpoint.into(), record);
                }
            }
            (Some("instances"), Some(count), None) => {
                if let Ok(count) = count.parse() {
                    self.set_instances(count);
                }
            }
            _ => tracing::debug!(message = %text, "foreign message on the health channel"),
        }
    }

    /// A record that the store has. Broadcasts come later than answers: of the same version only news about whether there is a score counts.
    fn learn(&self, endpoint: &Text, record: HealthRecord) {
        let is_news = |entry: &Entry| {
            record.version > entry.record.version
                || (record.version == entry.record.version && score::is_noted(&record) != score::is_noted(&entry.record))
        };
        let known = self.mirror.read(endpoint, |entry| match entry {
            Some(entry) => entry.unshared > 0 || !is_news(entry),
            None => record == HealthRecord::default(),
        });
        if known {
            return;
        }
        self.mirror.change(endpoint, self.clock.now_ms(), Cause::Elsewhere, |entry| {
            if entry.unshared == 0 && is_news(entry) {
                entry.record = record.clone();
            }
        });
    }

    async fn beat(&self, link: &mut Link) -> Result<(), End> {
        if link.heard.elapsed() > DEAF_AFTER {
            return Err(End::Failed("nothing was heard on the broadcast connection".to_owned()));
        }
        let count = self.scripts.announce(&mut link.commands, &self.instance).await?;
        self.set_instances(count);
        self.share(link).await?;
        self.repeat_missed();
        self.mirror.outlet().retry();
        Ok(())
    }

    /// Tells again, once, of transitions that the registry still does not know.
    fn repeat_missed(&self) {
        let before = self.clock.now_ms().saturating_sub(REPEAT_AFTER.as_millis() as i64);
        let is_missed = |entry: &Entry| {
            let version = entry.record.version;
            version > entry.registered && version > entry.repeated && entry.record.since < before
        };
        for (endpoint, entry) in self.mirror.select(is_missed) {
            let record = entry.record;
            tracing::info!(%endpoint, version = record.version, "the registry has missed a change of health, telling it again");
            self.mirror.change(&endpoint, record.since, Cause::Elsewhere, |entry| entry.repeated = record.version);
            // Where it came from went with whoever caused it: the usual way is told.
            let from = match record.state {
                HealthState::Degraded => HealthState::Active,
                HealthState::Active | HealthState::Inactive => HealthState::Degraded,
            };
            let at = timestamp_from_ms(record.since);
            self.mirror.outlet().repeat(Transition { endpoint, from, record, at });
        }
    }

    fn set_instances(&self, count: u32) {
        let count = count.max(1);
        let before = self.instances.swap(count, Ordering::Relaxed);
        // A full channel: the next announcement finds the old number and tells again.
        if before != count && !self.mirror.outlet().instances(count) {
            self.instances.store(before, Ordering::Relaxed);
        }
    }
}
