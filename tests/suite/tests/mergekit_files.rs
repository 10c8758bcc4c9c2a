//! Forms of mergekit's files beside plain merges: chat templates, files of several documents, layer ranges as
//! people write them, and methods that a recipe does not use.

use mixdown_kit::{Program, Space, checkpoint, read_checkpoint};
use mixdown_suite::{family, merge, merged, program, refusal};

const LINEAR: &str = "merge_method: linear
models:
  - {model: ./a, parameters: {weight: 0.5}}
  - {model: ./b, parameters: {weight: 0.5}}
dtype: float32
";

const STRICT: &str = "mixdown: 1
models: {a: ./a, b: ./b}
rules: [{method: linear, parameters: {weight: 0.5}}]
dtype: float32
";

/// The family with a tokenizer, and templates in `a` and `b`.
fn with_templates(of_a: &str, of_b: &str) -> Space {
    let space = family();
    for (model, template) in [("base", ""), ("a", of_a), ("b", of_b), ("c", "")] {
        let template = match template {
            "" => String::new(),
            text => format!(", \"chat_template\": \"{text}\""),
        };
        let config = format!("{{\"bos_token\": \"<s>\"{template}}}");
        space.write(format!("{model}/tokenizer_config.json"), config);
        // The family's own.
        let _ = std::fs::remove_file(space.path(format!("{model}/chat_template.jinja")));
        if !space.exists(format!("{model}/tokenizer.json")) {
            space.write(format!("{model}/tokenizer.json"), "{\"model\": {\"vocab\": {\"a\": 0}}}");
        }
    }
    space
}

fn template(space: &Space) -> String {
    space.read_text("merged/chat_template.jinja")
}

#[test]
fn a_chat_template_is_written_in_both_forms() {
    for recipe in [LINEAR, STRICT] {
        let space = with_templates("old {{ messages }}", "");
        space.write("a/chat_template.json", "{\"chat_template\": \"older\"}");
        space.write("a/additional_chat_templates/tool.jinja", "{{ tools }}");
        let text = "{% for m in messages %}{{ m.content }}{% endfor %}";
        merge(&space, &format!("{recipe}chat_template: \"{text}\"\n"), &[]).success();
        assert_eq!(template(&space), text);
        // Nothing is left that could be read in its place.
        let config = space.read_text("merged/tokenizer_config.json");
        assert!(!config.contains("chat_template") && config.contains("<s>"), "{config}");
        let files = space.files_under("merged");
        let others = files.iter().filter(|(name, _)| name.contains("chat_template"));
        assert_eq!(others.count(), 1);
    }
}

#[test]
fn a_chat_template_can_be_named() {
    let space = with_templates("", "");
    merge(&space, &format!("{LINEAR}chat_template: chatml\n"), &[]).success();
    assert!(template(&space).contains("<|im_start|>"));
}

#[test]
fn the_most_common_chat_template_is_chosen() {
    let space = with_templates("one", "two");
    space.write("c/chat_template.jinja", "two\n");
    let third = LINEAR.replace("dtype", "  - {model: ./c, parameters: {weight: 1}}\ndtype");
    merge(&space, &format!("{third}chat_template: auto\n"), &[]).success();
    assert_eq!(template(&space), "two");
    // Of equally many that of the first model.
    let space = with_templates("one", "two");
    merge(&space, &format!("{LINEAR}chat_template: auto\n"), &[]).success();
    assert_eq!(template(&space), "one");
}

#[test]
fn without_a_template_the_models_own_stays_and_the_user_is_told() {
    let space = with_templates("", "");
    let outcome = merge(&space, &format!("{LINEAR}chat_template: auto\n"), &[]).success();
    assert!(outcome.stderr.contains("W0632"), "{}", outcome.stderr);
    assert!(!space.exists("merged/chat_template.jinja"));
}

#[test]
fn templates_that_cannot_be_understood_are_refused() {
    for (text, words) in [
        ("chatlm", "did you mean `chatml`?"),
        ("my own", "there is no chat template `my own`"),
        ("'{% for m in messages %}{{ m }}'", "`{% endfor %}`"),
    ] {
        let space = with_templates("", "");
        let outcome = merge(&space, &format!("{LINEAR}chat_template: {text}\n"), &[]).exits(2);
        assert!(
            outcome.stderr.contains("E0223") && outcome.stderr.contains(words),
            "{}",
            outcome.stderr
        );
    }
}

