//! The fuzz targets of weigh. `fuzz/run` builds them with coverage for libFuzzer; `cargo test` runs the same targets over their seeds.

/// Small files built byte by byte, as the tests have them.
#[path = "../../tests/suite/build.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod build;
pub mod targets;

/// The entry of one target: writes its seeds into the folder that `WEIGH_SEEDS` names, if it names one, before libFuzzer reads it.
#[macro_export]
macro_rules! target {
    ($target:expr) => {
        libfuzzer_sys::fuzz_target!(init: $target.write_seeds(), |data: &[u8]| ($target.run)(data));
    };
}
