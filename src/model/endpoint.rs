//! An endpoint: a registered receiver. What the three products call webhook or subscription is a view on it.

use std::{fmt, num::NonZeroU16, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{ClientTls, Direction, OAuth2, Rate, Secret, Text, Timestamp};

/// A registered receiver, checked: whatever holds one may rely on its parts fitting together.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub id: Text,
    pub tenant: Text,
    pub url: EndpointUrl,
    pub description: Option<String>,
    /// Channels it listens to; empty: all of the tenant.
    pub channels: Vec<Text>,
    /// Event types it listens to; empty: all.
    pub types: Vec<TypePattern>,
    /// Only events of this direction; none: all, also those without one.
    pub direction: Option<Direction>,
    /// An expression over the event that must hold as well (`routing::filter`).
    pub filter: Option<Text>,
    pub format: Format,
    pub signing: Signing,
    pub auth: Auth,
    /// None: the system's authorities are trusted, and no certificate of ours is shown.
    pub tls: Option<Arc<ClientTls>>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the whole fleet.
    pub rate: Option<Rate>,
    /// Requests in flight at once, per instance; none: the default of `[scheduler]`.
    pub concurrency: Option<NonZeroU16>,
    /// None: the schedule of `[retry]`.
    pub retry: Option<RetrySchedule>,
    pub status: Status,
    /// What the API of a product keeps with it and shows again, of no meaning to anybody else.
    pub attributes: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Offset of the registry record that holds this version; `Endpoint::DECLARED` for one from the configuration file.
    pub registry_offset: i64,
}

impl Endpoint {
    /// The registry offset of endpoints that the configuration file declares: known everywhere, always.
    pub const DECLARED: i64 = -1;

    pub fn is_declared(&self) -> bool {
        self.registry_offset == Endpoint::DECLARED
    }
}

/// What a person wants of it; what health decides is kept apart (`model::health`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Enabled,
    Disabled,
}

/// A URL that deliveries may be sent to: http or https, with a host, without credentials and fragment, at most 2,048 characters,
/// both as it is written and as it is sent. Kept as text: a parsed one takes three times the memory, and is looked into only now and then.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("is no URL: {0}")]
    Malformed(url::ParseError),
    #[error("has the scheme `{0}`: only http and https can be delivered to")]
    Scheme(String),
    #[error("carries credentials: put them into `auth`, where they are sealed")]
    Credentials,
    #[error("has a fragment, which is never sent: remove what follows `#`")]
    Fragment,
    #[error("is longer than {} characters", EndpointUrl::MAX_LENGTH)]
    TooLong,
    #[error("has no host")]
    NoHost,
}

impl EndpointUrl {
    /// WIRE: the Hub's limit (4.2), taken for all.
    pub const MAX_LENGTH: usize = 2048;

    pub fn parse(text: &str) -> Result<EndpointUrl, UrlError> {
        // Before it is looked into, so that no huge one is; and what is kept is what will be sent, where one character may have become nine.
        if text.chars().count() > EndpointUrl::MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text).map_err(UrlError::Malformed)?;
        if url.as_str().len() > EndpointUrl::MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        match url.host_str() {
            None | Some("") => Err(UrlError::NoHost),
            Some(_) => Ok(EndpointUrl(String::from(url).into_boxed_str())),
        }
    }

    /// Its parts.
    pub fn parts(&self) -> Url {
        Url::parse(&self.0).expect("what a URL prints is a URL")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All that belongs into logs: the path of some receivers is their secret.
    pub fn host(&self) -> String {
        self.parts().host_str().unwrap_or_default().to_owned()
    }

    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Which event types an endpoint listens to: `lead.created`, `lead.*` (a prefix) or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TypePattern {
    Any,
    Exact(Text),
    /// Everything that begins with this text (without the `*`).
    Prefix(Text),
}

impl TypePattern {
    pub fn parse(text: &str) -> Result<TypePattern, &'static str> {
        match text.split_once('*') {
            None if text.is_empty() => Err("is empty: name an event type, a prefix such as `lead.*`, or `*`"),
            None => Ok(TypePattern::Exact(text.into())),
            Some(("", "")) => Ok(TypePattern::Any),
            Some((prefix, "")) => Ok(TypePattern::Prefix(prefix.into())),
            Some(_) => Err("has a `*` that is not at its end: only prefixes such as `lead.*` can be matched"),
        }
    }

    pub fn matches(&self, kind: &str) -> bool {
        match self {
            TypePattern::Any => true,
            TypePattern::Exact(exact) => *exact == kind,
            TypePattern::Prefix(prefix) => kind.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypePattern::Any => out.write_str("*"),
            TypePattern::Exact(exact) => out.write_str(exact),
            TypePattern::Prefix(prefix) => write!(out, "{prefix}*"),
        }
    }
}

