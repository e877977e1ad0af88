"""Tars against what was put into them: which images, which bytes, which class; a sentence for each that is wrong."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
import torch

from spherectl.data import indexes, shards, tars
from spherectl.data.datasets import open_dataset
from spherectl.data.decode import ImageError
from spherectl.data.shards import expand_braces, open_shards
from spherectl.data.tars import read_member, read_shard
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.recipe import DataSpec
from tests.data.bounded import bounded

pytestmark = pytest.mark.fast

TICK_S = 0.02  # longer than a file system's clock takes to its next step


def opened(root: Path | str, split: str = "train", size: int = 8):
    return open_dataset(DataSpec(kind="shards"), size, root=root, split=split)  # type: ignore[arg-type]


def greys(dataset, numbers) -> list[int]:
    return dataset.gather(numbers)[:, 0, 0, 0].tolist()


def test_members_are_found_by_their_bytes(tmp_path, write_tar):
    members = {
        "a/1.jpg": b"one",
        "a/1.cls": b"7\n",
        "a/1.txt": b"caption",
        "./2.PNG": b"two" * 1000,
        "./2.json": b'{"label": 3, "text": "x"}',
        "3.webp": b"",
        "3.json": b'{"class_id": 5}',
        "4.jpeg": b"four",
        "4.json": b'{"label": 9}',
        "4.cls": b"2",
        "5.cls": b"1",
        "6.pyd": b"\x80\x04never loaded",
        "6.pth": b"\x80\x04never loaded",
        "7.seg.png": b"another kind of image",
        "._1.jpg": b"what macOS leaves",
        "x" * 150 + ".png": b"long name",
        "x" * 150 + ".cls": b" 4 ",
        **dict.fromkeys((".git/3.png", "__MACOSX/4.png", "a/@eaDir/5.png", "a/.thumbs/6.png"), b"hidden"),
    }
    path = write_tar(tmp_path / "0.tar", members)
    shard = read_shard(path)
    names = [os.fsdecode(bytes(name)) for name in shard.names]
    assert names == ["a/1.jpg", "./2.PNG", "3.webp", "4.jpeg", "x" * 150 + ".png"]
    assert shard.labels.tolist() == [7, 3, 5, 2, 4]
    contents = [read_member(path, int(at), int(size)) for at, size in zip(shard.offsets, shard.sizes, strict=True)]
    assert contents == [members[name] for name in names]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar(tmp_path, form):
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as tar:
        tar.addfile(tarfile.TarInfo("ö"), None)
        for name in ("ö/1.png", "d/" * 40 + "2.png"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 3, 1_700_000_000.25
            info.pax_headers = {"SCHILY.xattr.user.x": "\0\n=1 2"}  # as GNU tar and macOS write them
            tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.SYMTYPE, "ö/1.png"
        tar.addfile(link)
    shard = read_shard(tmp_path / "0.tar")
    assert [os.fsdecode(bytes(name)) for name in shard.names] == ["ö/1.png", "d/" * 40 + "2.png"]
    assert [read_member(tmp_path / "0.tar", int(at), 3) for at in shard.offsets] == [b"abc", b"abc"]


@pytest.fixture
def three(tmp_path, write_tar, labelled) -> Path:
    """Images 0 to 9 in three shards, of three classes."""
    root = tmp_path / "set"
    for i, (first, labels) in enumerate([(0, [0, 1, 2, 0]), (4, [1, 1]), (6, [2, 0, 1, 2])]):
        write_tar(root / f"{i:06d}.tar", labelled(first, labels))
    return root


@pytest.mark.parametrize("given", ["", "{000000..000002}.tar", "*.tar"])
def test_a_set_by_folder_and_by_pattern(three, given):
    (three / "._000000.tar").touch()
    dataset = opened(three / given)
    assert greys(dataset, range(10)) == list(range(10))
    assert greys(dataset, [9, 0, 5]) == [9, 0, 5]
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 1, 2, 0, 1, 2]
    assert (dataset.name, dataset.class_names) == ("set", ("0", "1", "2"))
    assert dataset.origin == str(three / given)
    assert greys(opened(dataset.origin), range(10)) == list(range(10))
    assert greys(opened(three / "000000.tar"), range(4)) == [0, 1, 2, 3]
    if given:
        with pytest.raises(UsageError, match="there are no test images"):
            opened(three / given, "test")


@pytest.mark.parametrize(
    ("file", "text"), [("classes.txt", "\ufeffcat\r\ndog\r\neel\r\nfox\r\n"), ("class_names.json", None)]
)
@pytest.mark.parametrize("place", ["", ".."])
def test_class_names_beside_the_shards(three, file, text, place):
    names = ("cat", "dog", "eel", "fox")
    (three / place / file).write_text(text or json.dumps(names), newline="")
    assert opened(three).class_names == names
    (three / place / file).write_text(json.dumps(names[:2]) if text is None else "cat\ndog")
    with pytest.raises(FileError, match="is of class 2; the class file has 2 names"):
        opened(three)


def test_split_folders_and_split_names(tmp_path, write_tar, labelled, image_bytes):
    for root, train, test in (("a", "Train/0.tar", "Valid/0.tar"), ("b", "x-train-0.tar", "x-validation-0.tar")):
        write_tar(tmp_path / root / train, labelled(0, [0, 1, 2]))
        write_tar(tmp_path / root / test, labelled(10, [1]))
        assert greys(opened(tmp_path / root), range(3)) == [0, 1, 2]
        held_out = opened(tmp_path / root, "test")
        assert (greys(held_out, [0]), held_out.labels.tolist()) == ([10], [1])
    members = {"1.png": image_bytes(1), "1.txt": b"a cat", "1.json": b'{"text": "a cat"}'}
    write_tar(tmp_path / "c" / "latest-0.tar", members)  # "test" within a word is no split
    dataset = opened(tmp_path / "c")
    assert (greys(dataset, [0]), dataset.class_names, dataset.labels.tolist()) == ([1], (), [0]), "without labels"
    with pytest.raises(UsageError, match="has no test images"):
        opened(tmp_path / "c", "test")


def test_a_broken_image_is_named_by_shard_and_member(tmp_path, write_tar, labelled):
    write_tar(tmp_path / "0.tar", labelled(0, [0] * 150) | {"000007.png": b"no image"})
    dataset = opened(tmp_path)
    with pytest.raises(ImageError, match=rf"^Cannot read the image {tmp_path}/0\.tar/000007\.png: it is not a"):
        dataset.gather([7])
    assert dataset.read([7]).unreadable == (f"{tmp_path}/0.tar/000007.png",)
    assert dataset.read([7]).images[0, 0, 0, 0] == 8
    (tmp_path / "0.tar").unlink()
    with pytest.raises(ImageError, match=r"0\.tar/000004\.png: No such file"):
        dataset.gather([4])


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.png": b"", "1.jpg": b""}, r"two images of one key: 1\.png and 1\.jpg"),
        ({"1.png": b"", "1.cls": b"cat"}, r"1\.cls has the label 'cat'; expected a number from 0"),
        ({"1.png": b"", "1.cls": b"0", "2.png": b""}, r"2\.png has no label, and others have"),
        ({"1.png": b"", "1.cls": b"1"}, "The labels reach 1, .* no image is of class 0"),
        ({"1.txt": b"caption"}, r"No images in .*0\.tar: expected members KEY\.png, KEY\.jpg"),
    ],
)
def test_wrong_members_are_one_sentence(tmp_path, write_tar, members, words):
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(SpherectlError, match=words) as caught:
        open_shards(tmp_path, "train")
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(("name", "mode"), [("0.tar.gz", "w:gz"), ("0.tar", "w:bz2")], ids=["name", "first bytes"])
def test_compressed_tars_are_refused(tmp_path, write_tar, labelled, name, mode):
    write_tar(tmp_path / name, labelled(0, [0]), mode)
    with pytest.raises(UsageError, match="is compressed, so that images in it cannot be read one by one"):
        opened(tmp_path)


def test_a_tar_cut_off_or_damaged_is_refused(tmp_path, write_tar):
    """Blocks of 512 bytes: header and content of 1.png, header and content of 2.png."""
    path = write_tar(tmp_path / "0.tar", {"1.png": b"one", "2.png": b"two"})
    content = path.read_bytes()
    path.write_bytes(content[:1024])  # whole members, and no end: as a concatenation is written
    assert len(read_shard(path).names) == 1
    for damaged in (content[:100], content[:700], content[:1124], content[:1836], b"", b"no tar at all" * 100):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"0\.tar is (not a whole tar file|damaged)"):
            read_shard(path)
    path.write_bytes(content[:1024] + b"?" * 76 + content[1100:])
    with pytest.raises(FileError, match="byte 1,024 begins neither a member nor the end"):
        read_shard(path)


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header whose size field is as given: octal digits, or eight bits a digit after 0x80 or 0xff."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157], block[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def attributes(content: bytes) -> bytes:
    return header("x", b"%011o" % len(content), b"x") + content.ljust(-(-len(content) // 512) * 512, b"\0")


GOOD_MEMBER = header("1.png", b"00000000003") + b"one".ljust(512, b"\0")
MADE = {
    "huge": header("1.png", b"\x80" + b"\x7f" * 11) + bytes(1024),
    "negative-second": GOOD_MEMBER + header("2.png", b"\xff" * 10 + b"\xfc\x00") + bytes(1024),
    "attributes-of-5-gigabytes": header("x", b"%011o" % (5 << 30), b"x") + bytes(1024),
    "name-of-5-gigabytes": header("x", b"%011o" % (5 << 30), b"L") + bytes(1024),
    "overlapping": attributes(b"1 " * 200_000 + b"=") + GOOD_MEMBER + bytes(1024),
    "endless": attributes(b"13 comment=x\n") * 5_000 + GOOD_MEMBER + bytes(1024),
}


@pytest.mark.parametrize("content", MADE.values(), ids=MADE)
def test_made_headers_are_one_sentence_and_cost_nothing(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    started = time.monotonic()
    words = r"0\.tar(:? is not a whole tar file| is damaged)|Cannot read the shard"
    with bounded(100), pytest.raises(FileError, match=words):
        read_shard(tmp_path / "0.tar")
    assert time.monotonic() - started < 10


def test_more_or_larger_members_than_any_set_has(tmp_path, write_tar, monkeypatch):
    path = write_tar(tmp_path / "0.tar", {f"{i}.png": b"x" for i in range(4)})
    monkeypatch.setattr(tars, "MAX_MEMBERS", 4)
    assert len(read_shard(path).names) == 4
    monkeypatch.setattr(tars, "MAX_MEMBERS", 3)
    with pytest.raises(FileError, match="it has more than 3 members"):
        read_shard(path)
    with pytest.raises(OSError, match="it has more than"):
        read_member(path, 0, 5 << 30)


def test_missing_shards(tmp_path, three):
    with pytest.raises(UsageError, match=r"2 of the 5 shards .* are not there, as .*000003\.tar"):
        opened(three / "{000000..000004}.tar")
    for name in ("absent", "a**", "["):
        with pytest.raises(UsageError, match="there is nothing of that name"):
            opened(tmp_path / name)
    with pytest.raises(UsageError, match="No images found in") as caught:
        open_dataset(DataSpec(), 8, root=three)
    assert "--set data.kind=shards" in caught.value.hint


def test_braces_as_a_shell_expands_them():
    assert expand_braces("a/{08..11}-x.tar") == ["a/08-x.tar", "a/09-x.tar", "a/10-x.tar", "a/11-x.tar"]
    assert expand_braces("{a,b}{0..1}.tar") == ["a0.tar", "a1.tar", "b0.tar", "b1.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for wrong in ("{5..1}.tar", "{x}.tar", "{0..999}{0..999}{0..999}.tar", "{" + "," * 2_000_000 + "}"):
        with bounded(200), pytest.raises(UsageError, match="expected") as caught:
            expand_braces(wrong)
        assert len(str(caught.value)) < 700


def test_the_index_is_made_once_and_again_when_a_shard_changes(three, monkeypatch, write_tar, labelled):
    made = []
    real = shards.read_shard
    monkeypatch.setattr(shards, "read_shard", lambda path: made.append(path.name) or real(path))
    monkeypatch.setattr(indexes, "SETTLED_NS", 0)
    time.sleep(TICK_S)
    said: list[str] = []
    open_shards(three, "train", said.append)
    first, again = opened(three), opened(three)
    open_shards(three, "train", said.append)
    assert said == ["Indexing 3 shards"]
    assert len(made) == 3
    assert torch.equal(again.gather(range(10)), first.gather(range(10)))
    assert torch.equal(again.labels, first.labels)
    before = (three / "000001.tar").stat()
    write_tar(three / "000001.tar", labelled(4, [2, 2]))
    os.utime(three / "000001.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened(three).labels.tolist()[4:6] == [2, 2], "told in spite of its size and time, which are as before"
    (three / "000002.tar").unlink()
    assert len(opened(three)) == 6
    (three / "classes.txt").write_text("a\nb\nc")
    assert opened(three).class_names == ("a", "b", "c")
