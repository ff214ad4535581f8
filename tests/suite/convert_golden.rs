//! Quantising against llama-quantize: the same tensors to the byte for every file type, with and without an importance matrix.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use weigh::DType;
use weigh::model::{Metadata, Value};
use weigh::ops::convert::{self, ConvertReport, Options, Plan};
use weigh::quant::recipe::TensorType;

use crate::build::{tensor, write};

/// Numbers that any language makes the same: 24 bits of a linear congruence, between -1/16 and 1/16.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as i32 - (1 << 23)) as f32 / (1 << 27) as f32
    }
}

/// The tensors of the golden models, in order.
fn shapes(layers: u64, experts: u64) -> Vec<(String, Vec<u64>)> {
    let mut shapes: Vec<(String, Vec<u64>)> =
        vec![("token_embd.weight".into(), vec![3, 256]), ("output.weight".into(), vec![3, 256]), ("output_norm.weight".into(), vec![256])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[u64]| shapes.push((format!("blk.{layer}.{name}.weight"), shape.to_vec()));
        add("attn_norm", &[256]);
        ["attn_q", "attn_k", "attn_v", "attn_output"].iter().for_each(|name| add(name, &[2, 256]));
        if experts > 0 {
            add("ffn_gate_inp", &[experts, 256]);
            ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].iter().for_each(|name| add(name, &[experts, 1, 256]));
        } else {
            add("ffn_gate", &[2, 256]);
            add("ffn_up", &[2, 256]);
            add("ffn_down", &[1, 256]);
        }
    }
    shapes.push(("blk.0.odd.weight".into(), vec![2, 96]));
    shapes
}

/// Writes a golden model and its importance matrix.
fn build(folder: &Path, layers: u64, kv_heads: u32, experts: u32) -> (PathBuf, PathBuf) {
    let (mut numbers, mut tensors, mut entries) = (Numbers(1), Vec::new(), Vec::new());
    for (name, shape) in shapes(layers, experts.into()) {
        let elements: u64 = shape.iter().product();
        let bytes = (0..elements).flat_map(|_| numbers.next().to_le_bytes()).collect();
        if shape.len() > 1 && name != "token_embd.weight" && !name.contains("odd") {
            entries.push((name.clone(), if shape.len() == 3 { shape[0] * 256 } else { 256 }));
        }
        tensors.push(tensor(&name, DType::F32, &shape, bytes));
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", Value::String("llama".into())).unwrap();
    for (key, value) in
        [("block_count", layers as u32), ("attention.head_count", 2), ("attention.head_count_kv", kv_heads), ("expert_count", experts)]
    {
        metadata.insert(format!("llama.{key}"), Value::U32(value)).unwrap();
    }
    let path = folder.join(format!("{experts}.gguf"));
    write("gguf", &path, &tensors, &metadata, None);
    let mut imatrix = (entries.len() as u32).to_le_bytes().to_vec();
    for (name, len) in entries {
        imatrix.extend((name.len() as u32).to_le_bytes());
        imatrix.extend(name.as_bytes());
        imatrix.extend(4u32.to_le_bytes());
        imatrix.extend((len as u32).to_le_bytes());
        (0..len).for_each(|_| imatrix.extend(numbers.next().abs().to_le_bytes()));
    }
    imatrix.extend([5u32, 4].iter().flat_map(|number| number.to_le_bytes()));
    imatrix.extend(b"text");
    let imatrix_path = folder.join(format!("{experts}.dat"));
    fs::write(&imatrix_path, imatrix).unwrap();
    (path, imatrix_path)
}

fn convert(input: &Path, output: &Path, options: &Options, threads: usize) -> weigh::Result<ConvertReport> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let reader = weigh::format::open(input)?;
    let plan = Plan::new(&reader, output, options)?;
    pool.install(|| convert::run(&reader, &plan, &|_| {}))
}

