//! Places in the file that lies aside, for what matrix ops put there until their rows are computed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::context::lock;

/// Free stretches of the file, and its end.
#[derive(Debug)]
pub(crate) struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Stretches that nobody has: their first byte and their length. None touches another.
    free: BTreeMap<u64, u64>,
    end: u64,
}

impl Places {
    /// All of a file from a byte on.
    pub(crate) fn from(first: u64) -> Self {
        Self(Mutex::new(State { free: BTreeMap::new(), end: first }))
    }

    /// Takes the first stretch that is long enough.
    pub(crate) fn take(&self, bytes: u64) -> u64 {
        let mut state = lock(&self.0);
        let found = state.free.iter().find(|(_, free)| **free >= bytes);
        let Some((first, free)) = found.map(|(first, free)| (*first, *free)) else {
            let first = state.end;
            state.end += bytes;
            return first;
        };
        state.free.remove(&first);
        if free > bytes {
            state.free.insert(first + bytes, free - bytes);
        }
        first
    }

    /// Gives a stretch back.
    pub(crate) fn give_back(&self, mut first: u64, mut bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = lock(&self.0);
        let before = state.free.range(..first).next_back();
        if let Some((before, free)) = before.map(|(at, free)| (*at, *free))
            && before + free == first
        {
            state.free.remove(&before);
            (first, bytes) = (before, bytes + free);
        }
        if let Some(free) = state.free.remove(&(first + bytes)) {
            bytes += free;
        }
        state.free.insert(first, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_apart_and_come_back() {
        let places = Places::from(100);
        let first = [places.take(10), places.take(20), places.take(30)];
        assert_eq!(first, [100, 110, 130]);
        places.give_back(110, 20);
        assert_eq!((places.take(15), places.take(15), places.take(5)), (110, 160, 125));
        for (first, bytes) in [(130, 30), (100, 10), (125, 5), (110, 15), (160, 15)] {
            places.give_back(first, bytes);
        }
        // All of it is one stretch again.
        assert_eq!((places.take(75), places.take(1)), (100, 175));
    }
}
