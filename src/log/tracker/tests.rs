use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const WINDOW: u32 = 1_048_576;

fn tracker(start: i64, read: impl IntoIterator<Item = i64>) -> Tracker {
    let mut tracker = Tracker::new(start, WINDOW);
    for offset in read {
        assert_eq!(tracker.read(offset), Read::Open, "{offset}");
    }
    tracker
}

#[test]
fn the_low_water_waits_for_the_oldest() {
    let mut tracker = tracker(10, 10..15);
    assert_eq!((tracker.low(), tracker.next(), tracker.open(), tracker.span()), (10, 15, 5, 5));
    for (offset, low) in [(11, 10), (13, 10), (10, 12), (14, 12), (12, 15)] {
        assert!(tracker.done(offset));
        assert_eq!(tracker.low(), low);
    }
    assert!(!tracker.done(12) && !tracker.done(15) && !tracker.done(9));
    assert_eq!(tracker.open(), 0);
}

#[test]
fn gaps_are_done() {
    let mut tracker = tracker(100, [105, 107]);
    assert_eq!(tracker.low(), 105);
    assert!(!tracker.done(106), "a gap is done already");
    tracker.done(105);
    assert_eq!(tracker.low(), 107);
    tracker.done(107);
    assert_eq!(tracker.low(), 108);
}

#[test]
fn a_gap_wider_than_the_window_is_stepped_over_when_nothing_is_open() {
    let mut tracker = tracker(0, [0]);
    let far = 1_700_000_000_000;
    assert!(!tracker.fits(far));
    tracker.done(0);
    assert!(tracker.fits(far));
    assert_eq!(tracker.read(far), Read::Open);
    assert_eq!((tracker.low(), tracker.bits.len()), (far, 1));
}

#[test]
fn only_the_span_bounds_the_window() {
    let mut tracker = Tracker::new(0, 1024);
    for offset in 0..1024 {
        assert!(tracker.fits(offset));
        tracker.read(offset);
        if offset % 2 == 1 {
            tracker.done(offset);
        }
    }
    assert!(!tracker.fits(1024));
    tracker.done(0);
    assert!(tracker.fits(1025) && !tracker.fits(1026));
}

#[test]
fn the_bits_are_let_go_of() {
    let mut tracker = Tracker::new(5, WINDOW);
    for offset in 5..1_000_000 {
        tracker.read(offset);
        tracker.done(offset);
        assert!(tracker.bits.len() <= 2, "{offset}");
    }
}

#[test]
fn a_log_that_goes_back_is_noticed() {
    let mut tracker = tracker(5, 5..9);
    assert_eq!(tracker.read(8), Read::Back);
    assert_eq!(tracker.read(0), Read::Back);
    assert_eq!(tracker.read(9), Read::Open);
}

#[test]
fn a_restart_sends_again_only_what_was_open() {
    let mut before = tracker(1000, 1000..1010);
    for offset in [1001, 1002, 1005, 1009] {
        before.done(offset);
    }
    let position = before.position("registry-7");
    assert_eq!((position.offset, position.is_whole), (1000, true));
    let (mut after, restored) = Tracker::restore(1000, &position.metadata, 1000, WINDOW);
    assert_eq!((restored.tag.as_str(), restored.done), ("registry-7", 4));
    let again: Vec<i64> = (1000..1012).filter(|offset| after.read(*offset) == Read::Open).collect();
    assert_eq!(again, [1000, 1003, 1004, 1006, 1007, 1008, 1010, 1011]);
    // What was carried over is carried on, also before it is read.
    let (unread, _) = Tracker::restore(1000, &position.metadata, 1000, WINDOW);
    assert_eq!(unread.position("registry-7").metadata, position.metadata);
}

#[test]
fn a_start_above_the_commit_keeps_what_is_done_above_it() {
    let mut before = tracker(0, 0..200);
    (50..150).for_each(|offset| assert!(before.done(offset)));
    let (mut after, restored) = Tracker::restore(0, &before.position("").metadata, 100, WINDOW);
    assert_eq!(restored.done, 50);
    assert_eq!(after.read(100), Read::Done);
    assert_eq!(after.low(), 101);
    assert_eq!(after.read(150), Read::Open);
}

#[test]
fn a_text_that_is_not_ours_marks_nothing() {
    let mut before = tracker(64, 64..100);
    before.done(70);
    let good = before.position("tag").metadata;
    for (committed, text) in [
        (64, String::new()),
        (64, "consumer-1@host".into()),
        (64, good.replace("ph1", "ph2")),
        (65, good.clone()),
        (64, format!("{good}!")),
        (64, format!("{good} more")),
        (64, "ph1 64 tag".into()),
        (64, "ph1 64 tag gA".into()),
        (64, "ph1 64 tag Bg".into()),
        (64, "ph1 64 tag gICAgICAgICAgIABAQ".into()),
    ] {
        let (mut after, restored) = Tracker::restore(committed, &text, committed, WINDOW);
        assert_eq!(restored.done, 0, "{text}");
        assert!((committed..100).all(|offset| after.read(offset) == Read::Open), "{text}");
    }
    // Runs beyond every bound are cut at the window.
    let mut runs = Vec::new();
    leb128(&mut runs, 1);
    leb128(&mut runs, 1 << 55);
    let text = format!("ph1 64 - {}", STANDARD_NO_PAD.encode(runs));
    let (after, restored) = Tracker::restore(64, &text, 64, 1024);
    assert_eq!((restored.done, after.bits.len()), (1023, 16));
}

