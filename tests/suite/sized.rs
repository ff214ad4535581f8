//! Types chosen for a size, mixes carried from file to file, and what file types cost.

use std::fs;
use std::path::{Path, PathBuf};

use weigh::DType;
use weigh::model::{Array, Metadata, Value, ValueType};
use weigh::ops::compare;
use weigh::ops::convert::{self, ConvertReport, Options, Plan, SizeTarget};
use weigh::quant::recipe::TensorType;

use crate::build::{tensor, write};

/// Numbers of a linear congruence, between -1 and 1.
fn values(seed: u64, count: u64, scale: f32) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32 * scale).to_le_bytes()
    };
    (0..count).flat_map(next).collect()
}

/// The shapes of a model of two layers, with a stack of experts, and rows that blocks of 256 and of 32 do not divide.
const SHAPES: [(&str, &[u64]); 12] = [
    ("token_embd.weight", &[40, 256]),
    ("output.weight", &[40, 256]),
    ("output_norm.weight", &[256]),
    ("blk.0.attn_norm.weight", &[256]),
    ("blk.0.attn_q.weight", &[64, 256]),
    ("blk.0.attn_v.weight", &[32, 256]),
    ("blk.0.ffn_down.weight", &[256, 96]),
    ("blk.0.ffn_gate_inp.weight", &[3, 256]),
    ("blk.1.attn_q.weight", &[64, 256]),
    ("blk.1.attn_v.weight", &[32, 256]),
    ("blk.1.ffn_down_exps.weight", &[3, 16, 512]),
    ("blk.1.odd.weight", &[16, 40]),
];

/// Writes the model, in F32.
fn model(path: &Path) -> PathBuf {
    let tensors = SHAPES.iter().enumerate().map(|(i, (name, shape))| {
        let bytes = values(i as u64 + 1, shape.iter().product(), if i % 3 == 0 { 0.5 } else { 0.05 });
        tensor(name, DType::F32, shape, bytes)
    });
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", Value::String("llama".into())).unwrap();
    for (key, value) in [("block_count", 2), ("attention.head_count", 2), ("context_length", 64), ("embedding_length", 256)] {
        metadata.insert(format!("llama.{key}"), Value::U32(value)).unwrap();
    }
    write("gguf", path, &tensors.collect::<Vec<_>>(), &metadata, None);
    path.to_path_buf()
}

/// Writes an importance matrix with entries for these tensors.
fn importance(path: &Path, names: &[&str]) -> PathBuf {
    let mut bytes = (names.len() as u32).to_le_bytes().to_vec();
    for name in names {
        let (_, shape) = SHAPES.iter().find(|(own, _)| own == name).unwrap();
        let len = if shape.len() == 3 { shape[0] * shape[2] } else { shape[1] };
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([1u32, len as u32].iter().flat_map(|number| number.to_le_bytes()));
        (0..len).for_each(|i| bytes.extend((1.0 + (i * i % 17) as f32).to_le_bytes()));
    }
    fs::write(path, bytes).unwrap();
    path.to_path_buf()
}

fn sized(bytes: u64) -> Options {
    Options { size: Some(SizeTarget::Bytes(bytes)), force: true, ..Options::default() }
}

fn plan(input: &Path, output: &Path, options: &Options) -> weigh::Result<(weigh::format::Reader, Plan)> {
    convert::prepare(weigh::format::open(input)?, Vec::new(), output, options, None)
}

fn convert(input: &Path, output: &Path, options: &Options) -> weigh::Result<ConvertReport> {
    let (reader, plan) = plan(input, output, options)?;
    convert::run(&reader, &plan, &|_| {})
}

