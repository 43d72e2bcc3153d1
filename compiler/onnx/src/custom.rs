//! Operators that the user supplies: what `--custom-op` says of them, and the nodes that have them.
//!
//! ```text
//! com.acme::Foo(f32, i64?, any...) -> f32[3], =0, =2[1]
//! ```
//!
//! Operands: an element type or `any`; `?`: may be left out; `...` behind the last one: any number of these. Results: element
//! type and rank; `=0` is of the type and shape of operand 0, `=2[1]` of the type of operand 2, with one axis. Without
//! operands and results the model declares the results (`value_info`).

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use cameo_ir::dim::CUSTOM;
use cameo_ir::ops::custom::{OWN, Parts};
use cameo_ir::{Attr, Attrs, DType, Dim, Fact, Op, Origin, ValueId};

use crate::error::{Fault, Site};
use crate::import::Importer;
use crate::proto::{DimensionValue, GraphProto, NodeProto, TensorType, TypeValue};
use crate::weights::{self, MAX_RANK};

/// An operator that whoever runs the program supplies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomOp {
    /// `Foo`, or `domain::Foo` outside the default domain.
    pub name: String,
    /// `None`: the model declares the results.
    pub signature: Option<Signature>,
}

/// What an operator takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    operands: Vec<Operand>,
    /// There may be any number of operands like the last one.
    variadic: bool,
    results: Vec<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operand {
    /// `None`: any.
    dtype: Option<DType>,
    optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Of this element type and rank.
    Typed(DType, usize),
    /// Of the element type of an operand, and with a rank of its own or the operand's shape.
    Like(usize, Option<usize>),
}

impl FromStr for CustomOp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.find('(').map_or((text, ""), |at| text.split_at(at));
        let name = name.trim();
        let named = |s: &str| !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || c == ':' || c == '-');
        if !match name.rsplit_once("::") {
            Some((domain, op)) => named(domain) && named(op),
            None => named(name),
        } {
            return Err(format!("{name:?} is no operator: expected NAME or DOMAIN::NAME"));
        }
        let signature = if rest.is_empty() { None } else { Some(rest.parse()?) };
        Ok(Self {
            name: name.to_owned(),
            signature,
        })
    }
}

impl FromStr for Signature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || "expected (TYPE, ...) -> TYPE[RANK], ...".to_owned();
        let (operands, results) = text.split_once(')').ok_or_else(shape)?;
        let mut operands = operands.trim().strip_prefix('(').ok_or_else(shape)?.trim();
        let results = results.trim().strip_prefix("->").ok_or_else(shape)?;
        let variadic = operands.ends_with("...");
        operands = operands.trim_end_matches("...");
        let operands: Vec<Operand> = operands.split(',').map(Operand::parse).collect::<Result<_, _>>()?;
        if operands[0].optional {
            return Err("the first operand must always be there".into());
        }
        let count = if variadic { usize::MAX } else { operands.len() };
        let results = results.split(',').map(|r| Output::parse(r, count));
        Ok(Self {
            variadic,
            results: results.collect::<Result<_, _>>()?,
            operands,
        })
    }
}

impl Operand {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let name = text.strip_suffix('?').unwrap_or(text);
        Ok(Self {
            dtype: if name == "any" { None } else { Some(dtype(name)?) },
            optional: name.len() < text.len(),
        })
    }
}

impl Output {
    fn parse(text: &str, operands: usize) -> Result<Self, String> {
        let text = text.trim();
        let (kind, rank) = match text.strip_suffix(']').and_then(|t| t.split_once('[')) {
            Some((kind, rank)) => {
                let rank = rank.trim().parse::<usize>().ok().filter(|r| *r <= MAX_RANK);
                let rank = rank.ok_or_else(|| format!("{text:?}: expected a number of axes up to {MAX_RANK}"))?;
                (kind.trim(), Some(rank))
            }
            None => (text, None),
        };
        match (kind.strip_prefix('='), rank) {
            (Some(operand), rank) => match operand.trim().parse::<usize>() {
                Ok(k) if k < operands => Ok(Self::Like(k, rank)),
                _ => Err(format!("{text:?}: there is no operand {operand:?}")),
            },
            (None, Some(rank)) => Ok(Self::Typed(dtype(kind)?, rank)),
            (None, None) => Err(format!("{text:?}: expected TYPE[RANK], =OPERAND or =OPERAND[RANK]")),
        }
    }
}

fn dtype(name: &str) -> Result<DType, String> {
    match name.parse::<DType>() {
        Ok(DType::String) => Err("string: strings are not passed to operators".to_owned()),
        Ok(t) if t.bits() >= 8 => Ok(t),
        Ok(t) => Err(format!("{t}: elements that share a byte are not passed to operators")),
        Err(()) => {
            let all = DType::ALL.into_iter().filter(|t| t.bits() >= 8 && *t != DType::String);
            let all: Vec<&str> = all.map(DType::name).collect();
            Err(format!("{name:?} is no element type: {} or any", all.join(", ")))
        }
    }
}

