//! A member of a consumer group.
//!
//! A `BaseConsumer` on the thread of its caller, one queue for all partitions: `queued.max.messages.kbytes` then bounds what is read
//! ahead over all of them, and no waker can be lost. Rebalances are values. The callback keeps them ([`super::context`]); here they are
//! carried out: an assignment when its committed positions are known, a revocation when the caller releases it.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode as KafkaCommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Message},
    topic_partition_list::Offset,
};
use tracing::{debug, info, warn};

use crate::{
    log::{Assigned, Commit, CommitMode, Consumer, LogError, METADATA_LIMIT, Polled, Record, Start, kafka::config::REQUEST_TIMEOUT},
    model::TopicPartition,
    telemetry::metrics::Metrics,
};

use super::{
    context::{Change, Member, assign, unassign},
    convert::{list, metadata, plain_list, record, unavailable, wait_until},
};

/// A caller that asks for no records (its memory is full) is believed to go on soon for this long; then the partitions are paused, so
/// that the queue can be polled for rebalances without taking records out of it.
const PAUSE_AFTER: Duration = Duration::from_secs(2);

/// A commit that is waited for takes milliseconds; a coordinator that moves takes seconds.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Between two questions for offsets while a partition has no leader.
const LEADER_PAUSE: Duration = Duration::from_millis(50);

/// How many records a batch is made for at once; a longer one grows.
const BATCH: usize = 1024;

pub(super) struct KafkaConsumer {
    base: Arc<BaseConsumer<Member>>,
    metrics: Arc<Metrics>,
    group: String,
    instance: Option<String>,
    start: Start,
    owned: Vec<Owned>,
    /// Index of the partition that the last record was of: records come in runs.
    last: usize,
    /// A revocation that was returned and not released.
    releasing: Option<Vec<TopicPartition>>,
    appetite: Appetite,
    /// Records that came while none were asked for.
    early: Vec<Record>,
    /// The asynchronous commit that was not counted yet.
    committing: Option<Vec<Commit>>,
}

struct Owned {
    partition: TopicPartition,
    /// The offset to be read next.
    next: i64,
    /// The end of the partition when it was assigned.
    end: i64,
    paused: bool,
    /// It is being revoked: it may be committed, and brings no records.
    leaving: bool,
}

#[derive(Clone, Copy)]
enum Appetite {
    Hungry,
    FullSince(Instant),
    Paused,
}

impl KafkaConsumer {
    pub(super) fn new(
        base: BaseConsumer<Member>,
        metrics: Arc<Metrics>,
        group: String,
        instance: Option<String>,
        start: Start,
    ) -> KafkaConsumer {
        KafkaConsumer {
            base: Arc::new(base),
            metrics,
            group,
            instance,
            start,
            owned: Vec::new(),
            last: 0,
            releasing: None,
            appetite: Appetite::Hungry,
            early: Vec::new(),
            committing: None,
        }
    }

    pub(super) fn subscribe(&self, topics: &[&str]) -> Result<(), LogError> {
        self.base.subscribe(topics).map_err(unavailable("subscribing"))
    }

    fn carry_out(&mut self, change: Change) -> Result<Polled, LogError> {
        match change {
            Change::Assigned(partitions) => match self.take(&partitions) {
                Ok(assigned) => Ok(Polled::Assigned(assigned)),
                Err(wrong) => {
                    self.base.context().put_back(Change::Assigned(partitions));
                    Err(wrong)
                }
            },
            Change::Revoked { partitions, lost } => {
                if lost {
                    self.owned.retain(|owned| !partitions.contains(&owned.partition));
                    self.last = 0;
                } else {
                    for owned in self.owned.iter_mut().filter(|owned| partitions.contains(&owned.partition)) {
                        owned.leaving = true;
                    }
                }
                self.early.retain(|record| !partitions.contains(&record.position.topic_partition()));
                self.releasing = Some(partitions.clone());
                Ok(Polled::Revoked { partitions, lost })
            }
        }
    }

