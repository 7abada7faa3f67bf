//! The scorer's meaning: the network, one rounding to int8, products.

use super::Cnn;
use crate::{
    block::{BLOCK, BlockQuery},
    network::conv,
};

/// Internal scores (l2: without `‖q‖²`) of the `m` points of a list.
pub(crate) fn scores(cnn: &Cnn, list: usize, m: usize, reduced: &[f32]) -> Vec<f32> {
    let t = conv::reference::forward(cnn.networks.of(list), reduced);
    let shape = cnn.shape.points;
    let t = BlockQuery::quantise_reference(t[0], &t[1..], shape.query_len());
    let factor = cnn.metric.product_factor();
    (0..m).map(|i| t.score_reference(shape, cnn.run(list), m.div_ceil(BLOCK), i, factor)).collect()
}
