//! The loop around a shard: it gathers what happens, tells the shard, and does what the shard says.
//!
//! A request runs in a local task. When it ends, the same task tells the shard and goes on with the next request if there is one, so under load
//! nothing is spawned, sent or woken per delivery; the loop itself only takes messages and keeps the time.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    sync::Arc,
};

use tokio::{
    sync::{Notify, mpsc},
    task::{LocalSet, spawn_local},
    time::{Instant, sleep_until},
};

use super::{Control, Dispatch, Doomed, Finished, Lane, Message, Shard, Slot, Spill, Waiting, shard::LaneCount};
use crate::telemetry::Metrics;

/// Messages that are taken at once, before the requests they lead to are begun.
const MESSAGES: usize = 16;

/// How often a shard that has drained looks for what must leave.
const LINGER: std::time::Duration = std::time::Duration::from_millis(20);

/// What a shard is joined to the other stages by. They are called on its thread and must not block it; what `spill` and `doom` begin has to live
/// outside of the shard's runtime, because they are also called when that ends. All three come with deliveries whose acknowledgements are live or
/// not: whoever settles looks.
pub struct Hooks<D> {
    /// `Fn(Dispatch) -> impl Future<Output = Finished>`: makes the request and settles the delivery.
    pub deliver: D,
    pub spill: Box<dyn Fn(Vec<Spill>)>,
    pub doom: Box<dyn Fn(Vec<Doomed>)>,
}

struct Core<D> {
    shard: RefCell<Shard>,
    hooks: Hooks<D>,
    metrics: Arc<Metrics>,
    /// Slots of tasks that ended without saying so.
    lost: RefCell<Vec<Slot>>,
    /// When the loop wakes up by itself.
    armed: Cell<Option<Instant>>,
    /// Wakes the loop before that.
    wake: Notify,
}

/// Runs a shard until it is told to drain and to end, or all senders of `inbox` are gone, which means the same with spilling and without waiting.
pub async fn run<D, F>(shard: Shard, mut inbox: mpsc::Receiver<Message>, hooks: Hooks<D>, metrics: Arc<Metrics>)
where
    D: Fn(Dispatch) -> F + 'static,
    F: Future<Output = Finished> + 'static,
{
    let core =
        Rc::new(Core { shard: RefCell::new(shard), hooks, metrics, lost: RefCell::default(), armed: Cell::default(), wake: Notify::new() });
    let tasks = LocalSet::new();
    let mut told = [LaneCount::default(); 2];
    let is_ended = tasks.run_until(core.serve(&mut inbox, &mut told)).await;
    // What still runs is cut off here: each request that is dropped gives its delivery back.
    drop(tasks);
    if !is_ended {
        core.linger(&mut inbox, &mut told).await;
    }
    // What was sent before the inbox closed is taken, so it comes out like all that waits.
    inbox.close();
    while let Some(message) = inbox.recv().await {
        core.take(Instant::now(), message);
    }
    core.end(told);
}