/// The shape of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The event as JSON.
    #[default]
    Standard,
    /// CloudEvents 1.0, structured mode.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// Hub Message DEFAULT (WIRE.md 4.6).
    Hub,
    /// Hub Message Z_API: the callbacks of Z-API (WIRE.md 3).
    ZApi,
    /// Hub Message CHATWOOT (WIRE.md 4.8).
    Chatwoot,
    /// Zenvia Customer Cloud, payload version v2 (WIRE.md 1.6 to 1.13).
    Zenvia,
    /// Zenvia Customer Cloud, payload version v1 (WIRE.md 1.14).
    ZenviaV1,
    /// Zenvia Conversion (WIRE.md 2.1).
    Conversion,
}

impl Format {
    pub const ALL: [(&str, Format); 8] = [
        ("standard", Format::Standard),
        ("cloudevents", Format::CloudEvents),
        ("hub", Format::Hub),
        ("z_api", Format::ZApi),
        ("chatwoot", Format::Chatwoot),
        ("zenvia", Format::Zenvia),
        ("zenvia_v1", Format::ZenviaV1),
        ("conversion", Format::Conversion),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Format::Standard => "standard",
            Format::CloudEvents => "cloudevents",
            Format::Hub => "hub",
            Format::ZApi => "z_api",
            Format::Chatwoot => "chatwoot",
            Format::Zenvia => "zenvia",
            Format::ZenviaV1 => "zenvia_v1",
            Format::Conversion => "conversion",
        }
    }
}

/// How a request is signed. Secrets are kept as their owner was shown them.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Signing {
    #[default]
    None,
    /// Standard Webhooks 1.0. The newest secret comes first; the others are still live while a rotation lasts.
    /// `whsec_…` (HMAC-SHA256, v1) or `whsk_…` (ed25519, v1a).
    Standard { secrets: Vec<Secret> },
    /// The Hub's scheme (WIRE.md 4.5): 64 hexadecimal characters, used as ASCII text.
    Hub { secret: Secret },
}

impl Signing {
    pub fn as_str(&self) -> &'static str {
        match self {
            Signing::None => "none",
            Signing::Standard { .. } => "standard",
            Signing::Hub { .. } => "hub",
        }
    }
}

/// How we show the endpoint who we are.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Auth {
    #[default]
    None,
    Bearer {
        token: Secret,
    },
    ApiKey {
        header: HeaderName,
        key: Secret,
    },
    Basic {
        username: String,
        password: Secret,
    },
    CustomHeader {
        name: HeaderName,
        value: Secret,
    },
    /// `Authorization: Bearer`, with a token that is fetched (WIRE.md 1.4).
    OAuth2(Arc<OAuth2>),
}

impl Auth {
    pub fn as_str(&self) -> &'static str {
        match self {
            Auth::None => "none",
            Auth::Bearer { .. } => "bearer",
            Auth::ApiKey { .. } => "api_key",
            Auth::Basic { .. } => "basic",
            Auth::CustomHeader { .. } => "custom_header",
            Auth::OAuth2(_) => "oauth2",
        }
    }
}

