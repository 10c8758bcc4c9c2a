//! A picture of what a method does to two task vectors: a real merge of a small matrix, drawn as squares.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use mixdown_checkpoint::MemorySource;
use mixdown_recipe::method::{BaseUse, Parameter, ParameterKind, Per};
use mixdown_recipe::recipe::Attachment;
use mixdown_recipe::{Expression, Method};
use mixdown_session::tensors::{GivenModel, GivenTensor, merge_tensors};
use mixdown_session::{Machine, Places, RecipeInput, Session, Silence};
use mixdown_tensor::{DType, Shape};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::mathml::escaped;

const ROWS: usize = 8;
const COLUMNS: usize = 12;
const LAYERS: usize = 3;
/// Directions of an adapter.
const RANK: usize = 2;
/// The layer that is shown.
const SHOWN: usize = 1;
/// By how much the numbers of a picture may differ between machines: they are shares of the largest one.
pub(crate) const TOLERANCE: f64 = 0.01;

/// What is drawn: for each panel, its title and a number from -1 to 1 for each element.
pub type Panels = Vec<(String, Vec<f64>)>;

/// A picture's numbers.
#[derive(Debug)]
pub struct Drawn {
    /// The panels, row by row, as shares of the largest magnitude of all.
    pub values: Panels,
}

/// Parameters whose values in pictures are others than their defaults, which show nothing on two small
/// task vectors.
const SHOWING: &[(&str, &str)] =
    &[("density", "0.4"), ("t", "0.5"), ("lambda", "1"), ("weight", "1"), ("alpha", "0.5")];

/// Merges a small matrix of a base and its experts by a method, and gives what each adds to the base.
///
/// **Errors.** The method cannot be merged so; what mixdown says of it.
pub fn draw(method: &Method) -> Result<Drawn, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let names = expert_names(method);
    let given: Vec<GivenModel> = ["base"]
        .iter()
        .chain(names)
        .chain(method.reference.then_some(&"reference"))
        .map(|name| model(name))
        .collect();
    for name in names {
        for kind in &method.attachments {
            let path = folder.path().join(format!("{name}-{}.safetensors", kind.name()));
            beside(*kind, name, &path)?;
        }
    }
    if takes_factors(method) {
        adapters(folder.path())?;
    }
    let recipe = recipe(method, &format!("{}/", folder.path().display()));
    let input = RecipeInput::made_up(recipe);
    let places = Places::from_env(&|name| (name == "HOME").then(|| folder.path().into()));
    let cancel = AtomicBool::new(false);
    let session = Session::new(&places, &Silence, &cancel).with_models(&given);
    let merged = Mutex::new(Vec::new());
    let machine = Machine { memory_bytes: Some(1 << 30), ..Machine::default() };
    merge_tensors(&input, &machine, &session, &|tensor| {
        if tensor.name == tensor_name(SHOWN) {
            let (numbers, _) = tensor.data.as_chunks::<4>();
            *merged.lock().expect("nothing panics with it") =
                numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        }
        true
    })
    .map_err(|trouble| format!("{}: {trouble}", method.name.value))?;
    let merged = merged.into_inner().expect("nothing panics with it");
    let base = elements("base", SHOWN);
    let of_expert = |name: &str| match takes_factors(method) {
        true => update(name, SHOWN),
        false => elements(name, SHOWN),
    };
    let added = |weights: &[f32]| -> Vec<f64> {
        weights.iter().zip(&base).map(|(one, base)| f64::from(*one) - f64::from(*base)).collect()
    };
    let mut panels: Panels =
        names.iter().map(|name| (format!("{name} − base"), added(&of_expert(name)))).collect();
    panels.push(("merged − base".to_owned(), added(&merged)));
    let largest =
        panels.iter().flat_map(|(_, values)| values).fold(0.0, |most: f64, v| most.max(v.abs()));
    for value in panels.iter_mut().flat_map(|(_, values)| values) {
        *value = (*value / largest * 1000.0).round() / 1000.0;
    }
    Ok(Drawn { values: panels })
}

fn expert_names(method: &Method) -> &'static [&'static str] {
    let most = method.experts.at_most.unwrap_or(usize::MAX).max(1);
    &["A", "B"][..most.min(2)]
}

