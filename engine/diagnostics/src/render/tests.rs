//! Whole messages, as a person sees them.

use super::*;
use crate::codes;

fn recipe() -> Source {
    let mut text = "\n".repeat(10);
    text.push_str("      density: 20\n");
    Source::new("team.yaml", text)
}

fn density() -> Diagnostic {
    Diagnostic::error(codes::OUT_OF_RANGE, "`density` must lie between 0 and 1, found 20")
        .at(&recipe(), Span { line: 11, column: 16, length: 2 })
        .note("a density is the fraction of elements kept")
        .help("for 20 percent write `density: 0.20`")
}

#[track_caller]
fn check(diagnostic: &Diagnostic, expected: &str) {
    assert_eq!(render(diagnostic, Color::Plain), expected.strip_prefix('\n').unwrap());
}

#[test]
fn a_place_in_a_text() {
    check(
        &density(),
        "
error[E0214]: `density` must lie between 0 and 1, found 20
  --> team.yaml:11:16
   |
11 |       density: 20
   |                ^^
   = note: a density is the fraction of elements kept
   = help: for 20 percent write `density: 0.20`
",
    );
}

#[test]
fn facts_are_aligned_and_small_line_numbers_stay_in_line() {
    let source = Source::new("team.yaml", "models:\n  - model: ./coder-7b\n");
    let diagnostic =
        Diagnostic::error(codes::SHAPE_MISMATCH, "`embed` has different shapes in base and expert")
            .at(&source, Span { line: 2, column: 12, length: 10 })
            .fact("base", "[128256, 4096] bf16\nof ./general-7b")
            .fact("expert", "[128320, 4096] bf16");
    check(
        &diagnostic,
        "
error[E0307]: `embed` has different shapes in base and expert
  --> team.yaml:2:12
   |
 2 |   - model: ./coder-7b
   |            ^^^^^^^^^^
   = base:   [128256, 4096] bf16
             of ./general-7b
   = expert: [128320, 4096] bf16
",
    );
}

#[test]
fn a_place_in_a_binary_file() {
    let diagnostic =
        Diagnostic::error(codes::SHARD_TRUNCATED, "the shard ends inside `up_proj.weight`")
            .at_byte("./math-7b/model.safetensors", 4_961_861_632)
            .fact("header", "4 999 802 720 bytes")
            .fact("file", "4 961 861 632 bytes");
    check(
        &diagnostic,
        "
error[E0107]: the shard ends inside `up_proj.weight`
  --> ./math-7b/model.safetensors: byte 4 961 861 632
   = header: 4 999 802 720 bytes
   = file:   4 961 861 632 bytes
",
    );
}

#[test]
fn a_file_as_a_whole_and_no_place_at_all() {
    check(
        &Diagnostic::error(codes::UNREADABLE, "the file cannot be read")
            .in_file("a.yaml")
            .note("permission denied"),
        "
error[E0109]: the file cannot be read
  --> a.yaml
   = note: permission denied
",
    );
    check(
        &Diagnostic::warning(codes::DROPPED, "2 tensors are not in the output"),
        "
warning[W0606]: 2 tensors are not in the output
",
    );
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let diagnostic =
        Diagnostic::error(codes::UNMATCHED_TENSOR, "no rule for `a\u{1b}[2J\u{7}b\u{202e}`")
            .in_file("x\ny")
            .note("tab\there");
    check(
        &diagnostic,
        "
error[E0306]: no rule for `a\\u{1b}[2J\\u{7}b\\u{202e}`
  --> x\\ny
   = note: tab\\there
",
    );
}

#[test]
fn wide_line_numbers_widen_the_gutter() {
    let text = format!("{}wrong\n", "\n".repeat(1233));
    let diagnostic = Diagnostic::error(codes::NOT_YAML, "this is not YAML")
        .at(&Source::new("long.yaml", text), Span { line: 1234, column: 1, length: 5 })
        .help("write it anew");
    check(
        &diagnostic,
        "
error[E0201]: this is not YAML
    --> long.yaml:1234:1
     |
1234 | wrong
     | ^^^^^
     = help: write it anew
",
    );
}

#[test]
fn a_line_that_is_not_there_is_left_out() {
    let diagnostic = Diagnostic::error(codes::NOT_YAML, "the file is empty")
        .at(&Source::new("empty.yaml", ""), Span { line: 1, column: 1, length: 0 });
    check(&diagnostic, "\nerror[E0201]: the file is empty\n  --> empty.yaml:1:1\n");
}

#[test]
fn color_adds_nothing_but_escape_sequences() {
    let colored = render(&density(), Color::Ansi);
    assert!(colored.contains("\u{1b}[1;31merror[E0214]\u{1b}[0m"));
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
    }
    plain.push_str(rest);
    assert_eq!(plain, render(&density(), Color::Plain));
}

#[test]
fn json_says_the_same() {
    let bytes = Diagnostic::warning(codes::DROPPED, "x").at_byte("f", 7).fact("a", "b");
    assert_eq!(
        render_json(&[density(), bytes]),
        json!([
            {
                "severity": "error", "code": "E0214",
                "headline": "`density` must lie between 0 and 1, found 20",
                "place": {"file": "team.yaml", "line": 11, "column": 16, "length": 2},
                "facts": [], "notes": ["a density is the fraction of elements kept"],
                "help": "for 20 percent write `density: 0.20`",
            },
            {
                "severity": "warning", "code": "W0606", "headline": "x", "place": {"file": "f", "byte": 7},
                "facts": [{"label": "a", "text": "b"}], "notes": [], "help": null,
            },
        ])
    );
}

#[test]
fn the_summary_counts() {
    let warning = Diagnostic::warning(codes::DROPPED, "x");
    assert_eq!(summary(&[]), None);
    assert_eq!(summary(std::slice::from_ref(&warning)).as_deref(), Some("1 warning"));
    assert_eq!(summary(&[density(), warning, density()]).as_deref(), Some("2 errors, 1 warning"));
}

#[test]
fn several_are_parted_by_an_empty_line() {
    let warning = Diagnostic::warning(codes::DROPPED, "x");
    assert_eq!(
        render_all(&[warning.clone(), warning], Color::Plain),
        "warning[W0606]: x\n\nwarning[W0606]: x\n"
    );
}
