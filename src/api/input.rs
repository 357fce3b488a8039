//! Reading requests: bodies with a bound and a deadline, and errors that name the field.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, Uri, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category};

use super::{Context, error::Problem};
use crate::model::{Budget, FieldError, Permit, Timestamp, json::Unique};

/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Largest body of everything but events: an endpoint with all its limits used up has 300 KiB.
pub const BODY_LIMIT: usize = 1024 * 1024;

const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// A body, counted for as long as this is kept.
#[derive(Clone)]
pub struct Body {
    pub bytes: Bytes,
    _permits: Arc<Vec<Permit>>,
}

/// The whole body, if it has at most `limit` bytes, and all bodies together no more than `bodies` has. One that was read before, to check its
/// signature, lies in the extensions.
pub async fn read_body(request: Request, limit: usize, key: &str, bodies: &Arc<Budget>) -> Result<Body, Problem> {
    let too_large = || Problem::too_large(".", format!("has more than the {limit} bytes that are allowed{key}"));
    if let Some(body) = request.extensions().get::<Body>() {
        return if body.bytes.len() > limit { Err(too_large()) } else { Ok(body.clone()) };
    }
    if let Some(coding) = request.headers().get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        return Err(Problem::malformed(".", format!("is encoded as `{coding}`: send it as it is, without `Content-Encoding`")));
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut arriving = Limited::new(request.into_body(), limit);
    let read = async {
        let (mut bytes, mut permits) = (BytesMut::new(), Vec::new());
        while let Some(frame) = arriving.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => too_large(),
                false => Problem::malformed(".", format!("did not arrive whole: {error}")),
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bodies.free() < data.len() {
                let detail = "more bodies are being read than there is memory for (`ingest.memory`): try again later";
                return Err(Problem::unavailable(detail));
            }
            permits.push(bodies.take(data.len()));
            bytes.extend_from_slice(&data);
        }
        Ok(Body { bytes: bytes.freeze(), _permits: Arc::new(permits) })
    };
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(read) => read,
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_DEADLINE.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
        }
    }
}

/// A JSON object. An empty body stands for `{}`.
pub struct Document<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Context> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Document<T>, Problem> {
        let body = read_body(request, BODY_LIMIT, "", &context.bodies).await?;
        parse(if body.bytes.is_empty() { b"{}" } else { &body.bytes }).map(Document)
    }
}

/// Reads JSON; the error names the path of what is wrong.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    // Also told where two members have one name, of which a map would keep the last.
    read::<Unique>(text)?;
    if text.trim_ascii_start().first() != Some(&b'{') {
        // A derived reader would take an array for the members in their order.
        return Err(Problem::malformed(".", "cannot be read: it is no JSON object"));
    }
    read(text)
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let document = serde_path_to_error::deserialize(&mut json).map_err(|error| match error.inner().classify() {
        Category::Data => Problem::unreadable(unreadable_members::<T>(text, &error)),
        // Where it is no JSON at all there is no field to name.
        Category::Io | Category::Syntax | Category::Eof => Problem::unreadable(vec![cannot_be_read(".", error.inner())]),
    })?;
    json.end().map_err(|error| Problem::malformed(".", format!("has something behind its end: {error}")))?;
    Ok(document)
}

/// What cannot be read of an object. A reader stops at the first mistake, so it reads again and again, each time without the member that was wrong.
fn unreadable_members<T: DeserializeOwned>(text: &[u8], first: &serde_path_to_error::Error<serde_json::Error>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut document: Value = serde_json::from_slice(text).unwrap_or_default();
    while errors.len() < FieldError::AT_ONCE
        && let Err(error) = serde_path_to_error::deserialize::<_, T>(&document)
    {
        let path = error.path().to_string();
        // One that is missing belongs to no member; perhaps it was taken out just now.
        let member = path.split(['.', '[']).next().filter(|member| !member.is_empty());
        if document.as_object_mut().zip(member).and_then(|(members, member)| members.remove(member)).is_none() {
            break;
        }
        errors.push(cannot_be_read(path, error.inner()));
    }
    if errors.is_empty() { vec![cannot_be_read(first.path().to_string(), first.inner())] } else { errors }
}

fn cannot_be_read(path: impl Into<String>, error: &serde_json::Error) -> FieldError {
    FieldError::new(path, format!("cannot be read: {error}"))
}

/// The query, with all its fields known.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Context> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Context) -> Result<Params<T>, Problem> {
        params(&parts.uri).map(Params)
    }
}

fn params<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    if uri.query().is_some_and(|query| percent_decode_str(query).decode_utf8().is_err()) {
        return Err(Problem::malformed("query", "is no UTF-8"));
    }
    let Query(params) = Query::try_from_uri(uri).map_err(|error| {
        // Beneath axum's own words lies the name of the parameter and what is wrong with it.
        let told = std::error::Error::source(&error).map_or_else(|| error.body_text(), ToString::to_string);
        match told.split_once(": ") {
            Some((parameter, message)) => Problem::malformed(parameter, format!("cannot be read: {message}")),
            None => Problem::malformed("query", format!("cannot be read: {told}")),
        }
    })?;
    Ok(params)
}

/// The one parameter in the path.
pub struct Id(pub String);

impl FromRequestParts<Context> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Id, Problem> {
        let path = Path::<String>::from_request_parts(parts, context).await;
        path.map(|Path(id)| Id(id)).map_err(|error| Problem::malformed("path", error.body_text()))
    }
}

/// How many items a page has.
pub fn limit(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_PAGE) };
    let limit = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
    limit.ok_or_else(|| Problem::malformed("limit", format!("is `{text}`: write 1 to {LARGEST_PAGE}")))
}

/// A point in time.
pub fn time(path: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let wrong = |text: &str| Problem::malformed(path, format!("is `{text}`: write a time as in RFC 3339, such as `2026-01-31T12:00:00Z`"));
    text.map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}
