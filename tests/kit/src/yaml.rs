//! The YAML of the tests' own data files, as JSON values. Plain enough not to need mixdown's reader.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Reads a text of maps, lists and scalars without anchors. Panics where it is anything else.
pub fn read_yaml(text: &str) -> Value {
    let mut open: Vec<Open> = Vec::new();
    let mut root = Value::Null;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.unwrap_or_else(|error| panic!("not YAML: {error}"));
        let finished = match event {
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Map(_, key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                    continue;
                }
                scalar(&text, style)
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(entries, _)) => Value::Object(entries),
                None => panic!("an end without a beginning"),
            },
            Event::Alias(_) => panic!("line {}: aliases are not read here", span.start.line()),
            _ => continue,
        };
        match open.last_mut() {
            Some(Open::List(items)) => items.push(finished),
            Some(Open::Map(entries, key)) => {
                let key = key.take().expect("a value follows its key");
                let earlier = entries.insert(key, finished);
                assert!(earlier.is_none(), "line {}: a key stands twice", span.start.line());
            }
            None => root = finished,
        }
    }
    root
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::from(text);
    }
    match text {
        "true" => Value::from(true),
        "false" => Value::from(false),
        "null" | "~" | "" => Value::Null,
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .unwrap_or_else(|_| Value::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_the_data_files_use() {
        let text =
            "a: {b: [1, -2.5, 1e-6], c: 'x'}\nlist:\n  - name: no quotes, true\n    on: true\n";
        let expected = json!({
            "a": {"b": [1, -2.5, 1e-6], "c": "x"},
            "list": [{"name": "no quotes, true", "on": true}],
        });
        assert_eq!(read_yaml(text), expected);
    }
}
