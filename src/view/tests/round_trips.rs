//! Round trips of every table: names, shapes and bytes.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use crate::family::config::Config;
use crate::family::mapping::{HfTensor, Mapping, ModelPart};
use crate::family::pattern;
use crate::family::tables::Tables;
use crate::model::companion::Content;
use crate::model::{Array, DType, Metadata, Model, TensorInfo, Value, ValueType};
use crate::view::output_model::OutputTensor;
use crate::view::tests::goldens::goldens;
use crate::view::tests::{Tensor, checked, converted, keep_all, made_up, models, reader, written};
use crate::view::{canonical, to_gguf, to_hf};

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
    if transform.contains("Centre") {
        // Routing is the same for a bias with another mean.
        let (made, original) = (values(made), values(original));
        let mean = original.iter().sum::<f32>() / original.len() as f32;
        return made
            .iter()
            .zip(&original)
            .all(|(made, original)| (made - (original - mean)).abs() <= 0.01 * original.abs().max(mean.abs()));
    }
    if transform.contains("Ternary") {
        let (made, original) = (values(made), values(original));
        let mean = original.iter().map(|value| value.abs()).sum::<f32>() / original.len() as f32;
        let wanted = original.iter().map(|value| mean * (value / mean).round_ties_even().clamp(-1.0, 1.0));
        return made.iter().zip(wanted).all(|(made, wanted)| (made - wanted).abs() <= 0.01 * mean);
    }
    made.3 == original.3
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
        let (mut made, mut original) = (written(&gguf, &back.tensors), written(&hf, &original));
        let Some(Content::Bytes(text)) = back.files.iter().find(|file| file.name == "config.json").map(|file| &file.content) else {
            panic!("no config.json")
        };
        let again: Json = serde_json::from_slice(text).unwrap();
        // An object that config.json has in the section of the text model comes back in it.
        let own = hf.model().config.as_ref().and_then(|config| config["text_config"].as_object());
        for (key, _) in own.into_iter().flatten().filter(|(key, _)| key.ends_with("_attn_config") && again.get("text_config").is_some()) {
            assert!(again["text_config"][key].is_object(), "{name}: {key} is in text_config");
        }
        // What GGUF has multiplied stays so: the same GGUF comes of it.
        let scales = mapping.rows.iter().any(|row| ["Scale", "Product"].iter().any(|kind| format!("{:?}", row.transform).contains(kind)));
        // A GGUF of Qwen 3-Omni is one of Qwen 3-VL, whose experts are fused.
        let other_layout = name == "qwen3omni";
        if scales || other_layout {
            let hf = reader(made.clone(), Metadata::new(), Some(again.clone()));
            let steps = to_gguf::canonical(hf.model(), &tables).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (mut twice, mut once) = (written(&hf, &steps), written(&gguf, &keep_all(gguf.model())));
            twice.sort();
            once.sort();
            assert!(twice == once, "{name}");
        }
        if other_layout {
            continue;
        }
        // Modules that the model was in (`language_model`) are not in a GGUF.
        for tensor in made.iter_mut().chain(&mut original) {
            tensor.0 = pattern::strip_prefixes(&tensor.0, &table.prefixes).to_owned();
        }
        let widen = |tensor: &mut Tensor| {
            tensor.2 = DType::F32;
            tensor.3 = tensor.3.as_chunks::<2>().0.iter().flat_map(|pair| [0, 0, pair[0], pair[1]]).collect();
        };
        // Logarithms need single precision.
        original.iter_mut().filter(|tensor| tensor.0.ends_with("A_log") && tensor.2 == DType::BF16).for_each(widen);
        // A GGUF does not record which were in F32: what BF16 holds comes back in it.
        let single: HashSet<&str> = original.iter().filter(|tensor| tensor.2 == DType::F32).map(|tensor| tensor.0.as_str()).collect();
        made.iter_mut().filter(|tensor| single.contains(tensor.0.as_str()) && tensor.2 == DType::BF16).for_each(widen);
        made.sort();
        original.sort();
        // Which of Mamba's were in F32 a GGUF does not record, and products need single precision.
        let dtype = |tensor: &Tensor| (!tensor.0.ends_with("A_log") && !tensor.0.ends_with("_res_proj.weight")).then_some(tensor.2);
        let listed = |tensors: &[Tensor]| tensors.iter().map(|t| (t.0.clone(), t.1.clone(), dtype(t))).collect::<Vec<_>>();
        assert_eq!(listed(&made), listed(&original), "{name}");
        for (made, original) in made.iter().zip(&original) {
            let HfTensor::Row(number, ..) = mapping.lookup_hf(&original.0) else { panic!("{name}: {}", original.0) };
            let transform = format!("{:?}", mapping.rows[number].transform);
            assert!(
                transform.contains("Scale") || transform.contains("Product") || same_values(made, original, &transform),
                "{name}: {}",
                original.0
            );
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
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "t5") else { return };
    let tables = Tables::default();
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
fn a_tensor_may_be_dropped_in_the_layers_that_do_not_have_it() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "deepseek4") else { return };
    let notes = to_gguf::without_tokenizer(&golden.reader(), &Tables::default(), ModelPart::Whole).unwrap().notes;
    // The experts of the first layer are chosen by a table of tokens, those of the others with a bias.
    let biases: Vec<&str> = notes.iter().map(|note| note.name.as_str()).filter(|name| name.ends_with(".bias")).collect();
    assert_eq!(biases, ["layers.0.ffn.gate.bias"]);
}

