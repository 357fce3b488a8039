//! The state machine of a shard: what it is told changes its state, and what has to be done is asked of it. It takes the time as an argument,
//! does no I/O and waits for nothing.

mod gone;
mod leave;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    mem,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use self::gone::Gone;
use super::{
    Config, Control, Dispatch, Doomed, Ended, Finished, Lane, Spill, SpillReason, Waiting,
    endpoint::State,
    fair::{Fair, Standing},
    flight::{Flight, Flights, Returned},
    limits::{RateLimit, ShardClock, SpillBudget},
    queue::{Store, Waiter},
};
use crate::model::{Ack, Budget, DeadReason, Delivery, Endpoint, HealthState, Routed, Status, Text};

/// An endpoint that answers, and takes all that waits for it within this time, is never over its queue's bound.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often waiting deliveries and requests in flight are looked at for those that have waited for too long.
const SWEEP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Shard {
    config: Config,
    bounds: Bounds,
    budget: Arc<Budget>,
    clock: ShardClock,
    instances: NonZeroU32,

    /// Named by their index everywhere inside; none: free.
    endpoints: Vec<Option<State>>,
    free: Vec<u32>,
    by_id: HashMap<Text, u32, RandomState>,
    /// The health of endpoints that were not delivered to yet, where it is not Active.
    unseen: HashMap<Text, HealthState, RandomState>,

    gone: Gone,

    store: Store,
    fair: Fair,
    flights: Flights,
    lanes: [LaneCount; 2],
    /// Requests in flight that count into `unproven_share`.
    suspects: u32,
    /// Whether an unproven endpoint is served before a proven one; it changes with each turn that both could take.
    unproven_next: bool,
    /// When the rate of an endpoint allows its next request.
    resumes: BinaryHeap<Reverse<(Instant, u32)>>,
    spill_budget: Arc<SpillBudget>,

    sweep_at: Option<Instant>,
    /// Where the next sweep goes on.
    swept: u32,
    draining: Option<Waiting>,

    spilled: Vec<Spill>,
    doomed: Vec<Doomed>,
    handed_back: Vec<(Box<Delivery>, Ack)>,
    /// Of leases that are closing, and out of the way of those behind them.
    parked: Vec<(Arc<Endpoint>, Waiter)>,
    returned: Returned,
}

/// The shares of `[scheduler]` in slots of this shard.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    degraded_most: u32,
    degraded_least: u32,
    suspects_most: u32,
}

/// What a lane holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneCount {
    pub queued: u32,
    pub in_flight: u32,
}

impl Shard {
    /// A shard with its part of `config.slots`, being one of `of`, which share both budgets.
    pub fn new(config: &Config, index: usize, of: usize, budget: Arc<Budget>, spill_budget: Arc<SpillBudget>, now: Instant) -> Shard {
        let of = u32::try_from(of.max(1)).expect("as many shards as cores");
        let extra = u32::from((index as u32) < config.slots % of);
        let slots = (config.slots / of + extra).max(1);
        let share = |share: f64| ((f64::from(slots) * share) as u32).max(1);
        let bounds = Bounds {
            degraded_most: share(config.degraded_share),
            degraded_least: share(config.degraded_minimum),
            suspects_most: share(config.unproven_share),
        };
        Shard {
            bounds,
            budget,
            clock: ShardClock::new(now),
            instances: NonZeroU32::MIN,
            endpoints: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            unseen: HashMap::default(),
            gone: Gone::default(),
            store: Store::default(),
            fair: Fair::default(),
            flights: Flights::new(slots),
            lanes: [LaneCount::default(); 2],
            suspects: 0,
            unproven_next: false,
            resumes: BinaryHeap::new(),
            spill_budget,
            sweep_at: None,
            swept: 0,
            draining: None,
            spilled: Vec::new(),
            doomed: Vec::new(),
            handed_back: Vec::new(),
            parked: Vec::new(),
            returned: Returned::default(),
            config: config.clone(),
        }
    }

