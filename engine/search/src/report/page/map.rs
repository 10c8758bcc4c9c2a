//! The drawing of scores over two parameters.

use std::fmt::Write;

use super::super::Report;
use super::axis::Axis;
use super::{escape, shown};
use crate::score::Goal;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 380.0;

/// The figure, where two parameters have numbers and candidates have scores.
pub fn figure(report: &Report) -> Option<String> {
    if report.parameters.len() != 2 {
        return None;
    }
    let goal = report.goal?;
    let (first, second) = (report.numbers(0)?, report.numbers(1)?);
    let ranks = ranks(report, goal)?;
    let (across, up) =
        (Axis::around(first.iter().copied(), 6), Axis::around(second.iter().copied(), 5));
    let x = |value: f64| LEFT + across.place(value) * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - up.place(value) * (BOTTOM - TOP);
    let mut out = String::new();
    for (value, text) in up.ticks() {
        let at = y(value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
            LEFT - 10.0,
            at + 4.0
        );
    }
    for (value, text) in across.ticks() {
        let at = x(value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
             <text class=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{text}</text>",
            BOTTOM + 20.0
        );
    }
    let [name, other] = [&report.parameters[0], &report.parameters[1]].map(|name| escape(name));
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"{:.1}\" y=\"{:.1}\">{other}</text>\
         <text class=\"middle title\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
        LEFT - 66.0,
        TOP - 18.0,
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 44.0
    );
    // The best are drawn last, above the others.
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|&a, &b| ranks[a].total_cmp(&ranks[b]));
    for k in order {
        let candidate = &report.candidates[k];
        let _ = writeln!(
            out,
            "<circle class=\"own\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\" \
             style=\"--c: var(--c0); fill-opacity: {:.2}\"><title>{}: {}</title></circle>",
            x(first[k]),
            y(second[k]),
            ranks[k],
            escape(&candidate.label),
            shown(candidate.score.unwrap_or_default())
        );
    }
    for &k in &report.minima {
        let class = if report.chosen == Some(k) { "ring chosen" } else { "ring" };
        let _ = writeln!(
            out,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"10\"/>",
            x(first[k]),
            y(second[k])
        );
    }
    Some(format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"map-title\">\n\
         <title id=\"map-title\">Scores over {name} and {other}; the numbers are in the table</title>\n\
         {out}</svg>\n<figcaption>The fuller a point, the better its rank among all; a ring is around \
         the best.</figcaption>\n</figure>\n"
    ))
}

/// From 0 for the worst to 1 for the best.
fn ranks(report: &Report, goal: Goal) -> Option<Vec<f64>> {
    let scores: Option<Vec<f64>> = report.candidates.iter().map(|own| own.score).collect();
    let scores = scores?;
    let is_worse = |a: f64, b: f64| match goal {
        Goal::Maximize => a < b,
        Goal::Minimize => a > b,
    };
    let most = scores.len().saturating_sub(1).max(1) as f64;
    let rank = |own: &f64| scores.iter().filter(|other| is_worse(**other, *own)).count() as f64;
    Some(scores.iter().map(|own| rank(own) / most).collect())
}
