//! `nearfield demo`: a real set, from vectors to measured recall, in a few seconds.
//!
//! 11 000 of WordNet's glosses as sentence embeddings, and 200 glosses held out as queries.

use std::time::Instant;

use ndarray::Array2;
use nearfield::{Index, Metric, SearchParams, Vectors, eval};
use serde_json::json;

use crate::{
    devices::DeviceArgs,
    embedded::{Embedded, N_PROBE, N_RERANK, SPEC},
    error::CliError,
    report,
};

const BASE_TEXT: &str = include_str!("../../../examples/data/wordnet/base.txt");
const QUERY_TEXT: &str = include_str!("../../../examples/data/wordnet/query.txt");

const K: usize = 10;

/// Queries shown, and neighbours of each.
const SHOWN: usize = 4;
const SHOWN_NEIGHBOURS: usize = 3;

pub fn run(args: &DeviceArgs, json: bool) -> Result<(), CliError> {
    let (base, queries) = (Embedded::base(), Embedded::queries());
    let texts: Vec<&str> = BASE_TEXT.lines().collect();
    let query_texts: Vec<&str> = QUERY_TEXT.lines().collect();
    let spec = SPEC.parse().map_err(|e: nearfield::SpecError| CliError::Usage(e.to_string()))?;
    let since = Instant::now();
    let stages = report::Stages::default();
    let progress = |p| stages.update(p);
    let built = Index::builder(spec).metric(Metric::Cosine).seed(7).progress(&progress).build(&base);
    stages.finish();
    let index = built?;
    let build = since.elapsed();

    let searcher = index.searcher(args.device()?)?;
    let params = SearchParams::new(K).n_probe(N_PROBE).n_rerank(N_RERANK);
    let hits = searcher.search_vectors(&queries, params)?;
    let mut rates = Vec::new();
    for _ in 0..20 {
        let since = Instant::now();
        searcher.search_vectors(&queries, params)?;
        rates.push(queries.n_rows() as f64 / since.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let qps = rates[rates.len() / 2];

    let since = Instant::now();
    let truth: Array2<u64> = eval::exact(&base, &queries, Metric::Cosine, K, &|_, _| ())?;
    let exact = since.elapsed();
    let recall = eval::Recall::new(&index, &queries, truth.view(), K)?.with_base(&base)?.of(hits.ids.view());
    let exact_qps = queries.n_rows() as f64 / exact.as_secs_f64();
    if json {
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": "cosine", "n": index.len(), "d": index.dim(),
                "queries": queries.n_rows(), "k": K, "n_probe": N_PROBE, "n_rerank": N_RERANK,
                "device": searcher.device().name, "threads": rayon::current_num_threads(),
                "build_s": build.as_secs_f64(), "index_bytes": index.n_bytes(), "recall": recall, "qps": qps,
                "exact_qps": exact_qps,
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{} WordNet glosses as {}-dimensional sentence embeddings; {} more held out as queries\n",
        base.n_rows(),
        base.dim(),
        queries.n_rows()
    ))?;
    let text = |id: u64| {
        let text = usize::try_from(id).ok().and_then(|i| texts.get(i)).copied().unwrap_or("—");
        let short: String = text.chars().take(58).collect();
        if short.len() < text.len() { format!("{short}…") } else { short }
    };
    let apart = queries.n_rows() / SHOWN;
    for query in (0..SHOWN).map(|i| i * apart) {
        report::line(&format!("“{}”", query_texts.get(query).copied().unwrap_or_default()))?;
        report::line(&format!("    {:<60} exact", "found"))?;
        for i in 0..SHOWN_NEIGHBOURS {
            let (found, want) = (hits.ids[[query, i]], truth[[query, i]]);
            let exact = if found == want { "the same".to_owned() } else { text(want) };
            report::line(&format!("  {:.2} {:<60} {exact}", hits.scores[[query, i]], text(found)))?;
        }
        report::line("")?;
    }
    report::line(&format!("index      {} (cosine), {}", index.spec(), report::bytes(index.n_bytes())))?;
    report::line(&format!("built in   {}", report::duration(build)))?;
    report::line(&format!("device     {}", searcher.device()))?;
    report::line(&format!("recall@{K}  {recall:.3}  (n_probe {N_PROBE}, n_rerank {N_RERANK})"))?;
    report::line(&format!(
        "speed      {qps:.0} queries a second; exact search on {} threads: {exact_qps:.0}",
        rayon::current_num_threads()
    ))
}
