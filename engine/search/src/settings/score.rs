//! The labelled objective: the program that scores.

use mixdown_recipe::{Decoder, Fields};

use super::values::{argv, refuse, seconds};
use crate::score::{self, Goal, Score};

pub(super) fn scored(
    decoder: &mut Decoder<'_>,
    top: Fields<'_>,
    fields: Fields<'_>,
) -> Option<Score> {
    let needless = ["prompts", "sample", "generator", "chunk", "verify"];
    refuse(decoder, top, &needless, "a search by score asks no prompts");
    let needless = ["diff", "normalize", "extract", "embed", "smooth", "max_errors"];
    refuse(decoder, fields, &needless, "a search by score compares no answers");
    let argv = argv(decoder, fields, "command", &score::PLACEHOLDERS);
    let timeout = seconds(decoder, fields, "timeout");
    let goal = fields
        .get("goal")
        .and_then(|node| decoder.word(node, "`goal`", &score::GOALS))
        .unwrap_or(Goal::Maximize);
    let version = decoder.text_at(fields, "version").map(|text| text.value).unwrap_or_default();
    Some(Score { argv: argv?, version, timeout, goal })
}
