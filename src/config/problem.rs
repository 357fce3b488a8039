//! What is wrong with a configuration, so that whoever wrote it can put all of it right in one go.

use std::fmt;

/// One thing that is wrong, where it stands, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// The key with its section, such as `kafka.brokers`; empty when the text could not even be read as TOML.
    pub key: String,
    pub what: String,
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// File as it was named, line counted from 1.
    File { name: String, line: usize },
    /// The file as a whole.
    WholeFile(String),
    /// Name of an environment variable.
    Environment(String),
    /// Nobody set it: the default does not fit to what was set elsewhere.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { name, line } => write!(out, "{name}:{line}"),
            Place::WholeFile(name) | Place::Environment(name) => out.write_str(name),
            Place::Default => out.write_str("(default)"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(out, "{}: {}", self.place, self.what),
            key => write!(out, "{}: {key}: {}", self.place, self.what),
        }
    }
}

/// Everything that is wrong, one problem a line, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(out, "{problem}")?;
        }
        match self.0.len() {
            1 => out
                .write_str("1 problem; nothing was started. Every key and its default: config/default.toml or `posthaste check --manual`"),
            count => {
                write!(
                    out,
                    "{count} problems; nothing was started. Every key and its default: config/default.toml or `posthaste check --manual`"
                )
            }
        }
    }
}

impl std::error::Error for Problems {}

/// The known word that a mistyped one most likely means: at most a third of its letters differ.
pub fn nearest<'a>(typo: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close_enough = (typo.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (edits(typo, word), word))
        .filter(|(distance, word)| *distance <= close_enough || word.starts_with(typo) || typo.starts_with(word))
        .min()
        .map(|(_, word)| word)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour to get from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                    let swapped = match i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                        true => rows[i - 2][j - 2] + 1,
                        false => usize::MAX,
                    };
                    replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(swapped)
                }
            };
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_taken_for_the_nearest_word() {
        let known = ["brokers", "group", "instance", "start", "create_topics"];
        for (typo, meant) in [
            ("brokrs", Some("brokers")),
            ("borkers", Some("brokers")),
            ("groups", Some("group")),
            ("create_topic", Some("create_topics")),
            ("Start", Some("start")),
            ("zebra", None),
        ] {
            assert_eq!(nearest(typo, known), meant, "{typo}");
        }
    }
}
