//! Every block type against what the reference makes of the same numbers, and what its encoding keeps of them.

use proptest::prelude::*;
use safetensors::SafeTensors;
use weigh::DType;
use weigh::codec::{Codec, codec};
use xxhash_rust::xxh64::xxh64;

const FIXTURE: &[u8] = include_bytes!("../../fixtures/quants.safetensors");

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The bits of the values, with one NaN for all.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }).collect()
}

fn decoded(codec: &Codec, bytes: &[u8]) -> Vec<f32> {
    let info = codec.dtype.info();
    let mut values = vec![0f32; bytes.len() / info.block_bytes as usize * info.block_elems as usize];
    (codec.decode)(bytes, &mut values);
    values
}

fn encoded(codec: &Codec, row: &[f32], importance: Option<&[f32]>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; codec.dtype.bytes_for(row.len() as u64).unwrap() as usize];
    codec.encode?(row, importance, &mut bytes);
    Some(bytes)
}

/// The type in a name of the fixture: `enc.<type>.<rows>`, `enc.<type>.im.<rows>`, `raw.<type>`.
fn of(name: &str) -> &'static Codec {
    let dtype: DType = name.split('.').nth(1).unwrap().parse().unwrap();
    codec(dtype).unwrap_or_else(|| panic!("no codec for {dtype}"))
}

#[test]
fn any_bytes_decode_to_the_values_of_the_reference() {
    let fixture = SafeTensors::deserialize(FIXTURE).unwrap();
    let mut count = 0;
    for (name, raw) in fixture.tensors().iter().filter(|(name, _)| name.starts_with("raw.")) {
        let expected = floats(fixture.tensor(&format!("dec.{name}")).unwrap().data());
        assert!(bits(&decoded(of(name), raw.data())) == bits(&expected), "{name}");
        count += 1;
    }
    assert_eq!(count, 25);
}

#[test]
fn rows_encode_to_the_bytes_of_the_reference_and_decode_to_its_values() {
    let fixture = SafeTensors::deserialize(FIXTURE).unwrap();
    let (_, header) = SafeTensors::read_metadata(FIXTURE).unwrap();
    let digests = header.metadata().as_ref().unwrap();
    let importance = floats(fixture.tensor("imatrix").unwrap().data());
    let (mut encodings, mut decodings) = (0, 0);
    for (name, expected) in fixture.tensors().iter().filter(|(name, _)| name.starts_with("enc.")) {
        let codec = of(name);
        let rows = floats(fixture.tensor(&format!("in.{}", name.rsplit('.').next().unwrap())).unwrap().data());
        let importance = name.contains(".im.").then_some(&importance[..]);
        let own: Option<Vec<u8>> =
            rows.chunks(512).map(|row| encoded(codec, row, importance)).collect::<Option<Vec<_>>>().map(|rows| rows.concat());
        if let Some(own) = own {
            let differ = own.iter().zip(expected.data()).filter(|(own, expected)| own != expected).count();
            assert!(own.len() == expected.data().len() && differ == 0, "{name}: {differ} of {} bytes differ", own.len());
            encodings += 1;
        }
        if let Some(digest) = digests.get(&name.replacen("enc.", "dec.", 1)) {
            let bytes: Vec<u8> = bits(&decoded(codec, expected.data())).iter().flat_map(|bits| bits.to_le_bytes()).collect();
            assert_eq!(format!("{:016x}", xxh64(&bytes, 0)), *digest, "{name}");
            decodings += 1;
        }
    }
    assert!(encodings == 250 && decodings == 238, "{encodings} and {decodings}");
}

/// For each type the largest relative error, in root mean square, of 512 normal numbers: a tenth above the
/// largest of 300 rows.
const ERRORS: &[(DType, f64)] = &[
    (DType::F32, 0.0),
    (DType::F16, 0.000_26),
    (DType::BF16, 0.0021),
    (DType::F8_E5M2, 0.065),
    (DType::Q1_0, 0.7),
    (DType::Q2_0, 0.87),
    (DType::Q4_0, 0.106),
    (DType::Q4_1, 0.098),
    (DType::Q5_0, 0.053),
    (DType::Q5_1, 0.046),
    (DType::Q8_0, 0.0067),
    (DType::Q8_1, 0.0067),
    (DType::Q2_K, 0.37),
    (DType::Q3_K, 0.184),
    (DType::Q4_K, 0.087),
    (DType::Q5_K, 0.044),
    (DType::Q6_K, 0.022),
    (DType::Q8_K, 0.0093),
    (DType::IQ1_S, 0.57),
    (DType::IQ1_M, 0.7),
    (DType::IQ2_XXS, 0.41),
    (DType::IQ2_XS, 0.36),
    (DType::IQ2_S, 0.32),
    (DType::IQ3_XXS, 0.27),
    (DType::IQ3_S, 0.205),
    (DType::IQ4_NL, 0.091),
    (DType::IQ4_XS, 0.092),
    (DType::TQ1_0, 0.98),
    (DType::TQ2_0, 0.98),
    (DType::MXFP4, 0.14),
    (DType::NVFP4, 0.113),
];

/// Types whose decoded values encode to the same bytes again: their scales are found exactly from the largest value.
const STABLE: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F64,
    DType::F8_E4M3,
    DType::F8_E5M2,
    DType::F8_E4M3FNUZ,
    DType::F8_E5M2FNUZ,
    DType::F6_E2M3,
    DType::F6_E3M2,
    DType::F4,
    DType::Q1_0,
    DType::Q2_0,
    DType::Q4_0,
    DType::Q5_0,
    DType::Q8_0,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::MXFP4,
];

/// Rows of 256 numbers, normal by the sum of twelve uniform ones, about a scale from 2^-4 to 2.
fn normal_row() -> impl Strategy<Value = Vec<f32>> {
    let normal = proptest::array::uniform12(-0.5f32..0.5).prop_map(|uniform| uniform.iter().sum::<f32>());
    (proptest::collection::vec(normal, 512), -4..=1).prop_map(|(row, scale)| row.iter().map(|x| x * 2f32.powi(scale)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_error_of_each_type_is_as_stated(row in normal_row()) {
        let size: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        for &(dtype, most) in ERRORS {
            let codec = codec(dtype).unwrap();
            let values = decoded(codec, &encoded(codec, &row, None).unwrap());
            let error: f64 = row.iter().zip(&values).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
            let relative = (error / size).sqrt();
            prop_assert!(relative <= most, "{dtype}: {relative}");
        }
    }

    #[test]
    fn encoding_is_idempotent(row in normal_row()) {
        for &dtype in STABLE {
            let codec = codec(dtype).unwrap();
            let once = encoded(codec, &row, None).unwrap();
            let again = encoded(codec, &decoded(codec, &once), None).unwrap();
            prop_assert!(once == again, "{dtype}");
        }
    }
}
