//! The mixes of llama.cpp's file types, as data. Source: llama.cpp's `src/llama-quant.cpp` (0c1e570).

use crate::model::DType::{self, *};
use crate::quant::recipe::Category;
use crate::quant::recipe::Category::*;

/// A rule: assigns a type to tensors of these categories in these file types, if all conditions hold.
#[derive(Debug)]
pub(super) struct Rule {
    /// File type names separated by spaces; empty for any.
    pub file_types: &'static str,
    /// The categories; empty for any.
    pub categories: &'static [Category],
    /// Further conditions.
    pub when: &'static [When],
    /// The type; `None` for the base type of the file type.
    pub to: Option<DType>,
}

/// A condition. `n` is the number of layers (for attention values, of such tensors), `i` the layer index (see [`super`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    /// i < n / d, with integer division.
    Below(u64),
    /// The same with the running count, even if layers are identified by name.
    CountBelow(u64),
    /// i < k.
    First(u64),
    /// i is in the first or last eighth, or every third in between.
    More,
    /// i is in neither the first nor the last eighth.
    Middle,
    /// At least four query heads per KV head.
    Gqa4,
    /// At least four experts.
    Experts4,
    /// Eight experts.
    Experts8,
    /// An importance matrix is given.
    Imatrix,
    /// No importance matrix is given.
    NoImatrix,
    /// The architecture equals this.
    Arch(&'static str),
    /// The architecture differs from this.
    NotArch(&'static str),
    /// The row length is not a multiple of the base type's block size.
    CutRow,
    /// The tensor is a stack of matrices.
    Stack,
    /// The tensor name contains this.
    Named(&'static str),
    /// The model has the dimensions of Llama 70B: see [`SIZE_70B`].
    Size70B,
}

use When::*;

const fn rule(file_types: &'static str, categories: &'static [Category], when: &'static [When], to: DType) -> Rule {
    Rule { file_types, categories, when, to: Some(to) }
}

const fn base(file_types: &'static str, categories: &'static [Category], when: &'static [When]) -> Rule {
    Rule { file_types, categories, when, to: None }
}

const FALCON: When = Arch("falcon");
const NO_FALCON: When = NotArch("falcon");
const VALUES: &[Category] = &[AttentionV, AttentionQkv, AttentionKvB];

/// The first matching rule determines the type; otherwise the base type is used.
#[rustfmt::skip]
pub(super) static RULES: &[Rule] = &[
    rule("", &[], &[Arch("glm5-next"), Named("attn_q_a")], Q8_0),
    rule("", &[], &[Arch("glm5-next"), Named("attn_q_b")], Q8_0),
    rule("", &[], &[Arch("glm5-next"), Named("nextn.eh_proj")], Q8_0),

    // The output matrix, or the embeddings if tied.
    rule("MXFP4_MOE", &[Output], &[], Q8_0),
    rule("", &[Output], &[FALCON], Q8_0),
    rule("", &[Output], &[CutRow], Q8_0),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS", &[Output], &[], Q5_K),
    base("Q8_0", &[Output], &[]),
    rule("", &[Output], &[], Q6_K),

    rule("MXFP4_MOE", &[], &[Stack, NotArch("bailingmoe3")], MXFP4),
    rule("MXFP4_MOE", &[FeedForwardUp, FeedForwardGate, FeedForwardDown], &[Stack], MXFP4),
    rule("MXFP4_MOE", &[], &[], Q8_0),

    // The embeddings next to a separate output matrix.
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS", &[Embedding], &[], Q2_K),
    rule("IQ2_S IQ2_M IQ3_XXS", &[Embedding], &[], IQ3_S),
    rule("TQ1_0 TQ2_0 Q2_0", &[Embedding], &[], Q4_K),
    base("", &[Embedding], &[]),

    // Two bits and fewer.
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M", VALUES, &[Gqa4], Q4_K),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M", VALUES, &[Experts4], Q4_K),
    rule("IQ2_S IQ2_M", VALUES, &[], IQ3_S),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS", VALUES, &[], Q2_K),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M", &[AttentionK], &[Experts8], Q4_K),
    rule("IQ2_S IQ2_M", &[FeedForwardDown], &[CountBelow(8)], IQ3_S),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS", &[FeedForwardDown], &[CountBelow(8)], Q2_K),
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M", &[AttentionOutput], &[Experts8], Q5_K),
    rule("IQ1_S IQ1_M", &[AttentionOutput], &[], IQ2_XXS),
    rule("IQ2_S IQ2_M", &[AttentionOutput], &[], IQ3_S),
    base("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M", &[], &[]),

    rule("", VALUES, &[Experts8], Q8_0),
    rule("Q2_K", VALUES, &[Gqa4], Q4_K),
    rule("Q2_K", VALUES, &[], Q3_K),
    rule("Q2_K_S", VALUES, &[Gqa4], Q4_K),
    rule("IQ3_XXS", VALUES, &[Gqa4], Q4_K),
    rule("IQ3_XXS", VALUES, &[NoImatrix], IQ3_S),
    rule("IQ3_XS IQ3_S", VALUES, &[Gqa4], Q4_K),
    rule("IQ3_M", VALUES, &[], Q4_K),
    rule("Q3_K_M", VALUES, &[First(2)], Q5_K),
    rule("Q3_K_M", VALUES, &[], Q4_K),
    rule("Q3_K_L", VALUES, &[], Q5_K),
    rule("IQ4_NL IQ4_XS", VALUES, &[Gqa4], Q5_K),
    rule("Q4_K_M Q5_K_M", VALUES, &[More], Q6_K),
    rule("Q4_K_S", VALUES, &[First(4)], Q5_K),

    rule("", &[AttentionK], &[Experts8], Q8_0),
    rule("IQ3_XS", &[AttentionK, AttentionQ], &[], IQ3_XXS),
    rule("IQ3_XXS", &[AttentionK, AttentionQ], &[], IQ2_S),

    rule("Q2_K", &[FeedForwardDown], &[], Q3_K),
    rule("Q2_K_S", &[FeedForwardDown], &[Below(8)], Q4_K),
    rule("IQ3_XXS", &[FeedForwardDown], &[NoImatrix, Below(8)], Q4_K),
    rule("IQ3_XXS", &[FeedForwardDown], &[NoImatrix], Q3_K),
    rule("Q3_K_M", &[FeedForwardDown], &[Below(16)], Q5_K),
    rule("Q3_K_M", &[FeedForwardDown], &[NO_FALCON], Q4_K),
    rule("Q3_K_M", &[FeedForwardDown], &[More], Q4_K),
    rule("IQ3_M", &[FeedForwardDown], &[Below(8)], Q4_K),
    rule("IQ3_M", &[FeedForwardDown], &[Experts8, More], Q4_K),
    rule("Q3_K_L", &[FeedForwardDown], &[FALCON], Q4_K),
    rule("Q3_K_L", &[FeedForwardDown], &[], Q5_K),
    rule("Q4_K_M", &[FeedForwardDown], &[FALCON, Below(16)], Q6_K),
    rule("Q4_K_M", &[FeedForwardDown], &[FALCON, More], Q5_K),
    rule("Q4_K_M Q5_K_M", &[FeedForwardDown], &[NO_FALCON, More], Q6_K),
    rule("Q5_K_M", &[FeedForwardDown], &[More], Q6_K),
    rule("IQ4_NL IQ4_XS", &[FeedForwardDown], &[NoImatrix, Below(8)], Q5_K),
    rule("Q4_K_S", &[FeedForwardDown], &[NO_FALCON, Below(8)], Q5_K),
    rule("Q4_0", &[FeedForwardDown], &[Imatrix, Below(8)], Q4_1),
    rule("Q5_0", &[FeedForwardDown], &[Imatrix, Below(8)], Q5_1),

    rule("Q3_K_L", &[AttentionOutput], &[FALCON], Q4_K),
    base("", &[AttentionOutput], &[FALCON]),
    rule("Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS", &[AttentionOutput], &[Experts8], Q5_K),
    base("", &[AttentionOutput], &[Experts8]),
    rule("Q2_K", &[AttentionOutput], &[], Q3_K),
    rule("IQ3_XXS", &[AttentionOutput], &[], IQ3_S),
    rule("Q3_K_M", &[AttentionOutput], &[], Q4_K),
    rule("Q3_K_L", &[AttentionOutput], &[], Q5_K),
    rule("IQ3_M", &[AttentionOutput], &[], Q4_K),

    rule("IQ3_XS", &[FeedForwardGate, FeedForwardUp], &[Middle], IQ3_XXS),
];

