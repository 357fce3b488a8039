//! The shard, driven through simulated time: what goes in comes out once, whatever happens, and nobody pays for somebody else.

mod cost;
mod fairness;
mod properties;
mod runs;

use std::{collections::HashMap, num::NonZeroU16};

use bytes::Bytes;

use super::*;
use crate::model::{Budget, Class, Event, Lease, OpenRecord, Position, Priority, Purpose, Status, Timestamp, TopicPartition, testing};

/// An endpoint with nothing special about it.
fn endpoint(id: &str, tenant: &str) -> Endpoint {
    Endpoint { tenant: tenant.into(), ..testing::endpoint(id) }
}

/// Makes deliveries of one record each, numbered by the offset.
struct Source {
    lease: Arc<Lease>,
    budget: Arc<Budget>,
    next: i64,
}

impl Source {
    fn new(budget: &Arc<Budget>) -> Source {
        let lease = Lease::new(TopicPartition { topic: "t".into(), partition: 0 }, 1);
        Source { lease, budget: Arc::clone(budget), next: 0 }
    }

    /// One event for all of these endpoints.
    fn fan_out(&mut self, endpoints: &[Arc<Endpoint>], class: Class, priority: Priority) -> (Arc<OpenRecord>, Vec<Routed>) {
        let offset = self.next;
        self.next += 1;
        let event = Arc::new(Event {
            id: offset.to_string().into(),
            kind: "k".into(),
            channel: "c".into(),
            direction: None,
            time: Timestamp::UNIX_EPOCH,
            tenant: "t".into(),
            subject: None,
            priority,
            traceparent: None,
            data: Bytes::from_static(b"{}"),
        });
        let permit = self.budget.take(event.weight());
        let (record, acks) = OpenRecord::open(&self.lease, offset, endpoints.len() as u32, permit);
        let routed = acks.zip(endpoints).map(|(ack, endpoint)| Routed {
            delivery: Box::new(Delivery {
                event: Arc::clone(&event),
                endpoint: endpoint.id.clone(),
                origin: Position { topic: "t".into(), partition: 0, offset },
                attempts: u32::from(class == Class::Retry),
                accepted_at: Timestamp::UNIX_EPOCH,
                due_at: None,
                registry_offset: 0,
                purpose: Purpose::Event,
                reason: None,
            }),
            endpoint: Arc::clone(endpoint),
            ack,
            class,
        });
        (record, routed.collect())
    }

    fn one(&mut self, endpoint: &Arc<Endpoint>) -> Routed {
        self.fan_out(std::slice::from_ref(endpoint), Class::First, Priority::Normal).1.remove(0)
    }

    /// How many records are done; fails if an acknowledgement was dropped.
    fn done(&self) -> usize {
        let mut settled = Default::default();
        self.lease.take_settled(&mut settled);
        assert!(settled.dropped.is_empty(), "acknowledgements were dropped");
        settled.done.len()
    }
}

fn shard(config: &Config, budget: &Arc<Budget>, now: Instant) -> Shard {
    let problems = config.check();
    assert!(problems.is_empty(), "{problems:?}");
    let spills = limits::SpillBudget::new(config.spill_rate.per_second(), config.spill_per_answer, now);
    Shard::new(config, 0, 1, Arc::clone(budget), Arc::new(spills), now)
}

fn end(shard: &mut Shard, now: Instant, dispatch: Dispatch, ended: Ended, held: Duration) -> Text {
    let slot = dispatch.slot();
    let (delivery, _, ack) = dispatch.into_parts();
    ack.done();
    shard.finished(&Finished { slot, at: now, held, ended });
    delivery.event.id.clone()
}

fn ids<T>(items: Vec<T>, of: impl Fn(T) -> (Box<Delivery>, Ack)) -> Vec<String> {
    items
        .into_iter()
        .map(|item| {
            let (delivery, ack) = of(item);
            ack.done();
            delivery.event.id.to_string()
        })
        .collect()
}

fn removed(endpoint: &str, version: i64) -> Control {
    Control::Removed { endpoint: endpoint.into(), version, reason: DeadReason::EndpointDeleted }
}

