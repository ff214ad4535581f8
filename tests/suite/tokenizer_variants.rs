//! Variants of tokenizer files, a line each: what the reference converter reads in them (gguf-py/gguf/vocab.py, `SpecialVocab`), and
//! what is written of a GGUF, against the definitions of the formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};
use weigh::model::companion::Content;
use weigh::model::{Array, Metadata, Value};
use weigh::tokenizer::{Kind, Options};
use weigh::{format, tokenizer};

use crate::tokenizer::{numbers, read, small, texts};

/// The small tokenizer with the further tokens </s>, <sep> and <cls>: 4, 5 and 6.
fn tokens(post_processor: Json) -> Json {
    let mut json = small(post_processor);
    for (id, content) in [(4, "</s>"), (5, "<sep>"), (6, "<cls>")] {
        json["added_tokens"].as_array_mut().unwrap().push(json!({ "id": id, "content": content, "special": true }));
    }
    json
}

/// The ids and flags of special tokens: `bos=3 +eos -sep`.
fn special(metadata: &Metadata) -> String {
    let mut found = Vec::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("sep", "seperator"), ("eot", "eot"), ("eom", "eom")] {
        found.extend(metadata.get_u64(&format!("tokenizer.ggml.{key}_token_id")).map(|id| format!("{name}={id}")));
    }
    for name in ["bos", "eos", "sep"] {
        let add = metadata.get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
        found.extend(add.map(|add| format!("{}{name}", if add { '+' } else { '-' })));
    }
    found.join(" ")
}

/// A template: `A` and `B` are texts, the rest are tokens.
fn parts(template: &str) -> Vec<Json> {
    let part = |part: &str| match part {
        "A" | "B" => json!({ "Sequence": { "id": part, "type_id": 0 } }),
        token => json!({ "SpecialToken": { "id": token, "type_id": 0 } }),
    };
    template.split_whitespace().map(part).collect()
}

#[test]
fn templates_say_which_tokens_stand_around_texts() {
    let (both, none) = (json!({ "bos_token": "<s>", "eos_token": "</s>" }), json!({}));
    let with_sep = json!({ "bos_token": "<s>", "eos_token": "</s>", "sep_token": "<sep>" });
    for (config, single, pair, expected) in [
        // A single token alone says nothing.
        (&both, "<s>", "", "bos=3 eos=4"),
        (&both, "<s> A", "", "bos=3 eos=4 +bos"),
        (&both, "<s> A </s>", "", "bos=3 eos=4 +bos +eos"),
        (&none, "<s> A </s>", "", "+bos +eos"),
        // Another first token than the config has: unknown, unless it is cls, or none is named.
        (&json!({ "bos_token": "</s>", "cls_token": "<sep>" }), "<s> A", "", "bos=4 -bos"),
        (&json!({ "bos_token": "</s>", "cls_token": "<s>" }), "<s> A", "", "bos=4 +bos"),
        (&json!({ "bos_token": "</s>" }), "<s> A", "", "bos=4 +bos"),
        (&json!({ "eos_token": "</s>" }), "<s> A", "", "bos=3 eos=4 +bos"),
        // Another last token ends the text; the one of the config ends a turn.
        (&both, "A <sep>", "", "bos=3 eos=5 eot=4 +eos"),
        // Between two texts: the separator, or the end and the separator.
        (&with_sep, "A B", "A <sep> B", "bos=3 eos=4 sep=5 +sep"),
        (&with_sep, "A B", "A </s> B", "bos=3 eos=4 sep=5 +sep"),
        (&with_sep, "A B", "A <cls> B", "bos=3 eos=4 sep=5 -sep"),
        (&with_sep, "A B", "A <sep> A", "bos=3 eos=4 sep=5"),
        (&with_sep, "A B", "B <sep> B", "bos=3 eos=4 sep=5"),
        (&with_sep, "A </s>", "A </s> B </s>", "bos=3 eos=4 sep=5 +eos -sep"),
        (&with_sep, "A </s>", "A </s> <sep> B </s>", "bos=3 eos=4 sep=5 +eos +sep"),
        // What separates is the end, if no separator is named.
        (&both, "A B", "A </s> B", "bos=3 eos=4 sep=4 +sep"),
        // An empty name is none: cls and sep take its place.
        (&json!({ "bos_token": "", "cls_token": "<cls>", "eos_token": {}, "sep_token": "<sep>" }), "A B", "", "bos=6 eos=5 sep=5"),
        (&json!({ "bos_token": { "content": "<s>" }, "cls_token": "<cls>" }), "A B", "", "bos=3"),
    ] {
        let template = json!({ "type": "TemplateProcessing", "single": parts(single), "pair": parts(pair) });
        let files = [("tokenizer.json", tokens(template)), ("tokenizer_config.json", config.clone())];
        assert_eq!(special(&read(&files, json!({}), Kind::Bpe).unwrap()), expected, "{config} {single} | {pair}");
    }
}

