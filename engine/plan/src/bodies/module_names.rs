//! What `modules` of a recipe are called: mergekit's names for known families, prefixes of tensor names for others.

use std::collections::BTreeSet;

use mixdown_diagnostics::{Diagnostic, codes, suggest};
use mixdown_recipe::setting::Spanned;

use crate::bodies::context::RecipeContext;
use crate::families::layer;

/// The tensors of a module: those that begin with one of `prefixes` and with none of `but`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    prefixes: Vec<String>,
    but: Vec<String>,
}

impl Part {
    /// Whether a tensor, or a prefix of names, belongs to the module.
    pub fn holds(&self, name: &str) -> bool {
        let begins =
            |prefixes: &[String]| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        begins(&self.prefixes) && !begins(&self.but)
    }
}

/// Classes, module, prefixes, excluded prefixes.
type Row =
    (&'static [&'static str], &'static str, &'static [&'static str], &'static [&'static str]);

const QWEN_VL: &[&str] = &[
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
];
const VISUAL: &[&str] = &["visual.", "model.visual."];
const MERGER: &[&str] = &[
    "visual.merger.",
    "model.visual.merger.",
    "visual.deepstack_merger_list.",
    "model.visual.deepstack_merger_list.",
];

/// The families that mergekit 0.1.5 divides into modules.
const KNOWN: &[Row] = &[
    (
        &[
            "Gemma3ForConditionalGeneration",
            "Llama4ForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
        ],
        "text_decoder",
        &["language_model."],
        &[],
    ),
    (
        &[
            "Gemma3ForConditionalGeneration",
            "Llama4ForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
        ],
        "multi_modal_projector",
        &["multi_modal_projector."],
        &[],
    ),
    (
        &["Gemma3ForConditionalGeneration", "Mistral3ForConditionalGeneration"],
        "vision_tower",
        &["vision_tower."],
        &[],
    ),
    (&["Llama4ForConditionalGeneration"], "vision_model", &["vision_model."], &[]),
    (QWEN_VL, "text_decoder", &[""], VISUAL),
    (QWEN_VL, "multi_modal_projector", MERGER, &[]),
    (QWEN_VL, "vision_tower", VISUAL, MERGER),
    (&["T5ForConditionalGeneration"], "decoder", &["decoder."], &[]),
    (&["T5ForConditionalGeneration"], "encoder", &["encoder."], &[]),
    (&["T5ForConditionalGeneration"], "shared", &[""], &["decoder.", "encoder."]),
    (&["WhisperForConditionalGeneration"], "decoder", &["model.decoder.", "proj_out."], &[]),
    (&["WhisperForConditionalGeneration"], "encoder", &["model.encoder."], &[]),
];

/// The module of this name in the recipe's models.
pub(crate) fn find(context: &RecipeContext<'_>, name: &str) -> Option<Part> {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    if let Some((_, _, prefixes, but)) = rows(context).find(|row| row.1 == name) {
        return Some(Part { prefixes: owned(prefixes), but: owned(but) });
    }
    let stacks = stacks(context);
    if name == "default" {
        // One stack of layers: everything. Several: what belongs to none of them.
        let but = if stacks.len() > 1 { stacks.into_iter().collect() } else { Vec::new() };
        return Some(Part { prefixes: vec![String::new()], but });
    }
    let dotted = format!("{}.", name.trim_end_matches('.'));
    let known = context.models().any(|view| view.iter().any(|t| t.name.starts_with(&dotted)));
    known.then(|| Part { prefixes: vec![dotted], but: Vec::new() })
}

/// Rows of the table for the classes of the recipe's models.
fn rows<'c>(context: &'c RecipeContext<'_>) -> impl Iterator<Item = &'static Row> + 'c {
    KNOWN.iter().filter(|row| row.0.iter().any(|class| context.classes.contains(*class)))
}

/// Prefixes of layer names over all models.
fn stacks(context: &RecipeContext<'_>) -> BTreeSet<String> {
    context.models().flat_map(|view| view.layers.keys().cloned()).collect()
}

/// Says that there is no such module, and which there are.
pub(crate) fn unknown(context: &RecipeContext<'_>, name: &Spanned<String>) -> Diagnostic {
    let mut names: BTreeSet<String> = rows(context).map(|row| row.1.to_owned()).collect();
    if names.is_empty() {
        let tops = context.models().flat_map(|view| view.iter()).filter_map(|tensor| {
            let stack = layer::split(tensor.name)?;
            stack.prefix.split('.').next().map(str::to_owned)
        });
        names.extend(tops);
        names.insert("default".to_owned());
    }
    let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_MODULE,
        format!("the models have no module `{}`", name.value),
    )
    .fact("modules", list);
    let diagnostic = match suggest::nearest(&name.value, names.iter()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help("name a module above, or the beginning of its tensors' names"),
    };
    diagnostic.at(&context.recipe.source, name.span)
}
