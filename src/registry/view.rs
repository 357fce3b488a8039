//! The materialised view: what the registry topic says, record by record, as maps in memory.
//!
//! A pure structure: bytes in, changes out. Later records win, so every instance that has read the same topic holds the same view,
//! whatever of it was compacted away before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use super::{
    Grant, Tenant,
    criteria::{self, Criteria},
    grant,
    record::{self, Identity, RecordError, RecordKey, StoredHealth, Suspension},
    seal::Key,
    uses::Use,
};
use crate::{
    log::Record,
    model::{Agent, Endpoint, HealthRecord, HealthState, Status, Text, token::Token},
};

/// An endpoint with what health decided about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub endpoint: Arc<Endpoint>,
    /// None: Active, and never was anything else.
    pub health: Option<Arc<StoredHealth>>,
    /// When and where a person disabled it last.
    pub disabled: Option<Arc<Suspension>>,
}

impl Entry {
    pub fn state(&self) -> HealthState {
        self.health.as_ref().map_or(HealthState::Active, |health| health.record.state)
    }

    pub fn health_record(&self) -> Option<&HealthRecord> {
        self.health.as_ref().map(|health| &health.record)
    }

    /// Whether events are delivered to it: neither disabled nor suspended.
    pub fn is_served(&self) -> bool {
        self.endpoint.status == Status::Enabled && self.state() != HealthState::Inactive
    }

    /// The suspension to recover from: the one that lasts, or else the last one that ended. If both a person and health suspended it,
    /// the one that began first.
    pub fn suspension(&self) -> Option<&Suspension> {
        let by_health = self.health.as_ref().and_then(|health| health.suspension.as_ref());
        let by_person = self.disabled.as_deref();
        match (by_health, by_person) {
            (Some(a), Some(b)) => Some(match (a.ended, b.ended) {
                (None, Some(_)) => a,
                (Some(_), None) => b,
                (None, None) if a.since <= b.since => a,
                (None, None) => b,
                (Some(of_a), Some(of_b)) if of_a >= of_b => a,
                (Some(_), Some(_)) => b,
            }),
            (one, other) => one.or(other),
        }
    }

    /// The label of `posthaste_endpoints`.
    fn label(&self) -> &'static str {
        if self.endpoint.status == Status::Disabled { "disabled" } else { self.state().as_str() }
    }
}

/// What a record changed about an endpoint: it came (`before` is none), went (`after` is none), or became another. An agent is told as its
/// [`Agent::listener`].
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub id: Text,
    pub before: Option<Entry>,
    pub after: Option<Entry>,
}

impl Change {
    /// Whether it is about an agent.
    pub fn is_of_agent(&self) -> bool {
        Agent::of_listener(&self.id).is_some()
    }
}

#[derive(Debug, Clone)]
struct Watching {
    agent: Arc<Agent>,
    /// None while it is suspended.
    listener: Option<Arc<Endpoint>>,
    offset: i64,
}

#[derive(Debug, Clone)]
struct Configured {
    endpoint: Arc<Endpoint>,
    disabled: Option<Arc<Suspension>>,
}

/// See the module.
#[derive(Default)]
pub struct View {
    pub identity: Option<Identity>,
    /// Of the last record that was taken in.
    pub offset: Option<i64>,
    /// In the order of their ids, so that a list can be read page by page.
    endpoints: BTreeMap<Text, Configured>,
    /// Also of endpoints that are not (or not yet) there: in a compacted topic the two come in any order.
    health: HashMap<Text, Arc<StoredHealth>, foldhash::fast::RandomState>,
    /// By endpoint.
    grants: HashMap<Text, Grant, foldhash::fast::RandomState>,
    tokens: BTreeMap<Text, Arc<Token>>,
    /// Also of tokens that are not (or not yet) there, like `health`.
    uses: HashMap<Text, Arc<Use>>,
    /// Endpoints by what their number is limited by; those that came too late for it are not among them.
    criteria: HashMap<Criteria, BTreeSet<Text>>,
    /// By the hash of the key.
    by_key: HashMap<String, Arc<Token>>,
    tenants: BTreeMap<Text, Arc<Tenant>>,
    agents: BTreeMap<Text, Watching>,
    /// Grows when a tenant changes.
    tenants_version: u64,
    /// Declared endpoints that are in the topic too.
    collisions: BTreeSet<Text>,
}

