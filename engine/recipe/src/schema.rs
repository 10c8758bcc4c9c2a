//! The keys of recipes and method files: one type for each map, from which both the JSON Schemas and the
//! decoder's lists of known keys are made. Nothing is ever read into these types.

pub mod architecture;
pub mod map;
pub mod mergekit;
pub mod method;
pub mod modality;
pub mod strict;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value};

/// Keys that a map may have.
pub trait Keys {
    /// In the order in which they are explained.
    const KEYS: &'static [&'static str];
}

/// `r#type` as `type`.
pub const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Declares a struct whose fields are the keys of a map.
#[macro_export]
macro_rules! keys {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::schema::Keys for $name {
            const KEYS: &'static [&'static str] = &[$($crate::schema::plain(stringify!($field))),*];
        }
    )*};
}
pub use keys;

/// One value.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum ScalarKey {
    /// True or false.
    Boolean(bool),
    /// A number.
    Number(f64),
    /// Text; in a strict recipe `$name` stands for what is declared under that name.
    Text(String),
}

/// What a parameter is set to.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum SettingKey {
    /// The same everywhere.
    Scalar(ScalarKey),
    /// Knots over the layers of a slice, evenly spaced; numbers are interpolated.
    Gradient(#[schemars(length(min = 1))] Vec<ScalarKey>),
    /// The value for tensors whose name contains the filter.
    Condition(ConditionKey),
    /// The first whose filter is contained in the tensor's name.
    Conditions(Vec<ConditionKey>),
}

/// A scalar, or knots over layers.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum ConditionValue {
    /// The same everywhere.
    Scalar(ScalarKey),
    /// Knots over the layers of a slice.
    Gradient(#[schemars(length(min = 1))] Vec<ScalarKey>),
}

keys! {
    /// One of several values, chosen by the tensor's name.
    pub struct ConditionKey {
        /// A part of the tensor's name, case-sensitive, without wildcards. Left out or `*`: every tensor.
        pub filter: Option<String>,
        /// The value for these tensors.
        pub value: ConditionValue,
    }
}

/// Parameters of a method by name.
pub struct SettingsKey;

impl JsonSchema for SettingsKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Parameters".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<SettingKey>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// A number, or `$name` in a strict recipe.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum CountKey {
    /// A whole number.
    Number(u64),
    /// A declared value.
    Declared(#[schemars(regex(pattern = r"^\$[A-Za-z_][A-Za-z0-9_]*$"))] String),
}

/// The JSON Schemas, each with the name of its file.
pub fn schemas() -> Vec<(&'static str, String)> {
    let recipe = choice(
        "mixdown recipe",
        "A recipe in the strict form (`mixdown: 1`), which may be of a `kind`, or a mergekit configuration.",
        [
            schema_of::<modality::ModalityKeys>(),
            schema_of::<strict::StrictKeys>(),
            schema_of::<mergekit::MergekitKeys>(),
        ],
    );
    let mut method = schema_of::<method::MethodKeys>();
    title(&mut method, "mixdown method");
    let mut architecture = schema_of::<architecture::ArchitectureKeys>();
    title(&mut architecture, "mixdown architecture");
    let mut map = schema_of::<map::MapKeys>();
    title(&mut map, "mixdown map");
    [
        ("recipe.schema.json", recipe),
        ("method.schema.json", method),
        ("architecture.schema.json", architecture),
        ("map.schema.json", map),
    ]
    .into_iter()
    .map(|(name, schema)| (name, format!("{schema:#}\n")))
    .collect()
}

fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value()
}

fn title(schema: &mut Value, text: &str) {
    schema["title"] = text.into();
}

/// One schema of three: files with the keys `mixdown` and `kind` are of the first form, those with
/// `mixdown` alone of the second, all others of the third.
fn choice(title: &str, description: &str, forms: [Value; 3]) -> Value {
    let mut definitions = Map::new();
    let [modality, strict, mergekit] = forms.map(|mut form| {
        if let Some(form) = form.as_object_mut() {
            form.remove("$schema");
            if let Some(Value::Object(own)) = form.remove("definitions") {
                definitions.extend(own);
            }
        }
        form
    });
    serde_json::json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        "description": description,
        "type": "object",
        "if": {"required": ["mixdown"]},
        "then": {"if": {"required": ["kind"]}, "then": modality, "else": strict},
        "else": mergekit,
        "definitions": definitions,
    })
}
