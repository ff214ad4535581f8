//! The table of element types, the only source of their properties.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Hint, Result, num, text};

/// The class of values that a type stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Floating-point numbers, stored individually (F4, F6: packed with their neighbours).
    Float,
    /// Integers, stored individually.
    Integer,
    /// Booleans, one byte each.
    Bool,
    /// Complex numbers: real and imaginary part in floating point.
    Complex,
    /// Quantised blocks: integers with shared scales.
    Block,
}

/// The meaning of the bits of a block's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Values, codes, signs or integer scales, where every bit pattern is valid.
    Values,
    /// 2-bit codes of which 3 is invalid.
    Ternary,
    /// A floating-point scale or minimum of the block.
    Scale(ScaleType),
}

/// The encoding of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleType {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// An E8M0 power of two; 255 is NaN.
    E8M0,
    /// Unsigned E4M3; 127 is NaN.
    UE4M3,
    /// A half split into four parts: the high nibbles of four little-endian 16-bit integers.
    SplitF16,
}

/// A field of a block: consecutive numbers of one size. Big-endian files store the bytes of each number reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name in the structs of ggml-common.h; `x` if a block is one value.
    pub name: &'static str,
    /// Bytes per number.
    pub width: usize,
    /// The number of numbers.
    pub count: usize,
    /// Their role.
    pub role: Role,
}

impl Field {
    /// Returns the size of the field in bytes.
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

/// A row of the type table.
#[derive(Debug)]
#[non_exhaustive]
pub struct DTypeInfo {
    /// The name in ggml or safetensors.
    pub name: &'static str,
    /// The number of elements per block.
    pub block_elems: u64,
    /// The size of a block in bytes, the sum of its fields.
    pub block_bytes: u64,
    /// The fields of a block in order.
    pub fields: &'static [Field],
    /// The class of values.
    pub class: Class,
    /// The GGUF type number (`enum ggml_type` in ggml.h), if any.
    pub ggml_id: Option<u32>,
    /// The safetensors type name, if any.
    pub safetensors: Option<&'static str>,
}

macro_rules! dtypes {
    ($($variant:ident $name:literal $class:ident $ggml:expr, $safetensors:expr, $elems:literal [$($field:expr),+];)*) => {
        /// A known element type; [`DType::info`] returns its properties.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType { $($variant),* }

        impl DType {
            /// All known types in table order.
            pub const ALL: &'static [DType] = &[$(DType::$variant),*];
        }

        static TABLE: &[DTypeInfo] = &[$(DTypeInfo {
            name: $name, block_elems: $elems, block_bytes: block_bytes(&[$($field),+]), fields: &[$($field),+],
            class: Class::$class, ggml_id: $ggml, safetensors: $safetensors,
        }),*];
    };
}

// The fields of the structs in ggml-common.h, in order.
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
    /// Returns the table row of this type.
    pub fn info(self) -> &'static DTypeInfo {
        &TABLE[self as usize]
    }

    /// Returns the name in ggml or safetensors.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Returns the type with this GGUF type number.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.info().ggml_id == Some(id))
    }

    /// Returns the type with exactly this safetensors name.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.info().safetensors == Some(name))
    }

    /// Whether values are quantised in blocks.
    pub fn is_quantised(self) -> bool {
        self.info().class == Class::Block
    }

    /// Returns the bits per weight, including scales.
    pub fn bits_per_weight(self) -> f64 {
        let info = self.info();
        (info.block_bytes * 8) as f64 / info.block_elems as f64
    }

    /// Returns the size of `elements` elements in bytes.
    ///
    /// # Errors
    /// `elements` is not a multiple of the block size, or the size overflows 2^64 bits.
    pub fn bytes_for(self, elements: u64) -> Result<u64> {
        let info = self.info();
        if !elements.is_multiple_of(info.block_elems) {
            return Err(Error::malformed(format!("expected a multiple of {} elements for {self}, found {elements}", info.block_elems)));
        }
        let bytes = num::mul(elements / info.block_elems, info.block_bytes, "the size in bytes")?;
        num::mul(bytes, 8, "the size in bits")?;
        Ok(bytes)
    }

    /// Returns the size of a tensor of this shape (outermost dimension first) in bytes.
    ///
    /// # Errors
    /// As for [`DType::bytes_for`]; also, the row length of a quantised tensor must be a multiple of the block size.
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

    /// Parses the name, ignoring case.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let error = Error::argument(format!("expected the name of a type, found {name}"));
            match suggest_type(name, Self::ALL.iter().map(|dtype| dtype.name())) {
                Some(meant) => error.hint(Hint::DidYouMean(meant.to_owned())),
                None => error.hint(Hint::ListTypes),
            }
        })
    }
}

/// Returns the type that a mistyped name probably means: one with the same letters and digits (`q4km`), else the most similar.
pub(crate) fn suggest_type<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let wanted = plain(name);
    names.clone().find(|known| plain(known) == wanted).or_else(|| text::closest(&name.to_ascii_uppercase(), names))
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The element type of a tensor as declared in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElemType {
    /// A type in the table.
    Known(DType),
    /// A type unknown to this build: the tensor can be listed, copied and compared bytewise, but its values cannot be read.
    Unknown {
        /// Its name or number in the file.
        tag: Tag,
    },
}

/// The name or number of an unknown type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tag {
    /// The GGUF type number.
    Number(u32),
    /// The safetensors type name.
    Name(InlineName),
}

/// An inline type name of at most [`InlineName::BYTES`] graphic ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct InlineName {
    len: u8,
    bytes: [u8; Self::BYTES],
}

impl InlineName {
    /// Maximum length in bytes: twice that of the longest known name.
    pub const BYTES: usize = 22;

    /// Stores a name inline; `None` if it is empty, too long or contains non-graphic characters.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        let graphic = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        graphic.then_some(Self { len: name.len() as u8, bytes })
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.len)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for InlineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl ElemType {
    /// Returns the type, if known.
    pub fn known(self) -> Option<DType> {
        match self {
            Self::Known(dtype) => Some(dtype),
            Self::Unknown { .. } => None,
        }
    }

    /// Returns the name of the type; `type N` for an unknown GGUF type number.
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
            assert_eq!(ElemType::Unknown { tag: Tag::Name(InlineName::new(name).unwrap()) }.to_string(), name);
        }
        for name in ["", "F8_E4M3_SOMETHING_NEW23", "F 8", "F8\u{1b}[2J", "Ä"] {
            assert_eq!(InlineName::new(name), None, "{name}");
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
