//! The drawing of what was found of each candidate: lines along the values of one parameter, else points
//! in the order of the candidates.

use std::fmt::Write;

use super::super::{Curve, Report};
use super::axis::Axis;
use super::{escape, shown};
use crate::score::Goal;

/// Size of the drawing, and the part of it that the curves take.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 320.0;
/// Of all scores that an optimizer got, this part is drawn true; worse ones stand at the edge.
const DRAWN: f64 = 0.75;

/// Lines are told apart by their dashes too, not by color alone.
const DASHES: [&str; 4] = ["none", "7 4", "2 4", "10 3 2 3"];

struct Drawing<'a> {
    report: &'a Report,
    curves: Vec<Curve>,
    /// From 0 to 1 for each candidate.
    across: Vec<f64>,
    /// Round numbers below the candidates, where these have no order of their own.
    round: Option<Axis>,
    up: Axis,
    out: String,
}

/// The figure, if there is anything to draw.
pub fn figure(report: &Report) -> Option<String> {
    let curves = report.curves();
    let decisive = curves.iter().position(|curve| curve.name == report.objective)?;
    // The one that was decided by is drawn last, above the others.
    let mut ordered = curves;
    let own = ordered.remove(decisive);
    let up = up(report, &own, &ordered);
    ordered.push(own);
    let (across, round) = across(report);
    let mut drawing = Drawing { report, curves: ordered, across, round, up, out: String::new() };
    drawing.frame();
    drawing.candidates();
    drawing.lines();
    drawing.marks();
    Some(drawing.whole())
}

/// The axis of values. Differences begin at 0.
fn up(report: &Report, own: &Curve, others: &[Curve]) -> Axis {
    let values = own.points.iter().chain(others.iter().flat_map(|curve| &curve.points));
    let values = values.map(|(_, value)| *value);
    if report.goal.is_none() {
        return Axis::around(values.chain([0.0]), 5);
    }
    if report.optimized.is_none() {
        return Axis::around(values, 5);
    }
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    if report.goal == Some(Goal::Maximize) {
        sorted.reverse();
    }
    let drawn = (sorted.len() as f64 * DRAWN).ceil() as usize;
    Axis::around(sorted.into_iter().take(drawn), 5)
}

/// Where each candidate stands: by its number where one parameter has numbers, else in order.
fn across(report: &Report) -> (Vec<f64>, Option<Axis>) {
    let count = report.candidates.len();
    let Some(numbers) = report.numbers(0).filter(|_| report.parameters.len() == 1) else {
        let place = |k: usize| if count > 1 { k as f64 / (count - 1) as f64 } else { 0.5 };
        return ((0..count).map(place).collect(), None);
    };
    if report.optimized.is_some() {
        let axis = Axis::around(numbers.iter().copied(), 8);
        return (numbers.into_iter().map(|number| axis.place(number)).collect(), Some(axis));
    }
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let place = |number: f64| if high > low { (number - low) / (high - low) } else { 0.5 };
    (numbers.into_iter().map(place).collect(), None)
}

fn x(place: f64) -> f64 {
    LEFT + 16.0 + place * (RIGHT - LEFT - 32.0)
}

