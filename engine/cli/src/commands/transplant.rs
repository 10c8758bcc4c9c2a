//! `mixdown transplant`: a model with the vocabulary of another one.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use mixdown_session::transplant::{
    Method, NewRows, SubwordRule, TransplantRequest, Weights, Where, transplant,
};

use crate::commands::Outcome;
use crate::commands::merge::{self, Running};
use crate::size;
use crate::stop;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Give a model the vocabulary of another one
///
/// Tokens that both have keep the model's rows in embedding and output layer. Rows of the donor's other tokens are
/// made: by orthogonal matching pursuit as sums of few common tokens that say in the donor what the token says
/// there. Tokenizer and ids of special tokens are the donor's, everything else is the model's.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown transplant ./small-draft org/large-model --out draft
  mixdown transplant ./model ./donor --method common_interpolation -k 16 --out out
  mixdown transplant ./model ./donor --method mean --new-vocab-noise 0.01 --out out

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The model: a folder, or an id at the hub
    target: String,
    /// Whose vocabulary it gets: a folder, or an id at the hub
    donor: String,
    /// Where rows of new tokens come from
    #[arg(long, short = 'a', alias = "approximation-method", value_name = "METHOD",
        default_value = "omp", value_parser = words(Method::ALL))]
    method: Method,
    /// Tokens of each sum, for `omp`, `mp_rope`, `stb` and `common_interpolation`
    #[arg(short = 'k', long = "k", value_name = "N", default_value_t = 64)]
    count: u64,
    /// Take the nearest tokens by cosine instead of distance, for `common_interpolation`
    #[arg(long, short = 'c', alias = "cosine-similarity")]
    cosine: bool,
    /// How much of each of the nearest tokens is taken, for `common_interpolation`
    #[arg(long, short = 'w', value_name = "SCHEME", default_value = "distance_proportional",
        value_parser = words(Weights::ALL))]
    weight_scheme: Weights,
    /// How a token is made of the parts into which the model's tokenizer cuts it, for `subword`
    #[arg(long, short = 's', value_name = "RULE", default_value = "mean",
        value_parser = words(SubwordRule::ALL))]
    subword_method: SubwordRule,
    /// In which matrices a token of one byte may have the row of its other spelling, `A` and `<0x41>`
    #[arg(long, value_name = "WHERE", default_value = "no", value_parser = words(Where::ALL))]
    byte_match: Where,
    /// In which matrices a token may have the row of its longest beginning that is a token
    #[arg(long, value_name = "WHERE", default_value = "no", value_parser = words(Where::ALL))]
    prefix_match: Where,
    /// Make no row from tokens that hardly were trained, and give zeros to those of the donor that neither model
    /// was trained on
    #[arg(long)]
    magikarp: bool,
    /// Add normal numbers of this size to the rows that are made
    #[arg(long, value_name = "SIZE", default_value_t = 0.0, allow_negative_numbers = true)]
    new_vocab_noise: f64,
    /// Multiply the rows that are made
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    new_vocab_scale: f64,
    /// What random numbers depend on
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Largest file of weights, 5GB by default; 0 for one file. 5B means 5 billion bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shard_size: Option<u64>,
    /// Read files of models that are links out of the model's folder, which is an error otherwise; those of
    /// the hub's cache are no such links
    #[arg(long)]
    follow_links: bool,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pub running: Running,
}

/// One of some words.
fn words<T: Copy + Send + Sync + 'static>(
    all: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|(word, _)| *word)).map(|word| {
        let found = all.iter().find(|(known, _)| *known == word);
        found.map_or(all[0].1, |(_, value)| *value)
    })
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let Arguments { target, donor, method, running, .. } = arguments;
    let terminal = Terminal::of_events(talk, running.json).reading(running.reading);
    let request = TransplantRequest {
        target,
        donor,
        rows: NewRows {
        method,
        count: arguments.count,
        by_cosine: arguments.cosine,
        weights: arguments.weight_scheme,
        subword: arguments.subword_method,
        bytes: arguments.byte_match,
        beginnings: arguments.prefix_match,
        trained_only: arguments.magikarp,
        noise: arguments.new_vocab_noise,
        scale: arguments.new_vocab_scale,
        seed: arguments.seed,
        },
        out: arguments.out,
        machine: running.machine.of_session(),
        shard_bytes: arguments.shard_size,
        force: running.force,
        follow_links: arguments.follow_links,
    };
    let merged = transplant(&request, &terminal.session());
    let outcome = merged.map(|merged| merge::tell(&merged, &terminal, false));
    terminal.tell_of_trouble(&outcome);
    outcome
}
