//! mixdown for Python: the extension module behind the package `mixdown`.
//!
//! Requests come in and results go out as JSON, the documents that the program's `--json` prints; the
//! package gives them types. Work runs on a thread of its own without Python's lock, while the caller's
//! thread delivers events and hears Ctrl-C.

mod attended;
mod request;
mod tensors;

use std::path::Path;

use mixdown_cli::data;
use mixdown_diagnostics::codes;
use mixdown_diagnostics::render::{self, Color};
use mixdown_recipe::Pattern;
use mixdown_session::Trouble;
use mixdown_session::models::Model;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use serde_json::{Value, json};

create_exception!(
    _mixdown,
    Failure,
    PyException,
    "What went wrong: kind, diagnostics as JSON, and the text that the program prints."
);

/// The exception of trouble: its kind, its diagnostics, and its text.
fn failure(trouble: &Trouble) -> PyErr {
    let (kind, found) = match trouble {
        Trouble::Found(found) => ("found", found.as_slice()),
        Trouble::Usage(found) => ("usage", found.as_slice()),
        Trouble::Interrupted(text) => {
            return Failure::new_err(("interrupted", "[]".to_owned(), text.clone()));
        }
    };
    let text = render::render_all(found, Color::Plain);
    Failure::new_err((kind, render::render_json(found).to_string(), text))
}

fn pattern(text: Option<&str>) -> PyResult<Option<Pattern>> {
    let read = |text| Pattern::new(text).map_err(|error| PyValueError::new_err(error.message));
    text.map(read).transpose()
}

/// The extension module.
#[pymodule]
mod _mixdown {
    use super::*;
    use mixdown_session::parts::MOST_PARTS;
    use mixdown_session::parts::assemble::AssembleRequest;

    use crate::attended::attended;
    use crate::request::{
        Convert, Extract, Fuse, Merge, Recipe, Search, Survey, Transplant, machine, read,
    };

