//! What operators see of us: metrics and logs.

pub mod logging;
pub mod metrics;

pub use metrics::Metrics;
