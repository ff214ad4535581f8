//! A web server on loopback for tests: ranges, entity tags, redirects, latency, and whatever fault a test asks for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path, decoded, without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The value of a name in the query.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first and the last byte asked for.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    /// Number of bytes of the body that are sent before the connection is closed, if not all.
    pub(crate) cut: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Bytes(Vec<u8>),
    /// Bytes of a file: from where, and how many.
    Part(PathBuf, u64, u64),
    /// Zeros without an end, without a length.
    Endless,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Bytes(body.into()), cut: None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::new(302, "").with("location", to)
    }

    /// A file, or the range of it that was asked for.
    pub(crate) fn file(asked: &Asked, path: &Path) -> Self {
        let Ok(found) = fs::metadata(path) else { return Self::new(404, "no such file") };
        if !found.is_file() {
            return Self::new(404, "no such file");
        }
        let (len, tag) = (found.len(), tag_of(path));
        if asked.header("if-none-match") == Some(&tag) {
            return Self::new(304, "").with("etag", tag);
        }
        if asked.header("if-match").is_some_and(|wanted| wanted != tag) {
            return Self::new(412, "");
        }
        let (status, start, end) = match asked.range() {
            Some((first, _)) if first >= len => return Self::new(416, "").with("content-range", format!("bytes */{len}")),
            Some((first, last)) => (206, first, len.min(last + 1)),
            None => (200, 0, len),
        };
        let reply = Self { status, headers: Vec::new(), body: Body::Part(path.to_path_buf(), start, end - start), cut: None };
        let reply = reply.with("etag", tag).with("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        if status == 206 { reply.with("content-range", format!("bytes {start}-{}/{len}", end - 1)) } else { reply }
    }
}

/// The entity tag of a file.
pub(crate) fn tag_of(path: &Path) -> String {
    let found = fs::metadata(path).unwrap();
    format!("\"{:x}-{:x}-{:x}\"", found.ino(), found.len(), found.mtime_nsec())
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) asked: Asked,
    pub(crate) status: u16,
    /// Number of bytes of its body; 0 if it has no end.
    pub(crate) bytes: u64,
}

/// A running server. It ends with the process.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Server {
    pub(crate) fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", Duration::ZERO, handler)
    }

    /// Answers each request after a delay.
    pub(crate) fn start_at(address: &str, delay: Duration, handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, shared): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&shared));
                std::thread::spawn(move || serve(&stream, delay, &*handler, &log));
            }
        });
        Self { address, log }
    }

    /// Serves the files of a folder.
    pub(crate) fn of_folder(folder: &Path) -> Self {
        let folder = folder.to_path_buf();
        Self::start(move |asked| Reply::file(asked, &folder.join(asked.path.trim_start_matches('/'))))
    }

    /// Serves a Hub: the models in `folder/ORG/NAME`.
    pub(crate) fn hub(folder: &Path) -> Self {
        let folder = folder.to_path_buf();
        Self::start(move |asked| hub(asked, &folder))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

/// Answers as a Hub does.
pub(crate) fn hub(asked: &Asked, folder: &Path) -> Reply {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["api", "models", org, name, "tree", _] => match files_below(&folder.join(org).join(name)) {
            files if files.is_empty() => Reply::new(404, "").with("x-error-code", "RepoNotFound"),
            files => Reply::new(200, listing(&folder.join(org).join(name), &files)).with("content-type", "application/json"),
        },
        [org, name, "resolve", _, ref path @ ..] => {
            let file = folder.join(org).join(name).join(path.join("/"));
            match file.is_file() {
                true => Reply::file(asked, &file).with("x-repo-commit", "0123456789abcdef0123456789abcdef01234567"),
                false => Reply::new(404, "").with("x-error-code", "EntryNotFound"),
            }
        }
        _ => Reply::new(404, ""),
    }
}

/// The bucket `models` of S3: the files of a folder, and uploads that are not completed.
#[derive(Clone)]
pub(crate) struct Bucket {
    folder: PathBuf,
    uploads: Arc<Mutex<BTreeMap<String, Parts>>>,
}

/// The parts of an upload, by number.
type Parts = BTreeMap<u64, Vec<u8>>;

