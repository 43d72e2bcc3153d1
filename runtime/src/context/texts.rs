//! Strings of inputs and outputs: handles to kernels, pointers and sizes to the caller.
#![expect(unsafe_code, reason = "reads and writes memory that the caller has bound")]

use super::{Context, Output, State};
use crate::Error;
use crate::texts::Texts;
use cameo_core::Text;

impl Context {
    /// Enters the strings of the inputs that are bound, which are handles to kernels, and forgets those of the run before.
    pub(super) fn read_texts(&mut self) -> Result<(), Error> {
        if !self.has_texts {
            return Ok(());
        }
        self.ran = false;
        let (tables, texts) = (self.model.description().tables(), self.texts.get_mut());
        texts.clear();
        let inputs = self.inputs.iter_mut().enumerate();
        for (index, input) in inputs.filter(|(_, input)| input.is_text && !input.data.is_null()) {
            let name = tables.input(index).name;
            let count = input.bytes / size_of::<cameo_abi::Text>();
            if input.handles.len() != count {
                let bytes = count * size_of::<u64>();
                input.handles.clear();
                input
                    .handles
                    .try_reserve_exact(count)
                    .map_err(|_| Error::OutOfMemory { bytes })?;
                input.handles.resize(count, 0);
                self.state = self.state.min(State::Planned);
            }
            // SAFETY: bound memory is as long as the binding said.
            let given = unsafe { std::slice::from_raw_parts(input.data.cast::<cameo_abi::Text>(), count) };
            for (at, (text, handle)) in given.iter().zip(&mut input.handles).enumerate() {
                let entered = if text.size == 0 {
                    Ok(0)
                } else if text.data.is_null() {
                    Err("is a null pointer")
                } else {
                    // SAFETY: the caller's promise.
                    let bytes = unsafe { std::slice::from_raw_parts(text.data.cast(), text.size) };
                    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8");
                    text.and_then(|text| texts.enter(text))
                };
                *handle = entered.map_err(|reason| Error::InvalidText { name, at, reason })?;
            }
        }
        Ok(())
    }

    /// Puts the strings that were written where the caller finds them.
    pub(super) fn tell_texts(&mut self) -> Result<(), Error> {
        let texts = self.texts.get_mut();
        let mut outputs = self.outputs.iter_mut().filter(|output| output.is_text);
        outputs.try_for_each(|output| output.tell_texts(texts))
    }
}

impl Output {
    /// Makes room for the handles that a run may write; whether they moved.
    pub(super) fn grow_handles(&mut self) -> Result<bool, Error> {
        let count = if self.is_text {
            self.most / size_of::<Text<'_>>()
        } else {
            0
        };
        let more = count.saturating_sub(self.handles.len());
        let bytes = self.most;
        self.handles
            .try_reserve(more)
            .map_err(|_| Error::OutOfMemory { bytes })?;
        self.handles.resize(self.handles.len() + more, 0);
        Ok(more > 0)
    }

    /// Puts the strings that were written where the caller finds them.
    fn tell_texts(&mut self, texts: &Texts) -> Result<(), Error> {
        // `place_outputs` or `replan` saw to it that the memory has `bytes` bytes.
        let to = self.data().cast::<Text<'_>>();
        for (at, handle) in self.handles.iter().take(self.bytes / size_of::<Text<'_>>()).enumerate() {
            let text = texts.get(*handle);
            let text = text.ok_or(Error::InvalidModel("a string that was computed is not known"))?;
            // SAFETY: within these bytes, which are aligned for it.
            unsafe { to.add(at).write(Text::new(text)) };
        }
        Ok(())
    }
}
