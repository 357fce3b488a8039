//! What librdkafka tells its client: rebalances, failed commits, statistics, errors, log lines. Everything is kept for the thread
//! that polls, or logged; no decision is made in a callback.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use serde::Deserialize;
use tracing::{debug, error, warn};

use crate::model::TopicPartition;

/// A change of the assignment that librdkafka waits for us to carry out.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<TopicPartition>),
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
}

/// The context of a consumer or a reader.
pub(super) struct Member {
    voice: Voice,
    changes: Mutex<VecDeque<Change>>,
    /// Nobody will carry out changes any more: they are done at once.
    closing: AtomicBool,
    commit_failure: Mutex<Option<String>>,
    ends: Mutex<HashMap<String, HashMap<i32, i64>>>,
    reached_end_at: AtomicI64,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    pub(super) fn new(client: &'static str) -> Member {
        Member {
            voice: Voice::new(client),
            changes: Mutex::default(),
            closing: AtomicBool::new(false),
            commit_failure: Mutex::default(),
            ends: Mutex::default(),
            reached_end_at: AtomicI64::new(-1),
        }
    }

    pub(super) fn next_change(&self) -> Option<Change> {
        locked(&self.changes).pop_front()
    }

    pub(super) fn has_change(&self) -> bool {
        !locked(&self.changes).is_empty()
    }

    /// Gives back a change that could not be carried out yet.
    pub(super) fn put_back(&self, change: Change) {
        locked(&self.changes).push_front(change);
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Why the last asynchronous commit failed, if it did; asked once.
    pub(super) fn commit_failure(&self) -> Option<String> {
        locked(&self.commit_failure).take()
    }

    /// What librdkafka complained of last.
    pub(super) fn last_trouble(&self) -> Option<String> {
        locked(&self.voice.last).clone()
    }

    /// The end of a partition as of the last statistics.
    pub(super) fn end(&self, partition: &TopicPartition) -> Option<i64> {
        locked(&self.ends).get(&*partition.topic)?.get(&partition.partition).copied()
    }

    /// The end of the partition at which a reader stood when it was last told that there is nothing more.
    pub(super) fn reached_end_at(&self) -> i64 {
        self.reached_end_at.load(Ordering::Relaxed)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // The only place where librdkafka says how a commit went that nobody waited for; one that went well it does not mention.
        if facility == COMMIT_FAILED {
            *locked(&self.commit_failure) = Some(line.to_owned());
        }
        self.voice.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let KafkaError::Global(RDKafkaErrorCode::PartitionEOF) = error {
            if let Some(offset) = end_of_partition(reason) {
                self.reached_end_at.store(offset, Ordering::Relaxed);
            }
            return;
        }
        self.voice.error(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        #[derive(Deserialize)]
        struct Statistics {
            topics: HashMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            partitions: HashMap<i32, Partition>,
        }
        #[derive(Deserialize)]
        struct Partition {
            ls_offset: i64,
        }
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                *locked(&self.ends) = statistics
                    .topics
                    .into_iter()
                    .map(|(name, topic)| {
                        let known = topic.partitions.into_iter().filter(|(_, partition)| partition.ls_offset >= 0);
                        (name, known.map(|(id, partition)| (id, partition.ls_offset)).collect())
                    })
                    .collect();
            }
            Err(wrong) => debug!(%wrong, "statistics of librdkafka not understood"),
        }
    }
}

impl ConsumerContext for Member {
    /// Keeps the change for [`super::consumer`], which carries it out on the thread that polls, when the caller is ready: librdkafka
    /// waits for the (un)assign however late it comes.
    fn rebalance(&self, consumer: &BaseConsumer<Member>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let assigned = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            let done = if assigned { assign(consumer, partitions) } else { unassign(consumer, partitions) };
            if let Err(wrong) = done {
                debug!(%wrong, "change of the assignment while leaving");
            }
            return;
        }
        let list = partitions
            .elements()
            .iter()
            .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
            .collect();
        let change = if assigned { Change::Assigned(list) } else { Change::Revoked { partitions: list, lost: consumer.assignment_lost() } };
        debug!(?change, "assignment");
        locked(&self.changes).push_back(change);
    }
}

pub(super) fn assign(consumer: &BaseConsumer<Member>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(partitions),
    }
}

pub(super) fn unassign(consumer: &BaseConsumer<Member>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
    }
}

/// The offset in librdkafka's text about the end of a partition. Its event has the offset too, but the wrapper hands out only the
/// text; the exact offset matters, for the end of a compacted partition can lie behind its last record. The versions are pinned, and
/// the contract suite would see another text.
fn end_of_partition(text: &str) -> Option<i64> {
    text.split_once("at offset ")?.1.split(' ').next()?.parse().ok()
}

/// The facility under which librdkafka logs a commit that failed.
const COMMIT_FAILED: &str = "COMMITFAIL";

/// The same error of one client is told at most this often.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// What librdkafka says, in our log: each kind of trouble once, not once for every reconnection.
pub(super) struct Voice {
    client: &'static str,
    told: Mutex<HashMap<String, Instant>>,
    last: Mutex<Option<String>>,
}

impl Voice {
    pub(super) fn new(client: &'static str) -> Voice {
        Voice { client, told: Mutex::default(), last: Mutex::default() }
    }

    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = self.client;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => error!(client, facility, "{line}"),
            // Lost connections are told as errors too; properties meant for the other kind of client are no trouble.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if !matches!(facility, "FAIL" | "ERROR" | "CONFWARN") => {
                if self.is_news(facility) {
                    warn!(client, facility, "{line}");
                }
            }
            _ => debug!(client, facility, "{line}"),
        }
    }

    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        let client = self.client;
        let is_summary = matches!(error, KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        let has_reason = {
            let mut last = locked(&self.last);
            if !is_summary {
                *last = Some(reason.to_owned());
            }
            last.is_some()
        };
        // That all brokers are down is said after the reason why each of them is, and adds nothing to that.
        if !(is_summary && has_reason) && self.is_news(&error.to_string()) {
            warn!(client, reason, "kafka is in trouble");
        } else {
            debug!(client, reason, "kafka is in trouble");
        }
    }

    fn is_news(&self, what: &str) -> bool {
        let (now, mut told) = (Instant::now(), locked(&self.told));
        told.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
        if told.contains_key(what) {
            return false;
        }
        told.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_partition_is_read_from_its_text() {
        assert_eq!(end_of_partition("Fetch from broker 1 reached end of partition at offset 4711 (HighwaterMark 4711)"), Some(4711));
        assert_eq!(end_of_partition("Broker: No more messages"), None);
    }
}
