//! Requests: what one version of an endpoint needs for every request, made once, and the request of one attempt.
//!
//! format → headers → auth → sign (with the time of the attempt) → compress, where the scheme says so.

use std::{cell::RefCell, io::Write as _, rc::Rc, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::{
    auth,
    client::Origin,
    oauth::Tokens,
    payload,
    signature::{self, Signer},
};
use crate::model::{Delivery, Endpoint, Format, HeaderUse, Signing, header::reserved};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Bodies of the hub scheme are compressed from this size on (WIRE.md 4.5).
const COMPRESS_FROM: usize = 1024;

/// Headers that an attempt adds to those of its endpoint, at most.
const ADDED: usize = 7;

/// Stands where an attempt puts its own value.
const PLACE: HeaderValue = HeaderValue::from_static("-");

/// One version of an endpoint, ready to be sent to.
pub struct Prepared {
    /// The version itself: while it is held here, its address names it.
    pub endpoint: Arc<Endpoint>,
    pub target: Target,
    /// Where its access tokens come from, if it wants any.
    pub tokens: Option<Rc<Tokens>>,
    headers: HeaderMap,
    signer: Signer,
    /// Whether requests have the key of the hub.
    keyed: bool,
    /// Whether long bodies are compressed.
    compressed: bool,
    /// The last second in which an attempt was made, as a header.
    second: RefCell<(i64, HeaderValue)>,
}

/// Where requests go.
pub struct Target {
    pub origin: Rc<Origin>,
    /// For HTTP/1: path and query.
    path: Uri,
    /// For HTTP/2: the whole URL.
    whole: Uri,
}

/// What is sent in one attempt.
pub struct Message {
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    /// Errors name what is wrong with the endpoint; sending again does not help.
    pub fn new(
        endpoint: &Arc<Endpoint>,
        origin: Rc<Origin>,
        tokens: Option<Rc<Tokens>>,
        user_agent: &HeaderValue,
    ) -> Result<Prepared, String> {
        let target = Target::new(endpoint.url.as_str(), origin)?;
        let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + ADDED + 4);
        headers.insert(header::HOST, target.host()?);
        headers.insert(header::CONTENT_TYPE, payload::content_type(endpoint.format));
        headers.insert(header::USER_AGENT, user_agent.clone());
        // The first header of a name replaces ours, further ones are added: an endpoint may want another user agent, or a list.
        let mut replaced = Vec::new();
        for (name, value) in endpoint.headers.iter().filter(|(name, _)| !left_out(name)) {
            if replaced.contains(&name) {
                headers.append(name, value.clone());
            } else {
                replaced.push(name);
                headers.insert(name, value.clone());
            }
        }
        if let Some((name, value)) = auth::header(&endpoint.auth)? {
            headers.insert(name, value);
        }
        let signer = Signer::new(&endpoint.signing)?;
        let keyed = is_of_the_hub(endpoint);
        for name in attempt_headers(&signer, keyed) {
            headers.insert(name, PLACE);
        }
        let compressed = keyed && !matches!(endpoint.signing, Signing::Standard { .. });
        Ok(Prepared {
            endpoint: Arc::clone(endpoint),
            target,
            tokens,
            headers,
            signer,
            keyed,
            compressed,
            second: RefCell::new((i64::MIN, PLACE)),
        })
    }

    /// The message of an attempt at `time` (seconds since the epoch), or what it cannot be built for.
    pub fn message(&self, delivery: &Delivery, time: i64) -> Result<Message, String> {
        let event = &*delivery.event;
        let mut body = payload::body(self.endpoint.format, event, &self.endpoint.id);
        let mut headers = self.headers.clone();

        let time = self.time(time);
        let seconds = time.to_str().expect("a number is text");
        if self.keyed {
            // The key is always sent, signed or not (WIRE.md section 0, row 11).
            match signature::hub_key(&delivery.origin) {
                Some(key) => headers.insert(signature::HUB_KEY, key),
                None => headers.remove(signature::HUB_KEY),
            };
        }
        match &self.signer {
            Signer::Hub(keyed) => {
                headers.insert(signature::HUB_SIGNATURE, signature::hub(keyed, &delivery.origin, seconds, &body));
            }
            Signer::None if self.keyed => {}
            Signer::None => {
                headers.insert(signature::WEBHOOK_ID, id_value(event.id.as_bytes(), &signature::webhook_id(&event.id))?);
                headers.insert(signature::WEBHOOK_TIMESTAMP, time);
            }
            Signer::Standard(keys) => {
                let id = signature::webhook_id(&event.id);
                headers.insert(signature::WEBHOOK_SIGNATURE, signature::standard(keys, &id, seconds, &body));
                headers.insert(signature::WEBHOOK_ID, id_value(event.id.as_bytes(), &id)?);
                headers.insert(signature::WEBHOOK_TIMESTAMP, time);
            }
        }
        if let Some(context) = &event.traceparent
            && let Ok(context) = HeaderValue::from_maybe_shared(context.as_bytes().clone())
        {
            headers.insert(TRACEPARENT, context);
        }
        if self.compressed && body.len() >= COMPRESS_FROM {
            body = gzip(&body);
            headers.insert(header::CONTENT_ENCODING, GZIP);
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        Ok(Message { headers, body })
    }

    /// Seconds as a header: made once for all attempts within one.
    fn time(&self, seconds: i64) -> HeaderValue {
        let mut last = self.second.borrow_mut();
        if last.0 != seconds {
            *last = (seconds, HeaderValue::from(seconds));
        }
        last.1.clone()
    }
}

impl Target {
    pub fn new(url: &str, origin: Rc<Origin>) -> Result<Target, String> {
        let whole: Uri = url.parse().map_err(|wrong| format!("the URL cannot be sent: {wrong}"))?;
        let path = whole.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
        Ok(Target { origin, path, whole })
    }

    /// The value of `host`.
    pub fn host(&self) -> Result<HeaderValue, String> {
        HeaderValue::from_str(self.origin.authority()).map_err(|_| "the URL's host is no header text".to_owned())
    }

    pub fn http1(&self, message: Message) -> Request<Full<Bytes>> {
        request(self.path.clone(), message)
    }

    /// HTTP/2 names the host in the URL.
    pub fn http2(&self, mut message: Message) -> Request<Full<Bytes>> {
        message.headers.remove(header::HOST);
        request(self.whole.clone(), message)
    }
}

/// The headers that every attempt sets. They have a place from the beginning: a clone of the headers has no room for more, and would be
/// copied again for each.
fn attempt_headers(signer: &Signer, keyed: bool) -> Vec<HeaderName> {
    let mut names = match signer {
        Signer::Hub(_) => vec![signature::HUB_SIGNATURE],
        Signer::None if keyed => vec![],
        Signer::None => vec![signature::WEBHOOK_ID, signature::WEBHOOK_TIMESTAMP],
        Signer::Standard(_) => vec![signature::WEBHOOK_SIGNATURE, signature::WEBHOOK_ID, signature::WEBHOOK_TIMESTAMP],
    };
    names.extend(keyed.then_some(signature::HUB_KEY));
    names.push(header::CONTENT_LENGTH);
    names
}

impl Message {
    pub fn new(headers: HeaderMap, body: Bytes) -> Message {
        Message { headers, body }
    }

    /// With an access token.
    pub fn authorized(mut self, token: HeaderValue) -> Message {
        self.headers.insert(header::AUTHORIZATION, token);
        self
    }
}

/// Whether the receiver is one of the Hub's: by its format, or because it asks for the Hub's signature. Its requests have `x-idempotency-key`, signed
/// or not (WIRE.md section 0, row 11), instead of the `webhook-id` and `webhook-timestamp` that everybody else gets unsigned too, and long
/// bodies are compressed (4.5; 3 for Z-API). Who wants a Hub's format under a signature of Standard Webhooks gets the headers of both, and the
/// body as it is: that scheme knows no compression.
fn is_of_the_hub(endpoint: &Endpoint) -> bool {
    matches!(endpoint.format, Format::Hub | Format::ZApi | Format::Chatwoot) || matches!(endpoint.signing, Signing::Hub { .. })
}

/// Endpoints are kept that were registered before a name was reserved; a header of that name is not sent. What it says of the body's type is.
fn left_out(name: &HeaderName) -> bool {
    *name != header::CONTENT_TYPE && reserved(name, HeaderUse::Credential).is_some()
}

fn request(uri: Uri, message: Message) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(message.body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = message.headers;
    request
}

/// The value of `webhook-id`: the buffer of the event's id is shared when nothing in it had to be rewritten.
fn id_value(shared: &Bytes, id: &str) -> Result<HeaderValue, String> {
    let bytes = if shared.len() == id.len() { shared.clone() } else { Bytes::copy_from_slice(id.as_bytes()) };
    HeaderValue::from_maybe_shared(bytes).map_err(|_| "the event's id cannot be a header".to_owned())
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    encoder.write_all(body).expect("a Vec takes all bytes");
    encoder.finish().expect("a Vec takes all bytes").into()
}
