//! Tokenizers: folders to GGUF keys and back, against what llama.cpp's converter made of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use weigh::base::Hint;
use weigh::family::tables::Tables;
use weigh::model::companion::Content;
use weigh::model::{Array, Metadata, Value};
use weigh::tokenizer::{Kind, Options};
use weigh::{ErrorKind, format, tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizers").join(name)
}

fn config(folder: &Path) -> Json {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// The keys of a tokenizer, in order.
fn keys(metadata: &Metadata) -> Vec<(String, Value)> {
    let own = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    own.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

fn sorted(mut keys: Vec<(String, Value)>) -> Vec<(String, Value)> {
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys
}

/// Asserts that two lists of keys are equal, and names the first that is not.
fn assert_same(name: &str, found: Vec<(String, Value)>, expected: Vec<(String, Value)>) {
    let names = |keys: &[(String, Value)]| keys.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{name}");
    for ((key, found), (_, expected)) in found.iter().zip(&expected) {
        let parts = |value: &Value| match value.as_array() {
            Some(array) => array.values().unwrap(),
            None => vec![value.clone()],
        };
        let (found, expected) = (parts(found), parts(expected));
        let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        let shown = |list: &[Value]| (list.len(), first.and_then(|first| list.get(first)).cloned());
        assert!(found == expected, "{name} {key} at {first:?}: {:?}, expected {:?}", shown(&found), shown(&expected));
    }
    assert_eq!(found, expected, "{name}");
}

const FAMILIES: [(&str, Kind); 19] = [
    ("bert", Kind::Bert),
    ("chatglm3", Kind::Chatglm),
    ("gemma2", Kind::Gemma2),
    ("gemma4", Kind::Gemma4),
    ("glm", Kind::Glm),
    ("hunyuan", Kind::HunyuanMoe),
    ("kimi", Kind::BpeOrKimi),
    ("llama-fast", Kind::Llama),
    ("llama-spm", Kind::Llama),
    ("llama3", Kind::Llama),
    ("phi3", Kind::Phi3),
    ("plamo2", Kind::Plamo2),
    ("qwen", Kind::Qwen),
    ("qwen2", Kind::SentencepieceOrBpe),
    ("rwkv", Kind::Rwkv),
    ("t5", Kind::T5),
    ("xlm-roberta", Kind::XlmRoberta),
    ("xlm-roberta-json", Kind::XlmRoberta),
    ("nomic-moe", Kind::NomicBertMoe),
];

#[test]
fn keys_types_values_and_order_are_those_of_the_reference_converter() {
    for (name, kind) in FAMILIES {
        let folder = fixture(name);
        let reference = format::open(&folder.join("reference.gguf")).unwrap();
        let read = tokenizer::read(&folder, &config(&folder), kind, &Options { equal_scores: true, ..Options::default() }).unwrap();
        assert_same(name, keys(read.keys()), keys(&reference.model().metadata));
        // Without their merges the tokens of SentencePiece-style BPE are of little use, and the plan says so.
        let told = read.notes().iter().any(|note| note.contains("the same score"));
        assert_eq!((told, read.notes().len()), (name == "llama-fast", usize::from(name == "llama-fast")), "{name}: {:?}", read.notes());
    }
}

#[test]
fn the_table_of_a_family_names_the_kind_that_its_fixture_is_read_with() {
    for (name, kind) in FAMILIES.into_iter().filter(|(name, _)| !["plamo2", "rwkv"].contains(name)) {
        let table = Tables::default().for_config(&config(&fixture(name))).unwrap();
        assert_eq!(table.tokenizer, Some(kind), "{name}: {}", table.name);
    }
    let native = Tables::default().for_config(&config(&fixture("tekken"))).unwrap();
    assert_eq!(native.tokenizer, Some(Kind::Mistral));
}

#[test]
fn every_table_names_the_kind_of_the_class_of_the_reference_converter() {
    // As set_vocab of each class does (conversion/*.py), where it is more than plain BPE or a plain SentencePiece model.
    let expected = [
        (Kind::Bert, "BertModel DistilBertModel NeoBERT"),
        (Kind::BpeOrKimi, "DeepseekOCRForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM YoutuForCausalLM"),
        (Kind::Chatglm, "ChatGLMModel GlmForCausalLM"),
        (Kind::EuroBert, "EuroBertModel JinaEmbeddingsV5Model"),
        (Kind::Gemma, "GemmaForCausalLM"),
        (Kind::Gemma2, "Gemma2ForCausalLM"),
        (Kind::Gemma3, "Gemma3ForCausalLM Gemma3ForConditionalGeneration Gemma3TextModel"),
        (Kind::Gemma3n, "Gemma3nForCausalLM Gemma3nForConditionalGeneration"),
        (Kind::Gemma4, "Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration"),
        (Kind::Glm, "Glm4MoeForCausalLM Glm4MoeLiteForCausalLM Glm4vMoeForConditionalGeneration GlmMoeDsaForCausalLM"),
        (Kind::Glm4, "Glm4ForCausalLM Glm4vForConditionalGeneration GlmOcrForConditionalGeneration"),
        (Kind::GraniteHybrid, "BambaForCausalLM GraniteMoeHybridForCausalLM"),
        (Kind::HunyuanDense, "HunYuanDenseV1ForCausalLM HunYuanVLForConditionalGeneration"),
        (Kind::HunyuanMoe, "HunYuanMoEV1ForCausalLM"),
        (Kind::Internlm2, "InternLM2ForCausalLM"),
        (Kind::Internlm3, "InternLM3ForCausalLM"),
        (Kind::Jamba, "JambaForCausalLM"),
        (Kind::JinaBertV2, "JinaBertModel JinaBertForMaskedLM"),
        (Kind::Laguna, "LagunaForCausalLM"),
        (Kind::Llada, "LLaDAModelLM"),
        (Kind::Llama, "LlamaForCausalLM MistralForCausalLM MixtralForCausalLM Mistral3ForConditionalGeneration ArceeForCausalLM"),
        (Kind::Llama, "AfmoeForCausalLM ApertusForCausalLM GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeSharedForCausalLM"),
        (Kind::Llama, "LlamaBidirectionalModel Ministral3ForCausalLM NanbeigeForCausalLM SmolLM3ForCausalLM"),
        (Kind::Mamba, "MambaForCausalLM FalconMambaForCausalLM"),
        (Kind::Mamba2, "Mamba2ForCausalLM"),
        (Kind::ModernBert, "ModernBertModel ModernBertForMaskedLM ModernBertForSequenceClassification"),
        (Kind::Nemotron, "NemotronForCausalLM"),
        (Kind::NemotronH, "NemotronHForCausalLM"),
        (Kind::NomicBert, "NomicBertModel"),
        (Kind::Openelm, "OpenELMForCausalLM"),
        (Kind::Pangu, "Ernie4_5ForCausalLM Ernie4_5_MoeForCausalLM PanguEmbeddedForCausalLM"),
        (Kind::Phi3, "Phi3ForCausalLM Phi4ForCausalLMV PhimoeForCausalLM PhiMoEForCausalLM"),
        (Kind::Qwen, "QWenLMHeadModel"),
        (Kind::Qwen3Omni, "Qwen3ASRForConditionalGeneration Qwen3OmniMoeForConditionalGeneration"),
        (Kind::Roberta, "RobertaModel RobertaForSequenceClassification"),
        (Kind::SentencepieceOrBpe, "DeepseekForCausalLM DreamModel KORMoForCausalLM MiniCPMForCausalLM OrionForCausalLM"),
        (Kind::SentencepieceOrBpe, "Qwen2ForCausalLM Qwen2_5_VLForConditionalGeneration Qwen3ForCausalLM Qwen3VLForConditionalGeneration"),
        (Kind::SolarOpen, "SolarOpenForCausalLM"),
        (Kind::Stablelm, "StableLmForCausalLM StableLMEpochForCausalLM LlavaStableLMEpochForCausalLM"),
        (Kind::T5, "T5ForConditionalGeneration T5WithLMHeadModel MT5ForConditionalGeneration UMT5ForConditionalGeneration T5EncoderModel"),
        (Kind::XlmRoberta, "XLMRobertaModel XLMRobertaForSequenceClassification"),
    ];
    for (kind, classes) in expected {
        for class in classes.split(' ') {
            let table = Tables::default().for_config(&json!({ "architectures": [class] })).unwrap();
            assert_eq!(table.tokenizer, Some(kind), "{class}: {}", table.name);
        }
    }
    for table in Tables::default().all().unwrap() {
        assert!(table.tokenizer.is_some(), "{}", table.name);
    }
}

#[test]
fn tekken_gives_the_keys_of_the_reference_converter() {
    let folder = fixture("tekken");
    let reference = format::open(&folder.join("reference.gguf")).unwrap();
    for kind in [Kind::Mistral, Kind::Llama] {
        let read = tokenizer::read(&folder, &config(&folder), kind, &Options::default()).unwrap();
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String("llama".to_owned()));
        read.to_gguf("llama", &mut metadata);
        let all = |metadata: &Metadata| metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>();
        assert_eq!(all(&metadata), all(&reference.model().metadata));
    }
}

#[test]
fn a_tekken_that_is_none_is_an_error_that_names_the_file() {
    type Change = fn(&mut Json);
    let whole: Json = serde_json::from_slice(&fs::read(fixture("tekken").join("tekken.json")).unwrap()).unwrap();
    let error = |change: Change| {
        let mut json = whole.clone();
        change(&mut json);
        let folder = folder(&[("tekken.json", json)]);
        tokenizer::read(folder.path(), &json!({}), Kind::Mistral, &Options::default()).unwrap_err()
    };
    let cases: [(Change, &str); 6] = [
        (
            |json| json["config"]["default_num_special_tokens"] = json!(json["config"]["default_vocab_size"].as_u64().unwrap() + 1),
            "at most",
        ),
        (|json| json["vocab"][7]["token_bytes"] = json!("?"), "token 7 in base64"),
        (|json| json["vocab"][9]["rank"] = json!(8), "none of rank 9"),
        (|json| json["vocab"][256]["token_bytes"] = json!("eHl6"), "rank 256 to be a concatenation of two others"),
        (|json| json["config"]["default_vocab_size"] = json!(u64::MAX), "at most"),
        (|json| json["config"]["pattern"] = json!("[a-z]+"), "pre-tokenizer: split [a-z]+"),
    ];
    for (change, expected) in cases {
        let error = error(change);
        assert!(error.to_string().contains(expected) && error.to_string().contains("tekken.json"), "{error}");
    }
}

#[test]
fn the_latest_sentencepiece_model_of_mistrals_own_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("llama-spm").join("tokenizer.model");
    fs::copy(&model, folder.path().join("tokenizer.model.v3")).unwrap();
    fs::write(folder.path().join("tokenizer.model.v1"), "not a model").unwrap();
    let read = tokenizer::read(folder.path(), &json!({}), Kind::Mistral, &Options::default()).unwrap();
    assert_eq!(read.keys().get_str("tokenizer.chat_template"), Some("mistral-v3"));
    let first: Vec<&str> = read.keys().iter().map(|(key, _)| key).take(4).collect();
    assert_eq!(
        first,
        ["tokenizer.ggml.model", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"]
    );
    assert_eq!(read.keys().get("vocab_size"), Some(&Value::U32(384)));

    fs::remove_file(folder.path().join("tokenizer.model.v3")).unwrap();
    fs::copy(&model, folder.path().join("tokenizer.model.v2")).unwrap();
    let read = tokenizer::read(folder.path(), &json!({}), Kind::Mistral, &Options::default()).unwrap();
    assert!(read.keys().get("tokenizer.chat_template").is_none() && read.notes()[0].contains("version v2"), "{:?}", read.notes());
}

#[test]
fn a_tokenizer_json_made_from_a_sentencepiece_model_gives_what_the_model_gives() {
    // The two fixtures have one vocabulary.
    let model = format::open(&fixture("llama-spm").join("reference.gguf")).unwrap();
    let model = &model.model().metadata;
    let json = fixture("llama-fast");
    for (kind, prefix) in [(Kind::Llama, None), (Kind::SentencepieceOrBpe, None), (Kind::Gemma3, Some(&Value::Bool(false)))] {
        let read = tokenizer::read(&json, &config(&json), kind, &Options::default()).unwrap();
        for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
            assert_eq!(read.keys().get(key), model.get(key), "{kind:?}: {key}");
        }
        assert_eq!(read.keys().get("tokenizer.ggml.add_space_prefix"), prefix);
        assert!(read.notes().is_empty(), "{:?}", read.notes());
    }
}

