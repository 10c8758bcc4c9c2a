//! The JSON Schemas: up to date, and equal to what the decoder knows.

use std::path::Path;

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
    use mixdown_recipe::schema::{Keys, mergekit, method, strict};
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
}
