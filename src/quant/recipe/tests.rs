use std::collections::BTreeMap;

use super::*;

/// Goldens: the types that llama-quantize chooses for the tensors of four models and 30 file types. `{}` stands for any layer.
type Goldens = BTreeMap<String, Golden>;

#[derive(serde::Deserialize)]
struct Golden {
    architecture: String,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    experts: u64,
    tensors: BTreeMap<String, Vec<u64>>,
    types: BTreeMap<String, BTreeMap<String, String>>,
}

/// A tensor of a golden.
struct Tensor<'g> {
    pattern: &'g str,
    layer: u64,
    name: String,
    shape: &'g [u64],
}

impl Golden {
    fn model(&self) -> (ModelTraits, Vec<Tensor<'_>>) {
        let traits = ModelTraits {
            architecture: self.architecture.clone(),
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            experts: self.experts,
        };
        let tensors = self.tensors.iter().flat_map(|(pattern, shape)| {
            let layers = if pattern.contains("{}") { self.layers } else { 1 };
            (0..layers).map(move |layer| Tensor { pattern, layer, name: pattern.replace("{}", &layer.to_string()), shape })
        });
        (traits, tensors.collect())
    }
}

/// Returns the type for a layer from `Q5_K:0-3,7 Q4_K:4-6`, or from a single type for all layers.
fn golden_type(text: &str, layer: u64) -> &str {
    let within = |ranges: &str| {
        ranges.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&layer)
        })
    };
    let mut found = text.split(' ').filter_map(|part| match part.split_once(':') {
        None => Some(part),
        Some((name, ranges)) => within(ranges).then_some(name),
    });
    found.next().unwrap()
}

#[test]
fn every_golden_tensor_gets_the_type_of_llama_quantize() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recipes.json")).unwrap();
    let goldens: Goldens = serde_json::from_str(&text).unwrap();
    let mut checked = 0;
    for (model, golden) in &goldens {
        let (traits, tensors) = golden.model();
        let given: Vec<(&str, &[u64])> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape)).collect();
        for (name, types) in &golden.types {
            let recipe = Recipe::new(name.parse().unwrap());
            let choices = choose(&recipe, &traits, &given);
            for (tensor, choice) in tensors.iter().zip(&choices) {
                let found = choice.dtype.unwrap_or(DType::F32).name();
                assert_eq!(found, golden_type(&types[tensor.pattern], tensor.layer), "{model} {name} {}", tensor.name);
                checked += 1;
            }
        }
    }
    assert_eq!(goldens.len(), 4);
    assert!(checked > 30_000, "{checked}");
}

/// The types are those that llama-quantize chose: the file type is told, alone unless another one has the same types.
#[test]
fn the_file_type_is_told_from_the_types_of_llama_quantize() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recipes.json")).unwrap();
    let goldens: Goldens = serde_json::from_str(&text).unwrap();
    let (mut alone, mut all) = (0, 0);
    for (model, golden) in &goldens {
        let (traits, tensors) = golden.model();
        let given: Vec<(&str, &[u64])> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape)).collect();
        for (name, types) in &golden.types {
            let dtypes: Vec<Option<DType>> =
                tensors.iter().map(|tensor| golden_type(&types[tensor.pattern], tensor.layer).parse().ok()).collect();
            let found: Vec<&str> = told(FILE_TYPES.iter(), &traits, &given, &dtypes).iter().map(|found| found.name).collect();
            let same = |other: &&String| golden.types[*other] == *types;
            assert!(found.contains(&name.as_str()), "{model} {name}: {found:?}");
            assert!(golden.types.keys().filter(same).all(|other| found.contains(&other.as_str())), "{model} {name}: {found:?}");
            println!("{model} {name}: {found:?}");
            all += 1;
            alone += usize::from(found.len() == 1);
        }
    }
    assert!(alone * 10 > all * 9, "{alone} of {all}");
}

#[test]
fn nothing_is_told_of_other_mixes() {
    let traits = ModelTraits { architecture: "llama".into(), layers: 1, heads: 32, kv_heads: 8, experts: 0 };
    let tensors: [(&str, &[u64]); 2] = [("output.weight", &[64, 256]), ("blk.0.attn_q.weight", &[256, 256])];
    let names = |dtypes: [Option<DType>; 2]| -> Vec<&str> {
        told(FILE_TYPES.iter(), &traits, &tensors, &dtypes).iter().map(|found| found.name).collect()
    };
    assert_eq!(names([Some(DType::Q6_K), Some(DType::Q4_K)]), ["Q4_K_S", "Q4_K_M"]);
    assert!(names([Some(DType::Q4_K), Some(DType::Q4_K)]).is_empty());
    assert!(names([None, None]).is_empty());
    assert!(told(FILE_TYPES.iter(), &traits, &[("output_norm.weight", &[256])], &[Some(DType::F32)]).is_empty());
}

