//! The identity of work on a model, by which parts of it on several machines know each other.

use crate::base::Result;
use crate::format::Reader;
use crate::ops::hash::{Algorithm, Hasher};
use crate::source::{Source, read_chunks};

/// Minimum number of bytes at the start of a weight file that identify it, together with its size; a longer header is used in full.
const HEADER_BYTES: u64 = 1 << 16;

/// Number of bytes at the start of a companion file (config, adapter) that identify it, together with its size.
const BESIDE_BYTES: u64 = 1 << 20;

/// Hashes fields, each with its length, so that no two sequences of fields are the same bytes.
pub(in crate::ops) struct Identity(Hasher);

impl Identity {
    /// Starts with the version of weigh and the model: the headers and sizes of its files, the files beside them, the tensors as they are
    /// read. Paths do not count.
    pub(in crate::ops) fn of(reader: &Reader) -> Result<Self> {
        let mut hash = Self(Hasher::new(Algorithm::Blake3));
        hash.field(env!("CARGO_PKG_VERSION").as_bytes());
        let model = reader.model();
        for (shard, source) in reader.sources().iter().enumerate() {
            let stored = model.tensors.iter().filter(|tensor| tensor.shard == shard && !reader.is_computed(tensor));
            let header = stored.map(|tensor| tensor.offset_bytes).min().unwrap_or(0);
            hash.start_of(&**source, header.max(HEADER_BYTES))?;
        }
        for source in reader.open_beside()? {
            hash.start_of(&*source, BESIDE_BYTES)?;
        }
        for tensor in &model.tensors {
            hash.field(format!("{} {} {:?} {} {}", tensor.name, tensor.elem, tensor.shape, tensor.shard, tensor.offset_bytes).as_bytes());
        }
        Ok(hash)
    }

    pub(in crate::ops) fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds the length of a source, and at most `most` bytes at its start.
    fn start_of(&mut self, source: &dyn Source, most: u64) -> Result<()> {
        self.0.update(&source.len().to_le_bytes());
        self.field(&source.read(0..source.len().min(most))?);
        Ok(())
    }

    /// Adds a whole source.
    pub(in crate::ops) fn whole(&mut self, source: &dyn Source) -> Result<()> {
        self.0.update(&source.len().to_le_bytes());
        read_chunks(source, 0, |chunk| {
            self.0.update(chunk);
            Ok(())
        })
    }

    pub(in crate::ops) fn finish(self) -> String {
        self.0.finish()
    }
}