#[test]
fn a_folder_made_from_a_gguf_gives_the_same_keys() {
    for (name, kind) in FAMILIES {
        let folder = fixture(name);
        let reference = format::open(&folder.join("reference.gguf")).unwrap();
        let metadata = &reference.model().metadata;
        let written = tokenizer::write(metadata, None).unwrap();
        let back = tempfile::tempdir().unwrap();
        for file in &written {
            let Content::Bytes(bytes) = &file.content else { panic!("{name}: {} is a copy", file.name) };
            fs::write(back.path().join(&file.name), bytes).unwrap();
        }
        let mut config = config(&folder);
        let object = config.as_object_mut().unwrap();
        object.retain(|key, _| !key.ends_with("_token_id"));
        object.extend(tokenizer::ids(metadata));
        let again = tokenizer::read(back.path(), &config, kind, &Options { equal_scores: true, ..Options::default() }).unwrap();
        assert_same(name, sorted(keys(again.keys())), sorted(keys(metadata)));
    }
}

#[test]
fn the_reference_has_no_name_for_a_changed_vocabulary_and_this_has() {
    let back = tempfile::tempdir().unwrap();
    let mut json: Json = serde_json::from_slice(&fs::read(fixture("qwen2").join("tokenizer.json")).unwrap()).unwrap();
    json["model"]["vocab"].as_object_mut().unwrap().insert("\u{120}newword".to_owned(), json!(323));
    fs::write(back.path().join("tokenizer.json"), json.to_string()).unwrap();
    let read = tokenizer::read(back.path(), &json!({"vocab_size": 330}), Kind::Bpe, &Options::default()).unwrap();
    assert_eq!(read.keys().get_str("tokenizer.ggml.pre"), Some("qwen2"));
    assert_eq!(read.len(), 330);

    json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "[a-z]\u{1b}+"}, "behavior": "Isolated"});
    fs::write(back.path().join("tokenizer.json"), json.to_string()).unwrap();
    let error = tokenizer::read(back.path(), &json!({}), Kind::Bpe, &Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("tokenizer.json") && error.to_string().contains("[a-z]\\u{1b}+"), "{error}");
    assert_eq!(error.hints(), [Hint::NamePreTokenizer]);
    let told =
        tokenizer::read(back.path(), &json!({}), Kind::Bpe, &Options { pre: Some("llama-bpe".to_owned()), equal_scores: false }).unwrap();
    assert_eq!(told.keys().get_str("tokenizer.ggml.pre"), Some("llama-bpe"));
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, Json)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// A small byte-level tokenizer: tokens a, b, ab, <s>.
pub(crate) fn small(post_processor: Json) -> Json {
    json!({
        "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel"},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

pub(crate) fn read(files: &[(&str, Json)], config: Json, kind: Kind) -> weigh::Result<Metadata> {
    let folder = folder(files);
    tokenizer::read(folder.path(), &config, kind, &Options::default()).map(|tokenizer| tokenizer.keys().clone())
}

pub(crate) fn texts(metadata: &Metadata, key: &str) -> Vec<String> {
    let values = metadata.get(key).and_then(Value::as_array).unwrap().values().unwrap();
    values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

pub(crate) fn numbers(metadata: &Metadata, key: &str) -> Vec<f64> {
    let values = metadata.get(key).and_then(Value::as_array).unwrap().values().unwrap();
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn added_tokens_get_the_ids_and_types_that_transformers_gives_them() {
    let config = json!({
        "added_tokens_decoder": {
            "4": {"content": "<|user|>", "special": false},
            "5": {"content": "\u{2581}\u{2581}", "special": false},
        },
        "pad_token": "<pad>",
        "bos_token": {"content": "<s>"},
        "unk_token": "b",
    });
    let files = [("tokenizer.json", small(Json::Null)), ("tokenizer_config.json", config)];
    let metadata = read(&files, json!({"vocab_size": 8}), Kind::Bpe).unwrap();
    let tokens = texts(&metadata, "tokenizer.ggml.tokens");
    assert_eq!(tokens, ["a", "b", "ab", "<s>", "<|user|>", "  ", "<pad>", "[PAD7]"]);
    // An unmarked token that looks special is a control token; a token that has a role is one, too.
    assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type"), [1.0, 3.0, 1.0, 3.0, 3.0, 4.0, 3.0, 5.0]);
    assert_eq!(metadata.get("tokenizer.ggml.bos_token_id"), Some(&Value::U32(3)));
    assert_eq!(texts(&metadata, "tokenizer.ggml.merges"), ["a b"]);
}

#[test]
fn the_post_processor_says_what_is_added_and_the_config_only_what_is_left() {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special("<s>"), sequence("A")],
        "pair": [special("<s>"), sequence("A"), special("<s>"), sequence("B")],
    });
    let config = json!({"bos_token": "<s>", "add_bos_token": false, "add_eos_token": true});
    let files = [("tokenizer.json", small(template)), ("tokenizer_config.json", config.clone())];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    let flag = |metadata: &Metadata, name: &str| metadata.get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
    assert_eq!(["bos", "eos", "sep"].map(|name| flag(&metadata, name)), [Some(true), Some(true), Some(false)]);

    let files = [("tokenizer.json", small(json!({"type": "ByteLevel"}))), ("tokenizer_config.json", config)];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(["bos", "eos", "sep"].map(|name| flag(&metadata, name)), [Some(false), Some(false), None]);

    let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 3]});
    let files = [("tokenizer.json", small(roberta)), ("tokenizer_config.json", json!({"model_max_length": 1}))];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(["bos", "eos", "sep"].map(|name| flag(&metadata, name)), [Some(true); 3]);
}

