//! WebSocket frames (RFC 6455) of clients' sockets, without any I/O. What goes out is one frame, made once for
//! however many sockets; what comes in is read just so far as somebody wants to know it.
//!
//! ComfyUI reads only the first text message of a client. The rest is passed over as it comes, so that nobody
//! can make this process keep it.
use crate::formats::comfy::socket::Worth;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest message that is kept until it is whole; what a client can do is told in far less.
pub const LISTENED: usize = 64 * 1024;
/// RFC 6455, 5.5.
const CONTROL: u64 = 125;

/// One message on its way out, whole: cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Bytes,
    pub worth: Worth,
}

impl Frame {
    pub fn text(text: &[u8], worth: Worth) -> Frame {
        Frame { bytes: encode(OpCode::Data(Data::Text), text), worth }
    }

    pub fn binary(message: &[u8], worth: Worth) -> Frame {
        Frame { bytes: encode(OpCode::Data(Data::Binary), message), worth }
    }

    pub fn ping() -> Frame {
        Frame { bytes: encode(OpCode::Control(Control::Ping), b""), worth: Worth::Must }
    }

    pub fn pong(payload: &[u8]) -> Frame {
        Frame { bytes: encode(OpCode::Control(Control::Pong), payload), worth: Worth::Must }
    }

    /// The last one that a side sends.
    pub fn close(close: &Close) -> Frame {
        let mut payload = Vec::new();
        if let Some(code) = close.code {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(close.reason.as_bytes());
        }
        Frame { bytes: encode(OpCode::Control(Control::Close), &payload), worth: Worth::Must }
    }
}

fn encode(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(header.len(payload.len() as u64) + payload.len());
    // Writing to a vector does not fail.
    let _ = header.format(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// Why a socket ends. The reason has at most 123 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// None answers a Close that had none.
    pub code: Option<u16>,
    pub reason: &'static str,
}

impl Close {
    pub const fn new(code: u16, reason: &'static str) -> Close {
        Close { code: Some(code), reason }
    }
}

const fn wrong(reason: &'static str) -> Close {
    Close::new(1002, reason)
}

/// What a client sent that has to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Close(Option<u16>),
}

/// A client's side of the conversation. It can be handed to another process as it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    /// Whether text messages are wanted still.
    listens: bool,
    /// Bytes that are not looked at yet: the beginning of a frame.
    #[serde(with = "base64_bytes")]
    unread: Vec<u8>,
    /// How much of the current frame is to be passed over.
    skip: u64,
    /// The message whose last frame has not come.
    message: Option<Fragments>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fragments {
    /// What came of it; nothing where nobody wants it.
    #[serde(with = "base64_bytes")]
    text: Vec<u8>,
    wanted: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { listens: true, unread: Vec::new(), skip: 0, message: None }
    }
}

impl Decoder {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Text messages are passed over from now on.
    pub fn listen_no_more(&mut self) {
        self.listens = false;
    }

