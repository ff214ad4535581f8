//! Draws the state.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use crate::base::{text, units};
use crate::cli::browse::app::{App, Key, Row, View};
use crate::cli::browse::work::Outcome;
use crate::ops::diff::TensorRow;
use crate::ops::stats::Summary;
use crate::render::bar;

/// The keys, as the help lists them.
const KEYS: &[(&str, &str)] = &[
    ("up, down, page, g, G", "move; also j, k, the wheel and a click"),
    ("right, left", "open and close a part of the tree; + and - all parts"),
    ("enter, v", "values of a tensor; arrows scroll, H and L by eight columns"),
    ("/", "search names: a part of one, or a pattern with * ? [ {"),
    ("s", "sort: tree, name, size, elements, type"),
    ("m", "metadata and config.json"),
    ("t", "tokens"),
    ("d", "difference from the second model"),
    ("y", "copy the name"),
    ("esc, q", "back, leave"),
];

/// The width below which details stand under the list.
const NARROW: u16 = 70;

struct Styles {
    title: Style,
    cursor: Style,
    faint: Style,
    bar: Style,
    bad: Style,
}

impl Styles {
    fn new(color: bool) -> Self {
        let plain = Style::new();
        let in_color = |color_of| if color { plain.fg(color_of) } else { plain };
        Self {
            title: plain.add_modifier(Modifier::BOLD),
            cursor: plain.add_modifier(Modifier::REVERSED),
            faint: plain.add_modifier(Modifier::DIM),
            bar: in_color(Color::Cyan),
            bad: in_color(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let styles = Styles::new(app.color);
    let [head, body, foot] = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Line::styled(app.title(), styles.title), head);
    match app.view {
        View::Tensors => tensors(frame, app, body, &styles),
        View::Values => values(frame, app, body, &styles),
        View::Metadata => metadata(frame, app, body, &styles),
        View::Tokens => tokens(frame, app, body, &styles),
    }
    let line = match (app.typing, app.message.is_empty()) {
        (true, _) => Line::from(format!("/{}_", text::escape(&app.search))),
        (_, false) => Line::from(app.message.clone()),
        _ => {
            Line::styled(format!("? help  / search  s {}  v values  m metadata  t tokens  y copy  q quit", app.order.name()), styles.faint)
        }
    };
    frame.render_widget(line, foot);
    if app.help {
        help(frame, &styles);
    }
}

fn tensors(frame: &mut Frame<'_>, app: &mut App, area: Rect, styles: &Styles) {
    let halves = [Constraint::Percentage(55), Constraint::Percentage(45)];
    let [list, details] = if area.width < NARROW { Layout::vertical(halves).areas(area) } else { Layout::horizontal(halves).areas(area) };
    let found = if app.search.is_empty() { String::new() } else { format!(" matching {}", text::escape(&app.search)) };
    let block = Block::new().borders(Borders::ALL).title(format!(" {}{found} ", units::counted(app.shown_tensors(), "tensor")));
    let inner = block.inner(list);
    frame.render_widget(block, list);
    app.area = inner;
    app.cursor.fit(usize::from(inner.height), app.rows.len());
    let width = usize::from(inner.width);
    let lines = (app.cursor.top..app.rows.len()).take(usize::from(inner.height)).map(|at| {
        let line = row(app, app.rows[at], width);
        Line::styled(line, if at == app.cursor.at { styles.cursor } else { Style::new() })
    });
    let lines: Vec<Line<'_>> = lines.collect();
    frame.render_widget(Paragraph::new(lines), inner);

    let block = Block::new().borders(Borders::ALL).title(" details ");
    let inner = block.inner(details);
    frame.render_widget(block, details);
    frame.render_widget(Paragraph::new(facts(app, usize::from(inner.width), styles)).wrap(Wrap { trim: false }), inner);
}

/// Returns a row of the list: the name, and its type or number of tensors at the right.
fn row(app: &App, row: Row, width: usize) -> String {
    let tensors = &app.a.weights.model().tensors;
    let (left, right) = match row {
        Row::Tensor(index) => (text::escape(&tensors[index].name).into_owned(), app.a.weights.type_name(&tensors[index]).to_string()),
        Row::Node(at) => {
            let node = &app.tree.nodes[at];
            let sign = match (app.tree.has_children(at), node.open) {
                (false, _) => "  ",
                (true, true) => "▾ ",
                (true, false) => "▸ ",
            };
            let right = match node.tensor.filter(|_| !app.tree.has_children(at)) {
                Some(index) => app.a.weights.type_name(&tensors[index]).to_string(),
                None => units::grouped(node.tensors.len() as u64),
            };
            (format!("{}{sign}{}", "  ".repeat(node.depth.saturating_sub(1)), text::escape(&node.label)), right)
        }
    };
    let room = width.saturating_sub(right.chars().count() + 2);
    let left = text::shorten_middle(left, room);
    format!("{left:room$}  {right}")
}

/// Returns a line of a name, padded to a width, and a value.
fn fact<'a>(name: &str, value: String, width: usize, styles: &Styles) -> Line<'a> {
    Line::from(vec![Span::styled(format!("{name:<width$} "), styles.faint), Span::raw(value)])
}

fn facts<'a>(app: &mut App, width: usize, styles: &Styles) -> Vec<Line<'a>> {
    let Some(tensor) = app.tensor() else {
        let Some(&Row::Node(node)) = app.rows.get(app.cursor.at) else { return vec![Line::from("no tensor")] };
        let group = app.group(node);
        return vec![
            fact("tensors", units::grouped(group.tensors), 9, styles),
            fact("elements", units::grouped(group.elements), 9, styles),
            fact("size", units::bytes(group.bytes), 9, styles),
            fact("types", group.types.clone(), 9, styles),
        ];
    };
    let model = app.a.weights.model();
    let mut lines = Vec::new();
    let info = &model.tensors[tensor];
    let shape = info.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
    lines.push(Line::styled(text::escape(&info.name).into_owned(), styles.title));
    lines.push(fact("shape", if shape.is_empty() { "scalar".to_owned() } else { shape }, 9, styles));
    lines.push(fact("type", app.a.weights.type_name(info).to_string(), 9, styles));
    lines.push(fact("elements", units::grouped(info.elements().unwrap_or(0)), 9, styles));
    lines.push(fact("size", units::bytes(app.a.weights.stored_size(info)), 9, styles));
    if !app.a.weights.is_computed(info)
        && let Some(shard) = model.shards.get(info.shard)
    {
        let file = shard.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        lines.push(fact("place", format!("{} at {}", text::escape(&file), units::grouped(info.offset_bytes)), 9, styles));
    }
    lines.push(Line::default());
    match app.results.get(&Key::Stats(tensor)) {
        None => lines.push(Line::styled("measuring ...", styles.faint)),
        Some(Outcome::Stats(summary)) => lines.extend(statistics(summary, width, styles)),
        Some(Outcome::Failed(why)) => lines.push(Line::styled(text::escape(why).into_owned(), styles.bad)),
        Some(_) => {}
    }
    if app.difference && app.b.is_some() {
        lines.push(Line::default());
        lines.push(Line::styled("difference from the second model", styles.title));
        match app.results.get(&Key::Diff(tensor)) {
            None => lines.push(Line::styled("comparing ...", styles.faint)),
            Some(Outcome::Diff(row)) => lines.extend(difference(row, styles)),
            Some(Outcome::Failed(why)) => lines.push(Line::styled(text::escape(why).into_owned(), styles.bad)),
            Some(_) => {}
        }
    }
    lines
}

fn statistics<'a>(summary: &Summary, width: usize, styles: &Styles) -> Vec<Line<'a>> {
    let number = |value: f64| units::general(value, 5);
    let pair = |a: &str, x: String, b: &str, y: String| {
        Line::from(vec![
            Span::styled(format!("{a:<9} "), styles.faint),
            Span::raw(format!("{x:<13} ")),
            Span::styled(format!("{b:<5} "), styles.faint),
            Span::raw(y),
        ])
    };
    let mut lines = vec![
        pair("min", number(summary.min), "max", number(summary.max)),
        pair("mean", number(summary.mean), "std", number(summary.std)),
        pair("kurtosis", number(summary.kurtosis), "norm", number(summary.l2)),
    ];
    let zeros = summary.zeros.map_or_else(String::new, units::grouped);
    lines.push(pair("zeros", zeros, "", String::new()));
    for (name, count) in [("NaN", summary.nan), ("infinite", summary.inf)] {
        if let Some(count) = count.filter(|&count| count > 0) {
            lines.push(Line::styled(format!("{name:<9} {}", units::grouped(count)), styles.bad));
        }
    }
    lines.push(Line::default());
    let bins = &summary.histogram.linear;
    let counts = bins.counts.to_vec();
    let together = counts.len().div_ceil(16).max(1);
    let groups: Vec<u64> = counts.chunks(together).map(|chunk| chunk.iter().sum()).collect();
    let most = groups.iter().copied().max().unwrap_or(0).max(1);
    let room = width.saturating_sub(12) as u128;
    for (at, &count) in groups.iter().enumerate() {
        let edge = bins.low + (bins.high - bins.low) * (at * together) as f64 / counts.len().max(1) as f64;
        let eighths = (u128::from(count) * room * 8).div_ceil(u128::from(most)) as usize;
        lines.push(Line::from(vec![
            Span::styled(format!("{:>10} ", units::general(edge, 3)), styles.faint),
            Span::styled(bar(eighths), styles.bar),
        ]));
    }
    lines
}

fn difference<'a>(row: &TensorRow, styles: &Styles) -> Vec<Line<'a>> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| units::general(value, 5));
    let fact = |name, value| fact(name, value, 15, styles);
    if row.equal == Some(true) {
        return vec![fact("types", format!("{}, {}", row.dtype_a, row.dtype_b)), Line::from("equal")];
    }
    vec![
        fact("types", format!("{}, {}", row.dtype_a, row.dtype_b)),
        fact("relative error", row.relative_rmse.map_or_else(|| "-".to_owned(), |error| format!("{}%", units::general(error * 100.0, 4)))),
        fact("largest", number(row.max_abs)),
        fact("cosine", number(row.cosine)),
        fact("signal to noise", row.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{} dB", units::general(db, 4)))),
    ]
}

fn values(frame: &mut Frame<'_>, app: &mut App, area: Rect, styles: &Styles) {
    let Some(tensor) = app.tensor() else { return };
    let info = &app.a.weights.model().tensors[tensor];
    let shape = info.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
    let block = Block::new().borders(Borders::ALL).title(format!(" {}  {shape} ", text::escape(&info.name)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    app.area = inner;
    app.cursor.height = usize::from(inner.height);
    let (row, column) = app.origin;
    let lines = match app.results.get(&Key::Values(tensor, row, column)) {
        Some(Outcome::Values(grid)) => {
            let cell = grid.iter().flatten().map(|value| value.chars().count()).max().unwrap_or(1).max(6) + 1;
            let columns = (usize::from(inner.width).saturating_sub(9) / cell).max(1);
            let head: String = (0..columns).map(|at| format!("{:>cell$}", column + at as u64)).collect();
            let mut lines = vec![Line::styled(format!("{:>8} {head}", ""), styles.faint)];
            for (at, values) in grid.iter().enumerate().take(usize::from(inner.height).saturating_sub(1)) {
                let text: String = values.iter().take(columns).map(|value| format!("{value:>cell$}")).collect();
                lines.push(Line::from(vec![Span::styled(format!("{:>8} ", row + at as u64), styles.faint), Span::raw(text)]));
            }
            lines
        }
        Some(Outcome::Failed(why)) => vec![Line::styled(text::escape(why).into_owned(), styles.bad)],
        _ => vec![Line::styled("reading ...", styles.faint)],
    };
    frame.render_widget(Paragraph::new(lines), inner);
}

fn metadata(frame: &mut Frame<'_>, app: &mut App, area: Rect, styles: &Styles) {
    let len = app.found.len();
    let block = Block::new().borders(Borders::ALL).title(format!(" {} ", units::counted(len as u64, "key")));
    let [list, value] = Layout::vertical([Constraint::Percentage(70), Constraint::Percentage(30)]).areas(area);
    let inner = block.inner(list);
    frame.render_widget(block, list);
    app.area = inner;
    app.other.fit(usize::from(inner.height), len);
    let (top, at, width) = (app.other.top, app.other.at, usize::from(inner.width));
    let entries: Vec<_> = app.metadata().collect();
    let key = entries.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(width / 2);
    let line = |index: usize| {
        let (name, value) = entries[index];
        let line = format!("{:key$}  {value}", text::shorten_middle(name.clone(), key));
        Line::styled(text::shorten_to(&line, width).into_owned(), if index == at { styles.cursor } else { Style::new() })
    };
    let lines: Vec<Line<'_>> = (top..entries.len()).take(usize::from(inner.height)).map(line).collect();
    let whole = entries.get(at).map(|(_, value)| value.clone()).unwrap_or_default();
    frame.render_widget(Paragraph::new(lines), inner);
    frame.render_widget(Paragraph::new(whole).wrap(Wrap { trim: false }).block(Block::new().borders(Borders::ALL).title(" value ")), value);
}

fn tokens(frame: &mut Frame<'_>, app: &mut App, area: Rect, styles: &Styles) {
    let len = app.found.len();
    let block = Block::new().borders(Borders::ALL).title(format!(" {} ", units::counted(len as u64, "token")));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    app.area = inner;
    app.other.fit(usize::from(inner.height), len);
    let (top, at) = (app.other.top, app.other.at);
    let rows = (top..).zip(app.found_tokens(top)).take(usize::from(inner.height));
    let rows =
        rows.map(|(index, (id, token))| Line::styled(format!("{id:>8}  {token}"), if index == at { styles.cursor } else { Style::new() }));
    let lines: Vec<Line<'_>> = rows.collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn help(frame: &mut Frame<'_>, styles: &Styles) {
    let area = frame.area();
    let (width, height) = (area.width.min(78), area.height.min(KEYS.len() as u16 + 2));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let lines: Vec<Line<'_>> =
        KEYS.iter().map(|(keys, what)| Line::from(vec![Span::styled(format!("{keys:<22}"), styles.title), Span::raw(*what)])).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::new().borders(Borders::ALL).title(" keys ")), place);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::*;
    use crate::cli::browse::app::{Effect, Source};
    use crate::cli::browse::work::Worker;

    struct Session {
        terminal: Terminal<TestBackend>,
        app: App,
        worker: Worker,
    }

    impl Session {
        fn new(width: u16, height: u16, a: &str, b: Option<&str>) -> Self {
            let open = |path: &str| Source::new(crate::format::open(path.as_ref()).unwrap()).unwrap();
            let (a, b) = (open(a), b.map(open));
            let worker = Worker::start(&a.weights, b.as_ref().map(|b| &b.weights)).unwrap();
            Self { terminal: Terminal::new(TestBackend::new(width, height)).unwrap(), app: App::new(a, b, false).unwrap(), worker }
        }

        fn press(&mut self, keys: &str) -> Effect {
            let mut effect = Effect::None;
            for key in keys.chars() {
                let code = match key {
                    '\n' => KeyCode::Enter,
                    '\u{1b}' => KeyCode::Esc,
                    key => KeyCode::Char(key),
                };
                effect = self.app.key(KeyEvent::from(code));
            }
            effect
        }

        /// Draws once nothing is being computed any more.
        fn screen(&mut self) -> String {
            while let Some(request) = self.app.wanted() {
                self.worker.ask(request);
                let result = loop {
                    if let Some(result) = self.worker.result() {
                        break result;
                    }
                    std::thread::yield_now();
                };
                self.app.receive(result);
            }
            self.terminal.draw(|frame| draw(frame, &mut self.app)).unwrap();
            self.terminal.backend().to_string()
        }
    }

    const FOLDER: &str = "fixtures/llama-tiny";
    const GGUF: &str = "fixtures/llama-tiny-q8_0.gguf";

    #[test]
    fn a_model_is_a_tree_with_details() {
        let mut session = Session::new(80, 24, GGUF, None);
        let screen = session.screen();
        assert!(screen.contains("gguf, llama, 94.8K parameters") && screen.contains("▸ blk"), "{screen}");
        session.press("/attn_q");
        let screen = session.screen();
        assert!(screen.contains("blk.0.attn_q.weight") && screen.contains("/attn_q_"), "{screen}");
        assert!(screen.contains("64 x 64") && screen.contains("Q8_0") && screen.contains("kurtosis"), "{screen}");
        assert_eq!(session.press("\ny"), Effect::Copy("blk.0.attn_q.weight".to_owned()));
        session.press("\u{1b}");
        assert!(session.screen().contains("▾ blk"), "the tree is open where the search ended");
        assert_eq!(session.press("q"), Effect::Quit);
    }

    #[test]
    fn values_metadata_tokens_and_help_have_their_screens() {
        let mut session = Session::new(80, 24, GGUF, None);
        session.press("/token_embd\nv");
        let screen = session.screen();
        let shown = crate::ops::show::show(&session.app.a.weights, "token_embd.weight", Some("0,0:1"), false).unwrap();
        assert!(screen.contains(&units::general(shown.values.numbers[0].as_f64(), 4)), "{screen}");
        session.press("jl");
        assert_eq!(session.app.origin, (1, 1));
        session.press("m");
        let screen = session.screen();
        assert!(screen.contains("general.architecture") && screen.contains("llama"), "{screen}");
        session.press("/name\n");
        assert!(session.screen().contains(" 1 key "));
        session.press("t");
        assert!(session.screen().contains("325 tokens"));
        session.press("/<|\n");
        let tokens = session.app.tokens.iter().filter(|token| token.contains("<|")).count();
        assert!(tokens > 1 && session.screen().contains(&format!(" {tokens} tokens ")));
        session.press("t");
        session.press("?");
        assert!(session.screen().contains("copy the name"));
    }

    #[test]
    fn tokens_are_escaped_where_they_are_shown_searched_and_copied() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.gguf");
        std::fs::copy(GGUF, &file).unwrap();
        let tokens = (0..325).map(|id| if id % 100 == 7 { format!("{id}\u{1b}[2J") } else { format!("plain{id}") });
        let tokens = crate::Value::Array(crate::Array::strings(tokens));
        crate::edit(&file, &crate::Edit::new().set("tokenizer.ggml.tokens", tokens)).unwrap();
        let mut session = Session::new(80, 24, file.to_str().unwrap(), None);
        session.press("t");
        let screen = session.screen();
        assert!(screen.contains(r"       7  7\u{1b}[2J") && screen.contains("       8  plain8"), "{screen}");
        session.press("/u{1b}\n");
        let screen = session.screen();
        assert!(screen.contains(" 4 tokens ") && screen.contains(r"     307  307\u{1b}[2J"), "{screen}");
        session.press("jj");
        assert_eq!(session.press("y"), Effect::Copy(r"207\u{1b}[2J".to_owned()));
    }

