//! Measures the decoding and encoding throughput of each type on one thread. `cargo bench --bench codec -- Q4_K` runs a subset.

use divan::Bencher;
use divan::counter::ItemsCount;
use weigh::DType;
use weigh::codec::{CODECS, Codec, values_per_element};

/// Number of values per run: input and output stay in the L2 cache, so that memory bandwidth does not matter.
const ROWS: usize = 16;
const COLUMNS: usize = 2048;

fn main() {
    divan::main();
}

/// A type, with its name in the dtype table.
struct Type(&'static Codec);

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.dtype.fmt(f)
    }
}

fn readable() -> impl Iterator<Item = Type> {
    CODECS.iter().map(Type)
}

fn writable() -> impl Iterator<Item = Type> {
    CODECS.iter().filter(|codec| codec.encode.is_some()).map(Type)
}

fn len(dtype: DType) -> usize {
    let info = dtype.info();
    ROWS * COLUMNS / info.block_elems as usize * info.block_bytes as usize
}

/// Returns numbers distributed like weights: small, roughly normal, from a fixed seed.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.03).collect()
}

#[divan::bench(args = readable())]
fn decode(bencher: Bencher, Type(codec): &Type) {
    let mut bytes = vec![0; len(codec.dtype)];
    if let Some(encode) = codec.encode {
        for (row, bytes) in numbers(ROWS * COLUMNS).chunks(COLUMNS).zip(bytes.chunks_mut(len(codec.dtype) / ROWS)) {
            encode(row, None, bytes);
        }
    }
    let mut values = vec![0f32; ROWS * COLUMNS * values_per_element(codec.dtype)];
    bencher.counter(ItemsCount::new(values.len())).bench_local(|| (codec.decode)(divan::black_box(&bytes), divan::black_box(&mut values)));
}

fn encode_rows(bencher: Bencher, codec: &Codec, importance: Option<&[f32]>) {
    let Some(encode) = codec.encode else { return };
    let rows = numbers(ROWS * COLUMNS);
    let mut bytes = vec![0; len(codec.dtype)];
    let row_bytes = bytes.len() / ROWS;
    bencher.counter(ItemsCount::new(rows.len())).bench_local(|| {
        for (row, bytes) in divan::black_box(&rows).chunks(COLUMNS).zip(bytes.chunks_mut(row_bytes)) {
            encode(row, importance, bytes);
        }
    });
}

#[divan::bench(args = writable(), sample_count = 10)]
fn encode(bencher: Bencher, Type(codec): &Type) {
    encode_rows(bencher, codec, None);
}

#[divan::bench(args = writable().filter(|Type(codec)| codec.dtype.is_quantised()), sample_count = 10)]
fn encode_weighted(bencher: Bencher, Type(codec): &Type) {
    let importance: Vec<f32> = numbers(COLUMNS).iter().map(|x| x.abs() + 0.01).collect();
    encode_rows(bencher, codec, Some(&importance));
}
