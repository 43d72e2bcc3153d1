//! Recurrent layers, as loops over time.
//!
//! Laws: what does not depend on the state is computed for all steps at once, before the loop: the product with W and every
//! bias that no gate is applied to. The loop carries its states in at least f32. Where a sequence has ended, states stay and
//! the output is zero; so a backward loop over all steps begins where each sequence ends.

use crate::op::{AttrDef, Cx, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, concat, count, differ, reshape, slice, transpose};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, ValueId};

mod functions;
mod quantized;
mod reference;

use functions::Function;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Composed {
        schema: &Schema::new(
            "RNN",
            "h = f(x W' + h R' + b), step by step",
            &[X, W, R, BIAS, LENGTHS, INITIAL_H],
            &[Y, Y_H],
            &[
                ACTIVATION_ALPHA,
                ACTIVATION_BETA,
                ACTIVATIONS,
                CLIP,
                DIRECTION,
                HIDDEN_SIZE,
                LAYOUT,
            ],
        ),
        build: |cx, g| build(cx, g, &RNN),
        eval: |cx| reference::eval(cx, &RNN),
    },
    &Composed {
        schema: &Schema::new(
            "GRU",
            "z, r = f(x W' + h R' + b), n = g(x W' + r (h R' + b)), h = (1 - z) n + z h, step by step",
            &[X, W, R, BIAS, LENGTHS, INITIAL_H],
            &[Y, Y_H],
            &[
                ACTIVATION_ALPHA,
                ACTIVATION_BETA,
                ACTIVATIONS,
                CLIP,
                DIRECTION,
                HIDDEN_SIZE,
                LAYOUT,
                ("linear_before_reset", AttrDef::Int(0)),
            ],
        ),
        build: |cx, g| build(cx, g, &GRU),
        eval: |cx| reference::eval(cx, &GRU),
    },
    &Composed {
        schema: &Schema::new(
            "LSTM",
            "i, o, f = f(x W' + h R' + p c + b), c = f c + i g(x W' + h R' + b), h = o h(c), step by step",
            &[
                X,
                W,
                R,
                BIAS,
                LENGTHS,
                INITIAL_H,
                Param::new("initial_c", Types::FLOAT).optional(),
                Param::new("P", Types::FLOAT).optional(),
            ],
            &[Y, Y_H, Param::new("Y_c", Types::FLOAT).optional()],
            LSTM_ATTRIBUTES,
        ),
        build: |cx, g| build(cx, g, &LSTM),
        eval: |cx| reference::eval(cx, &LSTM),
    },
    &quantized::DYNAMIC_LSTM,
    &super::causal_conv::CAUSAL_CONV,
    &super::linear_attention::LINEAR_ATTENTION,
];

const X: Param = Param::new("X", Types::FLOAT);
const W: Param = Param::new("W", Types::FLOAT);
const R: Param = Param::new("R", Types::FLOAT);
const BIAS: Param = Param::new("B", Types::FLOAT).optional();
const LENGTHS: Param = Param::new("sequence_lens", Types::INDEX).group(0).optional();
const INITIAL_H: Param = Param::new("initial_h", Types::FLOAT).optional();
const Y: Param = Param::new("Y", Types::FLOAT).optional();
const Y_H: Param = Param::new("Y_h", Types::FLOAT).optional();

/// Parameters of the functions that have some, in their order.
const ACTIVATION_ALPHA: (&str, AttrDef) = ("activation_alpha", AttrDef::OptFloats);
const ACTIVATION_BETA: (&str, AttrDef) = ("activation_beta", AttrDef::OptFloats);
/// Those of the first direction, then those of the second.
const ACTIVATIONS: (&str, AttrDef) = ("activations", AttrDef::OptStrs);
const CLIP: (&str, AttrDef) = ("clip", AttrDef::OptFloat);
const DIRECTION: (&str, AttrDef) = ("direction", AttrDef::OneOf(&["forward", "reverse", "bidirectional"]));
const HIDDEN_SIZE: (&str, AttrDef) = ("hidden_size", AttrDef::OptInt);
const LAYOUT: (&str, AttrDef) = ("layout", AttrDef::Int(0));

