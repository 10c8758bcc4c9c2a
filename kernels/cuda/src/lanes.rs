//! What descents under way hold of a device, so that they share its memory and never wait for each other in
//! a circle.
//!
//! A descent holds a lane (a queue, memory for one block of rows, and pinned memory to copy through) and the
//! matrix that it multiplies with. One descent at a time takes what it needs; meanwhile those that have all
//! of theirs go on and give it back. What nobody uses at the moment is kept for the next, until memory is
//! short.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::driver::{Address, Device, Fault, Pinned, Stream};
use crate::memory::{Buffer, Memory, Short};

/// A queue with memory for one block of rows.
#[derive(Debug)]
pub struct Lane {
    device: Arc<dyn Device>,
    buffer: Option<Buffer>,
    pub(crate) pinned: Pinned,
    pinned_bytes: u64,
    pub(crate) stream: Stream,
}

impl Lane {
    fn new(memory: &Arc<Memory>, device: &Arc<dyn Device>, size: Size) -> Result<Self, Short> {
        let buffer = memory.take(size.device_bytes)?;
        let stream = device.create_stream().map_err(short)?;
        let pinned = match device.allocate_pinned(size.pinned_bytes.max(1)) {
            Ok(pinned) => pinned,
            Err(fault) => {
                // Nothing was queued.
                let _ = device.destroy_stream(stream);
                return Err(Short::Failed(fault));
            }
        };
        let pinned_bytes = size.pinned_bytes.max(1);
        Ok(Self { device: Arc::clone(device), buffer: Some(buffer), pinned, pinned_bytes, stream })
    }

    /// Where its memory begins.
    pub fn address(&self) -> Address {
        self.buffer.as_ref().map_or(Address(0), Buffer::address)
    }

    fn holds(&self, size: Size) -> bool {
        let bytes = self.buffer.as_ref().map_or(0, Buffer::bytes);
        bytes >= size.device_bytes && self.pinned_bytes >= size.pinned_bytes
    }

    /// Its pinned memory, which no queued work may use meanwhile.
    pub fn staging(&mut self) -> &mut [f32] {
        let numbers = self.pinned_bytes as usize / size_of::<f32>();
        // SAFETY: the memory was allocated with these bytes, aligned to a page, and is this lane's alone;
        // any bits are numbers.
        unsafe { std::slice::from_raw_parts_mut(self.pinned.0 as *mut f32, numbers) }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Whatever failed before, nothing may be written to this memory after it has been given back.
        let _ = self.device.synchronize(self.stream);
        let _ = self.device.destroy_stream(self.stream);
        let _ = self.device.release_pinned(self.pinned);
        self.buffer = None;
    }
}

fn short(fault: Fault) -> Short {
    if fault.is_out_of_memory() { Short::Full(0) } else { Short::Failed(fault) }
}

/// Bytes of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// On the device.
    pub device_bytes: u64,
    /// Of the host.
    pub pinned_bytes: u64,
}

/// Matrices on the device, if they are there at the moment.
pub type Slot = Mutex<Option<Arc<Vec<Buffer>>>>;

/// Writes matrices to the device.
type Fill<'a> = dyn FnMut(&mut Lane, &[Buffer]) -> Result<(), Fault> + 'a;

/// All lanes of a device.
#[derive(Debug)]
pub struct Lanes {
    device: Arc<dyn Device>,
    memory: Arc<Memory>,
    /// Held by the one descent that is taking what it needs.
    turn: Mutex<()>,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Lane>,
    running: usize,
    /// Descents that have given theirs back, ever.
    ended: u64,
    slots: Vec<Weak<Slot>>,
}

impl Lanes {
    /// Of a device, within a budget.
    pub fn new(device: Arc<dyn Device>, memory: Arc<Memory>) -> Self {
        Self {
            device,
            memory,
            turn: Mutex::default(),
            state: Mutex::default(),
            released: Condvar::new(),
        }
    }

    /// The budget.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for matrices, of which others know that they can be dropped when memory is short.
    pub fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut state = self.state();
        state.slots.retain(|slot| slot.strong_count() > 0);
        state.slots.push(Arc::downgrade(&slot));
        slot
    }

    /// Runs work with a lane of this size and matrices of these sizes, which `fill` writes where they are
    /// not there yet.
    pub fn with<T>(
        &self,
        size: Size,
        slot: &Slot,
        matrices: &[u64],
        mut fill: impl FnMut(&mut Lane, &[Buffer]) -> Result<(), Fault>,
        work: impl FnOnce(&mut Lane, &[Buffer]) -> Result<T, Fault>,
    ) -> Result<T, Short> {
        let (mut lane, held) = self.equip(size, slot, matrices, &mut fill)?;
        let outcome = work(&mut lane, &held);
        drop(held);
        let mut state = self.state();
        state.running -= 1;
        state.ended += 1;
        match outcome {
            Ok(value) => {
                state.idle.push(lane);
                self.released.notify_all();
                Ok(value)
            }
            Err(fault) => {
                drop(state);
                drop(lane);
                self.released.notify_all();
                Err(short(fault))
            }
        }
    }

    fn equip(
        &self,
        size: Size,
        slot: &Slot,
        matrices: &[u64],
        fill: &mut Fill<'_>,
    ) -> Result<(Lane, Arc<Vec<Buffer>>), Short> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lane = None;
        let (lane, held) = loop {
            let ended = self.state().ended;
            let full = match self.try_equip(size, slot, matrices, &mut lane) {
                Ok((held, is_new)) => match lane.take() {
                    Some(mut lane) => {
                        if is_new {
                            fill(&mut lane, &held).map_err(short)?;
                        }
                        break (lane, held);
                    }
                    None => continue,
                },
                Err(Short::Full(bytes)) => Short::Full(bytes),
                Err(failed) => return Err(failed),
            };
            if self.drop_unused() {
                continue;
            }
            let state = self.state();
            if state.ended > ended {
                continue;
            }
            if state.running == 0 {
                return Err(full);
            }
            // One that has all it needs gives it back without waiting for anything.
            drop(self.released.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&held));
        self.state().running += 1;
        Ok((lane, held))
    }

    fn try_equip(
        &self,
        size: Size,
        slot: &Slot,
        matrices: &[u64],
        lane: &mut Option<Lane>,
    ) -> Result<(Arc<Vec<Buffer>>, bool), Short> {
        if lane.is_none() {
            let mut state = self.state();
            let fitting = state.idle.iter().position(|idle| idle.holds(size));
            *lane = fitting.map(|at| state.idle.swap_remove(at));
        }
        if lane.is_none() {
            *lane = Some(Lane::new(&self.memory, &self.device, size)?);
        }
        let there = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(held) = there {
            return Ok((held, false));
        }
        let held: Result<Vec<Buffer>, Short> =
            matrices.iter().map(|&bytes| self.memory.take(bytes)).collect();
        Ok((Arc::new(held?), true))
    }

    /// Gives back what nobody uses at the moment. Whether there was anything.
    fn drop_unused(&self) -> bool {
        let mut state = self.state();
        let mut dropped = !state.idle.is_empty();
        let idle = std::mem::take(&mut state.idle);
        let slots: Vec<_> = state.slots.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        drop(idle);
        for slot in slots {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_some_and(|held| Arc::strong_count(held) == 1) {
                *slot = None;
                dropped = true;
            }
        }
        dropped
    }
}
