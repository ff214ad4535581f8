//! A summary of a folder's tokenizer files, without building a tokenizer.

use std::path::Path;

use serde::Deserialize;

use super::files::Folder;
use super::{JSON, proto};

/// A tokenizer summary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The tokenizer model: as in tokenizer.json (`BPE`, `WordPiece`, `Unigram`), or `SentencePiece`.
    pub kind: Option<String>,
    /// The vocabulary size.
    pub tokens: Option<u64>,
    /// Whether there is a chat template.
    pub chat_template: bool,
}

/// Summarises the tokenizer files of `folder`. Unreadable files count as absent.
pub fn summary(folder: &Path) -> Option<Summary> {
    let folder = Folder::new(folder);
    let mut found = Summary::default();
    if let Some(scan) = folder.json::<Scan>(JSON).ok()? {
        let past_added = scan.added_tokens.iter().map(|token| token.id.saturating_add(1)).max();
        found.kind = scan.model.kind;
        found.tokens = scan.model.vocab.map(|Entries(entries)| entries).max(past_added);
    } else if let Ok(Some(pieces)) = folder.bytes("tokenizer.model") {
        found.kind = Some("SentencePiece".to_owned());
        found.tokens = proto::count_pieces(&pieces).ok();
    } else if folder.has("vocab.txt") {
        found.kind = Some("WordPiece".to_owned());
    } else {
        return None;
    }
    found.chat_template = ["chat_template.jinja", "chat_template.json"].iter().any(|name| folder.has(name))
        || matches!(folder.json("tokenizer_config.json"), Ok(Some(TokenizerConfig { chat_template: Some(_) })));
    Some(found)
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<serde::de::IgnoredAny>,
}

/// The required parts of a tokenizer.json, read without building the vocabulary.
#[derive(Deserialize)]
struct Scan {
    model: ScanModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct ScanModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Option<Entries>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
}

/// The number of entries in a list or map.
struct Entries(u64);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
        struct Counter;
        impl<'de> Visitor<'de> for Counter {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list or a map")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    entries += 1;
                }
                Ok(Entries(entries))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    entries += 1;
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(Counter)
    }
}
