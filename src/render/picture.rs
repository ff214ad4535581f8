//! Histograms as standalone images, SVG and PNG alike: linear bars with a title and axes.

use std::fmt::Write;

use font8x8::UnicodeFonts;

use crate::base::{Error, Result, text, units};

const WIDTH: usize = 720;
const HEIGHT: usize = 360;
const LEFT: usize = 92;
const RIGHT: usize = 24;
const TOP: usize = 44;
const BOTTOM: usize = 56;

/// Maximum number of labels of an axis.
const TICKS: usize = 5;

/// A histogram to draw.
#[derive(Debug)]
pub struct Plot {
    /// Name and type of the tensor.
    pub title: String,
    /// Title of the horizontal axis: `value`.
    pub axis: String,
    /// Counts.
    pub counts: Vec<u64>,
    /// Edges of the bars: one more than counts.
    pub edges: Vec<f64>,
}

/// A shape of the picture.
enum Shape {
    /// Left, top, width, height.
    Bar([usize; 4]),
    /// A horizontal line of the grid, at this height.
    Grid(usize),
    /// Text with the position of its anchor on the baseline.
    Text(usize, usize, Anchor, String),
}

#[derive(Clone, Copy, PartialEq)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Plot {
    fn shapes(&self) -> Vec<Shape> {
        let (wide, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let most = self.counts.iter().copied().max().unwrap_or(0);
        let step = nice(most.div_ceil(TICKS as u64 - 1).max(1));
        let steps = most.div_ceil(step).max(1);
        let height = |count: u64| (u128::from(count) * tall as u128 / (u128::from(steps) * u128::from(step))) as usize;
        let base = HEIGHT - BOTTOM;
        let mut shapes = Vec::new();
        for tick in 0..=steps {
            let count = tick.saturating_mul(step);
            let y = base - height(count);
            shapes.push(Shape::Grid(y));
            shapes.push(Shape::Text(LEFT - 8, y + 4, Anchor::End, units::grouped(count)));
        }
        let bars = self.counts.len().max(1);
        let edge = |bar: usize| LEFT + bar * wide / bars;
        for (bar, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let height = height(count).max(1);
            shapes.push(Shape::Bar([edge(bar), base - height, (edge(bar + 1) - edge(bar)).saturating_sub(1).max(1), height]));
        }
        for tick in 0..TICKS {
            let bar = tick * bars / (TICKS - 1);
            let anchor = [Anchor::Start, Anchor::Middle, Anchor::Middle, Anchor::Middle, Anchor::End][tick];
            if let Some(&value) = self.edges.get(bar) {
                shapes.push(Shape::Text(edge(bar), base + 18, anchor, units::general(value, 4)));
            }
        }
        shapes.push(Shape::Text(LEFT + wide / 2, HEIGHT - 12, Anchor::Middle, self.axis.clone()));
        shapes.push(Shape::Text(LEFT + wide / 2, 24, Anchor::Middle, self.title.clone()));
        shapes.push(Shape::Text(LEFT - 8, 24, Anchor::End, "count".to_owned()));
        shapes
    }
}

/// Returns the smallest of 1, 2, 5, 10, 20, 50 ... that is not below `step`.
fn nice(step: u64) -> u64 {
    let mut unit = 1u64;
    loop {
        if let Some(found) = [1, 2, 5].into_iter().filter_map(|digit| unit.checked_mul(digit)).find(|&nice| nice >= step) {
            return found;
        }
        match unit.checked_mul(10) {
            Some(larger) => unit = larger,
            None => return step,
        }
    }
}

/// Returns the histogram as SVG, which follows the viewer's light or dark mode.
pub fn svg(plot: &Plot) -> String {
    let style = "<style>svg{background:#fff}text{font:14px system-ui,sans-serif;fill:#1b1f24}.bar{fill:#4c78a8}.grid{stroke:#d0d7de}\
                 @media(prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#e6edf3}.bar{fill:#7aa6d6}.grid{stroke:#30363d}}</style>";
    element(plot, "xmlns=\"http://www.w3.org/2000/svg\" ", style) + "\n"
}

/// Returns the histogram as an element of a page, which has the style of the classes `bar` and `grid`.
pub fn inline(plot: &Plot) -> String {
    element(plot, "class=\"plot\" ", "")
}

