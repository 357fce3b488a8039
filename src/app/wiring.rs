//! How the stages are joined: the closures that sources and registry are given, and the gauges that are read from all of them.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
};

use tokio::{sync::mpsc, time::Instant};

use super::{REGISTRY_BEHIND, Stages, admin::Readiness, filtering, subscription};
use crate::{
    config::Config,
    delivery::RefreshTokens,
    log::{self, LogError, Start},
    model::{Agent, DeadReason, Delivery, Endpoint, HealthState, Position, Status, Text, TopicPartition},
    registry::{Change, Entry, Grant, OnChange, Registry},
    routing::table::RouteChange,
    scheduler::Control,
    sources::{self, Doomed, DoomedThing, Resolved, Wiring},
};

/// Keeps routes, scheduler and health in step with the registry.
pub fn on_change(stages: &Arc<Stages>) -> OnChange {
    let stages = Arc::clone(stages);
    Box::new(move |changes: &[Change]| {
        let has_filter = |entry: &Entry| entry.endpoint.filter.is_some();
        if changes.iter().any(|change| change.after.as_ref().is_some_and(has_filter)) {
            // Before the first event can be routed to it.
            stages.filters_seen.store(true, Ordering::Relaxed);
        }
        let is_served = |change: &&Change| change.after.as_ref().is_some_and(Entry::is_served);
        // Routed to last and not any more first: else an event could meet a scheduler that still has the endpoint suspended, and die.
        stages.routes.apply(changes.iter().filter(|change| !is_served(change)).map(|change| RouteChange::Remove(change.id.clone())));
        for change in changes {
            follow(&stages, change);
        }
        // Of several changes of one endpoint the last one counts.
        let last: HashMap<&Text, usize> = changes.iter().enumerate().map(|(index, change)| (&change.id, index)).collect();
        let served = changes.iter().enumerate().filter(|(index, change)| last[&change.id] == *index && is_served(change));
        let served = served.filter_map(|(_, change)| change.after.as_ref());
        stages.routes.apply(served.map(|entry| RouteChange::Set(Arc::clone(&entry.endpoint))));
    })
}

fn follow(stages: &Stages, change: &Change) {
    if change.is_of_agent() {
        // Only events find it: there are no requests to it.
        return;
    }
    let Some(entry) = &change.after else {
        stages.health.forget(&change.id);
        stages.journal.forget(&change.id);
        let version = change.before.as_ref().map_or(Endpoint::DECLARED, |before| before.endpoint.registry_offset);
        control(stages, Control::Removed { endpoint: change.id.clone(), version, reason: DeadReason::EndpointDeleted });
        return;
    };
    if let Some(record) = entry.health_record() {
        stages.health.restore(&change.id, record.clone());
        control(stages, Control::Health { endpoint: change.id.clone(), state: record.state });
    }
    // A new one has nothing that waits, so the scheduler learns of it with its first delivery.
    if change.before.as_ref().is_some_and(|before| before.endpoint != entry.endpoint) {
        control(stages, Control::Endpoint(Arc::clone(&entry.endpoint)));
    }
}

fn control(stages: &Stages, control: Control) {
    // The shards end before the registry does; then nothing waits any more.
    let _ = stages.shards().control_blocking(control);
}

