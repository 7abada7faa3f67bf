// Codes of 4 bits: a row's byte holds two, whose tables of 16 entries follow each other.
const N_WORDS = 16u;
const ROW_ENTRIES = 32u;

// Needs: `spread` and `sh_tables`.
fn looked_up(entries_at: u32, code: u32) -> vec4<u32> {
    return spread(sh_tables[entries_at + (code & 15u)]) + spread(sh_tables[entries_at + 16u + (code >> 4u)]);
}
