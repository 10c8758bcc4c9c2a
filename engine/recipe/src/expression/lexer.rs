//! Characters of an expression to tokens.

use super::parser::ExpressionError;

/// A token with its place in the text, in characters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Number(f64),
    Text(String),
    Name(String),
    Symbol(&'static str),
    End,
}

impl TokenKind {
    /// For messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Number(value) => format!("the number {value:?}"),
            Self::Text(text) => format!("the text \"{text}\""),
            Self::Name(name) => format!("`{name}`"),
            Self::Symbol(symbol) => format!("`{symbol}`"),
            Self::End => "the end".into(),
        }
    }
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: &[&str] =
    &["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")", "[", "]", ",", "="];

/// What people write who come from other languages, and what to write here.
const FOREIGN: &[(&str, &str)] = &[
    ("**", "multiply by itself: `x * x`"),
    ("&&", "write `and`"),
    ("||", "write `or`"),
    ("&", "write `and`"),
    ("|", "write `or`"),
    ("!", "write `not`"),
];

pub(super) fn tokenize(text: &str) -> Result<Vec<Token>, ExpressionError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let start = at;
        let kind = if c.is_ascii_digit()
            || (c == '.' && chars.get(at + 1).is_some_and(char::is_ascii_digit))
        {
            number(&chars, &mut at)?
        } else if c.is_ascii_alphabetic() || c == '_' {
            let name = take_while(&chars, &mut at, |c| c.is_ascii_alphanumeric() || c == '_');
            if chars.get(at).is_some_and(|c| c.is_alphanumeric()) {
                return Err(not_ascii(&chars, start));
            }
            TokenKind::Name(name)
        } else if c == '"' || c == '\'' {
            quoted(&chars, &mut at, c)?
        } else {
            symbol(&chars, &mut at)?
        };
        tokens.push(Token { kind, start, end: at });
    }
    tokens.push(Token { kind: TokenKind::End, start: at, end: at });
    Ok(tokens)
}

fn take_while(chars: &[char], at: &mut usize, accept: impl Fn(char) -> bool) -> String {
    let start = *at;
    while chars.get(*at).is_some_and(|&c| accept(c)) {
        *at += 1;
    }
    chars[start..*at].iter().collect()
}

fn number(chars: &[char], at: &mut usize) -> Result<TokenKind, ExpressionError> {
    let start = *at;
    take_while(chars, at, |c| c.is_ascii_digit());
    if chars.get(*at) == Some(&'.') {
        *at += 1;
        take_while(chars, at, |c| c.is_ascii_digit());
    }
    if matches!(chars.get(*at), Some('e' | 'E')) {
        *at += 1;
        if matches!(chars.get(*at), Some('+' | '-')) {
            *at += 1;
        }
        take_while(chars, at, |c| c.is_ascii_digit());
    }
    let trailing = take_while(chars, at, |c| c.is_alphanumeric() || c == '_' || c == '.');
    let text: String = chars[start..*at].iter().collect();
    match text.parse::<f64>() {
        Ok(value) if trailing.is_empty() && value.is_finite() => Ok(TokenKind::Number(value)),
        Ok(_) if trailing.is_empty() => {
            Err(ExpressionError::new(start, *at, format!("the number `{text}` is too large")))
        }
        _ => Err(ExpressionError::new(start, *at, format!("`{text}` is not a number"))),
    }
}

fn quoted(chars: &[char], at: &mut usize, quote: char) -> Result<TokenKind, ExpressionError> {
    let start = *at;
    *at += 1;
    let text = take_while(chars, at, |c| c != quote);
    if chars.get(*at).is_none() {
        return Err(ExpressionError::new(start, *at, "this text has no closing quote"));
    }
    *at += 1;
    Ok(TokenKind::Text(text))
}

fn symbol(chars: &[char], at: &mut usize) -> Result<TokenKind, ExpressionError> {
    let start = *at;
    let begins =
        |symbol: &str| symbol.chars().enumerate().all(|(i, c)| chars.get(start + i) == Some(&c));
    if !begins("!=")
        && let Some((foreign, help)) = FOREIGN.iter().find(|(foreign, _)| begins(foreign))
    {
        let end = start + foreign.len();
        return Err(
            ExpressionError::new(start, end, format!("`{foreign}` is not an operator")).help(*help)
        );
    }
    if let Some(symbol) = SYMBOLS.iter().find(|symbol| begins(symbol)) {
        *at += symbol.len();
        return Ok(TokenKind::Symbol(symbol));
    }
    if chars[start].is_alphanumeric() {
        return Err(not_ascii(chars, start));
    }
    Err(ExpressionError::new(start, start + 1, format!("`{}` has no meaning here", chars[start])))
}

fn not_ascii(chars: &[char], start: usize) -> ExpressionError {
    let mut end = start;
    let name = take_while(chars, &mut end, |c| c.is_alphanumeric() || c == '_');
    ExpressionError::new(start, end, format!("`{name}` is not a name"))
        .help("write names in the letters a to z, digits and `_`, as in `lambda`")
}