/// Each stage written by itself gives what the file of stages gives.
#[test]
fn a_file_of_several_documents_is_one_merge() {
    let space = family();
    let first = "name: core\nmerge_method: linear
models: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: 3}}]
dtype: bfloat16\n";
    let second = "name: second\nmerge_method: slerp\nbase_model: core
models: [{model: ./c}]\nparameters: {t: 0.25}\ndtype: float32\n";
    let third = "merge_method: passthrough\nslices:
  - sources: [{model: ./a, layer_range: [0, 1]}]
  - sources: [{model: second, layer_range: [1, 2]}]\ndtype: float32\n";
    let whole = merged(&space, &format!("{second}---\n{third}---\n{first}"));
    for (name, recipe) in [("core", first), ("second", second), ("third", third)] {
        let recipe = recipe.replace("base_model: core", "base_model: ./core");
        let recipe = recipe.replace("model: second", "model: ./second");
        space.write(format!("{name}.yaml"), recipe);
        let file = format!("{name}.yaml");
        Program::new(&space).args(["merge", &file, "--out", name]).run().success();
    }
    let stages = read_checkpoint(space.path("third"));
    assert_eq!(whole.names(), stages.names());
    for name in whole.names() {
        assert_eq!(whole.values(name), stages.values(name), "{name}");
    }
}

