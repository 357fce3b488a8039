//! What a webhook must be sent for an event, written down from WIRE.md and not taken from posthaste's own code.

use serde_json::{Value, json};

use super::events::{moment, number, time};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    ZenviaV2,
    ZenviaV1,
    Conversion,
    Default,
    ZApi,
    Chatwoot,
    /// Our own envelope, for endpoints of no product.
    Own,
}

/// The body of `event` for the webhook with this id.
pub fn body(format: Format, event: &Value, webhook: &str) -> Value {
    match format {
        Format::ZenviaV2 => zenvia(event, webhook, event["data"].clone()),
        Format::ZenviaV1 => zenvia(event, webhook, version_1(event["data"].clone())),
        Format::Conversion => json!({ "topic": event["type"], "eventTime": event["time"], "data": event["data"] }),
        Format::Default => hub(event),
        Format::ZApi => z_api(event),
        Format::Chatwoot => chatwoot(event),
        Format::Own => event.clone(),
    }
}

/// What an agent tells of a ticket event (1.11); the id is the ticket event's with the agent's.
pub fn agent(event: &Value, webhook: &str, agent: &str, external: &str) -> Value {
    json!({ "id": format!("{}:{agent}", event["id"].as_str().expect("an id")), "timestamp": event["time"], "type": "SUPPORT_EXPERT_AGENT",
        "subscriptionId": webhook, "ticket": { "id": event["data"]["ticket"]["id"] }, "expertAgent": { "id": agent, "externalId": external } })
}

/// 1.6 to 1.13: the envelope, and the members of the data beside it.
fn zenvia(event: &Value, webhook: &str, data: Value) -> Value {
    let mut body = json!({ "id": event["id"], "timestamp": event["time"], "type": event["type"], "subscriptionId": webhook });
    let has_channel = ["MESSAGE", "MESSAGE_STATUS"].iter().any(|kind| event["type"] == *kind);
    if has_channel {
        body["channel"] = event["channel"].clone();
    }
    if event["type"] == "MESSAGE" {
        body["direction"] = event["direction"].clone();
    }
    let Value::Object(members) = data else { panic!("{data}") };
    body.as_object_mut().expect("an object").extend(members);
    body
}

/// 1.14: visitor and location are contents of type `json`; a cause is a text.
fn version_1(mut data: Value) -> Value {
    if let Some(message) = data.get_mut("message").and_then(Value::as_object_mut)
        && let Some(visitor) = message.remove("visitor")
    {
        let contents = message["contents"].as_array_mut().expect("a list");
        for content in contents.iter_mut().filter(|content| content["type"] == "location") {
            let members = content.as_object_mut().expect("an object");
            members.remove("type");
            *content = json!({ "type": "json", "payload": { "location": content.take() } });
        }
        contents.insert(0, json!({ "type": "json", "payload": { "visitor": visitor } }));
    }
    if let Some(status) = data.get_mut("messageStatus").and_then(Value::as_object_mut)
        && let Some(causes) = status.remove("causes")
    {
        status.insert("cause".into(), causes[0]["reason"].clone());
    }
    data
}

/// 4.6, and row 12 of section 0.
fn hub(event: &Value) -> Value {
    match event["type"].as_str().expect("a type") {
        "UPDATE_TEMPLATE_STATUS" | "UPDATE_TEMPLATE_CATEGORY" => json!([event["data"]]),
        "MESSAGE_RECEIVED" | "MESSAGE_STATUS" | "MESSAGE_DELIVERY" => {
            json!({ "message": event["data"], "messageEventType": "NEW_MESSAGE" })
        }
        own => json!({ "message": event["data"], "messageEventType": own }),
    }
}

