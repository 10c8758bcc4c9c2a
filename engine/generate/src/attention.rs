//! What each position gathers from those before it.

use rayon::prelude::*;

use crate::arithmetic::{dot, softmax};
use crate::config::{Config, LayerConfig};

/// Keys and values of the positions that were computed, of one layer.
pub type Kept = (Vec<f32>, Vec<f32>);

/// What each head of each new position gathers from the positions that it sees, its own the last.
///
/// **Shapes.** `queries: [n, heads · head]`, as the result; keys and values have a row for each position,
/// the new ones among them.
/// **Numerics.** Each element is summed over positions in their order.
pub fn attend(
    config: &Config,
    layer: LayerConfig,
    queries: &[f32],
    before: usize,
    (keys, values): &Kept,
) -> Vec<f32> {
    let Config { heads, kv_heads, head, .. } = *config;
    let width = kv_heads * head;
    let mut out = vec![0.0; queries.len()];
    out.par_chunks_mut(head).enumerate().for_each(|(number, out)| {
        let (position, own) = (before + number / heads, number % heads);
        let query = &queries[number * head..(number + 1) * head];
        let shared = own / (heads / kv_heads) * head;
        let at = |position: usize| position * width + shared..position * width + shared + head;
        let first = layer.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut weights: Vec<f32> =
            (first..=position).map(|p| dot(query, &keys[at(p)]) * layer.scale).collect();
        softmax(&mut weights);
        for (p, weight) in (first..).zip(&weights) {
            for (out, value) in out.iter_mut().zip(&values[at(p)]) {
                *out += weight * value;
            }
        }
    });
    out
}
