//! Collects diagnostics: each once, and of the many that one mistake causes over all tensors only the first few.

use std::collections::{HashMap, HashSet};

use mixdown_diagnostics::{Code, Diagnostic, Span};
use mixdown_recipe::Recipe;

/// Mistakes of one kind at one place that are shown in full.
const SHOWN: usize = 3;

/// Diagnostics of one code that are kept; nobody reads more, and a recipe can have as many as it has lines.
const KEPT: usize = 100;

/// Diagnostics so far.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    diagnostics: Vec<Diagnostic>,
    seen: HashSet<String>,
    /// Per code: how many were added whole, and where the last one kept is.
    kinds: HashMap<Code, (usize, usize)>,
    /// Per code and section: how many, and where the last one shown is.
    counts: HashMap<(Code, (u32, u64)), (usize, usize)>,
}

impl Reporter {
    /// Adds a diagnostic unless an equal one is there; beyond the first hundred of a code they are only
    /// counted.
    pub fn add(&mut self, diagnostic: Diagnostic) {
        let code = diagnostic.code;
        if self.is_full(code) {
            return self.count(code);
        }
        let key = format!("{} {} {:?}", code.id, diagnostic.headline, diagnostic.place);
        if self.seen.insert(key) {
            self.kinds.entry(code).or_default().1 = self.diagnostics.len();
            self.count(code);
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether as many of a code were added as are kept, so that words for more are not needed.
    pub fn is_full(&self, code: Code) -> bool {
        self.kinds.get(&code).is_some_and(|(count, _)| *count >= KEPT)
    }

    /// Counts one more of a code that is full.
    pub fn count(&mut self, code: Code) {
        self.kinds.entry(code).or_default().0 += 1;
    }

    /// Adds several.
    pub fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        for diagnostic in diagnostics {
            self.add(diagnostic);
        }
    }

    /// Adds a diagnostic about one tensor of a section; beyond the first few they are only counted.
    pub fn tensor(&mut self, section: (u32, u64), diagnostic: Diagnostic) {
        let (count, last) = self.counts.entry((diagnostic.code, section)).or_default();
        *count += 1;
        if *count <= SHOWN {
            *last = self.diagnostics.len();
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether anything so far stops the merge.
    pub fn has_error(&self) -> bool {
        mixdown_diagnostics::any_error(&self.diagnostics)
    }

    /// All of them.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        for (count, last) in self.counts.values() {
            if *count > SHOWN {
                let more = count - SHOWN;
                let noun = if more == 1 { "tensor" } else { "tensors" };
                self.diagnostics[*last].notes.push(format!("and {more} more {noun}"));
            }
        }
        for (count, last) in self.kinds.values() {
            if *count > KEPT {
                let more = count - KEPT;
                self.diagnostics[*last].notes.push(format!("and {more} more of this kind"));
            }
        }
        self.diagnostics
    }
}

/// A place for what concerns a recipe as a whole.
pub(crate) fn whole(recipe: &Recipe) -> Span {
    recipe.method.as_ref().map_or(Span { line: 1, column: 1, length: 1 }, |method| method.span)
}

#[cfg(test)]
mod tests {
    use mixdown_diagnostics::codes;

    use super::*;

    #[test]
    fn a_mistake_over_many_tensors_is_shown_a_few_times() {
        let mut reporter = Reporter::default();
        for tensor in 0..100 {
            let headline = format!("`{tensor}` has different shapes");
            reporter.tensor((0, 0), Diagnostic::error(codes::SHAPE_MISMATCH, headline));
        }
        let found = reporter.finish();
        assert_eq!(found.len(), 3);
        assert_eq!(found[2].notes, ["and 97 more tensors"]);
    }

    /// Thousands of rules that never match must not fill the memory with words.
    #[test]
    fn of_many_mistakes_of_one_kind_a_hundred_are_kept() {
        let mut reporter = Reporter::default();
        reporter.add(Diagnostic::error(codes::MISSING_BASE, "no base"));
        for rule in 0..8000 {
            let headline = format!("rules[{rule}] can never match");
            reporter.add(Diagnostic::error(codes::DEAD_RULE, headline));
        }
        let found = reporter.finish();
        assert_eq!(found.len(), 101);
        assert_eq!(found[100].notes, ["and 7900 more of this kind"]);
        assert_eq!(found[0].notes, [""; 0]);
    }

    #[test]
    fn equal_diagnostics_are_one() {
        let mut reporter = Reporter::default();
        for _ in 0..2 {
            reporter.add(Diagnostic::error(codes::MISSING_BASE, "no base"));
        }
        assert_eq!(reporter.finish().len(), 1);
    }
}
