//! HTTP/1.1 as far as this API needs it: one request, one answer, then the
//! connection ends. This module turns bytes into values; it does no I/O.

use httparse::{EMPTY_HEADER, Status};
use serde::Serialize;

/// The longest request line and headers, bytes.
pub(super) const MAX_HEAD: usize = 8 << 10;
/// The longest body, bytes.
pub(super) const MAX_BODY: usize = 64 << 10;
/// The most headers.
const MAX_HEADERS: usize = 64;

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// A request that gets no answer but this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpRefusal {
    pub(super) status: u16,
    pub(super) why: String,
}

impl HttpRefusal {
    pub(super) fn new(status: u16, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { status, why }
    }
}

/// Puts a request together from what arrives.
#[derive(Debug, Default)]
pub(super) struct Parser {
    received: Vec<u8>,
    head: Option<RequestHead>,
}

#[derive(Debug)]
struct RequestHead {
    method: String,
    path: String,
    body_at: usize,
    body_len: usize,
}

impl Parser {
    /// Takes more bytes; `None` waits for the rest. What follows a whole
    /// request is ignored.
    ///
    /// # Errors
    /// A request that will not be served, however it goes on.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<Request>, HttpRefusal> {
        self.received.extend_from_slice(bytes);
        if self.head.is_none() {
            self.head = parse_head(&self.received)?;
        }
        let Some(head) = &self.head else {
            return Ok(None);
        };
        let end = head.body_at.saturating_add(head.body_len);
        let Some(body) = self.received.get(head.body_at..end) else {
            return Ok(None);
        };
        Ok(Some(Request {
            method: head.method.clone(),
            path: head.path.clone(),
            body: body.to_vec(),
        }))
    }

    /// How many bytes it keeps room for.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) const fn held(&self) -> usize {
        self.received.capacity()
    }
}

fn parse_head(received: &[u8]) -> Result<Option<RequestHead>, HttpRefusal> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let too_large = || {
        HttpRefusal::new(
            431,
            format!(
                "the request line and headers are limited to {MAX_HEAD} bytes and {MAX_HEADERS} headers"
            ),
        )
    };
    let body_at = match request.parse(received) {
        Ok(Status::Complete(len)) if len > MAX_HEAD => return Err(too_large()),
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if received.len() > MAX_HEAD => return Err(too_large()),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(error) => {
            return Err(HttpRefusal::new(
                400,
                format!("the request is not HTTP/1.1: {error}"),
            ));
        }
    };
    Ok(Some(RequestHead {
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        body_at,
        body_len: body_len(request.headers)?,
    }))
}

fn body_len(headers: &[httparse::Header<'_>]) -> Result<usize, HttpRefusal> {
    let mut len = None;
    for header in headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let why = "Transfer-Encoding is not supported: send a body with Content-Length";
            return Err(HttpRefusal::new(501, why));
        }
        if !header.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        let number = decimal(header.value).ok_or_else(|| {
            let text = String::from_utf8_lossy(header.value);
            HttpRefusal::new(
                400,
                format!("Content-Length: '{text}' is no decimal number of bytes"),
            )
        })?;
        if len.is_some_and(|known| known != number) {
            return Err(HttpRefusal::new(
                400,
                "the request has two different Content-Length headers",
            ));
        }
        len = Some(number);
    }
    match len {
        None => Ok(0),
        Some(len) => usize::try_from(len)
            .ok()
            .filter(|&len| len <= MAX_BODY)
            .ok_or_else(|| {
                HttpRefusal::new(
                    413,
                    format!("the body has {len} bytes; expected: at most {MAX_BODY}"),
                )
            }),
    }
}

/// Digits alone; a number that is too large for 64 bits is the largest.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(text).ok()?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// An answer: a status and a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// For status 405: the methods that the path takes.
    pub(super) allow: Option<String>,
    pub(super) body: Vec<u8>,
}

/// The JSON body of every error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

