//! Times a codec on one thread, for `benches/peers/codecs.py`: `codec_rate decode TYPE BYTES OUT`, or
//! `codec_rate encode TYPE COLUMNS F32 OUT [IMPORTANCE]`. Writes the result to OUT and prints the nanoseconds per value of the best run.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use weigh::codec::codec;

/// Total duration of the measurement.
const MEASURED: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (values, nanoseconds) = match args[..] {
        ["decode", dtype, input, output] => decode(dtype, input, output)?,
        ["encode", dtype, columns, input, output] => encode(dtype, columns.parse()?, input, output, None)?,
        ["encode", dtype, columns, input, output, importance] => encode(dtype, columns.parse()?, input, output, Some(importance))?,
        _ => return Err("expected decode TYPE BYTES OUT, or encode TYPE COLUMNS F32 OUT [IMPORTANCE]".into()),
    };
    println!("{:.5}", nanoseconds as f64 / values as f64);
    Ok(())
}

fn decode(dtype: &str, input: &str, output: &str) -> Result<(usize, u128), Box<dyn Error>> {
    let codec = codec(dtype.parse()?).ok_or("expected a type that can be read")?;
    let (info, bytes) = (codec.dtype.info(), fs::read(input)?);
    let mut values = vec![0f32; bytes.len() / info.block_bytes as usize * info.block_elems as usize];
    let best = best(|| (codec.decode)(&bytes, &mut values));
    fs::write(output, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
    Ok((values.len(), best))
}

fn encode(dtype: &str, columns: usize, input: &str, output: &str, importance: Option<&str>) -> Result<(usize, u128), Box<dyn Error>> {
    let codec = codec(dtype.parse()?).ok_or("expected a known type")?;
    let encode = codec.encode.ok_or("expected a type that can be written")?;
    let values = floats(input)?;
    let importance = importance.map(floats).transpose()?;
    let row_bytes = codec.dtype.bytes_for(columns as u64)? as usize;
    let mut bytes = vec![0; values.len() / columns * row_bytes];
    let best = best(|| {
        for (row, bytes) in values.chunks_exact(columns).zip(bytes.chunks_exact_mut(row_bytes)) {
            encode(row, importance.as_deref(), bytes);
        }
    });
    fs::write(output, bytes)?;
    Ok((values.len(), best))
}

fn floats(path: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    Ok(fs::read(path)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Returns the nanoseconds of the best of several runs.
fn best(mut work: impl FnMut()) -> u128 {
    let started = Instant::now();
    let mut best = u128::MAX;
    while best == u128::MAX || started.elapsed() < MEASURED {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_nanos());
    }
    best
}
