//! Secrets that nobody can guess: whoever shows one has read it.

use anyhow::Result;

use crate::sys::sys;

pub(crate) fn new() -> Result<String> {
    let mut bytes = [0_u8; 16];
    sys!(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
