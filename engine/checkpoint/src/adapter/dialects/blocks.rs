//! The two ways to name the blocks of a U-Net of Stable Diffusion: one row of input, middle and output blocks, as
//! its authors and kohya's SDXL adapters count them, and blocks of residual layers, attentions and samplers, as
//! diffusers has them. `schemas/names/stable_diffusion.json` has the words; this file has the arithmetic.

use std::sync::LazyLock;

use serde::Deserialize;

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let text = include_str!("../../../../../schemas/names/stable_diffusion.json");
    serde_json::from_str(text).expect("the names are without mistakes, which a test holds")
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// Modules of a residual layer, and what diffusers calls them.
    resnet: Vec<[String; 2]>,
    /// Whole names outside of the blocks, and what diffusers calls them.
    whole: Vec<[String; 2]>,
    /// What all names of a U-Net may begin with.
    starts: Vec<String>,
}

/// How many residual layers each block has, where nothing tells.
const USUAL_LAYERS: u64 = 2;

/// How many residual layers each block of this U-Net has, from the names of its modules with underscores: those of
/// the first block in diffusers' names, or the place of the first sampler in the authors'.
pub(super) fn layers_per_block<'n>(names: impl Iterator<Item = &'n str>) -> u64 {
    let (mut resnets, mut samplers): (Option<u64>, Option<u64>) = (None, None);
    for name in names {
        let number = |start: &str| -> Option<u64> {
            let (_, rest) = name.split_once(start)?;
            rest.split('_').next()?.parse().ok()
        };
        if let Some(layer) = number("down_blocks_0_resnets_") {
            resnets = resnets.max(Some(layer.saturating_add(1)));
        }
        let block = number("input_blocks_").filter(|_| name.ends_with("_0_op"));
        if let Some(block) = block {
            samplers = Some(samplers.map_or(block, |known: u64| known.min(block)));
        }
    }
    let sampled = samplers.map(|block| block.saturating_sub(1));
    resnets.or(sampled).filter(|layers| *layers > 0).unwrap_or(USUAL_LAYERS)
}

/// What diffusers calls a module that its authors call so, both with underscores for dots; nothing if they do not.
pub(super) fn in_diffusers(name: &str, layers: u64) -> Option<String> {
    let words = &*WORDS;
    // The longest first: every name begins with nothing.
    let mut starts: Vec<&String> =
        words.starts.iter().filter(|start| name.starts_with(start.as_str())).collect();
    starts.sort_by_key(|start| std::cmp::Reverse(start.len()));
    let start = starts.first()?;
    let own = &name[start.len()..];
    if let Some([_, other]) = words.whole.iter().find(|[whole, _]| whole == own) {
        return Some(format!("{start}{other}"));
    }
    let per_block = layers.checked_add(1)?;
    let (kind, rest) = own.split_once("_block").and_then(|(kind, rest)| {
        Some((kind, rest.strip_prefix('s').unwrap_or(rest).strip_prefix('_')?))
    })?;
    let mut parts = rest.splitn(3, '_');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (block, inner, rest) = match kind {
        "middle" => (0, number()?, rest.split_once('_')?.1),
        "input" | "output" => {
            let (block, inner) = (number()?, number()?);
            (block, inner, parts.next()?)
        }
        _ => return None,
    };
    let resnet = || {
        let found = words.resnet.iter().find(|[module, _]| module == rest);
        found.map(|[_, other]| other.as_str())
    };
    let (place, rest) = match (kind, inner) {
        ("middle", 0) => ("mid_block_resnets_0".to_owned(), resnet()?),
        ("middle", 1) => ("mid_block_attentions_0".to_owned(), rest),
        ("middle", 2) => ("mid_block_resnets_1".to_owned(), resnet()?),
        ("input", _) => {
            let place = block.checked_sub(1)?;
            let (block, layer) = (place / per_block, place % per_block);
            match inner {
                0 if rest == "op" => (format!("down_blocks_{block}_downsamplers_0"), "conv"),
                0 => (format!("down_blocks_{block}_resnets_{layer}"), resnet()?),
                1 => (format!("down_blocks_{block}_attentions_{layer}"), rest),
                _ => return None,
            }
        }
        ("output", _) => {
            let (block, layer) = (block / per_block, block % per_block);
            match inner {
                0 => (format!("up_blocks_{block}_resnets_{layer}"), resnet()?),
                // Blocks without attention have their sampler in its place.
                1 if rest != "conv" => (format!("up_blocks_{block}_attentions_{layer}"), rest),
                1 | 2 => (format!("up_blocks_{block}_upsamplers_0"), rest),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(format!("{start}{place}_{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From diffusers' own table for SDXL, of two layers a block.
    #[test]
    fn blocks_have_two_names() {
        let cases = [
            ("input_blocks_0_0", "conv_in"),
            ("input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1"),
            ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
            (
                "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
                "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
            ),
            ("input_blocks_8_0_emb_layers_1", "down_blocks_2_resnets_1_time_emb_proj"),
            ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
            ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
            ("output_blocks_0_1_proj_out", "up_blocks_0_attentions_0_proj_out"),
            ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
            ("output_blocks_2_1_conv", "up_blocks_0_upsamplers_0_conv"),
            ("output_blocks_5_0_skip_connection", "up_blocks_1_resnets_2_conv_shortcut"),
            ("out_2", "conv_out"),
            ("label_emb_0_0", "add_embedding_linear_1"),
        ];
        for (name, other) in cases {
            assert_eq!(in_diffusers(name, 2).as_deref(), Some(other), "{name}");
            let start = "model_diffusion_model_";
            let (name, other) = (format!("{start}{name}"), format!("{start}{other}"));
            assert_eq!(in_diffusers(&name, 2), Some(other), "{name}");
        }
        for name in ["down_blocks_0_conv", "input_blocks_x_0_op", "input_blocks_0_1_a", "block", ""]
        {
            assert_eq!(in_diffusers(name, 2), None, "{name}");
        }
    }

    #[test]
    fn layers_are_counted_in_either_names() {
        let diffusers = ["down_blocks_0_resnets_0_conv1", "down_blocks_0_resnets_2_conv1"];
        assert_eq!(layers_per_block(diffusers.into_iter()), 3);
        let authors = ["input_blocks_4_0_op", "input_blocks_8_0_op"];
        assert_eq!(layers_per_block(authors.into_iter()), 3);
        assert_eq!(layers_per_block(["a"].into_iter()), 2);
    }
}
