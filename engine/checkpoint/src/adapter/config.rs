//! `adapter_config.json`: rank, scale and kind of an adapter.

use std::collections::{BTreeMap, HashSet};

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Source, codes};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::dialects::Dialect;
use super::kinds::{self, Kind};
use super::pattern::ModulePattern;
use crate::pairs::{Pairs, place_in, span};
use crate::shown::shown;
use crate::small::not_json;

/// How the scale of an update follows from its α and its rank r.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// α / r.
    ByRank,
    /// α / √r: rank-stabilized LoRA, Kalajdzievski 2023, arXiv:2312.03732.
    ByRootOfRank,
}

/// Which biases were trained along. Information: the biases that count are those in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// All of the model.
    All,
    /// Those of the modules that have an update.
    LoraOnly,
}

/// What an `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The file, as messages show it.
    pub shown: String,
    /// Rank of an update where no pattern says otherwise; at least 1.
    pub rank: u64,
    /// α where no pattern says otherwise; finite and not 0.
    pub alpha: f64,
    /// How α and r become a scale.
    pub scaling: Scaling,
    /// Ranks of some modules. The first pattern that matches counts.
    pub rank_pattern: Vec<(ModulePattern, u64)>,
    /// α of some modules. The first pattern that matches counts.
    pub alpha_pattern: Vec<(ModulePattern, f64)>,
    /// Modules that were trained whole and replace the base's.
    pub modules_to_save: Vec<String>,
    /// Whether the base stores the weights of linear layers as [in, out], as GPT-2 does.
    pub fan_in_fan_out: bool,
    /// Which biases were trained along.
    pub bias: Bias,
    /// The modules that got an update, or one regular expression for them. Information: the
    /// updates that count are those in the file.
    pub target_modules: Vec<String>,
    /// The parameters outside linear layers that got an update: stacks of experts.
    pub target_parameters: Vec<String>,
    /// The base that the adapter was trained on. Information: the recipe names the base.
    pub base_model: Option<String>,
    /// The program whose names it has, where that is not peft.
    pub(super) dialect: Option<&'static Dialect>,
    /// Ranks and α by module, where the file of the factors says them.
    pub(super) own: BTreeMap<String, Own>,
    /// The kind, where it is no LoRA.
    pub(super) kind: Option<&'static Kind>,
    /// All that the file says, for what only one kind knows.
    pub(super) settings: Map<String, Value>,
}

/// What a module's own tensors say of its scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Own {
    /// At least 1.
    pub rank: u64,
    /// Finite and not 0.
    pub alpha: f64,
}

/// Settings under which an update is not the product of two factors, or is not all there is.
const REFUSED: [(&str, &str); 8] = [
    ("use_qalora", "QA-LoRA averages groups of inputs before the first factor"),
    ("use_bdlora", "BD-LoRA stores factors of blocks, which are put together in another way"),
    ("alora_invocation_tokens", "aLoRA acts on some tokens only, which no weight can say"),
    ("arrow_config", "Arrow chooses among adapters for each token, which no weight can say"),
    ("kasa_config", "KaSA has a third factor and changes the base's weights first"),
    ("monteclora_config", "MonteCLoRA adds random samples to its factors"),
    (
        "layer_replication",
        "the layers of its base were repeated before training, so that it belongs to another model",
    ),
    ("velora_config", "VeLoRA projects what flows through the layers"),
];

/// Variants that are read, or that say only how training went.
const KNOWN: [&str; 4] = ["use_cayley_neumann", "use_dora", "use_effective_conv2d", "use_rslora"];

/// Ways to start training that change the base's weights first. What is stored then belongs to
/// the changed base.
const CHANGES_BASE: [&str; 5] = ["corda", "loftq", "lora_ga", "olora", "pissa"];

