//! The tokenizer's files of a vocabulary that was rebuilt.

use mixdown_diagnostics::Diagnostic;
use mixdown_recipe::recipe::{Recipe, Tokenizer, Vocabulary};
use serde_json::Value;

use super::{Own, Target, own_models, problem};
use crate::models::imported::Imported;
use crate::models::tokenizer::pretty;

/// Why a tokenizer in files of other kinds cannot become the output's; none if it can, or is a tokenizer.json.
pub(super) fn unwritten(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    ground: &Own<'_>,
    target: &Target<'_>,
) -> Option<Diagnostic> {
    if !ground.tokens.is_apart() {
        return None;
    }
    let name = &recipe.models[target.ground].name;
    let help = "save its tokenizer in the fast format: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`";
    let base = recipe.base.as_ref().map(|base| base.value.0 as usize);
    let base = base.or(own_models(recipe).next());
    if matches!(tokenizer.vocabulary, Vocabulary::Model(_)) && base != Some(target.ground) {
        let headline =
            format!("the tokenizer of `{name}` is no tokenizer.json, and not the base's");
        return Some(problem(headline).help(help));
    }
    let first = target.removed.iter().next()?;
    let headline = format!(
        "tokens cannot be taken out of the tokenizer of `{name}`, which is no tokenizer.json"
    );
    Some(
        problem(headline)
            .fact("tokens without a row", target.removed.len().to_string())
            .fact("first id", first.to_string())
            .help(help),
    )
}

/// The tokenizer's files, where they are not those that the output gets anyway.
pub(super) fn files(
    ground: &Own<'_>,
    target: &Target<'_>,
    tokenizer: &Tokenizer,
    imported: &Imported<'_>,
) -> Vec<(String, String)> {
    if ground.tokens.is_apart() {
        return files_beside(ground, target);
    }
    let is_other = matches!(tokenizer.vocabulary, Vocabulary::Model(_));
    if target.removed.is_empty() && target.new.is_empty() && !is_other {
        return Vec::new();
    }
    let edited = ground.tokens.edited(&target.removed, &target.new, imported);
    let mut files = vec![("tokenizer.json".to_owned(), pretty(&edited))];
    if let Some(config) = ground.config {
        let mut config = config.clone();
        if let Some(decoder) = config.get_mut(DECODER).and_then(Value::as_object_mut) {
            decoder.retain(|id, _| id.parse().is_ok_and(|id: u64| !target.removed.contains(&id)));
            let added = target.new.iter().filter(|new| !imported.tokens.contains(new.content));
            for token in added {
                decoder.insert(token.id.to_string(), token.decoder_entry());
            }
        }
        files.push(("tokenizer_config.json".to_owned(), pretty(&config)));
    }
    files
}

/// What tokenizer_config.json calls its added tokens.
const DECODER: &str = "added_tokens_decoder";

/// The files that tell the added tokens of a tokenizer in files of other kinds, where there are new ones.
fn files_beside(ground: &Own<'_>, target: &Target<'_>) -> Vec<(String, String)> {
    if target.new.is_empty() {
        return Vec::new();
    }
    let added = ground.tokens.added.iter().map(|(id, (token, _))| (*token, *id));
    let all = added.chain(target.new.iter().map(|token| (token.content, token.id)));
    let all: serde_json::Map<String, Value> =
        all.map(|(token, id)| (token.to_owned(), id.into())).collect();
    let mut config = ground.config.cloned().unwrap_or_else(|| Value::Object(Default::default()));
    if let Some(config) = config.as_object_mut() {
        let decoder = config.entry(DECODER).or_insert_with(|| Value::Object(Default::default()));
        if let Some(decoder) = decoder.as_object_mut() {
            for token in &target.new {
                decoder.insert(token.id.to_string(), token.decoder_entry());
            }
        }
    }
    vec![
        ("added_tokens.json".to_owned(), pretty(&all)),
        ("tokenizer_config.json".to_owned(), pretty(&config)),
    ]
}
