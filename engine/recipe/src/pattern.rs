//! Patterns of tensor names: `*` within a segment, `**` across dots, `{name}`, `{a,b}`, `[0-9]`.
//!
//! Matching takes time in proportion to pattern times name, whatever the pattern: no backtracking.

pub mod for_map;

/// A compiled pattern. It matches a whole name or not at all.
///
/// | in a pattern | matches |
/// | --- | --- |
/// | `*` | any characters but a dot, also none |
/// | `**` | any characters, also none |
/// | `?` | one character but a dot |
/// | `{layer}` | a whole piece without dots, at least one character, which gets this name |
/// | `{q,k,v}` | one of these; each may hold wildcards |
/// | `[0-9]`, `[!0-9]` | one character that is among these, or is not |
/// | `\*` | the character after the backslash |
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    code: Vec<Instruction>,
    names: Vec<String>,
}

/// Why a text is not a pattern, with the characters that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// First character, from 0.
    pub start: usize,
    /// The character after the last.
    pub end: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

#[derive(Clone, Debug)]
enum Instruction {
    /// One character.
    One(Set),
    /// Any number of characters, the most that let the rest match.
    Many(Set),
    /// Goes on at the first of these places from which the rest matches. All lie further on.
    Either(Vec<usize>),
    /// Goes on there, further on.
    Jump(usize),
    /// A named part begins or ends.
    Begin(usize),
    End(usize),
    Accept,
}

#[derive(Clone, Debug)]
enum Set {
    Exactly(char),
    NoDot,
    All,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::Exactly(wanted) => *wanted == c,
            Self::NoDot => c != '.',
            Self::All => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated
            }
        }
    }
}

/// Characters of a pattern; names of tensors have about a hundred.
const LONGEST: usize = 4096;
/// Braces within braces.
const MOST_LEVELS: usize = 16;

