import json
import shutil
import subprocess
from pathlib import Path
from struct import pack

import pytest

from attestream.errors import MalformedError
from attestream.uefi import kinds
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.guid import CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK
from attestream.uefi.replay import STARTUP_LOCALITY
from attestream.uefi.scalars import escaped_lines, plain, unescaped
from devtools.boot_log import BootLog, file_path, image_load, load_option, partition_table, signature_list, variable
from devtools.sample_boot import CERTIFICATE, DISK, FORBIDDEN, OWNER, sample_boot

TOOL = shutil.which("tpm2_eventlog")
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
LOADER = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin.read()), sys.stdout)"


def has_yaml() -> bool:
    return bool(SYSTEM_PYTHON) and subprocess.run([SYSTEM_PYTHON, "-c", "import yaml"], capture_output=True).returncode == 0


def contents(kind: int, data: bytes, *, pcr: int = 1):
    log = BootLog(("sha256",))
    log.add(pcr, kind, data)
    event = to_dictionary(bytes(log))["events"][1]
    assert event["EventSize"] == len(data)
    return event.get("Event")


def test_header_and_frame_of_an_event():
    log = BootLog(("sha1", "sha256"))
    log.add(7, kinds.SEPARATOR, bytes(4))
    dictionary = to_dictionary(bytes(log))
    assert list(dictionary) == ["version", "events", "pcrs"]
    assert dictionary["version"] == 2
    assert dictionary["events"] == [
        {
            "EventNum": 0,
            "PCRIndex": 0,
            "EventType": "EV_NO_ACTION",
            "Digest": "00" * 20,
            "EventSize": 37,
            "SpecID": [
                {
                    "Signature": "Spec ID Event03",
                    "platformClass": 0,
                    "specVersionMinor": 0,
                    "specVersionMajor": 2,
                    "specErrata": 0,
                    "uintnSize": 2,
                    "numberOfAlgorithms": 2,
                    "Algorithms": [
                        {"Algorithm[0]": None, "algorithmId": "sha1", "digestSize": 20},
                        {"Algorithm[1]": None, "algorithmId": "sha256", "digestSize": 32},
                    ],
                    "vendorInfoSize": 0,
                }
            ],
        },
        {
            "EventNum": 1,
            "PCRIndex": 7,
            "EventType": "EV_SEPARATOR",
            "DigestCount": 2,
            "Digests": [
                {"AlgorithmId": "sha1", "Digest": "9069ca78e7450a285173431b3e52c5c25299e473"},
                {
                    "AlgorithmId": "sha256",
                    "Digest": "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119",
                },
            ],
            "EventSize": 4,
            "Event": "00000000",
        },
    ]
    assert dictionary["pcrs"]["sha256"] == {7: int.from_bytes(log.pcrs["sha256"][7], "big")}


def test_variables():
    secure_boot = contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    assert secure_boot == {
        "VariableName": GLOBAL_VARIABLE,
        "UnicodeNameLength": 10,
        "VariableDataLength": 1,
        "UnicodeName": "SecureBoot",
        "VariableData": {"Enabled": "Yes"},
    }
    lists = signature_list(CERT_X509, OWNER, [CERTIFICATE])
    database = contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "db", lists))
    assert database["VariableData"] == [
        {
            "SignatureType": CERT_X509,
            "SignatureListSize": len(lists),
            "SignatureHeaderSize": 0,
            "SignatureSize": len(CERTIFICATE) + 16,
            "Keys": [{"SignatureOwner": OWNER, "SignatureData": CERTIFICATE.hex()}],
        }
    ]
    empty = contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "dbx", b""))
    assert empty["VariableData"] is None
    other = contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "DeployedMode", b"\1"))
    assert other["VariableData"] == "01"
    assert "VariableData" not in contents(kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "x", b""))


