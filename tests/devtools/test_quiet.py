import logging

from devtools.quiet import quiet


def test_loggers_are_quiet_for_a_while_only(caplog):
    log = logging.getLogger("attestream.bus.anything")
    with quiet("attestream.bus"):
        log.warning("meant to happen")
    log.warning("not meant to happen")
    assert caplog.messages == ["not meant to happen"]
