//! Random models written and read again: the same tensors, bytes and metadata, whatever the format, byte order and alignment.

use std::collections::BTreeMap;
use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use weigh::DType;
use weigh::base::bytes::Endian;
use weigh::format::gguf::swap;
use weigh::model::{Array, Metadata, Value, ValueType};

use crate::build::{Gguf, tensor, write};

/// A type and a shape that it can have, outermost first: scalars, empty tensors and whole blocks among them.
fn typed_shape(allowed: fn(DType) -> bool) -> impl Strategy<Value = (DType, Vec<u64>)> {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|dtype| allowed(*dtype)).collect();
    (proptest::sample::select(types), vec(0u64..4, 0..=4)).prop_map(|(dtype, mut shape)| {
        let block = dtype.info().block_elems;
        if block > 1 {
            match shape.last_mut() {
                Some(row) => *row *= block,
                None => shape.push(block),
            }
        }
        (dtype, shape)
    })
}

/// Named tensors with bytes made from a seed.
fn tensors(allowed: fn(DType) -> bool) -> impl Strategy<Value = BTreeMap<String, (DType, Vec<u64>, u8)>> {
    proptest::collection::btree_map(
        "[a-z\"\\\\\u{e9}\n]{1,9}",
        (typed_shape(allowed), any::<u8>()).prop_map(|((dtype, shape), seed)| (dtype, shape, seed)),
        0..6,
    )
}

fn bytes_of(dtype: DType, shape: &[u64], seed: u8) -> Vec<u8> {
    let len = dtype.bytes_for_shape(shape).unwrap();
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// A value of every type, arrays of every type, empty ones among them. NaN is not equal to itself, so it has a test of its own.
fn value() -> impl Strategy<Value = Value> {
    fn scalar(value_type: ValueType, seed: u64) -> Value {
        match value_type {
            ValueType::U8 => Value::U8(seed as u8),
            ValueType::I8 => Value::I8(seed as i8),
            ValueType::U16 => Value::U16(seed as u16),
            ValueType::I16 => Value::I16(seed as i16),
            ValueType::U32 => Value::U32(seed as u32),
            ValueType::I32 => Value::I32(seed as i32),
            ValueType::F32 => Value::F32(seed as f32 / 3.0),
            ValueType::Bool => Value::Bool(seed % 2 == 1),
            ValueType::String => Value::String(format!("{seed:x}\0\u{fc}")),
            ValueType::U64 => Value::U64(seed),
            ValueType::I64 => Value::I64(seed as i64),
            ValueType::F64 => Value::F64(-(seed as f64) / 7.0),
            ValueType::Array => Value::Array(Array::new(ValueType::U16, vec![Value::U16(seed as u16)])),
        }
    }
    let types = proptest::sample::select(ValueType::ALL.to_vec());
    (types, any::<bool>(), vec(any::<u64>(), 0..4), any::<u64>()).prop_map(|(value_type, in_array, seeds, seed)| {
        if in_array {
            Value::Array(Array::new(value_type, seeds.into_iter().map(|seed| scalar(value_type, seed)).collect()))
        } else {
            scalar(value_type, seed)
        }
    })
}

fn metadata(entries: BTreeMap<String, Value>) -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        metadata.set(key, value);
    }
    metadata
}

