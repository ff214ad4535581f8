//! The element types, one row each. Everything that asks a question of a type asks this table.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Hint, Result, num, text};

/// What sort of values a type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Floating-point numbers, each stored by itself (or packed with its neighbours: F4, F6).
    Float,
    /// Whole numbers, each stored by itself.
    Integer,
    /// True or false, a byte each.
    Bool,
    /// Pairs of floating-point numbers: real and imaginary part.
    Complex,
    /// Quantised blocks: integers that share scales.
    Block,
}

/// What the bits of a field of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Values, codes, signs, integer scales: every pattern of bits stands for something.
    Values,
    /// Pairs of bits of which 3 is no code.
    Ternary,
    /// A scale or a minimum of the block, as a number of one of the floating-point types.
    Scale(ScaleType),
}

/// How a scale is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleType {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// The exponent of a power of two; 255 is NaN.
    E8M0,
    /// E4M3 without a sign; 127 is NaN.
    UE4M3,
    /// A half in four parts, in eight bytes: the high nibbles of four little-endian 16-bit numbers.
    SplitF16,
}

/// A field of a block: numbers of one size, one after the other. A big-endian file holds the bytes of each number reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name in the structs of ggml-common.h; `x` where a block is one value.
    pub name: &'static str,
    /// The bytes of one number.
    pub width: usize,
    /// How many numbers.
    pub count: usize,
    /// What they are.
    pub role: Role,
}

impl Field {
    /// The bytes of the whole field.
    pub const fn bytes(&self) -> usize {
        self.width * self.count
    }
}

const fn values(name: &'static str, width: usize, count: usize) -> Field {
    Field { name, width, count, role: Role::Values }
}

const fn bytes(name: &'static str, count: usize) -> Field {
    values(name, 1, count)
}

const fn ternary(name: &'static str, count: usize) -> Field {
    Field { role: Role::Ternary, ..bytes(name, count) }
}

const fn f16(name: &'static str) -> Field {
    scales(name, ScaleType::F16, 1)
}

const fn scales(name: &'static str, scale: ScaleType, count: usize) -> Field {
    let (width, each) = match scale {
        ScaleType::F16 => (2, 1),
        ScaleType::F32 => (4, 1),
        ScaleType::E8M0 | ScaleType::UE4M3 => (1, 1),
        ScaleType::SplitF16 => (1, 8),
    };
    Field { role: Role::Scale(scale), ..values(name, width, count * each) }
}

const fn block_bytes(fields: &[Field]) -> u64 {
    let (mut sum, mut i) = (0, 0);
    while i < fields.len() {
        sum += fields[i].bytes();
        i += 1;
    }
    sum as u64
}

/// A row of the table of types.
#[derive(Debug)]
#[non_exhaustive]
pub struct DTypeInfo {
    /// The name, as ggml or safetensors spell it.
    pub name: &'static str,
    /// How many elements one block stands for.
    pub block_elems: u64,
    /// How many bytes one block takes: the sum of its fields.
    pub block_bytes: u64,
    /// The fields of a block, in their order.
    pub fields: &'static [Field],
    /// What sort of values.
    pub class: Class,
    /// The number of the type in GGUF (`enum ggml_type` in ggml.h), where it has one.
    pub ggml_id: Option<u32>,
    /// The name of the type in safetensors, where it has one.
    pub safetensors: Option<&'static str>,
}

macro_rules! dtypes {
    ($($variant:ident $name:literal $class:ident $ggml:expr, $safetensors:expr, $elems:literal [$($field:expr),+];)*) => {
        /// A known element type. Its facts are in [`DType::info`].
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType { $($variant),* }

        impl DType {
            /// Every known type, in the order of the table.
            pub const ALL: &'static [DType] = &[$(DType::$variant),*];
        }

        static TABLE: &[DTypeInfo] = &[$(DTypeInfo {
            name: $name, block_elems: $elems, block_bytes: block_bytes(&[$($field),+]), fields: &[$($field),+],
            class: Class::$class, ggml_id: $ggml, safetensors: $safetensors,
        }),*];
    };
}

