//! Logs, for whoever looks for a defect. What users must know is said by `cli::output`, what must not be lost is in the
//! audit; neither goes through here.

use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, such as `defenseclaw=debug`.
const FILTER: &str = "DEFENSECLAW_LOG";

/// Logs to stderr what the filter lets through; warnings without one.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call, as in tests, leaves the first one's logger in place.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init().ok();
}
