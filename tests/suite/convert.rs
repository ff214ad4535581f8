//! Conversion: what is written is what was there, in the types that were asked for; and what must not be done is refused.

use std::fs;
use std::path::{Path, PathBuf};

use weigh::DType;
use weigh::model::{Array, FormatId, Metadata, Value, ValueType};
use weigh::ops::convert::loss::LossKind;
use weigh::ops::convert::{self, ConvertReport, Options, Plan};
use weigh::quant::recipe::TensorType;

use crate::build::{Gguf, format, tensor, write};

/// A model of many types in a file of this format.
fn plain(id: &str, path: &Path) -> PathBuf {
    let bytes = |len: usize| (0..len).map(|i| (i * 37 % 251) as u8).collect::<Vec<u8>>();
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        tensor("scalar", DType::F32, &[], floats(&[1.5])),
        tensor("empty", DType::F32, &[0, 4], Vec::new()),
        tensor("f32", DType::F32, &[3, 5], bytes(60)),
        tensor("bf16", DType::BF16, &[7, 2, 3], bytes(84)),
        tensor("i64", DType::I64, &[3], bytes(24)),
        tensor("f64", DType::F64, &[2, 2], bytes(32)),
        tensor("f16", DType::F16, &[1, 9], bytes(18)),
        tensor("i8", DType::I8, &[5], bytes(5)),
    ];
    if id == "gguf" {
        tensors.push(tensor("q8_0", DType::Q8_0, &[2, 64], bytes(2 * 2 * 34)));
    }
    let mut metadata = Metadata::new();
    if id == "gguf" {
        for (key, value) in [
            ("z.first", Value::U64(u64::MAX)),
            ("general.name", Value::String("a \"name\"\n\u{0}".into())),
            ("a.nan", Value::F32(f32::from_bits(0x7fc0_1234))),
            ("a.empty", Value::Array(Array::new(ValueType::I16, Vec::new()))),
            ("a.strings", Value::Array(Array::strings(["x", ""]))),
            ("a.fake", Value::String(r#"{"type":"u32","value":1}"#.into())),
            ("a.bool", Value::Bool(true)),
            ("a.f64", Value::F64(1e300)),
            ("general.alignment", Value::U32(64)),
        ] {
            metadata.insert(key, value).unwrap();
        }
    } else {
        for (key, value) in [("z", "1"), ("format", "pt"), ("a", r#"{"type":"u32","value":7}"#), ("b", r#"{"type":"u32", "value":7}"#)] {
            metadata.insert(key, Value::String(value.into())).unwrap();
        }
    }
    write(id, path, &tensors, &metadata, None);
    path.to_path_buf()
}

fn keep() -> Options {
    Options { keep_names: true, ..Options::default() }
}

fn typed(name: &str) -> Options {
    Options { target: Some(name.parse().unwrap()), ..keep() }
}

fn convert(input: &Path, output: &Path, options: &Options) -> weigh::Result<ConvertReport> {
    let reader = weigh::format::open(input)?;
    let plan = Plan::new(&reader, output, options)?;
    convert::run(&reader, &plan, &|_| {})
}

fn refused(input: &Path, output: &Path, options: &Options) -> String {
    let existed = output.exists();
    let error = convert(input, output, options).unwrap_err().to_string();
    assert_eq!(output.exists(), existed, "nothing is written: {error}");
    error
}

/// Names, types, shapes and bytes.
type Contents = Vec<(String, String, Vec<u64>, Vec<u8>)>;

fn contents(path: &Path) -> Contents {
    let reader = weigh::format::open(path).unwrap();
    let tensors = reader.model().tensors.iter();
    tensors.map(|t| (t.name.clone(), t.elem.to_string(), t.shape.clone(), reader.bytes(t).unwrap().into_owned())).collect()
}

fn sorted(mut contents: Contents) -> Contents {
    contents.sort();
    contents
}

#[test]
fn there_and_back_is_the_same_from_either_side() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let first = plain("safetensors", &at("a.safetensors"));
    // Nothing tells an architecture here, so names are kept unasked.
    let report = convert(&first, &at("b.gguf"), &Options::default()).unwrap();
    assert_eq!(report.remarks[0].name, "config.json");
    convert(&at("b.gguf"), &at("c.safetensors"), &keep()).unwrap();
    assert_eq!(contents(&first), contents(&at("b.gguf")));
    assert_eq!(fs::read(&first).unwrap(), fs::read(at("c.safetensors")).unwrap());

    let first = plain("gguf", &at("d.gguf"));
    let only_f16 = Options { tensor_types: vec![], ..keep() };
    convert(&first, &at("same.gguf"), &only_f16).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(at("same.gguf")).unwrap());
    let report = convert(&first, &at("e.safetensors"), &keep()).unwrap();
    // What safetensors does not hold becomes F16, and the plan says so.
    let unheld: Vec<_> = report.lossy.iter().map(|lossy| (lossy.tensor.as_str(), lossy.kind, lossy.to.as_str())).collect();
    assert_eq!(unheld[0], ("q8_0", LossKind::UnsupportedDtype, "F16"));
    convert(&at("e.safetensors"), &at("f.gguf"), &keep()).unwrap();
    let (before, after) = (weigh::format::open(&first).unwrap(), weigh::format::open(&at("f.gguf")).unwrap());
    let shown = |metadata: &Metadata| metadata.iter().map(|(key, value)| format!("{key} {value:?}")).collect::<Vec<_>>();
    // NaN is not equal to itself, but prints the same; its bits are tested beside the code.
    let typed = |metadata: &Metadata| metadata.iter().map(|(_, value)| value.value_type()).collect::<Vec<_>>();
    assert_eq!(typed(&before.model().metadata), typed(&after.model().metadata));
    let (before, after) = (shown(&before.model().metadata), shown(&after.model().metadata));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after).filter(|(line, _)| !line.contains("Array")) {
        assert_eq!(before, after);
    }
}

