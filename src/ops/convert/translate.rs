//! Names and layouts between Hugging Face and GGUF, where the architecture is known.

use crate::base::{Error, Hint, Result};
use crate::family::naming::Naming;
use crate::family::table::Tables;
use crate::format::{Format, Reader};
use crate::model::FormatId;
use crate::ops::convert::options::Options;
use crate::tokenizer;
use crate::view::lora::Form;
use crate::view::output_model::OutputModel;
use crate::view::{lora, to_gguf, to_hf};

/// The draft of a conversion from a Hugging Face folder to GGUF, or the other way; `None` where nothing says what the tensors are
/// (no config, no `general.architecture`).
///
/// # Errors
/// The architecture is unknown, or the tensors are not those of its table.
pub(super) fn draft(reader: &Reader, format: &Format, tables: &Tables, options: &Options) -> Result<Option<OutputModel>> {
    let model = reader.model();
    match (Form::of(reader), format.id) {
        (Some(Form::Gguf), FormatId::Safetensors) => {
            return Err(Error::unsupported("expected a model, found a GGUF adapter, which does not become one of PEFT")
                .in_file(&model.path)
                .hint(Hint::MergeIntoBase));
        }
        (Some(form), FormatId::Gguf) if form != Form::Gguf => return lora::draft(reader, options.base.as_deref(), tables).map(Some),
        _ => {}
    }
    match (Naming::detect(model), format.id) {
        (Naming::HuggingFace | Naming::Mistral, FormatId::Gguf) => {
            let asked = tokenizer::Options { pre: options.pre.clone(), merge_scores: options.merge_scores };
            to_gguf::draft(model, tables, &asked).map(Some)
        }
        (Naming::Gguf, FormatId::Safetensors) => {
            let asked = options.target.map(|target| target.base());
            to_hf::draft(reader, tables, &to_hf::Options { dtype: asked, pre: options.pre.clone() }).map(Some)
        }
        _ => Ok(None),
    }
}
