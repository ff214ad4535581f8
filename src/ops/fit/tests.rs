use serde_json::{Value as Json, json};

use super::*;
use crate::family::memory;
use crate::model::{Array, DType, Metadata, Value};
use crate::ops::fit::weights::Weight;

fn fixture(path: &str) -> Json {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn value(json: &Json, kind: &str) -> Value {
    match json {
        Json::String(text) => Value::String(text.clone()),
        Json::Bool(value) => Value::Bool(*value),
        Json::Array(items) if items.iter().all(Json::is_boolean) => {
            Value::Array(Array::new(crate::model::ValueType::Bool, items.iter().map(|item| value(item, "BOOL")).collect()))
        }
        Json::Array(items) if items.iter().all(Json::is_i64) => {
            Value::Array(Array::i32s(items.iter().map(|item| item.as_i64().unwrap() as i32)))
        }
        Json::Array(items) if items.iter().all(Json::is_string) => {
            Value::Array(Array::strings(items.iter().map(|item| item.as_str().unwrap())))
        }
        Json::Array(_) => Value::Array(Array::f32s(Vec::new())), // no list of fractions matters here
        number if kind == "FLOAT32" => Value::F32(number.as_f64().unwrap() as f32),
        number => Value::U32(number.as_u64().unwrap() as u32),
    }
}

fn metadata(keys: &Json) -> Metadata {
    let mut metadata = Metadata::new();
    for row in keys.as_array().unwrap() {
        metadata.set(row[0].as_str().unwrap(), value(&row[2], row[1].as_str().unwrap()));
    }
    metadata
}

fn weight(prefix: &str, row: &Json) -> Weight {
    let shape: Vec<u64> = row[2].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
    let dtype: DType = row[1].as_str().unwrap().parse().unwrap();
    Weight { name: format!("{prefix}{}", row[0].as_str().unwrap()), bytes: dtype.bytes_for_shape(&shape).unwrap(), shape }
}

/// Returns a small model of `fixtures/arch`.
fn small(name: &str) -> Subject {
    let golden = fixture(&format!("arch/{name}.json"));
    let weights = golden["gguf"].as_array().unwrap().iter().map(|row| weight("", row)).collect();
    Subject { metadata: metadata(&golden["keys"]), weights }
}

/// Returns a model of a published shape.
fn published(golden: &Json) -> Subject {
    let mut weights: Vec<Weight> = golden["tensors"].as_array().unwrap().iter().map(|row| weight("", row)).collect();
    let mut number = 0;
    for run in golden["layers"]["runs"].as_array().unwrap() {
        let kind = &golden["layers"]["kinds"][run[1].as_u64().unwrap() as usize];
        for _ in 0..run[0].as_u64().unwrap() {
            weights.extend(kind.as_array().unwrap().iter().map(|row| weight(&format!("blk.{number}."), row)));
            number += 1;
        }
    }
    Subject { metadata: metadata(&golden["keys"]), weights }
}

fn options(row: &Json) -> Options {
    let dtype: DType = row[2].as_str().unwrap().parse().unwrap();
    Options {
        context: row[0].as_u64(),
        parallel: row[1].as_u64().unwrap(),
        kv_types: [dtype; 2],
        flash_attention: row[3] == 1,
        swa_full: row[4] == 1,
        ubatch: row[5].as_u64().unwrap(),
        ..Options::default()
    }
}

/// Where the modelled compute buffer is off by more than a tenth and a mebibyte in some rows, and why.
const OFF: &[(&str, &[&str])] = &[
    (
        "ggml's allocator leaves gaps between the logits and what is needed beside them",
        &["chameleon-7b", "deepseek-v2-lite", "dots.llm1", "falcon-h1-1.5b", "phi-3-mini"],
    ),
    ("it leaves gaps between what the experts need and what the network beside them does", &["arctic-480b"]),
    ("no layer after the first has attention, so its mask makes room", &["deci"]),
];

/// llama.cpp's figures, which `fixtures/make-fit.py` asked it for: weights and caches to the byte.
#[test]
fn figures_equal_those_of_llama_cpp() {
    let golden = fixture("fit.json");
    let subjects = golden["small"].as_object().unwrap().iter().map(|(name, figures)| {
        let mut subject = small(name);
        for (key, value) in metadata(figures.get("more keys").unwrap_or(&json!([]))).iter() {
            subject.metadata.set(key, value.clone());
        }
        (name, subject, figures)
    });
    let real = golden["published"].as_object().unwrap().iter().map(|(name, figures)| (name, published(figures), figures));
    let (mut rows, mut near, mut unknown) = (0, 0, 0);
    let (mut wrong, mut off): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (name, subject, figures) in subjects.chain(real) {
        for row in figures["rows"].as_array().unwrap() {
            let options = options(row);
            let fit = Needs::new(&subject, &options)
                .and_then(|needs| needs.fit(&options))
                .unwrap_or_else(|error| panic!("{name} {row}: {error}"));
            rows += 1;
            let found = json!([fit.weights.total(), fit.kv_bytes + fit.state_bytes]);
            let wanted = json!([figures["model"], row[6]]);
            if found != wanted {
                wrong.push(format!("{name} {row}: {found}, expected {wanted}"));
            }
            let Some(found) = fit.compute_bytes else {
                unknown += 1;
                continue;
            };
            let wanted = row[7].as_u64().unwrap();
            near += usize::from(found.abs_diff(wanted) * 10 <= wanted);
            if found.abs_diff(wanted) > (wanted / 10).max(1 << 20) {
                off.push(format!("{name} {row}: {found}, {:.2}", found as f64 / wanted as f64));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{rows} rows, compute within a tenth in {near}, not modelled in {unknown}");
    let listed = |row: &&String| OFF.iter().any(|(_, names)| names.iter().any(|name| row.starts_with(&format!("{name} "))));
    let surprising: Vec<&String> = off.iter().filter(|row| !listed(row)).collect();
    assert!(surprising.is_empty(), "{} of {rows}:\n{off:#?}", surprising.len());
    for name in OFF.iter().flat_map(|(_, names)| *names) {
        assert!(off.iter().any(|row| row.starts_with(&format!("{name} "))), "{name} is within the tolerance");
    }
    assert!(near * 100 >= rows * 90, "{near} of {rows}");
}

/// Every small model has figures, is measured in a published shape of its family instead, or cannot be loaded by llama.cpp, which says why; or
/// the caches of its architecture are not modelled.
#[test]
fn every_small_model_is_measured_or_has_a_reason() {
    let golden = fixture("fit.json");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/arch");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    for name in names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()) {
        let instead = golden["too small for llama.cpp"][&name].as_str();
        let measured = golden["small"].get(&name).is_some() || instead.is_some_and(|shape| golden["published"].get(shape).is_some());
        let reason = golden["not loaded by llama.cpp"][&name].as_str().is_some_and(|why| !why.is_empty());
        let model = fixture(&format!("arch/{name}.json"));
        let projector = model.get("projector").is_some();
        let unmodelled =
            !projector && memory::caches(&metadata(&model["keys"])).is_err_and(|error| error.message().starts_with("it is not known"));
        assert_eq!(1, [measured, reason || unmodelled, projector].iter().filter(|found| **found).count(), "{name}");
    }
}

/// llama.cpp's figures for a device of its own: weights and caches there to the byte, with some layers on it and some experts on the host.
#[test]
fn a_device_has_what_llama_cpp_places_there() {
    let golden = fixture("fit.json");
    let mut rows = 0;
    for (name, figures) in golden["published"].as_object().unwrap() {
        let subject = published(figures);
        for row in figures["device"].as_array().unwrap() {
            let number = |index: usize| row[index].as_u64().unwrap();
            let options =
                Options { context: Some(number(0)), layers_on_device: Some(number(1)), experts_on_host: number(2), ..Options::default() };
            let needs = Needs::new(&subject, &options).unwrap();
            let fit = needs.fit(&options).unwrap();
            let stored = fit.device_bytes.unwrap() - fit.compute_bytes.unwrap_or(0);
            assert_eq!(stored, number(3) + number(4), "{name} {row}");
            assert_eq!(
                fit.total_bytes + if number(1) > 0 { needs.placed.tied } else { 0 },
                fit.device_bytes.unwrap() + fit.host_bytes.unwrap()
            );
            rows += 1;
        }
    }
    assert!(rows >= 200, "{rows}");
}

fn gguf(keys: &[(&str, Value)]) -> Subject {
    let mut metadata = Metadata::new();
    for (key, value) in keys {
        metadata.set(*key, value.clone());
    }
    Subject { metadata, weights: Vec::new() }
}

#[test]
fn what_is_not_known_is_an_error_that_names_it() {
    let error = |keys: &[(&str, Value)]| Needs::new(&gguf(keys), &Options::default()).err().unwrap().to_string();
    let text = |text: &str| Value::String(text.to_owned());
    assert!(error(&[]).contains("no architecture"));
    assert!(error(&[("general.architecture", text("unheard-of"))]).contains("unheard-of"));
    assert!(error(&[("general.architecture", text("llama"))]).contains("llama.block_count"));
    let gemma4 = [
        ("general.architecture", text("gemma4")),
        ("gemma4.block_count", Value::U32(2)),
        ("gemma4.attention.sliding_window", Value::U32(512)),
    ];
    assert!(error(&gemma4).contains("gemma4.attention.sliding_window_pattern"));
    let many = [("general.architecture", text("llama")), ("llama.block_count", Value::U32(u32::MAX))];
    assert!(error(&many).contains("512"));
}

#[test]
fn figures_that_overflow_are_errors() {
    let keys = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.block_count", Value::U32(512)),
        ("llama.context_length", Value::U64(u64::MAX)),
        ("llama.embedding_length", Value::U64(u64::MAX)),
        ("llama.attention.head_count", Value::U32(1)),
    ];
    let needs = Needs::new(&gguf(&keys), &Options::default());
    assert!(needs.and_then(|needs| needs.fit(&Options { memory: Some(1), ..Options::default() })).is_err());
}

#[test]
fn types_of_blocks_need_heads_of_whole_blocks() {
    let subject = small("llama3");
    let options = Options { context: Some(512), kv_types: [DType::Q8_0; 2], ..Options::default() };
    let error = Needs::new(&subject, &options).unwrap().fit(&options).unwrap_err();
    assert!(error.message().contains("blocks of 32"), "{error}");
    let without = Options { flash_attention: false, ..options };
    assert!(Needs::new(&subject, &without).err().unwrap().message().contains("flash attention"));
}

/// Gemma 3 with 4 billion weights: at 16 bits, 29 of 34 layers have a window of 1,024.
#[test]
fn the_longest_context_and_the_most_layers_fit_and_no_more() {
    let golden = fixture("fit.json");
    let subject = published(&golden["published"]["gemma-3-4b"]);
    let memory = 9_000_000_000;
    let at = |context: u64| {
        let options = Options { context: Some(context), memory: Some(memory), ..Options::default() };
        Needs::new(&subject, &options).unwrap().fit(&options).unwrap()
    };
    let longest = at(512).max_context.unwrap();
    assert!(longest > 512 && longest < 131_072, "{longest}");
    assert!(at(longest).total_bytes <= memory);
    assert!(at(longest + 1).total_bytes > memory);
    let fit = at(512);
    assert_eq!((fit.layers, fit.layers_on_device), (35, Some(35)));
    // The output matrix comes first, so with a byte less, the first layer stays on the host.
    let fewer = Options {
        context: Some(512),
        memory: Some(fit.total_bytes - fit.weights.embeddings + 262_208 * 2560 * 2 - 1),
        ..Options::default()
    };
    assert_eq!(Needs::new(&subject, &fewer).unwrap().fit(&fewer).unwrap().layers_on_device, Some(34));
}

/// An encoder beside the model takes of the same memory.
#[test]
fn an_encoder_beside_the_model_counts() {
    let golden = fixture("fit.json");
    let subject = published(&golden["published"]["gemma-3-4b"]);
    let options = Options { context: Some(512), memory: Some(9_000_000_000), ..Options::default() };
    let fit = |beside: u64, options: &Options| Needs { beside, ..Needs::new(&subject, options).unwrap() }.fit(options).unwrap();
    let encoder = 851_251_104;
    let (without, with) = (fit(0, &options), fit(encoder, &options));
    assert_eq!(with.total_bytes, without.total_bytes + encoder);
    assert!(with.max_context < without.max_context);
    let room = Options { memory: Some(9_000_000_000 - encoder), ..options.clone() };
    assert_eq!(with.max_context, fit(0, &room).max_context);
    assert_eq!(with.layers_on_device, fit(0, &room).layers_on_device);
    // On a device with half of the layers, it is there as well.
    let half = Options { layers_on_device: Some(17), ..options };
    assert_eq!(fit(encoder, &half).device_bytes, fit(0, &half).device_bytes.map(|bytes| bytes + encoder));
    assert_eq!(fit(encoder, &half).host_bytes, fit(0, &half).host_bytes);
}

/// The experts of Qwen 3 30B-A3B: 3 matrices of 128 x 768 x 2,048 in Q4_K, 144 bytes for 256 weights.
#[test]
fn experts_on_the_host_are_not_on_the_device() {
    let golden = fixture("fit.json");
    let subject = published(&golden["published"]["qwen3-30b-a3b"]);
    let device = |experts_on_host: u64| {
        let options = Options { context: Some(4096), layers_on_device: Some(99), experts_on_host, ..Options::default() };
        Needs::new(&subject, &options).unwrap().fit(&options).unwrap()
    };
    // The other layers are on the device if nothing else is asked for.
    let options = Options { context: Some(4096), experts_on_host: 30, ..Options::default() };
    assert_eq!(Needs::new(&subject, &options).unwrap().fit(&options).unwrap().device_bytes, device(30).device_bytes);
    let experts = 3 * 128 * 768 * 2048 / 256 * 144;
    assert_eq!(device(0).device_bytes.unwrap() - device(30).device_bytes.unwrap(), 30 * experts);
    let fit = device(30);
    assert_eq!(fit.device_bytes.unwrap() + fit.host_bytes.unwrap(), fit.total_bytes);
}

/// vLLM's pages: 2 x KV heads x head size x layers x 2 bytes; Llama 3.1 8B has 32 layers with 8 KV heads of 128.
#[test]
fn a_token_of_the_paged_cache() {
    assert_eq!(2 * 8 * 128 * 32 * 2, 131_072);
    let golden = fixture("fit.json");
    let options = Options { context: Some(512), ..Options::default() };
    let fit = Needs::new(&published(&golden["published"]["llama-3.1-8b"]), &options).unwrap().fit(&options).unwrap();
    assert_eq!(fit.per_token_bytes, 131_072);
}
