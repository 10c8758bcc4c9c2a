//! Language models merged with those within models that see, in both directions.
//!
//! Catches a part that is merged with another one's, rows of tokens that mean different things, towers and
//! connectors that are not the model's own, and files of the wrong model beside the weights.

use mixdown_kit::{
    DType, Space, Stored, Tensor, Tolerance, adapter, assert_same_tensors, checkpoint,
    read_checkpoint,
};
use mixdown_suite::{merge, merged, refusal, with_snapshots};
use serde_json::{Value, json};

/// Names of a model that sees: its language model, its output layer, and its own parts.
struct Layout {
    body: &'static str,
    head: &'static str,
    encoder: &'static str,
    connector: &'static str,
    class: &'static str,
    model_type: &'static str,
}

const LLAVA: Layout = Layout {
    body: "language_model.model.",
    head: "language_model.",
    encoder: "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    connector: "multi_modal_projector.linear_1.weight",
    class: "LlavaForConditionalGeneration",
    model_type: "llava",
};

const LAYOUTS: [Layout; 4] = [
    LLAVA,
    // As saved by transformers since 4.52.
    Layout {
        body: "model.language_model.",
        head: "",
        encoder: "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        connector: "model.multi_modal_projector.linear_1.weight",
        ..LLAVA
    },
    Layout {
        body: "model.",
        head: "",
        encoder: "visual.blocks.0.mlp.fc1.weight",
        connector: "visual.merger.mlp.0.weight",
        class: "Qwen2VLForConditionalGeneration",
        model_type: "qwen2_vl",
    },
    Layout {
        body: "language_model.model.",
        head: "language_model.",
        encoder: "vision_model.encoder.layers.0.mlp.fc1.weight",
        connector: "mlp1.1.weight",
        class: "InternVLChatModel",
        model_type: "internvl_chat",
    },
];

impl Layout {
    fn name(&self, plain: &str) -> String {
        match plain.strip_prefix("model.") {
            Some(rest) => format!("{}{rest}", self.body),
            None => format!("{}{plain}", self.head),
        }
    }

    /// Writes a language model under these names; `own` with an encoder and a connector.
    fn write(&self, space: &Space, folder: &str, body: &[Tensor], own: bool) {
        let mut model = checkpoint(folder)
            .without("")
            .config("architectures", json!([self.class]))
            .config("model_type", self.model_type.into())
            .config("llm_config", json!({"architectures": ["LlamaForCausalLM"]}));
        for tensor in body {
            model = model.with(tensor.clone().named(&self.name(&tensor.name)));
        }
        if own {
            for name in [self.encoder, self.connector] {
                let values: Vec<f64> = (0..64).map(|i| f64::from(i) / 8.0).collect();
                model = model.with(Tensor::new(name, DType::F32, &[8, 8], &values));
            }
        }
        model.write(space);
    }
}

/// The tensors of a language model: those of the common base with noise of a seed; more tokens than the
/// base has get rows of their own.
fn body(seed: u64, rows: u64) -> Vec<Tensor> {
    let model = checkpoint("x").dtype(DType::F32).vocabulary(rows);
    match seed {
        0 => model.tensors(),
        _ => model.expert(seed, 0.01).tensors(),
    }
}

/// `base` and `math`, language models, and `vlm`, which has one within.
fn space(layout: &Layout, rows: u64) -> Space {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    checkpoint("math").dtype(DType::F32).expert(1, 0.01).write(&space);
    layout.write(&space, "vlm", &body(2, rows), true);
    space
}

/// The language model is merged, and everything else is the model's that sees.
fn into(base: &str, math: &str) -> String {
    format!(
        "mixdown: 1\nmodels:\n  vlm: vlm\n  base: {base}\n  math: {math}\nbase: base\n\
         method: task_arithmetic\nparameters: {{weight: 0.5}}\nrules:\n  \
         - {{module: [vision_encoder, connector], keep: vlm}}\n  \
         - {{role: [embedding, unembedding], keep: vlm}}\n  - {{}}\n"
    )
}

const LIKE: &str = "{path: base, like: vlm}";
const MATH: &str = "{path: math, like: vlm}";

fn config(space: &Space) -> Value {
    serde_json::from_slice(&space.read("merged/config.json")).unwrap()
}

#[track_caller]
fn same(one: &Stored, other: &Stored) {
    assert_same_tensors("merged", &one.tensors, &other.tensors, |_| Tolerance::SameBits);
}

