//! Requests for ranges of bytes: redirects, retries, limits, and one-line errors.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use rustls::ClientConfig;

use crate::base::{Error, ErrorKind, Hint, Result, limits, text};
use crate::source::remote::runtime::variable;
use crate::source::remote::{buffers, certificates};

/// A request for a range of a file, or for a whole small document.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) url: Url,
    /// Sent to the host of `url` only.
    pub(super) authorization: Option<HeaderValue>,
    /// The bytes wanted; the whole document if `None`.
    pub(super) range: Option<Range<u64>>,
    /// Entity tag of a copy that is known already.
    pub(super) unless: Option<String>,
    /// The path to use in messages.
    pub(super) name: PathBuf,
    /// Whether the Hub is asked.
    pub(super) hub: bool,
    /// Whether the bytes are received after the answer has begun, and not with it.
    pub(super) later: bool,
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The bytes; `None` if the known copy is current, or they are received later.
    pub(super) bytes: Option<Vec<u8>>,
    /// The bytes that are received later.
    pub(super) body: Option<Body>,
    pub(super) identity: Identity,
    /// The URL that answered, after redirects.
    pub(super) url: Url,
    /// The URL of the next page of a listing.
    pub(super) next: Option<Url>,
    /// The commit of a Hub repository.
    pub(super) commit: Option<String>,
}

/// Identification of the version of a file, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) len: Option<u64>,
    /// The Hub's digest of the content.
    pub(super) linked: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
}

impl Identity {
    /// Adds what another answer says about the same file; returns whether the two contradict each other.
    pub(super) fn differs_after_adding(&mut self, other: &Self) -> bool {
        fn differs<T: PartialEq + Clone>(own: &mut Option<T>, other: &Option<T>) -> bool {
            let differ = own.is_some() && other.is_some() && own != other;
            if own.is_none() {
                own.clone_from(other);
            }
            differ
        }
        let differ = [differs(&mut self.linked, &other.linked), differs(&mut self.etag, &other.etag)];
        // The time is less exact than a tag.
        let older = differs(&mut self.modified, &other.modified) && self.etag.is_none();
        differs(&mut self.len, &other.len) || differ.contains(&true) || older
    }

    /// Returns the strong tag by which copies are kept.
    pub(super) fn strong_tag(&self) -> Option<&str> {
        self.linked.as_deref().or(self.etag.as_deref()).filter(|tag| !tag.starts_with("W/"))
    }
}

/// An HTTP status as the cause of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}", self.0)
    }
}

impl std::error::Error for Status {}

/// Returns the HTTP status that caused an error.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    error.cause::<Status>().map(|status| status.0)
}

/// Whether an error says that there is no such file: servers that do not list files refuse access instead.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(status_of(error), Some(401 | 403 | 404 | 410))
}

/// A failed attempt: the error, and the wait before another one makes sense.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) retry: Option<Option<Duration>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, retry: None }
    }
}

/// Returns the time without any byte after which a request is given up.
pub(super) fn patience() -> Duration {
    let seconds = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse::<f64>().ok());
    let wanted = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    wanted.filter(|wanted| !wanted.is_zero()).unwrap_or(limits::REQUEST_PATIENCE)
}

tokio::task_local! {
    /// The client of a task that has one of its own.
    pub(super) static CLIENT: Client;
}

/// Returns the client of a task: its own, or the common one.
fn client() -> Result<Client> {
    static COMMON: OnceLock<Result<Client>> = OnceLock::new();
    CLIENT.try_with(Client::clone).or_else(|_| COMMON.get_or_init(new_client).clone())
}

/// Returns a new client, which has connections of its own. It follows no redirects.
///
/// # Errors
/// The settings of the environment (proxies) are unusable.
pub(super) fn new_client() -> Result<Client> {
    /// Common to all clients: they share what they know of servers and certificates.
    static TLS: OnceLock<ClientConfig> = OnceLock::new();
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .tls_backend_preconfigured(TLS.get_or_init(certificates::settings).clone())
        .connect_timeout(patience())
        .read_timeout(patience())
        .user_agent(concat!("weigh/", env!("CARGO_PKG_VERSION")));
    builder.build().map_err(|error| io(format!("cannot prepare requests: {}", root_cause(&error))))
}

/// Performs a request, following redirects and trying again after failures that may pass.
///
/// # Errors
/// The server refuses or cannot be reached, or its answer is not what was asked for.
pub(super) async fn get(request: &Request) -> Result<Answer> {
    let begun = Instant::now();
    let most = most_time(request.range.as_ref().map_or(limits::LISTING_BYTES, |range| range.end.saturating_sub(range.start)));
    let mut attempt = 0;
    loop {
        let failed = match tokio::time::timeout(most, follow(request)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failed)) => failed,
            Err(_) => too_slow(most).into(),
        };
        let error = failed.error.in_file(&request.name);
        let Some(asked) = failed.retry else { return Err(error) };
        let wait = asked.unwrap_or(limits::RETRY_WAIT * (1 << attempt));
        attempt += 1;
        if attempt > limits::RETRIES || begun.elapsed() + wait > limits::RETRY_TIME {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
    }
}

