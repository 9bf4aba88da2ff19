//! Pictures that no library of charts has: changes by scenario, and grids of who wins.

use std::fmt::Write as _;

use crate::interval::Estimate;

/// Changes in per cent, several for each scenario, with their intervals.
#[derive(Clone, Debug)]
pub(super) struct Changes<'a> {
    pub(super) title: &'a str,
    pub(super) axis: &'a str,
    /// What each dot of a row shows.
    pub(super) names: &'a [&'static str],
    /// The name of each row, and its dots.
    pub(super) rows: Vec<(String, Vec<Estimate>)>,
    /// A line that the paper draws, with its words.
    pub(super) printed: (f64, &'a str),
    pub(super) note: &'a str,
}

const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];
const LEFT: f64 = 210.0;
const WIDTH: f64 = 1000.0;
const TOP: f64 = 84.0;
/// Of a row, for each dot and between rows.
const ROW: (f64, f64) = (9.0, 9.0);

impl Changes<'_> {
    /// Draws them.
    pub(super) fn to_svg(&self) -> String {
        let ends = self.rows.iter().flat_map(|(_, dots)| dots.iter().map(Estimate::ends));
        let (low, high) = ends
            .fold((self.printed.0.min(0.0), self.printed.0.max(0.0)), |(low, high), (from, to)| {
                (low.min(from), high.max(to))
            });
        let step = if high - low > 100.0 { 20.0 } else { 10.0 };
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        let x = |value: f64| LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 30.0);
        let row = ROW.0 * real(self.names.len()) + ROW.1;
        let bottom = TOP + row * real(self.rows.len());
        let mut svg = begin(WIDTH, bottom + 80.0, self.title);
        let mut tick = low;
        while tick <= high {
            line(&mut svg, [x(tick), TOP, x(tick), bottom], "#dddddd", "");
            text(&mut svg, x(tick), bottom + 18.0, "middle", "#333333", &format!("{tick:+.0} %"));
            tick += step;
        }
        line(&mut svg, [x(0.0), TOP, x(0.0), bottom], "#333333", "");
        let (printed, words) = self.printed;
        line(&mut svg, [x(printed), TOP - 6.0, x(printed), bottom], "#000000", "4 3");
        text(&mut svg, x(printed), TOP - 12.0, "middle", "#000000", words);
        for (n, (name, dots)) in self.rows.iter().enumerate() {
            let middle = TOP + row * (real(n) + 0.5);
            text(&mut svg, LEFT - 12.0, middle + 5.0, "end", "#000000", name);
            for (place, dot) in dots.iter().enumerate() {
                let y = middle + (real(place) - (real(dots.len()) - 1.0) / 2.0) * ROW.0;
                let colour = COLOURS[place % COLOURS.len()];
                let (from, to) = dot.ends();
                line(&mut svg, [x(from), y, x(to), y], colour, "");
                let (x, mean) = (x(dot.mean), dot.mean);
                let _ = write!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"><title>{name}: {mean:+.2} %</title></circle>"#,
                );
            }
        }
        for (place, name) in self.names.iter().enumerate() {
            let at = 20.0 + (WIDTH - 20.0) / real(self.names.len()) * real(place);
            let colour = COLOURS[place % COLOURS.len()];
            let _ = write!(svg, r#"<circle cx="{at:.1}" cy="50" r="5" fill="{colour}"/>"#);
            text(&mut svg, at + 12.0, 55.0, "start", "#000000", name);
        }
        text(&mut svg, (LEFT + WIDTH) / 2.0, bottom + 42.0, "middle", "#000000", self.axis);
        text(&mut svg, 16.0, bottom + 68.0, "start", "#444444", self.note);
        svg + "</svg>\n"
    }
}

/// Who wins where, as coloured cells: several grids below each other in one picture.
#[derive(Clone, Debug)]
pub(super) struct Grids<'a> {
    pub(super) title: &'a str,
    pub(super) note: &'a str,
    pub(super) better: Better,
    pub(super) grids: Vec<Grid>,
}

/// What is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// One grid: a row for each way, a column for each value.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub(super) title: String,
    pub(super) columns: Vec<String>,
    /// Changes in per cent; two for each cell.
    pub(super) rows: Vec<(String, Vec<[f64; 2]>)>,
}

const CELL: (f64, f64) = (128.0, 24.0);

