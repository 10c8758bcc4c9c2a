//! Running the real program in a space of its own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::space::Space;

/// What a run of the program left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status; none when a signal ended it.
    pub status: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    root: PathBuf,
}

impl Outcome {
    /// The same outcome, after a check that it succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// The same outcome, after a check of its exit status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(
            self.status,
            Some(status),
            "unexpected exit status\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON: {error}\n{}", self.stdout))
    }

    /// Stderr with paths, times and rates replaced by tokens, for snapshots.
    pub fn talk(&self) -> String {
        plain(&self.stderr, &self.root)
    }

    /// Stdout with the same replacements.
    pub fn shown(&self) -> String {
        plain(&self.stdout, &self.root)
    }
}

/// A run of the program that has not begun.
pub struct Program {
    command: Command,
    root: PathBuf,
}

/// Runs the program with these arguments in the space, and waits for it.
pub fn mixdown<S: AsRef<OsStr>>(space: &Space, arguments: impl IntoIterator<Item = S>) -> Outcome {
    Program::new(space).args(arguments).run()
}

impl Program {
    /// The program, to be run in the space's folder.
    pub fn new(space: &Space) -> Self {
        Self::of(Command::new(binary()), space)
    }

    /// The program below a shell that sets a limit first, such as `ulimit -f 8`.
    pub fn limited(space: &Space, limit: &str) -> Self {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limit}; exec \"$0\" \"$@\"")).arg(binary());
        Self::of(command, space)
    }

    fn of(mut command: Command, space: &Space) -> Self {
        let home = space.path(".home");
        std::fs::create_dir_all(&home).expect("a home folder can be made");
        command.current_dir(space.root());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["HF_", "HUGGING", "MIXDOWN_", "XDG_", "CLICOLOR", "RAYON_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &home)
            .env("HF_HOME", home.join("huggingface"))
            .env("HF_HUB_OFFLINE", "1")
            .env("XDG_CACHE_HOME", home.join("cache"))
            // What is shown must not depend on how many processors and how much memory the machine has.
            .env("MIXDOWN_THREADS", "2")
            .env("MIXDOWN_MEMORY", "2GB")
            .env("NO_COLOR", "1")
            .env("TERM", "dumb")
            .env("COLUMNS", "100")
            .env("LC_ALL", "C")
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        Self { command, root: space.root().to_owned() }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable of its environment.
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it in this folder of the space.
    pub fn in_folder(mut self, relative: impl AsRef<Path>) -> Self {
        self.command.current_dir(self.root.join(relative));
        self
    }

    /// Runs it and waits for it.
    pub fn run(mut self) -> Outcome {
        let output = self.command.output().expect("the program can be started");
        Outcome {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            root: self.root,
        }
    }

    /// Starts it, so that it can be killed.
    pub fn start(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.command.spawn().expect("the program can be started");
        Running { child, root: self.root }
    }
}

/// A run of the program that goes on.
pub struct Running {
    child: Child,
    root: PathBuf,
}

impl Running {
    /// Ends it with no chance to clean up, as `kill -9` does.
    pub fn kill(mut self) -> Outcome {
        // It may have ended by itself already.
        let _ = self.child.kill();
        self.wait()
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(self) -> Outcome {
        let process = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself already; its exit status then tells.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
        self.wait()
    }

    /// Waits until it ends.
    pub fn wait(self) -> Outcome {
        let output = self.child.wait_with_output().expect("the program can be waited for");
        Outcome {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            root: self.root,
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the program can be asked").is_some()
    }
}

/// The path of the program: `MIXDOWN_BINARY` if set, otherwise the one beside the running test,
/// which is built first when it is missing or older than its sources.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("MIXDOWN_BINARY") {
            return PathBuf::from(path);
        }
        let test = std::env::current_exe().expect("the test knows its own path");
        // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/PROGRAM when a program of the workspace asks.
        let mut folder = test.parent().expect("a program is in a folder");
        if folder.ends_with("deps") {
            folder = folder.parent().expect("deps is in a profile's folder");
        }
        let binary = folder.join(format!("mixdown{}", std::env::consts::EXE_SUFFIX));
        if !is_fresh(&binary) {
            build(folder);
        }
        assert!(binary.exists(), "{} was not built", binary.display());
        binary
    })
}

/// Whether the program is newer than every source that its dependency file names.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(dependencies) = std::fs::read_to_string(binary.with_extension("d")) else {
        return false;
    };
    let Some((_, sources)) = dependencies.split_once(": ") else { return false };
    // Spaces within a path are escaped there; such a path only leads to a build too many.
    sources.split_whitespace().all(|source| modified(Path::new(source)).is_some_and(|t| t <= built))
}

