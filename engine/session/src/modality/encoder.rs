//! The encoder of a modality: where it is, and what its content is.

use std::path::PathBuf;

use mixdown_checkpoint::digest::content_sha256;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use mixdown_recipe::modality::Encoder;
use serde_json::{Value, json};

use crate::models::{self, Reference};
use crate::{Places, Session};

/// What config.json tells of an encoder.
#[derive(Debug)]
pub struct Told {
    /// As the recipe names it.
    name: Option<String>,
    /// Where it is; none where it is in the modality's own checkpoint.
    place: Option<PathBuf>,
    /// What its names begin with in the output, if it is there.
    prefix: Option<String>,
}

impl Told {
    /// Finds the encoder.
    pub fn find(
        encoder: &Encoder,
        recipe: &Recipe,
        session: &Session<'_>,
    ) -> Result<Self, Box<Diagnostic>> {
        let prefix = encoder.copied.as_ref().map(|part| part.prefix.value.clone());
        let Some(path) = &encoder.path else {
            return Ok(Self { name: None, place: None, prefix });
        };
        let (path, revision) = (&path.value, encoder.revision.clone());
        let reference = Reference { path: path.clone(), revision, prefix: None };
        let place = models::located(&reference, session).map_err(|found| {
            let headline = format!("there is no encoder `{path}`");
            let mut fault = Diagnostic::error(codes::ENCODER_MISSING, headline);
            for one in found {
                fault = fault.note(one.headline);
            }
            let fault = fault.help("name its folder or file, or write `include: none`");
            Box::new(fault.at(&recipe.source, encoder.span))
        })?;
        Ok(Self { name: Some(reference.shown()), place: Some(place), prefix })
    }

    /// Path, content and place in the output.
    pub fn json(&self, places: &Places) -> Result<Value, Box<Diagnostic>> {
        let sha256 = match &self.place {
            Some(place) => {
                let digests = places.digests();
                Some(content_sha256(&digests, place)?.to_string())
            }
            None => None,
        };
        let mut told = json!({
            "path": self.name,
            "sha256": sha256,
            "included": self.prefix.is_some(),
        });
        if let (Some(prefix), Some(told)) = (&self.prefix, told.as_object_mut()) {
            told.insert("prefix".to_owned(), prefix.as_str().into());
        }
        Ok(told)
    }
}
