//! SentencePiece's `tokenizer.model`: bounded reading and writing of the protobuf message.
//!
//! Field numbers and defaults are those of sentencepiece_model.proto (google/sentencepiece).

use super::vocabulary::{Token, TokenType};
use crate::base::bytes::{Cursor, Endian};
use crate::base::{Error, Result, limits};

/// The tokenization algorithm (`TrainerSpec.ModelType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram = 1,
    Bpe = 2,
}

/// The fields of `tokenizer.model` in use.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) pieces: Vec<Token>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    pub(super) ids: Ids,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) charsmap: Vec<u8>,
}

/// The IDs of special pieces; `None` if the model has no such piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) unk: Option<u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            ids: Ids { unk: Some(0), bos: Some(1), eos: Some(2), pad: None },
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            charsmap: Vec::new(),
        }
    }
}

mod field {
    pub(super) const PIECES: u64 = 1;
    pub(super) const TRAINER: u64 = 2;
    pub(super) const NORMALIZER: u64 = 3;

    pub(super) const PIECE_TEXT: u64 = 1;
    pub(super) const PIECE_SCORE: u64 = 2;
    pub(super) const PIECE_TYPE: u64 = 3;

    pub(super) const MODEL_TYPE: u64 = 3;
    pub(super) const VOCAB_SIZE: u64 = 4;
    pub(super) const BYTE_FALLBACK: u64 = 35;
    pub(super) const UNK_ID: u64 = 40;
    pub(super) const BOS_ID: u64 = 41;
    pub(super) const EOS_ID: u64 = 42;
    pub(super) const PAD_ID: u64 = 43;
    pub(super) const UNK_PIECE: u64 = 45;
    pub(super) const BOS_PIECE: u64 = 46;
    pub(super) const EOS_PIECE: u64 = 47;
    pub(super) const PAD_PIECE: u64 = 48;

    pub(super) const NORMALIZER_NAME: u64 = 1;
    pub(super) const CHARSMAP: u64 = 2;
    pub(super) const DUMMY_PREFIX: u64 = 3;
    pub(super) const EXTRA_WHITESPACES: u64 = 4;
}

/// An encoded field value.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(wrong("bytes", other)),
        }
    }

    fn number(self) -> Result<u64> {
        match self {
            Self::Varint(number) => Ok(number),
            other => Err(wrong("a number", other)),
        }
    }

    fn float(self) -> Result<f32> {
        match self {
            Self::Fixed32(bits) => Ok(f32::from_bits(bits)),
            other => Err(wrong("a 32-bit number", other)),
        }
    }

    /// Returns an ID; negative numbers, encoded in ten bytes, mean none.
    fn id(self) -> Result<Option<u32>> {
        Ok(u32::try_from(self.number()?).ok().filter(|id| i32::try_from(*id).is_ok()))
    }
}

fn wrong(expected: &str, found: Wire<'_>) -> Error {
    let found = match found {
        Wire::Varint(_) => "a number",
        Wire::Fixed32(_) => "32 bits",
        Wire::Fixed64 => "64 bits",
        Wire::Bytes(_) => "bytes",
    };
    Error::malformed(format!("expected {expected} in a field of a SentencePiece model, found {found}"))
}

/// Calls `f` with number, value and offset of each field of a message that starts at offset `at` of the file.
fn fields<'a>(message: &'a [u8], at: u64, mut f: impl FnMut(u64, Wire<'a>, u64) -> Result<()>) -> Result<()> {
    let mut cursor = Cursor::new(message, Endian::Little);
    while cursor.remaining() > 0 {
        let start = at + cursor.position();
        let mut one = || -> Result<()> {
            let tag = varint(&mut cursor)?;
            let wire = match tag & 7 {
                0 => Wire::Varint(varint(&mut cursor)?),
                1 => {
                    cursor.take(8, "a field")?;
                    Wire::Fixed64
                }
                2 => {
                    let len = varint(&mut cursor)?;
                    Wire::Bytes(cursor.take(len, "a field")?)
                }
                5 => Wire::Fixed32(cursor.u32("a field")?),
                other => {
                    return Err(Error::malformed(format!("expected a protobuf field of type 0, 1, 2 or 5, found type {other}")));
                }
            };
            let end = at + cursor.position();
            f(tag >> 3, wire, if let Wire::Bytes(bytes) = wire { end - bytes.len() as u64 } else { start })
        };
        one().map_err(|error| error.at(start))?;
    }
    Ok(())
}

