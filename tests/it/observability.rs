//! What the dashboard and the alerts ask for is what a running daemon tells. `tests/dashboards.rs` holds them against the catalogue.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    expressions::expressions,
    receiver::Receiver,
};

both_backends!(every_expression_of_dashboard_and_alerts_names_metrics_and_labels_that_are_there);

async fn every_expression_of_dashboard_and_alerts_names_metrics_and_labels_that_are_there(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    receiver.wait_for(1, Duration::from_secs(20)).await;
    // The receiver has its request before the daemon has the answer.
    daemon.until_metric("posthaste_attempts_total{outcome=\"delivered\"", Duration::from_secs(20), |count| count == 1.0).await;
    let text = daemon.metrics().await;
    for expression in expressions() {
        for label in expression.grouped.iter().filter(|label| *label != "instance") {
            assert!(text.contains(&format!("{label}=\"")), "{}: {}: nothing has the label {label}", expression.place, expression.text);
        }
        for selector in &expression.selectors {
            let (place, name) = (&expression.place, selector.name.as_deref().unwrap_or_default());
            let series: Vec<&str> =
                text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))).collect();
            assert!(!series.is_empty(), "{place}: the daemon has no {name}");
            for matcher in selector.matchers.matchers.iter().filter(|matcher| !["job", "instance"].contains(&matcher.name.as_str())) {
                let label = format!("{}=\"", matcher.name);
                assert!(series.iter().any(|line| line.contains(&label)), "{place}: {name} has no label {}", matcher.name);
                if matcher.op.to_string() == "=" && !matcher.value.contains('$') {
                    let label = format!("{label}{}\"", matcher.value);
                    assert!(series.iter().any(|line| line.contains(&label)), "{place}: {name} is never {label}");
                }
            }
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name: &str = line.split(['{', ' ']).next().expect("a name");
        assert!(text.contains(&format!("# HELP {}", family(name, &text))), "{name} has no help");
    }
    daemon.stop().await;
}

/// The name that HELP uses: without the suffix of a histogram's series.
fn family(name: &str, text: &str) -> String {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(stem) = name.strip_suffix(suffix)
            && text.contains(&format!("# TYPE {stem} histogram"))
        {
            return stem.to_owned();
        }
    }
    name.to_owned()
}
