//! The metadata of a Parquet file, in Thrift's compact protocol, checked before they are decoded, for the decoder takes numbers at
//! their word. Of a list of booleans that it does not know it counts as many as there are said to be, without there being any: so
//! such lists are refused, and fields of another type than it takes them for, behind which one might hide. It descends into a schema
//! as deep as that says, and makes room for as many columns, values and bytes as are said to come.

/// What the decoder takes a field for.
enum Kind {
    Bool,
    Byte,
    /// Of any size, an enumeration too.
    Int,
    Double,
    Binary,
    List(&'static Kind),
    /// Or a union: a structure of one field.
    Struct(&'static [(i16, Kind)]),
}

use Kind::{Binary, Bool, Byte, Double, Int, List, Struct};

/// `FileMetaData` of the Parquet format (apache/parquet-format, `parquet.thrift`); the fields below are known by their places there.
const FILE: &[(i16, Kind)] = &[
    (1, Int),
    (SCHEMA, List(&Struct(SCHEMA_ELEMENT))),
    (3, Int),
    (4, List(&Struct(ROW_GROUP))),
    (5, List(&Struct(&[(1, Binary), (2, Binary)]))),
    (6, Binary),
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))),
];

const EMPTY: Kind = Struct(&[]);

const SCHEMA_ELEMENT: &[(i16, Kind)] = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Binary),
    (N_CHILDREN, Int),
    (6, Int),
    (7, Int),
    (8, Int),
    (9, Int),
    (10, Struct(LOGICAL_TYPE)),
];

const LOGICAL_TYPE: &[(i16, Kind)] = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Int)])),
    (19, EMPTY),
];

const TIME: Kind = Struct(&[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

const ROW_GROUP: &[(i16, Kind)] = &[
    (1, List(&Struct(COLUMN_CHUNK))),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (7, Int),
];

const COLUMN_CHUNK: &[(i16, Kind)] =
    &[(1, Binary), (2, Int), (3, Struct(COLUMN)), (4, Int), (5, Int), (6, Int), (7, Int)];

const COLUMN: &[(i16, Kind)] = &[
    (1, Int),
    (2, List(&Int)),
    (3, List(&Binary)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))])),
    (17, Struct(&[(1, Struct(BOX)), (2, List(&Int))])),
];

const STATISTICS: &[(i16, Kind)] =
    &[(1, Binary), (2, Binary), (3, Int), (4, Int), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, Int)];

const BOX: &[(i16, Kind)] =
    &[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)];

/// `PageHeader`.
const PAGE: &[(i16, Kind)] = &[
    (PAGE_TYPE, Int),
    (EXPANDED, Int),
    (GIVEN, Int),
    (4, Int),
    (DATA, Struct(&[(N_VALUES, Int), (ENCODING, Int), (3, Int), (4, Int), (5, Struct(STATISTICS))])),
    (6, EMPTY),
    (DICTIONARY, Struct(&[(N_VALUES, Int), (2, Int), (3, Bool)])),
    (
        DATA_V2,
        Struct(&[
            (N_VALUES, Int),
            (2, Int),
            (3, Int),
            (ENCODING_V2, Int),
            (5, Int),
            (6, Int),
            (7, Bool),
            (8, Struct(STATISTICS)),
        ]),
    ),
];

const SCHEMA: i16 = 2;
const N_CHILDREN: i16 = 5;
/// 0 of data, 1 of an index, 2 of a dictionary, 3 of data of the second version.
const PAGE_TYPE: i16 = 1;
/// Bytes of a page when it is unpacked, and in the file.
const EXPANDED: i16 = 2;
const GIVEN: i16 = 3;
const DATA: i16 = 5;
const DICTIONARY: i16 = 7;
const DATA_V2: i16 = 8;
const N_VALUES: i16 = 1;
const ENCODING: i16 = 2;
const ENCODING_V2: i16 = 4;
/// Counts of this encoding stand among the values.
const DELTA_BYTE_ARRAY: i64 = 7;

/// Structures and lists inside one another, which the decoder does not know.
const DEPTH_MAX: usize = 64;

