//! Limits: the rate of an endpoint, its concurrency, and the budget for spills.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{self, Relaxed},
        },
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
/// what is delivered, and an outage of everything stops the sources instead of moving the topic. One for all shards: the answers of one pay for
/// what must leave another.
#[derive(Debug)]
pub struct SpillBudget {
    /// In millionths, which is what a rate per second brings in a microsecond.
    tokens: AtomicI64,
    /// Microseconds after `start` that tokens were brought for.
    refilled: AtomicU64,
    start: Instant,
    per_second: f64,
    per_answer: i64,
    most: i64,
}

impl SpillBudget {
    const TOKEN: i64 = 1_000_000;

    pub fn new(per_second: f64, per_answer: u32, now: Instant) -> SpillBudget {
        /// What may be saved up, in seconds of the fixed rate: enough for a short stumble of a busy endpoint.
        const SAVED_SECONDS: f64 = 10.0;
        let most = ((per_second * SAVED_SECONDS).max(1.0) * SpillBudget::TOKEN as f64) as i64;
        SpillBudget {
            tokens: AtomicI64::new(most),
            refilled: AtomicU64::new(0),
            start: now,
            per_second,
            per_answer: i64::from(per_answer) * SpillBudget::TOKEN,
            most,
        }
    }

    pub fn answered(&self) {
        self.add(self.per_answer);
    }

    /// Whether one more may be spilled.
    pub fn take(&self, now: Instant) -> bool {
        self.refill(now);
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| (tokens >= SpillBudget::TOKEN).then(|| tokens - SpillBudget::TOKEN)).is_ok()
    }

    /// Takes what cannot be refused from what others may spill.
    pub fn take_anyway(&self, now: Instant) {
        self.refill(now);
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| Some((tokens - SpillBudget::TOKEN).max(0)));
    }

    fn refill(&self, now: Instant) {
        let now = now.saturating_duration_since(self.start).as_micros() as u64;
        let before = self.refilled.fetch_max(now, Relaxed);
        self.add((now.saturating_sub(before) as f64 * self.per_second) as i64);
    }

    /// Nothing is written while there is all that may be saved up, which is the rule: every request of every shard comes by here.
    fn add(&self, tokens: i64) {
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |there| (there < self.most).then(|| self.most.min(there + tokens)));
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
        let budget = SpillBudget::new(10.0, 2, start);
        let allowed = |now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(allowed(start), 100);
        assert_eq!(allowed(start + Duration::from_secs(2)), 20);
        (0..10).for_each(|_| budget.answered());
        assert_eq!(allowed(start + Duration::from_secs(2)), 20);
        // However often it is asked in between, nothing of the rate is lost, and nothing comes twice.
        let asked = (0..1_000_000).filter(|micros| budget.take(start + Duration::from_secs(2) + Duration::from_micros(*micros))).count();
        assert_eq!(asked, 9, "the tenth comes when the second is over");
        assert_eq!(allowed(start + Duration::from_secs(1)), 0, "a clock of another thread that is behind brings nothing");
        (0..10_000).for_each(|_| budget.answered());
        assert_eq!(allowed(start + Duration::from_secs(3)), 100, "no more is saved up than ten seconds of the rate");
    }
}
