//! How models are reached: the flags that all commands have which open models.

use clap::Args;
use clap::builder::FalseyValueParser;

/// How models are reached.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// Read models of the hub that are not in its cache where they lie, by ranges, instead of fetching them
    #[arg(long, env = "MIXDOWN_REMOTE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub remote: bool,
}
