"""Wrong arguments, unreachable buses, help, completion: one clear line, the right exit code, never a traceback."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from attestream.cli import durations
from attestream.cli.bulk import read
from attestream.cli.main import COMMANDS
from attestream.cli.main import cli as root
from attestream.cli.session import Session
from attestream.config import load
from attestream.errors import AttestreamError, BusError, ConfigError
from attestream.installation.bus_server import Server
from attestream.installation.making import initialise
from attestream.installation.people import CREDENTIALS
from attestream.installation.places import Installation, locked
from schemas.commands import Attestation

NOWHERE = "nats://127.0.0.1:9"
DEFAULT = Attestation(policy="base", interval_ms=30_000)


def test_help_names_every_command_and_every_exit_code(inside) -> None:
    ran = inside("--help")
    assert ran.code == 0
    assert all(name in ran.out for name in COMMANDS)
    assert all(re.search(rf"\b{code}\s", ran.out) for code in (0, 1, 2, 3, 4, 130))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help
    waiting = list(getattr(command, "commands", {}).values())
    while waiting:
        sub = waiting.pop()
        assert sub.help
        if isinstance(sub, click.Group):
            waiting += sub.commands.values()
            continue
        assert any("--json" in option.opts for option in sub.params), f"{name} {sub.name} has no --json"


def test_help_loads_neither_the_bus_nor_rich(tmp_path: Path) -> None:
    code = (
        "import sys; from attestream.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('nats', 'rich', 'cryptography', 'opentelemetry', 'asyncio') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(out.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["agnets"], "No such command 'agnets'"),
        (["agents", "lst"], "No such command 'lst'"),
        (["agents", "add", "a"], "no policy"),
        (["agents", "add", "--policy", "p"], "either agent ids or --from"),
        (["agents", "add", "a", "--policy", "p", "--interval", "soon"], "'soon' is not a time span"),
        (["agents", "add", "--from", "/nonexistent", "--policy", "p"], "/nonexistent"),
        (["agents", "stop"], "Missing argument"),
        (["events", "tail", "--kind", "sometimes"], "sometimes"),
        (["events", "tail", "--since", "yesterday"], "neither a time span"),
        (["events", "tail", "--since", "5m", "--from-start"], "exclude each other"),
        (["events", "tail", "--durable", "a b"], "1-64 characters"),
        (["--timeout", "0", "status"], "--timeout"),
        (["run", "gateway"], "gateway"),
        (["--url", "http://127.0.0.1:1", "status"], "not the URL of a bus"),
        (["--config", "/nonexistent.toml", "status"], "/nonexistent.toml"),
        (["revocations", "tail", "--keys", "/nonexistent"], "/nonexistent"),
        (["--data-dir", "/nonexistent", "revocations", "tail"], "--keys"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(inside, arguments: list[str], clue: str) -> None:
    ran = inside(*arguments)
    assert ran.code == 2
    assert clue in ran.err
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["agents", "list"],
        ["agents", "show", "a"],
        ["agents", "add", "a", "--policy", "p"],
        ["policy", "list"],
        ["events", "tail"],
        ["enrolments", "delete", "a"],
    ],
)
def test_an_unreachable_bus_is_one_line_and_exit_code_3(inside, arguments: list[str]) -> None:
    ran = inside("--url", NOWHERE, "--timeout", "0.3", *arguments)
    assert ran.code == 3
    assert len(ran.err.strip().splitlines()) == 1
    assert NOWHERE in ran.err
    machine = inside("--url", NOWHERE, "--timeout", "0.3", *arguments, "--json")
    assert json.loads(machine.err)["error"] == "bus-unavailable"


def test_the_bus_is_looked_for_in_the_documented_order(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[bus]\nurls=["nats://config:1"]')
    (tmp_path / "attestream.toml").write_text('[bus]\nurls=["nats://datadir:1"]')
    everything = {"ATTESTREAM_URL": "nats://variable:1, nats://second:1", "ATTESTREAM_CONFIG": str(config)}

    def urls(url: str = "", given: Path | None = None, **variables: str) -> list[str]:
        return Session(url, given, tmp_path, 1.0, variables).urls()

    assert urls("nats://option:1", config, **everything) == ["nats://option:1"]
    assert urls(given=config, **everything) == ["nats://variable:1", "nats://second:1"]
    assert urls(given=config) == urls(ATTESTREAM_CONFIG=str(config)) == ["nats://config:1"]
    assert urls() == ["nats://datadir:1"]
    with locked(Installation(tmp_path)):
        (tmp_path / "bus.url").write_text("nats://running:1\n")
        assert urls() == ["nats://running:1"]
    with pytest.raises(ConfigError):
        urls(given=tmp_path / "none.toml")


async def test_whether_anybody_is_there_is_said_before_whom_to_believe(nats_server, tmp_path: Path) -> None:
    async def refused(url: str, data_dir: Path | None = None) -> AttestreamError:
        with pytest.raises(AttestreamError) as found:
            async with Session(url, None, data_dir, 0.5, {}).client():
                pass
        return found.value

    nobody = await refused(NOWHERE)
    assert isinstance(nobody, BusError)
    assert (NOWHERE in nobody.message, "`attestream up`" in nobody.hint) == (True, True)
    unknown = await refused(nats_server.url)
    assert isinstance(unknown, ConfigError)
    assert "root_keys" in unknown.message
    mistyped = await refused(nats_server.url, tmp_path / "none")
    assert f"{tmp_path / 'none'} holds no installation" in mistyped.message


def test_the_configuration_of_an_installation_stands_for_all_of_it(tmp_path: Path, monkeypatch) -> None:
    initialise(tmp_path / "i", accept_ek="any", port=1)
    monkeypatch.chdir(tmp_path)
    place = Installation((tmp_path / "i").absolute())
    file = place.config_file
    for session in (
        Session("", file, None, 1.0, {}),
        Session("", Path("i/attestream.toml"), None, 1.0, {}),
        Session("", place.directory, None, 1.0, {}),
        Session("", None, None, 1.0, {"ATTESTREAM_CONFIG": str(file), "ATTESTREAM_DATA_DIR": str(tmp_path)}),
    ):
        assert session.bus().credentials == place.operator("admin") / CREDENTIALS
        assert session.signing_key() == place.operator("admin") / "signing.pem"
        assert session.directory() == place.directory
    assert Session("", file, tmp_path, 1.0, {}).directory() == tmp_path
    # Elsewhere a configuration is what it says and no more.
    copied = Path(shutil.copy(file, tmp_path / "copied.toml"))
    assert Session("", copied, None, 1.0, {}).bus().credentials == tmp_path / "credentials"
    assert Session("", copied, None, 1.0, {"ATTESTREAM_DATA_DIR": "d"}).directory() == Path("d")


def test_a_cluster_is_reached_with_the_credentials_of_the_only_person_who_is_here(tmp_path: Path) -> None:
    servers = [Server(f"bus-{number}", "127.0.0.1", 4222 + number, 6222, 443, "127.0.0.1") for number in (1, 2, 3)]
    initialise(tmp_path / "i", accept_ek="any", port=1, servers=servers)
    place = Installation((tmp_path / "i").absolute())
    session = Session("", None, tmp_path / "i", 1.0, {})
    bus = session.bus()
    assert bus.credentials == place.operator("admin") / CREDENTIALS
    assert (bus.urls, bus.ca_file) == ([server.url for server in servers], place.ca_file)
    assert session.signing_key() == place.operator("admin") / "signing.pem"
    # A bus of `attestream up --insecure` asks nobody, and hears of nobody.
    with locked(place):
        place.url_file.write_text("nats://127.0.0.1:4222\n")
        assert session.bus().credentials is None


def test_what_a_killed_up_has_left_behind_takes_nobodys_security_away(tmp_path: Path) -> None:
    """Whoever takes its port would be believed without a signature, and hear whatever is said there."""
    initialise(tmp_path / "i", accept_ek="any", port=1)
    place = Installation((tmp_path / "i").absolute())
    session = Session("", None, tmp_path / "i", 1.0, {})
    with locked(place):
        place.url_file.write_text("nats://127.0.0.1:4222\n")
        assert not session.trust().checked
    # Nobody holds the installation any more, and the file is still there.
    assert place.url_file.exists()
    assert session.trust().checked
    assert session.bus().urls != ["nats://127.0.0.1:4222"]
    assert session.bus().credentials == place.operator("admin") / CREDENTIALS
    with locked(place):
        assert not place.url_file.exists()


def test_certificates_of_manufacturers_are_listed_and_chosen(inside, tmp_path: Path) -> None:
    listed = inside("certificates", "manufacturers", "amd", "--json")
    known = listed.json["certificates"]
    assert {row["manufacturer"] for row in known} == {"amd"}
    people = inside("certificates", "manufacturers")
    assert all(row[field] in people.out for row in known for field in ("name", "subject", "sha256", "not_after"))
    assert inside("certificates", "manufacturers", "acme").code == 2
    directory = tmp_path / "i"
    assert inside("init", "--data-dir", str(directory), "--ek-manufacturers", "amd,acme").code == 2
    assert not directory.exists()
    assert inside("init", "--data-dir", str(directory), "--ek-manufacturers", "amd, intel").code == 0
    assert load(directory / "attestream.toml", {}).registrar.ek_manufacturers == ["amd", "intel"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(inside, shell: str) -> None:
    ran = inside("completion", shell)
    assert ran.code == 0
    assert "_ATTESTREAM_COMPLETE" in ran.out


def test_completion_completes(cli) -> None:
    ran = cli(_ATTESTREAM_COMPLETE="bash_complete", COMP_WORDS="attestream agents st", COMP_CWORD="2")
    assert ran.out.split() == ["plain,start", "plain,stop"]


def test_init_makes_it_once(inside, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    made = inside("init", "--data-dir", str(directory), "--json")
    assert str(directory / "attestream.toml") in made.json["made"]
    again = inside("init", "--data-dir", str(directory))
    assert again.code == 2
    assert str(directory / "attestream.toml") in again.err
    assert "nothing is overwritten" in again.err


def test_run_becomes_the_service_and_passes_its_exit_code_on(cli, tmp_path: Path) -> None:
    cli("init", "--data-dir", str(tmp_path / "d"))
    config = str(tmp_path / "d/attestream.toml")
    ran = cli("--url", NOWHERE, "run", "registrar", "--config", config, ATTESTREAM_BUS_CONNECT_TIMEOUT_S="0.3")
    assert ran.code == 1
    assert "registrar" in ran.err
    assert NOWHERE in ran.err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m attestream.cli completion bash | true"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.stderr == ""


class TestLists:
    """Files of `agents add --from`."""

    def read(self, tmp_path: Path, text: str) -> list[tuple[str, Attestation]]:
        path = tmp_path / "list"
        path.write_text(text)
        with path.open(encoding="utf-8") as file:
            return read(file, DEFAULT)

    def test_ids_one_per_line(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "# ours\na\n\n b \n") == [("a", DEFAULT), ("b", DEFAULT)]

    def test_csv_with_and_without_a_header(self, tmp_path: Path) -> None:
        wanted = [("a", Attestation(policy="p@2", interval_ms=5_000)), ("b", DEFAULT)]
        assert self.read(tmp_path, "a,p@2,5s\nb\n") == wanted
        assert self.read(tmp_path, "policy,id,interval\np@2,a,5s\n,b,\n") == wanted

    def test_json_lines(self, tmp_path: Path) -> None:
        text = '{"id":"a","policy":"p","interval":"500ms","lease":"1m"}\n{"id":"b"}\n'
        assert self.read(tmp_path, text) == [
            ("a", Attestation(policy="p", interval_ms=500, lease_ms=60_000)),
            ("b", DEFAULT),
        ]

    @pytest.mark.parametrize(
        ("text", "clue"),
        [
            ("a\nb c\n", "line 2: 'b c' is not an agent id"),
            ("a\na\n", "line 2: a is there twice"),
            ("a,p,5s,1m,x\n", "line 1: 5 fields"),
            ("a,p,soon\n", "line 1: 'soon' is not a time span"),
            ('{"id":"a","polcy":"p"}\n', "unknown key 'polcy'"),
            ('{"id":"a","interval":5}\n', "every value must be a string"),
            ('{"id":\n', "line 1"),
            ('{"policy":"p"}\n', "'' is not an agent id"),
            ("# nobody\n", "names no agent"),
        ],
    )
    def test_a_wrong_line_is_named_before_anything_is_sent(self, tmp_path: Path, text: str, clue: str) -> None:
        with pytest.raises(click.UsageError) as caught:
            self.read(tmp_path, text)
        assert clue in caught.value.message

    def test_what_is_no_text_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "list"
        path.write_bytes(b"\xff\xfe")
        with path.open(encoding="utf-8") as file, pytest.raises(click.UsageError, match="not UTF-8"):
            read(file, DEFAULT)


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "value"), [("500ms", 500), ("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000), ("1d", 86_400_000)]
    )
    def test_spans(self, text: str, value: int) -> None:
        assert durations.milliseconds(text) == value

    @pytest.mark.parametrize("text", ["", "30", "0s", "-1s", "1w", "400d", "1e9s", "٣s", "30s\n", "0.0001ms"])
    def test_what_is_no_span(self, text: str) -> None:
        with pytest.raises(ValueError):
            durations.milliseconds(text)

    def test_they_are_shown_in_their_largest_whole_unit(self) -> None:
        assert [durations.shown(span) for span in (500, 30_000, 90_000, 86_400_000)] == ["500ms", "30s", "90s", "1d"]
        assert durations.ago(1_000_000, 1_000_100) == "just now"
        assert durations.ago(1_000_000, 1_065_000) == "1m ago"
