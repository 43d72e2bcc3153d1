//! Operators of the caller: their shapes, their runs, and what is wrong with them.
#![expect(unsafe_code, reason = "operators are C functions")]

mod fake;

use cameo_abi::{ATTRIBUTE_INT, ModelDesc, OPERATOR_VERSION, Operator, OperatorArguments};
use cameo_runtime::{Context, ContextOptions, Error, Model, OpenOptions, Status, TensorView};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an operator does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Says so for operands of 7 elements.
    Shape,
    /// Says so where the first element is negative.
    Compute,
    /// Says nothing.
    Silent,
    /// Fills its message.
    Endless,
    /// Gives an extent that is none.
    Negative,
    /// Gives the result of one element two.
    Long,
}

/// What an operator's `user` points to.
struct User {
    fault: Fault,
    computed: AtomicUsize,
    nodes: Mutex<Vec<String>>,
}

impl User {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            computed: AtomicUsize::new(0),
            nodes: Mutex::default(),
        }
    }

    fn operator(&self) -> Operator {
        Operator {
            version: OPERATOR_VERSION,
            reserved: 0,
            name: c"a::Half".as_ptr(),
            shape: Some(half_shape),
            compute: Some(half),
            user: std::ptr::from_ref(self).cast_mut().cast(),
        }
    }
}

unsafe fn say(call: &OperatorArguments, text: &CStr) -> c_int {
    unsafe {
        call.message
            .copy_from_nonoverlapping(text.as_ptr(), text.count_bytes() + 1);
    };
    1
}

unsafe extern "C" fn half_shape(user: *mut c_void, call: *const OperatorArguments) -> c_int {
    unsafe {
        let (user, call) = (&*user.cast::<User>(), &*call);
        let node = CStr::from_ptr(call.node).to_str().unwrap().to_owned();
        user.nodes.lock().unwrap().push(node);
        let [input, output] = [*call.inputs, *call.outputs];
        assert!(input.data.is_null() && output.data.is_null() && call.message_bytes > 100);
        let attribute = *call.attributes;
        assert_eq!(
            (call.attribute_count, attribute.kind, attribute.count),
            (1, ATTRIBUTE_INT, 1)
        );
        assert_eq!(CStr::from_ptr(attribute.name), c"by");
        let n = *input.shape;
        if user.fault == Fault::Shape && n == 7 {
            return say(call, c"7 is not for me");
        }
        *output.shape = if user.fault == Fault::Negative {
            -1
        } else {
            n / *attribute.data.cast::<i64>()
        };
        if user.fault == Fault::Long && call.output_count == 2 {
            *(*call.outputs.add(1)).shape = 2;
        }
        0
    }
}

unsafe extern "C" fn half(user: *mut c_void, call: *const OperatorArguments) -> c_int {
    unsafe {
        let (user, call) = (&*user.cast::<User>(), &*call);
        user.computed.fetch_add(1, Ordering::Relaxed);
        let [input, output] = [*call.inputs, *call.outputs];
        let (x, y) = (input.data.cast::<f32>(), output.data.cast::<f32>());
        assert_eq!((input.dtype, input.rank, output.dtype, output.rank), (1, 1, 1, 1));
        if *input.shape > 0 && *x < 0.0 {
            match user.fault {
                Fault::Compute => return say(call, c"a negative number"),
                Fault::Silent => return -3,
                Fault::Endless => {
                    (0..call.message_bytes).for_each(|i| *call.message.add(i) = b'x' as c_char);
                    return 1;
                }
                _ => {}
            }
        }
        for i in 0..*output.shape as usize {
            *y.add(i) = *x.add(2 * i);
        }
        if call.output_count == 2 {
            assert_eq!((call.input_count, (*call.inputs.add(1)).dtype), (2, 0));
            let seen = *call.outputs.add(1);
            assert_eq!((seen.dtype, *seen.shape), (7, 1));
            *seen.data.cast::<i64>() = *input.shape;
        }
        0
    }
}

fn open(operators: &[Operator]) -> Result<Model, Error> {
    let desc: &'static ModelDesc = Box::leak(Box::new(fake::custom_model()));
    let options = OpenOptions { level: None, operators };
    // SAFETY: the descriptor and the operators keep their contracts.
    unsafe { Model::open_with(desc, None, &options) }
}

fn context(user: &User, threads: usize) -> Context {
    let model = open(&[user.operator()]).unwrap();
    let options = ContextOptions {
        threads,
        ..ContextOptions::default()
    };
    Context::new(&model, options).unwrap()
}

