//! Printing and parsing back gives the same graph, for graphs of all shapes.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{blobs, parse, print, print_around};
use crate::{Attr, Attrs, DType, Def, Dim, Fact, Graph, Node, Op, Origin, SymbolRange, Tensor, ValueId};

fn lookup(g: &Graph) -> impl Fn(&str, usize) -> Option<Bytes> {
    let all = blobs(g);
    move |name, len| {
        let found = all.iter().find(|(n, b)| n == name && b.len() == len)?;
        Some(found.1.clone())
    }
}

/// Same inputs, weights, nodes and outputs, with everything that is in them, apart from numbering.
fn same(a: &Graph, b: &Graph) -> Result<(), String> {
    let number = |g: &Graph| {
        let mut of = vec![None; g.value_count()];
        let results = g.order().into_iter().flat_map(|n| g.node(n).outputs.clone());
        for (i, v) in g.inputs().iter().copied().chain(results).enumerate() {
            of[v.0 as usize] = Some(i);
        }
        of
    };
    let (na, nb) = (number(a), number(b));
    let value = |x: ValueId, y: ValueId| {
        let (p, q) = (a.value(x), b.value(y));
        let defs = match (&p.def, &q.def) {
            (Def::Weight(s), Def::Weight(t)) => s == t,
            _ => na[x.0 as usize].is_some() && na[x.0 as usize] == nb[y.0 as usize],
        };
        defs && p.name == q.name && p.fact == q.fact
    };
    let all = |x: &[ValueId], y: &[ValueId]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| value(*x, *y));
    let attr = |x: &Attr, y: &Attr| match (x, y) {
        (Attr::Graph(x), Attr::Graph(y)) => same(x, y).is_ok(),
        _ => x == y,
    };
    let node = |x: &Node, y: &Node| {
        x.op == y.op
            && x.origin == y.origin
            && x.attrs.len() == y.attrs.len()
            && x.attrs
                .iter()
                .zip(&y.attrs)
                .all(|((k, v), (l, w))| k == l && attr(v, w))
            && x.inputs.len() == y.inputs.len()
            && x.inputs.iter().zip(&y.inputs).all(|(p, q)| match (p, q) {
                (Some(p), Some(q)) => value(*p, *q),
                _ => p == q,
            })
            && all(&x.outputs, &y.outputs)
    };
    let check = |what: &str, ok: bool| if ok { Ok(()) } else { Err(what.to_owned()) };
    check("name", a.name == b.name)?;
    check("symbols", a.symbols.iter().eq(b.symbols.iter()))?;
    check("inputs", all(a.inputs(), b.inputs()))?;
    let (oa, ob) = (a.order(), b.order());
    check("number of nodes", oa.len() == ob.len())?;
    for (x, y) in oa.iter().zip(&ob) {
        check(&format!("{} {}", x, a.node(*x).op), node(a.node(*x), b.node(*y)))?;
    }
    let outs = a
        .outputs()
        .iter()
        .zip(b.outputs())
        .all(|((n, v), (m, w))| n == m && value(*v, *w));
    check("outputs", a.outputs().len() == b.outputs().len() && outs)
}

fn round_trip(g: &Graph) -> Result<(), String> {
    let text = print(g);
    let back = parse(&text, &lookup(g)).map_err(|e| format!("{text}\n{e}"))?;
    same(g, &back).map_err(|what| format!("{what} differs\n{text}\n{}", print(&back)))?;
    if print(&back) == text {
        Ok(())
    } else {
        Err(format!("{text}\n{}", print(&back)))
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z_][a-z0-9_]{0,5}",
        any::<String>(),
        Just(String::new()),
        Just("min".into()),
        Just("a.b".into())
    ]
}

