//! ChatGLM 3's vocabulary: a SentencePiece model and special tokens after it.

use super::spm;
use super::vocabulary::{Token, TokenType};
use super::{Build, setting, vocabulary_size};
use crate::base::Result;

/// llama.cpp's name of the pre-tokenizer.
pub(super) const PRE: &str = "chatglm-spm";

/// The special tokens after the pieces (tokenization_chatglm.py).
pub(super) const SPECIAL: [&str; 9] =
    ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"];

/// The texts of the first pieces in a GGUF.
const FIRST: [&str; 3] = ["<unk>", "<bos>", "<eos>"];

impl Build<'_> {
    pub(super) fn chatglm3(&mut self) -> Result<()> {
        let mut tokens = spm::read_model(self.folder)?.ok_or_else(|| self.missing(&[super::JSON, spm::FILE]))?.pieces;
        for token in &mut tokens {
            if token.token_type == TokenType::UserDefined {
                token.token_type = TokenType::Normal;
            }
        }
        for (token, text) in tokens.iter_mut().zip(FIRST) {
            token.text = text.to_owned();
        }
        let special = SPECIAL.map(|text| Token { text: text.to_owned(), score: 0.0, token_type: TokenType::Control });
        tokens.extend(special);
        if let Some(size) = setting(self.config, "vocab_size") {
            let size = vocabulary_size(size, self.folder)?;
            if size < tokens.len() {
                self.notes.push(format!("{} tokens beyond the vocabulary size of {size} are dropped", tokens.len() - size));
            }
            tokens.truncate(size);
            tokens.extend((tokens.len()..size).map(|id| Token { score: 0.0, ..Token::padding(id) }));
        }
        let pre = self.options.pre.as_deref().unwrap_or(PRE).to_owned();
        self.head("llama", &pre);
        self.vocabulary(tokens, true);
        self.special(Some(self.tokens))
    }
}
