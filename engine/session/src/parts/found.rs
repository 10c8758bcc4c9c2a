//! The parts that lie in an output's folder, and whether they belong together.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::{shown_path, small};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::retried;

use super::record::{PartRecord, RECORD_NAME};
use super::{PartNumber, folder};

/// A part that is done.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// Where it belongs.
    pub record: PartRecord,
    /// What it holds.
    pub manifest: Manifest,
}

/// Names in the output's folder, as they are shown, and which are folders; none where there is no such folder.
///
/// **Errors.** A folder that cannot be listed to its end: what it did not tell would be taken to be absent.
pub fn entries(out: &Path) -> Result<Vec<(String, bool)>, Box<Diagnostic>> {
    let list = || -> io::Result<Vec<(String, bool)>> {
        let one = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, retried(|| entry.file_type())?.is_dir()))
        };
        fs::read_dir(out)?.map(one).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| {
            let headline = format!("the output folder cannot be listed: {error}");
            Box::new(Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(out)))
        }),
    }
}

/// The parts whose folders lie there, in order.
///
/// **Errors.** Those of [`entries`].
pub fn numbers(out: &Path) -> Result<Vec<PartNumber>, Box<Diagnostic>> {
    let entries = entries(out)?.into_iter().filter(|(_, is_folder)| *is_folder);
    let mut found: Vec<PartNumber> =
        entries.filter_map(|(name, _)| PartNumber::of_folder(&name)).collect();
    found.sort_unstable_by_key(|part| (part.of(), part.number()));
    Ok(found)
}

/// The record in a folder of a part; none where there is none that is understood.
///
/// **Errors.** One that is there and cannot be read. A link is none that mixdown made.
pub fn record(folder: &Path) -> Result<Option<PartRecord>, Box<Diagnostic>> {
    let path = folder.join(RECORD_NAME);
    if path.is_symlink() {
        return Ok(None);
    }
    let bytes = small::bytes_if_there(&path, &shown_path(&path))?;
    Ok(bytes.and_then(|bytes| PartRecord::parse(&bytes)))
}

/// All parts of a whole, in order.
///
/// **Errors.** All that is missing, repeated or different, together.
pub fn all(out: &Path) -> Result<Vec<Found>, Vec<Diagnostic>> {
    let numbers = numbers(out).map_err(|problem| vec![*problem])?;
    let of = check_counts(out, &numbers).map_err(|problem| vec![*problem])?;
    let (mut parts, mut problems) = (Vec::new(), Vec::new());
    for &part in &numbers {
        match read(&folder(out, part)) {
            Ok(found) => parts.push((part, found)),
            Err(problem) => problems.push(*problem),
        }
    }
    check_names(&parts, &mut problems);
    check_missing(out, &numbers, of, &mut problems);
    let parts: Vec<Found> = parts.into_iter().map(|(_, found)| found).collect();
    check_alike(&parts, &mut problems);
    if problems.is_empty() {
        check_order(out, &parts, &mut problems);
    }
    match problems.is_empty() {
        true => Ok(parts),
        false => Err(problems),
    }
}

/// How many parts there should be.
fn check_counts(out: &Path, numbers: &[PartNumber]) -> Result<u32, Box<Diagnostic>> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for part in numbers {
        *counts.entry(part.of()).or_default() += 1;
    }
    let mut counted = counts.iter();
    match (counted.next(), counted.next()) {
        (Some((&of, _)), None) => Ok(of),
        (None, _) => Err(Box::new(
            Diagnostic::error(codes::PARTS_MISSING, "there are no parts to assemble")
                .in_file(shown_path(out))
                .help("make them with `mixdown merge RECIPE --out DIR --part 1/N` and so on, and name the same folder here"),
        )),
        (Some(_), Some(_)) => {
            let headline = "there are parts of merges in different numbers of parts";
            let mut problem = Diagnostic::error(codes::PARTS_DIFFER, headline).in_file(shown_path(out));
            for (of, count) in &counts {
                problem = problem.fact(format!("of {of}"), count.to_string());
            }
            Err(Box::new(problem.help("remove those of the cut that is not wanted")))
        }
    }
}

fn read(folder: &Path) -> Result<Found, Box<Diagnostic>> {
    let manifest = Manifest::read(folder)?;
    let broken = || {
        let headline = "a part has no record that is understood";
        Box::new(
            Diagnostic::error(codes::PART_BROKEN, headline)
                .in_file(shown_path(&folder.join(RECORD_NAME)))
                .help(
                    "remove the folder of the part and make it again, with this version of mixdown",
                ),
        )
    };
    let record = record(folder)?.ok_or_else(broken)?;
    Ok(Found { folder: folder.to_owned(), record, manifest })
}

/// A folder under another part's name is a part that is there twice.
fn check_names(parts: &[(PartNumber, Found)], problems: &mut Vec<Diagnostic>) {
    for (named, found) in parts {
        let part = found.record.part;
        if part == *named {
            continue;
        }
        let headline = match parts.iter().any(|(other, _)| *other == part) {
            true => format!("part {part} is there twice"),
            false => format!("the folder of part {named} holds part {part}"),
        };
        problems.push(
            Diagnostic::error(codes::PARTS_DIFFER, headline)
                .in_file(shown_path(&found.folder))
                .fact("named", named.to_string())
                .fact("holds", part.to_string())
                .help(format!("remove it, and make part {named} again")),
        );
    }
}

