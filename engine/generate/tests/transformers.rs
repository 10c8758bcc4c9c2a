//! The forward pass against that of transformers, and against itself cut otherwise.
//!
//! Catches wrong angles, heads that share the wrong keys, windows that end a position off, lost biases, a
//! wrong function or output layer, and sums whose order depends on threads or on how many positions are
//! computed together.

mod tiny;

use mixdown_generate::model::Model;
use mixdown_kit::Space;
use serde_json::{Value, json};
use tiny::{answers, cases, write_model};

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids are numbers")
}

fn embed(model: &Model, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|&id| model.embed(id).expect("the token exists")).collect()
}

/// Both compute in f32, with sums in another order: scores of size 1 may differ by some of its last bits
/// in each of a few hundred sums.
#[test]
fn scores_are_those_of_transformers() {
    for case in cases() {
        let space = Space::new();
        let model = Model::read(&write_model(&space, "model", &case, 0)).unwrap();
        for answer in case["answers"].as_array().unwrap() {
            let scores = model.forward(embed(&model, &ids(&answer["prompt"])), &mut model.past());
            let expected: Vec<f32> = serde_json::from_value(answer["scores"].clone()).unwrap();
            assert_eq!(scores.len(), expected.len());
            for (token, (found, expected)) in scores.iter().zip(&expected).enumerate() {
                let error = (found - expected).abs();
                assert!(
                    error < 2e-5,
                    "{}: token {token}: {found} against {expected}",
                    case["name"]
                );
            }
        }
    }
}

#[test]
fn answers_are_those_of_transformers() {
    for case in cases() {
        let space = Space::new();
        write_model(&space, "model", &case, 0);
        let asked = case["answers"].as_array().unwrap();
        let prompts: Vec<Value> = asked
            .iter()
            .enumerate()
            .map(|(n, answer)| json!({"id": format!("{n}"), "input_ids": answer["prompt"]}))
            .collect();
        let found = answers(&space, "model", &prompts, &["--max-new-tokens", "20"]);
        for (n, (found, asked)) in found.iter().zip(asked).enumerate() {
            let expected: Vec<String> = ids(&asked["answer"]).iter().map(u32::to_string).collect();
            assert_eq!(found["text"], expected.join(" "), "{} {n}", case["name"]);
            assert_eq!((&found["finish_reason"], &found["tokens"]), (&json!("length"), &json!(20)));
        }
    }
}

#[test]
fn bits_depend_on_neither_cuts_nor_threads() {
    for case in cases() {
        let space = Space::new();
        let model = Model::read(&write_model(&space, "model", &case, 0)).unwrap();
        let mut prompt = ids(&case["answers"][2]["prompt"]);
        // Dynamic angles change beyond that, and earlier positions keep theirs.
        let trained = case["config"]["max_position_embeddings"].as_u64().unwrap_or(64);
        prompt.truncate(trained as usize);
        let whole = model.forward(embed(&model, &prompt), &mut model.past());
        for (cut, threads) in [(1, 1), (1, 4), (4, 3), (19, 1), (7, 2)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut past = model.past();
            let mut scores = Vec::new();
            for piece in prompt.chunks(cut) {
                scores = pool.install(|| model.forward(embed(&model, piece), &mut past));
            }
            let bits = |scores: &[f32]| scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&scores), bits(&whole), "{} cut at {cut}", case["name"]);
        }
    }
}
