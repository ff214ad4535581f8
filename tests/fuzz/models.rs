//! Any bytes as one of the small files of a Hugging Face folder, among others that are sound.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weigh::ops::convert::{Options, Plan};
use weigh::tokenizer;
use weigh::tokenizer::Kind;

use super::{Target, file, fixture, folder};
use crate::build::{Gguf, safetensors};

/// The first byte picks the kind of tokenizer, the second the file, the rest is what is in it.
pub const TOKENIZER: Target = Target { name: "tokenizer", run: tokenizer, seeds: tokenizer_seeds };

/// The first byte picks the file, the rest is what is in it; the folder is converted as far as a plan goes.
pub const FOLDER: Target = Target { name: "folder", run: model, seeds: model_seeds };

const KINDS: [Kind; 49] = [
    Kind::Llama,
    Kind::SentencepieceOrBpe,
    Kind::Bpe,
    Kind::Gemma,
    Kind::Gemma2,
    Kind::Gemma3,
    Kind::Phi3,
    Kind::Bert,
    Kind::Roberta,
    Kind::XlmRoberta,
    Kind::Mistral,
    Kind::Gemma3n,
    Kind::Gemma4,
    Kind::NomicBert,
    Kind::NomicBertMoe,
    Kind::JinaBertV2,
    Kind::T5,
    Kind::ModernBert,
    Kind::EuroBert,
    Kind::Llada,
    Kind::Glm,
    Kind::Glm4,
    Kind::SolarOpen,
    Kind::Dots3Note,
    Kind::MuseGlimmer,
    Kind::Internlm3,
    Kind::Qwen3Omni,
    Kind::InternS1,
    Kind::Pangu,
    Kind::Mpt,
    Kind::Jamba,
    Kind::Internlm2,
    Kind::Laguna,
    Kind::Minimax01,
    Kind::Qwen,
    Kind::Stablelm,
    Kind::BpeOrKimi,
    Kind::KimiLinear,
    Kind::HunyuanMoe,
    Kind::HunyuanDense,
    Kind::Chatglm,
    Kind::Mamba,
    Kind::Mamba2,
    Kind::Nemotron,
    Kind::NemotronH,
    Kind::GraniteHybrid,
    Kind::Openelm,
    Kind::Rwkv,
    Kind::Plamo2,
];

/// Files that a tokenizer is read from, and those that stand beside each unless it is the one that is replaced.
const TOKENIZER_FILES: &[(&str, &[&str])] = &[
    ("tokenizer.json", &["tokenizer_config.json"]),
    ("tokenizer.model", &["tokenizer_config.json"]),
    ("sentencepiece.bpe.model", &["tokenizer_config.json"]),
    ("tokenizer_config.json", &["tokenizer.json"]),
    ("tokenizer_config.json", &["tokenizer.model", "added_tokens.json"]),
    ("added_tokens.json", &["tokenizer.model"]),
    ("added_tokens.json", &["vocab.json", "merges.txt"]),
    ("special_tokens_map.json", &["vocab.json", "merges.txt"]),
    ("vocab.json", &["merges.txt"]),
    ("merges.txt", &["vocab.json"]),
    ("vocab.txt", &["tokenizer_config.json"]),
    ("config.json", &["tokenizer.json"]),
    ("config.json", &["tokenizer.model"]),
    ("generation_config.json", &["tokenizer.json"]),
    ("chat_template.jinja", &["tokenizer.json"]),
    ("chat_template.json", &["tokenizer.json"]),
    ("tekken.json", &["chat_template.jinja"]),
    ("spiece.model", &["tokenizer_config.json"]),
    ("qwen.tiktoken", &["tokenizer_config.json"]),
    ("arcade100k.tiktoken", &["tokenizer_config.json"]),
    ("hy.tiktoken", &["tokenizer_config.json"]),
    ("tiktoken.model", &["tokenizer_config.json"]),
    ("rwkv_vocab_v20230424.txt", &["tokenizer_config.json"]),
    ("tokenizer.jsonl", &["tokenizer_config.json"]),
];