/// The hash of names, types and bytes in the order of the golden script.
fn hash(path: &Path, order: &[(String, Vec<u64>)]) -> String {
    let reader = weigh::format::open(path).unwrap();
    let mut hash = Sha256::new();
    for (name, _) in order {
        let tensor = reader.model().tensor(name).unwrap();
        hash.update(name);
        hash.update(tensor.elem.to_string());
        hash.update(reader.bytes(tensor).unwrap());
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The hash of names, types and bytes of all tensors, by name.
fn hash_by_name(path: &Path) -> String {
    let mut order: Vec<(String, Vec<u64>)> =
        weigh::format::open(path).unwrap().model().tensors.iter().map(|tensor| (tensor.name.clone(), Vec::new())).collect();
    order.sort();
    hash(path, &order)
}

#[test]
fn further_options_have_the_bytes_of_llama_quantize() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/quantize-options.json")).unwrap();
    let goldens: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (input, imatrix) = build(folder.path(), 8, 2, 0);
    let q4 = || Options { target: Some("Q4_K_M".parse().unwrap()), force: true, ..Options::default() };
    let with_imatrix = || Options { imatrix: Some(imatrix.clone()), ..q4() };
    let types = |texts: &[&str]| texts.iter().map(|text| TensorType::parse(text).unwrap()).collect::<Vec<_>>();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let file = folder.path().join("mix.txt");
    fs::write(&file, "blk\\.(1|3)\\.ffn_.*=q5_k attn_[qk]\\.weight$=iq4_xs\n\nATTN_V=q8_0\n").unwrap();
    let cases = [
        ("regex", Options { tensor_types: types(&[r"\.(\d*[13579])\.attn_k=q5_k", "ffn_(up|gate)=Q6_K", "output=q8_0"]), ..q4() }),
        ("file", Options { tensor_types: TensorType::read_file(&file).unwrap(), ..q4() }),
        ("include", Options { include_weights: names(&["attn_q", "blk.1."]), ..with_imatrix() }),
        ("exclude", Options { exclude_weights: names(&["ffn", "attn_v"]), ..with_imatrix() }),
        ("exclude all", Options { exclude_weights: names(&["weight"]), ..with_imatrix() }),
        ("prune", Options { prune_layers: vec![2, 0, 5], ..with_imatrix() }),
    ];
    let out = folder.path().join("out.gguf");
    let entries = [("include", Some(14)), ("exclude", Some(25)), ("exclude all", None), ("prune", Some(57))];
    for (name, options) in cases {
        convert(&input, &out, &options, 2).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(hash_by_name(&out), goldens[name], "{name}");
        let reader = weigh::format::open(&out).unwrap();
        let metadata = &reader.model().metadata;
        if let Some((_, expected)) = entries.iter().find(|(own, _)| *own == name) {
            assert_eq!(metadata.get_u64("quantize.imatrix.entries_count"), *expected, "{name}");
        }
        assert_eq!(metadata.get_u64("llama.block_count"), Some(if name == "prune" { 5 } else { 8 }), "{name}");
    }
    let split = folder.path().join("split.gguf");
    let whole = convert(&input, &split, &Options { shard_bytes: Some(60_000), force: true, ..Options::default() }, 2).unwrap();
    let options = Options { target: Some("Q5_K_M".parse().unwrap()), keep_split: true, ..Options::default() };
    let report = convert(&whole.output[0], &folder.path().join("kept.gguf"), &options, 2).unwrap();
    assert_eq!(hash_by_name(&report.output[0]), goldens["keep split"]);
    let kept = weigh::format::open(&report.output[0]).unwrap();
    let in_shard = |shard: usize| kept.model().tensors.iter().filter(|tensor| tensor.shard == shard).count();
    assert_eq!([in_shard(0), in_shard(1), in_shard(2)], [32, 33, 3]);
}

/// `general.file_type` and the hash of the tensors; `null` where llama-quantize refuses.
type Goldens = BTreeMap<String, BTreeMap<String, Option<(u64, String)>>>;

#[test]
fn every_file_type_has_the_bytes_of_llama_quantize() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/quantized.json")).unwrap();
    let goldens: Goldens = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for (model, layers, kv_heads, experts) in [("dense", 8, 2, 0), ("experts", 4, 1, 8)] {
        let (input, imatrix) = build(folder.path(), layers, kv_heads, experts);
        let order = shapes(layers, experts.into());
        for with in [false, true] {
            let key = if with { format!("{model} imatrix") } else { model.to_owned() };
            for (name, golden) in &goldens[&key] {
                let options = Options {
                    target: Some(name.parse().unwrap()),
                    imatrix: with.then(|| imatrix.clone()),
                    force: true,
                    ..Options::default()
                };
                let out = folder.path().join("out.gguf");
                let done = convert(&input, &out, &options, 2);
                match golden {
                    Some((file_type, golden)) => {
                        let report = done.unwrap_or_else(|error| panic!("{key} {name}: {error}"));
                        let reader = weigh::format::open(&out).unwrap();
                        let metadata = &reader.model().metadata;
                        assert_eq!(metadata.get_u64("general.file_type"), Some(*file_type), "{key} {name}");
                        assert_eq!(metadata.get_u64("general.quantization_version"), Some(2));
                        assert_eq!(hash(&out, &order), *golden, "{key} {name}");
                        let quantised = report.tensors.iter().any(|row| row.quality.is_some());
                        assert_eq!(quantised, !["F32", "F16", "BF16"].contains(&name.as_str()), "{key} {name}");
                        if with {
                            assert_eq!(metadata.get_u64("quantize.imatrix.chunks_count"), Some(5));
                            assert_eq!(metadata.get_str("quantize.imatrix.dataset"), Some("text"));
                        }
                        checked += 1;
                    }
                    // Rows of 96 have no fallback from this type in llama-quantize; here they become F16.
                    None if name == "Q1_0" => assert_eq!(done.unwrap().lossy.len(), 1),
                    None => assert!(done.unwrap_err().to_string().contains("importance matrix"), "{key} {name}"),
                }
            }
        }
    }
    assert!(checked > 110, "{checked}");
}

