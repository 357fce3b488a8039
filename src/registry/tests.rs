mod concurrent;
mod memory;

use std::sync::mpsc;

use bytes::Bytes;

use self::memory::MemoryLog;
use super::*;
use crate::{
    log::Append,
    model::{HealthRecord, HealthState, Position, SystemClock, Timestamp, Transition, token::Role},
};

const TOPIC: &str = "posthaste.registry";

fn options() -> Options {
    Options { topic: TOPIC.into(), key: Key::from_bytes(&[1; 32]), declared: Vec::new(), tenants: Vec::new(), may_be_new: true }
}

async fn start_with(log: &MemoryLog, options: Options) -> Result<(Arc<Registry>, mpsc::Receiver<Vec<Change>>), RegistryError> {
    let (changes, changed) = mpsc::sync_channel(1000);
    let on_change: OnChange = Box::new(move |batch| {
        let _ = changes.try_send(batch.to_vec());
    });
    let registry = Registry::start(Arc::new(log.clone()), options, on_change, Metrics::new(), &SystemClock).await?;
    Ok((registry, changed))
}

async fn start(log: &MemoryLog) -> Arc<Registry> {
    start_with(log, options()).await.expect("started").0
}

fn endpoint(id: &str, url: &str) -> Endpoint {
    let mut spec = EndpointSpec { id: Some(id.into()), url: url.into(), ..EndpointSpec::default() };
    spec.fill();
    spec.check(Timestamp::UNIX_EPOCH).expect("good")
}

/// Where the record lies.
fn put(log: &MemoryLog, key: &str, value: Option<Bytes>) -> i64 {
    let at = log.put(Append {
        topic: TOPIC.into(),
        partition: Some(0),
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value,
        headers: Vec::new(),
    });
    at.offset
}

/// Writes an endpoint as another instance would.
fn put_endpoint(log: &MemoryLog, endpoint: &Endpoint) {
    put(log, &format!("endpoint/{}", endpoint.id), Some(record::encode_endpoint(endpoint, None, &options().key)));
}

fn describe(text: &str) -> impl FnMut(&Entry) -> Result<Draft, WriteError> {
    move |entry| {
        let mut draft = Draft::of(entry);
        draft.endpoint.description = Some(text.into());
        Ok(draft)
    }
}

/// Waits until `registry` has applied all that is in the log.
fn catch_up(registry: &Registry, offset: i64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while registry.offset() < offset {
        assert!(Instant::now() < deadline, "the follower does not follow");
        std::thread::yield_now();
    }
}

fn transition(id: &str, state: HealthState, version: u64) -> Transition {
    let record = HealthRecord { state, version, ..HealthRecord::default() };
    Transition { endpoint: id.into(), from: HealthState::Active, record, at: Timestamp::UNIX_EPOCH }
}

#[tokio::test]
async fn a_write_is_answered_after_it_was_applied_and_told() {
    let log = MemoryLog::default();
    let (registry, changed) = start_with(&log, options()).await.expect("started");
    let entry = registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    let told: Vec<Change> = changed.try_iter().flatten().collect();
    assert_eq!(told, [Change { id: "a".into(), before: None, after: Some(entry.clone()) }]);
    assert_eq!(registry.get("a"), Some(entry.clone()));
    assert_eq!(entry.endpoint.registry_offset, registry.offset());
    registry.delete_endpoint("a").await.expect("deleted");
    assert_eq!(registry.get("a"), None);
    assert!(changed.try_iter().flatten().any(|change| change.after.is_none()));
    assert!(matches!(registry.delete_endpoint("a").await, Err(WriteError::NotFound { .. })));
}

#[tokio::test]
async fn an_instance_that_starts_later_reads_all_of_it_before_it_is_started() {
    let log = MemoryLog::default();
    let first = start(&log).await;
    for id in ["a", "b", "c"] {
        first.create_endpoint(endpoint(id, "http://x/")).await.expect("created");
    }
    first.delete_endpoint("b").await.expect("deleted");
    first.record_transition(&transition("c", HealthState::Degraded, 1), Vec::new()).await.expect("stored");
    log.compact();
    let (second, changed) = start_with(&log, options()).await.expect("started");
    assert_eq!(second.id(), first.id());
    assert_eq!(second.endpoints(None, None, 10), first.endpoints(None, None, 10));
    let batches: Vec<Vec<Change>> = changed.try_iter().collect();
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [2], "one batch at load");
    assert_eq!(second.get("c").expect("there").state(), HealthState::Degraded);
    assert_eq!(second.endpoints(None, Some("a"), 10).len(), 1);
}

