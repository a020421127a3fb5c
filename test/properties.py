"""How property tests run here: the same examples every time, and few enough to be quick."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.model import check_name


def property_test(examples: int) -> settings:
    """The settings of one property test: a decorator below `given`."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


#: Characters that mean something to a shell, to Slurm, to find or to printf.
NASTY = " !\"#$%&'()*,-.:;<=>?@[\\]^`{|}~\té€\u2028😀"


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidArgumentsError:
        return False
    return True


#: Text for one word of a shell: anything but NUL and what UTF-8 can't say.
words = st.text(
    st.one_of(
        st.sampled_from(NASTY + "\n\r\x01"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=40,
)

#: What `check_name` lets pass, ugly ones preferred.
names = st.text(
    st.one_of(st.sampled_from(NASTY + "abc019_"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=40,
).filter(_is_name)

#: Absolute paths as `wire.absolute_path` lets them pass: no control characters.
paths = st.lists(
    st.text(st.sampled_from(NASTY.replace("\t", "") + "ab"), min_size=1, max_size=12).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))
