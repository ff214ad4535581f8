//! SentencePiece pieces from a converted `tokenizer.json` (BPE with byte fallback), with scores derived from the merges.
//!
//! SentencePiece merges the pair with the highest-scoring piece, the tokenizers library the pair whose merge comes first. A trainer scores
//! pieces in training order, which is ID order: `-0, -1, -2, ...`. These scores are restored here; a piece out of order among the merges
//! gets a score that keeps its position.
//! back here; a piece that was put elsewhere among the merges gets a score that keeps it there.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::hf_json::is_byte;
use super::json::{TokenizerJson, Vocab};
use super::vocabulary::{Token, TokenType};

/// Whether a `tokenizer.json` was converted from a SentencePiece model.
pub(super) fn is_sentencepiece_style(json: &TokenizerJson) -> bool {
    json.model.kind() == "BPE"
        && json.model.byte_fallback == Some(true)
        && json.decoder.get("type").and_then(Value::as_str) == Some("Sequence")
}

/// Whether text gets a leading space.
pub(super) fn adds_space_prefix(json: &TokenizerJson) -> bool {
    fn any(step: &Value, list: &str, found: &impl Fn(&Value) -> bool) -> bool {
        found(step) || step.get(list).and_then(Value::as_array).is_some_and(|steps| steps.iter().any(|step| any(step, list, found)))
    }
    let is = |step: &Value, name: &str| step.get("type").and_then(Value::as_str) == Some(name);
    any(&json.normalizer, "normalizers", &|step| is(step, "Prepend"))
        || any(&json.pre_tokenizer, "pretokenizers", &|step| {
            is(step, "Metaspace") && step.get("prepend_scheme").and_then(Value::as_str) != Some("never")
        })
}

/// Returns the pieces in ID order. IDs without a piece are padding.
pub(super) fn from_json(json: &TokenizerJson, vocab: &Vocab) -> Vec<Token> {
    let len = vocab.ids().map(|(_, id)| id as usize + 1).max().unwrap_or(0);
    let added: HashMap<&str, bool> = json.added_tokens.iter().map(|token| (token.content.as_str(), token.special)).collect();
    let scores = scores(json, vocab, &added, len);
    let mut pieces: Vec<Token> = (0..len).map(Token::padding).collect();
    for (text, id) in vocab.ids() {
        let token_type = match added.get(text) {
            _ if json.model.unk_token.as_deref() == Some(text) => TokenType::Unknown,
            _ if is_byte(text) => TokenType::Byte,
            Some(true) => TokenType::Control,
            _ => TokenType::Normal,
        };
        pieces[id as usize] = Token { text: text.to_owned(), score: scores[id as usize], token_type };
    }
    pieces
}

fn scores(json: &TokenizerJson, vocab: &Vocab, added: &HashMap<&str, bool>, len: usize) -> Vec<f32> {
    let ids: HashMap<&str, u32> = vocab.ids().filter(|(text, _)| !added.contains_key(text)).collect();
    let mut seen = HashSet::new();
    let merged = json.model.merges.0.iter().filter_map(|line| line.split_once(' ')).map(|(left, right)| format!("{left}{right}"));
    let learnt: Vec<u32> = merged.filter_map(|text| ids.get(text.as_str()).copied()).filter(|id| seen.insert(*id)).collect();
    let mut scores = vec![0.0; len];
    // Trained pieces follow the byte tokens.
    let bytes = vocab.ids().filter(|(text, _)| is_byte(text)).map(|(_, id)| id + 1).max().unwrap_or(0);
    let Some(first) = learnt.first().map(|id| if bytes > 0 { bytes.min(*id) } else { *id }) else { return scores };
    let by_id = |id: u32| -(f64::from(id) - f64::from(first)) as f32;
    for (text, id) in &ids {
        if *id > first && !is_byte(text) {
            scores[*id as usize] = by_id(*id);
        }
    }
    let mut last = f32::INFINITY;
    for id in learnt {
        last = if by_id(id) < last { by_id(id) } else { last - 1.0 };
        scores[id as usize] = last;
    }
    scores
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pieces(vocab: Value, merges: Value, added: Value) -> Vec<Token> {
        let mut json: TokenizerJson = serde_json::from_value(json!({
            "added_tokens": added,
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": merges}
        }))
        .unwrap();
        let vocab = std::mem::replace(&mut json.model.vocab, Vocab::Ids(Vec::new()));
        from_json(&json, &vocab)
    }

    #[test]
    fn merges_in_id_order_restore_the_trainer_scores() {
        let found = pieces(
            json!({"<unk>": 0, "<s>": 1, "<0x0A>": 2, "ab": 3, "abc": 4, "a": 5, "b": 6, "c": 7}),
            json!(["a b", "ab c"]),
            json!([{"id": 1, "content": "<s>", "special": true}]),
        );
        let scores: Vec<f32> = found.iter().map(|piece| piece.score).collect();
        assert_eq!(scores, [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0]);
        assert!(scores[3].is_sign_negative(), "a trainer negates the number of the piece");
        let types: Vec<TokenType> = found.iter().map(|piece| piece.token_type).collect();
        assert_eq!(types[..4], [TokenType::Unknown, TokenType::Control, TokenType::Byte, TokenType::Normal]);
    }

    #[test]
    fn a_piece_out_of_order_keeps_its_merge_position() {
        // In Llama 2, runs of spaces come first by ID and last by merge; other pieces may come last by ID and first by merge.
        let found = pieces(json!({"xx": 0, "ab": 1, "abc": 2, "a": 3, "b": 4, "c": 5, "x": 6}), json!(["a b", "ab c", "x x"]), json!([]));
        let score = |i: usize| found[i].score;
        assert!(score(1) > score(2) && score(2) > score(0), "{found:?}");
        let found = pieces(
            json!({"ab": 0, "abc": 1, "a": 2, "b": 3, "c": 4, "x": 5, "xx": 6}),
            json!([["x", "x"], ["a", "b"], ["ab", "c"]]),
            json!([]),
        );
        assert!(found[6].score > found[0].score && found[0].score > found[1].score, "{found:?}");
    }

    #[test]
    fn no_two_pieces_that_are_learnt_have_one_score() {
        let score = |found: &[Token], id: usize| found[id].score;
        let vocab = json!({"x": 0, "cd": 1, "ab": 2, "ef": 3, "a": 4, "b": 5, "c": 6, "d": 7, "e": 8, "f": 9});
        let found = pieces(vocab, json!(["a b", "c d", "e f"]), json!([]));
        assert!(score(&found, 2) > score(&found, 1) && score(&found, 1) > score(&found, 3), "{found:?}");
        // Without bytes, the first piece that is learnt has the first score.
        let found = pieces(json!({"a": 0, "b": 1, "ab": 2, "ba": 3}), json!(["a b", "b a"]), json!([]));
        assert_eq!((score(&found, 2), score(&found, 3)), (0.0, -1.0));
    }

    #[test]
    fn the_leading_space_is_recognised() {
        let with = |normalizer: Value, pre_tokenizer: Value| {
            let json = json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": {"vocab": {}}});
            adds_space_prefix(&serde_json::from_value(json).unwrap())
        };
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        assert!(with(json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]}), Value::Null));
        assert!(with(Value::Null, json!({"type": "Metaspace", "prepend_scheme": "first"})));
        assert!(!with(Value::Null, json!({"type": "Metaspace", "prepend_scheme": "never"})));
        assert!(!with(replace, Value::Null));
    }
}
