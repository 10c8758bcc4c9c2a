//! What was found, as the document that `--json` prints and the page shows.

use std::collections::BTreeMap;

use mixdown_checkpoint::stored::is_there;
use mixdown_checkpoint::{TensorEntry, shown, small};
use mixdown_cpu::survey::{OfExpert, OfPair, Tally};
use mixdown_plan::{Described, knowledge};
use serde_json::{Map, Value, json};

use super::SurveyRequest;
use super::findings::{self, Overview};
use super::measure::{Measured, SHARES};
use super::models::{Compared, Found, Model, entry_of};
use crate::recipes::{Input, Loaded};

/// Exponent of the smallest magnitudes that are normal numbers of f32.
const BIAS: i64 = 127;

/// All that the document is made of.
pub struct Told<'a> {
    pub request: &'a SurveyRequest,
    pub names: &'a [String],
    pub loaded: &'a Loaded,
    pub compared: &'a Compared,
    pub of_base: &'a Described,
    pub measured: &'a [Option<Measured>],
}

/// The document.
pub fn document(told: &Told<'_>) -> Value {
    let mut all = Tally::of(told.compared.experts.len());
    let mut modules: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut layers: BTreeMap<(&str, u64), Tally> = BTreeMap::new();
    for (place, measured) in told.compared.places.iter().zip(told.measured) {
        let Some(Measured { tally, .. }) = measured else { continue };
        let tensor = &told.of_base.tensors[place.tensor as usize];
        let none = || Tally::of(told.compared.experts.len());
        all.add(tally);
        modules.entry(&tensor.module).or_insert_with(none).add(tally);
        if let Some(layer) = tensor.layer {
            layers.entry((&tensor.module, layer)).or_insert_with(none).add(tally);
        }
    }
    let overview = overview(told, &all);
    let base = told.compared.base;
    let mut told_of_base = model(told, 0, base);
    told_of_base["family"] = json!(told.of_base.family);
    let experts: Vec<Value> = (told.compared.experts.iter().enumerate())
        .map(|(number, &expert)| {
            let mut value = model(told, number + 1, expert);
            join(&mut value, of_expert(&all.experts[number], &all, true));
            let of = &overview.experts[number];
            value["tensors_equal"] = json!(of.equal);
            value["tensors_changed"] = json!(of.changed);
            value["tensors_missing"] = json!(of.missing);
            value["tensors_not_compared"] = json!(of.other);
            value["tensors_extra"] = json!(told.compared.extra[number]);
            value["same_tokenizer"] = json!(of.same_tokenizer);
            value
        })
        .collect();
    let modules: Vec<Value> = modules
        .iter()
        .map(|(name, tally)| {
            let mut value = json!({"module": name});
            join(&mut value, figures(tally, true));
            value
        })
        .collect();
    let layers: Vec<Value> = layers
        .iter()
        .map(|((module, layer), tally)| {
            let mut value = json!({"module": module, "layer": layer});
            join(&mut value, figures(tally, false));
            value
        })
        .collect();
    let places = told.compared.places.iter().zip(told.measured);
    let tensors: Vec<Value> =
        places.map(|(place, measured)| tensor(told, place, measured.as_ref())).collect();
    json!({
        "survey": 1,
        "base": told_of_base,
        "experts": experts,
        "pairs": pairs(told, &all, &overview),
        "spectra": overview.spectra.as_ref().map(|of| json!({
            "exact": of.exact,
            "sketched": of.sketched,
            "width": mixdown_cpu::survey::WIDTH,
            "shares": SHARES,
        })),
        "findings": findings::findings(&overview),
        "modules": modules,
        "layers": layers,
        "tensors": tensors,
    })
}