#[test]
fn what_roberta_puts_around_texts_names_tokens_that_the_config_does_not() {
    let roberta = || json!({ "type": "RobertaProcessing", "sep": ["<sep>", 5], "cls": ["<cls>", 6] });
    for (config, expected) in [
        (json!({ "bos_token": "<s>", "eos_token": "</s>" }), "bos=3 eos=4 sep=5 +bos +eos +sep"),
        (json!({ "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>" }), "bos=3 eos=4 sep=4 +bos +eos +sep"),
    ] {
        let files = [("tokenizer.json", tokens(roberta())), ("tokenizer_config.json", config)];
        assert_eq!(special(&read(&files, json!({}), Kind::Bpe).unwrap()), expected);
    }
    // The template after it goes by the cls that it names.
    let template = json!({ "type": "TemplateProcessing", "single": parts("<cls> A"), "pair": [] });
    for (cls, expected) in [(None, "bos=3 +bos +eos +sep"), (Some("<s>"), "bos=3 -bos +eos +sep")] {
        let steps = json!({ "processors": [{ "type": "RobertaProcessing", "cls": ["<cls>", 6] }, template] });
        let mut config = json!({ "bos_token": "<s>" });
        config.as_object_mut().unwrap().extend(cls.map(|cls| ("cls_token".to_owned(), Json::from(cls))));
        let files = [("tokenizer.json", tokens(steps)), ("tokenizer_config.json", config)];
        assert_eq!(special(&read(&files, json!({}), Kind::Bpe).unwrap()), expected, "{cls:?}");
    }
}

#[test]
fn normalisers_say_what_is_done_with_case_and_accents() {
    let of = |normalizer: Json| {
        let mut json = small(Json::Null);
        json["normalizer"] = normalizer;
        let metadata = read(&[("tokenizer.json", json)], json!({}), Kind::Bpe).unwrap();
        ["lowercase", "strip_accents"].map(|key| metadata.get(&format!("tokenizer.ggml.normalizer.{key}")).and_then(Value::as_bool))
    };
    assert_eq!(of(json!({ "type": "Lowercase" })), [Some(true), None]);
    assert_eq!(of(json!({ "type": "StripAccents" })), [None, Some(true)]);
    assert_eq!(of(json!({ "type": "NFC" })), [None, None]);
    assert_eq!(of(json!({ "type": "BertNormalizer", "lowercase": false, "strip_accents": true })), [Some(false), Some(true)]);
    let sequence = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "StripAccents" }, { "type": "Lowercase" }] });
    assert_eq!(of(sequence), [Some(true); 2]);
}

#[test]
fn ids_that_a_family_fixes_leave_those_of_the_folder() {
    let files = [("tokenizer.json", small(Json::Null))];
    let of = |config: Json| special(&read(&files, config, Kind::Llama).unwrap());
    // CodeLlama's 32016 tokens: the end of a turn is 32010.
    assert!(of(json!({ "vocab_size": 32016, "bos_token_id": 3 })).starts_with("bos=3 eot=32010"));
}

#[test]
fn added_tokens_have_the_types_of_their_flags_and_roles() {
    let with = |added: Json| {
        let mut json = small(Json::Null);
        json["added_tokens"] = added;
        json
    };
    let plain = json!([{ "id": 3, "content": "x y", "special": false, "normalized": false }]);
    // (added tokens, tokenizer_config.json, added_tokens.json, the fourth token, types)
    for (added, config, listed, text, types) in [
        (plain.clone(), json!({}), json!({}), "x y", [1.0, 1.0, 1.0, 4.0]),
        (plain.clone(), json!({ "bos_token": "x y" }), json!({}), "x y", [1.0, 1.0, 1.0, 3.0]),
        (plain.clone(), json!({ "additional_special_tokens": ["x y"] }), json!({}), "x y", [1.0, 1.0, 1.0, 3.0]),
        (plain.clone(), json!({ "extra_special_tokens": { "image": "x y" } }), json!({}), "x y", [1.0, 1.0, 1.0, 3.0]),
        // A token that is there already keeps its id.
        (plain, json!({ "added_tokens_decoder": { "9": { "content": "x y", "special": true } } }), json!({}), "x y", [1.0, 1.0, 1.0, 3.0]),
        // A token that is not normalised is shown as it decodes: U+0120 is a space.
        (json!([{ "id": 3, "content": "\u{120}q", "normalized": true }]), json!({}), json!({}), "\u{120}q", [1.0, 1.0, 1.0, 4.0]),
        (json!([{ "id": 3, "content": "\u{120}q", "normalized": false }]), json!({}), json!({}), " q", [1.0, 1.0, 1.0, 4.0]),
        (
            json!([{ "id": 3, "content": "\u{120}q", "normalized": true }]),
            json!({ "bos_token": "\u{120}q" }),
            json!({}),
            " q",
            [1.0, 1.0, 1.0, 3.0],
        ),
        // Without the flag, what is not special is normalised.
        (json!([]), json!({ "added_tokens_decoder": { "3": { "content": "\u{120}q" } } }), json!({}), "\u{120}q", [1.0, 1.0, 1.0, 4.0]),
        (
            json!([]),
            json!({ "added_tokens_decoder": { "3": { "content": "\u{120}q", "special": true } } }),
            json!({}),
            " q",
            [1.0, 1.0, 1.0, 3.0],
        ),
        // Tokens of added_tokens.json are normalised, as they are not special.
        (json!([]), json!({}), json!({ "\u{120}z": 3 }), "\u{120}z", [1.0, 1.0, 1.0, 4.0]),
    ] {
        let files = [("tokenizer.json", with(added.clone())), ("tokenizer_config.json", config.clone()), ("added_tokens.json", listed)];
        let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
        assert_eq!(texts(&metadata, "tokenizer.ggml.tokens"), ["a", "b", "ab", text], "{added} {config}");
        assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type"), types, "{added} {config}");
    }
}