    /// Finds where to begin, makes that durable where the group has no position yet, and begins.
    fn take(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Assigned>, LogError> {
        if partitions.is_empty() {
            assign(&self.base, &TopicPartitionList::new()).map_err(unavailable("assignment"))?;
            return Ok(Vec::new());
        }
        let committed =
            self.base.committed_offsets(plain_list(partitions), REQUEST_TIMEOUT).map_err(unavailable("reading committed positions"))?;
        let lows = offsets(&self.base, partitions, Offset::Beginning)?;
        let ends = offsets(&self.base, partitions, Offset::End)?;
        let begin = match self.start {
            Start::Earliest => lows.clone(),
            Start::Latest => ends.clone(),
            Start::At(time) => offsets_at(&self.base, partitions, time.as_millisecond(), &ends)?,
        };

        let mut assigned = Vec::with_capacity(partitions.len());
        let mut new = Vec::new();
        for (index, partition) in partitions.iter().enumerate() {
            let element = committed
                .find_partition(&partition.topic, partition.partition)
                .ok_or_else(|| LogError::Unavailable(format!("kafka: no committed position was answered for {partition:?}")))?;
            element.error().map_err(unavailable("reading committed positions"))?;
            let (low, end) = (lows[index], ends[index]);
            let (committed, start) = match element.offset() {
                // The topic was made anew, or its leader lost its tail: the position means nothing.
                Offset::Offset(offset) if offset > end => {
                    warn!(
                        ?partition,
                        committed = offset,
                        end,
                        start = low,
                        "committed position is behind the end of the partition; reading it from its start"
                    );
                    (None, low)
                }
                Offset::Offset(offset) => {
                    if offset < low {
                        warn!(?partition, committed = offset, start = low, "records were deleted by retention before they were read");
                    }
                    (Some((offset, metadata(&element))), offset.max(low))
                }
                _ => {
                    new.push(Commit { partition: partition.clone(), offset: begin[index], metadata: String::new() });
                    (None, begin[index])
                }
            };
            assigned.push(Assigned { partition: partition.clone(), committed, start });
        }

        // Otherwise a crash before the first commit would begin anew, later: what was appended in between would never be read.
        let mut fenced = false;
        if !new.is_empty() {
            match self.store(&new, KafkaCommitMode::Sync) {
                Ok(()) => info!(group = self.group, partitions = new.len(), start = ?self.start, "the group begins"),
                // The membership is gone: the partitions will be revoked at once, and must not bring a record before.
                Err(KafkaError::ConsumerCommit(
                    RDKafkaErrorCode::IllegalGeneration | RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId,
                )) => fenced = true,
                Err(wrong) => return Err(unavailable("committing the start of the group")(wrong)),
            }
        }

        let starts = list(assigned.iter().map(|assigned| (&assigned.partition, Offset::Offset(assigned.start))));
        assign(&self.base, &starts).map_err(unavailable("assignment"))?;
        let paused = fenced || matches!(self.appetite, Appetite::Paused);
        // A pause outlives the assignment inside librdkafka.
        let reconciled = if paused { self.base.pause(&starts) } else { self.base.resume(&starts) };
        if let Err(wrong) = reconciled {
            debug!(%wrong, "pause state of new partitions");
        }
        self.owned.extend(assigned.iter().zip(&ends).map(|(assigned, end)| Owned {
            partition: assigned.partition.clone(),
            next: assigned.start,
            end: *end,
            paused: fenced,
            leaving: false,
        }));
        Ok(assigned)
    }

    fn store(&self, commits: &[Commit], mode: KafkaCommitMode) -> Result<(), KafkaError> {
        let mut offsets = TopicPartitionList::with_capacity(commits.len());
        for commit in commits {
            let mut element = offsets.add_partition(&commit.partition.topic, commit.partition.partition);
            element.set_offset(Offset::Offset(commit.offset))?;
            element.set_metadata(&commit.metadata);
        }
        let stored = match mode {
            KafkaCommitMode::Async => self.base.commit(&offsets, mode),
            KafkaCommitMode::Sync => self.commit_within(offsets, COMMIT_DEADLINE),
        };
        match (&stored, mode) {
            (Ok(()), KafkaCommitMode::Async) => {}
            (Ok(()), KafkaCommitMode::Sync) => self.count(true),
            (Err(_), _) => self.count(false),
        }
        stored
    }

    /// Commits on a thread of its own: librdkafka waits for the answer without a limit, and with a coordinator that is frozen it waits for ever. After
    /// the deadline nothing is known of it; the thread ends when the answer comes, if it does.
    fn commit_within(&self, offsets: TopicPartitionList, deadline: Duration) -> Result<(), KafkaError> {
        let (told, answer) = mpsc::sync_channel(1);
        let base = Arc::clone(&self.base);
        let begun = thread::Builder::new().name("kafka-commit".to_owned()).spawn(move || {
            // Nobody waits for it any more when the deadline has passed.
            let _ = told.send(base.commit(&offsets, KafkaCommitMode::Sync));
        });
        let unanswered = || KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut);
        begun.map_err(|_| unanswered())?;
        answer.recv_timeout(deadline).map_err(|_| unanswered())?
    }