/// Groups of columns inside one another.
const GROUPS_MAX: usize = 32;

const MAGIC: &[u8] = b"PAR1";

/// Checks the metadata at the end of a file, and that the names of its columns take `most` bytes when each is written out.
pub(super) fn check_footer(bytes: &[u8], most: u64) -> Result<(), String> {
    let short = || "expected a footer, got the end".to_owned();
    let rest = bytes.strip_suffix(MAGIC).ok_or_else(short)?;
    let (rest, length) = rest.split_last_chunk().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let from =
        rest.len().checked_sub(length).ok_or_else(|| format!("expected a footer of {length} bytes"))?;
    let metadata = rest.get(from..).unwrap_or_default();
    Cursor(metadata).fields(FILE, 0, DEPTH_MAX, &mut |_, _, _| ())?;
    let (mut fields, mut id) = (Cursor(metadata), 0);
    while let Some((next, wire)) = fields.field(id)? {
        id = next;
        if id == SCHEMA { check_schema(&mut fields, most)? } else { fields.unknown(wire, DEPTH_MAX)? }
    }
    Ok(())
}

/// Checks that the groups of a schema, which stand before what they hold, hold no more than follows.
fn check_schema(elements: &mut Cursor<'_>, most: u64) -> Result<(), String> {
    let (n, _) = elements.list()?;
    // Of every group around an element: how many are still to come, and the bytes of its own element and those around it.
    let mut around: Vec<(u64, u64)> = Vec::new();
    let mut written = 0_u64;
    for left in (0..n).rev() {
        let (before, mut children) = (elements.0.len(), 0);
        elements.fields(SCHEMA_ELEMENT, 0, DEPTH_MAX, &mut |_, id, value| {
            if id == N_CHILDREN {
                children = value;
            }
        })?;
        let path = (before - elements.0.len()) as u64 + around.last().map_or(0, |&(_, path)| path);
        let held = u64::try_from(children).ok().filter(|&children| children <= left);
        match held.ok_or_else(|| format!("expected a group of at most {left} columns, got {children}"))? {
            0 => {
                written = written.saturating_add(path);
                while let Some((to_come, _)) = around.last_mut() {
                    *to_come -= 1;
                    if *to_come > 0 {
                        break;
                    }
                    around.pop();
                }
            }
            children => around.push((children, path)),
        }
        if around.len() > GROUPS_MAX || written > most {
            return Err(format!(
                "expected at most {GROUPS_MAX} groups inside one another, and names of {most} bytes"
            ));
        }
    }
    Ok(())
}

/// What a column's pages may still come to, in all the file.
pub(super) struct Room {
    /// Bytes when they are unpacked.
    pub expanded: u64,
    /// Bytes of values.
    pub decoded: u64,
}

impl Room {
    /// Checks the headers of the pages of a column's chunk, which is so many bytes `from` a place on, of numbers of `width` bytes.
    pub fn check_pages(&mut self, bytes: &[u8], from: i64, length: i64, width: u64) -> Result<(), String> {
        let place = || {
            let from = usize::try_from(from).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
        };
        let unfit = || {
            let n = bytes.len();
            format!("expected pages inside the {n} bytes, got {length} bytes from byte {from} on")
        };
        let mut pages = Cursor(place().ok_or_else(unfit)?);
        while !pages.0.is_empty() {
            let [mut kind, mut expanded, mut given, mut entries, mut first, mut second] = [0_i64; 6];
            let mut encodings = [0_i64; 2];
            pages.fields(PAGE, 0, DEPTH_MAX, &mut |of, id, value| match (of, id) {
                (0, PAGE_TYPE) => kind = value,
                (0, EXPANDED) => expanded = value,
                (0, GIVEN) => given = value,
                (DICTIONARY, N_VALUES) => entries = value,
                (DATA, N_VALUES) => first = value,
                (DATA_V2, N_VALUES) => second = value,
                (DATA, ENCODING) => encodings[0] = value,
                (DATA_V2, ENCODING_V2) => encodings[1] = value,
                _ => (),
            })?;
            // The decoder steps over the header of an index alone, and takes what follows for the next one.
            if ![0, 2, 3].contains(&kind) {
                return Err(format!("expected pages of data or of a dictionary, got one of type {kind}"));
            }
            if encodings.contains(&DELTA_BYTE_ARRAY) {
                return Err("expected numbers in another encoding than DELTA_BYTE_ARRAY".to_owned());
            }
            // The decoder keeps 32 bits of each.
            let count = |value: i64| {
                i32::try_from(value)
                    .and_then(u32::try_from)
                    .map_err(|_| format!("expected a count of a page, got {value}"))
            };
            let [expanded, given, entries] = [count(expanded)?, count(given)?, count(entries)?];
            let values = u64::from(count(first)?).saturating_add(count(second)?.into());
            if u64::from(entries).saturating_mul(width) > expanded.into() {
                return Err(format!("expected a dictionary inside {expanded} bytes, got {entries} values"));
            }
            take(&mut self.expanded, expanded.into())?;
            take(&mut self.decoded, values.saturating_mul(width.max(4)))?;
            pages.skip(given as usize)?;
        }
        Ok(())
    }
}

