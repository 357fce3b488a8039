//! What the dashboard and the alerts ask for is what a running daemon tells.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use promql_parser::parser::{self, Expr, VectorSelector};
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::Receiver,
};

both_backends!(every_expression_of_dashboard_and_alerts_names_metrics_and_labels_that_are_there);

async fn every_expression_of_dashboard_and_alerts_names_metrics_and_labels_that_are_there(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    receiver.wait_for(1, Duration::from_secs(20)).await;
    let text = daemon.metrics().await;
    let expressions = expressions();
    assert!(expressions.len() > 20, "dashboard and alerts ask something: {expressions:?}");
    for expression in expressions {
        let parsed = parser::parse(&expression).unwrap_or_else(|wrong| panic!("{expression}: {wrong}"));
        let mut selectors = Vec::new();
        collect(&parsed, &mut selectors);
        for selector in selectors {
            let name = selector.name.clone().unwrap_or_else(|| panic!("{expression}: a selector without a name"));
            // `up` is Prometheus' own.
            if name == "up" {
                continue;
            }
            let series: Vec<&str> =
                text.lines().filter(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']))).collect();
            assert!(!series.is_empty(), "{expression}: the daemon has no {name}");
            for matcher in &selector.matchers.matchers {
                if matcher.name == "job" || matcher.name == "instance" {
                    continue;
                }
                assert!(
                    series.iter().any(|line| line.contains(&format!("{}=\"", matcher.name))),
                    "{expression}: {name} has no label {}",
                    matcher.name
                );
                if matcher.op.to_string() == "=" && !matcher.value.contains('$') {
                    let label = format!("{}=\"{}\"", matcher.name, matcher.value);
                    assert!(series.iter().any(|line| line.contains(&label)), "{expression}: {name} is never {label}");
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

#[test]
fn promtool_accepts_the_alert_rules() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yml");
    let output =
        Command::new("promtool").arg("check").arg("rules").arg(&rules).output().expect("promtool is installed (tests/run does it)");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

fn expressions() -> BTreeSet<String> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(config.join("grafana")).expect("config/grafana") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("readable");
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        collect_json(&dashboard, &mut found);
    }
    let alerts = std::fs::read_to_string(config.join("prometheus/alerts.yml")).expect("config/prometheus/alerts.yml");
    let mut lines = alerts.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim_start().trim_start_matches("- ").strip_prefix("expr:") else { continue };
        let mut whole = expression.trim().to_owned();
        if matches!(whole.as_str(), "|" | ">" | ">-" | "|-") {
            let indent = line.len() - line.trim_start().len();
            whole.clear();
            while lines.peek().is_some_and(|next| next.len() - next.trim_start().len() > indent && !next.trim().is_empty()) {
                whole.push_str(lines.next().expect("peeked"));
                whole.push(' ');
            }
        }
        found.insert(whole.trim().trim_matches(['\'', '"']).to_owned());
    }
    found
        .into_iter()
        .map(|expression| expression.replace("$__rate_interval", "5m").replace("$__interval", "1m").replace("$__range", "1h"))
        .collect()
}

fn collect_json(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) => {
            if let Some(expression) = object.get("expr").and_then(|expression| expression.as_str()) {
                found.insert(expression.to_owned());
            }
            object.values().for_each(|value| collect_json(value, found));
        }
        serde_json::Value::Array(array) => array.iter().for_each(|value| collect_json(value, found)),
        _ => {}
    }
}

fn collect(expression: &Expr, selectors: &mut Vec<VectorSelector>) {
    match expression {
        Expr::VectorSelector(selector) => selectors.push(selector.clone()),
        Expr::MatrixSelector(matrix) => selectors.push(matrix.vs.clone()),
        Expr::Aggregate(aggregate) => collect(&aggregate.expr, selectors),
        Expr::Unary(unary) => collect(&unary.expr, selectors),
        Expr::Binary(binary) => {
            collect(&binary.lhs, selectors);
            collect(&binary.rhs, selectors);
        }
        Expr::Paren(paren) => collect(&paren.expr, selectors),
        Expr::Subquery(subquery) => collect(&subquery.expr, selectors),
        Expr::Call(call) => call.args.args.iter().for_each(|argument| collect(argument, selectors)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}