impl View {
    /// A view that holds what the configuration declares.
    pub fn with(declared: Vec<Endpoint>, tenants: Vec<Tenant>) -> View {
        let mut view = View::default();
        for mut endpoint in declared {
            endpoint.registry_offset = Endpoint::DECLARED;
            view.recount(&endpoint.id, None, Criteria::of(&endpoint));
            view.endpoints.insert(endpoint.id.clone(), Configured { endpoint: Arc::new(endpoint), disabled: None });
        }
        for mut tenant in tenants {
            tenant.declared = true;
            view.tenants.insert(tenant.id.clone(), Arc::new(tenant));
        }
        view
    }

    /// Takes over another declaration (the configuration was read again) and returns what changed. An endpoint that lies in the topic too is
    /// left as it is and returned second: the same id in both places is an error at start as well.
    pub fn declare(&mut self, declared: Vec<Endpoint>, tenants: Vec<Tenant>) -> (Vec<Change>, Vec<Text>) {
        let (mut changes, mut refused) = (Vec::new(), Vec::new());
        let new: BTreeSet<Text> = declared.iter().map(|endpoint| endpoint.id.clone()).collect();
        let gone: Vec<Text> = self
            .endpoints
            .iter()
            .filter(|(id, known)| known.endpoint.is_declared() && !new.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let before = self.entry(&id);
            self.endpoints.remove(&id);
            self.recount(&id, before.as_ref(), None);
            changes.extend(self.changed(&id, before));
        }
        for mut endpoint in declared {
            endpoint.registry_offset = Endpoint::DECLARED;
            let id = endpoint.id.clone();
            match self.endpoints.get(&id) {
                Some(known) if !known.endpoint.is_declared() => {
                    refused.push(id);
                    continue;
                }
                // The times of a declared endpoint are those of the start; they alone are no change.
                Some(known) => (endpoint.created_at, endpoint.updated_at) = (known.endpoint.created_at, known.endpoint.updated_at),
                None => {}
            }
            let before = self.entry(&id);
            self.recount(&id, before.as_ref(), Criteria::of(&endpoint));
            self.endpoints.insert(id.clone(), Configured { endpoint: Arc::new(endpoint), disabled: None });
            changes.extend(self.changed(&id, before));
        }
        self.tenants_version += 1;
        self.tenants.retain(|_, tenant| !tenant.declared);
        for mut tenant in tenants {
            tenant.declared = true;
            self.tenants.insert(tenant.id.clone(), Arc::new(tenant));
        }
        (changes, refused)
    }

