//! Appends: one idempotent producer for the whole process, acks from all in-sync replicas.
//!
//! A batch is one call of `append`: each of its records carries a ticket, and when librdkafka has reported on the last one, the whole
//! batch is answered by one channel. A future per record would cost a channel each.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::{Notify, oneshot};
use tracing::warn;

use crate::{
    log::{Append, LogError},
    model::Position,
    telemetry::metrics::Metrics,
};

use super::{
    context::{Voice, locked},
    convert::{own_headers, size},
};

/// What a batch of one record needs beside its key, value and headers, at most.
const OVERHEAD: usize = 256;

pub(super) struct Producer {
    client: ClientConfig,
    message_max: usize,
    shared: Arc<Shared>,
    current: ArcSwap<ThreadedProducer<Reports>>,
    renewing: Mutex<()>,
    closed: AtomicBool,
    ticker: Thread,
}

/// How soon an append looks again whether the queue has room.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

struct Shared {
    voice: Voice,
    metrics: Arc<Metrics>,
    connected: AtomicBool,
    /// Appends that wait for room in the producer's queue.
    waiting: AtomicUsize,
    room: Notify,
    /// The largest batch (bytes) that each topic takes, as far as known.
    limits: RwLock<HashMap<Arc<str>, usize>>,
}

impl Shared {
    /// Wakes the appends that wait for room until the producer is gone. Reports cannot do that: librdkafka counts a message until the whole
    /// event that reports on it is destroyed, so whoever is woken by the last report finds the queue full, and no other report comes.
    fn tick(shared: &Weak<Shared>) {
        while let Some(shared) = shared.upgrade() {
            if shared.waiting.load(Ordering::SeqCst) == 0 {
                drop(shared);
                thread::park_timeout(Duration::from_secs(1));
            } else {
                thread::sleep(LOOK_AGAIN_AFTER);
                shared.room.notify_waiters();
            }
        }
    }

    fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Ordering::Relaxed) != connected {
            self.metrics.log_connected.set(if connected { 1.0 } else { 0.0 });
        }
    }
}

/// Receives the reports of one librdkafka producer.
struct Reports(Arc<Shared>);

type Report = Result<(i32, i64), KafkaError>;

/// The records of one append. When the last ticket is gone, it answers.
struct Batch {
    reports: Mutex<Vec<Option<Report>>>,
    answer: Option<oneshot::Sender<Vec<Option<Report>>>>,
}

struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // Nobody waits if the future was dropped.
            let _ = answer.send(std::mem::take(&mut locked(&self.reports)));
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.voice.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let KafkaError::Global(RDKafkaErrorCode::AllBrokersDown) = error {
            self.0.set_connected(false);
        }
        self.0.voice.error(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let report = match result {
            Ok(message) => {
                self.0.set_connected(true);
                Ok((message.partition(), message.offset()))
            }
            Err((wrong, _)) => Err(wrong.clone()),
        };
        locked(&ticket.batch.reports)[ticket.index] = Some(report);
    }
}

impl Producer {
    pub(super) fn new(client: ClientConfig, message_max: usize, metrics: Arc<Metrics>) -> Result<Producer, KafkaError> {
        let shared = Arc::new(Shared {
            voice: Voice::new("producer"),
            metrics,
            connected: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            limits: RwLock::default(),
        });
        let ticked = Arc::downgrade(&shared);
        let ticker = thread::Builder::new()
            .name("kafka-producer-room".to_owned())
            .spawn(move || Shared::tick(&ticked))
            .map_err(|wrong| KafkaError::ClientCreation(wrong.to_string()))?;
        let first: ThreadedProducer<Reports> = client.create_with_context(Reports(Arc::clone(&shared)))?;
        Ok(Producer {
            client,
            message_max,
            shared,
            current: ArcSwap::from_pointee(first),
            renewing: Mutex::new(()),
            closed: AtomicBool::new(false),
            ticker: ticker.thread().clone(),
        })
    }

