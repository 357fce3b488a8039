//! The dashboard and the alert rules ask only for metrics that there are, by labels that they have. `tests/it` asks a running daemon the same.

#[path = "it/support/expressions.rs"]
mod expressions;

use std::{path::Path, process::Command};

use expressions::{Expression, expressions};
use posthaste::telemetry::metrics::CATALOGUE;

/// Labels that Prometheus adds, and that of a histogram's buckets.
const FOREIGN_LABELS: &[&str] = &["instance", "job", "le"];

#[test]
fn every_expression_of_dashboard_and_alerts_asks_for_what_there_is() {
    let expressions = expressions();
    let wrong: Vec<String> = expressions
        .iter()
        .flat_map(|expression| judge(expression).into_iter().map(move |what| format!("{}: {}: {what}", expression.place, expression.text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_metric_is_asked_for_somewhere() {
    let texts: String = expressions().into_iter().map(|expression| expression.text + "\n").collect();
    // The offset of the registry is for comparing instances by hand.
    let unasked: Vec<&str> = CATALOGUE.iter().map(|(name, ..)| *name).filter(|name| !texts.contains(name)).collect();
    assert_eq!(unasked, ["posthaste_registry_offset"]);
}

#[test]
fn promtool_accepts_the_alert_rules() {
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yml"))
        .output()
        .expect("promtool can be run: it comes with Debian's prometheus package, and tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn judge(expression: &Expression) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known: Vec<&str> = FOREIGN_LABELS.to_vec();
    for selector in &expression.selectors {
        let name = selector.name.as_deref().unwrap_or_default();
        let Some(label) = label_of(name) else {
            wrong.push(format!("there is no metric {name}"));
            continue;
        };
        known.extend(label);
        let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.as_str());
        let strange = labels.filter(|asked| !FOREIGN_LABELS.contains(asked) && Some(*asked) != label);
        wrong.extend(strange.map(|asked| format!("{name} has no label {asked}")));
    }
    wrong.extend(expression.grouped.iter().filter(|by| !known.contains(&by.as_str())).map(|by| format!("nothing has the label {by}")));
    wrong
}

/// The label of a metric, if it has one; none if there is no such metric. A histogram is asked for by its series.
fn label_of(series: &str) -> Option<Option<&'static str>> {
    CATALOGUE.iter().find_map(|(name, kind, _, label)| {
        let is_it = match *kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| series.strip_suffix(end) == Some(name)),
            _ => series == *name,
        };
        is_it.then_some(*label)
    })
}
