//! Whole merges on backends that are not the processor's own.
//!
//! Catches a step of a merge that reaches past the seam to the processor's code, an op that a backend lacks and
//! that ends in something else than a message, and elements that are read more often than a method needs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mixdown_backends::{Counting, Counts, Plain};
use mixdown_cpu::CpuBackend;
use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, raw, read_checkpoint};
use mixdown_ops::Backend;
use mixdown_ops::program::{BLOCK, PIECE};
use mixdown_session::merge::{Keep, MergeRequest, Merged, merge};
use mixdown_session::{Machine, Places, RecipeInput, Session, Silence, Trouble};
use mixdown_suite::{configuration, family};

/// Merges `recipe.yaml` into a folder, on a backend or on the processor.
fn run(space: &Space, out: &str, backend: Option<&Arc<dyn Backend>>) -> Result<Merged, Trouble> {
    let cancel = AtomicBool::new(false);
    let home = space.path(".home").into_os_string();
    let places = Places::from_env(&|name| (name == "HOME").then(|| home.clone()));
    let mut session = Session::new(&places, &Silence, &cancel);
    if let Some(backend) = backend {
        session = session.with_backend(backend);
    }
    let recipe = RecipeInput::of_file(space.path("recipe.yaml"));
    let mut request = MergeRequest::new(recipe, space.path(out));
    request.machine = Machine { memory_bytes: Some(256 << 20), ..Machine::default() };
    request.keep = Keep::Nowhere;
    merge(&request, &session)
}

/// Writes `recipe.yaml`: a method over `a`, `b` and `c`, with a base or not, by paths that hold in any folder.
fn write_recipe(space: &Space, method: &str, has_base: bool, expert: &str, parameters: &str) {
    let path = |model: &str| space.path(model).display().to_string();
    let models = ["a", "b", "c"].map(path);
    let models: Vec<(&str, &str)> = models.iter().map(|model| (&**model, expert)).collect();
    let base = has_base.then(|| path("base"));
    space.write("recipe.yaml", configuration(method, base.as_deref(), &models, parameters));
}

/// Methods without matrix ops, each with what its experts and the whole are given.
const METHODS: [(&str, &str, &str); 11] = [
    ("linear", "weight: 0.3", ""),
    ("task_arithmetic", "weight: 0.7", "lambda: 0.8"),
    ("ties", "weight: 0.5, density: 0.3", ""),
    ("dare_ties", "weight: 0.5, density: 0.6", ""),
    ("dare_linear", "weight: 0.5, density: 0.6", "rescale: true"),
    ("breadcrumbs", "weight: 0.5, density: 0.6, gamma: 0.02", ""),
    ("breadcrumbs_ties", "weight: 0.5, density: 0.6, gamma: 0.02", ""),
    ("model_stock", "", ""),
    ("sce", "", "select_topk: 0.4"),
    ("multislerp", "weight: 0.5", ""),
    ("magmax", "", ""),
];

fn needs_base(method: &str) -> bool {
    method != "linear" && method != "karcher"
}

#[test]
fn element_by_element_gives_the_same_bytes() {
    let plain: Arc<dyn Backend> = Arc::new(Plain);
    for (method, expert, parameters) in METHODS {
        let space = family();
        write_recipe(&space, method, needs_base(method), expert, parameters);
        run(&space, "here", None).unwrap_or_else(|trouble| panic!("{method}: {trouble:?}"));
        run(&space, "there", Some(&plain))
            .unwrap_or_else(|trouble| panic!("{method}: {trouble:?}"));
        let (here, there) = (weights(&space, "here"), weights(&space, "there"));
        assert!(!here.is_empty());
        assert!(here == there, "{method} on the plain backend gives other bytes");
        let manifest = fs::read_to_string(space.path("there/mixdown-manifest.json")).unwrap();
        assert!(manifest.contains("\"plain\""), "the manifest says what computed it");
    }
}