/// A sound file: small, but with all that such a file has.
fn sound(name: &str) -> Vec<u8> {
    let pieces = [("<unk>", 2u8), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("\u{2581}a", 1), ("b", 1), ("<x>", 4)];
    let tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u{120}a"];
    let value = match name {
        "tokenizer.json" => json!({
            "added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false}, {"id": 7, "content": "<x>", "special": false}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": false, "ignore_merges": true,
                "vocab": tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), Value::from(id))).collect::<serde_json::Map<_, _>>(),
                "merges": ["a b", ["\u{120}", "a"]]}
        }),
        "tokenizer_config.json" => json!({
            "add_bos_token": true, "add_prefix_space": false, "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
            "added_tokens_decoder": {"7": {"content": "<x>", "special": true}}, "tokenizer_class": "LlamaTokenizer",
            "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{% x %}"}]
        }),
        "added_tokens.json" => json!({"<x>": 7, "<y>": 8}),
        "special_tokens_map.json" => json!({"bos_token": "<s>", "additional_special_tokens": ["<x>", {"content": "<y>"}]}),
        "vocab.json" => json!({"a": 0, "b": 1, "ab": 2}),
        "generation_config.json" => json!({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1}),
        "chat_template.json" => json!({"chat_template": "{{ x }}"}),
        "config.json" => json!({"vocab_size": 9, "type_vocab_size": 2, "bos_token_id": 1, "eos_token_id": 2, "model_type": "llama"}),
        "merges.txt" => return b"#version: 0.2\na b\n".to_vec(),
        "vocab.txt" => return b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n".to_vec(),
        "tekken.json" => return fs::read(fixture("tokenizers").join("tekken").join(name)).expect("a fixture"),
        "qwen.tiktoken" | "arcade100k.tiktoken" | "hy.tiktoken" | "tiktoken.model" => return b"IQ== 0\nIg== 1\nISI= 2\n".to_vec(),
        "rwkv_vocab_v20230424.txt" => return b"1 '\\x00' 1\n2 'a' 1\n3 b'\\xff' 1\n4 \"'\\u00e9\" 3\n".to_vec(),
        "tokenizer.jsonl" => return b"[\"<s>\", 0.0, \"CONTROL\"]\n[\"a\", -1.5, \"NORMAL\"]\n[\"<0x0A>\", 0, \"BYTE\"]\n".to_vec(),
        "chat_template.jinja" => return b"{{ ''.__class__ }}".to_vec(),
        _ => return sentencepiece(&pieces),
    };
    value.to_string().into_bytes()
}

/// A tokenizer.json of Unigram, with a precompiled character map as in [`sentencepiece`].
fn unigram_json() -> String {
    json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "BAAAAAACAABhAA=="}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 1, "vocab": [["<s>", 0.0], ["<unk>", 0.0], ["\u{2581}a", -1.5], ["b", -2.0]]}
    })
    .to_string()
}

/// A SentencePiece model: pieces with a score and a type, the settings of the trainer and of the normaliser.
fn sentencepiece(pieces: &[(&str, u8)]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let piece = |(text, kind): &(&str, u8)| {
        field(1, &[&field(1, text.as_bytes())[..], &[2 << 3 | 5], &(-1.5f32).to_le_bytes(), &[3 << 3, *kind]].concat())
    };
    let mut model: Vec<u8> = pieces.iter().flat_map(piece).collect();
    model.extend(field(2, &[3 << 3, 2, 35 << 3 & 0x7f | 0x80, 35 >> 4, 1]));
    // A precompiled character map: the length of its trie, a unit of that, and the replacements.
    let charsmap = field(2, &[&4u32.to_le_bytes()[..], &[0, 0x02, 0, 0], b"a\0"].concat());
    model.extend(field(3, &[&charsmap[..], &[3 << 3, 1, 4 << 3, 0]].concat()));
    model
}

/// A folder with the files that stand beside one that is replaced.
fn beside(name: &str, others: &[&str]) -> PathBuf {
    let folder = folder().join(format!("{name}-with-{}", others.join("-")));
    if !folder.is_dir() {
        fs::create_dir_all(&folder).expect("a folder to write in");
        for other in others {
            fs::write(folder.join(other), sound(other)).expect("room for a file");
        }
    }
    folder
}