def test_boot_variables():
    order = contents(kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", pack("<HH", 1, 0xABCD)))
    assert order["VariableData"] == ["Boot0001", "Bootabcd"]
    path = file_path("\\x")
    option = contents(
        kinds.EFI_VARIABLE_BOOT2, variable(GLOBAL_VARIABLE, "Boot00ff", load_option("Linux", path, active=False))
    )
    assert option["VariableData"] == {
        "Enabled": "No",
        "FilePathListLength": len(path),
        "Description": "Linux",
        "DevicePath": path.hex(),
    }


def test_authorities():
    def authority(name: str, data: bytes):
        return contents(kinds.EFI_VARIABLE_AUTHORITY, variable(SHIM_LOCK, name, data))["VariableData"]

    accepted = [{"SignatureOwner": "00000000-0000-0000-0000-000000000000", "SignatureData": CERTIFICATE.hex()}]
    assert authority("db", bytes(16) + CERTIFICATE) == accepted
    assert authority("Shim", bytes(16) + CERTIFICATE) == accepted
    certificate = b"\x30\x82\x00\x04abcd"
    assert authority("vendor_db", bytes(16) + certificate) == [{**accepted[0], "SignatureData": certificate.hex()}]
    assert authority("vendor_db", b"\1\2") == "0102"
    assert authority("MokListTrusted", b"\0") == {"Enabled": "No"}
    assert authority("SbatLevel", b"sbat,1,2021030218\n") == {"String": "sbat,1,2021030218"}
    assert authority("MokList", b"\1\2") == "0102"


def test_images_firmware_and_strings():
    image = contents(kinds.EFI_BOOT_SERVICES_APPLICATION, image_load(file_path("\\EFI\\redhat\\shimx64.efi")), pcr=4)
    assert image["DevicePath"] == "File(\\EFI\\redhat\\shimx64.efi)"
    assert (image["ImageLocationInMemory"], image["ImageLengthInMemory"], image["ImageLinkTimeAddress"]) == (
        0x7E000000,
        0x10000,
        0,
    )
    unreadable = contents(kinds.EFI_BOOT_SERVICES_DRIVER, pack("<QQQQ", 1, 2, 3, 4) + b"\1\1\xff\xff")
    assert unreadable["DevicePath"] == "0101ffff"
    assert contents(kinds.EFI_PLATFORM_FIRMWARE_BLOB, pack("<QQ", 1, 2)) == {"BlobBase": 1, "BlobLength": 2}
    assert contents(kinds.POST_CODE, pack("<QQ", 1, 2)) == {"BlobBase": 1, "BlobLength": 2}
    assert contents(kinds.POST_CODE, b"ACPI DATA") == "ACPI DATA"
    blob = contents(kinds.EFI_PLATFORM_FIRMWARE_BLOB2, b"\4abc\0" + pack("<QQ", 1, 2))
    assert blob == {"BlobDescriptionSize": 4, "BlobDescription": "616263", "BlobBase": 1, "BlobLength": 2}
    assert contents(kinds.EFI_ACTION, b"Returning from EFI\0", pcr=4) == "Returning from EFI"
    assert contents(kinds.IPL, b"grub_cmd: a 'b'\nc\0", pcr=8) == {"String": "grub_cmd: a 'b'\"\n\"c"}
    assert contents(kinds.NO_ACTION, STARTUP_LOCALITY + b"\3", pcr=0) == {"StartupLocality": 3}
    assert contents(kinds.NO_ACTION, b"\1" * 2000, pcr=0) == "01" * 1024
    assert contents(kinds.EVENT_TAG, b"\1\2") == "0102"
    assert contents(kinds.SEPARATOR, b"") is None


def test_partition_tables():
    table = contents(kinds.EFI_GPT_EVENT, partition_table(DISK, ["EFI System", "größe"]), pcr=5)
    assert table["Header"] == {
        "Signature": "EFI PART",
        "Revision": 0x10000,
        "HeaderSize": 92,
        "HeaderCRC32": 0x1234,
        "MyLBA": 1,
        "AlternateLBA": 0xFFFF,
        "FirstUsableLBA": 34,
        "LastUsableLBA": 0xFFDE,
        "DiskGUID": DISK,
        "PartitionEntryLBA": 2,
        "NumberOfPartitionEntry": 128,
        "SizeOfPartitionEntry": 128,
        "PartitionEntryArrayCRC32": 0x5678,
    }
    assert table["NumberOfPartitions"] == 2
    assert [partition["PartitionName"] for partition in table["Partitions"]] == ["EFI System", "größe"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (kinds.EFI_VARIABLE_BOOT, b"x"),
        (kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0")[:-1]),
        (kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0\2")),
        (kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "Boot0000", b"\1\0\0\0\0\0a\0")),
        (kinds.EFI_VARIABLE_BOOT, bytes(16) + pack("<QQ", 1 << 63, 1 << 63)),
        (kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1\0")),
        (kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "db", b"\1")),
        (kinds.EFI_VARIABLE_AUTHORITY, variable(IMAGE_SECURITY_DATABASE, "db", b"\1")),
        (kinds.EFI_VARIABLE_AUTHORITY, variable(SHIM_LOCK, "MokListTrusted", b"\1\1")),
        (kinds.EFI_PLATFORM_FIRMWARE_BLOB, b"\1"),
        (kinds.S_CRTM_CONTENTS, b"\1"),
        (kinds.EFI_PLATFORM_FIRMWARE_BLOB2, b"\4abc"),
        (kinds.EFI_BOOT_SERVICES_APPLICATION, bytes(31)),
        (kinds.EFI_GPT_EVENT, bytes(99)),
        (kinds.EFI_GPT_EVENT, partition_table(DISK, ["a"])[:-1]),
        (kinds.EFI_GPT_EVENT, partition_table(DISK, ["a"]) + b"\0"),
    ],
)
def test_refuses_events_that_are_not_what_their_type_says(kind, data):
    with pytest.raises(MalformedError, match="event 1"):
        contents(kind, data)


def test_a_key_in_a_list_with_a_header_is_refused_ghsa_9r4w_jg96_92mv():
    data = signature_list(CERT_X509, OWNER, [CERTIFICATE], header=bytes(272))
    with pytest.raises(MalformedError, match="header"):
        contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "db", data))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("Yes", True),
        ("off", False),
        ("0", 0),
        ("0017", 15),
        ("0089", "0089"),
        ("12", 12),
        ("1e5", "1e5"),
    ],
)
def test_unquoted_text_has_the_type_that_yaml_gives_it(text, value):
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_data_of_digits_alone_is_a_number_as_in_existing_reference_states():
    digest = bytes(32)
    lists = signature_list(CERT_X509, OWNER, [digest])
    found = contents(kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "dbx", lists))
    assert found["VariableData"][0]["Keys"][0]["SignatureData"] == 0


