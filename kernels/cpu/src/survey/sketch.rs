//! How many directions of its inputs a task vector lives in, and how many of them others share: from the Gram
//! matrix over inputs, or over sums of inputs with random signs where there are many.
//!
//! Each input goes to one of [`WIDTH`] places with a sign of its own (Charikar, Chen and Farach-Colton 2002).
//! Sums of squares are kept but for a share of 1/√`WIDTH`; a count of directions is right where it is well
//! below `WIDTH`, and a lower bound elsewhere.

use faer::{MatMut, MatRef};
use mixdown_ops::matrix::{Matrix, Stop};

use crate::matrix::dense::{add_lower_gram, mirror, view, zeros};
use crate::matrix::eigen::{Eigen, eigen};

/// Places of a sketch. With fewer inputs each has a place of its own, and all is exact.
pub const WIDTH: usize = 256;

/// Rows that are multiplied together.
const ROWS: usize = 64;

/// The Gram matrix of one task vector over its inputs, under way. Elements come in the order in which they
/// are stored.
#[derive(Debug)]
pub struct Sketch {
    /// Place and sign of each input.
    places: Vec<(u32, f64)>,
    width: usize,
    /// Rows of sums that are not in the Gram matrix yet: `ROWS × width`, or where inputs come first,
    /// `width × outputs`, of one matrix.
    rows: Vec<f64>,
    /// How many of them are begun.
    begun: usize,
    /// Rows and columns of each matrix as stored, and whether its rows are inputs.
    stored: (usize, usize),
    inputs_first: bool,
    gram: Matrix,
}

/// The directions of a task vector.
#[derive(Debug)]
pub struct SpectrumOf {
    gram: Matrix,
    found: Eigen,
    energy: f64,
}

impl Sketch {
    /// Of matrices that are stored with so many rows and columns, one after the other.
    pub fn new(rows: usize, columns: usize, inputs_first: bool) -> Self {
        let (inputs, outputs) = if inputs_first { (rows, columns) } else { (columns, rows) };
        let width = inputs.min(WIDTH);
        let place = |input: usize| match inputs <= WIDTH {
            true => (input as u32, 1.0),
            false => {
                let random = mixed(input as u64);
                ((random % WIDTH as u64) as u32, if random >> 63 == 0 { 1.0 } else { -1.0 })
            }
        };
        let held = if inputs_first { width * outputs } else { ROWS * width };
        Self {
            places: (0..inputs).map(place).collect(),
            width,
            rows: vec![0.0; held],
            begun: 0,
            stored: (rows, columns),
            inputs_first,
            gram: zeros(width, width),
        }
    }

    /// Bytes that one holds.
    pub fn bytes(rows: usize, columns: usize, inputs_first: bool) -> u64 {
        let (inputs, outputs) = if inputs_first { (rows, columns) } else { (columns, rows) };
        let width = inputs.min(WIDTH);
        let held = if inputs_first { width * outputs } else { ROWS * width };
        // Gram matrix, its eigenvectors twice, and what the decomposition works on.
        (16 * inputs + 8 * held + 8 * 5 * width * width) as u64
    }

    /// Whether every input has a place of its own.
    pub fn is_exact(&self) -> bool {
        self.width == self.places.len()
    }

