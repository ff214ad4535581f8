//! Compares two models in any formats: `cargo run --example compare -- fixtures/llama-tiny fixtures/llama-tiny-q8_0.gguf`
#![allow(clippy::print_stdout)]

use std::error::Error;

use weigh::DiffOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &args[..] else { return Err("expected two models".into()) };
    let diff = weigh::diff(&weigh::open(a)?, &weigh::open(b)?, &DiffOptions::new())?;
    println!("{}", diff.verdict.text);
    // Tensors are matched by canonical name; the relative error is that of the values.
    let mut rows: Vec<_> = diff.tensors.iter().filter(|row| row.equal == Some(false)).collect();
    rows.sort_by(|a, b| b.relative_rmse.unwrap_or(f64::INFINITY).total_cmp(&a.relative_rmse.unwrap_or(f64::INFINITY)));
    for row in rows.iter().take(10) {
        println!("{:<40} {} {} {:.2e}", row.name, row.dtype_a, row.dtype_b, row.relative_rmse.unwrap_or(f64::NAN));
    }
    // A report can be written as JSON too: it has the keys of `weigh diff --json`.
    println!("{} bytes of JSON", serde_json::to_string(&diff)?.len());
    Ok(())
}
