//! Ranges that are received by the thread that reads them: no thread has to be woken, and the bytes are still in the core's cache.
//!
//! A range that nobody reads yet waits in its socket, as far as the system has room for it.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Client;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinHandle, yield_now};

use crate::base::threads::lock;
use crate::base::{Result, limits};
use crate::source::remote::http::{self, Body, Failed, io, most_time, too_slow};
use crate::source::remote::link::Link;
use crate::source::remote::runtime::no_result;

/// Connections, and the runtime on which they make progress while a thread waits for them.
struct Lane {
    runtime: Runtime,
    client: Client,
}

/// The lanes that no stream uses.
static IDLE: Mutex<Vec<Lane>> = Mutex::new(Vec::new());

impl Lane {
    /// Returns an idle lane, or a new one.
    fn take() -> Result<Self> {
        if let Some(lane) = lock(&IDLE).pop() {
            return Ok(lane);
        }
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        Ok(Self { runtime: runtime.map_err(|error| io(format!("cannot prepare requests: {error}")))?, client: http::new_client()? })
    }

    /// Asks for a range.
    fn ask(&self, link: &Arc<Link>, range: Range<u64>) -> Answer {
        let link = Arc::clone(link);
        Answer::Asked(self.runtime.spawn(http::CLIENT.scope(self.client.clone(), async move { link.open(range).await })))
    }

    /// Runs a task on this thread, and what else there is to do on the lane meanwhile.
    fn run<T: Send>(&self, task: impl Future<Output = T> + Send) -> Result<T> {
        let run = || self.runtime.block_on(http::CLIENT.scope(self.client.clone(), task));
        if Handle::try_current().is_err() {
            return Ok(run());
        }
        // A thread of another runtime may not run this one.
        std::thread::scope(|scope| scope.spawn(run).join()).map_err(|_| no_result())
    }
}

/// A range that is being received.
pub(super) struct Stream {
    /// `None` once all is received.
    lane: Option<Lane>,
    link: Arc<Link>,
    /// What has not been received.
    left: Range<u64>,
    answer: Answer,
    /// Number of attempts that failed.
    failures: usize,
    /// The time that the server has for all of it, and what it has taken.
    most: Duration,
    spent: Duration,
}

/// The answer to the request for a range.
enum Answer {
    Asked(JoinHandle<Result<Body>>),
    Begun(Body),
}

impl Stream {
    /// Asks for a range.
    ///
    /// # Errors
    /// No request can be prepared.
    pub(super) fn ask(link: &Arc<Link>, range: Range<u64>) -> Result<Self> {
        let lane = Lane::take()?;
        let answer = lane.ask(link, range.clone());
        // The request leaves now; the answer waits in the socket until somebody reads it.
        lane.run(async {
            for _ in 0..4 {
                yield_now().await;
            }
        })?;
        let most = most_time(range.end - range.start);
        Ok(Self { lane: Some(lane), link: Arc::clone(link), left: range, answer, failures: 0, most, spent: Duration::ZERO })
    }

    /// Receives the next bytes; `None` at the end.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; the file is not the one that it was.
    pub(super) fn receive(&mut self) -> Result<Option<Bytes>> {
        let Some(lane) = &self.lane else { return Ok(None) };
        loop {
            let begun = Instant::now();
            let (answer, patience) = (&mut self.answer, self.most.saturating_sub(self.spent));
            let received = lane.run(async { tokio::time::timeout(patience, answer.next()).await })?;
            self.spent += begun.elapsed();
            let failed = match received {
                Ok(Ok(Some(bytes))) => {
                    self.left.start += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(Ok(None)) => {
                    lock(&IDLE).extend(self.lane.take());
                    return Ok(None);
                }
                Ok(Err(failed)) => failed,
                Err(_) => too_slow(self.most).into(),
            };
            if failed.retry.is_none() || self.failures == limits::RETRIES {
                return Err(failed.error.in_file(self.link.path()));
            }
            std::thread::sleep(limits::RETRY_WAIT * (1 << self.failures));
            self.failures += 1;
            self.answer = lane.ask(&self.link, self.left.clone());
        }
    }
}

impl Answer {
    /// Receives the next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        loop {
            match self {
                Self::Begun(body) => return body.next().await,
                Self::Asked(asked) => {
                    let body = asked.await.unwrap_or_else(|_| Err(no_result()))?;
                    *self = Self::Begun(body);
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Answer::Asked(asked) = &self.answer {
            asked.abort();
        }
        lock(&IDLE).extend(self.lane.take());
    }
}
