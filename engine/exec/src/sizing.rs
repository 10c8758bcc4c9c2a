//! Chooses how many threads work and on how much at a time, so that all of it fits into the budget.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::program::{BLOCK, PIECE};

use crate::needs::Needs;

/// The part of the budget that keys of one flow may take: more would make the working set large
/// where a second reading is nearly as fast.
const KEY_SHARE: u64 = 8;

/// Keys that one selection collects from a full sample of f32.
const SAMPLE_KEY_BYTES: u64 = 512 << 10;

/// How a run uses its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizing {
    pub(crate) threads: usize,
    /// Elements that a thread reads and computes at a time: a power of two from a block to a piece.
    pub(crate) stripe: usize,
    /// Bytes of keys that the selections of one flow may collect.
    pub(crate) key_bytes: u64,
}

/// Chooses the most threads and then the longest stripe that fit.
///
/// Results do not depend on the choice: threads and stripes decide how soon they are there.
pub(crate) fn choose(
    needs: &Needs,
    budget: u64,
    most_threads: usize,
    longest_stripe: usize,
) -> Result<Sizing, Box<Diagnostic>> {
    let base = |threads: usize, stripe: usize| {
        let workers = needs.worker(stripe).saturating_mul(threads as u64);
        let more = needs.flow_per_thread.saturating_mul(threads as u64 - 1);
        needs.fixed.saturating_add(needs.flow).saturating_add(more).saturating_add(workers)
    };
    if base(1, BLOCK) > budget {
        return Err(Box::new(too_small(budget, base(1, BLOCK))));
    }
    let threads = (1..=most_threads.max(1)).rev().find(|&threads| base(threads, BLOCK) <= budget);
    let threads = threads.unwrap_or(1);
    // Room for a sample first, if there can be: without it a selection takes more readings.
    let keys = needs.keys.min(SAMPLE_KEY_BYTES).min(budget - base(threads, BLOCK));
    let longest = longest_stripe.clamp(BLOCK, PIECE as usize);
    let stripes = (0..).map(|shift| BLOCK << shift).take_while(|&stripe| stripe <= longest);
    let stripe = stripes.filter(|&stripe| base(threads, stripe) + keys <= budget).last();
    let stripe = stripe.unwrap_or(BLOCK);
    let left = budget - base(threads, stripe);
    let key_bytes = needs.keys.min(left).min((budget / KEY_SHARE).max(keys));
    Ok(Sizing { threads, stripe, key_bytes })
}

fn too_small(budget: u64, least: u64) -> Diagnostic {
    let kilobytes = least.div_ceil(1000);
    Diagnostic::error(codes::BUDGET_TOO_SMALL, "the memory budget is below what one block needs")
        .fact("budget", format!("{budget} bytes"))
        .fact("needed", format!("{least} bytes"))
        .help(format!("give it `--memory {kilobytes}kB` or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        fixed: 1000,
        per_element: 10,
        per_worker: 5000,
        flow: 2000,
        flow_per_thread: 0,
        keys: 1 << 30,
    };

    #[test]
    fn what_is_chosen_fits_and_more_memory_never_gives_less() {
        let mut last = (0, 0, 0);
        for budget in (0..).map(|n: u64| 18_240 + n * 997).take(4000) {
            let sizing = choose(&NEEDS, budget, 7, PIECE as usize).unwrap();
            let workers = NEEDS.worker(sizing.stripe) * sizing.threads as u64;
            assert!(NEEDS.fixed + NEEDS.flow + workers + sizing.key_bytes <= budget);
            assert!(sizing.threads >= last.0);
            assert!(sizing.threads > last.0 || sizing.stripe >= last.1);
            last = (sizing.threads, sizing.stripe, 0);
        }
        assert_eq!((last.0, last.1), (7, 32768));
    }

    #[test]
    fn the_least_budget_is_named_and_is_enough() {
        let least = 1000 + 2000 + 5000 + 10 * 1024;
        let error = choose(&NEEDS, least - 1, 7, BLOCK).unwrap_err();
        assert_eq!(error.code, codes::BUDGET_TOO_SMALL);
        assert!(error.facts.contains(&("needed".to_owned(), format!("{least} bytes"))));
        let sizing = choose(&NEEDS, least, 7, PIECE as usize).unwrap();
        assert_eq!(sizing, Sizing { threads: 1, stripe: BLOCK, key_bytes: 0 });
    }
}
