//! The processor's floating-point control register: saved before kernels run and restored after.
#![expect(unsafe_code, reason = "control registers have no safe interface")]

/// While it lives, this thread computes with denormals flushed to zero, rounding to nearest and no traps; dropping it
/// restores the state that it found, exception flags included.
pub struct FlushDenormals {
    saved: u64,
    /// The register belongs to the thread.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Saves this thread's state and sets the one of a run.
    #[must_use]
    pub fn new() -> Self {
        let saved = control::read();
        control::write(control::FLUSHING);
        Self {
            saved,
            _not_send: core::marker::PhantomData,
        }
    }
}

impl Default for FlushDenormals {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        control::write(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
mod control {
    use core::arch::asm;

    /// All exceptions masked (the power-on value 0x1F80), flush to zero (bit 15), denormals are zero (bit 6).
    pub const FLUSHING: u64 = 0x1F80 | 1 << 15 | 1 << 6;

    pub fn read() -> u64 {
        let mut value = 0u32;
        // SAFETY: stores the 32-bit register into a variable of that size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        u64::from(value)
    }

    pub fn write(value: u64) {
        let value = value as u32;
        // SAFETY: `value` is a value that was read before or `FLUSHING`, both without reserved bits.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    use core::arch::asm;

    /// Flush to zero (bit 24); rounding to nearest and no traps are zero bits.
    pub const FLUSHING: u64 = 1 << 24;

    pub fn read() -> u64 {
        let value;
        // SAFETY: reads the control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    pub fn write(value: u64) {
        // SAFETY: `value` is a value that was read before or `FLUSHING`.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }
}

/// Other processors keep the state that they have.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub const FLUSHING: u64 = 0;

    pub fn read() -> u64 {
        0
    }

    pub fn write(_: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn denormals_are_flushed_only_while_the_guard_lives() {
        let halve = || core::hint::black_box(f32::MIN_POSITIVE) / core::hint::black_box(2.0);
        assert!(halve() > 0.0);
        // Exception flags included, of which the line above raised some.
        let before = control::read();
        let guard = FlushDenormals::new();
        assert!(halve() == 0.0);
        drop(guard);
        assert_eq!(control::read(), before);
        assert!(halve() > 0.0);
    }
}
