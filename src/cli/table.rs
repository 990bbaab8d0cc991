//! Columns of text, as wide as their widest cell, two spaces apart, without control characters.  A table that is too wide
//! for its terminal gives columns up, in an order of its own, or shortens them; it never wraps.

use std::io::{self, Write};

use owo_colors::{AnsiColors, OwoColorize};

use super::plain::plain;

/// Between two columns.
const GAP: &str = "  ";

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<AnsiColors>,
}

impl Cell {
    /// A cell in this colour, on terminals that welcome it.
    #[must_use]
    pub fn coloured(text: impl Into<String>, colour: AnsiColors) -> Self {
        Self { colour: Some(colour), ..Self::from(text.into()) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text: plain(&text), colour: None }
    }
}

/// What a table that is too wide does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Give {
    /// It leaves out the column with this heading.
    Drop(&'static str),
    /// It shortens the column with this heading, to this width at least.
    Shorten(&'static str, usize),
}

/// Rows under a heading.
#[derive(Debug)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
    dropped: Vec<bool>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            headings: headings.iter().map(|heading| (*heading).to_owned()).collect(),
            rows: Vec::new(),
            widths: headings.iter().map(|heading| heading.chars().count()).collect(),
            dropped: vec![false; headings.len()],
        }
    }

    /// Adds a row.
    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(cells);
    }

    /// Fits it into so many columns of a terminal, if the steps suffice.
    pub fn fit(&mut self, columns: usize, steps: &[Give]) {
        for step in steps {
            let excess = self.width().saturating_sub(columns);
            if excess == 0 {
                return;
            }
            let (Give::Drop(heading) | Give::Shorten(heading, _)) = step;
            let Some(at) = self.headings.iter().position(|own| own == heading) else { continue };
            match step {
                Give::Drop(_) => self.dropped[at] = true,
                Give::Shorten(_, least) => {
                    let least = (*least).min(self.widths[at]);
                    self.widths[at] = self.widths[at].saturating_sub(excess).max(least);
                }
            }
        }
    }

    /// Columns of a terminal that it takes.
    fn width(&self) -> usize {
        let shown = self.widths.iter().zip(&self.dropped).filter(|(_, dropped)| !**dropped);
        shown.map(|(width, _)| width + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
    }

    /// Its heading, without spaces at the end.
    #[must_use]
    pub fn heading(&self) -> String {
        let cells: Vec<Cell> = self.headings.iter().cloned().map(Cell::from).collect();
        self.line(&cells, false)
    }

    /// Its rows, likewise.
    pub fn lines(&self, colours: bool) -> impl Iterator<Item = String> {
        self.rows.iter().map(move |row| self.line(row, colours))
    }

    fn line(&self, cells: &[Cell], colours: bool) -> String {
        let shown: Vec<(&Cell, usize)> = cells
            .iter()
            .zip(&self.widths)
            .zip(&self.dropped)
            .filter(|(_, dropped)| !**dropped)
            .map(|((cell, width), _)| (cell, *width))
            .collect();
        let last = shown.iter().rposition(|(cell, _)| !cell.text.is_empty());
        let mut line = String::new();
        for (index, (cell, width)) in shown.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            let text = shortened(&cell.text, *width);
            let padding = width - text.chars().count().min(*width);
            match cell.colour.filter(|_| colours) {
                Some(colour) => line += &text.color(colour).to_string(),
                None => line += &text,
            }
            if Some(index) != last {
                line += &" ".repeat(padding);
                line += GAP;
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Writes it, without spaces at the ends of lines.
    ///
    /// # Errors
    /// Fails if `out` cannot be written.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.heading())?;
        self.lines(false).try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// The text in at most so many columns; what was cut shows as `…`.
fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&["A", "LONGER"]);
        table.row(["wide cell".to_owned(), String::new()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A          LONGER\nwide cell\n");
    }

    #[test]
    fn a_wide_table_gives_up_columns_in_its_order_and_shortens_others() {
        let mut table = Table::new(&["NAME", "KEY", "WHY"]);
        table.row(["n1", "0123456789", "a long reason"].map(str::to_owned));
        let steps = [Give::Drop("KEY"), Give::Shorten("WHY", 5), Give::Shorten("NAME", 2)];
        let lines = |columns: usize, table: &mut Table| {
            table.fit(columns, &steps);
            [table.heading(), table.lines(false).next().unwrap()]
        };
        assert_eq!(lines(31, &mut table), ["NAME  KEY         WHY", "n1    0123456789  a long reason"]);
        assert_eq!(lines(30, &mut table), ["NAME  WHY", "n1    a long reason"]);
        assert_eq!(lines(12, &mut table), ["NAME  WHY", "n1    a lon…"]);
        assert_eq!(lines(1, &mut table), ["N…  WHY", "n1  a lo…"]);
    }

    #[test]
    fn colours_are_written_only_where_they_are_welcome_and_take_no_room() {
        let mut table = Table::new(&["STATE", "N"]);
        table.row([Cell::coloured("bad", AnsiColors::Red), Cell::from("1".to_owned())]);
        assert_eq!(table.lines(false).next().unwrap(), "bad    1");
        assert_eq!(table.lines(true).next().unwrap(), "\u{1b}[31mbad\u{1b}[39m    1");
    }
}
