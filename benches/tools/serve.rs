//! `serve FOLDER PORT MILLISECONDS`: the web server of the tests, for `benches/remote.py`. Each response is delayed by MILLISECONDS.
//!
//! `GET /-/seen` returns the number of requests since the last call, and the number of bytes in the responses.

#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[path = "../../tests/suite/server.rs"]
mod server;

use server::{Reply, Server, hub};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, port, delay] = &arguments[..] else { return println!("usage: serve FOLDER PORT MILLISECONDS") };
    let folder = PathBuf::from(folder);
    let this: Arc<OnceLock<Server>> = Arc::default();
    let running = Arc::clone(&this);
    let started = Server::start_at(&format!("127.0.0.1:{port}"), Duration::from_millis(delay.parse().unwrap()), move |asked| {
        if asked.path == "/-/seen" {
            let seen = running.get().map(Server::seen).unwrap_or_default();
            let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
            return Reply::new(200, serde_json::json!({ "requests": seen.len(), "bytes": bytes }).to_string());
        }
        match hub(asked, &folder) {
            reply if reply.status == 404 => Reply::file(asked, &folder.join(asked.path.trim_start_matches('/'))),
            reply => reply,
        }
    });
    let _ = this.set(started);
    std::thread::park();
}