#[test]
fn documents_that_make_no_merge_are_refused() {
    let named = |name: &str, model: &str| {
        format!("name: {name}\nmerge_method: passthrough\nmodels: [{{model: {model}}}]\n")
    };
    for (text, words) in [
        (format!("{}---\n{}", named("x", "y"), named("y", "x")), "circle"),
        (
            format!("{}---\n{}", named("x", "./a"), named("x", "./b")),
            "two documents are called `x`",
        ),
        (format!("{}---\n{}", named("x", "./a"), named("y", "./b")), "2 documents could be"),
        (format!("{LINEAR}---\n{LINEAR}"), "two documents have no name"),
        (format!("{STRICT}---\n{LINEAR}name: x\n"), "a strict recipe is a file of its own"),
    ] {
        let space = family();
        let outcome = merge(&space, &text, &[]).exits(2);
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
    // A stage that nothing uses is told of.
    let space = family();
    let outcome = merge(&space, &format!("{LINEAR}---\n{}", named("x", "./a")), &[]).success();
    assert!(outcome.stderr.contains("W0633"), "{}", outcome.stderr);
}

#[test]
fn layer_ranges_as_people_write_them() {
    let slices = |range: &str| {
        format!(
            "merge_method: passthrough\nslices:
  - sources: [{{model: ./a, layer_range: {range}}}]
  - sources: [{{model: ./b, layer_range: [0, 2]}}]\ndtype: float32\n"
        )
    };
    let plain = merged(&family(), &slices("[0, 1]"));
    let quoted = merged(&family(), &slices("[\"0\", '1']"));
    assert_eq!(plain.names(), quoted.names());
    // A range that ends before it starts has no layers.
    let space = family();
    let outcome = merge(&space, &slices("[1, 0]"), &[]).success();
    assert!(outcome.stderr.contains("has no layers"), "{}", outcome.stderr);
    let reversed = read_checkpoint(space.path("merged"));
    assert_eq!(reversed.names().len() + 9, plain.names().len());
}

/// Two ranges of one model are other tensors.
#[test]
fn one_model_twice_in_a_slice() {
    let space = family();
    let both = merged(
        &space,
        "merge_method: linear\nslices:
  - sources:
      - {model: ./a, layer_range: [0, 1], parameters: {weight: 1}}
      - {model: ./a, layer_range: [1, 2], parameters: {weight: 3}}\ndtype: float64\n",
    );
    let a = read_checkpoint(space.path("a"));
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (first, second) = (a.values(name), a.values(&name.replace(".0.", ".1.")));
    for ((found, first), second) in both.values(name).iter().zip(first).zip(second) {
        assert!((found - (0.25 * first + 0.75 * second)).abs() < 1e-12);
    }
}

#[test]
fn parameters_beside_a_model_have_no_effect() {
    let beside = LINEAR.replace("{model: ./b, ", "{model: ./b, weight: 3.0, ");
    let space = family();
    let outcome = merge(&space, &beside, &[]).success();
    assert!(outcome.stderr.contains("`weight` beside `model` has no effect"), "{}", outcome.stderr);
    let without = merged(&family(), LINEAR);
    let found = read_checkpoint(space.path("merged"));
    let name = "model.norm.weight";
    assert_eq!(found.values(name), without.values(name));
}

const METHOD: &str = "method: own\ntitle: t\nsource: s\nsummary: s
inputs: {base: required, experts: {at_least: 1}}\n";

#[test]
fn a_method_with_mistakes_stops_those_that_use_it() {
    let space = family();
    space.write(
        "methods/own.yaml",
        format!("{METHOD}steps: {{x: nosuch(experts)}}\noutput: base\n"),
    );
    let outcome = merge(&space, LINEAR, &[]).success();
    assert!(outcome.stderr.contains("W0631"), "{}", outcome.stderr);
    let used = "merge_method: own\nbase_model: ./base\nmodels: [{model: ./a}]\n";
    let outcome = Program::new(&space);
    space.write("used.yaml", used);
    let outcome = outcome.args(["check", "used.yaml"]).run().exits(2);
    assert!(outcome.stderr.contains("there is no function `nosuch`"), "{}", outcome.stderr);
}

/// What differs from element to element is no scalar, whatever it is chosen from.
#[test]
fn choices_between_numbers_are_numbers() {
    for (output, is_fine) in [
        (
            "base + sum(keep_random(experts - base, where(abs(experts - base) > 1e-3, 0.9, 0.1)))",
            true,
        ),
        ("base + sum(keep_largest(experts - base, where(base > 0, 0.9, 0.1)))", false),
        ("base + sum(keep_largest(experts - base, clamp(0.5, 0, abs(base))))", false),
        ("base + sum(keep_count(experts - base, where(base > 0, 1, 2)))", false),
        ("base + norm(where(base > 0, 1, 2)) * sum(experts - base)", true),
    ] {
        let space = family();
        space.write("methods/own.yaml", format!("{METHOD}output: \"{output}\"\n"));
        let used = "merge_method: own\nbase_model: ./base\nmodels: [{model: ./a}]\n";
        let outcome = merge(&space, used, &[]);
        let outcome = outcome.exits(if is_fine { 0 } else { 2 });
        assert!(is_fine || outcome.stderr.contains("E0213"), "{output}: {}", outcome.stderr);
    }
}

#[test]
fn the_arguments_of_mergekit_yaml_are_understood() {
    let space = family();
    space.write("config.yml", LINEAR);
    let run =
        |words: &[&str]| Program::new(&space).args([&["mergekit-yaml"], words].concat()).run();
    let told =
        run(&["--lazy-unpickle", "config.yml", "out", "--cuda", "-v", "--out-shard-size", "1B"]);
    assert_eq!(told.status, Some(0), "{}", told.stderr);
    assert!(told.stderr.contains("W0634") && told.stderr.contains("`--cuda` has no effect"));
    let (ours, plain) = (read_checkpoint(space.path("out")), merged(&space, LINEAR));
    for name in plain.names() {
        assert_eq!(ours.values(name), plain.values(name), "{name}");
    }
    // As mergekit does, an earlier result is written anew; what is none stays.
    assert_eq!(run(&["config.yml", "out"]).status, Some(0));
    space.write("out/eval/results.json", "{}");
    let refused = run(&["config.yml", "out"]);
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("E0502") && refused.stderr.contains("eval"),
        "{}",
        refused.stderr
    );
    assert_eq!(space.read_text("out/eval/results.json"), "{}");
    space.write("notes/letter.txt", "dear");
    let refused = run(&["config.yml", "notes"]);
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert_eq!(space.read_text("notes/letter.txt"), "dear");
    let wrong = run(&["config.yml", "out2", "--lazy-unpickel", "--random-seed", "x"]);
    assert_eq!(wrong.status, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("did you mean `--lazy-unpickle`?"));
    assert!(wrong.stderr.contains("`--random-seed` is a whole number"));
}

