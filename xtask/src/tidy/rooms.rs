//! The import table of the agent: which room may name which other. Changing it is changing the architecture.

/// A room and what it may import.
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) imports: &'static [&'static str],
    /// No files, sockets, clock or kernel; the same input always gives the same output.
    pub(super) pure: bool,
}

/// Every room.
pub(super) const ROOMS: [Room; 20] = [
    Room { name: "model", imports: &[], pure: true },
    Room { name: "tree", imports: &["model"], pure: true },
    Room { name: "policy", imports: &["model"], pure: true },
    Room { name: "correlate", imports: &["model", "tree"], pure: true },
    Room { name: "approvals", imports: &["model"], pure: true },
    Room { name: "pipeline", imports: &["model", "tree", "policy", "correlate", "approvals"], pure: true },
    Room { name: "report", imports: &["model", "tree"], pure: true },
    Room { name: "connectors", imports: &["model"], pure: true },
    Room { name: "sensor", imports: &["model"], pure: false },
    Room { name: "enforce", imports: &["model", "policy"], pure: false },
    Room { name: "launcher", imports: &["model", "policy"], pure: false },
    Room { name: "resolver", imports: &["model", "policy"], pure: false },
    Room { name: "installer", imports: &["model", "connectors"], pure: false },
    Room { name: "api", imports: &["model"], pure: false },
    Room { name: "hook", imports: &["model", "connectors"], pure: false },
    Room { name: "store", imports: &["model"], pure: false },
    Room { name: "telemetry", imports: &["model"], pure: false },
    Room { name: "config", imports: &["model", "policy"], pure: false },
    Room {
        name: "cli",
        imports: &[
            "model",
            "tree",
            "policy",
            "pipeline",
            "report",
            "connectors",
            "installer",
            "store",
            "telemetry",
            "config",
            "hook",
            "runtime",
        ],
        pure: false,
    },
    Room {
        name: "runtime",
        imports: &[
            "model",
            "tree",
            "policy",
            "pipeline",
            "report",
            "connectors",
            "installer",
            "sensor",
            "enforce",
            "launcher",
            "resolver",
            "store",
            "telemetry",
            "config",
            "api",
            "hook",
        ],
        pure: false,
    },
];

/// The rooms that speak the kernel ABI.
pub(super) const ABI_ROOMS: [&str; 2] = ["sensor", "enforce"];

/// What a pure room may not name.
pub(super) const IMPURE: [&str; 10] = [
    "tokio",
    "aya",
    "rusqlite",
    "std::fs",
    "std::process",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// The room of a source file of the agent; none for `lib.rs`, `main.rs` and files elsewhere.
pub(super) fn of_file(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("defenseclaw-agent/src/")?;
    match inner.split_once('/') {
        Some((room, _)) => Some(room),
        None => inner.strip_suffix(".rs").filter(|name| !["lib", "main"].contains(name)),
    }
}

pub(super) fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}
