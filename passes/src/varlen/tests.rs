//! Packing on text, checked by running both graphs.

use super::*;
use crate::testing::{Random, graph};
use cameo_ir::{interp, text, verify};

/// A block over 2 heads of 4, masked by `mask`, a value that the lines `before` compute from `%1`; `after` reads `%40`.
fn block(before: &str, mask: &str, after: &str) -> String {
    format!(
        r#"graph @g (%0 "ids": i64[B,S], %1 "mask": i64[B,S], %2 "other": f32[B,S]) symbols B=1.., S=1.. {{
          weight %3: f32[6,8] = random
          weight %4: f32[8,8] = random
          weight %5: f32[8] = random
          weight %6: f32[1,12,8] = random
          weight %7: f32[] = dense(1.0)
          weight %8: f32[] = dense(-1e9)
          {before}
          %20 = Gather(%3, %0) {{axis=0}}
          %21 = Slice(%6) {{axes=dims[1], ends=dims[S], starts=dims[0]}}
          %22 = Add(%20, %21)
          %23 = LayerNormalization(%22, %5) {{axis=2}}
          %24 = MatMul(%23, %4)
          %25 = Add(%24, %5)
          %26 = Reshape(%25) {{shape=dims[B,S,2,4]}}
          %27 = Transpose(%26) {{perm=[0,2,1,3]}}
          %28 = Reshape(%27) {{shape=dims[2*B,S,4]}}
          %29 = Transpose(%28) {{perm=[0,2,1]}}
          %30 = Reshape(%29) {{shape=dims[B,2,4,S]}}
          %31 = Transpose(%30) {{perm=[0,1,3,2]}}
          %32 = Attention(%27, %31, %27, {mask})
          %33 = Transpose(%32) {{perm=[0,2,1,3]}}
          %34 = Reshape(%33) {{shape=dims[B*S,8]}}
          %35 = Gemm(%34, %4, %5) {{transB=1}}
          %36 = Reshape(%35) {{shape=dims[B,S,8]}}
          %37 = Unsqueeze(%2) {{axes=[2]}}
          %38 = Mul(%36, %37)
          %39 = ReduceMean(%38) {{axes=[2], keepdims=1}}
          %40 = Add(%39, %23)
          {after}
        }}"#
    )
}

const ADDED: &str = r"%10 = Cast(%1) {to=f32}
    %11 = Sub(%7, %10)
    %12 = Mul(%11, %8)
    %13 = Unsqueeze(%12) {axes=[1,2]}";

const CHOSEN: &str = r"%10 = Cast(%1) {to=bool}
    %11 = Unsqueeze(%10) {axes=[1,2]}
    %13 = Expand(%11) {shape=dims[B,1,S,S]}";

const CAUSAL: &str = r"%10 = Cast(%1) {to=bool}
    %11 = Unsqueeze(%10) {axes=[1,2]}
    weight %9: i64[] = dense(0)
    %12 = Range(%9) {delta=dims[1], limit=dims[S]}
    %14 = Unsqueeze(%12) {axes=[1]}
    %15 = LessOrEqual(%12, %14)
    %13 = And(%11, %15)";

const ROWS: &str = r#"return %40 "y""#;

/// Packs, and compares with the graph as it was: rows of tokens are equal, others zero. Gives the packed text.
fn packed(source: &str) -> String {
    let before = graph(source);
    verify::verify(&before).expect("sound");
    let mut after = before.clone();
    varlen(&mut after).expect("packs");
    verify::verify(&after).unwrap_or_else(|e| panic!("{e:?}\n{}", text::print(&after)));
    let mut r = Random::new(3);
    for (batch, length) in [(1, 4), (3, 7), (4, 1), (2, 12)] {
        let inputs = [
            Tensor::from_i64(
                DType::I64,
                &[batch, length],
                (0..batch * length).map(|i| (i * 5 % 6) as i64),
            ),
            r.tensor(DType::I64, &[batch, length]),
            r.tensor(DType::F32, &[batch, length]),
        ];
        let tokens = inputs[1].to_i64();
        let want = interp::run(&before, &inputs).expect("runs");
        let got = interp::run(&after, &inputs).unwrap_or_else(|e| panic!("{e}\n{}", text::print(&after)));
        for (w, g) in want.iter().zip(&got) {
            assert_eq!(w.shape(), g.shape());
            let width = w.len() / tokens.len();
            for (i, (w, g)) in w.to_f32().iter().zip(g.to_f32()).enumerate() {
                let expected = if tokens[i / width] != 0 { *w } else { 0.0 };
                assert!(
                    (expected - g).abs() <= 1e-5 * expected.abs().max(1.0),
                    "element {i}: {expected} or {g} {tokens:?}\n{}",
                    crate::testing::show(&after)
                );
            }
        }
    }
    text::print(&after)
}

