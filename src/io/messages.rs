//! The messages of an Arrow file, checked before they are decoded: the decoder takes lengths at their word, and ends the
//! process where memory for them cannot be had.

use arrow_ipc::{Block, MessageHeader, RecordBatch, root_as_footer_with_opts, root_as_message_with_opts};
use flatbuffers::VerifierOptions;

/// What stands before a message's length.
const CONTINUES: [u8; 4] = [0xff; 4];

/// Of a schema whose parts are shared, each is a part anew once it is read.
const OPTIONS: VerifierOptions = VerifierOptions {
    max_depth: 64,
    max_tables: 1 << 17,
    max_apparent_size: 1 << 26,
    ignore_missing_null_terminator: false,
};

const MAGIC: &[u8] = b"ARROW1";

/// Whether it is a file, with a footer, or a stream.
pub(super) fn is_file(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What a file's messages may still come to.
struct Room {
    /// Bytes of buffers when they are unpacked.
    expanded: u64,
    /// Bytes of dictionaries copied, for each part that is added to one copies it whole.
    copied: u64,
    /// Bytes of dictionaries so far.
    dictionaries: u64,
}

/// Copies of dictionaries, by which much less than by unpacking is done, in times of what may be unpacked.
const COPIES: u64 = 8;

/// Checks that everything lies inside the file, and that its compressed buffers come to at most `most` bytes.
pub(super) fn check(bytes: &[u8], most: u64) -> Result<(), String> {
    let mut room = Room { expanded: most, copied: most.saturating_mul(COPIES), dictionaries: 0 };
    if is_file(bytes) { check_file(bytes, &mut room) } else { check_stream(bytes, &mut room) }
}

fn check_file(bytes: &[u8], room: &mut Room) -> Result<(), String> {
    // footer, its length, magic
    let ends = bytes.len().checked_sub(MAGIC.len() + 4).ok_or("expected a footer, got the end")?;
    let length = word(bytes, ends)?;
    let from = ends.checked_sub(length).ok_or_else(|| format!("expected a footer of {length} bytes"))?;
    let footer = root_as_footer_with_opts(&OPTIONS, bytes.get(from..ends).unwrap_or_default())
        .map_err(|e| format!("footer: {e}"))?;
    let mut left = bytes.len();
    for blocks in [footer.dictionaries(), footer.recordBatches()].into_iter().flatten() {
        for block in blocks {
            let length = check_block(bytes, block, room)?;
            left = left.checked_sub(length).ok_or("expected blocks that do not overlap")?;
        }
    }
    Ok(())
}

/// Checks a block; returns its length.
fn check_block(bytes: &[u8], block: &Block, room: &mut Room) -> Result<usize, String> {
    let place = || {
        let from = usize::try_from(block.offset()).ok()?;
        let body = from.checked_add(usize::try_from(block.metaDataLength()).ok()?)?;
        let end = body.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
        Some((bytes.get(from..body)?, bytes.get(body..end)?))
    };
    let unfit = || {
        let (offset, message, body) = (block.offset(), block.metaDataLength(), block.bodyLength());
        let n = bytes.len();
        format!("expected blocks inside the {n} bytes, got {message} and {body} bytes from byte {offset} on")
    };
    let (message, body) = place().ok_or_else(unfit)?;
    let whole = message.len().saturating_add(body.len());
    let starts = if message.starts_with(&CONTINUES) { 4 } else { 0 };
    let length = word(message, starts)?;
    let message = message.get(starts + 4..).and_then(|rest| rest.get(..length)).ok_or_else(unfit)?;
    check_message(message, body, room)?;
    Ok(whole)
}

fn check_stream(mut bytes: &[u8], room: &mut Room) -> Result<(), String> {
    while !bytes.is_empty() {
        let starts = if bytes.starts_with(&CONTINUES) { 4 } else { 0 };
        let length = word(bytes, starts)?;
        if length == 0 {
            break;
        }
        let short = || format!("expected a message of {length} bytes, got the end");
        let rest = bytes.get(starts + 4..).ok_or_else(short)?;
        let (message, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let body = check_message(message, rest, room)?;
        bytes = rest.get(body..).ok_or_else(short)?;
    }
    Ok(())
}

/// Checks a message against the bytes behind it; returns how many are its body.
fn check_message(message: &[u8], rest: &[u8], room: &mut Room) -> Result<usize, String> {
    let message = root_as_message_with_opts(&OPTIONS, message).map_err(|e| format!("message: {e}"))?;
    let length = message.bodyLength();
    let body = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let body = body.ok_or_else(|| format!("expected a body of {length} bytes, got {}", rest.len()))?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|d| d.data()),
        _ => None,
    };
    let Some(batch) = batch else { return Ok(body.len()) };
    let before = room.expanded;
    check_batch(batch, body, room)?;
    if message.header_type() == MessageHeader::DictionaryBatch {
        let n_bytes = (before - room.expanded).max(body.len() as u64);
        room.dictionaries = room.dictionaries.saturating_add(n_bytes);
        let left = room.copied.checked_sub(room.dictionaries);
        room.copied = left.ok_or("expected fewer parts of dictionaries in a file of this length")?;
    }
    Ok(body.len())
}

fn check_batch(batch: RecordBatch<'_>, body: &[u8], room: &mut Room) -> Result<(), String> {
    let lengths = batch.nodes().into_iter().flatten().flat_map(|node| [node.length(), node.null_count()]);
    if let Some(length) = lengths.chain([batch.length()]).find(|&length| length < 0) {
        return Err(format!("expected lengths of 0 or more, got {length}"));
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let (offset, length) = (buffer.offset(), buffer.length());
        let place = || {
            let from = usize::try_from(offset).ok()?;
            body.get(from..from.checked_add(usize::try_from(length).ok()?)?)
        };
        let bytes = place().ok_or_else(|| {
            format!("expected buffers inside {} bytes, got {length} bytes from byte {offset} on", body.len())
        })?;
        if batch.compression().is_some()
            && let Some(expanded) = bytes.first_chunk()
        {
            // −1: as it is.
            let expanded = match i64::from_le_bytes(*expanded) {
                -1 => length,
                expanded => expanded,
            };
            let left = room.expanded;
            let rest = u64::try_from(expanded).ok().and_then(|expanded| left.checked_sub(expanded));
            room.expanded = rest.ok_or_else(|| {
                format!(
                    "expected buffers of at most {left} more bytes in a file of this length, got {expanded}"
                )
            })?;
        }
    }
    Ok(())
}

/// A length of four bytes.
fn word(bytes: &[u8], at: usize) -> Result<usize, String> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let length = i32::from_le_bytes(*word.ok_or("expected a length, got the end")?);
    usize::try_from(length).map_err(|_| format!("expected a length, got {length}"))
}
