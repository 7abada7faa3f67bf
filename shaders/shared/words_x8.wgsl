// Codes of 8 bits: a row's byte is one, its table has 256 entries.
const N_WORDS = 256u;
const ROW_ENTRIES = 256u;

// Needs: `spread` and `sh_tables`.
fn looked_up(entries_at: u32, code: u32) -> vec4<u32> {
    return spread(sh_tables[entries_at + code]);
}
