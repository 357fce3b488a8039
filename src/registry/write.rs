//! Writing: append, wait until this instance has applied it, and see what it replaced.
//!
//! Any number of instances write without asking each other; the record with the later offset wins. What a writer could not know
//! when it appended, it learns when its record is applied: the version that it replaced. If that is not the one it started from, another
//! writer came in between. A change is then made again on top of the other's, a creation is taken back, and a change of what was deleted is
//! deleted again; so no answer that was given is undone by a later one, and a reader of the compacted topic sees the same end.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::{
    Registry, Tenant,
    criteria::{self, Criteria},
    record::{self, RecordKey, StoredHealth, Suspension},
    seal::hex,
    view::Entry,
};
use crate::{
    log::{Append, LogError, Record},
    model::{Agent, Endpoint, FieldError, HealthState, Position, Text, Timestamp, Transition, token::Token},
};

type Header = (Cow<'static, str>, Bytes);

/// The header that marks a record for its writer.
const MARK: &str = "posthaste-write";

/// How long a write may take to come back to us. The log has it by then; a client that repeats its request does no harm.
const APPLY_DEADLINE: Duration = Duration::from_secs(10);

/// A change is tried again this often when other writers come in between.
const ROUNDS: usize = 16;

/// Writers of one endpoint within this process queue here, so that only other instances can come in between.
pub const LOCKS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("there is no {kind} `{id}`")]
    NotFound { kind: &'static str, id: Text },
    #[error("the {kind} `{id}` exists already")]
    Exists { kind: &'static str, id: Text },
    #[error("the {kind} `{id}` is declared in the configuration file (or, without one, from the beginning): change it in the file")]
    Declared { kind: &'static str, id: Text },
    #[error("there are {} endpoints with these criteria already, which is as many as there may be", Criteria::AT_MOST)]
    Duplicated,
    #[error("the endpoint `{0}` is being changed by others all the time: try again")]
    Contended(Text),
    #[error("{} fields are wrong", .0.len())]
    Invalid(Vec<FieldError>),
    #[error("the registry could not take the change: {0}")]
    Log(#[from] LogError),
    #[error("the change is stored, but was not seen again within {} s: read before you repeat it", APPLY_DEADLINE.as_secs())]
    NotApplied,
}

impl WriteError {
    /// Trying again later may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            WriteError::Contended(_) | WriteError::NotApplied => true,
            WriteError::Log(error) => !error.is_fatal(),
            WriteError::NotFound { .. }
            | WriteError::Exists { .. }
            | WriteError::Declared { .. }
            | WriteError::Duplicated
            | WriteError::Invalid(_) => false,
        }
    }
}

/// What the follower tells the writer of a record.
#[derive(Debug)]
pub struct Applied {
    pub offset: i64,
    /// The endpoint that the record replaced.
    pub before: Option<Entry>,
    /// It is more than may have its criteria, judged where it lies in the topic.
    pub is_one_too_many: bool,
}

/// Writers that wait for their records.
pub struct Pending {
    /// Names this process in the marks of its records.
    writer: String,
    next: AtomicU64,
    /// None once nobody applies anything any more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Applied>>>>,
}

impl Pending {
    pub fn new() -> Pending {
        Pending { writer: uuid::Uuid::new_v4().simple().to_string(), next: AtomicU64::new(0), waiting: Mutex::new(Some(HashMap::new())) }
    }

    fn register(&self) -> (Waiting<'_>, Bytes) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = self.lock().as_mut() {
            waiting.insert(number, sender);
        }
        (Waiting { pending: self, number, receiver }, Bytes::from(format!("{}:{number}", self.writer)))
    }

    /// The writer that waits for this record.
    pub fn take(&self, record: &Record) -> Option<oneshot::Sender<Applied>> {
        let mark = std::str::from_utf8(record.header(MARK)?).ok()?;
        let number = mark.strip_prefix(&self.writer)?.strip_prefix(':')?.parse().ok()?;
        self.lock().as_mut()?.remove(&number)
    }

    /// Lets everybody go who waits, now and later.
    pub fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Applied>>>> {
        self.waiting.lock().expect("nothing panics while it holds the writers")
    }
}