fn tensor_name(layer: usize) -> String {
    format!("model.layers.{layer}.mlp.up_proj.weight")
}

/// The recipe of the picture. Files beside models lie under `folder`.
pub fn recipe(method: &Method, folder: &str) -> String {
    let mut text = format!("merge_method: {}\n", method.name.value);
    let has_factors = takes_factors(method);
    if method.base == BaseUse::Required {
        let base = if has_factors { format!("{folder}base") } else { "base".to_owned() };
        text.push_str(&format!("base_model: {base}\n"));
    }
    if method.reference {
        text.push_str("reference: reference\n");
    }
    text.push_str("models:\n");
    for (place, name) in expert_names(method).iter().enumerate() {
        let model = match has_factors {
            true => format!("{folder}base+{folder}{name}"),
            false => (*name).to_owned(),
        };
        text.push_str(&format!("  - model: {model}\n"));
        for kind in &method.attachments {
            text.push_str(&format!(
                "    {}: {folder}{name}-{}.safetensors\n",
                kind.name(),
                kind.name()
            ));
        }
        text.push_str(&settings(method, Per::Expert, place, "    "));
    }
    text.push_str(&settings(method, Per::Merge, 0, ""));
    text.push_str("dtype: float32\n");
    text
}

fn settings(method: &Method, per: Per, place: usize, indent: &str) -> String {
    let settings: Vec<String> = method
        .parameters
        .iter()
        .filter(|parameter| parameter.per == per)
        .filter_map(|parameter| {
            Some(format!("{}: {}", parameter.name.value, value(parameter, place)?))
        })
        .collect();
    match settings.is_empty() {
        true => String::new(),
        false => format!("{indent}parameters: {{{}}}\n", settings.join(", ")),
    }
}

/// The value of a parameter in pictures, where it is not its default.
fn value(parameter: &Parameter, place: usize) -> Option<String> {
    let name = parameter.name.value.as_str();
    let showing = SHOWING.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    if let (Some(showing), ParameterKind::Real(_) | ParameterKind::Fraction) =
        (showing, &parameter.kind)
    {
        let moot = ["lambda", "alpha", "weight"].contains(&name) && parameter.default.is_some();
        return (!moot).then(|| showing.to_owned());
    }
    if parameter.default.is_some() {
        return None;
    }
    Some(match &parameter.kind {
        ParameterKind::Integer { .. } => place.to_string(),
        ParameterKind::Boolean => "true".to_owned(),
        ParameterKind::Matrices => "auto".to_owned(),
        ParameterKind::Choice(words) => words[0].clone(),
        ParameterKind::Real(_) | ParameterKind::Fraction | ParameterKind::NumberOrWord { .. } => {
            "0.5".to_owned()
        }
    })
}

/// Numbers that look random, from -1 to 1, the same everywhere.
fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// A model's matrix: a base of noise, and experts that add a pattern of few directions and a little noise.
/// The patterns overlap in the middle, where their signs differ in half of the rows.
fn elements(name: &str, layer: usize) -> Vec<f32> {
    let seed = layer as u64 * 10;
    let mut weights: Vec<f64> =
        noise(seed + 1, ROWS * COLUMNS).iter().map(|one| one * 0.04).collect();
    let (first, last, own) = match name {
        "A" => (0, 8, 2),
        "B" => (4, 12, 3),
        "reference" => (3, 9, 4),
        _ => (0, 0, 0),
    };
    if own > 0 {
        let (rows, columns) = (noise(seed + own, ROWS), noise(seed + own + 4, COLUMNS));
        let rest = noise(seed + own + 7, ROWS * COLUMNS);
        for (place, weight) in weights.iter_mut().enumerate() {
            let (row, column) = (place / COLUMNS, place % COLUMNS);
            let is_inside = (first..last).contains(&column);
            let sign = if own == 3 && row >= ROWS / 2 { -1.0 } else { 1.0 };
            let strength = (0.35 + 0.65 * rows[row].abs()) * (0.35 + 0.65 * columns[column].abs());
            let pattern = if is_inside { sign * strength } else { 0.0 };
            *weight += 0.01 * (pattern + 0.12 * rest[place]);
        }
    }
    weights.into_iter().map(|one| one as f32).collect()
}

