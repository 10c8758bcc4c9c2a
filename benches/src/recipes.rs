//! What is measured: a mergekit configuration for each method, and how many models it reads.

/// A merge to be measured.
pub struct Recipe {
    /// The method.
    pub name: &'static str,
    /// Models that it reads; the copy beside it reads as many.
    pub models: usize,
    /// Its configuration; model paths start from the folder of the models.
    pub text: &'static str,
}

/// All merges, in the order of the table.
pub const RECIPES: [Recipe; 16] = [
    Recipe {
        name: "linear",
        models: 4,
        text: "\
merge_method: linear
models:
  - {model: ./base, parameters: {weight: 0.1}}
  - {model: ./a, parameters: {weight: 0.4}}
  - {model: ./b, parameters: {weight: 0.3}}
  - {model: ./c, parameters: {weight: 0.2}}
dtype: bfloat16
",
    },
    Recipe {
        name: "task_arithmetic",
        models: 4,
        text: "\
merge_method: task_arithmetic
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.4}}
  - {model: ./b, parameters: {weight: 0.3}}
  - {model: ./c, parameters: {weight: 0.2}}
dtype: bfloat16
",
    },
    Recipe {
        name: "slerp",
        models: 2,
        text: "\
merge_method: slerp
base_model: ./base
models:
  - model: ./base
  - model: ./a
parameters: {t: 0.4}
dtype: bfloat16
",
    },
    Recipe {
        name: "passthrough",
        models: 1,
        text: "\
merge_method: passthrough
models:
  - model: ./a
dtype: bfloat16
",
    },
    Recipe {
        name: "ties",
        models: 4,
        text: "\
merge_method: ties
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.4, density: 0.5}}
  - {model: ./b, parameters: {weight: 0.3, density: 0.5}}
  - {model: ./c, parameters: {weight: 0.2, density: 0.5}}
dtype: bfloat16
",
    },
    Recipe {
        name: "dare_ties",
        models: 4,
        text: "\
merge_method: dare_ties
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.4, density: 0.5}}
  - {model: ./b, parameters: {weight: 0.3, density: 0.5}}
  - {model: ./c, parameters: {weight: 0.2, density: 0.5}}
dtype: bfloat16
",
    },
    Recipe {
        name: "breadcrumbs",
        models: 4,
        text: "\
merge_method: breadcrumbs
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.4, density: 0.5, gamma: 0.01}}
  - {model: ./b, parameters: {weight: 0.3, density: 0.5, gamma: 0.01}}
  - {model: ./c, parameters: {weight: 0.2, density: 0.5, gamma: 0.01}}
dtype: bfloat16
",
    },
    Recipe {
        name: "della",
        models: 4,
        text: "\
merge_method: della
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.4, density: 0.5, epsilon: 0.1}}
  - {model: ./b, parameters: {weight: 0.3, density: 0.5, epsilon: 0.1}}
  - {model: ./c, parameters: {weight: 0.2, density: 0.5, epsilon: 0.1}}
dtype: bfloat16
",
    },
    Recipe {
        name: "sce",
        models: 4,
        text: "\
merge_method: sce
base_model: ./base
models:
  - model: ./a
  - model: ./b
  - model: ./c
parameters: {select_topk: 0.5}
dtype: bfloat16
",
    },
    Recipe {
        name: "model_stock",
        models: 4,
        text: "\
merge_method: model_stock
base_model: ./base
models:
  - model: ./a
  - model: ./b
  - model: ./c
dtype: bfloat16
",
    },
    Recipe {
        name: "ram",
        models: 4,
        text: "\
merge_method: ram
base_model: ./base
models:
  - model: ./a
  - model: ./b
  - model: ./c
dtype: bfloat16
",
    },
    Recipe {
        name: "nuslerp",
        models: 2,
        text: "\
merge_method: nuslerp
models:
  - {model: ./a, parameters: {weight: 0.6}}
  - {model: ./b, parameters: {weight: 0.4}}
dtype: bfloat16
",
    },
    Recipe {
        name: "multislerp",
        models: 3,
        text: "\
merge_method: multislerp
models:
  - {model: ./a, parameters: {weight: 0.4}}
  - {model: ./b, parameters: {weight: 0.3}}
  - {model: ./c, parameters: {weight: 0.2}}
dtype: bfloat16
",
    },
    Recipe {
        name: "karcher",
        models: 3,
        text: "\
merge_method: karcher
models:
  - model: ./a
  - model: ./b
  - model: ./c
dtype: bfloat16
",
    },
    Recipe {
        name: "nearswap",
        models: 2,
        text: "\
merge_method: nearswap
base_model: ./base
models:
  - model: ./a
parameters: {t: 0.001}
dtype: bfloat16
",
    },
    Recipe {
        name: "arcee_fusion",
        models: 2,
        text: "\
merge_method: arcee_fusion
base_model: ./base
models:
  - model: ./a
dtype: bfloat16
",
    },
];

/// Merges by methods over matrices, of five experts.
pub const MATRICES: [Recipe; 6] = [
    Recipe {
        name: "optmerge",
        models: 6,
        text: "\
merge_method: optmerge
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
dtype: bfloat16
",
    },
    Recipe {
        name: "optmerge_lora",
        models: 6,
        text: "\
merge_method: optmerge
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
parameters: {tuning: lora, momentum: 0.9}
dtype: bfloat16
",
    },
    Recipe {
        name: "swudi",
        models: 6,
        text: "\
merge_method: swudi
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
dtype: bfloat16
",
    },
    Recipe {
        name: "aswudi",
        models: 6,
        text: "\
merge_method: aswudi
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
dtype: bfloat16
",
    },
    Recipe {
        name: "tsv",
        models: 6,
        text: "\
merge_method: tsv
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
dtype: bfloat16
",
    },
    Recipe {
        name: "iso_c",
        models: 6,
        text: "\
merge_method: iso_c
base_model: ./base
models: [{model: ./a}, {model: ./b}, {model: ./c}, {model: ./d}, {model: ./e}]
dtype: bfloat16
",
    },
];
