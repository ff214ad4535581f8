//! Which weights of a model are packed, and which of them share a scale.

use std::collections::BTreeMap;

use super::Form;
use crate::family::components::{self, Component};

/// The end of the name of a weight.
const WEIGHT: &str = ".weight";

/// The reason why a tensor is not packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpacked {
    /// It is no matrix of a linear layer: a bias, a norm, a convolution.
    NotLinear,
    /// Experts in one stack, which engines have one by one.
    Stack,
    /// A matrix that quantisation harms: embeddings, the output, routers, encoders of pictures and sounds.
    Kept(Component),
}

/// Returns the reason why a tensor is not packed; `None` if it is.
///
/// Norms and what is no matrix is never packed, as in llm-compressor; embeddings, output, routers and encoders are what its published
/// recipes for models leave as they are. MLX packs embeddings and output too.
pub fn unpacked(form: Form, name: &str, shape: &[u64]) -> Option<Unpacked> {
    let component = components::classify(name).component;
    if shape.len() == 3 && component == Component::Experts {
        return Some(Unpacked::Stack);
    }
    let Some(module) = name.strip_suffix(WEIGHT) else { return Some(Unpacked::NotLinear) };
    if shape.len() != 2 || module.ends_with("norm") || component == Component::Norm {
        return Some(Unpacked::NotLinear);
    }
    let kept = match component {
        Component::Embedding | Component::Output => form == Form::CompressedTensors,
        Component::Router => true,
        other => other.is_encoder(),
    };
    kept.then_some(Unpacked::Kept(component))
}

/// Weights that engines join to one, so that they share the scale of the whole (llm-compressor, entrypoints/model_free/microscale.py): the
/// ends of what precedes them, and their names.
const FUSED: [(&[&str], &[&str]); 4] = [
    (&["attn.", "attention."], &["q_proj", "k_proj", "v_proj"]),
    (&["attn.", "attention."], &["wq_a", "wkv_a_with_mqa"]),
    (&["mlp."], &["gate_proj", "up_proj"]),
    (&[""], &["w1", "w3"]),
];

/// Returns sets of weights that share the scale of the whole, by index.
pub fn fused(names: &[&str]) -> Vec<Vec<usize>> {
    let mut sets = Vec::new();
    for (ends, members) in FUSED {
        let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let Some(module) = name.strip_suffix(WEIGHT) else { continue };
            let before = members.iter().find_map(|member| module.strip_suffix(member));
            if let Some(before) = before.filter(|before| ends.iter().any(|end| before.ends_with(end))) {
                found.entry(before).or_default().push(index);
            }
        }
        sets.extend(found.into_values().filter(|set| set.len() == members.len()));
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_layers_are_packed_and_others_are_not() {
        use Component::*;
        use Unpacked::*;
        for (name, rank, expected) in [
            ("model.layers.0.self_attn.q_proj.weight", 2, None),
            ("model.layers.0.mlp.experts.3.gate_proj.weight", 2, None),
            ("model.layers.0.mlp.shared_expert.up_proj.weight", 2, None),
            ("model.layers.0.linear_attn.in_proj_qkvz.weight", 2, None),
            ("model.layers.0.mlp.gate.weight", 2, Some(Kept(Router))),
            ("model.layers.0.mlp.shared_expert_gate.weight", 2, Some(Kept(Router))),
            ("model.layers.0.mlp.experts.gate_up_proj", 3, Some(Stack)),
            ("model.layers.0.linear_attn.conv1d.weight", 3, Some(NotLinear)),
            ("model.layers.0.input_layernorm.weight", 1, Some(NotLinear)),
            ("model.embed_tokens.weight", 2, Some(Kept(Embedding))),
            ("model.layers.1.ple.ple_embedding.ngram_embedding.shard_0.weight", 2, Some(Kept(Embedding))),
            ("lm_head.weight", 2, Some(Kept(Output))),
            ("model.visual.blocks.3.attn.qkv.weight", 2, Some(Kept(Vision))),
        ] {
            let shape = vec![64; rank];
            assert_eq!(unpacked(Form::CompressedTensors, name, &shape), expected, "{name}");
        }
        assert_eq!(unpacked(Form::Mlx, "model.embed_tokens.weight", &[64, 64]), None);
        assert_eq!(unpacked(Form::Mlx, "lm_head.weight", &[64, 64]), None);
    }

    #[test]
    fn weights_that_engines_join_share_a_scale() {
        let names = [
            "model.layers.0.self_attn.v_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.layers.1.self_attn.k_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.1.mlp.experts.0.gate_proj.weight",
            "model.layers.1.mlp.experts.0.up_proj.weight",
            "model.layers.1.block_sparse_moe.experts.7.w3.weight",
            "model.layers.1.block_sparse_moe.experts.7.w1.weight",
        ];
        assert_eq!(fused(&names), [vec![0, 1, 2], vec![5, 6], vec![9, 10]]);
    }
}
