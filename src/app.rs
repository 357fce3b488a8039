//! The assembly: the only file that knows every stage. It builds them, joins them, watches over them, and takes them down in the order in
//! which data flows.
//!
//! # Threads
//!
//! | thread | does | its end means |
//! |---|---|---|
//! | `shard-N` | requests, their queues, limits and connections | a bug: deliveries stand still, so the daemon stops with an error |
//! | `source-events`, `source-retry` | read the log, track what is settled, commit | the daemon stops with what the source said |
//! | `filter-N` | evaluates filters and conditions of agents | the daemon stops: deliveries that wait for one stand still |
//! | `registry` | applies the registry topic | readiness says so; the sources stop reading |
//! | control runtime | API, settling that needs an append, journal, health | the process is over |
//! | `admin` | metrics and probes | logged; nothing else suffers |
//!
//! # Stopping
//!
//! No more requests to the API; sources stop taking; shards make no more requests and finish what is in flight until the drain deadline; what
//! is being settled gets durable; what waits beside a done delivery of the same record, or in the way of telling what is done, is spilled;
//! positions are committed; shards hand back the rest; the journal is written; the log is closed. Each step has a deadline, and a step that
//! misses it costs repetition after the next start, never loss.

pub mod admin;
mod agents;
mod descriptors;
mod filtering;
mod health;
mod server;
mod shard;
mod tell;
mod wiring;

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::{runtime, sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api,
    config::Config,
    delivery,
    health::{Backend as HealthBackend, Health, memory::MemoryHealth, own_fault::OwnFault, redis::RedisHealth},
    log::{Backend, Log, LogError, Start, Subscription, kafka::KafkaLog, sqlite::SqliteLog, sqlite::SqliteOptions, topics::Topics},
    model::{Budget, Clock, SystemClock},
    registry::{self, Registry},
    routing::{sieve::Sieve, table::RouteTable},
    scheduler::{Control, Hooks, Shards, Waiting},
    settle::{Destinations, Policy, Settler, dead_letter::DeadLetters, history::History, journal::Journal},
    shutdown::{Request, Signals},
    sources::{self, ingest::Ingest, replay::Replays},
    telemetry::{Metrics, logging},
};

use admin::Readiness;

/// What `serve` is started with beside the configuration.
pub struct Options {
    pub config_file: Option<PathBuf>,
    pub logging: logging::Handle,
}

/// Settling that is under way when the shards have ended gets so long to become durable.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// The final commit, leaving the groups, and closing the log.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Changes of health that wait to be told.
const UPDATES: usize = 4_096;

/// Between two looks at the log that cannot be reached at start.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// A registry view that is further behind stops the sources (DESIGN.md section 6).
const REGISTRY_BEHIND: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal asks it to stop.
pub fn serve(config: Config, options: Options) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()?;
    let outcome = runtime.block_on(run(config, options));
    // What still runs in the background holds nothing that is not in the log.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let drain = config.scheduler.drain;
    let mut app = tokio::select! {
        app = App::start(config) => app?,
        () = stop_requested(&mut signals) => return Ok(()),
    };
    app.introduce();
    let failure = loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break None,
                Request::Reload => app.reload(&options),
            },
            failure = app.failed() => break Some(failure),
        }
    };
    tracing::info!(?drain, "stopping");
    let left = app.stop().await;
    tracing::info!(handed_back = left.handed_back, "stopped");
    match failure {
        None => Ok(()),
        Some(failure) => Err(anyhow!(failure)),
    }
}

async fn stop_requested(signals: &mut Signals) {
    while signals.next().await != Request::Stop {}
}

/// The same listener for two servers, one after the other.
fn twice(listener: tokio::net::TcpListener) -> std::io::Result<(tokio::net::TcpListener, tokio::net::TcpListener)> {
    let first = listener.into_std()?;
    let second = first.try_clone()?;
    Ok((tokio::net::TcpListener::from_std(first)?, tokio::net::TcpListener::from_std(second)?))
}

