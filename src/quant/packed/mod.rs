//! Weights that other libraries quantised: integers packed into words, with scales and zero points beside them.
//!
//! Recognised by the names, types and shapes of tensors that belong together; configs settle what those leave open. A
//! [`PackedWeight`] says what a group of stored tensors stands for: one tensor of weights, under the name that it has unquantised.
//! Tensors that hold packed numbers by their names and types, or by what a config claims, and fit no scheme, are unresolved: what
//! they stand for is not known, and whoever needs to know says so.

use std::collections::{HashMap, HashSet};

use crate::family::components;
use crate::format::Reader;
use crate::model::{Class, DType, FormatId, Model, PackedType, PackingSummary, TensorInfo};

mod claims;
mod decode;
mod schemes;
mod view;

pub use view::{repacked, unpacked};

use claims::Claims;
use schemes::{Layout, PACKED_NAMES, SCHEMES};

/// Stored tensors that stand for one tensor of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    /// The name of the scheme: `GPTQ`, `AWQ` ...
    pub scheme: &'static str,
    /// The type that the weights show: `GPTQ-4`.
    pub shown: PackedType,
    /// The name of the tensor as it is unquantised.
    pub name: String,
    /// Its dimensions, outermost first; flattened where only the number of elements is known.
    pub shape: Vec<u64>,
    /// The stored tensor that holds the numbers, by index in [`Model::tensors`].
    pub weight: usize,
    /// The others that belong to it, by the ends of their names.
    pub beside: Vec<(&'static str, usize)>,
    layout: Layout,
}

impl PackedWeight {
    /// Whether its values can be read; otherwise only its size is known.
    pub fn is_readable(&self) -> bool {
        self.layout != Layout::Counted
    }

    /// How many bytes its stored tensors take together.
    fn stored_size(&self, reader: &Reader) -> u64 {
        let all = self.beside.iter().map(|(_, other)| *other).chain([self.weight]);
        all.filter_map(|index| reader.model().tensors.get(index)?.len_bytes).fold(0, u64::saturating_add)
    }
}

/// What the stored tensors of a model stand for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packing {
    /// The packed weights, in the order of the file.
    pub weights: Vec<PackedWeight>,
    /// The packing that a config claims, as it names it.
    claimed: Option<String>,
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
    /// Packed numbers of which it is not known what they stand for.
    Unresolved,
}

/// Ends of names that are bookkeeping wherever something is packed: scales of activations and of the key-value cache.
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

/// The tensors that mark a whole file of ComfyUI as scaled.
const MARKERS: [&str; 2] = ["scaled_fp8", "scaled_int8"];

/// The tensors of a model by name, and what its configs say of quantisation.
struct Lookup<'a> {
    reader: &'a Reader,
    model: &'a Model,
    places: HashMap<&'a str, usize>,
    claims: Claims,
}

impl Lookup<'_> {
    /// The tensor whose name is `stem` with this end.
    fn sibling(&self, stem: &str, end: &str) -> Option<usize> {
        self.places.get(format!("{stem}{end}").as_str()).copied()
    }

    fn tensor(&self, index: usize) -> Option<&TensorInfo> {
        self.model.tensors.get(index)
    }
}

