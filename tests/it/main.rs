//! Scenarios on real components, one binary so that it is linked once. Run them by `tests/run`, which starts Kafka and Redis.

mod support;

mod bad_input;
mod crash;
mod fleet;
mod hostile;
mod log_contract;
mod main_job;
mod observability;
mod retries;
mod round_trip;
mod suspension;
