//! Files of kohya's sd-scripts and of LyCORIS: the module's name with underscores for dots, behind what says which
//! part of a pipeline it belongs to, and an `alpha` beside the factors of each module.

use super::{Dialect, Meaning};

pub(super) const DIALECT: Dialect = Dialect {
    program: "kohya",
    separator: '_',
    groups: &[
        "lora_unet_",
        "lora_te_",
        "lora_te1_",
        "lora_te2_",
        "lora_te3_",
        "lora_transformer_",
        "lora_prior_",
        "lycoris_",
    ],
    is_turned: false,
    is_own: |name| split(name).is_some(),
    meaning,
};

/// A name as its module and what follows.
fn split(name: &str) -> Option<(&str, &str)> {
    let (module, end) = name.split_once('.')?;
    let is_group = DIALECT.groups.iter().any(|group| module.starts_with(group));
    let known = ["lora_", "hada_", "lokr_", "alpha", "dora_scale"];
    (is_group && known.iter().any(|start| end.starts_with(start))).then_some((module, end))
}

fn meaning(name: &str) -> Meaning {
    let Some((module, end)) = split(name) else {
        return Meaning::Unknown("tensors that are no update of a module");
    };
    let own = match end {
        "alpha" => return Meaning::Alpha(module.to_owned()),
        "lora_down.weight" | "lora_A.weight" => "lora_A.weight",
        "lora_up.weight" | "lora_B.weight" => "lora_B.weight",
        "lora_mid.weight" => {
            return Meaning::Unknown("updates of three factors (`lora_mid`)");
        }
        // Of outputs or of inputs, which two versions of LyCORIS decide differently.
        "dora_scale" => return Meaning::Unknown("magnitudes of DoRA (`dora_scale`)"),
        _ if end.starts_with("hada_") || end.starts_with("lokr_") => end,
        _ => return Meaning::Unknown("tensors of an unknown variant of LoRA"),
    };
    Meaning::Tensor(format!("{module}.{own}"))
}