/// Counts the pieces of a SentencePiece model without reading them.
pub(super) fn count_pieces(bytes: &[u8]) -> Result<u64> {
    let mut pieces = 0;
    fields(bytes, 0, |number, wire, _| {
        pieces += u64::from(number == field::PIECES && matches!(wire, Wire::Bytes(_)));
        Ok(())
    })?;
    Ok(pieces)
}

fn varint(cursor: &mut Cursor<'_>) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8("a protobuf number")?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::malformed("expected a protobuf number of at most 10 bytes, found a longer one"))
}

impl Model {
    /// Reads a `tokenizer.model`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let mut model = Self::default();
        fields(bytes, 0, |number, wire, at| match number {
            field::PIECES => {
                if model.pieces.len() as u64 >= limits::VOCABULARY {
                    return Err(Error::limit(format!("expected at most {} tokens", limits::VOCABULARY)));
                }
                model.pieces.push(read_piece(wire.bytes()?, at)?);
                Ok(())
            }
            field::TRAINER => model.read_trainer(wire.bytes()?, at),
            field::NORMALIZER => model.read_normalizer(wire.bytes()?, at),
            _ => Ok(()),
        })?;
        if model.pieces.is_empty() {
            return Err(Error::malformed("the SentencePiece model has no tokens"));
        }
        Ok(model)
    }

    fn read_trainer(&mut self, message: &[u8], at: u64) -> Result<()> {
        fields(message, at, |number, wire, _| {
            match number {
                field::MODEL_TYPE => {
                    self.algorithm = match wire.number()? {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        other => {
                            return Err(Error::unsupported(format!(
                                "expected a SentencePiece model of type 1 (Unigram) or 2 (BPE), found {other}"
                            )));
                        }
                    }
                }
                field::BYTE_FALLBACK => self.byte_fallback = wire.number()? != 0,
                field::UNK_ID => self.ids.unk = wire.id()?,
                field::BOS_ID => self.ids.bos = wire.id()?,
                field::EOS_ID => self.ids.eos = wire.id()?,
                field::PAD_ID => self.ids.pad = wire.id()?,
                _ => {}
            }
            Ok(())
        })
    }

    fn read_normalizer(&mut self, message: &[u8], at: u64) -> Result<()> {
        fields(message, at, |number, wire, _| {
            match number {
                field::CHARSMAP => self.charsmap = wire.bytes()?.to_vec(),
                field::DUMMY_PREFIX => self.add_dummy_prefix = wire.number()? != 0,
                field::EXTRA_WHITESPACES => self.remove_extra_whitespaces = wire.number()? != 0,
                _ => {}
            }
            Ok(())
        })
    }

    /// Encodes a `tokenizer.model`.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Message::default();
        for piece in &self.pieces {
            let mut message = Message::default();
            message.bytes(field::PIECE_TEXT, piece.text.as_bytes());
            message.float(field::PIECE_SCORE, piece.score);
            if piece.token_type != TokenType::Normal {
                message.number(field::PIECE_TYPE, piece.token_type as u64);
            }
            out.bytes(field::PIECES, &message.0);
        }
        let mut trainer = Message::default();
        trainer.number(field::MODEL_TYPE, self.algorithm as u64);
        trainer.number(field::VOCAB_SIZE, self.pieces.len() as u64);
        trainer.number(field::BYTE_FALLBACK, self.byte_fallback.into());
        for (number, piece_number, id) in [
            (field::UNK_ID, field::UNK_PIECE, self.ids.unk),
            (field::BOS_ID, field::BOS_PIECE, self.ids.bos),
            (field::EOS_ID, field::EOS_PIECE, self.ids.eos),
            (field::PAD_ID, field::PAD_PIECE, self.ids.pad),
        ] {
            trainer.number(number, id.map_or(u64::MAX, u64::from));
            if let Some(piece) = id.and_then(|id| self.pieces.get(id as usize)) {
                trainer.bytes(piece_number, piece.text.as_bytes());
            }
        }
        out.bytes(field::TRAINER, &trainer.0);
        let mut normalizer = Message::default();
        normalizer.bytes(field::NORMALIZER_NAME, if self.charsmap.is_empty() { b"identity" } else { b"nmt_nfkc" });
        normalizer.bytes(field::CHARSMAP, &self.charsmap);
        normalizer.number(field::DUMMY_PREFIX, self.add_dummy_prefix.into());
        normalizer.number(field::EXTRA_WHITESPACES, self.remove_extra_whitespaces.into());
        out.bytes(field::NORMALIZER, &normalizer.0);
        out.0
    }
}

