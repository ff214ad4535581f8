//! Translation of names and layouts between Hugging Face and GGUF, for known architectures.

use crate::base::{Error, Result};
use crate::family::mapping::ModelPart;
use crate::family::naming::Naming;
use crate::family::tables::Tables;
use crate::format::{Format, Reader};
use crate::model::FormatId;
use crate::ops::convert::options::Options;
use crate::tokenizer;
use crate::view::lora::Form;
use crate::view::output_model::OutputModel;
use crate::view::{lora, to_gguf, to_hf};

/// Returns the output model of a conversion between a Hugging Face folder and GGUF; `None` if the architecture is not named
/// (no config, no `general.architecture`).
///
/// # Errors
/// The architecture is unknown, or the tensors do not match its table.
pub(super) fn output_model(reader: &Reader, format: &Format, tables: &Tables, options: &Options) -> Result<Option<OutputModel>> {
    let model = reader.model();
    match (Form::of(reader), format.id) {
        (Some(Form::Gguf), FormatId::Safetensors) => return lora::to_peft(reader, options.base.as_deref(), tables).map(Some),
        (Some(form), FormatId::Gguf) if form != Form::Gguf => return lora::output_model(reader, options.base.as_deref(), tables).map(Some),
        _ => {}
    }
    let naming = Naming::detect(model);
    if options.model_part != ModelPart::Whole && (format.id != FormatId::Gguf || !matches!(naming, Naming::HuggingFace | Naming::Mistral)) {
        return Err(Error::argument("multi-token prediction layers can be selected only in conversions from a Hugging Face model to GGUF"));
    }
    match (naming, format.id) {
        (Naming::HuggingFace | Naming::Mistral, FormatId::Gguf) => {
            let tokenizer = tokenizer::Options { pre: options.pre.clone(), equal_scores: options.equal_scores };
            let dtype = options.target.map(|target| target.base());
            to_gguf::output_model(
                reader,
                tables,
                &to_gguf::Options { tokenizer, dtype, projector: options.projector, part: options.model_part },
            )
            .map(Some)
        }
        (Naming::Gguf, FormatId::Safetensors) => {
            let requested = options.target.map(|target| target.base());
            to_hf::output_model(reader, tables, &to_hf::Options { dtype: requested, pre: options.pre.clone() }).map(Some)
        }
        _ => Ok(None),
    }
}
