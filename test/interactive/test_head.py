"""Heads and framing, read as h11 reads them where both accept, and never with another error."""

from __future__ import annotations

import h11
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interactive.framing import (
    BadFramingError,
    Body,
    ChunkedBody,
    ClosedBody,
    LengthBody,
)
from jarvice_slurmd.interactive.head import (
    HEAD_END,
    BadHeadError,
    RequestHead,
    ResponseHead,
    list_tokens,
    parse_request_head,
    parse_response_head,
    render_request_head,
    render_response_head,
    request_body,
    response_body,
    wants_websocket,
)

_TOKEN = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
tokens = st.text(_TOKEN, min_size=1, max_size=12).map(str.encode)
values = st.binary(max_size=20).map(
    lambda data: bytes(c for c in data if c == 9 or 32 <= c < 127 or c > 127).strip(b" \t")
)
framing_fields = st.sampled_from(
    [
        (b"Content-Length", b"5"),
        (b"content-length", b"7"),
        (b"Content-Length", b"5, 5"),
        (b"Content-Length", b"-1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Transfer-Encoding", b"gzip"),
        (b"transfer-encoding", b"Chunked"),
        (b"Host", b"other"),
        (b"Connection", b"close, X-A"),
    ]
)
field_lists = st.lists(st.one_of(st.tuples(tokens, values), framing_fields), max_size=8)
# Something like a head, and something like bytes.
soups = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            (
                b"GET / HTTP/1.1|HTTP/1.1 200 OK|\r\n|\n|\r| |:|Host: d|Content-Length: 3|"
                b"Transfer-Encoding: chunked|\0|\xff|A: b|\t"
            ).split(b"|")
        ),
        max_size=14,
    ).map(b"".join),
)


def render(head: RequestHead) -> bytes:
    return render_request_head(head)


