//! Runs a single kernel on a fixed workload, for `benches/instructions.py`: `kernel decode|encode|weighted TYPE`.

use weigh::codec::codec;

/// Number of values per run.
const ROWS: usize = 8;
const COLUMNS: usize = 2048;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [work, dtype] = &args[..] else { return Err("expected decode, encode or weighted, and a type".into()) };
    let codec = codec(dtype.parse()?).ok_or("expected a known type")?;
    let encode = codec.encode.ok_or("expected a type that can be written")?;
    let values: Vec<f32> = numbers().take(ROWS * COLUMNS).collect();
    let importance: Vec<f32> = numbers().take(COLUMNS).map(|number| number.abs() + 0.01).collect();
    let row_bytes = codec.dtype.bytes_for(COLUMNS as u64)? as usize;
    // Any bytes can be decoded.
    let mut bytes: Vec<u8> = (0..ROWS * row_bytes).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    if work == "decode" {
        let mut decoded = vec![0.0; values.len()];
        for _ in 0..16 {
            (codec.decode)(std::hint::black_box(&bytes), std::hint::black_box(&mut decoded));
        }
        return Ok(());
    }
    for (row, bytes) in values.chunks_exact(COLUMNS).zip(bytes.chunks_exact_mut(row_bytes)) {
        encode(row, (work == "weighted").then_some(&importance[..]), bytes);
    }
    std::hint::black_box(bytes);
    Ok(())
}

/// Returns small numbers around zero, the same each time.
fn numbers() -> impl Iterator<Item = f32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
    })
}
