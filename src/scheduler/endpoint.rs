//! What a shard knows of one endpoint.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Config, Ended, Spill,
    fair::Standing,
    limits::{RateLimit, Window},
    queue::Queue,
};
use crate::model::{DeadReason, Endpoint, HealthState, Status};

/// Seconds that a request is taken to need before anything was measured.
const HELD_UNKNOWN: f32 = 0.1;

#[derive(Debug)]
pub struct State {
    pub endpoint: Arc<Endpoint>,
    pub health: HealthState,
    pub queue: Queue,
    pub rate: Option<RateLimit>,
    /// Until then the rate allows no request.
    pub resumes_at: Option<Instant>,
    pub in_flight: u16,
    /// Of those, how many have waited for longer than `old_after`.
    pub old: u16,
    /// The endpoint is gone; this goes when its last request has ended.
    pub removed: bool,
    window: Window,
    /// Its last answer proves until then that it answers.
    proven_until: Option<Instant>,
    /// Seconds that a request holds its connection, smoothed.
    held: f32,
    /// When what was spilled is done with, at its pace. A time, not a number: what was spilled here may come back to another instance.
    away_until: Option<Instant>,
}

impl State {
    pub fn new(endpoint: Arc<Endpoint>, health: HealthState, config: &Config) -> State {
        State {
            window: Window::new(most(&endpoint, config)),
            endpoint,
            health,
            queue: Queue::default(),
            rate: None,
            resumes_at: None,
            in_flight: 0,
            old: 0,
            removed: false,
            proven_until: None,
            held: HELD_UNKNOWN,
            away_until: None,
        }
    }

    /// Takes over a changed configuration. Another URL has everything to prove.
    pub fn change(&mut self, endpoint: Arc<Endpoint>, config: &Config) {
        if self.endpoint.url != endpoint.url {
            self.window = Window::new(most(&endpoint, config));
            self.proven_until = None;
            self.held = HELD_UNKNOWN;
        } else {
            self.window.set_most(most(&endpoint, config));
        }
        self.endpoint = endpoint;
    }

    /// Why nothing can be delivered to it at all.
    pub fn doom(&self) -> Option<DeadReason> {
        match (self.endpoint.status, self.health) {
            (Status::Disabled, _) => Some(DeadReason::EndpointDisabled),
            (Status::Enabled, HealthState::Inactive) => Some(DeadReason::EndpointInactive),
            (Status::Enabled, HealthState::Active | HealthState::Degraded) => None,
        }
    }

    pub fn is_proven(&self, now: Instant) -> bool {
        self.proven_until.is_some_and(|until| now < until)
    }

    /// Where it stands if it can be served now.
    pub fn standing(&self, now: Instant) -> Option<Standing> {
        if self.queue.is_empty() || self.resumes_at.is_some() {
            return None;
        }
        let proven = self.is_proven(now);
        let most = if proven { self.window.size() } else { 1 };
        if self.in_flight >= most {
            return None;
        }
        Some(match self.health {
            HealthState::Degraded | HealthState::Inactive => Standing::Degraded,
            HealthState::Active if proven && self.old == 0 => Standing::Proven,
            HealthState::Active => Standing::Unproven,
        })
    }

    /// Learns from the end of a request that began at `started`.
    pub fn learn(&mut self, now: Instant, started: Instant, ended: Ended, held: Duration, config: &Config) {
        if matches!(ended, Ended::Success | Ended::Answered | Ended::Backpressure) {
            self.proven_until = Some(now + config.proven_for);
        }
        // A timeout says more about the next request than an answer does.
        let mut weight = 0.125;
        match ended {
            Ended::Success => {
                if self.health == HealthState::Active {
                    self.window.grow();
                }
            }
            Ended::Answered | Ended::Failure => {}
            Ended::Backpressure => self.window.cut(now, started),
            Ended::Timeout => {
                self.window.cut(now, started);
                weight = 0.5;
            }
            Ended::Nothing => return,
        }
        self.held += (held.as_secs_f32() - self.held) * weight;
    }

    /// Bytes that may wait for it now, when sources may still fill `room` bytes. Measured by that, queues that are too long begin to leave before the
    /// sources stop for everybody, however many there are.
    pub fn queue_limit(&self, room: usize, config: &Config) -> usize {
        let share = match self.health {
            HealthState::Active => config.queue_share,
            HealthState::Degraded | HealthState::Inactive => config.queue_share_degraded,
        };
        (room as f64 * share) as usize
    }

    pub fn spilled(&mut self, now: Instant) {
        let needs = Duration::from_secs_f64(self.pace(now).min(Spill::LONGEST.as_secs_f64()));
        let until = self.away_until.map_or(now, |until| until.max(now)) + needs;
        self.away_until = Some(until.min(now + Spill::LONGEST));
    }

    /// Seconds that it needs for one more delivery.
    fn pace(&self, now: Instant) -> f64 {
        let at_once = if self.is_proven(now) { self.window.size() } else { 1 };
        let by_time = f64::from(self.held) / f64::from(at_once);
        self.rate.as_ref().map_or(by_time, |rate| by_time.max(1.0 / rate.per_second()))
    }

    /// How long it needs for what waits here.
    pub fn queue_time(&self, now: Instant) -> Duration {
        let seconds = f64::from(self.queue.len()) * self.pace(now);
        Duration::from_secs_f64(seconds.min(Spill::LONGEST.as_secs_f64()))
    }

    /// How long it needs for what waits already, here and in the log.
    pub fn backlog(&self, now: Instant) -> Duration {
        let away = self.away_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)).as_secs_f64();
        let seconds = away + self.queue_time(now).as_secs_f64();
        Duration::from_secs_f64(seconds.min(Spill::LONGEST.as_secs_f64())).max(Spill::SHORTEST)
    }
}

fn most(endpoint: &Endpoint, config: &Config) -> u16 {
    endpoint.concurrency.map_or(config.concurrency, std::num::NonZeroU16::get)
}