class RequestHeadTests(SynchronousTestCase):
    @given(soups)
    def test_any_bytes(self, data: bytes) -> None:
        for block in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
            try:
                request_body(parse_request_head(block))
            except BadHeadError as error:
                self.assertIn(error.status, (400, 405, 501, 505))

    @given(tokens, field_lists)
    def test_round_trip_keeps_case_and_order(
        self, method: bytes, fields: list[tuple[bytes, bytes]]
    ) -> None:
        assume(method != b"CONNECT")
        headers = ((b"Host", b"d"), *(f for f in fields if f[0].lower() != b"host"))
        head = RequestHead(method=method, target=b"/a?b", headers=headers)
        block = render_request_head(head)
        end = HEAD_END.search(block)
        assert end is not None
        self.assertEqual(end.end(), len(block))
        self.assertEqual(parse_request_head(block), head)

    @settings(max_examples=300)
    @given(field_lists, st.sampled_from([b"1.1", b"1.0"]), st.sampled_from([b"GET", b"POST"]))
    @example([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")], b"1.1", b"POST")
    def test_h11_reads_what_we_accept_in_the_same_way(
        self, fields: list[tuple[bytes, bytes]], version: bytes, method: bytes
    ) -> None:
        block = b"%b / HTTP/%b\r\nHost: d\r\n" % (method, version)
        block += b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
        try:
            head = parse_request_head(block)
            body = request_body(head)
        except BadHeadError:
            return
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(block)
        try:
            event = theirs.next_event()
        except h11.RemoteProtocolError as error:
            # It knows more about single values (Host, Expect) than framing needs.
            self.assertNotIn(b"Content-Length", str(error).encode())
            return
        assert isinstance(event, h11.Request)
        self.assertEqual((event.method, event.target), (head.method, head.target))
        lowered = [
            (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
            for name, value in head.headers
        ]
        self.assertEqual(list(event.headers), lowered)
        ended = theirs.next_event() is not h11.NEED_DATA
        self.assertEqual(ended, body.done)

    def test_absolute_target_names_the_host(self) -> None:
        head = parse_request_head(b"GET HTTP://Real:81?x HTTP/1.1\r\nA: b\r\nHost: fake\r\n\r\n")
        self.assertEqual(head.target, b"/?x")
        self.assertEqual(head.headers, ((b"Host", b"Real:81"), (b"A", b"b")))

    def test_asterisk(self) -> None:
        head = parse_request_head(b"OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n")
        self.assertEqual(head.target, b"*")
        with self.assertRaises(BadHeadError):
            parse_request_head(b"GET * HTTP/1.1\r\nHost: d\r\n\r\n")

    def test_websocket(self) -> None:
        fields = ((b"Connection", b"keep-alive, UPGRADE"), (b"Upgrade", b"WebSocket"))
        asks = RequestHead(method=b"GET", target=b"/", headers=fields)
        self.assertTrue(wants_websocket(asks))
        for method, minor, headers in (
            (b"POST", 1, fields),
            (b"GET", 0, fields),
            (b"GET", 1, fields[1:]),
            (b"GET", 1, (*fields, (b"Upgrade", b"h2c"))),
        ):
            head = RequestHead(method=method, target=b"/", minor=minor, headers=headers)
            self.assertFalse(wants_websocket(head))


class ResponseHeadTests(SynchronousTestCase):
    @given(soups)
    def test_any_bytes(self, data: bytes) -> None:
        for block in (data, data + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"):
            try:
                head = parse_response_head(block)
                response_body(head, b"GET")
            except BadHeadError as error:
                self.assertEqual(error.status, 502)
            else:
                self.assertEqual(
                    parse_response_head(render_response_head(head)).headers, head.headers
                )

    def test_old_servers(self) -> None:
        head = parse_response_head(b"HTTP/1.0 200\nA : b\r\nB: c\r\n\t d\nSet-Cookie: 1\n\n")
        self.assertEqual(
            head,
            ResponseHead(
                status=200, minor=0, headers=((b"A", b"b"), (b"B", b"c d"), (b"Set-Cookie", b"1"))
            ),
        )

    def test_bodies(self) -> None:
        def body(status: int, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> Body:
            return response_body(ResponseHead(status=status, headers=fields), method)

        length, chunked = (b"Content-Length", b"5"), (b"Transfer-Encoding", b"gzip, chunked")
        self.assertIsInstance(body(200), ClosedBody)
        self.assertIsInstance(body(200, length), LengthBody)
        self.assertIsInstance(body(200, length, length), LengthBody)
        self.assertIsInstance(body(200, (b"Content-Length", b"5, 5")), LengthBody)
        self.assertIsInstance(body(200, length, chunked), ChunkedBody)
        self.assertIsInstance(body(200, (b"Transfer-Encoding", b"gzip")), ClosedBody)
        # The first drafts' word for no coding at all, which browsers pass over too.
        for nothing in (b"identity", b"Identity", b""):
            self.assertIsInstance(body(200, length, (b"Transfer-Encoding", nothing)), LengthBody)
        for status in (100, 204, 304):
            self.assertTrue(body(status, length).done)
        self.assertTrue(body(200, chunked, method=b"HEAD").done)
        for fields in (
            [length, (b"Content-Length", b"6")],
            [(b"Content-Length", b"x")],
            [(b"Transfer-Encoding", b"chunked, gzip")],
        ):
            with self.assertRaises(BadHeadError):
                body(200, *fields)

    def test_tokens(self) -> None:
        headers = ((b"CONNECTION", b" a ,,B"), (b"Connection", b"c"))
        self.assertEqual(list_tokens(headers, b"connection"), [b"a", b"b", b"c"])


def feed_in_pieces(body: Body, data: bytes, sizes: list[int]) -> int:
    """Feed data in pieces of the sizes given; how many bytes were the body's."""
    taken = position = 0
    while position < len(data) and not body.done:
        size = sizes[position % len(sizes)]
        piece = data[position : position + size]
        taken += body.feed(piece)
        position += size
    return taken


piece_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


class FramingTests(SynchronousTestCase):
    @given(st.lists(st.binary(min_size=1, max_size=30)), piece_sizes, st.binary(max_size=5))
    def test_chunks(self, chunks: list[bytes], sizes: list[int], after: bytes) -> None:
        wire = b"".join(b"%x;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        wire += b"0\r\nX-A: b\r\n\r\n"
        payload: list[bytes] = []
        body = ChunkedBody(payload)
        self.assertEqual(feed_in_pieces(body, wire + after, sizes), len(wire))
        self.assertTrue(body.done)
        self.assertEqual(b"".join(payload), b"".join(chunks))

    @given(
        st.lists(
            st.sampled_from(
                [b"5\r\n", b"\r\n", b"\n", b"hello", b"0\r\n", b"A: b\r\n", b";x", b"f"]
            )
        ).map(b"".join),
        piece_sizes,
    )
    def test_chunks_are_the_same_however_they_arrive(self, wire: bytes, sizes: list[int]) -> None:
        def outcome(sizes: list[int]) -> object:
            body = ChunkedBody()
            try:
                return feed_in_pieces(body, wire, sizes), body.done
            except BadFramingError:
                return "bad"

        self.assertEqual(outcome(sizes), outcome([10_000]))

    @given(st.binary(max_size=60), piece_sizes)
    def test_h11_reads_the_chunks_that_we_accept(self, soup: bytes, sizes: list[int]) -> None:
        payload: list[bytes] = []
        body = ChunkedBody(payload)
        wire = b"3\r\nabc\r\n" + soup + b"\r\n0\r\n\r\n"
        try:
            feed_in_pieces(body, wire, sizes)
        except BadFramingError:
            return
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(
            b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n" + wire
        )
        theirs.next_event()
        got = []
        while isinstance(event := theirs.next_event(), h11.Data):
            got.append(bytes(event.data))
        self.assertEqual(b"".join(got), b"".join(payload))

    @given(st.integers(0, 40), st.binary(max_size=60), piece_sizes)
    def test_length(self, length: int, data: bytes, sizes: list[int]) -> None:
        body = LengthBody(length)
        self.assertEqual(feed_in_pieces(body, data, sizes), min(length, len(data)))
        self.assertEqual(body.done, len(data) >= length)

    def test_long_lines_cost_no_memory(self) -> None:
        for start in (b"", b"0\r\n"):
            body = ChunkedBody()
            body.feed(start)
            with self.assertRaises(BadFramingError):
                for _ in range(10_000):
                    body.feed(b"a")
