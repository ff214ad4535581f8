//! Chat templates: a single one, or several with names.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::files::Folder;
use super::keys;
use crate::base::Result;
use crate::model::{self, Array, Metadata};
use crate::source::place;

/// The file with the template in transformers.
pub(super) const FILE: &str = "chat_template.jinja";
/// The folder with additional templates in transformers.
pub(super) const ADDITIONAL: &str = "additional_chat_templates";

/// Templates with their names, in order; the unnamed one is called `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ChatTemplates(pub(super) Vec<(String, String)>);

impl ChatTemplates {
    pub(super) const DEFAULT: &str = "default";

    /// Reads the templates of a folder, in order of precedence: `tokenizer_config.json`, `chat_template.jinja` with the additional ones,
    /// `chat_template.json`.
    pub(super) fn read(folder: Folder<'_>, tokenizer_config: &Map<String, Value>) -> Result<Option<Self>> {
        if let Some(value) = tokenizer_config.get("chat_template") {
            return Ok(Self::from_json(value));
        }
        if let Some(template) = folder.text(FILE)? {
            let mut templates = Self(vec![(Self::DEFAULT.to_owned(), template)]);
            templates.read_additional(folder)?;
            return Ok(Some(templates));
        }
        let file = folder.object("chat_template.json")?;
        Ok(file.as_ref().and_then(|file| file.get("chat_template")).and_then(Self::from_json))
    }

    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(template) => Some(Self(vec![(Self::DEFAULT.to_owned(), template.clone())])),
            Value::Array(choices) => {
                let text = |choice: &Value, key: &str| choice.get(key).and_then(Value::as_str).map(str::to_owned);
                Some(Self(choices.iter().filter_map(|choice| Some((text(choice, "name")?, text(choice, "template")?))).collect()))
            }
            _ => None,
        }
    }

    /// Reads the additional templates, sorted by name.
    fn read_additional(&mut self, folder: Folder<'_>) -> Result<()> {
        let path = folder.file(ADDITIONAL);
        if !place::is_dir(&path) {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in place::entries(&path)? {
            if let Some(name) = entry.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja")) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        let additional = Folder::new(&path);
        for name in names {
            if let Some(template) = additional.text(&format!("{name}.jinja"))? {
                self.0.push((name, template));
            }
        }
        Ok(())
    }

    /// Writes the templates. Names become part of a key, so all characters except ASCII letters and digits become `_`.
    pub(super) fn write(&self, out: &mut Metadata) {
        let (mut names, mut seen): (Vec<String>, _) = (Vec::new(), HashSet::new());
        for (name, template) in &self.0 {
            let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if name.is_empty() || name == Self::DEFAULT {
                continue;
            }
            out.set(format!("{}.{name}", keys::CHAT_TEMPLATE), model::Value::String(template.clone()));
            if seen.insert(name.clone()) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            out.set(keys::CHAT_TEMPLATES, model::Value::Array(Array::strings(names)));
        }
        if let Some((_, template)) = self.0.iter().rev().find(|(name, _)| name == Self::DEFAULT) {
            out.set(keys::CHAT_TEMPLATE, model::Value::String(template.clone()));
        }
    }

    /// Reads the templates of a GGUF.
    pub(super) fn from_gguf(metadata: &Metadata) -> Self {
        let mut templates = Vec::new();
        if let Some(template) = metadata.get_str(keys::CHAT_TEMPLATE) {
            templates.push((Self::DEFAULT.to_owned(), template.to_owned()));
        }
        let prefix = format!("{}.", keys::CHAT_TEMPLATE);
        for (key, value) in metadata.iter() {
            if let (Some(name), Some(template)) = (key.strip_prefix(&prefix), value.as_str()) {
                templates.push((name.to_owned(), template.to_owned()));
            }
        }
        Self(templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_take_linear_time() {
        // Comparing every pair would take an hour.
        let names = || (0..1_000_000).map(|i| format!("t{}", i % 500_000));
        let templates = ChatTemplates(names().map(|name| (name, String::new())).collect());
        let mut metadata = Metadata::new();
        templates.write(&mut metadata);
        let listed = metadata.get(keys::CHAT_TEMPLATES).and_then(model::Value::as_array).unwrap();
        assert_eq!((listed.len(), metadata.len()), (500_000, 500_001));
    }
}
