//! Health in memory, for one machine. The registry keeps the transitions, so a restart forgets nothing but counts.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    Health, Update,
    mirror::{Cause, Mirror},
    score::{self, Rules},
};
use crate::{
    model::{Clock, HealthRecord, Observation, Text},
    telemetry::Metrics,
};

pub struct MemoryHealth {
    mirror: Mirror,
    rules: Rules,
    clock: Arc<dyn Clock>,
}

impl MemoryHealth {
    pub fn new(rules: Rules, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, updates: mpsc::Sender<Update>) -> Arc<MemoryHealth> {
        Arc::new(MemoryHealth { mirror: Mirror::new(updates, metrics), rules, clock })
    }
}

impl Health for MemoryHealth {
    fn report(&self, endpoint: &Text, observation: Observation) {
        if super::is_happy(observation) && !self.mirror.is_noted(endpoint) {
            return;
        }
        let now = self.clock.now_ms();
        self.mirror.change(endpoint, now, Cause::Here, |entry| {
            entry.record = score::apply(std::mem::take(&mut entry.record), observation, now, &self.rules);
        });
    }

    fn get(&self, endpoint: &Text) -> Option<HealthRecord> {
        self.mirror.get(endpoint)
    }

    fn restore(&self, endpoint: &Text, record: HealthRecord) {
        self.mirror.change(endpoint, self.clock.now_ms(), Cause::Elsewhere, |entry| {
            if record.version > entry.record.version {
                entry.record = record;
            }
        });
    }

    fn forget(&self, endpoint: &Text) {
        self.mirror.forget(endpoint);
    }

    fn instances(&self) -> u32 {
        1
    }

    fn is_connected(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HealthState, time::ManualClock};

    const OK: Observation = Observation::Success { slow: false, first: true };

    fn health(capacity: usize) -> (Arc<MemoryHealth>, mpsc::Receiver<Update>, ManualClock) {
        let (send, updates) = mpsc::channel(capacity);
        let clock = ManualClock::at_ms(1_000_000);
        (MemoryHealth::new(Rules::default(), Arc::new(clock.clone()), Metrics::new(), send), updates, clock)
    }

    fn told(updates: &mut mpsc::Receiver<Update>) -> Vec<String> {
        std::iter::from_fn(|| updates.try_recv().ok())
            .map(|update| match update {
                Update::Transition(t) => {
                    format!("{}: {} to {} v{}", t.endpoint, t.from.as_str(), t.record.state.as_str(), t.record.version)
                }
                Update::State { endpoint, record } => format!("{endpoint} is {}", record.state.as_str()),
                Update::Instances(count) => format!("{count} instances"),
            })
            .collect()
    }

    #[test]
    fn a_success_without_a_score_leaves_no_trace() {
        let (health, mut updates, _) = health(10);
        health.report(&"a".into(), OK);
        assert_eq!(health.get(&"a".into()), None);
        assert!(told(&mut updates).is_empty());
    }

    #[test]
    fn a_transition_is_told_once_and_the_state_with_it() {
        let (health, mut updates, clock) = health(10);
        let endpoint: Text = "a".into();
        health.report(&endpoint, Observation::Timeout { started: 999_000 });
        assert_eq!(told(&mut updates), ["a: active to degraded v1", "a is degraded"]);
        health.report(&endpoint, Observation::Timeout { started: 999_000 });
        assert!(told(&mut updates).is_empty());
        clock.advance_ms(10);
        (0..50).for_each(|_| health.report(&endpoint, OK));
        assert_eq!(told(&mut updates), ["a: degraded to active v2", "a is active"]);
        assert_eq!(health.mirror.select(|entry| score::is_noted(&entry.record)).len(), 0);
        assert!(!health.mirror.is_noted(&endpoint));
    }

    #[test]
    fn what_the_registry_knows_is_put_back_unless_it_is_older() {
        let (health, mut updates, _) = health(10);
        let endpoint: Text = "a".into();
        let record = HealthRecord { state: HealthState::Inactive, version: 4, ..HealthRecord::default() };
        health.restore(&endpoint, record.clone());
        assert_eq!(told(&mut updates), ["a is inactive"]);
        health.restore(&endpoint, HealthRecord { version: 3, ..HealthRecord::default() });
        assert_eq!(health.get(&endpoint), Some(record));
        health.report(&endpoint, Observation::Enabled);
        assert_eq!(told(&mut updates), ["a: inactive to active v5", "a is active"]);
        health.forget(&endpoint);
        assert_eq!(health.get(&endpoint), None);
    }

    #[test]
    fn a_full_channel_delays_what_is_told_and_swallows_nothing() {
        let (health, mut updates, _) = health(1);
        health.report(&"a".into(), Observation::Gone);
        health.report(&"b".into(), Observation::Timeout { started: 0 });
        health.report(&"b".into(), Observation::Gone);
        let mut all = Vec::new();
        for _ in 0..10 {
            all.extend(told(&mut updates));
            health.report(&"a".into(), OK);
        }
        all.extend(told(&mut updates));
        all.sort();
        assert_eq!(all, ["a is inactive", "a: active to inactive v1", "b is inactive", "b: active to inactive v2"]);
    }
}
