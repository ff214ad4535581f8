//! The fuzz targets of weigh. `fuzz/run` builds them with coverage for libFuzzer; `cargo test` runs the same targets over their seeds.

/// Small files built byte by byte, as the tests have them.
#[path = "../../tests/suite/build.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod build;
/// The targets, which the tests run as well: they are beside those, so that the published package has them.
#[path = "../../tests/fuzz/mod.rs"]
pub mod targets;

/// Makes ready for a target: writes its seeds into the folder that `WEIGH_SEEDS` names, if it names one, before libFuzzer reads it.
///
/// This thread is the only one that works: handing each small input to another would cost more than the work.
pub fn prepare(target: &targets::Target) {
    target.write_seeds();
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the first pool");
}

/// The entry of one target.
#[macro_export]
macro_rules! target {
    ($target:expr) => {
        libfuzzer_sys::fuzz_target!(init: $crate::prepare(&$target), |data: &[u8]| ($target.run)(data));
    };
}
