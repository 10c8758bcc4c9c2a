//! The grammar of Jinja's tags: whether what stands in `{{ … }}` and `{% … %}` can be read at all.
//!
//! Names are not looked up: which filters, tests and variables there are is known where a template is run.
//! As in Jinja2 with the extensions that transformers adds.

/// What a tag is made of.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text,
    Number,
    /// One of [`SIGNS`].
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 27] = [
    "**", "//", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", "~", "+",
    "-", "*", "/", "%", "<", ">", "=", ";", "!",
];

/// Signs that compare.
const COMPARISONS: [&str; 6] = ["==", "!=", "<", ">", "<=", ">="];

/// Names that are no values.
const KEYWORDS: [&str; 8] = ["and", "or", "not", "if", "else", "in", "is", "recursive"];

/// Brackets within brackets, beyond which a template is not read.
const DEEPEST: usize = 200;

/// What is wrong, as the end of a sentence that begins with the template.
type Checked = Result<(), String>;

/// Whether the inside of `{{ … }}` is an expression.
pub(super) fn expression(text: &str) -> Checked {
    let mut reader = Reader::new(text)?;
    reader.tuple()?;
    reader.end()
}

/// Whether the inside of `{% … %}` is a statement of a known tag.
pub(super) fn statement(text: &str) -> Checked {
    let mut reader = Reader::new(text)?;
    let Some(Token::Name(tag)) = reader.next() else {
        return Err("has a tag without a name".to_owned());
    };
    match tag.as_str() {
        "for" => {
            reader.targets()?;
            reader.name("in")?;
            reader.alternative()?;
            while reader.takes(",") {
                if reader.is_done() {
                    break;
                }
                reader.alternative()?;
            }
            if reader.takes_name("if") {
                reader.conditional()?;
            }
            reader.takes_name("recursive");
        }
        "if" | "elif" => reader.tuple()?,
        "set" => {
            reader.targets()?;
            if reader.takes("=") {
                reader.tuple()?;
            } else {
                reader.filters()?;
            }
        }
        "with" => {
            while !reader.is_done() {
                reader.targets()?;
                reader.sign("=")?;
                reader.conditional()?;
                if !reader.takes(",") {
                    break;
                }
            }
        }
        "macro" => {
            reader.any_name("the name of the macro")?;
            reader.parameters()?;
        }
        "call" => {
            if reader.peek() == Some(&Token::Sign("(")) {
                reader.parameters()?;
            }
            reader.conditional()?;
        }
        "filter" => {
            reader.any_name("the name of a filter")?;
            reader.filter_rest()?;
            reader.filters()?;
        }
        "do" | "autoescape" => reader.tuple()?,
        "break" | "continue" | "else" | "generation" => {}
        // Those that end a block may repeat its name; files of other templates are not read.
        _ => return Ok(()),
    }
    reader.end()
}