fn health(endpoint: &Arc<Endpoint>, state: HealthState) -> Control {
    Control::Health { endpoint: endpoint.id.clone(), state }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_default_configuration_has_no_problem_and_each_wrong_key_is_named() {
    assert!(Config::default().check().is_empty());
    let wrong: Config = toml::from_str(
        "slots = 3\nshards = 1000\nmemory = \"1KiB\"\nconcurrency = 0\ndegraded_share = 0.0\nretry_turn = 1\nold_after = \"1ms\"\nunproven_share = 7.0",
    )
    .expect("well-formed");
    let keys: Vec<_> = wrong.check().into_iter().map(|(key, _)| key).collect();
    for key in
        ["slots", "shards", "memory", "concurrency", "degraded_share", "degraded_minimum", "retry_turn", "old_after", "unproven_share"]
    {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }
    assert!(toml::from_str::<Config>("slot = 3").is_err());
}

#[test]
fn an_unproven_endpoint_has_one_request_in_flight_and_a_proven_one_as_many_as_it_takes() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let one = Arc::new(Endpoint { concurrency: NonZeroU16::new(3), ..endpoint("one", "t") });
    (0..9).for_each(|_| shard.enqueue(now, source.one(&one)));
    let first = shard.next(now).expect("one may go");
    assert!(shard.next(now).is_none());
    end(&mut shard, now, first, Ended::Success, MS);
    let three: Vec<_> = (0..3).map(|_| shard.next(now).expect("it has answered")).collect();
    assert!(shard.next(now).is_none());
    let later = now + Duration::from_secs(120);
    for dispatch in three {
        end(&mut shard, later, dispatch, Ended::Timeout, SECOND);
    }
    let again = shard.next(later).expect("one may go");
    assert!(shard.next(later).is_none(), "two minutes without an answer prove nothing");
    end(&mut shard, later, again, Ended::Success, MS);
    let two: Vec<_> = (0..2).map(|_| shard.next(later).expect("halved from three to one, and grown by the success")).collect();
    assert!(shard.next(later).is_none());
    for dispatch in two {
        end(&mut shard, later, dispatch, Ended::Success, MS);
    }
    assert_eq!(source.done(), 7);
    shard.end(later).into_iter().for_each(|(_, ack)| ack.abandon());
}

#[test]
fn priorities_go_first_and_retries_have_every_eighth_turn() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let one = Arc::new(endpoint("one", "t"));
    let of = std::slice::from_ref(&one);
    let mut put = |class, priority, times| {
        for _ in 0..times {
            source.fan_out(of, class, priority).1.into_iter().for_each(|routed| shard.enqueue(now, routed));
        }
    };
    put(Class::Retry, Priority::Low, 1);
    put(Class::Retry, Priority::High, 1);
    put(Class::First, Priority::Low, 10);
    put(Class::First, Priority::Normal, 3);
    put(Class::First, Priority::High, 2);
    let mut order = String::new();
    while let Some(dispatch) = shard.next(now) {
        let letter = match dispatch.delivery().event.priority {
            Priority::High => 'h',
            Priority::Normal => 'n',
            Priority::Low => 'l',
        };
        order.push(if dispatch.class() == Class::Retry { letter.to_ascii_uppercase() } else { letter });
        end(&mut shard, now, dispatch, Ended::Success, MS);
    }
    assert_eq!(order, "hhnnnllHlllllllLl");
}

