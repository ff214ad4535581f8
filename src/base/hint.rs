//! What can be done about an error, as a kind: each front end words it in terms of its own options.

use std::fmt;
use std::path::PathBuf;

use crate::base::{limits, text};

/// What can be done about an [`Error`](crate::base::Error) or a [`Finding`](crate::base::finding::Finding).
///
/// `Display` gives words that suit any caller; the command line names its own options and commands instead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Advice that is the same for every caller.
    Advice(String),
    /// A known name that is much like the one that was given.
    DidYouMean(String),
    /// The element types are listed.
    ListTypes,
    /// The formats are listed.
    ListFormats,
    /// The architectures are listed.
    ListArchitectures,
    /// The tensors of the model are listed.
    ListTensors,
    /// The caller can select one tensor by its name.
    SelectTensor,
    /// The metadata keys of the model are listed.
    ListKeys,
    /// A table of the caller's own adds an architecture, or replaces the table of one.
    UseArchitectureTable,
    /// A conversion can move tensors under their own names.
    KeepNames,
    /// A conversion can move packed weights as they are stored.
    KeepStored,
    /// A conversion can compute packed weights as this type.
    ComputeWeights(&'static str),
    /// The caller can name the pre-tokenizer.
    NamePreTokenizer,
    /// The caller can name the format of the output.
    NameFormat,
    /// The caller can name the base of the adapter.
    NameBase,
    /// The caller can give an importance matrix.
    GiveImportanceMatrix,
    /// Naming the base before the adapter merges it.
    MergeIntoBase,
    /// An adapter becomes a GGUF beside its base.
    ConvertAdapter,
    /// What was quantised can be quantised again.
    AllowRequantize,
    /// Losses are reported instead of refused unless the caller is strict.
    AllowLoss,
    /// The output can be split.
    Split,
    /// The parts of a split can be larger.
    LargerShards,
    /// What is there can be replaced.
    Replace,
    /// A change can be made although it breaks a rule.
    ForceChange,
    /// The changed model can be written to a new file.
    WriteNewFile,
    /// A conversion writes a file of the current format.
    Convert,
    /// A conversion can set metadata.
    ConvertWithMetadata,
    /// A metadata key can be given a value.
    SetKey {
        /// The key.
        key: &'static str,
        /// The value, behind its type: `u32:32`.
        value: &'static str,
    },
    /// The manifest is one of digests of whole files, which are compared when a model is verified.
    VerifyManifest,
    /// The caller can name the type of a value.
    NameValueType,
    /// An interrupted change of this file can be undone.
    Recover(PathBuf),
    /// A slice takes a part of a tensor.
    Slice,
}

impl Hint {
    /// Returns the hint for a name that is not among `names`: the one that is much like it, or else `otherwise`.
    pub(crate) fn of_name<'n>(name: &str, names: impl Iterator<Item = &'n str>, otherwise: Self) -> Self {
        text::closest(name, names).map_or(otherwise, |close| Self::DidYouMean(text::shorten(close).into_owned()))
    }

    /// Joins several hints, each in the caller's words, to one line that is safe to show; nothing where there are none.
    pub fn join<'h>(hints: impl IntoIterator<Item = &'h Self>, words: impl Fn(&Self) -> String) -> Option<String> {
        let line = hints.into_iter().fold(String::new(), |line, hint| match line.chars().last() {
            None => words(hint),
            Some('?') => format!("{line} {}", words(hint)),
            Some(_) => format!("{line}; {}", words(hint)),
        });
        let line = text::shorten_middle(line, limits::MESSAGE_CHARS);
        (!line.is_empty()).then(|| text::escape(&line).into_owned())
    }
}

impl From<&str> for Hint {
    fn from(advice: &str) -> Self {
        Self::Advice(advice.to_owned())
    }
}

impl From<String> for Hint {
    fn from(advice: String) -> Self {
        Self::Advice(advice)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Advice(advice) => advice,
            Self::DidYouMean(name) => return write!(f, "did you mean {name}?"),
            Self::ListTypes => "the list of types has those that are known",
            Self::ListFormats => "the list of formats has those that can be read",
            Self::ListArchitectures => "the list of architectures has those that are known",
            Self::ListTensors => "the list of tensors has their names",
            Self::SelectTensor => "select it by its name",
            Self::ListKeys => "the metadata has the keys",
            Self::UseArchitectureTable => "an architecture table of your own can say what the tensors are",
            Self::KeepNames => "a conversion that keeps names moves tensors as they are",
            Self::KeepStored => "a conversion of what is stored moves packed weights as they are",
            Self::ComputeWeights(dtype) => return write!(f, "a conversion to {dtype} computes the weights"),
            Self::NamePreTokenizer => "name a pre-tokenizer of llama.cpp that splits text the same way",
            Self::NameFormat => "name the format; a folder's name ends in /",
            Self::NameBase => "name the folder of its base; its config.json is enough",
            Self::GiveImportanceMatrix => "give an importance matrix of this model",
            Self::MergeIntoBase => "convert its base with this adapter to merge it",
            Self::ConvertAdapter => "convert the adapter to GGUF beside its base for names of GGUF",
            Self::AllowRequantize => "it can be allowed to quantise again; quality suffers twice",
            Self::AllowLoss => "a conversion that is not strict does it and reports it",
            Self::Split => "split the model into shards",
            Self::LargerShards => "allow larger shards",
            Self::Replace => "allow it to be replaced",
            Self::ForceChange => "the change can be forced",
            Self::WriteNewFile => "write the changed model to a new file",
            Self::Convert => "convert it",
            Self::ConvertWithMetadata => "a conversion with metadata writes the whole set anew",
            Self::SetKey { key, value } => return write!(f, "set {key} to {value}"),
            Self::VerifyManifest => "its lines are digests of whole files: verify the model with it",
            Self::NameValueType => "name its type: u8 to u64, i8 to i64, f32, f64, bool, string, or an array of one of these",
            Self::Recover(path) => return write!(f, "recovering {} undoes the change", path.display()),
            Self::Slice => "a slice such as 0:4,:8 takes the first 4 rows and of each the first 8 values",
        };
        f.write_str(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hints_are_one_line() {
        let hints = [Hint::from("was the download complete?"), Hint::from("a\u{1b}[31m"), Hint::KeepNames];
        let joined = Hint::join(&hints, |hint| if *hint == Hint::KeepNames { "keep_names".to_owned() } else { hint.to_string() });
        assert_eq!(joined.as_deref(), Some("was the download complete? a\\u{1b}[31m; keep_names"));
        assert_eq!(Hint::join(&[], Hint::to_string), None);
    }
}
