//! Endpoints that went away: what was routed to one before that comes only now must not be sent.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::model::{DeadReason, Endpoint, Text};

/// How long a delivery may be on its way from the route table to a shard, with much to spare: a filter or a full inbox may hold it up.
const KEPT: Duration = Duration::from_secs(600);

/// The last version of each endpoint that has gone, for [`KEPT`].
#[derive(Debug, Default)]
pub(super) struct Gone {
    versions: HashMap<Text, (i64, DeadReason), RandomState>,
    /// In the order in which they went.
    since: VecDeque<(Instant, Text, i64)>,
}

impl Gone {
    /// `version`: the registry offset of its last version. One that is declared in the configuration has none, and may come back as it was.
    pub fn add(&mut self, now: Instant, endpoint: &Text, version: i64, reason: DeadReason) {
        while self.since.front().is_some_and(|(since, ..)| now.duration_since(*since) >= KEPT) {
            let (_, old, version) = self.since.pop_front().expect("it has a front");
            if self.versions.get(&old).is_some_and(|(last, _)| *last == version) {
                self.versions.remove(&old);
            }
        }
        if version != Endpoint::DECLARED {
            self.versions.insert(endpoint.clone(), (version, reason));
            self.since.push_back((now, endpoint.clone(), version));
        }
    }

    /// Why a delivery that was routed to this version must not be sent, if it must not.
    pub fn reason(&self, endpoint: &Endpoint) -> Option<DeadReason> {
        self.versions.get(&endpoint.id).filter(|(last, _)| endpoint.registry_offset <= *last).map(|(_, reason)| *reason)
    }
}