fn refused(input: &Path, options: &Options) -> String {
    let error = plan(input, &input.with_file_name("never.gguf"), options).unwrap_err();
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn the_file_is_at_most_as_large_as_asked_for_and_as_planned() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (model(&folder.path().join("in.gguf")), folder.path().join("out.gguf"));
    let mut losses = Vec::new();
    for target in [53_000, 58_001, 66_000, 80_000, 100_000] {
        let (reader, planned) = plan(&input, &output, &sized(target)).unwrap();
        let expected = convert::measure(&reader, &planned, &|_| {}).unwrap();
        assert!(!output.exists());
        let done = convert::run(&reader, &planned, &|_| {}).unwrap();
        let size = fs::metadata(&output).unwrap().len();
        assert!(size <= target && size == planned.bytes_out() && size == expected.bytes_out, "{target} {size}");
        // What is expected of the file is what is measured when it is written.
        assert_eq!((&expected.tensors, expected.quality, expected.loss), (&done.tensors, done.quality, done.loss));
        let mix = done.mix.unwrap();
        assert!(mix.bound <= mix.loss && mix.gap.unwrap() < 0.5, "{mix:?}");
        losses.push(done.loss.unwrap());
        // And what a comparison of the two files finds.
        let (a, b) = (weigh::format::open(&input).unwrap(), weigh::format::open(&output).unwrap());
        let diff = weigh::ops::diff::diff(&a, &b, &weigh::ops::diff::Options::default()).unwrap();
        for row in done.tensors.iter().filter(|row| row.quality.is_some()) {
            let found = diff.tensors.iter().find(|found| found.name == row.name).unwrap();
            let expected = row.quality.unwrap();
            assert!((found.relative_rmse.unwrap() - expected.relative_rmse.unwrap()).abs() < 1e-12, "{}", row.name);
        }
        fs::remove_file(&output).unwrap();
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
}

#[test]
fn tensors_that_are_never_quantised_stay_and_rows_fall_back_as_in_recipes() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let report = convert(&input, &folder.path().join("out.gguf"), &sized(54_000)).unwrap();
    let to = |name: &str| report.tensors.iter().find(|row| row.name == name).unwrap().to.as_str();
    for name in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight"] {
        assert_eq!(to(name), "F32", "{name}");
    }
    assert!(["Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0"].contains(&to("blk.0.ffn_down.weight")), "{}", to("blk.0.ffn_down.weight"));
    assert_eq!(to("blk.1.odd.weight"), "F16");
    let reader = weigh::format::open(&folder.path().join("out.gguf")).unwrap();
    assert_eq!(reader.model().metadata.get_u64("general.quantization_version"), Some(2));
    assert_eq!(reader.model().metadata.get("general.file_type"), None);
}

#[test]
fn the_number_of_threads_does_not_change_the_mix() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let imatrix = importance(&folder.path().join("i.dat"), &["blk.0.attn_q.weight", "blk.1.ffn_down_exps.weight"]);
    let options = Options { imatrix: Some(imatrix), ..sized(60_000) };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = folder.path().join(format!("{threads}.gguf"));
        let report = pool.install(|| convert(&input, &out, &options)).unwrap();
        (fs::read(out).unwrap(), report.tensors, report.mix, report.loss)
    };
    assert!(run(1) == run(8));
}

#[test]
fn what_the_user_gives_by_name_holds_and_shards_count_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let options = Options {
        tensor_types: vec![TensorType::parse("blk.0.attn_q=Q8_0").unwrap()],
        output_tensor_type: Some(DType::Q6_K),
        shard_bytes: Some(20_000),
        ..sized(80_000)
    };
    let report = convert(&input, &folder.path().join("out.gguf"), &options).unwrap();
    let to = |name: &str| report.tensors.iter().find(|row| row.name == name).unwrap().to.as_str();
    assert_eq!((to("blk.0.attn_q.weight"), to("output.weight")), ("Q8_0", "Q6_K"));
    assert!(report.output.len() > 2);
    let size: u64 = report.output.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size <= 80_000 && size == report.bytes_out, "{size}");
}

#[test]
fn bits_per_weight_bound_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let elements: u64 = SHAPES.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
    let options = Options { size: Some(SizeTarget::BitsPerWeight(5.5)), ..sized(0) };
    let report = convert(&input, &folder.path().join("out.gguf"), &options).unwrap();
    assert!(report.bytes_out * 8 <= elements * 55 / 10 && report.bits_per_weight.unwrap() < 5.5, "{}", report.bytes_out);
    assert_eq!(report.mix.unwrap().target_bytes, elements * 55 / 80);
}