#[test]
fn models_of_different_architectures_need_allow_crimes() {
    let space = family();
    let config = space.read_text("b/config.json").replace("LlamaForCausalLM", "OtherForCausalLM");
    space.write("b/config.json", config);
    space.write("config.yml", LINEAR);
    let run = |words: &[&str]| {
        Program::new(&space).args([&["mergekit-yaml", "config.yml"], words].concat()).run()
    };
    let refused = run(&["out"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("E0257") && refused.stderr.contains("OtherForCausalLM"));
    assert!(!space.exists("out"));
    assert_eq!(run(&["out", "--allow-crimes"]).status, Some(0));
}

#[test]
fn the_seed_of_a_configuration_decides_random_draws() {
    let space = family();
    let dare = "merge_method: dare_linear
base_model: ./base
models: [{model: ./a, parameters: {weight: 1.0, density: 0.5}}]
dtype: float32
";
    let values = |seed: &str| {
        space.write("recipe.yaml", format!("{dare}{seed}"));
        program(&space, &["--force"]).run().success();
        read_checkpoint(space.path("merged")).values("model.layers.0.mlp.up_proj.weight")
    };
    let (none, zero, seven) = (values(""), values("random_seed: 0\n"), values("random_seed: 7\n"));
    assert_eq!(none, zero);
    assert_ne!(none, seven);
}

/// What a file of another of mergekit's programs is, is said.
#[test]
fn files_of_other_programs_are_named() {
    let space = family();
    let evolve = "genome:\n  models: [./a, ./b]\n  merge_method: ties\n  base_model: ./base\n\
                  tasks: [{name: mine}]\n";
    let outcome = merge(&space, evolve, &[]).exits(2);
    for part in ["E0225", "mergekit-evolve", "mixdown search", "models[0].parameters.density"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
    let layers = "layer_slices: [{model: ./a, start: 0, end: 1}]\n";
    let outcome = merge(&space, layers, &[]).exits(2);
    assert!(outcome.stderr.contains("bakllama"), "{}", outcome.stderr);
}

#[test]
fn templates_that_jinja_cannot_read_are_refused() {
    for (template, words) in [
        ("{% for m on messages %}{{ m }}{% endfor %}", "`in` before `on messages`"),
        ("{{ messages[0].content | }}", "the name of a filter"),
        ("{{ messages[0].content + }}", "a value at the end"),
        ("{% if messages is %}x{% endif %}", "the name of a test"),
    ] {
        let outcome =
            merge(&family(), &format!("{LINEAR}chat_template: \"{template}\"\n"), &[]).exits(2);
        assert!(outcome.stderr.contains(words), "{template}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains("E0223"), "{}", outcome.stderr);
    }
}

/// The family with tokenizers of five tokens, fewer than the embedding has rows.
fn with_tokens() -> Space {
    let space = family();
    for model in ["base", "a", "b", "c"] {
        let vocabulary = r#"{"<s>": 0, "t": 1, "h": 2, "e": 3, "th": 4}"#;
        space.write(
            format!("{model}/tokenizer.json"),
            format!(
                r#"{{"version": "1.0", "added_tokens": [], "model": {{"type": "BPE", "vocab": {vocabulary}, "merges": ["t h"]}}}}"#
            ),
        );
    }
    space
}

/// A token of another model comes with the merges that make it, and special tokens stay what they are. What the
/// base's merges prevent is an added token, and told.
#[test]
fn tokens_of_a_union_come_with_their_merges() {
    let space = with_tokens();
    let vocabulary =
        r#"{"<s>": 0, "t": 1, "h": 2, "e": 3, "he": 4, "the": 5, "th": 6, "thet": 7, "<x>": 8}"#;
    let merges = r#"["h e", "t he", "t h", ["th", "e"]]"#;
    let special = r#"{"id": 8, "content": "<x>", "special": true}"#;
    let other = |merges: &str| {
        format!(
            r#"{{"version": "1.0", "added_tokens": [{special}], "model": {{"type": "BPE", "vocab": {vocabulary}, "merges": {merges}}}}}"#
        )
    };
    space.write("b/tokenizer.json", other(merges));
    let recipe = format!("{LINEAR}tokenizer_source: union\n");
    let written = || -> serde_json::Value {
        serde_json::from_str(&space.read_text("merged/tokenizer.json")).expect("a tokenizer")
    };
    let outcome = merge(&space, &recipe, &["--force"]).success();
    let tokenizer = written();
    // `thet` has no merge, and stays an added token.
    let merges = serde_json::json!(["t h", "h e", "t he", "th e"]);
    assert_eq!(tokenizer["model"]["merges"], merges);
    for (token, id) in [("he", 5), ("the", 6), ("thet", 7), ("<x>", 8)] {
        assert_eq!(tokenizer["model"]["vocab"][token], id, "{token}");
    }
    let added = tokenizer["added_tokens"].as_array().expect("a list");
    let found: Vec<_> = added.iter().map(|one| (&one["content"], &one["special"])).collect();
    assert_eq!(
        format!("{found:?}"),
        r#"[(String("thet"), Bool(false)), (String("<x>"), Bool(true))]"#
    );
    for part in ["W0638", "1 ordinary token", "`thet`"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
    // Where texts come apart otherwise none is imported.
    let lower = other("[\"h e\"]").replacen('{', r#"{"normalizer": {"type": "Lowercase"}, "#, 1);
    space.write("b/tokenizer.json", lower);
    merge(&space, &recipe, &["--force"]).success();
    assert_eq!(written()["model"]["merges"], serde_json::json!(["t h"]));
}

/// Rows behind the tokens are the mean of theirs, also where a model has as many rows as the output.
#[test]
fn padding_is_made_anew() {
    const NAME: &str = "model.embed_tokens.weight";
    let space = with_tokens();
    let shape = read_checkpoint(space.path("a")).tensor(NAME).shape.clone();
    let (rows, columns) = (shape[0] as usize, shape[1] as usize);
    let recipe = format!("{LINEAR}tokenizer: {{source: union, pad_to_multiple_of: {rows}}}\n");
    let merged = merged(&space, &recipe);
    assert_eq!(merged.tensor(NAME).shape, shape);
    let values = merged.values(NAME);
    for column in 0..columns {
        let mean = (0..5).map(|row| values[row * columns + column]).sum::<f64>() / 5.0;
        for row in 5..rows {
            let found = values[row * columns + column];
            assert!((found - mean).abs() < 1e-6, "{row} {column}: {found}, not {mean}");
        }
    }
}

/// A padding of nothing is none, as in mergekit.
#[test]
fn no_padding_is_asked_for_by_zero() {
    let with = |padding: &str| {
        let recipe = format!("{LINEAR}tokenizer: {{source: union{padding}}}\n");
        merged(&with_tokens(), &recipe).tensor("lm_head.weight").clone()
    };
    assert_eq!(with(", pad_to_multiple_of: 0"), with(""));
}

#[test]
fn tokens_that_no_model_has_are_told_at_their_place() {
    for (rule, words) in [
        ("new: {}", "no model that is merged has a token \"new\""),
        ("tho: {source: ./a}", "did you mean \"th\"?"),
        ("x: {source: {kind: model_token, model: ./a, token_id: 999}}", "ids are from 0 to"),
    ] {
        let recipe = format!("{LINEAR}tokenizer: {{source: union, tokens: {{{rule}}}}}\n");
        let outcome = merge(&with_tokens(), &recipe, &[]).exits(2);
        let told = &outcome.stderr;
        assert!(told.contains("E0313") && told.contains(words), "{rule}\n{told}");
        assert!(told.contains("recipe.yaml:6:"), "{rule}\n{told}");
    }
    let zero = "tokenizer: {source: union, tokens: {new: {source: {kind: zero}}}}\n";
    let merged = merged(&with_tokens(), &format!("{LINEAR}{zero}"));
    let values = merged.values("lm_head.weight");
    let columns = merged.tensor("lm_head.weight").shape[1] as usize;
    assert!(values[5 * columns..].iter().all(|&value| value == 0.0));
}

/// Known beforehand or found element by element.
#[test]
fn probabilities_lie_between_0_and_1() {
    let own = |probability: &str| {
        let space = family();
        let steps = format!("steps: {{kept: \"keep_random(experts - base, {probability})\"}}\n");
        space.write("methods/own.yaml", format!("{METHOD}{steps}output: base + sum(kept)\n"));
        space
    };
    let recipe = "merge_method: own\nbase_model: ./base\nmodels: [{model: ./a}]\n";
    let outcome = merge(&own("1.5"), recipe, &[]).exits(2);
    assert!(outcome.stderr.contains("between 0 and 1, found 1.5"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("methods/own.yaml:"), "{}", outcome.stderr);
    let outcome = merge(&own("2 + abs(base)"), recipe, &[]).exits(2);
    assert!(outcome.stderr.contains("a probability lies between 0 and 1"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("element:"), "{}", outcome.stderr);
    merge(&own("clamp(2 + abs(base), 0, 1)"), recipe, &[]).success();
}

/// A sentencepiece model of these pieces.
fn pieces(tokens: &[&str]) -> Vec<u8> {
    let piece = |token: &&str| {
        let text = token.as_bytes();
        let mut message = vec![0x0a, text.len() as u8];
        message.extend(text);
        [vec![0x0a, message.len() as u8], message].concat()
    };
    tokens.iter().flat_map(piece).collect()
}

/// The family with these tokenizers of five tokens, and `a` with one more.
fn without_json(file: &str, content: &[u8]) -> Space {
    let space = with_tokens();
    std::fs::remove_file(space.path("base/tokenizer.json")).unwrap();
    space.write(format!("base/{file}"), content);
    space.write("base/tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
    let of_a = space.read_text("a/tokenizer.json");
    space.write("a/tokenizer.json", of_a.replace("\"th\": 4", "\"th\": 4, \"new\": 5"));
    space
}

const ON_BASE: &str = "merge_method: linear
base_model: ./base
models:
  - {model: ./base, parameters: {weight: 0.5}}
  - {model: ./a, parameters: {weight: 0.5}}
dtype: float32
";

/// Whatever file says which tokens a model has, their rows are the same; the file stays, and new tokens are told
/// beside it.
#[test]
fn tokenizers_in_other_files_are_read() {
    const NAME: &str = "lm_head.weight";
    let ranks = "PHM+ 0\ndA== 1\naA== 2\nZQ== 3\ndGg= 4\n";
    let vocabulary = "{\"<s>\": 0, \"t\": 1, \"h\": 2, \"e\": 3, \"th\": 4}";
    let recipe = format!("{ON_BASE}tokenizer_source: union\n");
    let json = format!(
        "{{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {{\"type\": \"BPE\", \"vocab\": {vocabulary}, \"merges\": []}}}}"
    );
    let wanted = merged(&without_json("tokenizer.json", json.as_bytes()), &recipe);
    assert_eq!(wanted.tensor(NAME).shape[0], 6);
    let pieces = pieces(&["<s>", "t", "h", "e", "th"]);
    for (file, content) in [
        ("tokenizer.model", pieces.as_slice()),
        ("spiece.model", &pieces),
        ("tokenizer.model", ranks.as_bytes()),
        ("own.tiktoken", ranks.as_bytes()),
        ("vocab.json", vocabulary.as_bytes()),
    ] {
        let space = without_json(file, content);
        let found = merged(&space, &recipe);
        assert_eq!(found.values(NAME), wanted.values(NAME), "{file}");
        assert!(!space.exists("merged/tokenizer.json"), "{file}");
        if file != "own.tiktoken" {
            assert_eq!(std::fs::read(space.path(format!("merged/{file}"))).unwrap(), content);
        }
        assert_eq!(space.read_text("merged/added_tokens.json"), "{\n  \"new\": 5\n}\n");
        let config: serde_json::Value =
            serde_json::from_str(&space.read_text("merged/tokenizer_config.json")).unwrap();
        assert_eq!(config["added_tokens_decoder"]["5"]["content"], "new", "{file}");
        assert_eq!(config["bos_token"], "<s>");
    }
}

#[test]
fn what_cannot_be_done_to_other_files_is_told() {
    let many: Vec<String> = (0..200).map(|number| format!("x{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let space = without_json("tokenizer.model", &pieces(&many));
    let outcome = merge(&space, &format!("{ON_BASE}tokenizer_source: base\n"), &[]).exits(2);
    for part in ["E0313", "cannot be taken out", "tokens without a row", "save_pretrained"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
    let space = without_json("tokenizer.model", &pieces(&["t", "h"]));
    let recipe = format!(
        "{}tokenizer_source: ./base\n",
        ON_BASE.replace("base_model: ./base", "base_model: ./a")
    );
    let outcome = merge(&space, &recipe, &[]).exits(2);
    assert!(outcome.stderr.contains("and not the base's"), "{}", outcome.stderr);
    let space = without_json("tokenizer.model", b"no model");
    let outcome = merge(&space, &format!("{ON_BASE}tokenizer_source: base\n"), &[]).exits(2);
    assert!(outcome.stderr.contains("no tokenizer that is read"), "{}", outcome.stderr);
}

/// Each layer is one of the models' at its place, the same ones every time, and with `full_random` anyone's.
#[test]
fn layers_are_shuffled() {
    let space = Space::new();
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        checkpoint(name).layers(6).expert(at as u64 + 1, 0.1).write(&space);
    }
    checkpoint("short").layers(3).write(&space);
    let shuffle = |more: &str| {
        format!(
            "layer_shuffle: [{{model: ./a, weight: 2}}, {{model: ./b}}]\nrandom_seed: 5\n{more}"
        )
    };
    let models = ["a", "b"].map(|name| read_checkpoint(space.path(name)));
    // For each layer the model and the layer that it is.
    let drawn = |recipe: &str| -> Vec<(usize, usize)> {
        merge(&space, recipe, &["--force"]).success();
        let merged = read_checkpoint(space.path("merged"));
        let name = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
        let count = (0..).take_while(|layer| merged.tensors.contains_key(&name(*layer))).count();
        let config: serde_json::Value =
            serde_json::from_str(&space.read_text("merged/config.json")).expect("a config");
        assert_eq!(config["num_hidden_layers"], count);
        let source = |layer| {
            let mut all = (0..2).flat_map(|model| (0..6).map(move |own| (model, own)));
            let own = merged.values(&name(layer));
            all.find(|&(model, own_layer)| models[model].values(&name(own_layer)) == own)
        };
        (0..count).map(|layer| source(layer).expect("a layer of a model")).collect()
    };
    let first = drawn(&shuffle(""));
    assert_eq!(first.len(), 6);
    assert!(first.iter().enumerate().all(|(place, &(_, layer))| place == layer), "{first:?}");
    assert!(first.iter().any(|one| one.0 != first[0].0), "{first:?}");
    assert_eq!(drawn(&shuffle("")), first);
    let any = drawn(&shuffle("full_random: true\n").replace("weight: 2", "weight: 0.5"));
    assert_eq!(any.iter().filter(|one| one.0 == 0).count(), 3, "{any:?}");
    assert_eq!(any.len(), 9);
    let check = |recipe: &str, more: &[&str], parts: &[&str]| {
        let told = refusal(&space, recipe, more, 2);
        for part in parts {
            assert!(told.contains(part), "{part} in\n{told}");
        }
    };
    check(&shuffle("").replace("./b", "./short"), &[], &["E0261", "3 layers", "recipe.yaml:1:"]);
    check("layer_shuffle: []\n", &[], &["E0261", "no model"]);
    check("layer_shuffle: [{model: ./a, weight: 0}]\n", &[], &["E0261", "no model"]);
    check("layer_shuffle: [{model: ./a, weight: -1}]\n", &[], &["a number from 0"]);
    check(&shuffle("").replace("./b", "./none"), &[], &["E0101", "recipe.yaml:1:"]);
    check(&shuffle(""), &["--set", "random_seed=6"], &["E0261", "cannot be set"]);
}
