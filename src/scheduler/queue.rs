//! What waits: one queue per endpoint, all in one slab.
//!
//! A queue is six lists (first attempts and retries by priority) threaded through the slab, so a delivery that enters allocates nothing once
//! the slab is warm, an idle endpoint holds no buffer, and a delivery in the middle can leave when it has waited for too long.

use tokio::time::Instant;

use crate::model::{Ack, Class, Delivery, Priority};

const NONE: u32 = u32::MAX;
const PRIORITIES: usize = 3;

/// A delivery that waits for its turn.
#[derive(Debug)]
pub struct Waiter {
    pub delivery: Box<Delivery>,
    pub ack: Ack,
    pub class: Class,
    pub since: Instant,
}

#[derive(Debug)]
struct Node {
    /// None: the node is free.
    waiter: Option<Waiter>,
    endpoint: u32,
    /// Towards the head of its list; of a free node: another free one.
    previous: u32,
    next: u32,
    list: u8,
    bytes: usize,
}

/// The slab of all queues of a shard.
#[derive(Debug)]
pub struct Store {
    nodes: Vec<Node>,
    free: u32,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// The queue of one endpoint.
#[derive(Debug)]
pub struct Queue {
    /// First attempts by priority, then retries by priority.
    lists: [List; 2 * PRIORITIES],
    len: u32,
    bytes: usize,
    /// Turns since a retry had one while first attempts waited too.
    turns: u32,
}

impl Default for Store {
    fn default() -> Store {
        Store { nodes: Vec::new(), free: NONE, len: 0 }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { lists: [List { head: NONE, tail: NONE }; 2 * PRIORITIES], len: 0, bytes: 0, turns: 0 }
    }
}

impl Queue {
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The delivery whose turn it is: the highest priority of the first attempts, and of the retries every `retry_turn`th time.
    pub fn head(&self, retry_turn: u32) -> Option<u32> {
        let of = |lists: &[List]| lists.iter().find(|list| list.head != NONE).map(|list| list.head);
        let (first, retries) = self.lists.split_at(PRIORITIES);
        match (of(first), of(retries)) {
            (Some(_), Some(retry)) if self.turns + 1 >= retry_turn => Some(retry),
            (Some(first), _) => Some(first),
            (None, retry) => retry,
        }
    }

    fn has_both_classes(&self) -> bool {
        let (first, retries) = self.lists.split_at(PRIORITIES);
        first.iter().any(|list| list.head != NONE) && retries.iter().any(|list| list.head != NONE)
    }
}

impl Store {
    /// Deliveries in all queues.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Nodes, used and free: what a scan has to pass over.
    pub fn span(&self) -> usize {
        self.nodes.len()
    }

    /// The delivery at a node, and its endpoint.
    pub fn get(&self, node: u32) -> Option<(&Waiter, u32)> {
        let node = self.nodes.get(node as usize)?;
        node.waiter.as_ref().map(|waiter| (waiter, node.endpoint))
    }

    pub fn get_mut(&mut self, node: u32) -> Option<&mut Waiter> {
        self.nodes.get_mut(node as usize)?.waiter.as_mut()
    }

    pub fn push(&mut self, queue: &mut Queue, endpoint: u32, bytes: usize, waiter: Waiter) {
        let list = list_of(waiter.class, waiter.delivery.event.priority);
        let previous = queue.lists[list].tail;
        let node = Node { waiter: Some(waiter), endpoint, previous, next: NONE, list: list as u8, bytes };
        let at = match self.free {
            NONE => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("the byte budget ends long before four billion deliveries")
            }
            free => {
                self.free = self.nodes[free as usize].previous;
                self.nodes[free as usize] = node;
                free
            }
        };
        match previous {
            NONE => queue.lists[list].head = at,
            previous => self.nodes[previous as usize].next = at,
        }
        queue.lists[list].tail = at;
        queue.len += 1;
        queue.bytes += bytes;
        self.len += 1;
    }

    /// Takes the delivery whose turn it is, counting the turn.
    pub fn take_turn(&mut self, queue: &mut Queue, node: u32) -> Waiter {
        let both = queue.has_both_classes();
        let waiter = self.remove(queue, node);
        queue.turns = match waiter.class {
            Class::First if both => queue.turns + 1,
            Class::First | Class::Retry => 0,
        };
        waiter
    }

    /// Takes a delivery out of its queue.
    pub fn remove(&mut self, queue: &mut Queue, at: u32) -> Waiter {
        let node = &mut self.nodes[at as usize];
        let waiter = node.waiter.take().expect("a node of a queue holds a delivery");
        let (previous, next, list) = (node.previous, node.next, usize::from(node.list));
        queue.len -= 1;
        queue.bytes -= node.bytes;
        self.len -= 1;
        node.previous = self.free;
        self.free = at;
        match previous {
            NONE => queue.lists[list].head = next,
            previous => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => queue.lists[list].tail = previous,
            next => self.nodes[next as usize].previous = previous,
        }
        waiter
    }

    /// Takes out everything of a queue, in order.
    pub fn pop(&mut self, queue: &mut Queue) -> Option<Waiter> {
        let head = queue.head(u32::MAX)?;
        Some(self.remove(queue, head))
    }

    /// Gives back the memory of a past rush.
    pub fn shrink(&mut self) {
        const KEPT: usize = 1024;
        if self.len == 0 && self.nodes.capacity() > KEPT {
            *self = Store::default();
        }
    }
}

fn list_of(class: Class, priority: Priority) -> usize {
    let priority = match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    };
    match class {
        Class::First => priority,
        Class::Retry => PRIORITIES + priority,
    }
}
