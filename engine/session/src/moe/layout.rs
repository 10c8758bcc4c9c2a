//! The families of mixtures: which models they can be made of, and how they name and describe what is in them.

use std::sync::Arc;

use mixdown_checkpoint::Index;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::moe_file::MoeFile;
use mixdown_tensor::Shape;
use serde_json::{Value, json};

use super::{Composed, Mixture, Zeros};

/// A family of mixtures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Mixtral,
    DeepSeek,
    Qwen2,
    Qwen3,
}

/// In the order in which they are chosen.
const ALL: [Layout; 4] = [Layout::Mixtral, Layout::DeepSeek, Layout::Qwen2, Layout::Qwen3];

/// The family that the file asks for, or the first that can be made.
pub(super) fn choose(mixture: &Mixture) -> Result<Layout, Box<Diagnostic>> {
    let file = &mixture.file;
    let wanted = file.architecture.as_ref().map(|text| text.value.to_lowercase());
    let named = |layout: &&Layout| {
        wanted.as_ref().is_none_or(|wanted| layout.title().to_lowercase().starts_with(wanted))
    };
    let mut refused = Vec::new();
    for layout in ALL.iter().filter(named) {
        match layout.refuses(mixture) {
            None => return Ok(*layout),
            Some(why) => refused.push((layout.title(), why)),
        }
    }
    let span = file.architecture.as_ref().map_or(file.base.span, |text| text.span);
    let error = match (&wanted, refused.is_empty()) {
        (Some(wanted), true) => {
            let known: Vec<&str> = ALL.iter().map(|layout| layout.title()).collect();
            Diagnostic::error(codes::MOE_LAYOUT, format!("no mixture is called `{wanted}`"))
                .fact("known", known.join(", "))
        }
        _ => {
            let headline = "no mixture can be made of these models";
            refused
                .into_iter()
                .fold(Diagnostic::error(codes::MOE_LAYOUT, headline), |error, (title, why)| {
                    error.fact(title, why)
                })
        }
    };
    Err(Box::new(error.at(&file.source, span)))
}

