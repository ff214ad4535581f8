//! Histograms as standalone images.

use std::fmt::Write;

use crate::base::{Error, Result};

const WIDTH: usize = 640;
const HEIGHT: usize = 240;
const MARGIN: usize = 24;

/// Returns the bars in whole pixels: left, top, width, height. Heights follow the square root of the count, so that tails stay visible.
fn bars(counts: &[u64]) -> Vec<[usize; 4]> {
    let most = (counts.iter().copied().max().unwrap_or(0).max(1) as f64).sqrt();
    let (inner, tall) = (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN);
    let edge = |i: usize| MARGIN + i * inner / counts.len().max(1);
    let bar = |(i, &count): (usize, &u64)| {
        let height = if count == 0 { 0 } else { (((count as f64).sqrt() / most * tall as f64) as usize).clamp(1, tall) };
        [edge(i), HEIGHT - MARGIN - height, (edge(i + 1) - edge(i)).saturating_sub(1).max(1), height]
    };
    counts.iter().enumerate().map(bar).collect()
}

/// Returns the histogram as SVG, which follows the viewer's light or dark mode.
pub fn svg(title: &str, counts: &[u64], ends: &[String; 2]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut path = String::new();
    for [x, y, width, height] in bars(counts).into_iter().filter(|bar| bar[3] > 0) {
        let _ = write!(path, "M{x} {y}h{width}v{height}h-{width}z");
    }
    let (title, base, right) = (escape(title), HEIGHT - 8, WIDTH - MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
         <style>text{{font:13px system-ui,sans-serif;fill:#333}}path{{fill:#4c78a8}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}path{{fill:#7aa6d6}}}}</style>\
         <text x=\"{MARGIN}\" y=\"16\">{title}</text><path d=\"{path}\"/>\
         <text x=\"{MARGIN}\" y=\"{base}\">{}</text><text x=\"{right}\" y=\"{base}\" text-anchor=\"end\">{}</text></svg>\n",
        escape(&ends[0]),
        escape(&ends[1])
    )
}

/// Returns the histogram as PNG, labelled with the ends of the scale.
///
/// # Errors
/// Encoding fails, which is not expected.
pub fn png(counts: &[u64], ends: &[String; 2]) -> Result<Vec<u8>> {
    let mut pixels = vec![255u8; WIDTH * HEIGHT * 3];
    let mut fill = |x: usize, y: usize, colour: [u8; 3]| {
        if let Some(pixel) = pixels.get_mut((y * WIDTH + x) * 3..(y * WIDTH + x) * 3 + 3).filter(|_| x < WIDTH) {
            pixel.copy_from_slice(&colour);
        }
    };
    for [x, y, width, height] in bars(counts) {
        (y..y + height).for_each(|y| (x..x + width).for_each(|x| fill(x, y, [76, 120, 168])));
    }
    let starts = [MARGIN, (WIDTH - MARGIN).saturating_sub(ends[1].chars().count() * GLYPH_STEP)];
    for (start, text) in starts.into_iter().zip(ends) {
        for (i, glyph) in text.chars().map(glyph).enumerate() {
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    // A dot is 2 x 2 pixels.
                    for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        fill(start + i * GLYPH_STEP + column * 2 + dx, HEIGHT - 18 + row * 2 + dy, [40, 40, 40]);
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

/// The advance of a character in pixels.
const GLYPH_STEP: usize = 12;

/// Returns a character's bitmap: 7 rows of 5 dots.
fn glyph(c: char) -> [u8; 7] {
    match c {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 6, 8, 16, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        '-' => [0, 0, 0, 14, 0, 0, 0],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        'e' => [0, 0, 14, 17, 31, 16, 14],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_the_base_and_stay_inside() {
        for [x, y, width, height] in bars(&[0, 1, 100, 40]) {
            assert_eq!(y + height, HEIGHT - MARGIN);
            assert!(x >= MARGIN && x + width <= WIDTH - MARGIN && y >= MARGIN);
        }
    }

    #[test]
    fn pictures_are_what_they_say() {
        let ends = ["-1.5".to_owned(), "2e-3".to_owned()];
        assert!(svg("a<b", &[1, 2], &ends).contains("a&lt;b"));
        let bytes = png(&[1, 2, 3], &ends).unwrap();
        assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
        assert!(png(&[], &ends).is_ok());
    }
}
