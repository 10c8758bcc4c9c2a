//! `--sweep`: one merge for each of several values of a parameter, from one computation.

use std::fmt;

/// A parameter and its values, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As typed: a parameter of the method, a declared value, or a path as `--set` takes it.
    pub name: String,
    /// In the order they were given, each once.
    pub values: Vec<String>,
}

/// Reads `NAME=VALUE,VALUE…`.
pub fn parse(text: &str) -> Result<Sweep, String> {
    let Some((name, values)) = text.split_once('=') else {
        return Err("write it as NAME=VALUE,VALUE, for instance lambda=0.1,0.3,1".to_owned());
    };
    let name = name.trim();
    if name.is_empty() {
        return Err("the name of a parameter comes before the `=`".to_owned());
    }
    let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
    if values.iter().any(String::is_empty) {
        return Err("one of the values is empty".to_owned());
    }
    if let Some((at, twice)) =
        values.iter().enumerate().find(|(at, value)| values[..*at].contains(value))
    {
        return Err(format!("the value {twice} is given twice, at position {}", at + 1));
    }
    let is_plain = |c: char| c.is_alphanumeric() || "._-+".contains(c);
    if let Some(odd) = values.iter().find(|value| !value.chars().all(is_plain)) {
        return Err(format!("`{odd}` cannot be part of the name of a folder"));
    }
    Ok(Sweep { name: name.to_owned(), values })
}

impl Sweep {
    /// The path of the value in the recipe: a bare name is a declared value, or else a parameter at
    /// the top.
    pub fn path(&self, is_declared: bool) -> String {
        match is_declared || self.name.contains('.') {
            true => self.name.clone(),
            false => format!("parameters.{}", self.name),
        }
    }

    /// The name of the folder of one value's output.
    pub fn folder(&self, value: &str) -> String {
        let last = self.name.rsplit('.').next().unwrap_or(&self.name);
        format!("{last}-{value}")
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.values.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_read() {
        let sweep = parse("lambda=0.1, 0.3,1e-2").unwrap();
        assert_eq!(sweep.values, ["0.1", "0.3", "1e-2"]);
        assert_eq!(sweep.path(false), "parameters.lambda");
        assert_eq!(sweep.path(true), "lambda");
        assert_eq!(sweep.folder("0.3"), "lambda-0.3");
        let nested = parse("rules.0.parameters.t=0,1").unwrap();
        assert_eq!(nested.path(false), "rules.0.parameters.t");
        assert_eq!(nested.folder("1"), "t-1");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["lambda", "=1", "lambda=", "lambda=1,,2", "lambda=1,1", "lambda=../x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
