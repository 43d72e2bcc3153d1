//! Operators that whoever runs a program supplies: Cameo knows what they take and give, and calls them. What Cameo knows and
//! does not generate code for is called in the same way: a function of strings that the runtime has itself, whose name begins
//! with `cameo::`, or one that is linked into the program.
//!
//! Laws: the result depends on operands and attributes alone. The extents of results follow from those of the operands: each
//! is a symbol whose name begins with [`CUSTOM`], which the operator gives before a run plans, or one that is known already
//! and that the operator is held to. Attributes whose names begin with [`OWN`] are Cameo's, all others the operator's.

use std::sync::Arc;

use cameo_abi::OWN_OPERATOR;

use crate::dim::{COUNTED, CUSTOM};
use crate::op::{AttrDef, Attrs, Cx, Lowering, Op, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::reference;
use crate::{Attr, DType, Dim, Fact, Sym, Tensor};

pub const OPS: &[&dyn OpDef] = &[&Custom];

/// How the names of attributes begin that no operator may have.
pub const OWN: &str = "cameo.";

const OPERATOR: &str = "cameo.operator";
const TYPES: &str = "cameo.types";
const RANKS: &str = "cameo.ranks";
const EXTENTS: &str = "cameo.extents";
/// Only there where the operator is an operation of the table.
const FUNCTION: &str = "cameo.function";

struct Custom;

/// What the attributes say.
pub struct Parts<'a> {
    /// `com.acme::Foo`.
    pub operator: &'a Arc<str>,
    /// Of all results.
    pub outputs: Vec<Fact>,
    /// The C name of the operator, where programs bring it.
    pub function: Option<&'a Arc<str>>,
}

impl Parts<'_> {
    /// Whether extents are told from the contents of operands, not only their shapes: where Cameo's own operators give any,
    /// shapes would not be enough.
    pub fn reads_contents(&self) -> bool {
        let extents = self.outputs.iter().flat_map(|f| &f.shape);
        self.function.is_some() || is_own_name(self.operator) && !symbols(extents).is_empty()
    }
}

impl<'a> Parts<'a> {
    /// # Errors
    /// Attributes that are missing or contradict each other.
    pub fn of(attrs: &'a Attrs) -> Result<Self, OpError> {
        let get = |name| attrs.get(name);
        let (Some(Attr::Str(operator)), Some(Attr::Strs(types)), Some(Attr::Ints(ranks)), Some(Attr::Dims(extents))) =
            (get(OPERATOR), get(TYPES), get(RANKS), get(EXTENTS))
        else {
            return invalid("an operator that is supplied needs a name, types, ranks and extents");
        };
        let mut left = extents.as_slice();
        let mut outputs = vec![];
        for (name, rank) in types.iter().zip(ranks) {
            let dtype = name.parse::<DType>();
            let shape = usize::try_from(*rank).ok().and_then(|rank| left.split_at_checked(rank));
            let (Ok(dtype), Some((shape, rest))) = (dtype, shape) else {
                return invalid(format!("{name} of rank {rank} is no type of a result"));
            };
            left = rest;
            outputs.push(Fact::new(dtype, shape));
        }
        if types.len() != ranks.len() || !left.is_empty() || outputs.is_empty() {
            return invalid("types, ranks and extents of the results do not belong together");
        }
        let function = match get(FUNCTION) {
            Some(Attr::Str(function)) => Some(function),
            _ => None,
        };
        Ok(Self {
            operator,
            outputs,
            function,
        })
    }

    /// The attributes of a node, with those of the operator.
    pub fn attrs(&self, operators: Attrs) -> Attrs {
        let types = self.outputs.iter().map(|f| f.dtype.name().into()).collect();
        let ranks = self.outputs.iter().map(|f| f.rank() as i64).collect();
        let extents = self.outputs.iter().flat_map(|f| f.shape.iter().cloned()).collect();
        let mut attrs = operators;
        attrs.insert(OPERATOR.into(), Attr::Str(self.operator.clone()));
        attrs.insert(TYPES.into(), Attr::Strs(types));
        attrs.insert(RANKS.into(), Attr::Ints(ranks));
        attrs.insert(EXTENTS.into(), Attr::Dims(extents));
        if let Some(function) = self.function {
            attrs.insert(FUNCTION.into(), Attr::Str(function.clone()));
        }
        attrs
    }
}

