//! A simulation of many endpoints, some of which never answer: what the others notice.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
};

use super::*;

struct Simulation {
    shard: Shard,
    source: Source,
    endpoints: Vec<Arc<Endpoint>>,
    /// Ends of requests: when, whether by a timeout, and which of `running`.
    ends: BinaryHeap<Reverse<(Instant, bool, usize)>>,
    running: Vec<Option<Dispatch>>,
    hanging: HashSet<Text>,
    in_flight_hanging: usize,
    /// What the deliveries to endpoints that answer have waited in the queue.
    waited: Vec<Duration>,
    spilled: usize,
    most_hanging: usize,
    now: Instant,
}

const ANSWER: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(5);

impl Simulation {
    /// The first `hanging` of `endpoints` never answer. The others have answered once.
    fn new(config: &Config, endpoints: usize, hanging: usize) -> Simulation {
        let (budget, now) = (Budget::new(1 << 28), Instant::now());
        let endpoints: Vec<_> = (0..endpoints).map(|number| Arc::new(endpoint(&format!("e{number}"), "t"))).collect();
        let (mut shard, mut source) = (shard(config, &budget, now), Source::new(&budget));
        for one in &endpoints[hanging..] {
            shard.enqueue(now, source.one(one));
            let dispatch = shard.next(now).expect("nothing else waits");
            end(&mut shard, now, dispatch, Ended::Success, ANSWER);
        }
        Simulation {
            shard,
            source,
            hanging: endpoints[..hanging].iter().map(|endpoint| endpoint.id.clone()).collect(),
            endpoints,
            ends: BinaryHeap::new(),
            running: Vec::new(),
            in_flight_hanging: 0,
            waited: Vec::new(),
            spilled: 0,
            most_hanging: 0,
            now,
        }
    }

    /// `rate` events per second, one endpoint after the other, for so long; then a second for what is left. Returns how many there were.
    fn run(&mut self, rate: u32, time: Duration) -> usize {
        let (begun, mut sent) = (self.now, 0);
        while self.now < begun + time + SECOND {
            let due = Some(begun + SECOND * sent as u32 / rate).filter(|due| *due < begun + time);
            let next = [due, self.ends.peek().map(|end| end.0.0), self.shard.next_wakeup()].into_iter().flatten().min();
            let Some(next) = next else { return sent };
            self.now = self.now.max(next);
            if due.is_some_and(|due| due <= self.now) {
                let endpoint = Arc::clone(&self.endpoints[sent % self.endpoints.len()]);
                self.shard.enqueue(self.now, self.source.one(&endpoint));
                sent += 1;
            }
            self.end_requests();
            self.shard.sweep(self.now);
            self.begin_requests();
            self.spilled += ids(self.shard.take_spilled(), |spill| (spill.delivery, spill.ack)).len();
        }
        sent
    }

    fn end_requests(&mut self) {
        while let Some(Reverse((at, hangs, which))) = self.ends.peek().copied().filter(|end| end.0.0 <= self.now) {
            self.ends.pop();
            let dispatch = self.running[which].take().expect("it ends once");
            let endpoint = Arc::clone(dispatch.endpoint());
            if hangs {
                self.in_flight_hanging -= 1;
                end(&mut self.shard, at, dispatch, Ended::Timeout, TIMEOUT);
                self.shard.control(at, health(&endpoint, HealthState::Degraded));
            } else {
                end(&mut self.shard, at, dispatch, Ended::Success, ANSWER);
            }
        }
    }

    fn begin_requests(&mut self) {
        while let Some(dispatch) = self.shard.next(self.now) {
            let hangs = self.hanging.contains(&dispatch.endpoint().id);
            if hangs {
                self.in_flight_hanging += 1;
                self.most_hanging = self.most_hanging.max(self.in_flight_hanging);
            } else {
                self.waited.push(dispatch.waited());
            }
            self.ends.push(Reverse((self.now + if hangs { TIMEOUT } else { ANSWER }, hangs, self.running.len())));
            self.running.push(Some(dispatch));
        }
    }

