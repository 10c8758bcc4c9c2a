//! What it means for one output tensor that its inputs are seen through maps: its type, and what of it stays.

use mixdown_tensor::DType;

use crate::plan::Leaf;
use crate::sections::pair::Present;

/// The type that a result has where no recipe states one and inputs are seen through maps: as config and names it is
/// the target's, so that of the base, or of the first model.
pub(crate) fn own_dtype(present: &[Present<'_>]) -> Option<DType> {
    if !present.iter().any(|one| one.input.view.is_mapped()) {
        return None;
    }
    let base = present.iter().find(|one| one.input.is_base);
    base.or(present.first()).map(|one| one.tensor.dtype)
}

/// Of a tensor that the maps of all experts keep as it is in their target: one of them.
pub(crate) fn kept_whole<'p, 's>(present: &'p [Present<'s>]) -> Option<&'p Present<'s>> {
    let mut experts = present.iter().filter(|one| !one.input.is_base).peekable();
    let first = *experts.peek()?;
    experts.all(|one| one.input.view.kept_from(one.tensor.position) == Some(0)).then_some(first)
}

/// Of a tensor of which the maps of all experts keep rows: where, and which expert keeps the fewest.
pub(crate) fn kept_rows(experts: &[&Present<'_>]) -> Option<(Leaf, usize)> {
    let kept = |one: &&Present<'_>| one.input.view.kept_from(one.tensor.position);
    let all: Option<Vec<u64>> = experts.iter().map(kept).collect();
    let (fewest, _) = all?.into_iter().enumerate().max_by_key(|(_, from)| *from)?;
    let one = experts[fewest];
    Some((one.input.view.mask(one.tensor.position)?, fewest))
}
