//! The commands that the complete recipes of `recipes/` begin with, as they are typed there, and each row of the
//! tables of arguments below them: parsed by the program's own parser, and planned against headers of the shapes
//! of the checkpoints that they name.
//!
//! Catches a command that names another file, an option or a value that is no longer there, a row whose arguments
//! do not fit its recipe, and a recipe that does not fit into a machine of 16 GB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mixdown_kit::published::{Published, Weights};
use mixdown_kit::{Program, Space, published, space::copy_folder};
use mixdown_suite::published_shapes::modelcompose;
use mixdown_suite::repository;
use serde_json::Value;

/// What the system of a machine of 16 GB has left for a merge, less the reserve of the default budget.
const MEMORY: &str = "12GB";

/// The folders of recipes that are complete.
const FOLDERS: [&str; 5] = ["adamms", "clip", "modality", "optmerge", "uq_merge"];

/// Which published header has the shapes of a model: beginnings of ids, and of placeholders for one's own.
const SHAPES: [(&str, &str); 28] = [
    ("01-ai/Yi-VL-34B", "yi_vl_34b"),
    ("Lin-Chen/ShareGPT4V-7B", "sharegpt4v_7b"),
    ("MAGAer13/mplug-owl2-llama2-7b", "mplug_owl2_7b"),
    ("OpenGVLab/InternVL2_5-1B", "internvl2_5_1b"),
    ("Qwen/Qwen2-7B", "qwen2_7b"),
    ("Qwen/Qwen2-VL-7B", "qwen2_vl_7b"),
    ("Qwen/Qwen2.5-0.5B", "qwen2_5_0_5b"),
    ("Qwen/Qwen2.5-Coder-0.5B", "qwen2_5_0_5b"),
    ("Qwen/Qwen2.5-VL-32B", "qwen2_5_vl_32b"),
    ("THUDM/cogvlm-chat-hf", "cogvlm_chat"),
    ("allenai/olmOCR-7B", "qwen2_vl_7b"),
    ("cognitivecomputations/dolphin-2.9.2-qwen2-7b", "qwen2_7b"),
    ("erax-ai/EraX-VL-7B", "qwen2_vl_7b"),
    ("hiyouga/Qwen2-VL-7B-Pokemon", "qwen2_vl_7b"),
    ("liuhaotian/llava-v1.5-7b", "llava_v1_5_7b"),
    ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision_qwen2_7b_hf"),
    ("lmms-lab/Qwen2-VL-7B", "qwen2_vl_7b"),
    ("lmms-lab/llava-onevision-qwen2-7b", "llava_onevision_qwen2_7b"),
    ("lmsys/vicuna-7b", "vicuna_7b"),
    ("nyu-visionx/cambrian-34b", "cambrian_34b"),
    ("openai/clip-vit-base-patch32", "clip_vit_b_32"),
    ("org/another-expert-of-qwen2-7b", "qwen2_7b"),
    ("tanganke/clip-vit-base-patch32", "clip_vit_b_32_vision"),
    ("yongxianwei/InternVL2_5-1B", "internvl2_5_1b"),
    ("yongxianwei/Qwen2-VL-7B", "qwen2_vl_7b"),
    // Experts of one's own, at the paths that a command gives.
    ("./", "qwen2_5_vl_32b"),
    ("checkpoints/", ""),
    ("encoders/", ""),
];

/// A recipe with the commands at its head, and the arguments of each row of its table.
struct Headed {
    path: PathBuf,
    commands: Vec<Vec<String>>,
    rows: Vec<Vec<String>>,
}

/// Reads the comment that a recipe begins with.
fn head(path: &Path) -> Headed {
    let text = std::fs::read_to_string(repository().join(path)).unwrap();
    let (mut commands, mut rows) = (Vec::<String>::new(), Vec::new());
    let mut goes_on = false;
    for line in text.lines().map_while(|line| line.strip_prefix('#')) {
        let words = line.trim();
        if goes_on || words.starts_with("mixdown ") && line.starts_with("     ") {
            goes_on = words.ends_with('\\');
            let words = words.trim_end_matches('\\').to_owned();
            match commands.last_mut().filter(|_| !words.starts_with("mixdown ")) {
                Some(command) => *command += &words,
                None => commands.push(words),
            }
        } else if words.starts_with("| ") {
            let quoted: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
            let words = quoted.join(" ");
            if words.starts_with("--") {
                rows.push(words.split_whitespace().map(str::to_owned).collect());
            }
        }
    }
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut commands: Vec<Vec<String>> = commands.into_iter().map(words).collect();
    // `…` stands for what was said before.
    for at in 1..commands.len() {
        if let Some(dots) = commands[at].iter().position(|word| word == "…") {
            let before = commands[at - 1][2..].to_vec();
            commands[at].splice(dots..=dots, before);
        }
    }
    Headed { path: path.to_owned(), commands, rows }
}

/// All recipes of the folders, with the settings of searches among them.
fn recipes() -> Vec<Headed> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let entries = std::fs::read_dir(repository().join("recipes").join(folder)).unwrap();
        let files = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
        let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "yaml"));
        found.extend(files.map(|file| head(&Path::new("recipes").join(folder).join(file))));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// What the program's parser makes of a command: the recipe, and the overrides as they are typed.
fn parsed(command: &[String]) -> (String, String, Vec<String>) {
    let matches = mixdown_cli::command().try_get_matches_from(command);
    let matches = matches.unwrap_or_else(|error| panic!("{}: {error}", command.join(" ")));
    let (name, matches) = matches.subcommand().expect("a command");
    let texts = |id: &str| -> Vec<String> {
        let given = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        given.map(|text| text.to_string_lossy().into_owned()).collect()
    };
    (name.to_owned(), texts("recipe").concat(), texts("set"))
}

