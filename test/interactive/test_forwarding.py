"""What changes in a head on its way, and what never gets through."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interactive.forwarding import (
    Caller,
    Rules,
    forward_request,
    public_site,
    return_response,
)
from jarvice_slurmd.interactive.head import Headers, RequestHead, ResponseHead, field_values
from jarvice_slurmd.interactive.interfaces import Target
from jarvice_slurmd.interactive.mending import (
    PublicSite,
    mend_cookie,
    mend_location,
    mend_refresh,
    mend_worker_scope,
)
from test.interactive.test_head import field_lists

CALLER = Caller(address=b"10.0.0.9")
BY_PATH = Target(number=1, host="n1", port=5902, prefix=b"/job1", strip_prefix=True)
KEPT = evolve(BY_PATH, strip_prefix=False)
BY_HOST = Target(number=1, host="n1", port=5902)


def forward(
    *fields: tuple[bytes, bytes],
    target: Target = BY_PATH,
    rules: Rules | None = None,
    path: bytes = b"/job1/x",
    caller: Caller = CALLER,
) -> RequestHead:
    head = RequestHead(method=b"GET", target=path, headers=((b"Host", b"d.com"), *fields))
    return forward_request(head, target=target, caller=caller, rules=rules or Rules())


def values(headers: Headers, name: bytes) -> list[bytes]:
    return field_values(headers, name)


class RequestTests(SynchronousTestCase):
    def test_fields_of_one_connection(self) -> None:
        head = forward(
            (b"Connection", b"close, X-Hop"),
            (b"x-hop", b"1"),
            (b"Keep-Alive", b"5"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"Proxy-Authorization", b"Basic x"),
            (b"TE", b"gzip"),
            (b"Upgrade", b"h2c"),
            (b"HTTP2-Settings", b"AAA"),
            (b"Proxy", b"http://evil"),
        )
        self.assertEqual(
            [name for name, _ in head.headers],
            [b"Host"] + [b"X-Forwarded-" + name for name in (b"For", b"Proto", b"Host", b"Prefix")],
        )

    def test_framing_can_not_be_nominated_away(self) -> None:
        head = forward(
            (b"Connection", b"content-length, transfer-encoding, host, authorization"),
            (b"Content-Length", b"5"),
            (b"Authorization", b"Bearer x"),
        )
        for name in (b"content-length", b"host", b"authorization"):
            self.assertEqual(len(values(head.headers, name)), 1, name)

    def test_trailers_are_wanted(self) -> None:
        head = forward((b"TE", b"deflate, trailers"), (b"Connection", b"TE"))
        self.assertEqual(values(head.headers, b"te"), [b"trailers"])
        self.assertEqual(values(head.headers, b"connection"), [b"TE"])

    def test_forwarded_behind_an_ingress(self) -> None:
        given_fields = (
            (b"X-Forwarded-For", b"1.2.3.4"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"public.com"),
            (b"X-Forwarded-Prefix", b"/outer/"),
            (b"X-Real-IP", b"1.2.3.4"),
            (b"Forwarded", b"for=1.2.3.4"),
        )
        head = forward(*given_fields)
        self.assertEqual(
            head.headers[1:],
            (
                (b"X-Forwarded-For", b"1.2.3.4, 10.0.0.9"),
                (b"X-Forwarded-Proto", b"https"),
                (b"X-Forwarded-Host", b"public.com"),
                (b"X-Forwarded-Prefix", b"/outer/job1"),
                (b"X-Real-IP", b"1.2.3.4"),
                (b"Forwarded", b"for=1.2.3.4"),
            ),
        )
        head = forward(*given_fields, rules=Rules(trust_forwarded=False))
        self.assertEqual(
            head.headers[1:],
            (
                (b"X-Forwarded-For", b"10.0.0.9"),
                (b"X-Forwarded-Proto", b"http"),
                (b"X-Forwarded-Host", b"d.com"),
                (b"X-Forwarded-Prefix", b"/job1"),
            ),
        )

    def test_forwarded_over_tls_and_under_the_prefix(self) -> None:
        head = forward(target=KEPT, caller=Caller(address=b"::1", secure=True))
        self.assertEqual(values(head.headers, b"x-forwarded-proto"), [b"https"])
        self.assertEqual(values(head.headers, b"x-forwarded-prefix"), [])
        self.assertEqual(head.target, b"/job1/x")

    def test_no_spelling_of_the_api_key_passes(self) -> None:
        """More is taken for it than the API would take."""
        rules = Rules(server_key=b"jarvice:\xfe\xff>?secrets")
        key = b64encode(rules.server_key or b"")
        self.assertIn(b"/", key)
        self.assertTrue(key.endswith(b"="))
        bare = key.rstrip(b"=")
        for credentials in (
            b"Basic " + key,
            b"bAsIc  \t" + key,
            b"Basic\t" + key,
            b"Basic " + bare,
            b"Basic " + bare + b"====",
            b"Basic " + key + b" QUJD",
            b"Basic " + urlsafe_b64encode(rules.server_key or b""),
            b"Basic " + key[:5] + b" \t" + key[5:],
            b"Basic !" + key,
            b"Bearer x, Basic " + key,
        ):
            head = forward((b"Authorization", credentials), rules=rules)
            self.assertEqual(values(head.headers, b"authorization"), [], credentials)
        for credentials in (
            b"",
            b"Basic",
            b"Basic =",
            b"Basic dXNlcjpvd24=",
            b"Basic " + key[:-4],
            b"Bearer " + key,
            b'Digest username="a", realm="b"',
        ):
            head = forward((b"Authorization", credentials), rules=rules)
            self.assertEqual(values(head.headers, b"authorization"), [credentials])

    def test_underscores_are_no_way_around(self) -> None:
        head = forward(
            (b"X_Forwarded_For", b"6.6.6.6"), (b"Content_Length", b"9"), (b"my_field", b"1")
        )
        self.assertEqual(values(head.headers, b"x_forwarded_for"), [])
        self.assertEqual(values(head.headers, b"content_length"), [])
        self.assertEqual(values(head.headers, b"my_field"), [b"1"])

    def test_stripped_paths(self) -> None:
        for public, inner in (
            (b"/job1/a/b?c=/job1/", b"/a/b?c=/job1/"),
            (b"/job1/", b"/"),
            (b"/job1", b"/"),
            (b"/job1?a", b"/?a"),
            (b"/job1//a", b"//a"),
            (b"/job1/%2e%2e/job2", b"/%2e%2e/job2"),
        ):
            self.assertEqual(forward(path=public).target, inner)

    def test_webdav_destination(self) -> None:
        for value, mended in (
            (b"https://d.com/job1/a", b"https://d.com/a"),
            (b"/job1/a", b"/a"),
            (b"https://d.com/job12/a", b"https://d.com/job12/a"),
            (b"", b""),
            (b"https:", b"https:"),
        ):
            head = forward((b"Destination", value))
            self.assertEqual(values(head.headers, b"destination"), [mended])

    @given(field_lists)
    def test_nothing_of_one_connection_gets_through(
        self, fields: list[tuple[bytes, bytes]]
    ) -> None:
        for target in (BY_PATH, KEPT, BY_HOST):
            head = forward(*fields, target=target, rules=Rules(server_key=b"a:b"))
            names = [name.lower() for name, _ in head.headers]
            for name in (b"connection", b"keep-alive", b"upgrade", b"te", b"proxy-authorization"):
                self.assertNotIn(name, names)
            self.assertEqual(names.count(b"x-forwarded-for"), 1)


class ResponseTests(SynchronousTestCase):
    site = PublicSite(
        prefix=b"/job1", strip_prefix=True, authorities=frozenset({b"d.com"}), path=b"/job1/a"
    )

    def returned(self, *fields: tuple[bytes, bytes], status: int = 200, **kw: bool) -> Headers:
        head = ResponseHead(status=status, headers=fields)
        return return_response(head, site=self.site, **kw).headers

    def test_repeated_fields_stay_in_order(self) -> None:
        fields = tuple((b"X-A" if n % 2 else b"x-a", b"%d" % n) for n in range(9))
        self.assertEqual(self.returned(*fields), fields)

    def test_origin_wide_fields(self) -> None:
        fields = (
            (b"Clear-Site-Data", b"*"),
            (b"Strict-Transport-Security", b"max-age=9"),
            (b"Alt-Svc", b'h3=":443"'),
            (b"Set-Cookie2", b"a=b"),
            (b"Connection", b"x-hop, set-cookie"),
            (b"X-Hop", b"1"),
        )
        self.assertEqual(self.returned(*fields), ())
        head = return_response(ResponseHead(status=200, headers=fields), site=PublicSite())
        # By host the origin is the job's own; what one host may clear is more than that.
        self.assertEqual([name for name, _ in head.headers], [b"Strict-Transport-Security"])

    def test_equal_lengths_are_one(self) -> None:
        """RFC 9110 §8.6: what is behind us may read several in several ways."""
        two = (b"Content-Length", b"2")
        for lengths in (
            [two, two],
            [(b"Content-Length", b"2, 2")],
            [two, (b"content-length", b"2")],
        ):
            self.assertEqual(self.returned(*lengths, (b"A", b"b")), (two, (b"A", b"b")))
        self.assertEqual(self.returned(two, status=304), (two,))
        # To HEAD no body follows: a length that is none is nobody's.
        self.assertEqual(self.returned(two, (b"Content-Length", b"3")), ())
        self.assertEqual(self.returned((b"Content-Length", b"")), ())

    def test_no_framing_where_there_is_no_body(self) -> None:
        """RFC 9110 §8.6, RFC 9112 §6.1."""
        framing = ((b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked"))
        for field in framing:
            for status in (100, 103, 204):
                self.assertEqual(self.returned(field, status=status), (), (field, status))
            switched = self.returned(field, status=101)
            self.assertEqual([name for name, _ in switched], [b"Upgrade", b"Connection"])

    def test_orders_to_a_proxy_in_front(self) -> None:
        """An ingress would fetch its own files and places for a job."""
        for name in (b"X-Accel-Redirect", b"x-accel-limit-rate", b"X-Sendfile", b"X-SendFile"):
            self.assertEqual(self.returned((name, b"/etc/passwd")), (), name)
        streams = (b"X-Accel-Buffering", b"no")
        self.assertEqual(self.returned(streams), (streams,))

    def test_close_and_unchunk(self) -> None:
        fields = ((b"Transfer-Encoding", b"chunked"), (b"Trailer", b"x"))
        self.assertEqual(
            self.returned(*fields, close=True, unchunk=True), ((b"Connection", b"close"),)
        )
        self.assertEqual(self.returned(status=100, close=True), ())

    def test_transfer_encoding_that_says_nothing(self) -> None:
        """It takes no Content-Length away: the browser would wait for an end that never comes."""
        length = (b"Content-Length", b"5")
        for nothing in (b"identity", b""):
            self.assertEqual(self.returned(length, (b"Transfer-Encoding", nothing)), (length,))

    @given(field_lists)
    def test_never_two_framings(self, fields: list[tuple[bytes, bytes]]) -> None:
        names = {name.lower() for name, _ in self.returned(*fields)}
        self.assertFalse({b"content-length", b"transfer-encoding"} <= names)
        self.assertNotIn(b"connection", names)


class MendingTests(SynchronousTestCase):
    def test_locations_under_a_prefix_that_is_taken_off(self) -> None:
        site = public_site(
            RequestHead(method=b"GET", target=b"/job1/a", headers=((b"Host", b"D.com:443"),)),
            BY_PATH,
        )
        for url, mended in (
            (b"/login", b"/job1/login"),
            (b"/", b"/job1/"),
            (b"/job1/login", b"/job1/login"),
            (b"/job12", b"/job1/job12"),
            (b"login", b"login"),
            (b"?a", b"?a"),
            (b"#a", b"#a"),
            (b"", b""),
            (b"http://d.com/x", b"/job1/x"),
            (b"https://D.COM", b"/job1/"),
            (b"https://d.com?a", b"/job1/?a"),
            (b"//d.com/x", b"/job1/x"),
            (b"http://n1:5902/x#y", b"/job1/x#y"),
            (b"http://localhost:5902/x", b"/job1/x"),
            (b"http://127.0.0.1:5902/x", b"/job1/x"),
            (b"http://n1:5903/x", b"http://n1:5903/x"),
            (b"https://other.com/x", b"https://other.com/x"),
            (b"//other.com/x", b"//other.com/x"),
            (b"https://d.com.evil/x", b"https://d.com.evil/x"),
            (b"mailto:x@d.com", b"mailto:x@d.com"),
        ):
            self.assertEqual(mend_location(url, site), mended, url)

    def test_locations_by_host(self) -> None:
        head = RequestHead(method=b"GET", target=b"/a", headers=((b"Host", b"ns-1.d.com"),))
        site = public_site(head, BY_HOST)
        for url, mended in (
            (b"/login", b"/login"),
            (b"http://ns-1.d.com/x", b"/x"),
            (b"http://n1:5902/x", b"/x"),
            (b"http://ns-1.d.com//evil.com", b"http://ns-1.d.com//evil.com"),
            (b"http://ns-2.d.com/x", b"http://ns-2.d.com/x"),
        ):
            self.assertEqual(mend_location(url, site), mended, url)

    def test_refresh(self) -> None:
        site = PublicSite(prefix=b"/job1", strip_prefix=True)
        for value, mended in (
            (b"5", b"5"),
            (b"5; url=/a", b"5; url=/job1/a"),
            (b"0;URL='/a?b'", b"0;URL='/job1/a?b'"),
            (b"5, url = /a", b"5, url = /job1/a"),
            (b"5; url=a", b"5; url=a"),
            (b"nonsense", b"nonsense"),
        ):
            self.assertEqual(mend_refresh(value, site), mended)

    def test_cookies_by_path(self) -> None:
        strip = PublicSite(prefix=b"/job1", strip_prefix=True, path=b"/job1/a")
        keep = PublicSite(prefix=b"/job1", path=b"/job1/a")
        for value, stripped, kept in (
            (b"a=1", b"a=1", b"a=1"),
            (b"a=1; Path=/", b"a=1; Path=/job1/", b"a=1; Path=/job1/"),
            (b"a=1; path=/x; Secure", b"a=1; Secure; Path=/job1/x", b"a=1; Secure; Path=/job1/"),
            (b"a=1;PATH=/job1/x", b"a=1; Path=/job1/x", b"a=1; Path=/job1/x"),
            (b"a=1; Path=/job12", b"a=1; Path=/job1/job12", b"a=1; Path=/job1/"),
            (b"a=1; Path=/job1/; Path=/", b"a=1; Path=/job1/", b"a=1; Path=/job1/"),
            (b"a=1; Path=/; Path=", b"a=1", b"a=1"),
            (b"a=1; Path=rel", b"a=1", b"a=1"),
            (b"a=1; Domain=d.com; HttpOnly", b"a=1; HttpOnly", b"a=1; HttpOnly"),
            (b"a=b=c; SameSite=Lax", b"a=b=c; SameSite=Lax", b"a=b=c; SameSite=Lax"),
            (b"", b"", b""),
        ):
            self.assertEqual(mend_cookie(value, strip), stripped)
            self.assertEqual(mend_cookie(value, keep), kept)
        # The default path of /job1 itself is the API's.
        bare = evolve(keep, path=b"/job1")
        self.assertEqual(mend_cookie(b"a=1", bare), b"a=1; Path=/job1/")

    def test_cookies_by_host(self) -> None:
        site = PublicSite()
        self.assertEqual(mend_cookie(b"a=1; Path=/x; Domain=d.com", site), b"a=1; Path=/x")

    @given(st.text('ab=;/ \tPpDdathomin.1job"', max_size=60).map(str.encode), st.booleans())
    def test_no_cookie_leaves_the_job(self, value: bytes, strip: bool) -> None:
        site = PublicSite(prefix=b"/job1", strip_prefix=strip, path=b"/job1/a")
        attributes = [part.partition(b"=") for part in mend_cookie(value, site).split(b";")[1:]]
        named = [(name.strip().lower(), content.strip()) for name, _, content in attributes]
        self.assertNotIn(b"domain", [name for name, _ in named])
        for name, path in named:
            if name == b"path":
                self.assertTrue(path == b"/job1" or path.startswith(b"/job1/"))

    def test_worker_scope(self) -> None:
        strip = PublicSite(prefix=b"/job1", strip_prefix=True)
        keep = PublicSite(prefix=b"/job1")
        for value, stripped, kept in (
            (b"/", b"/job1/", None),
            (b"/a/", b"/job1/a/", None),
            (b"/job1/a", b"/job1/a", b"/job1/a"),
            (b"/job1/.a/..b/c../%7Eu?v", b"/job1/.a/..b/c../%7Eu?v", b"/job1/.a/..b/c../%7Eu?v"),
            (b"/job12", b"/job1/job12", None),
            (b"//d.com/", b"/job1//d.com/", None),
            (b"/job1", None, None),
            (b"https://d.com/", None, None),
            (b"./", None, None),
            (b"", None, None),
        ):
            self.assertEqual(mend_worker_scope(value, strip), stripped, value)
            self.assertEqual(mend_worker_scope(value, keep), kept, value)
        self.assertEqual(mend_worker_scope(b"/", PublicSite()), b"/")

    def test_no_worker_scope_leads_out(self) -> None:
        """However a browser may read it: it was `/` in Chromium for most of these."""
        for way in (
            b"../",
            b"..",
            b"..?",
            b"..#a",
            b"a/../../",
            b"%2e%2e/",
            b"%2E./",
            b".%2e/",
            b".\t./",
            b".%09./",
            b"..\\",
            b"..%5c",
            b"%2e%2e%2f",
            b"%252e%252e/",
            b"%25252e./",
            b"./",
            b"a,/",
            b"a\x0b",
            b"a\x7f",
        ):
            for strip in (True, False):
                site = PublicSite(prefix=b"/job1", strip_prefix=strip)
                self.assertIsNone(mend_worker_scope(b"/job1/" + way, site), way)
                self.assertIsNone(mend_worker_scope(b"/" + way, site), way)

    def test_worker_at_the_bare_prefix(self) -> None:
        """The folder of `/job1` is `/`: a script there would cover everything."""
        scope = b"Service-Worker-Allowed"
        for path, fields, mended in (
            (b"/job1", (), ((scope, b"/job1/"),)),
            (b"/job1", ((scope, b"/job1/a"),), ((scope, b"/job1/"),)),
            (b"/job1/sw.js", (), ()),
            (b"/job1/sw.js", ((scope, b"/job1/a"),), ((scope, b"/job1/a"),)),
        ):
            head = ResponseHead(status=200, headers=fields)
            site = PublicSite(prefix=b"/job1", path=path)
            self.assertEqual(return_response(head, site=site).headers, mended)
