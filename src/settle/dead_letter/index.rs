//! The index of dead letters: what each is about, by time and by id.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    log::{
        Record,
        record::{DeadThing, decode_dead_letter},
    },
    model::{DeadReason, Position, Text, Timestamp},
};

/// What a dead letter is called: where it lies in the dead-letter topic. Written `partition-offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    pub partition: i32,
    pub offset: i64,
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}-{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let parts = text.split_once('-').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
        parts.map(|(partition, offset)| LetterId { partition, offset }).ok_or_else(|| format!("`{text}` is no id of a dead letter"))
    }
}

/// A dead letter in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub id: LetterId,
    pub at: Timestamp,
    pub reason: DeadReason,
    pub detail: Text,
    /// Where the event lay first.
    pub origin: Position,
    /// None: a record that never became a delivery.
    pub delivery: Option<About>,
}

/// What the delivery was about.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    pub endpoint: Text,
    pub tenant: Text,
    pub event: Text,
    pub kind: Text,
    pub channel: Text,
    pub attempts: u32,
}

/// Which dead letters; what is none is not asked for. A record that never became a delivery has no tenant and no endpoint: only who asks for
/// neither sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub tenant: Option<Text>,
    pub endpoint: Option<Text>,
    pub channel: Option<Text>,
    pub kind: Option<Text>,
    pub reason: Option<DeadReason>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl Filter {
    pub(super) fn matches(&self, summary: &Summary) -> bool {
        let about = summary.delivery.as_ref();
        let is = |asked: &Option<Text>, found: fn(&About) -> &Text| match asked {
            None => true,
            Some(asked) => about.is_some_and(|about| found(about) == asked),
        };
        is(&self.tenant, |about| &about.tenant)
            && is(&self.endpoint, |about| &about.endpoint)
            && is(&self.channel, |about| &about.channel)
            && is(&self.kind, |about| &about.kind)
            && self.reason.is_none_or(|reason| reason == summary.reason)
            && self.since.is_none_or(|since| summary.at >= since)
            && self.until.is_none_or(|until| summary.at < until)
    }
}

/// By time, so that pages are in order; the id makes it unique.
pub(super) type Key = (i64, LetterId);

#[derive(Default)]
pub(super) struct Index {
    pub letters: BTreeMap<Key, Summary>,
    pub times: HashMap<LetterId, i64, foldhash::fast::RandomState>,
    /// Being redriven by this instance right now.
    pub claimed: HashSet<LetterId, foldhash::fast::RandomState>,
}

impl Index {
    pub fn put(&mut self, summary: Summary, limit: usize) {
        let at = summary.at.as_millisecond();
        self.times.insert(summary.id, at);
        self.letters.insert((at, summary.id), summary);
        while self.letters.len() > limit {
            if let Some(((_, oldest), _)) = self.letters.pop_first() {
                self.times.remove(&oldest);
            }
        }
    }

    pub fn remove(&mut self, id: LetterId) {
        if let Some(at) = self.times.remove(&id) {
            self.letters.remove(&(at, id));
        }
    }

    pub fn get(&self, id: LetterId) -> Option<&Summary> {
        self.letters.get(&(*self.times.get(&id)?, id))
    }
}

/// The summary of a letter, with texts of its own: those of the record would keep the whole record in memory.
pub(super) fn summary(record: &Record) -> Option<Summary> {
    let own = |text: &Text| Text::from(&**text);
    let letter = decode_dead_letter(record).ok()?;
    let (origin, delivery) = match letter.thing {
        DeadThing::Delivery(delivery) => {
            let event = &delivery.event;
            let about = About {
                endpoint: own(&delivery.endpoint),
                tenant: own(&event.tenant),
                event: own(&event.id),
                kind: own(&event.kind),
                channel: own(&event.channel),
                attempts: delivery.attempts,
            };
            (delivery.origin, Some(about))
        }
        DeadThing::Record { origin, .. } => (origin, None),
    };
    let id = LetterId { partition: letter.position.partition, offset: letter.position.offset };
    Some(Summary { id, at: letter.at, reason: letter.reason, detail: own(&letter.detail), origin, delivery })
}
