//! What health tells this instance: transitions it caused go to the registry and are told as events; changes of state anywhere go to the
//! scheduler.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Stages, tell, wiring};
use crate::{
    health::Update,
    model::{HealthState, Position, Text, Transition},
    scheduler::Control,
    telemetry::Trouble,
};

/// Between two tries to write a transition to the registry.
const PAUSE: Duration = Duration::from_secs(1);

/// Transitions that wait to be recorded; beyond that, updates wait.
const UNRECORDED: usize = 4_096;

/// Endpoints whose transitions are recorded at the same time: the log puts what comes together into one write.
const AT_ONCE: usize = 64;

/// Runs until health has ended. The scheduler hears of every change at once; recording takes an append, and goes on beside it: two thousand
/// endpoints that die in the same second must not keep from the scheduler that another one has recovered.
pub async fn run(stages: Arc<Stages>, mut updates: mpsc::Receiver<Update>) {
    let (unrecorded, transitions) = mpsc::channel(UNRECORDED);
    tokio::spawn(record(Arc::clone(&stages), transitions));
    while let Some(update) = updates.recv().await {
        match update {
            Update::Transition(transition) => {
                let (endpoint, state) = (transition.endpoint.clone(), transition.record.state);
                let _ = stages.shards().control(Control::Health { endpoint, state }).await;
                if unrecorded.send(transition).await.is_err() {
                    return;
                }
            }
            Update::State { endpoint, record } => {
                // The shards end before health does.
                let _ = stages.shards().control(Control::Health { endpoint, state: record.state }).await;
            }
            Update::Instances(count) => {
                let _ = stages.shards().control(Control::Instances(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN))).await;
            }
        }
    }
}

/// Records transitions, those of one endpoint in their order.
async fn record(stages: Arc<Stages>, mut transitions: mpsc::Receiver<Transition>) {
    let (mut batch, trouble) = (Vec::new(), Trouble::default());
    while transitions.recv_many(&mut batch, UNRECORDED).await > 0 {
        let mut endpoints: HashMap<Text, Vec<Transition>> = HashMap::new();
        for transition in batch.drain(..) {
            endpoints.entry(transition.endpoint.clone()).or_default().push(transition);
        }
        let (stages, trouble) = (&stages, &trouble);
        let each = |transitions: Vec<Transition>| async move {
            for transition in transitions {
                caused(stages, transition, trouble).await;
            }
        };
        futures_util::stream::iter(endpoints.into_values()).for_each_concurrent(AT_ONCE, each).await;
    }
}

async fn caused(stages: &Arc<Stages>, transition: Transition, trouble: &Trouble) {
    let Some(registry) = stages.registry() else { return };
    let state = transition.record.state;
    let reason = transition.record.reason.clone().unwrap_or_default();
    let (endpoint, from) = (&transition.endpoint, transition.from.as_str());
    match state {
        HealthState::Active | HealthState::Degraded => {
            tracing::info!(%endpoint, from, to = state.as_str(), %reason, "endpoint health changed")
        }
        HealthState::Inactive => tracing::warn!(
            %endpoint, from, to = state.as_str(), %reason,
            "endpoint health changed: nothing is delivered to it until somebody enables it (`posthaste endpoint enable ID --recover`)"
        ),
    }
    let Some(entry) = registry.get(&transition.endpoint) else { return };
    let positions = match state {
        HealthState::Inactive => positions(stages).await,
        HealthState::Active | HealthState::Degraded => Vec::new(),
    };
    while let Err(error) = registry.record_transition(&transition, positions.clone()).await {
        if !error.is_temporary() {
            tracing::warn!(endpoint = %transition.endpoint, %error, "transition not recorded");
            return;
        }
        if trouble.begins(Instant::now()) {
            tracing::warn!(endpoint = %transition.endpoint, %error, "transitions cannot be recorded yet, trying on");
        }
        tokio::time::sleep(PAUSE).await;
    }
    if trouble.ends(Instant::now()) {
        tracing::info!("transitions are recorded again");
    }
    tell::transition(stages, &transition, &entry.endpoint).await;
}

/// Where the sources are: from here on a suspended endpoint misses events.
async fn positions(stages: &Arc<Stages>) -> Vec<Position> {
    let reading = Arc::clone(stages);
    match tokio::task::spawn_blocking(move || wiring::reached(&reading)).await {
        Ok(Ok(positions)) => positions,
        Ok(Err(error)) => {
            tracing::warn!(%error, "positions at suspension not known; recovery begins at its time instead");
            Vec::new()
        }
        // The runtime is ending.
        Err(_) => Vec::new(),
    }
}
