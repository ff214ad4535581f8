//! The library as its users see it: models, tensors and their values, operations with options.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weigh::base::bytes::Endian;
use weigh::{
    Algorithm, ConvertOptions, DType, DiffOptions, Edit, ElemType, ErrorKind, GroupBy, HashOptions, ListOptions, Model, SortBy,
    StatsOptions, Value, VerifyOptions,
};

use crate::build::{self, Gguf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Q8_0: a scale in half precision, then 32 codes. Here the scale is 0.5.
fn q8_0_block(first: i8) -> Vec<u8> {
    let mut block = 0x3800u16.to_le_bytes().to_vec();
    block.extend((0..32).map(|i| (first + i) as u8));
    block
}

/// What a program needs to use a model on several threads.
const fn is_shared<T: Send + Sync + Clone>() {}
const _: () = is_shared::<Model>();

#[test]
fn packed_weights_are_decoded() {
    let (model, expected) = (weigh::open(fixture("packed")).unwrap(), weigh::open(fixture("packed-expected.safetensors")).unwrap());
    assert_eq!(model.tensors().len(), 19);
    for tensor in model.tensors() {
        let reference = expected.tensor(tensor.name()).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (reference.shape(), ElemType::Known(DType::F32)), "{}", tensor.name());
        let (values, wanted) = (tensor.to_f32().unwrap(), reference.to_f32().unwrap());
        assert_eq!(values.len() as u64, tensor.elements());
        assert!(values.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 2e-7 * b.abs()), "{}", tensor.name());
        assert_eq!(tensor.to_f64().unwrap(), values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>(), "{}", tensor.name());
        let rows = tensor.rows(1..2).unwrap();
        let width = values.len() / tensor.shape()[0] as usize;
        assert_eq!(rows.to_f32().unwrap(), values[width..2 * width], "{}", tensor.name());
        assert_eq!(*rows.bytes().unwrap(), tensor.bytes().unwrap()[4 * width..8 * width], "{}", tensor.name());
    }
    let packing = |name: &str| model.tensor(name).unwrap().packing().map(|packing| packing.to_string());
    assert_eq!((packing("gptq4.weight").as_deref(), packing("norm.weight")), (Some("GPTQ-4"), None));
    let stored = model.as_stored();
    assert_eq!((stored.tensors().len(), stored.tensor("gptq4.qweight").unwrap().shape()), (58, &[8, 32][..]));
    assert_eq!(stored.tensor("gptq4.weight").unwrap_err().kind(), ErrorKind::Argument);
}

