//! Formats errors and their places.

use std::error::Error;

/// Formats an error with its causes: `error: cause: cause`.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Formats a path below the root with line and column, as compilers do: `path:line:column`.
///
/// The root itself is a dot.
pub(crate) fn location(path: &str, line: Option<u64>, column: Option<u64>) -> String {
    let path = if path.is_empty() { "." } else { path };
    match (line, column) {
        (Some(line), Some(column)) => format!("{path}:{line}:{column}"),
        (Some(line), None) => format!("{path}:{line}"),
        _ => path.to_owned(),
    }
}
