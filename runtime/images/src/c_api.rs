//! The decoder as programs call it: an operator as `cameo.h` declares them, under a name of its own.
#![expect(unsafe_code, reason = "reads and writes the memory of the caller")]

use crate::{Format, decode, size};
use cameo_abi::{ATTRIBUTE_STRING, Attribute, OPERATOR_VERSION, Operator, OperatorArguments, OperatorTensor};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic;
use std::ptr;
use std::slice;
use std::sync::Once;

/// An operator that is constant data.
#[repr(transparent)]
pub struct BuiltIn(Operator);

// SAFETY: the name is constant, and there is nothing else that pointers lead to.
unsafe impl Sync for BuiltIn {}

/// Takes the bytes of a file, gives the pixels `[height, width, channels]`.
#[unsafe(no_mangle)]
pub static cameo_image_decoder: BuiltIn = BuiltIn(Operator {
    version: OPERATOR_VERSION,
    reserved: 0,
    name: c"ImageDecoder".as_ptr(),
    shape: Some(shape),
    compute: Some(compute),
    user: ptr::null_mut(),
});

/// # Safety
/// As `cameo.h` says of shape functions, with the elements of the operand.
unsafe extern "C" fn shape(_: *mut c_void, call: *const OperatorArguments) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        answer(call, |file, format, result| {
            let [height, width] = size(file)?;
            let extents = [height, width, format.channels()].map(|extent| extent as i64);
            // SAFETY: the result has three axes.
            slice::from_raw_parts_mut(result.shape, 3).copy_from_slice(&extents);
            Ok(())
        })
    }
}

/// # Safety
/// As `cameo.h` says of compute functions.
unsafe extern "C" fn compute(_: *mut c_void, call: *const OperatorArguments) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        answer(call, |file, format, result| {
            let pixels = decode(file, format)?;
            // SAFETY: the result has three axes.
            let planned = slice::from_raw_parts(result.shape, 3);
            if planned != [pixels.height, pixels.width, format.channels()].map(|extent| extent as i64) {
                return Err("it was written during the run".to_owned());
            }
            // SAFETY: the result is of the shape that was just compared.
            slice::from_raw_parts_mut(result.data.cast::<u8>(), pixels.bytes.len()).copy_from_slice(&pixels.bytes);
            Ok(())
        })
    }
}

/// Gives the file, the format and the result of a call to `work`, and says what went wrong.
///
/// # Safety
/// The call is one of an operator with an operand of one axis and a result of three, of bytes.
unsafe fn answer(
    call: *const OperatorArguments,
    work: impl FnOnce(&[u8], Format, &OperatorTensor) -> Result<(), String>,
) -> c_int {
    static QUIET: Once = Once::new();
    // What a decoder panics with is in the message. The hook is that of this object, which has a standard library of its own.
    QUIET.call_once(|| panic::set_hook(Box::new(|_| {})));
    // SAFETY: the caller's promise.
    let call = unsafe { &*call };
    // SAFETY: the caller's promise.
    let (file, result) = unsafe { (&*call.inputs, &*call.outputs) };
    let done = if file.data.is_null() {
        Err("its bytes are not there before the run".to_owned())
    } else {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice::from_raw_parts(file.data.cast::<u8>(), *file.shape as usize) };
        // SAFETY: the caller's promise.
        let format = unsafe { format(call) };
        format.and_then(|format| work(bytes, format, result))
    };
    match done {
        Ok(()) => 0,
        Err(why) => {
            // SAFETY: the caller's promise.
            unsafe { say(call, &format!("the image cannot be decoded: {why}")) };
            1
        }
    }
}

/// The attribute `pixel_format`.
///
/// # Safety
/// The call is one of an operator.
unsafe fn format(call: &OperatorArguments) -> Result<Format, String> {
    // SAFETY: the caller's promise.
    let attributes: &[Attribute] = match call.attribute_count {
        0 => &[],
        count => unsafe { slice::from_raw_parts(call.attributes, count) },
    };
    for attribute in attributes {
        // SAFETY: names are C strings.
        let name = unsafe { CStr::from_ptr(attribute.name) };
        if name == c"pixel_format" && attribute.kind == ATTRIBUTE_STRING {
            // SAFETY: so are texts.
            let text = unsafe { CStr::from_ptr(attribute.data.cast()) }.to_string_lossy();
            return Format::find(&text).ok_or_else(|| format!("there is no pixel format {text}"));
        }
    }
    Ok(Format::Rgb)
}

/// Writes a message, as much of it as there is room for.
///
/// # Safety
/// The call is one of an operator.
unsafe fn say(call: &OperatorArguments, text: &str) {
    let room = call.message_bytes.saturating_sub(1);
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if call.message_bytes > 0 {
        // SAFETY: there is room for that and a 0.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), call.message, end);
            *call.message.add(end) = 0;
        }
    }
}
