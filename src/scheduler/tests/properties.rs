//! Whatever is done to a shard, in any order: the bounds hold, and all that went in comes out once.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Enqueue { endpoint: usize, retry: bool, fan_out: bool },
    Dispatch(usize),
    Finish { which: usize, ended: u8 },
    DropDispatch(usize),
    Pass(u16),
    Health(usize, u8),
    Change(usize, u16),
    Remove(usize),
    Instances(u32),
    LoseLease,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..ENDPOINTS, any::<bool>(), any::<bool>()).prop_map(|(endpoint, retry, fan_out)| Step::Enqueue { endpoint, retry, fan_out }),
        8 => (1..20usize).prop_map(Step::Dispatch),
        8 => (any::<usize>(), 0..6u8).prop_map(|(which, ended)| Step::Finish { which, ended }),
        1 => any::<usize>().prop_map(Step::DropDispatch),
        3 => (1..3000u16).prop_map(Step::Pass),
        2 => (0..ENDPOINTS, 0..3u8).prop_map(|(endpoint, state)| Step::Health(endpoint, state)),
        1 => (0..ENDPOINTS, 1..20u16).prop_map(|(endpoint, concurrency)| Step::Change(endpoint, concurrency)),
        1 => (0..ENDPOINTS).prop_map(Step::Remove),
        1 => (1..5u32).prop_map(Step::Instances),
        1 => Just(Step::LoseLease),
    ]
}

const ENDPOINTS: usize = 90;

struct World {
    shard: Shard,
    source: Source,
    budget: Arc<Budget>,
    endpoints: Vec<Arc<Endpoint>>,
    now: Instant,
    running: Vec<Dispatch>,
    /// Deliveries that are inside, by event and endpoint.
    inside: HashSet<(Text, Text)>,
    /// Deliveries of leases that have ended: they may vanish.
    lost: HashSet<(Text, Text)>,
    bounds: (usize, u32, u32),
}

impl World {
    fn new(waiting_bound: u32) -> World {
        let budget = Budget::new(1 << 20);
        let now = Instant::now();
        let config = Config { slots: 64, shards: 1, queue_minimum: waiting_bound, ..Config::default() };
        let endpoints = (0..ENDPOINTS)
            .map(|number| {
                let rate = (number % 7 == 0).then(|| "20/s".parse().expect("a rate"));
                let registry_offset = if number % 2 == 0 { Endpoint::DECLARED } else { 1 };
                Arc::new(Endpoint { rate, registry_offset, ..endpoint(&format!("e{number}"), &format!("t{}", number % 3)) })
            })
            .collect();
        World {
            shard: shard(&config, &budget, now),
            source: Source::new(&budget),
            budget,
            endpoints,
            now,
            running: Vec::new(),
            inside: HashSet::new(),
            lost: HashSet::new(),
            bounds: (64, 12, 32),
        }
    }

    fn key(delivery: &Delivery) -> (Text, Text) {
        (delivery.event.id.clone(), delivery.endpoint.clone())
    }

    fn out(&mut self, delivery: &Delivery) {
        let key = World::key(delivery);
        assert!(self.inside.remove(&key) || self.lost.remove(&key), "{key:?} came out twice");
    }

    fn collect(&mut self) {
        for spill in self.shard.take_spilled() {
            self.out(&spill.delivery);
            spill.ack.done();
        }
        for doomed in self.shard.take_doomed() {
            self.out(&doomed.delivery);
            doomed.ack.done();
        }
    }

    fn dispatch(&mut self) -> bool {
        let suspects = self.suspects();
        let Some(dispatch) = self.shard.next(self.now) else { return false };
        let suspect = self.suspects() > suspects;
        assert!(!suspect || self.suspects() <= self.bounds.2, "a new request to one that has not shown that it answers");
        self.inside.contains(&World::key(dispatch.delivery())).then_some(()).expect("it is inside");
        self.running.push(dispatch);
        self.check();
        true
    }

    fn suspects(&self) -> u32 {
        self.shard.suspects()
    }

    fn check(&self) {
        assert_eq!(self.shard.in_flight(), self.running.len());
        assert!(self.running.len() <= self.bounds.0);
        let degraded = self.running.iter().filter(|dispatch| dispatch.lane() == Lane::Degraded).count() as u32;
        assert_eq!(self.shard.lane(Lane::Degraded).in_flight, degraded);
        assert_eq!(self.shard.lane(Lane::Healthy).in_flight, self.running.len() as u32 - degraded);
        assert!(degraded <= self.bounds.1);
        let mut each: HashMap<&Text, u16> = HashMap::new();
        for dispatch in &self.running {
            *each.entry(&dispatch.delivery().endpoint).or_default() += 1;
        }
        assert!(each.values().all(|count| *count <= 64));
    }