    #[test]
    fn a_second_model_shows_the_difference_of_each_tensor() {
        let mut session = Session::new(120, 40, FOLDER, Some(GGUF));
        session.press("/q_proj\n");
        let screen = session.screen();
        assert!(screen.contains("BF16, Q8_0") && screen.contains("relative error"), "{screen}");
        session.press("d");
        assert!(!session.screen().contains("relative error"));
    }

    #[test]
    fn thousands_of_experts_are_sorted_and_searched() {
        let names: Vec<String> =
            (0..12).flat_map(|layer| (0..250).map(move |expert| format!("layers.{layer}.experts.{expert}.w"))).collect();
        let entry = |name: &String| format!("{name:?}:{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        let mut by_bytes = names.clone();
        by_bytes.sort();
        let header = format!("{{{}}}", by_bytes.iter().map(entry).collect::<Vec<_>>().join(","));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("experts.safetensors");
        std::fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        let mut session = Session::new(80, 24, file.to_str().unwrap(), None);
        session.press("s");
        let listed: Vec<&str> =
            session.app.rows.iter().map(|&row| session.app.a.weights.model().tensors[tensor(row)].name.as_str()).collect();
        assert_eq!(listed, names, "numbers are sorted by their values");
        session.press("G");
        assert!(session.screen().contains("layers.11.experts.249.w"));
        session.press("/*.experts.24?.w\n");
        let screen = session.screen();
        assert!(screen.contains(" 120 tensors matching"), "{screen}");
    }

    fn tensor(row: Row) -> usize {
        match row {
            Row::Tensor(index) => index,
            Row::Node(node) => panic!("{node} is a node of the tree"),
        }
    }

    #[test]
    fn every_size_of_a_terminal_can_be_drawn() {
        for (width, height) in [(1, 1), (10, 3), (20, 10), (40, 80), (300, 5)] {
            let mut session = Session::new(width, height, GGUF, Some(FOLDER));
            for keys in ["", "/embd\n", "v", "m", "t", "?", "+", "s", "s", "G", "g"] {
                session.press(keys);
                session.screen();
            }
        }
    }
}
