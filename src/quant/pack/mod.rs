//! Packing of weights for engines that serve safetensors: the inverse of the schemes in [`packed`](super::packed).
//!
//! A [`Packing`] says which numbers a weight becomes, how far a scale reaches, and in which tensors both are stored. The names, types and
//! arithmetic are those of compressed-tensors and of MLX: with the same weights, every byte is that of their own quantisers.

mod config;
mod encode;
mod names;

use std::fmt;

pub use config::{configure, mlx_config};
pub use encode::{Compare, Scratch, Weight, Whole};
pub use names::{Unpacked, fused, unpacked};

use crate::base::{Error, Hint, Result};
use crate::codec::scaled::Numbers;
pub use crate::codec::scaled::Precision;
use crate::model::DType;
use crate::model::dtype::suggest_type;

/// Height and width of the blocks of [`Scales::Block`].
pub const BLOCK: u64 = 128;

/// The library whose files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// compressed-tensors, of vLLM.
    #[default]
    CompressedTensors,
    /// Apple's MLX.
    Mlx,
}

/// The reach of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scales {
    /// The whole tensor.
    Tensor,
    /// A row: an output channel.
    Channel,
    /// A run of this many values in a row.
    Group(u64),
    /// A square block of [`BLOCK`] rows and columns.
    Block,
}

/// The encoding of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ScaleType {
    /// The type of the weights.
    OfWeights,
    /// A power of two.
    E8m0,
    /// An E4M3, relative to a scale of the tensor in compressed-tensors.
    E4m3,
}

/// A packing of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packing {
    /// The requested name.
    pub name: &'static str,
    form: Form,
    numbers: Numbers,
    scales: Scales,
    scale_type: ScaleType,
    /// Whether zero is in the middle of the numbers.
    symmetric: bool,
    /// Whether engines quantise activations too.
    activations: bool,
    /// Whether integers are packed into words.
    words: bool,
}

/// One of the tensors of a packed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The numbers.
    Codes,
    /// The scales.
    Scales,
    /// The scale of the whole tensor that the scales are relative to.
    WholeScale,
    /// The zero points.
    Zeros,
    /// The biases, which are added to each group.
    Biases,
    /// The shape of the weight.
    Shape,
}

/// A tensor of a packed weight, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Which one it is.
    pub part: Part,
    /// Replaces `weight` in the name.
    pub suffix: &'static str,
    /// Its type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
}

/// The options that change a packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackOptions {
    /// The library whose files are written.
    pub form: Form,
    /// The reach of a scale.
    pub scale: Option<Scales>,
    /// The number of values per scale.
    pub group: Option<u64>,
    /// Whether integers have zero points.
    pub asymmetric: bool,
}

impl PackOptions {
    /// Returns the names of the given options, in the words of errors.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            (self.form == Form::Mlx, "the layout of MLX"),
            (self.scale.is_some(), "the reach of a scale"),
            (self.group.is_some(), "a group size"),
            (self.asymmetric, "zero points"),
        ];
        all.iter().find(|(given, _)| *given).map(|(_, name)| *name)
    }
}

impl std::str::FromStr for Scales {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "tensor" => Ok(Self::Tensor),
            "channel" => Ok(Self::Channel),
            "block128" => Ok(Self::Block),
            _ => Err(Error::argument(format!("expected a scale per tensor, channel or block128, found {name}"))),
        }
    }
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Channel => f.write_str("channel"),
            Self::Group(size) => write!(f, "group{size}"),
            Self::Block => f.write_str("block128"),
        }
    }
}

/// Builds a row of [`PACKINGS`].
const fn row(name: &'static str, numbers: Numbers, scales: Scales, scale_type: ScaleType, activations: bool) -> Packing {
    let words = matches!(numbers, Numbers::Signed(_)) && !activations;
    Packing { name, form: Form::CompressedTensors, numbers, scales, scale_type, symmetric: true, activations, words }
}

