//! Columns for people.

use super::harmless;

/// Rows under their heads, each column as wide as its widest cell; the last one is not filled up.
pub fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| harmless(cell))).collect();
    let mut widths = heads.map(|head| head.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&widths, heads);
    for row in &rows {
        text.push_str(&line(&widths, row.each_ref().map(String::as_str)));
    }
    text
}

fn line<const N: usize>(widths: &[usize; N], cells: [&str; N]) -> String {
    let filled: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", filled.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".to_owned(), "long".to_owned()], ["wide\t".to_owned(), String::new()]];
        assert_eq!(table(["ID", "X"], &rows), "ID      X\na       long\nwide\\t\n");
    }
}
