//! A bounded cursor over bytes of either byte order: it cannot read past the end, and says where it stopped.

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::base::{Error, Result};

/// Bytes that several owners share: a mapped file, or a buffer. Those of a mapping may change at any moment: copy before checking.
pub trait SharedBytes: std::fmt::Debug + Send + Sync {
    /// Returns all of the bytes.
    fn bytes(&self) -> &[u8];

    /// Returns the path of the file that they are of, if they are of one.
    fn path(&self) -> Option<&std::path::Path> {
        None
    }
}

impl SharedBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// The order of the bytes of a number in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Endian {
    /// Least significant byte first.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// The bytes, copied: what is checked on the copy holds, whatever happens to the file that they are mapped from.
///
/// # Errors
/// There is not so much memory.
pub fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copied = Vec::new();
    copied.try_reserve_exact(bytes.len()).map_err(|_| Error::limit(format!("expected memory for {} bytes", bytes.len())))?;
    copied.extend_from_slice(bytes);
    Ok(copied)
}

/// A reading position in a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
    endian: Endian,
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
    /// A cursor at the start of `data`.
    pub fn new(data: &'a [u8], endian: Endian) -> Self {
        Self { data, pos: 0, endian }
    }

    /// How many bytes lie before the cursor.
    pub fn position(&self) -> u64 {
        self.pos as u64
    }

    /// How many bytes are left.
    #[inline(always)]
    pub fn remaining(&self) -> u64 {
        (self.data.len() - self.pos) as u64
    }

    /// The byte order in which numbers are read.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// Reads numbers in another byte order from here on.
    pub fn set_endian(&mut self, endian: Endian) {
        self.endian = endian;
    }

    /// The next `len` bytes; `what` names them in the error.
    #[inline(always)] // a few instructions, many times
    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.too_short(len, what));
        }
        let start = self.pos;
        self.pos += len as usize; // at most remaining(), which is a usize
        Ok(&self.data[start..self.pos])
    }

    /// The next `len` bytes as text. They are copied before they are looked at: a file can change under its mapping.
    pub fn text(&mut self, len: u64, what: &str) -> Result<String> {
        let at = self.position();
        let bytes = copy(self.take(len, what)?)?;
        String::from_utf8(bytes).map_err(|error| {
            let error = error.utf8_error();
            Error::malformed(format!("expected {what} in UTF-8, found other bytes")).at(at + error.valid_up_to() as u64).caused_by(error)
        })
    }

    #[cold]
    fn too_short(&self, len: u64, what: &str) -> Error {
        let found = self.remaining();
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
}
