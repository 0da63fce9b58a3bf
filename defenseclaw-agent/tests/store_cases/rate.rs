//! A measurement, not a test: rows per second through the writer. Run with `--release --ignored --nocapture`.

use std::time::Instant;

use defenseclaw::store::{Writer, verify};

use super::Place;
use crate::records::{self, SESSION};

#[test]
#[ignore = "a measurement"]
fn rows_per_second() {
    const BATCHES: u64 = 2000;
    const ROWS: u64 = 512;
    let place = Place::new();
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    let mut batches: Vec<_> = (0..BATCHES)
        .map(|batch| (0..ROWS).map(|row| records::opened(SESSION, batch * ROWS + row)).collect::<Vec<_>>())
        .collect();
    let begin = Instant::now();
    for batch in batches.drain(..) {
        writer.append(batch).unwrap();
    }
    let stats = writer.close().unwrap();
    let took = begin.elapsed();
    let size = std::fs::metadata(place.db()).unwrap().len();
    println!(
        "{} rows in {took:.2?}: {} rows/s, {} commits, {} bytes/row",
        stats.rows,
        u128::from(stats.rows) * 1000 / took.as_millis(),
        stats.commits,
        size / stats.rows
    );
    let begin = Instant::now();
    assert_eq!(verify(&place.db(), None).unwrap().first_break, None);
    println!("verified in {:.2?}", begin.elapsed());
}
