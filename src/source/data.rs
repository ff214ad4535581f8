//! Bytes that were read: borrowed from the source if possible.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A range of a source.
#[derive(Clone)]
pub enum Data<'a> {
    /// Bytes of the source itself.
    Borrowed(&'a [u8]),
    /// Bytes that were read or computed for this range.
    Owned(Vec<u8>),
    /// Part of a block that other ranges share.
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>),
}

impl<'a> Data<'a> {
    /// Returns the bytes as a vector; copied, unless they are owned.
    pub fn into_owned(self) -> Vec<u8> {
        match self {
            Self::Owned(bytes) => bytes,
            shared => shared.to_vec(),
        }
    }

    /// Returns part of the bytes; `None` if there are fewer.
    pub fn part(self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        Some(match self {
            Self::Borrowed(bytes) => Self::Borrowed(&bytes[range]),
            Self::Owned(mut bytes) => {
                bytes.truncate(range.end);
                bytes.drain(..range.start);
                Self::Owned(bytes)
            }
            Self::Shared(block, all) => Self::Shared(block, all.start + range.start..all.start + range.end),
        })
    }
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Shared(block, range) => (**block).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Data<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Data<'_> {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Default for Data<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a> From<Data<'a>> for std::borrow::Cow<'a, [u8]> {
    fn from(data: Data<'a>) -> Self {
        match data {
            Data::Borrowed(bytes) => Self::Borrowed(bytes),
            other => Self::Owned(other.into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_is_of_the_same_bytes() {
        let block: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(vec![0u8, 1, 2, 3, 4, 5]);
        for data in [Data::Borrowed(&[1, 2, 3, 4]), Data::Owned(vec![1, 2, 3, 4]), Data::Shared(block, 1..5)] {
            assert!(data.clone().part(3..5).is_none());
            let part = data.part(1..4).unwrap();
            assert_eq!(*part, [2, 3, 4]);
            assert_eq!(part.part(1..2).unwrap().into_owned(), [3]);
        }
    }
}