fn model(name: &str) -> GivenModel {
    let tensors = (0..LAYERS)
        .map(|layer| {
            let bytes: Vec<u8> =
                elements(name, layer).into_iter().flat_map(f32::to_le_bytes).collect();
            GivenTensor {
                name: tensor_name(layer),
                dtype: DType::F32,
                shape: Shape::new(vec![ROWS as u64, COLUMNS as u64]).expect("it is small"),
                data: Arc::new(MemorySource::new(bytes)),
            }
        })
        .collect();
    GivenModel { name: name.to_owned(), config: None, tensors }
}

/// Whether a method combines the factors of adapters, so that its experts must be such.
pub fn takes_factors(method: &Method) -> bool {
    let is_combined = |expression: &Expression| expression.to_string().contains("combine_factors(");
    is_combined(&method.output) || method.steps.iter().any(|step| is_combined(&step.expression))
}

/// Two factors of an expert's adapter, of rank 2: what multiplies inputs, and what gives outputs.
fn factors(name: &str, layer: usize) -> (Vec<f64>, Vec<f64>) {
    let seed = layer as u64 * 10 + if name == "A" { 70 } else { 80 };
    let (first, last) = if name == "A" { (0, 8) } else { (4, COLUMNS) };
    let mut inputs = noise(seed, RANK * COLUMNS);
    for (place, input) in inputs.iter_mut().enumerate() {
        let is_inside = (first..last).contains(&(place % COLUMNS));
        *input *= if is_inside { 0.1 } else { 0.005 };
    }
    let outputs = noise(seed + 5, ROWS * RANK).iter().map(|one| one * 0.1).collect();
    (inputs, outputs)
}

/// The base with an expert's adapter.
fn update(name: &str, layer: usize) -> Vec<f32> {
    let (inputs, outputs) = factors(name, layer);
    let product = |place: usize| -> f64 {
        let (row, column) = (place / COLUMNS, place % COLUMNS);
        (0..RANK).map(|k| outputs[row * RANK + k] * inputs[k * COLUMNS + column]).sum()
    };
    let base = elements("base", layer);
    base.iter().enumerate().map(|(place, one)| (f64::from(*one) + product(place)) as f32).collect()
}

/// Writes the base and the experts' adapters into a folder.
fn adapters(folder: &Path) -> Result<(), String> {
    let base: Vec<Stored> = (0..LAYERS)
        .map(|layer| (tensor_name(layer), vec![ROWS, COLUMNS], elements("base", layer)))
        .collect();
    store(&folder.join("base"), "model.safetensors", &base, "config.json", "{}")?;
    for name in ["A", "B"] {
        let single = |numbers: Vec<f64>| numbers.into_iter().map(|one| one as f32).collect();
        let tensors: Vec<Stored> = (0..LAYERS)
            .flat_map(|layer| {
                let (inputs, outputs) = factors(name, layer);
                let at = format!("base_model.model.model.layers.{layer}.mlp.up_proj");
                [
                    (format!("{at}.lora_A.weight"), vec![RANK, COLUMNS], single(inputs)),
                    (format!("{at}.lora_B.weight"), vec![ROWS, RANK], single(outputs)),
                ]
            })
            .collect();
        let config =
            r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}"#;
        let folder = folder.join(name);
        store(&folder, "adapter_model.safetensors", &tensors, "adapter_config.json", config)?;
    }
    Ok(())
}

/// A tensor with its name and shape.
type Stored = (String, Vec<usize>, Vec<f32>);

fn store(
    folder: &Path,
    file: &str,
    tensors: &[Stored],
    config_file: &str,
    config: &str,
) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    std::fs::write(folder.join(config_file), config).map_err(|error| error.to_string())?;
    serialize(&folder.join(file), tensors)
}

fn serialize(path: &Path, tensors: &[Stored]) -> Result<(), String> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, numbers)| numbers.iter().copied().flat_map(f32::to_le_bytes).collect())
        .collect();
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.clone(), view))
        })
        .collect();
    let written = views.and_then(|views| safetensors::serialize_to_file(views, None, path));
    written.map_err(|error| error.to_string())
}

