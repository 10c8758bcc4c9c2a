//! Digests of plans and keys of results: they are the same from run to run and from build to build.
//!
//! A digest that moved is a change of the format or of an op's version, told in the changelog: every
//! unfinished output starts anew, and every stored result is computed again.

use mixdown_ops::account::Account;
use mixdown_plan::identity::{Digest, Identities, Tree, digest};
use mixdown_plan::{Plan, TensorRef};

use crate::made_up::{family, sound};

fn of_method(method: &str, parameters: &str) -> Plan {
    let recipe = format!(
        "mixdown: 1\nmodels: {{base: base, a: a, b: b}}\nbase: base\nmethod: {method}\n\
         parameters: {{{parameters}}}\n"
    );
    sound(&recipe, &family())
}

/// What the files would hold: other files, other texts.
fn content(tensor: TensorRef) -> Option<String> {
    Some(format!("content {} of {}", tensor.tensor, tensor.model))
}

fn matrix_job(plan: &Plan) -> u32 {
    let name = "model.layers.1.mlp.up_proj.weight";
    plan.jobs.iter().position(|job| job.name == name).unwrap() as u32
}

fn key(plan: &Plan, content: &dyn Fn(TensorRef) -> Option<String>) -> Option<String> {
    let mut digest = Digest::default();
    Identities::new(plan, content).matrix(matrix_job(plan), 0, &mut digest)?;
    Some(digest.text())
}

#[test]
fn digests_of_plans_stay() {
    let found: Vec<String> = [
        ("task_arithmetic", "weight: 0.5"),
        ("ties", "weight: 1, density: 0.3"),
        ("dare_ties", "weight: 1, density: 0.5"),
        ("optmerge", "steps: 20"),
        ("knots_ties", ""),
        ("magmax", ""),
    ]
    .iter()
    .map(|(method, parameters)| {
        let digest = digest(&of_method(method, parameters));
        format!("{method} {}", &digest[..16])
    })
    .collect();
    assert_eq!(
        found,
        [
            "task_arithmetic 20618ebdf3cad44a",
            "ties b68c5544803635f1",
            "dare_ties 1bc2a647b56056e4",
            "optmerge 220bdd95219af233",
            "knots_ties 9e052cfd8cec50c0",
            "magmax 00a8adae395eced4",
        ]
    );
}

#[test]
fn keys_of_results_stay() {
    let found: Vec<String> = [
        ("optmerge", "steps: 20"),
        ("tsv", ""),
        ("iso_c", ""),
        ("iso_cts", ""),
        ("swudi", ""),
        ("knots_ties", ""),
    ]
    .iter()
    .map(|(method, parameters)| {
        let key = key(&of_method(method, parameters), &content).unwrap();
        format!("{method} {}", &key[..16])
    })
    .collect();
    assert_eq!(
        found,
        [
            "optmerge 6ad18947e4b03622",
            "tsv 03581f20c84ec9a9",
            "iso_c 3c520a8999bf0203",
            "iso_cts 255c3093b007bf34",
            "swudi d7f6a13f98cdd6c0",
            "knots_ties b745b3c1ede057a8",
        ]
    );
}

#[test]
fn whatever_changes_a_result_changes_its_key() {
    let of = |parameters: &str| key(&of_method("optmerge", parameters), &content).unwrap();
    let mut all = vec![of("steps: 20")];
    for other in [
        "steps: 21",
        "steps: 20, learning_rate: 2e-5",
        "steps: 20, optimizer: sgd",
        "steps: 20, tuning: lora",
    ] {
        let key = of(other);
        assert!(!all.contains(&key), "{other}");
        all.push(key);
    }
    let plan = of_method("optmerge", "steps: 20");
    let expert_changed = |tensor: TensorRef| match tensor.model {
        2 => Some("something else".to_owned()),
        _ => content(tensor),
    };
    assert!(!all.contains(&key(&plan, &expert_changed).unwrap()));
    // What comes behind the op does not go into its result.
    assert_eq!(of("steps: 20, lambda: 0.3"), all[0]);
    assert_eq!(key(&plan, &|_| None), None, "a result of unknown content has no key");
}

#[test]
fn positions_and_names_do_not_go_into_keys() {
    let plan = |models: &str| {
        let recipe = format!(
            "mixdown: 1\nmodels: {models}\nbase: base\n\
             rules: [{{method: tsv, experts: [a, b]}}]\n"
        );
        sound(&recipe, &family())
    };
    let (one, other) = (plan("{base: base, a: a, b: b}"), plan("{b: b, base: base, a: a}"));
    let by_name = |plan: &Plan| {
        let models = plan.models.clone();
        move |tensor: TensorRef| {
            Some(format!("{} {}", models[tensor.model as usize], tensor.tensor))
        }
    };
    assert_eq!(key(&one, &by_name(&one)), key(&other, &by_name(&other)));
}

#[test]
fn people_read_what_a_digest_is_of() {
    let plan = of_method("iso_c", "");
    let mut tree = Tree::default();
    Identities::new(&plan, &content).matrix(matrix_job(&plan), 0, &mut tree).unwrap();
    let text = tree.text(0);
    for part in
        ["format 1\n", "op isotropic\n", "version 6\n", "shape: 8, 4\n", "tensor content 4 of 1\n"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let to: &mut dyn Account = &mut tree;
    to.count("after", 1_u32);
    assert!(tree.json().as_array().unwrap().len() > 4);
}
