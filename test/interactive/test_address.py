"""Templates of PROTOCOL §3, filled in for jobs that are addressed by path and by host."""

from __future__ import annotations

from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interactive.address import (
    names_its_prefix,
    render_help,
    render_url,
    service_path,
)
from jarvice_slurmd.interactive.routing import parse_jobs_domain
from jarvice_slurmd.jobs.parameters import render_ingress_path
from test.interactive.fake_services import BY_HOST, BY_PATH, record
from test.properties import property_test

LETTERS = "".join(chr(97 + at % 26) for at in range(128))


class UrlTests(SynchronousTestCase):
    """`render_url`."""

    def both(self, template: str) -> tuple[str, str]:
        """What comes of a template by path and by host."""
        found = record(url=template)
        return render_url(BY_PATH, found), render_url(BY_HOST, found)

    def test_no_template(self) -> None:
        """The job's address is its URL."""
        self.assertEqual(self.both(""), ("https://d.com/job7/", "https://jarvice-7.d.com/"))

    def test_port_of_the_application(self) -> None:
        """An inner port is translated away, a public one stays."""
        template = "https://%PUBLICADDR%:5902/vnc.html?password=%NIMBIXPASSWD%&autoconnect=true"
        rest = "vnc.html?password=pass-word&autoconnect=true"
        self.assertEqual(
            self.both(template), (f"https://d.com/job7/{rest}", f"https://jarvice-7.d.com/{rest}")
        )
        public = parse_jobs_domain("http://d.com:8080/job$", "")
        self.assertEqual(render_url(public, record(url=template)), f"http://d.com:8080/job7/{rest}")

    def test_scheme_is_ours(self) -> None:
        """Whatever scheme and host a template names, the address is the job's own."""
        for template in (
            "http://%PUBLICADDR%/a",
            "//%PUBLICADDR%:80/a",
            "%PUBLICADDR%:5902/a",
            "https://127.0.0.1:8888/a",
            "https://[broken/a",
            "javascript://%PUBLICADDR%/a",
            "/a",
            "a",
        ):
            self.assertEqual(
                self.both(template), ("https://d.com/job7/a", "https://jarvice-7.d.com/a"), template
            )

    def test_prefix_is_not_doubled(self) -> None:
        """%BASEURL% in a path is the prefix that the address has already."""
        for template in ("https://%PUBLICADDR%:5902/%BASEURL%/lab?x=1", "/%BASEURL%/lab?x=1"):
            self.assertEqual(
                self.both(template),
                ("https://d.com/job7/lab?x=1", "https://jarvice-7.d.com/lab?x=1"),
            )
        self.assertEqual(
            self.both("https://%PUBLICADDR%/%BASEURL%"),
            ("https://d.com/job7/", "https://jarvice-7.d.com/"),
        )
        self.assertEqual(
            self.both("https://%PUBLICADDR%/%BASEURL%7/x")[0], "https://d.com/job7/job77/x"
        )

    def test_prefix_in_a_query(self) -> None:
        """%BASEURL% where an application wants to be told its prefix is filled in."""
        template = "https://%PUBLICADDR%/vnc.html?path=%BASEURL%/websockify"
        self.assertEqual(
            self.both(template),
            (
                "https://d.com/job7/vnc.html?path=job7/websockify",
                "https://jarvice-7.d.com/vnc.html?path=/websockify",
            ),
        )

    def test_every_field(self) -> None:
        """User, job name and random letters, the same each time; what is no field is left."""
        template = (
            "/?u=%NIMBIXUSER%&j=%JOBNAME%&a=%RANDOM16%&b=%RANDOM32%&c=%RANDOM64%&d=%RANDOM128%"
            "&e=%RANDOM16%&h=%PUBLICADDR%&x=%20&y=%NOTHING%&z=%RANDOM17%"
        )
        self.assertEqual(
            self.both(template)[0],
            "https://d.com/job7/?u=nimbix&j=20260101000000-ABCDE-app-user_s1"
            f"&a={LETTERS[:16]}&b={LETTERS[:32]}&c={LETTERS[:64]}&d={LETTERS}"
            f"&e={LETTERS[:16]}&h=d.com&x=%20&y=%NOTHING%&z=%RANDOM17%",
        )

    def test_fragment(self) -> None:
        """What is behind a # stays there, a question mark in it too."""
        self.assertEqual(
            self.both("https://%PUBLICADDR%:1/#/a?token=%RANDOM16%")[0],
            f"https://d.com/job7/#/a?token={LETTERS[:16]}",
        )

    @given(st.one_of(st.text(max_size=60), st.text("%:/?#[]@ABEHLRSU.\\ \n", max_size=40)))
    @property_test(300)
    def test_whatever_a_template_is(self, template: str) -> None:
        """A URL comes of it, printable and below the job's own address."""
        for url, base in zip(
            self.both(template), ("https://d.com/job7/", "https://jarvice-7.d.com/"), strict=True
        ):
            self.assertTrue(url.startswith(base), url)
            self.assertRegex(url, r"\A[\x21-\x7e]+\Z")
            self.assertEqual(urlsplit(url).netloc, urlsplit(base).netloc)


class OtherTests(SynchronousTestCase):
    """Help, and what the probe is told."""

    def test_help(self) -> None:
        """Every field, and %CONNECTURL%, in a text that is otherwise left alone."""
        found = record(
            url="https://%PUBLICADDR%:5902/lab?t=%RANDOM16%",
            help_text='<a href="%CONNECTURL%">%JOBNAME%</a> as %NIMBIXUSER%, 100% %PUBLICADDR%',
        )
        self.assertEqual(
            render_help(BY_PATH, found),
            f'<a href="https://d.com/job7/lab?t={LETTERS[:16]}">'
            "20260101000000-ABCDE-app-user_s1</a> as nimbix, 100% d.com",
        )

    def test_ingress_path(self) -> None:
        """What a job is told of its prefix is the path of its address."""
        for text in ("d.com", "d.com/job$", "https://d.com/a/job$/b", "http://d.com:8080/job$/"):
            domain = parse_jobs_domain(text, "ns")
            path = urlsplit(domain.url(12)).path.strip("/")
            self.assertEqual(render_ingress_path(text, 12), path, text)
            self.assertEqual(render_ingress_path(domain.path, 12), path, text)

    def test_service_path(self) -> None:
        """The path that a job's URL opens with, its prefix and query not in it."""
        found = record(url="https://%PUBLICADDR%:5902/%BASEURL%/a/b.html?x=/c")
        self.assertEqual(service_path(BY_PATH, found), "a/b.html")
        self.assertEqual(service_path(BY_HOST, found), "a/b.html")
        self.assertEqual(service_path(BY_PATH, record()), "")

    def test_names_its_prefix(self) -> None:
        """A prefix in the path says that the application serves under it, in a query nothing."""
        self.assertTrue(names_its_prefix(record(url="https://%PUBLICADDR%/%BASEURL%/lab?x")))
        self.assertFalse(names_its_prefix(record(url="https://%PUBLICADDR%/?x=%BASEURL%")))
        self.assertFalse(names_its_prefix(record(url="https://%PUBLICADDR%/#%BASEURL%")))
        self.assertFalse(names_its_prefix(record()))
