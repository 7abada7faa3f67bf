//! The network on the device: a dispatch a layer, tokens of all queries side by side.

use super::{Cnt, Layer, Layout, MOST, Shape};
use crate::gpu::{
    Buffer, Gpu, GpuError,
    kernel::Kernel,
    layout::{AttendParams, LayerParams, TokenParams, narrow},
    pages::upload,
    recording::{Cost, Grid, Recording},
};

/// A network on the device.
pub(crate) struct GpuCnt {
    shape: Shape,
    layout: Layout,
    weights: Buffer,
    biases: Buffer,
    /// The deviation and its inverse.
    scales: [f32; 2],
}

/// What a network works in: buffers, or their bytes a query.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rooms<T> {
    /// Tokens, compression token, direct path.
    pub wide: T,
    /// Keys and values.
    pub keys: T,
    /// Queries, then hidden values.
    pub hidden: T,
    /// What heads see.
    pub seen: T,
}

impl Rooms<usize> {
    /// Bytes a query.
    pub fn of(shape: &Shape) -> Self {
        let tokens = shape.n_tokens + 1;
        let own = if shape.n_stages > 1 { tokens } else { 1 };
        Self {
            wide: 4 * shape.wide(),
            keys: 4 * tokens * shape.n_heads * (shape.key + shape.s),
            hidden: 4 * own * shape.hidden.max(shape.n_heads * shape.key),
            seen: 4 * own * shape.n_heads * shape.s,
        }
    }

    /// The widest.
    pub fn most(&self) -> usize {
        self.wide.max(self.keys).max(self.hidden).max(self.seen)
    }
}

