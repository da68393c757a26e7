"""The incumbent's formats and words, for those who come from Keylime: conversion of what they have, and conformance.

Nothing else in the core knows them. Everything here is pure: bytes and texts in, findings and values out.
"""
