//! mergekit's switches: what each does here.

use std::num::NonZeroUsize;

use mixdown_diagnostics::{Diagnostic, codes, suggest};

use crate::size;

/// What the arguments say.
#[derive(Debug, Default)]
pub struct Understood {
    pub config: String,
    pub out: String,
    pub shard_bytes: Option<u64>,
    pub threads: Option<NonZeroUsize>,
    pub seed: Option<u64>,
    pub allows_crimes: bool,
    pub warnings: Vec<Diagnostic>,
}

/// What a switch does.
#[derive(Clone, Copy)]
enum Effect {
    /// Nothing, and nobody needs to know: it is always so here, or about mergekit's own work.
    Nothing,
    /// Nothing, for a reason that is told.
    Told(&'static str),
    /// It cannot be followed: why, and what to do.
    Refused(&'static str, &'static str),
    AllowCrimes,
    ShardSize,
    Threads,
    Seed,
    Device,
}

struct Switch {
    name: &'static str,
    /// Whether a word follows; all others have a twin that begins with `--no-`.
    takes_value: bool,
    effect: Effect,
    /// Of the twin.
    without: Effect,
}

const fn flag(name: &'static str, effect: Effect, without: Effect) -> Switch {
    Switch { name, takes_value: false, effect, without }
}

const fn valued(name: &'static str, effect: Effect) -> Switch {
    Switch { name, takes_value: true, effect, without: Effect::Nothing }
}

const ON_CPU: Effect = Effect::Told("merges run on the processor, as fast as the disk");

static SWITCHES: &[Switch] = &[
    flag("--allow-crimes", Effect::AllowCrimes, Effect::Nothing),
    flag("--async-write", Effect::Nothing, Effect::Nothing),
    flag("--clone-tensors", Effect::Nothing, Effect::Nothing),
    flag(
        "--copy-tokenizer",
        Effect::Nothing,
        Effect::Told("the tokenizer's files are always copied, as they belong to the model"),
    ),
    flag("--cuda", ON_CPU, Effect::Nothing),
    valued("--device", Effect::Device),
    flag("--gpu-rich", ON_CPU, Effect::Nothing),
    flag("--lazy-unpickle", Effect::Nothing, Effect::Nothing),
    valued("--lora-merge-cache", Effect::Nothing),
    valued(
        "--lora-merge-dtype",
        Effect::Told("adapters are added in the arithmetic of the merge, and rounded once"),
    ),
    flag("--low-cpu-memory", Effect::Nothing, Effect::Nothing),
    flag("--multi-gpu", ON_CPU, Effect::Nothing),
    valued("--num-threads", Effect::Threads),
    valued("--out-shard-size", Effect::ShardSize),
    flag("--quiet", Effect::Nothing, Effect::Nothing),
    valued("--random-seed", Effect::Seed),
    flag("--read-to-gpu", ON_CPU, Effect::Nothing),
    flag(
        "--safe-serialization",
        Effect::Nothing,
        Effect::Told(
            "weights are always written as safetensors, which every loader of pickles reads too",
        ),
    ),
    valued(
        "--transformers-cache",
        Effect::Told("models of the hub come from and go to the folder that HF_HUB_CACHE names"),
    ),
    flag("--trust-remote-code", Effect::Told("no code of a model is ever run"), Effect::Nothing),
    flag(
        "--unsafe-truncate-embeddings",
        Effect::Refused(
            "embeddings are not cut to the smallest vocabulary",
            "write `tokenizer_source: base` or `union` in the configuration: rows are then matched by token",
        ),
        Effect::Nothing,
    ),
    flag("--verbose", Effect::Nothing, Effect::Nothing),
    flag("--write-model-card", Effect::Nothing, Effect::Told("the model card is always written")),
    valued("--write-threads", Effect::Nothing),
];

/// What `--help` shows of them.
pub const HELP: &str = "\
Switches that decide something:
  --out-shard-size SIZE            largest file of weights, 5B by default
  --random-seed N                  seed of all random draws
  --num-threads N, -j N            threads
  --allow-crimes                   merge models of different architectures
  --quiet                          say nothing but errors
  --device cpu                     the processor; others have no effect

Switches without effect, alone or told with a reason:
  --lora-merge-cache PATH          adapters are added while they are read, and kept nowhere
  --lora-merge-dtype TYPE          they are added in the arithmetic of the merge
  --transformers-cache PATH        HF_HUB_CACHE names the hub's cache
  --cuda, --gpu-rich, --low-cpu-memory, --multi-gpu, --read-to-gpu
  --lazy-unpickle, --clone-tensors, --async-write, --write-threads N
  --copy-tokenizer, --write-model-card, --safe-serialization, --trust-remote-code
  -v, --verbose

Each that takes no value has a twin with --no-. --unsafe-truncate-embeddings is an error: rows of
embeddings are matched by token, with tokenizer_source in the configuration.

Examples:
  mixdown mergekit-yaml config.yml merged
  mixdown mergekit-yaml config.yml merged --cuda --lazy-unpickle --out-shard-size 2B

Exit status: 0 done, 1 failed, 2 configuration or command line wrong, 130 interrupted.";

/// Understands mergekit's arguments, or says all that is wrong with them.
pub fn understand(words: &[String]) -> Result<Understood, Vec<Diagnostic>> {
    let mut found = Understood::default();
    let mut errors = Vec::new();
    let mut plain: Vec<&str> = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if !word.starts_with('-') || word == "-" {
            plain.push(word);
            continue;
        }
        // `-vv` as mergekit counts it.
        if word.len() > 1 && word[1..].chars().all(|letter| letter == 'v') {
            continue;
        }
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let name = if name == "-j" { "--num-threads" } else { name };
        let own = SWITCHES.iter().find(|switch| switch.name == name);
        let twin = || {
            let name = format!("--{}", name.strip_prefix("--no-")?);
            SWITCHES.iter().find(|switch| switch.name == name && !switch.takes_value)
        };
        let (switch, effect) = match (own, own.is_none().then(twin).flatten()) {
            (Some(switch), _) => (switch, switch.effect),
            (None, Some(switch)) => (switch, switch.without),
            (None, None) => {
                errors.push(unknown(name));
                continue;
            }
        };
        let value = match (switch.takes_value, attached) {
            (false, Some(_)) => {
                let headline = format!("`{name}` takes no value");
                errors.push(Diagnostic::error(codes::MERGEKIT_SWITCH, headline));
                continue;
            }
            (false, None) => "",
            (true, Some(value)) => value,
            (true, None) => match words.next() {
                Some(value) => value,
                None => {
                    let headline = format!("`{name}` takes a value, and nothing follows");
                    errors.push(Diagnostic::error(codes::MERGEKIT_SWITCH, headline));
                    continue;
                }
            },
        };
        if let Err(error) = follow(&mut found, name, effect, value) {
            errors.push(*error);
        }
    }
    match plain.as_slice() {
        [config, out] => {
            (found.config, found.out) = ((*config).to_owned(), (*out).to_owned());
        }
        other => {
            let headline = format!(
                "a configuration and a folder to make are needed, found {} words",
                other.len()
            );
            let mut error = Diagnostic::error(codes::MERGEKIT_SWITCH, headline);
            if !other.is_empty() {
                error = error.fact("found", other.join(" "));
            }
            errors.push(
                error.help("write `mixdown mergekit-yaml CONFIG OUT`, and switches after it"),
            );
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

fn follow(
    found: &mut Understood,
    name: &str,
    effect: Effect,
    value: &str,
) -> Result<(), Box<Diagnostic>> {
    let no_number = |what: &str| {
        let headline = format!("`{name}` is {what}, found `{value}`");
        Box::new(Diagnostic::error(codes::MERGEKIT_SWITCH, headline))
    };
    match effect {
        Effect::Nothing => {}
        Effect::Told(why) => found.warnings.push(without_effect(name, why)),
        Effect::Refused(why, help) => {
            let headline = format!("`{name}` cannot be followed: {why}");
            return Err(Box::new(Diagnostic::error(codes::MERGEKIT_SWITCH, headline).help(help)));
        }
        Effect::AllowCrimes => found.allows_crimes = true,
        Effect::ShardSize => {
            let bytes =
                size::parse(value).map_err(|why| Box::new(no_number("a size").help(why)))?;
            found.shard_bytes = Some(bytes);
        }
        Effect::Threads => {
            let threads = value.parse().map_err(|_| no_number("a whole number from 1"))?;
            found.threads = Some(threads);
        }
        Effect::Seed => {
            let seed = value.parse().map_err(|_| no_number("a whole number from 0"))?;
            found.seed = Some(seed);
        }
        Effect::Device if matches!(value, "cpu" | "auto") => {}
        Effect::Device => {
            let why = "merges run on the processor, as fast as the disk";
            found.warnings.push(without_effect(&format!("{name} {value}"), why));
        }
    }
    Ok(())
}

fn without_effect(name: &str, why: &str) -> Diagnostic {
    let headline = format!("`{name}` has no effect: {why}");
    Diagnostic::warning(codes::MERGEKIT_UNUSED, headline)
}

fn unknown(name: &str) -> Diagnostic {
    let headline = format!("mergekit-yaml has no switch `{name}`");
    let error = Diagnostic::error(codes::MERGEKIT_SWITCH, headline);
    match suggest::nearest(name, SWITCHES.iter().map(|switch| switch.name)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("`mixdown mergekit-yaml --help` lists them; switches of `mixdown merge` itself, such as --memory, come before the configuration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Understood, Vec<Diagnostic>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        understand(&words)
    }

    fn wrong(line: &str) -> String {
        let errors = of(line).expect_err("the line is wrong");
        errors.iter().map(|error| error.headline.as_str()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_decides_is_followed_wherever_it_stands() {
        let found =
            of("--random-seed 7 c.yml --out-shard-size=2B out -j 3 --allow-crimes").unwrap();
        assert_eq!((found.config.as_str(), found.out.as_str()), ("c.yml", "out"));
        assert_eq!(found.shard_bytes, Some(2_000_000_000));
        assert_eq!((found.seed, found.threads.map(NonZeroUsize::get)), (Some(7), Some(3)));
        assert!(found.allows_crimes && found.warnings.is_empty());
        assert!(!of("c.yml out --no-allow-crimes").unwrap().allows_crimes);
    }

    #[test]
    fn what_has_no_effect_is_told_where_it_could_matter() {
        let quiet = "c.yml out --lazy-unpickle --no-lazy-unpickle --copy-tokenizer -vv --lora-merge-cache x --device cpu";
        assert!(of(quiet).unwrap().warnings.is_empty());
        let told =
            of("c.yml out --cuda --no-copy-tokenizer --device cuda --trust-remote-code").unwrap();
        assert_eq!(told.warnings.len(), 4);
    }

    #[test]
    fn every_mistake_is_told() {
        let found = wrong("c.yml --lazy-unpickel --random-seed x --cuda=1 --out-shard-size");
        for part in [
            "no switch `--lazy-unpickel`",
            "`--random-seed` is a whole number",
            "`--cuda` takes no value",
            "`--out-shard-size` takes a value",
            "a folder to make",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(wrong("c.yml out --unsafe-truncate-embeddings").contains("cannot be followed"));
        // A value has no twin.
        assert!(wrong("c.yml out --no-random-seed").contains("no switch"));
    }
}
