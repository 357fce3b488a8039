use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Direction, Priority, Text};

fn event(data: &str) -> Event {
    Event {
        id: "e1".into(),
        kind: "order.created".into(),
        channel: "shop".into(),
        direction: Some(Direction::Out),
        time: "2026-01-31T12:30:15.250Z".parse().expect("a time"),
        tenant: "default".into(),
        subject: None,
        priority: Priority::High,
        traceparent: None,
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

const ORDER: &str = r#"{"total": 120, "price": 9.5, "vip": true, "note": null, "customer": {"name": "Ana", "tags": ["new", "vip"]},
    "items": [{"sku": "a1", "n": 2}, {"sku": "b2", "n": 1}], "ratio": 1.5}"#;

fn decide(source: &str, event: &Event) -> Result<bool, Undecided> {
    let filter = Filter::compile(source).unwrap_or_else(|wrong| panic!("{source}: {wrong}"));
    filter.matches(event, &Data::of(event))
}

#[test]
fn expressions_hold_of_events_or_do_not() {
    let order = event(ORDER);
    for (source, expected) in [
        ("true", true),
        ("event.type == 'order.created'", true),
        ("event.type.startsWith('order.') && event.channel in ['shop', 'web']", true),
        ("event.id == 'e1' && event.tenant == \"default\" && event.priority == 'high'", true),
        ("event.direction == 'OUT'", true),
        ("event.subject == null && !has(event.subject) && has(event.direction)", true),
        ("event.time > timestamp('2026-01-01T00:00:00Z')", true),
        ("event.time - timestamp('2026-01-31T12:00:15.250Z') == duration('30m')", true),
        ("event.time + duration('1h30m') < timestamp('2026-01-31T14:00:16Z')", true),
        ("event.time.getFullYear() == 2026 && event.time.getMonth() == 0 && event.time.getDate() == 31", true),
        ("event.time.getDayOfWeek() == 6 && event.time.getHours() == 12 && event.time.getHours('-03:00') == 9", true),
        ("event.time.getMinutes() == 30 && event.time.getSeconds() == 15 && event.time.getMilliseconds() == 250", true),
        ("event.data.total > 100", true),
        ("event.data.total >= 120 && event.data.total <= 120.0 && event.data.total == 120u", true),
        ("event.data.total * 1.5 == 180.0", true),
        ("event.data.total / 7 == 17 && event.data.total % 7 == 1 && -event.data.total + 1 == -119", true),
        ("event.data.price < event.data.total", true),
        ("event.data['customer'].name == 'Ana'", true),
        ("event.data.customer.tags[1] == 'vip' && 'new' in event.data.customer.tags", true),
        ("'name' in event.data.customer && !('age' in event.data.customer)", true),
        ("has(event.data.customer.name) && !has(event.data.customer.age)", true),
        ("event.data.note == null", true),
        ("event.data.vip ? event.data.total > 500 : true", false),
        ("size(event.data.items) == 2 && event.data.customer.tags.size() == 2 && size('ação') == 4", true),
        ("event.data.items.exists(i, i.sku == 'b2')", true),
        ("event.data.items.all(i, i.n > 0)", true),
        ("event.data.items.exists_one(i, i.n == 1)", true),
        ("event.data.items.filter(i, i.n > 1).map(i, i.sku) == ['a1']", true),
        ("event.data.items.map(i, i.n > 1, i.sku + '!') == ['a1!']", true),
        ("event.data.customer.exists(k, k == 'tags')", true),
        ("event.data.items.exists(i, event.data.customer.tags.exists(t, i.sku == t))", false),
        ("[1, 2] + [3] == [1, 2, 3] && {'a': 1}['a'] == 1 && {'a': [1]} == {'a': [1.0]}", true),
        ("event.data.customer.name.matches('^A[a-z]+$')", true),
        ("event.data.customer.name.lowerAscii() == 'ana' && 'x'.upperAscii() == 'X'", true),
        ("event.data.customer.name.contains('n') && event.data.customer.name.endsWith('na')", true),
        ("int('7') + int(2.9) == 9 && double('1.5') == 1.5 && string(7) == '7' && bool('true')", true),
        ("1 == '1' || null == false", false),
        ("1 != '1'", true),
        // What decides, decides, on whichever side it stands.
        ("event.data.missing == 1 || event.data.vip", true),
        ("event.data.vip || event.data.missing == 1", true),
        ("event.data.missing == 1 && false", false),
        ("event.data.items.exists(i, i.missing == 1 || i.sku == 'b2')", true),
        ("[0, 2].exists(i, 4 / i == 2)", true),
        ("[0, 3].all(i, 6 / i == 3)", false),
    ] {
        assert_eq!(decide(source, &order), Ok(expected), "{source}");
    }
}

#[test]
fn what_fails_says_why() {
    let order = event(ORDER);
    for (source, why) in [
        ("event.data.missing == 1", "there is no `missing`"),
        ("event.data.total.more", "an int has no `more`"),
        ("event.data.total > 'a'", "cannot be compared"),
        ("event.data.total", "it is an int"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "out of range"),
        ("-(-9223372036854775807 - 1) > 0", "out of range"),
        ("event.data.items[5].n == 1", "no such item"),
        ("event.data.items[-1].n == 1", "no such item"),
        ("event.data.vip + 1 == 2", "cannot be added"),
        ("!event.data.total", "`!` of an int"),
        ("event.data.total && true", "neither true nor false"),
        ("event.data.total.exists(i, true)", "nothing to go over"),
        ("timestamp('yesterday') < event.time", "timestamp"),
        ("event.time.getHours('Mars') == 1", "time zone"),
        ("[0].all(i, 6 / i == 3)", "division by zero"),
        ("event.time + duration('90000000h') > event.time", "out of range"),
    ] {
        match decide(source, &order) {
            Err(Undecided::Failed(text)) => assert!(text.contains(why), "{source}: {text}"),
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (source, line, column, message) in [
        ("", 1, 1, "empty"),
        ("event.data.total >", 1, 19, ""),
        ("event.data.total > )", 1, 20, ""),
        ("event.total > 1", 1, 6, "there is no `event.total`"),
        ("true &&\n  order.total > 1", 2, 3, "there is no variable `order`"),
        ("event == 1", 1, 1, "stands for nothing alone"),
        ("event.data.items.exists(i, j.n == 1)", 1, 28, "there is no variable `j`"),
        ("sum(event.data.items) > 1", 1, 4, "there is no function `sum`"),
        ("startsWith(event.type, 'a')", 1, 11, "there is no function"),
        ("event.type.startsWith()", 1, 22, "arguments"),
        ("event.type.matches(event.id)", 1, 19, "written out"),
        ("event.type.matches('(')", 1, 19, "pattern is wrong"),
        ("b'abc' == b'abc'", 1, 1, "bytes"),
        ("Order{total: 1}.total == 1", 1, 6, "messages"),
        ("'a' + \u{1}", 1, 7, "control character"),
    ] {
        let wrong = Filter::compile(source).expect_err(source);
        assert_eq!((wrong.line, wrong.column), (line, column), "{source}: {wrong}");
        assert!(wrong.message.contains(message), "{source}: {wrong}");
    }
}

#[test]
fn what_is_too_much_is_refused_before_it_can_hurt() {
    let refused = |source: &str| Filter::compile(source).expect_err("too much").message;
    assert!(refused(&"a".repeat(MAX_SOURCE + 1)).contains("longer than"));
    let nested = |open: &str, close: &str| format!("{}1{} == 1", open.repeat(MAX_DEPTH + 1), close.repeat(MAX_DEPTH + 1));
    assert!(refused(&nested("(", ")")).contains("nest deeper"));
    assert!(refused(&nested("[", "]")).contains("nest deeper"));
    assert!(refused(&format!("1{} > 0", "+1".repeat(200))).contains("nest deeper"));
    assert!(refused(&format!("size([{}1]) == 600", "1,".repeat(599))).contains("more than"));
    let folds = "[1].map(i, i)".to_owned() + &".map(i, i)".repeat(MAX_FOLDS);
    assert!(refused(&format!("{folds} == [1]")).contains("loops"));
    // Chains that only a parser with a large stack survives.
    for chain in ["!", "-", "a.", "a?", "1?2:", "[0", "{1:"] {
        assert!(Filter::compile(&chain.repeat(2_000 / chain.len())).is_err(), "{chain}");
    }
    // Those that cancel each other out may stand: the parser drops them.
    if let Ok(filter) = Filter::compile(&format!("{}true", "!".repeat(1_000))) {
        assert_eq!(filter.matches(&event("{}"), &Data::Unread("")), Ok(true));
    }
}

#[test]
fn an_evaluation_ends_soon_whatever_it_asks_for() {
    let numbers: Vec<u32> = (0..20_000).collect();
    let large = event(&serde_json::json!({ "n": numbers, "text": "x".repeat(100_000) }).to_string());
    for source in [
        "event.data.n.exists(a, event.data.n.exists(b, a + b < 0))",
        "event.data.n.map(a, event.data.text + event.data.text).size() > 0",
        "['x'].map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).size() > 0",
        "[[1]].map(a, [a,a,a,a,a,a,a,a]).map(a, [a,a,a,a,a,a,a,a]).map(a, [a,a,a,a,a,a,a,a]).all(a, event.data.n.all(b, event.data.n == event.data.n))",
        "event.data.n.exists(a, event.data.text.matches('(x+x+)+y'))",
        "event.data.n.all(a, event.data.text.contains('y') == false)",
    ] {
        let filter = Filter::compile(source).expect(source);
        let data = Data::of(&large);
        let began = Instant::now();
        assert_eq!(filter.matches(&large, &data), Err(Undecided::TooSlow), "{source}");
        // Far more than the few milliseconds that it takes: the machine may be busy.
        assert!(began.elapsed().as_secs() < 5, "{source}: {:?}", began.elapsed());
    }
    // An automaton of 2^3001 states is not made; 3,000 places at each byte would take seconds.
    let binary = event(&serde_json::json!({ "text": "01101".repeat(40_000) }).to_string());
    assert_eq!(decide("event.data.text.matches('1[01]{3000}[^01]')", &binary), Err(Undecided::TooSlow));
    assert_eq!(decide("event.data.text.matches('0110+1[^01]?$')", &binary), Ok(true));
    // A list of thousands is no problem where each item is looked at once.
    assert_eq!(
        decide(
            "event.data.n.map(a, a % 2).filter(a, a == 1).size() == 2000",
            &event(&serde_json::json!({ "n": (0..4_000).collect::<Vec<_>>() }).to_string())
        ),
        Ok(true)
    );
}

#[test]
fn data_that_is_not_read_leaves_undecided_who_looks_at_it() {
    let large = event(&format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_DATA)));
    let deep = event(&format!("{}{}", "[".repeat(500), "]".repeat(500)));
    for event in [&large, &deep] {
        assert!(matches!(decide("event.data.a == 'x'", event), Err(Undecided::Unread(_))));
        assert!(matches!(decide("event.data == 1 || event.type == 'x'", event), Err(Undecided::Unread(_))));
        assert_eq!(decide("event.type == 'order.created'", event), Ok(true));
    }
    assert!(!Filter::compile("event.type == 'a'").expect("good").uses_data());
    assert!(Filter::compile("[1].all(i, has(event.data.x))").expect("good").uses_data());
}

/// Expressions that are mostly well formed: names, numbers, texts and operators put together at random.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("event.data".to_owned()),
        Just("event.data.items".to_owned()),
        Just("event.data.total".to_owned()),
        Just("event.subject".to_owned()),
        Just("event.time".to_owned()),
        Just("event.type".to_owned()),
        Just("x".to_owned()),
        Just("'é\\n'".to_owned()),
        Just("duration('1h')".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let operators = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"]);
        let functions = prop::sample::select(vec![
            "size",
            "contains",
            "startsWith",
            "lowerAscii",
            "getHours",
            "getFullYear",
            "all",
            "exists",
            "map",
            "filter",
            "exists_one",
        ]);
        prop_oneof![
            (inner.clone(), operators, inner.clone()).prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            (inner.clone(), functions, inner.clone()).prop_map(|(a, function, b)| match function {
                "all" | "exists" | "map" | "filter" | "exists_one" => format!("{a}.{function}(x, {b})"),
                "contains" | "startsWith" => format!("{a}.{function}({b})"),
                _ => format!("{a}.{function}()"),
            }),
            (inner.clone(), prop::sample::select(vec!["int", "string", "double", "timestamp", "duration", "bool", "size", "!", "-"]))
                .prop_map(|(a, function)| format!("{function}({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_that_is_written_makes_it_panic(source in "[ -~é\\n]{0,60}") {
        if let Ok(filter) = Filter::compile(&source) {
            let event = event(ORDER);
            let _ = filter.matches(&event, &Data::of(&event));
        }
    }

    #[test]
    fn nothing_that_is_nearly_right_makes_it_panic_or_costs_different_steps(source in expression()) {
        if let Ok(filter) = Filter::compile(&source) {
            let mut order = event(ORDER);
            order.subject = Some(Text::from("s"));
            let data = Data::of(&order);
            prop_assert_eq!(filter.matches(&order, &data), filter.matches(&order, &data));
        }
    }
}