    /// Takes a delivery. It waits for its turn, or is spilled or doomed at once.
    pub fn enqueue(&mut self, now: Instant, routed: Routed) {
        self.sweep_at.get_or_insert(now + SWEEP);
        let Routed { delivery, ack, class, endpoint } = routed;
        let index = match self.by_id.get(&endpoint.id) {
            Some(index) => self.newest(*index, &endpoint),
            None => match self.gone.reason(&endpoint) {
                Some(reason) => return self.doom(endpoint, Waiter { delivery, ack, class, since: now }, reason),
                None => self.meet(&endpoint),
            },
        };
        let state = self.endpoints[index as usize].as_mut().expect("it was met");
        let waiter = Waiter { delivery, ack, class, since: now };
        if let Some(reason) = state.doom() {
            let endpoint = Arc::clone(&state.endpoint);
            return self.doom(endpoint, waiter, reason);
        }
        let bytes = waiter.delivery.event.weight();
        // Who takes what waits within `PATIENCE` is not slow: then we are, or there is a backlog to catch up with, and a way round through the
        // log would only cost more of what is short.
        let over = state.queue.len() >= self.config.queue_minimum
            && state.queue.bytes() + bytes > state.queue_limit(self.budget.room(), &self.config)
            && (!state.is_proven(now) || state.queue_time(now) > PATIENCE);
        if self.draining == Some(Waiting::Spill) {
            return self.spill(now, index, waiter, SpillReason::Drain);
        }
        if over && self.spill_budget.take(now) {
            return self.spill(now, index, waiter, SpillReason::QueueFull);
        }
        let lane = lane_of(state.health);
        self.store.push(&mut state.queue, index, bytes, waiter);
        self.lanes[lane as usize].queued += 1;
        self.place(now, index);
    }

    /// The next request to make, if one may be made now.
    pub fn next(&mut self, now: Instant) -> Option<Dispatch> {
        if self.draining.is_some() {
            return None;
        }
        self.resume(now);
        loop {
            if self.flights.is_full() {
                return None;
            }
            let standing = self.choose()?;
            let index = self.fair.head(standing).expect("choose names a standing that has somebody");
            let state = self.endpoints[index as usize].as_mut().expect("who waits is in use");
            let node = state.queue.head(self.config.retry_turn).expect("who is placed has something waiting");
            let waiter = self.store.get_mut(node).expect("the head of a queue holds a delivery");
            if !waiter.ack.is_live() {
                self.remove(index, node).ack.abandon();
                self.place(now, index);
                continue;
            }
            if waiter.ack.is_closing() {
                self.park(now, index, node);
                continue;
            }
            if let Some(Err(wait)) = state.rate.as_ref().map(|rate| rate.take(now)) {
                state.resumes_at = Some(now + wait);
                self.resumes.push(Reverse((now + wait, index)));
                self.place(now, index);
                continue;
            }
            // From here on it counts as begun, so this comes last.
            if !self.store.get_mut(node).is_some_and(|waiter| waiter.ack.take_up()) {
                self.park(now, index, node);
                continue;
            }
            return Some(self.dispatch(now, standing, index, node));
        }
    }

    /// Takes a delivery of a closing lease out of the way.
    fn park(&mut self, now: Instant, index: u32, node: u32) {
        let waiter = self.remove(index, node);
        let endpoint = Arc::clone(&self.state(index).endpoint);
        self.parked.push((endpoint, waiter));
        self.place(now, index);
    }

    fn doom(&mut self, endpoint: Arc<Endpoint>, mut waiter: Waiter, reason: DeadReason) {
        if waiter.ack.take_up() {
            self.doomed.push(Doomed { delivery: waiter.delivery, endpoint, ack: waiter.ack, reason });
        } else {
            self.parked.push((endpoint, waiter));
        }
    }

