//! A pool of ten thousand nodes: what a page weighs, and how much of it is shown.  benches/page measures what it costs.

use tfo_testbed::large::{DRIFTED_EVERY, large_world, name};

use super::{found, page};

const NODES: usize = 10_000;
/// What no page may exceed.
const PAGE_BYTES_MAX: usize = 100 << 10;
/// Nodes on one page.
const ROWS_MAX: usize = 50;

#[test]
fn ten_thousand_nodes_with_the_longest_names_fit_on_small_pages() {
    let mut world = large_world(NODES);
    world.start();
    let rows = |body: &str| found(body, "<tr id=\"node-([^\"]*)\"").into_iter().map(str::to_owned).collect::<Vec<_>>();
    let shown = |path: &str| {
        let begun = tfo_testbed::now();
        let body = page(&world, path);
        println!("{path}: {} bytes after {:?}", body.len(), begun.elapsed());
        assert!(body.len() <= PAGE_BYTES_MAX, "{path}: {} bytes", body.len());
        let rows = rows(&body);
        assert!(rows.len() <= ROWS_MAX, "{path}: {} rows", rows.len());
        (body, rows)
    };
    let (first, _) = shown("/");
    assert!(first.contains("All 10000 nodes") && first.contains("10000 nodes report their keys"), "{first}");
    assert!(first.contains("of 10000 nodes have not reported since this coordinator started"), "{first}");
    let (_, mut listed) = shown("/pools/edge/nodes?state=drifted");
    assert_eq!(listed.len(), ROWS_MAX);
    for page in 2..=3 {
        listed.extend(shown(&format!("/pools/edge/nodes?state=drifted&page={page}")).1);
    }
    listed.sort();
    listed.dedup();
    // The pages have each of them once.
    let all = (0..NODES).filter(|index| index % DRIFTED_EVERY == 1).count();
    assert_eq!(listed.len(), all);
    let (body, rows) = shown("/pools/edge/nodes?page=200");
    assert!(rows.len() == ROWS_MAX && body.contains("Page 200 of 200"), "{body}");
    let (_, rows) = shown("/pools/edge/nodes?search=cp07123.");
    assert_eq!(rows, [name(7_123).to_string()]);
    shown(&format!("/pools/edge/nodes/{}", name(7_123)));
    shown("/pools/edge/audit");
}
