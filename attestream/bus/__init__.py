"""The bus: connections, durable publishing, consumers, key-value buckets and objects over NATS JetStream.

The only place that knows the wire protocol's habits. Subjects, streams and messages are declared in :mod:`schemas`.
"""
