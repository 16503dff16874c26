//! A million rows must cost no more than ten: the frequent statements use their index and sort
//! nothing.

use crate::store::{Store, queue, record, retention, webhooks};

#[test]
fn frequent_statements_search_an_index_and_sort_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let cases = [
        (queue::HEADS, "COVERING INDEX lanes_due"),
        (queue::LANE_HEAD, "INDEX deliveries_lane"),
        (webhooks::OLDEST_PENDING, "COVERING INDEX lanes_waiting"),
        (webhooks::NEXT_ATTEMPT, "COVERING INDEX lanes_due"),
        (retention::FINISHED, "INDEX deliveries_finished"),
        (retention::EVENTS_FINISHED, "INDEX events_finished"),
        (record::WITH_IDENTITY, "INDEX files_identity"),
        (
            "SELECT id FROM payloads WHERE n_references = 0 LIMIT 1",
            "INDEX payloads_unreferenced",
        ),
    ];
    for (sql, index) in cases {
        let plan = store
            .read_blocking(move |connection| {
                let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                // Unbound parameters are NULL, which the plan does not depend on.
                let mut rows = statement.raw_query();
                let mut plan = Vec::new();
                while let Some(row) = rows.next()? {
                    plan.push(row.get::<_, String>(3)?);
                }
                Ok(plan.join("\n"))
            })
            .unwrap();
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        let scans_all = plan.contains("SCAN") && !plan.contains("payloads_unreferenced");
        assert!(!scans_all, "{sql}\n{plan}");
    }
}