// Fields are those of the structs in ggml-common.h, in their order.
dtypes! {
    F32         "F32"         Float   Some(0),  Some("F32"),            1 [values("x", 4, 1)];
    F16         "F16"         Float   Some(1),  Some("F16"),            1 [values("x", 2, 1)];
    BF16        "BF16"        Float   Some(30), Some("BF16"),           1 [values("x", 2, 1)];
    F64         "F64"         Float   Some(28), Some("F64"),            1 [values("x", 8, 1)];
    F8_E4M3     "F8_E4M3"     Float   None,     Some("F8_E4M3"),        1 [bytes("x", 1)];
    F8_E5M2     "F8_E5M2"     Float   None,     Some("F8_E5M2"),        1 [bytes("x", 1)];
    F8_E4M3FNUZ "F8_E4M3FNUZ" Float   None,     Some("F8_E4M3FNUZ"),    1 [bytes("x", 1)];
    F8_E5M2FNUZ "F8_E5M2FNUZ" Float   None,     Some("F8_E5M2FNUZ"),    1 [bytes("x", 1)];
    F8_E8M0     "F8_E8M0"     Float   None,     Some("F8_E8M0"),        1 [bytes("x", 1)];
    F6_E2M3     "F6_E2M3"     Float   None,     Some("F6_E2M3"),        4 [bytes("x", 3)];
    F6_E3M2     "F6_E3M2"     Float   None,     Some("F6_E3M2"),        4 [bytes("x", 3)];
    F4          "F4"          Float   None,     Some("F4"),             2 [bytes("x", 1)];
    C64         "C64"         Complex None,     Some("C64"),            1 [values("x", 4, 2)];
    BOOL        "BOOL"        Bool    None,     Some("BOOL"),           1 [bytes("x", 1)];
    I8          "I8"          Integer Some(24), Some("I8"),             1 [bytes("x", 1)];
    I16         "I16"         Integer Some(25), Some("I16"),            1 [values("x", 2, 1)];
    I32         "I32"         Integer Some(26), Some("I32"),            1 [values("x", 4, 1)];
    I64         "I64"         Integer Some(27), Some("I64"),            1 [values("x", 8, 1)];
    U8          "U8"          Integer None,     Some("U8"),             1 [bytes("x", 1)];
    U16         "U16"         Integer None,     Some("U16"),            1 [values("x", 2, 1)];
    U32         "U32"         Integer None,     Some("U32"),            1 [values("x", 4, 1)];
    U64         "U64"         Integer None,     Some("U64"),            1 [values("x", 8, 1)];
    Q1_0        "Q1_0"        Block   Some(41), None,                 128 [f16("d"), bytes("qs", 16)];
    Q2_0        "Q2_0"        Block   Some(42), None,                  64 [f16("d"), bytes("qs", 16)];
    Q4_0        "Q4_0"        Block   Some(2),  None,                  32 [f16("d"), bytes("qs", 16)];
    Q4_1        "Q4_1"        Block   Some(3),  None,                  32 [f16("d"), f16("m"), bytes("qs", 16)];
    Q5_0        "Q5_0"        Block   Some(6),  None,                  32 [f16("d"), bytes("qh", 4), bytes("qs", 16)];
    Q5_1        "Q5_1"        Block   Some(7),  None,                  32 [f16("d"), f16("m"), bytes("qh", 4), bytes("qs", 16)];
    Q8_0        "Q8_0"        Block   Some(8),  None,                  32 [f16("d"), bytes("qs", 32)];
    Q8_1        "Q8_1"        Block   Some(9),  None,                  32 [f16("d"), f16("s"), bytes("qs", 32)];
    Q2_K        "Q2_K"        Block   Some(10), None,                 256 [bytes("scales", 16), bytes("qs", 64), f16("d"), f16("dmin")];
    Q3_K        "Q3_K"        Block   Some(11), None,                 256 [bytes("hmask", 32), bytes("qs", 64), bytes("scales", 12), f16("d")];
    Q4_K        "Q4_K"        Block   Some(12), None,                 256 [f16("d"), f16("dmin"), bytes("scales", 12), bytes("qs", 128)];
    Q5_K        "Q5_K"        Block   Some(13), None,                 256 [f16("d"), f16("dmin"), bytes("scales", 12), bytes("qh", 32), bytes("qs", 128)];
    Q6_K        "Q6_K"        Block   Some(14), None,                 256 [bytes("ql", 128), bytes("qh", 64), bytes("scales", 16), f16("d")];
    Q8_K        "Q8_K"        Block   Some(15), None,                 256 [scales("d", ScaleType::F32, 1), bytes("qs", 256), values("bsums", 2, 16)];
    IQ1_S       "IQ1_S"       Block   Some(19), None,                 256 [f16("d"), bytes("qs", 32), values("qh", 2, 8)];
    IQ1_M       "IQ1_M"       Block   Some(29), None,                 256 [bytes("qs", 32), bytes("qh", 16), scales("scales", ScaleType::SplitF16, 1)];
    IQ2_XXS     "IQ2_XXS"     Block   Some(16), None,                 256 [f16("d"), values("qs", 2, 32)];
    IQ2_XS      "IQ2_XS"      Block   Some(17), None,                 256 [f16("d"), values("qs", 2, 32), bytes("scales", 8)];
    IQ2_S       "IQ2_S"       Block   Some(22), None,                 256 [f16("d"), bytes("qs", 64), bytes("qh", 8), bytes("scales", 8)];
    IQ3_XXS     "IQ3_XXS"     Block   Some(18), None,                 256 [f16("d"), bytes("qs", 96)];
    IQ3_S       "IQ3_S"       Block   Some(21), None,                 256 [f16("d"), bytes("qs", 64), bytes("qh", 8), bytes("signs", 32), bytes("scales", 4)];
    IQ4_NL      "IQ4_NL"      Block   Some(20), None,                  32 [f16("d"), bytes("qs", 16)];
    IQ4_XS      "IQ4_XS"      Block   Some(23), None,                 256 [f16("d"), values("scales_h", 2, 1), bytes("scales_l", 4), bytes("qs", 128)];
    TQ1_0       "TQ1_0"       Block   Some(34), None,                 256 [bytes("qs", 48), bytes("qh", 4), f16("d")];
    TQ2_0       "TQ2_0"       Block   Some(35), None,                 256 [ternary("qs", 64), f16("d")];
    MXFP4       "MXFP4"       Block   Some(39), None,                  32 [scales("e", ScaleType::E8M0, 1), bytes("qs", 16)];
    NVFP4       "NVFP4"       Block   Some(40), None,                  64 [scales("d", ScaleType::UE4M3, 4), bytes("qs", 32)];
}

