// Few queries: a tile of 16.
const TILE_ROWS = 16u;
