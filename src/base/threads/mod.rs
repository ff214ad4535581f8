//! The threads that compute, and the one way to them: rayon's pool, or without the feature `rayon` the calling thread alone. Results are
//! the same either way.

#[cfg(feature = "rayon")]
mod pool;
#[cfg(feature = "rayon")]
pub use pool::start;
#[cfg(feature = "rayon")]
pub(crate) use pool::{broadcast, par, sort_unstable};
#[cfg(feature = "rayon")]
pub(crate) use rayon::prelude;

#[cfg(not(feature = "rayon"))]
mod single;
#[cfg(not(feature = "rayon"))]
pub use single::start;
#[cfg(not(feature = "rayon"))]
pub(crate) use single::{broadcast, par, prelude, sort_unstable};