fn equal(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a == b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gguf(
        tensors in tensors(|dtype| dtype.info().ggml_id.is_some()),
        entries in proptest::collection::btree_map("[a-z.]{1,9}", value(), 0..6),
        alignment in proptest::option::of(proptest::sample::select(vec![8u32, 16, 64, 256, 4096])),
        shard_bytes in proptest::option::of(1u64..2000),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut metadata = metadata(entries);
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", Value::U32(alignment));
        }
        let model: Vec<_> = tensors.iter().map(|(name, (dtype, shape, seed))| tensor(name, *dtype, shape, bytes_of(*dtype, shape, *seed))).collect();
        let paths = write("gguf", &folder.path().join("m.gguf"), &model, &metadata, shard_bytes);
        let reader = weigh::format::open(&paths[0]).unwrap();
        let mut found = reader.model().metadata.clone();
        for key in ["split.no", "split.count", "split.tensors.count"] {
            found.remove(key);
        }
        prop_assert!(equal(&found, &metadata));
        prop_assert_eq!(reader.model().tensors.len(), model.len());
        for (out, bytes) in &model {
            let read = reader.model().tensor(&out.name).unwrap();
            prop_assert_eq!((&read.shape, read.elem, read.len_bytes), (&out.shape, out.elem, Some(out.len_bytes)));
            prop_assert_eq!(&*reader.bytes(read).unwrap(), &bytes[..]);
            prop_assert_eq!(read.offset_bytes % if read.shard == 0 { u64::from(alignment.unwrap_or(32)) } else { 32 }, 0);
        }
        // Written again from what was read, the file is the same.
        if paths.len() == 1 {
            let again = write("gguf", &folder.path().join("again.gguf"), &model, &reader.model().metadata, None);
            prop_assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&again[0]).unwrap());
        }
        let (mut findings, error) = crate::judge::judge_path(&paths[0]);
        prop_assert!(error.is_none(), "{:?}", error);
        findings.retain(|finding| finding.code != "gguf-nested");
        prop_assert!(findings.is_empty(), "{:?}", findings);
    }

    #[test]
    fn big_endian_gguf(tensors in tensors(|dtype| dtype.info().ggml_id.is_some()), version in 2u32..=3, exponent in 3u32..=12) {
        let mut gguf = Gguf { endian: Endian::Big, version, alignment: 1 << exponent, ..Gguf::default() }.key_u32("general.alignment", 1 << exponent);
        for (name, (dtype, shape, seed)) in &tensors {
            let dims: Vec<u64> = shape.iter().rev().copied().collect();
            let mut bytes = bytes_of(*dtype, shape, *seed);
            swap::swap(*dtype, &mut bytes);
            gguf = gguf.tensor(name, dtype.info().ggml_id.unwrap(), &dims, bytes);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        fs::write(&path, gguf.build()).unwrap();
        let reader = weigh::format::open(&path).unwrap();
        for (name, (dtype, shape, seed)) in &tensors {
            let read = reader.model().tensor(name).unwrap();
            prop_assert_eq!(&read.shape, shape);
            prop_assert_eq!(&*reader.bytes(read).unwrap(), &bytes_of(*dtype, shape, *seed)[..]);
        }
    }

    #[test]
    fn safetensors(
        tensors in tensors(|dtype| dtype.info().safetensors.is_some()),
        entries in proptest::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..4),
        shard_bytes in proptest::option::of(1u64..100),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let metadata = metadata(entries.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect());
        let model: Vec<_> = tensors.iter().map(|(name, (dtype, shape, seed))| tensor(name, *dtype, shape, bytes_of(*dtype, shape, *seed))).collect();
        let paths = write("safetensors", &folder.path().join("m.safetensors"), &model, &metadata, shard_bytes);
        let reader = weigh::format::open(&paths[0]).unwrap();
        prop_assert!(equal(&reader.model().metadata, &metadata));
        for (out, bytes) in &model {
            let read = reader.model().tensor(&out.name).unwrap();
            prop_assert_eq!((&read.shape, read.elem), (&out.shape, out.elem));
            prop_assert_eq!(&*reader.bytes(read).unwrap(), &bytes[..]);
        }
        let (findings, error) = crate::judge::judge_path(&paths[0]);
        prop_assert!(error.is_none() && findings.is_empty(), "{:?} {:?}", error, findings);
        // The crate reads every file that is written, and finds the same in it.
        let mut seen = 0;
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
            let bytes = fs::read(path).unwrap();
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, view) in theirs.iter() {
                let (dtype, shape, seed) = &tensors[name];
                prop_assert_eq!(view.dtype().to_string(), dtype.name());
                prop_assert_eq!(view.data(), &bytes_of(*dtype, shape, *seed)[..]);
                seen += 1;
            }
        }
        prop_assert_eq!(seen, model.len());
    }

    /// Headers near the edge of what is sound: the crate and this reader agree on which are. (But for types that neither knows, which the
    /// crate refuses and this reader lists.)
    #[test]
    fn the_safetensors_crate_gives_the_same_verdict(
        entries in vec(("[ab]", proptest::sample::select(vec!["F32", "U8", "F4", "F16", ""]), vec(0u64..4, 0..3), 0u64..9, 0u64..9), 0..3),
        len in 0usize..12,
        ending in proptest::sample::select(vec!["}", "} ", "}\n", "},", "", "}}"]),
        chained in any::<bool>(),
    ) {
        let mut at = 0;
        let mut names = std::collections::HashSet::new();
        let texts: Vec<String> = entries.iter().filter(|(name, ..)| names.insert(name.clone())).map(|(name, dtype, shape, begin, end)| {
            let bits = match *dtype { "F32" => 32, "F16" => 16, "F4" => 4, _ => 8 };
            let size = shape.iter().product::<u64>() * bits / 8;
            let (begin, end) = if chained { (at, at + size) } else { (*begin, *end) };
            at = end;
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
        }).collect();
        let header = format!("{{{}{ending}", texts.join(","));
        let bytes = crate::build::safetensors(&header, &vec![0; if chained { at as usize } else { len }]);
        let theirs = safetensors::SafeTensors::deserialize(&bytes).is_ok();
        let (findings, error) = crate::judge::judge("m.safetensors", &bytes);
        prop_assert_eq!(theirs, error.is_none(), "{} {:?}", header, error);
        prop_assert_eq!(theirs, !findings.iter().any(|f| f.severity == weigh::base::finding::Severity::Error), "{}", header);
    }
}

