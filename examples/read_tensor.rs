//! Reads rows of a tensor as numbers:
//! `cargo run --example read_tensor -- fixtures/llama-tiny-q8_0.gguf token_embd.weight 0 2`
#![allow(clippy::print_stdout)]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, name, start, end] = &args[..] else { return Err("expected MODEL TENSOR START END".into()) };
    let model = weigh::open(path)?;
    // Rows of the outermost dimension. Blocks are decoded; packed weights (GPTQ, AWQ, MLX ...) are unpacked.
    let (start, end): (u64, u64) = (start.parse()?, end.parse()?);
    let rows = model.tensor(name)?.rows(start..end)?;
    let values = rows.to_f32()?;
    println!("{name}: {:?} of {}, {} bytes as stored here", rows.shape(), rows.dtype(), rows.bytes()?.len());
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    println!("mean {mean:.6}, largest magnitude {largest:.6}");
    Ok(())
}