#[test]
fn blocks_are_decoded_and_cut_where_rows_are_asked_for() {
    let data = [q8_0_block(0), q8_0_block(-32), q8_0_block(-16)].concat();
    let gguf = Gguf::default().tensor("a", 8, &[32, 3], data.clone()).tensor("b", 8, &[96], data.clone());
    let model = weigh::open_bytes("m.gguf", gguf.build()).unwrap();
    let values: Vec<f32> = (0..32).chain(-32..0).chain(-16..16).map(|code| code as f32 * 0.5).collect();
    let a = model.tensor("a").unwrap();
    assert_eq!((a.shape(), a.elements(), a.dtype()), (&[3, 32][..], 96, ElemType::Known(DType::Q8_0)));
    assert_eq!((a.to_f32().unwrap(), &*a.bytes().unwrap()), (values.clone(), &data[..]));
    let rows = a.rows(1..).unwrap();
    assert_eq!((rows.shape(), rows.to_f32().unwrap(), &*rows.bytes().unwrap()), (&[2, 32][..], values[32..].to_vec(), &data[34..]));
    let last = rows.rows(1..=1).unwrap();
    assert_eq!((last.shape(), last.to_f32().unwrap()), (&[1, 32][..], values[64..].to_vec()), "rows of rows");
    assert!(a.rows(3..3).unwrap().to_f32().unwrap().is_empty());
    // In one dimension each element is a row: blocks are cut.
    let part = model.tensor("b").unwrap().rows(30..70).unwrap();
    assert_eq!((part.shape(), part.to_f32().unwrap()), (&[40][..], values[30..70].to_vec()));
    assert_eq!(part.bytes().unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn large_tensors_are_read_in_chunks_that_join() {
    let data: Vec<u8> = (0..140_000u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let header = r#"{"a":{"dtype":"F32","shape":[140,1000],"data_offsets":[0,560000]}}"#;
    let model = weigh::open_bytes("m.safetensors", build::safetensors(header, &data)).unwrap();
    let a = model.tensor("a").unwrap();
    assert!(a.to_f32().unwrap().into_iter().eq((0..140_000).map(|i| i as f32)));
    assert!(a.rows(60..139).unwrap().to_f64().unwrap().into_iter().eq((60_000..139_000).map(f64::from)));
}

#[test]
fn every_number_type_gives_its_values() {
    let mut data = Vec::new();
    data.extend([1.5f32, -2.0, 0.25, 8.0].map(f32::to_le_bytes).concat());
    data.extend([i64::from(i32::MAX) << 20, -7].map(i64::to_le_bytes).concat());
    data.extend(0.1f64.to_le_bytes());
    let header = r#"{"complex":{"dtype":"C64","shape":[2],"data_offsets":[0,16]},"whole":{"dtype":"I64","shape":[2,1],"data_offsets":[16,32]},
        "scalar":{"dtype":"F64","shape":[],"data_offsets":[32,40]}}"#;
    let model = weigh::open_bytes("m.safetensors", build::safetensors(header, &data)).unwrap();
    let complex = model.tensor("complex").unwrap();
    assert_eq!((complex.elements(), complex.to_f32().unwrap()), (2, vec![1.5, -2.0, 0.25, 8.0]), "real, imaginary");
    assert_eq!(complex.rows(1..2).unwrap().to_f64().unwrap(), [0.25, 8.0]);
    assert_eq!(model.tensor("whole").unwrap().to_f64().unwrap(), [2_251_799_812_636_672.0, -7.0]);
    let scalar = model.tensor("scalar").unwrap();
    assert_eq!((scalar.shape(), scalar.to_f64().unwrap(), scalar.to_f32().unwrap()), (&[][..], vec![0.1], vec![0.1]));
}

#[test]
fn bytes_of_a_big_endian_file_are_little_endian() {
    let data = [1.5f32, -2.0].map(f32::to_be_bytes).concat();
    let gguf = Gguf { endian: Endian::Big, ..Gguf::default() }.tensor("a", 0, &[1, 2], data);
    let model = weigh::open_bytes("m.gguf", gguf.build()).unwrap();
    let a = model.tensor("a").unwrap();
    assert_eq!((a.to_f32().unwrap(), &*a.bytes().unwrap()), (vec![1.5, -2.0], &[1.5f32, -2.0].map(f32::to_le_bytes).concat()[..]));
    assert_eq!(&*a.rows(1..).unwrap().bytes().unwrap(), &(-2.0f32).to_le_bytes()[..]);
}

#[test]
fn unreadable_values_are_errors_that_say_why() {
    let gguf = Gguf::default().tensor("new", 4711, &[8, 4], vec![7; 64]).f32("norm", &[8]);
    let model = weigh::open_bytes("m.gguf", gguf.build()).unwrap();
    let new = model.tensor("new").unwrap();
    let text = |error: weigh::Error| (error.kind(), error.to_string().split_once("m.gguf: ").unwrap().1.to_owned());
    let unknown = "tensor \"new\": values of type 4711 cannot be decoded";
    assert_eq!(text(new.to_f32().unwrap_err()), (ErrorKind::Unsupported, unknown.to_owned()));
    assert_eq!(text(new.rows(1..2).unwrap().bytes().unwrap_err()), (ErrorKind::Unsupported, unknown.to_owned()));
    assert_eq!(&*new.bytes().unwrap(), &[7; 64]);
    let norm = model.tensor("norm").unwrap();
    let outside = |found: &str| (ErrorKind::Argument, format!("tensor \"norm\": rows {found} are out of range: the tensor has 8"));
    assert_eq!(text(norm.rows(2..9).unwrap_err()), outside("2..9"));
    assert_eq!(text(norm.rows(..=u64::MAX).unwrap_err()), outside("0..18446744073709551615"));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = norm.rows(5..4);
    assert_eq!(text(reversed.unwrap_err()), outside("5..4"));
    let absent = model.tensor("norms").unwrap_err();
    assert_eq!((absent.kind(), absent.hint_text().as_deref()), (ErrorKind::Argument, Some("did you mean norm?")));
    let scalar = weigh::open(fixture("packed")).unwrap().as_stored();
    assert!(scalar.tensor("nv.weight_scale_2").unwrap().rows(..).unwrap_err().to_string().ends_with("a scalar has no rows"));
}

#[test]
fn bytes_in_memory_are_a_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-tiny-q8_0.gguf", "llama-tiny/model.safetensors"] {
        let path = fixture(name);
        let bytes: Arc<[u8]> = std::fs::read(&path).unwrap().into();
        let (memory, file) = (weigh::open_bytes(name, Arc::clone(&bytes)).unwrap(), weigh::open(&path).unwrap());
        assert_eq!((memory.path(), memory.format()), (Path::new(name), file.format()));
        assert!(memory.metadata().iter().eq(file.metadata().iter()));
        assert!(file.tensors().len() > 0 && memory.tensors().len() == file.tensors().len());
        for (memory, file) in memory.tensors().zip(file.tensors()) {
            assert_eq!((memory.name(), memory.dtype(), memory.shape()), (file.name(), file.dtype(), file.shape()));
            assert_eq!(memory.to_f64().unwrap(), file.to_f64().unwrap(), "{}", file.name());
            let stored = memory.bytes().unwrap();
            assert!(matches!(stored, Cow::Borrowed(_)) && bytes.as_ptr_range().contains(&stored.as_ptr()), "{} is a copy", file.name());
        }
        assert!(weigh::diff(&memory, &file, &DiffOptions::new()).unwrap().identical);
        assert_eq!(memory.hash(&HashOptions::new()).unwrap()[0].model, file.hash(&HashOptions::new()).unwrap()[0].model);
        let out = folder.path().join(path.file_name().unwrap());
        memory.convert(&out, &ConvertOptions::new().keep_names(true)).unwrap();
        let diff = weigh::diff(&memory, &weigh::open(&out).unwrap(), &DiffOptions::new()).unwrap();
        assert!(diff.tensors.iter().all(|row| row.equal == Some(true)) && diff.only_a.is_empty());
    }
    // Nothing is looked for beside bytes, even where the name is the path of a file with a config beside it.
    let path = fixture("llama-tiny/model.safetensors");
    let memory = weigh::open_bytes(&path, std::fs::read(&path).unwrap()).unwrap();
    assert!(memory.config().is_none() && weigh::open(&path).unwrap().config().is_some());
    let error = weigh::open_bytes("some.gguf", b"GGUF\x03\0\0\0").unwrap_err();
    assert_eq!((error.kind(), error.to_string().starts_with("some.gguf: ")), (ErrorKind::Truncated, true), "{error}");
}