/// The packings by name: those of the presets of compressed-tensors (quantization/quant_scheme.py), and shorter ones. The first of equal ones
/// names a group in the config, if it is a preset.
static PACKINGS: &[Packing] = &[
    row("FP8_DYNAMIC", Numbers::E4m3, Scales::Channel, ScaleType::OfWeights, true),
    row("FP8", Numbers::E4m3, Scales::Channel, ScaleType::OfWeights, true),
    row("FP8_BLOCK", Numbers::E4m3, Scales::Block, ScaleType::OfWeights, true),
    row("INT8", Numbers::Signed(8), Scales::Channel, ScaleType::OfWeights, true),
    row("W8A8", Numbers::Signed(8), Scales::Channel, ScaleType::OfWeights, true),
    row("W8A16", Numbers::Signed(8), Scales::Group(128), ScaleType::OfWeights, false),
    row("W4A16", Numbers::Signed(4), Scales::Group(128), ScaleType::OfWeights, false),
    row("INT4", Numbers::Signed(4), Scales::Group(128), ScaleType::OfWeights, false),
    Packing { symmetric: false, ..row("W4A16_ASYM", Numbers::Signed(4), Scales::Group(128), ScaleType::OfWeights, false) },
    row("NVFP4A16", Numbers::E2m1, Scales::Group(16), ScaleType::E4m3, false),
    row("NVFP4", Numbers::E2m1, Scales::Group(16), ScaleType::E4m3, false),
    row("MXFP4", Numbers::E2m1, Scales::Group(32), ScaleType::E8m0, true),
    row("MXFP4A16", Numbers::E2m1, Scales::Group(32), ScaleType::E8m0, false),
    row("MXFP8", Numbers::E4m3, Scales::Group(32), ScaleType::E8m0, true),
    row("MXFP8A16", Numbers::E4m3, Scales::Group(32), ScaleType::E8m0, false),
];

/// The names that only say how many bits MLX's integers have.
const MLX_INTEGERS: [(&str, u32); 6] = [("INT2", 2), ("INT3", 3), ("INT4", 4), ("INT5", 5), ("INT6", 6), ("INT8", 8)];
/// MLX's floats: what compressed-tensors calls the same.
const MLX_FLOATS: [&str; 3] = ["NVFP4", "MXFP4", "MXFP8"];
/// The group sizes of MLX's integers.
const MLX_GROUPS: [u64; 3] = [32, 64, 128];

/// Returns the names of all packings.
fn packing_names() -> impl Iterator<Item = &'static str> + Clone {
    PACKINGS.iter().map(|packing| packing.name).chain(MLX_INTEGERS.iter().map(|(name, _)| *name).filter(|name| known(name).is_none()))
}

/// A packing, as it is listed.
#[derive(Debug, serde::Serialize)]
pub struct PackingRow {
    /// Its name.
    pub name: &'static str,
    /// Bits per number.
    pub bits: u32,
    /// The reach of a scale by default.
    pub scale: String,
    /// Whether engines quantise activations too.
    pub activations: bool,
    /// The libraries whose files are written: `compressed-tensors`, `mlx`.
    pub libraries: Vec<&'static str>,
}

/// Returns all packings.
pub fn packings() -> Vec<PackingRow> {
    let row = |name| {
        let of = |form| Packing::new(name, &PackOptions { form, ..PackOptions::default() }).ok();
        let forms = [(of(Form::CompressedTensors), "compressed-tensors"), (of(Form::Mlx), "mlx")];
        let packing = forms.iter().find_map(|(packing, _)| *packing)?;
        Some(PackingRow {
            name,
            bits: packing.bits(),
            scale: packing.scales.to_string(),
            activations: packing.activations,
            libraries: forms.iter().filter(|(packing, _)| packing.is_some()).map(|(_, library)| *library).collect(),
        })
    };
    packing_names().filter_map(row).collect()
}

/// Whether a name, in any case, is that of a packing.
pub fn is_packing(name: &str) -> bool {
    packing_names().any(|known| known.eq_ignore_ascii_case(name))
}

fn known(name: &str) -> Option<&'static Packing> {
    PACKINGS.iter().find(|packing| packing.name.eq_ignore_ascii_case(name))
}

