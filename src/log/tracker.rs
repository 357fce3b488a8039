//! Which records of a partition are settled, and what may be committed.
//!
//! Deliveries finish out of order, a log commits one offset. The [`Tracker`] keeps a bit per offset between the lowest open record and the
//! last one read, so the commit is the lowest open offset ([`Tracker::low`]), and beside it, as text, the runs of what is done above it. After a
//! restart or a rebalance only what was open is sent again.
//!
//! **Never**: `low` passes an open record. **Never**: a text that is not ours, or not for this offset, marks a record as done. Offsets without a
//! record (compaction, transaction markers) count as done once a higher one was read.
//!
//! Bits, not a tree of ranges: every settling costs the same whatever the pattern of holes, and a span of 1,048,576 offsets takes 128 KiB at
//! most, and only while it is that wide.
//!
//! # The text
//!
//! `ph1 <offset> <tag> <runs>`: version, the offset it was committed with, a word of the caller ([`Restored::tag`], `-` if empty), and the lengths of
//! alternating runs from `low` up (open, done, open, …), each as LEB128, all in base64 without padding. The last done run that fits ends it.
//! The offset is in it because tools that copy positions between clusters translate the offset and keep the text; its runs would then
//! mark foreign records.

use std::collections::VecDeque;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

use super::METADATA_LIMIT;

const VERSION: &str = "ph1";
const NO_TAG: &str = "-";

/// Longest word of the caller, bytes.
pub const TAG_LIMIT: usize = 64;

const WORD: i64 = u64::BITS as i64;

/// The settled and the open offsets of one partition, from assignment to revocation.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// The lowest offset that is not done: everything below is.
    low: i64,
    /// One above the highest offset read. `low <= next`.
    next: i64,
    window: i64,
    /// Offsets in `low..next` that are not done.
    open: u64,
    /// A bit for each offset from `base` on; set: done. Covers `low..next` and whatever [`Tracker::restore`] put above it.
    bits: VecDeque<u64>,
    /// Offset of the first bit: the multiple of 64 at or below `low`.
    base: i64,
}

/// What [`Tracker::read`] says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// It is open now: settle it.
    Open,
    /// It was done before the last commit: nothing is owed.
    Done,
    /// It is no further than what was read already: the log was made anew, or its end was cut off. Begin a new tracker at this offset.
    Back,
}

/// What a commit's text told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// The word that was committed; empty if none or if the text was not ours.
    pub tag: String,
    /// Offsets that are done above the committed one.
    pub done: u64,
}

/// What to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The offset to read next.
    pub offset: i64,
    /// At most [`METADATA_LIMIT`] bytes.
    pub metadata: String,
    /// Whether all that is done above the offset found room in the text; what did not is sent again after a restart.
    pub is_whole: bool,
}

impl Tracker {
    /// Begins at `start` with nothing read; `window` is the largest span of offsets that may be open.
    pub fn new(start: i64, window: u32) -> Tracker {
        let base = start - start.rem_euclid(WORD);
        Tracker { low: start, next: start, window: i64::from(window), open: 0, bits: VecDeque::new(), base }
    }

    /// Begins with what was committed: `committed` with its text, while reading begins at `start`.
    pub fn restore(committed: i64, metadata: &str, start: i64, window: u32) -> (Tracker, Restored) {
        let mut tracker = Tracker::new(start, window);
        let Some((offset, tag, lengths)) = parse(metadata) else { return (tracker, Restored::default()) };
        let mut restored = Restored { tag: tag.to_owned(), done: 0 };
        if offset != committed {
            return (tracker, restored);
        }
        // A text whose runs reach above the window was made with a larger one. What lies above the present one is not used: it is sent again.
        let limit = start.saturating_add(tracker.window);
        let mut at = committed;
        for (index, length) in lengths.iter().enumerate() {
            let end = at.saturating_add(*length);
            if index % 2 == 1 {
                let (from, to) = (at.max(start), end.min(limit));
                if from < to {
                    tracker.set_run(from, to);
                    restored.done += (to - from) as u64;
                }
            }
            at = end;
        }
        (tracker, restored)
    }

    /// Whether a record of that offset can be read without making the span wider than the window.
    pub fn fits(&self, offset: i64) -> bool {
        self.open == 0 || offset.saturating_sub(self.low) < self.window
    }

    /// Takes note of a record that was read. The caller has asked [`Tracker::fits`].
    pub fn read(&mut self, offset: i64) -> Read {
        if offset < self.next {
            return Read::Back;
        }
        debug_assert!(self.fits(offset), "{offset} is outside of the window from {}", self.low);
        if self.open == 0 && offset - self.low >= self.window {
            // Nothing is open, and the next record lies behind a wide gap: begin there instead of filling it with bits.
            *self = Tracker::new(offset, self.window as u32);
        }
        if self.next < offset {
            self.set_run(self.next, offset);
        }
        self.next = offset + 1;
        self.cover(offset);
        let read = if self.is_set(offset) {
            Read::Done
        } else {
            self.open += 1;
            Read::Open
        };
        self.advance();
        read
    }

    /// Marks a record as settled; false if it was, or was never read.
    pub fn done(&mut self, offset: i64) -> bool {
        if offset < self.low || offset >= self.next || self.is_set(offset) {
            return false;
        }
        let (word, bit) = self.place(offset);
        self.bits[word] |= bit;
        self.open -= 1;
        if offset == self.low {
            self.advance();
        }
        true
    }

    /// Whether the record was read and is not settled.
    pub fn is_open(&self, offset: i64) -> bool {
        (self.low..self.next).contains(&offset) && !self.is_set(offset)
    }

    /// The lowest offset that is not done.
    pub fn low(&self) -> i64 {
        self.low
    }

