//! weigh opens the files in which model weights are published (safetensors, GGUF), shows what is in them, measures and compares the
//! weights, and converts them.
//!
//! [`open`] gives a [`Model`], which has [tensors](Model::tensors), [metadata](Model::metadata) and the operations. Opening reads headers
//! only, and files are mapped: neither time nor memory grows with the weights until their values are asked for. [`open_bytes`] opens a file
//! that is in memory already.
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
//! Read a tensor, or some of its rows, as single-precision numbers. Quantised and packed weights (GPTQ, AWQ, MLX ...) give the values that
//! they stand for:
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
//! Convert a Hugging Face folder into a GGUF of 8-bit blocks:
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
//! Reports are plain data, and `Serialize`: with the keys of the command line's JSON. Every error says which file, tensor and byte it is
//! about, as far as that is known; nothing panics on what is in a file.
//!
//! # Features
//!
//! `rayon` (default) computes on all cores; without it one thread does everything, with the same results. `cli` (default) is what the
//! program needs on top: turn it off with `default-features = false`.

#[cfg(not(unix))]
compile_error!("weigh builds on Unix systems only: Linux and macOS");

mod api;

pub use api::{
    ConvertOptions, DiffOptions, Edit, GroupBy, HashOptions, ListOptions, Model, Progress, StatsOptions, Tensor, VerifyOptions, diff, edit,
    open, open_bytes, open_headers, recover, verify,
};
pub use base::{Error, ErrorKind, Hint, Result};
pub use model::{Array, DType, ElemType, FormatId, Metadata, PackedType, PackingSummary, Shard, Value, ValueType};
pub use ops::hash::Algorithm;
pub use ops::select::SortBy;

/// The parts of [`DType::info`] and [`ElemType`].
pub mod dtype {
    pub use crate::model::dtype::{Class, DTypeInfo, Field, InlineName, Role, ScaleType, Tag};
}

/// What the operations report: structs of public fields that are `Serialize`.
pub mod report {
    pub use crate::base::finding::{Finding, Severity};
    pub use crate::ops::convert::ConvertReport;
    pub use crate::ops::count::Count;
    pub use crate::ops::diff::Diff;
    pub use crate::ops::edit::{EditReport, RecoveryReport};
    pub use crate::ops::hash::HashReport;
    pub use crate::ops::info::Info;
    pub use crate::ops::list::TensorList;
    pub use crate::ops::stats::Stats;
    pub use crate::ops::verify::Verdict as Verification;

    /// The parts of a [`ConvertReport`].
    pub mod convert {
        pub use crate::model::companion::NoteKind;
        pub use crate::ops::convert::loss::{Loss, LossKind};
        pub use crate::ops::convert::quality::Quality;
        pub use crate::ops::convert::report::{NoteRow, TensorRow};
    }

    /// The parts of a [`Count`].
    pub mod count {
        pub use crate::family::components::Component;
        pub use crate::ops::count::{ComponentCount, DTypeCount, LayerCount};
    }

    /// The parts of a [`Diff`].
    pub mod diff {
        pub use crate::ops::diff::{
            Compared, ComponentChange, Kind, MetadataRow, ShapeRow, SharedRows, TensorRow, Tolerance, Unlisted, Verdict,
        };
    }

    /// The parts of an [`EditReport`].
    pub mod edit {
        pub use crate::ops::edit::KeyChange;
    }

    /// The parts of a [`HashReport`].
    pub mod hash {
        pub use crate::ops::hash::TensorHash;
    }

    /// The parts of an [`Info`].
    pub mod info {
        pub use crate::ops::info::{AdapterFacts, FileRow, Tokenizer, UpdateRow};
    }

    /// The parts of a [`TensorList`].
    pub mod list {
        pub use crate::ops::list::{Selected, TensorRow};
    }

    /// The parts of [`Stats`].
    pub mod stats {
        pub use crate::model::TypeName;
        pub use crate::ops::stats::{Bins, GroupStats, Histogram, Linear, Log, Percentiles, Summary, TensorStats};
    }

    /// The parts of a [`Verification`].
    pub mod verify {
        pub use crate::ops::verify::Checked;
    }
}

// What follows is not part of the API, and changes without notice: it is public for this package's own program, tests, benchmarks and
// fuzz targets, which are crates of their own.
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

/// The examples of the README, which are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