    /// The next thing to look at in what was fed; nothing until more comes. An error is why to close.
    pub fn hear(&mut self) -> Result<Option<Incoming>, Close> {
        loop {
            let skipped = self.unread.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.take(skipped);
            self.skip -= skipped as u64;
            if self.skip > 0 || self.unread.is_empty() {
                return Ok(None);
            }
            let mut cursor = Cursor::new(&self.unread[..]);
            let parsed = FrameHeader::parse(&mut cursor).map_err(|_| wrong("no such kind of frame"))?;
            let Some((header, length)) = parsed else { return Ok(None) };
            let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(wrong("no extension was agreed on"));
            }
            let Some(mask) = header.mask else { return Err(wrong("a client's frames are masked")) };
            if i64::try_from(length).is_err() {
                return Err(wrong("no frame is as long as that"));
            }
            match header.opcode {
                OpCode::Control(control) => {
                    if length > CONTROL || !header.is_final {
                        return Err(wrong("a control frame is short and whole"));
                    }
                    let Some(payload) = self.payload(start, length, mask) else { return Ok(None) };
                    if let Some(incoming) = controlled(control, payload)? {
                        return Ok(Some(incoming));
                    }
                }
                OpCode::Data(data) => match self.data(data, header.is_final, (start, length), mask)? {
                    Some(Some(text)) => return Ok(Some(Incoming::Text(text))),
                    Some(None) => {}
                    None => return Ok(None),
                },
            }
        }
    }

    /// One frame of a message: the whole message, if it is wanted and that was its last one. None: the frame is
    /// not here yet.
    fn data(
        &mut self,
        data: Data,
        is_final: bool,
        (start, length): (usize, u64),
        mask: [u8; 4],
    ) -> Result<Option<Option<Vec<u8>>>, Close> {
        let wanted = match (&self.message, data) {
            (Some(message), Data::Continue) => message.wanted && self.listens,
            (None, Data::Text) => self.listens,
            (None, Data::Binary) => false,
            _ => return Err(wrong("frames of two messages are mixed")),
        };
        let before = self.message.as_ref().map_or(0, |message| message.text.len());
        if !wanted || before as u64 + length > LISTENED as u64 {
            self.take(start);
            self.skip = length;
            self.message = (!is_final).then(|| Fragments { text: Vec::new(), wanted: false });
            return Ok(Some(None));
        }
        let Some(payload) = self.payload(start, length, mask) else { return Ok(None) };
        let mut text = self.message.take().map(|message| message.text).unwrap_or_default();
        text.extend_from_slice(&payload);
        if !is_final {
            self.message = Some(Fragments { text, wanted: true });
            return Ok(Some(None));
        }
        if std::str::from_utf8(&text).is_err() {
            return Err(Close::new(1007, "a text message is UTF-8"));
        }
        Ok(Some(Some(text)))
    }

    /// A frame's payload without its mask, once it is here whole; the frame is taken out then.
    fn payload(&mut self, start: usize, length: u64, mask: [u8; 4]) -> Option<Vec<u8>> {
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let mut payload = self.unread.get(start..end)?.to_vec();
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        self.take(end);
        Some(payload)
    }

    fn take(&mut self, bytes: usize) {
        if bytes == self.unread.len() {
            // The memory goes too: most sockets say nothing more for hours.
            self.unread = Vec::new();
        } else {
            self.unread.drain(..bytes);
        }
    }
}

fn controlled(control: Control, payload: Vec<u8>) -> Result<Option<Incoming>, Close> {
    match control {
        Control::Ping => Ok(Some(Incoming::Ping(payload))),
        Control::Close => {
            let Some((code, reason)) = payload.split_first_chunk::<2>() else {
                return if payload.is_empty() {
                    Ok(Some(Incoming::Close(None)))
                } else {
                    Err(wrong("a code has two bytes"))
                };
            };
            let code = u16::from_be_bytes(*code);
            if !CloseCode::from(code).is_allowed() {
                return Err(wrong("no such code to close with"));
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(Close::new(1007, "a reason is UTF-8"));
            }
            Ok(Some(Incoming::Close(Some(code))))
        }
        _ => Ok(None),
    }
}

