//! What part of a model a tensor is, by its name: a table of patterns for Hugging Face, Meta and GGUF names.

use serde::Serialize;

use crate::base::limits;
use crate::family::components::Component::*;
use crate::family::components::Pattern::*;

/// The parts that weights are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Component {
    /// Tables of tokens, positions, token types.
    Embedding,
    /// Attention, with its biases.
    Attention,
    /// Feed-forward networks that every token passes, shared experts too.
    FeedForward,
    /// Feed-forward networks of which a router picks some for each token.
    Experts,
    /// What picks the experts.
    Router,
    /// Normalisations, wherever they are.
    Norm,
    /// From the last layer to the result: the output matrix, heads.
    Output,
    /// What no pattern knows.
    Other,
}

impl Component {
    /// Every component, in the order in which they are shown.
    pub const ALL: &'static [Component] = &[Embedding, Attention, FeedForward, Experts, Router, Norm, Output, Other];

    /// The name in weigh's output.
    pub fn name(self) -> &'static str {
        ["embedding", "attention", "feed_forward", "experts", "router", "norm", "output", "other"][self as usize]
    }
}

/// Where in a model a tensor belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What part it is.
    pub component: Component,
    /// The number of its layer, where it belongs to one.
    pub layer: Option<u64>,
    /// Whether it is a table that follows from the hyperparameters, so holds no parameters.
    pub computed: bool,
}

/// Tables that follow from the hyperparameters: rotations, positions, attention masks (as GPT-2 and GPT-NeoX store them).
const COMPUTED: &[&str] = &[
    "rope_freqs",
    "rope_factors_long",
    "rope_factors_short",
    "inv_freq",
    "cos_cached",
    "sin_cached",
    "position_ids",
    "token_type_ids",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
];