impl Packing {
    /// Finds what is packed in a model. Costs nothing where nothing is: no type or name hints at it.
    pub fn of(reader: &Reader) -> Self {
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
            places: model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect(),
            claims: Claims::of(reader),
        };
        packing.claimed = lookup.claims.method();
        for (i, tensor) in model.tensors.iter().enumerate() {
            let Some(found) = SCHEMES.iter().find_map(|scheme| scheme.resolve(&lookup, i, tensor)) else { continue };
            packing.add(found);
        }
        packing.mark_unresolved(&lookup);
        let any = packing.roles.iter().any(|role| *role != Role::Plain);
        for (role, tensor) in packing.roles.iter_mut().zip(&model.tensors).filter(|_| any) {
            let beside = ACTIVATIONS.iter().any(|end| tensor.name.ends_with(end)) || MARKERS.contains(&tensor.name.as_str());
            if *role == Role::Plain && beside {
                *role = Role::Bookkeeping;
            }
        }
        packing
    }

    fn add(&mut self, found: PackedWeight) {
        self.set(found.weight, Role::Packed(self.weights.len()));
        for &(_, other) in &found.beside {
            self.set(other, Role::Bookkeeping);
        }
        self.weights.push(found);
    }

    fn set(&mut self, index: usize, role: Role) {
        if let Some(slot) = self.roles.get_mut(index) {
            *slot = role;
        }
    }

    /// Marks what holds packed numbers and fits no scheme, and what lies beside it.
    fn mark_unresolved(&mut self, lookup: &Lookup<'_>) {
        let claimed = self.claimed.is_some();
        let opaque = is_uqff(lookup.model);
        let floats = lookup.model.tensors.iter().any(is_float);
        for (role, tensor) in self.roles.iter_mut().zip(&lookup.model.tensors).filter(|(role, _)| **role == Role::Plain) {
            if is_beside(lookup, tensor) {
                *role = Role::Bookkeeping;
            } else if opaque || is_suspicious(tensor, claimed, floats) {
                *role = Role::Unresolved;
            }
        }
        if opaque {
            self.claimed.get_or_insert_with(|| "UQFF".to_owned());
        }
    }

    /// GGUF keeps the scale of a whole tensor in one of its own: `X.scale` beside `X.weight`, one or one an expert.
    fn scaled_blocks(&mut self, model: &Model) {
        const SUFFIX: &str = ".scale";
        let is_block = |tensor: &&TensorInfo| tensor.elem.known() == Some(DType::NVFP4);
        if !model.tensors.iter().any(|tensor| is_block(&tensor)) {
            return;
        }
        let places: HashMap<&str, usize> = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
        for (i, tensor) in model.tensors.iter().enumerate().filter(|(_, tensor)| is_block(tensor)) {
            let Some(stem) = tensor.name.strip_suffix(".weight") else { continue };
            if let Some(&input) = places.get(format!("{stem}.input_scale").as_str()) {
                self.set(input, Role::Bookkeeping);
            }
            let Some(&scale) = places.get(format!("{stem}{SUFFIX}").as_str()) else { continue };
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
                    beside: vec![(SUFFIX, scale)],
                    layout: Layout::Scaled { per: (elements / scales).max(1) },
                });
            }
        }
    }

    /// What a stored tensor is, by its index in [`Model::tensors`].
    pub fn role(&self, index: usize) -> Role {
        self.roles.get(index).copied().unwrap_or(Role::Plain)
    }

    /// How many weights a stored tensor stands for: none for bookkeeping; unknown where numbers are packed in an unknown way.
    pub fn parameters(&self, model: &Model, index: usize) -> Option<u64> {
        let tensor = model.tensors.get(index);
        let stored = || tensor.and_then(|tensor| tensor.elements().ok()).unwrap_or(0);
        match self.role(index) {
            Role::Plain => Some(stored()),
            Role::Packed(weight) => Some(self.weights.get(weight).map_or(0, |weight| weight.shape.iter().product())),
            Role::Bookkeeping => Some(0),
            // What is missing of floats is a scale; nobody stores two in one.
            Role::Unresolved => tensor.filter(|tensor| is_float(tensor)).map(|_| stored()),
        }
    }

    /// Whether no tensor is packed.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The stored tensors of weights whose values cannot be read: the numbers, and what lies beside them.
    fn unread(&self) -> HashSet<usize> {
        let unread = self.weights.iter().filter(|weight| !weight.is_readable());
        let mut all: HashSet<usize> =
            unread.flat_map(|weight| weight.beside.iter().map(|(_, other)| *other).chain([weight.weight])).collect();
        all.extend((0..self.roles.len()).filter(|&index| self.role(index) == Role::Unresolved));
        all
    }

    /// The types that packed weights show, each once, with how many weights of it there are.
    pub fn shown(&self) -> Vec<(PackedType, u64)> {
        let mut all: Vec<(PackedType, u64)> = Vec::new();
        for weight in &self.weights {
            match all.iter_mut().find(|(shown, _)| *shown == weight.shown) {
                Some((_, count)) => *count += 1,
                None => all.push((weight.shown, 1)),
            }
        }
        all
    }

    /// How the model is packed, and how much of that is understood; none where nothing is packed.
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
        })
    }
}

fn is_float(tensor: &TensorInfo) -> bool {
    tensor.elem.known().is_some_and(|dtype| dtype.info().class == Class::Float)
}

/// Whether a type is one of those that packed numbers have.
fn is_packed_type(tensor: &TensorInfo) -> bool {
    const TYPES: [DType; 5] = [DType::U8, DType::I8, DType::I16, DType::I32, DType::U32];
    tensor.elem.known().is_some_and(|dtype| TYPES.contains(&dtype))
}

/// Whether a tensor that fits no scheme holds packed numbers all the same: by its name and type, or by its type where a config claims
/// a packing. Positions, masks and the like are whole numbers by right; and so are weights where nothing has a scale: where there are
/// no `floats`.
fn is_suspicious(tensor: &TensorInfo, claimed: bool, floats: bool) -> bool {
    let Some(dtype) = tensor.elem.known() else { return false };
    let named = PACKED_NAMES.iter().any(|end| tensor.name.ends_with(end) && (floats || *end != ".weight"));
    let matrix = tensor.shape.len() > 1;
    let small_float = matches!(dtype, DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E4M3FNUZ | DType::F8_E5M2FNUZ);
    let place = components::place(&tensor.name);
    if place.computed || tensor.elements().unwrap_or(0) == 0 {
        return false;
    }
    let own = [".dense_weights", ".trellis"].iter().any(|end| tensor.name.ends_with(end)) && dtype.info().class == Class::Integer;
    let whole = is_packed_type(tensor) && matrix && (named || claimed);
    own || whole || (small_float && matrix && claimed)
}

/// Whether a tensor is named as what a scheme keeps beside its numbers, and those are there.
fn is_beside(lookup: &Lookup<'_>, tensor: &TensorInfo) -> bool {
    SCHEMES.iter().any(|scheme| {
        let ends = scheme.needs.iter().chain(scheme.may);
        let mut stems = ends.filter_map(|end| tensor.name.strip_suffix(end));
        stems.any(|stem| {
            let numbers = lookup.sibling(stem, scheme.suffix).and_then(|index| lookup.tensor(index));
            numbers.is_some_and(|numbers| scheme.may_hold(numbers) && numbers.name != tensor.name)
        })
    })
}

/// Whether a file is of mistral.rs: tensors of bytes that are named by numbers, each with a header of its own.
fn is_uqff(model: &Model) -> bool {
    let numbered = |tensor: &TensorInfo| {
        tensor.name.bytes().all(|byte| byte.is_ascii_digit()) && tensor.elem.known() == Some(DType::U8) && tensor.shape.len() == 1
    };
    !model.tensors.is_empty() && model.tensors.iter().all(numbered)
}