#[test]
fn shards_are_merged_and_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let first = plain("safetensors", &at("a.safetensors"));
    let sharded = Options { shard_bytes: Some(100), ..keep() };
    let report = convert(&first, &at("hub"), &sharded).unwrap();
    assert!(report.output.len() > 3 && report.output.last().unwrap().ends_with("model.safetensors.index.json"));
    assert!(at("hub/model-00001-of-00003.safetensors").exists(), "{:?}", report.output);
    convert(&at("hub"), &at("split.gguf"), &sharded).unwrap();
    assert!(at("split-00001-of-00003.gguf").exists());
    convert(&at("split-00002-of-00003.gguf"), &at("whole.gguf"), &keep()).unwrap();
    assert_eq!(sorted(contents(&at("whole.gguf"))), sorted(contents(&first)));
    // The folder again, in one file: nothing of the old set is left that a reader would take for a part.
    let report = convert(&at("whole.gguf"), &at("hub"), &Options { force: true, ..keep() }).unwrap();
    assert_eq!(report.output, [at("hub/model.safetensors")]);
    let left: Vec<_> = fs::read_dir(at("hub")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["model.safetensors"]);
}

#[test]
fn a_big_endian_file_becomes_a_little_endian_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let big = Gguf { endian: weigh::base::bytes::Endian::Big, ..Gguf::default() };
    let data = [1.5f32, -2.0].iter().flat_map(|value| value.to_be_bytes()).collect();
    fs::write(at("big.gguf"), big.key_u32("n", 7).tensor("t", 0, &[2], data).build()).unwrap();
    convert(&at("big.gguf"), &at("little.gguf"), &keep()).unwrap();
    let reader = weigh::format::open(&at("little.gguf")).unwrap();
    assert_eq!(reader.endian(), weigh::base::bytes::Endian::Little);
    assert_eq!(reader.bytes(&reader.model().tensors[0]).unwrap().as_ref(), [1.5f32, -2.0].map(f32::to_le_bytes).concat());
}

#[test]
fn values_that_do_not_fit_are_counted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let values = [1.0f32, 70000.0, -1e30, 1e-9, -1e-30, 0.0, f32::INFINITY, f32::NAN];
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    write("safetensors", &at("a.safetensors"), &[tensor("w.weight", DType::F32, &[2, 4], bytes)], &Metadata::new(), None);
    let report = convert(&at("a.safetensors"), &at("b.safetensors"), &typed("F16")).unwrap();
    let counts: Vec<_> = report.lossy.iter().map(|lossy| (lossy.kind, lossy.values)).collect();
    assert_eq!(counts, [(LossKind::Overflow, Some(2)), (LossKind::Flush, Some(2))]);
    let strict = Options { strict: true, ..typed("F16") };
    assert!(refused(&at("a.safetensors"), &at("c.safetensors"), &strict).contains("2 finite values overflow in F16"));
    convert(&at("a.safetensors"), &at("c.safetensors"), &Options { strict: true, ..typed("BF16") }).unwrap();
}

