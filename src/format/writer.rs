//! Saving: whole or not at all.
//!
//! The bytes go to a temporary file beside the target, which is synced and then renamed over it. A full
//! disk, a crash or a power cut leaves the old file as it was.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::Image;

/// An index that could not be saved; what stood at the path is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("cannot save {}: {source}; what was there is unchanged", path.display())]
pub struct SaveError {
    /// The target.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

impl Image {
    /// Writes the image to a file, one entry of its metadata as given; an empty list is none.
    pub fn save(&self, path: &Path, (key, value): (&str, &str)) -> Result<(), SaveError> {
        let whole = self.check_length().map_err(std::io::Error::other);
        let done = if whole.is_err() {
            whole
        } else if self.metadata(key).unwrap_or("[]") == value {
            write_atomically(path, |file| file.write_all(self.bytes()))
        } else {
            let header = self.header_with(key, value);
            write_atomically(path, |file| {
                file.write_all(&header)?;
                file.write_all(&self.bytes()[self.data_start()..])
            })
        };
        done.map_err(|source| SaveError { path: path.to_owned(), source })
    }
}

/// Temporary files being written.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes the temporary files of saves that are under way in this process, for programs that are about to end, at an
/// interrupt for instance. Saves end with an error, and nothing can be saved while `and_then` runs, which may end the process.
pub fn discard_unfinished<T>(and_then: impl FnOnce() -> T) -> T {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    for path in std::mem::take(&mut *unfinished) {
        // What cannot be removed is left: there is nobody to tell.
        let _ = std::fs::remove_file(path);
    }
    and_then()
}

/// Creates or replaces `path` with what `fill` writes, atomically.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    // A link stays a link: what it points to is replaced.
    let target = path.canonicalize();
    let path = target.as_deref().unwrap_or(path);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(std::io::Error::other("it is a folder"));
    }
    let mut options = tempfile::Builder::new();
    options.prefix(".nearfield-").suffix(".tmp");
    #[cfg(unix)]
    let mode = {
        use std::os::unix::fs::PermissionsExt;
        std::fs::Permissions::from_mode(0o666)
    };
    #[cfg(unix)]
    options.permissions(mode);
    let unfinished = || UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut temporary = {
        let mut unfinished = unfinished();
        let temporary = options.tempfile_in(folder)?;
        unfinished.insert(temporary.path().to_owned());
        temporary
    };
    let name = temporary.path().to_owned();
    let filled = fill(temporary.as_file_mut()).and_then(|()| {
        if let Ok(old) = path.metadata() {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        temporary.as_file().sync_all()
    });
    // While the list is held nobody discards it.
    let mut unfinished = unfinished();
    unfinished.remove(&name);
    filled?;
    temporary.persist(path).map_err(|e| e.error)?;
    drop(unfinished);
    // The rename itself is made durable where the system lets folders be synced.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