    /// A request has ended. Told twice, the second time has no effect.
    pub fn finished(&mut self, finished: &Finished) {
        let now = finished.at;
        let Some(flight) = self.flights.end(finished.slot) else { return };
        self.lanes[flight.lane as usize].in_flight -= 1;
        self.suspects -= u32::from(flight.suspect);
        let state = self.endpoints[flight.endpoint as usize].as_mut().expect("it stays until its last request has ended");
        state.in_flight -= 1;
        state.old -= u16::from(flight.old);
        state.learn(now, flight.started, finished.ended, finished.held, &self.config);
        match finished.ended {
            Ended::Success | Ended::Answered | Ended::Backpressure => self.spill_budget.answered(),
            Ended::Timeout | Ended::Failure | Ended::Nothing => {}
        }
        if state.removed && state.in_flight == 0 {
            self.forget(flight.endpoint);
        } else {
            self.place(now, flight.endpoint);
        }
    }

    /// Looks for what has waited for too long, if it is time to.
    pub fn sweep(&mut self, now: Instant) {
        self.resume(now);
        if self.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        if let Some(before) = now.checked_sub(self.config.old_after) {
            while let Some(was) = self.flights.age(before) {
                self.suspects += u32::from(!was.suspect);
                self.endpoints[was.endpoint as usize].as_mut().expect("it has a request in flight").old += 1;
                self.place(now, was.endpoint);
            }
        }
        self.sweep_queue(now);
        self.store.shrink();
        self.sweep_at = (!self.is_idle()).then_some(now + SWEEP);
    }

    pub fn control(&mut self, now: Instant, control: Control) {
        match control {
            Control::Endpoint(endpoint) => {
                if let Some(index) = self.by_id.get(&endpoint.id).copied() {
                    self.change(index, endpoint);
                    self.doom_if_due(index);
                    self.place(now, index);
                } else if endpoint.status == Status::Disabled {
                    self.gone.add(now, &endpoint.id, endpoint.registry_offset, DeadReason::EndpointDisabled);
                }
            }
            Control::Removed { endpoint: id, version, reason } => {
                self.unseen.remove(&id);
                self.gone.add(now, &id, version, reason);
                if let Some(index) = self.by_id.remove(&id) {
                    self.doom_all(index, reason);
                    self.place(now, index);
                    let state = self.endpoints[index as usize].as_mut().expect("by_id names those in use");
                    state.removed = true;
                    if state.in_flight == 0 {
                        self.forget(index);
                    }
                }
            }
            Control::Health { endpoint, state } => self.set_health(now, endpoint, state),
            Control::Instances(instances) => {
                self.instances = instances;
                for index in 0..self.endpoints.len() as u32 {
                    self.renew_rate(index);
                    self.place(now, index);
                }
            }
            Control::Weight { tenant, weight } => self.fair.set_weight(&tenant, weight),
            Control::Drain { waiting, deadline: _ } => self.drain(now, waiting),
            // The loop ends.
            Control::End => {}
        }
    }

    /// When [`Shard::sweep`] has something to do, if nothing else happens before; none: never.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let resume = self.resumes.peek().map(|Reverse((at, _))| *at);
        [resume, self.sweep_at].into_iter().flatten().min()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What a lane holds now.
    pub fn lane(&self, lane: Lane) -> LaneCount {
        self.lanes[lane as usize]
    }

    /// Requests in flight that count into `unproven_share`.
    #[cfg(test)]
    pub fn suspects(&self) -> u32 {
        self.suspects
    }

    /// Takes what has to go back to the log.
    pub fn take_spilled(&mut self) -> Vec<Spill> {
        self.spilled.append(&mut self.returned.borrow_mut());
        mem::take(&mut self.spilled)
    }

    /// Takes what cannot be delivered any more.
    pub fn take_doomed(&mut self) -> Vec<Doomed> {
        mem::take(&mut self.doomed)
    }

