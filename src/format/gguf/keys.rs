//! Known GGUF keys: their types, and which are required. Sources: docs/gguf.md in the ggml repository, the gguf-py writer (types), and
//! llama.cpp (which keys it reads and which it requires), as of 2026.

use std::collections::BTreeSet;

use crate::base::finding::Severity;
use crate::model::ValueType::{Bool, F32, I32, String, U16, U32};
use crate::model::{Metadata, Value, ValueType};

/// The allowed types of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    /// This type.
    One(ValueType),
    /// Any integer type.
    Whole,
    /// An array of this type.
    ArrayOf(ValueType),
    /// This type, or an array of it with one element per layer. Signed elements are accepted for unsigned ones.
    PerLayer(ValueType),
    /// A count (every how many layers), or an array of integers or booleans with one element per layer.
    LayerPattern,
    /// An array of bytes, signed or unsigned.
    Bytes,
}

/// Keys of one type.
struct Group {
    key_type: KeyType,
    /// Whether llama.cpp reads them, and so rejects a file in which they have another type.
    read: bool,
    /// Full names.
    keys: &'static [&'static str],
}

use KeyType::{ArrayOf, Bytes, LayerPattern, One, PerLayer, Whole};

/// Keys by full name; `*` at the end is a wildcard.
static KEYS: &[Group] = &[
    Group {
        key_type: One(String),
        read: true,
        keys: &["general.architecture", "general.name", "tokenizer.ggml.model", "tokenizer.ggml.pre"],
    },
    Group {
        key_type: One(U32),
        read: true,
        keys: &["general.file_type", "modern-bert.attention.sliding_window_pattern", "tokenizer.ggml.token_type_count"],
    },
    Group { key_type: PerLayer(F32), read: true, keys: &["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"] },
    Group { key_type: ArrayOf(String), read: true, keys: &["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] },
    Group { key_type: ArrayOf(F32), read: true, keys: &["tokenizer.ggml.scores"] },
    Group { key_type: ArrayOf(I32), read: true, keys: &["tokenizer.ggml.token_type", "tokenizer.ggml.suppress_tokens"] },
    Group { key_type: Bytes, read: true, keys: &["tokenizer.ggml.precompiled_charsmap"] },
    Group {
        key_type: One(Bool),
        read: true,
        keys: &[
            "diffusion.shift_logits",
            "tokenizer.ggml.add_bos_token",
            "tokenizer.ggml.add_eos_token",
            "tokenizer.ggml.add_sep_token",
            "tokenizer.ggml.add_space_prefix",
            "tokenizer.ggml.normalizer.lowercase",
            "tokenizer.ggml.normalizer.strip_accents",
            "tokenizer.ggml.remove_extra_whitespaces",
        ],
    },
    Group { key_type: One(U16), read: true, keys: &["split.no", "split.count"] },
    Group { key_type: One(I32), read: true, keys: &["split.tensors.count"] },
    Group { key_type: One(String), read: true, keys: &["adapter.type"] },
    Group { key_type: One(F32), read: true, keys: &["adapter.lora.alpha"] },
    Group { key_type: One(String), read: true, keys: &["clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"] },
    Group {
        key_type: One(Bool),
        read: true,
        keys: &["clip.has_vision_encoder", "clip.has_audio_encoder", "clip.has_llava_projector", "clip.use_gelu", "clip.use_silu"],
    },
    Group {
        key_type: One(U32),
        read: true,
        keys: &[
            "clip.audio.attention.head_count",
            "clip.audio.block_count",
            "clip.audio.embedding_length",
            "clip.audio.feed_forward_length",
            "clip.audio.num_mel_bins",
            "clip.audio.projection_dim",
            "clip.audio.projector.stack_factor",
            "clip.vision.attention.head_count",
            "clip.vision.block_count",
            "clip.vision.embedding_length",
            "clip.vision.feed_forward_length",
            "clip.vision.image_size",
            "clip.vision.n_wa_pattern",
            "clip.vision.patch_size",
            "clip.vision.preproc_image_size",
            "clip.vision.projection_dim",
            "clip.vision.projector.scale_factor",
            "clip.vision.spatial_merge_size",
        ],
    },
    Group {
        key_type: One(F32),
        read: true,
        keys: &["clip.vision.attention.layer_norm_epsilon", "clip.audio.attention.layer_norm_epsilon"],
    },
    Group { key_type: ArrayOf(F32), read: true, keys: &["clip.vision.image_mean", "clip.vision.image_std"] },
    // Read by other programs, or only displayed.
    Group {
        key_type: One(String),
        read: false,
        keys: &[
            "adapter.lora.prompt_prefix",
            "adapter.lora.task_name",
            "general.author",
            "general.base_model.*",
            "general.base_model.{id}.author",
            "general.base_model.{id}.description",
            "general.base_model.{id}.doi",
            "general.base_model.{id}.name",
            "general.base_model.{id}.organization",
            "general.base_model.{id}.repo_url",
            "general.base_model.{id}.url",
            "general.base_model.{id}.uuid",
            "general.base_model.{id}.version",
            "general.basename",
            "general.dataset.{id}.author",
            "general.dataset.{id}.description",
            "general.dataset.{id}.doi",
            "general.dataset.{id}.name",
            "general.dataset.{id}.organization",
            "general.dataset.{id}.repo_url",
            "general.dataset.{id}.url",
            "general.dataset.{id}.uuid",
            "general.dataset.{id}.version",
            "general.description",
            "general.doi",
            "general.finetune",
            "general.license",
            "general.license.link",
            "general.license.name",
            "general.organization",
            "general.quantized_by",
            "general.repo_url",
            "general.sampling.sequence",
            "general.size_label",
            "general.source.doi",
            "general.source.repo_url",
            "general.source.url",
            "general.source.uuid",
            "general.type",
            "general.url",
            "general.uuid",
            "general.version",
            "quantize.imatrix.dataset",
            "quantize.imatrix.file",
            "tokenizer.chat_template",
            "tokenizer.huggingface.json",
        ],
    },
    Group {
        key_type: Whole,
        read: false,
        keys: &[
            "general.quantization_version",
            "general.base_model.count",
            "general.dataset.count",
            "general.parameter_count",
            "imatrix.chunk_count",
            "imatrix.chunk_size",
            "quantize.imatrix.chunks_count",
            "quantize.imatrix.entries_count",
        ],
    },
    Group {
        key_type: ArrayOf(String),
        read: false,
        keys: &["general.datasets", "general.languages", "general.tags", "imatrix.datasets", "tokenizer.chat_templates"],
    },
];

/// Prefix and suffix of the special token keys: `tokenizer.ggml.X_token_id`.
const TOKEN_IDS: (&str, &str) = ("tokenizer.ggml.", "_token_id");

/// Architecture-specific keys without the architecture prefix, separated by spaces; llama.cpp reads them all.
static ARCHITECTURE_KEYS: &[(KeyType, &str)] = &[
    (
        One(U32),
        "\
            adapters.count adapters.lora_rank altup.active_idx altup.num_inputs attention.decay_lora_rank attention.gate_lora_rank \
            attention.group_norm_groups attention.iclr_lora_rank attention.indexer.block_size attention.indexer.head_count attention.indexer.key_length \
            attention.indexer.kpool attention.indexer.local_blocks attention.indexer.top_k attention.key_length \
            attention.key_length_mla attention.key_length_mla_swa attention.key_length_swa attention.kv_lora_rank \
            attention.kv_lora_rank_swa attention.output_group_count attention.output_lora_rank attention.q_lora_rank \
            attention.relative_buckets_count attention.shared_kv_layers attention.sliding_window attention.temperature_length \
            attention.value_length attention.value_length_mla attention.value_length_mla_swa attention.value_length_swa \
            attention.value_residual_mix_lora_rank attn_res.block_size block_count classifier.pooling_type context_length \
            convnext.block_count convnext.embedding_length decoder_block_count decoder_start_token_id dense_2_feat_in dense_2_feat_out \
            dense_3_feat_in dense_3_feat_out embedding_length embedding_length_out embedding_length_per_layer_input \
            expert_chunk_feed_forward_length expert_count expert_gating_func expert_group_count expert_group_used_count \
            expert_latent_length expert_shared_count expert_shared_feed_forward_length experts_per_group features_length \
            full_attention_interval hash_layer_count hrm.h_cycles hrm.l_cycles hrm.layers_per_stack hyper_connection.count \
            hyper_connection.low_rank hyper_connection.sinkhorn_iterations interleave_moe_layer_step kda.head_dim \
            leading_dense_block_count moe_every_n_layers moe_latent_size n_deepstack_layers nextn_predict_layers num_loops \
            ple.conv_kernel ple.eos_token_id ple.heads_per_ngram ple.image_token_id ple.ngram_size pooling_type posnet.block_count \
            posnet.embedding_length rescale_every_n_layers rope.dimension_count rope.dimension_count_swa \
            rope.scaling.original_context_length shortconv.l_cache ssm.conv_kernel ssm.group_count ssm.inner_size ssm.state_size \
            ssm.time_step_rank target_hidden_size time_decay_extra_dim time_mix_extra_dim token_shift_count vocab_size wkv.head_size",
    ),
    (
        One(F32),
        "\
            activation.situ_beta activation.situ_linear_beta adapters.router_gain attention.clamp_kqv \
            attention.compress_rope_freq_base attention.group_norm_epsilon attention.layer_norm_epsilon \
            attention.layer_norm_rms_epsilon attention.max_alibi_bias attention.output_scale attention.scale \
            attention.temperature_scale attention.value_scale attn_logit_softcapping embedding_scale expert_group_scale \
            expert_weights_scale final_logit_softcapping hyper_connection.epsilon hyper_connection.magnitude kda.gate_lower_bound \
            logit_scale residual_scale rope.freq_base rope.freq_base_swa rope.scale_linear rope.scaling.alpha rope.scaling.attn_factor \
            rope.scaling.factor rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow \
            rope.scaling.yarn_ext_factor rope.scaling.yarn_log_multiplier router_logit_softcapping",
    ),
    (
        One(Bool),
        "\
            attention.causal attention.indexer.kpool_select_tail expert_weights_norm hrm.prefix_lm kda.safe_gate norm_before_fc \
            norm_before_residual rope.scaling.finetuned skip_loop_final_norm ssm.dt_b_c_rms swin_norm use_parallel_residual",
    ),
    (One(String), "hidden_activation rope.scaling.type tensor_data_layout"),
    (
        PerLayer(U32),
        "\
            attention.head_count attention.head_count_kv expert_feed_forward_length expert_used_count feed_forward_length",
    ),
    (LayerPattern, "attention.sliding_window_pattern"),
    (PerLayer(Bool), "attention.indexer.types"),
    (ArrayOf(String), "classifier.output_labels"),
    (ArrayOf(I32), "attention.compress_ratios rope.dimension_sections"),
    (ArrayOf(F32), "activation_sparsity_scale swiglu_clamp_exp swiglu_clamp_shexp"),
    (ArrayOf(Bool), "attention.recurrent_layers attention.rope_pattern"),
];

/// Keys whose arrays have one value per layer (`get_key_or_arr` and `get_arr` with the number of layers in llama.cpp).
pub(crate) static ONE_PER_LAYER: [&str; 17] = [
    "activation_sparsity_scale",
    "attention.compress_ratios",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.indexer.types",
    "attention.recurrent_layers",
    "attention.rope_pattern",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "xielu.alpha_n",
    "xielu.alpha_p",
    "xielu.beta",
    "xielu.eps",
];

/// Keys that llama.cpp requires for specific architectures, separated by spaces.
static NEEDED: &[(&str, &str)] = &[
    ("activation.situ_beta activation.situ_linear_beta attn_res.block_size", "kimi-k3"),
    ("adapters.count adapters.lora_rank adapters.token_ids_activate adapters.token_ids_substitute", "graniteswitch"),
    ("attention.clamp_kqv", "dbrx"),
    (
        "\
            attention.compress_ratios attention.compress_rope_freq_base attention.output_group_count attention.output_lora_rank \
            expert_weights_norm expert_weights_scale hash_layer_count",
        "deepseek4",
    ),
    ("attention.decay_lora_rank attention.iclr_lora_rank attention.value_residual_mix_lora_rank", "arwkv7 rwkv7"),
    ("attention.group_norm_epsilon attention.group_norm_groups", "wavtokenizer-dec"),
    ("attention.indexer.block_size attention.indexer.local_blocks", "minimax-m3"),
    (
        "attention.indexer.head_count attention.indexer.key_length attention.indexer.top_k",
        "deepseek32 deepseek4 dots3note glm-dsa glm5-next minimax-m3 qwen4exp",
    ),
    ("attention.indexer.kpool", "glm5-next"),
    (
        "\
            attention.indexer.types attention.key_length_mla_swa attention.kv_lora_rank_swa attention.value_length_mla_swa \
            rope.freq_base_swa",
        "dots3note",
    ),
    ("attention.key_length_mla attention.value_length_mla", "bailingmoe3 dots3note glm5-next hy_v4 kimi-k3 kimi-linear"),
    ("attention.key_length_swa attention.value_length_swa", "gemma4 gemma4-assistant"),
    (
        "attention.kv_lora_rank",
        "bailingmoe3 deepseek2 deepseek32 dots3note glm-dsa glm5-next hy_v4 kimi-k3 kimi-linear minicpm3 mistral4 plm",
    ),
    (
        "attention.layer_norm_epsilon",
        "\
            bert bloom codeshell cohere2 command-r dbrx falcon gpt2 gptneox jais jais2 jina-bert-v2 jina-bert-v3 modern-bert mpt \
            nemotron nemotron_h nemotron_h_moe nomic-bert nomic-bert-moe olmo orion phi2 pockettts stablelm starcoder starcoder2 \
            wavtokenizer-dec",
    ),
    (
        "attention.layer_norm_rms_epsilon",
        "\
            afmoe apertus arcee arctic baichuan bailingmoe bailingmoe2 bailingmoe3 bitnet chameleon chatglm cogvlm deci deepseek \
            deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone \
            exaone-moe exaone4 falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe \
            glm5-next gpt-oss granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense \
            hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jamba kimi-k3 kimi-linear laguna lfm2 lfm2moe llada llada-moe llama \
            llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 \
            mistral4 muse-glimmer nanbeige neo-bert olmo2 olmoe openelm paddleocr pangu-embedded phi3 phimoe plamo plamo2 plamo3 plm \
            qwen qwen2 qwen2moe qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss \
            smallthinker smollm3 spark2_5 step35 t5 t5encoder talkie xverse",
    ),
    ("attention.q_lora_rank", "deepseek32 deepseek4 dots3note glm-dsa glm5-next hy_v4 minicpm3"),
    ("attention.relative_buckets_count", "t5 t5encoder"),
    (
        "attention.sliding_window",
        "\
            cohere2 cohere2moe deepseek4 dots3note exaone-moe gemma-embedding gemma3n gemma4 gemma4-assistant gpt-oss granite_swa \
            maple mimo2 muse-glimmer spark2_5 step35",
    ),
    ("attention.sliding_window_pattern", "dots3note gemma4 gemma4-assistant granite_swa maple mimo2 spark2_5 step35"),
    ("embedding_length_per_layer_input", "gemma4"),
    (
        "expert_feed_forward_length",
        "\
            afmoe bailingmoe bailingmoe2 bailingmoe3 cohere2moe deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1 dots3note \
            exaone-moe glm-dsa glm4moe glm5-next gpt-oss grovemoe hunyuan-moe hy_v3 hy_v4 kimi-k3 kimi-linear laguna lfm2moe llama4 \
            maple mellum mimo2 minimax-m2 minimax-m3 mistral4 step35",
    ),
    ("expert_gating_func", "bailingmoe2 bailingmoe3 deepseek32 deepseek4 dots3note exaone-moe kimi-k3 kimi-linear lfm2moe minimax-m3"),
    ("expert_group_scale experts_per_group", "grovemoe"),
    (
        "expert_shared_count",
        "\
            afmoe bailingmoe bailingmoe2 bailingmoe3 deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1 dots3note glm-dsa \
            glm4moe glm5-next hy_v4 kimi-k3 kimi-linear minimax-m3 mistral4",
    ),
    ("hrm.h_cycles hrm.l_cycles hrm.layers_per_stack", "hrm_text"),
    ("hyper_connection.count", "deepseek4 glm5-next hy_v4 qwen4exp"),
    ("hyper_connection.epsilon", "deepseek4 glm5-next hy_v4"),
    ("hyper_connection.low_rank", "qwen4exp"),
    ("hyper_connection.magnitude", "hy_v4"),
    ("hyper_connection.sinkhorn_iterations", "deepseek4 glm5-next"),
    ("interleave_moe_layer_step", "llama4"),
    ("kda.gate_lower_bound", "bailingmoe3"),
    ("kda.head_dim", "bailingmoe3 glm5-next kimi-k3 kimi-linear"),
    ("leading_dense_block_count", "bailingmoe3 cohere2moe dots3note laguna"),
    ("logit_scale", "cohere2 cohere2moe granite granite_swa granitemoe graniteswitch muse-glimmer talkie"),
    ("moe_every_n_layers", "nomic-bert-moe"),
    ("residual_scale", "minimax-01"),
    ("rope.dimension_sections", "qwen2vl qwen35 qwen35moe qwen3tts qwen3vl qwen3vlmoe qwen4exp"),
    ("shortconv.l_cache", "lfm2 lfm2moe"),
    (
        "ssm.conv_kernel",
        "\
            bailingmoe3 falcon-h1 glm5-next granitehybrid jamba kimi-k3 kimi-linear mamba mamba2 nemotron_h nemotron_h_moe plamo2 \
            qwen35 qwen35moe qwen3next qwen4exp",
    ),
    ("ssm.group_count", "falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe plamo2 qwen35 qwen35moe qwen3next qwen4exp"),
    (
        "ssm.inner_size ssm.state_size ssm.time_step_rank",
        "\
            falcon-h1 granitehybrid jamba mamba mamba2 nemotron_h nemotron_h_moe plamo2 qwen35 qwen35moe qwen3next qwen4exp",
    ),
    ("swiglu_clamp_exp", "deepseek4 maple"),
    ("target_hidden_size", "eagle3"),
    ("time_decay_extra_dim time_mix_extra_dim", "rwkv6 rwkv6qwen2"),
    ("use_parallel_residual", "gptneox"),
    ("wkv.head_size", "arwkv7 rwkv6 rwkv6qwen2 rwkv7"),
];

/// Keys that every model needs.
const NEEDED_BY_ALL: &[&str] = &["context_length", "embedding_length", "block_count"];

/// Dense transformers; without these keys, llama.cpp rejects their tensor shapes.
const DENSE: &str = "\
    bert cohere2 command-r falcon gemma gemma-embedding gemma2 gemma3 glm4 granite hunyuan-dense llama mistral3 olmo2 phi3 qwen2 \
    qwen2vl qwen3 qwen3vl smollm3 starcoder2";
const NEEDED_BY_DENSE: &[&str] = &["attention.head_count", "feed_forward_length"];

/// Two keys that require each other.
const EXPERTS: [&str; 2] = ["expert_count", "expert_used_count"];

/// Tokenizers that need merges, and the pre-tokenizer of one of them that does not.
const WITH_MERGES: &[&str] = &["gpt2", "hybriddna", "whitespace", "gemma4"];
const WITHOUT_MERGES: &str = "kimi-k2";

/// Whether a space-separated list contains a name.
fn has(names: &str, name: &str) -> bool {
    names.split(' ').any(|one| one == name)
}

/// Returns the type that a key must have in a model of this architecture, if known, and whether llama.cpp rejects others.
pub(crate) fn type_of(key: &str, architecture: &str) -> Option<(KeyType, bool)> {
    let by_name = |key: &str| KEYS.iter().find(|group| group.keys.contains(&key)).map(|group| (group.key_type, group.read));
    if let Some(found) = by_name(key) {
        return Some(found);
    }
    if key.strip_prefix(TOKEN_IDS.0).is_some_and(|rest| rest.ends_with(TOKEN_IDS.1)) {
        return Some((One(U32), true));
    }
    if ["general.base_model.", "general.dataset.", "tokenizer.chat_template."].iter().any(|start| key.starts_with(start)) {
        return Some((One(String), false));
    }
    let rest = key.strip_prefix(architecture)?.strip_prefix('.')?;
    let (key_type, _) = ARCHITECTURE_KEYS.iter().find(|(_, keys)| has(keys, rest))?;
    Some((*key_type, true))
}

impl KeyType {
    /// Whether a value has this type; `layers` is the number of layers of the model.
    pub(crate) fn fits(self, value: &Value, layers: Option<u64>) -> bool {
        match self {
            One(value_type) => value.value_type() == value_type,
            Whole => value.as_u64().is_some() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
            ArrayOf(elem) => value.as_array().is_some_and(|array| array.elem() == elem),
            Bytes => value.as_array().is_some_and(|array| matches!(array.elem(), ValueType::U8 | ValueType::I8)),
            PerLayer(elem) => match value.as_array() {
                None => value.value_type() == elem,
                Some(array) => {
                    (array.elem() == elem || elem == U32 && array.elem() == I32) && layers.is_none_or(|layers| array.len() == layers)
                }
            },
            LayerPattern => match value.as_array() {
                None => value.value_type() == U32,
                Some(array) => [Bool, U32, I32].contains(&array.elem()) && layers.is_none_or(|layers| array.len() == layers),
            },
        }
    }

    /// Describes the type for a message.
    pub(crate) fn describe(self, layers: Option<u64>) -> std::string::String {
        match self {
            One(value_type) => value_type.to_string(),
            Whole => "an integer".to_owned(),
            ArrayOf(elem) => format!("an array of {elem}"),
            Bytes => "an array of u8".to_owned(),
            PerLayer(elem) => match layers {
                Some(layers) => format!("{elem}, or an array of {layers} of them"),
                None => format!("{elem}, or an array of them"),
            },
            LayerPattern => "u32, or an array of bool with one element per layer".to_owned(),
        }
    }
}

/// Returns the missing keys that llama.cpp requires, with their severity: a note for tokenizer keys of a file that was deliberately made
/// without a tokenizer. Files that declare themselves not to be a model (adapter, projector, importance matrix, later part of a split) need
/// none.
pub(crate) fn missing(metadata: &Metadata) -> Vec<(std::string::String, Severity)> {
    let text = |key: &str| metadata.get_str(key).unwrap_or_default();
    if !["", "model"].contains(&text("general.type")) || metadata.get_u64("split.no").is_some_and(|no| no > 0) {
        return Vec::new();
    }
    let architecture = text("general.architecture");
    if architecture.is_empty() {
        return vec![("general.architecture".to_owned(), Severity::Error)];
    }
    if architecture == "clip" {
        return Vec::new();
    }
    let own = NEEDED.iter().filter(|(_, architectures)| has(architectures, architecture)).flat_map(|(keys, _)| keys.split(' '));
    let own: BTreeSet<&str> = own.collect();
    let all = NEEDED_BY_ALL.iter().copied().chain(own);
    let mut needed: Vec<_> = all.map(|key| (format!("{architecture}.{key}"), Severity::Error)).collect();
    if has(DENSE, architecture) {
        needed.extend(NEEDED_BY_DENSE.iter().map(|key| (format!("{architecture}.{key}"), Severity::Error)));
    }
    if EXPERTS.iter().any(|key| metadata.get_u64(&format!("{architecture}.{key}")).is_some_and(|count| count > 0)) {
        needed.extend(EXPERTS.iter().map(|key| (format!("{architecture}.{key}"), Severity::Error)));
    }
    // Deliberately made without a tokenizer.
    let bare = !metadata.iter().any(|(key, _)| key.starts_with("tokenizer."));
    needed.push(("tokenizer.ggml.model".to_owned(), if bare { Severity::Warning } else { Severity::Error }));
    let tokenizer = text("tokenizer.ggml.model");
    let mut vocabulary = |key: &str| needed.push((key.to_owned(), Severity::Error));
    if !["", "no_vocab", "none"].contains(&tokenizer) {
        vocabulary("tokenizer.ggml.tokens");
    }
    if WITH_MERGES.contains(&tokenizer) && text("tokenizer.ggml.pre") != WITHOUT_MERGES {
        vocabulary("tokenizer.ggml.merges");
    }
    if architecture == "bert" && !bare {
        vocabulary("tokenizer.ggml.token_type_count");
    }
    needed.retain(|(key, _)| metadata.get(key).is_none());
    needed
}