impl Packing {
    /// Returns the packing of this name, changed by the options.
    ///
    /// # Errors
    /// There is no such packing, or an option does not apply to it.
    pub fn new(name: &str, options: &PackOptions) -> Result<Self> {
        let packing = match options.form {
            Form::CompressedTensors => Self::compressed(name, options),
            Form::Mlx => Self::mlx(name, options),
        }?;
        match packing.scales {
            Scales::Group(0) => Err(Error::argument("expected a group size of 1 or more, found 0")),
            _ => Ok(packing),
        }
    }

    fn compressed(name: &str, options: &PackOptions) -> Result<Self> {
        let Some(packing) = known(name) else {
            if is_packing(name) {
                let error = Error::argument(format!("{name} is a type of MLX, which compressed-tensors does not have"));
                return Err(error.hint(Hint::LayoutOfMlx));
            }
            return Err(no_such(name, PACKINGS.iter().map(|packing| packing.name)));
        };
        let mut packing = *packing;
        let integers = matches!(packing.numbers, Numbers::Signed(_));
        if options.scale.is_some() && options.group.is_some() {
            return Err(Error::argument("give either a group size or a granularity of scales, not both"));
        }
        if let Some(scale) = options.scale {
            let plain_floats = packing.numbers == Numbers::E4m3 && packing.scale_type == ScaleType::OfWeights;
            let fits = match packing.name {
                "FP8" => true,
                _ => scale == packing.scales || (integers && scale == Scales::Channel),
            };
            if !fits {
                let known = if plain_floats || integers {
                    format!("{name} has one per {}", packing.scales)
                } else {
                    format!("{name} has scales of its own")
                };
                return Err(Error::argument(format!("{name} cannot have a scale per {scale}: {known}")));
            }
            packing.scales = scale;
        }
        if let Some(size) = options.group {
            if !integers {
                return Err(Error::argument(format!("a group size requires a type of integers, found {name}")));
            }
            packing.scales = Scales::Group(size);
        }
        if options.asymmetric {
            if !integers {
                return Err(Error::argument(format!("zero points require a type of integers, found {name}")));
            }
            packing.symmetric = false;
        }
        // Engines multiply by quantised activations only if there is a scale per row and no zero point.
        if integers && (packing.scales != Scales::Channel || !packing.symmetric) {
            if packing.name == "W8A8" {
                return Err(Error::argument("W8A8 has a scale per channel and no zero points: W8A16 may have others"));
            }
            (packing.activations, packing.words) = (false, true);
        }
        Ok(packing)
    }

