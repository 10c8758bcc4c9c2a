//! `mixdown diff`: how alike two checkpoints are, tensor by tensor.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use clap::Args;
use mixdown_checkpoint::{Checkpoint, TensorEntry, shown};
use mixdown_recipe::Pattern;
use mixdown_session::compare::{self, Pair, Sums};
use mixdown_session::models::Model;
use mixdown_session::{Session, Task, Trouble, quantity, threads};
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::names;
use crate::stop;
use crate::table::{Align, Table};
use crate::reading::Reading;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Compare two checkpoints tensor by tensor
///
/// For each tensor: the cosine of the angle between the two, the norm of their difference over the
/// norm of the first, the share of elements with the same sign, and the share of elements that do
/// not differ. Sums are made in f64, over blocks: memory does not depend on the models' size. The
/// exit status is 0 whether or not they differ.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown diff ./base ./merged                            every tensor, and the totals
  mixdown diff ./base ./merged --tensors '**.mlp.**'      the tensors whose names match
  mixdown diff ./base org/model@main --json               the same for programs")]
pub struct Arguments {
    /// The model to compare with: a folder, a file, or a hub id
    first: String,
    /// The model that is compared
    second: String,
    /// Only tensors whose names match
    #[arg(long, value_name = "GLOB", value_parser = crate::args::pattern)]
    tensors: Option<Pattern>,
    /// Follow links in a model's folder that lead out of it, which are an error otherwise; those of the hub's
    /// cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    reading: Reading,
    /// Threads; all processors by default
    #[arg(long, value_name = "N", env = "MIXDOWN_THREADS", hide_env_values = true)]
    threads: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress and no warnings
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let terminal = Terminal::new(talk).reading(arguments.reading);
    let (models, wanted) =
        ((arguments.first.as_str(), arguments.second.as_str()), arguments.tensors.as_ref());
    let (threads, follow) = (threads(arguments.threads), arguments.follow_links);
    let session = terminal.session();
    talk::data(&match arguments.json {
        true => format!("{:#}\n", document(models, follow, wanted, threads, &session)?),
        false => compared(models, follow, wanted, threads, &session, |report, first, second| {
            report.text(first, second)
        })?,
    });
    Ok(Exit::Done)
}

/// All of it, for programs.
pub fn document(
    models: (&str, &str),
    follow_links: bool,
    wanted: Option<&Pattern>,
    threads: usize,
    session: &Session<'_>,
) -> Result<Value, Trouble> {
    compared(models, follow_links, wanted, threads, session, |report, first, second| {
        report.json(first, second)
    })
}

/// Compares, and shows the report with the names of both.
fn compared<T>(
    models: (&str, &str),
    follow_links: bool,
    wanted: Option<&Pattern>,
    threads: usize,
    session: &Session<'_>,
    show: impl FnOnce(&Report<'_>, &str, &str) -> T,
) -> Result<T, Trouble> {
    let opened = [models.0, models.1].map(|model| Model::open(model, follow_links, session));
    let (first, second) = match opened {
        [Ok(first), Ok(second)] => (first.checkpoint, second.checkpoint),
        [first, second] => {
            let found = [first.err(), second.err()].into_iter().flatten().flatten();
            return Err(Trouble::Found(found.collect()));
        }
    };
    session.warn(&first.warnings);
    session.warn(&second.warnings);
    let rows = rows(&first, &second, wanted);
    let pairs: Vec<Pair<'_>> = rows.iter().filter_map(Row::pair).collect();
    let _careful = stop::carefully();
    let meter = session.meter(Task::Comparing);
    meter.enter("comparing");
    meter.expect(0, pairs.iter().map(Pair::bytes).sum());
    let indexes = (&first.index, &second.index);
    let sums = session.watch(&meter, || {
        let _careful = stop::carefully();
        compare::measure(indexes, &pairs, threads, &meter, session.cancel)
    });
    let Some(sums) = sums else {
        return Err(Trouble::Interrupted("interrupted: nothing was written".to_owned()));
    };
    let sums = sums.map_err(|error| error.diagnostic())?;
    Ok(show(&Report::new(&rows, sums), &first.name, &second.name))
}

/// A tensor that one or both checkpoints have.
struct Row<'a> {
    name: &'a str,
    first: Option<&'a TensorEntry>,
    second: Option<&'a TensorEntry>,
}

impl<'a> Row<'a> {
    /// The two tensors, if they can be compared element by element.
    fn pair(&self) -> Option<Pair<'a>> {
        let pair = Pair { first: self.first?, second: self.second? };
        pair.fits().then_some(pair)
    }

    /// What can be said without looking at the elements.
    fn obstacle(&self) -> Option<&'static str> {
        match (self.first, self.second) {
            (Some(a), Some(b)) if a.shape != b.shape => Some("shapes differ"),
            (Some(_), Some(_)) => self.pair().is_none().then_some("types differ"),
            (Some(_), None) => Some("only in the first"),
            (None, _) => Some("only in the second"),
        }
    }

    /// One value where both have the same, else both.
    fn both(&self, text: impl Fn(&TensorEntry) -> String) -> String {
        match (self.first.map(&text), self.second.map(&text)) {
            (Some(a), Some(b)) if a == b => a,
            (Some(a), Some(b)) => format!("{a} → {b}"),
            (a, b) => a.or(b).unwrap_or_default(),
        }
    }
}

