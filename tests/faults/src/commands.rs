//! The commands that meet faults, each in a small world of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mixdown_kit::{Space, adapter, checkpoint, mixdown};

/// A command and the world in which it has not run yet.
pub struct Case {
    /// What figures call it.
    pub name: &'static str,
    /// What is typed.
    pub arguments: Vec<String>,
    /// The folder that it makes, if it makes one.
    pub output: Option<&'static str>,
    /// How much of its folder appears at once.
    pub whole: Whole,
    world: Space,
}

/// What of an output is either there as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// All of it.
    Folder,
    /// Each folder in it.
    EachFolder,
    /// Each file in it.
    EachFile,
}

impl Case {
    /// A copy of the world.
    pub fn space(&self) -> Space {
        let space = Space::new();
        copy(self.world.root(), space.root()).expect("a small folder can be copied");
        space
    }
}

/// Copies a folder with all it holds and its permissions.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

const RECIPES: [(&str, &str); 10] = [
    (
        "linear.yaml",
        "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 0.25}}\n  \
         - {model: b, parameters: {weight: 0.75}}\n",
    ),
    ("tsv.yaml", "merge_method: tsv\nbase_model: base\nmodels:\n  - {model: a}\n  - {model: b}\n"),
    (
        "slerp.yaml",
        "merge_method: slerp\nbase_model: base\nmodels:\n  - model: a\nparameters: {t: 0.5}\n",
    ),
    (
        "union.yaml",
        "merge_method: linear\ntokenizer_source: union\nmodels:\n  - {model: words, parameters: {weight: \
         0.5}}\n  - {model: others, parameters: {weight: 0.5}}\n",
    ),
    (
        "adapter.yaml",
        "merge_method: linear\nmodels:\n  - {model: base+lora, parameters: {weight: 1.0}}\n",
    ),
    (
        "factors.yaml",
        "mixdown: 1\nmodels: {base: base, a: a}\nbase: base\noutput: {as: adapter, rank: 2}\nrules:\n  \
         - {tensors: \"**.q_proj.weight\", method: task_arithmetic, experts: [a], parameters: {weight: 0.5}}\n  \
         - {tensors: \"**\", keep: base}\n",
    ),
    (
        "map.yaml",
        "mixdown: 1\nmodels:\n  s: {path: source, map: {name: maps/own.yaml, target: t}}\n  t: target\n\
         base: t\nrules:\n  - {tensors: \"**\", method: linear, experts: [s, t], parameters: {weight: 0.5}}\n",
    ),
    (
        "moe.yaml",
        "base_model: base\ngate_mode: random\nexperts:\n  - source_model: a\n  - source_model: b\n",
    ),
    (
        "packed.yaml",
        "merge_method: linear\nmodels:\n  - {model: packed, parameters: {weight: 1.0}}\n",
    ),
    (
        "torch.yaml",
        "merge_method: linear\nmodels:\n  - {model: torch, parameters: {weight: 1.0}}\n",
    ),
];

const MAP: &str = "mixdown_map: 1\nname: own\ntarget: any\nsource: any\nrules:\n  - {to: \"{**rest}\", from: \"{**rest}\"}\n";

