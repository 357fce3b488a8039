//! The one global byte budget: what is queued or in flight holds a permit, and sources stop polling while it is used up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that nothing holds.
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// Bytes that sources may still fill. A fifth stays free for what cannot be refused: the rest of a record, deliveries that come back.
    pub fn room(&self) -> usize {
        (self.limit / 5 * 4).saturating_sub(self.used())
    }

    /// Takes `bytes`. It always succeeds, so that a record that was read can be carried; whoever reads must look at
    /// [`Budget::room`] before the next record.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Permit { budget: Arc::clone(self), bytes }
    }
}

/// Bytes held until it is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
