//! The objects of an HDF5 file, checked as they are read: the crate that reads them takes counts at their word, follows trees whose
//! nodes share children, and parses types within types by calling itself.

use std::{
    collections::HashSet,
    fs::File,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use hdf5_pure::{FormatError, ReadSeekSource, Source};

/// Bytes of a type, at most: those of numbers have 20, and each within another takes 8, and 12 kB of stack without optimisation.
const TYPE_MAX: usize = 640;

/// Bytes of an attribute, at most, as outside heaps.
const ATTRIBUTE_MAX: usize = 1 << 16;

/// Bytes of a name in a group, at most: every link to it is a copy.
const NAME_MAX: usize = 1024;

/// Bytes of a record in a tree, at least: such as have none are as many as the tree says.
const RECORD_MIN: u16 = 8;

/// Levels of a tree, at most: every one has some times the records of the one above.
const DEPTH_MAX: u16 = 16;

/// Bytes of what stands for an object of a heap, at most: 7 or 8 are usual, and from 18 on it may hold a large object itself.
const HEAP_ID_MAX: u16 = 17;

/// An array's bits of its length and of a block's, and an extensible one's smallest number of pointers, at most: 32, 10 and 4 are
/// usual. The crate lists all sizes that its blocks may have.
const BITS_MAX: u8 = 40;
const POINTERS_MAX: u8 = 16;

/// Filters of a chunk, at most.
const FILTERS_MAX: u8 = 32;

/// A file of which only so much is read in all, for trees may share nodes, and chunks bytes.
pub(super) struct Objects {
    file: ReadSeekSource<File>,
    left: AtomicU64,
    /// The heap of a group's names was read, so that they follow.
    names_follow: AtomicBool,
    /// Messages of the last newer header have the order of their creation.
    ordered: AtomicBool,
    /// Lengths of parts of older headers, which nothing else tells from other parts.
    older: Mutex<HashSet<u64>>,
}

impl Objects {
    /// Reads count as this many bytes more.
    const READ: u64 = 16;

    pub fn new(file: File) -> Result<Self, FormatError> {
        let file = ReadSeekSource::new(file)?;
        // Headers are read several times, trees twice, values once.
        let left = AtomicU64::new(file.len().saturating_mul(8).max(1 << 23));
        let (names_follow, ordered) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { file, left, names_follow, ordered, older: Mutex::new(HashSet::new()) })
    }

    /// Checks what was read as a part of an object, or of a tree.
    fn check(&self, part: &[u8]) -> Result<(), String> {
        let names = self.names_follow.swap(part.starts_with(b"HEAP"), Relaxed);
        if names && part.split(|&byte| byte == 0).any(|name| name.len() > NAME_MAX) {
            return Err(format!("expected names of at most {NAME_MAX} bytes, got more"));
        }
        match part {
            [0x89, b'H', b'D', b'F', _, _, _, _, version, rest @ ..] => {
                let sizes = if *version < 2 { rest.get(4..6) } else { rest.get(..2) };
                if sizes.is_some_and(|sizes| sizes != [8, 8]) {
                    return Err(format!("expected offsets and lengths of 8 bytes, got {sizes:?}"));
                }
            }
            [b'S', b'M', b'T', b'B', ..] => {
                // Of any length, anywhere in the file.
                return Err("expected no messages that objects share, got a table of them".to_owned());
            }
            [b'E', b'A', b'H', b'D', _, _, _, bits, _, _, pointers, block_bits, ..]
                if *pointers > POINTERS_MAX || *bits.max(block_bits) > BITS_MAX =>
            {
                return Err(format!(
                    "array: expected at most {BITS_MAX} bits and {POINTERS_MAX} pointers, got {bits}, {block_bits}, {pointers}"
                ));
            }
            [b'F', b'A', b'H', b'D', _, _, _, bits, ..] if *bits > BITS_MAX => {
                return Err(format!("array: expected at most {BITS_MAX} bits, got {bits}"));
            }
            [b'B', b'T', b'H', b'D', _, _, _, _, _, _, low, high, depth, more, ..]
                if u16::from_le_bytes([*low, *high]) < RECORD_MIN
                    || u16::from_le_bytes([*depth, *more]) > DEPTH_MAX =>
            {
                return Err(format!(
                    "tree: expected records of {RECORD_MIN} bytes or more and at most {DEPTH_MAX} levels"
                ));
            }
            [b'F', b'R', b'H', b'P', _, low, high, ..] if u16::from_le_bytes([*low, *high]) > HEAP_ID_MAX => {
                return Err(format!("heap: expected identifiers of at most {HEAP_ID_MAX} bytes"));
            }
            [b'O', b'H', b'D', b'R', _, flags, ..] => {
                self.ordered.store(flags & 4 != 0, Relaxed);
                let times = if flags & 32 == 0 { 0 } else { 16 };
                let phases = if flags & 16 == 0 { 0 } else { 4 };
                let at = 6 + times + phases + (1 << (flags & 3));
                self.check_messages(part.get(at..).unwrap_or_default(), false)?;
            }
            [b'O', b'C', b'H', b'K', messages @ ..] => self.check_messages(messages, false)?,
            // An attribute alone, or a link of a very long name.
            [1, _, ..] | [2..=3, 0..=3, ..] if part.len() > TYPE_MAX => {
                check_type(type_of_attribute(part))?;
                if part.len() > ATTRIBUTE_MAX {
                    return Err(format!(
                        "attribute: expected at most {ATTRIBUTE_MAX} bytes, got {}",
                        part.len()
                    ));
                }
            }
            // An older header's first 16 bytes.
            [1, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _] => {
                self.lengths().insert(u32::from_le_bytes([*a, *b, *c, *d]).into());
            }
            _ => {}
        }
        if self.lengths().contains(&(part.len() as u64)) {
            self.check_messages(part, true)?;
        }
        Ok(())
    }

    fn lengths(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the messages of a header. Each stands behind its kind, its length and more.
    fn check_messages(&self, mut messages: &[u8], is_older: bool) -> Result<(), String> {
        let before = if is_older {
            8
        } else if self.ordered.load(Relaxed) {
            6
        } else {
            4
        };
        loop {
            let (kind, length, flags) = match messages {
                [low, high, a, b, flags, ..] if is_older => {
                    (u16::from_le_bytes([*low, *high]), [*a, *b], flags)
                }
                [kind, a, b, flags, ..] if !is_older => (u16::from(*kind), [*a, *b], flags),
                _ => return Ok(()),
            };
            let length = usize::from(u16::from_le_bytes(length));
            let Some((message, rest)) = messages.split_at_checked(before + length) else { return Ok(()) };
            let body = message.get(before..).unwrap_or_default();
            match (kind, body) {
                (3, _) => {
                    check_type(length)?;
                    check_float(body)?;
                }
                // Chunks at the edge as they are, behind filters or not.
                (8, [4, 2, 1 | 3, ..]) => {
                    return Err("layout: expected chunks that are all filtered".to_owned());
                }
                // The crate takes what it cannot read for none.
                (11, _) if flags & 2 != 0 || !is_pipeline(body) => {
                    return Err("filters: expected a list of them, got none that can be read".to_owned());
                }
                (12, _) => check_type(type_of_attribute(body))?,
                // A part of the header elsewhere: its place and its length.
                (16, [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, ..]) if is_older => {
                    self.lengths().insert(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
                }
                _ => {}
            }
            messages = rest;
        }
    }
}

impl Source for Objects {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), FormatError> {
        let cost = bytes.len() as u64 + Self::READ;
        self.left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(cost))
            .map_err(|_| FormatError::Source("the same bytes are pointed at again and again".to_owned()))?;
        self.file.read_at(offset, bytes)
    }

    fn read_metadata_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FormatError> {
        let part = self.read_exact_at(offset, len)?;
        self.check(&part).map_err(FormatError::Source)?;
        Ok(part)
    }
}

