"""The head of a job's text, and its parameters put in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.script import fill_parameters, parse_job_text
from test.properties import property_test


class HeadTests(SynchronousTestCase):
    """`parse_job_text`: PROTOCOL §2."""

    def assert_refused(self, text: str, *words: str) -> None:
        with self.assertRaises(InvalidArgumentsError) as caught:
            parse_job_text(text)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_nothing(self) -> None:
        """A text without any key is an interactive job of one core."""
        text = parse_job_text("echo hello\n")
        self.assertEqual((text.appdefversion, text.request.cores), (2, 1))
        self.assertTrue(text.request.interactive)
        self.assertEqual(
            (text.request.ram, text.request.gpus, text.request.walltime, text.request.devices),
            (0, 0, None, ()),
        )
        self.assertEqual((text.repo, text.nae, text.user, text.docker_secret), (None,) * 4)

    def test_every_key(self) -> None:
        """Each finds its place."""
        text = parse_job_text(
            "JOBOBJ_INTERACTIVE=False\nJOBOBJ_APPDEFVERSION=3\nJOBOBJ_ARCH=aarch64\n"
            "JOBOBJ_NAE=joe-app_x\nJOBOBJ_REPO=r.io/x:1\nJOBOBJ_CTRSECRET=Y3Ry\nJOBOBJ_USER=joe-x_y\n"
            'JOBOBJ_DOCKER_SECRET={{"server": "r.io"}}\nJOBOBJ_DEVICES=["partition=a", "b=c"]\n'
            "JOBOBJ_GPUS=2\nJOBOBJ_RAM=8\nJOBOBJ_LICENSES=a:1,b\nJOBOBJ_WALLTIME=1-00:00:00\n"
            "JARVICE_CPU_CORES=4\nJARVICE_CMD=bHM=\n"
        )
        self.assertEqual((text.appdefversion, text.arch, text.nae), (3, "aarch64", "joe-app_x"))
        self.assertEqual((text.repo, text.user, text.command), ("r.io/x:1", "joe-x_y", "bHM="))
        self.assertEqual(text.container_secret, "Y3Ry")
        self.assertEqual(text.docker_secret, '{{"server": "r.io"}}')
        request = text.request
        self.assertEqual((request.cores, request.ram, request.gpus), (4, 8, 2))
        self.assertEqual((request.walltime, request.licenses), ("1-00:00:00", "a:1,b"))
        self.assertEqual(request.devices, ("partition=a", "b=c"))
        self.assertFalse(request.interactive)

    def test_first_line_wins(self) -> None:
        """A later line of the same key changes nothing, also where the first is empty."""
        self.assertEqual(parse_job_text("JOBOBJ_RAM=1\nJOBOBJ_RAM=2\n").request.ram, 1)
        self.assertEqual(parse_job_text("JOBOBJ_RAM=\nJOBOBJ_RAM=2\n").request.ram, 0)

    def test_whole_value(self) -> None:
        """The value is all after the first equals sign, spaces and further ones included."""
        self.assertEqual(parse_job_text("JOBOBJ_LICENSES= a=b c= \n").request.licenses, " a=b c= ")

    def test_starts_exactly(self) -> None:
        """A key that is indented, exported, quoted, commented or longer is none."""
        for line in (
            " JOBOBJ_RAM=5",
            "export JOBOBJ_RAM=5",
            "#JOBOBJ_RAM=5",
            "JOBOBJ_RAMX=5",
            "JOBOBJ_RAM =5",
            "jobobj_ram=5",
            "XJOBOBJ_RAM=5",
        ):
            self.assertEqual(parse_job_text(line).request.ram, 0, line)

    def test_line_ends(self) -> None:
        """A carriage return before the line feed is no part of a value; the last line counts."""
        self.assertEqual(
            parse_job_text("JOBOBJ_WALLTIME=1:00\r\nJOBOBJ_RAM=5\r\n").request.walltime, "1:00"
        )
        self.assertEqual(parse_job_text("x\nJOBOBJ_RAM=5").request.ram, 5)

    def test_other_separators(self) -> None:
        """Only a line feed ends a line, as in a shell."""
        text = parse_job_text("JOBOBJ_LICENSES=a\u2028JOBOBJ_RAM=5\x0cb\n")
        self.assertEqual((text.request.licenses, text.request.ram), ("a\u2028JOBOBJ_RAM=5\x0cb", 0))

    def test_interactive(self) -> None:
        """`False` alone is False."""
        for value in ("", "True", "false", "0", "no", " False"):
            text = parse_job_text(f"JOBOBJ_INTERACTIVE={value}\n")
            self.assertTrue(text.request.interactive, value)

    def test_walltime(self) -> None:
        """`None` is unset."""
        self.assertIsNone(parse_job_text("JOBOBJ_WALLTIME=None\n").request.walltime)

    def test_old_application(self) -> None:
        """Version 1 is refused."""
        for version in ("0", "1"):
            self.assert_refused(
                f"JOBOBJ_APPDEFVERSION={version}\n", "JOBOBJ_APPDEFVERSION", version
            )

    def test_no_numbers(self) -> None:
        """What should be a number is named when it is none."""
        for key in ("JOBOBJ_RAM", "JOBOBJ_GPUS", "JARVICE_CPU_CORES", "JOBOBJ_APPDEFVERSION"):
            for value in ("x", "-1", "1.5", "1e3", "٣", "9" * 10, "9" * 5000, "1;id", " 1"):
                self.assert_refused(f"{key}={value}\n", key)
        self.assert_refused("JARVICE_CPU_CORES=0\n", "JARVICE_CPU_CORES")

    def test_no_devices(self) -> None:
        """What is no JSON list of strings is named, however deep."""
        for value in ("partition=a", '{"a": "b"}', "[1]", '["a"', '"a"', "null", "[" * 100_000):
            self.assert_refused(f"JOBOBJ_DEVICES={value}\n", "JOBOBJ_DEVICES")

    def test_devices_with_doubled_braces(self) -> None:
        """The head is read before the text is rendered; JSON without braces stays what it is."""
        text = parse_job_text('JOBOBJ_DEVICES=["sbatch_comment={{x}}"]\n')
        self.assertEqual(text.request.devices, ("sbatch_comment={{x}}",))

    @given(st.text(st.sampled_from('JOBOBJ_RAM=\nDEVICES["]{}, 1\r\0')))
    @property_test(200)
    def test_raises_only_its_own_error(self, text: str) -> None:
        """Whatever is sent."""
        try:
            parse_job_text(text)
        except InvalidArgumentsError as error:
            self.assertLess(len(str(error)), 400)


class BraceTests(SynchronousTestCase):
    """`fill_parameters`: str.format's rules for templates, none for shell."""

    def test_template(self) -> None:
        """The field is replaced and doubled braces become single ones."""
        self.assertEqual(
            fill_parameters("{DOWNSTREAM_PARAMETERS}\nf() {{ echo ${{x}}; }}", "export A=1"),
            "export A=1\nf() { echo ${x}; }",
        )

    def test_shell(self) -> None:
        """Bare braces say that it is no template: every brace stays, the field is replaced."""
        self.assertEqual(
            fill_parameters("{DOWNSTREAM_PARAMETERS}\nf() { echo ${x} {{}}; }", "export A=1"),
            "export A=1\nf() { echo ${x} {{}}; }",
        )

    def test_doubled_field(self) -> None:
        """In a template a doubled field is text."""
        self.assertEqual(
            fill_parameters("{{DOWNSTREAM_PARAMETERS}} {DOWNSTREAM_PARAMETERS}", "P"),
            "{DOWNSTREAM_PARAMETERS} P",
        )
        self.assertEqual(fill_parameters("{{{DOWNSTREAM_PARAMETERS}}}", "P"), "{P}")

    def test_parameters_are_not_rendered(self) -> None:
        """Braces and backslashes in the parameters are the parameters'."""
        parameters = "export A='{{}} {DOWNSTREAM_PARAMETERS} \\1 \\g<0>'"
        self.assertEqual(fill_parameters("{DOWNSTREAM_PARAMETERS}", parameters), parameters)
        self.assertEqual(
            fill_parameters("{ {DOWNSTREAM_PARAMETERS}", parameters), f"{{ {parameters}"
        )

    def test_no_other_feature(self) -> None:
        """Attributes, indexes, conversions, formats and other fields are text."""
        for text in (
            "{DOWNSTREAM_PARAMETERS.__class__}",
            "{DOWNSTREAM_PARAMETERS[0]}",
            "{DOWNSTREAM_PARAMETERS!r}",
            "{DOWNSTREAM_PARAMETERS:>99999999}",
            "{DOWNSTREAM_PARAMETERS }",
            "{0}",
            "{}",
            "{x}",
            "{",
            "}",
            "}{",
            "{}}",
            "{{}",
        ):
            self.assertEqual(fill_parameters(text, "P"), text)
            self.assertEqual(fill_parameters(f"{text} {{{{", "P"), f"{text} {{{{")

    def test_no_braces(self) -> None:
        """Text without any stays as it is."""
        self.assertEqual(
            fill_parameters("echo 'DOWNSTREAM_PARAMETERS' \\", "P"),
            "echo 'DOWNSTREAM_PARAMETERS' \\",
        )

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(["{{", "}}", "{DOWNSTREAM_PARAMETERS}", "DOWNSTREAM_PARAMETERS"]),
                st.text(st.characters(exclude_characters="{}"), max_size=5),
            )
        ).map("".join),
        st.text(max_size=20),
    )
    @property_test(300)
    def test_as_str_format(self, template: str, parameters: str) -> None:
        """For every valid template: exactly what str.format makes of it."""
        try:
            wanted = template.format(DOWNSTREAM_PARAMETERS=parameters)
        except (ValueError, LookupError, AttributeError):
            # Doubled braces beside the field can spell something else: then it is shell.
            wanted = template.replace("{DOWNSTREAM_PARAMETERS}", parameters)
        self.assertEqual(fill_parameters(template, parameters), wanted)

    @given(st.text(st.sampled_from("{}DOWNSTREAM_PARAMETERS!.[0] x")))
    @property_test(300)
    def test_never_raises(self, text: str) -> None:
        """Whatever is sent: either as str.format would, or with its braces untouched."""
        filled = fill_parameters(text, "P")
        self.assertIn(filled, (text, text.replace("{{", "{").replace("}}", "}")))
