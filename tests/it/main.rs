//! Scenarios on real components, one binary so that it is linked once. Run them by `tests/run`, which starts Kafka and Redis.

mod support;

mod log_contract;
