//! What part of a model a tensor is, by its name: the patterns of `tables/_components.toml`, and those of a family's own table.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::base::limits;
use crate::family::components::Component::*;
use crate::family::components::Pattern::*;

/// The parts that weights are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// The names that tell a component, as tables have them: see `tables/_components.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRow {
    component: Component,
    /// Whether these are tables that follow from the hyperparameters.
    #[serde(default)]
    computed: bool,
    /// Patterns with spaces between.
    names: String,
}

/// The rows that hold for models of any family.
static GENERAL: LazyLock<Vec<(Pattern, Component, bool)>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        components: Vec<ComponentRow>,
    }
    // A test sees to it that the embedded file can be read.
    toml::from_str::<File>(include_str!("tables/_components.toml")).map(|file| patterns(&file.components)).unwrap_or_default()
});

/// What a name is searched for. Only `Whole` may have dots in it.
#[derive(Debug, Clone)]
enum Pattern {
    /// These consecutive parts between dots.
    Whole(String),
    /// A part that starts so.
    Start(String),
    /// A part that ends so.
    End(String),
    /// A part that has this in it.
    Within(String),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(_), Some(_)) => Self::Within(text.trim_matches('*').to_owned()),
            (Some(end), None) => Self::End(end.to_owned()),
            (None, Some(start)) => Self::Start(start.to_owned()),
            (None, None) => Self::Whole(text.to_owned()),
        }
    }
}

fn patterns(rows: &[ComponentRow]) -> Vec<(Pattern, Component, bool)> {
    let of = |row: &ComponentRow| {
        row.names.split_whitespace().map(|name| (Pattern::parse(name), row.component, row.computed)).collect::<Vec<_>>()
    };
    rows.iter().flat_map(of).collect()
}

/// The parts of a name that a layer's number follows.
const LAYER_LISTS: &[&str] = &["blk", "layers", "layer", "h", "block", "blocks"];

/// The names by which the tensors of one model are told: those of its family's table, then those of all families.
#[derive(Debug, Clone, Default)]
pub struct Components {
    own: Vec<(Pattern, Component, bool)>,
}

impl Components {
    /// Returns the rows of a family's table over those of all families.
    pub fn with(own: &[ComponentRow]) -> Self {
        Self { own: patterns(own) }
    }

    /// Returns where the tensor of this name belongs.
    pub fn place(&self, name: &str) -> Place {
        if name.len() > limits::NAME_BYTES {
            return Place { component: Other, layer: None, computed: false };
        }
        let parts: Vec<&str> = name.split('.').collect();
        // The name from each part on.
        let rests: Vec<&str> = std::iter::successors(Some(name), |rest| Some(rest.split_once('.')?.1)).collect();
        let ends = |after: &str| after.is_empty() || after.starts_with('.');
        let matches = |pattern: &Pattern| match pattern {
            Whole(text) => rests.iter().any(|rest| rest.strip_prefix(text.as_str()).is_some_and(ends)),
            Start(text) => rests.iter().any(|rest| rest.starts_with(text)),
            End(text) => parts.iter().any(|part| part.ends_with(text)),
            Within(text) => name.contains(text),
        };
        let layer = parts.windows(2).find(|pair| LAYER_LISTS.contains(&pair[0])).and_then(|pair| pair[1].parse().ok());
        let known = self.own.iter().chain(&*GENERAL).find(|(pattern, ..)| matches(pattern));
        let (component, computed) = known.map_or((Other, false), |(_, component, computed)| (*component, *computed));
        Place { component, layer, computed }
    }
}

/// Returns where a tensor of this name belongs in a model of any family.
pub fn place(name: &str) -> Place {
    Components::default().place(name)
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
    fn the_names_of_a_family_go_before_those_of_all() {
        let row = ComponentRow { component: Attention, computed: false, names: "mixer *_mix".to_owned() };
        let components = Components::with(&[row]);
        for (name, component) in [("blk.0.mixer.weight", Attention), ("h.1.time_mix.norm", Attention), ("h.1.norm", Norm)] {
            assert_eq!(components.place(name).component, component, "{name}");
        }
        assert_eq!(place("blk.0.mixer.weight").component, Other);
    }

    #[test]
    fn names_lead_back() {
        for component in Component::ALL {
            assert_eq!(serde_json::to_value(component).unwrap(), component.name());
        }
    }
}