#[test]
fn sentencepiece_style_files_give_types_and_scores() {
    let sentencepiece = |vocab: Json, added: Json| {
        json!({
            "added_tokens": added,
            "decoder": { "type": "Sequence", "decoders": [] },
            "model": { "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab, "merges": ["a b"] },
        })
    };
    // A byte among the model's own tokens is one; what is added is not, whatever it looks like.
    let vocab = json!({ "<unk>": 0, "<0x0A>": 1, "a": 2, "<s>": 3 });
    let added = json!([{ "id": 3, "content": "<s>", "special": true }, { "id": 4, "content": "<0x41>" }, { "id": 5, "content": "q" }]);
    let files = [("tokenizer.json", sentencepiece(vocab, added)), ("tokenizer_config.json", json!({ "bos_token": "<s>" }))];
    let equal = Options { equal_scores: true, ..Options::default() };
    for (options, unknown, scores) in [(equal, 1.0, [-1000.0; 6]), (Options::default(), 2.0, [0.0, 0.0, 0.0, 0.0, -1000.0, -1000.0])] {
        let folder = crate::tokenizer::folder(&files);
        let read = tokenizer::read(folder.path(), &json!({}), Kind::Llama, &options).unwrap();
        let metadata = read.keys();
        assert_eq!(texts(metadata, "tokenizer.ggml.tokens"), ["<unk>", "<0x0A>", "a", "<s>", "<0x41>", "q"]);
        assert_eq!(numbers(metadata, "tokenizer.ggml.token_type"), [unknown, 6.0, 1.0, 3.0, 4.0, 4.0]);
        assert_eq!(numbers(metadata, "tokenizer.ggml.scores"), scores);
    }

    // It is byte fallback and a decoder of several steps that make the style: each alone is byte-level BPE.
    for (key, value) in [("byte_fallback", json!(false)), ("type", json!("WordPiece"))] {
        let mut json = small(Json::Null);
        json["decoder"] = json!({ "type": "Sequence", "decoders": [] });
        json["model"]["byte_fallback"] = json!(true);
        json["model"][key] = value;
        let metadata = read(&[("tokenizer.json", json)], json!({}), Kind::Gemma3).unwrap();
        assert_eq!(metadata.get_str("tokenizer.ggml.model"), Some("gpt2"), "{key}");
    }
    let mut json = small(Json::Null);
    json["model"]["byte_fallback"] = json!(true);
    let metadata = read(&[("tokenizer.json", json.clone())], json!({}), Kind::Phi3).unwrap();
    assert_eq!(metadata.get_str("tokenizer.ggml.model"), Some("gpt2"));
    let error = read(&[("tokenizer.json", json)], json!({}), Kind::Gemma2).unwrap_err().to_string();
    assert!(error.contains("expected a tokenizer in tokenizer.model or tokenizer.json"), "{error}");
}

/// A folder's files with the SentencePiece model of 384 tokens.
fn with_model(files: &[(&str, Json)], config: Json, kind: Kind) -> Metadata {
    let folder = crate::tokenizer::folder(files);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizers/llama-spm/tokenizer.model");
    fs::copy(model, folder.path().join("tokenizer.model")).unwrap();
    tokenizer::read(folder.path(), &config, kind, &Options::default()).unwrap().keys().clone()
}

#[test]
fn a_sentencepiece_model_counts_for_more_than_a_tokenizer_json() {
    for kind in [Kind::SentencepieceOrBpe, Kind::Gemma3, Kind::Phi3] {
        let metadata = with_model(&[("tokenizer.json", small(Json::Null))], json!({}), kind);
        assert_eq!(metadata.get_str("tokenizer.ggml.model"), Some("llama"), "{kind:?}");
        assert_eq!(texts(&metadata, "tokenizer.ggml.tokens").len(), 384);
    }
    // A vocabulary size of zero is none.
    let metadata = with_model(&[], json!({ "vocab_size": 0 }), Kind::Gemma2);
    assert_eq!(texts(&metadata, "tokenizer.ggml.tokens").len(), 384);
}

#[test]
fn added_tokens_are_interpreted_but_for_phi_3() {
    let decoder = json!({ "added_tokens_decoder": {
        "380": { "content": "<|x|>", "special": false },
        "381": { "content": "\u{2581}y", "special": false },
        "382": { "content": "z", "special": true },
    } });
    for (kind, expected) in
        [(Kind::Gemma2, [("<|x|>", 3.0), (" y", 4.0), ("z", 3.0)]), (Kind::Phi3, [("<|x|>", 4.0), ("\u{2581}y", 4.0), ("z", 3.0)])]
    {
        let metadata = with_model(&[("tokenizer_config.json", decoder.clone())], json!({}), kind);
        let (texts, types) = (texts(&metadata, "tokenizer.ggml.tokens"), numbers(&metadata, "tokenizer.ggml.token_type"));
        for (id, (text, token_type)) in (380..).zip(expected) {
            assert_eq!((texts[id].as_str(), types[id]), (text, token_type), "{kind:?} {id}");
        }
    }
    // Phi-3 has those of tokenizer.json, too.
    let json = json!({ "added_tokens": [{ "id": 381, "content": "j", "special": true }], "model": { "type": "BPE", "vocab": { "a": 0 } } });
    for (kind, expected) in [(Kind::Phi3, true), (Kind::Gemma2, false)] {
        let metadata = with_model(&[("tokenizer.json", json.clone())], json!({}), kind);
        assert_eq!(texts(&metadata, "tokenizer.ggml.tokens")[381] == "j", expected, "{kind:?}");
    }
}

#[test]
fn special_tokens_past_the_vocabulary_of_a_sentencepiece_style_file_are_added() {
    let json = |vocab: Json| {
        json!({
            "added_tokens": [{ "id": 3, "content": "<x>", "special": true }],
            "decoder": { "type": "Sequence", "decoders": [] },
            "model": { "type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": ["a b"] },
        })
    };
    let files = [("tokenizer.json", json(json!({ "a": 0, "b": 1, "ab": 2 })))];
    let metadata = read(&files, json!({ "vocab_size": 5 }), Kind::Gemma2).unwrap();
    assert_eq!(texts(&metadata, "tokenizer.ggml.tokens"), ["a", "b", "ab", "<x>", "[PAD4]"]);
    assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type"), [1.0, 1.0, 1.0, 3.0, 5.0]);
    // 2097152 tokens are the most: the last id is one less.
    let error = read(&[("tokenizer.json", json(json!({ "a": 2_097_152 })))], json!({}), Kind::Gemma2).unwrap_err().to_string();
    assert!(error.contains("expected at most 2097152 tokens"), "{error}");
}

#[test]
fn merges_and_the_pre_tokenizer_come_from_other_files_where_there_is_no_json() {
    let merges = ("merges.txt", json!("a b\n# a\n"));
    let mut json = small(Json::Null);
    json["model"]["merges"] = json!([]);
    let metadata = read(&[("tokenizer.json", json), merges.clone()], json!({}), Kind::Bpe).unwrap();
    // Only a first line is a comment.
    assert_eq!(texts(&metadata, "tokenizer.ggml.merges"), ["a b", "# a"]);
    // Kinds of RoBERTa: byte-level with a tokenizer.json, WordPiece with a vocab.txt, whose pre-tokenizer is that of BERT's reference.
    let vocab = ("vocab.txt", json!("[PAD]\n[UNK]\nthe\n"));
    let metadata = read(&[("tokenizer.json", small(Json::Null))], json!({ "type_vocab_size": 2 }), Kind::Roberta).unwrap();
    assert_eq!((metadata.get_str("tokenizer.ggml.model"), metadata.get_u64("tokenizer.ggml.token_type_count")), (Some("gpt2"), Some(2)));
    let bert = format::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizers/bert/reference.gguf")).unwrap();
    for kind in [Kind::Roberta, Kind::Bert] {
        let metadata = read(std::slice::from_ref(&vocab), json!({}), kind).unwrap();
        for key in ["tokenizer.ggml.model", "tokenizer.ggml.pre"] {
            assert_eq!(metadata.get_str(key), bert.model().metadata.get_str(key), "{kind:?} {key}");
        }
    }
}

#[test]
fn the_config_may_have_several_chat_templates() {
    let templates = json!([{ "name": "default", "template": "plain" }, { "name": "tool_use", "template": "tools" }]);
    let files = [("tokenizer.json", small(Json::Null)), ("tokenizer_config.json", json!({ "chat_template": templates }))];
    let metadata = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(metadata.get_str("tokenizer.chat_template"), Some("plain"));
    assert_eq!(metadata.get_str("tokenizer.chat_template.tool_use"), Some("tools"));
}

#[test]
fn a_file_that_names_no_kind_is_told_by_its_vocabulary_and_merges() {
    // Old files of the tokenizers library have no type: merges make it BPE.
    let mut json = small(Json::Null);
    json["decoder"] = json!({ "type": "Sequence", "decoders": [] });
    json["model"] = json!({ "byte_fallback": true, "vocab": { "a": 0, "b": 1, "ab": 2 }, "merges": ["a b"] });
    json["added_tokens"] = json!([]);
    let model = |json: &Json| read(&[("tokenizer.json", json.clone())], json!({}), Kind::Gemma3).unwrap();
    assert_eq!(model(&json).get_str("tokenizer.ggml.model"), Some("llama"));
    json["model"]["merges"] = json!([]);
    assert_eq!(model(&json).get_str("tokenizer.ggml.model"), Some("gpt2"));
}

#[test]
fn a_summary_counts_the_tokens_of_every_kind_of_vocabulary() {
    for (vocab, tokens) in [(json!({ "a": 0, "b": 1, "c": 2 }), 3), (json!([["a", 0.0], ["b", -1.0]]), 2)] {
        let folder = crate::tokenizer::folder(&[("tokenizer.json", json!({ "model": { "type": "any", "vocab": vocab } }))]);
        assert_eq!(tokenizer::summary(folder.path()).unwrap().tokens, Some(tokens));
    }
}

#[test]
fn unigram_tokens_that_are_added_without_being_special_are_user_defined() {
    let json = json!({
        "added_tokens": [{ "id": 0, "content": "<s>", "special": true }, { "id": 4, "content": "x", "special": false }],
        "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAEC" },
        "model": { "type": "Unigram", "unk_id": 3, "vocab": [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["x", -2.5], ["y", -3.0]] },
    });
    let files = [("tokenizer.json", json), ("tokenizer_config.json", json!({ "bos_token": "<s>" }))];
    let metadata = read(&files, json!({}), Kind::XlmRoberta).unwrap();
    assert_eq!(numbers(&metadata, "tokenizer.ggml.token_type"), [3.0, 1.0, 1.0, 2.0, 4.0, 1.0]);
    assert_eq!(numbers(&metadata, "tokenizer.ggml.scores"), [0.0, 0.0, 0.0, 0.0, -2.5, -3.0]);
}

