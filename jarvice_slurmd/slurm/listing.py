"""What a folder of the cluster holds: the text that tells it (PROTOCOL, pvcls)."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from jarvice_slurmd.slurm.commands import Status


def render_list_folder(*, path: str, details: bool, allowed: Iterable[str] = ()) -> str:
    """The folders, then the files, in an absolute folder (PROTOCOL, pvcls).

    The path reaches `cd`, never find, so that it can't be taken for an option or an action. Where
    any folders are `allowed`, it must be in one of them after every link has been followed. A link
    in it that leads nowhere, or where we may not look, is no trouble; a folder that can't be read
    to its end is.
    """
    folders = " ".join(quote(folder) for folder in allowed)
    check = (
        f"""here=$(pwd -P; echo x)
here=${{here%
x}}/
found=
for folder in {folders}; do
    folder=$(cd -- "$folder" 2>/dev/null && pwd -P) || continue
    case $here in "${{folder%/}}"/*) found=yes ;; esac
done
[ "$found" ] || cannot "is a link out of the folders that may be listed"
"""
        if folders
        else ""
    )
    shown = quote(path.rstrip("/").replace("\\", "\\\\").replace("%", "%%"))
    size = "%Ts %s " if details else ""
    entries = "find -L . -mindepth 1 -maxdepth 1"
    return f"""cannot() {{
    printf '%s %s\\n' {quote(path)} "$1" >&2
    exit {Status.NOT_LISTABLE}
}}
cd -- {quote(path)} 2>/dev/null || {{
    [ ! -e {quote(path)} ] || [ -d {quote(path)} ] || cannot "is not a folder"
    [ -d {quote(path)} ] && cannot "can't be entered: permission denied"
    cannot "is not there, or in a folder that can't be entered"
}}
{check}[ -r . ] || cannot "can't be read: permission denied"
prefix={shown}
exec 4>&1
said=$(
    exec 2>&1
    status=0
    export LC_ALL=C
    {entries} -type d -printf '{size}/data'"$prefix"'/%P/\\n' >&4 || status=$?
    {entries} -type f -printf '{size}/data'"$prefix"'/%P\\n' >&4 || status=$?
    exit "$status"
) && exit 0
other=$(printf '%s\\n' "${{said:-find failed}}" |
    grep -v -e ': Too many levels of symbolic links$' -e ': Permission denied$')
[ -z "$other" ] || {{
    printf '%s\\n' "$other" >&2
    exit {Status.NO_FOLDER}
}}
exit 0
"""
