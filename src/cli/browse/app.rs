//! What is shown, and how keys change it. Knows no terminal, so that tests drive it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use crate::base::glob::NamePattern;
use crate::base::{Result, text};
use crate::cli::browse::rows::Tree;
use crate::cli::browse::work::{Outcome, Request};
use crate::format::Reader;
use crate::model::{Array, Value};
use crate::ops::{count, info, meta, select, weights};

/// Most characters of a value of config.json that are shown.
const VALUE_CHARS: usize = 400;

/// Rows and columns of values that are fetched at a time.
pub(super) const GRID: (u64, u64) = (48, 16);

/// A model that is browsed.
pub(super) struct Source {
    /// Its weights, packed ones decoded.
    pub(super) weights: Arc<Reader>,
    /// Its headline: name, format, parameters.
    title: String,
    metadata: Vec<(String, String)>,
    pub(super) tokens: Option<Array>,
}

impl Source {
    /// Prepares a model.
    ///
    /// # Errors
    /// It has more than 2^64 elements.
    pub(super) fn new(reader: Reader) -> Result<Self> {
        let (info, count) = (info::info(&reader)?, count::count(&reader)?);
        let name = info.name.clone().unwrap_or_else(|| reader.model().path.to_string_lossy().into_owned());
        let architecture = info.architecture.clone().map(|name| format!(", {name}")).unwrap_or_default();
        let title =
            text::escape(&format!("{name}: {}{architecture}, {} parameters", reader.model().format.name(), count.label)).into_owned();
        let metadata = reader
            .model()
            .metadata
            .iter()
            .map(|(key, value)| (text::escape(key).into_owned(), text::escape(&meta::brief(key, value)).into_owned()));
        let mut metadata: Vec<_> = metadata.collect();
        for (key, value) in reader.model().config.iter().filter_map(|config| config.as_object()).flatten() {
            let value = text::shorten_to(&value.to_string(), VALUE_CHARS).into_owned();
            metadata.push((format!("config.{}", text::escape(key)), text::escape(&value).into_owned()));
        }
        let tokens = reader.model().metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).cloned();
        Ok(Self { weights: Arc::new(weights::weights(reader)?), title, metadata, tokens })
    }
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Tensors,
    Values,
    Metadata,
    Tokens,
}

/// How tensors are ordered: as a tree, or as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Tree,
    Name,
    Size,
    Elements,
    Type,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Tree => Self::Name,
            Self::Name => Self::Size,
            Self::Size => Self::Elements,
            Self::Elements => Self::Type,
            Self::Type => Self::Tree,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Name => "by name",
            Self::Size => "by size",
            Self::Elements => "by elements",
            Self::Type => "by type",
        }
    }
}

/// A row of the list of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// A node of the tree.
    Node(usize),
    /// A tensor of the list.
    Tensor(usize),
}

/// Sums over the tensors below a node of the tree.
pub(super) struct Group {
    pub(super) tensors: u64,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Names of their types.
    pub(super) types: String,
}

/// Returns the indices of the items that fit.
fn indices<T>(items: &[T], fits: impl Fn(&T) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| fits(item)).map(|(index, _)| index).collect()
}

/// What the caller is to do after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    Copy(String),
}

/// A list with a cursor.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) at: usize,
    pub(super) top: usize,
    pub(super) height: usize,
}

impl Cursor {
    fn go(&mut self, to: usize, len: usize) {
        self.at = to.min(len.saturating_sub(1));
    }

    /// Scrolls so that the cursor is among the `height` rows shown.
    pub(super) fn fit(&mut self, height: usize, len: usize) {
        self.height = height;
        self.at = self.at.min(len.saturating_sub(1));
        self.top = self.top.min(self.at).max((self.at + 1).saturating_sub(height));
    }
}

