//! Round trips of every table: names, shapes and bytes, for models synthesized from the table.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::base::bytes::Endian;
use crate::base::finding::Findings;
use crate::base::limits;

use crate::family::config::Config;
use crate::family::mapping::{HfTensor, Mapping};
use crate::family::table::{Table, Tables};
use crate::family::transform::Transform;
use crate::family::{hyperparameters, pattern};
use crate::format::{Reader, codes};
use crate::model::companion::Content;
use crate::model::{Array, DType, ElemType, FormatId, Metadata, Model, Module, Shard, TensorInfo, Value, ValueType};
use crate::source::InMemory;
use crate::view::output_model::{OutputModel, OutputTensor, Source};
use crate::view::tensor_expr::{self, TensorExpr};
use crate::view::transform::Shaped;
use crate::view::{canonical, check, general, lora, to_gguf, to_hf};

/// Returns an open model of BF16 or F32 tensors, given by name, shape, type and bytes.
fn reader(tensors: Vec<(String, Vec<u64>, DType, Vec<u8>)>, metadata: Metadata, config: Option<Json>) -> Reader {
    let mut infos = Vec::new();
    let mut all = Vec::new();
    for (name, shape, dtype, bytes) in tensors {
        let (offset_bytes, len_bytes) = (all.len() as u64, Some(bytes.len() as u64));
        infos.push(TensorInfo { name, elem: ElemType::Known(dtype), shape, shard: 0, offset_bytes, len_bytes });
        all.extend(bytes);
    }
    let shards = vec![Shard { path: "a".into(), bytes: all.len() as u64 }];
    let model = Model { tensors: infos, shards, metadata, config, ..Model::default() };
    Reader::new(model, vec![Arc::new(InMemory::new("a", all))], Endian::Little)
}

/// Hyperparameters for every family at once, all distinct.
fn config(table: &Table) -> Json {
    if !table.params.is_empty() {
        return json!({
            "dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "hidden_dim": 20, "vocab_size": 7, "norm_eps": 1e-5,
            "yarn": { "factor": 4, "beta": 32, "alpha": 1, "apply_scale": false, "original_max_position_embeddings": 16 },
            "llama_4_scaling": { "beta": 0.1 },
        });
    }
    let mut config = json!({
        "architectures": [table.classes[0]], "model_type": table.model_types[0],
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20,
        "vocab_size": 7, "max_position_embeddings": 11, "type_vocab_size": 2, "num_local_experts": 3, "num_experts": 3, "n_routed_experts": 3,
        "num_experts_per_tok": 2, "moe_intermediate_size": 5, "shared_expert_intermediate_size": 9, "n_shared_experts": 1, "num_kv_heads": 2,
        "first_k_dense_replace": 1, "q_lora_rank": 10, "kv_lora_rank": 6, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 5,
        "moe_num_experts": 3, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1, "num_dense_layers": 1,
        "num_shared_experts": 1, "shared_intermediate_size": 9, "rotary_dim": 4,
        "routed_scaling_factor": 1.0, "logit_scale": 0.5, "rms_norm_eps": 1e-6, "layer_norm_eps": 1e-6,
        "rope_theta": 1e4, "sliding_window": 5, "tie_word_embeddings": false,
    });
    let names_of_few = json!({
        "expert_intermediate_size": 5, "layer_norm_epsilon": 1e-6, "local_attention": 4, "n_embd": 24, "n_head": 4, "n_layer": 2,
        "n_positions": 11, "norm_eps": 1e-6, "num_query_groups": 2, "seq_length": 11, "d_model": 24,
        "mlp_hidden_size": 20, "max_sequence_length": 11,
    });
    if let (Some(keys), Json::Object(more)) = (config.as_object_mut(), names_of_few) {
        keys.extend(more);
    }
    if table.name == "nomic-bert" {
        config["n_positions"] = json!(2048);
    }
    if table.name == "ministral3" {
        config["rope_parameters"] = json!({ "rope_type": "yarn", "factor": 4, "mscale_all_dim": 1, "llama_4_scaling_beta": 0.5 });
    }
    if let Some(keys) = config.as_object_mut()
        && !table.tensors.iter().any(|row| row.gguf.all().iter().any(|name| name.contains("_exps")))
    {
        keys.retain(|key, _| !key.contains("expert"));
    }
    config
}

/// Synthesizes a model of a table: every required tensor, with values that BF16 can represent.
fn made_up(table: &Table) -> Reader {
    let json = config(table);
    // The names are those of the table's rows, whatever the class is called.
    let mut of_rows = json.clone();
    of_rows["architectures"] = json!([]);
    let config = Config::new(table, &of_rows).unwrap();
    let mapping = Mapping::new(table, &config).unwrap();
    let mut tensors = Vec::new();
    let mut in_gguf = HashSet::new();
    let mut seed = 1u32;
    for row in mapping.rows.iter().filter(|row| !row.optional) {
        for places in row.indices() {
            // The first of several layouts.
            if !row.gguf.iter().all(|name| in_gguf.insert((name.clone(), places))) {
                continue;
            }
            for member in 0..row.members().unwrap() {
                let shape = row.shape.clone().unwrap_or_else(|| panic!("{}: {} has no shape", table.name, row.name()));
                let bytes = (0..shape.iter().product::<u64>())
                    .flat_map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        // From a quarter to a half, positive or negative: adding or subtracting one is exact.
                        (((seed >> 9) & 0x807f) as u16 | 0x3e80).to_le_bytes()
                    })
                    .collect();
                tensors.push((row.hf_name(places, member), shape, DType::BF16, bytes));
            }
        }
    }
    reader(tensors, Metadata::new(), Some(json))
}

/// Returns the bytes of an output tensor in its type, as a conversion would write them.
fn body(reader: &Reader, step: &OutputTensor) -> Vec<u8> {
    let origin = match &step.source {
        Source::Stored(index) => TensorExpr::stored(reader.model(), *index).unwrap(),
        Source::Made(origin) => origin.clone(),
    };
    let dtype = step.elem.known().unwrap();
    if dtype == origin.dtype() {
        return origin.eval_rows(reader, 0..origin.rows()).unwrap().into_owned();
    }
    let values = crate::view::tensor_expr::values(reader, &origin).unwrap();
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64).unwrap() as usize];
    crate::codec::codec(dtype).unwrap().encode.unwrap()(&values, None, &mut bytes);
    bytes
}

/// The name, shape, type and bytes of a tensor.
type Tensor = (String, Vec<u64>, DType, Vec<u8>);

fn written(reader: &Reader, steps: &[OutputTensor]) -> Vec<Tensor> {
    steps.iter().map(|step| (step.name.clone(), step.shape.clone(), step.elem.known().unwrap(), body(reader, step))).collect()
}

/// Whether a tensor is back: bit for bit, unless its transform loses something, which each of these says in its documentation.
fn same_values(made: &Tensor, original: &Tensor, transform: &str) -> bool {
    let values = |tensor: &Tensor| {
        let codec = crate::codec::codec(tensor.2).unwrap();
        let mut values = vec![0.0; tensor.1.iter().product::<u64>() as usize];
        (codec.decode)(&tensor.3, &mut values);
        values
    };
    if transform.contains("SkipRows") {
        let (made, original) = (values(made), values(original));
        return made.iter().zip(&original).all(|(made, original)| made == original || *made == 0.0);
    }
    if transform.contains("NegExp") {
        return values(made).iter().zip(values(original)).all(|(made, original)| (made - original).abs() <= original.abs() * 0.004);
    }
    made.3 == original.3
}

