//! Hints on how to resolve an error, as an enum: each front end words them in terms of its own options.

use std::fmt;
use std::path::PathBuf;

use crate::base::{limits, text};

/// A hint on how to resolve an [`Error`](crate::base::Error) or a [`Finding`](crate::base::finding::Finding).
///
/// `Display` gives wording that suits any caller; the command line names its own options and commands instead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Advice with the same wording for every caller.
    Advice(String),
    /// A known name similar to the given one.
    DidYouMean(String),
    /// List the element types.
    ListTypes,
    /// List the formats.
    ListFormats,
    /// List the architectures.
    ListArchitectures,
    /// List the tensors of the model.
    ListTensors,
    /// Select one tensor by name.
    SelectTensor,
    /// List the metadata keys of the model.
    ListKeys,
    /// Add or replace an architecture with a custom table.
    UseArchitectureTable,
    /// Convert without renaming tensors.
    KeepNames,
    /// Convert packed weights as they are stored.
    KeepStored,
    /// Convert packed weights to this type.
    ComputeWeights(&'static str),
    /// Name the pre-tokenizer.
    NamePreTokenizer,
    /// Name the output format.
    NameFormat,
    /// Give the adapter's base model.
    NameBase,
    /// Give an importance matrix.
    GiveImportanceMatrix,
    /// Give the base model before the adapter to merge it.
    MergeIntoBase,
    /// Convert an adapter to GGUF, next to its base model.
    ConvertAdapter,
    /// Write weights packed as MLX has them.
    LayoutOfMlx,
    /// Leave this tensor as it is.
    LeaveTensor,
    /// Allow quantising weights that are already quantised.
    AllowRequantize,
    /// Report losses instead of failing: do not convert strictly.
    AllowLoss,
    /// Split the output into shards.
    Split,
    /// Allow larger shards.
    LargerShards,
    /// Overwrite existing output.
    Replace,
    /// Force a change that violates a rule.
    ForceChange,
    /// Write the changed model to a new file.
    WriteNewFile,
    /// Convert to the current version of the format.
    Convert,
    /// Set metadata in a conversion.
    ConvertWithMetadata,
    /// Set a metadata key.
    SetKey {
        /// The key.
        key: &'static str,
        /// The value with its type: `u32:32`.
        value: &'static str,
    },
    /// The manifest holds digests of whole files: verify the model with it.
    VerifyManifest,
    /// Name the type of the value.
    NameValueType,
    /// Undo an interrupted change of this file.
    Recover(PathBuf),
    /// Read part of a tensor with a slice.
    Slice,
    /// Set a token for the Hub.
    SetToken,
    /// Check the rights of the token for the Hub.
    CheckToken,
    /// Accept the terms of a gated model on this page, and set a token.
    AcceptTerms(String),
    /// Download this model, to use it offline.
    DownloadModel(String),
    /// Set the credentials of the bucket.
    SetCredentials,
}

impl Hint {
    /// Returns the hint for a name that is not among `names`: the most similar one, else `otherwise`.
    pub(crate) fn of_name<'n>(name: &str, names: impl Iterator<Item = &'n str>, otherwise: Self) -> Self {
        text::closest(name, names).map_or(otherwise, |close| Self::DidYouMean(text::shorten(close).into_owned()))
    }

    /// Joins hints, each in the caller's wording, to one escaped line; `None` if there are none.
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
            Self::ListTypes => "see the list of element types",
            Self::ListFormats => "see the list of supported formats",
            Self::ListArchitectures => "see the list of architectures",
            Self::ListTensors => "see the list of tensors",
            Self::SelectTensor => "select it by name",
            Self::ListKeys => "see the metadata keys of the model",
            Self::UseArchitectureTable => "load a custom architecture table",
            Self::KeepNames => "keep the tensor names in the conversion",
            Self::KeepStored => "convert the stored tensors without unpacking",
            Self::ComputeWeights(dtype) => return write!(f, "convert to {dtype} to unpack the weights"),
            Self::NamePreTokenizer => "name a pre-tokenizer of llama.cpp that splits text the same way",
            Self::NameFormat => "name the format; a folder's name ends in /",
            Self::NameBase => "give the folder of the base model; its config.json is enough",
            Self::GiveImportanceMatrix => "give an importance matrix of this model",
            Self::MergeIntoBase => "convert its base with this adapter to merge it",
            Self::ConvertAdapter => "convert the adapter to GGUF beside its base for names of GGUF",
            Self::LayoutOfMlx => "MLX has it",
            Self::LeaveTensor => "give the tensor another type by name",
            Self::AllowRequantize => "allow requantising; quality suffers twice",
            Self::AllowLoss => "a conversion that is not strict reports losses instead of failing",
            Self::Split => "split the model into shards",
            Self::LargerShards => "allow larger shards",
            Self::Replace => "allow it to be replaced",
            Self::ForceChange => "the change can be forced",
            Self::WriteNewFile => "write the changed model to a new file",
            Self::Convert => "convert it",
            Self::ConvertWithMetadata => "a conversion with metadata rewrites the whole set",
            Self::SetKey { key, value } => return write!(f, "set {key} to {value}"),
            Self::VerifyManifest => "its lines are digests of whole files: verify the model with it",
            Self::NameValueType => "name its type: u8 to u64, i8 to i64, f32, f64, bool, string, or an array of one of these",
            Self::Recover(path) => return write!(f, "recovering {} undoes the change", path.display()),
            Self::Slice => "a slice such as 0:4,:8 takes the first 4 rows and of each the first 8 values",
            Self::SetToken => "if it is private, set HF_TOKEN to a token that may read it",
            Self::CheckToken => "the token may not read it: check HF_TOKEN",
            Self::AcceptTerms(page) => return write!(f, "accept its terms on {page}, and set HF_TOKEN to a token that may read it"),
            Self::DownloadModel(name) => return write!(f, "`hf download {name}` downloads it"),
            Self::SetCredentials => "check the credentials and the region; AWS_SKIP_SIGNATURE=true reads a public bucket without any",
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