#[test]
fn what_is_no_vocabulary_and_no_merge_says_what_was_expected() {
    for (model, expected) in [
        (json!({ "type": "BPE", "vocab": 5 }), "a map of tokens to ids, or a list of tokens with scores"),
        (json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": 5 }), "a list of merges: \"left right\" or [\"left\", \"right\"]"),
        (json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": [5] }), "a merge: \"left right\" or [\"left\", \"right\"]"),
    ] {
        let error = read(&[("tokenizer.json", json!({ "model": model }))], json!({}), Kind::Bpe).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
}

/// A tokenizer of a GGUF: tokens with their scores and types.
fn gguf(model: &str, architecture: &str, tokens: &[(&str, f32, i32)], more: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(architecture.to_owned()));
    metadata.set("tokenizer.ggml.model", Value::String(model.to_owned()));
    metadata.set("tokenizer.ggml.pre", Value::String("default".to_owned()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::strings(tokens.iter().map(|(text, ..)| *text))));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::f32s(tokens.iter().map(|(_, score, _)| *score))));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::i32s(tokens.iter().map(|(.., token_type)| *token_type))));
    for (key, value) in more {
        metadata.set(format!("tokenizer.{key}"), value.clone());
    }
    metadata
}

/// The files that are written of a tokenizer.
fn written(metadata: &Metadata) -> BTreeMap<String, Vec<u8>> {
    let files = tokenizer::write(metadata, None).unwrap();
    let bytes = |content: &Content| if let Content::Bytes(bytes) = content { bytes.clone() } else { panic!("a copy") };
    files.iter().map(|file| (file.name.clone(), bytes(&file.content))).collect()
}