/// A model of each table, and those that the reference has converted.
fn models() -> Vec<(String, Table, Reader)> {
    let (tables, goldens) = (Tables::default(), goldens());
    let with_golden: HashSet<&str> = goldens.iter().map(|golden| golden.table.name.as_str()).collect();
    let others = tables.all().unwrap().into_iter().filter(|table| table.params.is_empty() && !with_golden.contains(table.name.as_str()));
    let others = others.map(|table| (table.name.clone(), table.clone(), made_up(table)));
    // Packed weights come back unpacked.
    let texts = goldens.iter().filter(|golden| !golden.is_projector() && golden.json["config"]["quantization_config"].is_null());
    others.chain(texts.map(|golden| (golden.name.clone(), golden.table.clone(), golden.reader()))).collect()
}

/// All tensors of a model as they are.
fn keep_all(model: &Model) -> Vec<OutputTensor> {
    (0..model.tensors.len()).map(|i| OutputTensor::keep(model, i).unwrap()).collect()
}

#[test]
fn every_table_round_trips_byte_for_byte() {
    let tables = Tables::default();
    for (name, table, hf) in models() {
        let table = &table;
        let steps = to_gguf::canonical(hf.model(), &tables).unwrap_or_else(|error| panic!("{}: {error}", table.name));
        for step in &steps {
            let is_norm = step.name.ends_with("_norm.weight");
            assert!(!is_norm || (step.fixed && step.elem.known() == Some(DType::F32)), "{}: {} stays F32", table.name, step.name);
        }
        let (_, _, config) = to_gguf::read_config(hf.model(), &tables).unwrap();
        let (tensors, metadata) = converted(table, &hf);
        let gguf = reader(tensors, metadata, None);
        let back = to_hf::weights(&gguf, &tables, &to_hf::Options::default()).unwrap_or_else(|error| panic!("{}: {error}", table.name));
        let mapping = Mapping::new(table, &config).unwrap();
        let kept = |i: &usize| {
            !matches!(mapping.lookup_hf(&hf.model().tensors[*i].name), HfTensor::Dropped | HfTensor::Zero | HfTensor::Elsewhere)
        };
        let original: Vec<_> = (0..hf.model().tensors.len()).filter(kept).map(|i| OutputTensor::keep(hf.model(), i).unwrap()).collect();
        let (mut made, mut original) = (written(&gguf, &back.steps), written(&hf, &original));
        let Some(Content::Bytes(text)) = back.files.iter().find(|file| file.name == "config.json").map(|file| &file.content) else {
            panic!("no config.json")
        };
        let again: Json = serde_json::from_slice(text).unwrap();
        // What GGUF has multiplied stays so: the same GGUF comes of it.
        let scales = mapping.rows.iter().any(|row| format!("{:?}", row.transform).contains("Scale"));
        if scales {
            let hf = reader(made.clone(), Metadata::new(), Some(again.clone()));
            let steps = to_gguf::canonical(hf.model(), &tables).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (mut twice, mut once) = (written(&hf, &steps), written(&gguf, &keep_all(gguf.model())));
            twice.sort();
            once.sort();
            assert!(twice == once, "{name}");
        }
        // Modules that the model was in (`language_model`) are not in a GGUF.
        for tensor in made.iter_mut().chain(&mut original) {
            tensor.0 = pattern::strip_prefixes(&tensor.0, &table.prefixes).to_owned();
        }
        // Logarithms need single precision.
        for tensor in original.iter_mut().filter(|tensor| tensor.0.ends_with("A_log") && tensor.2 == DType::BF16) {
            tensor.2 = DType::F32;
            tensor.3 = tensor.3.as_chunks::<2>().0.iter().flat_map(|pair| [0, 0, pair[0], pair[1]]).collect();
        }
        made.sort();
        original.sort();
        // Which of Mamba's were in F32 a GGUF does not record.
        let dtype = |tensor: &Tensor| (!tensor.0.ends_with("A_log")).then_some(tensor.2);
        let listed = |tensors: &[Tensor]| tensors.iter().map(|t| (t.0.clone(), t.1.clone(), dtype(t))).collect::<Vec<_>>();
        assert_eq!(listed(&made), listed(&original), "{name}");
        for (made, original) in made.iter().zip(&original) {
            let HfTensor::Row(number, ..) = mapping.lookup_hf(&original.0) else { panic!("{name}: {}", original.0) };
            let transform = format!("{:?}", mapping.rows[number].transform);
            assert!(transform.contains("Scale") || same_values(made, original, &transform), "{name}: {}", original.0);
        }
        // A plain Mistral that was the text part of another class is one again.
        assert_eq!(tables.for_config(&again).unwrap().gguf, if name == "mistral-small3" { "llama" } else { &table.gguf }, "{name}");
        if ["qwen2moe", "qwen3moe"].contains(&table.name.as_str()) {
            // `Qwen2MoeConfig` and `Qwen3MoeConfig` of transformers have no other name for it.
            assert_eq!(Some(&again["num_experts"]), config.get("num_experts").or(config.get("num_local_experts")), "{}", table.name);
        }
        let (before, after) = (hf.model().config.as_ref().unwrap(), Config::new(table, &again).unwrap());
        for row in &table.keys {
            let Some(key) = row.hf.first().filter(|key| before.get(key).is_some()) else { continue };
            let absent = row.nonzero.then_some(0.0);
            assert_eq!(after.number(key).or(absent), config.number(key).or(absent), "{name}: {key}");
        }
    }
}

#[test]
fn vendor_formats_give_the_same_gguf_names() {
    let tables = Tables::default();
    let table = tables.all().unwrap().into_iter().find(|table| table.name == "llama-native").unwrap();
    let hf = made_up(table);
    let names: Vec<String> = to_gguf::canonical(hf.model(), &tables).unwrap().into_iter().map(|step| step.name).collect();
    assert!(names.contains(&"blk.1.ffn_down.weight".to_owned()), "{names:?}");
}

#[test]
fn missing_extra_and_misshapen_tensors_have_distinct_errors() {
    let tables = Tables::default();
    let table = tables.for_gguf("llama", |_| false).unwrap();
    let whole = made_up(&table).model().clone();
    let error = |change: &dyn Fn(&mut Model)| {
        let mut model = whole.clone();
        change(&mut model);
        to_gguf::canonical(&model, &tables).unwrap_err().to_string()
    };
    let missing = error(&|model| model.tensors.retain(|tensor| tensor.name != "model.layers.1.mlp.up_proj.weight"));
    assert!(missing.contains("model.layers.1.mlp.up_proj.weight") && missing.contains("is missing"), "{missing}");
    let extra = error(&|model| model.tensors[0].name = "model.surprise.weight".to_owned());
    assert!(extra.contains("model.surprise.weight") && extra.contains("is not in the architecture"), "{extra}");
    let layer = error(&|model| model.tensors[1].name = "model.layers.2.input_layernorm.weight".to_owned());
    assert!(layer.contains("model.layers.2.input_layernorm.weight"), "{layer}");
    let shape = error(&|model| model.tensors[0].shape = vec![3, 5]);
    assert!(shape.contains("[7, 24]") && shape.contains("[3, 5]"), "{shape}");
    let unknown = error(&|model| model.config = Some(json!({ "architectures": ["NobodysModel"] })));
    assert!(unknown.contains("NobodysModel"), "{unknown}");
    let none = error(&|model| model.config = None);
    assert!(none.contains("config.json"), "{none}");
    let hyper = error(&|model| model.config = Some(json!({ "architectures": ["LlamaForCausalLM"] })));
    assert!(hyper.contains("layers"), "{hyper}");
}

