//! The metadata of a Parquet file, in Thrift's compact protocol, checked before they are decoded: of a list of booleans that the
//! decoder does not know it counts as many as a number says, without there being any. So such lists are refused, and so are fields
//! of another type than the decoder takes them for, behind which one might hide.

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
    (2, List(&Struct(SCHEMA_ELEMENT))),
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
    (5, Int),
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
    (1, Int),
    (EXPANDED, Int),
    (GIVEN, Int),
    (4, Int),
    (5, Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, Struct(STATISTICS))])),
    (6, EMPTY),
    (7, Struct(&[(1, Int), (2, Int), (3, Bool)])),
    (
        8,
        Struct(&[
            (1, Int),
            (2, Int),
            (3, Int),
            (4, Int),
            (5, Int),
            (6, Int),
            (7, Bool),
            (8, Struct(STATISTICS)),
        ]),
    ),
];

/// Bytes of a page when it is decompressed, and in the file.
const EXPANDED: i16 = 2;
const GIVEN: i16 = 3;

/// Structures and lists inside one another, which the decoder does not know.
const DEPTH_MAX: usize = 64;

const MAGIC: &[u8] = b"PAR1";

/// Checks the metadata at the end of a file.
pub(super) fn check_footer(bytes: &[u8]) -> Result<(), String> {
    let short = || "expected a footer, got the end".to_owned();
    let rest = bytes.strip_suffix(MAGIC).ok_or_else(short)?;
    let (rest, length) = rest.split_last_chunk().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let from =
        rest.len().checked_sub(length).ok_or_else(|| format!("expected a footer of {length} bytes"))?;
    Cursor(rest.get(from..).unwrap_or_default()).fields(FILE, DEPTH_MAX, |_, _| ())
}

/// Checks the headers of the pages of a column's chunk, which is so many bytes `from` a place on, and that no page is said to be of
/// more than `most` bytes.
pub(super) fn check_pages(bytes: &[u8], from: i64, length: i64, most: u64) -> Result<(), String> {
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
        let (mut expanded, mut given) = (0, 0);
        pages.fields(PAGE, DEPTH_MAX, |id, value| match id {
            EXPANDED => expanded = value,
            GIVEN => given = value,
            _ => (),
        })?;
        if u64::try_from(expanded).map_or(true, |n| n > most) {
            return Err(format!("expected a page of at most {most} bytes, got {expanded}"));
        }
        pages.skip(usize::try_from(given).map_err(|_| format!("expected a page's length, got {given}"))?)?;
    }
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
            shift += 7;
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

    /// The fields of a structure, to its end; `see` is called with integers.
    fn fields(
        &mut self,
        known: &[(i16, Kind)],
        depth: usize,
        mut see: impl FnMut(i16, i64),
    ) -> Result<(), String> {
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            let (wire, step) = (head & 15, head >> 4);
            if wire == 0 {
                return Ok(());
            }
            #[expect(clippy::cast_possible_truncation, reason = "as the decoder takes it")]
            let next = if step == 0 { Some(self.signed()? as i16) } else { id.checked_add(step.into()) };
            id = next.ok_or_else(|| format!("expected a field, got one {step} after {id}"))?;
            match known.iter().find(|(known, _)| *known == id) {
                Some((_, Int)) if is_int(wire) => see(id, self.signed()?),
                Some((_, kind)) => self.known(kind, wire, depth).map_err(|e| format!("field {id}: {e}"))?,
                None => self.unknown(wire, depth)?,
            }
        }
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
            (Struct(known), 12) => self.fields(known, depth, |_, _| ()),
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
            12 => self.fields(&[], depth, |_, _| ()),
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

    #[test]
    fn lists_of_booleans_are_refused_wherever_they_hide() {
        // A version; then a field 14 on that nobody knows: a list, a list of lists, a map of booleans.
        let version = [0x15, 2];
        assert_eq!(check_footer(&file(&[&version[..], &[0]].concat())), Ok(()));
        let lists = [&[0xe9][..], &BOOLEANS, &[0]].concat();
        let nested = [&[0xe9, 0x29][..], &BOOLEANS, &BOOLEANS, &[0]].concat();
        let map = [&[0xeb][..], &BOOLEANS[1..], &[0x11, 0]].concat();
        for fields in [&lists, &nested, &map] {
            let error = check_footer(&file(&[&version[..], fields].concat())).unwrap_err();
            assert_eq!(error, "expected no list of booleans");
        }
        // A name that the decoder would take for a list.
        let error =
            check_footer(&file(&[&[0x28, 9, 0x1c, 0xe9][..], &BOOLEANS, &[0, 0]].concat())).unwrap_err();
        assert_eq!(error, "field 2: expected another type, got the one of number 8");
        // As deep as it goes, and with the end in the middle.
        assert!(check_footer(&file(&[0xec; 1000])).is_err());
        assert!(check_footer(&file(&lists[..3])).is_err());
        assert!(check_footer(b"PAR1").is_err() && check_footer(b"\xff\xff\xff\xffPAR1").is_err());
    }

    #[test]
    fn pages_are_as_long_as_they_say() {
        // Of type 0, 6 bytes of which 3 are given.
        let page = [0x15, 0, 0x15, 12, 0x15, 6, 0, 7, 7, 7];
        let two = [page, page].concat();
        let n = i64::try_from(two.len()).unwrap();
        assert_eq!(check_pages(&two, 0, n, 6), Ok(()));
        for (from, length, most) in
            [(0, n, 5), (0, n - 1, 6), (0, n + 1, 6), (-1, n, 6), (5, 3, 6), (0, -1, 6)]
        {
            assert!(check_pages(&two, from, length, most).is_err(), "{from} {length} {most}");
        }
        let hidden = [&[0x15, 0, 0x15, 12, 0x15, 6, 0xe9][..], &BOOLEANS, &[0, 7, 7, 7]].concat();
        let n = i64::try_from(hidden.len()).unwrap();
        assert_eq!(check_pages(&hidden, 0, n, 6).unwrap_err(), "expected no list of booleans");
    }
}