fn json_of(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Json {
    serde_json::from_slice(&files[name]).unwrap()
}

/// The fields of a protobuf message: numbers, and bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let (number, len) = match tag & 7 {
            0 => (varint(&mut message), 0),
            2 => (0, varint(&mut message) as usize),
            5 => (0, 4),
            other => panic!("wire type {other}"),
        };
        let (bytes, rest) = message.split_at(len);
        found.push((tag >> 3, number, bytes.to_vec()));
        message = rest;
    }
    found
}

/// A SentencePiece model by the numbers of sentencepiece_model.proto: its pieces (text, score, type), and the trainer's byte_fallback,
/// unk_id, bos_id, eos_id and pad_id.
fn sentencepiece(model: &[u8]) -> (Vec<(String, f32, u64)>, [i64; 5]) {
    let (mut pieces, mut trainer) = (Vec::new(), [0; 5]);
    for (field, _, bytes) in fields(model) {
        let inner = fields(&bytes);
        match field {
            1 => {
                let bytes_of = |number| inner.iter().find(|(field, ..)| *field == number).map(|(.., bytes)| bytes.clone()).unwrap();
                let token_type = inner.iter().find(|(field, ..)| *field == 3).map_or(1, |(_, number, _)| *number);
                let score = f32::from_le_bytes(bytes_of(2).try_into().unwrap());
                pieces.push((String::from_utf8(bytes_of(1)).unwrap(), score, token_type));
            }
            2 => {
                for (slot, number) in trainer.iter_mut().zip([35, 40, 41, 42, 43]) {
                    *slot = inner.iter().find(|(field, ..)| *field == number).map(|(_, number, _)| *number as i64).unwrap();
                }
            }
            _ => {}
        }
    }
    (pieces, trainer)
}

