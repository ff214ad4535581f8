//! The native part of the Python module: opened models, tensors as buffers, and reports as JSON. `weigh/__init__.py` makes arrays and dictionaries of
//! them.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::create_exception;
use pyo3::exceptions::{PyBufferError, PyException, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use weigh::DType;
use weigh::{ConvertOptions, DiffOptions, GroupBy, HashOptions, StatsOptions, VerifyOptions};

create_exception!(weigh, Error, PyException, "A file cannot be read or written, or an argument is wrong: one line, and what to do about it.");

fn raised(error: weigh::Error) -> PyErr {
    let hint = error.hint_text().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    Error::new_err(format!("{error}{hint}"))
}

fn json<T: serde::Serialize>(report: &T) -> PyResult<String> {
    serde_json::to_string(report).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Calls a Python function with the bytes done and the total, at most a thousand times. Ignores its errors: a progress bar must not end the work.
fn reporter(callback: Option<Py<PyAny>>) -> impl Fn(u64, u64) + Sync {
    let done = AtomicU64::new(0);
    move |bytes, total| {
        let Some(callback) = &callback else { return };
        let before = done.fetch_add(bytes, Ordering::Relaxed);
        let step = |at: u64| u128::from(at) * 1000 / u128::from(total.max(1));
        if step(before) != step(before + bytes) {
            Python::attach(|python| {
                let _ = callback.call1(python, (before + bytes, total));
            });
        }
    }
}

/// The bytes of a tensor as a buffer, mapped from the file if they are stored unchanged.
#[pyclass(frozen)]
struct Bytes {
    bytes: Held,
}

enum Held {
    /// Borrowed from the files of the model, which is kept open with it.
    Mapped(&'static [u8], #[expect(dead_code, reason = "keeps the mapping")] weigh::Model),
    Own(Vec<u8>),
}

#[pymethods]
impl Bytes {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (start, len) = match &slf.get().bytes {
            Held::Mapped(bytes, _) => (bytes.as_ptr(), bytes.len()),
            Held::Own(bytes) => (bytes.as_ptr(), bytes.len()),
        };
        // SAFETY: the buffer lives as long as the object, to which `PyBuffer_FillInfo` takes a reference; it is marked read-only.
        let failed = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start as *mut c_void, len as ffi::Py_ssize_t, 1, flags) };
        if failed != 0 { Err(PyErr::take(slf.py()).unwrap_or_else(|| PyBufferError::new_err("no buffer"))) } else { Ok(()) }
    }
}

/// An open model.
#[pyclass(frozen, name = "NativeModel")]
struct Model {
    model: weigh::Model,
}

