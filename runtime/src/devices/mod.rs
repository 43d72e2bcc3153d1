//! What executes steps. One file per kind of device.

pub mod cpu;