/// What the findings are made from.
fn overview(told: &Told<'_>, all: &Tally) -> Overview {
    let count = told.compared.experts.len();
    let mut experts = Vec::with_capacity(count);
    for number in 0..count {
        let of = &all.experts[number];
        let mut one = findings::OfExpert {
            name: told.names[number + 1].clone(),
            relative: ratio(of.squares, all.base),
            rms: root_mean(of.squares, all.elements),
            changed: share(of.changed, all.elements),
            only: share(of.only, of.changed),
            nonfinite: of.nonfinite,
            is_adapter: told.compared.experts[number].adapter.is_some(),
            same_tokenizer: same_tokenizer(told, number),
            vocabulary: vocabulary(told.loaded, told.compared.experts[number]),
            ..findings::OfExpert::default()
        };
        let mut few = 0;
        let mut matrices = 0;
        for (place, measured) in told.compared.places.iter().zip(told.measured) {
            match (&place.experts[number], measured) {
                (Found::Missing, _) => one.missing += 1,
                (Found::Other(_), _) => one.other += 1,
                (Found::Made(_), Some(found)) => {
                    let tally = &found.tally.experts[number];
                    match tally.changed == 0 && tally.nonfinite == 0 {
                        true => one.equal += 1,
                        false => one.changed_tensors(),
                    }
                    let relative = ratio(tally.squares, found.tally.base);
                    let name = entry_of(told.loaded, place.base.stored).name.as_str();
                    if place.shape.1 > 1
                        && let Some(relative) = relative
                        && one.largest.as_ref().is_none_or(|(_, largest)| relative > *largest)
                    {
                        one.largest = Some((shown(name).into_owned(), relative));
                    }
                    if let Some(spectra) = found.spectra.as_ref().filter(|_| tally.changed > 0) {
                        matrices += 1;
                        let most = place.shape.0.min(place.shape.1);
                        few += usize::from(spectra.experts[number][1] as u64 * 4 <= most);
                    }
                }
                (Found::Made(_), None) => one.equal += 1,
            }
        }
        one.few_directions = (matrices > 0).then(|| few as f64 / f64::from(matrices));
        experts.push(one);
    }
    let spectra = told.measured.iter().flatten().filter_map(|found| found.spectra.as_ref());
    let spectra: Vec<_> = spectra.collect();
    let exact = spectra.iter().filter(|one| one.is_exact).count();
    Overview {
        base: told.names[0].clone(),
        vocabulary: vocabulary(told.loaded, told.compared.base),
        experts,
        pairs: pairs_of(told, all),
        spectra: (!spectra.is_empty())
            .then(|| findings::Spectra { exact, sketched: spectra.len() - exact }),
    }
}

fn pairs_of(told: &Told<'_>, all: &Tally) -> Vec<findings::OfPair> {
    let count = told.compared.experts.len();
    let mut found = Vec::new();
    for i in 0..count {
        for j in i + 1..count {
            let at = found.len();
            let pair = &all.pairs[at];
            // Each tensor's share counts by the energy that it is a share of.
            let (mut held, mut chance, mut energy) = (0.0, 0.0, 0.0);
            for measured in told.measured.iter().flatten() {
                let Some(spectra) = &measured.spectra else { continue };
                let [of_second, of_first] = spectra.shared[at];
                let [by_second, by_first] = spectra.by_chance[at];
                let both = [(of_second, by_second, j), (of_first, by_first, i)];
                for (share, by_chance, expert) in both {
                    if let Some(share) = share {
                        let squares = measured.tally.experts[expert].squares;
                        held += share * squares;
                        chance += by_chance * squares;
                        energy += squares;
                    }
                }
            }
            found.push(findings::OfPair {
                first: i,
                second: j,
                cosine: cosine(pair, &all.experts[i], &all.experts[j]),
                conflicts: share(pair.conflicts, pair.both),
                both: share(pair.both, all.experts[i].changed.min(all.experts[j].changed)),
                shared: (energy > 0.0).then(|| (held / energy, chance / energy)),
            });
        }
    }
    found
}

fn pairs(told: &Told<'_>, all: &Tally, overview: &Overview) -> Vec<Value> {
    let pairs = overview.pairs.iter().zip(&all.pairs);
    pairs
        .map(|(pair, counts)| {
            json!({
                "first": told.names[pair.first + 1],
                "second": told.names[pair.second + 1],
                "cosine": pair.cosine,
                "both_changed": counts.both,
                "sign_conflicts": pair.conflicts,
                "shared_energy": pair.shared.map(|(share, _)| share),
                "shared_by_chance": pair.shared.map(|(_, by_chance)| by_chance),
            })
        })
        .collect()
}

/// What is told of a model before anything is measured.
fn model(told: &Told<'_>, number: usize, model: Model) -> Value {
    let checkpoint = &told.loaded.models[model.checkpoint as usize].model.checkpoint;
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in checkpoint.index.tensors() {
        *types.entry(entry.stored_as()).or_default() += entry.shape.elements();
    }
    let texts: Vec<&String> =
        [&told.request.base].into_iter().chain(&told.request.experts).collect();
    json!({
        "name": told.names[number],
        "model": texts[number],
        "adapter": model.adapter.is_some(),
        "tensors": checkpoint.index.len(),
        "parameters": types.values().sum::<u64>(),
        "types": types,
        "vocabulary": vocabulary(told.loaded, model),
    })
}

/// What the configuration says of the vocabulary's size.
fn vocabulary(loaded: &Loaded, model: Model) -> Option<u64> {
    let config = loaded.models[model.checkpoint as usize].model.checkpoint.config.as_ref()?;
    knowledge::number(config, "vocab_size")
}

/// Whether the tokenizer's file is byte for byte that of the base; none where one has none, or shares the
/// base's folder.
fn same_tokenizer(told: &Told<'_>, number: usize) -> Option<bool> {
    let file = |model: Model| {
        let Input { model, .. } = &told.loaded.models[model.checkpoint as usize];
        Some(model.checkpoint.root.join("tokenizer.json")).filter(|path| is_there(path))
    };
    let (base, expert) = (told.compared.base, told.compared.experts[number]);
    if base.checkpoint == expert.checkpoint {
        return None;
    }
    Some(small::same_bytes(&file(base)?, &file(expert)?))
}

