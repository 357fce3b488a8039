//! Rules of the code base that no compiler knows: they are read from the text of the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A source file: its path below the repository, its text without tests and comments, and the whole text.
struct Source {
    path: String,
    /// The first module of its path, such as `log`; empty for `lib.rs` and `main.rs`.
    module: String,
    code: String,
    text: String,
}

/// Which modules of ours a module may import; `sources::ingest` allows that part of it only. What is not listed may import everything.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &["model"]),
    ("telemetry", &["telemetry"]),
    ("log", &["log", "model", "telemetry"]),
    ("health", &["health", "model", "telemetry"]),
    ("registry", &["registry", "log", "model", "telemetry"]),
    ("sources", &["sources", "log", "health", "registry", "model", "telemetry"]),
    ("routing", &["routing", "log", "health", "registry", "model", "telemetry"]),
    ("scheduler", &["scheduler", "log", "health", "registry", "model", "telemetry"]),
    ("delivery", &["delivery", "log", "health", "registry", "model", "telemetry"]),
    ("settle", &["settle", "log", "health", "registry", "model", "telemetry"]),
    (
        "api",
        &[
            "api",
            "registry",
            "health",
            "log",
            "sources::ingest",
            "sources::replay",
            "settle::dead_letter",
            "settle::history",
            "settle::journal",
            "delivery::address",
            "routing::filter",
            "model",
            "telemetry",
        ],
    ),
];