#[test]
fn numbers_that_gguf_holds_in_a_key_are_as_many_as_the_layers() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "apertus") else { return };
    let (tensors, mut metadata) = converted(&golden.table, &golden.reader());
    let back = |metadata: &Metadata| {
        let gguf = reader(tensors.clone(), metadata.clone(), None);
        to_hf::weights(&gguf, &Tables::default(), &to_hf::Options::default()).map_err(|error| error.to_string())
    };
    let made = back(&metadata).unwrap();
    let alpha = made.tensors.iter().find(|step| step.name == "model.layers.1.mlp.act_fn.alpha_n").unwrap();
    assert_eq!((&alpha.shape[..], alpha.elem.known()), (&[1][..], Some(DType::BF16)));
    metadata.set("xielu.alpha_n", Value::Array(Array::new(ValueType::F32, vec![Value::F32(1.0)])));
    let error = back(&metadata).unwrap_err();
    assert!(error.contains("expected 2 numbers in xielu.alpha_n, found 1"), "{error}");
    metadata.remove("xielu.alpha_n");
    let error = back(&metadata).unwrap_err();
    assert!(error.contains("the key xielu.alpha_n is missing"), "{error}");
}

/// The multipliers of a hash are odd numbers of up to 63 bits, which floating-point numbers would round.
#[test]
fn whole_numbers_in_keys_are_exact_both_ways() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "qwen4exp") else { return };
    let (tensors, mut metadata) = converted(&golden.table, &golden.reader());
    let numbers = [160_419_945_971_938_623, 155_550_606_720_431_737, u64::MAX >> 1].map(Value::U64);
    const KEY: &str = "qwen4exp.ple.layer_multipliers";
    assert_eq!(metadata.get(KEY).and_then(Value::as_array).unwrap().iter().next().unwrap().unwrap(), numbers[0]);
    let back = |metadata: &Metadata| {
        let gguf = reader(tensors.clone(), metadata.clone(), None);
        let back = to_hf::weights(&gguf, &Tables::default(), &to_hf::Options::default()).map_err(|error| error.to_string())?;
        let written = written(&gguf, &back.tensors);
        Ok::<_, String>((written.into_iter().find(|tensor| tensor.0.ends_with("layer_multipliers")).unwrap(), back.notes))
    };
    metadata.set(KEY, Value::Array(Array::new(ValueType::U64, numbers.to_vec())));
    let (made, notes) = back(&metadata).unwrap();
    let wanted: Vec<u8> = numbers.iter().flat_map(|number| number.as_u64().unwrap().to_le_bytes()).collect();
    assert_eq!(made, ("model.layers.1.ple.ple_embedding.layer_multipliers".to_owned(), vec![3], DType::I64, wanted));
    let note = notes.iter().find(|note| note.name == "per_layer_token_embd.weight").unwrap();
    assert!(note.message.ends_with("it is split into 4"), "{}", note.message);
    metadata.set(KEY, Value::Array(Array::new(ValueType::U64, numbers[1..].to_vec())));
    assert!(back(&metadata).unwrap_err().contains("expected 3 numbers in qwen4exp.ple.layer_multipliers, found 2"));
    metadata.set(KEY, Value::Array(Array::new(ValueType::U64, vec![Value::U64(u64::MAX); 3])));
    assert!(back(&metadata).unwrap_err().contains("expected whole numbers"));
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
