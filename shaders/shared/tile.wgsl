// Products of a tile of 64 rows × 64 columns by a workgroup of 256, an invocation 4 rows × 4 columns of them. A kernel says
// what `input_at(row, i)` and `weight_at(i, column)` are, zero beyond their ends, and what becomes of four columns of a row,
// `put(row, column, sums)`, also beyond theirs. Sums run over `depth` in order.
const K_STEP = 16u;
const TILE_ROWS = 64u;

var<workgroup> sh_x: array<f32, K_STEP * TILE_ROWS>; // [K_STEP][TILE_ROWS]
var<workgroup> sh_w: array<vec4<f32>, K_STEP * 16u>; // [K_STEP][64 columns]

// Makes tile `tile_ix`, `column_tiles` of them to 64 rows.
fn make_tile(tile_ix: u32, local_ix: u32, column_tiles: u32, n_rows: u32, depth: u32) {
    let row_from = tile_ix / column_tiles * TILE_ROWS;
    let column_from = tile_ix % column_tiles * 64u;
    if (row_from >= n_rows) {
        return;
    }
    let tx = local_ix % 16u;
    let ty = local_ix / 16u;
    let column = column_from + tx * 4u;
    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var k = 0u; k < depth; k += K_STEP) {
        workgroupBarrier();
        for (var row = ty; row < TILE_ROWS; row += 16u) {
            sh_x[tx * TILE_ROWS + row] = input_at(row_from + row, k + tx);
        }
        sh_w[ty * 16u + tx] = vec4<f32>(
            weight_at(k + ty, column),
            weight_at(k + ty, column + 1u),
            weight_at(k + ty, column + 2u),
            weight_at(k + ty, column + 3u),
        );
        workgroupBarrier();
        for (var step = 0u; step < K_STEP; step++) {
            let weights = sh_w[step * 16u + tx];
            let at = step * TILE_ROWS + ty;
            sums_0 += sh_x[at] * weights;
            sums_1 += sh_x[at + 16u] * weights;
            sums_2 += sh_x[at + 32u] * weights;
            sums_3 += sh_x[at + 48u] * weights;
        }
    }
    put(row_from + ty, column, sums_0);
    put(row_from + ty + 16u, column, sums_1);
    put(row_from + ty + 32u, column, sums_2);
    put(row_from + ty + 48u, column, sums_3);
}
