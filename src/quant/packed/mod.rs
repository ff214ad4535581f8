//! Weights quantised by other libraries: integers packed into words, with scales and zero points in companion tensors.
//!
//! They are recognised by names, types and shapes of tensors that belong together; configs resolve ambiguities. A [`PackedWeight`]
//! describes a group of stored tensors that represents one weight under its unquantised name. Tensors with packed numbers, judging by name
//! and type or by a config, that fit no scheme are unresolved: their meaning is unknown, and this is reported where it matters.

use std::collections::{HashMap, HashSet};

use crate::family::components;
use crate::format::Reader;
use crate::model::{Class, DType, FormatId, Model, PackedType, PackingSummary, TensorInfo, packed};

mod configs;
mod decode;
mod schemes;
mod view;

pub use view::{repacked, unpacked};

use configs::QuantConfigs;
use schemes::{Layout, PACKED_NAMES, SCHEMES};

/// A group of stored tensors that represents one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    /// The name of the scheme: `GPTQ`, `AWQ` ...
    pub scheme: &'static str,
    /// The displayed type: `GPTQ-4`.
    pub shown: PackedType,
    /// The unquantised name.
    pub name: String,
    /// The shape, outermost dimension first; flattened if only the number of elements is known.
    pub shape: Vec<u64>,
    /// The tensor with the packed numbers, by index in [`Model::tensors`].
    pub weight: usize,
    /// Companion tensors (scales, zero points) by name suffix.
    pub companions: Vec<(&'static str, usize)>,
    layout: Layout,
}

impl PackedWeight {
    /// Whether its values can be read; otherwise only its size is known.
    pub fn is_readable(&self) -> bool {
        self.layout != Layout::Counted
    }

    /// Returns the total size of its stored tensors in bytes.
    fn stored_size(&self, reader: &Reader) -> u64 {
        let all = self.companions.iter().map(|(_, other)| *other).chain([self.weight]);
        all.filter_map(|index| reader.model().tensors.get(index)?.len_bytes).fold(0, u64::saturating_add)
    }
}

/// The interpretation of a model's stored tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packing {
    /// The packed weights in file order.
    pub weights: Vec<PackedWeight>,
    /// The quantisation method named in a config.
    claimed: Option<String>,
    /// The role of each stored tensor.
    roles: Vec<Role>,
}

/// The role of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A plain weight.
    Plain,
    /// The numbers of a packed weight: its index in [`Packing::weights`].
    Packed(usize),
    /// Scales, zero points and other bookkeeping of a quantisation.
    Bookkeeping,
    /// Packed numbers of unknown meaning.
    Unresolved,
}

/// Name suffixes of bookkeeping in any packed model: scales of activations and of the KV cache.
const ACTIVATIONS: &[&str] = &[
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".output_zero_point",
    ".activation_scale",
    ".scale_input",
    ".comfy_quant",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".prob_scale",
    ".pre_quant_scale",
    ".weight_shape",
];

/// The tensors that mark a ComfyUI file as scaled.
const MARKERS: [&str; 2] = ["scaled_fp8", "scaled_int8"];

/// The tensors of a model by name, and its quantisation configs.
struct Lookup<'a> {
    reader: &'a Reader,
    model: &'a Model,
    indices: HashMap<&'a str, usize>,
    configs: QuantConfigs,
}

impl Lookup<'_> {
    /// Returns the tensor named `stem` with this suffix.
    fn sibling(&self, stem: &str, end: &str) -> Option<usize> {
        self.indices.get(format!("{stem}{end}").as_str()).copied()
    }

    fn tensor(&self, index: usize) -> Option<&TensorInfo> {
        self.model.tensors.get(index)
    }
}

impl Packing {
    /// Finds the packed weights of a model, and records their summary in the reader.
    pub fn detect(reader: &Reader) -> Self {
        let packing = Self::find(reader);
        reader.record_packing(|| packing.summary(reader.model()));
        packing
    }

