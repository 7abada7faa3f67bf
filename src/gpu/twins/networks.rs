//! Networks, whole: floats in another order, so results are close.

use super::{gpus, held, room, values};
use crate::{
    gpu::{Gpu, recording::Recording},
    metric::Metric,
    stage::transform::{
        Transform,
        cnt::{
            Shape,
            tests::{SIZES, assert_close, queries, random},
        },
        gpu::{GpuTransform, Rooms, Scratch},
        reference,
    },
};

fn project(gpu: &Gpu, network: &Transform, shape: &Shape, queries: &[f32]) -> Vec<f32> {
    let (d, s) = (shape.d, shape.s);
    let (n, q_stride, y_stride) = (queries.len() / d, d.next_multiple_of(4), s.next_multiple_of(4));
    let padded: Vec<f32> = queries
        .chunks_exact(d)
        .flat_map(|q| q.iter().copied().chain((d..q_stride).map(|_| f32::NAN)))
        .collect();
    let on_gpu = GpuTransform::new(gpu, network).unwrap();
    let sizes = Rooms::of(shape);
    let [wide, keys, hidden, seen] =
        [sizes.wide, sizes.keys, sizes.hidden, sizes.seen].map(|n_bytes| room(gpu, n * n_bytes));
    let none = room(gpu, 16);
    let rooms = Rooms { wide: &wide, keys: &keys, hidden: &hidden, seen: &seen };
    let reduced = room(gpu, 4 * n * y_stride);
    let mut recording = Recording::new(gpu);
    let scratch = Scratch { codes: (&none, &none), rooms };
    on_gpu.project(&mut recording, n, (&held(gpu, &padded), q_stride), scratch, (&reduced, y_stride));
    recording.submit(&mut None, None).unwrap();
    values(gpu, &reduced, n * y_stride)
}

#[test]
fn kernels_hold_the_most_tokens_there_may_be() {
    let text = include_str!("../../../shaders/transform_attend.wgsl");
    let most = crate::spec::CNT_MAX.tokens + 1;
    assert!(text.contains(&format!("const TOKENS_MAX = {most}u;")));
}

#[test]
fn networks_are_close_to_the_reference() {
    let (d, s) = (129, 70);
    for gpu in gpus() {
        for sizes in SIZES {
            for metric in [Metric::L2, Metric::Ip] {
                let network = random(d, s, sizes, metric);
                let shape = Shape::new(d, s, sizes);
                for n in [1, 70] {
                    let queries = queries(n, d);
                    let got = project(&gpu, &network, &shape, &queries);
                    for (got, q) in got.chunks_exact(s.next_multiple_of(4)).zip(queries.chunks_exact(d)) {
                        let want = reference::project(&network, q);
                        assert_close(
                            got,
                            &want,
                            &format!("{sizes:?} {metric} {:?}, {n} queries", gpu.tier()),
                        );
                        assert!(got[s..].iter().all(|&v| v == 0.0), "what pads a row is zero");
                    }
                }
            }
        }
    }
}
