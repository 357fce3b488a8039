//! Routing: which endpoints want an event. Matching is [`table`]; it holds what is configured and knows nothing of health or delivery. What an
//! endpoint asks beyond type, channel and direction is a [`filter`], and those run in the [`sieve`].

pub mod filter;
pub mod sieve;
pub mod table;

pub use table::{RouteChange, RouteReader, RouteTable};
