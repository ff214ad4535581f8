//! `ls --tree`: tensors by the parts of their names, with identical layers collapsed.

use std::collections::{BTreeMap, HashMap};

use crate::ops::list::TensorRow;
use crate::ops::select::natural;

/// Maximum depth of a tree. Deeper parts of an untrusted name stay joined.
const DEPTH: usize = 32;

/// A part of a name, with everything below it.
#[derive(Debug, Default)]
pub struct Node {
    /// The part; `0-17` for a range of identical siblings.
    pub label: String,
    /// Children in natural order.
    pub children: Vec<Node>,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements stored.
    pub elements: u64,
    /// Size in bytes, as far as known.
    pub bytes: u64,
    /// Number of tensors of each type.
    pub dtypes: BTreeMap<String, u64>,
    /// Common shape of the tensors, if any.
    pub shape: Option<Vec<u64>>,
}

/// Builds the tree of tensors. The root has no label.
pub fn tree(tensors: &[TensorRow<'_>]) -> Node {
    let mut root = Node::default();
    // Index of a part among its siblings, by the name up to its end.
    let mut indices: HashMap<&str, usize> = HashMap::new();
    for tensor in tensors {
        let mut node = &mut root;
        node.count(tensor);
        let mut end = 0;
        for part in tensor.name.splitn(DEPTH, '.') {
            end += part.len();
            let at = *indices.entry(&tensor.name[..end]).or_insert_with(|| {
                node.children.push(Node { label: part.to_owned(), ..Node::default() });
                node.children.len() - 1
            });
            node = &mut node.children[at];
            node.count(tensor);
            end += 1; // the dot
        }
    }
    root.settle();
    root
}

impl Node {
    fn count(&mut self, tensor: &TensorRow<'_>) {
        if self.tensors == 0 {
            self.shape = Some(tensor.shape.to_vec());
        } else if self.shape.as_deref() != Some(&*tensor.shape) {
            self.shape = None;
        }
        self.tensors += 1;
        self.elements = self.elements.saturating_add(tensor.elements);
        self.bytes = self.bytes.saturating_add(tensor.bytes.unwrap_or(0));
        *self.dtypes.entry(tensor.dtype.to_string()).or_default() += 1;
    }

    /// Collapses runs of identical siblings and single-child chains, bottom-up.
    fn settle(&mut self) {
        self.children.iter_mut().for_each(Node::settle);
        self.children.sort_by(|a, b| natural(&a.label, &b.label));
        let mut folded: Vec<Node> = Vec::new();
        for child in std::mem::take(&mut self.children) {
            match folded.last_mut() {
                Some(last) if last.precedes(&child) && last.looks_like(&child) => last.take_in(child),
                _ => folded.push(child),
            }
        }
        for child in &mut folded {
            // A tensor's name may be a prefix of others: then it has children too.
            if child.children.len() == 1
                && let Some(only) = child.children.pop_if(|only| only.tensors == child.tensors)
            {
                *child = Node { label: format!("{}.{}", child.label, only.label), ..only };
            }
        }
        self.children = folded;
    }

    /// Whether the number of `next` follows this one's: 3 after 2, or after 0-2.
    fn precedes(&self, next: &Node) -> bool {
        let last = self.label.rsplit('-').next().unwrap_or_default();
        matches!((last.parse::<u64>(), next.label.parse::<u64>()), (Ok(last), Ok(next)) if last.checked_add(1) == Some(next))
    }

    fn looks_like(&self, other: &Node) -> bool {
        self.label_shape(other)
            && self.children.len() == other.children.len()
            && self.children.iter().zip(&other.children).all(|(a, b)| a.label == b.label && a.looks_like(b))
    }

    /// Leaves must have the same shape; the totals of inner nodes may differ.
    fn label_shape(&self, other: &Node) -> bool {
        !self.children.is_empty() || self.shape == other.shape
    }

    fn take_in(&mut self, other: Node) {
        if self.shape != other.shape {
            self.shape = None;
        }
        self.tensors += other.tensors;
        self.elements = self.elements.saturating_add(other.elements);
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (dtype, tensors) in other.dtypes {
            *self.dtypes.entry(dtype).or_default() += tensors;
        }
        // Only collapsed numbers form a range; labels below are identical.
        if self.label != other.label {
            let first = self.label.split('-').next().unwrap_or_default();
            self.label = format!("{first}-{}", other.label);
        }
        for (mine, theirs) in self.children.iter_mut().zip(other.children) {
            mine.take_in(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::model::{DType, ElemType};

    fn row(name: &str) -> TensorRow<'_> {
        TensorRow {
            name,
            dtype: ElemType::Known(DType::F32),
            shape: Cow::Borrowed(&[]),
            stored_shape: None,
            elements: 1,
            bytes: Some(4),
            file: "".into(),
            offset: 0,
        }
    }

    #[test]
    fn a_name_of_many_parts_is_cut_at_a_depth() {
        let name = "a.".repeat(100_000);
        let root = tree(&[row(&name), row("a")]);
        let mut depth = 0;
        let mut node = &root;
        while let Some(child) = node.children.first() {
            (node, depth) = (child, depth + 1);
        }
        assert!(depth <= DEPTH && node.label.len() > 2 * (100_000 - DEPTH), "{depth}");
        assert_eq!(root.tensors, 2);
    }

    #[test]
    fn equal_names_under_different_parents_are_kept_apart() {
        let root = tree(&[row("a.b"), row(".a.b"), row("a.b.c"), row("a"), row("")]);
        let labels: Vec<(&str, u64)> = root.children.iter().map(|node| (node.label.as_str(), node.tensors)).collect();
        assert_eq!(labels, [("", 2), ("a", 3)]);
    }

    #[test]
    fn equal_layers_fold_and_types_are_counted() {
        let shapes: [(&str, &[u64], DType); 6] = [
            ("blk.0.attn.weight", &[2, 2], DType::F32),
            ("blk.10.attn.weight", &[2, 2], DType::F32),
            ("blk.1.attn.weight", &[2, 2], DType::F16),
            ("blk.2.attn.weight", &[2, 4], DType::F16),
            ("blk.2.bias", &[4], DType::F16),
            ("out", &[4], DType::F32),
        ];
        let rows: Vec<TensorRow<'_>> = shapes
            .iter()
            .map(|&(name, shape, dtype)| TensorRow {
                name,
                dtype: ElemType::Known(dtype),
                shape: Cow::Borrowed(shape),
                stored_shape: None,
                elements: shape.iter().product(),
                bytes: dtype.bytes_for_shape(shape).ok(),
                file: "".into(),
                offset: 0,
            })
            .collect();
        let root = tree(&rows);
        let blk = &root.children[0];
        assert_eq!(blk.children.iter().map(|node| node.label.as_str()).collect::<Vec<_>>(), ["0-1.attn.weight", "2", "10.attn.weight"]);
        assert_eq!((blk.children[0].tensors, blk.children[0].elements, blk.children[0].bytes), (2, 8, 24));
        assert_eq!(blk.children[0].dtypes.iter().map(|(name, n)| (name.as_str(), *n)).collect::<Vec<_>>(), [("F16", 1), ("F32", 1)]);
        assert_eq!((root.tensors, root.children[1].label.as_str()), (6, "out"));
    }

    #[test]
    fn only_what_has_the_same_names_and_shapes_folds() {
        let labels = |rows: &[(&str, &'static [u64])]| {
            let rows: Vec<_> = rows.iter().map(|&(name, shape)| TensorRow { shape: Cow::Borrowed(shape), ..row(name) }).collect();
            let root = tree(&rows);
            let inner = &root.children[0];
            (inner.children.iter().map(|node| node.label.clone()).collect::<Vec<_>>(), inner.shape.clone())
        };
        let alike = labels(&[("x.0", &[2]), ("x.1", &[2]), ("x.z", &[2])]);
        assert_eq!(alike, (vec!["0-1".to_owned(), "z".to_owned()], Some(vec![2])));
        let unlike = labels(&[("x.0", &[2]), ("x.1", &[3]), ("x.z", &[2])]);
        assert_eq!(unlike, (vec!["0".to_owned(), "1".to_owned(), "z".to_owned()], None));
        let named = labels(&[("x.0.a", &[2]), ("x.0.b", &[2]), ("x.1.a", &[2]), ("x.1.c", &[2])]);
        assert_eq!(named.0, ["0", "1"]);
        let shaped = labels(&[("x.0.a", &[2]), ("x.0.b", &[2]), ("x.1.a", &[2]), ("x.1.b", &[3])]);
        assert_eq!(shaped.0, ["0", "1"]);
    }
}
