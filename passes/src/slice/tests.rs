//! Graphs cut here and by hand.

use cameo_ir::{Graph, Tensor, interp, text, verify};

use crate::slice::{Slice, slice};
use crate::testing::{Random, graph, show};

/// Cuts and checks that the verifier is content.
fn cut(source: &str, wish: &str) -> Graph {
    let mut g = graph(source);
    if let Err(e) = slice(&mut g, &wish.parse::<Slice>().expect("a wish")) {
        panic!("{e:?}");
    }
    verify::verify(&g).unwrap_or_else(|e| panic!("{}\n{}", e[0], show(&g)));
    g
}

fn refused(source: &str, wish: &str) -> String {
    let mut g = graph(source);
    let e = slice(&mut g, &wish.parse::<Slice>().expect("a wish")).expect_err("is refused");
    let names: Vec<&str> = e.origin.names().iter().map(|n| &**n).collect();
    format!("{} [{}]: {}", e.what, names.join(", "), e.reason)
}

/// What the graph computes of the first input at batch 2 and length 3.
fn results(g: &Graph, inputs: &[Tensor]) -> Vec<Vec<f64>> {
    let out = interp::run(g, inputs).unwrap_or_else(|e| panic!("{e}\n{}", show(g)));
    out.iter().map(Tensor::to_f64).collect()
}

/// The elements whose index is below the limit on every axis: how numpy cuts, `w[:a, :b]`.
fn corner(t: &Tensor, limits: &[usize]) -> Tensor {
    t.rearranged(limits, None, |ix| {
        Some(ix.iter().zip(t.shape()).fold(0, |at, (i, n)| at * n + i))
    })
}

/// A line of a weight.
fn weight(id: usize, t: &Tensor) -> String {
    let shape: Vec<String> = t.shape().iter().map(ToString::to_string).collect();
    let list: Vec<String> = t.to_f64().iter().map(|x| format!("{x:?}")).collect();
    format!("weight %{id}: f32[{}] = dense({})\n", shape.join(","), list.join(","))
}

/// Sizes of a network.
#[derive(Clone, Copy)]
struct Net {
    hidden: usize,
    heads: usize,
    ffn: [usize; 3],
    layers: usize,
}

const FULL: Net = Net {
    hidden: 6,
    heads: 3,
    ffn: [8, 8, 8],
    layers: 3,
};
const SIZE: usize = 2;
const WORDS: usize = 5;

