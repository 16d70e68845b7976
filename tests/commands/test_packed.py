"""Archives are unpacked whole, within their directory, or not at all."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from espnet_softpl.commands import packed
from espnet_softpl.core.errors import UserError

META = b"files: {}\n"


def make_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("meta.yaml")
        info.size = len(META)
        archive.addfile(info, io.BytesIO(META))
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", ".."])
def test_a_zip_that_leads_out(tmp_path, name) -> None:
    archive = make_zip(tmp_path / "m.zip", **{"meta.yaml": META, name: b"x"})
    with pytest.raises(UserError, match="lead out of the archive's directory"):
        packed.unpack(archive, tmp_path / "deep" / "target")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "m.zip"]


@pytest.mark.parametrize(
    "members, message",
    [
        ([tarfile.TarInfo("../evil")], "lead out of the archive's directory"),
        ([tarfile.TarInfo("/evil")], "lead out of the archive's directory"),
        ([link("out", "../.."), tarfile.TarInfo("out/evil")], "cannot be unpacked"),
        ([link("out", "/etc/passwd")], "cannot be unpacked"),
        ([link("out", "../../m.tgz", tarfile.LNKTYPE)], "cannot be unpacked"),
    ],
)
def test_a_tar_that_leads_out(tmp_path, members, message) -> None:
    archive = make_tar(tmp_path / "m.tgz", *members)
    with pytest.raises(UserError, match=message):
        packed.unpack(archive, tmp_path / "deep" / "target")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "m.tgz"]


def test_an_older_python_has_no_filter(tmp_path, monkeypatch) -> None:
    """As before 3.10.12 and 3.11.4."""
    monkeypatch.delattr(tarfile, "data_filter")
    extract = tarfile.TarFile.extractall
    older = lambda self, path: extract(self, path, filter="fully_trusted")  # noqa: E731
    monkeypatch.setattr(tarfile.TarFile, "extractall", older)
    plain = make_tar(tmp_path / "a.tgz", tarfile.TarInfo("model.pth"))
    packed.unpack(plain, tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"meta.yaml", "model.pth"}
    linked = make_tar(tmp_path / "b.tgz", link("model.pth", "meta.yaml"))
    with pytest.raises(UserError, match="holds links or devices"):
        packed.unpack(linked, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_link_in_a_zip_is_no_link(tmp_path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", META)
        archive.writestr(info, "/etc/passwd")
    packed.unpack(path, tmp_path / "target")
    assert not (tmp_path / "target/link").is_symlink()
    assert (tmp_path / "target/link").read_text() == "/etc/passwd"


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_unpacking_twice_does_nothing(tmp_path, make) -> None:
    members = {"meta.yaml": META} if make is make_zip else {}
    path = make(tmp_path / "m.tgz", **members)
    target = tmp_path / "a" / "target"
    packed.unpack(path, target)
    assert (target / "meta.yaml").read_bytes() == META
    (target / "mine").touch()
    packed.unpack(path, target)
    assert (target / "mine").exists()
    (target / "meta.yaml").write_text("other: 1\n")
    with pytest.raises(UserError, match="exists and is not what"):
        packed.unpack(path, target)
    assert [p.name for p in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("name", ["a_valid.acc.ave.zip", "a_valid.acc.ave.Tar.gz"])
def test_the_stem_has_the_criterion(name) -> None:
    assert packed.stem(Path("b.zip") / name) == "a_valid.acc.ave"
    assert packed.stem(Path("a_valid.acc")) == "a_valid.acc"


def test_what_is_no_archive(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        packed.unpack(tmp_path / "none.zip", tmp_path / "target")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(UserError, match="neither a zip nor a tar"):
        packed.unpack(tmp_path / "text.zip", tmp_path / "target")
    with pytest.raises(UserError, match="has no meta.yaml"):
        packed.unpack(make_zip(tmp_path / "m.zip", a=b"x"), tmp_path / "target")
    whole = make_zip(tmp_path / "n.zip", **{"meta.yaml": META, "b": b"x" * 999})
    whole.write_bytes(whole.read_bytes().replace(b"x" * 99, b"y" * 99))
    with pytest.raises(UserError, match="cannot be unpacked"):
        packed.unpack(whole, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_tar_that_ends_in_a_zip_archive(tmp_path) -> None:
    """As our own exports do: a model is a zip archive."""
    inner = make_zip(tmp_path / "m.zip", weights=b"x").read_bytes()
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        for name, content in (("meta.yaml", META), ("model.pth", inner)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert zipfile.is_zipfile(tmp_path / "m.tar")
    packed.unpack(tmp_path / "m.tar", tmp_path / "out")
    assert (tmp_path / "out" / "model.pth").read_bytes() == inner


def bomb_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.yaml", META)
        archive.writestr("zeros", bytes(3 * 10**6))


def bomb_tar(path: Path) -> None:
    zeros = tarfile.TarInfo("zeros")
    zeros.size = 3 * 10**6
    make_tar(path, zeros)


def many(path: Path) -> None:
    make_tar(path, *(tarfile.TarInfo(f"m{i}") for i in range(3000)))


@pytest.mark.parametrize("make", [bomb_zip, bomb_tar, many])
def test_archives_that_grow(tmp_path, monkeypatch, make) -> None:
    monkeypatch.setattr(packed, "MOST_EXTRA", 10**6)
    make(tmp_path / "m.tgz")
    with pytest.raises(UserError, match="when unpacked, 20 times its size"):
        packed.unpack(tmp_path / "m.tgz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m.tgz"]


def encrypted(path: Path) -> None:
    content = bytearray(make_zip(path, **{"meta.yaml": META}).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)


def torn_xz(path: Path) -> None:
    with tarfile.open(path, "w:xz") as archive:
        info = tarfile.TarInfo("model.pth")
        info.size = 10**5
        archive.addfile(info, io.BytesIO(bytes(range(250)) * 400))
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 20 + content[120:])


@pytest.mark.parametrize("make", [encrypted, torn_xz])
def test_archives_that_cannot_be_read(tmp_path, make) -> None:
    make(tmp_path / "m.zip")
    with pytest.raises(UserError, match="cannot be unpacked|damaged") as error:
        packed.unpack(tmp_path / "m.zip", tmp_path / "out")
    assert "\n" not in str(error.value)
