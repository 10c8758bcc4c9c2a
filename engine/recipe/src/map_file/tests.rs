use mixdown_diagnostics::{Place, Source};

use super::*;
use crate::map::{Cut, MapExpressionKind, MapSize};

fn read(text: &str) -> Result<ArchitectureMap, Vec<String>> {
    let text = format!("mixdown_map: 1\nname: test\ntarget: a\nsource: b\n{text}");
    read_map(&Source::new("maps/test.yaml".to_owned(), text)).map_err(|found| {
        found
            .iter()
            .map(|one| {
                let place = match &one.place {
                    Some(Place::Text(_, span)) => format!("{}:{} ", span.line, span.column),
                    _ => String::new(),
                };
                let help = one.help.as_ref().map_or(String::new(), |help| format!(" | {help}"));
                format!("{place}{}{help}", one.headline)
            })
            .collect()
    })
}

#[track_caller]
fn refuse(text: &str, expected: &[&str]) {
    assert_eq!(read(text).unwrap_err(), expected);
}

#[test]
fn a_map_is_read() {
    let map = read(
        "policy: appendix-b\nlet: {text_rows: 80}\nrules:\n\
         - to: model.norm.weight\n\
         - to: l.{i}.qkv\n  from: &qkv\n    concat: [\"l.{i}.q\", \"l.{i}.k\"]\n    dim: 1\n\
         - to: l.<i>.vision_qkv\n  from: *qkv\n  extra: unmatched\n\
         - {to: embed, from: {pad_rows: {rows: embed, take: text_rows}}}\n\
         - {to: \"l.{i}.v\", from: {slice: \"l.{i}.qkv\", part: 2, sizes: [q_dim, kv_dim, 4]}}\n\
         - {to: \"l.{i}.experts\", from: {stack: [\"l.{i}.e.{e}\"]}}\n\
         - {to: \"v.{**}\", from: keep}\nunused: [\"p.{**}\"]\n",
    )
    .unwrap();
    assert_eq!((map.policy, map.rules.len(), map.unused.len()), (Policy::AppendixB, 7, 1));
    assert_eq!(map.rules[0].from, Origin::Same);
    assert_eq!(map.rules[1].from, map.rules[2].from);
    assert!(map.rules[2].is_unmatched_extra && !map.rules[1].is_unmatched_extra);
    let Origin::Rows(_, Some(MapSize::Name(take))) = &map.rules[3].from else { panic!() };
    assert_eq!(take.value, "text_rows");
    let Origin::Expression(slice) = &map.rules[4].from else { panic!() };
    let MapExpressionKind::Slice(_, 0, slicing) = &slice.kind else { panic!() };
    assert!(matches!(&slicing.cut, Cut::Sizes(sizes) if sizes.len() == 3));
    assert_eq!(map.rules[6].from, Origin::Keep);
}

#[test]
fn all_mistakes_are_told_with_their_places() {
    refuse(
        "rules:\n- {to: \"a.{i}\", from: \"b.{j}\"}\n- {to: c, from: {concat: [keep, d]}}\n- {to: e, from: {concatt: [a]}}\n",
        &[
            "6:23 `to` has no part `j`",
            "7:27 `keep` stands only at the top of `from`",
            "8:18 this is no expression of maps | did you mean `concat`?",
        ],
    );
    refuse(
        "rules:\n- {to: a, from: {slice: b, part: 3, parts: 3}}\n- {to: c, from: {slice: b, part: 0, sizes: [q_dims]}}\n- {to: d, from: {slice: b, part: 0}}\n",
        &[
            "6:34 there is no part 3 of 3 | parts count from 0",
            "7:45 there is no size `q_dims` | did you mean `q_dim`?",
            "8:17 `slice` has no `parts` | say into how many equal `parts` it is cut, or into which `sizes`",
        ],
    );
    refuse(
        "rules:\n- {to: a, from: [b, c]}\n- {to: \"d.*\"}\n- {to: e, from: {mean: []}}\n- {to: f, from: {transpose: {pad_rows: {rows: g}}}}\n",
        &[
            "6:17 a list says not what becomes of its items | write `{concat: […]}`, `{mean: […]}`, `{stack: […]}` or `{first_of: […]}`",
            "7:11 in a map `*` stands within braces | write `{**}` for the rest, or `{name}` for one piece",
            "8:24 `mean` of nothing is nothing",
            "9:29 `pad_rows` stands only at the top of `from`",
        ],
    );
    refuse(
        "rules:\n- {to: a, alpha: 0.3}\n- {to: b, from: {stack: [\"c.{e}\", d]}}\n- {to: c, from: keep, extra: unmatched}\n- {to: d, from: {concat: [a], dim: 2}}\n",
        &[
            "6:11 `alpha` is not a key of a rule of a map | state it in a rule of the recipe: `{tensors: …, parameters: {alpha: …}}`",
            "7:26 `to` has no part `e`",
            "8:23 `extra` has no meaning beside `from: keep`",
            "9:36 `dim` must be 0 or 1, found 2",
        ],
    );
}

#[test]
fn the_version_is_checked() {
    let text = "mixdown_map: 2\nname: other\ntarget: a\nsource: b\nrules: []\n";
    let found = read_map(&Source::new("test.yaml".to_owned(), text.to_owned())).unwrap_err();
    let headlines: Vec<&str> = found.iter().map(|one| one.headline.as_str()).collect();
    assert_eq!(headlines, ["this program reads maps of version 1, found the number 2"]);
}
