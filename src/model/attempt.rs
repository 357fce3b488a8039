//! An attempt: one HTTP request of a delivery, and what it told us. A failed attempt is data, not an error.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Timestamp;

#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub started_at: Timestamp,
    /// From the start of the attempt (resolving included) to the end of the answer or the failure.
    pub elapsed: Duration,
    /// Its end, as intervals are measured: what comes of it need not look at the clock again.
    pub ended: Instant,
    /// Time of this attempt spent on obtaining a connection; zero on a pooled one.
    pub connecting: Duration,
    /// 1 for the first attempt.
    pub number: u32,
    pub outcome: Outcome,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The first bytes of the answer's body (at most `delivery.answer_limit`), as they came.
    pub answer: Bytes,
    /// What the endpoint asked for by `Retry-After`, capped.
    pub retry_after: Option<Duration>,
    /// Whether a pooled connection served it.
    pub reused: bool,
}

impl Attempt {
    /// From `time` to the end of the attempt.
    pub fn seconds_since(&self, time: Timestamp) -> f64 {
        let seconds = (self.started_at.as_second() - time.as_second()) as f64;
        let rest = f64::from(self.started_at.subsec_nanosecond() - time.subsec_nanosecond()) * 1e-9;
        seconds + rest + self.elapsed.as_secs_f64()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx.
    Delivered,
    Failed(Failure),
}

/// Why an attempt failed. The set is closed: `class` is a metric label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The name does not exist.
    UnknownHost,
    /// The address policy refuses the URL's host; the text names the rule and the key that would allow it.
    AddressRefused(String),
    Refused,
    /// Reset or closed before a whole answer came.
    Reset,
    ConnectTimeout,
    TlsTimeout,
    /// The peer's certificate or handshake was not acceptable.
    Tls(String),
    /// No answer head within the response deadline.
    ResponseTimeout,
    /// The head came, the body did not end within the deadline.
    BodyTimeout,
    /// An answer that is no HTTP.
    Protocol(String),
    /// A 3xx: redirects are never followed.
    Redirect(u16),
    /// Any other answer that is no 2xx.
    Status(u16),
    /// The payload cannot be built for this endpoint; another attempt would not help.
    Payload(String),
    /// There was no access token to send along (WIRE.md 1.5): why, for the rules, and in words. What is our own fault is `Local` here too.
    Token {
        cause: Box<Failure>,
        text: String,
    },
    /// Its name could not be resolved (no answer, or that of a broken server), or there is no way to its address. Our own resolver or uplink may be the
    /// reason, so it is `ours` until somebody else is seen to be reached (`health::own_fault`).
    Unreachable {
        text: String,
        ours: bool,
    },
    /// Our side: resolver down, no route, no descriptors, a bug.
    Local(String),
}

/// Whose fault a failure is. Ours never counts against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Endpoint,
    Network,
    Us,
}

impl Failure {
    /// The metric label of this failure.
    pub fn class(&self) -> &'static str {
        match self {
            Failure::UnknownHost => "unknown_host",
            Failure::AddressRefused(_) => "address_refused",
            Failure::Refused => "refused",
            Failure::Reset => "reset",
            Failure::ConnectTimeout => "connect_timeout",
            Failure::TlsTimeout => "tls_timeout",
            Failure::Tls(_) => "tls",
            Failure::ResponseTimeout => "response_timeout",
            Failure::BodyTimeout => "body_timeout",
            Failure::Protocol(_) => "protocol",
            Failure::Redirect(_) => "redirect",
            Failure::Status(code) if *code == 429 => "status_429",
            Failure::Status(code) if *code < 500 => "status_4xx",
            Failure::Status(_) => "status_5xx",
            Failure::Payload(_) => "payload",
            Failure::Token { .. } => "token_endpoint",
            Failure::Unreachable { ours: false, .. } => "unreachable",
            Failure::Unreachable { ours: true, .. } | Failure::Local(_) => "local",
        }
    }

    pub fn is_timeout(&self) -> bool {
        match self {
            Failure::Token { cause, .. } => cause.is_timeout(),
            other => matches!(other, Failure::ConnectTimeout | Failure::TlsTimeout | Failure::ResponseTimeout | Failure::BodyTimeout),
        }
    }

    pub fn blame(&self) -> Blame {
        match self {
            Failure::UnknownHost
            | Failure::AddressRefused(_)
            | Failure::Tls(_)
            | Failure::Protocol(_)
            | Failure::Redirect(_)
            | Failure::Status(_) => Blame::Endpoint,
            Failure::Refused
            | Failure::Reset
            | Failure::ConnectTimeout
            | Failure::TlsTimeout
            | Failure::ResponseTimeout
            | Failure::BodyTimeout => Blame::Network,
            Failure::Unreachable { ours: false, .. } => Blame::Network,
            Failure::Unreachable { ours: true, .. } | Failure::Payload(_) | Failure::Local(_) => Blame::Us,
            Failure::Token { cause, .. } => cause.blame(),
        }
    }
}

impl Outcome {
    /// The metric label of this outcome.
    pub fn class(&self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Failed(failure) => failure.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_end_is_counted_from_any_time_before() {
        let attempt = Attempt {
            started_at: "2026-01-15T12:00:01.25Z".parse().expect("a time"),
            elapsed: Duration::from_millis(500),
            ended: Instant::now(),
            connecting: Duration::ZERO,
            number: 1,
            outcome: Outcome::Delivered,
            status: Some(200),
            answer: Bytes::new(),
            retry_after: None,
            reused: false,
        };
        let seconds = attempt.seconds_since("2026-01-15T11:59:59.75Z".parse().expect("a time"));
        assert!((seconds - 2.0).abs() < 1e-9, "{seconds}");
    }
}