impl Pattern {
    /// Compiles a pattern.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let chars: Vec<char> = text.chars().collect();
        if chars.is_empty() {
            return Err(error(0, 1, "the pattern is empty").help("to match every name write `**`"));
        }
        if chars.len() > LONGEST {
            return Err(error(0, 1, format!("the pattern is longer than {LONGEST} characters")));
        }
        let mut compiler = Compiler { chars: &chars, at: 0, code: Vec::new(), names: Vec::new() };
        compiler.sequence(0)?;
        compiler.code.push(Instruction::Accept);
        let Compiler { code, names, .. } = compiler;
        Ok(Self { text: text.to_owned(), code, names })
    }

    /// Compiles a pattern of an architecture map; [`for_map`] says what it can hold.
    pub fn for_map(text: &str) -> Result<Self, PatternError> {
        let chars: Vec<char> = text.chars().collect();
        if chars.is_empty() {
            return Err(
                error(0, 1, "the pattern is empty").help("to match every name write `{**}`")
            );
        }
        if chars.len() > LONGEST {
            return Err(error(0, 1, format!("the pattern is longer than {LONGEST} characters")));
        }
        let mut compiler = Compiler { chars: &chars, at: 0, code: Vec::new(), names: Vec::new() };
        compiler.map_sequence()?;
        compiler.code.push(Instruction::Accept);
        let Compiler { code, names, .. } = compiler;
        Ok(Self { text: text.to_owned(), code, names })
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The one name that it matches, if nothing in it stands for anything but itself.
    pub fn literal(&self) -> Option<String> {
        let (_, all) = self.code.split_last()?;
        all.iter()
            .map(|instruction| match instruction {
                Instruction::One(Set::Exactly(c)) => Some(*c),
                _ => None,
            })
            .collect()
    }

    /// Names of its named parts, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the name begins and ends as the pattern does where that stands for itself. Tells most names
    /// apart without looking at the rest.
    fn may_match(&self, name: &str) -> bool {
        fn literal(instruction: &Instruction) -> Option<char> {
            match instruction {
                Instruction::One(Set::Exactly(c)) => Some(*c),
                _ => None,
            }
        }
        let begin = self.code.iter().map_while(literal);
        // The last instruction accepts. What stands right before it is reached on every way.
        let end = self.code.iter().rev().skip(1).map_while(literal);
        let (mut first, mut last) = (name.chars(), name.chars().rev());
        begin.into_iter().all(|c| first.next() == Some(c))
            && end.into_iter().all(|c| last.next() == Some(c))
    }

    /// Whether it matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        if !self.may_match(name) {
            return false;
        }
        let chars: Vec<char> = name.chars().collect();
        self.reachable(&chars)[0][0]
    }

    /// Its named parts, if it matches the whole name. Parts in an alternative not taken are left out.
    pub fn captures(&self, name: &str) -> Option<Vec<(&str, String)>> {
        if !self.may_match(name) {
            return None;
        }
        let chars: Vec<char> = name.chars().collect();
        let accepts = self.reachable(&chars);
        if !accepts[0][0] {
            return None;
        }
        let mut begins = vec![0; self.names.len()];
        let mut found = Vec::new();
        let (mut place, mut at) = (0, 0);
        loop {
            match &self.code[place] {
                Instruction::Accept => return Some(found),
                Instruction::One(_) => (place, at) = (place + 1, at + 1),
                Instruction::Many(set) => {
                    if at < chars.len() && set.has(chars[at]) && accepts[at + 1][place] {
                        at += 1;
                    } else {
                        place += 1;
                    }
                }
                Instruction::Either(targets) => {
                    place = *targets.iter().find(|&&target| accepts[at][target])?;
                }
                Instruction::Jump(target) => place = *target,
                Instruction::Begin(index) => {
                    begins[*index] = at;
                    place += 1;
                }
                Instruction::End(index) => {
                    found.push((
                        self.names[*index].as_str(),
                        chars[begins[*index]..at].iter().collect(),
                    ));
                    place += 1;
                }
            }
        }
    }

    /// For each position in the name and each instruction: whether the rest of the pattern matches the
    /// rest of the name. Instructions only go forward, so that one pass from the end suffices.
    fn reachable(&self, name: &[char]) -> Vec<Vec<bool>> {
        let mut table = vec![vec![false; self.code.len()]; name.len() + 1];
        for at in (0..=name.len()).rev() {
            for place in (0..self.code.len()).rev() {
                let steps = |set: &Set, to: usize, table: &[Vec<bool>]| {
                    name.get(at).is_some_and(|&c| set.has(c)) && table[at + 1][to]
                };
                let row = &table[at];
                let value = match &self.code[place] {
                    Instruction::Accept => at == name.len(),
                    Instruction::One(set) => steps(set, place + 1, &table),
                    Instruction::Many(set) => row[place + 1] || steps(set, place, &table),
                    Instruction::Either(targets) => targets.iter().any(|&target| row[target]),
                    Instruction::Jump(target) => row[*target],
                    Instruction::Begin(_) | Instruction::End(_) => row[place + 1],
                };
                table[at][place] = value;
            }
        }
        table
    }
}

struct Compiler<'a> {
    chars: &'a [char],
    at: usize,
    code: Vec<Instruction>,
    names: Vec<String>,
}

