//! Writes the JSON Schemas into `schemas/`: `cargo run -p mixdown-recipe --example write_schemas`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in mixdown_recipe::schema::schemas() {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
