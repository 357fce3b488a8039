//! Support expert agents: somebody who watches the tickets of a tenant, and what is done when one meets his condition (WIRE.md 0.15, 1.11).
//!
//! An agent listens like an endpoint does: [`Agent::listener`] stands for it in the route table, so that its events are found by the same
//! look-up and cost nobody else anything. No request ever goes there: what reaches it is turned into a delivery to the agent's endpoint.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Auth, Endpoint, EndpointUrl, Event, Format, Priority, Signing, Status, Text, Timestamp, TypePattern};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub id: Text,
    pub tenant: Text,
    pub name: String,
    /// `expertAgent.externalId` of what is sent; the id where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The expression over ticket events.
    pub condition: Text,
    /// The endpoint that hears of it.
    pub endpoint: Text,
    /// Why it does not watch any more, until its condition is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Text>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Agent {
    /// What ids of listeners begin with; no endpoint's id has a colon.
    const LISTENER: &str = "agent:";

    /// Agents look at events of these types.
    pub const TICKETS: &str = "ticket.";

    /// The type of what is sent.
    pub const SENT: &str = "SUPPORT_EXPERT_AGENT";

    /// `suspended` of one whose condition takes too many steps.
    pub const TOO_SLOW: &str = "condition_too_slow";

    /// The agent whose listener has this id.
    pub fn of_listener(endpoint: &str) -> Option<&str> {
        endpoint.strip_prefix(Agent::LISTENER)
    }

    pub fn listener_id(id: &str) -> Text {
        Text::from(format!("{}{id}", Agent::LISTENER))
    }

    /// What stands for it in the route table; nothing while it is suspended.
    pub fn listener(&self, registry_offset: i64) -> Option<Endpoint> {
        if self.suspended.is_some() {
            return None;
        }
        Some(Endpoint {
            id: Agent::listener_id(&self.id),
            tenant: self.tenant.clone(),
            url: EndpointUrl::parse("http://agent.invalid/").expect("a URL"),
            description: None,
            channels: Vec::new(),
            types: vec![TypePattern::Prefix(Text::from_static(Agent::TICKETS))],
            direction: None,
            filter: Some(self.condition.clone()),
            format: Format::Standard,
            signing: Signing::None,
            auth: Auth::None,
            tls: None,
            headers: Vec::new(),
            rate: None,
            concurrency: None,
            retry: None,
            status: Status::Enabled,
            attributes: None,
            created_at: self.created_at,
            updated_at: self.updated_at,
            registry_offset,
        })
    }

    /// The event that tells of a ticket event that has met the condition. Its id is made of both, so that doubles collapse.
    pub fn tells(&self, event: &Event) -> Event {
        let external = self.external_id.as_deref().unwrap_or(&self.id);
        let ticket = ticket_of(event);
        let data = serde_json::json!({ "ticket": { "id": ticket }, "expertAgent": { "id": self.id, "externalId": external } });
        Event {
            id: Event::made_id(format!("{}:{}", event.id, self.id)),
            kind: Text::from_static(Agent::SENT),
            channel: event.channel.clone(),
            direction: None,
            time: event.time,
            tenant: self.tenant.clone(),
            subject: Some(ticket),
            priority: Priority::Normal,
            traceparent: event.traceparent.clone(),
            data: Bytes::from(data.to_string()),
        }
    }
}

/// The id of the ticket that an event is about: `data.ticket.id` (a text that can be a subject, or a number), else the event's subject, else the event's own id.
pub fn ticket_of(event: &Event) -> Text {
    #[derive(Deserialize)]
    struct Data {
        ticket: Ticket,
    }
    #[derive(Deserialize)]
    struct Ticket {
        id: Id,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(serde_json::Number),
    }
    match serde_json::from_slice(&event.data) {
        Ok(Data { ticket: Ticket { id: Id::Text(id) } }) if Event::is_subject(&id) => id.into(),
        Ok(Data { ticket: Ticket { id: Id::Number(id) } }) => id.to_string().into(),
        Ok(_) | Err(_) => event.subject.clone().unwrap_or_else(|| event.id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: Option<&str>, data: &str) -> Event {
        Event {
            id: "e1".into(),
            kind: "ticket.opened".into(),
            channel: "support".into(),
            direction: None,
            time: Timestamp::UNIX_EPOCH,
            tenant: "default".into(),
            subject: subject.map(Text::from),
            priority: Priority::Normal,
            traceparent: None,
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    #[test]
    fn the_ticket_is_that_of_the_data_or_else_the_subject() {
        for (subject, data, ticket) in [
            (None, r#"{"ticket":{"id":"T1","open":true}}"#, "T1"),
            (Some("S"), r#"{"ticket":{"id":1846867}}"#, "1846867"),
            (Some("S"), r#"{"ticket":{"id":""}}"#, "S"),
            (Some("S"), r#"{"ticket":{"id":"T\n1"}}"#, "S"),
            (Some("S"), r#"{"ticket":7}"#, "S"),
            (Some("S"), "[]", "S"),
            (None, "{}", "e1"),
        ] {
            assert_eq!(ticket_of(&event(subject, data)), ticket, "{subject:?} {data}");
        }
    }

    #[test]
    fn what_is_told_is_the_same_each_time_and_names_ticket_and_agent() {
        let agent = Agent {
            id: "ag1".into(),
            tenant: "default".into(),
            name: "VIP".into(),
            external_id: Some("184".into()),
            condition: "true".into(),
            endpoint: "ep".into(),
            suspended: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let told = agent.tells(&event(None, r#"{"ticket":{"id":"T1"}}"#));
        assert_eq!((&*told.id, &*told.kind, told.subject.as_deref()), ("e1:ag1", "SUPPORT_EXPERT_AGENT", Some("T1")));
        let long = Event { id: "e".repeat(Event::NAME_LIMIT).into(), ..event(None, "{}") };
        let (once, again, other) =
            (agent.tells(&long).id, agent.tells(&long).id, Agent { id: "ag2".into(), ..agent.clone() }.tells(&long).id);
        assert!(once == again && once != other && once.len() <= Event::NAME_LIMIT, "{once} {again} {other}");
        let data: serde_json::Value = serde_json::from_slice(&told.data).expect("JSON");
        assert_eq!(data, serde_json::json!({"ticket": {"id": "T1"}, "expertAgent": {"id": "ag1", "externalId": "184"}}));
        let listener = agent.listener(3).expect("it watches");
        assert_eq!((Agent::of_listener(&listener.id), listener.registry_offset), (Some("ag1"), 3));
        assert!(Agent { suspended: Some(Agent::TOO_SLOW.into()), ..agent }.listener(3).is_none());
    }
}