/// Returns the time in which a server has to send so many bytes.
pub(super) fn most_time(bytes: u64) -> Duration {
    limits::REQUEST_TIME + Duration::from_secs(bytes / limits::LEAST_BYTES_PER_SECOND)
}

/// Returns the error for a server that took longer.
pub(super) fn too_slow(most: Duration) -> Error {
    io(format!("the server did not finish its answer within {} seconds", most.as_secs()))
}

/// Follows redirects to the answer.
async fn follow(request: &Request) -> Result<Answer, Failed> {
    let mut url = request.url.clone();
    let mut authorization = request.authorization.clone();
    let mut linked = None;
    let mut commit = None;
    for _ in 0..=limits::REDIRECTS {
        let response = send(request, &url, authorization.as_ref()).await?;
        let headers = response.headers();
        linked = linked.or_else(|| text_of(headers, "x-linked-etag"));
        commit = commit.or_else(|| text_of(headers, "x-repo-commit"));
        if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED {
            let next = target(&url, headers)?;
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
            continue;
        }
        let mut answer = accept(request, response, url)?;
        if linked.is_some() {
            answer.identity.linked = linked;
        }
        answer.commit = commit;
        if let Some(body) = answer.body.take_if(|_| !request.later) {
            answer.bytes = Some(body.read().await?);
        }
        return Ok(answer);
    }
    Err(io(format!("more than {} redirects", limits::REDIRECTS)).into())
}

/// Returns where a redirect leads.
fn target(from: &Url, headers: &HeaderMap) -> Result<Url> {
    let location = text_of(headers, "location").ok_or_else(|| io("expected the target of a redirect, found none"))?;
    let mut next = from.join(&location).map_err(|error| io(format!("expected the URL of a redirect, found another text: {error}")))?;
    let _ = next.set_username("");
    let _ = next.set_password(None);
    match (from.scheme(), next.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(next),
        _ => Err(io(format!("expected a redirect to https, found one to {}", text::shorten(next.scheme())))),
    }
}

async fn send(request: &Request, url: &Url, authorization: Option<&HeaderValue>) -> Result<Response, Failed> {
    let mut builder = client()?.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if let Some(Range { start, end }) = &request.range {
        builder = builder.header(header::RANGE, format!("bytes={start}-{}", end.saturating_sub(1)));
    }
    if let Some(tag) = &request.unless {
        builder = builder.header(header::IF_NONE_MATCH, tag);
    }
    if let Some(value) = authorization {
        builder = builder.header(header::AUTHORIZATION, value.clone());
    }
    let sent = builder.send().await;
    sent.map_err(|error| {
        let host = url.host_str().unwrap_or_default();
        let message = match () {
            () if error.is_timeout() => format!("no answer from {host} within {} seconds", patience().as_secs_f64()),
            () if error.is_connect() => format!("cannot connect to {host}: {}", root_cause(&error)),
            () => format!("the request to {host} failed: {}", root_cause(&error)),
        };
        Failed { error: io(message), retry: Some(None) }
    })
}

/// Reads the start of an answer that is not a redirect.
fn accept(request: &Request, response: Response, url: Url) -> Result<Answer, Failed> {
    let headers = response.headers();
    let next = next_page(headers, &url);
    let mut identity = Identity { len: None, linked: None, etag: text_of(headers, "etag"), modified: text_of(headers, "last-modified") };
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(io("expected the bytes of the file, found them compressed").into());
    }
    let answer = |body, identity| Ok(Answer { bytes: None, body, identity, url, next, commit: None });
    let wanted = request.range.clone().unwrap_or(0..limits::LISTING_BYTES);
    let body = match (response.status(), &request.range) {
        (StatusCode::NOT_MODIFIED, _) if request.unless.is_some() => return answer(None, identity),
        (StatusCode::PARTIAL_CONTENT, Some(range)) => {
            let (sent, total) = content_range(headers)?;
            if sent.start != range.start || sent.end > range.end || sent.end < range.end.min(total) {
                return Err(io(format!("expected bytes {range:?} of the file, found bytes {sent:?}")).into());
            }
            identity.len = Some(total);
            sent
        }
        (StatusCode::OK, None) => 0..response.content_length().unwrap_or(limits::LISTING_BYTES + 1),
        (StatusCode::OK, Some(range)) if range.start == 0 => {
            let len = response.content_length().ok_or_else(|| io("the server does not say how long the file is"))?;
            identity.len = Some(len);
            0..len.min(range.end)
        }
        (StatusCode::OK, Some(_)) => {
            let error = io("the server does not send parts of files").hint("download the file, and give its path");
            return Err(error.into());
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) => {
            let len = text_of(headers, "content-range").and_then(|range| range.strip_prefix("bytes */")?.parse::<u64>().ok());
            if len == Some(0) && range.start == 0 {
                identity.len = len;
                return answer(Some(Body { response, most: 0, left: 0, exact: true }), identity);
            }
            let found = len.map_or("fewer".to_owned(), |len| len.to_string());
            return Err(io(format!("expected {} bytes of the file, found {found} (416)", range.end)).caused_by(Status(416)).into());
        }
        (status, _) => return Err(refusal(request, status, headers)),
    };
    let exact = request.range.is_some();
    let most = if exact { body.end - body.start } else { wanted.end };
    answer(Some(Body { response, most, left: most, exact }), identity)
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    /// Number of bytes; at most as many, if it need not be exact.
    most: u64,
    /// Number of bytes that have not been received.
    left: u64,
    exact: bool,
}

