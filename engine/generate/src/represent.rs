//! Texts as what a model makes of them: their tokens, or its states before each layer. What builds gates of
//! mixtures asks for it.

use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Value, json};

use crate::model::{Model, json_beside};
use crate::text::Text;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Represent {
    /// The numbers of its tokens; the model itself is not read
    Tokens,
    /// The same without the token that begins texts
    Parts,
    /// Before each layer the state at the last token
    Last,
    /// Before each layer the mean of the states at all tokens
    Mean,
}

/// Represents each text, a JSON string on a line of its own, as a JSON object: `{"tokens": […]}`, or
/// `{"layers": [[…], …]}` with a state for each layer. Each text begins with the token that begins texts, where
/// the tokenizer has one.
///
/// **Errors.** A model or tokenizer that cannot be read, lines that are no texts, texts without tokens.
pub fn represent(
    folder: &Path,
    lines: &str,
    what: Represent,
) -> Result<Vec<Value>, Vec<Diagnostic>> {
    let text = Text::read(folder)?;
    let begin = match what {
        Represent::Parts => String::new(),
        _ => beginning(folder)?,
    };
    let model = match what {
        Represent::Tokens | Represent::Parts => None,
        Represent::Last | Represent::Mean => Some(Model::read(folder)?),
    };
    let fail = |why: String| {
        let error = Diagnostic::error(codes::GENERATOR_TEXT, why);
        vec![error.in_file(folder.to_string_lossy())]
    };
    let mut found = Vec::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let own: String = serde_json::from_str(line)
            .map_err(|error| fail(format!("a line is no JSON string: {error}")))?;
        let ids = text.plain(&format!("{begin}{own}")).map_err(fail)?;
        let Some(model) = &model else {
            found.push(json!({"tokens": ids}));
            continue;
        };
        let layers = states(model, &ids, what).map_err(fail)?;
        found.push(json!({"layers": layers}));
    }
    Ok(found)
}

fn states(model: &Model, ids: &[u32], what: Represent) -> Result<Vec<Vec<f32>>, String> {
    if ids.is_empty() {
        return Err("a text has no tokens".to_owned());
    }
    let mut x = Vec::new();
    for &id in ids {
        x.extend(model.embed(id).ok_or_else(|| format!("the model has no token {id}"))?);
    }
    let hidden = model.config.hidden;
    let count = ids.len();
    if let Some(most) = model.config.most_positions.filter(|&most| count > most) {
        return Err(format!("a text has {count} tokens, and the model takes {most}"));
    }
    let of_layers = model
        .states(x)
        .ok_or("states before layers are told of models that are built like llama")?;
    Ok(of_layers
        .into_iter()
        .map(|state| match what {
            Represent::Mean => (0..hidden)
                .map(|at| {
                    let own = state.iter().skip(at).step_by(hidden);
                    (own.map(|&value| f64::from(value)).sum::<f64>() / count as f64) as f32
                })
                .collect(),
            _ => state[(count - 1) * hidden..].to_vec(),
        })
        .collect())
}

/// The text of the token that begins texts; empty without one.
fn beginning(folder: &Path) -> Result<String, Vec<Diagnostic>> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(config) = json_beside(folder, name)? else { continue };
        let token = &config["bos_token"];
        let text = token.as_str().or_else(|| token["content"].as_str());
        if let Some(text) = text {
            return Ok(text.to_owned());
        }
    }
    Ok(String::new())
}
