//! The one pass over all tensors: pieces on several threads, added in the order of their places.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mixdown_cpu::survey::{Sketch, SpectrumOf, Tally};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::Source;
use mixdown_ops::matrix::MatrixLayout;
use mixdown_plan::Described;

use super::models::{Compared, Found, Place};
use super::read::{Held, PIECE, Reader, Room};
use crate::progress::Meter;

/// The shares of energy whose directions are counted.
pub const SHARES: [f64; 2] = [0.9, 0.99];

/// What was measured of a tensor.
#[derive(Debug)]
pub struct Measured {
    pub tally: Tally,
    pub spectra: Option<Spectra>,
}

/// The directions of a tensor's task vectors.
#[derive(Debug)]
pub struct Spectra {
    /// Whether the Gram matrix is over all inputs, and not over sums of them.
    pub is_exact: bool,
    /// The most that can be counted: with a sketch, counts well below it alone are right.
    pub width: usize,
    /// Of each expert, for each of [`SHARES`].
    pub experts: Vec<[usize; 2]>,
    /// Of all together.
    pub together: [usize; 2],
    /// Of each two experts: the share of the second's energy in the directions that hold 90 % of the
    /// first's, and the other way round.
    pub shared: Vec<[Option<f64>; 2]>,
    /// The same for energy that lies anywhere: how many of all directions they are.
    pub by_chance: Vec<[f64; 2]>,
}

/// How the pass ended.
pub enum Outcome {
    /// With what was measured of each place, if it was.
    Done(Vec<Option<Measured>>),
    Failed(Box<Diagnostic>),
    Cancelled,
}

/// What a thread takes.
#[derive(Clone, Copy, Debug)]
struct Item {
    place: usize,
    /// A piece of it, or all pieces in order where its directions are counted.
    piece: Option<u64>,
}

/// The pass.
pub struct Plan<'a> {
    places: &'a [Place],
    experts: usize,
    /// How matrices lie in each tensor whose directions are counted.
    layouts: Vec<Option<MatrixLayout>>,
    reader: Reader<'a>,
    items: Vec<Item>,
    bytes: u64,
    held: u64,
}

/// A tensor of which some is measured.
#[derive(Default)]
struct State {
    held: Option<Arc<Holding>>,
    /// Pieces that wait for one before them.
    waiting: BTreeMap<u64, Tally>,
    next: u64,
    tally: Option<Tally>,
    spectra: Option<Spectra>,
}

/// What is held of the base and of each expert.
struct Holding {
    base: Held,
    experts: Vec<Option<Held>>,
}

