//! Sliding windows: output extents, padding and reads of convolutions and poolings.

use crate::index::linear;
use crate::op::{AttrDef, Cx, OpError, invalid, unsupported};
use crate::{Bounds, Dim};

/// The attributes that all windows have, after which an operation lists its own.
pub(super) const DILATIONS: (&str, AttrDef) = ("dilations", AttrDef::OptInts);
pub(super) const STRIDES: (&str, AttrDef) = ("strides", AttrDef::OptInts);
pub(super) const PADS: (&str, AttrDef) = ("pads", AttrDef::OptInts);
pub(super) const AUTO_PAD: (&str, AttrDef) = (
    "auto_pad",
    AttrDef::OneOf(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", ""]),
);

/// Windows over the spatial axes of an input, outermost axis first.
pub(super) struct Window {
    pub input: Vec<Dim>,
    pub kernel: Vec<Dim>,
    pub strides: Vec<Dim>,
    pub dilations: Vec<Dim>,
    /// Padding before and after each axis.
    pub begin: Vec<Dim>,
    pub end: Vec<Dim>,
    /// How many windows there are along each axis.
    pub output: Vec<Dim>,
}

/// How padding is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AutoPad {
    Given,
    Upper,
    Lower,
    Valid,
}

impl AutoPad {
    pub(super) fn of(cx: &Cx) -> Result<Self, OpError> {
        Ok(match cx.str("auto_pad")? {
            "NOTSET" | "" => Self::Given,
            "SAME_UPPER" => Self::Upper,
            "SAME_LOWER" => Self::Lower,
            "VALID" => Self::Valid,
            _ => return cx.bad("auto_pad"),
        })
    }
}

/// A list attribute with one element of at least `least` per axis; `default` everywhere when absent.
pub(super) fn per_axis(cx: &Cx, name: &str, n: usize, least: i64, default: i64) -> Result<Vec<Dim>, OpError> {
    match cx.opt_ints(name)? {
        None => Ok(vec![Dim::from(default); n]),
        // Nothing larger is meant, and products stay far from overflow.
        Some(v) if v.len() == n && v.iter().all(|x| (least..=1 << 30).contains(x)) => {
            Ok(v.into_iter().map(Dim::from).collect())
        }
        Some(v) => invalid(format!("attribute `{name}` is {v:?} for {n} axes")),
    }
}

/// `kernel_shape`, when it is given.
pub(super) fn kernel_shape(cx: &Cx, n: usize) -> Result<Option<Vec<Dim>>, OpError> {
    match cx.opt_ints("kernel_shape")? {
        None => Ok(None),
        Some(_) => per_axis(cx, "kernel_shape", n, 1, 1).map(Some),
    }
}

/// Extent of a kernel with its gaps.
pub(super) fn dilated(kernel: &Dim, dilation: &Dim) -> Dim {
    (kernel.clone() - Dim::ONE) * dilation.clone() + Dim::ONE
}

