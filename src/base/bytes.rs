//! A bounded, endian-aware cursor over bytes. It never reads past the end; its errors name the offset, or, if only a prefix of the file is
//! available, how many more bytes are needed.

use std::fmt;
use std::path::Path;

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::base::{Error, Result};

/// Bytes with shared ownership: a file or a buffer. A file's bytes may change at any moment, so copy before validating.
pub trait SharedBytes: fmt::Debug + Send + Sync {
    /// Returns all of the bytes.
    fn bytes(&self) -> &[u8];

    /// Returns the path to use in messages.
    fn path(&self) -> &Path;
}

/// The outcome of parsing the start of a file.
#[derive(Debug)]
pub enum Parsed<T> {
    /// The available bytes were enough to return a value or an error.
    Done(T),
    /// At least this many bytes of the file must be available; parsing then starts over.
    Need(u64),
}

/// The byte order of numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Endian {
    /// Least significant byte first.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// Copies bytes, so that what is validated on the copy holds even if the file changes.
///
/// # Errors
/// Memory cannot be allocated.
pub fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copied = Vec::new();
    copied.try_reserve_exact(bytes.len()).map_err(|_| Error::limit(format!("expected memory for {} bytes", bytes.len())))?;
    copied.extend_from_slice(bytes);
    Ok(copied)
}

/// A read position in a byte slice, which may be a prefix of a longer file.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
    endian: Endian,
    /// Total length in bytes, including bytes that are not available.
    total: u64,
    /// The length that the prefix would need; 0 if no read went beyond it.
    needed: u64,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident -> $type:ty, $bytes:literal, $read:ident);* $(;)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(&mut self, what: &str) -> Result<$type> {
            let bytes = self.take($bytes, what)?;
            Ok(match self.endian {
                Endian::Little => LittleEndian::$read(bytes),
                Endian::Big => BigEndian::$read(bytes),
            })
        }
    )*};
}

impl<'a> Cursor<'a> {
    /// Returns a cursor at the start of `data`.
    pub fn new(data: &'a [u8], endian: Endian) -> Self {
        Self::from_prefix(data, data.len() as u64, endian)
    }

    /// Returns a cursor at the start of `data`, the prefix of a file of `total` bytes.
    pub fn from_prefix(data: &'a [u8], total: u64, endian: Endian) -> Self {
        Self { data, pos: 0, endian, total: total.max(data.len() as u64), needed: 0 }
    }

    /// Wraps the result of parsing; if a read went beyond the prefix, discards it and asks for more bytes.
    pub fn parsed<T>(&self, result: T) -> Parsed<T> {
        if self.needed > 0 { Parsed::Need(self.needed.min(self.total)) } else { Parsed::Done(result) }
    }

    /// If a read went beyond the prefix, asks for `bytes` more than it needed.
    pub fn need_more(&mut self, bytes: u64) {
        if self.needed > 0 {
            self.needed = self.needed.saturating_add(bytes);
        }
    }

    /// Returns the number of bytes before the cursor.
    pub fn position(&self) -> u64 {
        self.pos as u64
    }

    /// Returns the number of bytes left in the file, available or not.
    #[inline(always)]
    pub fn remaining(&self) -> u64 {
        self.total - self.pos as u64
    }

    /// Returns the byte order in which numbers are read.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// Sets the byte order of subsequent reads.
    pub fn set_endian(&mut self, endian: Endian) {
        self.endian = endian;
    }

