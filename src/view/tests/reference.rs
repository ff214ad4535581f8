//! Comparison with llama.cpp's converter.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value as Json, json};

use crate::family::index::{self, Row};
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::family::transform::Transform;
use crate::format::Reader;
use crate::model::{DType, Metadata, Value, ValueType};
use crate::view::tests::goldens::{all_are_wanted, fnv64, goldens};
use crate::view::tests::{reader, stored, written};
use crate::view::to_gguf;

/// Returns numbers of F32 as BF16.
pub(super) fn in_bf16(bytes: &[u8]) -> Vec<u8> {
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
        Value::U64(value) => wanted.as_u64() == Some(*value),
        number => number.as_f64().map(|number| number as f32) == wanted.as_f64().map(|wanted| wanted as f32),
    }
}

/// Returns the type of a value as gguf-py names it, with that of the elements for an array.
fn type_name(value: &Value) -> String {
    let name = |value_type: ValueType| match value_type {
        ValueType::U32 => "UINT32",
        ValueType::I32 => "INT32",
        ValueType::U64 => "UINT64",
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
fn the_index_has_what_is_in_the_tables_and_their_references() {
    if !all_are_wanted() {
        return;
    }
    let mut references = BTreeMap::<String, Vec<String>>::new();
    for golden in goldens() {
        // The GGUF of a class may have a table of its own, known by a tensor, as Falcon's has.
        let has = |name: &str| golden.json["gguf"].as_array().unwrap().iter().any(|row| row[0] == name);
        let shared = |back: &Table| back.shares_class(&golden.table.classes);
        let is_own = |back: &Table| back.name != golden.table.name && back.gguf_has.as_deref().is_some_and(has) && shared(back);
        let back = Tables::default().for_gguf(&golden.table.gguf, has).ok().filter(is_own).map(|back| back.name);
        for table in back.into_iter().chain([golden.table.name]) {
            references.entry(table).or_default().push(golden.name.clone());
        }
    }
    references.values_mut().for_each(|names| names.sort());
    let tables = Tables::default();
    let projectors = tables.projectors().unwrap();
    let rows: Vec<Row> = tables.all().unwrap().into_iter().map(|table| Row::of(table, &projectors, &references)).collect();
    if std::env::var_os("WEIGH_UPDATE").is_some() {
        let lines: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/family/index.json");
        return std::fs::write(path, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    for (listed, row) in index::rows(&tables).unwrap().iter().zip(&rows) {
        assert_eq!(listed, row, "WEIGH_UPDATE=1 rewrites src/family/index.json");
    }
    assert_eq!(index::rows(&tables).unwrap().len(), rows.len(), "WEIGH_UPDATE=1 rewrites src/family/index.json");
}

#[test]
fn keys_and_tensors_equal_those_of_llama_cpps_converter() {
    for golden in goldens() {
        let (name, hf) = (&golden.name, crate::quant::packed::repacked(golden.reader()).unwrap());
        let output = match golden.is_projector() {
            true => to_gguf::projector(hf.model(), &Tables::default(), golden.json["preprocessor"].clone(), None),
            false => to_gguf::without_tokenizer(&hf, &Tables::default(), golden.part()),
        };
        let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut made: Vec<Json> = written(&hf, &output.tensors)
            .iter()
            .map(|(name, shape, dtype, bytes)| {
                // Exponentials differ in the last bit between libraries.
                let bytes =
                    if [".ssm_a", ".per_dim_scale.weight"].iter().any(|end| name.ends_with(end)) { in_bf16(bytes) } else { bytes.clone() };
                json!([name, dtype.name(), shape, format!("{:016x}", fnv64(&bytes))])
            })
            .collect();
        let mut wanted = golden.json["gguf"].as_array().unwrap().clone();
        // Sines differ in the last bit too, and those of a great angle by more: their values have a test of their own.
        if golden.table.computed.iter().any(|kind| kind == "sinusoids") {
            let positions = |row: &&mut Json| row[0] == "a.position_embd.weight";
            made.iter_mut().chain(&mut wanted).filter(positions).for_each(|row| row[3] = Json::Null);
        }
        // The converter sorts tensors by name, weigh keeps the file order.
        made.sort_by_key(Json::to_string);
        wanted.sort_by_key(Json::to_string);
        assert_eq!(made, wanted, "{name}");
        for row in golden.json["keys"].as_array().unwrap() {
            let (key, wanted_type, wanted) = (row[0].as_str().unwrap(), row[1].as_str().unwrap(), &row[2]);
            let found = output.metadata.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
            assert!(is_value(found, wanted), "{name}: {key} is {found:?}, and {wanted} in the reference");
            assert_eq!(type_name(found), wanted_type, "{name}: {key}");
        }
        let own = ["general.name", "general.architecture"];
        let keys: HashSet<&str> = golden.json["keys"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
        let more: Vec<&str> = output.metadata.iter().map(|(key, _)| key).filter(|key| !keys.contains(key) && !own.contains(key)).collect();
        assert!(more.is_empty(), "{name}: {more:?}");
    }
}

/// Published models have the fused experts of Qwen 3-VL transposed, and transformers 5 may save them otherwise.
#[test]
fn fused_experts_are_told_by_their_shape() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "qwen3vlmoe") else { return };
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
