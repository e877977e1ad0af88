"""`spherectl zoo`: what each command prints where, and its exit code."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from spherectl import zoo
from spherectl.cli import zoo as command_file
from spherectl.cli.app import app
from spherectl.settings import load_settings, packaged
from spherectl.zoo import catalogue
from tests.serving import COMMIT, hosting, put_on_hub

pytestmark = pytest.mark.fast

RUNNER = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})

INDEX = """
[[entry]]
name = "one"
kind = "model"
file = "one.safetensors"
sha256 = "{sha256}"
bytes = {bytes}
default = true
licence = "MIT"
summary = "A model of [anything]."
channels = "rgb"
image_size = 32
classes = 10
scores = [{{ metric = "fid", value = 4.5, command = "spherectl evaluate one" }}]

[[entry]]
name = "far"
kind = "model"
urls = ["https://example.org/far.safetensors"]
sha256 = "{sha256}"
bytes = {bytes}
licence = "CC BY-NC 4.0"
summary = "A model elsewhere."
channels = "rgb"
image_size = 256
classes = 0

[[entry]]
name = "rumour"
kind = "model"
page = "https://example.org"
licence = "unknown"
summary = "A model somewhere."
channels = "rgb"
image_size = 256
classes = 1000
"""


def run(*arguments: str):
    return RUNNER.invoke(app, ["zoo", *arguments])


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """One model that is here, one to fetch, one that is only known of."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    about = {"format": 1, "architecture": "sphere-encoder", "class_names": ["a", "b"], "images_seen": 12}
    header = json.dumps(about | {"recipe": {"name": "r", "model": {"num_classes": 2}}})
    text = json.dumps({"__metadata__": {"spherectl": header}}).encode()
    content = len(text).to_bytes(8, "little") + text
    (folder / "one.safetensors").write_bytes(content)
    (folder / "one.md").write_text("# One\n\nA [card] of *one*.\n", encoding="utf-8")
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "index.toml").write_text(INDEX.format(**facts), encoding="utf-8")
    monkeypatch.setattr(catalogue, "packaged", lambda _: folder)
    return folder


def test_ls_lists_all_entries(own_zoo):
    result = run("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows == [
        ["name", "kind", "px", "classes", "size", "licence", "where"],
        ["one", "model", "32", "10", "0.0", "MB", "MIT", "here,", "default"],
        ["far", "model", "256", "none", "0.0", "MB", "CC", "BY-NC", "4.0", "remote"],
        ["rumour", "model", "256", "1000", "unknown", "unknown", "known", "of"],
    ]


def test_ls_for_machines_has_every_fact(own_zoo):
    result = run("ls", "--json")
    one, far, rumour = json.loads(result.stdout)
    assert (one["name"], one["state"], one["path"]) == ("one", "here", str(own_zoo / "one.safetensors"))
    assert one["scores"] == [{"metric": "fid", "value": 4.5, "command": "spherectl evaluate one"}]
    assert (far["state"], far["urls"]) == ("remote", ["https://example.org/far.safetensors"])
    assert (rumour["state"], rumour["path"]) == ("known of", None)


def test_the_shipped_zoo_can_be_listed():
    names = [entry["name"] for entry in json.loads(run("ls", "--json").stdout)]
    assert names == list(zoo.index())


def test_show_tells_index_header_and_card(own_zoo):
    lines = run("show", "one").stdout.splitlines()
    assert "summary: A model of [anything]." in lines
    assert "scores: metric=fid value=4.5 command=spherectl evaluate one" in lines
    assert "class_names: a, b" in lines
    assert "images_seen: 12" in lines
    assert lines[-3:] == ["# One", "", "A [card] of *one*."]  # in a pipe the card is as it is written


def test_show_for_machines_has_the_whole_header(own_zoo):
    shown = json.loads(run("show", "one", "--json").stdout)
    assert shown["header"] == {
        "format": 1,
        "architecture": "sphere-encoder",
        "class_names": ["a", "b"],
        "images_seen": 12,
        "recipe": {"name": "r", "model": {"num_classes": 2}},
    }
    assert shown["card"] == "# One\n\nA [card] of *one*.\n"


def test_show_tells_what_is_not_here(own_zoo):
    result = run("show", "rumour")
    assert result.exit_code == 0
    assert {"page: https://example.org", "licence: unknown", "state: known of"} <= set(result.stdout.splitlines())


def test_an_unknown_name_is_a_sentence(own_zoo):
    result = run("show", "On")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == "error: There is no 'On' in the zoo."


