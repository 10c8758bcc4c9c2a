//! Files of factors without an adapter_config.json, as ModelCompose stores them: one or more adapters, each
//! with a name, beside tensors that belong to none of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use super::config::AdapterConfig;
use super::files::{AdapterFiles, WEIGHTS};
use super::names::{Role, role};
use super::{Adapter, AddedFrom};
use crate::index::Index;
use crate::open::open_as;
use crate::shown::{shown, shown_path, some_of};
use crate::small;
use crate::stored;

/// What is wanted of a file of factors.
#[derive(Clone, Copy)]
pub struct FactorsSpec<'a> {
    /// Name of the adapter within the file.
    pub adapter: &'a str,
    /// Its rank. By default `lora_r` of config.json beside the file, or what its factors have.
    pub rank: Option<u64>,
    /// Its α. By default `lora_alpha` of config.json beside the file.
    pub alpha: Option<f64>,
    /// Whether a tensor of this name is somebody else's business.
    pub is_elsewhere: &'a dyn Fn(&str) -> bool,
}

/// An opened file of factors, not yet brought together with a base.
#[derive(Clone, Debug)]
pub struct FactorsFile {
    /// All that is in the file and nobody else's business, as an adapter.
    pub files: AdapterFiles,
    /// The tensors of the adapter that is wanted, and what stands in for tensors of the base.
    factors: Index,
    /// The config.json beside it.
    pub config: Option<Value>,
    /// `lora_alpha` as config.json or adapter_config.json beside it states it.
    pub own_alpha: Option<f64>,
    /// What belongs neither to the adapter nor to the base: the other adapters and the tokens, with
    /// counts of their tensors.
    pub left: Vec<(String, usize)>,
}

impl FactorsFile {
    /// Finds the tensors of the base that the adapter changes.
    ///
    /// **Errors.** Those of [`Adapter::resolve`]: a tensor that means nothing in the base is one.
    pub fn resolve(
        &self,
        base: &Index,
        base_config: Option<&Value>,
    ) -> Result<Adapter, Vec<Diagnostic>> {
        let config = self.files.config.clone();
        let mut adapter = Adapter::resolve(&self.factors, config, base, base_config)?;
        if adapter.index.is_some() {
            let headline = "the file holds more than the two factors of each update";
            let fault = Diagnostic::error(codes::ADAPTER_KIND, headline).in_file(&self.files.name);
            return Err(vec![fault.note("magnitudes and biases are read of adapters of peft")]);
        }
        let position = |position: u32| {
            let name = &self.factors.tensors()[position as usize].name;
            self.files.index.position(name).expect("factors are tensors of their file") as u32
        };
        for update in &mut adapter.updates {
            (update.left, update.right) = (position(update.left), position(update.right));
        }
        for replacement in &mut adapter.replacements {
            replacement.adapter_tensor = position(replacement.adapter_tensor);
        }
        for addition in &mut adapter.additions {
            if let AddedFrom::Adapter(at) = &mut addition.from {
                *at = position(*at);
            }
            if let Some(update) = &mut addition.update {
                (update.left, update.right) = (position(update.left), position(update.right));
            }
        }
        Ok(adapter)
    }
}

