//! The set of architecture tables: the embedded ones, which are parsed on demand, and custom ones.

use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use crate::base::{Error, Hint, Result, text};
use crate::family::sections::text_section;
use crate::family::table::Table;
use crate::source::place;

// The embedded tables and the names in them, by build.rs.
include!(concat!(env!("OUT_DIR"), "/tables.rs"));

/// Prefix of the names of tables of vision and audio encoders, so that a search for one parses only these.
const PROJECTOR: &str = "mmproj-";

/// The parsed tables, in the order of [`EMBEDDED`].
static PARSED: LazyLock<Vec<OnceLock<Table>>> = LazyLock::new(|| EMBEDDED.iter().map(|_| OnceLock::new()).collect());

impl Table {
    /// Parses a table.
    ///
    /// # Errors
    /// The text is not a valid table.
    pub fn parse(text: &str) -> Result<Self> {
        let own: Self = toml::from_str(text).map_err(|error| {
            let line = text.get(..error.span().unwrap_or_default().start).unwrap_or_default().lines().count().max(1);
            Error::argument(format!("expected an architecture table, found in line {line}: {}", error.message())).caused_by(error)
        })?;
        let Some(parent) = &own.extends else { return own.resolved(&[]) };
        let parent = embedded(|_, name| name == parent).next().unwrap_or_else(|| {
            let message = format!("unknown table {parent} after extends");
            Err(Error::argument(message).hint(Hint::ListArchitectures))
        })?;
        Ok(own.resolved(&parent.hyperparameters)?.over(parent.clone()))
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not a valid table.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&place::read_text(path)?).map_err(|error| error.in_file(path))
    }
}

/// Returns the embedded tables whose number and name satisfy `wanted`, parsing them on first use.
fn embedded(wanted: impl Fn(usize, &str) -> bool) -> impl Iterator<Item = Result<&'static Table>> {
    let wanted = EMBEDDED.iter().zip(&*PARSED).enumerate().filter(move |(number, ((name, _), _))| wanted(*number, name));
    wanted.map(|(_, ((name, text), parsed))| match parsed.get() {
        Some(table) => Ok(table),
        None => {
            let table = Table::parse(text).map_err(|error| error.hint(format!("in the embedded table {name}")))?;
            Ok(parsed.get_or_init(|| table))
        }
    })
}

/// Returns the table common to all families, for models of an unknown family.
///
/// # Errors
/// The embedded table is invalid, which tests rule out.
pub fn common() -> Result<&'static Table> {
    embedded(|_, name| name == "_names").next().unwrap_or_else(|| Err(Error::argument("there is no table _names")))
}

/// Returns the embedded tables of these architectures (classes, model types, `general.architecture`) whose text, or that of a table they
/// extend, contains `text`, and those of encoders of these classes; only those are parsed.
///
/// # Errors
/// As for [`common`].
pub fn mentioning(text: &str, architectures: &[&str]) -> Result<Vec<&'static Table>> {
    let fits = |table: &&Table| {
        let is = |name: &str| architectures.contains(&name);
        let is_text = is(&table.gguf) || table.model_types.iter().any(|name| is(name));
        is_text && !table.projector || table.classes.iter().any(|name| is(name))
    };
    let named = tables_named(architectures);
    let wanted =
        |number: usize, name: &str| named.contains(&number) && !name.starts_with('_') && texts_of(number).any(|own| own.contains(text));
    let mut found = embedded(wanted).collect::<Result<Vec<_>>>()?;
    found.retain(fits);
    Ok(found)
}

/// The available tables: custom ones, then the embedded ones.
#[derive(Debug, Default)]
pub struct Tables {
    own: Vec<Table>,
}

impl Tables {
    /// Returns the custom tables followed by the embedded ones.
    pub fn with(own: Vec<Table>) -> Self {
        Self { own }
    }

    /// Returns the embedded tables and the one in a file, if one is named.
    ///
    /// # Errors
    /// As for [`Table::read`].
    pub fn with_file(path: Option<&Path>) -> Result<Self> {
        Ok(Self::with(path.map(Table::read).transpose()?.into_iter().collect()))
    }

    /// Returns the custom tables.
    pub fn own(&self) -> &[Table] {
        &self.own
    }

