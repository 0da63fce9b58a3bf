//! The two rings: priority first, then bulk. Reads, decodes, counts; keeps nothing.

use std::{io, os::fd::BorrowedFd};

use aya::maps::{Map, MapData, RingBuf};

use super::{SensorError, counters::Counting, decode};
use crate::model::Event;

pub(super) struct Rings {
    priority: RingBuf<MapData>,
    bulk: RingBuf<MapData>,
}

impl Rings {
    pub(super) fn open(
        mut map: impl FnMut(&'static str) -> Result<Map, SensorError>,
    ) -> Result<Self, SensorError> {
        let mut open = |name| RingBuf::try_from(map(name)?).map_err(super::map_error("open a ring"));
        Ok(Self { priority: open("PRIORITY")?, bulk: open("BULK")? })
    }

    /// Both rings, by the names of their maps.
    pub(super) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        use std::os::fd::AsFd;
        [("PRIORITY", self.priority.as_fd()), ("BULK", self.bulk.as_fd())]
    }

    pub(super) fn read(&mut self, events: &mut Vec<Event>, max: usize, counters: &mut Counting) -> usize {
        let (mut taken, first) = (0, events.len());
        for ring in [&mut self.priority, &mut self.bulk] {
            while taken < max {
                let Some(record) = ring.next() else { break };
                taken += 1;
                match decode::decode(&record) {
                    Ok((kind, event)) => {
                        counters.received(kind);
                        events.push(event);
                    }
                    Err(error) => counters.undecodable(&error),
                }
            }
        }
        // Two ordered runs become one, as far as both rings were read to the same moment.
        if let Some(new) = events.get_mut(first..) {
            new.sort_by_key(|event| event.time);
        }
        taken
    }

    pub(super) fn read_raw(&mut self, max: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        for ring in [&mut self.priority, &mut self.bulk] {
            while taken < max {
                let Some(record) = ring.next() else { break };
                taken += 1;
                each(&record);
            }
        }
        taken
    }

    pub(super) fn is_empty(&mut self) -> io::Result<bool> {
        use std::os::fd::AsFd;
        // A ring is readable exactly while it holds committed records.
        let mut polled = [
            nix::poll::PollFd::new(self.priority.as_fd(), nix::poll::PollFlags::POLLIN),
            nix::poll::PollFd::new(self.bulk.as_fd(), nix::poll::PollFlags::POLLIN),
        ];
        Ok(nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO)? == 0)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.priority.as_fd()
    }
}
