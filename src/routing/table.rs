//! The route table: tenant → channel (or any) → type (exact, prefix or any) → endpoints.
//!
//! # Contract
//!
//! - An event is matched against one whole state of the table: a change of an endpoint is seen entirely or not at all, so an endpoint
//!   that matched before and after a change also matches during it.
//! - An endpoint comes out at most once per event, whatever number of its types match.
//! - What posthaste itself tells ([`Event::OWN_CHANNEL`]) goes to those alone that ask for its channel or for its types: who listens to everything
//!   means everything that the producers tell.
//! - Matching costs a fixed number of look-ups plus the matches. Neither the number of endpoints nor the number of types matters.
//! - Readers never wait for writers.
//!
//! # How
//!
//! A state is 1,024 buckets behind reference counts, found by the hash of what is looked for. A change copies the one or two buckets that it
//! touches and the 1,024 pointers, once per batch: loading 100,000 endpoints in one batch copies nothing at all, and a single change to such a
//! table costs microseconds. A plain map copied per change would cost milliseconds, and locks per bucket would let an event see half a change.
//!
//! An endpoint comes out once because its patterns are made disjoint when it is put in (`lead.created` beside `lead.*` is dropped), which spares
//! a search for doubles per event. Prefixes are found by looking up each *length* of prefix that its tenant and channel has: there are few.

use std::{
    collections::HashSet,
    hash::BuildHasher,
    sync::{Arc, Mutex},
};

use arc_swap::{ArcSwap, Cache};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::model::{Direction, Endpoint, Event, Status, Text, TypePattern};

const BUCKETS: usize = 1024;

/// A change of what an event can match.
#[derive(Debug, Clone)]
pub enum RouteChange {
    /// This endpoint is new or was changed. A disabled one matches nothing.
    Set(Arc<Endpoint>),
    /// The endpoint of this id matches nothing any more: deleted, or suspended by health.
    Remove(Text),
}

/// The table: changed by one, read by many.
pub struct RouteTable {
    draft: Mutex<Draft>,
    published: Arc<ArcSwap<Snapshot>>,
}

/// The state that the next batch of changes is applied to. What it shares with the published snapshot is copied before it is changed.
struct Draft {
    /// By their id.
    endpoints: HashTable<Arc<Endpoint>>,
    snapshot: Snapshot,
}

#[derive(Clone)]
struct Snapshot {
    hasher: RandomState,
    buckets: Vec<Arc<Bucket>>,
}

#[derive(Clone, Default)]
struct Bucket {
    scopes: HashTable<Scope>,
    kinds: HashTable<Kind>,
}

type Endpoints = Arc<Vec<Arc<Endpoint>>>;

/// All routes of a tenant and a channel; `channel` none: of its endpoints that listen to every channel.
#[derive(Clone)]
struct Scope {
    tenant: Text,
    channel: Option<Text>,
    /// Those that want every type.
    any: Endpoints,
    /// How many routes of this scope name an exact type: none spares the look-up.
    exact: u32,
    /// The lengths of the prefixes of this scope, and how many routes have each.
    prefixes: Vec<(usize, u32)>,
}

/// The endpoints of a scope that want one type, or all that begin with it.
#[derive(Clone)]
struct Kind {
    tenant: Text,
    channel: Option<Text>,
    text: Text,
    prefix: bool,
    endpoints: Endpoints,
}

impl Default for RouteTable {
    fn default() -> RouteTable {
        RouteTable::new()
    }
}

impl RouteTable {
    pub fn new() -> RouteTable {
        let hasher = RandomState::default();
        let snapshot = Snapshot { hasher, buckets: vec![Arc::default(); BUCKETS] };
        RouteTable {
            published: Arc::new(ArcSwap::from_pointee(snapshot.clone())),
            draft: Mutex::new(Draft { endpoints: HashTable::new(), snapshot }),
        }
    }

    /// Applies the changes in their order and publishes the result once: hand over what belongs together in one call.
    pub fn apply(&self, changes: impl IntoIterator<Item = RouteChange>) {
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut draft = self.draft.lock().expect("nothing panics while it holds this lock");
        for change in changes {
            match change {
                RouteChange::Set(endpoint) => draft.set(endpoint),
                RouteChange::Remove(id) => draft.remove(&id),
            }
        }
        self.published.store(Arc::new(draft.snapshot.clone()));
    }

    /// A reader for one thread.
    pub fn reader(&self) -> RouteReader {
        RouteReader { snapshot: Cache::new(Arc::clone(&self.published)) }
    }

