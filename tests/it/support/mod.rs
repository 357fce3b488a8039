//! What the scenarios stand on.

pub mod daemon;
pub mod kafka;
pub mod receiver;
pub mod redis;
pub mod verify;
