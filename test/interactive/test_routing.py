"""Addresses of jobs, and whose a request is."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.interactive.head import Headers, RequestHead
from jarvice_slurmd.interactive.interfaces import (
    Api,
    IJobDirectory,
    IRouter,
    Page,
    Route,
    Service,
    Stage,
    Target,
    Unknown,
    Waiting,
)
from jarvice_slurmd.interactive.pages import (
    render_answer,
    render_error_page,
    render_page,
    render_waiting_page,
)
from jarvice_slurmd.interactive.routing import JobAddress, JobRouter, parse_jobs_domain

BY_HOST = parse_jobs_domain("d.com", "ns")
BY_PATH = parse_jobs_domain("d.com/job$", "ns")


class DomainTests(SynchronousTestCase):
    def test_forms(self) -> None:
        for text, url in (
            ("d.com", "https://ns-7.d.com/"),
            ("D.com/", "https://ns-7.d.com/"),
            ("http://d.com:8080", "http://ns-7.d.com:8080/"),
            ("d.com/job$", "https://d.com/job7/"),
            ("http://d.com:8080/job$", "http://d.com:8080/job7/"),
            ("d.com/a/job$-x/", "https://d.com/a/job7-x/"),
        ):
            self.assertEqual(parse_jobs_domain(text, "ns").url(7), url)

    def test_other_forms_are_refused(self) -> None:
        for text in ("", "d.com/job", "d.com/$/$", "d.com/$", "ftp://d.com", "d.com/a b$", "job$"):
            with self.assertRaises(ValueError):
                parse_jobs_domain(text, "ns")
        with self.assertRaises(ValueError):
            parse_jobs_domain("d.com", "")
        self.assertEqual(parse_jobs_domain("d.com/job$", "").url(1), "https://d.com/job1/")

    def test_addresses_by_path(self) -> None:
        for target, number in (
            (b"/job12/a", 12),
            (b"/job12", 12),
            (b"/job12?a", 12),
            (b"/job12/../job13/", 12),
            (b"/job0/", 0),
            (b"/job00/", None),
            (b"/job012/", None),
            (b"/job/", None),
            (b"/job1x/", None),
            (b"/job-1/", None),
            (b"/Job1/", None),
            (b"/x/job1/", None),
            (b"//job1/", None),
            (b"/%6aob1/", None),
            (b"*", None),
            (b"/job" + b"9" * 19, None),
        ):
            found = BY_PATH.parse_address(target, b"any.host")
            self.assertEqual(found and found.number, number, target)
            self.assertEqual(found and found.prefix, found and b"/job%d" % found.number, target)
        deep = parse_jobs_domain("d.com/a.b/x$y", "ns")
        self.assertEqual(
            deep.parse_address(b"/a.b/x5y/z", b""), JobAddress(number=5, prefix=b"/a.b/x5y")
        )
        self.assertIsNone(deep.parse_address(b"/aXb/x5y/z", b""))

    def test_addresses_by_host(self) -> None:
        for host, number in (
            (b"ns-12.d.com", 12),
            (b"NS-12.D.COM:8080", 12),
            (b"ns-12.d.com.", 12),
            (b"ns-0.d.com", 0),
            (b"ns-012.d.com", None),
            (b"ns-12.d.com.evil", None),
            (b"xns-12.d.com", None),
            (b"other-12.d.com", None),
            (b"ns-12.dxcom", None),
            (b"d.com", None),
            (b"", None),
        ):
            found = BY_HOST.parse_address(b"/job5/", host)
            self.assertEqual(found, None if number is None else JobAddress(number=number), host)

    @given(st.integers(0, 10**17))
    def test_url_and_back(self, number: int) -> None:
        path = BY_PATH.url(number).removeprefix("https://d.com").encode()
        self.assertEqual(
            BY_PATH.parse_address(path, b""),
            JobAddress(number=number, prefix=path.removesuffix(b"/")),
        )
        host = BY_HOST.url(number).removeprefix("https://").removesuffix("/").encode()
        self.assertEqual(BY_HOST.parse_address(b"/", host), JobAddress(number=number))

    @given(st.binary(max_size=40), st.binary(max_size=40))
    def test_any_bytes(self, target: bytes, host: bytes) -> None:
        for domain in (BY_HOST, BY_PATH):
            address = domain.parse_address(target, host)
            self.assertTrue(address is None or address.number >= 0)


@implementer(IJobDirectory)
class _Directory:
    """A job of every kind."""

    jobs: dict[int, Service | Waiting] = {  # noqa: RUF012
        1: Service(host="n1", port=5902),
        2: Service(host="n2", port=5902, strip_prefix=True),
        3: Waiting(stage=Stage.QUEUED, detail="(Resources) <b>"),
    }

    def __init__(self) -> None:
        self.doubted: list[tuple[int, str, int]] = []

    async def resolve(self, number: int) -> Service | Waiting | Unknown:
        return self.jobs.get(number) or Unknown()

    async def has_ended(self, number: int) -> bool:
        return number not in self.jobs

    def doubt(self, number: int, host: str, port: int) -> None:
        self.doubted.append((number, host, port))


class RouterTests(SynchronousTestCase):
    def route(
        self, target: bytes, host: bytes = b"d.com", fields: Headers = (), **kw: Any
    ) -> Route:
        settings = {"domain": BY_PATH, "directory": _Directory(), **kw}
        router = JobRouter(**settings)
        verifyObject(IRouter, router)
        verifyObject(IJobDirectory, settings["directory"])
        head = RequestHead(method=b"GET", target=target, headers=((b"Host", host), *fields))
        route = router.route(head)
        if isinstance(route, Api | Page | Target):
            return route
        waited = cast("Coroutine[Deferred[Any], Any, Route]", route)
        result: Route = self.successResultOf(Deferred.fromCoroutine(waited))
        return result

    def test_api(self) -> None:
        self.assertEqual(self.route(b"/running"), Api())
        self.assertEqual(self.route(b"/job1/", domain=None), Api())
        page = self.route(b"/running", api=False)
        assert isinstance(page, Page)
        self.assertEqual(page.status, 404)

    def test_what_the_api_can_not_read(self) -> None:
        """It is refused with a sentence; a job may read it."""
        for target, fields, status in (
            (b"/running\xff", (), 400),
            (b"/" + b"a" * 16384, (), 431),
            (b"/running", ((b"A", b"b" * 16384),), 431),
            (b"/running", ((b"A", b"b"),) * 500, 431),
        ):
            page = self.route(target, fields=fields)
            assert isinstance(page, Page)
            self.assertEqual(page.status, status)
            self.assertGreater(len(json.loads(page.body)["error"]), 10)
            self.assertIsInstance(self.route(b"/job1" + target, fields=fields), Target)

    def test_no_page_calls_the_api(self) -> None:
        for name, value, status in (
            (b"Origin", b"https://d.com", 403),
            (b"Sec-Fetch-Site", b"same-origin", 403),
            (b"Sec-Fetch-Site", b"cross-site", 403),
            (b"Sec-Fetch-Site", b"none", None),
            (b"Referer", b"https://d.com/job1/", None),
        ):
            page = self.route(b"/submit", fields=((name, value),))
            self.assertEqual(page.status if isinstance(page, Page) else None, status)
            self.assertIsInstance(self.route(b"/job1/", fields=((name, value),)), Target)

    def test_jobs(self) -> None:
        self.assertEqual(
            self.route(b"/job1/a"), Target(number=1, host="n1", port=5902, prefix=b"/job1")
        )
        self.assertEqual(
            self.route(b"/job2/a"),
            Target(number=2, host="n2", port=5902, prefix=b"/job2", strip_prefix=True),
        )
        self.assertEqual(
            self.route(b"/a", host=b"ns-2.d.com", domain=BY_HOST),
            Target(number=2, host="n2", port=5902),
        )

    def test_slash_is_added_where_the_prefix_is_taken_off(self) -> None:
        page = self.route(b"/job2?a=b")
        assert isinstance(page, Page)
        self.assertEqual((page.status, page.headers), (308, ((b"Location", b"/job2/?a=b"),)))
        self.assertIsInstance(self.route(b"/job1"), Target)

    def test_pages(self) -> None:
        page = self.route(b"/job3/")
        assert isinstance(page, Page)
        self.assertEqual(page.status, 503)
        self.assertEqual(json.loads(page.body)["state"], "queued")
        page = self.route(b"/job4/")
        assert isinstance(page, Page)
        self.assertEqual(page.status, 404)

    def test_odd_spellings_of_numbers_are_no_jobs(self) -> None:
        """And not the API's either, which would ask a browser for its password."""
        for target in (b"/job03/", b"/job00", b"/job03?a", b"/job" + b"9" * 19):
            page = self.route(target)
            assert isinstance(page, Page)
            self.assertEqual(page.status, 404, target)
            self.assertIsInstance(self.route(target, api=False), Page)
        page = self.route(b"/a", host=b"ns-03.d.com:80", domain=BY_HOST)
        assert isinstance(page, Page)
        self.assertEqual(page.status, 404)
        for target in (b"/JOB3/", b"/job3%2f", b"/job/", b"/job3x", b"/jobs"):
            self.assertEqual(self.route(target), Api(), target)

    def test_closed_port(self) -> None:
        """404 where the job has ended; else the failure speaks for itself, and is told."""
        directory = _Directory()
        router = JobRouter(domain=BY_PATH, directory=directory)
        head = RequestHead(method=b"GET", target=b"/job4/", headers=())

        def unreachable(number: int) -> Page | None:
            target = Target(number=number, host="n1", port=5902)
            asked = Deferred.fromCoroutine(router.unreachable(head, target))
            page: Page | None = self.successResultOf(asked)
            return page

        self.assertIsNone(unreachable(1))
        page = unreachable(4)
        assert page is not None
        self.assertEqual(page.status, 404)
        self.assertIn("number 4", json.loads(page.body)["error"])
        self.assertEqual(directory.doubted, [(1, "n1", 5902)])