const LSTM_ATTRIBUTES: &[(&str, AttrDef)] = &[
    ACTIVATION_ALPHA,
    ACTIVATION_BETA,
    ACTIVATIONS,
    CLIP,
    DIRECTION,
    HIDDEN_SIZE,
    ("input_forget", AttrDef::Int(0)),
    LAYOUT,
];

/// Positions of the inputs.
mod at {
    pub const BIAS: usize = 3;
    pub const LENGTHS: usize = 4;
    pub const INITIAL_H: usize = 5;
    pub const INITIAL_C: usize = 6;
    pub const PEEPHOLES: usize = 7;
    /// Where W and R are integers, their scales; the zero points are behind them.
    pub const SCALES: [usize; 2] = [8, 10];
}

/// What distinguishes the three.
struct Cell {
    /// Rows of W and R are these many blocks of the hidden size.
    gates: i64,
    /// The functions of one direction where none are named.
    functions: &'static [&'static str],
    /// How many tensors are carried from step to step.
    states: usize,
    /// The next states.
    step: fn(&mut Step) -> Result<Vec<ValueId>, OpError>,
}

const RNN: Cell = Cell {
    gates: 1,
    functions: &["Tanh"],
    states: 1,
    step: |s| {
        let products = s.products(s.r)?;
        let sum = s.g.binary("Add", s.x, products)?;
        Ok(vec![s.gate(sum, 0)?])
    },
};

const GRU: Cell = Cell {
    gates: 3,
    functions: &["Sigmoid", "Tanh"],
    states: 1,
    step: gru,
};

const LSTM: Cell = Cell {
    gates: 4,
    functions: &["Sigmoid", "Tanh", "Tanh"],
    states: 2,
    step: lstm,
};

/// One of the one or two loops.
struct Direction {
    backward: bool,
    functions: Vec<Function>,
}

/// Shapes and attributes.
struct Form {
    length: Dim,
    batch: Dim,
    input: Dim,
    hidden: Dim,
    directions: Vec<Direction>,
    /// The batch is the first axis, and not time.
    batch_first: bool,
    clip: Option<f32>,
    linear_before_reset: bool,
    input_forget: bool,
    /// W and R are 8-bit integers, `[directions, columns, gates * hidden]`.
    integers: bool,
}

impl Form {
    fn new(cx: &Cx, cell: &Cell) -> Result<Self, OpError> {
        let [x, w, r] = [cx.fact(0)?, cx.fact(1)?, cx.fact(2)?];
        if [x, w, r].iter().any(|f| f.rank() != 3) {
            return invalid(format!("X is {x}, W {w} and R {r}: all must be of rank 3"));
        }
        let backward: &[bool] = match cx.str("direction")? {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            _ => return cx.bad("direction"),
        };
        let batch_first = match cx.int("layout")? {
            0 => false,
            1 => true,
            n => return invalid(format!("attribute `layout` is {n}")),
        };
        let clip = cx.opt_float("clip")?;
        if clip.is_some_and(|c| c.is_nan() || c < 0.0) {
            return invalid("attribute `clip` is no threshold");
        }
        let integers = cx.schema.input(at::SCALES[0]).is_some();
        let hidden = match cx.opt_int("hidden_size")? {
            None => r.shape[if integers { 1 } else { 2 }].clone(),
            Some(n) if n > 0 => Dim::from(n),
            Some(n) => return invalid(format!("attribute `hidden_size` is {n}")),
        };
        let flag = |name: &str| match cx.schema.attr(name) {
            None => Ok(false),
            Some(_) => Ok(cx.int(name)? != 0),
        };
        let functions = functions::of(cx, cell.functions, backward.len())?;
        let form = Self {
            length: x.shape[usize::from(batch_first)].clone(),
            batch: x.shape[usize::from(!batch_first)].clone(),
            input: x.shape[2].clone(),
            hidden,
            directions: backward
                .iter()
                .zip(functions)
                .map(|(b, functions)| Direction {
                    backward: *b,
                    functions,
                })
                .collect(),
            batch_first,
            clip,
            linear_before_reset: flag("linear_before_reset")?,
            input_forget: flag("input_forget")?,
            integers,
        };
        form.check(cx, cell)?;
        Ok(form)
    }