#[test]
fn a_text_that_ends_with_another_token_than_the_config_names_has_an_end_of_turn() {
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>"}}],
        "pair": [],
    });
    let mut json = small(template);
    json["added_tokens"].as_array_mut().unwrap().push(json!({"id": 4, "content": "<turn>", "special": true}));
    let files = [("tokenizer.json", json), ("tokenizer_config.json", json!({"eos_token": "<turn>"}))];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(metadata.get_u64("tokenizer.ggml.eos_token_id"), Some(3));
    assert_eq!(metadata.get_u64("tokenizer.ggml.eot_token_id"), Some(4));
}

#[test]
fn several_chat_templates_have_keys_by_name() {
    let files = [
        ("tokenizer.json", small(Json::Null)),
        ("tokenizer_config.json", json!({"bos_token": "<s>"})),
        ("chat_template.jinja", json!("plain")),
        ("additional_chat_templates/tool-use.jinja", json!("tools")),
        ("additional_chat_templates/rag.jinja", json!("rag")),
    ];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(metadata.get_str("tokenizer.chat_template"), Some("plain"));
    assert_eq!(metadata.get_str("tokenizer.chat_template.tool_use"), Some("tools"));
    assert_eq!(texts(&metadata, "tokenizer.chat_templates"), ["rag", "tool_use"]);
    let mut gguf = metadata.clone();
    gguf.set("tokenizer.ggml.pre", Value::String("gpt-2".to_owned()));
    let written = tokenizer::write(&gguf, None).unwrap();
    let config = written.iter().find(|file| file.name == "tokenizer_config.json").unwrap();
    let Content::Bytes(bytes) = &config.content else { panic!() };
    let config: Json = serde_json::from_slice(bytes).unwrap();
    assert_eq!(config["chat_template"][0], json!({"name": "default", "template": "plain"}));
    assert_eq!(config["chat_template"].as_array().unwrap().len(), 3);
}

