//! Costs of projects that were copied from a template and share one engineId.

use super::*;

/// Directories of one organization with the same project.
fn copies(home: &Home, names: impl Iterator<Item = usize>) {
    for number in names {
        let content = xml("Template", "id-of-all", "one");
        home.write(&format!("sales/p{number}/project.xml"), &content);
    }
}

/// The looks of a first start, and of another copy later.
fn looks(test: &str, n: usize) -> Option<(usize, usize)> {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    copies(&home, 0..n);
    let (daemon, trace) = Trace::start(test, &home)?;
    let first = trace.since(0).looks();
    daemon.fence();
    let begin = trace.now();
    const LATER: usize = 8;
    for number in n..n + LATER {
        copies(&home, number..=number);
        daemon.fence();
    }
    Some((first, trace.since(begin).looks()))
}

#[test]
fn copies_of_a_template_are_not_observed_again_for_each_other() {
    const N: usize = 100;
    let test = "copies_of_a_template_are_not_observed_again_for_each_other";
    let Some((few, later_few)) = looks(test, N) else {
        return;
    };
    let Some((many, later_many)) = looks(test, 4 * N) else {
        return;
    };
    // The cost of the daemon's own files is in both, so four times is the upper limit.
    assert!(many <= 5 * few, "{few} looks for {N}, {many} for {}", 4 * N);
    // The first of the later copies may be a move of any of them.
    let bound = later_few + 20 * 3 * N;
    assert!(later_many <= bound, "{later_few} looks, {later_many} later");
}
