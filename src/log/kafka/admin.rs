//! Topics: created where they are missing, checked where they exist.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use tracing::{info, warn};

use crate::log::{
    Cleanup, LogError, TopicSpec,
    kafka::config::{BATCH_SIZE, Config, REQUEST_TIMEOUT},
};

use super::{context::Member, convert::unavailable, producer::Producer};

/// How long a topic that was just created may take until every partition has a leader.
const LEADERS_WITHIN: Duration = Duration::from_secs(20);

/// Kafka's own default for `max.message.bytes`; no topic of ours takes less.
const USUAL_LIMIT: usize = 1_048_588;

/// What a record needs around it, generously.
const OVERHEAD: usize = 4096;

/// Creates and checks. Blocking; on a thread of its own.
pub(super) fn ensure(config: &Config, query: &BaseConsumer<Member>, producer: &Producer, topics: &[TopicSpec]) -> Result<(), LogError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|wrong| LogError::Unavailable(format!("kafka: no runtime for the admin client: {wrong}")))?;
    let admin: AdminClient<DefaultClientContext> = config.admin().create().map_err(|wrong| config.refused(&wrong))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));

    let mut missing = Vec::new();
    let mut absent = Vec::new();
    for topic in topics {
        match partitions(config, query, &topic.name)? {
            Some(_) => {}
            None if topic.internal || config.create_topics => missing.push(topic),
            None => absent.push(topic),
        }
    }
    if !absent.is_empty() {
        let names = names(&absent);
        return Err(LogError::Fatal(format!(
            "kafka: {names} is not there: correct topics.events, set kafka.create_topics = true, or create it:{}",
            commands(config, &absent)
        )));
    }
    if !missing.is_empty() {
        runtime.block_on(create(config, &admin, &options, &missing))?;
        wait_for_leaders(config, query, &missing)?;
        info!(topics = names(&missing), "created topics");
    }
    runtime.block_on(inspect(config, query, producer, &admin, &options, topics))
}

/// The partitions of a topic; none if it does not exist.
pub(super) fn partitions(config: &Config, query: &BaseConsumer<Member>, topic: &str) -> Result<Option<Vec<i32>>, LogError> {
    let metadata = query.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|wrong| unreachable(config, query, &wrong))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error() {
        None => {}
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Ok(None),
        // It was created a moment ago.
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => {}
        // Without the right to see it nobody can say whether it is there: creating it answers that.
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => return Ok(None),
        Some(wrong) => {
            let code = RDKafkaErrorCode::from(wrong);
            return Err(LogError::Unavailable(format!("kafka: topic `{topic}`: {code}")));
        }
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(Some(partitions))
}

fn unreachable(config: &Config, query: &BaseConsumer<Member>, wrong: &KafkaError) -> LogError {
    // The reasons are logged by the client's thread; this is the line for the person who waits.
    let _ = query.poll(Duration::ZERO);
    LogError::Unavailable(format!(
        "kafka: no broker of kafka.brokers ({}) answers: {wrong}; is it running, and reachable from here?",
        config.brokers
    ))
}

async fn create(
    config: &Config,
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    missing: &[&TopicSpec],
) -> Result<(), LogError> {
    let settings: Vec<Vec<(&str, String)>> = missing.iter().map(|topic| settings(topic)).collect();
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&settings)
        .map(|(topic, settings)| {
            let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
            // -1: as many replicas as the cluster makes by default.
            settings
                .iter()
                .fold(NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(-1)), |new, (key, value)| new.set(key, value))
        })
        .collect();
    let results = admin.create_topics(&new, options).await.map_err(unavailable("creating topics"))?;
    let mut refused = Vec::new();
    for (result, topic) in results.iter().zip(missing) {
        match result {
            // Another instance was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::NotController)) => {
                return Err(LogError::Unavailable(format!("kafka: creating `{}` took too long", topic.name)));
            }
            Err((_, code)) => refused.push((*topic, *code)),
        }
    }
    let Some((_, code)) = refused.first() else { return Ok(()) };
    let code = *code;
    let refused: Vec<&TopicSpec> = refused.into_iter().map(|(topic, _)| topic).collect();
    Err(LogError::Fatal(format!(
        "kafka: {} is not there and could not be created ({code}): allow it (ACL Create and Describe), or create it:{}",
        names(&refused),
        commands(config, &refused)
    )))
}