#[test]
fn old_folders_have_their_vocabulary_and_merges_in_files_of_their_own() {
    let files = [
        ("vocab.json", json!({"a": 0, "b": 1, "ab": 2})),
        ("merges.txt", json!("#version: 0.2\na b\n\n")),
        ("added_tokens.json", json!({"<x>": 3})),
    ];
    let metadata = read(&files, json!({"bos_token_id": 3, "eos_token_id": [1, 2]}), Kind::Bpe).unwrap();
    assert_eq!(texts(&metadata, "tokenizer.ggml.tokens"), ["a", "b", "ab", "<x>"]);
    assert_eq!(texts(&metadata, "tokenizer.ggml.merges"), ["a b"]);
    assert_eq!(metadata.get_str("tokenizer.ggml.pre"), Some("gpt-2"));
    assert_eq!((metadata.get_u64("tokenizer.ggml.bos_token_id"), metadata.get_u64("tokenizer.ggml.eos_token_id")), (Some(3), None));

    let files = [("vocab.txt", json!("[PAD]\n[UNK]\nthe\n##re\n"))];
    let metadata = read(&files, json!({"vocab_size": 5, "model_type": "bert"}), Kind::Bert).unwrap();
    assert_eq!(texts(&metadata, "tokenizer.ggml.tokens"), ["[PAD]", "[UNK]", "\u{2581}the", "re", "\u{2581}[PAD4]"]);
}

