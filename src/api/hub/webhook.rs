//! The documents: a webhook as it is asked for and as it is shown (WIRE.md 4.2, 4.4).

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{model::json::object, registry::spec::SecretText};

/// A webhook as a client writes it. In a change, what is absent stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = HubWebhookSpec)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookSpec {
    /// http or https, at most 2,048 characters; required at creation.
    #[schema(example = "https://app.example.com/hook", max_length = 2048)]
    pub url: Option<String>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
    /// At least one; required at creation. A change replaces the list. Channel webhooks: `MESSAGE_RECEIVED`, `MESSAGE_DELIVERY`, `MESSAGE_STATUS`,
    /// `RECEIVED_STATUS` (received and status), `RECEIVED_AND_DELIVERY`, `CONNECTED`, `DISCONNECTED`, `PRESENCE_CHAT`, `INITIAL_DATA`, `BLOCK`;
    /// template webhooks: `UPDATE_TEMPLATE_STATUS`, `UPDATE_TEMPLATE_CATEGORY`.
    #[schema(min_items = 1)]
    pub events: Option<Vec<String>>,
    /// `ENABLED` or `DISABLED`; a webhook is created `ENABLED`.
    #[schema(example = "ENABLED")]
    pub status: Option<String>,
    /// true: requests are signed with a new secret, which the answer shows once; false: they are not signed any more.
    pub signing: Option<bool>,
    /// Made by `signing`, never taken: null is what an unsigned webhook shows.
    #[schema(value_type = Option<String>)]
    pub secret: Option<SecretText>,
    #[serde(deserialize_with = "object")]
    pub auth: Option<WebhookAuth>,
    /// `DEFAULT`, `Z_API` or `CHATWOOT`. Template webhooks store `CHATWOOT` as `DEFAULT`.
    #[schema(example = "DEFAULT")]
    pub payload_format: Option<String>,
    /// Kept and shown again.
    #[schema(value_type = Option<Object>)]
    pub custom_attributes: Option<Map<String, Value>>,
    /// Template routes only: `type` of `auth`.
    pub auth_type: Option<String>,
    /// Template routes only: `token` of `auth`.
    pub token: Option<SecretText>,
    /// Template routes only: `key` of `auth`.
    pub key: Option<SecretText>,
}

/// How the receiver is shown who we are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = HubWebhookAuth)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookAuth {
    /// `NONE`, `BEARER` (`token`), `API_KEY` (`key`, sent as `X-API-Key`), `BASIC` (`username`, `password`) or `CUSTOM_HEADER` (`headerName`, `headerValue`).
    #[serde(rename = "type")]
    #[schema(example = "BEARER")]
    pub kind: Option<String>,
    pub token: Option<SecretText>,
    pub key: Option<SecretText>,
    pub username: Option<String>,
    pub password: Option<SecretText>,
    pub header_name: Option<String>,
    pub header_value: Option<SecretText>,
}

/// Null is something else than nothing.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A webhook as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubWebhook)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    #[schema(example = "A1B2C3D4E5F6789012345678901234AB")]
    pub id: String,
    /// Null for template webhooks.
    #[schema(example = "019E4C54B1B375A28970B605CA9B03C3")]
    pub channel_id: Option<String>,
    /// The same as `channelId`.
    #[schema(example = "019E4C54B1B375A28970B605CA9B03C3")]
    pub instance_id: Option<String>,
    #[schema(example = "https://app.example.com/hook")]
    pub url: String,
    pub description: Option<String>,
    pub events: Vec<String>,
    /// `ENABLED`, or `DISABLED`: by a person, or because the receiver failed for too long. `ENABLED` brings it back in either case.
    #[schema(example = "ENABLED")]
    pub status: &'static str,
    pub signing: bool,
    /// 64 hexadecimal characters, in the answer that made it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Option<SecretText>>,
    pub auth: ShownAuth,
    #[schema(example = "DEFAULT")]
    pub payload_format: String,
    #[schema(value_type = Object)]
    pub custom_attributes: Map<String, Value>,
    #[schema(example = "2025-01-15T10:30:00.000+0000")]
    pub created_at: String,
    #[schema(example = "2025-01-15T10:30:00.000+0000")]
    pub updated_at: String,
}

/// Credentials are never shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubShownAuth)]
pub struct ShownAuth {
    #[serde(rename = "type")]
    #[schema(example = "BEARER")]
    pub kind: String,
    /// Whether there are credentials.
    pub configured: bool,
}
