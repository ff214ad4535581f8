//! Weights that other libraries packed, against values made with those libraries' code or published formulas.

use std::path::Path;

use weigh::arch::packed::{Packing, Role, unpacked};
use weigh::codec;
use weigh::format;

fn fixture(name: &str) -> weigh::Reader {
    format::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

fn values(reader: &weigh::Reader, name: &str) -> Vec<f32> {
    let tensor = reader.model().tensor(name).unwrap_or_else(|| panic!("{name} is there"));
    let mut values = vec![0.0; tensor.elements().unwrap() as usize];
    (codec::codec(tensor.elem.known().unwrap()).unwrap().decode)(&reader.bytes(tensor).unwrap(), &mut values);
    values
}

#[test]
fn every_scheme_unpacks_to_the_reference() {
    let expected = fixture("packed-expected.safetensors");
    let reader = unpacked(fixture("packed")).unwrap();
    let mut names: Vec<_> = reader.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = expected.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for name in names {
        let (tensor, reference) = (reader.model().tensor(name).unwrap(), expected.model().tensor(name).unwrap());
        assert_eq!(tensor.shape, reference.shape, "{name}");
        for (i, (a, b)) in values(&reader, name).into_iter().zip(values(&expected, name)).enumerate() {
            assert!((a - b).abs() <= 2e-7 * b.abs(), "{name}[{i}]: {a}, expected {b}");
        }
    }
}

#[test]
fn any_range_reads_the_same_bytes() {
    let reader = unpacked(fixture("packed")).unwrap();
    for tensor in &reader.model().tensors {
        let all = reader.bytes(tensor).unwrap();
        let len = all.len() as u64;
        for (start, end) in [(0, len), (4, len.min(404)), (len / 2 + 1, len - 3), (len, len)] {
            if start <= end {
                let part = reader.bytes_at(tensor, start..end).unwrap();
                assert_eq!(part, &all[start as usize..end as usize], "{} {start}..{end}", tensor.name);
            }
        }
    }
}

#[test]
fn weights_count_and_bookkeeping_does_not() {
    let reader = fixture("packed");
    let packing = Packing::of(&reader);
    let model = reader.model();
    let parameters: u64 = (0..model.tensors.len()).map(|i| packing.parameters(model, i)).sum();
    let expected: u64 = fixture("packed-expected.safetensors").model().tensors.iter().map(|tensor| tensor.elements().unwrap()).sum();
    assert_eq!(parameters, expected);
    let plain: Vec<_> = (0..model.tensors.len()).filter(|&i| packing.role(i) == Role::Plain).map(|i| &model.tensors[i].name).collect();
    assert_eq!(plain, ["norm.weight"]);
    assert_eq!(packing.schemes().len(), 9, "{:?}", packing.schemes());
}

#[test]
fn packed_weights_convert_like_any_others() {
    let folder = tempfile::tempdir().unwrap();
    let (out, packed) = (folder.path().join("out/"), Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed"));
    let mut err = Vec::new();
    let arguments = ["weigh", "convert", packed.to_str().unwrap(), &format!("{}/", out.display())];
    let _ = weigh::cli::run(arguments, &mut Vec::new(), &mut err);
    assert_eq!(String::from_utf8(err).unwrap(), "");
    let (found, expected) = (format::open(&out).unwrap(), fixture("packed-expected.safetensors"));
    assert!(found.model().config.as_ref().unwrap().get("quantization_config").is_none(), "it is no longer quantised");
    for tensor in &expected.model().tensors {
        assert_eq!(found.model().tensor(&tensor.name).unwrap().shape, tensor.shape);
        for (a, b) in values(&found, &tensor.name).into_iter().zip(values(&expected, &tensor.name)) {
            assert_eq!(a, half::f16::from_f32(b).to_f32(), "{}", tensor.name);
        }
    }
}
