"""Settings from the file and the environment: every mistake names its place, nothing is guessed."""

from pathlib import Path

import pytest
from msgspec import structs

from attestream import config
from attestream.config import sections
from attestream.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "attestream.toml"
    path.write_text(text)
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, ""), {})
    assert loaded.bus.urls == ["nats://127.0.0.1:4222"]
    assert loaded.verifier.challenges_in_flight == 500
    assert loaded.registrar.accept_ek == "certificate"


def test_relative_paths_are_beside_the_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path, '[agent]\nrevocation_keys=["a.pem"]\n[[notifier.webhooks]]\nname="n"\nurl="http://h"\nca_file="ca.pem"'
    )
    monkeypatch.chdir("/")
    loaded = config.load(path, {})
    assert loaded.agent.revocation_keys == [tmp_path / "a.pem"]
    assert loaded.notifier.webhooks[0].ca_file == tmp_path / "ca.pem"
    assert loaded.verifier.database_url == f"sqlite:///{tmp_path}/verifier.db"
    assert loaded.agent.ima_log == Path("/sys/kernel/security/ima/binary_runtime_measurements")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[verifier]\nlease_floor_s=30\nworker_id='a'")
    loaded = config.load(
        path,
        {
            "ATTESTREAM_VERIFIER_LEASE_FLOOR_S": "2.5",
            "ATTESTREAM_VERIFIER_WORKER_ID": "7",
            "ATTESTREAM_BUS_URLS": "nats://a:1, nats://b:2",
            "ATTESTREAM_VERIFIER_POLICY_KEYS": "a.pem, /b.pem",
            "ATTESTREAM_AGENT_REVOCATION_KEYS": '["c.pem"]',
            "ATTESTREAM_AGENT_REVOCATION_HOOK": '["logger", "a,b"]',
            "ATTESTREAM_URL": "not a setting of a section",
        },
    )
    assert loaded.verifier.lease_floor_s == 2.5
    assert loaded.verifier.worker_id == "7"
    assert loaded.bus.urls == ["nats://a:1", "nats://b:2"]
    assert loaded.verifier.policy_keys == [tmp_path / "a.pem", Path("/b.pem")]
    assert loaded.agent.revocation_keys == [tmp_path / "c.pem"]
    assert loaded.agent.revocation_hook == ["logger", "a,b"]


def test_empty_text_takes_a_default_file_away(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, '[agent]\nboot_log=""'), {}).agent.boot_log is None
    assert config.load(None, {"ATTESTREAM_AGENT_IMA_LOG": ""}).agent.ima_log is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[verifier]\nleese_floor_s=1", "setting `verifier`: object contains unknown field `leese_floor_s`"),
        ("[verifer]\n", "unknown field `verifer`"),
        ("[verifier]\nlease_floor_s='30'", "setting `verifier.lease_floor_s`"),
        ("[verifier]\nchallenges_in_flight=0", "setting `verifier.challenges_in_flight`"),
        ("[agent]\ndata_dir=''", "setting `agent.data_dir`"),
        ("[agent]\nid='a b'", "setting `agent.id`"),
        ("[agent]\nek='rsa1024'", "setting `agent.ek`"),
        ("[bus]\nurls=[]", "setting `bus.urls`"),
        ("[[notifier.webhooks]]\nname='a'\nurl='file:///etc/passwd'", "setting `notifier.webhooks[0].url`"),
        ("verifier=1", "setting `verifier`"),
        ("[verifier", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, place: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})
    assert place in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATTESTREAM_VERIFIER_LEESE", "1"),
        ("ATTESTREAM_VERIFIER_LEASE_FLOOR_S", "soon"),
        ("ATTESTREAM_VERIFIER_LEASE_FLOOR_S", "-1"),
        ("ATTESTREAM_REGISTRAR_ACCEPT_EK", "all"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, {variable: value})
    assert variable in caught.value.message


def test_a_missing_and_an_oversized_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not read"):
        config.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="at most"):
        config.load(write(tmp_path, "#" * (config.MAX_FILE_BYTES + 1)), {})


def test_every_setting_is_documented_with_its_default() -> None:
    source = Path(sections.__file__).read_text()
    for section in structs.fields(config.Config):
        for field in structs.fields(section.type):
            after = source.split(f"    {field.name}: ", 1)[1]
            doc = after.split('"""', 2)[1]
            assert "default" in doc.lower(), f"{section.name}.{field.name}"


def test_retention_is_for_ever_or_long_enough_for_who_was_away(tmp_path: Path) -> None:
    ages = config.load(write(tmp_path, "[retention]\nevents_days=0\ndead_days=1"), {}).retention.ages()
    assert (ages["EVENTS"], ages["DEAD"], ages["OBJ_evidence"]) == (0, 86_400, 400 * 86_400)
    for name in ("events_days", "revocations_days"):
        with pytest.raises(ConfigError, match=name):
            config.load(write(tmp_path, f"[retention]\n{name}=6"), {})
