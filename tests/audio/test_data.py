"""`hpckit data`: speech by one command, whole or not at all, however it is cut off."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import soundfile

from hpckit.audio.data import debian, pack
from hpckit.audio.data.debian import Unfetched
from tests.audio.packages import (
    LICENCE,
    ar,
    command,
    deb,
    finish,
    packs,
    serve_in,
    start,
    tarred,
    tree,
)

CLIPS = 12


class Slow(SimpleHTTPRequestHandler):
    """A mirror that takes a third of a second for a package, so that it can be cut off in it."""

    def copyfile(self, source, outputfile):
        content = source.read()
        for at in range(0, len(content), len(content) // 16 + 1):
            outputfile.write(content[at : at + len(content) // 16 + 1])
            time.sleep(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path):
    """Its address; what it has is in tmp_path/mirror."""
    (tmp_path / "mirror").mkdir()
    handler = partial(Slow, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def wanted(tmp_path, mirror):
    return serve_in(tmp_path / "mirror", deb(tree(CLIPS)))


def clips(folder):
    (found,) = packs(folder)
    assert pack.damaged(folder / "it", found) == []
    return found.clips


def left_over(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "it")


def test_a_pack_is_the_long_clips_of_a_package_with_its_licence(tmp_path, mirror, wanted):
    folder = tmp_path / "speech"
    told = finish(start(folder, mirror, wanted))
    assert told.splitlines()[-1] == "it: 12 clips, 0.4 minutes"
    (found,) = packs(folder)
    assert (found.speaker, found.package_sha256) == ("Nobody", wanted["sha256"])
    assert found.fetched_from == mirror
    assert [clip.name for clip in found.clips[:2]] == ["clip00", "clip02"]
    assert found.clips[-1].name == "deep/clip11"
    for clip in found.clips:
        path = folder / "it" / clip.path
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.frames) == (16_000, 1, clip.samples)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == clip.sha256
    assert {clip.samples for clip in found.clips} == {32_000 + 4 * n for n in range(12)}
    assert (folder / "it" / "LICENCE.txt").read_bytes() == LICENCE
    assert left_over(folder) == []


def test_what_is_there_is_not_fetched_again(tmp_path, mirror, wanted):
    folder = tmp_path / "speech"
    finish(start(folder, mirror, wanted))
    shutil.rmtree(tmp_path / "mirror" / "pool")
    assert finish(start(folder, mirror, wanted)) == ""


def moments(process):
    """When it said what: fetching, decoding, and that it is done."""
    return [time.monotonic() for _ in process.stdout]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("phase", [0, 1])
def test_killed_at_any_moment_nothing_half_is_taken_for_whole(tmp_path, mirror, phase, share):
    wanted = serve_in(tmp_path / "mirror", deb(tree(60)))
    folder, whole = tmp_path / "speech", tmp_path / "whole"
    said = moments(start(whole, mirror, wanted))
    took_s = said[phase + 1] - said[phase]
    for _ in range(2):
        process = start(folder, mirror, wanted)
        for _ in range(phase + 1):
            process.stdout.readline()
        time.sleep(took_s * share)
        process.kill()
        process.communicate()
        if packs(folder):
            assert clips(folder) == clips(whole)
    finish(start(folder, mirror, wanted))
    assert clips(folder) == clips(whole)


@pytest.mark.parametrize("word", ["fetching", "decoding"])
def test_a_package_that_came_whole_is_not_fetched_again(tmp_path, mirror, wanted, word):
    folder = tmp_path / "speech"
    process = start(folder, mirror, wanted)
    for line in process.stdout:
        if word in line:
            break
    process.kill()
    process.communicate()
    shutil.rmtree(tmp_path / "mirror" / "pool")
    again = start(folder, mirror, wanted)
    complaint = again.communicate(timeout=60)[1]
    if word == "decoding":
        assert again.returncode == 0
        assert len(clips(folder)) == CLIPS
    else:
        assert "404" in complaint
        assert packs(folder) == []


def test_what_killed_processes_left_is_removed_once_it_is_old(tmp_path, mirror, wanted):
    folder = tmp_path / "speech"
    process = start(folder, mirror, wanted)
    assert "fetching" in process.stdout.readline()
    time.sleep(0.1)
    process.kill()
    process.communicate()
    (half,) = folder.iterdir()
    (folder / "other.deb").touch()
    finish(start(folder, mirror, wanted))
    assert left_over(folder) == [half.name, "other.deb"], "another process may be at work there"
    for path in (half, folder / "other.deb"):
        os.utime(path, (0, 0))
    finish(start(folder, mirror, wanted, anew=True))
    assert left_over(folder) == []


@pytest.mark.parametrize("anew", [False, True])
def test_four_at_once_do_not_harm_each_other(tmp_path, mirror, wanted, anew):
    folder = tmp_path / "speech"
    if anew:
        finish(start(folder, mirror, wanted))
    for process in [start(folder, mirror, wanted, anew=anew) for _ in range(4)]:
        finish(process)
    assert len(clips(folder)) == CLIPS
    assert left_over(folder) == []


@pytest.mark.parametrize("harm", ["gone", "shorter", "manifest cut", "manifest of another kind"])
def test_a_pack_that_is_not_whole_is_made_anew(tmp_path, mirror, wanted, harm):
    folder = tmp_path / "speech"
    finish(start(folder, mirror, wanted))
    before = clips(folder)
    clip, manifest = folder / "it" / before[3].path, folder / "it" / pack.MANIFEST
    if harm == "gone":
        clip.unlink()
    elif harm == "shorter":
        clip.write_bytes(clip.read_bytes()[:-1])
    elif harm == "manifest cut":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    else:
        manifest.write_text('{"format": 1, "clips": [{}]}')
    assert packs(folder) == []
    finish(start(folder, mirror, wanted))
    assert clips(folder) == before


def test_a_package_with_another_checksum_is_refused(tmp_path, mirror, wanted):
    serve_in(tmp_path / "mirror", deb(tree(CLIPS, seed=1)))
    process = start(tmp_path / "speech", mirror, wanted)
    assert "its checksum differs" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert left_over(tmp_path / "speech") == []


@pytest.mark.parametrize("path", ["voice/../../../../evil.g722", "only.g722"])
def test_a_package_whose_paths_lead_elsewhere_is_refused(tmp_path, mirror, path):
    files = {f"usr/share/asterisk/sounds/{path}": bytes(20_000)}
    wanted = serve_in(tmp_path / "mirror", deb(files))
    process = start(tmp_path / "speech", mirror, wanted)
    assert "not to be trusted" in process.communicate(timeout=60)[1]
    assert left_over(tmp_path / "speech") == [f"{wanted['name']}_1.deb"]
    assert list(tmp_path.rglob("evil*")) == []


def test_a_mirror_may_be_a_folder(tmp_path, mirror, wanted):
    folder = tmp_path / "speech"
    finish(start(folder, (tmp_path / "mirror").as_uri(), wanted))
    assert len(clips(folder)) == CLIPS


def test_what_apt_does_not_know_comes_from_the_mirror(tmp_path, mirror, wanted):
    folder = tmp_path / "speech"
    finish(start(folder, None, wanted, default_mirror=mirror))
    assert len(clips(folder)) == CLIPS


@pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt here")
def test_where_apt_cannot_fetch_what_it_knows_the_mirror_is_asked(tmp_path, mirror, wanted):
    (tmp_path / "apt.conf").write_text('Acquire::http::Proxy "http://127.0.0.1:9";\n')
    wanted["name"] = "asterisk-core-sounds-it-g722"
    process = start(
        tmp_path / "speech",
        None,
        wanted,
        default_mirror=mirror,
        env={"APT_CONFIG": str(tmp_path / "apt.conf")},
    )
    assert f"cannot fetch {mirror}pool/{wanted['name']}_1_all.deb" in process.communicate()[1]


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_a_package_is_read_without_debian_s_tools(tmp_path, compression):
    files = tree(3)
    path = tmp_path / "a.deb"
    path.write_bytes(deb(files, compression))
    assert dict(debian.contents(path)) == files


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg here")
@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd"])
def test_a_package_that_dpkg_built_is_read(tmp_path, compression):
    files = tree(3)
    control = "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: a\n"
    for path, content in {**files, "DEBIAN/control": control.encode()}.items():
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_bytes(content)
    build = ["dpkg-deb", f"-Z{compression}", "-b", str(tmp_path / "tree"), str(tmp_path / "a.deb")]
    subprocess.run(build, check=True, capture_output=True)
    assert dict(debian.contents(tmp_path / "a.deb")) == files


def test_zstd_without_dpkg_and_what_is_no_package_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.deb"
    path.write_bytes(ar([("data.tar.zst", tarred(tree(1)))]))
    with pytest.raises(Unfetched, match="packed with zstd, which needs dpkg-deb"):
        list(debian.contents(path))
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(Unfetched, match="no Debian package"):
        list(debian.contents(path))


# The command.


@pytest.mark.parametrize(
    ("mirror", "says"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://nowhere.invalid/debian", "cannot fetch http://nowhere.invalid/debian/pool/main/"),
        ("file:///nowhere", "cannot fetch file:///nowhere/pool/main/"),
    ],
)
def test_without_a_network_it_says_what_to_do(cli, mirror, says):
    done = cli("data", "speech", "--only", "it", "--mirror", mirror, "--json", code=1)
    assert says in done.stderr
    assert "hpckit data speech --to FOLDER" in done.stderr
    assert "Traceback" not in done.stderr
    assert says in json.loads(done.stdout)["error"]["message"]
    assert "CC BY 3.0, Carlo Flora" in done.stderr, "the licence is shown before"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--only", "it,de"], "no speech in 'de'\n  there is en, es, fr, it, ru"),
        (["--only", ""], "no speech in ''"),
        (["--mirror", "nonsense"], "nonsense/pool/main"),
    ],
)
def test_nonsense_is_usage(cli, args, says):
    assert says in cli("data", "speech", *args, code=2).stderr


@pytest.mark.parametrize("package", ["av", "soundfile"])
def test_what_is_missing_is_said_before_anything_is_fetched(cli, tmp_path, package, own_home):
    (tmp_path / "bare" / package).mkdir(parents=True)
    (tmp_path / "bare" / package / "__init__.py").write_text(f"raise ImportError('no {package}')")
    path = f"{tmp_path / 'bare'}:{os.environ.get('PYTHONPATH', '')}"
    done = cli("data", "speech", env={"PYTHONPATH": path}, code=1)
    assert f"no {package}\n  pip install 'hpckit[audio]'" in done.stderr
    assert not (own_home / "cache" / "hpckit").exists()


def test_a_place_that_cannot_be_written_is_said(cli, tmp_path):
    (tmp_path / "file").touch()
    done = cli("data", "speech", "--to", tmp_path / "file", "--mirror", "file:///", code=1)
    assert f"cannot write {tmp_path / 'file'}" in done.stderr
    assert "choose another place with --to or HPCKIT_DATA" in done.stderr


def test_a_full_disk_is_said_and_nothing_half_stays(tmp_path, mirror, wanted):
    small = tmp_path / "small"
    small.mkdir()
    # The package has 200 kB, and its twelve clips 700 kB.
    mount = f"mount -t tmpfs -o size=450k none {small} || exit 77; "
    look = f'"$@"; code=$?; find {small}/speech -mindepth 1 -not -name "*.deb"; exit $code'
    program = command(small / "speech", mirror, wanted)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount + look, "sh", *program],
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system of a test's own here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == []
    assert "No space left on device" in done.stderr
    assert "free some space, or choose another place with --to or HPCKIT_DATA" in done.stderr


def test_nothing_there_is_said_with_what_to_do(cli, own_home):
    done = cli("data")
    assert done.stdout == ""
    assert "hpckit data speech" in done.stderr
    found = json.loads(cli("data", "ls", "--json").stdout)
    assert found == {"folder": str(own_home / "cache" / "hpckit"), "sets": []}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """Real speech, fetched over the real network by the command as a person types it."""
    folder = tmp_path_factory.mktemp("data")
    words = ["hpckit", "data", "speech", "--only", "it", "--to", str(folder)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode and "cannot fetch" in done.stderr:
        pytest.skip(f"no network here: {done.stderr.splitlines()[-2]}")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_real_speech_is_fetched_and_told(fetched, cli):
    folder, done = fetched
    assert "CC BY 3.0, Carlo Flora" in done.stderr
    assert f"export HPCKIT_DATA={folder}" in done.stderr
    assert "speech/it    201     18.0" in done.stdout
    again = cli("data", "speech", "--only", "it", "--json", env={"HPCKIT_DATA": str(folder)})
    assert again.stderr == "all is there\n"
    told = json.loads(again.stdout)
    assert (told["clips"], told["minutes"], told["speakers"]) == (201, 18.0, ["Carlo Flora"])
    assert told["made"] == []
    assert "CC-BY-3.0" in (folder / "speech" / "it" / "LICENCE.txt").read_text()
    assert cli("data", "--help").stdout
    listed = json.loads(cli("data", "ls", "--to", folder, "--json").stdout)
    assert listed["sets"][0]["packs"] == told["packs"]


def test_by_apt_and_from_a_mirror_it_is_the_same(fetched, cli, tmp_path):
    folder, _ = fetched
    env = {"HPCKIT_DEBIAN_MIRROR": debian.MIRROR}
    cli("data", "speech", "--only", "it", "--to", tmp_path, env=env)
    (here,), (there,) = packs(folder / "speech"), packs(tmp_path / "speech")
    assert there.fetched_from == debian.MIRROR
    assert (here.clips, here.package_sha256) == (there.clips, there.package_sha256)


def test_verifying_finds_what_looks_whole_and_makes_it_anew(fetched, cli, tmp_path):
    shutil.copytree(fetched[0], tmp_path / "data")
    here = ("data", "speech", "--only", "it", "--to", tmp_path / "data")
    (found,) = packs(tmp_path / "data" / "speech")
    clip = tmp_path / "data" / "speech" / "it" / found.clips[7].path
    content = bytearray(clip.read_bytes())
    content[5000] ^= 1
    clip.write_bytes(content)
    assert cli(*here).stderr == "all is there\n"
    assert "decoding" in cli(*here, "--verify").stderr
    assert cli(*here, "--verify").stderr == "all is there, and as it was written\n"
    assert clip.read_bytes() != bytes(content)


def test_a_training_finds_the_speech(fetched, monkeypatch):
    from hpckit.audio.sounds import sounds

    monkeypatch.setenv("HPCKIT_DATA", str(fetched[0]))
    train = sounds("speech", rate=16_000, seconds=2.0)
    held_out = sounds("speech", rate=16_000, seconds=2.0, part="validation")
    assert (len(train.clips), len(held_out.clips)) == (181, 20)
    assert train.clips[0].origin.speaker == "Carlo Flora"
    assert 0.01 < train[0].std() < 0.5
