//! The page of a report: a table and a curve, readable in light and in dark, with nothing from elsewhere.

mod axis;
mod curve;
mod map;

use std::fmt::Write;

use super::{CandidateReport, Report};

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fdfdfc; --faint: #626268; --line: #d9d9dd;
  --c0: #0b5fb0; --c1: #a83c00; --c2: #16714f; --c3: #7b3fa0; --chosen: #e6f0fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --paper: #17181b; --faint: #a6a6ae; --line: #35363c;
    --c0: #77b7f5; --c1: #f2a36b; --c2: #6fcfa6; --c3: #cda2ea; --chosen: #20303f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
.verdict { border-left: 4px solid var(--c0); background: var(--chosen); padding: .6rem 1rem;
  border-radius: 0 .3rem .3rem 0; } .verdict p { margin: .2rem 0; } .verdict strong { font-size: 1.15em; }
figure { margin: 1rem 0 2rem; overflow-x: auto; } svg { width: 100%; min-width: 34rem; height: auto; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
svg text { fill: var(--ink); font-size: 13px; } svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; } svg text.title { fill: var(--faint); }
svg text.chosen { fill: var(--c0); font-weight: 600; }
.axis { stroke: var(--faint); } .grid { stroke: var(--line); }
.own { stroke-width: 2.5; } .other { stroke-width: 1.5; } polyline { fill: none; }
circle.own, circle.other { fill: var(--c); stroke: var(--c); stroke-width: 1; }
circle.edge { fill: var(--paper); stroke-dasharray: 2 2; }
.best { fill: none; stroke: var(--c1); stroke-width: 1.5; }
.ring { fill: none; stroke: var(--faint); stroke-width: 1.5; } .ring.chosen { stroke: var(--c1); stroke-width: 2.5; }
.mark { stroke: var(--faint); stroke-dasharray: 2 3; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-weight: normal; vertical-align: top; }
thead th { font-weight: 600; vertical-align: bottom; white-space: normal; border-bottom: 2px solid var(--faint); }
th.words, td.words { text-align: left; white-space: normal; } td.words { min-width: 7rem; }
tr.chosen { background: var(--chosen); } tr.chosen th { font-weight: 700; }
tbody tr:hover { background: var(--chosen); }
@media print { body { max-width: none; margin: 0; } }
";