fn rows<'a>(
    first: &'a Checkpoint,
    second: &'a Checkpoint,
    wanted: Option<&Pattern>,
) -> Vec<Row<'a>> {
    let all =
        |checkpoint: &'a Checkpoint| checkpoint.index.tensors().iter().map(|t| t.name.as_str());
    let names: BTreeSet<&str> = all(first).chain(all(second)).collect();
    let mut names: Vec<&str> = names
        .into_iter()
        .filter(|name| wanted.is_none_or(|pattern| pattern.matches(name)))
        .collect();
    names.sort_by(|a, b| names::natural(a, b));
    let row = |name| Row { name, first: first.index.get(name), second: second.index.get(name) };
    names.into_iter().map(row).collect()
}

/// What the command shows.
struct Report<'a> {
    rows: Vec<(&'a Row<'a>, Option<Sums>)>,
    total: Sums,
}

impl<'a> Report<'a> {
    /// `sums` are those of the rows that are pairs, in order.
    fn new(rows: &'a [Row<'a>], sums: Vec<Sums>) -> Self {
        let mut total = Sums::default();
        let mut sums = sums.into_iter();
        let rows = rows
            .iter()
            .map(|row| {
                let found = row.pair().and_then(|_| sums.next());
                if let Some(found) = &found {
                    total.add(found);
                }
                (row, found)
            })
            .collect();
        Self { rows, total }
    }

    fn count(&self, wanted: impl Fn(&Row<'_>, Option<&Sums>) -> bool) -> usize {
        self.rows.iter().filter(|(row, sums)| wanted(row, sums.as_ref())).count()
    }

    fn equal(&self) -> usize {
        self.count(|_, sums| sums.is_some_and(Sums::is_equal))
    }

    fn differing(&self) -> usize {
        self.count(|_, sums| sums.is_some_and(|sums| !sums.is_equal()))
    }

    fn obstacles(&self, obstacle: &str) -> usize {
        self.count(|row, _| row.obstacle() == Some(obstacle))
    }

    fn text(&self, first: &str, second: &str) -> String {
        let mut table = Table::new(&[
            ("tensor", Align::Left),
            ("shape", Align::Left),
            ("dtype", Align::Left),
            ("cosine", Align::Right),
            ("rel. norm", Align::Right),
            ("same sign", Align::Right),
            ("zero", Align::Right),
            ("", Align::Left),
        ]);
        for (row, sums) in &self.rows {
            let [cosine, norm, sign, zero] = sums.as_ref().map(figures).unwrap_or_default();
            table.row([
                shown(row.name).into_owned(),
                row.both(|tensor| tensor.shape.to_string()),
                row.both(|tensor| tensor.stored_as().to_owned()),
                cosine,
                norm,
                sign,
                zero,
                remark(row, sums.as_ref()),
            ]);
        }
        if self.rows.len() > 1 {
            let [cosine, norm, sign, zero] = figures(&self.total);
            let total = "all that were compared".to_owned();
            table.row([total, String::new(), String::new(), cosine, norm, sign, zero]);
        }
        format!("{}\n{}", table.text(""), self.summary(first, second))
    }

    fn summary(&self, first: &str, second: &str) -> String {
        let tensors = |count| quantity::count(count, "tensor");
        let mut text = format!(
            "{} compared: {} equal, {} with differences, the largest {}\n",
            tensors(self.equal() + self.differing()),
            self.equal(),
            self.differing(),
            number(self.total.largest),
        );
        for (obstacle, words) in [
            ("only in the first", format!("only in {}", shown(first))),
            ("only in the second", format!("only in {}", shown(second))),
            ("shapes differ", "of different shapes".to_owned()),
            ("types differ", "of types that cannot be compared".to_owned()),
        ] {
            match self.obstacles(obstacle) {
                0 => {}
                count => text.push_str(&format!("{} {words}\n", tensors(count))),
            }
        }
        if self.total.nonfinite > 0 {
            let elements = quantity::count(self.total.nonfinite as usize, "element");
            text.push_str(&format!("{elements} NaN or infinite, left out of the figures\n"));
        }
        text
    }

    fn json(&self, first: &str, second: &str) -> Value {
        let tensors: Vec<Value> = self
            .rows
            .iter()
            .map(|(row, sums)| {
                let side = |tensor: Option<&TensorEntry>| {
                    tensor.map(
                        |t| json!({"dtype": t.model_dtype().name(), "shape": t.shape.dimensions()}),
                    )
                };
                let status = match sums {
                    Some(sums) if sums.is_equal() => "equal",
                    Some(_) => "differs",
                    None => row.obstacle().unwrap_or_default(),
                };
                let mut value = json!({
                    "name": row.name,
                    "status": status.replace(' ', "_"),
                    "first": side(row.first),
                    "second": side(row.second),
                });
                if let Some(sums) = sums {
                    add_figures(&mut value, sums);
                }
                value
            })
            .collect();
        let mut total = json!({
            "equal": self.equal(),
            "differ": self.differing(),
            "only_in_the_first": self.obstacles("only in the first"),
            "only_in_the_second": self.obstacles("only in the second"),
            "shapes_differ": self.obstacles("shapes differ"),
            "types_differ": self.obstacles("types differ"),
        });
        add_figures(&mut total, &self.total);
        json!({"first": first, "second": second, "total": total, "tensors": tensors})
    }
}

