//! The set of architecture tables: the embedded ones, which are parsed on demand, and custom ones.

use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use crate::base::{Error, Hint, Result, text};
use crate::family::sections::text_section;
use crate::family::table::Table;
use crate::source::place;

/// The embedded tables: name and text. Names starting with `_` are base tables.
static EMBEDDED: &[(&str, &str)] = &[
    ("_names", include_str!("tables/_names.toml")),
    ("_text", include_str!("tables/_text.toml")),
    ("_mmproj", include_str!("tables/_mmproj.toml")),
    ("_mmproj-siglip", include_str!("tables/_mmproj-siglip.toml")),
    ("_mmproj-audio", include_str!("tables/_mmproj-audio.toml")),
    ("llama", include_str!("tables/llama.toml")),
    ("mistral", include_str!("tables/mistral.toml")),
    ("mixtral", include_str!("tables/mixtral.toml")),
    ("mistral-native", include_str!("tables/mistral-native.toml")),
    ("mistral-native-yarn", include_str!("tables/mistral-native-yarn.toml")),
    ("ministral3-native", include_str!("tables/ministral3-native.toml")),
    ("ministral3", include_str!("tables/ministral3.toml")),
    ("llama-native", include_str!("tables/llama-native.toml")),
    ("llama-native-scaled", include_str!("tables/llama-native-scaled.toml")),
    ("qwen2", include_str!("tables/qwen2.toml")),
    ("qwen2moe", include_str!("tables/qwen2moe.toml")),
    ("qwen3", include_str!("tables/qwen3.toml")),
    ("qwen3moe", include_str!("tables/qwen3moe.toml")),
    ("gemma", include_str!("tables/gemma.toml")),
    ("gemma2", include_str!("tables/gemma2.toml")),
    ("gemma3", include_str!("tables/gemma3.toml")),
    ("gemma-embedding", include_str!("tables/gemma-embedding.toml")),
    ("phi3", include_str!("tables/phi3.toml")),
    ("bert", include_str!("tables/bert.toml")),
    ("starcoder2", include_str!("tables/starcoder2.toml")),
    ("falcon", include_str!("tables/falcon.toml")),
    ("falcon-new", include_str!("tables/falcon-new.toml")),
    ("olmo2", include_str!("tables/olmo2.toml")),
    ("granite", include_str!("tables/granite.toml")),
    ("smollm3", include_str!("tables/smollm3.toml")),
    ("command-r", include_str!("tables/command-r.toml")),
    ("gpt-oss", include_str!("tables/gpt-oss.toml")),
    ("glm4moelite", include_str!("tables/glm4moelite.toml")),
    ("deepseek3", include_str!("tables/deepseek3.toml")),
    ("deepseek2", include_str!("tables/deepseek2.toml")),
    ("arcee", include_str!("tables/arcee.toml")),
    ("ernie4_5", include_str!("tables/ernie4_5.toml")),
    ("ernie4_5_moe", include_str!("tables/ernie4_5_moe.toml")),
    ("granitemoe", include_str!("tables/granitemoe.toml")),
    // Before the one that has some of its keys.
    ("granitehybrid-granitemoe", include_str!("tables/granitehybrid-granitemoe.toml")),
    ("granitemoeshared", include_str!("tables/granitemoeshared.toml")),
    ("minimax_m2", include_str!("tables/minimax_m2.toml")),
    ("nemotron", include_str!("tables/nemotron.toml")),
    ("olmoe", include_str!("tables/olmoe.toml")),
    ("phi", include_str!("tables/phi.toml")),
    ("seed_oss", include_str!("tables/seed_oss.toml")),
    ("stablelm", include_str!("tables/stablelm.toml")),
    ("olmo", include_str!("tables/olmo.toml")),
    ("bloom", include_str!("tables/bloom.toml")),
    ("gpt2", include_str!("tables/gpt2.toml")),
    ("starcoder", include_str!("tables/starcoder.toml")),
    ("gptneox", include_str!("tables/gptneox.toml")),
    ("dots1", include_str!("tables/dots1.toml")),
    ("afmoe", include_str!("tables/afmoe.toml")),
    ("jais2", include_str!("tables/jais2.toml")),
    ("phimoe", include_str!("tables/phimoe.toml")),
    ("deepseek", include_str!("tables/deepseek.toml")),
    ("exaone", include_str!("tables/exaone.toml")),
    ("orion", include_str!("tables/orion.toml")),
    ("nanbeige", include_str!("tables/nanbeige.toml")),
    ("rnd1", include_str!("tables/rnd1.toml")),
    ("mistral-small3", include_str!("tables/mistral-small3.toml")),
    ("mmproj-gemma3", include_str!("tables/mmproj-gemma3.toml")),
    ("mmproj-qwen2vl", include_str!("tables/mmproj-qwen2vl.toml")),
    ("mmproj-qwen2_5vl", include_str!("tables/mmproj-qwen2_5vl.toml")),
    ("mmproj-qwen3vl", include_str!("tables/mmproj-qwen3vl.toml")),
    ("mmproj-pixtral", include_str!("tables/mmproj-pixtral.toml")),
    ("mmproj-mistral3", include_str!("tables/mmproj-mistral3.toml")),
    ("mmproj-lighton", include_str!("tables/mmproj-lighton.toml")),
    ("mmproj-smolvlm", include_str!("tables/mmproj-smolvlm.toml")),
    ("mmproj-idefics3", include_str!("tables/mmproj-idefics3.toml")),
    ("mmproj-gemma4", include_str!("tables/mmproj-gemma4.toml")),
    ("mmproj-gemma4-audio", include_str!("tables/mmproj-gemma4-audio.toml")),
    ("mmproj-internvl-hf", include_str!("tables/mmproj-internvl-hf.toml")),
    ("mmproj-internvl", include_str!("tables/mmproj-internvl.toml")),
    ("mmproj-glm4v", include_str!("tables/mmproj-glm4v.toml")),
    ("mmproj-llama4", include_str!("tables/mmproj-llama4.toml")),
    ("mmproj-kimi-vl", include_str!("tables/mmproj-kimi-vl.toml")),
    ("mmproj-qwen2-audio", include_str!("tables/mmproj-qwen2-audio.toml")),
    ("mmproj-ultravox", include_str!("tables/mmproj-ultravox.toml")),
    ("mmproj-voxtral", include_str!("tables/mmproj-voxtral.toml")),
    ("mmproj-audio-flamingo3", include_str!("tables/mmproj-audio-flamingo3.toml")),
    ("mmproj-janus", include_str!("tables/mmproj-janus.toml")),
    ("mmproj-lfm2-vl", include_str!("tables/mmproj-lfm2-vl.toml")),
    ("mmproj-minicpmv4_6", include_str!("tables/mmproj-minicpmv4_6.toml")),
    ("mmproj-dots-ocr", include_str!("tables/mmproj-dots-ocr.toml")),
    ("mmproj-exaone4_5", include_str!("tables/mmproj-exaone4_5.toml")),
    ("mmproj-sarashina2", include_str!("tables/mmproj-sarashina2.toml")),
    ("mmproj-kimi-k25", include_str!("tables/mmproj-kimi-k25.toml")),
    ("mmproj-hunyuan-vl", include_str!("tables/mmproj-hunyuan-vl.toml")),
    ("mmproj-paddleocr", include_str!("tables/mmproj-paddleocr.toml")),
    ("mmproj-bailingmoe3-vl", include_str!("tables/mmproj-bailingmoe3-vl.toml")),
    ("mmproj-glm5next", include_str!("tables/mmproj-glm5next.toml")),
    ("mmproj-cogvlm", include_str!("tables/mmproj-cogvlm.toml")),
    ("mmproj-deepseek-ocr", include_str!("tables/mmproj-deepseek-ocr.toml")),
    ("mmproj-qwen2_5omni", include_str!("tables/mmproj-qwen2_5omni.toml")),
    ("mmproj-qwen3omni", include_str!("tables/mmproj-qwen3omni.toml")),
    ("mmproj-qwen3asr", include_str!("tables/mmproj-qwen3asr.toml")),
    ("mmproj-youtu-vl", include_str!("tables/mmproj-youtu-vl.toml")),
    ("mmproj-unlimited-ocr", include_str!("tables/mmproj-unlimited-ocr.toml")),
    ("arctic", include_str!("tables/arctic.toml")),
    ("bailingmoe2", include_str!("tables/bailingmoe2.toml")),
    ("chatglm", include_str!("tables/chatglm.toml")),
    ("codeshell", include_str!("tables/codeshell.toml")),
    ("deepseek-ocr", include_str!("tables/deepseek-ocr.toml")),
    ("distilbert", include_str!("tables/distilbert.toml")),
    ("dream", include_str!("tables/dream.toml")),
    ("eurobert", include_str!("tables/eurobert.toml")),
    ("glm", include_str!("tables/glm.toml")),
    ("internlm3", include_str!("tables/internlm3.toml")),
    ("jina-bert-v2", include_str!("tables/jina-bert-v2.toml")),
    ("kormo", include_str!("tables/kormo.toml")),
    ("llada", include_str!("tables/llada.toml")),
    ("llada-moe", include_str!("tables/llada-moe.toml")),
    ("llama-embed", include_str!("tables/llama-embed.toml")),
    ("maincoder", include_str!("tables/maincoder.toml")),
    ("neo-bert", include_str!("tables/neo-bert.toml")),
    ("nomic-bert", include_str!("tables/nomic-bert.toml")),
    ("pangu-embedded", include_str!("tables/pangu-embedded.toml")),
    ("plm", include_str!("tables/plm.toml")),
    ("qwen", include_str!("tables/qwen.toml")),
    ("refact", include_str!("tables/refact.toml")),
    ("xverse", include_str!("tables/xverse.toml")),
    ("youtu", include_str!("tables/youtu.toml")),
    ("cohere2", include_str!("tables/cohere2.toml")),
    ("gemma3n", include_str!("tables/gemma3n.toml")),
    ("gemma4", include_str!("tables/gemma4.toml")),
    ("glm4", include_str!("tables/glm4.toml")),
    ("glm4moe", include_str!("tables/glm4moe.toml")),
    ("solar-open", include_str!("tables/solar-open.toml")),
    ("glm_ocr", include_str!("tables/glm_ocr.toml")),
    ("glm4v", include_str!("tables/glm4v.toml")),
    ("glm4v_moe", include_str!("tables/glm4v_moe.toml")),
    ("laguna", include_str!("tables/laguna.toml")),
    ("lfm2", include_str!("tables/lfm2.toml")),
    ("lfm2moe", include_str!("tables/lfm2moe.toml")),
    ("llama4", include_str!("tables/llama4.toml")),
    ("olmo3", include_str!("tables/olmo3.toml")),
    ("qwen2vl", include_str!("tables/qwen2vl.toml")),
    ("qwen35", include_str!("tables/qwen35.toml")),
    ("qwen35moe", include_str!("tables/qwen35moe.toml")),
    ("qwen3next", include_str!("tables/qwen3next.toml")),
    ("qwen3vl", include_str!("tables/qwen3vl.toml")),
    ("qwen3asr", include_str!("tables/qwen3asr.toml")),
    ("qwen3vlmoe", include_str!("tables/qwen3vlmoe.toml")),
    ("qwen3omni", include_str!("tables/qwen3omni.toml")),
    ("bamba", include_str!("tables/bamba.toml")),
    ("falcon-h1", include_str!("tables/falcon-h1.toml")),
    ("granitehybrid", include_str!("tables/granitehybrid.toml")),
    ("granitehybrid-granite", include_str!("tables/granitehybrid-granite.toml")),
    ("jamba", include_str!("tables/jamba.toml")),
    ("mamba", include_str!("tables/mamba.toml")),
    ("mamba2", include_str!("tables/mamba2.toml")),
    ("nemotron_h", include_str!("tables/nemotron_h.toml")),
    ("nemotron_h_moe", include_str!("tables/nemotron_h_moe.toml")),
    ("xlm-roberta", include_str!("tables/xlm-roberta.toml")),
    ("roberta", include_str!("tables/roberta.toml")),
    ("modern-bert", include_str!("tables/modern-bert.toml")),
    ("t5", include_str!("tables/t5.toml")),
    ("t5encoder", include_str!("tables/t5encoder.toml")),
    ("deepseek32", include_str!("tables/deepseek32.toml")),
    ("glm-dsa", include_str!("tables/glm-dsa.toml")),
    ("hunyuan-dense", include_str!("tables/hunyuan-dense.toml")),
    ("hunyuan-moe", include_str!("tables/hunyuan-moe.toml")),
    ("apertus", include_str!("tables/apertus.toml")),
    ("exaone4", include_str!("tables/exaone4.toml")),
    ("exaone-moe", include_str!("tables/exaone-moe.toml")),
    ("internlm2", include_str!("tables/internlm2.toml")),
    ("minicpm", include_str!("tables/minicpm.toml")),
    ("nomic-bert-moe", include_str!("tables/nomic-bert-moe.toml")),
    ("openelm", include_str!("tables/openelm.toml")),
    ("hunyuan-vl", include_str!("tables/hunyuan-vl.toml")),
    ("mpt", include_str!("tables/mpt.toml")),
    ("minicpm3", include_str!("tables/minicpm3.toml")),
    ("grovemoe", include_str!("tables/grovemoe.toml")),
    ("smallthinker", include_str!("tables/smallthinker.toml")),
    ("mellum", include_str!("tables/mellum.toml")),
    ("paddleocr", include_str!("tables/paddleocr.toml")),
    ("baichuan", include_str!("tables/baichuan.toml")),
    ("dbrx", include_str!("tables/dbrx.toml")),
    ("bailingmoe", include_str!("tables/bailingmoe.toml")),
    ("maple", include_str!("tables/maple.toml")),
    ("spark2_5", include_str!("tables/spark2_5.toml")),
    ("hy_v3", include_str!("tables/hy_v3.toml")),
    ("granite_swa", include_str!("tables/granite_swa.toml")),
    ("hrm_text", include_str!("tables/hrm_text.toml")),
    ("jais", include_str!("tables/jais.toml")),
    ("granitemoe_swa", include_str!("tables/granitemoe_swa.toml")),
    ("minimax-m3", include_str!("tables/minimax-m3.toml")),
    ("cohere2moe", include_str!("tables/cohere2moe.toml")),
    ("kimi-linear", include_str!("tables/kimi-linear.toml")),
    ("lfm2-embedding", include_str!("tables/lfm2-embedding.toml")),
    ("plamo", include_str!("tables/plamo.toml")),
    ("plamo2", include_str!("tables/plamo2.toml")),
    ("plamo3", include_str!("tables/plamo3.toml")),
    ("mimo2", include_str!("tables/mimo2.toml")),
    ("step35", include_str!("tables/step35.toml")),
    ("deci", include_str!("tables/deci.toml")),
    ("deci-7b", include_str!("tables/deci-7b.toml")),
    ("minimax01", include_str!("tables/minimax01.toml")),
    ("rugpt3xl", include_str!("tables/rugpt3xl.toml")),
    ("chameleon", include_str!("tables/chameleon.toml")),
    ("grok2", include_str!("tables/grok2.toml")),
    ("grok", include_str!("tables/grok.toml")),
    ("rwkv6", include_str!("tables/rwkv6.toml")),
    ("rwkv7", include_str!("tables/rwkv7.toml")),
    ("talkie", include_str!("tables/talkie.toml")),
    ("hy_v4", include_str!("tables/hy_v4.toml")),
    ("gemma4-assistant", include_str!("tables/gemma4-assistant.toml")),
    ("bailingmoe3", include_str!("tables/bailingmoe3.toml")),
    ("rwkv6qwen2", include_str!("tables/rwkv6qwen2.toml")),
    ("arwkv7", include_str!("tables/arwkv7.toml")),
    ("glm5next", include_str!("tables/glm5next.toml")),
    ("dots3note", include_str!("tables/dots3note.toml")),
    ("bailingmoe3-vl", include_str!("tables/bailingmoe3-vl.toml")),
    ("sarvam_moe", include_str!("tables/sarvam_moe.toml")),
    ("bitnet", include_str!("tables/bitnet.toml")),
    ("cogvlm", include_str!("tables/cogvlm.toml")),
    ("lfm2-colbert", include_str!("tables/lfm2-colbert.toml")),
    ("kimi-k3", include_str!("tables/kimi-k3.toml")),
    ("nemotron_h_puzzle", include_str!("tables/nemotron_h_puzzle.toml")),
    ("mmproj-glm-asr", include_str!("tables/mmproj-glm-asr.toml")),
    ("mmproj-meralion", include_str!("tables/mmproj-meralion.toml")),
    ("mmproj-minimax-m3", include_str!("tables/mmproj-minimax-m3.toml")),
    ("mmproj-phi4", include_str!("tables/mmproj-phi4.toml")),
    ("mmproj-step3-vl", include_str!("tables/mmproj-step3-vl.toml")),
];

