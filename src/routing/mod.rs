//! Routing: which endpoints want an event. Matching is [`table`]; it holds what is configured and knows nothing of health or delivery.

pub mod table;

pub use table::{RouteChange, RouteReader, RouteTable};