impl Layout {
    /// As messages call it, and mergekit's files.
    fn title(self) -> &'static str {
        match self {
            Self::Mixtral => "Mixtral",
            Self::DeepSeek => "DeepSeek MoE",
            Self::Qwen2 => "Qwen MoE",
            Self::Qwen3 => "Qwen3 MoE",
        }
    }

    /// Why it cannot be made.
    fn refuses(self, mixture: &Mixture) -> Option<String> {
        let file = &mixture.file;
        let shared = file.shared.len();
        let has_prompts = file
            .shared
            .iter()
            .any(|expert| !expert.positive.is_empty() || !expert.negative.is_empty());
        match self {
            Self::Mixtral | Self::Qwen3 if shared > 0 => {
                return Some("has no shared experts".to_owned());
            }
            Self::DeepSeek if shared > 1 => {
                return Some("has one shared expert at most".to_owned());
            }
            Self::DeepSeek if has_prompts => {
                return Some(
                    "gives every token to its shared expert, which takes no prompts".to_owned(),
                );
            }
            Self::Qwen2 if shared != 1 => return Some("has exactly one shared expert".to_owned()),
            Self::Qwen2 if file.gate_mode.needs_prompts() && !has_prompts => {
                return Some("has a gate for its shared expert, which needs prompts".to_owned());
            }
            _ => {}
        }
        let family = |model: &super::Model| -> String {
            let config = model.checkpoint.config.as_ref();
            let found = config.and_then(|config| config.get("model_type")?.as_str());
            found.unwrap_or("unknown").to_owned()
        };
        let mut families: Vec<String> = mixture.opened.models.iter().map(family).collect();
        families.sort();
        families.dedup();
        let known: &[&str] = match self {
            Self::Mixtral | Self::DeepSeek => &["llama", "mistral"],
            Self::Qwen2 => &["llama", "mistral", "qwen2"],
            Self::Qwen3 => &["qwen3"],
        };
        match families.as_slice() {
            [one] if known.contains(&one.as_str()) => None,
            [one] => Some(format!("is made of {}, found {one}", known.join(" or "))),
            several => Some(format!("is made of one family, found {}", several.join(", "))),
        }
    }

    /// Tensors of the base that the family has no place for.
    pub fn unfit<'n>(self, names: impl Iterator<Item = &'n str>) -> Option<Diagnostic> {
        let is_unfit = |name: &&str| {
            let is_bias = name.ends_with(".bias");
            let of_attention = name.contains(".self_attn.");
            match self {
                Self::DeepSeek => false,
                Self::Mixtral | Self::Qwen3 => is_bias && name.contains(".layers."),
                Self::Qwen2 => {
                    is_bias && (name.contains(".mlp.") || (of_attention && name.contains("o_proj")))
                }
            }
        };
        let mut found = names.filter(is_unfit);
        let first = found.next()?;
        let others = found.count();
        let headline = format!("{} has no place for biases that the base has", self.title());
        let error = Diagnostic::error(codes::MOE_LAYOUT, headline)
            .fact("for instance", first)
            .fact("and", format!("{others} more"));
        Some(error.help("name another family with `architecture`, such as `qwen`, or models without these biases"))
    }

    /// What stands for an expert in names.
    pub fn expert(self, at: usize) -> String {
        format!("experts.{at}")
    }

    /// What stands for the shared expert in names.
    pub fn shared(self) -> &'static str {
        if self == Self::DeepSeek { "shared_experts" } else { "shared_expert" }
    }

    fn block(self) -> &'static str {
        if self == Self::Mixtral { "block_sparse_moe" } else { "mlp" }
    }

    fn projection(self, dense: &str) -> &str {
        match (self, dense) {
            (Self::Mixtral, "gate_proj") => "w1",
            (Self::Mixtral, "down_proj") => "w2",
            (Self::Mixtral, "up_proj") => "w3",
            _ => dense,
        }
    }

    /// The name of a projection of an expert.
    pub fn name(self, layer: usize, expert: &str, dense: &str) -> String {
        let (block, projection) = (self.block(), self.projection(dense));
        format!("model.layers.{layer}.{block}.{expert}.{projection}.weight")
    }

    /// The same in all layers, as a pattern.
    pub fn pattern(self, expert: &str, dense: &str) -> String {
        let (block, projection) = (self.block(), self.projection(dense));
        format!("model.layers.*.{block}.{expert}.{projection}.weight")
    }

    /// The name of the gate.
    pub fn gate(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}.gate.weight", self.block())
    }

    /// The name of the shared expert's gate.
    pub fn shared_gate(self, layer: usize) -> String {
        format!("model.layers.{layer}.mlp.shared_expert_gate.weight")
    }

    /// Whether the shared expert has a gate.
    pub fn gates_shared(self) -> bool {
        self == Self::Qwen2
    }

    /// What the family has and the base does not: zeros for biases of attention.
    pub fn fill(self, base: &Index, layers: usize, composed: &mut Composed) {
        if self != Self::Qwen2 {
            return;
        }
        for layer in 0..layers {
            for side in ["q_proj", "k_proj", "v_proj"] {
                let stem = format!("model.layers.{layer}.self_attn.{side}");
                let bias = format!("{stem}.bias");
                let weight =
                    base.get(&format!("{stem}.weight")).filter(|_| base.get(&bias).is_none());
                let Some(weight) = weight else { continue };
                let rows = weight.shape.dimensions().first().copied().unwrap_or(0);
                let shape = Shape::new(vec![rows]).unwrap_or_default();
                let zeros = Zeros(shape.bytes(weight.dtype));
                composed.make(bias, weight.dtype, shape, Arc::new(zeros));
            }
        }
    }

    /// The base's config as that of a mixture.
    pub fn config(self, base: Option<&Value>, file: &MoeFile) -> Option<Value> {
        let mut config = base?.clone();
        let map = config.as_object_mut()?;
        let experts = file.experts.len();
        let shared = file.shared.len();
        let per_token = file.experts_per_token.unwrap_or(2);
        let intermediate = map.get("intermediate_size").cloned().unwrap_or(Value::Null);
        let mut set = |key: &str, value: Value| {
            map.insert(key.to_owned(), value);
        };
        let (model_type, class) = match self {
            Self::Mixtral => ("mixtral", "MixtralForCausalLM"),
            Self::DeepSeek => ("deepseek", "DeepseekForCausalLM"),
            Self::Qwen2 => ("qwen2_moe", "Qwen2MoeForCausalLM"),
            Self::Qwen3 => ("qwen3_moe", "Qwen3MoeForCausalLM"),
        };
        set("model_type", model_type.into());
        set("architectures", json!([class]));
        set("num_experts_per_tok", per_token.into());
        match self {
            Self::Mixtral => {
                set("num_local_experts", experts.into());
                set("sliding_window", Value::Null);
            }
            Self::DeepSeek => {
                set("n_routed_experts", experts.into());
                set("n_shared_experts", if shared > 0 { shared.into() } else { Value::Null });
                set("first_k_dense_replace", 0.into());
                set("moe_layer_freq", 1.into());
                set("scoring_func", "softmax".into());
                set("norm_topk_prob", true.into());
                set("moe_intermediate_size", intermediate);
                let code = "deepseek-ai/deepseek-moe-16b-base--";
                set(
                    "auto_map",
                    json!({
                        "AutoConfig": format!("{code}configuration_deepseek.DeepseekConfig"),
                        "AutoModel": format!("{code}modeling_deepseek.DeepseekModel"),
                        "AutoModelForCausalLM": format!("{code}modeling_deepseek.DeepseekForCausalLM"),
                    }),
                );
            }
            Self::Qwen2 | Self::Qwen3 => {
                set("num_experts", experts.into());
                set("decoder_sparse_step", 1.into());
                set("mlp_only_layers", json!([]));
                set("norm_topk_prob", true.into());
                set("moe_intermediate_size", intermediate.clone());
                set("sliding_window", Value::Null);
                set("use_sliding_window", false.into());
                if self == Self::Qwen2 {
                    set("shared_expert_intermediate_size", intermediate);
                }
            }
        }
        if self != Self::DeepSeek {
            map.remove("auto_map");
        }
        // What Qwen2-MoE does by layer types its attention of one kind does not have.
        map.remove("layer_types");
        map.remove("max_window_layers");
        Some(config)
    }
}
