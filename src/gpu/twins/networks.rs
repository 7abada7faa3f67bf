//! Networks, whole: floats in another order, so results are close.

use super::{gpus, held, room, slots, values};
use crate::{
    gpu::{
        Buffer, Gpu,
        kernel::Plan,
        layout::{ScanParams, narrow},
        primitives::PairInputs,
        recording::Recording,
    },
    metric::Metric,
    network::conv::{self, gpu as on_device},
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

/// What becomes of queries behind networks of two lists: `work` as slots see it.
fn moved(
    gpu: &Gpu,
    networks: &conv::Networks,
    queries: &[f32],
    work: on_device::Work<'_>,
    (list_from, list_to): (usize, usize),
    n_slots: usize,
) -> Vec<f32> {
    let shape = networks.shape;
    let stride = shape.s + 3;
    let padded: Vec<f32> = queries.chunks_exact(shape.s).flat_map(|q| [q, &[f32::NAN; 3]].concat()).collect();
    let on_gpu = on_device::GpuNetworks::new(gpu, networks).unwrap();
    let weights = on_device::GpuNetworks::weights(gpu, networks).unwrap();
    let sizes = on_device::Rooms::of(&shape);
    let [wide, between] = [sizes.wide, sizes.between].map(|n_bytes| room(gpu, n_slots * n_bytes));
    let rooms = on_device::Rooms { wide: &wide, between: &between };
    let t = room(gpu, 4 * n_slots * shape.s);
    let mut recording = Recording::new(gpu);
    let weights = on_device::Weights { buffer: &weights, list_from, list_to };
    on_gpu.forward(&mut recording, work, weights, (&held(gpu, &padded), stride), rooms, &t);
    recording.submit(&mut None, None).unwrap();
    values(gpu, &t, n_slots * shape.s)
}

#[test]
fn convolutional_networks_are_close_to_the_reference() {
    let n_rows = 6;
    for gpu in gpus() {
        for shape in conv::tests::SHAPES {
            let networks = conv::tests::random(shape, 2);
            let queries = conv::tests::queries(n_rows, shape.s);
            let check = |got: &[f32], slot: usize, row: usize, list: usize, what: &str| {
                let want = conv::reference::forward(networks.of(list), &queries[row * shape.s..][..shape.s]);
                let what = format!("{shape:?} {:?} {what}, slot {slot}", gpu.tier());
                conv::tests::assert_close(&got[slot * shape.s..][..shape.s], &want, &what);
            };
            let any = room(&gpu, 16);
            let work = on_device::Work::Rows(n_rows, &any);
            let got = moved(&gpu, &networks, &queries, work, (0, 2), n_rows);
            (0..n_rows).for_each(|row| check(&got, row, row, 0, "rows"));

            // Each query reads list 1, then list 0; or list by list, the queries of the first in reverse.
            let n_slots = 2 * n_rows;
            let routed: Vec<[u32; 2]> = (0..n_rows).flat_map(|_| [[0, 1], [0, 0]]).collect();
            let mut by_list = slots(Plan::ClusterMajor, n_rows);
            by_list.extend((0..n_rows).map(|row| [narrow(row), 0]));
            let groups = [0, narrow(n_rows), narrow(n_slots), 0, 0, 0];
            let params = ScanParams {
                n_lists: 2,
                n_probe: 2,
                n_probes: 2,
                n_slots: narrow(n_slots),
                ..Default::default()
            };
            for (plan, pairs) in [(Plan::QueryMajor, &routed), (Plan::ClusterMajor, &by_list)] {
                let [groups, pairs]: [Buffer; 2] = [held(&gpu, &groups), held(&gpu, pairs)];
                let inputs = PairInputs { lists: &any, groups: &groups, slots: &pairs, plan };
                let work = on_device::Work::Pairs(&params, inputs);
                let got = moved(&gpu, &networks, &queries, work, (0, 2), n_slots);
                for slot in 0..n_slots {
                    let (row, list) = match plan {
                        Plan::QueryMajor => (slot / 2, 1 - slot % 2),
                        Plan::ClusterMajor if slot < n_rows => (n_rows - 1 - slot, 0),
                        Plan::ClusterMajor => (slot - n_rows, 1),
                    };
                    check(&got, slot, row, list, &format!("{plan:?}"));
                }
                // Of a page without list 1 nothing is made for its slots.
                let got = moved(&gpu, &networks, &queries, work, (0, 1), n_slots);
                let slot = if plan == Plan::QueryMajor { 0 } else { n_rows };
                assert!(got[slot * shape.s..][..shape.s].iter().all(|&v| v == 0.0), "{plan:?}");
            }
        }
    }
}
