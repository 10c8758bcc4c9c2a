//! The program: prompts in a file to answers in a file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use mixdown_diagnostics::render::{Color, render_all};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::{read_given, stored};
use mixdown_generate::VERSION;
use mixdown_generate::answer::answer;
use mixdown_generate::model::Model;
use mixdown_generate::represent::{Represent, represent};
use mixdown_generate::text::Text;
use mixdown_search::prompts;

/// Answer prompts with a small text model, greedily and the same on every machine
///
/// Runs models of the families gpt2, llama, mistral and qwen2 on the processor. Each line of the file of
/// prompts is answered by one line of the other file, which is written as answers come.
#[derive(Debug, Parser)]
#[command(name = "mixdown-generate", version = VERSION, after_long_help = "\
Prompts, one JSON object per line; `input_ids` can stand for `messages`:
  {\"id\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"…\"}], \"gen\": {\"max_new_tokens\": 8}}
  {\"id\": \"b\", \"input_ids\": [1, 17, {\"type\": \"embeds\", \"path\": \"x.safetensors\", \"tensor\": \"b\"}, 5]}

Messages become text by the model's chat template; without one, their contents stand one below the
other. Answers are the text that follows, without special tokens; of a model without tokenizer.json,
the numbers of the tokens with spaces between.

Exit status: 0 all prompts are answered, 1 failed, 2 command line wrong.")]
struct Arguments {
    /// The model's folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The file of prompts
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The file of answers to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Instead of answers, what the model makes of texts: each line of the file of prompts is a JSON string,
    /// and `-` stands for what comes and goes through pipes
    #[arg(long, value_name = "WHAT", value_enum)]
    represent: Option<Represent>,
    /// The most tokens of answers whose prompt says nothing of it
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    max_new_tokens: u64,
    /// Threads that compute; all processors by default. Answers do not depend on it
    #[arg(long, value_name = "N", env = "MIXDOWN_THREADS", hide_env_values = true)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(found) => {
            // Nobody is left to be told when stderr is gone.
            let _ = io::stderr().write_all(render_all(&found, Color::Plain).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Vec<Diagnostic>> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.unwrap_or(0));
    let threads = threads.build().map_err(|error| {
        let headline = format!("threads cannot be started: {error}");
        vec![Diagnostic::error(codes::GENERATOR_FAILED, headline)]
    })?;
    if let Some(what) = arguments.represent {
        return threads.install(|| representations(arguments, what));
    }
    let prompts = prompts::read(&arguments.prompts)?;
    prompts::check_media(&arguments.prompts, &prompts.iter().collect::<Vec<_>>())?;
    let model = Model::read(&arguments.model)?;
    let text = Text::read(&arguments.model)?;
    let mut out =
        File::create(&arguments.out).map_err(|error| unwritable(&arguments.out, &error))?;
    for prompt in &prompts {
        let answer = threads.install(|| answer(&model, &text, prompt, arguments.max_new_tokens));
        // Each answer is whole when it is written, so that what is there counts if the next never comes.
        out.write_all(format!("{}\n", answer.to_line()).as_bytes())
            .map_err(|error| unwritable(&arguments.out, &error))?;
    }
    Ok(())
}

fn representations(arguments: &Arguments, what: Represent) -> Result<(), Vec<Diagnostic>> {
    let is_pipe = |path: &Path| path == Path::new("-");
    let lines = match is_pipe(&arguments.prompts) {
        true => read_given(Path::new("/dev/stdin"), prompts::LONGEST),
        false => read_given(&arguments.prompts, prompts::LONGEST),
    };
    let lines = lines.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    let lines = lines.map_err(|error| {
        let headline = format!("the texts cannot be read: {error}");
        let error = Diagnostic::error(codes::UNREADABLE, headline);
        vec![error.in_file(arguments.prompts.to_string_lossy())]
    })?;
    let found = represent(&arguments.model, &lines, what)?;
    let text: String = found.iter().map(|one| format!("{one}\n")).collect();
    let written = match is_pipe(&arguments.out) {
        true => io::stdout().write_all(text.as_bytes()),
        false => stored::write_named(&arguments.out, text.as_bytes()),
    };
    written.map_err(|error| unwritable(&arguments.out, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Vec<Diagnostic> {
    let headline = format!("answers cannot be written: {error}");
    vec![Diagnostic::error(codes::WRITE_FAILED, headline).in_file(path.to_string_lossy())]
}