/// Applied after the rules: in a 70B with eight query heads per KV head, raises attention values to Q5_K.
pub(super) static RAISED_IN_70B: Rule =
    rule("Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS", VALUES, &[Size70B], Q5_K);

/// The types that [`RAISED_IN_70B`] applies to.
pub(super) static RAISED_FROM: &[DType] = &[Q3_K, Q4_K];

/// Architectures and layer counts of models that count as 70B; the flag requires grouped-query attention.
pub(super) static SIZE_70B: &[(&str, u64, bool)] =
    &[("llama", 80, true), ("qwen2", 80, false), ("deci", 80, false), ("olmo", 80, false), ("jais2", 68, false)];

/// The fallback of a type if the row length is not a multiple of its block size. If there is none, or it does not fit either, F16 is used.
pub(super) static FALLBACKS: &[(DType, DType)] = &[
    (IQ1_S, IQ4_NL),
    (IQ1_M, IQ4_NL),
    (IQ2_XXS, IQ4_NL),
    (IQ2_XS, IQ4_NL),
    (IQ2_S, IQ4_NL),
    (IQ3_XXS, IQ4_NL),
    (IQ3_S, IQ4_NL),
    (IQ4_XS, IQ4_NL),
    (Q2_0, Q4_0),
    (Q2_K, Q4_0),
    (Q3_K, Q4_0),
    (TQ1_0, Q4_0),
    (TQ2_0, Q4_0),
    (Q4_K, Q5_0),
    (Q5_K, Q5_1),
    (Q6_K, Q8_0),
];