#[test]
fn families_fix_ids_and_flags() {
    let code_llama = read(&[("tokenizer.json", small(Json::Null))], json!({"vocab_size": 32016}), Kind::Llama).unwrap();
    assert_eq!(code_llama.get_u64("tokenizer.ggml.eot_token_id"), Some(32010));
    let smollm = read(&[("tokenizer.json", small(Json::Null))], json!({"vocab_size": 49152}), Kind::Llama).unwrap();
    assert_eq!(smollm.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(false)));
    let prefix = [("tokenizer.json", small(Json::Null)), ("tokenizer_config.json", json!({"add_prefix_space": false}))];
    let prefix = read(&prefix, json!({}), Kind::Llama).unwrap();
    assert_eq!(prefix.iter().next(), Some(("tokenizer.ggml.add_space_prefix", &Value::Bool(false))));
}

#[test]
fn unigram_vocabularies_keep_their_scores_and_character_map() {
    let json = json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true}],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAEC"},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u{2581}a", -1.5]]},
    });
    let class = json!({"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>"});
    let files = [("tokenizer.json", json), ("tokenizer_config.json", class)];
    let config = json!({"vocab_size": 6, "type_vocab_size": 1});
    let metadata = read(&files, config.clone(), Kind::XlmRoberta).unwrap();
    assert_eq!(metadata.get_str("tokenizer.ggml.model"), Some("t5"));
    assert_eq!(numbers(&metadata, "tokenizer.ggml.scores"), [0.0, 0.0, 0.0, 0.0, -1.5, -10000.0]);
    assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type"), [3.0, 3.0, 3.0, 2.0, 1.0, 5.0]);
    assert_eq!(numbers(&metadata, "tokenizer.ggml.precompiled_charsmap"), [0.0, 1.0, 2.0]);

    let written = tokenizer::write(&metadata, None).unwrap();
    let back = tempfile::tempdir().unwrap();
    for file in &written {
        let Content::Bytes(bytes) = &file.content else { panic!() };
        fs::write(back.path().join(&file.name), bytes).unwrap();
    }
    let again = tokenizer::read(back.path(), &config, Kind::XlmRoberta, &Options::default()).unwrap();
    assert_eq!(keys(again.keys()), keys(&metadata));
}