    /// Ends a drain: what still waits comes out, see [`Waiting`], and so does what was let go of.
    pub fn end(&mut self, now: Instant) -> Vec<(Box<Delivery>, Ack)> {
        self.sweep_parked();
        let parked = mem::take(&mut self.parked).into_iter().map(|(_, waiter)| (waiter.delivery, waiter.ack));
        self.handed_back.extend(parked);
        self.empty_queues(now, |_| None);
        mem::take(&mut self.handed_back)
    }

    fn is_idle(&self) -> bool {
        self.store.is_empty() && self.flights.is_empty() && self.parked.is_empty()
    }

    /// Healthy before degraded, but degraded ones first while they have less than their guaranteed share; proven and unproven ones in turns, for
    /// a healthy endpoint that nobody knows yet must not wait until the others are idle.
    fn choose(&mut self) -> Option<Standing> {
        let room = self.suspects < self.bounds.suspects_most;
        let degraded = self.lanes[Lane::Degraded as usize].in_flight;
        let degraded_ready = room && degraded < self.bounds.degraded_most && self.fair.has(Standing::Degraded);
        if degraded_ready && degraded < self.bounds.degraded_least {
            return Some(Standing::Degraded);
        }
        match (self.fair.has(Standing::Proven), room && self.fair.has(Standing::Unproven)) {
            (true, true) => {
                self.unproven_next = !self.unproven_next;
                Some(if self.unproven_next { Standing::Unproven } else { Standing::Proven })
            }
            (true, false) => Some(Standing::Proven),
            (false, true) => Some(Standing::Unproven),
            (false, false) => degraded_ready.then_some(Standing::Degraded),
        }
    }

    fn dispatch(&mut self, now: Instant, standing: Standing, index: u32, node: u32) -> Dispatch {
        let state = self.endpoints[index as usize].as_mut().expect("who waits is in use");
        let lane = lane_of(state.health);
        let Waiter { delivery, ack, class, since } = self.store.take_turn(&mut state.queue, node);
        state.in_flight += 1;
        let suspect = standing != Standing::Proven;
        let count = &mut self.lanes[lane as usize];
        count.queued -= 1;
        count.in_flight += 1;
        self.suspects += u32::from(suspect);
        let slot = self.flights.begin(Flight { endpoint: index, lane, started: now, suspect, old: false });
        let dispatch = Dispatch {
            owed: Some((delivery, ack)),
            endpoint: Arc::clone(&state.endpoint),
            slot,
            class,
            lane,
            waited: now.saturating_duration_since(since),
            returned: Returned::clone(&self.returned),
        };
        self.fair.charge(standing, index);
        self.place(now, index);
        dispatch
    }

    /// Puts an endpoint into the round it belongs to, after anything about it has changed.
    fn place(&mut self, now: Instant, index: u32) {
        if let Some(state) = &self.endpoints[index as usize] {
            self.fair.place(index, state.standing(now));
        }
    }

    /// Lets endpoints go on whose rate allows it again.
    fn resume(&mut self, now: Instant) {
        while let Some(Reverse((at, index))) = self.resumes.peek().copied() {
            if at > now {
                return;
            }
            self.resumes.pop();
            // One that was removed or got another rate meanwhile does not wait for this any more.
            if let Some(state) = self.endpoints[index as usize].as_mut().filter(|state| state.resumes_at == Some(at)) {
                state.resumes_at = None;
                self.place(now, index);
            }
        }
    }

    /// Takes over the version of an endpoint that a delivery was routed to, if it is newer than the known one.
    fn newest(&mut self, index: u32, endpoint: &Arc<Endpoint>) -> u32 {
        let known = &self.state(index).endpoint;
        if !Arc::ptr_eq(known, endpoint) && known.registry_offset < endpoint.registry_offset {
            self.change(index, Arc::clone(endpoint));
        }
        index
    }

