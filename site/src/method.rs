//! The page of a method, and the list of all.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mixdown_checkpoint::{ByteSource, ReadError};
use mixdown_cli::data;
use mixdown_recipe::Method;
use mixdown_session::tensors::{GivenModel, GivenTensor};
use mixdown_session::{Machine, Places, RecipeInput, Session, Silence};
use mixdown_tensor::{DType, Shape};

use crate::mathml::{self, escaped};
use crate::picture;

/// Side of the matrix whose cost is told.
const SIDE: u64 = 4096;

/// From how many operations on that matrix it is linear algebra, and no counting or sorting.
const DECOMPOSING: u64 = 10_000_000_000;

/// All methods with their titles.
pub(crate) fn index(methods: &[Method]) -> String {
    let mut text = made("from the files of the methods", "recipes/methods");
    text.push_str(
        "# Methods\n\nEach is a file of formulas in `recipes/methods`, built into the program; \
         `mixdown methods NAME` shows the same on a terminal.\n\n| method | what it does |\n| --- | --- |\n",
    );
    for method in methods {
        let name = &method.name.value;
        let _ = writeln!(
            text,
            "| [`{name}`]({name}.md) | {}: {} |",
            cell(&method.title),
            cell(&method.summary)
        );
    }
    text
}

/// The page of one method.
pub(crate) fn page(method: &Method) -> String {
    let name = &method.name.value;
    let mut text = made("from the method's file", &format!("recipes/methods/{name}.yaml"));
    let _ = write!(text, "# {name}: {}\n\n{}\n\n", method.title, prose(&method.summary));
    let _ = write!(
        text,
        "![What `{name}` makes of two task vectors](pictures/{name}.svg)\n\n\
         Squares are elements of one matrix of 8 rows, by magnitude; blue is positive, red negative. The merge was:\n\n\
         <!-- not run: made of models in memory -->\n\n```yaml\n{}```\n\n",
        picture::recipe(method, "")
    );
    text.push_str("## Formula\n\n");
    text.push_str(&mathml::formulas(method));
    text.push_str(
        "\nθ₀ is the base, θᵢ are the experts, n is their count, and ∑ goes over the experts. As the file says it:\n\n",
    );
    text.push_str("```text\n");
    for step in &method.steps {
        let _ = writeln!(text, "{} = {}", step.name.value, step.expression);
    }
    let _ = write!(text, "output = {}\n```\n\n", method.output);
    let _ = write!(text, "## Models\n\n{}\n\n", inputs(method));
    if !method.parameters.is_empty() {
        text.push_str("## Parameters\n\n| parameter | values | default | what it is |\n| --- | --- | --- | --- |\n");
        let document = data::method(method);
        for parameter in document["parameters"].as_array().into_iter().flatten() {
            let default = match &parameter["default"] {
                serde_json::Value::Null => "required".to_owned(),
                serde_json::Value::String(word) => format!("`{word}`"),
                value => format!("`{value}`"),
            };
            let per = if parameter["per"] == "expert" { "for each model: " } else { "" };
            let words = |key: &str| cell(parameter[key].as_str().unwrap_or_default());
            let _ = writeln!(
                text,
                "| `{}` | {} | {default} | {per}{} |",
                parameter["name"].as_str().unwrap_or_default(),
                words("type"),
                words("doc")
            );
        }
        text.push('\n');
    }
    if let Some(notes) = &method.notes {
        let _ = write!(text, "## Notes\n\n{}\n\n", prose(notes));
    }
    let _ = write!(text, "## Cost\n\n{}\n\n", cost(method));
    let _ = write!(text, "## Example\n\n```yaml\n{}```\n\n", data::method_example(method));
    let _ = write!(text, "## Source\n\n{}\n", source(&method.source));
    text
}

/// The line by which a page tells that nobody writes it.
pub(crate) fn made(from: &str, file: &str) -> String {
    format!("<!-- made {from} ({file}) by `cargo run -p mixdown-site`; edits are lost -->\n\n")
}

/// In a cell of a table.
pub(crate) fn cell(text: &str) -> String {
    prose(text).replace('|', "\\|").replace('\n', " ")
}

/// Text of files in a page: what Markdown would take for something else is kept from it, but code is code.
pub(crate) fn prose(text: &str) -> String {
    let pieces = text.trim().split('`').enumerate().map(|(place, piece)| match place % 2 {
        0 => escaped(piece).replace('*', "\\*").replace('_', "\\_").replace('[', "\\["),
        _ => piece.to_owned(),
    });
    pieces.collect::<Vec<_>>().join("`")
}

