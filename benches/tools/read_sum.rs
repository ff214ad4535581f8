//! Measures the read rate of the machine: reads files on all threads and sums them as 64-bit numbers. The baseline for `stats` and `diff`.
#![allow(clippy::print_stdout)]

use rayon::prelude::*;
use weigh::source;

fn main() -> Result<(), weigh::Error> {
    let mut sum = 0u64;
    for path in std::env::args_os().skip(1) {
        let file = source::open(path.as_ref())?;
        sum = sum.wrapping_add(
            file.read(0..file.len())?
                .par_chunks(1 << 20)
                .map(|chunk| {
                    chunk.chunks_exact(8).fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap_or_default())))
                })
                .reduce(|| 0, u64::wrapping_add),
        );
    }
    println!("{sum:x}");
    Ok(())
}
