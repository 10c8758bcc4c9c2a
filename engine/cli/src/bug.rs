//! What a person sees when the program's own code is wrong.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

/// Replaces Rust's message about a panic by one for the person who met it.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::SeqCst) {
            let arguments: Vec<String> =
                std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
            let _ = std::io::stderr().lock().write_all(message(info, &arguments).as_bytes());
        }
        // Nothing is half-done on disk: an output appears under its name only when it is whole.
        std::process::exit(Exit::Failed as i32);
    }));
}

fn message(info: &PanicHookInfo<'_>, arguments: &[String]) -> String {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let fixed = payload.downcast_ref::<&str>().copied();
    let cause = fixed.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text(cause.unwrap_or("no message"), &place, arguments)
}

fn text(cause: &str, place: &str, arguments: &[String]) -> String {
    format!(
        "error: mixdown failed because of a mistake in its own code\n   \
         = cause:   {cause}\n   \
         = place:   {place}\n   \
         = command: {}\n   \
         = version: {}\n   \
         = help: report this with the lines above and the recipe; no finished output was touched\n",
        arguments.join(" "),
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_a_report_needs() {
        let arguments = ["mixdown".to_owned(), "merge".to_owned(), "team.yaml".to_owned()];
        let text = text("index out of bounds", "plan/src/lower.rs:12:3", &arguments);
        for part in ["index out of bounds", "lower.rs:12:3", "mixdown merge team.yaml", "version"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
