//! Tables and the format of their numbers.

/// A table. All rows have as many cells as the head.
pub struct Table {
    /// The titles of the columns.
    pub head: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.head) + &rule + &rows
    }

    /// The table with aligned columns, for a terminal.
    pub fn aligned(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..).map_while(width).collect();
        let mut text = String::new();
        for row in all() {
            let line: String = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.replace('`', "")
    }
}

/// Formats a latency.
pub fn milliseconds(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2} ms")
    } else {
        format!("{value:.0} ms")
    }
}

/// Formats the time of a start.
pub fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

/// Formats kilobytes of the kernel, which have 1,024 bytes.
pub fn megabytes(kilobytes: f64) -> String {
    format!("{:.0} MB", kilobytes * 1024.0 / 1e6)
}

/// Formats a rate.
pub fn per_second(value: f64) -> String {
    format!("{}/s", integer(value))
}

/// Formats a number rounded, with commas.
pub fn integer(value: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "none is negative"
    )]
    let value = value.round() as u64;
    thousands(value)
}

/// Formats a whole number with commas.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
