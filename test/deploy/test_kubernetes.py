"""The Kubernetes manifests: what they say fits together, and fits the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd import __version__
from jarvice_slurmd.service import Options, read_settings
from jarvice_slurmd.web.site import ANSWER_SECONDS
from test.deploy.bounds import longest_stop
from test.deploy.variables import known_variables

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"


def load(name: str) -> list[dict[str, Any]]:
    """The objects of one file."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


class ManifestTests(SynchronousTestCase):
    """deploy/kubernetes."""

    def setUp(self) -> None:
        (self.kustomization,) = load("kustomization.yaml")
        (self.deployment,) = load("deployment.yaml")
        self.services = {one["metadata"]["name"]: one for one in load("service.yaml")}
        (self.secret,) = load("secret.example.yaml")
        self.pod: dict[str, Any] = self.deployment["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]

    def literals(self) -> dict[str, str]:
        """The settings of the generated ConfigMap."""
        (generator,) = self.kustomization["configMapGenerator"]
        return dict(one.split("=", 1) for one in generator["literals"])

    def test_files(self) -> None:
        """Every file is part of the base, or says that it is an example."""
        files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
        examples = {name for name in files if name.endswith(".example.yaml")}
        self.assertEqual(set(self.kustomization["resources"]), files - examples)

    def test_variables(self) -> None:
        """Every environment variable is a setting."""
        named = {*self.literals(), *self.secret["stringData"]}
        self.assertEqual(named - known_variables(), set())
        self.assertNotIn("env", self.container)

    def test_names(self) -> None:
        """What the pod takes its environment from is there under that name."""
        config, secret = self.container["envFrom"]
        (generator,) = self.kustomization["configMapGenerator"]
        self.assertEqual(config["configMapRef"]["name"], generator["name"])
        self.assertEqual(secret["secretRef"]["name"], self.secret["metadata"]["name"])

    def test_no_secret_in_the_config_map(self) -> None:
        """Keys and passwords come from the Secret alone."""
        for name in self.literals():
            self.assertNotRegex(name, "PKEY|PASSWORD|SERVER_KEY")

    def test_example_secret_is_refused(self) -> None:
        """Nobody runs with the placeholders: the daemon does not start, for each of them."""
        _, problems = read_settings({**self.literals(), **self.secret["stringData"]})
        for name in self.secret["stringData"]:
            self.assertEqual(len([one for one in problems if name in one]), 1, (name, problems))
        self.assertEqual(len(problems), len(self.secret["stringData"]), problems)

    def test_required_settings(self) -> None:
        """With nothing from the Secret only what it is for is missing."""
        _, problems = read_settings(self.literals())
        self.assertEqual(problems, ["JARVICE_SLURM_SSH_PKEY is required and not set"])

    def test_ports(self) -> None:
        """The listeners, the container's ports, the Services' and the probes' are the same."""
        self.patch(Options, "environ", {})
        options = Options()
        with self.assertRaises(Exception):  # noqa: B017 - it has no settings
            options.parseOptions(self.container["args"])  # type: ignore[no-untyped-call]
        ports = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        self.assertEqual(options["http"], [f"tcp:{ports['http']}"])
        self.assertEqual(options["jobs"], [f"tcp:{ports['jobs']}"])
        for name, port in (("jarvice-slurmd", "http"), ("jarvice-slurmd-jobs", "jobs")):
            (one,) = self.services[name]["spec"]["ports"]
            self.assertEqual((one["name"], one["targetPort"]), (port, port))
        for probe, path in (("livenessProbe", "/live"), ("readinessProbe", "/ready")):
            self.assertEqual(self.container[probe]["httpGet"], {"path": path, "port": "http"})

    def test_probes(self) -> None:
        """/ready answers after 0.8 s at most; nothing is restarted because the cluster is away."""
        self.assertGreater(self.container["readinessProbe"]["timeoutSeconds"], 0.8)
        live = self.container["livenessProbe"]
        self.assertGreaterEqual(live["failureThreshold"] * live["periodSeconds"], 30)

    def test_selectors(self) -> None:
        """Deployment and Services mean the pods of the template."""
        labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        self.assertEqual(self.deployment["spec"]["selector"]["matchLabels"], labels)
        for service in self.services.values():
            self.assertEqual(service["spec"]["selector"], labels)
        (spread,) = self.pod["topologySpreadConstraints"]
        self.assertEqual(spread["labelSelector"]["matchLabels"], labels)

    def test_jobs_in_an_outage(self) -> None:
        """Browsers are led to pods that are not ready, upstream is not (ADR 9)."""
        published = "publishNotReadyAddresses"
        self.assertTrue(self.services["jarvice-slurmd-jobs"]["spec"][published])
        self.assertNotIn(published, self.services["jarvice-slurmd"]["spec"])

    def test_ingress(self) -> None:
        """The examples lead to ports that the Services have, and give answers their time."""
        jobs, api = load("ingress.example.yaml")
        for ingress in (jobs, api):
            (rule,) = ingress["spec"]["rules"]
            self.assertEqual(ingress["spec"]["tls"][0]["hosts"], [rule["host"]])
            (path,) = rule["http"]["paths"]
            backend = path["backend"]["service"]
            service = self.services[backend["name"]]
            self.assertEqual(service["spec"]["ports"][0]["name"], backend["port"]["name"])
            self.assertEqual(backend["name"], ingress["metadata"]["name"])
        prefix = "nginx.ingress.kubernetes.io"
        annotations = api["metadata"]["annotations"]
        self.assertGreater(int(annotations[f"{prefix}/proxy-read-timeout"]), ANSWER_SECONDS)
        mebibytes = int(self.literals()["JARVICE_SLURM_BODY_BYTES"]) // 2**20
        self.assertEqual(annotations[f"{prefix}/proxy-body-size"], f"{mebibytes}m")

    def test_stop(self) -> None:
        """It is given the time that a stop takes at most."""
        sleep, seconds = self.container["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual(sleep, "sleep")
        grace = self.pod["terminationGracePeriodSeconds"]
        self.assertGreater(grace, int(seconds) + longest_stop())

    def test_privileges(self) -> None:
        """None: no root, no capability, no token, nothing to write to but /tmp."""
        self.assertIs(self.pod["automountServiceAccountToken"], False)
        self.assertIs(self.pod["securityContext"]["runAsNonRoot"], True)
        security = self.container["securityContext"]
        self.assertIs(security["readOnlyRootFilesystem"], True)
        self.assertIs(security["allowPrivilegeEscalation"], False)
        self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
        (mount,) = self.container["volumeMounts"]
        self.assertEqual(mount["mountPath"], "/tmp")
        (volume,) = self.pod["volumes"]
        self.assertEqual(volume["name"], mount["name"])

    def test_image(self) -> None:
        """This version of it, from the registry that the site names; run by the same user."""
        self.assertEqual(self.container["image"], f"jarvice-slurmd:{__version__}")
        dockerfile = (FOLDER.parent / "image" / "Dockerfile").read_text()
        user = self.pod["securityContext"]
        self.assertIn(f"USER {user['runAsUser']}:{user['runAsGroup']}\n", dockerfile)
        self.assertIn(f" -t {self.container['image']} ", dockerfile)

    def test_nothing_of_a_namespace(self) -> None:
        """The namespace is the site's."""
        for name in self.files():
            for one in load(name):
                self.assertNotIn("namespace", one.get("metadata", {}), name)

    def files(self) -> Iterator[str]:
        """The names of all files."""
        return (path.name for path in sorted(FOLDER.glob("*.yaml")))
