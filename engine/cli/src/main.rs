//! The mixdown program: arguments to outcome to exit code.

fn main() {
    std::process::exit(mixdown_cli::run(std::env::args_os()));
}