#[test]
fn what_must_not_be_done_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, gguf) = (plain("safetensors", &at("a.safetensors")), plain("gguf", &at("g.gguf")));
    let no = |input: &Path, output: &str, options: &Options, expected: &str| {
        let error = refused(input, &at(output), options);
        assert!(error.contains(expected), "{output}: {error}");
    };
    no(&a, "g.gguf", &keep(), "already");
    no(&a, "a.safetensors", &Options { force: true, ..keep() }, "is also an input");
    no(&a, "b.safetensors", &typed("Q4_K_M"), "safetensors does not support Q4_K_M");
    no(&a, "b.gguf", &typed("F8_E4M3"), "gguf does not support F8_E4M3");
    no(&a, "b.gguf", &typed("I8"), "this build cannot encode I8");
    no(&a, "b.bin", &keep(), "expected .gguf, .safetensors or a folder");
    no(&a, "b.dat", &Options { to: Some(FormatId::Imatrix), ..keep() }, "no writable format named imatrix");
    assert!(convert::format_named("onnx").unwrap_err().to_string().contains("no writable format named onnx"));
    assert_eq!(convert::format_named("GGUF").unwrap(), FormatId::Gguf);
    no(&a, "b.safetensors", &Options { pure: true, ..keep() }, "one type for all tensors requires GGUF output");
    let requantise = Options { tensor_types: vec![TensorType::parse("q8_0=Q4_0").unwrap()], ..keep() };
    let mut weight = contents(&gguf).pop().unwrap();
    weight.0 = "q8_0.weight".into();
    write("gguf", &at("w.gguf"), &[tensor(&weight.0, DType::Q8_0, &weight.2, weight.3)], &Metadata::new(), None);
    no(&at("w.gguf"), "b.gguf", &requantise, "already quantised as");
    convert(&at("w.gguf"), &at("b.gguf"), &Options { allow_requantize: true, ..requantise }).unwrap();
    assert_eq!(contents(&at("b.gguf"))[0].1, "Q4_0");
    fs::create_dir(at("folder")).unwrap();
    no(&a, "folder", &keep(), "already");
    no(&a, "folder", &Options { to: Some(FormatId::Gguf), force: true, ..keep() }, "found a folder");
    fs::write(at("unknown.gguf"), Gguf::default().tensor("t", 99, &[4], vec![0; 16]).build()).unwrap();
    no(&at("unknown.gguf"), "c.safetensors", &keep(), "type 99");
}

#[test]
fn a_dry_run_tells_what_a_run_does_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let input = plain("gguf", &at("a.gguf"));
    let reader = weigh::format::open(&input).unwrap();
    let plan = Plan::new(&reader, &at("out.safetensors"), &keep()).unwrap();
    let planned = ConvertReport::planned(&reader, &plan).unwrap();
    assert!(planned.dry_run && !at("out.safetensors").exists());
    let done = convert::run(&reader, &plan, &|_| {}).unwrap();
    assert_eq!(fs::metadata(at("out.safetensors")).unwrap().len(), done.bytes_out);
    assert_eq!((planned.tensors, planned.output, planned.bytes_out), (done.tensors, done.output, done.bytes_out));
}