    /// One above the highest offset read.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Records that were read and are not settled.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// How far what was read lies ahead of what may be committed.
    pub fn span(&self) -> u64 {
        (self.next - self.low) as u64
    }

    /// What to commit now, with the caller's word (ASCII without spaces, at most [`TAG_LIMIT`] bytes; others are left out).
    pub fn position(&self, tag: &str) -> Position {
        let head = head(self.low, tag);
        let room = room(&head);
        let mut lengths = Vec::new();
        let mut is_whole = true;
        for run in self.runs() {
            let before = lengths.len();
            run.write(&mut lengths);
            if lengths.len() > room {
                lengths.truncate(before);
                is_whole = false;
                break;
            }
        }
        Position { offset: self.low, metadata: head + &STANDARD_NO_PAD.encode(lengths), is_whole }
    }

    /// Where the text of [`Tracker::position`] has no room for all that is done: the offset below which everything has to be settled, so that
    /// it has. None where it is whole.
    pub fn overflow(&self, tag: &str) -> Option<i64> {
        // The offset in it may grow by then, but not beyond this.
        let room = room(&head(self.next, tag));
        let mut scratch = Vec::new();
        let mut sizes: Vec<(i64, usize)> = Vec::new();
        for run in self.runs() {
            scratch.clear();
            run.write(&mut scratch);
            sizes.push((run.open, scratch.len()));
        }
        if sizes.iter().map(|(_, size)| size).sum::<usize>() <= room {
            return None;
        }
        let mut below = self.next;
        let mut size = 0;
        for (open, bytes) in sizes.into_iter().rev() {
            size += bytes;
            if size > room {
                break;
            }
            below = open;
        }
        Some(below)
    }

    /// What is done above `low`, from the lowest up.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut at = self.low;
        std::iter::from_fn(move || {
            let done = self.next_with(at, true)?;
            let end = self.next_with(done, false).unwrap_or_else(|| self.top());
            let open = std::mem::replace(&mut at, end);
            Some(Run { open, done, end })
        })
    }

    /// One above the last bit.
    fn top(&self) -> i64 {
        self.base + self.bits.len() as i64 * WORD
    }

    fn place(&self, offset: i64) -> (usize, u64) {
        let distance = offset - self.base;
        ((distance / WORD) as usize, 1 << (distance % WORD))
    }

    fn is_set(&self, offset: i64) -> bool {
        let (word, bit) = self.place(offset);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Makes the bits reach to `offset`.
    fn cover(&mut self, offset: i64) {
        let (word, _) = self.place(offset);
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
    }

    /// Sets `from..to`, which is not empty.
    fn set_run(&mut self, from: i64, to: i64) {
        self.cover(to - 1);
        let (first, _) = self.place(from);
        let (last, _) = self.place(to - 1);
        for word in first..=last {
            let start = self.base + word as i64 * WORD;
            let low = (from - start).max(0);
            let high = (to - start).min(WORD);
            self.bits[word] |= (u64::MAX << low) & (u64::MAX >> (WORD - high));
        }
    }

    /// The first offset at or above `from` that is done (or not), below the last bit.
    fn next_with(&self, from: i64, done: bool) -> Option<i64> {
        let (first, bit) = self.place(from);
        let mut mask = !(bit - 1);
        for word in first..self.bits.len() {
            let bits = if done { self.bits[word] } else { !self.bits[word] } & mask;
            if bits != 0 {
                return Some(self.base + word as i64 * WORD + i64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Moves `low` over what is done, and lets go of the bits below it.
    fn advance(&mut self) {
        self.low = self.next_with(self.low, false).unwrap_or_else(|| self.top()).min(self.next);
        while self.low - self.base >= WORD {
            if self.bits.pop_front().is_none() {
                self.base = self.low - self.low.rem_euclid(WORD);
                break;
            }
            self.base += WORD;
        }
    }
}

/// Offsets that are open, and those behind them that are done.
struct Run {
    open: i64,
    done: i64,
    end: i64,
}

impl Run {
    fn write(&self, into: &mut Vec<u8>) {
        leb128(into, (self.done - self.open) as u64);
        leb128(into, (self.end - self.done) as u64);
    }
}

fn head(low: i64, tag: &str) -> String {
    let is_word = !tag.is_empty() && tag.len() <= TAG_LIMIT && tag.bytes().all(|byte| byte.is_ascii_graphic());
    format!("{VERSION} {low} {} ", if is_word { tag } else { NO_TAG })
}

/// Bytes of run lengths that fit behind the head: three become four characters.
fn room(head: &str) -> usize {
    (METADATA_LIMIT - head.len()) / 4 * 3
}

/// Offset, tag and run lengths of a text; none if it is not one of ours, or not whole.
fn parse(metadata: &str) -> Option<(i64, &str, Vec<i64>)> {
    let mut parts = metadata.split(' ');
    if parts.next()? != VERSION {
        return None;
    }
    let offset = parts.next()?.parse().ok()?;
    let tag = parts.next()?;
    let runs = STANDARD_NO_PAD.decode(parts.next()?).ok()?;
    if parts.next().is_some() {
        return None;
    }
    let mut lengths = Vec::new();
    let mut bytes = runs.iter();
    while let Some(first) = bytes.next() {
        let mut length = u64::from(first & 0x7f);
        let mut last = *first;
        let mut shift = 7;
        while last & 0x80 != 0 {
            last = *bytes.next()?;
            if shift > 49 {
                return None;
            }
            length |= u64::from(last & 0x7f) << shift;
            shift += 7;
        }
        lengths.push(i64::try_from(length).ok()?);
    }
    let is_whole = lengths.len() % 2 == 0;
    is_whole.then_some((offset, if tag == NO_TAG { "" } else { tag }, lengths))
}

fn leb128(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests;
