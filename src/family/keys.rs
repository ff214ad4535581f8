//! Converts hyperparameters between config.json and GGUF keys, by the rows of a table.
//!
//! Hyperparameters that need more than a row have named rules: `rope` (base, scaling), `pooling` (sentence-transformers), `file_type` (the
//! position of that key).

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Result, limits};
use crate::family::config::{Config, f32_json, from_toml, number_json};
use crate::family::table::{KeyRow, KeyType, Table};
use crate::family::{expr, pooling, rope};
use crate::model::metadata::full_key;
use crate::model::{Array, Metadata, Module, Value, ValueType};

/// Adds the hyperparameters of a config to GGUF metadata; `file_type` is its preliminary value.
///
/// # Errors
/// A required key is missing, or its value does not fit its type.
pub fn to_gguf(table: &Table, config: &Config, modules: &[Module], file_type: u32, metadata: &mut Metadata) -> Result<()> {
    for row in &table.keys {
        if let Some(when) = &row.when
            && !config.holds(when)?
        {
            continue;
        }
        match row.rule.as_deref() {
            Some("rope") => rope::to_gguf(&table.gguf, config, metadata)?,
            Some("pooling") => pooling::to_gguf(&table.gguf, modules, metadata)?,
            Some("file_type") => {
                metadata.set("general.file_type", Value::U32(file_type));
            }
            Some(other) => return Err(Error::argument(format!("expected the name of a rule, found {other}"))),
            None => {
                if let Some(value) = row_value(row, config)? {
                    metadata.set(full_key(&table.gguf, &row.gguf), value);
                }
            }
        }
    }
    Ok(())
}

/// Returns the value of a row in a config, or the row's default.
///
/// # Errors
/// The row's expression is invalid.
pub fn config_value(row: &KeyRow, config: &Config) -> Result<Option<Json>> {
    if let Some(value) = config.first(row.hf.all()) {
        return Ok(Some(value.clone()));
    }
    if let Some(each) = &row.each {
        let count = config.length(row.count.as_deref().unwrap_or("layers"))?;
        return Ok(config.eval_each(each, count)?.map(Json::Array));
    }
    let Some(text) = &row.value else { return Ok(None) };
    Ok(config.eval_value(text)?.map(expr::Value::into_json))
}

fn row_value(row: &KeyRow, config: &Config) -> Result<Option<Value>> {
    if let Some(text) = &row.text {
        return Ok(Some(Value::String(text.clone())));
    }
    let name = || row.hf.first().or(row.value.as_deref()).or(row.each.as_deref()).unwrap_or(&row.gguf);
    let found = match config_value(row, config)? {
        Some(Json::Array(values)) if row.uniform && values.windows(2).all(|pair| pair.first() == pair.last()) => values.into_iter().next(),
        Some(Json::Object(values)) if row.numbered => Some(Json::Array(in_order(&values))),
        found => found,
    };
    let Some(found) = found else {
        if row.required {
            return Err(Error::unsupported(format!("config.json has no {}", name())));
        }
        return Ok(None);
    };
    let Json::Array(values) = &found else { return one(row, &found, name()) };
    let values = values.iter().map(|value| one(row, value, name()).map(|value| value.map(signed))).collect::<Result<Option<Vec<_>>>>()?;
    let Some(values) = values else { return Ok(None) };
    let element = match row.value_type {
        KeyType::U32 | KeyType::I32 => ValueType::I32,
        KeyType::F32 => ValueType::F32,
        KeyType::Bool => ValueType::Bool,
        KeyType::String => ValueType::String,
    };
    Ok(Some(Value::Array(Array::new(element, values))))
}

/// Returns the values of the keys 0, 1 ... of an object.
fn in_order(values: &Map<String, Json>) -> Vec<Json> {
    (0..values.len()).map_while(|number| values.get(&number.to_string()).cloned()).collect()
}

/// Returns a number as the converter writes it in arrays.
fn signed(value: Value) -> Value {
    match value {
        Value::U32(number) => i32::try_from(number).map_or(Value::U32(number), Value::I32),
        other => other,
    }
}