fn dim() -> impl Strategy<Value = Dim> {
    let leaf = prop_oneof![
        3 => (0i64..600).prop_map(Dim::from),
        1 => any::<i64>().prop_map(Dim::from),
        3 => prop_oneof![Just("B"), Just("S"), Just("a \"b\"+1"), Just("max"), Just("x.y"), Just("")].prop_map(Dim::sym),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        (inner.clone(), inner, 0..7).prop_map(|(a, b, k)| match k {
            0 => a + b,
            1 => a - b,
            // Saturating products of huge constants are not what is tested here.
            2 => a * Dim::from(3i64) + b,
            3 => match b.as_const() {
                Some(c) => a.floor_div(&Dim::from(c.saturating_abs().max(1))),
                None => {
                    // A sum may cancel to any number.
                    let by = b + Dim::sym("B");
                    a.floor_div(&by.as_const().map_or(by, |c| Dim::from(c.saturating_abs().max(1))))
                }
            },
            4 => a.minimum(&b),
            5 => a.maximum(&b),
            _ => a.broadcast(&b).unwrap_or(a),
        })
    })
    .prop_filter("extreme coefficients saturate", |d| {
        d.as_const().is_some() || d.terms().iter().all(|(_, c)| c.unsigned_abs() < 1 << 40)
    })
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop_oneof![
        Just(vec![]),
        Just(vec![0, 3]),
        prop::collection::vec(1usize..4, 1..3),
        Just(vec![5, 20])
    ];
    (0..DType::ALL.len(), shape, any::<u64>()).prop_map(|(t, shape, seed)| {
        let t = DType::ALL[t];
        let len = shape.iter().product::<usize>() * t.size();
        // Arbitrary bits: subnormal numbers and NaNs with payloads among them.
        let mut state = seed;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let data: Vec<u8> = (0..len)
            .map(|i| match (t, i % t.size()) {
                (DType::Bool, _) => byte() & 1,
                (t, _) if t.bits() < 8 => crate::narrow::unpack(t, &[byte()], 1)[0],
                // A third of all floats are infinite or not numbers.
                (DType::F32, 3) if byte() < 85 => 0x7f,
                (DType::F32, 2) if byte() < 85 => 0x80 | byte(),
                _ => byte(),
            })
            .collect();
        Tensor::new(t, shape, data.into()).expect("fits")
    })
}

fn float() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        any::<f32>(),
        Just(f32::NAN),
        Just(-f32::NAN),
        Just(f32::NEG_INFINITY),
        Just(-0.0),
        Just(1e16),
    ]
}

fn attr() -> impl Strategy<Value = Attr> {
    let list = || prop::collection::vec(float(), 0..4);
    prop_oneof![
        any::<i64>().prop_map(Attr::Int),
        float().prop_map(Attr::Float),
        any::<String>().prop_map(|s| Attr::Str(s.into())),
        prop::collection::vec(any::<i64>(), 0..4).prop_map(Attr::Ints),
        list().prop_map(Attr::Floats),
        prop::collection::vec(any::<String>().prop_map(Arc::from), 0..3).prop_map(Attr::Strs),
        prop::collection::vec(dim(), 0..4).prop_map(Attr::Dims),
        (0..DType::ALL.len()).prop_map(|t| Attr::DType(DType::ALL[t])),
        tensor().prop_map(Attr::Tensor),
    ]
}

