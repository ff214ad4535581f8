//! `weigh browse`: a model in the terminal.
//!
//! [`App`](app::App) holds what is shown and reacts to keys, [`draw`] draws it, and [`work`] computes in the background what is under the
//! cursor. Only this module knows the terminal.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, DisableMouseCapture, EnableMouseCapture, Event};
use ratatui::crossterm::execute;

use crate::base::{Error, ErrorKind, Result};
use crate::cli::context::{Context, Outcome, Status};
use app::{App, Effect, Source};
use work::Worker;

mod app;
mod draw;
mod rows;
mod work;

/// How long the program waits for a key before it looks for results of the background.
const TICK: Duration = Duration::from_millis(50);

/// Browse a model in the terminal: its tensors, values, statistics, metadata and tokens; with a second model, their differences
///
/// Statistics are computed in the background for the tensor under the cursor. Press ? for the keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh browse model.gguf
  weigh browse model-f16.gguf model-q4_k_m.gguf
  weigh browse Qwen/Qwen3-0.6B")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    a: PathBuf,
    /// Second model, to compare with
    b: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Error::argument("browse needs a terminal")
            .hint("`weigh info`, `weigh ls` and `weigh stats` print what it shows")
            .into());
    }
    let a = Source::new(context.open(&args.a)?)?;
    let b = args.b.as_deref().map(|b| Source::new(context.open(b)?)).transpose()?;
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let worker = Worker::start(&a.weights, b.as_ref().map(|b| &b.weights))?;
    let mut app = App::new(a, b, color)?;
    let mut terminal = ratatui::try_init().map_err(|error| lost(&error))?;
    let _ = execute!(io::stdout(), EnableMouseCapture);
    let end = watch(&mut terminal, &mut app, &worker);
    let _ = execute!(io::stdout(), DisableMouseCapture);
    ratatui::restore();
    end?;
    Ok(Status::Done)
}

/// Draws, waits for keys and for the background, until the user leaves.
fn watch(terminal: &mut DefaultTerminal, app: &mut App, worker: &Worker) -> Result<()> {
    let mut changed = true;
    loop {
        while let Some(result) = worker.result() {
            app.receive(result);
            changed = true;
        }
        if changed {
            terminal.draw(|frame| draw::draw(frame, app)).map_err(|error| lost(&error))?;
        }
        changed = false;
        // All keys that wait are handled before the next frame, so that a key that is held down does not lag.
        while event::poll(if changed { Duration::ZERO } else { TICK }).map_err(|error| lost(&error))? {
            changed = true;
            let effect = match event::read().map_err(|error| lost(&error))? {
                Event::Key(key) => app.key(key),
                Event::Mouse(mouse) => app.mouse(mouse),
                _ => Effect::None,
            };
            match effect {
                Effect::None => {}
                Effect::Quit => return Ok(()),
                Effect::Copy(text) => copy(&text),
            }
        }
        if let Some(request) = app.wanted() {
            worker.ask(request);
        }
    }
}

/// Puts text on the clipboard of the terminal (OSC 52), which works over a remote shell as well.
fn copy(text: &str) {
    use std::io::Write;

    use base64::Engine;

    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    let mut out = io::stdout();
    let _ = write!(out, "\x1b]52;c;{encoded}\x07").and_then(|()| out.flush());
}

fn lost(error: &io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("the terminal cannot be used: {error}"))
}
