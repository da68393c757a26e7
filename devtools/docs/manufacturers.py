"""The page about the CA certificates of TPM manufacturers, from the manifest of the store."""

from __future__ import annotations

from typing import Final

from attestream.manufacturers.shipped import Manifest, manifest
from devtools.docs.text import code, page, table

_INTRO: Final = """\
With `accept_ek = "certificate"` the registrar enrols a machine only if a path of certificates leads from its endorsement
key (EK) to a CA certificate that you trust. CA certificates of the usual TPM manufacturers come with Attestream, so that you
need not find them. None of them counts until you say so.

```sh
attestream certificates manufacturers                   # what there is, with fingerprints
attestream init --ek-manufacturers infineon,nuvoton     # and so for `attestream up`
```

In the [configuration](configuration.md) of an installation that is there already, followed by a restart of the registrar:

```toml
[registrar]
accept_ek = "certificate"
ek_manufacturers = ["infineon", "nuvoton"]     # or ["all"]
ek_store = "ek-store"                          # your own CA certificates, beside them
```

Name the manufacturers that you have rather than `all`. Each CA that you trust can vouch for any EK, whoever has made its
TPM: where its key is stolen, or where it certifies keys that are in no TPM, software passes for a TPM, and says of its
machine what it likes.

Certificates of Nuvoton's TPMs break DER, and are refused (`identity.certificate-malformed`) unless
`malformed_certificate = "warn"` takes them."""

_INTERMEDIATES: Final = """\
The store has roots, and the authorities right below one that manufacturers call root. Most EKs are certified by an authority
further below. Its certificate comes from the agent, which reads it from the TPM's memory if the manufacturer has put it
there (NV indexes from 0x01C00100), or from you: put it into `ek_store`, where it is trusted like a root. Attestream fetches
nothing. Where one is missing, the enrolment is refused with `identity.certificate-chain`, which names the issuer.

Certificates of virtual TPMs, such as those of swtpm and of clouds, lead to none of these roots: use `ek_store`."""

_DISTRUST: Final = """\
To take one certificate out, give its fingerprint. No path may then contain its key, whichever certificate of it an agent
brings, and whoever has signed that:

```toml
[registrar]
ek_distrust = ["8fac94b462b37acb84431bdc71395585caf518c17f656051ff9c4347a4726ed9"]
```

The fingerprint may also be of a certificate in `ek_store`. For an authority that is in neither, such as one below a root,
give the SHA-256 of its public key (that of its certificate counts too, but for no other certificate of the same key):

```sh
openssl x509 -in CA.pem -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum
```

Such an enrolment is refused with `identity.certificate-distrusted`. **What is enrolled already stays enrolled**: the
decision is made once. The event of each enrolment names the CA (finding `identity.ek-vouched`);
`attestream enrolments delete` ends one. Certificates are not looked up in revocation lists."""

_ORIGIN: Final = """\
All are from the package [{name}]({homepage}) {version} of Debian ({licence}); `NOTICE` and `MANIFEST.toml` beside them say
which is from which file. A file is read only if its SHA-256 is that of the manifest.
`python -m devtools.manufacturers` makes the store from the package. It leaves out, with the reason, what can not be read,
what is no CA, and what has a wrong signature of its own.

It also compares with the public collections below. *Sources* counts where the very same certificate was seen, besides the
package; collections of one source count once. *Authorities* counts the CA certificates in those collections that the key has
signed."""


def document() -> str:
    """Return the page."""
    known = manifest()
    return page(
        "CA certificates of TPM manufacturers",
        _INTRO,
        "## Intermediate certificates",
        _INTERMEDIATES,
        "## Distrusting one",
        _DISTRUST,
        "## What there is",
        _certificates(known),
        _notes(known),
        "## Where they are from",
        _ORIGIN.format(**{field: getattr(known.package, field) for field in ("name", "version", "licence", "homepage")}),
        table(
            ("Collection", "Source", "Compared at"),
            ([f"[{one.name}]({one.repository})", one.source, code(one.commit[:12])] for one in known.collection),
        ),
        table(("Left out", "Why"), ([one.path, one.reason] for one in known.left_out)),
    )


def _certificates(known: Manifest) -> str:
    rows = [
        [
            code(row.manufacturer),
            code(row.name),
            row.key,
            f"{row.not_before} to {row.not_after}",
            str(known.sources(row)),
            str(row.issued),
            code(row.sha256),
        ]
        for row in known.certificate
    ]
    return table(("Manufacturer", "Certificate", "Key", "Valid", "Sources", "Authorities", "SHA-256"), rows)


def _notes(known: Manifest) -> str:
    """Return what there is to know, each note once."""
    notes: dict[str, list[str]] = {}
    for row in known.certificate:
        for note in row.notes:
            notes.setdefault(note, []).append(code(row.name))
        if row.key_in:
            text = (
                f"Another certificate of this name and key is in {', '.join(row.key_in)}; what is below that is below this."
            )
            notes.setdefault(text, []).append(code(row.name))
    return table(("Note", "Certificates"), ([note, ", ".join(names)] for note, names in notes.items()))
