//! Lookup-table scans on NEON: `tbl` looks up 16 points, widening additions sum them in 16 bits.

use std::arch::aarch64::*;

use super::pq::{PqRun, ROWS_U16, Survivors, scan};
use crate::codes::BLOCK;

/// Scans from point `start` on until the tail may overflow; returns where it stopped.
///
/// # Safety
/// 1. The machine has NEON. 2. `run` is checked, of 4 bits, `start` a multiple of 32.
#[target_feature(enable = "neon")]
pub unsafe fn scan_x4(run: &PqRun<'_>, start: usize, out: &mut Survivors<'_, '_>) -> usize {
    let limit = out.limit;
    // SAFETY: by 1 and 2; `scan` asks for blocks of the run.
    scan(run, start, out, |block| unsafe { sums_x4(run, block, limit) })
}

/// A block's sums, or nothing where none is within the limit.
///
/// # Safety
/// 1. The machine has NEON. 2. `run` is checked, of 4 bits, and has the block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sums_x4(run: &PqRun<'_>, block: usize, limit: u16) -> Option<[u32; BLOCK]> {
    let rows = run.shape.rows();
    let nibbles = vdupq_n_u8(15);
    let mut sums = [0_u32; BLOCK];
    for from in (0..rows).step_by(ROWS_U16) {
        let to = rows.min(from + ROWS_U16);
        // Points 0–7, 8–15, 16–23, 24–31.
        let mut parts = [vdupq_n_u16(0); 4];
        for row in from..to {
            // SAFETY: by 2, row r stands at 32·r of the block, its two tables at 32·r.
            unsafe {
                let tables = run.tables.as_ptr().add(32 * row);
                let (low_table, high_table) = (vld1q_u8(tables), vld1q_u8(tables.add(16)));
                for half in 0..2 {
                    let codes = vld1q_u8(run.block(block).as_ptr().add(32 * row + 16 * half));
                    let low = vqtbl1q_u8(low_table, vandq_u8(codes, nibbles));
                    let high = vqtbl1q_u8(high_table, vshrq_n_u8::<4>(codes));
                    let first = vaddl_u8(vget_low_u8(low), vget_low_u8(high));
                    parts[2 * half] = vaddq_u16(parts[2 * half], first);
                    parts[2 * half + 1] = vaddq_u16(parts[2 * half + 1], vaddl_high_u8(low, high));
                }
            }
        }
        if rows <= ROWS_U16 {
            let least = vminq_u16(vminq_u16(parts[0], parts[1]), vminq_u16(parts[2], parts[3]));
            if vminvq_u16(least) > limit {
                return None;
            }
        }
        for (sums, part) in sums.chunks_exact_mut(8).zip(parts) {
            let mut words = [0_u16; 8];
            // SAFETY: 16 bytes.
            unsafe { vst1q_u16(words.as_mut_ptr(), part) };
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum += u32::from(word);
            }
        }
    }
    Some(sums)
}
