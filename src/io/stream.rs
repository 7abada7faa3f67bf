//! Input that is not a regular file: pipes, process substitution, `/dev/stdin`.
//!
//! A pipe cannot be mapped, so it is read into memory. It has no length, so the machine's memory bounds what is read. It often has
//! no extension (`/dev/fd/63`); then it must hold a NumPy array, which its first bytes tell. Opening a FIFO waits for a writer, as
//! in every Unix program.

use std::{
    fs::{File, FileType},
    io::{Error, ErrorKind, Read},
    path::Path,
};

use super::npy;

/// Maximum bytes read from a pipe: vectors beyond that belong in a file, which is mapped.
const BYTES_MAX: u64 = 16 << 30;

/// Kind of input at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    File,
    /// Bytes that are read once, from front to end.
    Stream,
}

/// Returns the kind of input at a path. It does not open it: that may wait for a writer.
pub(super) fn place(path: &Path) -> Result<Place, Error> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind {
        _ if kind.is_file() => Ok(Place::File),
        _ if kind.is_dir() => Err(Error::from(ErrorKind::IsADirectory)),
        _ if is_stream(kind) => Ok(Place::Stream),
        _ => Err(Error::other("it is neither a file nor a pipe")),
    }
}

#[cfg(unix)]
fn is_stream(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}

#[cfg(not(unix))]
fn is_stream(_: FileType) -> bool {
    true
}

/// Why a format cannot come from a pipe.
pub(super) fn out_of_order(extension: &str) -> String {
    format!(
        "expected a regular file, got a pipe, which cannot hold .{extension}: its parts are read out of order"
    )
}

/// Why a pipe is not read.
#[derive(Debug)]
pub(super) enum StreamError {
    Io(Error),
    Refused(String),
}

impl From<Error> for StreamError {
    fn from(e: Error) -> Self {
        Self::Io(e)
    }
}

/// Reads a pipe to its end; `is_named`: an extension says what it holds, so that it need not be a NumPy array.
pub(super) fn read(path: &Path, is_named: bool) -> Result<Vec<u8>, StreamError> {
    let most = available_memory().map_or(BYTES_MAX, |free| BYTES_MAX.min(free / 2));
    read_from(File::open(path)?, is_named, most)
}

fn read_from(mut stream: impl Read, is_named: bool, most: u64) -> Result<Vec<u8>, StreamError> {
    let mut bytes = Vec::new();
    if !is_named {
        // Before the rest, which may have no end.
        stream.by_ref().take(npy::MAGIC.len() as u64).read_to_end(&mut bytes)?;
        if !npy::is_npy(&bytes) {
            return Err(StreamError::Refused(
                "expected a NumPy array from a pipe without an extension: give a regular file, or pipe a .npy".to_owned(),
            ));
        }
    }
    // One byte more than allowed tells that there are more.
    stream.take((most + 1).saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(StreamError::Refused(format!(
            "expected at most {most} bytes from a pipe (16 GiB, or half of the free memory), got more: give a regular file, which is mapped"
        )));
    }
    Ok(bytes)
}

/// Bytes of memory that are free for new use, where the system says so.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Checks that a regular file begins like a NumPy array.
pub(super) fn begins_like_npy(path: &Path) -> bool {
    let mut magic = [0; npy::MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && npy::is_npy(&magic)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, repeat};

    use super::*;

    #[track_caller]
    fn refused(read: Result<Vec<u8>, StreamError>) -> String {
        match read {
            Err(StreamError::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn streams_without_end_are_refused() {
        let reason = refused(read_from(repeat(7), true, 1 << 20));
        assert!(reason.contains("at most 1048576 bytes"), "{reason}");
        let reason = refused(read_from(repeat(7), false, u64::MAX - 1));
        assert!(reason.contains("pipe a .npy"), "{reason}");
        let reason = refused(read_from(npy::MAGIC.chain(repeat(0)), false, 1000));
        assert!(reason.contains("at most 1000 bytes"), "{reason}");
    }

    #[test]
    fn streams_are_read_to_their_end() {
        let bytes = [&npy::MAGIC[..], b"rest"].concat();
        for is_named in [true, false] {
            assert_eq!(read_from(Cursor::new(&bytes), is_named, bytes.len() as u64).unwrap(), bytes);
            refused(read_from(Cursor::new(&bytes), is_named, bytes.len() as u64 - 1));
        }
        assert_eq!(read_from(Cursor::new(b""), true, 10).unwrap(), b"");
        refused(read_from(Cursor::new(b""), false, 10));
    }
}
