//! `posthaste listen`: a receiver for trying things out. It verifies, prints, and can be told to misbehave.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    duration, harmless, say,
    verify::{self, Key, Verdict},
};
use crate::model::Timestamp;

/// Run a receiver that verifies and prints.
///
/// It answers 204, unless it is told to fail or to hang. Signatures of both schemes are verified, and what is not signed with the secret gets a
/// 401; without a secret, the requests are printed unchecked.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste listen --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n  posthaste listen --listen 127.0.0.1:9001 --fail 500\n  posthaste listen --fail 503 --fail-rate 0.3\n  posthaste listen --hang"
)]
pub struct Arguments {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", value_parser = address)]
    listen: SocketAddr,
    /// What to verify with: whsec_…, whsk_… or whpk_… (standard), 64 hexadecimal characters (hub). Can be given several times.
    #[arg(long, value_name = "SECRET", env = "POSTHASTE_SECRET", hide_env_values = true)]
    secret: Vec<Key>,
    /// Answer with this status instead of 204.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    fail: Option<u16>,
    /// Fail only this share of the requests, 0 to 1 (with 500, unless --fail says otherwise).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    fail_rate: Option<f64>,
    /// Never answer.
    #[arg(long, conflicts_with_all = ["fail", "fail_rate"])]
    hang: bool,
    /// Wait so long before each answer.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    delay: Option<Duration>,
    /// Print one line per request, without its body.
    #[arg(long, short)]
    quiet: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:9000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "write a number from 0 to 1".to_owned())
}

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 4_096;

/// The largest body (bytes) that is read, as it comes.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

/// The longest body (characters) that is printed.
const LONGEST_PRINT: usize = 4_000;

/// Ids that are remembered to recognise doubles.
const REMEMBERED: usize = 1_000_000;

struct Receiver {
    arguments: Arguments,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    verified: u64,
    wrong: u64,
    doubles: u64,
    /// What of `--fail-rate` is owed: it grows by the share with every request, and one fails whenever it is whole.
    owed: f64,
    ids: HashSet<String>,
    order: VecDeque<String>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}: choose another address by --listen", arguments.listen))?;
    say(format_args!("listening on http://{}/ ({}), Ctrl-C ends it\n", listener.local_addr()?, behaviour(&arguments)));
    let receiver = Arc::new(Receiver { arguments, seen: Mutex::default() });
    tokio::select! {
        served = serve(&receiver, listener) => served?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    let seen = receiver.seen();
    let Seen { requests, verified, wrong, doubles, .. } = &*seen;
    say(format_args!("{requests} requests: {verified} verified, {wrong} not verified, {doubles} seen before\n"));
    Ok(())
}

fn behaviour(arguments: &Arguments) -> String {
    let code = arguments.fail.unwrap_or(500);
    match (arguments.hang, arguments.fail, arguments.fail_rate) {
        (true, _, _) => "never answers".to_owned(),
        (_, Some(code), None) => format!("answers {code}"),
        (_, _, Some(share)) => format!("answers {code} to {:.0} % of the requests", share * 100.0),
        (_, None, None) => "answers 204".to_owned(),
    }
}

async fn serve(receiver: &Arc<Receiver>, listener: TcpListener) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = listener.accept().await?;
        let receiver = receiver.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| receiver.clone().answer(request, peer));
            // A connection that breaks is the sender's affair, and it is seen there.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

impl Receiver {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let status = match Limited::new(body, LARGEST_BODY).collect().await {
            Ok(body) => self.judge(&head, &body.to_bytes(), peer),
            Err(error) => {
                self.print(&format!("{} {peer}  the request broke off: {}\n", clock(), harmless(&error.to_string())));
                StatusCode::BAD_REQUEST
            }
        };
        if self.arguments.hang {
            std::future::pending::<()>().await;
        }
        if let Some(delay) = self.arguments.delay {
            tokio::time::sleep(delay).await;
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Ok(response)
    }