/// What the names of the tables of vision and audio encoders begin with, so that only these are parsed where one is looked for.
const PROJECTOR: &str = "mmproj-";

/// The parsed tables, in the order of [`EMBEDDED`].
static PARSED: LazyLock<Vec<OnceLock<Table>>> = LazyLock::new(|| EMBEDDED.iter().map(|_| OnceLock::new()).collect());

/// The names of the architectures of the embedded tables (classes, model types, `general.architecture`), each with the number of its table:
/// the texts are searched for them once.
static NAMED: LazyLock<Vec<(&str, usize)>> = LazyLock::new(|| {
    let own = |(number, (_, text)): (usize, &(&str, &'static str))| listed_in(text, &NAMES).map(move |name| (name, number));
    EMBEDDED.iter().enumerate().flat_map(own).collect()
});

impl Table {
    /// Parses a table.
    ///
    /// # Errors
    /// The text is not a valid table.
    pub fn parse(text: &str) -> Result<Self> {
        let own: Self = toml::from_str(text).map_err(|error| {
            let line = text.get(..error.span().unwrap_or_default().start).unwrap_or_default().lines().count().max(1);
            Error::argument(format!("expected an architecture table, found in line {line}: {}", error.message())).caused_by(error)
        })?;
        let Some(parent) = &own.extends else { return own.resolved(&[]) };
        let parent = embedded(|_, name| name == parent).next().unwrap_or_else(|| {
            let message = format!("unknown table {parent} after extends");
            Err(Error::argument(message).hint(Hint::ListArchitectures))
        })?;
        Ok(own.resolved(&parent.hyperparameters)?.over(parent.clone()))
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not a valid table.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&place::read_text(path)?).map_err(|error| error.in_file(path))
    }
}

/// Returns the embedded tables whose number and name satisfy `wanted`, parsing them on first use.
fn embedded(wanted: impl Fn(usize, &str) -> bool) -> impl Iterator<Item = Result<&'static Table>> {
    let wanted = EMBEDDED.iter().zip(&*PARSED).enumerate().filter(move |(number, ((name, _), _))| wanted(*number, name));
    wanted.map(|(_, ((name, text), parsed))| match parsed.get() {
        Some(table) => Ok(table),
        None => {
            let table = Table::parse(text).map_err(|error| error.hint(format!("in the embedded table {name}")))?;
            Ok(parsed.get_or_init(|| table))
        }
    })
}