impl Signature {
    /// Checks the operands of a node.
    fn check(&self, facts: &[Option<&Fact>]) -> Result<(), Fault> {
        if facts.len() > self.operands.len() && !self.variadic {
            return Err(Fault::invalid(format!(
                "{} operands given, {} declared",
                facts.len(),
                self.operands.len()
            )));
        }
        for i in 0..facts.len().max(self.operands.len()) {
            let Some(operand) = self.operands.get(i).or(self.operands.last()) else {
                continue;
            };
            match (facts.get(i).copied().flatten(), operand.dtype) {
                (None, _) if !operand.optional => return Err(Fault::invalid(format!("operand {i} is missing"))),
                (Some(fact), Some(dtype)) if fact.dtype != dtype => {
                    let message = format!("operand {i} is {}, declared is {dtype}", fact.dtype);
                    return Err(Fault::invalid(message));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The element types and shapes that the model declares of its values.
pub(crate) fn declared(graph: &GraphProto) -> BTreeMap<&str, &TensorType> {
    let values = graph.output.iter().chain(&graph.value_info);
    let tensors = values.filter_map(|v| match v.r#type.as_ref()?.value.as_ref()? {
        TypeValue::Tensor(t) => Some((v.name.as_str(), t)),
        _ => None,
    });
    tensors.collect()
}

/// Bytes of a tensor in an attribute: it becomes a table of the program, which is no place for weights.
const TENSOR_BYTES: usize = 64 << 10;

/// What an operator's attribute cannot be.
fn refused(name: &str, value: &Attr) -> Option<String> {
    let zero = |s: &Arc<str>| s.contains('\0');
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    match value {
        _ if name.starts_with(OWN) || name.is_empty() || !name.chars().all(word) => {
            Some("operators take attributes with names of letters, digits and `_`".into())
        }
        Attr::Str(s) if zero(s) => Some("its text has a character 0".into()),
        Attr::Strs(s) if s.iter().any(zero) => Some("its text has a character 0".into()),
        Attr::Tensor(t) if t.dtype().bits() < 8 => Some(format!("its elements are {}", t.dtype())),
        Attr::Tensor(t) if t.bytes().len() > TENSOR_BYTES => Some(format!(
            "its tensor has more than {TENSOR_BYTES} bytes: make it an input of the node"
        )),
        _ => None,
    }
}

impl<'m> Importer<'m> {
    /// What the user says of a node's operator.
    pub fn custom_op(&self, site: &Site) -> Option<&'m CustomOp> {
        self.custom_ops.iter().find(|c| c.name == site.op)
    }

    /// Adds a node whose operator the user supplies.
    pub fn add_custom(
        &mut self,
        custom: &CustomOp,
        node: &'m NodeProto,
        site: &Site,
        attrs: Attrs,
        mut inputs: Vec<Option<ValueId>>,
    ) -> Result<Vec<ValueId>, Vec<Fault>> {
        let wrong = attrs.iter().filter_map(|(name, value)| {
            let why = refused(name, value)?;
            Some(Fault::unsupported(why).of(&format!("attribute `{name}`")))
        });
        let wrong: Vec<Fault> = wrong.collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let one = |f: Fault| vec![f];
        let prefix = self.symbol_prefix(&site.op);
        let facts: Vec<Option<&Fact>> = inputs.iter().map(|v| v.map(|v| self.graph.fact(v))).collect();
        let outputs = match &custom.signature {
            Some(signature) => {
                signature.check(&facts).map_err(one)?;
                if node.output.len() > signature.results.len() {
                    return Err(one(Fault::invalid(format!(
                        "{} results wanted, {} declared",
                        node.output.len(),
                        signature.results.len()
                    ))));
                }
                let results = signature.results.iter().enumerate();
                let outputs = results.map(|(i, o)| given(*o, &facts, &format!("{prefix}_{i}")));
                let outputs = outputs.collect::<Result<Vec<Fact>, Fault>>().map_err(one)?;
                // The kernel finds each operand at its place, also those that are left out.
                inputs.resize(inputs.len().max(signature.operands.len()), None);
                outputs
            }
            None => {
                let outputs = node.output.iter().enumerate();
                let outputs = outputs.map(|(i, name)| self.declared_fact(name, i, &format!("{prefix}_{i}")));
                outputs.collect::<Result<Vec<Fact>, Fault>>().map_err(one)?
            }
        };
        let dims = outputs.iter().flat_map(|f| &f.shape);
        let new = cameo_ir::ops::custom::symbols(dims);
        if self.loop_depth > 0 && new.iter().any(|s| !self.graph.symbols.contains_key(s)) {
            let what = "inside of a loop an operator that is supplied must have results of a shape that is known";
            return Err(one(
                Fault::unsupported(what).hint("declare them as `=0`: of the shape of operand 0")
            ));
        }
        let Some(op) = Op::find("cameo::Custom") else {
            return Err(one(Fault::unsupported("operators that are supplied")));
        };
        let parts = Parts {
            operator: &site.op.as_str().into(),
            outputs,
            function: None,
        };
        let count = parts.outputs.len();
        let origin = Origin::new(&site.origin);
        self.typed(op, &parts.attrs(attrs), inputs, count, &origin).map_err(one)
    }

    /// What the names of symbols begin with that this node gives.
    fn symbol_prefix(&mut self, op: &str) -> String {
        let kind = op.rsplit("::").next().unwrap_or_default().to_lowercase();
        let kind = kind.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        self.counted += 1;
        // Also an operator whose name begins with a digit must give an identifier.
        let start = if kind.starts_with(|c: char| c.is_ascii_digit()) {
            "_"
        } else {
            ""
        };
        format!("{CUSTOM}{start}{kind}{}", self.counted)
    }

    /// Whether a run can read the first operand before it plans.
    pub fn is_there_before(&self, inputs: &[Option<ValueId>]) -> bool {
        let first = inputs.first().copied().flatten();
        self.loop_depth == 0 && first.is_some_and(|v| self.graph.inputs().contains(&v))
    }

    /// What the model declares of a result.
    fn declared_fact(&self, name: &str, index: usize, prefix: &str) -> Result<Fact, Fault> {
        let missing = || {
            Fault::unsupported(format!(
                "the model declares no element type and rank of result {index}, `{name}`"
            ))
            .hint("say what the operator takes and gives: `--custom-op 'DOMAIN::NAME(f32) -> f32[2]'`")
        };
        let tensor = self.declared.get(name).ok_or_else(missing)?;
        let shape = tensor.shape.as_ref().ok_or_else(missing)?;
        let dtype = weights::dtype(tensor.elem_type)?;
        let axes = shape.dim.iter().enumerate();
        let dim = |(axis, d): (usize, &crate::proto::Dimension)| match &d.value {
            Some(DimensionValue::Value(n)) if *n >= 0 => Dim::from(*n),
            Some(DimensionValue::Param(p)) if self.graph.symbols.contains_key(p.as_str()) => Dim::sym(p),
            _ => Dim::sym(&format!("{prefix}_{axis}")),
        };
        Ok(Fact::new(dtype, axes.map(dim).collect::<Vec<_>>()))
    }
}

/// The fact of a declared result.
fn given(output: Output, operands: &[Option<&Fact>], prefix: &str) -> Result<Fact, Fault> {
    let new = |rank: usize| {
        (0..rank)
            .map(|axis| Dim::sym(&format!("{prefix}_{axis}")))
            .collect::<Vec<_>>()
    };
    match output {
        Output::Typed(dtype, rank) => Ok(Fact::new(dtype, new(rank))),
        Output::Like(k, rank) => match operands.get(k).copied().flatten() {
            Some(operand) => Ok(Fact::new(
                operand.dtype,
                rank.map_or_else(|| operand.shape.clone(), new),
            )),
            None => Err(Fault::invalid(format!(
                "a result is like operand {k}, which is left out"
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let op: CustomOp = "com.acme::Foo(f32, i64?, any...) -> f32[3], =0, =2[ 1 ]"
            .parse()
            .expect("reads");
        assert_eq!(op.name, "com.acme::Foo");
        let s = op.signature.expect("a signature");
        let dtypes: Vec<_> = s.operands.iter().map(|o| (o.dtype, o.optional)).collect();
        assert_eq!(
            dtypes,
            [(Some(DType::F32), false), (Some(DType::I64), true), (None, false)]
        );
        assert!(s.variadic);
        assert_eq!(
            s.results,
            [
                Output::Typed(DType::F32, 3),
                Output::Like(0, None),
                Output::Like(2, Some(1))
            ]
        );
        let bare: CustomOp = "Foo".parse().expect("reads");
        assert_eq!((&*bare.name, bare.signature), ("Foo", None));
    }

    #[test]
    fn declarations_that_say_nothing_are_refused() {
        for (text, part) in [
            ("", "no operator"),
            ("a b(f32) -> f32[1]", "no operator"),
            ("::F", "no operator"),
            ("F -> f32[1]", "no operator"),
            ("F(f32", "expected (TYPE"),
            ("F(f32) f32[1]", "expected (TYPE"),
            ("F() -> f32[1]", "no element type"),
            ("F(f33) -> f32[1]", "\"f33\" is no element type: f32, "),
            ("F(f32?) -> f32[1]", "the first operand"),
            ("F(f32) -> f32", "expected TYPE[RANK]"),
            ("F(f32) -> f32[x]", "a number of axes"),
            ("F(f32) -> f32[-1]", "a number of axes"),
            ("F(f32) -> f32[65]", "a number of axes"),
            ("F(f32) -> =1", "no operand"),
            ("F(f32) -> ", "expected TYPE[RANK]"),
            ("F(i4) -> f32[1]", "share a byte"),
        ] {
            let said = text.parse::<CustomOp>().expect_err(text);
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
