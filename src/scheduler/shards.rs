//! The shards of an instance: one thread each, and the way to them.

use std::{
    hash::BuildHasher,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use foldhash::fast::FixedState;
use tokio::{
    sync::{mpsc, mpsc::error::SendError},
    time::Instant,
};

use super::{Config, Control, Dispatch, Finished, Hooks, Message, Shard, limits::SpillBudget, run};
use crate::{
    model::{Budget, Routed},
    telemetry::Metrics,
};

/// Batches that may wait for a shard. A shard takes a batch in microseconds, whatever its endpoints do, so a full inbox means that the machine is
/// busy, and then the source shall wait.
const INBOX: usize = 64;

/// Only the same endpoint must come to the same shard; nobody gains by choosing ids.
const PLACE: FixedState = FixedState::with_seed(0x706f_7374);

/// The shards have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler has ended")]
pub struct Closed;

/// A handle to the shards of an instance.
pub struct Shards {
    inboxes: Vec<mpsc::Sender<Message>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shards {
    /// Starts the threads. `hooks` is called once on each of them, with the number of the shard and inside of its runtime, to make what the shard
    /// delivers with: it need not be `Send`.
    pub fn start<D, F>(
        config: &Config,
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
        hooks: impl Fn(usize) -> Hooks<D> + Send + Sync + 'static,
    ) -> std::io::Result<Shards>
    where
        D: Fn(Dispatch) -> F + 'static,
        F: Future<Output = Finished> + 'static,
    {
        let hooks = Arc::new(hooks);
        let count = config.shard_count();
        metrics.slots.set(f64::from(config.slots));
        let spills = Arc::new(SpillBudget::new(config.spill_rate.per_second(), config.spill_per_answer, Instant::now()));
        let mut shards = Shards { inboxes: Vec::with_capacity(count), threads: Mutex::default() };
        for index in 0..count {
            let (inbox, messages) = mpsc::channel(INBOX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (config, budget, metrics, hooks) = (config.clone(), Arc::clone(budget), Arc::clone(metrics), Arc::clone(&hooks));
            let spills = Arc::clone(&spills);
            let thread = thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                runtime.block_on(async {
                    let shard = Shard::new(&config, index, count, budget, spills, Instant::now());
                    run(shard, messages, hooks(index), metrics).await;
                });
            })?;
            shards.inboxes.push(inbox);
            shards.threads.get_mut().expect("nobody else has it yet").push(thread);
        }
        Ok(shards)
    }

    /// Hands deliveries over, each to the shard of its endpoint; waits while an inbox is full. Not to be called from async code.
    /// Deliveries that a shard cannot take because it has ended are let go of: their source reads them again after a restart.
    pub fn send(&self, deliveries: Vec<Routed>) -> Result<(), Closed> {
        if let [inbox] = self.inboxes.as_slice() {
            return hand_over(inbox, deliveries);
        }
        let mut parts: Vec<Vec<Routed>> = Vec::new();
        parts.resize_with(self.inboxes.len(), || Vec::with_capacity(deliveries.len() / self.inboxes.len() + 1));
        for routed in deliveries {
            parts[self.place(&routed.endpoint.id)].push(routed);
        }
        let mut result = Ok(());
        for (inbox, part) in self.inboxes.iter().zip(parts) {
            if !part.is_empty() {
                result = hand_over(inbox, part).and(result);
            }
        }
        result
    }

    /// Tells the shard of the endpoint, or all shards what concerns all. Waits while an inbox is full.
    pub async fn control(&self, control: Control) -> Result<(), Closed> {
        let mut result = Ok(());
        for inbox in self.concerned(&control) {
            result = inbox.send(Message::Control(control.clone())).await.map_err(|_| Closed).and(result);
        }
        result
    }

    /// The same for threads; not to be called from async code.
    pub fn control_blocking(&self, control: Control) -> Result<(), Closed> {
        let mut result = Ok(());
        for inbox in self.concerned(&control) {
            result = inbox.blocking_send(Message::Control(control.clone())).map_err(|_| Closed).and(result);
        }
        result
    }

    /// Ends the shards when they have drained, and waits until their threads have ended; [`Control::Drain`] comes first. Blocking. False if one
    /// of them has panicked.
    pub fn end(&self) -> bool {
        // One that has ended already needs not be told.
        let _ = self.control_blocking(Control::End);
        let threads = std::mem::take(&mut *self.threads.lock().expect("nothing panics while it holds this lock"));
        threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count() == 0
    }

    /// Whether all shards still run. One that has ended without being drained is a bug, and deliveries of its endpoints stand still.
    pub fn are_alive(&self) -> bool {
        self.inboxes.iter().all(|inbox| !inbox.is_closed())
    }

    fn concerned(&self, control: &Control) -> &[mpsc::Sender<Message>] {
        let id = match control {
            Control::Endpoint(endpoint) => &endpoint.id,
            Control::Removed { endpoint: id, .. } | Control::Health { endpoint: id, .. } => id,
            Control::Instances(_) | Control::Weight { .. } | Control::Drain { .. } | Control::End => return &self.inboxes,
        };
        std::slice::from_ref(&self.inboxes[self.place(id)])
    }

    fn place(&self, id: &str) -> usize {
        (PLACE.hash_one(id) % self.inboxes.len() as u64) as usize
    }
}

fn hand_over(inbox: &mpsc::Sender<Message>, deliveries: Vec<Routed>) -> Result<(), Closed> {
    inbox.blocking_send(Message::Deliver(deliveries)).map_err(|SendError(message)| {
        if let Message::Deliver(deliveries) = message {
            deliveries.into_iter().for_each(|routed| routed.ack.abandon());
        }
        Closed
    })
}
