//! Merges from a Rust program: `cargo run -p mixdown-embed -- RECIPE FOLDER`.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use mixdown_session::merge::{MergeRequest, merge};
use mixdown_session::{Places, RecipeInput, Session, Silence};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, out] = arguments.as_slice() else { return ExitCode::from(2) };
    let places = Places::from_env(&|name| std::env::var_os(name));
    let cancel = AtomicBool::new(false); // Another thread may raise it.
    let session = Session::new(&places, &Silence, &cancel);
    match merge(&MergeRequest::new(RecipeInput::of_file(recipe), out), &session) {
        Ok(merged) => println!("{}", merged.out().display()),
        Err(trouble) => {
            eprint!("{trouble}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