#[test]
fn a_sentencepiece_model_is_written_without_what_the_folder_adds() {
    let id = |id| Value::U32(id);
    let tokens = [
        ("<s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("\u{2581}a", -1.0, 1),
        // Only the model's own user-defined tokens have a score of plus zero; a run of spaces is one that the folder adds.
        ("zz", 0.0, 1),
        ("  ", -1000.0, 4),
        ("a b", -1000.0, 4),
        ("b", -2.0, 1),
        ("<x>", -1000.0, 3),
        ("[PAD10]", -10000.0, 5),
    ];
    let more =
        [("ggml.bos_token_id", id(0)), ("ggml.eos_token_id", id(2)), ("ggml.padding_token_id", id(9)), ("ggml.unknown_token_id", id(9))];
    let files = written(&gguf("llama", "llama", &tokens, &more));
    let (pieces, trainer) = sentencepiece(&files["tokenizer.model"]);
    let expected = [
        ("<s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("\u{2581}a", -1.0, 1),
        ("zz", 0.0, 4),
        ("\u{2581}\u{2581}", 0.0, 4),
        ("a b", 0.0, 4),
        ("b", -2.0, 1),
    ];
    assert_eq!(pieces, expected.map(|(text, score, token_type)| (text.to_owned(), score, token_type)));
    // byte_fallback, and the ids of unk, bos and eos; that of the padding is no token of the model.
    assert_eq!(trainer, [1, 1, 0, 2, -1]);
    let config = json_of(&files, "tokenizer_config.json");
    assert_eq!((&config["tokenizer_class"], &config["legacy"]), (&json!("LlamaTokenizer"), &json!(false)));
    let added: Vec<(&str, &Json, &Json)> = config["added_tokens_decoder"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, token)| (id.as_str(), &token["content"], &token["special"]))
        .collect();
    let text = |text: &str| json!(text);
    assert_eq!(
        added,
        [("6", &text("\u{2581}\u{2581}"), &json!(false)), ("7", &text("a b"), &json!(false)), ("9", &text("<x>"), &json!(true))]
    );

    // Without the role, the token of the type; without the type, the token of the name. Another token, if it has the role.
    let mut plain: Vec<_> = tokens[..9].to_vec();
    let files = written(&gguf("llama", "gemma2", &plain, &[]));
    assert_eq!(sentencepiece(&files["tokenizer.model"]).1, [1, 1, -1, -1, -1]);
    let config = json_of(&files, "tokenizer_config.json");
    assert_eq!((&config["tokenizer_class"], config.get("legacy")), (&json!("GemmaTokenizer"), None));
    assert_eq!(config["unk_token"], "<unk>");
    plain[1].2 = 1;
    plain[3] = ("c", -3.0, 1);
    assert_eq!(sentencepiece(&written(&gguf("llama", "llama", &plain, &[]))["tokenizer.model"]).1, [0, 1, -1, -1, -1]);
    let (pieces, trainer) =
        sentencepiece(&written(&gguf("llama", "llama", &plain, &[("ggml.unknown_token_id", id(4))]))["tokenizer.model"]);
    assert_eq!((&pieces[4], trainer), (&("\u{2581}a".to_owned(), 0.0, 2), [0, 4, -1, -1, -1]));
}

#[test]
fn a_vocabulary_without_scores_goes_to_a_tokenizer_json() {
    for (tokens, file) in [
        ([("a", -1.0, 1), ("b", 0.0, 1)], "tokenizer.model"),
        ([("a", 0.0, 1), ("b", 0.0, 1)], "tokenizer.json"),
        ([("a", -1000.0, 1), ("b", -1000.0, 1)], "tokenizer.json"),
        ([("a", 0.0, 1), ("<0x0A>", -1.0, 6)], "tokenizer.json"),
    ] {
        let files = written(&gguf("llama", "llama", &tokens, &[]));
        assert!(files.contains_key(file), "{tokens:?}: {:?}", files.keys());
    }
}

#[test]
fn merges_lead_to_the_tokens_in_the_order_of_the_converter_from_sentencepiece() {
    let (at_limit, longer) = (format!("a{}", "d".repeat(511)), format!("a{}", "d".repeat(512)));
    let (rest, longer_rest) = (&at_limit[1..], &longer[1..]);
    fn id_order<'a>(tokens: &[(&'a str, i32)]) -> Vec<(&'a str, f32, i32)> {
        tokens.iter().map(|&(text, token_type)| (text, 0.0, token_type)).collect()
    }
    type Case<'a> = (Vec<(&'a str, f32, i32)>, Vec<[&'a str; 2]>);
    let cases: [Case<'_>; 4] = [
        // By token, and by the ids of the left parts. The first has the score of zero, which the converter takes for none.
        (
            id_order(&[
                ("<unk>", 2),
                ("ab", 1),
                ("abc", 1),
                ("\u{2581}\u{2581}", 1),
                ("a", 1),
                ("b", 1),
                ("c", 1),
                ("\u{2581}", 1),
                ("bc", 1),
            ]),
            vec![["ab", "c"], ["a", "bc"], ["b", "c"], ["\u{2581}", "\u{2581}"]],
        ),
        // Runs of spaces come last, and keep the first token from being without a score.
        (
            id_order(&[("\u{2581}\u{2581}", 1), ("ab", 1), ("ba", 3), ("a", 1), ("b", 1), ("\u{2581}", 1)]),
            vec![["a", "b"], ["\u{2581}", "\u{2581}"]],
        ),
        (id_order(&[("a", 1), ("b", 1), ("ab", 1), ("ba", 1)]), vec![["b", "a"]]),
        // Tokens of more than 512 bytes are not taken apart.
        (id_order(&[("aa", 1), ("a", 1), (rest, 1), (&at_limit, 1), (longer_rest, 1), (&longer, 1)]), vec![["a", rest]]),
    ];
    for (tokens, expected) in cases {
        let json = json_of(&written(&gguf("llama", "llama", &tokens, &[])), "tokenizer.json");
        assert_eq!(json["model"]["merges"], json!(expected), "{tokens:?}");
    }
}

