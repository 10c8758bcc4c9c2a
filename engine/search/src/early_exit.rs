//! Which candidates can no longer win, while prompts are still being asked. Exact: what is chosen, and
//! all that are equally good, are those of the full computation.

use crate::objective::Diff;

/// What is known after each chunk of prompts.
#[derive(Clone, Debug)]
pub struct EarlyExit {
    diff: Diff,
    out: Vec<bool>,
}

/// Sums of cosines are rounded; a candidate is out only by more than they can be off, for up to 10⁵
/// prompts of a relative error of 2⁻⁵³ each, with room to spare.
const SLACK: f64 = 1e-6;

impl EarlyExit {
    /// Nothing is known: all that can be chosen may win.
    pub fn new(diff: Diff, candidates: usize) -> Self {
        let eligible = diff.eligible(candidates);
        Self { diff, out: (0..candidates).map(|k| !eligible.contains(&k)).collect() }
    }

    /// Takes the sums so far, over all prompts that were asked; `left` prompts remain.
    ///
    /// With m the most that one prompt adds, candidate k is out when D(k) > min over j of D(j) + m·left.
    /// Strictly, so that equally good candidates survive. The minimum is over candidates that are not
    /// out: the sums of others may stand still.
    pub fn update(&mut self, sums: &[Option<f64>], left: usize) {
        let mut bound = f64::INFINITY;
        for (sum, _) in sums.iter().zip(&self.out).filter(|(_, out)| !**out) {
            bound = bound.min(sum.unwrap_or(f64::INFINITY));
        }
        bound += self.diff.most_per_prompt() * left as f64;
        if self.diff == Diff::Embedding {
            bound += SLACK;
        }
        for (sum, out) in sums.iter().zip(&mut self.out) {
            *out |= sum.is_none_or(|sum| sum > bound);
        }
    }

    /// Whether the candidate cannot win.
    pub fn is_out(&self, candidate: usize) -> bool {
        self.out[candidate]
    }

    /// Whether nothing depends on the candidate's further answers: neither it nor a neighbor, whose
    /// difference needs them, can win.
    pub fn is_stopped(&self, candidate: usize) -> bool {
        let around = candidate.saturating_sub(1)..(candidate + 2).min(self.out.len());
        self.out[around].iter().all(|&out| out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objective::{Answer, curve, minima, vector_curve};

    /// The minima, found with stops after each chunk, and how many answers that took.
    fn stepwise<T: Clone>(
        diff: Diff,
        all: &[Vec<T>],
        chunk: usize,
        sums: impl Fn(&[Vec<T>]) -> Vec<Option<f64>>,
    ) -> (Vec<usize>, usize) {
        let prompts = all[0].len();
        let mut exit = EarlyExit::new(diff, all.len());
        let mut seen: Vec<Vec<T>> = vec![Vec::new(); all.len()];
        let mut asked = 0;
        for start in (0..prompts).step_by(chunk) {
            let end = (start + chunk).min(prompts);
            for (k, row) in all.iter().enumerate() {
                if !exit.is_stopped(k) {
                    seen[k].extend_from_slice(&row[start..end]);
                    asked += end - start;
                }
            }
            exit.update(&sums(&seen), prompts - end);
        }
        let left: Vec<Option<f64>> = sums(&seen)
            .into_iter()
            .enumerate()
            .map(|(k, sum)| sum.filter(|_| !exit.is_out(k)))
            .collect();
        (minima(&left), asked)
    }

    proptest! {
        #[test]
        fn the_minima_never_change(
            candidates in 3usize..9,
            prompts in 1usize..40,
            chunk in 1usize..12,
            letters in 1u8..6,
            seed in any::<[u8; 32]>(),
        ) {
            let mut bytes = vec![0; candidates * prompts];
            blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
            let all: Vec<Vec<Answer>> = bytes
                .chunks(prompts)
                .enumerate()
                .map(|(k, row)| row.iter().map(|byte| match byte % 23 {
                    0 => Answer::Error,
                    // Some candidates answer far more alike than others, so that stops happen.
                    _ if k < 3 && byte % 5 > 0 => Answer::Text(String::new()),
                    _ => Answer::Text((byte % letters).to_string()),
                }).collect())
                .collect();
            for diff in [Diff::Sum, Diff::Union, Diff::Prev] {
                let (found, _) = stepwise(diff, &all, chunk, |seen| curve(diff, seen));
                prop_assert_eq!(found, minima(&curve(diff, &all)), "{:?}", diff);
            }
            let vectors: Vec<Vec<Vec<f64>>> = bytes
                .chunks(prompts)
                .map(|row| row.iter().map(|byte| {
                    vec![f64::from(byte % letters), f64::from(byte % 3), -1.0]
                }).collect())
                .collect();
            let (found, _) = stepwise(Diff::Embedding, &vectors, chunk, vector_curve);
            prop_assert_eq!(found, minima(&vector_curve(&vectors)));
        }
    }

    #[test]
    fn candidates_far_off_are_stopped() {
        let row = |text: &str| -> Vec<Answer> {
            (0..20)
                .map(|x| Answer::Text(format!("{text}{}", if text.is_empty() { 0 } else { x })))
                .collect()
        };
        let all: Vec<Vec<Answer>> = ["", "", "", "p", "q", "r", "s"].map(row).into();
        let (found, asked) = stepwise(Diff::Sum, &all, 5, |seen| curve(Diff::Sum, seen));
        assert_eq!(found, [1]);
        assert!(asked < 7 * 20, "{asked}");
    }

    #[test]
    fn a_tie_is_not_out() {
        let mut exit = EarlyExit::new(Diff::Union, 4);
        exit.update(&[None, Some(3.0), Some(5.0), None], 2);
        assert!(!exit.is_out(2), "it can still be as good");
        exit.update(&[None, Some(3.0), Some(5.0), None], 1);
        assert!(exit.is_out(2) && !exit.is_stopped(2), "its neighbor needs its answers");
        assert!(exit.is_stopped(3));
    }
}
