//! `Gradient` of ONNX's training domain: the derivatives of the nodes between `xs` and `y`, from the last to the first.
//!
//! Law: of a `y` of several elements it is that of their sum. Refused: other values for `xs` and `zs` than those that `y` was
//! computed of, and operators without an entry in [`Importer::pull`].

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::{Attr, Dim, NodeId, Origin, Tensor, ValueId};

use crate::error::{Fault, Site};
use crate::import::Importer;
use crate::loops::{Attributes, of_values};
use crate::operators::version;
use crate::proto::NodeProto;
use crate::scope::Scope;

pub(crate) const GRADIENT: &str = "ai.onnx.preview.training::Gradient";

/// The names in an attribute of texts.
fn names<'m>(attrs: &Attributes<'m>, name: &str) -> Result<Vec<&'m str>, Fault> {
    let Some((_, a)) = attrs.iter().find(|(n, _)| *n == name) else {
        return Ok(vec![]);
    };
    let all = a.strings.iter().chain(Some(&a.s).filter(|s| !s.is_empty()));
    all.map(|s| std::str::from_utf8(s).map_err(|_| Fault::invalid(format!("attribute `{name}` is not UTF-8"))))
        .collect()
}

impl<'m> Importer<'m> {
    /// `false`: the node's outputs have no meaning.
    pub(crate) fn gradient(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> bool {
        let made = version(site).and_then(|()| self.derivatives(scope, node, site, attrs));
        self.finish(scope, node, site, attrs, made.map(of_values))
    }

    fn derivatives(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        if let Some((name, _)) = attrs.iter().find(|(n, _)| !["xs", "y", "zs"].contains(n)) {
            return Err(Fault::unsupported(format!("attribute `{name}` is not supported")));
        }
        let (xs, zs) = (names(attrs, "xs")?, names(attrs, "zs")?);
        let [y] = names(attrs, "y")?[..] else {
            return Err(Fault::invalid("attribute `y` is missing"));
        };
        if node.input.len() != xs.len() + zs.len() || node.output.len() > xs.len() {
            return Err(Fault::invalid(format!(
                "{} inputs and {} outputs for {} tensors in `xs` and {} in `zs`",
                node.input.len(),
                node.output.len(),
                xs.len(),
                zs.len()
            )));
        }
        let mut of = vec![];
        for (given, name) in node.input.iter().zip(xs.iter().chain(&zs)) {
            match (self.read(scope, given)?, self.read(scope, name)?) {
                (Some(a), Some(b)) if a == b => of.push(a),
                (Some(_), Some(_)) => {
                    return Err(Fault::unsupported(format!(
                        "`{given}` is given for `{name}`: only gradients at the values of the model are supported"
                    )));
                }
                _ => return Ok(None),
            }
        }
        let Some(y) = self.read(scope, y)? else { return Ok(None) };
        let origin = &Origin::new(&site.origin);
        let nodes = self.between(&of, xs.len(), y)?;
        let mut slopes: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let one = self.filled(y, 1.0, origin)?;
        slopes.insert(y, one);
        for n in nodes.into_iter().rev() {
            let node = self.graph.node(n);
            if node.outputs.iter().skip(1).any(|v| slopes.contains_key(v)) {
                return Err(Fault::unsupported(format!("the derivative of `{}`", node.op))
                    .hint("export the derivative as nodes of its own"));
            }
            let Some(slope) = node.outputs.first().and_then(|v| slopes.get(v)).copied() else {
                continue;
            };
            let inputs = node.inputs.clone();
            for (i, slope) in self.pull(n, slope, origin)? {
                let Some(Some(v)) = inputs.get(i).copied() else {
                    continue;
                };
                let all = match slopes.get(&v).copied() {
                    Some(other) => self.apply("Add", vec![], &[other, slope], origin)?,
                    None => slope,
                };
                slopes.insert(v, all);
            }
        }
        let mut results = vec![];
        for x in &of[..node.output.len()] {
            results.push(match slopes.get(x) {
                Some(v) => *v,
                None => self.filled(*x, 0.0, origin)?,
            });
        }
        Ok(Some(results))
    }

    /// The nodes on the ways from the first `count` of `of` to `y`, which stop at all of them, producers first.
    fn between(&self, of: &[ValueId], count: usize, y: ValueId) -> Result<Vec<NodeId>, Fault> {
        let mut cone = BTreeSet::new();
        let mut left = vec![y];
        while let Some(v) = left.pop() {
            if of.contains(&v) {
                continue;
            }
            match self.graph.producer(v) {
                Some((n, _)) if cone.insert(n) => left.extend(self.graph.node(n).inputs.iter().flatten()),
                None if self.loop_depth > 0 && self.graph.inputs().contains(&v) => {
                    return Err(Fault::unsupported(
                        "a derivative inside of a loop or branch of what is computed around it",
                    ));
                }
                _ => {}
            }
        }
        // Nodes are numbered in the order in which they came, which is one of producers first.
        let mut reached: BTreeSet<ValueId> = of[..count].iter().copied().collect();
        let mut nodes = vec![];
        for n in cone {
            let node = self.graph.node(n);
            if node.inputs.iter().flatten().any(|v| reached.contains(v)) {
                reached.extend(&node.outputs);
                nodes.push(n);
            }
        }
        Ok(nodes)
    }

    /// A tensor like `v` of one number.
    fn filled(&mut self, v: ValueId, number: f64, origin: &Origin) -> Result<ValueId, Fault> {
        let fact = self.graph.fact(v).clone();
        if !fact.dtype.is_float() {
            return Err(Fault::invalid(format!("{fact} has no derivative")));
        }
        let one = self.graph.add_weight("", Tensor::from_f64(fact.dtype, &[], [number]));
        self.apply("Expand", vec![("shape", Attr::Dims(fact.shape))], &[one], origin)
    }

    /// What each operand of a node adds to its slope, where that of the result is `slope`: by position.
    fn pull(&mut self, n: NodeId, slope: ValueId, origin: &Origin) -> Result<Vec<(usize, ValueId)>, Fault> {
        let node = self.graph.node(n).clone();
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let (Some(x), y) = (operand(0), node.outputs[0]) else {
            return Ok(vec![]);
        };
        let mut one = |op: &str, inputs: &[ValueId]| self.apply(op, vec![], inputs, origin);
        let mut to = vec![];
        match (node.op.name(), operand(1)) {
            ("Identity", _) => to.push((0, slope)),
            ("Add", Some(_)) => to.extend([(0, slope), (1, slope)]),
            ("Sub", Some(_)) => to.extend([(0, slope), (1, one("Neg", &[slope])?)]),
            ("Mul", Some(b)) => to.extend([(0, one("Mul", &[slope, b])?), (1, one("Mul", &[slope, x])?)]),
            ("Div", Some(b)) => {
                let first = one("Div", &[slope, b])?;
                let second = one("Mul", &[first, y])?;
                to.extend([(0, first), (1, one("Neg", &[second])?)]);
            }
            ("Neg", _) => to.push((0, one("Neg", &[slope])?)),
            ("Exp", _) => to.push((0, one("Mul", &[slope, y])?)),
            ("Log", _) => to.push((0, one("Div", &[slope, x])?)),
            ("Sqrt", _) => {
                let twice = one("Add", &[y, y])?;
                to.push((0, one("Div", &[slope, twice])?));
            }
            ("Reciprocal", _) => {
                let squared = one("Mul", &[y, y])?;
                let product = one("Mul", &[slope, squared])?;
                to.push((0, one("Neg", &[product])?));
            }
            ("Sin", _) => {
                let cos = one("Cos", &[x])?;
                to.push((0, one("Mul", &[slope, cos])?));
            }
            ("Cos", _) => {
                let sin = one("Sin", &[x])?;
                let product = one("Mul", &[slope, sin])?;
                to.push((0, one("Neg", &[product])?));
            }
            // 1 - y^2, and y - y^2: of y times the slope.
            ("Tanh", _) => {
                let part = one("Mul", &[slope, y])?;
                let part = one("Mul", &[part, y])?;
                to.push((0, one("Sub", &[slope, part])?));
            }
            ("Sigmoid", _) => {
                let part = one("Mul", &[slope, y])?;
                let rest = one("Mul", &[part, y])?;
                to.push((0, one("Sub", &[part, rest])?));
            }
            ("Relu", _) => {
                let sign = one("Sign", &[y])?;
                to.push((0, one("Mul", &[slope, sign])?));
            }
            ("MatMul", Some(b)) => {
                let ranks = [x, b].map(|v| self.graph.fact(v).rank());
                if ranks.iter().any(|r| *r < 2) {
                    return Err(Fault::unsupported("the derivative of a product with a vector"));
                }
                let [left, right] = [self.flipped(x, origin)?, self.flipped(b, origin)?];
                let first = self.apply("MatMul", vec![], &[slope, right], origin)?;
                let second = self.apply("MatMul", vec![], &[left, slope], origin)?;
                to.extend([(0, first), (1, second)]);
            }
            ("Transpose", _) => {
                let perm = match node.attrs.get("perm") {
                    Some(Attr::Ints(perm)) => perm.clone(),
                    _ => (0..self.graph.fact(x).rank() as i64).rev().collect(),
                };
                let back = (0..perm.len() as i64).map(|a| perm.iter().position(|p| *p == a).unwrap_or(0) as i64);
                let back = vec![("perm", Attr::Ints(back.collect()))];
                to.push((0, self.apply("Transpose", back, &[slope], origin)?));
            }
            ("Reshape" | "Flatten" | "Squeeze" | "Unsqueeze", _) => to.push((0, self.shaped(slope, x, origin)?)),
            (other, _) => {
                return Err(Fault::unsupported(format!("the derivative of `{other}`"))
                    .hint("export the derivative as nodes of its own"));
            }
        }
        let mut out = vec![];
        for (i, slope) in to {
            if let Some(v) = operand(i) {
                out.push((i, self.summed(slope, v, origin)?));
            }
        }
        Ok(out)
    }

    /// With its last two axes exchanged.
    fn flipped(&mut self, v: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let rank = self.graph.fact(v).rank();
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 2, rank - 1);
        self.apply("Transpose", vec![("perm", Attr::Ints(perm))], &[v], origin)
    }

    /// The elements of `v` in the shape of `like`.
    fn shaped(&mut self, v: ValueId, like: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let shape = self.graph.fact(like).shape.clone();
        if self.graph.fact(v).shape == shape {
            return Ok(v);
        }
        let attrs = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
        self.apply("Reshape", attrs, &[v], origin)
    }

    /// The slope of an operand that was broadcast is the sum over what was made of it.
    fn summed(&mut self, slope: ValueId, operand: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let [wide, own] = [slope, operand].map(|v| self.graph.fact(v).shape.clone());
        let before = wide.len() - own.len().min(wide.len());
        let mut axes: Vec<Dim> = (0..before).map(Dim::from).collect();
        for (i, (d, w)) in own.iter().zip(&wide[before..]).enumerate() {
            match d == w {
                true => {}
                false if d.is_one() => axes.push(Dim::from(before + i)),
                false => {
                    return Err(Fault::unsupported(format!(
                        "the derivative where extent {d} may have been broadcast to {w}"
                    )));
                }
            }
        }
        if axes.is_empty() {
            return Ok(slope);
        }
        let sum = self.apply("ReduceSum", vec![("axes", Attr::Dims(axes))], &[slope], origin)?;
        self.shaped(sum, operand, origin)
    }
}