/// A writer's place; left when it is dropped.
struct Waiting<'a> {
    pending: &'a Pending,
    number: u64,
    receiver: oneshot::Receiver<Applied>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.pending.lock().as_mut() {
            waiting.remove(&self.number);
        }
    }
}

/// What a change makes of an endpoint.
#[derive(Debug)]
pub struct Draft {
    pub endpoint: Endpoint,
    /// Where it was when a person disabled it, kept when it is enabled again.
    pub disabled: Option<Suspension>,
}

impl Draft {
    /// The entry as it is: where a change begins.
    pub fn of(entry: &Entry) -> Draft {
        Draft { endpoint: (*entry.endpoint).clone(), disabled: entry.disabled.as_deref().cloned() }
    }
}

impl Registry {
    /// Registers a new endpoint.
    pub async fn create_endpoint(&self, endpoint: Endpoint) -> Result<Entry, WriteError> {
        self.create(endpoint, false).await
    }

    /// Registers a new endpoint unless as many as there may be have its criteria (see `criteria`). Of several instances that register
    /// at once, those whose records come last are refused: what was appended is taken back, and answered by [`WriteError::Duplicated`].
    pub async fn create_among_few(&self, endpoint: Endpoint) -> Result<Entry, WriteError> {
        if self.view().is_one_too_many(&endpoint) {
            return Err(WriteError::Duplicated);
        }
        self.create(endpoint, true).await
    }

    async fn create(&self, endpoint: Endpoint, is_limited: bool) -> Result<Entry, WriteError> {
        let id = endpoint.id.clone();
        let _turn = self.turn(&id).await;
        if self.get(&id).is_some() {
            return Err(WriteError::Exists { kind: "endpoint", id });
        }
        if self.view().health(&id).is_some() {
            // Of an endpoint with this id that was deleted: the new one begins without its past.
            self.append(RecordKey::Health(id.clone()), None).await?;
        }
        let draft = Draft { endpoint, disabled: None };
        let rule = is_limited.then(|| (Cow::Borrowed(criteria::MARK), Bytes::from_static(b"1")));
        let applied = self.append_draft_with(&draft, rule).await?;
        match applied.before {
            None if is_limited && applied.is_one_too_many => {
                tracing::info!(endpoint = %id, "others with the same criteria were created at the same time, this one is taken back");
                self.append(RecordKey::Endpoint(id), None).await?;
                Err(WriteError::Duplicated)
            }
            None => self.entry_after(&id),
            Some(other) => {
                tracing::warn!(endpoint = %id, "two instances created this endpoint at once, ours is taken back");
                self.append_draft(&Draft::of(&other)).await?;
                Err(WriteError::Exists { kind: "endpoint", id })
            }
        }
    }

    /// Changes an endpoint: `change` makes the new version from the present one, again if another writer came in between.
    pub async fn update_endpoint(
        &self,
        id: &str,
        mut change: impl FnMut(&Entry) -> Result<Draft, WriteError>,
    ) -> Result<Entry, WriteError> {
        let id = Text::from(id);
        let not_found = || WriteError::NotFound { kind: "endpoint", id: id.clone() };
        let _turn = self.turn(&id).await;
        let mut base = self.get(&id).ok_or_else(not_found)?;
        if base.endpoint.is_declared() {
            return Err(WriteError::Declared { kind: "endpoint", id });
        }
        let mut expected = base.endpoint.registry_offset;
        for _ in 0..ROUNDS {
            let draft = change(&base)?;
            let applied = self.append_draft(&draft).await?;
            match applied.before {
                Some(before) if before.endpoint.registry_offset == expected => return self.entry_after(&id),
                Some(before) => {
                    tracing::info!(endpoint = %id, "another instance changed this endpoint at the same time, the change is made on top of it");
                    base = before;
                    expected = applied.offset;
                }
                None => {
                    self.append(RecordKey::Endpoint(id.clone()), None).await?;
                    return Err(not_found());
                }
            }
        }
        Err(WriteError::Contended(id))
    }