#[test]
fn copies_are_dropped_where_the_tensor_is_and_stand_for_it_where_not() {
    let (tables, golden) = (Tables::default(), goldens().into_iter().find(|golden| golden.name == "t5").unwrap());
    let whole = golden.reader().model().clone();
    let names = |names: &[&str]| {
        let mut model = whole.clone();
        let shared = model.tensors.iter().find(|tensor| tensor.name == "shared.weight").unwrap().clone();
        model.tensors.retain(|tensor| tensor.name != "shared.weight");
        model.tensors.extend(names.iter().map(|name| TensorInfo { name: (*name).to_owned(), ..shared.clone() }));
        model
    };
    let embeddings = |model: &Model| {
        let steps = to_gguf::canonical(model, &tables).unwrap();
        steps.iter().filter(|step| step.name == "token_embd.weight").count()
    };
    for found in [
        &["shared.weight"][..],
        &["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "shared.weight"],
        &["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
        &["decoder.embed_tokens.weight"],
    ] {
        assert_eq!(embeddings(&names(found)), 1, "{found:?}");
        assert_eq!(checked(&names(found)), [], "{found:?}");
    }
    let error = to_gguf::canonical(&names(&[]), &tables).unwrap_err().to_string();
    assert!(error.contains("shared.weight") && error.contains("is missing"), "{error}");
}

#[test]
fn numbers_that_gguf_holds_in_a_key_are_as_many_as_the_layers() {
    let golden = goldens().into_iter().find(|golden| golden.name == "apertus").unwrap();
    let (tensors, mut metadata) = converted(&golden.table, &golden.reader());
    let back = |metadata: &Metadata| {
        let gguf = reader(tensors.clone(), metadata.clone(), None);
        to_hf::weights(&gguf, &Tables::default(), &to_hf::Options::default()).map_err(|error| error.to_string())
    };
    let made = back(&metadata).unwrap();
    let alpha = made.steps.iter().find(|step| step.name == "model.layers.1.mlp.act_fn.alpha_n").unwrap();
    assert_eq!((&alpha.shape[..], alpha.elem.known()), (&[1][..], Some(DType::BF16)));
    metadata.set("xielu.alpha_n", Value::Array(Array::new(ValueType::F32, vec![Value::F32(1.0)])));
    let error = back(&metadata).unwrap_err();
    assert!(error.contains("expected 2 numbers in xielu.alpha_n, found 1"), "{error}");
    metadata.remove("xielu.alpha_n");
    let error = back(&metadata).unwrap_err();
    assert!(error.contains("the key xielu.alpha_n is missing"), "{error}");
}

#[test]
fn tensors_of_an_unknown_architecture_are_unchanged() {
    let tables = Tables::default();
    let table = tables.for_gguf("llama", |_| false).unwrap();
    let mut model = made_up(&table).model().clone();
    assert!(canonical(&model, &tables).unwrap().iter().any(|step| step.name == "token_embd.weight"));
    model.config = Some(json!({}));
    assert_eq!(canonical(&model, &tables).unwrap()[0].name, model.tensors[0].name);
}

fn fnv32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The reference weights, derived from the tensor's name.
fn weights(name: &str, count: u64, dtype: DType) -> Vec<u8> {
    let mut seed = fnv32(name);
    let mut bytes = Vec::new();
    for _ in 0..count {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bits = ((seed >> 9) & 0x807f) as u16 | 0x3e80;
        match dtype {
            DType::BF16 => bytes.extend(bits.to_le_bytes()),
            DType::U8 => bytes.push((bits & 0x7f) as u8),
            _ => bytes.extend((u32::from(bits) << 16).to_le_bytes()),
        }
    }
    bytes
}

/// A small model and what llama.cpp's converter makes of it: see fixtures/make-arch.py.
struct Golden {
    name: String,
    table: Table,
    json: Json,
}

impl Golden {
    /// Whether it is of the encoder of pictures or sounds.
    fn is_projector(&self) -> bool {
        self.json["projector"] == true
    }

    /// Returns the model, with weights that follow from their names.
    fn reader(&self) -> Reader {
        let tensors = self.json["tensors"].as_array().unwrap().iter().map(|row| {
            let (name, dtype) = (row[0].as_str().unwrap(), DType::from_safetensors(row[1].as_str().unwrap()).unwrap());
            let shape: Vec<u64> = row[2].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
            // Tensors that must be zero for a GGUF are.
            let bytes = match self.json["zeros"].as_array().is_some_and(|zeros| zeros.contains(&row[0])) {
                true => vec![0; dtype.bytes_for(shape.iter().product()).unwrap() as usize],
                false => weights(name, shape.iter().product(), dtype),
            };
            (name.to_owned(), shape, dtype, bytes)
        });
        let reader = reader(tensors.collect(), Metadata::new(), Some(self.json["config"].clone()));
        let modules = self.json["modules"].as_array().into_iter().flatten().map(|row| Module {
            path: row[0].as_str().unwrap().to_owned(),
            kind: row[1].as_str().unwrap().to_owned(),
            config: row[2].clone(),
            shard: Some(0),
        });
        let model = Model { modules: modules.collect(), ..reader.model().clone() };
        Reader::computed(&reader, model, std::collections::HashMap::new())
    }
}

fn goldens() -> Vec<Golden> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/arch");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let tables = Tables::default();
        let table = match json["projector"] == true {
            true => tables.projector_for_config(&json["config"]).unwrap().unwrap(),
            false => tables.for_config(&json["config"]).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        };
        Golden { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), table, json }
    };
    let found: Vec<Golden> = std::fs::read_dir(folder).unwrap().map(read).collect();
    assert!(found.len() > 50);
    found
}

/// Returns numbers of F32 as BF16.
fn in_bf16(bytes: &[u8]) -> Vec<u8> {
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let mut encoded = vec![0; values.len() * 2];
    crate::codec::codec(DType::BF16).unwrap().encode.unwrap()(&values, None, &mut encoded);
    encoded
}

/// Whether a value is that of the reference, which JSON holds.
fn is_value(found: &Value, wanted: &Json) -> bool {
    match found {
        Value::String(text) => wanted.as_str() == Some(text),
        Value::Bool(value) => wanted.as_bool() == Some(*value),
        Value::Array(array) => {
            let wanted = wanted.as_array().unwrap();
            array.len() == wanted.len() as u64 && array.iter().zip(wanted).all(|(found, wanted)| is_value(&found.unwrap(), wanted))
        }
        number => number.as_f64().map(|number| number as f32) == wanted.as_f64().map(|wanted| wanted as f32),
    }
}