    fn mlx(name: &str, options: &PackOptions) -> Result<Self> {
        if options.scale.is_some() || options.asymmetric {
            return Err(Error::argument("MLX's integers always have a bias per group: give a group size only"));
        }
        if let Some((name, bits)) = MLX_INTEGERS.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
            let size = options.group.unwrap_or(64);
            if !MLX_GROUPS.contains(&size) {
                return Err(Error::argument(format!("expected a group size of 32, 64 or 128 for MLX, found {size}")));
            }
            return Ok(Self {
                form: Form::Mlx,
                symmetric: false,
                words: true,
                ..row(name, Numbers::Unsigned(*bits), Scales::Group(size), ScaleType::OfWeights, false)
            });
        }
        let floats = MLX_FLOATS.iter().filter_map(|own| known(own));
        let Some(packing) = floats.clone().find(|packing| packing.name.eq_ignore_ascii_case(name)) else {
            return Err(no_such(name, MLX_INTEGERS.iter().map(|(name, _)| *name).chain(MLX_FLOATS)));
        };
        if options.group.is_some_and(|size| Scales::Group(size) != packing.scales) {
            return Err(Error::argument(format!("{name} has a scale per {}", packing.scales)));
        }
        let numbers = if packing.numbers == Numbers::E2m1 { Numbers::E2m1Low } else { packing.numbers };
        Ok(Self { form: Form::Mlx, numbers, ..*packing })
    }

    /// Returns the library whose files are written.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Returns the bits of a number.
    fn bits(&self) -> u32 {
        match self.numbers {
            Numbers::E4m3 => 8,
            Numbers::E2m1 | Numbers::E2m1Low => 4,
            Numbers::Signed(bits) | Numbers::Unsigned(bits) => bits,
        }
    }

    /// Whether the scales of a tensor depend on a number that all of it determines.
    pub fn needs_whole(&self) -> bool {
        self.scales == Scales::Tensor || self.has_whole_scale()
    }

    /// Whether there is a scale of the tensor that the others are relative to.
    pub fn has_whole_scale(&self) -> bool {
        self.scale_type == ScaleType::E4m3 && self.form == Form::CompressedTensors
    }

    /// Returns the number of values per scale in a row of this length.
    fn width(&self, columns: u64) -> u64 {
        match self.scales {
            Scales::Tensor | Scales::Channel => columns,
            Scales::Group(size) => size,
            Scales::Block => BLOCK,
        }
    }

    /// Returns the reason why rows of this length cannot be packed.
    pub fn misfit(&self, columns: u64) -> Option<String> {
        match self.scales {
            Scales::Group(size) if columns == 0 || !columns.is_multiple_of(size) => {
                Some(format!("rows of {columns} values are not a multiple of its groups of {size}"))
            }
            _ if columns == 0 => Some("its rows are empty".to_owned()),
            _ => None,
        }
    }

    /// Returns the tensors of a packed weight, in the order in which they are written.
    pub fn parts(&self, rows: u64, columns: u64, precision: Precision) -> Vec<StoredPart> {
        let part = |part, suffix, dtype, shape| StoredPart { part, suffix, dtype, shape };
        let bits = u64::from(self.bits());
        let across = columns.div_ceil(self.width(columns).max(1));
        let words = (columns * bits).div_ceil(32);
        let scale_type = match (self.scale_type, self.form) {
            (ScaleType::OfWeights, _) => precision.dtype(),
            (ScaleType::E4m3, Form::CompressedTensors) => DType::F8_E4M3,
            _ => DType::U8,
        };
        if self.form == Form::Mlx {
            let mut parts = vec![
                part(Part::Codes, "weight", DType::U32, vec![rows, words]),
                part(Part::Scales, "scales", scale_type, vec![rows, across]),
            ];
            parts.extend((!self.symmetric).then(|| part(Part::Biases, "biases", precision.dtype(), vec![rows, across])));
            return parts;
        }
        let (suffix, dtype, codes) = match self.numbers {
            Numbers::E4m3 => ("weight", DType::F8_E4M3, columns),
            Numbers::E2m1 | Numbers::E2m1Low => ("weight_packed", DType::U8, columns.div_ceil(2)),
            _ if self.words => ("weight_packed", DType::I32, words),
            _ => ("weight", DType::I8, columns),
        };
        let scales = match self.scales {
            Scales::Tensor => vec![1],
            Scales::Block => vec![rows.div_ceil(BLOCK), across],
            _ => vec![rows, across],
        };
        let mut parts = vec![part(Part::Codes, suffix, dtype, vec![rows, codes]), part(Part::Scales, "weight_scale", scale_type, scales)];
        parts.extend(self.has_whole_scale().then(|| part(Part::WholeScale, "weight_global_scale", DType::F32, vec![1])));
        if self.words {
            parts.push(part(Part::Shape, "weight_shape", DType::I64, vec![2]));
            let down = vec![(rows * bits).div_ceil(32), across];
            parts.extend((!self.symmetric).then(|| part(Part::Zeros, "weight_zero_point", DType::I32, down)));
        }
        parts
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// Returns the error for a name that is no packing.
fn no_such(name: &str, names: impl Iterator<Item = &'static str> + Clone) -> Error {
    let error = Error::argument(format!("expected a type such as {}, found {name}", names.clone().take(3).collect::<Vec<_>>().join(", ")));
    match suggest_type(name, names) {
        Some(meant) => error.hint(Hint::DidYouMean(meant.to_owned())),
        None => error.hint(Hint::ListTypes),
    }
}
