//! The loop of a source: collect what was settled, commit, let go on what has waited, read.
//!
//! [`Source::turn`] is one round of it. It waits only in the consumer's poll and in `deliver`, so every promise can be tested round by round.
//!
//! A revocation is a state, not a wait inside of a call. The leases close: nothing of them is begun any more. While what was begun ends, nothing
//! is read and settlements are still collected. What waits beside a done delivery of the same record is spilled, and so is what keeps the
//! commit from telling all that is done. At rest, or when the time for it is over, the leases end, the positions are committed and the
//! partitions released, in this order. A settlement comes either before the end of its lease, and then it is in the commit, or after it, and
//! then it is without effect. A stop does the same with all partitions.

mod intake;

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{Command, Config, Shared, Wiring, partitions::Partitions};
use crate::{
    log::{CommitMode, Consumer, Log, LogError, Polled},
    model::{Endpoint, Routed, TopicPartition},
    telemetry::Trouble,
};

/// How long a poll waits for records when nothing else is to be done.
const IDLE: Duration = Duration::from_millis(100);

/// How soon to look again at something that is expected any moment.
const SOON: Duration = Duration::from_millis(2);

/// How often gauges are set, positions published and the window is looked at.
const REPORT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Events,
    Retry { prefix: String },
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Finishing(Instant),
}

/// A revocation that is going on.
#[derive(Debug)]
struct Revoking {
    partitions: Vec<TopicPartition>,
    deadline: Instant,
}

/// What became of records, counted up between two updates of the metrics.
#[derive(Debug, Default)]
struct Counts {
    matched: u64,
    routed: u64,
    unmatched: u64,
    unparsable: u64,
    tombstone: u64,
}

