//! Memory, control flow, folding, lanes and calls.

use super::super::*;
use super::CPUS;
use crate::harness::{ARGS, compile, kernel};

#[test]
fn memory_masks_gathers() {
    for cpu in CPUS {
        let library = compile(cpu, |module| {
            // Masked loads and stores: 16 lanes, of which n take part, negated.
            module.kernel("masked", &ARGS, None, Linkage::Export, |b, args| {
                let mask = b.mask_first(args[3], 16);
                let x = b.load_masked(args[0], Elem::F32, b.i64(0), mask);
                b.store_masked(args[2], b.i64(0), b.neg(x), mask);
                None
            });
            for lanes in [8, 32, 64] {
                module.kernel(&format!("mask{lanes}"), &ARGS, None, Linkage::Export, |b, args| {
                    b.store(args[2], b.i64(0), b.mask_first(args[3], lanes));
                    None
                });
            }
            // out[i] = a[b[i]] for the first n lanes, both index widths; then scattered back in reverse.
            module.kernel("gather", &ARGS, None, Linkage::Export, |b, args| {
                let mask = b.mask_first(args[3], 16);
                let idx = b.load(args[1], Elem::I64, b.i64(0), 16);
                let wide = b.gather(args[0], Elem::F32, idx, mask);
                let narrow = b.gather(args[0], Elem::F32, b.resize_s(idx, Elem::I32), mask);
                b.store(args[2], b.i64(0), wide);
                b.store(args[2], b.i64(16), narrow);
                let back = b.sub(b.i64(47), b.iota(Elem::I64, 16));
                b.scatter(args[2], back, wide, mask);
                None
            });
            module.kernel("stack", &ARGS, None, Linkage::Export, |b, args| {
                let slot = b.alloca(Elem::I64, 16);
                b.for_each(b.i64(0), b.i64(16), b.i64(1), |b, i| b.store(slot, i, b.mul(i, i)));
                b.prefetch(args[0], Elem::I64, b.i64(1 << 40));
                b.copy(args[2], slot, b.i64(128));
                b.clear(b.gep(args[2], Elem::I64, b.i64(8)), b.mul(args[3], b.i64(8)));
                b.when(b.is_null(b.null()), |b| b.store(args[2], b.i64(15), b.i64(-1)));
                None
            });
            module.kernel("bools", &ARGS, None, Linkage::Export, |b, args| {
                let x = b.load(args[0], Elem::I1, b.i64(0), 16);
                b.store(args[2], b.i64(0), b.not(x));
                let scalar = b.load(args[0], Elem::I1, b.i64(1), 0);
                b.store(args[2], b.i64(16), scalar);
                let masked = b.load_masked(args[0], Elem::I1, b.i64(0), b.mask_first(args[3], 16));
                b.store_masked(args[2], b.i64(17), masked, b.full_mask(16));
                None
            });
        });
        let a: Vec<f32> = (0..64).map(|i| i as f32 + 1.0).collect();
        for n in [-3_i64, 0, 1, 7, 15, 16, 17, 1 << 40] {
            let active = n.clamp(0, 16) as usize;
            let mut out = vec![100.0_f32; 16];
            library.call("masked", &a, &a, &mut out, n as usize);
            for (i, &y) in out.iter().enumerate() {
                assert_eq!(y, if i < active { -a[i] } else { 100.0 }, "{cpu} n {n} lane {i}");
            }
            for lanes in [8, 32, 64] {
                let mut out = vec![9_u8; lanes];
                library.call(&format!("mask{lanes}"), &a, &a, &mut out, n as usize);
                let active = n.clamp(0, lanes as i64) as usize;
                assert!(
                    out.iter().enumerate().all(|(i, &bit)| bit == u8::from(i < active)),
                    "{cpu} {lanes} {n}"
                );
            }
        }
        let idx: Vec<i64> = (0..16).map(|i| i * 37 % 64).collect();
        let mut out = vec![-1.0_f32; 48];
        library.call("gather", &a, &idx, &mut out, 10);
        for i in 0..16 {
            let want = if i < 10 { a[idx[i] as usize] } else { 0.0 };
            assert_eq!((out[i], out[16 + i]), (want, want), "{cpu} lane {i}");
            assert_eq!(
                out[47 - i],
                if i < 10 { want } else { -1.0 },
                "{cpu} scattered lane {i}"
            );
        }
        let mut out = vec![7_i64; 17];
        library.call("stack", &a, &a, &mut out, 7);
        let want: Vec<i64> = (0..17)
            .map(|i| [i * i, 0, -1, 7][usize::from(i >= 8) + usize::from(i >= 15) + usize::from(i >= 16)])
            .collect();
        assert_eq!(out, want, "{cpu}");
        let bytes: Vec<u8> = (0..16).map(|i| [0, 1, 7][i % 3]).collect();
        let mut out = vec![9_u8; 33];
        library.call("bools", &bytes, &bytes, &mut out, 5);
        for i in 0..16 {
            assert_eq!(out[i], u8::from(bytes[i] == 0), "{cpu}");
            assert_eq!(out[17 + i], u8::from(i < 5 && bytes[i] != 0), "{cpu}");
        }
        assert_eq!(out[16], 1);
    }
}

