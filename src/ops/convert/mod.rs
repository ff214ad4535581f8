//! Conversion: a complete, side-effect-free [`Plan`] first, then its streamed execution.

mod input;
mod join;
mod keep;
pub mod loss;
pub mod manifest;
pub mod metadata;
pub mod options;
mod pack;
pub mod plan;
pub mod quality;
pub mod report;
pub mod run;
mod split;

mod translate;
mod types;

pub use input::prepare;
pub use join::{JoinReport, join};
pub use options::Options;
pub use pack::request;
pub use plan::{Plan, format_named};
pub use report::ConvertReport;
pub use run::{Progress, run};
