//! Members of a group, and readers without one.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use super::{
    Core,
    groups::Offer,
    partition::{Bell, Cursor, File, Partition},
    store::{self, Fault},
    writer::{Command, CommitJob},
};
use crate::{
    log::{Assigned, Commit, CommitMode, Consumer, From, LogError, METADATA_LIMIT, Polled, Reader, Record, Start, Subscription},
    model::TopicPartition,
};

/// Bytes that one poll brings at most (and one record more): a million records of a backlog are not to be in memory at once.
const FETCH: usize = 4 << 20;

pub(super) struct Member {
    core: Arc<Core>,
    group: Arc<str>,
    id: u64,
    start: Start,
    bell: Arc<Bell>,
    file: File,
    assigned: BTreeMap<TopicPartition, Cursor>,
    /// Offered, and not yet begun because the starting offset could not be stored.
    starting: Vec<Offer>,
    /// Revoked and not released.
    revoked: Vec<TopicPartition>,
    /// The commit that is on its way.
    committing: Option<mpsc::Receiver<Result<(), Fault>>>,
    /// Which partition is read first: they take turns.
    turn: usize,
}

impl Member {
    pub fn join(core: Arc<Core>, subscription: Subscription) -> Member {
        let bell = Arc::new(Bell::default());
        let group: Arc<str> = subscription.group.into();
        let id = core.groups.join(&group, subscription.topics, Arc::clone(&bell), &core.catalogue.load());
        let file = File::new(Arc::clone(&core.path));
        let (assigned, starting, revoked) = Default::default();
        Member { core, group, id, start: subscription.start, bell, file, assigned, starting, revoked, committing: None, turn: 0 }
    }

    /// What happened to our partitions, if anything.
    fn news(&mut self) -> Result<Option<Polled>, LogError> {
        if self.revoked.is_empty() {
            let mut revoked = self.core.groups.take_revoked(&self.group, self.id);
            // What was never begun needs nobody to settle it.
            let unseen: Vec<_> = revoked.extract_if(.., |name| !self.assigned.contains_key(name)).collect();
            if !unseen.is_empty() {
                self.starting.retain(|offer| !unseen.contains(&offer.partition.name));
                self.core.groups.release(&self.group, self.id, &unseen, &self.core.catalogue.load());
            }
            if !revoked.is_empty() {
                for name in &revoked {
                    if let Some(cursor) = self.assigned.remove(name) {
                        cursor.partition.ignore(&self.bell);
                    }
                }
                self.revoked = revoked.clone();
                return Ok(Some(Polled::Revoked { partitions: revoked, lost: false }));
            }
        }
        self.starting.extend(self.core.groups.take_offers(&self.group, self.id));
        if self.starting.is_empty() { Ok(None) } else { self.begin().map(|assigned| Some(Polled::Assigned(assigned))) }
    }

    /// Begins to read what was offered. Where the group has no offset, the starting one is stored first: else records that come before
    /// the first commit would be passed over by a restart that starts at the latest.
    fn begin(&mut self) -> Result<Vec<Assigned>, LogError> {
        let mut assigned = Vec::with_capacity(self.starting.len());
        let mut commits = Vec::new();
        for offer in &self.starting {
            let partition = &offer.partition;
            let start = match (&offer.committed, self.start) {
                (Some((offset, _)), _) => *offset,
                (None, Start::Earliest) => partition.start(),
                (None, Start::Latest) => offer.end,
                (None, Start::At(time)) => at(&mut self.file, partition, time.as_millisecond())?,
            };
            if offer.committed.is_none() {
                commits.push((Arc::clone(partition), start, String::new()));
            }
            assigned.push(Assigned { partition: partition.name.clone(), committed: offer.committed.clone(), start });
        }
        if !commits.is_empty() {
            self.wait_committed()?;
            self.send(commits)?;
            self.wait_committed()?;
        }
        for (offer, assigned) in self.starting.drain(..).zip(&assigned) {
            offer.partition.listen(&self.bell);
            let cursor = Cursor { partition: offer.partition, next: assigned.start, paused: false };
            self.assigned.insert(assigned.partition.clone(), cursor);
        }
        Ok(assigned)
    }

    fn read(&mut self, max: usize) -> Result<Vec<Record>, Fault> {
        let mut records = Vec::new();
        let mut bytes = FETCH;
        let count = self.assigned.len().max(1);
        self.turn = (self.turn + 1) % count;
        let (first, last): (Vec<_>, Vec<_>) = self.assigned.values_mut().enumerate().partition(|(index, _)| *index >= self.turn);
        for (_, cursor) in first.into_iter().chain(last).filter(|(_, cursor)| !cursor.paused) {
            if let Err(fault) = cursor.read(&mut self.file, max, &mut bytes, &mut records) {
                // What was read already has moved its cursors: it must get out.
                return if records.is_empty() { Err(fault) } else { Ok(records) };
            }
        }
        Ok(records)
    }

