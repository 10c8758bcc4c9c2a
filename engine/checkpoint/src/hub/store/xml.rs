//! The little of XML that stores answer with: elements that hold text or other elements, without attributes
//! that matter.

/// What stands in each element of this name, in order; elements of one name are not within each other.
pub(super) fn all<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(&open) {
        let inner = &rest[start + open.len()..];
        let Some(end) = inner.find(&close) else { break };
        found.push(&inner[..end]);
        rest = &inner[end + close.len()..];
    }
    found
}

/// The text of the first element of this name.
pub(super) fn text_of(text: &str, name: &str) -> Option<String> {
    all(text, name).first().map(|inner| plain(inner))
}

/// Text without the escapes of XML.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].split_once(';').map(|(name, _)| name);
        match name.and_then(|name| Some((name, letter(name)?))) {
            Some((name, letter)) => {
                out.push(letter);
                rest = &rest[name.len() + 2..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The letter that an escape of this name stands for.
fn letter(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        other => {
            let number = other.strip_prefix('#')?;
            let number = match number.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(number)?
        }
    })
}

/// Text with the escapes of XML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_and_read() {
        let text =
            "<?xml?><R xmlns='x'><Part><N>1</N><E>&quot;a&#34;</E></Part><Part><N>2</N></Part></R>";
        assert_eq!(all(text, "Part"), ["<N>1</N><E>&quot;a&#34;</E>", "<N>2</N>"]);
        assert_eq!(text_of(text, "E").as_deref(), Some("\"a\""));
        assert_eq!(text_of(text, "none"), None);
        assert_eq!(all("<a>open", "a"), [""; 0]);
        for text in ["a&b<c>\"d\"", "&", "x&;y", "&ü;ü&", "&#x41;&bad;&"] {
            assert_eq!(plain(&escaped(text)), text);
        }
        assert_eq!(plain("&#x41;&bad;&"), "A&bad;&");
    }
}
