//! Every table there and back: names, shapes and bytes, over models that are made up from the table itself.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::base::bytes::Endian;
use crate::family::config::Config;
use crate::family::mapping::Mapping;
use crate::family::pattern::Places;
use crate::family::table::{Table, Tables};
use crate::family::{keys, pattern};
use crate::format::Reader;
use crate::model::companion::Content;
use crate::model::{DType, ElemType, Metadata, Model, Module, Shard, TensorInfo, Value};
use crate::source::InMemory;
use crate::view::draft::{Source, Step};
use crate::view::origin::Origin;
use crate::view::{canonical, to_gguf, to_hf};

/// Tensors of BF16 or F32 by name, shape and bytes, as an open model.
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

/// Hyperparameters that no two of are equal by chance, for every family at once.
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

/// A model as the table says it must be: every tensor that is not optional, with values that BF16 holds.
fn made_up(table: &Table) -> Reader {
    let json = config(table);
    let config = Config::new(table, &json).unwrap();
    let mapping = Mapping::new(table, &config).unwrap();
    let mut tensors = Vec::new();
    let mut seed = 1u32;
    for row in mapping.rows.iter().filter(|row| !row.optional) {
        let experts = if row.is_stacked() { config.count("experts").unwrap() } else { 1 };
        for places in row.places() {
            for expert in 0..experts {
                let eid = row.is_stacked().then_some(expert);
                let shape = row.shape.clone().unwrap_or_else(|| panic!("{}: {} has no shape", table.name, row.hf));
                let bytes = (0..shape.iter().product::<u64>())
                    .flat_map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        // A quarter to a half, of either sign: one more or less loses no bit.
                        (((seed >> 9) & 0x807f) as u16 | 0x3e80).to_le_bytes()
                    })
                    .collect();
                tensors.push((pattern::fill(&row.hf, Places { eid, ..places }), shape, DType::BF16, bytes));
            }
        }
    }
    reader(tensors, Metadata::new(), Some(json))
}

/// The bytes of a step, in its type: what a conversion would write.
fn body(reader: &Reader, step: &Step) -> Vec<u8> {
    let origin = match &step.source {
        Source::Stored(index) => Origin::stored(reader.model(), *index).unwrap(),
        Source::Made(origin) => origin.clone(),
    };
    let dtype = step.elem.known().unwrap();
    if dtype == origin.dtype() {
        return origin.gather(reader, 0..origin.rows()).unwrap().into_owned();
    }
    let values = crate::view::origin::values(reader, &origin).unwrap();
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64).unwrap() as usize];
    crate::codec::codec(dtype).unwrap().encode.unwrap()(&values, None, &mut bytes);
    bytes
}

fn written(reader: &Reader, steps: &[Step]) -> Vec<(String, Vec<u64>, DType, Vec<u8>)> {
    steps.iter().map(|step| (step.name.clone(), step.shape.clone(), step.elem.known().unwrap(), body(reader, step))).collect()
}

#[test]
fn every_table_leads_there_and_back_byte_for_byte() {
    let tables = Tables::default();
    for table in tables.all().unwrap().into_iter().filter(|table| table.params.is_empty()) {
        let hf = made_up(table);
        let steps = to_gguf::canonical(hf.model(), &tables).unwrap_or_else(|error| panic!("{}: {error}", table.name));
        for step in &steps {
            let is_norm = step.name.ends_with("_norm.weight");
            assert!(!is_norm || (step.fixed && step.elem.known() == Some(DType::F32)), "{}: {} stays F32", table.name, step.name);
        }
        let config = Config::new(table, hf.model().config.as_ref().unwrap()).unwrap();
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String(table.gguf.clone()));
        keys::to_gguf(table, &config, &[], 32, &mut metadata).unwrap();
        metadata.set("tokenizer.ggml.token_type_count", Value::U32(2));
        let gguf = reader(written(&hf, &steps), metadata, None);
        let back = to_hf::weights(&gguf, &tables, &to_hf::Options::default()).unwrap_or_else(|error| panic!("{}: {error}", table.name));
        let mut made = written(&gguf, &back.steps);
        made.sort();
        let mut original = written(&hf, &(0..hf.model().tensors.len()).map(|i| Step::keep(hf.model(), i).unwrap()).collect::<Vec<_>>());
        original.sort();
        assert_eq!(
            made.iter().map(|t| (&t.0, &t.1, t.2)).collect::<Vec<_>>(),
            original.iter().map(|t| (&t.0, &t.1, t.2)).collect::<Vec<_>>()
        );
        assert!(made == original, "{}: bytes", table.name);
        let Some(Content::Bytes(text)) = back.files.iter().find(|file| file.name == "config.json").map(|file| &file.content) else {
            panic!("no config.json")
        };
        let again: Json = serde_json::from_slice(text).unwrap();
        assert_eq!(tables.for_config(&again).unwrap().gguf, table.gguf);
        if ["qwen2moe", "qwen3moe"].contains(&table.name.as_str()) {
            // `Qwen2MoeConfig` and `Qwen3MoeConfig` of transformers have no other name for it.
            assert_eq!(Some(&again["num_experts"]), config.get("num_experts").or(config.get("num_local_experts")), "{}", table.name);
        }
        let (before, after) = (hf.model().config.as_ref().unwrap(), Config::new(table, &again).unwrap());
        for row in &table.keys {
            let Some(key) = row.hf.first().filter(|key| before.get(key).is_some()) else { continue };
            assert_eq!(after.number(key), before[key].as_f64(), "{}: {key}", table.name);
        }
    }
}

