//! Output in a bucket. Nothing can be renamed there: each file is uploaded as soon as it is written, and the uploads are completed together.

use std::fs::File;
use std::path::Path;

use crate::base::{Error, Result};
use crate::source::place;
use crate::source::remote::Upload;
use crate::write::output::{Output, Written, check};
use crate::write::signals;

impl Output {
    /// Whether the targets are in a bucket.
    pub(super) fn is_in_bucket(&self) -> bool {
        self.targets.first().is_some_and(|target| place::is_remote(&target.path))
    }

    /// Starts to upload a sealed file whose target is in a bucket, when the one before it is sent; its space on disk is then freed. Does
    /// nothing for a target on disk.
    ///
    /// # Errors
    /// The file is not sealed; or it or the one before it cannot be uploaded.
    pub fn upload(&mut self, index: usize) -> Result<()> {
        let (true, Some(target)) = (self.is_in_bucket(), self.targets.get(index)) else { return Ok(()) };
        let unreadable = |error| Error::io("cannot read back the file for", &target.path, error);
        let file = File::open(&self.sealed(index)?.path).map_err(unreadable)?;
        let uploads = self.written.iter_mut().flatten().filter_map(Written::upload);
        uploads.into_iter().try_for_each(Upload::wait)?;
        let upload = Upload::start(&target.path, file, target.bytes)?;
        if let Some(slot) = self.written.get_mut(index) {
            *slot = Some(Written::InBucket(upload));
        }
        Ok(())
    }

    /// Uploads what is not uploaded yet, and makes all files visible, in the order of the targets. The old files of a set are removed
    /// first, the last of them first, so that there never is a mixture.
    ///
    /// # Errors
    /// A file was not sealed, a target has appeared meanwhile, or the bucket refuses. New files are then removed again; old files of a set
    /// are gone if the bucket refuses only now.
    pub(super) fn complete_uploads(mut self) -> Result<()> {
        for index in 0..self.targets.len() {
            if !matches!(self.written.get(index), Some(Some(Written::InBucket(_)))) {
                self.upload(index)?;
            }
        }
        self.written.iter_mut().flatten().filter_map(Written::upload).try_for_each(Upload::wait)?;
        self.targets.first().iter().for_each(|target| place::refresh(&target.path));
        let is_set = self.targets.len() + self.superseded.len() > 1;
        let replaces = self.force && !is_set;
        let held = signals::hold(); // signals are handled before or after all of it
        let mut old: Vec<&Path> = Vec::new();
        for path in self.superseded.iter().chain(self.targets.iter().map(|target| &target.path)) {
            if !replaces && place::has_file(path)? {
                old.push(path);
            }
        }
        if let Some(path) = old.first().filter(|_| !self.force) {
            return Err(check::exists(path));
        }
        old.into_iter().rev().try_for_each(place::remove_file)?;
        let mut new: Vec<&Path> = Vec::new();
        for (target, written) in self.targets.iter().zip(self.written.drain(..)) {
            let Some(Written::InBucket(upload)) = written else { continue };
            // Whether a file whose upload fails at its end is there is not known.
            new.extend((!replaces).then_some(&*target.path));
            if let Err(error) = upload.complete() {
                for path in new.into_iter().rev() {
                    let _ = place::remove_file(path);
                }
                return Err(error);
            }
        }
        drop(held);
        self.targets.first().iter().for_each(|target| place::refresh(&target.path));
        Ok(())
    }
}

impl Written {
    fn upload(&mut self) -> Option<&mut Upload> {
        match self {
            Self::InBucket(upload) => Some(upload),
            Self::OnDisk(_) => None,
        }
    }
}