/// A post-norm encoder: embeddings, packed projections, attention, a gated feed-forward block. Weights are corners of the
/// full network's; heads are runs of the packed columns.
fn encoder(net: Net) -> String {
    let mut random = Random::new(3);
    let mut tensor = |shape: &[usize]| random.tensor(cameo_ir::DType::F32, shape);
    let (mut weights, mut nodes) = (String::new(), String::new());
    let width = FULL.heads * SIZE;
    let inner = net.heads * SIZE;
    let mut id = 1;
    let mut add = |t: Tensor| {
        weights += &weight(id, &t);
        id += 1;
        id - 1
    };
    let h = net.hidden;
    let table = add(corner(&tensor(&[WORDS, FULL.hidden]), &[WORDS, h]));
    let mut lines: Vec<(String, String)> = vec![];
    let mut state = "x0".to_owned();
    lines.push(("x0".into(), format!("Gather(%{table}, %0) from \"embed\"")));
    for l in 0..FULL.layers {
        // All are drawn, so that the ones that are kept are the same.
        let (q, k, v) = (
            tensor(&[FULL.hidden, width]),
            tensor(&[FULL.hidden, width]),
            tensor(&[FULL.hidden, width]),
        );
        let (o, bo) = (tensor(&[width, FULL.hidden]), tensor(&[FULL.hidden]));
        let (up, gate) = (tensor(&[FULL.hidden, 8]), tensor(&[FULL.hidden, 8]));
        let (bias, down) = (tensor(&[8]), tensor(&[8, FULL.hidden]));
        let (s1, s2) = (tensor(&[FULL.hidden]), tensor(&[FULL.hidden]));
        if l >= net.layers {
            continue;
        }
        let f = net.ffn[l];
        let packed = {
            let parts = [q, k, v].map(|t| corner(&t, &[h, inner]));
            let mut data = vec![];
            for r in 0..h {
                for p in &parts {
                    data.extend_from_slice(&p.to_f64()[r * inner..][..inner]);
                }
            }
            add(Tensor::from_f64(cameo_ir::DType::F32, &[h, 3 * inner], data))
        };
        let (o, bo) = (add(corner(&o, &[inner, h])), add(corner(&bo, &[h])));
        let (up, gate) = (add(corner(&up, &[h, f])), add(corner(&gate, &[h, f])));
        let (bias, down) = (add(corner(&bias, &[f])), add(corner(&down, &[f, h])));
        let (s1, s2) = (add(corner(&s1, &[h])), add(corner(&s2, &[h])));
        let n = |name: &str| format!("{name}{l}");
        let mut line = |name: String, what: String| lines.push((name, what));
        line(n("qkv"), format!("MatMul(@{state}, %{packed}) from \"qkv\""));
        line(
            n("split"),
            format!("Reshape(@{}) {{shape=dims[B,S,3,{},{SIZE}]}}", n("qkv"), net.heads),
        );
        line(n("moved"), format!("Transpose(@{}) {{perm=[2,0,3,1,4]}}", n("split")));
        for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
            line(
                n(&format!("{part}s")),
                format!(
                    "Slice(@{}) {{axes=dims[0], starts=dims[{i}], ends=dims[{}]}}",
                    n("moved"),
                    i + 1
                ),
            );
            line(
                n(part),
                format!(
                    "Reshape(@{}) {{shape=dims[B,{},S,{SIZE}]}}",
                    n(&format!("{part}s")),
                    net.heads
                ),
            );
        }
        line(
            n("att"),
            format!(
                "Attention(@{}, @{}, @{}) {{scale=0.7}} from \"attention\"",
                n("q"),
                n("k"),
                n("v")
            ),
        );
        line(n("back"), format!("Transpose(@{}) {{perm=[0,2,1,3]}}", n("att")));
        line(
            n("flat"),
            format!("Reshape(@{}) {{shape=dims[B,S,{inner}]}}", n("back")),
        );
        line(n("o"), format!("MatMul(@{}, %{o})", n("flat")));
        line(n("ob"), format!("Add(@{}, %{bo})", n("o")));
        line(n("r1"), format!("Add(@{}, @{state}) from \"skip\"", n("ob")));
        line(n("n1"), format!("LayerNormalization(@{}, %{s1}) {{axis=-1}}", n("r1")));
        line(n("up"), format!("MatMul(@{}, %{up}) from \"up\"", n("n1")));
        line(n("upb"), format!("Add(@{}, %{bias})", n("up")));
        line(n("gate"), format!("MatMul(@{}, %{gate})", n("n1")));
        line(n("act"), format!("Gelu(@{})", n("gate")));
        line(n("mul"), format!("Mul(@{}, @{})", n("act"), n("upb")));
        line(n("down"), format!("MatMul(@{}, %{down}) from \"down\"", n("mul")));
        line(n("r2"), format!("Add(@{}, @{}) from \"skip\"", n("n1"), n("down")));
        line(n("n2"), format!("LayerNormalization(@{}, %{s2}) {{axis=-1}}", n("r2")));
        state = n("n2");
    }
    let ids: std::collections::BTreeMap<String, usize> = lines
        .iter()
        .enumerate()
        .map(|(i, (name, _))| (name.clone(), 100 + i))
        .collect();
    for (name, what) in &lines {
        let mut text = what.clone();
        for (other, id) in ids.iter().rev() {
            for end in [",", ")"] {
                text = text.replace(&format!("@{other}{end}"), &format!("%{id}{end}"));
            }
        }
        nodes += &format!("%{} = {text}\n", ids[name]);
    }
    let last = ids[&state];
    format!("graph @g (%0 \"ids\": i64[B,S]) symbols B=1.., S=1.. {{\n{weights}{nodes}return %{last} \"y\"\n}}")
}

