//! Small models and what llama.cpp's converter makes of them.

use serde_json::Value as Json;

use crate::family::mapping::ModelPart;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::{DType, Metadata, Model, Module};
use crate::view::tests::reader;

fn fnv32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

pub(super) fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The reference weights, derived from the tensor's name. Variances are positive.
fn weights(name: &str, count: u64, dtype: DType) -> Vec<u8> {
    let mut seed = fnv32(name);
    let mut bytes = Vec::new();
    let mask = if name.ends_with("running_var") { 0x7f } else { 0x807f };
    for _ in 0..count {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bits = ((seed >> 9) & mask) as u16 | 0x3e80;
        match dtype {
            DType::BF16 => bytes.extend(bits.to_le_bytes()),
            DType::I8 => bytes.push((bits & 0x7f | bits >> 8 & 0x80) as u8),
            DType::U8 | DType::F8_E8M0 => bytes.push((bits & 0x7f) as u8),
            DType::I64 => bytes.extend((u64::from(bits & 0x7f) % 3).to_le_bytes()),
            _ => bytes.extend((u32::from(bits) << 16).to_le_bytes()),
        }
    }
    bytes
}

/// A small model and what llama.cpp's converter makes of it: see fixtures/make-arch.py.
pub(super) struct Golden {
    pub(super) name: String,
    pub(super) table: Table,
    pub(super) json: Json,
}

impl Golden {
    /// Whether it is of the encoder of pictures or sounds.
    pub(super) fn is_projector(&self) -> bool {
        self.json["projector"] == true
    }

    /// Returns the part of the model that was converted.
    pub(super) fn part(&self) -> ModelPart {
        match self.json["part"].as_str() {
            None => ModelPart::Whole,
            Some("alone") => ModelPart::MtpAlone,
            Some("without") => ModelPart::WithoutMtp,
            Some(other) => panic!("{other}"),
        }
    }

    /// Returns the model, with weights that follow from their names.
    pub(super) fn reader(&self) -> Reader {
        let tensors = self.json["tensors"].as_array().unwrap().iter().map(|row| {
            let (name, dtype) = (row[0].as_str().unwrap(), DType::from_safetensors(row[1].as_str().unwrap()).unwrap());
            let shape: Vec<u64> = row[2].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
            // Whole numbers are constants of the model, and stand beside the shape.
            let constants = row[3].as_array().map(|values| values.iter().flat_map(|value| value.as_i64().unwrap().to_le_bytes()).collect());
            // Tensors that must be zero for a GGUF are.
            let made = || match self.json["zeros"].as_array().is_some_and(|zeros| zeros.contains(&row[0])) {
                true => vec![0; dtype.bytes_for(shape.iter().product()).unwrap() as usize],
                false => weights(name, shape.iter().product(), dtype),
            };
            let bytes = constants.unwrap_or_else(made);
            (name.to_owned(), shape, dtype, bytes)
        });
        let reader = reader(tensors.collect(), Metadata::new(), Some(self.json["config"].clone()));
        let modules = self.json["modules"].as_array().into_iter().flatten().map(|row| Module {
            path: row[0].as_str().unwrap().to_owned(),
            kind: row[1].as_str().unwrap().to_owned(),
            config: row[2].clone(),
            shard: Some(0),
        });
        let model = Model { modules: modules.collect(), ..reader.model().clone() };
        Reader::computed(&reader, model, std::collections::HashMap::new())
    }
}

/// Whether tests are wanted for what has this name: all, or what the environment variable WEIGH_GOLDEN names.
pub(super) fn is_wanted(name: &str) -> bool {
    std::env::var("WEIGH_GOLDEN").map_or(true, |only| only == name)
}

/// Whether tests are wanted for all goldens.
pub(super) fn all_are_wanted() -> bool {
    std::env::var_os("WEIGH_GOLDEN").is_none()
}

pub(super) fn goldens() -> Vec<Golden> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/arch");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let tables = Tables::default();
        let table = match json["projector"] == true {
            true => tables.projector_for_config(&json["config"]).unwrap().unwrap(),
            false => tables.for_config(&json["config"]).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        };
        Golden { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), table, json }
    };
    let found: Vec<Golden> = std::fs::read_dir(folder).unwrap().map(read).collect();
    assert!(found.len() > 50);
    found.into_iter().filter(|golden| is_wanted(&golden.name)).collect()
}
