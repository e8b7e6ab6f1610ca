//! A trace as reflex's tables hold it: a protobuf message of two hexadecimal texts, and nothing of W3C's flags and state.

use bytestring::ByteString;
use prost::Message;

use crate::event::Headers;

/// The header in which a trace travels here.
pub(super) const HEADER: &str = "traceparent";

#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(string, tag = "1")]
    trace_id: String,
    #[prost(string, tag = "2")]
    span_id: String,
}

/// The header of a trace; none where its bytes are none. Whether it was sampled is not in them.
pub(in crate::backend) fn to_header(bytes: &[u8]) -> Option<(ByteString, ByteString)> {
    let Trace { trace_id, span_id } = Trace::decode(bytes).ok()?;
    let value = format!("00-{trace_id}-{span_id}-00");
    parts(&value)?;
    Some((ByteString::from_static(HEADER), value.into()))
}

/// The bytes of a header; none where it is not W3C's.
pub(in crate::backend) fn to_trace(headers: &Headers) -> Option<Vec<u8>> {
    let (_, value) = headers.iter().find(|(name, _)| name == HEADER)?;
    let (trace_id, span_id) = parts(value)?;
    Some(Trace { trace_id: trace_id.to_owned(), span_id: span_id.to_owned() }.encode_to_vec())
}

/// Trace and span of a `traceparent`: https://www.w3.org/TR/trace-context/#traceparent-header
fn parts(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.split('-');
    let (_version, trace_id, span_id, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_id = |id: &str, digits: usize| {
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        id.len() == digits && id.bytes().all(is_hex) && id.bytes().any(|digit| digit != b'0')
    };
    (is_id(trace_id, 32) && is_id(span_id, 16)).then_some((trace_id, span_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_both_ways_and_bad_bytes_are_none() {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let bytes = to_trace(&vec![("other".into(), "x".into()), (HEADER.into(), value.into())]).unwrap();
        let mut expected = vec![0x0a, 32];
        expected.extend(b"4bf92f3577b34da6a3ce929d0e0e4736");
        expected.extend([0x12, 16]);
        expected.extend(b"00f067aa0ba902b7");
        assert_eq!(bytes, expected);
        let (name, back) = to_header(&bytes).unwrap();
        assert_eq!(name, HEADER);
        assert_eq!(back, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        for bad in [&b""[..], b"\xff", b"\x0a\x02ab"] {
            assert_eq!(to_header(bad), None);
        }
        assert_eq!(to_trace(&vec![(HEADER.into(), "00-x-y-01".into())]), None);
        assert_eq!(to_trace(&Headers::new()), None);
    }
}