/// What the stages share.
pub struct Stages {
    log: Arc<dyn Log>,
    topics: Topics,
    group: String,
    /// Where the group begins on source partitions of which it has committed nothing.
    start: Start,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    routes: RouteTable,
    health: Arc<dyn Health>,
    health_config: crate::health::Config,
    own_fault: OwnFault,
    settler: Settler,
    journal: Arc<Journal>,
    ingest: Arc<Ingest>,
    shards: OnceLock<Shards>,
    sieve: OnceLock<Sieve>,
    /// Whether anybody has (or had) a filter or an agent: without it nothing is looked at.
    filters_seen: AtomicBool,
    registry: OnceLock<Arc<Registry>>,
    settling: TaskTracker,
    /// Deliveries that went back to the log because the daemon stops.
    put_back: AtomicU64,
    control: runtime::Handle,
}

impl Stages {
    /// The shards are there before anything is routed or told.
    fn shards(&self) -> &Shards {
        self.shards.get().expect("the shards are made before whoever asks for them")
    }

    fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.get()
    }

    /// Runs something that settles deliveries: the stop waits for it. What can wait here is bounded by the byte budget, because it holds
    /// deliveries.
    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.settling.spawn_on(work, &self.control);
    }
}

/// What a stop could not finish; it is in the log for the next start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Left {
    /// Deliveries that waited or hung and were put back.
    pub handed_back: u64,
}

/// A running daemon.
pub struct App {
    /// Where the management API listens.
    pub api: SocketAddr,
    /// Where metrics and probes are served.
    pub admin: SocketAddr,
    config: Config,
    /// Where the admin token lies, if we made it.
    token_file: Option<PathBuf>,
    stages: Arc<Stages>,
    /// Where scores are shared: to be left when the daemon stops.
    fleet: Option<Arc<RedisHealth>>,
    dead_letters: Arc<DeadLetters>,
    history: Arc<History>,
    sources: Vec<Arc<sources::Handle>>,
    failures: mpsc::Receiver<String>,
    readiness: Arc<Readiness>,
    api_stop: CancellationToken,
    api_server: JoinHandle<()>,
    journal_writer: JoinHandle<()>,
    health_follower: JoinHandle<()>,
}

