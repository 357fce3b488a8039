//! Payloads: the body of a request, one file per format.
//!
//! The event's `data` is JSON text and is copied once, into the buffer of the body, without being looked into. Only three formats read it: `z_api`
//! and `chatwoot` are built out of it, `zenvia_v1` is `zenvia` with parts changed. Data of one product in the format of another goes
//! out verbatim inside of that format's envelope (WIRE.md section 0, row 20): a payload is never an error.
//!
//! What a payload needs beside the event is the id of the endpoint, which Zenvia calls `subscriptionId`.

mod chatwoot;
mod cloudevents;
mod conversion;
mod hub;
mod hub_message;
mod members;
mod object;
mod standard;
mod z_api;
mod zenvia;
mod zenvia_v1;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::HeaderValue;

use crate::model::{Event, Format};

/// The body of `event` in `format`, for the endpoint with the id `endpoint`.
pub fn body(format: Format, event: &Event, endpoint: &str) -> Bytes {
    match format {
        Format::Standard => standard::body(event),
        Format::CloudEvents => cloudevents::body(event),
        Format::Hub => hub::body(event),
        Format::ZApi => z_api::body(event),
        Format::Chatwoot => chatwoot::body(event),
        Format::Zenvia => zenvia::body(event, endpoint),
        Format::ZenviaV1 => zenvia_v1::body(event, endpoint),
        Format::Conversion => conversion::body(event),
    }
}

pub fn content_type(format: Format) -> HeaderValue {
    HeaderValue::from_static(match format {
        Format::CloudEvents => "application/cloudevents+json; charset=utf-8",
        Format::Standard | Format::Hub | Format::ZApi | Format::Chatwoot | Format::Zenvia | Format::ZenviaV1 | Format::Conversion => {
            "application/json"
        }
    })
}
