//! Files mapped into memory, read-only. The only unsafe code outside `codec/simd/`.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
#[cfg(unix)]
use std::sync::{OnceLock, TryLockError};

use crate::base::bytes::SharedBytes;
use crate::base::{Error, Result, text};
use crate::source::file::{Input, open_regular};

/// A regular file, mapped whole and read-only. Opening costs no read: pages come in when they are touched. No descriptor is kept, so
/// that a model may have thousands of files.
#[derive(Debug)]
pub struct Map {
    input: Input,
    mmap: Option<memmap2::Mmap>,
}

/// What the handler of SIGBUS says of each mapping: by the address of its first byte, its length and the message.
static MAPPED: Mutex<BTreeMap<usize, (usize, String)>> = Mutex::new(BTreeMap::new());

fn mapped() -> MutexGuard<'static, BTreeMap<usize, (usize, String)>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Map {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The path is not a regular file (a FIFO, a device, a folder: said at once, never waited for), or the system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&open_regular(path)?, path)
    }

    /// Maps an open regular file; `path` is what it was opened by.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
        let mmap = if found.len() == 0 {
            None // an empty mapping is an error on Linux
        } else {
            // SAFETY: the mapping is read-only, and lives as long as the slices taken from it. It is shared: whoever writes to the file
            // changes its bytes at any moment, between two reads of a byte too. So nothing that was checked in the mapping is relied on
            // later: texts are copied (`bytes::copy`, `Cursor::text`) and checked on the copy, counts and offsets are read once into
            // numbers. What is read in place are numbers, for which all bits will do; every access is checked against the length of
            // the mapping, which does not change. A file that shrinks raises SIGBUS, which `exit_on_truncation` handles.
            Some(unsafe { memmap2::Mmap::map(file) }.map_err(|error| Error::io("cannot map", path, error))?)
        };
        if let Some(mmap) = &mmap {
            let name = path.to_string_lossy();
            let message = format!("weigh: {}: the file became shorter or unreadable while it was being read\n", text::escape(&name));
            mapped().insert(mmap.as_ptr() as usize, (mmap.len(), message));
        }
        Ok(Self { input: Input::new(path, found), mmap })
    }

    /// The file, and what it looked like when it was opened.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Opens the file once more, for calls that copy between files inside the kernel; none where its path leads elsewhere by now.
    pub fn reopen(&self) -> Option<File> {
        let file = open_regular(self.path()).ok()?;
        file.metadata().is_ok_and(|found| self.input.is(&found)).then_some(file)
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        self.input.path()
    }

    /// The length of the file, in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.mmap.is_none()
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        self.mmap.as_deref().unwrap_or_default()
    }

    /// Tells the kernel that the file will be read from front to back. Advice only: a refusal changes nothing.
    #[cfg(unix)]
    pub fn will_read_in_order(&self) {
        if let Some(mmap) = &self.mmap {
            let _ = mmap.advise(memmap2::Advice::Sequential);
        }
    }
}

impl SharedBytes for Map {
    fn bytes(&self) -> &[u8] {
        Self::bytes(self)
    }

    fn path(&self) -> Option<&Path> {
        Some(Self::path(self))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(mmap) = &self.mmap {
            mapped().remove(&(mmap.as_ptr() as usize));
        }
    }
}

/// Called before the process ends because a mapped file became shorter.
#[cfg(unix)]
static CLEAN_UP: OnceLock<fn()> = OnceLock::new();

/// Takes a lock inside the handler of a signal, where waiting is not allowed: tries for about a second. The thread that has it may be the
/// one that was interrupted.
#[cfg(unix)]
pub(crate) fn try_lock<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..1_000 {
        match lock.try_lock() {
            Ok(held) => return Some(held),
            Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    None
}

/// From here on, a file that shrinks while it is mapped ends the process with one line on standard error and status 2, instead of a
/// crash by SIGBUS; `clean_up` is called first, inside the signal's handler. For the command line: a library must not change its host's
/// signals.
#[cfg(unix)]
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

/// Takes no memory and waits for no lock for long. Whoever touches a mapped page holds none of the two locks that are tried here.
#[cfg(unix)]
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
    use std::sync::Arc;

    use super::*;
    use crate::base::bytes::Endian;
    use crate::model::metadata::{Array, ValueType};

    #[test]
    fn folders_and_devices_are_refused_at_once() {
        for path in ["/", "/dev/zero"] {
            assert!(Map::open(Path::new(path)).unwrap_err().to_string().contains("expected a regular file"), "{path}");
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Map::open(file.path()).unwrap().bytes().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn strings_of_a_file_that_changes_meanwhile_are_read_as_they_were() {
        use std::os::unix::fs::FileExt;
        let bytes: Vec<u8> = ["aa", "bb", "cc"].iter().flat_map(|text| [&2u64.to_le_bytes(), text.as_bytes()].concat()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let map = Arc::new(Map::open(file.path()).unwrap());
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