/// Converts one value to the row's type.
fn one(row: &KeyRow, found: &Json, name: &str) -> Result<Option<Value>> {
    let mapped;
    let found = match found.as_str() {
        Some(text) if !row.map.is_empty() => match row.map.get(text).and_then(from_toml) {
            Some(number) => {
                mapped = number;
                &mapped
            }
            None => {
                let known: Vec<&str> = row.map.keys().map(String::as_str).collect();
                return Err(Error::unsupported(format!("expected {} to be one of {}, found {text}", row.gguf, known.join(", "))));
            }
        },
        _ => found,
    };
    let number = expr::Value::from_json(found).and_then(|value| value.number());
    if row.nonzero && number == Some(0.0) {
        return Ok(None);
    }
    let wrong = || Error::unsupported(format!("expected {name} to be {:?}, found {found}", row.value_type));
    let integer = |min: f64, max: f64| number.filter(|number| number.fract() == 0.0 && (min..=max).contains(number)).ok_or_else(wrong);
    Ok(Some(match row.value_type {
        KeyType::U32 => Value::U32(integer(0.0, f64::from(u32::MAX))? as u32),
        KeyType::I32 => Value::I32(integer(f64::from(i32::MIN), f64::from(i32::MAX))? as i32),
        KeyType::F32 => Value::F32(number.ok_or_else(wrong)? as f32),
        KeyType::Bool => Value::Bool(number.ok_or_else(wrong)? != 0.0),
        KeyType::String => Value::String(found.as_str().ok_or_else(wrong)?.to_owned()),
    }))
}

/// Returns the shape of a tensor, by name.
pub type Shapes<'a> = &'a dyn Fn(&str) -> Option<Vec<u64>>;

/// Creates a config with Hugging Face key names from the hyperparameters of a GGUF, and the dimensions of its tensors.
///
/// # Errors
/// An expression in the table is invalid.
pub fn to_config(table: &Table, metadata: &Metadata, shape: Shapes, config: &mut Config) -> Result<()> {
    for (key, value) in &table.config {
        if let Some(value) = from_toml(value) {
            config.set(key.clone(), value);
        }
    }
    for row in &table.keys {
        if row.rule.as_deref() == Some("rope") {
            rope::to_config(&table.gguf, metadata, config);
        }
        let Some(name) = row.hf.first() else { continue };
        let Some(value) = metadata.get(&full_key(&table.gguf, &row.gguf)) else {
            if row.absent_is_null {
                config.set(name, Json::Null);
            }
            continue;
        };
        let json = match value {
            _ if row.zero_is_null && value.as_u64() == Some(0) => Json::Null,
            Value::Array(_) if row.numbered => match elements(value) {
                Some(values) => {
                    values.into_iter().enumerate().map(|(number, value)| (number.to_string(), value)).collect::<Map<_, _>>().into()
                }
                None => continue,
            },
            Value::Array(_) => match uniform(value).map(Json::from).or_else(|| elements(value).map(Json::Array)) {
                Some(json) => json,
                None => continue,
            },
            other => match scalar(other) {
                Some(json) => json.as_u64().and_then(|number| named(row, number)).unwrap_or(json),
                None => continue,
            },
        };
        config.set(name, json);
    }
    config.collect_rope();
    for (key, derived) in &table.derived {
        if let Some(value) = derived_value(key, derived, table, metadata, shape, config)? {
            config.set(key.clone(), value);
        }
    }
    // A table that writes them by kind of layer has them all there, and classes read the older spelling first.
    if config.get("rope_parameters").is_some() {
        config.remove(&["rope_scaling", "rope_theta", "rope_local_base_freq"]);
    }
    config.collect_rope();
    Ok(())
}

