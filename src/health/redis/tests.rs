//! On a real Redis: `tests/run` starts one and names it in `POSTHASTE_TEST_REDIS`. What freezes or kills a Redis starts its own.

use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::{
    health::score::tests::{history, observation, small},
    model::{SystemClock, time::ManualClock},
};

const OK: Observation = Observation::Success { slow: false, first: true };

fn config() -> Config {
    let url = std::env::var("POSTHASTE_TEST_REDIS").expect("POSTHASTE_TEST_REDIS names no Redis: run tests/run");
    Config { url, prefix: format!("test-{}:", uuid::Uuid::now_v7()) }
}

struct Instance {
    health: Arc<RedisHealth>,
    updates: mpsc::Receiver<Update>,
}

fn instance(config: &Config) -> Instance {
    let (send, updates) = mpsc::channel(1_000);
    let health = RedisHealth::start(config, Rules::default(), Arc::new(SystemClock), Metrics::new(), send, &Handle::current());
    Instance { health: health.expect("a URL"), updates }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        looks.tick().await;
    }
}

impl Instance {
    async fn connected(&self) {
        until("connected", || self.health.is_connected()).await;
    }

    async fn state(&self, endpoint: &Text, state: HealthState) {
        until(state.as_str(), || self.health.get(endpoint).is_some_and(|record| record.state == state)).await;
    }

    fn transitions(&mut self) -> Vec<(u64, HealthState, HealthState)> {
        std::iter::from_fn(|| self.updates.try_recv().ok())
            .filter_map(|update| match update {
                Update::Transition(told) => Some((told.record.version, told.from, told.record.state)),
                Update::State { .. } | Update::Instances(_) => None,
            })
            .collect()
    }
}

/// A timeout of an attempt that has begun just now.
fn timed_out() -> Observation {
    Observation::Timeout { started: SystemClock.now_ms() }
}

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
    }

    fn start(port: u16) -> Server {
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: run tests/run");
        Server { process, port }
    }

    fn config(port: u16) -> Config {
        Config { url: format!("redis://127.0.0.1:{port}"), prefix: "test:".to_owned() }
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.process.id().to_string()]).status().expect("kill is there");
        assert!(done.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("it was ours to kill");
    }
}

