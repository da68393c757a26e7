"""Identities on the bus: NKeys, and the JWTs that say what the holder of one may do. Pure: bytes and text in and out."""
