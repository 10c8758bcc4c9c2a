//! No text makes the readers panic, loop or fill the memory.

use mixdown_diagnostics::Source;
use mixdown_diagnostics::render::{Color, render_all};
use mixdown_recipe::{Pattern, expression, read, read_map, read_method};
use proptest::prelude::*;

const RECIPE: &str = "\
mixdown: 1
declare: {strength: {type: fraction, default: 0.7}}
models: {base: ./b, math: {path: m@r+l, parameters: {weight: [0, 0.5]}}, other: {recipe: o.yaml}}
base: base
method: ties
parameters: {t: [{filter: mlp, value: [0, 1]}, {value: $strength}]}
rules:
  - {tensors: ['**.{q,k}_proj.[a-z]*', x], layers: [0, 8], keep: math}
  - {tensors: y, drop: true}
  - {steps: {d: experts - base}, output: \"base + sum(d, 1e-3, scope='x')\"}
tokenizer: {source: union, tokens: {'<x>': {source: {kind: zero}, force: true}}}
";

const MERGEKIT: &str = "\
x: &x {model: a, layer_range: [0, 4]}
slices: [{sources: [*x, {<<: *x, model: b}], parameters: {t: 1:30}}]
merge_method: slerp
tokenizer_source: base
";

const MAP: &str = "\
mixdown_map: 1
name: r
target: a
source: b
let: {rows: 80}
rules:
  - {to: 'x.{i}.{n:a|b}.{**rest}', from: &q {concat: ['y.{i}.{n}', {transpose: 'z.<i>'}], dim: 1}}
  - {to: v, from: *q, extra: unmatched}
  - {to: w, from: {slice: {stack: ['e.{e}']}, part: 1, sizes: [q_dim, 2, rows]}}
  - {to: e, from: {pad_rows: {rows: {mean: [a, {first_of: [b, c]}]}, take: rows}}}
  - {to: '{**}', from: keep}
unused: ['p.{**}']
";

/// Reads the text in every way there is, and draws what is wrong with it.
fn read_all(text: &str) {
    let source = Source::new("r.yaml", text);
    let overrides =
        [("parameters.t".to_owned(), text.to_owned()), (text.to_owned(), "1".to_owned())];
    for result in [read(&source, &[]), read(&source, &overrides)] {
        if let Err(diagnostics) = result {
            assert!(!diagnostics.is_empty());
            render_all(&diagnostics, Color::Ansi);
        }
    }
    for diagnostics in [read_method(&source).err(), read_map(&source).err()].into_iter().flatten() {
        assert!(!diagnostics.is_empty());
        render_all(&diagnostics, Color::Plain);
    }
    if let Ok(pattern) = Pattern::for_map(text) {
        pattern.captures(text);
    }
    if let Ok(pattern) = Pattern::new(text) {
        pattern.captures(text);
    }
    if let Ok(formula) = expression::parse(text) {
        let printed = formula.to_string();
        assert_eq!(expression::parse(&printed).unwrap().to_string(), printed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text(text in ".{0,80}") {
        read_all(&text);
    }

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        read_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn text_of_yaml_s_own_characters(text in "[-a-c0-9:,&*<>|?!{}\\[\\]'\"$%@# \n\t.~_]{0,60}") {
        read_all(&text);
    }

    #[test]
    fn formulas(text in "[abn0-9.e+*/()<>=, \\[\\]-]{0,30}") {
        read_all(&text);
    }

    #[test]
    fn recipes_with_a_piece_changed(
        which in 0usize..3, at in 0usize..500, cut in 0usize..20, new in "[-a-z0-9:,&*<>|{}\\[\\]'\"$# \n.~]{0,8}",
    ) {
        let original = [RECIPE, MERGEKIT, MAP][which];
        let start = at % original.len();
        let end = (start + cut).min(original.len());
        read_all(&format!("{}{new}{}", &original[..start], &original[end..]));
    }
}

#[test]
fn the_recipes_that_are_changed_are_sound() {
    for text in [RECIPE, MERGEKIT] {
        if let Err(errors) = read(&Source::new("r.yaml", text), &[]) {
            panic!("{}", render_all(&errors, Color::Plain));
        }
    }
}
