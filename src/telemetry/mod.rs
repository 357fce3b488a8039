//! What operators see of us: metrics and logs.

pub mod logging;
pub mod metrics;
pub mod process;
pub mod trouble;

pub use metrics::Metrics;
pub use trouble::Trouble;
