//! Any bytes as a safetensors file, opened by weigh and by crate `safetensors`: both take it or both refuse it, and what they list is the
//! same. weigh refuses more, on purpose: a header that does not start with `{`, a name or a metadata key that comes twice, and a tensor
//! given as a list, which the format's text does not have. It lists tensors of types that it does not know, which the crate refuses, and
//! `verify` says so. Nothing else.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::SafeTensors;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use weigh::ElemType;
use weigh::format::Reader;
use weigh::model::FormatId;

use super::open::{safetensors_of, safetensors_seeds};
use super::{Target, file, folder};

/// The input as for `open_safetensors`.
pub const SAFETENSORS_CRATE: Target = Target { name: "safetensors_crate", run: |data| compare(&safetensors_of(data)), seeds };

fn seeds() -> Vec<Vec<u8>> {
    let headers = [
        r#"{"__metadata__":null,"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        r#" {"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"__metadata__":{"a":"","\u0061":"b"},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"x":["U8",[1],[0,1]]}"#,
        r#"{"x":{"dtype":"U9","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[0,18446744073709551615,2],"data_offsets":[0,0]},"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
    ];
    let headers = headers.map(|header| [&1u16.to_le_bytes(), header.as_bytes()].concat());
    safetensors_seeds().into_iter().chain(headers).collect()
}

fn compare(bytes: &[u8]) {
    let path = file(&folder(), "m.safetensors", bytes);
    match (weigh::format::open(&path), SafeTensors::deserialize(bytes)) {
        (Ok(reader), Ok(peer)) => same(&reader, &peer, bytes),
        (Ok(reader), Err(error)) => {
            let model = reader.model();
            let unknown = model.tensors.iter().any(|tensor| matches!(tensor.elem, ElemType::Unknown { .. }));
            assert!(model.format != FormatId::Safetensors || unknown, "weigh opens what the crate refuses: {error}");
        }
        (Err(error), Ok(_)) => assert!(refused_on_purpose(bytes), "weigh refuses what the crate opens: {error}"),
        (Err(_), Err(_)) => {}
    }
}

fn same(reader: &Reader, peer: &SafeTensors<'_>, bytes: &[u8]) {
    let model = reader.model();
    assert_eq!(model.tensors.len(), peer.len());
    for tensor in &model.tensors {
        let view = peer.tensor(&tensor.name).expect("a tensor that weigh lists");
        assert_eq!(tensor.elem.to_string(), view.dtype().to_string());
        assert_eq!(tensor.shape, view.shape().iter().map(|&dim| dim as u64).collect::<Vec<_>>());
        assert_eq!(*reader.bytes(tensor).expect("checked when it was opened"), *view.data());
    }
    let (_, header) = SafeTensors::read_metadata(bytes).expect("it was read before");
    let theirs: BTreeMap<&str, &str> = header.metadata().iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let ours: BTreeMap<&str, &str> = model.metadata.iter().map(|(key, value)| (key, value.as_str().expect("a text"))).collect();
    assert_eq!(ours, theirs);
}

/// Whether a file that the crate opens is one of those that weigh refuses on purpose.
fn refused_on_purpose(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    let header = &bytes[8..8 + length];
    let Pairs(pairs) = serde_json::from_slice(header).expect("the crate reads it");
    let metadata = pairs.iter().filter(|(name, _)| name == "__metadata__");
    let keys = metadata.filter_map(|(_, value)| serde_json::from_str::<Pairs>(value.get()).ok());
    let lists = pairs.iter().any(|(_, value)| value.get().starts_with('['));
    header[0] != b'{' || lists || twice(&pairs) || keys.into_iter().any(|Pairs(keys)| twice(&keys))
}

/// The pairs of an object, the same key as often as it comes.
struct Pairs(Vec<(String, Box<RawValue>)>);

fn twice(pairs: &[(String, Box<RawValue>)]) -> bool {
    let mut seen = HashSet::new();
    !pairs.iter().all(|(name, _)| seen.insert(name))
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
