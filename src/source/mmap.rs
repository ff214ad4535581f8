//! Read-only memory-mapped files. The only unsafe code outside `codec/simd/`.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::bytes::SharedBytes;
use crate::base::threads::{lock, try_lock};
use crate::base::{Error, Result, text};
use crate::source::data::Data;
use crate::source::file::Input;
use crate::source::read::{Source, slice};

/// A regular file, mapped read-only. Opening reads nothing: pages are loaded on access. No descriptor is kept open, so that a model may
/// have thousands of files.
#[derive(Debug)]
pub(super) struct Mapping {
    input: Input,
    mmap: Option<memmap2::Mmap>,
}

/// The message of the SIGBUS handler for each mapping: by address, with the length.
static MAPPED: Mutex<BTreeMap<usize, (usize, String)>> = Mutex::new(BTreeMap::new());

fn mapped() -> MutexGuard<'static, BTreeMap<usize, (usize, String)>> {
    lock(&MAPPED)
}

impl Mapping {
    /// Maps an open regular file; `path` is the path at which it was opened.
    ///
    /// # Errors
    /// A system call fails.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
        let mmap = if found.len() == 0 {
            None // an empty mapping is an error on Linux
        } else {
            // SAFETY: the mapping is read-only, and lives as long as the slices taken from it. It is shared: whoever writes to the file
            // changes its bytes at any moment, between two reads of a byte too. So nothing that was checked in the mapping is relied on
            // later: texts are copied (`bytes::copy`, `Cursor::text`, `json::from_bytes`) and checked on the copy, counts and offsets are
            // read once into numbers. What is read in place are numbers, for which all bits will do; every access is checked against
            // the length of the mapping, which does not change. A file that shrinks raises SIGBUS, which `exit_on_truncation` handles.
            Some(unsafe { memmap2::Mmap::map(file) }.map_err(|error| Error::io("cannot map", path, error))?)
        };
        if let Some(mmap) = &mmap {
            let name = path.to_string_lossy();
            let message = format!("weigh: {}: the file became shorter or unreadable while it was being read\n", text::escape(&name));
            mapped().insert(mmap.as_ptr() as usize, (mmap.len(), message));
        }
        Ok(Self { input: Input::new(path, found), mmap })
    }

    fn bytes(&self) -> &[u8] {
        self.mmap.as_deref().unwrap_or_default()
    }
}

impl Source for Mapping {
    fn path(&self) -> &Path {
        self.input.path()
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Data<'_>> {
        slice(self.bytes(), &range, self.input.path())
    }

    fn file(&self) -> Option<&Input> {
        Some(&self.input)
    }

    fn shared(self: Arc<Self>) -> Option<Arc<dyn SharedBytes>> {
        Some(self)
    }
}

impl SharedBytes for Mapping {
    fn bytes(&self) -> &[u8] {
        Self::bytes(self)
    }

    fn path(&self) -> &Path {
        self.input.path()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(mmap) = &self.mmap {
            mapped().remove(&(mmap.as_ptr() as usize));
        }
    }
}

/// Called before the process exits because a mapped file was truncated.
static CLEAN_UP: OnceLock<fn()> = OnceLock::new();

/// Makes truncation of a mapped file end the process with one line on standard error and status 2, rather than a SIGBUS crash; `clean_up`
/// is called first, in the signal handler. For the command line: a library must not change signal handling in its host.
pub fn exit_on_truncation(clean_up: fn()) {
    let _ = CLEAN_UP.set(clean_up);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    // SAFETY: all zeros are a `sigaction` without flags and with an empty mask; the handler has the signature that SA_SIGINFO asks for,
    // calls only what may be called in one, and does not return.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Does not allocate, and waits for locks only briefly. A thread that accesses a mapped page holds neither of the two locks tried here.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    use std::sync::atomic::{AtomicBool, Ordering};

    static FIRST: AtomicBool = AtomicBool::new(true);
    if !FIRST.swap(false, Ordering::Relaxed) {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1)); // another thread is about to end the process
        }
    }
    // SAFETY: with SA_SIGINFO the pointer is to the signal's information, which for SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(clean_up) = CLEAN_UP.get() {
        clean_up();
    }
    let mapped = try_lock(&MAPPED);
    let found = mapped.as_ref().and_then(|mapped| mapped.range(..=address).next_back());
    let message = match found.filter(|(start, (len, _))| address - **start <= *len) {
        Some((_, (_, message))) => message.as_str(),
        None => "weigh: a file became shorter or unreadable while it was being read\n",
    };
    // SAFETY: write and _exit may be called here, and the message has the length given.
    unsafe {
        libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        libc::_exit(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Endian;
    use crate::model::metadata::{Array, ValueType};
    use crate::source;

    #[test]
    fn folders_and_devices_are_refused_at_once() {
        for path in ["/", "/dev/zero"] {
            assert!(source::open(Path::new(path)).unwrap_err().to_string().contains("expected a regular file"), "{path}");
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = source::open(file.path()).unwrap();
        assert!(source.is_empty() && source.read(0..0).unwrap().is_empty() && source.read(0..1).is_err());
    }

    #[test]
    fn strings_of_a_file_that_changes_meanwhile_are_read_as_they_were() {
        use std::os::unix::fs::FileExt;
        let bytes: Vec<u8> = ["aa", "bb", "cc"].iter().flat_map(|text| [&2u64.to_le_bytes(), text.as_bytes()].concat()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let map = Arc::new(Mapping::of(file.as_file(), file.path()).unwrap());
        let array = Array::in_file(ValueType::String, 3, map.clone(), 0..bytes.len(), Endian::Little, true);
        let mut found = String::new();
        array
            .for_each_str(|_, text| {
                file.as_file().write_all_at(&[0xff; 30], 0).unwrap();
                found.push_str(text);
                Ok(())
            })
            .unwrap();
        assert_eq!((found.as_str(), map.bytes()[0]), ("aabbcc", 0xff));
        assert!(array.for_each_str(|_, _| Ok(())).is_err(), "now it is other bytes");
    }
}
