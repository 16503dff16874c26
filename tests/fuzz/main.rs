//! Fuzzing inside the test process, on a stable toolchain.
//!
//! A run mutates seeds and a corpus for 3 seconds, and keeps inputs with new behaviour for further
//! mutation. The assertions of a target have to hold for every input.
//!
//! `PROJECT_WEBHOOKS_FUZZ_SECONDS=3600 cargo test --test fuzz -- --nocapture` runs longer;
//! `PROJECT_WEBHOOKS_SEED` repeats a run. Every run begins with the corpus, `corpus/<target>/`. A
//! run shortens a failing input and writes it there. `PROJECT_WEBHOOKS_FUZZ_KEEP=40` adds up to 40
//! of the inputs that a run found, one for each kind of behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and measure real time"
)]

#[path = "../common/patience.rs"]
mod patience;

mod python;
mod targets;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest input.
const SIZE_MAX: usize = 16 * 1024;
/// The longest time for one input, also on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(20);
/// The most inputs with new behaviour that a run keeps.
const KEPT_MAX: usize = 4_096;

/// Runs an input and returns a number for its kind of behaviour; panics if an assertion fails.
type Target = fn(&[u8]) -> u64;

struct Random(u64);

impl Random {
    /// A number below n (splitmix64).
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % (n.max(1) as u64)).unwrap()
    }
}

/// Changes an input at one to four offsets: bits, bytes, pieces of two inputs, words.
fn mutate(input: &[u8], other: &[u8], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at.min(end)..end].to_vec();
                for _ in 0..1 << random.below(8) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let word = words[random.below(words.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
        bytes.truncate(SIZE_MAX);
    }
    bytes
}

fn fails(target: Target, input: &[u8]) -> bool {
    let began = Instant::now();
    catch_unwind(AssertUnwindSafe(|| target(input))).is_err() || began.elapsed() > TIME_MAX
}

/// Removes pieces of an input for as long as what remains is still `wanted`.
fn shorten(input: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut input = input.to_vec();
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            if wanted(&shorter) {
                input = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

/// Adds up to `n` shortened inputs to the corpus, one for each kind of behaviour.
///
/// It chooses them evenly from the shortest to the longest.
fn keep(name: &str, target: Target, kept: &[Vec<u8>], n: usize) {
    let mut by_length: Vec<&Vec<u8>> = kept.iter().filter(|input| input.len() < 4_096).collect();
    by_length.sort_by_key(|input| input.len());
    let step = by_length.len().div_ceil(n).max(1);
    let mut by_behaviour: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for input in by_length.into_iter().step_by(step) {
        let behaviour = target(input);
        by_behaviour
            .entry(behaviour)
            .or_insert_with(|| shorten(input, |shorter| target(shorter) == behaviour));
    }
    fs::create_dir_all(corpus(name)).unwrap();
    for input in by_behaviour.into_values() {
        let path = corpus(name).join(blake3::hash(&input).to_hex().as_str());
        fs::write(path, input).unwrap();
    }
}

/// The inputs of the corpus, in the order of their names.
fn read_corpus(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus(name))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| fs::read(path).unwrap();
    paths.into_iter().map(read).collect()
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name)
}

fn fuzz(name: &str, target: Target, seeds: Vec<Vec<u8>>, words: &[&str]) {
    let seconds = std::env::var("PROJECT_WEBHOOKS_FUZZ_SECONDS");
    let seconds: u64 = seconds.map_or(3, |seconds| seconds.parse().unwrap());
    let seed = std::env::var("PROJECT_WEBHOOKS_SEED").map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().unwrap(),
    );
    let mut random = Random(seed);
    let mut known = HashSet::new();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut inputs = seeds;
    let replayed = read_corpus(name);
    let keeps = std::env::var("PROJECT_WEBHOOKS_FUZZ_KEEP").ok();
    assert!(
        !replayed.is_empty() || keeps.is_some(),
        "{name} has no corpus"
    );
    inputs.extend(replayed);
    let n_initial = inputs.len();
    inputs.reverse();
    let mut n_runs: u64 = 0;
    let began = Instant::now();
    loop {
        let input = match inputs.pop() {
            Some(initial) => initial,
            None if began.elapsed() >= Duration::from_secs(seconds) => break,
            None => {
                let (one, other) = (random.below(kept.len()), random.below(kept.len()));
                mutate(&kept[one], &kept[other], words, &mut random)
            }
        };
        n_runs += 1;
        let one_began = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| target(&input)));
        if ran.is_err() || one_began.elapsed() > TIME_MAX {
            let short = shorten(&input, |shorter| fails(target, shorter));
            let path = corpus(name).join(format!("{}", blake3::hash(&short).to_hex()));
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&path, &short).unwrap();
            panic!(
                "{name}: fails after {n_runs} runs with PROJECT_WEBHOOKS_SEED={seed} by {:?}. The \
                 corpus now has it as {}; repeat with cargo test --test fuzz {name}",
                String::from_utf8_lossy(&short),
                path.display()
            );
        }
        let behaviour = ran.unwrap_or_default();
        if kept.len() < n_initial || (known.insert(behaviour) && kept.len() < KEPT_MAX) {
            kept.push(input);
        }
    }
    if let Some(n) = keeps {
        keep(name, target, &kept, n.parse().unwrap());
    }
    println!(
        "fuzz {name}: {n_runs} runs in {seconds} s, {n_initial} initial inputs, {} kinds of behaviour, \
         seed {seed}",
        known.len()
    );
}

#[test]
fn project_xml() {
    fuzz(
        "project_xml",
        targets::project_xml,
        targets::documents(),
        targets::XML,
    );
}

#[test]
fn config_yaml() {
    fuzz(
        "config_yaml",
        targets::config_yaml,
        targets::configurations(),
        targets::YAML,
    );
}

#[test]
fn path_templates() {
    fuzz(
        "path_templates",
        targets::path_templates,
        targets::templates(),
        targets::TEMPLATES,
    );
}

#[test]
fn answer_headers() {
    fuzz(
        "answer_headers",
        targets::answer_headers,
        targets::headers(),
        targets::HEADERS,
    );
}

#[test]
fn audit_records() {
    fuzz(
        "audit_records",
        targets::audit_records,
        targets::records(),
        targets::RECORDS,
    );
}

#[test]
fn bodies() {
    fuzz(
        "bodies",
        targets::bodies,
        targets::values(),
        targets::VALUES,
    );
}
