//! The background runtime on which requests run: started with the first one.

use std::sync::mpsc;
use std::sync::{LazyLock, OnceLock};

use tokio::runtime::{Builder, Runtime};

use crate::base::{Error, ErrorKind, Result};

/// Threads that wait for the network; requests take turns on them.
const THREADS: usize = 2;

static RUNTIME: LazyLock<std::io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(THREADS).thread_name("weigh-net").enable_io().enable_time().build());

/// Starts a task.
///
/// # Errors
/// The runtime cannot be started.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let runtime = RUNTIME.as_ref().map_err(|error| Error::new(ErrorKind::Io, format!("cannot start threads for requests: {error}")))?;
    runtime.spawn(task);
    Ok(())
}

/// Runs a task, and blocks until it is done. This also works on a thread of another runtime.
///
/// # Errors
/// Those of the task; or the runtime cannot be started.
pub(super) fn wait<T: Send + 'static>(task: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    spawn(async move {
        let _ = done.send(task.await);
    })?;
    result.recv().unwrap_or_else(|_| Err(no_result()))
}

/// Returns the error for a task that has failed.
pub(super) fn no_result() -> Error {
    Error::new(ErrorKind::Io, "a request ended without a result")
}

/// Returns an environment variable that is set and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Makes the TLS library use ring, unless the program has chosen another implementation.
pub(super) fn prepare_tls() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
