//! The terminal as what a session listens and talks to.

use mixdown_diagnostics::render;
use mixdown_session::{Event, Listener, Meter, Places, Session, Task, Trouble};
use serde_json::json;

use crate::commands::Outcome;
use crate::commands::merge::summary;
use crate::commands::search::folders_of_programs;
use crate::progress::{self, Style};
use crate::reading::Reading;
use crate::stop;
use crate::talk::{self, Talk};

/// The terminal that a command runs at.
pub struct Terminal {
    /// How words are said.
    pub talk: Talk,
    /// Whether events are printed as JSON.
    pub json: bool,
    style: Style,
    places: Places,
}

impl Terminal {
    /// For a command that prints no events.
    pub fn new(talk: Talk) -> Self {
        Self::with_style(talk, false, Style::suited(talk, false))
    }

    /// For a command that reads headers alone: weights of models that are not here are not fetched.
    pub fn of_headers(talk: Talk) -> Self {
        let mut terminal = Self::new(talk);
        terminal.places.hub.headers_only = true;
        terminal
    }

    /// For a command that prints events if `json`. Events say it all; talk between them would only
    /// repeat it.
    pub fn of_events(talk: Talk, json: bool) -> Self {
        let talk = Talk { quiet: talk.quiet || json, ..talk };
        Self::with_style(talk, json, Style::suited(talk, json))
    }

    fn with_style(talk: Talk, json: bool, style: Style) -> Self {
        let mut places = Places::from_env(&|name| std::env::var_os(name));
        places.programs = folders_of_programs();
        Self { talk, json, style, places }
    }

    /// The same for models that are reached in this way.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.places.remote = reading.remote;
        self.places.hub.kept_bytes = reading.remote_cache.unwrap_or(0);
        self
    }

    /// What commands lend to the work.
    pub fn session(&self) -> Session<'_> {
        Session::new(&self.places, self, stop::flag())
    }

    /// Where models come from and results are kept.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The event of what went wrong, where events are printed.
    pub fn tell_of_trouble(&self, outcome: &Outcome) {
        if let (true, Some(found)) = (self.json, outcome.as_ref().err().and_then(Trouble::found)) {
            talk::event(&json!({"event": "error", "diagnostics": render::render_json(found)}));
        }
    }
}

impl Listener for Terminal {
    fn tell(&self, event: &Event<'_>) {
        match event {
            Event::Warnings(warnings) => {
                self.talk.show(warnings);
                if self.json {
                    for warning in render::render_json(warnings).as_array().into_iter().flatten() {
                        talk::event(&json!({"event": "warning", "diagnostic": warning}));
                    }
                }
            }
            Event::Notice(text) => self.talk.say(text),
            Event::Started(started) if self.json => talk::event(&summary::started(started)),
            Event::Started(_) => {}
        }
    }

    fn watch(&self, meter: &Meter, work: &mut dyn FnMut()) {
        // Events of what goes before would look like those of the merge.
        let is_before = matches!(meter.task(), Task::Confirming | Task::Hashing);
        let style = match self.style {
            Style::Events if is_before => Style::Nothing,
            style => style,
        };
        progress::watch(style, meter, work);
    }

    fn has_work(&self, has: bool) {
        stop::careful(has);
    }

    fn wants_names(&self) -> bool {
        self.style == Style::Events
    }
}