    /// Verifies, prints and decides on the answer.
    fn judge(&self, head: &http::request::Parts, body: &[u8], peer: SocketAddr) -> StatusCode {
        let (verdict, plain) = match verify::plain(&head.headers, body) {
            Ok(plain) => (verify::verify(&head.headers, &plain, &self.arguments.secret, Timestamp::now().as_second()), plain),
            Err(why) => (Verdict::Wrong(why), Vec::new()),
        };
        let id = verify::identity(&head.headers).unwrap_or("-");
        let (double, fails) = {
            let mut seen = self.seen();
            seen.count(&verdict);
            (seen.is_double(id), seen.fails(&self.arguments))
        };
        let status = match (fails, &verdict) {
            (true, _) => StatusCode::from_u16(self.arguments.fail.unwrap_or(500)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            // A receiver that cannot trust a request refuses it.
            (false, Verdict::Wrong(_)) => StatusCode::UNAUTHORIZED,
            (false, Verdict::Verified(_) | Verdict::NotChecked(_) | Verdict::Unsigned) => StatusCode::NO_CONTENT,
        };
        let again = if double { "  seen before" } else { "" };
        self.print(&self.lines(head, &plain, &format!("from {peer}  {}", harmless(id)), &format!("{verdict}{again}"), status));
        status
    }

    fn lines(&self, head: &http::request::Parts, plain: &[u8], whence: &str, verdict: &str, status: StatusCode) -> String {
        let answered = if self.arguments.hang { "no answer".to_owned() } else { status.as_u16().to_string() };
        let mut text = format!(
            "{} {} {}  {whence}  {} bytes  {} -> {answered}\n",
            clock(),
            head.method,
            harmless(head.uri.path()),
            plain.len(),
            harmless(verdict),
        );
        if !self.arguments.quiet {
            let body = String::from_utf8_lossy(plain);
            let shown: String = body.chars().take(LONGEST_PRINT).collect();
            let more = if shown.len() < body.len() { " …" } else { "" };
            text.push_str(&format!("    {}{more}\n", harmless(&shown)));
        }
        text
    }

    fn print(&self, text: &str) {
        // Who listens without looking (`> /dev/null`, a closed pipe) still wants to answer.
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count(&mut self, verdict: &Verdict) {
        self.requests += 1;
        match verdict {
            Verdict::Verified(_) => self.verified += 1,
            Verdict::Wrong(_) => self.wrong += 1,
            Verdict::NotChecked(_) | Verdict::Unsigned => {}
        }
    }

    fn is_double(&mut self, id: &str) -> bool {
        if id == "-" {
            return false;
        }
        if !self.ids.insert(id.to_owned()) {
            self.doubles += 1;
            return true;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED {
            self.order.pop_front().map(|oldest| self.ids.remove(&oldest));
        }
        false
    }

    fn fails(&mut self, arguments: &Arguments) -> bool {
        let Some(share) = arguments.fail_rate else { return arguments.fail.is_some() };
        self.owed += share;
        let fails = self.owed >= 1.0;
        if fails {
            self.owed -= 1.0;
        }
        fails
    }
}

fn clock() -> String {
    Timestamp::now().strftime("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_fails() {
        let arguments = |share| Arguments {
            listen: "127.0.0.1:0".parse().expect("address"),
            secret: Vec::new(),
            fail: None,
            fail_rate: Some(share),
            hang: false,
            delay: None,
            quiet: true,
        };
        for (share, failed) in [(0.0, 0), (0.25, 25), (1.0, 100)] {
            let mut seen = Seen::default();
            assert_eq!((0..100).filter(|_| seen.fails(&arguments(share))).count(), failed, "{share}");
        }
    }

    #[test]
    fn an_id_that_comes_again_is_a_double() {
        let mut seen = Seen::default();
        assert_eq!(["a", "b", "a", "-", "-"].map(|id| seen.is_double(id)), [false, false, true, false, false]);
        assert_eq!(seen.doubles, 1);
    }
}
