//! Reads `tokenizer.json` of the tokenizers library without building a JSON tree for its hundreds of thousands of entries.

use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::limits;

/// The fields of a `tokenizer.json` in use.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: Model,
}

/// A token that is matched before text is split.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// The model, which splits words into tokens.
#[derive(Debug, Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type", default)]
    pub(super) model_type: Option<String>,
    pub(super) vocab: Vocab,
    #[serde(default)]
    pub(super) merges: Merges,
    #[serde(default)]
    pub(super) ignore_merges: Option<bool>,
    #[serde(default)]
    pub(super) byte_fallback: Option<bool>,
    #[serde(default)]
    pub(super) unk_id: Option<u32>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
}

impl Model {
    /// Returns BPE, WordPiece or Unigram; older files only imply it by other fields.
    pub(super) fn kind(&self) -> &str {
        match (&self.model_type, &self.vocab) {
            (Some(name), _) => name,
            (None, Vocab::Scores(_)) => "Unigram",
            (None, Vocab::Ids(_)) if self.merges.0.is_empty() => "WordPiece",
            (None, Vocab::Ids(_)) => "BPE",
        }
    }
}

/// The vocabulary of a model.
#[derive(Debug)]
pub(super) enum Vocab {
    /// Tokens with IDs, for BPE and WordPiece.
    Ids(Vec<(String, u32)>),
    /// Tokens with scores, for Unigram; the index is the ID.
    Scores(Vec<(String, f64)>),
}

impl Vocab {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ids(tokens) => tokens.len(),
            Self::Scores(tokens) => tokens.len(),
        }
    }

    /// Returns the tokens with their IDs.
    pub(super) fn ids(&self) -> Box<dyn Iterator<Item = (&str, u32)> + '_> {
        match self {
            Self::Ids(tokens) => Box::new(tokens.iter().map(|(text, id)| (text.as_str(), *id))),
            Self::Scores(tokens) => Box::new(tokens.iter().zip(0..).map(|((text, _), id)| (text.as_str(), id))),
        }
    }
}

fn within_limit<E: serde::de::Error>(len: usize) -> Result<(), E> {
    if len as u64 > limits::VOCABULARY {
        return Err(E::custom(format_args!("more than {} tokens", limits::VOCABULARY)));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tokens to ids, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tokens.push(entry);
                    within_limit(tokens.len())?;
                }
                Ok(Vocab::Ids(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    tokens.push(entry);
                    within_limit(tokens.len())?;
                }
                Ok(Vocab::Scores(tokens))
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// The merges of a BPE model in order, in GGUF notation: `left right`.
///
/// A space inside a part is spelled `Ġ`, as in byte-level BPE, since GGUF splits an entry at its first space.
#[derive(Debug, Default)]
pub(super) struct Merges(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_unit<E>(self) -> Result<Merges, E> {
                Ok(Merges::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(Line(line)) = seq.next_element()? {
                    merges.push(line);
                    within_limit(merges.len())?;
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_any(Lines)
    }
}

/// A merge in either notation.
struct Line(String);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Line;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E>(self, line: &str) -> Result<Line, E> {
                Ok(Line(line.to_owned()))
            }

            fn visit_string<E>(self, line: String) -> Result<Line, E> {
                Ok(Line(line))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Line, A::Error> {
                let (Some(left), Some(right)) = (seq.next_element::<String>()?, seq.next_element::<String>()?) else {
                    return Err(A::Error::custom("a merge of fewer than two parts"));
                };
                if seq.next_element::<String>()?.is_some() {
                    return Err(A::Error::custom("a merge of more than two parts"));
                }
                Ok(Line(merge_line(&left, &right)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Formats a merge in GGUF notation.
pub(super) fn merge_line(left: &str, right: &str) -> String {
    let mut line = String::with_capacity(left.len() + right.len() + 1);
    let push = |line: &mut String, part: &str| line.extend(part.chars().map(|c| if c == ' ' { 'Ġ' } else { c }));
    push(&mut line, left);
    line.push(' ');
    push(&mut line, right);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_merges_are_one() {
        let merges: Merges = serde_json::from_str(r#"["Ġ t", ["Ġ", "a"], ["a b", "c"]]"#).unwrap();
        assert_eq!(merges.0, ["Ġ t", "Ġ a", "aĠb c"]);
        for bad in [r#"[["a"]]"#, r#"[["a","b","c"]]"#, r#"[7]"#, r#"{"a": 1}"#] {
            assert!(serde_json::from_str::<Merges>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_vocabulary_is_a_map_or_a_list() {
        let ids: Vocab = serde_json::from_str(r#"{"b": 1, "a": 0}"#).unwrap();
        assert_eq!(ids.ids().collect::<Vec<_>>(), [("b", 1), ("a", 0)]);
        let scores: Vocab = serde_json::from_str(r#"[["<unk>", 0.0], ["a", -1.5]]"#).unwrap();
        assert_eq!(scores.ids().collect::<Vec<_>>(), [("<unk>", 0), ("a", 1)]);
        assert!(serde_json::from_str::<Vocab>(r#"{"a": -1}"#).is_err());
    }
}