fn build(profile_folder: &Path) {
    let target = profile_folder.parent().expect("a profile's folder is in the target folder");
    let profile = match profile_folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", "mixdown", "--profile"])
        .arg(profile)
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "the program could not be built");
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the program writes UTF-8")
}

/// Replaces what differs from run to run.
fn plain(text: &str, root: &Path) -> String {
    let mut text = text.replace(&*root.to_string_lossy(), "[SPACE]");
    if let Ok(real) = root.canonicalize() {
        text = text.replace(&*real.to_string_lossy(), "[SPACE]");
    }
    let version = concat!("mixdown ", env!("CARGO_PKG_VERSION"));
    replace_machine(&replace_quantities(&text.replace(version, "mixdown [VERSION]")))
}

/// Replaces what the machine has (`on 2 threads (x86_64 with avx2)`) by a token.
fn replace_machine(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let found = line.find(" on ").and_then(|start| {
            let rest = &line[start + 4..];
            let count = rest.split(' ').next()?;
            let is_count = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
            let end = rest.find(')').filter(|_| is_count && rest.contains(" thread"))?;
            Some(format!("{} on [MACHINE]{}", &line[..start], &rest[end + 1..]))
        });
        found.unwrap_or_else(|| line.to_owned())
    });
    let mut replaced = lines.collect::<Vec<_>>().join("\n");
    if text.ends_with('\n') {
        replaced.push('\n');
    }
    replaced
}

/// Replaces durations and rates (`0.12 s`, `1.3 GB/s`, `12 ms`) by tokens.
fn replace_quantities(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let before = &rest[..start];
        let number = &rest[start..];
        let digits = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let after = &number[digits..];
        result.push_str(before);
        let inside_word =
            before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_-.:".contains(c));
        let (token, length) = if inside_word { (None, 0) } else { quantity(after) };
        match token {
            Some(token) => result.push_str(token),
            None => result.push_str(&number[..digits]),
        }
        rest = &after[length..];
    }
    result.push_str(rest);
    result
}

fn quantity(after: &str) -> (Option<&'static str>, usize) {
    const UNITS: [(&str, &str); 16] = [
        (" GB/s", "[RATE]"),
        (" MB/s", "[RATE]"),
        (" kB/s", "[RATE]"),
        (" B/s", "[RATE]"),
        (" GiB/s", "[RATE]"),
        (" MiB/s", "[RATE]"),
        (" KiB/s", "[RATE]"),
        (" ms", "[TIME]"),
        (" µs", "[TIME]"),
        (" s", "[TIME]"),
        ("ms", "[TIME]"),
        ("µs", "[TIME]"),
        ("s", "[TIME]"),
        (" seconds", "[TIME]"),
        (" second", "[TIME]"),
        (" min", "[TIME]"),
    ];
    for (unit, token) in UNITS {
        if let Some(rest) = after.strip_prefix(unit)
            && !rest.starts_with(|c: char| c.is_alphanumeric())
        {
            return (Some(token), unit.len());
        }
    }
    (None, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_become_tokens_and_other_numbers_stay() {
        for (text, expected) in [
            ("done in 0.12 s at 1.3 GB/s", "done in [TIME] at [RATE]"),
            ("12 shards, 3 sources", "12 shards, 3 sources"),
            ("model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors"),
            ("error[E0214]: found 20", "error[E0214]: found 20"),
            ("took 4s, 35 tensors", "took [TIME], 35 tensors"),
        ] {
            assert_eq!(replace_quantities(text), expected);
        }
    }

    #[test]
    fn the_machine_becomes_a_token() {
        let text = "merged 3 tensors on 2 threads (x86_64 with avx512)\nrules[0] on line 10\n";
        let expected = "merged 3 tensors on [MACHINE]\nrules[0] on line 10\n";
        assert_eq!(replace_machine(text), expected);
    }

    #[test]
    fn a_program_older_than_a_source_is_not_fresh() {
        let space = Space::new();
        let source = space.write("source.rs", "");
        let binary = space.write("program", "");
        space.write("program.d", format!("{}: {}\n", binary.display(), source.display()));
        let at = |path: &Path, seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        };
        at(&binary, 2000);
        at(&source, 1000);
        assert!(is_fresh(&binary));
        at(&source, 3000);
        assert!(!is_fresh(&binary));
        assert!(!is_fresh(&space.path("missing")));
    }
}
