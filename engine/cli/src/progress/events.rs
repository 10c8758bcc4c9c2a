//! Progress as JSON objects, one per line, for programs.

use std::time::Duration;

use serde_json::{Value, json};

use mixdown_session::progress::Count;

use super::Display;
use crate::talk;

/// Time between two progress events; tensors are told as they are done.
const PERIOD: Duration = Duration::from_secs(1);

/// Events to stdout.
#[derive(Default)]
pub struct Events {
    last: Duration,
}

impl Events {
    fn events(&mut self, count: &Count, last_one: bool) -> Vec<Value> {
        let mut events: Vec<Value> =
            count.names.iter().map(|name| json!({"event": "tensor", "name": name})).collect();
        let due = count.elapsed.saturating_sub(self.last) >= PERIOD;
        if due || (last_one && count.bytes_done > 0) {
            self.last = count.elapsed;
            events.push(progress(count));
        }
        events
    }
}

fn progress(count: &Count) -> Value {
    let seconds = count.elapsed.as_secs_f64();
    json!({
        "event": "progress",
        "stage": count.stage,
        "tensors_done": count.tensors_done,
        "tensors": count.tensors,
        "bytes_done": count.bytes_done,
        "bytes": count.bytes,
        "bytes_written": count.written,
        "seconds": seconds,
        "bytes_per_second": (count.bytes_done as f64 / seconds.max(1e-3)).round(),
        "seconds_left": count.left().map(|left| left.as_secs_f64()),
    })
}

impl Display for Events {
    fn show(&mut self, count: &Count) {
        self.events(count, false).iter().for_each(talk::event);
    }

    fn end(&mut self, count: &Count) {
        self.events(count, true).iter().for_each(talk::event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[Value]) -> Vec<&str> {
        events.iter().filter_map(|event| event["event"].as_str()).collect()
    }

    #[test]
    fn every_tensor_is_told_and_progress_once_a_second() {
        let mut events = Events::default();
        let at = |tenths: u64, names: &[&str]| Count {
            elapsed: Duration::from_millis(100 * tenths),
            names: names.iter().map(ToString::to_string).collect(),
            bytes: 10,
            bytes_done: 5,
            ..Count::default()
        };
        assert_eq!(names(&events.events(&at(1, &["a", "b"]), false)), ["tensor", "tensor"]);
        assert!(events.events(&at(9, &[]), false).is_empty());
        assert_eq!(names(&events.events(&at(10, &["c"]), false)), ["tensor", "progress"]);
        assert!(events.events(&at(19, &[]), false).is_empty());
        let last = events.events(&at(19, &["d"]), true);
        assert_eq!(names(&last), ["tensor", "progress"], "the last count is told at the end");
        assert_eq!(last[1]["bytes_per_second"], 3.0);
    }
}
