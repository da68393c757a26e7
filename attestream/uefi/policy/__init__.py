"""Boot policies: which event logs are good.

A policy turns a reference state into one :class:`~attestream.uefi.policy.logic.Test`, which is put together from the tests
of this package: :mod:`~attestream.uefi.policy.logic` (and, or, once), :mod:`~attestream.uefi.policy.structure` (fields and
lists), :mod:`~attestream.uefi.policy.values` (numbers and text), :mod:`~attestream.uefi.policy.delayed` (gather now, judge
at the end), :mod:`~attestream.uefi.policy.measured` (digests, separators, actions) and
:mod:`~attestream.uefi.policy.keys` (UEFI variables and signature lists). The test is applied to the dictionary form of a log
(:mod:`attestream.uefi.dictionary`).

Own policies are Python modules with ``BOOT_POLICIES``, a list of :class:`~attestream.uefi.policy.policies.BootPolicy`; the
page "Boot policies" of the documentation shows one.
"""
