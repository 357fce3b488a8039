//! Kafka: the broker that all tests share, and brokers of one's own, to freeze and to kill.

use std::{
    io::Write as _,
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use posthaste::{
    log::{
        Cleanup, Log, TopicSpec,
        kafka::{Config, KafkaLog, Properties},
    },
    telemetry::metrics::Metrics,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{eventually, exported, free_ports, unique};

/// Feeds a topic by kcat, an ordinary producer, with the channel of each event as its key.
pub fn kcat(topic: &str, events: &[Value]) {
    let mut producer = Command::new("kcat")
        .args(["-P", "-b", &brokers(), "-t", topic, "-K", "\t"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is installed");
    let mut input = producer.stdin.take().expect("piped");
    for event in events {
        writeln!(input, "{}\t{event}", event["channel"].as_str().expect("a channel")).expect("kcat reads");
    }
    drop(input);
    assert!(producer.wait().expect("it ends").success());
}

/// `host:port` of the shared broker.
pub fn brokers() -> String {
    exported("POSTHASTE_TEST_KAFKA")
}

/// On the shared broker, with a group of its own.
pub fn config() -> Config {
    Config { brokers: brokers(), group: unique("group"), ..Config::default() }
}

pub fn with_properties(config: Config, properties: &[(&str, &str)]) -> Config {
    let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Config { properties: Properties(properties), ..config }
}

pub fn open(config: &Config) -> Arc<KafkaLog> {
    KafkaLog::open(config, Metrics::new()).unwrap()
}

/// A topic of posthaste's own kind with a name that no other test has.
pub fn topic(partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec { name: unique("topic").into(), partitions, cleanup, max_record: 1 << 20, internal: true }
}

pub fn retained(partitions: u32) -> TopicSpec {
    topic(partitions, Cleanup::Retain(Duration::from_secs(3600)))
}

pub async fn create(log: &dyn Log, topic: TopicSpec) -> Arc<str> {
    log.ensure(std::slice::from_ref(&topic)).await.unwrap();
    topic.name
}

/// A broker of one test. Dropping it kills it and removes its data.
pub struct Broker {
    child: Child,
    ports: [u16; 2],
    data: TempDir,
    settings: Vec<String>,
}

impl Broker {
    /// `settings` are lines of Kafka's server.properties.
    pub fn start(settings: &[&str]) -> Broker {
        let (data, ports) = (TempDir::new().unwrap(), free_ports());
        Broker::run(data, ports, settings.iter().map(ToString::to_string).collect())
    }

    /// As [`Broker::start`]; `settings` gets the port of the clients' listener and that of the controller.
    pub fn start_with(settings: impl FnOnce(u16, u16) -> Vec<String>) -> Broker {
        let (data, ports) = (TempDir::new().unwrap(), free_ports::<2>());
        Broker::run(data, ports, settings(ports[0], ports[1]))
    }

    fn run(data: TempDir, ports: [u16; 2], settings: Vec<String>) -> Broker {
        let child = spawn(&data, ports, &settings);
        let mut broker = Broker { child, ports, data, settings };
        broker.wait();
        broker
    }

    fn wait(&mut self) {
        eventually("a broker of its own listens", Duration::from_secs(60), || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker ended: {ended:?}; {}", self.output());
            TcpStream::connect(("127.0.0.1", self.ports[0])).ok()
        });
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.data.path().join("output.txt")).unwrap_or_default()
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    pub fn config(&self) -> Config {
        Config { brokers: self.address(), group: unique("group"), ..Config::default() }
    }

    /// It keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL; its data stay.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Broker::kill`].
    pub fn restart(&mut self) {
        self.child = spawn(&self.data, self.ports, &self.settings);
        self.wait();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The script becomes the broker, so the child's process id is the broker's.
fn spawn(data: &TempDir, ports: [u16; 2], settings: &[String]) -> Child {
    exported("POSTHASTE_TEST_KAFKA_LIBS");
    let output = std::fs::File::create(data.path().join("output.txt")).unwrap();
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker"))
        .args(["--port", &ports[0].to_string(), "--controller-port", &ports[1].to_string(), "--data"])
        .arg(data.path().join("data"))
        .args(settings.iter().flat_map(|line| ["--set", line]))
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

/// Produces one record by kcat, as any other program would.
pub fn produce(topic: &str, record: &str, arguments: &[&str]) {
    use std::io::Write;
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", &brokers(), "-t", topic, "-D", "\x01"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is installed (tests/run does it)");
    kcat.stdin.take().expect("piped").write_all(record.as_bytes()).expect("kcat reads");
    assert!(kcat.wait().expect("it ends").success());
}
