//! `tokenizer.ggml.pre`: finds llama.cpp's equivalent of a pre-tokenizer in `tokenizer.json`.
//!
//! llama.cpp's converter identifies it by a hash of a text tokenized with the whole vocabulary, and fails for unknown vocabularies. Here it
//! is identified by its steps, which split text before the model runs.
//! Names and patterns: `llm_tokenizer_bpe` and `llama_vocab::impl::load` in src/llama-vocab.cpp.

use serde_json::{Value, json};

use crate::base::text::shorten_to;
use crate::base::{Error, Hint, Result};

/// A table row: pre-tokenizer steps, and llama.cpp's name for them.
struct Row {
    /// The normalised steps, as returned by [`steps`].
    steps: &'static [&'static str],
    name: &'static str,
    /// Models (`model_type` in config.json) with a separate name for the same steps.
    models: &'static [(&'static str, &'static str)],
    /// Further names for the same steps, found only in GGUF files.
    aliases: &'static [&'static str],
}

/// A pseudo-step for `ignore_merges`: a word that is a token is not split by merges.
const WHOLE_WORDS: &str = "whole words";

const LLAMA3: &str =
    r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str =
    r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"split [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"split [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"split [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const CJK: &str = "split [一-龥\u{3040}-ゟ゠-ヿ]+";
const CJK_HANGUL: &str = "split [一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK_LETTERS: &str = r"split \s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_MARKS: &str = r"split \s?[!-/:-~！-／：-～‘-‟　-。]+";
const GPT2: &str = r"split 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const BLOOM: &str = r"split  ?[^(\s|[.,!?…。，、।۔،])]+";

/// llama.cpp's pre-tokenizer if a GGUF does not name one.
pub(super) const DEFAULT: &str = "default";

/// The name for all WordPiece tokenizers of BERT models: llama.cpp splits these in code, whatever the name.
pub(super) const WORDPIECE: &str = "jina-v2-en";

/// The rows in the order in which they are tried.
static TABLE: &[Row] = &[
    Row {
        steps: &[WHOLE_WORDS, LLAMA3, "bytes"],
        name: "llama-bpe",
        models: &[
            ("lfm2", "lfm2"),
            ("glm", "glm4"),
            ("glm4", "glm4"),
            ("glm4_moe", "glm4"),
            ("chatglm", "chatglm-bpe"),
            ("pixtral", "pixtral"),
            ("falcon_h1", "falcon-h1"),
        ],
        aliases: &["llama3", "llama-v3", "falcon3", "midm-2.0", "jina-v5-nano"],
    },
    Row {
        steps: &[LLAMA3, "bytes"],
        name: "dbrx",
        models: &[("glm", "glm4"), ("glm4", "glm4"), ("glm4_moe", "glm4"), ("chatglm", "chatglm-bpe")],
        aliases: &["smaug-bpe"],
    },
    Row {
        steps: &[QWEN2, "bytes"],
        name: "qwen2",
        models: &[("stablelm", "stablelm2"), ("hunyuan_v1_moe", "hunyuan"), ("megrez_moe", "megrez")],
        aliases: &["deepseek-r1-qwen", "kormo", "f2llmv2", "grok-2", "solar-open"],
    },
    Row { steps: &[QWEN35, "bytes"], name: "qwen35", models: &[], aliases: &[] },
    Row { steps: &[TEKKEN, "bytes"], name: "tekken", models: &[], aliases: &[] },
    Row {
        steps: &[GPT4O, "bytes"],
        name: "gpt-4o",
        models: &[("llama4", "llama4"), ("minimax_m2", "minimax-m2")],
        aliases: &["kanana2", "talkie"],
    },
    Row {
        steps: &[r"split \p{N}{1,3}", CJK, DEEPSEEK3, "bytes"],
        name: "deepseek-v3",
        models: &[("hunyuan_v1_dense", "hunyuan-dense")],
        aliases: &["joyai-llm"],
    },
    Row {
        steps: &[r"split [\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"split \s+$", CJK_HANGUL, "each digit", "bytes"],
        name: "deepseek-llm",
        models: &[],
        aliases: &[],
    },
    Row {
        steps: &[r"split [\r\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", CJK_HANGUL, "each digit", "bytes"],
        name: "deepseek-coder",
        models: &[],
        aliases: &[],
    },
    Row {
        steps: &["each digit", "bytes and words"],
        name: "smollm",
        models: &[
            ("starcoder2", "starcoder"),
            ("gpt_bigcode", "starcoder"),
            ("granite", "refact"),
            ("granitemoe", "refact"),
            ("granitemoeshared", "refact"),
            ("cohere", "command-r"),
            ("cohere2", "command-r"),
            ("exaone", "exaone"),
            ("codeshell", "codeshell"),
        ],
        aliases: &["minerva-7b", "mellum2"],
    },
    Row {
        steps: &["bytes and words"],
        name: "gpt-2",
        models: &[
            ("phi", "phi-2"),
            ("olmo", "olmo"),
            ("mpt", "mpt"),
            ("roberta", "roberta-bpe"),
            ("modernbert", "modern-bert"),
            ("jais", "jais"),
            ("exaone4", "exaone4"),
        ],
        aliases: &[
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "trillion",
            "granite-docling",
        ],
    },
    Row {
        steps: &["punctuation Contiguous", "bytes and words", "digits", "split [0-9][0-9][0-9]"],
        name: "falcon",
        models: &[],
        aliases: &[],
    },
    Row {
        steps: &[r"split [\p{P}\$\+<=>\^~\|]+", GPT2, r"split \p{N}+", "split [0-9][0-9][0-9]", "bytes"],
        name: DEFAULT,
        models: &[],
        aliases: &[],
    },
    Row { steps: &[BLOOM, "bytes"], name: "bloom", models: &[], aliases: &["poro-chat", "gpt3-finnish"] },
    Row { steps: &[BLOOM, "each digit", "bytes"], name: "viking", models: &[], aliases: &[] },
    Row { steps: &["BertPreTokenizer"], name: WORDPIECE, models: &[], aliases: &["bert-bge", "bert-bge-large"] },
    Row { steps: &["Whitespace"], name: "whitespace", models: &[], aliases: &[] },
];

impl Row {
    fn fits(&self, found: &[String], ignore_merges: bool) -> bool {
        let steps = match self.steps {
            [WHOLE_WORDS, steps @ ..] if ignore_merges => steps,
            steps => steps,
        };
        steps.iter().eq(found)
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name) || self.models.iter().any(|(_, other)| *other == name)
    }
}

/// Maximum length of each step in an error message, in characters.
const SHOWN_CHARS: usize = 400;

/// Appends the steps of a pre-tokenizer in normalised spelling.
fn steps(pre_tokenizer: &Value, out: &mut Vec<String>) {
    let text = |key: &str| pre_tokenizer.get(key).and_then(Value::as_str).unwrap_or_default();
    let flag = |key: &str| pre_tokenizer.get(key).and_then(Value::as_bool);
    match text("type") {
        "" => {}
        "Sequence" => {
            for step in pre_tokenizer.get("pretokenizers").and_then(Value::as_array).into_iter().flatten() {
                steps(step, out);
            }
        }
        "Split" => {
            let pattern = pre_tokenizer.get("pattern");
            let pattern = pattern.and_then(|pattern| pattern.get("Regex").or_else(|| pattern.get("String"))).and_then(Value::as_str);
            let pattern = one_spelling(pattern.unwrap_or_default());
            // Keeping the matches as separate pieces equals removing everything else if the pattern matches everything.
            match (text("behavior"), flag("invert").unwrap_or(false)) {
                ("Isolated", false) | ("Removed", true) => out.push(format!("split {pattern}")),
                (behavior, invert) => out.push(format!("split {pattern} {behavior}{}", if invert { " inverted" } else { "" })),
            }
        }
        "ByteLevel" => out.push(if flag("use_regex") == Some(false) { "bytes" } else { "bytes and words" }.to_owned()),
        "Digits" => out.push(if flag("individual_digits") == Some(true) { "each digit" } else { "digits" }.to_owned()),
        "Punctuation" => out.push(format!("punctuation {}", text("behavior"))),
        other => out.push(other.to_owned()),
    }
}

/// Normalises equivalent spellings of contractions and repetitions in a pattern.
fn one_spelling(pattern: &str) -> String {
    pattern
        .replace(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)")
        .replace(r"\p{N}{1}", r"\p{N}")
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace("]?+", "]?")
        .replace("]++", "]+")
}

/// Returns llama.cpp's name for a pre-tokenizer.
///
/// # Errors
/// llama.cpp has no pre-tokenizer with these steps.
pub(super) fn name(pre_tokenizer: &Value, ignore_merges: bool, model_type: Option<&str>) -> Result<&'static str> {
    let mut found = Vec::new();
    steps(pre_tokenizer, &mut found);
    let row = TABLE.iter().find(|row| row.fits(&found, ignore_merges));
    if let Some(row) = row {
        let own = row.models.iter().find(|(model, _)| Some(*model) == model_type);
        return Ok(own.map_or(row.name, |(_, name)| name));
    }
    let shown: Vec<_> = found.iter().map(|step| shorten_to(step, SHOWN_CHARS)).collect();
    let shown = if shown.is_empty() { "no steps".to_owned() } else { shown.join(" then ") };
    Err(Error::unsupported(format!("llama.cpp has no known equivalent of this pre-tokenizer: {shown}")).hint(Hint::NamePreTokenizer))
}

