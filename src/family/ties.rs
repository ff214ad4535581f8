//! Whether a model ties its output matrix to its embeddings.

use serde_json::Value as Json;

use crate::family::table::Table;
use crate::family::tables;

/// The model types with tied embeddings, in quotes; searched as text because parsing would take too long.
const LISTED: &str = include_str!("tables/_ties.toml");

/// Whether the output matrix is tied to the embeddings, by the config or the default of its class.
pub fn ties_output(config: &Json) -> bool {
    let both = || [Some(config), config.get("text_config")].into_iter().flatten();
    let said = both().find_map(|config| config.get("tie_word_embeddings")?.as_bool());
    said.unwrap_or_else(|| {
        let types: Vec<&str> = both().filter_map(|config| config.get("model_type")?.as_str()).collect();
        types_tie(&types)
    })
}

/// Whether the class of one of these model types ties them, by transformers or the family's table.
pub(in crate::family) fn types_tie(types: &[&str]) -> bool {
    let ties = |table: &Table| [&table.defaults, &table.config].iter().any(|keys| keys.get("tie_word_embeddings").is_some_and(is_true));
    let is_listed = || types.iter().any(|name| LISTED.contains(&format!("\"{name}\"")));
    !types.is_empty()
        && (is_listed() || tables::mentioning("\ntie_word_embeddings = true", types).is_ok_and(|all| all.into_iter().any(ties)))
}

fn is_true(value: &toml::Value) -> bool {
    value.as_bool() == Some(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::family::tables::Tables;

    #[test]
    fn the_config_takes_precedence_over_the_class() {
        for (config, tied) in [
            (json!({"model_type": "gemma2"}), true),
            (json!({"model_type": "gemma2", "tie_word_embeddings": false}), false),
            (json!({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}), true),
            (json!({"model_type": "whisper"}), true),
            (json!({"model_type": "zaya"}), true),
            (json!({"model_type": "zay"}), false),
            (json!({"model_type": "RefinedWebModel"}), true), // known only to Falcon's table
            (json!({"model_type": "llama"}), false),
            (json!({"model_type": "llama", "text_config": {"tie_word_embeddings": true}}), true),
            (json!({}), false),
        ] {
            assert_eq!(ties_output(&config), tied, "{config}");
        }
    }

    #[test]
    fn table_defaults_apply_to_every_command() {
        for table in Tables::default().all().unwrap() {
            let ties = [&table.defaults, &table.config].iter().any(|keys| keys.get("tie_word_embeddings").is_some_and(is_true));
            for model_type in table.model_types.iter().filter(|_| ties) {
                assert!(ties_output(&json!({ "model_type": model_type })), "{}", table.name);
            }
        }
    }
}
