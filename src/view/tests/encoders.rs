//! Round trips of encoders of pictures and sounds.

use serde_json::Value as Json;

use crate::family::mapping::{Mapping, ModelPart};
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::companion::Content;
use crate::model::{DType, FormatId, Metadata, Model, TensorInfo, Value};
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tests::goldens::{Golden, all_are_wanted, goldens};
use crate::view::tests::{Tensor, reader, written};
use crate::view::{to_gguf, to_hf};

#[test]
fn encoders_come_back_by_themselves() {
    let tables = Tables::default();
    for golden in goldens().into_iter().filter(Golden::is_projector) {
        let (name, hf) = (&golden.name, golden.reader());
        let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
        let made = reader(written(&hf, &encoder.tensors), encoder.metadata.clone(), None);
        let gguf = Reader::computed(&made, Model { format: FormatId::Gguf, ..made.model().clone() }, std::collections::HashMap::new());
        let (table, config) = to_hf::read_projector(gguf.model(), &tables).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mapping = Mapping::new(&table, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut back = OutputModel::default();
        to_hf::steps(&gguf, &mapping, &to_hf::computed_names(&table), &|_| true, &mut back)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        // Of one, a GGUF alone does not tell that its names differ from Kimi's.
        if RENAMED.contains(&name.as_str()) || name == "glm5v-mmproj" {
            continue;
        }
        let sorted = |tensors: Vec<Tensor>| {
            let mut tensors: Vec<Tensor> =
                tensors.into_iter().map(|tensor| (without_modules(&tensor.0), tensor.1, tensor.2, tensor.3)).collect();
            tensors.sort();
            tensors
        };
        let made = sorted(written(&gguf, &back.tensors));
        let original: Vec<_> = (0..hf.model().tensors.len()).map(|i| OutputTensor::keep(hf.model(), i).unwrap()).collect();
        let original = sorted(written(&hf, &original));
        // Without the text model, the type of its weights is not known.
        let (made, original) = (without_statistics(without_class_token(made)), without_statistics(without_class_token(original)));
        let is = |a: &Tensor, b: &Tensor| (&a.0, &a.1) == (&b.0, &b.1) && (a.2 != b.2 || a.3 == b.3);
        assert!(!made.is_empty() && made.iter().all(|tensor| original.iter().any(|own| is(tensor, own))), "{name}");
        let in_encoder = |name: &str| {
            table.parts.iter().any(|part| name.trim_start_matches("thinker.").trim_start_matches("model.").starts_with(part.as_str()))
        };
        let dropped = |name: &str| encoder.notes.iter().any(|note| note.name == name);
        let wanted = hf.model().tensors.iter().filter(|tensor| in_encoder(&tensor.name) && !dropped(&tensor.name)).count();
        assert_eq!(made.len(), wanted, "{name}");
    }
}

/// Those that come back under the names of transformers, and with the fused experts of Qwen3-VL.
const RENAMED: [&str; 3] = ["internvl-mmproj", "qwen3asr-mmproj", "qwen3omni-mmproj"];

/// Without the position of the class token, which a GGUF of Hunyuan VL does not have.
fn without_class_token(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    for (name, shape, _, bytes) in &mut tensors {
        if name == "vit.embeddings.position_embedding.weight" {
            let row = bytes.len() / shape[0] as usize;
            bytes[..row].fill(0);
        }
    }
    tensors
}

/// Without the values of batch norms, which come back folded; converted again, they are the same.
fn without_statistics(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    for (name, _, dtype, bytes) in &mut tensors {
        if name.contains(".batch_norm.") {
            (*dtype, *bytes) = (DType::F32, Vec::new());
        }
    }
    tensors
}

#[test]
fn encoders_come_back_beside_their_text_model() {
    let tables = Tables::default();
    for golden in goldens().into_iter().filter(Golden::is_projector) {
        let (name, hf) = (&golden.name, golden.reader());
        let text = to_gguf::without_tokenizer(&hf, &tables, ModelPart::Whole).unwrap_or_else(|error| panic!("{name}: {error}"));
        let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
        let both = beside(&hf, &text, &encoder);
        let back = to_hf::weights(&both, &tables, &to_hf::Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let whole = written(&both, &back.tensors);
        let mut made: Vec<_> =
            whole.clone().into_iter().map(|(name, shape, dtype, bytes)| (without_modules(&name), shape, dtype, bytes)).collect();
        let dropped = || text.notes.iter().chain(&encoder.notes).filter(|note| !note.message.ends_with(to_gguf::BESIDE));
        let kept = |tensor: &TensorInfo| !dropped().any(|note| note.name == tensor.name);
        let original = (0..hf.model().tensors.len()).filter(|&i| kept(&hf.model().tensors[i]));
        let original: Vec<_> = original.map(|i| OutputTensor::keep(hf.model(), i).unwrap()).collect();
        let mut original: Vec<_> =
            written(&hf, &original).into_iter().map(|(name, shape, dtype, bytes)| (without_modules(&name), shape, dtype, bytes)).collect();
        made.sort();
        original.sort();
        let listed = |tensors: &[Tensor]| tensors.iter().map(|t| (t.0.clone(), t.1.clone(), t.2)).collect::<Vec<_>>();
        let (made, original) = (without_statistics(made), without_statistics(original));
        if !RENAMED.contains(&name.as_str()) {
            assert_eq!(listed(&made), listed(&original), "{name}");
            assert!(without_class_token(made) == without_class_token(original), "{name}: bytes");
        }
        // The files that came back say the same: converted again, they give the same keys and tensors.
        let file = |wanted: &str| {
            let found = back.files.iter().find(|file| file.name == wanted).unwrap_or_else(|| panic!("{name}: {wanted}"));
            let Content::Bytes(bytes) = &found.content else { panic!("{wanted}") };
            serde_json::from_slice::<Json>(bytes).unwrap()
        };
        let config = file("config.json");
        let sections = config.as_object().unwrap().values().filter_map(Json::as_object);
        let keys = config.as_object().into_iter().chain(sections).flat_map(serde_json::Map::keys);
        assert_eq!(keys.filter(|key| key.starts_with('_')).collect::<Vec<_>>(), [""; 0], "{name}: for expressions only");
        let mut preprocessor = file("preprocessor_config.json");
        preprocessor["tokens"] = golden.json["preprocessor"]["tokens"].clone();
        let folder = reader(whole, Metadata::new(), Some(file("config.json")));
        let again = to_gguf::projector(folder.model(), &tables, preprocessor, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sorted = |mut tensors: Vec<Tensor>| {
            tensors.sort();
            tensors
        };
        assert!(sorted(written(&folder, &again.tensors)) == sorted(written(&hf, &encoder.tensors)), "{name}: converted again");
        let keys = |output: &OutputModel| {
            output
                .metadata
                .iter()
                .filter(|(key, _)| key.starts_with("clip."))
                .map(|(key, value)| format!("{key} {value:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&again), keys(&encoder), "{name}");
    }
}

/// Returns the GGUF of a text model, with the one of its encoder.
fn beside(hf: &Reader, text: &OutputModel, encoder: &OutputModel) -> Reader {
    let gguf = |output: &OutputModel| {
        let made = reader(written(hf, &output.tensors), output.metadata.clone(), None);
        Reader::computed(&made, Model { format: FormatId::Gguf, ..made.model().clone() }, std::collections::HashMap::new())
    };
    gguf(text).with_projector(gguf(encoder)).unwrap()
}

/// transformers looks for tensors by their whole names, and for a section of config.json by its model type.
#[test]
fn text_models_beside_an_encoder_have_the_names_of_the_original() {
    let tables = Tables::default();
    let names = [
        "exaone4_5-mmproj",
        "glm4v-mmproj",
        "glm5next-vision-mmproj",
        "qwen25omni-mmproj",
        "qwen3asr-hf-mmproj",
        "qwen3omni-mmproj",
        "qwen4exp-vision-mmproj",
    ];
    let found: Vec<_> = goldens().into_iter().filter(|golden| names.contains(&golden.name.as_str())).collect();
    assert!(found.len() == names.len() || !all_are_wanted());
    for golden in found {
        let (name, hf) = (&golden.name, golden.reader());
        let mut text = to_gguf::without_tokenizer(&hf, &tables, ModelPart::Whole).unwrap();
        text.metadata.set("tokenizer.ggml.padding_token_id", Value::U32(7));
        let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
        let back = to_hf::weights(&beside(&hf, &text, &encoder), &tables, &to_hf::Options::default()).unwrap();
        let of_text = |name: &str| !["visual.", "audio_tower."].iter().any(|part| name.contains(part));
        let made: Vec<&str> = back.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| of_text(name)).collect();
        assert!(made.len() > 10, "{name}");
        for tensor in made {
            // Experts of GLM come back stacked.
            assert!(hf.model().tensor(tensor).is_some() || name.starts_with("glm5next") && tensor.contains("experts"), "{name}: {tensor}");
        }
        let file = back.files.iter().find(|file| file.name == "config.json").unwrap();
        let Content::Bytes(bytes) = &file.content else { panic!("{name}") };
        let config: Json = serde_json::from_slice(bytes).unwrap();
        let (section, original) = match golden.json["config"].get("thinker_config") {
            Some(original) => (&config["thinker_config"], original),
            None => (&config, &golden.json["config"]),
        };
        assert_eq!(section["text_config"]["pad_token_id"], 7, "{name}: within the vocabulary of 48");
        if name.starts_with("qwen") {
            assert_eq!(section["model_type"], original["model_type"], "{name}");
            // The class of Qwen 4 Exp has a default for that of the text model.
            let kind = section["text_config"].get("model_type");
            assert!(kind == original["text_config"].get("model_type") || kind.is_none() && name.starts_with("qwen4exp"), "{name}");
        }
    }
}

/// Returns a name without the modules that versions of transformers put in different orders.
fn without_modules(name: &str) -> String {
    name.split('.').filter(|part| !["model", "language_model"].contains(part)).collect::<Vec<_>>().join(".")
}
