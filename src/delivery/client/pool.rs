//! The pool of one thread: idle connections by origin.
//!
//! The connection that was used last is taken first, so that what is too many grows old and is closed. Three bounds: idle connections
//! of one origin, of the whole pool, and their age (by which a change of the name's addresses is noticed at the latest). When the pool is full, a clock
//! hand over the origins closes the one that has been idle longest at the first origin that has any.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Origin, authority_of,
    connection::{Exchanging, Http2, Link},
    tls::Tls,
};
use crate::model::{ClientTls, EndpointUrl};

/// Origins that the clock hand looks at for one place.
const STEPS: usize = 16;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_per_origin: usize,
    pub idle: usize,
    pub idle_timeout: Duration,
    pub age: Duration,
}

pub struct Pool {
    limits: Limits,
    origins: RefCell<HashMap<String, Rc<Origin>, foldhash::fast::RandomState>>,
    /// Origins with idle connections, for the clock hand; some may have none any more.
    hand: RefCell<VecDeque<Rc<Origin>>>,
    idle: Cell<usize>,
}

impl Pool {
    pub fn new(limits: Limits) -> Pool {
        Pool { limits, origins: RefCell::default(), hand: RefCell::default(), idle: Cell::new(0) }
    }

    /// The origin of a URL: the same one for the same scheme, host, port and TLS identity, as long as anybody uses it. Connections of one identity
    /// are never another's: the receiver knows whom it talks to by the connection.
    pub fn origin(&self, url: &EndpointUrl, identity: Option<&ClientTls>, tls: &Tls) -> Result<Rc<Origin>, String> {
        let authority = authority_of(url)?;
        let identity = identity.filter(|_| url.is_https());
        let mut key = format!("{}://{authority}", url.parts().scheme());
        if let Some(identity) = identity {
            key = format!("{key} {}", identity.fingerprint());
        }
        if let Some(origin) = self.origins.borrow().get(&key) {
            return Ok(Rc::clone(origin));
        }
        let origin = Rc::new(Origin::new(url, &authority, identity.map(|identity| tls.of(identity)).transpose()?)?);
        self.origins.borrow_mut().insert(key, Rc::clone(&origin));
        Ok(origin)
    }

    /// A connection that stands, if there is one to spare.
    pub fn take(&self, origin: &Origin, now: Instant) -> Option<Link> {
        loop {
            let Some(mut link) = origin.idle.borrow_mut().pop() else { break };
            self.idle.set(self.idle.get() - 1);
            if now < link.stale_at && link.is_usable() {
                return Some(Link::Http1(link));
            }
        }
        let shared = origin.shared.borrow();
        let young = |link: &&Rc<Http2>| now.duration_since(link.opened) < self.limits.age && !link.is_closed() && link.has_room();
        shared.iter().find(young).map(|link| Link::Http2(Exchanging::new(Rc::clone(link))))
    }

    /// Makes a new HTTP/2 connection known to the other exchanges with its origin.
    pub fn share(&self, origin: &Rc<Origin>, connection: Rc<Http2>) -> Link {
        origin.shared.borrow_mut().push(Rc::clone(&connection));
        Link::Http2(Exchanging::new(connection))
    }

    /// Takes a connection back after a whole answer. HTTP/2 ones were never away.
    pub fn give(&self, origin: &Rc<Origin>, link: Link, now: Instant) {
        let Link::Http1(mut link) = link else { return };
        let old_at = link.opened + self.limits.age;
        if !link.is_usable() || now >= old_at {
            return;
        }
        if origin.idle.borrow().len() >= self.limits.idle_per_origin || self.idle.get() >= self.limits.idle && !self.make_room() {
            return;
        }
        link.stale_at = old_at.min(now + self.limits.idle_timeout);
        origin.idle.borrow_mut().push(link);
        self.idle.set(self.idle.get() + 1);
        if !origin.listed.replace(true) {
            self.hand.borrow_mut().push_back(Rc::clone(origin));
        }
    }

    /// Closes the oldest idle connection of some origin. False when a few steps of the hand found none.
    fn make_room(&self) -> bool {
        let mut hand = self.hand.borrow_mut();
        for _ in 0..STEPS {
            let Some(origin) = hand.pop_front() else { return false };
            let mut idle = origin.idle.borrow_mut();
            if idle.is_empty() {
                origin.listed.set(false);
                continue;
            }
            idle.remove(0);
            self.idle.set(self.idle.get() - 1);
            drop(idle);
            hand.push_back(origin);
            return true;
        }
        false
    }

    /// Closes what is too old or was closed by its peer, and forgets origins that nobody uses.
    pub fn sweep(&self, now: Instant) {
        self.hand.borrow_mut().retain(|origin| {
            let listed = !origin.idle.borrow().is_empty();
            origin.listed.set(listed);
            listed
        });
        self.origins.borrow_mut().retain(|_, origin| {
            let mut idle = origin.idle.borrow_mut();
            let before = idle.len();
            idle.retain_mut(|link| {
                link.notice();
                now < link.stale_at && link.is_usable()
            });
            self.idle.set(self.idle.get() - (before - idle.len()));
            let mut shared = origin.shared.borrow_mut();
            shared.retain(|link| {
                let is_stale =
                    now >= link.opened + self.limits.age || now.duration_since(link.idle_since.get()) >= self.limits.idle_timeout;
                link.exchanges() > 0 || !link.is_closed() && !is_stale
            });
            let empty = idle.is_empty() && shared.is_empty();
            drop((idle, shared));
            // One reference is the map's own; what the hand still holds is let go at the next turn.
            !empty || Rc::strong_count(origin) > 1
        });
    }

    /// Idle HTTP/1 connections.
    pub fn idle(&self) -> usize {
        self.idle.get()
    }
}
