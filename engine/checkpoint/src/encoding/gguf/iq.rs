//! GGUF's blocks of one, two and three bits, whose codes are rows of tables that ggml fixes.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::blocks::half;

/// A table of ggml: each row is a few neighboring values.
struct Grid {
    width: usize,
    values: Vec<f32>,
}

impl Grid {
    fn row(&self, at: u16) -> &[f32] {
        let start = usize::from(at) * self.width;
        &self.values[start..start + self.width]
    }
}

/// The tables, with one hexadecimal digit for each value's place among those that it has.
static GRIDS: LazyLock<HashMap<String, Grid>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Text {
        width: usize,
        values: Vec<i8>,
        rows: String,
    }
    let text = include_str!("iq_grids.json");
    let all: HashMap<String, Text> = serde_json::from_str(text).expect("tables that are built in");
    let grid = |(name, text): (String, Text)| {
        let value = |digit: char| {
            let place = digit.to_digit(16).expect("tables hold digits") as usize;
            f32::from(text.values[place])
        };
        (name, Grid { width: text.width, values: text.rows.chars().map(value).collect() })
    };
    all.into_iter().map(grid).collect()
});

fn grid(name: &str) -> &'static Grid {
    &GRIDS[name]
}

/// Writes eight values with signs by bits.
fn signed(out: &mut [f32], rows: [&[f32]; 2], scale: f32, signs: u8) {
    let values = rows[0].iter().chain(rows[1]);
    for (at, (out, value)) in out.iter_mut().zip(values).enumerate() {
        let value = scale * value;
        *out = if signs >> at & 1 == 0 { value } else { -value };
    }
}

/// Seven signs, and an eighth that makes their count even.
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | ((signs.count_ones() as u8 & 1) << 7)
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn short(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// A half of a byte, the lower one first.
fn nibble(b: &[u8], at: usize) -> f32 {
    f32::from(b[at / 2] >> (at % 2 * 4) & 15)
}

pub(super) fn iq2_xxs(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq2_xxs"));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let at = 2 + group * 8;
        let signs = word(b, at + 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (part, out) in out.chunks_exact_mut(8).enumerate() {
            let row = grid.row(u16::from(b[at + part]));
            signed(out, [row, &[]], scale, even(signs >> (7 * part)));
        }
    }
}

pub(super) fn iq2_xs(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq2_xs"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let code = short(b, 2 + part * 2);
        let scale = d * (0.5 + nibble(&b[66..74], part / 2)) * 0.25;
        signed(out, [grid.row(code & 511), &[]], scale, even(u32::from(code >> 9)));
    }
}

pub(super) fn iq2_s(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq2_s"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let high = u16::from(b[66 + part / 4] >> (part % 4 * 2) & 3) << 8;
        let scale = d * (0.5 + nibble(&b[74..82], part / 2)) * 0.25;
        signed(out, [grid.row(u16::from(b[2 + part]) | high), &[]], scale, b[34 + part]);
    }
}

pub(super) fn iq3_xxs(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq3_xxs"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let signs = word(b, 66 + part / 4 * 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
        let rows = [0, 1].map(|half| grid.row(u16::from(b[2 + part * 2 + half])));
        signed(out, rows, scale, even(signs >> (7 * (part % 4))));
    }
}

pub(super) fn iq3_s(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq3_s"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let scale = d * (1.0 + 2.0 * nibble(&b[106..110], part / 4));
        let rows = [0, 1].map(|half| {
            let code = part * 2 + half;
            let high = u16::from(b[66 + code / 8] >> (code % 8) & 1) << 8;
            grid.row(u16::from(b[2 + code]) | high)
        });
        signed(out, rows, scale, b[74 + part]);
    }
}

/// Writes eight values of -1, 0 and 1 that are shifted by an eighth.
fn shifted(out: &mut [f32], row: &[f32], scale: f32, is_down: bool) {
    let shift = if is_down { -0.125 } else { 0.125 };
    out.iter_mut().zip(row).for_each(|(out, value)| *out = scale * (value + shift));
}

pub(super) fn iq1_s(b: &[u8], out: &mut [f32]) {
    let (d, grid) = (half(b, 0), grid("iq1"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let high = short(b, 34 + part / 4 * 2);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let code = u16::from(b[2 + part]) | (high >> (part % 4 * 3) & 7) << 8;
        shifted(out, grid.row(code), scale, high & 0x8000 != 0);
    }
}

/// The scale of all is spread over the upper bits of four words of scales.
pub(super) fn iq1_m(b: &[u8], out: &mut [f32]) {
    let scales: [u16; 4] = std::array::from_fn(|at| short(b, 48 + at * 2));
    let upper = |at: usize| (scales[at] & 0xf000) >> (12 - 4 * at);
    let d = (upper(0) | upper(1) | upper(2) | upper(3)).to_le_bytes();
    let (d, grid) = (half(&d, 0), grid("iq1"));
    for (part, out) in out.chunks_exact_mut(8).enumerate() {
        let scale = scales[part / 8] >> (part / 2 % 4 * 3) & 7;
        let high = b[32 + part / 2] >> (part % 2 * 4);
        let code = u16::from(b[part]) | u16::from(high & 7) << 8;
        shifted(out, grid.row(code), d * f32::from(2 * scale + 1), high & 8 != 0);
    }
}
