//! Descriptions of architectures that are sound, and mistakes in them with their places.

use super::*;

const SOUND: &str = "architecture: a
title: A
matches: {model_type: a, architectures: [X, Y], order: 5, when: {b.c: '*d'}, tensors: '**.q'}
axes:
  hidden: hidden_size
  head: head_dim or hidden / 4
modules:
  body:
    prefixes: [m., n.m.]
    layers: {as: i, count: layers}
    tensors:
      e.weight: {role: embedding, axes: [vocabulary or 3, hidden]}
      'l.{i}.{q,k}.weight': {role: attention_q, axes: [4 * head, hidden], bias: optional}
      'l.{i}.c.weight':
        {role: attention_qkv, axes: [hidden, 3 * hidden], bias: required, transposed: true}
";

fn read(texts: &[(&str, &str)]) -> Result<Vec<Architecture>, Vec<String>> {
    let sources: Vec<Source> =
        texts.iter().map(|(name, text)| Source::new(format!("{name}.yaml"), *text)).collect();
    read_architectures(&sources).map_err(|found| {
        found
            .iter()
            .map(|one| {
                let place = match &one.place {
                    Some(Place::Text(source, span)) => {
                        format!("{}:{}:{}", source.name(), span.line, span.column)
                    }
                    _ => String::new(),
                };
                format!("{place} {}", one.headline)
            })
            .collect()
    })
}

fn sound() -> String {
    SOUND.replace("vocabulary or 3", "3")
}

#[test]
fn a_description_is_read() {
    let found = read(&[("a", &sound())]).unwrap();
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((one.name.value.as_str(), one.title.as_str(), one.matches.order), ("a", "A", 5));
    assert_eq!(one.matches.classes, ["X", "Y"]);
    let names: Vec<String> =
        one.modules[0].tensors.iter().map(|tensor| tensor.template.to_string()).collect();
    assert_eq!(
        names,
        [
            "e.weight",
            "l.{i}.q.bias",
            "l.{i}.q.weight",
            "l.{i}.k.bias",
            "l.{i}.k.weight",
            "l.{i}.c.bias",
            "l.{i}.c.weight",
        ]
    );
    let sizes = one.sizes(&|key| (key == "hidden_size").then_some(64));
    let value = |name: &str| {
        let (_, tensor, _) = one.find(name).next().unwrap();
        let sizes = tensor.axes.iter().map(|axis| axis.value(&|name| sizes.get(name).copied()));
        sizes.collect::<Option<Vec<u64>>>().unwrap()
    };
    assert_eq!(value("m.l.7.q.weight"), [64, 64]);
    assert_eq!(value("n.m.l.7.q.bias"), [64]);
    // The bias of a transposed weight goes with its last axis.
    assert_eq!(value("m.l.0.c.bias"), [192]);
    assert_eq!(one.find("m.l.x.q.weight").count(), 0);
}

#[test]
fn a_module_can_be_like_another() {
    let other = "architecture: b
title: B
matches: {order: 1}
axes: {head: head_size}
modules:
  body:
    like: a.body
    prefixes: o.
    without: ['l.{i}.{q,k}.bias']
    tensors:
      e.weight: {role: embedding, axes: [7, head]}
";
    let found = read(&[("a", &sound()), ("b", other)]).unwrap();
    // In the order in which they are asked.
    let b = &found[0];
    assert_eq!(b.name.value, "b");
    let names: Vec<String> =
        b.modules[0].tensors.iter().map(|tensor| tensor.template.to_string()).collect();
    assert_eq!(
        names,
        ["e.weight", "l.{i}.q.weight", "l.{i}.k.weight", "l.{i}.c.bias", "l.{i}.c.weight"]
    );
    let sizes = b.sizes(&|key| match key {
        "hidden_size" => Some(64),
        "head_size" => Some(5),
        _ => None,
    });
    assert_eq!((sizes["hidden"], sizes["head"]), (64, 5));
    assert_eq!(b.find("o.l.0.q.weight").count(), 1);
    assert_eq!(b.find("m.l.0.q.weight").count(), 0);
}

#[track_caller]
fn refuse(right: &str, wrong: &str, expected: &[&str]) {
    let text = sound();
    assert!(text.contains(right), "{right}");
    assert_eq!(read(&[("a", &text.replacen(right, wrong, 1))]).unwrap_err(), expected);
}

#[test]
fn mistakes_have_places_and_are_found_together() {
    refuse(
        "architecture: a",
        "architecture: b",
        &["a.yaml:1:15 the file is called like its architecture, `b.yaml`"],
    );
    refuse(
        "title: A\nmatches",
        "titel: A\nmatchs",
        &[
            "a.yaml:2:1 `titel` is not a key of an architecture",
            "a.yaml:3:1 `matchs` is not a key of an architecture",
        ],
    );
    refuse(
        "role: embedding, axes: [3, hidden]",
        "role: embeding, axes: [3, 4 %]",
        &[
            "a.yaml:12:24 `role` must be one of ROLES, found `embeding`",
            "a.yaml:12:46 `%` has no meaning in a size",
        ]
        .map(|text| text.replace("ROLES", &roles()))
        .each_ref()
        .map(String::as_str),
    );
    refuse("[3, hidden]", "[3, hiden]", &["a.yaml:12:45 `hiden` is not declared under `axes`"]);
    refuse("e.weight", "e.{j}.weight", &["a.yaml:12:7 nothing says how far `{j}` goes"]);
    refuse("e.weight", "'l.{i}.q.weight'", &["a.yaml:13:7 `l.{i}.q.weight` is described twice"]);
    refuse("e.weight", "e*", &["a.yaml:12:8 names of tensors have no such character"]);
    refuse(
        "axes: [3, hidden]",
        "axes: [3, hidden], bias: maybe",
        &["a.yaml:12:60 `bias` must be one of `required`, `optional`, found `maybe`"],
    );
    refuse(
        "role: embedding,",
        "role: embedding, tied_to: body.x,",
        &["a.yaml:12:7 there is no tensor `body.x`"],
    );
    refuse(
        "role: embedding,",
        "role: embedding, duplicate_of: x,",
        &["a.yaml:12:7 the module has no tensor `x`"],
    );
    refuse(
        "[m., n.m.]",
        "[m., m.]",
        &["a.yaml:8:3 `m.e.weight` belongs to `body` already"]
            .iter()
            .chain(&[
                "a.yaml:8:3 `m.l.{i}.q.bias` belongs to `body` already",
                "a.yaml:8:3 `m.l.{i}.q.weight` belongs to `body` already",
                "a.yaml:8:3 `m.l.{i}.k.bias` belongs to `body` already",
                "a.yaml:8:3 `m.l.{i}.k.weight` belongs to `body` already",
                "a.yaml:8:3 `m.l.{i}.c.bias` belongs to `body` already",
                "a.yaml:8:3 `m.l.{i}.c.weight` belongs to `body` already",
            ])
            .copied()
            .collect::<Vec<_>>(),
    );
    refuse("prefixes: [m., n.m.]", "like: b.body", &["a.yaml:9:11 there is no module `b.body`"]);
    refuse("prefixes: [m., n.m.]", "like: a.body", &["a.yaml:9:11 module `body` is like itself"]);
}

fn roles() -> String {
    Role::ALL.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