impl App {
    /// Builds and joins everything and returns when deliveries flow. While the log cannot be reached it waits for it and says so.
    pub async fn start(config: Config) -> anyhow::Result<App> {
        descriptors::raise(&config.scheduler, &config.delivery).map_err(anyhow::Error::msg)?;
        let metrics = Metrics::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let readiness = Arc::new(Readiness::default());
        readiness.set("starting", "the log and the registry are being read");
        let gauges: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
        let admin = admin::start(&config.admin, Arc::clone(&metrics), Arc::clone(&readiness), {
            let gauges = Arc::clone(&gauges);
            Arc::new(move || {
                if let Some(gather) = gauges.get() {
                    gather();
                }
            })
        })
        .map_err(anyhow::Error::msg)?;
        // Bound before anything else happens, so that a port in use costs nothing.
        let listen = config.api.listen;
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .map_err(|error| anyhow!("cannot listen on {listen}: {error}; set `api.listen` to another address"))?;

        // Until everything is there, whoever asks is told so.
        let (listener, before) = twice(listener)?;
        let is_there = CancellationToken::new();
        let answers = {
            let readiness = Arc::clone(&readiness);
            api::not_started(move || readiness.causes().trim_end().replace('\n', "; "))
        };
        let answering = tokio::spawn(server::serve(before, answers, is_there.clone()));

        let directory = config.log.data_directory.clone();
        let standalone = config.log.backend == Backend::Sqlite;
        let log = open_log(&config, &metrics)?;
        let policy = Policy::new(&config.retry);
        let topics = Topics::new(&config.topics);
        ensure_topics(&*log, &topics, &policy, &config, &readiness).await?;
        let group = config.kafka.group.clone();
        let key = config.registry.load_key(standalone.then_some(&*directory), &*log, topics.registry()).map_err(anyhow::Error::msg)?;
        // A fleet has one token for all: only a daemon that is alone may make one.
        let (admin_token, token_made) =
            api::AdminToken::load(config.api.admin_token.as_ref(), standalone.then_some(&*directory)).map_err(anyhow::Error::msg)?;
        let token_file = token_made.then(|| directory.join(api::auth::TOKEN_FILE));

        let (updates, told) = mpsc::channel(UPDATES);
        let (rules, own) = (config.health.rules(), (Arc::clone(&clock), Arc::clone(&metrics)));
        let (health, fleet): (Arc<dyn Health>, Option<Arc<RedisHealth>>) = match config.health.backend {
            HealthBackend::Memory => (MemoryHealth::new(rules, own.0, own.1, updates), None),
            HealthBackend::Redis => {
                let redis = RedisHealth::start(&config.redis, rules, own.0, own.1, updates, &runtime::Handle::current());
                let redis = redis.map_err(anyhow::Error::msg)?;
                (Arc::clone(&redis) as Arc<dyn Health>, Some(redis))
            }
        };
        let shared = delivery::Shared::new(&config.delivery, Arc::clone(&clock), Arc::clone(&metrics)).map_err(anyhow::Error::msg)?;
        let destinations =
            Destinations { retry: policy.tiers().iter().map(|tier| (*tier, topics.retry(*tier))).collect(), dead: topics.dead().clone() };
        let settler =
            Settler::new(Arc::clone(&log), destinations, policy, Arc::clone(&clock), Arc::clone(&metrics)).map_err(anyhow::Error::msg)?;
        let memory = usize::try_from(config.scheduler.memory.as_u64()).unwrap_or(usize::MAX);
        // What is moved is copied: an eighth of the memory beside what is queued.
        let history = History::new(Arc::clone(&log), Arc::clone(topics.history()), Arc::clone(&clock), Arc::clone(&metrics));
        history.follow().context("the history of tickets cannot be read")?;
        let settler = settler.with_room(memory / 8).with_history(Arc::clone(&history));
        let shard_count = config.scheduler.shard_count();
        let (journal, journal_writer) =
            Journal::new(Arc::clone(&log), topics.attempts().clone(), config.journal.clone(), shard_count, Arc::clone(&metrics));
        let ingest =
            Ingest::new(Arc::clone(&log), topics.ingest().clone(), config.ingest.clone(), Arc::clone(&clock), Arc::clone(&metrics));
        let budget = Budget::new(memory);
        metrics.queued_bytes_limit.set(budget.limit() as f64);
        let stages = Arc::new(Stages {
            log: Arc::clone(&log),
            topics,
            group,
            start: match config.log.backend {
                // Nothing but what came in over our own door lies in there.
                Backend::Sqlite => Start::Earliest,
                Backend::Kafka => config.kafka.start,
            },
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            budget: Arc::clone(&budget),
            routes: RouteTable::new(),
            health,
            health_config: config.health.clone(),
            own_fault: OwnFault::default(),
            settler,
            journal: Arc::clone(&journal),
            ingest: Arc::new(ingest),
            shards: OnceLock::new(),
            sieve: OnceLock::new(),
            filters_seen: AtomicBool::new(false),
            registry: OnceLock::new(),
            settling: TaskTracker::new(),
            put_back: AtomicU64::new(0),
            control: runtime::Handle::current(),
        });
        let shards = Shards::start(&config.scheduler, &budget, &metrics, {
            let (stages, shared) = (Arc::clone(&stages), Arc::clone(&shared));
            move |index| {
                let context = shard::Context::new(index, &stages, &shared);
                let (spilling, dooming) = (Arc::clone(&stages), Arc::clone(&stages));
                Hooks {
                    deliver: move |dispatch| Rc::clone(&context).deliver(dispatch),
                    spill: Box::new(move |spills| shard::spill(&spilling, spills)),
                    doom: Box::new(move |doomed| shard::doom(&dooming, doomed)),
                }
            }
        })
        .context("the scheduler's threads cannot be started")?;
        // Nobody else sets it.
        let _ = stages.shards.set(shards);
        let sieve = filtering::start(&stages, shard_count).context("the threads of filters cannot be started")?;
        let _ = stages.sieve.set(sieve);
        let journal_writer = tokio::spawn(journal_writer.run());

        let dead_letters = DeadLetters::start(
            Arc::clone(&log),
            stages.topics.dead().clone(),
            stages.topics.ingest().clone(),
            &config.dead_letters,
            Arc::clone(&clock),
            Arc::clone(&metrics),
        )
        .context("the dead letters cannot be read")?;
        let may_be_new = wiring::nothing_committed(&stages).await?;
        let registry = Registry::start(
            Arc::clone(&log),
            registry::Options {
                topic: stages.topics.registry().clone(),
                key,
                declared: config.endpoints.clone(),
                tenants: config.tenants.clone(),
                may_be_new,
            },
            wiring::on_change(&stages),
            Arc::clone(&metrics),
            &*clock,
        )
        .await?;
        let _ = stages.registry.set(Arc::clone(&registry));
        shared.keep_refresh_tokens(wiring::refresh_tokens(&stages, &registry));
        let health_follower = tokio::spawn(health::run(Arc::clone(&stages), told));
        tokio::spawn(wiring::weigh_tenants(Arc::clone(&stages), Arc::clone(&registry)));

        let (failed, failures) = mpsc::channel(4);
        let started = wiring::start_sources(&config, &stages, &registry, &failed);
        let sources = started.context("the sources cannot be started")?.into_iter().map(Arc::new).collect();

        let replays = Replays::new(
            Arc::clone(&log),
            stages.topics.ingest().clone(),
            runtime::Handle::current(),
            config.replay.clone(),
            Arc::clone(&clock),
        );
        let router = api::router(api::State {
            registry: Arc::clone(&registry),
            health: Arc::clone(&stages.health),
            log: Arc::clone(&log),
            ingest: Arc::clone(&stages.ingest),
            dead_letters: Arc::clone(&dead_letters),
            history: Arc::clone(&history),
            journal,
            addresses: Arc::clone(shared.policy()),
            replays: Arc::new(replays),
            topics: stages.topics.clone(),
            positions: wiring::positions(&stages),
            admin: admin_token,
            clock,
            metrics,
        });
        let api = listener.local_addr()?;
        is_there.cancel();
        answering.await?;
        let api_stop = CancellationToken::new();
        let api_server = tokio::spawn(server::serve(listener, router, api_stop.clone()));
        let _ = gauges.set(wiring::gauges(&stages, &registry, &readiness));
        readiness.clear("starting");
        Ok(App {
            api,
            admin,
            config,
            token_file,
            stages,
            fleet,
            dead_letters,
            history,
            sources,
            failures,
            readiness,
            api_stop,
            api_server,
            journal_writer,
            health_follower,
        })
    }

