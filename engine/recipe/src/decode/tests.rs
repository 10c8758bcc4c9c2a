//! What recipes mean, and every message, whole.

use mixdown_diagnostics::Source;
use mixdown_diagnostics::render::{Color, render_all};

use super::*;
use crate::recipe::{Action, Attachment, ModelId, SourceModel};
use crate::setting::{Scalar, Setting, Spanned};

/// The recipe in a few lines, or the diagnostics.
fn report(text: &str) -> String {
    match read(&Source::new("r.yaml", text), &[]) {
        Ok(recipe) => show(&recipe) + &render_all(&recipe.warnings, Color::Plain),
        Err(diagnostics) => render_all(&diagnostics, Color::Plain),
    }
}

/// One snapshot for each topic: the text of each case, then what comes of it.
fn check(topic: &str, cases: &[&str]) {
    let mut out = String::new();
    for case in cases {
        let text = case.trim_start_matches('\n');
        out.push_str(&format!("{:=<60}\n{}\n{:-<60}\n{}\n", "", text.trim_end(), "", report(text)));
    }
    insta::assert_snapshot!(topic, out);
}

fn show(recipe: &Recipe) -> String {
    let name = |id: &ModelId| recipe.models[id.0 as usize].name.clone();
    let model = |id: &Spanned<ModelId>| name(&id.value);
    let mut out = String::new();
    let mut line = |text: String| out.push_str(&(text + "\n"));
    let attached = |attached: &crate::recipe::Attached| {
        let found = Attachment::ALL.into_iter().filter_map(|kind| {
            let of_kind = attached.get(kind)?;
            Some(format!(" {}={}", kind.name(), recipe.models[of_kind.value.0 as usize].name))
        });
        found.collect::<String>()
    };
    for entry in &recipe.models {
        let kind = entry.attached_as.map_or("model", Attachment::name);
        let beside = attached(&entry.attached);
        line(format!("{kind} {}: {:?}{beside}", entry.name, entry.reference));
    }
    if let Some(reference) = &recipe.reference {
        line(format!("reference {}", model(reference)));
    }
    let text =
        |text: &Option<Spanned<String>>| text.as_ref().map_or("-".into(), |t| t.value.clone());
    line(format!(
        "base {} method {} dtype {} out {}",
        recipe.base.as_ref().map_or("-".into(), &model),
        text(&recipe.method),
        text(&recipe.dtype),
        text(&recipe.out_dtype)
    ));
    if !recipe.settings.0.is_empty() {
        line(format!("settings {}", show_settings(&recipe.settings)));
    }
    if let Some(method) = &recipe.inline_method {
        line(format!("inline {}", show_method(method)));
    }
    if let Some(tokenizer) = &recipe.tokenizer {
        let tokens: Vec<_> = tokenizer
            .tokens
            .iter()
            .map(|t| format!("{} {:?} {}", t.token.value, t.source, t.force))
            .collect();
        line(format!(
            "tokenizer {:?} {tokens:?} pad {:?}",
            tokenizer.vocabulary, tokenizer.pad_to_multiple_of
        ));
    }
    if recipe.form == Form::Strict {
        line(format!(
            "seed {} files {} shards {:?}",
            recipe.seed,
            recipe.files_from.as_ref().map_or("-".into(), &model),
            recipe.shard_size.as_ref().map(|size| size.value)
        ));
    }
    let sources = |sources: &[SourceModel]| {
        let shown = sources.iter().map(|s| {
            format!(
                "{}{} {{{}}}{}",
                model(&s.model),
                s.layers.as_ref().map_or(String::new(), |l| format!(" {:?}", l.value)),
                show_settings(&s.settings),
                attached(&s.attached)
            )
        });
        shown.collect::<Vec<_>>().join("; ")
    };
    match &recipe.body {
        Body::Modules(modules) => {
            for module in modules {
                let head = format!(
                    "module {} {{{}}}",
                    text(&module.name),
                    show_settings(&module.settings)
                );
                match &module.content {
                    ModuleContent::Models(models) => {
                        line(format!("{head} models {}", sources(models)))
                    }
                    ModuleContent::Slices(slices) => {
                        for slice in slices {
                            line(format!(
                                "{head} slice base {} {{{}}} {}",
                                slice.base.as_ref().map_or("-".into(), &model),
                                show_settings(&slice.settings),
                                sources(&slice.sources)
                            ));
                        }
                    }
                }
            }
        }
        Body::Rules(rules) => {
            for rule in rules {
                let patterns: Vec<&str> = rule.tensors.iter().map(|p| p.value.as_str()).collect();
                let action = match &rule.action {
                    Action::Keep(id) => format!("keep {}", model(id)),
                    Action::Drop => "drop".into(),
                    Action::Merge {
                        method,
                        inline_method,
                        base,
                        reference,
                        experts,
                        settings,
                        out_dtype,
                    } => {
                        format!(
                            "merge {} {} base {}{} experts {} {{{}}} {}",
                            text(method),
                            inline_method.as_ref().map_or(String::new(), |m| show_method(m)),
                            base.as_ref().map_or("-".into(), &model),
                            reference
                                .as_ref()
                                .map_or(String::new(), |r| format!(" reference {}", model(r))),
                            experts.as_ref().map_or("-".into(), |e| sources(e)),
                            show_settings(settings),
                            text(out_dtype)
                        )
                    }
                };
                line(format!(
                    "rule {patterns:?} {:?}: {action}",
                    rule.layers.as_ref().map(|l| l.value)
                ));
            }
        }
    }
    out
}

