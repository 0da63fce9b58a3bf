//! The kernel's maps as typed handles.

use std::fmt;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use defenseclaw_ebpf::{
    Label,
    asking::{GrantKey, Granted, Pause},
    image::{Cell, Current, Image, Key, Resolved, ResolvedKey, VerdictCounts},
};

use super::EnforceError;

/// Names of the maps this room writes.
pub const MAPS: [&str; 5] = [CURRENT, IMAGES, RULES, VERDICTS, SCOPE];

pub(super) const CURRENT: &str = "CURRENT";
pub(super) const IMAGES: &str = "IMAGES";
pub(super) const RULES: &str = "RULES";
pub(super) const VERDICTS: &str = "VERDICTS";
pub(super) const SCOPE: &str = "SCOPE";

macro_rules! pods {
    ($($pod:ident($plain:ty)),*) => {$(
        /// An ABI type as a map's key or value.
        #[derive(Clone, Copy, Debug)]
        #[repr(transparent)]
        pub(super) struct $pod(pub(super) $plain);

        // SAFETY: the type is repr(C) and made of integers without padding (its size is asserted in the ABI or by the
        // kernel, which compares it with the map's), so every bit pattern is one of its values.
        unsafe impl Pod for $pod {}
    )*};
}

pods!(
    KeyPod(Key),
    CellPod(Cell),
    ImagePod(Image),
    CountsPod(VerdictCounts),
    LabelPod(Label),
    PausePod(Pause),
    GrantKeyPod(GrantKey),
    GrantedPod(Granted),
    ResolvedKeyPod(ResolvedKey),
    ResolvedPod(Resolved)
);

/// Handles of the maps. The programs hold the maps, too; dropping this changes nothing.
pub struct Maps {
    pub(super) current: Array<MapData, Current>,
    pub(super) images: Array<MapData, ImagePod>,
    pub(super) rules: HashMap<MapData, KeyPod, CellPod>,
    pub(super) verdicts: PerCpuArray<MapData, CountsPod>,
    pub(super) scope: HashMap<MapData, u64, LabelPod>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Takes each of [`MAPS`] from `map`.
    pub fn open(mut map: impl FnMut(&'static str) -> Option<MapData>) -> Result<Self, EnforceError> {
        let mut typed = |name| {
            let data = map(name).ok_or(EnforceError::NoMap { map: name })?;
            Map::from_map_data(data).map_err(shape(name))
        };
        Ok(Self {
            current: typed(CURRENT)?.try_into().map_err(shape(CURRENT))?,
            images: typed(IMAGES)?.try_into().map_err(shape(IMAGES))?,
            rules: typed(RULES)?.try_into().map_err(shape(RULES))?,
            verdicts: typed(VERDICTS)?.try_into().map_err(shape(VERDICTS))?,
            scope: typed(SCOPE)?.try_into().map_err(shape(SCOPE))?,
        })
    }
}

pub(super) fn shape(map: &'static str) -> impl Fn(MapError) -> EnforceError {
    move |error| EnforceError::Shape { map, reason: error.to_string() }
}

/// For `map_err`: what was tried with which map.
pub(super) fn failed(operation: &'static str, map: &'static str) -> impl Fn(MapError) -> EnforceError {
    move |error| EnforceError::Map { operation, map, reason: said(&error) }
}

/// What the kernel said.
pub(super) fn said(error: &MapError) -> String {
    if let MapError::SyscallError(error) = error { error.io_error.to_string() } else { error.to_string() }
}

/// There is no such row.
pub(super) fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound)
        || matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}

/// The kernel has no room for another row.
pub(super) fn is_full(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC)))
}
