"""``scow-runtime``: the native runtime as a command with runc's grammar, for podman, containerd and scripts.

It uses what the engine uses: `scow_runtime_native.driver` makes plans and cgroups, `scow_runtime_native.child` makes
processes. Modules are imported when a command needs them, because a start of Python is most of what a command costs.
"""