#[tokio::test]
async fn changes_of_two_instances_at_once_are_both_kept_and_both_see_the_same() {
    let log = MemoryLog::default();
    let (ours, theirs) = (start(&log).await, start(&log).await);
    ours.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    log.before_append(|log| put_endpoint(log, &endpoint("a", "http://changed/")));
    let entry = ours.update_endpoint("a", describe("ours")).await.expect("changed");
    assert_eq!(entry.endpoint.url.as_str(), "http://changed/", "the other's change is kept");
    assert_eq!(entry.endpoint.description.as_deref(), Some("ours"));
    catch_up(&theirs, ours.offset());
    assert_eq!(theirs.get("a"), ours.get("a"));
}

#[tokio::test]
async fn of_two_creations_at_once_one_is_taken_back() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    log.before_append(|log| put_endpoint(log, &endpoint("a", "http://first/")));
    assert!(matches!(registry.create_endpoint(endpoint("a", "http://second/")).await, Err(WriteError::Exists { .. })));
    assert_eq!(registry.get("a").expect("there").endpoint.url.as_str(), "http://first/");
    log.compact();
    assert_eq!(start(&log).await.get("a").expect("there").endpoint.url.as_str(), "http://first/");
}

#[tokio::test]
async fn a_change_of_what_was_just_deleted_does_not_bring_it_back() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    log.before_append(|log| {
        put(log, "endpoint/a", None);
    });
    assert!(matches!(registry.update_endpoint("a", describe("x")).await, Err(WriteError::NotFound { .. })));
    assert_eq!(registry.get("a"), None);
}

#[tokio::test]
async fn what_a_person_and_what_health_wrote_do_not_overwrite_each_other() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    let position = Position { topic: "posthaste.events".into(), partition: 0, offset: 7 };
    registry.record_transition(&transition("a", HealthState::Inactive, 3), vec![position.clone()]).await.expect("stored");
    registry.update_endpoint("a", describe("x")).await.expect("changed");
    let entry = registry.get("a").expect("there");
    assert!(!entry.is_served());
    assert_eq!(entry.suspension().expect("suspended").positions, std::slice::from_ref(&position));
    registry.record_transition(&transition("a", HealthState::Active, 2), Vec::new()).await.expect("an old one");
    assert!(!registry.get("a").expect("there").is_served(), "an older version changes nothing");
    registry.record_transition(&transition("a", HealthState::Active, 4), Vec::new()).await.expect("stored");
    let entry = registry.get("a").expect("there");
    assert!(entry.is_served());
    let suspension = entry.suspension().expect("kept to recover from");
    assert_eq!((suspension.positions.as_slice(), suspension.ended.is_some()), (std::slice::from_ref(&position), true));
    registry.delete_endpoint("a").await.expect("deleted");
    assert_eq!(registry.create_endpoint(endpoint("a", "http://a/")).await.expect("again").health, None, "without its past");
}

#[tokio::test]
async fn a_token_is_known_by_its_key_until_it_is_revoked() {
    let log = MemoryLog::default();
    let (ours, theirs) = (start(&log).await, start(&log).await);
    let token = Token {
        id: "t".into(),
        tenant: "acme".into(),
        name: "n".into(),
        kind: Default::default(),
        role: Role::Developer,
        key_sha256: hash_of_key("hunter2"),
        created_at: Timestamp::UNIX_EPOCH,
        secret: None,
    };
    ours.create_token(token.clone()).await.expect("created");
    assert_eq!(ours.authenticate("hunter2").as_deref(), Some(&token));
    assert_eq!(ours.authenticate("hunter3"), None);
    assert!(!log.text().contains("hunter2"));
    ours.delete_token("t").await.expect("revoked");
    assert_eq!(ours.authenticate("hunter2"), None);
    catch_up(&theirs, ours.offset());
    assert_eq!(theirs.authenticate("hunter2"), None);
}

#[tokio::test]
async fn an_empty_or_foreign_topic_is_no_registry_for_those_who_had_one() {
    let lost = start_with(&MemoryLog::default(), Options { may_be_new: false, ..options() }).await;
    assert!(matches!(lost, Err(RegistryError::Lost(_))));
    let log = MemoryLog::default();
    put(&log, "something", Some(Bytes::from_static(b"else")));
    assert!(matches!(start_with(&log, options()).await, Err(RegistryError::Foreign(_))));
}

#[tokio::test]
async fn another_key_is_refused_at_start() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    let other = || Options { key: Key::from_bytes(&[2; 32]), ..options() };
    let error = start_with(&log, other()).await.err().expect("also while there are no secrets").to_string();
    assert!(error.contains("registry.key"), "{error}");
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    let error = start_with(&log, other()).await.err().expect("refused").to_string();
    assert!(error.contains("registry.key"), "{error}");
}