#[test]
fn tokens_are_computed_in_one_piece() {
    for mask in [ADDED, CHOSEN, CAUSAL] {
        let text = packed(&block(mask, "%13", ROWS));
        let products: Vec<&str> = text
            .lines()
            .filter(|l| l.contains("= MatMul(") || l.contains("= Gemm("))
            .collect();
        assert!(products.iter().all(|l| l.contains(": f32[count.tokens,8]")), "{text}");
        assert_eq!(text.matches("cameo::Ragged(").count(), 1, "{text}");
        assert_eq!(text.contains("is_causal=1"), mask == CAUSAL, "{text}");
        assert_eq!(text.matches("cameo::Compact(").count(), 1);
    }
}

#[test]
fn what_needs_all_of_a_sequence_gets_it_padded() {
    let whole = r#"%41 = CumSum(%40) {axis=dims[1]}
        %42 = Neg(%40)
        %43 = Abs(%42)
        return %43 "y""#;
    let text = packed(&block(ADDED, "%13", whole));
    assert!(text.contains("= Abs(") && !text.contains("CumSum"), "{text}");
    let mean = whole.replace("return %43", "return %41");
    let mut g = graph(&block(ADDED, "%13", &mean));
    varlen(&mut g).expect("packs");
    let text = text::print(&g);
    let sum = text.lines().find(|l| l.contains("CumSum(")).expect("kept");
    assert!(sum.contains(": f32[B,S,8]"), "{text}");
}

#[test]
fn other_masks_are_refused() {
    let reason = |source: &str| {
        let mut g = graph(source);
        let before = text::print(&g);
        let refused = varlen(&mut g).expect_err("refused");
        // Dead nodes go in any case.
        assert!(!text::print(&g).contains("Compact"), "{before}");
        refused.reason
    };
    let inverted = CHOSEN.replace("%11 = Unsqueeze(%10)", "%9 = Not(%10)\n %11 = Unsqueeze(%9)");
    assert!(reason(&block(&inverted, "%13", ROWS)).starts_with("the mask does not leave exactly"));
    let soft = ADDED.replace("-1e9", "-1.0");
    let soft = block(&soft, "%13", ROWS).replace("dense(-1e9)", "dense(-1.0)");
    assert!(reason(&soft).starts_with("the mask does not leave exactly"));
    // Keys at most 20 places before the query: more than short sequences show.
    let near = CAUSAL.replace("%13 = And(%11, %15)", "weight %16: i64[] = dense(20)\n %17 = Sub(%14, %12)\n %18 = LessOrEqual(%17, %16)\n %19 = And(%15, %18)\n %13 = And(%11, %19)");
    assert!(reason(&block(&near, "%13", ROWS)).starts_with("the mask does not leave exactly"));
    let far = near.replace("dense(20)", "dense(5000)");
    assert!(reason(&block(&far, "%13", ROWS)).contains("fix the length with --dim"));
    let window = block(ADDED, "%13", ROWS).replace("%27, %13)", "%27, %13) {left_window_size=4}");
    assert!(reason(&window).starts_with("it sees a window"));
    let two = ADDED.replace("%12 = Mul(%11, %8)", "%9 = Mul(%11, %8)\n %12 = Add(%9, %2)");
    assert!(reason(&block(&two, "%13", ROWS)).contains("is made of the input"));
    let none = block(ADDED, "%13", ROWS).replace("%27, %13)", "%27)");
    assert_eq!(reason(&none), "it has no mask: it attends to padding too");
    let absent = block(ADDED, "%13", ROWS).replace("Attention(%27, %31, %27, %13)", "Add(%27, %31)");
    assert_eq!(reason(&absent), "there is no attention to find the tokens by");
    // Keys that mix tokens.
    let mixed = block(ADDED, "%13", ROWS).replace(
        "%31 = Transpose(%30)",
        "%19 = CumSum(%30) {axis=dims[3]}\n %31 = Transpose(%19)",
    );
    assert!(reason(&mixed).starts_with("its operands are not computed row by row"));
}
