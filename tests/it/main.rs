//! Scenarios on real components, one binary so that it is linked once. Run them by `tests/run`, which starts Kafka and Redis.

mod support;

mod kafka_log;
mod log_contract;
mod log_contract_kafka;