def test_fetch_prints_where_the_file_is(own_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path / "cache"))
    there = tmp_path / "cache" / "zoo" / "far.safetensors"
    there.parent.mkdir(parents=True)
    shutil.copy(own_zoo / "one.safetensors", there)  # the same hash: nothing is asked of the network
    result = run("fetch", "far")
    assert (result.exit_code, result.stdout) == (0, f"{there}\n")
    assert result.stderr == "far: licence CC BY-NC 4.0\n"


def test_fetch_does_not_pretend(own_zoo):
    result = run("fetch", "rumour")
    assert (result.exit_code, result.stdout) == (2, "")
    told, hint = result.stderr.splitlines()
    assert told == "error: rumour is only known of: the zoo has no address to fetch it from."
    assert hint == "hint: Read https://example.org, download the model yourself and give its path to --model."


def test_fetch_offline_is_a_sentence(own_zoo, monkeypatch):
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    result = run("fetch", "far")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "far.safetensors is missing, and it is not fetched because SPHERECTL_OFFLINE says" in result.stderr
    assert "Traceback" not in result.stderr


def test_verify_finds_nothing_wrong(own_zoo):
    result = run("verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["one: ok", "far: not here", "rumour: not here"]


def test_verify_finds_a_changed_byte(own_zoo):
    file = own_zoo / "one.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith(f"one: {file} has {len(content)} bytes and SHA-256 ")
    assert result.stderr.splitlines()[0] == "error: Not as the index says: one."


def test_the_shipped_cards_belong_to_entries():
    assert packaged("zoo").name == "zoo"
    for card in packaged("zoo").glob("*.md"):
        assert run("show", card.stem).exit_code == 0


# What is fetched


@pytest.fixture
def host(own_zoo, monkeypatch):
    """A hub with the model of `own_zoo`, and the entry `far` on it too."""
    with hosting() as host:
        put_on_hub(host, "user/garden", {"m.safetensors": (own_zoo / "one.safetensors").read_bytes()}, licence="other")
        monkeypatch.setenv("HF_ENDPOINT", host.url)
        host.files["far.safetensors"] = (own_zoo / "one.safetensors").read_bytes()
        index = own_zoo / "index.toml"
        index.write_text(index.read_text().replace("https://example.org/far", f"{host.url}far"))
        yield host


@pytest.fixture
def person(monkeypatch):
    """Somebody at a terminal, who answers `says` and remembers the questions."""
    person = SimpleNamespace(says=True, asked=[], isatty=lambda: True)

    def confirm(question, **_named):
        person.asked.append(question)
        return person.says

    monkeypatch.setattr(command_file.typer, "confirm", confirm)
    monkeypatch.setattr(command_file, "sys", SimpleNamespace(stdin=person, stderr=person))
    return person


def test_a_program_has_to_say_that_it_accepts_a_licence(host):
    result = run("fetch", "far")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "its licence is CC BY-NC 4.0, which was not accepted yet." in result.stderr
    assert "hint: `spherectl zoo fetch far --accept-licence` fetches it" in result.stderr
    result = run("fetch", "far", "--accept-licence")
    assert (result.exit_code, result.stderr) == (0, "far: licence CC BY-NC 4.0\n")
    assert result.stdout == f"{load_settings().cache / 'zoo' / 'far.safetensors'}\n"


def test_a_person_is_shown_the_licence_and_asked_once(host, person):
    person.says = False
    result = run("fetch", "far")
    assert (result.exit_code, len(person.asked)) == (2, 1)
    assert "The licence of far" in result.stderr
    assert "is CC BY-NC 4.0. What it permits is for you to find out." in result.stderr
    person.says = True
    assert run("fetch", "far").exit_code == 0
    assert run("rm", "far").exit_code == run("fetch", "far").exit_code == 0
    assert len(person.asked) == 2


def test_a_person_is_not_asked_for_what_is_refused_anyway(host, person, own_zoo):
    index = own_zoo / "index.toml"
    lines = [line for line in index.read_text().splitlines() if not line.startswith("sha256")]
    index.write_text("\n".join(lines))
    result = run("fetch", "far")
    assert (result.exit_code, person.asked) == (2, [])
    assert "`spherectl zoo fetch far --trust --accept-licence`" in result.stderr
    assert run("fetch", "far", "--trust").exit_code == 0
    assert len(person.asked) == 1


def test_what_came_from_the_hub_is_listed_verified_and_removed(host, own_zoo):
    result = run("fetch", "hf:user/garden", "--accept-licence")
    assert (result.exit_code, result.stderr) == (0, "hf:user/garden: licence other, commit 0123456789ab\n")
    path = load_settings().cache / "zoo" / "hf" / "user--garden.safetensors"
    assert result.stdout == f"{path}\n"
    assert "hf:user/garden  model" in run("ls").stdout
    (listed,) = [one for one in json.loads(run("ls", "--json").stdout) if one["name"] == "hf:user/garden"]
    assert (listed["place"], listed["accepted"]) == ("zoo/hf/user--garden", "other")
    assert "hf:user/garden: ok" in run("verify").stdout.splitlines()
    lines = run("show", "hf:user/garden").stdout.splitlines()
    assert {"name: hf:user/garden", f"revision: {COMMIT}", "class_names: a, b"} <= set(lines)
    assert json.loads(run("show", "hf:user/garden", "--json").stdout)["header"]["images_seen"] == 12
    assert "hf:user/other was never fetched." in run("show", "hf:user/other").stderr
    path.write_bytes(path.read_bytes() + b" ")
    broken = run("verify")
    assert (broken.exit_code, "error: Not as the index says: hf:user/garden." in broken.stderr) == (1, True)

    size = path.stat().st_size
    result = run("rm", "hf:user/garden")
    assert (result.exit_code, result.stderr) == (0, f"hf:user/garden: {size:,} bytes freed\n")
    assert not path.exists()
    assert run("rm", "hf:user/garden").stderr == "hf:user/garden: nothing was here\n"
    assert "hf:user/garden" not in run("ls").stdout


def test_rm_takes_unfinished_files_too_and_forgets_when_told(host):
    run("fetch", "far", "--accept-licence")
    folder = load_settings().cache / "zoo"
    (folder / ".far.safetensors.part").write_bytes(b"half")
    (folder / "one.safetensors").write_bytes(b"of another entry")
    run("rm", "far")
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {"far.json", "one.safetensors"}
    run("rm", "far", "--forget")
    assert not (folder / "far.json").exists()


@pytest.mark.parametrize(("name", "why"), [("one", "it lies beside its index"), ("rumour", "it is only known of")])
def test_rm_removes_fetched_files_only(own_zoo, name, why):
    result = run("rm", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {name} was not fetched, {why}" in result.stderr
    assert (own_zoo / "one.safetensors").is_file()


def test_show_tells_what_was_seen(host):
    run("fetch", "far", "--accept-licence")
    lines = run("show", "far").stdout.splitlines()
    assert {"accepted: CC BY-NC 4.0", "state: here", "class_names: a, b"} <= set(lines)


def test_add_makes_an_index_that_can_be_used(tmp_path, monkeypatch):
    index = tmp_path / "mine" / "index.toml"
    result = run("add", str(packaged("zoo") / "fashion-mnist.safetensors"), "--index", str(index), "--name", "garments")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'mine' / 'garments.md'}\n")
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(index))
    assert "garments" in [entry["name"] for entry in json.loads(run("ls", "--json").stdout)]


