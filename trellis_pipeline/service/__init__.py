"""A 3dInference-compatible HTTP server over any Generator: the provider's wire API on your own machine.

`app.build_service` makes the application, `serve.serve` runs it; `testing.running_service` runs it in a
thread for tests. What is accepted is on the disk before the answer says so (`store`), and what is billed is
written in the same transaction as the result, so its billing log is the truth about who paid for what.
"""