/// A space with the recipes, and with a model behind each name that a recipe or a command has.
struct Models {
    space: Space,
    made: BTreeMap<String, ()>,
}

impl Models {
    fn new() -> Self {
        let space = Space::new();
        copy_folder(&repository().join("recipes"), &space.path("recipes"));
        for modality in ["vision", "audio", "video"] {
            modelcompose(&space, modality);
        }
        for encoder in [
            "clip-vit-large-patch14-336/a",
            "BEATs_iter3_plus_AS2M.pt",
            "LanguageBind_Video_merge/a",
        ] {
            space.write(format!("encoders/{encoder}"), "an encoder");
        }
        Self { space, made: BTreeMap::new() }
    }

    /// Makes what the words of a text name.
    fn add(&mut self, text: &str) {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let words = lines.flat_map(|line| line.split([' ', '=', '{', '}', ',', '"']));
        for word in words.filter(|word| word.contains('/')) {
            let Some((_, shape)) = SHAPES.iter().find(|(begin, _)| word.starts_with(begin)) else {
                continue;
            };
            if shape.is_empty() || self.made.insert(word.to_owned(), ()).is_some() {
                continue;
            }
            match word.starts_with("./") {
                true => {
                    let folder = self.space.path(word);
                    std::fs::create_dir_all(&folder).unwrap();
                    Published::read(shape).write(&folder, Weights::Holes).unwrap();
                }
                false => _ = published(&self.space, word, shape),
            }
        }
    }

    /// Plans a recipe with these overrides, and gives how many tensors are merged.
    #[track_caller]
    fn plan(&self, recipe: &str, set: &[String]) -> usize {
        let set = set.iter().flat_map(|set| ["--set", set.as_str()]);
        let arguments: Vec<&str> = ["plan", recipe, "--json"].into_iter().chain(set).collect();
        let program = Program::new(&self.space).args(&arguments).env("MIXDOWN_MEMORY", MEMORY);
        let outcome = program.run();
        assert_eq!(outcome.status, Some(0), "{}\n{}", arguments.join(" "), outcome.stderr);
        assert!(!outcome.stderr.contains("warning"), "{}\n{}", arguments.join(" "), outcome.stderr);
        let plan = outcome.json();
        let tensors = plan["tensors"].as_array().map_or(&[][..], Vec::as_slice);
        let is_merged = |tensor: &&Value| tensor["work"].get("copy").is_none();
        tensors.iter().filter(is_merged).count()
    }
}

#[test]
fn each_command_is_parsed_and_planned() {
    let mut models = Models::new();
    let (mut commands, mut rows) = (0, 0);
    for recipe in recipes() {
        let path = recipe.path.display().to_string();
        assert!(!recipe.commands.is_empty(), "{path} says not how it is run");
        models.add(&std::fs::read_to_string(repository().join(&recipe.path)).unwrap());
        let mut known = Vec::new();
        for command in &recipe.commands {
            let (name, named, set) = parsed(command);
            let is_settings = path.ends_with("search.yaml");
            assert!(named == path || is_settings, "{path}: {}", command.join(" "));
            assert!(["merge", "search"].contains(&name.as_str()));
            assert!(repository().join(&named).is_file(), "{named}");
            commands += 1;
            set.iter().for_each(|set| models.add(set));
            // A search merges the recipe as another command of the same head does.
            if !is_settings && !known.contains(&set) {
                assert!(models.plan(&path, &set) > 0, "{path} merges nothing");
                known.push(set);
            }
        }
        let (_, _, first) = parsed(&recipe.commands[0]);
        for row in &recipe.rows {
            // The command with the row's own choice in place of the one that it shows.
            let begins: Vec<String> =
                ["mixdown", "merge", &path, "--out", "merged"].map(str::to_owned).into();
            let (_, _, own) = parsed(&[begins.as_slice(), row.as_slice()].concat());
            let key = |set: &str| set.split_once('=').map(|(key, _)| key.to_owned());
            let is_kept = |set: &&String| own.iter().all(|own| key(own) != key(set));
            let set: Vec<String> = first.iter().filter(is_kept).chain(&own).cloned().collect();
            assert!(models.plan(&path, &set) > 0, "{path}: {row:?}");
            rows += 1;
        }
    }
    assert!(commands >= 35 && rows >= 30, "{commands} commands, {rows} rows");
}

/// The settings of a search of UQ-Merge go over what its recipe declares.
#[test]
fn the_search_of_uq_merge_goes_over_the_uncertainties_of_its_experts() {
    let folder = repository().join("recipes/uq_merge");
    let recipe = std::fs::read_to_string(folder.join("qwen2-vl-7b.yaml")).unwrap();
    let settings = std::fs::read_to_string(folder.join("search.yaml")).unwrap();
    let declared = recipe.lines().filter(|line| line.contains("doc: Uncertainty of the expert"));
    let value = |line: &str| line.split("default: ").nth(1)?.split(',').next().map(str::to_owned);
    let values: Vec<String> = declared.filter_map(value).collect();
    assert_eq!(values.len(), 5);
    assert!(settings.contains(&format!("\n  most: [{}]", values.join(", "))), "{settings}");
    // Each value takes in one expert more; below all of them there is nothing to merge.
    let mut models = Models::new();
    models.add(&recipe);
    let path = "recipes/uq_merge/qwen2-vl-7b.yaml";
    for most in &values {
        assert_eq!(models.plan(path, &[format!("most={most}")]), 7 * 28);
    }
    let program = Program::new(&models.space).args(["plan", path, "--set", "most=0.05"]);
    let outcome = program.env("MIXDOWN_MEMORY", MEMORY).run();
    assert!(outcome.stderr.contains("divides by zero"), "{}", outcome.stderr);
}
