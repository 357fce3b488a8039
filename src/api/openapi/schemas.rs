//! What the types and routes of the code do not say: names of operations that are each its own, the words that a field can be, and that a merge patch may
//! hold null.

use serde_json::{Map, Value, json};

const ZENVIA_TYPES: &[&str] =
    &["MESSAGE", "MESSAGE_STATUS", "CONVERSATION_STATUS", "CONVERSATION_MESSAGE", "SUPPORT_EXPERT_AGENT", "CONTACT"];

/// Fields that hold one of a few words: schema, field, words. They are text in the code, so that all that is wrong with a document can be told at once.
/// `tests/api-fuzz` finds a word that is missing here or is none.
const CLOSED: &[(&str, &str, &[&str])] = &[
    ("EndpointSpec", "direction", &["IN", "OUT", "INTERNAL"]),
    ("EndpointSpec", "format", &["standard", "cloudevents", "hub", "z_api", "chatwoot", "zenvia", "zenvia_v1", "conversion"]),
    ("EndpointSpec", "signing", &["standard", "hub", "none"]),
    ("EndpointSpec", "status", &["enabled", "disabled"]),
    ("AuthSpec", "type", &["none", "bearer", "api_key", "basic", "custom_header", "oauth2"]),
    ("AuthView", "type", &["none", "bearer", "api_key", "basic", "custom_header", "oauth2"]),
    ("EndpointView", "direction", &["IN", "OUT", "INTERNAL"]),
    ("EndpointView", "format", &["standard", "cloudevents", "hub", "z_api", "chatwoot", "zenvia", "zenvia_v1", "conversion"]),
    ("EndpointView", "signing", &["standard", "hub", "none"]),
    ("EndpointView", "status", &["enabled", "disabled"]),
    ("HealthView", "state", &["active", "degraded", "inactive"]),
    ("EventDocument", "direction", &["IN", "OUT", "INTERNAL"]),
    ("EventDocument", "priority", &["high", "normal", "low"]),
    ("NewToken", "role", &["viewer", "developer", "admin"]),
    ("TokenView", "role", &["viewer", "developer", "admin"]),
    ("NewToken", "kind", &["standard", "signature"]),
    ("TokenView", "kind", &["standard", "signature"]),
    ("AgentView", "state", &["watching", "suspended"]),
    ("ZenviaNewSubscription", "eventType", ZENVIA_TYPES),
    ("ZenviaNewSubscription", "status", &["ACTIVE", "INACTIVE"]),
    ("ZenviaNewSubscription", "version", &["v1", "v2"]),
    ("ZenviaSubscriptionPatch", "status", &["ACTIVE", "INACTIVE"]),
    ("ZenviaSubscription", "status", &["ACTIVE", "DEGRADED", "INACTIVE"]),
    ("ZenviaSubscription", "version", &["v1", "v2"]),
    ("ReplayView", "state", &["running", "done", "cancelled", "failed"]),
    ("HubWebhookSpec", "status", &["ENABLED", "DISABLED"]),
    ("HubWebhook", "status", &["ENABLED", "DISABLED"]),
    ("HubWebhookSpec", "payloadFormat", &["DEFAULT", "Z_API", "CHATWOOT"]),
    ("HubWebhook", "payloadFormat", &["DEFAULT", "Z_API", "CHATWOOT"]),
    ("HubWebhookAuth", "type", &["NONE", "BEARER", "API_KEY", "BASIC", "CUSTOM_HEADER"]),
    ("HubShownAuth", "type", &["NONE", "BEARER", "API_KEY", "BASIC", "CUSTOM_HEADER"]),
];

/// Documents that a merge patch changes, with what the patch of each is called.
const PATCHES: &[(&str, &str)] = &[("EndpointSpec", "EndpointPatch"), ("AuthSpec", "AuthPatch"), ("TlsSpec", "TlsPatch")];

/// Names the operations, and makes the schemas of documents that no type stands for.
pub fn complete(document: &mut Value) {
    for (path, operations) in document["paths"].as_object_mut().expect("a document has paths") {
        for (method, operation) in operations.as_object_mut().expect("a path has operations") {
            name(path, operation);
            // No body stands for `{}`, which changes nothing.
            if method == "patch" {
                operation["requestBody"]["required"] = false.into();
            }
        }
    }
    let schemas = document["components"]["schemas"].as_object_mut().expect("a document has schemas");
    for (name, schema) in schemas.iter_mut() {
        if let Some(item) = name.strip_prefix("Page_") {
            // Written out by the macro, beside the schema that it is.
            schema["properties"]["items"]["items"] = reference(item);
        }
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for property in properties.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
            // That nothing stands for what is absent goes without saying, and where the field is required it is wrong.
            property
                .remove_entry("default")
                .filter(|(_, value)| *value != Value::Null && *value != "")
                .map(|(key, value)| property.insert(key, value));
        }
    }
    for (schema, field, words) in CLOSED {
        let property = schemas[*schema]["properties"].get_mut(*field).and_then(Value::as_object_mut);
        let property = property.unwrap_or_else(|| panic!("{schema} has the field {field}"));
        let null = property.get("type").and_then(Value::as_array).map(|_| Value::Null);
        property.insert("enum".to_owned(), words.iter().map(|word| json!(word)).chain(null).collect());
    }
    for (spec, patch) in PATCHES {
        let patched = merge_patch(&schemas[*spec]);
        schemas.insert((*patch).to_owned(), patched);
    }
    let operation = &mut document["paths"]["/v1/endpoints/{id}"]["patch"];
    operation["requestBody"]["content"]["application/json"]["schema"] = reference("EndpointPatch");
}

/// Puts the thing before the verb, which is the name of the handler: `endpoints_list`. Those of products are whole as they are.
fn name(path: &str, operation: &mut Value) {
    let verb = operation["operationId"].as_str().expect("every operation has the name of its handler");
    let thing = path.split('/').nth(2).unwrap_or_default().replace('-', "_");
    if !verb.contains('_') {
        operation["operationId"] = format!("{thing}_{verb}").into();
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schema of a change (RFC 7396) of what `schema` describes: nothing has to be there, and null takes away what is.
fn merge_patch(schema: &Value) -> Value {
    let mut patch = schema.clone();
    let fields = patch.as_object_mut().expect("a schema is an object");
    fields.remove("required");
    fields.insert("description".to_owned(), "Fields that are given replace what is there; null brings back the default. What is only shown may be sent back, and is not looked at.".into());
    for property in fields["properties"].as_object_mut().expect("an object has properties").values_mut() {
        nullable(property);
        if let Some(values) = property.get_mut("additionalProperties") {
            nullable(values);
        }
    }
    patch
}

/// Lets null in.
fn nullable(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for choice in fields.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, patch)) = PATCHES.iter().find(|(spec, _)| choice["$ref"] == reference(spec)["$ref"]) {
            *choice = reference(patch);
        }
    }
    if let Some(of) = fields.get("$ref").cloned() {
        let description: Map<String, Value> = fields.remove_entry("description").into_iter().collect();
        *fields = description;
        fields.insert("oneOf".to_owned(), json!([{ "type": "null" }, { "$ref": of }]));
        return;
    }
    if let Some(Value::Array(words)) = fields.get_mut("enum")
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
    match fields.get_mut("type") {
        Some(Value::Array(types)) if !types.contains(&"null".into()) => types.push("null".into()),
        Some(one @ Value::String(_)) => *one = json!([one.take(), "null"]),
        _ => {}
    }
}