impl DType {
    /// The row of this type.
    pub fn info(self) -> &'static DTypeInfo {
        &TABLE[self as usize]
    }

    /// The name, as ggml or safetensors spell it.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The type with this number in GGUF.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.info().ggml_id == Some(id))
    }

    /// The type with this name in safetensors; the spelling must be exact.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.info().safetensors == Some(name))
    }

    /// Whether values are stored in blocks that share scales.
    pub fn is_quantised(self) -> bool {
        self.info().class == Class::Block
    }

    /// Bits per weight.
    pub fn bits_per_weight(self) -> f64 {
        let info = self.info();
        (info.block_bytes * 8) as f64 / info.block_elems as f64
    }

    /// How many bytes `elements` elements take.
    ///
    /// # Errors
    /// They are no whole number of blocks, or the size is past 2^64 bits.
    pub fn bytes_for(self, elements: u64) -> Result<u64> {
        let info = self.info();
        if !elements.is_multiple_of(info.block_elems) {
            return Err(Error::malformed(format!("expected a multiple of {} elements for {self}, found {elements}", info.block_elems)));
        }
        let bytes = num::mul(elements / info.block_elems, info.block_bytes, "the size in bytes")?;
        num::mul(bytes, 8, "the size in bits")?;
        Ok(bytes)
    }

    /// How many bytes a tensor of this shape takes (outermost dimension first).
    ///
    /// # Errors
    /// As for [`DType::bytes_for`]; and a quantised tensor's rows must each be a whole number of blocks.
    pub fn bytes_for_shape(self, shape: &[u64]) -> Result<u64> {
        if self.is_quantised() {
            let row = shape.last().copied().unwrap_or(1);
            let block = self.info().block_elems;
            if !row.is_multiple_of(block) {
                return Err(Error::malformed(format!("expected rows of a multiple of {block} elements for {self}, found {row}")));
            }
        }
        self.bytes_for(num::elements(shape)?)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    /// Takes the name in any case.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let error = Error::argument(format!("expected the name of a type, found {name}"));
            match meant_type(name, Self::ALL.iter().map(|dtype| dtype.name())) {
                Some(meant) => error.hint(Hint::DidYouMean(meant.to_owned())),
                None => error.hint(Hint::ListTypes),
            }
        })
    }
}

