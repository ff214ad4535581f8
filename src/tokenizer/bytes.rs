//! The alphabet of byte-level BPE, which maps every byte to a printable character (GPT-2's `bytes_to_unicode`).

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Returns the byte of a character in the alphabet: itself if printable in Latin-1, otherwise by its offset from U+0100.
fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => Some(byte).filter(|byte| is_printable(*byte)),
        Err(_) => {
            let place = u32::from(c).checked_sub(0x100)? as usize;
            (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth(place)
        }
    }
}

/// Returns the token for these bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let char_of = |&byte: &u8| match byte {
        _ if is_printable(byte) => char::from(byte),
        _ => {
            let place = (0..byte).filter(|byte| !is_printable(*byte)).count() as u32;
            char::from_u32(0x100 + place).unwrap_or_default()
        }
    };
    bytes.iter().map(char_of).collect()
}

/// Returns the bytes of a token; `None` if a character is not in the alphabet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(decode("Ġ!Ċ"), Some(b" !\n".to_vec()));
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!(encode(b" !\n"), "Ġ!Ċ");
        assert_eq!((decode(" "), decode("模")), (None, None));
    }
}
