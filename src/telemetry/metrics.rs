//! Every metric, once: name, help, unit, labels.
//!
//! Handles are made at start and kept in [`Metrics`]; nothing looks a metric up by name on the path of an event. No series per endpoint:
//! what belongs to one endpoint is in the journal and the API.

use std::{collections::HashMap, sync::Arc};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Handles of one metric with one label, one for each value of a closed set.
#[derive(Clone)]
pub struct Family<T> {
    by_value: HashMap<&'static str, T, foldhash::fast::RandomState>,
    other: T,
}

impl<T> Family<T> {
    /// The handle for a label value; one that was not declared is counted as `other`.
    pub fn with(&self, value: &str) -> &T {
        self.by_value.get(value).unwrap_or(&self.other)
    }
}

/// Seconds: from a loopback answer to the longest response deadline anybody sets.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 10_800.0, 86_400.0];

const LANES: &[&str] = &["healthy", "degraded"];
const STATES: &[&str] = &["active", "degraded", "inactive"];
const OUTCOMES: &[&str] = &[
    "delivered",
    "unknown_host",
    "address_refused",
    "refused",
    "reset",
    "connect_timeout",
    "tls_timeout",
    "tls",
    "response_timeout",
    "body_timeout",
    "protocol",
    "redirect",
    "status_429",
    "status_4xx",
    "status_5xx",
    "payload",
    "token_endpoint",
    "unreachable",
    "local",
];

static METADATA: Metadata<'static> = Metadata::new("posthaste", Level::INFO, None);