#[test]
fn the_number_of_threads_changes_neither_bytes_nor_figures() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.gguf");
    let mut numbers = Numbers(3);
    let mut values = |len: usize| (0..len).flat_map(|_| numbers.next().to_le_bytes()).collect::<Vec<u8>>();
    // Several pieces each, the last one short.
    let tensors =
        [tensor("a.weight", DType::F32, &[300, 512], values(300 * 512)), tensor("b.weight", DType::F32, &[5, 70000], values(5 * 70000))];
    write("gguf", &input, &tensors, &Metadata::new(), None);
    for name in ["Q8_0", "F16"] {
        let run = |threads: usize| {
            let out = folder.path().join(format!("{name}-{threads}.gguf"));
            let options = Options { target: Some(name.parse().unwrap()), ..Options::default() };
            let mut report = convert(&input, &out, &options, threads).unwrap();
            report.output.clear();
            (fs::read(&out).unwrap(), report)
        };
        let one = run(1);
        assert!(run(8) == one, "{name}");
        assert_eq!(one.1.quality.is_some(), name == "Q8_0");
    }
}

#[test]
fn entries_of_an_importance_matrix_must_fit_their_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (input, imatrix) = build(folder.path(), 4, 1, 8);
    let (other, _) = build(folder.path(), 4, 2, 0);
    let options = Options { target: Some("IQ2_XS".parse().unwrap()), imatrix: Some(imatrix), ..Options::default() };
    // The model without experts has tensors that this matrix says nothing about.
    let error = convert(&other, &folder.path().join("out.gguf"), &options, 1).unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_down.weight") || error.contains("blk.0.ffn_gate.weight"), "{error}");
    let not_one = Options { imatrix: Some(input.clone()), ..options };
    let error = convert(&input, &folder.path().join("out.gguf"), &not_one, 1).unwrap_err().to_string();
    assert!(error.contains("expected an importance matrix"), "{error}");
}

/// An importance matrix of the older form: entries of ones.
fn importance(path: &Path, entries: &[(&str, usize)]) -> PathBuf {
    let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
    for (name, len) in entries {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([1u32, *len as u32].iter().flat_map(|number| number.to_le_bytes()));
        (0..*len).for_each(|_| bytes.extend(1f32.to_le_bytes()));
    }
    fs::write(path, bytes).unwrap();
    path.to_path_buf()
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, _) = build(folder.path(), 4, 2, 0);
    let quantise = |entries: &[(&str, usize)], name: &str| {
        let imatrix = importance(&folder.path().join("m.dat"), entries);
        let options = Options { target: Some(name.parse().unwrap()), imatrix: Some(imatrix), force: true, ..Options::default() };
        convert(&input, &folder.path().join("out.gguf"), &options, 1)
    };
    // llama-quantize throws "imatrix size 128 is different from tensor size 256".
    let error = quantise(&[("blk.0.attn_q.weight", 256), ("blk.0.ffn_up.weight", 128)], "Q4_0").unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_up.weight") && error.contains("expected 256 importance weights, found 128"), "{error}");
    let none = [("model.layers.0.self_attn.q_proj.weight", 256), ("blk.77.ffn_up.weight", 256), ("token_embd.weight", 256)];
    let error = quantise(&none, "Q4_0").unwrap_err().to_string();
    assert!(error.contains("the importance matrix belongs to another model: none of its 3 entries names a tensor of this one"), "{error}");
    // A tensor or two without an entry are named, and the embeddings may have one of any size.
    let report = quantise(&[("blk.0.attn_q.weight", 256), ("token_embd.weight", 3)], "Q4_0").unwrap();
    assert!(report.notes.iter().any(|note| note.name == "blk.0.ffn_up.weight"), "{:?}", report.notes);
    assert_eq!(report.notes, report.remarks);
    // Nothing is quantised, so nothing could fit.
    quantise(&none, "F16").unwrap();
}
