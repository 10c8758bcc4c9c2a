//! What determines a result, told part by part.
//!
//! One walk over a value serves two readers: a digest, which never sees the names of parts, and people, who do.
//! So a part that gets another name, in a text or in Rust, changes no digest, while its value, its kind and its
//! place among the others do.

mod joint;
mod matrix;
mod program;

/// A value that is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told<'t> {
    /// A word of mixdown's own, as recipes or `mixdown plan` write it, or a text.
    Word(&'t str),
    /// A count or a position.
    Count(u64),
    /// A number, which counts by its bits.
    Number(f64),
    /// Whether something is so.
    Flag(bool),
    /// That there is none.
    Nothing,
}

/// Takes what determines a result.
pub trait Account {
    /// Begins a thing that has parts; they come until it is closed.
    fn open(&mut self, name: &'static str);

    /// Ends the thing that was opened last.
    fn close(&mut self);

    /// A part without parts.
    fn tell(&mut self, name: &'static str, value: Told<'_>);

    /// Whether large things may come as digests of their own accounts.
    fn is_terse(&self) -> bool;
}

impl dyn Account + '_ {
    /// A word or a text.
    pub fn word(&mut self, name: &'static str, word: &str) {
        self.tell(name, Told::Word(word));
    }

    /// A count or a position.
    pub fn count(&mut self, name: &'static str, count: impl Into<u64>) {
        self.tell(name, Told::Count(count.into()));
    }

    /// A count, or that there is none.
    pub fn maybe(&mut self, name: &'static str, count: Option<impl Into<u64>>) {
        self.tell(name, count.map_or(Told::Nothing, |count| Told::Count(count.into())));
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, number: f64) {
        self.tell(name, Told::Number(number));
    }

    /// Whether something is so.
    pub fn flag(&mut self, name: &'static str, is_so: bool) {
        self.tell(name, Told::Flag(is_so));
    }

    /// A thing that has parts.
    pub fn thing(&mut self, name: &'static str, parts: impl FnOnce(&mut Self)) {
        self.open(name);
        parts(self);
        self.close();
    }

    /// Counts or positions, one after the other.
    pub fn counts(&mut self, name: &'static str, counts: impl IntoIterator<Item: Into<u64>>) {
        self.thing(name, |to| counts.into_iter().for_each(|count| to.count("", count)));
    }

    /// Numbers, one after the other.
    pub fn numbers(&mut self, name: &'static str, numbers: &[f64]) {
        self.thing(name, |to| numbers.iter().for_each(|&number| to.number("", number)));
    }
}

/// The parts of one thing, without the things within: what a listing shows of an op.
#[derive(Debug, Default)]
pub struct Flat(pub Vec<(String, String)>);

impl Account for Flat {
    fn open(&mut self, _: &'static str) {}

    fn close(&mut self) {}

    fn tell(&mut self, name: &'static str, value: Told<'_>) {
        let value = match value {
            Told::Word(word) => word.to_owned(),
            Told::Count(count) => count.to_string(),
            Told::Number(number) => number.to_string(),
            Told::Flag(flag) => flag.to_string(),
            Told::Nothing => "none".to_owned(),
        };
        self.0.push((name.to_owned(), value));
    }

    fn is_terse(&self) -> bool {
        false
    }
}
