//! The rule that limits how many subscriptions of Zenvia Customer Cloud have the same criteria (WIRE.md 1.3): event type and channel, within
//! a tenant.
//!
//! Instances register without asking each other, so the rule is judged where everybody sees the same: in the order of the topic. A record
//! that creates an endpoint under the rule carries [`MARK`]; when it is applied, its writer learns whether there were as many before it, and
//! if so takes it back. A record that came too late does not count against later ones, for nobody. An endpoint that is made in another way (the
//! native API, the configuration) counts and is never refused.

use crate::model::{Endpoint, Format, Text, TypePattern};

/// The header of a record that creates an endpoint under the rule.
pub const MARK: &str = "posthaste-among-few";

/// What may be the same for a few endpoints only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Criteria {
    tenant: Text,
    kind: Text,
    /// None: event types that have no channel as a criterion.
    channel: Option<Text>,
}

impl Criteria {
    /// WIRE.md 1.3.
    pub const AT_MOST: usize = 2;

    /// Those of an endpoint that is a subscription of that product, with one type and at most one channel as a subscription has them.
    pub fn of(endpoint: &Endpoint) -> Option<Criteria> {
        let ([TypePattern::Exact(kind)], Format::Zenvia | Format::ZenviaV1) = (endpoint.types.as_slice(), endpoint.format) else {
            return None;
        };
        let channel = match endpoint.channels.as_slice() {
            [] => None,
            [channel] => Some(channel.clone()),
            _ => return None,
        };
        Some(Criteria { tenant: endpoint.tenant.clone(), kind: kind.clone(), channel })
    }
}
