//! Follows the dead-letter topic, all partitions by one thread.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{BATCH, DeadLetters, PAUSE_AFTER_ERROR, POLL};
use crate::log::{From, LogError, Reader};

/// How often new partitions of the topic are looked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// The readers of all partitions.
#[derive(Default)]
pub(super) struct Follower {
    readers: Vec<(i32, Box<dyn Reader>)>,
    /// When partitions were looked for.
    looked: Option<Instant>,
}

impl Follower {
    pub fn turn(&mut self, letters: &DeadLetters) -> Result<(), LogError> {
        self.look_for_partitions(letters)?;
        let mut idle = true;
        for (_, reader) in &mut self.readers {
            let records = reader.poll(Duration::ZERO, BATCH)?;
            idle &= records.is_empty();
            letters.take_in(records);
        }
        if !idle {
            return Ok(());
        }
        if !letters.is_ready() {
            let mut behind = false;
            for (_, reader) in &mut self.readers {
                behind |= reader.next() < reader.end()?;
            }
            letters.ready.store(!behind, Ordering::Release);
        }
        // Each gets its share of the wait, so that none is looked at only when another one moves.
        let share = POLL / u32::try_from(self.readers.len().max(1)).unwrap_or(u32::MAX);
        for (_, reader) in &mut self.readers {
            letters.take_in(reader.poll(share, BATCH)?);
        }
        if self.readers.is_empty() {
            letters.pause(PAUSE_AFTER_ERROR);
        }
        Ok(())
    }

    fn look_for_partitions(&mut self, letters: &DeadLetters) -> Result<(), LogError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < PARTITIONS_EVERY) && !self.readers.is_empty() {
            return Ok(());
        }
        for partition in letters.log.partitions(&letters.topic)? {
            if self.readers.iter().all(|(known, _)| *known != partition) {
                self.readers.push((partition, letters.reader(partition, From::Earliest)?));
            }
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// After an error: new readers where the old ones stood. One that cannot be opened now is opened from the start later, which is harmless:
    /// the index takes in a letter twice as once, and marks come after letters.
    pub fn reopen(&mut self, letters: &DeadLetters) {
        let stood: Vec<(i32, i64)> = self.readers.drain(..).map(|(partition, reader)| (partition, reader.next())).collect();
        for (partition, next) in stood {
            if let Ok(reader) = letters.reader(partition, From::Offset(next)) {
                self.readers.push((partition, reader));
            }
        }
        self.looked = None;
    }
}