#[pymethods]
impl Model {
    /// Returns the names, types, packings and shapes of the tensors.
    fn tensors(&self) -> Vec<(String, String, Option<String>, Vec<u64>)> {
        let row = |tensor: weigh::Tensor<'_>| {
            let packing = tensor.packing().map(|packing| packing.to_string());
            (tensor.name().to_owned(), tensor.dtype().to_string(), packing, tensor.shape().to_vec())
        };
        self.model.tensors().map(row).collect()
    }

    /// Returns the metadata, as in the JSON of `weigh meta --full`.
    fn metadata(&self) -> PyResult<String> {
        let mut object = serde_json::Map::new();
        for (key, value) in self.model.metadata().iter() {
            object.insert(key.to_owned(), plain(value)?);
        }
        json(&object)
    }

    fn config(&self) -> PyResult<Option<String>> {
        self.model.config().map(json).transpose()
    }

    fn format(&self) -> String {
        self.model.format().to_string()
    }

    /// Returns the bytes of rows `from..to` of a tensor: as stored, or decoded to F32.
    #[pyo3(signature = (name, rows, decode))]
    fn read(&self, python: Python<'_>, name: &str, rows: Option<(u64, u64)>, decode: bool) -> PyResult<Bytes> {
        let read = || -> Result<Bytes, weigh::Error> {
            let mut tensor = self.model.tensor(name)?;
            if let Some((from, to)) = rows {
                tensor = tensor.rows(from..to)?;
            }
            if decode {
                let bytes = tensor.to_f32()?.into_iter().flat_map(f32::to_le_bytes).collect();
                return Ok(Bytes { bytes: Held::Own(bytes) });
            }
            let bytes = match tensor.bytes()? {
                std::borrow::Cow::Owned(bytes) => Held::Own(bytes),
                std::borrow::Cow::Borrowed(bytes) => {
                    // SAFETY: the bytes are those of the model's files, which the clone beside them keeps open.
                    let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
                    Held::Mapped(bytes, self.model.clone())
                }
            };
            Ok(Bytes { bytes })
        };
        python.detach(read).map_err(raised)
    }

    fn info(&self, python: Python<'_>) -> PyResult<String> {
        json(&python.detach(|| self.model.info()).map_err(raised)?)
    }

    fn count(&self, python: Python<'_>) -> PyResult<String> {
        json(&python.detach(|| self.model.count()).map_err(raised)?)
    }

    #[pyo3(signature = (filter, exclude, by, sample, progress))]
    fn stats(
        &self,
        python: Python<'_>,
        filter: Vec<String>,
        exclude: Vec<String>,
        by: Option<&str>,
        sample: Option<u64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let report = reporter(progress);
        let mut options = StatsOptions::new().progress(&report);
        options = filter.into_iter().fold(options, StatsOptions::filter);
        options = exclude.into_iter().fold(options, StatsOptions::exclude);
        if let Some(elements) = sample {
            options = options.sample(elements);
        }
        options = match by {
            None | Some("tensor") => options,
            Some("layer") => options.by(GroupBy::Layer),
            Some("component") => options.by(GroupBy::Component),
            Some("dtype") => options.by(GroupBy::DType),
            Some("model") => options.by(GroupBy::Model),
            Some(other) => return Err(PyValueError::new_err(format!("expected tensor, layer, component, dtype or model, found {other}"))),
        };
        json(&python.detach(|| self.model.stats(&options)).map_err(raised)?)
    }

    #[pyo3(signature = (content))]
    fn hash(&self, python: Python<'_>, content: bool) -> PyResult<String> {
        json(&python.detach(|| self.model.hash(&HashOptions::new().content(content))).map_err(raised)?)
    }

    #[pyo3(signature = (other, filter, exclude, quick, tolerance, progress))]
    #[expect(clippy::too_many_arguments, reason = "the keywords of the Python function")]
    fn diff(
        &self,
        python: Python<'_>,
        other: &Self,
        filter: Vec<String>,
        exclude: Vec<String>,
        quick: bool,
        tolerance: Option<f64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let report = reporter(progress);
        let mut options = DiffOptions::new().quick(quick).progress(&report);
        options = filter.into_iter().fold(options, DiffOptions::filter);
        options = exclude.into_iter().fold(options, DiffOptions::exclude);
        if let Some(tolerance) = tolerance {
            options = options.tolerance(tolerance);
        }
        json(&python.detach(|| weigh::diff(&self.model, &other.model, &options)).map_err(raised)?)
    }

    /// Runs a command of the command line on the model and returns its JSON.
    fn command(&self, python: Python<'_>, name: &str, path: &str, arguments: Vec<String>) -> PyResult<String> {
        let arguments = ["weigh", name, path, "--json"].into_iter().map(str::to_owned).chain(arguments);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = python.detach(|| weigh::cli::status(arguments, &mut out, &mut err));
        let text = |bytes| String::from_utf8(bytes).map_err(|error| PyValueError::new_err(error.to_string()));
        match status {
            0 | 1 => text(out),
            _ => Err(Error::new_err(text(err)?.trim().trim_start_matches("weigh: ").to_owned())),
        }
    }

    /// Converts the model, with options as pairs of name and value.
    #[pyo3(signature = (out, options, progress))]
    fn convert(&self, python: Python<'_>, out: PathBuf, options: Vec<(String, String)>, progress: Option<Py<PyAny>>) -> PyResult<String> {
        let report = reporter(progress);
        let mut convert = ConvertOptions::new().progress(&report);
        for (name, value) in options {
            let yes = value == "True";
            let dtype = || value.parse::<DType>().map_err(raised);
            convert = match name.as_str() {
                "type" => convert.file_type(value),
                "imatrix" => convert.imatrix(value),
                "output_tensor_type" => convert.output_tensor_type(dtype()?),
                "token_embedding_type" => convert.token_embedding_type(dtype()?),
                "adapter" => convert.adapter(value),
                "base" => convert.base(value),
                "pre" => convert.pre_tokenizer(value),
                "arch_table" => convert.arch_table(value),
                "shard_size" => convert.shard_bytes(value.parse().map_err(|_| PyValueError::new_err("shard_size: expected a number of bytes"))?),
                "pure" => convert.pure(yes),
                "leave_output_tensor" => convert.leave_output_tensor(yes),
                "allow_requantize" => convert.allow_requantize(yes),
                "keep_names" => convert.keep_names(yes),
                "stored" => convert.stored(yes),
                "strict" => convert.strict(yes),
                "force" => convert.overwrite(yes),
                "verify" => convert.verify(yes),
                "quality" => convert.quality(yes),
                "dry_run" => convert.dry_run(yes),
                other => return Err(PyValueError::new_err(format!("convert() has no option {other}"))),
            };
        }
        json(&python.detach(|| self.model.convert(out, &convert)).map_err(raised)?)
    }
}