#[test]
fn merges_of_tokens_that_are_not_there_are_left_out() {
    let tokens = ["a", "b", "ab", "xb", "ay"].map(|text| (text, 0.0, 1));
    let merges = Value::Array(Array::strings(["a b", "x b", "a y", "b a"]));
    let files = written(&gguf("gpt2", "llama", &tokens, &[("ggml.merges", merges)]));
    assert_eq!(json_of(&files, "tokenizer.json")["model"]["merges"], json!([["a", "b"]]));
}

#[test]
fn padding_of_a_wordpiece_vocabulary_is_left_out() {
    let tokens = [("[PAD]", 0.0, 3), ("[UNK]", 0.0, 3), ("\u{2581}the", 0.0, 1), ("re", 0.0, 1), ("\u{2581}[PAD4]", 0.0, 5)];
    let files = written(&gguf("bert", "bert", &tokens, &[]));
    assert_eq!(files["vocab.txt"], b"[PAD]\n[UNK]\nthe\n##re\n");
}

#[test]
fn unigram_files_name_the_class_and_the_unknown_token() {
    let tokens = [("<s>", 0.0, 3), ("<unk>", 0.0, 2), ("a", -1.0, 1)];
    // An id past the vocabulary is none.
    for (architecture, class, unknown, unk) in [("t5", "T5Tokenizer", 3, 1), ("bert", "XLMRobertaTokenizer", 2, 2)] {
        let files = written(&gguf("t5", architecture, &tokens, &[("ggml.unknown_token_id", Value::U32(unknown))]));
        let model = &json_of(&files, "tokenizer.json")["model"];
        assert_eq!((&model["unk_id"], &model["byte_fallback"]), (&json!(unk), &json!(false)));
        assert_eq!(json_of(&files, "tokenizer_config.json")["tokenizer_class"], class);
    }
    let files = written(&gguf("t5", "t5", &[("<0x0A>", 0.0, 6)], &[]));
    assert_eq!(json_of(&files, "tokenizer.json")["model"]["byte_fallback"], true);
}

#[test]
fn configs_name_special_tokens_by_their_roles() {
    let tokens = [("a", 0.0, 1), ("<s>", 0.0, 3), ("<x>", 0.0, 3), ("<y>", 0.0, 4)];
    let template = |key: &'static str| (key, Value::String("text".to_owned()));
    let bos = ("ggml.bos_token_id", Value::U32(1));
    let files = written(&gguf("gpt2", "llama", &tokens, &[bos.clone(), template("chat_template")]));
    let config = json_of(&files, "tokenizer_config.json");
    assert_eq!((&config["bos_token"], &config["additional_special_tokens"]), (&json!("<s>"), &json!(["<x>"])));
    assert_eq!(config["chat_template"], "text");
    let special: Vec<_> = ["1", "2", "3"].map(|id| config["added_tokens_decoder"][id]["special"].as_bool().unwrap()).to_vec();
    assert_eq!(special, [true, true, false]);
    assert_eq!(json_of(&files, "special_tokens_map.json"), json!({ "bos_token": "<s>", "additional_special_tokens": ["<x>"] }));

    let config = json_of(&written(&gguf("gpt2", "llama", &tokens[..2], &[bos])), "tokenizer_config.json");
    assert!(config.get("additional_special_tokens").is_none() && config.get("chat_template").is_none(), "{config}");
    let tools = [("chat_templates", Value::Array(Array::strings(["tools"]))), template("chat_template.tools")];
    let config = json_of(&written(&gguf("gpt2", "llama", &tokens, &tools)), "tokenizer_config.json");
    assert_eq!(config["chat_template"], json!([{ "name": "tools", "template": "text" }]));
}

