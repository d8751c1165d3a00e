//! The picture: Ringmaster's ratios to Valkey as bars with their spread, beside the goals.

use std::fmt::Write as _;

use crate::results::Results;

const BAR_PX: usize = 22;
const LEFT_PX: f64 = 330.0;
const WIDTH_PX: f64 = 420.0;
/// What the right edge stands for.
const RATIO_MAX: f64 = 1.6;

/// Only measures with a goal are drawn.
pub(crate) fn ratios(all: &[Results]) -> String {
    let measures = all.iter().flat_map(|results| &results.measures).filter(|measure| measure.goal.is_some());
    let rows: Vec<_> =
        measures.filter_map(|measure| Some((measure, measure.goal?, measure.ratio("Ringmaster", "Valkey")?))).collect();
    let height = rows.len() * BAR_PX + 60;
    let total = LEFT_PX + WIDTH_PX + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Ringmaster / Valkey: less is better (bar: median; line: least to greatest; red: goal)</text>\n"
    );
    for (row, (measure, goal, ratio)) in rows.iter().enumerate() {
        let y = row * BAR_PX + 34;
        let (text_y, line_y) = (y + 13, y + 8);
        let x = |ratio: f64| LEFT_PX + ratio.min(RATIO_MAX) / RATIO_MAX * WIDTH_PX;
        let colour = if ratio.median <= *goal { "#4c9f70" } else { "#8fa3b8" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{text_y}\" text-anchor=\"end\">{}, {}</text>\
             <rect x=\"{LEFT_PX}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{line_y}\" y2=\"{line_y}\" stroke=\"black\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{}\" stroke=\"red\" stroke-width=\"2\"/>\
             <text x=\"{:.0}\" y=\"{text_y}\">{:.2}</text>",
            LEFT_PX - 8.0,
            measure.table,
            measure.name,
            x(ratio.median) - LEFT_PX,
            x(ratio.min),
            x(ratio.max),
            x(*goal),
            x(*goal),
            y + 16,
            x(ratio.median.max(ratio.max)) + 5.0,
            ratio.median,
        );
    }
    let one = LEFT_PX + WIDTH_PX / RATIO_MAX;
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"30\" y2=\"{}\" stroke=\"gray\" stroke-dasharray=\"4\"/>\
         <text x=\"{one:.1}\" y=\"{}\" text-anchor=\"middle\">1 = Valkey</text>\n</svg>",
        height - 22,
        height - 8,
    );
    svg
}
