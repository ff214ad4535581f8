//! Any bytes as blocks, any numbers as rows: the same on every instruction set.

use weigh::codec::{CODECS, Codec, values_per_element};

use super::Target;

/// The first byte picks the codec, the rest are blocks. Single and double precision agree.
pub const DECODE: Target = Target { name: "decode", run: decode, seeds: decode_seeds };

/// The first byte picks the codec, the second how many blocks and whether with importance, the rest are numbers, over and over.
pub const ENCODE: Target = Target { name: "encode", run: encode, seeds: encode_seeds };

fn decode(data: &[u8]) {
    let Some((codec, bytes)) = pick(data) else { return };
    let info = codec.dtype.info();
    let (block_bytes, block_elems) = (info.block_bytes as usize, info.block_elems as usize);
    // Enough for every width of vectors and a rest.
    let most = if block_elems > 64 { 3 } else { 19 };
    let blocks = (bytes.len() / block_bytes).min(most);
    let bytes = &bytes[..blocks * block_bytes];
    let mut first = vec![0f32; blocks * block_elems * values_per_element(codec.dtype)];
    (codec.decode)(bytes, &mut first);
    let mut wide = vec![0f64; first.len()];
    codec.decode_f64(bytes, &mut wide);
    for (value, wide) in first.iter().zip(&wide) {
        // Whole numbers of 64 bits are rounded once on the way to single precision, and here twice.
        let near = (f64::from(*value) - wide).abs() <= wide.abs() / f64::from(1 << 23) && info.block_bytes == 8;
        assert!(near || *value == *wide as f32 || (value.is_nan() && wide.is_nan()), "{}: {value} and {wide}", codec.dtype);
    }
    // NaN are compared as such: which of them comes of an operation is up to the processor.
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    on_each_level(|| {
        let mut values = vec![0f32; first.len()];
        (codec.decode)(bytes, &mut values);
        assert!(values.iter().zip(&first).all(|(a, b)| same(a, b)), "{}: instruction sets differ", codec.dtype);
    });
}

fn encode(data: &[u8]) {
    let Some((codec, rest)) = pick(data) else { return };
    let (Some(encode), Some((how, rest))) = (codec.encode, rest.split_first()) else { return };
    let numbers: Vec<f32> = rest.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if numbers.is_empty() {
        return;
    }
    let most = if codec.dtype.info().block_elems > 64 { 2 } else { 19 };
    let count = codec.dtype.info().block_elems as usize * (usize::from(how >> 1) % most + 1);
    let row: Vec<f32> = numbers.iter().copied().cycle().take(count).collect();
    // Importance is finite and not negative: whoever reads it sees to that.
    let weight = |number: &f32| if number.is_finite() { number.abs() } else { 1.0 };
    let importance: Option<Vec<f32>> = (how & 1 == 1).then(|| row.iter().rev().map(weight).collect());
    let len = codec.dtype.bytes_for(count as u64).expect("whole blocks") as usize;
    let encoded = || {
        let mut bytes = vec![0; len];
        encode(&row, importance.as_deref(), &mut bytes);
        bytes
    };
    let mut first = Vec::new();
    on_each_level(|| {
        let bytes = encoded();
        assert!(first.is_empty() || bytes == first, "{}: instruction sets differ", codec.dtype);
        first = bytes;
    });
    let mut values = vec![0f32; count * values_per_element(codec.dtype)];
    (codec.decode)(&first, &mut values);
}

fn pick(data: &[u8]) -> Option<(&'static Codec, &[u8])> {
    let (pick, rest) = data.split_first()?;
    Some((&CODECS[usize::from(*pick) % CODECS.len()], rest))
}

/// Does the same once on each instruction set, where the library was built for fuzzing; once otherwise.
#[cfg(fuzzing)]
fn on_each_level(work: impl FnMut()) {
    weigh::codec::on_each_level(work);
}

#[cfg(not(fuzzing))]
fn on_each_level(mut work: impl FnMut()) {
    work();
}

fn decode_seeds() -> Vec<Vec<u8>> {
    let seed = |(pick, codec): (usize, &Codec)| {
        let bytes = codec.dtype.info().block_bytes as u32 * 3;
        let noise = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
        std::iter::once(pick as u8).chain(noise).collect()
    };
    CODECS.iter().enumerate().map(seed).collect()
}

fn encode_seeds() -> Vec<Vec<u8>> {
    let rows: [&[f32]; 4] =
        [&[0.5, -1.25, 3.0, 0.001, -0.0], &[0.0], &[f32::MAX, f32::MIN_POSITIVE, -1.0], &[f32::NAN, f32::INFINITY, 1e-40, 7.0]];
    let codecs = CODECS.iter().enumerate().filter(|(_, codec)| codec.encode.is_some());
    let seed = |(pick, _): (usize, &Codec)| {
        let numbers = rows[pick % rows.len()].iter().flat_map(|number| number.to_le_bytes());
        [pick as u8, pick as u8].into_iter().chain(numbers).collect()
    };
    codecs.map(seed).collect()
}
