//! The log on Kafka.
//!
//! What this backend promises beyond the contract of [`crate::log`], and why:
//!
//! - A rebalance moves only the partitions that must move (cooperative-sticky); with `kafka.instance` a restart within the session
//!   timeout of 10 s moves none, and the restarted process goes on where its last commit was.
//! - Positions are committed by hand, with their text; nothing is committed that the caller did not commit, and nothing by a member
//!   that does not own the partition (the broker alone would only look at the membership, not at the partition).
//! - Where a new group begins is resolved once and committed before the first record, so that a crash cannot move it.
//! - An append is acknowledged by all in-sync replicas; the producer is idempotent, and is replaced when librdkafka declares it dead.
//! - Every buffer has a bound: read ahead per consumer (`queued.max.messages.kbytes`), appends (`queue.buffering.max.kbytes`), both
//!   librdkafka properties that `[kafka.properties]` can change.
//!
//! Consumers are `BaseConsumer`s that belong to the thread of their caller. The stream API of the same library has a history of lost
//! wake-ups, and pausing partitions as everyday back-pressure throws away what was read ahead; a thread that just does not poll needs neither.

mod admin;
mod config;
mod consumer;
mod context;
mod convert;
mod producer;
mod reader;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    topic_partition_list::Offset,
};

use crate::{
    log::{Append, Consumer, From, Log, LogError, Reader, Subscription, TopicSpec, Topics},
    model::{Position, TopicPartition},
    telemetry::metrics::Metrics,
};

use config::REQUEST_TIMEOUT;
pub use config::{Config, Properties};
use consumer::KafkaConsumer;
use context::{Member, locked};
use convert::{plain_list, unavailable};
use producer::Producer;
use reader::KafkaReader;

pub struct KafkaLog {
    config: Config,
    metrics: Arc<Metrics>,
    producer: Arc<Producer>,
    queries: Arc<Queries>,
}

/// Clients that ask for metadata and committed positions, one for each group that was asked for.
#[derive(Default)]
struct Queries(Mutex<HashMap<String, Arc<BaseConsumer<Member>>>>);

/// What the clients of [`Queries`] have to say is heard this often.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

impl Queries {
    /// Hears the clients out until the log is gone: nobody polls them otherwise, and what they say would pile up.
    fn listen(queries: Weak<Queries>) {
        while let Some(queries) = queries.upgrade() {
            let clients: Vec<_> = locked(&queries.0).values().cloned().collect();
            drop(queries);
            for client in clients {
                while client.poll(Duration::ZERO).is_some() {}
            }
            thread::park_timeout(LISTEN_EVERY);
        }
    }
}

impl KafkaLog {
    /// Checks the configuration and makes the producer; no broker need be there yet. [`Log::ensure`] is the first call that needs one.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<KafkaLog>, LogError> {
        let problems = config.check();
        if !problems.is_empty() {
            let text: Vec<String> = problems.iter().map(|(key, problem)| format!("{key}: {problem}")).collect();
            return Err(LogError::Fatal(text.join("; ")));
        }
        let producer =
            Producer::new(config.producer(), config.message_max(), Arc::clone(&metrics)).map_err(|wrong| config.refused(&wrong))?;
        let queries = Arc::new(Queries::default());
        let listened = Arc::downgrade(&queries);
        thread::Builder::new()
            .name("kafka-queries".to_owned())
            .spawn(move || Queries::listen(listened))
            .map_err(|wrong| LogError::Fatal(format!("kafka: no thread: {wrong}")))?;
        Ok(Arc::new(KafkaLog { config: config.clone(), metrics, producer: Arc::new(producer), queries }))
    }

    fn query(&self, group: &str) -> Result<Arc<BaseConsumer<Member>>, LogError> {
        let mut clients = locked(&self.queries.0);
        if let Some(client) = clients.get(group) {
            return Ok(Arc::clone(client));
        }
        let context = Member::new("query");
        context.close();
        let client: BaseConsumer<Member> =
            self.config.reader(group).create_with_context(context).map_err(|wrong| self.config.refused(&wrong))?;
        let client = Arc::new(client);
        clients.insert(group.to_owned(), Arc::clone(&client));
        Ok(client)
    }
}

impl Log for KafkaLog {
    fn ensure<'a>(&'a self, topics: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            let query = self.query(&self.config.group)?;
            let (config, producer, topics) = (self.config.clone(), Arc::clone(&self.producer), topics.to_vec());
            admin::off_thread(move || admin::ensure(&config, &query, &producer, &topics)).await
        })
    }

    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>> {
        let producer = Arc::clone(&self.producer);
        Box::pin(async move { producer.append(records).await })
    }

    fn consumer(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, LogError> {
        let Subscription { group, topics, start } = subscription;
        let client = self.config.consumer(&group, self.config.instance.as_deref());
        let base: BaseConsumer<Member> =
            client.create_with_context(Member::new("consumer")).map_err(|wrong| self.config.refused(&wrong))?;
        let consumer = KafkaConsumer::new(base, Arc::clone(&self.metrics), group, self.config.instance.clone(), start);
        match topics {
            Topics::Named(names) => consumer.subscribe(&names.iter().map(|name| &**name).collect::<Vec<_>>())?,
            Topics::Prefixed(prefix) => consumer.subscribe(&[&pattern(&prefix)])?,
        }
        Ok(Box::new(consumer))
    }

    fn reader(&self, partition: TopicPartition, from: From) -> Result<Box<dyn Reader>, LogError> {
        let context = Member::new("reader");
        Ok(Box::new(KafkaReader::open(&self.config.reader(&self.config.group), context, partition, from)?))
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, LogError> {
        let query = self.query(&self.config.group)?;
        let found = admin::partitions(&self.config, &query, topic)?;
        found.ok_or_else(|| LogError::Unavailable(format!("kafka: topic `{topic}` is not there")))
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        let name: Arc<str> = topic.into();
        let all: Vec<TopicPartition> =
            self.partitions(topic)?.into_iter().map(|partition| TopicPartition { topic: Arc::clone(&name), partition }).collect();
        let answer = self
            .query(group)?
            .committed_offsets(plain_list(&all), REQUEST_TIMEOUT)
            .map_err(unavailable(&format!("reading what group `{group}` committed")))?;
        let mut committed = Vec::new();
        for partition in all {
            let Some(element) = answer.find_partition(topic, partition.partition) else { continue };
            element.error().map_err(unavailable(&format!("reading what group `{group}` committed")))?;
            if let Offset::Offset(offset) = element.offset() {
                committed.push((partition, offset));
            }
        }
        Ok(committed)
    }

    fn close(&self, deadline: Duration) {
        self.producer.close(deadline);
    }
}

/// The subscription to all topics with a prefix: librdkafka takes what begins with `^` as a pattern.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::from("^");
    for letter in prefix.chars() {
        if !letter.is_ascii_alphanumeric() && letter != '_' && letter != '-' {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push_str(".*");
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_literally() {
        assert_eq!(pattern("posthaste.retry."), "^posthaste\\.retry\\..*");
        assert_eq!(pattern("a-b_c"), "^a-b_c.*");
    }
}