/// Bytes in a JSON document.
pub mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame.
    fn sent(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            is_final,
            opcode: OpCode::from(opcode),
            mask: Some(MASK),
            ..FrameHeader::default()
        };
        let mut frame = Vec::new();
        header.format(payload.len() as u64, &mut frame).unwrap();
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Everything that is heard of these bytes, fed in pieces of this size.
    fn heard(bytes: &[u8], piece: usize) -> Result<Vec<Incoming>, Close> {
        let mut decoder = Decoder::default();
        let mut heard = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            // Handing it to another process between any two bytes changes nothing.
            let handed = serde_json::to_string(&decoder).unwrap();
            decoder = serde_json::from_str(&handed).unwrap();
            while let Some(incoming) = decoder.hear()? {
                heard.push(incoming);
            }
        }
        assert!(decoder.unread.is_empty() && decoder.unread.capacity() == 0);
        Ok(heard)
    }

    fn text(text: &str) -> Incoming {
        Incoming::Text(text.into())
    }

    #[test]
    fn messages_in_one_piece_and_in_many() {
        let all = [
            sent(1, true, b"one"),
            sent(9, true, b"are you there"),
            sent(1, false, &"t\u{fc}".as_bytes()[..2]),
            sent(9, true, b""),
            sent(0, false, b""),
            sent(0, true, &"t\u{fc}".as_bytes()[2..]),
            sent(10, true, b"unasked"),
            sent(2, true, &[0xff; 300]),
            sent(2, false, &[0xff; 70_000]),
            sent(0, true, &[0xff; 3]),
            sent(1, true, b"two"),
            sent(8, true, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = [
            text("one"),
            Incoming::Ping(b"are you there".to_vec()),
            Incoming::Ping(vec![]),
            text("t\u{fc}"),
            text("two"),
            Incoming::Close(Some(1000)),
        ];
        for piece in [1, 2, 7, 4096, all.len()] {
            assert_eq!(heard(&all, piece).unwrap(), expected, "{piece}");
        }
    }

    #[test]
    fn a_message_that_nobody_wants_is_not_kept() {
        let mut decoder = Decoder::default();
        decoder.feed(&sent(1, true, &vec![b'x'; 10 << 20])[..20]);
        for _ in 0..10 << 4 {
            decoder.feed(&[0; 64 * 1024]);
            let _ = decoder.hear();
            assert!(decoder.unread.len() <= 64 * 1024);
        }
        let mut decoder = Decoder::default();
        decoder.listen_no_more();
        decoder.feed(&[sent(1, true, b"{}"), sent(1, false, b"{"), sent(9, true, b"p")].concat());
        assert_eq!(decoder.hear(), Ok(Some(Incoming::Ping(b"p".to_vec()))));
        decoder.feed(&sent(0, true, b"}"));
        assert_eq!(decoder.hear(), Ok(None));
        assert_eq!(decoder.message, None);
    }

    #[test]
    fn what_is_no_websocket_is_ended_with_the_code_for_it() {
        let unmasked = {
            let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
            let mut frame = Vec::new();
            header.format(1, &mut frame).unwrap();
            [frame, b"x".to_vec()].concat()
        };
        let reserved = {
            let mut frame = sent(1, true, b"x");
            frame[0] |= 0x40;
            frame
        };
        for (code, bytes) in [
            (1002, unmasked),
            (1002, reserved),
            (1002, vec![0x83, 0x80, 0, 0, 0, 0]),
            (1002, vec![0x8b, 0x80, 0, 0, 0, 0]),
            (1002, sent(9, false, b"")),
            (1002, sent(9, true, &[0; 126])),
            (1002, sent(0, true, b"x")),
            (1002, [sent(1, false, b"x"), sent(1, true, b"x")].concat()),
            (1002, [sent(2, false, b"x"), sent(2, true, b"x")].concat()),
            (1002, sent(8, true, b"\x03")),
            (1002, sent(8, true, b"\x03\xed")),
            (1002, vec![0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (1007, sent(8, true, b"\x03\xe8\xff")),
            (1007, sent(1, true, b"\xff")),
        ] {
            assert_eq!(heard(&bytes, 1).unwrap_err().code, Some(code), "{bytes:x?}");
        }
        assert_eq!(heard(&sent(8, true, b""), 1).unwrap(), [Incoming::Close(None)]);
    }

    proptest! {
        /// Whatever comes, in whatever pieces: the same is heard.
        #[test]
        fn any_bytes_in_any_pieces(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0x01), Just(0)],
                0..300,
            ),
            piece in 1..50usize,
        ) {
            let heard = |piece: usize| {
                let (mut decoder, mut all) = (Decoder::default(), Vec::new());
                for piece in bytes.chunks(piece) {
                    decoder.feed(piece);
                    loop {
                        match decoder.hear() {
                            Ok(Some(incoming)) => all.push(incoming),
                            Ok(None) => break,
                            Err(why) => return (all, Some(why)),
                        }
                    }
                }
                (all, None)
            };
            prop_assert_eq!(heard(piece), heard(300));
        }
    }

    #[test]
    fn frames_as_they_go_out() {
        assert_eq!(Frame::text(b"hi", Worth::Must).bytes, &b"\x81\x02hi"[..]);
        assert_eq!(Frame::binary(&[7; 126], Worth::Must).bytes[..4], [0x82, 126, 0, 126]);
        assert_eq!(Frame::binary(&[7; 65_536], Worth::Must).bytes[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(Frame::ping().bytes, &b"\x89\x00"[..]);
        assert_eq!(Frame::pong(b"x").bytes, &b"\x8a\x01x"[..]);
        assert_eq!(Frame::close(&Close::new(1013, "slow")).bytes, &b"\x88\x06\x03\xf5slow"[..]);
        assert_eq!(Frame::close(&Close { code: None, reason: "" }).bytes, &b"\x88\x00"[..]);
    }
}