    /// Takes a record in. A record that cannot be read leaves the view as it was.
    pub fn apply(&mut self, record: &Record, key: &Key) -> Result<Option<Change>, Unreadable> {
        let Some(name) = record.key.as_ref().and_then(RecordKey::parse) else {
            tracing::debug!(position = %record.position, "a registry record of an unknown kind");
            return Ok(None);
        };
        self.offset = self.offset.max(Some(record.position.offset));
        let value = record.value.as_deref();
        let unreadable = |error: RecordError| Unreadable { record: name.to_string(), error };
        match &name {
            RecordKey::Registry => {
                self.identity = value.map(record::decode).transpose().map_err(unreadable)?;
                Ok(None)
            }
            RecordKey::Endpoint(id) => {
                if self.endpoints.get(id).is_some_and(|known| known.endpoint.is_declared()) {
                    match value {
                        Some(_) => self.collisions.insert(id.clone()),
                        None => self.collisions.remove(id),
                    };
                    return Ok(None);
                }
                let offset = record.position.offset;
                let new = value.map(|value| record::decode_endpoint(id, value, offset, key)).transpose().map_err(unreadable)?;
                let before = self.entry(id);
                self.count_in(id, before.as_ref(), new.as_ref().and_then(|(endpoint, _)| Criteria::of(endpoint)), record);
                match new {
                    Some((endpoint, disabled)) => {
                        let configured = Configured { endpoint: Arc::new(endpoint), disabled: disabled.map(Arc::new) };
                        self.endpoints.insert(id.clone(), configured);
                    }
                    None => {
                        self.endpoints.remove(id);
                    }
                }
                Ok(self.changed(id, before))
            }
            RecordKey::Health(id) => {
                let new: Option<StoredHealth> = value.map(record::decode).transpose().map_err(unreadable)?;
                let before = self.entry(id);
                match new {
                    Some(health) => self.health.insert(id.clone(), Arc::new(health)),
                    None => self.health.remove(id),
                };
                Ok(self.changed(id, before))
            }
            RecordKey::Grant(id) => {
                let new = value.map(|value| grant::decode(id, value, key)).transpose().map_err(unreadable)?;
                match new {
                    Some(grant) => self.grants.insert(id.clone(), grant),
                    None => self.grants.remove(id),
                };
                Ok(None)
            }
            RecordKey::Token(id) => {
                let new = value.map(|value| record::decode_token(id, value, key)).transpose().map_err(unreadable)?;
                if let Some(old) = self.tokens.remove(id) {
                    self.by_key.remove(&old.key_sha256);
                }
                match new.map(Arc::new) {
                    Some(token) => {
                        self.uses.entry(id.clone()).or_default();
                        self.by_key.insert(token.key_sha256.clone(), Arc::clone(&token));
                        self.tokens.insert(id.clone(), token);
                    }
                    None => drop(self.uses.remove(id)),
                }
                Ok(None)
            }
            RecordKey::Used(id) => {
                let used: Option<record::Used> = value.map(record::decode).transpose().map_err(unreadable)?;
                match used {
                    Some(used) => self.uses.entry(id.clone()).or_default().stored(used.at),
                    None if self.tokens.contains_key(id) => {}
                    None => drop(self.uses.remove(id)),
                }
                Ok(None)
            }
            RecordKey::Tenant(id) => {
                let new: Option<Tenant> = value.map(record::decode).transpose().map_err(unreadable)?;
                if self.tenants.get(id).is_some_and(|known| known.declared) {
                    return Ok(None);
                }
                self.tenants_version += 1;
                match new {
                    Some(tenant) => self.tenants.insert(id.clone(), Arc::new(tenant)),
                    None => self.tenants.remove(id),
                };
                Ok(None)
            }
            RecordKey::Agent(id) => {
                let new: Option<Agent> = value.map(record::decode).transpose().map_err(unreadable)?;
                let before = self.listening(id);
                match new {
                    Some(agent) => {
                        let offset = record.position.offset;
                        let listener = agent.listener(offset).map(Arc::new);
                        self.agents.insert(id.clone(), Watching { agent: Arc::new(agent), listener, offset });
                    }
                    None => drop(self.agents.remove(id)),
                }
                let after = self.listening(id);
                Ok((before != after).then(|| Change { id: Agent::listener_id(id), before, after }))
            }
        }
    }

    /// Keeps the count of criteria. An endpoint that is created under the rule and comes too late is not counted: it is about to be taken back by
    /// its writer, and must not stand in the way of the next one until then.
    fn count_in(&mut self, id: &Text, before: Option<&Entry>, criteria: Option<Criteria>, record: &Record) {
        let is_late = before.is_none() && record.header(criteria::MARK).is_some() && criteria.as_ref().is_some_and(|of| self.is_full(of));
        self.recount(id, before, criteria.filter(|_| !is_late));
    }

