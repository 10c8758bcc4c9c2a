//! `chat_template`: `auto`, the name of a template, or the text of one, whose tags must go together.

mod grammar;

use mixdown_diagnostics::{Diagnostic, codes, suggest};

use super::reader::{Decoder, Fields};
use crate::setting::Spanned;

/// The templates that a recipe can name.
pub const NAMES: [&str; 5] = ["alpaca", "chatml", "exaone", "llama3", "mistral"];

/// The word for the template that most of the models have.
pub const AUTO: &str = "auto";

impl Decoder<'_> {
    /// `chat_template`; one that cannot be understood has been reported.
    pub(crate) fn chat_template(&mut self, fields: Fields<'_>) -> Option<Spanned<String>> {
        let found = self.text_at(fields, "chat_template")?;
        let text = found.value.as_str();
        if text == AUTO || NAMES.contains(&text) {
            return Some(found);
        }
        let diagnostic = match text.contains("{{") || text.contains("{%") {
            false => {
                let headline = format!("there is no chat template `{}`", first_line(text));
                let error = Diagnostic::error(codes::CHAT_TEMPLATE, headline);
                let error = match suggest::nearest(text, NAMES.iter().copied().chain([AUTO])) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => {
                        error.help("write the text of a template, with `{{ … }}` and `{% … %}`")
                    }
                };
                error.note(format!("known: {AUTO}, {}", NAMES.join(", ")))
            }
            true => {
                let Err(words) = check(text) else { return Some(found) };
                Diagnostic::error(codes::CHAT_TEMPLATE, format!("the chat template {words}"))
                    .help("transformers reads templates as Jinja; try it there with `apply_chat_template`")
            }
        };
        self.report(found.span, diagnostic);
        None
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Tags that open a block, and those that end one.
const BLOCKS: [&str; 10] =
    ["for", "if", "macro", "call", "filter", "generation", "block", "with", "autoescape", "set"];
/// Tags that stand alone.
const ALONE: [&str; 8] =
    ["break", "continue", "do", "extends", "from", "import", "include", "debug"];

/// Whether all tags are closed and go together; an error says in words what does not.
fn check(text: &str) -> Result<(), String> {
    let mut open: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = next_mark(rest) {
        let (mark, after) = rest[at..].split_at(2);
        let close = match mark {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = match mark {
            "{#" => after.find(close),
            _ => end_of(after, close)?,
        };
        let Some(end) = end else {
            return Err(format!("has a `{mark}` without `{close}`: `{}`", shown(&rest[at..])));
        };
        let inside = trimmed(&after[..end]);
        rest = &after[end + 2..];
        if mark == "{%" {
            rest = statement(inside, &mut open, rest)?;
        } else if mark == "{{" {
            if inside.is_empty() {
                return Err("has an empty `{{ }}`".to_owned());
            }
            grammar::expression(inside)?;
        }
    }
    match open.pop() {
        Some(word) => Err(format!("has a `{{% {word} … %}}` without `{{% end{word} %}}`")),
        None => Ok(()),
    }
}

/// The inside of a tag, without the sign on either side that says what becomes of the space around it.
fn trimmed(inside: &str) -> &str {
    let signs = ['-', '+'];
    let inside = inside.strip_prefix(signs).unwrap_or(inside);
    inside.strip_suffix(signs).unwrap_or(inside).trim()
}

/// Where the next tag begins.
fn next_mark(text: &str) -> Option<usize> {
    let opens = |at: usize| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(at, _)| at).find(|&at| opens(at))
}

/// Opens or ends a block; what follows it, behind a stretch that is text whatever it says.
fn statement<'t>(inside: &str, open: &mut Vec<String>, rest: &'t str) -> Result<&'t str, String> {
    let word: String = inside.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let word = word.as_str();
    if word == "raw" {
        let at = rest.find("endraw").ok_or("has a `{% raw %}` without `{% endraw %}`")?;
        let after = &rest[at..];
        return Ok(after.find("%}").map_or("", |at| &after[at + 2..]));
    }
    if let Some(ended) = word.strip_prefix("end").filter(|word| BLOCKS.contains(word)) {
        return match open.pop() {
            Some(last) if last == ended => Ok(rest),
            Some(last) => Err(format!("ends `{ended}` where `{last}` is open")),
            None => Err(format!("ends a `{ended}` that nothing began")),
        };
    }
    if word != "raw" && (BLOCKS.contains(&word) || ["else", "elif", "do"].contains(&word)) {
        grammar::statement(inside)?;
    }
    match word {
        "else" | "elif" => match open.last().map(String::as_str) {
            Some("if") => Ok(rest),
            Some("for") if word == "else" => Ok(rest),
            _ => Err(format!("has an `{word}` outside of `if`")),
        },
        // With a value it stands alone.
        "set" if inside.contains('=') => Ok(rest),
        _ if BLOCKS.contains(&word) => {
            open.push(word.to_owned());
            Ok(rest)
        }
        _ if ALONE.contains(&word) => Ok(rest),
        _ => Err(format!("has a tag that Jinja does not know: `{{% {} %}}`", shown(inside))),
    }
}

/// Where a tag ends, beyond its texts in quotes; its brackets must go together.
fn end_of(text: &str, close: &str) -> Result<Option<usize>, String> {
    let mut quote = None;
    let mut brackets = Vec::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if let Some(mark) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == mark => quote = None,
                _ => {}
            }
            continue;
        }
        // `}}` can end two maps as well.
        if brackets.is_empty() && text[at..].starts_with(close) {
            return Ok(Some(at));
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '(' => brackets.push(')'),
            '[' => brackets.push(']'),
            '{' => brackets.push('}'),
            ')' | ']' | '}' if brackets.pop() != Some(c) => {
                return Err(format!("has a `{c}` that nothing began: `{}`", shown(text)));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    const MOST: usize = 40;
    let line = first_line(text);
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn templates_whose_tags_go_together() {
        for text in [
            "{{ messages }}",
            "{% for m in messages %}{% if m.role == '}}' %}a{% elif x %}b{% else %}c{% endif %}{% endfor %}",
            "{%- set x = {'a': {'b': 1}} -%}{{ {'a': 1}['a'] }}{# a } comment #}",
            "{% set x %}text{% endset %}{% generation %}{{ y }}{% endgeneration %}",
            "{% raw %}{{ not read {% endraw %}{{ x }}",
            "{% for a in b %}{% break %}{% else %}none{% endfor %}",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_told() {
        for (text, words) in [
            ("{{ messages", "without `}}`"),
            ("{% for m in messages %}{{ m }}", "without `{% endfor %}`"),
            ("{% if a %}{% endfor %}", "ends `for` where `if` is open"),
            ("{{ a }}{% endif %}", "that nothing began"),
            ("{% else %}", "outside of `if`"),
            ("{{ f(a] }}", "`]` that nothing began"),
            ("{% fro m in x %}", "does not know"),
            ("{{ 'a }}", "without `}}`"),
            ("{{ }}", "empty"),
        ] {
            let found = check(text).unwrap_err();
            assert!(found.contains(words), "{text}: {found}");
        }
    }
}