/// Returns the table common to all families, for models of an unknown family.
///
/// # Errors
/// The embedded table is invalid, which tests rule out.
pub fn common() -> Result<&'static Table> {
    embedded(|_, name| name == "_names").next().unwrap_or_else(|| Err(Error::argument("there is no table _names")))
}

/// Returns the embedded tables of these architectures (classes, model types, `general.architecture`) whose own text contains `text`; only
/// those are parsed.
///
/// # Errors
/// As for [`common`].
pub fn mentioning(text: &str, architectures: &[&str]) -> Result<Vec<&'static Table>> {
    let fits = |table: &&Table| {
        let is = |name: &str| architectures.contains(&name);
        is(&table.gguf) || table.classes.iter().chain(&table.model_types).any(|name| is(name))
    };
    let named = tables_named(architectures);
    let wanted = |number: usize, name: &str| named.contains(&number) && is_text(name) && text_of(number).contains(text);
    let mut found = embedded(wanted).collect::<Result<Vec<_>>>()?;
    found.retain(fits);
    Ok(found)
}

/// The available tables: custom ones, then the embedded ones.
#[derive(Debug, Default)]
pub struct Tables {
    own: Vec<Table>,
}

impl Tables {
    /// Returns the custom tables followed by the embedded ones.
    pub fn with(own: Vec<Table>) -> Self {
        Self { own }
    }