    /// Deletes an endpoint and what health knew of it; answers what it was.
    pub async fn delete_endpoint(&self, id: &str) -> Result<Entry, WriteError> {
        let id = Text::from(id);
        let _turn = self.turn(&id).await;
        let entry = self.get(&id).ok_or_else(|| WriteError::NotFound { kind: "endpoint", id: id.clone() })?;
        if entry.endpoint.is_declared() {
            return Err(WriteError::Declared { kind: "endpoint", id });
        }
        self.append(RecordKey::Endpoint(id.clone()), None).await?;
        if self.view().health(&id).is_some() {
            self.append(RecordKey::Health(id.clone()), None).await?;
        }
        if self.view().grant(&id).is_some() {
            self.append(RecordKey::Grant(id), None).await?;
        }
        Ok(entry)
    }

    /// Stores what health decided. `positions`: the offset to be read next of every source partition, for a transition to Inactive. One that is
    /// known already, or of an endpoint that is gone, changes nothing.
    pub async fn record_transition(&self, transition: &Transition, positions: Vec<Position>) -> Result<(), WriteError> {
        let id = &transition.endpoint;
        let _turn = self.turn(id).await;
        let Some(entry) = self.get(id) else { return Ok(()) };
        let known = entry.health.as_deref();
        if known.is_some_and(|known| known.record.version >= transition.record.version) {
            return Ok(());
        }
        let earlier = known.and_then(|known| known.suspension.clone());
        let suspension = match (transition.record.state, earlier) {
            // Inactive twice in a row: what was missed begins at the first.
            (HealthState::Inactive, Some(lasting)) if lasting.ended.is_none() => Some(lasting),
            (HealthState::Inactive, _) => Some(Suspension { since: transition.at, positions, ended: None }),
            (HealthState::Active | HealthState::Degraded, Some(lasting)) if lasting.ended.is_none() => {
                Some(Suspension { ended: Some(transition.at), ..lasting })
            }
            (HealthState::Active | HealthState::Degraded, earlier) => earlier,
        };
        let stored = StoredHealth { record: transition.record.clone(), suspension };
        let applied = self.append(RecordKey::Health(id.clone()), Some(record::encode(&stored))).await?;
        // Another instance recorded a later transition in between, and ours lies above it: put it right, or ours would stay in force.
        let replaced = applied.before.and_then(|before| before.health);
        if let Some(later) = replaced.filter(|replaced| replaced.record.version > transition.record.version) {
            tracing::info!(endpoint = %id, "another instance recorded a later change of health at the same time, it is recorded again");
            self.append(RecordKey::Health(id.clone()), Some(record::encode(&*later))).await?;
        }
        Ok(())
    }

    /// Stores a token. Its id is made up by the caller and never used twice.
    pub async fn create_token(&self, token: Token) -> Result<(), WriteError> {
        let id = token.id.clone();
        if self.token(&id).is_some() {
            return Err(WriteError::Exists { kind: "token", id });
        }
        self.append(RecordKey::Token(id), Some(record::encode_token(&token, &self.shared.key))).await?;
        Ok(())
    }

    /// Stores when a token was used. It is late by nature, so the token may be gone by now: then the record goes as well.
    pub async fn record_use(&self, id: &str, at: Timestamp) -> Result<(), WriteError> {
        let id = Text::from(id);
        self.append(RecordKey::Used(id.clone()), Some(record::encode(&record::Used { at }))).await?;
        if self.token(&id).is_none() {
            self.append(RecordKey::Used(id), None).await?;
        }
        Ok(())
    }

    /// Revokes a token: this instance refuses it from now on, the others as soon as they have read it.
    pub async fn delete_token(&self, id: &str) -> Result<(), WriteError> {
        let id = Text::from(id);
        if self.token(&id).is_none() {
            return Err(WriteError::NotFound { kind: "token", id });
        }
        self.append(RecordKey::Token(id.clone()), None).await?;
        // The token is revoked by now, whatever becomes of this.
        if let Err(error) = self.append(RecordKey::Used(id.clone()), None).await {
            tracing::warn!(token = %id, %error, "revoked, but when it was used last stays in the registry");
        }
        Ok(())
    }