#[test]
fn files_of_the_safetensors_crate_are_read() {
    let data: Vec<u8> = (0..24).collect();
    let view = |dtype, shape: &[usize], range: std::ops::Range<usize>| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &data[range]).unwrap()
    };
    let views = [("w", view(safetensors::Dtype::F32, &[2, 2], 0..16)), ("\u{fc}\"", view(safetensors::Dtype::U8, &[3], 16..19))];
    let info = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(info)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    fs::write(&path, bytes).unwrap();
    let reader = weigh::format::open(&path).unwrap();
    let model = reader.model();
    assert_eq!(model.metadata.get_str("format"), Some("pt"));
    assert_eq!(*reader.bytes(model.tensor("w").unwrap()).unwrap(), data[..16]);
    assert_eq!(*reader.bytes(model.tensor("\u{fc}\"").unwrap()).unwrap(), data[16..19]);
}

#[test]
fn the_bits_of_nan_survive() {
    let nan = f32::from_bits(0x7fa0_1234);
    let mut metadata = Metadata::new();
    metadata.set("one", Value::F32(nan));
    metadata
        .set("some", Value::Array(Array::new(ValueType::F64, vec![Value::F64(f64::from_bits(0x7ff4_0000_dead_beef)), Value::F64(-0.0)])));
    let folder = tempfile::tempdir().unwrap();
    let first = write("gguf", &folder.path().join("a.gguf"), &[], &metadata, None);
    let read = weigh::format::open(&first[0]).unwrap();
    assert!(matches!(read.model().metadata.get("one"), Some(Value::F32(v)) if v.to_bits() == nan.to_bits()));
    let second = write("gguf", &folder.path().join("b.gguf"), &[], &read.model().metadata, None);
    assert_eq!(fs::read(&first[0]).unwrap(), fs::read(&second[0]).unwrap());
}
