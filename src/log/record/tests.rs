use proptest::prelude::*;

use super::*;
use crate::model::{Delivery, Position, Purpose};

fn record(value: impl Into<Bytes>, headers: &[(&'static str, &str)]) -> Record {
    Record {
        position: Position { topic: "posthaste.events".into(), partition: 3, offset: 42 },
        key: None,
        value: Some(value.into()),
        headers: headers.iter().map(|(name, value)| (Text::from_static(name), Bytes::copy_from_slice(value.as_bytes()))).collect(),
        appended_ms: 1_700_000_000_000,
    }
}

/// What a record looks like after the log took it.
fn stored(encoded: Encoded) -> Record {
    Record {
        position: Position { topic: "posthaste.retry.30s".into(), partition: 1, offset: 9 },
        key: encoded.key,
        value: encoded.value,
        headers: encoded.headers.into_iter().map(|(name, value)| (name.into_owned().into(), value)).collect(),
        appended_ms: 1_700_000_001_000,
    }
}

const WHOLE: &str = r#"{"id":"e1","type":"lead.created","channel":"whatsapp","direction":"IN","time":"2026-01-15T12:00:00.5-03:00","tenant":"acme",
    "subject":"lead/7","priority":"high","unknown":{"a":[1]},"data":{"b" : "Olá",  "a":1.50}}"#;

fn whole() -> Event {
    Event {
        id: "e1".into(),
        kind: "lead.created".into(),
        channel: "whatsapp".into(),
        direction: Some(Direction::In),
        time: "2026-01-15T15:00:00.5Z".parse().expect("a time"),
        tenant: "acme".into(),
        subject: Some("lead/7".into()),
        priority: Priority::High,
        traceparent: None,
        data: Bytes::from_static(r#"{"b" : "Olá",  "a":1.50}"#.as_bytes()),
    }
}

#[test]
fn own_json_is_read_without_copying_and_data_is_kept_to_the_byte() {
    let record = record(WHOLE, &[]);
    let event = decode_event(&record).expect("a good event");
    assert_eq!(event, whole());
    let buffer = record.value.expect("it has a value").as_ptr_range();
    for part in [event.id.as_bytes(), event.kind.as_bytes(), event.channel.as_bytes(), event.tenant.as_bytes(), &event.data] {
        assert!(buffer.contains(&part.as_ptr()), "{part:?} was copied");
    }
}

#[test]
fn what_may_be_left_out_gets_its_default() {
    let event =
        decode_event(&record(r#"{"type":"t","channel":"c","data":null,"id":null}"#, &[("traceparent", "00-ab-cd-01")])).expect("enough");
    assert_eq!(event.id, "posthaste.events:3:42");
    assert_eq!(event.tenant, "default");
    assert_eq!(event.time.as_millisecond(), 1_700_000_000_000);
    assert_eq!(event.priority, Priority::Normal);
    assert_eq!(event.traceparent.as_deref(), Some("00-ab-cd-01"));
    assert_eq!(&*event.data, b"null");
}

#[test]
fn escapes_in_texts_are_resolved() {
    let event = decode_event(&record(r#"{"id":"a\u00e9\"b","type":"t","channel":"c","data":"x\ny"}"#, &[])).expect("a good event");
    assert_eq!(event.id, "aé\"b");
    assert_eq!(&*event.data, br#""x\ny""#);
}

#[test]
fn what_is_wrong_is_named() {
    let long = format!(r#"{{"type":"t","channel":"{}","data":1}}"#, "c".repeat(300));
    for (value, expected) in [
        ("", "`.` is no JSON object"),
        (r#"["id","type"]"#, "`.` is no JSON object"),
        ("nonsense", "`.` is no JSON object"),
        ("{", "EOF"),
        ("{\"type\":\"t\",\"channel\":\"c\",\"data\":{\"a\":}}", "`data` is no JSON: expected value at line 1 column 39"),
        (r#"{"type":"t","channel":"c"}"#, "`data` is missing"),
        (r#"{"channel":"c","data":1}"#, "`type` is missing"),
        (r#"{"type":"t","data":1}"#, "`channel` is missing"),
        (r#"{"type":7,"channel":"c","data":1}"#, "`type` is wrong: invalid type: integer `7`, expected a text"),
        (r#"{"type":"","channel":"c","data":1}"#, "`type` is empty"),
        (r#"{"type":"a\nb","channel":"c","data":1}"#, "`type` has control characters"),
        (r#"{"type":"t","channel":"c","data":1,"time":"yesterday"}"#, "`time` is `yesterday`"),
        (r#"{"type":"t","channel":"c","data":1,"time":1700000000}"#, "`time` is wrong"),
        (r#"{"type":"t","channel":"c","data":1,"direction":"UP"}"#, "`direction` is wrong: unknown variant `UP`, expected one of `IN`"),
        (r#"{"type":"t","channel":"c","data":1,"priority":"urgent"}"#, "`priority` is wrong"),
        (r#"{"type":"t","channel":"c","data":1} {}"#, "`.` is more than one JSON document"),
        (r#"{"type":"t","type":"t","channel":"c","data":1}"#, "duplicate field"),
        (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, "`specversion` is `0.3`"),
        (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "`id` is missing"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "`source` is missing"),
        (long.as_str(), "`channel` has 300 bytes: 256 are allowed"),
    ] {
        let error = decode_event(&record(value.to_owned(), &[])).expect_err(value);
        assert_eq!(error.reason, DeadReason::Unparsable);
        assert!(error.detail.contains(expected), "{value}: {}", error.detail);
    }
    assert_eq!(decode_event(&record(vec![0xff, 0xfe], &[])).expect_err("no text").detail, "the value is no UTF-8");
    let batch = record("[]", &[("content-type", "application/cloudevents-batch+json")]);
    assert!(decode_event(&batch).expect_err("a batch").detail.contains("batch"));
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    for (value, expected) in [
        (
            r#"{"type":7,"time":"now","tenant":"","subject":[],"direction":"UP","other":[1]}"#,
            "direction, subject, type, channel, time, tenant, data",
        ),
        (r#"{"channel":"c","type":"t","type":"u","type":1,"x":1,"x":2,"priority":3}"#, "priority, type, data"),
        (r#"{"specversion":1.0,"type":"t","data":1}"#, "specversion, id, source"),
        (r#"{"specversion":"0.3","ty\u0070e":null,"id":"1"}"#, "specversion, type, source"),
    ] {
        let errors = event_from_json(&value.into(), Timestamp::UNIX_EPOCH, &"acme".into()).expect_err(value);
        assert_eq!(errors.iter().map(|error| &*error.path).collect::<Vec<_>>().join(", "), expected, "{errors:?}");
    }
    let error = decode_event(&record(r#"{"type":7,"channel":""}"#, &[])).expect_err("two mistakes and more");
    assert_eq!(error.detail, "`type` is wrong: invalid type: integer `7`, expected a text; `channel` is empty; `data` is missing");
}

#[test]
fn a_structured_cloud_event_is_an_event() {
    let value = r#"{"specversion":"1.0","id":"1","source":"/sales","type":"lead.created","time":"2026-01-15T12:00:00Z","subject":"s",
        "datacontenttype":"application/json","tenant":"acme","data":{"a":1}}"#;
    let event = decode_event(&record(value, &[("content-type", "application/cloudevents+json; charset=utf-8")])).expect("a CloudEvent");
    assert_eq!((&*event.id, &*event.channel, &*event.kind, &*event.tenant), ("1", "/sales", "lead.created", "acme"));
    assert_eq!(&*event.data, br#"{"a":1}"#);
    let value = r#"{"specversion":"1.0","id":"1","source":"/sales","type":"t","channel":"sms","data_base64":"AAE="}"#;
    let event = decode_event(&record(value, &[])).expect("a CloudEvent");
    assert_eq!((&*event.channel, &*event.data), ("sms", &br#""AAE=""#[..]));
}

#[test]
fn a_binary_cloud_event_is_an_event() {
    let head = [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "/sales"),
        ("ce_type", "lead.created"),
        ("ce_time", "2026-01-15T12:00:00Z"),
        ("ce_direction", "OUT"),
        ("ce_priority", "low"),
        ("ce_channel", "sms"),
        ("ce_traceparent", "00-ab-cd-01"),
    ];
    let with = |kind| head.iter().copied().chain([("content-type", kind)]).collect::<Vec<_>>();
    let event = decode_event(&record(r#"{"a": 1}"#, &with("application/json"))).expect("a CloudEvent");
    assert_eq!((&*event.id, &*event.channel, event.direction, event.priority), ("1", "sms", Some(Direction::Out), Priority::Low));
    assert_eq!((&*event.data, event.traceparent.as_deref()), (&br#"{"a": 1}"#[..], Some("00-ab-cd-01")));
    for (kind, value, data) in [
        ("text/plain", &b"say \"hi\""[..], &br#""say \"hi\"""#[..]),
        ("application/octet-stream", b"\xff\xfe", br#""//4=""#),
        ("application/vnd.acme+JSON; v=1", b"[1]", b"[1]"),
    ] {
        assert_eq!(&*decode_event(&record(value, &with(kind))).expect(kind).data, data);
    }
    assert!(decode_event(&record("{", &with("application/json"))).expect_err("broken data").detail.contains("`data` is no JSON"));
    let mut empty = record("", &head);
    empty.value = None;
    assert!(!is_tombstone(&empty));
    assert_eq!(&*decode_event(&empty).expect("an event without data").data, b"null");
    assert!(decode_event(&record("1", &head[..3])).expect_err("no type").detail.contains("`ce_type` is missing"));
}

#[test]
fn an_encoded_event_is_keyed_by_channel_and_tenant() {
    let mut event = whole();
    assert_eq!(encode_event(&event).key.as_deref(), Some(&b"acme/whatsapp"[..]));
    event.tenant = Event::DEFAULT_TENANT.into();
    assert_eq!(encode_event(&event).key.as_deref(), Some(&b"whatsapp"[..]));
}

fn delivery() -> Delivery {
    Delivery {
        event: Arc::new(Event { traceparent: Some("00-ab-cd-01".into()), ..whole() }),
        endpoint: "ep_1".into(),
        origin: Position { topic: "a:b.events".into(), partition: 7, offset: 539_402 },
        attempts: 3,
        accepted_at: "2026-01-15T12:00:00.123456789Z".parse().expect("a time"),
        due_at: Some("2026-01-15T12:00:30Z".parse().expect("a time")),
        registry_offset: -1,
        purpose: Purpose::Redrive,
        reason: Some("response_timeout".into()),
    }
}

#[test]
fn a_delivery_survives_the_log() {
    for purpose in [Purpose::Event, Purpose::Test, Purpose::Replay, Purpose::Redrive, Purpose::Agent] {
        let delivery = Delivery { purpose, ..delivery() };
        let record = stored(encode_delivery(&delivery));
        assert!(is_delivery(&record));
        assert_eq!(decode_delivery(&record), Ok(delivery));
    }
    let bare = Delivery { due_at: None, reason: None, origin: unplaced("t".into()), ..delivery() };
    let record = stored(encode_delivery(&bare));
    assert_eq!(decode_delivery(&record), Ok(Delivery { origin: record.position.clone(), ..bare }));
}

#[test]
fn a_foreign_or_broken_delivery_is_unreadable_and_says_why() {
    let good = stored(encode_delivery(&delivery()));
    let with = |name: &'static str, value: &'static [u8]| {
        let mut record = good.clone();
        record.headers.retain(|(key, _)| *key != name);
        record.headers.push((Text::from_static(name), Bytes::from_static(value)));
        record
    };
    for (record, expected) in [
        (record(WHOLE, &[]), "no delivery"),
        (with("posthaste-delivery", b"2"), "reads 1"),
        (with("posthaste-attempts", b"many"), "`posthaste-attempts` is `many`"),
        (with("posthaste-attempts", b"-1"), "`posthaste-attempts`"),
        (with("posthaste-origin", b"x:1"), "`posthaste-origin`"),
        (with("posthaste-due-at", b"soon"), "`posthaste-due-at`"),
        (with("posthaste-purpose", b"fun"), "`posthaste-purpose`"),
        (with("posthaste-endpoint", b"\xff"), "no UTF-8"),
        (Record { value: None, ..good.clone() }, "no value"),
    ] {
        let error = decode_delivery(&record).expect_err(expected);
        assert!(error.detail.contains(expected), "{expected}: {}", error.detail);
    }
}

#[test]
fn dead_letters_survive_the_log_and_cannot_be_taken_for_what_they_hold() {
    let at: Timestamp = "2026-01-16T00:00:00Z".parse().expect("a time");
    let delivery = delivery();
    let letter =
        decode_dead_letter(&stored(encode_dead_delivery(&delivery, DeadReason::Exhausted, "status 500", at))).expect("a dead letter");
    assert_eq!((letter.reason, &*letter.detail, letter.at), (DeadReason::Exhausted, "status 500", at));
    let expected = Delivery { reason: Some("exhausted".into()), ..delivery };
    assert_eq!(letter.thing, DeadThing::Delivery(Box::new(expected)));

    let foreign = record("{broken", &[("posthaste-delivery", "9"), ("x", "y")]);
    let kept = stored(encode_dead_record(&foreign, DeadReason::Unparsable, "is wrong", at));
    assert!(is_dead_letter(&kept) && !is_delivery(&kept));
    let DeadThing::Record { origin, value, headers, .. } = decode_dead_letter(&kept).expect("a dead letter").thing else {
        panic!("a record")
    };
    assert_eq!((origin, value, headers), (foreign.position.clone(), foreign.value.clone(), foreign.headers.clone()));

    let reference = stored(encode_dead_record(&foreign, DeadReason::TooLarge, "too large", at));
    assert_eq!(reference.value, Some(Bytes::new()));
    let DeadThing::Record { origin, value, .. } = decode_dead_letter(&reference).expect("a dead letter").thing else { panic!("a record") };
    assert_eq!((origin, value), (foreign.position, None));
}

proptest! {
    #[test]
    fn any_event_survives_the_log(
        id in "[^\\x00-\\x1f\\x7f]{1,40}",
        kind in "[^\\x00-\\x1f\\x7f]{1,40}",
        tenant in "[a-z\"\\\\]{1,9}",
        subject in proptest::option::of("[^\\x00-\\x1f\\x7f]{1,40}"),
        data in "[ -~é\n]{0,99}",
        nanos in 0_i128..4_000_000_000_000_000_000,
    ) {
        let event = Event {
            id: id.into(), kind: kind.clone().into(), channel: kind.into(), tenant: tenant.into(), subject: subject.map(Text::from),
            data: json_text(&data), time: Timestamp::from_nanosecond(nanos).expect("in range"), direction: None, priority: Priority::Normal, traceparent: None,
        };
        prop_assert_eq!(decode_event(&stored(encode_event(&event))), Ok(event));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(value in proptest::collection::vec(any::<u8>(), 0..200), header in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut record = record(value, &[("ce_specversion", "1.0"), ("posthaste-delivery", "1")]);
        record.headers.push((Text::from_static("posthaste-origin"), header.into()));
        let _ = decode_delivery(&record);
        record.headers.clear();
        let _ = decode_event(&record);
    }
}