impl Body {
    /// Receives the next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection fails, or the body is shorter or longer than expected.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        let most = self.most;
        let cut = |found: u64, cause: String| Failed {
            error: Error::truncated(format!("the answer ended after {found} of {most} bytes{cause}")),
            retry: Some(None),
        };
        // A connection whose body was read to its end is used again.
        if self.left == 0 && self.exact && self.response.content_length() != Some(most) {
            return Ok(None);
        }
        let received = self.response.chunk().await.map_err(|error| cut(most - self.left, format!(": {}", root_cause(&error))))?;
        let Some(mut bytes) = received else {
            return if self.exact && self.left > 0 { Err(cut(most - self.left, String::new())) } else { Ok(None) };
        };
        if !self.exact && bytes.len() as u64 > self.left {
            return Err(Error::limit(format!("expected an answer of at most {most} bytes, found a longer one")).into());
        }
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Receives all bytes.
    async fn read(mut self) -> Result<Vec<u8>, Failed> {
        /// Bytes reserved before they arrive.
        const AHEAD: u64 = 8 << 20;
        let most = self.most;
        let mut all = buffers::take(if self.exact { most.min(AHEAD) } else { 0 } as usize)?;
        while let Some(bytes) = self.next().await? {
            all.try_reserve(bytes.len()).map_err(|_| Error::limit(format!("expected memory for {most} bytes")))?;
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

/// Returns the range of a partial answer, and the length of the whole file.
fn content_range(headers: &HeaderMap) -> Result<(Range<u64>, u64)> {
    let value = text_of(headers, "content-range").unwrap_or_default();
    let parsed = || {
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?);
        (first <= last && last < total).then_some((first..last + 1, total))
    };
    let found = parsed();
    found.ok_or_else(|| io(format!("expected the range and the length of the file, found {}", text::shorten(&value))))
}

/// Returns the next page that a `Link` header names, on the same host.
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    let links = text_of(headers, "link")?;
    let link = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let next = url.join(link.split_once('<')?.1.split_once('>')?.0).ok()?;
    (next.origin() == url.origin()).then_some(next)
}

/// Words the refusal of a request.
fn refusal(request: &Request, status: StatusCode, headers: &HeaderMap) -> Failed {
    let code = text_of(headers, "x-error-code").unwrap_or_default();
    let number = status.as_u16();
    let given = request.authorization.is_some();
    let token = || match (request.hub, given) {
        (true, true) => Hint::CheckToken,
        (true, false) => Hint::SetToken,
        (false, _) => "the name and the password may be in the URL: https://NAME:PASSWORD@HOST/...".into(),
    };
    let (message, hint) = match (code.as_str(), number) {
        ("GatedRepo", _) => ("access to the model has to be asked for".to_owned(), Some(Hint::AcceptTerms(model_page(&request.url)))),
        ("RepoNotFound", _) => ("the Hub has no such model, or it is private".to_owned(), Some(token())),
        ("RevisionNotFound", _) => ("the model has no such revision".to_owned(), None),
        ("EntryNotFound", _) => ("the model has no such file".to_owned(), None),
        (_, 401) => ("the server asks who is reading".to_owned(), Some(token())),
        (_, 403) => ("the server refuses access".to_owned(), given.then(token)),
        (_, 404 | 410) => ("the server has no such file".to_owned(), None),
        (_, 408 | 500..=599) => ("the server failed".to_owned(), Some("try again later".into())),
        (_, 429) => ("the server has had too many requests".to_owned(), Some("try again later".into())),
        _ => ("the server did not send the file".to_owned(), None),
    };
    let mut error = io(format!("{message} ({number})")).caused_by(Status(number));
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    let asked = text_of(headers, "retry-after").and_then(|wait| wait.trim().parse().ok()).map(Duration::from_secs);
    let retry = matches!(number, 408 | 429 | 500 | 502 | 503 | 504).then_some(asked);
    Failed { error, retry }
}

/// Returns the page of the model that a URL of the Hub is of: its first two path segments.
fn model_page(url: &Url) -> String {
    let names: Vec<&str> = url.path_segments().into_iter().flatten().filter(|part| !matches!(*part, "api" | "models")).take(2).collect();
    format!("{}/{}", url.origin().ascii_serialization(), names.join("/"))
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

pub(super) fn io(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, message)
}

/// Returns the innermost cause of an error, which names no URL.
fn root_cause(error: &reqwest::Error) -> String {
    let Some(mut cause) = std::error::Error::source(error) else { return "the exchange with the server failed".to_owned() };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Returns the error for a file of which two answers are of different versions.
pub(super) fn changed(path: &Path) -> Error {
    io("the file changed while it was read").in_file(path).hint("run it again when nothing writes to the file")
}
