//! The events of the run: every kind of the three products in turn, with the bodies of WIRE.md; row 19 of its section 0 says what is in `data`.

use serde_json::{Value, json};

/// A channel of the Hub, and another one.
pub const CHANNEL: &str = "019E4C54B1B375A28970B605CA9B03C3";
pub const SECOND: &str = "019E4C54B1B375A28970B605CA9B03C4";

/// How many kinds there are. Prime to ten, so that every kind occurs in both tenants.
const KINDS: usize = 23;

/// When event 0 happened, ms: 2026-01-15T12:00:00Z. Every event happened a second after the one before.
const START: u64 = 1_768_478_400_000;

/// Event `n`. Every tenth is one of another tenant, otherwise alike.
pub fn event(n: usize) -> Value {
    let round = n / KINDS;
    let (kind, channel, direction, data) = match n % KINDS {
        0 => ("MESSAGE", "whatsapp", "IN", message(n, "whatsapp", "IN", json!([{ "type": "text", "text": "Olá, \"você\"\n" }]))),
        1 => (
            "MESSAGE",
            "whatsapp",
            "OUT",
            message(n, "whatsapp", "OUT", json!([{ "type": "template", "templateId": "t-1", "fields": { "a": 1.50 } }])),
        ),
        2 => (
            "MESSAGE",
            "telegram",
            "IN",
            message(
                n,
                "telegram",
                "IN",
                json!([{ "type": "text", "text": "Oi" }, { "type": "location", "longitude": -46.63, "latitude": -23.54 }]),
            ),
        ),
        3 => ("MESSAGE", "sms", "IN", message(n, "sms", "IN", json!([{ "type": "text", "text": "Oi" }]))),
        4 => ("MESSAGE_STATUS", "sms", "OUT", status(n)),
        5 => ("CONVERSATION_STATUS", "whatsapp", "", conversation(n)),
        6 => ("CONVERSATION_MESSAGE", "whatsapp", "IN", conversation_message(n, "IN")),
        7 => ("CONVERSATION_MESSAGE", "whatsapp", "INTERNAL", conversation_message(n, "INTERNAL")),
        8 => ("CONTACT", "crm", "", contact(n, ["CREATED", "DELETED", "UPDATED"][round % 3])),
        9 => (
            ["ticket.opened", "ticket.updated"][round % 2],
            "support",
            "",
            json!({ "ticket": { "id": format!("ticket-{n}"), "vip": round.is_multiple_of(3) } }),
        ),
        10 => (
            "lead.created",
            "crm",
            "",
            json!({ "leadId": n.to_string(), "name": "Ana", "email": "ana@example.com", "phone": "+5511999999999" }),
        ),
        11 => (
            "quote.updated",
            "crm",
            "",
            json!({ "quoteId": format!("q-{n}"), "prospectId": "6596d624", "status": "accepted", "total": 10.5,
                "items": [{ "quantity": 2, "price": 5.25, "concept": "Peça" }], "createdAt": "2026-01-15T11:00:00Z" }),
        ),
        12 => (
            "interaction.resolved",
            "crm",
            "",
            json!({ "interactionId": format!("i-{n}"), "prospectId": "6596d624", "agentId": "a-1", "status": "finished", "via": "whatsApp" }),
        ),
        13 => ("agent.updated", "crm", "", json!({ "id": format!("a-{n}"), "firstName": "Bia", "email": "bia@example.com" })),
        14 => ("order.created", "shop", "", json!({ "n": n, "total": round })),
        15 => ("MESSAGE_RECEIVED", CHANNEL, "IN", hub_text(n, CHANNEL, false, "PENDING")),
        16 => ("MESSAGE_RECEIVED", CHANNEL, "IN", hub_image(n)),
        17 => ("MESSAGE_STATUS", CHANNEL, "OUT", hub_text(n, CHANNEL, true, "READ")),
        18 => ("MESSAGE_DELIVERY", CHANNEL, "OUT", hub_text(n, CHANNEL, true, "SENT")),
        19 => {
            let (kind, data) = small(n, round);
            (kind, CHANNEL, "", data)
        }
        20 => ("UPDATE_TEMPLATE_STATUS", "845974408299669", "", template(n)),
        21 => ("UPDATE_TEMPLATE_CATEGORY", "845974408299669", "", template_category(n)),
        _ => ("MESSAGE_RECEIVED", SECOND, "IN", hub_text(n, SECOND, false, "PENDING")),
    };
    let mut event =
        json!({ "id": format!("event-{n}"), "type": kind, "channel": channel, "time": time(n), "tenant": tenant(n), "data": data });
    if !direction.is_empty() {
        event["direction"] = json!(direction);
    }
    event
}

fn tenant(n: usize) -> &'static str {
    if n % 10 == 9 { "rival" } else { "acme" }
}

pub fn time(n: usize) -> String {
    format!("2026-01-15T{:02}:{:02}:{:02}Z", 12 + n / 3600, n / 60 % 60, n % 60)
}

/// The number of an event.
pub fn number(event: &Value) -> usize {
    event["id"].as_str().and_then(|id| id.strip_prefix("event-")?.parse().ok()).expect("our id")
}

/// When it happened, ms.
pub fn moment(n: usize) -> u64 {
    START + 1000 * n as u64
}

fn message(n: usize, channel: &str, direction: &str, contents: Value) -> Value {
    json!({ "message": { "id": format!("m-{n}"), "from": "5511999999999", "to": "5511888888888", "direction": direction, "channel": channel,
        "visitor": { "name": "Ana Souza", "firstName": "Ana", "lastName": "Souza" }, "contents": contents, "idRef": "m-0", "timestamp": time(n) } })
}