/// The type that a mistyped name stands for: one of the same letters and digits (`q4km`), or else the most alike.
pub(crate) fn meant_type<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let wanted = plain(name);
    names.clone().find(|known| plain(known) == wanted).or_else(|| text::closest(&name.to_ascii_uppercase(), names))
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The type of a tensor's elements, as its file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElemType {
    /// A type of the table.
    Known(DType),
    /// A type that this build does not know: the tensor is listed, copied and compared by its bytes; its values are refused.
    Unknown {
        /// What its file calls it.
        tag: Tag,
    },
}

/// What a file calls a type that this build does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tag {
    /// The number of the type in GGUF.
    Number(u32),
    /// The name of the type in safetensors.
    Name(TypeName),
}

/// The name of a type, kept in place: at most [`TypeName::BYTES`] graphic ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeName {
    len: u8,
    bytes: [u8; Self::BYTES],
}

impl TypeName {
    /// The longest name, in bytes: twice that of the longest known one.
    pub const BYTES: usize = 22;

    /// Keeps a name; `None` when it is empty, too long, or no name at all.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        let graphic = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        graphic.then_some(Self { len: name.len() as u8, bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.len)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl ElemType {
    /// The known type.
    pub fn known(self) -> Option<DType> {
        match self {
            Self::Known(dtype) => Some(dtype),
            Self::Unknown { .. } => None,
        }
    }

    /// The name of the type; `type N` for a number of GGUF that is not known.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Known(dtype) => dtype.name().into(),
            Self::Unknown { tag: Tag::Number(number) } => format!("type {number}").into(),
            Self::Unknown { tag: Tag::Name(name) } => name.as_str().to_owned().into(),
        }
    }
}

impl From<DType> for ElemType {
    fn from(dtype: DType) -> Self {
        Self::Known(dtype)
    }
}

impl fmt::Display for ElemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl serde::Serialize for ElemType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_lead_back() {
        for &dtype in DType::ALL {
            assert_eq!(dtype.name().to_lowercase().parse::<DType>().unwrap(), dtype);
            if let Some(id) = dtype.info().ggml_id {
                assert_eq!(DType::from_ggml_id(id), Some(dtype));
            }
            if let Some(name) = dtype.info().safetensors {
                assert_eq!(DType::from_safetensors(name), Some(dtype));
            }
        }
    }

    #[test]
    fn every_dtype_of_the_safetensors_crate_has_the_same_size_here() {
        use safetensors::Dtype as D;
        for theirs in [
            D::BOOL,
            D::F4,
            D::F6_E2M3,
            D::F6_E3M2,
            D::U8,
            D::I8,
            D::F8_E5M2,
            D::F8_E4M3,
            D::F8_E8M0,
            D::F8_E4M3FNUZ,
            D::F8_E5M2FNUZ,
            D::I16,
            D::U16,
            D::F16,
            D::BF16,
            D::I32,
            D::U32,
            D::F32,
            D::C64,
            D::F64,
            D::I64,
            D::U64,
        ] {
            let name = serde_json::to_value(theirs).unwrap();
            let ours = DType::from_safetensors(name.as_str().unwrap()).unwrap();
            assert_eq!(ours.bits_per_weight(), theirs.bitsize() as f64, "{ours}");
        }
    }

    #[test]
    fn unknown_names_are_kept_within_bounds() {
        for name in ["F128", "x", "F8_E4M3_SOMETHING_NEW2"] {
            assert_eq!(ElemType::Unknown { tag: Tag::Name(TypeName::new(name).unwrap()) }.to_string(), name);
        }
        for name in ["", "F8_E4M3_SOMETHING_NEW23", "F 8", "F8\u{1b}[2J", "Ä"] {
            assert_eq!(TypeName::new(name), None, "{name}");
        }
        assert_eq!(ElemType::Unknown { tag: Tag::Number(99) }.to_string(), "type 99");
    }

    #[test]
    fn sizes_that_wrap_or_split_a_block_are_errors() {
        assert_eq!(DType::Q4_K.bytes_for_shape(&[3, 512]).unwrap(), 3 * 2 * 144);
        assert_eq!(DType::F6_E2M3.bytes_for_shape(&[2, 2]).unwrap(), 3);
        assert!(DType::F4.bytes_for_shape(&[3]).is_err());
        assert!(DType::Q8_0.bytes_for_shape(&[2, 16]).is_err());
        assert!(DType::Q4_0.bytes_for_shape(&[]).is_err());
        assert!(DType::F32.bytes_for(1 << 62).is_err());
        assert!(DType::F64.bytes_for(1 << 59).is_err(), "the size in bits must fit as well");
    }
}
