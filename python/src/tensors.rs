//! Tensors that Python holds, in and out.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{ByteSource, FilePool, ReadError};
use mixdown_session::models::Model;
use mixdown_session::tensors::{self, GivenModel, GivenTensor, MergedTensor};
use mixdown_session::{Places, Session, Silence, Trouble};
use mixdown_tensor::{DType, Shape};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::attended::attended_by;
use crate::request::{Recipe, machine, read};

/// A tensor as the package describes it: name, type, shape, address, bytes.
type Described = (String, String, Vec<u64>, usize, usize);

/// A tensor on its way out: name, type, shape, bytes.
type Taken = (String, &'static str, Vec<u64>, Made);

/// The bytes of a tensor that was made, which live as long as this does. Arrays of Python lie on them: a copy
/// would cost as much as a merge of two tensors.
#[pyclass]
pub struct Made {
    data: Vec<u8>,
}

#[pymethods]
impl Made {
    /// Where the bytes are, and how many.
    fn place(&self) -> (usize, usize) {
        (self.data.as_ptr() as usize, self.data.len())
    }
}

/// Bytes of an array that Python keeps alive and does not change.
struct Borrowed {
    address: usize,
    bytes: usize,
}

impl ByteSource for Borrowed {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let wanted = offset.saturating_add(buffer.len() as u64);
        if wanted > self.len() {
            let shown = "memory".to_owned();
            return Err(ReadError::Short { shown, offset, wanted, end: self.len() });
        }
        let from = (self.address as *const u8).wrapping_add(offset as usize);
        // SAFETY: the package takes address and length from one contiguous array on the processor and
        // keeps a reference to it in `Merging` until the merge has ended; the place lies within it.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.bytes as u64
    }
}

fn given(name: String, config: Option<String>, described: Vec<Described>) -> PyResult<GivenModel> {
    let tensor = |(name, dtype, shape, address, bytes): Described| {
        let unknown = || PyValueError::new_err(format!("`{name}` has the unknown type `{dtype}`"));
        let dtype = DType::from_safetensors(&dtype).ok_or_else(unknown)?;
        let shape = Shape::new(shape).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let data: Arc<dyn ByteSource> = Arc::new(Borrowed { address, bytes });
        Ok(GivenTensor { name, dtype, shape, data })
    };
    let config = config.map(|text| serde_json::from_str(&text));
    let config = config.transpose().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let tensors = described.into_iter().map(tensor).collect::<PyResult<_>>()?;
    Ok(GivenModel { name, config, tensors })
}

/// A merge whose results are taken one by one.
#[pyclass]
pub struct Merging {
    results: Mutex<Option<Receiver<MergedTensor>>>,
    worker: Mutex<Option<JoinHandle<Result<(), Trouble>>>>,
    cancel: Arc<AtomicBool>,
    /// What the tensors belong to; released after the worker has ended.
    _owner: Py<PyAny>,
}

