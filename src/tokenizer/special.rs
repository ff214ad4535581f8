//! Special tokens: their IDs, whether they are added to every text, chat templates, and normaliser settings.
//!
//! Keys and values follow llama.cpp's converter (gguf-py/gguf/vocab.py, `SpecialVocab`), including every fallback in its reading of
//! `tokenizer.json`, since related models could otherwise differ in a key.

use serde_json::{Map, Value};

use super::files::Folder;
use super::json::TokenizerJson;
use super::keys::{self, Role};
use super::templates::ChatTemplates;
use crate::base::{Error, Result};
use crate::model::{self, Metadata};

/// The special tokens and settings of a tokenizer, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Special {
    ids: Vec<(Role, u32)>,
    add: Vec<(Role, bool)>,
    templates: Option<ChatTemplates>,
    lowercase: Option<bool>,
    strip_accents: Option<bool>,
}

/// The inputs of [`Special`].
pub(super) struct Sources<'a> {
    pub(super) folder: Folder<'a>,
    pub(super) json: Option<&'a TokenizerJson>,
    /// `tokenizer_config.json`.
    pub(super) tokenizer_config: Option<&'a Map<String, Value>>,
    /// `config.json`.
    pub(super) config: &'a Value,
    /// IDs from here on are ignored.
    pub(super) below: Option<u32>,
}

impl Special {
    /// Reads the tokens of `roles`, and whether the post-processor adds them.
    pub(super) fn read(sources: &Sources<'_>, roles: &[Role]) -> Result<Self> {
        let mut special = Self::default();
        let mut roles = roles.to_vec();
        // An empty object counts as absent.
        let mut config = sources.tokenizer_config.filter(|config| !config.is_empty()).cloned();
        if let Some(json) = sources.json {
            special.read_normalizer(&json.normalizer);
            PostProcessor::new(&mut special, &mut roles, &mut config).read(&json.post_processor);
        }
        if let Some(config) = &config {
            special.templates = ChatTemplates::read(sources.folder, config)?;
            for &role in &roles {
                special.read_named(sources, config, role);
            }
        }
        for &role in &roles {
            special.read_id(sources, role)?;
        }
        Ok(special)
    }

    fn read_named(&mut self, sources: &Sources<'_>, config: &Map<String, Value>, role: Role) {
        if let Some(&Value::Bool(add)) = config.get(&format!("add_{}_token", role.name())) {
            // The post-processor takes precedence over the config.
            if !self.add.iter().any(|(other, _)| *other == role) {
                self.add.push((role, add));
            }
        }
        let Some(content) = config.get(&format!("{}_token", role.name())).and_then(token_text) else { return };
        let mut added = sources.json.iter().flat_map(|json| &json.added_tokens);
        if let Some(token) = added.find(|token| token.content == content) {
            self.set_id(sources, role, token.id);
        }
    }

    fn read_id(&mut self, sources: &Sources<'_>, role: Role) -> Result<()> {
        let key = format!("{}_token_id", role.name());
        let id = match sources.config.get(&key) {
            None | Some(Value::Null) => sources.config.get("text_config").and_then(|config| config.get(&key)),
            found => found,
        };
        // Lists of IDs are for generation, not for the tokenizer.
        let Some(id) = id.filter(|id| id.is_i64() || id.is_u64()) else { return Ok(()) };
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let number = number.ok_or_else(|| {
            Error::malformed(format!("expected {key} of 0 to 2^32 - 1, found {id}")).in_file(&sources.folder.file("config.json"))
        })?;
        self.set_id(sources, role, number);
        Ok(())
    }

    /// Sets the ID of a role, unless already set.
    fn set_id(&mut self, sources: &Sources<'_>, role: Role, id: u32) {
        if sources.below.is_none_or(|below| id < below) && !self.ids.iter().any(|(other, _)| *other == role) {
            self.ids.push((role, id));
        }
    }

    /// Whether the folder names a special token.
    pub(super) fn is_named(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Sets the ID that a family prescribes for a role, unless the folder has another.
    pub(super) fn default_id(&mut self, role: Role, id: u32) {
        if !self.ids.iter().any(|(other, _)| *other == role) {
            self.ids.push((role, id));
        }
    }

    fn set_add(&mut self, role: Role, add: bool) {
        match self.add.iter_mut().find(|(other, _)| *other == role) {
            Some(entry) => entry.1 = add,
            None => self.add.push((role, add)),
        }
    }

    fn read_normalizer(&mut self, normalizer: &Value) {
        match type_of(normalizer) {
            "Lowercase" => self.lowercase = Some(true),
            "StripAccents" => self.strip_accents = Some(true),
            "BertNormalizer" => {
                self.lowercase = bool_of(normalizer, "lowercase", self.lowercase);
                self.strip_accents = bool_of(normalizer, "strip_accents", self.strip_accents);
            }
            "Sequence" => list_of(normalizer, "normalizers").iter().for_each(|one| self.read_normalizer(one)),
            _ => {}
        }
    }

    /// Writes the keys; existing ones keep their position.
    pub(super) fn write(&self, out: &mut Metadata) {
        for (role, id) in &self.ids {
            if let Some(key) = role.id_key() {
                out.set(key, model::Value::U32(*id));
            }
        }
        for (role, add) in &self.add {
            if let Some(key) = role.add_key() {
                out.set(key, model::Value::Bool(*add));
            }
        }
        if let Some(templates) = &self.templates {
            templates.write(out);
        }
        for (key, value) in [(keys::LOWERCASE, self.lowercase), (keys::STRIP_ACCENTS, self.strip_accents)] {
            if let Some(value) = value {
                out.set(key, model::Value::Bool(value));
            }
        }
    }
}

/// Determines which tokens a post-processor adds before, between and after texts.
struct PostProcessor<'a> {
    special: &'a mut Special,
    roles: &'a mut Vec<Role>,
    config: &'a mut Option<Map<String, Value>>,
    bos: Value,
    cls: Value,
    eos: Value,
    sep: Value,
}