fn agree(net: Net, wish: &str) {
    let small = graph(&encoder(net));
    let sliced = cut(&encoder(FULL), wish);
    let inputs = [Tensor::i64(&[2, 3], [0, 1, 2, 3, 4, 1])];
    let (want, got) = (results(&small, &inputs), results(&sliced, &inputs));
    assert_eq!(want.len(), got.len());
    for (a, b) in want.iter().flatten().zip(got.iter().flatten()) {
        assert!((a - b).abs() <= 1e-6 * a.abs().max(1.0), "{wish}: {a} became {b}");
    }
    assert_eq!(want[0].len(), got[0].len(), "{wish}");
}

#[test]
fn every_axis_alone_and_all_of_them() {
    agree(FULL, "hidden=6,heads=3,ffn=8,layers=3");
    agree(Net { ffn: [5; 3], ..FULL }, "ffn=5");
    agree(Net { ffn: [2, 8, 3], ..FULL }, "ffn=[2,8,3]");
    agree(Net { heads: 2, ..FULL }, "heads=2");
    agree(Net { heads: 1, ..FULL }, "heads=[1,1,1]");
    agree(Net { layers: 1, ..FULL }, "layers=1");
    agree(Net { layers: 2, ..FULL }, "layers=2");
    agree(Net { hidden: 4, ..FULL }, "hidden=4");
    let all = Net {
        hidden: 3,
        heads: 2,
        ffn: [4, 1, 0],
        layers: 2,
    };
    agree(all, "hidden=3,heads=2,ffn=[4,1],layers=2");
}

#[test]
fn wishes_that_do_not_fit() {
    let source = encoder(FULL);
    let of = |wish: &str| refused(&source, wish);
    insta::assert_snapshot!(of("ffn=9"), @"ffn [down]: there are 8, not 9");
    insta::assert_snapshot!(of("ffn=[1,2]"), @"ffn []: 2 sizes are given for 3 feed-forward blocks");
    insta::assert_snapshot!(of("heads=4"), @"heads [attention]: there are 3, not 4");
    insta::assert_snapshot!(of("hidden=7"), @"hidden [skip]: there are 6, not 7");
    insta::assert_snapshot!(of("layers=4"), @"layers [skip]: there are 3, not 4");
    let two = "layers=2,ffn=[1,2,3]";
    insta::assert_snapshot!(of(two), @"ffn []: 3 sizes are given for 2 feed-forward blocks");
}

/// One block, its middle and what is returned.
fn block(middle: &str, result: &str) -> String {
    format!(
        r#"graph @g (%0 "x": f32[B,4]) symbols B=1.. {{
          weight %1: f32[4,8] = random
          weight %2: f32[8] = random
          weight %3: f32[8,4] = random
          weight %4: f32[4,4] = random
          %9 = MatMul(%0, %4) from "in"
          %10 = MatMul(%9, %1) from "up"
          %11 = Add(%10, %2) from "bias"
          {middle}
          %20 = MatMul(%19, %3) from "down"
          %21 = Add(%9, %20) from "skip"
          return {result}
        }}"#
    )
}