/// Begins a merge of tensors; `owner` keeps their memory.
#[pyfunction]
pub fn merge_tensors(
    recipe: &str,
    models: Vec<(String, Option<String>, Vec<Described>)>,
    memory: Option<&str>,
    threads: Option<usize>,
    owner: Py<PyAny>,
) -> PyResult<Merging> {
    let recipe = read::<Recipe>(recipe)?.of_session();
    let machine = machine(memory, threads, None)?;
    let models = models.into_iter().map(|(name, config, tensors)| given(name, config, tensors));
    let models: Vec<GivenModel> = models.collect::<PyResult<_>>()?;
    // One tensor waits to be taken while the next ones are made.
    let (send, results) = sync_channel(1);
    let cancel = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&cancel);
    let worker = thread::Builder::new().spawn(move || {
        let places = Places::from_env(&|name| std::env::var_os(name));
        let session = Session::new(&places, &Silence, &stop).with_models(&models);
        let take = |tensor| send.send(tensor).is_ok();
        tensors::merge_tensors(&recipe, &machine, &session, &take).map(|_| ())
    });
    let worker = worker.map_err(|error| crate::failure(&Trouble::no_thread(&error)))?;
    let (results, worker) = (Mutex::new(Some(results)), Mutex::new(Some(worker)));
    Ok(Merging { results, worker, cancel, _owner: owner })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Merging {
    /// Ends the worker, and tells what went wrong in it.
    fn end(&self) -> Result<(), Trouble> {
        // A worker that waits to hand a tensor over hears that nobody takes it.
        drop(lock(&self.results).take());
        match lock(&self.worker).take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(found)) => found,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

#[pymethods]
impl Merging {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// Name, type, shape and bytes of the next tensor.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Taken>> {
        loop {
            let next = py.detach(|| match &*lock(&self.results) {
                Some(results) => results.recv_timeout(Duration::from_millis(100)),
                None => Err(RecvTimeoutError::Disconnected),
            });
            match next {
                Ok(tensor) => {
                    let shape = tensor.shape.dimensions().to_vec();
                    let made = Made { data: tensor.data };
                    return Ok(Some((tensor.name, tensor.dtype.safetensors_name(), shape, made)));
                }
                Err(RecvTimeoutError::Timeout) => py.check_signals()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let found = py.detach(|| self.end());
                    return found.map(|()| None).map_err(|trouble| crate::failure(&trouble));
                }
            }
        }
    }

    /// Stops the merge.
    fn close(&self, py: Python<'_>) {
        self.cancel.store(true, Ordering::SeqCst);
        // Whoever closes it does not ask what came of it.
        let _ = py.detach(|| self.end());
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::SeqCst);
        let _ = self.end();
    }
}

/// A model on disk or at the hub, whose tensors are read when they are asked for.
#[pyclass]
pub struct Opened {
    model: Model,
    pool: Arc<FilePool>,
}

/// Opens a model.
#[pyfunction]
pub fn open(
    py: Python<'_>,
    model: String,
    follow_links: bool,
    listener: Option<Py<PyAny>>,
) -> PyResult<Opened> {
    let open = move |session: &Session<'_>| Ok(Model::open(&model, follow_links, session)?);
    let found = attended_by(py, listener, open)?;
    let model = found.map_err(|trouble| crate::failure(&trouble))?;
    Ok(Opened { model, pool: FilePool::new(FilePool::DEFAULT_LIMIT) })
}

#[pymethods]
impl Opened {
    /// Name, type and shape of each tensor, in the order of the files.
    fn tensors(&self) -> Vec<(String, &'static str, Vec<u64>)> {
        let tensors = self.model.checkpoint.index.tensors().iter();
        let described = tensors.map(|tensor| {
            (
                tensor.name.clone(),
                tensor.dtype.safetensors_name(),
                tensor.shape.dimensions().to_vec(),
            )
        });
        described.collect()
    }

    /// The folder of its files.
    fn root(&self) -> PathBuf {
        self.model.checkpoint.root.clone()
    }

    /// Its config.json as text.
    fn config(&self) -> Option<String> {
        self.model.checkpoint.config.as_ref().map(ToString::to_string)
    }

    /// The bytes of a tensor, little-endian, row by row.
    fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyByteArray>> {
        let index = &self.model.checkpoint.index;
        let entry = index.get(name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        // A packed tensor lies in several places, perhaps of several files.
        let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
            self.pool.source(&index.shards()[shard as usize]).read_exact_at(offset, buffer)
        };
        let data = py.detach(|| {
            let mut data = vec![0; entry.bytes() as usize];
            entry.read(0, &mut data, &from, &Blocks::default()).map(|()| data)
        });
        match data {
            Ok(data) => Ok(PyByteArray::new(py, &data)),
            Err(error) => Err(crate::failure(&Trouble::from(error.diagnostic()))),
        }
    }
}