fn take(left: &mut u64, n: u64) -> Result<(), String> {
    let rest = left.checked_sub(n);
    *left = rest.ok_or_else(|| {
        format!("expected pages of at most {left} more bytes of values in a file of this length, got {n}")
    })?;
    Ok(())
}

/// What is still to be read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, n: usize) -> Result<(), String> {
        self.0 = self.0.get(n..).ok_or_else(|| format!("expected {n} bytes, got {}", self.0.len()))?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (byte, rest) = self.0.split_first().ok_or("expected a byte, got the end")?;
        self.0 = rest;
        Ok(*byte)
    }

    /// Seven bits a byte, the lowest first.
    fn unsigned(&mut self) -> Result<u64, String> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).wrapping_shl(shift);
            if byte < 0x80 {
                return Ok(value);
            }
            shift = (shift + 7) % 64;
        }
    }

    /// 0, −1, 1, −2 …
    fn signed(&mut self) -> Result<i64, String> {
        let value = self.unsigned()?;
        let half = (value >> 1).cast_signed();
        Ok(if value & 1 == 0 { half } else { !half })
    }

    fn binary(&mut self) -> Result<(), String> {
        let n = self.unsigned()?;
        self.skip(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// The place and the type of the next field, behind the one at place `last`, unless the structure ends.
    fn field(&mut self, last: i16) -> Result<Option<(i16, u8)>, String> {
        let head = self.byte()?;
        let (wire, step) = (head & 15, head >> 4);
        if wire == 0 {
            return Ok(None);
        }
        #[expect(clippy::cast_possible_truncation, reason = "as the decoder takes it")]
        let id = if step == 0 { Some(self.signed()? as i16) } else { last.checked_add(step.into()) };
        Ok(Some((id.ok_or_else(|| format!("expected a field, got one {step} after {last}"))?, wire)))
    }

    /// The fields of a structure, which is at place `of` of another, to its end; `see` is called with integers, the structure that
    /// each is of and its place there.
    fn fields(
        &mut self,
        known: &[(i16, Kind)],
        of: i16,
        depth: usize,
        see: &mut dyn FnMut(i16, i16, i64),
    ) -> Result<(), String> {
        let mut id = 0;
        while let Some((next, wire)) = self.field(id)? {
            id = next;
            match known.iter().find(|(known, _)| *known == id) {
                Some((_, Int)) if is_int(wire) => see(of, id, self.signed()?),
                Some((_, Struct(known))) if wire == 12 => self.fields(known, id, depth, see)?,
                Some((_, kind)) => self.known(kind, wire, depth).map_err(|e| format!("field {id}: {e}"))?,
                None => self.unknown(wire, depth)?,
            }
        }
        Ok(())
    }

    /// A value whose kind is known, if it is written as such.
    fn known(&mut self, kind: &Kind, wire: u8, depth: usize) -> Result<(), String> {
        match (kind, wire) {
            (Bool, 1 | 2) => Ok(()),
            (Int, _) if is_int(wire) => self.unsigned().map(drop),
            (Byte, 3) | (Double, 7) | (Binary, 8) => self.unknown(wire, depth),
            (List(kind), 9) => {
                let (n, wire) = self.list()?;
                (0..n).try_for_each(|_| self.known(kind, wire, depth))
            }
            (Struct(known), 12) => self.fields(known, 0, depth, &mut |_, _, _| ()),
            _ => Err(format!("expected another type, got the one of number {wire}")),
        }
    }

    /// A value of whatever type, which takes a byte at least unless it is a boolean of a structure.
    fn unknown(&mut self, wire: u8, depth: usize) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or("expected fewer structures inside one another")?;
        let refused = || Err("expected no list of booleans".to_owned());
        match wire {
            1 | 2 => Ok(()),
            3 => self.skip(1),
            _ if is_int(wire) => self.unsigned().map(drop),
            7 => self.skip(8),
            8 => self.binary(),
            9 | 10 => match self.list()? {
                (_, 1 | 2) => refused(),
                (n, wire) => (0..n).try_for_each(|_| self.unknown(wire, depth)),
            },
            11 => {
                let n = self.unsigned()?;
                if n == 0 {
                    return Ok(());
                }
                let both = self.byte()?;
                let wires = [both >> 4, both & 15];
                if wires.iter().any(|wire| matches!(wire, 1 | 2)) {
                    return refused();
                }
                (0..n).try_for_each(|_| wires.iter().try_for_each(|&wire| self.unknown(wire, depth)))
            }
            12 => self.fields(&[], 0, depth, &mut |_, _, _| ()),
            13 => self.skip(16),
            _ => Err(format!("expected a type, got number {wire}")),
        }
    }

    /// How many elements a list has, and of which type.
    fn list(&mut self) -> Result<(u64, u8), String> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        Ok((n, head & 15))
    }
}