impl Window {
    /// Windows of `kernel` over `input`. With `ceil`, a window may reach beyond the padding as long as it starts before the
    /// padding at the end.
    pub(super) fn new(cx: &Cx, input: &[Dim], kernel: Vec<Dim>, ceil: bool) -> Result<Self, OpError> {
        let n = input.len();
        if kernel.iter().any(|k| k.as_const().is_some_and(|c| c < 1)) {
            return invalid(format!("kernel extents {kernel:?}"));
        }
        let strides = per_axis(cx, "strides", n, 1, 1)?;
        let dilations = match cx.schema.attr("dilations") {
            Some(_) => per_axis(cx, "dilations", n, 1, 1)?,
            None => vec![Dim::ONE; n],
        };
        let auto = match cx.schema.attr("auto_pad") {
            Some(_) => AutoPad::of(cx)?,
            None => AutoPad::Given,
        };
        let given = match auto {
            AutoPad::Given => per_axis(cx, "pads", 2 * n, -(1 << 30), 0)?,
            _ => vec![Dim::ZERO; 2 * n],
        };
        let (mut begin, mut end, mut output) = (vec![], vec![], vec![]);
        let exact = Bounds::positive(&[]);
        for (i, d) in input.iter().enumerate() {
            let (s, reach) = (&strides[i], dilated(&kernel[i], &dilations[i]));
            let (before, after) = match auto {
                AutoPad::Given | AutoPad::Valid => (given[i].clone(), given[n + i].clone()),
                AutoPad::Upper | AutoPad::Lower => {
                    let last = (d.ceil_div(s) - Dim::ONE) * s.clone();
                    let total = exact.simplify(&(last + reach.clone() - d.clone()).maximum(&Dim::ZERO));
                    let half = total.floor_div(&Dim::from(2i64));
                    let rest = total - half.clone();
                    if auto == AutoPad::Upper {
                        (half, rest)
                    } else {
                        (rest, half)
                    }
                }
            };
            let room = d.clone() + before.clone() + after.clone() - reach;
            let out = match auto {
                AutoPad::Upper | AutoPad::Lower => d.ceil_div(s),
                _ if ceil => {
                    let all = room.ceil_div(s) + Dim::ONE;
                    all.minimum(&(d.clone() + before.clone()).ceil_div(s))
                }
                _ => room.floor_div(s) + Dim::ONE,
            };
            if out.as_const().is_some_and(|c| c < 1) && d.as_const() != Some(0) {
                return invalid(format!(
                    "a window of {} on axis {i} of extent {d} does not fit",
                    kernel[i]
                ));
            }
            begin.push(before);
            end.push(after);
            output.push(exact.simplify(&out));
        }
        Ok(Self {
            input: input.to_vec(),
            kernel,
            strides,
            dilations,
            begin,
            end,
            output,
        })
    }

    /// The input position that kernel position `k` of window `o` reads on axis `i`; it may lie in the padding.
    pub(super) fn position(&self, i: usize, o: &Dim, k: &Dim) -> Dim {
        o.clone() * self.strides[i].clone() + k.clone() * self.dilations[i].clone() - self.begin[i].clone()
    }

    /// Whether some read may lie outside the input.
    pub(super) fn leaves_input(&self) -> bool {
        let b = Bounds::positive(&[]);
        !(0..self.input.len()).all(|i| {
            let last = |d: &Dim| d.clone() - Dim::ONE;
            let far = self.position(i, &last(&self.output[i]), &last(&self.kernel[i]));
            b.le(&self.begin[i], &Dim::ZERO) && b.le(&far, &last(&self.input[i]))
        })
    }

    /// The same with numbers.
    pub(super) fn concrete(&self) -> Result<Concrete, OpError> {
        let ints = |v: &[Dim]| -> Option<Vec<i64>> { v.iter().map(Dim::as_const).collect() };
        let sizes =
            |v: &[Dim]| -> Option<Vec<usize>> { v.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect() };
        let all = || {
            Some(Concrete {
                input: sizes(&self.input)?,
                kernel: sizes(&self.kernel)?,
                strides: ints(&self.strides)?,
                dilations: ints(&self.dilations)?,
                begin: ints(&self.begin)?,
                end: ints(&self.end)?,
            })
        };
        all().map_or_else(|| unsupported("windows of symbolic extent"), Ok)
    }
}

/// [`Window`] with numbers.
pub(super) struct Concrete {
    pub input: Vec<usize>,
    pub kernel: Vec<usize>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    pub begin: Vec<i64>,
    pub end: Vec<i64>,
}

impl Concrete {
    /// The input position on each axis; it may lie in the padding.
    pub(super) fn position(&self, o: &[usize], k: &[usize]) -> Vec<i64> {
        (0..o.len())
            .map(|i| o[i] as i64 * self.strides[i] + k[i] as i64 * self.dilations[i] - self.begin[i])
            .collect()
    }

    /// The linear input position, when it is in the input.
    pub(super) fn inside(&self, o: &[usize], k: &[usize]) -> Option<usize> {
        let at: Option<Vec<usize>> = self
            .position(o, k)
            .iter()
            .zip(&self.input)
            .map(|(p, d)| usize::try_from(*p).ok().filter(|p| p < d))
            .collect();
        Some(linear(&self.input, &at?))
    }
}
