//! Patterns of `matches`, and what it costs to look for one in a text.
//!
//! The crate `regex` goes through a text with an automaton that it makes on the way, which takes a few nanoseconds for a byte. A pattern whose
//! automaton outgrows its memory (that of `1[01]{30}[^01]` has 2³¹ states), or that asks for borders of words in a text that is not ASCII, is
//! looked for in another way: all its places are tried at every byte, up to 16 ns each, and with 3,000 places that is 40 µs for a byte. Which way
//! it takes depends on the text and on the texts before; so whoever could need the second one pays for it, and the price is the same everywhere.

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind};

/// Bytes that a compiled pattern, and its automaton, may take.
const SIZE: usize = 256 << 10;

/// Bytes for a step where the automaton does it: at 25 ns for a byte, 20 ms for all steps of an evaluation. An ordinary pattern takes 2 ns; of
/// thousands made at random a few took 30 to 65 ns, and `.\w.\w#` on digits of all scripts 116 ns, which is 93 ms.
const BYTES_PER_STEP: u64 = 8;
/// Places for a step where they are tried one by one: 16 ms for all steps.
const PLACES_PER_STEP: u64 = 10;

/// An automaton of so many places and states has room, whatever the text.
const LIGHT_PLACES: u64 = 256;
const LIGHT_STATES: u64 = 2_048;

#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    /// None: its automaton has room.
    places: Option<u64>,
}

impl Pattern {
    /// The error is what is wrong with it.
    pub fn compile(source: &str) -> Result<Pattern, String> {
        let regex = RegexBuilder::new(source).size_limit(SIZE).dfa_size_limit(SIZE).build().map_err(|error| error.to_string())?;
        let syntax = regex_syntax::parse(source).map_err(|error| error.to_string())?;
        let Extent { places, choices } = Extent::of(&syntax);
        // Each choice can double the states.
        let states = 1_u64.checked_shl(u32::try_from(choices).unwrap_or(u32::MAX)).map_or(u64::MAX, |sets| sets.saturating_mul(places));
        let light = places <= LIGHT_PLACES && states <= LIGHT_STATES && !syntax.properties().look_set().contains_word_unicode();
        Ok(Pattern { regex, places: (!light).then_some(places) })
    }

    /// The steps that it costs to look for it in a text of so many bytes.
    pub fn steps(&self, bytes: usize) -> u32 {
        let bytes = bytes as u64;
        let least = bytes / BYTES_PER_STEP;
        // Even an empty text has a place where it can begin.
        let steps = self.places.map_or(least, |places| least.max((bytes + 1).saturating_mul(places) / PLACES_PER_STEP));
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// How large a pattern is when its repetitions are written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// Letters, borders and branches: what there is to try at a byte.
    places: u64,
    /// Those of them where a text can go on in more than one way: classes of letters, and what may be left out. Upper and lower case of a letter
    /// are no choice.
    choices: u64,
}

impl Extent {
    /// It recurses no deeper than the parser of patterns allows (250).
    fn of(syntax: &Hir) -> Extent {
        /// Ranges of a class that take as long as a place: they are looked through one by one, …
        const RANGES_PER_PLACE: u64 = 8;
        /// … but no more of them than there are first bytes of letters.
        const MOST: u64 = 7;
        let class = |ranges: usize, choices| Extent { places: 1 + (ranges as u64 / RANGES_PER_PLACE).min(MOST), choices };
        let sum = |parts: &[Hir], places| {
            parts.iter().map(Extent::of).fold(Extent { places, choices: 0 }, |sum, part| Extent {
                places: sum.places.saturating_add(part.places),
                choices: sum.choices.saturating_add(part.choices),
            })
        };
        match syntax.kind() {
            HirKind::Empty | HirKind::Look(_) => Extent { places: 1, choices: 0 },
            HirKind::Literal(literal) => Extent { places: literal.0.len() as u64, choices: 0 },
            HirKind::Class(Class::Unicode(letters)) => class(letters.ranges().len(), u64::from(!is_one_letter(letters))),
            HirKind::Class(Class::Bytes(bytes)) => class(bytes.ranges().len(), 1),
            HirKind::Repetition(repetition) => {
                let (part, times) = (Extent::of(&repetition.sub), u64::from(repetition.max.unwrap_or(repetition.min).max(1)));
                let left_out = repetition.max.map_or(0, |most| u64::from(most - repetition.min));
                Extent {
                    places: (part.places + 1).saturating_mul(times),
                    choices: part.choices.saturating_mul(times).saturating_add(left_out),
                }
            }
            HirKind::Capture(group) => sum(std::slice::from_ref(&*group.sub), 2),
            HirKind::Concat(parts) => sum(parts, 0),
            HirKind::Alternation(parts) => sum(parts, parts.len() as u64),
        }
    }
}

/// Whether a class is one letter in both cases, as `(?i)` makes it.
fn is_one_letter(class: &ClassUnicode) -> bool {
    let small = |letter: char| letter.to_uppercase().flat_map(char::to_lowercase).collect::<String>();
    let Some(first) = class.ranges().first() else { return true };
    class.iter().all(|range| range.start() == range.end() && small(range.start()) == small(first.start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_patterns_cost_a_step_for_eight_bytes() {
        for source in [
            "order",
            "order|ticket|invoice",
            r"^order\.[a-z_]+$",
            r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$",
            r"^\w+@\w+\.\w+$",
            r"(?i)^order-\d{4}$",
            "(?i)cancel.*order",
            "(?i)(cancel|refund|reembolso|devolu[çc][ãa]o|chargeback|estorno)",
            "(x+x+)+y",
        ] {
            assert_eq!(Pattern::compile(source).expect(source).steps(4_000), 500, "{source}");
        }
    }

    #[test]
    fn patterns_whose_automaton_may_have_no_room_cost_their_places() {
        for (source, places) in [
            ("1[01]{30}[^01]", 1 + 30 * 2 + 1),
            ("1[01]{3000}[^01]", 1 + 3_000 * 2 + 1),
            ("1(?:1?){100}[^01]", 1 + 100 * 3 + 1),
            (r"\bvip\b", 5),
            ("[bdfhjlnprtvxzBDFHJLNPRTVXZ]{50}", 50 * 5),
        ] {
            assert_eq!(Pattern::compile(source).expect(source).steps(9_999), 1_000 * places, "{source}");
        }
        assert_eq!(Pattern::compile("1[01]{3000}[^01]").expect("a pattern").steps(0), 600, "an empty text is not free");
    }
}