/// What goes with an expert: how much each element matters to it, or what its layer's inputs are.
fn beside(kind: Attachment, name: &str, path: &Path) -> Result<(), String> {
    let own = if name == "A" { 50 } else { 60 };
    let (side, shape) = match kind {
        Attachment::Importance => (ROWS * COLUMNS, vec![ROWS, COLUMNS]),
        Attachment::Gram => (COLUMNS * COLUMNS, vec![COLUMNS, COLUMNS]),
    };
    let tensors: Vec<Stored> = (0..LAYERS)
        .map(|layer| {
            let seed = own + layer as u64;
            let numbers: Vec<f64> = match kind {
                Attachment::Importance => {
                    noise(seed, side).iter().map(|one| 1e-3 * one * one).collect()
                }
                Attachment::Gram => {
                    let inputs = noise(seed, COLUMNS * COLUMNS);
                    let product = |row: usize, column: usize| -> f64 {
                        (0..COLUMNS)
                            .map(|k| inputs[k * COLUMNS + row] * inputs[k * COLUMNS + column])
                            .sum()
                    };
                    (0..side).map(|place| product(place / COLUMNS, place % COLUMNS)).collect()
                }
            };
            let numbers = numbers.into_iter().map(|one| one as f32).collect();
            (tensor_name(layer), shape.clone(), numbers)
        })
        .collect();
    serialize(path, &tensors)
}

const CELL: f64 = 13.0;
const GAP: f64 = 26.0;
const HEAD: f64 = 22.0;

/// The picture: for each element a square whose area is its magnitude, filled where it is positive.
pub(crate) fn svg(method: &Method, panels: &Panels) -> String {
    let panel_width = COLUMNS as f64 * CELL;
    let width = panels.len() as f64 * (panel_width + GAP) - GAP + 2.0;
    let height = HEAD + ROWS as f64 * CELL + 2.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{}: what each expert adds to the base, and what the merge adds</title>\n",
        escaped(&method.name.value)
    );
    for (place, (title, values)) in panels.iter().enumerate() {
        let left = place as f64 * (panel_width + GAP) + 1.0;
        let numbers: Vec<String> = values.iter().map(f64::to_string).collect();
        let _ = write!(
            text,
            "<g data-title=\"{title}\" data-values=\"{}\">\n<text x=\"{left}\" y=\"14\" fill=\"#777\">{title}</text>\n\
             <rect x=\"{left}\" y=\"{HEAD}\" width=\"{panel_width}\" height=\"{}\" fill=\"none\" stroke=\"#999\" stroke-width=\"0.5\"/>\n",
            numbers.join(" "),
            ROWS as f64 * CELL,
        );
        for (element, value) in values.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            let side = ((CELL - 1.0) * value.abs().sqrt() * 10.0).round() / 10.0;
            let middle = |index: usize| (index as f64 + 0.5) * CELL - side / 2.0;
            let (x, y) = (left + middle(element % COLUMNS), HEAD + middle(element / COLUMNS));
            let color = if *value > 0.0 { "#2166ac" } else { "#d6604d" };
            let _ = writeln!(
                text,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side}\" height=\"{side}\" fill=\"{color}\"/>"
            );
        }
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

/// The numbers that a picture was drawn from.
pub fn values_in(svg: &str) -> Option<Panels> {
    let panels: Option<Panels> = svg
        .split("<g data-title=\"")
        .skip(1)
        .map(|group| {
            let (title, rest) = group.split_once("\" data-values=\"")?;
            let numbers = rest.split_once('"')?.0;
            let numbers = numbers.split(' ').map(|number| number.parse().ok());
            Some((title.to_owned(), numbers.collect::<Option<Vec<f64>>>()?))
        })
        .collect();
    panels.filter(|panels| !panels.is_empty())
}

/// The largest difference between the numbers of two pictures; infinite where they are of other kinds.
pub fn closeness(one: &Panels, other: &Panels) -> f64 {
    let is_alike = one.len() == other.len()
        && one.iter().zip(other).all(|(a, b)| a.0 == b.0 && a.1.len() == b.1.len());
    if !is_alike {
        return f64::INFINITY;
    }
    let numbers = |panels: &Panels| -> Vec<f64> {
        panels.iter().flat_map(|(_, values)| values.clone()).collect()
    };
    let differences = numbers(one).into_iter().zip(numbers(other)).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}