/// Returns the value of a key of config.json that follows from others: an expression, `f32` for one that is a decimal, `bool` for a
/// condition, or `each` for a list with one element per layer, or per layer for which the condition `where` holds; `join` makes one text of
/// them, with this between.
fn derived_value(
    key: &str,
    derived: &toml::Value,
    table: &Table,
    metadata: &Metadata,
    shape: Shapes,
    config: &Config,
) -> Result<Option<Json>> {
    let dimension = |name: &str| {
        let (axis, tensor) = name.split_once('.')?;
        Some(expr::Value::Number(*shape(tensor)?.get(axis.parse::<usize>().ok()?)? as f64))
    };
    let get = |name: &str| metadata.get(&full_key(&table.gguf, name));
    // The arrays that an expression names, so that each layer does not read them again.
    let arrays: HashMap<&str, Vec<Json>> = metadata
        .iter()
        .filter(|(_, value)| matches!(value, Value::Array(_)))
        .filter_map(|(name, value)| Some((name.strip_prefix(table.gguf.as_str())?.strip_prefix('.')?, elements(value)?)))
        .collect();
    let lookup = |name: &str| match name.strip_prefix("gguf.") {
        Some(key) => match arrays.get(key) {
            Some(values) => Some(expr::Value::List(values.as_slice().into())),
            None => match get(key)? {
                Value::String(text) => Some(expr::Value::Text(text.as_str().into())),
                other => other.as_f64().or_else(|| other.as_bool().map(|value| f64::from(u8::from(value)))).map(expr::Value::Number),
            },
        },
        None => match name.strip_prefix("shape.") {
            Some(name) => dimension(name),
            None => config.value(name),
        },
    };
    match derived {
        toml::Value::String(text) => Ok(config.eval_with(text, &lookup)?.map(|value| match value {
            // Those of rope came in single precision, and go back to the decimals that give it.
            expr::Value::Number(number) if key.starts_with("rope.") || key.starts_with("rope_parameters.") => f32_json(number as f32),
            value => value.into_json(),
        })),
        toml::Value::Table(rule) => {
            if let Some(decimal) = rule.get("f32").and_then(toml::Value::as_str) {
                let number = config.eval_with(decimal, &lookup)?.and_then(|value| value.number());
                return Ok(number.map(|number| f32_json(number as f32)));
            }
            if let Some(condition) = rule.get("bool").and_then(toml::Value::as_str) {
                return Ok(config
                    .eval_with(condition, &lookup)?
                    .filter(|value| value.number().is_some())
                    .map(|value| Json::from(value.is_true())));
            }
            let each = rule
                .get("each")
                .ok_or_else(|| Error::argument(format!("expected a condition, or an expression for each layer, of {key}")))?;
            let wanted = rule.get("where").and_then(toml::Value::as_str);
            let count = match rule.get("count").and_then(toml::Value::as_str) {
                Some(count) => expr::whole(count, config.eval_with(count, &lookup)?.and_then(|value| value.number()))?,
                None => config.length("layers")?,
            };
            if count > limits::PARTS {
                return Err(Error::limit(format!("expected at most {} elements of {key}, found {count}", limits::PARTS)));
            }
            let is_single = rule.get("type").and_then(toml::Value::as_str) == Some("f32");
            let mut values = Vec::new();
            for layer in 0..count {
                let own = |name: &str| if name == "bid" { Some(expr::Value::Number(layer as f64)) } else { lookup(name) };
                // Short names may depend on the layer too.
                let found = config.at_layer(layer, || {
                    let is_wanted = match wanted {
                        Some(wanted) => config.eval_with(wanted, &own)?.and_then(|value| value.number()) == Some(1.0),
                        None => true,
                    };
                    is_wanted.then(|| element(each, is_single, config, &own)).transpose()
                })?;
                match found {
                    Some(Some(value)) => values.push(value),
                    Some(None) => return Ok(None),
                    None => {}
                }
            }
            let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let separator = rule.get("join").and_then(toml::Value::as_str);
            Ok(Some(match separator {
                Some(separator) => values.iter().map(text).collect::<Vec<_>>().join(separator).into(),
                None => Json::Array(values),
            }))
        }
        _ => Ok(None),
    }
}