/// The operator's attributes of a node.
pub fn of_operator(attrs: &Attrs) -> Attrs {
    let theirs = attrs.iter().filter(|(name, _)| !name.starts_with(OWN));
    theirs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The symbols among dims that an operator of the caller gives, each once.
pub fn symbols<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = vec![];
    for d in dims {
        d.visit(&mut |s| {
            if let Sym::Named(name) = s
                && name.starts_with(CUSTOM)
                && !found.contains(name)
            {
                found.push(name.clone());
            }
        });
    }
    found
}

/// The symbols that a node gives.
pub(crate) fn given(op: Op, attrs: &Attrs) -> Vec<Arc<str>> {
    match attrs.get(EXTENTS) {
        Some(Attr::Dims(extents)) if op.schema().external => symbols(extents),
        _ => vec![],
    }
}

/// Whether this is Cameo's own, which the interpreter knows too.
pub fn is_own(attrs: &Attrs) -> bool {
    attrs.contains_key(FUNCTION) || matches!(attrs.get(OPERATOR), Some(Attr::Str(name)) if is_own_name(name))
}

/// Whether this is the name of an operator of the runtime.
pub fn is_own_name(name: &str) -> bool {
    name.starts_with(OWN_OPERATOR)
}

/// The dimension of an attribute that is a [`AttrDef::Probe`]: its name must tell that a run knows it beforehand.
pub(crate) fn probe(name: &str) -> Result<Dim, OpError> {
    if !name.starts_with(CUSTOM) {
        return invalid(format!(
            "what a run tells from contents is called {CUSTOM}…, not {name}"
        ));
    }
    Ok(Dim::sym(name))
}

/// Why the compiler itself cannot compute a node.
pub fn not_here(attrs: &Attrs) -> OpError {
    let name = match attrs.get(OPERATOR) {
        Some(Attr::Str(name)) => name,
        _ => "the operator",
    };
    OpError::Unsupported(format!(
        "{name} is supplied by whoever runs the compiled program: nothing else can compute it"
    ))
}