#[test]
fn sizes_and_types_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let error = refused(&input, &sized(20_000));
    let smallest: u64 = error.split(" (").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().replace(',', "").parse().unwrap();
    assert!(error.contains("is below the smallest mix of these types"), "{error}");
    assert!(plan(&input, &folder.path().join("o.gguf"), &sized(smallest)).is_ok());
    assert!(refused(&input, &sized(smallest - 1)).contains("below the smallest mix"));
    let error = refused(&input, &sized(1 << 30));
    assert!(error.contains("is above the size of the model in F16"), "{error}");
    let error = refused(&input, &Options { candidate_types: vec![DType::I8], ..sized(60_000) });
    assert!(error.contains("this build cannot encode I8"), "{error}");
    let error = refused(&input, &Options { candidate_types: vec![DType::IQ2_XS], ..sized(60_000) });
    assert!(error.contains("importance"), "{error}");
    let other = folder.path().join("other.gguf");
    write("gguf", &other, &[tensor("a.weight", DType::F32, &[4, 40], values(1, 160, 1.0))], &Metadata::new(), None);
    let error = refused(&other, &sized(1000));
    assert!(error.contains("no tensor of this model can be quantised to any of Q2_K, Q3_K"), "{error}");
    let nan = folder.path().join("nan.gguf");
    write("gguf", &nan, &[tensor("a.weight", DType::F32, &[4, 256], [0, 0, 192, 127].repeat(1024))], &Metadata::new(), None);
    let error = refused(&nan, &sized(1800));
    assert!(error.contains("a.weight") && error.contains("not finite"), "{error}");
}

#[test]
fn an_importance_matrix_that_lacks_tensors_is_said_to() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let imatrix = importance(&folder.path().join("i.dat"), &["blk.0.attn_q.weight"]);
    let report = convert(&input, &folder.path().join("out.gguf"), &Options { imatrix: Some(imatrix), ..sized(60_000) }).unwrap();
    let note = report.notes.iter().find(|note| note.name == "blk.1.attn_q.weight").unwrap();
    assert!(note.message.contains("the importance matrix has no entry for it"), "{note:?}");
    // Without a single entry for the model it is of another one.
    let text = fs::read(folder.path().join("i.dat")).unwrap();
    let other = String::from_utf8_lossy(&text).into_owned().contains("blk.0");
    assert!(other);
    let foreign: Vec<u8> =
        text.windows(5).position(|piece| piece == b"blk.0").map(|at| [&text[..at], b"xxx.0", &text[at + 5..]].concat()).unwrap();
    fs::write(folder.path().join("j.dat"), foreign).unwrap();
    let error = refused(&input, &Options { imatrix: Some(folder.path().join("j.dat")), ..sized(60_000) });
    assert!(error.contains("belongs to another model"), "{error}");
}

#[test]
fn a_saved_mix_and_a_model_alike_give_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input = model(&path("in.gguf"));
    let (reader, planned) = plan(&input, &path("a.gguf"), &sized(60_000)).unwrap();
    fs::write(path("mix.txt"), planned.mix_text()).unwrap();
    assert!(planned.mix_text().contains("^blk\\.0\\.attn_q\\.weight$="));
    convert::run(&reader, &planned, &|_| {}).unwrap();
    let from_file = Options { tensor_types: TensorType::read_file(&path("mix.txt")).unwrap(), ..Options::default() };
    convert(&input, &path("b.gguf"), &from_file).unwrap();
    convert(&input, &path("c.gguf"), &Options { like: Some(path("a.gguf")), ..Options::default() }).unwrap();
    let tensors = |name: &str| {
        let reader = weigh::format::open(&path(name)).unwrap();
        let tensors = reader.model().tensors.iter();
        tensors.map(|tensor| (tensor.name.clone(), tensor.elem, reader.bytes(tensor).unwrap().into_owned())).collect::<Vec<_>>()
    };
    assert!(tensors("a.gguf") == tensors("b.gguf"));
    assert!(tensors("a.gguf") == tensors("c.gguf"));
}

