//! posthaste: a webhook dispatcher.
//!
//! The path of one event: [`sources`] reads it from the [`log`], [`routing`] finds the endpoints that want it, [`scheduler`] decides which
//! delivery goes next, [`delivery`] builds, signs and sends the request, and [`settle`] does what the outcome asks for: acknowledge, retry,
//! or dead-letter. [`app`] is the only place that knows all of them.
#![forbid(unsafe_code)]

pub mod model;
pub mod telemetry;

pub mod health;
pub mod log;
pub mod registry;

pub mod delivery;
pub mod routing;
pub mod scheduler;
pub mod settle;
pub mod sources;

pub mod api;
pub mod cli;
pub mod config;

pub mod app;
pub mod shutdown;
