//! What waits to be written to one client's socket. A client that does not keep up loses previews first, then
//! progress, each of which the next one makes up for; after that it has to go, so that no reader, however slow,
//! holds memory.
use crate::formats::comfy::socket::Worth;
use crate::gateway::hub_frame::Frame;
use std::collections::VecDeque;
use std::io::IoSlice;

/// How much may wait for one socket. A single message may be larger, where less than half of it waits.
pub const BYTES: usize = 4 << 20;
pub const MESSAGES: usize = 1_024;
/// How many parts one write takes.
pub const SLICES: usize = 16;

#[derive(Debug, Default)]
pub struct Outgoing {
    frames: VecDeque<Frame>,
    /// Of the first frame: it must be finished, whatever happens.
    written: usize,
    bytes: usize,
}

/// There is no room for what must not be left out.
#[derive(Debug, PartialEq, Eq)]
pub struct TooSlow;

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes one more, with at most `most` bytes waiting in all.
    pub fn push(&mut self, frame: Frame, most: usize) -> Result<(), TooSlow> {
        if frame.worth == Worth::Status {
            // Only the newest says how many jobs wait.
            self.leave_out(|other, _| other == Worth::Status);
        }
        if !self.fits(&frame, most) {
            for worth in [Worth::Preview, Worth::Progress] {
                let size = frame.bytes.len();
                let excess = (self.bytes + size).saturating_sub(most);
                let full = self.frames.len() >= MESSAGES;
                // The oldest first, and no more than needed.
                self.leave_out(|other, gone| {
                    other == worth && (gone.bytes < excess || (full && gone.frames == 0))
                });
                if self.fits(&frame, most) {
                    break;
                }
            }
        }
        if self.fits(&frame, most) {
            self.bytes += frame.bytes.len();
            self.frames.push_back(frame);
            Ok(())
        } else if frame.worth == Worth::Must {
            Err(TooSlow)
        } else {
            Ok(())
        }
    }

    fn fits(&self, frame: &Frame, most: usize) -> bool {
        // A large one is no reason to end a socket that is hardly behind.
        let hardly = if frame.worth == Worth::Must { most / 2 } else { 0 };
        let room = self.bytes <= hardly || self.bytes + frame.bytes.len() <= most;
        self.frames.len() < MESSAGES && room
    }

    /// Leaves out those that `which` picks, oldest first, but never what is half written.
    fn leave_out(&mut self, mut which: impl FnMut(Worth, Gone) -> bool) {
        let mut kept = usize::from(self.written > 0);
        let mut gone = Gone::default();
        self.frames.retain(|frame| {
            if kept > 0 {
                kept -= 1;
                return true;
            }
            if !which(frame.worth, gone) {
                return true;
            }
            gone.frames += 1;
            gone.bytes += frame.bytes.len();
            false
        });
        self.bytes -= gone.bytes;
    }

    /// Leaves out everything but what is half written, and puts a last frame behind it.
    pub fn end_with(&mut self, last: Frame) {
        self.leave_out(|_, _| true);
        self.push_last(last);
    }

    /// Puts the last frame behind everything that waits.
    pub fn push_last(&mut self, last: Frame) {
        self.bytes += last.bytes.len();
        self.frames.push_back(last);
    }

    /// The next parts to write, and how many there are.
    pub fn slices<'a>(&'a self, to: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut skip = self.written;
        let mut count = 0;
        for (slice, frame) in to.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(&frame.bytes[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// As many bytes were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        let mut left = self.written + bytes;
        while let Some(first) = self.frames.front()
            && left >= first.bytes.len()
        {
            left -= first.bytes.len();
            self.frames.pop_front();
        }
        self.written = left;
        if self.frames.is_empty() {
            self.written = 0;
            // The room of a burst is given back.
            self.frames = VecDeque::new();
        }
    }

    /// All that waits, to be written by another process.
    pub fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes);
        let mut skip = self.written;
        for frame in &self.frames {
            all.extend_from_slice(&frame.bytes[skip..]);
            skip = 0;
        }
        *self = Outgoing::default();
        all
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Gone {
    frames: usize,
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(worth: Worth, size: usize, mark: u8) -> Frame {
        Frame { bytes: vec![mark; size].into(), worth }
    }

    fn marks(queue: &Outgoing) -> Vec<u8> {
        queue.frames.iter().map(|frame| frame.bytes[0]).collect()
    }

    #[test]
    fn previews_go_first_then_progress_then_the_socket() {
        let mut queue = Outgoing::default();
        for (mark, worth) in [Worth::Must, Worth::Preview, Worth::Progress, Worth::Preview, Worth::Must]
            .into_iter()
            .enumerate()
        {
            queue.push(frame(worth, 100, mark as u8), 500).unwrap();
        }
        // One preview is enough room, and the oldest goes.
        queue.push(frame(Worth::Must, 100, 5), 500).unwrap();
        assert_eq!(marks(&queue), [0, 2, 3, 4, 5]);
        queue.push(frame(Worth::Must, 200, 6), 500).unwrap();
        assert_eq!((marks(&queue), queue.bytes()), (vec![0, 4, 5, 6], 500));
        // What may be left out is, rather than that the socket ends.
        queue.push(frame(Worth::Preview, 100, 7), 500).unwrap();
        queue.push(frame(Worth::Progress, 100, 8), 500).unwrap();
        assert_eq!(marks(&queue), [0, 4, 5, 6]);
        assert_eq!(queue.push(frame(Worth::Must, 1, 9), 500), Err(TooSlow));
    }

    #[test]
    fn what_is_half_written_is_finished() {
        let mut queue = Outgoing::default();
        queue.push(frame(Worth::Preview, 100, 0), 200).unwrap();
        queue.push(frame(Worth::Preview, 100, 1), 200).unwrap();
        queue.wrote(1);
        queue.push(frame(Worth::Must, 100, 2), 200).unwrap();
        assert_eq!((marks(&queue), queue.bytes()), (vec![0, 2], 199));
        queue.end_with(frame(Worth::Must, 5, 3));
        assert_eq!((marks(&queue), queue.bytes()), (vec![0, 3], 104));
        assert_eq!(queue.take(), [vec![0; 99], vec![3; 5]].concat());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_single_message_may_be_larger_and_many_small_ones_are_too_many() {
        let mut queue = Outgoing::default();
        queue.push(frame(Worth::Must, 2 * BYTES, 0), BYTES).unwrap();
        assert_eq!(queue.push(frame(Worth::Must, 1, 1), BYTES), Err(TooSlow));
        queue.wrote(2 * BYTES);
        assert_eq!(queue.bytes(), 0);
        queue.push(frame(Worth::Must, BYTES / 2, 0), BYTES).unwrap();
        queue.push(frame(Worth::Preview, BYTES, 1), BYTES).unwrap();
        queue.push(frame(Worth::Must, 4 * BYTES, 2), BYTES).unwrap();
        assert_eq!(marks(&queue), [0, 2]);
        queue.wrote(BYTES / 2 + 4 * BYTES);
        for _ in 0..MESSAGES {
            queue.push(frame(Worth::Progress, 1, 0), BYTES).unwrap();
        }
        queue.push(frame(Worth::Must, 1, 1), BYTES).unwrap();
        assert_eq!((queue.frames.len(), queue.frames[MESSAGES - 1].bytes[0]), (MESSAGES, 1));
    }

    #[test]
    fn only_the_newest_status_waits() {
        let mut queue = Outgoing::default();
        for mark in 0..5 {
            queue.push(frame(Worth::Status, 10, mark), BYTES).unwrap();
            queue.push(frame(Worth::Must, 10, 10 + mark), BYTES).unwrap();
        }
        assert_eq!(marks(&queue), [10, 11, 12, 13, 4, 14]);
    }

    proptest! {
        /// Whatever comes and however it is written: the bytes that go out are whole frames in order, each `Must`
        /// that was taken is among them, and never more than the limit waits.
        #[test]
        fn what_goes_out_is_frames_in_order(
            steps in prop::collection::vec((0..4u8, 1..60usize, 0..90usize), 1..200),
        ) {
            let mut queue = Outgoing::default();
            let (mut out, mut must) = (Vec::new(), Vec::new());
            for (n, (kind, size, write)) in steps.into_iter().enumerate() {
                let worth =
                    [Worth::Must, Worth::Preview, Worth::Progress, Worth::Status][usize::from(kind)];
                let bytes: Vec<u8> = [&(n as u16).to_be_bytes()[..], &vec![size as u8; size]].concat();
                let taken = queue.push(Frame { bytes: bytes.into(), worth }, 200);
                if worth == Worth::Must && taken.is_ok() {
                    must.push(n as u16);
                }
                prop_assert!(taken.is_ok() || worth == Worth::Must);
                prop_assert!(queue.bytes() <= 200);
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = queue.slices(&mut slices);
                let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                let n = all.len().min(write);
                out.extend_from_slice(&all[..n]);
                queue.wrote(n);
            }
            out.extend(queue.take());
            let (mut rest, mut seen) = (&out[..], Vec::new());
            while !rest.is_empty() {
                seen.push(u16::from_be_bytes([rest[0], rest[1]]));
                let size = usize::from(rest[2]);
                prop_assert!(rest[2..2 + size].iter().all(|b| usize::from(*b) == size));
                rest = &rest[2 + size..];
            }
            prop_assert!(seen.is_sorted());
            must.retain(|n| !seen.contains(n));
            prop_assert!(must.is_empty());
        }
    }
}