/// Answers each prompt by the value.
const ANSWERS: &str = r#"while read -r line; do
    id=${line#*'"id":"'}
    id=${id%%'"'*}
    echo "{\"id\":\"$id\",\"text\":\"$MIXDOWN_ALPHA\",\"finish_reason\":\"stop\"}"
done < "$1" > "$2"
"#;
const SEARCH: &str = "search: 1\ngrid: {parameters.t: {from: 0.0, to: 0.5, step: 0.25}}\nprompts: \
                      prompts.jsonl\ngenerator:\n  command:\n    argv: [sh, answer.sh, '{prompts}', '{out}', \
                      '{model_dir}']\n";
const PROMPTS: &str = "{\"id\":\"p0\",\"messages\":[{\"role\":\"user\",\"content\":\"0?\"}]}\n\
                       {\"id\":\"p1\",\"messages\":[{\"role\":\"user\",\"content\":\"1?\"}]}\n";

/// Everything that commands need.
fn world() -> Space {
    let space = Space::new();
    checkpoint::family(&space);
    for name in ["target", "source"] {
        checkpoint(name).layers(1).write(&space);
    }
    checkpoint("words").words(&["a", "b", "ab"]).write(&space);
    checkpoint("others").words(&["b", "c", "bc"]).write(&space);
    adapter("lora", 2).module("model.layers.0.self_attn.q_proj", 2, [16, 16]).write(&space);
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats");
    let put = |from: &str, to: &str| {
        space.write(to, fs::read(formats.join(from)).expect("the file is in the repository"));
    };
    put("quantized/gguf_llama_q8/model.gguf", "model.gguf");
    put("quantized/gptq_v1_4bit_sym/config.json", "packed/config.json");
    put("quantized/gptq_v1_4bit_sym/model.safetensors", "packed/model.safetensors");
    put("torch/bf16.bin", "torch/pytorch_model.bin");
    for (name, text) in RECIPES {
        space.write(name, text);
    }
    for (name, text) in [
        ("maps/own.yaml", MAP),
        ("answer.sh", ANSWERS),
        ("in/search.yaml", SEARCH),
        ("in/prompts.jsonl", PROMPTS),
    ] {
        space.write(name, text);
    }
    space
}

/// All commands that read or write files.
pub fn all() -> Vec<Case> {
    let nothing = |_: &Space| {};
    let merged = |space: &Space| {
        mixdown(space, ["merge", "linear.yaml", "--out", "there"]).success();
    };
    let kept = |space: &Space| {
        mixdown(space, ["merge", "tsv.yaml", "--out", "there"]).success();
    };
    let in_parts = |space: &Space| {
        for part in ["1/2", "2/2"] {
            mixdown(space, ["merge", "linear.yaml", "--out", "out", "--part", part]).success();
        }
    };
    let interrupted = |space: &Space| {
        // What a killed run leaves: the journal of some tensors.
        let moment = [("SHIM_CALL", "pwrite64"), ("SHIM_N", "15"), ("SHIM_ERR", "KILL")];
        let Some(shim) = crate::shim::Shim::build() else { return };
        shim.run_with(space, &["merge", "linear.yaml", "--out", "out"].map(str::to_owned), &moment);
    };
    let folder = |space: &Space| {
        fs::create_dir(space.path("out")).expect("a folder can be made");
    };
    let template = world();
    let case = |name, line: &str, output, prepare: &dyn Fn(&Space)| {
        let world = Space::new();
        copy(template.root(), world.root()).expect("a small folder can be copied");
        prepare(&world);
        let arguments = line.split(' ').map(str::to_owned).collect();
        Case { name, arguments, output, whole: Whole::Folder, world }
    };
    let parts = |whole, case: Case| Case { whole, ..case };
    vec![
        case("merge", "merge linear.yaml --out out", Some("out"), &nothing),
        case("merge --force", "merge linear.yaml --out there --force", Some("there"), &merged),
        case("merge again", "merge linear.yaml --out out", Some("out"), &interrupted),
        case(
            "merge below",
            "merge slerp.yaml --out new/folders/out",
            Some("new/folders/out"),
            &nothing,
        ),
        case("merge tsv", "merge tsv.yaml --out out --report told.json", Some("out"), &nothing),
        case("merge kept", "merge tsv.yaml --out out", Some("out"), &kept),
        case("merge union", "merge union.yaml --out out --shard-size 2kB", Some("out"), &nothing),
        case("merge adapter", "merge adapter.yaml --out out --hash-inputs", Some("out"), &nothing),
        case("merge to adapter", "merge factors.yaml --out out", Some("out"), &nothing),
        case("merge map", "merge map.yaml --out out", Some("out"), &nothing),
        case("merge packed", "merge packed.yaml --out out", Some("out"), &nothing),
        case("merge torch", "merge torch.yaml --out out", Some("out"), &nothing),
        parts(
            Whole::EachFolder,
            case("sweep", "merge tsv.yaml --sweep lambda=0.5,1.0 --out out", Some("out"), &nothing),
        ),
        parts(
            Whole::EachFolder,
            case(
                "sweep --no-cache",
                "merge tsv.yaml --sweep lambda=0.5,1.0 --out out --no-cache",
                Some("out"),
                &nothing,
            ),
        ),
        case(
            "search",
            "search slerp.yaml --with in/search.yaml --out found",
            Some("found/merged"),
            &nothing,
        ),
        case("extract", "extract a base --rank 2 --out out", Some("out"), &nothing),
        case("fuse", "fuse base lora --out out", Some("out"), &nothing),
        case("convert", "convert a --to q8_0 --as gguf --out out", Some("out"), &nothing),
        case(
            "convert form",
            "convert a --to f16 --out out --shard-size 2kB",
            Some("out"),
            &nothing,
        ),
        case(
            "transplant",
            "transplant words others --method mean --out out",
            Some("out"),
            &nothing,
        ),
        case("merge moe", "merge moe.yaml --out out", Some("out"), &nothing),
        case(
            "merge part",
            "merge linear.yaml --out out --part 1/2",
            Some("out/part-00001-of-00002"),
            &nothing,
        ),
        case("assemble", "assemble out", Some("out"), &in_parts),
        case("mergekit-yaml", "mergekit-yaml linear.yaml out", Some("out"), &nothing),
        parts(Whole::EachFile, case("schemas", "schemas out", Some("out"), &folder)),
        parts(Whole::EachFile, case("man", "man out", Some("out"), &folder)),
        case("check", "check tsv.yaml", None, &nothing),
        case("plan", "plan tsv.yaml", None, &nothing),
        case("explain", "explain linear.yaml model.norm.weight", None, &nothing),
        case("inspect", "inspect a", None, &nothing),
        case("inspect gguf", "inspect model.gguf", None, &nothing),
        case("inspect adapter", "inspect lora", None, &nothing),
        case("survey", "survey a b", None, &nothing),
        case("diff", "diff a b", None, &nothing),
        case("verify", "verify there", None, &merged),
        case("methods", "methods ties --beside linear.yaml", None, &nothing),
        case("map list", "map list --beside map.yaml", None, &nothing),
        case("map check", "map check maps/own.yaml target source", None, &nothing),
        case("cache list", "cache list", None, &kept),
        case("cache prune", "cache prune --max-size 1B", None, &kept),
        case("devices", "devices", None, &nothing),
        case("completions", "completions bash", None, &nothing),
    ]
}

/// What a command's hidden folder is called.
pub fn hidden(output: &str) -> PathBuf {
    let path = Path::new(output);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.mixdown-partial"))
}