#[test]
fn a_rate_is_kept_and_an_endpoint_that_waits_for_it_costs_no_turn() {
    let (budget, mut now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let one = Arc::new(Endpoint { rate: Some("50/s".parse().expect("a rate")), ..endpoint("one", "t") });
    shard.control(now, Control::Instances(NonZeroU32::new(5).expect("above zero")));
    (0..200).for_each(|_| shard.enqueue(now, source.one(&one)));
    let (until, mut sent) = (now + 10 * SECOND, 0);
    while now < until {
        while let Some(dispatch) = shard.next(now) {
            end(&mut shard, now, dispatch, Ended::Success, MS);
            sent += 1;
        }
        now = shard.next_wakeup().expect("it waits for its rate").max(now + MS);
        shard.sweep(now);
    }
    assert!((100..=102).contains(&sent), "a fifth of 50/s for 10 s: {sent}");
}

#[test]
fn a_timeout_halves_and_degraded_endpoints_do_not_grow() {
    let (budget, mut now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let one = Arc::new(endpoint("one", "t"));
    (0..1000).for_each(|_| shard.enqueue(now, source.one(&one)));
    let first = shard.next(now).expect("one may go");
    end(&mut shard, now, first, Ended::Success, MS);
    shard.control(now, health(&one, HealthState::Degraded));
    for expected in [64, 32, 16, 8, 4, 2, 1, 1] {
        let batch: Vec<_> = std::iter::from_fn(|| shard.next(now)).collect();
        assert_eq!(batch.len(), expected);
        now += SECOND;
        for (nth, dispatch) in batch.into_iter().enumerate() {
            end(&mut shard, now, dispatch, if nth == 0 { Ended::Timeout } else { Ended::Success }, SECOND);
        }
    }
}

#[test]
fn what_waits_for_an_endpoint_that_goes_away_is_doomed() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let doomed = |shard: &mut Shard| ids(shard.take_doomed(), |doomed| (doomed.delivery, doomed.ack)).len();
    let one = Arc::new(endpoint("one", "t"));
    let running = {
        (0..3).for_each(|_| shard.enqueue(now, source.one(&one)));
        shard.next(now).expect("one may go")
    };
    shard.control(now, health(&one, HealthState::Inactive));
    assert_eq!(doomed(&mut shard), 2);
    shard.enqueue(now, source.one(&one));
    assert_eq!(doomed(&mut shard), 1);
    shard.control(now, health(&one, HealthState::Active));
    let disabled = Arc::new(Endpoint { status: Status::Disabled, registry_offset: 2, ..endpoint("one", "t") });
    shard.enqueue(now, source.one(&one));
    shard.control(now, Control::Endpoint(disabled));
    assert_eq!(doomed(&mut shard), 1);
    shard.enqueue(now, source.one(&one));
    assert_eq!(doomed(&mut shard), 1, "the older version that it was routed to changes nothing");
    shard.control(now, removed("one", 2));
    end(&mut shard, now, running, Ended::Success, MS);
    let unseen = Arc::new(endpoint("unseen", "t"));
    shard.control(now, health(&unseen, HealthState::Inactive));
    shard.enqueue(now, source.one(&unseen));
    assert_eq!(shard.take_doomed().into_iter().map(|doomed| doomed.ack.done()).collect::<Vec<_>>().len(), 1);
    assert_eq!(source.done(), 7);
    assert_eq!((shard.lane(Lane::Healthy), shard.lane(Lane::Degraded)), Default::default());
}

#[test]
fn what_waits_for_too_long_is_spilled_and_told_when_to_come_back() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let (dead, alive) = (Arc::new(endpoint("dead", "t")), Arc::new(endpoint("alive", "t")));
    shard.enqueue(now, source.one(&dead));
    let hanging = shard.next(now).expect("one may go");
    shard.control(now, health(&dead, HealthState::Degraded));

    let (_, mut both) = source.fan_out(&[Arc::clone(&dead), alive], Class::First, Priority::Normal);
    both.drain(..).for_each(|routed| shard.enqueue(now, routed));
    let (window, routed) = source.fan_out(&[Arc::clone(&dead)], Class::First, Priority::Normal);
    routed.into_iter().for_each(|routed| shard.enqueue(now, routed));
    (0..10).for_each(|_| shard.enqueue(now, source.one(&dead)));
    let quick = shard.next(now).expect("the other goes");
    end(&mut shard, now, quick, Ended::Success, MS);
    window.ask_to_leave();
    drop(window);

    let mut reasons = HashMap::new();
    let mut spilled = |shard: &mut Shard, at| {
        shard.sweep(at);
        reasons.clear();
        for spill in shard.take_spilled() {
            assert!((Spill::SHORTEST..=Spill::LONGEST).contains(&spill.wait));
            *reasons.entry(spill.reason).or_insert(0) += 1;
            spill.ack.done();
        }
        reasons.clone()
    };
    assert!(spilled(&mut shard, now + SECOND / 2).is_empty());
    assert_eq!(spilled(&mut shard, now + SECOND), HashMap::from([(SpillReason::FanOut, 1), (SpillReason::Window, 1)]));
    end(&mut shard, now + 5 * SECOND, hanging, Ended::Timeout, 5 * SECOND);
    assert!(spilled(&mut shard, now + 9 * SECOND).is_empty());
    assert_eq!(spilled(&mut shard, now + 10 * SECOND), HashMap::from([(SpillReason::DegradedWait, 10)]));
    assert_eq!(source.done(), 13);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_queue_may_use_idle_memory_and_shrinks_when_the_house_is_full() {
    let budget = Budget::new(1 << 20);
    let now = Instant::now();
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let (one, sick) = (Arc::new(endpoint("one", "t")), Arc::new(endpoint("sick", "t")));
    shard.control(now, health(&sick, HealthState::Degraded));
    (0..4000).for_each(|_| shard.enqueue(now, source.one(&one)));
    let queued = shard.lane(Lane::Healthy).queued;
    // A share of 1 of what may still be filled: half of four fifths of the memory, at 514 bytes each.
    assert!((800..880).contains(&queued), "{queued}");
    let spilled = shard.take_spilled();
    assert!(spilled.iter().all(|spill| spill.reason == SpillReason::QueueFull));
    assert_eq!(ids(spilled, |spill| (spill.delivery, spill.ack)).len() as u32, 4000 - queued);
    (0..200).for_each(|_| shard.enqueue(now, source.one(&sick)));
    assert_eq!(shard.lane(Lane::Degraded).queued, 64);
    assert_eq!(ids(shard.take_spilled(), |spill| (spill.delivery, spill.ack)).len(), 200 - 64);
    for routed in shard.end(now) {
        routed.1.abandon();
    }
    assert_eq!((shard.lane(Lane::Healthy), shard.lane(Lane::Degraded)), Default::default());
    source.done();
}

#[test]
fn queues_that_are_too_long_leave_before_the_sources_stop_however_many_they_are() {
    let budget = Budget::new(1 << 20);
    let now = Instant::now();
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let slow = |n: u32| Endpoint { rate: Some("1/s".parse().expect("a rate")), ..endpoint(&format!("slow-{n}"), "t") };
    let slow: Vec<_> = (0..8).map(|n| Arc::new(slow(n))).collect();
    for _ in 0..500 {
        for one in &slow {
            assert!(budget.room() > 0, "{} of {} bytes are used", budget.used(), budget.limit());
            shard.enqueue(now, source.one(one));
        }
        // What leaves is out of memory as soon as it is durable.
        ids(shard.take_spilled(), |spill| (spill.delivery, spill.ack));
    }
    assert!(shard.lane(Lane::Healthy).queued > 8 * 64);
    shard.end(now).into_iter().for_each(|(_, ack)| ack.abandon());
}

#[test]
fn an_outage_of_everything_does_not_move_the_topic() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let config = Config { spill_rate: "10/s".parse().expect("a rate"), ..Config::default() };
    let (mut shard, mut source) = (shard(&config, &budget, now), Source::new(&budget));
    let dead = Arc::new(endpoint("dead", "t"));
    shard.control(now, health(&dead, HealthState::Degraded));
    (0..1000).for_each(|_| shard.enqueue(now, source.one(&dead)));
    let mut spilled = 0;
    for tenth in 0..300 {
        shard.sweep(now + tenth * 100 * MS);
        spilled += ids(shard.take_spilled(), |spill| (spill.delivery, spill.ack)).len();
    }
    assert!((290..=310).contains(&spilled), "saved up for 10 s, then 20 s at 10/s: {spilled}");
    shard.end(now).into_iter().for_each(|(_, ack)| ack.abandon());
    source.done();
}

