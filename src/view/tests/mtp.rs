//! Layers that predict further tokens, left out or alone.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value as Json;

use crate::family::mapping::ModelPart;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::companion::Content;
use crate::model::{FormatId, Metadata, Model, Value};
use crate::view::output_model::OutputModel;
use crate::view::tests::goldens::{Golden, all_are_wanted, goldens};
use crate::view::tests::reference::in_bf16;
use crate::view::tests::{Tensor, checked, reader, written};
use crate::view::{to_gguf, to_hf};

/// The tensors of a GGUF; those that a logarithm and an exponential lead to in the precision that survives both.
fn tensors(hf: &Reader, output: &OutputModel) -> Vec<Tensor> {
    let rounded = |(name, shape, dtype, bytes): Tensor| {
        let bytes = if name.ends_with(".ssm_a") { in_bf16(&bytes) } else { bytes };
        (name, shape, dtype, bytes)
    };
    let mut all: Vec<Tensor> = written(hf, &output.tensors).into_iter().map(rounded).collect();
    all.sort();
    all
}

#[test]
fn a_part_of_a_model_comes_back_and_gives_the_same_gguf() {
    let tables = Tables::default();
    let parts: Vec<Golden> = goldens().into_iter().filter(|golden| golden.part() != ModelPart::Whole).collect();
    let kinds: HashSet<bool> = parts.iter().map(|golden| golden.part() == ModelPart::MtpAlone).collect();
    assert!(kinds.len() == 2 || !all_are_wanted());
    for golden in parts {
        let (name, hf) = (&golden.name, golden.reader());
        let output = to_gguf::without_tokenizer(&hf, &tables, golden.part()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let gguf = reader(written(&hf, &output.tensors), output.metadata.clone(), None);
        assert_eq!(checked(&Model { format: FormatId::Gguf, ..gguf.model().clone() }), [], "{name}");
        let back = to_hf::weights(&gguf, &tables, &to_hf::Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let names: HashSet<&str> = hf.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert!(back.tensors.len() < names.len(), "{name}");
        let Some(Content::Bytes(config)) = back.files.iter().find(|file| file.name == "config.json").map(|file| &file.content) else {
            panic!("{name}: no config.json")
        };
        let config: Json = serde_json::from_slice(config).unwrap();
        let folder = reader(written(&gguf, &back.tensors), Metadata::new(), Some(config));
        // What was left out is no longer there.
        let part = if golden.part() == ModelPart::WithoutMtp { ModelPart::Whole } else { ModelPart::MtpAlone };
        let again = to_gguf::without_tokenizer(&folder, &tables, part).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(tensors(&folder, &again) == tensors(&hf, &output), "{name}");
        let of_model = |(key, _): &(&str, &Value)| !key.starts_with("general.");
        let model_keys = |output: &OutputModel| {
            output.metadata.iter().filter(of_model).map(|(key, value)| format!("{key} {value:?}")).collect::<BTreeSet<_>>()
        };
        // The kinds of layers may be said in more words.
        assert!(model_keys(&again).is_superset(&model_keys(&output)), "{name}");
    }
}

#[test]
fn parts_that_a_model_does_not_have_are_refused() {
    if !all_are_wanted() {
        return;
    }
    let error = |name: &str, part: ModelPart| {
        let golden = goldens().into_iter().find(|golden| golden.name == name).unwrap();
        to_gguf::without_tokenizer(&golden.reader(), &Tables::default(), part).unwrap_err().to_string()
    };
    assert!(error("glm4moe", ModelPart::MtpAlone).contains("no layers that predict further tokens"));
    for part in [ModelPart::MtpAlone, ModelPart::WithoutMtp] {
        assert!(error("qwen3", part).contains("cannot be selected"));
    }
}
