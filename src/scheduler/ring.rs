//! Rings: round-robin lists of small numbers that are entered, left and turned in constant time and without allocation.
//!
//! The links of all members lie in one [`Links`], so a member is in at most one ring at a time; a [`Ring`] is only its head.

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

#[derive(Debug, Default)]
pub struct Links(Vec<Link>);

#[derive(Debug, Clone, Copy)]
pub struct Ring {
    head: u32,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring { head: NONE }
    }
}

impl Ring {
    pub fn head(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

impl Links {
    /// Makes room for members below `count`.
    pub fn grow(&mut self, count: usize) {
        if self.0.len() < count {
            self.0.resize(count, Link { previous: NONE, next: NONE });
        }
    }

    pub fn contains(&self, member: u32) -> bool {
        self.0[member as usize].next != NONE
    }

    /// Adds a member that is in no ring behind all others.
    pub fn push(&mut self, ring: &mut Ring, member: u32) {
        if ring.head == NONE {
            self.0[member as usize] = Link { previous: member, next: member };
            ring.head = member;
            return;
        }
        let next = ring.head;
        let previous = self.0[next as usize].previous;
        self.0[member as usize] = Link { previous, next };
        self.0[previous as usize].next = member;
        self.0[next as usize].previous = member;
    }

    /// Takes out a member of this ring.
    pub fn remove(&mut self, ring: &mut Ring, member: u32) {
        let Link { previous, next } = self.0[member as usize];
        if next == member {
            ring.head = NONE;
        } else {
            self.0[previous as usize].next = next;
            self.0[next as usize].previous = previous;
            if ring.head == member {
                ring.head = next;
            }
        }
        self.0[member as usize] = Link { previous: NONE, next: NONE };
    }

    /// The head goes behind all others.
    pub fn turn(&self, ring: &mut Ring) {
        if ring.head != NONE {
            ring.head = self.0[ring.head as usize].next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_ring_is_a_queue_that_members_can_leave(steps in prop::collection::vec((0..3u8, 0..8u32), 0..200)) {
            let (mut links, mut ring, mut model) = (Links::default(), Ring::default(), VecDeque::new());
            links.grow(8);
            for (step, member) in steps {
                match (step, model.iter().position(|one| *one == member)) {
                    (0, None) => {
                        links.push(&mut ring, member);
                        model.push_back(member);
                    }
                    (1, Some(at)) => {
                        links.remove(&mut ring, member);
                        model.remove(at);
                    }
                    (2, _) => {
                        links.turn(&mut ring);
                        if !model.is_empty() {
                            model.rotate_left(1);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(ring.head(), model.front().copied());
                prop_assert_eq!(links.contains(member), model.contains(&member));
            }
        }
    }
}
