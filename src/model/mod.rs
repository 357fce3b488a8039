//! The nouns of posthaste: plain values that every stage speaks of. No I/O, no async, nothing of ours imported.
//!
//! Read in this order: [`event`] (the fact to tell), [`endpoint`] (who wants to hear it), [`delivery`] (one event owed to one
//! endpoint), [`attempt`] (one request of a delivery and what it told us), [`health`] (what attempts say of an endpoint),
//! [`ack`] (how a record learns that all of its deliveries are settled).

pub mod ack;
pub mod agent;
pub mod attempt;
pub mod budget;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod field;
pub mod header;
pub mod health;
pub mod json;
pub mod oauth;
pub mod secret;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod tls;
pub mod token;
pub mod units;

/// UTF-8 text that shares the buffer it was read from; a clone costs a reference count.
pub use bytestring::ByteString as Text;

pub use ack::{Ack, Lease, OpenRecord, Tracked};
pub use agent::Agent;
pub use attempt::{Attempt, Blame, Failure, Outcome};
pub use budget::{Budget, Permit};
pub use delivery::{Class, DeadReason, Delivery, Position, Purpose, Routed, Settlement, TopicPartition};
pub use endpoint::{Auth, Endpoint, EndpointUrl, Format, RetrySchedule, Signing, Status, TypePattern};
pub use event::{Direction, Event, Priority};
pub use field::FieldError;
pub use header::HeaderUse;
pub use health::{HealthRecord, HealthState, Observation, Transition};
pub use oauth::OAuth2;
pub use secret::Secret;
pub use time::{Clock, SystemClock, Timestamp};
pub use tls::ClientTls;
pub use units::Rate;
