//! Weights that other libraries quantised: integers packed into words, with scales and zero points beside them.
//!
//! Told from the names, types and shapes of tensors that belong together; `quantization_config` settles what those leave open. A
//! [`PackedWeight`] says what a group of stored tensors stands for: one tensor of weights, under the name that it has unquantised.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use crate::format::Reader;
use crate::model::{DType, Model, TensorInfo};

mod decode;
mod schemes;
mod view;

pub use view::unpacked;

use schemes::{Layout, SCHEMES};

/// Stored tensors that stand for one tensor of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    /// The name of the scheme: `GPTQ`, `AWQ` ...
    pub scheme: &'static str,
    /// The name of the tensor as it is unquantised.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The stored tensor that holds the numbers, by index in [`Model::tensors`].
    pub weight: usize,
    /// The others that belong to it, by the ends of their names.
    pub beside: Vec<(&'static str, usize)>,
    layout: Layout,
}

/// What the stored tensors of a model stand for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packing {
    /// The packed weights, in the order of the file.
    pub weights: Vec<PackedWeight>,
    /// For each stored tensor, what it is.
    roles: Vec<Role>,
}

/// What a stored tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights as they are.
    Plain,
    /// The numbers of a packed weight: its index in [`Packing::weights`].
    Packed(usize),
    /// Scales, zero points and other numbers that a quantisation needs: no weights.
    Bookkeeping,
}

/// Ends of names that are bookkeeping wherever something is packed: scales of activations and of the key-value cache.
const ACTIVATIONS: &[&str] = &[
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".output_zero_point",
    ".activation_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".prob_scale",
];

/// The tensors of a model by name, and what its config says of quantisation.
struct Lookup<'a> {
    reader: &'a Reader,
    model: &'a Model,
    places: HashMap<&'a str, usize>,
    quantisation: Option<&'a Json>,
}

impl Lookup<'_> {
    /// The tensor that takes the place of `weight` when the end of its name, `suffix`, is `other` instead.
    fn sibling(&self, stem: &str, other: &str) -> Option<usize> {
        self.places.get(format!("{stem}{other}").as_str()).copied()
    }

    fn tensor(&self, index: usize) -> Option<&TensorInfo> {
        self.model.tensors.get(index)
    }

    /// A key of `quantization_config`.
    fn setting(&self, key: &str) -> Option<&Json> {
        self.quantisation?.get(key)
    }
}

impl Packing {
    /// Finds what is packed in a model. Costs nothing where nothing is: no type or name hints at it.
    pub fn of(reader: &Reader) -> Self {
        let model = reader.model();
        let mut roles = vec![Role::Plain; model.tensors.len()];
        if model.format == "gguf" {
            scales_of_nvfp4(model, &mut roles);
            return Self { weights: Vec::new(), roles };
        }
        if !model.tensors.iter().any(|tensor| SCHEMES.iter().any(|scheme| scheme.may_hold(tensor))) {
            return Self { weights: Vec::new(), roles };
        }
        let config = model.config.as_ref();
        let lookup = Lookup {
            reader,
            model,
            places: model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect(),
            quantisation: config.and_then(|config| config.get("quantization_config").or_else(|| config.get("quantization"))),
        };
        let mut weights = Vec::new();
        for (i, tensor) in model.tensors.iter().enumerate() {
            let Some(found) = SCHEMES.iter().find_map(|scheme| scheme.resolve(&lookup, i, tensor)) else { continue };
            roles[i] = Role::Packed(weights.len());
            for &(_, other) in &found.beside {
                roles[other] = Role::Bookkeeping;
            }
            weights.push(found);
        }
        if !weights.is_empty() {
            for (role, tensor) in roles.iter_mut().zip(&model.tensors) {
                if *role == Role::Plain && ACTIVATIONS.iter().any(|end| tensor.name.ends_with(end)) {
                    *role = Role::Bookkeeping;
                }
            }
        }
        Self { weights, roles }
    }

    /// What a stored tensor is, by its index in [`Model::tensors`].
    pub fn role(&self, index: usize) -> Role {
        self.roles.get(index).copied().unwrap_or(Role::Plain)
    }

    /// How many weights a stored tensor stands for: none for bookkeeping.
    pub fn parameters(&self, model: &Model, index: usize) -> u64 {
        let stored = || model.tensors.get(index).and_then(|tensor| tensor.elements().ok()).unwrap_or(0);
        match self.role(index) {
            Role::Plain => stored(),
            Role::Packed(weight) => self.weights.get(weight).map_or(0, |weight| weight.shape.iter().product()),
            Role::Bookkeeping => 0,
        }
    }

    /// Whether no tensor is packed.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The names of the schemes, each once.
    pub fn schemes(&self) -> Vec<&'static str> {
        let mut seen = HashSet::new();
        self.weights.iter().map(|weight| weight.scheme).filter(|scheme| seen.insert(*scheme)).collect()
    }
}

/// GGUF keeps the tensor-wide scale of an NVFP4 tensor in one of its own: `X.scale` beside `X.weight`.
fn scales_of_nvfp4(model: &Model, roles: &mut [Role]) {
    let packed: HashSet<&str> = model
        .tensors
        .iter()
        .filter(|tensor| tensor.elem.known() == Some(DType::NVFP4))
        .filter_map(|tensor| tensor.name.strip_suffix(".weight"))
        .collect();
    for (role, tensor) in roles.iter_mut().zip(&model.tensors).filter(|_| !packed.is_empty()) {
        let stem = tensor.name.strip_suffix(".scale").or_else(|| tensor.name.strip_suffix(".input_scale"));
        if stem.is_some_and(|stem| packed.contains(stem)) {
            *role = Role::Bookkeeping;
        }
    }
}