    /// Refuses inputs of other shapes than the sizes make.
    fn check(&self, cx: &Cx, cell: &Cell) -> Result<(), OpError> {
        let directions = Dim::from(self.directions.len());
        let rows = |n: i64| self.hidden.clone() * Dim::from(n);
        let state = if self.batch_first {
            vec![self.batch.clone(), directions.clone(), self.hidden.clone()]
        } else {
            vec![directions.clone(), self.batch.clone(), self.hidden.clone()]
        };
        let weights = |columns: &Dim| match self.integers {
            true => vec![directions.clone(), columns.clone(), rows(cell.gates)],
            false => vec![directions.clone(), rows(cell.gates), columns.clone()],
        };
        let wanted = [
            (1, weights(&self.input)),
            (2, weights(&self.hidden)),
            (at::BIAS, vec![directions.clone(), rows(2 * cell.gates)]),
            (at::LENGTHS, vec![self.batch.clone()]),
            (at::INITIAL_H, state.clone()),
            (at::INITIAL_C, state),
            (at::PEEPHOLES, vec![directions.clone(), rows(3)]),
        ];
        for (i, shape) in wanted {
            let Some(arg) = cx.arg(i) else { continue };
            let given = &arg.fact.shape;
            if given.len() != shape.len() || given.iter().zip(&shape).any(|(a, b)| differ(a, b)) {
                let name = cx.schema.input(i).map_or("?", |p| p.name);
                let want = Fact::new(arg.fact.dtype, shape);
                return invalid(format!("{name} is {}, not {want}", arg.fact));
            }
        }
        for i in at::SCALES.into_iter().flat_map(|i| [i, i + 1]) {
            let Some(arg) = cx.arg(i) else { continue };
            let each = [directions.clone(), rows(cell.gates)];
            let given = &arg.fact.shape;
            if !matches!(given.len(), 1 | 2) || given.iter().zip(&each).any(|(a, b)| differ(a, b)) {
                let name = cx.schema.input(i).map_or("?", |p| p.name);
                return invalid(format!("{name} is {}, not one for each direction or column", arg.fact));
            }
        }
        Ok(())
    }

    /// Axes of the batch and of the direction or time change places where the batch is first.
    fn turned(&self, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
        if self.batch_first {
            transpose(g, x, &[1, 0, 2])
        } else {
            Ok(x)
        }
    }
}

/// The operands of one direction and the graph of a step that is made of them.
struct Step<'a> {
    g: Fragment,
    form: &'a Form,
    functions: &'a [Function],
    /// The projected input, `[batch, gates * hidden]`.
    x: ValueId,
    states: Vec<ValueId>,
    /// R, `[hidden, gates * hidden]`.
    r: ValueId,
    /// Where R is integers, its scale and zero point.
    codes: Option<Codes>,
    /// The bias that is added before the reset gate.
    reset_bias: Option<ValueId>,
    /// Those of the gates i, o and f.
    peepholes: Vec<ValueId>,
}

/// Scale and zero point of integers, for all of them or for each column.
type Codes = (ValueId, Option<ValueId>);

/// The product with what may be integers: then those of `x` are made first.
fn product(g: &mut Fragment, x: ValueId, w: ValueId, codes: Option<Codes>) -> Result<ValueId, OpError> {
    match codes {
        None => g.binary("MatMul", x, w),
        Some((scale, zero)) => {
            let inputs = [Some(x), Some(w), Some(scale), zero];
            g.node("com.microsoft::DynamicQuantizeMatMul", &[], &inputs)
        }
    }
}