/// What a name is searched for. Only `Whole` may have dots in it.
enum Pattern {
    /// These consecutive parts between dots.
    Whole(&'static str),
    /// A part that starts so.
    Start(&'static str),
    /// A part that ends so.
    End(&'static str),
    /// A part that has this in it.
    Within(&'static str),
}

/// The first row that matches counts.
const PATTERNS: &[(Pattern, Component)] = &[
    (Within("norm"), Norm), // GGUF *_norm; HF input_layernorm, q_norm, norm1, final_layernorm
    (Within("LayerNorm"), Norm),
    (Start("ln_"), Norm), // GPT-2 ln_1, ln_f; Falcon ln_attn, ln_mlp
    (Start("ffn_gate_inp"), Router),
    (Whole("exp_probs_b"), Router),
    (Whole("block_sparse_moe.gate"), Router),
    (Whole("mlp.gate"), Router),
    (Whole("feed_forward.gate"), Router),
    (Whole("feed_forward.router"), Router),
    (Whole("mlp.router"), Router),
    (Whole("shared_expert_gate"), Router),
    (Whole("router"), Router),
    (End("_exps"), Experts),
    (Whole("experts"), Experts),
    (Whole("switch_mlp"), Experts), // mlx-lm
    (Whole("self_attn"), Attention),
    (Whole("self_attention"), Attention),
    (Whole("attention"), Attention),
    (Whole("attn"), Attention),
    (Start("attn_"), Attention),
    (Whole("crossattention"), Attention),
    (Start("cross_attn"), Attention),
    (Whole("SelfAttention"), Attention),
    (Whole("EncDecAttention"), Attention),
    (Whole("mlp"), FeedForward),
    (Whole("feed_forward"), FeedForward),
    (Whole("ffn"), FeedForward),
    (Start("ffn_"), FeedForward),
    (Whole("block_sparse_moe"), FeedForward),
    (Whole("intermediate.dense"), FeedForward), // BERT
    (Whole("output.dense"), FeedForward),       // BERT; its attention.output.dense is above
    (Whole("DenseReluDense"), FeedForward),     // T5
    (Whole("fc1"), FeedForward),
    (Whole("fc2"), FeedForward),
    (Start("embed_tokens"), Embedding),
    (Whole("embed_positions"), Embedding),
    (Whole("embed_in"), Embedding),
    (Whole("wte"), Embedding),
    (Whole("wpe"), Embedding),
    (Whole("tok_embeddings"), Embedding),
    (Whole("word_embeddings"), Embedding),
    (Whole("embeddings"), Embedding),
    (Whole("shared"), Embedding), // T5
    (Whole("token_embd"), Embedding),
    (Whole("position_embd"), Embedding),
    (Whole("token_types"), Embedding),
    (Whole("per_layer_token_embd"), Embedding),
    (Whole("lm_head"), Output),
    (Whole("output"), Output),
    (Whole("embed_out"), Output),
    (Whole("pooler"), Output),
    (Whole("classifier"), Output),
    (Whole("score"), Output),
    (Start("cls"), Output),
    (End("_Dense"), Output), // sentence-transformers
    (Start("dense_2"), Output),
    (Start("dense_3"), Output),
];

/// The parts of a name that a layer's number follows.
const LAYER_LISTS: &[&str] = &["blk", "layers", "layer", "h", "block", "blocks"];

/// Where the tensor of this name belongs.
pub fn place(name: &str) -> Place {
    if name.len() > limits::NAME_BYTES {
        return Place { component: Other, layer: None, computed: false };
    }
    let parts: Vec<&str> = name.split('.').collect();
    // The name from each part on.
    let rests: Vec<&str> = std::iter::successors(Some(name), |rest| Some(rest.split_once('.')?.1)).collect();
    let whole = |text: &str| {
        let ends = |after: &str| after.is_empty() || after.starts_with('.');
        rests.iter().any(|rest| rest.strip_prefix(text).is_some_and(ends))
    };
    let matches = |pattern: &Pattern| match pattern {
        Whole(text) => whole(text),
        Start(text) => rests.iter().any(|rest| rest.starts_with(text)),
        End(text) => parts.iter().any(|part| part.ends_with(text)),
        Within(text) => name.contains(text),
    };
    let layer = parts.windows(2).find(|pair| LAYER_LISTS.contains(&pair[0])).and_then(|pair| pair[1].parse().ok());
    let computed = COMPUTED.iter().any(|text| whole(text));
    let known = PATTERNS.iter().find(|(pattern, _)| !computed && matches(pattern));
    Place { component: known.map_or(Other, |(_, component)| *component), layer, computed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_find_their_component() {
        for (name, component, layer) in [
            ("model.embed_tokens.weight", Embedding, None),
            ("model.language_model.layers.11.self_attn.q_proj.bias", Attention, Some(11)),
            ("model.layers.3.self_attn.qkv_proj.weight", Attention, Some(3)),
            ("model.layers.0.self_attn.q_norm.weight", Norm, Some(0)),
            ("model.layers.0.post_feedforward_layernorm.weight", Norm, Some(0)),
            ("model.layers.0.mlp.gate_proj.weight", FeedForward, Some(0)),
            ("model.layers.0.mlp.gate_up_proj.weight", FeedForward, Some(0)),
            ("model.layers.0.mlp.gate.weight", Router, Some(0)),
            ("model.layers.7.mlp.experts.63.down_proj.weight", Experts, Some(7)),
            ("model.layers.7.mlp.shared_expert.down_proj.weight", FeedForward, Some(7)),
            ("model.layers.7.mlp.shared_expert_gate.weight", Router, Some(7)),
            ("model.layers.1.block_sparse_moe.experts.0.w1.weight", Experts, Some(1)),
            ("model.layers.1.block_sparse_moe.gate.weight", Router, Some(1)),
            ("model.layers.1.mlp.switch_mlp.gate_proj.weight", Experts, Some(1)),
            ("lm_head.weight", Output, None),
            ("model.norm.weight", Norm, None),
            ("bert.embeddings.word_embeddings.weight", Embedding, None),
            ("embeddings.LayerNorm.bias", Norm, None),
            ("encoder.layer.2.attention.output.dense.weight", Attention, Some(2)),
            ("encoder.layer.2.attention.output.LayerNorm.weight", Norm, Some(2)),
            ("encoder.layer.2.intermediate.dense.weight", FeedForward, Some(2)),
            ("encoder.layer.2.output.dense.weight", FeedForward, Some(2)),
            ("pooler.dense.weight", Output, None),
            ("tok_embeddings.weight", Embedding, None),
            ("layers.5.attention.wq.weight", Attention, Some(5)),
            ("layers.5.feed_forward.w1.weight", FeedForward, Some(5)),
            ("layers.5.attention_norm.weight", Norm, Some(5)),
            ("output.weight", Output, None),
            ("transformer.h.9.attn.c_attn.weight", Attention, Some(9)),
            ("transformer.h.9.ln_1.weight", Norm, Some(9)),
            ("h.9.mlp.c_fc.weight", FeedForward, Some(9)),
            ("gpt_neox.layers.4.attention.query_key_value.weight", Attention, Some(4)),
            ("gpt_neox.embed_in.weight", Embedding, None),
            ("embed_out.weight", Output, None),
            ("transformer.h.3.self_attention.query_key_value.weight", Attention, Some(3)),
            ("token_embd.weight", Embedding, None),
            ("blk.31.attn_output.weight", Attention, Some(31)),
            ("blk.31.attn_output_norm.weight", Norm, Some(31)),
            ("blk.31.ffn_down_exps.weight", Experts, Some(31)),
            ("blk.31.ffn_down_shexp.weight", FeedForward, Some(31)),
            ("blk.31.ffn_gate_inp.weight", Router, Some(31)),
            ("blk.31.ffn_up.weight", FeedForward, Some(31)),
            ("output_norm.weight", Norm, None),
            ("2_Dense.linear.weight", Output, None),
            ("dense_3.weight", Output, None),
            ("conv.0.kernel", Other, None),
        ] {
            let found = place(name);
            assert_eq!((found.component, found.layer, found.computed), (component, layer, false), "{name}");
        }
    }

    #[test]
    fn names_of_any_length_are_placed_in_little_work() {
        // Tables of the parts of 200 such names would take 30 GB.
        let long = "h.0.attn.".repeat(1 << 20);
        for _ in 0..200 {
            assert_eq!(place(&long), Place { component: Other, layer: None, computed: false });
        }
        assert_eq!(place(&long[..4096 / 9 * 9]).layer, Some(0));
    }

    #[test]
    fn computed_tables_are_told_from_biases() {
        for name in ["rope_freqs.weight", "h.0.attn.bias", "embeddings.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq"] {
            assert!(place(name).computed, "{name}");
        }
        for name in ["h.0.attn.c_attn.bias", "layers.0.attention.dense.bias", "embeddings.position_embeddings.weight"] {
            assert!(!place(name).computed, "{name}");
        }
    }

    #[test]
    fn names_lead_back() {
        for component in Component::ALL {
            assert_eq!(serde_json::to_value(component).unwrap(), component.name());
        }
    }
}
