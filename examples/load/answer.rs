//! Answers on an HTTP connection that is kept, where one request at a time is under way (RFC 9112).

/// An answer longer than this is none to a publisher.
const LONGEST: usize = 64 * 1024;

/// The state between two reads.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What has come of the answer.
    bytes: Vec<u8>,
}

impl Answer {
    /// Takes in what was read; true when the answer is whole. `Err`: it is no success, with its status line, or no
    /// answer that leaves the connection open.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.bytes.extend_from_slice(bytes);
        let Some(length) = length(&self.bytes)? else {
            return if self.bytes.len() > LONGEST { Err(endless()) } else { Ok(false) };
        };
        if length > LONGEST {
            return Err(endless());
        }
        if self.bytes.len() > length {
            return Err("there is more behind the answer".to_owned());
        }
        let whole = self.bytes.len() == length;
        if whole {
            self.bytes.clear();
        }
        Ok(whole)
    }
}

fn endless() -> String {
    format!("the answer is longer than {LONGEST} bytes")
}

/// How long an answer is, body included, once its head is whole.
fn length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 2") {
        return Err(status.to_owned());
    }
    let mut body = status.starts_with("HTTP/1.1 204").then_some(0);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection")
            && value.trim().eq_ignore_ascii_case("close")
        {
            return Err(format!("{status}, with Connection: close"));
        }
    }
    let body: usize = body.ok_or_else(|| format!("{status}, without Content-Length"))?;
    Ok(Some(body.saturating_add(end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_wherever_reads_cut_it() {
        let whole = b"HTTP/1.1 202 Accepted\r\nCONTENT-length: 3\r\n\r\nabc";
        let mut answer = Answer::default();
        for _ in 0..2 {
            for cut in 1..whole.len() {
                assert_eq!(answer.take(&whole[..cut]), Ok(false));
                assert_eq!(answer.take(&whole[cut..]), Ok(true));
            }
        }
        assert_eq!(answer.take(b"HTTP/1.1 204 No Content\r\n\r\n"), Ok(true));
    }

    #[test]
    fn what_is_no_success_or_has_no_end_is_refused() {
        for (bytes, why) in [
            ("HTTP/1.1 401 Unauthorized\r\n\r\n", "HTTP/1.1 401 Unauthorized"),
            ("HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK, without Content-Length"),
            (
                "HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n",
                "HTTP/1.1 200 OK, with Connection: close",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP", "there is more behind the answer"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                "the answer is longer than 65536 bytes",
            ),
        ] {
            assert_eq!(Answer::default().take(bytes.as_bytes()), Err(why.to_owned()));
        }
        assert!(Answer::default().take(&vec![b'x'; LONGEST + 1]).is_err());
    }
}