impl Response {
    /// An answer with this body.
    pub(super) fn json(status: u16, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self {
                status,
                allow: None,
                body,
            },
            // Plain data always serialises.
            Err(error) => {
                log::error!("api: cannot write an answer: {error}");
                Self {
                    status: 500,
                    allow: None,
                    body: br#"{"error":"the answer could not be written"}"#.to_vec(),
                }
            }
        }
    }

    /// An error that says why.
    pub(super) fn error(status: u16, why: &str) -> Self {
        Self::json(status, &ErrorBody { error: why })
    }

    /// The response as bytes: status line, headers and body.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let allow = match &self.allow {
            Some(methods) => format!("Allow: {methods}\r\n"),
            None => String::new(),
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{allow}\
             Connection: close\r\n\r\n",
            self.status,
            reason(self.status),
            self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl From<HttpRefusal> for Response {
    fn from(refusal: HttpRefusal) -> Self {
        Self::error(refusal.status, &refusal.why)
    }
}

/// The phrase of a status (RFC 9110, "Status Codes").
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Request>, HttpRefusal> {
        Parser::default().push(text.as_bytes())
    }

    fn refused(text: &str) -> u16 {
        parse(text).unwrap_err().status
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let text =
            b"PUT /shutdown HTTP/1.1\r\nHost: x\r\ncontent-length: 14\r\n\r\n{\"force\":true}more";
        let mut parser = Parser::default();
        let mut done = None;
        for (at, byte) in text.iter().enumerate() {
            if let Some(request) = parser.push(&[*byte]).unwrap() {
                done = Some((at, request));
                break;
            }
        }
        let (at, request) = done.unwrap();
        assert_eq!(at, text.len() - 5);
        assert_eq!(request.method, "PUT");
        assert_eq!(request.path, "/shutdown");
        assert_eq!(request.body, b"{\"force\":true}");
    }

    #[test]
    fn no_prefix_of_a_request_is_a_request() {
        let text = "GET /info HTTP/1.1\r\nHost: a\r\n\r\n";
        for len in 0..text.len() {
            assert_eq!(parse(&text[..len]), Ok(None), "{len}");
        }
        assert!(parse(text).unwrap().is_some());
    }

    #[test]
    fn malformed_requests_are_400() {
        for text in [
            "\0\0\0\0",
            "GET\r\n\r\n",
            "GET /info HTTP/3\r\n\r\n",
            "GET /info HTTP/1.1\r\nno colon\r\n\r\n",
            "GET /info HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET /info HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET /info HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "PUT /pause HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ] {
            assert_eq!(refused(text), 400, "{text:?}");
        }
        assert_eq!(
            refused("PUT /pause HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            501
        );
    }

    #[test]
    fn the_limits_hold_to_the_byte() {
        let head = |len: usize| {
            let frame = "GET /info HTTP/1.1\r\nx: \r\n\r\n".len();
            format!(
                "GET /info HTTP/1.1\r\nx: {}\r\n\r\n",
                "a".repeat(len - frame)
            )
        };
        assert!(parse(&head(MAX_HEAD)).unwrap().is_some());
        assert_eq!(refused(&head(MAX_HEAD + 1)), 431);
        assert_eq!(refused(&"G".repeat(MAX_HEAD + 1)), 431);
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(refused(&format!("GET /info HTTP/1.1\r\n{many}\r\n")), 431);

        let put = |len: &str| format!("PUT /pause HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
        let body = "b".repeat(MAX_BODY);
        let request = parse(&(put(&MAX_BODY.to_string()) + &body));
        assert_eq!(request.unwrap().unwrap().body.len(), MAX_BODY);
        for len in ["65537", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(refused(&put(len)), 413, "{len}");
        }
    }

    #[test]
    fn an_answer_says_its_length_and_that_it_is_the_last() {
        let mut response = Response::error(405, "not \"this\" one");
        response.allow = Some("GET".to_owned());
        let text = String::from_utf8(response.to_bytes()).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: application/json\r\n\
             Content-Length: 28\r\nAllow: GET\r\nConnection: close\r\n\r\n\
             {\"error\":\"not \\\"this\\\" one\"}"
        );
    }
}
