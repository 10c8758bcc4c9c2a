//! What parts of a modality recipe must agree about.

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::inputs::{BodyKind, Input};
use super::{Rest, Space, Written};
use crate::decode::reader::Decoder;
use crate::modality::{self, ModalityInput, Mode, OutputLayout};
use crate::setting::Spanned;

/// Whether layout, space, mode and bodies go together.
pub(super) fn check(decoder: &mut Decoder<'_>, written: &Written) -> Option<()> {
    let Written { body, output, mode, inputs, .. } = written;
    let before = decoder.diagnostics.len();
    let mut refuse = |span: Span, headline: String, help: &str| {
        let error = Diagnostic::error(codes::MODALITY_FORM, headline);
        decoder.report(span, error.help(help));
    };
    let is_modelcompose = output.layout == OutputLayout::ModelCompose;
    let is_factors = body.space == Space::Factors;
    if is_factors && !is_modelcompose {
        let headline = "`space: factors` makes no whole model";
        refuse(body.span, headline.into(), "write `layout: modelcompose`, or `space: dense`");
    }
    if is_factors && *mode == Mode::Online {
        let headline = "`mode: online` merges nothing, in whatever space";
        refuse(body.span, headline.into(), "remove `space`, or `mode: online`");
    }
    if is_factors && body.rest == Rest::Mean {
        let headline = "`rest: mean` has no meaning for factors";
        refuse(
            body.rest_span,
            headline.into(),
            "write `rest: base`, which leaves updates out that are not merged",
        );
    }
    let has_weights = !is_factors && *mode == Mode::Static;
    match &output.rank {
        Some(rank) if !is_modelcompose => {
            let headline = "`rank` is about factors, and `layout: omni` holds none";
            refuse(rank.span, headline.into(), "remove `rank`, or write `layout: modelcompose`");
        }
        Some(rank) if !has_weights => {
            let headline = "factors that stay what they are keep their rank";
            let help = "remove `rank`: it is about merged weights, `space: dense` without `mode`";
            refuse(rank.span, headline.into(), help);
        }
        None if is_modelcompose && !is_factors && *mode != Mode::Online => {
            let headline = "merged weights are no factors, which `layout: modelcompose` holds";
            let help = match mode {
                Mode::Static => {
                    "write `space: factors`, `layout: omni`, or how many directions each update keeps: `rank: 128`"
                }
                _ => "write `space: factors`, or `layout: omni`",
            };
            refuse(output.span, headline.into(), help);
        }
        _ => {}
    }
    for Input { name, body, .. } in inputs {
        let is_adapter = matches!(body.kind, BodyKind::Adapter(_));
        let asks = match (is_factors, mode) {
            (true, _) => "`space: factors`",
            (_, Mode::Damc) => "`mode: damc`",
            (_, Mode::Online) if is_modelcompose => "`layout: modelcompose` with `mode: online`",
            (_, Mode::Online) if matches!(body.kind, BodyKind::Full(_)) => "`mode: online`",
            _ => continue,
        };
        let is_enough = asks == "`mode: online`" && matches!(body.kind, BodyKind::Peft);
        if !is_adapter && !is_enough {
            let headline =
                format!("{asks} needs an adapter, which the body of `{}` is not", name.value);
            refuse(body.span, headline, "name a file of factors: `body: {adapter: PATH}`");
        }
    }
    match (&body.method, mode) {
        (Some(method), Mode::Online) => {
            let headline = "`mode: online` has no method: adapters are added up with coefficients";
            refuse(method.span, headline.into(), "remove `method`, or `mode: online`");
        }
        (None, Mode::Static | Mode::Damc) => {
            let error = Diagnostic::error(codes::MISSING_KEY, "a modality recipe names no method");
            decoder.report(body.span, error.help("write `body: {method: NAME}`"));
        }
        _ => {}
    }
    (decoder.diagnostics.len() == before).then_some(())
}

/// No two parts may have names that one of them could have of both.
pub(super) fn check_prefixes(decoder: &mut Decoder<'_>, inputs: &[ModalityInput]) -> Option<()> {
    let mut known: Vec<(String, &Spanned<String>)> = Vec::new();
    let mut sound = Some(());
    for input in inputs {
        let name = &input.name.value;
        let encoder = input.encoder.as_ref().and_then(|encoder| encoder.copied.as_ref());
        let parts = [("connector", input.connector.as_ref()), ("encoder", encoder)];
        for (word, part) in parts.into_iter().filter_map(|(word, part)| Some((word, part?))) {
            let title = format!("{word} of `{name}`");
            let prefix = &part.prefix;
            let clash = known.iter().find(|(_, other)| {
                let (one, other) = (&prefix.value, &other.value);
                one == other
                    || one.starts_with(&format!("{other}."))
                    || other.starts_with(&format!("{one}."))
            });
            if let Some((first, other)) = clash {
                let headline = format!("the {title} and the {first} write under one prefix");
                let error = Diagnostic::error(codes::MODALITY_PREFIX, headline)
                    .fact(first.clone(), format!("`{}`, line {}", other.value, other.span.line))
                    .fact(title, format!("`{}`", prefix.value))
                    .help(format!(
                        "give one of them another with `as`, for instance `{}.{name}`",
                        modality::CONNECTORS
                    ));
                decoder.report(prefix.span, error);
                sound = None;
                continue;
            }
            known.push((title, prefix));
        }
    }
    sound
}