impl Compiler<'_> {
    /// Up to the end of the pattern or, within braces, up to `,` or `}`.
    fn sequence(&mut self, level: usize) -> Result<(), PatternError> {
        while let Some(&c) = self.chars.get(self.at) {
            if level > 0 && (c == ',' || c == '}') {
                return Ok(());
            }
            let start = self.at;
            self.at += 1;
            match c {
                '*' => {
                    let across = self.chars.get(self.at) == Some(&'*');
                    while self.chars.get(self.at) == Some(&'*') {
                        self.at += 1;
                    }
                    self.code.push(Instruction::Many(if across { Set::All } else { Set::NoDot }));
                }
                '?' => self.code.push(Instruction::One(Set::NoDot)),
                '[' => self.class(start)?,
                '{' => self.braces(start, level)?,
                '}' => {
                    return Err(error(start, start + 1, "this `}` closes nothing")
                        .help("for the character itself write `\\}`"));
                }
                '\\' => {
                    let Some(&escaped) = self.chars.get(self.at) else {
                        return Err(error(start, start + 1, "nothing follows the backslash"));
                    };
                    self.at += 1;
                    self.code.push(Instruction::One(Set::Exactly(escaped)));
                }
                _ => self.code.push(Instruction::One(Set::Exactly(c))),
            }
        }
        Ok(())
    }

    fn class(&mut self, start: usize) -> Result<(), PatternError> {
        let negated = matches!(self.chars.get(self.at), Some('!' | '^'));
        self.at += usize::from(negated);
        let mut ranges = Vec::new();
        loop {
            let Some(&low) = self.chars.get(self.at) else {
                return Err(error(start, self.at, "this `[` is not closed"));
            };
            self.at += 1;
            if low == ']' {
                break;
            }
            let ranged = self.chars.get(self.at) == Some(&'-')
                && self.chars.get(self.at + 1).is_some_and(|&c| c != ']');
            let high = if ranged { self.chars[self.at + 1] } else { low };
            if high < low {
                return Err(error(
                    self.at - 1,
                    self.at + 2,
                    format!("the range `{low}-{high}` is empty"),
                )
                .help(format!("write `{high}-{low}`")));
            }
            self.at += if ranged { 2 } else { 0 };
            ranges.push((low, high));
        }
        if ranges.is_empty() {
            return Err(error(start, self.at, "this class of characters is empty"));
        }
        self.code.push(Instruction::One(Set::Class { negated, ranges }));
        Ok(())
    }

    /// `{name}` or `{this,that}`.
    fn braces(&mut self, start: usize, level: usize) -> Result<(), PatternError> {
        if level >= MOST_LEVELS {
            return Err(error(start, start + 1, "braces are nested too deeply"));
        }
        let inside: String =
            self.chars[self.at..].iter().take_while(|&&c| c != '}' && c != ',').collect();
        let end = self.at + inside.chars().count();
        let is_name = inside.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && inside.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if self.chars.get(end) == Some(&'}') && is_name {
            return self.named_part(start, end, inside);
        }
        let either = self.code.len();
        self.code.push(Instruction::Either(Vec::new()));
        let mut targets = Vec::new();
        let mut jumps = Vec::new();
        loop {
            targets.push(self.code.len());
            self.sequence(level + 1)?;
            jumps.push(self.code.len());
            self.code.push(Instruction::Jump(0));
            match self.chars.get(self.at) {
                Some(',') => self.at += 1,
                Some(_) => break,
                None => return Err(error(start, self.at, "this `{` is not closed")),
            }
        }
        self.at += 1;
        if targets.len() == 1 {
            return Err(error(start, self.at, "braces hold a name, or alternatives with commas")
                .help("write `{layer}` or `{q,k,v}`"));
        }
        let after = self.code.len();
        for jump in jumps {
            self.code[jump] = Instruction::Jump(after);
        }
        self.code[either] = Instruction::Either(targets);
        Ok(())
    }

    fn named_part(&mut self, start: usize, end: usize, name: String) -> Result<(), PatternError> {
        if self.names.contains(&name) {
            return Err(error(start, end + 1, format!("`{name}` names two parts"))
                .help("give each part a name of its own"));
        }
        let index = self.names.len();
        self.names.push(name);
        self.code.extend([
            Instruction::Begin(index),
            Instruction::One(Set::NoDot),
            Instruction::Many(Set::NoDot),
            Instruction::End(index),
        ]);
        self.at = end + 1;
        Ok(())
    }
}

fn error(start: usize, end: usize, message: impl Into<String>) -> PatternError {
    PatternError { start, end, message: message.into(), help: None }
}