    /// Returns all tables, parsed.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn all(&self) -> Result<Vec<&Table>> {
        self.among(|_, name| is_text(name), |table| !table.projector)
    }

    /// Returns the tables of encoders of pictures and sounds, parsed.
    ///
    /// # Errors
    /// As for [`Tables::all`].
    pub fn projectors(&self) -> Result<Vec<&Table>> {
        self.among(|_, name| name.starts_with(PROJECTOR), |table| table.projector)
    }

    /// Returns the tables that name the architecture `word` and satisfy `fits`; only those are parsed.
    fn find(&self, word: &str, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let named = tables_named(&[word]);
        self.among(|number, name| named.contains(&number) && is_text(name), fits)
    }

    /// Returns the tables that satisfy `fits`, parsing only embedded ones whose number and name satisfy `wanted`.
    fn among(&self, wanted: impl Fn(usize, &str) -> bool, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let mut found: Vec<&Table> = self.own.iter().filter(|table| fits(table)).collect();
        for table in embedded(wanted) {
            found.extend(Some(table?).filter(|table| fits(table)));
        }
        Ok(found)
    }

    /// Returns the table for a Hugging Face config, with the parts of its vision or audio encoder, if it has one with a table.
    ///
    /// # Errors
    /// There is none; the message names the architecture.
    pub fn for_config(&self, config: &serde_json::Value) -> Result<Table> {
        let mut table = self.of_config(config)?;
        if let Some(projector) = self.projector_for_config(config)? {
            table.parts = projector.parts;
        }
        Ok(table)
    }

    /// Returns the table for the vision or audio encoder of a Hugging Face config, if there is one.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn projector_for_config(&self, config: &serde_json::Value) -> Result<Option<Table>> {
        let named = |key: &str| config.get(key).and_then(|value| value.as_str().or_else(|| value.get(0)?.as_str()));
        let has = |names: &[String], key: &str| named(key).is_some_and(|named| names.iter().any(|name| name == named));
        let own: Vec<&str> = ["architectures", "model_type"].iter().filter_map(|key| named(key)).collect();
        // A class that is registered goes before a model_type, which several classes may share.
        let named = tables_named(&own);
        let mut found = self.among(
            |number, name| named.contains(&number) && name.starts_with(PROJECTOR),
            |table| {
                table.projector
                    && (has(&table.classes, "architectures") || has(&table.model_types, "model_type"))
                    && table.applies_to(config)
            },
        )?;
        found.sort_by_key(|table| !has(&table.classes, "architectures"));
        Ok(found.into_iter().next().cloned())
    }

    /// Returns the table of an encoder in GGUF beside a text model with this table: one for a class that the text model has too, or for one
    /// that takes any text model. `has` tells which keys and tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_for_gguf(&self, kind: &str, has: impl Fn(&str) -> bool, text: &Table) -> Result<Table> {
        let all = self.projectors_of_kind(kind, has)?;
        let found = all.iter().find(|table| table.shares_class(&text.classes) || table.any_text && table.gguf_has.is_some());
        let found = found.or_else(|| all.iter().find(|table| table.any_text)).ok_or_else(|| {
            let message = format!("expected an encoder that goes with {}, found {kind}", text.gguf);
            Error::unsupported(message).hint(Hint::ListArchitectures)
        })?;
        let mut table = Table::clone(found);
        if table.shares_class(&text.classes) {
            table.classes.retain(|class| text.classes.contains(class));
            if table.model_types.iter().any(|known| text.model_types.contains(known)) {
                table.model_types.retain(|known| text.model_types.contains(known));
            }
        }
        Ok(table)
    }

    /// Returns the table of the text model beside this encoder: of those with the same architecture in GGUF, one that shares a class with it.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn text_beside(&self, encoder: &Table, text: Table) -> Result<Table> {
        let shared = |table: &Table| table.gguf == text.gguf && table.shares_class(&encoder.classes);
        if shared(&text) {
            return Ok(text);
        }
        Ok(self.find(&text.gguf, shared)?.into_iter().next().cloned().unwrap_or(text))
    }

    /// Returns the first table of an encoder of this kind (`clip.projector_type`). `has` tells which tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let found = self.projectors_of_kind(kind, has)?.into_iter().next().cloned();
        found.ok_or_else(|| Error::unsupported(format!("unknown encoder {kind}")).hint(Hint::ListArchitectures))
    }

    fn projectors_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Vec<&Table>> {
        let named = |table: &Table| table.projector_types().any(|named| named == kind);
        let fits = |table: &Table| table.projector && named(table) && table.gguf_has.as_ref().is_none_or(|key| has(key));
        // A table may inherit the kind, so all are parsed.
        Ok(self.specific_first(self.among(|_, name| name.starts_with(PROJECTOR), fits)?))
    }

    fn of_config(&self, config: &serde_json::Value) -> Result<Table> {
        let text_config = text_section(config);
        // Tables with a condition go before the one of the same class without.
        let best = |mut found: Vec<&Table>| -> Option<Table> {
            found.retain(|table| !table.projector && table.applies_to(config));
            // The first of equals, so that a custom table goes before an embedded one. Which of two it is may be seen in GGUF alone.
            found.sort_by_key(|table| (table.when.is_none(), table.gguf_has.is_some()));
            found.into_iter().next().cloned()
        };
        let class = |config: &serde_json::Value| Some(config.get("architectures")?.get(0)?.as_str()?.to_owned());
        let classes = [class(config), text_config.and_then(class)];
        for class in classes.iter().flatten() {
            if let Some(table) = best(self.find(class, |table| table.classes.contains(class))?) {
                return Ok(table);
            }
        }
        let model_type = |config: &serde_json::Value| Some(config.get("model_type")?.as_str()?.to_owned());
        let model_types = [model_type(config), text_config.and_then(model_type)];
        for model_type in model_types.iter().flatten() {
            if let Some(table) = best(self.find(model_type, |table| table.model_types.contains(model_type))?) {
                return Ok(table);
            }
        }
        if classes.iter().chain(&model_types).all(Option::is_none) {
            let has_all = |table: &Table| !table.params.is_empty() && table.params.iter().all(|key| config.get(key).is_some());
            let fits = |table: &Table| has_all(table) && table.applies_to(config);
            let has_params = |number: usize| NAMED.iter().any(|(key, _, other)| *key == "params" && *other == number);
            let native = self.among(|number, _| has_params(number), fits)?;
            if let Some(table) = native.into_iter().max_by_key(|table| table.params.len()) {
                return Ok(table.clone());
            }
        }
        let asked = classes.into_iter().chain(model_types).flatten().next();
        let nearest = asked.as_deref().and_then(|asked| text::closest(asked, listed(&["classes", "model_types"])));
        Err(unknown(asked.as_deref().unwrap_or("none named"), nearest))
    }

    /// Returns the table for a GGUF. As families may share an architecture, `has` tells which keys exist.
    ///
    /// # Errors
    /// There is none.
    pub fn for_gguf(&self, architecture: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let fits =
            |table: &Table| table.gguf == architecture && !table.classes.is_empty() && table.gguf_has.as_ref().is_none_or(|key| has(key));
        let found = self.specific_first(self.find(architecture, fits)?).into_iter().next().cloned();
        found.ok_or_else(|| unknown(architecture, text::closest(architecture, listed(&["gguf"]))))
    }

    /// Sorts tables that a GGUF fits. A family with a required key is more specific than one without; of two with one, that which extends the
    /// other; of two without, the other. Custom tables go before embedded ones.
    fn specific_first<'a>(&'a self, mut tables: Vec<&'a Table>) -> Vec<&'a Table> {
        let all = tables.clone();
        let extends = |table: &Table, other: &Table| table.extends.as_ref() == Some(&other.name);
        tables.sort_by_key(|table| {
            let is_embedded = !self.own.iter().any(|own| std::ptr::eq(own, *table));
            match &table.gguf_has {
                Some(has) => (if has.contains(" = ") { 0 } else { 1 }, is_embedded, all.iter().any(|other| extends(other, table))),
                None => (2, is_embedded, all.iter().any(|other| extends(table, other))),
            }
        });
        tables
    }
}