#[test]
fn truncated_files_open_for_their_headers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let whole = Gguf::default().f32("a", &[64]).f32("b", &[64]).build();
    std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    assert_eq!(weigh::open(&path).unwrap_err().kind(), ErrorKind::Truncated);
    let model = weigh::open_headers(&path).unwrap();
    assert_eq!((model.tensors().len(), model.missing().len()), (2, 1));
    assert_eq!(model.tensor("a").unwrap().to_f32().unwrap().len(), 64);
    model.tensor("b").unwrap().to_f32().unwrap_err();
}

#[test]
fn operations_take_options() {
    let model = weigh::open(fixture("llama-tiny")).unwrap();
    assert_eq!((model.format(), model.files().len(), model.path()), (weigh::FormatId::Safetensors, 1, fixture("llama-tiny").as_path()));
    assert_eq!(model.config().unwrap()["num_hidden_layers"], 2);
    let (info, count) = (model.info().unwrap(), model.count().unwrap());
    assert_eq!((info.architecture.as_deref(), info.parameters), (Some("llama"), count.parameters));
    assert_eq!(count.parameters, Some(model.tensors().map(|tensor| tensor.elements()).sum()));

    let list = model.list(&ListOptions::new().filter("*layers.0*").exclude("*norm*").sort(SortBy::Size).reverse(true).limit(3)).unwrap();
    assert_eq!((list.tensors.len(), list.selected.tensors), (3, 7));
    assert!(list.tensors.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes));

    let (read, of) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = |bytes, total| {
        read.fetch_add(bytes, Ordering::Relaxed);
        of.store(total, Ordering::Relaxed);
    };
    let stats = model.stats(&StatsOptions::new().filter("*layers*").by(GroupBy::Layer).progress(&progress)).unwrap();
    let groups: Vec<_> = stats.groups.iter().flatten().map(|group| (group.name.as_str(), group.tensors)).collect();
    assert_eq!(groups, [("0", 9), ("1", 9)]);
    assert_eq!(read.into_inner(), of.into_inner());
    assert_eq!(model.stats(&StatsOptions::new().filter("nothing")).unwrap_err().kind(), ErrorKind::Argument);
    // Of packed weights, the values that they stand for are measured.
    let packed = weigh::open(fixture("packed")).unwrap();
    assert_eq!(packed.stats(&StatsOptions::new()).unwrap().tensors.unwrap().len(), 19);
    assert_eq!(packed.as_stored().stats(&StatsOptions::new()).unwrap().tensors.unwrap().len(), 58);

    let hashes = model.hash(&HashOptions::new().content(true)).unwrap();
    assert_eq!((hashes.len(), hashes[0].algorithm), (1, Algorithm::Sha256));
    assert!(model.hash(&HashOptions::new().algorithm(Algorithm::Blake3).model_only(true)).unwrap()[0].tensors.is_empty());

    assert!(weigh::diff(&model, &model.clone(), &DiffOptions::new()).unwrap().identical);
    let gguf = weigh::open(fixture("llama-tiny-q8_0.gguf")).unwrap();
    let diff = weigh::diff(&model, &gguf, &DiffOptions::new().filter("*attn*").tolerance(0.01)).unwrap();
    assert!(!diff.identical && diff.tolerance.unwrap().within && diff.compared.filtered);

    let verified = weigh::verify(fixture("llama-tiny"), &VerifyOptions::new().data(true).strict(true)).unwrap();
    assert!(verified.ok && verified.checked.values == 20, "{:?}", verified.findings);
}

