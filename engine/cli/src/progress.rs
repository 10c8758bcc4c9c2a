//! How far the work is: shown as a bar, as lines or as events.

mod bar;
mod events;
mod lines;

use std::io::IsTerminal;
use std::time::Duration;

use mixdown_session::progress::{self, Count, Meter};
use mixdown_session::quantity;

use crate::talk::Talk;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// A bar on the terminal.
    Bar,
    /// A plain line every few seconds.
    Lines,
    /// A JSON object per line, to stdout.
    Events,
    /// Not at all.
    #[default]
    Nothing,
}

impl Style {
    /// What suits the terminal and the flags.
    pub fn suited(talk: Talk, events: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match () {
            () if events => Self::Events,
            () if talk.quiet => Self::Nothing,
            () if std::io::stderr().is_terminal() && !dumb => Self::Bar,
            () => Self::Lines,
        }
    }
}

/// Something that shows counts.
trait Display {
    /// Shows the count; called ten times a second.
    fn show(&mut self, count: &Count);
    /// Shows the last count, and leaves the place to others.
    fn end(&mut self, count: &Count);
}

/// Does the work while its progress is shown.
pub fn watch(style: Style, meter: &Meter, work: &mut dyn FnMut()) {
    let Some(mut display) = display(style) else { return work() };
    let show = |count: &Count, is_last| match is_last {
        false => display.show(count),
        true => display.end(count),
    };
    progress::show(meter, show, work);
}

fn display(style: Style) -> Option<Box<dyn Display + Send>> {
    match style {
        Style::Bar => Some(Box::new(bar::Bar::new())),
        Style::Lines => Some(Box::new(lines::Lines::default())),
        Style::Events => Some(Box::new(events::Events::default())),
        Style::Nothing => None,
    }
}

/// `212 of 291 tensors, 3.10 GB of 4.90 GB, 1.30 GB/s, 4 s left`.
fn text(count: &Count) -> String {
    let mut parts = Vec::new();
    if count.tensors > 0 {
        parts.push(format!(
            "{} of {}",
            count.tensors_done,
            quantity::count(count.tensors, "tensor")
        ));
    }
    let done = count.bytes_done.min(count.bytes.max(count.bytes_done));
    match count.bytes {
        0 => parts.push(quantity::bytes(done)),
        // What is announced is an estimate, and more than all is never done.
        all => {
            parts.push(format!("{} of {}", quantity::bytes(done.min(all)), quantity::bytes(all)))
        }
    }
    if count.bytes_done > 0 {
        parts.push(quantity::rate(count.bytes_done, count.elapsed));
    }
    if let Some(left) = count.left() {
        parts.push(format!("{} left", coarse(left)));
    }
    parts.join(", ")
}

/// Whole seconds: tenths would only flicker.
fn coarse(time: Duration) -> String {
    match time.as_secs_f64().round() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => quantity::time(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use mixdown_session::progress::Task;

    use super::*;

    #[test]
    fn the_text_tells_what_is_known() {
        let mut count = Count { elapsed: Duration::from_secs(2), ..Count::default() };
        assert_eq!(text(&count), "0 B");
        count.bytes_done = 1_000_000;
        assert_eq!(text(&count), "1.00 MB, 500 kB/s");
        count = Count { tensors: 291, tensors_done: 212, bytes: 4_000_000, ..count };
        assert_eq!(text(&count), "212 of 291 tensors, 1.00 MB of 4.00 MB, 500 kB/s, 6 s left");
        count.bytes = 900_000;
        assert_eq!(count.left(), Some(Duration::ZERO), "an estimate that was too low");
        assert_eq!(text(&count), "212 of 291 tensors, 900 kB of 900 kB, 500 kB/s, 0 s left");
    }

    #[test]
    fn the_work_is_done_in_every_style() {
        for style in [Style::Lines, Style::Nothing] {
            let mut done = 0;
            watch(style, &Meter::new(Task::Merging, false), &mut || done += 1);
            assert_eq!(done, 1);
        }
    }
}
