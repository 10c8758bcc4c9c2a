//! Reductions whose parts arrive in any order and are combined in one.

use std::collections::BTreeMap;

use mixdown_ops::Reduction;

/// Combines what the pieces of one tensor contribute, in order of their index.
///
/// A sum in f64 depends on its order. Parts that arrive early wait; since pieces are handed out in
/// order, that is about one for each thread.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    reduction: Reduction,
    /// Pieces combined so far.
    next: u64,
    value: Option<f64>,
    waiting: BTreeMap<u64, f64>,
}

impl Fold {
    pub(crate) fn new(reduction: Reduction) -> Self {
        Self { reduction, next: 0, value: None, waiting: BTreeMap::new() }
    }

    /// Takes in what a piece contributes.
    pub(crate) fn add(&mut self, piece: u64, part: f64) {
        self.waiting.insert(piece, part);
        while let Some(part) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.value = Some(match self.value {
                Some(value) => self.reduction.combine(value, part),
                None => part,
            });
        }
    }

    /// The result over all pieces; 0 when there are none, which is right for every reduction.
    pub(crate) fn value(&self) -> f64 {
        debug_assert!(self.waiting.is_empty(), "a piece is missing");
        self.value.unwrap_or(0.0)
    }
}

/// Combines the results of several tensors, in order.
pub(crate) fn combine(reduction: Reduction, values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().reduce(|left, right| reduction.combine(left, right)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        // In f64, (1e16 + 1) + -1e16 is 0 and (1e16 + -1e16) + 1 is 1.
        let parts = [1e16, 1.0, -1e16, 0.5];
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]];
        let results = orders.map(|order| {
            let mut fold = Fold::new(Reduction::Sum);
            for piece in order {
                fold.add(piece, parts[piece as usize]);
            }
            fold.value().to_bits()
        });
        assert_eq!(results, [0.5_f64.to_bits(); 3]);
    }

    #[test]
    fn nothing_gives_zero() {
        assert_eq!(Fold::new(Reduction::LargestAbsolute).value(), 0.0);
        assert_eq!(combine(Reduction::SumProduct, []), 0.0);
        assert_eq!(combine(Reduction::LargestAbsolute, [1.0, 3.0, 2.0]), 3.0);
    }
}
