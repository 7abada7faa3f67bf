//! Lists: k-means, copies, the router, and who visits which list.

use super::{
    IndexBuilder,
    objective::{self, Outcome},
    source::{Asked, Source},
};
use crate::{
    lists::Arrangement,
    spec::{IndexSpec, IvfSpec, Milli, ScorerSpec},
    stage::{router::train as router, transform::train::Trained},
    train::{
        ReadRows, generator, grouped,
        kmeans::{self, Objective},
        score_aware::ScoreAware,
    },
};

/// Lists and what scorers are trained on.
pub(super) struct Partition {
    pub centroids: kmeans::Centroids,
    /// How lists were tried, where that was needed.
    pub objective: Option<Outcome>,
    /// A trained router.
    pub router: Option<router::Trained>,
    /// Reduced points, `[n, s]`.
    pub points: Vec<f32>,
    /// Reduced training queries, where they are not the points.
    pub visitors: Option<Vec<f32>>,
    /// Training queries by list: offsets and rows.
    pub visits: (Vec<usize>, Vec<u32>),
}

impl Partition {
    /// Points and training queries by list.
    pub fn grouped<'a>(&'a self, arrangement: &'a Arrangement) -> [grouped::Grouped<'a>; 2] {
        use grouped::{Grouped, Members};
        [
            Grouped {
                vectors: &self.points,
                members: Members { offsets: &arrangement.offsets, rows: &arrangement.rows },
            },
            Grouped {
                vectors: self.visitors.as_deref().unwrap_or(&self.points),
                members: Members { offsets: &self.visits.0, rows: &self.visits.1 },
            },
        ]
    }
}

impl IndexBuilder<'_> {
    /// Finds the lists, trains the router, and says which training queries visit which list.
    pub(super) fn partition(
        &self,
        spec: IndexSpec,
        ivf: IvfSpec,
        base: &Source<'_>,
        queries: Option<&Asked<'_>>,
        transform: Option<&Trained>,
    ) -> (Arrangement, Partition) {
        let n_lists = ivf.n_lists.unwrap_or(1);
        let total = kmeans::ITERATIONS as u64 + 2;
        self.report("partition", 0, total);
        let points = base.reduced(transform);
        let s = transform.map_or(base.vectors.dim(), Trained::s);
        let mut rng = generator(self.seed, "partition");
        let metric = base.frame.stages();
        let is_product = !metric.is_l2();
        let trains_lists = matches!(spec.scorer, ScorerSpec::Rrr { .. } | ScorerSpec::Cnn { .. });
        let is_learned = ivf.router.is_trained();
        let tried = if is_product && ivf.threshold.is_none() {
            let mut rng = generator(self.seed, "objective");
            let asked =
                queries.map(|queries| queries.source.sampled(objective::QUERIES, transform, &mut rng));
            objective::tried(&points, asked, base.frame.has_sides(), s, n_lists, &mut rng)
        } else {
            None
        };
        let by_distance =
            ivf.threshold == Some(Milli(0)) || tried.as_ref().is_some_and(Outcome::takes_distance);
        let objective = match ivf.threshold {
            _ if by_distance => Objective::Distance,
            Some(t) => Objective::ScoreAware(ScoreAware::new(t.value(), &points, s), is_product),
            None if is_product => Objective::Angle,
            None => Objective::Distance,
        };
        let rounds = &kmeans::LIST_ROUNDS;
        let mut centroids = kmeans::train(&points, s, n_lists, objective, rounds, &mut rng, |step| {
            self.report("partition", step as u64, total)
        });
        // Points are their own training queries unless others are given.
        let mut nearest = Vec::new();
        let top = grouped::TRAIN_LISTS.min(n_lists);
        let mut first = Vec::new();
        if by_distance && is_product {
            first = centroids.lists_of(&points);
            centroids = centroids.for_products();
        }
        if trains_lists && queries.is_none() && !is_learned {
            nearest = centroids.nearest(&points, top);
        }
        if first.is_empty() {
            first = if nearest.is_empty() || ivf.threshold.is_some() {
                centroids.lists_of(&points)
            } else {
                nearest.iter().step_by(top).copied().collect()
            };
        }
        self.report("partition", total - 1, total);
        let lists = match (ivf.spill, spec.n_copies()) {
            (Some(spill), n_copies @ 2..) => {
                self.report("copies", 0, 1);
                let further = centroids.spill(&points, &first, n_copies - 1, spill.lambda.value());
                let lists: Vec<u32> = first
                    .iter()
                    .zip(further.chunks_exact(n_copies - 1))
                    .flat_map(|(first, further)| std::iter::once(*first).chain(further.iter().copied()))
                    .collect();
                self.report("copies", 1, 1);
                lists
            }
            _ => first,
        };
        let visitors =
            queries.filter(|_| trains_lists || is_learned).map(|queries| queries.source.reduced(transform));
        let router = is_learned.then(|| {
            let mut rng = generator(self.seed, "routing");
            let request = router::Request {
                metric,
                centroids: &centroids,
                points: base,
                queries: queries.map(|queries| &queries.source as &dyn ReadRows),
                are_points: queries.is_none_or(|queries| queries.are_points),
                reduced: visitors.as_deref().unwrap_or(&points),
            };
            let report = |stage, done, total| self.report(stage, done, total);
            let asked = router::Asked::new(&request, ivf.router.target(), report, &mut rng);
            asked.train(&centroids, &lists, spec.n_copies(), ivf.router.width(), report, &mut rng)
        });
        let arrangement = Arrangement::of(&lists, spec.n_copies(), n_lists);
        drop(lists);
        // Rows of vectors as they are are read again.
        let keeps = transform.is_some() || trains_lists || matches!(spec.scorer, ScorerSpec::Pq { .. });
        let mut partition = Partition {
            centroids,
            objective: tried,
            points: if keeps { points } else { Vec::new() },
            router,
            visitors: None,
            visits: (Vec::new(), Vec::new()),
        };
        if trains_lists {
            if nearest.is_empty() {
                let ranked_by =
                    partition.router.as_ref().map_or(&partition.centroids, |router| &router.weights);
                nearest = ranked_by.nearest(visitors.as_deref().unwrap_or(&partition.points), top);
            }
            partition.visitors = visitors;
            let (offsets, mut rows) = kmeans::group(&nearest, n_lists);
            for row in &mut rows {
                *row /= u32::try_from(top).unwrap_or(1);
            }
            partition.visits = (offsets, rows);
        }
        self.report("partition", total, total);
        (arrangement, partition)
    }
}