#[test]
fn asked_for_metadata_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let input = plain("gguf", &at("a.gguf"));
    let options = Options { metadata: vec![("a.bool".into(), Value::U8(3)), ("new".into(), Value::I64(-1))], ..keep() };
    convert(&input, &at("b.gguf"), &options).unwrap();
    convert(&input, &at("c.safetensors"), &options).unwrap();
    let (b, c) = (weigh::format::open(&at("b.gguf")).unwrap(), weigh::format::open(&at("c.safetensors")).unwrap());
    assert_eq!(b.model().metadata.get("a.bool"), Some(&Value::U8(3)));
    assert_eq!(b.model().metadata.get("new"), Some(&Value::I64(-1)));
    assert_eq!(c.model().metadata.get_str("new"), Some(r#"{"type":"i64","value":-1}"#));
}

#[test]
fn companions_come_along_into_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    plain("safetensors", &at("in/model.safetensors"));
    fs::write(at("in/config.json"), r#"{"model_type":"x","torch_dtype":"float32"}"#).unwrap();
    fs::write(at("in/notes.bin"), "no").unwrap();
    convert(&at("in"), &at("out/"), &keep()).unwrap();
    assert_eq!(fs::read(at("out/config.json")).unwrap(), fs::read(at("in/config.json")).unwrap());
    assert!(!at("out/notes.bin").exists());
    convert(&at("in"), &at("half/"), &typed("F16")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(at("half/config.json")).unwrap()).unwrap();
    assert_eq!(config, serde_json::json!({"model_type": "x", "torch_dtype": "float16"}));
    assert!(refused(&at("in"), &at("in"), &Options { force: true, ..keep() }).contains("the output folder is the folder of the input"));
    let report = convert(&at("in"), &at("x.gguf"), &keep()).unwrap();
    assert_eq!(report.dropped[0].name, "config.json");
}

#[test]
fn the_command_gives_the_documented_json_and_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    plain("gguf", Path::new(&at("a.gguf")));
    let run = |args: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = weigh::cli::run(["weigh", "convert"].iter().chain(args), &mut out, &mut err);
        (format!("{status:?}"), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let success = format!("{:?}", std::process::ExitCode::SUCCESS);
    let (status, out, err) = run(&[&at("a.gguf"), &at("b.gguf"), "--json", "--type", "q4_0", "--allow-requantize", "--pure"]);
    assert_eq!((status, err.as_str()), (success, ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], "weigh.convert.v1");
    assert_eq!(json["output"][0], at("b.gguf"));
    for key in ["tensors", "lossy", "dropped"] {
        assert!(json[key].is_array(), "{key}");
    }
    assert_eq!(json["bytes_in"], fs::metadata(at("a.gguf")).unwrap().len());
    assert_eq!(json["tensors"][2], serde_json::json!({"name": "f32", "from": "F32", "to": "F32", "shape": [3, 5]}));
    let (status, _, err) = run(&[&at("a.gguf"), &at("b.gguf")]);
    assert_eq!(status, format!("{:?}", std::process::ExitCode::from(2)));
    assert!(err.contains("--force"), "{err}");
    assert!(run(&[&at("a.gguf"), &at("c.gguf"), "--tensor-type", "x"]).2.contains("PATTERN=TYPE"));
    assert!(run(&[&at("a.gguf"), &at("c.gguf"), "--shard-size", "x"]).2.contains("a size such as 5GB"));
    assert!(format("gguf").layout.is_some());
}

/// A key with an array of 32-bit integers.
fn dims(gguf: Gguf, key: &str, dims: &[i32]) -> Gguf {
    let elements: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let array = gguf.array(5, dims.len() as u64, &elements);
    gguf.key(key, 9, array)
}

#[test]
fn tensors_that_comfyui_reshaped_get_their_shapes_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let halves: Vec<u8> = (0..1152u16).flat_map(|i| half::f16::from_f32(f32::from(i)).to_le_bytes()).collect();
    let blocks: Vec<u8> = (0..18u8).flat_map(|block| [&[0, 0x3c][..], &[block; 32]].concat()).collect();
    let singles: Vec<u8> = (0..40).flat_map(|i| (i as f32).to_le_bytes()).collect();
    // `get_orig_shape` of ComfyUI-GGUF's loader.py: outermost first, by the tensor's whole name.
    let mut gguf = Gguf::default().key_str("general.architecture", "sdxl");
    for (name, shape) in [("input_blocks.0.0.weight", &[32, 4, 3, 3][..]), ("conv.weight", &[8, 8, 3, 3]), ("x_pad_token", &[1, 40])] {
        gguf = dims(gguf, &format!("comfy.gguf.orig_shape.{name}"), shape);
    }
    gguf = dims(gguf, "comfy.gguf.orig_shape.out.2.bias", &[3]); // of another tensor, by its elements
    let gguf = gguf
        .tensor("input_blocks.0.0.weight", 1, &[32, 36], halves.clone())
        .tensor("conv.weight", 8, &[32, 18], blocks)
        .tensor("x_pad_token", 0, &[40], singles.clone())
        .tensor("out.2.bias", 0, &[4], vec![0; 16]);
    fs::write(at("a.gguf"), gguf.build()).unwrap();
    let report = convert(&at("a.gguf"), &at("b.safetensors"), &Options::default()).unwrap();
    let shapes: Vec<_> = contents(&at("b.safetensors")).into_iter().map(|(name, _, shape, _)| (name, shape)).collect();
    let expected =
        [("input_blocks.0.0.weight", &[32, 4, 3, 3][..]), ("conv.weight", &[8, 8, 3, 3]), ("x_pad_token", &[1, 40]), ("out.2.bias", &[4])];
    assert_eq!(shapes, expected.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    assert!(report.notes[0].message.contains("diffusion model"), "{:?}", report.notes);
    let written = weigh::format::open(&at("b.safetensors")).unwrap();
    assert_eq!(written.bytes(written.model().tensor("input_blocks.0.0.weight").unwrap()).unwrap().as_ref(), halves);
    assert_eq!(written.bytes(written.model().tensor("x_pad_token").unwrap()).unwrap().as_ref(), singles);

    // `ls` has both shapes.
    let reader = weigh::format::open(&at("a.gguf")).unwrap();
    let list = weigh::ops::list::list(&reader, &Default::default()).unwrap();
    let listed: Vec<_> = list.tensors.iter().map(|row| (row.shape.to_vec(), row.stored_shape)).collect();
    assert_eq!(listed[2..], [(vec![1, 40], Some(&[40][..])), (vec![4], None)]);

    // Both are the same model, tensor for tensor.
    let (a, b) = (weigh::format::open(&at("a.gguf")).unwrap(), written);
    let diff = weigh::ops::diff::diff(&a, &b, &weigh::ops::diff::Options::default()).unwrap();
    assert!(diff.shapes.is_empty() && diff.tensors.iter().all(|row| row.equal == Some(true)));
    // And a GGUF keeps what it holds.
    convert(&at("a.gguf"), &at("c.gguf"), &Options::default()).unwrap();
    assert_eq!(contents(&at("a.gguf")), contents(&at("c.gguf")));
}

/// Types 138 and 36 among others, as a fork of llama.cpp and an old version have them.
fn unknown_types() -> Gguf {
    Gguf::default()
        .key_str("general.architecture", "llama")
        .tensor("blk.0.attn_q.weight", 138, &[32, 3], (0..75).collect())
        .f32("blk.0.attn_k.weight", &[32, 4])
        .tensor("blk.0.attn_v.weight", 36, &[32, 2], vec![9; 64])
}

#[test]
fn types_that_nobody_knows_are_copied_hashed_and_compared_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.gguf"), unknown_types().build()).unwrap();
    let report = convert(&at("a.gguf"), &at("b.gguf"), &Options::default()).unwrap();
    assert_eq!(fs::read(at("a.gguf")).unwrap(), fs::read(at("b.gguf")).unwrap());
    let note = report.notes.iter().find(|note| note.name == "blk.0.attn_q.weight").unwrap();
    assert!(note.message.contains("stays type 138") && note.message.contains("1 more tensor"), "{note:?}");
    let (a, b) = (weigh::format::open(&at("a.gguf")).unwrap(), weigh::format::open(&at("b.gguf")).unwrap());
    let first = a.model().tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((first.len_bytes, a.len_bytes(first)), (None, Some(96)), "75 bytes, and what pads them to the alignment");
    assert_eq!(a.bytes(first).unwrap()[..75], (0..75).collect::<Vec<u8>>());
    let hashes = |reader| weigh::ops::hash::hash(reader, &[weigh::ops::hash::Algorithm::Sha256], true).unwrap();
    assert_eq!(hashes(&a), hashes(&b));
    let count = weigh::ops::count::count(&a).unwrap();
    assert_eq!((count.parameters, count.bytes, count.bits_per_weight), (Some(32 * 9), None, None));
    let rows: Vec<_> = count.by_dtype.iter().map(|row| (row.dtype.as_str(), row.bytes)).collect();
    assert_eq!(rows, [("F32", Some(512)), ("type 138", None), ("type 36", None)]);
    let compare = |b| weigh::ops::diff::diff(&a, b, &weigh::ops::diff::Options::default()).unwrap();
    assert!(compare(&b).identical);

    let mut other = unknown_types();
    other.tensors[2].data[63] = 8;
    fs::write(at("c.gguf"), other.build()).unwrap();
    let c = weigh::format::open(&at("c.gguf")).unwrap();
    let equal: Vec<_> = compare(&c).tensors.iter().map(|row| row.equal).collect();
    assert_eq!(equal, [Some(true), Some(true), Some(false)]);
    assert_ne!(hashes(&a), hashes(&c));
    // Other types change; these cannot.
    convert(&at("a.gguf"), &at("d.gguf"), &Options { target: Some("Q8_0".parse().unwrap()), ..Options::default() }).unwrap();
    let d = weigh::format::open(&at("d.gguf")).unwrap();
    let types: Vec<_> = d.model().tensors.iter().map(|tensor| tensor.elem.to_string()).collect();
    assert_eq!(types, ["type 138", "Q8_0", "type 36"]);
    assert_eq!(d.bytes(&d.model().tensors[0]).unwrap(), a.bytes(first).unwrap());
    assert!(refused(&at("a.gguf"), &at("e.safetensors"), &keep()).contains("type 138"));
}

