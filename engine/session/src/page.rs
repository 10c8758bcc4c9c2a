//! A document as one page for a browser, which needs nothing else: style, script and data are in it.

use serde_json::Value;

/// The page's frame; its marks are filled in.
const FRAME: &str = include_str!("page/frame.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// A page of a kind that the script knows: `survey` or `report`.
///
/// The script puts data into the page as text, never as markup, and data cannot end the element that it is in.
pub fn page(kind: &str, document: &Value) -> String {
    let mut page = String::new();
    let mut rest = FRAME;
    while let Some((before, after)) = rest.split_once("<!--") {
        let Some((mark, after)) = after.split_once("-->") else { break };
        page.push_str(before);
        match mark {
            "style" => page.push_str(STYLE),
            "script" => page.push_str(SCRIPT),
            "kind" => page.push_str(kind),
            "data" => page.push_str(&within_script(&document.to_string())),
            _ => {}
        }
        rest = after;
    }
    page + rest
}

/// JSON that nothing reads as markup: `<`, `>` and `&` stand in strings only, where they can be escaped.
fn within_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_no_markup() {
        let odd = "</script><script>alert(1)</script><!--data--> & \u{2028}";
        let page = page("survey", &json!({"tensors": [{"name": odd}]}));
        assert_eq!(page.matches("<script").count(), 2, "data and program");
        assert_eq!(page.matches("</script>").count(), 2);
        let start = page.find("id=\"data\">").unwrap() + 10;
        let data = &page[start..start + page[start..].find("</script>").unwrap()];
        let read: Value = serde_json::from_str(data).unwrap();
        assert_eq!(read["tensors"][0]["name"], odd);
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page("report", &json!({}));
        for word in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains("prefers-color-scheme: dark"));
    }
}
