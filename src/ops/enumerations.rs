//! Names of the numbers that GGUF has for enumerations.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::Value;
use crate::quant::recipe::file_type_name;

/// An enumeration of llama.cpp: the end of its keys, its first number, and the names of that and the following ones; an empty name is unused.
struct Enumeration(&'static str, i64, &'static [&'static str]);

/// The enumerations whose numbers GGUF has, besides the file types; those of RoPE scaling, file kinds and projectors are stored by name. From
/// gguf-py's constants.py, llama.h, llama-hparams.h (expert gating), and clip.cpp (windows of the MiMo encoders).
const ENUMERATIONS: &[Enumeration] = &[
    Enumeration(".pooling_type", 0, &["none", "mean", "cls", "last", "rank"]),
    Enumeration(".expert_gating_func", 0, &["none", "softmax", "sigmoid", "softmax_weight", "sqrt_softplus"]),
    Enumeration("tokenizer.ggml.token_type", 0, &["undefined", "normal", "unknown", "control", "user_defined", "unused", "byte"]),
    Enumeration("clip.vision.wa_pattern_mode", -1, &["full", "row_window", "column_window"]),
    Enumeration("clip.audio.wa_pattern_mode", -1, &["full", "window"]),
];

/// Returns the name that a number stands for; `None` if the key is not an enumeration or the number is unknown.
pub(in crate::ops) fn name(key: &str, value: &Value) -> Option<&'static str> {
    if key == "general.file_type" {
        return value.as_u64().and_then(file_type_name);
    }
    let Enumeration(_, first, names) = ENUMERATIONS.iter().find(|Enumeration(end, ..)| key.ends_with(end))?;
    let index = value.as_i64()?.checked_sub(*first)?;
    names.get(usize::try_from(index).ok()?).copied()
}

/// Returns the names that the numbers among these values stand for.
pub(in crate::ops) fn names(key: &str, values: impl Iterator<Item = Value>) -> BTreeMap<i64, &'static str> {
    if !ENUMERATIONS.iter().any(|Enumeration(end, ..)| key.ends_with(end)) {
        return BTreeMap::new();
    }
    values.filter_map(|value| Some((value.as_i64()?, name(key, &value)?))).collect()
}

/// Appends to a value what its number stands for, or the numbers of its array: `15 (Q4_K_M)`, `1, 3 (1 normal, 3 control)`.
pub fn annotate(mut text: String, name: Option<&str>, names: &BTreeMap<i64, &str>) -> String {
    if let Some(name) = name {
        let _ = write!(text, " ({name})");
    } else if !names.is_empty() {
        let names: Vec<String> = names.iter().map(|(number, name)| format!("{number} {name}")).collect();
        let _ = write!(text, " ({})", names.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_enumerations_have_names() {
        for (key, number, expected) in [
            ("general.file_type", 15, Some("Q4_K_M")),
            ("bert.pooling_type", 2, Some("cls")),
            ("modern-bert.classifier.pooling_type", 1, Some("mean")),
            ("qwen3moe.expert_gating_func", 2, Some("sigmoid")),
            ("tokenizer.ggml.token_type", 3, Some("control")),
            ("clip.vision.wa_pattern_mode", -1, Some("full")),
            ("clip.vision.wa_pattern_mode", 1, Some("column_window")),
            ("bert.pooling_type", 99, None),
            ("bert.pooling_type", -1, None),
            ("llama.block_count", 2, None),
            ("tokenizer.ggml.token_type_count", 2, None),
        ] {
            assert_eq!(name(key, &Value::I32(number)), expected, "{key} {number}");
        }
        let types = [1, 3, 1, 77].map(Value::I32);
        assert_eq!(names("tokenizer.ggml.token_type", types.into_iter()), BTreeMap::from([(1, "normal"), (3, "control")]));
        assert!(names("llama.attention.head_count", [Value::I32(1)].into_iter()).is_empty());
    }

    #[test]
    fn names_follow_the_numbers() {
        let types = BTreeMap::from([(1, "normal"), (3, "control")]);
        for (text, name, names, expected) in [
            ("15", Some("Q4_K_M"), BTreeMap::new(), "15 (Q4_K_M)"),
            ("1, 3", None, types, "1, 3 (1 normal, 3 control)"),
            ("llama", None, BTreeMap::new(), "llama"),
        ] {
            assert_eq!(annotate(text.to_owned(), name, &names), expected);
        }
    }
}