fn status(n: usize) -> Value {
    json!({ "messageId": format!("m-{n}"), "contentIndex": 0,
        "message": { "id": format!("m-{n}"), "externalId": "order-17", "contentIndex": 0, "direction": "OUT", "from": "acme", "to": "5511999999999" },
        "messageStatus": { "code": "NOT_DELIVERED", "timestamp": time(n), "channel": "sms", "direction": "OUT",
            "description": "The provider was unable to deliver the message",
            "causes": [{ "channelErrorCode": "471", "reason": "Invalid number", "details": "não existe" }],
            "channelData": { "sms": { "carrier": "VIVO_BR" } } } })
}

fn conversation(n: usize) -> Value {
    json!({ "conversation": { "id": format!("c-{n}"), "status": "CONVERSATION_CLOSED", "statusTimestamp": time(n), "channel": "whatsapp",
        "from": "5521999990000", "to": "551150000000", "contactId": "876e9b09", "groupId": "65eb71c8", "createdAt": "2026-01-15T11:00:00.000Z",
        "closedBy": { "id": "6786977532d0", "type": "USER" }, "closeReason": { "key": "notInterested", "name": "No Longer Interested" } } })
}

fn conversation_message(n: usize, direction: &str) -> Value {
    json!({ "message": { "id": format!("m-{n}"), "from": "5511999999999", "to": "acme", "direction": direction,
        "channel": { "type": "whatsapp", "provider": "meta" }, "contents": [{ "type": "text", "text": "Oi" }], "timestamp": time(n) },
        "conversation": { "id": "685c", "contactId": "876e" } })
}

fn contact(n: usize, action: &str) -> Value {
    json!({ "action": action, "contact": { "id": format!("ct-{n}"), "channels": { "mobile": "5511999999999" }, "firstName": "Ana",
        "lastName": "Souza", "createdAt": time(n), "updatedAt": time(n) } })
}

/// A message of WIRE.md 4.6 with nothing in it. `mine`: sent from the channel's own number.
fn hub_message(n: usize, channel: &str, mine: bool) -> Value {
    let (contact, own) =
        (json!({ "identifier": "5511999999999", "name": "Ana" }), json!({ "identifier": "5544900000000", "name": "acme" }));
    let (sender, recipient) = if mine { (own, contact) } else { (contact, own) };
    json!({ "_id": format!("019E6F1A93FE78DCB54332F9{n:08X}"), "tenant": "019DCEB3", "tenant_owner": "owner@example.com", "channel_id": channel,
        "created_by": "BARLING", "created": moment(n),
        "metadata": { "@class": ".Metadata", "forwarded": false, "from_api": mine, "from_me": mine, "middleware": "META_WHATSAPP", "moment": moment(n) },
        "sender": sender, "recipient": recipient, "contents": [], "attachments": [], "actions": [], "webhook_processed": false })
}

fn hub_text(n: usize, channel: &str, mine: bool, state: &str) -> Value {
    let mut message = hub_message(n, channel, mine);
    message["contents"] = json!([{ "@class": ".TextContent", "identifier": "019E-P", "internal_information": {}, "message": format!("Olá {n}"),
        "type": "TEXT", "state_items": state_items(n, state) }]);
    message
}

/// More than 1,024 bytes in every format.
fn hub_image(n: usize) -> Value {
    let mut message = hub_message(n, CHANNEL, false);
    message["attachments"] = json!([{ "@class": ".ImageAttachment", "identifier": "019E-A", "internal_information": {}, "type": "IMAGE",
        "url": "https://media.example.com/files/a.jpg", "thumbnail_url": "https://media.example.com/files/t.jpg",
        "caption": "Férias ".repeat(200), "state_items": state_items(n, "PENDING") }]);
    message
}

fn state_items(n: usize, state: &str) -> Value {
    json!([{ "@class": ".StateItem", "identifier": "019E-S", "integration_message_ids": [], "moment": moment(n),
        "state": { "@class": ".State", "name": state } }])
}

/// The events of a channel that are no messages.
fn small(n: usize, round: usize) -> (&'static str, Value) {
    match round % 5 {
        0 => ("CONNECTED", json!({ "phone": "5544900000000", "moment": moment(n) })),
        1 => ("DISCONNECTED", json!({ "error": "Device has been disconnected", "moment": moment(n) })),
        2 => ("PRESENCE_CHAT", json!({ "phone": format!("55119{n:08}"), "status": "COMPOSING", "lastSeen": null })),
        3 => ("INITIAL_DATA", json!({ "chats": n })),
        _ => ("BLOCK", json!({ "blocked": n })),
    }
}

fn template(n: usize) -> Value {
    json!({ "field": "message_template_status_update", "identifier": format!("{n:032X}"), "type": "TEMPLATE_STATUS",
        "value": { "event": "APPROVED", "message_template_category": "UTILITY", "message_template_id": "1587155656151346",
            "message_template_language": "pt_BR", "message_template_name": "exemplo", "reason": "NONE" }, "waba_id": "845974408299669" })
}

fn template_category(n: usize) -> Value {
    json!({ "field": "template_category_update", "identifier": format!("{n:032X}"), "type": "TEMPLATE_CATEGORY_UPDATE",
        "value": { "category_update_timestamp": 1_768_478_400, "correct_category": "MARKETING", "message_template_id": "1587155656151346",
            "message_template_language": "pt_BR", "message_template_name": "exemplo", "new_category": "MARKETING", "previous_category": "UTILITY" },
        "waba_id": "845974408299669" })
}