#[test]
fn broken_folders_are_errors_that_name_the_file_and_what_was_expected() {
    let bad_model = [("tokenizer.model", json!("\u{1}not protobuf"))];
    let past = [("tokenizer.json", small(Json::Null))];
    let decoder = [("tokenizer.json", small(Json::Null)), ("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {}}}))];
    let merges = [("tokenizer.json", json!({"model": {"vocab": {"a": 0}, "merges": [["a"]]}}))];
    let hole = json!({
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0, "b": 4_000_000_000u32}, "merges": []},
    });
    type Case<'a> = (&'a [(&'a str, Json)], Json, Kind, &'a str);
    let cases: [Case<'_>; 12] = [
        (&[], json!({}), Kind::Llama, "expected a tokenizer in tokenizer.json or vocab.json"),
        (&[], json!({}), Kind::Gemma2, "expected a tokenizer in tokenizer.model"),
        (&[], json!({}), Kind::Bert, "expected a tokenizer in tokenizer.json or vocab.txt"),
        (&bad_model, json!({}), Kind::Llama, "tokenizer.model: byte 9: expected a protobuf field"),
        (&past, json!({"vocab_size": 3}), Kind::Bpe, "below the vocabulary size of 3 that config.json gives, found 3 (\"<s>\")"),
        (&past, json!({"vocab_size": 99_999_999_999u64}), Kind::Bpe, "expected at most 2097152 tokens"),
        (&past, json!({"bos_token_id": -1}), Kind::Bpe, "config.json: expected bos_token_id of 0"),
        (&decoder, json!({}), Kind::Bpe, "tokenizer_config.json: expected added_tokens_decoder"),
        (&merges, json!({}), Kind::Bpe, "a merge of fewer than two parts"),
        (&[("tokenizer.json", json!("{"))], json!({}), Kind::Bpe, "tokenizer.json: expected JSON"),
        (&[("tokenizer_config.json", json!([1]))], json!({}), Kind::Bpe, "tokenizer_config.json: expected a JSON object"),
        (&[("tokenizer.json", hole)], json!({}), Kind::Llama, "expected at most 2097152 tokens"),
    ];
    for (files, config, kind, expected) in cases {
        let error = read(files, config, kind).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
}

#[test]
fn contradictions_in_a_gguf_are_errors() {
    let tokens = || Value::Array(Array::strings(["<unk>", "a"]));
    let base = |model: &str| {
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.ggml.model", Value::String(model.to_owned()));
        metadata.set("tokenizer.ggml.tokens", tokens());
        metadata
    };
    assert!(tokenizer::write(&Metadata::new(), None).unwrap_err().to_string().contains("no tokenizer.ggml.model"));
    for (key, value, expected) in [
        ("tokenizer.ggml.tokens", Value::U32(1), "to be an array"),
        ("tokenizer.ggml.tokens", Value::Array(Array::i32s([1])), "an array of strings"),
        ("tokenizer.ggml.token_type", Value::Array(Array::i32s([1])), "expected 2 values"),
        ("tokenizer.ggml.scores", Value::Array(Array::strings(["x", "y"])), "an array of numbers"),
        ("tokenizer.ggml.pre", Value::Bool(true), "to be a string"),
        ("tokenizer.ggml.pre", Value::String("from-the-future".to_owned()), "found from-the-future"),
        ("tokenizer.ggml.model", Value::String("hybriddna".to_owned()), "found hybriddna"),
    ] {
        let mut metadata = base("gpt2");
        metadata.set(key, value);
        let error = tokenizer::write(&metadata, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
    // Ids past the vocabulary and unknown types are no reason to fail.
    let mut metadata = base("llama");
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(7));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::i32s([2, 99])));
    tokenizer::write(&metadata, None).unwrap();
}

#[test]
fn a_phi_4_goes_there_and_back_and_there_again() {
    // The keys of llama.cpp's converter for a byte-level tokenizer, under Phi's architecture.
    let reader = format::open(&fixture("llama3").join("reference.gguf")).unwrap();
    let mut metadata = reader.model().metadata.clone();
    metadata.set("general.architecture", Value::String("phi3".to_owned()));
    let files = tokenizer::write(&metadata, None).unwrap();
    let json_of = |name: &str| -> Json {
        let Content::Bytes(bytes) = &files.iter().find(|file| file.name == name).unwrap().content else { panic!("{name}") };
        serde_json::from_slice(bytes).unwrap()
    };
    // llama.cpp's converter takes a tokenizer.json for Phi only where the class is this one.
    assert_eq!(json_of("tokenizer_config.json")["tokenizer_class"], "GPT2Tokenizer");
    for name in ["GPT2Tokenizer", "PreTrainedTokenizerFast"] {
        let mut class = json_of("tokenizer_config.json");
        class["tokenizer_class"] = json!(name);
        let again = read(
            &[("tokenizer.json", json_of("tokenizer.json")), ("tokenizer_config.json", class)],
            config(&fixture("llama3")),
            Kind::Phi3,
        )
        .unwrap();
        for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.")) {
            assert_eq!(again.get(key), Some(value), "{name} {key}");
        }
    }
}

#[test]
fn tokens_that_are_made_up_are_known() {
    let files = folder(&[("tokenizer.json", small(Json::Null))]);
    let read = |size: u64| tokenizer::read(files.path(), &json!({"vocab_size": size}), Kind::Bpe, &Options::default()).unwrap();
    let tokens = read(8).keys().get("tokenizer.ggml.tokens").unwrap().as_array().unwrap().len();
    assert_eq!(tokens, 8);
    assert!(texts(read(8).keys(), "tokenizer.ggml.tokens").ends_with(&["[PAD7]".to_owned()]));
    assert_eq!(read(9).made_up().last(), Some(&8));
    assert_eq!(read(9).made_up().len(), read(8).made_up().len() + 1);
}

