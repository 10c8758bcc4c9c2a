//! A program that reads a file of prompts and writes a file of answers, run once for each candidate.

use std::path::Path;
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Answers, Failure, Generator, Task};
use crate::process::{self, Ended, Program};
use crate::prompts::Prompt;
use crate::responses::{self, Ending, Response, missing, shown_ids};

/// The placeholders of its command.
pub const PLACEHOLDERS: [&str; 3] = ["model_dir", "prompts", "out"];

/// A program that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandGenerator {
    /// The program and its arguments, with placeholders.
    pub argv: Vec<String>,
    /// What a user calls this version of it; another version, and nothing of the cache is used.
    pub version: String,
    /// What one run may take.
    pub timeout: Option<Duration>,
    /// How often it is run again for answers that are missing.
    pub retries: u64,
}

impl Generator for CommandGenerator {
    fn id(&self) -> String {
        format!("command {:?} {:?}", self.version, self.argv)
    }

    fn answer(&mut self, task: &Task<'_>) -> Answers {
        let mut answers = Answers::default();
        for attempt in 0..=self.retries {
            let ids: Vec<&str> = task.prompts.iter().map(|prompt| prompt.id.as_str()).collect();
            let wanted = missing(&ids, &answers.responses);
            let prompts: Vec<&Prompt> = task
                .prompts
                .iter()
                .copied()
                .filter(|prompt| wanted.contains(&prompt.id.as_str()))
                .collect();
            let (found, failure) = self.run(task, &prompts);
            answers.responses.extend(found);
            answers.failure = failure.map(|(failure, _)| failure);
            let is_final = match &answers.failure {
                None => true,
                Some(Failure::Interrupted) => true,
                // Answers that contradict the prompts would only do so again.
                Some(Failure::Found(found)) => {
                    found.iter().any(|error| error.code != codes::GENERATOR_FAILED)
                }
            };
            if is_final {
                break;
            }
            if attempt > 0 && attempt == self.retries {
                let failure = answers.failure.take();
                answers.failure = failure.map(|failure| tried(failure, attempt + 1));
            }
        }
        answers
    }
}

fn tried(failure: Failure, runs: u64) -> Failure {
    match failure {
        Failure::Found(mut found) => {
            if let Some(first) = found.first_mut() {
                first.facts.push(("runs".to_owned(), runs.to_string()));
            }
            Failure::Found(found)
        }
        other => other,
    }
}

impl CommandGenerator {
    /// One run. The answers that it gave, and what is wrong.
    fn run(
        &self,
        task: &Task<'_>,
        prompts: &[&Prompt],
    ) -> (Vec<Response>, Option<(Failure, Ended)>) {
        let (input, out) = (task.work.join("prompts.jsonl"), task.work.join("responses.jsonl"));
        let log = task.work.join("stderr.txt");
        let fail = |failure: Failure| (Vec::new(), Some((failure, Ended::Interrupted)));
        let text: String = prompts.iter().map(|prompt| prompt.to_line() + "\n").collect();
        let written = write(&input, &text).and_then(|()| forget(&out));
        if let Err(error) = written {
            return fail(error.into());
        }
        let alpha = task.candidate.label.as_str();
        let [model_dir, input, out_text] = [task.model_dir, &input, &out]
            .map(|path| process::absolute(path).display().to_string());
        let values = [
            ("model_dir", model_dir.as_str()),
            ("prompts", input.as_str()),
            ("out", out_text.as_str()),
        ];
        let program = Program {
            argv: process::fill(&self.argv, &values),
            environment: &[("MIXDOWN_ALPHA", alpha), ("MIXDOWN_MODEL_KEY", task.model_key)],
            log: &log,
            stdout: None,
        };
        let ended = match program.run(self.timeout, task.stop) {
            Ok(ended) => ended,
            Err(error) => return fail(error.into()),
        };
        let is_sound = matches!(ended, Ended::Exited(status) if status.success());
        let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        let ending = if is_sound { Ending::Whole } else { Ending::BrokenOff };
        let found = match responses::read(&out, &ids, ending) {
            Ok(found) => found,
            Err(errors) => return fail(Failure::Found(errors)),
        };
        if ended == Ended::Interrupted {
            return (found, Some((Failure::Interrupted, ended)));
        }
        let missing = missing(&ids, &found);
        let name = self.argv.first().map_or("", String::as_str);
        let error = match missing.len() {
            0 if is_sound => return (found, None),
            0 => process::failure(format!("`{name}` failed after its last answer"), ended, &log),
            count => {
                let headline = format!(
                    "`{name}` left {count} of {} prompts unanswered at {alpha}",
                    prompts.len()
                );
                process::failure(headline, ended, &log)
                    .fact("missing", shown_ids(&missing))
                    .help("run the same command again: the answers that there are will be kept")
            }
        };
        (found, Some((error.into(), ended)))
    }
}

