//! The picture of a run: throughput over time above, latency by percentile below.

use std::error::Error;
use std::path::Path;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged};
use plotters::prelude::*;

use crate::fault::Fault;
use crate::report::Report;

const SIZE: (u32, u32) = (800, 640);
const INK: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Draws a report to an SVG file.
pub(crate) fn draw(report: &Report, file: &Path) -> Result<(), Fault> {
    let mut picture = String::new();
    paint(report, &mut picture)
        .map_err(|error| Fault::Usage(format!("drawing {}: {error}", file.display())))?;
    std::fs::write(file, picture).map_err(Fault::io(format!("writing {}", file.display())))
}

fn paint(report: &Report, picture: &mut String) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&PAPER)?;
    if report.count == 0 {
        latency(report, &area)?;
    } else {
        let (upper, lower) = area.split_vertically(SIZE.1 / 2);
        throughput(report, &upper)?;
        latency(report, &lower)?;
    }
    area.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

#[allow(clippy::cast_precision_loss, reason = "a picture for people")]
fn throughput(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let highest = report.samples.iter().copied().fold(1.0, f64::max);
    let seconds = report.seconds.max(0.1);
    let step = seconds / report.samples.len().max(1) as f64;
    let unit = report.subject.unit;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: {unit} a second", report.subject.mode), ("sans-serif", 18))
        .margin(10)
        .margin_right(36)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..seconds, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    let points =
        report.samples.iter().enumerate().map(|(index, rate)| ((index as f64 + 0.5) * step, *rate));
    chart.draw_series(LineSeries::new(points, INK.stroke_width(2)))?;
    Ok(())
}

fn latency(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
    let points: Vec<_> = report
        .curve
        .iter()
        .map(|&(percentile, value)| (nines(percentile), value.max(0.1)))
        .collect();
    let lowest = points.iter().map(|point| point.1).fold(f64::MAX, f64::min).min(1e6);
    let highest = points.iter().map(|point| point.1).fold(1.0, f64::max).max(lowest * 2.0);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} by percentile", report.subject.latency), ("sans-serif", 18))
        .margin(10)
        .margin_right(36)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(Nines, (lowest * 0.8..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_label_formatter(&|value| {
            if *value < 1000.0 {
                format!("{value:.0} µs")
            } else {
                format!("{} ms", value / 1000.0)
            }
        })
        .draw()?;
    let shown = points.into_iter().filter(|point| point.0 <= Nines::MOST);
    chart.draw_series(LineSeries::new(shown, INK.stroke_width(2)))?;
    Ok(())
}

/// An axis on which 90, 99 and 99.9 % are equally far apart.
struct Nines;

impl Nines {
    /// 99.999 %.
    const MOST: f64 = 5.0;
}

impl Ranged for Nines {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[allow(clippy::cast_possible_truncation, reason = "pixels")]
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * value / Self::MOST).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        vec![0.0, std::f64::consts::LOG10_2, 1.0, 2.0, 3.0, 4.0, 5.0]
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..Self::MOST
    }
}

impl ValueFormatter<f64> for Nines {
    fn format(value: &f64) -> String {
        let percent = 100.0 * (1.0 - 10_f64.powf(-value));
        format!("{} %", (percent * 1000.0).round() / 1000.0)
    }
}