fn show_method(method: &crate::Method) -> String {
    let parameters: Vec<_> = method
        .parameters
        .iter()
        .map(|p| format!("{} {:?} = {:?}", p.name.value, p.kind, p.default))
        .collect();
    let steps: Vec<_> =
        method.steps.iter().map(|s| format!("{}: {}", s.name.value, s.expression)).collect();
    format!("{:?} {:?} {parameters:?} {steps:?} -> {}", method.base, method.experts, method.output)
}

fn show_settings(settings: &Settings) -> String {
    settings
        .0
        .iter()
        .map(|s| format!("{}={}", s.name.value, show_setting(&s.setting)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn show_setting(setting: &Setting) -> String {
    let scalar = |scalar: &Spanned<Scalar>| match &scalar.value {
        Scalar::Boolean(value) => value.to_string(),
        Scalar::Number(value) => value.to_string(),
        Scalar::Text(value) => format!("{value:?}"),
    };
    match setting {
        Setting::Scalar(value) => scalar(value),
        Setting::Gradient(knots) => {
            format!("[{}]", knots.iter().map(scalar).collect::<Vec<_>>().join(" "))
        }
        Setting::Conditional(conditions) => conditions
            .iter()
            .map(|c| {
                format!(
                    "{}?{}",
                    c.filter.as_ref().map_or("*", |f| &f.value),
                    show_setting(&c.value)
                )
            })
            .collect::<Vec<_>>()
            .join("|"),
    }
}

#[test]
fn mergekit_forms() {
    check("mergekit_forms", &[
        "
models:
  - model: models/a
    parameters: {weight: 0.5, density: [0.1, 1e-3]}
  - model: 007
merge_method: ties
base_model: models/base@main
parameters: {normalize: yes, t: [{filter: mlp, value: [0, 1]}, {value: 0.5}], x: {filter: q, value: on}}
dtype: float32
out_dtype: bfloat16
",
        "
slices:
  - sources: &s
      - {model: a, layer_range: [0, 16]}
      - {model: b+lora@x, layer_range: [8, 24], parameters: {weight: 1}}
    base_model: a
    parameters: {t: 0.3}
  - sources:
      - {model: {model: {path: 'c+d', revision: r}, lora: e, override_architecture: F}, layer_range: [32, 32]}
models: []
merge_method: slerp
",
        "
modules:
  text: {models: [{model: a}], parameters: {t: 1}}
  vision: {slices: [{sources: [{model: a, layer_range: [0, 2]}]}]}
merge_method: passthrough
base_model: null
tokenizer:
  source: a
  pad_to_multiple_of: 64
  tokens:
    <x>: {source: b, force: true}
    <y>: {source: {kind: zero}}
    <z>: {source: {kind: model_token, model: a, token_id: 5}}
    <w>: {source: {kind: model_token, model: a, token: hi}}
    <v>: {}
chat_template: chatml
",
        "
base: &defaults {merge_method: linear, tokenizer_source: union}
<<: *defaults
models: [{model: a, parameters: {weight: []}}]
",
        // Old spellings, and keys without effect.
        "
merge_method: ties
tokenizer_source: model:some/path
embed_slerp: true
dtyp: float16
models:
  - {model: a, weight: 0.3, layer_range: [0, 1], densitiy: 1}
  - {model: b, density: 0.3, parameters: {density: 0.4}}
slices: []
",
        "
merge_method: passthrough
slices: [{sources: [{model: a, layer_range: [0, 1]}], residual_weight: 0.5, foo: 1}]
merge_method: linear
",
    ]);
}

#[test]
fn mergekit_mistakes() {
    check("mergekit_mistakes", &[
        "[1, 2]",
        "merge_metod: ties\nmodels: [{model: a}]\n",
        "merge_method: ties\n",
        "merge_method: ties\nmodels: [{model: a}]\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n",
        "
merge_method: ties
models:
  - {parameters: {weight: 1}}
  - {model: a+b+c}
  - {model: a@b@c}
  - {model: '@x'}
  - {model: {path: x}}
  - {model: {lora: x}}
  - {model: [x]}
  - just text
",
        "
merge_method: linear
models: [{model: a}]
parameters:
  a: null
  b: [[1]]
  c: [1, {value: 2}]
  d: [{filter: x}]
  e: {value: []}
  f: {value: {value: 1}}
dtype: [float16]
",
        "
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [4, 2]}, {model: a, layer_range: [-1, 2]}, {model: a, layer_range: 3}]
  - sources: [{model: a, layer_range: [0, 2, 4]}, {model: a, layer_range: [a, b]}, {model: a}]
  - sources: [{model: a, layer_range: [0, 2]}, {model: a, layer_range: [0, 3]}]
  - sources: []
  - parameters: {t: 1}
",
        "merge_method: linear\nmodules: {x: {models: [], slices: []}, y: 1}\n",
        "
merge_method: linear
models: [{model: a}]
tokenizer_source: union
tokenizer: {source: base}
",
        "
merge_method: linear
models: [{model: a}]
tokenizer: {pad_to_multiple_of: 0, tokens: {x: {source: {kind: zer}}, y: {source: {kind: model_token, model: a}}, z: {force: 3}}}
",
        "merge_method: linear\nmodels: [{model: a}]\nrules: []\nseed: 3\n",
    ]);
}

#[test]
fn strict_forms() {
    check(
        "strict_forms",
        &[
            "
mixdown: 1
models:
  base: ./general
  math: {path: ./math, prefix: model., adapter: ./lora@v1, revision: r, parameters: {weight: 0.5}}
  other: {recipe: other.yaml}
base: base
method: ties
parameters: {lambda: 1e-1, word: yes}
seed: 7
shard_size: 2GB
files_from: math
",
            "
mixdown: 1
models: {base: b, math: m, code: {path: c, parameters: {weight: 0.1, density: 0.2}}}
base: base
method: ties
rules:
  - tensors: 'lm_head.*'
    keep: math
  - tensors: ['**.visual.**', 'model.layers.{i}.{q,k}_proj.weight']
    drop: true
  - layers: [0, 8]
    experts: [math]
  - tensors: '**.mlp.*'
    method: linear
    base: math
    experts: {code: {parameters: {weight: 0.9}}, math: }
    out_dtype: float32
  - parameters: {density: 0.5}
",
            "
mixdown: 1
declare:
  strength: {type: fraction, default: 0.7, doc: How much., per: merge}
  path: ./m
  unused: true
models: {base: b, math: $path, odd: $$path}
base: base
steps:
  delta: experts - base
  all: >-
    sum(
      delta)
output: base + strength * all
parameters: {strength: $strength}
",
            "
mixdown: 1
models: [{model: a}, {model: b, parameters: {weight: 1}}]
merge_method: linear
base_model: a
",
            "
mixdown: 1
declare: {k: 2}
models: {a: a, b: b}
rules:
  - tensors: x
    declare: {w: {per: expert, type: real, default: 1}}
    steps: {m: mean(experts * w) * k}
    output: m
  - output: mean(experts)
    inputs: {experts: {exactly: 2}}
",
            "
mixdown: 1
models: {a: a}
method: passthrough
slices: [{sources: [{model: a, layer_range: [0, 2]}]}]
tokenizer_source: a
",
        ],
    );
}

#[test]
fn what_goes_with_models() {
    check(
        "what_goes_with_models",
        &[
            "
models:
  - {model: ./a, importance: ./fisher-a.safetensors, gram: {path: org/gram-a, revision: v1}}
  - {model: ./b, importance: ./fisher-b.safetensors@main}
  - {model: ./c, importance: ./fisher-b.safetensors@main, gram: ./c}
merge_method: fisher
base_model: ./base
reference: ./instruct
",
            "
slices: [{sources: [{model: a, layer_range: [0, 2], gram: g}, {model: b, layer_range: [2, 4]}]}]
merge_method: regmean
reference: {model: {path: b}}
",
            "
mixdown: 1
models:
  instruct: ./instruct
  a: {path: ./a, importance: ./fisher-a.safetensors, parameters: {weight: 1}}
  b: {recipe: b.yaml, importance: ./fisher-b.safetensors, gram: ./gram-b}
reference: instruct
method: fisher
",
            "
mixdown: 1
models: {base: x, instruct: i, other: o, a: {path: ./a, gram: ./gram-a}, b: ./b}
base: base
reference: instruct
rules:
  - {tensors: x, method: lata, reference: other}
  - {method: regmean, experts: {a: , b: {gram: ./gram-b, importance: ./i}}}
  - {method: regmean, experts: [a]}
",
            "
mixdown: 1
models: {a: {path: a, importance: [], gram: {pth: x}}, fisher: b, c: {importance: x}}
method: fisher
reference: ./fisher
",
            "
mixdown: 1
models: {a: a, b: b}
importance: x
rules:
  - {keep: a, reference: b}
  - {method: regmean, experts: {a: {gramm: x, gram: a@b@c}}, reference: bb}
  - {method: regmean, gram: x}
",
            "
models: [{model: a, importance: a@b@c, grams: x}, {model: b, gram: {revision: x}}]
merge_method: fisher
reference: [b]
importance: x
",
        ],
    );
}

/// Models that are merged where a recipe does not say which.
#[test]
fn what_goes_with_models_is_not_merged() {
    let merged = |text: &str| {
        let recipe = read(&Source::new("r.yaml", text), &[]).unwrap();
        let name = |id: &ModelId| recipe.models[id.0 as usize].name.clone();
        recipe.merged().iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let models = "mixdown: 1\nmodels: {i: i, a: {path: a, importance: f}, b: {path: b, gram: g}}\n";
    let check =
        |rest: &str, expected: &str| assert_eq!(merged(&format!("{models}{rest}")), expected);
    check("method: linear\n", "i a b");
    check("method: linear\nreference: i\n", "a b");
    check("method: linear\nreference: i\nbase: i\n", "i a b");
    check("rules: [{method: linear, reference: i}]\n", "a b");
    check("rules: [{keep: i, tensors: x}, {method: linear, reference: i}]\n", "i a b");
    let slices = "[{sources: [{model: i, layer_range: [0, 1]}]}]";
    check(&format!("method: linear\nreference: i\nslices: {slices}\n"), "i a b");
}

#[test]
fn strict_mistakes() {
    check(
        "strict_mistakes",
        &[
            "mixdown: 2\nmodels: {a: b}\nmethod: linear\n",
            "mixdown: 1\nmodles: {a: b}\nmetod: linear\nlambda: 3\n",
            "mixdown: 1\nmodels: {a: b}\nbase: x\nmethod:\nfiles_from: aa\n",
            "mixdown: 1\nmodels: {a: b, a: c}\nmethod: linear\n",
            "
mixdown: 1
models: {math: {path: x, recipe: y}, code: {revision: z}, c: {path: p, adaptor: q}}
method: linear
merge_method: ties
base: maths
shard_size: 5 apples
seed: -1
",
            "
mixdown: 1
models: {a: x, b: y}
rules:
  - {tensors: 'a[', keep: a}
  - {tensors: [], keep: a}
  - {keep: a, drop: true}
  - {keep: a, parameters: {t: 1}}
  - {drop: false}
  - {tensors: x}
  - {method: linear, output: base}
  - {keep: c}
  - {method: linear, experts: []}
  - {method: linear, experts: {c: }}
  - {keep: a, layers: [3, 1]}
  - {tensor: x, keep: a}
  - {declare: {x: 1}, method: linear}
",
            "
mixdown: 1
declare: {strength: 0.5, t: {type: real}, bad: {type: fraction, default: 20}, odd name: 1, n: 1}
models: {a: $strenght, b: y}
method: linear
parameters: {t: $t, x: $nothing_like_it}
",
            "
mixdown: 1
models: {a: x}
steps:
  delta: experts - base
  sum: \"keep(delta, 'a' ,, 2)\"
  base: 1
  x y: 1
output: >-
  base +
  * 2
method: linear
",
            "mixdown: 1\nmodels: {a: x}\nsteps: {d: experts}\n",
            "mixdown: 1\nmodels: {a: x}\nrules: [{keep: a}]\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n",
            "mixdown: 1\nmodels: {a: x}\nmethod: linear\nparameters: {w: []}\n",
        ],
    );
}

#[test]
fn a_substituted_value_is_reported_where_it_is_used() {
    let text = "mixdown: 1\ndeclare: {n1: [1]}\nmodels: {a: b}\nmethod: linear\ndtype: $n1\n";
    assert!(report(text).contains("r.yaml:5:8"), "{}", report(text));
}

#[test]
fn every_published_configuration_of_the_suite_s_kind_decodes() {
    // The shapes of configurations that people publish most.
    let text = "slices:\n  - sources:\n      - model: a/b\n        layer_range: [0, 32]\n      - model: c/d\n        layer_range: [0, 32]\nmerge_method: slerp\nbase_model: a/b\nparameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n    - value: 0.5\ndtype: bfloat16\n";
    assert!(read(&Source::new("r", text), &[]).unwrap().warnings.is_empty());
}

#[test]
fn a_file_of_nothing_but_mistakes_ends_quickly() {
    let keys: String = (0..20_000).map(|i| format!("key{i}: 1\n")).collect();
    let strict = read(&Source::new("r", format!("mixdown: 1\n{keys}")), &[]).unwrap_err();
    assert!((200..220).contains(&strict.len()), "{}", strict.len());
    // Warnings do not crowd out the errors.
    let mergekit = read(&Source::new("r", keys), &[]).unwrap_err();
    assert_eq!(mergekit.iter().filter(|diagnostic| diagnostic.is_error()).count(), 2);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let text = "\u{feff}merge_method: linear\r\nmodels:\r\n  - model: a\r\n";
    assert_eq!(read(&Source::new("r", text), &[]).unwrap().models[0].name, "a");
}
