//! Which tensors a method over matrices takes for matrices, as a recipe says it.

use mixdown_diagnostics::suggest::nearest;

use crate::architecture::Role;
use crate::pattern::Pattern;

/// One entry of `matrices`.
#[derive(Clone, Debug)]
pub enum MatrixSelector {
    /// What the architecture says, or names and shapes where it is unknown.
    Auto,
    /// Tensors of a role.
    Role(Role),
    /// Tensors whose names match, and how they are stored where the entry says it.
    Names {
        /// Their names.
        pattern: Pattern,
        /// Their axes, after `as`.
        axes: Option<MatrixAxes>,
    },
}

/// The axes of a weight as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixAxes {
    /// Whether the first axis counts experts, each with a matrix of its own.
    pub stacked: bool,
    /// Whether inputs come before outputs.
    pub inputs_first: bool,
}

impl MatrixAxes {
    /// As messages and recipes write them.
    pub fn text(self) -> &'static str {
        match (self.stacked, self.inputs_first) {
            (false, false) => "[out, in]",
            (false, true) => "[in, out]",
            (true, false) => "[experts, out, in]",
            (true, true) => "[experts, in, out]",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        [(false, false), (false, true), (true, false), (true, true)]
            .map(|(stacked, inputs_first)| Self { stacked, inputs_first })
            .into_iter()
            .find(|axes| axes.text().replace(' ', "") == plain)
    }
}

impl MatrixSelector {
    /// Reads an entry: `auto`, a role, a pattern of names, or a pattern with axes after ` as `.
    ///
    /// **Errors.** What an entry is instead, in words that continue "must be".
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some((_, role)) = Role::ALL.iter().find(|(word, _)| *word == text) {
            return Ok(Self::Role(*role));
        }
        let (name, axes) = match text.split_once(" as ") {
            None => (text, None),
            Some((name, axes)) => {
                let axes = MatrixAxes::parse(axes).ok_or(
                    "a pattern with its axes: `as [out, in]`, `as [in, out]`, `as [experts, out, in]` or `as [experts, in, out]`",
                )?;
                (name.trim(), Some(axes))
            }
        };
        // A word without a dot is no name of a weight but a role that was misspelled.
        if axes.is_none() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            let roles = Role::ALL.iter().map(|(word, _)| *word);
            return Err(match nearest(name, roles) {
                Some(near) => format!("patterns of names, or roles such as `{near}`"),
                None => "patterns of names such as `**.{q,k,v}_proj.weight`, roles such as `mlp_up`, or `auto`".to_owned(),
            });
        }
        let pattern =
            Pattern::new(name).map_err(|error| format!("a pattern: {}", error.message))?;
        Ok(Self::Names { pattern, axes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_roles_patterns_and_axes() {
        assert!(matches!(MatrixSelector::parse("auto"), Ok(MatrixSelector::Auto)));
        let role = MatrixSelector::parse("attention_q");
        assert!(matches!(role, Ok(MatrixSelector::Role(Role::AttentionQ))));
        let plain = MatrixSelector::parse("**.{q,k}_proj.weight");
        assert!(matches!(plain, Ok(MatrixSelector::Names { axes: None, .. })));
        for (text, stacked, inputs_first) in [
            ("**.w1 as [experts,out,in]", true, false),
            ("**.w1 as [ experts, in, out ]", true, true),
            ("c_fc as [in, out]", false, true),
            ("**.conv.weight as [out, in]", false, false),
        ] {
            let Ok(MatrixSelector::Names { axes, .. }) = MatrixSelector::parse(text) else {
                panic!("{text}")
            };
            assert_eq!(axes, Some(MatrixAxes { stacked, inputs_first }), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let near = MatrixSelector::parse("attention_p").unwrap_err();
        assert!(near.contains("`attention_"), "{near}");
        for text in ["", "**.w as [rows, columns]", "**.{w"] {
            assert!(MatrixSelector::parse(text).is_err(), "{text}");
        }
    }
}
