"""An installation's directory: its keys, identities, certificates and configuration, made once and rotated afterwards."""
