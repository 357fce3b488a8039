//! What every operation can answer beside what its declaration says: the refusals that come before any handler, and the shape of all errors.
//!
//! A declaration names the statuses that its handler decides on, with the words and examples that belong to them. What holds for all is added here by
//! rules, so that no route can forget it:
//!
//! - a path or query that is no UTF-8 or has an unknown parameter, or a body that is no JSON (400), and a request without a token (401);
//! - a token that may not do it, or a tenant that is not its own (403);
//! - a body that arrives too slowly (408) or is too large (413);
//! - a log that cannot take a change, or a body for which there is no memory (503).
//!
//! Each error has the shape of its [`Family`], an example that is made as the answer would be, and the headers that always come with its status.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::api::{
    conversion,
    error::Problem,
    shape::{is_below, shaped},
    zenvia,
};

/// The routes of a product have error bodies of their own.
struct Family {
    /// Paths that are one of these or lie below.
    paths: &'static [&'static str],
    /// Name of the schema.
    schema: &'static str,
    content_type: &'static str,
}

const JSON: &str = "application/json";

/// The first that fits.
const FAMILIES: &[Family] = &[
    Family { paths: &["/v1/channels"], schema: "HubChannelError", content_type: JSON },
    Family { paths: &["/v1/webhooks"], schema: "HubTemplateError", content_type: JSON },
    Family { paths: conversion::PREFIXES, schema: "ConversionError", content_type: JSON },
    Family { paths: &[zenvia::PREFIX], schema: "ZenviaError", content_type: JSON },
    Family { paths: &["/v1"], schema: "Problem", content_type: "application/problem+json" },
];

/// An error as it is answered at a path.
fn body(path: &str, problem: &Problem) -> Value {
    shaped(path, problem).map_or_else(|| json!(problem), |(_, body)| serde_json::from_str(&body).expect("it is JSON"))
}

/// Adds to every operation of the document what it can answer.
pub fn complete(document: &mut Value) {
    let mut shared = BTreeMap::new();
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for (path, operations) in paths {
        let family = FAMILIES.iter().find(|family| family.paths.iter().any(|parent| is_below(path, parent)));
        let family = family.expect("every path belongs to a family of errors");
        for (method, operation) in operations.as_object_mut().expect("a path has operations") {
            let added = every_time(method, operation);
            let responses = operation["responses"].as_object_mut().expect("an operation has responses");
            for status in added {
                responses.entry(status).or_insert_with(|| json!({}));
            }
            for (status, response) in responses {
                let is_usual = !is_described(response) && example_of(response).is_none();
                if !is_described(response) {
                    response["description"] = usual(status).into();
                }
                if status.as_str() < "400" {
                    continue;
                }
                family.shape(path, status, response);
                if is_usual {
                    let name = format!("{}{status}", family.schema);
                    let reference = json!({ "$ref": format!("#/components/responses/{name}") });
                    shared.insert(name, std::mem::replace(response, reference));
                }
            }
        }
    }
    document["components"]["responses"] = json!(shared);
}

/// The statuses that need no decision of the handler.
fn every_time(method: &str, operation: &Value) -> impl Iterator<Item = &'static str> + use<> {
    let has_body = operation.get("requestBody").is_some();
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names_tenant = parameters.iter().any(|parameter| parameter["name"] == "tenant");
    let is_change = method != "get";
    let added = [
        (has_body || !parameters.is_empty(), "400"),
        (true, "401"),
        (is_change || names_tenant, "403"),
        (has_body, "408"),
        (has_body, "413"),
        (is_change, "503"),
    ];
    added.into_iter().filter(|(holds, _)| *holds).map(|(_, status)| status)
}

fn is_described(response: &Value) -> bool {
    response["description"].as_str().is_some_and(|words| !words.is_empty())
}

fn example_of(response: &Value) -> Option<&Value> {
    response["content"].as_object()?.values().find_map(|body| body.get("example"))
}

/// How a response is described whose declaration does not.
fn usual(status: &str) -> &'static str {
    match status {
        "200" => "Done.",
        "201" => "Made.",
        "202" => "Taken; it goes on in the background.",
        "204" => "Done; there is nothing to show.",
        "400" => "The request cannot be read: what is wrong is named.",
        "401" => "The request has no valid token.",
        "403" => "The token may not do this.",
        "404" => "There is no such thing for this token.",
        "408" => "The body did not arrive in time.",
        "409" => "It is not in a state in which this can be done.",
        "413" => "The body is too large.",
        "422" => "Fields are wrong; all of them are named.",
        "429" => "Too much at once: `Retry-After` says when to try again.",
        "503" => "It cannot be done now: trying again later may help.",
        _ => "",
    }
}

impl Family {
    /// Gives an error the body and the headers that its status has here.
    fn shape(&self, path: &str, status: &str, response: &mut Value) {
        let example = example_of(response)
            .cloned()
            .unwrap_or_else(|| body(path, &problem(status, response["description"].as_str().unwrap_or_default())));
        let schema = json!({ "$ref": format!("#/components/schemas/{}", self.schema) });
        response["content"] = json!({ self.content_type: { "schema": schema, "example": example } });
        let header = match status {
            "401" => ("WWW-Authenticate", json!({ "required": true, "schema": { "type": "string" }, "example": "Bearer" })),
            "429" | "503" => {
                let seconds = json!({ "type": "integer", "minimum": 1 });
                ("Retry-After", json!({ "description": "Seconds.", "required": true, "schema": seconds, "example": 1 }))
            }
            _ => return,
        };
        response["headers"][header.0] = header.1;
    }
}

/// An error of this status, as an example.
fn problem(status: &str, words: &str) -> Problem {
    let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok()).expect("routes declare statuses as numbers");
    match status {
        StatusCode::UNAUTHORIZED => Problem::unauthorized(),
        StatusCode::BAD_REQUEST => Problem::malformed("limit", "is `many`: write 1 to 1000"),
        status => {
            let code = match status {
                StatusCode::FORBIDDEN => "forbidden",
                StatusCode::NOT_FOUND => "not_found",
                StatusCode::CONFLICT => "conflict",
                StatusCode::UNPROCESSABLE_ENTITY => "invalid",
                StatusCode::REQUEST_TIMEOUT => "timeout",
                StatusCode::PAYLOAD_TOO_LARGE => "too_large",
                StatusCode::TOO_MANY_REQUESTS => "too_many",
                _ => "unavailable",
            };
            Problem::new(status, code, words)
        }
    }
}
