//! The built-in architectures against headers of small checkpoints: what is matched, required and sized.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mixdown_kit::published::written_out;
use mixdown_plan::Architectures;
use mixdown_plan::knowledge::{facts, number, sizes};
use mixdown_recipe::Architecture;
use mixdown_recipe::architecture::{Module, Size, TensorTemplate};
use serde_json::Value;

/// A checkpoint's header with its configuration, from `tests/headers`.
struct Header {
    file: String,
    architecture: String,
    config: Value,
    tensors: BTreeMap<String, Vec<u64>>,
}

fn headers() -> Vec<Header> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/headers");
    let mut paths: Vec<_> = [folder.clone(), folder.join("published")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    let found: Vec<Header> = paths
        .iter()
        .filter_map(|path| {
            let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            // Null is of a family that no file describes, whose models are merged by names.
            let architecture = value["architecture"].as_str()?.to_owned();
            let mut tensors = BTreeMap::new();
            for (name, shape) in written_out(value["tensors"].as_object().unwrap()) {
                assert!(tensors.insert(name.clone(), shape).is_none(), "{name}");
            }
            Some(Header {
                file: path.file_name().unwrap().to_string_lossy().into_owned(),
                architecture,
                config: value["config"].clone(),
                tensors,
            })
        })
        .collect();
    assert!(!found.is_empty());
    found
}

fn known(header: &Header) -> &'static Architecture {
    Architectures::built_in().get(&header.architecture).unwrap_or_else(|| panic!("{}", header.file))
}

fn names(header: &Header) -> impl Iterator<Item = &str> + Clone {
    header.tensors.keys().map(String::as_str)
}

#[test]
fn every_architecture_has_a_header() {
    let headers: BTreeSet<String> =
        headers().into_iter().map(|header| header.architecture).collect();
    let known: BTreeSet<String> =
        Architectures::built_in().iter().map(|one| one.name.value.clone()).collect();
    assert_eq!(headers, known);
}

#[test]
fn every_tensor_is_matched_exactly_once() {
    for header in headers() {
        for name in names(&header) {
            let found: Vec<String> = known(&header)
                .find(name)
                .map(|(module, tensor, _)| format!("{}: {}", module.name, tensor.template))
                .collect();
            assert_eq!(found.len(), 1, "{}: {name} {found:?}", header.file);
        }
    }
}

/// The names that a template stands for under one prefix; nothing where a count is not known.
fn expanded(
    header: &Header,
    module: &Module,
    prefix: &str,
    tensor: &TensorTemplate,
) -> Option<Vec<String>> {
    let sizes = sizes(known(header), &header.config);
    let value = |size: &Size| {
        size.value(&|name| sizes.get(name).copied().or_else(|| number(&header.config, name)))
    };
    let mut found: Vec<Vec<(char, u64)>> = vec![Vec::new()];
    for letter in tensor.template.letters() {
        let count = value(module.count(letter).unwrap())?;
        found = found
            .iter()
            .flat_map(|numbers| {
                (0..count).map(|number| {
                    let mut numbers = numbers.clone();
                    numbers.push((letter, number));
                    numbers
                })
            })
            .collect();
    }
    Some(found.iter().map(|numbers| format!("{prefix}{}", tensor.template.name(numbers))).collect())
}

#[test]
fn every_required_tensor_is_there() {
    for header in headers() {
        let tied = ["text_config", "llm_config"]
            .into_iter()
            .filter_map(|part| header.config.get(part))
            .chain([&header.config])
            .find_map(|config| config.get("tie_word_embeddings"))
            .is_none_or(|tied| *tied == Value::Bool(true));
        let mut checked = 0;
        for module in &known(&header).modules {
            let of = |prefix: &&String| {
                let has = |tensor: &TensorTemplate| {
                    names(&header).any(|name| {
                        name.strip_prefix(prefix.as_str())
                            .is_some_and(|rest| tensor.template.captures(rest).is_some())
                    })
                };
                module.tensors.iter().any(has)
            };
            let Some(prefix) = module.prefixes.iter().find(of) else {
                let can_lack = module.is_optional
                    || module.tensors.iter().all(|tensor| tensor.tied_to.is_some() && tied);
                assert!(can_lack, "{}: no tensor of {}", header.file, module.name);
                continue;
            };
            for tensor in &module.tensors {
                if tensor.is_optional || (tensor.tied_to.is_some() && tied) {
                    continue;
                }
                for name in expanded(&header, module, prefix, tensor).into_iter().flatten() {
                    assert!(header.tensors.contains_key(&name), "{}: no {name}", header.file);
                    checked += 1;
                }
            }
        }
        assert!(checked > 0 || header.architecture == "modelcompose", "{}", header.file);
    }
}

#[test]
fn shapes_are_what_the_configuration_says() {
    for header in headers() {
        let architecture = known(&header);
        let sizes = sizes(architecture, &header.config);
        let value = |size: &Size| size.value(&|name| sizes.get(name).copied());
        let mut known_sizes = 0;
        for (name, shape) in &header.tensors {
            let tensor = facts(architecture, name).unwrap().tensor;
            assert_eq!(tensor.axes.len(), shape.len(), "{}: {name}", header.file);
            for (axis, size) in tensor.axes.iter().zip(shape) {
                let said = value(axis);
                known_sizes += usize::from(said.is_some());
                assert_eq!(said.unwrap_or(*size), *size, "{}: {name} {axis:?}", header.file);
            }
            if let Some(fused) = &tensor.fused {
                let parts: u64 = fused.parts.iter().map(|(_, size)| value(size).unwrap()).sum();
                let outputs = if tensor.is_transposed { shape.last() } else { shape.first() };
                assert_eq!(Some(&parts), outputs, "{}: {name}", header.file);
            }
        }
        assert!(known_sizes > header.tensors.len() / 2, "{}", header.file);
    }
}

#[test]
fn the_configuration_tells_the_family() {
    for header in headers() {
        let found = Architectures::built_in().recognize([].into_iter(), Some(&header.config));
        let found = found.map(|one| one.name.value.as_str());
        assert_eq!(found, Some(header.architecture.as_str()), "{}", header.file);
        let found = Architectures::built_in().recognize(names(&header), Some(&header.config));
        let found = found.map(|one| one.name.value.as_str());
        assert_eq!(found, Some(header.architecture.as_str()), "{}", header.file);
    }
}

#[test]
fn the_tensors_alone_tell_the_family() {
    for header in headers() {
        let expected = match header.architecture.as_str() {
            // Their names are those of another family, and only the configuration tells them apart.
            "mistral" | "gemma" => "llama",
            "sharegpt4v" => "llava_original",
            other => other,
        };
        let found = Architectures::built_in().recognize(names(&header), None);
        assert_eq!(found.map(|one| one.name.value.as_str()), Some(expected), "{}", header.file);
    }
}

#[test]
fn models_with_a_second_set_of_weights_for_images_say_so() {
    let second: BTreeSet<&str> = Architectures::built_in()
        .iter()
        .filter(|one| {
            one.modules
                .iter()
                .any(|module| module.tensors.iter().any(|tensor| tensor.duplicate_of.is_some()))
        })
        .map(|one| one.name.value.as_str())
        .collect();
    assert_eq!(second, BTreeSet::from(["cogvlm", "mplug_owl2"]));
}
