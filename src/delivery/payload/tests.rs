//! Every format against its cases, `tests/cases/payload/<format>.json`: an event as a producer writes it, the id of the endpoint, and the
//! body that WIRE.md asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::{
    log::record::event_from_json,
    model::{Text, time::timestamp_from_ms},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    endpoint: String,
    event: Value,
    body: Value,
}

/// The cases of a format, by its name; a format without any is an error.
fn cases(format: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/payload").join(format!("{format}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn event(json: &Value) -> Event {
    event_from_json(&Text::from(json.to_string()), timestamp_from_ms(0), &Text::from_static(Event::DEFAULT_TENANT)).expect("an event")
}

fn value(format: Format, event: &Event, endpoint: &str) -> Value {
    let body = body(format, event, endpoint);
    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
}

#[test]
fn bodies_are_what_the_products_send() {
    let mut wrong = Vec::new();
    for (name, format) in Format::ALL {
        for case in cases(name) {
            let body = value(format, &event(&case.event), &case.endpoint);
            if body != case.body {
                wrong.push(format!("{name}: {}\n  expected {}\n  is       {body}", case.name, case.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What WIRE.md lists must be among the cases: event types (1.6 to 1.12, 2.1, 4.3), contents types (1.13), channels (1.3), statuses (1.8, 1.9) and
/// the Hub's parts (4.6, section 0, row 14).
#[test]
fn cases_cover_what_the_wire_facts_list() {
    const CONTENTS: &str = "text file location contacts email product_list_order flow_response optin_response unsupported json template card \
         carousel replyable_text button list product product_list order_details order_status flow contact_request call";
    const CHANNELS: &str = "sms whatsapp facebook rcs instagram telegram gbm email voice";
    const ZENVIA: &str = "MESSAGE MESSAGE_STATUS CONVERSATION_STATUS CONVERSATION_MESSAGE SUPPORT_EXPERT_AGENT CONTACT";
    const CODES: &str = "SENT REJECTED DELIVERED NOT_DELIVERED READ DELETED CLICKED VERIFIED ACCEPTED HANG_UP TERMINATED RECORDED";
    const CONVERSATIONS: &str = "CONVERSATION_CREATED CONVERSATION_STARTED CONVERSATION_QUEUED CONVERSATION_DISTRIBUTED_TO_USER \
         CONVERSATION_CLAIMED CONVERSATION_SNOOZED CONVERSATION_TRANSFERRED CONVERSATION_CLOSED";
    const HUB: &str = "MESSAGE_RECEIVED MESSAGE_DELIVERY MESSAGE_STATUS RECEIVED_STATUS RECEIVED_AND_DELIVERY CONNECTED DISCONNECTED \
         PRESENCE_CHAT INITIAL_DATA BLOCK UPDATE_TEMPLATE_STATUS UPDATE_TEMPLATE_CATEGORY";
    const PARTS: &str = "TEXT IMAGE AUDIO VIDEO DOCUMENT STICKER LOCATION CONTACT_ARRAY INTERACTIVE_BUTTON INTERACTIVE_ACTION";
    const CALLBACKS: &str =
        "ReceivedCallback DeliveryCallback MessageStatusCallback ConnectedCallback DisconnectedCallback PresenceChatCallback";
    let expected: BTreeMap<(&str, &str), &str> = [
        (("zenvia", "/event/type"), ZENVIA),
        (("zenvia", "/event/channel"), CHANNELS),
        (("zenvia", "/body/message/contents/*/type"), CONTENTS),
        (("zenvia", "/body/messageStatus/code"), CODES),
        (("zenvia", "/body/conversation/status"), CONVERSATIONS),
        (("zenvia_v1", "/event/type"), ZENVIA),
        (("zenvia_v1", "/event/channel"), CHANNELS),
        (("zenvia_v1", "/event/data/message/contents/*/type"), CONTENTS),
        (("zenvia_v1", "/body/messageStatus/code"), CODES),
        (("conversion", "/event/type"), "lead.created quote.updated interaction.resolved"),
        (("hub", "/event/type"), HUB),
        (("hub", "/body/message/*/*/type"), PARTS),
        (("hub", "/body/*/type"), "TEMPLATE_STATUS TEMPLATE_CATEGORY_UPDATE"),
        (("z_api", "/event/type"), HUB),
        (("z_api", "/event/data/contents/*/type"), "TEXT LOCATION CONTACT_ARRAY INTERACTIVE_BUTTON INTERACTIVE_ACTION"),
        (("z_api", "/event/data/attachments/*/type"), "IMAGE AUDIO VIDEO DOCUMENT STICKER"),
        (("z_api", "/body/type"), CALLBACKS),
        (("z_api", "/body/status"), "PENDING SENT RECEIVED READ READ_BY_ME PLAYED UNAVAILABLE AVAILABLE COMPOSING PAUSED RECORDING"),
        (("chatwoot", "/event/type"), HUB),
        (("chatwoot", "/event/data/*/*/type"), PARTS),
        (("chatwoot", "/body/content_type"), "text input_select cards"),
    ]
    .into();
    for ((format, pointer), words) in expected {
        let mut found = BTreeSet::new();
        for case in cases(format) {
            let whole = serde_json::json!({"event": case.event, "body": case.body});
            collect(&whole, &pointer.split('/').skip(1).collect::<Vec<_>>(), &mut found);
        }
        let missing: Vec<&str> = words.split_whitespace().filter(|word| !found.contains(*word)).collect();
        assert!(missing.is_empty(), "{format} {pointer}: no case for {missing:?}");
    }
}

/// The texts at `path`, where `*` is every element or member.
fn collect(value: &Value, path: &[&str], into: &mut BTreeSet<String>) {
    let Some((first, rest)) = path.split_first() else {
        into.extend(value.as_str().map(str::to_owned));
        return;
    };
    match value {
        Value::Array(elements) if *first == "*" => elements.iter().for_each(|element| collect(element, rest, into)),
        Value::Object(members) if *first == "*" => members.values().for_each(|member| collect(member, rest, into)),
        Value::Object(members) => members.get(*first).into_iter().for_each(|member| collect(member, rest, into)),
        _ => {}
    }
}

/// Numbers, escapes, white space and the order of members stay as the producer wrote them, also beside what a format changes.
#[test]
fn data_goes_out_byte_by_byte() {
    const DATA: &str = r#"{ "z": 12345678901234567890.000,  "a":"é\u0041" }"#;
    let with = |kind: &str, data: String| Event {
        kind: kind.into(),
        data: data.into(),
        ..event(&serde_json::json!({"type": "x", "channel": "c", "data": 1}))
    };
    for (name, format) in Format::ALL {
        let body = body(format, &with("x", DATA.to_owned()), "e");
        assert!(std::str::from_utf8(&body).expect("UTF-8").contains(DATA), "{name}");
    }
    let members = format!(r#"{{"message":{DATA}}}"#);
    let body = body(Format::Zenvia, &with("MESSAGE", members), "e");
    assert!(std::str::from_utf8(&body).expect("UTF-8").ends_with(&format!(r#","message":{DATA}}}"#)));
    let members = format!(r#"{{"message":{{"visitor":{DATA},"y":{DATA},"contents":[{DATA}]}},"w":{DATA}}}"#);
    let body = super::body(Format::ZenviaV1, &with("MESSAGE", members), "e");
    assert_eq!(std::str::from_utf8(&body).expect("UTF-8").matches(DATA).count(), 4);
}

#[test]
fn the_envelope_of_zenvia_comes_first_and_in_its_order() {
    let event = event(&serde_json::json!({"id": "9c0f", "type": "MESSAGE", "channel": "whatsapp", "direction": "IN",
        "time": "2026-01-15T12:00:00Z", "data": {"message": {"id": "m-1"}}}));
    assert_eq!(
        body(Format::Zenvia, &event, "d1f6"),
        r#"{"id":"9c0f","timestamp":"2026-01-15T12:00:00Z","type":"MESSAGE","subscriptionId":"d1f6","channel":"whatsapp","direction":"IN","message":{"id":"m-1"}}"#
    );
}

/// Any JSON, often with names that the formats look for.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("TEXT"),
        Just("IMAGE"),
        Just("CONTACT_ARRAY"),
        Just("INTERACTIVE_ACTION"),
        Just("location"),
        Just("READ"),
        Just("a \"b\"\n\u{0}\\"),
        Just("")
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let name = prop::sample::select(vec![
        "message",
        "messageStatus",
        "visitor",
        "contents",
        "attachments",
        "type",
        "causes",
        "reason",
        "metadata",
        "moment",
        "created",
        "sender",
        "recipient",
        "identifier",
        "name",
        "state_items",
        "state",
        "url",
        "caption",
        "buttons",
        "contacts",
        "phones",
        "status",
        "from_me",
        "longitude",
        "phone",
        "_id",
        "header",
        "é \"",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

proptest! {
    /// A payload is never an error, whatever its data is and whatever format it meets.
    #[test]
    fn every_body_is_json(
        data in json(),
        kind in prop::sample::select(vec![
            "MESSAGE", "MESSAGE_STATUS", "MESSAGE_RECEIVED", "MESSAGE_DELIVERY", "PRESENCE_CHAT", "CONNECTED", "DISCONNECTED",
            "UPDATE_TEMPLATE_STATUS", "lead.created",
        ]),
    ) {
        let event = event(&serde_json::json!({"id": "e", "type": kind, "channel": "c", "data": data}));
        for (_, format) in Format::ALL {
            value(format, &event, "e");
        }
    }
}
