//! The tree of tensor names: which rows are visible.

use std::collections::HashMap;

use crate::ops::select::natural;

/// Deeper parts of an untrusted name stay joined.
const DEPTH: usize = 32;

/// A part of a name with everything below it.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The part.
    pub(super) label: String,
    /// The tensor whose name ends here.
    pub(super) tensor: Option<usize>,
    /// Indices of the children in the tree.
    children: Vec<usize>,
    /// All tensors here and below.
    pub(super) tensors: Vec<usize>,
    pub(super) open: bool,
    pub(super) depth: usize,
    parent: Option<usize>,
}

/// The tree of all names. The first node is the root, which is not shown.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

impl Tree {
    /// Builds the tree. Only the topmost level is open.
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut nodes = vec![Node { open: true, ..Node::default() }];
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (tensor, name) in names.into_iter().enumerate() {
            let (mut at, mut end) = (0, 0);
            nodes[0].tensors.push(tensor);
            for part in name.splitn(DEPTH, '.') {
                end += part.len();
                let depth = nodes[at].depth + 1;
                at = *known.entry(&name[..end]).or_insert_with(|| {
                    nodes.push(Node { label: part.to_owned(), depth, parent: Some(at), ..Node::default() });
                    let new = nodes.len() - 1;
                    nodes[at].children.push(new);
                    new
                });
                nodes[at].tensors.push(tensor);
                end += 1; // the dot
            }
            nodes[at].tensor = Some(tensor);
        }
        let mut tree = Self { nodes };
        tree.settle();
        tree
    }

    /// Joins chains of single children (`attn_q` and `weight`), and sorts numbers as numbers.
    fn settle(&mut self) {
        for at in (1..self.nodes.len()).rev() {
            if let [only] = self.nodes[at].children[..]
                && self.nodes[at].tensor.is_none()
            {
                let below = std::mem::take(&mut self.nodes[only]);
                let node = &mut self.nodes[at];
                node.label = format!("{}.{}", node.label, below.label);
                node.tensor = below.tensor;
                node.children = below.children;
                for child in self.nodes[at].children.clone() {
                    self.nodes[child].parent = Some(at);
                }
            }
        }
        for at in 0..self.nodes.len() {
            let mut children = std::mem::take(&mut self.nodes[at].children);
            children.sort_by(|&a, &b| natural(&self.nodes[a].label, &self.nodes[b].label));
            self.nodes[at].children = children;
        }
        self.level(0, 0);
    }

    fn level(&mut self, at: usize, depth: usize) {
        self.nodes[at].depth = depth;
        for child in self.nodes[at].children.clone() {
            self.level(child, depth + 1);
        }
    }

    /// Returns the visible nodes in order.
    pub(super) fn visible(&self) -> Vec<usize> {
        let mut rows = Vec::new();
        let mut pending: Vec<usize> = self.nodes[0].children.iter().rev().copied().collect();
        while let Some(at) = pending.pop() {
            rows.push(at);
            if self.nodes[at].open {
                pending.extend(self.nodes[at].children.iter().rev());
            }
        }
        rows
    }

    /// Whether a node has others below it.
    pub(super) fn has_children(&self, at: usize) -> bool {
        !self.nodes[at].children.is_empty()
    }

    /// Returns the node above, unless that is the root.
    pub(super) fn parent(&self, at: usize) -> Option<usize> {
        self.nodes[at].parent.filter(|&parent| parent > 0)
    }

    /// Opens all nodes, or closes them.
    pub(super) fn open_all(&mut self, open: bool) {
        self.nodes.iter_mut().skip(1).for_each(|node| node.open = open);
    }

    /// Opens the nodes above a tensor and returns its own.
    pub(super) fn reveal(&mut self, tensor: usize) -> Option<usize> {
        let own = self.nodes.iter().position(|node| node.tensor == Some(tensor))?;
        let mut above = self.nodes[own].parent;
        while let Some(at) = above {
            self.nodes[at].open = true;
            above = self.nodes[at].parent;
        }
        Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(tree: &Tree) -> Vec<String> {
        tree.visible().into_iter().map(|at| format!("{}{}", " ".repeat(tree.nodes[at].depth - 1), tree.nodes[at].label)).collect()
    }

    #[test]
    fn names_become_a_tree_in_natural_order() {
        let mut tree = Tree::new(["blk.10.a.weight", "blk.2.a.weight", "blk.2.b.bias", "blk.2.b.weight", "output.weight", "x", "x.y"]);
        assert_eq!(labels(&tree), ["blk", "output.weight", "x"]);
        tree.open_all(true);
        assert_eq!(labels(&tree), ["blk", " 2", "  a.weight", "  b", "   bias", "   weight", " 10.a.weight", "output.weight", "x", " y"]);
        tree.open_all(false);
        let own = tree.reveal(3).unwrap();
        assert_eq!(tree.nodes[own].label, "weight");
        assert_eq!(labels(&tree), ["blk", " 2", "  a.weight", "  b", "   bias", "   weight", " 10.a.weight", "output.weight", "x"]);
        assert_eq!(tree.nodes[tree.parent(own).unwrap()].label, "b");
        assert_eq!(tree.nodes[0].tensors.len(), 7);
    }
}