/// Both the script and the pure rules, on the same observations.
fn agree(seen: &[(Observation, i64)], rules: &Rules) -> Result<(), TestCaseError> {
    let (scripts, expected) = (Scripts::new(&config().prefix), std::cell::RefCell::new(HealthRecord::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = config().client().expect("a URL").get_multiplexed_async_connection().await.expect("a Redis");
        let item = |(observation, now): &(Observation, i64)| Item {
            endpoint: "e".into(),
            operation: Operation::Observe(*observation),
            now: *now,
            ours: HealthRecord::default(),
        };
        let items: Vec<Item> = seen.iter().map(item).collect();
        let applied = scripts.apply(&mut connection, &items, rules).await.expect("an answer");
        for ((observation, now), applied) in seen.iter().zip(applied) {
            let before = expected.take();
            let after = score::apply(before.clone(), *observation, *now, rules);
            let from = (after.version > before.version).then_some(before.state);
            prop_assert_eq!(&applied, &Applied { record: after.clone(), from }, "{:?} at {}", observation, now);
            expected.replace(after);
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_script_and_the_rules_agree(
        seen in proptest::collection::vec((observation(), 0_i64..4_000), 1..80), expire in 1_u64..60, gone_is_final: bool,
    ) {
        let rules = Rules { counters_expire: Duration::from_secs(expire), gone_is_final, ..small() };
        let mut now = 1_000;
        let seen: Vec<_> = seen.into_iter().map(|(observation, passed)| { now += passed; (observation, now) }).collect();
        agree(&seen, &rules)?;
    }

    #[test]
    fn the_script_and_the_rules_join_alike(stored in history(), ours in history()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let scripts = Scripts::new(&config().prefix);
            let mut connection = config().client().expect("a URL").get_multiplexed_async_connection().await.expect("a Redis");
            let join = |ours: &HealthRecord| Item { endpoint: "e".into(), operation: Operation::Join, now: 70_000, ours: ours.clone() };
            let items = [join(&stored), join(&ours), join(&ours)];
            let applied = scripts.apply(&mut connection, &items, &small()).await.expect("an answer");
            let expected = score::join(stored.clone(), ours.clone(), 70_000);
            prop_assert_eq!(&applied[0], &Applied { record: stored.clone(), from: None });
            let from = (expected.version > stored.version.max(ours.version)).then_some(stored.state);
            prop_assert_eq!(&applied[1], &Applied { record: expected.clone(), from });
            prop_assert_eq!(&applied[2], &Applied { record: expected, from: None });
            Ok(())
        })?;
    }

    #[test]
    fn a_record_survives_its_text(record in history()) {
        prop_assert_eq!(script::decode(&script::encode(&record)), Some(record));
    }
}

#[test]
fn real_times_and_the_real_rules_agree_too() {
    let start = 1_763_800_000_123;
    let timeouts = (0..60).map(|n| (Observation::Timeout { started: start + n * 5_000 }, start + (n + 1) * 5_000));
    let tail = [(OK, 400_000), (Observation::Enabled, 401_000), (Observation::Error { started: start + 401_500 }, 402_000)];
    let seen: Vec<_> = timeouts.chain(tail.map(|(what, at)| (what, start + at))).collect();
    agree(&seen, &Rules::default()).expect("the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_shares_scores_counts_successes_together_and_tells_each_transition_once() {
    let config = config();
    let (mut one, mut other) = (instance(&config), instance(&config));
    one.connected().await;
    other.connected().await;
    until("two instances", || one.health.instances() == 2 && other.health.instances() == 2).await;

    let endpoint: Text = "a".into();
    one.health.report(&endpoint, timed_out());
    one.state(&endpoint, HealthState::Degraded).await;
    other.state(&endpoint, HealthState::Degraded).await;
    for _ in 0..25 {
        one.health.report(&endpoint, OK);
        other.health.report(&endpoint, OK);
    }
    one.state(&endpoint, HealthState::Active).await;
    other.state(&endpoint, HealthState::Active).await;
    // From here on successes are nobody's business again.
    until("queues are empty", || one.health.shared.queue.capacity() == QUEUE && other.health.shared.queue.capacity() == QUEUE).await;
    one.health.report(&endpoint, OK);
    assert_eq!(one.health.shared.queue.capacity(), QUEUE);

    let third = instance(&config);
    third.connected().await;
    assert_eq!(third.health.get(&endpoint).map(|record| record.version), Some(2));
    third.health.stop().await;
    other.health.stop().await;
    until("one instance", || one.health.instances() == 1).await;
    one.health.stop().await;
    let mut told = one.transitions();
    told.extend(other.transitions());
    told.sort_by_key(|(version, ..)| *version);
    assert_eq!(told, [(1, HealthState::Active, HealthState::Degraded), (2, HealthState::Degraded, HealthState::Active)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_absent_at_the_start_costs_nothing_and_is_joined_when_it_comes() {
    let port = Server::free_port();
    let (mut one, mut other) = (instance(&Server::config(port)), instance(&Server::config(port)));
    let endpoint: Text = "a".into();
    let begun = Instant::now();
    for _ in 0..20_000 {
        one.health.report(&"noise".into(), OK);
    }
    for _ in 0..3 {
        one.health.report(&endpoint, timed_out());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "reports waited for Redis: {:?}", begun.elapsed());
    assert!(!one.health.is_connected());
    assert_eq!(one.health.get(&endpoint).map(|record| (record.state, record.score)), Some((HealthState::Degraded, 30)));
    assert_eq!(one.transitions(), [(1, HealthState::Active, HealthState::Degraded)]);

    let server = Server::start(port);
    one.connected().await;
    other.state(&endpoint, HealthState::Degraded).await;
    assert_eq!(other.transitions(), [], "it was told by its causer");
    one.health.stop().await;
    other.health.stop().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_neither_blocks_nor_slows_a_report_and_what_happened_meanwhile_is_joined() {
    let server = Server::start(Server::free_port());
    let config = Server::config(server.port);
    let (mut one, other) = (instance(&config), instance(&config));
    one.connected().await;
    other.connected().await;
    let endpoint: Text = "a".into();
    one.health.report(&endpoint, timed_out());
    other.state(&endpoint, HealthState::Degraded).await;

    server.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..QUEUE + 1_000 {
        one.health.report(&endpoint, Observation::Error { started: i64::MAX });
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "reports waited for Redis: {:?}", begun.elapsed());
    // What was queued is applied here once the command has run into its deadline.
    one.state(&endpoint, HealthState::Inactive).await;
    until("disconnected", || !one.health.is_connected()).await;
    assert_eq!(other.health.get(&endpoint).map(|record| record.state), Some(HealthState::Degraded));

    server.signal("-CONT");
    other.state(&endpoint, HealthState::Inactive).await;
    let told = one.transitions();
    assert_eq!(told, [(1, HealthState::Active, HealthState::Degraded), (2, HealthState::Degraded, HealthState::Inactive)]);
    one.health.stop().await;
    other.health.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_believed_when_it_is_ahead_and_told_again_when_it_is_behind() {
    let config = config();
    let mut one = instance(&config);
    one.connected().await;
    let endpoint: Text = "a".into();
    let record =
        HealthRecord { state: HealthState::Inactive, version: 7, since: 1, reason: Some("gone".into()), ..HealthRecord::default() };
    one.health.restore(&endpoint, record.clone());
    one.health.report(&endpoint, Observation::Enabled);
    one.state(&endpoint, HealthState::Active).await;
    assert_eq!(one.transitions(), [(8, HealthState::Inactive, HealthState::Active)]);
    one.health.stop().await;

    // Another instance finds version 8 in Redis and a registry that has 7; it is 10 s later.
    let (send, updates) = mpsc::channel(100);
    let clock = ManualClock::at_ms(SystemClock.now_ms() + 11_000);
    let health = RedisHealth::start(&config, Rules::default(), Arc::new(clock), Metrics::new(), send, &Handle::current()).expect("a URL");
    let mut other = Instance { health, updates };
    other.health.restore(&endpoint, record);
    other.connected().await;
    until("told again", || !other.transitions().is_empty()).await;
    other.health.restore(&endpoint, other.health.get(&endpoint).expect("it is known"));
    other.health.forget(&endpoint);
    assert_eq!(other.health.get(&endpoint), None);
    other.health.stop().await;
}

#[test]
fn a_password_is_not_printed_and_a_wrong_url_is_named() {
    let config = Config { url: "redis://user:secret@redis.example.com:6380/1".to_owned(), ..Config::default() };
    assert_eq!(config.check(), []);
    assert_eq!(format!("{config:?}"), "Config { url: \"redis://redis.example.com:6380/1\", prefix: \"posthaste:\" }");
    let wrong = Config { url: "http://example.com".to_owned(), prefix: "a*".to_owned() };
    assert_eq!(wrong.check().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), ["url", "prefix"]);
}