fn inputs(method: &Method) -> String {
    let words = data::method_inputs(method);
    let mut lines = words.lines();
    let mut text = lines.next().map(capital).unwrap_or_default();
    text.push('.');
    for line in lines {
        let _ = write!(text, "\n{}.", capital(line.trim()));
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// arXiv ids and DOIs as links.
fn source(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let (inner, end) = match word.strip_suffix([',', ';', '.']) {
            Some(inner) => (inner, &word[inner.len()..]),
            None => (word, ""),
        };
        match (inner.strip_prefix("arXiv:"), inner.strip_prefix("doi:")) {
            (Some(id), _) => format!("[{inner}](https://arxiv.org/abs/{id}){end}"),
            (_, Some(id)) => format!("[{inner}](https://doi.org/{id}){end}"),
            _ => prose(word),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Data that nobody reads: costs are told from headers.
struct Nothing(u64);

impl ByteSource for Nothing {
    fn read_exact_at(&self, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        unreachable!("a plan reads no data")
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.0
    }
}

/// What one matrix of a usual size costs, as a plan tells it.
fn cost(method: &Method) -> String {
    if !method.attachments.is_empty() {
        return "Reads each model and what lies beside it once, or twice where `normalize` needs sums over the model first.".to_owned();
    }
    if picture::takes_factors(method) {
        return "Reads the base and the factors of the adapters once.".to_owned();
    }
    let model = |name: &str| {
        let shape = Shape::new(vec![SIDE, SIDE]).expect("it is small");
        let data = Arc::new(Nothing(shape.bytes(DType::Bf16)));
        let name_of_tensor = "model.layers.0.mlp.up_proj.weight".to_owned();
        let tensor = GivenTensor { name: name_of_tensor, dtype: DType::Bf16, shape, data };
        GivenModel { name: name.to_owned(), config: None, tensors: vec![tensor] }
    };
    let given: Vec<GivenModel> = ["base", "A", "B", "reference"].map(model).into();
    let recipe = picture::recipe(method, "").replace("dtype: float32", "dtype: bfloat16");
    let places = Places::from_env(&|_| None);
    let cancel = AtomicBool::new(false);
    let session = Session::new(&places, &Silence, &cancel).with_models(&given);
    let machine = Machine {
        memory_bytes: Some(64 << 30),
        threads: std::num::NonZeroUsize::new(1),
        device: mixdown_session::Device::Cpu,
        ..Machine::default()
    };
    let planned = mixdown_session::plan(&RecipeInput::made_up(recipe), &session, None)
        .unwrap_or_else(|trouble| panic!("{}: {trouble}", method.name.value));
    let (footprint, _) = planned
        .backend(&machine, &session)
        .and_then(|chosen| planned.costs(chosen.backend(), &machine))
        .unwrap_or_else(|trouble| panic!("{}: {}", method.name.value, trouble.headline));
    let models = given.len() - usize::from(!method.reference) - unused(method);
    let once = SIDE * SIDE * 2;
    let mut text = format!(
        "For one matrix of {SIDE} × {SIDE} in bf16 from {}, {} are read, {} of one model.",
        match models {
            1 => "one model".to_owned(),
            models => format!("{models} models"),
        },
        size(footprint.bytes_read),
        match tenths(footprint.bytes_read as f64 / once as f64).as_str() {
            "1" => "once that".to_owned(),
            times => format!("{times} times that"),
        },
    );
    match footprint.bytes_read_by_pass.iter().filter(|bytes| **bytes > 0).count() {
        0 | 1 => text.push_str(" One pass over them."),
        passes => {
            let _ = write!(text, " {passes} passes: what is known of whole tensors comes first.");
        }
    }
    if footprint.flops > 0 {
        let _ = write!(
            text,
            " Ops that need more than single elements take about {} floating-point operations.",
            power(footprint.flops)
        );
    }
    text.push_str(match footprint.flops {
        0 => " The speed is that of reading.",
        few if few < DECOMPOSING => "",
        _ => " They are linear algebra, for which memory must hold the matrix; `mixdown plan` says how much.",
    });
    text
}

/// How many of the picture's models the method does not read.
fn unused(method: &Method) -> usize {
    let base = usize::from(method.base != mixdown_recipe::method::BaseUse::Required);
    let second = usize::from(method.experts.at_most == Some(1));
    base + second
}

fn size(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn tenths(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// One digit and a power of ten.
fn power(number: u64) -> String {
    let exponent = (number as f64).log10().floor();
    let digit = (number as f64 / 10f64.powf(exponent)).round();
    let raised: String = format!("{exponent}")
        .chars()
        .map(|digit| {
            "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10).unwrap_or(0) as usize).unwrap_or('?')
        })
        .collect();
    format!("{digit}·10{raised}")
}
