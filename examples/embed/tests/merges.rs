//! The example merges, and says what is wrong as the program does.

use std::process::Command;

use mixdown_kit::{DType, Space, Tensor, checkpoint, read_checkpoint};

#[test]
fn a_rust_program_merges_in_twenty_lines() {
    let space = Space::new();
    for (name, value) in [("a", 1.0), ("b", 4.0)] {
        let tensor = Tensor::new("w.weight", DType::F32, &[3], &[value, 0.0, -value]);
        checkpoint(name).dtype(DType::F32).weights_only().with(tensor).write(&space);
    }
    let recipe = "mixdown: 1\nmodels: {a: ./a, b: ./b}\nmethod: linear\nparameters: {weight: 1}\n";
    std::fs::write(space.path("recipe.yaml"), recipe).unwrap();
    let run = |recipe: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed"));
        command.args([recipe, "merged"]).current_dir(space.root());
        command.env("MIXDOWN_CACHE", space.path("cache")).output().unwrap()
    };
    let merged = run("recipe.yaml");
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    assert_eq!(merged.stdout, b"merged\n");
    let stored = read_checkpoint(space.path("merged"));
    assert_eq!(stored.values("w.weight"), [2.5, 0.0, -2.5]);

    let failed = run("no-recipe.yaml");
    assert_eq!(failed.status.code(), Some(1));
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(told.starts_with("error[E") && told.contains("no-recipe.yaml"), "{told}");
}