    #[pymodule_export]
    use super::Failure;
    #[pymodule_export]
    use crate::tensors::{Made, Merging, Opened, merge_tensors, open};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("MODEL_NOT_FOUND", codes::MODEL_NOT_FOUND.id)?;
        module.add("VERSION", env!("CARGO_PKG_VERSION"))
    }

    /// Runs the program with these arguments, its name first, and gives the exit status.
    #[pyfunction]
    fn program(py: Python<'_>, arguments: Vec<std::ffi::OsString>) -> i32 {
        py.detach(|| mixdown_cli::run(arguments))
    }

    /// Merges; the event `done` of the program.
    #[pyfunction]
    fn merge(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request: Merge = read(request)?;
        let request = request.of_session()?;
        attended(py, listener, move |session| {
            let merged = mixdown_session::merge::merge(&request, session)?;
            Ok(data::merged(&merged))
        })
    }

    /// Joins the parts of an output.
    #[pyfunction]
    fn assemble(
        py: Python<'_>,
        folder: std::path::PathBuf,
        force: bool,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let request = AssembleRequest { out: folder, force };
        attended(py, listener, move |session| {
            Ok(data::assembled(&mixdown_session::parts::assemble::assemble(&request, session)?))
        })
    }

    /// How a merge would be cut in so many parts.
    #[pyfunction]
    fn plan_parts(
        py: Python<'_>,
        request: &str,
        parts: u32,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let request = read::<Merge>(request)?.of_session()?;
        if !(1..=MOST_PARTS).contains(&parts) {
            let text = format!("`parts` is a number from 1 to {MOST_PARTS}, found {parts}");
            return Err(PyValueError::new_err(text));
        }
        attended(py, listener, move |session| data::cut(&request, parts, session))
    }

    /// All mistakes of a recipe, if any; else its warnings.
    #[pyfunction]
    fn check(py: Python<'_>, recipe: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let recipe = read::<Recipe>(recipe)?.of_session();
        attended(py, listener, move |session| {
            let planned = mixdown_session::plan(&recipe, session, None)?;
            Ok(json!({
                "tensors": planned.plan.jobs.len(),
                "models": planned.plan.models.len(),
                "warnings": render::render_json(&planned.warnings),
            }))
        })
    }

    /// What a merge would do.
    #[pyfunction]
    fn plan(
        py: Python<'_>,
        recipe: &str,
        memory: Option<&str>,
        threads: Option<usize>,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let recipe = read::<Recipe>(recipe)?.of_session();
        let machine = machine(memory, threads, None)?;
        attended(py, listener, move |session| {
            let planned = mixdown_session::plan(&recipe, session, None)?;
            data::planned(&planned, &machine, session)
        })
    }

    /// How one tensor of the output is made.
    #[pyfunction]
    fn explain(
        py: Python<'_>,
        recipe: &str,
        tensor: String,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let recipe = read::<Recipe>(recipe)?.of_session();
        attended(py, listener, move |session| {
            let planned = mixdown_session::plan(&recipe, session, Some(&tensor))?;
            data::explained(&planned, &tensor)
        })
    }

    /// What a checkpoint holds.
    #[pyfunction]
    fn inspect(
        py: Python<'_>,
        model: String,
        tensors: Option<&str>,
        follow_links: bool,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let wanted = pattern(tensors)?;
        attended(py, listener, move |session| {
            let model = Model::open(&model, follow_links, session)?;
            Ok(data::inspected(&model, wanted.as_ref()))
        })
    }

    /// How alike two checkpoints are.
    #[pyfunction]
    fn diff(
        py: Python<'_>,
        models: (String, String),
        tensors: Option<&str>,
        threads: Option<usize>,
        follow_links: bool,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let wanted = pattern(tensors)?;
        let threads = machine(None, threads, None)?.threads();
        attended(py, listener, move |session| {
            let models = (models.0.as_str(), models.1.as_str());
            data::compared(models, follow_links, wanted.as_ref(), threads, session)
        })
    }

    /// Proves an output against its manifest.
    #[pyfunction]
    fn verify(
        py: Python<'_>,
        folder: std::path::PathBuf,
        threads: Option<usize>,
        listener: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let threads = machine(None, threads, None)?.threads();
        attended(py, listener, move |session| data::verified(&folder, threads, session))
    }

    /// Searches; the report and the folder of the chosen merge.
    #[pyfunction]
    fn search(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Search>(request)?.of_session()?;
        attended(py, listener, move |session| {
            let found = mixdown_session::search::search(&request, session)?;
            let report: Value = serde_json::from_str(&found.report.to_json()).unwrap_or_default();
            let merged = found.merged.to_string_lossy().into_owned();
            Ok(json!({"merged": merged, "chosen": found.chosen, "report": report}))
        })
    }

    /// Writes the adapter between two models.
    #[pyfunction]
    fn extract(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Extract>(request)?.of_session()?;
        attended(py, listener, move |session| {
            Ok(data::merged(&mixdown_session::extract::extract(&request, session)?))
        })
    }

    /// Adds adapters to their base.
    #[pyfunction]
    fn fuse(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Fuse>(request)?.of_session()?;
        attended(py, listener, move |session| {
            Ok(data::merged(&mixdown_session::fuse::fuse(&request, session)?))
        })
    }

    /// Writes a model in another form.
    #[pyfunction]
    fn convert(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Convert>(request)?.of_session()?;
        attended(py, listener, move |session| {
            Ok(data::merged(&mixdown_session::convert::convert(&request, session)?))
        })
    }

    /// Gives a model the vocabulary of another one.
    #[pyfunction]
    fn transplant(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Transplant>(request)?.of_session()?;
        attended(py, listener, move |session| {
            Ok(data::merged(&mixdown_session::transplant::transplant(&request, session)?))
        })
    }

    /// Whether experts can be merged, and why not; the document and its page.
    #[pyfunction]
    fn survey(py: Python<'_>, request: &str, listener: Option<Py<PyAny>>) -> PyResult<String> {
        let request = read::<Survey>(request)?.of_session()?;
        attended(py, listener, move |session| {
            let found = mixdown_session::survey::survey(&request, session)?;
            Ok(json!({
                "page": found.page(),
                "warnings": render::render_json(&found.warnings),
                "document": found.document,
            }))
        })
    }

    /// The methods that recipes can name, or one of them.
    #[pyfunction]
    fn methods(name: Option<&str>, beside: Option<&str>) -> PyResult<String> {
        let found = data::methods(name, beside.map(Path::new));
        found.map(|value| value.to_string()).map_err(|trouble| failure(&trouble))
    }
}
