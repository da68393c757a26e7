"""The notifier: signs revocations and delivers them to webhooks."""
