//! What the scenarios stand on.

pub mod daemon;
pub mod expressions;
pub mod kafka;
pub mod receiver;
pub mod redis;
pub mod signed;
pub mod verify;

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A name that no other test has, also not one of an earlier run on the same servers.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{what}-{}-{:x}-{}", std::process::id(), since_epoch.as_micros(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Ports on which nothing listens now, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Asks until the answer is there; panics with `what` when it takes longer than `within`.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The value that `tests/run` exports.
fn exported(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by tests/run, which starts what they need"))
}
