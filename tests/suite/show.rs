//! Values of tensors: slices as NumPy takes them, and how much of an array people are shown.

use serde_json::{Value, json};
use weigh::DType;
use weigh::model::Metadata;
use weigh::ops::show::{Values, show};

use crate::build::{tensor, write};

/// A tensor `x` of this type, shape and bytes; what the slice of it comes to.
fn shown<T>(
    dtype: DType,
    shape: &[u64],
    bytes: Vec<u8>,
    slice: Option<&str>,
    edges: bool,
    look: impl Fn(weigh::Result<Values<'_>>) -> T,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let format = if dtype == DType::Q8_0 { "gguf" } else { "safetensors" };
    let path = folder.path().join(format!("m.{format}"));
    write(format, &path, &[tensor("x", dtype, shape, bytes)], &Metadata::new(), None);
    look(show(&weigh::format::open(&path).unwrap(), "x", slice, edges))
}

fn values(dtype: DType, shape: &[u64], bytes: Vec<u8>, slice: &str) -> Value {
    shown(dtype, shape, bytes, Some(slice), false, |found| serde_json::to_value(found.unwrap()).unwrap()["values"].take())
}

#[test]
fn slices_match_numpy() {
    let counting = || (0..24).collect::<Vec<u8>>();
    // np.arange(24).reshape(2, 3, 4)[...]
    for (slice, expected) in [
        ("1,2", json!([20, 21, 22, 23])),
        ("1,2,3", json!(23)),
        (":,1,1", json!([5, 17])),
        ("...,3", json!([[3, 7, 11], [15, 19, 23]])),
        ("1,1:,::2", json!([[16, 18], [20, 22]])),
        ("0,0:2:,1:3:", json!([[1, 2], [5, 6]])),
        ("-1,-1,-2:", json!([22, 23])),
        ("0,3:,:", json!([])),
    ] {
        assert_eq!(values(DType::U8, &[2, 3, 4], counting(), slice), expected, "{slice}");
    }
    // Complex numbers: real and imaginary part.
    let parts: Vec<u8> = (0..8u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    assert_eq!(values(DType::C64, &[4], parts, "1:3"), json!([[2.0, 3.0], [4.0, 5.0]]));
    // Q8_0 in ggml-common.h: a scale in F16, here a half, then 32 codes.
    let blocks: Vec<u8> = (0..3u8).flat_map(|i| [vec![0x00, 0x38], (0..32).map(|j| 32 * i + j).collect()].concat()).collect();
    assert_eq!(values(DType::Q8_0, &[96], blocks.clone(), "30:34"), json!([15.0, 15.5, 16.0, 16.5]));
    assert_eq!(values(DType::Q8_0, &[96], blocks, "::45"), json!([0.0, 22.5, 45.0]));
    // Further apart than what is decoded at a time.
    let long: Vec<u8> = (0..20_000u32).flat_map(|i| (i as u16).to_le_bytes()).collect();
    assert_eq!(values(DType::U16, &[20_000], long, "3::6000"), json!([3, 6003, 12_003, 18_003]));
}

#[test]
fn long_arrays_are_cut_as_numpy_prints_them() {
    // numpy.get_printoptions(): threshold 1000, edgeitems 3.
    let cut = |shape: &[u64], edges| {
        let bytes = vec![0; shape.iter().product::<u64>() as usize];
        shown(DType::U8, shape, bytes, None, edges, |found| found.map(|found| (found.values.lengths.clone(), found.values.cut.clone())))
    };
    assert_eq!(cut(&[1000], true).unwrap(), (vec![1000], vec![false]));
    assert_eq!(cut(&[1001], true).unwrap(), (vec![6], vec![true]));
    assert_eq!(cut(&[1001], false).unwrap(), (vec![1001], vec![false]));
    assert_eq!(cut(&[6, 7, 50], true).unwrap(), (vec![6, 6, 6], vec![false, true, true]));
    let edge: Vec<u8> = (0..255).chain(0..255).chain(0..255).chain(0..255).collect();
    let edge = shown(DType::U8, &[1020], edge, None, true, |found| serde_json::to_value(found.unwrap()).unwrap()["values"].take());
    assert_eq!(edge, json!([0, 1, 2, 252, 253, 254]));
}

#[test]
fn limits_on_shown_values_hold() {
    const MOST: u64 = 1 << 20;
    let count = |slice: &str| {
        shown(DType::U8, &[MOST + 1], vec![0; MOST as usize + 1], Some(slice), false, |found| found.map(|found| found.values.numbers.len()))
    };
    assert_eq!(count(":1048576").unwrap(), MOST as usize);
    assert!(count(":").unwrap_err().to_string().contains("expected at most 1048576 values at a time, found 1048577"));
    let dimensions = |count| shown(DType::U8, &vec![1; count], vec![7], None, false, |found| found.map(|found| found.values.lengths.len()));
    assert_eq!(dimensions(64).unwrap(), 64);
    assert!(dimensions(65).unwrap_err().to_string().contains("at most 64 dimensions"));
}
