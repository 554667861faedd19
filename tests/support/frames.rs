//! Frames of RFC 6455 section 5.2, right or wrong.

/// A frame as a client writes it: right, until a method makes it wrong.
#[derive(Debug, Clone)]
pub struct ClientFrame {
    pub fin: bool,
    /// The three reserved bits, RSV1 being 4.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// The length that the header says; that of the payload if there is none.
    pub declared: Option<u64>,
    pub form: LengthForm,
    pub payload: Vec<u8>,
}

/// How many bytes a header takes for the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthForm {
    Shortest,
    /// 126 and two bytes.
    Two,
    /// 127 and eight bytes.
    Eight,
}

impl ClientFrame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        let (mask, form) = (Some([0x37, 0xfa, 0x21, 0x3d]), LengthForm::Shortest);
        Self { fin: true, rsv: 0, opcode, mask, declared: None, form, payload: payload.into() }
    }

    pub fn continuation(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x0, payload)
    }

    pub fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x1, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x2, payload)
    }

    pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Self {
        Self::new(0x8, [&code.to_be_bytes(), reason.as_ref()].concat())
    }

    pub fn ping(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x9, payload)
    }

    pub fn pong(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0xa, payload)
    }

    /// More frames of the message follow.
    pub fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn rsv(mut self, bits: u8) -> Self {
        self.rsv = bits;
        self
    }

    pub fn unmasked(mut self) -> Self {
        self.mask = None;
        self
    }

    pub fn masked_with(mut self, key: [u8; 4]) -> Self {
        self.mask = Some(key);
        self
    }

    /// The header says another length than the payload has.
    pub fn declaring(mut self, length: u64) -> Self {
        self.declared = Some(length);
        self
    }

    pub fn length_form(mut self, form: LengthForm) -> Self {
        self.form = form;
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let length = self.declared.unwrap_or(self.payload.len() as u64);
        let mut bytes =
            vec![(u8::from(self.fin) << 7) + ((self.rsv & 7) << 4) + (self.opcode & 0xf)];
        let mask_bit = u8::from(self.mask.is_some()) << 7;
        match (self.form, length) {
            (LengthForm::Shortest, 0..=125) => bytes.push(mask_bit + length.to_be_bytes()[7]),
            (LengthForm::Shortest | LengthForm::Two, 0..=0xffff) => {
                bytes.push(mask_bit + 126);
                bytes.extend_from_slice(&length.to_be_bytes()[6..]);
            }
            _ => {
                bytes.push(mask_bit + 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        bytes.extend_from_slice(self.mask.as_ref().map_or(&[], |key| &key[..]));
        let key = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

/// A frame as it came from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerFrame {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl ServerFrame {
    /// A whole, unmasked frame: what the server should write.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, masked: false, payload: payload.into() }
    }

    pub fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x1, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0x2, payload)
    }

    pub fn ping() -> Self {
        Self::new(0x9, [])
    }

    pub fn pong(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(0xa, payload)
    }

    pub fn is_close(&self) -> bool {
        self.opcode == 0x8
    }

    /// Code and reason of a close frame; 1005 where it has none.
    pub fn close_code_and_reason(&self) -> (u16, String) {
        assert!(self.is_close(), "not a close frame: {self:?}");
        assert!(self.payload.len() <= 125, "a close frame of {} bytes", self.payload.len());
        match &self.payload[..] {
            [] => (1005, String::new()),
            [high, low, reason @ ..] => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason in UTF-8");
                (u16::from_be_bytes([*high, *low]), reason)
            }
            one => panic!("a close frame with {one:?}"),
        }
    }

    /// The first whole frame of `bytes`, and how many bytes it takes.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (header, length) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
            short => (2, u64::from(short)),
        };
        let end = header + usize::try_from(length).expect("a length that fits");
        let frame = Self {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 0xf,
            masked: second & 0x80 != 0,
            payload: bytes.get(header..end)?.to_vec(),
        };
        Some((frame, end))
    }
}

/// Large payloads are cut: a failed test shall be readable.
impl std::fmt::Debug for ServerFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.payload[..self.payload.len().min(200)].escape_ascii();
        let Self { fin, rsv, opcode, masked, .. } = self;
        write!(f, "frame(fin {fin}, rsv {rsv}, opcode {opcode:#x}, masked {masked}, ")?;
        write!(f, "{} bytes \"{shown}\")", self.payload.len())
    }
}
