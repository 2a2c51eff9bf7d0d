//! The laws of clocks: a partial order, its least upper bound, and what pruning may lose.

use proptest::prelude::*;

use super::*;

type Entries = &'static [(&'static str, u32)];

fn clock(entries: &[(&str, u32)]) -> VectorClock {
    VectorClock::from_entries(entries.iter().map(|(key, value)| ((*key).into(), *value)))
}

#[test]
fn comparison() {
    let table: [(Entries, Entries, Ordering); 11] = [
        (&[], &[], Ordering::Equal),
        (&[("a", 0)], &[], Ordering::Equal),
        (&[("a", 0)], &[("b", 0)], Ordering::Equal),
        (&[("a", 1)], &[("a", 1)], Ordering::Equal),
        (&[("a", 1)], &[], Ordering::Greater),
        (&[], &[("b", 1)], Ordering::Less),
        (&[("a", 1), ("b", 1)], &[("a", 1)], Ordering::Greater),
        (&[("a", 1)], &[("a", 2), ("b", 0)], Ordering::Less),
        (&[("a", 1)], &[("b", 1)], Ordering::Concurrent),
        (&[("a", 2), ("b", 1)], &[("a", 1), ("b", 2)], Ordering::Concurrent),
        (&[("\u{ffff}", 1)], &[("😀", 1)], Ordering::Concurrent),
    ];
    for (a, b, expected) in table {
        assert_eq!(clock(a).compare(&clock(b)), expected, "{a:?} {b:?}");
    }
}