#[test]
fn holes_beyond_the_limit_are_sent_again_from_the_top() {
    let mut before = tracker(0, 0..100_000);
    (0..100_000).filter(|offset| offset % 2 == 1).for_each(|offset| assert!(before.done(offset)));
    let position = before.position("tag");
    assert!(!position.is_whole && position.metadata.len() <= METADATA_LIMIT && position.metadata.len() > METADATA_LIMIT - 8);
    let (mut after, restored) = Tracker::restore(0, &position.metadata, 0, WINDOW);
    assert!(restored.done > 1_000);
    for offset in 0..100_000 {
        let done = offset % 2 == 1 && offset < restored.done as i64 * 2;
        assert_eq!(after.read(offset), if done { Read::Done } else { Read::Open }, "{offset}");
    }
}

/// What is done to a tracker in a property test.
#[derive(Debug, Clone)]
enum Step {
    Read {
        gap: i64,
    },
    /// Settles the n-th of the open offsets.
    Settle(prop::sample::Index),
    /// The partition is lost after a commit and comes back, or the process is killed and restarted.
    Move {
        committed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![4 => Just(0_i64), 1 => 1..200_i64].prop_map(|gap| Step::Read { gap }),
        7 => any::<prop::sample::Index>().prop_map(Step::Settle),
        1 => any::<bool>().prop_map(|committed| Step::Move { committed }),
    ]
}

proptest! {
    #[test]
    fn no_order_of_settling_and_moving_loses_a_record(start in prop_oneof![Just(0_i64), 0..1_000_000_000_000_i64], steps in prop::collection::vec(step(), 1..400)) {
        let window = 2_000;
        let mut tracker = Tracker::new(start, window);
        let mut log: BTreeSet<i64> = BTreeSet::new();
        let mut settled: BTreeSet<i64> = BTreeSet::new();
        let mut open: BTreeSet<i64> = BTreeSet::new();
        let mut committed = tracker.position("tag");
        let mut settled_at_commit = settled.clone();
        for step in steps {
            match step {
                Step::Read { gap } => {
                    // What the log holds above is read first, as after a restart; else the log grows.
                    let offset = log.range(tracker.next()..).next().copied().unwrap_or(log.last().map_or(start, |last| last + 1) + gap);
                    if tracker.fits(offset) {
                        log.insert(offset);
                        match tracker.read(offset) {
                            Read::Open => prop_assert!(open.insert(offset)),
                            Read::Done => prop_assert!(settled.contains(&offset), "{} was not settled", offset),
                            Read::Back => prop_assert!(false, "{} was read in order", offset),
                        }
                    } else {
                        prop_assert!(!open.is_empty());
                    }
                }
                Step::Settle(which) => {
                    if !open.is_empty() {
                        let offset = *which.get(&open.iter().copied().collect::<Vec<_>>());
                        prop_assert!(tracker.is_open(offset));
                        prop_assert!(tracker.done(offset));
                        prop_assert!(!tracker.done(offset));
                        open.remove(&offset);
                        settled.insert(offset);
                    }
                }
                Step::Move { committed: with_commit } => {
                    if with_commit {
                        committed = tracker.position("tag");
                        settled_at_commit = settled.clone();
                    }
                    let (new, _) = Tracker::restore(committed.offset, &committed.metadata, committed.offset, window);
                    tracker = new;
                    settled = settled_at_commit.clone();
                    open.clear();
                    if committed.is_whole {
                        // Exactly what was open at the commit, and what came after it, is sent again.
                        let mut replayed = tracker.clone();
                        for offset in log.range(committed.offset..) {
                            let expected = if settled_at_commit.contains(offset) { Read::Done } else { Read::Open };
                            if replayed.fits(*offset) {
                                prop_assert_eq!(replayed.read(*offset), expected, "{}", offset);
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(tracker.open(), open.len() as u64);
            prop_assert!(tracker.low() <= tracker.next());
            prop_assert!(tracker.span() <= u64::from(window));
            if let Some(oldest) = open.first() {
                prop_assert_eq!(tracker.low(), *oldest);
            }
            // Nothing that is in the log and not settled lies below what would be committed.
            prop_assert!(log.range(..tracker.low()).all(|offset| settled.contains(offset)));
            let position = tracker.position("tag");
            prop_assert!(position.metadata.len() <= METADATA_LIMIT);
            prop_assert_eq!(position.offset, tracker.low());
        }
    }

    #[test]
    fn no_text_makes_it_panic_or_marks_more_than_the_window(text in "(ph1 )?[0-9]{0,20}[ -~]{0,60}", committed in any::<u32>(), runs in prop::collection::vec(any::<u8>(), 0..60)) {
        let committed = i64::from(committed);
        for text in [text, format!("ph1 {committed} - {}", STANDARD_NO_PAD.encode(runs))] {
            let (tracker, restored) = Tracker::restore(committed, &text, committed, 4096);
            prop_assert!(restored.done <= 4096);
            prop_assert!(tracker.bits.len() <= 4096 / 64 + 1);
            prop_assert_eq!((tracker.low(), tracker.next()), (committed, committed));
            prop_assert!(tracker.position("t").metadata.len() <= METADATA_LIMIT);
        }
    }
}
