//! The commands that meet faults, each in a small world of its own.

use mixdown_kit::{Space, checkpoint, mixdown};

/// A command and what it needs.
pub struct Case {
    /// What figures call it.
    pub name: &'static str,
    /// What is typed.
    pub arguments: Vec<String>,
    /// The folder that it makes, if it makes one.
    pub output: Option<&'static str>,
    prepare: fn(&Space),
}

impl Case {
    /// The world in which the command has not run yet.
    pub fn space(&self) -> Space {
        let space = Space::new();
        checkpoint::family(&space);
        space.write("linear.yaml", LINEAR);
        space.write("tsv.yaml", TSV);
        (self.prepare)(&space);
        space
    }
}

const LINEAR: &str = "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 0.25}}\n  \
                      - {model: b, parameters: {weight: 0.75}}\n";
const TSV: &str = "merge_method: tsv\nbase_model: base\nmodels:\n  - {model: a}\n  - {model: b}\n";

/// All commands that read or write files.
pub fn all() -> Vec<Case> {
    let nothing = |_: &Space| {};
    let merged = |space: &Space| {
        mixdown(space, ["merge", "linear.yaml", "--out", "there"]).success();
    };
    let case = |name, line: &str, output, prepare| Case {
        name,
        arguments: line.split(' ').map(str::to_owned).collect(),
        output,
        prepare,
    };
    vec![
        case("merge", "merge linear.yaml --out out", Some("out"), nothing),
        case("merge --force", "merge linear.yaml --out there --force", Some("there"), merged),
        case("merge tsv", "merge tsv.yaml --out out", Some("out"), nothing),
        case("sweep", "merge tsv.yaml --sweep lambda=0.5,1.0 --out out", Some("out"), nothing),
        case("extract", "extract a base --rank 2 --out out", Some("out"), nothing),
        case("check", "check tsv.yaml", None, nothing),
        case("plan", "plan tsv.yaml", None, nothing),
        case("explain", "explain linear.yaml model.norm.weight", None, nothing),
        case("inspect", "inspect a", None, nothing),
        case("diff", "diff a b", None, nothing),
        case("verify", "verify there", None, merged),
        case("cache list", "cache list", None, merged),
    ]
}
