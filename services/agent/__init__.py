"""The agent: it runs on the machine that is attested, holds its TPM's keys, and answers challenges with evidence."""