impl PatternError {
    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_wildcards_is_a_name() {
        let literal = |text: &str| Pattern::new(text).unwrap().literal();
        assert_eq!(literal("model.layers.0.w").as_deref(), Some("model.layers.0.w"));
        assert_eq!(literal(r"a\*b").as_deref(), Some("a*b"));
        for wild in ["*", "a.**", "a?", "{layer}", "{q,k}", "a[0-9]"] {
            assert_eq!(literal(wild), None, "{wild}");
        }
    }

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let pattern = Pattern::new(pattern).unwrap();
        for name in matching {
            assert!(pattern.matches(name), "{} matches {name}", pattern.text());
        }
        for name in others {
            assert!(!pattern.matches(name), "{} does not match {name}", pattern.text());
        }
    }

    #[track_caller]
    fn capture(pattern: &str, name: &str, expected: &[(&str, &str)]) {
        let pattern = Pattern::new(pattern).unwrap();
        let found = pattern.captures(name).unwrap();
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, part)| (*name, part.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[track_caller]
    fn refuse(pattern: &str, marks: &str, message: &str) {
        let error = Pattern::new(pattern).unwrap_err();
        let shown = format!("{}{}", " ".repeat(error.start), "^".repeat(error.end - error.start));
        assert_eq!((shown.as_str(), error.message.as_str()), (marks, message));
    }

    #[test]
    fn the_whole_name_is_matched() {
        check(
            "lm_head.weight",
            &["lm_head.weight"],
            &["lm_head.weight2", "model.lm_head.weight", "lm_head_weight", ""],
        );
    }

    #[test]
    fn stars_and_dots() {
        check("model.*.weight", &["model.norm.weight", "model..weight"], &["model.a.b.weight"]);
        check("**.weight", &["a.weight", "a.b.weight", ".weight"], &["weight", "a.bias"]);
        check("**", &["", "a", "a.b"], &[]);
        check("*_proj*", &["q_proj", "q_proj2"], &["a.q_proj"]);
        check("layer?", &["layer1"], &["layer", "layer10", "layer."]);
        check("a**b", &["ab", "a.b", "aXb.b"], &["ba"]);
    }

    #[test]
    fn alternatives_and_classes() {
        check("**.{q,k,v}_proj.*", &["l.q_proj.weight", "l.v_proj.bias"], &["l.o_proj.weight"]);
        check("{a,b{1,2}}x", &["ax", "b1x", "b2x"], &["bx", "a1x"]);
        check("{*.a,b}", &["x.a", "b"], &["x.b"]);
        check("{,a}b", &["b", "ab"], &["a"]);
        check("l[0-9]", &["l0", "l9"], &["la", "l10"]);
        check("l[!0-9]", &["la"], &["l0"]);
        check("l[ab-]", &["l-", "la"], &["lc"]);
        check("a\\*b", &["a*b"], &["axb"]);
        check("a,b", &["a,b"], &["a"]);
    }

    #[test]
    fn named_parts_are_captured() {
        capture(
            "model.layers.{i}.{rest}.weight",
            "model.layers.12.q.weight",
            &[("i", "12"), ("rest", "q")],
        );
        capture("{a}_{b}", "x_y_z", &[("a", "x_y"), ("b", "z")]);
        capture("{x.{one},y.{two}}", "y.7", &[("two", "7")]);
        check("layers.{i}.w", &["layers.0.w"], &["layers..w", "layers.0.1.w"]);
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        refuse("", "^", "the pattern is empty");
        refuse("a[0", " ^^", "this `[` is not closed");
        refuse("a[]", " ^^", "this class of characters is empty");
        refuse("a[9-0]", "  ^^^", "the range `9-0` is empty");
        refuse("a{b,c", " ^^^^", "this `{` is not closed");
        refuse("a}", " ^", "this `}` closes nothing");
        refuse("a{}", " ^^", "braces hold a name, or alternatives with commas");
        refuse("{i}.{i}", "    ^^^", "`i` names two parts");
        refuse("a\\", " ^", "nothing follows the backslash");
        refuse(
            &"{a,".repeat(30),
            "                                                ^",
            "braces are nested too deeply",
        );
    }

    #[test]
    fn no_pattern_is_slow() {
        let name = "a".repeat(2000);
        let start = std::time::Instant::now();
        check(&format!("{}b", "*a".repeat(100)), &[], &[&name]);
        check(&format!("{}b", "{a,aa,*}".repeat(50)), &[], &[&name]);
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
    }
}
