//! Published checkpoints in their real sizes, as the hub's cache would hold them: headers are true, and
//! the weights are holes in the files, so that they take no space on the disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::hub::COMMIT;
use crate::space::Space;

/// Names and shapes of a fixture in `tests/headers`, in the order of the file, with `{0..3}` written out.
pub fn written_out(tensors: &Map<String, Value>) -> Vec<(String, Vec<u64>)> {
    tensors
        .iter()
        .flat_map(|(name, shape)| {
            let sizes: Vec<u64> =
                shape.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            numbered(name).into_iter().map(move |name| (name, sizes.clone()))
        })
        .collect()
}

/// `{0..3}` in a name stands for each of these numbers.
fn numbered(name: &str) -> Vec<String> {
    let range = name.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        Some((before, first.parse::<u64>().ok()?..=last.parse().ok()?, after))
    });
    match range {
        None => vec![name.to_owned()],
        Some((before, range, after)) => {
            range.flat_map(|number| numbered(&format!("{before}{number}{after}"))).collect()
        }
    }
}

/// Puts `tests/headers/published/FIXTURE.json` into the space's hub cache as the repository `id`.
///
/// All its weights are zeros that take no space.
///
/// # Panics
///
/// If the fixture is not there, or a file cannot be written.
pub fn published(space: &Space, id: &str, fixture: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../headers/published");
    let text = fs::read(folder.join(format!("{fixture}.json"))).expect("the fixture is there");
    let value: Value = serde_json::from_slice(&text).expect("the fixture is JSON");
    let repository =
        space.path(".home/huggingface/hub").join(format!("models--{}", id.replace('/', "--")));
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).expect("the space can be written");
    fs::create_dir_all(repository.join("refs")).expect("the space can be written");
    fs::write(repository.join("refs/main"), COMMIT).expect("the space can be written");
    fs::write(snapshot.join("config.json"), value["config"].to_string())
        .expect("the space can be written");
    let tensors = written_out(value["tensors"].as_object().expect("the fixture has tensors"));
    sparse(&snapshot.join("model.safetensors"), &tensors);
    snapshot
}

/// A safetensors file of bf16 tensors that are zero and take no space.
fn sparse(path: &Path, tensors: &[(String, Vec<u64>)]) {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut begin = 0;
    for (name, shape) in tensors {
        let end = begin + 2 * shape.iter().product::<u64>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
        begin = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = File::create(path).expect("the space can be written");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("the space can be written");
    file.write_all(header.as_bytes()).expect("the space can be written");
    file.set_len(8 + header.len() as u64 + begin).expect("the file system has sparse files");
}