    fn recount(&mut self, id: &Text, before: Option<&Entry>, now: Option<Criteria>) {
        let was = before.and_then(|entry| Criteria::of(&entry.endpoint));
        if was == now {
            // One that was not counted stays so.
            return;
        }
        if let Some(was) = was
            && let Some(ids) = self.criteria.get_mut(&was)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.criteria.remove(&was);
            }
        }
        if let Some(now) = now {
            self.criteria.entry(now).or_default().insert(id.clone());
        }
    }

    fn is_full(&self, criteria: &Criteria) -> bool {
        self.criteria.get(criteria).is_some_and(|ids| ids.len() >= Criteria::AT_MOST)
    }

    /// Whether as many endpoints as there may be have the criteria of this one, itself apart.
    pub fn is_one_too_many(&self, endpoint: &Endpoint) -> bool {
        let ids = Criteria::of(endpoint).and_then(|criteria| self.criteria.get(&criteria));
        ids.is_some_and(|ids| !ids.contains(&endpoint.id) && ids.len() >= Criteria::AT_MOST)
    }

    fn listening(&self, id: &str) -> Option<Entry> {
        let endpoint = self.agents.get(id)?.listener.clone()?;
        Some(Entry { endpoint, health: None, disabled: None })
    }

    /// What stands for an agent in the route table.
    pub fn listener(&self, agent: &str) -> Option<Arc<Endpoint>> {
        self.agents.get(agent)?.listener.clone()
    }

    /// The listeners of all agents.
    pub fn listeners(&self) -> impl Iterator<Item = Entry> {
        self.agents.keys().filter_map(|id| self.listening(id))
    }

    /// An agent, and the offset of its record.
    pub fn agent(&self, id: &str) -> Option<(Arc<Agent>, i64)> {
        self.agents.get(id).map(|watching| (Arc::clone(&watching.agent), watching.offset))
    }

    /// Like [`View::page`].
    pub fn agents(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Agent>> {
        let agents = page(&self.agents, after).map(|watching| &watching.agent);
        agents.filter(|agent| tenant.is_none_or(|tenant| agent.tenant == tenant)).take(limit).cloned().collect()
    }

    /// The first agent that tells this endpoint.
    pub fn agent_of(&self, endpoint: &str) -> Option<Arc<Agent>> {
        self.agents.values().map(|watching| &watching.agent).find(|agent| agent.endpoint == endpoint).cloned()
    }

    fn changed(&self, id: &Text, before: Option<Entry>) -> Option<Change> {
        let after = self.entry(id);
        (before != after).then(|| Change { id: id.clone(), before, after })
    }

    pub fn entry(&self, id: &str) -> Option<Entry> {
        self.endpoints.get(id).map(|configured| self.entry_of(configured))
    }

    fn entry_of(&self, configured: &Configured) -> Entry {
        Entry {
            endpoint: Arc::clone(&configured.endpoint),
            health: self.health.get(&configured.endpoint.id).cloned(),
            disabled: configured.disabled.clone(),
        }
    }

    /// What health decided about an id, also if there is no such endpoint.
    pub fn health(&self, id: &str) -> Option<&Arc<StoredHealth>> {
        self.health.get(id)
    }

    /// The refresh token that came in place of the configured one, also if there is no such endpoint.
    pub fn grant(&self, id: &str) -> Option<&Grant> {
        self.grants.get(id)
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.endpoints.values().map(|configured| self.entry_of(configured))
    }

    /// At most `limit` endpoints of a tenant (none: of all) whose ids come after `after`.
    pub fn page(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Entry> {
        page(&self.endpoints, after)
            .filter(|configured| tenant.is_none_or(|tenant| configured.endpoint.tenant == tenant))
            .take(limit)
            .map(|configured| self.entry_of(configured))
            .collect()
    }

    pub fn token(&self, id: &str) -> Option<Arc<Token>> {
        self.tokens.get(id).cloned()
    }

    pub fn tokens(&self, tenant: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Token>> {
        page(&self.tokens, after).filter(|token| tenant.is_none_or(|tenant| token.tenant == tenant)).take(limit).cloned().collect()
    }

    pub fn token_by_key_hash(&self, hash: &str) -> Option<Arc<Token>> {
        self.by_key.get(hash).cloned()
    }

    /// The uses of a token, while it is there.
    pub fn uses(&self, id: &str) -> Option<Arc<Use>> {
        self.uses.get(id).cloned()
    }

    pub fn tenant(&self, id: &str) -> Option<Arc<Tenant>> {
        self.tenants.get(id).cloned()
    }

    pub fn tenants_version(&self) -> u64 {
        self.tenants_version
    }

    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.values().cloned().collect()
    }

    /// Declared endpoints whose ids are in the topic too; the declared ones are in force.
    pub fn collisions(&self) -> impl Iterator<Item = &Text> {
        self.collisions.iter()
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }
}

fn page<'a, T>(map: &'a BTreeMap<Text, T>, after: Option<&str>) -> impl Iterator<Item = &'a T> {
    let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Text::from(after)));
    map.range((from, Bound::Unbounded)).map(|(_, value)| value)
}

/// Endpoints by state, kept along with the changes.
#[derive(Default)]
pub struct States(HashMap<&'static str, i64>);

impl States {
    pub fn count(&mut self, change: &Change) {
        if change.is_of_agent() {
            return;
        }
        if let Some(before) = &change.before {
            *self.0.entry(before.label()).or_default() -= 1;
        }
        if let Some(after) = &change.after {
            *self.0.entry(after.label()).or_default() += 1;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, i64)> {
        self.0.iter().map(|(label, count)| (*label, *count))
    }
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the registry record `{record}` {error}")]
pub struct Unreadable {
    pub record: String,
    pub error: RecordError,
}
