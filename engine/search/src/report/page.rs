//! The page of a report: a table and a curve, readable in light and in dark, with nothing from elsewhere.

use std::fmt::Write;

use super::{CandidateReport, Report};

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fdfdfc; --faint: #6a6a70; --line: #d4d4d8;
  --c0: #0b5fb0; --c1: #a83c00; --c2: #16714f; --c3: #7b3fa0; --chosen: #e9f1fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --paper: #17181b; --faint: #a2a2aa; --line: #3c3d43;
    --c0: #77b7f5; --c1: #f2a36b; --c2: #6fcfa6; --c3: #cda2ea; --chosen: #22303f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.chosen { background: var(--chosen); font-weight: 600; }
.faint, figcaption { color: var(--faint); font-size: .9rem; } figure { margin: 0; }
.axis { stroke: var(--faint); } .grid { stroke: var(--line); } svg text { fill: var(--ink); font-size: 13px; }
.mark { stroke: var(--faint); stroke-dasharray: 2 3; } code { font-size: .9em; overflow-wrap: anywhere; }
";

/// Lines are told apart by their dashes too, not by color alone.
const DASHES: [&str; 4] = ["none", "7 4", "2 4", "10 3 2 3"];

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
    if !report.curves().is_empty() {
        out.push_str(&figure(report));
    }
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
    let best = report.best().join(", ");
    let by = match report.objective.as_str() {
        "score" => "by score".to_owned(),
        diff => format!("by difference <code>{diff}</code>"),
    };
    let mut text = match report.chosen {
        Some(k) => {
            let label = escape(&report.candidates[k].label);
            format!("<p>Chosen {by}: <strong>{label}</strong>.")
        }
        None => format!("<p>Nothing is chosen {by}."),
    };
    if report.minima.len() > 1 {
        let _ = write!(text, " Equally good: {}.", escape(&best));
    }
    text + "</p>\n"
}

/// Size of the drawing, and the part of it that the curve takes.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 384.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 300.0;

fn figure(report: &Report) -> String {
    let curves = report.curves();
    let places = report.places();
    let values = || curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let is_score = report.objective == "score";
    let least = values().fold(f64::INFINITY, f64::min);
    let least = if is_score { least } else { least.min(0.0) };
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    let most = if most > least { most } else { least + 1.0 };
    let x = |k: usize| LEFT + 15.0 + places[k] * (RIGHT - LEFT - 30.0);
    let y = |value: f64| BOTTOM - (value - least) / (most - least) * (BOTTOM - TOP);
    let what = if is_score { "Score" } else { "Difference from neighbors" };
    let parameters = escape(&report.parameters.join(", "));
    let mut out = format!(
        "<h2>Curve</h2>\n<figure>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"curve-title curve-words\">\n\
         <title id=\"curve-title\">{what} against {parameters}</title>\n\
         <desc id=\"curve-words\">{}</desc>\n",
        escape(&words(report))
    );
    for step in 0..=4 {
        let value = least + (most - least) * f64::from(step) / 4.0;
        let at = y(value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            shown(value)
        );
    }
    // Labels that would lie on each other are left out.
    let mut free = f64::NEG_INFINITY;
    for (k, candidate) in report.candidates.iter().enumerate() {
        let half = candidate.label.chars().count().min(24) as f64 * 3.8;
        if x(k) - half < free {
            continue;
        }
        free = x(k) + half + 6.0;
        let label: String = candidate.label.chars().take(24).collect();
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(k),
            BOTTOM + 20.0,
            escape(&label)
        );
    }
    let _ = writeln!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{parameters}</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 44.0
    );
    if let Some(chosen) = report.chosen {
        let at = x(chosen);
        let _ = writeln!(
            out,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>"
        );
    }
    for (number, (name, points)) in curves.iter().enumerate() {
        let line: Vec<String> =
            points.iter().map(|&(k, value)| format!("{:.1},{:.1}", x(k), y(value))).collect();
        let (color, dash) = (number % 4, DASHES[number % 4]);
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"var(--c{color})\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\" points=\"{}\"/>",
            line.join(" ")
        );
        for &(k, value) in points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"var(--c{color})\">\
                 <title>{} at {}: {}</title></circle>",
                x(k),
                y(value),
                escape(name),
                escape(&report.candidates[k].label),
                shown(value)
            );
        }
        let at = LEFT + 150.0 * number as f64;
        let _ = writeln!(
            out,
            "<line x1=\"{at}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"var(--c{color})\" \
             stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            at + 34.0,
            HEIGHT - 8.0,
            HEIGHT - 8.0,
            at + 40.0,
            HEIGHT - 4.0,
            escape(name)
        );
    }
    out.push_str(
        "</svg>\n<figcaption>The numbers are in the table below.</figcaption>\n</figure>\n",
    );
    out
}

/// The curve that was decided by, in words.
fn words(report: &Report) -> String {
    let curves = report.curves();
    let decisive = curves.iter().find(|(name, _)| *name == report.objective);
    let points = decisive.map(|(_, points)| points.as_slice()).unwrap_or_default();
    let points: Vec<String> = points
        .iter()
        .map(|&(k, value)| format!("{} at {}", shown(value), report.candidates[k].label))
        .collect();
    format!("{}: {}", report.objective, points.join(", "))
}

fn table(report: &Report) -> String {
    let is_score = report.objective == "score";
    let modes: Vec<String> = match report.candidates.iter().max_by_key(|c| c.differences.len()) {
        Some(candidate) if !is_score => {
            candidate.differences.iter().map(|(diff, _)| diff.word().to_owned()).collect()
        }
        _ => vec!["score".to_owned()],
    };
    let is_smoothed = report.candidates.iter().any(|candidate| candidate.smoothed.is_some());
    let mut out = String::from(
        "<h2>Candidates</h2>\n<div class=\"wide\">\n<table>\n<thead><tr><th scope=\"col\">candidate</th>",
    );
    for mode in &modes {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(mode));
    }
    if is_smoothed {
        out.push_str("<th scope=\"col\">smoothed</th>");
    }
    for name in ["prompts", "errors", "known answers", "seconds", "remarks", "model"] {
        let _ = write!(out, "<th scope=\"col\">{name}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (position, candidate) in report.candidates.iter().enumerate() {
        let is_chosen = report.chosen == Some(position);
        let class = if is_chosen { " class=\"chosen\"" } else { "" };
        let _ = write!(out, "<tr{class}><th scope=\"row\">{}</th>", escape(&candidate.label));
        for mode in &modes {
            let found = candidate.differences.iter().find(|(diff, _)| diff.word() == mode);
            let value = found.and_then(|(_, value)| *value).or(candidate.score);
            let _ = write!(out, "<td>{}</td>", value.map_or("–".to_owned(), shown));
        }
        if is_smoothed {
            let _ = write!(out, "<td>{}</td>", candidate.smoothed.map_or("–".to_owned(), shown));
        }
        let key = candidate.model_key.as_deref().unwrap_or("–");
        let key: String = key.chars().take(12).collect();
        let _ = writeln!(
            out,
            "<td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{}</td><td><code>{}</code></td></tr>",
            candidate.prompts,
            candidate.errors,
            candidate.cache_hits,
            candidate.seconds,
            escape(&remarks(report, position, candidate)),
            escape(&key)
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    if !is_score {
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

/// Up to four places, and none where there are none.
fn shown(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

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
        report.objective = "score".into();
        report.candidates[0].score = Some(-0.5);
        let page = page(&report);
        assert!(page.contains("-0.5") && !page.contains("NaN") && !page.contains("inf"));
    }
}
