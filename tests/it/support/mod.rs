//! What the scenarios stand on.

pub mod kafka;
pub mod redis;
