//! The dashboard and the alert rules ask only for metrics that there are, by labels that they have.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use posthaste::telemetry::metrics::CATALOGUE;
use promql_parser::{
    parser::{self, Expr, LabelModifier},
    util::{ExprVisitor, walk_expr},
};
use serde_json::Value;

/// Labels that Prometheus adds, and that of a histogram's buckets.
const FOREIGN_LABELS: &[&str] = &["instance", "job", "le"];

#[test]
fn every_expression_of_dashboard_and_alerts_asks_for_what_there_is() {
    let mut wrong = Vec::new();
    let expressions: Vec<(String, String)> = dashboard().into_iter().chain(alerts()).collect();
    assert!(expressions.len() > 50, "{}", expressions.len());
    for (place, expression) in &expressions {
        match parser::parse(expression) {
            Err(error) => wrong.push(format!("{place}: {expression}: {error}")),
            Ok(parsed) => {
                let mut names = Names::default();
                walk_expr(&mut names, &parsed).expect("the visitor never fails");
                wrong.extend(names.judge().into_iter().map(|what| format!("{place}: {expression}: {what}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_metric_is_asked_for_somewhere() {
    let texts: String = dashboard().into_iter().chain(alerts()).map(|(_, expression)| expression + "\n").collect();
    // The offset of the registry is for comparing instances by hand.
    let unasked: Vec<&str> = CATALOGUE.iter().map(|(name, ..)| *name).filter(|name| !texts.contains(name)).collect();
    assert_eq!(unasked, ["posthaste_registry_offset"]);
}

#[test]
fn promtool_accepts_the_alert_rules() {
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(root().join("config/prometheus/alerts.yml"))
        .output()
        .expect("promtool can be run: it comes with Debian's prometheus package, and tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Panel and expression.
fn dashboard() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("config/grafana/posthaste.json")).expect("the dashboard can be read");
    let dashboard: Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut found = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("panel `{}`", panel["title"].as_str().expect("a title"));
            found.push((place, target["expr"].as_str().expect("an expression").to_owned()));
        }
    }
    found
}

/// Alert and expression: each stands on a line of its own.
fn alerts() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("config/prometheus/alerts.yml")).expect("the alert rules can be read");
    let mut found = Vec::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            name = format!("alert {alert}");
        } else if let Some(expression) = line.trim().strip_prefix("expr: ") {
            found.push((name.clone(), expression.to_owned()));
        }
    }
    assert_eq!(found.len(), text.matches("- alert:").count(), "an expression is written on one line");
    found
}

/// What an expression names.
#[derive(Default)]
struct Names {
    /// Metrics with the labels they are selected by.
    metrics: BTreeMap<String, Vec<String>>,
    /// Labels that are grouped by.
    grouped: Vec<String>,
}

impl ExprVisitor for Names {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Self::Error> {
        let selector = match expression {
            Expr::VectorSelector(selector) => Some(selector),
            Expr::MatrixSelector(matrix) => Some(&matrix.vs),
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier {
                    self.grouped.extend(labels.labels.iter().cloned());
                }
                None
            }
            _ => None,
        };
        if let Some(selector) = selector {
            let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone());
            self.metrics.entry(selector.name.clone().unwrap_or_default()).or_default().extend(labels);
        }
        Ok(true)
    }
}

impl Names {
    fn judge(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known: Vec<&str> = FOREIGN_LABELS.to_vec();
        for (name, labels) in &self.metrics {
            let Some(label) = label_of(name) else {
                wrong.push(format!("there is no metric {name}"));
                continue;
            };
            known.extend(label);
            let strange = labels.iter().filter(|asked| !FOREIGN_LABELS.contains(&asked.as_str()) && Some(asked.as_str()) != label);
            wrong.extend(strange.map(|asked| format!("{name} has no label {asked}")));
        }
        wrong.extend(self.grouped.iter().filter(|by| !known.contains(&by.as_str())).map(|by| format!("nothing has the label {by}")));
        wrong
    }
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
