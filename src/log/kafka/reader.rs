//! Reads one partition without a group.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message,
    topic_partition_list::Offset,
};

use crate::{
    log::{From, LogError, Reader, Record, kafka::config::REQUEST_TIMEOUT},
    model::TopicPartition,
};

use super::{
    consumer::{drop_within, offsets, offsets_at},
    context::Member,
    convert::{list, record, unavailable, wait_until},
};

pub(super) struct KafkaReader {
    /// None only while it is dropped.
    base: Option<BaseConsumer<Member>>,
    partition: TopicPartition,
    next: i64,
}

/// A reader that is dropped waits for librdkafka no longer than this.
const DROP_WITHIN: Duration = Duration::from_secs(2);

impl KafkaReader {
    /// Blocking: it asks where the partition begins and ends.
    pub(super) fn open(client: &ClientConfig, context: Member, partition: TopicPartition, from: From) -> Result<KafkaReader, LogError> {
        // It is in no group, so a change of an assignment needs nobody's answer.
        context.close();
        let base: BaseConsumer<Member> = client.create_with_context(context).map_err(unavailable("opening a reader"))?;
        let mut reader = KafkaReader { base: Some(base), partition, next: 0 };
        let this = std::slice::from_ref(&reader.partition);
        let (low, end) = (offsets(reader.base(), this, Offset::Beginning)?[0], offsets(reader.base(), this, Offset::End)?[0]);
        reader.next = match from {
            From::Earliest => low,
            From::Offset(offset) => offset.max(low),
            From::Time(time) => offsets_at(reader.base(), this, time.as_millisecond(), &[end])?[0],
        };
        // Behind the end there is nothing to be fetched yet: what comes below `next` is passed over.
        let start = list([(&reader.partition, Offset::Offset(reader.next.min(end)))]);
        reader.base().assign(&start).map_err(unavailable("assignment of a reader"))?;
        Ok(reader)
    }

    fn base(&self) -> &BaseConsumer<Member> {
        self.base.as_ref().expect("it is taken only by drop")
    }

    fn judge(&self, wrong: &KafkaError) -> Option<LogError> {
        let TopicPartition { topic, partition } = &self.partition;
        match wrong {
            KafkaError::MessageConsumptionFatal(_) => Some(LogError::Fatal(format!("kafka: reading {topic}:{partition}: {wrong}"))),
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Some(LogError::Unavailable(format!("kafka: reading {topic}:{partition}: {wrong}"))),
            _ => None,
        }
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Vec<Record>, LogError> {
        let (deadline, began_at) = (Instant::now() + timeout, self.next);
        let mut records = Vec::new();
        while records.len() < max {
            let wait = if records.is_empty() { wait_until(deadline) } else { Duration::ZERO };
            let base = self.base.as_ref().expect("it is taken only by drop");
            match base.poll(wait) {
                Some(Ok(message)) if message.offset() < self.next => {}
                Some(Ok(message)) => {
                    self.next = message.offset() + 1;
                    records.push(record(&message, &self.partition.topic));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.next = self.next.max(base.context().reached_end_at());
                    if self.next > began_at {
                        break;
                    }
                }
                Some(Err(wrong)) => {
                    if let Some(wrong) = self.judge(&wrong)
                        && records.is_empty()
                    {
                        return Err(wrong);
                    }
                }
                None if !records.is_empty() || Instant::now() >= deadline => break,
                None => {}
            }
        }
        Ok(records)
    }

    fn end(&mut self) -> Result<i64, LogError> {
        let TopicPartition { topic, partition } = &self.partition;
        let watermarks = self.base().fetch_watermarks(topic, *partition, REQUEST_TIMEOUT);
        watermarks.map(|(_, end)| end).map_err(unavailable(&format!("asking for the end of {topic}:{partition}")))
    }

    fn next(&self) -> i64 {
        self.next
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(base) = self.base.take() {
            drop_within("kafka-reader-close", base, DROP_WITHIN);
        }
    }
}