fn chosen(recipe: &Recipe, traits: &ModelTraits, name: &str, shape: &[u64]) -> Choice {
    // With an output matrix, so that the embeddings do not count as one.
    choose(recipe, traits, &[("output.weight", &[64, 256]), (name, shape)])[1]
}

#[test]
fn explicit_types_override_patterns_and_patterns_override_the_mix() {
    let traits = ModelTraits { architecture: "llama".into(), layers: 32, heads: 32, kv_heads: 8, experts: 0 };
    let mut recipe = Recipe::new("Q4_K_M".parse().unwrap());
    recipe.tensor_types =
        vec![TensorType::parse("blk.0.*=q8_0").unwrap(), TensorType::parse("attn_v=Q5_0").unwrap(), TensorType::parse("*=IQ4_XS").unwrap()];
    recipe.embedding = Some(DType::Q2_K);
    let dtype = |name: &str| chosen(&recipe, &traits, name, &[256, 512]).dtype.unwrap();
    assert_eq!(dtype("blk.0.attn_v.weight"), DType::Q8_0);
    assert_eq!(dtype("blk.1.attn_v.weight"), DType::Q5_0);
    assert_eq!(dtype("blk.1.ffn_up.weight"), DType::IQ4_XS);
    assert_eq!(dtype("token_embd.weight"), DType::Q2_K);
    assert!(TensorType::parse("attn_v").is_err());
    assert!(TensorType::parse("=Q8_0").is_err());
    assert!(TensorType::parse("a[=Q8_0").is_err());
    assert!(TensorType::parse("a=Q99").is_err());
}

#[test]
fn partial_blocks_fall_back_unless_the_type_is_explicit() {
    let traits = ModelTraits::default();
    let mut recipe = Recipe::new("IQ2_XS".parse().unwrap());
    recipe.imatrix = true;
    let choice = chosen(&recipe, &traits, "blk.9.ffn_up.weight", &[8, 96]);
    assert_eq!((choice.dtype, choice.instead_of), (Some(DType::IQ4_NL), Some(DType::IQ2_XS)));
    assert!(!choice.needs_imatrix);
    assert_eq!(chosen(&recipe, &traits, "blk.9.ffn_up.weight", &[8, 40]).dtype, Some(DType::F16));
    assert!(chosen(&recipe, &traits, "blk.9.ffn_up.weight", &[8, 256]).needs_imatrix);
    recipe.embedding = Some(DType::Q4_K);
    assert_eq!(chosen(&recipe, &traits, "token_embd.weight", &[8, 40]).dtype, Some(DType::Q4_K));
}

#[test]
fn an_importance_matrix_changes_types_like_llama_quantize() {
    let traits = ModelTraits { architecture: "llama".into(), layers: 32, heads: 32, kv_heads: 32, experts: 0 };
    let pick = |file_type: &str, imatrix: bool, name: &str| {
        let recipe = Recipe { imatrix, ..Recipe::new(file_type.parse().unwrap()) };
        chosen(&recipe, &traits, name, &[256, 512]).dtype.unwrap()
    };
    assert_eq!(pick("Q4_0", true, "blk.0.ffn_down.weight"), DType::Q4_1);
    assert_eq!(pick("Q4_0", false, "blk.0.ffn_down.weight"), DType::Q4_0);
    assert_eq!(pick("IQ4_XS", true, "blk.0.ffn_down.weight"), DType::IQ4_XS);
    assert_eq!(pick("IQ4_XS", false, "blk.0.ffn_down.weight"), DType::Q5_K);
    assert_eq!(pick("IQ3_XXS", true, "blk.0.attn_v.weight"), DType::IQ3_XXS);
    assert_eq!(pick("IQ3_XXS", false, "blk.0.attn_v.weight"), DType::IQ3_S);
}

#[test]
fn attention_values_of_70b_models_get_a_larger_type() {
    let traits = ModelTraits { architecture: "llama".into(), layers: 80, heads: 64, kv_heads: 8, experts: 0 };
    let pick =
        |traits: &ModelTraits, name: &str| chosen(&Recipe::new(name.parse().unwrap()), traits, "blk.9.attn_v.weight", &[256, 512]).dtype;
    assert_eq!(pick(&traits, "Q2_K"), Some(DType::Q5_K));
    assert_eq!(pick(&traits, "IQ2_XS"), Some(DType::Q4_K));
    assert_eq!(pick(&ModelTraits { kv_heads: 64, ..traits.clone() }, "Q3_K_S"), Some(DType::Q3_K));
    assert_eq!(pick(&ModelTraits { architecture: "qwen2".into(), kv_heads: 64, ..traits }, "Q3_K_S"), Some(DType::Q5_K));
}

