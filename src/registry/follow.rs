//! The thread that follows the registry topic: reads it to its end, then applies what comes, for as long as the daemon lives.
//!
//! It is the only one that changes the view. Whoever writes leaves a mark with its append and is told when the record with that mark was
//! applied, so what is answered to a client is what the stages of this instance work with already.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    RegistryError, Shared,
    record::RecordError,
    seal::SealError,
    view::{Change, States, Unreadable},
    write::Applied,
};
use crate::log::{LogError, Reader, Record};

/// How long one poll waits: also the time in which a stop is noticed.
const POLL: Duration = Duration::from_millis(200);

/// Records per poll: large enough to load quickly, small enough that readers of the view wait for milliseconds at most.
const BATCH: usize = 2_000;

/// How often the end of the topic is asked for while nothing comes.
const LOOK: Duration = Duration::from_secs(1);

/// When the end of the topic was asked for last, and the answer while it is still ahead of us.
struct Look {
    at: Instant,
    end: Option<i64>,
}

/// The pause after the log could not be read.
const PAUSE: Duration = Duration::from_millis(500);

/// Told once per batch, before those who wrote it are answered.
pub type OnChange = Box<dyn FnMut(&[Change]) + Send>;

pub struct Follower {
    pub shared: Arc<Shared>,
    pub reader: Box<dyn Reader>,
    pub on_change: OnChange,
    pub states: States,
}

impl Follower {
    /// Runs until it is stopped. `loaded` is told when the topic was read to the end that it had, or why it cannot be.
    pub fn run(mut self, loaded: oneshot::Sender<Result<u64, RegistryError>>) {
        let result = self.load();
        let go_on = result.is_ok();
        if loaded.send(result).is_ok() && go_on {
            self.follow();
        }
        self.shared.pending.close();
    }

    fn load(&mut self) -> Result<u64, RegistryError> {
        let mut read = 0;
        let mut complained = false;
        let mut end = None;
        while !self.stopped() {
            match self.load_batch(&mut end) {
                Ok(Some(records)) => {
                    read += records.len() as u64;
                    let mut view = self.shared.view.write().expect("nothing panics while it holds the view");
                    for record in &records {
                        match view.apply(record, &self.shared.key) {
                            Ok(_) => {}
                            Err(Unreadable { error: RecordError::Seal(error @ SealError::WrongKey { .. }), .. }) => {
                                return Err(error.into());
                            }
                            Err(error) => pass_over(record, &error),
                        }
                    }
                }
                Ok(None) => {
                    self.loaded()?;
                    return Ok(read);
                }
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "cannot read the registry yet, trying on");
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Err(RegistryError::Stopped)
    }

    /// Records below the end that the topic had at first; none when all of them were read.
    fn load_batch(&mut self, end: &mut Option<i64>) -> Result<Option<Vec<Record>>, LogError> {
        let end = match *end {
            Some(end) => end,
            None => *end.insert(self.reader.end()?),
        };
        if self.reader.next() >= end { Ok(None) } else { self.reader.poll(POLL, BATCH).map(Some) }
    }

    fn loaded(&mut self) -> Result<(), RegistryError> {
        let changes: Vec<Change> = {
            let view = self.shared.view.read().expect("nothing panics while it holds the view");
            if let Some(id) = view.collisions().next() {
                return Err(RegistryError::Declared(id.clone()));
            }
            view.entries()
                .chain(view.listeners())
                .map(|entry| Change { id: entry.endpoint.id.clone(), before: None, after: Some(entry) })
                .collect()
        };
        self.tell(&changes);
        self.caught_up(Instant::now());
        Ok(())
    }

    fn follow(&mut self) {
        let mut look = Look { at: Instant::now(), end: None };
        let mut complained: Option<Instant> = None;
        while !self.stopped() {
            self.declare();
            match self.step(&mut look) {
                // A poll that brings nothing says nothing: the trouble is over when the end was reached again.
                Ok(()) => complained = complained.filter(|at| self.shared.behind_for() >= at.elapsed()),
                Err(error) => {
                    if complained.is_none() {
                        complained = Some(Instant::now());
                        tracing::error!(%error, "cannot read the registry: changes of endpoints do not arrive here");
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Takes over what the configuration declares now, if it was read again.
    fn declare(&mut self) {
        let declaration = self.shared.declaration.lock().expect("nothing panics while it holds this lock").take();
        let Some((endpoints, tenants)) = declaration else { return };
        let (changes, refused) = self.shared.view.write().expect("nothing panics while it holds the view").declare(endpoints, tenants);
        for id in refused {
            tracing::error!(endpoint = %id, "declared in the configuration and registered over the API: the registered one stays in force");
        }
        self.tell(&changes);
    }

    fn step(&mut self, look: &mut Look) -> Result<(), LogError> {
        let records = self.reader.poll(POLL, BATCH)?;
        if !records.is_empty() {
            self.apply(&records);
        }
        // While records keep coming the end is never reached: what counts is when we passed the end that we saw.
        if look.end.is_none() && look.at.elapsed() >= LOOK {
            look.at = Instant::now();
            look.end = Some(self.reader.end()?);
        }
        if look.end.is_some_and(|end| end <= self.reader.next()) {
            look.end = None;
            self.caught_up(look.at);
        }
        Ok(())
    }

    fn apply(&mut self, records: &[Record]) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        {
            let mut view = self.shared.view.write().expect("nothing panics while it holds the view");
            for record in records {
                let change = view.apply(record, &self.shared.key).unwrap_or_else(|error| {
                    pass_over(record, &error);
                    None
                });
                if let Some(waiting) = self.shared.pending.take(record) {
                    let before = change.as_ref().and_then(|change| change.before.clone());
                    let written = change.as_ref().and_then(|change| change.after.as_ref());
                    let is_one_too_many = written.is_some_and(|written| view.is_one_too_many(&written.endpoint));
                    answers.push((waiting, Applied { offset: record.position.offset, before, is_one_too_many }));
                }
                changes.extend(change);
            }
        }
        self.tell(&changes);
        for (waiting, applied) in answers {
            // Who waited may have given up.
            let _ = waiting.send(applied);
        }
    }

    fn tell(&mut self, changes: &[Change]) {
        if !changes.is_empty() {
            (self.on_change)(changes);
            self.shared.changed.send_modify(|count| *count += 1);
            changes.iter().for_each(|change| self.states.count(change));
            for (label, count) in self.states.iter() {
                self.shared.metrics.endpoints.with(label).set(count as f64);
            }
        }
        let tenants = self.shared.view.read().expect("nothing panics while it holds the view").tenants_version();
        self.shared.tenants_version.send_if_modified(|known| std::mem::replace(known, tenants) != tenants);
        let applied = self.reader.next() - 1;
        self.shared.applied.store(applied, Ordering::Release);
    }

    fn caught_up(&self, at: Instant) {
        *self.shared.caught_up.lock().expect("nothing panics while it holds the time") = Some(at);
        // The end of the topic may have moved over what was compacted away, without a record to tell.
        self.shared.applied.store(self.reader.next() - 1, Ordering::Release);
    }

    fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }
}

/// A record that cannot be read leaves what was known before in force, at start as later; a person has to look at it.
fn pass_over(record: &Record, error: &Unreadable) {
    tracing::error!(position = %record.position, %error, "passed over");
}