/// Merging under the names of another model gives what renaming the files first gives.
#[test]
fn a_language_model_goes_into_a_model_that_sees() {
    for layout in LAYOUTS {
        let space = space(&layout, 24);
        let found = merged(&space, &into(LIKE, MATH));
        assert_eq!(config(&space)["model_type"], layout.model_type);
        let vlm = read_checkpoint(space.path("vlm"));
        for name in [layout.encoder, layout.connector, &layout.name("lm_head.weight")] {
            assert_eq!(found.tensor(name).data, vlm.tensor(name).data, "{name}");
        }
        std::fs::remove_dir_all(space.path("merged")).unwrap();
        for (seed, folder) in [(0, "base"), (1, "math")] {
            layout.write(&space, &format!("{folder}-renamed"), &body(seed, 24), false);
        }
        let renamed = into("base-renamed", "math-renamed") + "files_from: vlm\n";
        same(&found, &merged(&space, &renamed));
    }
}

#[test]
fn the_language_model_of_one_that_sees_goes_into_a_plain_one() {
    for layout in LAYOUTS {
        let space = space(&layout, 24);
        let recipe = |vlm: &str, drop: &str| {
            format!(
                "mixdown: 1\nmodels:\n  base: base\n  math: math\n  vlm: {vlm}\nbase: base\n\
                 method: task_arithmetic\nparameters: {{weight: 0.5}}\nrules:\n{drop}  \
                 - {{role: [embedding, unembedding], keep: math}}\n  - {{}}\n"
            )
        };
        let drop = "  - {module: [vision_encoder, connector], drop: true}\n";
        let found = merged(&space, &recipe("{path: vlm, like: base}", drop));
        assert_eq!(config(&space)["model_type"], "llama");
        assert_eq!(found.names(), read_checkpoint(space.path("base")).names());
        std::fs::remove_dir_all(space.path("merged")).unwrap();
        checkpoint("alone").dtype(DType::F32).expert(2, 0.01).write(&space);
        same(&found, &merged(&space, &recipe("alone", "")));
    }
}

/// base + ½·(vlm − base) + ½·(math − base), of one element after another.
#[track_caller]
fn check_sum(found: &Stored, name: &str, plain: &str, rows: Option<u64>) {
    let of = |seed: u64| {
        let model = if seed == 0 { checkpoint("x") } else { checkpoint("x").expert(seed, 0.01) };
        let tensors = model.dtype(DType::F32).tensors();
        tensors.into_iter().find(|one| one.name == plain).unwrap().values()
    };
    let (base, math, vlm) = (of(0), of(1), of(2));
    let count = rows.map_or(base.len(), |rows| rows as usize * 16);
    for (at, value) in found.values(name).iter().take(count).enumerate() {
        let expected = 0.5 * (vlm[at] + math[at]);
        assert!((value - expected).abs() < 1e-6, "{name}[{at}]: {value}, expected {expected}");
    }
}

#[test]
fn shared_rows_are_merged_and_others_kept() {
    for layout in LAYOUTS {
        let space = space(&layout, 32);
        let shared = |model: &str| format!("{{path: {model}, like: vlm, shared_rows: 20}}");
        let keep = "  - {role: [embedding, unembedding], keep: vlm}\n";
        let recipe = into(&shared("base"), &shared("math")).replace(keep, "");
        let found = merged(&space, &recipe);
        let vlm = read_checkpoint(space.path("vlm"));
        for plain in ["model.embed_tokens.weight", "lm_head.weight"] {
            let name = layout.name(plain);
            assert_eq!(found.tensor(&name).shape, [32, 16]);
            // Not compared with `body(2, 32)`: the kit draws rows in their order, whatever their count.
            check_sum(&found, &name, plain, Some(20));
            let tail = |stored: &Stored| stored.tensor(&name).data[20 * 16 * 4..].to_vec();
            assert_eq!(tail(&found), tail(&vlm), "{name}");
        }
        check_sum(&found, &layout.name("model.norm.weight"), "model.norm.weight", None);
        // And back: the rows that only the base has are the base's.
        std::fs::remove_dir_all(space.path("merged")).unwrap();
        let back = format!(
            "mixdown: 1\nmodels:\n  base: base\n  math: math\n  vlm: {}\nbase: base\n\
             method: task_arithmetic\nparameters: {{weight: 0.5}}\nrules:\n  \
             - {{module: [vision_encoder, connector], drop: true}}\n  - {{}}\n",
            "{path: vlm, like: base, shared_rows: 20}"
        );
        let found = merged(&space, &back);
        assert_eq!(found.tensor("lm_head.weight").shape, [24, 16]);
        check_sum(&found, "lm_head.weight", "lm_head.weight", Some(20));
        let of = |model: &str| read_checkpoint(space.path(model)).values("lm_head.weight");
        let (base, math) = (of("base"), of("math"));
        for (at, value) in found.values("lm_head.weight").iter().enumerate().skip(20 * 16) {
            let expected = base[at] + 0.5 * (math[at] - base[at]);
            assert!((value - expected).abs() < 1e-6, "lm_head.weight[{at}]");
        }
    }
}

