//! Classifies tensors by component of the model, using the patterns in `tables/_components.toml` and in family tables.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::base::limits;
use crate::family::components::Component::*;
use crate::family::components::Pattern::*;

/// The components by which weights are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Component {
    /// Embeddings of tokens, positions, token types.
    Embedding,
    /// Attention, including biases.
    Attention,
    /// Dense feed-forward networks and shared experts.
    FeedForward,
    /// Routed experts.
    Experts,
    /// The expert router.
    Router,
    /// All normalisation layers.
    Norm,
    /// The output matrix and heads.
    Output,
    /// An encoder of pictures.
    Vision,
    /// An encoder of sounds.
    Audio,
    /// Projection of the output of an encoder to the text model's embeddings.
    Projector,
    /// Anything else.
    Other,
}

impl Component {
    /// All components in display order.
    pub const ALL: &'static [Component] =
        &[Embedding, Attention, FeedForward, Experts, Router, Norm, Output, Vision, Audio, Projector, Other];

    /// Returns the name in weigh's output.
    pub fn name(self) -> &'static str {
        ["embedding", "attention", "feed_forward", "experts", "router", "norm", "output", "vision", "audio", "projector", "other"]
            [self as usize]
    }

    /// Whether it belongs to an encoder of pictures or sounds, whose layers are not those of the model.
    pub fn is_encoder(self) -> bool {
        matches!(self, Vision | Audio | Projector)
    }
}

/// The role of a tensor in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classification {
    /// The component.
    pub component: Component,
    /// The layer index, if it is in a layer.
    pub layer: Option<u64>,
    /// Whether it is derived from hyperparameters, and so contains no parameters.
    pub computed: bool,
}

/// A component's name patterns in a table: see `tables/_components.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRow {
    component: Component,
    /// Whether these tensors are derived from hyperparameters.
    #[serde(default)]
    computed: bool,
    /// Patterns separated by spaces.
    names: String,
}

/// The patterns for all families.
static GENERAL: LazyLock<Vec<(Pattern, Component, bool)>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        components: Vec<ComponentRow>,
    }
    // A test checks that the embedded file is valid.
    toml::from_str::<File>(include_str!("tables/_components.toml")).map(|file| patterns(&file.components)).unwrap_or_default()
});

/// A pattern for a name. Only `Parts` may contain dots.
#[derive(Debug, Clone)]
enum Pattern {
    /// This part between dots.
    Part(String),
    /// These consecutive dot-separated parts.
    Parts(String),
    /// A part with this prefix.
    Start(String),
    /// A part with this suffix.
    End(String),
    /// A part containing this.
    Within(String),
    /// A name with this prefix.
    First(String),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        if let Some(start) = text.strip_prefix('^') {
            return Self::First(start.to_owned());
        }
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(_), Some(_)) => Self::Within(text.trim_matches('*').to_owned()),
            (Some(end), None) => Self::End(end.to_owned()),
            (None, Some(start)) => Self::Start(start.to_owned()),
            (None, None) if text.contains('.') => Self::Parts(text.to_owned()),
            (None, None) => Self::Part(text.to_owned()),
        }
    }
}

fn patterns<'r>(rows: impl IntoIterator<Item = &'r ComponentRow>) -> Vec<(Pattern, Component, bool)> {
    let of = |row: &ComponentRow| {
        row.names.split_whitespace().map(|name| (Pattern::parse(name), row.component, row.computed)).collect::<Vec<_>>()
    };
    rows.into_iter().flat_map(of).collect()
}

/// The parts of a name that precede a layer index.
const LAYER_LISTS: &[&str] = &["blk", "layers", "layer", "h", "block", "blocks"];

/// The component patterns for one model: those of its family's tables, each before the general ones of its kind. Those of encoders go first, so
/// that the norms and attention of an encoder are not counted as the text model's.
#[derive(Debug, Clone, Default)]
pub struct Components {
    encoders: Vec<(Pattern, Component, bool)>,
    others: Vec<(Pattern, Component, bool)>,
}