@pytest.mark.parametrize("text", ["", "a", "kernel_cmdline: x\0", "tab\there", "l\0i\0", "it's", "back\\slash", 'say "x"'])
def test_strings_survive_the_escapes(text):
    assert unescaped(escaped_lines(text.encode())) == text.removesuffix("\0")


@pytest.mark.skipif(not TOOL or not has_yaml(), reason="needs tpm2_eventlog and a python3 with yaml")
@pytest.mark.parametrize("banks", [("sha1", "sha256"), ("sha256", "sha384", "sha512"), ("sha256", "sm3_256")])
def test_agrees_with_tpm2_eventlog(tmp_path: Path, banks):
    log = BootLog(banks)
    log.add(0, kinds.NO_ACTION, STARTUP_LOCALITY + b"\3")
    sample_boot(log)
    log.add(1, kinds.EFI_PLATFORM_FIRMWARE_BLOB2, b"\4abc\0" + pack("<QQ", 1, 2))
    log.add(0, kinds.POST_CODE, b"ACPI DATA")
    log.add(1, 0x77, b"of no type")
    data = bytes(log) + bytes(48)
    file = tmp_path / "log"
    file.write_bytes(data)
    printed = subprocess.run([TOOL, "--eventlog-version=2", file], capture_output=True, check=True).stdout
    loaded = subprocess.run([SYSTEM_PYTHON, "-c", LOADER], input=printed, capture_output=True, check=True).stdout
    expected = json.loads(loaded)
    ours = json.loads(json.dumps(to_dictionary(data)))
    assert len(expected["events"]) == len(ours["events"]) > 40
    for theirs, mine in zip(expected["events"], ours["events"], strict=True):
        _enrich(theirs)
        assert mine == theirs
    assert ours["pcrs"] == expected["pcrs"]
    assert sum(map(len, expected["pcrs"].values())) == len(banks) * 13


def _enrich(event) -> None:
    """What we add to the tool's form: text of an image's device path, and strings without escapes."""
    body = event.get("Event")
    if not isinstance(body, dict):
        return
    if "LengthOfDevicePath" in body:
        assert bytes.fromhex(body["DevicePath"]) == file_path("\\EFI\\debian\\shimx64.efi")
        body["DevicePath"] = "File(\\EFI\\debian\\shimx64.efi)"
    if "String" in body:
        body["String"] = unescaped(body["String"])
    data = body.get("VariableData")
    if isinstance(data, dict) and "String" in data:
        data["String"] = unescaped(data["String"])


def test_every_event_type_of_the_sample_is_named():
    events = to_dictionary(bytes(sample_boot(BootLog())))["events"]
    assert {event["EventType"] for event in events} <= set(kinds.NAMES.values())
    bodies = [event["Event"] for event in events[1:] if isinstance(event["Event"], dict)]
    forbidden = next(body["VariableData"] for body in bodies if body.get("UnicodeName") == "dbx")
    assert [key["SignatureData"] for key in forbidden[0]["Keys"]] == [digest.hex() for digest in FORBIDDEN]