/// Opens a file of factors, or the folder that it is in. Messages call it `name`.
///
/// **Errors.** What is wrong with the file, an adapter that is not in it, and a scale that nothing tells.
pub fn open_factors_as(
    name: &str,
    path: &Path,
    spec: &FactorsSpec<'_>,
) -> Result<FactorsFile, Vec<Diagnostic>> {
    let mut name = name.trim_end_matches('/').to_owned();
    let mut path = path.to_owned();
    if fs::metadata(&path).is_ok_and(|found| found.is_dir())
        && let Some(file) = WEIGHTS.iter().find(|file| stored::is_there(&path.join(file)))
    {
        name = format!("{name}/{file}");
        path = path.join(file);
    }
    let checkpoint = open_as(&name, &path, None)?;
    let named = |tensor: &str| (!(spec.is_elsewhere)(tensor)).then(|| tensor.to_owned());
    let index = renamed(&checkpoint.index, &named);
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let mut adapters: BTreeMap<String, usize> = BTreeMap::new();
    let mut tokens = 0;
    for tensor in index.tensors() {
        match owner(&tensor.name) {
            Owner::Adapter(adapter) => {
                *adapters.entry(adapter.to_owned()).or_default() += 1;
                if adapter != spec.adapter {
                    *others.entry(format!("the adapter `{}`", shown(adapter))).or_default() += 1;
                }
            }
            Owner::Tokens => tokens += 1,
            Owner::Base => {}
        }
    }
    if !adapters.contains_key(spec.adapter) {
        let headline = format!("the file holds no adapter called `{}`", shown(spec.adapter));
        let fault = Diagnostic::error(codes::FACTORS_MISSING, headline).in_file(&name);
        let found: Vec<&str> = adapters.keys().map(String::as_str).collect();
        return Err(vec![match found.as_slice() {
            [] => fault.note("none of its tensors is a factor of an adapter"),
            [one] => fault
                .fact("adapters", some_of(&found))
                .help(format!("write `name: {}`", shown(one))),
            _ => fault.fact("adapters", some_of(&found)).help("state one of them as `name`"),
        }]);
    }
    if tokens > 0 {
        others.insert("tokens".to_owned(), tokens);
    }
    let is_wanted = |tensor: &str| match owner(tensor) {
        Owner::Adapter(adapter) => adapter == spec.adapter,
        Owner::Tokens => false,
        Owner::Base => true,
    };
    let factors = renamed(&index, &|tensor| is_wanted(tensor).then(|| tensor.to_owned()));
    let own = config(&name, spec, checkpoint.config.as_ref(), &factors)?;
    let warnings = Vec::new();
    let files = AdapterFiles { name, root: checkpoint.root, index, config: own, warnings };
    let (config, left) = (checkpoint.config, others.into_iter().collect());
    let beside = path.parent().map(|folder| folder.join("adapter_config.json"));
    let adapter_config = match beside {
        Some(path) => {
            small::json_if_there(&path, &shown_path(&path)).map_err(|fault| vec![*fault])?
        }
        None => None,
    };
    let own_alpha = [&config, &adapter_config]
        .into_iter()
        .flatten()
        .find_map(|config| config.get("lora_alpha")?.as_f64());
    Ok(FactorsFile { files, factors, config, own_alpha, left })
}

/// Names that stay as they are stay different.
fn renamed(index: &Index, name: &dyn Fn(&str) -> Option<String>) -> Index {
    index.renamed(name).expect("tensors of one index have different names")
}

/// Whose a tensor is.
enum Owner<'a> {
    Adapter(&'a str),
    Tokens,
    /// The base's, if it has one of that name.
    Base,
}

fn owner(name: &str) -> Owner<'_> {
    let bare = name.strip_prefix("model.").unwrap_or(name);
    if bare.starts_with("prefix_tokens.") || bare.starts_with("suffix_tokens.") {
        return Owner::Tokens;
    }
    match role(name) {
        // What has no name is the only one, which programs call so.
        Role::Factor { adapter, .. } => Owner::Adapter(adapter.unwrap_or("default")),
        Role::Parameter { adapter, .. }
        | Role::Magnitude { adapter, .. }
        | Role::Bias { adapter, .. } => Owner::Adapter(adapter.unwrap_or("default")),
        Role::Replacement { .. }
        | Role::Original
        | Role::OfKind { .. }
        | Role::Tokens { .. }
        | Role::Shared(_)
        | Role::Unsupported(_) => Owner::Base,
    }
}

fn config(
    name: &str,
    spec: &FactorsSpec<'_>,
    beside: Option<&Value>,
    factors: &Index,
) -> Result<AdapterConfig, Vec<Diagnostic>> {
    let told = |key: &str| beside.and_then(|config| config.get(key)).filter(|v| !v.is_null());
    let fault = |headline: String, help: &str| {
        vec![Diagnostic::error(codes::SCALE_UNKNOWN, headline).in_file(name).help(help)]
    };
    let alpha = match (spec.alpha, told("lora_alpha")) {
        (Some(alpha), _) => alpha,
        (None, Some(value)) => {
            let alpha = value.as_f64().filter(|alpha| alpha.is_finite() && *alpha != 0.0);
            alpha.ok_or_else(|| {
                let headline = format!(
                    "`lora_alpha` of config.json must be finite and not 0, found {}",
                    shown(&value.to_string())
                );
                fault(headline, "state the adapter's α in the recipe: `alpha: NUMBER`")
            })?
        }
        (None, None) => {
            let headline = "nothing says what α the adapter was trained with".to_owned();
            let help = "state it in the recipe, `alpha: NUMBER`, or put config.json with `lora_alpha` beside the file";
            return Err(fault(headline, help));
        }
    };
    let own_rank = || {
        let first = factors.tensors().iter().find(|tensor| tensor.name.contains(".lora_A."))?;
        first.shape.dimensions().first().copied()
    };
    let rank = match (spec.rank, told("lora_r")) {
        (Some(rank), _) => Some(rank),
        (None, Some(value)) => value.as_u64().filter(|rank| *rank > 0),
        (None, None) => own_rank(),
    };
    // A rank of 0 is refused with the factors' shapes.
    let rank = rank.filter(|rank| *rank > 0).unwrap_or(1);
    Ok(AdapterConfig { rank, alpha, ..AdapterConfig::plain(name) })
}
