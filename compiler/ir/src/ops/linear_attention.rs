//! `LinearAttention`: attention whose past is one matrix per head, which every step decays, corrects and adds to.
//!
//! Laws: everything but the state is brought into shape for all steps before the loop; the state is carried in at least
//! `f32`; query heads that share a head of keys read the state that they share.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, differ, optional, reshape, transpose};
use crate::ops::conv::per_group;
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

const FLOATS: Types = Types::of(&[DType::F32, DType::F16, DType::BF16]);

pub(super) const LINEAR_ATTENTION: Composed = Composed {
    schema: &Schema::new(
        "LinearAttention",
        "S = e^decay S + beta k (v - e^decay S' k)', o = scale S' q, step by step; without what update_rule leaves out",
        &[
            Param::new("query", FLOATS),
            Param::new("key", FLOATS),
            Param::new("value", FLOATS),
            Param::new("past_state", FLOATS).group(2).optional(),
            Param::new("decay", FLOATS).optional(),
            Param::new("beta", FLOATS).optional(),
        ],
        &[
            Param::new("output", FLOATS),
            Param::new("present_state", FLOATS).group(2).optional(),
        ],
        &[
            // How many steps an implementation takes at once; the result is the same.
            ("chunk_size", AttrDef::Int(64)),
            ("kv_num_heads", AttrDef::ReqInt),
            ("q_num_heads", AttrDef::ReqInt),
            ("scale", AttrDef::Float(0.0)),
            (
                "update_rule",
                AttrDef::OneOf(&["gated_delta", "gated", "delta", "linear"]),
            ),
        ],
    )
    .limits(&["last extents of `decay` and `beta` must be known"])
    .since(27),
    build,
    eval,
};

const PAST: usize = 3;
const DECAY: usize = 4;
const BETA: usize = 5;

/// Heads and extents.
struct Form {
    /// Heads of keys and values, and query heads for each.
    heads: i64,
    group: i64,
    batch: Dim,
    length: Dim,
    /// Elements of a key and of a value.
    key: Dim,
    value: Dim,
    /// Whether decay and beta are given.
    gated: bool,
    corrected: bool,
}

impl Form {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let (heads, queries) = (cx.int("kv_num_heads")?, cx.int("q_num_heads")?);
        if heads < 1 || queries < 1 || queries % heads != 0 {
            return invalid(format!("{queries} query heads for {heads}"));
        }
        let (gated, corrected) = match cx.str("update_rule")? {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            _ => return cx.bad("update_rule"),
        };
        if gated != cx.has(DECAY) || corrected != cx.has(BETA) {
            return invalid(format!(
                "decay or beta, given or not, of update_rule `{}`",
                cx.str("update_rule")?
            ));
        }
        let [query, key, value] = [cx.fact(0)?, cx.fact(1)?, cx.fact(2)?];
        let present = (0..3).chain([DECAY, BETA]).filter_map(|i| cx.arg(i));
        for fact in present.map(|a| a.fact) {
            let apart = |axis: usize| fact.rank() != 3 || differ(&fact.shape[axis], &query.shape[axis]);
            if query.rank() != 3 || apart(0) || apart(1) {
                return invalid(format!("{fact} with queries {query}"));
            }
        }
        let of_head = |fact: &Fact, n: i64| per_group(&fact.shape[2], &Dim::from(n));
        let (of_query, of_key) = (of_head(query, queries)?, of_head(key, heads)?);
        if differ(&of_query, &of_key) {
            return invalid(format!("{of_query} elements of a query, {of_key} of a key"));
        }
        let form = Self {
            heads,
            group: queries / heads,
            batch: query.shape[0].clone(),
            length: query.shape[1].clone(),
            key: if of_query.as_const().is_some() {
                of_query
            } else {
                of_key
            },
            value: of_head(value, heads)?,
            gated,
            corrected,
        };
        if let Some(past) = cx.arg(PAST).map(|a| a.fact)
            && (past.rank() != 4 || past.shape.iter().zip(form.state()).any(|(a, b)| differ(a, &b)))
        {
            return invalid(format!("past_state is {past}, not {:?}", form.state()));
        }
        Ok(form)
    }

    fn state(&self) -> [Dim; 4] {
        let heads = Dim::from(self.heads);
        [self.batch.clone(), heads, self.key.clone(), self.value.clone()]
    }

    /// The shape of what every step has.
    fn steps(&self, inner: [Dim; 3]) -> Vec<Dim> {
        [self.length.clone(), self.batch.clone()]
            .into_iter()
            .chain(inner)
            .collect()
    }

    /// How many numbers of decay a head has: one, or one for each element of a key.
    fn decays(&self, decay: &Fact) -> Result<Dim, OpError> {
        let (heads, given) = (Dim::from(self.heads), &decay.shape[2]);
        let each = self.key.clone() * heads.clone();
        match given {
            d if *d == heads => Ok(Dim::ONE),
            d if *d == each => Ok(self.key.clone()),
            d if differ(d, &heads) && differ(d, &each) => invalid(format!("decay is {decay}")),
            d => per_group(d, &heads),
        }
    }

    /// How many heads have a beta of their own.
    fn betas(&self, beta: &Fact) -> Result<Dim, OpError> {
        match beta.shape[2].as_const() {
            Some(n) if n != self.heads && n != 1 => invalid(format!("beta is {beta}")),
            _ => Ok(beta.shape[2].clone()),
        }
    }
}