fn check_missing(out: &Path, numbers: &[PartNumber], of: u32, problems: &mut Vec<Diagnostic>) {
    const NAMED: usize = 8;
    let there: Vec<u32> = numbers.iter().map(|part| part.number()).collect();
    let missing: Vec<u32> = (1..=of).filter(|number| !there.contains(number)).collect();
    if missing.is_empty() {
        return;
    }
    let mut names: Vec<String> = missing.iter().take(NAMED).map(u32::to_string).collect();
    if missing.len() > NAMED {
        names.push(format!("{} more", missing.len() - NAMED));
    }
    let headline = match missing.as_slice() {
        [one] => format!("part {one} of {of} is missing"),
        _ => format!("{} of {of} parts are missing", missing.len()),
    };
    let under_way = missing.iter().filter(|&&number| {
        let part = PartNumber::new(number, of);
        part.is_some_and(|part| out.join(format!(".{}.mixdown-partial", part.folder())).exists())
    });
    let mut problem = Diagnostic::error(codes::PARTS_MISSING, headline)
        .in_file(shown_path(out))
        .fact("missing", names.join(", "));
    let begun = under_way.count();
    if begun > 0 {
        problem = problem.fact("begun", format!("{begun} of them"));
    }
    problems.push(problem.help(format!(
        "run `mixdown merge RECIPE --out DIR --part {}/{of}` with the same recipe; a part that was interrupted goes on",
        missing[0]
    )));
}

/// What must be the same in all parts, with its name.
fn common(found: &Found) -> Vec<(&'static str, String)> {
    let Manifest { mixdown, recipe, plan, seed, backend, dropped, .. } = &found.manifest;
    let inputs = found.manifest.inputs.iter().map(|input| {
        let files = input.files.iter().map(|file| format!("{} {}", file.name, file.bytes));
        let files: Vec<String> = files.collect();
        format!("{} {} {:?} {}", input.name, input.headers, input.revision, files.join(" "))
    });
    vec![
        ("version of mixdown", mixdown.clone()),
        ("recipe", recipe.sha256.clone()),
        ("overrides", recipe.set.join(" ")),
        (
            "inputs",
            blake3::hash(inputs.collect::<Vec<_>>().join("\n").as_bytes()).to_hex().to_string(),
        ),
        ("plan", plan.clone()),
        ("layout", found.record.layout.clone()),
        ("seed", seed.to_string()),
        ("backend", backend.clone()),
        ("left out", dropped.len().to_string()),
        ("warnings", found.record.warnings.join("; ")),
    ]
}

/// The first thing in which a part differs from most of the others, which explains the rest.
fn check_alike(parts: &[Found], problems: &mut Vec<Diagnostic>) {
    let all: Vec<Vec<(&str, String)>> = parts.iter().map(common).collect();
    let mut counts: BTreeMap<&[(&str, String)], usize> = BTreeMap::new();
    for one in &all {
        *counts.entry(one).or_default() += 1;
    }
    // Of equally many, what the first part says.
    let most = counts.values().max().copied().unwrap_or_default();
    let Some(usual) = all.iter().find(|one| counts.get(one.as_slice()) == Some(&most)) else {
        return;
    };
    for (part, own) in parts.iter().zip(&all) {
        let differs = own.iter().zip(usual).find(|(own, usual)| own != usual);
        let Some(((what, own), (_, usual))) = differs else { continue };
        let headline = format!("part {} is of another merge than the others", part.record.part);
        problems.push(
            Diagnostic::error(codes::PARTS_DIFFER, headline)
                .in_file(shown_path(&part.folder))
                .fact("differs in", *what)
                .fact("here", short(own))
                .fact("others", short(usual))
                .help("remove the folder of the part, and make it again with the same version, recipe and models"),
        );
    }
    check_digests(parts, problems);
}

/// A digest of an input that two parts know must be the same.
fn check_digests(parts: &[Found], problems: &mut Vec<Diagnostic>) {
    let mut known: BTreeMap<(usize, usize), (&str, PartNumber)> = BTreeMap::new();
    for part in parts {
        for (model, input) in part.manifest.inputs.iter().enumerate() {
            for (number, file) in input.files.iter().enumerate() {
                let Some(digest) = &file.sha256 else { continue };
                let (first, of) =
                    known.entry((model, number)).or_insert((digest, part.record.part));
                if *first != digest {
                    let headline = format!(
                        "`{}` of `{}` is not the same file for all parts",
                        file.name, input.name
                    );
                    problems.push(
                        Diagnostic::error(codes::PARTS_DIFFER, headline)
                            .in_file(shown_path(&part.folder))
                            .fact(format!("part {}", part.record.part), digest.clone())
                            .fact(format!("part {of}"), *first)
                            .help("make those parts again that read the wrong file"),
                    );
                }
            }
        }
    }
}

/// The tensors of parts of one plan follow each other.
fn check_order(out: &Path, parts: &[Found], problems: &mut Vec<Diagnostic>) {
    let mut next = 0;
    for part in parts {
        if part.record.first != next {
            problems.push(
                Diagnostic::error(codes::PARTS_DIFFER, "the parts do not follow each other")
                    .in_file(shown_path(out))
                    .fact("part", part.record.part.to_string())
                    .fact("begins at tensor", part.record.first.to_string())
                    .fact("expected", next.to_string())
                    .help("make all parts again with one version of mixdown"),
            );
            return;
        }
        next += part.manifest.tensors.len();
    }
}

fn short(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        None if text.is_empty() => "none".to_owned(),
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