fn tokenizer(data: &[u8]) {
    let [kind, pick, content @ ..] = data else { return };
    let options = tokenizer::Options { pre: None, equal_scores: *kind >= 128 };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let (name, others) = TOKENIZER_FILES[usize::from(*pick) % TOKENIZER_FILES.len()];
    let folder = beside(name, others);
    file(&folder, name, content);
    let config = if name == "config.json" { serde_json::from_slice(content).unwrap_or(Value::Null) } else { json!({"vocab_size": 9}) };
    let Ok(tokenizer) = tokenizer::read(&folder, &config, kind, &options) else { return };
    let mut metadata = weigh::model::Metadata::new();
    tokenizer.to_gguf("llama", &mut metadata);
    // What a GGUF holds becomes files again, or is refused.
    let _ = tokenizer::write(&metadata, None);
    tokenizer::ids(&metadata);
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0u8..)
        .zip(TOKENIZER_FILES)
        .flat_map(|(pick, (name, _))| [0u8, 2, 7, 9, 10].map(|kind| [vec![kind, pick], sound(name)].concat()))
        .collect();
    // The files that only some kinds read: XLM-RoBERTa, T5, those of tiktoken, RWKV, PLaMo 2.
    let kind_of = |kind: Kind| KINDS.iter().zip(0u8..).find(|(known, _)| **known == kind).map(|(_, number)| number);
    let pick_of = |name: &str| TOKENIZER_FILES.iter().zip(0u8..).find(|((file, _), _)| *file == name).map(|(_, number)| number);
    let some: [(Kind, &str); 10] = [
        (Kind::XlmRoberta, "sentencepiece.bpe.model"),
        (Kind::XlmRoberta, "tokenizer.json"),
        (Kind::T5, "spiece.model"),
        (Kind::T5, "tokenizer.json"),
        (Kind::Qwen, "qwen.tiktoken"),
        (Kind::Stablelm, "arcade100k.tiktoken"),
        (Kind::HunyuanMoe, "hy.tiktoken"),
        (Kind::BpeOrKimi, "tiktoken.model"),
        (Kind::Rwkv, "rwkv_vocab_v20230424.txt"),
        (Kind::Plamo2, "tokenizer.jsonl"),
    ];
    for (kind, name) in some {
        let head = vec![kind_of(kind).expect("a kind that is fuzzed"), pick_of(name).expect("a file that is fuzzed")];
        let unigram = name == "tokenizer.json";
        seeds.push([head, if unigram { unigram_json().into_bytes() } else { sound(name) }].concat());
    }
    for (kind, pick, name) in [(0, 0, "llama3"), (1, 0, "qwen2"), (7, 0, "bert"), (0, 0, "llama-fast"), (132, 0, "llama-fast")] {
        let content = fs::read(fixture("tokenizers").join(name).join("tokenizer.json")).expect("a fixture");
        seeds.push([vec![kind, pick], content].concat());
    }
    seeds
}

/// Files of a folder that say what a model is, or what is to be done with it.
const MODEL_FILES: &[&str] = &[
    "config.json",
    "README.md",
    "generation_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "adapter/adapter_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "adapter.gguf",
    "table.toml",
    "manifest",
];

/// A table of its own for the model of [`config`].
const TABLE: &str = "name = 'x'
extends = 'llama'
gguf = 'llama'
classes = ['LlamaForCausalLM']
let = { twice = 'layers * 2', more = 'twice + d // h' }
tensors = [{ hf = 'model.layers.{bid}.extra', gguf = 'blk.{bid}.extra', optional = true }]
[defaults]
rms_norm_eps = 1e-5
[[keys]]
gguf = 'extra'
value = 'more'
type = 'u32'
";

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "rope_theta": 10000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
    })
}

/// The weights that go with [`config`].
fn weights() -> Vec<u8> {
    let layer = [
        ("self_attn.q_proj", vec![4, 4]),
        ("self_attn.k_proj", vec![2, 4]),
        ("self_attn.v_proj", vec![2, 4]),
        ("self_attn.o_proj", vec![4, 4]),
        ("mlp.gate_proj", vec![8, 4]),
        ("mlp.up_proj", vec![8, 4]),
        ("mlp.down_proj", vec![4, 8]),
        ("input_layernorm", vec![4]),
        ("post_attention_layernorm", vec![4]),
    ];
    let layer = layer.into_iter().map(|(name, shape)| (format!("model.layers.0.{name}.weight"), shape));
    let all = layer.chain([("model.embed_tokens.weight".to_owned(), vec![8, 4]), ("model.norm.weight".to_owned(), vec![4])]);
    pack(all)
}