/// Rows in a buffer: token `r % group` of query `r / group`.
#[derive(Clone, Copy)]
struct Rows<'a> {
    buffer: &'a Buffer,
    from: usize,
    group: usize,
    /// From a query to the next, and from a token to the next.
    stride: usize,
    token: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` one after the other.
    fn plain(buffer: &'a Buffer, width: usize) -> Self {
        Self { buffer, from: 0, group: 1, stride: width, token: 0 }
    }
}

/// What a layer does beside its product.
#[derive(Clone, Copy, Default)]
struct Then {
    is_first: bool,
    is_gated: bool,
    adds: bool,
    is_last: bool,
}

impl GpuCnt {
    /// Uploads the weights.
    pub fn new(gpu: &Gpu, cnt: &Cnt) -> Result<Self, GpuError> {
        let layout = cnt.layout.clone();
        let at = layout.scales_at;
        Ok(Self {
            shape: cnt.shape,
            weights: upload(gpu, "cnt.weights", bytemuck::cast_slice(&cnt.weights))?,
            biases: upload(gpu, "cnt.biases", bytemuck::cast_slice(&cnt.biases))?,
            scales: [cnt.biases[at], cnt.biases[at + 1]],
            layout,
        })
    }

    /// `reduced[n_rows, y_stride]` of `queries[n_rows, q_stride]`.
    pub fn project(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        (queries, q_stride): (&Buffer, usize),
        rooms: Rooms<&Buffer>,
        (reduced, y_stride): (&Buffer, usize),
    ) {
        let Shape { s, n_tokens, n_heads, key, hidden, .. } = self.shape;
        let (wide, tokens) = (self.shape.wide(), n_tokens + 1);
        let then = Then::default();
        let inputs = Rows::plain(queries, q_stride);
        let first = Then { is_first: true, ..then };
        self.layer(recording, n_rows, &self.layout.input, inputs, Rows::plain(rooms.wide, wide), wide, first);
        self.token(recording, n_rows, rooms.wide, true);
        let all = Rows { buffer: rooms.wide, from: 0, group: tokens, stride: wide, token: s };
        let last = Rows { buffer: rooms.wide, from: n_tokens * s, group: 1, stride: wide, token: 0 };
        for (i, stage) in self.layout.stages.iter().enumerate() {
            let is_last = i + 1 == self.layout.stages.len();
            let (each, own) = if is_last { (1, last) } else { (tokens, all) };
            let n_own = n_rows * each;
            let mut dense =
                |layer: &Layer, n, x, y, then| self.layer(recording, n, layer, x, y, layer.to, then);
            let heads = n_heads * (key + s);
            dense(&stage.keys, n_rows * tokens, all, Rows::plain(rooms.keys, heads), then);
            dense(&stage.queries, n_own, own, Rows::plain(rooms.hidden, n_heads * key), then);
            self.attend(recording, n_own, each, rooms);
            let mut dense =
                |layer: &Layer, n, x, y, then| self.layer(recording, n, layer, x, y, layer.to, then);
            let adds = Then { adds: true, ..then };
            dense(&stage.out, n_own, Rows::plain(rooms.seen, n_heads * s), own, adds);
            let up = Rows::plain(rooms.hidden, hidden);
            dense(&stage.up, n_own, own, up, Then { is_gated: true, ..then });
            dense(&stage.down, n_own, up, own, adds);
            self.token(recording, n_rows, rooms.wide, false);
        }
        let outputs = Rows::plain(reduced, y_stride);
        let end = Then { is_last: true, ..then };
        self.layer(recording, n_rows, &self.layout.output, last, outputs, y_stride, end);
    }

    #[allow(clippy::too_many_arguments, reason = "a product, where it goes, and what follows it")]
    fn layer(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        layer: &Layer,
        x: Rows<'_>,
        y: Rows<'_>,
        y_width: usize,
        then: Then,
    ) {
        let column_tiles = y_width.div_ceil(64);
        let params = LayerParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            depth: narrow(layer.from),
            width: narrow(layer.to),
            x_from: narrow(x.from),
            x_group: narrow(x.group),
            x_stride: narrow(x.stride),
            x_token: narrow(x.token),
            y_from: narrow(y.from),
            y_group: narrow(y.group),
            y_stride: narrow(y.stride),
            y_token: narrow(y.token),
            y_width: narrow(y_width),
            column_tiles: narrow(column_tiles),
            weights_at: narrow(layer.weights_at),
            biases_at: narrow(layer.biases_at),
            centre_at: narrow(self.layout.centre_at),
            is_first: then.is_first.into(),
            is_gated: then.is_gated.into(),
            adds: then.adds.into(),
            scale: if then.is_last { self.scales[0] } else { 1.0 },
            inverse: self.scales[1],
            most: MOST,
            ..Default::default()
        };
        let (n, from, to) = (n_rows as f64, layer.from as f64, layer.to as f64);
        let cost = Cost { bytes: 2.0 * from * to + 4.0 * n * (from + to), ops: 2.0 * n * from * to };
        let grid = Grid::Groups((n_rows.div_ceil(64) * column_tiles) as u64);
        let bindings = [x.buffer, &self.weights, &self.biases, y.buffer];
        recording.dispatch(Kernel::Layer, &params, &bindings, grid, cost);
    }

    fn token(&self, recording: &mut Recording, n_rows: usize, wide: &Buffer, is_first: bool) {
        let s = self.shape.s;
        let params = TokenParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            s: narrow(s),
            stride: narrow(self.shape.wide()),
            token_at: narrow(self.shape.n_tokens * s),
            gate_at: narrow(self.layout.gate_at),
            shift_at: narrow(self.layout.shift_at),
            is_first: is_first.into(),
        };
        let n = (n_rows * s) as f64;
        let cost = Cost { bytes: 20.0 * n, ops: 8.0 * n };
        let grid = Grid::Groups((n_rows * s).div_ceil(64) as u64);
        recording.dispatch(Kernel::Token, &params, &[&self.biases, wide], grid, cost);
    }

    fn attend(&self, recording: &mut Recording, n_rows: usize, each: usize, rooms: Rooms<&Buffer>) {
        let Shape { s, n_tokens, n_heads, key, .. } = self.shape;
        let params = AttendParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            each: narrow(each),
            n_tokens: narrow(n_tokens + 1),
            n_heads: narrow(n_heads),
            key: narrow(key),
            s: narrow(s),
            factor: 1.0 / (key as f32).sqrt(),
        };
        let read = (n_rows * n_heads * (n_tokens + 1) * (key + s)) as f64;
        let cost = Cost { bytes: 4.0 * read, ops: 2.0 * read };
        let bindings = [rooms.hidden, rooms.keys, rooms.seen];
        let grid = Grid::Groups((n_rows * n_heads) as u64);
        recording.dispatch(Kernel::Attend, &params, &bindings, grid, cost);
    }
}