#[tokio::test]
async fn declared_endpoints_are_there_and_cannot_be_changed() {
    let log = MemoryLog::default();
    let declared = |id: &str| Options { declared: vec![endpoint(id, "http://declared/")], ..options() };
    let (registry, _) = start_with(&log, declared("d")).await.expect("started");
    assert!(registry.get("d").expect("there").endpoint.is_declared());
    assert!(matches!(registry.update_endpoint("d", describe("x")).await, Err(WriteError::Declared { .. })));
    assert!(matches!(registry.delete_endpoint("d").await, Err(WriteError::Declared { .. })));
    assert!(matches!(registry.create_endpoint(endpoint("d", "http://x/")).await, Err(WriteError::Exists { .. })));
    registry.record_transition(&transition("d", HealthState::Degraded, 1), Vec::new()).await.expect("health is not declared");
    assert_eq!(registry.get("d").expect("there").state(), HealthState::Degraded);
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    let error = start_with(&log, declared("a")).await.err().expect("in both").to_string();
    assert!(error.contains("`a`") && error.contains("declared"), "{error}");
    registry.delete_endpoint("a").await.expect("deleted");
    start_with(&log, declared("a")).await.expect("no longer in both");
}

#[tokio::test]
async fn a_log_that_is_away_fails_the_write_and_shows_in_the_lag() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    log.away(true);
    assert!(matches!(registry.create_endpoint(endpoint("a", "http://a/")).await, Err(WriteError::Log(_))));
    assert_eq!(registry.get("a"), None);
    log.away(false);
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    assert!(registry.behind_for() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_passed_over() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    registry.create_endpoint(endpoint("a", "http://a/")).await.expect("created");
    put(&log, "endpoint/a", Some(Bytes::from_static(b"{}")));
    put(&log, "agent/x", Some(Bytes::from_static(b"?")));
    registry.create_endpoint(endpoint("b", "http://b/")).await.expect("created");
    assert_eq!(registry.get("a").expect("as it was").endpoint.url.as_str(), "http://a/");
    assert_eq!(start(&log).await.get("a"), registry.get("a"), "at start too");
}

#[tokio::test]
async fn after_a_stop_a_writer_is_not_kept_waiting() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    registry.stop();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match registry.create_endpoint(endpoint(&format!("a{}", registry.offset()), "http://a/")).await {
            Err(WriteError::NotApplied) => break,
            // The follower has not looked yet.
            Ok(_) | Err(WriteError::Exists { .. }) => assert!(Instant::now() < deadline),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn more_endpoints_than_one_read_brings_are_all_there_when_it_is_started() {
    let log = MemoryLog::default();
    start(&log).await;
    let mut one = endpoint("x", "https://hooks.example.com/some/path/of/usual/length");
    for number in 0..5_000 {
        one.id = format!("ep_{number:032}").into();
        put_endpoint(&log, &one);
    }
    let (registry, changed) = start_with(&log, options()).await.expect("started");
    assert_eq!(registry.endpoints(None, None, usize::MAX).len(), 5_000);
    assert_eq!(changed.try_iter().map(|batch| batch.len()).collect::<Vec<_>>(), [5_000]);
    // 100,000 of them have to fit into 100 MB, their texts included.
    assert!(size_of::<Endpoint>() < 600, "{}", size_of::<Endpoint>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_refresh_token_is_known_everywhere_until_its_owner_gives_another() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    let (given, id) = (Secret::new("hunter1"), Text::from("a"));
    let grant = |token: &str| Grant { given: given.clone(), token: Secret::new(token) };
    assert!(matches!(registry.put_refresh_token(&id, &grant("x")).await, Err(WriteError::NotFound { .. })));
    registry.create_endpoint(endpoint("a", "http://h/")).await.expect("created");
    assert_eq!(registry.refresh_token("a", &given), None);
    for token in ["hunter2", "hunter3"] {
        registry.put_refresh_token(&id, &grant(token)).await.expect("kept");
        assert_eq!(registry.refresh_token("a", &given), Some(Secret::new(token)));
    }
    assert_eq!(registry.refresh_token("a", &Secret::new("another")), None);
    assert!(!log.text().contains("hunter"));
    let other = start(&log).await;
    assert_eq!(other.refresh_token("a", &given), Some(Secret::new("hunter3")));
    registry.delete_endpoint("a").await.expect("deleted");
    assert_eq!(registry.refresh_token("a", &given), None);
}