fn check_type(bytes: usize) -> Result<(), String> {
    if bytes > TYPE_MAX {
        return Err(format!("expected types of at most {TYPE_MAX} bytes, got {bytes}"));
    }
    Ok(())
}

/// Checks what the crate does not: that a float of 4 or 8 bytes has its sign in front, and a bit that is implied.
fn check_float(datatype: &[u8]) -> Result<(), String> {
    match datatype {
        [class, order, sign, _, size @ (4 | 8), 0, 0, 0, ..]
            if class & 15 == 1 && (order & 0x30 != 0x20 || *sign != 8 * size - 1) =>
        {
            Err("expected floats of IEEE 754".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether a list of filters is whole.
fn is_pipeline(message: &[u8]) -> bool {
    let &[version @ 1..=2, n @ ..=FILTERS_MAX, ref rest @ ..] = message else { return false };
    let Some(mut rest) = rest.get(if version == 1 { 6 } else { 0 }..) else { return false };
    for _ in 0..n {
        let Some((&[low, high], more)) = rest.split_first_chunk() else { return false };
        let is_named = version == 1 || u16::from_le_bytes([low, high]) >= 256;
        let (name, more) = match more.split_first_chunk() {
            Some((&[low, high], more)) if is_named => (u16::from_le_bytes([low, high]), more),
            _ if is_named => return false,
            _ => (0, more),
        };
        let Some((&[_, _, low, high], more)) = more.split_first_chunk() else { return false };
        let n_values = usize::from(u16::from_le_bytes([low, high]));
        let (name, padding) = match version {
            1 => (usize::from(name).next_multiple_of(8), n_values % 2),
            _ => (usize::from(name), 0),
        };
        match more.get(name + 4 * (n_values + padding)..) {
            Some(more) => rest = more,
            None => return false,
        }
    }
    true
}

/// Bytes of an attribute's type.
fn type_of_attribute(attribute: &[u8]) -> usize {
    match attribute {
        [_, _, _, _, low, high, ..] => u16::from_le_bytes([*low, *high]).into(),
        _ => 0,
    }
}
