//! How models are reached: the flags that all commands have which open models.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::size;

/// How models are reached.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// Read models of the hub that are not in its cache where they lie, by ranges, instead of fetching them
    #[arg(long, env = "MIXDOWN_REMOTE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub remote: bool,
    /// Keep what is read of remote files for later runs, at most so many bytes, for instance 50GB
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    #[arg(env = "MIXDOWN_REMOTE_CACHE", hide_env_values = true)]
    pub remote_cache: Option<u64>,
}