/// A file of BF16 tensors that are all zeros.
fn pack(tensors: impl Iterator<Item = (String, Vec<u64>)>) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<String> = tensors
        .map(|(name, shape)| {
            let begin = end;
            end += shape.iter().product::<u64>() * 2;
            format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    safetensors(&format!("{{{}}}", entries.join(",")), &vec![0; end as usize])
}

/// The sound files of a folder of a model.
fn sound_model(name: &str) -> Vec<u8> {
    match name {
        "config.json" => config().to_string().into_bytes(),
        "README.md" => b"---\nlicense: apache-2.0\nlanguage:\n- en\ntags: [a, 'b c']\nbase_model:\n  - org/Model-7B\nname: x\n---\n# Title\n".to_vec(),
        "modules.json" => br#"[{"idx":0,"path":""},{"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#.to_vec(),
        "1_Pooling/config.json" => br#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#.to_vec(),
        "adapter/adapter_config.json" => br#"{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"],"rank_pattern":{"q_proj":3},"alpha_pattern":{},"use_rslora":true,"fan_in_fan_out":false,"base_model_name_or_path":"a/b"}"#.to_vec(),
        "adapter/adapter_model.safetensors" => {
            let module = "base_model.model.model.layers.0.self_attn.q_proj";
            pack([(format!("{module}.lora_A.weight"), vec![2, 4]), (format!("{module}.lora_B.weight"), vec![4, 2])].into_iter())
        }
        "preprocessor_config.json" => br#"{"image_mean":[0.5,0.5,0.5],"image_std":[1,1,1],"size":{"shortest_edge":8},"patch_size":2}"#.to_vec(),
        "base.gguf" => Gguf::default().key_str("general.architecture", "llama").f32("blk.0.attn_q.weight", &[4, 4]).build(),
        "adapter.gguf" => {
            let gguf = Gguf::default().key_str("general.architecture", "llama").key_str("general.type", "adapter");
            let gguf = gguf.key_str("adapter.type", "lora").key_u32("adapter.lora.alpha", 4);
            gguf.f32("blk.0.attn_q.weight.lora_a", &[4, 2]).f32("blk.0.attn_q.weight.lora_b", &[2, 4]).build()
        }
        "table.toml" => TABLE.as_bytes().to_vec(),
        "manifest" => b"sha256  00  model-manifest\nxxh64  ef46db3751d8e999  model-manifest:model.norm.weight\n# weigh\n".to_vec(),
        "model.safetensors" => weights(),
        "model.safetensors.index.json" => br#"{"weight_map":{"model.norm.weight":"model.safetensors"}}"#.to_vec(),
        other => sound(other),
    }
}

fn model(data: &[u8]) {
    let Some((pick, content)) = data.split_first() else { return };
    let name = MODEL_FILES[usize::from(*pick) % MODEL_FILES.len()];
    let folder = folder().join(format!("model-{}", name.replace('/', "-")));
    if !folder.is_dir() {
        let all = ["config.json", "README.md", "generation_config.json", "modules.json", "1_Pooling/config.json"];
        let all = all.into_iter().chain(["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "base.gguf"]);
        for other in all.chain(["model.safetensors", "tokenizer.json", "tokenizer_config.json"]) {
            let path = folder.join(other);
            fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder to write in");
            fs::write(path, sound_model(other)).expect("room for a file");
        }
    }
    let path = file(&folder, name, content);
    match name {
        "adapter.gguf" => return adapter(&path, &folder.join("base.gguf"), &folder),
        "adapter/adapter_config.json" => return adapter(&folder.join("adapter"), &folder, &folder),
        "manifest" => {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let args = ["weigh", "hash", folder.to_str().expect("a plain path"), "--check", path.to_str().expect("a plain path")];
            let _ = weigh::cli::run(args, &mut out, &mut err);
            return;
        }
        _ => {}
    }
    let Ok(reader) = weigh::format::open(&folder) else { return };
    let _ = weigh::ops::info::info(&reader);
    let arch_table = (name == "table.toml").then_some(path);
    let options = Options { arch_table, projector: name == "preprocessor_config.json", ..Options::default() };
    let _ = Plan::new(&reader, &folder.join("out.gguf"), &options);
}

/// An adapter: what it says of itself, merged with its base, and in its other form, of which `folder` is the base.
fn adapter(path: &Path, base: &Path, folder: &Path) {
    let Ok(adapter) = weigh::format::open(path) else { return };
    let _ = weigh::ops::info::info(&adapter);
    let options = || Options { base: Some(folder.to_path_buf()), ..Options::default() };
    for out in ["out.gguf", "out/"] {
        let _ = Plan::new(&adapter, &folder.join(out), &options());
    }
    let base = weigh::format::open(base).expect("a sound model");
    if let Ok(merged) = weigh::view::lora::merged(base, vec![adapter]) {
        for tensor in &merged.model().tensors {
            let _ = merged.bytes(tensor);
        }
    }
}

fn model_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0u8..).zip(MODEL_FILES).map(|(pick, name)| [vec![pick], sound_model(name)].concat()).collect();
    for family in super::fixtures(".json").iter().filter_map(|text| serde_json::from_slice::<Value>(text).ok()) {
        if let Some(config) = family.get("config") {
            seeds.push([vec![0], config.to_string().into_bytes()].concat());
        }
    }
    seeds
}