/// `[batch, length, heads * …]` as `[length, batch, heads, …]`, in the type of the loop.
fn by_step(g: &mut Fragment, form: &Form, x: ValueId, inner: [Dim; 3]) -> Result<ValueId, OpError> {
    let x = g.widen(x)?;
    let shape = [form.batch.clone(), form.length.clone()].into_iter().chain(inner);
    let x = reshape(g, x, shape.collect())?;
    transpose(g, x, &[1, 0, 2, 3, 4])
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let form = Form::of(cx)?;
    let (heads, group) = (Dim::from(form.heads), Dim::from(form.group));
    let [q, k, v] = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
    let dtype = g.dtype(q);
    let q = by_step(g, &form, q, [heads.clone(), group.clone(), form.key.clone()])?;
    let q = match cx.float("scale")? {
        0.0 => {
            let attrs = [("by", Attr::Dims(vec![form.key.clone()])), ("root", Attr::Int(1))];
            g.apply("cameo::DivDim", &attrs, &[q])?
        }
        scale => {
            let scale = g.number(q, scale.into());
            g.binary("Mul", q, scale)?
        }
    };
    let k = by_step(g, &form, k, [heads.clone(), form.key.clone(), Dim::ONE])?;
    let v = by_step(g, &form, v, [heads.clone(), Dim::ONE, form.value.clone()])?;
    let state = match g.input(PAST) {
        Some(past) => g.widen(past)?,
        None => {
            let zero = g.number(q, 0.0);
            g.apply("Expand", &[("shape", Attr::Dims(form.state().to_vec()))], &[zero])?
        }
    };
    let kept = match (form.gated, g.input(DECAY)) {
        (true, Some(decay)) => {
            let each = form.decays(cx.fact(DECAY)?)?;
            let decay = by_step(g, &form, decay, [heads.clone(), each, Dim::ONE])?;
            let decay = g.fit(decay, &form.steps([heads, form.key.clone(), Dim::ONE]))?;
            Some(g.unary("Exp", decay)?)
        }
        _ => None,
    };
    let rate = match (form.corrected, g.input(BETA)) {
        (true, Some(beta)) => {
            let own = form.betas(cx.fact(BETA)?)?;
            let beta = by_step(g, &form, beta, [own, Dim::ONE, Dim::ONE])?;
            Some(g.fit(beta, &form.steps([Dim::from(form.heads), Dim::ONE, Dim::ONE]))?)
        }
        _ => None,
    };

    let mut step = Fragment::empty("step");
    let s = step.operand(g.fact(state).clone());
    let mut operands = vec![state];
    let mut cut = |x: ValueId| {
        operands.push(x);
        step.operand(Fact::new(g.dtype(x), g.fact(x).shape[1..].to_vec()))
    };
    let [q, k, v] = [q, k, v].map(&mut cut);
    let (kept, rate) = (kept.map(&mut cut), rate.map(&mut cut));
    let results = updated(&mut step, s, [q, k, v], kept, rate)?;
    let results = g.scan(step, &results, [1, operands.len() - 1], &form.length, &operands)?;
    let y = transpose(g, results[1], &[1, 0, 2, 3, 4])?;
    let width = Dim::from(form.heads * form.group) * form.value.clone();
    let y = reshape(g, y, vec![form.batch.clone(), form.length.clone(), width])?;
    let held = cx.arg(PAST).map_or(dtype, |a| a.fact.dtype);
    Ok(vec![g.cast(y, dtype)?, g.cast(results[0], held)?])
}