#[test]
fn every_rule_names_file_types_that_exist() {
    let known = |names: &str| names.split(' ').all(|name| name.is_empty() || FILE_TYPES.iter().any(|row| row.name == name));
    assert!(mixes::RULES.iter().all(|rule| known(rule.file_types)));
    assert!(known(mixes::RAISED_IN_70B.file_types));
}

#[test]
fn excluded_tensors_are_not_quantised() {
    let recipe = Recipe { leave_output: true, ..Recipe::new("Q4_0".parse().unwrap()) };
    let traits = ModelTraits::default();
    let shape: &[u64] = &[64, 256];
    for name in ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.attn_q.bias", "output.weight"] {
        assert_eq!(choose(&recipe, &traits, &[(name, shape)])[0].dtype, None, "{name}");
    }
    assert_eq!(choose(&recipe, &traits, &[("blk.0.attn_q.weight", &[1, 256])])[0].dtype, None, "one dimension");
}

#[test]
fn layers_are_read_from_names_with_experts_and_counted_without() {
    // Two tensors of each layer count; of 32 layers, the first 4 get more bits in Q4_K_M, and of the rest every third.
    let names: Vec<String> = (0..32).flat_map(|i| ["exps", "shexp"].map(|end| format!("blk.{i}.ffn_down_{end}.weight"))).collect();
    let tensors: Vec<(&str, &[u64])> = names.iter().map(|name| (name.as_str(), &[64, 256][..])).collect();
    for (experts, expected) in [(0, DType::Q4_K), (1, DType::Q4_K), (2, DType::Q6_K)] {
        let traits = ModelTraits { architecture: "llama".into(), layers: 32, heads: 32, kv_heads: 32, experts };
        // The first of layer 2 is the fifth that is seen.
        assert_eq!(choose(&Recipe::new("Q4_K_M".parse().unwrap()), &traits, &tensors)[4].dtype, Some(expected), "{experts}");
    }
}

#[test]
fn a_stack_has_more_than_one_matrix() {
    let traits = ModelTraits { architecture: "llama".into(), layers: 2, ..ModelTraits::default() };
    let recipe = Recipe::new("MXFP4_MOE".parse().unwrap());
    for (shape, expected) in [(&[2, 64, 256][..], DType::MXFP4), (&[1, 64, 256], DType::Q8_0), (&[64, 256], DType::Q8_0)] {
        assert_eq!(chosen(&recipe, &traits, "blk.0.ffn_up_exps.weight", shape).dtype, Some(expected), "{shape:?}");
    }
}

#[test]
fn what_is_asked_for_the_output_and_the_embeddings_holds_without_a_mix_too() {
    let traits = ModelTraits { architecture: "gemma3n".into(), ..ModelTraits::default() };
    let mut recipe = Recipe { pure: true, output: Some(DType::Q8_0), ..Recipe::new("Q4_0".parse().unwrap()) };
    recipe.embedding = Some(DType::Q5_0);
    let dtype = |recipe: &Recipe, name: &str| chosen(recipe, &traits, name, &[64, 256]).dtype.unwrap();
    assert_eq!(choose(&recipe, &traits, &[("output.weight", &[64, 256])])[0].dtype, Some(DType::Q8_0));
    assert_eq!((dtype(&recipe, "token_embd.weight"), dtype(&recipe, "per_layer_token_embd.weight")), (DType::Q5_0, DType::Q5_0));
    // A pattern may name the per-layer embeddings, but not the others.
    recipe.tensor_types = vec![TensorType::parse("*token_embd*=Q4_1").unwrap()];
    assert_eq!((dtype(&recipe, "token_embd.weight"), dtype(&recipe, "per_layer_token_embd.weight")), (DType::Q5_0, DType::Q4_1));
}

#[test]
fn what_one_architecture_leaves_another_quantises() {
    let recipe = Recipe::new("Q8_0".parse().unwrap());
    for (architecture, expected) in [("deepseek2", Some(DType::Q8_0)), ("glm5-next", None)] {
        let traits = ModelTraits { architecture: architecture.into(), layers: 2, ..ModelTraits::default() };
        assert_eq!(chosen(&recipe, &traits, "blk.0.attn_k_b.weight", &[64, 256]).dtype, expected, "{architecture}");
    }
}