#[test]
fn control_flow() {
    let library = compile("native", |module| {
        module.kernel("double", &[Ty::I64], Some(Ty::I64), Linkage::Internal, |b, args| {
            Some(b.add(args[0], args[0]))
        });
        module.constant("table", &[3, 1, 4, 1, 5], 64, Linkage::Internal);
        module.kernel("kernel", &ARGS, None, Linkage::Export, |b, args| {
            let n = args[3];
            let put = |b: &Builder, at: i64, value: Val| b.store(args[2], b.i64(at), value);
            // Σ i and Σ i² for i in (1..n).step_by(2).
            let sums = b.for_(b.i64(1), n, b.i64(2), &[b.i64(0), b.i64(0)], |b, i, sums| {
                vec![b.add(sums[0], i), b.add(sums[1], b.mul(i, i))]
            });
            put(b, 0, sums[0]);
            put(b, 1, sums[1]);
            // Collatz steps from n.
            let state = b.while_(
                &[n, b.i64(0)],
                |b, state| (b.cmp(Cmp::Ne, state[0], b.i64(1)), state.to_vec()),
                |b, state| {
                    let odd = b.cmp(Cmp::Ne, b.and(state[0], b.i64(1)), b.i64(0));
                    let next = b.if_(
                        odd,
                        &[Ty::I64],
                        |b| vec![b.add(b.mul(state[0], b.i64(3)), b.i64(1))],
                        |b| vec![b.shr_u(state[0], b.i64(1))],
                    );
                    vec![next[0], b.add(state[1], b.i64(1))]
                },
            );
            put(b, 2, state[1]);
            put(b, 3, b.call("double", &[n], Some(Ty::I64)).unwrap());
            put(
                b,
                4,
                b.call_ptr(b.address("double"), &[b.i64(21)], Some(Ty::I64)).unwrap(),
            );
            put(
                b,
                5,
                b.resize_u(b.load(b.address("table"), Elem::I8, b.i64(4), 0), Elem::I64),
            );
            // Loops and branches that constants decide.
            let once = b.for_(b.i64(5), b.i64(7), b.i64(4), &[b.i64(1)], |b, i, carried| {
                vec![b.add(carried[0], i)]
            });
            assert_eq!(b.as_int(once[0]), Some(6), "one turn is rendered without a loop");
            let never = b.for_(b.i64(7), b.i64(7), b.i64(1), &once, |_, _, _| panic!("no turn"));
            assert_eq!(never, once);
            let chosen = b.if_(b.bool(true), &[Ty::I64], |b| vec![b.i64(8)], |_| panic!("never"));
            put(b, 6, b.add(chosen[0], once[0]));
            b.for_each(b.i64(0), n, b.i64(1), |b, i| {
                b.when(b.cmp(Cmp::Eq, i, b.i64(3)), |b| put(b, 7, i));
            });
            None
        });
    });
    let run = |n: usize| {
        let mut out = vec![-1_i64; 8];
        library.call("kernel", &[0_u8; 0], &[0_u8; 0], &mut out, n);
        out
    };
    assert_eq!(run(27), [169, 13 * (4 * 169 - 1) / 3, 111, 54, 42, 5, 14, 3]);
    assert_eq!(run(1), [0, 0, 0, 2, 42, 5, 14, -1]);
}

