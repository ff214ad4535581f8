//! The dtypes of NumPy that are stored without pickle.

use crate::format::strided::Kind;
use crate::model::DType;

/// Returns the type that NumPy writes as `<f4`, and whether it is big-endian; `None` for texts, dates, structures and objects.
pub(crate) fn parse(descr: &str) -> Option<(Kind, bool)> {
    let order = descr.bytes().next()?;
    let name = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
    let kind = match name {
        "f4" => Kind::known(DType::F32, 4),
        "f8" => Kind::known(DType::F64, 8),
        "f2" => Kind::known(DType::F16, 2),
        "i1" => Kind::known(DType::I8, 1),
        "i2" => Kind::known(DType::I16, 2),
        "i4" => Kind::known(DType::I32, 4),
        "i8" => Kind::known(DType::I64, 8),
        "u1" => Kind::known(DType::U8, 1),
        "u2" => Kind::known(DType::U16, 2),
        "u4" => Kind::known(DType::U32, 4),
        "u8" => Kind::known(DType::U64, 8),
        "b1" => Kind::known(DType::BOOL, 1),
        "c8" => Kind { number: 4, ..Kind::known(DType::C64, 8) },
        "c16" => Kind::unknown("C128", 16, 8)?,
        // Of x86's extended precision, padded.
        "f16" | "f12" => Kind::unknown(name, name.get(1..)?.parse().ok()?, name.get(1..)?.parse().ok()?)?,
        "c32" | "c24" => Kind::unknown(name, name.get(1..)?.parse().ok()?, name.get(1..)?.parse::<usize>().ok()? / 2)?,
        _ => return None,
    };
    Some((kind, order == b'>' && kind.number > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_are_told_by_their_description() {
        for (descr, elem, width, big) in [
            ("<f4", "F32", 4, false),
            (">i2", "I16", 2, true),
            ("|b1", "BOOL", 1, false),
            ("|u1", "U8", 1, false),
            (">c16", "C128", 16, true),
        ] {
            let (kind, found) = parse(descr).unwrap();
            assert_eq!((kind.elem.to_string().as_str(), kind.width, found), (elem, width, big), "{descr}");
        }
        for descr in ["|O", "<U4", "|S3", "<M8[ns]", "", "V2"] {
            assert_eq!(parse(descr), None, "{descr}");
        }
    }
}
