//! The bytes of a connection: plain or TLS, counted as open while it lives, and watched for whether the peer has said anything.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::{client::legacy::connect::Connection as _, rt::TokioIo};
use metrics::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What hyper-rustls makes of a TCP connection.
pub type Encrypted = MaybeHttpsStream<TokioIo<TcpStream>>;

pub struct Stream {
    bytes: Bytes,
    heard: Heard,
    open: Gauge,
}

enum Bytes {
    Plain(TcpStream),
    /// Boxed: the state of a TLS connection is some hundred bytes that a plain one need not carry.
    Tls(Box<TokioIo<Encrypted>>),
}

/// Whether any byte of an answer arrived since the request. A request on a pooled connection may be sent again only if none did.
#[derive(Clone, Default)]
pub struct Heard(Arc<AtomicBool>);

impl Heard {
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn anything(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub fn plain(tcp: TcpStream, open: &Gauge) -> Stream {
        Stream::new(Bytes::Plain(tcp), open)
    }

    /// Also says whether HTTP/2 was agreed upon.
    pub fn encrypted(stream: Encrypted, open: &Gauge) -> (Stream, bool) {
        let http2 = stream.connected().is_negotiated_h2();
        (Stream::new(Bytes::Tls(Box::new(TokioIo::new(stream))), open), http2)
    }

    fn new(bytes: Bytes, open: &Gauge) -> Stream {
        open.increment(1);
        Stream { bytes, heard: Heard::default(), open: open.clone() }
    }

    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(match &mut self.bytes {
            Bytes::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Bytes::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        })?;
        if into.filled().len() > before {
            self.heard.0.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Bytes::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Bytes::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.bytes {
            Bytes::Plain(tcp) => tcp.is_write_vectored(),
            Bytes::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Bytes::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Bytes::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