fn element(plot: &Plot, attributes: &str, style: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let (mut bars, mut grid, mut texts) = (String::new(), String::new(), String::new());
    for shape in plot.shapes() {
        let _ = match shape {
            Shape::Bar([x, y, width, height]) => write!(bars, "M{x} {y}h{width}v{height}h-{width}z"),
            Shape::Grid(y) => write!(grid, "M{LEFT} {y}.5H{}", WIDTH - RIGHT),
            Shape::Text(x, y, anchor, text) => {
                let anchor = match anchor {
                    Anchor::Start => "",
                    Anchor::Middle => " text-anchor=\"middle\"",
                    Anchor::End => " text-anchor=\"end\"",
                };
                write!(texts, "<text x=\"{x}\" y=\"{y}\"{anchor}>{}</text>", escape(&text::escape(&text)))
            }
        };
    }
    format!(
        "<svg {attributes}viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{}\">{style}\
         <path class=\"grid\" d=\"{grid}\"/><path class=\"bar\" d=\"{bars}\"/>{texts}</svg>",
        escape(&text::escape(&plot.title))
    )
}

/// Returns the histogram as PNG.
///
/// # Errors
/// Encoding fails, which is not expected.
pub fn png(plot: &Plot) -> Result<Vec<u8>> {
    let mut pixels = vec![255u8; WIDTH * HEIGHT * 3];
    let mut fill = |x: usize, y: usize, colour: [u8; 3]| {
        if let Some(pixel) = pixels.get_mut((y * WIDTH + x) * 3..(y * WIDTH + x) * 3 + 3).filter(|_| x < WIDTH) {
            pixel.copy_from_slice(&colour);
        }
    };
    for shape in plot.shapes() {
        match shape {
            Shape::Bar([x, y, width, height]) => (y..y + height).for_each(|y| (x..x + width).for_each(|x| fill(x, y, [76, 120, 168]))),
            Shape::Grid(y) => (LEFT..WIDTH - RIGHT).for_each(|x| fill(x, y, [208, 215, 222])),
            Shape::Text(x, y, anchor, text) => {
                let long = text.chars().count() * GLYPH.0;
                let start = match anchor {
                    Anchor::Start => x,
                    Anchor::Middle => x.saturating_sub(long / 2),
                    Anchor::End => x.saturating_sub(long),
                };
                for (i, c) in text.chars().enumerate() {
                    let glyph = font8x8::BASIC_FONTS.get(c).or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default();
                    for (row, bits) in glyph.iter().enumerate() {
                        for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                            // A dot of the font is one pixel wide and two high, which is about the proportion of print.
                            let (x, y) = (start + i * GLYPH.0 + column, (y + 2).saturating_sub(GLYPH.1) + row * 2);
                            fill(x, y, [27, 31, 36]);
                            fill(x, y + 1, [27, 31, 36]);
                        }
                    }
                }
            }
        }
    }
    let mut out = Vec::new();
    let failed = |error: png::EncodingError| Error::argument(format!("cannot draw the picture: {error}"));
    let mut encoder = png::Encoder::new(&mut out, WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(out)
}

/// Width and height of a character in pixels.
const GLYPH: (usize, usize) = (8, 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(counts: &[u64]) -> Plot {
        let edges = (0..=counts.len()).map(|edge| edge as f64 / 8.0).collect();
        Plot { title: "a<b (F32)".to_owned(), axis: "value".to_owned(), counts: counts.to_vec(), edges }
    }

    #[test]
    fn bars_are_linear_stand_on_the_base_and_stay_inside() {
        let shapes = plot(&[0, 1, 100, 50, 400]).shapes();
        let bars: Vec<[usize; 4]> = shapes.iter().filter_map(|shape| if let Shape::Bar(bar) = shape { Some(*bar) } else { None }).collect();
        assert_eq!(bars.len(), 4, "none for nothing");
        for [x, y, width, height] in &bars {
            assert_eq!(y + height, HEIGHT - BOTTOM);
            assert!(*x >= LEFT && x + width <= WIDTH - RIGHT && *y >= TOP);
        }
        let tall = (HEIGHT - TOP - BOTTOM) as f64;
        for (bar, count) in bars.iter().zip([1.0, 100.0, 50.0, 400.0]) {
            assert!((bar[3] as f64 - count / 400.0 * tall).abs() <= 1.0, "{bar:?}");
        }
        let labels: Vec<&str> =
            shapes.iter().filter_map(|shape| if let Shape::Text(_, _, _, text) = shape { Some(text.as_str()) } else { None }).collect();
        assert_eq!(labels[..5], ["0", "100", "200", "300", "400"]);
        assert!(labels.contains(&"0.625") && labels.contains(&"value"));
    }

    #[test]
    fn steps_of_the_axis_are_round() {
        assert_eq!([1, 2, 3, 7, 11, 21, 60, 1001].map(nice), [1, 2, 5, 10, 20, 50, 100, 2000]);
        assert_eq!(nice(u64::MAX), u64::MAX);
    }

    #[test]
    fn pictures_are_what_they_say() {
        assert!(svg(&plot(&[1, 2])).contains("a&lt;b (F32)"));
        let bytes = png(&plot(&[1, 2, 3])).unwrap();
        assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
        assert!(png(&plot(&[])).is_ok());
        assert!(png(&plot(&[u64::MAX, 1])).is_ok());
    }
}
