//! Conversion: a complete, side-effect-free [`Plan`] first, then its streamed execution.

pub(in crate::ops) mod gguf_weights;
mod input;
mod join;
mod keep;
mod like;
pub mod loss;
pub mod manifest;
pub mod metadata;
pub mod options;
mod pack;
pub mod plan;
mod prune;
pub mod quality;
pub mod report;
pub mod run;
pub mod size;
mod split;
mod translate;
mod types;

pub use input::{prepare, prepare_unwritten};
pub use join::{JoinReport, join};
pub use options::{Options, SizeTarget};
pub use plan::{Plan, format_named, request};
pub use report::ConvertReport;
pub use run::{Progress, measure, run};