#[test]
fn flags_go_to_the_post_processor_and_what_it_cannot_say_to_the_config() {
    let (yes, no) = (Some(true), Some(false));
    let tokens = [("a", 0.0, 1), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<sep>", 0.0, 3)];
    for (flags, steps, told) in [
        ([yes, no, None], "ByteLevel Template(<s> A|<s> A B)", ""),
        ([no, no, None], "ByteLevel", ""),
        ([yes, None, None], "Template(<s> A|<s> A B)", ""),
        ([None, yes, None], "Template(A </s>|A B </s>)", ""),
        ([no, None, None], "", "-bos -eos"),
        ([None, no, None], "", "-bos -eos"),
        ([None, None, None], "", ""),
        ([yes, no, yes], "ByteLevel Template(<s> A|<s> A <sep> B)", ""),
        ([yes, yes, yes], "ByteLevel Template(<s> A </s>|<s> A <sep> <sep> B </s>)", ""),
        ([no, no, yes], "ByteLevel", "+sep"),
    ] {
        let mut more =
            vec![("ggml.bos_token_id", Value::U32(1)), ("ggml.eos_token_id", Value::U32(2)), ("ggml.seperator_token_id", Value::U32(3))];
        for (key, flag) in ["ggml.add_bos_token", "ggml.add_eos_token", "ggml.add_sep_token"].into_iter().zip(flags) {
            more.extend(flag.map(|flag| (key, Value::Bool(flag))));
        }
        let files = written(&gguf("gpt2", "llama", &tokens, &more));
        let (json, config) = (json_of(&files, "tokenizer.json"), json_of(&files, "tokenizer_config.json"));
        let processor = &json["post_processor"];
        let one = |step: &Json| {
            let list = |key: &str| {
                let id = |part: &Json| part.as_object().unwrap().values().next().unwrap()["id"].as_str().unwrap().to_owned();
                step[key].as_array().unwrap().iter().map(id).collect::<Vec<_>>().join(" ")
            };
            match step["type"].as_str() {
                Some("TemplateProcessing") => format!("Template({}|{})", list("single"), list("pair")),
                other => other.unwrap_or_default().to_owned(),
            }
        };
        let found = match processor["processors"].as_array() {
            Some(all) => all.iter().map(one).collect::<Vec<_>>().join(" "),
            None => one(processor),
        };
        assert_eq!(found, steps, "{flags:?}");
        let said = |name: &str| {
            let add = config.get(format!("add_{name}_token"))?.as_bool()?;
            Some(format!("{}{name}", if add { '+' } else { '-' }))
        };
        assert_eq!(["bos", "eos", "sep"].into_iter().filter_map(said).collect::<Vec<_>>().join(" "), told, "{flags:?}");
    }
}

#[test]
fn an_added_token_that_another_text_decodes_to_keeps_its_text() {
    // In byte-level BPE, \u{f5} is the character of a byte that is no text.
    let tokens = [("a", 0.0, 1), ("\u{f5}", 0.0, 4), ("\u{120}q", 0.0, 4), ("<x>", 0.0, 4)];
    let mut metadata = gguf("gpt2", "llama", &tokens, &[]);
    metadata.set("tokenizer.ggml.pre", Value::String("gpt-2".to_owned()));
    let files: Vec<(String, Json)> =
        written(&metadata).iter().map(|(name, bytes)| (name.clone(), serde_json::from_slice(bytes).unwrap())).collect();
    let files: Vec<(&str, Json)> = files.iter().map(|(name, json)| (name.as_str(), json.clone())).collect();
    let again = read(&files, json!({}), Kind::Bpe).unwrap();
    assert_eq!(texts(&again, "tokenizer.ggml.tokens"), ["a", "\u{f5}", "\u{120}q", "<x>"]);
    assert_eq!(numbers(&again, "tokenizer.ggml.token_type"), [1.0, 4.0, 4.0, 4.0]);
}

#[test]
fn a_sentencepiece_model_has_one_unknown_piece() {
    // As in older GGUF files of Phi-3.
    let tokens = [("<unk>", 0.0, 3), ("a", -1.0, 1), ("<x>", -1000.0, 3), ("[PAD3]", -10000.0, 2), ("[PAD4]", -10000.0, 2)];
    let files = written(&gguf("llama", "phi3", &tokens, &[("ggml.unknown_token_id", Value::U32(0))]));
    let (pieces, trainer) = sentencepiece(&files["tokenizer.model"]);
    let types: Vec<u64> = pieces.iter().map(|(.., token_type)| *token_type).collect();
    assert_eq!((types, trainer[1]), (vec![2, 1, 3, 5, 5], 0));
}
