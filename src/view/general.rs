//! `general.*` metadata of a GGUF, from the model card, the config and the folder name.
//!
//! The rules follow gguf-py's `Metadata` (gguf-py/gguf/metadata.py), so that names and labels are familiar.

use std::path::Path;

use serde_json::Value as Json;

use crate::base::Result;
use crate::family::card::Card;
use crate::family::model_id::ModelId;
use crate::family::{card, model_id};
use crate::model::companion::Note;
use crate::model::{Array, Metadata, Value};
use crate::source::folder;
use crate::view::output_model::OutputTensor;

/// Sampling parameters in generation_config.json: names in order of preference, GGUF key, and whether it is an integer.
const SAMPLING: [(&[&str], &str, bool); 11] = [
    (&["top_k"], "top_k", true),
    (&["top_p"], "top_p", false),
    (&["min_p"], "min_p", false),
    (&["xtc_probability"], "xtc_probability", false),
    (&["xtc_threshold"], "xtc_threshold", false),
    (&["temperature"], "temp", false),
    (&["penalty_last_n"], "penalty_last_n", true),
    (&["penalty_repeat", "repetition_penalty"], "penalty_repeat", false),
    (&["mirostat"], "mirostat", true),
    (&["mirostat_tau"], "mirostat_tau", false),
    (&["mirostat_eta"], "mirostat_eta", false),
];

/// The file with the sampling parameters.
const GENERATION: &str = "generation_config.json";

/// Adds `general.*` for a model with these tensors, from the files in its folder.
///
/// # Errors
/// A file in the folder cannot be read.
pub fn to_gguf(folder: Option<&Path>, config: &Json, steps: &[OutputTensor], metadata: &mut Metadata, notes: &mut Vec<Note>) -> Result<()> {
    let mut set = |key: &str, value: Value| drop(metadata.set(format!("general.{key}"), value));
    set("type", text("model"));
    let size = Size::of(steps);
    let card = match folder {
        Some(folder) => card::read(&folder.join("README.md"))?,
        None => Card::default(),
    };
    let generation = match folder.map(|folder| folder::json(&folder.join(GENERATION))).transpose() {
        Ok(found) => found.flatten(),
        // It does not affect the weights, so continue without it.
        Err(error) => {
            notes.push(Note::dropped(GENERATION, format!("cannot be read, so there are no sampling parameters: {}", error.message())));
            None
        }
    };
    for (names, key, whole) in SAMPLING {
        let Some(number) = names.iter().find_map(|name| generation.as_ref()?.get(name)?.as_f64()) else { continue };
        set(&format!("sampling.{key}"), if whole { Value::I32(number as i32) } else { Value::F32(number as f32) });
    }
    let mut about = About::from_card(&card);
    let named = config.get("_name_or_path").and_then(Json::as_str).filter(|path| !path.is_empty() && path.matches('/').count() <= 1);
    if let Some(path) = named {
        about.complete(&ModelId::parse(path, size.total));
    }
    if let Some(name) = folder.and_then(folder_name) {
        about.complete(&ModelId::parse(&name, size.total));
    }
    set("name", text(about.name.as_deref().unwrap_or("model")));
    let label = about.size_label.take().or_else(|| size.label());
    let order: [(&str, Option<String>); 8] = [
        ("author", card.text(&["author", "model_author", "model_creator"])),
        ("version", about.version),
        ("organization", about.organization),
        ("finetune", about.finetune),
        ("basename", about.basename),
        ("description", card.text(&["description", "model_description"])),
        ("quantized_by", card.text(&["quantized_by"])),
        ("size_label", label),
    ];
    for (key, value) in order {
        if let Some(value) = value {
            set(key, text(&value));
        }
    }
    let licences = card.list("license");
    if !licences.is_empty() {
        set("license", text(&licences.join(",")));
    }
    for (key, names) in [
        ("license.name", &["license_name"] as &[&str]),
        ("license.link", &["license_link"]),
        ("source.url", &["url", "model_url"]),
        ("source.doi", &["doi", "model_doi"]),
        ("source.uuid", &["uuid", "model_uuid"]),
        ("source.repo_url", &["repo_url", "model_repo_url"]),
    ] {
        if let Some(value) = card.text(names) {
            set(key, text(&value));
        }
    }
    for (kind, names) in
        [("base_model", ["base_model", "base_models", "base_model_sources"]), ("dataset", ["datasets", "dataset", "dataset_sources"])]
    {
        let Some(name) = names.iter().find(|name| card.has(name)) else { continue };
        let ids = card.list(name);
        set(&format!("{kind}.count"), Value::U32(ids.len() as u32));
        for (i, id) in ids.iter().enumerate() {
            for (part, value) in model_id::source_metadata(id, size.total) {
                set(&format!("{kind}.{i}.{part}"), text(&value));
            }
        }
    }
    for (key, names) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let values: Vec<String> = names.iter().flat_map(|name| card.list(name)).collect();
        if names.iter().any(|name| card.has(name)) {
            set(key, Value::Array(Array::strings(values)));
        }
    }
    Ok(())
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// Returns the name of a folder, even if given as `.`.
fn folder_name(folder: &Path) -> Option<String> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.or_else(|| Some(folder.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned()))
}

