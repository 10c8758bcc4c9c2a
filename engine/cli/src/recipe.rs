//! The arguments that name a recipe.

use std::path::PathBuf;

use clap::Args;
use mixdown_session::RecipeInput;

use crate::reading::Reading;

/// The arguments that name a recipe.
#[derive(Clone, Debug, Args)]
pub struct RecipeArguments {
    /// The recipe: a mergekit configuration, or a file that begins with `mixdown: 1`
    pub recipe: PathBuf,
    /// Override a value of the recipe, for instance parameters.lambda=0.5; may be repeated
    #[arg(long, value_name = "PATH=VALUE", value_parser = crate::args::assignment)]
    set: Vec<(String, String)>,
    /// Read files of models that are links out of the model's folder, which is an error otherwise; those of
    /// the hub's cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    pub reading: Reading,
}

impl RecipeArguments {
    /// The recipe that they name.
    pub fn input(&self) -> RecipeInput {
        let (path, set) = (self.recipe.clone(), self.set.clone());
        RecipeInput { path, set, follow_links: self.follow_links, ..RecipeInput::default() }
    }
}