impl Step<'_> {
    fn products(&mut self, r: ValueId) -> Result<ValueId, OpError> {
        product(&mut self.g, self.states[0], r, self.codes)
    }

    /// Blocks `from..to` along the last axis.
    fn block(&mut self, x: ValueId, from: i64, to: i64) -> Result<ValueId, OpError> {
        block(&mut self.g, self.form, x, from, to)
    }

    /// Function `f` of what is clipped first.
    fn gate(&mut self, x: ValueId, f: usize) -> Result<ValueId, OpError> {
        let mut x = x;
        if let Some(clip) = self.form.clip {
            let [low, high] = [-clip, clip].map(|c| self.g.number(x, c.into()));
            x = self.g.node("Clip", &[], &[Some(x), Some(low), Some(high)])?;
        }
        self.functions[f].apply(&mut self.g, x)
    }

    /// `1 - x`
    fn rest(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let one = self.g.number(x, 1.0);
        self.g.binary("Sub", one, x)
    }

    /// `a x + b y`
    fn mixed(&mut self, a: ValueId, x: ValueId, b: ValueId, y: ValueId) -> Result<ValueId, OpError> {
        let (x, y) = (self.g.binary("Mul", a, x)?, self.g.binary("Mul", b, y)?);
        self.g.binary("Add", x, y)
    }
}

fn block(g: &mut Fragment, form: &Form, x: ValueId, from: i64, to: i64) -> Result<ValueId, OpError> {
    let end = |n: i64| form.hidden.clone() * Dim::from(n);
    let axis = g.fact(x).rank() - 1;
    slice(g, x, axis, end(from), end(to))
}

fn gru(s: &mut Step) -> Result<Vec<ValueId>, OpError> {
    let h = s.states[0];
    let (gates, linear) = if s.form.linear_before_reset {
        let products = s.products(s.r)?;
        (s.block(products, 0, 2)?, Some(s.block(products, 2, 3)?))
    } else {
        let r = s.block(s.r, 0, 2)?;
        (s.products(r)?, None)
    };
    let x = s.block(s.x, 0, 2)?;
    let gates = s.g.binary("Add", x, gates)?;
    let gates = s.gate(gates, 0)?;
    let (update, reset) = (s.block(gates, 0, 1)?, s.block(gates, 1, 2)?);
    let reset = match linear {
        Some(products) => {
            let sum = match s.reset_bias {
                Some(bias) => s.g.binary("Add", products, bias)?,
                None => products,
            };
            s.g.binary("Mul", reset, sum)?
        }
        None => {
            let kept = s.g.binary("Mul", reset, h)?;
            let r = s.block(s.r, 2, 3)?;
            s.g.binary("MatMul", kept, r)?
        }
    };
    let x = s.block(s.x, 2, 3)?;
    let sum = s.g.binary("Add", x, reset)?;
    let new = s.gate(sum, 1)?;
    let rest = s.rest(update)?;
    Ok(vec![s.mixed(rest, new, update, h)?])
}

fn lstm(s: &mut Step) -> Result<Vec<ValueId>, OpError> {
    let c = s.states[1];
    let products = s.products(s.r)?;
    let sums = s.g.binary("Add", s.x, products)?;
    // The order of the blocks is i, o, f, c; peepholes are i, o, f.
    let look = |s: &mut Step, gate: i64, c: ValueId| -> Result<ValueId, OpError> {
        let sum = s.block(sums, gate, gate + 1)?;
        let Some(p) = s.peepholes.get(gate as usize).copied() else {
            return Ok(sum);
        };
        let p = s.g.binary("Mul", p, c)?;
        s.g.binary("Add", sum, p)
    };
    let input = look(s, 0, c)?;
    let input = s.gate(input, 0)?;
    let forget = if s.form.input_forget {
        s.rest(input)?
    } else {
        let sum = look(s, 2, c)?;
        s.gate(sum, 0)?
    };
    let new = s.block(sums, 3, 4)?;
    let new = s.gate(new, 1)?;
    let next = s.mixed(forget, c, input, new)?;
    let output = look(s, 1, next)?;
    let output = s.gate(output, 0)?;
    // As in ONNX Runtime, only sums are clipped.
    let shown = s.functions[2].apply(&mut s.g, next)?;
    Ok(vec![s.g.binary("Mul", output, shown)?, next])
}