pub(super) struct Source {
    kind: Kind,
    log: Arc<dyn Log>,
    consumer: Box<dyn Consumer>,
    config: Config,
    wiring: Wiring,
    shared: Arc<Shared>,
    partitions: Partitions,
    phase: Phase,
    revoking: Option<Revoking>,
    next_commit: Instant,
    next_report: Instant,
    next_reread: Instant,
    next_warning: Instant,
    /// Since when nothing is taken, and why.
    halted: Option<(Instant, &'static str)>,
    trouble: Trouble,
    /// Smoothed weight of the records read, bytes: how many fit into what is free.
    weight: usize,
    /// Bytes of the budget that the records of this poll took.
    taken: usize,
    /// Events of before are late: their deliveries count their age from here on.
    late_ms: i64,
    out: Vec<Routed>,
    matches: Vec<Arc<Endpoint>>,
    counts: Counts,
}

impl Source {
    pub fn new(kind: Kind, log: Arc<dyn Log>, consumer: Box<dyn Consumer>, config: Config, wiring: Wiring, shared: Arc<Shared>) -> Source {
        let now = Instant::now();
        let partitions = Partitions::new(config.window, wiring.registry_id.clone());
        if kind == Kind::Events {
            wiring.metrics.window_limit.set(f64::from(config.window));
        }
        Source {
            kind,
            log,
            consumer,
            config,
            wiring,
            shared,
            partitions,
            phase: Phase::Running,
            revoking: None,
            next_commit: now,
            next_report: now,
            next_reread: now,
            next_warning: now,
            halted: None,
            trouble: Trouble::default(),
            weight: 1024,
            taken: 0,
            late_ms: i64::MIN,
            out: Vec::new(),
            matches: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Turns until it is told to finish or cannot go on.
    pub fn run(mut self, inbox: &mpsc::Receiver<Command>) {
        let mut pause = Duration::ZERO;
        loop {
            let command = if pause.is_zero() { inbox.try_recv().ok() } else { inbox.recv_timeout(pause).ok() };
            if let Some(command) = command {
                self.command(command);
            }
            match self.turn(Instant::now()) {
                Ok(time) => pause = time,
                Err(end) => {
                    self.leave(end);
                    return;
                }
            }
        }
    }

    pub fn command(&mut self, command: Command) {
        match (command, self.phase) {
            (Command::Stop, Phase::Running) => self.phase = Phase::Stopping,
            (Command::Stop, Phase::Stopping | Phase::Finishing(_)) => {}
            (Command::Finish(deadline), _) => self.phase = Phase::Finishing(deadline),
        }
        for owned in &mut self.partitions.list {
            owned.lease.close();
            owned.forget_waiting();
        }
    }

    /// One round. Returns how long to wait before the next one.
    pub fn turn(&mut self, now: Instant) -> Result<Duration, End> {
        self.collect();
        if self.revoking.is_some() {
            return self.go_on_revoking(now);
        }
        self.read_dropped_again(now);
        if now >= self.next_commit {
            self.next_commit = now + self.config.commit_interval;
            self.commit(None, CommitMode::Async)?;
            let lag = self.consumer.lag();
            self.wiring.metrics.lag.with(self.name()).set(lag.unwrap_or(0) as f64);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT;
            self.report(now);
        }
        if let Phase::Finishing(deadline) = self.phase
            && (now >= deadline || self.partitions.are_at_rest(|_| true))
        {
            return self.finish(now, deadline);
        }
        let reason = self.reason_to_halt();
        self.halt(reason, now);
        if reason.is_none() {
            self.let_go_on(now);
        }
        let is_patient = self.halted.is_some_and(|(since, _)| now.saturating_duration_since(since) < self.config.patience);
        if is_patient && self.phase == Phase::Running {
            return Ok(SOON);
        }
        if !self.pause_and_resume()? {
            // Polled without the pause it would bring more than there is room for.
            return Ok(IDLE);
        }
        self.poll(now)
    }

    fn collect(&mut self) {
        let collected = self.partitions.collect();
        if collected.late > 0 {
            self.wiring.metrics.late_settlements_total.increment(collected.late);
        }
        if collected.dropped > 0 {
            self.wiring.metrics.dropped_acknowledgements_total.increment(collected.dropped);
            tracing::error!(records = collected.dropped, "acknowledgements were dropped: a bug; their records are read again and spilled");
        }
    }

    /// Why nothing may be taken now.
    fn reason_to_halt(&self) -> Option<&'static str> {
        if self.phase != Phase::Running {
            return Some("stopping");
        }
        if let Some(reason) = (self.wiring.gate)() {
            return Some(reason);
        }
        // Once it is full, it is filled again when there is room for a good many: polls for a few records each would cost more than they bring.
        let budget = &self.wiring.budget;
        let enough = if self.halted.is_some_and(|(_, reason)| reason == "memory") { budget.limit() / 32 } else { 0 };
        (budget.room() <= enough).then_some("memory")
    }

    fn halt(&mut self, reason: Option<&'static str>, now: Instant) {
        let before = self.halted.map(|(_, reason)| reason);
        if before == reason {
            return;
        }
        let since = self.halted.map_or(now, |(since, _)| since);
        self.halted = reason.map(|reason| (since, reason));
        if self.kind == Kind::Events {
            let gauge = &self.wiring.metrics.sources_stopped;
            for (reason, value) in [(before, 0.0), (reason, 1.0)] {
                if let Some(reason) = reason.filter(|reason| *reason != "stopping") {
                    gauge.with(reason).set(value);
                }
            }
        }
    }

    /// Which partitions bring nothing for a while: all of them while nothing is taken; one whose window is full or that holds enough. False if the log
    /// could not be told.
    fn pause_and_resume(&mut self) -> Result<bool, End> {
        let all = self.halted.is_some();
        let memory = usize::try_from(self.config.hold_memory.0).unwrap_or(usize::MAX);
        let held_bytes = self.partitions.held_bytes();
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for owned in &mut self.partitions.list {
            // What is paused is resumed only when there is room for more than a record: a pause costs what was prefetched.
            let (most, memory) = if owned.paused { (self.config.hold / 4, memory / 4 * 3) } else { (self.config.hold - 1, memory) };
            let holds_enough = owned.held() > most || (owned.held() > 0 && held_bytes > memory);
            let wanted = all || !owned.backlog.is_empty() || holds_enough;
            if wanted != owned.paused {
                owned.paused = wanted;
                if wanted { &mut pause } else { &mut resume }.push(owned.lease.partition.clone());
            }
        }
        let mut result = Ok(());
        if !pause.is_empty() {
            result = self.consumer.pause(&pause);
        }
        if !resume.is_empty() {
            result = result.and(self.consumer.resume(&resume));
        }
        if result.is_err() {
            for owned in &mut self.partitions.list {
                let partition = &owned.lease.partition;
                owned.paused = (owned.paused || resume.contains(partition)) && !pause.contains(partition);
            }
        }
        Ok(self.heed(result)?.is_some())
    }

    fn poll(&mut self, now: Instant) -> Result<Duration, End> {
        let began = Instant::now();
        let polled = self.consumer.poll(self.poll_time(now), self.poll_records());
        // What came waits from its arrival on; counted from before the poll it would be let go too early.
        let now = now + began.elapsed();
        let Some(polled) = self.heed(polled)? else { return Ok(IDLE) };
        match polled {
            Polled::Records(records) => self.take(records, now),
            Polled::Assigned(assigned) => {
                self.wiring.metrics.rebalances_total.with("assigned").increment(1);
                tracing::info!(partitions = assigned.len(), "partitions assigned");
                self.partitions.assign(assigned).map_err(End::Failed)?;
                self.report(now);
            }
            Polled::Revoked { partitions, lost: true } => {
                self.wiring.metrics.rebalances_total.with("lost").increment(1);
                tracing::warn!(partitions = partitions.len(), "partitions lost: what was in flight is sent again by their new owner");
                self.partitions.end(&partitions);
                let result = self.consumer.release();
                self.heed(result)?;
            }
            Polled::Revoked { partitions, lost: false } => {
                self.wiring.metrics.rebalances_total.with("revoked").increment(1);
                for owned in self.partitions.list.iter_mut().filter(|owned| partitions.contains(&owned.lease.partition)) {
                    owned.lease.close();
                    owned.forget_waiting();
                }
                self.revoking = Some(Revoking { partitions, deadline: now + self.config.drain });
            }
        }
        Ok(Duration::ZERO)
    }

    fn poll_time(&self, now: Instant) -> Duration {
        let due = self.partitions.next_release().map(|due| due.saturating_duration_since(now));
        let commit = self.next_commit.saturating_duration_since(now);
        let is_held_up = self.phase != Phase::Running || self.partitions.list.iter().any(|owned| !owned.backlog.is_empty());
        let most = if is_held_up { IDLE / 10 } else { IDLE };
        let least = Duration::from_millis(1);
        // While nothing is taken, what is due waits too.
        due.filter(|_| self.halted.is_none()).unwrap_or(most).min(most).min(commit).max(least)
    }

    /// As many records as fit into the memory that is free.
    fn poll_records(&self) -> usize {
        let most = match self.kind {
            Kind::Events => self.config.batch,
            // What is not due yet is held: a poll brings no more than a partition may hold.
            Kind::Retry { .. } => self.config.batch.min(self.config.hold),
        };
        (self.wiring.budget.room() / self.weight + 1).min(most)
    }

    fn go_on_revoking(&mut self, now: Instant) -> Result<Duration, End> {
        let Some(revoking) = self.revoking.take() else { return Ok(Duration::ZERO) };
        let of = |partition: &TopicPartition| revoking.partitions.contains(partition);
        let is_moving = !self.partitions.are_at_rest(of);
        let is_over = matches!(self.phase, Phase::Finishing(deadline) if now >= deadline);
        if is_moving && now < revoking.deadline && !is_over {
            self.revoking = Some(revoking);
            return Ok(SOON);
        }
        if is_moving {
            let partitions = revoking.partitions.len();
            tracing::info!(partitions, "partitions are given up while records are in flight: their new owner sends those again");
        }
        for owned in self.partitions.list.iter().filter(|owned| of(&owned.lease.partition)) {
            owned.lease.end();
        }
        self.collect();
        if !self.commit(Some(&revoking.partitions), CommitMode::Sync)? && now < revoking.deadline && !is_over {
            // Without it the new owner would send again what was answered since the last one.
            self.revoking = Some(revoking);
            return Ok(IDLE / 2);
        }
        self.partitions.end(&revoking.partitions);
        let result = self.consumer.release();
        self.heed(result)?;
        self.report(now);
        Ok(Duration::ZERO)
    }

    /// Commits what has changed; a failure leaves it to the next time. True if everything was committed.
    fn commit(&mut self, only: Option<&[TopicPartition]>, mode: CommitMode) -> Result<bool, End> {
        let list = self.partitions.commits(only, mode);
        if list.is_empty() {
            return Ok(true);
        }
        let mut commits = Vec::with_capacity(list.len());
        let mut committed = Vec::with_capacity(list.len());
        for (index, commit) in list {
            committed.push((index, self.partitions.list[index].changes));
            commits.push(commit);
        }
        let result = self.consumer.commit(&commits, mode);
        let is_done = result.is_ok();
        if is_done {
            for (index, changes) in committed {
                self.partitions.list[index].changes -= changes;
                self.partitions.list[index].has_committed = true;
            }
        } else {
            // The failure may be that of the commit before: everything is committed again.
            for owned in &mut self.partitions.list {
                owned.changes = owned.changes.max(1);
            }
        }
        self.heed(result)?;
        Ok(is_done)
    }

    /// What was taken is settled, or the deadline has passed: the last commit.
    fn finish(&mut self, now: Instant, deadline: Instant) -> Result<Duration, End> {
        let is_late = now >= deadline;
        let is_moving = is_late && !self.partitions.are_at_rest(|_| true);
        for owned in &self.partitions.list {
            owned.lease.end();
        }
        // What was settled since this round began.
        self.collect();
        if self.commit(None, CommitMode::Sync)? || is_late {
            if is_moving {
                tracing::warn!(source = self.name(), "stopped while records were in flight: they are sent again");
            }
            self.report(now);
            return Err(End::Finished);
        }
        Ok(IDLE)
    }

    fn leave(mut self, end: End) {
        let partitions: Vec<TopicPartition> = self.partitions.list.iter().map(|owned| owned.lease.partition.clone()).collect();
        self.partitions.end(&partitions);
        let deadline = match self.phase {
            Phase::Finishing(deadline) => deadline.saturating_duration_since(Instant::now()),
            Phase::Running | Phase::Stopping => self.config.drain,
        };
        self.consumer.close(deadline.max(Duration::from_millis(500)));
        if let End::Failed(reason) = end {
            (self.wiring.failed)(reason);
        }
    }

    /// Sets gauges, publishes positions, and asks the oldest records to leave a window that is half full.
    fn report(&mut self, now: Instant) {
        let half = u64::from(self.config.window / 2);
        for owned in self.partitions.list.iter().filter(|owned| owned.tracker.span() > half) {
            owned.ask_to_leave(owned.tracker.next() - i64::from(self.config.window / 2));
        }
        let set = |value: &std::sync::atomic::AtomicU64, to: u64| value.store(to, Ordering::Relaxed);
        set(&self.shared.partitions, self.partitions.list.len() as u64);
        set(&self.shared.open, self.partitions.outstanding());
        set(&self.shared.held, self.partitions.held());
        *self.shared.positions.lock().expect("nothing panics while it holds this lock") = self.partitions.positions();
        let metrics = &self.wiring.metrics;
        match self.kind {
            Kind::Events => {
                metrics.window_used.set(self.partitions.widest() as f64);
                metrics.oldest_open_seconds.set(self.partitions.oldest_age(now).as_secs_f64());
                metrics.commit_lag.set(self.partitions.list.iter().map(|owned| owned.changes).sum::<u64>() as f64);
                let is_full = self.partitions.list.iter().any(|owned| !owned.tracker.fits(owned.tracker.next()));
                metrics.sources_stopped.with("window").set(f64::from(u8::from(is_full)));
            }
            Kind::Retry { .. } => metrics.retries_waiting.set(self.partitions.held() as f64),
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Events => "events",
            Kind::Retry { .. } => "retry",
        }
    }

    /// Trouble of the log is told once and waited out; what cannot be waited out ends the source.
    fn heed<T>(&mut self, result: Result<T, LogError>) -> Result<Option<T>, End> {
        match result {
            Ok(value) => {
                if self.trouble.ends(Instant::now()) {
                    tracing::info!(source = self.name(), "the log answers again");
                }
                Ok(Some(value))
            }
            Err(LogError::Fatal(reason)) => Err(End::Failed(reason)),
            Err(error @ (LogError::Unavailable(_) | LogError::TooLarge { .. })) => {
                if self.trouble.begins(Instant::now()) {
                    tracing::warn!(source = self.name(), %error, "the log does not answer; trying on");
                }
                Ok(None)
            }
        }
    }
}
