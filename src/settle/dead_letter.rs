//! The view of the dead-letter topic, and the way back out of it.
//!
//! A thread of its own follows the topic and keeps an index of what can be redriven: a summary of each letter, the newest [`Config::index`] of
//! them. What a letter holds is read from the log when somebody asks. The index is rebuilt from the topic at every start.
//!
//! Redriving appends the delivery to the first events topic, so that it comes in by the same door as everything else, and then a **mark** to
//! the partition of the letter, behind it. Whoever reads the topic takes the letter out of its index at the mark, so that redriving twice
//! sends once. The order is this one because the other could lose a letter; between the two appends a crash (or the same redrive on another
//! instance within the milliseconds that it follows behind) can send a delivery twice, under the same event id.

mod follow;
mod index;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::{
    follow::Follower,
    index::{Index, Key, summary},
};
use crate::{
    log::{
        Append, From, Log, LogError, Reader, Record,
        record::{DeadLetter, DeadThing, decode_dead_letter, encode_delivery},
    },
    model::{Clock, DeadReason, Delivery, Purpose, Text, TopicPartition},
    telemetry::Metrics,
};

pub use index::{About, Filter, LetterId, Summary};

/// The header of a mark: `partition-offset` of the letter that was redriven.
const REDRIVEN: &str = "posthaste-redriven";

const POLL: Duration = Duration::from_millis(100);
const BATCH: usize = 500;
/// How long reading what letters hold may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// A reader is opened anew rather than read through a gap of so many records.
const GAP: i64 = 5_000;
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// `[dead_letters]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The newest so many dead letters can be listed and redriven; about 400 bytes of memory each. Older ones stay in the topic.
    pub index: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { index: 100_000 }
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        match self.index {
            1..=10_000_000 => Vec::new(),
            index => vec![("index", format!("is {index}: it must be 1 to 10000000"))],
        }
    }
}

/// A page of the list, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub items: Vec<Summary>,
    /// Where the next page begins; none: this was the last one.
    pub next: Option<String>,
}

