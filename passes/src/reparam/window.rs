//! How convolutions walk over their operand, and when one walk covers another.
//!
//! Law: a convolution with zero padding is a sum over its taps, each of which reads its operand, extended by zeros, at
//! `o*stride + tap*dilation - begin`. So a kernel may be widened by zeros when its padding grows with it, and kernels of one
//! stride and dilation that read one operand add up tap by tap.

use cameo_ir::{Attr, Dim, Node};

/// Windows over the spatial axes, with numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// Padding before and after each axis, not negative.
    pub begin: Vec<i64>,
    pub end: Vec<i64>,
}

impl Window {
    /// One tap on each element.
    pub fn identity(axes: usize) -> Self {
        Self {
            kernel: vec![1; axes],
            strides: vec![1; axes],
            dilations: vec![1; axes],
            begin: vec![0; axes],
            end: vec![0; axes],
        }
    }

    /// That of a Conv or AveragePool node over axes of extents `input`; `None` where the padding is not known or negative.
    pub fn of(node: &Node, kernel: Vec<i64>, input: &[Dim]) -> Option<Self> {
        let axes = kernel.len();
        let list = |name: &str, count: usize, default: i64| match node.attrs.get(name) {
            Some(Attr::Ints(v)) => (v.len() == count).then(|| v.clone()),
            Some(_) => None,
            None => Some(vec![default; count]),
        };
        let (strides, dilations) = (list("strides", axes, 1)?, list("dilations", axes, 1)?);
        let auto = match node.attrs.get("auto_pad") {
            Some(Attr::Str(s)) => s.as_ref(),
            _ => "NOTSET",
        };
        let (mut begin, mut end) = match auto {
            "NOTSET" | "" => {
                let pads = list("pads", 2 * axes, 0)?;
                (pads[..axes].to_vec(), pads[axes..].to_vec())
            }
            _ => (vec![0; axes], vec![0; axes]),
        };
        if matches!(auto, "SAME_UPPER" | "SAME_LOWER") {
            for i in 0..axes {
                let reach = (kernel[i] - 1) * dilations[i] + 1;
                let total = match (strides[i], input[i].as_const()) {
                    (1, _) => reach - 1,
                    (s, Some(d)) if d < 1 << 32 => ((d + s - 1) / s * s - s + reach - d).max(0),
                    _ => return None,
                };
                let half = total / 2;
                let (small, large) = (half, total - half);
                (begin[i], end[i]) = match auto {
                    "SAME_UPPER" => (small, large),
                    _ => (large, small),
                };
            }
        }
        let padded = begin.iter().chain(&end).all(|p| *p >= 0);
        padded.then_some(Self {
            kernel,
            strides,
            dilations,
            begin,
            end,
        })
    }

    pub fn taps(&self) -> u64 {
        self.kernel.iter().fold(1, |n, k| n.saturating_mul(k.unsigned_abs()))
    }

    /// Whether it reads one element per result, in place.
    pub fn is_pointwise(&self) -> bool {
        *self == Self::identity(self.kernel.len())
    }

    pub fn is_padded(&self) -> bool {
        self.begin.iter().chain(&self.end).any(|p| *p != 0)
    }

    /// The least window that has the taps of both, which have results of the same extents.
    pub fn union(&self, other: &Self) -> Result<Self, &'static str> {
        if self.strides != other.strides {
            return Err("their strides differ");
        }
        let mut out = self.clone();
        for i in 0..self.kernel.len() {
            let (a, b) = (self.kernel[i], other.kernel[i]);
            let dilation = match (a, b) {
                (1, 1) => 1,
                (1, _) => other.dilations[i],
                (_, 1) => self.dilations[i],
                _ if self.dilations[i] == other.dilations[i] => self.dilations[i],
                _ => return Err("their dilations differ"),
            };
            let begin = self.begin[i].max(other.begin[i]);
            let mut kernel = 0;
            for w in [self, other] {
                if (begin - w.begin[i]) % dilation != 0 {
                    return Err("their taps lie between each other");
                }
                kernel = kernel.max(w.kernel[i] + (begin - w.begin[i]) / dilation);
            }
            // What is left of the padding when the window covers its part of it; the number of windows stays.
            let wide = if a >= b { self } else { other };
            let room = wide.begin[i] + wide.end[i] - dilation * (wide.kernel[i] - 1);
            let end = room + dilation * (kernel - 1) - begin;
            if end < 0 {
                return Err("their padding differs");
            }
            (out.kernel[i], out.dilations[i]) = (kernel, dilation);
            (out.begin[i], out.end[i]) = (begin, end);
        }
        Ok(out)
    }

    /// Zeros before and after the taps of `inner`, which `self` covers, on each axis.
    pub fn margins(&self, inner: &Self) -> Vec<(i64, i64)> {
        let one = |i: usize| {
            let before = (self.begin[i] - inner.begin[i]) / self.dilations[i];
            (before, self.kernel[i] - inner.kernel[i] - before)
        };
        (0..self.kernel.len()).map(one).collect()
    }

    /// Attributes of a convolution that walks like this.
    pub fn attrs(&self, group: i64) -> Vec<(&'static str, Attr)> {
        let pads = [self.begin.clone(), self.end.clone()].concat();
        vec![
            ("dilations", Attr::Ints(self.dilations.clone())),
            ("group", Attr::Int(group)),
            ("pads", Attr::Ints(pads)),
            ("strides", Attr::Ints(self.strides.clone())),
        ]
    }
}
