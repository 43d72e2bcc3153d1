//! Dims as straight-line integer code: the model's shape function, as LLVM IR text.
//!
//! Laws: every distinct dim, product and atom is computed once; arithmetic is checked, and what fails (a division by something
//! not positive, a broadcast of different extents, a broken requirement, a negative extent) makes the function return the
//! number of its rule, an overflow or a size past [`MOST_BYTES`] -1; there is no branch before the end, so a failing call has
//! written meaningless numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use cameo_ir::{Atom, Dim, Origin, Real, Sym};
use cameo_kernel::program::Requirement;

use crate::rules::Said;

/// Largest legal extent or size: the address space of a process on x86-64 and aarch64 (47 bits), so that sums of a few
/// sizes cannot overflow anywhere.
pub const MOST_BYTES: i64 = 1 << 47;

/// An integer of the function: known now, or a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Int {
    Known(i64),
    Register(u32),
}

impl std::fmt::Display for Int {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(value) => write!(f, "{value}"),
            Self::Register(number) => write!(f, "%v{number}"),
        }
    }
}

/// A symbol that the model does not declare; such a program is a defect of an earlier phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSymbol(pub String);

/// What the function computes.
#[derive(Clone, Copy, Debug)]
pub struct Quantities<'a> {
    /// The model's symbols, in the order of the function's first argument.
    pub symbols: &'a [Arc<str>],
    pub dims: &'a [Dim],
    pub offsets: &'a [Dim],
    /// Bytes of the arena.
    pub arena: &'a Dim,
    /// Bytes of scratch of each step; the largest counts.
    pub scratch: &'a [Dim],
    /// The function fails unless these hold.
    pub requirements: &'a [Requirement],
    /// The function fails unless these are in `0..=MOST_BYTES`. With the nodes that they are sizes of.
    pub sizes: &'a [(Dim, Origin)],
    /// The first nodes that have these in the shapes of their results.
    pub makers: &'a BTreeMap<Atom, Origin>,
    /// Symbols that a run counts one after the other: what is computed while some are not known may not be legal.
    pub counted: &'a [Sym],
}

/// Definition of `cameo_abi::ShapeFn` under `name`, with internal linkage, and its rules in words.
///
/// # Errors
/// [`UnknownSymbol`] when a dim is not made of `symbols` alone.
pub fn function(name: &str, what: &Quantities) -> Result<(String, Vec<String>), UnknownSymbol> {
    let mut code = Code {
        symbols: what.symbols,
        counted: what.counted,
        makers: what.makers,
        text: String::new(),
        registers: 0,
        dims: BTreeMap::new(),
        atoms: BTreeMap::new(),
        products: BTreeMap::new(),
        wrong: vec![],
        overflows: vec![],
        huge: vec![],
        checked: BTreeSet::new(),
    };
    let table = |code: &mut Code, table: &str, dims: &[Dim]| {
        for (i, dim) in dims.iter().enumerate() {
            let value = code.dim(dim)?;
            code.store(table, i, value);
        }
        Ok(())
    };
    table(&mut code, "dims", what.dims)?;
    table(&mut code, "offsets", what.offsets)?;
    let arena = code.dim(what.arena)?;
    let mut scratch = Int::Known(0);
    for dim in what.scratch {
        let bytes = code.dim(dim)?;
        scratch = code.extreme("smax", scratch, bytes);
    }
    for (i, size) in [arena, scratch].into_iter().enumerate() {
        code.store("sizes", i, size);
    }
    // Extents before what follows of them, so that the first that is wrong says most.
    for (dim, origin) in what.sizes {
        code.check_size(dim, origin)?;
    }
    let nobody = Origin::default();
    for dim in what.scratch.iter().chain([what.arena]).chain(what.offsets) {
        code.check_size(dim, &nobody)?;
    }
    for rule in what.requirements {
        let opposite = |r: &Requirement| (&r.a, &r.b) == (&rule.b, &rule.a);
        let said = Said::of(rule, what.requirements.iter().any(opposite));
        let (a, b) = (code.dim(&rule.a)?, code.dim(&rule.b)?);
        let when = match (a, b) {
            (Int::Known(a), Int::Known(b)) if a <= b => continue,
            (Int::Known(_), Int::Known(_)) => None,
            _ => Some(code.let_(format_args!("icmp sgt i64 {a}, {b}"))),
        };
        code.wrong(when, said)?;
    }
    Ok(code.finish(name))
}