#[test]
fn deliveries_of_a_lost_partition_are_let_go_of() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let one = Arc::new(endpoint("one", "t"));
    (0..5).for_each(|_| shard.enqueue(now, source.one(&one)));
    source.lease.end();
    assert!(shard.next(now).is_none());
    assert_eq!(shard.lane(Lane::Healthy), Default::default());
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_was_routed_before_its_endpoint_went_and_comes_after_is_doomed() {
    let (budget, now) = (Budget::new(1 << 28), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let version = |registry_offset| Arc::new(Endpoint { registry_offset, ..endpoint("one", "t") });
    let reasons = |shard: &mut Shard| -> Vec<DeadReason> {
        let doomed = shard.take_doomed();
        doomed
            .into_iter()
            .map(|doomed| {
                doomed.ack.done();
                doomed.reason
            })
            .collect()
    };
    shard.control(now, removed("one", 5));
    shard.enqueue(now, source.one(&version(5)));
    assert_eq!(reasons(&mut shard), [DeadReason::EndpointDeleted]);
    shard.enqueue(now, source.one(&version(6)));
    assert_eq!(reasons(&mut shard), [], "one that was made anew under the same id");
    assert!(shard.next(now).is_some());

    // Unknown here until now: disabled after the delivery was routed.
    let other = |registry_offset, status| Arc::new(Endpoint { registry_offset, status, ..endpoint("other", "t") });
    shard.control(now, Control::Endpoint(other(8, Status::Disabled)));
    shard.enqueue(now, source.one(&other(7, Status::Enabled)));
    assert_eq!(reasons(&mut shard), [DeadReason::EndpointDisabled]);
    shard.enqueue(now, source.one(&other(9, Status::Enabled)));
    assert_eq!(reasons(&mut shard), []);

    // It is remembered for as long as anything can be on its way, and a declared one may come back as it was.
    shard.control(now, removed("third", 5));
    shard.control(now + 600 * SECOND, removed("declared", Endpoint::DECLARED));
    for (id, registry_offset) in [("third", 5), ("declared", Endpoint::DECLARED)] {
        shard.enqueue(now + 600 * SECOND, source.one(&Arc::new(Endpoint { registry_offset, ..endpoint(id, "t") })));
        assert_eq!(reasons(&mut shard), [], "{id}");
    }
    shard.end(now).into_iter().for_each(|(_, ack)| ack.abandon());
}
