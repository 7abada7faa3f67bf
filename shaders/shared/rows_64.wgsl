// Many queries: a tile of 64.
const TILE_ROWS = 64u;
