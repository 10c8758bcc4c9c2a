//! Trees, places and refusals of YAML texts.

use std::time::{Duration, Instant};

use mixdown_diagnostics::render::{Color, render_all};

use super::*;

/// The tree in one line: `key@line:column=value`.
fn show(node: &Node) -> String {
    match &node.kind {
        NodeKind::Scalar(scalar) => match scalar.value {
            ScalarValue::Null => "null".into(),
            ScalarValue::Boolean(value) => value.to_string(),
            ScalarValue::Integer(value) => value.to_string(),
            ScalarValue::Float(value) => format!("{value:?}"),
            ScalarValue::Text => format!("{:?}", scalar.text),
        },
        NodeKind::Sequence(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        NodeKind::Mapping(entries) => {
            let shown =
                entries.iter().map(|entry| format!("{}: {}", entry.key.text, show(&entry.value)));
            format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
        }
    }
}

fn read(text: &str, dialect: Dialect) -> Result<Tree, Vec<Diagnostic>> {
    parse(&Source::new("r.yaml", text), Some(dialect))
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(show(&read(text, Dialect::Yaml11).unwrap().root), expected);
}

#[track_caller]
fn refuse(text: &str, dialect: Dialect, expected: &str) {
    let errors = read(text, dialect).unwrap_err();
    assert_eq!(render_all(&errors, Color::Plain), expected.strip_prefix('\n').unwrap());
}

#[test]
fn values_are_typed_unless_quoted() {
    check("a: 1\nb: '1'\nc: !!str 1\nd:\ne: ! 2", r#"{a: 1, b: "1", c: "1", d: null, e: "2"}"#);
    check("[yes, \"yes\", 1e-5, 0x10]", r#"[true, "yes", "1e-5", 16]"#);
}

#[test]
fn the_text_of_a_number_is_kept() {
    let tree = read("model: 007", Dialect::Yaml11).unwrap();
    let scalar = tree.root.get("model").unwrap().scalar().unwrap();
    assert_eq!((&*scalar.text, scalar.value), ("007", ScalarValue::Integer(7)));
}

#[test]
fn merge_keys_give_way_to_the_map_s_own() {
    check("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "{a: {x: 1, y: 2}, b: {x: 1, y: 3}}");
    check(
        "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 0}",
        "{a: {x: 1}, b: {x: 2, y: 2}, c: {x: 1, y: 2, z: 0}}",
    );
    check(
        "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}",
        "{a: {x: 1}, b: {x: 1, y: 2}, c: {x: 1, y: 2}}",
    );
    check("{\"<<\": 1}", "{\"<<\": 1}");
}

#[test]
fn aliases_are_replaced() {
    check("a: &a [1, 2]\nb: *a", "{a: [1, 2], b: [1, 2]}");
    check("a: &x 1\nb: &x 2\nc: *x", "{a: 1, b: 2, c: 2}");
}

#[test]
fn every_value_has_its_place() {
    let tree = read("a: 12\nb:\n  - x\n  - {c: \"d e\"}\n", Dialect::Yaml11).unwrap();
    let b = tree.root.get("b").unwrap().items().unwrap();
    let place = |node: &Node| (node.span.line, node.span.column, node.span.length);
    assert_eq!(place(tree.root.get("a").unwrap()), (1, 4, 2));
    assert_eq!(place(&b[0]), (3, 5, 1));
    assert_eq!(place(b[1].get("c").unwrap()), (4, 9, 5));
}

/// Line and column of the first `y` of a text.
fn place_of_y(text: &str) -> (u32, u32) {
    let tree = read(text, Dialect::Yaml12).unwrap();
    let node = tree.root.get("a").unwrap();
    let at = node.scalar().unwrap().text.chars().position(|c| c == 'y').unwrap();
    let place = node.text_places(&tree.source)[at];
    (place.line, place.column)
}

#[test]
fn characters_of_a_text_have_their_places() {
    assert_eq!(place_of_y("a: x + y"), (1, 8));
    assert_eq!(place_of_y("a: \"x + y\""), (1, 9));
    assert_eq!(place_of_y("a: 'x == ''t'' + y'"), (1, 18));
    assert_eq!(place_of_y("a: \"x == \\\"t\\\" + y\""), (1, 18));
    assert_eq!(place_of_y("a: >-\n  x +\n\n    y"), (4, 5));
    assert_eq!(place_of_y("a: |\n  x +\n  y"), (3, 3));
    assert_eq!(place_of_y("a: x +\n   y"), (2, 4));
}

#[test]
fn the_key_mixdown_makes_a_text_strict() {
    let dialect = |text| parse(&Source::new("r", text), None).unwrap().dialect;
    assert_eq!(dialect("mixdown: 1\na: yes"), Dialect::Yaml12);
    assert_eq!(dialect("a: {mixdown: 1}"), Dialect::Yaml11);
}

#[test]
fn a_key_given_twice() {
    let tree = read("a: 1\nb: 2\na: 3\n", Dialect::Yaml11).unwrap();
    assert_eq!(show(&tree.root), "{a: 3, b: 2}");
    assert_eq!(
        render_all(&tree.warnings, Color::Plain),
        "warning[W0601]: `a` is given twice\n  --> r.yaml:3:1\n   |\n 3 | a: 3\n   | ^\n   = first: line 1\n   = note: the last one counts\n"
    );
    refuse(
        "x:\n  a: 1\n  a: 3\n",
        Dialect::Yaml12,
        "
error[E0221]: `a` is given twice
  --> r.yaml:3:3
   |
 3 |   a: 3
   |   ^
   = first: line 2
   = help: remove one of the two
",
    );
}

#[test]
fn what_is_not_yaml_is_refused_at_its_place() {
    refuse(
        "a: [1, 2\nb: 3\n",
        Dialect::Yaml11,
        "
error[E0201]: this is not YAML
  --> r.yaml:2:2
   |
 2 | b: 3
   |  ^
   = note: illegal placement of ':' indicator
",
    );
    refuse("", Dialect::Yaml11, "\nerror[E0201]: the file is empty\n  --> r.yaml\n");
    refuse(
        "a: &a [*a]",
        Dialect::Yaml11,
        "
error[E0201]: this alias stands inside the value it refers to
  --> r.yaml:1:8
   |
 1 | a: &a [*a]
   |        ^^
",
    );
    refuse(
        "? [a]\n: 1",
        Dialect::Yaml11,
        "
error[E0205]: a key must be a word, found a list
  --> r.yaml:1:3
   |
 1 | ? [a]
   |   ^
",
    );
    refuse(
        "a: !!python/object:os.system x",
        Dialect::Yaml11,
        "
error[E0220]: the tag `!!python/object:os.system` is not supported
  --> r.yaml:1:30
   |
 1 | a: !!python/object:os.system x
   |                              ^
   = help: leave the tag out
",
    );
    refuse(
        "a: {<<: 1}",
        Dialect::Yaml11,
        "
error[E0205]: `<<` takes a map or a list of maps, found the number 1
  --> r.yaml:1:5
   |
 1 | a: {<<: 1}
   |     ^^
   = help: refer to a map by its anchor, as in `<<: *name`
",
    );
    refuse(
        "a: 1\n---\nb: 1\n",
        Dialect::Yaml11,
        "
error[E0220]: the file holds more than one document
  --> r.yaml:2:1
   |
 2 | ---
   | ^
   = note: one file is one recipe; another recipe can be a model of a strict one
   = help: put each document into a file of its own
",
    );
}

#[track_caller]
fn refuse_quickly(text: &str) {
    let start = Instant::now();
    let errors = read(text, Dialect::Yaml11).unwrap_err();
    assert_eq!(errors[0].code, codes::YAML_TOO_LARGE, "{:?}", errors[0].notes);
    // Far above what it takes, far below what an unfolded bomb would.
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn bombs_end_quickly() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    let mut merges = String::from("a0: &a0 {k: v}\n");
    let mut chain = String::from("a0: &a0 [x]\n");
    for i in 1..200 {
        let last = i - 1;
        let list = vec![format!("*a{last}"); 9].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        merges.push_str(&format!("a{i}: &a{i} {{<<: [{list}], k{i}: v}}\n"));
        chain.push_str(&format!("a{i}: &a{i} [*a{last}]\n"));
    }
    refuse_quickly(&laughs);
    refuse_quickly(&merges);
    refuse_quickly(&chain);
    refuse_quickly(&format!("{}{}", "[".repeat(100), "]".repeat(100)));
    refuse_quickly(&"[".repeat(100_000));
    refuse_quickly(&"- ".repeat(100_000));
    refuse_quickly(&"? ".repeat(100_000));
    refuse_quickly(&format!("x: &x [{}]\ny: [{}]", "a,".repeat(1000), "*x,".repeat(300)));
    refuse_quickly(&"#".repeat(MOST_BYTES + 1));
    // A large text that is referred to often costs a pointer each time.
    let text = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(100_000));
    assert!(read(&text, Dialect::Yaml11).is_ok());
}
