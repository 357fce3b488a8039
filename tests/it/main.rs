//! Scenarios on real components, one binary so that it is linked once. Run them by `tests/run`, which starts Kafka and Redis.

mod support;

mod agents;
mod bad_input;
mod cli;
mod crash;
mod examples;
mod filters;
mod fleet;
mod hostile;
mod hub;
mod kafka_log;
mod log_contract;
mod log_contract_kafka;
mod main_job;
mod oauth;
mod observability;
mod products;
mod reload;
mod retries;
mod round_trip;
mod suspension;
mod zenvia;