fn weights(space: &Space, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(space.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    let is_weights =
        |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
    let mut found: Vec<(PathBuf, Vec<u8>)> = files
        .filter(is_weights)
        .map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn an_op_that_a_backend_lacks_is_an_error_before_the_work() {
    let plain: Arc<dyn Backend> = Arc::new(Plain);
    // The op that each needs first.
    for (method, parameters, op) in [
        ("optmerge", "steps: 2", "interference"),
        ("della", "weight: 0.5, density: 0.6, epsilon: 0.1", "place_in_row"),
        ("iso_c", "", "isotropic"),
    ] {
        let space = family();
        write_recipe(&space, method, true, "", parameters);
        let trouble = run(&space, "out", Some(&plain)).unwrap_err();
        let told = format!("{trouble:?}");
        assert!(told.contains("E0389") && told.contains("`plain` does not have"), "{told}");
        assert!(told.contains(op), "{method}: {told}");
        assert!(!space.exists("out"));
    }
}

/// Elements of the one tensor; more than a piece.
const ELEMENTS: u64 = 300 * 1000;

/// What the processor was asked for in a merge of one tensor of three experts and a base.
fn counted(method: &str, expert: &str, parameters: &str) -> Counts {
    let space = Space::new();
    let name = "model.layers.0.mlp.up_proj.weight";
    for (seed, model) in ["base", "a", "b", "c"].into_iter().enumerate() {
        let mut values = Values::new(seed as u64, name);
        let values: Vec<f64> = (0..ELEMENTS).map(|_| 0.02 * values.normal()).collect();
        let tensor = Tensor::new(name, DType::Bf16, &[300, 1000], &values);
        space.write(format!("{model}/model.safetensors"), raw::safetensors_bytes(&[&tensor]));
    }
    write_recipe(&space, method, needs_base(method), expert, parameters);
    let counting = Arc::new(Counting::new(CpuBackend::new()));
    let backend: Arc<dyn Backend> = counting.clone();
    run(&space, "out", Some(&backend)).unwrap();
    assert_eq!(read_checkpoint(space.path("out")).names(), ["model.layers.0.mlp.up_proj.weight"]);
    counting.counts()
}

#[test]
fn elements_are_read_as_often_as_a_method_needs() {
    const EXPERTS: u64 = 3;
    // One block of each piece is sampled where a threshold is looked for, and the last piece has less than one.
    let sample = 4 * BLOCK as u64 + (ELEMENTS % PIECE).min(BLOCK as u64);
    let all = EXPERTS * ELEMENTS;
    const DROP: &str = "weight: 0.5, density: 0.6";
    let once = |inputs: u64| Counts {
        elements: ELEMENTS,
        loaded: inputs * ELEMENTS,
        stored: ELEMENTS,
        ..Counts::default()
    };
    let twice = |inputs: u64, between: u64| Counts {
        elements: 2 * ELEMENTS + between,
        loaded: inputs * (2 * ELEMENTS + between),
        ..once(inputs)
    };
    for (method, expert, parameters, expected) in [
        ("linear", "weight: 0.3", "", once(EXPERTS)),
        ("task_arithmetic", "weight: 0.7", "", once(EXPERTS + 1)),
        ("magmax", "", "", once(EXPERTS + 1)),
        // Random choices need no pass of their own, but the norms that rescaling restores do.
        ("dare_linear", DROP, "rescale_by: density", once(EXPERTS + 1)),
        ("dare_linear", DROP, "", twice(EXPERTS + 1, 0)),
        ("model_stock", "", "", twice(EXPERTS + 1, 0)),
    ] {
        assert_eq!(counted(method, expert, parameters), expected, "{method}");
    }
    // Sampled, counted, and merged; the first two for the magnitudes of every expert at once.
    let ties = counted("ties", "weight: 0.5, density: 0.3", "");
    assert!(ties.selected >= all + EXPERTS * sample, "{ties:?}");
    // A sample that misleads costs a further round, of which one is allowed for here.
    assert!(ties.selected <= 2 * all + EXPERTS * sample, "{ties:?}");
    assert!(ties.elements <= 3 * ELEMENTS + sample && ties.stored == ELEMENTS, "{ties:?}");
}