/// Attributes that no operation has are refused by the verifier, so they are tested without it.
fn print_and_parse_attr(a: &Attr) -> Result<(), String> {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Fact::new(DType::F32, []));
    let abs = Op::find("Abs").expect("there");
    let attrs = Attrs::from([("any name".into(), a.clone())]);
    let y = g.add_typed_node(
        abs,
        attrs,
        vec![Some(x)],
        vec![Fact::new(DType::F32, [])],
        Origin::default(),
    );
    g.add_output("y", y[0]);
    let text = print(&g);
    let e = parse(&text, &lookup(&g))
        .expect_err("Abs has no attributes")
        .to_string();
    if !e.contains("attribute `any name` is not one") {
        return Err(e);
    }
    let back = super::parse::parse_unverified(&text, &lookup(&g)).map_err(|e| e.to_string())?;
    same(&g, &back)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        // The same graphs in every run.
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn attributes(a in attr()) {
        prop_assert_eq!(print_and_parse_attr(&a), Ok(()));
    }

    #[test]
    fn graphs(
        names in prop::collection::vec(name(), 8),
        shape in prop::collection::vec(dim(), 0..4),
        weights in prop::collection::vec(tensor(), 0..4),
        ops in prop::collection::vec((0usize..5, any::<u16>(), any::<u16>()), 0..12),
        range in (0i64..5, prop_oneof![Just(i64::MAX), 5i64..9]),
    ) {
        let mut g = Graph::new(&names[0]);
        let shape: Vec<Dim> = shape.into_iter().filter(|d| d.as_const().is_none_or(|c| c >= 0)).collect();
        let x = g.add_input("x", Fact::new(DType::F32, shape.clone()));
        let k = g.add_input(&names[1], Fact::new(DType::I64, [Dim::from(2usize)]));
        if k != x && names[1] == "x" {
            return Ok(());
        }
        for n in ["B", "S"] {
            g.symbols.insert(n.into(), SymbolRange { min: range.0, max: range.1 });
        }
        let mut values = vec![x, k];
        for (i, w) in weights.into_iter().enumerate() {
            values.push(g.add_weight(&names[2 + i], w));
        }
        for (i, (op, a, b)) in ops.into_iter().enumerate() {
            let pick = |k: u16| values[k as usize % values.len()];
            let op = Op::find(["Abs", "Add", "Neg", "Mul", "Clip"][op]).expect("in the table");
            let inputs = match op.name() {
                "Add" | "Mul" => vec![Some(pick(a)), Some(pick(b))],
                "Clip" => vec![Some(pick(a)), None, Some(pick(b))],
                _ => vec![Some(pick(a))],
            };
            let origin = Origin::from_names(names[..i % 4].iter().map(|n| n.as_str().into()));
            if let Ok(out) = g.add_node(op, Attrs::new(), inputs, 1, origin) {
                g.set_name(out[0], &names[i % 8]);
                values.push(out[0]);
            }
        }
        for (i, v) in values.iter().rev().take(3).enumerate() {
            g.add_output(&format!("{}{i}", names[i]), *v);
        }
        prop_assert_eq!(round_trip(&g), Ok(()));
    }
}

#[test]
fn nested_graphs_and_known_elements() {
    let mut inner = Graph::new("inner");
    let x = inner.add_input("", Fact::new(DType::F32, [Dim::sym("S")]));
    let big = inner.add_weight("big", Tensor::f32(&[100], (0..100).map(|i| i as f32)));
    inner.add_output("a", x);
    inner.add_output("b", big);
    let a = Attr::Graph(Arc::new(inner));
    assert_eq!(print_and_parse_attr(&a), Ok(()));

    let mut g = Graph::new("two words");
    let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("batch size"), Dim::from(4usize)]));
    let s = g.apply("Shape", &[], &[x]).expect("types");
    g.add_output("s", s);
    assert_eq!(round_trip(&g), Ok(()));
    assert_eq!(
        print(&g),
        "graph @\"two words\" (%0 \"x\": f32[\"batch size\",4]) symbols \"batch size\"=0.. {\n  \
           %1 = Shape(%0) : i64[2]=[\"batch size\",4]\n  \
           return %1 \"s\"\n}\n"
    );
}

#[test]
fn equal_graphs_print_equally() {
    let build = |swapped: bool| {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::from(2usize)]));
        let w = |g: &mut Graph| g.add_weight("w", Tensor::f32(&[2], [1.0, 2.5]));
        let (w, a) = if swapped {
            let a = g.apply("Abs", &[], &[x]).expect("types");
            (w(&mut g), a)
        } else {
            (w(&mut g), g.apply("Abs", &[], &[x]).expect("types"))
        };
        let y = g.apply("Add", &[], &[a, w]).expect("types");
        g.add_output("y", y);
        g
    };
    assert_eq!(print(&build(false)), print(&build(true)));
}

#[test]
fn surroundings_are_elided() {
    let mut g = Graph::new("g");
    let mut v = g.add_input("x", Fact::new(DType::F32, [Dim::from(2usize)]));
    for _ in 0..7 {
        v = g.apply("Abs", &[], &[v]).expect("types");
    }
    g.add_output("y", v);
    let middle = g.order()[3];
    assert_eq!(
        print_around(&g, middle, 1),
        "  …\n  %3 = Abs(%2) : f32[2]\n> %4 = Abs(%3) : f32[2]\n  %5 = Abs(%4) : f32[2]\n  …\n"
    );
}
