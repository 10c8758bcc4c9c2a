//! What the figures mean for a merge, each with what the papers say of it.

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Value, json};

use crate::quantity;

/// Drift, ‖τ‖/‖θ₀‖, from which a merge is likely to fail.
///
/// The papers give no number; this one is a choice. The experts of OptMerge's benchmark, chosen to be mergeable,
/// have task vectors whose elements are some 10⁻⁴ (Figure 2), below a hundredth of weights of usual size; those
/// that it names as merging poorly went through a second pretraining. Between the two lies a tenth.
pub const LARGE_DRIFT: f64 = 0.1;

/// Drift from which it is a thing to know.
pub const NOTABLE_DRIFT: f64 = 0.02;

/// Share of elements changed by both in opposite directions from which they are in each other's way: by
/// chance it is a half.
const MANY_CONFLICTS: f64 = 0.45;

/// The cosine between task vectors that are nearly one.
const ALIKE: f64 = 0.9;

/// The cosine below which task vectors are as good as orthogonal.
const ORTHOGONAL: f64 = 0.1;

/// What the findings are made from.
#[derive(Debug, Default)]
pub struct Overview {
    pub base: String,
    pub vocabulary: Option<u64>,
    pub experts: Vec<OfExpert>,
    pub pairs: Vec<OfPair>,
    pub spectra: Option<Spectra>,
}

/// What was found of an expert.
#[derive(Clone, Debug, Default)]
pub struct OfExpert {
    pub name: String,
    pub relative: Option<f64>,
    pub rms: Option<f64>,
    pub changed: Option<f64>,
    pub only: Option<f64>,
    pub nonfinite: u64,
    pub is_adapter: bool,
    pub same_tokenizer: Option<bool>,
    pub vocabulary: Option<u64>,
    pub equal: usize,
    pub changed_count: usize,
    pub missing: usize,
    pub other: usize,
    /// The matrix that drifted most.
    pub largest: Option<(String, f64)>,
    /// Share of the matrices whose energy lies in a quarter of the directions.
    pub few_directions: Option<f64>,
}

impl OfExpert {
    /// Counts a tensor that differs.
    pub fn changed_tensors(&mut self) {
        self.changed_count += 1;
    }
}

/// What was found of two experts, by their positions.
#[derive(Clone, Debug)]
pub struct OfPair {
    pub first: usize,
    pub second: usize,
    pub cosine: Option<f64>,
    pub conflicts: Option<f64>,
    pub both: Option<f64>,
    /// The share of each one's energy in the leading directions of the other, and what it would be by chance.
    pub shared: Option<(f64, f64)>,
}

/// How directions were counted.
#[derive(Clone, Copy, Debug)]
pub struct Spectra {
    pub exact: usize,
    pub sketched: usize,
}

/// A finding: what was measured, and what the papers say of it.
fn finding(kind: &str, is_warning: bool, about: &str, measured: String, papers: &str) -> Value {
    json!({
        "kind": kind,
        "level": if is_warning { "warning" } else { "note" },
        "about": about,
        "measured": measured,
        "papers": papers,
    })
}

/// All findings, those to act on first.
pub fn findings(overview: &Overview) -> Vec<Value> {
    let mut found: Vec<Value> =
        overview.experts.iter().flat_map(|one| of_expert(one, overview)).collect();
    found.extend(overview.pairs.iter().flat_map(|pair| of_pair(pair, overview)));
    if let Some(Spectra { exact, sketched }) = overview.spectra {
        let width = mixdown_cpu::survey::WIDTH;
        found.push(finding(
            "directions",
            false,
            &overview.base,
            format!(
                "directions are counted by the exact Gram matrix of the inputs in {}, and by a sketch of {width} sums of inputs in {sketched}",
                quantity::count(exact, "tensor")
            ),
            "Task vectors hold redundancy and noise beside what was learned, which is why OptMerge keeps the leading directions alone (section 4.1).",
        ));
    }
    found.sort_by_key(|one| one["level"] != "warning");
    found
}