/// The loops of all directions, joined: Y, Y_h and, of a cell with two states, Y_c.
fn build(cx: &Cx, g: &mut Fragment, cell: &Cell) -> Result<Vec<ValueId>, OpError> {
    let form = Form::new(cx, cell)?;
    let dtype = cx.fact(0)?.dtype;
    let x = g.required(cx, 0)?;
    let x = g.widen(x)?;
    let x = form.turned(g, x)?;
    let lengths = match g.input(at::LENGTHS) {
        None => None,
        Some(v) => {
            let v = g.cast(v, DType::I64)?;
            Some(reshape(g, v, vec![form.batch.clone(), Dim::ONE])?)
        }
    };
    let x = match lengths.filter(|_| form.integers) {
        Some(lengths) => quantized::within(g, x, lengths, &form.length)?,
        None => x,
    };
    let mut parts: Vec<Vec<ValueId>> = vec![vec![]; cell.states + 1];
    for (d, direction) in form.directions.iter().enumerate() {
        let results = looped(cx, g, cell, &form, d, direction, x, lengths)?;
        for (all, one) in parts.iter_mut().zip(results) {
            all.push(one);
        }
    }
    let mut out = vec![];
    for (i, all) in parts.into_iter().enumerate() {
        // The direction is the axis after time, or the first.
        let mut v = if all.len() == 1 {
            all[0]
        } else {
            concat(g, &all, i64::from(i == 0))?
        };
        v = if i > 0 {
            form.turned(g, v)?
        } else if form.batch_first {
            transpose(g, v, &[2, 0, 1, 3])?
        } else {
            v
        };
        out.push(g.cast(v, dtype)?);
    }
    Ok(out)
}