/// Returns the type of a value as gguf-py names it, with that of the elements for an array.
fn type_name(value: &Value) -> String {
    let name = |value_type: ValueType| match value_type {
        ValueType::U32 => "UINT32",
        ValueType::I32 => "INT32",
        ValueType::F32 => "FLOAT32",
        ValueType::Bool => "BOOL",
        ValueType::String => "STRING",
        other => panic!("{other:?}"),
    };
    match value {
        Value::Array(array) => format!("ARRAY/{}", name(array.elem())),
        other => name(other.value_type()).to_owned(),
    }
}

#[test]
fn keys_and_tensors_equal_those_of_llama_cpps_converter() {
    for golden in goldens() {
        let (name, hf) = (&golden.name, crate::quant::packed::repacked(golden.reader()).unwrap());
        let draft = match golden.is_projector() {
            true => to_gguf::projector(hf.model(), &Tables::default(), golden.json["preprocessor"].clone(), None),
            false => to_gguf::without_tokenizer(&hf, &Tables::default()),
        };
        let draft = draft.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut made: Vec<Json> = written(&hf, &draft.steps)
            .iter()
            .map(|(name, shape, dtype, bytes)| {
                // Exponentials differ in the last bit between libraries.
                let bytes = if name.ends_with(".ssm_a") { in_bf16(bytes) } else { bytes.clone() };
                json!([name, dtype.name(), shape, format!("{:016x}", fnv64(&bytes))])
            })
            .collect();
        let mut wanted = golden.json["gguf"].as_array().unwrap().clone();
        // The converter sorts tensors by name, weigh keeps the file order.
        made.sort_by_key(Json::to_string);
        wanted.sort_by_key(Json::to_string);
        assert_eq!(made, wanted, "{name}");
        for row in golden.json["keys"].as_array().unwrap() {
            let (key, wanted_type, wanted) = (row[0].as_str().unwrap(), row[1].as_str().unwrap(), &row[2]);
            let found = draft.metadata.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
            assert!(is_value(found, wanted), "{name}: {key} is {found:?}, and {wanted} in the reference");
            assert_eq!(type_name(found), wanted_type, "{name}: {key}");
        }
        let own = ["general.name", "general.architecture"];
        let keys: HashSet<&str> = golden.json["keys"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
        let more: Vec<&str> = draft.metadata.iter().map(|(key, _)| key).filter(|key| !keys.contains(key) && !own.contains(key)).collect();
        assert!(more.is_empty(), "{name}: {more:?}");
    }
}

/// Published models have the fused experts of Qwen 3-VL transposed, and transformers 5 may save them otherwise.
#[test]
fn fused_experts_are_told_by_their_shape() {
    let golden = goldens().into_iter().find(|golden| golden.name == "qwen3vlmoe").unwrap();
    let published = golden.reader();
    let turned = stored(&published).into_iter().zip(&published.model().tensors).map(|(kept, tensor)| {
        let made = if tensor.name.contains(".experts.") { Transform::Transpose.forward(vec![kept]).unwrap().remove(0) } else { kept };
        let bytes = made.origin.eval_rows(&published, 0..made.origin.rows()).unwrap().into_owned();
        (tensor.name.clone(), made.shape, made.origin.dtype(), bytes)
    });
    let turned = reader(turned.collect(), Metadata::new(), published.model().config.clone());
    let made = |hf: &Reader| written(hf, &to_gguf::canonical(hf.model(), &Tables::default()).unwrap());
    assert!(turned.model().tensors != published.model().tensors);
    assert_eq!(made(&turned), made(&published));
}

#[test]
fn encoders_come_back_by_themselves() {
    let tables = Tables::default();
    for golden in goldens().into_iter().filter(Golden::is_projector) {
        let (name, hf) = (&golden.name, golden.reader());
        let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
        let made = reader(written(&hf, &encoder.steps), encoder.metadata.clone(), None);
        let gguf = Reader::computed(&made, Model { format: FormatId::Gguf, ..made.model().clone() }, std::collections::HashMap::new());
        let (table, config) = to_hf::read_projector(gguf.model(), &tables).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mapping = Mapping::new(&table, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut back = OutputModel::default();
        to_hf::steps(&gguf, &mapping, &[], &|_| true, &mut back).unwrap_or_else(|error| panic!("{name}: {error}"));
        if RENAMED.contains(&name.as_str()) {
            continue;
        }
        let sorted = |tensors: Vec<Tensor>| {
            let mut tensors: Vec<Tensor> =
                tensors.into_iter().map(|tensor| (without_modules(&tensor.0), tensor.1, tensor.2, tensor.3)).collect();
            tensors.sort();
            tensors
        };
        let made = sorted(written(&gguf, &back.steps));
        let original: Vec<_> = (0..hf.model().tensors.len()).map(|i| OutputTensor::keep(hf.model(), i).unwrap()).collect();
        let original = sorted(written(&hf, &original));
        // Without the text model, the type of its weights is not known.
        let is = |a: &Tensor, b: &Tensor| (&a.0, &a.1) == (&b.0, &b.1) && (a.2 != b.2 || a.3 == b.3);
        assert!(!made.is_empty() && made.iter().all(|tensor| original.iter().any(|own| is(tensor, own))), "{name}");
        let in_encoder = |name: &str| table.parts.iter().any(|part| name.trim_start_matches("model.").starts_with(part.as_str()));
        let dropped = |name: &str| encoder.notes.iter().any(|note| note.name == name);
        let wanted = hf.model().tensors.iter().filter(|tensor| in_encoder(&tensor.name) && !dropped(&tensor.name)).count();
        assert_eq!(made.len(), wanted, "{name}");
    }
}

/// Those that come back under the names of transformers.
const RENAMED: [&str; 1] = ["internvl-mmproj"];

#[test]
fn encoders_come_back_beside_their_text_model() {
    let tables = Tables::default();
    for golden in goldens().into_iter().filter(Golden::is_projector) {
        let (name, hf) = (&golden.name, golden.reader());
        let text = to_gguf::without_tokenizer(&hf, &tables).unwrap_or_else(|error| panic!("{name}: {error}"));
        let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
        let gguf = |draft: &OutputModel| {
            let made = reader(written(&hf, &draft.steps), draft.metadata.clone(), None);
            Reader::computed(&made, Model { format: FormatId::Gguf, ..made.model().clone() }, std::collections::HashMap::new())
        };
        let both = gguf(&text).with_projector(gguf(&encoder)).unwrap();
        let back = to_hf::weights(&both, &tables, &to_hf::Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let whole = written(&both, &back.steps);
        let mut made: Vec<_> =
            whole.clone().into_iter().map(|(name, shape, dtype, bytes)| (without_modules(&name), shape, dtype, bytes)).collect();
        let dropped = || text.notes.iter().chain(&encoder.notes).filter(|note| !note.message.ends_with(to_gguf::BESIDE));
        let kept = |tensor: &TensorInfo| !dropped().any(|note| note.name == tensor.name);
        let original = (0..hf.model().tensors.len()).filter(|&i| kept(&hf.model().tensors[i]));
        let original: Vec<_> = original.map(|i| OutputTensor::keep(hf.model(), i).unwrap()).collect();
        let mut original: Vec<_> =
            written(&hf, &original).into_iter().map(|(name, shape, dtype, bytes)| (without_modules(&name), shape, dtype, bytes)).collect();
        made.sort();
        original.sort();
        let listed = |tensors: &[Tensor]| tensors.iter().map(|t| (t.0.clone(), t.1.clone(), t.2)).collect::<Vec<_>>();
        if !RENAMED.contains(&name.as_str()) {
            assert_eq!(listed(&made), listed(&original), "{name}");
            assert!(made == original, "{name}: bytes");
        }
        // The files that came back say the same: converted again, they give the same keys and tensors.
        let file = |wanted: &str| {
            let found = back.files.iter().find(|file| file.name == wanted).unwrap_or_else(|| panic!("{name}: {wanted}"));
            let Content::Bytes(bytes) = &found.content else { panic!("{wanted}") };
            serde_json::from_slice::<Json>(bytes).unwrap()
        };
        let mut preprocessor = file("preprocessor_config.json");
        preprocessor["tokens"] = golden.json["preprocessor"]["tokens"].clone();
        let folder = reader(whole, Metadata::new(), Some(file("config.json")));
        let again = to_gguf::projector(folder.model(), &tables, preprocessor, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sorted = |mut tensors: Vec<Tensor>| {
            tensors.sort();
            tensors
        };
        assert!(sorted(written(&folder, &again.steps)) == sorted(written(&hf, &encoder.steps)), "{name}: converted again");
        let keys = |draft: &OutputModel| {
            draft
                .metadata
                .iter()
                .filter(|(key, _)| key.starts_with("clip."))
                .map(|(key, value)| format!("{key} {value:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&again), keys(&encoder), "{name}");
    }
}

/// Returns a name without the modules that versions of transformers put in different orders.
fn without_modules(name: &str) -> String {
    name.split('.').filter(|part| !["model", "language_model"].contains(part)).collect::<Vec<_>>().join(".")
}

#[test]
fn the_keys_of_every_table_have_their_types_checked() {
    use crate::family::table::KeyType;
    use crate::format::gguf::keys::{KeyType as Checked, type_of};
    for table in Tables::default().all().unwrap() {
        for row in table.keys.iter().filter(|row| row.rule.is_none()) {
            let key = crate::model::metadata::full_key(&table.gguf, &row.gguf);
            let wanted = match row.value_type {
                _ if row.text.is_some() => ValueType::String,
                KeyType::U32 => ValueType::U32,
                KeyType::I32 => ValueType::I32,
                KeyType::F32 => ValueType::F32,
                KeyType::Bool => ValueType::Bool,
                KeyType::String => ValueType::String,
            };
            let (found, _) = type_of(&key, &table.gguf).unwrap_or_else(|| panic!("{}: {key}", table.name));
            let element = if wanted == ValueType::U32 { ValueType::I32 } else { wanted };
            let is_pattern = found == Checked::LayerPattern && [ValueType::U32, ValueType::Bool].contains(&wanted);
            let is_list = [element, wanted].into_iter().any(|element| found == Checked::ArrayOf(element));
            let fits = found == Checked::One(wanted) || found == Checked::PerLayer(wanted) || is_list || is_pattern;
            assert!(fits, "{}: {key}: {found:?}", table.name);
        }
    }
}

/// Tensors of U8 whose elements count up: the first from 0, the second from 100, the third from 200.
fn counting(shapes: &[&[u64]]) -> Reader {
    let tensors = shapes.iter().enumerate().map(|(i, shape)| {
        let bytes = (0..shape.iter().product::<u64>()).map(|j| (j + 100 * i as u64) as u8).collect();
        (format!("t{i}"), shape.to_vec(), DType::U8, bytes)
    });
    reader(tensors.collect(), Metadata::new(), None)
}

fn stored(reader: &Reader) -> Vec<Shaped> {
    let shape = |i: usize| reader.model().tensors[i].shape.clone();
    (0..reader.model().tensors.len()).map(|i| Shaped { origin: TensorExpr::stored(reader.model(), i).unwrap(), shape: shape(i) }).collect()
}

#[test]
fn transforms_move_rows_to_these_places_and_back() {
    type Parts = &'static [(&'static [u64], &'static [u8])];
    // The shape in Hugging Face, whose elements count up, and the parts in GGUF.
    let cases: &[(Transform, &[u64], Parts)] = &[
        (Transform::SplitRows(vec![1, 2]), &[3], &[(&[1], &[0]), (&[2], &[1, 2])]),
        (Transform::SplitRows(vec![1, 2]), &[3, 2], &[(&[1, 2], &[0, 1]), (&[2, 2], &[2, 3, 4, 5])]),
        // Of planes, the rows of each.
        (
            Transform::SplitRows(vec![1, 3, 2]),
            &[2, 6, 1],
            &[(&[2, 1, 1], &[0, 6]), (&[2, 3, 1], &[1, 2, 3, 7, 8, 9]), (&[2, 2, 1], &[4, 5, 10, 11])],
        ),
        (Transform::SplitAlternate, &[2, 4, 1], &[(&[2, 2, 1], &[0, 2, 4, 6]), (&[2, 2, 1], &[1, 3, 5, 7])]),
        (Transform::SplitColumns, &[1, 3, 4], &[(&[1, 2, 3], &[0, 4, 8, 2, 6, 10]), (&[1, 2, 3], &[1, 5, 9, 3, 7, 11])]),
        (Transform::Transpose, &[2, 3], &[(&[3, 2], &[0, 3, 1, 4, 2, 5])]),
        // Two heads of four rows: the halves of each alternate.
        (Transform::RopePermute(2, None), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        // Two heads of four rows, of which the first two are pairs already; and of six, four of which rotate.
        (Transform::RopePermute(2, Some(2)), &[8], &[(&[8], &[0, 1, 2, 3, 4, 5, 6, 7])]),
        (Transform::RopePermute(2, Some(4)), &[12], &[(&[12], &[0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11])]),
        (Transform::RopeUnpermute(2, None), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::RopeUnpermute(1, Some(6)), &[7, 1], &[(&[7, 1], &[0, 2, 4, 1, 3, 5, 6])]),
        // Two groups of a row, two rows and a row.
        (Transform::Ungroup(vec![1, 2, 1]), &[8, 1], &[(&[8, 1], &[0, 4, 1, 2, 5, 6, 3, 7])]),
        // Two key heads with three value heads each, of two rows or columns.
        // Of several grids, each by itself.
        (Transform::TileHeads(2, 2, 1), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::TileHeads(2, 3, 2), &[12], &[(&[12], &[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11])]),
        (Transform::TileColumns(2, 2, 1), &[2, 4], &[(&[2, 4], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::Reshape(vec![2, 1, 3], vec![2, 3]), &[2, 1, 3], &[(&[2, 3], &[0, 1, 2, 3, 4, 5])]),
        // A convolution of two outputs over two frames of 1 x 2.
        (Transform::Unstack(1, 2), &[2, 2, 1, 2], &[(&[2, 1, 2], &[0, 1, 4, 5]), (&[2, 1, 2], &[2, 3, 6, 7])]),
        (Transform::Reshape(vec![4], vec![4, 1]), &[4], &[(&[4, 1], &[0, 1, 2, 3])]),
        (Transform::Reshape(vec![6], vec![2, 3]), &[6], &[(&[2, 3], &[0, 1, 2, 3, 4, 5])]),
        (
            Transform::Chain(vec![
                Transform::SplitRows(vec![2, 4]),
                Transform::Each(vec![Transform::Plain, Transform::TileHeads(2, 2, 1)]),
                Transform::JoinRows(vec![2, 4]),
            ]),
            &[6, 1],
            &[(&[6, 1], &[0, 1, 2, 4, 3, 5])],
        ),
        (
            Transform::Chain(vec![Transform::Transpose, Transform::SplitRows(vec![1, 2])]),
            &[2, 3],
            &[(&[1, 2], &[0, 3]), (&[2, 2], &[1, 4, 2, 5])],
        ),
        // Three groups of two queries, a key and a value, of two rows each.
        (
            Transform::GroupedQkv(6, 3),
            &[24],
            &[(&[24], &[0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 4, 5, 12, 13, 20, 21, 6, 7, 14, 15, 22, 23])],
        ),
        // Two heads, each of two rows of keys and one of values; keys are transposed.
        (
            Transform::SplitMla(2, 1),
            &[6, 3],
            &[(&[2, 3, 2], &[0, 3, 1, 4, 2, 5, 9, 12, 10, 13, 11, 14]), (&[2, 1, 3], &[6, 7, 8, 15, 16, 17])],
        ),
    ];
    for (transform, shape, parts) in cases {
        let hf = counting(&[shape]);
        let made = transform.forward(stored(&hf)).unwrap();
        assert_eq!(made.len(), parts.len(), "{transform:?}");
        let bytes = |made: &Shaped, reader: &Reader| made.origin.eval_rows(reader, 0..made.origin.rows()).unwrap().into_owned();
        for (made, (shape, values)) in made.iter().zip(*parts) {
            assert_eq!((&made.shape[..], &bytes(made, &hf)[..]), (*shape, *values), "{transform:?}");
        }
        let tensors = parts.iter().enumerate().map(|(i, (shape, values))| (format!("t{i}"), shape.to_vec(), DType::U8, values.to_vec()));
        let gguf = reader(tensors.collect(), Metadata::new(), None);
        let back = transform.backward(stored(&gguf)).unwrap();
        let [back] = &back[..] else { panic!("{transform:?}: {}", back.len()) };
        let counted: Vec<u8> = (0..shape.iter().product::<u64>() as u8).collect();
        assert_eq!((&back.shape[..], bytes(back, &gguf)), (*shape, counted), "{transform:?}");
    }
}

#[test]
fn experts_become_one_tensor_and_come_back() {
    let hf = counting(&[&[2, 1], &[2, 1], &[2, 1]]);
    let stacked = Transform::StackExperts.forward(stored(&hf)).unwrap();
    assert_eq!(stacked[0].shape, [3, 2, 1]);
    let back = Transform::StackExperts.backward(stacked).unwrap();
    let found: Vec<_> = back.iter().map(|made| made.origin.eval_rows(&hf, 0..2).unwrap().into_owned()).collect();
    assert_eq!(found, [[0, 1], [100, 101], [200, 201]]);
    // As many experts as a model may have, and one more.
    let empty = |experts| Transform::StackExperts.backward(stored(&counting(&[&[experts, 0]]))).map(|made| made.len() as u64);
    assert_eq!(empty(limits::PARTS).unwrap(), limits::PARTS);
    assert!(empty(limits::PARTS + 1).is_err());
}

#[test]
fn shapes_that_do_not_fit_a_transform_are_refused() {
    let forward: &[(Transform, &[&[u64]])] = &[
        (Transform::SplitRows(vec![1, 2]), &[&[4, 2]]),
        (Transform::SplitRows(vec![1, 2]), &[&[3, 4, 2]]),
        (Transform::RopePermute(2, None), &[&[6, 1]]),
        (Transform::GroupedQkv(4, 3), &[&[20]]),
        (Transform::SplitMla(2, 1), &[&[7, 3]]),
        (Transform::SplitAlternate, &[&[2, 3, 1]]),
        (Transform::StackExperts, &[&[2, 1], &[1, 2]]),
        (Transform::Plain, &[&[1], &[1]]),
    ];
    for (transform, shapes) in forward {
        assert!(transform.forward(stored(&counting(shapes))).is_err(), "{transform:?} {shapes:?}");
    }
    let backward: &[(Transform, &[&[u64]])] = &[
        (Transform::SplitRows(vec![1, 2]), &[&[1, 2], &[3, 2]]),
        (Transform::SplitRows(vec![1, 2]), &[&[1, 2], &[2, 3]]),
        (Transform::SplitAlternate, &[&[2], &[3]]),
        (Transform::SplitMla(2, 1), &[&[2, 3, 2], &[2, 1, 4]]),
        (Transform::SplitMla(2, 1), &[&[2, 3, 3], &[2, 1, 3]]),
    ];
    for (transform, shapes) in backward {
        assert!(transform.backward(stored(&counting(shapes))).is_err(), "{transform:?} {shapes:?}");
    }
    let config = Config::new(&Table::parse("").unwrap(), &json!({})).unwrap();
    assert!(Transform::parse("split_rows(1)", &config).is_err(), "one part is no split");
    assert_eq!(Transform::parse("split_rows(1, 2)", &config).unwrap(), Transform::SplitRows(vec![1, 2]));
}

/// Q8_0 in ggml-common.h: a scale in F16, here 1, then 32 codes.
fn q8_0(rows: u8) -> Reader {
    let bytes = (0..rows).flat_map(|row| [vec![0x00, 0x3c], (0..32).map(|i| i + 32 * row).collect()].concat()).collect();
    reader(vec![("q".to_owned(), vec![rows.into(), 32], DType::Q8_0, bytes)], Metadata::new(), None)
}

#[test]
fn blocks_are_decoded_where_elements_move() {
    let blocks = q8_0(2);
    let origin = TensorExpr::stored(blocks.model(), 0).unwrap();
    // An element of a block cannot be moved alone.
    let elements = origin.clone().by_element().unwrap();
    assert_eq!((elements.dtype(), elements.rows(), elements.row_elements()), (DType::F32, 64, 1));
    assert_eq!(elements.eval_rows(&blocks, 33..35).unwrap(), [33.0f32.to_le_bytes(), 34.0f32.to_le_bytes()].concat());
    // Three nibbles end within a byte: only the whole can be moved.
    let nibbles = reader(vec![("f".to_owned(), vec![2, 3], DType::F4, vec![0; 3])], Metadata::new(), None);
    let whole = TensorExpr::stored(nibbles.model(), 0).unwrap();
    assert_eq!((whole.rows(), whole.row_elements()), (1, 6));
    let turned = origin.then(tensor_expr::RowOp::Transpose { rows: 2 }).unwrap();
    assert_eq!((turned.dtype(), turned.rows(), turned.row_elements()), (DType::F32, 32, 2));
    let expected: Vec<f32> = (0..32u8).flat_map(|i| [f32::from(i), f32::from(i + 32)]).collect();
    assert_eq!(tensor_expr::values(&blocks, &turned).unwrap(), expected);
}

#[test]
fn ranges_of_rows_are_those_and_no_others() {
    let bytes = counting(&[&[6, 1]]);
    let origin = TensorExpr::stored(bytes.model(), 0).unwrap();
    assert_eq!(origin.clone().slice(0, 6).unwrap().whole(), Some(0), "all rows are the tensor itself");
    let taken = origin.clone().then(tensor_expr::RowOp::SliceRows { start: 0, len: 2, of: 3 }).unwrap();
    assert_eq!(*taken.eval_rows(&bytes, 1..3).unwrap(), [1, 3]);
    assert_eq!(*taken.eval_rows(&bytes, 1..4).unwrap(), [1, 3, 4]);
    for origin in [origin.clone(), taken, TensorExpr::values([1.0])] {
        let rows = origin.rows();
        assert!(origin.eval_rows(&bytes, rows..rows).unwrap().is_empty());
        assert!(origin.eval_rows(&bytes, 0..rows + 1).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = origin.eval_rows(&bytes, 1..0);
        assert!(reversed.is_err());
    }
    assert_eq!(TensorExpr::join(vec![origin.clone(), origin]).unwrap().tensors(), [0], "each tensor once");
}

#[test]
fn a_size_counts_experts_once() {
    // `GGUFWriter.get_total_parameter_count` and `size_label` of gguf-py.
    let label = |tensors: &[(&str, &[u64])]| {
        let tensors = tensors.iter().map(|(name, shape)| (name.to_string(), shape.to_vec(), DType::U8, vec![])).collect();
        let model = reader(tensors, Metadata::new(), None);
        let steps: Vec<OutputTensor> = (0..model.model().tensors.len()).map(|i| OutputTensor::keep(model.model(), i).unwrap()).collect();
        let mut metadata = Metadata::new();
        general::to_gguf(None, &json!({}), &steps, &mut metadata, &mut Vec::new()).unwrap();
        metadata.get("general.size_label").and_then(Value::as_str).map(str::to_owned)
    };
    let shared: (&str, &[u64]) = ("token_embd.weight", &[1000, 1000]);
    assert_eq!(label(&[shared, ("blk.0.ffn_up_exps.weight", &[8, 1000, 500])]).as_deref(), Some("8x1.5M"));
    // A bias has its experts last but one; a vector of them counts as shared.
    assert_eq!(label(&[shared, ("blk.0.ffn_up_exps.bias", &[2, 4, 1_000_000])]).as_deref(), Some("4x3.0M"));
    assert_eq!(label(&[shared, ("blk.0.ffn_up_exps.bias", &[4, 250_000])]).as_deref(), Some("2.0M"));
    assert_eq!(label(&[shared, ("blk.0.ffn_up_exps.weight", &[0, 10, 10])]).as_deref(), Some("1000K"));
    assert_eq!(label(&[]), None);
}

#[test]
fn the_name_in_a_config_counts_unless_it_is_a_path() {
    let name = |path: &str| {
        let mut metadata = Metadata::new();
        general::to_gguf(None, &json!({ "_name_or_path": path }), &[], &mut metadata, &mut Vec::new()).unwrap();
        metadata.get("general.name").and_then(Value::as_str).map(str::to_owned).unwrap()
    };
    for (path, expected) in [("meta/llama-7b", "Llama 7b"), ("llama", "Llama"), ("", "model"), ("/home/me/llama", "model")] {
        assert_eq!(name(path), expected, "{path}");
    }
}

#[test]
fn bytes_of_a_merge_are_the_same_in_pieces() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora");
    let open = |name: &str| crate::format::open(&fixtures.join(name)).unwrap();
    for name in ["adapter", "dora", "tokens", "patterns", "for-gguf.gguf"] {
        for reader in [lora::merged(open("base"), vec![open(name)]).unwrap(), lora::updates(open(name)).unwrap()] {
            for tensor in &reader.model().tensors {
                let whole = reader.bytes(tensor).unwrap().into_owned();
                let (len, row) = (whole.len() as u64, tensor.row_elements() * 4);
                for range in
                    [0..1, 3..7, row - 1..row + 1, row..2 * row, row + 5..2 * row + 9, len.saturating_sub(row + 3)..len, len - 1..len]
                {
                    let range = range.start.min(len)..range.end.min(len);
                    let expected = &whole[range.start as usize..range.end as usize];
                    assert_eq!(*reader.bytes_at(tensor, range.clone()).unwrap(), *expected, "{name}: {} {range:?}", tensor.name);
                }
            }
        }
    }
}

/// A tensor by name, shape, type and bytes.
type Stored = (String, Vec<u64>, DType, Vec<u8>);

/// Returns the tensors and metadata of the GGUF that a made-up model of the table converts to.
fn in_gguf(table: &Table) -> (Vec<Stored>, Metadata) {
    converted(table, &made_up(table))
}

/// Returns the tensors and metadata of the GGUF that a model converts to.
fn converted(table: &Table, hf: &Reader) -> (Vec<Stored>, Metadata) {
    let draft = to_gguf::without_tokenizer(hf, &Tables::default()).unwrap();
    let mut metadata = draft.metadata;
    assert_eq!(metadata.get_str("general.architecture"), Some(table.gguf.as_str()));
    let types = hf.model().config.as_ref().and_then(|config| config["type_vocab_size"].as_u64());
    metadata.set("tokenizer.ggml.token_type_count", Value::U32(types.unwrap_or(2) as u32));
    if let Some((key, text)) = table.gguf_has.as_ref().and_then(|has| has.split_once(" = ")) {
        metadata.set(key, Value::String(text.to_owned()));
    }
    (written(hf, &draft.steps), metadata)
}

/// The table of this name.
fn table(tables: &Tables, name: &str) -> Table {
    tables.all().unwrap().into_iter().find(|table| table.name == name).unwrap().clone()
}

/// What is said of the tensors of a model: code and name.
fn checked(model: &Model) -> Vec<(&'static str, String)> {
    let mut findings = Findings::collect();
    check::check(model, &Tables::default(), &mut findings);
    findings.into_list().into_iter().map(|finding| (finding.code, finding.tensor.unwrap_or_default())).collect()
}

#[test]
fn whole_models_of_every_table_are_found_whole() {
    let tables = Tables::default();
    for (name, table, hf) in models() {
        // Goldens of text models have a few tensors of their encoders.
        let parts = tables.for_config(hf.model().config.as_ref().unwrap()).unwrap().parts;
        let of_encoder = |found: &str| {
            let found = pattern::strip_prefixes(found, &table.prefixes);
            parts.iter().any(|part| found.is_empty() || found.starts_with(part.as_str()))
        };
        let found: Vec<_> = checked(hf.model()).into_iter().filter(|(_, tensor)| !of_encoder(tensor)).collect();
        assert_eq!(found, [], "{name}");
        let (tensors, metadata) = converted(&table, &hf);
        let mut model = reader(tensors, metadata, None).model().clone();
        model.format = FormatId::Gguf;
        assert_eq!(checked(&model), [], "{name} in GGUF");
        let mut findings = Findings::collect();
        crate::format::gguf::check::metadata(&model.metadata, &model.path, &mut findings);
        let wrong: Vec<_> = findings.into_list().into_iter().filter(|finding| finding.code == codes::GGUF_KEY_TYPE).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}

#[test]
fn the_components_of_a_model_are_the_same_in_both_formats() {
    let by_component = |model: &Model| {
        let patterns = hyperparameters::components(model);
        let mut sums = BTreeMap::new();
        for tensor in &model.tensors {
            *sums.entry(patterns.classify(&tensor.name).component.name()).or_insert(0) += tensor.shape.iter().product::<u64>();
        }
        sums
    };
    for (name, table, hf) in models() {
        let (tensors, metadata) = converted(&table, &hf);
        let tensors = tensors.into_iter().filter(|(name, ..)| !name.starts_with("rope_")).collect();
        let gguf = by_component(reader(tensors, metadata, None).model());
        // Without what a GGUF does not hold.
        let (_, _, config) = to_gguf::read_config(hf.model(), &Tables::default()).unwrap();
        let mapping = Mapping::new(&table, &config).unwrap();
        let mut own = hf.model().clone();
        own.tensors
            .retain(|tensor| matches!(mapping.lookup_hf(&tensor.name), HfTensor::Row(number, ..) if mapping.rows[number].key.is_none()));
        let mut own = by_component(&own);
        // The first positions of RoBERTa are not in a GGUF.
        if mapping.rows.iter().any(|row| format!("{:?}", row.transform).contains("SkipRows")) {
            own.insert("embedding", gguf["embedding"]);
        }
        assert_eq!(own, gguf, "{name}");
        let is_said = table.name == "gemma3n"; // whose altup and laurel are neither
        assert!(is_said || !gguf.contains_key("other"), "{name}: {gguf:?}");
    }
}

#[test]
fn experts_that_are_missing_or_too_many_are_named() {
    let tables = Tables::default();
    let whole = made_up(&table(&tables, "qwen3moe")).model().clone();
    let name = |expert: u64| format!("model.layers.1.mlp.experts.{expert}.up_proj.weight");
    let mut model = whole.clone();
    model.tensors.iter_mut().find(|tensor| tensor.name == name(1)).unwrap().name = name(3);
    assert_eq!(checked(&model), [("arch-extra", name(3)), ("arch-missing", name(1))]);
    let error = to_gguf::canonical(&Model { tensors: without(&whole, &name(1)), ..whole.clone() }, &tables).unwrap_err().to_string();
    assert!(error.contains(&name(1)), "{error}");
    // All of them at once.
    let mut model = whole;
    model.tensors.retain(|tensor| !tensor.name.ends_with("up_proj.weight") || !tensor.name.starts_with("model.layers.1."));
    assert_eq!(checked(&model), (0..3).map(|expert| ("arch-missing", name(expert))).collect::<Vec<_>>());
}

fn without(model: &Model, name: &str) -> Vec<TensorInfo> {
    model.tensors.iter().filter(|tensor| tensor.name != name).cloned().collect()
}

#[test]
fn experts_one_by_one_in_gguf_are_not_called_missing() {
    let tables = Tables::default();
    let (tensors, metadata) = in_gguf(&table(&tables, "qwen3moe"));
    let mut whole = reader(tensors, metadata, None).model().clone();
    whole.format = FormatId::Gguf;
    let with = |name: &str| {
        let mut model = whole.clone();
        model.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up_exps.weight").unwrap().name = name.to_owned();
        checked(&model)
    };
    let missing = ("arch-missing", "blk.1.ffn_up_exps.weight".to_owned());
    assert_eq!(with("blk.1.ffn_up.0.weight"), [("arch-extra", "blk.1.ffn_up.0.weight".to_owned())]);
    // Of a layer that there is not, they take nothing's place; nor does what is no expert.
    for name in ["blk.2.ffn_up.0.weight", "blk.1.surprise.weight"] {
        assert_eq!(with(name), [("arch-extra", name.to_owned()), missing.clone()]);
    }
}

#[test]
fn shapes_that_are_wrong_are_told_with_those_that_are_right() {
    let tables = Tables::default();
    let mut model = made_up(&table(&tables, "llama")).model().clone();
    model.tensors.iter_mut().find(|tensor| tensor.name == "model.norm.weight").unwrap().shape = vec![12, 2];
    let mut findings = Findings::collect();
    check::check(&model, &tables, &mut findings);
    let found: Vec<_> = findings.into_list().into_iter().map(|finding| (finding.code, finding.message)).collect();
    let message = "expected shape [24] by the hyperparameters, found [12, 2]".to_owned();
    assert_eq!(found, [("arch-shape", message)]);
}

#[test]
fn what_a_gguf_lacks_is_named_on_the_way_back() {
    let tables = Tables::default();
    let (tensors, metadata) = in_gguf(&table(&tables, "llama"));
    for name in ["blk.1.ffn_up.weight", "output_norm.weight"] {
        let fewer = tensors.iter().filter(|tensor| tensor.0 != name).cloned().collect();
        let error = to_hf::weights(&reader(fewer, metadata.clone(), None), &tables, &to_hf::Options::default()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("is missing"), "{error}");
    }
}

#[test]
fn vectors_go_back_to_the_type_of_the_weights_where_nothing_is_lost() {
    let tables = Tables::default();
    let (mut tensors, mut metadata) = in_gguf(&table(&tables, "llama"));
    // A tenth is no number of BF16.
    let norm = tensors.iter_mut().find(|tensor| tensor.0 == "blk.0.attn_norm.weight").unwrap();
    norm.3 = [0.1f32; 24].iter().flat_map(|value| value.to_le_bytes()).collect();
    for (key, value) in [
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(5)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("general.sampling.temp", Value::F32(0.5)),
        ("general.sampling.top_k", Value::I32(40)),
        ("general.sampling.penalty_repeat", Value::F32(1.5)),
    ] {
        metadata.set(key, value);
    }
    let draft = |metadata: &Metadata, main: DType| {
        let mut tensors = tensors.clone();
        if main == DType::F32 {
            for (_, _, dtype, bytes) in tensors.iter_mut().filter(|tensor| tensor.2 == DType::BF16) {
                *dtype = DType::F32;
                *bytes = bytes.as_chunks::<2>().0.iter().flat_map(|pair| [0, 0, pair[0], pair[1]]).collect();
            }
        }
        to_hf::weights(&reader(tensors, metadata.clone(), None), &tables, &to_hf::Options::default()).unwrap()
    };
    let back = draft(&metadata, DType::BF16);
    let elem = |name: &str| back.steps.iter().find(|step| step.name == name).unwrap().elem.known();
    assert_eq!(elem("model.layers.0.input_layernorm.weight"), Some(DType::F32));
    assert_eq!(elem("model.layers.1.input_layernorm.weight"), Some(DType::BF16));
    assert_eq!(elem("model.layers.0.mlp.up_proj.weight"), Some(DType::BF16));
    assert!(draft(&metadata, DType::F32).steps.iter().all(|step| step.elem.known() == Some(DType::F32)), "no type is narrower");

    let file = |draft: &OutputModel, name: &str| -> Json {
        let found = draft.files.iter().find(|file| file.name == name).unwrap();
        let Content::Bytes(bytes) = &found.content else { panic!("{name}") };
        serde_json::from_slice(bytes).unwrap()
    };
    assert_eq!(file(&back, "config.json")["torch_dtype"], "bfloat16");
    assert_eq!(file(&draft(&metadata, DType::F32), "config.json")["torch_dtype"], "float32");
    let expected = json!({
        "bos_token_id": 1, "eos_token_id": [2, 5], "temperature": 0.5, "top_k": 40, "repetition_penalty": 1.5, "do_sample": true
    });
    assert_eq!(file(&back, "generation_config.json"), expected);
    metadata.set("tokenizer.ggml.eot_token_id", Value::U32(2));
    assert_eq!(file(&draft(&metadata, DType::BF16), "generation_config.json")["eos_token_id"], 2);
}