#[test]
fn a_makers_own_format_gives_the_same_gguf_names() {
    let tables = Tables::default();
    let table = tables.all().unwrap().into_iter().find(|table| table.name == "llama-native").unwrap();
    let hf = made_up(table);
    let names: Vec<String> = to_gguf::canonical(hf.model(), &tables).unwrap().into_iter().map(|step| step.name).collect();
    assert!(names.contains(&"blk.1.ffn_down.weight".to_owned()), "{names:?}");
}

#[test]
fn what_is_missing_extra_or_of_another_shape_has_its_own_error() {
    let tables = Tables::default();
    let table = tables.for_gguf("llama", |_| false).unwrap();
    let whole = made_up(&table).model().clone();
    let error = |change: &dyn Fn(&mut Model)| {
        let mut model = whole.clone();
        change(&mut model);
        to_gguf::canonical(&model, &tables).unwrap_err().to_string()
    };
    let missing = error(&|model| model.tensors.retain(|tensor| tensor.name != "model.layers.1.mlp.up_proj.weight"));
    assert!(missing.contains("model.layers.1.mlp.up_proj.weight") && missing.contains("none of its name"), "{missing}");
    let extra = error(&|model| model.tensors[0].name = "model.surprise.weight".to_owned());
    assert!(extra.contains("model.surprise.weight") && extra.contains("does not name"), "{extra}");
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
fn a_model_of_no_known_architecture_has_its_tensors_as_they_are() {
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

/// The weights that the converter was given: they follow from the tensor's name.
fn weights(name: &str, count: u64, dtype: DType) -> Vec<u8> {
    let mut seed = fnv32(name);
    let mut bytes = Vec::new();
    for _ in 0..count {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bits = ((seed >> 9) & 0x807f) as u16 | 0x3e80;
        match dtype {
            DType::BF16 => bytes.extend(bits.to_le_bytes()),
            _ => bytes.extend((u32::from(bits) << 16).to_le_bytes()),
        }
    }
    bytes
}

#[test]
fn keys_and_tensors_are_those_of_llama_cpps_converter() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/arch");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let golden: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let tensors = golden["tensors"].as_array().unwrap().iter().map(|row| {
            let (name, dtype) = (row[0].as_str().unwrap(), DType::from_safetensors(row[1].as_str().unwrap()).unwrap());
            let shape: Vec<u64> = row[2].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
            let bytes = weights(name, shape.iter().product(), dtype);
            (name.to_owned(), shape, dtype, bytes)
        });
        let hf = reader(tensors.collect(), Metadata::new(), Some(golden["config"].clone()));
        let modules = golden["modules"].as_array().into_iter().flatten().map(|row| Module {
            path: row[0].as_str().unwrap().to_owned(),
            kind: row[1].as_str().unwrap().to_owned(),
            config: row[2].clone(),
            shard: Some(0),
            unread: None,
        });
        let model = Model { modules: modules.collect(), ..hf.model().clone() };
        let draft = to_gguf::without_tokenizer(&model, &Tables::default()).unwrap();
        let mut made: Vec<Json> = written(&hf, &draft.steps)
            .iter()
            .map(|(name, shape, dtype, bytes)| json!([name, dtype.name(), shape, format!("{:016x}", fnv64(bytes))]))
            .collect();
        let mut wanted = golden["gguf"].as_array().unwrap().clone();
        // The converter takes tensors in the order of their names, weigh in that of the file.
        made.sort_by_key(Json::to_string);
        wanted.sort_by_key(Json::to_string);
        assert_eq!(made, wanted, "{}", path.display());
        for row in golden["keys"].as_array().unwrap() {
            let (key, wanted) = (row[0].as_str().unwrap(), &row[2]);
            let found = draft.metadata.get(key).unwrap_or_else(|| panic!("{}: no {key}", path.display()));
            let same = match found {
                Value::String(text) => wanted.as_str() == Some(text),
                Value::Bool(value) => wanted.as_bool() == Some(*value),
                number => number.as_f64().map(|number| number as f32) == wanted.as_f64().map(|wanted| wanted as f32),
            };
            assert!(same, "{}: {key} is {found:?}, and {wanted} in the reference", path.display());
        }
        assert_eq!(draft.metadata.len(), golden["keys"].as_array().unwrap().len() + 1, "{}: general.name and nothing else", path.display());
        count += 1;
    }
    assert!(count > 5);
}

#[test]
fn the_keys_of_every_table_have_their_types_checked() {
    use crate::family::table::KeyType;
    use crate::format::gguf::keys::{KeyType as Checked, type_of};
    use crate::model::ValueType;
    for table in Tables::default().all().unwrap() {
        for row in table.keys.iter().filter(|row| row.rule.is_none()) {
            let key = crate::model::metadata::full_key(&table.gguf, &row.gguf);
            let wanted = match row.value_type {
                _ if row.text.is_some() => ValueType::String,
                KeyType::U32 => ValueType::U32,
                KeyType::F32 => ValueType::F32,
                KeyType::Bool => ValueType::Bool,
                KeyType::String => ValueType::String,
            };
            let (found, _) = type_of(&key, &table.gguf).unwrap_or_else(|| panic!("{}: {key}", table.name));
            assert!(found == Checked::One(wanted) || found == Checked::PerLayer(wanted), "{}: {key}: {found:?}", table.name);
        }
    }
}