    /// Returns the embedded tables and the one in a file, if one is named.
    ///
    /// # Errors
    /// As for [`Table::read`].
    pub fn with_file(path: Option<&Path>) -> Result<Self> {
        Ok(Self::with(path.map(Table::read).transpose()?.into_iter().collect()))
    }

    /// Returns all tables, parsed.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn all(&self) -> Result<Vec<&Table>> {
        self.among(|_, name| is_text(name), |table| !table.projector)
    }

    /// Returns the tables of encoders of pictures and sounds, parsed.
    ///
    /// # Errors
    /// As for [`Tables::all`].
    pub fn projectors(&self) -> Result<Vec<&Table>> {
        self.among(|_, name| name.starts_with(PROJECTOR), |table| table.projector)
    }

    /// Returns the tables that name the architecture `word` and satisfy `fits`; only those are parsed.
    fn find(&self, word: &str, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let named = tables_named(&[word]);
        self.among(|number, name| named.contains(&number) && is_text(name), fits)
    }

    /// Returns the tables that satisfy `fits`, parsing only embedded ones whose number and name satisfy `wanted`.
    fn among(&self, wanted: impl Fn(usize, &str) -> bool, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let mut found: Vec<&Table> = self.own.iter().filter(|table| fits(table)).collect();
        for table in embedded(wanted) {
            found.extend(Some(table?).filter(|table| fits(table)));
        }
        Ok(found)
    }

    /// Returns the table for a Hugging Face config, with the parts of its vision or audio encoder, if it has one with a table.
    ///
    /// # Errors
    /// There is none; the message names the architecture.
    pub fn for_config(&self, config: &serde_json::Value) -> Result<Table> {
        let mut table = self.of_config(config)?;
        if let Some(projector) = self.projector_for_config(config)? {
            table.parts = projector.parts;
        }
        Ok(table)
    }

    /// Returns the table for the vision or audio encoder of a Hugging Face config, if there is one.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn projector_for_config(&self, config: &serde_json::Value) -> Result<Option<Table>> {
        let named = |key: &str| config.get(key).and_then(|value| value.as_str().or_else(|| value.get(0)?.as_str()));
        let has = |names: &[String], key: &str| named(key).is_some_and(|named| names.iter().any(|name| name == named));
        let own: Vec<&str> = ["architectures", "model_type"].iter().filter_map(|key| named(key)).collect();
        // A class that is registered goes before a model_type, which several classes may share.
        let named = tables_named(&own);
        let mut found = self.among(
            |number, name| named.contains(&number) && name.starts_with(PROJECTOR),
            |table| {
                table.projector
                    && (has(&table.classes, "architectures") || has(&table.model_types, "model_type"))
                    && table.applies_to(config)
            },
        )?;
        found.sort_by_key(|table| !has(&table.classes, "architectures"));
        Ok(found.into_iter().next().cloned())
    }

    /// Returns the table of an encoder in GGUF beside a text model with this table: one for a class that the text model has too, or for one
    /// that takes any text model. `has` tells which keys and tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_for_gguf(&self, kind: &str, has: impl Fn(&str) -> bool, text: &Table) -> Result<Table> {
        let shared = |table: &Table| table.classes.iter().any(|class| text.classes.contains(class));
        let all = self.projectors_of_kind(kind, has)?;
        let found = all.iter().find(|table| shared(table) || table.any_text && table.gguf_has.is_some());
        let found = found.or_else(|| all.iter().find(|table| table.any_text)).ok_or_else(|| {
            let message = format!("expected an encoder that goes with {}, found {kind}", text.gguf);
            Error::unsupported(message).hint(Hint::ListArchitectures)
        })?;
        let mut table = Table::clone(found);
        if shared(&table) {
            table.classes.retain(|class| text.classes.contains(class));
        }
        Ok(table)
    }

    /// Returns the first table of an encoder of this kind (`clip.projector_type`). `has` tells which tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let found = self.projectors_of_kind(kind, has)?.into_iter().next().cloned();
        found.ok_or_else(|| Error::unsupported(format!("unknown encoder {kind}")).hint(Hint::ListArchitectures))
    }

    fn projectors_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Vec<&Table>> {
        let named = |table: &Table| table.keys.iter().any(|row| row.gguf.ends_with("projector_type") && row.text.as_deref() == Some(kind));
        let fits = |table: &Table| table.projector && named(table) && table.gguf_has.as_ref().is_none_or(|key| has(key));
        // A table may inherit the kind, so all are parsed.
        let mut found = self.among(|_, name| name.starts_with(PROJECTOR), fits)?;
        found.sort_by_key(|table| table.gguf_has.is_none());
        Ok(found)
    }

    fn of_config(&self, config: &serde_json::Value) -> Result<Table> {
        let text_config = text_section(config);
        // Tables with a condition go before the one of the same class without.
        let best = |mut found: Vec<&Table>| -> Option<Table> {
            found.retain(|table| !table.projector && table.applies_to(config));
            // The first of equals, so that a custom table goes before an embedded one.
            found.sort_by_key(|table| table.when.is_none());
            found.into_iter().next().cloned()
        };
        let class = |config: &serde_json::Value| Some(config.get("architectures")?.get(0)?.as_str()?.to_owned());
        let classes = [class(config), text_config.and_then(class)];
        for class in classes.iter().flatten() {
            if let Some(table) = best(self.find(class, |table| table.classes.contains(class))?) {
                return Ok(table);
            }
        }
        let model_type = |config: &serde_json::Value| Some(config.get("model_type")?.as_str()?.to_owned());
        let model_types = [model_type(config), text_config.and_then(model_type)];
        for model_type in model_types.iter().flatten() {
            if let Some(table) = best(self.find(model_type, |table| table.model_types.contains(model_type))?) {
                return Ok(table);
            }
        }
        if classes.iter().chain(&model_types).all(Option::is_none) {
            let has_all = |table: &Table| !table.params.is_empty() && table.params.iter().all(|key| config.get(key).is_some());
            let fits = |table: &Table| has_all(table) && table.applies_to(config);
            let native = self.among(|number, _| head(text_of(number)).contains("\nparams = "), fits)?;
            if let Some(table) = native.into_iter().max_by_key(|table| table.params.len()) {
                return Ok(table.clone());
            }
        }
        let asked = classes.into_iter().chain(model_types).flatten().next();
        let nearest = asked.as_deref().and_then(|asked| text::closest(asked, listed(&["classes", "model_types"])));
        Err(unknown(asked.as_deref().unwrap_or("none named"), nearest))
    }

    /// Returns the table for a GGUF. As families may share an architecture, `has` tells which keys exist.
    ///
    /// # Errors
    /// There is none.
    pub fn for_gguf(&self, architecture: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let fits =
            |table: &Table| table.gguf == architecture && !table.classes.is_empty() && table.gguf_has.as_ref().is_none_or(|key| has(key));
        let mut found = self.find(architecture, fits)?;
        // A family with a required key is more specific than one without.
        found.sort_by_key(|table| table.gguf_has.as_ref().map_or(2, |has| if has.contains(" = ") { 0 } else { 1 }));
        found.into_iter().next().cloned().ok_or_else(|| unknown(architecture, text::closest(architecture, listed(&["gguf"]))))
    }
}