/// The state of the program.
pub(super) struct App {
    pub(super) a: Source,
    pub(super) b: Option<Source>,
    pub(super) color: bool,
    pub(super) view: View,
    pub(super) order: Order,
    pub(super) tree: Tree,
    pub(super) rows: Vec<Row>,
    pub(super) cursor: Cursor,
    /// The cursors of metadata and tokens.
    pub(super) other: Cursor,
    /// Where the grid of values begins, row and column, and which rows and columns are there.
    pub(super) origin: (u64, u64),
    pub(super) search: String,
    pub(super) typing: bool,
    pub(super) help: bool,
    pub(super) difference: bool,
    pub(super) message: String,
    pub(super) results: HashMap<Key, Outcome>,
    /// The tokens as stored, read when they are first shown.
    pub(super) tokens: Vec<String>,
    /// The entries of metadata or tokens that the search finds, by index.
    pub(super) found: Vec<usize>,
    groups: HashMap<usize, Group>,
    /// The place of the list on the screen, for the mouse.
    pub(super) area: Rect,
    asked: Option<Request>,
}

/// A request as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Stats(usize),
    Diff(usize),
    Values(usize, u64, u64),
}

impl Request {
    fn key(&self) -> Key {
        match self {
            Self::Stats(tensor) => Key::Stats(*tensor),
            Self::Diff(tensor) => Key::Diff(*tensor),
            Self::Values { tensor, rows, columns } => Key::Values(*tensor, rows.0, columns.0),
        }
    }
}