impl Grids<'_> {
    /// Draws them one below the other.
    pub(super) fn to_svg(&self) -> String {
        let most = self.grids.iter().map(|grid| grid.columns.len()).max().unwrap_or(0);
        let width = 170.0 + CELL.0 * real(most) + 20.0;
        let heights = self.grids.iter().map(|grid| 58.0 + CELL.1 * real(grid.rows.len()));
        let mut svg = begin(width, 80.0 + heights.sum::<f64>(), self.title);
        text(&mut svg, 16.0, 50.0, "start", "#444444", self.note);
        let mut top = 70.0;
        for Grid { title, columns, rows } in &self.grids {
            text(&mut svg, 16.0, top + 16.0, "start", "#000000", title);
            for (n, column) in columns.iter().enumerate() {
                let x = 170.0 + CELL.0 * (real(n) + 0.5);
                text(&mut svg, x, top + 36.0, "middle", "#333333", column);
            }
            top += 42.0;
            for (name, cells) in rows {
                text(&mut svg, 162.0, top + 17.0, "end", "#000000", name);
                for (n, [off, on]) in cells.iter().enumerate() {
                    let x = 170.0 + CELL.0 * real(n);
                    let (w, h) = (CELL.0 - 2.0, CELL.1 - 2.0);
                    let colour = shade(if self.better == Better::More { *off } else { -*off });
                    let _ = write!(
                        svg,
                        r#"<rect x="{x:.1}" y="{top:.1}" width="{w}" height="{h}" fill="{colour}"/>"#
                    );
                    let cell = format!("{off:+.1} / {on:+.1}");
                    text(&mut svg, x + w / 2.0, top + 16.0, "middle", "#000000", &cell);
                }
                top += CELL.1;
            }
            top += 16.0;
        }
        svg + "</svg>\n"
    }
}

/// Values with their intervals, in panels side by side.
#[derive(Clone, Debug)]
pub(super) struct Bars<'a> {
    pub(super) title: &'a str,
    pub(super) groups: [&'a str; 2],
    pub(super) panels: Vec<(&'a str, Vec<Bar>)>,
    pub(super) note: &'a str,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: Estimate,
    pub(super) group: usize,
}

const PANEL: (f64, f64) = (330.0, 300.0);
/// Room for the names of bars, which lean to the left.
const BESIDE: f64 = 60.0;

impl Bars<'_> {
    /// Draws them.
    pub(super) fn to_svg(&self) -> String {
        let n_bars = self.panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0);
        let bottom = TOP + PANEL.1;
        let width = BESIDE + PANEL.0 * real(self.panels.len());
        let mut svg = begin(width, bottom + 150.0, self.title);
        for (place, (title, bars)) in self.panels.iter().enumerate() {
            let left = BESIDE + PANEL.0 * real(place);
            let width = (PANEL.0 - 30.0) / real(n_bars.max(1));
            let most = bars.iter().map(|bar| bar.value.ends().1).fold(0.0, f64::max).max(1e-12);
            let y = |value: f64| bottom - value / most * (PANEL.1 - 40.0);
            text(&mut svg, left, TOP + 8.0, "start", "#000000", title);
            line(&mut svg, [left, bottom, left + PANEL.0 - 30.0, bottom], "#333333", "");
            for (n, Bar { name, value, group }) in bars.iter().enumerate() {
                let x = left + width * real(n);
                let (top, middle) = (y(value.mean), x + width * 0.4);
                let (w, h, colour) = (width * 0.8, bottom - top, COLOURS[group % COLOURS.len()]);
                let _ = write!(
                    svg,
                    r#"<rect x="{x:.1}" y="{top:.1}" width="{w:.1}" height="{h:.1}" fill="{colour}" fill-opacity="0.75"/>"#
                );
                let (low, high) = value.ends();
                line(&mut svg, [middle, y(low), middle, y(high)], "#000000", "");
                let words = match value.mean {
                    mean if mean < 100.0 => format!("{mean:.2}"),
                    mean => format!("{mean:.0}"),
                };
                text(&mut svg, middle, y(high) - 5.0, "middle", "#333333", &words);
                let (x, y, name) = (middle + 4.0, bottom + 12.0, escaped(name));
                let _ = write!(
                    svg,
                    r#"<text x="{x:.1}" y="{y:.1}" text-anchor="end" transform="rotate(-50 {x:.1} {y:.1})">{name}</text>"#
                );
            }
        }
        for (place, name) in self.groups.iter().enumerate() {
            let at = BESIDE + 220.0 * real(place);
            let colour = COLOURS[place % COLOURS.len()];
            let _ =
                write!(svg, r#"<rect x="{at:.1}" y="44" width="12" height="12" fill="{colour}"/>"#);
            text(&mut svg, at + 18.0, 55.0, "start", "#000000", name);
        }
        text(&mut svg, 16.0, bottom + 138.0, "start", "#444444", self.note);
        svg + "</svg>\n"
    }
}

/// Datagrams byte by byte, each field in its own shade.
#[derive(Clone, Debug)]
pub(super) struct Datagrams<'a> {
    pub(super) title: &'a str,
    pub(super) note: &'a str,
    pub(super) datagrams: Vec<(String, Vec<Part>)>,
}

