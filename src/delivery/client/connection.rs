//! One exchange on one connection, and what was left of the connection afterwards.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, Sleep};

use super::{
    super::{
        classify,
        request::{Message, Target},
    },
    stream::{Heard, Stream},
};
use crate::model::Failure;

/// The longest head of an answer. What is longer is no answer to a webhook.
const HEAD_LIMIT: usize = 64 * 1024;

/// Exchanges at once on one HTTP/2 connection, if the peer allows as many.
const STREAMS: usize = 100;

/// An HTTP/1 connection, both halves.
pub struct Http1 {
    requests: http1::SendRequest<Full<Bytes>>,
    /// None once it has ended.
    connection: Option<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    heard: Heard,
    pub opened: Instant,
    /// Idle in the pool, it takes no request from then on.
    pub stale_at: Instant,
}

/// An HTTP/2 connection; a task of its own drives it.
pub struct Http2 {
    requests: RefCell<http2::SendRequest<Full<Bytes>>>,
    /// How many exchanges at once the peer allows; a request above it would wait inside of hyper until its deadline.
    allowed: Arc<AtomicUsize>,
    exchanges: Cell<usize>,
    pub opened: Instant,
    pub idle_since: Cell<Instant>,
}

/// A connection as an attempt holds it.
pub enum Link {
    Http1(Http1),
    Http2(Exchanging),
}

/// One of the exchanges on an HTTP/2 connection.
pub struct Exchanging(Rc<Http2>);

/// An answer, as much of it as is kept.
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Bytes,
    /// How the body ended, if not well.
    pub broken: Option<Failure>,
    /// Nothing of the answer is left on the connection.
    whole: bool,
}

/// There was no answer head.
pub struct Lost {
    pub failure: Failure,
    /// The peer cannot have answered this request on this connection, which may just have been closed while it was idle.
    pub unheard: bool,
}

impl Http1 {
    pub async fn start(stream: Stream, now: Instant) -> Result<Http1, Failure> {
        let heard = stream.heard();
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| classify::exchange(&error))?;
        Ok(Http1 { requests, connection: Some(Box::new(connection)), heard, opened: now, stale_at: now })
    }

    /// Lets the connection do what it can, and notices when it ends.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(&mut **connection).poll(cx).is_ready()
        {
            // Its error, if any, reaches whoever waits for the answer.
            self.connection = None;
        }
    }

    /// Whether it would take another request. Closed ones are noticed here when the system already knows.
    pub fn is_usable(&mut self) -> bool {
        if !self.requests.is_ready() {
            self.notice();
        }
        self.connection.is_some() && self.requests.is_ready()
    }

    /// Notices a peer that has closed. Nobody is woken: the next exchange polls again with a waker that counts.
    pub fn notice(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }
}

impl Http2 {
    pub async fn start(stream: Stream, now: Instant) -> Result<Rc<Http2>, Failure> {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(HEAD_LIMIT).expect("64 KiB fit"))
            // What endpoints send is small and read to a limit; the windows bound what they can make us hold.
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            // A connection whose peer is gone would otherwise take every request of its origin into a timeout.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(5))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| classify::exchange(&error))?;
        let allowed = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let told = Arc::clone(&allowed);
        let mut connection = connection;
        // It ends by itself when the last request side is dropped; its error reaches whoever waits for an answer.
        tokio::spawn(poll_fn(move |cx| {
            let state = Pin::new(&mut connection).poll(cx);
            told.store(connection.current_max_send_streams(), Ordering::Relaxed);
            state
        }));
        Ok(Rc::new(Http2 { requests: RefCell::new(requests), allowed, exchanges: Cell::new(0), opened: now, idle_since: Cell::new(now) }))
    }

    pub fn is_closed(&self) -> bool {
        self.requests.borrow().is_closed()
    }

    pub fn exchanges(&self) -> usize {
        self.exchanges.get()
    }

    pub fn has_room(&self) -> bool {
        self.exchanges() < self.allowed.load(Ordering::Relaxed).min(STREAMS)
    }
}

