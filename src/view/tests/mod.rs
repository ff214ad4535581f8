//! Tests of views, for models of every table.

mod back;
mod encoders;
mod general;
mod goldens;
mod lost;
mod mtp;
mod packed;
mod reference;
mod round_trips;
mod transforms;
mod whole;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::base::bytes::Endian;
use crate::base::finding::Findings;
use crate::family::config::Config;
use crate::family::mapping::{Mapping, ModelPart};
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::{DType, ElemType, Metadata, Model, Shard, TensorInfo, Value};
use crate::source::InMemory;
use crate::view::output_model::{OutputTensor, Source};
use crate::view::tensor_expr::TensorExpr;
use crate::view::tests::goldens::{Golden, goldens, is_wanted};
use crate::view::transform::Shaped;
use crate::view::{check, to_gguf};

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

/// The name, shape, type and bytes of a tensor.
type Tensor = (String, Vec<u64>, DType, Vec<u8>);

/// Returns the bytes of an output tensor in its type, as a conversion would write them.
fn body(reader: &Reader, step: &OutputTensor) -> Vec<u8> {
    let origin = match &step.source {
        Source::Stored(index) => TensorExpr::stored(reader.model(), *index).unwrap(),
        Source::Made(origin) => origin.clone(),
        Source::Packed(_) => unreachable!("only a conversion packs weights"),
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

fn written(reader: &Reader, steps: &[OutputTensor]) -> Vec<Tensor> {
    steps.iter().map(|step| (step.name.clone(), step.shape.clone(), step.elem.known().unwrap(), body(reader, step))).collect()
}

/// A model of each table, and those that the reference has converted.
fn models() -> Vec<(String, Table, Reader)> {
    let (tables, goldens) = (Tables::default(), goldens());
    let with_golden: HashSet<&str> = goldens.iter().map(|golden| golden.table.name.as_str()).collect();
    let is_other = |table: &&Table| table.params.is_empty() && !with_golden.contains(table.name.as_str()) && is_wanted(&table.name);
    let others = tables.all().unwrap().into_iter().filter(is_other);
    let others = others.map(|table| (table.name.clone(), table.clone(), made_up(table)));
    // Packed weights come back unpacked.
    let is_text = |golden: &&Golden| !golden.is_projector() && golden.part() == ModelPart::Whole && golden.table.params.is_empty();
    let texts = goldens.iter().filter(is_text).filter(|golden| golden.json["config"]["quantization_config"].is_null());
    others.chain(texts.map(|golden| (golden.name.clone(), golden.table.clone(), golden.reader()))).collect()
}

/// All tensors of a model as they are.
fn keep_all(model: &Model) -> Vec<OutputTensor> {
    (0..model.tensors.len()).map(|i| OutputTensor::keep(model, i).unwrap()).collect()
}

/// Returns the tensors and metadata of the GGUF that a made-up model of the table converts to.
fn in_gguf(table: &Table) -> (Vec<Tensor>, Metadata) {
    converted(table, &made_up(table))
}

/// Returns the tensors and metadata of the GGUF that a model converts to.
fn converted(table: &Table, hf: &Reader) -> (Vec<Tensor>, Metadata) {
    let output = to_gguf::without_tokenizer(hf, &Tables::default(), ModelPart::Whole).unwrap();
    let mut metadata = output.metadata;
    assert_eq!(metadata.get_str("general.architecture"), Some(table.gguf.as_str()));
    let types = hf.model().config.as_ref().and_then(|config| config["type_vocab_size"].as_u64());
    metadata.set("tokenizer.ggml.token_type_count", Value::U32(types.unwrap_or(2) as u32));
    // `[]` stands for any array, which is there.
    if let Some((key, text)) = table.gguf_has.as_ref().and_then(|has| has.split_once(" = ")).filter(|(_, text)| *text != "[]") {
        metadata.set(key, Value::String(text.to_owned()));
    }
    (written(hf, &output.tensors), metadata)
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