    fn count(&self, stored: bool) {
        self.metrics.commits_total.with(if stored { "ok" } else { "failed" }).increment(1);
    }

    /// The last asynchronous commit and why it failed, if it did; counted and told once.
    fn last_commit(&mut self) -> (Vec<Commit>, Option<String>) {
        let Some(begun) = self.committing.take() else { return (Vec::new(), None) };
        let failure = self.base.context().commit_failure();
        self.count(failure.is_none());
        (begun, failure)
    }

    /// Waits until `deadline` for a first message and takes what else is there. None: a change of the assignment came.
    fn gather(&mut self, deadline: Instant, max: usize) -> Result<Option<Vec<Record>>, LogError> {
        let mut records = std::mem::take(&mut self.early);
        while records.len() < max {
            let wait = if records.is_empty() { wait_until(deadline) } else { Duration::ZERO };
            match self.base.poll(wait) {
                Some(Ok(message)) => {
                    if records.is_empty() {
                        records.reserve(max.min(BATCH));
                    }
                    records.extend(accept(&mut self.owned, &mut self.last, &message));
                }
                Some(Err(wrong)) => match self.judge(&wrong) {
                    Some(wrong) if records.is_empty() || wrong.is_fatal() => return Err(wrong),
                    _ => {}
                },
                None if records.is_empty() && self.changed() => return Ok(None),
                None if !records.is_empty() || Instant::now() >= deadline => break,
                None => {}
            }
        }
        Ok(Some(records))
    }

    fn changed(&self) -> bool {
        self.releasing.is_none() && self.base.context().has_change()
    }

    /// An error that the caller must hear of; the others pass by themselves, and were logged.
    fn judge(&self, wrong: &KafkaError) -> Option<LogError> {
        if let Some((code, reason)) = self.base.client().fatal_error() {
            let group = &self.group;
            return Some(LogError::Fatal(match (code, &self.instance) {
                (RDKafkaErrorCode::FencedInstanceId, Some(instance)) => {
                    format!(
                        "another process took over kafka.instance `{instance}` in group `{group}`: give each instance a name of its own"
                    )
                }
                _ => format!("kafka: the consumer of group `{group}` cannot go on: {reason}"),
            }));
        }
        let cure = match wrong {
            KafkaError::MessageConsumption(code) => match code {
                RDKafkaErrorCode::TopicAuthorizationFailed => "allow it to read its topics (ACL Read and Describe)",
                RDKafkaErrorCode::GroupAuthorizationFailed => "allow it to use kafka.group (ACL Read on the group)",
                RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::Authentication => "see kafka.properties",
                _ => return None,
            },
            _ => return None,
        };
        Some(LogError::Unavailable(format!("kafka: the consumer of group `{}`: {wrong}: {cure}", self.group)))
    }

    /// The caller has no room for records.
    fn rest(&mut self, deadline: Instant) -> Result<(), LogError> {
        let now = Instant::now();
        let since = match self.appetite {
            Appetite::Hungry => now,
            Appetite::FullSince(since) => since,
            Appetite::Paused => {
                match self.base.poll(wait_until(deadline)) {
                    Some(Ok(message)) => self.early.extend(accept(&mut self.owned, &mut self.last, &message)),
                    Some(Err(wrong)) => return self.judge(&wrong).map_or(Ok(()), Err),
                    None => {}
                }
                return Ok(());
            }
        };
        self.appetite = Appetite::FullSince(since);
        if now.duration_since(since) < PAUSE_AFTER {
            thread::sleep(deadline.saturating_duration_since(now).min(PAUSE_AFTER));
        } else {
            self.base.pause(&self.reading()).map_err(unavailable("pausing"))?;
            self.appetite = Appetite::Paused;
        }
        Ok(())
    }

    fn eat(&mut self) -> Result<(), LogError> {
        if let Appetite::Paused = self.appetite {
            self.base.resume(&self.reading()).map_err(unavailable("resuming"))?;
        }
        self.appetite = Appetite::Hungry;
        Ok(())
    }

