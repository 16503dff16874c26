//! The pages of the documentation and their fenced blocks.

use std::path::Path;
use std::sync::Mutex;

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The page, relative to the package.
    pub page: String,
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The word after the opening fence.
    pub language: String,
    /// The comment above it, without its brackets.
    comment: String,
    /// The lines between the fences.
    pub text: String,
}

impl Block {
    /// The kind of the block: how a test runs it. Empty if no comment says so.
    pub fn kind(&self) -> &str {
        self.words().next().unwrap_or_default()
    }

    /// The word after the kind.
    pub fn argument(&self) -> &str {
        self.words().nth(1).unwrap_or_default()
    }

    /// Whether a word follows the kind.
    pub fn has(&self, word: &str) -> bool {
        self.words().skip(1).any(|found| found == word)
    }

    /// Page and line, for messages.
    pub fn position(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        let words = self.comment.strip_prefix("test: ");
        words.unwrap_or(&self.comment).split(' ')
    }
}

/// The directory of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that readers see: README.md first, the order in which the tour reads them.
pub fn pages() -> Vec<String> {
    let mut pages: Vec<String> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    pages.sort();
    assert!(pages.len() >= 7, "{pages:?}");
    let first = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];
    first.map(str::to_owned).into_iter().chain(pages).collect()
}

/// The text of a page.
pub fn text(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

/// Every block of every page, in order.
pub fn all() -> Vec<Block> {
    pages().iter().flat_map(|page| of(page)).collect()
}

fn of(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut comment = String::new();
    let mut open: Option<Block> = None;
    for (index, line) in text(page).lines().enumerate() {
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
        // The code below would miss indented fences and fences of other characters.
        let is_fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        if is_fence {
            let language = line.strip_prefix("```").unwrap_or_else(|| {
                panic!("{page}:{}: a fence of another form", index + 1);
            });
            open = Some(Block {
                page: page.to_owned(),
                line: index + 1,
                language: language.to_owned(),
                comment: std::mem::take(&mut comment),
                text: String::new(),
            });
        } else {
            comment = line
                .strip_prefix("<!-- ")
                .and_then(|rest| rest.strip_suffix(" -->"))
                .unwrap_or_default()
                .to_owned();
        }
    }
    assert!(open.is_none(), "{page}: the last block is not closed");
    blocks
}

/// The only block of a kind.
pub fn only(kind: &str) -> Block {
    let found: Vec<Block> = all().into_iter().filter(|b| b.kind() == kind).collect();
    let [block] = found.as_slice() else {
        panic!("{} blocks are {kind}", found.len())
    };
    block.clone()
}

/// Compares the block of this kind and argument with a generated text.
pub fn expect_generated(kind: &str, argument: &str, generated: &str) {
    let block = all()
        .into_iter()
        .find(|block| block.kind() == kind && block.argument() == argument)
        .unwrap_or_else(|| panic!("no block is {kind} {argument}"));
    let opening = format!("<!-- {} -->\n```{}\n", block.comment, block.language);
    expect_between(&block.page, &opening, "```\n", generated);
}

/// Compares the text between two marks with a generated one; with `UPDATE_DOCS` replaces it.
pub fn expect_between(page: &str, opening: &str, closing: &str, generated: &str) {
    // Tests of one binary run side by side, and each may write.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock();
    let whole = text(page);
    let (before, rest) = whole.split_once(opening).unwrap_or_else(|| {
        panic!("{page} has no {opening}");
    });
    let end = rest
        .match_indices(closing)
        .map(|(at, _)| at)
        .find(|at| *at == 0 || rest[..*at].ends_with('\n'))
        .unwrap_or_else(|| panic!("{page}: {opening} is not closed"));
    let (present, after) = rest.split_at(end);
    if present != generated && is_updating() {
        std::fs::write(
            root().join(page),
            format!("{before}{opening}{generated}{after}"),
        )
        .unwrap();
        return;
    }
    assert_eq!(
        present, generated,
        "{page}: the program gives another text; run UPDATE_DOCS=1 cargo test --test docs"
    );
}

/// Whether the tests replace generated blocks.
pub fn is_updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}