    pub async fn put_tenant(&self, tenant: Tenant) -> Result<(), WriteError> {
        let id = tenant.id.clone();
        if self.tenant(&id).declared {
            return Err(WriteError::Declared { kind: "tenant", id });
        }
        self.append(RecordKey::Tenant(id), Some(record::encode(&tenant))).await?;
        Ok(())
    }

    /// Stores an agent. Its id is made up by the caller.
    pub async fn create_agent(&self, agent: Agent) -> Result<Arc<Agent>, WriteError> {
        let id = agent.id.clone();
        let _turn = self.turn(&id).await;
        if self.agent(&id).is_some() {
            return Err(WriteError::Exists { kind: "agent", id });
        }
        self.append(RecordKey::Agent(id.clone()), Some(record::encode(&agent))).await?;
        self.agent(&id).ok_or(WriteError::NotFound { kind: "agent", id })
    }

    /// Changes an agent. Of two instances that change it at the same time, the later one wins.
    pub async fn update_agent(&self, id: &str, change: impl FnOnce(&Agent) -> Result<Agent, WriteError>) -> Result<Arc<Agent>, WriteError> {
        let id = Text::from(id);
        let _turn = self.turn(&id).await;
        let not_found = || WriteError::NotFound { kind: "agent", id: id.clone() };
        let present = self.agent(&id).ok_or_else(not_found)?;
        let changed = change(&present)?;
        if changed != *present {
            self.append(RecordKey::Agent(id.clone()), Some(record::encode(&changed))).await?;
        }
        self.agent(&id).ok_or_else(not_found)
    }

    pub async fn delete_agent(&self, id: &str) -> Result<(), WriteError> {
        let id = Text::from(id);
        let _turn = self.turn(&id).await;
        if self.agent(&id).is_none() {
            return Err(WriteError::NotFound { kind: "agent", id });
        }
        self.append(RecordKey::Agent(id), None).await?;
        Ok(())
    }

    fn entry_after(&self, id: &Text) -> Result<Entry, WriteError> {
        self.get(id).ok_or_else(|| WriteError::NotFound { kind: "endpoint", id: id.clone() })
    }

    async fn append_draft(&self, draft: &Draft) -> Result<Applied, WriteError> {
        self.append_draft_with(draft, None).await
    }

    async fn append_draft_with(&self, draft: &Draft, header: Option<Header>) -> Result<Applied, WriteError> {
        let value = record::encode_endpoint(&draft.endpoint, draft.disabled.as_ref(), &self.shared.key);
        self.append_with(RecordKey::Endpoint(draft.endpoint.id.clone()), Some(value), header).await
    }

    /// Appends a record and returns when this instance has applied it.
    pub(super) async fn append(&self, key: RecordKey, value: Option<Bytes>) -> Result<Applied, WriteError> {
        self.append_with(key, value, None).await
    }

    async fn append_with(&self, key: RecordKey, value: Option<Bytes>, header: Option<Header>) -> Result<Applied, WriteError> {
        let (mut waiting, mark) = self.shared.pending.register();
        let record = Append {
            topic: Arc::clone(&self.topic),
            partition: Some(super::PARTITION),
            key: Some(Bytes::from(key.to_string())),
            value,
            headers: header.into_iter().chain([(Cow::Borrowed(MARK), mark)]).collect(),
        };
        let mut results = self.log.append(vec![record]).await;
        results.pop().expect("one result for each record")?;
        match tokio::time::timeout(APPLY_DEADLINE, &mut waiting.receiver).await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(_)) | Err(_) => Err(WriteError::NotApplied),
        }
    }

    async fn turn(&self, id: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = self.locks_by.hash_one(id);
        self.locks[(hash % LOCKS as u64) as usize].lock().await
    }
}

/// The form in which keys of tokens are stored and looked up.
pub fn hash_of_key(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}
