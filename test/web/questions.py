"""What upstream may ask: a request for each endpoint that asks the cluster something."""

from __future__ import annotations

import base64

REF = {"name": "x", "number": 7, "jobid": "41"}
SUBMIT = {
    "name": "x",
    "number": 7,
    "nodes": 1,
    "hpc_script": {"singularity": base64.b64encode(b"JOBOBJ_INTERACTIVE=False\n").decode()},
}
#: Each endpoint that asks the cluster something.
QUESTIONS: tuple[tuple[str, str, object], ...] = (
    ("GET", "/running", None),
    ("GET", "/queued", None),
    ("POST", "/submit", SUBMIT),
    ("POST", "/runstatus", REF),
    ("POST", "/exitstatus", REF),
    ("POST", "/terminate", REF),
    ("POST", "/release", REF),
    ("POST", "/events", REF),
    ("POST", "/request/x/7/41/tail", {}),
    ("POST", "/request/x/7/41/abort", {}),
    ("POST", "/request/x/7/41/shutdown", {}),
    ("POST", "/request/pvcls", {"qs": {"path": ["/tmp"]}}),
)
