"""Packaging of jarvice-slurmd; the pinned versions stand in requirements/."""

from setuptools import find_packages, setup

setup(
    name="jarvice-slurmd",
    version="0.1.0",
    description="JARVICE downstream scheduler for existing Slurm clusters",
    python_requires=">=3.11",
    packages=[*find_packages(include=["jarvice_slurmd", "jarvice_slurmd.*"]), "twisted.plugins"],
    package_data={
        "jarvice_slurmd": ["py.typed"],
        "jarvice_slurmd.jobs": ["*.sh"],
        "jarvice_slurmd.slurm": ["*.sh"],
    },
    install_requires=[
        "attrs",
        "cryptography",
        "twisted[conch,tls]",
        "zope.interface",
    ],
)