/// Direction `d`: `[time, 1, batch, hidden]`, then `[1, batch, hidden]` for each state.
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are of the node, and used here only"
)]
fn looped(
    cx: &Cx,
    g: &mut Fragment,
    cell: &Cell,
    form: &Form,
    d: usize,
    direction: &Direction,
    x: ValueId,
    lengths: Option<ValueId>,
) -> Result<Vec<ValueId>, OpError> {
    let (batch, hidden) = (&form.batch, &form.hidden);
    let rows = hidden.clone() * Dim::from(cell.gates);
    let turn = |g: &mut Fragment, v: ValueId| if direction.backward { reversed(g, v) } else { Ok(v) };
    // Element `d` of the first axis, in the type of the loop.
    let part = |g: &mut Fragment, v: ValueId, shape: &[&Dim]| {
        let v = g.widen(v)?;
        let v = slice(g, v, 0, Dim::from(d), Dim::from(d + 1))?;
        reshape(g, v, shape.iter().map(|d| (*d).clone()).collect())
    };
    let weights = |g: &mut Fragment, i: usize, columns: &Dim| -> Result<(ValueId, Option<Codes>), OpError> {
        let v = g.required(cx, i + 1)?;
        if form.integers {
            return quantized::part(cx, g, i, d, &[columns, &rows]);
        }
        let v = part(g, v, &[&rows, columns])?;
        Ok((transpose(g, v, &[1, 0])?, None))
    };
    let (w, w_codes) = weights(g, 0, &form.input)?;
    let (r, r_codes) = weights(g, 1, hidden)?;

    let x = turn(g, x)?;
    let mut projected = product(g, x, w, w_codes)?;
    let mut reset_bias = None;
    if let Some(bias) = g.input(at::BIAS) {
        let both = part(g, bias, &[&Dim::from(2i64), &rows])?;
        let row = |g: &mut Fragment, n: i64| {
            let v = slice(g, both, 0, Dim::from(n), Dim::from(n + 1))?;
            reshape(g, v, vec![rows.clone()])
        };
        let (input, mut recurrent) = (row(g, 0)?, row(g, 1)?);
        if form.linear_before_reset {
            reset_bias = Some(block(g, form, recurrent, 2, 3)?);
            let free = block(g, form, recurrent, 0, 2)?;
            let none = zeros(g, free, vec![hidden.clone()])?;
            recurrent = concat(g, &[free, none], 0)?;
        }
        let bias = g.binary("Add", input, recurrent)?;
        projected = g.binary("Add", projected, bias)?;
    }

    let mut step = Fragment::empty("step");
    let (mut operands, mut states) = (vec![], vec![]);
    for i in [at::INITIAL_H, at::INITIAL_C].into_iter().take(cell.states) {
        let shape = [batch, hidden];
        let v = match g.input(i) {
            None => zeros(g, projected, shape.map(Clone::clone).to_vec())?,
            Some(v) => {
                let v = form.turned(g, v)?;
                part(g, v, &shape)?
            }
        };
        states.push(step.operand(g.fact(v).clone()));
        operands.push(v);
    }
    let cut = |g: &Fragment, v: ValueId| Fact::new(g.dtype(v), g.fact(v).shape[1..].to_vec());
    let mut slices = 1;
    let x = step.operand(cut(g, projected));
    operands.push(projected);
    let mut ends = None;
    if let Some(lengths) = lengths {
        let time = count(g, &form.length)?;
        let time = turn(g, time)?;
        let inner = step.operand(cut(g, time));
        operands.push(time);
        slices += 1;
        ends = Some((inner, step.operand(g.fact(lengths).clone())));
        operands.push(lengths);
    }
    let mut whole = |g: &Fragment, v: ValueId| {
        operands.push(v);
        step.operand(Fact::new(g.dtype(v), g.fact(v).shape.clone()))
    };
    let r = whole(g, r);
    let codes = r_codes.map(|(scale, zero)| (whole(g, scale), zero.map(|v| whole(g, v))));
    let reset_bias = reset_bias.map(|v| whole(g, v));
    let mut peepholes = vec![];
    if let Some(p) = g.input(at::PEEPHOLES) {
        let p = part(g, p, &[&(hidden.clone() * Dim::from(3i64))])?;
        for gate in 0..3 {
            let p = block(g, form, p, gate, gate + 1)?;
            peepholes.push(whole(g, p));
        }
    }

    let mut s = Step {
        g: step,
        form,
        functions: &direction.functions,
        x,
        states,
        r,
        codes,
        reset_bias,
        peepholes,
    };
    let mut next = (cell.step)(&mut s)?;
    let mut y = next[0];
    let mut step = s.g;
    if let Some((time, lengths)) = ends {
        let runs = step.binary("Less", time, lengths)?;
        let zero = step.number(y, 0.0);
        y = step.apply("Where", &[], &[runs, y, zero])?;
        for (new, old) in next.iter_mut().zip(&s.states) {
            *new = step.apply("Where", &[], &[runs, *new, *old])?;
        }
    }
    next.push(y);
    let mut results = g.scan(step, &next, [cell.states, slices], &form.length, &operands)?;
    let y = results.pop().map_or_else(|| invalid("no output"), Ok)?;
    let y = turn(g, y)?;
    let y = reshape(g, y, vec![form.length.clone(), Dim::ONE, batch.clone(), hidden.clone()])?;
    let mut out = vec![y];
    for v in results {
        out.push(reshape(g, v, vec![Dim::ONE, batch.clone(), hidden.clone()])?);
    }
    Ok(out)
}

/// Backwards along the first axis.
fn reversed(g: &mut Fragment, v: ValueId) -> Result<ValueId, OpError> {
    let one = |d: i64| Attr::Dims(vec![Dim::from(d)]);
    let attrs = [
        ("axes", one(0)),
        ("ends", one(i64::MIN + 1)),
        ("starts", one(-1)),
        ("steps", one(-1)),
    ];
    g.apply("Slice", &attrs, &[v])
}

/// Zeros of the type of `like`.
fn zeros(g: &mut Fragment, like: ValueId, shape: Vec<Dim>) -> Result<ValueId, OpError> {
    let zero = g.number(like, 0.0);
    g.apply("Expand", &[("shape", Attr::Dims(shape))], &[zero])
}

#[cfg(test)]
mod tests;
