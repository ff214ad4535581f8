//! Quantises a model to GGUF: `cargo run --release --example quantize -- fixtures/llama-tiny out.gguf Q4_K_M`
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use weigh::ConvertOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, file_type] = &args[..] else { return Err("expected MODEL OUT TYPE".into()) };
    // Called from every writing thread.
    let written = AtomicU64::new(0);
    let progress = |bytes: u64, total: u64| {
        let written = written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        eprint!("\r{:.0} %", 100.0 * written as f64 / total.max(1) as f64);
    };
    // The output appears when it is whole; nothing that is there already is replaced without `overwrite(true)`.
    let report = weigh::open(model)?.convert(out, &ConvertOptions::new().file_type(file_type).progress(&progress))?;
    println!("\n{} tensors, {} -> {} bytes", report.tensors.len(), report.bytes_in, report.bytes_out);
    if let Some(snr) = report.quality.and_then(|quality| quality.snr_db) {
        println!("signal to noise of the quantised weights: {snr:.1} dB");
    }
    // Where a type does not fit a tensor, another is taken; with `strict(true)` that is an error.
    for lossy in &report.lossy {
        println!("{}: {}", lossy.tensor, lossy.message);
    }
    Ok(())
}