fn of_expert(one: &OfExpert, overview: &Overview) -> Vec<Value> {
    let mut found = Vec::new();
    let name = one.name.as_str();
    if let (Some(relative), Some(rms)) = (one.relative, one.rms) {
        let measured = format!(
            "drift ‖τ‖/‖θ₀‖ = {}, root mean square of τ {rms:.1e}{}",
            percent(relative),
            one.largest.as_ref().map_or(String::new(), |(tensor, largest)| format!(
                "; most in {tensor}, {}",
                percent(*largest)
            ))
        );
        let papers = match relative {
            drift if drift >= LARGE_DRIFT => {
                "Theorem 3.1 of OptMerge bounds the loss of a merge by terms that grow with the drift ηT and its square; it names Qwen2.5-Math and Qwen2.5-Coder, whose long post-training moved them far, as experts that merge poorly. Prefer an expert that was tuned for fewer steps or at a smaller rate."
            }
            drift if drift >= NOTABLE_DRIFT => {
                "More than the experts of OptMerge's benchmark, which were tuned so that parameters change little (section 3.2); a smaller λ keeps the merge near the base."
            }
            _ => {
                "Of the size that OptMerge's benchmark was tuned to (Figure 2): such experts and their base lie in one basin, where task vectors can be added (section 3.2)."
            }
        };
        found.push(finding("drift", relative >= LARGE_DRIFT, name, measured, papers));
    }
    if let Some(few) = one.few_directions {
        let measured = format!(
            "99 % of the energy lies in a quarter of the directions or fewer in {} of the matrices{}",
            percent(few),
            if one.is_adapter { "; it is an adapter" } else { "" }
        );
        let papers = match few > 0.5 {
            true => {
                "Updates of low rank are what LoRA makes: OptMerge finds that Adam lets their merge grow in length to be orthogonal to all, and uses SGD from the mean (section 4.2); Iso-C fails on them, as evening out their few directions shrinks them (section 5.2)."
            }
            false => {
                "Full fine-tuning spreads over many directions; OptMerge centers the task vectors and keeps the leading directions, 1/n of them for n experts (section 4.1)."
            }
        };
        found.push(finding("rank", false, name, measured, papers));
    }
    if let (Some(changed), Some(only)) = (one.changed, one.only) {
        let measured = format!(
            "it changes {} of the elements it shares with the base, {} of these alone; {} equal to the base's, {} changed",
            percent(changed),
            percent(only),
            quantity::count(one.equal, "tensor"),
            one.changed_count
        );
        let papers = "What only one expert changed, no other can interfere with: methods that trim (TIES, DARE) rest on most of what is left being so.";
        found.push(finding("changes", false, name, measured, papers));
    }
    if one.missing + one.other > 0 {
        let measured = format!(
            "{} of the base missing, {} that cannot be compared",
            quantity::count(one.missing, "tensor"),
            one.other
        );
        let papers = "Merges combine tensors of one name and shape; AdaMMS maps one architecture onto another first (its section 3.1).";
        found.push(finding("tensors", true, name, measured, papers));
    }
    if one.nonfinite > 0 {
        let measured = format!(
            "{} NaN or infinite, counted as unchanged",
            quantity::count(one.nonfinite as usize, "element")
        );
        let papers = "No method of the papers has a meaning for them.";
        found.push(finding("nonfinite", true, name, measured, papers));
    }
    let other_size = one.vocabulary != overview.vocabulary && one.vocabulary.is_some();
    if other_size || one.same_tokenizer == Some(false) {
        let size = |size: Option<u64>| size.map_or("unknown".to_owned(), |size| size.to_string());
        let measured = format!(
            "vocabulary of {} beside the base's {}{}",
            size(one.vocabulary),
            size(overview.vocabulary),
            if one.same_tokenizer == Some(false) { "; tokenizer.json differs" } else { "" }
        );
        let papers = "Rows of an embedding mean tokens: OptMerge and AdaMMS leave embeddings and the output layer out of the merge; `tokenizer` of a recipe brings vocabularies together.";
        found.push(finding("vocabulary", other_size, name, measured, papers));
    }
    found
}

