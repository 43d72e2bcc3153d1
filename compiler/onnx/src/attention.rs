//! `FlexAttention` with graphs that change its scores or probabilities: the nodes that it is, with those graphs between them.
//!
//! Law: what the graphs are given is of type `softmax_precision`, as the operator says; all else is computed in at least `f32`.

use cameo_ir::{Attr, Attrs, DType, Dim, Op, Origin, Tensor, ValueId};

use crate::attributes;
use crate::error::{Fault, Site};
use crate::functions::MAX_DEPTH;
use crate::import::Importer;
use crate::loops::{Attributes, of_values};
use crate::operators::version;
use crate::proto::{GraphProto, NodeProto};
use crate::scope::{Scope, Slot};

/// Whether the node has a graph.
pub(crate) fn is_modified(attrs: &Attributes) -> bool {
    attrs.iter().any(|(_, a)| a.g.is_some())
}

impl<'m> Importer<'m> {
    /// `false`: the node's output has no meaning.
    pub(crate) fn modified_attention(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> bool {
        let made = version(site).and_then(|()| self.attend(scope, node, site, attrs));
        self.finish(scope, node, site, attrs, made.map(|v| of_values(v.map(|v| vec![v]))))
    }

    fn attend(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<ValueId>, Fault> {
        let graph = |name: &str| {
            let found = attrs.iter().find(|(n, _)| *n == name);
            found.and_then(|(_, a)| a.g.as_deref())
        };
        let plain = self.plain_attributes(attrs)?;
        let [q, k, v] = node.input.as_slice() else {
            return Err(Fault::invalid(format!("{} inputs, three are wanted", node.input.len())));
        };
        let (Some(q), Some(k), Some(v)) = (self.read(scope, q)?, self.read(scope, k)?, self.read(scope, v)?) else {
            return Ok(None);
        };
        let facts = [q, k, v].map(|v| self.graph.fact(v).clone());
        let dtype = facts[0].dtype;
        if facts
            .iter()
            .any(|f| f.rank() != 4 || f.dtype != dtype || !dtype.is_float())
        {
            let [q, k, v] = facts;
            return Err(Fault::invalid(format!(
                "Q is {q}, K {k} and V {v}: all must be of rank 4 and of one type of floats"
            )));
        }
        let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
        // The numbers of float, half, double and bfloat16 in ONNX.
        let precision = match plain.get("softmax_precision") {
            None => wide,
            Some(Attr::Int(1)) => DType::F32,
            Some(Attr::Int(10)) => DType::F16,
            Some(Attr::Int(11)) => DType::F64,
            Some(Attr::Int(16)) => DType::BF16,
            Some(_) => {
                return Err(Fault::unsupported(
                    "attribute `softmax_precision` can be 1, 10, 11 or 16",
                ));
            }
        };
        let shapes = facts.each_ref().map(|f| &f.shape);
        let [q_shape, k_shape, v_shape] = shapes;
        let batch = [k_shape, v_shape].iter().any(|s| differ(&s[0], &q_shape[0]));
        if batch || (1..3).any(|i| differ(&k_shape[i], &v_shape[i])) {
            let [q, k, v] = facts;
            return Err(Fault::invalid(format!(
                "Q is {q}, K {k} and V {v}: they do not belong together"
            )));
        }
        let origin = &Origin::new(&site.origin);
        let [queries, keys, _] = facts.each_ref().map(|f| f.shape.clone());
        let [q, k, v] = [
            self.cast(q, wide, origin)?,
            self.cast(k, wide, origin)?,
            self.cast(v, wide, origin)?,
        ];
        let [k, v] = [
            self.shared(k, &queries[1], origin)?,
            self.shared(v, &queries[1], origin)?,
        ];
        let turn = vec![("perm", Attr::Ints(vec![0, 1, 3, 2]))];
        let k = self.apply("Transpose", turn, &[k], origin)?;
        let mut scores = self.apply("MatMul", vec![], &[q, k], origin)?;
        scores = match plain.get("scale") {
            Some(Attr::Float(s)) if s.is_nan() || *s < 0.0 => {
                return Err(Fault::invalid("attribute `scale` is negative"));
            }
            Some(Attr::Float(s)) => {
                let s = self.graph.add_weight("", Tensor::from_f64(wide, &[], [f64::from(*s)]));
                self.apply("Mul", vec![], &[scores, s], origin)?
            }
            _ => {
                let size = self.apply("Shape", vec![("start", Attr::Int(3))], &[q], origin)?;
                let size = self.cast(size, wide, origin)?;
                let root = self.apply("Sqrt", vec![], &[size], origin)?;
                self.apply("Div", vec![], &[scores, root], origin)?
            }
        };
        scores = self.cast(scores, precision, origin)?;
        if let Some(graph) = graph("score_mod") {
            match self.modified(scope, site, graph, scores)? {
                Some(v) => scores = v,
                None => return Ok(None),
            }
        }
        let mut shares = self.apply("Softmax", vec![("axis", Attr::Int(-1))], &[scores], origin)?;
        if let Some(graph) = graph("prob_mod") {
            match self.modified(scope, site, graph, shares)? {
                Some(v) => shares = v,
                None => return Ok(None),
            }
        }
        let last = [
            queries[0].clone(),
            queries[1].clone(),
            queries[2].clone(),
            keys[2].clone(),
        ];
        let is = self.graph.fact(shares);
        if is.shape.iter().zip(&last).any(|(a, b)| differ(a, b)) {
            return Err(Fault::invalid(format!(
                "Q, K and V give probabilities {is}, not {last:?}"
            )));
        }
        let shares = self.cast(shares, wide, origin)?;
        let y = self.apply("MatMul", vec![], &[shares, v], origin)?;
        self.cast(y, dtype, origin).map(Some)
    }

    /// The attributes that are no graphs, as the schema wants them.
    fn plain_attributes(&mut self, attrs: &Attributes<'m>) -> Result<Attrs, Fault> {
        let Some(op) = Op::find("ai.onnx.preview::FlexAttention") else {
            return Err(Fault::unsupported("FlexAttention"));
        };
        let mut plain = Attrs::new();
        for (name, a) in attrs {
            if a.g.is_some() && (*name == "score_mod" || *name == "prob_mod") {
                continue;
            }
            let value = attributes::value(a, &mut self.weights).map_err(|f| f.of(&format!("attribute `{name}`")))?;
            plain.insert((*name).into(), value);
        }
        // One fault is enough: the node is refused with it.
        attributes::adapt(op.schema(), plain).map_err(|faults| {
            faults
                .into_iter()
                .next()
                .unwrap_or_else(|| Fault::invalid("attributes"))
        })
    }

    /// Keys or values with a head for each of the query: neighbours share one.
    fn shared(&mut self, x: ValueId, heads: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        let shape = self.graph.fact(x).shape.clone();
        if shape[1] == *heads {
            return Ok(x);
        }
        let group = match heads.div_exact(&shape[1]) {
            Some(group) => group,
            None if heads.as_const().is_some() && shape[1].as_const().is_some() => {
                return Err(Fault::invalid(format!(
                    "{heads} query heads cannot share {} key heads",
                    shape[1]
                )));
            }
            None => heads.floor_div(&shape[1].maximum(&Dim::ONE)),
        };
        let apart = vec![("axes", Attr::Dims(vec![Dim::from(2i64)]))];
        let x = self.apply("Unsqueeze", apart, &[x], origin)?;
        let mut each = shape.clone();
        each.insert(2, group.clone());
        let x = self.apply("Expand", vec![("shape", Attr::Dims(each))], &[x], origin)?;
        let mut joined = shape;
        joined[1] = joined[1].clone() * group;
        let x = self.apply("Reshape", vec![("shape", Attr::Dims(joined.clone()))], &[x], origin)?;
        // Where only a run knows it, it checks that no head is left over.
        joined[1] = heads.clone();
        self.apply("cameo::Fit", vec![("shape", Attr::Dims(joined))], &[x], origin)
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType, origin: &Origin) -> Result<ValueId, Fault> {
        if self.graph.fact(x).dtype == to {
            return Ok(x);
        }
        self.apply("Cast", vec![("to", Attr::DType(to))], &[x], origin)
    }

    /// What a graph of one input and one output makes of `x`, of the same type and shape; `Ok(None)` when something in it
    /// failed and is reported.
    fn modified(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        x: ValueId,
    ) -> Result<Option<ValueId>, Fault> {
        let ([input], [output]) = (graph.input.as_slice(), graph.output.as_slice()) else {
            return Err(Fault::invalid(format!(
                "a graph of {} inputs and {} outputs, one of each is wanted",
                graph.input.len(),
                graph.output.len()
            )));
        };
        if !self.functions.enter() {
            return Err(Fault::unsupported(format!("graphs are nested deeper than {MAX_DEPTH}")));
        }
        let inlined = scope.in_function();
        scope.enter();
        let prefix = std::mem::replace(&mut scope.prefix, format!("{}/", site.origin));
        self.initializers(graph, scope);
        scope.set(&input.name, Slot::Value(x));
        self.nodes(scope, &graph.node, &[&output.name], inlined);
        let made = self.read(scope, &output.name);
        scope.leave();
        scope.prefix = prefix;
        self.functions.leave();
        let Some(y) = made? else { return Ok(None) };
        let [was, is] = [x, y].map(|v| self.graph.fact(v));
        let same = was.dtype == is.dtype && was.rank() == is.rank();
        if !same || was.shape.iter().zip(&is.shape).any(|(a, b)| differ(a, b)) {
            return Err(Fault::invalid(format!("its graph makes {is} of {was}, not the same")));
        }
        Ok(Some(y))
    }
}

/// Whether two extents are different numbers.
fn differ(a: &Dim, b: &Dim) -> bool {
    (a.clone() - b.clone()).as_const().is_some_and(|d| d != 0)
}