/// A language model without an output layer stands for one whose output layer is its embedding.
#[test]
fn a_tied_embedding_shares_its_rows_as_the_output_layer_too() {
    let space = space(&LLAVA, 32);
    for folder in ["base", "math"] {
        let seed = u64::from(folder == "math");
        let model = checkpoint(folder).dtype(DType::F32).tied();
        if seed == 0 { model } else { model.expert(seed, 0.01) }.write(&space);
    }
    let shared = |model: &str| format!("{{path: {model}, like: vlm, shared_rows: 20}}");
    let keep = "  - {role: [embedding, unembedding], keep: vlm}\n";
    let found = merged(&space, &into(&shared("base"), &shared("math")).replace(keep, ""));
    let read = |model: &str, name: &str| read_checkpoint(space.path(model)).values(name);
    let embedding = "model.embed_tokens.weight";
    let (base, math) = (read("base", embedding), read("math", embedding));
    let vlm = read("vlm", "language_model.lm_head.weight");
    for (at, value) in found.values("language_model.lm_head.weight").iter().enumerate() {
        let task = |own: f64| if at < 20 * 16 { 0.5 * (own - base[at]) } else { 0.0 };
        let expected = match at < 20 * 16 {
            true => base[at] + task(vlm[at]) + task(math[at]),
            false => vlm[at],
        };
        assert!((value - expected).abs() < 1e-6, "lm_head[{at}]");
    }
}

/// An adapter of a language model acts on the language model within.
#[test]
fn an_adapter_goes_where_its_base_goes() {
    let space = space(&LLAVA, 24);
    let module = "model.layers.1.mlp.up_proj";
    adapter("lora", 2).module(module, 2, [24, 16]).write(&space);
    let found = merged(&space, &into(LIKE, "{path: base, adapter: lora, like: vlm}"));
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    let applied = "mixdown: 1\nmodels: {x: base+lora}\nmethod: passthrough\n";
    merge(&space, applied, &[]).success();
    std::fs::rename(space.path("merged"), space.path("applied")).unwrap();
    let other = merged(&space, &into(LIKE, "{path: applied, like: vlm}"));
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("adapter", &other.tensors, &found.tensors, tolerance);
    let changed = |stored: &Stored| stored.values(&format!("language_model.{module}.weight"));
    assert_ne!(changed(&found), changed(&merged_without_math(&space)));
}

fn merged_without_math(space: &Space) -> Stored {
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    merged(space, &into(LIKE, LIKE))
}

/// What goes with a model has the names of that model's weights.
#[test]
fn importance_has_the_names_of_its_model() {
    let space = space(&LLAVA, 24);
    checkpoint("important").dtype(DType::F32).write(&space);
    LLAVA.write(&space, "important-vlm", &body(0, 24), true);
    let recipe = "mixdown: 1\nmodels:\n  vlm: {path: vlm, importance: important-vlm}\n  \
                  math: {path: math, like: vlm, importance: important}\nrules:\n  \
                  - {module: [vision_encoder, connector], keep: vlm}\n  - {method: fisher}\n";
    let found = merged(&space, recipe);
    // Both have the same importance, so that the weights are averaged.
    check_sum(&found, "language_model.model.norm.weight", "model.norm.weight", None);
}

#[test]
fn what_cannot_be_is_refused() {
    let space = space(&LLAVA, 32);
    let check = |name: &str, recipe: &str| {
        let talk = refusal(&space, recipe, &[], 2);
        with_snapshots(|| insta::assert_snapshot!(name, talk));
    };
    let keep = "  - {role: [embedding, unembedding], keep: vlm}\n";
    check("rows_differ", &into(LIKE, MATH).replace(keep, ""));
    let shared = |rows: u64| {
        let model = |path: &str| format!("{{path: {path}, like: vlm, shared_rows: {rows}}}");
        into(&model("base"), &model("math")).replace(keep, "")
    };
    check("too_many_shared_rows", &shared(25));
    check("shared_rows_and_tokenizer", &(shared(20) + "tokenizer: {source: base}\n"));
    checkpoint("other").prefix("decoder.").write(&space);
    check("no_counterpart", &into(LIKE, "{path: other, like: vlm}"));
    check("unclaimed", &into(LIKE, MATH).replace(", connector", ""));
    let models = "  itself: {path: base, like: itself}\n  one: {path: base, like: vlm}\n  \
                  two: {path: math, like: one}\n  made: {recipe: made.yaml, like: vlm}\n  \
                  of_made: {path: math, like: made}\n  rows: {path: math, shared_rows: 3}\n  \
                  unknown: {path: math, like: vml}\n";
    space.write("made.yaml", "mixdown: 1\nmodels: {a: base, b: math}\nmethod: average\n");
    check("names_of_none", &into(LIKE, MATH).replace("  math: ", &format!("{models}  math: ")));
    check("adapter_of_other_names", &(into(LIKE, MATH) + "output: {as: adapter, rank: 2}\n"));
}
