//! Every snippet of the documentation and of the README, run in the order of its page.
//!
//! Catches a command, a key or a name that the program no longer knows, and links to files that moved. What
//! stands above a block in a comment says what to do with it: `<!-- NAME -->` saves it under that name, so
//! that later blocks of the page can use it; `<!-- fails with CODE -->` expects that message;
//! `<!-- file: PATH -->` holds it equal to a file of the repository; `<!-- not run: WHY -->` leaves it alone.
//! Blocks of Python are run by the tests of the Python package.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mixdown_kit::hub::COMMIT;
use mixdown_kit::program::binary;
use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::space::copy_folder;
use mixdown_kit::{DType, Space, Tensor, adapter, mixdown, published, read_checkpoint};
use mixdown_suite::repository;

/// A fenced block of a page.
struct Block {
    line: usize,
    language: String,
    /// What the comment above it says.
    marker: String,
    text: String,
}

/// The blocks of a page, in order.
fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open, mut marker) = (Vec::new(), None::<Block>, String::new());
    for (number, line) in (1..).zip(page.lines()) {
        let fence = line.strip_prefix("```");
        match (&mut open, fence) {
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => block.text.push_str(&format!("{line}\n")),
            (None, Some(language)) => {
                let (language, marker) = (language.to_owned(), std::mem::take(&mut marker));
                open = Some(Block { line: number, language, marker, text: String::new() });
            }
            (None, None) => {
                let comment = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                match comment {
                    Some(comment) => marker = comment.to_owned(),
                    // An empty line between comment and block is usual.
                    None if !line.is_empty() => marker.clear(),
                    None => {}
                }
            }
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// All pages, by their path in the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![PathBuf::from("README.md"), PathBuf::from("python/README.md")];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder)).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(repository().join(page)).expect("the page can be read")
}

const TARGETS: [&str; 3] = ["q_proj", "v_proj", "up_proj"];

/// The quickstart's models under the names that pages use, at the hub and in folders.
fn world() -> Space {
    let space = Space::new();
    let quickstart = repository().join("examples/quickstart");
    for (model, others) in [
        ("base", &[][..]),
        ("code", &["expert-a"][..]),
        ("math", &["expert-b", "math-7b"][..]),
        ("chat", &["instruct"][..]),
    ] {
        for name in [model].iter().chain(others) {
            copy_folder(&quickstart.join(model), &space.path(name));
        }
        copy_folder(&quickstart.join(model), &at_hub(&space, &format!("org/{model}-7b")));
    }
    for name in ["charts-lora", "ocr-lora"] {
        write_adapter(&space, name, "org/base-7b");
    }
    fs::rename(space.path("ocr-lora"), at_hub(&space, "org/ocr-lora")).expect("it is one disk");
    for name in ["expert-a", "expert-b"] {
        let model = read_checkpoint(space.path(name));
        let importance: Vec<Tensor> = model.tensors.values().cloned().collect();
        let importance: Vec<&Tensor> = importance.iter().collect();
        space.write(format!("{name}-importance.safetensors"), safetensors_bytes(&importance));
        let grams: Vec<Tensor> = model
            .tensors
            .values()
            .filter(|one| one.shape.len() == 2)
            .map(|one| {
                let side = one.shape[1];
                let identity: Vec<f64> = (0..side * side)
                    .map(|place| f64::from(u8::from(place / side == place % side)))
                    .collect();
                Tensor::new(&one.name, DType::F32, &[side, side], &identity)
            })
            .collect();
        let grams: Vec<&Tensor> = grams.iter().collect();
        space.write(format!("{name}-gram.safetensors"), safetensors_bytes(&grams));
    }
    space
}

/// Where the cache holds a repository of the hub.
fn at_hub(space: &Space, id: &str) -> PathBuf {
    let cache = space.path(".home/huggingface/hub");
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    fs::create_dir_all(repository.join("refs")).expect("the space can be written");
    fs::create_dir_all(repository.join("snapshots")).expect("the space can be written");
    fs::write(repository.join("refs/main"), COMMIT).expect("the space can be written");
    repository.join("snapshots").join(COMMIT)
}

fn write_adapter(space: &Space, name: &str, base: &str) {
    let model = read_checkpoint(repository().join("examples/quickstart/base"));
    let mut lora = adapter(name, 2)
        .config("base_model_name_or_path", base.into())
        .config("target_modules", TARGETS.to_vec().into());
    let is_target =
        |name: &str| TARGETS.iter().any(|part| name.ends_with(&format!("{part}.weight")));
    for tensor in model.tensors.values().filter(|tensor| is_target(&tensor.name)) {
        let module = tensor.name.strip_suffix(".weight").expect("targets are weights");
        lora = lora.module(module, 2, [tensor.shape[0], tensor.shape[1]]);
    }
    lora.write(space);
}

/// What a page needs beside the usual.
fn furnish(space: &Space, page: &Path) {
    let name = page.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        // Their experts are adapters.
        "peft" | "robust_merge" => {
            for expert in ["expert-a", "expert-b"] {
                fs::remove_dir_all(space.path(expert)).expect("it is there");
                write_adapter(space, expert, "./base");
            }
        }
        "vision" | "README" => {
            published(
                space,
                "llava-hf/llava-onevision-qwen2-7b-ov-hf",
                "llava_onevision_qwen2_7b_hf",
            );
            published(space, "Qwen/Qwen2-7B", "qwen2_7b");
            published(space, "org/assistant-of-qwen2-7b", "qwen2_7b");
            published(space, "THUDM/cogvlm-chat-hf", "cogvlm_chat");
            published(space, "liuhaotian/llava-v1.5-7b", "llava_v1_5_7b");
        }
        _ => {}
    }
}