#[test]
fn a_model_with_other_names_gives_no_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input = model(&path("in.gguf"));
    write("gguf", &path("other.gguf"), &[tensor("x.weight", DType::F16, &[1, 32], vec![0; 64])], &Metadata::new(), None);
    let error = refused(&input, &Options { like: Some(path("other.gguf")), ..Options::default() });
    assert!(error.contains("other.gguf") && error.contains("found none of their names"), "{error}");
    // Tensors that it lacks keep their types, and are named.
    let few = [tensor("blk.0.attn_q.weight", DType::Q8_0, &[64, 256], vec![0; 64 * 8 * 34])];
    write("gguf", &path("few.gguf"), &few, &Metadata::new(), None);
    let report = convert(&input, &path("out.gguf"), &Options { like: Some(path("few.gguf")), ..Options::default() }).unwrap();
    assert!(
        report.notes.iter().any(|note| note.message.contains("few.gguf, so that it keeps its type (and 7 more tensors)")),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_comparison_says_what_conversions_do() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(&folder.path().join("in.gguf"));
    let targets = ["Q4_K_M", "Q6_K", "F16"].map(|name| name.parse().unwrap());
    let reader = weigh::format::open(&input).unwrap();
    let compared = compare::compare(&reader, &targets, &Options::default(), &|_| {}).unwrap();
    for (cost, target) in compared.types.iter().zip(targets) {
        let out = folder.path().join("out.gguf");
        let report = convert(&input, &out, &Options { target: Some(target), force: true, ..Options::default() }).unwrap();
        assert_eq!(
            (cost.bytes, cost.loss, cost.quality),
            (fs::metadata(&out).unwrap().len(), report.loss, report.quality),
            "{}",
            cost.name
        );
        assert_eq!(cost.worst.len(), if cost.name == "F16" { 0 } else { 3 });
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// Keys whose arrays have a value for each layer.
const PER_LAYER: [&str; 3] = ["attention.head_count_kv", "attention.rope_pattern", "activation_sparsity_scale"];

/// A model of four layers whose arrays have a value for each.
fn layered(path: &Path) -> PathBuf {
    let names = (0..4).flat_map(|layer| ["attn_q", "ffn_down"].map(|name| format!("blk.{layer}.{name}.weight")));
    let tensors: Vec<_> = names.enumerate().map(|(i, name)| tensor(&name, DType::F32, &[2, 32], values(i as u64, 64, 1.0))).collect();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", Value::String("llama".into())).unwrap();
    for (key, value) in [("block_count", 4), ("leading_dense_block_count", 2), ("nextn_predict_layers", 1)] {
        metadata.insert(format!("llama.{key}"), Value::U32(value)).unwrap();
    }
    let array = |values: [u32; 4]| Value::Array(Array::new(ValueType::U32, values.map(Value::U32).to_vec()));
    for key in PER_LAYER {
        metadata.insert(format!("llama.{key}"), array([1, 2, 3, 4])).unwrap();
    }
    // Four sections of rope, which are not of the four layers.
    metadata.insert("llama.rope.dimension_sections", array([5, 6, 7, 8])).unwrap();
    write("gguf", path, &tensors, &metadata, None);
    path.to_path_buf()
}

#[test]
fn layers_that_are_left_out_leave_arrays_and_counts_right() {
    let folder = tempfile::tempdir().unwrap();
    let input = layered(&folder.path().join("in.gguf"));
    let out = folder.path().join("out.gguf");
    convert(&input, &out, &Options { prune_layers: vec![1, 3], ..Options::default() }).unwrap();
    let (before, after) = (weigh::format::open(&input).unwrap(), weigh::format::open(&out).unwrap());
    let metadata = &after.model().metadata;
    let number = |key: &str| metadata.get_u64(&format!("llama.{key}"));
    assert_eq!((number("block_count"), number("leading_dense_block_count"), number("nextn_predict_layers")), (Some(2), Some(1), Some(0)));
    let array = |key: &str| metadata.get(&format!("llama.{key}")).unwrap().as_array().unwrap().values().unwrap();
    for key in PER_LAYER {
        assert_eq!(array(key), [Value::U32(1), Value::U32(3)], "{key}");
    }
    assert_eq!(array("rope.dimension_sections").len(), 4);
    assert_eq!(after.model().tensors.len(), 4);
    let bytes = |reader: &weigh::format::Reader, name: &str| reader.bytes(reader.model().tensor(name).unwrap()).unwrap().into_owned();
    assert_eq!(bytes(&after, "blk.1.ffn_down.weight"), bytes(&before, "blk.2.ffn_down.weight"));
    for (layers, expected) in [(vec![4], "expected layers from 0 to 3, found 4"), (vec![0, 1, 2, 3], "no layer would be left")] {
        let error = refused(&input, &Options { prune_layers: layers, ..Options::default() });
        assert!(error.contains(expected), "{error}");
    }
}
