//! Grouping, selecting, sorting.

use rand::RngExt as _;

use super::{gpus, held, random, room, run, values};
use crate::{
    gpu::{
        kernel::{Kernel, SortSize, Tie},
        layout::{Head, RowState, ScanParams, SelectParams, SortParams, narrow},
        primitives,
        recording::Recording,
    },
    topk::order_key,
};

#[test]
fn pairs_are_grouped_by_list() {
    for gpu in gpus() {
        let mut rng = random(4);
        for (n_rows, n_probe, n_lists) in [
            (1, 1, 1),
            (3, 2, 5),
            (70, 9, 257),
            (300, 4, 1000),
            (90, 30, 2047),
            (90, 30, 2049),
            (60, 50, 5000),
        ] {
            let routed: Vec<[u32; 2]> = (0..n_rows)
                .flat_map(|_| rand::seq::index::sample(&mut rng, n_lists, n_probe).into_vec())
                .map(|list| [0, narrow(list)])
                .collect();
            // Lists of 0, 100, 200, .. points: tiles of 256 points.
            let mut position = 0;
            let mut lists = vec![[0_u32, 0]];
            for list in 0..n_lists {
                position += list % 7 * 100;
                lists.push([narrow(position), 0]);
            }
            let params = ScanParams {
                grid_width: gpu.grid_width(),
                n_lists: narrow(n_lists),
                n_probe: narrow(n_probe),
                n_probes: narrow(n_probe),
                n_slots: narrow(n_rows * n_probe),
                tile_points: 256,
                page_to: narrow(position),
                round_to: u32::MAX,
                ..Default::default()
            };
            let n_slots = n_rows * n_probe;
            let (routed_on, lists_on) = (held(&gpu, &routed), held(&gpu, &lists));
            let [counts, ranks, groups, grid, slots] =
                [n_lists * 4, n_slots * 4, (n_lists + 1) * 8, 16, n_slots * 8].map(|bytes| room(&gpu, bytes));
            let mut recording = Recording::new(&gpu);
            let pairs = primitives::PairBuffers {
                routed: &routed_on,
                lists: &lists_on,
                counts: &counts,
                ranks: &ranks,
                groups: &groups,
                grid: &grid,
                slots: &slots,
            };
            primitives::group(&mut recording, &params, pairs);
            recording.submit(&mut None, None).unwrap();
            let groups: Vec<u32> = values(&gpu, &groups, 2 * (n_lists + 1));
            let slots: Vec<[u32; 2]> = values(&gpu, &slots, n_slots);
            let mut work = 0;
            for list in 0..n_lists {
                let (from, to) = (groups[list] as usize, groups[list + 1] as usize);
                let mut want: Vec<u32> = (0..n_slots)
                    .filter(|pair| routed[*pair][1] as usize == list)
                    .map(|pair| narrow(pair / n_probe))
                    .collect();
                let mut got: Vec<u32> = slots[from..to].iter().map(|slot| slot[0]).collect();
                got.sort_unstable();
                want.sort_unstable();
                assert_eq!(got, want, "list {list}");
                assert_eq!(groups[n_lists + 1 + list], work, "first workgroup of list {list}");
                work += narrow(want.len().div_ceil(8) * (list % 7 * 100).div_ceil(256));
            }
            assert_eq!(groups[2 * n_lists + 1], work);
            assert_eq!(values::<u32>(&gpu, &grid, 3), [work, u32::from(work > 0), 1]);
        }
    }
}

#[test]
fn selecting_and_sorting_follow_the_one_order() {
    for gpu in gpus() {
        let mut rng = random(5);
        for count in [0_usize, 1, 2, 255, 256, 257, 1000, 5000] {
            for keep in [1, 10, 300, 1500] {
                // Few distinct keys, so that ties are many; ids in another order than positions.
                let spread = [3, 1 << 20][count % 2];
                let n_rows = 3;
                let stride = count.max(keep).max(1);
                let mut ties: Vec<u32> = (0..narrow(stride)).collect();
                for i in (1..ties.len()).rev() {
                    ties.swap(i, rng.random_range(0..=i));
                }
                let mut rows = vec![[u32::MAX, 0]; n_rows * stride];
                for row in rows.chunks_mut(stride) {
                    for (position, candidate) in row[..count].iter_mut().enumerate() {
                        *candidate = [order_key(rng.random_range(-spread..spread) as f32), narrow(position)];
                    }
                }
                let states = vec![RowState { count: narrow(count), floor: 0 }; n_rows];
                let (candidates, states, ties_on) =
                    (held(&gpu, &rows), held(&gpu, &states), held(&gpu, &ties));
                let width = gpu.grid_width();
                let select =
                    SelectParams { grid_width: width, n_rows: 3, stride: narrow(stride), keep: narrow(keep) };
                run(&gpu, Kernel::Select(Tie::Id), &select, &[&candidates, &states, &ties_on], n_rows);
                let kept = count.min(keep);
                let after: Vec<RowState> = values(&gpu, &states, n_rows);
                assert!(
                    after.iter().all(|state| state.count as usize == kept),
                    "{count} cut to {keep}: {after:?}"
                );
                let n_out = keep + 2;
                let sort = SortParams {
                    grid_width: width,
                    n_rows: 3,
                    stride: narrow(stride),
                    len: narrow(keep),
                    half_len: narrow(keep.next_power_of_two() / 2),
                    n_out: narrow(n_out),
                    ..Default::default()
                };
                let heads = held(&gpu, &[Head::default(); 3]);
                for size in [SortSize::of(keep), SortSize::Storage] {
                    let sorted = room(&gpu, n_rows * n_out * 8);
                    // The sort in place spoils its input: on a copy.
                    let copy = held(&gpu, &values::<[u32; 2]>(&gpu, &candidates, n_rows * stride));
                    let bindings = [&copy, &states, &ties_on, &heads, &sorted];
                    run(&gpu, Kernel::Sort(Tie::Id, size), &sort, &bindings, n_rows);
                    let sorted: Vec<[u32; 2]> = values(&gpu, &sorted, n_rows * n_out);
                    for (row, got) in rows.chunks(stride).zip(sorted.chunks(n_out)) {
                        let mut want: Vec<[u32; 2]> = row[..count]
                            .iter()
                            .map(|[key, position]| [*key, ties[*position as usize]])
                            .collect();
                        want.sort_unstable();
                        want.truncate(keep);
                        want.resize(n_out, [u32::MAX; 2]);
                        assert_eq!(got, want, "{count} cut to {keep}");
                    }
                }
            }
        }
    }
}