/// Returns a metadata value as JSON, arrays in full.
fn plain(value: &weigh::Value) -> PyResult<serde_json::Value> {
    use weigh::Value;
    let number = |value: f64| serde_json::Number::from_f64(value).map_or(serde_json::Value::Null, serde_json::Value::Number);
    Ok(match value {
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::F32(value) => number(f64::from(*value)),
        Value::F64(value) => number(*value),
        Value::Array(array) => {
            let values: PyResult<Vec<_>> = array.iter().map(|value| plain(&value.map_err(raised)?)).collect();
            values?.into()
        }
        value => value.as_i64().map(Into::into).or_else(|| value.as_u64().map(Into::into)).unwrap_or_default(),
    })
}

/// Opens a model.
#[pyfunction]
fn open_model(python: Python<'_>, path: PathBuf) -> PyResult<Model> {
    let model = python.detach(|| weigh::open(path)).map_err(raised)?;
    Ok(Model { model })
}

/// Checks a model.
#[pyfunction]
#[pyo3(signature = (path, data, manifest, progress))]
fn verify_model(python: Python<'_>, path: PathBuf, data: bool, manifest: Option<PathBuf>, progress: Option<Py<PyAny>>) -> PyResult<String> {
    let report = reporter(progress);
    let mut options = VerifyOptions::new().data(data).progress(&report);
    if let Some(manifest) = manifest {
        options = options.manifest(manifest);
    }
    json(&python.detach(|| weigh::verify(path, &options)).map_err(raised)?)
}

/// Runs the command line and returns its exit status.
#[pyfunction]
fn run(python: Python<'_>, arguments: Vec<Vec<u8>>) -> u8 {
    use std::os::unix::ffi::OsStringExt;
    let arguments = arguments.into_iter().map(|argument| std::ffi::OsString::from_vec(argument));
    let arguments: Vec<_> = arguments.collect();
    python.detach(|| weigh::cli::status(arguments, &mut std::io::stdout().lock(), &mut std::io::stderr()))
}

#[pymodule]
fn _weigh(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<Error>())?;
    module.add_class::<Model>()?;
    module.add_class::<Bytes>()?;
    module.add_function(wrap_pyfunction!(open_model, module)?)?;
    module.add_function(wrap_pyfunction!(verify_model, module)?)?;
    module.add_function(wrap_pyfunction!(run, module)?)?;
    Ok(())
}