/// A pre-tokenizer as fields of `tokenizer.json`.
#[derive(Debug)]
pub(super) struct Spelt {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    /// Whether a word that is a token is not split by merges.
    pub(super) ignore_merges: bool,
}

/// Pre-tokenizers whose `tokenizer.json` normalises to Unicode NFC; llama.cpp does not normalise.
const COMPOSED: &[&str] = &["qwen2", "qwen35", "stablelm2", "command-r", "deepseek-r1-qwen"];

/// llama.cpp pre-tokenizers that imply `ignore_merges`, in addition to the rows with that pseudo-step.
const TAKES_WORDS_WHOLE: &[&str] = &["tekken"];

/// Returns the `tokenizer.json` fields of the pre-tokenizer with this name.
pub(super) fn by_name(name: &str) -> Option<Spelt> {
    let row = TABLE.iter().find(|row| row.is_called(name))?;
    let (whole, steps) = match row.steps {
        [WHOLE_WORDS, steps @ ..] => (true, steps),
        steps => (TAKES_WORDS_WHOLE.contains(&name), steps),
    };
    let bytes = |words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words});
    let step = |step: &&str| match *step {
        "bytes" => bytes(false),
        "bytes and words" => bytes(true),
        "digits" => json!({"type": "Digits", "individual_digits": false}),
        "each digit" => json!({"type": "Digits", "individual_digits": true}),
        "punctuation Contiguous" => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        other => match other.strip_prefix("split ") {
            Some(pattern) => json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
            None => json!({"type": other}),
        },
    };
    let mut steps: Vec<Value> = steps.iter().map(step).collect();
    let pre_tokenizer = if steps.len() == 1 { steps.remove(0) } else { json!({"type": "Sequence", "pretokenizers": steps}) };
    let normalizer = if COMPOSED.contains(&name) { json!({"type": "NFC"}) } else { Value::Null };
    Some(Spelt { normalizer, pre_tokenizer, ignore_merges: whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pattern: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    fn sequence(steps: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    #[test]
    fn every_row_is_distinct() {
        for row in TABLE {
            let found: Vec<String> = row.steps.iter().filter(|step| **step != WHOLE_WORDS).map(|step| (*step).to_owned()).collect();
            let whole = row.steps[0] == WHOLE_WORDS;
            let first = TABLE.iter().find(|other| other.fits(&found, whole)).unwrap();
            assert_eq!(first.name, row.name);
        }
    }

    #[test]
    fn every_name_round_trips() {
        for row in TABLE {
            // A name in two rows uses the first.
            let own = |name: &str| TABLE.iter().find(|row| row.is_called(name)).is_some_and(|first| first.name == row.name);
            for (model, name) in row.models.iter().map(|(model, name)| (Some(*model), *name)).chain([(None, row.name)]) {
                if !own(name) {
                    continue;
                }
                let spelt = by_name(name).unwrap();
                assert_eq!(super::name(&spelt.pre_tokenizer, spelt.ignore_merges, model).unwrap(), name);
            }
            for alias in row.aliases {
                assert!(by_name(alias).is_some());
            }
        }
        assert!(by_name("no such").is_none());
    }

    #[test]
    fn a_llama_3_pattern_is_recognised_in_both_spellings_with_and_without_merges() {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        let pattern = LLAMA3.strip_prefix("split ").unwrap();
        let spelt_out = pattern.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");
        for pattern in [pattern, &spelt_out] {
            let pre = sequence(&[split(pattern), bytes.clone()]);
            assert_eq!(name(&pre, true, None).unwrap(), "llama-bpe");
            assert_eq!(name(&pre, true, Some("falcon_h1")).unwrap(), "falcon-h1");
            assert_eq!(name(&pre, false, None).unwrap(), "dbrx");
        }
        let inverted = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true});
        assert_eq!(name(&sequence(&[inverted, bytes]), true, None).unwrap(), "llama-bpe");
    }

    #[test]
    fn an_unknown_pattern_is_shown_with_a_hint() {
        let error = name(&sequence(&[split("[xyz]+"), json!({"type": "Digits"})]), false, None).unwrap_err();
        assert!(error.to_string().contains("split [xyz]+ then digits"), "{error}");
        assert_eq!(error.hints(), [Hint::NamePreTokenizer]);
        assert!(name(&Value::Null, false, None).unwrap_err().to_string().contains("no steps"));
    }
}