#[test]
fn an_unknown_type_of_safetensors_is_copied_and_compared_by_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = r#"{"a":{"dtype":"F8_NEW","shape":[4,2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
    let file = |last: u8| crate::build::safetensors(header, &[1, 2, 3, 4, 5, 6, 7, last, 0, 0, 0, 0]);
    fs::write(at("a.safetensors"), file(8)).unwrap();
    convert(&at("a.safetensors"), &at("b.safetensors"), &keep()).unwrap();
    assert_eq!(contents(&at("a.safetensors")), contents(&at("b.safetensors")));
    assert_eq!(contents(&at("b.safetensors"))[0], ("a".into(), "F8_NEW".into(), vec![4, 2], vec![1, 2, 3, 4, 5, 6, 7, 8]));
    let a = weigh::format::open(&at("a.safetensors")).unwrap();
    let count = weigh::ops::count::count(&a).unwrap();
    // Its offsets tell how many bytes it takes.
    assert_eq!((count.parameters, count.bytes, count.bits_per_weight), (Some(9), Some(12), Some(96.0 / 9.0)));
    fs::write(at("c.safetensors"), file(9)).unwrap();
    let c = weigh::format::open(&at("c.safetensors")).unwrap();
    let diff = weigh::ops::diff::diff(&a, &c, &weigh::ops::diff::Options::default()).unwrap();
    assert_eq!(diff.tensors.iter().map(|row| row.equal).collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert!(refused(&at("a.safetensors"), &at("d.gguf"), &keep()).contains("F8_NEW"));
    assert!(weigh::ops::show::show(&a, "a", None, false).unwrap_err().to_string().contains("F8_NEW"));
}