/// The page.
pub fn page(report: &Report) -> String {
    let parameters = report.parameters.join(", ");
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Search of {0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Search of <code>{0}</code></h1>\n",
        escape(&parameters)
    );
    out.push_str(&verdict(report));
    let figures = [curve::figure(report), map::figure(report)];
    figures.into_iter().flatten().for_each(|figure| out.push_str(&figure));
    out.push_str(&table(report));
    if let Some(verify) = &report.verify {
        let words = match verify.mismatches.len() {
            0 => {
                format!("{} prompts were asked twice, and all answers were the same.", verify.asked)
            }
            count => format!(
                "{} prompts were asked twice, and {count} answers differed: {}. Differences have a floor.",
                verify.asked,
                verify.mismatches.join(", ")
            ),
        };
        let _ = writeln!(out, "<p>{}</p>", escape(&words));
    }
    if !report.sample.is_empty() {
        let ids: Vec<String> =
            report.sample.iter().map(|id| format!("<code>{}</code>", escape(id))).collect();
        let _ = writeln!(
            out,
            "<details>\n<summary>{} prompts were asked</summary>\n<p>{}</p>\n</details>",
            report.sample.len(),
            ids.join(", ")
        );
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn verdict(report: &Report) -> String {
    let mut out = "<div class=\"verdict\">\n".to_owned();
    let by = match report.objective.as_str() {
        "score" => "by score".to_owned(),
        diff => format!("by difference <code>{diff}</code>"),
    };
    match report.chosen {
        Some(k) => {
            let chosen = &report.candidates[k];
            let what = if report.goal.is_some() { "score" } else { "difference" };
            let value = report
                .decisive(k)
                .map_or(String::new(), |value| format!(" with a {what} of {}", shown(value)));
            let _ = writeln!(
                out,
                "<p>Chosen {by}: <strong>{}</strong>{value}</p>",
                escape(&chosen.label)
            );
        }
        None => {
            let _ = writeln!(out, "<p>Nothing is chosen {by}: several are equally good.</p>");
        }
    }
    if report.minima.len() > 1 {
        let _ = writeln!(out, "<p>Equally good: {}</p>", escape(&report.best().join("; ")));
    }
    if let Some(optimized) = &report.optimized {
        let _ = writeln!(
            out,
            "<p>CMA-ES tried {} candidates in generations of {}, {} of them whole, and stopped: {}.</p>",
            report.candidates.len(),
            optimized.population,
            optimized.generations,
            optimized.stop.meaning()
        );
    }
    out + "</div>\n"
}

/// A column of the table: its name, whether it holds words, and what it shows of a candidate.
type Column<'a> = (String, bool, Cell<'a>);

type Cell<'a> = Box<dyn Fn(usize, &CandidateReport) -> String + 'a>;

fn columns(report: &Report) -> Vec<Column<'_>> {
    let optional = |value: Option<f64>| value.map_or("–".to_owned(), shown);
    let mut columns: Vec<Column<'_>> = Vec::new();
    let mut add = |name: &str, cell: Cell<'static>| columns.push((name.to_owned(), false, cell));
    let has = |test: fn(&CandidateReport) -> bool| report.candidates.iter().any(test);
    if has(|own| own.generation.is_some()) {
        let cell =
            |_, own: &CandidateReport| own.generation.map_or(String::new(), |n| n.to_string());
        add("generation", Box::new(cell));
    }
    if report.goal.is_some() {
        add("score", Box::new(move |_, own| optional(own.score)));
    } else {
        let longest = report.candidates.iter().max_by_key(|own| own.differences.len());
        for (mode, _) in longest.map(|own| own.differences.as_slice()).unwrap_or_default() {
            let mode = *mode;
            let cell = move |_, own: &CandidateReport| {
                let found = own.differences.iter().find(|(diff, _)| *diff == mode);
                optional(found.and_then(|(_, value)| *value))
            };
            add(mode.word(), Box::new(cell));
        }
        if has(|own| own.smoothed.is_some()) {
            add("smoothed", Box::new(move |_, own| optional(own.smoothed)));
        }
        add("prompts", Box::new(|_, own| own.prompts.to_string()));
        add("errors", Box::new(|_, own| own.errors.to_string()));
    }
    add("known before", Box::new(|_, own| own.cache_hits.to_string()));
    add("seconds", Box::new(|_, own| format!("{:.2}", own.seconds)));
    let key = |_, own: &CandidateReport| {
        let key: String = own.model_key.iter().flat_map(|key| key.chars()).take(12).collect();
        if key.is_empty() { "–".to_owned() } else { format!("<code>{}</code>", escape(&key)) }
    };
    add("model", Box::new(key));
    columns.push((
        "remarks".to_owned(),
        true,
        Box::new(|position, own| escape(&remarks(report, position, own))),
    ));
    columns
}

