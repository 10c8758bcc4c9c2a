//! Models with the vocabulary of another one, beside what mergekit-tokensurgeon makes of them
//! (`oracles/transplant`).
//!
//! Catches tokens of one meaning that are not found in both, rows from the wrong token, a sum of other tokens than
//! the ones that say the same in the donor, a head that is made like an embedding, and files of the old vocabulary.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_kit::{Outcome, Space, mixdown, read_checkpoint, read_safetensors};

fn oracles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/transplant")
}

/// Both models in a folder of their own.
fn models() -> Space {
    let space = Space::new();
    for model in ["target", "donor"] {
        let to = space.path(model);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(oracles().join(model)).unwrap().flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    space
}

fn transplant(space: &Space, out: &str, more: &[&str]) -> Outcome {
    let arguments = ["transplant", "target", "donor", "--out", out];
    mixdown(space, arguments.iter().chain(more))
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[test]
fn every_method_makes_what_mergekit_makes() {
    let space = models();
    let cases = fs::read_to_string(oracles().join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    let mut compared = 0;
    for (name, arguments) in cases.as_object().unwrap() {
        if name.starts_with("subword") && generator().is_none() {
            println!("not compared: {name}, for `mixdown-generate` is not built");
            continue;
        }
        let arguments: Vec<&str> =
            arguments.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        transplant(&space, name, &arguments).success();
        let found = read_checkpoint(space.path(name)).tensors;
        let wanted = read_safetensors(oracles().join(format!("expected/{name}.safetensors")));
        for matrix in [EMBEDDING, HEAD] {
            let (found, wanted) = (&found[matrix], &wanted[matrix]);
            assert_eq!(
                (found.dtype, &found.shape),
                (wanted.dtype, &wanted.shape),
                "{name} {matrix}"
            );
            for (at, (found, wanted)) in found.values().iter().zip(wanted.values()).enumerate() {
                // Theirs are sums in f32, and of some a system is solved in f32.
                let apart = if name == "sparse_basis" { 1e-5 } else { 2e-6 };
                assert!(
                    (found - wanted).abs() < apart,
                    "{name} {matrix} {at}: {found}, not {wanted}"
                );
            }
            compared += 1;
        }
        let own = read_checkpoint(space.path("target")).tensors;
        assert_eq!(own.len(), found.len());
        for (tensor, own) in
            own.iter().filter(|(tensor, _)| ![EMBEDDING, HEAD].contains(&tensor.as_str()))
        {
            assert_eq!(own.data, found[tensor].data, "{tensor}");
        }
    }
    assert!(compared >= 24, "{compared}");
}

/// The program that cuts texts, where the suite's build has made it.
fn generator() -> Option<PathBuf> {
    let path = mixdown_kit::program::binary().with_file_name("mixdown-generate");
    path.exists().then_some(path)
}

#[test]
fn tokenizer_and_ids_are_the_donors_and_the_rest_is_the_models() {
    let space = models();
    fs::write(space.path("target/modeling_own.py"), "own").unwrap();
    transplant(&space, "out", &["-k", "3"]).success();
    let text = |file: &str| fs::read_to_string(space.path(file)).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(text(&format!("out/{file}")), text(&format!("donor/{file}")), "{file}");
    }
    assert_eq!(text("out/modeling_own.py"), "own");
    let json = |file: &str| -> serde_json::Value { serde_json::from_str(&text(file)).unwrap() };
    let (out, own, donor) =
        (json("out/config.json"), json("target/config.json"), json("donor/config.json"));
    for key in ["vocab_size", "bos_token_id", "eos_token_id"] {
        assert_eq!(out[key], donor[key], "{key}");
        assert_ne!(out[key], own[key], "{key}");
    }
    for key in ["hidden_size", "tie_word_embeddings", "num_hidden_layers"] {
        assert_eq!(out[key], own[key], "{key}");
    }
    let generation = json("out/generation_config.json");
    assert_eq!(generation["eos_token_id"], donor["eos_token_id"]);
    assert_eq!(generation["temperature"], json("target/generation_config.json")["temperature"]);
}

#[test]
fn a_tied_model_stays_tied_and_a_tied_donor_gives_its_embedding() {
    let space = models();
    // The donor as the model: its head is its embedding, and no head is written.
    mixdown(&space, ["transplant", "donor", "target", "--out", "out", "-k", "3"]).success();
    let found = read_checkpoint(space.path("out")).tensors;
    assert!(!found.contains_key(HEAD));
    let rows = read_checkpoint(space.path("target")).tensors[EMBEDDING].shape[0];
    assert_eq!(found[EMBEDDING].shape, [rows, 24]);
}

/// Where the donor's space is the model's, turned and with empty directions, rows of new tokens are known.
#[test]
fn a_turned_space_is_turned_back() {
    use mixdown_kit::raw::safetensors_bytes;
    use mixdown_kit::{DType, Tensor};
    let space = models();
    let own = read_checkpoint(space.path("target")).tensors[EMBEDDING].clone();
    let donor = read_checkpoint(space.path("donor")).tensors.clone();
    let tokens = |model: &str| -> serde_json::Value {
        let file = fs::read_to_string(space.path(format!("{model}/tokenizer.json"))).unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&file).unwrap();
        let mut all = file["model"]["vocab"].take();
        // Those that begin and end texts have other names in both, and mean the same.
        for (at, token) in file["added_tokens"].as_array().unwrap().iter().enumerate() {
            all[format!("special {at}")] = token["id"].clone();
        }
        all
    };
    let (of_own, of_donor) = (tokens("target"), tokens("donor"));
    let (from, to) = (own.shape[1] as usize, donor[EMBEDDING].shape[1] as usize);
    let values = own.values();
    let mut wanted = Vec::new();
    let mut rows = vec![0.0; donor[EMBEDDING].values().len()];
    for (token, id) in of_donor.as_object().unwrap() {
        let id = id.as_u64().unwrap() as usize;
        let row: Vec<f64> = match of_own[token].as_u64() {
            Some(known) => values[known as usize * from..][..from].to_vec(),
            None => {
                let row: Vec<f64> =
                    (0..from).map(|at| 0.01 * ((id * 7 + at * 3) % 11) as f64).collect();
                wanted.push((id, row.clone()));
                row
            }
        };
        // Each number goes to another place, with the other sign.
        for (at, value) in row.iter().enumerate() {
            rows[id * to + (at * 5 + 3) % from] = -value;
        }
    }
    assert!(wanted.len() >= 4, "{wanted:?}");
    let tensors: Vec<Tensor> = donor
        .iter()
        .map(|(name, one)| match name == EMBEDDING {
            true => Tensor::new(name, DType::F32, &one.shape, &rows),
            false => Tensor::new(name, DType::F32, &one.shape, &one.values()),
        })
        .collect();
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    fs::write(space.path("donor/model.safetensors"), safetensors_bytes(&tensors)).unwrap();
    transplant(&space, "out", &["-a", "landmark_pca"]).success();
    let found = read_checkpoint(space.path("out")).tensors[EMBEDDING].values();
    for (id, row) in wanted {
        for (at, wanted) in row.into_iter().enumerate() {
            let found = found[id * from + at];
            assert!((found - wanted).abs() < 1e-5, "{id} {at}: {found}, not {wanted}");
        }
    }
}

/// Threads, memory and the size of files change no byte of a tensor.
#[test]
fn rows_are_the_same_however_they_are_made() {
    let space = models();
    for method in [
        &["-k", "5"][..],
        &["-a", "randn", "--seed", "3"],
        &["-a", "mean", "--new-vocab-noise", "0.1"],
        &["-a", "landmark_pca"],
        &["-a", "mp_rope", "-k", "3", "--magikarp"],
    ] {
        let mut known = None;
        for (number, more) in [
            &["--threads", "1"][..],
            &["--threads", "4"],
            &["--memory", "64MB", "--shard-size", "2kB"],
        ]
        .into_iter()
        .enumerate()
        {
            let out = format!("out-{}-{number}", method.join("").replace('-', ""));
            transplant(&space, &out, &[method, more].concat()).success();
            let tensors = read_checkpoint(space.path(&out)).tensors;
            let bytes: Vec<_> = tensors.into_iter().map(|(name, one)| (name, one.data)).collect();
            assert_eq!(*known.get_or_insert_with(|| bytes.clone()), bytes, "{method:?}");
        }
    }
    let random = |seed: &str, out: &str| {
        transplant(&space, out, &["-a", "randn", "--seed", seed]).success();
        read_checkpoint(space.path(out)).tensors[EMBEDDING].clone()
    };
    assert_ne!(random("1", "one").data, random("2", "two").data);
}

#[test]
fn what_cannot_be_is_told() {
    let space = models();
    let talk = |outcome: Outcome, status: i32| outcome.exits(status).talk();
    assert!(talk(transplant(&space, "out", &["-k", "0"]), 2).contains("E0260"));
    let odd = models();
    let config = fs::read_to_string(odd.path("target/config.json")).unwrap();
    let config = config.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 3");
    fs::write(odd.path("target/config.json"), config).unwrap();
    let heads = talk(transplant(&odd, "out", &["-k", "3", "-a", "mp_rope"]), 2);
    assert!(heads.contains("E0260") && heads.contains("num_attention_heads: 3"), "{heads}");
    let many = talk(transplant(&space, "out", &["-k", "64"]), 2);
    assert!(
        many.contains("E0260") && many.contains("in common: 52") && many.contains("-k 52"),
        "{many}"
    );
    assert!(talk(transplant(&space, "out", &["--new-vocab-noise", "-1"]), 2).contains("E0260"));
    let flat = talk(transplant(&space, "out", &["-a", "john_hewitt", "--memory", "64MB"]), 0);
    assert!(flat.is_empty() || !flat.contains("error"), "{flat}");

    // Other letters, and other names of special tokens that nothing says the role of.
    let tokenizer = fs::read_to_string(space.path("donor/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap().clone();
    let others = vocab.into_iter().map(|(token, id)| (format!("{token}ж"), id)).collect();
    tokenizer["model"]["vocab"] = serde_json::Value::Object(others);
    fs::write(space.path("donor/tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(space.path("donor/tokenizer_config.json"), "{}").unwrap();
    let none = talk(transplant(&space, "none", &["-k", "3"]), 2);
    assert!(none.contains("E0260") && none.contains("no tokens in common"), "{none}");
    let mean = talk(transplant(&space, "mean", &["-a", "mean"]), 0);
    assert!(mean.contains("W0635"), "{mean}");

    for method in ["landmark_pca", "stb", "mp_rope"] {
        let none = talk(transplant(&space, "none", &["-k", "3", "-a", method]), 2);
        assert!(none.contains("E0260") && none.contains("no tokens in common"), "{none}");
    }

    fs::remove_file(space.path("donor/tokenizer.json")).unwrap();
    let without = talk(transplant(&space, "without", &[]), 2);
    assert!(
        without.contains("E0260") && without.contains("no tokenizer that is read"),
        "{without}"
    );
    assert!(!space.path("without").exists() && !space.path("none").exists());
}