    fn finish(&mut self, which: usize, ended: u8) {
        if self.running.is_empty() {
            return;
        }
        let dispatch = self.running.swap_remove(which % self.running.len());
        self.out(dispatch.delivery());
        let ended =
            [Ended::Success, Ended::Answered, Ended::Backpressure, Ended::Timeout, Ended::Failure, Ended::Nothing][usize::from(ended)];
        let slot = dispatch.slot();
        end(&mut self.shard, self.now, dispatch, ended, MS);
        self.shard.finished(&Finished::without_request(slot, self.now));
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Enqueue { endpoint, retry, fan_out } => {
                let mut to = vec![Arc::clone(&self.endpoints[endpoint])];
                if fan_out {
                    to.extend(self.endpoints.get(endpoint + 1).cloned());
                }
                let class = if retry { Class::Retry } else { Class::First };
                for routed in self.source.fan_out(&to, class, Priority::Normal).1 {
                    self.inside.insert(World::key(&routed.delivery));
                    self.shard.enqueue(self.now, routed);
                }
            }
            Step::Dispatch(times) => {
                (0..times).take_while(|_| self.dispatch()).count();
            }
            Step::Finish { which, ended } => self.finish(which, ended),
            Step::DropDispatch(which) => {
                if !self.running.is_empty() {
                    let dispatch = self.running.swap_remove(which % self.running.len());
                    let slot = dispatch.slot();
                    drop(dispatch);
                    self.shard.finished(&Finished::without_request(slot, self.now));
                }
            }
            Step::Pass(ms) => {
                self.now += Duration::from_millis(ms.into());
                self.shard.sweep(self.now);
            }
            Step::Health(endpoint, state) => {
                let state = [HealthState::Active, HealthState::Degraded, HealthState::Inactive][usize::from(state)];
                self.shard.control(self.now, health(&self.endpoints[endpoint], state));
            }
            Step::Change(endpoint, concurrency) => {
                let changed = Endpoint {
                    concurrency: NonZeroU16::new(concurrency),
                    tenant: format!("t{}", concurrency % 3).into(),
                    ..Endpoint::clone(&self.endpoints[endpoint])
                };
                self.endpoints[endpoint] = Arc::new(changed);
                self.shard.control(self.now, Control::Endpoint(Arc::clone(&self.endpoints[endpoint])));
            }
            Step::Remove(endpoint) => {
                self.shard.control(self.now, removed(&self.endpoints[endpoint].id, self.endpoints[endpoint].registry_offset));
            }
            Step::Instances(count) => self.shard.control(self.now, Control::Instances(NonZeroU32::new(count).expect("above zero"))),
            Step::LoseLease => {
                self.source.lease.end();
                self.lost.extend(self.inside.drain());
                let running = self.running.iter().map(|dispatch| World::key(dispatch.delivery()));
                for key in running {
                    self.lost.remove(&key);
                    self.inside.insert(key);
                }
                self.source.done();
                let next = self.source.next;
                self.source = Source::new(&self.budget);
                self.source.next = next;
            }
        }
        self.collect();
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Everything is served in the end when endpoints answer again.
    #[test]
    fn all_comes_out_once_and_nobody_starves(steps in prop::collection::vec(step(), 1..200), waiting_bound in 1..70u32) {
        let mut world = World::new(waiting_bound);
        steps.into_iter().for_each(|step| world.apply(step));
        for number in 0..ENDPOINTS {
            world.apply(Step::Health(number, 0));
        }
        for _ in 0..10_000 {
            while world.dispatch() {}
            if world.running.is_empty() && world.shard.next_wakeup().is_none() {
                break;
            }
            while !world.running.is_empty() {
                world.finish(0, 0);
            }
            world.apply(Step::Pass(100));
        }
        prop_assert!(world.inside.is_empty(), "{:?} never came out", world.inside);
        prop_assert_eq!((world.shard.lane(Lane::Healthy), world.shard.lane(Lane::Degraded)), Default::default());
        prop_assert_eq!(world.shard.suspects(), 0);
        prop_assert_eq!(world.budget.used(), 0);
        world.source.done();
    }

    /// At any moment, a drain brings out all that waits, and the end all that runs.
    #[test]
    fn a_drain_leaves_nothing_behind(steps in prop::collection::vec(step(), 1..100), spill: bool) {
        let mut world = World::new(64);
        steps.into_iter().for_each(|step| world.apply(step));
        let waiting = if spill { Waiting::Spill } else { Waiting::HandBack };
        world.shard.control(world.now, Control::Drain { waiting, deadline: world.now });
        prop_assert!(world.shard.next(world.now).is_none());
        world.apply(Step::Enqueue { endpoint: 1, retry: false, fan_out: true });
        while world.running.len() > 2 {
            world.finish(0, 3);
        }
        world.apply(Step::DropDispatch(0));
        world.apply(Step::DropDispatch(0));
        for (delivery, ack) in world.shard.end(world.now) {
            world.out(&delivery);
            prop_assert!(!spill || !ack.is_live(), "handed back although it was to be spilled");
            ack.abandon();
        }
        world.collect();
        prop_assert!(world.inside.is_empty(), "{:?} never came out", world.inside);
        prop_assert_eq!(world.budget.used(), 0);
        world.source.done();
    }
}
