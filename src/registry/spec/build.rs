//! From the document to the checked [`Endpoint`], telling all that is wrong at once.

use std::{fmt, num::NonZeroU16, time::Duration};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{EndpointSpec, RetrySpec, SecretText, Secrets, auth, headers, tls};
use crate::model::{
    Auth, Direction, Endpoint, EndpointUrl, Event, FieldError, Format, Rate, RetrySchedule, Secret, Signing, Status, Text, Timestamp,
    TypePattern,
};

/// Signed unless somebody says otherwise: a receiver can tell our requests from a stranger's from the first one on.
pub const DEFAULT_SIGNING: &str = "standard";

const MAX_ID: usize = 64;
const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 1_000;
/// Enough for the largest customers known, and few enough that one endpoint's record stays far below what a log takes.
const MAX_CHANNELS: usize = 1_000;
const MAX_TYPES: usize = 100;
const MAX_FILTER: usize = 2_048;
const MAX_ATTRIBUTES: usize = 16 * 1024;
/// Far below what a JSON reader takes (128): a record wraps them once more than the request that brought them.
const MAX_ATTRIBUTES_DEPTH: usize = 64;
const MAX_SECRETS: usize = 4;
const MAX_CONCURRENCY: u32 = 1_024;
const MAX_RETRIES: usize = 50;
const MIN_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// Whether limits on numbers and lengths hold, or were checked when it was registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    Enforced,
    Passed,
}

/// A closed set of words.
pub struct Words<T: 'static>(&'static [(&'static str, T)]);

pub const DIRECTIONS: Words<Direction> = Words(&[("IN", Direction::In), ("OUT", Direction::Out), ("INTERNAL", Direction::Internal)]);
pub const STATUSES: Words<Status> = Words(&[("enabled", Status::Enabled), ("disabled", Status::Disabled)]);
const FORMATS: Words<Format> = Words(&Format::ALL);

impl<T: Copy + PartialEq> Words<T> {
    fn parse(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| {
            let words: Vec<String> = self.0.iter().map(|(word, _)| format!("`{word}`")).collect();
            format!("`{text}` is none of {}", words.join(", "))
        })
    }

    pub fn name_of(&self, value: T) -> &'static str {
        self.0.iter().find(|(_, of)| *of == value).expect("every value has its word").0
    }
}

/// Collects what is wrong.
pub struct Check {
    errors: Vec<FieldError>,
    limits: Limits,
}

impl Check {
    pub fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(path, message));
    }

    /// The value, or a note of why there is none.
    pub fn take<T, E: fmt::Display>(&mut self, path: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.wrong(path, error.to_string())).ok()
    }

    pub fn limit(&mut self, path: &str, kept: bool, message: impl FnOnce() -> String) {
        if self.limits == Limits::Enforced && !kept {
            self.wrong(path, message());
        }
    }

    /// Whether it is checked for the first time.
    pub fn is_strict(&self) -> bool {
        self.limits == Limits::Enforced
    }

    /// Names of channels and tenants: any text without control characters, so that they can stand in logs and URLs.
    fn name(&mut self, path: &str, text: &str) -> Text {
        self.limit(path, !text.is_empty(), || "is empty".into());
        self.limit(path, text.len() <= MAX_NAME, || format!("is longer than {MAX_NAME} bytes"));
        self.limit(path, !text.chars().any(char::is_control), || "has control characters in it".into());
        text.into()
    }
}