struct Reader<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if c.is_whitespace() {
                at += c.len_utf8();
                continue;
            }
            let (length, token) = token(&text[at..]).ok_or_else(|| {
                format!("has `{c}` where Jinja knows no such sign: `{}`", super::shown(text))
            })?;
            tokens.push((at, token));
            at += length;
        }
        Ok(Self { text, tokens, at: 0, depth: 0 })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn is_done(&self) -> bool {
        self.at == self.tokens.len()
    }

    fn wrong(&self, wanted: &str) -> String {
        match self.tokens.get(self.at) {
            Some((at, _)) => format!(
                "lacks {wanted} before `{}`: `{}`",
                super::shown(&self.text[*at..]),
                super::shown(self.text)
            ),
            None => format!("lacks {wanted} at the end of `{}`", super::shown(self.text)),
        }
    }

    fn end(&self) -> Checked {
        match self.is_done() {
            true => Ok(()),
            false => Err(self.wrong("an operator or the end of the tag")),
        }
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is_it);
        is_it
    }

    fn takes_name(&mut self, name: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Name(found)) if found == name);
        self.at += usize::from(is_it);
        is_it
    }

    fn sign(&mut self, sign: &str) -> Checked {
        if self.takes(sign) { Ok(()) } else { Err(self.wrong(&format!("`{sign}`"))) }
    }

    fn name(&mut self, name: &str) -> Checked {
        if self.takes_name(name) { Ok(()) } else { Err(self.wrong(&format!("`{name}`"))) }
    }

    fn any_name(&mut self, what: &str) -> Checked {
        match self.peek() {
            Some(Token::Name(name)) if !KEYWORDS.contains(&name.as_str()) => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.wrong(what)),
        }
    }

    /// What values are given to: names, parts of namespaces, or several of them.
    fn targets(&mut self) -> Checked {
        loop {
            if self.takes("(") {
                self.deeper()?;
                self.targets()?;
                self.sign(")")?;
                self.depth -= 1;
            } else {
                self.any_name("a name")?;
                while self.takes(".") {
                    self.any_name("a name")?;
                }
            }
            if !self.takes(",") || matches!(self.peek(), Some(Token::Sign(")" | "="))) {
                return Ok(());
            }
        }
    }

    /// Parameters of a macro.
    fn parameters(&mut self) -> Checked {
        self.sign("(")?;
        while !self.takes(")") {
            self.any_name("a parameter")?;
            if self.takes("=") {
                self.conditional()?;
            }
            if !self.takes(",") {
                return self.sign(")");
            }
        }
        Ok(())
    }

    fn deeper(&mut self) -> Checked {
        self.depth += 1;
        match self.depth > DEEPEST {
            true => Err(format!("has more than {DEEPEST} expressions within each other")),
            false => Ok(()),
        }
    }

    /// One value, or several with commas between them.
    fn tuple(&mut self) -> Checked {
        self.conditional()?;
        while self.takes(",") {
            if self.is_done() || matches!(self.peek(), Some(Token::Sign(")"))) {
                break;
            }
            self.conditional()?;
        }
        Ok(())
    }

    /// `a if b else c`.
    fn conditional(&mut self) -> Checked {
        self.deeper()?;
        self.alternative()?;
        while self.takes_name("if") {
            self.alternative()?;
            if self.takes_name("else") {
                self.conditional()?;
                break;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Operators from the loosest on; all join operands on both sides, so that their order does not matter here.
    fn alternative(&mut self) -> Checked {
        loop {
            self.operand()?;
            let is_joined = match self.peek() {
                Some(Token::Name(name)) => match name.as_str() {
                    "and" | "or" | "in" => {
                        self.at += 1;
                        true
                    }
                    "not" => {
                        self.at += 1;
                        self.name("in")?;
                        true
                    }
                    _ => false,
                },
                Some(Token::Sign(sign)) => {
                    let joins = COMPARISONS.contains(sign)
                        || ["+", "-", "*", "/", "%", "//", "**", "~"].contains(sign);
                    self.at += usize::from(joins);
                    joins
                }
                _ => false,
            };
            if !is_joined {
                return Ok(());
            }
        }
    }

    /// A value with signs before it, and parts, calls, filters and tests behind it.
    fn operand(&mut self) -> Checked {
        while self.takes_name("not") || self.takes("-") || self.takes("+") {}
        self.value()?;
        loop {
            self.parts()?;
            if self.peek() == Some(&Token::Sign("|")) {
                self.filters()?;
            } else if self.takes_name("is") {
                self.test()?;
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Checked {
        self.deeper()?;
        match self.peek() {
            Some(Token::Name(name)) if !KEYWORDS.contains(&name.as_str()) => self.at += 1,
            Some(Token::Number) => self.at += 1,
            // Texts that follow each other are one.
            Some(Token::Text) => {
                while self.peek() == Some(&Token::Text) {
                    self.at += 1;
                }
            }
            Some(Token::Sign("(")) => {
                self.at += 1;
                if !self.takes(")") {
                    self.tuple()?;
                    self.sign(")")?;
                }
            }
            Some(Token::Sign("[")) => {
                self.at += 1;
                while !self.takes("]") {
                    self.conditional()?;
                    if !self.takes(",") {
                        self.sign("]")?;
                        break;
                    }
                }
            }
            Some(Token::Sign("{")) => {
                self.at += 1;
                while !self.takes("}") {
                    self.conditional()?;
                    self.sign(":")?;
                    self.conditional()?;
                    if !self.takes(",") {
                        self.sign("}")?;
                        break;
                    }
                }
            }
            _ => return Err(self.wrong("a value")),
        }
        self.depth -= 1;
        Ok(())
    }

    /// `.name`, `[…]` and `(…)`.
    fn parts(&mut self) -> Checked {
        loop {
            if self.takes(".") {
                match self.next() {
                    Some(Token::Name(_) | Token::Number) => {}
                    _ => {
                        self.at -= usize::from(!self.is_done());
                        return Err(self.wrong("a name"));
                    }
                }
            } else if self.takes("[") {
                loop {
                    while self.takes(":") {}
                    if self.takes("]") {
                        break;
                    }
                    self.conditional()?;
                    if !self.takes(",") && self.peek() != Some(&Token::Sign(":")) {
                        self.sign("]")?;
                        break;
                    }
                }
            } else if self.peek() == Some(&Token::Sign("(")) {
                self.arguments()?;
            } else {
                return Ok(());
            }
        }
    }

    fn arguments(&mut self) -> Checked {
        self.sign("(")?;
        while !self.takes(")") {
            if !self.takes("**") {
                self.takes("*");
            }
            let is_named = matches!(
                (self.tokens.get(self.at), self.tokens.get(self.at + 1)),
                (Some((_, Token::Name(_))), Some((_, Token::Sign("="))))
            );
            if is_named {
                self.at += 2;
            }
            self.conditional()?;
            if !self.takes(",") {
                return self.sign(")");
            }
        }
        Ok(())
    }

    fn filters(&mut self) -> Checked {
        while self.takes("|") {
            self.any_name("the name of a filter")?;
            self.filter_rest()?;
        }
        Ok(())
    }

    /// What stands behind the name of a filter: parts of the name, and arguments.
    fn filter_rest(&mut self) -> Checked {
        while self.takes(".") {
            self.any_name("the name of a filter")?;
        }
        if self.peek() == Some(&Token::Sign("(")) {
            self.arguments()?;
        }
        Ok(())
    }

    /// What follows `is`.
    fn test(&mut self) -> Checked {
        self.takes_name("not");
        match self.peek() {
            // A test is called `in`, too.
            Some(Token::Name(_)) => self.at += 1,
            _ => return Err(self.wrong("the name of a test")),
        }
        while self.takes(".") {
            self.any_name("the name of a test")?;
        }
        match self.peek() {
            Some(Token::Sign("(")) => self.arguments(),
            // An argument without brackets.
            Some(Token::Name(name)) if !KEYWORDS.contains(&name.as_str()) => {
                self.value()?;
                self.parts()
            }
            Some(Token::Text | Token::Number | Token::Sign("[" | "{")) => {
                self.value()?;
                self.parts()
            }
            _ => Ok(()),
        }
    }
}

/// The first token of a text, and its length.
fn token(text: &str) -> Option<(usize, Token)> {
    let first = text.chars().next()?;
    if first == '"' || first == '\'' {
        let mut is_escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                _ if c == first => return Some((at + 1, Token::Text)),
                _ => {}
            }
        }
        return None;
    }
    let length = |belongs: &dyn Fn(char) -> bool| {
        text.char_indices().find(|(_, c)| !belongs(*c)).map_or(text.len(), |(at, _)| at)
    };
    if first.is_ascii_digit() {
        let whole = length(&|c| c.is_ascii_alphanumeric() || c == '_');
        // Of `1.5e3` all belongs to the number, of `1.name` the point does not.
        let rest = text[whole..].strip_prefix('.').unwrap_or_default();
        if !rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Some((whole, Token::Number));
        }
        let of_number = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let more = rest.find(|c| !of_number(c)).unwrap_or(rest.len());
        return Some((whole + 1 + more, Token::Number));
    }
    if first.is_alphabetic() || first == '_' {
        let length = length(&|c| c.is_alphanumeric() || c == '_');
        return Some((length, Token::Name(text[..length].to_owned())));
    }
    let sign = SIGNS.into_iter().find(|sign| text.starts_with(sign))?;
    Some((sign.len(), Token::Sign(sign)))
}

#[cfg(test)]
mod tests {
    use super::{expression, statement};

    #[test]
    fn what_templates_write_is_read() {
        for text in [
            "messages[0]['role'] == 'system'",
            "m.content | trim",
            "'a' 'b' ~ x.y[1:] ~ z[::-1]",
            "raise_exception('no')",
            "tools is defined and tools is not none and (tools | length) > 0",
            "x if a else y if b else z",
            "loop.index0 is divisibleby 2",
            "loop.index0 is divisibleby(2) or not loop.last",
            "message['content'] is string",
            "x is in ['a', 'b']",
            "a not in b",
            "{'a': 1, 'b': [1, 2.5e3,], }",
            "tojson(x, indent=4)",
            "m | map(attribute='x') | join(', ') | default('a', true)",
            "f(*a, **b)",
            "-x ** 2 // 3 % 4",
            "()",
            "1, 2",
            "x[1:2, 'a']",
            "a if b",
            "x.0",
            "\"\\\"\" + 'é'",
            "true and True and none",
            "strftime_now(\"%d %b %Y\")",
            "a is eq 3 and b is mapping",
        ] {
            assert_eq!(expression(text), Ok(()), "{text}");
        }
        for text in [
            "for m in messages",
            "for k, v in x.items() if v recursive",
            "for (a, b) in x",
            "for i in range(0, 3)",
            "if not add_generation_prompt is defined",
            "set ns = namespace(x=false)",
            "set ns.x = true",
            "set a, b = 1, 2",
            "set x | upper",
            "set x",
            "macro f(a, b='x', c=none)",
            "call(x) f(1)",
            "filter upper | trim",
            "with a = 1, b = 2",
            "with",
            "do x.append(1)",
            "generation",
            "endfor",
            "endmacro f",
            "break",
            "include 'x' ignore missing",
        ] {
            assert_eq!(statement(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_jinja_cannot_read_is_told() {
        for (text, words) in [
            ("m.content | ", "the name of a filter at the end"),
            ("m.content + ", "a value at the end"),
            ("a b", "before `b`"),
            ("a == == b", "a value before `== b`"),
            ("f(a", "`)` at the end"),
            ("{'a'}", "`:`"),
            ("x is", "the name of a test"),
            ("a & b", "no such sign"),
            ("a.", "a name"),
            ("if", "a value"),
            ("a not b", "`in`"),
            ("x = 3", "an operator or the end of the tag before `= 3`"),
            ("'a", "no such sign"),
        ] {
            let found = expression(text).unwrap_err();
            assert!(found.contains(words), "{text}: {found}");
        }
        for (text, words) in [
            ("for m on messages", "`in` before `on messages`"),
            ("for in messages", "a name before"),
            ("if", "a value"),
            ("set 3 = x", "a name"),
            ("set x = ", "a value"),
            ("else x", "the end of the tag"),
            ("macro (a)", "the name of the macro"),
        ] {
            let found = statement(text).unwrap_err();
            assert!(found.contains(words), "{text}: {found}");
        }
        assert!(expression(&"(".repeat(100_000)).unwrap_err().contains("within each other"));
        assert!(expression(&"not ".repeat(100_000)).is_err());
    }
}