fn wait_for_leaders(config: &Config, query: &BaseConsumer<Member>, topics: &[&TopicSpec]) -> Result<(), LogError> {
    let deadline = Instant::now() + LEADERS_WITHIN;
    for topic in topics {
        loop {
            let metadata = query.fetch_metadata(Some(&topic.name), REQUEST_TIMEOUT).map_err(|wrong| unreachable(config, query, &wrong))?;
            let led = metadata.topics().iter().any(|found| {
                found.error().is_none()
                    && !found.partitions().is_empty()
                    && found.partitions().iter().all(|partition| partition.leader() >= 0)
            });
            if led {
                break;
            }
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable(format!("kafka: `{}` was created, but has no leader yet", topic.name)));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Checks what would lose data, and learns how large a batch each topic takes.
async fn inspect(
    config: &Config,
    query: &BaseConsumer<Member>,
    producer: &Producer,
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    topics: &[TopicSpec],
) -> Result<(), LogError> {
    let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let answers = admin.describe_configs(&asked, options).await.map_err(unavailable("reading the settings of topics"))?;
    for (topic, answer) in topics.iter().zip(answers) {
        let name = &topic.name;
        match answer {
            Ok(found) => {
                let value = |key: &str| found.get(key).and_then(|entry| entry.value.as_deref()).unwrap_or_default().to_owned();
                if let Ok(limit) = value("max.message.bytes").parse() {
                    judge_limit(config, topic, limit);
                    producer.set_limit(name, limit);
                }
                judge_cleanup(config, topic, &value("cleanup.policy"))?;
            }
            Err(code) => info!(topic = &**name, %code, "the settings of the topic cannot be read, so they are not checked"),
        }
        if topic.internal && topic.cleanup == Cleanup::Compact {
            let count = partitions(config, query, name)?.map_or(0, |partitions| partitions.len());
            if count != topic.partitions as usize {
                return Err(LogError::Fatal(format!(
                    "kafka: `{name}` has {count} partitions and must have {}: delete it if it is empty, or name another one",
                    topic.partitions
                )));
            }
        }
    }
    Ok(())
}

fn judge_limit(config: &Config, topic: &TopicSpec, limit: usize) {
    let (name, needed) = (&*topic.name, topic.max_record);
    if limit < needed {
        let cure = alter(config, name, &format!("max.message.bytes={}", needed + OVERHEAD));
        warn!(topic = name, limit, needed, cure, "records that this topic should take are too large for it");
    } else if limit < BATCH_SIZE {
        warn!(
            topic = name,
            limit,
            batch = BATCH_SIZE,
            "the topic takes less than a batch: set `batch.size` in kafka.properties below its max.message.bytes"
        );
    }
}

fn judge_cleanup(config: &Config, topic: &TopicSpec, policy: &str) -> Result<(), LogError> {
    let name = &*topic.name;
    let (wanted, loses) = match topic.cleanup {
        Cleanup::Compact => ("compact", policy.contains("delete")),
        Cleanup::Retain(_) => ("delete", policy.contains("compact")),
    };
    if topic.internal && loses {
        return Err(LogError::Fatal(format!(
            "kafka: `{name}` has cleanup.policy={policy}, with which records that are needed are deleted: {}",
            alter(config, name, &format!("cleanup.policy={wanted}"))
        )));
    }
    Ok(())
}

/// The settings with which a topic is created.
fn settings(topic: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut settings = vec![("max.message.bytes", (topic.max_record + OVERHEAD).max(USUAL_LIMIT).to_string())];
    match topic.cleanup {
        Cleanup::Compact => settings.push(("cleanup.policy", "compact".to_owned())),
        Cleanup::Retain(time) => {
            settings.push(("cleanup.policy", "delete".to_owned()));
            settings.push(("retention.ms", i64::try_from(time.as_millis()).unwrap_or(i64::MAX).to_string()));
        }
    }
    if topic.internal {
        // Times to read from are those at which the log took the record, whatever clock its writer has.
        settings.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    settings
}

fn names(topics: &[&TopicSpec]) -> String {
    topics.iter().map(|topic| format!("`{}`", topic.name)).collect::<Vec<_>>().join(", ")
}

fn commands(config: &Config, topics: &[&TopicSpec]) -> String {
    topics.iter().fold(String::new(), |mut text, topic| {
        let (brokers, name, partitions) = (&config.brokers, &topic.name, topic.partitions);
        let _ = write!(text, "\n  kafka-topics.sh --bootstrap-server {brokers} --create --topic {name} --partitions {partitions}");
        for (key, value) in settings(topic) {
            let _ = write!(text, " --config {key}={value}");
        }
        text
    })
}

fn alter(config: &Config, topic: &str, setting: &str) -> String {
    format!(
        "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {setting}",
        config.brokers
    )
}

/// Runs what blocks on a thread of its own.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let spawned = thread::Builder::new().name("kafka-admin".to_owned()).spawn(move || {
        // Nobody waits if the future was dropped.
        let _ = answer.send(work());
    });
    spawned.map_err(|wrong| LogError::Unavailable(format!("kafka: no thread: {wrong}")))?;
    answered.await.unwrap_or_else(|_| Err(LogError::Unavailable("kafka: the admin thread died".to_owned())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn topic(cleanup: Cleanup) -> TopicSpec {
        TopicSpec { name: Arc::from("posthaste.x"), partitions: 3, cleanup, max_record: 2_000_000, internal: true }
    }

    #[test]
    fn the_command_creates_what_we_would() {
        let config = Config { brokers: "b:9092".into(), ..Config::default() };
        let retained = topic(Cleanup::Retain(Duration::from_secs(60)));
        let text = commands(&config, &[&retained]);
        assert!(text.contains("--bootstrap-server b:9092 --create --topic posthaste.x --partitions 3"), "{text}");
        assert!(text.contains("--config max.message.bytes=2004096 --config cleanup.policy=delete --config retention.ms=60000"), "{text}");
    }

    #[test]
    fn a_policy_that_would_lose_records_is_refused() {
        let config = Config::default();
        let (compact, retain) = (topic(Cleanup::Compact), topic(Cleanup::Retain(Duration::from_secs(60))));
        assert!(judge_cleanup(&config, &compact, "compact").is_ok());
        assert!(judge_cleanup(&config, &retain, "delete").is_ok());
        for (topic, policy) in [(&compact, "delete"), (&compact, "compact,delete"), (&retain, "compact")] {
            let wrong = judge_cleanup(&config, topic, policy).unwrap_err();
            assert!(wrong.is_fatal() && wrong.to_string().contains("kafka-configs.sh"), "{wrong}");
        }
    }
}