    /// Says where everything is, on standard output.
    fn introduce(&self) {
        let mut out = std::io::stdout().lock();
        let mut line = |text: String| {
            // A closed standard output is no reason not to serve.
            let _ = writeln!(out, "{text}");
        };
        line(format!("api      http://{}", self.api));
        line(format!("metrics  http://{}/metrics", self.admin));
        if let Some(file) = &self.token_file {
            line(format!("token    {}", file.display()));
        }
        if self.config.delivery.allow_networks.is_empty() {
            line(
                "note     receivers on loopback and private networks are refused; to try one on this machine, start with \
                 POSTHASTE_DELIVERY__ALLOW_NETWORKS='[\"127.0.0.0/8\"]'"
                    .to_owned(),
            );
        }
        let _ = out.flush();
    }

    /// What this daemon counts; it can be read after [`App::stop`] too.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.stages.metrics)
    }

    /// Waits for something that the daemon cannot go on without to end, and says what.
    pub async fn failed(&mut self) -> String {
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                Some(failure) = self.failures.recv() => return failure,
                _ = look.tick() => {
                    if !self.stages.shards().are_alive() {
                        return "a shard of the scheduler has ended; this is a bug, and the log above says where".to_owned();
                    }
                    if !self.stages.sieve.get().is_none_or(Sieve::are_alive) {
                        return "a thread of the filters has ended; this is a bug, and the log above says where".to_owned();
                    }
                    if self.health_follower.is_finished() || self.stages.registry().is_some_and(|registry| !registry.is_followed()) {
                        return "what follows health or the registry has ended; this is a bug, and the log above says where".to_owned();
                    }
                    // One that failed has said so before it ended.
                    if self.failures.is_empty() && self.sources.iter().any(|source| !source.is_running()) {
                        return "a source has ended without a word; this is a bug, and the log above says where".to_owned();
                    }
                }
            }
        }
    }

    /// SIGHUP: takes over what can change while it runs, and names what needs a restart.
    fn reload(&mut self, options: &Options) {
        let loaded = match crate::config::load(options.config_file.as_deref(), crate::config::environment()) {
            Ok(loaded) => loaded.config,
            Err(problems) => {
                for problem in &problems.0 {
                    tracing::error!(%problem, "the configuration is wrong; nothing was changed");
                }
                return;
            }
        };
        if let Err(error) = options.logging.set_level(&loaded.logging.level) {
            tracing::error!(%error, "the log level was not changed");
        }
        if let Some(registry) = self.stages.registry() {
            registry.declare(loaded.endpoints.clone(), loaded.tenants.clone());
        }
        self.config.logging.level.clone_from(&loaded.logging.level);
        let restart = self.config.differences(&loaded);
        match restart.is_empty() {
            true => tracing::info!("configuration read again: endpoints, tenants and log level are in force"),
            false => tracing::warn!(
                sections = restart.join(", "),
                "configuration read again: endpoints, tenants and log level are in force; changes of these sections need a restart"
            ),
        }
    }

    /// Takes the daemon down in the order in which data flows. See the module.
    pub async fn stop(self) -> Left {
        self.readiness.set("stopping", "the daemon is stopping");
        let drain = self.config.scheduler.drain;
        let deadline = Instant::now() + drain;
        self.api_stop.cancel();
        for source in &self.sources {
            source.stop();
        }
        let _ = self.stages.shards().control(Control::Drain { waiting: Waiting::HandBack, deadline }).await;
        // A source knows when nothing of its records is in anybody's hands any more, and what has to leave the shards' queues before its last commit.
        let finishing = self.sources.iter().cloned().map(|source| {
            tokio::task::spawn_blocking(move || {
                source.finish(drain + SETTLE_DEADLINE);
                source.stats().open
            })
        });
        let open: u64 = futures_util::future::join_all(finishing).await.into_iter().filter_map(Result::ok).sum();
        let stages = Arc::clone(&self.stages);
        // Before the shards: what it holds goes there.
        let sieve_end = tokio::task::spawn_blocking(move || stages.sieve.get().is_none_or(Sieve::end));
        if tokio::time::timeout(SETTLE_DEADLINE, sieve_end).await.is_err() {
            tracing::warn!("filters did not end in time; what waits for them is sent again after the next start");
        }
        let stages = Arc::clone(&self.stages);
        // A panic of a shard was logged where it happened.
        let shards_end = tokio::task::spawn_blocking(move || stages.shards().end());
        if tokio::time::timeout(SETTLE_DEADLINE, shards_end).await.is_err() {
            tracing::warn!("shards did not end in time; what they hold is sent again after the next start");
        }
        self.stages.settling.close();
        if tokio::time::timeout(SETTLE_DEADLINE, self.stages.settling.wait()).await.is_err() {
            tracing::warn!(
                open = self.stages.settling.len(),
                "appends did not end in time; these deliveries are sent again after the next start"
            );
        }
        let put_back = self.stages.put_back.load(Ordering::Relaxed);
        if let Some(fleet) = &self.fleet {
            fleet.stop().await;
        }
        if tokio::time::timeout(CLOSE_DEADLINE, self.api_server).await.is_err() {
            tracing::warn!("requests to the API did not end in time");
        }
        self.stages.journal.stop();
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.journal_writer).await;
        self.dead_letters.stop();
        self.history.stop();
        if let Some(registry) = self.stages.registry() {
            registry.stop();
        }
        let log = Arc::clone(&self.stages.log);
        let _ = tokio::task::spawn_blocking(move || log.close(CLOSE_DEADLINE)).await;
        Left { handed_back: open.saturating_add(put_back) }
    }
}