fn of_pair(pair: &OfPair, overview: &Overview) -> Vec<Value> {
    let mut found = Vec::new();
    let name = |at: usize| overview.experts[at].name.as_str();
    let about = format!("{} and {}", name(pair.first), name(pair.second));
    if let Some(cosine) = pair.cosine {
        let papers = match cosine {
            cosine if cosine >= ALIKE => {
                "Nearly the same task vector: their sum counts it twice, and a mean is what WUDI's objective has as its fixed point."
            }
            cosine if cosine.abs() < ORTHOGONAL => {
                "Assumption A.4 of OptMerge: task vectors that are nearly orthogonal leave each other's losses alone, which is what makes merging work."
            }
            cosine if cosine < 0.0 => {
                "They pull in opposite directions: the cross-task term O(δηT) of Theorem 3.1 counts against both."
            }
            _ => {
                "They share a direction: redundancy that task arithmetic would count more than once, and that OptMerge centers away (section 4.1)."
            }
        };
        let is_warning = cosine <= -ORTHOGONAL;
        found.push(finding("cosine", is_warning, &about, format!("cosine {cosine:.4}"), papers));
    }
    if let (Some(conflicts), Some(both)) = (pair.conflicts, pair.both) {
        let measured = format!(
            "of the elements that both change, {} of the smaller expert's, {} have opposite signs",
            percent(both),
            percent(conflicts)
        );
        let papers = match conflicts >= MANY_CONFLICTS {
            true => {
                "As many as by chance, or more: TIES elects a sign for each element, and means over both lose what they cancel."
            }
            false => {
                "Fewer than the half that chance would give: the two agree on more than they dispute."
            }
        };
        found.push(finding("signs", false, &about, measured, papers));
    }
    if let Some((shared, by_chance)) = pair.shared {
        let measured = format!(
            "{} of the energy of each lies in the directions that hold 90 % of the other's; by chance {} would",
            percent(shared),
            percent(by_chance)
        );
        // Half way from chance to all of it.
        let papers = match shared >= 0.5 * (1.0 + by_chance) {
            true => {
                "They work in the same inputs: there WUDI and OptMerge look for an update that serves both (equations 1 and 3), and Iso-CTS for a common subspace."
            }
            false => {
                "Little more than by chance: each works in inputs of its own, where interference is small, and TSV keeps the directions of each."
            }
        };
        found.push(finding("shared energy", false, &about, measured, papers));
    }
    found
}

/// The warnings among the findings, as messages.
pub fn warnings(document: &Value) -> Vec<Diagnostic> {
    let all = document["findings"].as_array().into_iter().flatten();
    let drifts = all.filter(|one| one["kind"] == "drift" && one["level"] == "warning");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    drifts
        .map(|one| {
            let headline = format!(
                "`{}` has drifted as far as experts whose merges fail",
                text(&one["about"])
            );
            Diagnostic::warning(codes::LARGE_DRIFT, headline)
                .fact("measured", text(&one["measured"]))
                .note(text(&one["papers"]))
        })
        .collect()
}

/// A share for people: three significant digits.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        0.0 => "0 %".to_owned(),
        few if few < 0.01 => format!("{few:.1e} %"),
        few if few < 1.0 => format!("{few:.3} %"),
        some if some < 10.0 => format!("{some:.2} %"),
        many => format!("{many:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_drift_is_a_warning_and_comes_first() {
        let expert = |name: &str, relative: f64| OfExpert {
            name: name.to_owned(),
            relative: Some(relative),
            rms: Some(1e-4),
            ..OfExpert::default()
        };
        let overview = Overview {
            experts: vec![expert("near", 0.004), expert("far", 0.3)],
            ..Overview::default()
        };
        let found = findings(&overview);
        assert_eq!(found[0]["about"], "far");
        assert_eq!(found[0]["level"], "warning");
        assert_eq!(found[1]["level"], "note");
        let told = warnings(&json!({"findings": found}));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].code, codes::LARGE_DRIFT);
    }

    #[test]
    fn shares_are_short() {
        for (share, expected) in [
            (0.0, "0 %"),
            (1e-6, "1.0e-4 %"),
            (0.00412, "0.412 %"),
            (0.0512, "5.12 %"),
            (0.5, "50.0 %"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }
}