/// Writes the files for the tokenizer of a fixture's GGUF into a folder.
fn back(name: &str) -> (tempfile::TempDir, Metadata) {
    let reader = format::open(&fixture(name).join("reference.gguf")).unwrap();
    let metadata = reader.model().metadata.clone();
    let folder = tempfile::tempdir().unwrap();
    for file in tokenizer::write(&metadata, None).unwrap() {
        let Content::Bytes(bytes) = &file.content else { panic!("{name}: {} is a copy", file.name) };
        fs::write(folder.path().join(&file.name), bytes).unwrap();
    }
    (folder, metadata)
}

#[test]
fn t5_is_read_from_a_tokenizer_json_alone() {
    let (folder, metadata) = back("t5");
    for name in ["spiece.model", "added_tokens.json"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let read = tokenizer::read(folder.path(), &config(&fixture("t5")), Kind::T5, &Options::default()).unwrap();
    assert_same("t5", sorted(keys(read.keys())), sorted(keys(&metadata)));
    // llama.cpp's converter reads it from the SentencePiece model.
    let model = fixture("t5").join("spiece.model");
    fs::copy(model, folder.path().join("tokenizer.model")).unwrap();
    let read = tokenizer::read(folder.path(), &json!({}), Kind::T5, &Options::default()).unwrap();
    assert_eq!(read.len(), 180);
}

#[test]
fn a_vocabulary_of_ranks_has_the_merges_of_the_tokenizer_that_it_was_made_from() {
    // The fixture has the tokens of the fixture qwen2.
    let merges = |name: &str| {
        let reader = format::open(&fixture(name).join("reference.gguf")).unwrap();
        texts(&reader.model().metadata, "tokenizer.ggml.merges")
    };
    assert_eq!(merges("qwen"), merges("qwen2"));
    // The tokenizer's own last token takes precedence over the config's; with one special token, no other is set.
    let kimi = fixture("kimi");
    let read = |kind| tokenizer::read(&kimi, &config(&kimi), kind, &Options::default()).unwrap();
    assert_eq!(read(Kind::KimiLinear).keys().get_u64("tokenizer.ggml.eos_token_id"), Some(321));
    assert_eq!(read(Kind::BpeOrKimi).keys().get_u64("tokenizer.ggml.eos_token_id"), Some(322));
    let qwen = fixture("qwen");
    let mut config = config(&qwen);
    config["pad_token_id"] = json!(7);
    let read = tokenizer::read(&qwen, &config, Kind::Qwen, &Options::default()).unwrap();
    let id = |name: &str| read.keys().get_u64(&format!("tokenizer.ggml.{name}_token_id"));
    assert_eq!(["bos", "eos", "padding", "unknown"].map(id), [None, None, Some(7), Some(320)]);
}

#[test]
fn families_prescribe_special_tokens_by_text() {
    // As set_vocab of each class does (conversion/*.py).
    let special = ["[gMASK]", "<|user|>", "<|endoftext|>", "<|observation|>", "<unk>", "<|startoftext|>", "<|endofassistant|>"];
    let special: Vec<&str> = special.into_iter().chain(["<|eot|>", "<|im_end|>", "</assistant>"]).collect();
    let mut json = small(Json::Null);
    let tokens = special.iter().zip(4..).map(|(text, id)| json!({"id": id, "content": text, "special": *text != "</assistant>"}));
    json["added_tokens"].as_array_mut().unwrap().extend(tokens);
    let id = |text: &str| special.iter().position(|token| *token == text).unwrap() as u64 + 4;
    let names = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("eot", "eot"), ("eom", "eom")];
    let read = |kind: Kind, config: &Json| {
        let metadata = read(&[("tokenizer.json", json.clone()), ("tokenizer_config.json", json!({}))], config.clone(), kind).unwrap();
        let ids = names.iter().filter_map(|(name, key)| Some((*name, metadata.get_u64(&format!("tokenizer.ggml.{key}_token_id"))?)));
        (ids.collect::<Vec<_>>(), metadata.clone())
    };
    let (end, im_end) = (id("<|endoftext|>"), id("<|im_end|>"));
    for (kind, expected) in [
        (Kind::Glm, vec![("bos", id("[gMASK]")), ("unk", end), ("eot", id("<|user|>")), ("eom", id("<|observation|>"))]),
        (Kind::Glm4, vec![("bos", end), ("eos", end), ("unk", end), ("eot", id("<|user|>"))]),
        (Kind::Chatglm, vec![("eos", end), ("unk", end), ("eot", id("<|user|>"))]),
        (Kind::SolarOpen, vec![("bos", id("<|startoftext|>")), ("eos", end), ("unk", id("<unk>")), ("eot", end)]),
        (Kind::Dots3Note, vec![("eot", id("<|endofassistant|>"))]),
        (Kind::MuseGlimmer, vec![("eot", id("<|eot|>"))]),
        (Kind::Qwen3Omni, vec![("bos", im_end), ("eos", im_end)]),
        (Kind::InternS1, vec![("bos", 151_643)]),
        (Kind::Llada, vec![]),
        (Kind::Bpe, vec![]),
    ] {
        assert_eq!(read(kind, &json!({})).0, expected, "{kind:?}");
    }
    assert_eq!(read(Kind::HunyuanDense, &json!({"eos_token_id": 1, "eod_token_id": 2, "pad_token_id": -1})).0, [("eos", 2)]);
    // The folder's own take precedence, but for those that the class replaces.
    assert_eq!(read(Kind::Glm4, &json!({"eos_token_id": 1})).0[1], ("eos", 1));
    assert_eq!(read(Kind::MuseGlimmer, &json!({"eos_token_id": 1})).0, [("eos", 1), ("eot", id("<|eot|>"))]);
    let (ids, metadata) = read(Kind::Laguna, &json!({"bos_token_id": 2, "eos_token_id": [2, 13]}));
    assert_eq!(ids, [("bos", 2), ("eot", 13)]);
    assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type").last(), Some(&3.0));
    assert_eq!(read(Kind::Llada, &json!({})).1.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));
    let spm = fixture("llama-spm");
    let nemotron = tokenizer::read(&spm, &config(&spm), Kind::Nemotron, &Options::default()).unwrap();
    assert_eq!(["padding", "unknown"].map(|name| nemotron.keys().get_u64(&format!("tokenizer.ggml.{name}_token_id"))), [Some(0), Some(1)]);
    // A token that is not there is told.
    let folder = folder(&[("tokenizer.json", small(Json::Null))]);
    let told = tokenizer::read(folder.path(), &json!({}), Kind::Dots3Note, &Options::default()).unwrap();
    assert!(told.notes()[0].contains("<|endofassistant|>"), "{:?}", told.notes());
}