    fn finish(mut self) -> (usize, Duration) {
        self.waited.sort();
        for dispatch in self.running.drain(..).flatten() {
            dispatch.into_parts().2.abandon();
        }
        self.shard.end(self.now).into_iter().for_each(|(_, ack)| ack.abandon());
        self.spilled += ids(self.shard.take_spilled(), |spill| (spill.delivery, spill.ack)).len();
        (self.waited.len(), self.waited[self.waited.len() * 99 / 100])
    }
}

#[test]
fn one_of_ten_that_never_answers_is_not_noticed_by_the_other_nine() {
    let config = Config::default();
    let mut healthy = Simulation::new(&config, 10, 0);
    assert_eq!(healthy.run(1000, 15 * SECOND), 15_000);
    let (all, usual) = healthy.finish();
    assert_eq!(all, 15_000);

    let mut sick = Simulation::new(&config, 10, 1);
    assert_eq!(sick.run(1000, 15 * SECOND), 15_000);
    assert_eq!(sick.most_hanging, 1);
    let (delivered, waited) = sick.finish();
    assert_eq!(delivered, 13_500);
    assert!(waited <= usual.max(MS), "{waited:?} instead of {usual:?}");
}

#[test]
fn a_thousand_dead_endpoints_never_hold_more_than_half_of_the_slots() {
    let config = Config { slots: 256, shards: 1, ..Config::default() };
    let mut simulation = Simulation::new(&config, 1010, 1000);
    simulation.run(5000, 8 * SECOND);
    assert!(simulation.most_hanging <= 128, "{}", simulation.most_hanging);
    let (_, waited) = simulation.finish();
    assert!(waited <= 50 * MS, "{waited:?}");
}

#[test]
fn degraded_endpoints_get_their_guaranteed_share_beside_healthy_ones_that_could_use_everything() {
    let config = Config { slots: 100, shards: 1, concurrency: 100, ..Config::default() };
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&config, &budget, now), Source::new(&budget));
    let endpoints: Vec<_> = (0..60).map(|number| Arc::new(endpoint(&format!("e{number}"), "t"))).collect();
    for one in &endpoints {
        shard.enqueue(now, source.one(one));
    }
    let mut proven = 0;
    while let Some(dispatch) = shard.next(now) {
        end(&mut shard, now, dispatch, Ended::Success, MS);
        proven += 1;
    }
    assert_eq!(proven, 60);
    for one in &endpoints[..30] {
        shard.control(now, health(one, HealthState::Degraded));
    }
    let mut fill = |shard: &mut Shard| {
        for _ in 0..20 {
            endpoints.iter().for_each(|one| shard.enqueue(now, source.one(one)));
        }
    };
    fill(&mut shard);
    let mut running: Vec<_> = std::iter::from_fn(|| shard.next(now)).collect();
    assert_eq!(running.len(), 100);
    assert_eq!(shard.lane(Lane::Degraded).in_flight, 5, "the guaranteed 5 %, for healthy ones want the rest");
    // All healthy ones end, none waits: degraded ones get 20 % and no more.
    running.retain(|dispatch| {
        dispatch.lane() == Lane::Degraded || {
            shard.finished(&Finished { slot: dispatch.slot(), at: now, held: MS, ended: Ended::Success });
            false
        }
    });
    loop {
        let more: Vec<_> = std::iter::from_fn(|| shard.next(now)).collect();
        let (degraded, healthy): (Vec<_>, Vec<_>) = more.into_iter().partition(|dispatch| dispatch.lane() == Lane::Degraded);
        running.extend(degraded);
        if healthy.is_empty() {
            break;
        }
        for dispatch in healthy {
            end(&mut shard, now, dispatch, Ended::Success, MS);
        }
    }
    assert_eq!(shard.lane(Lane::Degraded).in_flight, 20);
    for dispatch in running {
        end(&mut shard, now, dispatch, Ended::Success, MS);
    }
    ids(shard.take_spilled(), |spill| (spill.delivery, spill.ack));
    shard.end(now).into_iter().for_each(|(_, ack)| ack.abandon());
    ids(shard.take_spilled(), |spill| (spill.delivery, spill.ack));
}
