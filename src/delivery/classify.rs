//! Classification: what an answer, or the lack of one, means.
//!
//! The classes are those of [`Failure`]. What matters most is whose fault a failure is: a missing route or a used-up descriptor is ours
//! and must never count against an endpoint, so errors of the system are judged by their number, not by their text.

use std::{error::Error, io, time::Duration};

use http::{HeaderMap, StatusCode, header};
use jiff::{civil::DateTime, fmt::strtime::BrokenDownTime, tz::TimeZone};

use crate::model::{Failure, Outcome, Timestamp};

/// The longest wait that an endpoint may ask for (DESIGN.md section 9).
pub const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

pub fn status(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        code @ 300..=399 => Outcome::Failed(Failure::Redirect(code)),
        code @ 100..=199 => Outcome::Failed(Failure::Protocol(format!("the answer is a {code}, which ends no request"))),
        code => Outcome::Failed(Failure::Status(code)),
    }
}

/// What `Retry-After` asks for: seconds or an HTTP date (RFC 9110, 10.2.3), at most [`RETRY_AFTER_LIMIT`]. A date in the past is zero;
/// anything else is as if it were not there.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds are just a very long time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = http_date(text)?;
        Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

/// The three forms of RFC 9110, 5.6.7: all of them must be understood.
fn http_date(text: &str) -> Option<Timestamp> {
    let form = |form: &str| BrokenDownTime::parse(form, text).ok()?.to_datetime().ok();
    let date: DateTime =
        form("%a, %d %b %Y %H:%M:%S GMT").or_else(|| form("%A, %d-%b-%y %H:%M:%S GMT")).or_else(|| form("%a %b %e %H:%M:%S %Y"))?;
    TimeZone::UTC.to_timestamp(date).ok()
}

/// An error of the exchange on a connection that stood.
pub fn exchange(error: &hyper::Error) -> Failure {
    if let Some(tls) = find::<rustls::Error>(error) {
        return Failure::Tls(tls.to_string());
    }
    if error.is_parse() {
        return Failure::Protocol(with_causes(error));
    }
    if error.is_user() {
        return Failure::Local(with_causes(error));
    }
    if find_io(error).is_some()
        || error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || error.is_body_write_aborted()
    {
        return Failure::Reset;
    }
    Failure::Protocol(with_causes(error))
}

/// An error of opening a TCP connection.
pub fn connect(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Failure::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => Failure::Reset,
        Kind::TimedOut => Failure::ConnectTimeout,
        Kind::HostUnreachable | Kind::NetworkUnreachable => Failure::Unreachable { text: format!("cannot connect: {error}"), ours: true },
        // No port, no descriptor, no memory, a firewall of our own: whatever else stops a SYN stops it here.
        _ => Failure::Local(format!("cannot connect: {error}")),
    }
}

/// An error of a TLS handshake.
pub fn handshake(error: &(dyn Error + 'static)) -> Failure {
    match find::<rustls::Error>(error) {
        Some(tls) => Failure::Tls(tls.to_string()),
        None if find_io(error).is_some() => Failure::Reset,
        None => Failure::Tls(with_causes(error)),
    }
}

/// The first cause of a kind. An `io::Error` hides the error it wraps from `source`, so it is looked into.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The innermost `io::Error`, if it tells of a connection that went away.
fn find_io(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    use io::ErrorKind as Kind;
    let mut kind = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        kind = io.map(io::Error::kind).or(kind);
        next = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    kind.filter(|kind| {
        matches!(
            kind,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof | Kind::NotConnected | Kind::TimedOut
        )
    })
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        for (code, class) in [
            (200, "delivered"),
            (204, "delivered"),
            (299, "delivered"),
            (301, "redirect"),
            (304, "redirect"),
            (400, "status_4xx"),
            (410, "status_4xx"),
            (429, "status_429"),
            (500, "status_5xx"),
            (503, "status_5xx"),
            (999, "status_5xx"),
            (101, "protocol"),
        ] {
            assert_eq!(status(StatusCode::from_u16(code).expect("a status")).class(), class, "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:00Z".parse().expect("a time");
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("86401", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wednesday, 21-Oct-15 07:28:00 GMT", Some(60)),
            ("Wed Oct 21 07:28:00 2015", Some(60)),
            ("Sun Nov  6 08:49:37 1994", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Wed, 21 Oct 2099 07:28:00 GMT", Some(86_400)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().expect(text));
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
        let mut odd = HeaderMap::new();
        odd.insert(header::RETRY_AFTER, http::HeaderValue::from_bytes(b"\xff").expect("a value"));
        assert_eq!(retry_after(&odd, now), None);
    }

    #[test]
    fn what_our_side_lacks_is_not_the_endpoints_fault() {
        // Linux numbers: EACCES, EMFILE, ENFILE, EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ENOBUFS, EHOSTUNREACH; ECONNREFUSED, ECONNRESET, ETIMEDOUT.
        for (number, class) in [
            (13, "local"),
            (24, "local"),
            (23, "local"),
            (99, "local"),
            (100, "local"),
            (101, "local"),
            (105, "local"),
            (113, "local"),
            (111, "refused"),
            (104, "reset"),
            (110, "connect_timeout"),
        ] {
            assert_eq!(connect(&io::Error::from_raw_os_error(number)).class(), class, "{number}");
        }
    }

    #[test]
    fn a_cause_is_found_however_deep_it_is_wrapped() {
        let tls = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError));
        assert_eq!(handshake(&tls).class(), "tls");
        let end = io::Error::other(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!(handshake(&end), Failure::Reset);
        let other = io::Error::other("odd");
        assert_eq!(handshake(&other).class(), "tls");
    }
}