impl<'a> Plan<'a> {
    pub fn new(
        compared: &'a Compared,
        described: &Described,
        sources: &'a [Source<'a>],
        spectra: bool,
    ) -> Self {
        let reader = Reader::new(sources);
        let experts = compared.experts.len();
        let layout = |place: &Place| {
            let layout = described.tensors[place.tensor as usize].matrices?;
            let fits = layout.matrices * layout.rows * layout.columns == place.elements;
            (spectra && fits && is_measured(place)).then_some(layout)
        };
        let layouts: Vec<_> = compared.places.iter().map(layout).collect();
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut held = 0;
        for (number, place) in compared.places.iter().enumerate() {
            if !is_measured(place) {
                continue;
            }
            let pieces = place.elements.div_ceil(PIECE);
            match layouts[number] {
                Some(_) => items.push(Item { place: number, piece: None }),
                None => items
                    .extend((0..pieces).map(|piece| Item { place: number, piece: Some(piece) })),
            }
            let readers =
                1 + place.experts.iter().filter(|one| matches!(one, Found::Made(_))).count();
            bytes += place.elements * readers as u64;
            let of_experts = place.experts.iter().filter_map(|found| match found {
                Found::Made(made) => Some(reader.held_bytes(made, place.shape)),
                _ => None,
            });
            let sketches = layouts[number].map_or(0, |layout| {
                let one = Sketch::bytes(
                    layout.rows as usize,
                    layout.columns as usize,
                    layout.inputs_first,
                );
                one * (experts as u64 + 1)
            });
            let all =
                reader.held_bytes(&place.base, place.shape) + of_experts.sum::<u64>() + sketches;
            held = held.max(all);
        }
        let held = held + Reader::bytes(sources);
        Self { places: &compared.places, experts, layouts, reader, items, bytes, held }
    }

    /// Elements that are read, as what progress counts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that so many threads need: one tensor for each and one that is about to end.
    pub fn needs(&self, threads: usize) -> u64 {
        let threads = threads as u64;
        let tallies = self.places.len() as u64 * 512 * (self.experts as u64 + 1);
        threads * Room::bytes(self.experts) + (threads + 1) * self.held + tallies
    }

    /// Measures everything.
    pub fn run(&self, threads: usize, meter: &Meter, stop: &AtomicBool) -> Outcome {
        let states: Vec<Mutex<State>> = self.places.iter().map(|_| Mutex::default()).collect();
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Box<Diagnostic>>> = Mutex::new(None);
        let failing = AtomicBool::new(false);
        let work = || {
            let mut room = Room::of(self.experts);
            while !stop.load(Ordering::Relaxed) && !failing.load(Ordering::Relaxed) {
                let Some(&item) = self.items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                if let Err(fault) = self.take(item, &states[item.place], &mut room, meter, stop) {
                    failing.store(true, Ordering::Relaxed);
                    lock(&failed).get_or_insert(fault);
                    break;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.max(1) {
                // Where the system starts no more, fewer do the same.
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        if let Some(fault) = lock(&failed).take() {
            return Outcome::Failed(fault);
        }
        if stop.load(Ordering::Relaxed) {
            return Outcome::Cancelled;
        }
        let measured = |state: Mutex<State>| {
            let State { tally, spectra, .. } =
                state.into_inner().unwrap_or_else(PoisonError::into_inner);
            tally.map(|tally| Measured { tally, spectra })
        };
        Outcome::Done(states.into_iter().map(measured).collect())
    }

    fn take(
        &self,
        item: Item,
        state: &Mutex<State>,
        room: &mut Room,
        meter: &Meter,
        stop: &AtomicBool,
    ) -> Result<(), Box<Diagnostic>> {
        let place = &self.places[item.place];
        let pieces = place.elements.div_ceil(PIECE);
        let holding = self.holding(place, state)?;
        match (item.piece, self.layouts[item.place]) {
            (Some(piece), _) => {
                let tally = self.piece(place, &holding, piece, room, meter)?;
                let mut state = lock(state);
                state.waiting.insert(piece, tally);
                loop {
                    let next = state.next;
                    let Some(tally) = state.waiting.remove(&next) else { break };
                    let so_far = state.tally.get_or_insert_with(|| Tally::of(self.experts));
                    so_far.add(&tally);
                    state.next += 1;
                }
                if state.next == pieces {
                    state.held = None;
                }
            }
            (None, layout) => {
                let mut tally = Tally::of(self.experts);
                let mut sketches: Vec<Sketch> = layout.map_or_else(Vec::new, |layout| {
                    let (rows, columns) = (layout.rows as usize, layout.columns as usize);
                    let one = || Sketch::new(rows, columns, layout.inputs_first);
                    (0..self.experts).map(|_| one()).collect()
                });
                for piece in 0..pieces {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    tally.add(&self.piece(place, &holding, piece, room, meter)?);
                    for (sketch, vector) in sketches.iter_mut().zip(&room.vectors) {
                        sketch.add(piece * PIECE, vector);
                    }
                }
                let spectra = spectra(sketches).map_err(|_| {
                    let headline = "the directions of a tensor cannot be counted";
                    let fault = Diagnostic::error(codes::NUMERICS, headline);
                    Box::new(fault.help("leave them out with `--no-spectra`"))
                })?;
                let mut state = lock(state);
                (state.tally, state.spectra, state.held) = (Some(tally), Some(spectra), None);
            }
        }
        Ok(())
    }

    /// What is held of a tensor: made by the first thread that needs it, for which others wait.
    fn holding(
        &self,
        place: &Place,
        state: &Mutex<State>,
    ) -> Result<Arc<Holding>, Box<Diagnostic>> {
        let mut state = lock(state);
        if let Some(held) = &state.held {
            return Ok(held.clone());
        }
        let hold = |found: &Found| match found {
            Found::Made(made) => self.reader.hold(made, place.shape).map(Some),
            _ => Ok(None),
        };
        let held = Arc::new(Holding {
            base: self.reader.hold(&place.base, place.shape)?,
            experts: place.experts.iter().map(hold).collect::<Result<_, _>>()?,
        });
        state.held = Some(held.clone());
        Ok(held)
    }

    fn piece(
        &self,
        place: &Place,
        holding: &Holding,
        piece: u64,
        room: &mut Room,
        meter: &Meter,
    ) -> Result<Tally, Box<Diagnostic>> {
        let first = piece * PIECE;
        let stretch = (first, (place.elements - first).min(PIECE));
        self.reader.base(place, &holding.base, stretch, room)?;
        let mut odd = vec![0; self.experts];
        let mut read = 1;
        for (expert, found) in place.experts.iter().enumerate() {
            match (found, &holding.experts[expert]) {
                (Found::Made(made), Some(held)) => {
                    odd[expert] = self.reader.vector((place, expert), made, held, stretch, room)?;
                    read += 1;
                }
                _ => {
                    room.vectors[expert].clear();
                    room.vectors[expert].resize(stretch.1 as usize, 0.0);
                }
            }
        }
        mixdown_cpu::survey::clean(&mut room.base);
        let mut tally = Tally::measure(&room.base, &room.vectors);
        for (expert, odd) in tally.experts.iter_mut().zip(odd) {
            expert.nonfinite = odd;
        }
        meter.add(stretch.1 * read, 0);
        Ok(tally)
    }
}

/// Whether an expert has anything to compare.
fn is_measured(place: &Place) -> bool {
    place.elements > 0 && place.experts.iter().any(|found| matches!(found, Found::Made(_)))
}

fn spectra(sketches: Vec<Sketch>) -> Result<Spectra, mixdown_ops::matrix::Stop> {
    let is_exact = sketches.iter().all(Sketch::is_exact);
    let width = sketches.iter().map(Sketch::width).max().unwrap_or_default();
    let found: Vec<SpectrumOf> =
        sketches.into_iter().map(Sketch::finish).collect::<Result<_, _>>()?;
    let counts = |one: &SpectrumOf| SHARES.map(|share| one.directions(share));
    let experts: Vec<[usize; 2]> = found.iter().map(counts).collect();
    let (mut shared, mut by_chance) = (Vec::new(), Vec::new());
    for (i, first) in found.iter().enumerate() {
        for (j, second) in found.iter().enumerate().skip(i + 1) {
            shared.push([
                first.share_of(second, experts[i][0]),
                second.share_of(first, experts[j][0]),
            ]);
            let of_all = |at: usize| experts[at][0] as f64 / width.max(1) as f64;
            by_chance.push([of_all(i), of_all(j)]);
        }
    }
    let together = counts(&SpectrumOf::together(&found)?);
    Ok(Spectra { is_exact, width, experts, together, shared, by_chance })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