/// Whether the name of an embedded table is that of a text model.
fn is_text(name: &str) -> bool {
    !name.starts_with('_') && !name.starts_with(PROJECTOR)
}

/// Returns the beginning of an embedded table, which has all names of its family: tests find each table by them.
fn head(text: &str) -> &str {
    const BYTES: usize = 2_000;
    let end = (0..=BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// The keys that name the architectures of a table.
const NAMES: [&str; 3] = ["classes", "model_types", "gguf"];

/// Returns the numbers of the embedded tables that name one of these architectures as their own, and not just as what they extend.
fn tables_named(architectures: &[&str]) -> Vec<usize> {
    NAMED.iter().filter(|(name, _)| architectures.contains(name)).map(|(_, number)| *number).collect()
}

/// Returns the text of an embedded table.
fn text_of(number: usize) -> &'static str {
    EMBEDDED.get(number).map_or("", |(_, text)| text)
}

/// Returns the names in these lists of the embedded tables, without parsing these.
fn listed(keys: &'static [&str]) -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().flat_map(|(_, text)| listed_in(text, keys))
}

/// Returns the names in these lists at the start of a table, without parsing it.
fn listed_in(text: &'static str, keys: &'static [&str]) -> impl Iterator<Item = &'static str> {
    let mut listing = false;
    let is_start = |line: &&str| !["keys = [", "tensors = [", "["].iter().any(|rest| line.starts_with(rest));
    let own = text.split('\n').take_while(is_start).filter(move |line| {
        let is_own = listing || keys.iter().any(|key| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = ")));
        listing = is_own && !line.ends_with([']', '"']);
        is_own
    });
    own.flat_map(|line| line.split('"').skip(1).step_by(2))
}

fn unknown(architecture: &str, nearest: Option<&str>) -> Error {
    let mut error = Error::unsupported(format!("unknown architecture {architecture}"));
    if let Some(nearest) = nearest {
        error = error.add_hint(Hint::DidYouMean(nearest.to_owned()));
    }
    error.add_hint(Hint::ListArchitectures).add_hint(Hint::UseArchitectureTable).add_hint(Hint::KeepNames)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_embedded_table_is_valid_and_found_by_its_names() {
        let tables = Tables::default();
        for table in tables.all().unwrap().into_iter().chain(tables.projectors().unwrap()) {
            let (_, text) = EMBEDDED.iter().find(|(name, _)| *name == table.name).unwrap();
            let names = table.classes.iter().chain(&table.model_types).chain([&table.gguf]);
            names.for_each(|name| assert!(head(text).contains(&format!("\"{name}\"")), "{}: {name} is not at its start", table.name));
        }
        for table in tables.all().unwrap() {
            // Those with a condition are found if it holds, as the goldens show.
            if table.when.is_some() {
                continue;
            }
            for class in &table.classes {
                assert_eq!(tables.for_config(&json!({ "architectures": [class] })).unwrap().gguf, table.gguf);
            }
            for model_type in &table.model_types {
                // Several classes may share a model_type.
                let config = json!({ "architectures": table.classes, "model_type": model_type });
                assert_eq!(tables.for_config(&config).unwrap().gguf, table.gguf);
                assert!(tables.for_config(&json!({ "model_type": model_type })).unwrap().model_types.contains(model_type));
            }
            if !table.params.is_empty() {
                let params: serde_json::Map<_, _> = table.params.iter().map(|key| (key.clone(), json!(1))).collect();
                assert_eq!(tables.for_config(&params.into()).unwrap().name, table.name);
            } else if let Some(key) = &table.gguf_has {
                assert_eq!(tables.for_gguf(&table.gguf, |other| other == key).unwrap().name, table.name);
            }
            assert!(table.tokenizer.is_some(), "{}", table.name);
        }
    }

    #[test]
    fn a_table_is_not_found_by_what_it_extends() {
        let number = |name: &str| EMBEDDED.iter().position(|(other, _)| *other == name).unwrap();
        assert!(text_of(number("gemma3n")).contains("extends = \"gemma3\""));
        let named = |word: &str, name: &str| tables_named(&[word]).contains(&number(name));
        assert!(named("gemma3", "gemma3") && named("gemma3n", "gemma3n") && !named("gemma3", "gemma3n"));
        assert!(named("LlamaForCausalLM", "llama") && !named("ForCausalLM", "llama"));
    }

    #[test]
    fn a_custom_table_takes_precedence() {
        let own = Table::parse("name = 'mine'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']").unwrap();
        assert!(own.tensors.len() > 5, "rows of the table that it extends");
        let tables = Tables::with(vec![own]);
        assert_eq!(tables.for_config(&json!({ "architectures": ["LlamaForCausalLM"] })).unwrap().name, "mine");
        assert_eq!(tables.for_gguf("llama", |_| false).unwrap().name, "mine");
    }

    #[test]
    fn invalid_tables_and_unknown_architectures_are_errors() {
        for text in ["name = 1", "nonsense = true", "extends = 'nothing'", "[[tensors]]\nhf = 'a'\nwrong = 1", "\u{0}"] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let error = Tables::default().for_config(&json!({ "architectures": ["NobodysForCausalLM"] })).unwrap_err();
        assert!(error.to_string().contains("NobodysForCausalLM"), "{error}");
        let error = Tables::default().for_config(&json!({ "architectures": ["Qwen3MoEForCausalLM"] })).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("Qwen3MoeForCausalLM".to_owned())), "{error}");
        assert!(Tables::default().for_gguf("nobodys", |_| false).is_err());
        let error = Tables::default().for_gguf("qwen3mo", |_| false).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("qwen3moe".to_owned())), "{error}");
        let tables = Tables::default();
        let all: HashSet<&str> = tables.all().unwrap().into_iter().flat_map(|table| &table.classes).map(String::as_str).collect();
        let found: HashSet<&str> = listed(&["classes"]).collect();
        assert!(all.is_subset(&found), "{:?}", all.difference(&found));
        assert!(Tables::default().for_config(&json!({})).is_err());
        // Ling 1 with an output that is divided by its norms.
        let ling =
            |norm_head: bool| Tables::default().for_config(&json!({ "architectures": ["BailingMoeForCausalLM"], "norm_head": norm_head }));
        assert!(ling(false).is_ok() && ling(true).is_err());
    }
}
