//! Signals: windows, filter banks and Fourier transforms.
//!
//! Laws: angles are reduced as whole numbers and taken in `f64`, so that long transforms stay accurate; a transform is a
//! product with a table, which costs as much as its length squared.

use crate::op::{Cx, OpDef, OpError, invalid};
use crate::{Attr, Dim};

mod fourier;
mod mel;
mod windows;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &windows::HANN,
    &windows::HAMMING,
    &windows::BLACKMAN,
    &mel::MelWeightMatrix,
    &fourier::Dft,
    &fourier::STFT,
    &fourier::Table,
    &fourier::Frames,
];

/// The number that shape-like input `i` is, where it is given; refused where it is a constant below `least`.
fn number(cx: &Cx, i: usize, least: i64) -> Result<Option<Dim>, OpError> {
    let name = cx.schema.input(i).map_or("?", |p| p.name);
    match cx.dims(i)?.as_deref() {
        None => Ok(None),
        Some([d]) => match d.as_const() {
            Some(c) if c < least => invalid(format!("{name} is {c}, at least {least} is wanted")),
            // Beyond this, sizes and angles would overflow.
            Some(c) if c > i64::from(i32::MAX) => invalid(format!("{name} is {c}")),
            _ => Ok(Some(d.clone())),
        },
        Some(other) => invalid(format!("{} numbers for {name}", other.len())),
    }
}

/// As [`number`], of an input that must be given.
fn required_number(cx: &Cx, i: usize, least: i64) -> Result<Dim, OpError> {
    match number(cx, i, least)? {
        Some(d) => Ok(d),
        None => invalid(format!("{} is missing", cx.schema.input(i).map_or("?", |p| p.name))),
    }
}

/// The one dimension that attribute `name` holds.
fn dimension(cx: &Cx, name: &str) -> Result<Dim, OpError> {
    match cx.attrs.get(name) {
        Some(Attr::Dims(d))
            if d.len() == 1 && d[0].as_const().is_none_or(|c| (0..=i64::from(i32::MAX)).contains(&c)) =>
        {
            Ok(d[0].clone())
        }
        _ => invalid(format!("attribute `{name}` is one dimension")),
    }
}

/// An extent that has its value by now.
fn extent(d: &Dim) -> Result<usize, OpError> {
    match d.as_const().and_then(|c| usize::try_from(c).ok()) {
        Some(n) => Ok(n),
        None => invalid(format!("{d} is no extent")),
    }
}
