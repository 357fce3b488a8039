//! Redis: the server that all tests share, and servers of one's own, to freeze and to kill.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, exported, free_ports, unique};

/// `redis://…` of the shared server.
pub fn url() -> String {
    exported("POSTHASTE_TEST_REDIS")
}

/// A prefix for keys that no other test has.
pub fn prefix() -> String {
    unique("test")
}

/// A server of one test. Dropping it kills it.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub fn start() -> Server {
        let [port] = free_ports();
        let mut server = Server { child: spawn(port), port };
        server.wait();
        server
    }

    fn wait(&mut self) {
        eventually("a redis of its own listens", Duration::from_secs(20), || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// It keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL; what it held is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Server::kill`], on the same port, empty.
    pub fn restart(&mut self) {
        self.child = spawn(self.port);
        self.wait();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server: run the tests by tests/run, which installs it")
}

#[test]
fn the_shared_redis_answers_and_one_of_ones_own_can_be_frozen_killed_and_restarted() {
    use std::io::{Read, Write};

    let ping = |url: &str| {
        let mut stream = TcpStream::connect(url.strip_prefix("redis://").unwrap()).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(b"PING\r\n").ok()?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).ok()?;
        (answer == *b"+PONG\r\n").then_some(())
    };
    let soon = Duration::from_secs(10);
    assert_ne!(prefix(), prefix());
    eventually("the shared one answers", soon, || ping(&url()));

    let mut own = Server::start();
    eventually("it answers", soon, || ping(&own.url()));
    own.freeze();
    assert_eq!(ping(&own.url()), None, "frozen, it takes the connection and says nothing");
    own.thaw();
    eventually("it answers again", soon, || ping(&own.url()));
    own.kill();
    assert_eq!(ping(&own.url()), None);
    own.restart();
    eventually("it is back", soon, || ping(&own.url()));
}