/// Runs the blocks of a page in a world of its own, or in one that pages share which write nothing there, and
/// gives how many it ran.
fn run(page: &Path, shared: Option<&Space>) -> usize {
    let blocks = blocks(&read(page));
    let is_run = |block: &Block| {
        ["sh", "yaml", "json"].contains(&block.language.as_str())
            && !block.marker.starts_with("not run: ")
            && !block.marker.ends_with(" command")
    };
    if !blocks.iter().any(is_run) {
        return 0;
    }
    let own = shared.is_none().then(|| {
        let space = world();
        furnish(&space, page);
        space
    });
    let space = shared.or(own.as_ref()).expect("there is one of both");
    let mut count = 0;
    for block in blocks.iter().filter(|block| is_run(block)) {
        let place = format!("{}:{}", page.display(), block.line);
        let (marker, text) = (block.marker.as_str(), block.text.as_str());
        count += 1;
        if let Some(path) = marker.strip_prefix("file: ") {
            let file = fs::read_to_string(repository().join(path)).expect("the file is there");
            assert_eq!(text, file, "{place} is not {path}");
            continue;
        }
        let fails = marker.strip_prefix("fails with ");
        let is_name = !marker.is_empty() && fails.is_none();
        assert!(!is_name || !marker.contains(' '), "{place}: what is `{marker}`?");
        match block.language.as_str() {
            _ if is_name => {
                space.write(marker, text);
                // Settings of a search and methods say in their first word that they are no recipes.
                let is_recipe = block.language == "yaml"
                    && (text.starts_with("mixdown: 1") || text.starts_with("merge_method:"));
                if is_recipe {
                    mixdown(space, ["check", marker]).success();
                }
            }
            "yaml" => {
                space.write("recipe.yaml", text);
                let outcome = mixdown(space, ["check", "recipe.yaml"]);
                assert_eq!(outcome.status, Some(0), "{place}\n{}", outcome.stderr);
            }
            "sh" => shell(space, text, fails, &place),
            _ => {}
        }
    }
    count
}

#[track_caller]
fn shell(space: &Space, text: &str, fails: Option<&str>, place: &str) {
    let mut path = OsString::from(binary().parent().expect("the program lies in a folder"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let home = space.path(".home");
    let outcome = Command::new("bash")
        .args(["-euo", "pipefail", "-c", text])
        .current_dir(space.root())
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", path)
        .env("HOME", &home)
        .env("HF_HOME", home.join("huggingface"))
        .env("HF_HUB_OFFLINE", "1")
        .env("MIXDOWN_THREADS", "2")
        .env("MIXDOWN_MEMORY", "2GB")
        .output()
        .expect("a shell can be started");
    let talk = String::from_utf8_lossy(&outcome.stderr);
    match fails {
        None => assert!(outcome.status.success(), "{place}\n{text}\n{talk}"),
        Some(code) => {
            assert!(!outcome.status.success(), "{place} went well");
            assert!(talk.contains(code), "{place} fails with something else\n{talk}");
        }
    }
}

/// Runs all pages below one folder of the repository.
#[track_caller]
fn run_all(is_meant: impl Fn(&Path) -> bool, least: usize) {
    let pages = pages();
    let meant = pages.iter().filter(|page| is_meant(page));
    let count: usize = meant.map(|page| run(page, None)).sum();
    assert!(count >= least, "only {count} snippets were run");
}

#[test]
fn snippets_of_the_guides_run() {
    run_all(|page| page.starts_with("docs") && !page.starts_with("docs/methods"), 40);
}

#[test]
fn examples_of_the_methods_are_recipes() {
    let space = world();
    let takes_adapters =
        |page: &Path| page.ends_with("peft.md") || page.ends_with("robust_merge.md");
    let pages = pages();
    let pages = pages.iter().filter(|page| page.starts_with("docs/methods"));
    let count: usize = pages.map(|page| run(page, (!takes_adapters(page)).then_some(&space))).sum();
    assert!(count >= 60, "only {count} examples were run");
}

#[test]
fn snippets_of_the_readme_run() {
    run_all(|page| page.ends_with("README.md"), 10);
}

/// Links to files, from pages of all kinds; those within the site's pages are looked at again when it is built.
#[test]
fn links_lead_to_files() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(&page);
        let folder = repository().join(page.parent().expect("a page lies in a folder"));
        for piece in text.split("](").skip(1) {
            let Some((link, _)) = piece.split_once(')') else { continue };
            let file = link.split('#').next().unwrap_or_default();
            let is_elsewhere = file.contains("://") || file.is_empty() || file.contains(' ');
            if !is_elsewhere && !folder.join(file).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn blocks_are_found_with_what_stands_above() {
    let page =
        "text\n\n<!-- a.yaml -->\n\n```yaml\nx: 1\n```\n\n<!-- gone -->\nwords\n```sh\nls\n```\n";
    let found: Vec<_> = blocks(page)
        .into_iter()
        .map(|block| (block.line, block.language, block.marker, block.text))
        .collect();
    let of = |line, language: &str, marker: &str, text: &str| {
        (line, language.to_owned(), marker.to_owned(), text.to_owned())
    };
    assert_eq!(found, [of(5, "yaml", "a.yaml", "x: 1\n"), of(11, "sh", "", "ls\n")]);
}
