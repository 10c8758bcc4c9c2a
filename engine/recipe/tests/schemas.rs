//! The JSON Schemas: up to date, and equal to what the decoder knows.

use std::path::Path;

use mixdown_diagnostics::Source;
use mixdown_recipe::tree::{Dialect, Node, NodeKind, ScalarValue};
use mixdown_recipe::yaml;
use serde_json::Value;

fn checked_in(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas").join(name);
    std::fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn the_files_are_up_to_date() {
    for (name, text) in mixdown_recipe::schema::schemas() {
        assert!(
            checked_in(name) == text,
            "schemas/{name} is out of date: run `cargo run -p mixdown-recipe --example write_schemas`"
        );
    }
}

/// Every reference leads somewhere.
fn check_references(value: &Value, definitions: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let name = reference.strip_prefix("#/definitions/").expect(reference);
                assert!(definitions.get(name).is_some(), "{reference}");
            }
            map.values().for_each(|value| check_references(value, definitions));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(value, definitions)),
        _ => {}
    }
}

#[test]
fn references_lead_somewhere_and_every_key_is_explained() {
    for (_, text) in mixdown_recipe::schema::schemas() {
        let schema: Value = serde_json::from_str(&text).unwrap();
        check_references(&schema, &schema["definitions"]);
        let definitions = schema["definitions"].as_object().unwrap().values();
        for part in definitions.chain([&schema, &schema["then"], &schema["else"]]) {
            for (key, property) in part["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].is_string(), "{key} has no description");
            }
        }
    }
}

#[test]
fn the_schema_knows_the_same_keys_as_the_decoder() {
    use mixdown_recipe::schema::{Keys, architecture, mergekit, method, strict};
    fn check<T: Keys + schemars::JsonSchema>() {
        let schema = schemars::schema_for!(T).to_value();
        let found: Vec<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, T::KEYS);
        assert_eq!(schema["additionalProperties"], Value::Bool(false));
    }
    check::<mergekit::MergekitKeys>();
    check::<mergekit::SliceKeys>();
    check::<strict::StrictKeys>();
    check::<strict::RuleKeys>();
    check::<strict::NamedModelKeys>();
    check::<method::MethodKeys>();
    check::<method::ParameterKeys>();
    check::<architecture::ArchitectureKeys>();
    check::<architecture::MatchesKeys>();
    check::<architecture::ModuleKeys>();
    check::<architecture::TensorKeys>();
}

/// As much of JSON Schema as these schemas use.
fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    let Some(rules) = schema.as_object() else { return schema != &Value::Bool(false) };
    let sub = |schema: &Value| fits(value, schema, root);
    let branch = rules.get("if").map(|test| if sub(test) { "then" } else { "else" });
    rules.iter().all(|(key, rule)| match key.as_str() {
        "$ref" => {
            let name = rule.as_str().unwrap().strip_prefix("#/definitions/").unwrap();
            sub(&root["definitions"][name])
        }
        "anyOf" => rule.as_array().unwrap().iter().any(sub),
        "oneOf" => rule.as_array().unwrap().iter().filter(|schema| sub(schema)).count() == 1,
        "allOf" => rule.as_array().unwrap().iter().all(sub),
        "then" | "else" => branch != Some(key) || sub(rule),
        "const" => number_or_self(value) == number_or_self(rule),
        "enum" => rule.as_array().unwrap().contains(value),
        "type" => match rule {
            Value::Array(types) => types.iter().any(|one| has_type(value, one.as_str().unwrap())),
            one => has_type(value, one.as_str().unwrap()),
        },
        "required" => value.as_object().is_none_or(|map| {
            rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|map| {
            map.iter().all(|(key, value)| rule.get(key).is_none_or(|rule| fits(value, rule, root)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            let others = map.iter().filter(|(key, _)| schema["properties"].get(key).is_none());
            others.into_iter().all(|(_, value)| fits(value, rule, root))
        }),
        "items" => match (value, rule) {
            (Value::Array(values), Value::Array(rules)) => {
                values.iter().zip(rules).all(|(value, rule)| fits(value, rule, root))
            }
            (Value::Array(values), rule) => values.iter().all(|value| fits(value, rule, root)),
            _ => true,
        },
        "minItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap())
        }
        "maxItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap())
        }
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        // All patterns of these schemas are of declared names.
        "pattern" => value.as_str().is_none_or(|text| text.starts_with('$')),
        "$schema" | "title" | "description" | "definitions" | "if" | "format" | "default" => true,
        other => panic!("the validator does not know `{other}`"),
    })
}

fn number_or_self(value: &Value) -> Value {
    value.as_f64().map_or_else(|| value.clone(), Value::from)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{name}"),
    }
}

