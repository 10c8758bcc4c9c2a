//! Names of files that hold weights in PyTorch's format. Such files hold much else, so that only
//! these names count in a folder; any other file can be named itself.

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
    name == WHOLE || PARTS.contains(&name) || shard(name).is_some()
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
    if found.iter().any(|name| shard(name).is_some()) {
        found.retain(|name| shard(name).is_some());
        return found;
    }
    PARTS.into_iter().find(|part| found.contains(part)).into_iter().collect()
}

/// Names of shards that are missing beside these. Their names say how many there are.
pub(crate) fn missing(weights: &[&str]) -> Vec<String> {
    /// No model has more; a name must not make a list of any length.
    const MOST: u32 = 10_000;
    let shards: Vec<Shard> = weights.iter().filter_map(|name| shard(name)).collect();
    let Some(first) = shards.first().filter(|first| first.of <= MOST) else { return Vec::new() };
    let is_there = |number: u32| shards.iter().any(|shard| shard.number == number);
    (1..=first.of)
        .filter(|number| !is_there(*number))
        .map(|number| {
            let (of, width) = (first.of, first.width);
            format!("pytorch_model-{number:0width$}-of-{of:0width$}.bin")
        })
        .collect()
}

/// The numbers in a shard's name, such as `pytorch_model-00001-of-00002.bin`.
struct Shard {
    number: u32,
    of: u32,
    /// Digits that both are padded to; 0 where they are not.
    width: usize,
}

fn shard(name: &str) -> Option<Shard> {
    let numbers = name.strip_prefix("pytorch_model-")?.strip_suffix(".bin")?;
    let (number, of) = numbers.split_once("-of-")?;
    let width = if number.len() == of.len() && of.starts_with('0') { of.len() } else { 0 };
    let parse = |digits: &str| {
        let plain = digits.len() <= 9 && digits.bytes().all(|digit| digit.is_ascii_digit());
        if plain { digits.parse().ok() } else { None }
    };
    Some(Shard { number: parse(number)?, of: parse(of)?, width })
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

    #[test]
    fn shards_say_how_many_they_are() {
        let two = ["pytorch_model-00001-of-00003.bin", "pytorch_model-00003-of-00003.bin"];
        assert_eq!(missing(&two), ["pytorch_model-00002-of-00003.bin"]);
        assert_eq!(missing(&["pytorch_model-2-of-2.bin"]), ["pytorch_model-1-of-2.bin"]);
        assert_eq!(missing(&[WHOLE]), [""; 0]);
        assert_eq!(missing(&["pytorch_model-1-of-999999999.bin"]), [""; 0]);
    }
}