impl Drawing<'_> {
    fn x(&self, candidate: usize) -> f64 {
        x(self.across[candidate])
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - self.up.place(value) * (BOTTOM - TOP)
    }

    fn is_beyond(&self, value: f64) -> bool {
        value < self.up.low || value > self.up.high
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let _ =
            writeln!(self.out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// Lines of equal value, with their numbers.
    fn frame(&mut self) {
        for (value, text) in self.up.ticks() {
            let at = self.y(value);
            let _ = writeln!(
                self.out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            self.text(LEFT - 10.0, at + 4.0, "end", &text);
        }
        let what = match self.report.objective.as_str() {
            "score" => "score",
            "embedding" => "difference from neighbors",
            _ => "answers that differ from neighbors'",
        };
        self.text(LEFT - 66.0, TOP - 18.0, "title", what);
        let _ = writeln!(
            self.out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>"
        );
    }

    /// Names below the axis. Those that would lie on each other are left out.
    fn candidates(&mut self) {
        let is_one = self.report.parameters.len() == 1;
        let name = |(k, place): (usize, &f64)| match is_one {
            true => (*place, self.report.candidates[k].label.chars().take(24).collect()),
            false => (*place, (k + 1).to_string()),
        };
        let mut names: Vec<(f64, String)> = match &self.round {
            Some(axis) => {
                axis.ticks().into_iter().map(|(value, text)| (axis.place(value), text)).collect()
            }
            None => self.across.iter().enumerate().map(name).collect(),
        };
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = f64::NEG_INFINITY;
        for (place, label) in names {
            let (at, half) = (x(place), label.chars().count() as f64 * 4.0);
            if at - half < free {
                continue;
            }
            free = at + half + 8.0;
            let _ = writeln!(
                self.out,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\"/>",
                BOTTOM + 5.0
            );
            self.text(at, BOTTOM + 20.0, "middle", &escape(&label));
        }
        let what = match is_one {
            true => escape(&self.report.parameters[0]),
            false => "candidates, in the order of the table".to_owned(),
        };
        self.text((LEFT + RIGHT) / 2.0, BOTTOM + 44.0, "middle title", &what);
    }

    fn lines(&mut self) {
        let last = self.curves.len().saturating_sub(1);
        // Points in no order of their values are no line.
        let is_line = self.report.parameters.len() == 1 && self.report.optimized.is_none();
        for number in 0..self.curves.len() {
            let Curve { name, points } = self.curves[number].clone();
            // The one that was decided by has the first color, wherever it stands.
            let (color, class) =
                if number == last { (0, "own") } else { (1 + number % 3, "other") };
            if is_line {
                let line: Vec<String> = points
                    .iter()
                    .map(|&(k, value)| format!("{:.1},{:.1}", self.x(k), self.y(value)))
                    .collect();
                let _ = writeln!(
                    self.out,
                    "<polyline class=\"{class}\" stroke=\"var(--c{color})\" \
                     stroke-dasharray=\"{}\" points=\"{}\"/>",
                    DASHES[color],
                    line.join(" ")
                );
            }
            for &(k, value) in &points {
                let edge = if self.is_beyond(value) { " edge" } else { "" };
                let _ = writeln!(
                    self.out,
                    "<circle class=\"{class}{edge}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\" \
                     style=\"--c: var(--c{color})\"><title>{} at {}: {}</title></circle>",
                    self.x(k),
                    self.y(value),
                    if number == last { 4.5 } else { 3.0 },
                    escape(&name),
                    escape(&self.report.candidates[k].label),
                    shown(value)
                );
            }
        }
        if self.report.optimized.is_some() && self.report.parameters.len() > 1 {
            self.best_so_far();
        }
    }

    /// The best score up to each candidate.
    fn best_so_far(&mut self) {
        let Some(own) = self.curves.last() else { return };
        let mut best: Option<f64> = None;
        let mut path = String::new();
        for &(k, value) in &own.points {
            let is_better = best.is_none_or(|best| match self.report.goal {
                Some(Goal::Minimize) => value < best,
                _ => value > best,
            });
            if is_better {
                let before = best.map_or(value, |best| best);
                let start = if path.is_empty() { "M" } else { "L" };
                let _ = write!(path, "{start}{:.1},{:.1} ", self.x(k), self.y(before));
                best = Some(value);
            }
            let at = self.y(best.unwrap_or(value));
            let _ = write!(path, "L{:.1},{at:.1} ", self.x(k));
        }
        let _ = writeln!(self.out, "<path class=\"best\" d=\"{}\"/>", path.trim_end());
    }

    /// A ring around each of the best, and the value of the chosen one.
    fn marks(&mut self) {
        let Some(own) = self.curves.last().cloned() else { return };
        for &(k, value) in &own.points {
            if !self.report.minima.contains(&k) {
                continue;
            }
            let is_chosen = self.report.chosen == Some(k);
            let (x, y) = (self.x(k), self.y(value));
            if is_chosen {
                let _ = writeln!(
                    self.out,
                    "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>"
                );
            }
            let class = if is_chosen { "ring chosen" } else { "ring" };
            let _ = writeln!(
                self.out,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8\"/>"
            );
            if is_chosen {
                let label = match self.report.parameters.len() {
                    1 => self.report.candidates[k].label.chars().take(24).collect(),
                    _ => format!("number {}", k + 1),
                };
                let text = format!("chosen: {}, {}", escape(&label), shown(value));
                let (at, class) = match x > (LEFT + RIGHT) / 2.0 {
                    true => (x - 8.0, "end chosen"),
                    false => (x + 8.0, "chosen"),
                };
                self.text(at, TOP - 4.0, class, &text);
            }
        }
    }

    fn whole(mut self) -> String {
        let mut height = BOTTOM + 56.0;
        if self.curves.len() > 1 {
            let last = self.curves.len() - 1;
            let mut at = LEFT;
            height += 26.0;
            for number in std::iter::once(last).chain(0..last) {
                let color = if number == last { 0 } else { 1 + number % 3 };
                let class = if number == last { "own" } else { "other" };
                let name = escape(&self.curves[number].name);
                let _ = writeln!(
                    self.out,
                    "<line class=\"{class}\" x1=\"{at}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" \
                     stroke=\"var(--c{color})\" stroke-dasharray=\"{}\"/>",
                    at + 34.0,
                    height - 12.0,
                    height - 12.0,
                    DASHES[color]
                );
                let words = if number == last { format!("{name}, decided by") } else { name };
                self.text(at + 42.0, height - 8.0, "", &words);
                at += 170.0;
            }
        }
        let parameters = escape(&self.report.parameters.join(", "));
        format!(
            "<figure>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-labelledby=\"curve-title curve-words\">\n\
             <title id=\"curve-title\">{} against {parameters}</title>\n\
             <desc id=\"curve-words\">{}</desc>\n{}</svg>\n<figcaption>{}</figcaption>\n</figure>\n",
            escape(&self.report.objective),
            escape(&self.words()),
            self.out,
            escape(&self.caption())
        )
    }

    /// The curve that was decided by, in words.
    fn words(&self) -> String {
        let points = self.curves.last().map(|curve| curve.points.as_slice()).unwrap_or_default();
        let point = |&(k, value): &(usize, f64)| {
            format!("{} at {}", shown(value), self.report.candidates[k].label)
        };
        let points: Vec<String> = points.iter().map(point).collect();
        format!("{}: {}", self.report.objective, points.join(", "))
    }

    fn caption(&self) -> String {
        let mut words = match self.report.goal {
            Some(Goal::Maximize) => "High scores are good.",
            Some(Goal::Minimize) => "Low scores are good.",
            None => "Low differences are good: small steps of the parameter then change little.",
        }
        .to_owned();
        let own = self.curves.last().map(|curve| curve.points.as_slice()).unwrap_or_default();
        if self.report.optimized.is_some() && self.report.parameters.len() > 1 {
            words += " The line is the best score so far.";
        }
        if own.iter().any(|&(_, value)| self.is_beyond(value)) {
            words += " Empty points at the edge are worse than what is drawn.";
        }
        words
    }
}
