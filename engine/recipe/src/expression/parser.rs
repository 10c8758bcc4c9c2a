//! Tokens of an expression to a tree, by precedence.

use mixdown_diagnostics::Span;

use super::lexer::{Token, TokenKind, tokenize};
use super::{BinaryOperator, Expression, ExpressionKind, UnaryOperator};

/// Levels of an expression; formulas of papers have about ten. Everything that walks one recurses.
const MOST_LEVELS: usize = 128;

/// Why a text is not an expression, with the characters that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// First character, from 0.
    pub start: usize,
    /// The character after the last.
    pub end: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl ExpressionError {
    pub(super) fn new(start: usize, end: usize, message: impl Into<String>) -> Self {
        Self { start, end, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Parses a text of one line; places count from column 1 of line 1.
pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let columns = 1..=u32::try_from(text.chars().count()).unwrap_or(u32::MAX - 1) + 1;
    let places: Vec<Span> = columns.map(|column| Span { line: 1, column, length: 1 }).collect();
    parse_at(text, &places)
}

/// Parses a text whose characters, and whose end, have these places.
pub fn parse_at(text: &str, places: &[Span]) -> Result<Expression, ExpressionError> {
    let tokens = tokenize(text)?;
    let mut parser = Parser { tokens, at: 0, places, levels: 0 };
    let (expression, _) = parser.expression(0)?;
    let rest = parser.peek();
    if rest.kind == TokenKind::End {
        return Ok(expression);
    }
    Err(parser.unexpected("an operator or the end"))
}

/// The place of the characters from `start` to `end`, as far as they are on one line.
pub(crate) fn span_between(places: &[Span], start: usize, end: usize) -> Span {
    let Some(first) = places.get(start).or(places.last()) else { return Span::default() };
    let last =
        end.checked_sub(1).and_then(|last| places.get(last)).filter(|last| last.line == first.line);
    let length = last.map_or(1, |last| (last.column + 1).saturating_sub(first.column).max(1));
    Span { length, ..*first }
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    places: &'a [Span],
    levels: usize,
}

/// An expression and the number of its levels.
type Parsed = (Expression, usize);

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is the end, and is never consumed.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token.kind != TokenKind::End {
            self.at += 1;
        }
        token
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek().kind, TokenKind::Symbol(other) if other == symbol);
        self.at += usize::from(found);
        found
    }

    fn unexpected(&self, wanted: &str) -> ExpressionError {
        let token = self.peek();
        let found = token.kind.describe();
        let error = ExpressionError::new(
            token.start,
            token.end.max(token.start + 1),
            format!("expected {wanted}, found {found}"),
        );
        match token.kind {
            TokenKind::Symbol("=") => error.help("to compare write `==`"),
            _ => error,
        }
    }

    fn span(&self, start: usize) -> Span {
        let end = self.at.checked_sub(1).map_or(start, |last| self.tokens[last].end);
        span_between(self.places, start, end)
    }

    fn build(
        &self,
        kind: ExpressionKind,
        start: usize,
        levels: usize,
    ) -> Result<Parsed, ExpressionError> {
        if levels > MOST_LEVELS {
            return Err(self.too_deep(start));
        }
        Ok((Expression { kind, span: self.span(start) }, levels))
    }

    fn too_deep(&self, start: usize) -> ExpressionError {
        ExpressionError::new(
            start,
            start + 1,
            format!("the formula has more than {MOST_LEVELS} levels"),
        )
        .help("split it into steps")
    }

    fn expression(&mut self, least: u8) -> Result<Parsed, ExpressionError> {
        self.levels += 1;
        if self.levels > MOST_LEVELS {
            return Err(self.too_deep(self.peek().start));
        }
        let result = self.binary(least);
        self.levels -= 1;
        result
    }

    /// Operators that bind at least as tightly as `least`.
    fn binary(&mut self, least: u8) -> Result<Parsed, ExpressionError> {
        let start = self.peek().start;
        let (mut left, mut levels) = self.unary(least)?;
        let mut compared = false;
        while let Some(operator) = self.operator() {
            let precedence = operator.precedence();
            if precedence < least {
                break;
            }
            if precedence == COMPARISON && compared {
                let token = self.peek();
                return Err(ExpressionError::new(
                    token.start,
                    token.end,
                    "comparisons do not chain",
                )
                .help("write `a < b and b < c`"));
            }
            compared |= precedence == COMPARISON;
            self.at += 1;
            let (right, right_levels) = self.expression(precedence + 1)?;
            let kind = ExpressionKind::Binary(operator, Box::new(left), Box::new(right));
            (left, levels) = self.build(kind, start, levels.max(right_levels) + 1)?;
        }
        Ok((left, levels))
    }

    fn operator(&self) -> Option<BinaryOperator> {
        use BinaryOperator as B;
        Some(match &self.peek().kind {
            TokenKind::Name(name) if name == "or" => B::Or,
            TokenKind::Name(name) if name == "and" => B::And,
            TokenKind::Symbol(symbol) => match *symbol {
                "+" => B::Add,
                "-" => B::Subtract,
                "*" => B::Multiply,
                "/" => B::Divide,
                "==" => B::Equal,
                "!=" => B::NotEqual,
                "<" => B::Less,
                "<=" => B::LessEqual,
                ">" => B::Greater,
                ">=" => B::GreaterEqual,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn unary(&mut self, least: u8) -> Result<Parsed, ExpressionError> {
        let start = self.peek().start;
        let is_not = matches!(&self.peek().kind, TokenKind::Name(name) if name == "not");
        if is_not {
            if least > NOT {
                return Err(self.unexpected("a value").help("put `not …` into parentheses"));
            }
            self.at += 1;
            let (inner, levels) = self.expression(NOT)?;
            let kind = ExpressionKind::Unary(UnaryOperator::Not, Box::new(inner));
            return self.build(kind, start, levels + 1);
        }
        if self.eat("-") {
            let (inner, levels) = self.expression(NEGATE)?;
            let kind = ExpressionKind::Unary(UnaryOperator::Negate, Box::new(inner));
            return self.build(kind, start, levels + 1);
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Result<Parsed, ExpressionError> {
        let start = self.peek().start;
        let (mut inner, mut levels) = self.primary()?;
        while self.eat("[") {
            let token = self.next();
            let index = match token.kind {
                // Experts are counted; an index beyond 2^32 is a mistake in any case.
                TokenKind::Number(value)
                    if value.fract() == 0.0 && (0.0..=4e9).contains(&value) =>
                {
                    value as usize
                }
                _ => {
                    return Err(ExpressionError::new(
                        token.start,
                        token.end.max(token.start + 1),
                        "an index is a whole number from 0",
                    ));
                }
            };
            if !self.eat("]") {
                return Err(self.unexpected("`]`"));
            }
            (inner, levels) =
                self.build(ExpressionKind::Index(Box::new(inner), index), start, levels + 1)?;
        }
        Ok((inner, levels))
    }

    fn primary(&mut self) -> Result<Parsed, ExpressionError> {
        let token = self.peek().clone();
        let start = token.start;
        let kind = match token.kind.clone() {
            TokenKind::Number(value) => ExpressionKind::Number(value),
            TokenKind::Text(text) => ExpressionKind::Text(text),
            TokenKind::Name(name) if matches!(&*name, "and" | "or" | "not") => {
                return Err(self.unexpected("a value"));
            }
            TokenKind::Name(name) if name == "true" || name == "false" => {
                ExpressionKind::Boolean(name == "true")
            }
            TokenKind::Name(name) => {
                self.at += 1;
                if self.eat("(") {
                    return self.call(name, &token);
                }
                return self.build(ExpressionKind::Name(name), start, 1);
            }
            TokenKind::Symbol("(") => {
                self.at += 1;
                let (inner, levels) = self.expression(0)?;
                if !self.eat(")") {
                    return Err(self.unexpected("`)`"));
                }
                return self.build(inner.kind, start, levels);
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.at += 1;
        self.build(kind, start, 1)
    }

    fn call(&mut self, function: String, name: &Token) -> Result<Parsed, ExpressionError> {
        let function_span = span_between(self.places, name.start, name.end);
        let mut arguments = Vec::new();
        let mut named: Vec<(String, Span, Expression)> = Vec::new();
        let mut levels = 0;
        while !self.eat(")") {
            let argument = self.argument_name();
            let token = self.peek().clone();
            if let Some(argument) = &argument {
                self.at += 2;
                if named.iter().any(|(other, ..)| other == argument) {
                    return Err(ExpressionError::new(
                        token.start,
                        token.end,
                        format!("`{argument}` is given twice"),
                    ));
                }
            } else if !named.is_empty() {
                return Err(ExpressionError::new(
                    token.start,
                    token.end.max(token.start + 1),
                    "an argument without a name follows one with a name",
                )
                .help("put arguments without names first"));
            }
            let (value, value_levels) = self.expression(0)?;
            levels = levels.max(value_levels);
            match argument {
                Some(argument) => {
                    named.push((
                        argument,
                        span_between(self.places, token.start, token.end),
                        value,
                    ));
                }
                None => arguments.push(value),
            }
            if !self.eat(",") && !matches!(self.peek().kind, TokenKind::Symbol(")")) {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
        let kind = ExpressionKind::Call { function, function_span, arguments, named };
        self.build(kind, name.start, levels + 1)
    }

    /// The name of the argument that comes next, if it has one.
    fn argument_name(&self) -> Option<String> {
        let TokenKind::Name(name) = &self.peek().kind else { return None };
        let next = self.tokens.get(self.at + 1)?;
        (next.kind == TokenKind::Symbol("=")).then(|| name.clone())
    }
}

const NOT: u8 = 3;
const COMPARISON: u8 = 4;
const NEGATE: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let expression = parse(text).unwrap();
        assert_eq!(expression.to_string(), expected);
        // What is printed means the same.
        assert_eq!(parse(expected).unwrap().to_string(), expected);
    }

    /// The message, and the text with `^` below what is marked.
    #[track_caller]
    fn refuse(text: &str, marks: &str, message: &str) {
        let error = parse(text).unwrap_err();
        let shown = format!("{}{}", " ".repeat(error.start), "^".repeat(error.end - error.start));
        assert_eq!((shown.as_str(), error.message.as_str()), (marks, message));
    }

    #[test]
    fn operators_bind_as_documented() {
        check("a+b*c", "a + b * c");
        check("(a+b)*c", "(a + b) * c");
        check("a-(b-c)", "a - (b - c)");
        check("a-b-c", "a - b - c");
        check("a/(b*c)", "a / (b * c)");
        check("-a*b", "-a * b");
        check("-(a*b)", "-(a * b)");
        check("- -a", "--a");
        check("a - -b", "a - -b");
        check("not a == b and c or d", "not a == b and c or d");
        check("not (a and b)", "not (a and b)");
        check("a and (b or c)", "a and (b or c)");
        check("(a < b) == c", "(a < b) == c");
        check("a + 1 >= b", "a + 1 >= b");
        check("(a == b) + 1", "(a == b) + 1");
    }

    #[test]
    fn calls_indices_and_literals() {
        check("experts[0]", "experts[0]");
        check("(a+b)[1]", "(a + b)[1]");
        check("f()", "f()");
        check(
            "keep_largest( delta , density,scope = \"tensor\" )",
            "keep_largest(delta, density, scope=\"tensor\")",
        );
        check("f(a,)", "f(a)");
        check("'it is' == \"it's\"", "\"it is\" == \"it's\"");
        check("1e-7 + .5 + 2. + 10", "1e-7 + 0.5 + 2 + 10");
        check("true or false", "true or false");
    }

    #[test]
    fn places_cover_what_they_stand_for() {
        let expression = parse("base + lambda * merged").unwrap();
        assert_eq!(expression.span, Span { line: 1, column: 1, length: 22 });
        let ExpressionKind::Binary(_, _, right) = expression.kind else { panic!() };
        assert_eq!(right.span, Span { line: 1, column: 8, length: 15 });
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        refuse("a +", "   ^", "expected a value, found the end");
        refuse("", "^", "expected a value, found the end");
        refuse("a b", "  ^", "expected an operator or the end, found `b`");
        refuse("a = b", "  ^", "expected an operator or the end, found `=`");
        refuse("(a", "  ^", "expected `)`, found the end");
        refuse("f(a b)", "    ^", "expected `,` or `)`, found `b`");
        refuse("a < b < c", "      ^", "comparisons do not chain");
        refuse("a ** 2", "  ^^", "`**` is not an operator");
        refuse("a && b", "  ^^", "`&&` is not an operator");
        refuse("λ * a", "^", "`λ` is not a name");
        refuse("b + naïve", "    ^^^^^", "`naïve` is not a name");
        refuse("a ^ b", "  ^", "`^` has no meaning here");
        refuse("1.2.3", "^^^^^", "`1.2.3` is not a number");
        refuse("2x", "^^", "`2x` is not a number");
        refuse("1e999", "^^^^^", "the number `1e999` is too large");
        refuse("\"abc", "^^^^", "this text has no closing quote");
        refuse("experts[-1]", "        ^", "an index is a whole number from 0");
        refuse("experts[i]", "        ^", "an index is a whole number from 0");
        refuse("f(x=1, x=2)", "       ^", "`x` is given twice");
        refuse("f(x=1, y)", "       ^", "an argument without a name follows one with a name");
        refuse("1 + not a", "    ^^^", "expected a value, found `not`");
    }

    #[test]
    fn deep_formulas_are_refused() {
        let levels = "the formula has more than 128 levels";
        for text in [
            "(".repeat(100_000),
            "-".repeat(100_000),
            "not ".repeat(100_000),
            "f(".repeat(100_000),
            vec!["a"; 100_000].join("+"),
            format!("a{}", "[0]".repeat(100_000)),
        ] {
            assert_eq!(parse(&text).unwrap_err().message, levels);
        }
        assert!(parse(&vec!["a"; 100].join("+")).is_ok());
    }
}