/// 3.2 and 3.3; `instanceId` is the channel (4.7).
fn z_api(event: &Value) -> Value {
    let (data, instance, n) = (&event["data"], &event["channel"], number(event));
    match event["type"].as_str().expect("a type") {
        "MESSAGE_RECEIVED" => {
            let mut body = json!({ "isStatusReply": false, "senderLid": null, "connectedPhone": "5544900000000", "waitingMessage": false,
                "isEdit": false, "isGroup": false, "isNewsletter": false, "instanceId": instance, "messageId": data["_id"],
                "phone": "5511999999999", "fromMe": false, "fromApi": false, "momment": moment(n), "status": "RECEIVED", "chatName": "Ana",
                "senderPhoto": null, "senderName": "Ana", "participantPhone": null, "participantLid": null, "photo": null, "broadcast": false,
                "forwarded": false, "type": "ReceivedCallback" });
            match data["attachments"].get(0) {
                None => body["text"] = json!({ "message": format!("Olá {n}") }),
                Some(image) => {
                    body["image"] = json!({ "mimeType": "image/jpeg", "imageUrl": image["url"], "thumbnailUrl": image["thumbnail_url"],
                        "downloadError": null, "caption": image["caption"], "viewOnce": false });
                }
            }
            body
        }
        "MESSAGE_STATUS" => json!({ "instanceId": instance, "status": "READ", "ids": [data["_id"]], "momment": moment(n), "phoneDevice": 0,
            "phone": "5511999999999", "type": "MessageStatusCallback", "isGroup": false }),
        "MESSAGE_DELIVERY" => json!({ "phone": "5511999999999", "zaapId": data["_id"], "messageId": data["_id"], "instanceId": instance,
            "momment": moment(n), "type": "DeliveryCallback" }),
        "CONNECTED" => json!({ "type": "ConnectedCallback", "connected": true, "momment": moment(n), "instanceId": instance,
            "phone": "5544900000000" }),
        "DISCONNECTED" => json!({ "momment": moment(n), "error": "Device has been disconnected", "disconnected": true,
            "type": "DisconnectedCallback", "instanceId": instance }),
        "PRESENCE_CHAT" => json!({ "type": "PresenceChatCallback", "phone": data["phone"], "status": "COMPOSING", "lastSeen": null,
            "instanceId": instance }),
        other => panic!("{other}"),
    }
}

/// The model of 4.8. The Hub has no numbers for inboxes, accounts and contacts: its own names stand there.
fn chatwoot(event: &Value) -> Value {
    let (data, inbox, n) = (&event["data"], &event["channel"], number(event));
    let mine = data["metadata"]["from_me"] == true;
    let name = if event["type"] == "MESSAGE_RECEIVED" { "message_created" } else { "message_updated" };
    let contact = "5511999999999";
    let image = data["attachments"].get(0);
    let content = image.map_or_else(|| json!(format!("Olá {n}")), |image| image["caption"].clone());
    let mut body = json!({ "event": name, "id": data["_id"], "content": content, "created_at": time(n).replace('T', " ").replace('Z', " UTC"),
        "message_type": if mine { "outgoing" } else { "incoming" }, "content_type": "text", "content_attributes": {}, "source_id": data["_id"],
        "sender": { "id": data["sender"]["identifier"], "name": data["sender"]["name"], "type": if mine { "user" } else { "contact" } },
        "inbox": { "id": inbox, "name": inbox }, "account": { "id": event["tenant"], "name": event["tenant"] },
        "conversation": { "id": contact, "status": "open", "channel": "Channel::Whatsapp", "inbox_id": inbox, "can_reply": true,
            "contact_inbox": { "id": contact, "contact_id": contact, "inbox_id": inbox, "source_id": contact }, "additional_attributes": {} } });
    if name == "message_updated" {
        body["status"] = json!(if event["type"] == "MESSAGE_STATUS" { "read" } else { "sent" });
    }
    if let Some(image) = image {
        body["attachments"] = json!([{ "file_type": "image", "data_url": image["url"], "thumb_url": image["thumbnail_url"] }]);
    }
    body
}