impl AdapterConfig {
    /// Reads the text of an `adapter_config.json`; messages call it `name`.
    ///
    /// **Errors.** All that is wrong with it, each with its place: not JSON, another kind than
    /// LoRA, a rank of 0, numbers that are none, patterns that cannot be followed.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let source = Source::new(name, text);
        let pairs: Pairs<'_> = serde_json::from_str(source.text())
            .map_err(|error| vec![not_json(codes::ADAPTER_CONFIG, &source, &error)])?;
        let mut reader = Reader { source: &source, pairs: pairs.0, faults: Vec::new() };
        reader.repeated();
        let Some(kind) = reader.kind() else {
            // Another kind has other keys, whose absence is no second fault.
            return Err(reader.faults);
        };
        reader.refused();
        // What other kinds are scaled by, they read themselves.
        let (rank, alpha) = match kind {
            None => (
                reader.required("r", "r", Reader::rank),
                reader.required("lora_alpha", "α", Reader::alpha),
            ),
            Some(_) => {
                let raw = reader.get("r");
                let rank = raw.and_then(|raw| Reader::value(raw).as_u64()).filter(|rank| *rank > 0);
                (rank, None)
            }
        };
        let settings = reader.pairs.iter().map(|(key, raw)| (key.clone(), Reader::value(raw)));
        let settings = settings.collect();
        let is_stabilized = reader.flag("use_rslora");
        let config = Self {
            rank: rank.unwrap_or(1),
            alpha: alpha.unwrap_or(1.0),
            scaling: if is_stabilized { Scaling::ByRootOfRank } else { Scaling::ByRank },
            rank_pattern: reader.patterns("rank_pattern", Reader::rank),
            alpha_pattern: reader.patterns("alpha_pattern", Reader::alpha),
            modules_to_save: reader.names("modules_to_save"),
            fan_in_fan_out: reader.flag("fan_in_fan_out"),
            bias: reader.bias(),
            target_modules: reader.names("target_modules"),
            target_parameters: reader.names("target_parameters"),
            base_model: reader.text("base_model_name_or_path"),
            kind,
            settings,
            ..Self::plain(name)
        };
        if reader.faults.is_empty() { Ok(config) } else { Err(reader.faults) }
    }

    /// A LoRA of rank 1 and α 1 of which nothing else is said.
    pub(super) fn plain(shown: &str) -> Self {
        Self {
            shown: shown.to_owned(),
            rank: 1,
            alpha: 1.0,
            scaling: Scaling::ByRank,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            fan_in_fan_out: false,
            bias: Bias::None,
            target_modules: Vec::new(),
            target_parameters: Vec::new(),
            base_model: None,
            dialect: None,
            own: BTreeMap::new(),
            kind: None,
            settings: Map::new(),
        }
    }

    /// Whether it is of a kind, as `peft_type` calls it.
    pub fn is_kind(&self, peft_type: &str) -> bool {
        self.kind.map_or("LORA", |kind| kind.peft_type) == peft_type
    }

    /// The rank that a module's update must have. `module` is named as in the adapter.
    pub fn rank_of(&self, module: &str) -> u64 {
        let own = self.own.get(module).map(|own| own.rank);
        own.or_else(|| first(&self.rank_pattern, module)).unwrap_or(self.rank)
    }

    /// The α of a module's update.
    pub fn alpha_of(&self, module: &str) -> f64 {
        let own = self.own.get(module).map(|own| own.alpha);
        own.or_else(|| first(&self.alpha_pattern, module)).unwrap_or(self.alpha)
    }

    /// The factor on the product of a module's two factors.
    pub fn scale_of(&self, module: &str) -> f64 {
        let rank = self.rank_of(module) as f64;
        match self.scaling {
            Scaling::ByRank => self.alpha_of(module) / rank,
            Scaling::ByRootOfRank => self.alpha_of(module) / rank.sqrt(),
        }
    }
}

