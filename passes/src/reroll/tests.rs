//! Recurrences written out, as text.

use super::*;
use crate::testing::{graph, refused, rewrite};

/// Sixteen steps of `h = h * a + x[:, t]`, all of them joined; `step` may write the line of step `t`'s sum anew.
fn unrolled(steps: usize, step: impl Fn(usize, &str, &str) -> String) -> String {
    let mut text =
        format!("graph @g (%0 \"h\": f32[B,4], %1 \"x\": f32[B,{steps},4], %2 \"a\": f32[4]) symbols B=1.. {{\n");
    for t in 0..steps {
        text += &format!("weight %{}: i64[] = dense({t})\n", 10 + t);
    }
    let mut state = "%0".to_owned();
    let mut parts = vec![];
    for t in 0..steps {
        let at = 100 + 10 * t;
        text += &format!("%{at} = Gather(%1, %{}) {{axis=1}}\n", 10 + t);
        text += &format!("%{} = Mul({state}, %2)\n", at + 1);
        text += &step(t, &format!("%{}", at + 1), &format!("%{at}")).replace("OUT", &format!("%{}", at + 2));
        text += "\n";
        text += &format!("%{} = Unsqueeze(%{}) {{axes=dims[1]}}\n", at + 3, at + 2);
        state = format!("%{}", at + 2);
        parts.push(format!("%{}", at + 3));
    }
    text += &format!(
        "%5000 = Concat({}) {{axis=1}}\nreturn %5000 \"y\", {state} \"last\"\n}}",
        parts.join(", ")
    );
    text
}

fn plain(t: usize, h: &str, x: &str) -> String {
    let _ = t;
    format!("OUT = Add({h}, {x})")
}

#[test]
fn steps_become_a_loop() {
    let text = rewrite(&PASS, &unrolled(16, plain));
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "h": f32[B,4], %1 "x": f32[B,16,4], %2 "a": f32[4]) symbols B=1.. {
      weight %3: i64[] = dense(0)
      weight %4: i64[] = dense(1)
      weight %5: i64[] = dense(2)
      weight %6: i64[] = dense(3)
      weight %7: i64[] = dense(4)
      weight %8: i64[] = dense(5)
      weight %9: i64[] = dense(6)
      weight %10: i64[] = dense(7)
      weight %11: i64[] = dense(8)
      weight %12: i64[] = dense(9)
      weight %13: i64[] = dense(10)
      weight %14: i64[] = dense(11)
      weight %15: i64[] = dense(12)
      weight %16: i64[] = dense(13)
      weight %17: i64[] = dense(14)
      weight %18: i64[] = dense(15)
      %19 = Transpose(%1) {perm=[1,0,2]} : f32[16,B,4]
      %20, %21 = cameo::Scan(%0, %19, %2) {body=graph @step (%0 "state0": f32[B,4], %1 "slice0": f32[B,4], %2 "whole0": f32[4]) symbols B=1.. {
        %3 = Mul(%0, %2) : f32[B,4]
        %4 = Add(%3, %1) : f32[B,4]
        %5 = Unsqueeze(%4) {axes=dims[1]} : f32[B,1,4]
        return %4 "state0", %5 "y0"
      }, length=dims[16], slices=1, states=1} : f32[B,4], f32[16,B,1,4]
      %22 = Transpose(%21) {perm=[1,0,2,3]} : f32[B,16,1,4]
      %23 = Reshape(%22) {shape=dims[B,16,4]} : f32[B,16,4]
      return %23 "y", %20 "last"
    }
    "#);
}

#[test]
fn the_number_of_steps_does_not_matter() {
    let count = |steps| {
        let mut g = graph(&unrolled(steps, plain));
        crate::run(&PASS, &mut g);
        g.node_count()
    };
    assert_eq!(count(8), count(40));
    assert!(count(7) > 20, "a few steps stay as they are");
}

