//! The sections of config.json: those of the text model, where a model has several parts.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

/// The sections of config.json with the hyperparameters of the text model, where there are several models.
const TEXT_SECTIONS: [&str; 6] = ["text_config", "language_config", "llm_config", "lm_config", "lfm", "thinker_config.text_config"];

/// Returns the section of config.json for the text model, if it has one of its own.
pub fn text_section(config: &Json) -> Option<&Json> {
    let at = |path: &str| path.split('.').try_fold(config, |object, key| object.get(key)).filter(|section| section.is_object());
    TEXT_SECTIONS.iter().find_map(|path| at(path))
}

/// Returns the section of config.json of a part of the model.
pub fn within(part: &str) -> String {
    format!("{part}_config")
}

/// Returns config.json with the keys of the section of a part of the model beside the others, which go before them.
pub fn lifted<'a>(config: &'a Json, part: Option<&str>) -> Cow<'a, Json> {
    let section = part.map(within);
    let inner = section.as_ref().and_then(|section| config.get(section)?.as_object());
    let (Some(inner), Some(outer)) = (inner, config.as_object()) else { return Cow::Borrowed(config) };
    let mut all = inner.clone();
    all.extend(outer.iter().filter(|(key, _)| section.as_ref() != Some(key)).map(|(key, value)| (key.clone(), value.clone())));
    Cow::Owned(Json::Object(all))
}

/// Removes the sections of the text model.
pub fn remove_text_sections(config: &mut Map<String, Json>) {
    for path in TEXT_SECTIONS {
        let (outer, key) = path.rsplit_once('.').map_or((None, path), |(outer, key)| (Some(outer), key));
        let section = match outer {
            None => Some(&mut *config),
            Some(outer) => config.get_mut(outer).and_then(Json::as_object_mut),
        };
        section.and_then(|section| section.remove(key));
    }
}

/// Returns the value of a key of the text model, or else of the whole.
pub fn text_value<'a>(config: &'a Json, key: &str) -> Option<&'a Json> {
    let at = |object: &'a Json| key.split('.').try_fold(object, |object, key| object.get(key)).filter(|value| !value.is_null());
    text_section(config).and_then(at).or_else(|| at(config))
}