#[test]
fn constants_are_folded() {
    let context = Context::new();
    let mut module = Module::new(&context);
    module.kernel("k", &[Ty::I64], None, Linkage::Export, |b, args| {
        let x = args[0];
        let int = |value| b.i64(value);
        for same in [
            b.add(x, int(0)),
            b.add(int(0), x),
            b.sub(x, int(0)),
            b.mul(int(1), x),
            b.div(x, int(1)),
            b.and(x, int(-1)),
            b.shl(x, int(0)),
            b.select(b.bool(true), x, int(4)),
            b.div_floor(x, int(1)),
        ] {
            assert_eq!(same, x);
        }
        for (value, want) in [
            (b.mul(x, int(0)), 0),
            (b.mul(int(6), int(7)), 42),
            (b.sub(int(3), int(5)), -2),
            (b.div(int(-7), int(2)), -3),
            (b.div_floor(int(-7), int(2)), -4),
            (b.div_floor(int(-7), int(3)), -3),
            (b.div_ceil(int(7), int(2)), 4),
            (b.div_ceil(int(-7), int(2)), -3),
            (b.rem_floor(int(-7), int(5)), 3),
            (b.min(int(2), int(-3)), -3),
            (b.max_u(int(2), int(-3)), -3),
            (b.shr_u(int(-1), int(60)), 15),
            (b.resize_u(b.int(Ty::I8, -1), Elem::I64), 255),
            (b.resize_s(b.int(Ty::I8, 255), Elem::I64), -1),
            (b.resize_u(b.cmp(Cmp::Lt, int(1), int(2)), Elem::I64), 1),
            (b.resize_u(b.cmp_u(Cmp::Lt, int(1), int(-2)), Elem::I64), 1),
        ] {
            assert_eq!(b.as_int(value), Some(want));
        }
        assert_eq!(b.as_int(b.int(Ty::I8, 300)), Some(44));
        assert_eq!(b.i64(5), b.i64(5), "equal constants are one value");
        let splat = b.splat(int(3), 8);
        assert_eq!(b.as_int(b.add(splat, int(4))), Some(7));
        None
    });
    let text = crate::lower::text(&module);
    assert!(!text.contains("arith.add") && !text.contains("arith.mul"), "{text}");
}

#[test]
fn lanes() {
    for cpu in CPUS {
        let library = kernel(cpu, |b, input, _, out, n| {
            let x = b.load(input, Elem::I32, b.i64(0), 16);
            let y = b.load(input, Elem::I32, b.i64(16), 16);
            let mut at = 0;
            let mut put = |value: Val| {
                b.store(out, b.i64(at), value);
                at += i64::from(value.lanes().max(1));
            };
            put(b.extract(x, b.i64(3)));
            put(b.extract(x, n));
            put(b.insert(x, n, b.int(Ty::I32, -5)));
            put(b.shuffle(x, y, &[0, 31, 16, 1]));
            put(b.slice(x, 4, 8));
            put(b.concat(b.slice(x, 0, 4), b.slice(y, 12, 4)));
            put(b.splat(b.extract(y, b.i64(0)), 4));
            put(b.iota(Elem::I32, 4));
            let positive = b.cmp(Cmp::Gt, x, b.int(Ty::I32, -100));
            put(b.convert(b.any(b.not(positive)), Elem::I32, false));
            put(b.convert(b.all(positive), Elem::I32, false));
        });
        let data: Vec<i32> = (0..32).map(|i| i * 10).collect();
        let mut out = vec![0_i32; 50];
        library.run(&data, &data, &mut out, 9);
        let mut want = vec![30, 90];
        want.extend((0..16).map(|i| if i == 9 { -5 } else { i * 10 }));
        want.extend([0, 310, 160, 10]);
        want.extend((4..12).map(|i| i * 10));
        want.extend([0, 10, 20, 30, 280, 290, 300, 310]);
        want.extend([160; 4]);
        want.extend([0, 1, 2, 3]);
        want.extend([0, 1]);
        want.resize(50, 0);
        assert_eq!(out, want, "{cpu}");
    }
}