class PageTests(SynchronousTestCase):
    html = ((b"Accept", b"text/html,application/xhtml+xml,*/*;q=0.8"),)

    def test_waiting_page_reloads(self) -> None:
        waiting = Waiting(stage=Stage.QUEUED, detail="Why: <script>&\"'")
        page = render_waiting_page(5, waiting, self.html)
        text = page.body.decode()
        self.assertIn('http-equiv="refresh"', text)
        self.assertIn("&lt;script&gt;&amp;", text)
        self.assertNotIn("<script", text)
        self.assertNotIn("//", text.replace("<!DOCTYPE", ""))  # Nothing from elsewhere.
        self.assertIn((b"Retry-After", b"3"), page.headers)
        self.assertEqual(page.status, 503)

    def test_program_gets_json(self) -> None:
        page = render_waiting_page(5, Waiting(stage=Stage.STARTING))
        self.assertEqual(json.loads(page.body)["state"], "starting")
        self.assertIn((b"Content-Type", b"application/json"), page.headers)

    def test_faults_of_our_own_tell_nothing(self) -> None:
        page = render_error_page(KeyError("secret"))
        self.assertEqual(page.status, 500)
        self.assertNotIn(b"secret", page.body)
        page = render_error_page(NotConnectedError("The link is down."), self.html)
        self.assertIn(b"The link is down.", page.body)

    @given(st.text(), st.text(), st.booleans(), st.booleans())
    def test_any_text(self, title: str, detail: str, html: bool, reload: bool) -> None:
        request = self.html if html else ()
        page = render_page(404, title, detail, detail=detail, request=request, reload=reload)
        answer = render_answer(page, close=True)
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d\r\n" % len(body), head)
        if not html:
            json.loads(body)