    /// The partitions that the caller did not pause.
    fn reading(&self) -> TopicPartitionList {
        list(self.owned.iter().filter(|owned| !owned.paused).map(|owned| (&owned.partition, Offset::Invalid)))
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for owned in self.owned.iter_mut().filter(|owned| partitions.contains(&owned.partition)) {
            owned.paused = paused;
        }
    }
}

/// The record of a message, unless its partition is not (or no longer) read.
fn accept(owned: &mut [Owned], last: &mut usize, message: &BorrowedMessage<'_>) -> Option<Record> {
    let (topic, partition) = (message.topic(), message.partition());
    let is_it = |owned: &Owned| owned.partition.partition == partition && &*owned.partition.topic == topic;
    if !owned.get(*last).is_some_and(is_it) {
        *last = owned.iter().position(is_it)?;
    }
    let from = &mut owned[*last];
    if from.leaving {
        return None;
    }
    from.next = message.offset() + 1;
    Some(record(message, &from.partition.topic))
}

/// The offset at the beginning or the end of each partition.
pub(super) fn offsets(base: &BaseConsumer<Member>, of: &[TopicPartition], at: Offset) -> Result<Vec<i64>, LogError> {
    // A list of offsets at these two "times" is one request to each broker, where asking for watermarks is two to each partition.
    let found = ask_offsets(base, list(of.iter().map(|partition| (partition, at))), of)?;
    found.into_iter().zip(of).map(|(offset, partition)| offset.ok_or_else(|| no_answer(partition))).collect()
}

/// The offset of the first record at or after a time (milliseconds since the epoch), or the end.
pub(super) fn offsets_at(base: &BaseConsumer<Member>, of: &[TopicPartition], ms: i64, ends: &[i64]) -> Result<Vec<i64>, LogError> {
    let found = ask_offsets(base, list(of.iter().map(|partition| (partition, Offset::Offset(ms.max(0))))), of)?;
    Ok(found.into_iter().zip(ends).map(|(offset, end)| offset.unwrap_or(*end)).collect())
}

fn ask_offsets(base: &BaseConsumer<Member>, list: TopicPartitionList, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let answer = loop {
        match base.offsets_for_times(list.clone(), REQUEST_TIMEOUT) {
            Ok(answer) if !of.iter().any(|partition| lacks_leader(&answer, partition)) || Instant::now() >= deadline => break answer,
            Err(wrong) if !has_no_leader(&wrong) || Instant::now() >= deadline => return Err(unavailable("asking for offsets")(wrong)),
            // librdkafka asks for the leader anew with the next request.
            Ok(_) | Err(_) => thread::park_timeout(LEADER_PAUSE),
        }
    };
    of.iter()
        .map(|partition| {
            let element = answer.find_partition(&partition.topic, partition.partition).ok_or_else(|| no_answer(partition))?;
            element.error().map_err(unavailable(&format!("asking for offsets of {}:{}", partition.topic, partition.partition)))?;
            Ok(match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        })
        .collect()
}

fn lacks_leader(answer: &TopicPartitionList, partition: &TopicPartition) -> bool {
    let element = answer.find_partition(&partition.topic, partition.partition);
    element.is_some_and(|element| element.error().is_err_and(|wrong| has_no_leader(&wrong)))
}

/// Passes by itself: the topic was made a moment ago, and the metadata are ahead of the broker that leads it, or the leader is moving.
fn has_no_leader(wrong: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, ReplicaNotAvailable, UnknownTopicOrPartition};
    let code = wrong.rdkafka_error_code();
    code.is_some_and(|code| matches!(code, LeaderNotAvailable | NotLeaderForPartition | ReplicaNotAvailable | UnknownTopicOrPartition))
}

fn no_answer(partition: &TopicPartition) -> LogError {
    LogError::Unavailable(format!("kafka: no offset was answered for {}:{}", partition.topic, partition.partition))
}

