//! What the dashboard and the alert rules ask Prometheus for.

use std::{fs, path::Path};

use promql_parser::{
    parser::{self, Expr, LabelModifier, VectorSelector},
    util::{ExprVisitor, walk_expr},
};
use serde_json::Value;

/// An expression, where it stands, and what it names.
pub struct Expression {
    /// The panel or the alert.
    pub place: String,
    pub text: String,
    pub selectors: Vec<VectorSelector>,
    /// Labels that are grouped by.
    pub grouped: Vec<String>,
}

impl ExprVisitor for Expression {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Self::Error> {
        match expression {
            Expr::VectorSelector(selector) => self.selectors.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.selectors.push(matrix.vs.clone()),
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier {
                    self.grouped.extend(labels.labels.iter().cloned());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// All of them, parsed. One that does not parse is a failure.
pub fn expressions() -> Vec<Expression> {
    let parse = |(place, text): (String, String)| {
        // What Grafana fills in.
        let text = text.replace("$__rate_interval", "5m").replace("$__interval", "1m").replace("$__range", "1h");
        let parsed = parser::parse(&text).unwrap_or_else(|wrong| panic!("{place}: {text}: {wrong}"));
        let mut expression = Expression { place, text, selectors: Vec::new(), grouped: Vec::new() };
        walk_expr(&mut expression, &parsed).expect("the visitor never fails");
        expression
    };
    let found: Vec<Expression> = dashboard().into_iter().chain(alerts()).map(parse).collect();
    assert!(found.len() > 50, "{}", found.len());
    found
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Panel and expression.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&file("config/grafana/posthaste.json")).expect("the dashboard is JSON");
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
    let text = file("config/prometheus/alerts.yml");
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
