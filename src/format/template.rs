//! Chat templates, which other programs execute. weigh never does; `verify` reports use of Python's internals.

use std::path::Path;

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, json, text};
use crate::format::codes;
use crate::model::{Metadata, Value};
use crate::source::place;

/// Words that no chat template needs and that known attacks use.
const WORDS: &[&str] = &["import", "eval", "exec", "popen", "subprocess", "getattr", "attr", "lipsum", "cycler", "joiner"];

/// Returns the first word in a template that accesses Python's internals: one of [`WORDS`], or a name between double underscores.
///
/// Only the contents of `{{ }}` and `{% %}` are executed, so only these are searched.
pub(crate) fn suspicious_word(template: &str) -> Option<&str> {
    let mut rest = template;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let inside = &rest[start + 2..];
        let closing = if rest[start..].starts_with("{{") { "}}" } else { "%}" };
        let end = inside.find(closing).unwrap_or(inside.len());
        let words = inside[..end].split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let is_internal = |word: &&str| WORDS.contains(word) || word.len() > 4 && word.starts_with("__") && word.ends_with("__");
        if let Some(word) = words.into_iter().find(is_internal) {
            return Some(word);
        }
        rest = &inside[end..];
    }
    None
}

/// Checks the templates of a GGUF: `tokenizer.chat_template` and named ones.
pub(crate) fn check_metadata(metadata: &Metadata, path: &Path, findings: &mut Findings) {
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.chat_template")) {
        if let Value::String(template) = value {
            check(template, key, path, findings);
        }
    }
}

/// Checks the templates in a Hugging Face folder.
pub(crate) fn check_folder(folder: &Path, findings: &mut Findings) {
    let jinja = folder.join("chat_template.jinja");
    if let Ok(template) = place::read_text(&jinja) {
        check(&template, "the template", &jinja, findings);
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let path = folder.join(name);
        let Some(config) = place::read_text(&path).ok().and_then(|text| json::parse(&text, &path).ok()) else { continue };
        match config.get("chat_template") {
            Some(serde_json::Value::String(template)) => check(template, "chat_template", &path, findings),
            // Several named templates.
            Some(serde_json::Value::Array(templates)) => {
                for template in templates.iter().filter_map(|template| template.get("template")?.as_str()) {
                    check(template, "chat_template", &path, findings);
                }
            }
            _ => {}
        }
    }
}

fn check(template: &str, what: &str, path: &Path, findings: &mut Findings) {
    if let Some(word) = suspicious_word(template) {
        let (what, word) = (text::shorten(what), text::shorten(word));
        let message = format!("{what} uses Python's internals ({word}): run it only in a sandbox");
        findings.remark(Severity::Warning, codes::TEMPLATE, Error::malformed(message).in_file(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_distinguished_from_templates() {
        for (template, word) in [
            ("{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% endfor %}", None),
            ("__class__ import eval outside of what is run", None),
            ("{{ raise_exception('roles must alternate') }}{%- set x = namespace(a=1) -%}", None),
            ("{{ ''.__class__.__mro__ }}", Some("__class__")),
            ("{% import 'x' as y %}", Some("import")),
            ("{{ x|attr('a') }}", Some("attr")),
            ("{{ ok }} {% set f = a['__globals__'] %}", Some("__globals__")),
            ("{{ never closed __init__", Some("__init__")),
        ] {
            assert_eq!(suspicious_word(template), word, "{template}");
        }
    }
}
