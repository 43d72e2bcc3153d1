//! The plain meaning, straight from the specification: one sequence, one step, one hidden unit at a time.

use super::{Cell, Form, Function, at};
use crate::index::static_shape;
use crate::op::{Cx, OpError, invalid};
use crate::{Fact, Tensor};

/// The operands of one direction, for one sequence.
struct One<'a> {
    form: &'a Form,
    functions: &'a [Function],
    input: usize,
    hidden: usize,
    /// `[gates * hidden, input]`
    w: &'a [f64],
    /// `[gates * hidden, hidden]`
    r: &'a [f64],
    /// `[2 * gates * hidden]`, or nothing.
    bias: &'a [f64],
    /// `[3 * hidden]`, or nothing.
    peepholes: &'a [f64],
    gates: usize,
}

impl One<'_> {
    fn projected(&self, gate: usize, unit: usize, x: &[f64]) -> f64 {
        let row = gate * self.hidden + unit;
        let w = &self.w[row * self.input..][..self.input];
        dot(w, x) + self.bias.get(row).unwrap_or(&0.0)
    }

    fn recurrent(&self, gate: usize, unit: usize, h: &[f64]) -> f64 {
        let row = gate * self.hidden + unit;
        let r = &self.r[row * self.hidden..][..self.hidden];
        dot(r, h) + self.bias.get(self.gates * self.hidden + row).unwrap_or(&0.0)
    }

    fn function(&self, f: usize, x: f64) -> f64 {
        let clip = self.form.clip.map_or(f64::INFINITY, f64::from);
        self.functions[f].of(x.clamp(-clip, clip))
    }

    fn rnn(&self, x: &[f64], h: &[f64]) -> Vec<f64> {
        let unit = |j| self.function(0, self.projected(0, j, x) + self.recurrent(0, j, h));
        (0..self.hidden).map(unit).collect()
    }

    fn gru(&self, x: &[f64], h: &[f64]) -> Vec<f64> {
        let gate = |gate: usize, j: usize| self.function(0, self.projected(gate, j, x) + self.recurrent(gate, j, h));
        let reset: Vec<f64> = (0..self.hidden).map(|j| gate(1, j)).collect();
        let kept: Vec<f64> = reset.iter().zip(h).map(|(r, h)| r * h).collect();
        let unit = |j: usize| {
            let update = gate(0, j);
            let state = if self.form.linear_before_reset {
                reset[j] * self.recurrent(2, j, h)
            } else {
                self.recurrent(2, j, &kept)
            };
            let new = self.function(1, self.projected(2, j, x) + state);
            (1.0 - update) * new + update * h[j]
        };
        (0..self.hidden).map(unit).collect()
    }

    fn lstm(&self, x: &[f64], h: &[f64], c: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let unit = |j: usize| {
            let look = |gate: usize, c: f64| self.peepholes.get(gate * self.hidden + j).map_or(0.0, |p| p * c);
            let sum = |gate: usize| self.projected(gate, j, x) + self.recurrent(gate, j, h);
            let input = self.function(0, sum(0) + look(0, c[j]));
            let forget = if self.form.input_forget {
                1.0 - input
            } else {
                self.function(0, sum(2) + look(2, c[j]))
            };
            let next = forget * c[j] + input * self.function(1, sum(3));
            let output = self.function(0, sum(1) + look(1, next));
            (output * self.functions[2].of(next), next)
        };
        (0..self.hidden).map(unit).unzip()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Element `d` of the first of `count`, or nothing of nothing.
fn nth(all: &[f64], d: usize, count: usize) -> &[f64] {
    let size = all.len() / count;
    &all[d * size..][..size]
}

pub(super) fn eval(cx: &Cx, cell: &Cell) -> Result<Vec<Tensor>, OpError> {
    let values = |i: usize| cx.tensor(i).map(Tensor::to_f64);
    eval_with(cx, cell, [values(0)?, values(1)?, values(2)?], &|h| Ok(h.to_vec()))
}

/// With other x, W and R, and where `seen` is what R meets of all sequences' states of one step.
pub(super) fn eval_with(
    cx: &Cx,
    cell: &Cell,
    [x, w, r]: [Vec<f64>; 3],
    seen: &dyn Fn(&[f64]) -> Result<Vec<f64>, OpError>,
) -> Result<Vec<Tensor>, OpError> {
    let form = Form::new(cx, cell)?;
    let facts = [&form.length, &form.batch, &form.input, &form.hidden].map(Clone::clone);
    let sizes = static_shape(&Fact::new(cx.fact(0)?.dtype, facts.to_vec()))?;
    let [length, batch, input, hidden] = sizes[..] else {
        return invalid("four sizes");
    };
    let directions = form.directions.len();
    let gates = usize::try_from(cell.gates).unwrap_or(0);
    let values = |i: usize| {
        if cx.has(i) {
            cx.tensor(i).map(Tensor::to_f64)
        } else {
            Ok(vec![])
        }
    };
    let (bias, peepholes) = (values(at::BIAS)?, values(at::PEEPHOLES)?);
    let lengths = if cx.has(at::LENGTHS) {
        cx.tensor(at::LENGTHS)?.to_i64()
    } else {
        vec![length as i64; batch]
    };
    let initial = [values(at::INITIAL_H)?, values(at::INITIAL_C)?];
    let first = |a: usize, b: usize, extents: [usize; 2]| {
        // Which of the two axes is the outer one.
        if form.batch_first {
            b * extents[0] + a
        } else {
            a * extents[1] + b
        }
    };
    let state_at = |d: usize, b: usize| first(d, b, [directions, batch]) * hidden;
    let mut y = vec![0.0; length * directions * batch * hidden];
    let mut last = [0, 1].map(|_| vec![0.0; directions * batch * hidden]);
    for (d, direction) in form.directions.iter().enumerate() {
        let one = One {
            form: &form,
            functions: &direction.functions,
            input,
            hidden,
            w: nth(&w, d, directions),
            r: nth(&r, d, directions),
            bias: nth(&bias, d, directions),
            peepholes: nth(&peepholes, d, directions),
            gates,
        };
        let start = |s: &Vec<f64>, b: usize| match s.is_empty() {
            true => vec![0.0; hidden],
            false => s[state_at(d, b)..][..hidden].to_vec(),
        };
        let [mut h, mut c] = initial
            .each_ref()
            .map(|s| (0..batch).flat_map(|b| start(s, b)).collect::<Vec<_>>());
        for step in 0..length {
            let t = if direction.backward { length - 1 - step } else { step };
            let seen = seen(&h)?;
            for b in (0..batch).filter(|b| (t as i64) < lengths[*b]) {
                let x = &x[first(t, b, [length, batch]) * input..][..input];
                let own = b * hidden..(b + 1) * hidden;
                let (old, cell) = (&seen[own.clone()], &c[own.clone()]);
                let (next, next_c) = match gates {
                    1 => (one.rnn(x, old), cell.to_vec()),
                    3 => (one.gru(x, old), cell.to_vec()),
                    _ => one.lstm(x, old, cell),
                };
                let place = if form.batch_first {
                    (b * length + t) * directions + d
                } else {
                    (t * directions + d) * batch + b
                };
                y[place * hidden..][..hidden].copy_from_slice(&next);
                h[own.clone()].copy_from_slice(&next);
                c[own].copy_from_slice(&next_c);
            }
        }
        for (all, state) in last.iter_mut().zip([&h, &c]) {
            for b in 0..batch {
                all[state_at(d, b)..][..hidden].copy_from_slice(&state[b * hidden..][..hidden]);
            }
        }
    }
    let (sequence, state) = if form.batch_first {
        (vec![batch, length, directions, hidden], vec![batch, directions, hidden])
    } else {
        (vec![length, directions, batch, hidden], vec![directions, batch, hidden])
    };
    let dtype = cx.fact(0)?.dtype;
    let mut out = vec![Tensor::from_f64(dtype, &sequence, y)];
    for values in last.into_iter().take(cell.states) {
        out.push(Tensor::from_f64(dtype, &state, values));
    }
    Ok(out)
}