#[test]
fn models_are_converted_and_edited() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let model = weigh::open(fixture("llama-tiny")).unwrap();
    let options = ConvertOptions::new().file_type("Q8_0").tensor_type("token_embd*", DType::F16).metadata("test.key", Value::U32(7));
    let planned = model.convert(&out, &options.clone().dry_run(true)).unwrap();
    assert!(planned.dry_run && !out.exists());
    model.convert(&out, &options.clone().verify(true)).unwrap();
    assert_eq!(model.convert(&out, &options).unwrap_err().kind(), ErrorKind::Argument, "it is there already");
    let written = weigh::open(&out).unwrap();
    assert_eq!(written.metadata().get_u64("test.key"), Some(7));
    assert_eq!(written.tensor("token_embd.weight").unwrap().dtype(), ElemType::Known(DType::F16));
    assert_eq!(written.tensor("blk.0.ffn_up.weight").unwrap().dtype(), ElemType::Known(DType::Q8_0));
    assert_eq!(model.convert(&out, &ConvertOptions::new().file_type("Q9")).unwrap_err().kind(), ErrorKind::Argument);

    let edit = Edit::new().set("general.name", Value::String("Tiny".into())).rename("test.key", "test.renamed").remove("general.license");
    let copy = folder.path().join("edited.gguf");
    assert_eq!(weigh::edit(&out, &edit.clone().dry_run(true)).unwrap().changes.len(), 4);
    weigh::edit(&out, &edit.clone().output(&copy)).unwrap();
    let edited = weigh::open(&copy).unwrap();
    assert_eq!((edited.metadata().get_str("general.name"), edited.metadata().get_u64("test.renamed")), (Some("Tiny"), Some(7)));
    assert!(weigh::diff(&written, &edited, &DiffOptions::new()).unwrap().tensors.iter().all(|row| row.equal == Some(true)));
    assert_eq!(weigh::edit(&copy, &edit).unwrap_err().kind(), ErrorKind::Argument, "there is no test.key any more");
    weigh::edit(&copy, &Edit::new().remove("test.renamed")).unwrap();
    assert_eq!(weigh::open(&copy).unwrap().metadata().get("test.renamed"), None);
    assert_eq!(weigh::recover(&copy).unwrap().recovery, "nothing");
}
