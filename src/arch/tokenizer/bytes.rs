//! The alphabet of byte-level BPE: every byte as a printable character (GPT-2's `bytes_to_unicode`).

/// The character of a byte: itself where it is printable in Latin-1, else the next one from U+0100 on.
pub(super) fn char_of(byte: u8) -> char {
    if is_printable(byte) {
        char::from(byte)
    } else {
        let before = (0..byte).filter(|byte| !is_printable(*byte)).count() as u32;
        char::from_u32(0x100 + before).unwrap_or_default()
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The byte of a character, if it stands for one.
fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => Some(byte).filter(|byte| is_printable(*byte)),
        Err(_) => {
            let place = u32::from(c).checked_sub(0x100)? as usize;
            (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth(place)
        }
    }
}

/// The bytes that a token stands for, or `None` where one of its characters stands for none.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n')), ('Ġ', 'Ċ'));
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('模'), None);
    }
}