/// A YAML text as an editor's checker sees it.
fn json(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Sequence(items) => items.iter().map(json).collect(),
        NodeKind::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.text.to_string(), json(&entry.value))).collect()
        }
        NodeKind::Scalar(scalar) => match scalar.value {
            ScalarValue::Null => Value::Null,
            ScalarValue::Boolean(value) => value.into(),
            ScalarValue::Integer(value) => i64::try_from(value).unwrap().into(),
            ScalarValue::Float(value) => value.into(),
            ScalarValue::Text => (*scalar.text).into(),
        },
    }
}

#[track_caller]
fn validates(schema: usize, text: &str) -> bool {
    let schema: Value = serde_json::from_str(&mixdown_recipe::schema::schemas()[schema].1).unwrap();
    let tree = yaml::parse(&Source::new("r.yaml", text), Some(Dialect::Yaml12)).unwrap();
    fits(&json(&tree.root), &schema, &schema)
}

const STRICT: &str = "
mixdown: 1
declare: {strength: {type: fraction, default: 0.7, doc: Factor.}, seed: 3}
models:
  general: ./general
  math: {path: org/math, revision: main, parameters: {weight: 0.6}}
  code: {recipe: code.yaml}
base: general
method: ties
parameters: {lambda: $strength, density: [0.3, 0.7], t: [{filter: mlp, value: 1}, {value: [0, 1]}]}
seed: $seed
shard_size: 5GB
rules:
  - {tensors: lm_head.weight, keep: math}
  - {tensors: ['**.mlp.*'], layers: [0, 8], experts: {math: {parameters: {density: 0.2}}, code: }}
  - {module: head, role: [unembedding], keep: math}
  - {tensors: '**.norm.weight', steps: {m: mean(experts)}, output: m}
  - {drop: true}
";

const MERGEKIT: &str = "
slices:
  - sources:
      - {model: a, layer_range: [0, 4], parameters: {weight: 1}}
      - {model: {model: {path: b}}, layer_range: [0, 4]}
merge_method: slerp
base_model: a
tokenizer: {source: union, tokens: {x: {source: {kind: zero}}, y: {source: a, force: true}}}
";

const METHOD: &str = "
method: m
title: M
source: s
summary: s
inputs: {base: required, experts: {at_least: 1}}
parameters: {weight: {per: expert, type: real, default: 1.0, doc: d}}
steps: {d: experts - base}
output: base + d
";

const ARCHITECTURE: &str = "
architecture: a
title: A
matches: {model_type: a, order: 1}
axes: {hidden: hidden_size}
modules:
  body:
    prefixes: [m.]
    layers: {as: i, count: 2}
    tensors:
      'l.{i}.n.weight': {role: norm, axes: [hidden], optional: true}
";

#[test]
fn samples_validate_and_typing_mistakes_do_not() {
    for (schema, text, right, wrong) in [
        (0, STRICT, "base: general", "bse: general"),
        (0, STRICT, "keep: math", "kep: math"),
        (0, STRICT, "mixdown: 1", "mixdown: 2"),
        (0, STRICT, "layers: [0, 8]", "layers: [0, 8, 9]"),
        (0, STRICT, "path: org/math", "pth: org/math"),
        (0, STRICT, "seed: $seed", "seed: x"),
        (0, MERGEKIT, "merge_method", "merge_metod"),
        (0, MERGEKIT, "layer_range: [0, 4], p", "layer_range: 4, p"),
        (0, MERGEKIT, "kind: zero", "kind: zeroes"),
        (1, METHOD, "output:", "outpt:"),
        (1, METHOD, "type: real", "type: rael"),
        (1, METHOD, "base: required", "base: needed"),
        (0, STRICT, "module: head", "modul: head"),
        (2, ARCHITECTURE, "role: norm", "role: nrom"),
        (2, ARCHITECTURE, "order: 1", "ordre: 1"),
        (2, ARCHITECTURE, "optional: true", "optional: 2"),
    ] {
        assert!(validates(schema, text), "{text}");
        assert!(text.contains(right), "{right}");
        assert!(!validates(schema, &text.replacen(right, wrong, 1)), "{wrong}");
    }
}

#[test]
fn what_validates_is_read() {
    for text in [STRICT, MERGEKIT] {
        let read = mixdown_recipe::read(&Source::new("r.yaml", text), &[]);
        assert!(read.is_ok(), "{read:?}");
    }
    let method = mixdown_recipe::read_method(&Source::new("m.yaml", METHOD));
    assert!(method.is_ok(), "{method:?}");
    let found = mixdown_recipe::read_architectures(&[Source::new("a.yaml", ARCHITECTURE)]);
    assert!(found.is_ok(), "{found:?}");
    // What ships is what editors are told.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/architectures");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(validates(2, &text), "{text}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/maps");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(validates(3, &text), "{text}");
        assert!(!validates(3, &text.replacen("- to:", "- too:", 1).replacen("{to:", "{too:", 1)));
    }
}
