"""Packaging of hpckit: one place for its metadata and what it needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "hpckit/__init__.py").read_text())
assert VERSION is not None

setup(
    name="hpckit",
    version=VERSION.group(1),
    description="SLURM training runs that look after themselves",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # Named, so that an editable install is a plain path: a finder would cost 25 ms a start.
    package_dir={"": "."},
    packages=find_packages(include=["hpckit", "hpckit.*"]),
    package_data={
        "hpckit": [
            "py.typed",
            "spec.schema.json",
            "slurm_files/**/*",
            "templates/**/*",
            "report/*.js",
            "report/*.css",
        ]
    },
    install_requires=[
        "submitit>=1.5.4",
        "torch",
        "torchaudio",
        "pesq",
        "numpy",
        "pyyaml>=6",
        "click>=8.1",
        "tensorboard",
        "matplotlib",
    ],
    extras_require={
        # Reading sound files; decoding the speech that `hpckit data speech` fetches.
        "audio": ["av", "soundfile"],
        "test": [
            "accelerate",
            "lion-pytorch",
            "pytest",
            "jsonschema",
            "pexpect",
            "pyte",
            "playwright",
            "plotly",
            "pytest-xdist",
            "pytorch-lightning",
            "setuptools>=70.1",
            "transformers>=5.20",
        ],
        "dev": ["ruff", "mypy", "types-PyYAML", "types-jsonschema", "types-setuptools"],
    },
    entry_points={"console_scripts": ["hpckit = hpckit.cli:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Typing :: Typed",
    ],
)