#[test]
fn vocabularies_are_padded_as_the_family_is() {
    let files = folder(&[("tokenizer.json", small(Json::Null))]);
    for (kind, config, expected) in [
        (Kind::Mamba, json!({"vocab_size": 9}), 16),
        (Kind::Mamba, json!({"vocab_size": 9, "pad_vocab_size_multiple": 5}), 10),
        (Kind::Mamba2, json!({"vocab_size": 9}), 16),
        (Kind::Mamba2, json!({"vocab_size": 17}), 32),
        (Kind::NemotronH, json!({"text_config": {"vocab_size": 9}}), 16),
        (Kind::GraniteHybrid, json!({"vocab_size": 9, "layer_types": ["attention", "mamba"]}), 16),
        (Kind::GraniteHybrid, json!({"vocab_size": 9, "layer_types": ["attention"]}), 9),
        (Kind::GraniteHybrid, json!({"vocab_size": 9, "layer_types": ["attention", "linear_attention"]}), 16),
        (Kind::Chatglm, json!({"vocab_size": 9, "padded_vocab_size": 12}), 12),
    ] {
        let read = tokenizer::read(files.path(), &config, kind, &Options::default()).unwrap();
        assert_eq!(read.len(), expected, "{kind:?} {config}");
    }
}

#[test]
fn a_folder_without_the_vocabulary_that_llama_cpp_has_built_in_says_what_to_copy() {
    for (kind, name) in [(Kind::Mamba, "EleutherAI/gpt-neox-20b"), (Kind::Mamba2, "EleutherAI/gpt-neox-20b"), (Kind::Openelm, "Llama-2-7b")]
    {
        let error = read(&[], json!({"vocab_size": 50280}), kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn broken_vocabulary_files_are_errors_that_name_the_line() {
    for (file, kind, text, expected) in [
        ("qwen.tiktoken", Kind::Qwen, "IQ== 0\n", "below the vocabulary size"),
        ("qwen.tiktoken", Kind::Qwen, "IQ== 0\nIQ==\n", "line 2"),
        ("tiktoken.model", Kind::BpeOrKimi, "IQ== 4294967296\n", "line 1"),
        ("rwkv_vocab_v20230424.txt", Kind::Rwkv, "1 'a' 1\n2 'b' 2\n", "line 2"),
        ("rwkv_vocab_v20230424.txt", Kind::Rwkv, "1 'a' 1\n", "at most 0 tokens"),
        ("tokenizer.jsonl", Kind::Plamo2, "[\"a\", 0.0]\n{}\n", "line 2"),
    ] {
        let error = read(&[(file, json!(text))], json!({"vocab_size": 0}), kind).unwrap_err().to_string();
        assert!(error.contains(expected) && (error.contains(file)), "{error}");
    }
}

#[test]
fn words_that_whitespace_separates_keep_their_model_name() {
    let mut json = small(Json::Null);
    json["pre_tokenizer"] = json!({"type": "Whitespace"});
    let files = [("tokenizer.json", json), ("tokenizer_config.json", json!({"tokenizer_class": "RobertaTokenizer"}))];
    let metadata = read(&files, json!({"type_vocab_size": 2}), Kind::JinaBertV2).unwrap();
    let text = |key: &str| metadata.get_str(&format!("tokenizer.ggml.{key}"));
    assert_eq!((text("model"), text("pre")), (Some("whitespace"), Some("whitespace")));
    assert_eq!(metadata.get_u64("tokenizer.ggml.token_type_count"), Some(2));
    tokenizer::write(&metadata, None).unwrap();
}