    fn send(&mut self, commits: Vec<(Arc<Partition>, i64, String)>) -> Result<(), Fault> {
        let (reply, result) = mpsc::sync_channel(1);
        self.core.queue.push(Command::Commit(CommitJob { group: Arc::clone(&self.group), commits, reply }))?;
        self.committing = Some(result);
        Ok(())
    }

    /// Waits for the commit that is on its way: at most one is, so the newest is the last one written.
    fn wait_committed(&mut self) -> Result<(), Fault> {
        match self.committing.take() {
            None => Ok(()),
            Some(result) => result.recv().unwrap_or_else(|_| Err(Fault::unavailable("the log was closed before it could commit"))),
        }
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for name in partitions {
            if let Some(cursor) = self.assigned.get_mut(name) {
                cursor.paused = paused;
            }
        }
    }
}

impl Consumer for Member {
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Polled, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(news) = self.news()? {
                return Ok(news);
            }
            let records = self.read(max)?;
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(Polled::Records(records));
            }
            self.bell.wait_until(deadline);
        }
    }

    fn commit(&mut self, commits: &[Commit], mode: CommitMode) -> Result<(), LogError> {
        let before = self.wait_committed();
        if !commits.is_empty() {
            let catalogue = self.core.catalogue.load();
            let mut checked = Vec::with_capacity(commits.len());
            for commit in commits {
                let name = &commit.partition;
                self.core.groups.owns(&self.group, self.id, name)?;
                if commit.metadata.len() > METADATA_LIMIT {
                    let size = commit.metadata.len();
                    return Err(LogError::Fatal(format!("metadata of {size} bytes for a commit is over the limit of {METADATA_LIMIT}")));
                }
                let topic = catalogue.get(&name.topic);
                let partition = topic.and_then(|topic| topic.partitions.get(usize::try_from(name.partition).ok()?));
                let partition = partition.expect("what is owned is in the catalogue, from which nothing is taken out");
                checked.push((Arc::clone(partition), commit.offset, commit.metadata.clone()));
            }
            self.send(checked)?;
        }
        if mode == CommitMode::Sync {
            self.wait_committed()?;
        }
        Ok(before?)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.set_paused(partitions, true);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.set_paused(partitions, false);
        Ok(())
    }

    fn release(&mut self) -> Result<(), LogError> {
        // The next owner begins at what we committed, so that has to be decided first.
        let committed = self.wait_committed();
        let revoked = std::mem::take(&mut self.revoked);
        self.core.groups.release(&self.group, self.id, &revoked, &self.core.catalogue.load());
        Ok(committed?)
    }

    fn lag(&mut self) -> Option<u64> {
        Some(self.assigned.values().map(|cursor| cursor.partition.end().saturating_sub(cursor.next).max(0).unsigned_abs()).sum())
    }

    fn close(mut self: Box<Self>, deadline: Duration) {
        if let Some(committing) = self.committing.take() {
            // Its failure was nobody's to see any more; the records are read again.
            let _ = committing.recv_timeout(deadline);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for cursor in self.assigned.values() {
            cursor.partition.ignore(&self.bell);
        }
        self.core.groups.leave(&self.group, self.id, &self.core.catalogue.load());
    }
}

pub(super) struct Follower {
    cursor: Cursor,
    bell: Arc<Bell>,
    file: File,
}

impl Follower {
    pub fn new(core: &Core, partition: Arc<Partition>, from: From) -> Result<Follower, LogError> {
        let mut file = File::new(Arc::clone(&core.path));
        let next = match from {
            From::Earliest => partition.start(),
            From::Offset(offset) => offset,
            From::Time(time) => at(&mut file, &partition, time.as_millisecond())?,
        };
        let bell = Arc::new(Bell::default());
        partition.listen(&bell);
        Ok(Follower { cursor: Cursor { partition, next, paused: false }, bell, file })
    }
}

impl Reader for Follower {
    fn poll(&mut self, timeout: Duration, max: usize) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            let (mut records, mut bytes) = (Vec::new(), FETCH);
            self.cursor.read(&mut self.file, max, &mut bytes, &mut records)?;
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(records);
            }
            self.bell.wait_until(deadline);
        }
    }

    fn end(&mut self) -> Result<i64, LogError> {
        Ok(self.cursor.partition.end())
    }

    fn next(&self) -> i64 {
        self.cursor.next
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.cursor.partition.ignore(&self.bell);
    }
}

/// The offset of the first record at or after a time.
fn at(file: &mut File, partition: &Partition, ms: i64) -> Result<i64, Fault> {
    let end = partition.end();
    store::offset_at(file.connection()?, partition, partition.start(), end, ms)
}
