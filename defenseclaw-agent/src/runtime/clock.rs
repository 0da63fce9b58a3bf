//! The two clocks, and which boot they belong to. Nothing else in the workspace reads the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::model::{BootTime, WallTime};

/// Time of day.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_now() -> WallTime {
    let now = SystemTime::now();
    // Years before 1970 and after 2262 do not fit; a clock that far off is clamped, not an error.
    let nanos = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    };
    WallTime(nanos)
}

/// Nanoseconds since boot, time asleep included: the clock of kernel events.
pub fn boot_now() -> BootTime {
    // The kernel refuses unknown clocks only, and this one is older than anything we run on.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime(0), |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        BootTime(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0))
    })
}

/// Id of this boot: boot times of different boots do not compare.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_forward_and_the_boot_has_an_id() {
        let (boot, wall) = (boot_now(), wall_now());
        assert!(boot.0 > 0 && boot_now() >= boot && wall_now() >= wall);
        assert!(u64::try_from(wall.0).unwrap() > boot.0);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