impl OpDef for Custom {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Custom",
            "what the operator of that name, which the caller supplies, makes of its operands",
            &[Param::new("inputs", Types::MOVED).group(0).variadic()],
            &[Param::new("outputs", Types::MOVED).group(0).variadic()],
            &[
                (OPERATOR, AttrDef::ReqStr),
                (TYPES, AttrDef::OptStrs),
                (RANKS, AttrDef::ReqInts),
                (EXTENTS, AttrDef::ReqDims),
            ],
        )
        .external();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let parts = Parts::of(cx.attrs)?;
        let operands = cx.inputs.iter().flatten().map(|a| a.fact);
        for fact in operands.chain(&parts.outputs) {
            if fact.dtype == DType::String && !is_own(cx.attrs) {
                return unsupported(format!("{fact}: strings are not passed to operators"));
            }
            if fact.dtype.bits() < 8 {
                return unsupported(format!(
                    "{fact}: elements that share a byte are not passed to operators"
                ));
            }
            let mut counted = false;
            let mut look = |s: &Sym| counted |= matches!(s, Sym::Named(n) if n.starts_with(COUNTED));
            fact.shape.iter().for_each(|d| d.visit(&mut look));
            if counted {
                return unsupported(format!(
                    "{fact} is as long as data says, and operators give shapes before there are data"
                ));
            }
        }
        Ok(parts.outputs)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let parts = Parts::of(cx.attrs)?;
        if let Some(name) = parts.operator.strip_prefix(OWN_OPERATOR) {
            return super::strings::own(name, cx);
        }
        if parts.function.is_none() {
            return Err(not_here(cx.attrs));
        }
        let own = of_operator(cx.attrs);
        let own: Vec<(&str, Attr)> = own.iter().map(|(name, value)| (&**name, value.clone())).collect();
        let inputs: Vec<Option<&Tensor>> = cx.inputs.iter().map(|a| a.as_ref().and_then(|a| a.constant)).collect();
        reference(parts.operator, &own, &inputs, parts.outputs.len())
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Custom)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Graph, Tensor, interp, naive, text, verify};

    const NODE: &str = r#"%2, %3 = cameo::Custom(%0, _, %1) {alpha=0.5, cameo.extents=dims[N,custom.a,custom.b], cameo.operator="com.acme::Foo", cameo.ranks=[2,1], cameo.types=strs["f32","i64"]}"#;

    fn parse(node: &str, count: &str) -> Result<Graph, String> {
        let source = format!(
            r#"graph @g (%0 "x": f32[N,3], %1 "i": i64[{count}]) symbols N=1.. {{
            weight %9: f32[2] = dense(1,2)
            {node}
            return %2 "y", %3 "z"
        }}"#
        );
        text::parse(&source, &|_, _| None).map_err(|e| e.to_string())
    }

    #[test]
    fn results_are_what_the_attributes_say() {
        let g = parse(NODE, "N").expect("parses");
        verify::verify(&g).expect("sound");
        let facts: Vec<String> = g.outputs().iter().map(|(_, v)| g.fact(*v).to_string()).collect();
        assert_eq!(facts, ["f32[N,custom.a]", "i64[custom.b]"]);
        assert_eq!(g.symbol_range("custom.b"), (0, i64::MAX));
        assert!(g.symbols.contains_key("custom.a"));
        let printed = text::print(&g);
        let again = text::parse(&printed, &|_, _| None).expect("parses again");
        assert_eq!(text::print(&again), printed);
    }

    #[test]
    fn nothing_here_computes_it() {
        let g = parse(NODE, "N").expect("parses");
        let inputs = [Tensor::f32(&[1, 3], [0.0; 3]), Tensor::i64(&[1], [0])];
        let said = interp::run(&g, &inputs).expect_err("refused").to_string();
        assert!(said.contains("com.acme::Foo is supplied by whoever runs"), "{said}");
        let said = naive::run_graph(&g, &inputs, &|_| Some(1)).expect_err("refused");
        assert!(said.to_string().contains("com.acme::Foo"), "{said}");
        // Not even of constants.
        let fixed = NODE.replace("%0, _, %1", "%9").replace("N,custom.a,custom.b", "2,3,4");
        let g = parse(&fixed, "N").expect("parses");
        let (n, _) = g.nodes().next().expect("a node");
        assert!(!g.is_fixed(n));
        assert!(!g.constants()[g.outputs()[0].1.0 as usize]);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |node: &str, count: &str| parse(node, count).expect_err("refused");
        for (from, to, part) in [
            ("[2,1]", "[2,2]", "of rank 2"),
            ("[2,1]", "[2]", "do not belong together"),
            ("[2,1]", "[1,1]", "do not belong together"),
            ("[2,1]", "[2,-1]", "of rank -1"),
            ("\"i64\"", "\"i65\"", "i65"),
            ("\"i64\"", "\"i4\"", "share a byte"),
            ("\"i64\"", "\"string\"", "strings are not passed"),
            ("cameo.types", "types", "needs a name, types"),
        ] {
            let said = refused(&NODE.replace(from, to), "N");
            assert!(said.contains(part), "{from} {to}: {said}");
        }
        let said = refused(&NODE.replace("%0, _, %1", ""), "N");
        assert!(said.contains("input 0 (inputs) is missing"), "{said}");
    }

    #[test]
    fn lengths_that_data_gives_come_too_late() {
        let source = r#"graph @g (%0 "x": f32[N]) symbols N=1.., count.n=0.. {
            %1 = NonZero(%0) {count="count.n"} : i64[1,count.n]
            %2 = cameo::Custom(%1) {cameo.extents=dims[custom.a], cameo.operator="a::B", cameo.ranks=[1], cameo.types=strs["f32"]}
            return %2 "y"
        }"#;
        let said = text::parse(source, &|_, _| None).expect_err("refused").to_string();
        assert!(said.contains("i64[1,count.n] is as long as data says"), "{said}");
    }
}
