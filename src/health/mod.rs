//! The health of endpoints: failure scores, shared by the fleet and allowed to be lost.
//!
//! The rules are a pure function in [`score`]. Two implementations of [`Health`] keep the records: [`memory`] for one machine,
//! [`redis`] for a fleet. Both answer at once: what needs the network goes on in the background, so no delivery ever waits for it.
//!
//! **The happy path costs nothing**: a success of an endpoint without a score is dropped before it reaches any shared state. That an
//! endpoint has a score is told to all instances, and from then on its successes are reported too, wherever they happen, so
//! "consecutive" holds over the fleet.

pub mod memory;
pub mod own_fault;
pub mod redis;
pub mod score;

use crate::model::{HealthRecord, Observation, Text, Transition};

/// Keeps health records.
///
/// Every change of state is sent once, by the instance that caused it, as a [`Transition`] into the channel given at construction. Each
/// instance also hears of every change of a record's state through [`Update`]s, whoever caused it.
pub trait Health: Send + Sync + 'static {
    /// Takes note of an observation. Returns at once.
    fn report(&self, endpoint: &Text, observation: Observation);

    /// The record as this instance knows it; none: Active without a score.
    fn get(&self, endpoint: &Text) -> Option<HealthRecord>;

    /// Puts back what the registry knows (at start, and when the registry is ahead). Older versions change nothing.
    fn restore(&self, endpoint: &Text, record: HealthRecord);

    /// Forgets a deleted endpoint.
    fn forget(&self, endpoint: &Text);

    /// Live instances of the fleet, as last known; 1 where there is no fleet.
    fn instances(&self) -> u32;

    /// Whether the shared store answers; always true for memory.
    fn is_connected(&self) -> bool;
}

/// What an implementation tells the instance it runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// This instance caused it: append it to the registry and tell the event.
    Transition(Transition),
    /// An endpoint's record has changed its state, here or elsewhere: schedule it accordingly.
    State { endpoint: Text, record: HealthRecord },
    /// The number of live instances has changed.
    Instances(u32),
}