/// A rule that does not hold when a register of type `i1` is true, or never.
struct Wrong {
    when: Option<u32>,
    text: String,
    sides: [Int; 2],
}

/// The function's body so far.
struct Code<'a> {
    symbols: &'a [Arc<str>],
    counted: &'a [Sym],
    makers: &'a BTreeMap<Atom, Origin>,
    text: String,
    registers: u32,
    dims: BTreeMap<Dim, Int>,
    atoms: BTreeMap<Atom, Int>,
    products: BTreeMap<Vec<Atom>, Int>,
    wrong: Vec<Wrong>,
    /// As in [`Wrong`].
    overflows: Vec<Option<u32>>,
    /// As in [`Wrong`]: sizes past [`MOST_BYTES`].
    huge: Vec<Option<u32>>,
    checked: BTreeSet<u32>,
}

impl Code<'_> {
    /// A new register that holds `instruction`.
    fn let_(&mut self, instruction: std::fmt::Arguments) -> u32 {
        let register = self.registers;
        self.registers += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "  %v{register} = {instruction}");
        register
    }

    fn int(&mut self, instruction: std::fmt::Arguments) -> Int {
        Int::Register(self.let_(instruction))
    }

    fn store(&mut self, table: &str, index: usize, value: Int) {
        let place = self.let_(format_args!("getelementptr inbounds i64, ptr %{table}, i64 {index}"));
        let _ = writeln!(self.text, "  store i64 {value}, ptr %v{place}");
    }

    fn dim(&mut self, dim: &Dim) -> Result<Int, UnknownSymbol> {
        if let Some(value) = dim.as_const() {
            return Ok(Int::Known(value));
        }
        if let Some(value) = self.dims.get(dim) {
            return Ok(*value);
        }
        let mut sum = Int::Known(0);
        for (atoms, coefficient) in dim.terms() {
            let product = self.product(atoms)?;
            let term = self.checked("smul", product, Int::Known(*coefficient));
            sum = self.checked("sadd", sum, term);
        }
        self.dims.insert(dim.clone(), sum);
        Ok(sum)
    }

    fn product(&mut self, atoms: &[Atom]) -> Result<Int, UnknownSymbol> {
        let Some((last, rest)) = atoms.split_last() else {
            return Ok(Int::Known(1));
        };
        if let Some(value) = self.products.get(atoms) {
            return Ok(*value);
        }
        // Atoms are sorted, so that products with a common beginning share it.
        let (left, right) = (self.product(rest)?, self.atom(last)?);
        let value = self.checked("smul", left, right);
        self.products.insert(atoms.to_vec(), value);
        Ok(value)
    }

    fn atom(&mut self, atom: &Atom) -> Result<Int, UnknownSymbol> {
        if let Some(value) = self.atoms.get(atom) {
            return Ok(*value);
        }
        let value = match atom {
            Atom::Sym(Sym::Named(name)) => {
                let index = self.symbols.iter().position(|symbol| symbol == name);
                let index = index.ok_or_else(|| UnknownSymbol(name.to_string()))?;
                let place = self.let_(format_args!("getelementptr inbounds i64, ptr %symbols, i64 {index}"));
                self.int(format_args!("load i64, ptr %v{place}"))
            }
            Atom::Sym(other) => return Err(UnknownSymbol(format!("{other:?}"))),
            Atom::FloorDiv(a, b) => {
                let said = Said::divisor(b, &self.maker(atom));
                let early = !self.counts(a) && !self.counts(b);
                let (a, b) = (self.dim(a)?, self.dim(b)?);
                let (value, wrong) = self.floor_div(a, b);
                self.meant(early, wrong, said)?;
                value
            }
            Atom::Min(a, b) => {
                let (a, b) = (self.dim(a)?, self.dim(b)?);
                self.extreme("smin", a, b)
            }
            Atom::Max(a, b) => {
                let (a, b) = (self.dim(a)?, self.dim(b)?);
                self.extreme("smax", a, b)
            }
            Atom::Broadcast(a, b) => {
                let said = Said::broadcast(a, b, &self.maker(atom));
                let early = !self.counts(a) && !self.counts(b);
                let (a, b) = (self.dim(a)?, self.dim(b)?);
                let (value, wrong) = self.broadcast(a, b);
                self.meant(early, Some(Some(wrong)), said)?;
                value
            }
            Atom::Real(op, a, b) => {
                let (a, b) = (self.dim(a)?, self.dim(b)?);
                self.real(*op, a, b)
            }
        };
        self.atoms.insert(atom.clone(), value);
        Ok(value)
    }

    fn counts(&self, d: &Dim) -> bool {
        self.counted.iter().any(|s| d.uses(s))
    }

    fn maker(&self, atom: &Atom) -> Origin {
        self.makers.get(atom).cloned().unwrap_or_default()
    }

    /// A rule that counts only where all of it is known by now.
    fn meant(&mut self, early: bool, wrong: Option<Option<u32>>, said: Said) -> Result<(), UnknownSymbol> {
        match wrong {
            Some(when) if early => self.wrong(when, said),
            _ => Ok(()),
        }
    }

    fn wrong(&mut self, when: Option<u32>, said: Said) -> Result<(), UnknownSymbol> {
        let [a, b] = &said.sides;
        let sides = [self.dim(a)?, self.dim(b)?];
        self.wrong.push(Wrong {
            when,
            text: said.text,
            sides,
        });
        Ok(())
    }

    /// A function of floats, whose bits these are.
    fn real(&mut self, op: Real, a: Int, b: Int) -> Int {
        if op == Real::Of {
            let float = self.let_(format_args!("sitofp i64 {a} to double"));
            return self.int(format_args!("bitcast double %v{float} to i64"));
        }
        let x = self.let_(format_args!("bitcast i64 {a} to double"));
        let one = |name: &str| format!("call double @llvm.{name}.f64(double %v{x})");
        let text = match op {
            Real::Of | Real::Whole => {
                return self.int(format_args!("call i64 @llvm.fptosi.sat.i64.f64(double %v{x})"));
            }
            Real::Single => {
                let single = self.let_(format_args!("fptrunc double %v{x} to float"));
                format!("fpext float %v{single} to double")
            }
            Real::Neg => format!("fneg double %v{x}"),
            Real::Abs => one("fabs"),
            Real::Floor => one("floor"),
            Real::Ceil => one("ceil"),
            Real::Round => one("roundeven"),
            Real::Sqrt => one("sqrt"),
            Real::Add | Real::Sub | Real::Mul | Real::Div | Real::Min | Real::Max => {
                let y = self.let_(format_args!("bitcast i64 {b} to double"));
                let (before, between) = match op {
                    Real::Add => ("fadd double", ", "),
                    Real::Sub => ("fsub double", ", "),
                    Real::Mul => ("fmul double", ", "),
                    Real::Div => ("fdiv double", ", "),
                    Real::Min => ("call double @llvm.minimum.f64(double", ", double "),
                    _ => ("call double @llvm.maximum.f64(double", ", double "),
                };
                let end = if before.starts_with("call") { ")" } else { "" };
                format!("{before} %v{x}{between}%v{y}{end}")
            }
        };
        let float = self.let_(format_args!("{text}"));
        self.int(format_args!("bitcast double %v{float} to i64"))
    }

    /// `smul` or `sadd`, with an overflow check.
    fn checked(&mut self, operation: &str, a: Int, b: Int) -> Int {
        match (operation, a, b) {
            ("sadd", Int::Known(0), x) | ("sadd", x, Int::Known(0)) => return x,
            ("smul", Int::Known(1), x) | ("smul", x, Int::Known(1)) => return x,
            (_, Int::Known(a), Int::Known(b)) => {
                let value = if operation == "sadd" {
                    a.checked_add(b)
                } else {
                    a.checked_mul(b)
                };
                if value.is_none() {
                    self.overflows.push(None);
                }
                return Int::Known(value.unwrap_or(0));
            }
            _ => {}
        }
        let pair = self.let_(format_args!(
            "call {{ i64, i1 }} @llvm.{operation}.with.overflow.i64(i64 {a}, i64 {b})"
        ));
        let wrong = self.let_(format_args!("extractvalue {{ i64, i1 }} %v{pair}, 1"));
        self.overflows.push(Some(wrong));
        self.int(format_args!("extractvalue {{ i64, i1 }} %v{pair}, 0"))
    }

    /// With when it is wrong, if it may be.
    fn floor_div(&mut self, a: Int, b: Int) -> (Int, Option<Option<u32>>) {
        let (divisor, wrong) = match b {
            Int::Known(b) if b > 0 => (Int::Known(b), None),
            Int::Known(_) => return (Int::Known(0), Some(None)),
            Int::Register(_) => {
                let wrong = self.let_(format_args!("icmp sle i64 {b}, 0"));
                let divisor = self.int(format_args!("select i1 %v{wrong}, i64 1, i64 {b}"));
                (divisor, Some(Some(wrong)))
            }
        };
        if let (Int::Known(a), Int::Known(b)) = (a, divisor) {
            return (Int::Known(a.div_euclid(b)), wrong);
        }
        // The hardware rounds towards zero; the divisor is positive, so a negative remainder means one less.
        let quotient = self.let_(format_args!("sdiv i64 {a}, {divisor}"));
        let rest = self.let_(format_args!("srem i64 {a}, {divisor}"));
        let negative = self.let_(format_args!("icmp slt i64 %v{rest}, 0"));
        let less = self.let_(format_args!("sext i1 %v{negative} to i64"));
        (self.int(format_args!("add i64 %v{quotient}, %v{less}")), wrong)
    }

    /// `smin` or `smax`.
    fn extreme(&mut self, which: &str, a: Int, b: Int) -> Int {
        match (a, b) {
            (Int::Known(a), Int::Known(b)) => Int::Known(if which == "smin" { a.min(b) } else { a.max(b) }),
            _ if a == b => a,
            _ => self.int(format_args!("call i64 @llvm.{which}.i64(i64 {a}, i64 {b})")),
        }
    }

    /// The extent that two axes have together: equal, or one of them 1. With when it is wrong.
    fn broadcast(&mut self, a: Int, b: Int) -> (Int, u32) {
        let one = self.let_(format_args!("icmp eq i64 {a}, 1"));
        let differ = self.let_(format_args!("icmp ne i64 {a}, {b}"));
        let many = self.let_(format_args!("icmp ne i64 {b}, 1"));
        let neither = self.let_(format_args!("select i1 %v{one}, i1 false, i1 %v{many}"));
        let wrong = self.let_(format_args!("and i1 %v{differ}, %v{neither}"));
        // Where they do not fit, rules see the same from both sides.
        let larger = self.extreme("smax", a, b);
        let other = self.let_(format_args!("select i1 %v{many}, i64 {larger}, i64 {a}"));
        (
            self.int(format_args!("select i1 %v{one}, i64 {b}, i64 %v{other}")),
            wrong,
        )
    }

    /// Fails unless `0 <= size <= MOST_BYTES`.
    fn check_size(&mut self, dim: &Dim, origin: &Origin) -> Result<(), UnknownSymbol> {
        let (negative, huge) = match self.dim(dim)? {
            Int::Known(size) => ((size < 0).then_some(None), (size > MOST_BYTES).then_some(None)),
            Int::Register(register) if !self.checked.insert(register) => return Ok(()),
            size => {
                let negative = self.let_(format_args!("icmp slt i64 {size}, 0"));
                let huge = self.let_(format_args!("icmp sgt i64 {size}, {MOST_BYTES}"));
                (Some(Some(negative)), Some(Some(huge)))
            }
        };
        self.huge.extend(huge);
        match negative {
            Some(when) => self.wrong(when, Said::size(dim, origin)),
            None => Ok(()),
        }
    }

    /// Whether any of them is true.
    fn any(&mut self, wrong: Vec<Option<u32>>) -> String {
        let mut any = "false".to_owned();
        for when in wrong {
            any = match when {
                Some(wrong) => format!("%v{}", self.let_(format_args!("or i1 {any}, %v{wrong}"))),
                None => "true".to_owned(),
            };
        }
        any
    }

    fn finish(mut self, name: &str) -> (String, Vec<String>) {
        let (huge, overflows) = (std::mem::take(&mut self.huge), std::mem::take(&mut self.overflows));
        let (huge, overflows) = (self.any(huge), self.any(overflows));
        // Rules say more than a size, but are about no number that has wrapped around.
        let mut status = format!("%v{}", self.let_(format_args!("sext i1 {huge} to i32")));
        let rules = std::mem::take(&mut self.wrong);
        let (mut cases, mut blocks) = (String::new(), String::new());
        // The first one that does not hold is the last to be chosen.
        for (i, Wrong { when, sides, .. }) in rules.iter().enumerate().rev() {
            let number = i + 1;
            status = match when {
                Some(wrong) => {
                    let chosen = self.let_(format_args!("select i1 %v{wrong}, i32 {number}, i32 {status}"));
                    format!("%v{chosen}")
                }
                None => number.to_string(),
            };
            let [a, b] = sides;
            let _ = write!(cases, " i32 {number}, label %rule{number}");
            let _ = write!(
                blocks,
                "rule{number}:\n  store i64 {a}, ptr %sizes\n  store i64 {b}, ptr %second\n  br label %done\n"
            );
        }
        let status = self.let_(format_args!("select i1 {overflows}, i32 -1, i32 {status}"));
        let status = format!("%v{status}");
        let body = self.text;
        let code = format!(
            "define internal i32 @{name}(ptr %symbols, ptr noalias %dims, ptr noalias %offsets, ptr noalias %sizes) {{\n\
             {body}  %second = getelementptr inbounds i64, ptr %sizes, i64 1\n  switch i32 {status}, label %done [{cases} ]\n\
             {blocks}done:\n  ret i32 {status}\n}}\n\
             declare {{ i64, i1 }} @llvm.sadd.with.overflow.i64(i64, i64)\n\
             declare {{ i64, i1 }} @llvm.smul.with.overflow.i64(i64, i64)\n\
             declare i64 @llvm.smin.i64(i64, i64)\n\
             declare i64 @llvm.smax.i64(i64, i64)\n"
        );
        (code, rules.into_iter().map(|rule| rule.text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness;

    fn symbols(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// Compiles the function and gives a closure that calls it: `(status, dims, offsets, sizes)`.
    fn compiled(what: &Quantities) -> impl Fn(&[i64]) -> (i32, Vec<i64>, Vec<i64>, [i64; 2]) + use<> {
        let text = function("shape", what).unwrap().0.replace("define internal", "define");
        let library = harness::load_ir(&text);
        let (dims, offsets) = (what.dims.len(), what.offsets.len());
        move |symbols| {
            let (mut d, mut o, mut s) = (vec![0; dims], vec![0; offsets], [0; 2]);
            let status = library.call_shape("shape", symbols, &mut d, &mut o, &mut s);
            (status, d, o, s)
        }
    }

    fn nothing<'a>(symbols: &'a [Arc<str>], zero: &'a Dim) -> Quantities<'a> {
        static NOBODY: BTreeMap<Atom, Origin> = BTreeMap::new();
        Quantities {
            makers: &NOBODY,
            symbols,
            dims: &[],
            offsets: &[],
            arena: zero,
            scratch: &[],
            requirements: &[],
            sizes: &[],
            counted: &[],
        }
    }

    #[test]
    fn agrees_with_the_evaluation_of_dims() {
        let (s, t) = (Dim::sym("S"), Dim::sym("T"));
        let c = |v: i64| Dim::from(v);
        let dims = [
            c(7),
            s.clone() * t.clone() * c(3) + s.clone() - c(5),
            (s.clone() - c(9)).floor_div(&c(4)),
            s.clone().floor_div(&t),
            s.minimum(&t),
            (s.clone() * s.clone()).maximum(&(t.clone() * c(2))),
            s.clone() * s.clone() * t.clone() + s.ceil_div(&c(16)) * c(64),
            -s.clone(),
        ];
        let names = symbols(&["S", "T"]);
        let run = compiled(&Quantities {
            dims: &dims,
            ..nothing(&names, &Dim::ZERO)
        });
        for (a, b) in [(1, 1), (3, 77), (8, 128), (512, 1), (100, 7)] {
            let expected: Vec<i64> = dims
                .iter()
                .map(|d| {
                    d.eval(&|sym| Some(if *sym == Sym::Named("S".into()) { a } else { b }))
                        .unwrap()
                })
                .collect();
            assert_eq!(run(&[a, b]), (0, expected, vec![], [0, 0]), "{a} {b}");
        }
        // A divisor of zero and an overflow.
        assert_eq!(run(&[3, 0]).0, 1);
        assert_eq!(run(&[1 << 40, 1 << 40]).0, -1);
    }

    #[test]
    fn shape_rules() {
        let (s, t) = (Dim::sym("S"), Dim::sym("T"));
        let names = symbols(&["S", "T"]);
        let both = [s.broadcast(&t).unwrap()];
        let run = compiled(&Quantities {
            dims: &both,
            ..nothing(&names, &Dim::ZERO)
        });
        assert_eq!(run(&[5, 1]).1, [5]);
        assert_eq!(run(&[1, 6]).1, [6]);
        assert_eq!(run(&[4, 4]), (0, vec![4], vec![], [0, 0]));
        assert_eq!(run(&[4, 5]), (1, vec![5], vec![], [4, 5]));

        let requirements = [Requirement {
            a: s.clone(),
            b: Dim::from(512i64),
            origin: Origin::new("/Gather"),
        }];
        let what = Quantities {
            requirements: &requirements,
            ..nothing(&names, &Dim::ZERO)
        };
        let run = compiled(&what);
        assert_eq!(run(&[512, 1]).0, 0);
        assert_eq!(run(&[513, 1]), (1, vec![], vec![], [513, 512]));
        let said = function("shape", &what).unwrap().1;
        assert_eq!(said, ["S <= 512 in node \"/Gather\""]);

        let extents = [(s.clone() - Dim::from(5i64), Origin::default())];
        let run = compiled(&Quantities {
            sizes: &extents,
            counted: &[],
            ..nothing(&names, &Dim::ZERO)
        });
        assert_eq!((run(&[5, 1]).0, run(&[4, 1]).0), (0, 1));
    }

    #[test]
    fn sizes_and_offsets() {
        let s = Dim::sym("S");
        let names = symbols(&["S"]);
        let arena = s.clone() * Dim::from(64i64);
        let scratch = [s.clone(), Dim::from(100i64), s.clone() * s.clone()];
        let offsets = [Dim::ZERO, s.clone() * Dim::from(32i64)];
        let what = Quantities {
            offsets: &offsets,
            scratch: &scratch,
            ..nothing(&names, &arena)
        };
        let run = compiled(&what);
        assert_eq!(run(&[3]), (0, vec![], vec![0, 96], [192, 100]));
        assert_eq!(run(&[20]), (0, vec![], vec![0, 640], [1280, 400]));
        assert_eq!(run(&[1 << 42]).0, -1, "too large");
    }

    #[test]
    fn what_fails_always_fails() {
        let huge = Dim::from(MOST_BYTES + 1);
        assert_eq!(compiled(&nothing(&[], &huge))(&[]).0, -1);
        let most = Dim::from(MOST_BYTES);
        assert_eq!(
            compiled(&nothing(&[], &most))(&[]),
            (0, vec![], vec![], [MOST_BYTES, 0])
        );
    }

    #[test]
    fn strange_symbols_are_reported() {
        let dims = [Dim::sym("Q")];
        let names = symbols(&["S"]);
        let what = Quantities {
            dims: &dims,
            ..nothing(&names, &Dim::ZERO)
        };
        assert_eq!(function("shape", &what), Err(UnknownSymbol("Q".to_owned())));
        let dims = [Dim::iter(1)];
        assert!(
            function(
                "shape",
                &Quantities {
                    dims: &dims,
                    ..nothing(&names, &Dim::ZERO)
                }
            )
            .is_err()
        );
    }
}