#[test]
fn what_a_user_would_not_expect_of_a_gguf_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let long = format!("{}.weight", "x".repeat(57));
    let tensors = [(long.as_str(), vec![2u64, 32]), ("a.bias", vec![2, 32]), ("a_norm.weight", vec![32]), ("a.weight", vec![2, 32])];
    let tensors: Vec<_> =
        tensors.iter().map(|(name, shape)| tensor(name, DType::F32, shape, vec![0; 4 * shape.iter().product::<u64>() as usize])).collect();
    write("gguf", &at("a.gguf"), &tensors, &Metadata::new(), None);
    let types = |text: &str| Options { tensor_types: vec![TensorType::parse(text).unwrap()], ..keep() };
    let notes = |options: &Options| {
        let report = convert(&at("a.gguf"), &at("b.gguf"), &Options { force: true, ..options.clone() }).unwrap();
        report.notes.into_iter().map(|note| (note.name, note.message)).collect::<Vec<_>>()
    };
    // GGML_MAX_NAME is 64, of which one byte is the NUL.
    let found = notes(&keep());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == long && found[0].1.contains("64 bytes"), "{found:?}");
    let found = notes(&types("a.weight=Q8_0"));
    assert_eq!(found.len(), 1, "{found:?}");
    let found = notes(&types("a=Q8_0"));
    assert_eq!(found[0].0, "a.bias", "{found:?}");
    assert!(
        found[0].1.starts_with("stays F32 although another type was given by name") && found[0].1.contains("1 more tensor"),
        "{found:?}"
    );
    let found = notes(&types("a=F32"));
    assert_eq!(found.len(), 1, "that is what they have: {found:?}");
}