/// Evaluates an element of a list: an expression, or several, each at a path in an object, where what is absent is null and a condition in
/// `bool` is true or false.
fn element<'a>(
    each: &toml::Value,
    is_single: bool,
    config: &Config,
    own: &dyn Fn(&str) -> Option<expr::Value<'a>>,
) -> Result<Option<Json>> {
    let toml::Value::Table(members) = each else {
        return Ok(match config.eval_with(each.as_str().unwrap_or_default(), own)? {
            Some(expr::Value::Number(number)) if is_single => Some(f32_json(number as f32)),
            value => value.map(expr::Value::into_json),
        });
    };
    let mut object = Map::new();
    for (path, member) in members {
        let condition = member.get("bool").and_then(toml::Value::as_str);
        let text = condition.or(member.as_str()).unwrap_or_default();
        let value = config.eval_with(text, own)?;
        let value = match condition {
            Some(_) => Json::Bool(value.is_some_and(|value| value.is_true())),
            None => value.map_or(Json::Null, expr::Value::into_json),
        };
        let (outer, name) = path.split_once('.').map_or((None, path.as_str()), |(outer, name)| (Some(outer), name));
        match outer.map(|outer| object.entry(outer).or_insert_with(|| Json::Object(Map::new()))) {
            Some(Json::Object(inner)) => inner.insert(name.to_owned(), value),
            _ => object.insert(name.to_owned(), value),
        };
    }
    Ok(Some(Json::Object(object)))
}

fn scalar(value: &Value) -> Option<Json> {
    Some(match value {
        Value::F32(number) => f32_json(*number),
        Value::Bool(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_str()),
        Value::I32(number) => Json::from(*number),
        other => match (other.as_u64(), other.as_f64()) {
            (Some(number), _) => Json::from(number),
            (_, Some(number)) => number_json(number),
            _ => return None,
        },
    })
}

/// Returns the elements of an array, unless it is longer than any list of hyperparameters.
fn elements(value: &Value) -> Option<Vec<Json>> {
    let array = value.as_array().filter(|array| array.len() <= limits::PARTS)?;
    array.iter().map(|element| scalar(&element.ok()?)).collect()
}

/// Returns the integer that all elements of a per-layer array equal.
fn uniform(value: &Value) -> Option<u64> {
    let array = value.as_array().filter(|array| array.len() <= limits::PARTS)?;
    let mut elements = array.iter().map(|element| element.ok()?.as_u64());
    let first = elements.next()??;
    elements.all(|element| element == Some(first)).then_some(first)
}