#[test]
fn a_feed_forward_block() {
    let g = cut(&block(r"%19 = Relu(%11)", r#"%21 "y""#), "ffn=3");
    insta::assert_snapshot!(show(&g), @r#"
    graph @g (%0 "x": f32[B,4]) symbols B=1.. {
      weight %1: f32[4,4] = dense(…)
      weight %2: f32[4,8] = dense(…)
      weight %3: f32[8] = dense(…)
      weight %4: f32[8,4] = dense(…)
      %5 = MatMul(%0, %1) : f32[B,4] from "in"
      %6 = Slice(%2) {axes=dims[1], ends=dims[3], starts=dims[0], steps=dims[1]} : f32[4,3] from "up"
      %7 = MatMul(%5, %6) : f32[B,3] from "up"
      %8 = Slice(%3) {axes=dims[0], ends=dims[3], starts=dims[0], steps=dims[1]} : f32[3] from "bias"
      %9 = Add(%7, %8) : f32[B,3] from "bias"
      %10 = Relu(%9) : f32[B,3]
      %11 = Slice(%4) {axes=dims[0], ends=dims[3], starts=dims[0], steps=dims[1]} : f32[3,4] from "down"
      %12 = MatMul(%10, %11) : f32[B,4] from "down"
      %13 = Add(%5, %12) : f32[B,4] from "skip"
      return %13 "y"
    }
    "#);
}

#[test]
fn outputs_that_shrink_are_told() {
    let mut g = graph(&block("%19 = Relu(%11)", r#"%21 "y", %11 "z""#));
    let report = slice(&mut g, &"ffn=3".parse().expect("a wish")).expect("cuts");
    let said: Vec<String> = report.events.into_iter().map(|e| e.detail).collect();
    assert_eq!(said, ["ffn: 1 of 8 to 3", "output `z`: f32[B,8] is now f32[B,3]"]);
}

#[test]
fn structure_that_is_not_there() {
    let of = |middle: &str, result: &str, wish: &str| refused(&block(middle, result), wish);
    let y = r#"%21 "y""#;
    // No activation: two products, as of a low-rank factorisation.
    insta::assert_snapshot!(of("%19 = Mul(%11, %2)", y, "ffn=3"), @"ffn []: there is no feed-forward block on a residual stream");
    insta::assert_snapshot!(of("%19 = Relu(%11)", r#"%20 "y""#, "ffn=3"), @"ffn []: there is no feed-forward block on a residual stream");
    insta::assert_snapshot!(of("%19 = Relu(%11)", y, "heads=1"), @"heads []: there is no attention with a fixed number of heads");
    insta::assert_snapshot!(of("%19 = Relu(%11)", y, "layers=1"), @"layers []: the blocks on the residual stream do not repeat");
    // Its elements meet each other.
    let turned = "%18 = Relu(%11)\n%17 = Slice(%18) {axes=dims[1], starts=dims[-1], ends=dims[-9], steps=dims[-1]}\n%19 = Add(%18, %17)";
    insta::assert_snapshot!(of(turned, y, "ffn=3"), @"ffn []: nothing would be left of axis 1 of f32[B,8]");
    let softmax = "%18 = Relu(%11)\n%17 = ReduceSum(%18) {axes=dims[1], keepdims=1} from \"sum\"\n%19 = Div(%18, %17)";
    insta::assert_snapshot!(of(softmax, y, "ffn=3"), @"ffn []: there is no feed-forward block on a residual stream");
}

#[test]
fn a_stream_that_is_an_input() {
    let source = r#"graph @g (%0 "x": f32[B,4]) symbols B=1.. {
      weight %1: f32[4,8] = random
      weight %2: f32[8,4] = random
      %3 = MatMul(%0, %1)
      %4 = Relu(%3)
      %5 = MatMul(%4, %2)
      %6 = Add(%5, %0) from "skip"
      return %6 "y"
    }"#;
    insta::assert_snapshot!(refused(source, "hidden=2"), @"hidden []: the cut reaches axis 1 of f32[B,4], which is the input `x`");
    // The inner axis is free.
    cut(source, "ffn=2");
}

#[test]
fn two_streams_are_ambiguous() {
    let source = r#"graph @g (%0 "x": i64[B]) symbols B=1.. {
      weight %1: f32[9,4] = random
      weight %2: f32[4,4] = random
      weight %3: f32[9,6] = random
      weight %4: f32[6,6] = random
      %5 = Gather(%1, %0)
      %6 = MatMul(%5, %2)
      %7 = Add(%5, %6) from "one"
      %8 = Gather(%3, %0)
      %9 = MatMul(%8, %4)
      %10 = Add(%8, %9) from "other"
      return %7 "y", %10 "z"
    }"#;
    insta::assert_snapshot!(refused(source, "hidden=2"), @"hidden [other]: there are residual streams of extents 4 and 6: which one is meant is ambiguous");
    insta::assert_snapshot!(refused(source, "layers=1"), @"layers [other]: the skip here does not follow the one before it: there are several streams");
}

#[test]
fn an_axis_that_meets_itself() {
    // Halves of the stream are added: the first three of four take elements from both.
    let source = r#"graph @g (%0 "x": i64[B]) symbols B=1.. {
      weight %1: f32[9,4] = random
      weight %2: f32[4,4] = random
      weight %3: f32[2,5] = random
      %5 = Gather(%1, %0)
      %6 = MatMul(%5, %2)
      %7 = Add(%5, %6) from "skip"
      %8, %9 = Split(%7) {axis=1, split=dims[2,2]}
      %10 = Mul(%8, %9)
      %11 = MatMul(%10, %3)
      return %11 "y"
    }"#;
    insta::assert_snapshot!(refused(source, "hidden=3"), @"hidden [skip]: other ties take more elements from the axis than were asked for: it is tied to itself");
}

#[test]
fn grouped_heads_and_caches() {
    let source = |past: &str| {
        format!(
            r#"graph @g (%0 "x": i64[B,S], %1 "past": f32[B,2,P,2]) symbols B=1.., S=1.., P=1.. {{
              weight %2: f32[9,4] = random
              weight %3: f32[4,8] = random
              weight %4: f32[4,4] = random
              weight %5: f32[8,4] = random
              %10 = Gather(%2, %0)
              %11 = MatMul(%10, %3)
              %12 = Reshape(%11) {{shape=dims[B,S,4,2]}}
              %13 = Transpose(%12) {{perm=[0,2,1,3]}}
              %14 = MatMul(%10, %4)
              %15 = Reshape(%14) {{shape=dims[B,S,2,2]}}
              %16 = Transpose(%15) {{perm=[0,2,1,3]}}
              %17 = {past} from "cache"
              %18 = Attention(%13, %17, %17) {{scale=0.5}} from "attention"
              %19 = Transpose(%18) {{perm=[0,2,1,3]}}
              %20 = Reshape(%19) {{shape=dims[B,S,8]}}
              %21 = MatMul(%20, %5)
              %22 = Add(%10, %21)
              return %22 "y"
            }}"#
        )
    };
    let grouped = source("Relu(%16)");
    let g = cut(&grouped, "heads=2");
    let said = show(&g);
    assert!(
        said.contains("Attention") && said.contains("f32[B,2,S,2]") && said.contains("f32[B,1,S,2]"),
        "{said}"
    );
    insta::assert_snapshot!(refused(&grouped, "heads=3"), @"heads [attention]: 3 query heads do not divide into runs of 2 that share a key head");
    insta::assert_snapshot!(refused(&source("Concat(%1, %16) {axis=2}"), "heads=2"), @"heads [cache]: the cut reaches axis 1 of f32[B,2,P,2], which is the input `past`");
}

#[test]
fn a_second_cut_starts_from_the_first() {
    let mut g = graph(&encoder(FULL));
    for wish in ["ffn=5", "ffn=4,layers=2", "hidden=3"] {
        slice(&mut g, &wish.parse().expect("a wish")).expect("cuts");
    }
    let small = graph(&encoder(Net {
        hidden: 3,
        ffn: [4; 3],
        layers: 2,
        ..FULL
    }));
    let inputs = [Tensor::i64(&[1, 2], [3, 4])];
    let pairs = results(&small, &inputs)
        .concat()
        .into_iter()
        .zip(results(&g, &inputs).concat());
    assert!(
        pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5),
        "{}",
        text::print(&g)
    );
}