/// Whether the name of an embedded table is that of a text model.
fn is_text(name: &str) -> bool {
    !name.starts_with('_') && !name.starts_with(PROJECTOR)
}

/// Returns the numbers of the embedded tables that name one of these architectures as their own, and not just as what they extend.
fn tables_named(architectures: &[&str]) -> Vec<usize> {
    NAMED.iter().filter(|(_, name, _)| architectures.contains(name)).map(|(.., number)| *number).collect()
}

/// Returns the text of an embedded table, and those of the families that it extends.
fn texts_of(number: usize) -> impl Iterator<Item = &'static str> {
    let all = std::iter::successors(Some(number), |number| PARENTS.get(*number).copied().flatten());
    all.filter_map(|number| EMBEDDED.get(number)).map(|(_, text)| *text)
}

/// Returns the names of architectures under these keys of the embedded tables, without parsing these.
fn listed(keys: &[&str]) -> impl Iterator<Item = &'static str> {
    NAMED.iter().filter(|(key, ..)| keys.contains(key)).map(|(_, name, _)| *name)
}

fn unknown(architecture: &str, nearest: Option<&str>) -> Error {
    let mut error = Error::unsupported(format!("unknown architecture {architecture}"));
    if let Some(nearest) = nearest {
        error = error.add_hint(Hint::DidYouMean(nearest.to_owned()));
    }
    error.add_hint(Hint::ListArchitectures).add_hint(Hint::UseArchitectureTable).add_hint(Hint::KeepNames)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_embedded_table_is_valid_and_found_by_its_names() {
        let tables = Tables::default();
        for table in tables.all().unwrap().into_iter().chain(tables.projectors().unwrap()) {
            let number = EMBEDDED.iter().position(|(name, _)| *name == table.name).unwrap();
            let names = table.classes.iter().chain(&table.model_types).chain([&table.gguf]).chain(&table.params);
            names.for_each(|name| assert!(tables_named(&[name]).contains(&number), "{}: {name} is not at its start", table.name));
        }
        for table in tables.all().unwrap() {
            // Those with a condition are found if it holds, as the goldens show.
            if table.when.is_some() {
                continue;
            }
            for class in &table.classes {
                assert_eq!(tables.for_config(&json!({ "architectures": [class] })).unwrap().gguf, table.gguf);
            }
            for model_type in &table.model_types {
                // Several classes may share a model_type.
                let config = json!({ "architectures": table.classes, "model_type": model_type });
                assert_eq!(tables.for_config(&config).unwrap().gguf, table.gguf);
                assert!(tables.for_config(&json!({ "model_type": model_type })).unwrap().model_types.contains(model_type));
            }
            if !table.params.is_empty() {
                let params: serde_json::Map<_, _> = table.params.iter().map(|key| (key.clone(), json!(1))).collect();
                assert_eq!(tables.for_config(&params.into()).unwrap().name, table.name);
            } else if let Some(key) = &table.gguf_has {
                assert_eq!(tables.for_gguf(&table.gguf, |other| other == key).unwrap().name, table.name);
            }
            assert!(table.tokenizer.is_some(), "{}", table.name);
        }
    }

    #[test]
    fn a_table_is_not_found_by_what_it_extends() {
        let number = |name: &str| EMBEDDED.iter().position(|(other, _)| *other == name).unwrap();
        assert!(texts_of(number("gemma3n")).next().unwrap().contains("extends = \"gemma3\""));
        let named = |word: &str, name: &str| tables_named(&[word]).contains(&number(name));
        assert!(named("gemma3", "gemma3") && named("gemma3n", "gemma3n") && !named("gemma3", "gemma3n"));
        assert!(named("LlamaForCausalLM", "llama") && !named("ForCausalLM", "llama"));
    }

    #[test]
    fn a_custom_table_takes_precedence() {
        let own = Table::parse("name = 'mine'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']").unwrap();
        assert!(own.tensors.len() > 5, "rows of the table that it extends");
        let tables = Tables::with(vec![own]);
        assert_eq!(tables.for_config(&json!({ "architectures": ["LlamaForCausalLM"] })).unwrap().name, "mine");
        assert_eq!(tables.for_gguf("llama", |_| false).unwrap().name, "mine");
    }

    #[test]
    fn invalid_tables_and_unknown_architectures_are_errors() {
        for text in ["name = 1", "nonsense = true", "extends = 'nothing'", "[[tensors]]\nhf = 'a'\nwrong = 1", "\u{0}"] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let error = Tables::default().for_config(&json!({ "architectures": ["NobodysForCausalLM"] })).unwrap_err();
        assert!(error.to_string().contains("NobodysForCausalLM"), "{error}");
        let error = Tables::default().for_config(&json!({ "architectures": ["Qwen3MoEForCausalLM"] })).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("Qwen3MoeForCausalLM".to_owned())), "{error}");
        assert!(Tables::default().for_gguf("nobodys", |_| false).is_err());
        let error = Tables::default().for_gguf("qwen3mo", |_| false).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("qwen3moe".to_owned())), "{error}");
        let tables = Tables::default();
        let all: HashSet<&str> = tables.all().unwrap().into_iter().flat_map(|table| &table.classes).map(String::as_str).collect();
        let found: HashSet<&str> = listed(&["classes"]).collect();
        assert!(all.is_subset(&found), "{:?}", all.difference(&found));
        assert!(Tables::default().for_config(&json!({})).is_err());
        // Ling 1 with an output that is divided by its norms.
        let ling =
            |norm_head: bool| Tables::default().for_config(&json!({ "architectures": ["BailingMoeForCausalLM"], "norm_head": norm_head }));
        assert!(ling(false).is_ok() && ling(true).is_err());
    }
}