    /// Remembers the largest batch (bytes) that a topic takes.
    pub(super) fn set_limit(&self, topic: &Arc<str>, bytes: usize) {
        self.shared.limits.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(topic), bytes);
    }

    fn limit(&self, topic: &str) -> Option<usize> {
        self.shared.limits.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied()
    }

    pub(super) async fn append(&self, records: Vec<Append>) -> Vec<Result<Position, LogError>> {
        if records.is_empty() {
            return Vec::new();
        }
        if self.closed.load(Ordering::SeqCst) {
            return records.iter().map(|_| Err(LogError::Fatal("the log is closed".to_owned()))).collect();
        }
        let started = Instant::now();
        let producer = self.current.load_full();
        let (answer, answered) = oneshot::channel();
        let batch = Arc::new(Batch { reports: Mutex::new((0..records.len()).map(|_| None).collect()), answer: Some(answer) });
        for (index, record) in records.iter().enumerate() {
            self.enqueue(&producer, record, Box::new(Ticket { batch: Arc::clone(&batch), index })).await;
        }
        drop(batch);
        let reports = answered.await.unwrap_or_default();
        self.shared.metrics.append_seconds.record(started.elapsed().as_secs_f64());

        if reports.iter().any(|report| matches!(report, Some(Err(_)))) && producer.client().fatal_error().is_some() {
            self.renew(&producer);
        }
        let mut reports = reports.into_iter();
        records
            .into_iter()
            .map(|record| match reports.next().flatten() {
                Some(Ok((partition, offset))) => Ok(Position { topic: record.topic, partition, offset }),
                Some(Err(wrong)) => Err(self.failed(record, &wrong)),
                None => Err(LogError::Unavailable(format!("kafka: append to `{}`: not reported on", record.topic))),
            })
            .collect()
    }

    /// Gives a record to librdkafka, as soon as its queue has room.
    async fn enqueue(&self, producer: &ThreadedProducer<Reports>, record: &Append, mut ticket: Box<Ticket>) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // From here on no wake-up is missed.
            room.as_mut().enable();
            let message = BaseRecord {
                topic: &record.topic,
                partition: record.partition,
                payload: record.value.as_deref(),
                key: record.key.as_deref(),
                timestamp: None,
                headers: own_headers(record),
                delivery_opaque: ticket,
            };
            ticket = match producer.send(message) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), rejected)) => rejected.delivery_opaque,
                Err((wrong, rejected)) => {
                    let Ticket { batch, index } = *rejected.delivery_opaque;
                    locked(&batch.reports)[index] = Some(Err(wrong));
                    return;
                }
            };
            self.shared.waiting.fetch_add(1, Ordering::SeqCst);
            self.ticker.unpark();
            room.await;
            self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn failed(&self, record: Append, wrong: &KafkaError) -> LogError {
        let KafkaError::MessageProduction(code) = wrong else {
            return LogError::Fatal(format!("kafka: append to `{}`: {wrong}", record.topic));
        };
        let (size, topic) = (size(&record), record.topic);
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => match self.limit(&topic) {
                // It is our batch, not this record, that was too large; with others beside it, it may pass.
                Some(limit) if size + OVERHEAD <= limit && size + OVERHEAD <= self.message_max => LogError::Unavailable(format!(
                    "kafka: `{topic}` takes batches of {limit} bytes only: set `batch.size` in kafka.properties below that, or raise the topic's max.message.bytes"
                )),
                limit => LogError::TooLarge { limit: limit.unwrap_or(self.message_max).min(self.message_max), topic, size },
            },
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                LogError::Unavailable(format!("kafka: append to `{topic}` is forbidden: allow it (ACL Write on the topic)"))
            }
            RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::BrokerTransportFailure => {
                self.shared.set_connected(false);
                LogError::Unavailable(format!("kafka: append to `{topic}`: no broker acknowledged it in time"))
            }
            _ => LogError::Unavailable(format!("kafka: append to `{topic}`: {wrong}")),
        }
    }

    /// A producer with a fatal error takes nothing more; since appends may repeat a record but never lose one, a new one goes on.
    fn renew(&self, broken: &Arc<ThreadedProducer<Reports>>) {
        let _one = locked(&self.renewing);
        if !Arc::ptr_eq(&self.current.load(), broken) {
            return;
        }
        match self.client.create_with_context(Reports(Arc::clone(&self.shared))) {
            Ok(next) => {
                warn!(reason = ?broken.client().fatal_error(), "the producer cannot go on; a new one takes its place");
                let old = self.current.swap(Arc::new(next));
                // Its last owner waits for its thread.
                drop_aside(old);
            }
            Err(wrong) => warn!(%wrong, "no new producer could be made"),
        }
    }

    /// Waits until what was appended is reported on, at most `deadline`.
    pub(super) fn close(&self, deadline: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        let producer = self.current.load_full();
        if producer.flush(deadline).is_err() {
            warn!(records = producer.in_flight_count(), "kafka did not acknowledge everything before the deadline");
        }
    }
}

fn drop_aside<T: Send + 'static>(client: T) {
    if let Err(wrong) = thread::Builder::new().name("kafka-producer-close".to_owned()).spawn(move || drop(client)) {
        warn!(%wrong, "no thread to close the producer on");
    }
}
