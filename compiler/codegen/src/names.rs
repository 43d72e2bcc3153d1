//! Identifiers for C and Rust from the names of models, tensors and dimensions, which may be any text, and symbols of kernels.

use std::collections::BTreeSet;

use cameo_kernel::Program;

/// Words that are no identifiers in C, C++ or Rust, or that generated code uses itself.
const RESERVED: &[&str] = &[
    "Self",
    "_Bool",
    "_Complex",
    "_Imaginary",
    "abstract",
    "alignas",
    "alignof",
    "and",
    "and_eq",
    "as",
    "asm",
    "async",
    "auto",
    "await",
    "become",
    "bitand",
    "bitor",
    "bool",
    "box",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "compl",
    "concept",
    "const",
    "constexpr",
    "continue",
    "core",
    "crate",
    "decltype",
    "default",
    "delete",
    "do",
    "double",
    "dyn",
    "else",
    "enum",
    "explicit",
    "export",
    "extern",
    "false",
    "final",
    "float",
    "fn",
    "for",
    "friend",
    "gen",
    "goto",
    "if",
    "impl",
    "in",
    "inline",
    "int",
    "let",
    "long",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "not",
    "not_eq",
    "nullptr",
    "operator",
    "or",
    "or_eq",
    "override",
    "priv",
    "private",
    "protected",
    "pub",
    "public",
    "ref",
    "register",
    "requires",
    "restrict",
    "return",
    "self",
    "short",
    "signed",
    "sizeof",
    "static",
    "std",
    "struct",
    "super",
    "switch",
    "template",
    "this",
    "throw",
    "trait",
    "true",
    "try",
    "type",
    "typedef",
    "typename",
    "typeof",
    "union",
    "unsafe",
    "unsigned",
    "unsized",
    "use",
    "using",
    "virtual",
    "void",
    "volatile",
    "wchar_t",
    "where",
    "while",
    "xor",
    "xor_eq",
    "yield",
    "alloc",
    "cameo",
    "main",
    "test",
    "proc_macro",
    "linux",
    "unix",
];

/// Longest identifier: compilers take more, people do not.
const LONGEST: usize = 64;

/// An identifier that is one in C, C++ and Rust: letters, digits and underscores of `text`, other characters as `_`.
#[must_use]
pub fn identifier(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(LONGEST) {
        // Runs of underscores belong to C++ compilers.
        match c {
            _ if c.is_ascii_alphanumeric() => out.push(c),
            _ if out.ends_with('_') => {}
            _ => out.push('_'),
        }
    }
    let out = out.trim_matches('_');
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        return format!("t{out}");
    }
    if RESERVED.contains(&out) {
        return format!("{out}_");
    }
    out.to_owned()
}

/// One identifier for each text, all different and not in `taken`.
pub fn identifiers<'a>(texts: impl IntoIterator<Item = &'a str>, taken: &mut BTreeSet<String>) -> Vec<String> {
    let mut one = |text| {
        let base = identifier(text);
        let numbered = (2..).map(|i| format!("{base}_{i}"));
        let mut candidates = std::iter::once(base.clone()).chain(numbered);
        // The candidates never end.
        let name = candidates.find(|name| !taken.contains(name)).unwrap_or(base.clone());
        taken.insert(name.clone());
        name
    };
    texts.into_iter().map(&mut one).collect()
}

/// The name of a model: what its symbols, files and crate begin with. Lower case.
#[must_use]
pub fn model(text: &str) -> String {
    identifier(&text.to_lowercase())
}

/// Symbols of a program's kernels, as profilers and debuggers show them: `minilm_k3_contraction_layer_0_query_MatMul`, with the
/// first ONNX node of the first step that calls the kernel; with a level, `minilm_k3_v4_contraction_layer_0_query_MatMul`. Kernels
/// of two models may be linked into one program.
#[must_use]
pub fn kernels(model: &str, program: &Program, level: Option<&str>) -> Vec<String> {
    let level = level.map_or(String::new(), |l| format!("{l}_"));
    let one = |(i, kernel): (usize, &cameo_kernel::program::Kernel)| {
        let step = program.steps.iter().find(|s| s.kernel == i);
        let node = step.and_then(|s| s.origin.names().first());
        let node = node.map_or(String::new(), |n| format!("_{}", identifier(n)));
        format!("{model}_k{i}_{level}{}{node}", kernel.body.kind())
    };
    program.kernels.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_after_what_they_compute() {
        let mut program = crate::sample::program();
        assert_eq!(kernels("m", &program, None), ["m_k0_nest_first", "m_k1_nest_second"]);
        program.steps[0].origin = cameo_ir::Origin::new("/größe/class:0");
        program.steps[1].origin = cameo_ir::Origin::default();
        assert_eq!(kernels("m", &program, None), ["m_k0_nest_gr_e_class_0", "m_k1_nest"]);
        assert_eq!(kernels("m", &program, Some("v3"))[1], "m_k1_v3_nest");
        program.steps.clear();
        assert_eq!(kernels("m", &program, None), ["m_k0_nest", "m_k1_nest"]);
    }

    #[test]
    fn texts_become_identifiers() {
        for (text, expected) in [
            ("input_ids", "input_ids"),
            ("input.1", "input_1"),
            ("/encoder/layer.0/x:0", "encoder_layer_0_x_0"),
            ("1", "t1"),
            ("", "t"),
            ("größe", "gr_e"),
            ("class", "class_"),
            ("__a__b__", "a_b"),
        ] {
            assert_eq!(identifier(text), expected);
        }
        assert_eq!(model("MobileNet-V2 (1.0)"), "mobilenet_v2_1_0");
        assert_eq!(model("cameo"), "cameo_");
        assert!(identifier(&"x".repeat(1000)).len() <= LONGEST);
    }

    #[test]
    fn equal_names_are_told_apart() {
        let mut taken = BTreeSet::from(["B".to_owned()]);
        assert_eq!(
            identifiers(["a.b", "a_b", "B", "a b", "a_b_2"], &mut taken),
            ["a_b", "a_b_2", "B_2", "a_b_3", "a_b_2_2"]
        );
    }
}
