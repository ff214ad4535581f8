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
    /// Models (`model_type` or class in config.json) with a separate name for the same steps.
    models: &'static [(&'static str, &'static str)],
    /// Further names for the same steps, found only in GGUF files.
    aliases: &'static [&'static str],
}

/// A pseudo-step for `ignore_merges`: a word that is a token is not split by merges.
const WHOLE_WORDS: &str = "whole words";

/// A pseudo-step for a normalizer that spells spaces as U+2581: SentencePiece-style BPE that keeps its merges.
const ESCAPED: &str = "spaces as \u{2581}";

/// Splits digits into groups of three, counted from the last.
const DIGIT_GROUPS: &str = r"split \d{1,3}(?=(?:\d{3})*\b)";

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
const JAIS2: &str = r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const SEED_CODER: &str =
    r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"split '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"split [^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"split [\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SPARK: &str =
    r##"split [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const YOUTU_SCRIPTS: &str = "split [\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const YOUTU: &str = r"split [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const AFMOE_SCRIPTS: &str = "split [\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";
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
            ("lfm2_moe", "lfm2"),
            ("lfm2_vl", "lfm2"),
            ("glm", "glm4"),
            ("glm4", "glm4"),
            ("glm4_moe", "glm4"),
            ("glm4_moe_lite", "glm4"),
            ("glm4v", "glm4"),
            ("glm4v_moe", "glm4"),
            ("glm_ocr", "glm4"),
            ("glm_moe_dsa", "glm4"),
            ("glm5_next", "glm4"),
            ("chatglm", "chatglm-bpe"),
            ("pixtral", "pixtral"),
            ("falcon_h1", "falcon-h1"),
        ],
        aliases: &["llama3", "llama-v3", "falcon3", "midm-2.0", "jina-v5-nano", "glm5"],
    },
    Row {
        steps: &[LLAMA3, "bytes"],
        name: "dbrx",
        models: &[
            ("glm", "glm4"),
            ("glm4", "glm4"),
            ("glm4_moe", "glm4"),
            ("glm4_moe_lite", "glm4"),
            ("glm4v", "glm4"),
            ("glm4v_moe", "glm4"),
            ("glm_ocr", "glm4"),
            ("glm_moe_dsa", "glm4"),
            ("glm5_next", "glm4"),
            ("chatglm", "chatglm-bpe"),
        ],
        aliases: &["smaug-bpe"],
    },
    Row {
        steps: &[QWEN2, "bytes"],
        name: "qwen2",
        models: &[
            ("stablelm", "stablelm2"),
            ("stablelm_epoch", "stablelm2"),
            ("hunyuan_v1_moe", "hunyuan"),
            ("hunyuan", "hunyuan"),
            ("megrez_moe", "megrez"),
            ("kormo", "kormo"),
            ("solar_open", "solar-open"),
            ("Grok1ForCausalLM", "grok-2"),
        ],
        aliases: &["deepseek-r1-qwen", "f2llmv2"],
    },
    Row { steps: &[QWEN35, "bytes"], name: "qwen35", models: &[], aliases: &[] },
    Row { steps: &[TEKKEN, "bytes"], name: "tekken", models: &[], aliases: &[] },
    Row {
        steps: &[GPT4O, "bytes"],
        name: "gpt-4o",
        models: &[
            ("llama4", "llama4"),
            ("llama4_text", "llama4"),
            ("minimax_m2", "minimax-m2"),
            ("modernbert", "granite-embed-multi-97m"),
            ("talkie", "talkie"),
        ],
        aliases: &["kanana2"],
    },
    Row {
        steps: &[r"split \p{N}{1,3}", CJK, DEEPSEEK3, "bytes"],
        name: "deepseek-v3",
        models: &[("hunyuan_v1_dense", "hunyuan-dense"), ("hunyuan_vl", "hunyuan-dense"), ("hy_v4", "hy_v4")],
        aliases: &["joyai-llm"],
    },
    Row { steps: &[r"split \p{N}{1,3}", CJK, SPARK, "each digit", "bytes"], name: "spark2_5", models: &[], aliases: &[] },
    Row { steps: &[r"split \p{N}{1,3}", CJK, SPARK, r"split \p{N}", "bytes"], name: "spark2_5", models: &[], aliases: &[] },
    Row { steps: &[DIGIT_GROUPS, AFMOE_SCRIPTS, DEEPSEEK3, "bytes"], name: "afmoe", models: &[], aliases: &[] },
    Row { steps: &[WHOLE_WORDS, YOUTU_SCRIPTS, YOUTU, "bytes"], name: "youtu", models: &[], aliases: &[] },
    Row { steps: &[YOUTU_SCRIPTS, YOUTU, "bytes"], name: "youtu", models: &[], aliases: &[] },
    Row { steps: &[DIGIT_GROUPS, GPT4O, "bytes"], name: "tiny_aya", models: &[("cohere2_moe", "cohere2moe")], aliases: &[] },
    Row { steps: &[WHOLE_WORDS, r"split \p{N}{1,3}", MINICPM5, "bytes"], name: "minicpm5", models: &[], aliases: &[] },
    Row { steps: &[r"split \p{N}{1,3}", MINICPM5, "bytes"], name: "minicpm5", models: &[], aliases: &[] },
    Row { steps: &[r"split \p{N}+", r"split (?=(\d{3})+(?!\d))", "bytes"], name: "superbpe", models: &[], aliases: &[] },
    Row { steps: &[r"split [^\n]+|[\n]+", QWEN2, "bytes"], name: "laguna", models: &[], aliases: &[] },
    Row { steps: &[JAIS2, "bytes"], name: "jais-2", models: &[], aliases: &[] },
    Row { steps: &[SEED_CODER, "bytes"], name: "seed-coder", models: &[], aliases: &[] },
    Row {
        steps: &[BAILING, "bytes"],
        name: "bailingmoe",
        models: &[
            ("BailingMoeV2ForCausalLM", "bailingmoe2"),
            ("bailing_moe_v2", "bailingmoe2"),
            ("bailing_moe_linear", "bailingmoe2"),
            ("llada", "llada-moe"),
        ],
        aliases: &[],
    },
    Row { steps: &[EXAONE_MOE, "bytes"], name: "exaone-moe", models: &[], aliases: &[] },
    Row { steps: &[UFAKZEKA, "bytes"], name: "ufakzeka", models: &[], aliases: &[] },
    Row { steps: &[KIMI, "bytes"], name: "kimi-k2", models: &[], aliases: &[] },
    Row {
        steps: &[
            r"split <sentinel:[0-9]+>",
            "split (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"split ([\t\n]|    |  )",
            "each digit",
            "punctuation Isolated",
            "bytes and words",
        ],
        name: "chameleon",
        models: &[],
        aliases: &[],
    },
    Row {
        steps: &[ESCAPED],
        name: "gemma4",
        models: &[("modernbert", "granite-embed-multi-311m"), ("sarvam_moe", "sarvam-moe")],
        aliases: &[],
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
            ("mellum", "mellum2"),
        ],
        aliases: &["minerva-7b"],
    },
    Row {
        steps: &["bytes and words"],
        name: "gpt-2",
        models: &[
            ("phi", "phi-2"),
            ("idefics3", "granite-docling"),
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
        // A compatibility ideograph in AFMoE's pattern, in the form that Unicode normalisation gives it.
        .replace('\u{8c48}', "\u{f900}")
        .replace("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", "'(?i:[sdmt]|ll|ve|re)")
        .replace("]?+", "]?")
        .replace("]++", "]+")
}

/// Whether a normalizer spells spaces as U+2581, and adds none in front.
fn escapes(normalizer: &Value) -> bool {
    let text = |key: &str| normalizer.get(key).and_then(Value::as_str);
    match text("type") {
        Some("Sequence") => {
            let steps = normalizer.get("normalizers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            steps.iter().any(escapes) && !steps.iter().any(|step| step.get("type").and_then(Value::as_str) == Some("Prepend"))
        }
        Some("Replace") => is_space(normalizer) && text("content") == Some("\u{2581}"),
        _ => false,
    }
}

/// Whether the pattern of a step is a single space.
fn is_space(step: &Value) -> bool {
    let pattern = step.get("pattern");
    pattern.and_then(|pattern| pattern.get("String").or_else(|| pattern.get("Regex"))).and_then(Value::as_str) == Some(" ")
}

/// Returns llama.cpp's name for a pre-tokenizer.
///
/// `models`: the model's type and classes, which distinguish names for the same steps.
///
/// # Errors
/// llama.cpp has no pre-tokenizer with these steps.
pub(super) fn name(normalizer: &Value, pre_tokenizer: &Value, ignore_merges: bool, models: &[&str]) -> Result<&'static str> {
    let mut found = Vec::new();
    steps(pre_tokenizer, &mut found);
    if escapes(normalizer) {
        // After the normalizer, there is no space at which to split.
        found.retain(|step| !step.starts_with("split  "));
        found.insert(0, ESCAPED.to_owned());
    }
    let row = TABLE.iter().find(|row| row.fits(&found, ignore_merges));
    if let Some(row) = row {
        let own = row.models.iter().find(|(model, _)| models.contains(model));
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
    /// Whether tokens are spelled as in SentencePiece, rather than by the alphabet of byte-level BPE.
    pub(super) escaped: bool,
}

/// Pre-tokenizers whose `tokenizer.json` normalises to Unicode NFC; llama.cpp does not normalise.
const COMPOSED: &[&str] = &["qwen2", "qwen35", "stablelm2", "command-r", "deepseek-r1-qwen"];

/// llama.cpp pre-tokenizers that imply `ignore_merges`, in addition to the rows with that pseudo-step.
const TAKES_WORDS_WHOLE: &[&str] = &["tekken", "granite-embed-multi-97m"];

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
        ESCAPED => json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        "punctuation Contiguous" => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        "punctuation Isolated" => json!({"type": "Punctuation", "behavior": "Isolated"}),
        other => match other.strip_prefix("split ") {
            Some(pattern) => json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
            None => json!({"type": other}),
        },
    };
    let mut steps: Vec<Value> = steps.iter().map(step).collect();
    let pre_tokenizer = if steps.len() == 1 { steps.remove(0) } else { json!({"type": "Sequence", "pretokenizers": steps}) };
    let escaped = row.steps == [ESCAPED];
    let normalizer = match escaped {
        true => json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}),
        false if COMPOSED.contains(&name) => json!({"type": "NFC"}),
        false => Value::Null,
    };
    Some(Spelt { normalizer, pre_tokenizer, ignore_merges: whole, escaped })
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
            for (model, name) in row.models.iter().copied().chain([("", row.name)]) {
                if !own(name) {
                    continue;
                }
                let spelt = by_name(name).unwrap();
                assert_eq!(super::name(&spelt.normalizer, &spelt.pre_tokenizer, spelt.ignore_merges, &[model]).unwrap(), name);
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
            assert_eq!(name(&Value::Null, &pre, true, &[]).unwrap(), "llama-bpe");
            assert_eq!(name(&Value::Null, &pre, true, &["falcon_h1"]).unwrap(), "falcon-h1");
            assert_eq!(name(&Value::Null, &pre, false, &[]).unwrap(), "dbrx");
        }
        let inverted = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true});
        assert_eq!(name(&Value::Null, &sequence(&[inverted, bytes]), true, &[]).unwrap(), "llama-bpe");
    }

    #[test]
    fn an_unknown_pattern_is_shown_with_a_hint() {
        let error = name(&Value::Null, &sequence(&[split("[xyz]+"), json!({"type": "Digits"})]), false, &[]).unwrap_err();
        assert!(error.to_string().contains("split [xyz]+ then digits"), "{error}");
        assert_eq!(error.hints(), [Hint::NamePreTokenizer]);
        assert!(name(&Value::Null, &Value::Null, false, &[]).unwrap_err().to_string().contains("no steps"));
    }

    #[test]
    fn every_name_of_llama_cpp_is_known() {
        // Those that its converter writes (`get_vocab_base_pre` in conversion/base.py) and its loader reads (src/llama-vocab.cpp).
        let names = [
            "a.x-4.0",
            "afmoe",
            "bailingmoe",
            "bailingmoe2",
            "bert-bge",
            "bert-bge-large",
            "bloom",
            "chameleon",
            "chatglm-bpe",
            "codeshell",
            "cohere2moe",
            "command-r",
            "dbrx",
            "deepseek-coder",
            "deepseek-llm",
            "deepseek-r1-qwen",
            "deepseek-v3",
            "default",
            "exaone",
            "exaone-moe",
            "exaone4",
            "f2llmv2",
            "falcon",
            "falcon-h1",
            "falcon3",
            "gemma4",
            "gigachat",
            "glm4",
            "glm5",
            "gpt-2",
            "gpt-4o",
            "gpt3-finnish",
            "granite-docling",
            "granite-embed-multi-311m",
            "granite-embed-multi-97m",
            "grok-2",
            "hunyuan",
            "hunyuan-dense",
            "hy_v4",
            "jais",
            "jais-2",
            "jina-de",
            "jina-es",
            "jina-v1-en",
            "jina-v2-code",
            "jina-v2-de",
            "jina-v2-en",
            "jina-v2-es",
            "jina-v5-nano",
            "joyai-llm",
            "kanana2",
            "kimi-k2",
            "kormo",
            "laguna",
            "lfm2",
            "llada-moe",
            "llama-bpe",
            "llama-v3",
            "llama3",
            "llama4",
            "megrez",
            "mellum",
            "mellum2",
            "midm-2.0",
            "minerva-7b",
            "minicpm5",
            "minimax-m2",
            "modern-bert",
            "mpt",
            "olmo",
            "phi-2",
            "pixtral",
            "poro-chat",
            "qwen2",
            "qwen35",
            "refact",
            "roberta-bpe",
            "sarvam-moe",
            "seed-coder",
            "smaug-bpe",
            "smollm",
            "solar-open",
            "spark2_5",
            "stablelm2",
            "starcoder",
            "superbpe",
            "talkie",
            "tekken",
            "tiny_aya",
            "trillion",
            "ufakzeka",
            "viking",
            "whitespace",
            "youtu",
        ];
        for name in names {
            assert!(by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn sentencepiece_style_bpe_has_names_by_model() {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
        for (model, expected) in [("hrm_text", "gemma4"), ("modernbert", "granite-embed-multi-311m"), ("sarvam_moe", "sarvam-moe")] {
            for pre_tokenizer in [&split, &Value::Null] {
                assert_eq!(name(&replace, pre_tokenizer, false, &[model]).unwrap(), expected);
            }
        }
        // llama.cpp would not add the space in front.
        let prepend = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]});
        assert!(name(&prepend, &Value::Null, false, &[]).is_err());
    }
}