fn table(report: &Report) -> String {
    let columns = columns(report);
    let is_numbered = report.parameters.len() > 1;
    let mut out = String::from("<h2>Candidates</h2>\n<div class=\"wide\">\n<table>\n<thead><tr>");
    if is_numbered {
        out.push_str("<th scope=\"col\">number</th>");
    }
    for parameter in &report.parameters {
        // A path may go on in the next line after a dot, and nowhere else.
        let name = escape(parameter).replace('.', ".<wbr>");
        let _ = write!(out, "<th scope=\"col\">{name}</th>");
    }
    for (name, words, _) in &columns {
        let class = if *words { " class=\"words\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (position, candidate) in report.candidates.iter().enumerate() {
        let is_chosen = report.chosen == Some(position);
        let _ = write!(out, "<tr{}>", if is_chosen { " class=\"chosen\"" } else { "" });
        if is_numbered {
            let _ = write!(out, "<td>{}</td>", position + 1);
        }
        for (_, value) in &candidate.set {
            let _ = write!(out, "<th scope=\"row\">{}</th>", escape(value));
        }
        for (_, words, cell) in &columns {
            let class = if *words { " class=\"words\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", cell(position, candidate));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    if report.goal.is_none() {
        out.push_str(
            "<p class=\"faint\">A dash: end points are only neighbors and cannot be chosen.</p>\n",
        );
    }
    out
}

fn remarks(report: &Report, position: usize, candidate: &CandidateReport) -> String {
    let mut remarks = Vec::new();
    if report.chosen == Some(position) {
        remarks.push("chosen".to_owned());
    } else if report.minima.contains(&position) {
        remarks.push("equally good".to_owned());
    }
    if let Some(prompts) = candidate.stopped_after {
        remarks.push(format!("stopped after {prompts} prompts"));
    }
    remarks.extend(candidate.notes.iter().cloned());
    remarks.join("; ")
}

/// Up to five digits that count, and none that do not.
fn shown(value: f64) -> String {
    let before = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let places = (4.0 - before).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Marks of direction and control characters act in a page as they do on a terminal.
    for letter in mixdown_diagnostics::escape(text).chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::grid::Candidate;
    use crate::optimizer::Stop;
    use crate::report::Optimized;
    use crate::score::Goal;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&report());
        for part in ["http://", "https://", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(part), "{part}");
        }
        for part in [
            "<title>Search of parameters.t</title>",
            "aria-labelledby=\"curve-title curve-words\"",
            "sum: 2 at 0.1, 3 at 0.2",
            "<strong>0.1</strong>",
            "prefers-color-scheme: dark",
            "&lt;a&amp;b&gt;",
            "stopped after 2 prompts",
            "1 answers differed: x",
        ] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
        assert_eq!(page.matches("<polyline").count(), 2, "a line for each way of counting");
    }

    #[test]
    fn a_single_candidate_can_be_drawn() {
        let mut report = report();
        report.candidates.truncate(1);
        (report.minima, report.chosen) = (vec![0], Some(0));
        (report.objective, report.goal) = ("score".into(), Some(Goal::Maximize));
        report.candidates[0].score = Some(-0.5);
        let page = page(&report);
        assert!(page.contains("-0.5") && !page.contains("NaN") && !page.contains("inf"));
        assert!(page.contains("<strong>0.0</strong> with a score of -0.5"), "{page}");
    }

    #[test]
    fn the_best_have_rings_and_the_chosen_one_is_told() {
        let mut report = report();
        (report.minima, report.chosen) = (vec![1, 2], Some(1));
        let found = page(&report);
        assert_eq!(found.matches("<circle class=\"ring\"").count(), 1);
        assert_eq!(found.matches("<circle class=\"ring chosen\"").count(), 1);
        assert!(found.contains(">chosen: 0.1, 2<") && found.contains("Equally good: 0.1; 0.2"));
        report.chosen = None;
        let undecided = page(&report);
        assert_eq!(undecided.matches("<circle class=\"ring\"").count(), 2);
        assert!(undecided.contains("Nothing is chosen"));
    }

    /// Eight candidates of two parameters; the first two are far worse than the others.
    #[test]
    fn scores_over_two_parameters_have_a_map() {
        let own = |k: u32| {
            let set = [("a", k), ("b", 7 - k)];
            let set = set.map(|(path, value)| (path.to_owned(), value.to_string()));
            let mut own = CandidateReport::new(&Candidate::new(set.to_vec()));
            own.score = Some(if k < 2 { 1000.0 } else { f64::from(8 - k) });
            own.generation = Some(1);
            own
        };
        let report = Report {
            parameters: vec!["a".into(), "b".into()],
            objective: "score".into(),
            goal: Some(Goal::Minimize),
            candidates: (0..8).map(own).collect(),
            minima: vec![7],
            chosen: Some(7),
            sample: Vec::new(),
            verify: None,
            optimized: Some(Optimized {
                generations: 1,
                population: 8,
                seed: 0,
                stop: Stop::Budget,
            }),
        };
        let found = page(&report);
        assert_eq!(found.matches("<svg").count(), 2);
        assert_eq!(found.matches("<circle class=\"own edge\"").count(), 2, "{found}");
        for part in [
            "Empty points at the edge are worse",
            "Low scores are good. The line is the best score so far.",
            ">chosen: number 8, 1<",
            "CMA-ES tried 8 candidates in generations of 8, 1 of them whole",
            "the budget is used up",
            "fill-opacity: 1.00\"><title>a=7, b=0: 1<",
            "<th scope=\"row\">7</th><th scope=\"row\">0</th><td>1</td>",
        ] {
            assert!(found.contains(part), "{part} is missing:\n{found}");
        }
        assert!(!found.contains("<polyline"), "candidates in no order make no line");
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        for (value, expected) in [
            (0.0, "0"),
            (3.0, "3"),
            (-0.5, "-0.5"),
            (0.5123456, "0.51235"),
            (1234.5678, "1234.6"),
            (123_456.7, "123457"),
            (-0.0000123456, "-0.000012346"),
            (1e-300, "0"),
        ] {
            assert_eq!(shown(value), expected);
        }
    }
}
