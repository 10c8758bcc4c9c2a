//! Patterns of architecture maps, which name the parts that the other side of a rule uses again.
//!
//! | in a pattern | matches |
//! | --- | --- |
//! | `{i}`, `{j}`, `{e}`, `<i>` | digits, at least one |
//! | `{name}` | a whole piece without dots, at least one character |
//! | `{name:q\|k\|v}` | one of these; `\d+` in them stands for digits |
//! | `{**}`, `{**name}` | any characters, at least one |
//!
//! All else stands for itself.

use super::{Compiler, Instruction, PatternError, Set, error};

/// Names of parts that are numbers: of a layer, of a block, of an expert.
const NUMBERS: &[&str] = &["i", "j", "e"];

impl Compiler<'_> {
    pub(super) fn map_sequence(&mut self) -> Result<(), PatternError> {
        while let Some(&c) = self.chars.get(self.at) {
            let start = self.at;
            self.at += 1;
            match c {
                '{' => self.map_part(start, '}')?,
                '<' => self.map_part(start, '>')?,
                '}' | '>' => {
                    return Err(error(start, start + 1, format!("this `{c}` closes nothing")));
                }
                '*' => {
                    return Err(error(start, start + 1, "in a map `*` stands within braces")
                        .help("write `{**}` for the rest, or `{name}` for one piece"));
                }
                _ => self.code.push(Instruction::One(Set::Exactly(c))),
            }
        }
        Ok(())
    }

    /// What stands between the brackets that open at `start`.
    fn map_part(&mut self, start: usize, close: char) -> Result<(), PatternError> {
        let Some(length) = self.chars[self.at..].iter().position(|&c| c == close) else {
            let open = self.chars[start];
            return Err(error(start, self.chars.len(), format!("this `{open}` is not closed")));
        };
        let inside: String = self.chars[self.at..self.at + length].iter().collect();
        self.at += length + 1;
        let (rest, is_deep) = match inside.strip_prefix("**") {
            Some(rest) => (rest, true),
            None => (inside.as_str(), false),
        };
        let (name, words) = match rest.split_once(':') {
            Some((name, words)) => (name, Some(words)),
            None => (rest, None),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let is_rest = is_deep && rest.is_empty();
        if !(is_name || is_rest) || is_deep && words.is_some() {
            return Err(error(start, self.at, "these brackets hold no name")
                .help("write `{i}`, `{name}`, `{name:q|k|v}`, `{**}` or `{**name}`"));
        }
        if self.names.iter().any(|known| known == name) {
            return Err(error(start, self.at, format!("`{name}` names two parts"))
                .help("give each part a name of its own"));
        }
        let index = (!name.is_empty()).then_some(self.names.len());
        if let Some(index) = index {
            self.names.push(name.to_owned());
            self.code.push(Instruction::Begin(index));
        }
        match words {
            Some(words) => self.map_words(start, words)?,
            None if is_deep => self.some(&Set::All),
            None if NUMBERS.contains(&name) => self.some(&digits()),
            None => self.some(&Set::NoDot),
        }
        self.code.extend(index.map(Instruction::End));
        Ok(())
    }

    /// One of the words between bars.
    fn map_words(&mut self, start: usize, words: &str) -> Result<(), PatternError> {
        let either = self.code.len();
        self.code.push(Instruction::Either(Vec::new()));
        let (mut targets, mut jumps) = (Vec::new(), Vec::new());
        for word in words.split('|') {
            if word.is_empty() {
                return Err(error(start, self.at, "one of these alternatives is empty"));
            }
            targets.push(self.code.len());
            for (position, literal) in word.split("\\d+").enumerate() {
                if position > 0 {
                    self.some(&digits());
                }
                self.code.extend(literal.chars().map(|c| Instruction::One(Set::Exactly(c))));
            }
            jumps.push(self.code.len());
            self.code.push(Instruction::Jump(0));
        }
        let after = self.code.len();
        for jump in jumps {
            self.code[jump] = Instruction::Jump(after);
        }
        self.code[either] = Instruction::Either(targets);
        Ok(())
    }

    /// At least one character of a set.
    fn some(&mut self, set: &Set) {
        self.code.extend([Instruction::One(set.clone()), Instruction::Many(set.clone())]);
    }
}

fn digits() -> Set {
    Set::Class { negated: false, ranges: vec![('0', '9')] }
}

#[cfg(test)]
mod tests {
    use crate::Pattern;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: Option<&[(&str, &str)]>) {
        let pattern = Pattern::for_map(pattern).unwrap();
        let found = pattern.captures(name);
        let found: Option<Vec<(&str, &str)>> = found
            .as_ref()
            .map(|found| found.iter().map(|(name, part)| (*name, part.as_str())).collect());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn parts_are_named() {
        check("layers.{i}.{n}.w", "layers.12.norm.w", Some(&[("i", "12"), ("n", "norm")]));
        check("layers.<i>.w", "layers.3.w", Some(&[("i", "3")]));
        check("layers.{i}.w", "layers.x.w", None);
        check("a.{**rest}", "a.b.c", Some(&[("rest", "b.c")]));
        check("a.{**}", "a.b.c", Some(&[]));
        check("a.{**}", "a.", None);
        check("{p:gate|up}_proj", "up_proj", Some(&[("p", "up")]));
        check("{p:gate|up}_proj", "down_proj", None);
    }

    /// A word that begins another must not hide it.
    #[test]
    fn words_can_hold_numbers() {
        let pattern = "m.{m:mm|mm_aux_\\d+}.{**}";
        check(pattern, "m.mm_aux_12.0.w", Some(&[("m", "mm_aux_12")]));
        check(pattern, "m.mm.0.w", Some(&[("m", "mm")]));
        check(pattern, "m.mm_aux_.w", None);
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (pattern, start, end) in [
            ("", 0, 1),
            ("a.{i", 2, 4),
            ("a}", 1, 2),
            ("a.*", 2, 3),
            ("a.{}", 2, 4),
            ("a.{**b:c}", 2, 9),
            ("{i}.{i}", 4, 7),
            ("{p:a||b}", 0, 8),
        ] {
            let error = Pattern::for_map(pattern).unwrap_err();
            assert_eq!((error.start, error.end), (start, end), "{pattern}: {}", error.message);
        }
    }
}
