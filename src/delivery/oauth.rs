//! Access tokens: fetched before the first delivery of an endpoint, shared by all that follow, renewed before they expire (WIRE.md 1.4, section 0
//! row 9; RFC 6749).
//!
//! An endpoint lives on one thread, and so do its [`Tokens`]: a fetch is a task of that thread, and however many deliveries want the token, there
//! is one. It goes on when the delivery that began it is dropped, because others wait for it too. From [`EARLY`] of a token's life on, the next
//! delivery begins a renewal and takes the old token; only when that is (nearly) over does anybody wait.
//!
//! A token endpoint is as hostile as a receiver, and gets the same: the address policy, TLS, proxy, the deadlines for connecting and answering, and a
//! limit on what is read. What goes wrong there counts like a failure of the endpoint, with its weight ([`Failure::Token`]), except what is our own
//! fault. Each fetch has a connection of its own: one in an hour is not worth a place in the pool.
//!
//! With a refresh token that is what is asked with first. When it is refused, the client's own credentials are used from then on. One that comes in
//! place of it is used instead and handed to the registry ([`RefreshTokens`]), whose word counts: another instance may have been there first.
//!
//! Neither tokens nor what they are got with are ever logged, nor is any text of a token endpoint but the code of its error.

mod answer;
mod request;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::{
    answer::Granted,
    request::{Ask, With},
};
use super::{
    Shared, classify,
    client::{Connector, Http1, Http2, Link, Phase},
};
use crate::model::{ClientTls, Endpoint, Failure, OAuth2, Outcome, Secret, Text};

/// The part of its life after which a token is renewed, and after which nobody is given it any more.
const EARLY: f64 = 0.8;
const LATE: f64 = 0.95;

/// The life of a token of which neither its answer nor its endpoint says anything. A 401 ends it sooner.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Longer lives are cut: a month of use without renewal proves nothing, and the arithmetic stays far from its limits.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// After a renewal that failed while the old token still lives, the next one begins after this part of its life, or this time.
const PAUSE: f64 = 0.05;
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Tokens of an endpoint to which nothing is sent are forgotten after this.
const KEPT: Duration = Duration::from_secs(3600);

/// Bytes of an answer that are read. Tokens are a few kilobytes, and must fit into a header.
const ANSWER_LIMIT: usize = 64 * 1024;

/// What finds the refresh token of an endpoint in place of the one that was given, and what keeps it.
pub struct RefreshTokens {
    /// Endpoint, and the token that was given.
    pub load: Box<LoadToken>,
    /// Endpoint, the token that was given, and the one in its place. Returns at once.
    pub store: Box<StoreToken>,
}

type LoadToken = dyn Fn(&Text, &Secret) -> Option<Secret> + Send + Sync;
type StoreToken = dyn Fn(&Text, &Secret, Secret) + Send + Sync;

/// A token as it is sent.
pub struct Token {
    header: HeaderValue,
    renewed_from: Instant,
    given_until: Instant,
    lifetime: Duration,
}

type Fetched = Result<Rc<Token>, Failure>;

/// The access tokens of one endpoint.
pub struct Tokens {
    endpoint: Text,
    config: Arc<OAuth2>,
    tls: Option<Arc<ClientTls>>,
    ask: Ask,
    state: RefCell<State>,
    used: Cell<Instant>,
}

#[derive(Default)]
struct State {
    token: Option<Rc<Token>>,
    /// The fetch that is under way.
    fetch: Option<watch::Receiver<Option<Fetched>>>,
    /// No renewal before this, because the last one failed.
    paused_until: Option<Instant>,
    refresh: Refresh,
}

/// What is known of refresh tokens here.
#[derive(Default)]
struct Refresh {
    /// The one to be used.
    token: Option<Secret>,
    /// The last one that was refused, or replaced.
    spent: Option<Secret>,
    /// Whether the one that was given is spent.
    given_is_spent: bool,
}

