//! Figures from many numbers: percentiles, means, fairness; and how they are printed.

/// The value that a share of the numbers does not exceed (nearest rank); NaN of none.
pub fn percentile(numbers: &[f64], share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The value in the middle; of an even count, the mean of the two.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The mean; NaN of none.
pub fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// Jain's index: 1 when all have the same, `1/n` when one has all; NaN of none.
pub fn jain(numbers: &[f64]) -> f64 {
    let (sum, squares) = (numbers.iter().sum::<f64>(), numbers.iter().map(|number| number * number).sum::<f64>());
    sum * sum / (numbers.len() as f64 * squares)
}

/// A number with a fitting count of decimals; `-` for none.
pub fn short(number: f64) -> String {
    match number.abs() {
        _ if number.is_nan() => "-".to_owned(),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Prints a table, in Markdown, with columns as wide as they need be.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("| {} |", padded.join(" | "));
    };
    line(&mut head.iter().copied());
    println!("|{}|", widths.iter().map(|width| format!("{}:", "-".repeat(width + 1))).collect::<Vec<_>>().join("|"));
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
}

/// Prints a mark that a figure is held against.
pub fn mark(what: &str, good: bool) -> bool {
    println!("  {} {what}", if good { "ok  " } else { "MISS" });
    good
}