fn first<T: Copy>(patterns: &[(ModulePattern, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
}

/// Reads keys and gathers what is wrong with them.
struct Reader<'a> {
    source: &'a Source,
    pairs: Vec<(String, &'a RawValue)>,
    faults: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    /// The value of a key; null counts as absent, as peft writes it.
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        let found = self.pairs.iter().find(|(known, _)| known == key)?.1;
        (found.get() != "null").then_some(found)
    }

    fn value(raw: &RawValue) -> Value {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }

    fn fault(&mut self, raw: &RawValue, headline: String) -> &mut Diagnostic {
        self.fault_of(codes::ADAPTER_CONFIG, raw, headline)
    }

    fn fault_of(
        &mut self,
        code: mixdown_diagnostics::Code,
        raw: &RawValue,
        headline: String,
    ) -> &mut Diagnostic {
        let at = place_in(self.source.text(), raw);
        let place = span(self.source, at, raw.get());
        self.faults.push(Diagnostic::error(code, headline).at(self.source, place));
        self.faults.last_mut().expect("a fault was just added")
    }

    fn whole_fault(&mut self, headline: String, help: &str) {
        let fault = Diagnostic::error(codes::ADAPTER_CONFIG, headline);
        self.faults.push(fault.in_file(self.source.name()).help(help));
    }

    fn repeated(&mut self) {
        let mut known = HashSet::new();
        let twice: Vec<(String, &RawValue)> =
            self.pairs.iter().filter(|(key, _)| !known.insert(key.clone())).cloned().collect();
        for (key, raw) in twice {
            self.fault(raw, format!("`{}` is given twice", shown(&key)));
        }
    }

    /// The kind, where it is one that is read; of a LoRA there is none besides it.
    fn kind(&mut self) -> Option<Option<&'static Kind>> {
        let Some(raw) = self.get("peft_type") else {
            let headline = "an adapter's configuration has no `peft_type`".to_owned();
            self.whole_fault(headline, "write `\"peft_type\": \"LORA\"` if it is a LoRA adapter");
            return None;
        };
        match Self::value(raw) {
            Value::String(kind) if kind == "LORA" => Some(None),
            Value::String(kind) => {
                if let Some(found) = kinds::find(&kind) {
                    return Some(Some(found));
                }
                let headline =
                    format!("the adapter is of kind `{}`, which is not supported", shown(&kind));
                let fault = self.fault_of(codes::ADAPTER_KIND, raw, headline);
                match kinds::reason(&kind) {
                    // No merge can do what such a kind does.
                    Some(reason) => fault.notes.push(reason.to_owned()),
                    None => {
                        let names = kinds::names().join(", ");
                        fault.notes.push(format!("kinds that are read: {names}"));
                        let help = "merge it into its base with peft, and name the result";
                        fault.help = Some(help.into());
                    }
                }
                None
            }
            _ => {
                self.fault(raw, "`peft_type` must be a text".to_owned());
                None
            }
        }
    }

    fn refused(&mut self) {
        let help = "merge it into its base with peft, and name the result";
        let mut found: Vec<(String, &RawValue, String)> = Vec::new();
        for (key, raw) in &self.pairs {
            let raw = *raw;
            if !is_set(&Self::value(raw)) {
                continue;
            }
            if let Some((_, reason)) = REFUSED.iter().find(|(known, _)| known == key) {
                found.push((key.clone(), raw, (*reason).to_owned()));
            } else if key.starts_with("use_")
                && !KNOWN.contains(&key.as_str())
                && raw.get() == "true"
            {
                let reason = "what this variant changes is not known here".to_owned();
                found.push((key.clone(), raw, reason));
            }
        }
        for (key, raw, reason) in found {
            let headline =
                format!("the adapter was made with `{}`, which is not supported", shown(&key));
            let help = match key.as_str() {
                "layer_replication" => {
                    "repeat the layers of the base with a recipe of `slices`, and name its result as the base"
                }
                "alora_invocation_tokens" | "arrow_config" => {
                    "it cannot be merged; give it to the program that runs the model"
                }
                _ => help,
            };
            let fault = self.fault_of(codes::ADAPTER_KIND, raw, headline);
            fault.notes.push(reason);
            fault.help = Some(help.to_owned());
        }
        let Some(raw) = self.get("init_lora_weights") else { return };
        let Value::String(start) = Self::value(raw) else { return };
        let lower = start.to_lowercase();
        if CHANGES_BASE.iter().any(|known| lower.starts_with(known)) {
            let headline = format!(
                "the adapter was started with `{}`, which changes the base's weights",
                shown(&start)
            );
            let fault = self.fault_of(codes::ADAPTER_KIND, raw, headline);
            fault.notes.push("its update belongs to the changed base, not to the original".into());
            fault.help = Some(
                "save it again with peft's `path_initial_model_for_weight_conversion`, which makes \
                 it a plain LoRA"
                    .to_owned(),
            );
        }
    }

    fn required<T>(
        &mut self,
        key: &str,
        symbol: &str,
        read: fn(&mut Self, &str, &'a RawValue) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(raw) => read(self, key, raw),
            None => {
                let headline = format!("an adapter's configuration has no `{key}`");
                let help = format!(
                    "write the `{key}` that the adapter was trained with; its scale depends on {symbol}"
                );
                self.whole_fault(headline, &help);
                None
            }
        }
    }

    fn rank(&mut self, key: &str, raw: &'a RawValue) -> Option<u64> {
        let value = Self::value(raw);
        match value.as_u64() {
            Some(rank @ 1..) => return Some(rank),
            _ if value.is_number() => {
                let headline = format!(
                    "`{}` must be a whole number from 1 on, found {}",
                    shown(key),
                    shown(raw.get())
                );
                let help = "write the rank that `lora_A` has as its first dimension";
                self.fault(raw, headline).help = Some(help.to_owned());
            }
            _ => self.not_a_number(key, raw),
        }
        None
    }

    fn alpha(&mut self, key: &str, raw: &'a RawValue) -> Option<f64> {
        let value = Self::value(raw);
        match value.as_f64() {
            Some(alpha) if alpha.is_finite() && alpha != 0.0 => return Some(alpha),
            Some(_) => {
                let headline = format!(
                    "`{}` must be finite and not 0, found {}",
                    shown(key),
                    shown(raw.get())
                );
                let note = "the scale of an update is α / r, or α / √r";
                self.fault(raw, headline).notes.push(note.to_owned());
            }
            None => self.not_a_number(key, raw),
        }
        None
    }

    fn not_a_number(&mut self, key: &str, raw: &'a RawValue) {
        let headline = format!("`{}` must be a number, found {}", shown(key), shown(raw.get()));
        let fault = self.fault(raw, headline);
        let bare = raw.get().trim_matches('"');
        if bare.parse::<f64>().is_ok_and(f64::is_finite) {
            fault.help = Some(format!("write {} without quotes", shown(bare)));
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(raw) = self.get(key) else { return false };
        match Self::value(raw) {
            Value::Bool(is_set) => is_set,
            _ => {
                let found = shown(raw.get()).into_owned();
                self.fault(raw, format!("`{key}` must be true or false, found {found}"));
                false
            }
        }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let raw = self.get(key)?;
        match Self::value(raw) {
            Value::String(text) => Some(text),
            _ => {
                self.fault(raw, format!("`{key}` must be a text"));
                None
            }
        }
    }

    /// A list of texts; a single text counts as a list of one.
    fn names(&mut self, key: &str) -> Vec<String> {
        let Some(raw) = self.get(key) else { return Vec::new() };
        match serde_json::from_str::<Names>(raw.get()) {
            Ok(Names::One(name)) => vec![name],
            Ok(Names::Many(names)) => names,
            Err(_) => {
                self.fault(raw, format!("`{key}` must be a list of texts"));
                Vec::new()
            }
        }
    }

    fn patterns<T>(
        &mut self,
        key: &str,
        read: fn(&mut Self, &str, &'a RawValue) -> Option<T>,
    ) -> Vec<(ModulePattern, T)> {
        let Some(raw) = self.get(key) else { return Vec::new() };
        let Ok(pairs) = serde_json::from_str::<Pairs<'a>>(raw.get()) else {
            self.fault(raw, format!("`{key}` must be a map from modules to numbers"));
            return Vec::new();
        };
        let mut patterns = Vec::new();
        for (name, raw) in pairs.0 {
            let value = read(self, &name, raw);
            match ModulePattern::parse(&name) {
                Ok(pattern) => patterns.extend(value.map(|value| (pattern, value))),
                Err(why) => {
                    let headline = format!(
                        "`{}` in `{key}` is no regular expression that can be followed",
                        shown(&name)
                    );
                    let fault = self.fault_of(codes::ADAPTER_KIND, raw, headline);
                    fault.notes.push(shown(&why).into_owned());
                    fault.help = Some("write one entry for each module that it means".to_owned());
                }
            }
        }
        patterns
    }

    fn bias(&mut self) -> Bias {
        const KINDS: [(&str, Bias); 3] =
            [("none", Bias::None), ("all", Bias::All), ("lora_only", Bias::LoraOnly)];
        let Some(raw) = self.get("bias") else { return Bias::None };
        let value = Self::value(raw);
        let word = value.as_str().unwrap_or_default();
        if let Some((_, bias)) = KINDS.iter().find(|(known, _)| *known == word) {
            return *bias;
        }
        let headline =
            format!("`bias` must be `none`, `all` or `lora_only`, found {}", shown(raw.get()));
        let near = nearest(word, KINDS.iter().map(|(known, _)| *known));
        self.fault(raw, headline).help = near.map(|near| format!("did you mean `{near}`?"));
        Bias::None
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

/// Whether a setting is there: not null, false, 0 or empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_set) => *is_set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