fn run(context: &mut Context, x: &[f32]) -> Result<(Vec<f32>, i64), Error> {
    context.run_on(&[TensorView::new(x, &[x.len() as i64])])?;
    let y = context.output(0)?.elements::<f32>().unwrap().to_vec();
    Ok((y, context.output(1)?.elements::<i64>().unwrap()[0]))
}

#[test]
fn each_gives_shapes_to_the_next() {
    for threads in [1, 3] {
        let user = User::new(Fault::None);
        let mut context = context(&user, threads);
        for count in [9, 40, 3, 0, 8, 8] {
            let x: Vec<f32> = (0..count).map(|i| i as f32 - 1.0).collect();
            let (y, seen) = run(&mut context, &x).unwrap();
            let want: Vec<f32> = (0..count / 2 / 2).map(|i| (4 * i) as f32 - 1.0).collect();
            assert_eq!((y, seen), (want, count as i64 / 2), "{count}");
        }
        // Twice per shape, and twice per run.
        assert_eq!(user.nodes.lock().unwrap().len(), 10);
        assert_eq!(user.nodes.lock().unwrap()[..2], ["one", "two"]);
        assert_eq!(user.computed.load(Ordering::Relaxed), 12);
    }
}

#[test]
fn what_a_model_needs_is_known_before() {
    let description = fake::description(fake::custom_model());
    assert_eq!(description.operators(), ["a::Half"]);
    assert_eq!(*description.bind_symbols(&[&[8]]).unwrap(), [8, 0, 0]);
}

#[test]
fn operators_that_do_not_fit_are_refused_at_once() {
    let user = User::new(Fault::None);
    let good = user.operator();
    let other = Operator {
        name: c"a::Halves".as_ptr(),
        ..good
    };
    let nameless = Operator {
        name: std::ptr::null(),
        ..good
    };
    assert!(open(&[other, nameless, good]).is_ok());
    let cases = [
        (vec![], "is not supplied"),
        (vec![other, nameless], "is not supplied"),
        (vec![Operator { version: 2, ..good }], "another version of cameo.h"),
        (vec![Operator { shape: None, ..good }], "without a shape function"),
        (vec![Operator { compute: None, ..good }], "without a compute function"),
    ];
    for (operators, part) in cases {
        let error = open(&operators).err().unwrap();
        assert_eq!(error.status(), Status::OperatorMissing);
        let said = error.to_string();
        assert!(
            said.starts_with("operator a::Half, which node \"one\" needs, ") && said.contains(part),
            "{said}"
        );
    }
}

#[test]
fn failures_are_errors_of_the_run() {
    let cases: [(Fault, &[f32], &str); 6] = [
        (
            Fault::Shape,
            &[1.0; 7],
            "operator a::Half failed at node \"one\": 7 is not for me",
        ),
        (
            Fault::Shape,
            &[1.0; 14],
            "operator a::Half failed at node \"two\": 7 is not for me",
        ),
        (
            Fault::Compute,
            &[-1.0; 8],
            "operator a::Half failed at node \"one\": a negative number",
        ),
        (
            Fault::Silent,
            &[-1.0; 8],
            "operator a::Half failed at node \"one\": it did not say why",
        ),
        (
            Fault::Negative,
            &[1.0; 8],
            "operator a::Half at node \"one\" says that axis 0 of result 0 is -1, which is no extent",
        ),
        (
            Fault::Long,
            &[1.0; 8],
            "operator a::Half at node \"two\" says that axis 0 of result 1 is 2, the model says 1",
        ),
    ];
    for (fault, x, said) in cases {
        let user = User::new(fault);
        let mut context = context(&user, 1);
        for _ in 0..2 {
            let error = run(&mut context, x).unwrap_err();
            assert_eq!(error.status(), Status::OperatorFailed);
            assert_eq!(error.to_string(), said);
            // Nothing is called with what one that failed has left.
            assert!(user.computed.swap(0, Ordering::Relaxed) <= 1);
        }
        if fault != Fault::Negative && fault != Fault::Long {
            assert_eq!(run(&mut context, &[1.0; 4]).unwrap(), (vec![1.0], 2));
        }
    }
    let user = User::new(Fault::Endless);
    let said = run(&mut context(&user, 1), &[-1.0; 8]).unwrap_err().to_string();
    assert!(said.ends_with("xxx") && said.len() < 600, "{said}");
}

#[test]
fn rules_hold_for_what_operators_say() {
    let user = User::new(Fault::None);
    let mut context = context(&user, 1);
    let broken = Error::ShapeRule {
        rule: "m <= 1000 in node \"/half/again\"",
        sides: Some([1001, 1000]),
    };
    assert_eq!(run(&mut context, &vec![1.0; 4004]).unwrap_err(), broken);
    assert_eq!(run(&mut context, &vec![1.0; 4000]).unwrap().1, 2000);
}