#[test]
fn operands_may_be_swapped_and_slices_cut_in_other_ways() {
    let text = unrolled(9, |_, h, x| format!("OUT = Add({x}, {h})"));
    let mut sliced = text.clone();
    for t in 0..9 {
        let gather = format!("%{} = Gather(%1, %{}) {{axis=1}}", 100 + 10 * t, 10 + t);
        let slice = format!(
            "%{0} = Slice(%1) {{axes=dims[1], ends=dims[{2}], starts=dims[{t}]}}\n%{1} = Squeeze(%{0}) {{axes=dims[1]}}",
            1000 + t,
            100 + 10 * t,
            t + 1
        );
        assert!(sliced.contains(&gather));
        sliced = sliced.replace(&gather, &slice);
    }
    for text in [text, sliced] {
        let out = rewrite(&PASS, &text);
        assert!(
            out.contains("cameo::Scan") && !out.contains("axis=1} : f32[B,4]"),
            "{out}"
        );
    }
}

#[test]
fn backwards_in_time() {
    let mut text = unrolled(10, plain);
    for t in 0..10 {
        text = text.replace(
            &format!("weight %{}: i64[] = dense({t})", 10 + t),
            &format!("weight %{}: i64[] = dense({})", 10 + t, 9 - t),
        );
    }
    let parts: Vec<String> = (0..10).map(|t| format!("%{}", 103 + 10 * t)).collect();
    let back: Vec<String> = parts.iter().rev().cloned().collect();
    let text = text.replace(
        &format!("Concat({})", parts.join(", ")),
        &format!("Concat({})", back.join(", ")),
    );
    let out = rewrite(&PASS, &text);
    assert!(out.contains("cameo::Scan") && out.contains("steps=dims[-1]"), "{out}");
}

#[test]
fn a_result_in_the_middle_is_cut_out() {
    let text = unrolled(12, plain).replace("return", "%6000 = Neg(%132)\nreturn %6000 \"third\",");
    let out = rewrite(&PASS, &text);
    assert!(out.contains("cameo::Scan") && out.contains("Neg("), "{out}");
}

#[test]
fn constants_may_differ_from_step_to_step() {
    let text = unrolled(8, |t, h, x| {
        format!("%{0} = Add({h}, {x})\nOUT = Add(%{0}, %{1})", 700 + t, 800 + t)
    });
    let weights: String = (0..8)
        .map(|t| format!("weight %{}: f32[4] = random\n", 800 + t))
        .collect();
    let text = text.replacen("weight %10", &format!("{weights}weight %10"), 1);
    let out = rewrite(&PASS, &text);
    assert!(out.contains("slices=2"), "{out}");
}

#[test]
fn a_state_that_the_last_step_leaves_unfinished() {
    // Two things go from step to step, and the second one is updated after the result is there.
    let mut text = String::from("graph @g (%0 \"m\": f32[4], %1 \"x\": f32[9,4], %2 \"w\": f32[4]) {\n");
    for t in 0..9 {
        text += &format!("weight %{}: i64[] = dense({t})\n", 10 + t);
    }
    let mut state = "%0".to_owned();
    let mut parts = vec![];
    for t in 0..9 {
        let at = 100 + 10 * t;
        text += &format!("%{at} = Gather(%1, %{}) {{axis=0}}\n", 10 + t);
        text += &format!(
            "%{} = Mul({state}, %{at})\n%{} = Unsqueeze(%{}) {{axes=dims[0]}}\n",
            at + 1,
            at + 2,
            at + 1
        );
        parts.push(format!("%{}", at + 2));
        if t < 8 {
            text += &format!(
                "%{} = Add({state}, %2)\n%{} = Max(%{}, %{at})\n",
                at + 3,
                at + 4,
                at + 3
            );
            state = format!("%{}", at + 4);
        }
    }
    text += &format!(
        "%5000 = Concat({}) {{axis=0}}\nreturn %5000 \"y\"\n}}",
        parts.join(", ")
    );
    let out = rewrite(&PASS, &text);
    assert!(out.contains("cameo::Scan") && out.contains("length=dims[9]"), "{out}");
}