fn write(path: &Path, text: &str) -> Result<(), Box<Diagnostic>> {
    std::fs::write(path, text).map_err(|error| {
        Box::new(
            Diagnostic::error(codes::WRITE_FAILED, format!("prompts cannot be written: {error}"))
                .in_file(path.to_string_lossy()),
        )
    })
}

/// What an earlier run wrote is no answer of this one.
fn forget(path: &Path) -> Result<(), Box<Diagnostic>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Box::new(
            Diagnostic::error(codes::WRITE_FAILED, format!("answers cannot be removed: {error}"))
                .in_file(path.to_string_lossy()),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::grid;

    struct Case {
        script: &'static str,
        retries: u64,
        timeout: Option<Duration>,
    }

    impl Case {
        fn run(&self) -> Answers {
            let folder = tempfile::tempdir().unwrap();
            let prompts = ["a", "b", "c"].map(Prompt::named);
            let prompts: Vec<&Prompt> = prompts.iter().collect();
            let axis = grid::Axis { path: "t".into(), values: vec!["0.1".into()] };
            let candidate = &grid::candidates(&[axis])[0];
            let argv = ["sh", "-c", self.script, "sh", "{prompts}", "{out}", "{model_dir}"];
            let mut generator = CommandGenerator {
                argv: argv.map(str::to_owned).to_vec(),
                retries: self.retries,
                timeout: self.timeout,
                ..CommandGenerator::default()
            };
            generator.answer(&Task {
                candidate,
                model_dir: folder.path(),
                model_key: "key",
                prompts: &prompts,
                work: folder.path(),
                stop: &AtomicBool::new(false),
            })
        }
    }

    fn failure(answers: &Answers) -> String {
        match &answers.failure {
            Some(Failure::Found(found)) => mixdown_diagnostics::render::render_all(
                found,
                mixdown_diagnostics::render::Color::Plain,
            ),
            other => panic!("{other:?}"),
        }
    }

    /// Answers each prompt with `$MIXDOWN_ALPHA`; `ids` are what it makes of the prompts.
    const ANSWER: &str = "ids=$(sed 's/{\"id\":\"\\([^\"]*\\)\".*/\\1/' \"$1\"); \
        for id in $ids; do echo \"{\\\"id\\\":\\\"$id\\\",\\\"text\\\":\\\"$MIXDOWN_ALPHA\\\"}\" >> \"$2\"";

    #[test]
    fn a_program_answers() {
        let script = format!("{ANSWER}; done");
        let script = Box::leak(script.into_boxed_str());
        let answers = Case { script, retries: 0, timeout: None }.run();
        assert!(answers.failure.is_none(), "{:?}", answers.failure);
        assert_eq!(answers.responses.len(), 3);
        assert_eq!(answers.responses[0], Response::stopped("a", "0.1"));
    }

    #[test]
    fn only_what_is_missing_is_asked_again() {
        // Answers one prompt of those it is given, then dies.
        let script = Box::leak(format!("{ANSWER}; exit 7; done").into_boxed_str());
        let answers = Case { script, retries: 2, timeout: None }.run();
        // The third run answers the last prompt and still ends with 7.
        assert_eq!(answers.responses.len(), 3);
        assert!(failure(&answers).contains("after its last answer"));
        let answers = Case { script, retries: 1, timeout: None }.run();
        assert_eq!(answers.responses.len(), 2, "what was answered is kept");
        let told = failure(&answers);
        assert!(told.contains("1 of 2 prompts unanswered at 0.1"), "{told}");
        assert!(told.contains("`c`") && told.contains("runs"), "{told}");
        let script = Box::leak(format!("{ANSWER}; exit 0; done").into_boxed_str());
        let answers = Case { script, retries: 2, timeout: None }.run();
        assert!(answers.failure.is_none() && answers.responses.len() == 3);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let twice = Box::leak(
            format!("{ANSWER}; done; cat \"$2\" > \"$2.x\"; cat \"$2.x\" >> \"$2\"")
                .into_boxed_str(),
        );
        let answers = Case { script: twice, retries: 5, timeout: None }.run();
        assert!(failure(&answers).contains("`a` is answered twice"));
        let dies = Case { script: "echo no memory >&2; exit 1", retries: 0, timeout: None }.run();
        assert!(failure(&dies).contains("stderr: no memory"), "{}", failure(&dies));
        let timeout = Some(Duration::from_millis(80));
        let slow = Case { script: "sleep 30", retries: 0, timeout }.run();
        assert!(failure(&slow).contains("killed after its `timeout`"));
    }
}