/// The next state, `[batch, heads, key, value]`, and what the queries read from it, `[batch, heads, group, value]`.
fn updated(
    g: &mut Fragment,
    state: ValueId,
    [q, k, v]: [ValueId; 3],
    kept: Option<ValueId>,
    rate: Option<ValueId>,
) -> Result<Vec<ValueId>, OpError> {
    let (mut state, mut v) = (state, v);
    if let Some(kept) = kept {
        state = g.binary("Mul", state, kept)?;
    }
    if let Some(rate) = rate {
        let found = g.binary("Mul", state, k)?;
        let found = g.reduce("ReduceSum", found, &[2], true)?;
        let missing = g.binary("Sub", v, found)?;
        v = g.binary("Mul", rate, missing)?;
    }
    let new = g.binary("Mul", k, v)?;
    let state = g.binary("Add", state, new)?;
    Ok(vec![state, g.binary("MatMul", q, state)?])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let form = Form::of(cx)?;
    let [query, key, value] = [cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?];
    let (past, decay, beta) = (optional(cx, PAST)?, optional(cx, DECAY)?, optional(cx, BETA)?);
    let (heads, group) = (form.heads as usize, form.group as usize);
    let (batch, length) = (query.shape()[0], query.shape()[1]);
    let (size, width) = (key.shape()[2] / heads, value.shape()[2] / heads);
    let fits = [query, key, value].into_iter().chain(decay).chain(beta);
    if !fits.into_iter().all(|t| t.shape()[..2] == [batch, length])
        || query.shape()[2] != heads * group * size
        || past.is_some_and(|p| p.shape() != [batch, heads, size, width])
    {
        return invalid("queries, keys, values and the state do not fit together");
    }
    let decays = match cx.arg(DECAY) {
        Some(a) => form.decays(a.fact)?.as_const().map_or(1, |n| n as usize),
        None => 1,
    };
    let betas = match cx.arg(BETA) {
        Some(a) => form.betas(a.fact)?.as_const().map_or(1, |n| n as usize),
        None => 1,
    };
    let scale = match cx.float("scale")? {
        0.0 => 1.0 / (size as f64).sqrt(),
        scale => scale.into(),
    };
    let [q, k, v] = [query, key, value].map(Tensor::to_f64);
    let (decay, beta) = (decay.map(Tensor::to_f64), beta.map(Tensor::to_f64));
    let held = past.map_or(query.dtype(), Tensor::dtype);
    let mut state = past.map_or_else(|| vec![0.0; batch * heads * size * width], Tensor::to_f64);
    let mut y = vec![0.0; batch * length * heads * group * width];
    for n in 0..batch {
        for t in 0..length {
            let row = n * length + t;
            for h in 0..heads {
                let s = &mut state[(n * heads + h) * size * width..][..size * width];
                let k = &k[(row * heads + h) * size..][..size];
                for (i, s) in s.iter_mut().enumerate() {
                    let which = if decays == 1 { 0 } else { i / width };
                    *s *= decay
                        .as_ref()
                        .map_or(1.0, |d| d[(row * heads + h) * decays + which].exp());
                }
                for j in 0..width {
                    let mut new = v[(row * heads + h) * width + j];
                    if let Some(beta) = &beta {
                        let found: f64 = (0..size).map(|i| s[i * width + j] * k[i]).sum();
                        new = beta[row * betas + h % betas] * (new - found);
                    }
                    (0..size).for_each(|i| s[i * width + j] += k[i] * new);
                    for query in h * group..(h + 1) * group {
                        let at = row * heads * group + query;
                        let read: f64 = (0..size).map(|i| q[at * size + i] * s[i * width + j]).sum();
                        y[at * width + j] = scale * read;
                    }
                }
            }
        }
    }
    Ok(vec![
        Tensor::from_f64(query.dtype(), &[batch, length, heads * group * width], y),
        Tensor::from_f64(held, &[batch, heads, size, width], state),
    ])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    const OP: &str = "LinearAttention";

    fn attrs(queries: i64, heads: i64, rule: &str) -> Vec<(&'static str, Attr)> {
        vec![
            ("q_num_heads", Attr::Int(queries)),
            ("kv_num_heads", Attr::Int(heads)),
            ("update_rule", Attr::Str(rule.into())),
        ]
    }

    /// Small numbers, so that states stay small.
    fn numbers(t: DType, shape: &[usize], seed: u64) -> Option<Tensor> {
        let s = sample(t, shape, seed)?;
        Some(Tensor::from_f64(t, shape, s.to_f64().into_iter().map(|v| v / 8.0)))
    }

    #[test]
    fn rules() {
        for t in [DType::F32, DType::F16, DType::BF16] {
            let s = |last: usize, seed| numbers(t, &[2, 3, last], seed);
            let past = || numbers(DType::F32, &[2, 2, 4, 5], 7);
            for (queries, rule) in [(2, "linear"), (4, "gated"), (2, "delta"), (6, "gated_delta")] {
                let attrs = attrs(queries, 2, rule);
                let qkv = [s(4 * queries as usize, 1), s(8, 2), s(10, 3)];
                let decays: &[usize] = if rule.starts_with("gated") { &[2, 8] } else { &[0] };
                let betas: &[usize] = if rule.ends_with("delta") { &[2, 1] } else { &[0] };
                for (d, b) in decays.iter().flat_map(|d| betas.iter().map(move |b| (*d, *b))) {
                    let rest = |n: usize, seed| if n == 0 { None } else { s(n, seed) };
                    for state in [None, past()] {
                        let mut inputs = qkv.to_vec();
                        inputs.extend([state, rest(d, 4), rest(b, 5)]);
                        while inputs.last() == Some(&None) {
                            inputs.pop();
                        }
                        check(OP, &attrs, &inputs, 2);
                    }
                }
            }
        }
        let mut scaled = attrs(1, 1, "linear");
        scaled.push(("scale", Attr::Float(0.5)));
        let x = || numbers(DType::F32, &[1, 2, 3], 1);
        check(OP, &scaled, &[x(), x(), x()], 1);
    }

    #[test]
    fn values() {
        let x = |v: &[f32]| Some(Tensor::f32(&[1, 2, 1], v.iter().copied()));
        let inputs = [
            x(&[1.0, 2.0]),
            x(&[1.0, 3.0]),
            x(&[5.0, 7.0]),
            None,
            None,
            x(&[1.0, 0.5]),
        ];
        // S = 0 + 1 * 5, then 5 + 3 * (7 - 15) / 2.
        let y = eval(OP, &attrs(1, 1, "delta"), &inputs, 2);
        assert_eq!((y[0].to_f32(), y[1].to_f32()), (vec![5.0, -14.0], vec![-7.0]));
        let f = Fact::new(DType::F32, [1, 2, 4].map(Dim::from as fn(i64) -> Dim));
        let three = || vec![f.clone(), f.clone(), f.clone()];
        assert!(infer(OP, &attrs(2, 2, "linear"), &three()).is_ok());
        assert!(infer(OP, &attrs(2, 2, "gated"), &three()).is_err());
        assert!(infer(OP, &attrs(3, 2, "linear"), &three()).is_err());
        assert!(infer(OP, &attrs(3, 3, "linear"), &three()).is_err());
    }
}