/// What is told of a tensor.
fn tensor(told: &Told<'_>, place: &super::models::Place, measured: Option<&Measured>) -> Value {
    let entry: &TensorEntry = entry_of(told.loaded, place.base.stored);
    let described = &told.of_base.tensors[place.tensor as usize];
    let mut value = json!({
        "name": entry.name,
        "module": described.module,
        "layer": described.layer,
        "kind": described.kind,
        "shape": entry.shape.dimensions(),
        "dtype": entry.model_dtype().name(),
    });
    let status = |number: usize| match (&place.experts[number], measured) {
        (Found::Missing, _) => "missing".to_owned(),
        (Found::Other(why), _) => why.clone(),
        (Found::Made(_), Some(found)) if found.tally.experts[number].changed > 0 => {
            "changed".to_owned()
        }
        (Found::Made(_), Some(found)) if found.tally.experts[number].nonfinite > 0 => {
            "not finite".to_owned()
        }
        (Found::Made(_), _) => "equal".to_owned(),
    };
    let statuses: Vec<String> = (0..place.experts.len()).map(status).collect();
    if let Some(found) = measured {
        if place.elements < entry.shape.elements() {
            value["elements_compared"] = json!(place.elements);
        }
        join(&mut value, figures(&found.tally, true));
        if let Some(spectra) = &found.spectra {
            value["spectra"] = json!(if spectra.is_exact { "exact" } else { "sketch" });
            value["directions_together"] = counted(&spectra.together, spectra);
            for (one, counts) in experts_of(&mut value).zip(&spectra.experts) {
                one["directions"] = counted(counts, spectra);
            }
            let pairs = value["pairs"].as_array_mut().into_iter().flatten();
            for (pair, shared) in pairs.zip(&spectra.shared) {
                pair["shared_energy"] = json!(shared);
            }
        }
    } else {
        value["experts"] = statuses.iter().map(|_| json!({})).collect();
    }
    for (one, status) in experts_of(&mut value).zip(statuses) {
        one["status"] = json!(status);
    }
    value
}

/// Counts of directions for each share, and whether more may be needed.
fn counted(counts: &[usize; 2], spectra: &super::measure::Spectra) -> Value {
    let at_least = |count: usize| !spectra.is_exact && 4 * count > spectra.width;
    json!({"90": counts[0], "99": counts[1], "at_least": counts.map(at_least)})
}

fn experts_of(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value["experts"].as_array_mut().into_iter().flatten()
}

/// The figures of a tensor, a layer or a module.
fn figures(tally: &Tally, with_histogram: bool) -> Value {
    let experts = tally.experts.iter().map(|one| of_expert(one, tally, with_histogram));
    let mut pairs = Vec::new();
    for i in 0..tally.experts.len() {
        for j in i + 1..tally.experts.len() {
            let pair = &tally.pairs[pairs.len()];
            pairs.push(json!({
                "cosine": cosine(pair, &tally.experts[i], &tally.experts[j]),
                "sign_conflicts": share(pair.conflicts, pair.both),
            }));
        }
    }
    json!({
        "elements": tally.elements,
        "base_norm": tally.base.sqrt(),
        "experts": experts.collect::<Vec<_>>(),
        "pairs": pairs,
    })
}

fn of_expert(one: &OfExpert, tally: &Tally, with_histogram: bool) -> Value {
    let mut value = json!({
        "norm": one.squares.sqrt(),
        "relative": ratio(one.squares, tally.base),
        "rms": root_mean(one.squares, tally.elements),
        "largest": one.largest,
        "changed": share(one.changed, tally.elements),
        "only": share(one.only, one.changed),
        "nonfinite": one.nonfinite,
    });
    if with_histogram {
        // [e, n]: n elements of a magnitude from 2^e to 2^(e+1), zeros and what is smaller left out.
        let counts = one.exponents.iter().enumerate().skip(1).filter(|(_, count)| **count > 0);
        value["magnitudes"] =
            counts.map(|(exponent, count)| json!([exponent as i64 - BIAS, count])).collect();
    }
    value
}

fn join(value: &mut Value, with: Value) {
    let (Some(own), Value::Object(with)) = (value.as_object_mut(), with) else { return };
    own.extend::<Map<String, Value>>(with);
}

/// The root of a quotient; none where the divisor is 0 and the other is not.
fn ratio(squares: f64, base: f64) -> Option<f64> {
    match () {
        () if squares == 0.0 => Some(0.0),
        () if base == 0.0 => None,
        () => Some((squares / base).sqrt()),
    }
}

fn root_mean(squares: f64, elements: u64) -> Option<f64> {
    (elements > 0).then(|| (squares / elements as f64).sqrt())
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn cosine(pair: &OfPair, first: &OfExpert, second: &OfExpert) -> Option<f64> {
    let norms = first.squares.sqrt() * second.squares.sqrt();
    (norms > 0.0).then(|| (pair.product / norms).clamp(-1.0, 1.0))
}
