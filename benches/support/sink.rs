//! A receiver that costs as little as one can: it reads requests with a known `content-length` and answers 200, on one thread.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub struct Sink {
    pub address: SocketAddr,
    count: Arc<AtomicU64>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

/// What a request told, if the sink was asked to look: when it came, to which path, with which `webhook-id`.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub at: Duration,
    pub path: String,
    pub id: String,
}

impl Sink {
    /// Answers at once; `look` keeps path, id and time of every request.
    pub fn start(look: bool) -> Sink {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("it can be");
        let address = listener.local_addr().expect("bound");
        let count = Arc::new(AtomicU64::new(0));
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let (counted, kept) = (Arc::clone(&count), look.then(|| Arc::clone(&arrivals)));
        std::thread::Builder::new()
            .name("sink".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
                runtime.block_on(async move {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    loop {
                        let (stream, _) = listener.accept().await.expect("accepted");
                        tokio::spawn(answer(stream, Arc::clone(&counted), kept.clone()));
                    }
                });
            })
            .expect("a thread");
        Sink { address, count, arrivals }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.arrivals.lock().expect("not poisoned").clear();
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().expect("not poisoned").clone()
    }
}

/// Time since the epoch: comparable over processes of one machine.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

async fn answer(mut stream: TcpStream, count: Arc<AtomicU64>, kept: Option<Arc<Mutex<Vec<Arrival>>>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let head = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]);
        let header = |name: &str| {
            text.lines().find_map(|line| {
                line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).expect("a content-length");
        let arrival = kept.as_ref().map(|_| Arrival {
            at: now(),
            path: text.split_whitespace().nth(1).unwrap_or_default().to_owned(),
            id: header("webhook-id").unwrap_or_default(),
        });
        while buffer.len() < head + length {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        buffer.drain(..head + length);
        if let (Some(kept), Some(arrival)) = (&kept, arrival) {
            kept.lock().expect("not poisoned").push(arrival);
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