#[test]
fn a_module_imports_only_the_layers_below_it() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let Some((_, allowed)) = LAYERS.iter().find(|(module, _)| *module == source.module) else { continue };
        for import in imports(&source.code) {
            let fits = allowed.iter().any(|allowed| import == *allowed || import.starts_with(&format!("{allowed}::")));
            if !fits {
                wrong.push(format!("{} imports crate::{import}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "may import: {LAYERS:#?}\n{}", wrong.join("\n"));
}

#[test]
fn no_queue_is_without_a_bound() {
    assert_absent(&["unbounded_channel", "unbounded()", "UnboundedSender", "UnboundedReceiver", "mpsc::channel()"], "name a bound");
}

#[test]
fn nothing_panics_on_purpose_outside_of_tests() {
    assert_absent(&[".unwrap()", "todo!(", "unimplemented!(", "dbg!("], "return an error, or expect(\"why it cannot fail\")");
}

#[test]
fn nothing_is_kept_quiet() {
    assert_absent(&["allow(dead_code)", "allow(unused", "allow(clippy::all"], "use it or remove it");
    for source in sources("src").into_iter().chain(sources("tests")).filter(|source| !source.path.ends_with("tidy.rs")) {
        assert!(!source.text.contains("#[ignore"), "{}: a test that never runs proves nothing", source.path);
    }
}

#[test]
fn a_whole_body_is_read_only_up_to_a_limit() {
    for source in sources("src") {
        if source.code.contains("BodyExt") && source.code.contains(".collect()") {
            assert!(source.code.contains("Limited"), "{} reads a body without http_body_util::Limited", source.path);
        }
        assert!(!source.code.contains("usize::MAX).await"), "{} reads a body without a limit", source.path);
    }
}

#[test]
fn every_metric_is_used() {
    let sources = sources("src");
    let declared = sources.iter().find(|source| source.path == "src/telemetry/metrics.rs").expect("the metrics are declared there");
    let fields: BTreeSet<&str> = declared
        .code
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let kind = words.next()?;
            let field = words.next()?;
            let named = words.next()?.starts_with("\"posthaste_");
            (matches!(kind, "counter" | "gauge" | "histogram") && named).then_some(field)
        })
        .collect();
    assert!(fields.len() > 20, "{fields:?}");
    let used = |field: &str| {
        sources.iter().any(|source| {
            source.code.match_indices(field).any(|(at, _)| {
                let before = source.code[..at].trim_end();
                let after = source.code[at + field.len()..].chars().next();
                before.ends_with('.') && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        })
    };
    let unused: Vec<&&str> = fields.iter().filter(|field| !used(field)).collect();
    assert!(unused.is_empty(), "nothing ever sets these metrics: {unused:?}");
}

#[test]
fn nothing_depends_on_the_machine_it_was_written_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = std::env::var("HOME").unwrap_or_default();
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Dockerfile",
        "config/default.toml",
        "config/standalone.toml",
        "config/cluster.toml",
        "docs/hub.md",
        "docs/zenvia.md",
        "docs/conversion.md",
        "docs/standard.md",
        "docs/filters.md",
    ];
    let documents = documents.map(|path| (path.to_owned(), fs::read_to_string(root.join(path)).expect(path)));
    let sources = sources("src").into_iter().chain(sources("tests")).filter(|source| !source.path.ends_with("tidy.rs"));
    for (path, text) in documents.into_iter().chain(sources.map(|source| (source.path, source.text))) {
        for (what, place) in [("the checkout", env!("CARGO_MANIFEST_DIR")), ("the home directory", &home)] {
            assert!(place.len() < 3 || !text.contains(place), "{path} names {what}, {place}");
        }
    }
}

/// Fails when one of the texts is in the code of the library or the program, tests apart.
fn assert_absent(texts: &[&str], cure: &str) {
    let mut wrong = Vec::new();
    for source in sources("src") {
        for (number, line) in source.code.lines().enumerate() {
            if let Some(text) = texts.iter().find(|text| line.contains(**text)) {
                wrong.push(format!("{}:{}: {text}", source.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{cure}:\n{}", wrong.join("\n"));
}

fn sources(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(directory), &mut files);
    files.sort();
    let source = |file: &PathBuf| {
        let path = file.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let text = fs::read_to_string(file).expect("a source file can be read");
        let is_test = file.file_name().is_some_and(|name| name == "tests.rs") || path.contains("/tests/");
        let code = if is_test { String::new() } else { code(&text) };
        let module = path.strip_prefix("src/").and_then(|path| path.split('/').next()).unwrap_or_default();
        let module = match module.strip_suffix(".rs") {
            Some("lib" | "main") => String::new(),
            Some(module) => module.to_owned(),
            None => module.to_owned(),
        };
        Source { path, module, code, text }
    };
    files.iter().map(source).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a folder of sources can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text without comments and without modules of tests; lines keep their numbers. Tests are last in a file (STYLE: read top-down).
fn code(text: &str) -> String {
    let is_inline = |(at, _): &(usize, &str)| text[at + 1..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
    let end = text.match_indices("\n#[cfg(test)]\nmod ").find(is_inline).map_or(text.len(), |(at, _)| at);
    text[..end].lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect::<Vec<_>>().join("\n")
}

/// Every path below `crate::` that is named, groups written out: `crate::{a, b::{c, d}}` names `a`, `b::c` and `b::d`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, begin) in code.match_indices("crate::") {
        let is_ours = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if is_ours {
            paths(&code[at + begin.len()..], String::new(), &mut found);
        }
    }
    found
}

/// Reads one path or group from the beginning of the text; returns what is behind it.
fn paths<'t>(text: &'t str, above: String, found: &mut BTreeSet<String>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            match rest.chars().next() {
                None => return rest,
                Some('}') => return &rest[1..],
                Some(',') => rest = &rest[1..],
                Some(_) => {
                    let before = rest.len();
                    rest = paths(rest, above.clone(), found);
                    if rest.len() == before {
                        rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
                    }
                }
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = match (above.as_str(), name) {
        ("", name) => name.to_owned(),
        (above, "" | "self") => above.to_owned(),
        (above, name) => format!("{above}::{name}"),
    };
    if let Some(below) = rest.strip_prefix("::") {
        return paths(below, path, found);
    }
    if !path.is_empty() {
        found.insert(path);
    }
    match rest.trim_start().strip_prefix("as ") {
        Some(alias) => alias.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
        None => rest,
    }
}

#[test]
fn imports_are_read_through_groups_and_aliases() {
    let code = "use crate::{a, b::{self, c as d, e::F}, g};\nlet x = crate::h::i();\nuse other::crate_x;";
    let found = imports(code);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["a", "b", "b::c", "b::e::F", "g", "h::i"]);
}
