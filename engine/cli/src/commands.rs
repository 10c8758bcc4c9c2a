//! One file for each command: what can be typed after it, and what it does.

use clap::Subcommand;
use mixdown_session::Trouble;

use crate::exit::{self, Exit};
use crate::talk::Talk;

/// What a command comes to.
pub type Outcome = Result<Exit, Trouble>;

/// The commands, in the order of the help: what the help says of each, its file, and where it can be told
/// to say nothing but errors, whether it was.
macro_rules! commands {
    ($($(#[$about:meta])* $name:ident in $module:ident $(, quiet $quiet:expr)?;)*) => {
        $(pub mod $module;)*

        /// What the program can do.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($(#[$about])* $name($module::Arguments),)*
        }

        impl Command {
            /// Whether it was told to say nothing but errors.
            pub fn is_quiet(&self) -> bool {
                match self {
                    $(Self::$name(_arguments) => {
                        false $(|| {
                            let is_quiet: fn(&$module::Arguments) -> bool = $quiet;
                            is_quiet(_arguments)
                        })?
                    })*
                }
            }

            fn outcome(self, talk: Talk) -> Outcome {
                match self {
                    $(Self::$name(arguments) => $module::run(arguments, talk),)*
                }
            }
        }
    };
}

commands! {
    /// Merge checkpoints as a recipe says
    Merge in merge, quiet |arguments| arguments.quiet;
    /// Join the parts of an output that `merge --part` made
    Assemble in assemble, quiet |arguments| arguments.quiet;
    /// Find all mistakes of a recipe, without reading weights
    Check in check;
    /// Show what a merge would do: operations, bytes, memory
    Plan in plan;
    /// Show how one tensor of the output is made, and why
    Explain in explain;
    /// Find the value of a parameter whose merge answers best
    Search in search, quiet |arguments| arguments.quiet;
    /// Write what a model adds to its base as a LoRA adapter
    Extract in extract, quiet |arguments| arguments.running.quiet;
    /// Add adapters to their base, and write the model
    Fuse in fuse, quiet |arguments| arguments.running.quiet;
    /// Give a model the vocabulary of another one
    Transplant in transplant, quiet |arguments| arguments.running.quiet;
    /// Write a model in another form: quantized, dequantized, or in another type
    Convert in convert, quiet |arguments| arguments.running.quiet;
    /// Merge with the arguments of mergekit-yaml
    MergekitYaml in mergekit_yaml, quiet |arguments| arguments.is_quiet();
    /// Show what a checkpoint holds
    Inspect in inspect;
    /// Measure whether experts can be merged, and why not
    Survey in survey, quiet |arguments| arguments.quiet;
    /// Compare two checkpoints tensor by tensor
    Diff in diff, quiet |arguments| arguments.quiet;
    /// Prove a merged checkpoint against its manifest
    Verify in verify, quiet |arguments| arguments.quiet;
    /// Put a merged checkpoint at the hub
    Push in push, quiet |arguments| arguments.quiet;
    /// List the merge methods, or explain one
    Methods in methods;
    Map in map;
    /// Show or prune the results that are kept from earlier merges
    Cache in cache;
    /// List the devices that can compute
    Devices in devices;
    /// Print a completion script for a shell
    Completions in completions;
    /// Write the manual pages
    #[command(hide = true)]
    Man in man;
    /// Write the JSON Schemas of recipes, methods and manifests
    #[command(hide = true)]
    Schemas in schemas;
}

/// Runs a command, says what went wrong, and gives the exit status.
pub fn run(command: Command, talk: Talk) -> Exit {
    match command.outcome(talk) {
        Ok(exit) => exit,
        Err(trouble) => {
            show(&trouble, talk);
            exit::of_trouble(&trouble)
        }
    }
}

fn show(trouble: &Trouble, talk: Talk) {
    match trouble {
        Trouble::Found(found) | Trouble::Usage(found) => talk.show(found),
        Trouble::Interrupted(text) => talk.insist(text),
    }
}