fn open_log(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<dyn Log>> {
    Ok(match config.log.backend {
        Backend::Sqlite => SqliteLog::open(&config.log.data_directory, SqliteOptions::new(&config.log, Arc::clone(metrics)))?,
        Backend::Kafka => KafkaLog::open(&config.kafka, Arc::clone(metrics))?,
    })
}

/// Waits for the log and makes the topics that are missing.
async fn ensure_topics(log: &dyn Log, topics: &Topics, policy: &Policy, config: &Config, readiness: &Readiness) -> anyhow::Result<()> {
    let specs = topics.specs(policy.tiers(), &config.log);
    let mut said = None;
    loop {
        match log.ensure(&specs).await {
            Ok(()) => {
                readiness.clear("log");
                return Ok(());
            }
            Err(error @ (LogError::Fatal(_) | LogError::TooLarge { .. })) => return Err(error.into()),
            Err(LogError::Unavailable(why)) => {
                if said.as_ref() != Some(&why) {
                    tracing::warn!(%why, "waiting for the log");
                    readiness.set("log", why.clone());
                    said = Some(why);
                }
                tokio::time::sleep(LOG_PAUSE).await;
            }
        }
    }
}

/// How a group reads the source topics.
fn subscription(stages: &Stages) -> Subscription {
    Subscription { group: stages.group.clone(), topics: crate::log::Topics::Named(stages.topics.events().to_vec()), start: stages.start }
}
