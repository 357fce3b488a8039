//! A message of librdkafka ↔ a [`Record`].

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rdkafka::{
    Message, TopicPartitionList,
    error::KafkaError,
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers, OwnedHeaders},
    topic_partition_list::{Offset, TopicPartitionListElem},
};

use crate::{
    log::{Append, LogError, Record},
    model::{Position, Text, TopicPartition},
};

/// Copies a message out of librdkafka's buffer into one of its own: holding the message would pin the whole fetched set.
pub(super) fn record(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Record {
    let (key, value) = (message.key(), message.payload());
    let mut buffer = BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len));
    let mut keep = |part: &[u8]| {
        buffer.extend_from_slice(part);
        buffer.split().freeze()
    };
    Record {
        position: Position { topic: Arc::clone(topic), partition: message.partition(), offset: message.offset() },
        key: key.map(&mut keep),
        value: value.map(&mut keep),
        headers: message.headers().map(headers).unwrap_or_default(),
        appended_ms: message.timestamp().to_millis().unwrap_or(0),
    }
}

/// A header whose name is no UTF-8 cannot be asked for: the wrapper panics on it. Whoever wrote it is no producer of ours, and nobody
/// here could name it, so it is left out.
fn headers(of: &BorrowedHeaders) -> Vec<(Text, Bytes)> {
    let all = || (0..of.count()).map(|index| header(of.get(index))).collect();
    catch_unwind(AssertUnwindSafe(all))
        .unwrap_or_else(|_| (0..of.count()).filter_map(|index| catch_unwind(AssertUnwindSafe(|| header(of.get(index)))).ok()).collect())
}

fn header(header: Header<'_, &[u8]>) -> (Text, Bytes) {
    (Text::from(header.key), header.value.map(Bytes::copy_from_slice).unwrap_or_default())
}

pub(super) fn own_headers(of: &Append) -> Option<OwnedHeaders> {
    if of.headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(of.headers.len());
    Some(of.headers.iter().fold(empty, |headers, (key, value)| headers.insert(Header { key, value: Some(&value[..]) })))
}

/// Bytes of a record that count against the limit of its topic; each header has two lengths before it, of up to 5 bytes.
pub(super) fn size(of: &Append) -> usize {
    let headers: usize = of.headers.iter().map(|(key, value)| key.len() + value.len() + 10).sum();
    of.key.as_ref().map_or(0, Bytes::len) + of.value.as_ref().map_or(0, Bytes::len) + headers
}

/// The text committed with an offset; foreign bytes are none of ours.
pub(super) fn metadata(of: &TopicPartitionListElem<'_>) -> String {
    catch_unwind(AssertUnwindSafe(|| of.metadata().to_owned())).unwrap_or_default()
}

pub(super) fn list<'a>(partitions: impl IntoIterator<Item = (&'a TopicPartition, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        // A negative offset cannot be told to librdkafka: it is the start.
        let _ = list.add_partition(&partition.topic, partition.partition).set_offset(offset);
    }
    list
}

pub(super) fn plain_list(partitions: &[TopicPartition]) -> TopicPartitionList {
    list(partitions.iter().map(|partition| (partition, Offset::Invalid)))
}

/// From now to `deadline` in whole milliseconds, rounded up: librdkafka counts in them, and for a rest of one its binding would poll in a busy loop.
pub(super) fn wait_until(deadline: Instant) -> Duration {
    let micros = deadline.saturating_duration_since(Instant::now()).as_micros();
    Duration::from_millis(u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX))
}

/// An error that may pass.
pub(super) fn unavailable(what: &str) -> impl FnOnce(KafkaError) -> LogError {
    let what = what.to_owned();
    move |wrong| LogError::Unavailable(format!("kafka: {what}: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_whole_milliseconds_and_ends_at_its_deadline_or_behind() {
        let deadline = Instant::now() + Duration::from_micros(99_300);
        let wait = wait_until(deadline);
        assert!(wait.subsec_nanos().is_multiple_of(1_000_000) && Instant::now() + wait >= deadline, "{wait:?}");
        assert_eq!(wait_until(Instant::now()), Duration::ZERO);
    }
}