/// Returns the name mapped to a number.
fn named(row: &KeyRow, number: u64) -> Option<Json> {
    let (name, _) = row.map.iter().find(|(_, value)| value.as_integer() == i64::try_from(number).ok())?;
    Some(Json::from(name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::family::tables::Tables;

    #[test]
    fn strings_and_absent_windows_round_trip() {
        let table = Table::parse(
            "gguf = 'x'\nkeys = [\n\
             { gguf = 'pooling', hf = 'pooling_mode', type = 'string' },\n\
             { gguf = 'window', hf = 'sliding_window', value = '0', zero_is_null = true },\n]",
        )
        .unwrap();
        for (window, number) in [(Json::Null, 0), (Json::from(2047), 2047)] {
            let given = json!({"pooling_mode": "cls", "sliding_window": window});
            let mut metadata = Metadata::new();
            to_gguf(&table, &Config::new(&table, &given).unwrap(), &[], 0, &mut metadata).unwrap();
            assert_eq!(metadata.get("x.pooling"), Some(&Value::String("cls".to_owned())));
            assert_eq!(metadata.get("x.window"), Some(&Value::U32(number)));
            let mut back = Config::empty(&table);
            to_config(&table, &metadata, &|_| None, &mut back).unwrap();
            assert_eq!(Json::Object(back.into_keys()), given);
        }
    }

    #[test]
    fn objects_with_numbers_for_keys_are_arrays() {
        let table = Table::parse("gguf = 'x'\nkeys = [{ gguf = 'labels', hf = 'id2label', type = 'string', numbered = true }]").unwrap();
        let given = json!({ "id2label": { "0": "no", "1": "maybe", "2": "yes" } });
        let mut metadata = Metadata::new();
        to_gguf(&table, &Config::new(&table, &given).unwrap(), &[], 0, &mut metadata).unwrap();
        let labels = ["no", "maybe", "yes"].map(|label| Value::String(label.to_owned()));
        assert_eq!(metadata.get("x.labels"), Some(&Value::Array(Array::new(ValueType::String, labels.to_vec()))));
        let mut back = Config::empty(&table);
        to_config(&table, &metadata, &|_| None, &mut back).unwrap();
        assert_eq!(Json::Object(back.into_keys()), given);
    }

    #[test]
    fn lists_of_layers_are_joined_or_selected() {
        let table = Table::parse(
            "gguf = 'x'\n[derived]\npattern = { each = \"gguf.kv[bid] > 0 ? '*' : 'M'\", count = '3', join = '' }\n\
             indices = { each = 'bid', where = 'gguf.kv[bid] > 0', count = '3' }",
        )
        .unwrap();
        let mut metadata = Metadata::new();
        metadata.set("x.kv", Value::Array(Array::new(ValueType::I32, [0, 2, 0].map(Value::I32).to_vec())));
        let mut config = Config::empty(&table);
        to_config(&table, &metadata, &|_| None, &mut config).unwrap();
        assert_eq!(config.get("pattern"), Some(&json!("M*M")));
        assert_eq!(config.get("indices"), Some(&json!([1])));
    }

    #[test]
    fn decimals_are_written_as_such_even_if_they_are_whole() {
        let table = Table::parse(
            "gguf = 'x'\n[derived]\nlimit = { f32 = 'gguf.limit' }\npart = { f32 = 'gguf.rot / 80' }\nnone = { f32 = 'gguf.no' }",
        )
        .unwrap();
        let mut metadata = Metadata::new();
        metadata.set("x.limit", Value::F32(10.0));
        metadata.set("x.rot", Value::U32(32));
        let mut config = Config::empty(&table);
        to_config(&table, &metadata, &|_| None, &mut config).unwrap();
        assert_eq!(config.into_keys(), json!({ "limit": 10.0, "part": 0.4 }).as_object().unwrap().clone());
    }

    fn value(row: &str, config: Json) -> Result<Option<Value>> {
        let table = Table::parse(&format!("gguf = 'x'\nkeys = [ {{ gguf = 'k', hf = 'k', {row} }} ]")).unwrap();
        let mut metadata = Metadata::new();
        to_gguf(&table, &Config::new(&table, &config).unwrap(), &[], 0, &mut metadata)?;
        Ok(metadata.get("x.k").cloned())
    }

    #[test]
    fn values_have_the_type_that_the_table_says_or_are_refused() {
        let cases = [
            ("", json!(7), Some(Value::U32(7))),
            ("", json!(0), Some(Value::U32(0))),
            ("nonzero = true", json!(0), None),
            ("nonzero = true", json!(2), Some(Value::U32(2))),
            ("nonzero = true, type = 'bool'", json!(false), None),
            ("type = 'bool'", json!(1), Some(Value::Bool(true))),
            ("type = 'bool'", json!(0), Some(Value::Bool(false))),
            ("type = 'f32'", json!(0.5), Some(Value::F32(0.5))),
            ("map = { silu = 3 }", json!("silu"), Some(Value::U32(3))),
            ("map = { silu = 3 }", json!(4), Some(Value::U32(4))),
        ];
        for (row, given, expected) in cases {
            assert_eq!(value(row, json!({ "k": given })).unwrap(), expected, "{row} {given}");
        }
        for (row, given) in [("", json!(1.5)), ("", json!(-1)), ("", json!(4_294_967_296u64)), ("type = 'bool'", json!("yes"))] {
            assert!(value(row, json!({ "k": given })).is_err(), "{row} {given}");
        }
        let error = value("map = { silu = 3 }", json!({"k": "tanh"})).unwrap_err().to_string();
        assert!(error.contains("expected k to be one of silu, found tanh"), "{error}");
    }

    #[test]
    fn numbers_that_stand_for_names_and_rope_come_back() {
        let table = Table::parse(
            "gguf = 'x'\nkeys = [ { gguf = 'act', hf = 'act', map = { silu = 3, tanh = 4 } }, { gguf = 'n', hf = 'n' }, { rule = 'rope' } ]",
        )
        .unwrap();
        let mut metadata = Metadata::new();
        metadata.set("x.act", Value::U32(4));
        metadata.set("x.n", Value::U32(5));
        metadata.set("x.rope.freq_base", Value::F32(500.0));
        let mut config = Config::empty(&table);
        to_config(&table, &metadata, &|_| None, &mut config).unwrap();
        assert_eq!(Json::Object(config.into_keys()), json!({"act": "tanh", "n": 5, "rope_theta": 500.0}));
        let without = Table::parse("gguf = 'x'\nkeys = [ { gguf = 'n', hf = 'n' } ]").unwrap();
        let mut config = Config::empty(&without);
        to_config(&without, &metadata, &|_| None, &mut config).unwrap();
        assert_eq!(Json::Object(config.into_keys()), json!({"n": 5}));
    }

    #[test]
    fn lists_of_the_class_are_lists_even_if_their_elements_are_equal() {
        let tables = Tables::default();
        let all = tables.all().unwrap().into_iter().chain(tables.projectors().unwrap());
        let all: Vec<&Table> = all.collect();
        for (name, gguf, numbers, key, wanted) in [
            ("deci-7b", "deci.attention.head_count_kv", vec![4, 4], "num_key_value_heads_per_layer", json!([4, 4])),
            ("gemma3n", "gemma3n.feed_forward_length", vec![16, 16], "intermediate_size", json!([16, 16])),
            ("mmproj-youtu-vl", "clip.vision.wa_layer_indexes", vec![2], "vision_config.fullatt_block_indexes", json!([2])),
        ] {
            let table = all.iter().find(|table| table.name == name).unwrap();
            let mut metadata = Metadata::new();
            metadata.set(format!("{}.block_count", table.gguf), Value::U32(2));
            metadata.set(gguf, Value::Array(Array::new(ValueType::I32, numbers.into_iter().map(Value::I32).collect())));
            let mut config = Config::empty(table);
            to_config(table, &metadata, &|_| None, &mut config).unwrap();
            assert_eq!(config.get(key), Some(&wanted), "{name}");
        }
    }

    #[test]
    fn the_attention_scale_of_yarn_is_what_each_family_makes_of_it() {
        // llama.cpp's converter writes 0.1 x mscale_all_dim for DeepSeek, and mscale_all_dim itself for Ministral.
        let tables = Tables::default();
        for (name, architecture, mscale) in [("deepseek2", "deepseek2", 1.0), ("ministral3", "mistral3", 0.1)] {
            let table = tables.all().unwrap().into_iter().find(|table| table.name == name).unwrap();
            let mut metadata = Metadata::new();
            metadata.set(format!("{architecture}.rope.scaling.type"), Value::String("yarn".to_owned()));
            metadata.set(format!("{architecture}.rope.scaling.factor"), Value::F32(4.0));
            metadata.set(format!("{architecture}.rope.scaling.yarn_log_multiplier"), Value::F32(0.1));
            let mut config = Config::empty(table);
            to_config(table, &metadata, &|_| None, &mut config).unwrap();
            for key in ["mscale", "mscale_all_dim"] {
                let found = config.get("rope_scaling").unwrap()[key].as_f64().unwrap();
                assert!((found - mscale).abs() < 1e-6, "{name}: {key} is {found}");
            }
        }
    }

    #[test]
    fn a_null_that_gguf_tells_by_leaving_the_key_out_is_neither_filled_in_nor_lost() {
        let table = Table::parse(
            "gguf = 'x'\nkeys = [{ gguf = 'attention.q_lora_rank', hf = 'q_lora_rank', absent_is_null = true }]\n\
             [defaults]\nq_lora_rank = 1536",
        )
        .unwrap();
        for (given, rank) in [(json!({ "q_lora_rank": null }), None), (json!({ "q_lora_rank": 24 }), Some(24)), (json!({}), Some(1536))] {
            let mut metadata = Metadata::new();
            to_gguf(&table, &Config::new(&table, &given).unwrap(), &[], 0, &mut metadata).unwrap();
            assert_eq!(metadata.get("x.attention.q_lora_rank"), rank.map(Value::U32).as_ref());
            let mut back = Config::empty(&table);
            to_config(&table, &metadata, &|_| None, &mut back).unwrap();
            assert_eq!(Json::Object(back.into_keys()), json!({ "q_lora_rank": rank }));
        }
    }
}
