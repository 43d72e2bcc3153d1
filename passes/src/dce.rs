//! Removes nodes and weights that no output needs. Inputs stay: they are the model's interface.
//!
//! ```text
//! graph @g (%0 "x": f32[N]) symbols N=1.. {        graph @g (%0 "x": f32[N]) symbols N=1.. {
//!   %1 = Exp(%0) : f32[N]                     →      %1 = Neg(%0) : f32[N]
//!   %2 = Neg(%0) : f32[N]                            return %1 "y"
//!   return %2 "y"                                  }
//! }
//! ```

use cameo_ir::rewrite::Rewriter;

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "dce",
    doc: "removes nodes and weights that no output needs",
    run,
};

fn run(rw: &mut Rewriter) {
    rw.sweep();
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::rewrite;

    #[test]
    fn removes_what_no_output_needs() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N], %1 "unused": f32[N]) symbols N=1.. {
              weight %2: f32[1] = random
              %3 = Add(%0, %2)
              %4 = Neg(%0)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N], %1 "unused": f32[N]) symbols N=1.. {
          %2 = Neg(%0) : f32[N]
          return %2 "y"
        }
        "#);
    }
}