impl Bucket {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), uploads: Arc::default() }
    }

    /// The number of uploads that are neither completed nor aborted.
    pub(crate) fn pending(&self) -> usize {
        self.uploads.lock().unwrap().len()
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let file = asked.path.strip_prefix("/models/").map(|key| self.folder.join(key));
        let mut uploads = self.uploads.lock().unwrap();
        let no_upload = || Reply::new(404, "<Error><Code>NoSuchUpload</Code></Error>");
        match (&*asked.method, file, asked.value("uploadId")) {
            ("GET", ..) => {
                drop(uploads);
                read_bucket(asked, &self.folder)
            }
            ("POST", Some(_), None) => {
                let id = format!("id{}", NEXT.fetch_add(1, Ordering::Relaxed));
                uploads.insert(id.clone(), Parts::new());
                Reply::new(200, format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
            }
            ("PUT", Some(_), Some(id)) => match uploads.get_mut(id) {
                Some(parts) => {
                    let number = asked.value("partNumber").unwrap();
                    parts.insert(number.parse().unwrap(), asked.body.clone());
                    Reply::new(200, "").with("etag", format!("\"{number}\""))
                }
                None => no_upload(),
            },
            ("POST", Some(file), Some(id)) => match uploads.remove(id) {
                Some(parts) => {
                    let said = String::from_utf8(asked.body.clone()).unwrap();
                    assert_eq!(said.matches("<PartNumber>").count(), parts.len());
                    let most = parts.len() as u64;
                    assert!(parts.iter().all(|(number, bytes)| *number == most || bytes.len() >= 5 << 20), "S3 refuses smaller parts");
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(&file, parts.into_values().collect::<Vec<_>>().concat()).unwrap();
                    Reply::new(200, "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>")
                }
                None => no_upload(),
            },
            ("DELETE", Some(_), Some(id)) => {
                uploads.remove(id);
                Reply::new(204, "")
            }
            ("DELETE", Some(file), None) => {
                let _ = fs::remove_file(file);
                Reply::new(204, "")
            }
            _ => Reply::new(405, ""),
        }
    }
}

/// The number of the next upload.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Answers as S3 does to who reads: `/models/KEY`, and lists of a folder.
fn read_bucket(asked: &Asked, folder: &Path) -> Reply {
    let Some(key) = asked.path.strip_prefix("/models/") else {
        let query = asked.query.replace("%2F", "/");
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default().trim_end_matches('/').to_owned();
        let inner = folder.join(&prefix);
        let slash = if prefix.is_empty() { "" } else { "/" };
        let mut xml = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        for entry in fs::read_dir(&inner).into_iter().flatten().flatten() {
            let (key, path) = (format!("{prefix}{slash}{}", entry.file_name().to_str().unwrap()), entry.path());
            xml += &match path.is_dir() {
                true => format!("<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"),
                false => {
                    let (size, tag) = (fs::metadata(&path).unwrap().len(), tag_of(&path).replace('"', "&quot;"));
                    format!(
                        "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{tag}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                    )
                }
            };
        }
        return Reply::new(200, xml + "</ListBucketResult>");
    };
    Reply::file(asked, &folder.join(key))
}

/// The files in a folder and in those in it, as relative paths.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => found.extend(files_below(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// The Hub's list of files.
pub(crate) fn listing(folder: &Path, files: &[String]) -> String {
    let entry = |file: &String| {
        let path = folder.join(file);
        let oid = tag_of(&path);
        serde_json::json!({ "type": "file", "path": file, "size": fs::metadata(&path).unwrap().len(), "oid": oid.trim_matches('"') })
    };
    serde_json::Value::Array(files.iter().map(entry).collect()).to_string()
}

fn serve(stream: &TcpStream, delay: Duration, handler: &Handler, log: &Mutex<Vec<Seen>>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader) {
        std::thread::sleep(delay);
        let reply = handler(&asked);
        let len = match &reply.body {
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Part(_, _, len) => Some(*len),
            Body::Endless => None,
        };
        let bytes = reply.cut.unwrap_or(u64::MAX).min(len.unwrap_or(0));
        log.lock().unwrap().push(Seen { asked, status: reply.status, bytes });
        let open = send(stream, &reply, len);
        if !open {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut asked = Asked { method, path: decode(path), query: query.to_owned(), headers: BTreeMap::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => asked.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => {
                asked.body = vec![0; asked.header("content-length").map_or(0, |len| len.parse().unwrap())];
                reader.read_exact(&mut asked.body).ok()?;
                return Some(asked);
            }
        };
    }
}

fn decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends a reply; returns whether the connection stays open.
fn send(mut stream: &TcpStream, reply: &Reply, len: Option<u64>) -> bool {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let said = reply.headers.iter().any(|(name, _)| name == "content-length");
    if let Some(len) = len.filter(|_| !said && reply.status != 304) {
        head += &format!("content-length: {len}\r\n");
    }
    if stream.write_all((head + "\r\n").as_bytes()).is_err() {
        return false;
    }
    let most = reply.cut.unwrap_or(u64::MAX).min(len.unwrap_or(u64::MAX));
    let mut source: Box<dyn Read> = match &reply.body {
        Body::Bytes(bytes) => Box::new(&bytes[..]),
        Body::Part(path, start, _) => {
            let mut file = File::open(path).unwrap();
            file.seek(SeekFrom::Start(*start)).unwrap();
            Box::new(file)
        }
        Body::Endless => Box::new(std::io::repeat(0)),
    };
    let mut buffer = vec![0; 256 << 10];
    let mut sent = 0;
    while sent < most {
        let want = buffer.len().min(usize::try_from(most - sent).unwrap_or(usize::MAX));
        let Ok(read @ 1..) = source.read(&mut buffer[..want]) else { break };
        if stream.write_all(&buffer[..read]).is_err() {
            return false;
        }
        sent += read as u64;
    }
    reply.cut.is_none() && len.is_some()
}