#[test]
fn reductions() {
    use Reduce::{Add, And, Max, MaxNum, Min, MinNum, Mul, Or, Xor};
    for cpu in CPUS {
        let library = compile(cpu, |module| {
            module.kernel("floats", &ARGS, None, Linkage::Export, |b, args| {
                let x = b.load(args[0], Elem::F32, b.i64(0), 16);
                for (at, kind) in [Add, Mul, Min, Max, MinNum, MaxNum].into_iter().enumerate() {
                    b.store(args[2], b.i64(at as i64), b.reduce(kind, x));
                }
                None
            });
            module.kernel("ints", &ARGS, None, Linkage::Export, |b, args| {
                let x = b.load(args[0], Elem::I32, b.i64(0), 16);
                for (at, kind) in [Add, Mul, Min, Max, MinNum, MaxNum, And, Or, Xor]
                    .into_iter()
                    .enumerate()
                {
                    b.store(args[2], b.i64(at as i64), b.reduce(kind, x));
                }
                None
            });
        });
        let mut floats: Vec<f32> = (0..16)
            .map(|i| 2_f32.powi(i % 3 - 1) * if i == 5 { -1.0 } else { 1.0 })
            .collect();
        let mut out = [0.0_f32; 6];
        library.call("floats", &floats, &floats, &mut out, 0);
        assert_eq!(
            out,
            [floats.iter().sum(), floats.iter().product(), -2.0, 2.0, -2.0, 2.0],
            "{cpu}"
        );
        floats[3] = f32::NAN;
        library.call("floats", &floats, &floats, &mut out, 0);
        assert!(out[2].is_nan() && out[3].is_nan(), "{cpu}");
        assert_eq!(out[4..], [-2.0, 2.0], "{cpu}");

        let ints: Vec<i32> = (0..16).map(|i| i * 7 - 30).collect();
        let mut out = [0_i32; 9];
        library.call("ints", &ints, &ints, &mut out, 0);
        let fold = |f: fn(i32, i32) -> i32| ints.iter().copied().reduce(f).unwrap();
        let want = [
            fold(i32::wrapping_add),
            fold(i32::wrapping_mul),
            -30,
            75,
            fold(|a, b| (a as u32).min(b as u32) as i32),
            fold(|a, b| (a as u32).max(b as u32) as i32),
            fold(|a, b| a & b),
            fold(|a, b| a | b),
            fold(|a, b| a ^ b),
        ];
        assert_eq!(out, want, "{cpu}");
    }
}

#[test]
fn transposition() {
    for cpu in CPUS {
        for size in [2_u32, 4, 8, 16, 32] {
            let library = kernel(cpu, |b, input, _, out, _| {
                let at = |row: u32| b.i64(i64::from(row * size));
                let rows: Vec<Val> = (0..size).map(|row| b.load(input, Elem::F32, at(row), size)).collect();
                for (row, value) in b.transpose(&rows).into_iter().enumerate() {
                    b.store(out, at(row as u32), value);
                }
            });
            let size = size as usize;
            let data: Vec<f32> = (0..size * size).map(|i| i as f32).collect();
            let mut out = vec![0.0_f32; size * size];
            library.run(&data, &data, &mut out, 0);
            for (i, &y) in out.iter().enumerate() {
                assert_eq!(y, data[i % size * size + i / size], "{cpu} {size} at {i}");
            }
        }
    }
}

#[test]
fn intrinsics_and_stranger_values() {
    let library = kernel("native", |b, input, _, out, _| {
        let x = b.load(input, Elem::I64, b.i64(0), 0);
        b.store(
            out,
            b.i64(0),
            b.intrinsic("llvm.ctpop.i64", &[x], Some(Ty::I64)).unwrap(),
        );
    });
    let mut out = [0_i64];
    library.run(&[0b1011_i64], &[0_u8; 0], &mut out, 0);
    assert_eq!(out, [3]);

    let context = Context::new();
    let mut module = Module::new(&context);
    let mut leaked = None;
    module.kernel("first", &[Ty::I64], None, Linkage::Export, |_, args| {
        leaked = Some(args[0]);
        None
    });
    let misuse = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        module.kernel("second", &[Ty::I64], None, Linkage::Export, |b, args| {
            b.add(args[0], leaked.unwrap());
            None
        });
    }));
    assert!(misuse.is_err(), "a value of another kernel is refused");
}