    /// Places that it has: the most directions that can be counted.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Takes in elements that follow those so far.
    pub fn add(&mut self, first: u64, values: &[f32]) {
        let (rows, columns) = (self.stored.0 as u64, self.stored.1 as u64);
        let mut at = 0;
        while at < values.len() {
            let element = first + at as u64;
            let (row, column) = ((element / columns) % rows, (element % columns) as usize);
            let count = (values.len() - at).min(self.stored.1 - column);
            let part = &values[at..at + count];
            match self.inputs_first {
                true => {
                    let (place, sign) = self.places[row as usize];
                    let start = place as usize * self.stored.1 + column;
                    for (sum, value) in self.rows[start..start + count].iter_mut().zip(part) {
                        *sum += sign * f64::from(*value);
                    }
                }
                false => {
                    let sums = &mut self.rows[self.begun * self.width..][..self.width];
                    let places = &self.places[column..column + count];
                    for ((place, sign), value) in places.iter().zip(part) {
                        sums[*place as usize] += sign * f64::from(*value);
                    }
                }
            }
            at += count;
            let ends_row = column + count == self.stored.1;
            if ends_row && !self.inputs_first {
                self.begun += 1;
            }
            let is_full = match self.inputs_first {
                true => ends_row && row + 1 == rows,
                false => self.begun == ROWS,
            };
            if is_full {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (width, gram) = (self.width, &mut self.gram.values);
        let into = MatMut::from_row_major_slice_mut(gram, width, width);
        match self.inputs_first {
            true => {
                let sums = MatRef::from_row_major_slice(&self.rows, width, self.stored.1);
                add_lower_gram(into, 1.0, sums);
            }
            false => {
                let sums = &self.rows[..self.begun * width];
                let sums = MatRef::from_row_major_slice(sums, self.begun, width);
                add_lower_gram(into, 1.0, sums.transpose());
            }
        }
        self.rows.fill(0.0);
        self.begun = 0;
    }

    /// Its directions, when all elements are in.
    ///
    /// **Errors.** The solver's failure to converge.
    pub fn finish(mut self) -> Result<SpectrumOf, Stop> {
        self.flush();
        mirror(&mut self.gram);
        SpectrumOf::of(self.gram)
    }
}

impl SpectrumOf {
    fn of(gram: Matrix) -> Result<Self, Stop> {
        let found = eigen(&gram)?;
        let energy = found.values.iter().map(|value| value.max(0.0)).sum();
        Ok(Self { gram, found, energy })
    }

    /// That of all of them together: each task vector's energy counts as it is.
    ///
    /// **Errors.** The solver's failure to converge.
    pub fn together(all: &[Self]) -> Result<Self, Stop> {
        let width = all.first().map_or(0, |one| one.gram.rows);
        let mut gram = zeros(width, width);
        for one in all {
            for (sum, value) in gram.values.iter_mut().zip(&one.gram.values) {
                *sum += value;
            }
        }
        Self::of(gram)
    }

    /// How many directions hold this share of Σ σ²; 0 where all is zero.
    pub fn directions(&self, share: f64) -> usize {
        if self.energy <= 0.0 {
            return 0;
        }
        let mut held = 0.0;
        for (number, value) in self.found.values.iter().enumerate() {
            held += value.max(0.0);
            // A sum in another order may fall short by rounding.
            if held >= share * self.energy * (1.0 - 1e-12) {
                return number + 1;
            }
        }
        self.found.values.len()
    }

    /// The share of another task vector's energy that lies in the first directions of this one; none where
    /// the other is zero.
    pub fn share_of(&self, other: &Self, directions: usize) -> Option<f64> {
        if other.energy <= 0.0 {
            return None;
        }
        let n = self.gram.rows;
        let product = crate::matrix::dense::product(
            MatRef::from_row_major_slice(
                &self.found.vectors.values[..directions * n],
                directions,
                n,
            ),
            view(&other.gram),
        );
        let vectors = &self.found.vectors.values[..directions * n];
        let held: f64 = product.values.iter().zip(vectors).map(|(a, b)| a * b).sum();
        Some((held / other.energy).clamp(0.0, 1.0))
    }
}

/// A number as if drawn at random for each other one (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// σ² = 9, 1, 0: nine tenths of ten in the first direction, all in two.
    #[test]
    fn directions_are_those_of_the_energy() {
        let sketch = |values: &[f32], inputs_first| {
            let mut sketch = Sketch::new(2, 3, inputs_first);
            assert!(sketch.is_exact());
            // In two stretches that do not end with rows.
            sketch.add(0, &values[..4]);
            sketch.add(4, &values[4..]);
            sketch.finish().unwrap()
        };
        let first = sketch(&[3.0, 0.0, 0.0, 0.0, 1.0, 0.0], false);
        assert_eq!((first.directions(0.9), first.directions(0.99)), (1, 2));
        let second = sketch(&[0.0, 0.0, 2.0, 2.0, 0.0, 0.0], false);
        assert_eq!(first.share_of(&second, 1), Some(0.5));
        assert_eq!(second.share_of(&sketch(&[0.0; 6], false), 1), None);
        let both = SpectrumOf::together(&[first, second]).unwrap();
        // Inputs have energies 13, 1, 4.
        assert_eq!((both.directions(0.9), both.directions(0.95)), (2, 3));
        // As [in, out] the two rows are the inputs.
        let turned = sketch(&[3.0, 0.0, 0.0, 0.0, 1.0, 0.0], true);
        assert_eq!((turned.directions(0.9), turned.directions(0.99)), (1, 2));
    }

    /// A rank far below the width is found with many inputs too.
    #[test]
    fn a_sketch_finds_few_directions() {
        let (rows, columns, rank) = (40, 3000, 3);
        let random = |n: u64| (mixed(n) >> 40) as f64 / f64::from(1 << 24) - 0.5;
        let mut values = vec![0.0_f32; rows * columns];
        for (at, value) in values.iter_mut().enumerate() {
            let (row, column) = ((at / columns) as u64, (at % columns) as u64);
            let term =
                |k: u64| random((1 << 40) + row * 8 + k) * random((1 << 50) + column * 8 + k);
            *value = (0..rank).map(term).sum::<f64>() as f32;
        }
        let mut sketch = Sketch::new(rows, columns, false);
        assert!(!sketch.is_exact());
        sketch.add(0, &values);
        let found = sketch.finish().unwrap();
        assert_eq!(found.directions(0.9999), 3);
        let energy: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        assert!((found.energy / energy - 1.0).abs() < 0.2, "{} {energy}", found.energy);
    }
}