def test_an_index_that_is_not_there_names_its_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(tmp_path / "index.toml"))
    result = run("ls")
    assert result.stderr == (
        f"error: There is no zoo index {tmp_path / 'index.toml'}.\nhint: It is named in SPHERECTL_ZOO_INDEX.\n"
    )


def test_a_fetched_checkpoint_that_is_none_is_not_kept(cli, tmp_path, reference):
    """Nor is its hash: else the right file, when it comes, would be the changed one."""
    with hosting() as host:
        config = (reference / "published-layout" / "cfg.json").read_bytes()
        host.files |= {"far/cfg.json": config, "far/ckpt/ep0001.pth": b"\x80\x02."}
        files = '[{path = "cfg.json"}, {path = "ckpt/ep0001.pth"}]'
        (tmp_path / "index.toml").write_text(
            '[[entry]]\nname = "far"\nkind = "model"\nlicence = "MIT"\nsummary = "x"\nchannels = "rgb"\n'
            f'image_size = 256\nclasses = 0\npublished = "{host.url}far/"\nfiles = {files}\n'
        )
        env = {"SPHERECTL_ZOO_INDEX": str(tmp_path / "index.toml"), "SPHERECTL_CACHE": str(tmp_path / "cache")}
        ended = cli("zoo", "fetch", "far", "--trust", env=env)
    assert (ended.returncode, "ep0001.pth" in ended.stderr) == (1, True)
    assert not [path for path in (tmp_path / "cache" / "zoo").rglob("*") if not path.name.startswith(".")]
