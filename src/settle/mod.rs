//! Settling: what an outcome asks for, and doing it.
//!
//! [`policy`] decides and does nothing; [`retry`] does what was decided and decides nothing. The promise of the whole program hangs on one
//! order of steps here: what a delivery turns into (a record of a retry tier, a dead letter) is durable **before** its acknowledgement is given.
//! Until then the append is tried again, for as long as this instance owns the partition; once it does not, nothing is appended and
//! nothing acknowledged, for the new owner sends again.
//!
//! [`dead_letter`] is the view of the dead-letter topic and the way back out of it, [`journal`] the record of attempts,
//! [`history`] what a ticket remembers of what was sent because of it.

pub mod dead_letter;
pub mod history;
pub mod journal;
pub mod policy;
pub mod retry;

#[cfg(test)]
mod test_log;

pub use policy::{Config, Policy};
pub use retry::{Dead, Destinations, Settler, Spill};