    /// Endpoints that can match.
    pub fn len(&self) -> usize {
        self.draft.lock().expect("nothing panics while it holds this lock").endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Matches events on one thread; it looks for a newer table by one atomic load per event.
pub struct RouteReader {
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
}

impl RouteReader {
    /// Puts the endpoints that want the event into `matches`, which is cleared first, in no particular order.
    pub fn matches(&mut self, event: &Event, matches: &mut Vec<Arc<Endpoint>>) {
        matches.clear();
        let snapshot = self.snapshot.load();
        snapshot.collect(event, Some(&event.channel), matches);
        snapshot.collect(event, None, matches);
    }
}

impl Snapshot {
    fn collect(&self, event: &Event, channel: Option<&Text>, matches: &mut Vec<Arc<Endpoint>>) {
        let Some(scope) = self.scope(&event.tenant, channel) else { return };
        let mut take =
            |endpoints: &Endpoints| matches.extend(endpoints.iter().filter(|one| wants(one.direction, event.direction)).cloned());
        if channel.is_some() || event.channel != Event::OWN_CHANNEL {
            take(&scope.any);
        }
        if scope.exact > 0
            && let Some(kind) = self.kind(&event.tenant, channel, &event.kind, false)
        {
            take(&kind.endpoints);
        }
        for (length, _) in &scope.prefixes {
            if let Some(prefix) = event.kind.get(..*length)
                && let Some(kind) = self.kind(&event.tenant, channel, prefix, true)
            {
                take(&kind.endpoints);
            }
        }
    }

    fn scope(&self, tenant: &str, channel: Option<&Text>) -> Option<&Scope> {
        let hash = scope_hash(&self.hasher, tenant, channel);
        self.buckets[bucket_of(hash)].scopes.find(hash, |scope| scope.is(tenant, channel))
    }

    fn kind(&self, tenant: &str, channel: Option<&Text>, text: &str, prefix: bool) -> Option<&Kind> {
        let hash = kind_hash(&self.hasher, tenant, channel, text, prefix);
        self.buckets[bucket_of(hash)].kinds.find(hash, |kind| kind.is(tenant, channel, text, prefix))
    }
}

impl Draft {
    fn set(&mut self, endpoint: Arc<Endpoint>) {
        self.remove(&endpoint.id);
        if endpoint.status == Status::Disabled {
            return;
        }
        for_each_route(&endpoint, |channel, pattern| self.snapshot.insert(&endpoint, channel, pattern));
        let hasher = &self.snapshot.hasher;
        let id_hash = |endpoint: &Arc<Endpoint>| hasher.hash_one(&*endpoint.id);
        self.endpoints.insert_unique(id_hash(&endpoint), endpoint, id_hash);
    }

    fn remove(&mut self, id: &Text) {
        let hash = self.snapshot.hasher.hash_one(&**id);
        if let Ok(entry) = self.endpoints.find_entry(hash, |endpoint| endpoint.id == *id) {
            let (endpoint, _) = entry.remove();
            for_each_route(&endpoint, |channel, pattern| self.snapshot.delete(&endpoint, channel, pattern));
        }
    }
}

impl Snapshot {
    fn insert(&mut self, endpoint: &Arc<Endpoint>, channel: Option<&Text>, pattern: &TypePattern) {
        let tenant = &endpoint.tenant;
        let hash = scope_hash(&self.hasher, tenant, channel);
        let hasher = &self.hasher;
        let scope = Arc::make_mut(&mut self.buckets[bucket_of(hash)])
            .scopes
            .entry(hash, |scope| scope.is(tenant, channel), |scope| scope_hash(hasher, &scope.tenant, scope.channel.as_ref()))
            .or_insert_with(|| Scope {
                tenant: tenant.clone(),
                channel: channel.cloned(),
                any: Arc::default(),
                exact: 0,
                prefixes: Vec::new(),
            })
            .into_mut();
        let (text, prefix) = match pattern {
            TypePattern::Any => return Arc::make_mut(&mut scope.any).push(Arc::clone(endpoint)),
            TypePattern::Exact(text) => {
                scope.exact += 1;
                (text, false)
            }
            TypePattern::Prefix(text) => {
                match scope.prefixes.iter_mut().find(|(length, _)| *length == text.len()) {
                    Some((_, routes)) => *routes += 1,
                    None => scope.prefixes.push((text.len(), 1)),
                }
                (text, true)
            }
        };
        let hash = kind_hash(hasher, tenant, channel, text, prefix);
        let kind = Arc::make_mut(&mut self.buckets[bucket_of(hash)])
            .kinds
            .entry(
                hash,
                |kind| kind.is(tenant, channel, text, prefix),
                |kind| kind_hash(hasher, &kind.tenant, kind.channel.as_ref(), &kind.text, kind.prefix),
            )
            .or_insert_with(|| Kind {
                tenant: tenant.clone(),
                channel: channel.cloned(),
                text: text.clone(),
                prefix,
                endpoints: Arc::default(),
            })
            .into_mut();
        Arc::make_mut(&mut kind.endpoints).push(Arc::clone(endpoint));
    }

    fn delete(&mut self, endpoint: &Arc<Endpoint>, channel: Option<&Text>, pattern: &TypePattern) {
        let tenant = &endpoint.tenant;
        let kind = match pattern {
            TypePattern::Any => None,
            TypePattern::Exact(text) => Some((text, false)),
            TypePattern::Prefix(text) => Some((text, true)),
        };
        if let Some((text, prefix)) = kind {
            let hash = kind_hash(&self.hasher, tenant, channel, text, prefix);
            let bucket = Arc::make_mut(&mut self.buckets[bucket_of(hash)]);
            let mut entry =
                bucket.kinds.find_entry(hash, |kind| kind.is(tenant, channel, text, prefix)).ok().expect("every route was inserted");
            if take_out(&mut entry.get_mut().endpoints, endpoint) {
                entry.remove();
            }
        }
        let hash = scope_hash(&self.hasher, tenant, channel);
        let bucket = Arc::make_mut(&mut self.buckets[bucket_of(hash)]);
        let mut entry = bucket.scopes.find_entry(hash, |scope| scope.is(tenant, channel)).ok().expect("every route was inserted");
        let scope = entry.get_mut();
        match pattern {
            TypePattern::Any => {
                take_out(&mut scope.any, endpoint);
            }
            TypePattern::Exact(_) => scope.exact -= 1,
            TypePattern::Prefix(text) => {
                for (length, routes) in &mut scope.prefixes {
                    *routes -= u32::from(*length == text.len());
                }
                scope.prefixes.retain(|(_, routes)| *routes > 0);
            }
        }
        if scope.any.is_empty() && scope.exact == 0 && scope.prefixes.is_empty() {
            entry.remove();
        }
    }
}

impl Scope {
    fn is(&self, tenant: &str, channel: Option<&Text>) -> bool {
        self.tenant == *tenant && self.channel.as_ref() == channel
    }
}

impl Kind {
    fn is(&self, tenant: &str, channel: Option<&Text>, text: &str, prefix: bool) -> bool {
        self.prefix == prefix && self.text == *text && self.tenant == *tenant && self.channel.as_ref() == channel
    }
}

/// Removes the endpoint from a list; true if the list is empty then.
fn take_out(list: &mut Endpoints, endpoint: &Arc<Endpoint>) -> bool {
    let list = Arc::make_mut(list);
    if let Some(at) = list.iter().position(|one| Arc::ptr_eq(one, endpoint)) {
        list.swap_remove(at);
    }
    list.is_empty()
}

/// An endpoint without a direction wants all events, also those that have none.
fn wants(endpoint: Option<Direction>, event: Option<Direction>) -> bool {
    endpoint.is_none_or(|wanted| event == Some(wanted))
}

/// Calls `route` for each pair of channel and type pattern of an endpoint, such that no event can match two of them.
fn for_each_route(endpoint: &Endpoint, mut route: impl FnMut(Option<&Text>, &TypePattern)) {
    let patterns = disjoint(&endpoint.types);
    let mut seen = HashSet::new();
    let channels = endpoint.channels.iter().filter(|channel| seen.insert(*channel)).map(Some);
    let every = endpoint.channels.is_empty().then_some(None);
    for channel in channels.chain(every) {
        patterns.iter().for_each(|pattern| route(channel, pattern));
    }
}

/// The patterns without those that another one covers; no pattern at all means any type.
fn disjoint(patterns: &[TypePattern]) -> Vec<TypePattern> {
    if patterns.is_empty() || patterns.contains(&TypePattern::Any) {
        return vec![TypePattern::Any];
    }
    let covered = |one: &TypePattern, other: &TypePattern| match (one, other) {
        (TypePattern::Exact(text), TypePattern::Prefix(prefix)) => text.starts_with(&**prefix),
        (TypePattern::Prefix(text), TypePattern::Prefix(prefix)) => text != prefix && text.starts_with(&**prefix),
        (TypePattern::Exact(_), TypePattern::Exact(_)) | (TypePattern::Prefix(_), TypePattern::Exact(_)) => false,
        (TypePattern::Any, _) | (_, TypePattern::Any) => false,
    };
    let mut seen = HashSet::new();
    patterns.iter().filter(|one| seen.insert(*one) && !patterns.iter().any(|other| covered(one, other))).cloned().collect()
}

fn scope_hash(hasher: &RandomState, tenant: &str, channel: Option<&Text>) -> u64 {
    hasher.hash_one((tenant, channel.map(|channel| &**channel)))
}

fn kind_hash(hasher: &RandomState, tenant: &str, channel: Option<&Text>, text: &str, prefix: bool) -> u64 {
    hasher.hash_one((tenant, channel.map(|channel| &**channel), text, prefix))
}

/// Bits that the tables inside of a bucket do not look at: those take the lowest and the highest seven.
fn bucket_of(hash: u64) -> usize {
    (hash >> 40) as usize % BUCKETS
}

#[cfg(test)]
mod tests;