/// A field of a datagram.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) shown: String,
}

const SHADES: [&str; 4] = ["#d6e9f5", "#fbe3cf", "#d4efe4", "#f3e0ec"];
const BYTES_PER_LINE: usize = 16;

impl Datagrams<'_> {
    /// Draws them one below the other: bytes on the left, fields on the right.
    pub(super) fn to_svg(&self) -> String {
        let heights = self.datagrams.iter().map(|(_, parts)| height_of(parts));
        let mut svg = begin(1000.0, 90.0 + heights.sum::<f64>(), self.title);
        text(&mut svg, 16.0, 50.0, "start", "#444444", self.note);
        let mut top = 70.0;
        for (title, parts) in &self.datagrams {
            text(&mut svg, 16.0, top + 18.0, "start", "#000000", title);
            let mut place = 0;
            for (n, Part { name, bytes, shown }) in parts.iter().enumerate() {
                let shade = SHADES[n % SHADES.len()];
                for byte in bytes {
                    let x = 20.0 + 28.0 * real(place % BYTES_PER_LINE);
                    let y = top + 30.0 + 24.0 * real(place / BYTES_PER_LINE);
                    let _ = write!(
                        svg,
                        r#"<rect x="{x:.0}" y="{y:.0}" width="26" height="22" fill="{shade}"/>"#
                    );
                    text(&mut svg, x + 13.0, y + 15.0, "middle", "#000000", &format!("{byte:02x}"));
                    place += 1;
                }
                let y = top + 30.0 + 22.0 * real(n);
                let _ = write!(
                    svg,
                    r#"<rect x="490" y="{y:.0}" width="16" height="16" fill="{shade}" stroke="gray"/>"#
                );
                let words = match shown.chars().count() {
                    0..=44 => format!("{name} ({} B): {shown}", bytes.len()),
                    _ => {
                        let cut: String = shown.chars().take(40).collect();
                        format!("{name} ({} B): {cut}…", bytes.len())
                    }
                };
                text(&mut svg, 514.0, y + 13.0, "start", "#000000", &words);
            }
            top += height_of(parts);
        }
        svg + "</svg>\n"
    }
}

fn height_of(parts: &[Part]) -> f64 {
    let n_bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let lines = real(n_bytes.div_ceil(BYTES_PER_LINE));
    50.0 + (24.0 * lines).max(22.0 * real(parts.len()))
}

/// Blue where it gains, orange where it loses, as strong either way; white at nothing.
fn shade(percent: f64) -> String {
    let strength = (percent.abs() / 25.0).min(1.0);
    let (red, green, blue) = if percent >= 0.0 { (86, 180, 233) } else { (230, 140, 40) };
    let mix = |to: i32| 255.0 + f64::from(to - 255) * strength;
    format!("rgb({:.0},{:.0},{:.0})", mix(red), mix(green), mix(blue))
}

fn begin(width: f64, height: f64, title: &str) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>"#
    );
    let _ = write!(
        svg,
        r#"<text x="{:.0}" y="26" font-size="19" text-anchor="middle">{}</text>"#,
        width / 2.0,
        escaped(title)
    );
    svg
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str, dashes: &str) {
    let _ = write!(
        svg,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}"/>"#
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let words = escaped(words);
    let _ = write!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{words}</text>"#
    );
}

/// Writes text so that neither HTML nor SVG takes it for more.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[expect(clippy::cast_precision_loss, reason = "a picture has few rows")]
const fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_cells_are_as_strong_as_winning_ones() {
        assert_eq!(shade(0.0), "rgb(255,255,255)");
        assert_eq!(
            (shade(25.0), shade(90.0)),
            ("rgb(86,180,233)".into(), "rgb(86,180,233)".into())
        );
        assert_eq!(shade(-25.0), "rgb(230,140,40)");
    }

    #[test]
    fn a_picture_holds_what_it_was_given_and_no_markup_of_it() {
        let dot = |mean| Estimate { mean, margin: Some(1.0), n: 3 };
        let svg = Changes {
            title: "a < b",
            axis: "change",
            names: &["awake", "radio"],
            rows: vec![("push".into(), vec![dot(-12.0), dot(5.0)])],
            printed: (-18.0, "the paper's 18 %"),
            note: "modelled",
        }
        .to_svg();
        for part in ["a &lt; b", "push: -12.00 %", "paper", "-20 %", "awake", "modelled"] {
            assert!(svg.contains(part), "{part}");
        }
        let grid = Grid {
            title: "wake".into(),
            columns: vec!["1 min".into()],
            rows: vec![("push".into(), vec![[-1.0, 2.0]])],
        };
        let svg =
            Grids { title: "gains", note: "off / on", better: Better::More, grids: vec![grid] }
                .to_svg();
        assert!(svg.contains("-1.0 / +2.0") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