/// How far a redrive of many has come.
#[derive(Debug, Default)]
pub struct Progress {
    pub redriven: AtomicU64,
    /// Letters that cannot be redriven, or are not in the topic any more.
    pub skipped: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error("there is no such dead letter, or it was redriven already")]
    Unknown,
    #[error("it cannot be redriven: {0}")]
    Impossible(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

pub struct DeadLetters {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    /// Where redriven deliveries go.
    events: Arc<str>,
    limit: usize,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    index: Mutex<Index>,
    ready: AtomicBool,
    stopping: Mutex<bool>,
    stopped: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Whether anything is delivered to an endpoint now.
pub type Served<'a> = &'a (dyn Fn(&Text) -> bool + Send + Sync);

impl DeadLetters {
    /// Begins to follow `topic`. Redriven deliveries go to `events`.
    pub fn start(
        log: Arc<dyn Log>,
        topic: Arc<str>,
        events: Arc<str>,
        config: &Config,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Arc<DeadLetters>> {
        let letters = Arc::new(DeadLetters {
            log,
            topic,
            events,
            limit: config.index,
            clock,
            metrics,
            index: Mutex::default(),
            ready: AtomicBool::new(false),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
            thread: Mutex::default(),
        });
        let follower = Arc::clone(&letters);
        let thread = std::thread::Builder::new().name("dead-letters".to_owned()).spawn(move || follower.follow())?;
        *letters.thread.lock().expect("nothing panics while it holds this lock") = Some(thread);
        Ok(letters)
    }

    /// Whether the topic was read to the end that it had at the start.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Waits for that; false if it took longer.
    pub async fn until_ready(&self, limit: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(20);
        let wait = async {
            while !self.is_ready() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Stops following. Blocks until the thread has ended: a poll at most.
    pub fn stop(&self) {
        *self.stopping.lock().expect("nothing panics while it holds this lock") = true;
        self.stopped.notify_all();
        if let Some(thread) = self.thread.lock().expect("nothing panics while it holds this lock").take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows the dead letters had panicked");
        }
    }

    /// A page of at most `limit` letters, newest first, from `cursor` (the `next` of the page before) on. Fails if the cursor is none of ours.
    pub fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, String> {
        let index = self.index();
        let mut before = match cursor {
            None => index.letters.range(..),
            Some(cursor) => index.letters.range(..parse_cursor(cursor)?),
        }
        .rev()
        .filter(|(_, summary)| filter.matches(summary));
        let items: Vec<Summary> = before.by_ref().take(limit).map(|(_, summary)| summary.clone()).collect();
        let next = match before.next() {
            Some(_) => items.last().map(|last| format!("{}.{}", last.at.as_millisecond(), last.id)),
            None => None,
        };
        Ok(Page { items, next })
    }

    /// The letter with what it holds; none if there is no such one, or not for this tenant.
    pub async fn get(self: &Arc<Self>, id: LetterId, tenant: Option<&Text>) -> Result<Option<DeadLetter>, LogError> {
        if !self.is_visible(id, tenant) {
            return Ok(None);
        }
        let record = self.read(vec![id]).await?.pop().and_then(|(_, record)| record);
        match record.map(|record| decode_dead_letter(&record)) {
            Some(Ok(letter)) => Ok(Some(letter)),
            // Retention has taken it.
            Some(Err(_)) | None => {
                self.change(|index| index.remove(id));
                Ok(None)
            }
        }
    }

    /// Sends one letter again. `known_at`: the offset of the registry at which its endpoint is as the caller sees it.
    pub async fn redrive(
        self: &Arc<Self>,
        id: LetterId,
        tenant: Option<&Text>,
        known_at: i64,
        is_served: Served<'_>,
    ) -> Result<(), RedriveError> {
        if !self.is_visible(id, tenant) {
            return Err(RedriveError::Unknown);
        }
        let mut results = self.redrive_these(vec![id], known_at, is_served).await?;
        results.pop().map_or(Err(RedriveError::Unknown), |(_, result)| result)
    }

    /// Sends again what matches now, oldest first, and tells how far it has come. Letters that come later, also those of deliveries that
    /// fail again, are not touched. What the log cannot take ends it; asking again goes on from there.
    pub async fn redrive_all(
        self: &Arc<Self>,
        filter: &Filter,
        known_at: i64,
        is_served: Served<'_>,
        progress: &Progress,
    ) -> Result<(), LogError> {
        let mut after: Option<Key> = None;
        let last = self.index().letters.last_key_value().map(|(key, _)| *key);
        let Some(last) = last else { return Ok(()) };
        loop {
            let keys: Vec<Key> = {
                let index = self.index();
                let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                // A bound behind the last one would panic.
                if after.is_some_and(|after| after >= last) {
                    return Ok(());
                }
                let range = index.letters.range((from, std::ops::Bound::Included(last)));
                range.filter(|(_, summary)| filter.matches(summary)).take(BATCH).map(|(key, _)| *key).collect()
            };
            let Some(end) = keys.last() else { return Ok(()) };
            after = Some(*end);
            for (_, result) in self.redrive_these(keys.iter().map(|(_, id)| *id).collect(), known_at, is_served).await? {
                match result {
                    Ok(()) => progress.redriven.fetch_add(1, Ordering::Relaxed),
                    Err(RedriveError::Log(error)) => return Err(error),
                    Err(RedriveError::Unknown | RedriveError::Impossible(_)) => progress.skipped.fetch_add(1, Ordering::Relaxed),
                };
            }
        }
    }

    async fn redrive_these(
        self: &Arc<Self>,
        ids: Vec<LetterId>,
        known_at: i64,
        is_served: Served<'_>,
    ) -> Result<Vec<(LetterId, Result<(), RedriveError>)>, LogError> {
        let claim = Claim::of(self, ids);
        let mut results = Vec::new();
        let (mut sending, mut appends) = (Vec::new(), Vec::new());
        for (id, record) in self.read(claim.ids.clone()).await? {
            match record.ok_or(RedriveError::Unknown).and_then(|record| self.sent_again(&record, known_at, is_served)) {
                Ok(append) => {
                    sending.push(id);
                    appends.push(append);
                }
                Err(error) => {
                    if matches!(error, RedriveError::Unknown) {
                        self.change(|index| index.remove(id));
                    }
                    results.push((id, Err(error)));
                }
            }
        }
        let mut sent = Vec::new();
        for (id, result) in sending.into_iter().zip(self.log.append(appends).await) {
            match result {
                Ok(_) => sent.push(id),
                Err(error) => results.push((id, Err(error.into()))),
            }
        }
        let marks = sent.iter().map(|id| self.mark(*id)).collect();
        for (id, result) in sent.into_iter().zip(self.log.append(marks).await) {
            // Sent it is in any case. Without its mark it would come back into the index with the next start.
            if let Err(error) = result {
                tracing::warn!(letter = %id, %error, "redriven, but the mark was not stored: it will be listed again after a restart");
            }
            self.change(|index| index.remove(id));
            results.push((id, Ok(())));
        }
        Ok(results)
    }

    /// What is appended to send a letter again.
    fn sent_again(&self, record: &Record, known_at: i64, is_served: Served<'_>) -> Result<Append, RedriveError> {
        let letter = decode_dead_letter(record).map_err(|unreadable| RedriveError::Impossible(unreadable.detail))?;
        match letter.thing {
            // It would come back at once, and with another reason than the one that brought it here.
            DeadThing::Delivery(delivery) if !is_served(&delivery.endpoint) => {
                Err(RedriveError::Impossible(format!("nothing is delivered to its endpoint `{}`: enable that first", delivery.endpoint)))
            }
            // Its age begins anew: it would be `expired` at once otherwise.
            DeadThing::Delivery(delivery) => {
                let accepted_at = self.clock.now();
                let registry_offset = known_at.max(delivery.registry_offset);
                // What its filter could not decide is put to it once more.
                let reason = (letter.reason == DeadReason::FilterUndecided).then(|| Text::from_static(Delivery::UNFILTERED));
                let again = Delivery {
                    attempts: 0,
                    accepted_at,
                    due_at: None,
                    registry_offset,
                    // The history of its ticket goes on.
                    purpose: if delivery.purpose == Purpose::Agent { Purpose::Agent } else { Purpose::Redrive },
                    reason,
                    ..*delivery
                };
                Ok(encode_delivery(&again).to(self.events.clone()))
            }
            DeadThing::Record { value: None, origin, .. } => {
                Err(RedriveError::Impossible(format!("it was too large to be moved, and only refers to {origin}")))
            }
            DeadThing::Record { origin, key, value, headers } => Ok(Append {
                topic: origin.topic,
                partition: None,
                key,
                value,
                headers: headers.into_iter().map(|(name, value)| (Cow::Owned(name.to_string()), value)).collect(),
            }),
        }
    }

    fn mark(&self, id: LetterId) -> Append {
        Append {
            topic: self.topic.clone(),
            partition: Some(id.partition),
            key: None,
            value: Some(Bytes::new()),
            headers: vec![(Cow::Borrowed(REDRIVEN), id.to_string().into())],
        }
    }

    fn is_visible(&self, id: LetterId, tenant: Option<&Text>) -> bool {
        let index = self.index();
        let Some(summary) = index.get(id) else { return false };
        tenant.is_none_or(|tenant| summary.delivery.as_ref().is_some_and(|about| about.tenant == tenant))
    }

    /// The records of these letters; none where it is not in the topic any more.
    async fn read(self: &Arc<Self>, ids: Vec<LetterId>) -> Result<Vec<(LetterId, Option<Record>)>, LogError> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || this.read_blocking(ids));
        read.await.unwrap_or_else(|error| Err(LogError::Unavailable(format!("reading dead letters was cut off: {error}"))))
    }

    fn read_blocking(&self, mut ids: Vec<LetterId>) -> Result<Vec<(LetterId, Option<Record>)>, LogError> {
        ids.sort_unstable();
        let until = Instant::now() + READ_DEADLINE;
        let mut found = Vec::with_capacity(ids.len());
        let mut open: Option<(i32, Box<dyn Reader>, std::vec::IntoIter<Record>)> = None;
        for id in ids {
            let (_, reader, batch) = match &mut open {
                Some(open) if open.0 == id.partition && id.offset - open.1.next() < GAP => open,
                _ => open.insert((id.partition, self.reader(id.partition, From::Offset(id.offset))?, Vec::new().into_iter())),
            };
            let record = loop {
                match batch.as_slice().first().map(|record| record.position.offset) {
                    Some(offset) if offset < id.offset => drop(batch.next()),
                    Some(offset) if offset == id.offset => break batch.next(),
                    Some(_) => break None,
                    None if reader.next() > id.offset || reader.next() >= reader.end()? => break None,
                    None if Instant::now() > until => {
                        return Err(LogError::Unavailable(format!("`{}` could not be read within {READ_DEADLINE:?}", self.topic)));
                    }
                    None => *batch = reader.poll(POLL, BATCH)?.into_iter(),
                }
            };
            found.push((id, record));
        }
        Ok(found)
    }

    fn reader(&self, partition: i32, from: From) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader(TopicPartition { topic: self.topic.clone(), partition }, from)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("nothing panics while it holds this lock")
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        let mut index = self.index();
        change(&mut index);
        self.metrics.dead_letters.set(index.letters.len() as f64);
    }

    fn follow(&self) {
        let mut follower = Follower::default();
        let mut complained = false;
        while !*self.stopping.lock().expect("nothing panics while it holds this lock") {
            match follower.turn(self) {
                Ok(()) => complained = false,
                Err(error) => {
                    if !complained {
                        tracing::warn!(topic = %self.topic, %error, "dead letters cannot be read, trying again");
                        complained = true;
                    }
                    follower.reopen(self);
                    self.pause(PAUSE_AFTER_ERROR);
                }
            }
        }
    }

    /// Waits, but not past the stop.
    fn pause(&self, time: Duration) {
        let stopping = self.stopping.lock().expect("nothing panics while it holds this lock");
        drop(self.stopped.wait_timeout_while(stopping, time, |stopping| !*stopping));
    }

    fn take_in(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        self.change(|index| {
            for record in &records {
                if let Some(mark) = record.header(REDRIVEN) {
                    if let Some(id) = std::str::from_utf8(mark).ok().and_then(|mark| mark.parse().ok()) {
                        index.remove(id);
                    }
                } else if let Some(summary) = summary(record) {
                    index.put(summary, self.limit);
                }
            }
        });
    }
}

/// Letters that this instance is redriving; nobody else in it may meanwhile.
struct Claim<'a> {
    letters: &'a DeadLetters,
    ids: Vec<LetterId>,
}

impl<'a> Claim<'a> {
    /// Claims those of `ids` that are in the index and not claimed.
    fn of(letters: &'a DeadLetters, mut ids: Vec<LetterId>) -> Claim<'a> {
        let mut index = letters.index();
        ids.retain(|id| index.times.contains_key(id) && index.claimed.insert(*id));
        Claim { letters, ids }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut index = self.letters.index();
        index.claimed.retain(|id| !self.ids.contains(id));
    }
}

fn parse_cursor(cursor: &str) -> Result<Key, String> {
    let wrong = || format!("`{cursor}` is no cursor: give the `next` of the page before");
    let (at, id) = cursor.split_once('.').ok_or_else(wrong)?;
    Ok((at.parse().map_err(|_| wrong())?, id.parse().map_err(|_| wrong())?))
}
