//! Events (and deliveries meant for one endpoint: tests, replays, redrives) from the source topics.

use std::sync::Arc;

use super::{Config, Handle, Wiring, start, turn};
use crate::log::{Log, LogError, Subscription};

/// Starts to read the source topics as a member of the group.
pub fn spawn(log: Arc<dyn Log>, subscription: Subscription, config: Config, wiring: Wiring) -> Result<Handle, LogError> {
    let consumer = log.consumer(subscription)?;
    start("events", |shared| turn::Source::new(turn::Kind::Events, log, consumer, config, wiring, shared))
}
