//! Names of files that hold weights in PyTorch's format. Such files hold much else, so that only
//! these names count in a folder; any other file can be named itself.

use super::shard_names::ShardName;

/// The ending of an index of such files.
pub(crate) const INDEX: &str = ".bin.index.json";
/// The index that transformers writes and looks for.
pub(crate) const USUAL_INDEX: &str = "pytorch_model.bin.index.json";
/// The whole model in one file.
const WHOLE: &str = "pytorch_model.bin";
/// What trainers write of a model of which they trained a part: an adapter, a connector.
const PARTS: [&str; 2] = ["adapter_model.bin", "mm_projector.bin"];

/// Whether a name says which of torch's files holds which tensor.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(INDEX) && !name.starts_with('.')
}

/// Whether a name says that a file holds weights.
pub(crate) fn is_weights(name: &str) -> bool {
    name == WHOLE || PARTS.contains(&name) || is_shard(name)
}

/// Whether a file could hold weights, if someone says so.
pub(crate) fn may_be(name: &str) -> bool {
    let endings = [".bin", ".ckpt", ".pt", ".pth"];
    !name.starts_with('.') && endings.iter().any(|ending| name.ends_with(ending))
}

/// Those of a folder's files that hold its weights, where no index says so: the whole model, else
/// its shards, else a part.
pub(crate) fn weights<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<&str> = names.filter(|name| is_weights(name)).collect();
    if found.contains(&WHOLE) {
        return vec![WHOLE];
    }
    if found.iter().any(|name| is_shard(name)) {
        found.retain(|name| is_shard(name));
        return found;
    }
    PARTS.into_iter().find(|part| found.contains(part)).into_iter().collect()
}

/// Those of a folder's files that hold a whole model.
pub(crate) fn models<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| *name == WHOLE || is_shard(name)).collect()
}

/// Whether a name is that of a shard.
fn is_shard(name: &str) -> bool {
    let stem = name.strip_suffix(".bin").and_then(|_| ShardName::parse(name)).map(|name| name.stem);
    stem == Some("pytorch_model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_weights() {
        for name in [
            "pytorch_model.bin",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-1-of-33.bin",
            "adapter_model.bin",
            "mm_projector.bin",
        ] {
            assert!(is_weights(name), "{name}");
        }
        for name in [
            "training_args.bin",
            "optimizer.pt",
            "rng_state_0.pth",
            "scheduler.bin",
            "pytorch_model-a-of-b.bin",
            "pytorch_model-1-of-33.bin.lock",
            "pytorch_model--1-of-3.bin",
            ".pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ] {
            assert!(!is_weights(name), "{name}");
        }
    }

    #[test]
    fn the_whole_model_counts_before_its_parts() {
        let all = ["adapter_model.bin", "mm_projector.bin", "pytorch_model-1-of-1.bin", WHOLE];
        for count in (1..=4).rev() {
            let chosen = ["adapter_model.bin", "adapter_model.bin", all[2], all[3]][count - 1];
            assert_eq!(weights(all[..count].iter().copied()), [chosen]);
        }
    }
}