impl<'a> PostProcessor<'a> {
    fn new(special: &'a mut Special, roles: &'a mut Vec<Role>, config: &'a mut Option<Map<String, Value>>) -> Self {
        let of = |name: &str| config.as_ref().and_then(|config| config.get(name)).cloned().unwrap_or_default();
        let (bos, cls, eos, sep) = (of("bos_token"), of("cls_token"), of("eos_token"), of("sep_token"));
        let mut this = Self { special, roles, config, bos, cls, eos, sep };
        if !is_set(&this.bos) && is_set(&this.cls) {
            this.bos = this.cls.clone();
            this.put("bos_token", this.bos.clone());
        }
        if !is_set(&this.eos) && is_set(&this.sep) {
            this.eos = this.sep.clone();
            this.put("eos_token", this.eos.clone());
        }
        this
    }

    fn put(&mut self, key: &str, value: Value) {
        if let Some(config) = self.config {
            config.insert(key.to_owned(), value);
        }
    }

    fn read(&mut self, post_processor: &Value) {
        match post_processor.get("processors").and_then(Value::as_array) {
            Some(processors) => processors.iter().for_each(|processor| self.read_one(processor)),
            None => self.read_one(post_processor),
        }
    }

    fn read_one(&mut self, processor: &Value) {
        match type_of(processor) {
            "ByteLevel" => {
                for role in [Role::Bos, Role::Eos] {
                    if !self.special.add.iter().any(|(other, _)| *other == role) {
                        self.special.add.push((role, false));
                    }
                }
            }
            "RobertaProcessing" => self.read_roberta(processor),
            "TemplateProcessing" => {
                let (first, last) = self.read_single(list_of(processor, "single"));
                self.read_pair(list_of(processor, "pair"), first, last);
            }
            _ => {}
        }
    }

    fn read_roberta(&mut self, processor: &Value) {
        for role in [Role::Bos, Role::Eos, Role::Sep] {
            self.special.set_add(role, true);
        }
        let first = |name: &str, other: &Value| processor.get(name).map_or(other, |token| &token[0]).clone();
        if !is_set(&self.cls) && self.config.is_some() {
            self.cls = first("cls", &self.bos);
            self.put("cls_token", self.cls.clone());
        }
        if !is_set(&self.sep) && self.config.is_some() {
            self.sep = first("sep", &self.eos);
            self.put("sep_token", self.sep.clone());
        }
    }

    /// Returns the tokens around a single text.
    fn read_single<'t>(&mut self, single: &'t [Value]) -> (Option<&'t str>, Option<&'t str>) {
        let (Some(first), Some(last), true) = (single.first(), single.last(), single.len() > 1) else { return (None, None) };
        let (first, last) = (special_of(first), special_of(last));
        if let Some(first) = first {
            if self.config.is_none() {
                self.bos = first.into();
            } else if self.bos != first && self.cls != first {
                if !is_set(&self.bos) {
                    self.bos = first.into();
                    self.put("bos_token", first.into());
                }
                if !is_set(&self.cls) {
                    self.cls = first.into();
                    self.put("cls_token", first.into());
                }
            }
            let known = self.bos == first || self.cls == first;
            self.special.set_add(Role::Bos, known);
        }
        if let Some(last) = last {
            if self.config.is_none() {
                self.eos = last.into();
            } else if self.eos != last {
                // The text ends with a different token than in the config: it ends a turn.
                for (role, key) in [(Role::Eot, "eot_token"), (Role::Eom, "eom_token")] {
                    if !self.roles.contains(&role) {
                        self.roles.push(role);
                        self.put(key, self.eos.clone());
                        break;
                    }
                }
                self.eos = last.into();
                self.put("eos_token", last.into());
            }
            self.special.set_add(Role::Eos, true);
        }
        (first, last)
    }

    /// Examines the tokens between two texts.
    fn read_pair(&mut self, mut pair: &[Value], first: Option<&str>, last: Option<&str>) {
        if let Some((head, rest)) = pair.split_first()
            && first.is_some()
            && special_of(head) == first
        {
            pair = rest;
        }
        if let Some((tail, rest)) = pair.split_last()
            && last.is_some()
            && special_of(tail) == last
        {
            pair = rest;
        }
        let [a, between @ .., b] = pair else { return };
        if sequence_of(a) != Some("A") || sequence_of(b) != Some("B") {
            return;
        }
        let Some(middle) = between.first() else { return };
        let separates = |token: &Value| special_of(token).is_some_and(|id| self.sep == id || self.eos == id);
        let add = (separates(middle) && last.is_none()) || (between.len() == 2 && separates(&between[1]));
        self.special.set_add(Role::Sep, add);
        if add && !is_set(&self.sep) {
            self.put("sep_token", self.eos.clone());
        }
    }
}

fn type_of(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn list_of<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Reads a flag; `null` unsets an earlier value.
fn bool_of(value: &Value, key: &str, before: Option<bool>) -> Option<bool> {
    value.get(key).map_or(before, Value::as_bool)
}

fn special_of(entry: &Value) -> Option<&str> {
    entry.get("SpecialToken")?.get("id")?.as_str().filter(|id| !id.is_empty())
}

fn sequence_of(entry: &Value) -> Option<&str> {
    entry.get("Sequence")?.get("id")?.as_str()
}

fn is_set(token: &Value) -> bool {
    match token {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => true,
    }
}

/// Returns the text of a special token: a string, or an object with flags.
pub(super) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
