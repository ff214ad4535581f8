//! Keys about the model as a whole.

use serde_json::json;

use crate::model::{DType, Metadata, Value};
use crate::view::general;
use crate::view::output_model::OutputTensor;
use crate::view::tests::reader;

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