/// Tells the scheduler the weights of the tenants, at first and whenever one changes.
pub async fn weigh_tenants(stages: Arc<Stages>, registry: Arc<Registry>) {
    let mut changed = registry.tenants_changed();
    let mut told: HashMap<Text, NonZeroU32> = HashMap::new();
    loop {
        changed.mark_unchanged();
        let weights: HashMap<Text, NonZeroU32> = registry
            .tenants()
            .into_iter()
            .map(|tenant| (tenant.id.clone(), NonZeroU32::new(tenant.weight).unwrap_or(NonZeroU32::MIN)))
            .collect();
        // One that is gone weighs what an undeclared one does.
        let gone = told.keys().filter(|id| !weights.contains_key(*id)).map(|id| (id, NonZeroU32::MIN));
        let new = weights.iter().filter(|(id, weight)| told.get(*id) != Some(*weight)).map(|(id, weight)| (id, *weight));
        for (tenant, weight) in gone.chain(new) {
            // The shards end before the registry does; then nobody has turns any more.
            let _ = stages.shards().control(Control::Weight { tenant: tenant.clone(), weight }).await;
        }
        told = weights;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Refresh tokens that were rotated lie in the registry. One that could not be kept is lost with this process: then the next one is refused the old
/// one, and asks with the client's own credentials.
pub fn refresh_tokens(stages: &Arc<Stages>, registry: &Arc<Registry>) -> RefreshTokens {
    let (stages, loading, storing) = (Arc::clone(stages), Arc::clone(registry), Arc::clone(registry));
    RefreshTokens {
        load: Box::new(move |endpoint, given| loading.refresh_token(endpoint, given)),
        store: Box::new(move |endpoint, given, token| {
            let (registry, endpoint) = (Arc::clone(&storing), endpoint.clone());
            let grant = Grant { given: given.clone(), token };
            stages.background(async move {
                if let Err(error) = registry.put_refresh_token(&endpoint, &grant).await {
                    tracing::warn!(%endpoint, %error, "the refresh token that came in place of the last one could not be kept");
                }
            });
        }),
    }
}

/// What the routes of the API ask for when an endpoint is disabled.
pub fn positions(stages: &Arc<Stages>) -> Arc<dyn Fn() -> Result<Vec<Position>, LogError> + Send + Sync> {
    let stages = Arc::clone(stages);
    Arc::new(move || reached(&stages))
}

/// How far every source partition has come: what is committed, and where the group begins on a partition that it has not come to. Blocking.
pub fn reached(stages: &Stages) -> Result<Vec<Position>, LogError> {
    let mut positions = Vec::new();
    for topic in stages.topics.events() {
        let committed: HashMap<i32, i64> =
            stages.log.committed(&stages.group, topic)?.into_iter().map(|(at, offset)| (at.partition, offset)).collect();
        for partition in stages.log.partitions(topic)? {
            let offset = match committed.get(&partition) {
                Some(offset) => *offset,
                None => begin(stages, TopicPartition { topic: Arc::clone(topic), partition })?,
            };
            positions.push(Position { topic: Arc::clone(topic), partition, offset });
        }
    }
    Ok(positions)
}

/// Where the group would begin to read a partition now.
fn begin(stages: &Stages, partition: TopicPartition) -> Result<i64, LogError> {
    match stages.start {
        Start::Earliest => Ok(stages.log.reader(partition, log::From::Earliest)?.next()),
        Start::Latest => stages.log.reader(partition, log::From::Earliest)?.end(),
        Start::At(time) => Ok(stages.log.reader(partition, log::From::Time(time))?.next()),
    }
}

/// Whether no position was ever committed: only then may the registry be a new one.
pub async fn nothing_committed(stages: &Arc<Stages>) -> anyhow::Result<bool> {
    let stages = Arc::clone(stages);
    let look = move || -> Result<bool, LogError> {
        for topic in stages.topics.events() {
            if !stages.log.committed(&stages.group, topic)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(tokio::task::spawn_blocking(look).await??)
}

/// Starts the readers of events and retries.
pub fn start_sources(
    config: &Config,
    stages: &Arc<Stages>,
    registry: &Arc<Registry>,
    failed: &mpsc::Sender<String>,
) -> Result<Vec<sources::Handle>, LogError> {
    let behind = {
        let registry = Arc::clone(registry);
        move || (registry.behind_for() > REGISTRY_BEHIND).then_some("registry_behind")
    };
    let own_fault = {
        let stages = Arc::clone(stages);
        move || stages.own_fault.stops_sources(Instant::now()).then_some("own_fault")
    };
    let events_gate = {
        let behind = behind.clone();
        move || behind().or_else(&own_fault)
    };
    // Retries go on while the fault is ours: they are probes as well.
    let events = sources::stream::spawn(
        Arc::clone(&stages.log),
        subscription(stages),
        config.source.clone(),
        wiring(stages, registry, failed, Arc::new(events_gate)),
    )?;
    let retries = sources::retry::spawn(
        Arc::clone(&stages.log),
        format!("{}.retry", stages.group),
        stages.topics.retry_prefix().to_string(),
        config.source.clone(),
        wiring(stages, registry, failed, Arc::new(behind)),
    );
    match retries {
        Ok(retries) => Ok(vec![events, retries]),
        Err(error) => {
            events.stop();
            Err(error)
        }
    }
}

fn wiring(
    stages: &Arc<Stages>,
    registry: &Arc<Registry>,
    failed: &mpsc::Sender<String>,
    gate: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>,
) -> Wiring {
    let mut routes = stages.routes.reader();
    let (resolving, delivering, dooming, respilling) = (Arc::clone(registry), Arc::clone(stages), Arc::clone(stages), Arc::clone(stages));
    let failed = failed.clone();
    Wiring {
        route: Box::new(move |event, endpoints| routes.matches(event, endpoints)),
        resolve: Arc::new(move |endpoint, offset| resolve(&resolving, endpoint, offset)),
        deliver: Box::new(move |deliveries| filtering::hand_over(&delivering, deliveries).map_err(|_| sources::Closed)),
        doom: Arc::new(move |doomed| doom(&dooming, doomed)),
        respill: Arc::new(move |delivery, wait, ack| {
            let stages = Arc::clone(&respilling);
            // What has not been filtered yet must be so when it comes again.
            let reason =
                if delivery.reason.is_none() && stages.filters_seen.load(Ordering::Relaxed) { Delivery::UNFILTERED } else { "window" };
            respilling.background(async move { stages.settler.spill(delivery, wait, ack, reason).await });
        }),
        gate,
        registry_id: registry.id(),
        failed: Box::new(move |why| {
            // Full: somebody has failed already, and the daemon is about to stop.
            let _ = failed.try_send(why);
        }),
        budget: Arc::clone(&stages.budget),
        clock: Arc::clone(&stages.clock),
        metrics: Arc::clone(&stages.metrics),
    }
}

/// What the endpoint of a delivery record stands for now.
fn resolve(registry: &Registry, endpoint: &str, known_at: i64) -> Resolved {
    if registry.offset() < known_at {
        // What is known here may be from before the endpoint was made, or enabled again.
        return Resolved::Behind;
    }
    if let Some(agent) = Agent::of_listener(endpoint) {
        return registry.listener(agent).map_or(Resolved::Dead(DeadReason::EndpointDeleted), Resolved::Deliver);
    }
    match registry.get(endpoint) {
        Some(Entry { endpoint, .. }) if endpoint.status == Status::Disabled => Resolved::Dead(DeadReason::EndpointDisabled),
        Some(entry) if entry.state() == HealthState::Inactive => Resolved::Dead(DeadReason::EndpointInactive),
        Some(entry) => Resolved::Deliver(entry.endpoint),
        None => Resolved::Dead(DeadReason::EndpointDeleted),
    }
}

fn doom(stages: &Arc<Stages>, doomed: Doomed) {
    let settling = Arc::clone(stages);
    stages.background(async move {
        let Doomed { what, reason, detail, ack } = doomed;
        match what {
            DoomedThing::Record(record) => settling.settler.dead_letter_record(&record, reason, &detail, ack).await,
            DoomedThing::Delivery(delivery) => settling.settler.dead_letter(delivery, reason, &detail, ack).await,
        }
    });
}

/// What is read from all stages before each scrape.
pub fn gauges(stages: &Arc<Stages>, registry: &Arc<Registry>, readiness: &Arc<Readiness>) -> Box<dyn Fn() + Send + Sync> {
    let (stages, registry, readiness) = (Arc::clone(stages), Arc::clone(registry), Arc::clone(readiness));
    Box::new(move || {
        let metrics = &stages.metrics;
        metrics.queued_bytes.set(stages.budget.used() as f64);
        metrics.health_connected.set(f64::from(u8::from(stages.health.is_connected())));
        metrics.instances.set(f64::from(stages.health.instances()));
        metrics.registry_offset.set(registry.offset() as f64);
        let behind = registry.behind_for();
        metrics.registry_behind_seconds.set(behind.as_secs_f64());
        match behind > REGISTRY_BEHIND {
            true => readiness.set("registry", format!("its view is {} s behind its topic", behind.as_secs())),
            false => readiness.clear("registry"),
        }
    })
}
