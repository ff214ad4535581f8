//! The wording of hints on the command line: which command or option helps.

use crate::base::Hint;

/// Returns the hint in terms of commands and options.
pub(super) fn words(hint: &Hint) -> String {
    let words = match hint {
        Hint::Advice(_)
        | Hint::DidYouMean(_)
        | Hint::SetToken
        | Hint::CheckToken
        | Hint::AcceptTerms(_)
        | Hint::DownloadModel(_)
        | Hint::SetCredentials => return hint.to_string(),
        Hint::ListTypes => "`weigh types` lists the types",
        Hint::ListFormats => "`weigh formats` lists the supported formats",
        Hint::ListArchitectures => "`weigh archs` lists the architectures",
        Hint::ListTensors => "`weigh ls PATH` lists the tensors",
        Hint::SelectTensor => "--filter NAME selects it",
        Hint::ListKeys => "`weigh meta PATH` lists the keys",
        Hint::UseArchitectureTable => "--arch-table FILE loads a custom architecture table",
        Hint::KeepNames => "--keep-names copies the tensors without renaming them",
        Hint::KeepStored => "--stored copies the stored tensors without unpacking them",
        Hint::ComputeWeights(dtype) => return format!("--type {dtype} unpacks the weights"),
        Hint::NamePreTokenizer => "--pre NAME sets the pre-tokenizer of llama.cpp that splits text the same way",
        Hint::NameFormat => "--to FORMAT sets the format; end a folder's name in /",
        Hint::NameBase => "--base FOLDER gives the base model; its config.json is enough",
        Hint::GiveImportanceMatrix => "--imatrix FILE gives an importance matrix of this model",
        Hint::MergeIntoBase => "to merge it, give its base model first: `weigh convert BASE ADAPTER OUT`",
        Hint::ConvertAdapter => "`weigh convert ADAPTER OUT.gguf --base FOLDER` converts its names to GGUF's",
        Hint::LayoutOfMlx => "--to mlx writes it",
        Hint::LeaveTensor => "--tensor-type GLOB=BF16 leaves it unpacked",
        Hint::AllowRequantize => "--allow-requantize allows it, at a second loss of quality",
        Hint::AllowLoss => "without --strict, losses are reported instead",
        Hint::Split => "--shard-size SIZE splits the model",
        Hint::LargerShards => "use a larger --shard-size",
        Hint::Replace => "--force overwrites it",
        Hint::ForceChange => "--force makes the change anyway",
        Hint::WriteNewFile => "-o OUT writes a new file",
        Hint::Convert => "`weigh convert` makes a file that can be edited",
        Hint::ConvertWithMetadata => "`weigh convert --metadata` rewrites the whole set",
        Hint::SetKey { key, value } => return format!("`weigh meta PATH set {key}={value}` sets it"),
        Hint::VerifyManifest => "it lists digests of whole files, which `weigh verify --manifest` compares",
        Hint::NameValueType => {
            "give its type as KEY=TYPE:VALUE: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool string, or TYPE[] for a JSON array of them"
        }
        Hint::Recover(path) => return format!("`weigh meta {} --recover` undoes the change", path.display()),
        Hint::Slice => "--slice '0:4,:8' takes the first 8 values of the first 4 rows",
    };
    words.to_owned()
}