impl Components {
    /// Returns the patterns of a family's tables and the general ones.
    pub fn with<'r>(own: impl IntoIterator<Item = &'r ComponentRow>) -> Self {
        let (encoders, others) = patterns(own).into_iter().partition(|(_, component, _)| component.is_encoder());
        Self { encoders, others }
    }

    /// Classifies the tensor with this name.
    pub fn classify(&self, name: &str) -> Classification {
        if name.len() > limits::NAME_BYTES {
            return Classification { component: Other, layer: None, computed: false };
        }
        let parts: Vec<&str> = name.split('.').collect();
        // The name from each part on.
        let rests: Vec<&str> = std::iter::successors(Some(name), |rest| Some(rest.split_once('.')?.1)).collect();
        let ends = |after: &str| after.is_empty() || after.starts_with('.');
        let matches = |pattern: &Pattern| match pattern {
            // Most patterns are of this kind, and most parts of another length.
            Part(text) => parts.iter().any(|part| part == text),
            Parts(text) => rests.iter().any(|rest| rest.strip_prefix(text.as_str()).is_some_and(ends)),
            Start(text) => parts.iter().any(|part| part.starts_with(text)),
            End(text) => parts.iter().any(|part| part.ends_with(text)),
            Within(text) => name.contains(text),
            First(text) => name.starts_with(text),
        };
        let layer = parts.windows(2).find(|pair| LAYER_LISTS.contains(&pair[0])).and_then(|pair| pair[1].parse().ok());
        // The general ones begin with those of encoders, and of what is computed.
        let first = GENERAL.partition_point(|(_, component, computed)| component.is_encoder() || *computed);
        let (encoders, others) = GENERAL.split_at(first);
        let mut all = self.encoders.iter().chain(encoders).chain(&self.others).chain(others);
        let known = all.find(|(pattern, ..)| matches(pattern));
        let (component, computed) = known.map_or((Other, false), |(_, component, computed)| (*component, *computed));
        Classification { component, layer: layer.filter(|_| !component.is_encoder()), computed }
    }
}

/// Classifies a tensor of any family by its name.
pub fn classify(name: &str) -> Classification {
    Components::default().classify(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_are_classified() {
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
            ("v.blk.3.attn_q.weight", Vision, None),
            ("v.post_ln.bias", Vision, None),
            ("a.blk.3.ffn_up.weight", Audio, None),
            ("mm.0.weight", Projector, None),
            ("mm.a.mlp.1.weight", Projector, None),
            ("model.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight", Vision, None),
            ("model.visual.blocks.3.norm1.weight", Vision, None),
            ("model.visual.merger.mlp.0.weight", Projector, None),
            ("audio_tower.layers.3.fc1.weight", Audio, None),
            ("model.multi_modal_projector.linear_1.weight", Projector, None),
            ("blk.0.SelfAttention.v.weight", Attention, Some(0)),
            ("conv.0.kernel", Other, None),
        ] {
            let found = classify(name);
            assert_eq!((found.component, found.layer, found.computed), (component, layer, false), "{name}");
        }
    }

    #[test]
    fn names_of_any_length_are_classified_cheaply() {
        // Tables of the parts of 200 such names would take 30 GB.
        let long = "h.0.attn.".repeat(1 << 20);
        for _ in 0..200 {
            assert_eq!(classify(&long), Classification { component: Other, layer: None, computed: false });
        }
        assert_eq!(classify(&long[..4096 / 9 * 9]).layer, Some(0));
    }

    #[test]
    fn derived_tables_are_distinguished_from_biases() {
        for name in ["rope_freqs.weight", "h.0.attn.bias", "embeddings.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq"] {
            assert!(classify(name).computed, "{name}");
        }
        for name in ["h.0.attn.c_attn.bias", "layers.0.attention.dense.bias", "embeddings.position_embeddings.weight"] {
            assert!(!classify(name).computed, "{name}");
        }
    }

    #[test]
    fn family_patterns_take_precedence() {
        let row = ComponentRow { component: Attention, computed: false, names: "mixer *_mix".to_owned() };
        let components = Components::with(&[row]);
        for (name, component) in [("blk.0.mixer.weight", Attention), ("h.1.time_mix.norm", Attention), ("h.1.norm", Norm)] {
            assert_eq!(components.classify(name).component, component, "{name}");
        }
        assert_eq!(classify("blk.0.mixer.weight").component, Other);
    }

    #[test]
    fn names_round_trip() {
        for component in Component::ALL {
            assert_eq!(serde_json::to_value(component).unwrap(), component.name());
        }
    }
}
