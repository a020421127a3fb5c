"""What the administrator is shown of a job's text, and what he is not."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from shlex import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.jobs.executor import parse_job, read_executor_text, render_node_script
from jarvice_slurmd.jobs.masking import MASK, mask_described, mask_secrets
from test.properties import property_test, words

_PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r+/=\nhushhush\n"
_END = "-----END OPENSSH PRIVATE KEY-----"
_EXECUTOR = mask_secrets(read_executor_text())


class MaskTests(SynchronousTestCase):
    """`mask_secrets`."""

    def test_variables(self) -> None:
        """Values of variables whose name says secret are masked, to their line's end."""
        for line in (
            "JOBOBJ_CTRSECRET=abc",
            "export JARVICE_DOCKER_PASSWORD='abc' # why",
            'JOBOBJ_DOCKER_SECRET={{"password": "abc"}}',
            "SINGULARITYENV_JARVICE_JOBTOKEN=abc",
            "a=1 password=abc",
            "JARVICE_INIT_DOCKER_USERNAME=abc",
            "x SECRETS=y TOKEN=abc",
        ):
            shown = mask_secrets(f"before\n{line}\nafter")
            self.assertNotIn("abc", shown)
            self.assertTrue(
                shown.startswith("before\n") and shown.endswith(f"={MASK}\nafter"), line
            )

    def test_encoded_command(self) -> None:
        """What JARVICE's command says in base64 is no more readable than in clear."""

        def encode(command: str) -> str:
            return b64encode(command.encode("utf-8")).decode("ascii")

        for line in ("JARVICE_CMD={}", "export JARVICE_CMD={}", "export JARVICE_CMD='{}'"):
            shown = mask_secrets(
                f"a\n{line.format(encode('run --password hush it'))}\nb", ["known"]
            )
            self.assertEqual(shown, f"a\n{line.format(encode(f'run --password {MASK}'))}\nb")
            for same in (encode("echo fine"), "no base64", encode("x")[:-1] + "!"):
                text = f"a\n{line.format(same)}\nb"
                self.assertEqual(mask_secrets(text), text)
        shown = mask_secrets(f"JARVICE_CMD={encode('echo known')}", ["known"])
        self.assertEqual(shown, f"JARVICE_CMD={encode(f'echo {MASK}')}")

    def test_names(self) -> None:
        """Whole words of a name, and words run together with what they are for."""
        for name in (
            *("API_KEY", "KEY", "AWS_SECRET_ACCESS_KEY", "APIKEY", "SSH_PRIVATE_KEY", "key1"),
            *("PASS", "DB_PASS", "PGPASS", "SSHPASS", "PASSWD", "DB_PASSWD", "KEY_PASSPHRASE"),
            *("AUTH", "REDIS_AUTH", "BASIC_AUTH_LINE", "OAUTH", "CREDENTIALS", "AWS_CREDS"),
            *("MYSQL_PWD", "apiKey", "GPG_KEYS", "WIFI_PSK", "SESSION_COOKIE", "MY_JWT"),
        ):
            shown = mask_secrets(f"before\nexport {name}=abc\nafter")
            self.assertEqual(shown, f"before\nexport {name}={MASK}\nafter")

    def test_forms(self) -> None:
        """However a value is given to a name."""
        for line in (
            "TOKEN+=hush",
            "TOKENS[0]=hush",
            ': "${TOKEN:=hush}"',
            "x ${TOKEN:-hush}",
            "curl --api-key hush",
            "curl --api-key=hush",
            'curl -H "X-Api-Key: hush"',
            'echo \'{"auths": {"r": {"auth": "hush"}}}\'',
            'echo "{\\"password\\": \\"hush\\"}"',
            "TOKEN_FILE=/etc/x TOKEN=hush",
        ):
            shown = mask_secrets(f"before\n{line}\nafter")
            self.assertNotIn("hush", shown)
            self.assertTrue(shown.startswith("before\n") and shown.endswith("\nafter"), shown)

    def test_others_stay(self) -> None:
        """Everything else is there to be read."""
        for text in (
            "JOBOBJ_USER=joe\nPASSWORD=\necho secret\nif [ $TOKEN = x ]; then :; fi\n",
            "JARVICE_SINGULARITY_TMPDIR=/tmp JARVICE_SINGULARITY_OVERLAY_SIZE=640\n",
            "KEYBOARD=de COMPASS=n NO_PROXY_BYPASS=1 MONKEY=1 AUTHOR=joe PASSED=1 KEYMAP=de\n",
            "PWD=/home OLDPWD=/ PATH=/bin SLURM_JOB_ID=1 OMP_NUM_THREADS=8\n",
            "SSH_AUTH_SOCK=/tmp/agent TOKEN_FILE='/run/t' SSH_KEY_PATH=~/.ssh KEY_DIR=$HOME/k\n",
            "echo key: the first one; docker login --password-stdin\n",
            "grep -q 'BEGIN PRIVATE KEY' x || grep -e '-----BEGIN PRIVATE KEY-----' y && z\n",
            'curl -H "Authorization: Bearer $TOKEN" https://example.com:8080/a@b\n',
            'run "${JARVICE_DOCKER_PASSWORD:-}" image\n',
        ):
            self.assertEqual(mask_secrets(text), text)

    def test_our_own_text(self) -> None:
        """All that is masked in executor.sh are the two lines that take a password."""
        text = read_executor_text()
        pairs = zip(text.split("\n"), mask_secrets(text).split("\n"), strict=True)
        changed = [line.strip() for line, shown in pairs if line != shown]
        self.assertEqual(
            [line.partition("=")[0] for line in changed],
            ["user", 'export "${executor_prefix}_DOCKER_USERNAME'],
        )

    def test_values_of_several_lines(self) -> None:
        """A quote is followed to its end, also in text that stands in quotes itself."""
        for value in (
            "'aa\nhush'",
            '"aa\nhush"',
            '"a\\"a\nhush"',
            "$'a\\'a\nhush'",
            "pre'aa\nhush'",
            "\"$A\"'\nhush'",
            "aa\\\nhush",
            "(aa\nhush)",
            "$(echo\necho hush)",
            "`echo\necho hush`",
            '\\"aa\nhush\\"',
            "'\"'\"'a\"a\nhush'\"'\"'",
            "'\\''a\"a\nhush'\\''",
        ):
            shown = mask_secrets(f"before\nexport MY_PASSWORD={value}\nafter")
            self.assertEqual(shown, f"before\nexport MY_PASSWORD={MASK}\nafter", value)
        for outer in "'\"":
            shown = mask_secrets(f"export {outer}DEPLOY_SECRET=aa\nhush{outer}\nafter")
            self.assertEqual(shown, f"export {outer}DEPLOY_SECRET={MASK}\nafter")

    def test_quote_around(self) -> None:
        """The end of a quote that was open before is no beginning of one."""
        for line in (
            "bash -c 'cd x; A_TOKEN=hush'; echo",
            'bash -c "cd x; A_TOKEN=hush"; echo',
            "bash -c 'cd x; A_TOKEN=\"hush\"'; echo",
            "MY_TOKEN=hush # it's secret",
        ):
            shown = mask_secrets(f"{line}\necho 'hello'\n")
            self.assertNotIn("hush", shown)
            self.assertTrue(shown.endswith(f"{MASK}\necho 'hello'\n"), shown)

    def test_quote_without_end(self) -> None:
        """It may be anything: all of it is masked."""
        self.assertEqual(mask_secrets("TOKEN='a\nb\n"), f"TOKEN={MASK}")

    def test_credentials_of_http(self) -> None:
        """They are masked in a header, and wherever a scheme stands before them."""
        for line, masked in {
            "curl -H 'Authorization: Bearer abc.d-e_f' https://x": "Bearer abc.d-e_f",
            "curl -H 'authorization: basic am9lOng=' https://x": "basic am9lOng=",
            "curl -H 'Authorization: abcdef' https://x": "Authorization: abcdef",
            'echo "Bearer abcdef" >x': "Bearer abcdef",
        }.items():
            scheme = masked.rpartition(" ")[0]
            expected = line.replace(masked, f"{scheme} {MASK}")
            self.assertEqual(mask_secrets(line), expected)
        self.assertEqual(
            mask_secrets("git clone https://joe:hush@example.com/x.git\n"),
            f"git clone https://joe:{MASK}@example.com/x.git\n",
        )

    def test_private_keys(self) -> None:
        """A block of PEM is masked whole, also where its lines are escaped or it has no end."""
        for block in (f"{_PEM}{_END}", f"{_PEM}{_END}".replace("\n", "\\n"), f"{_PEM};"):
            shown = mask_secrets(f"cat >key <<EOF\n{block}\nEOF\nchmod 600 key\n")
            self.assertNotIn("hushhush", shown)
            self.assertNotIn("b3BlbnNz", shown)
            self.assertTrue(shown.endswith("\nEOF\nchmod 600 key\n"), shown)
        certificate = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
        self.assertEqual(mask_secrets(certificate), certificate)

    def test_given_secrets(self) -> None:
        """What is known to be secret is masked wherever it stands, the longest first."""
        shown = mask_secrets("curl -u joe:abcd https://abcdef@x", ("abcd", "abcdef", "abcd"))
        self.assertEqual(shown, f"curl -u joe:{MASK} https://{MASK}@x")

    def test_short_secrets(self) -> None:
        """A secret of a letter or two would mask the whole text, and tell itself by that."""
        self.assertEqual(mask_secrets("abc", ("a", "", "bc")), "abc")

    def test_megabytes(self) -> None:
        """Long words of letters, or of the telling ones, take no noticeable time."""
        for word in (
            *("a", "SECRET", "a=", "TOKEN=", "secret_", "-", "KEY", "--key ", '"key": ', "A-B: "),
            *("TOKEN='", 'TOKEN="', "TOKEN='\"'\"'", "TOKEN='\\''", 'TOKEN=\\"', "TOKEN=$'\\'"),
            *("TOKEN=(", "TOKEN=((x)\n", "TOKEN=`", "TOKEN=a\n", "TOKEN=\\", "x' TOKEN=y\n"),
            *("'a TOKEN_FILE=/", "KEY[", "Bearer ", "Authorization: ", "://a:", "://a:b@"),
            "-----BEGIN PRIVATE KEY-----",
        ):
            text = word * (500_000 // len(word))
            self.assertLess(len(mask_secrets(text)), 4 * len(text), word)

    @given(st.text(st.sampled_from("abc{}\n= "), max_size=30), st.text("ABC", min_size=4))
    @property_test(100)
    def test_no_secret_is_shown(self, text: str, secret: str) -> None:
        """Neither by its variable nor by itself."""
        script = f"{text}\nMY_PASSWORD={secret}\n{text}{secret}{text}"
        self.assertNotIn(secret, mask_secrets(script, (secret,)))

    @given(words, st.sampled_from(("{}", "bash -c {}", "a='b' ssh host {}")))
    @property_test(200)
    def test_any_value(self, value: str, around: str) -> None:
        """Whatever it is, quoted by a shell's rules, and in how many quotes: none of it is left."""
        line = f"API_KEY={quote(value + 'hush' + value)}"
        text = around.format(line if around == "{}" else quote(f"run; {line}"))
        shown = mask_secrets(f"before\n{text}\n")
        self.assertNotIn("hush", shown)
        self.assertTrue(shown.startswith("before\n"))


class DescribedTests(SynchronousTestCase):
    """`mask_described`: of a job that `job` describes, all of its environment is masked."""

    def show(
        self, environment: Mapping[str, object], command: object = "true", **fields: object
    ) -> str:
        job = {"image": "busybox", "command": command, "environment": environment, **fields}
        text = render_node_script(parse_job(job), "export JARVICE_CMD=''")
        return mask_described(text, environment, ("known-secret",))

    def test_every_value(self) -> None:
        """Whatever its name, its length or its characters."""
        environment = {
            "API_KEY": "keykeykey",
            "SSH_PRIVATE_KEY": "-----BEGIN\nfoo'\"'bar\n",
            "PGPASS": 'it\'s\n"hush"',
            "HARMLESS": "4711",
            "N": 99,
        }
        shown = self.show(environment, "echo $N", worker_command="sleep 5")
        for word in ("keykeykey", "BEGIN", "foo", "bar", "it's", "hush", "4711", "99"):
            self.assertNotIn(word, shown.removesuffix(_EXECUTOR), word)
        exports = "".join(f"export {name}={MASK}\n" for name in environment)
        self.assertIn(f"\nexecutor_command='{exports}echo $N'\n", shown)
        self.assertIn(f"\nexecutor_worker='{exports}sleep 5'\n", shown)

    def test_command(self) -> None:
        """It is masked as a text, in however many quotes it stands, and nothing beside it."""
        shown = self.show({}, "echo a\nexport MY_PASSWORD='a\"a\nhush'\nA_TOKEN=hush", cores=3)
        self.assertIn(
            f"\nexecutor_command='echo a\nexport MY_PASSWORD={MASK}\nA_TOKEN={MASK}'\n"
            "executor_worker=''\nexecutor_cores=3\n",
            shown,
        )
        shown = self.show({}, ["curl", "-H", "X-Api-Key: it's-hush"])
        self.assertNotIn("hush", shown)
        self.assertNotIn("known-secret", self.show({}, ["curl", "known-secret"]))
        self.assertNotIn("hush", self.show({}, "A_TOKEN=hush"))
        self.assertIn("\nexecutor_command=/bin/date\n", self.show({}, "/bin/date"))

    def test_repeated(self) -> None:
        """What the command repeats of a value is masked there; executor.sh stays readable."""
        environment = {"A": "keykeykey", "B": "first word!\nexecutor_command", "C": "true"}
        shown = self.show(environment, "true; curl -u 'joe:keykeykey' x; echo \"word!\"")
        self.assertNotIn("keykeykey", shown)
        self.assertIn(f"true; curl -u '\"'\"'joe:{MASK}'\"'\"' x", shown)
        self.assertIn("#   executor_command   shell text", shown)

    def test_as_executor(self) -> None:
        """A text that quotes our own names does not deceive."""
        command = "executor_worker='\nexecutor_command='A_TOKEN=hush'\nexecutor_worker='b'\n"
        self.assertNotIn("hush", self.show({"X": "secret-value"}, command))
        self.assertNotIn("secret-value", self.show({"X": "secret-value"}, command))

    def test_megabytes(self) -> None:
        """Very many values, and a very long command."""
        environment = {f"A{number}": f"value-{number}" for number in range(20_000)}
        shown = self.show(environment, "echo value-1 " * 50_000)
        self.assertFalse("value-" in shown.removesuffix(_EXECUTOR))

    @given(st.dictionaries(st.from_regex(r"\A[A-Z_]{1,9}\Z"), words, max_size=3), words)
    @property_test(100)
    def test_any(self, environment: dict[str, str], command: str) -> None:
        """Values of whatever characters are gone, with the command still behind them."""
        marked = {name: f"{value}hush{value}" for name, value in environment.items()}
        shown = self.show(marked, f"echo; {command}")
        self.assertNotIn("hush", shown)
        self.assertIn("".join(f"export {name}={MASK}\n" for name in marked) + "echo", shown)