impl Exchanging {
    pub fn new(connection: Rc<Http2>) -> Exchanging {
        connection.exchanges.set(connection.exchanges.get() + 1);
        Exchanging(connection)
    }
}

impl Drop for Exchanging {
    fn drop(&mut self) {
        self.0.exchanges.set(self.0.exchanges.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl Link {
    /// For one exchange on a connection that nobody else will know.
    pub fn alone(connection: Rc<Http2>) -> Link {
        Link::Http2(Exchanging::new(connection))
    }

    /// Sends the message and reads the answer until `deadline`. The answer's body is kept up to `limit` bytes and not read further.
    pub async fn exchange(
        &mut self,
        target: &Target,
        message: Message,
        mut deadline: Pin<&mut Sleep>,
        limit: usize,
    ) -> Result<Answer, Lost> {
        let sent = match self {
            Link::Http1(link) => {
                link.heard.reset();
                Either::Left(link.requests.try_send_request(target.http1(message)))
            }
            Link::Http2(link) => Either::Right(link.0.requests.borrow_mut().try_send_request(target.http2(message))),
        };
        let mut sent = pin!(sent);
        let head = poll_fn(|cx| {
            self.drive(cx);
            if let Poll::Ready(result) = sent.as_mut().poll(&mut self.context(cx)) {
                return Poll::Ready(result.map_err(|mut lost| {
                    // Given back means: not a byte of it was written.
                    let unwritten = lost.take_message().is_some();
                    let unheard = unwritten || matches!(self, Link::Http1(link) if !link.heard.anything());
                    Lost { failure: classify::exchange(lost.error()), unheard }
                }));
            }
            ready!(deadline.as_mut().poll(cx));
            Poll::Ready(Err(Lost { failure: Failure::ResponseTimeout, unheard: false }))
        });
        let (head, body) = head.await?.into_parts();
        Ok(self.receive(head, body, deadline, limit).await)
    }

    async fn receive(&mut self, head: http::response::Parts, body: Incoming, mut deadline: Pin<&mut Sleep>, limit: usize) -> Answer {
        let mut kept = Kept { bytes: Vec::new(), limit };
        let mut body = pin!(body);
        let end = poll_fn(|cx| {
            let mut driven = false;
            loop {
                match body.as_mut().poll_frame(&mut self.context(cx)) {
                    Poll::Ready(None) => return Poll::Ready(End::Whole),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Broken(classify::exchange(&error))),
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data()
                            && !kept.take(&data)
                        {
                            return Poll::Ready(End::Cut);
                        }
                        driven = false;
                    }
                    Poll::Pending if driven => {
                        ready!(deadline.as_mut().poll(cx));
                        return Poll::Ready(End::Broken(Failure::BodyTimeout));
                    }
                    Poll::Pending => {
                        self.drive(cx);
                        driven = true;
                    }
                }
            }
        })
        .await;
        let (broken, whole) = match end {
            End::Whole => (None, true),
            End::Cut => (None, false),
            End::Broken(failure) => (Some(failure), false),
        };
        Answer { head, body: kept.bytes.into(), broken, whole }
    }

    /// An HTTP/1 connection is driven by whoever waits on it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Link::Http1(link) = self {
            link.drive(cx);
        }
    }

    /// What is polled beside an HTTP/1 connection changes only when that is driven, so it needs no waker: one would only wake the
    /// running task once more.
    fn context<'a>(&self, cx: &Context<'a>) -> Context<'a> {
        match self {
            Link::Http1(_) => Context::from_waker(Waker::noop()),
            Link::Http2(_) => Context::from_waker(cx.waker()),
        }
    }
}

impl Answer {
    /// The connection, if the next request may go over it.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

enum End {
    Whole,
    /// There is more than we keep.
    Cut,
    Broken(Failure),
}

/// The part of a body that is kept. It is copied, because a slice would hold the whole read buffer of the connection.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
}

impl Kept {
    /// False when there is more than fits.
    fn take(&mut self, data: &[u8]) -> bool {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        data.len() <= room
    }
}
