//! The audit as a file: what is written is read back, what is changed is named, what fails is said and counted.
//! SQLite is the real one; nothing is mocked.
#![cfg(test)]

mod records;
mod store_cases;
