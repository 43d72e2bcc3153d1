//! Runs on the processor's cores: threads of the context, or the caller's.

use crate::Error;
use crate::pool::Pool;
use cameo_core::{Parallel, Run};

/// Whose threads do the steps.
pub enum Executor {
    Own(Pool),
    Caller(Box<dyn Parallel>),
}

impl Executor {
    /// Does all steps and returns when they are complete.
    ///
    /// # Safety
    /// No step has more parts than the pool has threads.
    #[expect(unsafe_code, reason = "passes the caller's promise on")]
    pub unsafe fn run(&mut self, run: &mut Run<'_>) -> Result<(), Error> {
        match self {
            // SAFETY: the caller's promise.
            Self::Own(pool) => unsafe { pool.run(run) },
            Self::Caller(pool) => run.on(&**pool)?,
        }
        Ok(())
    }
}