fn is_int(wire: u8) -> bool {
    matches!(wire, 4..=6)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A file that ends with these metadata.
    fn file(metadata: &[u8]) -> Vec<u8> {
        let length = u32::try_from(metadata.len()).unwrap().to_le_bytes();
        [MAGIC, metadata, &length, MAGIC].concat()
    }

    /// 2³¹ − 1 booleans, of which none is there.
    const BOOLEANS: [u8; 6] = [0xf1, 0xff, 0xff, 0xff, 0xff, 0x07];

    /// Enough for whatever these files hold.
    const MOST: u64 = 1000;

    #[test]
    fn lists_of_booleans_are_refused_wherever_they_hide() {
        // A version; then a field 15 that nobody knows: a list, a list of lists, a map of booleans.
        let version = [0x15, 2];
        assert_eq!(check_footer(&file(&[&version[..], &[0]].concat()), MOST), Ok(()));
        let lists = [&[0xe9][..], &BOOLEANS, &[0]].concat();
        let nested = [&[0xe9, 0x29][..], &BOOLEANS, &BOOLEANS, &[0]].concat();
        let map = [&[0xeb][..], &BOOLEANS[1..], &[0x11, 0]].concat();
        for fields in [&lists, &nested, &map] {
            let error = check_footer(&file(&[&version[..], fields].concat()), MOST).unwrap_err();
            assert_eq!(error, "expected no list of booleans");
        }
        // A name that the decoder would take for a list.
        let hidden = [&[0x28, 9, 0x1c, 0xe9][..], &BOOLEANS, &[0, 0]].concat();
        let error = check_footer(&file(&hidden), MOST).unwrap_err();
        assert_eq!(error, "field 2: expected another type, got the one of number 8");
        // As deep as it goes, and with the end in the middle.
        assert!(check_footer(&file(&[0xec; 1000]), MOST).is_err());
        assert!(check_footer(&file(&lists[..3]), MOST).is_err());
        assert!(check_footer(b"PAR1", MOST).is_err());
        assert!(check_footer(b"\xff\xff\xff\xffPAR1", MOST).is_err());
    }

    /// A schema of elements with these numbers of children.
    fn schema(children: &[u8]) -> Vec<u8> {
        assert!(children.iter().all(|&n| n < 64));
        let mut metadata = vec![0x29, 0xfc, u8::try_from(children.len()).unwrap()];
        // A name of one letter, and twice the number: 0, −1, 1, −2 …
        children.iter().for_each(|n| metadata.extend([0x48, 1, b'x', 0x15, 2 * n, 0]));
        metadata.push(0);
        file(&metadata)
    }

    #[test]
    fn groups_hold_what_follows_them() {
        for children in [&[0][..], &[2, 0, 0], &[2, 1, 0, 0], &[1, 1, 1, 0]] {
            assert_eq!(check_footer(&schema(children), MOST), Ok(()), "{children:?}");
        }
        for children in [&[1][..], &[2, 0], &[1, 1, 1], &[1, 0, 60]] {
            let error = check_footer(&schema(children), MOST).unwrap_err();
            assert!(error.contains("a group of at most"), "{children:?}: {error}");
        }
        let mut deep = [1; 40];
        deep[39] = 0;
        let error = check_footer(&schema(&deep), 1 << 20).unwrap_err();
        assert!(error.contains("at most 32 groups"), "{error}");
        let mut wide = [0; 60];
        wide[0] = 59;
        // Six bytes of each, and those of the group.
        assert_eq!(check_footer(&schema(&wide), 59 * 12), Ok(()));
        assert!(check_footer(&schema(&wide), 59 * 12 - 1).is_err());
    }

    /// Of so many bytes, of which 3 are given; a header of values.
    fn page(kind: u8, expanded: u8, header: u8, values: &[u8]) -> Vec<u8> {
        [&[0x15, 2 * kind, 0x15, 2 * expanded, 0x15, 6, header, 0x15][..], values, &[0, 0, 7, 7, 7]].concat()
    }

    fn check(pages: &[u8], expanded: u64, decoded: u64) -> Result<(), String> {
        Room { expanded, decoded }.check_pages(pages, 0, i64::try_from(pages.len()).unwrap(), 4)
    }

    #[test]
    fn pages_come_to_what_they_may() {
        // Data of 5 values, in the header of either version, and a dictionary of 5.
        let data = page(0, 20, 0x2c, &[10]);
        let all = [data.clone(), page(3, 20, 0x5c, &[10]), page(2, 20, 0x4c, &[10])].concat();
        assert_eq!(check(&all, 60, 40), Ok(()));
        assert!(check(&all, 59, 40).is_err() && check(&all, 60, 39).is_err());
        // Both headers in one page count.
        let both = [&data[..data.len() - 4], &[0x3c, 0x15, 10, 0, 0, 7, 7, 7]].concat();
        assert_eq!(check(&both, 20, 40), Ok(()));
        assert!(check(&both, 20, 39).is_err());
        let n = i64::try_from(all.len()).unwrap();
        for (from, length) in [(0, n - 1), (0, n + 1), (-1, n), (5, 3), (0, -1)] {
            let mut room = Room { expanded: 100, decoded: 100 };
            assert!(room.check_pages(&all, from, length, 4).is_err(), "{from} {length}");
        }
        // More values in a dictionary than it has bytes for; more than 32 bits hold; fewer than none; an index; counts among values.
        assert!(check(&page(2, 20, 0x4c, &[12]), MOST, MOST).is_err());
        assert!(check(&page(0, 6, 0x2c, &[0x80, 0x80, 0x80, 0x80, 0x20]), MOST, u64::MAX).is_err());
        assert!(check(&page(0, 6, 0x2c, &[1]), MOST, MOST).is_err());
        assert!(check(&page(1, 6, 0x2c, &[10]), MOST, MOST).is_err());
        let error = check(&page(0, 6, 0x2c, &[10, 0x15, 14]), MOST, MOST).unwrap_err();
        assert!(error.contains("DELTA_BYTE_ARRAY"), "{error}");
        let hidden = [&[0x15, 0, 0x15, 12, 0x15, 6, 0xe9][..], &BOOLEANS, &[0, 7, 7, 7]].concat();
        assert_eq!(check(&hidden, MOST, MOST).unwrap_err(), "expected no list of booleans");
    }
}