    /// Takes up an endpoint that has its first delivery.
    fn meet(&mut self, endpoint: &Arc<Endpoint>) -> u32 {
        let health = self.unseen.remove(&endpoint.id).unwrap_or_default();
        let state = State::new(Arc::clone(endpoint), health, &self.config);
        let index = self.free.pop().unwrap_or_else(|| {
            self.endpoints.push(None);
            u32::try_from(self.endpoints.len() - 1).expect("fewer than four billion endpoints")
        });
        self.endpoints[index as usize] = Some(state);
        self.by_id.insert(endpoint.id.clone(), index);
        self.fair.enroll(index, &endpoint.tenant);
        self.renew_rate(index);
        index
    }

    fn state(&self, index: u32) -> &State {
        self.endpoints[index as usize].as_ref().expect("the caller has an index that is in use")
    }

    /// Takes over a version of an endpoint, unless a newer one is known. The caller places it.
    fn change(&mut self, index: u32, endpoint: Arc<Endpoint>) {
        let state = self.endpoints[index as usize].as_mut().expect("the caller has an index that is in use");
        if endpoint.registry_offset < state.endpoint.registry_offset {
            return;
        }
        let moved = state.endpoint.tenant != endpoint.tenant;
        state.change(Arc::clone(&endpoint), &self.config);
        if moved {
            self.fair.place(index, None);
            self.fair.enroll(index, &endpoint.tenant);
        }
        self.renew_rate(index);
    }

    /// Gives an endpoint the limiter that its rate and the size of the fleet ask for; one that fits is kept, with what was taken from it.
    fn renew_rate(&mut self, index: u32) {
        let Some(state) = self.endpoints[index as usize].as_mut() else { return };
        let fits = match (&state.rate, state.endpoint.rate) {
            (Some(limit), Some(rate)) => limit.is_for(rate, self.instances),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !fits {
            state.rate = state.endpoint.rate.map(|rate| RateLimit::new(rate, self.instances, &self.clock));
            state.resumes_at = None;
        }
    }

    fn set_health(&mut self, now: Instant, id: Text, health: HealthState) {
        let Some(index) = self.by_id.get(&id).copied() else {
            match health {
                HealthState::Active => self.unseen.remove(&id),
                HealthState::Degraded | HealthState::Inactive => self.unseen.insert(id, health),
            };
            return;
        };
        let state = self.endpoints[index as usize].as_mut().expect("by_id names those in use");
        let queued = state.queue.len();
        self.lanes[lane_of(state.health) as usize].queued -= queued;
        self.lanes[lane_of(health) as usize].queued += queued;
        state.health = health;
        self.doom_if_due(index);
        self.place(now, index);
    }

    fn doom_if_due(&mut self, index: u32) {
        if let Some(reason) = self.state(index).doom() {
            self.doom_all(index, reason);
        }
    }

    /// The caller places it.
    fn doom_all(&mut self, index: u32, reason: DeadReason) {
        let state = self.endpoints[index as usize].as_mut().expect("the caller has an index that is in use");
        let (endpoint, lane) = (Arc::clone(&state.endpoint), lane_of(state.health) as usize);
        while let Some(state) = self.endpoints[index as usize].as_mut()
            && let Some(waiter) = self.store.pop(&mut state.queue)
        {
            self.lanes[lane].queued -= 1;
            self.doom(Arc::clone(&endpoint), waiter, reason);
        }
    }

    fn forget(&mut self, index: u32) {
        self.fair.place(index, None);
        self.endpoints[index as usize] = None;
        self.free.push(index);
    }

    /// Takes a delivery out of the middle of its queue. The caller places the endpoint.
    fn remove(&mut self, index: u32, node: u32) -> Waiter {
        let state = self.endpoints[index as usize].as_mut().expect("who waits is in use");
        self.lanes[lane_of(state.health) as usize].queued -= 1;
        self.store.remove(&mut state.queue, node)
    }
}

fn lane_of(health: HealthState) -> Lane {
    match health {
        HealthState::Active => Lane::Healthy,
        HealthState::Degraded | HealthState::Inactive => Lane::Degraded,
    }
}
