//! Writers that meet: at most two subscriptions have the same criteria, judged in the order of the topic by every instance alike.

use super::*;

fn subscription(id: &str, kind: &str, channel: &str) -> Endpoint {
    let mut spec = EndpointSpec {
        id: Some(id.into()),
        url: "http://a/".into(),
        format: Some("zenvia".into()),
        signing: Some("none".into()),
        types: vec![kind.into()],
        channels: vec![channel.into()],
        ..EndpointSpec::default()
    };
    spec.fill();
    spec.check(Timestamp::UNIX_EPOCH).expect("good")
}

/// Writes as another instance would whose writer was told of no limit yet.
fn put_limited(log: &MemoryLog, endpoint: &Endpoint) {
    log.put(Append {
        topic: TOPIC.into(),
        partition: Some(0),
        key: Some(Bytes::from(format!("endpoint/{}", endpoint.id))),
        value: Some(record::encode_endpoint(endpoint, None, &options().key)),
        headers: vec![(criteria::MARK.into(), Bytes::from_static(b"1"))],
    });
}

#[tokio::test]
async fn the_third_with_the_same_criteria_is_refused_and_others_are_not() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    for id in ["a", "b"] {
        registry.create_among_few(subscription(id, "MESSAGE", "sms")).await.expect("created");
    }
    assert!(matches!(registry.create_among_few(subscription("c", "MESSAGE", "sms")).await, Err(WriteError::Duplicated)));
    registry.create_among_few(subscription("c", "MESSAGE", "whatsapp")).await.expect("another channel");
    registry.create_among_few(subscription("d", "MESSAGE_STATUS", "sms")).await.expect("another type");
    let mut other = subscription("e", "MESSAGE", "sms");
    other.tenant = "other".into();
    registry.create_among_few(other).await.expect("another tenant");
    registry.create_endpoint(subscription("f", "MESSAGE", "sms")).await.expect("made in another way");
    registry.delete_endpoint("a").await.expect("deleted");
    assert!(matches!(registry.create_among_few(subscription("g", "MESSAGE", "sms")).await, Err(WriteError::Duplicated)), "it counts");
    registry.delete_endpoint("b").await.expect("deleted");
    registry.create_among_few(subscription("g", "MESSAGE", "sms")).await.expect("there is room again");
    log.compact();
    let later = start(&log).await;
    assert!(
        matches!(later.create_among_few(subscription("h", "MESSAGE", "sms")).await, Err(WriteError::Duplicated)),
        "known after a restart"
    );
}

#[tokio::test]
async fn of_two_writers_at_once_the_later_record_is_taken_back() {
    let log = MemoryLog::default();
    let (ours, theirs) = (start(&log).await, start(&log).await);
    ours.create_among_few(subscription("a", "MESSAGE", "sms")).await.expect("created");
    // The other instance appends between our look and our append: its record comes first.
    log.before_append(|log| put_limited(log, &subscription("theirs", "MESSAGE", "sms")));
    assert!(matches!(ours.create_among_few(subscription("ours", "MESSAGE", "sms")).await, Err(WriteError::Duplicated)));
    catch_up(&theirs, ours.offset());
    for registry in [&ours, &theirs] {
        let ids: Vec<Text> = registry.endpoints(None, None, 10).into_iter().map(|entry| entry.endpoint.id.clone()).collect();
        assert_eq!(ids, ["a", "theirs"]);
    }
}

#[tokio::test]
async fn one_that_came_too_late_does_not_stand_in_the_way_of_the_next() {
    let log = MemoryLog::default();
    let (ours, theirs) = (start(&log).await, start(&log).await);
    for id in ["a", "b"] {
        ours.create_among_few(subscription(id, "MESSAGE", "sms")).await.expect("created");
    }
    // Too late, and its writer has not taken it back yet.
    put_limited(&log, &subscription("late", "MESSAGE", "sms"));
    ours.delete_endpoint("a").await.expect("deleted");
    ours.create_among_few(subscription("c", "MESSAGE", "sms")).await.expect("b and c are two");
    let taken_back = put(&log, "endpoint/late", None);
    let refused = ours.create_among_few(subscription("d", "MESSAGE", "sms")).await;
    assert!(matches!(refused, Err(WriteError::Duplicated)));
    for registry in [&ours, &theirs] {
        catch_up(registry, taken_back);
    }
    assert_eq!(theirs.endpoints(None, None, 10), ours.endpoints(None, None, 10));
}

#[tokio::test]
async fn of_many_writers_on_several_instances_exactly_two_succeed() {
    let log = MemoryLog::default();
    let registries = [start(&log).await, start(&log).await, start(&log).await];
    let tries = (0..12).map(|n| {
        let registry = Arc::clone(&registries[n % registries.len()]);
        async move { registry.create_among_few(subscription(&format!("s{n}"), "MESSAGE", "sms")).await.is_ok() }
    });
    let created = futures_util::future::join_all(tries).await;
    assert_eq!(created.iter().filter(|is_ok| **is_ok).count(), 2, "{created:?}");
    let end = registries.iter().map(|registry| registry.offset()).max().expect("three");
    for registry in &registries {
        catch_up(registry, end);
        assert_eq!(registry.endpoints(None, None, 20).len(), 2);
    }
}

#[tokio::test]
async fn when_a_token_was_used_is_known_after_a_restart_and_goes_with_the_token() {
    let log = MemoryLog::default();
    let registry = start(&log).await;
    let token = Token {
        id: "t".into(),
        tenant: "acme".into(),
        name: "n".into(),
        kind: crate::model::token::TokenKind::Signature,
        role: Role::Developer,
        key_sha256: hash_of_key("hunter2"),
        created_at: Timestamp::UNIX_EPOCH,
        secret: Some(Secret::new("hunter3")),
    };
    registry.create_token(token.clone()).await.expect("created");
    assert!(!log.text().contains("hunter3"), "sealed");
    let at: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
    assert!(registry.note_use("t", at) && !registry.note_use("t", at) && !registry.note_use("nobody", at));
    registry.record_use("t", at).await.expect("stored");
    log.compact();
    let later = start(&log).await;
    assert_eq!((later.last_used("t"), later.token("t").as_deref()), (Some(at), Some(&token)));
    assert!(!later.note_use("t", at), "stored within the hour");
    registry.delete_token("t").await.expect("revoked");
    registry.record_use("t", at).await.expect("late, and it does not stay");
    assert_eq!((registry.last_used("t"), registry.token("t")), (None, None));
    log.compact();
    assert_eq!(start(&log).await.last_used("t"), None);
}
