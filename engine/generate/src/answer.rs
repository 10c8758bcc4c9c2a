//! One answer: the likeliest token after the other, until the model, a stop text or a limit ends it.

use mixdown_search::prompts::Prompt;
use mixdown_search::responses::{FinishReason, Response};

use crate::arithmetic::position_of_largest;
use crate::input;
use crate::model::Model;
use crate::text::Text;

/// Answers a prompt. What cannot be answered is an answer that says why.
pub fn answer(model: &Model, text: &Text, prompt: &Prompt, most_tokens: u64) -> Response {
    continuation(model, text, prompt, prompt.max_new_tokens.unwrap_or(most_tokens))
        .unwrap_or_else(|reason| Response::failed(&prompt.id, reason))
}

fn continuation(
    model: &Model,
    text: &Text,
    prompt: &Prompt,
    most_tokens: u64,
) -> Result<Response, String> {
    if !prompt.stop.is_empty() && !text.has_tokenizer() {
        return Err("the model has no tokenizer.json, which `stop` needs".to_owned());
    }
    let mut next = input::embeddings(model, text, prompt)?;
    let length = next.len() / model.config.hidden;
    if let Some(most) = model.config.most_positions.filter(|&most| length > most) {
        return Err(format!("the prompt has {length} tokens, and the model takes {most}"));
    }
    let mut past = model.past();
    let mut ids = Vec::new();
    let response = |ids: &[u32], text: String, finish_reason: FinishReason| Response {
        id: prompt.id.clone(),
        text,
        finish_reason,
        tokens: Some(ids.len() as u64),
        error: None,
    };
    loop {
        let scores = model.forward(next, &mut past);
        let id = position_of_largest(&scores).ok_or("the model gives no numbers but NaN")?;
        let id = id as u32;
        if model.config.ends.contains(&id) {
            return Ok(response(&ids, text.decode(&ids)?, FinishReason::Stop));
        }
        ids.push(id);
        if !prompt.stop.is_empty() {
            let told = text.decode(&ids)?;
            if let Some(end) = first_stop(&told, &prompt.stop) {
                return Ok(response(&ids, told[..end].to_owned(), FinishReason::Stop));
            }
        }
        let is_full = model.config.most_positions.is_some_and(|most| past.positions() >= most);
        if ids.len() as u64 >= most_tokens || is_full {
            return Ok(response(&ids, text.decode(&ids)?, FinishReason::Length));
        }
        next = model.embed(id).ok_or("the model names a token that it does not have")?;
    }
}

/// Where the first of these texts begins.
fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_ends_a_text() {
        let stops = ["b".to_owned(), "ca".to_owned(), String::new()];
        assert_eq!(first_stop("acab", &stops), Some(1));
        assert_eq!(first_stop("aaa", &stops), None);
    }
}