#[test]
fn slices_that_are_written_one_after_the_other() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[2,4,3], %1 "a": f32[2,1,3], %2 "b": f32[2,1,3], %3 "c": f32[2,1,3]) {
          weight %4: i64[2,1,3] = dense(1,1,1,1,1,1)
          weight %5: i64[2,1,3] = dense(-1,-1,-1,-1,-1,-1)
          %6 = ScatterElements(%0, %4, %1) {axis=1}
          %7 = ScatterElements(%6, %5, %2) {axis=1}
          %8 = ScatterElements(%7, %4, %3) {axis=1}
          return %8 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[2,4,3], %1 "a": f32[2,1,3], %2 "b": f32[2,1,3], %3 "c": f32[2,1,3]) {
      weight %4: i64[2,1,3] = dense(…)
      weight %5: i64[2,1,3] = dense(…)
      %6 = Slice(%0) {axes=dims[1], ends=dims[1], starts=dims[0]} : f32[2,1,3]
      %7 = Slice(%0) {axes=dims[1], ends=dims[3], starts=dims[2]} : f32[2,1,3]
      %8 = Concat(%6, %3, %7, %2) {axis=1} : f32[2,4,3]
      return %8 "y"
    }
    "#);
}

#[test]
fn refuses_steps_that_differ() {
    // One step adds twice: what comes before and after it are too few steps.
    let odd = unrolled(12, |t, h, x| match t {
        6 => format!("%900 = Add({h}, {x})\nOUT = Mul(%900, {x})"),
        _ => format!("OUT = Add({h}, {x})"),
    });
    assert!(!rewrite(&PASS, &odd).contains("Scan"));
    // A step reads the slice of another step.
    let late = unrolled(12, |t, h, x| {
        format!("OUT = Add({h}, {})", if t == 5 { "%100" } else { x })
    });
    assert!(!rewrite(&PASS, &late).contains("Scan"));
    // Every step has a weight of its own.
    let layers = unrolled(12, |t, h, x| {
        format!("%{0} = MatMul({h}, %{1})\nOUT = Add(%{0}, {x})", 700 + t, 800 + t)
    });
    let weights: String = (0..12)
        .map(|t| format!("weight %{}: f32[4,4] = random\n", 800 + t))
        .collect();
    let layers = layers.replacen("weight %10", &format!("{weights}weight %10"), 1);
    assert!(rewrite(&PASS, &layers).contains("slices=2"), "small ones are stacked");
}

#[test]
fn refuses_large_weights_that_differ() {
    let mut text = String::from("graph @g (%0 \"h\": f32[4,40], %1 \"x\": f32[8,4,40]) {\n");
    for t in 0..8 {
        text += &format!(
            "weight %{}: i64[] = dense({t})\nweight %{}: f32[40,40] = random\n",
            10 + t,
            30 + t
        );
    }
    let mut state = "%0".to_owned();
    for t in 0..8 {
        let at = 100 + 10 * t;
        text += &format!(
            "%{at} = Gather(%1, %{}) {{axis=0}}\n%{} = Add({state}, %{at})\n%{} = MatMul(%{}, %{})\n%{} = Tanh(%{})\n",
            10 + t,
            at + 1,
            at + 2,
            at + 1,
            30 + t,
            at + 3,
            at + 2,
        );
        state = format!("%{}", at + 3);
    }
    text += &format!("return {state} \"y\"\n}}");
    assert!(refused(&PASS, &text).contains("operand 1 of MatMul is another thing in each step"));
}

#[test]
fn leaves_short_pointwise_chains() {
    // Eight halvings are one kernel as they are.
    let mut text = String::from("graph @g (%0 \"x\": f32[4], %1 \"a\": f32[4]) {\n");
    for t in 0..8 {
        text += &format!("%{} = Mul(%{}, %1)\n", t + 2, if t == 0 { 0 } else { t + 1 });
    }
    text += "return %9 \"y\"\n}";
    assert!(!rewrite(&PASS, &text).contains("Scan"));
}