impl Token {
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl Tokens {
    /// Errors name what is wrong with the endpoint.
    pub fn new(endpoint: &Endpoint, config: &Arc<OAuth2>, shared: &Shared, now: Instant) -> Result<Tokens, String> {
        let identity = endpoint.tls.as_deref().filter(|_| config.url.is_https());
        let tls = identity.map(|identity| shared.tls.of(identity)).transpose()?;
        Ok(Tokens {
            endpoint: endpoint.id.clone(),
            config: Arc::clone(config),
            tls: endpoint.tls.clone(),
            ask: Ask::new(config, tls, &shared.user_agent)?,
            state: RefCell::default(),
            used: Cell::new(now),
        })
    }

    /// Whether these are the tokens of such an endpoint.
    pub fn is_of(&self, config: &Arc<OAuth2>, tls: Option<&Arc<ClientTls>>) -> bool {
        self.config == *config && self.tls.as_ref() == tls
    }

    /// Whether anybody may ask for them again soon.
    pub fn is_wanted(self: &Rc<Tokens>, now: Instant) -> bool {
        Rc::strong_count(self) > 1 || now.duration_since(self.used.get()) < KEPT
    }

    /// A token that can be sent now. Waits only if there is none.
    pub async fn get(self: &Rc<Tokens>, shared: &Arc<Shared>, connector: &Rc<Connector>) -> Fetched {
        let now = Instant::now();
        self.used.set(now);
        let mut fetch = {
            let mut state = self.state.borrow_mut();
            match state.token.clone().filter(|token| now < token.given_until) {
                Some(token) => {
                    let is_due = now >= token.renewed_from && state.paused_until.is_none_or(|until| now >= until);
                    if is_due && state.fetch.is_none() {
                        state.fetch = Some(self.start(shared, connector));
                    }
                    return Ok(token);
                }
                None => state.fetch.get_or_insert_with(|| self.start(shared, connector)).clone(),
            }
        };
        match fetch.wait_for(Option::is_some).await {
            Ok(fetched) => fetched.clone().expect("that is what was waited for"),
            Err(_) => Err(Failure::Local("token endpoint: the fetch was cut off".to_owned())),
        }
    }

    /// Forgets a token that the receiver has refused, unless there is another one already.
    pub fn refuse(&self, refused: &Rc<Token>) {
        let mut state = self.state.borrow_mut();
        if state.token.as_ref().is_some_and(|token| Rc::ptr_eq(token, refused)) {
            state.token = None;
        }
    }

    fn start(self: &Rc<Tokens>, shared: &Arc<Shared>, connector: &Rc<Connector>) -> watch::Receiver<Option<Fetched>> {
        let (sender, receiver) = watch::channel(None);
        let (tokens, shared, connector) = (Rc::clone(self), Arc::clone(shared), Rc::clone(connector));
        tokio::task::spawn_local(async move {
            let fetched = tokens.fetch(&shared, &connector).await;
            tokens.fetched(&fetched, Instant::now());
            // Nobody may wait: then it was a renewal, or who waited has given up.
            let _ = sender.send(Some(fetched));
        });
        receiver
    }

    /// Takes note of what came of a fetch.
    fn fetched(&self, fetched: &Fetched, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.fetch = None;
        match fetched {
            Ok(token) => (state.token, state.paused_until) = (Some(Rc::clone(token)), None),
            Err(failure) => {
                let pause = state.token.as_ref().map_or(SHORTEST_PAUSE, |token| token.lifetime.mul_f64(PAUSE).max(SHORTEST_PAUSE));
                state.paused_until = Some(now + pause);
                tracing::debug!(endpoint = %self.endpoint, class = failure.class(), "no access token");
            }
        }
    }

    async fn fetch(&self, shared: &Shared, connector: &Connector) -> Fetched {
        // Twice, because another instance may have exchanged the first one for another meanwhile.
        for _ in 0..2 {
            let Some(refresh) = self.refresh_token(shared) else { break };
            match self.ask(With::RefreshToken(&refresh), shared, connector).await {
                Ok((granted, token)) => {
                    self.rotate(granted.refresh_token, Some(refresh), shared);
                    return Ok(token);
                }
                Err(Failure::Token { cause, .. }) if matches!(*cause, Failure::Status(400 | 401 | 403)) => self.spend(refresh),
                Err(failure) => return Err(failure),
            }
        }
        let (granted, token) = self.ask(With::ClientCredentials, shared, connector).await?;
        self.rotate(granted.refresh_token, None, shared);
        Ok(token)
    }

    /// The refresh token to be used now, if there is one left.
    fn refresh_token(&self, shared: &Shared) -> Option<Secret> {
        let given = self.config.refresh_token.as_ref()?;
        let kept = shared.refresh_tokens.get().and_then(|kept| (kept.load)(&self.endpoint, given));
        let refresh = &self.state.borrow().refresh;
        let kept = kept.filter(|kept| refresh.spent.as_ref() != Some(kept));
        kept.or_else(|| refresh.token.clone()).or_else(|| (!refresh.given_is_spent).then(|| given.clone()))
    }

    fn spend(&self, refresh: Secret) {
        self.state.borrow_mut().refresh = Refresh { token: None, spent: Some(refresh), given_is_spent: true };
    }

    /// Takes over the refresh token that came with an access token: it stands in the place of the one that was asked with.
    fn rotate(&self, new: Option<Secret>, asked_with: Option<Secret>, shared: &Shared) {
        // An owner who gave none wants none.
        let Some(given) = &self.config.refresh_token else { return };
        let Some(new) = new.filter(|new| asked_with.as_ref() != Some(new)) else { return };
        {
            let refresh = &mut self.state.borrow_mut().refresh;
            refresh.spent = asked_with.or(refresh.spent.take());
            refresh.token = Some(new.clone());
            refresh.given_is_spent = true;
        }
        if let Some(kept) = shared.refresh_tokens.get() {
            (kept.store)(&self.endpoint, given, new);
        }
    }

    /// One request to the token endpoint.
    async fn ask(&self, with: With<'_>, shared: &Shared, connector: &Connector) -> Result<(Granted, Rc<Token>), Failure> {
        let asked_at = Instant::now();
        let (status, body) = self.exchange(with, shared, connector).await.map_err(|cause| no_token(cause, ""))?;
        if let Outcome::Failed(cause) = classify::status(status) {
            return Err(no_token(cause, &answer::error_code(&body)));
        }
        let granted = Granted::read(&body).map_err(|wrong| no_token(Failure::Protocol(wrong), ""))?;
        let lifetime = granted.lifetime.or(self.config.expires_in).unwrap_or(LIFETIME).min(LONGEST);
        // It began when it was made, which is after we asked.
        let token = Rc::new(Token {
            header: granted.header.clone(),
            renewed_from: asked_at + lifetime.mul_f64(EARLY),
            given_until: asked_at + lifetime.mul_f64(LATE),
            lifetime,
        });
        Ok((granted, token))
    }

    /// Status and body of the answer.
    async fn exchange(&self, with: With<'_>, shared: &Shared, connector: &Connector) -> Result<(http::StatusCode, bytes::Bytes), Failure> {
        let config = &shared.config;
        let target = &self.ask.target;
        let now = Instant::now();
        let phase = Cell::new(Phase::Resolving);
        let connect = async {
            let (stream, http2) = connector.connect(&target.origin, &phase).await?;
            shared.metrics.connections_opened_total.increment(1);
            match http2 {
                true => Ok(Link::alone(Http2::start(stream, now).await?)),
                false => Http1::start(stream, now).await.map(Link::Http1),
            }
        };
        let mut timer = Box::pin(sleep_until(now + config.connect_timeout));
        let mut link = tokio::select! {
            biased;
            opened = connect => opened?,
            () = &mut timer => return Err(phase.get().timed_out(config.connect_timeout)),
        };
        timer.as_mut().reset(Instant::now() + config.response_timeout);
        let answer = link.exchange(target, self.ask.message(with), timer.as_mut(), ANSWER_LIMIT).await.map_err(|lost| lost.failure)?;
        match answer.broken {
            Some(failure) => Err(failure),
            None if !answer.is_whole() => Err(Failure::Protocol(format!("its answer is longer than {ANSWER_LIMIT} bytes"))),
            None => Ok((answer.head.status, answer.body)),
        }
    }
}

/// The failure of a delivery that has no token to be sent with.
fn no_token(cause: Failure, code: &str) -> Failure {
    let text = match &cause {
        Failure::Local(text) => return Failure::Local(format!("token endpoint: {text}")),
        Failure::Unreachable { text, ours } => return Failure::Unreachable { text: format!("token endpoint: {text}"), ours: *ours },
        Failure::Status(status) | Failure::Redirect(status) if code.is_empty() => format!("status {status}"),
        Failure::Status(status) | Failure::Redirect(status) => format!("status {status} ({code})"),
        Failure::AddressRefused(text) | Failure::Tls(text) | Failure::Protocol(text) => text.clone(),
        other => other.class().to_owned(),
    };
    Failure::Token { text: format!("token endpoint: {text}"), cause: Box::new(cause) }
}
