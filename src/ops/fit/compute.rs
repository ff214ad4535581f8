//! A model of llama.cpp's compute buffer.
//!
//! The buffer holds the intermediate results of one batch; results that are needed no longer make room for later ones. Its size is that of
//! the largest of a few stages: attention, feed-forward network, experts, state-space model or token shift, and output. A stage has the
//! masks of all caches, which stay until the last layer, its own results, and a few vectors of the hidden size.
//!
//! This is a model and no copy of ggml's allocator: it is within 10 % of llama.cpp's figure for the models and contexts of
//! `fixtures/fit.json`, but for those that the test lists.

use crate::family::memory::{Caches, Widths};
use crate::ops::fit::kv::Cells;

/// Bytes of a number of an intermediate result.
const F32: u64 = 4;

/// Returns the estimated size of the compute buffer in bytes.
pub(super) fn bytes(widths: &Widths, caches: &Caches, vocabulary: u64, gated: bool, cells: Cells, flash_attention: bool) -> u64 {
    let batch = Batch { tokens: cells.batch.min(if caches.in_batch { u64::MAX } else { cells.tokens() }) };
    let of = |elements: u64| batch.of(elements);
    let hidden = of(widths.hidden);
    let attention = Masks::of(caches, cells, batch.tokens);
    let inputs = if widths.heads == 0 { 0 } else { attention.bytes(widths, batch, flash_attention) };
    let [experts, used, expert] = widths.experts;
    // An encoder has its norms after the network, so it needs one vector less beside it.
    let (beside, results) = if gated { (3, 3) } else { (if caches.in_batch { 3 } else { 4 }, 1) };
    let within_layers = [
        attention.stage(widths, caches, cells, batch, flash_attention),
        sum(&[hidden.saturating_mul(beside), of(widths.feed_forward).saturating_mul(results)]),
        sum(&[hidden.saturating_mul(4), of(used.saturating_mul(expert)).saturating_mul(3)]),
        sum(&[hidden.saturating_mul(4), of(used.saturating_mul(expert.saturating_add(widths.hidden)))]),
        if used > 0 { sum(&[hidden.saturating_mul(3), of(experts).saturating_mul(3)]) } else { 0 },
        if widths.inner > 0 { sum(&[hidden.saturating_mul(3), of(widths.inner).saturating_mul(5)]) } else { 0 },
        hidden.saturating_mul(widths.mixed),
    ];
    let layers = within_layers.into_iter().max().unwrap_or(0).saturating_add(inputs);
    // The results of the experts take the place of two of their intermediate results if they fit in there. Their sum then comes after them,
    // and stays there until the logits are computed, which do not fit before it.
    let gap = if widths.shared_experts && used > 0 && expert.saturating_mul(2) >= widths.hidden {
        of(used.saturating_add(1).saturating_mul(widths.hidden))
    } else {
        0
    };
    layers.max(sum(&[of(vocabulary).saturating_mul(widths.logits), hidden.saturating_mul(3), gap]))
}

/// Tokens per micro-batch.
#[derive(Clone, Copy)]
struct Batch {
    tokens: u64,
}

impl Batch {
    /// Returns the bytes for this many elements per token.
    fn of(self, elements: u64) -> u64 {
        elements.saturating_mul(self.tokens).saturating_mul(F32)
    }
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
}

/// The attention masks: one for all layers without a window, one for all with one.
struct Masks {
    /// Columns of all masks.
    columns: u64,
    count: u64,
    /// Columns of the longest mask.
    longest: u64,
    /// Layers without a window.
    dense_layers: u64,
}

impl Masks {
    fn of(caches: &Caches, cells: Cells, tokens: u64) -> Self {
        let windows: Vec<Option<u64>> = caches.layers.iter().filter_map(|layer| Some(layer.attention.as_ref()?.window)).collect();
        let kind = |slides: bool| windows.iter().find(|window| window.is_some() == slides).map(|window| cells.of_layer(*window));
        let mut kinds: Vec<u64> = [false, true].into_iter().filter_map(kind).collect();
        if caches.in_batch {
            kinds = (0..caches.kinds).map(|_| tokens).collect();
        }
        Self {
            columns: kinds.iter().fold(0, |sum, cells| sum.saturating_add(*cells)),
            count: kinds.len() as u64,
            longest: kinds.into_iter().max().unwrap_or(0),
            dense_layers: windows.iter().filter(|window| window.is_none()).count() as u64,
        }
    }

    /// Returns the bytes that attention needs, without the masks.
    fn stage(&self, widths: &Widths, caches: &Caches, cells: Cells, batch: Batch, flash_attention: bool) -> u64 {
        let scores = batch.of(self.scores(widths, caches, cells));
        // Compressed values are copied, transposed, without flash attention.
        let transposed = self.longest.saturating_mul(cells.parallel).saturating_mul(widths.compressed).saturating_mul(2);
        let scores = if flash_attention { 0 } else { scores.saturating_add(transposed) };
        let (hidden, queries) = (batch.of(widths.hidden), batch.of(widths.queries));
        if widths.selected == 0 {
            return sum(&[scores, hidden.saturating_mul(3), queries.saturating_mul(2)]);
        }
        // The scores of the indexer come after the queries; those of attention are where the queries were before the last step, if they fit.
        let before = batch.of(widths.decompressed.saturating_add(widths.queries));
        let beyond = if scores > before { scores } else { 0 };
        sum(&[before, queries, hidden.saturating_mul(5), beyond.max(batch.of(self.longest))])
    }

    /// Returns the number of attention scores of one token in the layer with the most.
    fn scores(&self, widths: &Widths, caches: &Caches, cells: Cells) -> u64 {
        if caches.in_batch {
            return widths.heads.saturating_mul(self.longest);
        }
        let attentions = caches.layers.iter().filter_map(|layer| layer.attention.as_ref());
        let scores = attentions.map(|attention| attention.query_heads.saturating_mul(cells.of_layer(attention.window)));
        scores.max().unwrap_or(0)
    }

    /// Returns the size of the masks, and of the places where keys and values go.
    fn bytes(&self, widths: &Widths, batch: Batch, flash_attention: bool) -> u64 {
        let tokens = batch.tokens;
        let mask = self.columns.saturating_mul(tokens).saturating_mul(if flash_attention { 2 } else { F32 });
        // An indexer has a mask of its own, and every layer has zeros for the tokens that it selects.
        let indexers = if widths.selected > 0 { self.longest.saturating_mul(tokens).saturating_mul(2) } else { 0 };
        let selected = batch.of(widths.selected.min(self.longest).saturating_mul(self.dense_layers));
        let values = if widths.compressed > 0 {
            0
        } else if flash_attention {
            1
        } else {
            widths.values
        };
        sum(&[mask, indexers, selected, self.count.saturating_mul(tokens).saturating_mul(8).saturating_mul(values.saturating_add(1))])
    }
}