    /// Finds the packed weights of a model. Reads no config if no type or name suggests any.
    fn find(reader: &Reader) -> Self {
        let model = reader.model();
        let roles = vec![Role::Plain; model.tensors.len()];
        let mut packing = Self { weights: Vec::new(), claimed: None, roles };
        if model.format == FormatId::Gguf {
            packing.scaled_blocks(model);
            return packing;
        }
        let may_hold = |tensor: &TensorInfo| SCHEMES.iter().any(|scheme| scheme.may_hold(tensor));
        let hints = |tensor: &TensorInfo| may_hold(tensor) || is_packed_type(tensor) || is_suspicious(tensor, false, true);
        if !model.tensors.iter().any(hints) {
            return packing;
        }
        let lookup = Lookup {
            reader,
            model,
            indices: model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect(),
            configs: QuantConfigs::read(reader),
        };
        packing.claimed = lookup.configs.method();
        for (i, tensor) in model.tensors.iter().enumerate() {
            let Some(found) = SCHEMES.iter().find_map(|scheme| scheme.resolve(&lookup, i, tensor)) else { continue };
            packing.add(found);
        }
        packing.mark_unresolved(&lookup);
        let any = packing.roles.iter().any(|role| *role != Role::Plain);
        for (role, tensor) in packing.roles.iter_mut().zip(&model.tensors).filter(|_| any) {
            let bookkeeping = ACTIVATIONS.iter().any(|end| tensor.name.ends_with(end)) || MARKERS.contains(&tensor.name.as_str());
            if *role == Role::Plain && bookkeeping {
                *role = Role::Bookkeeping;
            }
        }
        packing
    }

    fn add(&mut self, found: PackedWeight) {
        self.set(found.weight, Role::Packed(self.weights.len()));
        for &(_, other) in &found.companions {
            self.set(other, Role::Bookkeeping);
        }
        self.weights.push(found);
    }

    fn set(&mut self, index: usize, role: Role) {
        if let Some(slot) = self.roles.get_mut(index) {
            *slot = role;
        }
    }

    /// Marks packed numbers that fit no scheme, and their companions.
    fn mark_unresolved(&mut self, lookup: &Lookup<'_>) {
        let claimed = self.claimed.is_some();
        let opaque = is_uqff(lookup.model);
        let floats = lookup.model.tensors.iter().any(is_float);
        for (role, tensor) in self.roles.iter_mut().zip(&lookup.model.tensors).filter(|(role, _)| **role == Role::Plain) {
            if is_companion(lookup, tensor) {
                *role = Role::Bookkeeping;
            } else if opaque || is_suspicious(tensor, claimed, floats) {
                *role = Role::Unresolved;
            }
        }
        if opaque {
            self.claimed.get_or_insert_with(|| "UQFF".to_owned());
        }
    }

    /// GGUF stores a tensor-wide scale as `X.scale` next to `X.weight`, with one value, or one per expert.
    fn scaled_blocks(&mut self, model: &Model) {
        const SUFFIX: &str = ".scale";
        let is_block = |tensor: &&TensorInfo| tensor.elem.known() == Some(DType::NVFP4);
        if !model.tensors.iter().any(|tensor| is_block(&tensor)) {
            return;
        }
        let indices: HashMap<&str, usize> = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
        for (i, tensor) in model.tensors.iter().enumerate().filter(|(_, tensor)| is_block(tensor)) {
            let Some(stem) = tensor.name.strip_suffix(".weight") else { continue };
            if let Some(&input) = indices.get(format!("{stem}.input_scale").as_str()) {
                self.set(input, Role::Bookkeeping);
            }
            let Some(&scale) = indices.get(format!("{stem}{SUFFIX}").as_str()) else { continue };
            let (Ok(elements), Some(scales)) = (tensor.elements(), model.tensors.get(scale).and_then(|scale| scale.elements().ok())) else {
                continue;
            };
            let first = tensor.shape.first().copied().unwrap_or(1);
            if scales == 1 || (tensor.shape.len() > 2 && scales == first) {
                self.add(PackedWeight {
                    scheme: "NVFP4",
                    shown: PackedType::named("NVFP4"),
                    name: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    weight: i,
                    companions: vec![(SUFFIX, scale)],
                    layout: Layout::Scaled { per: (elements / scales).max(1) },
                });
            }
        }
    }

    /// Returns the role of a stored tensor, by index in [`Model::tensors`].
    pub fn role(&self, index: usize) -> Role {
        self.roles.get(index).copied().unwrap_or(Role::Plain)
    }

    /// Returns the number of weights that a stored tensor represents: 0 for bookkeeping, `None` for unknown packing.
    pub fn parameters(&self, model: &Model, index: usize) -> Option<u64> {
        let tensor = model.tensors.get(index);
        let stored = || tensor.and_then(|tensor| tensor.elements().ok()).unwrap_or(0);
        match self.role(index) {
            Role::Plain => Some(stored()),
            Role::Packed(weight) => Some(self.weights.get(weight).map_or(0, |weight| weight.shape.iter().product())),
            Role::Bookkeeping => Some(0),
            // A float without packing lacks only its scale; no scheme stores two in one number.
            Role::Unresolved => tensor.filter(|tensor| is_float(tensor)).map(|_| stored()),
        }
    }

