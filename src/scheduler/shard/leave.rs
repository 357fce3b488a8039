//! Who leaves without a request: what has waited for too long, and all that waits when the shard drains.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::{Lane, Spill, SpillReason, Waiting, endpoint::State, queue::Waiter},
    Shard, lane_of,
};
use crate::model::Ack;

/// One sweep looks at this part of all that waits, at least at [`SWEPT`] places, and the next one goes on from there: requests must not wait for a
/// sweep (it takes about 0.1 us per delivery), and a delivery that holds the offset window must be found within two seconds.
const SWEPT_PART: usize = 16;
const SWEPT: usize = 2048;

enum Verdict {
    Stay,
    /// Its partition was lost: the new owner sends it.
    LetGo,
    Spill(SpillReason),
}

impl Shard {
    pub(super) fn spill(&mut self, now: Instant, index: u32, waiter: Waiter, reason: SpillReason) {
        let Waiter { delivery, mut ack, class, since } = waiter;
        let state = self.endpoints[index as usize].as_mut().expect("the caller has an index that is in use");
        match reason {
            SpillReason::QueueFull | SpillReason::DegradedWait if !ack.take_up() => {
                let waiter = Waiter { delivery, ack, class, since };
                return self.parked.push((Arc::clone(&state.endpoint), waiter));
            }
            _ => ack.take_out(),
        }
        let wait = match reason {
            // What leaves because we stop is wanted back soon.
            SpillReason::Drain | SpillReason::CutOff => Spill::SHORTEST,
            SpillReason::QueueFull | SpillReason::DegradedWait | SpillReason::Window | SpillReason::FanOut => state.backlog(now),
        };
        state.spilled(now);
        self.spilled.push(Spill { delivery, endpoint: Arc::clone(&state.endpoint), ack, wait, reason });
    }

    pub(super) fn sweep_queue(&mut self, now: Instant) {
        let span = self.store.span();
        // Where a lease closes, others wait for what must leave.
        let is_hurried = self.draining.is_some() || !self.parked.is_empty();
        let part = if is_hurried { span } else { SWEPT.max(span / SWEPT_PART).min(span) };
        self.sweep_parked();
        for _ in 0..part {
            let node = self.swept % span as u32;
            self.swept = node + 1;
            let Some((waiter, index)) = self.store.get(node) else { continue };
            let verdict = self.judge(now, waiter, self.state(index));
            match verdict {
                Verdict::Stay => {}
                Verdict::LetGo => {
                    self.remove(index, node).ack.abandon();
                    self.place(now, index);
                }
                Verdict::Spill(reason) => {
                    if reason == SpillReason::Window || waiter.ack.is_closing() {
                        self.spill_budget.take_anyway(now);
                    } else if self.draining.is_none() && !self.spill_budget.take(now) {
                        continue;
                    }
                    let waiter = self.remove(index, node);
                    self.spill(now, index, waiter, reason);
                    self.place(now, index);
                }
            }
        }
    }

    pub(super) fn sweep_parked(&mut self) {
        for (endpoint, waiter) in std::mem::take(&mut self.parked) {
            let Waiter { delivery, mut ack, class, since } = waiter;
            let reason = match must_leave(&ack) {
                _ if !ack.is_live() => {
                    ack.abandon();
                    continue;
                }
                Some(reason) => reason,
                None => {
                    self.parked.push((endpoint, Waiter { delivery, ack, class, since }));
                    continue;
                }
            };
            ack.take_out();
            self.spilled.push(Spill { delivery, endpoint, ack, wait: Spill::SHORTEST, reason });
        }
    }

    /// What is to become of a delivery that waits.
    fn judge(&self, now: Instant, waiter: &Waiter, state: &State) -> Verdict {
        let waited = now.saturating_duration_since(waiter.since);
        let is_closing = waiter.ack.is_closing();
        if waited < self.config.fan_out_wait && self.draining.is_none() && !is_closing {
            return Verdict::Stay;
        }
        if !waiter.ack.is_live() {
            Verdict::LetGo
        } else if let Some(reason) = must_leave(&waiter.ack) {
            Verdict::Spill(reason)
        } else if is_closing {
            Verdict::Stay
        } else if lane_of(state.health) == Lane::Degraded && waited >= self.config.degraded_wait {
            Verdict::Spill(SpillReason::DegradedWait)
        } else {
            Verdict::Stay
        }
    }

    pub(super) fn drain(&mut self, now: Instant, waiting: Waiting) {
        self.draining = Some(waiting);
        match waiting {
            Waiting::Spill => self.empty_queues(now, |_| Some(SpillReason::Drain)),
            Waiting::HandBack => {
                self.sweep_at = Some(now);
            }
        }
    }

    /// Takes out all that waits: spilled for the reason that `reason` gives or because it must leave, and handed back otherwise.
    pub(super) fn empty_queues(&mut self, now: Instant, reason: impl Fn(&Waiter) -> Option<SpillReason>) {
        for index in 0..self.endpoints.len() as u32 {
            while let Some(state) = self.endpoints[index as usize].as_mut()
                && let Some(waiter) = self.store.pop(&mut state.queue)
            {
                self.lanes[lane_of(state.health) as usize].queued -= 1;
                let must_leave = must_leave(&waiter.ack).and(Some(SpillReason::Drain));
                match reason(&waiter).or(must_leave).filter(|_| waiter.ack.is_live()) {
                    Some(reason) => self.spill(now, index, waiter, reason),
                    None => self.handed_back.push((waiter.delivery, waiter.ack)),
                }
            }
            self.place(now, index);
        }
    }
}

/// Why a delivery has to leave the memory whatever else is to become of it.
fn must_leave(ack: &Ack) -> Option<SpillReason> {
    if ack.should_leave() { Some(SpillReason::Window) } else { ack.siblings_done().then_some(SpillReason::FanOut) }
}