#[test]
fn states_that_begin_equal() {
    // A numerator and a denominator that decay alike: their first products are one node.
    let mut text = String::from(
        "graph @g (%0 \"k\": f32[9,4], %1 \"v\": f32[9,4], %2 \"w\": f32[4]) {\nweight %3: f32[] = dense(0.0)\n",
    );
    for t in 0..9 {
        text += &format!("weight %{}: i64[] = dense({t})\n", 10 + t);
    }
    let (mut num, mut den) = ("%3".to_owned(), "%3".to_owned());
    let mut parts = vec![];
    for t in 0..9 {
        let at = 100 + 10 * t;
        let index = 10 + t;
        text += &format!(
            "%{at} = Gather(%0, %{index}) {{axis=0}}\n%{} = Gather(%1, %{index}) {{axis=0}}\n",
            at + 1
        );
        text += &format!("%{} = Mul(%2, {num})\n", at + 2);
        if t > 0 {
            text += &format!("%{} = Mul(%2, {den})\n", at + 3);
        }
        let second = if t > 0 { at + 3 } else { at + 2 };
        text += &format!(
            "%{} = Mul(%{at}, %{})\n%{} = Add(%{}, %{})\n",
            at + 4,
            at + 1,
            at + 5,
            at + 2,
            at + 4
        );
        text += &format!(
            "%{} = Add(%{second}, %{at})\n%{} = Div(%{}, %{})\n",
            at + 6,
            at + 7,
            at + 5,
            at + 6
        );
        text += &format!("%{} = Unsqueeze(%{}) {{axes=dims[0]}}\n", at + 8, at + 7);
        (num, den) = (format!("%{}", at + 5), format!("%{}", at + 6));
        parts.push(format!("%{}", at + 8));
    }
    text += &format!(
        "%5000 = Concat({}) {{axis=0}}\nreturn %5000 \"y\"\n}}",
        parts.join(", ")
    );
    let out = rewrite(&PASS, &text);
    assert!(out.contains("states=2") && !out.contains("Gather"), "{out}");
}

#[test]
fn a_first_state_that_is_a_constant() {
    // Constants stand behind other operands: the first step says it the other way around.
    let mut text =
        String::from("graph @g (%0 \"x\": f32[9,4], %1 \"w\": f32[4]) {\nweight %2: f32[4] = dense(0.5,1.0,2.0,3.0)\n");
    for t in 0..9 {
        text += &format!("weight %{}: i64[] = dense({t})\n", 10 + t);
    }
    let mut state = "%2".to_owned();
    for t in 0..9 {
        let at = 100 + 10 * t;
        let operands = match t {
            0 => format!("%{at}, {state}"),
            _ => format!("{state}, %{at}"),
        };
        text += &format!("%{at} = Gather(%0, %{}) {{axis=0}}\n", 10 + t);
        text += &format!("%{} = Max({operands})\n%{} = Add(%{}, %1)\n", at + 1, at + 2, at + 1);
        state = format!("%{}", at + 2);
    }
    text += &format!("return {state} \"y\"\n}}");
    let out = rewrite(&PASS, &text);
    assert!(out.contains("length=dims[9]") && !out.contains("Gather"), "{out}");
}

#[test]
fn results_are_joined_with_others() {
    // The first part is not of the loop: the join is of two things, however many steps there are.
    let count = |steps: usize| {
        let parts: Vec<String> = (0..steps).map(|t| format!("%{}", 103 + 10 * t)).collect();
        let all = parts.join(", ");
        let text = unrolled(steps, plain)
            .replace(&format!("Concat({all})"), &format!("Concat(%4000, {all})"))
            .replace("%5000 =", "%4000 = Unsqueeze(%0) {axes=dims[1]}\n%5000 =");
        let mut g = graph(&text);
        crate::run(&PASS, &mut g);
        g.node_count()
    };
    assert_eq!(count(9), count(30));
    assert!(count(9) < 9);
}