impl App {
    /// Returns the state at the start.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub(super) fn new(a: Source, b: Option<Source>, color: bool) -> Result<Self> {
        let tree = Tree::new(a.weights.model().tensors.iter().map(|tensor| tensor.name.as_str()));
        let difference = b.is_some();
        let mut app = Self {
            a,
            b,
            color,
            view: View::Tensors,
            order: Order::Tree,
            tree,
            rows: Vec::new(),
            cursor: Cursor::default(),
            other: Cursor::default(),
            origin: (0, 0),
            search: String::new(),
            typing: false,
            help: false,
            difference,
            message: String::new(),
            results: HashMap::new(),
            tokens: Vec::new(),
            found: Vec::new(),
            groups: HashMap::new(),
            area: Rect::default(),
            asked: None,
        };
        app.list();
        Ok(app)
    }

    pub(super) fn title(&self) -> String {
        match &self.b {
            Some(b) => format!("{}  |  {}", self.a.title, b.title),
            None => self.a.title.clone(),
        }
    }

    /// Returns the entries of the metadata that the search finds.
    pub(super) fn metadata(&self) -> impl ExactSizeIterator<Item = &(String, String)> {
        self.found.iter().map(|&index| &self.a.metadata[index])
    }

    /// Returns the tokens that the search finds, escaped, with their IDs, from position `from` on.
    pub(super) fn found_tokens(&self, from: usize) -> impl ExactSizeIterator<Item = (usize, Cow<'_, str>)> {
        self.found[from.min(self.found.len())..].iter().map(|&id| (id, text::escape(&self.tokens[id])))
    }

    /// Returns the sums over the tensors below a node, computed once.
    pub(super) fn group(&mut self, node: usize) -> &Group {
        let (reader, tensors) = (&self.a.weights, &self.tree.nodes[node].tensors);
        self.groups.entry(node).or_insert_with(|| {
            let below = || tensors.iter().map(|&index| &reader.model().tensors[index]);
            let types: BTreeSet<String> = below().map(|tensor| reader.type_name(tensor).to_string()).collect();
            Group {
                tensors: tensors.len() as u64,
                elements: below().map(|tensor| tensor.elements().unwrap_or(0)).fold(0, u64::saturating_add),
                bytes: below().map(|tensor| reader.stored_size(tensor)).fold(0, u64::saturating_add),
                types: types.into_iter().collect::<Vec<_>>().join(" "),
            }
        })
    }

    /// Applies the search to the view.
    fn list(&mut self) {
        let sought = self.search.to_lowercase();
        match self.view {
            View::Tensors | View::Values => self.list_tensors(),
            View::Metadata => {
                let contains = |(key, value): &(String, String)| [key, value].iter().any(|text| text.to_lowercase().contains(&sought));
                self.found = indices(&self.a.metadata, contains);
            }
            View::Tokens if self.search.is_empty() => self.found = (0..self.tokens.len()).collect(),
            View::Tokens => self.found = indices(&self.tokens, |token| text::escape(token).contains(&self.search)),
        }
    }

    /// Makes the list of tensors anew, and keeps the cursor on its tensor.
    fn list_tensors(&mut self) {
        let kept = self.tensor();
        let tensors = &self.a.weights.model().tensors;
        if self.order == Order::Tree && self.search.is_empty() {
            self.rows = self.tree.visible().into_iter().map(Row::Node).collect();
        } else {
            let pattern = NamePattern::parse(&self.search).ok();
            let found = |name: &str| self.search.is_empty() || pattern.as_ref().is_some_and(|pattern| pattern.matches(name));
            let mut list: Vec<usize> = (0..tensors.len()).filter(|&index| found(&tensors[index].name)).collect();
            let size = |index: &usize| tensors[*index].len_bytes.unwrap_or(0);
            match self.order {
                Order::Tree => {}
                Order::Name => list.sort_by(|&a, &b| select::natural(&tensors[a].name, &tensors[b].name)),
                Order::Size => list.sort_by_key(|index| std::cmp::Reverse(size(index))),
                Order::Elements => list.sort_by_key(|&index| std::cmp::Reverse(tensors[index].elements().unwrap_or(0))),
                Order::Type => list.sort_by_cached_key(|&index| tensors[index].elem.to_string()),
            }
            self.rows = list.into_iter().map(Row::Tensor).collect();
        }
        let again = kept.and_then(|kept| self.rows.iter().position(|&row| self.tensor_of(row) == Some(kept)));
        self.cursor.go(again.unwrap_or(self.cursor.at), self.rows.len());
    }

    fn tensor_of(&self, row: Row) -> Option<usize> {
        match row {
            Row::Tensor(index) => Some(index),
            Row::Node(node) => self.tree.nodes[node].tensor.filter(|_| !self.tree.has_children(node)),
        }
    }

    /// Returns the tensor under the cursor.
    pub(super) fn tensor(&self) -> Option<usize> {
        self.rows.get(self.cursor.at).and_then(|&row| self.tensor_of(row))
    }

    /// Returns the number of rows and columns of a tensor: its last dimension is a row.
    pub(super) fn grid(&self, tensor: usize) -> (u64, u64) {
        let info = &self.a.weights.model().tensors[tensor];
        let columns = info.shape.last().copied().unwrap_or(1);
        (info.elements().unwrap_or(0).checked_div(columns).unwrap_or(0), columns)
    }

    /// Returns what should be computed next, once.
    pub(super) fn wanted(&mut self) -> Option<Request> {
        let tensor = self.tensor()?;
        let (rows, columns) = self.grid(tensor);
        let candidates = [
            (self.view == View::Values).then(|| Request::Values {
                tensor,
                rows: (self.origin.0, GRID.0.min(rows.saturating_sub(self.origin.0))),
                columns: (self.origin.1, GRID.1.min(columns.saturating_sub(self.origin.1))),
            }),
            Some(Request::Stats(tensor)),
            (self.difference && self.b.is_some()).then_some(Request::Diff(tensor)),
        ];
        let next = candidates.into_iter().flatten().find(|request| !self.results.contains_key(&request.key()))?;
        if self.asked.as_ref() == Some(&next) {
            return None;
        }
        self.asked = Some(next.clone());
        Some(next)
    }

    /// Takes what the background has computed.
    pub(super) fn receive(&mut self, (request, outcome): (Request, Outcome)) {
        if self.asked.as_ref() == Some(&request) {
            self.asked = None;
        }
        self.results.insert(request.key(), outcome);
    }

    fn len(&self) -> usize {
        match self.view {
            View::Tensors | View::Values => self.rows.len(),
            View::Metadata | View::Tokens => self.found.len(),
        }
    }

    fn place(&mut self) -> &mut Cursor {
        match self.view {
            View::Tensors | View::Values => &mut self.cursor,
            View::Metadata | View::Tokens => &mut self.other,
        }
    }

    fn step(&mut self, by: isize) {
        let len = self.len();
        let place = self.place();
        let to = place.at.saturating_add_signed(by);
        place.go(to, len);
    }

    /// Reacts to a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        self.message.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if self.help {
            self.help = false;
            return Effect::None;
        }
        if self.typing {
            self.type_in(key.code);
            return Effect::None;
        }
        let page = isize::try_from(self.place().height.max(2) - 1).unwrap_or(1);
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc => match self.view {
                View::Tensors if self.search.is_empty() => return Effect::Quit,
                View::Tensors => self.sought(String::new()),
                _ => self.show(View::Tensors),
            },
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('/') => {
                self.search.clear();
                self.typing = true;
                self.list();
            }
            KeyCode::Char('m') => self.show(View::Metadata),
            KeyCode::Char('t') => self.show(View::Tokens),
            KeyCode::Char('v') if self.view == View::Values => self.show(View::Tensors),
            KeyCode::Char('v') => self.values(),
            KeyCode::Char('s') if self.view == View::Tensors => {
                self.order = self.order.next();
                self.list();
            }
            KeyCode::Char('d') => match self.b {
                Some(_) => self.difference = !self.difference,
                None => "give a second model to compare with: weigh browse A B".clone_into(&mut self.message),
            },
            KeyCode::Char('y') => return self.copied(),
            _ if self.view == View::Values => self.scroll(key.code, page),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.step(page),
            KeyCode::PageUp => self.step(-page),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN + 1),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Right | KeyCode::Char('l') => self.open(true),
            KeyCode::Left | KeyCode::Char('h') => self.open(false),
            KeyCode::Char('+') | KeyCode::Char('-') => {
                self.tree.open_all(key.code == KeyCode::Char('+'));
                self.list();
            }
            _ => {}
        }
        Effect::None
    }

    fn type_in(&mut self, code: KeyCode) {
        let mut search = self.search.clone();
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                search.clear();
            }
            KeyCode::Backspace => drop(search.pop()),
            KeyCode::Char(c) => search.push(c),
            KeyCode::Down | KeyCode::Up => {
                self.typing = false;
                return self.step(if code == KeyCode::Down { 1 } else { -1 });
            }
            _ => {}
        }
        self.sought(search);
    }

    fn sought(&mut self, search: String) {
        let tensor = self.tensor();
        self.search = search;
        self.other = Cursor::default();
        if self.search.is_empty()
            && let Some(tensor) = tensor
        {
            self.tree.reveal(tensor);
        }
        self.list();
    }

    fn show(&mut self, view: View) {
        if view == View::Tokens && self.tokens.is_empty() {
            match &self.a.tokens {
                Some(array) => {
                    let token = |value: Result<Value>| match value {
                        Ok(Value::String(token)) => token,
                        _ => String::new(),
                    };
                    self.tokens = array.iter().map(token).collect();
                }
                None => {
                    "the files hold no list of tokens as GGUF has it".clone_into(&mut self.message);
                    return;
                }
            }
        }
        self.view = if self.view == view { View::Tensors } else { view };
        self.other = Cursor::default();
        self.search.clear();
        self.list();
    }

    fn values(&mut self) {
        match self.tensor() {
            Some(_) => {
                self.origin = (0, 0);
                self.view = View::Values;
            }
            None => "open a tensor first".clone_into(&mut self.message),
        }
    }

    fn scroll(&mut self, code: KeyCode, page: isize) {
        let Some(tensor) = self.tensor() else { return };
        let (rows, columns) = self.grid(tensor);
        let (mut row, mut column) = self.origin;
        let page = page.unsigned_abs() as u64;
        match code {
            KeyCode::Down | KeyCode::Char('j') => row += 1,
            KeyCode::Up | KeyCode::Char('k') => row = row.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => row += page,
            KeyCode::PageUp => row = row.saturating_sub(page),
            KeyCode::Right | KeyCode::Char('l') => column += 1,
            KeyCode::Left | KeyCode::Char('h') => column = column.saturating_sub(1),
            KeyCode::Char('L') => column += 8,
            KeyCode::Char('H') => column = column.saturating_sub(8),
            KeyCode::Home | KeyCode::Char('g') => (row, column) = (0, 0),
            KeyCode::End | KeyCode::Char('G') => row = rows.saturating_sub(page),
            _ => {}
        }
        self.origin = (row.min(rows.saturating_sub(1)), column.min(columns.saturating_sub(1)));
    }

    fn copied(&mut self) -> Effect {
        let name = match (self.view, self.rows.get(self.cursor.at)) {
            (View::Metadata, _) => self.metadata().nth(self.other.at).map(|(key, _)| key.clone()),
            (View::Tokens, _) => self.found_tokens(self.other.at).next().map(|(_, token)| token.into_owned()),
            (_, Some(&row)) => match (self.tensor_of(row), row) {
                (Some(tensor), _) => Some(self.a.weights.model().tensors[tensor].name.clone()),
                (None, Row::Node(node)) => Some(self.tree.nodes[node].label.clone()),
                _ => None,
            },
            _ => None,
        };
        let Some(name) = name else { return Effect::None };
        self.message = format!("copied: {}", text::escape(&name));
        Effect::Copy(name)
    }

    fn enter(&mut self) {
        if self.view != View::Tensors {
            return;
        }
        match self.rows.get(self.cursor.at) {
            Some(&Row::Node(node)) if self.tree.has_children(node) => self.open(!self.tree.nodes[node].open),
            Some(_) => self.values(),
            None => {}
        }
    }

    fn open(&mut self, open: bool) {
        let Some(&Row::Node(node)) = self.rows.get(self.cursor.at).filter(|_| self.view == View::Tensors) else { return };
        if self.tree.has_children(node) && self.tree.nodes[node].open != open {
            self.tree.nodes[node].open = open;
            self.rows = self.tree.visible().into_iter().map(Row::Node).collect();
        } else if !open
            && let Some(parent) = self.tree.parent(node)
            && let Some(at) = self.rows.iter().position(|&row| row == Row::Node(parent))
        {
            self.cursor.at = at;
        }
    }

    /// Reacts to the mouse: a click moves the cursor, a second one opens, the wheel scrolls.
    pub(super) fn mouse(&mut self, mouse: MouseEvent) -> Effect {
        let wheel = match mouse.kind {
            MouseEventKind::ScrollDown => 3,
            MouseEventKind::ScrollUp => -3,
            MouseEventKind::Down(MouseButton::Left) if self.area.contains(Position { x: mouse.column, y: mouse.row }) => {
                let line = usize::from(mouse.row - self.area.y);
                let (len, place) = (self.len(), self.place());
                let to = place.top + line;
                if to < len {
                    let again = place.at == to;
                    place.at = to;
                    if again {
                        self.enter();
                    }
                }
                return Effect::None;
            }
            _ => return Effect::None,
        };
        match self.view {
            View::Values => (0..3).for_each(|_| self.scroll(if wheel > 0 { KeyCode::Down } else { KeyCode::Up }, 1)),
            _ => self.step(wheel),
        }
        Effect::None
    }
}

impl App {
    /// Returns the number of tensors in the list.
    pub(super) fn shown_tensors(&self) -> u64 {
        match self.rows.first() {
            Some(Row::Tensor(_)) => self.rows.len() as u64,
            _ if self.search.is_empty() => self.a.weights.model().tensors.len() as u64,
            _ => 0,
        }
    }
}
