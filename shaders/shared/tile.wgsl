// Products of a tile of 64 rows × 64 columns by a workgroup of 256, an invocation 4 rows × 4 columns of them. A kernel says
// what `input_at(row, i)` and `weight_at(i, column)` are: zero beyond their ends. Sums run over `depth` in order.
const K_STEP = 16u;
const TILE_ROWS = 64u;

var<workgroup> sh_x: array<f32, K_STEP * TILE_ROWS>; // [K_STEP][TILE_ROWS]
var<workgroup> sh_w: array<vec4<f32>, K_STEP * 16u>; // [K_STEP][64 columns]

// Columns 4·(local_ix % 16).. of rows local_ix / 16, + 16, + 32, + 48.
struct TileSums {
    rows: array<vec4<f32>, 4>,
}

fn tile_products(local_ix: u32, row_from: u32, column_from: u32, depth: u32) -> TileSums {
    let tx = local_ix % 16u;
    let ty = local_ix / 16u;
    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var k = 0u; k < depth; k += K_STEP) {
        workgroupBarrier();
        for (var row = ty; row < TILE_ROWS; row += 16u) {
            sh_x[tx * TILE_ROWS + row] = input_at(row_from + row, k + tx);
        }
        let column = column_from + tx * 4u;
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
    return TileSums(array<vec4<f32>, 4>(sums_0, sums_1, sums_2, sums_3));
}
