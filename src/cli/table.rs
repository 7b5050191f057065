//! Columns for people.

/// Rows under their headings, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
        widest.max(headings.get(column).map_or(0, |heading| heading.len()))
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&headings.map(str::to_owned));
    std::iter::once(head).chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_spaces_at_their_end() {
        let rows = [["a".into(), "open".into(), "-".into()], ["longer".into(), "-".into(), "x".into()]];
        assert_eq!(table(["NODE", "STATE", "X"], &rows), "NODE    STATE  X\na       open   -\nlonger  -      x");
    }
}
