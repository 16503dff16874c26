//! Tables, and how numbers are written in them.

/// A table of which all rows have as many cells as the head.
pub struct Table {
    /// What the columns are.
    pub head: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// As Markdown has it.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.head) + &rule + &rows
    }

    /// With columns of spaces, for a terminal.
    pub fn aligned(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..).map_while(width).collect();
        let mut said = String::new();
        for row in all() {
            let line: String = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            said.push_str(line.trim_end());
            said.push('\n');
        }
        said.replace('`', "")
    }
}

/// As a latency is written.
pub fn milliseconds(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2} ms")
    } else {
        format!("{value:.0} ms")
    }
}

/// As a start is written.
pub fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

/// Of kilobytes as the kernel counts them.
pub fn megabytes(kilobytes: f64) -> String {
    format!("{:.0} MB", kilobytes * 1024.0 / 1e6)
}

/// As a rate is written.
pub fn per_second(value: f64) -> String {
    format!("{}/s", integer(value))
}

/// To the next whole number, with commas.
pub fn integer(value: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "none is negative"
    )]
    let value = value.round() as u64;
    thousands(value)
}

/// With commas.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut said = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            said.push(',');
        }
        said.push(digit);
    }
    said
}
