//! The blocks of README.md.

use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// What comes after the opening fence.
    pub language: String,
    /// The words of the comment above it.
    pub marker: Vec<String>,
    /// What is between the fences.
    pub text: String,
}

impl Block {
    /// How it is to be run; empty where nothing says so.
    pub fn kind(&self) -> &str {
        self.marker.first().map_or("", String::as_str)
    }

    /// The word after the kind.
    pub fn argument(&self) -> &str {
        self.marker.get(1).map_or("", String::as_str)
    }
}

/// The directory of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> PathBuf {
    root().join("README.md")
}

/// The whole text.
pub fn text() -> String {
    std::fs::read_to_string(file()).unwrap()
}

/// Every block, in order.
pub fn all() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut marker = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text().lines().enumerate() {
        if let Some(mut block) = open.take() {
            if line == "```" {
                blocks.push(block);
            } else {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            continue;
        }
        // Indented fences and fences of other characters would be missed below.
        let is_fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        if is_fence {
            let language = line.strip_prefix("```").unwrap_or_else(|| {
                panic!("README.md:{}: a fence of another form", index + 1);
            });
            open = Some(Block {
                line: index + 1,
                language: language.to_owned(),
                marker: std::mem::take(&mut marker),
                text: String::new(),
            });
        } else {
            marker = line
                .strip_prefix("<!-- test: ")
                .and_then(|rest| rest.strip_suffix(" -->"))
                .map(|words| words.split(' ').map(str::to_owned).collect())
                .unwrap_or_default();
        }
    }
    assert!(open.is_none(), "the last block is not closed");
    blocks
}

/// The one block of a kind.
pub fn only(kind: &str) -> Block {
    let found: Vec<Block> = all().into_iter().filter(|b| b.kind() == kind).collect();
    let [block] = found.as_slice() else {
        panic!("{} blocks are {kind}", found.len())
    };
    block.clone()
}

/// The block with this kind and argument has to hold this text; with `UPDATE_README` it is made
/// to.
pub fn expect_generated(kind: &str, argument: &str, generated: &str) {
    let block = all()
        .into_iter()
        .find(|block| block.kind() == kind && block.argument() == argument)
        .unwrap_or_else(|| panic!("no block is {kind} {argument}"));
    if block.text != generated && is_updating() {
        return write(&block, generated);
    }
    assert_eq!(
        block.text, generated,
        "README.md:{}: not what the program gives; UPDATE_README=1 cargo test --test readme",
        block.line
    );
}

/// The table below the comment `generated: NAME` has to be this one; with `UPDATE_README` it is made
/// to.
pub fn expect_generated_table(name: &str, generated: &str) {
    let text = text();
    let marker = format!("<!-- generated: {name} -->\n\n");
    let (_, after) = text
        .split_once(&marker)
        .unwrap_or_else(|| panic!("README.md has no table {name}"));
    let found = &after[..table_end(after)];
    if found != generated && is_updating() {
        return replace(&marker, generated, table_end);
    }
    assert_eq!(
        found, generated,
        "README.md: the table {name} is not that of the program; UPDATE_README=1 cargo test --test \
         readme"
    );
}

/// Whether generated blocks are to be written anew.
pub fn is_updating() -> bool {
    std::env::var_os("UPDATE_README").is_some()
}

/// Puts another text into a block.
pub fn write(block: &Block, generated: &str) {
    let marker = format!("<!-- test: {} -->", block.marker.join(" "));
    let opening = format!("{marker}\n```{}\n", block.language);
    replace(&opening, generated, |after| {
        if after.starts_with("```\n") {
            0
        } else {
            after.find("\n```\n").expect("the block is closed") + 1
        }
    });
}

/// Where a table ends.
fn table_end(after: &str) -> usize {
    after.find("\n\n").map_or(after.len(), |end| end + 1)
}

/// Replaces the text after `opening`, up to the end that `end` finds.
fn replace(opening: &str, generated: &str, end: impl Fn(&str) -> usize) {
    // Tests of one binary run side by side, and each may write.
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _writing = WRITING.lock().unwrap();
    let text = text();
    let (before, after) = text.split_once(opening).expect("the opening is there");
    let rest = &after[end(after)..];
    std::fs::write(file(), format!("{before}{opening}{generated}{rest}")).unwrap();
}