impl<D, F> Core<D>
where
    D: Fn(Dispatch) -> F + 'static,
    F: Future<Output = Finished> + 'static,
{
    /// Until the drain is over; true if nothing is to be waited for after it.
    async fn serve(self: &Rc<Self>, inbox: &mut mpsc::Receiver<Message>, told: &mut [LaneCount; 2]) -> bool {
        let mut is_ended = false;
        let mut messages = Vec::with_capacity(MESSAGES);
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut deadline = None;
        loop {
            let wakeup = self.shard.borrow().next_wakeup().into_iter().chain(deadline).min();
            if let Some(at) = wakeup
                && self.armed.replace(wakeup) != wakeup
            {
                timer.as_mut().reset(at);
            }
            tokio::select! {
                count = inbox.recv_many(&mut messages, MESSAGES) => {
                    if count == 0 {
                        let drain = Control::Drain { waiting: Waiting::Spill, deadline: Instant::now() };
                        messages.push(Message::Control(drain));
                        is_ended = true;
                    }
                }
                () = timer.as_mut(), if wakeup.is_some() => self.armed.set(None),
                () = self.wake.notified() => {}
            }
            let now = Instant::now();
            for message in messages.drain(..) {
                match &message {
                    Message::Control(Control::Drain { deadline: at, .. }) => deadline = Some(*at),
                    Message::Control(Control::End) => is_ended = true,
                    Message::Control(_) | Message::Deliver(_) => {}
                }
                self.take(now, message);
            }
            self.free_lost(now);
            self.shard.borrow_mut().sweep(now);
            self.begin(now);
            self.hand_over();
            self.tell(told);
            if self.shard.borrow().is_draining() && (self.shard.borrow().in_flight() == 0 || deadline.is_some_and(|at| at <= now)) {
                return is_ended;
            }
        }
    }

    /// Nothing is in flight any more: what waits is spilled when it must leave, until the sources have ended.
    async fn linger(&self, inbox: &mut mpsc::Receiver<Message>, told: &mut [LaneCount; 2]) {
        let mut look = tokio::time::interval(LINGER);
        loop {
            let message = tokio::select! {
                message = inbox.recv() => match message {
                    None | Some(Message::Control(Control::End)) => return,
                    Some(message) => Some(message),
                },
                _ = look.tick() => None,
            };
            let now = Instant::now();
            match message {
                Some(message) => self.take(now, message),
                None => {
                    self.free_lost(now);
                    self.shard.borrow_mut().sweep(now);
                    self.hand_over();
                    self.tell(told);
                }
            }
        }
    }

    fn take(&self, now: Instant, message: Message) {
        let mut shard = self.shard.borrow_mut();
        match message {
            Message::Deliver(deliveries) => deliveries.into_iter().for_each(|routed| shard.enqueue(now, routed)),
            Message::Control(control) => shard.control(now, control),
        }
    }

    /// Begins all requests that may be made now.
    fn begin(self: &Rc<Self>, now: Instant) {
        while let Some(dispatch) = self.next(now) {
            spawn_local(Rc::clone(self).work(dispatch));
        }
    }

    fn next(&self, now: Instant) -> Option<Dispatch> {
        self.shard.borrow_mut().next(now)
    }

    /// Makes one request after the other, for as long as there is one to make.
    async fn work(self: Rc<Self>, mut dispatch: Dispatch) {
        loop {
            self.metrics.scheduling_seconds.record(dispatch.waited());
            let running = Running { lost: &self.lost, slot: Some(dispatch.slot()) };
            let finished = (self.hooks.deliver)(dispatch).await;
            running.ended();
            match self.finished(&finished) {
                Some(next) => dispatch = next,
                None => return,
            }
        }
    }

    fn finished(self: &Rc<Self>, finished: &Finished) -> Option<Dispatch> {
        let now = finished.at;
        self.shard.borrow_mut().finished(finished);
        let next = self.next(now);
        if next.is_some() {
            // The end of one request can allow several: an endpoint has proven that it answers.
            self.begin(now);
        }
        let shard = self.shard.borrow();
        let earlier = match (shard.next_wakeup(), self.armed.get()) {
            (Some(wakeup), armed) => armed.is_none_or(|armed| wakeup < armed),
            (None, _) => false,
        };
        if earlier || shard.is_draining() {
            self.wake.notify_one();
        }
        next
    }

    fn free_lost(&self, now: Instant) {
        for slot in self.lost.borrow_mut().drain(..) {
            self.shard.borrow_mut().finished(&Finished::without_request(slot, now));
        }
    }

    fn hand_over(&self) {
        let mut shard = self.shard.borrow_mut();
        let (spilled, doomed) = (shard.take_spilled(), shard.take_doomed());
        drop(shard);
        if !spilled.is_empty() {
            (self.hooks.spill)(spilled);
        }
        if !doomed.is_empty() {
            (self.hooks.doom)(doomed);
        }
    }

    /// Adds what has changed since the last time to the gauges, which all shards share.
    fn tell(&self, told: &mut [LaneCount; 2]) {
        for lane in Lane::ALL {
            let (now, before) = (self.shard.borrow().lane(lane), &mut told[lane as usize]);
            if now != *before {
                self.metrics.queued.with(lane.as_str()).increment(f64::from(now.queued) - f64::from(before.queued));
                self.metrics.in_flight.with(lane.as_str()).increment(f64::from(now.in_flight) - f64::from(before.in_flight));
                *before = now;
            }
        }
    }

    fn end(&self, mut told: [LaneCount; 2]) {
        let now = Instant::now();
        self.free_lost(now);
        let handed_back = self.shard.borrow_mut().end(now);
        handed_back.into_iter().for_each(|(_, ack)| ack.abandon());
        self.hand_over();
        self.tell(&mut told);
    }
}

/// Frees the slot of a task that panics or is cut off.
struct Running<'a> {
    lost: &'a RefCell<Vec<Slot>>,
    slot: Option<Slot>,
}

impl Running<'_> {
    fn ended(mut self) {
        self.slot = None;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.lost.borrow_mut().push(slot);
        }
    }
}
