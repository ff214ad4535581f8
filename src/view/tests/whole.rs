//! Checks of the tensors of whole models, and their components.

use std::collections::BTreeMap;

use crate::base::finding::Findings;
use crate::family::components::Component;
use crate::family::mapping::{HfTensor, Mapping};
use crate::family::tables::Tables;
use crate::family::{hyperparameters, pattern};
use crate::format::codes;
use crate::model::{FormatId, Model, TensorInfo};
use crate::view::tests::goldens::{Golden, goldens};
use crate::view::tests::{checked, converted, in_gguf, made_up, models, reader, table};
use crate::view::{check, to_gguf};

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
        // Of two factors, a GGUF has the product.
        let is_first = |name: &str| matches!(mapping.lookup_hf(name), HfTensor::Row(number, 0, _) if format!("{:?}", mapping.rows[number].transform).contains("Product"));
        own.tensors.retain(|tensor| !is_first(&tensor.name));
        let mut own = by_component(&own);
        // The first positions of RoBERTa are not in a GGUF.
        if mapping.rows.iter().any(|row| format!("{:?}", row.transform).contains("SkipRows")) {
            own.insert("embedding", gguf["embedding"]);
        }
        // And RWKV 7 repeats matrices in the first layer.
        if mapping.rows.iter().any(|row| format!("{:?}", row.transform).contains("Repeat")) {
            own.insert("attention", gguf["attention"]);
        }
        assert_eq!(own, gguf, "{name}");
        let is_said = table.name == "gemma3n"; // whose altup and laurel are neither
        assert!(is_said || !gguf.contains_key("other"), "{name}: {gguf:?}");
    }
}

/// Tensors beside an encoder that are of no component: what starts their names, and what they are.
const OF_NO_COMPONENT: [(&str, &str, &str); 8] = [
    ("gemma3n-encoders", "language_model.altup_", "alternating updates of the hidden state"),
    ("gemma3n-encoders", "language_model.layers.", "alternating updates, and LAuReL"),
    ("janus-vision", "generation_", "heads that make pictures"),
    ("janus-vision", "vqmodel.", "the decoder of the pictures that it makes"),
    ("lfm2-audio", "audio_loss_weights", "heads that make sounds"),
    ("lfm2-audio", "codebook_offsets", "heads that make sounds"),
    ("lfm2-audio", "depth_", "heads that make sounds"),
    ("qwen25omni", "talker.codec_head", "the output of the model of speech"),
];

#[test]
fn what_a_folder_has_of_an_encoder_is_counted_as_such() {
    for golden in goldens().into_iter().filter(Golden::is_projector) {
        let model = golden.reader().model().clone();
        let patterns = hyperparameters::components(&model);
        for tensor in &model.tensors {
            let component = patterns.classify(&tensor.name).component;
            let name = tensor.name.trim_start_matches("thinker.").trim_start_matches("model.");
            let is_encoder = golden.table.parts.iter().any(|part| name.starts_with(part.as_str()));
            assert!(!is_encoder || component.is_encoder(), "{}: {name} is counted under {}", golden.name, component.name());
            let is_said = OF_NO_COMPONENT.iter().any(|(of, start, _)| golden.name == format!("{of}-mmproj") && name.starts_with(start));
            assert!(is_said || component != Component::Other, "{}: {name} is of no component", golden.name);
        }
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