/// Descriptive metadata of a model.
#[derive(Debug, Default)]
struct About {
    name: Option<String>,
    version: Option<String>,
    organization: Option<String>,
    finetune: Option<String>,
    basename: Option<String>,
    size_label: Option<String>,
}

impl About {
    fn from_card(card: &Card) -> Self {
        let of = |key: &str| card.text(&[key, &format!("model_{key}")]);
        Self {
            name: of("name"),
            version: of("version"),
            organization: of("organization"),
            finetune: of("finetune"),
            basename: of("basename").or_else(|| card.text(&["model_type"])),
            size_label: of("size_label"),
        }
    }

    /// Sets the fields that are not yet known.
    fn complete(&mut self, id: &ModelId) {
        let fill = |own: &mut Option<String>, other: Option<String>| {
            if own.is_none() {
                *own = other;
            }
        };
        fill(&mut self.name, id.name.as_deref().map(model_id::title));
        fill(&mut self.organization, id.organization.as_deref().map(model_id::title));
        fill(&mut self.basename, id.basename.clone());
        fill(&mut self.finetune, id.finetune.clone());
        fill(&mut self.version, id.version.clone());
        fill(&mut self.size_label, id.size_label.clone());
    }
}

/// Parameter counts of a GGUF.
#[derive(Debug, Default)]
struct Size {
    total: u64,
    shared: u64,
    /// Parameters of a single expert.
    expert: u64,
    experts: u64,
}

impl Size {
    fn of(steps: &[OutputTensor]) -> Self {
        let mut size = Self::default();
        let (mut sum, mut count) = (0u64, 0u64);
        for step in steps {
            let elements = step.elements().unwrap_or(0);
            size.total = size.total.saturating_add(elements);
            // Experts are the outermost dimension of stacked matrices, and of stacked bias vectors.
            let experts = match step.shape.as_slice() {
                shape if !step.name.contains("_exps.") || shape.len() < 3 => None,
                [.., experts, _] if step.name.contains(".bias") => Some(*experts),
                [.., experts, _, _] => Some(*experts),
                _ => None,
            };
            match experts {
                Some(experts) if experts > 0 => {
                    size.expert = size.expert.saturating_add(elements / experts);
                    sum += experts;
                    count += 1;
                }
                _ => size.shared = size.shared.saturating_add(elements),
            }
        }
        size.experts = sum.checked_div(count).unwrap_or(0);
        size
    }

    /// Formats as in gguf-py's `size_label`: `271M`, `8x7B`.
    fn label(&self) -> Option<String> {
        match self {
            Self { total: 0, .. } => None,
            Self { experts: 0, .. } => Some(rounded(self.total)),
            _ => Some(format!("{}x{}", self.experts, rounded(self.shared.saturating_add(self.expert)))),
        }
    }
}

/// Formats a count with at least two digits: `1.7B`, `27B`, `271M`.
fn rounded(count: u64) -> String {
    let count = count as f64;
    let (scaled, suffix) = match count {
        count if count > 1e12 => (count * 1e-12, "T"),
        count if count > 1e9 => (count * 1e-9, "B"),
        count if count > 1e6 => (count * 1e-6, "M"),
        count => (count * 1e-3, "K"),
    };
    let digits = format!("{:.0}", scaled.round_ties_even());
    let places = 2usize.saturating_sub(digits.trim_start_matches('0').len());
    format!("{scaled:.places$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_two_digits_at_least() {
        for (count, label) in [
            (268_098_176, "268M"),
            (1_235_814_400, "1.2B"),
            (27_000_000_000, "27B"),
            (123_456, "123K"),
            (671_000_000_000, "671B"),
            (5, "0.01K"),
            (1_000_000, "1000K"),
            (1_000_000_000, "1000M"),
            (1_000_000_000_000, "1000B"),
            (1_600_000_000_000, "1.6T"),
        ] {
            assert_eq!(rounded(count), label);
        }
    }
}
