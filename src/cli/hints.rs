//! The words of hints on the command line: which command or option helps.

use crate::base::Hint;

/// Returns what to do, in commands and options.
pub(super) fn words(hint: &Hint) -> String {
    let words = match hint {
        Hint::Advice(_) | Hint::DidYouMean(_) => return hint.to_string(),
        Hint::ListTypes => "`weigh types` lists the types",
        Hint::ListFormats => "`weigh formats` lists what can be read",
        Hint::ListArchitectures => "`weigh archs` lists the architectures",
        Hint::ListTensors => "`weigh ls PATH` lists the tensors",
        Hint::SelectTensor => "--filter NAME selects it",
        Hint::ListKeys => "`weigh meta PATH` lists the keys",
        Hint::UseArchitectureTable => "--arch-table FILE names a table of your own",
        Hint::KeepNames => "--keep-names moves tensors as they are",
        Hint::KeepStored => "--stored moves the stored tensors as they are",
        Hint::ComputeWeights(dtype) => return format!("--type {dtype} computes the weights"),
        Hint::NamePreTokenizer => "--pre NAME names a pre-tokenizer of llama.cpp that splits text the same way",
        Hint::NameFormat => "--to names the format; a folder's name ends in /",
        Hint::NameBase => "--base FOLDER names it; its config.json is enough",
        Hint::GiveImportanceMatrix => "--imatrix FILE names an importance matrix of this model",
        Hint::MergeIntoBase => "name its base first to merge it: `weigh convert BASE ADAPTER OUT`",
        Hint::ConvertAdapter => "`weigh convert ADAPTER OUT.gguf --base FOLDER` gives the names of GGUF",
        Hint::AllowRequantize => "--allow-requantize does it all the same; quality suffers twice",
        Hint::AllowLoss => "without --strict it is done and reported",
        Hint::Split => "--shard-size SIZE splits the model",
        Hint::LargerShards => "ask for a larger --shard-size",
        Hint::Replace => "--force replaces it",
        Hint::ForceChange => "--force makes this change all the same",
        Hint::WriteNewFile => "-o OUT writes a new file",
        Hint::Convert => "`weigh convert` makes a file that can be edited",
        Hint::ConvertWithMetadata => "`weigh convert` with --metadata writes the whole set anew",
        Hint::SetKey { key, value } => return format!("`weigh meta PATH set {key}={value}` does it"),
        Hint::VerifyManifest => "its lines are digests of whole files: `weigh verify --manifest` compares those",
        Hint::NameValueType => {
            "KEY=TYPE:VALUE names it: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool string, and TYPE[] for an array of them in JSON"
        }
        Hint::Recover(path) => return format!("`weigh meta {} --recover` undoes the change", path.display()),
        Hint::Slice => "--slice '0:4,:8' takes the first 4 rows and of each the first 8 values",
    };
    words.to_owned()
}