    /// Whether no tensor is packed.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Returns the stored tensors of weights whose values cannot be read, including companions.
    fn unread(&self) -> HashSet<usize> {
        let unread = self.weights.iter().filter(|weight| !weight.is_readable());
        let mut all: HashSet<usize> =
            unread.flat_map(|weight| weight.companions.iter().map(|(_, other)| *other).chain([weight.weight])).collect();
        all.extend((0..self.roles.len()).filter(|&index| self.role(index) == Role::Unresolved));
        all
    }

    /// Returns the distinct displayed types of packed weights with the number of weights.
    pub fn shown(&self) -> Vec<(PackedType, u64)> {
        packed::by_type(self.weights.iter().map(|weight| (weight.shown, 1)))
    }

    /// Returns a summary of the packed weights; `None` if nothing is packed.
    pub fn summary(&self, model: &Model) -> Option<PackingSummary> {
        let names = |index: usize| model.tensors.get(index).map(|tensor| tensor.name.clone());
        let unresolved: Vec<usize> = (0..self.roles.len()).filter(|&index| self.role(index) == Role::Unresolved).collect();
        let counted: Vec<usize> = self.weights.iter().filter(|weight| !weight.is_readable()).map(|weight| weight.weight).collect();
        let resolved = (self.weights.len() - counted.len()) as u64;
        if self.weights.is_empty() && unresolved.is_empty() {
            return None;
        }
        let mut seen = HashSet::new();
        let schemes: Vec<&str> = self.weights.iter().map(|weight| weight.scheme).filter(|scheme| seen.insert(*scheme)).collect();
        let method = match &self.claimed {
            Some(claimed) => claimed.clone(),
            None if schemes.is_empty() => "an unknown method".to_owned(),
            None => schemes.join(", "),
        };
        Some(PackingSummary {
            method,
            resolved,
            unresolved: (unresolved.len() + counted.len()) as u64,
            first: unresolved.iter().chain(&counted).min().and_then(|index| names(*index)),
            uncounted: unresolved.iter().any(|&index| self.parameters(model, index).is_none()),
            types: self.shown(),
        })
    }
}

fn is_float(tensor: &TensorInfo) -> bool {
    tensor.elem.known().is_some_and(|dtype| dtype.info().class == Class::Float)
}

/// Whether a type is commonly used for packed numbers.
fn is_packed_type(tensor: &TensorInfo) -> bool {
    const TYPES: [DType; 5] = [DType::U8, DType::I8, DType::I16, DType::I32, DType::U32];
    tensor.elem.known().is_some_and(|dtype| TYPES.contains(&dtype))
}

/// Whether a tensor that fits no scheme contains packed numbers: by name and type, or by type if a config names a quantisation method.
/// Positions, masks etc. are integers anyway; so are weights if there are no scales, that is no `floats`.
fn is_suspicious(tensor: &TensorInfo, claimed: bool, floats: bool) -> bool {
    let Some(dtype) = tensor.elem.known() else { return false };
    let named = || PACKED_NAMES.iter().any(|end| tensor.name.ends_with(end) && (floats || *end != ".weight"));
    let matrix = tensor.shape.len() > 1;
    let small_float = matches!(dtype, DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E4M3FNUZ | DType::F8_E5M2FNUZ);
    let own = dtype.info().class == Class::Integer && [".dense_weights", ".trellis"].iter().any(|end| tensor.name.ends_with(end));
    let whole = || is_packed_type(tensor) && matrix && (claimed || named());
    // Classified last: most tensors are plain floats.
    (own || whole() || (small_float && matrix && claimed))
        && tensor.elements().is_ok_and(|elements| elements > 0)
        && !components::classify(&tensor.name).computed
}

/// Whether a tensor is named like a companion in some scheme, and the packed tensor exists.
fn is_companion(lookup: &Lookup<'_>, tensor: &TensorInfo) -> bool {
    SCHEMES.iter().any(|scheme| {
        let ends = scheme.needs.iter().chain(scheme.may);
        let mut stems = ends.filter_map(|end| tensor.name.strip_suffix(end));
        stems.any(|stem| {
            let numbers = lookup.sibling(stem, scheme.suffix).and_then(|index| lookup.tensor(index));
            numbers.is_some_and(|numbers| scheme.may_hold(numbers) && numbers.name != tensor.name)
        })
    })
}

/// Whether the file is from mistral.rs: byte tensors with numeric names, each with its own header.
fn is_uqff(model: &Model) -> bool {
    let numbered = |tensor: &TensorInfo| {
        tensor.name.bytes().all(|byte| byte.is_ascii_digit()) && tensor.elem.known() == Some(DType::U8) && tensor.shape.len() == 1
    };
    !model.tensors.is_empty() && model.tensors.iter().all(numbered)
}