macro_rules! metrics {
    ($( $kind:ident $field:ident $name:literal $unit:ident $([$label:literal: $values:expr])? $help:literal; )*) => {
        /// The handles of all metrics of one daemon.
        #[derive(Clone)]
        pub struct Metrics {
            $( #[doc = $help] pub $field: metrics!(@type $kind $($label)?), )*
            handle: PrometheusHandle,
        }

        /// Name, kind, help and label of every metric: for the documentation, and for the test of dashboard and alerts.
        pub const CATALOGUE: &[(&str, &str, &str, Option<&str>)] = &[
            $( ($name, stringify!($kind), $help, metrics!(@label $($label)?)), )*
        ];

        impl Metrics {
            fn register(recorder: &PrometheusRecorder) -> Metrics {
                $( metrics!(@describe $kind recorder $name $unit $help); )*
                Metrics {
                    $( $field: metrics!(@make $kind recorder $name $($label $values)?), )*
                    handle: recorder.handle(),
                }
            }
        }
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
    (@type counter) => { Counter };
    (@type gauge) => { Gauge };
    (@type histogram) => { Histogram };
    (@type $kind:ident $label:literal) => { Family<metrics!(@type $kind)> };
    (@describe counter $recorder:ident $name:literal $unit:ident $help:literal) => {
        $recorder.describe_counter(KeyName::from_const_str($name), Some(Unit::$unit), $help.into())
    };
    (@describe gauge $recorder:ident $name:literal $unit:ident $help:literal) => {
        $recorder.describe_gauge(KeyName::from_const_str($name), Some(Unit::$unit), $help.into())
    };
    (@describe histogram $recorder:ident $name:literal $unit:ident $help:literal) => {
        $recorder.describe_histogram(KeyName::from_const_str($name), Some(Unit::$unit), $help.into())
    };
    (@register counter $recorder:ident $key:expr) => { $recorder.register_counter(&$key, &METADATA) };
    (@register gauge $recorder:ident $key:expr) => { $recorder.register_gauge(&$key, &METADATA) };
    (@register histogram $recorder:ident $key:expr) => { $recorder.register_histogram(&$key, &METADATA) };
    (@make $kind:ident $recorder:ident $name:literal) => { metrics!(@register $kind $recorder Key::from_static_name($name)) };
    (@make $kind:ident $recorder:ident $name:literal $label:literal $values:expr) => {
        Family::new($values, |value| metrics!(@register $kind $recorder Key::from_parts($name, vec![Label::new($label, value)])))
    };
}

metrics! {
    counter events_total "posthaste_events_total" Count ["result": &["matched", "unmatched", "unparsable", "tombstone", "too_large"]]
        "Records read from the source topics, by what became of them";
    counter routed_total "posthaste_routed_total" Count "Deliveries made of events: one for each endpoint that wants the event";
    counter filtered_total "posthaste_filtered_total" Count ["result": &["matched", "unmatched", "failed", "undecided"]]
        "Filters and conditions evaluated, by result; `failed` (a field that is not there) is no match, `undecided` goes to the dead letters";
    gauge filter_waiting "posthaste_filter_waiting" Count "Deliveries that wait for their filter";
    counter ingest_events_total "posthaste_ingest_events_total" Count ["result": &["stored", "refused", "failed"]]
        "Events that came in over HTTP: stored durably, refused as wrong, or failed because the log could not take them";
    counter deliveries_total "posthaste_deliveries_total" Count
        ["result": &["delivered", "retried", "spilled", "exhausted", "final", "expired", "endpoint_inactive", "endpoint_disabled", "endpoint_deleted", "filter_undecided"]]
        "Deliveries of events settled, by result; `retried` and `spilled` ones come back; what is redriven, replayed or sent as a test is not counted again";
    counter attempts_total "posthaste_attempts_total" Count ["outcome": OUTCOMES] "HTTP requests, by outcome";
    histogram delivery_seconds "posthaste_delivery_seconds" Seconds "From the append of the event to the 2xx, retries included";
    histogram attempt_seconds "posthaste_attempt_seconds" Seconds ["outcome": &["delivered", "failed"]] "From the start of a request to the end of its answer";
    histogram scheduling_seconds "posthaste_scheduling_seconds" Seconds "From entering a queue to the start of the request";
    histogram connect_seconds "posthaste_connect_seconds" Seconds "Resolving, connecting and TLS of a new connection";
    counter connections_opened_total "posthaste_connections_opened_total" Count "Connections opened to endpoints";
    gauge connections_open "posthaste_connections_open" Count "Connections to endpoints that are open, idle ones included";
    gauge queued "posthaste_queued" Count ["lane": LANES] "Deliveries that wait in memory";
    gauge queued_bytes "posthaste_queued_bytes" Bytes "Bytes that queued and running deliveries hold";
    gauge queued_bytes_limit "posthaste_queued_bytes_limit" Bytes "The bound of posthaste_queued_bytes (scheduler.memory)";
    gauge in_flight "posthaste_in_flight" Count ["lane": LANES] "Requests in flight";
    gauge slots "posthaste_slots" Count "The bound of posthaste_in_flight (scheduler.slots)";
    counter spilled_total "posthaste_spilled_total" Count ["reason": &["queue_full", "degraded_wait", "window", "fan_out", "drain", "cut_off", "filter"]]
        "Deliveries moved to a retry tier without using up an attempt, by reason";
    counter retries_total "posthaste_retries_total" Count "Deliveries handed to a retry tier after a failed attempt";
    gauge retries_waiting "posthaste_retries_waiting" Count "Deliveries held by this instance's tier readers until they are due";
    counter dead_letters_total "posthaste_dead_letters_total" Count
        ["reason": &["exhausted", "final", "expired", "endpoint_inactive", "endpoint_disabled", "endpoint_deleted", "unparsable", "too_large", "filter_undecided"]]
        "Dead letters written, by reason";
    gauge dead_letters "posthaste_dead_letters" Count "Dead letters in the index that were not redriven";
    gauge endpoints "posthaste_endpoints" Count ["state": &["active", "degraded", "inactive", "disabled"]] "Registered endpoints, by state";
    counter health_transitions_total "posthaste_health_transitions_total" Count ["to": STATES] "Changes of state that this instance caused";
    gauge health_connected "posthaste_health_connected" Count "1 while the shared health store answers (always 1 for memory)";
    counter health_errors_total "posthaste_health_errors_total" Count "Calls to the shared health store that failed";
    gauge instances "posthaste_instances" Count "Live instances of the fleet, as last known";
    gauge log_connected "posthaste_log_connected" Count "1 while the log takes appends";
    histogram append_seconds "posthaste_append_seconds" Seconds "From handing a batch to the log to its durable acknowledgement";
    counter append_errors_total "posthaste_append_errors_total" Count "Appends that failed and were tried again";
    gauge lag "posthaste_lag" Count ["source": &["events", "retry"]] "Records in the log that were not read yet";
    gauge window_used "posthaste_window_used" Count "Largest span of unsettled offsets over the partitions";
    gauge window_limit "posthaste_window_limit" Count "The bound of posthaste_window_used";
    gauge oldest_open_seconds "posthaste_oldest_open_seconds" Seconds "Age of the oldest record that is read and not settled";
    gauge commit_lag "posthaste_commit_lag" Count "Records settled or passed over since the last commit, over all partitions";
    counter commits_total "posthaste_commits_total" Count ["result": &["ok", "failed"]] "Commits of positions; on Kafka each is counted when the next one begins";
    counter rebalances_total "posthaste_rebalances_total" Count ["kind": &["assigned", "revoked", "lost"]] "Changes of the assignment";
    counter late_settlements_total "posthaste_late_settlements_total" Count "Settlements of records whose partition was already lost; without effect";
    counter dropped_acknowledgements_total "posthaste_dropped_acknowledgements_total" Count "Acknowledgements that a bug dropped; the record is read again";
    gauge sources_stopped "posthaste_sources_stopped" Count ["reason": &["memory", "window", "registry_behind", "own_fault"]]
        "1 while the sources do not poll for that reason";
    gauge registry_offset "posthaste_registry_offset" Count "Offset up to which this instance has applied the registry";
    gauge registry_behind_seconds "posthaste_registry_behind_seconds" Seconds "How long the registry view has been behind its topic";
    counter agent_sendings_total "posthaste_agent_sendings_total" Count "Ticket events that met the condition of an agent";
    gauge ticket_history "posthaste_ticket_history" Count "Entries of ticket histories in the index";
    counter journal_dropped_total "posthaste_journal_dropped_total" Count "Attempts that could not be journalled; their deliveries are not affected";
    counter api_requests_total "posthaste_api_requests_total" Count ["status": &["2xx", "3xx", "4xx", "5xx"]] "Management API requests, by class of answer";
    gauge build_info "posthaste_build_info" Count ["version": &[env!("CARGO_PKG_VERSION")]] "1, with the version";
    gauge process_resident_bytes "posthaste_process_resident_bytes" Bytes "Resident memory of the process";
    gauge process_open_files "posthaste_process_open_files" Count "Open file descriptors of the process";
    gauge process_open_files_limit "posthaste_process_open_files_limit" Count "The bound of posthaste_process_open_files";
    counter process_cpu_seconds "posthaste_process_cpu_seconds_total" Seconds "CPU time of the process, in whole seconds";
}

impl<T> Family<T> {
    fn new(values: &[&'static str], make: impl Fn(&'static str) -> T) -> Family<T> {
        Family { by_value: values.iter().map(|value| (*value, make(value))).collect(), other: make("other") }
    }
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
            .expect("the bucket list is not empty")
            .build_recorder();
        let metrics = Metrics::register(&recorder);
        metrics.build_info.with(env!("CARGO_PKG_VERSION")).set(1.0);
        Arc::new(metrics)
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Histograms keep every sample until this is called: at least every 5 s.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_help_and_our_prefix_and_is_there_once() {
        let mut names = std::collections::HashSet::new();
        for (name, kind, help, _) in CATALOGUE {
            assert!(name.starts_with("posthaste_"), "{name}");
            assert!(!help.is_empty(), "{name}");
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}: counters, and only they, end in _total");
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.attempts_total.with("delivered").increment(3);
        metrics.delivery_seconds.record(0.003);
        metrics.upkeep();
        let text = metrics.render();
        assert!(text.contains("posthaste_attempts_total{outcome=\"delivered\"} 3"), "{text}");
        assert!(text.contains("posthaste_delivery_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    }
}