/// Types that are unusable without an importance matrix.
pub(super) static NEED_IMATRIX: &[DType] = &[IQ3_XXS, IQ2_XXS, IQ2_XS, IQ2_S, IQ1_M, IQ1_S];

/// Types that are unusable without one in a certain file type.
pub(super) static NEED_IMATRIX_IN: &[(&str, DType)] = &[("Q2_K_S", Q2_K)];

/// Maps names to categories, in order of precedence: by full name (true) or substring.
pub(super) static CATEGORIES: &[(&str, bool, Category)] = &[
    ("output.weight", true, Output),
    ("token_embd.weight", true, Embedding),
    ("per_layer_token_embd.weight", true, Embedding),
    ("attn_qkv.weight", false, AttentionQkv),
    ("attn_kv_b.weight", false, AttentionKvB),
    ("attn_v.weight", false, AttentionV),
    ("attn_k.weight", false, AttentionK),
    ("attn_q.weight", false, AttentionQ),
    ("attn_output.weight", false, AttentionOutput),
    ("ffn_up", false, FeedForwardUp),
    ("ffn_gate", false, FeedForwardGate),
    ("ffn_down", false, FeedForwardDown),
];

/// Tensors that are never quantised, by full name.
pub(super) static NEVER: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Tensors that are never quantised, by substring: norms, routers, and tensors too small or sensitive.
pub(super) static NEVER_WITH: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same, for specific architectures.
pub(super) static NEVER_IN: &[(&str, &[&str])] = &[(
    "glm5-next",
    &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
)];

/// How much a relative error of a tensor's output adds to the loss of a model, beside that of tensors that are not listed. Measured as the
/// KL divergence of models in which only tensors of one category are quantised (`benches/mixes.py`), rounded.
pub(super) static SENSITIVITIES: &[(Category, f64)] = &[
    (Embedding, 100.0),
    (Output, 100.0),
    (AttentionQ, 3.0),
    (AttentionQkv, 3.0),
    (AttentionK, 2.0),
    (AttentionKvB, 2.0),
    (AttentionV, 1.5),
    (AttentionOutput, 0.5),
    (FeedForwardDown, 3.0),
];