pub fn checked(spec: EndpointSpec, created_at: Timestamp, updated_at: Timestamp, limits: Limits) -> Result<Endpoint, Vec<FieldError>> {
    let mut check = Check { errors: Vec::new(), limits };
    let id = id(&mut check, spec.id.as_deref());
    let url = if spec.url.is_empty() {
        check.wrong("url", "is required");
        None
    } else {
        check.take("url", EndpointUrl::parse(&spec.url))
    };
    let tenant = check.name("tenant", spec.tenant.as_deref().unwrap_or(Event::DEFAULT_TENANT));
    if let Some(description) = &spec.description {
        check.limit("description", description.len() <= MAX_DESCRIPTION, || format!("is longer than {MAX_DESCRIPTION} bytes"));
    }
    let channels = channels(&mut check, &spec.channels);
    let types = types(&mut check, &spec.types);
    let direction = spec.direction.as_deref().and_then(|text| check.take("direction", DIRECTIONS.parse(text)));
    let filter = spec.filter.as_deref().map(|text| filter(&mut check, text));
    let format = check.take("format", spec.format.as_deref().map_or(Ok(Format::default()), |text| FORMATS.parse(text)));
    let signing = signing(&mut check, spec.signing.as_deref(), spec.secret.as_ref());
    let rate = spec.rate.as_deref().and_then(|text| check.take("rate", text.parse::<Rate>()));
    let concurrency = spec.concurrency.and_then(|number| concurrency(&mut check, number));
    let headers = headers::plain(&mut check, &spec.headers);
    let retry = spec.retry.as_ref().and_then(|retry| schedule(&mut check, retry));
    let status = check.take("status", spec.status.as_deref().map_or(Ok(Status::default()), |text| STATUSES.parse(text)));
    let auth = spec.auth.as_ref().map_or(Some(Auth::None), |spec| auth::auth(&mut check, spec));
    let tls = spec.tls.as_ref().and_then(|spec| tls::tls(&mut check, spec));
    if let Some(attributes) = &spec.attributes {
        let bytes = serde_json::to_vec(attributes).map_or(0, |text| text.len());
        check.limit("attributes", bytes <= MAX_ATTRIBUTES, || format!("are longer than {MAX_ATTRIBUTES} bytes"));
        let depth = attributes.values().map(depth).max().unwrap_or(0);
        check.limit("attributes", depth <= MAX_ATTRIBUTES_DEPTH, || format!("are nested in more than {MAX_ATTRIBUTES_DEPTH} levels"));
    }
    match (url, format, signing, status, auth) {
        (Some(url), Some(format), Some(signing), Some(status), Some(auth)) if check.errors.is_empty() => Ok(Endpoint {
            id,
            tenant,
            url,
            description: spec.description,
            channels,
            types,
            direction,
            filter,
            format,
            signing,
            auth,
            tls,
            headers,
            rate,
            concurrency,
            retry,
            status,
            attributes: spec.attributes,
            created_at,
            updated_at,
            registry_offset: Endpoint::DECLARED,
        }),
        _ => Err(check.errors),
    }
}

fn id(check: &mut Check, id: Option<&str>) -> Text {
    let Some(id) = id else {
        check.wrong("id", "is required");
        return Text::new();
    };
    let plain = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    check.limit("id", plain, || format!("`{id}` is no id: letters, digits, `-` and `_`, at most {MAX_ID}"));
    id.into()
}

fn channels(check: &mut Check, channels: &[String]) -> Vec<Text> {
    check.limit("channels", channels.len() <= MAX_CHANNELS, || {
        format!("are more than {MAX_CHANNELS}: leave the list empty to listen to all channels of the tenant")
    });
    channels.iter().enumerate().map(|(index, channel)| check.name(&format!("channels[{index}]"), channel)).collect()
}

fn types(check: &mut Check, types: &[String]) -> Vec<TypePattern> {
    check.limit("types", types.len() <= MAX_TYPES, || format!("are more than {MAX_TYPES}: a prefix such as `lead.*` stands for many"));
    let mut patterns = Vec::with_capacity(types.len());
    for (index, text) in types.iter().enumerate() {
        let path = format!("types[{index}]");
        check.limit(&path, text.len() <= MAX_NAME, || format!("is longer than {MAX_NAME} bytes"));
        patterns.extend(check.take(&path, TypePattern::parse(text)));
    }
    patterns
}

fn filter(check: &mut Check, text: &str) -> Text {
    check.limit("filter", !text.trim().is_empty(), || "is empty: leave it out to get every event".into());
    check.limit("filter", text.len() <= MAX_FILTER, || format!("is longer than {MAX_FILTER} bytes"));
    text.into()
}

/// How many levels a value has below it, itself included.
fn depth(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
    }
}

