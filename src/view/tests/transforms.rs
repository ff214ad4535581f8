//! Transforms and lazy tensors.

use serde_json::json;

use crate::base::limits;
use crate::family::config::Config;
use crate::family::table::Table;
use crate::family::transform::Transform;
use crate::format::Reader;
use crate::model::{DType, Metadata};
use crate::view::lora;
use crate::view::tensor_expr::{self, TensorExpr};
use crate::view::tests::{counting, reader, stored};
use crate::view::transform::Shaped;

#[test]
fn transforms_move_rows_to_these_places_and_back() {
    type Parts = &'static [(&'static [u64], &'static [u8])];
    // The shape in Hugging Face, whose elements count up, and the parts in GGUF.
    let cases: &[(Transform, &[u64], Parts)] = &[
        (Transform::SplitRows(vec![1, 2]), &[3], &[(&[1], &[0]), (&[2], &[1, 2])]),
        (Transform::SplitRows(vec![1, 2]), &[3, 2], &[(&[1, 2], &[0, 1]), (&[2, 2], &[2, 3, 4, 5])]),
        // Of planes, the rows of each.
        (
            Transform::SplitRows(vec![1, 3, 2]),
            &[2, 6, 1],
            &[(&[2, 1, 1], &[0, 6]), (&[2, 3, 1], &[1, 2, 3, 7, 8, 9]), (&[2, 2, 1], &[4, 5, 10, 11])],
        ),
        (Transform::SplitAlternate, &[2, 4, 1], &[(&[2, 2, 1], &[0, 2, 4, 6]), (&[2, 2, 1], &[1, 3, 5, 7])]),
        (Transform::SplitColumns, &[1, 3, 4], &[(&[1, 2, 3], &[0, 4, 8, 2, 6, 10]), (&[1, 2, 3], &[1, 5, 9, 3, 7, 11])]),
        (Transform::Transpose, &[2, 3], &[(&[3, 2], &[0, 3, 1, 4, 2, 5])]),
        // Two heads of four rows: the halves of each alternate.
        (Transform::RopePermute(2, None), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        // Two heads of four rows, of which the first two are pairs already; and of six, four of which rotate.
        (Transform::RopePermute(2, Some(2)), &[8], &[(&[8], &[0, 1, 2, 3, 4, 5, 6, 7])]),
        (Transform::RopePermute(2, Some(4)), &[12], &[(&[12], &[0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11])]),
        (Transform::RopeUnpermute(2, None), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::RopeUnpermute(1, Some(6)), &[7, 1], &[(&[7, 1], &[0, 2, 4, 1, 3, 5, 6])]),
        // Two groups of a row, two rows and a row.
        (Transform::Ungroup(vec![1, 2, 1]), &[8, 1], &[(&[8, 1], &[0, 4, 1, 2, 5, 6, 3, 7])]),
        // Two key heads with three value heads each, of two rows or columns.
        // Of several grids, each by itself.
        (Transform::Regroup(vec![1, 2]), &[6], &[(&[6], &[0, 2, 3, 1, 4, 5])]),
        (Transform::TileHeads(2, 2, 1), &[8], &[(&[8], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::TileHeads(2, 3, 2), &[12], &[(&[12], &[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11])]),
        (Transform::TileColumns(2, 2, 1), &[2, 4], &[(&[2, 4], &[0, 2, 1, 3, 4, 6, 5, 7])]),
        (Transform::Reshape(vec![2, 1, 3], vec![2, 3]), &[2, 1, 3], &[(&[2, 3], &[0, 1, 2, 3, 4, 5])]),
        // A convolution of two outputs over two frames of 1 x 2.
        (Transform::Unstack(1, 2), &[2, 2, 1, 2], &[(&[2, 1, 2], &[0, 1, 4, 5]), (&[2, 1, 2], &[2, 3, 6, 7])]),
        (
            Transform::Chain(vec![
                Transform::SplitRows(vec![1, 2, 1]),
                Transform::Order(vec![2, 0, 1]),
                Transform::JoinRows(vec![1, 1, 2]),
            ]),
            &[4, 1],
            &[(&[4, 1], &[3, 0, 1, 2])],
        ),
        (Transform::Repeat(2), &[2, 1], &[(&[2, 1], &[0, 1]), (&[2, 1], &[0, 1])]),
        (Transform::Reshape(vec![4], vec![4, 1]), &[4], &[(&[4, 1], &[0, 1, 2, 3])]),
        (Transform::Reshape(vec![6], vec![2, 3]), &[6], &[(&[2, 3], &[0, 1, 2, 3, 4, 5])]),
        (
            Transform::Chain(vec![
                Transform::SplitRows(vec![2, 4]),
                Transform::Each(vec![Transform::Plain, Transform::TileHeads(2, 2, 1)]),
                Transform::JoinRows(vec![2, 4]),
            ]),
            &[6, 1],
            &[(&[6, 1], &[0, 1, 2, 4, 3, 5])],
        ),
        (
            Transform::Chain(vec![Transform::Transpose, Transform::SplitRows(vec![1, 2])]),
            &[2, 3],
            &[(&[1, 2], &[0, 3]), (&[2, 2], &[1, 4, 2, 5])],
        ),
        // Three groups of two queries, a key and a value, of two rows each.
        (
            Transform::GroupedQkv(6, 3),
            &[24],
            &[(&[24], &[0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 4, 5, 12, 13, 20, 21, 6, 7, 14, 15, 22, 23])],
        ),
        // Two heads, each of two rows of keys and one of values; keys are transposed.
        (
            Transform::SplitMla(2, 1),
            &[6, 3],
            &[(&[2, 3, 2], &[0, 3, 1, 4, 2, 5, 9, 12, 10, 13, 11, 14]), (&[2, 1, 3], &[6, 7, 8, 15, 16, 17])],
        ),
    ];
    for (transform, shape, parts) in cases {
        let hf = counting(&[shape]);
        let made = transform.forward(stored(&hf)).unwrap();
        assert_eq!(made.len(), parts.len(), "{transform:?}");
        let bytes = |made: &Shaped, reader: &Reader| made.origin.eval_rows(reader, 0..made.origin.rows()).unwrap().into_owned();
        for (made, (shape, values)) in made.iter().zip(*parts) {
            assert_eq!((&made.shape[..], &bytes(made, &hf)[..]), (*shape, *values), "{transform:?}");
        }
        let tensors = parts.iter().enumerate().map(|(i, (shape, values))| (format!("t{i}"), shape.to_vec(), DType::U8, values.to_vec()));
        let gguf = reader(tensors.collect(), Metadata::new(), None);
        let back = transform.backward(stored(&gguf)).unwrap();
        let [back] = &back[..] else { panic!("{transform:?}: {}", back.len()) };
        let counted: Vec<u8> = (0..shape.iter().product::<u64>() as u8).collect();
        assert_eq!((&back.shape[..], bytes(back, &gguf)), (*shape, counted), "{transform:?}");
    }
}

#[test]
fn experts_become_one_tensor_and_come_back() {
    let hf = counting(&[&[2, 1], &[2, 1], &[2, 1]]);
    let stacked = Transform::StackExperts.forward(stored(&hf)).unwrap();
    assert_eq!(stacked[0].shape, [3, 2, 1]);
    let back = Transform::StackExperts.backward(stacked).unwrap();
    let found: Vec<_> = back.iter().map(|made| made.origin.eval_rows(&hf, 0..2).unwrap().into_owned()).collect();
    assert_eq!(found, [[0, 1], [100, 101], [200, 201]]);
    // As many experts as a model may have, and one more.
    let empty = |experts| Transform::StackExperts.backward(stored(&counting(&[&[experts, 0]]))).map(|made| made.len() as u64);
    assert_eq!(empty(limits::PARTS).unwrap(), limits::PARTS);
    assert!(empty(limits::PARTS + 1).is_err());
}

/// As `torch.cat` and `torch.chunk` have it: the last part may be smaller.
#[test]
fn parts_become_one_tensor_and_come_back() {
    let hf = counting(&[&[2, 1], &[2, 1], &[1, 1]]);
    let whole = Transform::Concat(3).forward(stored(&hf)).unwrap();
    let bytes = |made: &Shaped| made.origin.eval_rows(&hf, 0..made.origin.rows()).unwrap().into_owned();
    assert_eq!((&whole[0].shape[..], bytes(&whole[0])), (&[5, 1][..], vec![0, 1, 100, 101, 200]));
    let back = Transform::Concat(3).backward(whole.clone()).unwrap();
    assert_eq!(back.iter().map(|made| made.shape[0]).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(back.iter().flat_map(bytes).collect::<Vec<_>>(), bytes(&whole[0]));
    // Parts of two rows each are three, and not four.
    assert!(Transform::Concat(4).backward(whole.clone()).is_err() && Transform::Concat(0).backward(whole).is_err());
}

#[test]
fn shapes_that_do_not_fit_a_transform_are_refused() {
    let forward: &[(Transform, &[&[u64]])] = &[
        (Transform::SplitRows(vec![1, 2]), &[&[4, 2]]),
        (Transform::SplitRows(vec![1, 2]), &[&[3, 4, 2]]),
        (Transform::RopePermute(2, None), &[&[6, 1]]),
        (Transform::GroupedQkv(4, 3), &[&[20]]),
        (Transform::SplitMla(2, 1), &[&[7, 3]]),
        (Transform::SplitAlternate, &[&[2, 3, 1]]),
        (Transform::StackExperts, &[&[2, 1], &[1, 2]]),
        (Transform::Concat(2), &[&[2, 1], &[1, 2]]),
        (Transform::Plain, &[&[1], &[1]]),
    ];
    for (transform, shapes) in forward {
        assert!(transform.forward(stored(&counting(shapes))).is_err(), "{transform:?} {shapes:?}");
    }
    let backward: &[(Transform, &[&[u64]])] = &[
        (Transform::SplitRows(vec![1, 2]), &[&[1, 2], &[3, 2]]),
        (Transform::SplitRows(vec![1, 2]), &[&[1, 2], &[2, 3]]),
        (Transform::SplitAlternate, &[&[2], &[3]]),
        (Transform::SplitMla(2, 1), &[&[2, 3, 2], &[2, 1, 4]]),
        (Transform::SplitMla(2, 1), &[&[2, 3, 3], &[2, 1, 3]]),
    ];
    for (transform, shapes) in backward {
        assert!(transform.backward(stored(&counting(shapes))).is_err(), "{transform:?} {shapes:?}");
    }
    let config = Config::new(&Table::parse("").unwrap(), &json!({})).unwrap();
    assert!(Transform::parse("split_rows(1)", &config).is_err(), "one part is no split");
    assert_eq!(Transform::parse("split_rows(1, 2)", &config).unwrap(), Transform::SplitRows(vec![1, 2]));
}

/// Q8_0 in ggml-common.h: a scale in F16, here 1, then 32 codes.
fn q8_0(rows: u8) -> Reader {
    let bytes = (0..rows).flat_map(|row| [vec![0x00, 0x3c], (0..32).map(|i| i + 32 * row).collect()].concat()).collect();
    reader(vec![("q".to_owned(), vec![rows.into(), 32], DType::Q8_0, bytes)], Metadata::new(), None)
}

#[test]
fn blocks_are_decoded_where_elements_move() {
    let blocks = q8_0(2);
    let origin = TensorExpr::stored(blocks.model(), 0).unwrap();
    // An element of a block cannot be moved alone.
    let elements = origin.clone().by_element().unwrap();
    assert_eq!((elements.dtype(), elements.rows(), elements.row_elements()), (DType::F32, 64, 1));
    assert_eq!(elements.eval_rows(&blocks, 33..35).unwrap(), [33.0f32.to_le_bytes(), 34.0f32.to_le_bytes()].concat());
    // Three nibbles end within a byte: only the whole can be moved.
    let nibbles = reader(vec![("f".to_owned(), vec![2, 3], DType::F4, vec![0; 3])], Metadata::new(), None);
    let whole = TensorExpr::stored(nibbles.model(), 0).unwrap();
    assert_eq!((whole.rows(), whole.row_elements()), (1, 6));
    let turned = origin.then(tensor_expr::RowOp::Transpose { rows: 2 }).unwrap();
    assert_eq!((turned.dtype(), turned.rows(), turned.row_elements()), (DType::F32, 32, 2));
    let expected: Vec<f32> = (0..32u8).flat_map(|i| [f32::from(i), f32::from(i + 32)]).collect();
    assert_eq!(tensor_expr::values(&blocks, &turned).unwrap(), expected);
}

#[test]
fn a_batch_norm_folds_to_the_same_norm_and_back() {
    let numbers = |name: &str, values: [f32; 2]| {
        (name.to_owned(), vec![2], DType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let parts = [("weight", [2.0, 3.0]), ("bias", [1.0, -1.0]), ("mean", [4.0, 2.0]), ("variance", [3.75, 0.0])];
    let norm = reader(parts.map(|(name, values)| numbers(name, values)).to_vec(), Metadata::new(), None);
    let stored = |i| Shaped { origin: TensorExpr::stored(norm.model(), i).unwrap(), shape: vec![2] };
    let values = |shaped: &[Shaped]| shaped.iter().map(|one| tensor_expr::values(&norm, &one.origin).unwrap()).collect::<Vec<_>>();
    let fold = Transform::FoldBatchNorm(0.25);
    let folded = fold.forward((0..4).map(stored).collect()).unwrap();
    // The deviations are 2 and a half.
    assert_eq!(values(&folded), [[1.0, 6.0], [-3.0, -13.0]]);
    let back = fold.backward(folded.clone()).unwrap();
    assert_eq!(values(&back), [[1.0, 6.0], [-3.0, -13.0], [0.0, 0.0], [0.75, 0.75]]);
    assert_eq!(values(&fold.forward(back).unwrap()), values(&folded));
    assert!(fold.forward((0..3).map(stored).collect()).is_err() && fold.backward(Vec::new()).is_err());
}

#[test]
fn ranges_of_rows_are_those_and_no_others() {
    let bytes = counting(&[&[6, 1]]);
    let origin = TensorExpr::stored(bytes.model(), 0).unwrap();
    assert_eq!(origin.clone().slice(0, 6).unwrap().whole(), Some(0), "all rows are the tensor itself");
    let taken = origin.clone().then(tensor_expr::RowOp::SliceRows { start: 0, len: 2, of: 3 }).unwrap();
    assert_eq!(*taken.eval_rows(&bytes, 1..3).unwrap(), [1, 3]);
    assert_eq!(*taken.eval_rows(&bytes, 1..4).unwrap(), [1, 3, 4]);
    for origin in [origin.clone(), taken, TensorExpr::values([1.0])] {
        let rows = origin.rows();
        assert!(origin.eval_rows(&bytes, rows..rows).unwrap().is_empty());
        assert!(origin.eval_rows(&bytes, 0..rows + 1).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = origin.eval_rows(&bytes, 1..0);
        assert!(reversed.is_err());
    }
    assert_eq!(TensorExpr::join(vec![origin.clone(), origin]).unwrap().tensors(), [0], "each tensor once");
}

#[test]
fn bytes_of_a_merge_are_the_same_in_pieces() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora");
    let open = |name: &str| crate::format::open(&fixtures.join(name)).unwrap();
    for name in ["adapter", "dora", "tokens", "patterns", "for-gguf.gguf"] {
        for reader in [lora::merged(open("base"), vec![open(name)]).unwrap(), lora::updates(open(name)).unwrap()] {
            for tensor in &reader.model().tensors {
                let whole = reader.bytes(tensor).unwrap().into_owned();
                let (len, row) = (whole.len() as u64, tensor.row_elements() * 4);
                for range in
                    [0..1, 3..7, row - 1..row + 1, row..2 * row, row + 5..2 * row + 9, len.saturating_sub(row + 3)..len, len - 1..len]
                {
                    let range = range.start.min(len)..range.end.min(len);
                    let expected = &whole[range.start as usize..range.end as usize];
                    assert_eq!(*reader.bytes_at(tensor, range.clone()).unwrap(), *expected, "{name}: {} {range:?}", tensor.name);
                }
            }
        }
    }
}