#[test]
fn counters_and_presence() {
    let clock = clock(&[("b", 2), ("a", 0), ("b", 3)]);
    assert_eq!((clock.get("a"), clock.get("b"), clock.get("c")), (0, 3, 0));
    assert!(clock.contains("a") && clock.contains("b") && !clock.contains("c"));
    assert_eq!((clock.len(), clock.is_empty(), VectorClock::new().is_empty()), (2, false, true));
    assert_eq!(clock.as_json(), r#"{"a":0,"b":3}"#);
}

#[test]
fn keys_are_ordered_as_javascript_orders_them() {
    // By UTF-16 unit an astral character comes before U+FFFF; by code point it comes after.
    let clock = clock(&[("\u{ffff}", 1), ("😀", 2), ("a", 3), ("B", 4)]);
    assert_eq!(clock.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["B", "a", "😀", "\u{ffff}"]);
}

#[test]
fn which_entries_survive() {
    for value in [-1.0, 0.5, 100_000_001.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        assert!(!VectorClock::entry_is_valid("a", value), "{value}");
    }
    for value in [0.0, -0.0, 1.0, 100_000_000.0] {
        assert!(VectorClock::entry_is_valid("a", value), "{value}");
    }
    assert!(!VectorClock::entry_is_valid("", 1.0));
    assert!(!VectorClock::entry_is_valid(&"😀".repeat(128), 1.0));
    assert!(VectorClock::entry_is_valid(&("😀".repeat(127) + "a"), 1.0));
    assert!(VectorClock::entry_is_valid(&"é".repeat(255), 1.0));
}

#[test]
fn corrupt_text_is_an_error() {
    for text in ["", "null", "[]", r#"{"a":-1}"#, r#"{"a":1.5}"#, r#"{"a":"1"}"#, r#"{"a":4294967296}"#, r#"{"a":1"#] {
        assert!(VectorClock::from_json(text).is_err(), "{text}");
    }
}

/// `count` clients c00, c01 …, all with the counter 7.
fn even(count: usize) -> VectorClock {
    VectorClock::from_entries((0..count).map(|i| (format!("c{i:02}").into(), 7)))
}

#[test]
fn pruning_at_the_bound() {
    assert_eq!(even(20).pruned(["absent"]), even(20));
    // Ties go to the smaller key.
    assert_eq!(even(21).pruned([]), even(20));
    assert_eq!(even(50).pruned([]), even(20));
    // A tie between characters that UTF-16 orders the other way round than code points.
    let mut tie = even(19);
    tie.merge(&clock(&[("\u{ffff}", 7), ("😀", 7)]));
    let kept = tie.pruned([]);
    assert!(kept.contains("😀") && !kept.contains("\u{ffff}"));
}

#[test]
fn scenarios_28_and_29_preserved_clients_survive() {
    let mut many = even(30);
    many.merge(&clock(&[("author", 1), ("uploader", 0), ("big", 100)]));
    let kept = many.pruned(["uploader", "absent", "author", "uploader"]);
    assert_eq!(kept.len(), 20);
    // Even a 0 stays when it is preserved.
    assert!(kept.contains("uploader") && !kept.contains("absent"));
    assert_eq!((kept.get("author"), kept.get("big"), kept.get("c16")), (1, 100, 7));
    assert!(!kept.contains("c17"));
    // The first of too many preserved ones win.
    let names: Vec<String> = (0..30).rev().map(|i| format!("c{i:02}")).collect();
    let kept = many.pruned(names.iter().map(String::as_str));
    assert!(kept.iter().map(|(key, _)| key.to_owned()).eq((10..30).map(|i| format!("c{i:02}"))));
}

const KEYS: [&str; 6] = ["a", "b", "B-1", "é", "😀", "\u{ffff}"];

fn any_clock() -> impl Strategy<Value = VectorClock> {
    prop::collection::vec((prop::sample::select(KEYS.to_vec()), 0..4_u32), 0..6).prop_map(|entries| clock(&entries))
}

fn large_clock() -> impl Strategy<Value = VectorClock> {
    prop::collection::btree_map("[a-c😀]{1,3}", 0..5_u32, 0..50)
        .prop_map(|entries| VectorClock::from_entries(entries.into_iter().map(|(key, value)| (key.into(), value))))
}

fn merged(a: &VectorClock, b: &VectorClock) -> VectorClock {
    let mut merged = a.clone();
    merged.merge(b);
    merged
}

fn covers(a: &VectorClock, b: &VectorClock) -> bool {
    matches!(a.compare(b), Ordering::Equal | Ordering::Greater)
}

proptest! {
    #[test]
    fn comparison_is_a_partial_order(a in any_clock(), b in any_clock(), c in any_clock()) {
        let flipped = match b.compare(&a) {
            Ordering::Greater => Ordering::Less,
            Ordering::Less => Ordering::Greater,
            same => same,
        };
        prop_assert_eq!(a.compare(&b), flipped);
        prop_assert_eq!(a.compare(&a), Ordering::Equal);
        if covers(&a, &b) && covers(&b, &c) {
            prop_assert!(covers(&a, &c));
        }
    }

    #[test]
    fn comparison_agrees_with_the_counters(a in any_clock(), b in any_clock()) {
        prop_assert_eq!(covers(&a, &b), KEYS.iter().all(|key| a.get(key) >= b.get(key)));
        prop_assert_eq!(covers(&a, &b), merged(&a, &b).compare(&a) == Ordering::Equal);
    }

    #[test]
    fn merge_is_the_least_upper_bound(a in any_clock(), b in any_clock(), c in any_clock()) {
        let both = merged(&a, &b);
        prop_assert!(covers(&both, &a) && covers(&both, &b));
        if covers(&c, &a) && covers(&c, &b) {
            prop_assert!(covers(&c, &both));
        }
        prop_assert_eq!(&both, &merged(&b, &a));
        prop_assert_eq!(merged(&both, &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a);
    }

    #[test]
    fn the_text_follows_a_change(a in any_clock(), b in any_clock()) {
        let mut both = a.clone();
        prop_assert_eq!(both.as_json(), a.as_json());
        both.merge(&b);
        prop_assert_eq!(&VectorClock::from_json(both.as_json()).unwrap(), &both);
        prop_assert_eq!(&VectorClock::from_json(a.as_json()).unwrap(), &a);
    }

    #[test]
    fn order_of_entries_does_not_matter(mut entries in prop::collection::btree_map("[a-d😀\u{fff0}]{1,2}", any::<u32>(), 0..9)) {
        let forward = VectorClock::from_entries(entries.iter().map(|(key, value)| (key.as_str().into(), *value)));
        let backward = VectorClock::from_entries(entries.iter().rev().map(|(key, value)| (key.as_str().into(), *value)));
        prop_assert_eq!(&forward, &backward);
        prop_assert_eq!(forward.len(), entries.len());
        prop_assert_eq!(&VectorClock::from_json(forward.as_json()).unwrap(), &forward);
        if let Some((key, value)) = entries.pop_first() {
            prop_assert_eq!(forward.get(&key), value);
        }
    }

    #[test]
    fn pruning_keeps_what_matters(
        full in large_clock(),
        preserve in prop::collection::vec("[a-c😀]{1,3}", 0..25),
    ) {
        let kept = full.pruned(preserve.iter().map(String::as_str));
        prop_assert_eq!(kept.len(), full.len().min(MAX_CLOCK_STORED));
        prop_assert!(kept.iter().all(|(key, value)| full.contains(key) && full.get(key) == value));
        if full.len() <= MAX_CLOCK_STORED {
            prop_assert_eq!(&kept, &full);
            return Ok(());
        }
        let mut wanted: Vec<&String> = Vec::new();
        for id in preserve.iter().filter(|id| full.contains(id)) {
            if !wanted.contains(&id) && wanted.len() < MAX_CLOCK_STORED {
                wanted.push(id);
            }
        }
        prop_assert!(wanted.iter().all(|id| kept.contains(id)));
        // Of the others no dropped one comes before a kept one.
        let rank = |key: &str| (std::cmp::Reverse(full.get(key)), key.encode_utf16().collect::<Vec<_>>());
        let others = || full.iter().map(|(key, _)| key).filter(|key| !wanted.iter().any(|id| id == key));
        let last_kept = others().filter(|key| kept.contains(key)).map(rank).max();
        let first_dropped = others().filter(|key| !kept.contains(key)).map(rank).min();
        if let (Some(kept), Some(dropped)) = (last_kept, first_dropped) {
            prop_assert!(kept < dropped);
        }
        prop_assert_eq!(kept.pruned(preserve.iter().map(String::as_str)), kept);
    }
}