fn concurrency(check: &mut Check, number: u32) -> Option<NonZeroU16> {
    let fits = u16::try_from(number).ok().and_then(NonZeroU16::new);
    if fits.is_none() {
        check.wrong("concurrency", format!("is {number}: write 1 to {MAX_CONCURRENCY}"));
    } else {
        check.limit("concurrency", number <= MAX_CONCURRENCY, || format!("is {number}: write 1 to {MAX_CONCURRENCY}"));
    }
    fits
}

fn schedule(check: &mut Check, spec: &RetrySpec) -> Option<RetrySchedule> {
    let delays = match spec {
        RetrySpec::Preset(name) => {
            return match name.as_str() {
                "standard" => Some(RetrySchedule::standard()),
                "zenvia" => Some(RetrySchedule::zenvia()),
                "none" => Some(RetrySchedule(Vec::new())),
                _ => {
                    check.wrong("retry", format!("`{name}` is none of `standard`, `zenvia`, `none`, and no list of delays"));
                    None
                }
            };
        }
        RetrySpec::Delays(delays) => delays,
    };
    check.limit("retry", delays.len() <= MAX_RETRIES, || format!("has more than {MAX_RETRIES} delays"));
    let mut schedule = Vec::with_capacity(delays.len());
    for (index, text) in delays.iter().enumerate() {
        let path = format!("retry[{index}]");
        let parsed = humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration: write one such as \"30s\" or \"5m\""));
        let Some(delay) = check.take(&path, parsed) else { continue };
        check.limit(&path, (MIN_DELAY..=MAX_DELAY).contains(&delay), || format!("`{text}` is out of range: 1s to 24h"));
        schedule.push(delay);
    }
    Some(RetrySchedule(schedule))
}

fn signing(check: &mut Check, kind: Option<&str>, secrets: Option<&Secrets>) -> Option<Signing> {
    let kind = kind.unwrap_or(DEFAULT_SIGNING);
    let secrets = secrets.map(Secrets::as_slice).unwrap_or_default();
    check.limit("secret", secrets.len() <= MAX_SECRETS, || {
        format!("are more than {MAX_SECRETS}: drop those that no receiver uses any more")
    });
    match kind {
        "none" => {
            check.limit("secret", secrets.is_empty(), || "is given, but `signing` is `none`: leave one of them out".into());
            Some(Signing::None)
        }
        "standard" => {
            for secret in secrets {
                check.limit("secret", is_standard_secret(&secret.0), || {
                    "is no secret of Standard Webhooks: `whsec_` and base64 of 24 to 64 bytes, or `whsk_` and base64 of an ed25519 key (32 or 64 bytes)"
                        .into()
                });
            }
            required_secret(check, secrets)?;
            Some(Signing::Standard { secrets: secrets.iter().map(secret_of).collect() })
        }
        "hub" => {
            required_secret(check, secrets)?;
            check.limit("secret", secrets.len() == 1, || "are several, but the hub scheme has one".into());
            let text = &secrets[0].0;
            let good = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            check.limit("secret", good, || "is no secret of the hub scheme: 64 hexadecimal characters".into());
            Some(Signing::Hub { secret: secret_of(&secrets[0]) })
        }
        _ => {
            check.wrong("signing", format!("`{kind}` is none of `none`, `standard`, `hub`"));
            None
        }
    }
}

fn required_secret(check: &mut Check, secrets: &[SecretText]) -> Option<()> {
    if secrets.is_empty() {
        check.wrong("secret", "is required to sign requests; `signing = \"none\"` does without");
        return None;
    }
    Some(())
}

/// Some tools leave the padding out, and the receiving libraries take both.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The sizes are those of the Standard Webhooks specification.
fn is_standard_secret(text: &str) -> bool {
    let size = |text: &str| LENIENT.decode(text).ok().map(|bytes| bytes.len());
    if let Some(text) = text.strip_prefix("whsec_") {
        size(text).is_some_and(|size| (24..=64).contains(&size))
    } else if let Some(text) = text.strip_prefix("whsk_") {
        matches!(size(text), Some(32 | 64))
    } else {
        false
    }
}

pub fn secret_of(text: &SecretText) -> Secret {
    Secret::new(text.0.as_bytes())
}