    /// Returns the next `len` bytes; `what` names them in the error.
    #[inline(always)] // a few instructions, many times
    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        if len > (self.data.len() - self.pos) as u64 {
            return Err(self.too_short(len, what));
        }
        let start = self.pos;
        self.pos += len as usize; // at most what is left of the data, which is a usize
        Ok(&self.data[start..self.pos])
    }

    /// Skips at most `count` length-prefixed (64-bit) strings, stopping at the first incomplete one, and returns the number skipped. Cheap,
    /// because a vocabulary has hundreds of thousands.
    pub fn skip_strings(&mut self, count: u64) -> u64 {
        let mut rest = self.data.get(self.pos..).unwrap_or_default();
        let mut done = 0;
        while done < count {
            let Some((len, text)) = rest.split_first_chunk() else { break };
            let len = if self.endian == Endian::Little { u64::from_le_bytes(*len) } else { u64::from_be_bytes(*len) };
            if len > text.len() as u64 {
                break;
            }
            rest = text.get(len as usize..).unwrap_or_default();
            done += 1;
        }
        self.pos = self.data.len() - rest.len();
        done
    }

    /// Reads the next `len` bytes as UTF-8, copying first because the file can change meanwhile.
    pub fn text(&mut self, len: u64, what: &str) -> Result<String> {
        let at = self.position();
        let bytes = copy(self.take(len, what)?)?;
        String::from_utf8(bytes).map_err(|error| {
            let error = error.utf8_error();
            Error::malformed(format!("expected {what} in UTF-8, found other bytes")).at(at + error.valid_up_to() as u64).caused_by(error)
        })
    }

    #[cold]
    fn too_short(&mut self, len: u64, what: &str) -> Error {
        let found = self.remaining();
        if len <= found {
            self.needed = self.needed.max(self.position() + len);
        }
        Error::truncated(format!("expected {len} bytes of {what}, found {found} before the end")).at(self.position())
    }

    /// The next byte.
    pub fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(self.take(1, what)?[0])
    }

    /// The next byte, as a signed number.
    pub fn i8(&mut self, what: &str) -> Result<i8> {
        Ok(self.u8(what)? as i8)
    }

    numbers! {
        /// The next two bytes.
        u16 -> u16, 2, read_u16;
        /// The next two bytes, signed.
        i16 -> i16, 2, read_i16;
        /// The next four bytes.
        u32 -> u32, 4, read_u32;
        /// The next four bytes, signed.
        i32 -> i32, 4, read_i32;
        /// The next eight bytes.
        u64 -> u64, 8, read_u64;
        /// The next eight bytes, signed.
        i64 -> i64, 8, read_i64;
        /// The next four bytes, as an IEEE 754 number.
        f32 -> f32, 4, read_f32;
        /// The next eight bytes, as an IEEE 754 number.
        f64 -> f64, 8, read_f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_orders_and_stops_at_the_end() {
        let mut cursor = Cursor::new(&[1, 0, 0, 2, 9], Endian::Little);
        assert_eq!(cursor.u16("a").unwrap(), 1);
        cursor.set_endian(Endian::Big);
        assert_eq!(cursor.u16("b").unwrap(), 2);
        let error = cursor.u32("the count").unwrap_err();
        assert_eq!(error.to_string(), "byte 4: expected 4 bytes of the count, found 1 before the end");
        assert_eq!(cursor.u8("c").unwrap(), 9);
        assert_eq!(cursor.take(u64::MAX, "d").unwrap_err().offset(), Some(5));
    }

    #[test]
    fn strings_are_stepped_over_as_far_as_they_are_whole() {
        for (endian, length) in [(Endian::Little, u64::to_le_bytes as fn(u64) -> [u8; 8]), (Endian::Big, u64::to_be_bytes)] {
            let data = [&length(2)[..], b"ab", &length(0), &length(3), b"cd"].concat();
            let mut cursor = Cursor::new(&data, endian);
            assert_eq!((cursor.skip_strings(1), cursor.position()), (1, 10));
            assert_eq!((cursor.skip_strings(u64::MAX), cursor.position()), (1, 18));
            assert_eq!((cursor.skip_strings(1), cursor.position()), (0, 18), "the third is cut short");
            cursor.take(6, "half a length").unwrap();
            assert_eq!((cursor.skip_strings(1), cursor.position()), (0, 24));
        }
    }

    #[test]
    fn the_start_of_a_file_says_how_much_more_is_needed() {
        let mut cursor = Cursor::from_prefix(&[1, 0, 2], 10, Endian::Little);
        assert_eq!((cursor.u16("a").unwrap(), cursor.remaining()), (1, 8));
        assert!(matches!(cursor.parsed(()), Parsed::Done(())));
        cursor.need_more(1); // nothing is needed: nothing more is
        assert_eq!(cursor.take(9, "b").unwrap_err().to_string(), "byte 2: expected 9 bytes of b, found 8 before the end");
        assert!(matches!(cursor.parsed(()), Parsed::Done(())), "the file is too short");
        cursor.u32("c").unwrap_err();
        assert!(matches!(cursor.parsed(()), Parsed::Need(6)));
        cursor.need_more(3);
        assert!(matches!(cursor.parsed(()), Parsed::Need(9)));
        cursor.need_more(3);
        assert!(matches!(cursor.parsed(()), Parsed::Need(10)), "there is no more");
    }
}