/// The delays between the attempts of a delivery, first retry first; after the last one it is exhausted. Never empty means: at
/// least one attempt is always made; an empty list means that there is no retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrySchedule(#[serde(with = "super::units::durations")] pub Vec<Duration>);

impl RetrySchedule {
    /// 30 s, 1 m, 5 m, 15 m, 1 h, 3 h, 6 h, 12 h.
    pub fn standard() -> RetrySchedule {
        RetrySchedule([30, 60, 300, 900, 3600, 10_800, 21_600, 43_200].map(Duration::from_secs).to_vec())
    }

    /// WIRE.md 1.5: at most 30 retries, at least 30 s apart.
    pub fn zenvia() -> RetrySchedule {
        RetrySchedule(vec![Duration::from_secs(30); 30])
    }

    /// The delay after `attempts` attempts, or none if they were all.
    pub fn delay_after(&self, attempts: u32) -> Option<Duration> {
        let retry = usize::try_from(attempts.checked_sub(1)?).ok()?;
        self.0.get(retry).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_endpoints() {
        for (text, error) in [
            ("https://hooks.example.com/a?b=c", None),
            ("http://127.0.0.1:8080", None),
            ("http://[::1]/", None),
            ("ftp://example.com/", Some(UrlError::Scheme("ftp".into()))),
            ("https://user:secret@example.com/", Some(UrlError::Credentials)),
            ("https://user@example.com/", Some(UrlError::Credentials)),
            ("https://example.com/#part", Some(UrlError::Fragment)),
            ("example.com", Some(UrlError::Malformed(url::ParseError::RelativeUrlWithoutBase))),
            ("https://", Some(UrlError::Malformed(url::ParseError::EmptyHost))),
        ] {
            assert_eq!(EndpointUrl::parse(text).err(), error, "{text}");
        }
        let of = |length: usize, letter: &str| format!("https://h/{}", letter.repeat(length - "https://h/".len()));
        assert!(EndpointUrl::parse(&of(EndpointUrl::MAX_LENGTH, "a")).is_ok());
        assert_eq!(EndpointUrl::parse(&of(EndpointUrl::MAX_LENGTH + 1, "a")), Err(UrlError::TooLong));
        // Kept as `%C3%A9`: it could not be read again if only what was written counted.
        assert_eq!(EndpointUrl::parse(&of(EndpointUrl::MAX_LENGTH, "é")), Err(UrlError::TooLong));
        let kept = EndpointUrl::parse(&of(300, "é")).expect("short enough");
        assert_eq!(EndpointUrl::parse(kept.as_str()), Ok(kept));
    }

    #[test]
    fn a_format_has_one_name() {
        for (name, format) in Format::ALL {
            assert_eq!((format.as_str(), serde_json::to_value(format).expect("text")), (name, name.into()));
        }
    }

    #[test]
    fn a_type_pattern_is_exact_a_prefix_or_any() {
        for (pattern, kind, matches) in [
            ("lead.created", "lead.created", true),
            ("lead.created", "lead.created.x", false),
            ("lead.*", "lead.created", true),
            ("lead.*", "lead.", true),
            ("lead.*", "lead", false),
            ("*", "", true),
            ("*", "MESSAGE", true),
            ("message", "MESSAGE", false),
        ] {
            assert_eq!(TypePattern::parse(pattern).expect(pattern).matches(kind), matches, "{pattern} {kind}");
        }
        for wrong in ["", "*.created", "a*b", "**"] {
            assert!(TypePattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_schedule_ends() {
        let schedule = RetrySchedule::standard();
        assert_eq!(schedule.delay_after(0), None);
        assert_eq!(schedule.delay_after(1), Some(Duration::from_secs(30)));
        assert_eq!(schedule.delay_after(8), Some(Duration::from_secs(43_200)));
        assert_eq!(schedule.delay_after(9), None);
    }
}