fn add_figures(value: &mut Value, sums: &Sums) {
    value["elements"] = json!(sums.elements);
    value["cosine"] = json!(sums.cosine());
    value["relative_norm"] = json!(sums.relative_norm());
    value["sign_agreement"] = json!(sums.sign_agreement());
    value["zero_fraction"] = json!(sums.zero_fraction());
    value["largest_difference"] = json!(sums.is_float.then_some(sums.largest));
    value["nonfinite"] = json!(sums.nonfinite);
}

fn figures(sums: &Sums) -> [String; 4] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        or_dash(sums.cosine().map(|cosine| format!("{cosine:.6}"))),
        or_dash(sums.relative_norm().map(number)),
        or_dash(sums.sign_agreement().map(|share| format!("{share:.4}"))),
        or_dash(sums.zero_fraction().map(|share| format!("{share:.4}"))),
    ]
}

fn remark(row: &Row<'_>, sums: Option<&Sums>) -> String {
    match sums {
        Some(sums) if sums.is_equal() => "equal".to_owned(),
        Some(sums) if sums.nonfinite > 0 => format!("{} not finite", sums.nonfinite),
        Some(_) => String::new(),
        None => row.obstacle().unwrap_or_default().to_owned(),
    }
}

/// Four significant digits, in the form that is shorter to read.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e4).contains(&size) => format!("{value:.3e}"),
        size if size < 1.0 => format!("{value:.6}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mixdown_checkpoint::{Form, Index};
    use mixdown_tensor::{DType, Shape};

    use super::*;

    fn checkpoint(name: &str, tensors: &[(&str, DType, u64)]) -> Checkpoint {
        let tensors =
            tensors.iter().map(|&(name, dtype, n)| (name, dtype, Shape::new(vec![n]).unwrap()));
        Checkpoint {
            name: name.into(),
            root: PathBuf::from(name),
            form: Form::Folder,
            index: Index::of(name, tensors).unwrap(),
            config: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn nothing_is_left_out_in_silence() {
        let first = checkpoint(
            "a",
            &[
                ("l.10.w", DType::F32, 2),
                ("l.2.w", DType::F32, 2),
                ("old", DType::F32, 1),
                ("ids", DType::I64, 2),
            ],
        );
        let second = checkpoint(
            "b",
            &[
                ("l.10.w", DType::Bf16, 2),
                ("l.2.w", DType::F32, 3),
                ("new", DType::F32, 1),
                ("ids", DType::F32, 2),
            ],
        );
        let rows = rows(&first, &second, None);
        let found: Vec<(&str, Option<&str>)> =
            rows.iter().map(|row| (row.name, row.obstacle())).collect();
        let expected = [
            ("ids", Some("types differ")),
            ("l.2.w", Some("shapes differ")),
            ("l.10.w", None),
            ("new", Some("only in the second")),
            ("old", Some("only in the first")),
        ];
        assert_eq!(found, expected);
        let sums = Sums {
            elements: 2,
            equal: 1,
            first: 4.0,
            second: 9.0,
            product: 6.0,
            difference: 1.0,
            same_sign: 2,
            is_float: true,
            largest: 1.0,
            ..Sums::default()
        };
        let report = Report::new(&rows, vec![sums]);
        let value = report.json("a", "b");
        assert_eq!(value["total"]["differ"], 1);
        assert_eq!(value["total"]["types_differ"], 1);
        assert_eq!(value["tensors"][2]["cosine"], 1.0);
        assert_eq!(value["tensors"][2]["relative_norm"], 0.5);
        assert_eq!(value["tensors"][1]["status"], "shapes_differ");
        let text = report.text("a", "b");
        let line =
            "l.10.w                  [2]        f32 → bf16  1.000000   0.500000     1.0000  0.5000";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("1 tensor only in a\n1 tensor only in b\n"), "{text}");
    }

    #[test]
    fn a_pattern_selects() {
        let first = checkpoint("a", &[("x.w", DType::F32, 2), ("y.w", DType::F32, 2)]);
        let pattern = Pattern::new("y.*").unwrap();
        let rows = rows(&first, &first, Some(&pattern));
        assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), ["y.w"]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in
            [(0.0, "0"), (0.012345, "0.012345"), (1.5e-7, "1.500e-7"), (12.0, "12.0000")]
        {
            assert_eq!(number(value), expected);
        }
    }
}