fn read_piece(message: &[u8], at: u64) -> Result<Token> {
    let mut piece = Token { text: String::new(), score: 0.0, token_type: TokenType::Normal };
    fields(message, at, |number, wire, at| {
        match number {
            field::PIECE_TEXT => {
                let text = std::str::from_utf8(wire.bytes()?);
                text.map_err(|_| Error::malformed("expected the text of a token in UTF-8, found other bytes").at(at))?
                    .clone_into(&mut piece.text);
            }
            field::PIECE_SCORE => piece.score = wire.float()?,
            field::PIECE_TYPE => {
                let number = wire.number()?;
                piece.token_type = TokenType::from_number(number)
                    .ok_or_else(|| Error::malformed(format!("expected a token type of 1 to 6, found {number}")))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

/// A protobuf message being encoded.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Model {
        let piece = |text: &str, score, token_type| Token { text: text.to_owned(), score, token_type };
        Model {
            pieces: vec![
                piece("<unk>", 0.0, TokenType::Unknown),
                piece("<s>", 0.0, TokenType::Control),
                piece("<0x0A>", 0.0, TokenType::Byte),
                piece("▁模", -1.5, TokenType::Normal),
                piece("▁", -0.0, TokenType::UserDefined),
            ],
            algorithm: Algorithm::Bpe,
            byte_fallback: true,
            ids: Ids { unk: Some(3), bos: Some(4), eos: None, pad: Some(300) },
            add_dummy_prefix: false,
            remove_extra_whitespaces: false,
            charsmap: vec![0, 200, 7],
        }
    }

    #[test]
    fn pieces_are_counted() {
        // Two pieces, a trainer_spec (field 2), a varint (field 9), and a truncated piece.
        let whole = [0x0a, 1, 0, 0x0a, 0, 0x12, 2, 1, 2, 0x48, 0x80, 1];
        assert_eq!(count_pieces(&whole).unwrap(), 2);
        assert!(count_pieces(&[0x0a, 5, 1]).is_err());
        assert!(count_pieces(&[0xff; 20]).is_err());
    }

    #[test]
    fn written_models_read_back() {
        assert_eq!(Model::read(&sample().write()).unwrap(), sample());
    }

    #[test]
    fn every_cut_is_an_error_or_a_smaller_model_and_never_a_panic() {
        let bytes = sample().write();
        for end in 0..bytes.len() {
            if let Ok(model) = Model::read(&bytes[..end]) {
                assert!(model.pieces.len() <= sample().pieces.len());
            }
        }
    }

    #[test]
    fn lengths_past_the_end_groups_and_long_numbers_are_errors() {
        for bad in [&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0x0b], &[0x80; 11], &[0x0a, 2, 0x0a, 9], &[]] {
            assert!(Model::read(bad).is_err(), "{bad:?}");
        }
    }
}
