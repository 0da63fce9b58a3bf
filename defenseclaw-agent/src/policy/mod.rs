//! Policy: what may be done. Reads YAML text that `config` or `cli` hands over, says every mistake at once, and answers.
//! Pure: no files, no clock, no kernel.

pub mod image;
