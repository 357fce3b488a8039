//! What is in flight: one slot per request, and the order in which they began.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Lane, Spill, SpillReason,
    ring::{Links, Ring},
};
use crate::model::{Ack, Class, Delivery, Endpoint};

/// Names the slot of a request. A slot that was used again since is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    index: u32,
    generation: u32,
}

/// A request to make, and the duty to say when it has ended ([`super::Finished`]). Dropping it before [`Dispatch::into_parts`] gives
/// the delivery back: it is spilled.
#[derive(Debug)]
pub struct Dispatch {
    /// None once it was taken out.
    pub(super) owed: Option<(Box<Delivery>, Ack)>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) slot: Slot,
    pub(super) class: Class,
    pub(super) lane: Lane,
    pub(super) waited: Duration,
    pub(super) returned: Returned,
}

/// Deliveries of requests that were cut off.
pub(super) type Returned = Rc<RefCell<Vec<Spill>>>;

impl Dispatch {
    pub fn delivery(&self) -> &Delivery {
        &self.owed.as_ref().expect("only into_parts takes it, and that consumes").0
    }

    pub fn ack(&self) -> &Ack {
        &self.owed.as_ref().expect("only into_parts takes it, and that consumes").1
    }

    /// The newest version of the endpoint that the shard knows, perhaps newer than the one the event was routed to.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }

    pub fn class(&self) -> Class {
        self.class
    }

    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// From entering the queue to now.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes the delivery to settle it: from here on the scheduler will not spill it.
    pub fn into_parts(mut self) -> (Box<Delivery>, Arc<Endpoint>, Ack) {
        let (delivery, ack) = self.owed.take().expect("only into_parts takes it, and that consumes");
        (delivery, Arc::clone(&self.endpoint), ack)
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        if let Some((delivery, ack)) = self.owed.take() {
            let endpoint = Arc::clone(&self.endpoint);
            self.returned.borrow_mut().push(Spill { delivery, endpoint, ack, wait: Spill::SHORTEST, reason: SpillReason::CutOff });
        }
    }
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    pub endpoint: u32,
    pub lane: Lane,
    pub started: Instant,
    /// Whether it counts into the share of unproven, degraded and old requests.
    pub suspect: bool,
    /// Whether it has waited for longer than `old_after`.
    pub old: bool,
}

#[derive(Debug)]
pub struct Flights {
    /// With the generation of each slot; none: free.
    slots: Vec<(u32, Option<Flight>)>,
    free: Vec<u32>,
    /// Those that are not old, in the order in which they began.
    young: Ring,
    links: Links,
}

impl Flights {
    pub fn new(slots: u32) -> Flights {
        let mut links = Links::default();
        links.grow(slots as usize);
        Flights { slots: vec![(0, None); slots as usize], free: (0..slots).rev().collect(), young: Ring::default(), links }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a slot; the caller has seen that one is free.
    pub fn begin(&mut self, flight: Flight) -> Slot {
        let index = self.free.pop().expect("the caller has seen that a slot is free");
        let (generation, place) = &mut self.slots[index as usize];
        *place = Some(flight);
        self.links.push(&mut self.young, index);
        Slot { index, generation: *generation }
    }

    /// Frees a slot; none if it was freed before.
    pub fn end(&mut self, slot: Slot) -> Option<Flight> {
        let (generation, place) = &mut self.slots[slot.index as usize];
        if *generation != slot.generation {
            return None;
        }
        let flight = place.take()?;
        *generation = generation.wrapping_add(1);
        if !flight.old {
            self.links.remove(&mut self.young, slot.index);
        }
        self.free.push(slot.index);
        Some(flight)
    }

    /// Marks the request that began first as old, if it began at `before` or earlier, and returns what it was until now.
    pub fn age(&mut self, before: Instant) -> Option<Flight> {
        let index = self.young.head()?;
        let flight = self.slots[index as usize].1.as_mut().expect("a young request is in flight");
        if flight.started > before {
            return None;
        }
        let was = *flight;
        flight.old = true;
        flight.suspect = true;
        self.links.remove(&mut self.young, index);
        Some(was)
    }
}