impl Consumer for KafkaConsumer {
    /// With `max` 0 it serves rebalances only: what a caller does whose memory is full, so that it stays a member.
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Polled, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.releasing.is_none()
                && let Some(change) = self.base.context().next_change()
            {
                return self.carry_out(change);
            }
            if max == 0 {
                self.rest(deadline)?;
                if !self.changed() {
                    return Ok(Polled::Records(Vec::new()));
                }
                continue;
            }
            self.eat()?;
            if let Some(records) = self.gather(deadline, max)? {
                return Ok(Polled::Records(records));
            }
        }
    }

    fn commit(&mut self, commits: &[Commit], mode: CommitMode) -> Result<(), LogError> {
        if let Some(commit) = commits.iter().find(|commit| commit.metadata.len() > METADATA_LIMIT) {
            let (length, TopicPartition { topic, partition }) = (commit.metadata.len(), &commit.partition);
            return Err(LogError::Fatal(format!(
                "the text of {length} bytes beside the position of {topic}:{partition} is longer than {METADATA_LIMIT}"
            )));
        }
        let (begun, before) = self.last_commit();
        let is_owned = |commit: &&Commit| self.owned.iter().any(|owned| owned.partition == commit.partition);
        // Waiting with nothing new is waiting for what was begun: the broker answers the same commit again when it has stored the first.
        let wanted = if commits.is_empty() && mode == CommitMode::Sync { &begun } else { commits };
        let ours: Vec<Commit> = wanted.iter().filter(is_owned).cloned().collect();
        let foreign = commits.iter().find(|commit| !is_owned(commit));
        if !ours.is_empty() {
            let kafka_mode = match mode {
                CommitMode::Async => KafkaCommitMode::Async,
                CommitMode::Sync => KafkaCommitMode::Sync,
            };
            self.store(&ours, kafka_mode).map_err(unavailable("commit"))?;
            if mode == CommitMode::Async {
                self.committing = Some(ours);
            }
        }
        if let Some(foreign) = foreign {
            let TopicPartition { topic, partition } = &foreign.partition;
            return Err(LogError::Unavailable(format!("{topic}:{partition} is not assigned to this member: not committed")));
        }
        before.map_or(Ok(()), |failure| Err(LogError::Unavailable(format!("kafka: the commit before this one: {failure}"))))
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.base.pause(&plain_list(partitions)).map_err(unavailable("pausing"))?;
        self.set_paused(partitions, true);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        if !matches!(self.appetite, Appetite::Paused) {
            self.base.resume(&plain_list(partitions)).map_err(unavailable("resuming"))?;
        }
        self.set_paused(partitions, false);
        Ok(())
    }

    fn release(&mut self) -> Result<(), LogError> {
        let Some(partitions) = self.releasing.take() else { return Ok(()) };
        self.owned.retain(|owned| !partitions.contains(&owned.partition));
        self.last = 0;
        unassign(&self.base, &plain_list(&partitions)).map_err(unavailable("giving partitions back"))
    }

    fn lag(&mut self) -> Option<u64> {
        let behind = |owned: &Owned| {
            let end = self.base.context().end(&owned.partition).unwrap_or(0).max(owned.end);
            u64::try_from(end - owned.next).unwrap_or(0)
        };
        Some(self.owned.iter().map(behind).sum())
    }

    fn close(self: Box<Self>, deadline: Duration) {
        drop_within("kafka-leave", self, deadline);
    }
}

impl Drop for KafkaConsumer {
    /// Leaving makes librdkafka revoke everything, and wait until that is done: nobody polls for it any more, so it is done at once.
    fn drop(&mut self) {
        self.base.context().close();
        self.last_commit();
        let left = self.release();
        while let Some(change) = self.base.context().next_change() {
            let done = match change {
                Change::Assigned(partitions) => assign(&self.base, &list(partitions.iter().map(|partition| (partition, Offset::End)))),
                Change::Revoked { partitions, .. } => unassign(&self.base, &plain_list(&partitions)),
            };
            debug!(?done, "assignment while leaving");
        }
        debug!(?left, group = self.group, "leaving the group");
    }
}

/// Drops a client on a thread of its own and waits for it until `deadline`: with a broker that does not answer, librdkafka can take
/// long, and a process that ends need not wait for it.
pub(super) fn drop_within<T: Send + 'static>(name: &str, client: T, deadline: Duration) {
    let (gone, done) = mpsc::sync_channel::<()>(1);
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
        drop(client);
        let _ = gone.send(());
    });
    match spawned {
        Ok(_) => {
            if done.recv_timeout(deadline).is_err() {
                warn!(client = name, ?deadline, "the broker did not answer while we left; going without");
            }
        }
        Err(wrong) => warn!(%wrong, "no thread to leave the group on"),
    }
}
