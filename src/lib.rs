//! Inspect, measure, compare, check, convert and quantise model weight files (safetensors, GGUF, PyTorch checkpoints, NumPy arrays).
//!
//! [`open`] returns a [`Model`] with [tensors](Model::tensors), [metadata](Model::metadata) and the operations. Opening reads headers only,
//! and files are memory-mapped: time and memory do not grow with the weights until values are read. [`open_bytes`] opens a file in memory.
//!
//! List the tensors of a model, whatever its format:
//!
//! ```
//! let model = weigh::open("fixtures/llama-tiny-q8_0.gguf")?;
//! for tensor in model.tensors() {
//!     println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
//! }
//! assert_eq!(model.metadata().get_str("general.architecture"), Some("llama"));
//! # Ok::<(), weigh::Error>(())
//! ```
//!
//! Read a tensor, or some of its rows, in single precision. Quantised and packed weights (GPTQ, AWQ, MLX ...) are decoded:
//!
//! ```
//! let model = weigh::open("fixtures/llama-tiny-q8_0.gguf")?;
//! let embeddings = model.tensor("token_embd.weight")?;
//! let values: Vec<f32> = embeddings.to_f32()?;
//! assert_eq!(values.len() as u64, embeddings.elements());
//!
//! let first_two = embeddings.rows(..2)?;
//! assert_eq!(first_two.shape(), [2, embeddings.shape()[1]]);
//! assert_eq!(first_two.to_f32()?, values[..2 * embeddings.shape()[1] as usize]);
//! # Ok::<(), weigh::Error>(())
//! ```
//!
//! Convert a Hugging Face folder to a Q8_0 GGUF:
//!
//! ```
//! use weigh::ConvertOptions;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("model.gguf");
//! let model = weigh::open("fixtures/llama-tiny")?;
//! let report = model.convert(&out, &ConvertOptions::new().file_type("Q8_0"))?;
//! println!("{} -> {} bytes", report.bytes_in, report.bytes_out);
//! # assert_eq!(weigh::open(&out)?.format(), weigh::FormatId::Gguf);
//! # Ok::<(), weigh::Error>(())
//! ```
//!
//! Reports are plain data and `Serialize`, with the same keys as the command line's JSON. Errors name the file, tensor and byte offset where
//! known; no file contents cause a panic.
//!
//! # Features
//!
//! `rayon` (default) uses all cores; without it a single thread computes the same results. `remote` (default) reads addresses (`https://`,
//! `hf://ORG/NAME`, `s3://`) as well as files. `cli`, `tui` and `catalog` (default) add what only the program needs: its
//! commands, the browser and tables of many models; `default-features = false` turns them off.

#[cfg(not(unix))]
compile_error!("weigh builds on Unix systems only: Linux and macOS");

mod api;

pub use api::{
    ConvertOptions, DiffOptions, Edit, FitOptions, GroupBy, HashOptions, ListOptions, Model, Progress, StatsOptions, Tensor, VerifyOptions,
    diff, edit, join, open, open_bytes, open_headers, recover, verify,
};
pub use base::{Error, ErrorKind, Hint, Result};
pub use model::{Array, DType, ElemType, FormatId, Metadata, PackedType, PackingSummary, Shard, Value, ValueType};
pub use ops::hash::Algorithm;
pub use ops::select::SortBy;
pub use quant::pack::Scales;

/// Types used by [`DType::info`] and [`ElemType`].
pub mod dtype {
    pub use crate::model::dtype::{Class, DTypeInfo, Field, InlineName, Role, ScaleType, Tag};
}

/// Reports of the operations.
///
/// They implement `Serialize`, with the keys of the command line's JSON, and have public fields. Each operation's report is listed here; the
/// modules hold the types of its fields.
pub mod report {
    pub use crate::base::finding::{Finding, Severity};
    pub use crate::ops::convert::{ConvertReport, JoinReport};
    pub use crate::ops::count::Count;
    pub use crate::ops::diff::Diff;
    pub use crate::ops::edit::{EditReport, RecoveryReport};
    pub use crate::ops::fit::Fit;
    pub use crate::ops::hash::HashReport;
    pub use crate::ops::info::Info;
    pub use crate::ops::list::TensorList;
    pub use crate::ops::stats::Stats;
    pub use crate::ops::verify::Verification;

    /// Types used by a [`ConvertReport`].
    pub mod convert {
        pub use crate::model::companion::NoteKind;
        pub use crate::ops::convert::loss::{Loss, LossKind};
        pub use crate::ops::convert::quality::Quality;
        pub use crate::ops::convert::report::{NoteRow, PartFacts, TensorRow};
        pub use crate::ops::part::Part;
    }

    /// Types used by a [`Count`].
    pub mod count {
        pub use crate::family::components::Component;
        pub use crate::ops::count::{ComponentCount, DTypeCount, LayerCount};
    }

    /// Types used by a [`Diff`].
    pub mod diff {
        pub use crate::ops::diff::{
            Compared, ComponentChange, Kind, MetadataRow, ShapeRow, SharedRows, TensorRow, Tolerance, Unlisted, Verdict,
        };
    }

    /// Types used by an [`EditReport`].
    pub mod edit {
        pub use crate::ops::edit::KeyChange;
    }

    /// Types used by a [`Fit`].
    pub mod fit {
        pub use crate::ops::fit::vllm::Paged;
        pub use crate::ops::fit::{TypeRow, Weights};
    }

    /// Types used by a [`HashReport`].
    pub mod hash {
        pub use crate::ops::hash::{Outcome, TensorHash, Verdict};
    }

    /// Types used by an [`Info`].
    pub mod info {
        pub use crate::ops::fit::Summary;
        pub use crate::ops::info::{AdapterFacts, FileRow, Tokenizer, UpdateRow};
        pub use crate::ops::origin::{NamedFileType, Origin};
        pub use crate::view::lora::Form;
    }

    /// Types used by a [`TensorList`].
    pub mod list {
        pub use crate::ops::list::{Selected, TensorRow};
    }

    /// Types used by [`Stats`].
    pub mod stats {
        pub use crate::model::TypeName;
        pub use crate::ops::stats::{Bins, GroupStats, Histogram, Linear, Log, Percentiles, Summary, TensorStats};
    }

    /// Types used by a [`Verification`].
    pub mod verify {
        pub use crate::ops::verify::Checked;
    }
}

// The following modules are not part of the API and change without notice. They are public for this package's binary, tests, benchmarks and
// fuzz targets, which are separate crates.
#[doc(hidden)]
pub mod base;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod family;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod quant;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod source;
#[doc(hidden)]
pub mod tokenizer;
#[doc(hidden)]
pub mod view;
#[doc(hidden)]
pub mod write;

/// Runs the examples of the README and of the library's guide as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/library.md")]
struct Pages;
