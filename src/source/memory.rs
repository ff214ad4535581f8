//! Bytes in memory as a source.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Result;
use crate::base::bytes::SharedBytes;
use crate::source::data::Data;
use crate::source::read::{Source, slice};

/// Bytes in memory, with a name for messages.
#[derive(Clone)]
pub struct InMemory<B> {
    name: PathBuf,
    pub(super) bytes: B,
}

impl<B: AsRef<[u8]>> InMemory<B> {
    /// Names bytes. The name is not a file path: no related files are looked for.
    pub fn new(name: impl Into<PathBuf>, bytes: B) -> Self {
        Self { name: name.into(), bytes }
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for InMemory<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").field("name", &self.name).field("len", &self.bytes.as_ref().len()).finish()
    }
}

impl<B: AsRef<[u8]> + Send + Sync + 'static> Source for InMemory<B> {
    fn path(&self) -> &Path {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.as_ref().len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Data<'_>> {
        slice(self.bytes.as_ref(), &range, &self.name)
    }

    fn shared(self: Arc<Self>) -> Option<Arc<dyn SharedBytes>> {
        Some(self)
    }
}

impl<B: AsRef<[u8]> + Send + Sync> SharedBytes for InMemory<B> {
    fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    fn path(&self) -> &Path {
        &self.name
    }
}
