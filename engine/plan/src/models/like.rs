//! Models whose parts have the names of another one: what is known of those names, and the rows of
//! embeddings that mean the same in both.

use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use mixdown_recipe::recipe::Model;
use mixdown_tensor::Shape;

use crate::models::view::View;
use crate::models::vocabulary::embeddings;
use crate::plan::{RowSource, Rows, TensorRef};
use crate::report::Reporter;

/// Brings the views of such models together with those of the models whose names they have.
pub(crate) fn bring_together(
    recipe: &Recipe,
    views: &mut [Option<View<'_>>],
    rows: &mut Vec<Arc<Rows>>,
    reporter: &mut Reporter,
) {
    for (position, model) in recipe.models.iter().enumerate() {
        let Some(like) = model.reading.like else { continue };
        let other = views[like.0 as usize].as_ref();
        let (Some(own), Some(other)) = (views[position].as_ref(), other) else { continue };
        let (family, name) = (other.architecture, other.name.clone());
        let filled = match filled(model, own, other) {
            Ok(filled) => filled,
            Err(fault) => {
                let span = model.shared_rows.as_ref().map_or(model.span, |rows| rows.span);
                reporter.add(fault.at(&recipe.source, span));
                // That shapes differ would follow from it.
                views[position] = None;
                continue;
            }
        };
        let Some(own) = &mut views[position] else { continue };
        own.names_of = Some((name, std::mem::replace(&mut own.architecture, family)));
        for Filled { name, position, stands_in, rows: list, shape } in filled {
            rows.push(Arc::new(list));
            let new = (rows.len() as u32 - 1, shape);
            match stands_in {
                true => own.stand_in(&name, position, new),
                false => {
                    own.rows.insert(position, new);
                }
            }
        }
    }
}

/// An embedding whose last rows are those of another model.
struct Filled {
    name: String,
    position: u32,
    /// Whether it stands in for an output layer that is tied to it.
    stands_in: bool,
    rows: Rows,
    shape: Shape,
}

/// The embeddings of a model that shares some rows with the one whose names it has.
fn filled(model: &Model, own: &View<'_>, other: &View<'_>) -> Result<Vec<Filled>, Box<Diagnostic>> {
    let Some(shared) = &model.shared_rows else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for position in embeddings(other) {
        let theirs = other.get(position);
        let found = own.find(theirs.name);
        let Some(tensor) = found.or_else(|| own.tied_embedding(theirs.name)) else { continue };
        let (dimensions, ours) = (theirs.shape.dimensions(), tensor.shape.dimensions());
        if dimensions.get(1..) != ours.get(1..) {
            // What it is merged with says that shapes differ.
            continue;
        }
        if shared.value > ours[0].min(dimensions[0]) {
            let headline = format!("`{}` has fewer rows than `shared_rows`", theirs.name);
            let fault = Diagnostic::error(codes::OUT_OF_RANGE, headline)
                .fact("shared_rows", shared.value.to_string())
                .fact(own.name.clone(), format!("{} rows", ours[0]))
                .fact(other.name.clone(), format!("{} rows", dimensions[0]))
                .help("count the tokens that both tokenizers have under the same ids");
            return Err(Box::new(fault));
        }
        let (Some(first), Some(last)) = (own.stored(tensor.position), other.stored(position))
        else {
            let headline = format!("an adapter changes `{}`, whose rows are shared", theirs.name);
            let fault = Diagnostic::error(codes::UNSUPPORTED, headline)
                .help("merge the adapter into its model first, and name the result");
            return Err(Box::new(fault));
        };
        all.push(Filled {
            name: theirs.name.to_owned(),
            position: tensor.position,
            stands_in: found.is_none(),
            rows: joined(first, last, shared.value, dimensions),
            shape: theirs.shape.clone(),
        });
    }
    if all.is_empty() {
        let headline = format!("`{}` shares no embedding with `{}`", own.name, other.name);
        let fault = Diagnostic::error(codes::TENSOR_MISSING, headline);
        return Err(Box::new(fault.help("leave `shared_rows` out")));
    }
    Ok(all)
}

/// The first rows of one tensor, and then those of another.
fn joined(first: TensorRef, last: TensorRef, shared: u64, dimensions: &[u64]) -> Rows {
    let row = |row: u64| RowSource::Row(u32::from(row >= shared), row as u32);
    let row_elements = dimensions[1..].iter().product();
    Rows { tensors: vec![first, last], row_elements, rows: (0..dimensions[0]).map(row).collect() }
}
