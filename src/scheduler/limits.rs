//! Limits: the rate of an endpoint, its concurrency, and the budget for spills.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::model::Rate;

/// The time of a shard as `governor` reads it: what the shard was last told, so that its decisions depend on its arguments alone.
#[derive(Debug, Clone)]
pub struct ShardClock {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl ShardClock {
    pub fn new(start: Instant) -> ShardClock {
        ShardClock { start, nanos: Arc::default() }
    }

    fn set(&self, now: Instant) {
        let nanos = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for ShardClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.nanos.load(Ordering::Relaxed).into()
    }
}

/// This instance's part of the rate of an endpoint (GCRA).
#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    instances: NonZeroU32,
    clock: ShardClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, ShardClock, NoOpMiddleware<Nanos>>,
}

impl RateLimit {
    /// A burst is a tenth of a second's worth, at least one: more would be seen as a breach by an endpoint that counts per second.
    pub fn new(rate: Rate, instances: NonZeroU32, clock: &ShardClock) -> RateLimit {
        const BURST_SECONDS: f64 = 0.1;
        let per_second = rate.per_second() / f64::from(instances.get());
        let interval = Duration::from_secs_f64(1.0 / per_second).max(Duration::from_nanos(1));
        let burst = NonZeroU32::new((per_second * BURST_SECONDS) as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(interval).expect("the interval is above zero").allow_burst(burst);
        RateLimit { rate, instances, clock: clock.clone(), limiter: RateLimiter::direct_with_clock(quota, clock.clone()) }
    }

    pub fn is_for(&self, rate: Rate, instances: NonZeroU32) -> bool {
        self.rate == rate && self.instances == instances
    }

    /// Takes a permit, or says how long to wait for one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        self.clock.set(now);
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()).max(Duration::from_nanos(1)))
    }

    pub fn per_second(&self) -> f64 {
        self.rate.per_second() / f64::from(self.instances.get())
    }
}

/// How many requests may be in flight to one endpoint: halved by a timeout or when the endpoint asks for less, and grown by one for as many
/// successes as it is large. A cut answers for all requests that were in flight when it was made: a stumble of 64 is one, not 64.
#[derive(Debug)]
pub struct Window {
    size: u16,
    most: u16,
    successes: u16,
    cut_at: Option<Instant>,
}

impl Window {
    pub fn new(most: u16) -> Window {
        Window { size: most, most, successes: 0, cut_at: None }
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    /// The configured bound has changed: a window that was full stays full.
    pub fn set_most(&mut self, most: u16) {
        self.size = if self.size == self.most { most } else { self.size.min(most) };
        self.most = most;
    }

    pub fn grow(&mut self) {
        self.successes += 1;
        if self.successes >= self.size {
            self.successes = 0;
            self.size = self.most.min(self.size + 1);
        }
    }

    /// `started`: when the request began that gives reason to this.
    pub fn cut(&mut self, now: Instant, started: Instant) {
        if self.cut_at.is_none_or(|cut| started >= cut) {
            self.size = (self.size / 2).max(1);
            self.successes = 0;
            self.cut_at = Some(now);
        }
    }
}

/// How many deliveries may be spilled: so many per second in any case, and some for each answer, so that spilling keeps to a proportion of
/// what is delivered, and an outage of everything stops the sources instead of moving the topic.
#[derive(Debug)]
pub struct SpillBudget {
    tokens: f64,
    per_second: f64,
    per_answer: f64,
    most: f64,
    at: Instant,
}

impl SpillBudget {
    pub fn new(per_second: f64, per_answer: f64, now: Instant) -> SpillBudget {
        /// What may be saved up, in seconds of the fixed rate: enough for a short stumble of a busy endpoint.
        const SAVED_SECONDS: f64 = 10.0;
        let most = (per_second * SAVED_SECONDS).max(1.0);
        SpillBudget { tokens: most, per_second, per_answer, most, at: now }
    }

    pub fn answered(&mut self) {
        self.tokens = self.most.min(self.tokens + self.per_answer);
    }

    /// Whether one more may be spilled.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }

    /// Takes what cannot be refused from what others may spill.
    pub fn take_anyway(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    fn refill(&mut self, now: Instant) {
        self.tokens = self.most.min(self.tokens + (now - self.at).as_secs_f64() * self.per_second);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_over_any_second_and_is_divided_among_the_fleet() {
        for (rate, instances, most) in [("50/s", 1, 55), ("50/s", 2, 27), ("600/m", 1, 11), ("1/s", 1, 2), ("1000/h", 1, 1)] {
            let start = Instant::now();
            let clock = ShardClock::new(start);
            let limit = RateLimit::new(rate.parse().expect("a rate"), NonZeroU32::new(instances).expect("above zero"), &clock);
            let (mut taken, mut now) = (0, start);
            while now < start + Duration::from_secs(1) {
                match limit.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => now += wait,
                }
            }
            assert!((1..=most).contains(&taken), "{rate} {instances}: {taken}");
        }
    }

    #[test]
    fn a_window_is_cut_once_per_stumble_and_grows_slowly() {
        let mut window = Window::new(64);
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        for _ in 0..64 {
            window.cut(later, start);
        }
        assert_eq!(window.size(), 32);
        for round in 1..10 {
            window.cut(later + Duration::from_secs(5 * round), later + Duration::from_secs(5 * (round - 1)));
        }
        assert_eq!(window.size(), 1);
        window.grow();
        assert_eq!(window.size(), 2);
        window.grow();
        assert_eq!(window.size(), 2);
        window.grow();
        assert_eq!(window.size(), 3);
        window.set_most(2);
        assert_eq!(window.size(), 2);
        window.set_most(64);
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn spills_keep_to_a_rate_and_to_a_proportion_of_the_answers() {
        let start = Instant::now();
        let mut budget = SpillBudget::new(10.0, 2.0, start);
        let allowed = |budget: &mut SpillBudget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(allowed(&mut budget, start), 100);
        assert_eq!(allowed(&mut budget, start + Duration::from_secs(2)), 20);
        (0..10).for_each(|_| budget.answered());
        assert_eq!(allowed(&mut budget, start + Duration::from_secs(2)), 20);
    }
}
